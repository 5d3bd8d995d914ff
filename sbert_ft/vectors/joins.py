"""Pairs of rows whose cosine reaches a threshold, among the rows of one array or between two.

Products are computed in tiles that stay in the cache (`products.py`), and a tile without a hit costs one pass over it.
Of one array only the half above the diagonal is computed. Memory beside the vectors is one tile and its hits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from sbert_ft.vectors.products import Rows, Vectors, check_finite, cosines, products_for

Scores = NDArray[np.float32]

_LEFT_ROWS, _RIGHT_ROWS = 1024, 2048  # of a tile: 8 MB of products


def join(
    left: Vectors, right: Vectors | None, floor: Callable[[], float], on_rows: Callable[[int], None] = lambda n: None
) -> Iterator[tuple[Rows, Rows, Scores]]:
    """Yield the pairs of rows whose cosine reaches a floor, tile by tile.

    Args:
        left: Vectors of length 1 (or zero), shape (n, d).
        right: The rows to pair them with, shape (m, d); None for the rows of `left`, each pair once, lower row first.
        floor: Returns the lowest cosine; it may rise from tile to tile.
        on_rows: Called with the number of rows of `left` that are done.

    Yields:
        First rows, second rows and cosines of a tile's pairs, each of shape (B,), in order of rows.

    Raises:
        InputError: A vector has NaN or infinity, with its row.
    """
    others = left if right is None else right
    check_finite(left, "vector")
    products = products_for(left.shape[1])
    for top in range(0, len(left), _LEFT_ROWS):
        rows = products.factor(left[top : top + _LEFT_ROWS])
        for side in range(top if right is None else 0, len(others), _RIGHT_ROWS):
            lowest = floor()
            bounds = np.full(len(rows), lowest - products.error)
            first, second, _ = products.at_least(rows, others[side : side + _RIGHT_ROWS], bounds, side)
            first, second = first + top, second + side
            if right is None:
                first, second = first[first < second], second[first < second]
            if not len(first):
                continue
            scores = cosines(left, others, first, second)
            kept = scores.astype(np.float64) >= lowest
            yield first[kept], second[kept], scores[kept]
        on_rows(len(rows))


def ranks_among_partners(first: Rows, second: Rows, scores: Scores) -> tuple[Rows, Rows]:
    """Return the rank of each pair among those of its first row, and among those of its second: shape (B,) each.

    0 is the best; of equal cosines the pair with the lower partner is before. For pairs between two arrays the second
    rows must have numbers of their own.
    """
    rows, partners = np.concatenate([first, second]), np.concatenate([second, first])
    order = np.lexsort((partners, -np.concatenate([scores, scores]), rows))
    begins = np.append(True, np.diff(rows[order]) != 0)[: len(rows)]
    places = np.arange(len(rows))
    ranks = np.empty(len(rows), np.int64)
    ranks[order] = places - np.maximum.accumulate(np.where(begins, places, 0))
    return ranks[: len(first)], ranks[len(first) :]


class BestPairs:
    """The best of a stream of pairs, in bounded memory; which ones these are does not depend on the stream's order.

    Attributes:
        n_added: Pairs that were added so far.
    """

    def __init__(self, threshold: float, max_pairs: int | None, top_k: int | None, offset: int = 0) -> None:
        """Say what is kept.

        Args:
            threshold: The lowest cosine.
            max_pairs: How many pairs at most; None for all.
            top_k: Keep a pair only if it is among the `top_k` best of its first or of its second row; None for all.
            offset: Added to second rows, to tell them from first ones: 0 for pairs within one array.
        """
        self.n_added = 0
        self._max_pairs, self._top_k, self._offset = max_pairs, top_k, offset
        self._parts: list[tuple[Rows, Rows, Scores]] = []
        self._n_held, self._room = 0, 1_000_000
        self._floor = threshold

    def floor(self) -> float:
        """Return the lowest cosine that a further pair must have to be kept."""
        return self._floor

    def add(self, first: Rows, second: Rows, scores: Scores) -> None:
        """Add pairs that are not there yet."""
        self._parts.append((first, second, scores))
        self.n_added += len(first)
        self._n_held += len(first)
        if self._n_held > 2 * self._room:
            first, *_ = self._compact()
            self._room = max(self._room, len(first))

    def pairs(self) -> tuple[Rows, Rows, Scores]:
        """Return the kept pairs, best first; of equal cosines in order of rows."""
        first, second, scores = self._compact()
        order = np.lexsort((second, first, -scores))[: self._max_pairs]
        return first[order], second[order], scores[order]

    def _compact(self) -> tuple[Rows, Rows, Scores]:
        """Drop pairs that cannot be among the kept ones, and return the others."""
        none = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        first, second, scores = (np.concatenate(part) for part in zip(none, *self._parts, strict=True))
        if self._top_k is not None:
            of_first, of_second = ranks_among_partners(first, second + self._offset, scores)
            kept = np.flatnonzero(np.minimum(of_first, of_second) < self._top_k)
            first, second, scores = first[kept], second[kept], scores[kept]
        elif self._max_pairs is not None and len(first) > self._max_pairs:
            # only without top_k: with it, a later pair may push out one that is counted here
            order = np.lexsort((second, first, -scores))[: self._max_pairs]
            first, second, scores = first[order], second[order], scores[order]
            self._floor = float(scores[-1])
        self._parts, self._n_held = [(first, second, scores)], len(first)
        return first, second, scores
