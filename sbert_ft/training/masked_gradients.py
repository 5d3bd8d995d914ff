"""Compute the gradients of one batch of a masked language model.

The encoder runs on packed rows, as in fine-tuning. Its output is gathered at the masked tokens, and the head, whose
output is as wide as the vocabulary, runs on some hundred of them at a time: forward, loss and backward, one part after
another. So no more than one part of the logits is in memory, however large the batch. The gradient for the gathered
activations is then led through the encoder.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbert_ft.encoder.devices import to_device
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.tokenization.masking import MaskedTokens
from sbert_ft.training.gradients import BackwardSettings, add_gradients_of_copy
from sbert_ft.training.objectives import Objective


def backward_masked(
    model: MaskedLanguageModel, objective: Objective, masked: MaskedTokens, settings: BackwardSettings
) -> Tensor:
    """Return the losses of a batch, and add the gradient of their sum * loss_factor to the parameters' ``grad``.

    A loss is the mean over the masked tokens of the batch, and over its pairs of segments, each times its weight; how
    many rows go through at once does not change it. Of several processes each encodes its share of the sequences, and
    returns and adds its part, as in `gradients.backward`. A batch without a masked token has the loss 0 of that part.

    Args:
        model: Encoder and heads, float32, with dropout as the caller has set it.
        objective: mlm, or mlm and nsp.
        masked: The sequences, at least one.
        settings: How the batch goes through the encoder.

    Returns:
        Each objective's loss times its weight, shape (P,), on the model's device, float32, without a graph and without
        the factors.
    """
    own = settings.ranks.share(masked.tokens.lengths)
    return settings.ranks.together(lambda: _add_parts(model, objective, masked, own, settings))


def _add_parts(
    model: MaskedLanguageModel,
    objective: Objective,
    masked: MaskedTokens,
    own: NDArray[np.int64],
    settings: BackwardSettings,
) -> Tensor:
    """Return the part of the losses of some of the sequences, and add that of the gradient."""
    n_rows, n_places, device = len(masked), len(masked.places), model.device
    losses = {name: torch.zeros((), device=device) for name in objective.names}
    for rows in np.array_split(own, -(-len(own) // settings.micro_rows)) if len(own) else ():
        part = masked if len(rows) == n_rows else masked.select(rows)
        batch = model.bert.pack(part.tokens, settings.layout)
        casts = settings.autocast_dtype is not None and model.bert.trained_copy is None
        with torch.autocast(device.type, dtype=settings.autocast_dtype, enabled=casts):
            hidden: Tensor = model(batch).flatten(0, 1)
        used: list[tuple[Tensor, Tensor]] = []  # what the heads read, and its gradient
        index = to_device(torch.from_numpy(np.concatenate([part.places, part.labels])), device)
        cells, labels = batch.cells[index[: len(part.places)]], index[len(part.places) :]
        size = model.places_at_once()
        for at, gold in zip(cells.split(size), labels.split(size), strict=True) if len(cells) else ():
            share = len(gold) / n_places
            loss = _through_head(model.head.word_logits, objective, "mlm", hidden, at, gold, share, settings, used)
            losses["mlm"] += loss
        if part.second is not None:
            gold = to_device(torch.from_numpy(part.second), device)
            first, share = batch.cells[batch.starts], len(rows) / n_rows
            loss = _through_head(model.head.order_logits, objective, "nsp", hidden, first, gold, share, settings, used)
            losses["nsp"] += loss
        if used:
            read, gradients = zip(*used, strict=True)
            torch.autograd.backward([torch.cat(read)], [torch.cat(gradients)])
        add_gradients_of_copy(model)
    return torch.stack(list(losses.values()))


def _through_head(
    head: Callable[[Tensor], Tensor],
    objective: Objective,
    name: str,
    hidden: Tensor,
    cells: Tensor,
    labels: Tensor,
    share: float,
    settings: BackwardSettings,
    used: list[tuple[Tensor, Tensor]],
) -> Tensor:
    """Return the weighted loss of some tokens, and lead its gradient to the head and to what `used` collects."""
    read = hidden.index_select(0, cells)
    leaf = read.detach().requires_grad_()
    with torch.autocast(hidden.device.type, dtype=settings.autocast_dtype, enabled=settings.autocast_dtype is not None):
        logits = head(leaf if settings.autocast_dtype is not None else leaf.float())
    weight, method = objective.part(name)
    loss = method([logits.float()], labels) * (weight * share)
    scaled = loss * settings.loss_factor
    (scaled if settings.scale is None else settings.scale(scaled)).backward()
    assert leaf.grad is not None
    used.append((read, leaf.grad))
    return loss.detach()
