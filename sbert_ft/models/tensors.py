"""What `inference.py` does with vectors, on tensors of torch, which stay on their device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sbert_ft.encoder.devices import to_device
from sbert_ft.models.arrays import ArrayOperations
from sbert_ft.models.similarity import cosine, unit
from sbert_ft.tokenization.text_tokens import offsets_of


class TensorOperations(ArrayOperations):
    """Operations on tensors, as those on arrays; `device` is where the model computes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def empty(self, n_rows: int, width: int, on_host: bool) -> Tensor:  # noqa: D102
        return torch.empty(n_rows, width, device="cpu" if on_host else self.device)

    def take(self, vectors: Tensor, rows: NDArray[np.int64]) -> Tensor:  # noqa: D102
        return vectors[to_device(torch.from_numpy(rows), vectors.device)]

    def mean_of_parts(self, vectors: Tensor, n_parts: NDArray[np.int64]) -> Tensor:  # noqa: D102
        starts = to_device(torch.from_numpy(offsets_of(n_parts)[:-1]), vectors.device)
        return F.embedding_bag(torch.arange(len(vectors), device=vectors.device), vectors, starts, mode="mean")

    def moved(self, vectors: Tensor, device: Any) -> Tensor:  # noqa: D102
        return vectors if device is None else vectors.to(device)

    def unit(self, vectors: Tensor) -> Tensor:  # noqa: D102
        return unit(vectors)

    def cosine(self, left: Tensor, right: Tensor) -> NDArray[np.float32]:  # noqa: D102
        found: NDArray[np.float32] = cosine(left, right).cpu().numpy()
        return found

    def not_finite(self, vectors: Tensor) -> NDArray[np.int64]:  # noqa: D102
        if vectors.isfinite().all():  # waits for a GPU once
            return np.zeros(0, np.int64)
        return np.flatnonzero(~vectors.isfinite().all(-1).cpu().numpy())

    def to_numpy(self, vectors: Tensor) -> NDArray[np.float32]:  # noqa: D102
        found: NDArray[np.float32] = vectors.cpu().numpy()
        return found

    def to_tensor(self, vectors: Tensor) -> Tensor:  # noqa: D102
        return vectors
