"""What `inference.py` does with vectors, on numpy arrays; `tensors.py` does the same on torch's tensors.

All vectors are float32. `Vectors` stands for an array here, and for a tensor on some device there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sbert_ft.tokenization.text_tokens import offsets_of

if TYPE_CHECKING:
    from torch import Tensor

# If the largest feature of a row is between these, float32 is exact enough for its square and a sum of some thousand.
SMALL, LARGE = 1e-15, 1e15


class ArrayOperations:
    """Operations on arrays in the memory of the CPU."""

    def empty(self, n_rows: int, width: int, on_host: bool) -> Any:
        """Return room for vectors, shape (`n_rows`, `width`); where `on_host` in the memory of the CPU."""
        return np.empty((n_rows, width), np.float32)

    def take(self, vectors: Any, rows: NDArray[np.int64]) -> Any:
        """Return the vectors with these indices, shape (len(rows), d)."""
        return vectors[rows]

    def mean_of_parts(self, vectors: Any, n_parts: NDArray[np.int64]) -> Any:
        """Return the mean over the parts of each text: shape (len(n_parts), d)."""
        sums = np.add.reduceat(vectors, offsets_of(n_parts)[:-1], axis=0)
        return (sums / n_parts[:, None]).astype(np.float32)

    def moved(self, vectors: Any, device: Any) -> Any:
        """Return the vectors on a device; None for where they are."""
        return vectors

    def unit(self, vectors: Any) -> Any:
        """Return the rows scaled to length 1, from any scale, shape (n, d); a zero vector stays zero."""
        if not vectors.shape[-1]:
            return vectors
        largest = np.abs(vectors).max(-1, keepdims=True)
        extreme = (largest > LARGE) | ((largest < SMALL) & (largest > 0))
        scaled = vectors / np.where(extreme, largest, np.float32(1))
        return scaled / np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), 1e-12)

    def cosine(self, left: Any, right: Any) -> NDArray[np.float32]:
        """Return the cosine of each row of `left` with the same row of `right`: shape (n,), within [-1, 1]."""
        found: NDArray[np.float32] = (self.unit(left) * self.unit(right)).sum(-1).clip(-1.0, 1.0)
        return found

    def not_finite(self, vectors: Any) -> NDArray[np.int64]:
        """Return the indices of the rows with NaN or infinite numbers."""
        return np.flatnonzero(~np.isfinite(vectors).all(-1))

    def to_numpy(self, vectors: Any) -> NDArray[np.float32]:
        """Return the vectors as an array."""
        found: NDArray[np.float32] = vectors
        return found

    def to_tensor(self, vectors: Any) -> Tensor:
        """Return the vectors as a tensor of torch, which is imported for it."""
        import torch

        return torch.from_numpy(vectors)
