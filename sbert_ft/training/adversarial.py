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

from sbert_ft.encoder.ranks import Ranks
from sbert_ft.training.sparse_embedding import EmbeddingRows


@contextmanager
def moved_words(table: Tensor, rows: EmbeddingRows | None, epsilon: float, ranks: Ranks) -> Iterator[None]:
    """Move a table of word embeddings, shape (V, D), along its ``grad`` by the norm `epsilon` during the block.

    After it, also where it raises, the table is as before, bit by bit, and its gradient is kept. Nothing is moved if
    there is no gradient. Of a table that is updated by `rows` only the prepared ones are copied, of another one all.
    Processes add up their gradients first, so that all move the table alike. This does not wait for a device.

    Raises:
        MemoryError, RuntimeError: There is no memory for the copy, in this process or another one.
    """
    if not ranks.most([table.grad is not None])[0]:
        yield
        return
    numbers, kept = _move(table, rows, epsilon, ranks)
    try:
        yield
    finally:
        with torch.no_grad():
            table.copy_(kept) if numbers is None else table.index_copy_(0, numbers, kept)


@torch.no_grad()
def _move(table: Tensor, rows: EmbeddingRows | None, epsilon: float, ranks: Ranks) -> tuple[Tensor | None, Tensor]:
    """Move the table, and return the numbers of the rows that were moved, None for all, and what they held before.

    A function of its own, so that gradient and move do not stay in memory during the second pass.
    """

    def gradient_of_own() -> tuple[Tensor | None, Tensor]:
        if rows is not None:
            return rows.prepared_gradient()
        if table.grad is None:
            return None, torch.zeros_like(table)
        return None, table.grad.clone() if ranks.size > 1 else table.grad

    numbers, gradient = ranks.together(gradient_of_own)
    ranks.sum([gradient])

    def kept_and_move() -> tuple[Tensor, Tensor]:
        factor = epsilon / gradient.norm().clamp_min(torch.finfo(gradient.dtype).tiny)
        return table.clone() if numbers is None else table[numbers], gradient * factor

    kept, move = ranks.together(kept_and_move)
    table.add_(move) if numbers is None else table.index_add_(0, numbers, move)
    return numbers, kept
