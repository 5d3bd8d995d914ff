"""Attention for packed batches, passed to the stock encoders through transformers' registry.

A stock encoder accepts four-dimensional masks, so the layout ``rows`` needs nothing special. In the layout ``runs``
attention must know where the texts of a row begin and end: `packed_attention` gets them as a keyword argument of the
forward, and computes what the stock function computes. On a CPU, in half precision and in training, it uses plain
matrix products over blocks that stay in the cache (see `benchmarks/attention.py`); otherwise it uses kernels of torch.

Not every encoder passes such an argument on, and some use positions or masks in another way. `probe` finds out by
running the encoder: a layout whose results differ from the padded model is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sbert_ft.encoder.batching import Layout
from sbert_ft.encoder.dropout import dropout as drop
from sbert_ft.encoder.packing import PackedBatch, pack
from sbert_ft.tokenization.text_tokens import TextTokens, offsets_of

ATTENTION_NAME = "sbert_ft_packed"

# Elements of a score matrix that are processed at a time on a CPU: 2 to 4 MB, which stay in the cache.
BLOCK_ELEMENTS = 1 << 20

# Numbers that softmax processes at a time in half precision. A remainder costs as much as the rest of its row, and
# more where its weights are close to 0.
SOFTMAX_TOKENS = 32

# Largest accepted difference of a packed layout from the padded model in float32, relative to the largest
# activation. Rounding gives 1e-6; a wrong mask or position gave 1e-3 and more.
PROBE_TOLERANCE = 5e-5


@dataclass(frozen=True)
class Runs:
    """Where the texts of a one-row batch begin and end: `PackedBatch.run_shapes` and `PackedBatch.boundaries`."""

    shapes: tuple[tuple[int, int], ...]
    boundaries: Tensor

    @cached_property
    def blocks(self) -> Blocks:
        """The same texts in blocks of equal width, on the CPU."""
        return Blocks.of(self.boundaries)

    @cached_property
    def boundaries_int32(self) -> Tensor:
        """The boundaries as int32, which the kernel for varying lengths needs; made once for all layers."""
        return self.boundaries.to(torch.int32)


@dataclass(frozen=True)
class Blocks:
    """The texts of a one-row batch, each padded to the next multiple of `SOFTMAX_TOKENS` tokens; padding is masked.

    Three texts of 40, 33 and 30 tokens become a block of two texts with 64 tokens each, and a block of one with 32.

    Attributes:
        shapes: (number of texts, tokens of each with padding) of every block, in the order of the texts.
        sources: The index of the token in each cell of the blocks, shape (cells of all blocks,), int64; a padding cell
            repeats the last token of its text.
        filled: True at cells that are not padding, shape (cells of all blocks,), bool.
        begins: The cell at which each token's text begins, shape (T,), int64.
        widths: Tokens of each token's text with padding, shape (T,), int64.
        within: Index of each token in its text, shape (T,), int64.
    """

    shapes: tuple[tuple[int, int], ...]
    sources: Tensor
    filled: Tensor
    begins: Tensor
    widths: Tensor
    within: Tensor

    @classmethod
    def of(cls, boundaries: Tensor) -> Blocks:
        """Return the blocks of texts that begin and end at `boundaries`: shape (N + 1,), int64, on the CPU."""
        bounds = boundaries.numpy()
        lengths = np.diff(bounds)
        widths = -(-lengths // SOFTMAX_TOKENS) * SOFTMAX_TOKENS
        begins = offsets_of(widths)
        cells = np.arange(begins[-1]) - np.repeat(begins[:-1], widths)
        own = np.repeat(lengths, widths)
        sources = np.repeat(bounds[:-1], widths) + np.minimum(cells, own - 1)
        within = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)
        changes = np.flatnonzero(np.diff(widths)) + 1
        shapes = tuple((int(end - start), int(widths[start])) for start, end in pairwise([0, *changes, len(widths)]))
        by_token = (np.repeat(begins[:-1], lengths), np.repeat(widths, lengths), within)
        return cls(shapes, *map(torch.from_numpy, (sources, cells < own, *by_token)))

    def places(self, n_heads: int) -> Tensor:
        """Return the index of each token and head in blocks of shape (texts, H, tokens of each): shape (T * H,)."""
        of_text = self.begins * n_heads + self.within
        return (of_text[:, None] + self.widths[:, None] * torch.arange(n_heads)).flatten()


def register_attention() -> None:
    """Register `packed_attention` with transformers under `ATTENTION_NAME`; a second call changes nothing.

    The mask of the stock ``sdpa`` is registered with it; without it an ordinary padded call would attend to padding.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION_NAME, packed_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_runs: Runs | None = None,
    **stock: Any,
) -> tuple[Tensor, None]:
    """Return softmax(query key^T * scaling) value for each text (Vaswani et al. 2017, equation 1).

    Args:
        module: The encoder's attention layer; it is not used.
        query: Shape (R, H, C, D / H), as are `key` and `value`.
        attention_mask: Shape (R or 1, 1, C or 1, C), additive or bool, or None.
        scaling: Factor on the scores, by default 1 / sqrt(D / H).
        dropout: Probability with which a weight is dropped; 0 outside of training.
        packed_runs: Where the texts begin and end, in the layout ``runs``, which has no mask.
        stock: Other arguments that the encoder passes to its attention functions.

    Returns:
        Shape (R, C, H, D / H), and None for the weights, which are not kept.
    """
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    if stock.get("position_bias") is not None or stock.get("is_causal"):
        raise ValueError("packed attention supports neither position biases nor causal masks")
    if packed_runs is None:
        return _attend_rows(query, key, value, attention_mask, scaling, dropout).transpose(1, 2).contiguous(), None
    on_cpu, in_half = query.device.type == "cpu", query.dtype in (torch.bfloat16, torch.float16)
    if on_cpu and in_half and dropout == 0 and not _needs_gradient(query, key, value):
        return _attend_by_width(query, key, value, scaling, packed_runs.blocks), None
    if on_cpu or not in_half or dropout > 0:
        return _attend_in_runs(query, key, value, scaling, dropout, packed_runs), None
    return _attend_varlen(query, key, value, scaling, packed_runs), None


