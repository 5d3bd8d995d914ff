"""`fine_tune` from a user's view: pairs in, a better model and a report out, and nothing else is changed."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import json
import logging
import math
import random
import signal
import threading
import time
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from test_spec import sentences

from sbert_ft import ConnectionDataset, EvaluationSettings, ObjectiveSettings, Reading, SiameseBert, TrainingSettings
from sbert_ft import fine_tune as public_fine_tune
from sbert_ft.doctor.folder import examine
from sbert_ft.encoder.dropout import dropout_set_to
from sbert_ft.errors import (
    ConfigError,
    DataError,
    InputError,
    ResourceError,
    RunFolderError,
    SbertFtError,
    TrainingError,
)
from sbert_ft.evaluation.pair_evaluator import PairEvaluator
from sbert_ft.training.fine_tune import as_dataset, fine_tune, reading_on_scale_of
from sbert_ft.training.run_log import RunLog, read_log
from sbert_ft.training.tokenized_dataset import tokenize_connections

FEW = EvaluationSettings(bootstrap_samples=20)
QUICK = TrainingSettings(max_steps=3, batch_size=8, learning_rate=1e-3, precision="float32", warmup_steps=0)


@pytest.fixture(scope="module")
def folder(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture
def model(folder: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(folder, "cpu", "float32")


def graded(n: int, seed: int = 0) -> list[tuple[str, str, float]]:
    """Return pairs whose score, 0 to 5, is the share of the first text's words that the second text keeps."""
    draw = random.Random(seed)
    rows = []
    for i, text in enumerate(sentences(n, seed + 1)):
        words = [*text.split()[:10], "dog", "water", "red", "music"][:8]
        n_kept = draw.randrange(6)
        other = words[: n_kept + 1] + draw.sample(
            ["house", "blue", "piano", "street", "long", "cat", "three"], 6 - n_kept
        )
        rows.append((f"{' '.join(words[:6])} {i % 10}", " ".join(other), float(n_kept)))
    return rows


def dataset(rows: list[Any]) -> ConnectionDataset:
    return ConnectionDataset.from_pairs(rows)


def weights(model: SiameseBert) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.bert.encoder.state_dict().items()}


def are_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


# what goes in


def test_files_frames_and_data_sets_give_the_same_model(folder: Path, tmp_path: Path) -> None:
    rows = graded(24)
    frame = pd.DataFrame(rows, columns=["sentence1", "sentence2", "score"])
    frame.to_csv(tmp_path / "pairs.csv", index=False)
    given: dict[str, Any] = {
        "pairs": dataset(rows),
        "frame": frame,
        "path": tmp_path / "pairs.csv",
        "text": str(tmp_path / "pairs.csv"),
    }
    tuned = []
    for name, train in given.items():
        model = SiameseBert.from_pretrained(folder, "cpu", "float32")
        result = public_fine_tune(model, train, output_dir=tmp_path / name, training=QUICK, evaluation=FEW)
        assert (result.metrics["steps"], result.was_finished) == (3, False)
        tuned.append(weights(model))
    assert all(are_equal(tuned[0], other) for other in tuned[1:])
    assert not are_equal(tuned[0], weights(SiameseBert.from_pretrained(folder, "cpu", "float32")))


def test_training_and_evaluation_use_the_default_prompt_as_use_does(folder: Path, tmp_path: Path) -> None:
    prompt, rows = "the dog runs in ", graded(24)
    prompted = SiameseBert.from_pretrained(folder, "cpu", "float32")
    prompted.prompts, prompted.default_prompt_name = {"query": prompt, "other": "a "}, "query"
    by_hand = SiameseBert.from_pretrained(folder, "cpu", "float32")
    longer = dataset([(prompt + first, prompt + second, score) for first, second, score in rows])
    found = []
    for model, train in ((prompted, dataset(rows)), (by_hand, longer)):
        options: dict[str, Any] = {"dev": train, "training": QUICK, "evaluation": FEW}
        found.append(public_fine_tune(model, train, output_dir=tmp_path / str(len(found)), **options).metrics)
    assert are_equal(weights(prompted), weights(by_hand))
    for part in ("before", "after", "difference"):
        assert found[0]["splits"]["dev"][part] == found[1]["splits"]["dev"][part]
    assert found[0]["lengths"] == found[1]["lengths"]
    assert prompted.decision is not None and by_hand.decision is not None
    assert prompted.decision.threshold == by_hand.decision.threshold
    assert any("default prompt 'the dog runs in '" in line for line in found[0]["plan"])
    saved = SiameseBert.from_pretrained(tmp_path / "0" / "model", "cpu", "float32")
    assert saved.default_prompt == prompt


