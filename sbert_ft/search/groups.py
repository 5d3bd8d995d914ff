"""Groups of texts that say the same.

Pairs above the threshold connect texts, but a chain A~B~C may connect strangers. So texts are joined by average linkage
(UPGMA, Sokal and Michener 1958): the two groups with the highest mean cosine between their texts become one, as long as
that mean reaches the threshold. Then the mean cosine of a group's pairs reaches it too. The mean between two groups is
the product of their mean vectors, so no matrix of distances is needed: memory is that of the vectors and of the pairs
above the threshold.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sbert_ft.model_folder.decision import chosen_threshold
from sbert_ft.models.unit_vectors import Encoding, unit_vectors
from sbert_ft.search.texts import DistinctTexts, prompt_of_single_set
from sbert_ft.vectors.joins import BestPairs, Scores, join
from sbert_ft.vectors.nearest import Rows, Vectors

if TYPE_CHECKING:
    from sbert_ft.models.sentence_encoder import SentenceEncoder

PARTNERS = 100
"""Best partners of each text through which groups can be joined; more of them hardly matter and cost memory."""


@dataclass(frozen=True)
class TextGroups:
    """Groups of rows, numbered from 0, the largest first; N is the number of rows, G that of groups.

    Attributes:
        group: Number of each row's group, shape (N,); -1 for a row in none.
        scores: Mean cosine of each row's text with the other texts of its group, shape (N,), float32; 1 where all of
            them are equal, 0 for a row in no group.
        exact: Whether a row repeats the text of an earlier one but for case and spacing, shape (N,).
        probabilities: How likely all texts of a group belong together, shape (G,), float32: the product of the
            probabilities of the mean cosines at which it was joined, as if these were independent. None without a
            calibration.
    """

    group: NDArray[np.int64]
    scores: Scores
    exact: NDArray[np.bool_]
    probabilities: NDArray[np.float32] | None

    def __len__(self) -> int:
        """Return the number of groups."""
        return int(self.group.max(initial=-1)) + 1

    @property
    def expected_wrong(self) -> float | None:
        """How many groups are expected to have a text that does not belong to them; None without probabilities."""
        return None if self.probabilities is None else float((1.0 - self.probabilities.astype(np.float64)).sum())

    def rows(self) -> NDArray[np.int64]:
        """Return the rows that are in groups: group after group, in each the nearest to the others first."""
        order = np.lexsort((np.arange(len(self.group)), -self.scores, self.group))
        return order[self.group[order] >= 0]


def group_texts(
    model: SentenceEncoder,
    texts: Sequence[str],
    *,
    threshold: float | None = None,
    encoding: Encoding | None = None,
    on_compared: Callable[[int], None] = lambda n: None,
) -> TextGroups:
    """Return groups of texts that belong together by the threshold.

    Texts that are equal but for case and spacing are always in one group, and count once in its means.

    Args:
        model: The encoder.
        texts: The texts.
        threshold: The lowest mean cosine at which groups are joined; None for the model's.
        encoding: How texts are encoded; None for the defaults.
        on_compared: Called with the number of distinct texts that were compared with all others.

    Raises:
        InputError: There is no text or no threshold, or an argument is not valid.
    """
    threshold = chosen_threshold(model.decision, threshold)
    encoding = encoding or Encoding()
    distinct = DistinctTexts.of(texts)
    vectors = unit_vectors(model, distinct.texts, prompt_of_single_set(model), encoding)
    best = BestPairs(threshold, None, PARTNERS)
    for found in join(vectors, None, best.floor, on_compared):
        best.add(*found)
    linked = average_linkage(vectors, *best.pairs(), threshold)

    n_rows = np.bincount(distinct.of_row, minlength=len(vectors))  # of each distinct text
    sizes = np.bincount(linked.root, n_rows, minlength=len(vectors))
    roots = np.flatnonzero(sizes >= 2)
    firsts = np.full(len(vectors), len(texts))  # each group's first row
    np.minimum.at(firsts, linked.root, distinct.rows)
    roots = roots[np.lexsort((firsts[roots], -sizes[roots]))]
    number = np.full(len(vectors), -1)
    number[roots] = np.arange(len(roots))
    calibration = None if model.decision is None else model.decision.calibration
    right: NDArray[np.float32] | None = None
    if calibration is not None:
        products = np.ones(len(vectors))
        np.multiply.at(products, linked.root[linked.joined], calibration.probability(linked.cosines))
        right = products[roots].astype(np.float32)
    group = number[linked.root][distinct.of_row]
    exact = np.zeros(len(texts), bool)
    exact[distinct.repeats()] = True
    scores = np.where(group >= 0, linked.nearness[distinct.of_row], np.float32(0))
    return TextGroups(group, scores, exact, right)


@dataclass(frozen=True)
class Linked:
    """The result of `average_linkage`; n is the number of vectors.

    Attributes:
        root: The row that stands for each row's group, shape (n,); its own where it is alone.
        nearness: Mean cosine of each row with the others of its group, shape (n,), float32; 1 where it is alone.
        joined: A row of the two groups of each join, shape (joins,), and `cosines`, their mean cosine, float32.
    """

    root: NDArray[np.int64]
    nearness: Scores
    joined: NDArray[np.int64]
    cosines: Scores


def average_linkage(vectors: Vectors, first: Rows, second: Rows, scores: Scores, threshold: float) -> Linked:
    """Return groups of vectors by average linkage, as long as the mean cosine reaches the threshold.

    The mean of two groups is above the threshold only if that of two of their parts is, so only pairs above it have to
    be followed, and the result is that of the whole matrix.

    Args:
        vectors: Of length 1, shape (n, d).
        first: First row of each pair whose cosine reaches the threshold, shape (B,).
        second: Second row of each.
        scores: Cosine of each.
        threshold: The lowest mean cosine.
    """
    rows, numbers = np.unique(np.concatenate([first, second]), return_inverse=True)
    sums = vectors[rows].astype(np.float64)  # of the vectors of each group; a group has the number of one of its rows
    sizes = np.ones(len(rows))
    version = [0] * len(rows)  # how often a group has grown; -1 where it went into another one
    partners: list[set[int]] = [set() for _ in rows]
    left, right = numbers[: len(first)].tolist(), numbers[len(first) :].tolist()
    for a, b in zip(left, right, strict=True):
        partners[a].add(b)
        partners[b].add(a)
    heap = [(-score, a, b, 0, 0) for score, a, b in zip(scores.tolist(), left, right, strict=True)]
    heapq.heapify(heap)
    parent = np.arange(len(rows))
    joined: list[int] = []
    cosines: list[float] = []
    while heap:
        negative, a, b, version_a, version_b = heapq.heappop(heap)
        if version[a] != version_a or version[b] != version_b:
            continue
        joined.append(a)
        cosines.append(-negative)
        sums[a] += sums[b]
        sizes[a] += sizes[b]
        parent[b], version[a], version[b] = a, version[a] + 1, -1
        near = (partners[a] | partners[b]) - {a, b}
        for other in near:
            partners[other].discard(a)
            partners[other].discard(b)
        partners[a], partners[b] = set(), set()
        others = np.fromiter(near, np.int64, len(near))
        means = (sums[others] * sums[a]).sum(axis=1) / (sizes[others] * sizes[a])
        for other, mean in zip(others.tolist(), means.tolist(), strict=True):
            if mean >= threshold:
                partners[a].add(other)
                partners[other].add(a)
                heapq.heappush(heap, (-mean, a, other, version[a], version[other]))
    while (parent[parent] != parent).any():
        parent = parent[parent]
    root, nearness = np.arange(len(vectors)), np.ones(len(vectors), np.float32)
    root[rows] = rows[parent]
    inside = np.flatnonzero(sizes[parent] > 1)
    own = vectors[rows[inside]].astype(np.float64)
    others_sums = sums[parent[inside]] - own
    nearness[rows[inside]] = ((own * others_sums).sum(axis=1) / (sizes[parent[inside]] - 1)).clip(-1.0, 1.0)
    return Linked(root, nearness, rows[np.array(joined, np.int64)], np.array(cosines, np.float32))
