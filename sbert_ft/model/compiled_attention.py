"""Packed attention as one operator of torch, so that a compiled encoder calls it as the eager one does.

What is compiled are the layers' other operations: they do not know which token belongs to which text, so one graph for
any number of tokens serves every layout and every length, without a cell of filler. Attention gets the layout as two
tensors and stays the code of `attention.py`.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sbert_ft.model.attention import Runs, additive_mask, packed_attention
from sbert_ft.model.packing import PackedBatch, offsets_of

ATTENTION_NAME = "sbert_ft_compiled"

_ROWS, _RUNS = 0, 1
_OPERATOR = "sbert_ft::packed_attention"
_INFERENCE = nn.Identity().eval()


@cache
def register() -> None:
    """Make the operator known to torch, and the attention that calls it to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    operator = torch.library.custom_op(_OPERATOR, attend, mutates_args=(), device_types="cpu")
    operator.register_fake(_shape_of_result)
    AttentionInterface.register(ATTENTION_NAME, _stock_signature)
    # the layout takes the mask's place; a mask of ones over all tokens would be made and thrown away
    AttentionMaskInterface.register(ATTENTION_NAME, _no_mask)


def layout_tensors(batch: PackedBatch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return what `attend` needs to know of a batch in the layout ``rows`` or ``runs``.

    Args:
        batch: Its (R, C) cells are one row of R * C tokens to the compiled layers.
        dtype: In which the layers compute.

    Returns:
        ``plan``, shape (n, 2), int64: the layout's number, then R and C, or (texts, tokens of each) of every run; and
        the mask, added to scores, shape (R * C * C,), of which runs have none.
    """
    if batch.layout == "runs":
        return torch.tensor([(_RUNS, 0), *batch.run_shapes]), torch.zeros(2, dtype=dtype)
    assert batch.layout == "rows" and batch.mask is not None
    plan = torch.tensor([(_ROWS, 0), tuple(batch.token_ids.shape)])
    return plan, additive_mask(batch.mask, dtype).flatten()


def attend(query: Tensor, key: Tensor, value: Tensor, plan: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Return the attention of all tokens of a batch, shape (1, T, H, D / H).

    Args:
        query: Shape (1, H, T, D / H), as are `key` and `value`.
        key: See `query`.
        value: See `query`.
        plan: See `layout_tensors`.
        mask: See `layout_tensors`.
        scaling: Factor on the scores.
    """
    (layout, _), *shapes = plan.tolist()
    if layout == _RUNS:
        runs = _runs(tuple((n, length) for n, length in shapes))
        return packed_attention(_INFERENCE, query, key, value, None, scaling, packed_runs=runs)[0]
    rows, width = shapes[0]
    # (1, H, R * C, d) -> (R, H, C, d), as views
    query, key, value = (tensor[0].unflatten(1, (rows, width)).transpose(0, 1) for tensor in (query, key, value))
    attended, _ = packed_attention(_INFERENCE, query, key, value, mask.view(rows, 1, width, width), scaling)
    return attended.flatten(0, 1)[None]


@lru_cache(maxsize=4)
def _runs(shapes: tuple[tuple[int, int], ...]) -> Runs:
    """Return the runs of these shapes; kept, for every layer asks for the same."""
    lengths = np.repeat([length for _, length in shapes], [n for n, _ in shapes])
    return Runs(shapes, torch.from_numpy(offsets_of(lengths)))


def _shape_of_result(query: Tensor, key: Tensor, value: Tensor, plan: Tensor, mask: Tensor, scaling: float) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], query.shape[3])


def _stock_signature(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    packed_plan: Tensor,
    packed_mask: Tensor,
    **stock: Any,
) -> tuple[Tensor, None]:
    """Return what the stock attention functions return, by the operator."""
    if stock.get("position_bias") is not None or stock.get("is_causal"):
        raise ValueError("packed attention knows neither position biases nor causal masks")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    operator = torch.ops.sbert_ft.packed_attention
    return operator(query, key, value, packed_plan, packed_mask, float(scaling)), None


def _no_mask(*positional: Any, **named: Any) -> None:
    return None
