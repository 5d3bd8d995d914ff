"""The word table's part of a step, at the cost of the rows that were ever read.

A batch reads a few hundred rows of a table that is half of a small encoder's weights and two thirds of a multilingual
one's. Dense AdamW makes a gradient as large as the table and rewrites table and moments with it. But the moments of a
row that was never read are zero, and all that AdamW does to such a row is the decay. So moments are kept for the rows
that were read (they are *active*), side by side, and AdamW steps these alone; for all others the decay is kept back as
one factor and multiplied in when a row is first read, or when the whole table is. The result is that of the dense step
up to the order of rounding; the sum over a row's gradient and the global norm likewise.

On a CPU alone: adding up a sparse gradient has to know how many rows it has, for which other devices would be waited.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel


@contextmanager
def word_gradients_by_row(encoder: PreTrainedModel, wanted: bool = True) -> Iterator[None]:
    """Let the encoder's word table have sparse gradients while the block runs, wherever they can be stepped by rows.

    That is on a CPU, for a trained table that no other module shares and that its lookups leave as it is.

    Args:
        encoder: On the device that it is trained on, what is frozen already frozen.
        wanted: False to leave the gradient dense.
    """
    words = encoder.get_input_embeddings()
    if not wanted or not isinstance(words, nn.Embedding) or not _has_rows_of_its_own(encoder, words):
        yield
        return
    before, words.sparse = words.sparse, True
    try:
        yield
    finally:
        words.sparse = before


def _has_rows_of_its_own(encoder: nn.Module, words: nn.Embedding) -> bool:
    table = words.weight
    n_users = sum(parameter is table for _, parameter in encoder.named_parameters(remove_duplicate=False))
    return (
        table.device.type == "cpu"
        and table.dtype == torch.float32
        and table.requires_grad
        and n_users == 1
        and words.max_norm is None
        and not words.scale_grad_by_freq
    )


def table_stepped_by_row(module: nn.Module) -> Tensor | None:
    """Return the trained table of the embedding whose gradient is sparse; None where there is none."""
    tables = [
        part.weight
        for part in module.modules()
        if isinstance(part, nn.Embedding) and part.sparse and part.weight.requires_grad
    ]
    assert len(tables) <= 1, "one table can be stepped by rows"
    return tables[0] if tables else None


class EmbeddingRows:
    """The active rows of a table: V rows of width D, of which A are active, numbered as they became so.

    Buffers for all V rows are taken at once, but memory that was never written takes none: it grows with the active
    rows.

    Args:
        table: float32, shape (V, D), on the CPU.

    Attributes:
        table: The weight that forwards read. Right for the rows of the last `prepare`, and all over after `settle`.
        weights: The active rows' weights, shape (A, D): the truth, and what AdamW steps by its ``grad``.
        exp_avg: AdamW's first moments of these, shape (A, D).
        exp_avg_sq: Its second moments, shape (A, D).
        pending: The decay that rows which are not active have not had yet, as a factor of at most 1.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.pending = 1.0
        self._slots = torch.full((len(table),), -1)  # where a row stands among the active ones
        self._rows = torch.empty(len(table), dtype=torch.int64)
        self._buffers = [torch.empty(table.shape) for _ in range(4)]
        self._touched = torch.empty(0, dtype=torch.int64)  # slots whose gradient is not zero
        self._values: Tensor | None = None
        self.weights = torch.empty(0, table.shape[1])
        self._grow(0)

    @property
    def active(self) -> Tensor:
        """The numbers of the active rows, shape (A,), int64, in the order in which they became active."""
        return self._rows[: len(self.weights)]

    def prepare(self, token_ids: NDArray[np.int32]) -> None:
        """Bring the rows that a forward is going to read up to date; those that are new become active.

        Args:
            token_ids: In any order, as often as they come, at least 1 of them.
        """
        rows = torch.from_numpy(np.unique(token_ids).astype(np.int64))
        with torch.no_grad():
            new = rows[self._slots[rows] < 0]
            if len(new):
                self._activate(new, self.table[new] * self.pending)
            self.table.index_copy_(0, rows, self.weights[self._slots[rows]])

    def sum_gradient(self) -> Tensor | None:
        """Return the gradient of the rows that were read, each once, shape (U, D), to be scaled in place before a step.

        None where nothing was led back. It is the sum over all backward passes since the last `clear_gradient`.
        """
        if self._values is None and self.table.grad is not None:
            assert self.table.grad.is_sparse, "the table is read past its embedding"
            gradient = self.table.grad.coalesce()
            slots = self._slots[gradient.indices()[0]]
            assert len(slots) == 0 or int(slots.min()) >= 0, "rows were read that nobody prepared"
            self._read, self._values = slots, gradient.values()
        return self._values

    def hand_over_gradient(self) -> None:
        """Give `weights` the gradient, zero in all rows that were not read; None where there is none."""
        values = self.sum_gradient()
        if values is None:
            self.weights.grad = None
            return
        self._gradient.index_fill_(0, self._touched, 0.0)
        self._gradient.index_copy_(0, self._read, values)
        self._touched, self.weights.grad = self._read, self._gradient

    def clear_gradient(self) -> None:
        """Forget the gradient."""
        self.table.grad = self._values = None

    def settle(self) -> None:
        """Bring the whole table up to date. Where nothing was stepped since the last time, this changes nothing."""
        with torch.no_grad():
            if self.pending != 1.0:
                self.table.mul_(self.pending)
                self.pending = 1.0
            self.write_back()

    def write_back(self) -> None:
        """Bring the active rows of the table up to date; what the run goes on with is not changed by it."""
        with torch.no_grad():
            self.table.index_copy_(0, self.active, self.weights)

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint holds besides the table: which rows are active, their moments, the pending decay."""
        return {
            "rows": self.active,
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
            "decay": torch.tensor(self.pending, dtype=torch.float64),
        }

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Take up a state, in the table's memory and on top of the table's weights, which are to be restored already.

        Args:
            saved: As `state` returns it, or the moments of all rows, shape (V, D).

        Raises:
            KeyError: Something is missing.
            ValueError: It is of another table.
        """
        if "rows" not in saved:
            rows = (saved["exp_avg"].ne(0) | saved["exp_avg_sq"].ne(0)).any(dim=1).nonzero().flatten()
            saved = {
                "rows": rows,
                "exp_avg": saved["exp_avg"][rows],
                "exp_avg_sq": saved["exp_avg_sq"][rows],
                "decay": torch.ones(()),
            }
        rows = saved["rows"]
        check_rows(saved, self.table)
        self._slots.fill_(-1)
        self._touched = self._touched[:0]
        self._grow(0)
        with torch.no_grad():
            self._activate(rows, self.table[rows])
            self.exp_avg.copy_(saved["exp_avg"])
            self.exp_avg_sq.copy_(saved["exp_avg_sq"])
        self.pending = float(saved["decay"])

    def _activate(self, rows: Tensor, weights: Tensor) -> None:
        """Number rows that are not active yet, with these weights, and with moments and gradient of zero."""
        begin = len(self.weights)
        end = begin + len(rows)
        self._rows[begin:end] = rows
        self._slots[rows] = torch.arange(begin, end)
        self._grow(end)
        self.weights[begin:] = weights
        for buffer in (self.exp_avg, self.exp_avg_sq, self._gradient):
            buffer[begin:] = 0.0

    def _grow(self, n_active: int) -> None:
        weights, self.exp_avg, self.exp_avg_sq, self._gradient = (buffer[:n_active] for buffer in self._buffers)
        self.weights.grad = None  # it has to have the shape of the weights
        self.weights.data = weights  # the same tensor to the optimizer, whose parameters it is one of


