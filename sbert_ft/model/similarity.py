"""How two vectors are compared: pure functions on tensors, in float32, never NaN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbert_ft.errors import InputError
from sbert_ft.model.folder import Similarity

Vectors = Tensor | NDArray[np.floating] | Sequence[Tensor] | Sequence[NDArray[np.floating]]


def as_matrix(vectors: Vectors) -> Tensor:
    """Return the vectors as a float32 tensor of shape (n, d); a single one becomes (1, d).

    Raises:
        InputError: No numbers, or not of one or two dimensions.
    """
    try:
        if isinstance(vectors, Tensor):
            matrix = vectors
        elif isinstance(vectors, np.ndarray):
            # torch warns of an array that must not be written to, such as a mapped file
            matrix = torch.from_numpy(np.require(vectors, requirements=("C", "W")))
        else:
            matrix = torch.stack([torch.as_tensor(vector) for vector in vectors]) if len(vectors) else torch.zeros(0, 0)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"vectors are no numbers in rows of one length: {error}") from error
    matrix = matrix.float()
    if matrix.ndim == 1:
        matrix = matrix[None]
    if matrix.ndim != 2:
        raise InputError(f"vectors have {matrix.ndim} dimensions, expected (n, d) or (d,)")
    return matrix


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine of each row of `a`, shape (n, d), with the same row of `b`: shape (n,).

    Within [-1, 1]; a zero vector has the cosine 0 with all.
    """
    unit = torch.nn.functional.normalize
    return (unit(a, dim=-1) * unit(b, dim=-1)).sum(-1).clamp(-1.0, 1.0)


def compare(a: Vectors, b: Vectors, similarity: Similarity, *, pairwise: bool) -> Tensor:
    """Return how alike the rows of `a` and `b` are: higher is more alike.

    Args:
        a: Shape (n, d) or (d,).
        b: Shape (m, d) or (d,), where `pairwise` n = m.
        similarity: ``cosine``, ``dot``, or the negative ``euclidean`` or ``manhattan`` distance.
        pairwise: Row by row, shape (n,), instead of all with all, shape (n, m).

    Raises:
        InputError: Widths, or row by row numbers, that differ.
    """
    left, right = as_matrix(a), as_matrix(b)
    right = right.to(left.device)
    if left.shape[1] != right.shape[1] and len(left) and len(right):
        raise InputError(f"vectors have widths {left.shape[1]} and {right.shape[1]}, expected the same")
    if pairwise and len(left) != len(right):
        raise InputError(f"{len(left)} vectors cannot be compared with {len(right)} row by row")
    if similarity == "euclidean":
        return -(torch.linalg.vector_norm(left - right, dim=-1) if pairwise else torch.cdist(left, right))
    if similarity == "manhattan":
        return -((left - right).abs().sum(-1) if pairwise else torch.cdist(left, right, p=1.0))
    if similarity == "dot":
        return (left * right).sum(-1) if pairwise else left @ right.T
    if pairwise:
        return cosine(left, right)
    unit = torch.nn.functional.normalize
    return (unit(left, dim=-1) @ unit(right, dim=-1).T).clamp(-1.0, 1.0)
