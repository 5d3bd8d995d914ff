"""The results of an evaluation that a report shows, and the choice of the worst rows.

Scores and gold scores are on different scales (after training with a ranking loss, the cosine itself has no absolute
meaning), so a pair's error is a difference of ranks: its rank by the model's score and its rank by gold. A
classifier's worst rows are the mistakes with the highest predicted probability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# The baselines of a classifier, as results and reports name them.
MAJORITY_BASELINE: Final = "the majority class"
COSINE_BASELINE: Final = "the cosine of the untrained encoder"

Json = Mapping[str, Any]


@dataclass(frozen=True)
class SplitScores:
    """The scores of the evaluation pairs.

    Attributes:
        name: dev or test.
        source: The file.
        before: The base model's cosines; None if it was not run. Shape: (n,).
        after: The tuned model's cosines. Shape: (n,).
        gold: Graded scores in the file's scale, or labels 0 and 1. Shape: (n,).
        matches: Whether a pair matches; None if gold are labels, or if it is unknown (scores). Shape: (n,).
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
        """Return whether each pair matches, None if that is unknown. Shape: (n,)."""
        if self.matches is not None or self.scale is not None:
            return self.matches
        known: NDArray[np.bool_] = self.gold > 0.5
        return known if np.isin(self.gold, (0.0, 1.0)).all() else None


@dataclass(frozen=True)
class WorstPair:
    """A pair with a large error.

    Attributes:
        split: dev or test.
        line: Its line in the file.
        text1: The first text.
        text2: The second text.
        gold: Its graded score or label.
        before: The base model's cosine; None if it was not run.
        after: The tuned model's cosine.
        error: Above 0 if the model scores the pair too high, usually from -1 to 1; see `errors_of_place`.
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
    """The predictions of a classifier for the evaluation rows.

    Attributes:
        name: dev or test.
        source: The file.
        class_names: Shape: (K,).
        gold: The number of each row's class. Shape: (n,), int64.
        before: Predictions to compare with, as class numbers; None if there are none. Shape: (n,), int64.
        before_is: The predictor of `before`, such as "the majority class"; None if there is none.
        probabilities: Probability of each class by the tuned model. Shape: (n, K), float32.
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
        """Return the number of each row's most probable class, of ties the first. Shape: (n,)."""
        codes: NDArray[np.int64] = self.probabilities.argmax(axis=1).astype(np.int64)
        return codes


@dataclass(frozen=True)
class Mistake:
    """A row that is classified wrongly.

    Attributes:
        split: dev or test.
        line: Its line in the file.
        texts: Its one or two texts.
        gold: The name of its true class.
        predicted: The name of the predicted class.
        probability: Probability of the predicted class.
        gold_probability: Probability of the true class.
    """

    split: str
    line: int
    texts: tuple[str, ...]
    gold: str
    predicted: str
    probability: float
    gold_probability: float


@dataclass(frozen=True)
class WorstQuery:
    """A query whose relevant texts are not found first.

    Attributes:
        line: Its line in the file of queries.
        query_id: Its id.
        query: Its text.
        right_id: Id of its best-ranked relevant text.
        right: That text.
        before: Rank of the best-ranked relevant text by the model to compare with; None if there is none.
        after: The same by the evaluated model, at least 2.
        right_score: The cosine of `right`.
        wrong_id: Id of the best-ranked text that is not relevant.
        wrong: That text.
        wrong_score: Its cosine.
    """

    line: int
    query_id: str
    query: str
    right_id: str
    right: str
    before: int | None
    after: int
    right_score: float
    wrong_id: str
    wrong: str
    wrong_score: float


def worst_pairs(
    split: SplitScores,
    texts1: Sequence[str],
    texts2: Sequence[str],
    lines: Sequence[int] | NDArray[np.int64],
    n: int = 50,
) -> tuple[WorstPair, ...]:
    """Return the `n` pairs with the largest absolute errors, worst first; ties in the order of the file.

    `texts1`, `texts2` and `lines` are each pair's texts and its line in its file.
    """
    assert len(texts1) == len(texts2) == len(lines) == len(split.after) == len(split.gold)
    # Rounded, so that the order of equal errors does not depend on the last bit.
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
    """Return the `n` mistakes with the highest predicted probability, highest first; ties in the order of the file.

    `texts` and `lines` are each row's one or two texts and its line in its file.
    """
    assert len(texts) == len(lines) == len(split.gold) == len(split.probabilities)
    predicted = split.predicted
    wrong = np.flatnonzero(predicted != split.gold)
    # Rounded, so that the order of equal probabilities does not depend on the last bit.
    confidence = split.probabilities[wrong, predicted[wrong]].astype(np.float64).round(6)
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
        for i in wrong[np.argsort(-confidence, kind="stable")][:n].tolist()
    )


def errors_of_place(split: SplitScores) -> NDArray[np.float64]:
    """Return the rank error of each score, above 0 if the score is too high. Shape: (n,).

    Graded pairs: the rank of a pair is the share of pairs with a lower value (ties count half); the error is its rank
    by the model's score minus its rank by gold. Labels: for a match, minus the share of non-matches that score higher;
    for a non-match, the share of matches that score lower (the mean of these shares is 1 - ROC AUC). If all pairs have
    the same label there is no such share: the error is the score minus the label.
    """
    scores = split.after.astype(np.float64)
    if split.scale is not None:
        return _share_below(np.sort(scores), scores) - _share_below(np.sort(split.gold), split.gold)
    labels = split.gold > 0.5 if split.labels is None else split.labels
    yes, no = np.sort(scores[labels]), np.sort(scores[~labels])
    if not len(yes) or not len(no):
        return scores - labels
    higher = 1.0 - _share_below(no, scores)
    lower = _share_below(yes, scores)
    return np.where(labels, -higher, lower)


def _distance_from_wrong_side(split: SplitScores) -> NDArray[np.float64]:
    """Return a second sort key for labels: the signed distance to the middle between the classes, nearest first."""
    scores, labels = split.after.astype(np.float64), split.labels
    if split.scale is not None or labels is None or labels.all() or not labels.any():
        return np.zeros(len(scores))
    middle = (scores[labels].min() + scores[~labels].max()) / 2
    distances: NDArray[np.float64] = np.where(labels, scores - middle, middle - scores).round(6)
    return distances


def _share_below(ordered: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of `ordered` below each value; ties count half. Shape: (m,), (n,), returns (n,)."""
    left, right = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    shares: NDArray[np.float64] = (left + right) / (2 * len(ordered))
    return shares
