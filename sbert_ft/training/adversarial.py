"""Adversarial training: a step is also trained on word embeddings moved to where its loss rises.

With g the gradient of a step's loss with respect to the word embeddings, the loss is computed a second time with them
moved by r = epsilon * g / ||g||, and both gradients are added up (Miyato et al. 2017, Adversarial Training Methods for
Semi-Supervised Text Classification, section 3, equation 5). There r is of each token of each text; here it is of the
table, so a word is moved alike wherever it occurs in the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def moved_words(table: Tensor, epsilon: float) -> Iterator[None]:
    """Move a table of word embeddings, shape (V, D), along its ``grad`` by the norm `epsilon` during the block.

    After it, also where it raises, the table is as before, bit by bit. Nothing is moved if there is no gradient. Only
    the rows of a sparse gradient are copied; of a dense one the whole table. This does not wait for the device.
    """
    if table.grad is None:
        yield
        return
    if table.grad.is_sparse:
        table.grad = table.grad.coalesce()
    gradient = table.grad
    rows = gradient.indices()[0] if gradient.is_sparse else None
    with torch.no_grad():
        values = gradient.values() if gradient.is_sparse else gradient
        move = values * (epsilon / values.norm().clamp_min(torch.finfo(values.dtype).tiny))
        if rows is None:
            kept = table.clone()
            table.add_(move)
        else:
            kept = table[rows]
            table.index_add_(0, rows, move)
    try:
        yield
    finally:
        with torch.no_grad():
            if rows is None:
                table.copy_(kept)
            else:
                table.index_copy_(0, rows, kept)