def check_rows(saved: Mapping[str, Tensor], table: Tensor) -> None:
    """Hold a saved state of rows against a table before a row of it is written.

    Raises:
        KeyError: Something is missing.
        ValueError: It is of another table, or its rows are none of it.
    """
    rows, shape = saved["rows"], (len(saved["rows"]), table.shape[1])
    if rows.dtype != torch.int64 or rows.ndim != 1 or saved["decay"].numel() != 1:
        raise ValueError("its rows are not numbered")
    if any(saved[key].shape != shape for key in ("exp_avg", "exp_avg_sq")):
        raise ValueError(f"its moments are not of {shape[0]} rows of width {shape[1]}")
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(table):
        raise ValueError(f"its rows are not those of a table of {len(table)}")
    if len(rows.unique()) != len(rows):
        raise ValueError("a row is there twice")


def spread_rows(saved: Mapping[str, Tensor], table: Tensor) -> dict[str, Tensor]:
    """Return the moments of all rows, each (V, D), of a state of rows, and give the others of the table their decay.

    This is how a run goes on where tables are stepped as a whole. `table`: the weights as the checkpoint holds them.

    Raises:
        KeyError, ValueError: As in `check_rows`.
    """
    check_rows(saved, table)
    rows = saved["rows"].to(table.device)
    moments = {}
    for key in ("exp_avg", "exp_avg_sq"):
        moments[key] = torch.zeros_like(table)
        moments[key][rows] = saved[key].to(table)
    with torch.no_grad():
        active = table[rows]
        table.mul_(float(saved["decay"]))
        table[rows] = active
    return moments
