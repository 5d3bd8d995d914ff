"""Fine-tuning on a CUDA device learns as on a CPU, works with little memory, and saves models that a CPU can load."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from sbert_ft import (
    BertClassifier,
    ConnectionBert,
    ConnectionDataset,
    ObjectiveSettings,
    Reading,
    SiameseBert,
    TrainingSettings,
    fine_tune,
)
from sbert_ft.config.settings import ModelSettings, RunSettings
from sbert_ft.errors import RunInterrupted
from sbert_ft.training.trainable_model import set_up_for_training

pytestmark = pytest.mark.gpu

Model = TypeVar("Model", bound=torch.nn.Module)

KINDS = ("towers", "joined", "single")
DATA = Path(__file__).resolve().parents[2] / "examples" / "data"


def rows(n: int) -> ConnectionDataset:
    """Return the first sample pairs."""
    whole = ConnectionDataset.from_file(DATA / "train.csv")
    return whole.select(np.arange(n))


def without_dropout(model: Model) -> Model:
    """Return the model with all dropout rates set to 0."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    return model


def test_steps_on_the_card_equal_those_on_the_cpu(minilm_path: Path, tmp_path: Path) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    settings = TrainingSettings(batch_size=16, max_steps=4, precision="float32", warmup_ratio=0.0, learning_rate=1e-5)
    vectors = {}
    for device in ("cpu", "cuda"):
        model = without_dropout(SiameseBert.from_pretrained(minilm_path, device, "float32"))
        fine_tune(model, rows(64), output_dir=tmp_path / device, training=settings)
        vectors[device] = model.encode(["The invoice is due on Friday.", "내일 비가 온대요."])
    assert np.abs(vectors["cpu"] - vectors["cuda"]).max() < 1e-3


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
def test_a_tuned_model_is_better_on_its_own_pairs_and_loads_on_the_cpu(
    minilm_path: Path, tmp_path: Path, precision: str
) -> None:
    model = SiameseBert.from_pretrained(minilm_path, "cuda")
    settings = TrainingSettings(epochs=6, batch_size=16, learning_rate=1e-4, precision=precision)  # type: ignore[arg-type]
    result = fine_tune(model, rows(64), dev=rows(64), output_dir=tmp_path / "run", training=settings)
    dev = result.metrics["splits"]["dev"]
    assert dev["after"]["spearman"]["value"] > dev["before"]["spearman"]["value"] + 0.2
    pairs = [("The invoice is due on Friday.", "Payment has to arrive by the end of the week.")]
    on_cpu = SiameseBert.from_pretrained(result.model_dir, "cpu", "float32")
    assert abs(float(on_cpu.score(pairs)[0] - model.score(pairs)[0])) < 0.02


