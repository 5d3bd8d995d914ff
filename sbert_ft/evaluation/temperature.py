"""Probabilities of classes that can be believed: one number, found on dev, by which all logits are divided.

A network trained to the end is surer than it is right. Dividing its logits by one temperature T mends most of that and
changes no prediction (Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2). N stands for the
number of rows, K for that of classes; a code is the number of a class, from 0.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from sbert_ft.errors import InputError
from sbert_ft.evaluation.resampling import Floats

logger = logging.getLogger(__name__)

# Rows that are nearly all right, or as often wrong as chance has it, would have a temperature near 0 or of infinity.
_LOWEST, _HIGHEST = 0.05, 20.0
_LEAST_ROWS = 10


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

    _check(logits, gold, "logits")
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
    _check(probabilities, gold, "probabilities")
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
    _check(probabilities, gold, "probabilities")
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


def _check(table: NDArray[np.floating], gold: NDArray[np.int64], name: str) -> None:
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
