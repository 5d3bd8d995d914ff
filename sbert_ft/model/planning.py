"""Which texts share a forward, and in which layout: the plans that `packing.py` carries out.

Longest texts first, so that equal lengths meet and what does not fit into memory shows at once.
Among the layouts that an encoder runs rightly, the one that is expected to cost least is taken;
its costs are counted in elements of a score matrix and were fitted to `benchmarks/layout.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sbert_ft.model.packing import ROW_TOKENS, Layout, best_fit

# Of one more run: some ten small operations a layer, however short its texts are.
RUN_OVERHEAD = 160_000
# Of one token of filler, by the square of the hidden width: the linear layers run on it too.
FILLER_COST = 0.08


def plan_batches(lengths: NDArray[np.int64], token_budget: int, *, padded: bool = False) -> list[NDArray[np.int64]]:
    """Return batches of texts, longest first, that hold at most `token_budget` tokens each.

    Longest first, so that what does not fit into memory shows at once, and equal lengths meet.
    A text longer than the budget gets a batch to itself.

    Args:
        lengths: Tokens of each text, shape (N,).
        token_budget: Tokens a batch, at least 1; with `padded`, filler counts too.
        padded: Whether every text will take as much room as the longest of its batch.
    """
    order = np.argsort(-lengths, kind="stable")
    if len(order) == 0:
        return []
    batches: list[NDArray[np.int64]] = []
    ordered = lengths[order]
    ends = np.cumsum(ordered)
    start = 0
    while start < len(order):
        if padded:
            stop = start + token_budget // int(ordered[start])
        else:
            before = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, before + token_budget, side="right"))
        stop = min(max(stop, start + 1), len(order))
        batches.append(order[start:stop])
        start = stop
    return batches


def choose_layout(
    lengths: NDArray[np.int64], n_heads: int, hidden_size: int, device_type: str, admitted: Sequence[Layout]
) -> Layout:
    """Return the layout in which a forward over texts of these lengths is expected to be fastest.

    On a CPU runs compute the fewest scores and no filler, but pay for each distinct length. On a
    GPU one kernel takes runs of any lengths, where it can be had at all.

    Args:
        lengths: Tokens of each text, shape (N,).
        n_heads: H of the encoder.
        hidden_size: D of the encoder.
        device_type: Such as ``cpu`` or ``cuda``.
        admitted: The layouts to choose from; ``padded`` is taken where there is no other.
    """
    if "runs" not in admitted:
        return "rows" if "rows" in admitted else "padded"
    if "rows" not in admitted or device_type != "cpu":
        return "runs"
    n_tokens, width = int(lengths.sum()), max(ROW_TOKENS, int(lengths.max()))
    _, _, n_rows = best_fit(lengths, np.argsort(-lengths, kind="stable"), width)
    filler = n_rows * width - n_tokens
    rows_cost = n_rows * width * width * n_heads + filler * FILLER_COST * hidden_size**2
    runs_cost = int((lengths**2).sum()) * n_heads + len(np.unique(lengths)) * RUN_OVERHEAD
    return "runs" if runs_cost <= rows_cost else "rows"
