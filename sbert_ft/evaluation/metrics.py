"""Metrics of scores by scipy and scikit-learn, each with a bootstrap interval.

Graded pairs are evaluated by correlation, labelled pairs (match or not) by ranking metrics and, with a threshold, by
the decisions. An undefined metric (one class only, all scores equal, fewer than three pairs) is None with a reason,
never NaN, and no warning is raised. Intervals are percentile bootstrap intervals (Efron and Tibshirani 1993, section
13.3) over pairs; the difference of two models is computed within each resample. They are determined by the seed. N
stands for the number of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.metrics import METRICS, choosing_metrics
from sbert_ft.config.settings import EvaluationSettings
from sbert_ft.errors import InputError, quoted
from sbert_ft.evaluation.bootstrap import (
    Flags,
    Floats,
    Statistic,
    average_precision_statistic,
    bootstrap,
    decided_statistics,
    pearson_statistic,
    percentile_interval,
    roc_auc_statistic,
    spearman_statistic,
)

Numbers = NDArray[np.floating] | Sequence[float]
_LEAST_PAIRS = 3
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
        return {"value": self.value, "low": self.low, "high": self.high, "reason": self.reason}

    @classmethod
    def of_resamples(cls, value: float, resampled: Floats, confidence: float) -> Score:
        """Return the value with the interval of its resamples, shape (B,), NaN for undefined ones."""
        interval = percentile_interval(resampled, confidence)
        if interval is not None:
            return cls(value, *interval)
        n_undefined = int(np.isnan(resampled).sum())
        return cls(value, reason=f"no interval: undefined in {n_undefined} of {len(resampled)} resamples")


@dataclass(frozen=True)
class _Metric:
    """A value or a reason, and a function for the metric of any resample."""

    value: float | None
    reason: str | None = None
    statistic: Statistic | None = None


def default_metric(label_kind: str) -> str | None:
    """Return the metric that chooses the best step, None if pairs have neither scores nor yes/no labels.

    Args:
        label_kind: As in `ConnectionDataset.label_kind`: score, binary, none or classes.
    """
    return {"score": "spearman", "binary": "average_precision"}.get(label_kind)


def metric_value(
    name: str, predicted: Numbers, gold: Numbers | None = None, matches: Flags | None = None
) -> float | None:
    """Return one metric without an interval; None if it is undefined.

    Args:
        name: One that can choose the best step by scores or labels (`config.metrics`).
        predicted: Shape (N,): the model's scores.
        gold: Shape (N,): graded scores, for spearman and pearson.
        matches: Shape (N,): whether the pairs belong together, for average_precision and roc_auc.

    Raises:
        InputError: The name is unknown, the gold that it needs is None, or shapes differ.
    """
    if name not in (names := choosing_metrics("graded", "labels")):
        raise InputError(f"the metric is {quoted(name)}, expected one of {', '.join(names)}")
    if METRICS[name].chooses_by == "graded":
        if gold is None:
            raise InputError(f"the metric {name} needs graded scores, and the pairs have none")
        return _graded(predicted, gold)[name].value
    if matches is None:
        raise InputError(f"the metric {name} needs labels (match or not), and the pairs have none")
    return _labelled(predicted, matches, None)[name].value


def graded_metrics(predicted: Numbers, gold: Numbers, settings: EvaluationSettings, seed: int = 0) -> dict[str, Score]:
    """Return Spearman's and Pearson's correlation of scores with graded gold: spearman, pearson.

    Args:
        predicted: Shape (N,): the model's scores.
        gold: Shape (N,): in any scale.
        settings: Number of resamples and confidence of the intervals.
        seed: Seed of the resamples.

    Raises:
        InputError: Shapes differ, or the gold is not finite.
    """
    return _with_intervals(_graded(predicted, gold), len(predicted), settings, seed)


def label_metrics(
    predicted: Numbers, matches: Flags, settings: EvaluationSettings, threshold: float | None = None, seed: int = 0
) -> dict[str, Score]:
    """Return average_precision and roc_auc, with a threshold f1, accuracy, precision, recall and mcc too.

    Args:
        predicted: Shape (N,): the model's scores.
        matches: Shape (N,), bool: whether the pairs belong together.
        settings: Number of resamples and confidence of the intervals.
        threshold: A pair is predicted to match if its score is at least this. The intervals treat it as fixed.
        seed: Seed of the resamples.

    Raises:
        InputError: Shapes differ, or `matches` are not booleans.
    """
    return _with_intervals(_labelled(predicted, matches, threshold), len(predicted), settings, seed)


def paired_differences(
    before: Numbers,
    after: Numbers,
    gold_or_matches: Numbers | Flags,
    settings: EvaluationSettings,
    seed: int = 0,
    *,
    thresholds: tuple[float, float] | None = None,
) -> dict[str, Score]:
    """Return after minus before of each metric, with the interval of the difference over the same resamples.

    Args:
        before: Shape (N,): scores of one model.
        after: Shape (N,): scores of another one for the same pairs.
        gold_or_matches: Shape (N,): booleans for the metrics of `label_metrics`, numbers for those of
            `graded_metrics`.
        settings: Number of resamples and confidence of the intervals.
        seed: Seed of the resamples.
        thresholds: Of the model before and the model after, for the metrics of decisions.

    Raises:
        InputError: As in `graded_metrics` and `label_metrics`.
    """
    known = np.asarray(gold_or_matches)
    if known.dtype == np.bool_:
        first, second = thresholds or (None, None)
        sides = _labelled(before, known, first), _labelled(after, known, second)
    else:
        sides = _graded(before, known), _graded(after, known)
    differences = {}
    for name, earlier in sides[0].items():
        differences[name] = _difference(earlier, sides[1][name])
    return _with_intervals(differences, len(known), settings, seed)


def _difference(before: _Metric, after: _Metric) -> _Metric:
    one, other = before.statistic, after.statistic
    if before.value is None or one is None:
        return _Metric(None, f"before: {before.reason}")
    if after.value is None or other is None:
        return _Metric(None, f"after: {after.reason}")
    return _Metric(after.value - before.value, None, lambda counts: other(counts) - one(counts))


def _with_intervals(
    metrics: Mapping[str, _Metric], n_pairs: int, settings: EvaluationSettings, seed: int
) -> dict[str, Score]:
    statistics = {name: m.statistic for name, m in metrics.items() if m.value is not None and m.statistic is not None}
    resampled = bootstrap(statistics, n_pairs, settings.bootstrap_samples, seed) if statistics else {}
    scores = {}
    for name, metric in metrics.items():
        if metric.value is None:
            scores[name] = Score(None, reason=metric.reason)
        else:
            scores[name] = Score.of_resamples(metric.value, resampled[name], settings.confidence)
    return scores


def _graded(predicted: Numbers, gold: Numbers) -> dict[str, _Metric]:
    """Return spearman and pearson."""
    from scipy.stats import pearsonr, spearmanr

    x, y = _as_floats(predicted, "predicted"), _as_floats(gold, "gold")
    _check_lengths(x, y)
    if not np.isfinite(y).all():
        raise InputError("a gold score is NaN or infinite", "leave such pairs out")
    fault = _fault_of_scores(x)
    if fault is None:
        alike = next((what for values, what in ((x, "scores"), (y, "gold scores")) if _is_constant(values)), None)
        fault = f"all {alike} are equal" if alike else None
    if fault is not None:
        return {"spearman": _Metric(None, fault), "pearson": _Metric(None, fault)}
    metrics = {"spearman": _Metric(_clipped(spearmanr(x, y).statistic), None, spearman_statistic(x, y))}
    u, v = _standardised(x), _standardised(y)
    if u is None or v is None:
        metrics["pearson"] = _Metric(None, f"all {'scores' if u is None else 'gold scores'} are equal up to rounding")
    else:
        metrics["pearson"] = _Metric(_clipped(pearsonr(u, v).statistic), None, pearson_statistic(u, v))
    return metrics


def _labelled(predicted: Numbers, matches: Flags, threshold: float | None) -> dict[str, _Metric]:
    """Return average_precision and roc_auc, and with a threshold the metrics of decisions."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    x, y = _as_floats(predicted, "predicted"), np.asarray(matches)
    if y.dtype != np.bool_:
        raise InputError(f"matches are of the type {y.dtype}, expected bool: whether a pair belongs together")
    _check_lengths(x, y)
    n_matches = int(y.sum())
    fault = _fault_of_scores(x)
    one_class = "no pair matches" if n_matches == 0 else "every pair matches" if n_matches == len(y) else None
    metrics: dict[str, _Metric] = {}
    if fault is not None or one_class is not None:
        metrics = dict.fromkeys(("average_precision", "roc_auc"), _Metric(None, fault or one_class))
    else:
        precision, area = float(average_precision_score(y, x)), float(roc_auc_score(y, x))
        metrics["average_precision"] = _Metric(precision, None, average_precision_statistic(x, y))
        metrics["roc_auc"] = _Metric(area, None, roc_auc_statistic(x, y))
    if threshold is not None:
        metrics |= _decided(x >= threshold, y, fault)
    return metrics