def _attend_rows(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, dropout: float
) -> Tensor:
    """Return the attention, shape (R, H, C, D / H), by the fastest kernel for the device, the type and training or not.

    On a CPU: in half precision blocks are always faster (1.2 times at 16 tokens, about 2 times from 128 on); in
    float32 torch's flash kernel is as fast at 16 tokens and faster above, but its gradient is very slow.
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
    if query.dtype == torch.float32 and dropout == 0 and not _needs_gradient(query, key, value):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return _attend_in_blocks(query * scaling, key, value, mask, dropout)


def _needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _attend_in_blocks(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Return the attention of scaled queries, shape (R, H, C, D / H), a few rows at a time."""
    per_row = query.shape[1] * query.shape[2] * key.shape[2]
    rows = max(1, BLOCK_ELEMENTS // per_row)
    if rows >= query.shape[0]:
        return _attend(query, key, value, mask, dropout)
    # split instead of slices: the gradient of a slice fills a whole buffer with zeros
    n_blocks = -(-query.shape[0] // rows)
    masks = (mask,) * n_blocks if mask is None or mask.shape[0] == 1 else mask.split(rows)
    parts = zip(query.split(rows), key.split(rows), value.split(rows), masks, strict=True)
    return torch.cat([_attend(q, k, v, m, dropout) for q, k, v, m in parts])


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    scores = torch.matmul(query, key.transpose(-2, -1))
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask
    weights = torch.softmax(scores, dim=-1)
    if dropout > 0:
        weights = drop(weights, dropout)
    return torch.matmul(weights, value)


def _attend_in_runs(query: Tensor, key: Tensor, value: Tensor, scaling: float, dropout: float, runs: Runs) -> Tensor:
    """Return the attention of a one-row batch, shape (1, T, H, D / H), run by run on views."""
    sizes = [n * length for n, length in runs.shapes]
    per_run = (tensor[0].split(sizes, dim=1) for tensor in (query, key, value))
    outputs = []
    for (n, length), q, k, v in zip(runs.shapes, *per_run, strict=True):
        # (H, n * length, d) -> (n, H, length, d): a view, since the texts of a run have equal lengths
        q, k, v = (part.unflatten(1, (n, length)).transpose(0, 1) for part in (q, k, v))
        outputs.append(_attend_rows(q, k, v, None, scaling, dropout).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None]


def _attend_by_width(query: Tensor, key: Tensor, value: Tensor, scaling: float, blocks: Blocks) -> Tensor:
    """Return the attention of a one-row batch, shape (1, T, H, D / H), some texts at a time, without gradients."""
    n_heads, _, size = query.shape[1:]
    flat = [tensor[0].transpose(0, 1).reshape(-1, size) for tensor in (query, key, value)]  # (T * H, d)
    attended = query.new_empty(len(blocks.sources) * n_heads, size)
    heads = torch.arange(n_heads)[:, None]
    stop = 0
    for n_texts, width in blocks.shapes:
        most = max(1, 2 * BLOCK_ELEMENTS // (n_heads * width * width))
        for first in range(0, n_texts, most):
            n = min(most, n_texts - first)
            start, stop = stop, stop + n * width
            # one gather pads the texts and puts their heads side by side, as the products need them
            sources = (blocks.sources[start:stop].view(n, 1, width) * n_heads + heads).flatten()
            q, k, v = (tensor.index_select(0, sources).view(-1, width, size) for tensor in flat)
            hidden = additive_mask(blocks.filled[start:stop], query.dtype).view(n, 1, 1, width)
            hidden = hidden.expand(n, n_heads, 1, width).reshape(-1, 1, width).expand(-1, width, width)
            weights = torch.softmax(torch.baddbmm(hidden, q, k.transpose(1, 2), alpha=scaling), dim=-1)
            torch.bmm(weights, v, out=attended[start * n_heads : stop * n_heads].view(-1, width, size))
    return attended.index_select(0, blocks.places(n_heads)).view(1, -1, n_heads, size)


def _attend_varlen(query: Tensor, key: Tensor, value: Tensor, scaling: float, runs: Runs) -> Tensor:
    """Return the attention of a one-row batch by torch's kernel for varying lengths (CUDA, half precision)."""
    from torch.nn.attention.varlen import varlen_attn

    # The kernel's own factor is 1 / sqrt(d), and not every version of torch can change it.
    if (factor := scaling * query.shape[-1] ** 0.5) != 1.0:
        query = query * factor
    longest = max(length for _, length in runs.shapes)
    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    attended = varlen_attn(q, k, v, runs.boundaries_int32, runs.boundaries_int32, longest, longest)
    return (attended[0] if isinstance(attended, tuple) else attended)[None]


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where `mask` is True and the type's lowest number elsewhere; all stock attentions accept this mask."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


@dataclass(frozen=True)
class ProbeResult:
    """Which layouts give the same results as the padded model (it is one of them), and why the others are refused."""

    layouts: tuple[Layout, ...]
    refused: dict[Layout, str]


def random_texts(lengths: NDArray[np.int64], vocab_size: int, padding_id: int) -> TextTokens:
    """Return texts of these lengths, with random tokens from the upper half of the vocabulary, without padding."""
    ids = np.random.default_rng(0).integers(vocab_size // 2, vocab_size, int(lengths.sum())).astype(np.int32)
    ids[ids == padding_id] = vocab_size // 3
    return TextTokens(ids, offsets_of(lengths))


def probe(
    forward: Callable[[PackedBatch], Tensor],
    vocab_size: int,
    max_tokens: int,
    pack_options: dict[str, int],
    layouts: Sequence[Layout] = ("rows", "runs"),
    tolerance: float = PROBE_TOLERANCE,
    device: torch.device | None = None,
) -> ProbeResult:
    """Return which packed layouts give the padded activations for a few texts, compared token by token.

    Args:
        forward: Runs the encoder on a batch on `device` and returns the activations, shape (R, C, D).
        vocab_size: Size of the vocabulary from which token ids are drawn.
        max_tokens: Tokens of the longest text that the encoder accepts. One text has this length, but at most 160
            tokens, so that the effect of an attention window shows.
        pack_options: Other arguments of `pack`.
        layouts: The layouts to try.
        tolerance: Largest accepted difference, relative to the largest activation.
        device: None for the CPU.
    """
    longest = min(max_tokens, 160)
    lengths = np.minimum([longest, 9, 3, 9, longest // 2 + 1], longest)
    texts = random_texts(lengths, vocab_size, pack_options.get("padding_id", 0))

    def tokens(layout: Layout) -> Tensor:
        batch = pack(texts, layout, device=device, **pack_options)
        return torch.cat(batch.token_vectors(forward(batch)))

    with torch.inference_mode():
        expected = tokens("padded")
        scale = max(1.0, float(expected.abs().max()))
        admitted: list[Layout] = []
        refused: dict[Layout, str] = {}
        for layout in layouts:
            try:
                difference = float((tokens(layout) - expected).abs().max()) / scale
            except (RuntimeError, TypeError, ValueError, IndexError, ImportError) as error:
                refused[layout] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
                continue
            # written so that NaN is refused
            if difference <= tolerance:
                admitted.append(layout)
            else:
                refused[layout] = f"differs from the padded model by {difference:.1e}"
    return ProbeResult((*admitted, "padded"), refused)
