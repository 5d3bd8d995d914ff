"""Training a classifier: partly frozen, with gradient checkpointing, in half precision, with little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_bert_classifier import CLASSES, FEW, QUICK, classifier, pairs_by_topic, texts_by_topic

from sbert_ft import BertClassifier, ConnectionDataset, ObjectiveSettings, fine_tune
from sbert_ft.config.settings import DataSettings, ModelSettings, RunSettings
from sbert_ft.encoder.dropout import dropout_set_to
from sbert_ft.errors import InputError
from sbert_ft.training.prepare import RunData, RunOptions, prepare
from sbert_ft.training.run import run_training
from sbert_ft.training.run_log import read_log

KINDS = ("towers", "joined", "single")


@pytest.fixture(scope="module")
def folder(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("base") / "model")


def rows_for(kind: str, n: int, seed: int = 1) -> ConnectionDataset:
    if kind == "single":
        texts, labels = texts_by_topic(n, seed)
        return ConnectionDataset.from_texts(texts, CLASSES, labels=labels)
    pairs, labels = pairs_by_topic(n, seed)
    return ConnectionDataset.from_pairs(pairs, CLASSES, labels=labels)


def texts_of(data: ConnectionDataset) -> list[Any]:
    return [row[0] if len(row) == 1 else row for row in data.rows_of_texts()]


def weights(model: BertClassifier) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.trained.state_dict().items()}


def tuned(folder: Path, kind: str, output_dir: Path, **training: Any) -> BertClassifier:
    """Return a classifier after a few steps without dropout, which would differ between the compared ways."""
    model = classifier(folder, kind)
    model.start_head(rows_for(kind, 32).class_names)
    with dropout_set_to(model, 0.0):
        fine_tune(model, rows_for(kind, 32), output_dir=output_dir, training=replace(QUICK, **training), evaluation=FEW)
    return model


def mean_difference(one: BertClassifier, other: BertClassifier) -> float:
    pairs = zip(weights(one).values(), weights(other).values(), strict=True)
    return float(torch.cat([(left - right).abs().flatten() for left, right in pairs]).mean())


# frozen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_on_a_frozen_encoder_the_head_alone_is_trained(
    kind: Any, checkpointing: bool, folder: Path, tmp_path: Path
) -> None:
    model = classifier(folder, kind)
    settings = RunSettings(
        ModelSettings(str(folder), kind, freeze_layers=2, freeze_embeddings=True),
        DataSettings("train.csv"),
        str(tmp_path / "run"),
        (ObjectiveSettings("softmax"),),
        replace(QUICK, gradient_checkpointing=checkpointing),
        FEW,
    )
    # without dev rows, which the head would be calibrated on
    run = prepare(model, RunData(rows_for(kind, 64)), settings)
    before = weights(model)
    result = run_training(run, RunOptions())
    after = weights(model)
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in after if name.startswith("head.")}
    n_frozen = sum(parameter.numel() for parameter in model.bert.encoder.parameters())
    assert f", {n_frozen:,} weights frozen" in result.metrics["plan"][0]
    assert all(parameter.requires_grad for parameter in model.parameters()), "frozen for longer than the run"


@pytest.mark.parametrize("kind", ["towers", "joined"])
def test_a_head_that_its_owner_froze_stays_as_it_is(kind: str, folder: Path, tmp_path: Path) -> None:
    model, data = classifier(folder, kind), rows_for(kind, 32)
    model.start_head(data.class_names)
    assert model.head is not None
    model.head.requires_grad_(False)
    before = weights(model)
    fine_tune(model, data, output_dir=tmp_path / "run", training=QUICK, evaluation=FEW)
    moved = {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    assert moved and all(name.startswith("encoder.") for name in moved)
    model.bert.encoder.requires_grad_(False)
    with pytest.raises(InputError, match="every weight is frozen"):
        fine_tune(model, data, output_dir=tmp_path / "other", training=QUICK, evaluation=FEW)
    assert not (tmp_path / "other").exists()


# computed differently, with the same result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "ways",
    [{"gradient_checkpointing": True}, {"micro_batch_size": 3}, {"batch_size": 4, "accumulation_steps": 2}],
    ids=str,
)
def test_memory_is_saved_without_another_result(kind: str, ways: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    usual = tuned(folder, kind, tmp_path / "usual")
    saving = tuned(folder, kind, tmp_path / "saving", **ways)
    untouched = classifier(folder, kind)
    untouched.start_head(rows_for(kind, 32).class_names)
    # Adam makes an equally large step for a gradient near zero, which is mostly rounding
    assert mean_difference(usual, saving) < 1e-3 * mean_difference(usual, untouched)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in saving.bert.encoder.modules())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_a_classifiers_float32_weights(
    kind: str, precision: str, folder: Path, tmp_path: Path
) -> None:
    exact = tuned(folder, kind, tmp_path / "exact", max_steps=6)
    halved = tuned(folder, kind, tmp_path / precision, max_steps=6, precision=precision)
    assert {tensor.dtype for tensor in weights(halved).values() if tensor.is_floating_point()} == {torch.float32}
    texts = texts_of(rows_for(kind, 32))
    np.testing.assert_allclose(halved.predict_proba(texts), exact.predict_proba(texts), atol=0.05)
    assert mean_difference(halved, exact) > 0
    norms = [line["grad_norm"] for line in read_log(tmp_path / precision / "metrics.jsonl") if "grad_norm" in line]
    assert norms and norms[-1] is not None and np.isfinite(norms[-1])


def test_a_scaler_finds_its_scale_for_a_weighted_softmax(folder: Path, tmp_path: Path) -> None:
    # a loss so large that the first steps overflow and are skipped
    model, data = classifier(folder, "joined"), rows_for("joined", 64)
    result = fine_tune(
        model,
        data,
        output_dir=tmp_path / "run",
        objective=ObjectiveSettings("softmax", weight=3000.0, class_weight="balanced"),
        training=replace(QUICK, precision="float16", max_steps=16, logging_steps=1),
        evaluation=FEW,
    )
    norms = [line["grad_norm"] for line in read_log(result.folder / "metrics.jsonl") if line["kind"] == "train"]
    assert norms[0] is None and norms[-1] is not None and norms == sorted(norms, key=lambda norm: norm is not None)
    assert all(bool(tensor.isfinite().all()) for tensor in weights(model).values())


# little memory

LOW_MEMORY_SCRIPT = """
import logging, resource, sys
import torch
from sbert_ft import BertClassifier, ConnectionBert, ConnectionDataset, EvaluationSettings, Reading
from sbert_ft import TrainingSettings, fine_tune
from sbert_ft.errors import ResourceError
from sbert_ft.encoder.dropout import dropout_set_to

