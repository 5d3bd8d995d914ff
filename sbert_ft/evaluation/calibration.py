"""Choose the cosine from which pairs belong together, and how likely each cosine makes it, on labelled pairs.

Every place between two neighbouring scores is tried as a threshold, at once: with pairs in falling order, what a
threshold accepts is a cumulative sum. How far the choice would wander with other pairs is found by choosing anew in
each bootstrap resample. The decision is stored with the model and must be judged on other pairs than these. N stands
for the number of pairs, U for that of distinct scores, B for resamples.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from sbert_ft.arguments import instance_argument, word_argument
from sbert_ft.config.settings import CalibrationKind, EvaluationSettings
from sbert_ft.errors import InputError, quoted
from sbert_ft.evaluation.bootstrap import Flags, Floats, Groups, percentile_interval, resamples
from sbert_ft.model_folder.decision import TARGETS, Calibration, Decision, FittedOn, parse_target

if TYPE_CHECKING:
    from sbert_ft.data.dataset import ConnectionDataset
    from sbert_ft.models.siamese import SiameseBert

logger = logging.getLogger(__name__)

# Fewer leave isotonic regression, which has as many parameters as it likes, too much freedom (Niculescu-Mizil and
# Caruana 2005, section 5: Platt's sigmoid is the better one below about 1,000).
_LEAST_ISOTONIC = 1000


# Rows that are nearly all right, or as often wrong as chance has it, would have a temperature near 0 or of infinity.
_LOWEST, _HIGHEST = 0.05, 20.0
_LEAST_ROWS = 10


def fit_threshold(
    model: SiameseBert,
    dev: ConnectionDataset,
    target: str = "f1",
    calibration: CalibrationKind = "auto",
    match_from: float | None = None,
) -> Decision:
    """Return the decision that fits the model to labelled pairs; it is also stored as `model.decision`.

    Args:
        model: Scores the pairs, with its threads, precision and prompt as it will be used.
        dev: Pairs that it was not trained on, with yes/no labels or graded scores.
        target: ``f1`` for the best F1; ``precision>=0.95`` for the best recall with at least this precision;
            ``recall>=0.9`` for the best precision with at least this recall.
        calibration: From cosine to probability: ``isotonic``, ``platt``, ``none``, or ``auto`` for isotonic from
            1,000 pairs on.
        match_from: Graded scores: a pair belongs together from this one on, in the file's scale; None for the middle
            of the scale.

    Raises:
        InputError: The pairs have no labels or only one class, all scores are equal, the target cannot be reached, or
            an argument is none of those above.
    """
    from sbert_ft.data.dataset import ConnectionDataset
    from sbert_ft.models.siamese import SiameseBert

    instance_argument(SiameseBert, model, "model", "SiameseBert.from_pretrained(folder)")
    instance_argument(ConnectionDataset, dev, "dev", "ConnectionDataset.from_file(path)")
    settings = EvaluationSettings(
        threshold_target=instance_argument(str, target, "target"),
        calibration=calibration,
        match_from=match_from,
    )
    _check(settings)
    matches = dev.matches(match_from)
    if matches is None:
        raise InputError(f"{quoted(dev.source, limit=400)} has no labels: a threshold is fitted on pairs of both kinds")
    scale = None if dev.scale is None else (dev.scale.low, dev.scale.high)
    fitted_on = {"source": dev.source, "sha256": dev.sha256}
    decision = fit_decision(model.score(dev.pairs()), matches, settings, fitted_on, scale=scale)
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
        settings: Target, calibration, number of resamples and confidence; of graded pairs, from where on they match.
        fitted_on: source and sha256 of the pairs. Of a path only the last part is kept: the model may be shared.
        scale: Lowest and highest gold score of graded pairs.
        seed: Of the resamples.

    Raises:
        InputError: There is only one class, all scores are equal or some are no cosines, or the pairs do not let the
            target be reached (the message names what can be).
    """
    target, least = _check(settings)
    cosines = _checked_scores(scores, matches, fitted_on["source"])
    groups = Groups.of(-cosines)  # falling scores
    thresholds = _thresholds(-groups.values)
    every_pair_once = np.ones((1, len(cosines)))
    n_matching, n_all = groups.sums(every_pair_once * matches), groups.sums(every_pair_once)
    place = int(_choose(n_matching, n_all - n_matching, target, least)[0])
    if place < 0:
        raise _unreachable(settings.threshold_target, n_matching[0], n_all[0], thresholds, fitted_on["source"])
    chosen = []
    for counts in resamples(len(cosines), settings.bootstrap_samples, seed):
        matching = groups.sums(counts * matches)
        places = _choose(matching, groups.sums(counts) - matching, target, least)
        chosen.append(np.where(places >= 0, thresholds[places], np.nan))
    low, high = percentile_interval(np.concatenate(chosen), settings.confidence) or (None, None)
    n_true, n_accepted = float(n_matching[0, : place + 1].sum()), float(n_all[0, : place + 1].sum())
    n_matches = int(matches.sum())
    middle = None if scale is None else (scale[0] + scale[1]) / 2
    return Decision(
        threshold=float(thresholds[place]),
        target=settings.threshold_target,
        fitted_on=FittedOn(_last_part(fitted_on["source"]), fitted_on["sha256"], len(cosines), n_matches),
        low=low,
        high=high,
        confidence=settings.confidence,
        reached={
            "precision": n_true / n_accepted,
            "recall": n_true / n_matches,
            "f1": 2 * n_true / (n_accepted + n_matches),
        },
        calibration=fit_calibration(cosines, matches, settings.calibration),
        match_from=middle if settings.match_from is None or scale is None else settings.match_from,
        scale=scale,
    )