def test_out_of_memory_halves_the_forward_and_keeps_the_batch(
    minilm_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = " ".join(["the heating in the kitchen has stopped working again"] * 12)
    pairs = ConnectionDataset.from_pairs([(f"{long} {i}", f"{i} {long}", (i % 6) / 5) for i in range(512)])
    model = SiameseBert.from_pretrained(minilm_path, "cuda", max_seq_length=128)
    settings = TrainingSettings(batch_size=256, micro_batch_size=256, max_steps=2, precision="bfloat16")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(model.device).total_memory
    # weights and moments need some 0.4 GiB, 512 texts of 110 tokens several GiB
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2 * 2**30) / total)
    try:
        with caplog.at_level(logging.WARNING, "sbert_ft"):
            result = fine_tune(model, pairs, output_dir=tmp_path / "run", training=settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    warned = [record.getMessage() for record in caplog.records if "out of memory on cuda" in record.getMessage()]
    assert warned and all("the batch stays the same" in sentence for sentence in warned)
    assert result.metrics["steps"] == 2


def test_a_run_begun_on_the_card_goes_on_there(minilm_path: Path, tmp_path: Path) -> None:
    def run(folder: Path, **given: int) -> SiameseBert:
        model = SiameseBert.from_pretrained(minilm_path, "cuda")
        training = TrainingSettings(batch_size=16, epochs=2, save_steps=1, **given)
        fine_tune(
            model, rows(64), output_dir=folder, training=training, on_existing="resume" if folder.exists() else "error"
        )
        return model

    whole = run(tmp_path / "whole")
    again = run(tmp_path / "whole")  # finished: nothing is done
    assert np.isfinite(again.encode(["a"])).all()
    for name in ("metrics.json", "report.html", "report.md"):
        (tmp_path / "whole" / name).unlink()
    resumed = run(tmp_path / "whole")
    for (name, one), other in zip(
        whole.bert.encoder.named_parameters(), resumed.bert.encoder.parameters(), strict=True
    ):
        assert torch.equal(one, other), name


@contextmanager
def interrupted_in_step(number: int) -> Iterator[None]:
    """Send this process SIGINT within the optimizer step with this number, counted from 1."""
    n_steps = 0

    def count(*_: object) -> None:
        nonlocal n_steps
        n_steps += 1
        if n_steps == number:
            signal.raise_signal(signal.SIGTERM)

    hook = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        hook.remove()


def test_a_run_stopped_in_the_middle_ends_as_the_unbroken_one_up_to_rounding(minilm_path: Path, tmp_path: Path) -> None:
    def run(folder: Path, on_existing: str = "error") -> SiameseBert:
        model = SiameseBert.from_pretrained(minilm_path, "cuda")
        training = TrainingSettings(batch_size=16, epochs=2, learning_rate=1e-4)
        fine_tune(model, rows(64), output_dir=folder, training=training, on_existing=on_existing)  # type: ignore[arg-type]
        return model

    begun = SiameseBert.from_pretrained(minilm_path, "cuda")
    whole = run(tmp_path / "whole")
    with interrupted_in_step(3), pytest.raises(RunInterrupted):
        run(tmp_path / "stopped")
    resumed = run(tmp_path / "stopped", "resume")
    models = (begun, whole, resumed)
    first, unbroken, continued = (
        torch.cat([p.detach().flatten() for p in model.bert.encoder.parameters()]) for model in models
    )
    # Backward kernels of attention add up in no fixed order on a card, so the last bits differ from run to run.
    assert float((continued - unbroken).norm()) < 0.05 * float((unbroken - first).norm())


def test_checkpointed_activations_take_less_memory(minilm_path: Path) -> None:
    peaks = []
    for wanted in (False, True):
        model = SiameseBert.from_pretrained(minilm_path, "cuda")
        settings = RunSettings(
            ModelSettings("m"),
            data=None,
            output_dir="",
            training=TrainingSettings(gradient_checkpointing=wanted),  # type: ignore[arg-type]
        )
        texts = [" ".join(["the heating has stopped working"] * 20)] * 64
        batch = model.bert.pack(model.tokenizer.frame(model.tokenizer.tokenize(texts), 128), "rows")
        torch.cuda.reset_peak_memory_stats()
        with set_up_for_training(model.bert.encoder, settings), torch.autocast("cuda", torch.bfloat16):
            model.train()
            model(batch).sum().backward()
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < 0.7 * peaks[0]


def classified(kind: str, n: int) -> ConnectionDataset:
    """Return the first sample pairs, or for the kind single their first texts, each with a class."""
    reading = Reading(label_kind="classes")
    whole = ConnectionDataset.from_file(DATA / "nli_train.csv", reading)
    pairs = list(whole.pairs())[:n]
    labels = [whole.class_names[int(code)] for code in whole.labels[:n]]
    if kind == "single":
        return ConnectionDataset.from_texts([second for _, second in pairs], reading, labels=labels)
    return ConnectionDataset.from_pairs(pairs, reading, labels=labels)


def texts_of(data: ConnectionDataset) -> list[Any]:
    """Return the inputs of a classifier: texts, or pairs of texts."""
    return [row[0] if len(row) == 1 else row for row in data.rows_of_texts()]


def classifier(folder: Path, kind: str, device: str, **options: Any) -> BertClassifier:
    """Return a classifier without a head, with float32 weights."""
    return BertClassifier(ConnectionBert.from_pretrained(folder, device, "float32"), kind, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifiers_steps_on_the_card_equal_those_on_the_cpu(minilm_path: Path, tmp_path: Path, kind: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    settings = TrainingSettings(batch_size=16, max_steps=4, precision="float32", warmup_ratio=0.0, learning_rate=1e-5)
    data = classified(kind, 64)
    likely = {}
    for device in ("cpu", "cuda"):
        model = classifier(minilm_path, kind, device)
        model.start_head(data.class_names, seed=3)
        without_dropout(model)
        begun = model.predict_proba(texts_of(data))
        objective = ObjectiveSettings("softmax", class_weight="balanced")
        fine_tune(model, data, output_dir=tmp_path / device, objective=objective, training=settings)
        assert model.head is not None and model.head.output.weight.device.type == device
        likely[device] = model.predict_proba(texts_of(data))
        assert np.abs(likely[device] - begun).max() > 1e-4
    assert np.abs(likely["cpu"] - likely["cuda"]).max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
def test_a_tuned_classifier_knows_its_own_rows_and_loads_on_the_cpu(
    minilm_path: Path, tmp_path: Path, kind: str, precision: Any
) -> None:
    data = classified(kind, 64)
    model = BertClassifier(ConnectionBert.from_pretrained(minilm_path, "cuda"), kind)  # type: ignore[arg-type]
    settings = TrainingSettings(epochs=20, batch_size=16, learning_rate=2e-4, precision=precision)
    result = fine_tune(model, data, data, output_dir=tmp_path / "run", training=settings)
    dev = result.metrics["splits"]["dev"]
    assert dev["after"]["accuracy"]["value"] > dev["before"]["accuracy"]["value"] + 0.2
    assert model.head is not None and model.head.output.weight.dtype == torch.float32
    on_cpu = BertClassifier.from_pretrained(result.model_dir, "cpu", "float32")
    found, expected = model.predict_proba(texts_of(data)), on_cpu.predict_proba(texts_of(data))
    # the copy for inference on the card is in half precision
    assert np.abs(found - expected).mean() < 0.02
    assert np.mean(model.predict(texts_of(data)) == on_cpu.predict(texts_of(data))) > 0.95


@pytest.mark.parametrize("kind", ["towers", "joined"])
def test_out_of_memory_halves_a_classifiers_forward_and_keeps_the_batch(
    minilm_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    long = " ".join(["the heating in the kitchen has stopped working again"] * 12)
    pairs = [(f"{long} {i}", f"{i} {long}") for i in range(512)]
    labels = ["yes" if i % 2 else "no" for i in range(512)]
    data = ConnectionDataset.from_pairs(pairs, Reading(label_kind="classes"), labels=labels)
    model = classifier(minilm_path, kind, "cuda", max_seq_length=128 if kind == "towers" else 256)
    settings = TrainingSettings(batch_size=256, micro_batch_size=256, max_steps=2, precision="bfloat16")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(model.device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2 * 2**30) / total)
    try:
        with caplog.at_level(logging.WARNING, "sbert_ft"):
            result = fine_tune(model, data, output_dir=tmp_path / "run", training=settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    warned = [record.getMessage() for record in caplog.records if "out of memory on cuda" in record.getMessage()]
    assert warned and all("the batch stays the same" in sentence for sentence in warned)
    assert result.metrics["steps"] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifiers_run_begun_on_the_card_goes_on_there(minilm_path: Path, tmp_path: Path, kind: str) -> None:
    data = classified(kind, 64)

    def run(on_existing: str = "resume") -> BertClassifier:
        model = classifier(minilm_path, kind, "cuda")
        training = TrainingSettings(batch_size=16, epochs=2, save_steps=1)
        fine_tune(model, data, data, output_dir=tmp_path / "run", training=training, on_existing=on_existing)
        return model

    whole = run("error")
    finished = run()  # nothing is done
    for name in ("metrics.json", "report.html", "report.md"):
        (tmp_path / "run" / name).unlink()
    resumed = run()
    assert finished.head is not None and finished.head.output.weight.device.type == "cuda"
    for (name, one), two, three in zip(
        whole.trained.named_parameters(), finished.trained.parameters(), resumed.trained.parameters(), strict=True
    ):
        assert torch.equal(one, two) and torch.equal(one, three), name
    assert whole.temperature == finished.temperature == resumed.temperature is not None
