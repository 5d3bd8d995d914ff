"""The plan of a run: steps, micro-batches, and estimated memory compared with real forwards and steps."""

from __future__ import annotations

import copy
import csv
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_spec import sentences
from torch import Tensor

from sbert_ft.config.objectives import ObjectiveSettings
from sbert_ft.config.settings import (
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    Reading,
    RunSettings,
    TrainingSettings,
)
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.errors import InputError
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.tokenization.text_tokens import TextTokens
from sbert_ft.training import plan as plan_module
from sbert_ft.training.batch_sampler import epoch_batches
from sbert_ft.training.plan import (
    activation_bytes,
    foresee,
    free_memory,
    plan_run,
    steps_by_epoch,
    training_dtype,
    training_layout,
)
from sbert_ft.training.prepare import PreparedRun, RunData, prepare
from sbert_ft.training.trainable_model import set_up_for_training

CPU = torch.device("cpu")
DTYPES = [pytest.param(None, id="float32"), pytest.param(torch.bfloat16, id="bfloat16")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Callable[..., Path]) -> SiameseBert:
    return SiameseBert.from_pretrained(tiny_bert_folder(tmp_path_factory.mktemp("tiny") / "model"), "cpu", "float32")


@pytest.fixture(scope="module")
def minilm(minilm_path: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(minilm_path, "cpu", "float32", max_seq_length=64)


def run_settings(objective: str = "cosine", model: dict[str, Any] | None = None, **training: Any) -> RunSettings:
    return RunSettings(
        ModelSettings("m", **(model or {})),
        DataSettings("d"),
        "o",
        objective=(ObjectiveSettings(objective),),
        training=TrainingSettings(**training),
        evaluation=EvaluationSettings(bootstrap_samples=10),
    )


def prepared(model: SiameseBert, pairs: list[tuple[Any, ...]], settings: RunSettings) -> PreparedRun:
    return prepare(model, RunData(ConnectionDataset.from_pairs(pairs)), settings)


def scored(n: int) -> list[tuple[Any, ...]]:
    texts = sentences(2 * n)
    return [(f"{texts[2 * i]} {i}", texts[2 * i + 1], (i % 5) / 4) for i in range(n)]


# steps


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"epochs": 3}, (7, 7, 7)),
        ({"epochs": 2, "batch_size": 100}, (1, 1)),
        ({"epochs": 2, "accumulation_steps": 3}, (3, 3)),
        ({"epochs": 2, "accumulation_steps": 50}, (1, 1)),
        ({"epochs": 3, "max_steps": 7}, (7,)),
        ({"epochs": 3, "max_steps": 10}, (7, 3)),
        ({"epochs": 2, "max_steps": 1000}, (7, 7)),
        ({"epochs": 1, "max_steps": 1}, (1,)),
        ({"epochs": 3, "max_steps": 4, "accumulation_steps": 3}, (3, 1)),
    ],
    ids=str,
)
def test_steps_follow_from_rows_batches_and_limits(settings: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert steps_by_epoch(100, TrainingSettings(**{"batch_size": 16, **settings})) == expected


def test_a_last_batch_of_one_row_makes_no_step_of_its_own() -> None:
    # 33 rows in batches of 16: the last single row is given a second one
    assert steps_by_epoch(33, TrainingSettings(batch_size=16)) == (len(epoch_batches(33, 16, 42, 0)),)


def test_steps_are_those_of_the_batches_where_no_text_may_come_twice() -> None:
    rows = np.stack([np.arange(40) % 8, np.arange(40) + 8], axis=1)
    settings = TrainingSettings(batch_size=16, epochs=3, seed=3)
    expected = tuple(len(epoch_batches(40, 16, 3, epoch, text_rows=rows)) for epoch in range(3))
    assert steps_by_epoch(40, settings, rows) == expected
    assert sum(expected) > sum(steps_by_epoch(40, settings))
    capped = steps_by_epoch(40, replace(settings, max_steps=expected[0] + 1), rows)
    assert capped == (expected[0], 1)


# device and precision


@pytest.mark.parametrize(
    ("precision", "expected"), [("float32", None), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_the_precision_asked_for_is_taken(precision: Any, expected: torch.dtype | None) -> None:
    assert training_dtype(TrainingSettings(precision=precision), CPU) == expected


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match="precision"):
        training_dtype(TrainingSettings(precision="int8"), CPU)  # type: ignore[arg-type]


def test_the_layout_is_rows_where_the_encoder_runs_them(tiny: SiameseBert) -> None:
    assert training_layout(tiny.bert) == "rows"


# micro-batches


def with_free(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    monkeypatch.setattr(plan_module, "free_memory", lambda device: n_bytes)


def test_little_memory_makes_small_forwards(tiny: SiameseBert, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.full(1000, 40)
    settings = TrainingSettings(batch_size=64)
    per_row = activation_bytes(tiny.bert, 40, 20, 4, False)
    found = []
    for free in (2**40, 2**26, 2**23, 2**20, 0):
        with_free(monkeypatch, free)
        micro_rows, fixed, batch = foresee(tiny.bert, lengths, 20, settings, None)
        assert batch == pytest.approx(micro_rows * per_row, rel=1e-3)
        assert micro_rows == 1 or fixed + batch <= free
        found.append(micro_rows)
    assert found == sorted(found, reverse=True)
    assert found[0] == 64 and found[-1] == 1 and 1 < found[2] < 64


def test_the_copy_of_the_words_is_foreseen_where_a_device_needs_it(
    tiny: SiameseBert, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_free(monkeypatch, 2**40)
    elsewhere = copy.deepcopy(tiny.bert).to("meta")
    assert elsewhere.device.type == "meta"
    n_words = tiny.bert.encoder.get_input_embeddings().weight.numel()
    for bert, more in ((tiny.bert, 0), (elsewhere, 4 * n_words)):
        plain, adversarial = (
            foresee(bert, np.full(100, 40), 20, TrainingSettings(adversarial_epsilon=epsilon), None)[1]
            for epsilon in (None, 1.0)
        )
        assert adversarial - plain == more


def test_a_micro_batch_that_is_set_is_taken(tiny: SiameseBert, monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 2**40)
    lengths = np.full(100, 40)
    for wanted, expected in ((1, 1), (5, 5), (64, 16)):
        settings = TrainingSettings(batch_size=16, micro_batch_size=wanted)
        assert foresee(tiny.bert, lengths, 20, settings, None)[0] == expected


def test_the_batch_foreseen_is_the_one_of_the_longest_rows(tiny: SiameseBert, monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 2**40)
    lengths = np.array([10] * 96 + [100] * 4)
    _, _, batch = foresee(tiny.bert, lengths, 50, TrainingSettings(batch_size=8), None)
    assert batch == pytest.approx(activation_bytes(tiny.bert, 4 * 100 + 4 * 10, 50, 4, False), rel=1e-3)


def test_a_text_that_is_cut_is_foreseen_as_cut(tiny: SiameseBert, monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 2**26)
    settings = run_settings(batch_size=16, precision="float32")
    plain = plan_run(prepared(tiny, scored(50), settings))
    plan = plan_run(prepared(tiny, [*scored(50), ("dog " * 20_000, "cat", 1.0)], settings))
    assert int(plan.tokens.lengths.max()) > 20_000 and plan.tokens.n_cut > 0
    assert plan.micro_rows == plain.micro_rows == 16
    assert plan.batch_bytes == pytest.approx(plain.batch_bytes, rel=0.2)


def test_free_memory_heeds_a_containers_limit(tmp_path: Path) -> None:
    there = free_memory(CPU, tmp_path)
    assert 2**20 < there < 2**45
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5000\n")
    assert free_memory(CPU, tmp_path) == pytest.approx(there, rel=0.2)
    (tmp_path / "memory.max").write_text("9000\n")
    assert free_memory(CPU, tmp_path) == 4000
    (tmp_path / "memory.stat").write_text("anon 3500\ninactive_file 1500\nactive_file 7\n")
    assert free_memory(CPU, tmp_path) == 5500
    (tmp_path / "memory.max").write_text("1000\n")
    assert free_memory(CPU, tmp_path) == 0


# memory, estimated and measured


def stsb_tokens(model: SiameseBert, shared_data: Path, n_pairs: int) -> TextTokens:
    with (shared_data / "stsb" / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(n_pairs), strict=False)]
    texts = [row[side] for side in ("sentence1", "sentence2") for row in rows]
    return model.tokenizer.frame(model.tokenizer.tokenize(texts), model.max_seq_length)


def forward(model: SiameseBert | ClassifierModel, tokens: TextTokens, dtype: torch.dtype | None) -> Tensor:
    batch = model.bert.pack(tokens, training_layout(model.bert))
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        vectors: Tensor = model(batch)
    return vectors.pow(2).sum()


def content_of(tensor: Tensor) -> float:
    """Return a checksum of a tensor's storage, the same for all views of it."""
    n = tensor.untyped_storage().nbytes() // tensor.element_size()
    return float(tensor.detach().as_strided((n,), (1,), 0).double().sum())


def kept_bytes(model: SiameseBert | ClassifierModel, tokens: TextTokens, dtype: torch.dtype | None) -> int:
    """Return the bytes that a forward keeps for its backward: every storage once, without weights and their casts."""
    parameters = list(model.parameters())
    weights = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    casts = {content_of(parameter.detach().bfloat16()) for parameter in parameters}
    kept: dict[int, int] = {}
    alive = []  # a storage that is freed may be followed by another one at its place

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        is_cast = tensor.dtype == torch.bfloat16 and content_of(tensor) in casts
        if storage.data_ptr() not in weights and not is_cast:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward(model, tokens, dtype)
    return sum(kept.values())


def foreseen_bytes(model: SiameseBert, tokens: TextTokens, dtype: torch.dtype | None, checkpointing: bool) -> int:
    lengths = tokens.lengths
    n_bytes = 4 if dtype is None else 2
    return activation_bytes(model.bert, int(lengths.sum()), int(lengths.max()), n_bytes, checkpointing)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_pairs", [16, 64])
@pytest.mark.parametrize("name", ["minilm", "tiny"])
def test_memory_of_a_forward_is_foreseen_within_a_factor_of_two(
    request: pytest.FixtureRequest, shared_data: Path, name: str, n_pairs: int, dtype: torch.dtype | None
) -> None:
    model: SiameseBert = request.getfixturevalue(name)
    encoder, tokens = model.bert.encoder, stsb_tokens(model, shared_data, n_pairs)
    n_layers = int(encoder.config.num_hidden_layers)
    with set_up_for_training(encoder, run_settings()):
        model.train()
        kept = kept_bytes(model, tokens, dtype)
    with set_up_for_training(encoder, run_settings(gradient_checkpointing=True)):
        model.train()
        # the layers' inputs, and in the backward pass one layer at a time
        checkpointed = kept_bytes(model, tokens, dtype) + kept // n_layers
    for checkpointing, measured in ((False, kept), (True, checkpointed)):
        ratio = foreseen_bytes(model, tokens, dtype, checkpointing) / measured
        print(f"{name}, {n_pairs} pairs, {dtype}, checkpointing {checkpointing}: {measured:,} bytes, ratio {ratio:.2f}")
        assert 0.5 < ratio < 2.0


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_peak_memory_of_a_step_is_foreseen_within_a_factor_of_two(
    tiny: SiameseBert, shared_data: Path, dtype: torch.dtype | None, checkpointing: bool
) -> None:
    # the allocator's own record of a forward and its backward; this encoder's weights are next to nothing beside it
    from torch.profiler import ProfilerActivity, profile

    tokens = stsb_tokens(tiny, shared_data, 64)
    with set_up_for_training(tiny.bert.encoder, run_settings(gradient_checkpointing=checkpointing)):
        tiny.train()
        forward(tiny, tokens, dtype).backward()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            forward(tiny, tokens, dtype).backward()
        tiny.zero_grad()
    assert seen.profiler is not None and seen.profiler.kineto_results is not None
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    ratio = foreseen_bytes(tiny, tokens, dtype, checkpointing) / int(np.cumsum(changes).max())
    print(f"{dtype}, checkpointing {checkpointing}: ratio {ratio:.2f}")
    assert 0.5 < ratio < 2.0


# the lines of the plan


def test_a_plan_says_what_will_be_done(tiny: SiameseBert, monkeypatch: pytest.MonkeyPatch) -> None:
    with_free(monkeypatch, 2**40)
    settings = run_settings(batch_size=8, accumulation_steps=2, epochs=3, precision="float32", warmup_ratio=0.25)
    run = prepared(tiny, [*scored(99), ("dog " * 100, "cat", 1.0)], settings)
    plan = plan_run(run)
    assert (len(plan.tokens), plan.row, plan.steps_by_epoch, plan.n_steps) == (100, "pair", (7,) * 3, 21)
    assert plan.precision == "float32" and plan.micro_rows == 8
    where, data, lengths, steps, memory = plan.describe()
    assert where.startswith("cpu (") and where.endswith("float32")
    assert data == "100 pairs, objective cosine"
    percentiles = plan.tokens.percentiles()
    assert f"50 % up to {percentiles[50]}, 90 % up to {percentiles[90]}, 99 % up to" in lengths
    assert f"the longest {percentiles[100]}; {plan.tokens.n_cut} text" in lengths and lengths.endswith("cut at 64")
    assert steps == "21 steps (3 epochs), batch 8 x 2 accumulated, rate 2e-05, linear after 6 steps of warm-up"
    assert re.fullmatch(r"memory foreseen: \d+ MiB, of which \d+ MiB for a batch", memory)


def test_a_plan_counts_in_the_singular_and_names_what_is_out_of_the_ordinary(
    tiny: SiameseBert, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_free(monkeypatch, 2**40)
    settings = run_settings(
        "triplet",
        {"freeze_embeddings": True, "freeze_layers": 1},
        warmup_steps=0,
        micro_batch_size=2,
        schedule="cosine",
    )
    run = prepared(
        tiny, [("a man", "the man", "two dogs"), ("a cat", "the cat", "a dog"), ("one", "two", "x")], settings
    )
    plan = plan_run(run)
    frozen = sum(
        p.numel() for n, p in tiny.bert.encoder.named_parameters() if n.startswith(("emb", "encoder.layer.0."))
    )
    lines = plan.describe()
    assert lines[0].endswith(f", {frozen:,} weights frozen")
    assert lines[1] == "3 triplets, objective triplet (margin 5)"
    assert lines[2].endswith("none is cut")
    assert lines[3] == "1 step (1 epoch), batch 16 in forwards of 2, rate 2e-05, cosine without warm-up"


def test_sizes_are_said_in_the_unit_that_fits(tiny: SiameseBert) -> None:
    plan = plan_run(prepared(tiny, scored(20), run_settings()))
    for fixed, batch, expected in (
        (2**20, 2**21, "memory foreseen: 3 MiB, of which 2 MiB for a batch"),
        (2**30, 2**29, "memory foreseen: 1.5 GiB, of which 512 MiB for a batch"),
        (20 * 2**30, 2**31, "memory foreseen: 22.0 GiB, of which 2.0 GiB for a batch"),
    ):
        assert replace(plan, fixed_bytes=fixed, batch_bytes=batch).describe()[-1] == expected


def test_batches_made_smaller_by_one_frequent_text_are_warned_of(
    tiny: SiameseBert, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [("the same text" if i % 2 else f"question {i}", f"{text} {i}") for i, text in enumerate(sentences(20))]
    run = prepared(tiny, pairs, run_settings("in_batch_negatives", batch_size=8))
    with caplog.at_level(logging.WARNING, logger="sbert_ft"):
        plan = plan_run(run)
    assert "batches have 2 rows instead of 8" in caplog.text
    assert plan.n_steps == len(epoch_batches(20, 8, 42, 0, text_rows=run.data.train.text_rows))


# batches that teach nothing

SAME = [("the same text", f"{text} {i}") for i, text in enumerate(sentences(6))]
TWO_LABELS = [(f"{text} {i}", f"{i} more", 1 if i == 0 else 0) for i, text in enumerate(sentences(9))]


@pytest.mark.parametrize(
    ("objective", "pairs", "batch_size", "message"),
    [
        (
            "in_batch_negatives",
            [row[:2] for row in scored(6)],
            1,
            r"6 of 6 batches .*: 6 have one row; raise training.b",
        ),
        ("in_batch_negatives", SAME, 4, r"6 of 6 batches .* 6 have one row; any two rows share a text"),
        ("in_batch_negatives", [row[::-1] for row in SAME], 4, r"6 of 6 batches .* any two rows share a text"),
        ("in_batch_negatives", [("one", "row")], 4, r"1 of 1 batches .*: 1 have one row; give more rows"),
        ("cosent", scored(6), 1, r"6 of 6 batches .*: 6 have one row; raise training.batch_size"),
        ("online_contrastive", TWO_LABELS, 1, r"9 of 9 batches .*; raise training.batch_size"),
    ],
)
def test_data_that_teaches_nothing_is_refused(
    tiny: SiameseBert, objective: str, pairs: list[Any], batch_size: int, message: str
) -> None:
    with pytest.raises(InputError, match=f"^nothing can be learned: {message}"):
        plan_run(prepared(tiny, pairs, run_settings(objective, batch_size=batch_size)))


def test_batches_that_teach_nothing_are_counted_and_said(tiny: SiameseBert, caplog: pytest.LogCaptureFixture) -> None:
    run = prepared(tiny, TWO_LABELS, run_settings("angle", batch_size=3))
    with caplog.at_level(logging.WARNING, logger="sbert_ft"):
        plan = plan_run(run)
    said = (
        "2 of 3 batches of an epoch teach nothing by objective angle (scale 20), which compares the rows of a batch: "
    )
    assert plan.describe()[-1] == plan.idle == said + "in 2 all labels are equal"
    assert caplog.messages[-1] == plan.idle


@pytest.mark.parametrize("objective", ["cosine", "in_batch_negatives"])
def test_batches_that_all_teach_are_not_spoken_of(tiny: SiameseBert, objective: str) -> None:
    pairs = scored(6) if objective == "cosine" else [row[:2] for row in scored(7)]
    plan = plan_run(prepared(tiny, pairs, run_settings(objective, batch_size=1 if objective == "cosine" else 3)))
    assert plan.idle == "" and plan.describe()[-1].startswith("memory foreseen")


# classifiers: joined pairs and single texts

CLASSES = Reading(label_kind="classes")


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Callable[..., Path]) -> ConnectionBert:
    folder = tiny_bert_folder(tmp_path_factory.mktemp("encoder") / "model")
    return ConnectionBert.from_pretrained(folder, "cpu", "float32")


def classifier_run(
    encoder: ConnectionBert, kind: Any, rows: list[Any], max_seq_length: int = 64, **training: Any
) -> PreparedRun:
    """Return a run on rows with a known number of words, one token each."""
    labels = ["yes" if i % 2 else "no" for i in range(len(rows))]
    build = ConnectionDataset.from_texts if kind == "single" else ConnectionDataset.from_pairs
    model = ClassifierModel(encoder, kind, max_seq_length=max_seq_length)
    settings = run_settings("softmax", {"kind": kind}, precision="float32", **training)
    return prepare(model, RunData(build(rows, CLASSES, labels=labels)), settings)


def dogs(n: int, i: int) -> str:
    return " ".join([*["dog"] * (n - 1), str(i % 10)])


def test_a_joined_pair_is_foreseen_as_the_one_sequence_that_it_becomes(
    tiny_encoder: ConnectionBert, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_free(monkeypatch, 2**40)
    pairs = [(dogs(20, i), dogs(10, i)) for i in range(40)]
    joined = plan_run(classifier_run(tiny_encoder, "joined", pairs, batch_size=8))
    assert joined.tokens.row_lengths.tolist() == [20 + 10 + 3] * 40 and joined.tokens.percentiles()[100] == 33
    expected = activation_bytes(tiny_encoder, 8 * 33, 33, 4, False)
    assert joined.micro_rows == 8 and joined.batch_bytes == pytest.approx(expected, rel=1e-3)
    towers = plan_run(classifier_run(tiny_encoder, "towers", pairs, batch_size=8))
    assert towers.tokens.row_lengths.tolist() == [20 + 10 + 4] * 40 and towers.tokens.percentiles()[100] == 22
    assert towers.batch_bytes == pytest.approx(activation_bytes(tiny_encoder, 8 * 34, 22, 4, False), rel=1e-3)


def test_memory_of_joined_rows_is_bounded_by_the_length_at_which_they_are_cut(
    tiny_encoder: ConnectionBert, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_free(monkeypatch, 2**40)
    pairs = [(dogs(20, i), dogs(10, i)) for i in range(39)]
    plan = plan_run(
        classifier_run(tiny_encoder, "joined", [*pairs, (dogs(3000, 1), dogs(9, 2))], max_seq_length=24, batch_size=8),
    )
    assert plan.tokens.percentiles()[100] == 3000 + 9 + 3
    assert plan.tokens.n_cut == 40 and plan.tokens.max_seq_length == 24
    assert plan.batch_bytes == pytest.approx(activation_bytes(tiny_encoder, 8 * 24, 24, 4, False), rel=1e-3)
    # neither text alone is too long for 32, both together are
    plan = plan_run(classifier_run(tiny_encoder, "joined", pairs, max_seq_length=32))
    assert plan.tokens.n_cut == 39
    plan = plan_run(classifier_run(tiny_encoder, "towers", pairs, max_seq_length=32))
    assert plan.tokens.n_cut == 0


@pytest.mark.parametrize("kind", ["joined", "single"])
def test_little_memory_makes_small_forwards_of_a_classifiers_rows(
    kind: str, tiny_encoder: ConnectionBert, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[Any] = [dogs(30, i) for i in range(64)]
    if kind == "joined":
        rows = [(row, "cat") for row in rows]
    run = classifier_run(tiny_encoder, kind, rows, batch_size=32)
    lengths = plan_run(run).tokens.row_lengths
    per_row = activation_bytes(tiny_encoder, int(lengths[0]), int(lengths[0]), 4, False)
    with_free(monkeypatch, 0)
    fixed = plan_run(run).fixed_bytes
    for n_rows in (32, 5, 1):
        # half of what is free is for activations
        with_free(monkeypatch, fixed + int(2 * per_row * (n_rows + 0.5)))
        plan = plan_run(run)
        assert plan.micro_rows == n_rows
        said = plan.describe()[3]
        assert (f"batch 32 in forwards of {n_rows}," in said) == (n_rows < 32)


def test_the_plan_of_a_classifier_speaks_of_pairs_and_texts(
    tiny_encoder: ConnectionBert, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_free(monkeypatch, 2**40)
    run = classifier_run(tiny_encoder, "joined", [(dogs(20, i), dogs(10, i)) for i in range(9)] + [(dogs(90, 1), "x")])
    plan = plan_run(run)
    lines = plan.describe()
    assert lines[1] == "10 pairs, objective softmax"
    assert lines[2] == "tokens a pair: 50 % up to 33, 90 % up to 33, 99 % up to 94, the longest 94; 1 pair cut at 64"
    run = classifier_run(tiny_encoder, "single", [dogs(20, i) for i in range(8)] + [dogs(90, 1), dogs(80, 2)])
    plan = plan_run(run)
    lines = plan.describe()
    assert lines[1] == "10 texts, objective softmax"
    assert lines[2] == "tokens a text: 50 % up to 22, 90 % up to 82, 99 % up to 92, the longest 92; 2 texts cut at 64"
    run = classifier_run(tiny_encoder, "towers", [(dogs(20, i), dogs(70, 3)) for i in range(4)])
    plan = plan_run(run)
    said = plan.describe()[2]
    # the one long text is cut once, in however many pairs it stands
    assert said.endswith("the longest 72; 1 text cut at 64")


def test_what_is_frozen_under_a_head_is_said(tiny_encoder: ConnectionBert) -> None:
    model = ClassifierModel(tiny_encoder, "single")
    texts = [dogs(5, i) for i in range(8)]
    data = ConnectionDataset.from_texts(texts, CLASSES, labels=["a", "b"] * 4)
    settings = run_settings("softmax", {"kind": "single", "freeze_embeddings": True, "freeze_layers": 2})
    plan = plan_run(prepare(model, RunData(data), settings))
    n_frozen = sum(parameter.numel() for parameter in tiny_encoder.encoder.parameters())
    assert plan.describe()[0].endswith(f", {n_frozen:,} weights frozen")


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["joined", "single"])
def test_memory_of_a_classifiers_forward_is_foreseen_within_a_factor_of_two(
    kind: str, minilm: SiameseBert, shared_data: Path, checkpointing: bool
) -> None:
    with (shared_data / "stsb" / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row, _ in zip(csv.DictReader(file), range(32), strict=False)]
    texts = [[row[side] for row in rows] for side in ("sentence1", "sentence2")]
    model = ClassifierModel(minilm.bert, kind, max_seq_length=64)  # type: ignore[arg-type]
    tokenizer, encoder = model.tokenizer, minilm.bert.encoder
    if kind == "joined":
        tokens = tokenizer.join(*(tokenizer.tokenize(side) for side in texts), 64)
    else:
        tokens = tokenizer.frame(tokenizer.tokenize(texts[0]), 64)
    with set_up_for_training(encoder, run_settings()):
        model.train()
        kept = kept_bytes(model, tokens, None)
    if checkpointing:
        with set_up_for_training(encoder, run_settings(gradient_checkpointing=True)):
            model.train()
            kept = kept_bytes(model, tokens, None) + kept // int(encoder.config.num_hidden_layers)
    model.eval()
    foreseen = activation_bytes(minilm.bert, int(tokens.lengths.sum()), int(tokens.lengths.max()), 4, checkpointing)
    assert 0.5 < foreseen / kept < 2.0


# before the plan: what does not fit is rejected


def test_a_metric_that_the_pairs_do_not_have_is_refused(tiny: SiameseBert) -> None:
    yes_no = ConnectionDataset.from_pairs([("a", "b", 1), ("c", "d", 0), ("e", "f", 1)])
    data = RunData(ConnectionDataset.from_pairs(scored(5)), yes_no)
    with pytest.raises(InputError, match="spearman, which needs graded scores"):
        prepare(tiny, data, run_settings(metric="spearman"))
    assert prepare(tiny, data, run_settings()).evaluator.metric == "average_precision"
    assert prepare(tiny, RunData(data.train, data.train), run_settings()).evaluator.metric == "spearman"


def test_what_the_encoder_cannot_do_is_refused_before_anything_is_computed(tiny: SiameseBert) -> None:
    with pytest.raises(InputError, match="freeze_layers is 3"):
        prepared(tiny, scored(5), run_settings(model={"freeze_layers": 3}))