def test_texts_of_unknown_words_are_not_trained_on_unless_it_is_allowed(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = dataset([(f"뷁 뷀 {'dog' * (i % 10 == 9)}", f"뷀 뷁{' 뷁' * i}", float(i % 5)) for i in range(24)])
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    before = weights(model)
    with pytest.raises(
        InputError, match=r"9\d\.\d % of the training texts' tokens are unknown .*set training\.allow_unknown"
    ):
        public_fine_tune(model, unknown, output_dir=tmp_path / "refused", training=QUICK, evaluation=FEW)
    assert are_equal(weights(model), before)
    allowed = dataclasses.replace(QUICK, allow_unknown=True)
    assert public_fine_tune(
        model, unknown, output_dir=tmp_path / "allowed", training=allowed, evaluation=FEW
    ).folder.exists()
    half = dataset([(f"뷁 뷁 dog {i}", f"the dog runs {i}", float(i % 5)) for i in range(24)])
    caplog.clear()
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    result = public_fine_tune(model, half, dev=half, output_dir=tmp_path / "half", training=QUICK, evaluation=FEW)
    assert caplog.text.count("are unknown to the vocabulary of") == 1
    assert any("are unknown to the vocabulary of" in sentence for sentence in result.metrics["warnings"])


def test_pairs_are_read_on_the_scale_of_the_training_pairs(tmp_path: Path) -> None:
    train = dataset([("a", "b", 5.0), ("c", "d", 0.0), ("e", "f", 2.5)])
    reading = reading_on_scale_of(train, Reading())
    assert reading.score_range == (0.0, 5.0)
    few = as_dataset(pd.DataFrame({"sentence1": ["x", "y"], "sentence2": ["z", "w"], "score": [0.5, 1.0]}), reading)
    assert few.scale == train.scale
    assert reading_on_scale_of(train, Reading(score_range=(0, 10))).score_range == (0, 10)
    assert reading_on_scale_of(dataset([("a", "b", 1), ("c", "d", 0)]), Reading()).score_range is None
    assert as_dataset(train) is train


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"model": "bert-base-uncased"},
            InputError,
            "expected a SiameseBert or BertClassifier; for a folder: SiameseBert.from_pretrained",
        ),
        ({"train": [("a", 1.0)]}, InputError, "expected a text, or|row at position 0"),
        ({"train": None}, InputError, "of type NoneType"),
        ({"train": "no such file.csv"}, DataError, "no such file"),
        ({"dev": 3}, InputError, "of type int"),
        ({"objective": "cosin"}, ConfigError, "expected one of cosine, cosent"),
        ({"objective": "triplet"}, InputError, "objectives that fit this data: cosine, cosent and angle"),
        ({"objective": []}, ConfigError, "objective"),
        ({"objective": [None]}, ConfigError, "expected ObjectiveSettings, found NoneType"),
        ({"objective": ["cosine", 3]}, ConfigError, "objective.1: expected ObjectiveSettings, found int"),
        ({"objective": ObjectiveSettings("cosine", margin=1.0)}, ConfigError, "margin"),
        ({"training": {"epochs": 1}}, ConfigError, "expected TrainingSettings, found dict"),
        ({"training": replace(QUICK, epochs=0, batch_size=0)}, ConfigError, "2 faults"),
        ({"training": replace(QUICK, metric="accuracy")}, ConfigError, "training.metric"),
        ({"training": replace(QUICK, metric="spearman")}, SbertFtError, "give data.dev"),
        ({"evaluation": EvaluationSettings(threshold_target="best")}, ConfigError, "threshold_target"),
        ({"on_existing": "append"}, InputError, "expected one of error, resume, overwrite"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    model: SiameseBert, tmp_path: Path, changes: dict[str, Any], error: type[SbertFtError], said: str
) -> None:
    before = weights(model)
    arguments: dict[str, Any] = {"model": model, "train": dataset(graded(8)), "output_dir": tmp_path / "run"}
    with pytest.raises(error, match=said.replace("(", r"\(")):
        fine_tune(**{**arguments, **changes})
    assert not (tmp_path / "run").exists()
    assert are_equal(weights(model), before)


ROWS: dict[str, list[Any]] = {
    "score": [row for row in graded(12)],
    "binary": [(a, b, int(score >= 3)) for a, b, score in graded(12)],
    "none": [(f"{a} x{i}", f"{b} y{i}") for i, (a, b, _) in enumerate(graded(12))],
    "triplets": [(f"{a} x{i}", f"{b} y{i}", f"music {i}") for i, (a, b, _) in enumerate(graded(12))],
}


@pytest.mark.parametrize(
    ("objective", "rows"),
    [
        ("cosine", "score"),
        ("cosent", "score"),
        ("angle", "binary"),
        ("contrastive", "binary"),
        ("online_contrastive", "binary"),
        ("in_batch_negatives", "none"),
        ("in_batch_negatives", "triplets"),
        ("triplet", "triplets"),
        (ObjectiveSettings("in_batch_negatives", scale=30.0, symmetric=True), "none"),
        (["cosine", ObjectiveSettings("cosent", weight=0.1)], "score"),
        (("cosine", "contrastive"), "binary"),
    ],
    ids=str,
)
def test_every_objective_trains_and_is_judged(model: SiameseBert, tmp_path: Path, objective: Any, rows: str) -> None:
    before = weights(model)
    train = dataset(ROWS[rows])
    settings = replace(QUICK, max_steps=2)
    result = fine_tune(
        model, train, train, output_dir=tmp_path / "run", objective=objective, training=settings, evaluation=FEW
    )
    assert not are_equal(weights(model), before)
    listed = [objective] if isinstance(objective, (str, ObjectiveSettings)) else objective
    assert result.metrics["objective"] == [part if isinstance(part, str) else part.name for part in listed]
    metric = "spearman" if rows == "score" else "average_precision"
    assert result.metrics["best"]["metric"] == metric
    assert metric in result.metrics["splits"]["dev"]["difference"]
    assert all(
        math.isfinite(record["loss"]) for record in read_log(result.folder / "metrics.jsonl") if "loss" in record
    )


