"""Bootstrap intervals of metrics (Efron and Tibshirani 1993, chapters 6 and 13).

A resample of n pairs, drawn with replacement, is stored as counts: how often each pair was drawn. Every metric here is
a function of counts, so the pairs are sorted once, and each resample costs a few cumulative sums instead of a sort.
Time grows with resamples times pairs, memory with neither. Letters: B resamples, N pairs, U distinct scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
# Maps counts, shape (B, N), to the metric of each resample, shape (B,): NaN where it is undefined.
Statistic = Callable[[Floats], Floats]

# Counts in memory at once: a few arrays of this many numbers fit into the cache of a processor.
_CELLS = 2**20
# For numbers whose mean square is about 1: a variance below this is rounding.
_NO_SPREAD = 1e-12


@dataclass(frozen=True)
class Groups:
    """Pairs grouped by equal score, groups in rising order.

    Attributes:
        values: Shape (U,), float64: the distinct scores.
        of_pair: Shape (N,), int64: the group of each pair.
        order: Shape (N,), int64: the pairs, group after group.
        starts: Shape (U,), int64: where each group begins in `order`.
    """

    values: Floats
    of_pair: NDArray[np.int64]
    order: NDArray[np.int64]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, scores: Floats) -> Groups:
        """Return the groups of scores, shape (N,)."""
        values, of_pair, sizes = np.unique(scores, return_inverse=True, return_counts=True)
        return cls(values, of_pair, np.argsort(of_pair, kind="stable"), sizes.cumsum() - sizes)

    def sums(self, weights: Floats) -> Floats:
        """Return the sum over each group, shape (B, U), of weights with one number per pair, shape (B, N)."""
        sums: Floats = np.add.reduceat(weights[:, self.order], self.starts, axis=1)
        return sums


def resamples(n_pairs: int, n_resamples: int, seed: int) -> Iterator[Floats]:
    """Yield counts, shape (B, N) float64, some resamples at a time; the same seed gives the same counts."""
    random = np.random.default_rng(seed)
    at_once = max(1, _CELLS // n_pairs)
    for begin in range(0, n_resamples, at_once):
        n_rows = min(at_once, n_resamples - begin)
        drawn = random.integers(n_pairs, size=(n_rows, n_pairs)) + n_pairs * np.arange(n_rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=n_rows * n_pairs)
        yield counts.reshape(n_rows, n_pairs).astype(np.float64)


def cell_resamples(n_in_cell: NDArray[np.int64], n_resamples: int, seed: int) -> Iterator[Floats]:
    """Yield counts of U cells of equal pairs, shape (B, U) float64; otherwise as `resamples`.

    The number of drawn pairs in each cell follows the multinomial distribution and is drawn directly, so time and
    memory do not grow with the number of pairs. `n_in_cell` is the number of pairs in each cell, shape (U,).
    """
    random = np.random.default_rng(seed)
    n_pairs = int(n_in_cell.sum())
    at_once = max(1, _CELLS // max(1, len(n_in_cell)))
    for begin in range(0, n_resamples, at_once):
        n_rows = min(at_once, n_resamples - begin)
        yield random.multinomial(n_pairs, n_in_cell / n_pairs, size=n_rows).astype(np.float64)


def percentile_interval(values: Floats, confidence: float) -> tuple[float, float] | None:
    """Return the interval that contains the middle share `confidence` of the values, None if most are NaN.

    This is the percentile interval of section 13.3. Undefined values (NaN) are left out.
    """
    defined = values[~np.isnan(values)]
    if 2 * len(defined) < len(values) or not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def divided(numerator: Floats, denominator: Floats) -> Floats:
    """Return the quotient, NaN where the denominator is 0 or less."""
    quotient: Floats = np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1.0), np.nan)
    return quotient


def pearson_statistic(predicted: Floats, gold: Floats) -> Statistic:
    """Return Pearson's correlation of two standardised sequences, shape (N,) each, as a function of counts."""
    products = np.stack([predicted, gold, predicted * predicted, gold * gold, predicted * gold], axis=1)

    def of_counts(counts: Floats) -> Floats:
        x, y, xx, yy, xy = (counts @ products / counts.sum(axis=1, keepdims=True)).T
        spread_x, spread_y = xx - x * x, yy - y * y
        is_defined = (spread_x > _NO_SPREAD) & (spread_y > _NO_SPREAD)
        spread = np.sqrt(np.where(is_defined, spread_x * spread_y, 0.0))
        return np.clip(divided(xy - x * y, spread), -1.0, 1.0)

    return of_counts


