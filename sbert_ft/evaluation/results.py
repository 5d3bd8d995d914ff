"""What a report is made of, and which rows are the worst.

A score and a gold score are on scales of their own (a loss that only ranks leaves no meaning in the cosine itself), so
a pair's error is the distance between two places: where the model put the pair among the others, and where it belongs.
A classifier's worst rows are the wrong ones of which it was surest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# What a classifier has to beat, as results and reports call it.
MAJORITY_BASELINE: Final = "the majority class"


COSINE_BASELINE: Final = "the cosine of the untrained encoder"


Json = Mapping[str, Any]


@dataclass(frozen=True)
class SplitScores:
    """The scores of the pairs that judge a model.

    Attributes:
        name: dev or test.
        source: The file.
        before: The base model's cosines; None where it was not run. Shape: (n,).
        after: The tuned model's cosines. Shape: (n,).
        gold: Graded scores in the file's scale, or labels 0 and 1. Shape: (n,).
        matches: Whether a pair belongs together; None where gold says it (labels) or nobody (scores). Shape: (n,).
        scale: Lowest and highest graded score; None for labels.
    """

    name: str
    source: str
    before: NDArray[np.float32] | None
    after: NDArray[np.float32]
    gold: NDArray[np.float64]
    matches: NDArray[np.bool_] | None
    scale: tuple[float, float] | None

    @property
    def labels(self) -> NDArray[np.bool_] | None:
        """Return whether each pair belongs together, None where that is not known. Shape: (n,)."""
        if self.matches is not None or self.scale is not None:
            return self.matches
        known: NDArray[np.bool_] = self.gold > 0.5
        return known if np.isin(self.gold, (0.0, 1.0)).all() else None


@dataclass(frozen=True)
class WorstPair:
    """A pair that the model put far from its place.

    Attributes:
        split: dev or test.
        line: Its line in the file.
        text1: The one text.
        text2: The other.
        gold: Its graded score or label.
        before: The base model's cosine; None where it was not run.
        after: The tuned model's cosine.
        error: Above 0 where the model scores the pair too high, as a rule from -1 to 1; see `errors_of_place`.
    """

    split: str
    line: int
    text1: str
    text2: str
    gold: float
    before: float | None
    after: float
    error: float


@dataclass(frozen=True)
class ClassSplit:
    """What a classifier says of the rows that judge it.

    Attributes:
        name: dev or test.
        source: The file.
        class_names: Shape: (K,).
        gold: The number of each row's class. Shape: (n,), int64.
        before: What it is compared with, as class numbers; None where there is nothing. Shape: (n,), int64.
        before_is: What `before` comes from, such as "the majority class"; None where there is nothing.
        probabilities: Of each class by the tuned model. Shape: (n, K), float32.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    gold: NDArray[np.int64]
    before: NDArray[np.int64] | None
    before_is: str | None
    probabilities: NDArray[np.float32]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Return the number of each row's likeliest class, the first of equal ones. Shape: (n,)."""
        codes: NDArray[np.int64] = self.probabilities.argmax(axis=1).astype(np.int64)
        return codes


@dataclass(frozen=True)
class Mistake:
    """A row that a classifier puts into a wrong class.

    Attributes:
        split: dev or test.
        line: Its line in the file.
        texts: Its one or two texts.
        gold: The name of its class.
        predicted: The name of the class that the model takes it for.
        probability: Of the predicted class.
        gold_probability: Of its class.
    """

    split: str
    line: int
    texts: tuple[str, ...]
    gold: str
    predicted: str
    probability: float
    gold_probability: float