MIB = 2**20
warned = []

class Limiter(logging.Handler):
    # memory is scarce in the training alone: the tokenizer's own code would end the process
    spare = None
    def emit(self, record):
        said = record.getMessage()
        if said.startswith("memory foreseen") and self.spare is not None:
            pages = int(open("/proc/self/statm").read().split()[0])
            limit = pages * resource.getpagesize() + self.spare
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        if "was not evaluated" in said:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        if "out of memory" in said:
            warned.append(said)

limiter = Limiter()
logger = logging.getLogger("sbert_ft")
logger.setLevel(logging.INFO)
logger.addHandler(limiter)

def tune(name, kind, spare, text="the dog and the red cat was here"):
    limiter.spare = spare
    pairs = [(f"{text} {i}", text) for i in range(64)]
    labels = [("a", "b", "b")[i % 3] for i in range(64)]
    data = ConnectionDataset.from_pairs(pairs, Reading(label_kind="classes"), labels=labels)
    model = BertClassifier(ConnectionBert.from_pretrained(sys.argv[1], "cpu", "float32"), kind)
    model.start_head(["a", "b"])
    settings = TrainingSettings(
        max_steps=2, batch_size=64, micro_batch_size=64, learning_rate=1e-3, warmup_steps=0, precision="float32"
    )
    evaluation = EvaluationSettings(bootstrap_samples=5)
    with dropout_set_to(model, 0.0):
        fine_tune(model, data, output_dir=f"{sys.argv[2]}-{name}", training=settings, evaluation=evaluation)
    return model.trained.state_dict()

torch.set_num_threads(1)
for kind, longest in (("towers", "a text"), ("joined", "a pair")):
    warned.clear()
    expected = tune(f"whole-{kind}", kind, None)
    assert not warned, warned
    found = tune(f"halved-{kind}", kind, 80 * MIB)
    assert warned and all("the batch stays the same" in said for said in warned), warned
    rows = [int(said.split("forwards of ")[1].split()[0]) for said in warned]
    assert rows == [32 >> i for i in range(len(rows))] and rows[-1] >= 2, rows
    apart = torch.cat([(found[name] - expected[name]).abs().flatten() for name in expected])
    assert float(apart.mean()) < 1e-6, float(apart.mean())
    print("halved", kind, rows)
    try:
        tune(f"refused-{kind}", kind, 60 * MIB, "dog " * 1000)
    except ResourceError as error:
        said = f"one row of at most 2048 tokens {longest} does not fit into the memory of cpu"
        assert said in str(error), error
        print("refused", kind)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
"""


def test_out_of_memory_halves_the_forward_and_keeps_a_classifiers_batch(
    tiny_bert_folder: Callable[..., Path], tmp_path: Path
) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("the memory of a process is measured and limited by Linux's /proc and RLIMIT_AS")
    folder = tiny_bert_folder(tmp_path / "model", hidden_size=64, layers=1, intermediate=8192, max_positions=2048)
    environment = os.environ | {
        # what the allocator keeps for later would blur the limit
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "1000000",
        "MALLOC_TRIM_THRESHOLD_": "1000000",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", LOW_MEMORY_SCRIPT, str(folder), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    for kind in ("towers", "joined"):
        assert f"halved {kind}" in done.stdout and f"refused {kind}" in done.stdout, done.stdout + done.stderr
