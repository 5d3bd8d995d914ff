"""Tests of class metrics against scikit-learn, also in every resample, and of undefined metrics."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from sbert_ft.config.settings import EvaluationSettings
from sbert_ft.errors import InputError
from sbert_ft.evaluation import class_metrics as ours
from sbert_ft.evaluation.bootstrap import cell_resamples, resamples
from sbert_ft.evaluation.class_metrics import (
    CLASS_METRIC_NAMES,
    confusion,
    per_class,
)
from sbert_ft.evaluation.metrics import Score

FEW = EvaluationSettings(bootstrap_samples=30)
MANY = EvaluationSettings(bootstrap_samples=2000)
NAMES = ("함의", "neutral", "contradiction")
GOLD = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 2, 2])


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of classes, the gold and two predictions; some classes are absent from some of them."""
    n, n_classes = draw(st.integers(3, 25)), draw(st.integers(2, 5))
    codes = st.lists(st.integers(0, n_classes - 1), min_size=n, max_size=n)
    gold, one, other = (np.array(draw(codes), np.int64) for _ in range(3))
    return n_classes, gold, one, other


def class_metrics(
    predicted: np.ndarray, gold: np.ndarray, n_classes: int, settings: EvaluationSettings, seed: int = 0
) -> dict[str, Score]:
    return ours.class_metrics(predicted, gold, n_classes).with_intervals(settings, seed)


def class_differences(
    before: np.ndarray, after: np.ndarray, gold: np.ndarray, n_classes: int, settings: EvaluationSettings
) -> dict[str, Score]:
    return ours.class_differences(before, after, gold, n_classes).with_intervals(settings)


def class_metric_value(name: str, predicted: np.ndarray, gold: np.ndarray, n_classes: int) -> float | None:
    return ours.class_metrics(predicted, gold, n_classes).value(name)


def by_sklearn(name: str, predicted: np.ndarray, gold: np.ndarray) -> float | None:
    """Return the metric by scikit-learn, None if it is undefined."""
    if name == "accuracy":
        return float(sk.accuracy_score(gold, predicted))
    if name == "macro_f1":
        return float(sk.f1_score(gold, predicted, average="macro", zero_division=0.0))
    if len(np.unique(gold)) == 1 or len(np.unique(predicted)) == 1:
        return None
    return float(sk.matthews_corrcoef(gold, predicted))


