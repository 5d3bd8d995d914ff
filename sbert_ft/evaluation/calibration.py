"""Fit a threshold and a calibration for scores on labelled pairs, and a temperature for logits of classes.

Every midpoint between neighbouring scores is tried as a threshold, all at once: with pairs in falling order, the
accepted pairs are cumulative sums. The interval of the threshold comes from fitting it again in each bootstrap
resample. The decision is stored with the model and must be evaluated on other pairs than these. Letters: N pairs or
rows, U distinct scores, B resamples, K classes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from sbert_ft.arguments import instance_argument, word_argument
from sbert_ft.config.settings import CalibrationKind, EvaluationSettings
from sbert_ft.errors import InputError, quoted
from sbert_ft.evaluation.bootstrap import Flags, Floats, Groups, percentile_interval, resamples
from sbert_ft.evaluation.class_metrics import check_codes
from sbert_ft.evaluation.metrics import too_few
from sbert_ft.model_folder.decision import TARGETS, Calibration, Decision, FittedOn, parse_target

if TYPE_CHECKING:
    from sbert_ft.data.dataset import ConnectionDataset
    from sbert_ft.models.sentence_encoder import SentenceEncoder

logger = logging.getLogger(__name__)

# With fewer pairs isotonic regression overfits, as its number of parameters is not limited (Niculescu-Mizil and
# Caruana 2005, section 5: Platt's sigmoid is better below about 1,000).
_LEAST_ISOTONIC = 1000
# Without these limits the temperature could go to 0 (nearly all rows are right) or to infinity (right only by chance).
_LOWEST, _HIGHEST = 0.05, 20.0
_LEAST_ROWS = 10


def fit_threshold(
    model: SentenceEncoder,
    dev: ConnectionDataset,
    target: str = "f1",
    calibration: CalibrationKind = "auto",
    match_from: float | None = None,
) -> Decision:
    """Return a decision (threshold and calibration) fitted on labelled pairs; it is also stored as `model.decision`.

    Args:
        model: Scores the pairs, with the threads, precision and prompt with which it will be used.
        dev: Pairs that the model was not trained on, with yes/no labels or graded scores.
        target: ``f1`` for the best F1; ``precision>=0.95`` for the best recall with at least this precision;
            ``recall>=0.9`` for the best precision with at least this recall.
        calibration: From cosine to probability: ``isotonic``, ``platt``, ``none``, or ``auto`` for isotonic with at
            least 1,000 pairs, otherwise platt.
        match_from: For graded scores: a pair is a match if its score is at least this, in the file's scale; None for
            the middle of the scale.

    Raises:
        InputError: The pairs have no labels or only one class, all scores are equal, the target cannot be reached, or
            an argument is not valid.
    """
    from sbert_ft.data.dataset import ConnectionDataset
    from sbert_ft.models.sentence_encoder import SentenceEncoder

    encoder: type[Any] = SentenceEncoder  # abstract
    instance_argument(encoder, model, "model", "SiameseBert.from_pretrained(folder)")
    instance_argument(ConnectionDataset, dev, "dev", "ConnectionDataset.from_file(path)")
    instance_argument(str, target, "target")
    settings = EvaluationSettings(threshold_target=target, calibration=calibration, match_from=match_from)
    _check(settings)
    matches = dev.matches(match_from)
    if matches is None:
        raise InputError(f"{quoted(dev.source, limit=400)} has no labels: a threshold needs matching and other pairs")
    fitted_on = {"source": dev.source, "sha256": dev.sha256}
    decision = fit_decision(model.score(dev.pairs()), matches, settings, fitted_on, scale=dev.score_range)
    model.decision = decision
    return decision


def fit_decision(
    scores: NDArray[np.floating],
    matches: Flags,
    settings: EvaluationSettings,
    fitted_on: Mapping[str, str],
    *,
    scale: tuple[float, float] | None = None,
    seed: int = 0,
) -> Decision:
    """Return threshold and calibration for scores of labelled pairs.

    Args:
        scores: Shape (N,): cosines.
        matches: Shape (N,), bool: whether the pairs belong together.
        settings: Target, calibration, number of resamples and confidence; for graded pairs also `match_from`.
        fitted_on: source and sha256 of the pairs. Only the last part of a path is stored: the model may be shared.
        scale: Lowest and highest gold score of graded pairs.
        seed: Seed of the resamples.

    Raises:
        InputError: There is only one class, all scores are equal, some are not cosines, or no threshold reaches the
            target (the message says what can be reached).
    """
    target, least = _check(settings)
    source = fitted_on["source"]
    cosines = _checked_scores(scores, matches, quoted(source, limit=400))
    groups = Groups.of(-cosines)  # falling scores
    thresholds = _thresholds(-groups.values)

    def counted(counts: Floats) -> tuple[Floats, Floats]:
        """Return how many matching and other pairs each threshold accepts, shape (B, U) each."""
        accepted, matching = (groups.sums(weights).cumsum(axis=1) for weights in (counts, counts * matches))
        return matching, accepted - matching

    tp, fp = counted(np.ones((1, len(cosines))))
    place = int(_choose(tp, fp, target, least)[0])
    if place < 0:
        precision = tp[0] / (tp + fp)[0]
        best = len(precision) - 1 - int(precision[::-1].argmax())  # among ties the one with the highest recall
        raise InputError(
            f"no threshold reaches {settings.threshold_target} on {quoted(source, limit=400)}: the highest precision "
            f"is {precision[best]:.4f}, at a threshold of {thresholds[best]:.4f}, with a recall of "
            f"{tp[0, best] / tp[0, -1]:.4f}",
            "lower the target",
        )
    chosen = []
    for counts in resamples(len(cosines), settings.bootstrap_samples, seed):
        places = _choose(*counted(counts), target, least)
        chosen.append(np.where(places >= 0, thresholds[places], np.nan))
    low, high = percentile_interval(np.concatenate(chosen), settings.confidence) or (None, None)
    n_true, n_accepted, n_matches = float(tp[0, place]), float((tp + fp)[0, place]), int(matches.sum())
    match_from = None
    if scale is not None:
        match_from = (scale[0] + scale[1]) / 2 if settings.match_from is None else settings.match_from
    return Decision(
        threshold=float(thresholds[place]),
        target=settings.threshold_target,
        fitted_on=FittedOn(PurePath(source).name or source, fitted_on["sha256"], len(cosines), n_matches),
        low=low,
        high=high,
        confidence=settings.confidence,
        reached={
            "precision": n_true / n_accepted,
            "recall": n_true / n_matches,
            "f1": 2 * n_true / (n_accepted + n_matches),
        },
        calibration=fit_calibration(cosines, matches, settings.calibration),
        match_from=match_from,
        scale=scale,
    )


def fit_calibration(scores: Floats, matches: Flags, kind: CalibrationKind) -> Calibration | None:
    """Return the curve from cosine to probability for the kind as in `fit_threshold`; None for none.

    Platt's smoothed targets (1999, section 2.2) keep probabilities away from 0 and 1: with N+ pairs that match and N-
    others, they are 1 / (N- + 2) and (N+ + 1) / (N+ + 2). Isotonic regression is limited to the same range. Scores and
    matches have shape (N,); scores are not all equal, and both True and False occur.
    """
    if kind == "none":
        return None
    n_matches = int(matches.sum())
    least, most = 1 / (len(matches) - n_matches + 2), (n_matches + 1) / (n_matches + 2)
    if kind == "isotonic" or (kind == "auto" and len(scores) >= _LEAST_ISOTONIC):
        from sklearn.isotonic import IsotonicRegression

        regression = IsotonicRegression(y_min=least, y_max=most, out_of_bounds="clip")
        regression.fit(scores, matches.astype(np.float64))
        y = np.maximum.accumulate(regression.y_thresholds_)  # by rounding it may decrease
        calibration = Calibration("isotonic", x=tuple(regression.X_thresholds_.tolist()), y=tuple(y.tolist()))
        is_flat = calibration.y[0] == calibration.y[-1]
    else:
        calibration = _fit_platt(scores, np.where(matches, most, least))
        is_flat = calibration.slope == 0
    if is_flat:
        logger.warning("matching pairs do not score higher than others: all pairs get the same probability")
    return calibration


def same_data(decision: Decision, dataset: ConnectionDataset) -> bool:
    """Return whether a decision was fitted on these same pairs, so that they cannot be used to evaluate it."""
    same: bool = decision.fitted_on.sha256 == dataset.sha256
    return same


def _fit_platt(scores: Floats, targets: Floats) -> Calibration:
    """Return the sigmoid that fits soft targets best, constant if it would decrease."""
    from sklearn.linear_model import LogisticRegression

    mean, spread = scores.mean(), scores.std()
    standardised = ((scores - mean) / spread)[:, None]
    # A target of 0.9 becomes a matching pair of weight 0.9 and another pair of weight 0.1. The targets keep the slope
    # finite even if scores separate the classes, so that no penalty is needed.
    regression = LogisticRegression(C=1e10, tol=1e-8, max_iter=1000)
    regression.fit(
        np.concatenate([standardised, standardised]),
        np.repeat([1, 0], len(scores)),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    slope = float(regression.coef_[0, 0] / spread)
    if slope <= 0:
        share = float(targets.mean())
        return Calibration("platt", slope=0.0, intercept=float(np.log(share / (1 - share))))
    return Calibration("platt", slope=slope, intercept=float(regression.intercept_[0]) - slope * float(mean))


def _check(settings: EvaluationSettings) -> tuple[Literal["f1", "precision", "recall"], float]:
    """Return the target of the threshold and the required minimum."""
    target = parse_target(settings.threshold_target)
    if target is None:
        raise InputError(f"the threshold's target is {quoted(settings.threshold_target)}, expected {TARGETS}")
    word_argument(settings.calibration, "calibration", ("auto", "isotonic", "platt", "none"))
    return target


def _checked_scores(scores: NDArray[np.floating], matches: Flags, shown: str) -> Floats:
    """Return the scores in float64; raise InputError if no threshold can be fitted on them."""
    cosines = np.asarray(scores, dtype=np.float64)
    if matches.dtype != np.bool_ or matches.shape != cosines.shape or cosines.ndim != 1:
        raise InputError(f"expected one score and one bool per pair, found shapes {cosines.shape} and {matches.shape}")
    n_wrong = int((~(np.abs(cosines) <= 1)).sum())  # counts NaN, too
    if n_wrong:
        raise InputError(f"{n_wrong} of {len(cosines)} scores of {shown} are not cosines (from -1 to 1)")
    n_matches = int(matches.sum())
    if n_matches in (0, len(matches)):
        found = f"{len(matches)} pairs, of which {n_matches or 'none'} match{'' if n_matches else 'es'}"
        raise InputError(f"{shown} has {found}: a threshold needs matching and other pairs")
    if cosines.min() == cosines.max():
        raise InputError(f"all scores of {shown} are {cosines[0]:.4f}: no threshold can separate them")
    return cosines


def _thresholds(falling: Floats) -> Floats:
    """Return for each of the distinct scores, shape (U,), the threshold midway to the next lower one, or to -1."""
    below = np.append(falling[1:], -1.0)
    middle = (falling + below) / 2
    thresholds: Floats = np.where(middle > below, middle, falling)  # there is no number between adjacent floats
    return thresholds


def _choose(tp: Floats, fp: Floats, target: Literal["f1", "precision", "recall"], least: float) -> NDArray[np.int64]:
    """Return the index of the lowest accepted score, scores falling, shape (B,); -1 if no threshold reaches the target.

    `tp` and `fp`, shape (B, U), are the matching pairs and the others that the threshold at each score accepts. The
    highest F1 is chosen for f1, otherwise the highest value of the other one where `target` is at least `least`.
    """
    n_matches = tp[:, -1:]
    has_both = (n_matches > 0) & (fp[:, -1:] > 0)
    precision, recall = tp / np.maximum(tp + fp, 1), tp / np.maximum(n_matches, 1)
    second = np.zeros_like(tp)  # of several best ones the first: the highest threshold
    if target == "f1":
        first = 2 * tp / np.maximum(tp + fp + n_matches, 1)
    elif target == "precision":
        first = np.where((precision >= least) & (tp > 0), recall, -1.0)
    else:
        first, second = np.where(recall >= least, precision, -1.0), recall
    first = np.where(has_both, first, -1.0)
    best = first.max(axis=1, keepdims=True)
    places = np.where(first == best, second, -1.0).argmax(axis=1)
    return np.where(best[:, 0] >= 0, places, -1)


def fit_temperature(logits: NDArray[np.floating], gold: NDArray[np.int64]) -> float | None:
    """Return the temperature, from 0.05 to 20, with the lowest log loss on these logits, (N, K), and codes, (N,).

    If none can be fitted (see `temperature_fault`) it is None, and a warning says why.

    Raises:
        InputError: Shapes do not match, a logit is not finite, or a code is not in 0..K-1.
    """
    _check_table(logits, gold, "logits")
    fault = temperature_fault(logits, gold)
    if fault is not None:
        logger.warning("probabilities are not calibrated: %s", fault)
        return None
    every_row, as_floats = np.arange(len(gold)), logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(as_floats * np.exp(-log_temperature), axis=1)[every_row, gold].mean())

    # Convex in 1 / T, so it has one minimum over log T too.
    bounds = float(np.log(_LOWEST)), float(np.log(_HIGHEST))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def temperature_fault(logits: NDArray[np.floating], gold: NDArray[np.int64]) -> str | None:
    """Return why no temperature can be fitted on these logits, shape (N, K), and codes, shape (N,), or None.

    If every row is right, the best temperature is the lowest one allowed, and the model would become overconfident.
    """
    if len(gold) < _LEAST_ROWS:
        return too_few(len(gold), "row", _LEAST_ROWS)
    if (gold == gold[0]).all():
        return "all rows are of one class"
    if (logits == logits[:, :1]).all():
        return "all classes of each row are equally likely"
    return "all rows are classified correctly" if (logits.argmax(axis=1) == gold).all() else None


def class_probabilities(logits: NDArray[np.floating]) -> Floats:
    """Return the softmax of logits, both of shape (N, K), in float64."""
    probabilities: Floats = softmax(logits.astype(np.float64), axis=1)
    return probabilities


def log_loss(probabilities: NDArray[np.floating], gold: NDArray[np.int64]) -> float:
    """Return the mean negative logarithm of the probability of each row's gold class; lower is better.

    Probabilities, shape (N, K), are clipped at the machine epsilon of float64, as in scikit-learn; gold are codes, of
    shape (N,), N at least 1.

    Raises:
        InputError: There is no row, shapes do not match, a probability is not finite, or a code is not in 0..K-1.
    """
    _check_table(probabilities, gold, "probabilities")
    of_gold = probabilities[np.arange(len(gold)), gold].astype(np.float64)
    return float(-np.log(np.clip(of_gold, np.finfo(np.float64).eps, 1.0)).mean())


def expected_calibration_error(probabilities: NDArray[np.floating], gold: NDArray[np.int64], n_bins: int = 15) -> float:
    """Return the expected calibration error of the predicted classes; 0 is best.

    Rows are put into bins of equal width by the probability of their predicted class. The result is the mean of
    |mean probability - accuracy| over the `n_bins` bins between 0 and 1, weighted by their rows (Guo et al. 2017, eq.
    3). Other arguments, and errors, as in `log_loss`.
    """
    _check_table(probabilities, gold, "probabilities")
    top = probabilities.max(axis=1).astype(np.float64)
    is_right = probabilities.argmax(axis=1) == gold
    bins = np.clip(np.ceil(top * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    surplus = np.bincount(bins, weights=top - is_right, minlength=n_bins)
    return float(np.abs(surplus).sum() / len(gold))


def _check_table(table: NDArray[np.floating], gold: NDArray[np.int64], name: str) -> None:
    if table.ndim != 2 or gold.shape != table.shape[:1] or not table.size:
        raise InputError(
            f"{name} have the shape {table.shape} and classes {gold.shape}, expected (rows, classes) and (rows,)"
        )
    n_wrong = int((~np.isfinite(table).all(axis=1)).sum())
    if n_wrong:
        raise InputError(f"{name} of {n_wrong} of {len(gold)} rows are NaN or infinite")
    check_codes(table.shape[1], classes=gold)
