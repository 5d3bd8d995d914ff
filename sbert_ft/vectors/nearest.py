"""The nearest vectors by cosine, exactly and in bounded memory.

All vectors here have length 1 (or are zero), so a product is a cosine. `unit_rows` makes them so.

The products of a block of queries and a block of the corpus stay in the cache. Of each only its largest is looked at,
and only where that reaches the k-th best score so far, the others. As the search goes on hardly a block has one, so the
cost is that of the products. A product's last bits depend on the size of its block, so what the products find is
scored again by one formula, and a bound on their error decides what has to be. So rows and scores do not depend on
blocks, threads or what computes the products.

Where torch is loaded and the CPU multiplies bfloat16, the products are computed in that type, about twice as fast. They
are less exact, the bound is wider, more is scored again, and the result is the same to the last bit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sbert_ft.errors import InputError

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]

_QUERY_ROWS, _CORPUS_ROWS = 1024, 2048  # their products are 8 MB
_FEW_PRODUCTS = 2**21  # of few queries and a larger block
_PAIR_ROWS = 512
_SCORED_PAIRS = 8192  # pairs whose vectors are gathered at once: 25 MB for a width of 384
_OF_FLOAT32, _OF_BFLOAT16 = 2.0**-24, 2.0**-8  # the relative errors of rounding to them


class Corpus(Protocol):
    """Rows to search, shape (n, d), float32 or float16: an array, a mapped file, or some rows of one."""

    def __len__(self) -> int:
        """Return n."""
        ...

    def __getitem__(self, rows: Any, /) -> NDArray[np.floating]:
        """Return the rows of a slice or of an array of row numbers."""
        ...


@dataclass(frozen=True)
class Neighbors:
    """The nearest vectors of some queries, best first; of equal scores the lower row is first.

    Attributes:
        rows: Rows of the corpus, shape (queries, k), int64.
        scores: Their cosines, shape (queries, k), float32, within [-1, 1].
    """

    rows: Rows
    scores: NDArray[np.float32]


def unit_rows(vectors: NDArray[np.floating]) -> Vectors:
    """Return the rows, shape (n, d), scaled to length 1 in float32; a zero row stays zero."""
    values = np.asarray(vectors, np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    return (values / np.where(lengths > 0, lengths, 1.0)[:, None]).astype(np.float32)


def nearest(queries: Vectors, corpus: Corpus, k: int) -> Neighbors:
    """Return the `k` nearest rows of `corpus`, shape (n, d), of each row of `queries`, shape (m, d).

    `corpus` may be a mapped file, in float32 or float16: it is read once, block by block. Besides it, memory is taken
    for about 4 m k results and some ten MB.

    Args:
        queries: Rows of length 1, or zero.
        corpus: Rows of length 1, or zero.
        k: How many; n if the corpus has fewer rows.

    Raises:
        InputError: A vector has NaN or infinity, with its row.
    """
    k = min(k, len(corpus))
    _check_finite(queries, "query")
    if not k:
        return Neighbors(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32))
    products = _products(queries.shape[1])
    chunks = [
        _Best(queries[begin : begin + _QUERY_ROWS], corpus, k, products)
        for begin in range(0, len(queries), _QUERY_ROWS)
    ]
    step = max(_CORPUS_ROWS, min(8 * _CORPUS_ROWS, _FEW_PRODUCTS // max(1, len(queries))))
    for begin in range(0, len(corpus), step):
        block = np.asarray(corpus[begin : begin + step], np.float32)
        for best in chunks:
            best.add(block, begin)
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
    scores[places] = _cosines(queries, corpus, places[0], candidates[places])
    order = np.lexsort((candidates, -scores), axis=1)[:, :k]
    return Neighbors(np.take_along_axis(candidates, order, 1), np.take_along_axis(scores, order, 1))


def pairs_above(
    vectors: Vectors, threshold: float, others: Vectors | None = None
) -> Iterator[tuple[Rows, Rows, Vectors]]:
    """Yield the pairs of rows with a cosine of at least `threshold`, block by block.

    Args:
        vectors: Shape (n, d), rows of length 1, or zero.
        threshold: The lowest cosine.
        others: The rows to pair with, shape (m, d); None to pair the rows of `vectors` with each other, each pair
            once, the lower row first.

    Yields:
        First rows, second rows and cosines, each of shape (pairs of the block,), in order of rows.

    Raises:
        InputError: A vector has NaN or infinity, with its row.
    """
    right = vectors if others is None else others
    _check_finite(vectors, "vector")
    products = _products(right.shape[1])
    for begin in range(0, len(vectors), _PAIR_ROWS):
        left = products.factor(vectors[begin : begin + _PAIR_ROWS])
        bounds = np.full(len(left), threshold - products.error)
        found: list[tuple[Rows, Rows]] = []
        # of two rows of one set the first is the lower one, so blocks before this one have none
        for place in range(begin if others is None else 0, len(right), _CORPUS_ROWS):
            block = np.asarray(right[place : place + _CORPUS_ROWS], np.float32)
            rows, columns, _ = products.at_least(left, block, bounds, place)
            found.append((rows + begin, columns + place))
        first, second = (np.concatenate(parts) for parts in zip(*found, strict=True))
        kept = slice(None) if others is not None else first < second
        first, second = first[kept], second[kept]
        scores = _cosines(vectors, right, first, second)
        order = np.lexsort((second, first))
        order = order[scores[order].astype(np.float64) >= threshold]
        yield first[order], second[order], scores[order]


class _Products:
    """Products of blocks by numpy, in float32.

    Attributes:
        error: How far a product of rows of length 1 may be from that of `_cosines`.
    """

    def __init__(self, width: int) -> None:
        # each of the two is within `width` roundings of the true sum (Higham 2002, section 3.1); the tenth more is for
        # rows of float16, whose length is not quite 1
        self.error = 1.1 * 2 * width * _OF_FLOAT32

    def factor(self, rows: Vectors) -> Any:
        """Return rows, shape (r, d), in the type that is multiplied."""
        return rows

    def multiply(self, left: Any, block: Vectors) -> tuple[Vectors, Any]:
        """Return the largest product of each left row, shape (l,), and all products, shape (l, r)."""
        products = left @ block.T
        return products.max(axis=1), products

    def of_rows(self, products: Any, rows: Rows) -> Vectors:
        """Return the products of some left rows, shape (rows, r)."""
        chosen: Vectors = products[rows]
        return chosen

    def at_least(
        self, left: Any, block: Vectors, bounds: NDArray[np.float64], begin: int, k: int = 0
    ) -> tuple[Rows, Rows, Vectors]:
        """Return left rows, rows of the block and products, where these reach the bound of their left row; in order.

        Args:
            left: The left factor.
            block: The rows to multiply with, shape (r, d).
            bounds: Shape (l,).
            begin: The row of its corpus with which the block begins.
            k: Raise the bounds to what the `k` largest products of a row have for certain; 0 for not.

        Raises:
            InputError: A row of the block has NaN.
        """
        largest, products = self.multiply(left, block)
        if np.isnan(largest).any():
            _check_finite(block, "vector", begin)
        rows = np.flatnonzero(largest >= bounds)
        chosen, bounds = self.of_rows(products, rows), bounds[rows, None]
        if 0 < k < len(block):
            bounds = np.maximum(bounds, np.partition(chosen, -k, axis=1)[:, -k, None] - 2 * self.error)
        places, columns = np.divmod(np.flatnonzero(chosen >= bounds), len(block))
        return rows[places], columns, chosen[places, columns]


class _HalfProducts(_Products):
    """The same by torch, in bfloat16."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        # both factors and the product are rounded; for rows of length 1 no sum of products of parts is above 1
        self.error += 1.1 * 3 * _OF_BFLOAT16

    def factor(self, rows: Vectors) -> Any:
        """Return rows, shape (r, d), in the type that is multiplied."""
        import torch

        return torch.from_numpy(np.require(rows, requirements=("C", "W"))).bfloat16()

    def multiply(self, left: Any, block: Vectors) -> tuple[Vectors, Any]:
        """Return the largest product of each left row, shape (l,), and all products, shape (l, r)."""
        products = left @ self.factor(block).T
        return products.amax(1).float().numpy(), products

    def of_rows(self, products: Any, rows: Rows) -> Vectors:
        """Return the products of some left rows, shape (rows, r)."""
        chosen: Vectors = products[rows].float().numpy()
        return chosen


