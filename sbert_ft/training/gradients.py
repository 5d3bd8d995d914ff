"""Compute the gradients of one batch with the memory of one micro-batch.

A batch that fits into memory goes through the encoder in one packed forward. A larger one is split into parts. If its
rows do not depend on each other, each part contributes its share of the loss. If they do, gradients are cached (Gao et
al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", section 3.2): the vectors of all
parts are computed without a graph, then the loss of the whole batch and its gradient for the vectors, then each part
again with a graph, with the same dropout, to backpropagate that gradient. The cost is one more forward.

Weights and their gradients are float32; only the encoder's forward is in half precision, on a copy of its layers or
under autocast (see `ConnectionBert.trained_in`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbert_ft.encoder.batching import Layout
from sbert_ft.encoder.devices import to_device
from sbert_ft.encoder.packing import PackedBatch
from sbert_ft.models.classifier import TrainableModel
from sbert_ft.models.connection_bert import TextModel
from sbert_ft.tokenization.text_tokens import TextTokens
from sbert_ft.training.checkpoints import random_states, restore_random_states
from sbert_ft.training.objectives import Objective


@dataclass(frozen=True)
class BackwardSettings:
    """How a batch goes through the encoder.

    At most `micro_rows` go through at once, which changes memory, not the gradient. The encoder computes in
    `autocast_dtype`, under autocast unless a copy is trained; None for float32. Where `layout` is None it is chosen by
    lengths and device. The gradient is multiplied by `loss_factor`, such as 1 / (batches per optimizer step), and the
    loss goes through `scale` before the backward pass, such as ``GradScaler.scale`` for float16.
    """

    micro_rows: int
    autocast_dtype: torch.dtype | None = None
    layout: Layout | None = None
    loss_factor: float = 1.0
    scale: Callable[[Tensor], Tensor] | None = None


def backward(
    model: TrainableModel,
    objective: Objective,
    tokens: TextTokens,
    labels: Tensor | None,
    n_rows: int,
    settings: BackwardSettings,
) -> Tensor:
    """Return the loss of a batch, and add the gradient of loss * loss_factor to the parameters' ``grad``.

    The caller switches dropout on or off (``model.train()``). After an exception, such as memory running out, some
    parts' gradients may have been added already; set them to zero before continuing.

    Args:
        model: The encoder, or a classifier, whose head is called by the objective; float32.
        objective: The loss.
        tokens: The texts of the batch, column after column: n_rows first texts, n_rows second texts and so on; joined
            pairs are one column.
        labels: Targets, shape (n_rows,) or for a decoder (n_rows, C), on the CPU; None without labels.
        n_rows: Rows of the batch, at least 1.
        settings: How the batch goes through the encoder.

    Returns:
        A scalar on the model's device, float32, without a graph and without the factors. This function does not wait
        for the device.
    """
    assert n_rows > 0 and len(tokens) % n_rows == 0, "texts must come in columns of n_rows"
    assert settings.micro_rows > 0
    labels = None if labels is None else to_device(labels, model.device)
    n_parts = -(-n_rows // settings.micro_rows)
    # of nearly equal sizes, so that the largest is as small as possible
    parts = np.array_split(np.arange(n_rows), n_parts)
    if n_parts > 1 and objective.coupled:
        return _backward_cached(model, objective, tokens, labels, parts, settings)
    losses = []
    for rows in parts:
        batch = model.bert.pack(tokens if n_parts == 1 else select_rows(tokens, n_rows, rows), settings.layout)
        columns = list(_embed(model, batch, settings).split(len(rows)))
        targets = None if labels is None else labels[rows[0] : rows[-1] + 1]
        share = objective.n_terms(len(rows), targets) / objective.n_terms(n_rows, labels)
        loss = objective.loss(columns, targets, settings.autocast_dtype) * share
        _backward(model, loss, settings)
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def select_rows(tokens: TextTokens, n_rows: int, rows: NDArray[np.int64]) -> TextTokens:
    """Return the texts of the `rows`, shape (rows,), out of those of `n_rows` rows, again column after column.

    For three rows of two texts, a0 a1 a2 b0 b1 b2, the rows 2 and 0 give a2 a0 b2 b0.
    """
    columns = np.arange(0, len(tokens), n_rows)
    return tokens.select((columns[:, None] + rows).ravel())


def _backward_cached(
    model: TrainableModel,
    objective: Objective,
    tokens: TextTokens,
    labels: Tensor | None,
    parts: list[NDArray[np.int64]],
    settings: BackwardSettings,
) -> Tensor:
    """Return the loss of a batch whose rows depend on each other, by gradient caching; arguments as in `backward`."""
    n_rows = sum(len(rows) for rows in parts)
    # packed once for both forwards: some 50 bytes per token, little compared with what a forward keeps
    batches = [model.bert.pack(select_rows(tokens, n_rows, rows), settings.layout) for rows in parts]
    states, vectors = [], []
    with torch.no_grad():
        for batch in batches:
            states.append(random_states(model.device))
            vectors.append(_embed(model, batch, settings))
    leaves = [part.requires_grad_() for part in vectors]
    by_part = [leaf.split(len(rows)) for leaf, rows in zip(leaves, parts, strict=True)]
    loss = objective.loss([torch.cat(column) for column in zip(*by_part, strict=True)], labels)
    _backward(model, loss, settings)
    for batch, state, leaf in zip(batches, states, leaves, strict=True):
        # restored in order, so the last forward leaves the generators as the first pass did
        restore_random_states(state, model.device)
        torch.autograd.backward([_embed(model, batch, settings)], [leaf.grad])
        add_gradients_of_copy(model)
    return loss.detach()


def _embed(model: TrainableModel, batch: PackedBatch, settings: BackwardSettings) -> Tensor:
    """Return the vectors of a packed batch, shape (N, d), float32."""
    dtype = settings.autocast_dtype
    casts = dtype is not None and model.bert.trained_copy is None
    # One context per forward: autocast caches cast weights, and those cached without a graph would have none here.
    with torch.autocast(batch.device.type, dtype=dtype, enabled=casts):
        vectors: Tensor = model(batch)
    return vectors


def _backward(model: TrainableModel, loss: Tensor, settings: BackwardSettings) -> None:
    loss = loss * settings.loss_factor
    (loss if settings.scale is None else settings.scale(loss)).backward()
    add_gradients_of_copy(model)


def add_gradients_of_copy(model: TextModel) -> None:
    """Add the gradients of the half-precision copy, if there is one, to those of the float32 weights."""
    if model.bert.trained_copy is not None:
        model.bert.trained_copy.lead_gradients_on()
