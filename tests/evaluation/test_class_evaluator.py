"""Tests of the evaluation of classifiers: results, baselines and warnings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from sbert_ft.config.settings import EvaluationSettings, Reading
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.errors import InputError
from sbert_ft.evaluation.class_evaluator import (
    EvaluationRows,
    class_alarms,
    cosine_baseline,
    evaluate_classes,
    evaluation_rows,
    logit_stream,
    majority_codes,
    predicted_codes,
)
from sbert_ft.evaluation.class_metrics import class_metrics
from sbert_ft.evaluation.evaluator import joined, joined_unless
from sbert_ft.evaluation.results import COSINE_BASELINE, MAJORITY_BASELINE
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.connection_bert import ConnectionBert

SETTINGS = EvaluationSettings(bootstrap_samples=200)
NAMES = ("부정", "보통", "긍정")
CLASSES = Reading(label_kind="classes")
SCORE_KEYS = ("accuracy", "macro_f1", "mcc")


def reviews(labels: list[str]) -> ConnectionDataset:
    """Return single texts of these classes."""
    return ConnectionDataset.from_texts([f"film {i} was good" for i in range(len(labels))], CLASSES, labels=labels)


def film_rows(gold: list[int], name: str = "dev") -> EvaluationRows:
    return evaluation_rows(name, reviews([NAMES[k] for k in gold]), NAMES)


def sure_logits(codes: list[int] | np.ndarray, n_classes: int = 3) -> np.ndarray:
    """Return logits whose most probable classes are these."""
    return (2 * np.eye(n_classes)[np.asarray(codes)]).astype(np.float32)


Make = Callable[[Literal["towers", "joined", "single"]], ClassifierModel]


@pytest.fixture
def make_model(tmp_path: Path, tiny_bert_folder: Callable[..., Path]) -> Make:
    def make(kind: Literal["towers", "joined", "single"]) -> ClassifierModel:
        model = ClassifierModel(
            ConnectionBert.from_pretrained(tiny_bert_folder(tmp_path / "model"), "cpu", "float32"), kind
        )
        model.start_head(NAMES, seed=0)
        return model

    return make


# rows


def test_rows_have_the_numbers_of_the_models_classes() -> None:
    rows = film_rows([2, 0, 1, 2])
    assert (rows.name, len(rows), rows.class_names, rows.note) == ("dev", 4, NAMES, None)
    assert rows.gold.tolist() == [2, 0, 1, 2] and rows.dataset.lines.tolist() == [0, 1, 2, 3]
    assert list(rows.texts())[:2] == ["film 0 was good", "film 1 was good"]


def test_rows_of_two_texts_are_pairs() -> None:
    pairs = [("a man", "the man", "yes"), ("a dog", "a cat", "no")]
    rows = evaluation_rows("test", ConnectionDataset.from_pairs(pairs, CLASSES), ("no", "yes"))
    assert list(rows.texts()) == [("a man", "the man"), ("a dog", "a cat")]
    assert rows.gold.tolist() == [1, 0]


def test_classes_without_rows_are_noted() -> None:
    assert film_rows([0, 0, 2, 2]).note == "no row is '보통'"
    many = tuple(f"k{i}" for i in range(6))
    assert evaluation_rows("dev", reviews(["k0", "k5"]), many).note == "no row is 'k1', 'k2', 'k3' or any of 1 more"


def test_a_label_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(InputError, match="terrible"):
        evaluation_rows("dev", reviews(["부정", "terrible"]), NAMES)


# logits


@pytest.mark.parametrize("kind", ["single", "joined", "towers"])
def test_logits_are_those_of_the_classifier(kind: Literal["towers", "joined", "single"], make_model: Make) -> None:
    model = make_model(kind)
    rows = film_rows([0, 1, 2, 0, 1])
    if kind != "single":
        texts = [*rows.texts()]
        dataset = ConnectionDataset.from_pairs(
            list(zip(texts, texts[::-1], strict=True)), CLASSES, labels=NAMES + NAMES[:2]
        )
        rows = evaluation_rows("dev", dataset, NAMES)
    found = joined(logit_stream(model, rows))
    assert found.shape == (5, 3) and found.dtype == np.float32
    assert predicted_codes(found, rows).tolist() == [NAMES.index(name) for name in model.predict(list(rows.texts()))]
    unstopped = joined_unless(logit_stream(model, rows), lambda: False)
    assert unstopped is not None and unstopped.tolist() == found.tolist()
    assert joined_unless(logit_stream(model, rows), lambda: True) is None


def test_rows_of_another_number_of_texts_are_refused(make_model: Make) -> None:
    with pytest.raises(InputError, match="has one text, but the model needs two texts"):
        logit_stream(make_model("joined"), film_rows([0, 1, 2]))


def test_logits_that_are_no_numbers_have_no_metric_and_no_classes() -> None:
    rows, logits = film_rows([0, 1, 2]), sure_logits([0, 1, 2])
    assert rows.metrics(logits).value("accuracy") == 1
    logits[1, 0] = np.nan
    assert rows.metrics(logits).value("accuracy") is None
    with pytest.raises(InputError, match=r"logits of 1 of 3 rows of '<.*>' are NaN or infinite, first in line 1"):
        predicted_codes(logits, rows)
    with pytest.raises(InputError, match=r"logits of dev have the shape \(3, 1\), expected \(3, 3\)"):
        predicted_codes(logits[:, :1], rows)


# baselines


def test_the_majority_class_is_that_of_the_training_rows() -> None:
    assert majority_codes(np.array([2, 0, 2, 1]), 3, 4).tolist() == [2, 2, 2, 2]
    assert majority_codes(np.array([1, 0]), 3, 2).tolist() == [0, 0]


def test_the_cosine_tells_a_class_between_two_others() -> None:
    random = np.random.default_rng(0)
    codes = random.integers(3, size=600)
    cosines = np.array([0.9, 0.5, 0.1])[codes] + random.normal(0, 0.08, 600)
    found = cosine_baseline(cosines[:400].astype(np.float32), codes[:400], cosines[400:].astype(np.float32))
    assert found.dtype == np.int64
    assert (found == codes[400:]).mean() > 0.95


def test_the_square_lets_one_class_lie_on_both_sides_of_another() -> None:
    cosines = np.linspace(-1, 1, 200)
    codes = (np.abs(cosines) > 0.5).astype(np.int64)
    found = cosine_baseline(cosines, codes, cosines)
    assert (found == codes).mean() > 0.9
    straight = LogisticRegression().fit(cosines[:, None], codes).predict(cosines[:, None])
    assert (straight == codes).mean() < 0.6


def test_the_cosine_never_tells_a_class_that_training_lacks() -> None:
    assert cosine_baseline(np.array([0.1, 0.9, 0.2]), np.array([2, 0, 2]), np.linspace(-1, 1, 50)).max() == 2
    assert set(cosine_baseline(np.array([0.1, 0.9, 0.2]), np.array([2, 0, 2]), np.linspace(-1, 1, 50))) <= {0, 2}
    assert cosine_baseline(np.array([0.1, 0.9]), np.array([1, 1]), np.zeros(3)).tolist() == [1, 1, 1]
    assert len(set(cosine_baseline(np.full(9, 0.5), np.arange(9) % 2, np.zeros(3)).tolist())) == 1
    assert cosine_baseline(np.array([0.1, 0.9]), np.array([0, 1]), np.zeros(0)).shape == (0,)


def test_cosines_that_tell_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="there are 2 cosines and 3 classes"):
        cosine_baseline(np.zeros(2), np.zeros(3, np.int64), np.zeros(1))
    with pytest.raises(InputError, match="a cosine is NaN or infinite"):
        cosine_baseline(np.zeros(2), np.zeros(2, np.int64), np.array([np.nan]))


# one split of metrics.json


def test_a_split_has_all_that_a_report_shows() -> None:
    random = np.random.default_rng(1)
    gold = random.integers(3, size=60)
    rows = film_rows(gold.tolist())
    logits = (sure_logits(gold) + random.normal(0, 1, (60, 3))).astype(np.float32)
    majority, cosine = majority_codes(gold, 3, 60), random.integers(3, size=60)
    found = evaluate_classes(rows, majority, MAJORITY_BASELINE, logits, SETTINGS, {COSINE_BASELINE: cosine})
    after = logits.argmax(axis=1)
    assert (found["source"], found["sha256"], found["n"]) == (rows.dataset.source, rows.dataset.sha256, 60)
    assert (found["classes"], found["before_is"]) == (list(NAMES), "the majority class")
    assert found["confusion"] == sk.confusion_matrix(gold, after).tolist()
    assert tuple(found["after"]) == tuple(found["before"]) == tuple(found["difference"]) == SCORE_KEYS
    assert found["after"]["mcc"] == class_metrics(after, gold, 3).with_intervals(SETTINGS)["mcc"].to_json()
    assert found["before"]["accuracy"]["value"] == pytest.approx((majority == gold).mean())
    assert found["difference"]["accuracy"]["value"] == pytest.approx((after == gold).mean() - (majority == gold).mean())
    assert found["difference"]["mcc"]["reason"] == "before: all rows are predicted as one class"
    assert tuple(found["baselines"][COSINE_BASELINE]) == SCORE_KEYS
    lead = found["baseline_differences"][COSINE_BASELINE]["accuracy"]["value"]
    assert lead == pytest.approx((after == gold).mean() - (cosine == gold).mean())
    assert [entry["name"] for entry in found["per_class"]] == list(NAMES)
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert found["log_loss"] == pytest.approx(sk.log_loss(gold, probabilities))
    assert 0 < found["calibration_error"] < 1
    assert "note" not in found
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_without_anything_before_there_is_no_difference() -> None:
    found = evaluate_classes(film_rows([0, 0, 1, 1]), None, None, sure_logits([0, 0, 1, 1]), SETTINGS)
    assert found["before_is"] is None and "before" not in found and "difference" not in found
    assert found["baselines"] == found["baseline_differences"] == {}
    assert found["note"] == "no row is '긍정'"
    assert class_alarms({"dev": found}, "macro_f1") == []


# alarms


def result_of(
    gold: list[int], before: list[int], before_is: str, after: list[int], baselines: dict[str, Any] | None = None
) -> dict[str, Any]:
    return evaluate_classes(film_rows(gold), np.array(before), before_is, sure_logits(after), SETTINGS, baselines or {})


GOLD = [0, 1, 2] * 20
HALF_RIGHT = [0, 1, 2] * 10 + [1, 2, 0] * 10


def test_a_good_classifier_raises_no_alarm() -> None:
    for metric in SCORE_KEYS:
        result = result_of(GOLD, [0] * 60, MAJORITY_BASELINE, GOLD, {COSINE_BASELINE: np.array(HALF_RIGHT)})
        assert class_alarms({"dev": result, "test": result}, metric) == []


def test_a_classifier_that_is_worse_than_before_is_told() -> None:
    result = result_of(GOLD, GOLD, "the classifier before", HALF_RIGHT)
    (sentence,) = class_alarms({"dev": result}, "accuracy")
    assert sentence.startswith("the tuned model is worse on dev: accuracy changed by -0.5000 (interval -0.")


def test_all_rows_called_one_class_are_told_once() -> None:
    result = result_of(GOLD, [0] * 60, MAJORITY_BASELINE, [1] * 60)
    found = class_alarms({"dev": result}, "macro_f1")
    assert found[0].startswith("the tuned model predicts '보통' for all 60 rows of dev; train longer")
    assert found[1].startswith(
        "the tuned model is no better than the majority class on dev: macro_f1 differs by +0.0000"
    )
    assert len(found) == 2
    only = evaluate_classes(film_rows([1] * 5), None, None, sure_logits([1] * 5), SETTINGS)
    assert class_alarms({"dev": only}, "macro_f1") == []


def test_a_class_that_is_never_predicted_is_told() -> None:
    result = result_of(GOLD, [0] * 60, MAJORITY_BASELINE, [0, 1, 1] * 20)
    (sentence,) = class_alarms({"test": result}, "accuracy")
    assert sentence.startswith("the tuned model never predicts '긍정' on test, 20 of 60 rows; ")


def test_a_classifier_that_hardly_beats_the_majority_class_is_told() -> None:
    gold = [0] * 40 + [1] * 10 + [2] * 10
    hardly = [0] * 40 + [1] + [0] * 9 + [2] + [0] * 9
    hardly[0] = 1
    result = result_of(gold, [0] * 60, MAJORITY_BASELINE, hardly)
    (sentence,) = class_alarms({"dev": result}, "accuracy")
    assert sentence.startswith(
        "the tuned model is not clearly better than the majority class on dev: accuracy differs by +0.0167 (interval -"
    )
    # the majority class has no Matthews' correlation, so accuracy decides
    assert class_alarms({"dev": result}, "mcc") == [sentence]


def test_a_classifier_that_its_untrained_encoder_beats_is_told() -> None:
    result = result_of(GOLD, [0] * 60, MAJORITY_BASELINE, HALF_RIGHT, {COSINE_BASELINE: np.array(GOLD)})
    (sentence,) = class_alarms({"test": result}, "macro_f1")
    assert sentence.startswith(
        "the tuned model is worse than the cosine of the untrained encoder on test: macro_f1 differs by -0.5000 (int"
    )


def test_the_majority_class_among_the_baselines_counts_too() -> None:
    majority = {MAJORITY_BASELINE: np.zeros(60, np.int64)}
    good = result_of(GOLD, HALF_RIGHT, "the classifier before", GOLD, majority)
    assert class_alarms({"dev": good}, "accuracy") == []
    poor = result_of(GOLD, [1, 2, 0] * 20, "the classifier before", [1, 2, 0] * 19 + [0, 1, 2], majority)
    (sentence,) = class_alarms({"dev": poor}, "accuracy")
    assert sentence.startswith("the tuned model is no better than the majority class on dev: accuracy differs by -0.28")