def fit_calibration(scores: Floats, matches: Flags, kind: CalibrationKind) -> Calibration | None:
    """Return the curve from cosine to probability; None for the kind none.

    Probabilities keep off 0 and 1 by Platt's smoothed targets (1999, section 2.2): with N+ pairs that match and N-
    others, those are 1 / (N- + 2) and (N+ + 1) / (N+ + 2), between which isotonic regression is held, too.

    Args:
        scores: Shape (N,): cosines, not all equal.
        matches: Shape (N,): both True and False occur.
        kind: isotonic, platt, none, or auto for isotonic from 1,000 pairs on.
    """
    if kind == "none":
        return None
    n_matches = int(matches.sum())
    least, most = 1 / (len(matches) - n_matches + 2), (n_matches + 1) / (n_matches + 2)
    if kind == "isotonic" or (kind == "auto" and len(scores) >= _LEAST_ISOTONIC):
        calibration = _fit_isotonic(scores, matches, least, most)
        is_flat = calibration.y[0] == calibration.y[-1]
    else:
        calibration = _fit_platt(scores, np.where(matches, most, least))
        is_flat = calibration.slope == 0
    if is_flat:
        logger.warning("scores are not higher where pairs belong together: all pairs get the same probability")
    return calibration


def same_data(decision: Decision, dataset: ConnectionDataset) -> bool:
    """Return whether a decision was fitted on these very pairs, so that they cannot judge it."""
    same: bool = decision.fitted_on.sha256 == dataset.sha256
    return same


def _fit_isotonic(scores: Floats, matches: Flags, least: float, most: float) -> Calibration:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=least, y_max=most, out_of_bounds="clip").fit(scores, matches.astype(np.float64))
    y = np.maximum.accumulate(fitted.y_thresholds_)  # rounding may let it fall
    return Calibration("isotonic", x=tuple(fitted.X_thresholds_.tolist()), y=tuple(y.tolist()))


def _fit_platt(scores: Floats, targets: Floats) -> Calibration:
    """Return the sigmoid that fits soft targets best, level where it would fall."""
    from sklearn.linear_model import LogisticRegression

    mean, spread = scores.mean(), scores.std()
    standardised = ((scores - mean) / spread)[:, None]
    # A target of 0.9 is a pair that matches, weighing 0.9, and one that does not, weighing 0.1. The targets keep the
    # slope finite even where scores separate the classes, so that no penalty is needed.
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
    """Return what the threshold is chosen for, and the least value asked for."""
    target = parse_target(settings.threshold_target)
    if target is None:
        raise InputError(f"the threshold's target is {quoted(settings.threshold_target)}, expected {TARGETS}")
    word_argument(settings.calibration, "calibration", ("auto", "isotonic", "platt", "none"))
    return target


