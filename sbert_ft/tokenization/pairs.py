"""Join two texts to one sequence, [CLS] a [SEP] b [SEP]: which text is cut, and how the pieces are put together.

Each text is tokenised once and by itself, however many pairs it is part of; pairs are built from its ids in numpy, anew
for each batch. So no pair is stored, and a text in a thousand pairs is stored once. Texts are cut where the Rust
tokenizer's truncation cuts them, because other libraries use the same folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.settings import Truncation
from sbert_ft.errors import InputError, quoted
from sbert_ft.tokenization.special_tokens import PairSpecials
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


def room_of_pair(max_tokens: int, specials: PairSpecials, at_least: int) -> int:
    """Return how many tokens the two texts of a pair may have together.

    Args:
        max_tokens: Tokens of a pair in all.
        specials: The special tokens of a pair.
        at_least: Tokens that must be left for the texts.

    Raises:
        InputError: Fewer are left.
    """
    room = max_tokens - specials.n_special
    if room < at_least:
        raise InputError(
            f"max_seq_length is {quoted(max_tokens)}, expected a whole number of at least "
            f"{specials.n_special + at_least} for two texts in one sequence with {specials.n_special} special tokens"
        )
    return room


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


def lay_end_to_end(parts: Sequence[tuple[int, ...] | Pieces], n_texts: int) -> TextTokens:
    """Return N texts, each made of these parts one after the other.

    Args:
        parts: Token ids that are the same in every text, or one piece for each text.
        n_texts: The number of texts, N.
    """
    lengths = np.zeros(n_texts, np.int64)
    for part in parts:
        lengths += part.lengths if isinstance(part, Pieces) else len(part)
    offsets = offsets_of(lengths)
    token_ids = np.empty(offsets[-1], np.int32)
    places = offsets[:-1].copy()
    for part in parts:
        if isinstance(part, Pieces):
            part.copy_to(token_ids, places)
            places += part.lengths
            continue
        for token_id in part:
            token_ids[places] = token_id
            places += 1
    return TextTokens(token_ids, offsets)


def join_pieces(specials: PairSpecials, first: Pieces, second: Pieces) -> TextTokens:
    """Return pairs with special tokens and token types; pair i is made of ``first[i]`` and ``second[i]``."""
    parts = (specials.before, first, specials.between, second, specials.after)
    joined = lay_end_to_end(parts, len(first))
    if not any(specials.types):
        return joined
    counts = np.ones((len(first), len(specials.types)), np.int64)
    counts[:, len(specials.before)] = first.lengths
    counts[:, -1 - len(specials.after)] = second.lengths
    types = np.tile(np.array(specials.types, np.uint8), len(first))
    return TextTokens(joined.token_ids, joined.offsets, np.repeat(types, counts.ravel()))
