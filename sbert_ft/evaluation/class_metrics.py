"""Metrics of predicted classes: accuracy, macro F1 and Matthews' correlation, with bootstrap intervals.

All of them follow from how often each class was predicted for each gold class. Rows with the same gold and the same
prediction are one cell, and a bootstrap resample draws the counts of the cells (`bootstrap.cell_resamples`), so an
interval costs the same for a thousand rows as for a million, and no table of classes by classes is stored for each
resample. An undefined metric is None with a reason, as in `metrics`. Letters: N rows, K classes, U cells that occur, B
resamples; a code is the number of a class, from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.metrics import choosing_metrics
from sbert_ft.config.settings import EvaluationSettings
from sbert_ft.errors import InputError, quoted
from sbert_ft.evaluation.bootstrap import Floats, Groups, cell_resamples, divided
from sbert_ft.evaluation.metrics import Score

Codes = NDArray[np.int64]

# The metrics that can choose the best step of a run.
CLASS_METRIC_NAMES: Final = choosing_metrics("classes")
_LEAST_ROWS = 3
# F1 values (classes times resamples) in memory at once: a quarter of a gigabyte.
_MOST_HELD = 2**25


@dataclass(frozen=True)
class _Totals:
    """Counts of the resamples for each class.

    Attributes:
        right: Rows of the class that were predicted as it, shape (B, K).
        gold: Rows of the class, shape (B, K).
        predicted: Rows predicted as the class, shape (B, K).
    """

    right: Floats
    gold: Floats
    predicted: Floats

    def accuracy(self) -> Floats:
        """Return the share of right rows, shape (B,)."""
        return divided(self.right.sum(axis=1), self.gold.sum(axis=1))

    def f1(self) -> Floats:
        """Return F1 of each class, shape (B, K); NaN if the class neither occurs nor is predicted."""
        return divided(2 * self.right, self.gold + self.predicted)

    def macro_f1(self) -> Floats:
        """Return the mean F1 of the classes that occur or are predicted, shape (B,)."""
        f1 = self.f1()
        return divided(np.nan_to_num(f1).sum(axis=1), (~np.isnan(f1)).sum(axis=1))

    def mcc(self) -> Floats:
        """Return Matthews' correlation of K classes, shape (B,); NaN if gold or predictions are one class.

        It is R_K of Gorodkin (2004), "Comparing two K-category assignments by a K-category correlation coefficient".
        """
        n = self.gold.sum(axis=1)
        spread_gold = n * n - (self.gold**2).sum(axis=1)
        spread_predicted = n * n - (self.predicted**2).sum(axis=1)
        covariance = n * self.right.sum(axis=1) - (self.gold * self.predicted).sum(axis=1)
        return np.clip(divided(covariance, np.sqrt(spread_gold) * np.sqrt(spread_predicted)), -1.0, 1.0)


_OF_TOTALS: Mapping[str, Callable[[_Totals], Floats]] = {
    "accuracy": _Totals.accuracy,
    "macro_f1": _Totals.macro_f1,
    "mcc": _Totals.mcc,
}


@dataclass(frozen=True)
class _Cells:
    """Rows with the same codes, counted as one cell.

    Attributes:
        n: Number of rows in each cell, shape (U,).
        columns: The codes of each cell, one array of shape (U,) for each sequence.
        n_classes: K.
    """

    n: Codes
    columns: tuple[Codes, ...]
    n_classes: int

    @classmethod
    def of(cls, n_classes: int, *sequences: Codes) -> _Cells:
        """Return the cells of sequences of codes, shape (N,) each."""
        number = sequences[0]
        for codes in sequences[1:]:
            number = number * n_classes + codes
        _, first, n = np.unique(number, return_index=True, return_counts=True)
        return cls(n.astype(np.int64), tuple(codes[first] for codes in sequences), n_classes)

    def totals(self, predicted: int = 1) -> Callable[[Floats], _Totals]:
        """Return a function from counts of the cells, shape (B, U), to the totals of each class.

        Args:
            predicted: Index of the column with the predictions; column 0 has the gold.
        """
        sides = [self.columns[0], self.columns[predicted]]
        is_right = sides[0] == sides[1]
        gold_groups, predicted_groups = (Groups.of(codes.astype(np.float64)) for codes in sides)

        def by_class(groups: Groups, counts: Floats) -> Floats:
            sums = np.zeros((len(counts), self.n_classes))
            sums[:, groups.values.astype(np.int64)] = groups.sums(counts)
            return sums

        return lambda counts: _Totals(
            by_class(gold_groups, counts * is_right), by_class(gold_groups, counts), by_class(predicted_groups, counts)
        )

    def as_they_are(self) -> Floats:
        """Return the counts of the rows themselves, shape (1, U)."""
        return self.n[None, :].astype(np.float64)


def class_metrics(
    predicted: Codes, gold: Codes, n_classes: int, settings: EvaluationSettings, seed: int = 0
) -> dict[str, Score]:
    """Return accuracy, macro_f1 and mcc.

    macro_f1 is the mean over the classes that occur in the gold or are predicted, as in scikit-learn; mcc is undefined
    if either has only one class.

    Args:
        predicted: Shape (N,), int64.
        gold: Shape (N,), int64.
        n_classes: K.
        settings: Number of resamples and confidence of the intervals.
        seed: Seed of the resamples.

    Raises:
        InputError: Shapes differ, or a code is not in 0..K-1.
    """
    _check(n_classes, predicted=predicted, gold=gold)
    return _with_intervals(_values(predicted, gold, n_classes), (gold, predicted), n_classes, settings, seed)


def class_differences(
    before: Codes, after: Codes, gold: Codes, n_classes: int, settings: EvaluationSettings, seed: int = 0
) -> dict[str, Score]:
    """Return after minus before of each metric, with the interval of the difference over the same resamples.

    Args:
        before: Shape (N,), int64: predictions of one model.
        after: Shape (N,), int64: predictions of another one for the same rows.
        gold: Shape (N,), int64.
        n_classes: K.
        settings: Number of resamples and confidence of the intervals.
        seed: Seed of the resamples.

    Raises:
        InputError: Shapes differ, or a code is not in 0..K-1.
    """
    _check(n_classes, before=before, after=after, gold=gold)
    values = {}
    sides = _values(before, gold, n_classes), _values(after, gold, n_classes)
    for name in CLASS_METRIC_NAMES:
        earlier, later = (side[name] for side in sides)
        if earlier.value is None or later.value is None:
            reason = f"before: {earlier.reason}" if earlier.value is None else f"after: {later.reason}"
            values[name] = Score(None, reason=reason)
        else:
            values[name] = Score(later.value - earlier.value)
    return _with_intervals(values, (gold, before, after), n_classes, settings, seed)


def class_metric_value(name: str, predicted: Codes, gold: Codes, n_classes: int) -> float | None:
    """Return one metric without an interval; None if it is undefined.

    Args:
        name: One of CLASS_METRIC_NAMES.
        predicted: Shape (N,), int64.
        gold: Shape (N,), int64.
        n_classes: K.

    Raises:
        InputError: The name is unknown, shapes differ, or a code is not in 0..K-1.
    """
    if name not in CLASS_METRIC_NAMES:
        raise InputError(f"the metric is {quoted(name)}, expected one of {', '.join(CLASS_METRIC_NAMES)}")
    _check(n_classes, predicted=predicted, gold=gold)
    return _values(predicted, gold, n_classes)[name].value


def per_class(
    predicted: Codes, gold: Codes, class_names: Sequence[str], settings: EvaluationSettings, seed: int = 0
) -> list[dict[str, Any]]:
    """Return one entry per class, in their order: name, n, n_predicted, precision, recall, f1.

    n counts the rows of the class, n_predicted the rows predicted as the class. Precision is None if n_predicted is 0,
    recall if n is 0, and the value of f1 (a `Score` as JSON) if both are 0.

    Args:
        predicted: Shape (N,), int64.
        gold: Shape (N,), int64.
        class_names: K names.
        settings: Number of resamples (fewer if there are many classes) and confidence of the intervals.
        seed: Seed of the resamples.

    Raises:
        InputError: Shapes differ, or a code is not in 0..K-1.
    """
    n_classes = len(class_names)
    _check(n_classes, predicted=predicted, gold=gold)
    if not len(gold):
        n_right = n_gold = n_predicted = np.zeros(n_classes)
        f1, resampled = np.full(n_classes, np.nan), np.zeros((0, n_classes))
    else:
        cells = _Cells.of(n_classes, gold, predicted)
        totals = cells.totals()
        whole = totals(cells.as_they_are())
        n_right, n_gold, n_predicted, f1 = whole.right[0], whole.gold[0], whole.predicted[0], whole.f1()[0]
        n_resamples = min(settings.bootstrap_samples, max(1, _MOST_HELD // n_classes))
        resampled = np.concatenate([totals(counts).f1() for counts in cell_resamples(cells.n, n_resamples, seed)])
    return [
        {
            "name": name,
            "n": int(n_gold[k]),
            "n_predicted": int(n_predicted[k]),
            "precision": float(n_right[k] / n_predicted[k]) if n_predicted[k] else None,
            "recall": float(n_right[k] / n_gold[k]) if n_gold[k] else None,
            "f1": _f1_score(float(f1[k]), resampled[:, k], settings.confidence).to_json(),
        }
        for k, name in enumerate(class_names)
    ]


def confusion(predicted: Codes, gold: Codes, n_classes: int) -> NDArray[np.int64]:
    """Return how often each class was predicted for each gold class: shape (K, K), int64, a row for each gold class.

    Args:
        predicted: Shape (N,), int64.
        gold: Shape (N,), int64.
        n_classes: K.

    Raises:
        InputError: Shapes differ, or a code is not in 0..K-1.
    """
    _check(n_classes, predicted=predicted, gold=gold)
    counts = np.bincount(gold * n_classes + predicted, minlength=n_classes * n_classes)
    return counts.reshape(n_classes, n_classes).astype(np.int64)


def _values(predicted: Codes, gold: Codes, n_classes: int) -> dict[str, Score]:
    """Return each metric without an interval, or the reason why it is undefined."""
    n_rows = len(gold)
    if n_rows < _LEAST_ROWS:
        reason = f"{n_rows} row{'' if n_rows == 1 else 's'}, too few: at least {_LEAST_ROWS} are needed"
        return {name: Score(None, reason=reason) for name in CLASS_METRIC_NAMES}
    cells = _Cells.of(n_classes, gold, predicted)
    totals = cells.totals()(cells.as_they_are())
    values = {name: float(of_totals(totals)[0]) for name, of_totals in _OF_TOTALS.items()}
    scores = {name: Score(value) for name, value in values.items() if not np.isnan(value)}
    if "mcc" not in scores:
        which = "are of one class" if (gold == gold[0]).all() else "are predicted as one class"
        scores["mcc"] = Score(None, reason=f"all rows {which}")
    return scores


def _with_intervals(
    values: Mapping[str, Score], sequences: tuple[Codes, ...], n_classes: int, settings: EvaluationSettings, seed: int
) -> dict[str, Score]:
    """Return the values with their intervals.

    Args:
        values: Without intervals.
        sequences: The gold and the predictions of one model, or of two if the values are the second minus the first.
        n_classes: K.
        settings: Number of resamples and confidence of the intervals.
        seed: Seed of the resamples.
    """
    resampled: dict[str, list[Floats]] = {name: [] for name, score in values.items() if score.value is not None}
    if not resampled:
        return dict(values)
    cells = _Cells.of(n_classes, *sequences)
    models = [cells.totals(column) for column in range(1, len(sequences))]
    for counts in cell_resamples(cells.n, settings.bootstrap_samples, seed):
        totals = [totals_of(counts) for totals_of in models]
        for name, parts in resampled.items():
            first, *second = (_OF_TOTALS[name](of_model) for of_model in totals)
            parts.append(second[0] - first if second else first)
    return {
        name: score
        if score.value is None
        else Score.of_resamples(score.value, np.concatenate(resampled[name]), settings.confidence)
        for name, score in values.items()
    }


def _f1_score(value: float, resampled: Floats, confidence: float) -> Score:
    if np.isnan(value):
        return Score(None, reason="the class neither occurs nor is predicted")
    return Score.of_resamples(value, resampled, confidence)


def _check(n_classes: int, **sequences: Codes) -> None:
    """Raise InputError unless each sequence has one code per row."""
    shapes = {codes.shape for codes in sequences.values()}
    for name, codes in sequences.items():
        if codes.ndim != 1 or not np.issubdtype(codes.dtype, np.integer):
            raise InputError(f"{name}: shape {codes.shape} of {codes.dtype}, expected one whole number per row")
        if len(codes) and not 0 <= codes.min() <= codes.max() < n_classes:
            wrong = codes.min() if codes.min() < 0 else codes.max()
            raise InputError(f"{name}: there is a class number {wrong}, expected 0 to {n_classes - 1}")
    if len(shapes) > 1:
        found = ", ".join(f"{name} has {len(codes)}" for name, codes in sequences.items())
        raise InputError(f"{found}: expected one class number per row in each")
