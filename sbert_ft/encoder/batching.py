"""Choose which texts share a forward, and in which layout; `packing.py` then builds the batches.

The longest texts come first, so that texts of equal length are together and a lack of memory shows at once. Short texts
are mixed instead where they fill rows well: every forward then has about the same shape, so memory and compiled kernels
are used again (a third faster, see `benchmarks/LOG.md`). Among the layouts that an encoder runs correctly, the one with
the lowest expected cost is chosen. Costs are in elements of a score matrix and were fitted to `benchmarks/layout.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Layout = Literal["rows", "runs", "padded"]
PoolingMode = Literal["mean", "cls", "max"]

ROW_TOKENS = 64
# Rows are widened by this many tokens at a time. So there are few shapes, memory and compiled kernels are
# used again, and softmax has no remainder (see `benchmarks/LOG.md`).
ROW_STEP = 32

# Cost of one more run: about ten small operations in each layer, however short its texts are.
RUN_OVERHEAD = 160_000
# Cost of one padding token, as a factor of the squared hidden width: the linear layers run on it too.
FILLER_COST = 0.08
# Texts of mixed lengths share batches only if they fill at least this share of the cells of their rows.
WELL_FILLED = 0.9


def plan_batches(lengths: NDArray[np.int64], token_budget: int, *, padded: bool = False) -> list[NDArray[np.int64]]:
    """Return batches of texts, longest first, with at most `token_budget` tokens, or one longer text, each.

    Args:
        lengths: Tokens of each text, shape (N,).
        token_budget: Most tokens of a batch, at least 1; with `padded`, padding counts too.
        padded: Whether every text will be padded to the longest of its batch.
    """
    order = np.argsort(-lengths, kind="stable")
    batches: list[NDArray[np.int64]] = []
    ends = np.cumsum(lengths[order])
    start = 0
    while start < len(order):
        if padded:
            stop = start + token_budget // int(lengths[order[start]])
        else:
            before = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, before + token_budget, side="right"))
        stop = min(max(stop, start + 1), len(order))
        batches.append(order[start:stop])
        start = stop
    return batches


def plan_forwards(
    lengths: NDArray[np.int64], token_budget: int, device_type: str, admitted: Sequence[Layout]
) -> list[NDArray[np.int64]]:
    """Return the batches of many texts: short texts mixed where they fill rows well, the others by length.

    Arguments as in `plan_batches` and `choose_layout`.
    """
    if "rows" not in admitted or ("runs" in admitted and device_type != "cpu"):
        return plan_batches(lengths, token_budget, padded="runs" not in admitted)
    short = np.flatnonzero(lengths <= ROW_TOKENS)
    n_rows = best_fit(lengths[short], ROW_TOKENS)[2]
    fill = float(lengths[short].sum()) / max(1, n_rows * ROW_TOKENS)
    if fill < WELL_FILLED or n_rows * ROW_TOKENS < token_budget:
        return plan_batches(lengths, token_budget)
    long = np.flatnonzero(lengths > ROW_TOKENS)
    # shuffled with a fixed seed, since the caller's order may be by length
    mixed = np.random.default_rng(0).permutation(short)
    ends = np.cumsum(lengths[mixed])
    n_batches = -(-int(ends[-1]) // max(1, int(token_budget * fill)))
    bounds = np.searchsorted(ends, np.arange(1, n_batches) * (ends[-1] / n_batches))
    batches = [batch for batch in np.split(mixed, bounds) if len(batch)]
    return [long[batch] for batch in plan_batches(lengths[long], token_budget)] + batches


def choose_layout(
    lengths: NDArray[np.int64], n_heads: int, hidden_size: int, device_type: str, admitted: Sequence[Layout]
) -> Layout:
    """Return the layout that is expected to be fastest for a forward over texts of these lengths.

    On a CPU ``runs`` computes the fewest scores and no padding, but has a cost for each distinct length. On a GPU one
    kernel computes runs of any lengths, so ``runs`` is chosen wherever it is admitted.

    Args:
        lengths: Tokens of each text, shape (N,).
        n_heads: H of the encoder.
        hidden_size: D of the encoder.
        device_type: Such as ``cpu`` or ``cuda``.
        admitted: The layouts to choose from; ``padded`` is returned if there is no other.
    """
    if "runs" not in admitted:
        return "rows" if "rows" in admitted else "padded"
    if "rows" not in admitted or device_type != "cpu":
        return "runs"
    n_tokens, width = int(lengths.sum()), row_width(int(lengths.max()))
    n_rows = best_fit(lengths, width)[2]
    filler = n_rows * width - n_tokens
    rows_cost = n_rows * width * width * n_heads + filler * FILLER_COST * hidden_size**2
    runs_cost = int((lengths**2).sum()) * n_heads + len(np.unique(lengths)) * RUN_OVERHEAD
    return "runs" if runs_cost <= rows_cost else "rows"


def row_width(longest: int, row_tokens: int = ROW_TOKENS) -> int:
    """Return C of the layout ``rows`` for a longest text of `longest` tokens: `row_tokens` plus steps of `ROW_STEP`."""
    return row_tokens + -(-max(0, longest - row_tokens) // ROW_STEP) * ROW_STEP


def best_fit(lengths: NDArray[np.int64], width: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return each text's row and column, and the number of rows, by best-fit bin packing, longest texts first.

    `free` has the rows by their number of free cells, and `sizes` has a bit for each number that exists, so
    the fullest row with space for a text is found without a search.
    """
    row, column = np.empty((2, len(lengths)), np.int64)
    free: list[list[int]] = [[] for _ in range(width + 1)]
    sizes, n_rows = 0, 0
    order = np.argsort(-lengths, kind="stable")
    for text, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = sizes >> length
        if fitting:
            size = length + (fitting & -fitting).bit_length() - 1
            target = free[size].pop()
            if not free[size]:
                sizes ^= 1 << size
        else:
            size, target, n_rows = width, n_rows, n_rows + 1
        row[text], column[text] = target, width - size
        if size > length:
            free[size - length].append(target)
            sizes |= 1 << (size - length)
    return row, column, n_rows
