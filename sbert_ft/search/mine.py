"""Pairs of texts that belong together: among the texts of one list, or between two.

Texts that are equal but for case and spacing are found first, without the model. The distinct ones are encoded, each
pair of them is compared, and those whose cosine reaches the threshold are the result. Time grows with the square of
the number of distinct texts, memory with the number itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sbert_ft.arguments import whole_number
from sbert_ft.model_folder.decision import Calibration, chosen_threshold
from sbert_ft.models.unit_vectors import Encoding, unit_vectors
from sbert_ft.search.texts import DistinctTexts, prompt_of_single_set
from sbert_ft.vectors.joins import BestPairs, Scores, join, ranks_among_partners
from sbert_ft.vectors.nearest import Rows, Vectors

if TYPE_CHECKING:
    from sbert_ft.models.sentence_encoder import SentenceEncoder

logger = logging.getLogger(__name__)

MAX_PAIRS = 1_000_000


@dataclass(frozen=True)
class MinedPairs:
    """Pairs of rows, best first; all arrays have the shape (B,).

    Attributes:
        first: Row of each pair's first text.
        second: Row of the second, in the other list where there are two.
        scores: Their cosines, float32; 1 where `exact`.
        exact: Whether the texts are equal but for case and spacing.
        mutual: Whether each is the other's best; None for pairs of one list.
        probabilities: How likely they belong together, float32; 1 where `exact`. None without a calibration.
        n_found: Pairs that reach the threshold and of which these are the best; where many more were found than were
            asked for, at least so many.
    """

    first: Rows
    second: Rows
    scores: Scores
    exact: NDArray[np.bool_]
    mutual: NDArray[np.bool_] | None
    probabilities: NDArray[np.float32] | None
    n_found: int

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.first)

    @property
    def expected_wrong(self) -> float | None:
        """How many of the pairs are expected not to belong together: the sum of 1 - probability; None without these."""
        return None if self.probabilities is None else float((1.0 - self.probabilities.astype(np.float64)).sum())


def mine_pairs(
    model: SentenceEncoder,
    texts: Sequence[str],
    others: Sequence[str] | None = None,
    *,
    threshold: float | None = None,
    top_k: int | None = None,
    max_pairs: int = MAX_PAIRS,
    encoding: Encoding | None = None,
    on_compared: Callable[[int], None] = lambda n: None,
) -> MinedPairs:
    """Return the pairs of texts whose cosine reaches the threshold, best first.

    A text that repeats an earlier one is paired with that one only, as an exact pair, so n equal texts are n - 1 pairs.
    Between two lists each row is paired with the best texts of the other list; there a repeat is paired like its text.

    Args:
        model: The encoder.
        texts: The texts.
        others: The texts to pair them with, with the model's prompt for second texts; None for pairs among `texts`.
        threshold: The lowest cosine; None for the model's.
        top_k: A pair must be among the `top_k` best of its first or its second text; None for no limit, and for 1
            between two lists. Pairs of a repeat with its text are not counted.
        max_pairs: How many pairs to keep, the best ones.
        encoding: How texts are encoded; None for the defaults.
        on_compared: Called with the number of distinct texts that were compared with all others.

    Raises:
        InputError: There is no text or no threshold, or an argument is not valid.
    """
    threshold = chosen_threshold(model.decision, threshold)
    max_pairs = whole_number(max_pairs, "max_pairs", 1)
    top_k = None if top_k is None else whole_number(top_k, "top_k", 1)
    encoding = encoding or Encoding()
    left = DistinctTexts.of(texts)
    if others is None:
        mined = _within(model, left, BestPairs(threshold, max_pairs, top_k), encoding, on_compared)
    else:
        right = DistinctTexts.of(others, "others")
        best = BestPairs(threshold, max_pairs, 1 if top_k is None else top_k, offset=len(left.texts))
        mined = _between(model, left, right, best, encoding, on_compared)
    kept = replace(
        mined,
        first=mined.first[:max_pairs],
        second=mined.second[:max_pairs],
        scores=mined.scores[:max_pairs],
        exact=mined.exact[:max_pairs],
        mutual=None if mined.mutual is None else mined.mutual[:max_pairs],
    )
    calibration = None if model.decision is None else model.decision.calibration
    return replace(kept, probabilities=probabilities(calibration, kept.scores, kept.exact))


def probabilities(
    calibration: Calibration | None, scores: Scores, exact: NDArray[np.bool_]
) -> NDArray[np.float32] | None:
    """Return the probability of each score, 1 for exact pairs: shape (B,); None without a calibration."""
    if calibration is None:
        return None
    return np.where(exact, np.float32(1), calibration.probability(scores))


def _within(
    model: SentenceEncoder,
    distinct: DistinctTexts,
    best: BestPairs,
    encoding: Encoding,
    on_compared: Callable[[int], None],
) -> MinedPairs:
    vectors = unit_vectors(model, distinct.texts, prompt_of_single_set(model), encoding)
    for found in join(vectors, None, best.floor, on_compared):
        best.add(*found)
    first, second, scores = best.pairs()
    repeats = distinct.repeats()
    return MinedPairs(
        np.concatenate([distinct.rows[distinct.of_row[repeats]], distinct.rows[first]]),
        np.concatenate([repeats, distinct.rows[second]]),
        np.concatenate([np.ones(len(repeats), np.float32), scores]),
        np.arange(len(repeats) + len(first)) < len(repeats),
        None,
        None,
        best.n_added + len(repeats),
    )


def _between(
    model: SentenceEncoder,
    left: DistinctTexts,
    right: DistinctTexts,
    best: BestPairs,
    encoding: Encoding,
    on_compared: Callable[[int], None],
) -> MinedPairs:
    twins = left.places(right.keys)  # the same text in `left`, or -1
    left_vectors, right_vectors = _vectors_of_two(model, left, right, twins, encoding)
    same = np.flatnonzero(twins >= 0)
    # above any cosine: an equal text is the best one, also where another one's cosine is 1
    best.add(twins[same], same, np.full(len(same), 2, np.float32))
    for first, second, scores in join(left_vectors, right_vectors, best.floor, on_compared):
        other = twins[second] != first
        best.add(first[other], second[other], scores[other])
    first, second, scores = best.pairs()
    of_first, of_second = ranks_among_partners(first, second + len(left.texts), scores)
    mutual = (of_first == 0) & (of_second == 0)
    pairs = MinedPairs(first, second, scores.clip(max=1.0), scores > 1.0, mutual, None, best.n_added)
    return _with_repeats(pairs, left, right)


def _vectors_of_two(
    model: SentenceEncoder, left: DistinctTexts, right: DistinctTexts, twins: NDArray[np.int64], encoding: Encoding
) -> tuple[Vectors, Vectors]:
    """Return the vectors of both lists; a text of both is encoded once if both have the same prompt."""
    first_prompt, second_prompt = model.prompts_of_pair
    left_vectors = unit_vectors(model, left.texts, first_prompt, encoding)
    if first_prompt != second_prompt:
        return left_vectors, unit_vectors(model, right.texts, second_prompt, encoding)
    new = np.flatnonzero(twins < 0)
    right_vectors = np.empty((len(right.texts), left_vectors.shape[1]), np.float32)
    right_vectors[new] = unit_vectors(model, [right.texts[i] for i in new.tolist()], second_prompt, encoding)
    right_vectors[twins >= 0] = left_vectors[twins[twins >= 0]]
    return left_vectors, right_vectors


def _with_repeats(pairs: MinedPairs, left: DistinctTexts, right: DistinctTexts) -> MinedPairs:
    """Return pairs of distinct texts as pairs of rows: all rows of the first text, each with the second's first row,
    and the second's other rows with the first's first row."""
    rows_of_left, begins_left = _rows_by_text(left)
    rows_of_right, begins_right = _rows_by_text(right)
    n_left, n_right = np.diff(begins_left)[pairs.first], np.diff(begins_right)[pairs.second]
    sizes = n_left + n_right - 1
    of_pair = np.repeat(np.arange(len(pairs)), sizes)
    place = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    place_left = np.where(place < n_left[of_pair], place, 0)
    place_right = np.where(place < n_left[of_pair], 0, place - n_left[of_pair] + 1)
    assert pairs.mutual is not None
    return replace(
        pairs,
        first=rows_of_left[begins_left[pairs.first[of_pair]] + place_left],
        second=rows_of_right[begins_right[pairs.second[of_pair]] + place_right],
        scores=pairs.scores[of_pair],
        exact=pairs.exact[of_pair],
        mutual=pairs.mutual[of_pair],
        n_found=pairs.n_found + len(of_pair) - len(pairs),
    )


def _rows_by_text(distinct: DistinctTexts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows ordered by their text, and where each text's rows begin, shape (n_distinct + 1,)."""
    counts = np.bincount(distinct.of_row, minlength=len(distinct.texts))
    return np.argsort(distinct.of_row, kind="stable"), np.append(0, np.cumsum(counts))
