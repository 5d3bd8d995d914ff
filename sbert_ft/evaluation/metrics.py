"""Metrics of scores, each with a bootstrap interval; the values are those of scipy and scikit-learn.

Graded pairs are evaluated by correlation, labelled pairs (match or not) by ranking metrics and, with a threshold, by
the decisions. An undefined metric (one class only, all scores equal, fewer than three pairs) is None with a reason,
never NaN, and no warning is raised. Intervals are percentile bootstrap intervals (Efron and Tibshirani 1993, section
13.3) over pairs; the difference of two models is computed within each resample. They are determined by the seed. N
stands for the number of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.settings import EvaluationSettings
from sbert_ft.data.ledger import counted
from sbert_ft.errors import InputError, quoted
from sbert_ft.evaluation.bootstrap import (
    Flags,
    Floats,
    Statistic,
    average_precision_statistic,
    decided_statistics,
    pearson_statistic,
    percentile_interval,
    resamples,
    roc_auc_statistic,
    spearman_statistic,
)

Numbers = NDArray[np.floating] | Sequence[float]
# Maps counts of rows, shape (B, N), to the metrics of each resample, shape (B,), NaN where undefined.
OfCounts = Callable[[Floats], Mapping[str, Floats]]
# Maps a number of resamples and a seed to such counts, some resamples at a time.
Draws = Callable[[int, int], Iterator[Floats]]
_LEAST = 3
# As in scipy: a deviation from the mean of less than this share of the mean is rounding.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class Score:
    """A metric, or the reason why it has no value.

    Attributes:
        value: None if undefined.
        low: Lower end of the interval; None if there is none.
        high: Upper end.
        reason: Why there is no value or no interval; None if there are both.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

    def to_json(self) -> dict[str, float | str | None]:
        """Return the four fields as JSON."""
        return asdict(self)

    @classmethod
    def of_resamples(cls, value: float, resampled: Floats, confidence: float) -> Score:
        """Return the value with the interval of its resamples, shape (B,), NaN for undefined ones."""
        interval = percentile_interval(resampled, confidence)
        if interval is not None:
            return cls(value, *interval)
        n_undefined = int(np.isnan(resampled).sum())
        return cls(value, reason=f"no interval: undefined in {n_undefined} of {len(resampled)} resamples")


@dataclass(frozen=True)
class Metrics:
    """The metrics of a model's predictions, and what their bootstrap intervals are made of.

    Attributes:
        scores: Each metric without an interval, or the reason why it is undefined.
        of_counts: Computes them for resamples.
        draws: Makes the resamples.
    """

    scores: Mapping[str, Score]
    of_counts: OfCounts
    draws: Draws

    @classmethod
    def of(cls, of_counts: OfCounts, counts: Floats, reasons: Mapping[str, str | None], draws: Draws) -> Metrics:
        """Return the metrics of the rows themselves, `counts` of shape (1, N); `reasons` are for undefined ones."""
        values = {name: float(found[0]) for name, found in of_counts(counts).items()}
        undefined = {name: Score(None, reason=reasons[name]) for name, value in values.items() if np.isnan(value)}
        return cls({name: Score(value) for name, value in values.items()} | undefined, of_counts, draws)

    @classmethod
    def undefined(cls, names: Iterable[str], reason: str) -> Metrics:
        """Return metrics that are all undefined for the same reason."""
        return cls(dict.fromkeys(names, Score(None, reason=reason)), lambda counts: {}, lambda n, seed: iter(()))

    def value(self, name: str) -> float | None:
        """Return one metric without its interval; None if it is undefined.

        Raises:
            InputError: These predictions have no such metric.
        """
        if name not in self.scores:
            raise InputError(f"the metric is {quoted(name)}, expected one of {', '.join(self.scores)}")
        return self.scores[name].value

    def minus(self, before: Metrics) -> Metrics:
        """Return the differences of the metrics that both have, taken within each resample."""
        scores = {}
        for name in filter(self.scores.__contains__, before.scores):
            earlier, later = before.scores[name], self.scores[name]
            if earlier.value is None or later.value is None:
                reason = f"before: {earlier.reason}" if earlier.value is None else f"after: {later.reason}"
                scores[name] = Score(None, reason=reason)
            else:
                scores[name] = Score(later.value - earlier.value)

        def of_counts(counts: Floats) -> Mapping[str, Floats]:
            first, second = before.of_counts(counts), self.of_counts(counts)
            return {name: second[name] - first[name] for name in first.keys() & second.keys()}

        return Metrics(scores, of_counts, self.draws)

    def with_intervals(self, settings: EvaluationSettings, seed: int = 0) -> dict[str, Score]:
        """Return the metrics with their intervals, with as many resamples and the confidence of the settings."""
        defined = {name: score.value for name, score in self.scores.items() if score.value is not None}
        found = dict(self.scores)
        if defined:
            parts = [self.of_counts(counts) for counts in self.draws(settings.bootstrap_samples, seed)]
            for name, value in defined.items():
                resampled = np.concatenate([part[name] for part in parts])
                found[name] = Score.of_resamples(value, resampled, settings.confidence)
        return found

    def to_json(self, settings: EvaluationSettings) -> dict[str, Any]:
        """Return the metrics with their intervals as JSON."""
        return {name: score.to_json() for name, score in self.with_intervals(settings).items()}


