"""The bfloat16 copy of the layers follows the float32 weights, and its gradients are added to theirs in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_spec import SETTINGS, make_encoder_folder, sentences
from torch import Tensor, nn

from sbert_ft.config.objectives import ObjectiveSettings
from sbert_ft.encoder.mixed_precision import HalfCopy, can_be_trained_in_half
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.training.gradients import BackwardSettings, backward
from sbert_ft.training.objectives import Objective

# These look up a bias for pairs of positions in their layers.
UNDER_AUTOCAST = ("mpnet", "deberta-v2")
COPIED = [kind for kind in SETTINGS if kind not in UNDER_AUTOCAST]
N_ROWS = 12
SCORES = torch.linspace(0, 1, N_ROWS)


@pytest.fixture(scope="module")
def of_kind(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], SiameseBert]:
    def load(kind: str) -> SiameseBert:
        folder = tmp_path_factory.mktemp("kinds") / kind
        return SiameseBert.from_pretrained(make_encoder_folder(folder, kind), "cpu", "float32")

    return load


@pytest.fixture
def model(tmp_path: Path, tiny_bert_folder: Callable[..., Path]) -> SiameseBert:
    return SiameseBert.from_pretrained(tiny_bert_folder(tmp_path / "model"), "cpu", "bfloat16")


def run(model: SiameseBert, dtype: torch.dtype | None, micro_rows: int = N_ROWS, seed: int = 0) -> None:
    """Add the gradient of a batch to the float32 weights."""
    texts = model.tokenizer.frame(model.tokenizer.tokenize(sentences(2 * N_ROWS, seed)), 48)
    settings = BackwardSettings(micro_rows=micro_rows, autocast_dtype=dtype)
    backward(model, Objective([ObjectiveSettings("cosine")]), texts, SCORES, N_ROWS, settings)


def gradients(model: SiameseBert) -> dict[str, Tensor]:
    """Return the gradients by name, and remove them from the parameters."""
    found = {name: p.grad.clone() for name, p in model.bert.encoder.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the norm of the difference of all gradients, relative to the norm of the expected ones."""
    assert found.keys() == expected.keys()
    difference = torch.cat([(found[name] - expected[name]).flatten() for name in expected])
    return float(difference.norm() / torch.cat([one.flatten() for one in expected.values()]).norm())


@pytest.mark.parametrize("kind", COPIED)
def test_gradients_are_float32s_but_for_the_rounding_of_autocast(
    kind: str, of_kind: Callable[[str], SiameseBert]
) -> None:
    model = of_kind(kind).eval()
    run(model, None)
    exact = gradients(model)
    run(model, torch.bfloat16)
    by_autocast = distance(gradients(model), exact)
    with model.bert.trained_in(torch.bfloat16):
        assert model.bert.trained_copy is not None
        assert model.bert.trained_copy.module.dtype == torch.bfloat16  # what transformers asks the encoder for
        run(model, torch.bfloat16)
    copied = gradients(model)
    assert all(one.dtype == torch.float32 for one in copied.values())
    # activations between the layers are rounded too, which autocast leaves in float32: 1.3 times its error for MiniLM
    assert 0 < distance(copied, exact) < 3 * by_autocast + 1e-3
    assert by_autocast < 0.1


@pytest.mark.parametrize("kind", UNDER_AUTOCAST)
def test_kinds_that_look_up_tables_in_their_layers_stay_under_autocast(
    kind: str, of_kind: Callable[[str], SiameseBert], caplog: pytest.LogCaptureFixture
) -> None:
    model = of_kind(kind).eval()
    assert not can_be_trained_in_half(model.bert.encoder)
    caplog.clear()  # of what was said of loading
    with caplog.at_level("INFO", "sbert_ft"), model.bert.trained_in(torch.bfloat16):
        assert model.bert.trained_copy is None
        assert caplog.messages == [f"{kind} is trained under autocast, not with a bfloat16 copy"]
        run(model, torch.bfloat16)
    assert gradients(model)


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_float32_and_float16_are_trained_without_a_copy(model: SiameseBert, dtype: torch.dtype | None) -> None:
    with model.bert.trained_in(dtype):
        assert model.bert.trained_copy is None


def test_the_copy_has_no_embeddings_and_layer_norms_of_its_own(model: SiameseBert) -> None:
    encoder = model.bert.encoder
    copied = HalfCopy(encoder, torch.bfloat16).module
    of_layers = {name: p for name, p in encoder.named_parameters() if not name.startswith("embeddings.")}
    assert {name: p.shape for name, p in copied.named_parameters()} == {name: p.shape for name, p in of_layers.items()}
    norms = [name for name, p in copied.named_parameters() if p.dtype == torch.float32]
    assert norms and all("LayerNorm" in name and copied.get_parameter(name) is of_layers[name] for name in norms)
    halves = [p for p in copied.parameters() if p.dtype != torch.float32]
    assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in halves) and len(halves) > len(norms)
    ids = torch.arange(5, 25).view(2, 10)
    with torch.no_grad():
        expected = encoder.embeddings(input_ids=ids)
        assert torch.equal(copied.embeddings(input_ids=ids), expected.bfloat16())