def _checked_scores(scores: NDArray[np.floating], matches: Flags, source: str) -> Floats:
    """Return the scores in float64, or refuse those that no threshold can be chosen by."""
    cosines = np.asarray(scores, dtype=np.float64)
    shown = quoted(source, limit=400)
    if matches.dtype != np.bool_ or matches.shape != cosines.shape or cosines.ndim != 1:
        raise InputError(f"expected one score and one bool a pair, found shapes {cosines.shape} and {matches.shape}")
    n_wrong = int((~(np.abs(cosines) <= 1)).sum())  # holds for NaN, too
    if n_wrong:
        raise InputError(f"{n_wrong} of {len(cosines)} scores of {shown} are no cosines, from -1 to 1")
    n_matches = int(matches.sum())
    if n_matches in (0, len(matches)):
        found = f"{len(matches)} pairs, of which {n_matches or 'none'} match{'' if n_matches else 'es'}"
        raise InputError(f"{shown} has {found}: a threshold is fitted on pairs that match and others")
    if cosines.min() == cosines.max():
        raise InputError(f"all scores of {shown} are {cosines[0]:.4f}: no threshold can tell pairs apart by them")
    return cosines


def _thresholds(falling: Floats) -> Floats:
    """Return, for each of the distinct scores, shape (U,), the threshold that accepts it and all higher ones.

    It lies midway to the next lower one, for the lowest midway to -1.
    """
    below = np.append(falling[1:], -1.0)
    middle = (falling + below) / 2
    thresholds: Floats = np.where(middle > below, middle, falling)  # neighbouring numbers have no middle
    return thresholds


def _choose(
    n_matching: Floats, n_other: Floats, target: Literal["f1", "precision", "recall"], least: float
) -> NDArray[np.int64]:
    """Return the lowest accepted one of the falling scores, shape (B,); -1 where nothing reaches the target.

    Args:
        n_matching: Shape (B, U): pairs of each score that belong together.
        n_other: Shape (B, U): the others.
        target: f1 for the highest F1; precision for the highest recall with a precision of at least `least`; recall
            for the highest precision with a recall of at least `least`.
        least: See `target`.
    """
    tp, fp = n_matching.cumsum(axis=1), n_other.cumsum(axis=1)
    n_matches = tp[:, -1:]
    has_both = (n_matches > 0) & (fp[:, -1:] > 0)
    precision, recall = tp / np.maximum(tp + fp, 1), tp / np.maximum(n_matches, 1)
    second = np.zeros_like(tp)  # of several best the first one, which is the highest threshold
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


def _unreachable(target: str, n_matching: Floats, n_all: Floats, thresholds: Floats, source: str) -> InputError:
    """Return the error that names the best precision that the scores allow."""
    tp, n_accepted = n_matching.cumsum(), n_all.cumsum()
    precision = tp / n_accepted
    place = len(precision) - 1 - int(precision[::-1].argmax())  # of equal ones that with the highest recall
    recall = tp[place] / tp[-1]
    best = f"{precision[place]:.4f}, from {thresholds[place]:.4f} on, with a recall of {recall:.4f}"
    where = quoted(source, limit=400)
    return InputError(f"no threshold reaches {target} on {where}: the highest precision is {best}", "ask for less")


def _last_part(source: str) -> str:
    return PurePath(source).name or source