def noisy(n: int, right: float, seed: int, n_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions that are partly right, and the gold, with unbalanced classes."""
    random = np.random.default_rng(seed)
    gold = random.choice(n_classes, n, p=np.arange(1, n_classes + 1) / np.arange(1, n_classes + 1).sum())
    return np.where(random.random(n) < right, gold, random.integers(n_classes, size=n)), gold


# values


@given(tables())
def test_values_are_those_of_scikit_learn(table: tuple[int, np.ndarray, np.ndarray, np.ndarray]) -> None:
    n_classes, gold, predicted, _ = table
    found = class_metrics(predicted, gold, n_classes, FEW)
    assert list(found) == list(CLASS_METRIC_NAMES)
    for name, score in found.items():
        expected = by_sklearn(name, predicted, gold)
        assert score.value == (None if expected is None else pytest.approx(expected, abs=1e-12))
        assert class_metric_value(name, predicted, gold, n_classes) == score.value


def test_an_example_by_hand() -> None:
    found = class_metrics(PREDICTED, GOLD, 3, FEW)
    assert found["accuracy"].value == pytest.approx(4 / 6)
    # F1: 2*2/(3+2) = 4/5; 2*1/(2+2) = 1/2; 2*1/(1+2) = 2/3
    assert found["macro_f1"].value == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    # (6*4 - (3*2 + 2*2 + 1*2)) / sqrt((36 - 14) (36 - 12))
    assert found["mcc"].value == pytest.approx(12 / np.sqrt(22 * 24))
    assert confusion(PREDICTED, GOLD, 3).tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]


@given(tables())
def test_the_confusion_table_is_that_of_scikit_learn(table: tuple[int, np.ndarray, np.ndarray, np.ndarray]) -> None:
    n_classes, gold, predicted, _ = table
    found = confusion(predicted, gold, n_classes)
    assert found.dtype == np.int64
    assert found.tolist() == sk.confusion_matrix(gold, predicted, labels=np.arange(n_classes)).tolist()


@given(tables())
def test_precision_recall_and_f1_of_each_class_are_those_of_scikit_learn(
    table: tuple[int, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    n_classes, gold, predicted, _ = table
    names = [f"class {k}" for k in range(n_classes)]
    found = per_class(predicted, gold, names, FEW)
    theirs = sk.precision_recall_fscore_support(gold, predicted, labels=np.arange(n_classes), zero_division=np.nan)
    assert [entry["name"] for entry in found] == names
    for entry, precision, recall, f1, n in zip(found, *theirs, strict=True):
        assert (entry["n"], entry["n_predicted"]) == (n, (predicted == names.index(entry["name"])).sum())
        assert entry["precision"] == (pytest.approx(precision) if entry["n_predicted"] else None)
        assert entry["recall"] == (pytest.approx(recall) if n else None)
        # scikit-learn has 0 where a class is predicted and never occurs, as it counts in the macro F1
        assert entry["f1"]["value"] == (pytest.approx(f1) if n or entry["n_predicted"] else None)
    json.dumps(found, allow_nan=False)


def test_the_macro_f1_is_the_mean_of_the_defined_f1_of_classes() -> None:
    predicted, gold = noisy(200, 0.5, seed=1)
    of_classes = [entry["f1"]["value"] for entry in per_class(predicted, gold, [*NAMES, "never"], FEW)]
    assert of_classes[3] is None
    assert class_metric_value("macro_f1", predicted, gold, 4) == pytest.approx(np.mean(of_classes[:3]))


# what is undefined


def test_one_class_alone_has_no_correlation() -> None:
    all_neutral = np.ones(6, np.int64)
    assert class_metrics(all_neutral, GOLD, 3, FEW)["mcc"].reason == "all rows are predicted as one class"
    assert class_metrics(GOLD, all_neutral, 3, FEW)["mcc"].reason == "all rows are of one class"
    assert class_metric_value("mcc", all_neutral, GOLD, 3) is None
    assert class_metrics(all_neutral, GOLD, 3, FEW)["accuracy"].value == pytest.approx(2 / 6)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_rows_have_no_metric_and_no_warning(n: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = class_metrics(PREDICTED[:n], GOLD[:n], 3, FEW)
        changes = class_differences(PREDICTED[:n], GOLD[:n], GOLD[:n], 3, FEW)
        classes = per_class(PREDICTED[:n], GOLD[:n], NAMES, FEW)
        table = confusion(PREDICTED[:n], GOLD[:n], 3)
    assert {score.value for score in found.values()} == {None}
    assert found["accuracy"].reason == f"{n} row{'' if n == 1 else 's'}, too few: at least 3 are needed"
    assert (changes["mcc"].reason or "").startswith(f"before: {n} row")
    assert sum(entry["n"] for entry in classes) == table.sum() == n


def test_a_class_that_neither_occurs_nor_is_predicted_says_so() -> None:
    found = per_class(PREDICTED, GOLD, (*NAMES, "never"), FEW)[3]
    reason = "the class neither occurs nor is predicted"
    assert found == {
        "name": "never",
        **{"n": 0, "n_predicted": 0, "precision": None, "recall": None},
        "f1": {"value": None, "low": None, "high": None, "reason": reason},
    }


def test_a_class_of_one_row_has_a_value_without_an_interval_where_most_resamples_lack_it() -> None:
    gold = np.zeros(50, np.int64)
    predicted = gold.copy()
    gold[0] = predicted[0] = 1
    found = class_metrics(predicted, gold, 2, EvaluationSettings(bootstrap_samples=400))
    assert found["mcc"].value == 1 and found["mcc"].low is not None  # 36 % of resamples lack the row
    gold[1] = 2
    rare = per_class(gold, gold, NAMES, EvaluationSettings(bootstrap_samples=400))
    assert [entry["f1"]["value"] for entry in rare] == [1, 1, 1]
    assert class_metrics(np.roll(predicted, 1), predicted, 2, FEW)["mcc"].value == pytest.approx(-1 / 49)


# intervals


@pytest.mark.parametrize("n_classes", [2, 3, 40])
def test_every_resample_has_the_metrics_of_scikit_learn(n_classes: int) -> None:
    predicted, gold = noisy(60, 0.6, seed=2, n_classes=n_classes)
    cells = ours._Cells.of(n_classes, gold, predicted)
    counts = next(cell_resamples(cells.n, 25, seed=3))
    totals = cells.totals()(counts)
    for place, drawn in enumerate(counts.astype(np.int64)):
        rows = [np.repeat(column, drawn) for column in cells.columns]
        assert len(rows[0]) == 60
        for name, values in totals.metrics().items():
            assert values[place] == pytest.approx(by_sklearn(name, rows[1], rows[0]), abs=1e-12)


def test_drawn_cells_are_spread_as_drawn_rows_are() -> None:
    cell_of_row = np.repeat([0, 1, 2, 3], [50, 30, 15, 5])
    by_rows = np.concatenate(list(resamples(100, 4000, seed=0))) @ np.eye(4)[cell_of_row]
    by_cells = np.concatenate(list(cell_resamples(np.bincount(cell_of_row), 4000, seed=0)))
    assert by_cells.shape == by_rows.shape and (by_cells.sum(axis=1) == 100).all()
    for cell in range(4):
        assert stats.ks_2samp(by_rows[:, cell], by_cells[:, cell]).pvalue > 0.001
    assert np.cov(by_cells.T) == pytest.approx(np.cov(by_rows.T), abs=2)


@pytest.mark.parametrize("name", CLASS_METRIC_NAMES)
def test_an_interval_is_near_that_of_scipys_bootstrap(name: str) -> None:
    predicted, gold = noisy(150, 0.6, seed=4)
    theirs = stats.bootstrap(
        (predicted, gold),
        lambda x, y: by_sklearn(name, x, y),
        paired=True,
        vectorized=False,
        n_resamples=400,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = class_metrics(predicted, gold, 3, MANY)[name]
    assert (found.low, found.high) == (pytest.approx(theirs.low, abs=0.025), pytest.approx(theirs.high, abs=0.025))


def test_intervals_follow_from_the_seed_and_hold_the_value() -> None:
    predicted, gold = noisy(300, 0.7, seed=5)
    found = class_metrics(predicted, gold, 3, MANY, seed=1)
    assert found == class_metrics(predicted, gold, 3, MANY, seed=1) != class_metrics(predicted, gold, 3, MANY, seed=2)
    assert per_class(predicted, gold, NAMES, FEW) == per_class(predicted, gold, NAMES, FEW)
    for score in [*found.values()]:
        assert score.low is not None and score.value is not None and score.high is not None
        assert score.low < score.value < score.high
    narrow = class_metrics(*noisy(30_000, 0.7, seed=5), 3, MANY)["accuracy"]
    assert narrow.low is not None and narrow.high is not None and narrow.high - narrow.low < 0.012


def test_the_order_of_rows_changes_nothing() -> None:
    predicted, gold = noisy(100, 0.7, seed=6)
    order = np.random.default_rng(0).permutation(100)
    assert class_metrics(predicted, gold, 3, FEW) == class_metrics(predicted[order], gold[order], 3, FEW)


# differences


@given(tables())
def test_a_difference_is_after_minus_before(table: tuple[int, np.ndarray, np.ndarray, np.ndarray]) -> None:
    n_classes, gold, before, after = table
    sides = class_metrics(before, gold, n_classes, FEW), class_metrics(after, gold, n_classes, FEW)
    for name, score in class_differences(before, after, gold, n_classes, FEW).items():
        earlier, later = sides[0][name], sides[1][name]
        if earlier.value is None:
            assert (score.value, score.reason) == (None, f"before: {earlier.reason}")
        elif later.value is None:
            assert (score.value, score.reason) == (None, f"after: {later.reason}")
        else:
            assert score.value == later.value - earlier.value


def test_resamples_of_a_difference_are_paired() -> None:
    before, gold = noisy(400, 0.6, seed=7)
    after = before.copy()
    after[:4] = gold[:4]
    found = class_differences(before, after, gold, 3, MANY)["accuracy"]
    alone = class_metrics(after, gold, 3, MANY)["accuracy"]
    assert None not in (found.low, found.high, alone.low, alone.high)
    assert found.high - found.low < (alone.high - alone.low) / 4  # type: ignore[operator]
    same = class_differences(before, before, gold, 3, MANY)
    assert {(score.value, score.low, score.high) for score in same.values()} == {(0.0, 0.0, 0.0)}


def test_a_thousand_classes_are_no_burden() -> None:
    predicted, gold = noisy(5000, 0.7, seed=8, n_classes=1000)
    found = class_metrics(predicted, gold, 1000, FEW)
    assert found["macro_f1"].value == pytest.approx(by_sklearn("macro_f1", predicted, gold))
    changes = class_differences(np.roll(predicted, 1), predicted, gold, 1000, FEW)
    assert (changes["mcc"].low or 0.0) > 0.5
    assert len(per_class(predicted, gold, [str(k) for k in range(1000)], FEW)) == 1000


def test_per_class_intervals_are_made_from_fewer_resamples_where_memory_asks_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predicted, gold = noisy(300, 0.7, seed=9)
    few = per_class(predicted, gold, NAMES, EvaluationSettings(bootstrap_samples=20))
    monkeypatch.setattr(ours, "_MOST_HELD", 60)
    assert per_class(predicted, gold, NAMES, EvaluationSettings(bootstrap_samples=1_000_000)) == few


# arguments


def test_wrong_arguments_are_refused_with_what_is_wrong() -> None:
    with pytest.raises(InputError, match="the metric is 'f1', expected one of accuracy, macro_f1, mcc"):
        class_metric_value("f1", PREDICTED, GOLD, 3)
    with pytest.raises(InputError, match="gold: there is a class number 2, expected 0 to 1"):
        class_metrics(np.zeros(6, np.int64), GOLD, 2, FEW)
    with pytest.raises(InputError, match="predicted: there is a class number -1, expected 0 to 2"):
        confusion(PREDICTED - 1, GOLD, 3)
    with pytest.raises(InputError, match="predicted has 5, gold has 6: expected one class number per row in each"):
        per_class(PREDICTED[:5], GOLD, NAMES, FEW)
    with pytest.raises(InputError, match=r"before: shape \(6,\) of float64, expected one whole number per row"):
        class_differences(PREDICTED + 0.5, PREDICTED, GOLD, 3, FEW)
