"""AdamW for the word embedding table, at the cost of only the rows that were ever read.

A batch reads a few hundred rows of a table that is half of a small encoder's weights and two thirds of a multilingual
one's. Dense AdamW allocates a gradient as large as the table and rewrites the table and its moments. But the moments of
a row that was never read are zero, and AdamW only applies weight decay to it. So moments are stored only for the rows
that were read (the *active* rows), and AdamW updates only these. For all other rows the decay is accumulated in one
factor, which is applied when a row is first read, or when the whole table is read. The result equals the dense step up
to rounding; so do the sum of a row's gradient and the global norm.

Only on a CPU: summing a sparse gradient needs its number of rows, and other devices would have to be waited for.
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
    """Give the encoder's word table sparse gradients during the block, if it is `wanted` and can be updated by rows.

    That is on a CPU, for a trained float32 table that no other module shares and that lookups do not change.
    """
    words = encoder.get_input_embeddings()
    if not wanted or not isinstance(words, nn.Embedding):
        yield
        return
    before, table = words.sparse, words.weight
    n_users = sum(parameter is table for _, parameter in encoder.named_parameters(remove_duplicate=False))
    is_alone = n_users == 1 and words.max_norm is None and not words.scale_grad_by_freq
    if is_alone and table.device.type == "cpu" and table.dtype == torch.float32 and table.requires_grad:
        words.sparse = True
    try:
        yield
    finally:
        words.sparse = before


def table_stepped_by_row(module: nn.Module) -> Tensor | None:
    """Return the trained embedding table with sparse gradients; None if there is none."""
    sparse = [part for part in module.modules() if isinstance(part, nn.Embedding) and part.sparse]
    tables = [part.weight for part in sparse if part.weight.requires_grad]
    assert len(tables) <= 1, "only one table can be updated by rows"
    return tables[0] if tables else None


class EmbeddingRows:
    """The active rows of a table: of V rows of width D, A are active, in the order in which they became active.

    Buffers for all V rows are allocated at once, but the system provides memory only for the parts that are written, so
    memory use grows with the active rows. The table, shape (V, D), is float32 and on the CPU.

    Attributes:
        table: The weight that forwards read. Up to date for the rows of the last `prepare`; all of it after `settle`.
        weights: The current weights of the active rows, shape (A, D), which AdamW updates by their ``grad``.
        exp_avg: AdamW's first moments of the active rows, shape (A, D).
        exp_avg_sq: AdamW's second moments of the active rows, shape (A, D).
        pending: The decay not yet applied to rows that are not active, as a factor of at most 1.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.pending = 1.0
        self._slots = torch.full((len(table),), -1)  # index of each row among the active ones, -1 if not active
        self._rows = torch.empty(len(table), dtype=torch.int64)
        self._buffers = [torch.empty(table.shape) for _ in range(4)]
        self._touched = torch.empty(0, dtype=torch.int64)  # slots whose gradient is not zero
        self._values: Tensor | None = None
        self._read = self._touched  # slots that the values belong to
        self._prepared: list[Tensor] = []  # the rows that the forwards since the last step may have read
        self.weights = torch.empty(0, table.shape[1])
        self._grow(0)

    @property
    def active(self) -> Tensor:
        """The numbers of the active rows, shape (A,), int64, in the order in which they became active."""
        return self._rows[: len(self.weights)]

    def prepare(self, token_ids: NDArray[np.int32]) -> None:
        """Update the rows of the table that a forward over these tokens reads; those read first become active."""
        rows = torch.from_numpy(np.unique(token_ids).astype(np.int64))
        with torch.no_grad():
            new = rows[self._slots[rows] < 0]
            if len(new):
                self._activate(new, self.table[new] * self.pending)
            self.table.index_copy_(0, rows, self.weights[self._slots[rows]])
        self._prepared.append(rows)

    def prepared_gradient(self) -> tuple[Tensor, Tensor]:
        """Return the numbers of all prepared rows in rising order, shape (U,), and a copy of their gradient, (U, D).

        It is zero in rows that were not read. In all processes that have prepared the same rows it has the same rows,
        and can be added up in place.
        """
        rows = torch.cat(self._prepared).unique()
        values = torch.zeros(len(rows), self.table.shape[1])
        if self.table.grad is not None:
            self.table.grad = gradient = self.table.grad.coalesce()
            values.index_copy_(0, torch.searchsorted(rows, gradient.indices()[0]), gradient.values())
        return rows, values

    def spread_gradient(self) -> Tensor:
        """Return the gradient of `prepared_gradient` before it is clipped; what is added to it in place counts."""
        assert self._values is None, "the gradient has been summed already"
        rows, self._values = self.prepared_gradient()
        self._read = self._slots[rows]
        return self._values

    def sum_gradient(self) -> Tensor | None:
        """Return the gradient of the distinct rows that were read, shape (U, D), which may be scaled in place.

        It is the sum over all backward passes since the last `clear_gradient`; None if there were none.
        """
        if self._values is None and self.table.grad is not None:
            assert self.table.grad.is_sparse, "the table is used outside its embedding"
            gradient = self.table.grad.coalesce()
            slots = self._slots[gradient.indices()[0]]
            assert len(slots) == 0 or int(slots.min()) >= 0, "rows were read without a call of prepare"
            self._read, self._values = slots, gradient.values()
        return self._values

    def hand_over_gradient(self) -> None:
        """Set the gradient of `weights`, zero in rows that were not read; None if there is no gradient."""
        values = self.sum_gradient()
        if values is None:
            self.weights.grad = None
            return
        self._gradient.index_fill_(0, self._touched, 0.0)
        self._gradient.index_copy_(0, self._read, values)
        self._touched, self.weights.grad = self._read, self._gradient

    def clear_gradient(self) -> None:
        """Clear the gradient."""
        self.table.grad = self._values = None
        self._prepared.clear()

    def settle(self) -> None:
        """Bring the whole table up to date; this changes nothing if there was no step since the last call."""
        with torch.no_grad():
            if self.pending != 1.0:
                self.table.mul_(self.pending)
                self.pending = 1.0
            self.write_back()

    def write_back(self) -> None:
        """Write the active rows to the table; the state that training continues with is not changed."""
        with torch.no_grad():
            self.table.index_copy_(0, self.active, self.weights)

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint stores besides the table: the active rows, their moments, the pending decay."""
        return {
            "rows": self.active,
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
            "decay": torch.tensor(self.pending, dtype=torch.float64),
        }

    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Restore in place what `state` returned, or the moments of all rows, shape (V, D).

        The table's weights must be restored before. Errors as in `check_rows`.
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
        """Make rows active, with these weights, and with moments and gradient of zero."""
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
        self.weights.grad = None  # a gradient must have the shape of its weights
        self.weights.data = weights  # keeps the tensor object that the optimizer has as a parameter


def check_rows(saved: Mapping[str, Tensor], table: Tensor) -> None:
    """Check that a saved state of rows fits a table, before any row is written.

    Raises:
        KeyError, ValueError: Something is missing, or is not of rows of this table.
    """
    rows, shape = saved["rows"], (len(saved["rows"]), table.shape[1])
    if rows.dtype != torch.int64 or rows.ndim != 1 or saved["decay"].numel() != 1:
        raise ValueError("its rows are not numbered")
    if any(saved[key].shape != shape for key in ("exp_avg", "exp_avg_sq")):
        raise ValueError(f"its moments are not of {shape[0]} rows of width {shape[1]}")
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(table):
        raise ValueError(f"its rows are not those of a table of {len(table)}")
    if len(rows.unique()) != len(rows):
        raise ValueError("a row occurs twice")


def spread_rows(saved: Mapping[str, Tensor], table: Tensor) -> dict[str, Tensor]:
    """Return the dense moments, shape (V, D) each, for a state of rows, and apply the pending decay to the other rows.

    This lets a run continue where tables are updated as a whole. `table` has the weights from the checkpoint. Errors as
    in `check_rows`.
    """
    check_rows(saved, table)
    rows = saved["rows"].to(table.device)
    keys = ("exp_avg", "exp_avg_sq")
    moments = {key: torch.zeros_like(table).index_copy_(0, rows, saved[key].to(table)) for key in keys}
    with torch.no_grad():
        active = table[rows]
        table.mul_(float(saved["decay"]))
        table[rows] = active
    return moments