def fit_temperature(logits: NDArray[np.floating], gold: NDArray[np.int64]) -> float:
    """Return the temperature at which the rows' own classes are likeliest, from 0.05 to 20.

    Where the rows cannot tell (see `temperature_fault`) it is 1, which changes nothing, and a warning says why.

    Args:
        logits: Shape (N, K).
        gold: Codes, shape (N,).

    Raises:
        InputError: Shapes do not fit, a logit is not finite, or a code is none of 0..K-1.
    """
    from scipy.optimize import minimize_scalar

    _check_table(logits, gold, "logits")
    fault = temperature_fault(logits, gold)
    if fault is not None:
        logger.warning("no temperature is fitted: %s", fault)
        return 1.0
    below_best = _below_best(logits)
    of_gold = below_best[np.arange(len(gold)), gold]

    def negative_log_likelihood(log_temperature: float) -> float:
        factor = np.exp(-log_temperature)
        return float(np.log(np.exp(below_best * factor).sum(axis=1)).mean() - of_gold.mean() * factor)

    # Convex in 1 / T, so it has one minimum over log T too.
    bounds = float(np.log(_LOWEST)), float(np.log(_HIGHEST))
    found = minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def temperature_fault(logits: NDArray[np.floating], gold: NDArray[np.int64]) -> str | None:
    """Return why no temperature can be fitted on these rows, or None.

    Where every row is right, the likeliest temperature is the lowest one there is, which would make a model surer than
    so few rows can know it to be.

    Args:
        logits: Shape (N, K).
        gold: Codes, shape (N,).
    """
    n_rows = len(gold)
    if n_rows < _LEAST_ROWS:
        return f"{n_rows} row{'' if n_rows == 1 else 's'}, too few: at least {_LEAST_ROWS} are needed"
    if (gold == gold[0]).all():
        return "all rows are of one class"
    if (logits == logits[:, :1]).all():
        return "all classes of each row are equally likely"
    return "all rows are right" if (logits.argmax(axis=1) == gold).all() else None


def softmax(logits: NDArray[np.floating]) -> Floats:
    """Return probabilities, shape (N, K) float64, each row adding up to 1.

    Args:
        logits: Shape (N, K).
    """
    likely = np.exp(_below_best(logits))
    probabilities: Floats = likely / likely.sum(axis=1, keepdims=True)
    return probabilities


def log_loss(probabilities: NDArray[np.floating], gold: NDArray[np.int64]) -> float:
    """Return the mean of minus the logarithm of the probability of each row's own class; lower is better.

    Probabilities are kept off 0 by the rounding of float64, as in scikit-learn.

    Args:
        probabilities: Shape (N, K), N at least 1.
        gold: Codes, shape (N,).

    Raises:
        InputError: There is no row, shapes do not fit, a probability is not finite, or a code is none of 0..K-1.
    """
    _check_table(probabilities, gold, "probabilities")
    of_gold = probabilities[np.arange(len(gold)), gold].astype(np.float64)
    return float(-np.log(np.clip(of_gold, np.finfo(np.float64).eps, 1.0)).mean())


def expected_calibration_error(probabilities: NDArray[np.floating], gold: NDArray[np.int64], n_bins: int = 15) -> float:
    """Return how far the probability of the predicted class is from the share of right rows; 0 is best.

    Rows are put into bins of equal width by the probability of their likeliest class; the distance of mean probability
    and accuracy in each counts by its rows (Guo et al. 2017, eq. 3).

    Args:
        probabilities: Shape (N, K), N at least 1.
        gold: Codes, shape (N,).
        n_bins: From 0 to 1.

    Raises:
        InputError: There is no row, shapes do not fit, a probability is not finite, or a code is none of 0..K-1.
    """
    _check_table(probabilities, gold, "probabilities")
    top = probabilities.max(axis=1).astype(np.float64)
    is_right = probabilities.argmax(axis=1) == gold
    bins = np.clip(np.ceil(top * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    surplus = np.bincount(bins, weights=top - is_right, minlength=n_bins)
    return float(np.abs(surplus).sum() / len(gold))


def _below_best(logits: NDArray[np.floating]) -> Floats:
    """Return each logit minus the highest of its row, so that no exponential overflows."""
    as_floats = logits.astype(np.float64)
    below: Floats = as_floats - as_floats.max(axis=1, keepdims=True)
    return below


def _check_table(table: NDArray[np.floating], gold: NDArray[np.int64], name: str) -> None:
    if table.ndim != 2 or gold.shape != table.shape[:1] or not table.size:
        raise InputError(
            f"{name} have the shape {table.shape} and classes {gold.shape}, expected (rows, classes) and (rows,)"
        )
    n_wrong = int((~np.isfinite(table).all(axis=1)).sum())
    if n_wrong:
        raise InputError(f"{name} of {n_wrong} of {len(gold)} rows are NaN or infinite")
    if gold.min() < 0 or gold.max() >= table.shape[1]:
        wrong = gold.min() if gold.min() < 0 else gold.max()
        raise InputError(f"there is a class number {wrong}, expected 0 to {table.shape[1] - 1}")
