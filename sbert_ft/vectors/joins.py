"""Pairs of rows whose cosine reaches a threshold, among the rows of one array or between two.

Products are computed in tiles that stay in the cache, and a tile without a hit costs one pass over it. Of one array
only the half above the diagonal is computed. A hit's cosine is computed again by itself, so that it depends neither on
tiles nor on threads. Memory beside the vectors is one tile and the hits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from sbert_ft.vectors.nearest import Vectors

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]

_TILE = 1024  # rows and columns of a tile: 4 MB of products
_SLACK = 1e-5  # more than the rounding of a product of two vectors of length 1 in float32
_CHUNK = 2048  # pairs whose vectors are gathered at once


def pair_cosines(left: Vectors, right: Vectors, first: Rows, second: Rows) -> Scores:
    """Return the cosine of each pair of rows, shape (B,), summed in float64; it depends on its two vectors alone.

    Args:
        left: Vectors of length 1, shape (n, d).
        right: The same, shape (m, d).
        first: Row of `left` of each pair, shape (B,).
        second: Row of `right` of each pair, shape (B,).
    """
    scores = np.empty(len(first), np.float32)
    for begin in range(0, len(first), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        scores[part] = (left[first[part]].astype(np.float64) * right[second[part]]).sum(axis=1)
    return scores.clip(-1.0, 1.0)


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
    """
    others = left if right is None else right
    room = np.empty((_TILE, _TILE), np.float32)
    for top in range(0, len(left), _TILE):
        rows = left[top : top + _TILE]
        for side in range(top if right is None else 0, len(others), _TILE):
            columns, lowest = others[side : side + _TILE], floor()
            products = np.matmul(rows, columns.T, out=room[: len(rows), : len(columns)])
            hits = np.flatnonzero(products >= np.float32(lowest - _SLACK))
            if not len(hits):
                continue
            first, second = np.divmod(hits, len(columns))
            first, second = first + top, second + side
            if right is None and side == top:
                first, second = first[first < second], second[first < second]
            scores = pair_cosines(left, others, first, second)
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
        self._threshold, self._max_pairs, self._top_k, self._offset = threshold, max_pairs, top_k, offset
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