def worst_pairs(
    split: SplitScores,
    texts1: Sequence[str],
    texts2: Sequence[str],
    lines: Sequence[int] | NDArray[np.int64],
    n: int = 50,
) -> tuple[WorstPair, ...]:
    """Return the `n` pairs whose error is largest, worst first; equal ones in the order of the file.

    Args:
        split: The scores of the pairs.
        texts1: The one text of each pair.
        texts2: The other.
        lines: Where each stands in its file.
        n: How many; fewer where there are fewer pairs.
    """
    assert len(texts1) == len(texts2) == len(lines) == len(split.after) == len(split.gold)
    # Rounded, so that the order of equal errors is not left to the last bit.
    errors = errors_of_place(split).round(12)
    order = np.lexsort((np.arange(len(errors)), _distance_from_wrong_side(split), -np.abs(errors)))[:n]
    return tuple(
        WorstPair(
            split=split.name,
            line=int(lines[i]),
            text1=texts1[i],
            text2=texts2[i],
            gold=float(split.gold[i]),
            before=None if split.before is None else float(split.before[i]),
            after=float(split.after[i]),
            error=float(errors[i]),
        )
        for i in order.tolist()
    )


def confident_mistakes(
    split: ClassSplit, texts: Sequence[tuple[str, ...]], lines: Sequence[int] | NDArray[np.int64], n: int = 50
) -> tuple[Mistake, ...]:
    """Return the `n` wrong rows of whose class the model was surest, surest first; equal ones in the order of the file.

    Args:
        split: What the model says of the rows.
        texts: The one or two texts of each row.
        lines: Where each stands in its file.
        n: How many; fewer where fewer rows are wrong.
    """
    assert len(texts) == len(lines) == len(split.gold) == len(split.probabilities)
    predicted = split.predicted
    wrong = np.flatnonzero(predicted != split.gold)
    # Rounded, so that the order of equal probabilities is not left to the last bit.
    sureness = split.probabilities[wrong, predicted[wrong]].astype(np.float64).round(6)
    return tuple(
        Mistake(
            split=split.name,
            line=int(lines[i]),
            texts=tuple(texts[i]),
            gold=split.class_names[split.gold[i]],
            predicted=split.class_names[predicted[i]],
            probability=float(split.probabilities[i, predicted[i]]),
            gold_probability=float(split.probabilities[i, split.gold[i]]),
        )
        for i in wrong[np.argsort(-sureness, kind="stable")][:n].tolist()
    )


def errors_of_place(split: SplitScores) -> NDArray[np.float64]:
    """Return how far each score is from its place, above 0 where it is too high. Shape: (n,).

    Graded pairs: the place of a pair is the share of pairs with a lower value (equal ones count half); the error is its
    place by the model's score minus its place by gold. Labels: for a match, minus the share of the other pairs that
    score higher than it; for a non-match, the share of matches that score lower (their mean is what ROC AUC lacks
    to 1). With one label only there is no such share: the score itself minus the label.
    """
    scores = split.after.astype(np.float64)
    if split.scale is not None:
        return _places(scores) - _places(split.gold)
    labels = split.gold > 0.5 if split.labels is None else split.labels
    yes, no = np.sort(scores[labels]), np.sort(scores[~labels])
    if not len(yes) or not len(no):
        return scores - labels
    higher = 1.0 - _share_below(no, scores)
    lower = _share_below(yes, scores)
    return np.where(labels, -higher, lower)


def _distance_from_wrong_side(split: SplitScores) -> NDArray[np.float64]:
    """Return an order for labels that are told apart entirely, where no error is left: nearest the other side first."""
    scores, labels = split.after.astype(np.float64), split.labels
    if split.scale is not None or labels is None or labels.all() or not labels.any():
        return np.zeros(len(scores))
    middle = (scores[labels].min() + scores[~labels].max()) / 2
    distances: NDArray[np.float64] = np.where(labels, scores - middle, middle - scores).round(6)
    return distances


def _places(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return _share_below(np.sort(values), values)


def _share_below(ordered: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of `ordered` below each value, equal ones by half. Shape: (m,), (n,), returns (n,)."""
    left, right = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    shares: NDArray[np.float64] = (left + right) / (2 * len(ordered))
    return shares
