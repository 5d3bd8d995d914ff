"""A run's JSON: reading, errors, overrides, writing, and its descriptions for editors and users."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbert_ft.cli import main
from sbert_ft.config.aliases import ALIASES, FLAT
from sbert_ft.config.fields import KEYS, MOST_COUNT, SECTIONS
from sbert_ft.config.jsonc import read_json_object
from sbert_ft.config.loader import check_settings, read_run, run_from_json, run_to_json
from sbert_ft.config.metrics import METRICS, choosing_metrics
from sbert_ft.config.objectives import CLASSIFIER_OBJECTIVES, OBJECTIVES, ObjectiveSettings
from sbert_ft.config.rules import CLASSIFIER_KINDS, LANGUAGE_KIND
from sbert_ft.config.schema import commented_start, json_schema
from sbert_ft.config.settings import (
    DataSettings,
    EvaluationSettings,
    Features,
    ModelKind,
    ModelSettings,
    NegativeSettings,
    Reading,
    RunSettings,
    TeacherSettings,
    TrainingSettings,
    Truncation,
)
from sbert_ft.errors import ConfigError, SbertFtError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "configs").glob("*.json"))
LEAST = {"model": {"path": "m"}, "data": {"train": "t.csv"}, "output_dir": "o"}


def with_keys(**dotted: object) -> dict[str, Any]:
    """Return the smallest configuration with more keys: `training__epochs=2` is {"training": {"epochs": 2}}."""
    value = json.loads(json.dumps(LEAST))
    for name, item in dotted.items():
        section, _, key = name.rpartition("__")
        (value.setdefault(section, {}) if section else value)[key] = item
    return value


def refusal(value: Mapping[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        run_from_json(value, "'run.json'")
    return str(caught.value)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------- reading


def test_the_least_configuration_is_all_defaults() -> None:
    assert run_from_json(LEAST, "x") == RunSettings(ModelSettings("m"), DataSettings("t.csv"), "o")


def test_the_example_of_the_design_is_read(tmp_path: Path) -> None:
    text = """
{"model": {"path": "bert-base-uncased/", "max_seq_length": 128},
 "data": {"train": "pairs.csv", "dev": "dev.csv", "test": "test.csv"},
 "objective": "cosine",
 "training": {"epochs": 1, "batch_size": 16, "learning_rate": 2e-5, "warmup_ratio": 0.1, "seed": 42},
 "output_dir": "runs/first"}"""
    assert read_run(write(tmp_path / "run.json", text)) == RunSettings(
        ModelSettings("bert-base-uncased/", max_seq_length=128),
        DataSettings("pairs.csv", "dev.csv", "test.csv"),
        "runs/first",
    )


def test_how_files_are_read_stands_flat_in_data() -> None:
    reading = {
        "text_columns": ["a", "b", "c"],
        "label_column": "y",
        "label_kind": "scores",
        "classes": None,
        "label_values": {"entailment": 1, "neutral": 0.5},
        "score_range": [0, 5],
        "encoding": "cp949",
        "delimiter": "tab",
        "kind": "csv",
        "on_bad_row": "skip",
    }
    assert set(reading) == {field.name for field in fields(Reading)}
    found = run_from_json(with_keys(**{f"data__{name}": item for name, item in reading.items()}), "x").data.reading
    values = {"entailment": 1.0, "neutral": 0.5}
    assert found == Reading(("a", "b", "c"), "y", "scores", None, values, (0.0, 5.0), "cp949", "tab", "csv", "skip")


@pytest.mark.parametrize(
    "kind, expected", [(None, "cosine"), ("siamese", "cosine"), ("single", "softmax"), (LANGUAGE_KIND, "mlm")]
)
def test_the_objective_that_is_left_out_goes_by_the_kind_of_model(kind: str | None, expected: str) -> None:
    run = run_from_json(LEAST if kind is None else with_keys(model__kind=kind), "x")
    assert run.objective == (ObjectiveSettings(expected),)
    assert run_to_json(run)["objective"][0]["name"] == expected


def test_a_classifier_is_read_with_all_that_it_has() -> None:
    value = with_keys(
        model__kind="towers",
        model__init="random",
        model__features="uv_difference_product",
        model__head_dropout=0,
        data__dev="d",
        data__text_columns=["premise", "hypothesis"],
        data__label_kind="classes",
        data__classes=["entailment", "neutral"],
        objective={"name": "softmax", "class_weight": "balanced"},
        training__metric="mcc",
        evaluation__calibration="temperature",
    )
    run = run_from_json(value, "x")
    assert run.model == ModelSettings(
        "m", kind="towers", init="random", features="uv_difference_product", head_dropout=0.0
    )
    assert run.data.reading == Reading(("premise", "hypothesis"), None, "classes", ("entailment", "neutral"))
    assert run.objective == (ObjectiveSettings("softmax", class_weight="balanced"),)
    assert (run.training.metric, run.evaluation.calibration) == ("mcc", "temperature")


@pytest.mark.parametrize(
    "objective, expected",
    [
        ("cosent", (ObjectiveSettings("cosent"),)),
        ({"name": "cosent", "scale": 30}, (ObjectiveSettings("cosent", scale=30.0),)),
        (["cosent"], (ObjectiveSettings("cosent"),)),
        (
            ["cosine", {"name": "in_batch_negatives", "weight": 0.5, "symmetric": True}],
            (ObjectiveSettings("cosine"), ObjectiveSettings("in_batch_negatives", 0.5, symmetric=True)),
        ),
    ],
)
def test_an_objective_is_a_name_an_object_or_several(objective: object, expected: object) -> None:
    assert run_from_json(with_keys(objective=objective), "x").objective == expected


def test_whole_numbers_stand_for_numbers_and_become_floats() -> None:
    training = run_from_json(with_keys(training__max_grad_norm=2, training__weight_decay=0), "x").training
    assert (type(training.max_grad_norm), training.max_grad_norm, training.weight_decay) == (float, 2.0, 0.0)


def test_comments_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    text = json.dumps(with_keys(output_dir="runs//first // no comment"), indent=1)
    commented = "// one\n" + text.replace("\n", '\r\n \t // {"two": 2}, \u2028 more\r\n') + "\n//"
    assert "// {" in commented
    plain, marked = write(tmp_path / "plain.json", text), tmp_path / "marked.json"
    marked.write_bytes(b"\xef\xbb\xbf" + commented.encode())
    assert read_run(marked) == read_run(plain)
    assert read_run(plain).output_dir == "runs//first // no comment"


def test_a_schema_named_for_editors_is_passed_over() -> None:
    assert run_from_json({"$schema": "run.schema.json", **LEAST}, "x") == run_from_json(LEAST, "x")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_are_read_and_their_data_are_there(path: Path) -> None:
    run = read_run(path, ["model.path=elsewhere"])
    assert run.model.path == "elsewhere"
    assert run.output_dir == f"runs/{path.stem}"
    assert read_run(path).model.path == ("korean-small/" if run.model.init == "random" else "bert-base-uncased/")
    for data in (run.data.train, run.data.dev, run.data.test):
        assert data is not None and (ROOT / data).is_file()


def test_what_is_shipped_is_what_was_promised() -> None:
    names = {"sts_cosine", "sts_cosent", "pairs_in_batch_negatives", "card_4gb", "sentence_bert_sts"}
    assert names <= {path.stem for path in SHIPPED}
    recipe = read_run(ROOT / "configs/sentence_bert_sts.json")
    training = recipe.training
    assert (training.epochs, training.batch_size, training.learning_rate, training.warmup_ratio) == (4, 16, 2e-5, 0.1)
    assert (recipe.objective, recipe.model.pooling) == ((ObjectiveSettings("cosine"),), "mean")


@pytest.mark.parametrize(
    "name, kind, columns",
    [
        ("nli_towers", "towers", ("premise", "hypothesis")),
        ("nli_joined", "joined", ("premise", "hypothesis")),
        ("sentiment_single", "single", ("document",)),
        ("korean_from_scratch", "single", ("document",)),
    ],
)
def test_shipped_classifiers_are_whole(name: str, kind: str, columns: tuple[str, ...]) -> None:
    run = read_run(ROOT / f"configs/{name}.json")
    assert (run.model.kind, run.data.reading.text_columns) == (kind, columns)
    assert run.model.init == ("random" if name == "korean_from_scratch" else "pretrained")
    assert [one.name for one in run.objective] == ["softmax"]
    classes = run.data.reading.classes
    assert classes is not None
    for path in filter(None, (run.data.train, run.data.dev, run.data.test)):
        header, *lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        assert header.split(",") == [*columns, "label"]
        assert {line.rpartition(",")[2] for line in lines} == {*classes}


# ---------------------------------------------------------------- refusing

BAD_VALUES: list[tuple[str, object, str]] = [
    ("model__path", "", "model.path: expected a text that is not blank, found ''"),
    ("model__path", " \t", "not blank"),
    ("model__path", None, "found null"),
    ("model__path", 7, "(a number: write it in quotes)"),
    ("model__path", "a\0b", "not blank, found 'a\\x00b'"),
    ("model__path", "a\ud800", "found 'a\\ud800'"),
    ("model__path", ["m"], "found ['m']"),
    ("model__max_seq_length", 2, "a whole number of at least 3, or null, found 2"),
    ("model__max_seq_length", "128", "found '128' (a text: write it without quotes)"),
    ("model__max_seq_length", 128.0, "found 128.0 (write 128)"),
    ("model__max_seq_length", True, "found true"),
    ("model__max_seq_length", 10**12, "(more than any run has)"),
    ("model__max_seq_length", 10**400, "found a whole number of more than 18 digits"),
    ("model__kind", "cross_encoder", "one of siamese, towers, joined, single, masked_lm, found 'cross_encoder'"),
    ("model__kind", None, "found null"),
    ("model__kind", ["towers"], "found ['towers']"),
    ("model__init", "scratch", "one of pretrained, random, found 'scratch'"),
    ("model__features", "u,v", "one of uv, difference, uv_difference, uv_difference_product, found 'u,v'"),
    ("model__features", "uv", "model.features: 'uv' is for towers; model.kind is siamese; leave it out"),
    ("model__truncation", True, "one of longest_first, only_first, only_second, found true"),
    ("model__truncation", "only_first", "model.truncation: 'only_first' is for joined; model.kind is siamese"),
    ("model__head_dropout", 1, "a number of at least 0 and below 1, or null, found 1"),
    ("model__head_dropout", 0.1, "model.head_dropout: 0.1 is for towers, joined and single; model.kind is siamese"),
    ("model__head_dropout", 0, "model.head_dropout: 0.0 is for towers, joined and single"),
    ("model__pooling", "Mean", "one of mean, cls, max, pooler, or null, found 'Mean'"),
    ("model__pooling", ["mean"], "found ['mean']"),
    (
        "model__pooling",
        "pooler",
        "model.pooling: pooler is for joined and single; model.kind is siamese; expected mean",
    ),
    ("model__dropout", 1, "a number of at least 0 and below 1, or null, found 1"),
    ("model__dropout", -0.1, "found -0.1"),
    ("model__freeze_embeddings", 1, "true or false, found 1"),
    ("model__freeze_embeddings", "true", "(a text: write it without quotes)"),
    ("model__freeze_embeddings", None, "found null"),
    ("model__freeze_layers", -1, "a whole number of at least 0, found -1"),
    ("data__train", {}, "found an empty object, {}"),
    ("data__dev", 3, "data.dev: expected"),
    ("data__dev_share", 0, "above 0 and at most 0.5, or null, found 0"),
    ("data__dev_share", 0.51, "found 0.51"),
    ("data__text_columns", [], "an array of 1 to 3 different texts that are not blank, or null, found []"),
    ("data__text_columns", ["a"], "expected two or three names, because model.kind is siamese; found ['a']"),
    ("data__text_columns", ["a", "b", "c", "d"], "data.text_columns"),
    ("data__text_columns", ["a", "a"], "data.text_columns"),
    ("data__text_columns", ["a", ""], "data.text_columns"),
    ("data__text_columns", ["a", 1], "found ['a', 1]"),
    ("data__text_columns", "ab", "found 'ab'"),
    ("data__label_column", "", "data.label_column"),
    ("data__label_kind", "labels", "one of scores, classes, or null, found 'labels'"),
    ("data__label_kind", "classes", "data.label_kind: found classes, only for softmax; objective is cosine"),
    ("data__classes", ["a"], "an array of 2 to 10,000 different texts that are not blank, or null, found ['a']"),
    ("data__classes", [0, 1], "found [0, 1]"),
    ("data__classes", ["a", "a"], "data.classes"),
    ("data__classes", [f"{i}" for i in range(10_001)], "found an array of 10001, [...]"),
    ("data__classes", ["a", "b"], "data.classes: ['a', 'b'] are for softmax; objective is cosine; leave it out"),
    ("data__label_values", {}, "an object from label to number"),
    ("data__label_values", {"a": "1"}, "data.label_values"),
    ("data__label_values", {"a": True}, "data.label_values"),
    ("data__label_values", {"a": float("nan")}, "data.label_values"),
    ("data__label_values", {"": 1}, "data.label_values"),
    ("data__label_values", ["a"], "data.label_values"),
    ("data__score_range", [5, 0], "an array of two numbers, the lower first, or null, found [5, 0]"),
    ("data__score_range", [1, 1], "data.score_range"),
    ("data__score_range", [0, 5, 10], "data.score_range"),
    ("data__score_range", [0, float("inf")], "found [0, a number beyond all limits]"),
    ("data__score_range", ["0", "5"], "data.score_range"),
    ("data__encoding", "utf-99", "expected utf-8, cp949 or another that Python knows, found 'utf-99'"),
    ("data__delimiter", ";;", "one character, or comma, semicolon, tab, pipe, or null, found ';;'"),
    ("data__delimiter", "", "data.delimiter"),
    ("data__delimiter", '"', "data.delimiter"),
    ("data__kind", "docx", "one of csv, tsv, jsonl, json, parquet, xlsx, or null"),
    ("data__on_bad_row", "ignore", "one of error, skip, found 'ignore'"),
    ("objective", "cosin", "objective: expected one of cosine, cosent"),
    ("objective", {}, "objective.name: is missing"),
    ("objective", [], "an array of 1 to 8 of these, found []"),
    ("objective", ["cosine"] * 9, "found an array of 9, [...]"),
    ("objective", None, "objective: expected a name or an object"),
    ("objective", 3, "found 3"),
    ("objective", ["cosine", 3], "objective.1: expected a name or an object"),
    ("objective", {"name": "cosent", "scale": 0}, "objective.scale: expected a number above 0, or null, found 0"),
    (
        "objective",
        {"name": "cosine", "scale": 20},
        "objective.scale: is an option of cosent, angle, in_batch_negatives",
    ),
    ("objective", {"name": "cosent", "margin": 1}, "objective.margin: is an option of contrastive"),
    ("objective", {"name": "triplet", "symmetric": True}, "objective.symmetric: is an option of in_batch_negatives"),
    ("objective", {"name": "triplet", "margin": -1}, "objective.margin"),
    ("objective", {"name": "softmax", "class_weight": "equal"}, "objective.class_weight: expected one of balanced"),
    ("objective", {"name": "softmax", "class_weight": True}, "one of balanced, or null, found true"),
    ("objective", {"name": "cosine", "class_weight": "balanced"}, "objective.class_weight: is an option of softmax;"),
    ("objective", "softmax", "objective: softmax trains a classifier, but model.kind is siamese; name another"),
    ("objective", ["cosine", "softmax"], "objective.1: softmax trains a classifier, but model.kind is siamese"),
    ("objective", ["cosine", {"name": "cosent", "weight": 0}], "objective.1.weight: expected a number above 0"),
    ("objective", {"name": "cosine", "wieght": 1}, "objective.wieght: unknown key; did you mean 'weight'?"),
    ("training__epochs", 0, "a whole number of at least 1, found 0"),
    ("training__epochs", "3", "(a text: write it without quotes)"),
    ("training__epochs", "three", "found 'three' (a text)"),
    ("training__epochs", 1.0, "found 1.0 (write 1)"),
    ("training__epochs", 1.5, "found 1.5"),
    ("training__epochs", None, "found null"),
    ("training__max_steps", -1, "a whole number of at least 1, or null, found -1"),
    ("training__batch_size", False, "found false"),
    ("training__batch_size", [16], "found [16]"),
    ("training__accumulation_steps", 0, "training.accumulation_steps"),
    ("training__micro_batch_size", 0, "training.micro_batch_size"),
    ("training__learning_rate", 0, "above 0 and at most 1, found 0"),
    ("training__learning_rate", -2e-5, "found -2e-05"),
    ("training__learning_rate", 2e5, "found 200000.0"),
    ("training__learning_rate", "2e-5", "(a text: write it without quotes)"),
    ("training__learning_rate", float("nan"), "found NaN"),
    ("training__learning_rate", float("inf"), "found a number beyond all limits"),
    ("training__schedule", "polynomial", "one of linear, constant, cosine, found 'polynomial'"),
    ("training__warmup_ratio", 1.1, "a number from 0 to 1, found 1.1"),
    ("training__warmup_steps", 0.1, "training.warmup_steps"),
    ("training__weight_decay", -1, "training.weight_decay"),
    ("training__max_grad_norm", -1, "a number of at least 0, found -1"),
    ("training__max_grad_norm", 10**400, "training.max_grad_norm"),
    ("training__precision", "fp16", "one of auto, float32, bfloat16, float16, found 'fp16'"),
    ("training__device", "gpu", "cpu, cuda, cuda:1 (a card by its number) or mps, or null, found 'gpu'"),
    ("training__device", "cuda:01", "training.device"),
    ("training__seed", -1, "a whole number from 0 to 4,294,967,295, found -1"),
    ("training__seed", 2**32, "training.seed"),
    (
        "training__metric",
        "f1",
        "one of spearman, pearson, average_precision, roc_auc, accuracy, macro_f1, mcc, loss, perplexity, "
        "masked_accuracy, next_sentence_accuracy, ndcg@10, mrr@10, map, recall@1, recall@10, recall@100, or null, "
        "found 'f1'",
    ),
    ("training__eval_steps", 10, "training.eval_steps: 10 needs evaluation pairs; give data.dev or data.dev_share"),
    ("training__metric", "pearson", "training.metric: 'pearson' needs evaluation pairs"),
    ("training__early_stopping_patience", 2, "training.early_stopping_patience: 2 needs evaluation pairs"),
    ("training__logging_steps", 0, "training.logging_steps"),
    ("training__tensorboard", "yes", "true or false, found 'yes' (a text)"),
    ("evaluation__threshold_target", "F1", "f1, or precision>=X or recall>=X"),
    ("evaluation__threshold_target", "precision>=0", "evaluation.threshold_target"),
    ("evaluation__threshold_target", "precision>=1.01", "evaluation.threshold_target"),
    ("evaluation__threshold_target", "recall>0.9", "evaluation.threshold_target"),
    ("evaluation__calibration", None, "one of auto, isotonic, platt, temperature, none, found null"),
    ("evaluation__calibration", "temperature", "temperature is for classes; objective is cosine; expected auto"),
    ("evaluation__match_from", "3", "evaluation.match_from"),
    ("evaluation__bootstrap_samples", 0, "a whole number from 1 to 1,000,000, found 0"),
    ("evaluation__confidence", 1, "a number above 0 and below 1, found 1"),
    ("output_dir", "", "output_dir: expected a text that is not blank"),
    ("model", "bert-base-uncased/", "model: expected an object with keys of model, {...}, found 'bert-base-uncased/'"),
    ("training", None, "training: expected an object"),
    ("data", ["t.csv"], "data: expected an object"),
]


@pytest.mark.parametrize("name, value, expected", BAD_VALUES, ids=lambda item: str(item)[:40])
def test_a_bad_value_is_one_fault_with_its_key(name: str, value: object, expected: str) -> None:
    message = refusal(with_keys(**{name: value}))
    assert expected in message
    assert message.startswith("'run.json': ")
    if name not in ("model", "data"):  # these then miss required keys
        assert name.replace("__", ".") in message and "\n" not in message


@pytest.mark.parametrize(
    "value, expected",
    [
        ({}, ["model.path: is missing", "data.train: is missing", "output_dir: is missing"]),
        (with_keys(data__dev="d", data__dev_share=0.1), ["found both, data.dev 'd' and data.dev_share 0.1"]),
        (
            with_keys(data__text_columns=["a", "b"], data__label_column="b"),
            ["data.label_column: 'b' is one of data.text_columns too"],
        ),
        (
            with_keys(data__score_range=[0, 5], evaluation__match_from=6),
            ["evaluation.match_from: expected a score in data.score_range, [0.0, 5.0], found 6.0"],
        ),
        (with_keys(data__kind="jsonl", data__delimiter="tab"), ["data.delimiter: 'tab' is for csv and tsv"]),
        (with_keys(data__kind="parquet", data__encoding="utf-8"), ["data.encoding: 'utf-8' is for files of text"]),
    ],
)
def test_values_must_go_together(value: Mapping[str, object], expected: list[str]) -> None:
    message = refusal(value)
    assert all(part in message for part in expected)
    assert message.count("\n") == (0 if len(expected) == 1 else len(expected))


DEV = {"data__dev": "d"}
WRONG_KINDS: list[tuple[dict[str, object], str]] = [
    (
        {"model__kind": "towers", "objective": "cosine"},
        "objective: cosine trains a sentence encoder, but model.kind is towers; name softmax or binary_cross_entropy, "
        "or set model.kind to siamese",
    ),
    (
        {"model__kind": "single", "objective": ["softmax", "triplet"]},
        "objective.1: triplet trains a sentence encoder, but model.kind is single",
    ),
    (
        {"model__kind": "joined", "objective": ["softmax", "softmax"]},
        "objective: a classifier has exactly one objective, found 2; keep one of them",
    ),
    (
        {"model__kind": "joined", "objective": {"name": "binary_cross_entropy", "class_weight": "balanced"}},
        "objective.class_weight: is an option of softmax; found 'balanced' for binary_cross_entropy; leave it out",
    ),
    ({"model__kind": "towers", "model__pooling": "pooler"}, "model.pooling: pooler is for joined and single"),
    ({"model__kind": "joined", "model__features": "uv"}, "model.features: 'uv' is for towers; model.kind is joined"),
    ({"model__kind": "single", "model__truncation": "only_first"}, "model.truncation: 'only_first' is for joined"),
    ({"model__kind": "towers", "model__truncation": "only_second"}, "model.truncation: 'only_second' is for joined"),
    (
        {"model__kind": "single", "data__text_columns": ["a", "b"]},
        "data.text_columns: expected one name, because model.kind is single; found ['a', 'b']",
    ),
    (
        {"model__kind": "joined", "data__text_columns": ["a", "b", "c"]},
        "expected two names, because model.kind is joined",
    ),
    ({"model__kind": "towers", "data__text_columns": ["a"]}, "expected two names, because model.kind is towers; found"),
    (
        {"model__init": "random", "model__freeze_layers": 2},
        "model.freeze_layers: 2 would keep random weights, because model.init is random; leave it out",
    ),
    ({"model__init": "random", "model__freeze_embeddings": True}, "model.freeze_embeddings: true would keep random"),
    (
        {"model__kind": "joined", "training__metric": "spearman", **DEV},
        "training.metric: spearman is not of classes; objective is softmax; expected one of accuracy, macro_f1, mcc",
    ),
    (
        {"training__metric": "accuracy", **DEV},
        "training.metric: accuracy is of classes; objective is cosine; expected one of spearman, pearson, "
        "average_precision, roc_auc, or null",
    ),
    (
        {"model__kind": "joined", "objective": "binary_cross_entropy", "training__metric": "mcc", **DEV},
        "training.metric: mcc is of classes; objective is binary_cross_entropy",
    ),
    (
        {"model__kind": "joined", "evaluation__calibration": "platt"},
        "evaluation.calibration: platt is not for classes; objective is softmax; expected auto, temperature or none",
    ),
    (
        {"model__kind": "joined", "objective": "binary_cross_entropy", "evaluation__calibration": "temperature"},
        "temperature is for classes; objective is binary_cross_entropy; expected auto, isotonic, platt or none",
    ),
    (
        {"model__kind": "single", "data__label_kind": "scores"},
        "data.label_kind: found scores, objective is softmax; expected classes, or null",
    ),
    (
        {"model__kind": "single", "objective": "binary_cross_entropy", "data__label_kind": "classes"},
        "data.label_kind: found classes, only for softmax; objective is binary_cross_entropy; expected scores",
    ),
    (
        {"model__kind": "joined", "objective": "binary_cross_entropy", "data__classes": ["a", "b"]},
        "data.classes: ['a', 'b'] are for softmax; objective is binary_cross_entropy; leave it out",
    ),
    (
        {"model__kind": "joined", "data__score_range": [0, 5]},
        "data.score_range: [0.0, 5.0] is for scores; objective is softmax, which has classes; leave it out",
    ),
    ({"model__kind": "joined", "evaluation__match_from": 3}, "evaluation.match_from: 3.0 is for scores; objective is"),
]
OF_LABELS = "is for siamese, towers, joined and single; model.kind is masked_lm; leave it out"
# Of kind masked_lm, which each of these has unless it names another.
WRONG_OF_RAW_TEXTS: list[tuple[dict[str, object], str]] = [
    ({"model__pooling": "mean"}, f"model.pooling: 'mean' {OF_LABELS}"),
    ({"model__pooling": "pooler"}, f"model.pooling: 'pooler' {OF_LABELS}"),
    ({"model__features": "uv"}, "model.features: 'uv' is for towers; model.kind is masked_lm; leave it out"),
    ({"model__truncation": "only_first"}, "model.truncation: 'only_first' is for joined; model.kind is masked_lm"),
    ({"model__head_dropout": 0.1}, "model.head_dropout: 0.1 is for towers, joined and single; model.kind is masked_lm"),
    ({"model__init": "random", "model__freeze_layers": 2}, "model.freeze_layers: 2 would keep random weights"),
    ({"model__init": "random", "model__freeze_embeddings": True}, "model.freeze_embeddings: true would keep random"),
    ({"data__label_column": "score"}, f"data.label_column: 'score' {OF_LABELS}"),
    ({"data__label_kind": "classes"}, f"data.label_kind: 'classes' {OF_LABELS}"),
    ({"data__classes": ["a", "b"]}, f"data.classes: ['a', 'b'] {OF_LABELS}"),
    ({"data__label_values": {"a": 1}}, f"data.label_values: {{'a': 1.0}} {OF_LABELS}"),
    ({"data__score_range": [0, 5]}, f"data.score_range: [0.0, 5.0] {OF_LABELS}"),
    ({"data__on_bad_row": "skip"}, f"data.on_bad_row: 'skip' {OF_LABELS}"),
    ({"data__prompts": "query: "}, "data.prompts: 'query: ' is for siamese; model.kind is masked_lm; leave it out"),
    ({"evaluation__threshold_target": "recall>=0.9"}, f"evaluation.threshold_target: 'recall>=0.9' {OF_LABELS}"),
    ({"evaluation__calibration": "none"}, f"evaluation.calibration: 'none' {OF_LABELS}"),
    ({"evaluation__match_from": 3}, f"evaluation.match_from: 3.0 {OF_LABELS}"),
    (
        {"objective": "cosine"},
        "objective: cosine trains a sentence encoder, but model.kind is masked_lm; name mlm, or mlm and nsp, or set "
        "model.kind to siamese",
    ),
    ({"objective": ["mlm", "softmax"]}, "objective.1: softmax trains a classifier, but model.kind is masked_lm"),
    (
        {"model__kind": "siamese", "objective": "mlm"},
        "objective: mlm trains a masked language model, but model.kind is siamese; name another objective, or set "
        "model.kind to masked_lm",
    ),
    (
        {"model__kind": "single", "objective": ["mlm", "nsp"]},
        "objective.0: mlm trains a masked language model, but model.kind is single; name softmax or",
    ),
    ({"objective": "nsp"}, "objective: expected mlm, or mlm and nsp, found nsp"),
    ({"objective": ["mlm", "mlm"]}, "objective: expected mlm, or mlm and nsp, found mlm and mlm"),
    ({"objective": ["nsp", "mlm", "nsp"]}, "objective: expected mlm, or mlm and nsp, found nsp, mlm and nsp"),
    ({"objective": {"name": "mlm", "mask_share": 0}}, "objective.mask_share: expected a number above 0 and at most 1"),
    ({"objective": {"name": "mlm", "scale": 2}}, "objective.scale: is an option of cosent"),
    (
        {"objective": ["mlm", {"name": "nsp", "whole_words": True}]},
        "objective.1.whole_words: is an option of mlm; found true for nsp; leave it out",
    ),
    (
        {"training__metric": "spearman", **DEV},
        "training.metric: found spearman; objective is mlm; expected one of loss, perplexity, masked_accuracy, or null",
    ),
    (
        {"training__metric": "next_sentence_accuracy", **DEV},
        "training.metric: found next_sentence_accuracy; objective is mlm; expected one of loss, perplexity, "
        "masked_accuracy, or null",
    ),
    (
        {"model__kind": "siamese", "training__metric": "perplexity", **DEV},
        "training.metric: perplexity is of masked tokens; objective is cosine; expected one of spearman",
    ),
    (
        {"model__kind": "siamese", "data__document_column": "title"},
        "data.document_column: 'title' is for masked_lm; model.kind is siamese; leave it out",
    ),
    ({"training__eval_steps": 10}, "training.eval_steps: 10 needs evaluation texts; give data.dev or data.dev_share"),
]


@pytest.mark.parametrize("keys, expected", WRONG_KINDS, ids=lambda item: str(item)[:60])
def test_settings_that_the_kind_of_model_does_not_have_are_one_fault(keys: dict[str, object], expected: str) -> None:
    message = refusal(with_keys(**keys))
    assert expected in message and "\n" not in message


@pytest.mark.parametrize("keys, expected", WRONG_OF_RAW_TEXTS, ids=lambda item: str(item)[:60])
def test_settings_that_a_run_on_raw_texts_does_not_have_are_one_fault(keys: dict[str, object], expected: str) -> None:
    message = refusal(with_keys(**{"model__kind": LANGUAGE_KIND, **keys}))
    assert expected in message and "\n" not in message


@pytest.mark.parametrize("keys, expected", WRONG_OF_RAW_TEXTS, ids=lambda item: str(item)[:60])
def test_pretrain_ends_with_2_and_the_sentence(
    tmp_path: Path, keys: dict[str, object], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    value = with_keys(**keys, output_dir=str(tmp_path / "run"))  # its kind is the command's default
    assert main(["pretrain", str(write(tmp_path / "run.json", json.dumps(value)))]) == 2
    said = capsys.readouterr()
    assert expected in said.err and said.err.count("\n") == 1 and said.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_run_on_raw_texts_is_read_with_all_that_it_has() -> None:
    value = with_keys(
        model__kind=LANGUAGE_KIND,
        data__document_column="title",
        data__text_columns=["text"],
        data__dev_share=0.1,
        objective=[{"name": "mlm", "mask_share": 0.2, "whole_words": True}, {"name": "nsp", "weight": 0.5}],
        training__metric="next_sentence_accuracy",
    )
    run = run_from_json(value, "x")
    assert (run.model.kind, run.data.document_column, run.data.reading.text_columns) == (
        *(LANGUAGE_KIND, "title"),
        ("text",),
    )
    assert run.objective == (ObjectiveSettings("mlm", mask_share=0.2, whole_words=True), ObjectiveSettings("nsp", 0.5))
    assert run.training.metric == "next_sentence_accuracy"
    assert run_from_json(run_to_json(run), "x") == run


def test_where_kind_and_objective_contradict_no_other_key_is_blamed_for_it() -> None:
    keys = {"training__metric": "macro_f1", "data__label_kind": "classes", "evaluation__calibration": "temperature"}
    message = refusal(with_keys(objective="softmax", **DEV, **keys))
    assert message.startswith("'run.json': objective: softmax trains a classifier") and "\n" not in message


def test_a_key_at_fault_silences_the_rules_about_it() -> None:
    for keys in ({"model__kind": "tower"}, {"objective": "sofmax"}, {"model__kind": "joined", "objective": {}}):
        message = refusal(with_keys(**keys, data__label_kind="classes", data__classes=["a", "b"]))
        assert "\n" not in message


@pytest.mark.parametrize("kind", CLASSIFIER_KINDS)
@pytest.mark.parametrize("objective", CLASSIFIER_OBJECTIVES)
def test_every_kind_of_classifier_takes_every_objective_of_classifiers(kind: str, objective: str) -> None:
    run = run_from_json(with_keys(model__kind=kind, objective=objective), "x")
    assert (run.model.kind, run.objective[0].name) == (kind, objective)
    assert run_from_json(run_to_json(run), "x") == run


@pytest.mark.parametrize("name", ["num_labels", "num_classes", "id2label", "label2id", "problem_type"])
def test_what_is_found_out_needs_not_be_told(name: str) -> None:
    wanted = "follows from objective" if name == "problem_type" else "classes are found from the labels in data.train"
    for key in (name, f"model__{name}", f"training__{name}"):
        message = refusal(with_keys(**{key: 2}, model__kind="single"))
        assert message.startswith(f"'run.json': {key.replace('__', '.')}: {wanted}") and "\n" not in message
    with pytest.raises(ConfigError, match=wanted):
        read_run(ROOT / "configs/nli_joined.json", [f"model.{name}=2"])


@pytest.mark.parametrize(
    "name, expected",
    [
        ("training__learning_rat", "training.learning_rat: unknown key; did you mean 'learning_rate'?"),
        ("training__nepochs", "did you mean 'n_epochs'?"),
        ("model__max_seq_lenght", "did you mean 'max_seq_length'?"),
        ("data__dev_shar", "data.dev_shar: unknown key; did you mean 'dev_share'?"),
        ("data__epochs", "data.epochs: unknown key; did you mean 'training.epochs'?"),
        ("training__dev", "did you mean 'data.dev'?"),
        ("evaluation__qqq", "known are threshold_target, calibration, match_from, bootstrap_samples, confidence"),
        ("data__reading", "data.reading: unknown key"),
        ("outputdir", "outputdir: unknown key; did you mean 'output_dir'?"),
        ("trainig", "did you mean 'training'?"),
        ("batchsize", "did you mean 'batch_size'?"),
        ("training__output_dir", "training.output_dir: unknown key; did you mean 'output_dir'?"),
        ("optim", "optim: unknown key"),
        ("optimizer", "optimizer: unknown key"),
        ("training__optim", "training.optim: unknown key"),
        ("scale", "scale: unknown key"),
        ("data__max_len", "data.max_len: unknown key"),
        ("training__max_len", "training.max_len: unknown key"),
        ("training.epochs", "training.epochs: unknown key; write 'epochs' inside of 'training'"),
        ("training__a.b", "training.a.b: unknown key"),
        ("tra\x1bining\n", "tra\\x1bining\\n: unknown key"),
        ("", "unknown key"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(name: str, expected: str) -> None:
    message = refusal(with_keys(**{name: 1}))
    assert expected in message
    assert "\n" not in message and "\x1b" not in message


def test_all_faults_are_said_at_once() -> None:
    value = {
        "model": {"path": "", "max_seq_lenght": 3, "dropout": 1.0},
        "lr": "2e-5",
        "batchsize": 3,
        "training": {"seed": True, "eval_steps": 1.0},
        "data": {"score_range": [5, 0], "dev_share": 0.6},
        "objective": [{"name": "cosine", "scale": 20}, {"name": "cosnet"}],
        "evaluation": {"confidence": 95},
    }
    first, *lines = refusal(value).split("\n")
    assert first == f"'run.json': {len(lines)} faults"
    keys = sorted(line.strip().partition(":")[0] for line in lines)
    assert keys == sorted(
        [
            "model.path",
            "model.max_seq_lenght",
            "model.dropout",
            "training.learning_rate (given as 'lr')",
            "batchsize",
            "training.seed",
            "training.eval_steps",
            "data.score_range",
            "data.dev_share",
            "data.train",
            "objective.0.scale",
            "objective.1.name",
            "evaluation.confidence",
            "output_dir",
        ]
    )


def test_thousands_of_faults_make_a_short_message() -> None:
    message = refusal({**LEAST, **{f"key{i}": i for i in range(50_000)}})
    assert message.count("\n") < 60 and "49980 more unknown keys" in message
    options = {f"option{i}": i for i in range(50_000)}
    message = refusal(with_keys(objective=[{"name": "cosine", **options}] * 8))
    assert message.count("\n") < 60


BAD_FILES: list[tuple[bytes, str]] = [
    (b"", "is empty"),
    (b" \n", "is empty"),
    (b"// nothing but a comment", "is broken JSON at line 1"),
    (b"[]", "holds an array; expected one object, {...}"),
    (b'"text"', "holds a text"),
    (b"null", "holds null"),
    (b"3", "holds a number"),
    (b"{", "is broken JSON at line 1, column 2"),
    (b'{"a": 1}\n{"b": 2}', "is broken JSON at line 2, column 1: Extra data"),
    (b'// c\n// c\n{"a": 1,\n "b" 2}', "is broken JSON at line 4, column 6"),
    (b'{"lr": 2e-5, // the rate\n "seed": 1}', "write a comment on a line of its own"),
    (b'{"lr": 2e-5 // the rate\n}', "write a comment on a line of its own"),
    (b"{'lr': 2e-5}", "double quotes"),
    (b"{\"lr\": '2'}", "write texts and keys in double quotes"),
    (b'{"lr": 1,}', "comma"),
    (b'{"lr": [1,]}', "comma"),
    (b'{"lr": NaN}', "NaN is not a JSON number"),
    (b'{"lr": -Infinity}', "-Infinity is not a JSON number"),
    (b'{"lr": 1, "lr": 2}', "the key 'lr' stands twice in one object"),
    (b'{"training": {"lr": 1, "lr": 1}}', "the key 'lr' stands twice in one object"),
    (b'{"lr": ' + b"9" * 5000 + b"}", ""),
    (b'{"output_dir": "\xff"}', "is not UTF-8 text (byte 16); save it as UTF-8"),
    ('{"lr": 1}'.encode("utf-16"), "is not UTF-8 text"),
    (b"[" * 100_000, "nested too deeply"),
    (b'{"a":' * 100_000, "nested too deeply"),
    (b'{"model": ' + b"[" * 20 + b"]" * 20 + b"}", "nested too deeply"),
    (b"<!doctype html>", "is broken JSON at line 1"),
    (b'{"a": "b\nc"}', "is broken JSON at line 1"),
    (b"{" + b" " * 2**20 + b"}", "is larger than the 1048576 bytes"),
    (json.dumps({**LEAST, "lr": 1}).replace('"lr": 1', '"lr": 1e999').encode(), "found a number beyond all limits"),
]


@pytest.mark.parametrize("content, expected", BAD_FILES, ids=lambda item: str(item)[:30])
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"'{path}': ")) as caught:
        read_run(path)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda path: None, "no such file; 'sbert-ft config init -o FILE' writes one"),
        (lambda path: path.mkdir(), "is a folder; expected a file"),
        (lambda path: os.mkfifo(path), "is a pipe; expected a file"),
        (lambda path: path.symlink_to(path), "cannot be opened "),
    ],
    ids=["missing", "folder", "pipe", "loop"],
)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None], expected: str) -> None:
    make(tmp_path / "run.json")
    with pytest.raises(ConfigError, match=expected):
        read_run(tmp_path / "run.json")
    with pytest.raises(ConfigError, match="no such file"):
        read_run("a\0b")


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_settings_or_a_typed_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        read_run(path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_any_value_of_any_key_is_settings_or_a_typed_error(data: st.DataObject) -> None:
    names = [*FLAT, *KEYS, *SECTIONS]
    drawn = data.draw(st.dictionaries(st.sampled_from(names), JSON_VALUES, max_size=4))
    value = with_keys(**{name.replace(".", "__"): item for name, item in drawn.items() if "." in name})
    value |= {name: item for name, item in drawn.items() if "." not in name}
    try:
        settings = run_from_json(value, "x")
    except ConfigError as error:
        assert str(error).isprintable() or "\n" in str(error)
    else:
        check_settings(settings)
        assert run_from_json(json.loads(json.dumps(run_to_json(settings))), "x") == settings


# ---------------------------------------------------------------- aliases

TUTORIAL = {
    "seed": 42,
    "batch_size": 32,
    "lr": 3e-5,
    "n_epochs": 3,
    "warmup": 0.1,
    "save_steps": 100,
    "total_steps": 345,
}
TRANSFORMERS = {
    "learning_rate": 3e-5,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 32,
    "gradient_accumulation_steps": 2,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "weight_decay": 0.1,
    "max_grad_norm": 0.5,
    "max_steps": 20,
    "logging_steps": 5,
    "save_steps": 7,
    "bf16": True,
    "seed": 1,
}


def test_the_keys_of_the_tutorials_are_understood() -> None:
    expected = TrainingSettings(
        epochs=3, max_steps=345, batch_size=32, learning_rate=3e-5, warmup_ratio=0.1, seed=42, save_steps=100
    )
    assert run_from_json({**LEAST, **TUTORIAL}, "x").training == expected
    assert run_from_json({**LEAST, "training": TUTORIAL}, "x").training == expected


def test_the_names_of_transformers_are_understood() -> None:
    expected = TrainingSettings(
        epochs=3,
        max_steps=20,
        batch_size=32,
        accumulation_steps=2,
        learning_rate=3e-5,
        schedule="cosine",
        warmup_steps=10,
        weight_decay=0.1,
        max_grad_norm=0.5,
        precision="bfloat16",
        seed=1,
        save_steps=7,
        logging_steps=5,
    )
    assert run_from_json({**LEAST, **TRANSFORMERS}, "x").training == expected
    assert run_from_json({**LEAST, "training": TRANSFORMERS}, "x").training == expected


SAMPLES = {
    "training.learning_rate": 3e-5,
    "training.epochs": 3,
    "training.batch_size": 8,
    "training.max_steps": 9,
    "training.accumulation_steps": 2,
    "training.schedule": "cosine",
    "model.max_seq_length": 32,
    "model.head_dropout": 0.3,
}


@pytest.mark.parametrize("alias", [alias for alias, path in ALIASES.items() if path in KEYS])
def test_an_alias_means_its_key_at_the_top_and_in_its_section(alias: str) -> None:
    path = ALIASES[alias]
    section, _, name = path.partition(".")
    value = SAMPLES[path]

    def read(**keys: object) -> RunSettings:
        return run_from_json(with_keys(model__kind="joined", **keys), "x")

    meant = read(**{f"{section}__{name}": value})
    assert meant != read()
    assert read(**{alias: value}) == meant
    assert read(**{f"{section}__{alias}": value}) == meant
    assert read(**{alias: value, f"{section}__{name}": value}) == meant


@pytest.mark.parametrize(
    "keys, expected",
    [
        ({"warmup": 100}, {"warmup_steps": 100}),
        ({"warmup": 0}, {"warmup_steps": 0}),
        ({"warmup": 1}, {"warmup_steps": 1}),
        ({"warmup": 0.06}, {"warmup_ratio": 0.06}),
        ({"warmup": 0.0}, {"warmup_ratio": 0.0}),
        ({"warmup": 0.06, "warmup_ratio": 0.06}, {"warmup_ratio": 0.06}),
        ({"fp16": True}, {"precision": "float16"}),
        ({"bf16": True, "fp16": False}, {"precision": "bfloat16"}),
        ({"fp16": False}, {"precision": "float32"}),
        ({"bf16": False, "fp16": False}, {"precision": "float32"}),
        ({"bf16": False, "precision": "float16"}, {"precision": "float16"}),
        ({"bf16": True, "precision": "bfloat16"}, {"precision": "bfloat16"}),
        ({"lr_scheduler_type": "constant_with_warmup"}, {"schedule": "constant"}),
        ({"total_steps": None}, {"max_steps": None}),
    ],
)
def test_values_say_what_an_alias_means(keys: dict[str, object], expected: dict[str, Any]) -> None:
    meant = replace(TrainingSettings(), **expected)
    assert run_from_json({**LEAST, **keys}, "x").training == meant
    assert run_from_json({**LEAST, "training": keys}, "x").training == meant


@pytest.mark.parametrize(
    "keys, expected",
    [
        ({"lr": 1e-5, "training": {"learning_rate": 2e-5}}, "is given twice, 1e-05 as 'lr' and 2e-05 as"),
        ({"lr": 1e-5, "learning_rate": 2e-5}, "training.learning_rate: is given twice"),
        ({"n_epochs": 2, "num_train_epochs": 3}, "2 as 'n_epochs' and 3 as 'num_train_epochs'; keep one of them"),
        ({"n_epochs": 1, "training": {"epochs": True}}, "1 as 'n_epochs' and true as 'training.epochs'"),
        ({"max_len": 64, "max_length": 32}, "model.max_seq_length: is given twice"),
        ({"warmup": 0.1, "warmup_steps": 10}, "training.warmup_steps: is given twice, null as 'warmup' and 10 as"),
        ({"warmup": 0.1, "warmup_ratio": 0.2}, "training.warmup_ratio: is given twice"),
        ({"warmup": 1.0}, "warmup: expected a whole number of steps, or a share of them of at least 0 and below 1"),
        ({"warmup": -0.1}, "found -0.1"),
        ({"warmup": -1}, "training.warmup_steps (given as 'warmup'): expected a whole number of at least 0"),
        ({"warmup": True}, "warmup: expected a whole number of steps"),
        ({"warmup": "10%"}, "found '10%'"),
        ({"fp16": True, "bf16": True}, "training.precision: fp16 and bf16 are both true; keep one of them"),
        ({"fp16": 1}, "fp16: expected true or false, found 1"),
        ({"fp16": True, "training": {"fp16": False}}, "is given twice, once true and once false"),
        ({"fp16": True, "precision": "float32"}, "'float32' as 'precision' and 'float16' as 'fp16'"),
        ({"fp16": False, "precision": "float16"}, "training.precision: is float16, but fp16 is false"),
        ({"lr": "2e-5"}, "training.learning_rate (given as 'lr'): expected a number"),
        ({"num_train_epochs": 3.0}, "training.epochs (given as 'num_train_epochs'): expected a whole number"),
    ],
)
def test_aliases_that_contradict_or_are_no_value_are_refused(keys: dict[str, object], expected: str) -> None:
    message = refusal({**LEAST, **keys})
    assert expected in message and "\n" not in message


# ---------------------------------------------------------------- overrides


@pytest.fixture
def file(tmp_path: Path) -> Path:
    value = with_keys(data__dev="d.csv", lr=1e-4, training__warmup_steps=7, training__epochs=2)
    return write(tmp_path / "run.json", json.dumps(value))


@pytest.mark.parametrize(
    "override, path, expected",
    [
        ("training.learning_rate=3e-5", "training.learning_rate", 3e-5),
        ("lr=3e-5", "training.learning_rate", 3e-5),
        ("training.lr=3e-5", "training.learning_rate", 3e-5),
        ("n_epochs=3", "training.epochs", 3),
        ("batch_size=3", "training.batch_size", 3),
        (" batch_size = 3", "training.batch_size", 3),
        ("warmup=0.2", "training.warmup_ratio", 0.2),
        ("warmup=0.2", "training.warmup_steps", None),
        ("warmup=5", "training.warmup_steps", 5),
        ("bf16=true", "training.precision", "bfloat16"),
        ("model.path=a=b", "model.path", "a=b"),
        ("model.path=/x/7 8", "model.path", "/x/7 8"),
        ('model.path="7"', "model.path", "7"),
        ("model.path=한국어", "model.path", "한국어"),
        ("data.dev=null", "data.dev", None),
        ("data.delimiter=,", "data.delimiter", ","),
        ('data.text_columns=["q1", "q2"]', "data.text_columns", ["q1", "q2"]),
        ('data.label_values={"yes": 1, "no": 0}', "data.label_values", {"yes": 1.0, "no": 0.0}),
        ("model.freeze_embeddings=true", "model.freeze_embeddings", True),
        ("output_dir=runs/x", "output_dir", "runs/x"),
    ],
)
def test_an_override_takes_the_place_of_what_the_file_says(
    file: Path, override: str, path: str, expected: object
) -> None:
    found = run_to_json(read_run(file, [override]))
    for part in path.split("."):
        found = found[part]
    assert found == expected


@pytest.mark.parametrize(
    "before, overrides, expected",
    [
        (None, ["objective=cosent"], [("cosent", None, 1.0)]),
        (None, ["objective=cosent", "objective.scale=30"], [("cosent", 30.0, 1.0)]),
        ("cosent", ["objective.scale=30"], [("cosent", 30.0, 1.0)]),
        ({"name": "cosent", "scale": 20}, ["objective.scale=null"], [("cosent", None, 1.0)]),
        ({"name": "cosine"}, ["objective.name=angle", "objective.0.scale=5"], [("angle", 5.0, 1.0)]),
        (["cosine", "cosent"], ["objective.1.weight=0.5"], [("cosine", None, 1.0), ("cosent", None, 0.5)]),
        (["cosine"], ['objective=[{"name": "cosent", "scale": 2}]'], [("cosent", 2.0, 1.0)]),
    ],
)
def test_objectives_are_overridden_whole_or_by_option(
    tmp_path: Path, before: object, overrides: list[str], expected: object
) -> None:
    value = LEAST if before is None else with_keys(objective=before)
    run = read_run(write(tmp_path / "run.json", json.dumps(value)), overrides)
    assert [(one.name, one.scale, one.weight) for one in run.objective] == expected


def test_the_objective_that_is_left_out_goes_by_an_overridden_kind(tmp_path: Path) -> None:
    path = write(tmp_path / "run.json", json.dumps(LEAST))
    run = read_run(path, ["objective.class_weight=balanced", "model.kind=single"])
    assert run.objective == (ObjectiveSettings("softmax", class_weight="balanced"),)
    with pytest.raises(ConfigError, match=r"objective: cosent trains a sentence encoder, but model.kind is single"):
        read_run(path, ["objective=cosent", "model.kind=single"])


def test_the_last_override_of_a_key_holds(file: Path) -> None:
    overrides = ["lr=1e-3", "training.learning_rate=2e-3", "fp16=true", "fp16=false"]
    training = read_run(file, overrides).training
    assert (training.learning_rate, training.precision) == (2e-3, "float32")


def test_an_override_mends_what_is_missing_or_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "run.json", '{"data": {"train": "t"}, "training": {"epochs": "one"}, "output_dir": "o"}')
    assert read_run(path, ["model.path=m", "epochs=1"]) == RunSettings(ModelSettings("m"), DataSettings("t"), "o")


@pytest.mark.parametrize(
    "override, expected",
    [
        ("training.learning_rat=1", "training.learning_rat: unknown key; did you mean 'learning_rate'?"),
        ("epoch=1", "epoch: unknown key; did you mean"),
        ("model.lr=1", "model.lr: unknown key"),
        ("data.epochs=1", "did you mean 'training.epochs'?"),
        ("training=1", "--set training: expected one of its keys, such as training.epochs"),
        ('training={"epochs": 1}', "--set training: expected one of its keys"),
        ("data.label_values.yes=1", "--set data.label_values: is set as a whole, as JSON"),
        ("lr.x=1", "lr.x: unknown key"),
        ("objective.scale=5", "objective.scale: is an option of cosent"),
        ("objective.wieght=5", "objective.wieght: unknown key; did you mean 'weight'?"),
        ("objective.1.weight=5", "expected the number of one of 1, such as objective.0.scale"),
        ("objective.-1.weight=5", "expected the number of one of 1"),
        ("objective.x.y=5", "expected the number of one of 1"),
        ("objective.=5", "objective: expected a name or an object"),
        ("training.epochs", "--set 'training.epochs': expected KEY=VALUE, such as training.learning_rate=3e-5"),
        ("=3", "unknown key"),
        ("", "expected KEY=VALUE"),
        ("training.epochs=", "found '' (a text)"),
        ("training.epochs=two", "found 'two' (a text)"),
        ("training.epochs='2'", "found ''2''"),
        ("training.epochs=2.0", "training.epochs: expected a whole number of at least 1, found 2.0 (write 2)"),
        (
            "lr=NaN",
            "training.learning_rate (given as '--set lr'): expected a number above 0 and at most 1, found 'NaN'",
        ),
        ("lr=1e999", "found a number beyond all limits"),
        ("model.path=7", "(a number: write it in quotes)"),
        ("model.path=null", "model.path: expected a text that is not blank, found null"),
        ("data.dev_share=0.1", "found both, data.dev 'd.csv' and data.dev_share 0.1"),
        ("warmup_ratio=0.2", "training.warmup_ratio: has no effect beside training.warmup_steps, 7; add"),
        ("data.label_values=" + "[" * 5000, "data.label_values: expected an object"),
    ],
)
def test_a_bad_override_is_refused(file: Path, override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_run(file, [override])
    message = str(caught.value)
    assert expected in message and "\n" not in message


def test_objectives_that_are_several_must_be_named_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "run.json", json.dumps(with_keys(objective=["cosine", "cosent"])))
    with pytest.raises(ConfigError, match=r"--set objective.scale: expected the number of one of 2"):
        read_run(path, ["objective.scale=3"])


# ---------------------------------------------------------------- writing and reading back

# A path that begins with ~ is refused.
NAMES = st.text(min_size=1, max_size=6).filter(
    lambda text: not text.isspace() and "\0" not in text and text.isprintable() and not text.startswith("~")
)
COUNTS = st.integers(1, MOST_COUNT)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


@st.composite
def runs(draw: st.DrawFn) -> RunSettings:
    """Generate settings that are in range and fit each other."""
    dev_share = draw(maybe(st.floats(0.001, 0.5)))
    dev = None if dev_share is not None else draw(maybe(NAMES))
    judged = dev is not None or dev_share is not None
    low, high = sorted(draw(st.tuples(st.integers(-5, 5), st.integers(6, 9))))
    kind: ModelKind = draw(st.sampled_from(get_args(ModelKind)))
    is_language = kind == LANGUAGE_KIND
    has_classes = kind in CLASSIFIER_KINDS and draw(st.booleans())
    n_texts = {"siamese": draw(st.integers(2, 3)), "single": 1, LANGUAGE_KIND: draw(st.integers(1, 3))}.get(kind, 2)
    classes = st.lists(NAMES, min_size=2, max_size=4, unique=True).map(tuple)
    values = st.dictionaries(NAMES, st.floats(low, high), min_size=1, max_size=3)
    reading = Reading(
        text_columns=draw(maybe(st.lists(NAMES, min_size=n_texts, max_size=n_texts, unique=True).map(tuple))),
        label_kind=draw(st.sampled_from([None, *([] if is_language else ["classes" if has_classes else "scores"])])),
        classes=draw(maybe(classes)) if has_classes else None,
        label_values=None if has_classes or is_language else draw(maybe(values)),
        score_range=None if has_classes or is_language else draw(maybe(st.just((float(low), float(high))))),
        delimiter=draw(st.sampled_from([None, ",", "tab", " "])),
        on_bad_row=draw(st.sampled_from(["error", *([] if is_language else ["skip"])])),
    )
    options = {
        "cosine": {},
        "cosent": {"scale": draw(maybe(st.floats(0.01, 100)))},
        "in_batch_negatives": {"symmetric": draw(st.booleans())},
        "triplet": {"margin": draw(maybe(st.floats(0, 5)))},
    }
    names = draw(st.lists(st.sampled_from([*options]), min_size=1, max_size=3))
    if is_language:
        names = draw(st.sampled_from([["mlm"], ["mlm", "nsp"], ["nsp", "mlm"]]))
        share = draw(maybe(st.floats(0.001, 1)))
        options |= {"mlm": {"mask_share": share, "whole_words": draw(st.booleans())}, "nsp": {}}
    elif kind != "siamese":
        names = ["softmax" if has_classes else "binary_cross_entropy"]
        options |= {"softmax": {"class_weight": draw(st.sampled_from([None, "balanced"]))}, "binary_cross_entropy": {}}
    init: Literal["pretrained", "random"] = draw(st.sampled_from(["pretrained", "random"]))
    poolings = [None] if is_language else [None, "mean", "cls", "max"]
    poolings += ["pooler"] if kind in ("joined", "single") else []
    metrics = choosing_metrics("classes") if has_classes else choosing_metrics("graded", "labels")
    calibrations = ["auto", "none", *(["temperature"] if has_classes else ["isotonic", "platt"])]
    targets = ["f1", "precision>=0.95", "recall>=.9", "recall>=1.0"]
    if is_language:
        metrics = [name for name in choosing_metrics("tokens") if "nsp" in names or name != "next_sentence_accuracy"]
        calibrations, targets = ["auto"], ["f1"]
    prompts = draw(st.sampled_from([None, "query: ", {"question": "query: ", "answer": "passage: "}]))
    retrieval = draw(st.sampled_from([None, {"queries": "q.csv", "corpus": "c.csv", "relevant": "r.qrels"}]))
    return RunSettings(
        model=ModelSettings(
            draw(NAMES),
            kind,
            init,
            max_seq_length=draw(maybe(st.integers(3, 512))),
            pooling=draw(st.sampled_from(poolings)),
            features=draw(st.sampled_from(get_args(Features))) if kind == "towers" else "uv_difference",
            truncation=draw(st.sampled_from(get_args(Truncation))) if kind == "joined" else "longest_first",
            head_dropout=None if kind not in CLASSIFIER_KINDS else draw(maybe(st.floats(0, 0.99))),
            dropout=draw(maybe(st.floats(0, 0.99))),
            freeze_layers=0 if init == "random" else draw(st.integers(0, 12)),
        ),
        data=DataSettings(
            *(draw(NAMES), dev, draw(maybe(NAMES)), dev_share),
            *(
                draw(maybe(NAMES)) if is_language else None,
                *((prompts, retrieval) if kind == "siamese" else (None, None)),
            ),
            reading=reading,
        ),
        output_dir=draw(NAMES),
        objective=tuple(ObjectiveSettings(name, draw(st.floats(0.01, 9)), **options[name]) for name in names),
        training=TrainingSettings(
            epochs=draw(COUNTS),
            max_steps=draw(maybe(COUNTS)),
            learning_rate=draw(st.floats(1e-9, 1)),
            warmup_ratio=draw(st.floats(0, 1)),
            warmup_steps=draw(maybe(st.integers(0, MOST_COUNT))),
            device=draw(st.sampled_from([None, "cpu", "cuda", "cuda:1", "mps"])),
            seed=draw(st.integers(0, 2**32 - 1)),
            eval_steps=draw(maybe(COUNTS)) if judged else None,
            metric=draw(st.sampled_from([None, *metrics])) if judged else None,
        ),
        evaluation=EvaluationSettings(
            threshold_target=draw(st.sampled_from(targets)),
            calibration=draw(st.sampled_from(calibrations)),
            match_from=None if has_classes or is_language else draw(maybe(st.floats(low, high))),
            confidence=draw(st.floats(0.01, 0.99)),
        ),
    )


@given(runs())
def test_what_is_written_is_read_back_equal(run: RunSettings) -> None:
    check_settings(run)
    written = json.loads(json.dumps(run_to_json(run), allow_nan=False))
    assert run_from_json(written, "x") == run
    assert violations(written) == []


def test_the_resolved_configuration_has_every_key() -> None:
    resolved = run_to_json(run_from_json(LEAST, "x"))
    (objective,) = resolved["objective"]
    flat = {f"{section}.{name}" for section in SECTIONS if section != "objective" for name in resolved[section]}
    assert flat | {f"objective.{name}" for name in objective} | {"output_dir", "teacher"} == set(KEYS)
    assert resolved["training"]["warmup_ratio"] == 0.1


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"training": TrainingSettings(learning_rate=-1.0)}, "the settings: training.learning_rate: expected"),
        ({"training": TrainingSettings(epochs=True)}, "training.epochs"),
        ({"training": TrainingSettings(epochs="3")}, "training.epochs"),  # type: ignore[arg-type]
        ({"training": {"epochs": 3}}, "training: expected TrainingSettings, found dict"),
        ({"training": None}, "training: expected TrainingSettings, found NoneType"),
        ({"model": ModelSettings(Path("m"))}, "model.path: expected a text that is not blank, found a PosixPath"),  # type: ignore[arg-type]
        ({"objective": "cosine"}, "objective: expected tuple, found str"),
        ({"objective": ()}, "objective: expected"),
        ({"objective": ("cosine",)}, "objective.0: expected ObjectiveSettings, found str"),
        ({"objective": (ObjectiveSettings("cosine", scale=3.0),)}, "objective.0.scale: is an option of"),
        ({"data": DataSettings("t", reading=None)}, "data.reading: expected Reading, found NoneType"),  # type: ignore[arg-type]
        ({"data": DataSettings("t", "d", dev_share=0.1)}, "data.dev_share: expected a file for dev or a share"),
        ({"output_dir": ""}, "output_dir: expected"),
        (
            {"model": ModelSettings("m", kind="joined")},
            "objective: cosine trains a sentence encoder, but model.kind is",
        ),
        ({"model": ModelSettings("m", kind="cross")}, "model.kind: expected one of siamese"),  # type: ignore[arg-type]
    ],
)
def test_settings_made_in_python_are_checked_alike(change: dict[str, Any], expected: str) -> None:
    good = run_from_json(LEAST, "x")
    check_settings(good)
    with pytest.raises(SbertFtError, match=re.escape(expected).replace("PosixPath", r"\w+Path")):
        check_settings(replace(good, **change))


# ---------------------------------------------------------------- schema, documentation and start


def test_every_field_is_a_key_with_a_meaning() -> None:
    classes = (ModelSettings, DataSettings, Reading, ObjectiveSettings, TrainingSettings, EvaluationSettings)
    names = [field.name for of in classes for field in fields(of) if field.name != "reading"]
    assert [key.name for key in KEYS.values()] == [*names, "output_dir", "teacher"]
    assert all(key.meaning.endswith(".") and "None" not in key.meaning for key in KEYS.values())
    assert {key.path for key in KEYS.values() if key.required} == {
        "model.path",
        "data.train",
        "objective.name",
        "output_dir",
    }


@pytest.mark.parametrize("key", [key for key in KEYS.values() if not key.required], ids=lambda key: key.path)
def test_every_default_is_within_its_range(key: Any) -> None:
    assert key.fault(key.default) is None


def test_names_are_those_of_the_rooms_that_know_them() -> None:
    from sbert_ft.data.file_formats import FORMATS
    from sbert_ft.data.formats import DELIMITER_NAMES
    from sbert_ft.encoder.devices import PRECISIONS

    assert {*KEYS["training.metric"].limits.choices} < METRICS.keys()
    assert {"siamese", *CLASSIFIER_KINDS, LANGUAGE_KIND} == {*get_args(ModelKind)}
    options = {field.name for field in fields(ObjectiveSettings)} - {"name", "weight"}
    of_losses = {option for kind in OBJECTIVES.values() for option in kind.defaults}
    assert options == of_losses | {"matryoshka_dims", "matryoshka_weights"}
    assert KEYS["training.precision"].limits.choices == PRECISIONS
    assert {*KEYS["data.kind"].limits.choices} == {*FORMATS} - {"lines"}
    assert all(KEYS["data.delimiter"].fault(name) is None for name in DELIMITER_NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "f1",
        "precision>=0.95",
        "recall>=.5",
        "recall>=1",
        "recall>=1.00",
        "precision>=0.0",
        "recall>=1.5",
        "f1 ",
        "f1>=0.5",
    ],
)
def test_threshold_targets_are_those_that_a_decision_understands(text: str) -> None:
    from sbert_ft.model_folder.decision import parse_target

    assert (KEYS["evaluation.threshold_target"].fault(text) is None) == (parse_target(text) is not None)


@cache
def the_schema() -> Mapping[str, Any]:
    """Return the schema, which is made but once: `violations` asks for it at every value."""
    return json_schema()


def violations(value: object, schema: Mapping[str, Any] | None = None, at: str = "") -> list[str]:
    """Return where a JSON value violates the schema; checks only what our schema uses of draft 2020-12."""
    whole = the_schema()
    schema = whole if schema is None else schema
    known = {"$schema", "$defs", "title", "description", "default", "type", "properties", "patternProperties"}
    known |= {"required", "additionalProperties", "minProperties", "items", "minItems", "maxItems", "uniqueItems"}
    known |= {"enum", "const", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "anyOf", "$ref"}
    assert set(schema) <= known
    found = []
    if "$ref" in schema:
        target = whole
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        found += violations(value, target, at)
    if "anyOf" in schema and all(violations(value, one, at) for one in schema["anyOf"]):
        found.append(f"{at}: none of anyOf")
    types = schema.get("type", [])
    if types and not any(is_type(value, name) for name in ([types] if isinstance(types, str) else types)):
        return [*found, f"{at}: type"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: enum")
    if "const" in schema and value != schema["const"]:
        found.append(f"{at}: const")
    if isinstance(value, str) and re.search(schema.get("pattern", ""), value) is None:
        found.append(f"{at}: pattern")
    if is_type(value, "number"):
        inside = (
            schema.get("minimum", value) <= value <= schema.get("maximum", value)
            and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
            and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
        )
        found += [] if inside else [f"{at}: range"]
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append(f"{at}: number of items")
        if schema.get("uniqueItems") and len({*map(str, value)}) < len(value):
            found.append(f"{at}: not unique")
        for i, item in enumerate(value):
            found += violations(item, schema.get("items", {}), f"{at}/{i}")
    if isinstance(value, dict):
        found += [f"{at}/{name}: required" for name in schema.get("required", []) if name not in value]
        if len(value) < schema.get("minProperties", 0):
            found.append(f"{at}: too few")
        for name, item in value.items():
            inner = [schema["properties"][name]] if name in schema.get("properties", {}) else []
            inner += [one for pattern, one in schema.get("patternProperties", {}).items() if re.search(pattern, name)]
            other = schema.get("additionalProperties", {})
            if not inner and other is False:
                found.append(f"{at}/{name}: additional")
            for one in inner or ([other] if other else []):
                found += violations(item, one, f"{at}/{name}")
    return found


def is_type(value: object, name: str) -> bool:
    """Return whether a value has a JSON schema type; for a schema, 1.0 is an integer."""
    if name in ("integer", "number"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (name == "number" or isinstance(value, int) or value.is_integer())
    of = {"string": str, "boolean": bool, "null": type(None), "array": list, "object": dict}[name]
    return isinstance(value, of)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_schema_admits_what_is_shipped(path: Path) -> None:
    assert violations(read_json_object(path)) == []
    assert violations(run_to_json(read_run(path))) == []


@pytest.mark.parametrize(
    "value",
    [
        LEAST,
        {**LEAST, **TUTORIAL},
        {**LEAST, "training": TUTORIAL},
        {**LEAST, **TRANSFORMERS},
        {**LEAST, "training": TRANSFORMERS},
        {**LEAST, "warmup": 100, "fp16": True, "max_len": 64, "lr_scheduler_type": "constant_with_warmup"},
        {"$schema": "x", **LEAST, "objective": ["cosine", {"name": "cosent", "scale": 3}]},
        {**LEAST, "model": {"path": "m", "kind": "single"}, "classifier_dropout": 0.2, "objective": "softmax"},
        with_keys(model__kind="joined", data__classes=["a", "b"], data__text_columns=["p", "h"]),
    ],
)
def test_the_schema_admits_aliases_and_every_form(value: dict[str, object]) -> None:
    run_from_json(value, "x")
    assert violations(value) == []


# What a schema cannot express: rules between keys, known codecs, how a number is written.
UNSAID = (
    "needs evaluation pairs",
    "is an option of",
    "model.kind is",
    "objective is",
    "utf-8, cp949",
    "the lower first",
    "found 'a\\x00b'",
    "found 'a\\ud800'",
    "(write ",
    "found NaN",
    "beyond all limits",
    "of more than 18 digits",
    "from label to number",
)


@pytest.mark.parametrize("name, value, expected", BAD_VALUES, ids=lambda item: str(item)[:40])
def test_the_schema_refuses_what_the_reader_refuses(name: str, value: object, expected: str) -> None:
    message = refusal(with_keys(**{name: value}))
    assert violations(with_keys(**{name: value})) or any(part in message for part in UNSAID)


def test_the_schema_is_json_with_a_meaning_for_every_key() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    (_, objective) = schema["$defs"]["objective"]["anyOf"]
    for key in KEYS.values():
        within = objective if key.section == "objective" else schema["properties"].get(key.section, schema)
        found = within["properties"][key.name]
        assert key.meaning in found["description"] and key.expected() in found["description"]
        assert found.get("default", "none") == ("none" if key.required else key.default)
        assert (key.name in within.get("required", [])) == key.required


def test_the_documentation_has_every_key_as_it_is() -> None:
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    for key in (one for top in KEYS.values() for one in (top, *top.members)):
        default = "required" if key.required else f"`{json.dumps(key.default)}`"
        meaning = key.meaning.replace("|", r"\|")  # otherwise it would begin a new cell of the table
        assert f"| `{key.path}` | {default} | {key.expected()} | {meaning} |" in text, key.path
    rows = re.findall(rf"^\| `((?:{'|'.join(SECTIONS)})\.\w+|output_dir|teacher)` \|", text, re.MULTILINE)
    assert rows == [*KEYS]
    for alias, path in ALIASES.items():
        assert f"| `{alias}` |" in text and (path not in KEYS or f"| `{alias}` | `{path}` |" in text)
    for path in SHIPPED:
        assert f"| `{path.name}` |" in text


def test_the_documentations_examples_are_true(tmp_path: Path) -> None:
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    example = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert example is not None
    read_run(write(tmp_path / "run.json", example[1]))
    wholes = [one for one in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if '"output_dir"' in one]
    runs = [read_run(write(tmp_path / "run.json", one)) for one in wholes]
    assert [run.model.kind for run in runs] == ["siamese", "joined"]
    shown = re.search(r"sbert-ft: error: ('run.json': .*?)\n```", text, re.DOTALL)
    assert shown is not None
    value = with_keys(training__learning_rat=1, training__epochs="3", data__dev_share=0.9)
    assert sorted(refusal(value).split("\n")) == sorted(shown[1].split("\n"))
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    (tmp_path / "run.json").write_text(json.dumps(LEAST))
    done = subprocess.run(
        [sys.executable, "-c", code[1]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


def test_meanings_are_not_needed(tmp_path: Path) -> None:
    """Python -OO strips docstrings, the source of the meanings; the check still works."""
    code = "from sbert_ft.config import loader, schema; schema.json_schema(); schema.commented_start(); "
    code += f"print(loader.run_to_json(loader.run_from_json({LEAST!r}, '')) != {{}})"
    done = subprocess.run([sys.executable, "-OO", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


# ---------------------------------------------------------------- keys whose value is an object of settings


def test_an_object_of_settings_is_read_and_overridden_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**LEAST, "teacher": {}}), encoding="utf-8")
    assert read_run(path).teacher == TeacherSettings()
    negatives = ["data.negatives.per_pair=3", "data.negatives.ranks=[0, 5]", "objective=in_batch_negatives"]
    run = read_run(path, ["teacher.texts=more.txt", *negatives])
    assert run.teacher == TeacherSettings(texts="more.txt")
    assert run.data.negatives == NegativeSettings(per_pair=3, ranks=(0, 5))
    assert run_from_json(run_to_json(run), "x") == run == check_settings(run)
    assert run_from_json(LEAST, "x").teacher is None


@pytest.mark.parametrize(
    "teacher, expected",
    [
        (3, "teacher: expected an object with keys of teacher, {...}, or null, found 3"),
        ({"paht": "x"}, "teacher: 'paht' is an unknown key; did you mean 'path'?"),
        ({"pairs_per_text": 0}, "teacher: pairs_per_text: expected a whole number of at least 1, found 0"),
    ],
)
def test_a_fault_in_an_object_of_settings(teacher: object, expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        run_from_json({**LEAST, "teacher": teacher}, "x")


@pytest.mark.parametrize("ranks", [[5, 2], [-1, 2], [0.5, 2], [1], [True, 2]])
def test_ranks_are_two_whole_numbers_the_lower_first(ranks: list[object]) -> None:
    expected = re.escape("data.negatives: ranks: expected an array of two whole numbers, the lower first, found")
    with pytest.raises(ConfigError, match=expected):
        run_from_json({**LEAST, "data": {"train": "x.csv", "negatives": {"ranks": ranks}}}, "x")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"objective": "cosine"}, "data.negatives: mined negatives are for objective in_batch_negatives alone; "
         "objective is cosine; leave them out"),
        ({"objective": ["in_batch_negatives", "cosine"]}, "alone; objective is in_batch_negatives and cosine; leave"),
        ({"negatives": {"per_pair": 4, "ranks": [2, 5]}}, "data.negatives: per_pair: 4 negatives a pair are asked for, "
         "but there are 3 ranks from 2 to 5; ask for fewer, or widen ranks"),
        ({"negatives": {"every_epochs": 3}}, "data.negatives: every_epochs: mining again after 3 has no effect, "
         "because training.epochs is 3; lower it, or leave it out"),
        ({"text_columns": ["a", "b", "c"]}, "data.text_columns: expected two names, found three, ['a', 'b', 'c'], and "
         "data.negatives finds the third texts itself; leave one of both out"),
    ],
)  # fmt: skip
def test_mined_negatives_fit_the_rest_of_a_run(changes: dict[str, Any], expected: str) -> None:
    objective = changes.pop("objective", "in_batch_negatives")
    data = {"train": "x.csv", "negatives": {"every_epochs": 2}, **changes}
    run = {**LEAST, "data": data, "objective": objective, "training": {"epochs": 3}}
    with pytest.raises(ConfigError, match=re.escape(expected)):
        run_from_json(run, "x")


# ---------------------------------------------------------------- the command


def test_the_start_runs_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "init"]) == 0
    printed = capsys.readouterr().out
    assert printed == commented_start()
    path = tmp_path / "run.json"
    assert main(["config", "init", "-o", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == printed
    run = read_run(path)
    assert run == RunSettings(
        ModelSettings("bert-base-uncased/"), DataSettings("train.csv", "dev.csv", "test.csv"), "runs/first"
    )
    shown = read_json_object(path)
    assert {f"{section}.{name}" for section in SECTIONS for name in shown[section]} | {"output_dir", "teacher"} == set(
        KEYS
    )
    assert all(key.meaning.split(".")[0][:30] in printed for key in KEYS.values())
    assert max(map(len, printed.splitlines())) <= 120


def test_the_start_goes_over_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "run.json", "mine")
    assert main(["config", "init", "-o", str(path)]) == 2
    assert "exists, and may hold what you wrote; give another name" in capsys.readouterr().err
    assert path.read_text() == "mine" and [*tmp_path.iterdir()] == [path]
    assert main(["config", "init", "-o", str(tmp_path / "run.yaml")]) == 2
    assert main(["config", "schema", "-o", str(tmp_path / "no" / "run.json")]) == 2


def test_check_prints_the_resolved_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "run.json", "// mine\n" + json.dumps(LEAST))
    (tmp_path / "m").mkdir()
    assert main(["config", "check", "--set", "lr=1e-3", "run.json", "--set", "objective=cosent"]) == 0
    out, said = capsys.readouterr()
    assert json.loads(out) == run_to_json(read_run(tmp_path / "run.json", ["lr=1e-3", "objective=cosent"]))
    assert said == f"warning: data.train: there is no 't.csv' here, in {tmp_path}\n"
    assert main(["config", "check", "run.json", "--quiet"]) == 0


def test_check_says_all_faults_and_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "run.json", json.dumps(with_keys(training__epochs="3", modle={})))
    assert main(["config", "check", str(path)]) == 2
    out, said = capsys.readouterr()
    assert out == "" and "Traceback" not in said
    assert said.startswith(
        f"sbert-ft: error: '{path}': 2 faults\n  modle: unknown key; did you mean 'model'?\n  training.epochs: "
    )
    assert main(["config", "check", str(path), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_schema_is_printed_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == json_schema()
    assert main(["config", "schema", "-o", str(tmp_path / "schema.json")]) == 0
    assert (tmp_path / "schema.json").read_text(encoding="utf-8") == printed


@pytest.mark.parametrize("arguments", [[], ["chek"], ["check"], ["init", "more"], ["init", "--set", "a=b"]])
def test_wrong_usage_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sbert-ft: error: ") and said.count("\n") == 1


@pytest.mark.parametrize("arguments", [["init"], ["schema"], ["check", "configs/sts_cosine.json"], ["check", "--help"]])
def test_the_command_is_light(arguments: list[str]) -> None:
    code = "import sys; from sbert_ft.cli import main; c = main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", f"{code}; sys.exit(c)", "config", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {"torch", "transformers", "numpy", "pandas", "scipy", "sklearn"}.isdisjoint(done.stderr.split())
