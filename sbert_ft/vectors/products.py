"""Products of blocks of vectors, as fast as the CPU allows, and the cosines of single pairs.

All vectors here have length 1 (or are zero), so a product is a cosine. `unit_rows` makes them so.

The products of a block of left rows and a block of right rows stay in the cache. Of each left row only the largest is
looked at, and only where that reaches a bound, the others. A product's last bits depend on the size of its block, so
what the products find is scored again by one formula (`cosines`), and a bound on their error decides what has to be.
So results do not depend on blocks, threads or what computes the products.

Where torch is loaded and the CPU multiplies bfloat16, the products are computed in that type, about twice as fast. They
are less exact, the bound is wider, more is scored again, and the result is the same to the last bit.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sbert_ft.errors import InputError

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]

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


def unit_rows(vectors: NDArray[np.floating]) -> Vectors:
    """Return the rows, shape (n, d), scaled to length 1 in float32; a zero row stays zero."""
    values = np.asarray(vectors, np.float32)
    lengths = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    return (values / np.where(lengths > 0, lengths, 1.0)[:, None]).astype(np.float32)


class Products:
    """Products of blocks by numpy, in float32.

    Attributes:
        error: How far a product of rows of length 1 may be from that of `cosines`.
    """

    def __init__(self, width: int) -> None:
        """Bound the error for vectors of this width."""
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
            check_finite(block, "vector", begin)
        rows = np.flatnonzero(largest >= bounds)
        chosen, bounds = self.of_rows(products, rows), bounds[rows, None]
        if 0 < k < len(block):
            bounds = np.maximum(bounds, np.partition(chosen, -k, axis=1)[:, -k, None] - 2 * self.error)
        places, columns = np.divmod(np.flatnonzero(chosen >= bounds), len(block))
        return rows[places], columns, chosen[places, columns]


class HalfProducts(Products):
    """The same by torch, in bfloat16."""

    def __init__(self, width: int) -> None:
        """Bound the error for vectors of this width."""
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


def products_for(width: int) -> Products:
    """Return what multiplies fastest here. torch is not loaded for it, and only fast where the CPU has bfloat16."""
    torch = sys.modules.get("torch")
    is_fast = torch is not None and torch.cpu._is_avx512_bf16_supported()
    return HalfProducts(width) if is_fast else Products(width)


def cosines(left: Vectors, right: Corpus, first: Rows, second: Rows) -> Vectors:
    """Return the cosine of each pair of rows, shape (pairs,), whose bits depend on nothing but the two vectors."""
    found = np.empty(len(first), np.float32)
    for begin in range(0, len(first), _SCORED_PAIRS):
        part = slice(begin, begin + _SCORED_PAIRS)
        np.einsum("ij,ij->i", left[first[part]], np.asarray(right[second[part]], np.float32), out=found[part])
    return found.clip(-1.0, 1.0)


def check_finite(vectors: Vectors, name: str, begin: int = 0) -> None:
    """Refuse rows with NaN or infinity; `begin` is the number of the first row."""
    wrong = ~np.isfinite(vectors).all(axis=1)
    if wrong.any():
        row = begin + int(wrong.argmax())
        raise InputError(f"the {name} of row {row} has NaN or infinity, expected finite numbers", "encode it again")