def _products(width: int) -> _Products:
    """Return what multiplies fastest here. torch is not loaded for it, and only fast where the CPU has bfloat16."""
    torch = sys.modules.get("torch")
    is_fast = torch is not None and torch.cpu._is_avx512_bf16_supported()
    return _HalfProducts(width) if is_fast else _Products(width)


class _Best:
    """The best rows so far of a chunk of queries, and candidates that wait to be merged with them.

    Their scores are products, or those of `_cosines`. If a row is among the k best by `_cosines`, its product is at
    most twice the products' error below the k-th best score so far; all such rows are kept.
    """

    def __init__(self, queries: Vectors, corpus: Corpus, k: int, products: _Products) -> None:
        self._queries, self._corpus, self._k, self._products = queries, corpus, k, products
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
        """Return the k best of each query by `_cosines`."""
        scores = _cosines(self._queries, self._corpus, queries, rows)
        queries, rows, scores, places = self._sorted(queries, rows, scores)
        best = places < self._k
        return queries[best], rows[best], scores[best]

    def _sorted(self, queries: Rows, rows: Rows, scores: Vectors) -> tuple[Rows, Rows, Vectors, Rows]:
        """Return all in order of queries, falling scores and rows, and the place of each among those of its query."""
        order = np.lexsort((rows, -scores, queries))
        queries = queries[order]
        places = np.arange(len(queries)) - np.searchsorted(queries, np.arange(len(self._queries)))[queries]
        return queries, rows[order], scores[order], places


def _cosines(left: Vectors, right: Corpus, first: Rows, second: Rows) -> Vectors:
    """Return the cosine of each pair of rows, shape (pairs,), whose bits depend on nothing but the two vectors."""
    found = np.empty(len(first), np.float32)
    for begin in range(0, len(first), _SCORED_PAIRS):
        part = slice(begin, begin + _SCORED_PAIRS)
        np.einsum("ij,ij->i", left[first[part]], np.asarray(right[second[part]], np.float32), out=found[part])
    return found.clip(-1.0, 1.0)


def _check_finite(vectors: Vectors, name: str, begin: int = 0) -> None:
    """Refuse rows with NaN or infinity; `begin` is the number of the first row."""
    wrong = ~np.isfinite(vectors).all(axis=1)
    if wrong.any():
        row = begin + int(wrong.argmax())
        raise InputError(f"the {name} of row {row} has NaN or infinity, expected finite numbers", "encode it again")
