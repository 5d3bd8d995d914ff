"""AdamW, its learning rate, frozen parameters, and how caches notice that weights have changed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_spec import make_encoder_folder, sentences
from torch import Tensor, nn
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from sbert_ft.config.settings import DataSettings, ModelSettings, RunSettings, TrainingSettings
from sbert_ft.encoder.mixed_precision import STEPS
from sbert_ft.encoder.process_safety import prepare_process
from sbert_ft.errors import InputError
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.training.optimizer import (
    Optimizer,
    optimizer_tensors,
    rate_factor,
    restore_optimizer,
    set_rate,
    warmup_steps,
)
from sbert_ft.training.trainable_model import check_encoder, frozen_parameters, set_up_for_training

TEXTS = ["the man plays a guitar", "two dogs run", "a cat", "green water in the park"]


@pytest.fixture
def folder(tmp_path: Path, tiny_bert_folder: Callable[..., Path]) -> Path:
    return tiny_bert_folder(tmp_path / "model", layers=3)


@pytest.fixture
def model(folder: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(folder, "cpu", "float32")


def run_settings(model: dict[str, Any] | None = None, **training: Any) -> RunSettings:
    return RunSettings(
        ModelSettings("m", **(model or {})), DataSettings("d"), "o", training=TrainingSettings(**training)
    )


def fill_gradients(encoder: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def weights(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}


# the rate


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(
    ("n_steps", "ratio", "n_warmup"), [(50, 0.1, None), (37, 0.25, None), (20, 0.5, 0), (20, 0, 20)]
)
def test_rates_are_those_of_transformers(schedule: Any, n_steps: int, ratio: float, n_warmup: int | None) -> None:
    settings = TrainingSettings(learning_rate=1.0, schedule=schedule, warmup_ratio=ratio, warmup_steps=n_warmup)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    n_rising = warmup_steps(n_steps, settings)
    if schedule == "constant":
        theirs = get_constant_schedule_with_warmup(optimizer, n_rising)
    else:
        make = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}[schedule]
        theirs = make(optimizer, n_rising, n_steps)
    for step in range(n_steps):
        assert rate_factor(step, n_steps, settings) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12), step
        optimizer.step()
        theirs.step()


def test_warm_up_is_rounded_up_and_a_number_takes_the_place_of_the_ratio() -> None:
    assert warmup_steps(101, TrainingSettings(warmup_ratio=0.1)) == 11
    assert warmup_steps(101, TrainingSettings(warmup_ratio=0.1, warmup_steps=7)) == 7
    assert warmup_steps(101, TrainingSettings(warmup_steps=0)) == 0
    assert warmup_steps(5, TrainingSettings(warmup_steps=7)) == 5


def test_the_only_step_of_a_run_changes_something() -> None:
    for settings in (TrainingSettings(), TrainingSettings(warmup_steps=3), TrainingSettings(warmup_ratio=1.0)):
        assert rate_factor(0, 1, settings) == 1.0


def test_the_rate_is_never_negative_even_after_the_end() -> None:
    for schedule in ("linear", "cosine", "constant"):
        settings = TrainingSettings(schedule=schedule)  # type: ignore[arg-type]
        assert all(0 <= rate_factor(step, 10, settings) <= 1 for step in range(15))


# the step


def test_weights_decay_and_biases_and_norms_do_not(model: SiameseBert) -> None:
    encoder = model.bert.encoder
    optimizer = Optimizer(encoder, TrainingSettings(weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.adamw.param_groups for p in group["params"]}
    assert len(decay) == len(list(encoder.parameters()))
    for name, parameter in encoder.named_parameters():
        spared = name.endswith("bias") or "LayerNorm" in name
        assert decay[id(parameter)] == (0.0 if spared else 0.3), name
    # what shrinks without any gradient is just that
    before = weights(encoder)
    for parameter in encoder.parameters():
        parameter.grad = torch.zeros_like(parameter)
    set_rate(optimizer, 0.5)
    optimizer.step()
    for name, parameter in encoder.named_parameters():
        factor = 1.0 if name.endswith("bias") or "LayerNorm" in name else 1 - 0.5 * 0.3
        torch.testing.assert_close(parameter.detach(), before[name] * factor, rtol=1e-6, atol=0)


def test_steps_equal_those_of_plain_adamw(model: SiameseBert) -> None:
    ours, theirs = model.bert.encoder, copy.deepcopy(model.bert.encoder)
    settings = TrainingSettings(learning_rate=1e-3, weight_decay=0.1)
    optimizer = Optimizer(ours, settings)
    named = list(theirs.named_parameters())
    spared = [name.endswith("bias") or "LayerNorm" in name for name, _ in named]
    groups = [
        {"params": [p for (_, p), is_spared in zip(named, spared, strict=True) if is_spared is kind], "weight_decay": d}
        for kind, d in ((False, 0.1), (True, 0.0))
    ]
    reference = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, fused=False, foreach=False)
    for step in range(5):
        for encoder in (ours, theirs):
            fill_gradients(encoder, step)
        set_rate(optimizer, 1e-3 * (step + 1))
        for group in reference.param_groups:
            group["lr"] = 1e-3 * (step + 1)
        optimizer.step()
        reference.step()
    for (name, found), (_, expected) in zip(ours.named_parameters(), named, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0, msg=name)


def test_a_restored_state_goes_on_bit_by_bit(model: SiameseBert) -> None:
    encoder, settings = model.bert.encoder, TrainingSettings(learning_rate=1e-2)
    optimizer = Optimizer(encoder, settings)
    for step in range(3):
        fill_gradients(encoder, step)
        optimizer.step()
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, encoder).items()}
    assert set(saved) == {
        f"{key}:{name}" for key in ("step", "exp_avg", "exp_avg_sq") for name, _ in encoder.named_parameters()
    }
    at_three = weights(encoder)
    fill_gradients(encoder, 3)
    optimizer.step()
    expected = weights(encoder)

    encoder.load_state_dict(at_three)
    other = Optimizer(encoder, settings)
    restore_optimizer(other, encoder, saved)
    fill_gradients(encoder, 3)
    other.step()
    assert all(torch.equal(expected[name], tensor) for name, tensor in weights(encoder).items())


def test_a_state_of_other_parameters_is_refused(model: SiameseBert) -> None:
    encoder = model.bert.encoder
    optimizer = Optimizer(encoder, TrainingSettings())
    saved = optimizer_tensors(optimizer, encoder)
    name = next(iter(saved))
    with pytest.raises(KeyError):
        restore_optimizer(optimizer, encoder, {key: value for key, value in saved.items() if key != name})


# what is frozen


def names_of(encoder: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    chosen = {id(parameter) for parameter in parameters}
    return {name for name, parameter in encoder.named_parameters() if id(parameter) in chosen}


def test_embeddings_and_lower_layers_are_frozen_by_their_names(model: SiameseBert) -> None:
    encoder = model.bert.encoder
    every = {name for name, _ in encoder.named_parameters()}
    embeddings = {name for name in every if name.startswith("embeddings.")}
    lower = {name for name in every if name.startswith(("encoder.layer.0.", "encoder.layer.1."))}
    assert embeddings and lower
    for settings, expected in (
        (ModelSettings("m"), set()),
        (ModelSettings("m", freeze_embeddings=True), embeddings),
        (ModelSettings("m", freeze_layers=2), lower),
        (ModelSettings("m", freeze_layers=2, freeze_embeddings=True), embeddings | lower),
    ):
        assert names_of(encoder, frozen_parameters(encoder, settings)) == expected


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("roberta", "encoder.layer.0."),
        ("distilbert", "transformer.layer.0."),
        ("electra", "encoder.layer.0."),
        ("mpnet", "encoder.layer.0."),
        ("modernbert", "layers.0."),
        ("deberta-v2", "encoder.layer.0."),
    ],
)
def test_the_lowest_layer_of_other_kinds_is_found(tmp_path: Path, kind: str, layer: str) -> None:
    encoder = ConnectionBert.from_pretrained(make_encoder_folder(tmp_path / kind, kind), "cpu", "float32").encoder
    every = {name for name, _ in encoder.named_parameters()}
    frozen = names_of(encoder, frozen_parameters(encoder, ModelSettings("m", freeze_layers=1)))
    assert frozen == {name for name in every if name.startswith(layer)} != set()
    frozen = names_of(encoder, frozen_parameters(encoder, ModelSettings("m", freeze_embeddings=True)))
    assert {name for name in every if name.startswith("embeddings.")} <= frozen
    assert not [name for name in frozen if ".layer." in name or "layers." in name]


def test_layers_that_share_their_weights_are_not_frozen_singly(tmp_path: Path) -> None:
    encoder = ConnectionBert.from_pretrained(make_encoder_folder(tmp_path / "albert", "albert"), "cpu").encoder
    with pytest.raises(InputError, match=r"freeze_layers is 1, but the encoder has 0 layers with weights of their own"):
        frozen_parameters(encoder, ModelSettings("m", freeze_layers=1))
    frozen = names_of(encoder, frozen_parameters(encoder, ModelSettings("m", freeze_embeddings=True)))
    assert {name.split(".")[0] for name in frozen} <= {"embeddings", "encoder"}
    assert not [name for name in frozen if "albert_layers" in name]


def test_too_many_layers_and_nothing_left_to_train_are_refused(model: SiameseBert) -> None:
    encoder = model.bert.encoder
    with pytest.raises(InputError, match=r"freeze_layers is 4, but the encoder has 3 layers .* from 0 to 3"):
        check_encoder(encoder, run_settings({"freeze_layers": 4}))
    with pytest.raises(InputError, match="every weight is frozen"):
        check_encoder(encoder, run_settings({"freeze_layers": 3, "freeze_embeddings": True}))
    encoder.requires_grad_(False)
    with pytest.raises(InputError, match="every weight is frozen"):
        check_encoder(encoder, run_settings())


def test_checkpointing_that_an_encoder_does_not_know_is_refused(tmp_path: Path) -> None:
    for kind in ("albert", "mpnet"):
        encoder = ConnectionBert.from_pretrained(make_encoder_folder(tmp_path / kind, kind), "cpu").encoder
        check_encoder(encoder, run_settings())
        with pytest.raises(InputError, match=rf"gradient_checkpointing: .* {kind} encoders"):
            check_encoder(encoder, run_settings(gradient_checkpointing=True))


def step_once(model: SiameseBert, training: TrainingSettings, texts: list[str] = TEXTS) -> None:
    optimizer = Optimizer(model.bert.encoder, training)
    tokens = model.tokenizer.frame(model.tokenizer.tokenize(texts), model.max_seq_length)
    optimizer.prepare(np.append(tokens.token_ids, model.tokenizer.padding_id))
    model(model.bert.pack(tokens, "rows")).pow(2).sum().backward()
    optimizer.step()
    optimizer.settle()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("frozen", [{"freeze_embeddings": True}, {"freeze_layers": 2, "freeze_embeddings": True}])
def test_frozen_weights_stay_and_all_others_move(
    model: SiameseBert, frozen: dict[str, Any], checkpointing: bool
) -> None:
    encoder = model.bert.encoder
    settings = run_settings(frozen, learning_rate=0.1, gradient_checkpointing=checkpointing)
    kept = names_of(encoder, frozen_parameters(encoder, settings.model))
    before = weights(encoder)
    with set_up_for_training(encoder, settings):
        model.train()
        assert {name for name, p in encoder.named_parameters() if not p.requires_grad} == kept
        step_once(model, settings.training)
        assert {name for name, p in encoder.named_parameters() if p.grad is None} == kept
    for name, parameter in encoder.named_parameters():
        assert torch.equal(parameter, before[name]) is (name in kept), name


def test_an_encoder_is_afterwards_what_it_was_but_for_its_weights(model: SiameseBert) -> None:
    encoder = model.bert.encoder
    own = encoder.get_parameter("embeddings.word_embeddings.weight")
    own.requires_grad_(False)  # by its owner, not by a setting
    settings = run_settings({"dropout": 0.4, "freeze_layers": 1}, gradient_checkpointing=True)
    rates = [layer.p for layer in encoder.modules() if isinstance(layer, nn.Dropout)]
    with pytest.raises(RuntimeError, match="on the way"), set_up_for_training(encoder, settings):
        model.train()
        assert {layer.p for layer in encoder.modules() if isinstance(layer, nn.Dropout)} == {0.4}
        assert not own.requires_grad
        step_once(model, settings.training)
        raise RuntimeError("on the way")
    assert [layer.p for layer in encoder.modules() if isinstance(layer, nn.Dropout)] == rates
    assert {name for name, p in encoder.named_parameters() if not p.requires_grad} == {
        "embeddings.word_embeddings.weight"
    }
    assert not any(module.training for module in encoder.modules())
    assert not any(getattr(module, "gradient_checkpointing", False) for module in encoder.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in encoder.modules())
    pickle.dumps(encoder.state_dict())


def test_checkpointing_that_its_owner_switched_on_stays_on(model: SiameseBert) -> None:
    encoder = model.bert.encoder
    getattr(encoder, "activation_checkpointing_enable", encoder.gradient_checkpointing_enable)()
    with set_up_for_training(encoder, run_settings(gradient_checkpointing=True)):
        pass
    assert any(getattr(module, "gradient_checkpointing", False) for module in encoder.modules())


# what notices that weights have changed


@pytest.fixture
def half(folder: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(folder, "cpu", "bfloat16")


def reloaded(model: SiameseBert, folder: Path) -> np.ndarray:
    """Return the vectors of a new model that is loaded with these weights."""
    fresh = SiameseBert.from_pretrained(folder, "cpu", "bfloat16")
    fresh.bert.encoder.load_state_dict(model.bert.encoder.state_dict())
    return fresh.encode(TEXTS)


def test_the_half_precision_copy_follows_a_fused_optimizer(half: SiameseBert, folder: Path) -> None:
    encoder = half.bert.encoder
    before = half.encode(TEXTS)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.05, fused=True)
    for _ in range(2):
        fill_gradients(encoder)
        optimizer.step()
        after = half.encode(TEXTS)
        assert np.abs(after - before).max() > 0.01
        np.testing.assert_array_equal(after, reloaded(half, folder))
        before = after


def test_torchs_own_counters_do_not_see_a_fused_step() -> None:
    # Why steps are counted at all. Once this fails, torch counts them, and `model.optimizer_steps` can go.
    parameter = nn.Parameter(torch.ones(100))
    parameter.grad = torch.ones(100)
    version = parameter._version
    torch.optim.AdamW([parameter], lr=0.1, fused=True).step()
    assert not torch.equal(parameter, torch.ones(100))
    assert parameter._version == version


def test_the_copy_follows_training_by_sentence_transformers(half: SiameseBert, folder: Path) -> None:
    before = half.encode(TEXTS)
    st = half.as_sentence_transformer()
    optimizer = torch.optim.AdamW(st.parameters(), lr=0.05, fused=True)
    st.train()
    st(st.preprocess(TEXTS))["sentence_embedding"].pow(2).sum().backward()
    optimizer.step()
    st.eval()
    after = half.encode(TEXTS)
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_array_equal(after, reloaded(half, folder))
    np.testing.assert_allclose(after, st.encode(TEXTS), atol=0.1)


@pytest.mark.parametrize("way", ["sgd", "foreach", "written", "loaded", "swapped"])
def test_the_copy_follows_every_other_write(half: SiameseBert, folder: Path, way: str) -> None:
    encoder = half.bert.encoder
    before = half.encode(TEXTS)
    if way in ("sgd", "foreach"):
        fill_gradients(encoder)
        torch.optim.SGD(encoder.parameters(), lr=0.05, foreach=way == "foreach").step()
    elif way == "written":
        with torch.no_grad():
            encoder.get_parameter("embeddings.word_embeddings.weight").mul_(1.5)
    elif way == "loaded":
        encoder.load_state_dict({name: tensor * 1.2 for name, tensor in encoder.state_dict().items()})
    else:
        table = encoder.get_parameter("embeddings.word_embeddings.weight")
        encoder.set_input_embeddings(nn.Embedding.from_pretrained(table.detach() * 2, padding_idx=0))
    after = half.encode(TEXTS)
    assert np.abs(after - before).max() > 0.01
    np.testing.assert_array_equal(after, reloaded(half, folder))


def test_the_copy_is_kept_while_nothing_changes(half: SiameseBert) -> None:
    half.encode(TEXTS)
    copies = [half.bert._inference_encoder()]
    half.encode(sentences(5))
    copies.append(half.bert._inference_encoder())
    assert copies[0] is copies[1]


def test_steps_are_counted_once_each_however_often_counting_begins(half: SiameseBert) -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    prepare_process()
    n_before = STEPS.n_steps
    optimizer.step()
    optimizer.step()
    assert STEPS.n_steps == n_before + 2
