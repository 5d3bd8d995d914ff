"""Metrics of predicted classes: accuracy, macro F1 and Matthews' correlation, with bootstrap intervals.

All of them follow from how often each class was predicted for each gold class. Rows with the same gold and the same
prediction are one cell, and a bootstrap resample draws the counts of the cells (`bootstrap.cell_resamples`), so an
interval costs the same for a thousand rows as for a million, and no table of classes by classes is stored for each
resample. An undefined metric is None with a reason, as in `metrics`. Letters: N rows, K classes, U cells that occur, B
resamples; a code is the number of a class, from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sbert_ft.config.metrics import choosing_metrics
from sbert_ft.config.settings import EvaluationSettings
from sbert_ft.errors import InputError
from sbert_ft.evaluation.bootstrap import Floats, cell_resamples, divided
from sbert_ft.evaluation.metrics import Metrics, Score, too_few

Codes = NDArray[np.int64]

# The metrics that can choose the best step of a run.
CLASS_METRIC_NAMES: Final = choosing_metrics("classes")
_LEAST_ROWS = 3
# F1 values (classes times resamples) in memory at once: a quarter of a gigabyte.
_MOST_HELD = 2**25


@dataclass(frozen=True)
class _Totals:
    """Counts of the resamples for each class, shape (B, K) each."""

    right: Floats  # rows of the class that were predicted as it
    gold: Floats  # rows of the class
    predicted: Floats  # rows predicted as the class

    def f1(self) -> Floats:
        """Return F1 of each class, shape (B, K); NaN if the class neither occurs nor is predicted."""
        return divided(2 * self.right, self.gold + self.predicted)

    def metrics(self) -> dict[str, Floats]:
        """Return each metric, shape (B,); mcc is NaN if gold or predictions are one class.

        mcc is R_K of Gorodkin (2004), "Comparing two K-category assignments by a K-category correlation coefficient".
        """
        n, f1 = self.gold.sum(axis=1), self.f1()
        spread_gold = n * n - (self.gold**2).sum(axis=1)
        spread_predicted = n * n - (self.predicted**2).sum(axis=1)
        covariance = n * self.right.sum(axis=1) - (self.gold * self.predicted).sum(axis=1)
        return {
            "accuracy": divided(self.right.sum(axis=1), n),
            "macro_f1": divided(np.nan_to_num(f1).sum(axis=1), (~np.isnan(f1)).sum(axis=1)),
            "mcc": np.clip(divided(covariance, np.sqrt(spread_gold) * np.sqrt(spread_predicted)), -1.0, 1.0),
        }


@dataclass(frozen=True)
class _Cells:
    """Rows with the same codes, counted as one cell."""

    n: Codes  # number of rows in each cell, shape (U,)
    columns: tuple[Codes, ...]  # the codes of each cell, shape (U,) for each sequence: the gold, then predictions
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
        """Return a function from counts of the cells, shape (B, U), to the totals of the column `predicted`."""
        sides = [self.columns[0], self.columns[predicted]]
        is_right = sides[0] == sides[1]
        n_cells = len(self.n)
        # for each side a matrix of shape (U, K), with a 1 at the class of each cell
        gold, said = (
            csr_array((np.ones(n_cells), codes, np.arange(n_cells + 1)), shape=(n_cells, self.n_classes))
            for codes in sides
        )
        return lambda counts: _Totals(counts * is_right @ gold, counts @ gold, counts @ said)

    def as_they_are(self) -> Floats:
        """Return the counts of the rows themselves, shape (1, U)."""
        return self.n[None, :].astype(np.float64)

    def metrics(self, predicted: int = 1) -> Metrics:
        """Return the metrics of the column `predicted`."""
        n_rows = int(self.n.sum())
        if n_rows < _LEAST_ROWS:
            return Metrics.undefined(CLASS_METRIC_NAMES, too_few(n_rows, "row"))
        totals = self.totals(predicted)
        one_class = len(np.unique(self.columns[0])) == 1
        reasons = {"mcc": f"all rows are {'of' if one_class else 'predicted as'} one class"}
        draws = partial(cell_resamples, self.n)
        return Metrics.of(lambda counts: totals(counts).metrics(), self.as_they_are(), reasons, draws)


def class_metrics(predicted: Codes, gold: Codes, n_classes: int) -> Metrics:
    """Return accuracy, macro_f1 and mcc.

    macro_f1 is the mean over the classes that occur in the gold or are predicted, as in scikit-learn; mcc is undefined
    if either has only one class.

    Args:
        predicted: Shape (N,), int64.
        gold: Shape (N,), int64.
        n_classes: K.

    Raises:
        InputError: Shapes differ, or a code is not in 0..K-1.
    """
    check_codes(n_classes, predicted=predicted, gold=gold)
    return _Cells.of(n_classes, gold, predicted).metrics()


def class_differences(before: Codes, after: Codes, gold: Codes, n_classes: int) -> Metrics:
    """Return after minus before of each metric, for two models' predictions of the same rows.

    Other arguments, and errors, as in `class_metrics`.
    """
    check_codes(n_classes, before=before, after=after, gold=gold)
    cells = _Cells.of(n_classes, gold, before, after)
    return cells.metrics(2).minus(cells.metrics(1))


def per_class(
    predicted: Codes, gold: Codes, class_names: Sequence[str], settings: EvaluationSettings, seed: int = 0
) -> list[dict[str, Any]]:
    """Return one entry per class, in the order of the K names: name, n, n_predicted, precision, recall, f1.

    n counts the rows of the class, n_predicted the rows predicted as the class. Precision is None if n_predicted is 0,
    recall if n is 0, and the value of f1 (a `Score` as JSON) if both are 0. There are fewer resamples if there are many
    classes. Other arguments, and errors, as in `class_metrics` and `Metrics.with_intervals`.
    """
    n_classes = len(class_names)
    check_codes(n_classes, predicted=predicted, gold=gold)
    cells = _Cells.of(n_classes, gold, predicted)
    totals = cells.totals()
    whole = totals(cells.as_they_are())
    n_resamples = min(settings.bootstrap_samples, max(1, _MOST_HELD // n_classes)) if len(gold) else 0
    parts = [totals(counts).f1() for counts in cell_resamples(cells.n, n_resamples, seed)]
    resampled = np.concatenate([np.zeros((0, n_classes)), *parts])
    values = whole.f1()[0].tolist()
    entries = []
    for k, name in enumerate(class_names):
        n_right, n_gold, n_predicted = (int(part[0, k]) for part in (whole.right, whole.gold, whole.predicted))
        f1 = Score(None, reason="the class neither occurs nor is predicted")
        if n_gold or n_predicted:
            f1 = Score.of_resamples(values[k], resampled[:, k], settings.confidence)
        precision, recall = (n_right / n if n else None for n in (n_predicted, n_gold))
        counts = {"name": name, "n": n_gold, "n_predicted": n_predicted}
        entries.append({**counts, "precision": precision, "recall": recall, "f1": f1.to_json()})
    return entries


def confusion(predicted: Codes, gold: Codes, n_classes: int) -> NDArray[np.int64]:
    """Return how often each class was predicted for each gold one, (K, K), int64; arguments as in `class_metrics`."""
    check_codes(n_classes, predicted=predicted, gold=gold)
    counts = np.bincount(gold * n_classes + predicted, minlength=n_classes * n_classes)
    return counts.reshape(n_classes, n_classes).astype(np.int64)


def check_codes(n_classes: int, **sequences: Codes) -> None:
    """Check that each sequence, called by its name in messages, has one code for each row.

    Raises:
        InputError: Shapes differ, or a code is not in 0..K-1.
    """
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
