"""From one batch to gradients, with no more memory than a micro-batch needs.

A batch that fits goes through the encoder in one packed forward. A larger one is taken in parts: where
the rows do not depend on each other, each part has its share of the loss. Where they do, the vectors
of all parts are computed first without a graph, then the loss and its gradient in the vectors on the
whole batch, then each part once more with a graph to lead that gradient on into the weights: gradient
caching (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
section 3.2). The gradient is that of the whole batch; the price is one more forward. Random states are
set back for the second forward, so that dropout drops the same.

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

from sbert_ft.encoder.devices import to_device
from sbert_ft.encoder.packing import Layout, PackedBatch
from sbert_ft.models.classifier import TrainableModel
from sbert_ft.tokenization.text_tokens import TextTokens
from sbert_ft.training.objectives import Objective


@dataclass(frozen=True)
class BackwardSettings:
    """How a batch goes through the encoder.

    Attributes:
        micro_rows: Rows a forward at most, at least 1; it changes memory, not the gradient.
        autocast_dtype: In which the encoder computes, under autocast where no copy is trained; None for float32.
        layout: How texts are packed; None to choose by lengths and device.
        loss_factor: Factor on the gradient, such as 1 / batches an optimizer step.
    """

    micro_rows: int
    autocast_dtype: torch.dtype | None = None
    layout: Layout | None = None
    loss_factor: float = 1.0


def backward(
    model: TrainableModel,
    objective: Objective,
    tokens: TextTokens,
    labels: Tensor | None,
    n_rows: int,
    settings: BackwardSettings,
    scale: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the loss of a batch, and add the gradient of loss * loss_factor to the parameters' ``grad``.

    Whether dropout is on is the caller's choice (``model.train()``). After an exception, such as
    memory running out, some parts' gradients may have been added; set them to zero before going on.

    Args:
        model: The encoder, or classifier, whose head is called by the objective; float32.
        objective: The loss.
        tokens: The texts of the batch, column after column: n_rows first texts, n_rows second ones
            and so on; of joined pairs there is one column.
        labels: Targets, shape (n_rows,), on the CPU; None without labels.
        n_rows: Rows of the batch, at least 1.
        settings: See `BackwardSettings`.
        scale: Puts a factor on what is led back, as ``GradScaler.scale`` does for float16.

    Returns:
        A scalar on the model's device, float32, without a graph, without `scale` and loss_factor.
        It is not waited for.
    """
    assert n_rows > 0 and len(tokens) % n_rows == 0, "texts must come in columns of n_rows"
    assert settings.micro_rows > 0
    labels = None if labels is None else to_device(labels, model.device)
    n_parts = -(-n_rows // settings.micro_rows)
    # of even sizes, so that the largest is as small as can be
    parts = np.array_split(np.arange(n_rows), n_parts)
    if n_parts > 1 and objective.coupled:
        return _backward_cached(model, objective, tokens, labels, parts, settings, scale)
    losses = []
    for rows in parts:
        batch = model.bert.pack(tokens if n_parts == 1 else select_rows(tokens, n_rows, rows), settings.layout)
        columns = list(_embed(model, batch, settings).split(len(rows)))
        targets = None if labels is None else labels[rows[0] : rows[-1] + 1]
        # the loss is a mean over rows
        loss = objective.loss(columns, targets) * (len(rows) / n_rows)
        _lead_back(model, loss, settings, scale)
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def select_rows(tokens: TextTokens, n_rows: int, rows: NDArray[np.int64]) -> TextTokens:
    """Return the texts of some rows, again column after column.

    Of three rows of two texts, a0 a1 a2 b0 b1 b2, the rows 2 and 0 are a2 a0 b2 b0.

    Args:
        tokens: The texts of `n_rows` rows, column after column.
        n_rows: Rows in `tokens`.
        rows: Which rows, and in which order, shape (rows,).
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
    scale: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    """Return the loss of a batch in parts whose rows depend on each other; see `backward`."""
    n_rows = sum(len(rows) for rows in parts)
    # packed once for both forwards; a token takes some 50 bytes of it, little beside what a forward keeps
    batches = [model.bert.pack(select_rows(tokens, n_rows, rows), settings.layout) for rows in parts]
    states, vectors = [], []
    with torch.no_grad():
        for batch in batches:
            states.append(_RandomState.of(model.device))
            vectors.append(_embed(model, batch, settings))
    leaves = [part.requires_grad_() for part in vectors]
    by_part = [leaf.split(len(rows)) for leaf, rows in zip(leaves, parts, strict=True)]
    loss = objective.loss([torch.cat(column) for column in zip(*by_part, strict=True)], labels)
    _lead_back(model, loss, settings, scale)
    for batch, state, leaf in zip(batches, states, leaves, strict=True):
        # set back in order: the last forward leaves the generators as the first round did
        state.restore()
        torch.autograd.backward([_embed(model, batch, settings)], [leaf.grad])
        _lead_on(model)
    return loss.detach()


def _embed(model: TrainableModel, batch: PackedBatch, settings: BackwardSettings) -> Tensor:
    """Return the vectors of a packed batch, shape (N, d), float32."""
    dtype = settings.autocast_dtype
    casts = dtype is not None and model.bert.trained_copy is None
    # A context of its own for each forward: casts of weights that are kept from one without a graph have none.
    with torch.autocast(batch.device.type, dtype=dtype, enabled=casts):
        vectors: Tensor = model(batch)
    return vectors


def _lead_back(
    model: TrainableModel, loss: Tensor, settings: BackwardSettings, scale: Callable[[Tensor], Tensor] | None
) -> None:
    loss = loss * settings.loss_factor
    (loss if scale is None else scale(loss)).backward()
    _lead_on(model)


def _lead_on(model: TrainableModel) -> None:
    """Hand the gradients of a copy in half precision on to the float32 weights."""
    if model.bert.trained_copy is not None:
        model.bert.trained_copy.lead_gradients_on()


@dataclass(frozen=True)
class _RandomState:
    """The state of the generators that dropout draws from: the CPU's and the model's device's."""

    cpu: Tensor
    device: torch.device
    on_device: Tensor | None

    @classmethod
    def of(cls, device: torch.device) -> _RandomState:
        on_device = None
        if device.type == "cuda":
            on_device = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            on_device = torch.mps.get_rng_state()
        return cls(torch.get_rng_state(), device, on_device)

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.on_device is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(self.on_device, self.device)
        elif self.on_device is not None:
            torch.mps.set_rng_state(self.on_device)
