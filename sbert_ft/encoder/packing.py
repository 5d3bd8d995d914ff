"""Lay many short texts into few full rows, and find each text's vector again.

A batch of texts padded to a rectangle spends half of the work on filler. Here the texts of a batch
are laid end to end instead, in one of three layouts that share one type, `PackedBatch`:

- ``rows``: several texts to a row of C tokens; a mask lets a token see its own text alone;
- ``runs``: one single row, longest texts first; texts of equal length lie side by side, so that
  attention works on views of them without any mask and without a wasted product;
- ``padded``: one text a row, for the encoders that cannot be packed.

The cost is an index per token. A batch is filled in one piece of host memory, goes to its device in
one copy, and has its mask made there. Letters used for shapes all over this package:

====  ==========================    ====  ==========================
R     rows of a batch               B     pairs
C     tokens a row                  H     attention heads
T     real tokens of a batch        D     hidden width
N     texts of a batch              K     classes
====  ==========================    ====  ==========================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbert_ft.encoder.devices import host_memory, to_device
from sbert_ft.tokenization.text_tokens import TextTokens, offsets_of

Layout = Literal["rows", "runs", "padded"]
PoolingMode = Literal["mean", "cls", "max"]
POOLING_MODES: tuple[PoolingMode, ...] = ("mean", "cls", "max")

ROW_TOKENS = 64
# Rows are widened by so many tokens at a time: few shapes, so that memory and compiled kernels are
# used again, and no remainder for softmax (see `benchmarks/LOG.md`).
ROW_STEP = 32


@dataclass(frozen=True)
class PackedBatch:
    """N texts laid out in R rows of C tokens, and where each of them lies.

    All tensors are int64 and lie on the same device. Five texts of 3, 2, 4, 1 and 2 tokens,
    a0 a1 a2 | b0 b1 | c0 c1 c2 c3 | d0 | e0 e1, become with rows of 6 tokens (longest first, each
    into the fullest row that still takes it)::

        token_ids      c0 c1 c2 c3 b0 b1      position_ids   0 1 2 3 0 1
                       a0 a1 a2 e0 e1 d0                     0 1 2 0 1 0

        mask[1, 0]     x x x . . .            cells          6 7 8 4 5 0 1 2 3 11 9 10
        (row 1)        x x x . . .                           (of a0 a1 a2 b0 b1 c0 ...)
                       x x x . . .            starts         0 3 5 9 10
                       . . . x x .            order          2 1 0 4 3
                       . . . x x .
                       . . . . . x

    Attributes:
        layout: ``rows``, ``runs`` or ``padded``.
        token_ids: Shape (R, C); what no text covers holds the padding token.
        position_ids: Shape (R, C); begins again with each text.
        token_types: Shape (R, C).
        owners: Shape (R, C): the caller's index of the text that covers a cell, -1 where none does.
        cells: Shape (T,): the place in the flattened rows of each token, text after text in
            the caller's order. This alone brings the order back.
        starts: Shape (N,): where each text begins in `cells`.
        boundaries: Shape (N + 1,): where each text begins in the order in which they were laid, end to end, and the
            end; in the layout ``runs`` these are places in its one row.
        lengths: Tokens of each text, in the caller's order.
        order: The caller's indices of the texts in the order in which they were laid.
        run_shapes: ``runs``: (texts, tokens of each) of every run, in order; otherwise empty.
    """

    layout: Layout
    token_ids: Tensor
    position_ids: Tensor
    token_types: Tensor
    owners: Tensor
    cells: Tensor
    starts: Tensor
    boundaries: Tensor
    lengths: tuple[int, ...]
    order: tuple[int, ...]
    run_shapes: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.order)

    @property
    def n_tokens(self) -> int:
        """Real tokens, T."""
        return self.cells.numel()

    @property
    def device(self) -> torch.device:
        """Where the batch lies, and where what is computed from it has to."""
        return self.token_ids.device

    @property
    def mask(self) -> Tensor | None:
        """Where a token may look, bool, made on the batch's device at each call.

        ``rows``: shape (R, 1, C, C); filler sees filler, for a row of it without any True would give NaN. ``padded``:
        shape (R, C), True at real tokens. ``runs``: None, no token has a neighbour to hide.
        """
        if self.layout == "runs":
            return None
        if self.layout == "padded":
            return self.owners >= 0
        return self.owners[:, None, :, None] == self.owners[:, None, None, :]

    def pool(self, hidden: Tensor, mode: PoolingMode = "mean") -> Tensor:
        """Return one vector a text, in the caller's order.

        Args:
            hidden: The encoder's output on this batch, shape (R, C, D), any floating type.
            mode: ``mean`` of all the text's tokens (Sentence-BERT, section 3), its first token
                (``cls``), or the ``max`` of each feature.

        Returns:
            Shape (N, D), float32 whatever `hidden` is in.
        """
        flat = hidden.flatten(0, 1)
        if mode == "cls":
            return flat.index_select(0, self.cells[self.starts]).float()
        # One gather-and-reduce for all texts; three times faster than index_add (see benchmarks/LOG.md).
        return torch.nn.functional.embedding_bag(self.cells, flat.float(), self.starts, mode=mode)

    def token_vectors(self, hidden: Tensor) -> list[Tensor]:
        """Return each text's tokens, shape (tokens, D) each, float32, in the caller's order."""
        flat = hidden.flatten(0, 1).index_select(0, self.cells).float()
        return list(flat.split(list(self.lengths)))


def pack(
    texts: TextTokens,
    layout: Layout,
    *,
    device: torch.device | None = None,
    row_tokens: int = ROW_TOKENS,
    padding_id: int = 0,
    first_position: int = 0,
) -> PackedBatch:
    """Lay `texts` out in the given layout; on a GPU nothing waits for the copy.

    Args:
        texts: N texts, each of at least one token.
        layout: See `PackedBatch`.
        device: Where the batch is to lie; None for the CPU.
        row_tokens: C of the layout ``rows``, raised to what the longest text needs (see `row_width`).
        padding_id: The token that fills what no text covers.
        first_position: The position of a text's first token (RoBERTa's kind counts from
            padding id + 1).

    Raises:
        ValueError: No text, or one without a token.
    """
    lengths = texts.lengths
    if len(lengths) == 0 or lengths.min() == 0:
        raise ValueError("a packed batch needs at least one text, and every text at least one token")
    order = np.argsort(-lengths, kind="stable")
    run_shapes: tuple[tuple[int, int], ...] = ()
    if layout == "rows":
        width = row_width(int(lengths.max()), row_tokens)
        row, column, n_rows = best_fit(lengths, order, width)
        begin = row * width + column
        order = np.argsort(begin, kind="stable")
    elif layout == "runs":
        n_rows, width = 1, int(lengths.sum())
        begin = np.empty(len(lengths), np.int64)
        begin[order] = offsets_of(lengths[order])[:-1]
        values, counts = np.unique(lengths, return_counts=True)
        run_shapes = tuple((int(n), int(length)) for length, n in zip(values[::-1], counts[::-1], strict=True))
    else:
        n_rows, width = len(lengths), int(lengths.max())
        order = np.arange(n_rows)
        begin = order * width

    device = device or torch.device("cpu")
    shape, n_tokens, n_texts = (n_rows, width), int(texts.offsets[-1]), len(lengths)
    sizes = [n_rows * width] * 4 + [n_tokens, n_texts, n_texts + 1]
    memory = host_memory(sum(sizes), device)
    ids, positions, types, owner, cell, start, bounds = np.split(memory.numpy(), np.cumsum(sizes)[:-1])
    within = np.arange(n_tokens) - np.repeat(texts.offsets[:-1], lengths)
    np.add(within, np.repeat(begin, lengths), out=cell)
    start[:] = texts.offsets[:-1]
    bounds[:] = offsets_of(lengths[order])
    ids.fill(padding_id)
    ids[cell] = texts.token_ids
    positions.fill(first_position)
    positions[cell] = _positions(texts, within, first_position)
    types.fill(0)
    if texts.token_types is not None:
        types[cell] = texts.token_types
    owner.fill(-1)
    owner[cell] = np.repeat(np.arange(n_texts), lengths)
    token_ids, position_ids, token_types, owners, cells, starts, boundaries = to_device(memory, device).split(sizes)
    return PackedBatch(
        layout=layout,
        token_ids=token_ids.view(shape),
        position_ids=position_ids.view(shape),
        token_types=token_types.view(shape),
        owners=owners.view(shape),
        cells=cells,
        starts=starts,
        boundaries=boundaries,
        lengths=tuple(lengths.tolist()),
        order=tuple(order.tolist()),
        run_shapes=run_shapes,
    )


def _positions(texts: TextTokens, within: NDArray[np.int64], first_position: int) -> NDArray[np.int64]:
    """Return the position of each token, shape (T,), from its place in its text.

    RoBERTa's kind gives a padding token that stands in the text itself ("a <pad> b") the position
    before the first, and does not count it; the stock embedding does so when it makes positions.
    """
    padding = texts.token_ids == first_position - 1
    if first_position == 0 or not padding.any():
        return within + first_position
    before = np.cumsum(padding) - padding  # padding tokens before each token, in all texts
    own = before - np.repeat(before[texts.offsets[:-1]], texts.lengths)
    return np.where(padding, first_position - 1, within - own + first_position)


def row_width(longest: int, row_tokens: int = ROW_TOKENS) -> int:
    """Return C of the layout ``rows`` for a longest text of so many tokens: `row_tokens` or more by `ROW_STEP`."""
    return row_tokens + -(-max(0, longest - row_tokens) // ROW_STEP) * ROW_STEP


def best_fit(
    lengths: NDArray[np.int64], order: NDArray[np.int64], width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return each text's row and column, and the number of rows: best-fit decreasing bin packing.

    `free` holds the rows by their free cells, and `sizes` has a bit for each size that is there, so
    the fullest row that still takes a text is found without a search.
    """
    row = np.empty(len(lengths), np.int64)
    column = np.empty(len(lengths), np.int64)
    free: list[list[int]] = [[] for _ in range(width + 1)]
    sizes, n_rows = 0, 0
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