# what it learns


def test_the_training_loss_falls(model: SiameseBert, tmp_path: Path) -> None:
    settings = TrainingSettings(epochs=12, batch_size=8, learning_rate=2e-3, precision="float32", logging_steps=4)
    result = fine_tune(model, dataset(graded(32)), output_dir=tmp_path / "run", training=settings, evaluation=FEW)
    losses = [record["loss"] for record in read_log(result.folder / "metrics.jsonl") if record["kind"] == "train"]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:2])


def test_the_log_has_the_loss_of_each_objective_that_is_added(
    tiny_bert_folder: Callable[..., Path], tmp_path: Path
) -> None:
    settings = TrainingSettings(max_steps=4, batch_size=8, accumulation_steps=2, precision="float32", logging_steps=1)
    folder, rows = tiny_bert_folder(tmp_path / "base"), dataset(graded(80))

    def log_of(name: str, *objectives: ObjectiveSettings) -> list[dict[str, Any]]:
        model, run = SiameseBert.from_pretrained(folder, "cpu", "float32"), tmp_path / name
        result = fine_tune(model, rows, output_dir=run, objective=objectives, training=settings, evaluation=FEW)
        return [line for line in read_log(result.folder / "metrics.jsonl") if line["kind"] == "train"]

    cosine, cosent = ObjectiveSettings("cosine", weight=2), ObjectiveSettings("cosent", weight=0.5)
    added = log_of("added", cosine, cosent, ObjectiveSettings("cosent", scale=5))
    assert len(added) == 4
    for line in added:
        parts = {key: value for key, value in line.items() if key.startswith("loss_")}
        assert list(parts) == ["loss_cosine", "loss_cosent", "loss_cosent_2"] and min(parts.values()) > 0
        assert line["loss"] == pytest.approx(sum(parts.values()), rel=1e-6)
    # of the first step, which begins with the same weights and drops the same numbers
    for part, key in ((cosine, "loss_cosine"), (cosent, "loss_cosent")):
        alone = log_of(part.name, part)[0]
        assert not any(name.startswith("loss_") for name in alone)
        assert added[0][key] == pytest.approx(alone["loss"], rel=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_trains_float32_weights(folder: Path, tmp_path: Path, precision: Any) -> None:
    tuned = {}
    for name in ("float32", precision):
        model = SiameseBert.from_pretrained(folder, "cpu", "float32")
        settings = replace(QUICK, precision=name, max_steps=6)
        result = fine_tune(model, dataset(graded(16)), output_dir=tmp_path / name, training=settings, evaluation=FEW)
        assert result.metrics["precision"] == name
        assert {tensor.dtype for tensor in weights(model).values() if tensor.is_floating_point()} == {torch.float32}
        tuned[name] = model.encode([row[0] for row in graded(16)])
    assert not np.array_equal(tuned["float32"], tuned[precision])
    np.testing.assert_allclose(tuned[precision], tuned["float32"], atol=0.1)


def test_the_best_step_is_what_is_left(model: SiameseBert, tmp_path: Path) -> None:
    # steps so large that the encoder soon gets worse than before
    settings = TrainingSettings(epochs=4, batch_size=8, learning_rate=0.05, precision="float32", eval_steps=2)
    dev = dataset(graded(40, seed=5))
    result = fine_tune(model, dataset(graded(32)), dev, output_dir=tmp_path / "run", training=settings, evaluation=FEW)
    evaluations = [record for record in read_log(result.folder / "metrics.jsonl") if record["kind"] == "eval"]
    assert len(evaluations) == 8
    best = max(evaluations, key=lambda record: record["metrics"]["spearman"])
    assert result.metrics["best"] == {"step": best["step"], "metric": "spearman", "value": best["metrics"]["spearman"]}
    after = result.metrics["splits"]["dev"]["after"]["spearman"]["value"]
    assert after == pytest.approx(best["metrics"]["spearman"], abs=1e-9)
    saved = SiameseBert.from_pretrained(result.model_dir, "cpu", "float32")
    np.testing.assert_array_equal(saved.score(dev.pairs()), model.score(dev.pairs()))


def test_a_run_without_dev_ends_with_its_last_step_and_says_that_nothing_judged_it(
    model: SiameseBert, tmp_path: Path
) -> None:
    result = fine_tune(model, dataset(graded(16)), output_dir=tmp_path / "run", training=QUICK, evaluation=FEW)
    assert result.metrics["best"] is None and result.metrics["decision"] is None and model.decision is None
    assert any("the tuned model was not evaluated" in warning for warning in result.metrics["warnings"])
    assert result.metrics["splits"] == {}


def test_one_step_of_ours_is_one_step_of_sentence_transformers(
    minilm_path: Path, shared_data: Path, tmp_path: Path
) -> None:
    with (shared_data / "stsb" / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:288:18]
    settings = TrainingSettings(max_steps=1, batch_size=16, learning_rate=2e-5, warmup_steps=0, precision="float32")
    ours = SiameseBert.from_pretrained(minilm_path, "cpu", "float32")
    frame, base = pd.DataFrame(rows), weights(ours)
    train = ConnectionDataset.from_dataframe(frame.astype({"score": float}), Reading(score_range=(0.0, 5.0)))
    with dropout_set_to(ours.bert.encoder, 0.0):
        fine_tune(ours, train, output_dir=tmp_path / "run", training=settings, evaluation=FEW)

    theirs = SentenceTransformer(str(minilm_path), device="cpu", local_files_only=True).train()
    for layer in theirs.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    features = [theirs.preprocess([row[side] for row in rows]) for side in ("sentence1", "sentence2")]
    vectors = [theirs(column)["sentence_embedding"] for column in features]
    targets = torch.tensor([float(row["score"]) / 5 for row in rows])
    torch.nn.functional.mse_loss(torch.cosine_similarity(*vectors), targets).backward()
    named = [(name, p) for name, p in theirs[0].model.named_parameters() if p.grad is not None]
    torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
    spared = ("bias", "LayerNorm.weight")
    groups = [
        {"params": [p for name, p in named if not name.endswith(spared)], "weight_decay": 0.01},
        {"params": [p for name, p in named if name.endswith(spared)], "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, lr=2e-5, fused=False).step()

    tuned = weights(ours)
    assert {name for name, _ in named} == set(tuned)
    moved = torch.cat([(tuned[name] - base[name]).flatten() for name, _ in named])
    apart = torch.cat([(tuned[name] - p.detach()).flatten() for name, p in named])
    assert float(apart.abs().max()) < 1e-6
    assert 1e-5 < float(moved.abs().max()) < 3e-5
    assert float(apart.abs().mean()) < 1e-3 * float(moved.abs().mean())


def test_the_loss_is_the_one_of_sentence_transformers_own_class(tmp_path: Path, folder: Path) -> None:
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss

    rows = graded(8)
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    st = model.as_sentence_transformer()
    features = [st.preprocess([row[side] for row in rows]) for side in (0, 1)]  # type: ignore[misc]
    expected = CoSENTLoss(st)(features, torch.tensor([row[2] / 5 for row in rows])).item()
    settings = replace(QUICK, max_steps=1, logging_steps=1)
    with dropout_set_to(model.bert.encoder, 0.0):
        result = fine_tune(model, dataset(rows), output_dir=tmp_path / "run", objective="cosent", training=settings)
    assert read_log(result.folder / "metrics.jsonl")[0]["loss"] == pytest.approx(expected, rel=1e-5)


# what a run writes


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SiameseBert, Any]:
    """Return a tuned model with dev and test pairs, and the result of its run."""
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    settings = TrainingSettings(epochs=6, batch_size=8, learning_rate=1e-3, precision="float32")
    place = tmp_path_factory.mktemp("finished") / "run"
    dev, test = dataset(graded(40, seed=1)), dataset(graded(30, seed=2))
    result = fine_tune(model, dataset(graded(48)), dev, test, output_dir=place, training=settings, evaluation=FEW)
    return model, result


def test_the_model_can_be_used_as_it_is(finished: tuple[SiameseBert, Any]) -> None:
    model, result = finished
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.bert.encoder.parameters())
    pairs = [row[:2] for row in graded(20, seed=9)]
    scores = model.score(pairs)
    np.testing.assert_array_equal(scores, model.score(pairs))
    assert model.decision is not None and model.decision.fitted_on.n == 40
    assert model.decision.to_json() == result.metrics["decision"]
    np.testing.assert_array_equal(model.match(pairs), scores >= model.decision.threshold)
    probabilities = model.predict_proba(pairs)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert model.score_scale == (0.0, 5.0)


def test_the_saved_model_is_the_tuned_one_everywhere(finished: tuple[SiameseBert, Any]) -> None:
    model, result = finished
    saved = SiameseBert.from_pretrained(result.model_dir, "cpu", "float32")
    assert are_equal(weights(saved), weights(model))
    assert saved.decision == model.decision and saved.score_scale == model.score_scale
    texts = [row[0] for row in graded(10)]
    stock = SentenceTransformer(str(result.model_dir), device="cpu", local_files_only=True)
    np.testing.assert_allclose(stock.encode(texts), model.encode(texts), atol=1e-5)


def test_the_folder_holds_what_the_documents_say(finished: tuple[SiameseBert, Any]) -> None:
    _, result = finished
    there = {entry.name for entry in result.folder.iterdir() if not entry.name.startswith(".")}
    assert {"model", "report.html", "report.md", "worst_pairs.csv", "metrics.json", "metrics.jsonl"} < there
    assert {"ledger.json", "config.json", "fingerprint.json", "checkpoints"} < there
    assert json.loads((result.folder / "metrics.json").read_bytes()) == json.loads(json.dumps(result.metrics))
    assert result.report.read_text(encoding="utf-8").startswith("<!")
    ledger = json.loads((result.folder / "ledger.json").read_bytes())
    assert {name: part["n_kept"] for name, part in ledger.items()} == {"train": 48, "dev": 40, "test": 30}
    config = json.loads((result.folder / "config.json").read_bytes())
    assert config["training"]["learning_rate"] == 1e-3 and config["model"]["max_seq_length"] == 64
    metrics = result.metrics
    assert (metrics["steps"], metrics["splits"]["dev"]["n"], metrics["splits"]["test"]["n"]) == (36, 40, 30)
    assert metrics["collapse"]["after"] is not None


def test_both_models_are_judged_on_the_same_pairs(finished: tuple[SiameseBert, Any], folder: Path) -> None:
    from scipy.stats import spearmanr

    model, result = finished
    base = SiameseBert.from_pretrained(folder, "cpu", "float32")
    rows = graded(30, seed=2)
    for part, judged in (("before", base), ("after", model)):
        expected = spearmanr(judged.score([row[:2] for row in rows]), [row[2] for row in rows]).statistic
        assert result.metrics["splits"]["test"][part]["spearman"]["value"] == pytest.approx(expected, abs=1e-9)


# a folder that exists already


def test_a_folder_with_a_run_is_refused_overwritten_or_resumed(folder: Path, tmp_path: Path) -> None:
    rows, place = dataset(graded(24)), tmp_path / "run"
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    fine_tune(model, rows, rows, output_dir=place, training=QUICK, evaluation=FEW)
    tuned = weights(model)

    base = SiameseBert.from_pretrained(folder, "cpu", "float32")
    with pytest.raises(RunFolderError):
        fine_tune(base, rows, rows, output_dir=place, training=QUICK, evaluation=FEW)
    # the run is finished; the given model becomes its result
    result = fine_tune(base, rows, rows, output_dir=place, training=QUICK, evaluation=FEW, on_existing="resume")
    assert result.was_finished and result.metrics["steps"] == 3
    assert are_equal(weights(base), tuned)
    assert base.decision == model.decision is not None and base.score_scale == (0.0, 5.0)
    np.testing.assert_array_equal(base.score(rows.pairs()), model.score(rows.pairs()))

    base = SiameseBert.from_pretrained(folder, "cpu", "float32")
    settings = replace(QUICK, max_steps=2)
    result = fine_tune(base, rows, rows, output_dir=place, training=settings, evaluation=FEW, on_existing="overwrite")
    assert not result.was_finished and result.metrics["steps"] == 2
    assert not are_equal(weights(base), tuned)


def test_a_finished_run_of_another_kind_of_model_is_refused(
    model: SiameseBert, tmp_path: Path, tiny_bert_folder: Callable[..., Path]
) -> None:
    rows = dataset(graded(16))
    fine_tune(model, rows, output_dir=tmp_path / "run", training=QUICK, evaluation=FEW)
    wider = SiameseBert.from_pretrained(tiny_bert_folder(tmp_path / "wide", hidden_size=64), "cpu", "float32")
    before = weights(wider)
    with pytest.raises(RunFolderError, match=r"model\.weights was"):
        fine_tune(wider, rows, output_dir=tmp_path / "run", training=QUICK, evaluation=FEW, on_existing="resume")
    assert are_equal(weights(wider), before)


WAYS_ON = r"to train its model further, start from '.*run/model' \(model.path\) with another output_dir; to start ag"


def test_a_finished_run_names_one_way_on_everywhere_and_it_works(folder: Path, tmp_path: Path) -> None:
    rows, place = dataset(graded(24)), tmp_path / "run"
    base = SiameseBert.from_pretrained(folder, "cpu", "float32")
    result = fine_tune(base, rows, output_dir=place, training=QUICK)
    more = replace(QUICK, max_steps=None, epochs=3)
    base = SiameseBert.from_pretrained(folder, "cpu", "float32")
    for on_existing in ("error", "resume"):
        with pytest.raises(RunFolderError, match=f"is finished.*{WAYS_ON}"):
            fine_tune(base, rows, output_dir=place, training=more, on_existing=on_existing)
    tuned = SiameseBert.from_pretrained(result.model_dir, "cpu", "float32")
    assert fine_tune(tuned, rows, output_dir=tmp_path / "more", training=more).metrics["steps"] == 9
    assert fine_tune(base, rows, output_dir=place, training=more, on_existing="overwrite").metrics["steps"] == 9


UNKNOWN = [("кот спит", "собака бежит", 0.1), ("дом стоит", "парк зелен", 0.9)]


@pytest.mark.parametrize("on_existing", ["error", "overwrite"])
def test_a_run_that_is_refused_before_its_first_step_leaves_nothing_and_removes_nothing(
    model: SiameseBert, tmp_path: Path, on_existing: str
) -> None:
    place = tmp_path / "run"
    if on_existing == "overwrite":
        fine_tune(model, dataset(graded(16)), output_dir=place, training=QUICK)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="allow_unknown"):
        fine_tune(model, dataset(UNKNOWN), output_dir=place, training=QUICK, on_existing=on_existing)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    assert place.exists() == bool(before)


