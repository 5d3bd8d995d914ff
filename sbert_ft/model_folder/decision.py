"""Decide whether pairs match, by the threshold and the calibration that are stored with a model.

Which cosine means "these belong together" differs from model to model, so a threshold is fitted on labelled pairs (see
`evaluation.calibration`) and stored in `sbert_ft.json`. This module only applies it, in numpy: a threshold on a cosine
or a classifier's probability, and a curve from cosine to probability that never falls. The JSON is checked key by key.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sbert_ft.errors import InputError, quoted
from sbert_ft.files.strict_json import JsonObject

Floats = NDArray[np.floating]

# What a threshold can be chosen for, for messages; `parse_target` reads it.
TARGETS = "f1, or precision>=X or recall>=X with X above 0 and at most 1, such as precision>=0.95"
_TARGET = re.compile(r"f1|(precision|recall)>=(1(?:\.0+)?|0?\.[0-9]*[1-9][0-9]*)")
Similarity = Literal["cosine", "probability"]
# The lowest value of each; the highest is 1.
_LEAST: Mapping[str, float] = {"cosine": -1.0, "probability": 0.0}
_NO_DECISION = "the model has no stored threshold: fit one with fit_threshold on labelled pairs"
# A gold score, or a slope or intercept of a sigmoid, beyond this is a mistake or an attack.
_MOST = 1e15


@dataclass(frozen=True)
class Calibration:
    """A rising curve from cosine to probability.

    Attributes:
        kind: isotonic (straight lines between points, constant outside of them) or platt (a sigmoid).
        x: Isotonic: cosines, strictly rising, at least one.
        y: Isotonic: the probability at each of them, never falling.
        slope: Platt: the probability is 1 / (1 + exp(-(slope * cosine + intercept))); 0 or more.
    """

    kind: Literal["isotonic", "platt"]
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    slope: float = 0.0
    intercept: float = 0.0

    def probability(self, scores: Floats) -> NDArray[np.float32]:
        """Return the probability that a pair belongs together: shape (N,), within [0, 1], rising with the score.

        `scores` are cosines, shape (N,).

        Raises:
            InputError: A score is NaN or infinite.
        """
        scores = _finite(scores)
        if self.kind == "platt":
            probabilities = np.exp(-np.logaddexp(0.0, -(self.slope * scores + self.intercept)))
        elif len(self.x) == 1:
            probabilities = np.full(len(scores), self.y[0])
        else:
            x, y = np.array(self.x), np.array(self.y)
            scores = scores.clip(x[0], x[-1])
            left = np.clip(np.searchsorted(x, scores, side="right") - 1, 0, len(x) - 2)
            share = (scores - x[left]) / (x[left + 1] - x[left])
            # rounding must not raise a value above the end of its line: the curve would fall there
            probabilities = np.minimum(y[left] + share * (y[left + 1] - y[left]), y[left + 1])
        result: NDArray[np.float32] = probabilities.astype(np.float32)
        return result

    def to_json(self) -> dict[str, Any]:
        """Return the curve as a JSON object, with the values that its kind needs."""
        if self.kind == "platt":
            return {"kind": self.kind, "slope": self.slope, "intercept": self.intercept}
        return {"kind": self.kind, "x": list(self.x), "y": list(self.y)}


@dataclass(frozen=True)
class FittedOn:
    """The pairs that a decision was fitted on, and how many of them belong together.

    `source` is their file's name without its folders, `sha256` that of their content (`ConnectionDataset.sha256`).
    """

    source: str
    sha256: str
    n: int
    n_matches: int


@dataclass(frozen=True)
class Decision:
    """A threshold on the cosine (or probability), and how it was fitted.

    Attributes:
        threshold: A pair with this value or a higher one matches.
        target: What it was chosen for: f1, or for example precision>=0.95 or recall>=0.9.
        fitted_on: The pairs that it was fitted on.
        low: Lower end of the threshold's confidence interval, and `high` its upper end; None where there is none.
        confidence: Confidence level of the interval, 0 to 1.
        reached: precision, recall and f1 of the threshold on these pairs.
        calibration: The curve from cosine to probability; None where none was fitted.
        match_from: In fitting, pairs with this gold score or a higher one match; None where the gold is yes or no.
        scale: Lowest and highest gold score of the scale; None where the gold is yes or no.
        similarity: What is compared with the threshold: the cosine of two vectors, or a classifier's probability.
    """

    threshold: float
    target: str
    fitted_on: FittedOn
    low: float | None = None
    high: float | None = None
    confidence: float = 0.95
    reached: Mapping[str, float] = field(default_factory=dict)
    calibration: Calibration | None = None
    match_from: float | None = None
    scale: tuple[float, float] | None = None
    similarity: Similarity = "cosine"

    def match(self, scores: Floats) -> NDArray[np.bool_]:
        """Return whether each score matches; see `reaches`."""
        return reaches(scores, self.threshold)

    def describe(self) -> str:
        """Return it in words: "0.7312 (95 % interval 0.7012 to 0.7621, chosen for f1 on 1,500 pairs)"."""
        interval = ""
        if self.low is not None and self.high is not None:
            interval = f"{100 * self.confidence:g} % interval {self.low:.4f} to {self.high:.4f}, "
        return f"{self.threshold:.4f} ({interval}chosen for {self.target} on {self.fitted_on.n:,} pairs)"

    def to_json(self) -> dict[str, Any]:
        """Return the decision as a JSON object."""
        return dataclasses.asdict(self) | {
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "scale": None if self.scale is None else list(self.scale),
        }

    @classmethod
    def from_json(cls, content: object, file: Path) -> Decision:
        """Return the decision of a JSON value; `file` is named in messages.

        Raises:
            ModelFolderError: A key is missing, unknown or of a wrong type or range.
        """
        json = JsonObject(content, "decision", file)
        json.refuse_all_but([f.name for f in dataclasses.fields(cls)])
        reached = json.inner("reached")
        reached.refuse_all_but(("precision", "recall", "f1"))
        similarity: Similarity = "probability" if json.text("similarity") == "probability" else "cosine"
        if json.text("similarity") not in _LEAST:
            raise json.fault("similarity", "cosine or probability")
        least = _LEAST[similarity]
        low, high = json.number_or_none("low", least, 1.0), json.number_or_none("high", least, 1.0)
        if (low is None) != (high is None) or (low or 0.0) > (high or 0.0):
            raise json.fault("low", "a number up to high, the upper end of the interval, or null for both")
        if parse_target(json.text("target")) is None:
            raise json.fault("target", TARGETS)
        fitted_on = json.inner("fitted_on")
        fitted_on.refuse_all_but([f.name for f in dataclasses.fields(FittedOn)])
        n, n_matches = fitted_on.whole("n"), fitted_on.whole("n_matches")
        if n_matches > n:
            raise fitted_on.fault("n_matches", f"at most n, {n}")
        return cls(
            threshold=json.number("threshold", least, 1.0),
            target=json.text("target"),
            fitted_on=FittedOn(fitted_on.text("source"), fitted_on.text("sha256"), n, n_matches),
            low=low,
            high=high,
            confidence=json.number("confidence", 0.0, 1.0),
            reached={name: reached.number(name, 0.0, 1.0) for name in reached.content},
            calibration=None if json.value("calibration") is None else _calibration(json.inner("calibration")),
            match_from=json.number_or_none("match_from", -_MOST, _MOST),
            scale=None if json.value("scale") is None else json.scale("scale"),
            similarity=similarity,
        )


def parse_target(text: str) -> tuple[Literal["f1", "precision", "recall"], float] | None:
    """Return the metric of a target and its required value, 0 for f1; None where the text is not a target."""
    found = _TARGET.fullmatch(text)
    if found is None or found[1] is None:
        return None if found is None else ("f1", 0.0)
    return "precision" if found[1] == "precision" else "recall", float(found[2])


def chosen_threshold(decision: Decision | None, threshold: float | None, similarity: Similarity = "cosine") -> float:
    """Return the given threshold, or the decision's if it is None; `similarity` is what is compared with it.

    Raises:
        InputError: There is neither, or the threshold is not a number in the range of `similarity`.
    """
    if threshold is None:
        if decision is None:
            raise InputError(f"{_NO_DECISION}, or pass threshold=")
        return decision.threshold
    least = _LEAST[similarity]
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not least <= threshold <= 1.0:
        raise InputError(f"threshold is {quoted(threshold)}, expected a {similarity}: a number from {least:g} to 1")
    return float(threshold)


def stored_calibration(decision: Decision | None) -> Calibration:
    """Return the calibration of a decision.

    Raises:
        InputError: There is no decision, or it has no calibration.
    """
    if decision is None:
        raise InputError(f"{_NO_DECISION}; this also fits the probability for each cosine")
    if decision.calibration is None:
        raise InputError("the model's threshold was stored without a calibration", "fit both again with fit_threshold")
    return decision.calibration


def reaches(scores: Floats, threshold: float) -> NDArray[np.bool_]:
    """Return whether each score, shape (N,), is at or above the threshold: shape (N,).

    Raises:
        InputError: A score is NaN or infinite.
    """
    reached: NDArray[np.bool_] = _finite(scores) >= threshold
    return reached


def _finite(scores: Floats) -> NDArray[np.float64]:
    """Return the scores in float64, because a threshold may lie between two neighbouring float32 numbers."""
    n_infinite = int((~np.isfinite(scores)).sum())
    if n_infinite:
        raise InputError(f"{n_infinite} of {scores.size} scores are NaN or infinite, expected finite numbers")
    return scores.astype(np.float64)


def _calibration(json: JsonObject) -> Calibration:
    if json.value("kind") == "platt":
        json.refuse_all_but(("kind", "slope", "intercept"))
        return Calibration(
            "platt", slope=json.number("slope", 0, _MOST), intercept=json.number("intercept", -_MOST, _MOST)
        )
    if json.value("kind") != "isotonic":
        raise json.fault("kind", "isotonic or platt")
    json.refuse_all_but(("kind", "x", "y"))
    x, y = json.numbers("x", -1.0, 1.0), json.numbers("y", 0.0, 1.0)
    if any(b <= a for a, b in pairwise(x)):
        raise json.fault("x", "numbers that rise")
    if len(y) != len(x) or any(b < a for a, b in pairwise(y)):
        raise json.fault("y", f"{len(x)} numbers that never fall, one for each of x")
    return Calibration("isotonic", x=x, y=y)
