"""The token ids of many texts, and the sequences of them that an encoder reads: with special tokens, cut or in windows.

The ids are in one flat array, with the offset at which each text begins. Each text is tokenised once and by itself,
however many pairs it is part of; sequences of one text or of two are built from its ids in numpy, anew for each batch.
So no pair is stored, and a text in a thousand pairs is stored once. Texts are cut where the Rust tokenizer's truncation
cuts them, because other libraries use the same folder. Tokenizer files describe special tokens in many ways
(post-processors by template, by name, in sequence), so they are found by encoding a short text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from sbert_ft.config.settings import Truncation
from sbert_ft.errors import InputError, ModelFolderError, quoted
from sbert_ft.tokenization.backend import encode

_N_TYPES = 256  # values of a token type in TextTokens, which are uint8


@dataclass(frozen=True)
class TextTokens:
    """The tokens of N texts, flat: text i is ``token_ids[offsets[i]:offsets[i + 1]]``.

    Attributes:
        token_ids: Shape (T,), int32.
        offsets: Shape (N + 1,), int64, rising from 0 to T.
        token_types: Shape (T,), uint8 (0 first, 1 second text of a pair), or None for all 0.
        skipped: Shape (N,), int64: how many first tokens of each text pooling leaves out, or None for none.
    """

    token_ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    token_types: NDArray[np.uint8] | None = None
    skipped: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each text, shape (N,), int64."""
        return np.diff(self.offsets)

    def select(self, texts: NDArray[np.int64]) -> TextTokens:
        """Return the texts with these indices, in this order."""
        lengths = self.offsets[texts + 1] - self.offsets[texts]  # only of these: there may be millions of texts
        offsets = offsets_of(lengths)
        source = np.arange(offsets[-1]) + np.repeat(self.offsets[texts] - offsets[:-1], lengths)
        types = None if self.token_types is None else self.token_types[source]
        return TextTokens(self.token_ids[source], offsets, types, None if self.skipped is None else self.skipped[texts])


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where pieces of these lengths begin when laid end to end, and the end: shape (N + 1,), int64."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


@dataclass(frozen=True)
class Specials:
    """The token ids that an encoder expects around a text or around and between two, and the token types.

    BERT's [CLS] a [SEP] b [SEP] has the gaps ([CLS],), ([SEP],), ([SEP],) and the types 0 0 0 1 1; RoBERTa's
    <s> a </s></s> b </s> has two ids between and six types, all 0.

    Attributes:
        gaps: The ids before the first text, between the texts, and after the last one.
        types: The token type of each id and of each text, in their order.
    """

    gaps: tuple[tuple[int, ...], ...]
    types: tuple[int, ...]

    @property
    def before(self) -> tuple[int, ...]:
        """The ids before the first text."""
        return self.gaps[0]

    @property
    def after(self) -> tuple[int, ...]:
        """The ids after the last text."""
        return self.gaps[-1]

    @property
    def n_special(self) -> int:
        """Number of special tokens around and between the texts."""
        return sum(map(len, self.gaps))

    def room(self, max_tokens: int, at_least: int) -> int:
        """Return how many of `max_tokens` are left for two texts; an `InputError` if fewer than `at_least`."""
        room = max_tokens - self.n_special
        if room < at_least:
            least = f"a whole number of at least {self.n_special + at_least}"
            where = f"for two texts in one sequence with {self.n_special} special tokens"
            raise InputError(f"max_seq_length is {quoted(max_tokens)}, expected {least} {where}")
        return room


def find_specials(backend: Tokenizer, n_texts: int, vocab_size: int) -> Specials:
    """Return the special tokens around `n_texts` texts, 1 or 2, found by encoding a short text so many times.

    A text alone has only the token type 0, whatever the tokenizer says.

    Raises:
        ModelFolderError: The result is not the texts in order with special tokens around them, each text with its own
            tokens and one token type, or a special token is not in the vocabulary.
    """
    probe = probe_of(backend)
    body = encode(backend, probe, add_special_tokens=False).ids
    encoding = encode(backend, *[probe] * n_texts)
    ids, types = encoding.ids, encoding.type_ids if n_texts == 2 else [0] * len(encoding.ids)
    gaps: list[tuple[int, ...]] = []
    kept_types: list[int] = []
    end, is_supported = 0, max(types, default=0) < _N_TYPES
    for text in range(n_texts):
        own = [place for place, side in enumerate(encoding.sequence_ids) if side == text]
        begin = own[0] if own else -1
        in_order = begin >= end and own == list(range(begin, begin + len(body)))
        is_supported &= in_order and [ids[i] for i in own] == body and len({types[i] for i in own}) <= 1
        gaps.append(tuple(ids[end:begin]))
        kept_types += types[end : begin + 1]
        end = begin + len(body)
    if not is_supported and n_texts == 1:
        raise ModelFolderError("tokenizer.json changes a text's own tokens when it adds special ones: not supported")
    if not is_supported:
        problem = "does not encode a pair as the first text and then the second with special tokens around them"
        remedy = "set the pair template of post_processor, for example to [CLS] $A [SEP] $B [SEP]"
        raise ModelFolderError(f"tokenizer.json {problem}: not supported", remedy)
    # the embedding table may have no row for an id above the highest one of the vocabulary
    if max(ids) >= vocab_size:
        problem = (
            f"puts the token id {max(ids)} around a text, but the highest id of its vocabulary is {vocab_size - 1}"
        )
        raise ModelFolderError(f"tokenizer.json {problem}", "fix the ids in special_tokens of its post_processor")
    return Specials((*gaps, tuple(ids[end:])), (*kept_types, *types[end:]))


def probe_of(backend: Tokenizer) -> str:
    """Return a text that has tokens, the first of a few candidates; if none has any, "a"."""
    return next((c for c in "ae가1.的" if encode(backend, c, add_special_tokens=False).ids), "a")


@dataclass(frozen=True)
class Pieces:
    """A piece of each of N texts: ``token_ids[begins[i]:begins[i] + lengths[i]]``."""

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
    down to no tokens; if the other text is still too long for the room, its end is cut as well. All lengths have the
    shape (N,), int64.
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
    """Return overlapping windows of `room` tokens over N texts of these lengths, text after text.

    Neighbours share `overlap` tokens, but each window has at least one new token. The last window ends where the text
    does and is full too, so it may share more.

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
    """Return pairs of bodies as windows, each with the whole shorter text and as much of the longer one as fits.

    A shorter text of more than half the `room` (2 or more) is cut at its end to half; a pair that fits is one window.

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
