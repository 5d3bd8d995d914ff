"""The nearest vectors by cosine, exactly and in bounded memory.

All vectors here have length 1 (or are zero), so a product is a cosine. `unit_rows` makes them so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

_BLOCK_VALUES = 4_000_000  # products held at once: 16 MB


@dataclass(frozen=True)
class Neighbors:
    """The nearest vectors of some queries, best first; of equal scores the lower row is first.

    Attributes:
        rows: Rows of the corpus, shape (queries, k), int64.
        scores: Their cosines, shape (queries, k), float32, within [-1, 1].
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


def unit_rows(vectors: NDArray[np.floating]) -> Vectors:
    """Return the rows, shape (n, d), scaled to length 1 in float32; a zero row stays zero."""
    values = np.asarray(vectors, np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    return (values / np.where(lengths > 0, lengths, 1.0)[:, None]).astype(np.float32)


def nearest(queries: Vectors, corpus: Vectors, k: int) -> Neighbors:
    """Return the `k` nearest rows of `corpus`, shape (n, d), of each row of `queries`, shape (m, d).

    `corpus` may be a mapped file: it is read once, block by block. `k` is at most n.
    """
    n = len(corpus)
    step = max(1, _BLOCK_VALUES // max(1, len(queries)))
    rows = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for begin in range(0, n, step):
        products = (queries @ np.asarray(corpus[begin : begin + step]).T).clip(-1.0, 1.0)
        places = np.broadcast_to(np.arange(begin, begin + products.shape[1]), products.shape)
        scores = np.concatenate([scores, products], axis=1)
        rows = np.concatenate([rows, places], axis=1)
        if scores.shape[1] > k:
            order = np.lexsort((rows, -scores), axis=1)[:, :k]
            scores, rows = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
    order = np.lexsort((rows, -scores), axis=1)
    return Neighbors(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))


def pairs_above(
    vectors: Vectors, threshold: float, others: Vectors | None = None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """Yield the pairs of rows with a cosine of at least `threshold`, block by block.

    Args:
        vectors: Shape (n, d).
        threshold: The lowest cosine.
        others: The rows to pair with, shape (m, d); None to pair the rows of `vectors` with each other, each pair
            once, the lower row first.

    Yields:
        First rows, second rows and cosines, each of shape (pairs of the block,), in order of rows.
    """
    right = vectors if others is None else others
    step = max(1, min(4096, _BLOCK_VALUES // max(1, len(right))))
    for begin in range(0, len(vectors), step):
        products = (vectors[begin : begin + step] @ right.T).clip(-1.0, 1.0)
        first, second = np.nonzero(products.astype(np.float64) >= threshold)
        scores = products[first, second]
        first = first + begin
        kept = slice(None) if others is not None else first < second
        yield first[kept], second[kept], scores[kept]