def spearman_statistic(predicted: Floats, gold: Floats) -> Statistic:
    """Return Spearman's correlation as a function of counts: Pearson's of the ranks **within the resample**.

    Equal scores have the mean of their ranks: with c of them in the resample, and s scores up to and including them,
    this is s - (c - 1) / 2.
    """
    groups = Groups.of(predicted), Groups.of(gold)

    def of_counts(counts: Floats) -> Floats:
        middle = (counts.sum(axis=1, keepdims=True) + 1) / 2
        ranks, spread = [], []
        for side in groups:
            in_group = side.sums(counts)
            rank = in_group.cumsum(axis=1) - (in_group - 1) / 2 - middle
            spread.append((in_group * rank * rank).sum(axis=1))
            ranks.append(rank[:, side.of_pair])
        product = (counts * ranks[0] * ranks[1]).sum(axis=1)
        return np.clip(divided(product, np.sqrt(spread[0]) * np.sqrt(spread[1])), -1.0, 1.0)

    return of_counts


def average_precision_statistic(predicted: Floats, matches: Flags) -> Statistic:
    """Return average precision as a function of counts: the sum of precision times the gain in recall.

    The sum is over falling thresholds, as in scikit-learn, without interpolation; equal scores are one threshold.
    Undefined if one class is absent.
    """
    groups = Groups.of(-predicted)

    def of_counts(counts: Floats) -> Floats:
        n_matching, n_all = groups.sums(counts * matches), groups.sums(counts)
        precision = n_matching.cumsum(axis=1) / np.maximum(n_all.cumsum(axis=1), 1.0)
        n = n_matching.sum(axis=1)
        found = divided((precision * n_matching).sum(axis=1), n)
        return np.clip(np.where(n < n_all.sum(axis=1), found, np.nan), 0.0, 1.0)

    return of_counts


def roc_auc_statistic(predicted: Floats, matches: Flags) -> Statistic:
    """Return the area under the ROC curve as a function of counts.

    This is the share of (matching, other) combinations in which the matching pair scores higher; ties count half
    (Mann and Whitney 1947). Undefined if one class is absent.
    """
    groups = Groups.of(predicted)

    def of_counts(counts: Floats) -> Floats:
        n_matching, n_all = groups.sums(counts * matches), groups.sums(counts)
        n_other = n_all - n_matching
        won = (n_matching * (n_other.cumsum(axis=1) - n_other / 2)).sum(axis=1)
        return np.clip(divided(won, n_matching.sum(axis=1) * n_other.sum(axis=1)), 0.0, 1.0)

    return of_counts


def decided_statistics(decided: Flags, matches: Flags) -> dict[str, Statistic]:
    """Return F1, accuracy, precision, recall and Matthews' correlation of decisions as functions of counts."""
    cells = np.stack([decided & matches, decided & ~matches, ~decided & matches, ~decided & ~matches], axis=1)
    table = cells.astype(np.float64)

    def statistic(of_table: Callable[[Floats, Floats, Floats, Floats], Floats]) -> Statistic:
        return lambda counts: of_table(*(counts @ table).T)

    return {
        "f1": statistic(lambda tp, fp, fn, tn: np.where(tp + fn > 0, divided(2 * tp, 2 * tp + fp + fn), np.nan)),
        "accuracy": statistic(lambda tp, fp, fn, tn: divided(tp + tn, tp + fp + fn + tn)),
        "precision": statistic(lambda tp, fp, fn, tn: divided(tp, tp + fp)),
        "recall": statistic(lambda tp, fp, fn, tn: divided(tp, tp + fn)),
        "mcc": statistic(_matthews),
    }


def _matthews(tp: Floats, fp: Floats, fn: Floats, tn: Floats) -> Floats:
    spread = np.sqrt((tp + fp) * (tp + fn)) * np.sqrt((tn + fp) * (tn + fn))
    return np.clip(divided(tp * tn - fp * fn, spread), -1.0, 1.0)
