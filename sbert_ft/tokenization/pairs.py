"""Join two texts to one sequence, [CLS] a [SEP] b [SEP]: which text is cut, and how the pieces are put together.

Each text is tokenised once and by itself, however many pairs it is part of; pairs are built from its ids in numpy, anew
for each batch. So no pair is stored, and a text in a thousand pairs is stored once. Texts are cut where the Rust
tokenizer's truncation cuts them, because other libraries use the same folder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.settings import Truncation
from sbert_ft.tokenization.special_tokens import Specials
from sbert_ft.tokenization.text_tokens import TextTokens, offsets_of


@dataclass(frozen=True)
class Pieces:
    """A piece of each of N texts: ``token_ids[begins[i]:begins[i] + lengths[i]]``.

    Attributes:
        token_ids: Shape (T,), int32.
        begins: Shape (N,), int64.
        lengths: Shape (N,), int64, 0 or more.
    """

    token_ids: NDArray[np.int32]
    begins: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.begins)

    def copy_to(self, target: NDArray[np.int32], places: NDArray[np.int64]) -> None:
        """Write each piece into `target`, beginning at its place; `places` has shape (N,), int64."""
        offsets = offsets_of(self.lengths)
        nth = np.arange(offsets[-1])
        source = nth + np.repeat(self.begins - offsets[:-1], self.lengths)
        target[nth + np.repeat(places - offsets[:-1], self.lengths)] = self.token_ids[source]


def kept_lengths(
    first: NDArray[np.int64], second: NDArray[np.int64], room: int, truncation: Truncation
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many tokens each text of a pair keeps, so that both together have at most `room`.

    ``longest_first`` cuts the longer text (the first, if they are equally long) until both are equal, then both; it
    cuts where the tokenizers library's strategy of that name does. ``only_first`` and ``only_second`` cut that text,
    down to no tokens; if the other text is still too long for the room, its end is cut as well.

    Args:
        first: Tokens of the first texts, whole: shape (N,), int64.
        second: Tokens of the second texts, whole: shape (N,), int64.
        room: Tokens that both may have together, 0 or more.
        truncation: Which text is cut.

    Returns:
        Tokens kept of the first texts and of the second: shape (N,) each, int64.
    """
    if truncation == "only_first":
        kept_second = np.minimum(second, room)
        return np.minimum(first, room - kept_second), kept_second
    if truncation == "only_second":
        kept_first = np.minimum(first, room)
        return kept_first, np.minimum(second, room - kept_first)
    shorter = np.minimum(np.minimum(first, second), room // 2)
    longer = np.minimum(np.maximum(first, second), room - shorter)
    first_is_shorter = first <= second
    return np.where(first_is_shorter, shorter, longer), np.where(first_is_shorter, longer, shorter)


def overlapping_windows(
    lengths: NDArray[np.int64], room: NDArray[np.int64] | int, overlap: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return overlapping windows over texts, text after text.

    Neighbours share `overlap` tokens. The last window ends where the text does and is full too, so it may share more.

    Args:
        lengths: Tokens of each text: shape (N,), int64.
        room: Tokens of a window: one number for all texts, or one for each, shape (N,).
        overlap: Tokens that neighbours share; each window has at least one new token.

    Returns:
        The text of each window, shape (W,); the token of the text at which it begins, shape (W,); the number of
        windows of each text, shape (N,), 1 or more. All int64.
    """
    step = np.broadcast_to(np.maximum(1, room - overlap), lengths.shape)
    beyond = np.maximum(lengths - room, 0)  # tokens that the first window does not hold
    counts = -(-beyond // step) + 1
    text = np.repeat(np.arange(len(lengths)), counts)
    nth = np.arange(len(text)) - np.repeat(offsets_of(counts)[:-1], counts)
    return text, np.minimum(nth * step[text], beyond[text]), counts


def pair_windows(
    first: TextTokens, second: TextTokens, room: int, overlap: int
) -> tuple[tuple[Pieces, Pieces], NDArray[np.int64]]:
    """Return pairs as windows, each with the whole shorter text and as much of the longer one as fits.

    A shorter text of more than half the room is cut at its end to half; a pair that fits is one window.

    Args:
        first: N texts without special tokens.
        second: The other text of each.
        room: Tokens of both texts together, 2 or more.
        overlap: Tokens of the longer text that neighbours share.

    Returns:
        The pieces of the first and of the second text of each window, and the number of windows of each pair, shape
        (N,), int64.
    """
    shorter = np.minimum(np.minimum(first.lengths, second.lengths), room // 2)
    longer = np.maximum(first.lengths, second.lengths)
    pair, begin, counts = overlapping_windows(longer, room - shorter, overlap)
    whole, part = shorter[pair], np.minimum(longer, room - shorter)[pair]
    first_is_shorter = (first.lengths <= second.lengths)[pair]

    def pieces(texts: TextTokens, is_shorter: NDArray[np.bool_]) -> Pieces:
        begins = texts.offsets[pair] + np.where(is_shorter, 0, begin)
        return Pieces(texts.token_ids, begins, np.where(is_shorter, whole, part))

    return (pieces(first, first_is_shorter), pieces(second, ~first_is_shorter)), counts


def frame_pieces(specials: Specials, *texts: Pieces) -> TextTokens:
    """Return N sequences with special tokens and token types; sequence i is made of piece i of each text."""
    lengths = np.full(len(texts[0]), specials.n_special, np.int64)
    for pieces in texts:
        lengths += pieces.lengths
    offsets = offsets_of(lengths)
    token_ids = np.empty(offsets[-1], np.int32)
    places = offsets[:-1].copy()
    for number, gap in enumerate(specials.gaps):
        for token_id in gap:
            token_ids[places] = token_id
            places += 1
        if number < len(texts):
            texts[number].copy_to(token_ids, places)
            places += texts[number].lengths
    if not any(specials.types):
        return TextTokens(token_ids, offsets)
    counts = np.ones((len(lengths), len(specials.types)), np.int64)
    for column, pieces in zip((len(specials.before), -1 - len(specials.after)), texts, strict=False):
        counts[:, column] = pieces.lengths
    types = np.tile(np.array(specials.types, np.uint8), len(lengths))
    return TextTokens(token_ids, offsets, np.repeat(types, counts.ravel()))
