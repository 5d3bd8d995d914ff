"""Pack many short texts into few full rows, and get the vector of each text from the output.

With a batch of texts padded to a rectangle, half of the work is spent on padding. Here the texts of a batch are put end
to end instead. There are three layouts, which share one type, `PackedBatch`:

- ``rows``: several texts in a row of C tokens; a mask lets a token attend only to its own text;
- ``runs``: a single row, longest texts first; texts of equal length are side by side, and attention works on views;
- ``padded``: one text in each row, for encoders that cannot be packed.

A batch is built in one block of host memory, goes to its device in one copy, and its mask is made there. Letters for
shapes in the whole project:

====  ==========================    ====  ==========================
R     rows of a batch               B     pairs
C     tokens a row                  H     attention heads
T     real tokens of a batch        D     hidden width
N     texts of a batch              K     classes
====  ==========================    ====  ==========================
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbert_ft.encoder.batching import ROW_TOKENS, Layout, PoolingMode, best_fit, row_width
from sbert_ft.encoder.devices import host_memory, to_device
from sbert_ft.tokenization.text_tokens import TextTokens, offsets_of


@dataclass(frozen=True)
class PackedBatch:
    """N texts in R rows of C tokens, and the place of each text.

    All tensors are int64 and on the same device. Five texts of 3, 2, 4, 1 and 2 tokens,
    a0 a1 a2 | b0 b1 | c0 c1 c2 c3 | d0 | e0 e1, are packed into rows of 6 tokens like this (longest
    first, each into the fullest row that still has space for it)::

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
        token_ids: Shape (R, C); cells without a text have the padding token.
        position_ids: Shape (R, C); positions start again in each text.
        token_types: Shape (R, C).
        owners: Shape (R, C): the caller's index of the text in each cell, -1 where there is none.
        cells: Shape (T,): the index of each token in the flattened rows, text after text in the caller's order.
        starts: Shape (N,): where each text begins in `cells`.
        boundaries: Shape (N + 1,): where each text begins if the texts are put end to end in packed order, and the
            end; in the layout ``runs`` these are indices into its single row.
        lengths: Tokens of each text, in the caller's order.
        order: The caller's indices of the texts in packed order.
        run_shapes: For ``runs``: (number of texts, tokens of each) of every run, in order; otherwise empty.
        skipped: How many first tokens of each text pooling leaves out, in the caller's order; empty for none.
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
    skipped: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.order)

    @property
    def n_tokens(self) -> int:
        """Number of real tokens, T."""
        return self.cells.numel()

    @property
    def device(self) -> torch.device:
        """The device of the batch; the encoder must be on the same one."""
        return self.token_ids.device

    @property
    def mask(self) -> Tensor | None:
        """The attention mask, bool, True where a token may attend; made on the batch's device at each access.

        ``rows``: shape (R, 1, C, C); padding attends to padding, since a row without any True would give NaN.
        ``padded``: shape (R, C), True at real tokens. ``runs``: None, attention needs no mask.
        """
        if self.layout == "runs":
            return None
        if self.layout == "padded":
            return self.owners >= 0
        return self.owners[:, None, :, None] == self.owners[:, None, None, :]

    def pool(self, hidden: Tensor, mode: PoolingMode = "mean") -> Tensor:
        """Return one vector for each text, in the caller's order: shape (N, D), float32 for any type of `hidden`.

        Args:
            hidden: The encoder's output for this batch, shape (R, C, D), any floating-point type.
            mode: ``mean`` of all the text's tokens (Sentence-BERT, section 3), its first token
                (``cls``), or the ``max`` of each feature; in each case without the tokens that are `skipped`.
        """
        flat = hidden.flatten(0, 1)
        cells, starts = (self.cells, self.starts) if not any(self.skipped) else self._pooled_cells(mode)
        if mode == "cls":
            return flat.index_select(0, cells[starts]).float()
        # One gather-and-reduce for all texts; three times faster than index_add (see benchmarks/LOG.md).
        return torch.nn.functional.embedding_bag(cells, flat.float(), starts, mode=mode)

    def _pooled_cells(self, mode: PoolingMode) -> tuple[Tensor, Tensor]:
        """Return `cells` and `starts` without the skipped tokens; a text without others has no cell.

        Its mean is then a vector of zeros, and for ``cls`` it keeps its first token, as in sentence-transformers.
        """
        lengths, skipped = np.array(self.lengths), np.array(self.skipped)
        if mode == "cls":
            skipped = np.where(skipped < lengths, skipped, 0)
        kept = np.maximum(lengths - skipped, 0)
        starts = offsets_of(kept)[:-1]
        tokens = np.arange(kept.sum()) + np.repeat(offsets_of(lengths)[:-1] + skipped - starts, kept)
        index = to_device(torch.from_numpy(np.concatenate([tokens, starts])), self.device)
        return self.cells[index[: len(tokens)]], index[len(tokens) :]

    def token_vectors(self, hidden: Tensor) -> list[Tensor]:
        """Return the vectors of each text's tokens, shape (tokens, D) each, float32, in the caller's order."""
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
    """Return `texts` as a batch in the given layout, without waiting for the copy to a CUDA device.

    Args:
        texts: N texts, each of at least one token.
        layout: See `PackedBatch`.
        device: The device of the batch; None for the CPU.
        row_tokens: C of the layout ``rows``, raised to what the longest text needs (see `row_width`).
        padding_id: The token in cells without a text.
        first_position: The position of a text's first token (RoBERTa and similar kinds count from padding id + 1).

    Raises:
        ValueError: No text, or one without a token.
    """
    lengths = texts.lengths
    if len(lengths) == 0 or lengths.min() == 0:
        raise ValueError("a packed batch needs at least one text, and every text at least one token")
    run_shapes: tuple[tuple[int, int], ...] = ()
    if layout == "rows":
        width = row_width(int(lengths.max()), row_tokens)
        row, column, n_rows = best_fit(lengths, width)
        begin = row * width + column
        order = np.argsort(begin, kind="stable")
    elif layout == "runs":
        n_rows, width = 1, int(lengths.sum())
        order = np.argsort(-lengths, kind="stable")
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
        skipped=() if texts.skipped is None else tuple(texts.skipped.tolist()),
    )


def _positions(texts: TextTokens, within: NDArray[np.int64], first_position: int) -> NDArray[np.int64]:
    """Return the position of each token, shape (T,), from its index in its text.

    If a text itself contains the padding token ("a <pad> b"), RoBERTa and similar kinds give that token the
    position before the first and do not count it, as their stock embeddings do when they make positions.
    """
    padding = texts.token_ids == first_position - 1
    if first_position == 0 or not padding.any():
        return within + first_position
    before = np.cumsum(padding) - padding  # padding tokens before each token, in all texts
    own = before - np.repeat(before[texts.offsets[:-1]], texts.lengths)
    return np.where(padding, first_position - 1, within - own + first_position)
