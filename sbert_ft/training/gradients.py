"""Compute the gradients of one batch with the memory of one micro-batch.

A batch that fits into memory goes through the encoder in one packed forward. A larger one is split into parts. If its
rows do not depend on each other, each part contributes its share of the loss. If they do, gradients are cached (Gao et
al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", section 3.2): the vectors of all
parts are computed without a graph, then the loss of the whole batch and its gradient for the vectors, then each part
again with a graph, with the same dropout, to backpropagate that gradient. The cost is one more forward.

Of several processes each encodes its share of the rows. Where rows do not depend on each other, it contributes its
share of the loss. Where they do, the vectors of all rows are gathered, every process computes the loss of the whole
batch from them, and backpropagates the gradient of its own rows' vectors. Either way the gradients of the processes add
up to that of the batch.

Weights and their gradients are float32; only the encoder's forward is in half precision, on a copy of its layers or
under autocast (see `ConnectionBert.trained_in`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbert_ft.encoder.batching import Layout
from sbert_ft.encoder.devices import to_device
from sbert_ft.encoder.packing import PackedBatch
from sbert_ft.encoder.ranks import Ranks
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
    loss goes through `scale` before the backward pass, such as ``GradScaler.scale`` for float16. `ranks` are the
    processes among which the rows are dealt.
    """

    micro_rows: int
    autocast_dtype: torch.dtype | None = None
    layout: Layout | None = None
    loss_factor: float = 1.0
    scale: Callable[[Tensor], Tensor] | None = None
    ranks: Ranks = field(default_factory=Ranks)


def backward(
    model: TrainableModel,
    objective: Objective,
    tokens: TextTokens,
    labels: Tensor | None,
    n_rows: int,
    settings: BackwardSettings,
    taught: Tensor | None = None,
) -> Tensor:
    """Return the losses of a batch, and add the gradient of their sum * loss_factor to the parameters' ``grad``.

    Of several processes each returns a part of the losses and adds a part of the gradient; the parts of all, added up,
    are those of the batch. All call it with the same batch.

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
        taught: A teacher's vectors of the rows' texts, shape (n_rows, columns, width), on the CPU; None without one.

    Returns:
        Each objective's loss times its weight, shape (P,), on the model's device, float32, without a graph and without
        the factors. This function does not wait for the device.
    """
    assert n_rows > 0 and len(tokens) % n_rows == 0, "texts must come in columns of n_rows"
    assert settings.micro_rows > 0
    own = settings.ranks.share(tokens.lengths.reshape(-1, n_rows).sum(axis=0))
    n_parts = -(-len(own) // settings.micro_rows)
    # of nearly equal sizes, so that the largest is as small as possible
    parts = np.array_split(own, n_parts) if n_parts else []
    if objective.coupled and (n_parts > 1 or settings.ranks.size > 1):
        return _backward_cached(model, objective, tokens, labels, parts, n_rows, settings, taught)
    n_terms = objective.n_terms(n_rows, labels)
    if labels is not None and len(own) < n_rows:
        labels = labels[torch.from_numpy(own)]
    if taught is not None and len(own) < n_rows:
        taught = taught[torch.from_numpy(own)]
    labels, taught = (None if its is None else to_device(its, model.device) for its in (labels, taught))

    def add_parts() -> Tensor:
        total, begin = torch.zeros(len(objective.settings), device=model.device), 0
        for rows in parts:
            whole = len(rows) == n_rows
            batch = model.bert.pack(tokens if whole else select_rows(tokens, n_rows, rows), settings.layout)
            columns = list(_embed(model, batch, settings).split(len(rows)))
            targets, vectors = (None if its is None else its[begin : begin + len(rows)] for its in (labels, taught))
            losses = objective.losses(columns, targets, settings.autocast_dtype, vectors)
            losses = losses * (objective.n_terms(len(rows), targets) / n_terms)
            _backward(model, losses.sum(), settings)
            total = total + losses.detach()
            begin += len(rows)
        return total

    return settings.ranks.together(add_parts)


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
    n_rows: int,
    settings: BackwardSettings,
    taught: Tensor | None,
) -> Tensor:
    """Return the losses of a batch whose rows depend on each other, by gradient caching; arguments as in `backward`.

    `parts` are the rows of this process. A single part is not encoded a second time: its graph is kept.
    """
    ranks, n_columns = settings.ranks, len(tokens) // n_rows
    labels, taught = (None if its is None else to_device(its, model.device) for its in (labels, taught))
    # the place of each vector of this process among those of the batch, column after column as in `tokens`
    places = [(np.arange(n_columns)[:, None] * n_rows + part).ravel() for part in parts]
    states: list[dict[str, Tensor]] = []

    def encode() -> tuple[list[PackedBatch], list[Tensor], Tensor, list[Tensor]]:
        # packed once for both forwards: some 50 bytes per token, little compared with what a forward keeps
        batches = [model.bert.pack(select_rows(tokens, n_rows, part), settings.layout) for part in parts]
        vectors = []
        with torch.set_grad_enabled(len(parts) == 1):
            for batch in batches:
                states.append(random_states(model.device))
                vectors.append(_embed(model, batch, settings))
        every = torch.zeros(len(tokens), model.bert.hidden_size, device=model.device)
        on_device = [to_device(torch.from_numpy(place), model.device) for place in places]
        for part, place in zip(vectors, on_device, strict=True):
            every.index_copy_(0, place, part.detach())
        return batches, vectors, every, on_device

    batches, vectors, every, on_device = ranks.together(encode)
    ranks.sum([every])  # a row's vector is zero in all processes but one

    def lead_back() -> Tensor:
        every.requires_grad_()
        losses = objective.losses(list(every.split(n_rows)), labels, taught=taught)
        scaled = losses.sum() * settings.loss_factor
        (scaled if settings.scale is None else settings.scale(scaled)).backward()
        assert every.grad is not None
        for number, place in enumerate(on_device):
            gradient = every.grad.index_select(0, place)
            if len(parts) > 1:
                # restored in order, so the last forward leaves the generators as the first pass did
                restore_random_states(states[number], model.device)
                vectors[number] = _embed(model, batches[number], settings)
            torch.autograd.backward([vectors[number]], [gradient])
            add_gradients_of_copy(model)
        return losses.detach()

    losses = ranks.together(lead_back)
    return losses if ranks.is_first else torch.zeros_like(losses)  # all have the same ones


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
