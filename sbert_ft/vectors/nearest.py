"""The nearest vectors by cosine, exactly and in bounded memory.

Each query's k-th best score so far is the bound for further products (`products.py`). As the search goes on hardly a
block has one that reaches it, so the cost is that of the products.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbert_ft.vectors.products import Corpus, Products, Rows, Vectors, check_finite, cosines, products_for, unit_rows

__all__ = ["Corpus", "Neighbors", "Rows", "Vectors", "best_of", "nearest", "unit_rows"]

_QUERY_ROWS, _CORPUS_ROWS = 1024, 2048  # their products are 8 MB
_MANY_QUERIES = 64  # then products take longer than reading
_SCORED_ROWS = 1024
_FEW_PRODUCTS = 2**21  # of few queries and a larger block


@dataclass(frozen=True)
class RowsOf:
    """Some rows of an array, read when they are asked for."""

    vectors: NDArray[np.floating]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, key: Any, /) -> NDArray[np.floating]:
        """Return the rows of a slice or of an array of places."""
        chosen: NDArray[np.floating] = self.vectors[self.rows[key]]
        return chosen


@dataclass(frozen=True)
class Neighbors:
    """The nearest vectors of some queries, best first; of equal scores the lower row is first.

    Attributes:
        rows: Rows of the corpus, shape (queries, k), int64.
        scores: Their cosines, shape (queries, k), float32, within [-1, 1].
    """

    rows: Rows
    scores: NDArray[np.float32]


def nearest(queries: Vectors, corpus: Corpus, k: int) -> Neighbors:
    """Return the `k` nearest rows of `corpus`, shape (n, d), of each row of `queries`, shape (m, d).

    `corpus` may be a mapped file, in float32 or float16: it is read once, block by block, and with many queries only a
    block of it is in memory. Besides it, memory is taken for about 4 m k results and some ten MB.

    Args:
        queries: Rows of length 1, or zero.
        corpus: Rows of length 1, or zero.
        k: How many; n if the corpus has fewer rows.

    Raises:
        InputError: A vector has NaN or infinity, with its row.
    """
    k = min(k, len(corpus))
    check_finite(queries, "query")
    if not k:
        return Neighbors(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32))
    products = products_for(queries.shape[1])
    releases = isinstance(corpus, np.memmap) and len(queries) >= _MANY_QUERIES
    chunks = [
        _Best(queries[begin : begin + _QUERY_ROWS], corpus, k, products, releases)
        for begin in range(0, len(queries), _QUERY_ROWS)
    ]
    step = max(_CORPUS_ROWS, min(8 * _CORPUS_ROWS, _FEW_PRODUCTS // max(1, len(queries))))
    for begin in range(0, len(corpus), step):
        block = np.asarray(corpus[begin : begin + step], np.float32)
        for best in chunks:
            best.add(block, begin)
        if releases:
            _release(corpus, begin, begin + step)
    found = [best.result() for best in chunks]
    empty: tuple[Rows, Vectors] = (np.empty((0, k), np.int64), np.empty((0, k), np.float32))
    rows, scores = (np.concatenate(parts) for parts in zip(empty, *found, strict=True))
    return Neighbors(rows, scores)


def best_of(queries: Vectors, corpus: Corpus, candidates: Rows, k: int) -> Neighbors:
    """Return the `k` nearest of the candidates of each query, with the scores that `nearest` gives them.

    `candidates` are rows of the corpus, shape (queries, c), c at least k, none twice; -1 for none. A query with fewer
    than `k` of them has the row -1 and the score -inf in their place.
    """
    scores = np.full(candidates.shape, -np.inf, np.float32)
    places = np.nonzero(candidates >= 0)
    scores[places] = cosines(queries, corpus, places[0], candidates[places])
    order = np.lexsort((candidates, -scores), axis=1)[:, :k]
    return Neighbors(np.take_along_axis(candidates, order, 1), np.take_along_axis(scores, order, 1))


def _release(corpus: Corpus, begin: int, end: int) -> None:
    """Give back the memory of rows of a mapped file, which the system reads again where they are needed again."""
    mapped: Any = getattr(corpus, "_mmap", None)
    if not hasattr(mapped, "madvise"):
        return
    assert isinstance(corpus, np.memmap)
    width, page = corpus.strides[0], mmap.ALLOCATIONGRANULARITY
    first = corpus.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data  # of the rows, within the map
    start = (first + begin * width) // page * page
    with suppress(ValueError, OSError):  # it is only advice
        mapped.madvise(mmap.MADV_DONTNEED, start, min(first + end * width, len(mapped)) - start)


class _Best:
    """The best rows so far of a chunk of queries, and candidates that wait to be merged with them.

    Their scores are products, or those of `cosines`. If a row is among the k best by `cosines`, its product is at
    most twice the products' error below the k-th best score so far; all such rows are kept.
    """

    def __init__(self, queries: Vectors, corpus: Corpus, k: int, products: Products, releases: bool) -> None:
        self._queries, self._corpus, self._k, self._products = queries, corpus, k, products
        self._releases = releases  # rows of a mapped file, once they were read
        self._left = products.factor(queries)
        self._bounds = np.full(len(queries), -np.inf)
        self._parts: list[tuple[Rows, Rows, Vectors]] = []
        self._n_waiting = 0

    def add(self, block: Vectors, begin: int) -> None:
        """Take the rows of a block of the corpus, which begins with the row `begin`."""
        queries, rows, scores = self._products.at_least(self._left, block, self._bounds, begin, 0 if begin else self._k)
        self._parts.append((queries, rows + begin, scores))
        self._n_waiting += len(rows)
        if begin == 0 or self._n_waiting > max(_QUERY_ROWS, len(self._queries) * self._k):
            self._merge()

    def result(self) -> tuple[Rows, Vectors]:
        """Return the k best rows of each query and their cosines, shapes (queries, k)."""
        _, rows, scores = self._scored(*self._joined())
        shape = len(self._queries), self._k
        return rows.reshape(shape), scores.reshape(shape)

    def _joined(self) -> tuple[Rows, Rows, Vectors]:
        queries, rows, scores = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        return queries, rows, scores

    def _merge(self) -> None:
        """Raise the bounds, and leave out what is below them."""
        queries, rows, scores = self._joined()
        queries, rows, scores, places = self._sorted(queries, rows, scores)
        kth = places == self._k - 1
        self._bounds[queries[kth]] = scores[kth].astype(np.float64) - 2 * self._products.error
        kept = scores >= self._bounds[queries]
        best = queries[kept], rows[kept], scores[kept]
        if len(best[0]) > 2 * len(self._queries) * self._k:  # many are about equal
            best = self._scored(*best)
        self._parts, self._n_waiting = [best], 0

    def _scored(self, queries: Rows, rows: Rows, scores: Vectors) -> tuple[Rows, Rows, Vectors]:
        """Return the k best of each query by `cosines`."""
        scores = np.empty(len(rows), np.float32)
        # in order of rows, so that of a mapped file only some are in memory at once
        order = np.argsort(rows, kind="stable")
        for begin in range(0, len(order), _SCORED_ROWS):
            part = order[begin : begin + _SCORED_ROWS]
            scores[part] = cosines(self._queries, self._corpus, queries[part], rows[part])
            if self._releases:
                _release(self._corpus, int(rows[part[0]]), int(rows[part[-1]]) + 1)
        queries, rows, scores, places = self._sorted(queries, rows, scores)
        best = places < self._k
        return queries[best], rows[best], scores[best]

    def _sorted(self, queries: Rows, rows: Rows, scores: Vectors) -> tuple[Rows, Rows, Vectors, Rows]:
        """Return all in order of queries, falling scores and rows, and the place of each among those of its query."""
        order = np.lexsort((rows, -scores, queries))
        queries = queries[order]
        places = np.arange(len(queries)) - np.searchsorted(queries, np.arange(len(self._queries)))[queries]
        return queries, rows[order], scores[order], places