def test_a_run_that_ended_before_its_first_step_is_begun_again(
    model: SiameseBert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "run"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PairEvaluator, "evaluate_baseline", stop)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(model, dataset(graded(16)), output_dir=place, training=QUICK)
    assert sorted(path.name for path in place.iterdir()) == ["config.json", "fingerprint.json", "ledger.json"]
    assert fine_tune(model, dataset(graded(16)), output_dir=place, training=QUICK).metrics["steps"] == 2


# a metric that is not defined

MATCHES = [(f"dog {i}", f"cat {i}", 1) for i in range(6)]
EITHER = [(f"dog {i}", f"cat {i} {i % 2}", i % 2) for i in range(12)]


def test_an_undefined_metric_stops_nothing_and_the_last_state_is_kept(
    model: SiameseBert, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(QUICK, max_steps=None, epochs=3, batch_size=6, early_stopping_patience=1)
    with caplog.at_level(logging.WARNING, logger="sbert_ft"):
        result = fine_tune(
            *(model, dataset(EITHER), dataset(MATCHES)),
            output_dir=tmp_path / "run",
            objective="contrastive",
            training=settings,
        )
    assert (result.metrics["steps"], result.metrics["stopped_early"], result.metrics["best"]) == (6, False, None)
    why = "dev has no average_precision (every pair matches): such an evaluation is neither better nor worse"
    kept = "dev never had the metric average_precision, so no step was the best: the model is that of the last step, 6"
    assert caplog.messages.count(why) == 3 and {why, kept} <= set(result.metrics["warnings"])
    saved = SiameseBert.from_pretrained(result.model_dir, "cpu", "float32")
    assert are_equal(weights(saved), weights(model))


# what is not changed


def test_the_callers_surroundings_are_left_alone(model: SiameseBert, tmp_path: Path) -> None:
    ours = logging.getLogger("sbert_ft")
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)

    def surroundings() -> list[Any]:
        return [
            random.getstate(),
            [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
            torch.get_rng_state().tolist(),
            (ours.level, ours.propagate, [*ours.handlers], [*logging.getLogger().handlers], logging.root.level),
            [*warnings.filters],
            [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
            (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
        ]

    before = surroundings()
    rows = dataset(graded(16))
    fine_tune(model, rows, rows, output_dir=tmp_path / "run", training=QUICK, evaluation=FEW)
    assert surroundings() == before
    poisoned = replace(QUICK, learning_rate=1.0, max_grad_norm=0.0, max_steps=40, schedule="constant")
    with torch.no_grad():
        model.bert.encoder.get_parameter("embeddings.LayerNorm.weight")[0] = float("nan")
    with pytest.raises(TrainingError, match=r"lines? .* of the training data"):
        fine_tune(model, rows, output_dir=tmp_path / "bad", training=poisoned, evaluation=FEW)
    assert surroundings() == before
    assert not any(module.training for module in model.bert.encoder.modules())


def test_a_seed_fixes_the_result_whatever_was_drawn_before(folder: Path, tmp_path: Path) -> None:
    tuned = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(len(tuned) + 1)
        model = SiameseBert.from_pretrained(folder, "cpu", "float32")
        settings = replace(QUICK, seed=seed)
        fine_tune(model, dataset(graded(32)), output_dir=tmp_path / name, training=settings, evaluation=FEW)
        tuned.append(weights(model))
    assert are_equal(tuned[0], tuned[1]) and not are_equal(tuned[0], tuned[2])


def test_weights_that_their_owner_froze_stay_frozen(model: SiameseBert, tmp_path: Path) -> None:
    table = model.bert.encoder.get_parameter("embeddings.word_embeddings.weight")
    table.requires_grad_(False)
    before = weights(model)
    result = fine_tune(model, dataset(graded(16)), output_dir=tmp_path / "run", training=QUICK, evaluation=FEW)
    assert not table.requires_grad and torch.equal(table, before["embeddings.word_embeddings.weight"])
    assert not are_equal(weights(model), before)
    assert f"{table.numel():,} weights frozen" in result.metrics["plan"][0]


def test_a_run_works_in_a_thread_of_its_own(model: SiameseBert, tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    done: list[Any] = []

    def work() -> None:
        rows = dataset(graded(24))
        done.append(fine_tune(model, rows, rows, output_dir=tmp_path / "run", training=QUICK, evaluation=FEW))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(120)
    assert len(done) == 1 and done[0].metrics["steps"] == 3 and model.decision is not None
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


# warnings


def test_warnings_of_the_result_are_in_the_report_even_where_logging_is_off(model: SiameseBert, tmp_path: Path) -> None:
    train = graded(16)
    rows = [*train, ("dog " * 100, "cat", 2.0)]
    logging.disable(logging.CRITICAL)
    try:
        result = fine_tune(
            model, dataset(rows), dataset(train[:8]), output_dir=tmp_path / "run", training=QUICK, evaluation=FEW
        )
    finally:
        logging.disable(logging.NOTSET)
    overlaps = [warning for warning in result.metrics["warnings"] if "having a pair that dev has too" in warning]
    assert len(overlaps) == 1 and "8 rows" in overlaps[0]
    assert "having a pair that dev has too" in result.report.read_text(encoding="utf-8")


def test_what_is_warned_of_on_the_way_is_kept_once(
    model: SiameseBert, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*graded(16), ("dog " * 100, "cat", 2.0)]
    other = threading.Thread(target=lambda: logging.getLogger("sbert_ft.elsewhere").warning("of another thread"))

    class FirstWarning(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not other.ident:
                other.start()
                other.join()

    handler = FirstWarning(logging.WARNING)
    logging.getLogger("sbert_ft.training").addHandler(handler)
    try:
        with caplog.at_level(logging.WARNING, logger="sbert_ft"):
            result = fine_tune(model, dataset(rows), output_dir=tmp_path / "run", training=QUICK, evaluation=FEW)
    finally:
        logging.getLogger("sbert_ft.training").removeHandler(handler)
    assert "of another thread" in caplog.text
    kept = result.metrics["warnings"]
    assert len(kept) == len(set(kept)) and "of another thread" not in kept
    assert sum("longer than 64 tokens" in warning for warning in kept) == 1


def test_a_threshold_that_cannot_be_chosen_is_said_and_not_stored(model: SiameseBert, tmp_path: Path) -> None:
    alike = dataset([(a, b, 1.0) for a, b, _ in graded(16)])
    train = dataset(graded(16))
    dev = ConnectionDataset.from_dataframe(
        pd.DataFrame([(*row[:2], 4.0) for row in graded(12, seed=3)], columns=["sentence1", "sentence2", "score"]),
        Reading(score_range=(0.0, 5.0)),
    )
    result = fine_tune(model, train, dev, alike, output_dir=tmp_path / "run", training=QUICK, evaluation=FEW)
    assert model.decision is None and result.metrics["decision"] is None
    assert any(warning.startswith("no threshold is stored: ") for warning in result.metrics["warnings"])
    assert result.metrics["splits"]["dev"]["after"]["spearman"]["reason"] == "all gold scores are equal"
    # nothing was chosen on dev, so the last step is kept
    assert result.metrics["best"] is None


def test_tensorboard_is_missed_before_anything_is_written(model: SiameseBert, tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorboard") is not None:
        pytest.skip("tensorboard is installed")
    with pytest.raises(ResourceError, match="pip install"):
        fine_tune(model, dataset(graded(8)), output_dir=tmp_path / "run", training=replace(QUICK, tensorboard=True))
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_every_line_of_the_log_and_loses_what_is_taken_back(
    model: SiameseBert, tmp_path: Path
) -> None:
    accumulating = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings, rows = replace(QUICK, tensorboard=True, logging_steps=1), dataset(graded(24))
    both, run = ["cosine", "cosent"], tmp_path / "run"
    result = fine_tune(model, rows, rows, output_dir=run, objective=both, training=settings, evaluation=FEW)

    def steps(folder: Path, name: str) -> list[int]:
        events = accumulating.EventAccumulator(str(folder))
        events.Reload()
        return [event.step for event in events.Scalars(name)]

    assert steps(result.folder / "tensorboard", "train/loss") == [1, 2, 3]
    assert steps(result.folder / "tensorboard", "train/loss_cosent") == [1, 2, 3]
    assert steps(result.folder / "tensorboard", "dev/spearman") == [3]
    for after_step, n_kept in ((0, 0), (2, 2)):
        folder = tmp_path / f"resumed after {after_step}"
        for begin, end in ((0, 5), (after_step, 3)):
            with RunLog(tmp_path / "log", begin, tensorboard=folder) as log:
                for step in range(begin + 1, end + 1):
                    log.append({"kind": "train", "step": step, "loss": float(end)})
            time.sleep(1.1)  # the files' names hold the second
        assert steps(folder, "train/loss") == [1, 2, 3]
        events = accumulating.EventAccumulator(str(folder))
        events.Reload()
        assert [event.value for event in events.Scalars("train/loss")] == [5.0] * n_kept + [3.0] * (3 - n_kept)


# real weights, real pairs


def test_korean_pairs_make_the_real_model_better_at_korean(
    minilm_path: Path, shared_data: Path, tmp_path: Path
) -> None:
    def rows(name: str, n: int) -> ConnectionDataset:
        whole = ConnectionDataset.from_file(shared_data / "korsts" / name, Reading(score_range=(0.0, 5.0)))
        return whole.select(np.linspace(0, len(whole) - 1, n).astype(np.int64))

    model = SiameseBert.from_pretrained(minilm_path, "cpu", max_seq_length=40)
    settings = TrainingSettings(batch_size=20, learning_rate=2e-4)
    dev = rows("dev.tsv", 100)
    result = fine_tune(
        model, rows("train.tsv", 200), dev, output_dir=tmp_path / "run", training=settings, evaluation=FEW
    )
    scores = result.metrics["splits"]["dev"]
    print({part: scores[part]["spearman"]["value"] for part in ("before", "after", "difference")})
    assert result.metrics["steps"] == 10
    assert scores["difference"]["spearman"]["value"] > 0.02
    assert model.decision is not None and model.decision.scale == (0.0, 5.0)


# prompts

ASKED = [(f"what is {i}", f"it is {i} more", (i % 6) / 2) for i in range(12)]
BY_COLUMN = {"question": "the query: ", "answer": "a passage: "}


def asked(tmp_path: Path) -> Path:
    lines = "".join(f"{question},{answer},{score}\n" for question, answer, score in ASKED)
    (tmp_path / "asked.csv").write_text(f"question,answer,score\n{lines}", "utf-8")
    return tmp_path / "asked.csv"


def test_prompts_by_column_are_trained_with_and_kept_for_use(folder: Path, tmp_path: Path) -> None:
    file = asked(tmp_path)
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    result = fine_tune(
        model, file, file, output_dir=tmp_path / "run", training=QUICK, evaluation=FEW, prompts=BY_COLUMN
    )
    # the same as training on texts that begin with the prompts
    written = [(f"the query: {a}", f"a passage: {b}", label) for a, b, label in ASKED]
    other = SiameseBert.from_pretrained(folder, "cpu", "float32")
    expected = fine_tune(
        other, dataset(written), dataset(written), output_dir=tmp_path / "o", training=QUICK, evaluation=FEW
    )
    assert are_equal(weights(model), weights(other))
    name = "spearman"
    for part in ("before", "after"):
        found = result.metrics["splits"]["dev"][part][name]["value"]
        assert found == expected.metrics["splits"]["dev"][part][name]["value"]
    assert "texts begin with the prompts 'the query: ', 'a passage: '" in result.metrics["plan"]

    saved = SiameseBert.from_pretrained(result.model_dir, "cpu", "float32")
    found = next(check for check in examine(result.model_dir) if check.name == "modules")
    assert "(by default none), before the texts of a pair query, document" in found.found
    theirs = SentenceTransformer(str(result.model_dir), device="cpu", local_files_only=True)
    for one in (model, saved):
        np.testing.assert_allclose(
            one.score([("cat", "dog")]), other.score([("the query: cat", "a passage: dog")]), atol=5e-6
        )
        np.testing.assert_allclose(one.encode_query("cat"), other.encode("the query: cat"), atol=5e-6)
        np.testing.assert_allclose(one.encode_document("cat"), other.encode("a passage: cat"), atol=5e-6)
        np.testing.assert_allclose(one.encode("cat"), other.encode("cat"), atol=5e-6)
    np.testing.assert_allclose(theirs.encode_query("cat"), saved.encode_query("cat"), atol=5e-6)
    np.testing.assert_allclose(theirs.encode_document("cat"), saved.encode_document("cat"), atol=5e-6)


def test_prompts_name_columns_in_either_form_of_unicode(folder: Path, tmp_path: Path) -> None:
    rows = "".join(f"{a},{b},{label}\n" for a, b, label in ASKED)
    file = tmp_path / "korean.csv"
    file.write_text(unicodedata.normalize("NFD", "문장1,문장2,라벨\n") + rows, "utf-8")
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    prompts = {"문장1": "the query: ", "문장2": "a passage: "}
    fine_tune(model, file, output_dir=tmp_path / "run", training=QUICK, evaluation=FEW, prompts=prompts)
    assert model.prompts_of_pair == ("the query: ", "a passage: ")


def test_one_prompt_for_all_texts_is_the_default_prompt(folder: Path, tmp_path: Path) -> None:
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    result = fine_tune(model, asked(tmp_path), output_dir=tmp_path / "run", training=QUICK, prompts="text: ")
    saved = SiameseBert.from_pretrained(result.model_dir, "cpu", "float32")
    assert (saved.default_prompt, saved.pair_prompts) == ("text: ", None)
    theirs = SentenceTransformer(str(result.model_dir), device="cpu", local_files_only=True)
    for encode in ("encode", "encode_query", "encode_document"):
        expected = saved.encode("text: cat", prompt="")
        np.testing.assert_allclose(getattr(saved, encode)("cat"), expected, atol=5e-6)
        np.testing.assert_allclose(getattr(theirs, encode)("cat"), expected, atol=5e-6)
    assert "every text begins with the default prompt 'text: '" in result.metrics["plan"]


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        (
            {"question": "q: ", "anser": "a: "},
            "names 'anser', but the texts of '.*asked.csv' are in 'question', 'answer'",
        ),
        ("", "data.prompts"),
        ({"question": 1}, "data.prompts"),
        ({}, "data.prompts"),
    ],
)
def test_prompts_that_cannot_be_used_are_refused_and_the_model_is_unchanged(
    folder: Path, tmp_path: Path, prompts: Any, said: str
) -> None:
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    with pytest.raises(SbertFtError, match=said):
        fine_tune(model, asked(tmp_path), output_dir=tmp_path / "run", training=QUICK, prompts=prompts)
    assert (model.prompts, model.pair_prompts) == ({}, None) and not (tmp_path / "run").exists()


def test_triplets_have_one_prompt_for_what_the_anchor_is_compared_with(folder: Path, tmp_path: Path) -> None:
    rows = ConnectionDataset.from_pairs([(f"what is {i}", f"it is {i}", f"no {i}") for i in range(6)])
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    sides = {"sentence1": "q: ", "sentence2": "d: "}
    with pytest.raises(
        InputError, match="but '' before 'sentence3'; both are compared with 'sentence1'; give them the same"
    ):
        fine_tune(model, rows, output_dir=tmp_path / "a", objective="triplet", training=QUICK, prompts=sides)
    assert model.prompts == {}
    fine_tune(
        *(model, rows),
        output_dir=tmp_path / "b",
        objective="triplet",
        training=QUICK,
        prompts={**sides, "sentence3": "d: "},
    )
    assert model.prompts_of_pair == ("q: ", "d: ")


def test_training_pools_without_the_prompt_as_use_does(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "model"
    SiameseBert.from_pretrained(folder, "cpu", "float32").save_pretrained(place)
    pooling = json.loads((place / "1_Pooling" / "config.json").read_text())
    (place / "1_Pooling" / "config.json").write_text(json.dumps({**pooling, "include_prompt": False}))
    model = SiameseBert.from_pretrained(place, "cpu", "float32")
    model.use_prompts("a man and ", "two ")
    tokens = tokenize_connections(
        dataset(ASKED), model.tokenizer, model.max_seq_length, None, model.prompts_of_pair, include_prompt=False
    )
    batch = model.bert.pack(tokens.pack_rows(np.array([3, 0])))
    columns = model(batch).detach().split(2)
    for side, (column, prompt) in enumerate(zip(columns, model.prompts_of_pair, strict=True)):
        texts = [ASKED[row][side] for row in (3, 0)]
        np.testing.assert_allclose(column.numpy(), model.encode(texts, prompt=prompt), atol=5e-6)
    np.testing.assert_allclose(
        model.score([row[:2] for row in ASKED[:1]]),
        (torch.nn.functional.cosine_similarity(*columns)[1:]).numpy(),
        atol=5e-6,
    )