def too_few(n: int, unit: str, least: int = _LEAST) -> str:
    """Return the sentence about too few rows; `unit` is the word for one."""
    return f"{counted(n, unit)}, too few: at least {least} are needed"


def graded_metrics(predicted: Numbers, gold: Numbers) -> Metrics:
    """Return Spearman's and Pearson's correlation of scores with graded gold: spearman, pearson.

    Args:
        predicted: Shape (N,): the model's scores.
        gold: Shape (N,): in any scale.

    Raises:
        InputError: Shapes differ, or the gold is not finite.
    """
    x, y = _as_floats(predicted, "predicted"), _as_floats(gold, "gold")
    _check_lengths(x, y)
    if not np.isfinite(y).all():
        raise InputError("a gold score is NaN or infinite", "leave such pairs out")
    sides = ((x, "scores"), (y, "gold scores"))
    fault = _fault_of_scores(x)
    if fault is None:
        fault = next((f"all {name} are equal" for side, name in sides if side.min() == side.max()), None)
    if fault is not None:
        return Metrics.undefined(("spearman", "pearson"), fault)
    u, v = _standardised(x), _standardised(y)
    reason = f"all {'gold scores' if u.any() else 'scores'} are equal up to rounding"
    statistics = {"spearman": spearman_statistic(x, y), "pearson": pearson_statistic(u, v)}
    return _of_pairs(statistics, len(x), {"pearson": reason})


def label_metrics(predicted: Numbers, matches: Flags, threshold: float | None = None) -> Metrics:
    """Return average_precision and roc_auc, with a threshold f1, accuracy, precision, recall and mcc too.

    Args:
        predicted: Shape (N,): the model's scores.
        matches: Shape (N,), bool: whether the pairs belong together.
        threshold: A pair is predicted to match if its score is at least this. The intervals treat it as fixed.

    Raises:
        InputError: Shapes differ, or `matches` are not booleans.
    """
    x, y = _as_floats(predicted, "predicted"), np.asarray(matches)
    if y.dtype != np.bool_:
        raise InputError(f"matches are of the type {y.dtype}, expected bool: whether a pair belongs together")
    _check_lengths(x, y)
    statistics = {"average_precision": average_precision_statistic(x, y), "roc_auc": roc_auc_statistic(x, y)}
    decided = x >= (0.0 if threshold is None else threshold)
    if threshold is not None:
        statistics |= decided_statistics(decided, y)
    fault = _fault_of_scores(x)
    if fault is not None:
        return Metrics.undefined(statistics, fault)
    one_class = "every pair matches" if y.all() else None if y.any() else "no pair matches"
    undecided = None if decided.any() else "no pair reaches the threshold"
    reasons = dict.fromkeys(("average_precision", "roc_auc", "f1", "recall"), one_class)
    reasons |= {"precision": undecided, "mcc": one_class or undecided or "every pair reaches the threshold"}
    return _of_pairs(statistics, len(x), reasons)


def pair_metrics(predicted: Numbers, gold: Numbers | None, matches: Flags, threshold: float | None = None) -> Metrics:
    """Return the metrics of `graded_metrics` (only with `gold`), then those of `label_metrics`; errors as there."""
    labelled = label_metrics(predicted, matches, threshold)
    if gold is None:
        return labelled
    graded = graded_metrics(predicted, gold)

    def of_counts(counts: Floats) -> Mapping[str, Floats]:
        return {**graded.of_counts(counts), **labelled.of_counts(counts)}

    return Metrics({**graded.scores, **labelled.scores}, of_counts, labelled.draws)


def _of_pairs(statistics: Mapping[str, Statistic], n_pairs: int, reasons: Mapping[str, str | None]) -> Metrics:
    def of_counts(counts: Floats) -> Mapping[str, Floats]:
        return {name: statistic(counts) for name, statistic in statistics.items()}

    return Metrics.of(of_counts, np.ones((1, n_pairs)), reasons, partial(resamples, n_pairs))


def _as_floats(values: Numbers, name: str) -> Floats:
    try:
        floats = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} are not numbers: {quoted(error)}") from error
    if floats.ndim != 1:
        raise InputError(f"{name} have {floats.ndim} dimensions, expected one number per pair")
    return floats


def _check_lengths(predicted: Floats, known: NDArray[np.generic]) -> None:
    if known.shape != predicted.shape:
        found = f"there are {predicted.size} scores but {known.size} known values"
        raise InputError(f"{found}; expected one of each per pair")


def _fault_of_scores(predicted: Floats) -> str | None:
    """Return why no metric is defined for these scores, or None."""
    n_infinite = int((~np.isfinite(predicted)).sum())
    if n_infinite:
        return f"{n_infinite} of {len(predicted)} scores are NaN or infinite"
    return too_few(len(predicted), "pair") if len(predicted) < _LEAST else None


def _standardised(values: Floats) -> Floats:
    """Return the values with mean 0 and mean square 1; all 0 if they differ only by rounding."""
    scaled = values / np.abs(values).max()  # so that no square of a huge or tiny number over- or underflows
    mean = scaled.mean()
    centred = scaled - mean
    if np.linalg.norm(centred) < _ROUNDING * abs(mean):
        return np.zeros_like(values)
    standardised: Floats = centred / np.sqrt((centred * centred).mean())
    return standardised
