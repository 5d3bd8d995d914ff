"""Similarities of vectors: pure functions on tensors, whose results are float32 and never NaN or infinite.

In float32 the square of a number above 1e19 is infinite, and that of a number below 1e-23 is zero. A cosine does not
depend on the scale of a vector, so such rows are scaled to near 1 first. Dot products and distances are computed in
float64 where float32 may overflow, and clipped to the largest float32 number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbert_ft.errors import InputError
from sbert_ft.model_folder.layout import Similarity

# If the largest feature of a row is between these, float32 is exact enough for its square and a sum of some thousand.
_SMALL, _LARGE = 1e-15, 1e15

Vectors = Tensor | NDArray[np.floating] | Sequence[Tensor] | Sequence[NDArray[np.floating]]


def as_matrix(vectors: Vectors) -> Tensor:
    """Return the vectors as a float32 tensor of shape (n, d); a single vector becomes (1, d)."""
    try:
        if isinstance(vectors, (str, bytes, Mapping, Set)):
            raise TypeError(f"found a {type(vectors).__name__}")
        if isinstance(vectors, Tensor):
            matrix = vectors
        elif isinstance(vectors, np.ndarray):
            # a copy of a read-only array, such as a mapped file, for which torch would give a warning
            matrix = torch.from_numpy(np.require(vectors, requirements=("C", "W")))
        else:
            matrix = torch.stack([torch.as_tensor(vector) for vector in vectors]) if len(vectors) else torch.zeros(0, 0)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"vectors are not rows of numbers, all of one length: {error}") from error
    if matrix.is_complex():
        raise InputError("vectors are complex numbers, expected real numbers")
    matrix = matrix.float()
    if matrix.ndim == 1:
        matrix = matrix[None]
    if matrix.ndim != 2:
        raise InputError(f"vectors have {matrix.ndim} dimensions, expected (n, d) or (d,)")
    if not matrix.isfinite().all():
        wrong = (~matrix.isfinite().all(1)).nonzero().flatten()
        raise InputError(
            f"the vector in row {int(wrong[0])} holds NaN or a number beyond float32, as do {len(wrong)} of "
            f"{len(matrix)} rows in all: their similarity is not defined",
            "leave these rows out",
        )
    return matrix


def unit(vectors: Tensor) -> Tensor:
    """Return the rows scaled to length 1, from any scale, shape (n, d); a zero vector stays zero."""
    if not vectors.shape[-1]:
        return vectors
    largest = torch.linalg.vector_norm(vectors.detach(), ord=torch.inf, dim=-1, keepdim=True)
    extreme = (largest > _LARGE) | ((largest < _SMALL) & (largest > 0))
    # a row that is divided by 1 keeps its exact bits
    return torch.nn.functional.normalize(vectors / torch.where(extreme, largest, 1.0), dim=-1)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of each row of `a`, shape (n, d), with the same row of `b`: shape (n,).

    Within [-1, 1]; a zero vector has the cosine 0 with every vector.
    """
    return (unit(a) * unit(b)).sum(-1).clamp(-1.0, 1.0)


def compare(a: Vectors, b: Vectors, similarity: Similarity, *, pairwise: bool) -> Tensor:
    """Return the similarity of the rows of `a` and `b`: higher is more similar.

    Args:
        a: Shape (n, d) or (d,).
        b: Shape (m, d) or (d,); with `pairwise`, m = n.
        similarity: ``cosine``, ``dot``, or the negative ``euclidean`` or ``manhattan`` distance.
        pairwise: Compare row by row, shape (n,), instead of each row with each, shape (n, m).

    Raises:
        InputError: The widths differ, or with `pairwise` the numbers of rows; or the vectors are not finite real
            numbers in one or two dimensions.
    """
    left, right = as_matrix(a), as_matrix(b)
    right = right.to(left.device)
    if left.shape[1] != right.shape[1] and len(left) and len(right):
        raise InputError(f"vectors have widths {left.shape[1]} and {right.shape[1]}, expected the same")
    if not len(right):  # an empty set may have any width
        right = left.new_zeros(0, left.shape[1])
    elif not len(left):
        left = right.new_zeros(0, right.shape[1])
    if pairwise and len(left) != len(right):
        raise InputError(f"{len(left)} vectors cannot be compared row by row with {len(right)}")
    if similarity == "cosine":
        return cosine(left, right) if pairwise else (unit(left) @ unit(right).T).clamp(-1.0, 1.0)
    wide = any(matrix.numel() and matrix.abs().max() > _LARGE for matrix in (left, right))
    if wide:
        left, right = left.double(), right.double()
    if similarity == "euclidean":
        values = -(torch.linalg.vector_norm(left - right, dim=-1) if pairwise else torch.cdist(left, right))
    elif similarity == "manhattan":
        values = -((left - right).abs().sum(-1) if pairwise else torch.cdist(left, right, p=1.0))
    else:
        values = (left * right).sum(-1) if pairwise else left @ right.T
    most = torch.finfo(torch.float32).max
    return values.clamp(-most, most).float() if wide else values