def _decided(decided: Flags, matches: Flags, fault: str | None) -> dict[str, _Metric]:
    """Return f1, accuracy, precision, recall and mcc of decisions, shape (N,)."""
    from sklearn import metrics as by

    statistics = decided_statistics(decided, matches)
    if fault is not None:
        return dict.fromkeys(statistics, _Metric(None, fault))
    unmatched = None if matches.any() else "no pair matches"
    undecided = None if decided.any() else "no pair reaches the threshold"
    alike = "every pair matches" if matches.all() else "every pair reaches the threshold" if decided.all() else None
    table = {
        "f1": (by.f1_score, unmatched),
        "accuracy": (by.accuracy_score, None),
        "precision": (by.precision_score, undecided),
        "recall": (by.recall_score, unmatched),
        "mcc": (by.matthews_corrcoef, unmatched or undecided or alike),
    }
    found = {}
    for name, (score, reason) in table.items():
        value = None if reason is not None else float(score(matches, decided))
        found[name] = _Metric(value, reason, statistics[name])
    return found


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
        raise InputError(
            f"there are {predicted.size} scores but {known.size} known values; expected one of each per pair"
        )


def _fault_of_scores(predicted: Floats) -> str | None:
    """Return why no metric is defined for these scores, or None."""
    n_pairs, n_infinite = len(predicted), int((~np.isfinite(predicted)).sum())
    if n_infinite:
        return f"{n_infinite} of {n_pairs} scores are NaN or infinite"
    if n_pairs < _LEAST_PAIRS:
        return f"{n_pairs} pair{'' if n_pairs == 1 else 's'}, too few: at least {_LEAST_PAIRS} are needed"
    return None


def _is_constant(values: Floats) -> bool:
    return bool(values.min() == values.max())


def _standardised(values: Floats) -> Floats | None:
    """Return the values with mean 0 and mean square 1, None if they differ only by rounding."""
    scaled = values / np.abs(values).max()  # so that no square of a huge or tiny number over- or underflows
    mean = scaled.mean()
    centred = scaled - mean
    if np.linalg.norm(centred) < _ROUNDING * abs(mean):
        return None
    standardised: Floats = centred / np.sqrt((centred * centred).mean())
    return standardised


def _clipped(value: float) -> float:
    return min(1.0, max(-1.0, float(value)))
