"""Averages of weights: over the steps of a run as it goes, and of several models after it.

An average of weights along a run, or of runs from one start, often generalises better than its parts, at the cost of no
forward (Izmailov et al. 2018, SWA; Wortsman et al. 2022, Model soups). The moving average costs a copy of the trained
weights and one pass over those that a step has changed. The mean of models holds two of them at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sbert_ft.training.sparse_embedding import EmbeddingRows


class WeightAverage:
    """The exponential moving average of the trained weights, float32; it begins with the weights before the first step.

    After step t, from 1, average = d * average + (1 - d) * weights with d = min(decay, (1 + t) / (10 + t)), the warm-up
    of TensorFlow's tf.train.ExponentialMovingAverage (its argument num_updates). A constant d would keep d**t of the
    starting weights: 0.99 keeps more than a third of them after a hundred steps.

    Of a table that is updated by rows, only the active rows have an average that is stored. All other rows have the
    same history, weight decay alone: w = w0 * p, where p is the product of the decays so far. The average is linear, so
    theirs is w * `ratio` with one number for all of them. Where a step decays them by f, w becomes f * w, and the
    average d * ratio * w + (1 - d) * f * w, which is that w times d * ratio / f + (1 - d): the new ratio. It does not
    depend on when `EmbeddingRows.settle` writes the decay to the table. A row that becomes active starts with the
    average that it had so far. The result is that of an average over the whole table, up to rounding.

    Attributes:
        dense: The averages of the weights that are updated as a whole, in their order.
        ratio: The average of a row that is not active, as a multiple of the row.
        n_steps: Steps so far.
    """

    def __init__(self, dense: Sequence[Tensor], rows: EmbeddingRows | None, decay: float) -> None:
        """Begin with these weights; memory is allocated now, for rows as in `EmbeddingRows`."""
        self._weights, self._rows, self._decay = dense, rows, decay
        self.dense = [weight.detach().clone() for weight in dense]
        self.ratio, self.n_steps = 1.0, 0
        self._buffer = None if rows is None else torch.empty(rows.table.shape)
        self._n_active = 0
        self._pending = 1.0

    @property
    def _of_rows(self) -> Tensor:
        """The averages of the active rows, shape (A, D), in their order."""
        assert self._buffer is not None
        return self._buffer[: self._n_active]

    @torch.no_grad()
    def before_step(self) -> None:
        """Give the rows that have become active their average so far; call it before the weights are updated."""
        if self._rows is None or self._buffer is None:
            return
        n_before, self._n_active = self._n_active, len(self._rows.weights)
        torch.mul(self._rows.weights[n_before:], self.ratio, out=self._buffer[n_before : self._n_active])
        self._pending = self._rows.pending

    def update(self) -> None:
        """Average the weights after a step; it does not wait for the device."""
        self.n_steps += 1
        decay = min(self._decay, (1 + self.n_steps) / (10 + self.n_steps))
        averages, weights = list(self.dense), list(self._weights)
        if self._rows is not None:
            averages.append(self._of_rows)
            weights.append(self._rows.weights)
            factor = self._rows.pending / self._pending if self._pending else 0.0
            # a decay of 1 leaves zeros, of which there is no multiple
            self.ratio = decay * self.ratio / factor + (1 - decay) if factor else 1.0
        get_ema_multi_avg_fn(decay)(averages, weights, self.n_steps)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model have the averages as its weights during the block; nothing is copied but a table by rows."""
        weights = list(self._weights) + ([] if self._rows is None else [self._rows.table])
        averages = self.dense + ([] if self._rows is None else [self._table()])
        trained = [weight.data for weight in weights]
        _set_data(weights, averages)  # other memory, so that copies of the weights are seen to be old
        try:
            yield
        finally:
            _set_data(weights, trained)

    def tensors(self, module: nn.Module) -> dict[str, Tensor]:
        """Return the averages by all names of their parameters in the module, tables as a whole."""
        by_weight = {id(weight): average for weight, average in zip(self._weights, self.dense, strict=True)}
        if self._rows is not None:
            by_weight[id(self._rows.table)] = self._table()
        named = module.named_parameters(remove_duplicate=False)  # a tied weight has several, as in its state_dict
        return {name: by_weight[id(parameter)] for name, parameter in named if id(parameter) in by_weight}

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores beside the tensors; the ratio is None where no table is updated by rows."""
        return {"n_steps": self.n_steps, "ratio": None if self._rows is None else self.ratio}

    @torch.no_grad()
    def restore(self, module: nn.Module, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `tensors` and `state` returned, after weights and optimizer; also where rows are new or gone.

        Raises:
            KeyError, RuntimeError, TypeError, ValueError: They are not of this module.
        """
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        self.n_steps = int(state["n_steps"])
        for weight, average in zip(self._weights, self.dense, strict=True):
            average.copy_(tensors[names[id(weight)]])
        if self._rows is None or self._buffer is None:
            return
        table, active = tensors[names[id(self._rows.table)]], self._rows.active
        self._n_active = len(active)
        self._of_rows.copy_(table[active])
        if state["ratio"] is not None:
            self.ratio = float(state["ratio"])
            return
        others = torch.ones(len(table), dtype=torch.bool).index_fill_(0, active, False)
        weights = self._rows.table[others].double()  # saved by a run that updated the table as a whole
        self.ratio = float((weights * table[others]).sum() / weights.square().sum()) if weights.any() else 1.0

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again with the current weights, those of a checkpoint without an average."""
        for weight, average in zip(self._weights, self.dense, strict=True):
            average.copy_(weight)
        self.ratio, self.n_steps, self._n_active = 1.0, 0, 0

    @torch.no_grad()
    def _table(self) -> Tensor:
        """Return the average of the whole table, shape (V, D)."""
        assert self._rows is not None
        table = self._rows.table * (self._rows.pending * self.ratio)
        return table.index_copy_(0, self._rows.active[: self._n_active], self._of_rows)


def _set_data(weights: Sequence[Tensor], data: Sequence[Tensor]) -> None:
    for weight, its in zip(weights, data, strict=True):
        weight.data = its


def mean_weights(models: Iterable[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Return the mean of the weights of several models, by name; two of them are held at a time.

    `models` has at least one; all have the same names and shapes, and their tensors are written to. Source: Izmailov et
    al. 2018, SWA, algorithm 1.
    """
    mean: Mapping[str, Tensor] = {}
    for n_before, tensors in enumerate(models):
        if n_before:
            add_mean(tensors, mean, n_before)
        mean = tensors
    assert mean, "there is no model"
    return mean


@torch.no_grad()
def add_mean(tensors: Mapping[str, Tensor], mean: Mapping[str, Tensor], n_before: int) -> None:
    """Turn a model's weights into the mean of this model and of `n_before` others, whose mean is given, in place.

    Tensors of whole numbers stay as they are.
    """
    by_memory = {tensor.data_ptr(): name for name, tensor in tensors.items() if tensor.is_floating_point()}
    names = list(by_memory.values())  # a tied weight has several names, and is averaged once
    torch._foreach_lerp_([tensors[name] for name in names], [mean[name] for name in names], n_before / (n_before + 1))