def test_gradients_of_parts_are_added_in_float32(model: SiameseBert) -> None:
    model.eval()
    with model.bert.trained_in(torch.bfloat16):
        run(model, torch.bfloat16, seed=1)
        first = gradients(model)
        run(model, torch.bfloat16, seed=2)
        second = gradients(model)
        run(model, torch.bfloat16, seed=1)
        run(model, torch.bfloat16, seed=2)
        both = gradients(model)
    assert any(not torch.equal(one, one.bfloat16().float()) for one in both.values())
    for name, one in both.items():
        # rows of the word embeddings are added to each other in another order
        torch.testing.assert_close(one, first[name] + second[name], rtol=1e-6, atol=1e-7)


def test_modes_and_dropout_are_the_copys_own(model: SiameseBert) -> None:
    encoder = model.bert.encoder
    texts = model.tokenizer.frame(model.tokenizer.tokenize(sentences(6)), 48)
    batch = model.bert.pack(texts, "rows")
    with model.bert.trained_in(torch.bfloat16), torch.no_grad():
        model.train()
        assert not torch.equal(model.bert(batch), model.bert(batch)), "nothing was dropped"
        model.encode(sentences(3))
        assert encoder.training and all(module.training for module in encoder.modules())
        assert not torch.equal(model.bert(batch), model.bert(batch)), "training went on without dropout"
        # with dropout in the embeddings alone they differ, too
        for module in encoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        dropped = HalfCopy(encoder, torch.bfloat16).module.train()
        assert torch.equal(dropped.embeddings(input_ids=batch.token_ids), dropped.embeddings(input_ids=batch.token_ids))
        model.eval()
        assert torch.equal(model.bert(batch), model.bert(batch))


def test_a_step_is_in_the_copy_after_refresh_and_evaluation_sees_it(model: SiameseBert) -> None:
    texts = sentences(6)
    with model.bert.trained_in(torch.bfloat16):
        copied = model.bert.trained_copy
        assert copied is not None
        before = model.encode(texts)
        optimizer = torch.optim.AdamW(model.bert.encoder.parameters(), lr=0.01, fused=True)
        run(model.train(), torch.bfloat16)
        assert all(p.grad is None for p in copied.module.parameters() if p.dtype == torch.bfloat16)
        optimizer.step()
        copied.refresh()
        during = model.encode(texts)
    after = model.encode(texts)
    assert np.abs(during - before).max() > 0.01
    # the copy that was trained, and one made anew from the float32 weights
    np.testing.assert_array_equal(during, after)


def test_what_is_frozen_gets_no_gradient(model: SiameseBert) -> None:
    encoder = model.bert.encoder
    encoder.embeddings.requires_grad_(False)
    encoder.encoder.layer[0].requires_grad_(False)
    with model.bert.trained_in(torch.bfloat16):
        run(model, torch.bfloat16)
    names = set(gradients(model))
    assert names == {name for name, p in encoder.named_parameters() if p.requires_grad} and names


def test_gradients_of_a_broken_backward_pass_are_dropped(model: SiameseBert) -> None:
    with model.bert.trained_in(torch.bfloat16):
        copied = model.bert.trained_copy
        assert copied is not None
        vectors = model(model.bert.pack(model.tokenizer.frame(model.tokenizer.tokenize(sentences(4)), 48)))
        vectors.square().sum().backward()  # as far as the copy, not led on
        assert any(p.grad is not None for p in copied.module.parameters() if p.dtype == torch.bfloat16)
        copied.drop_gradients()
        model.zero_grad()
        model.eval()
        run(model, torch.bfloat16)
        found = gradients(model)
        run(model, torch.bfloat16)
        again = gradients(model)
    assert distance(found, again) == 0


def test_activations_may_be_computed_twice(model: SiameseBert) -> None:
    encoder = model.bert.encoder
    found = []
    for twice in (False, True):
        if twice:
            # renamed on the way through transformers 5
            newest = getattr(encoder, "activation_checkpointing_enable", encoder.gradient_checkpointing_enable)
            newest({"use_reentrant": False})
        torch.manual_seed(3)
        with model.bert.trained_in(torch.bfloat16):
            run(model.train(), torch.bfloat16)
        found.append(gradients(model))
    assert distance(found[1], found[0]) == 0


def test_minilms_gradient_is_within_what_sampling_a_batch_does(minilm_path: Path, stsb_sentences: list[str]) -> None:
    model = SiameseBert.from_pretrained(minilm_path, "cpu", "float32").eval()
    texts = model.tokenizer.frame(model.tokenizer.tokenize(stsb_sentences[: 2 * N_ROWS]), 128)
    objective, found = Objective([ObjectiveSettings("cosine")]), []
    for dtype in (None, torch.bfloat16):
        with model.bert.trained_in(dtype):
            backward(model, objective, texts, SCORES, N_ROWS, BackwardSettings(N_ROWS, dtype))
        found.append(gradients(model))
    # bfloat16 rounds to one part in 256, some dozen times on the way; another batch turns the gradient by far more
    assert 0 < distance(found[1], found[0]) < 0.05
