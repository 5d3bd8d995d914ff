"""The rows of a data set as tokens: a row is the numbers of its one to three texts, or two texts joined into one.

Each distinct text is tokenised once, 4 bytes a token; a row is the numbers of its texts, 8 bytes each. Joined rows are
built from the same tokens batch by batch, so they need no extra memory and no extra tokenising.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.settings import Truncation
from sbert_ft.errors import InputError, quoted
from sbert_ft.models.inference import windows_of
from sbert_ft.tokenization.text_tokens import Pieces, Specials, TextTokens, frame_pieces, kept_lengths, offsets_of
from sbert_ft.tokenization.tokenizer import TextTokenizer

_SLICE_TEXTS = 256  # read from the data set at a time
PERCENTILES = (50, 90, 99, 100)
N_SHOWN = 5  # rows with a truncated text that are listed


class TextRows(Protocol):
    """The parts of a data set that are used here; `ConnectionDataset` has them."""

    @property
    def n_distinct(self) -> int:
        """Number of distinct texts."""

    @property
    def text_rows(self) -> NDArray[np.int64]:
        """The number of each row's texts among the distinct ones: shape (n_rows, k), int64."""

    def distinct_texts(self, start: int, stop: int) -> list[str]:
        """Return the distinct texts number `start` to `stop` - 1."""


@dataclass(frozen=True)
class TextNumbers:
    """The distinct texts of a data set as token ids.

    Attributes:
        token_ids: The truncated texts with special tokens, one after another: shape (T,), int32.
        lengths: Tokens of each text before truncation, special tokens included: shape (N,), int32.
        unknown: Unknown tokens among them: shape (N,), int32.
    """

    token_ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    unknown: NDArray[np.int32]


def text_numbers(dataset: TextRows, tokenizer: TextTokenizer, max_seq_length: int) -> TextNumbers:
    """Return the token ids of the distinct texts.

    Args:
        dataset: The data set with the distinct texts.
        tokenizer: The model's tokenizer.
        max_seq_length: Maximum tokens per text, special tokens included; longer texts lose their end.

    Raises:
        InputError: A text is not valid.
    """
    token_ids = io.BytesIO()  # grows in place: a list of arrays that is joined at the end takes twice the memory
    lengths: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
    unknown: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
    n_texts = 0
    for window in windows_of(_all_texts(dataset)):
        bodies = tokenizer.tokenize(window, n_texts)
        token_ids.write(tokenizer.frame(bodies, max_seq_length).token_ids.data)
        lengths.append((bodies.lengths + tokenizer.n_special).astype(np.int32))
        n_unknown_before = offsets_of((bodies.token_ids == tokenizer.unknown_id).astype(np.int64))
        unknown.append(np.diff(n_unknown_before[bodies.offsets]).astype(np.int32))
        n_texts += len(window)
    content = np.frombuffer(token_ids.getbuffer().toreadonly(), np.int32)
    return TextNumbers(content, np.concatenate(lengths), np.concatenate(unknown))


def text_lengths(dataset: TextRows, tokenizer: TextTokenizer) -> NDArray[np.int32]:
    """Return the tokens of each distinct text before truncation, special tokens included: shape (N,), int32.

    Raises:
        InputError: A text is not valid.
    """
    lengths = [np.zeros(0, np.int32)]
    n_texts = 0
    for window in windows_of(_all_texts(dataset)):
        lengths.append((tokenizer.tokenize(window, n_texts).lengths + tokenizer.n_special).astype(np.int32))
        n_texts += len(window)
    return np.concatenate(lengths)


def _all_texts(dataset: TextRows) -> Iterator[str]:
    for start in range(0, dataset.n_distinct, _SLICE_TEXTS):
        yield from dataset.distinct_texts(start, min(start + _SLICE_TEXTS, dataset.n_distinct))


@dataclass(frozen=True)
class RowJoiner:
    """Joins the two texts of a row into one sequence.

    Attributes:
        truncation: Which text is truncated if both together are too long.
        specials: Special tokens around and between two texts.
        n_before: Special tokens before a single text.
        n_alone: All special tokens of a single text.
    """

    truncation: Truncation
    specials: Specials
    n_before: int
    n_alone: int

    def whole_lengths(self, lengths: NDArray[np.int32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tokens of each joined row before truncation: shape (n,), int64.

        Args:
            lengths: Tokens of each single text before truncation, special tokens included.
            rows: The numbers of each row's two texts: shape (n, 2), int64.
        """
        own: NDArray[np.int64] = lengths[rows].sum(axis=1, dtype=np.int64) - 2 * self.n_alone
        return own + self.specials.n_special

    def joined(self, tokenized: TokenizedConnections, rows: NDArray[np.int64]) -> TextTokens:
        """Return the joined sequences of these rows of two texts."""
        # from the lengths before truncation: two texts truncated to the same length no longer show which was longer
        first, second = (tokenized.lengths[column].astype(np.int64) - self.n_alone for column in rows.T)
        room = self.specials.room(tokenized.max_seq_length, at_least=0)
        kept = kept_lengths(first, second, room, self.truncation)
        begins = (tokenized.texts.offsets[column] + self.n_before for column in rows.T)
        token_ids = tokenized.texts.token_ids
        return frame_pieces(self.specials, *(Pieces(token_ids, *piece) for piece in zip(begins, kept, strict=True)))


@dataclass(frozen=True)
class TokenizedConnections:
    """The rows of a data set as tokens.

    A row is k sequences, one for each of its texts, or one sequence of two joined texts. Counts of texts count each
    distinct text that occurs in a row once; counts of sequences count it in every row.

    Attributes:
        texts: The distinct texts, each with its own special tokens, truncated to `max_seq_length`.
        rows: The numbers of each row's texts: shape (n_rows, k), int64.
        lengths: Tokens of each distinct text before truncation, special tokens included: shape (N,), int32.
        max_seq_length: Maximum tokens of a sequence, special tokens included.
        n_cut: Truncated texts; truncated rows if texts are joined.
        n_own_tokens: Tokens of the texts before truncation, without special tokens.
        n_unknown: Unknown tokens among them.
        n_cut_rows: Rows with a truncated sequence.
        first_cut_rows: The first of these rows, at most five.
        joiner: Joins the texts of a row; None if texts stay separate.
    """

    texts: TextTokens
    rows: NDArray[np.int64]
    lengths: NDArray[np.int32]
    max_seq_length: int
    n_cut: int
    n_own_tokens: int
    n_unknown: int
    n_cut_rows: int
    first_cut_rows: tuple[int, ...]
    joiner: RowJoiner | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_sequences(self) -> int:
        """Sequences per row: k, or 1 if texts are joined."""
        return 1 if self.joiner is not None else int(self.rows.shape[1])

    @property
    def sequence_lengths(self) -> NDArray[np.int64]:
        """Tokens of each row's sequences before truncation, special tokens included: (n_rows, n_sequences), int64."""
        return _sequence_lengths(self.lengths, self.rows, self.joiner)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence before truncation, 0 without rows."""
        return int(self.sequence_lengths.max(initial=0))

    @cached_property
    def row_lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, the sum of its truncated sequences: shape (n_rows,), int64."""
        total: NDArray[np.int64] = np.minimum(self.sequence_lengths, self.max_seq_length).sum(axis=1)
        return total

    @property
    def cut_share(self) -> float:
        """Share of the rows' sequences that are truncated, 0 to 1; a text counts in every row that has it."""
        return float((self.sequence_lengths > self.max_seq_length).mean()) if self.rows.size else 0.0

    def percentiles(self) -> dict[int, int]:
        """Return percentiles of the tokens per sequence before truncation, as {percentage: tokens}."""
        if not self.rows.size:
            return dict.fromkeys(PERCENTILES, 0)
        found = np.percentile(self.sequence_lengths, PERCENTILES, method="inverted_cdf")
        return dict(zip(PERCENTILES, found.astype(int).tolist(), strict=True))

    def pack_rows(self, rows: NDArray[np.int64]) -> TextTokens:
        """Return the sequences of these rows, column after column, for one batch.

        Rows (a, b) and (c, d) become the texts a, c, b, d, so that splitting the vectors by the number of rows gives
        the columns. If texts are joined, they become the two sequences a b and c d, with token types.

        Args:
            rows: Shape (n,), int64.

        Returns:
            n times `n_sequences` sequences, in new arrays.
        """
        if self.joiner is not None:
            return self.joiner.joined(self, self.rows[rows])
        return self.texts.select(self.rows[rows].T.ravel())


def tokenize_connections(
    dataset: TextRows,
    tokenizer: TextTokenizer,
    max_seq_length: int,
    joined_by: Truncation | None = None,
) -> TokenizedConnections:
    """Return the data set's rows as tokens.

    Args:
        dataset: The data set with rows and distinct texts.
        tokenizer: The model's tokenizer.
        max_seq_length: Maximum tokens of a sequence, special tokens included; longer ones are truncated.
        joined_by: Joins the two texts of a row into one sequence, and says which is truncated if both together are too
            long; None to keep each text separate. A separate text that is too long loses its end.

    Raises:
        InputError: A text is not valid or has no tokens, `max_seq_length` is too small for any token of a text, or
            rows to be joined do not have two texts.
        ModelFolderError: The tokenizer cannot join two texts.
    """
    if max_seq_length <= tokenizer.n_special:
        least = tokenizer.n_special + 1
        raise InputError(f"max_seq_length is {quoted(max_seq_length)}, expected a whole number of at least {least}")
    joiner = None if joined_by is None else _row_joiner(dataset, tokenizer, max_seq_length, joined_by)
    numbers = text_numbers(dataset, tokenizer, max_seq_length)
    tokens = _tokenized(numbers, dataset.text_rows, tokenizer.n_special, max_seq_length, joiner)
    if not tokens.sequence_lengths.all():  # possible only if the tokenizer adds no special tokens
        row, column = np.argwhere(tokens.sequence_lengths == 0)[0]
        number = int(dataset.text_rows[row, column])
        raise InputError(
            f"the text {quoted(dataset.distinct_texts(number, number + 1)[0])} has no tokens, and this model's "
            "tokenizer adds no special tokens",
            "leave its rows out",
        )
    return tokens


def cut_rows(
    dataset: TextRows, tokenizer: TextTokenizer, max_seq_length: int, joined_by: Truncation | None = None
) -> NDArray[np.int64]:
    """Return the rows with a sequence that `tokenize_connections` would truncate, shape (n,); tokens are not kept."""
    joiner = None if joined_by is None else _row_joiner(dataset, tokenizer, max_seq_length, joined_by)
    lengths = text_lengths(dataset, tokenizer)
    return np.flatnonzero((_sequence_lengths(lengths, dataset.text_rows, joiner) > max_seq_length).any(axis=1))


def _row_joiner(dataset: TextRows, tokenizer: TextTokenizer, max_seq_length: int, truncation: Truncation) -> RowJoiner:
    n_texts = dataset.text_rows.shape[1]
    if n_texts != 2:
        raise InputError(
            f"the rows have {n_texts} text{'s' if n_texts > 1 else ''} each, expected two to be joined into one",
            "name two columns of texts",
        )
    specials = tokenizer.pair_specials
    specials.room(max_seq_length, at_least=2)  # raises if max_seq_length is too small
    return RowJoiner(truncation, specials, len(tokenizer.specials.before), tokenizer.n_special)


def _tokenized(
    numbers: TextNumbers, rows: NDArray[np.int64], n_special: int, max_seq_length: int, joiner: RowJoiner | None
) -> TokenizedConnections:
    """Return the rows with their counts, from the token ids of the distinct texts."""
    lengths = numbers.lengths
    used = np.zeros(len(lengths), bool)
    used[rows] = True
    cut_rows = np.flatnonzero((_sequence_lengths(lengths, rows, joiner) > max_seq_length).any(axis=1))
    n_cut = len(cut_rows) if joiner is not None else int(((lengths > max_seq_length) & used).sum())
    return TokenizedConnections(
        texts=TextTokens(numbers.token_ids, offsets_of(np.minimum(lengths, max_seq_length).astype(np.int64))),
        rows=rows,
        lengths=lengths,
        max_seq_length=max_seq_length,
        n_cut=n_cut,
        n_own_tokens=int(lengths[used].sum(dtype=np.int64)) - n_special * int(used.sum()),
        n_unknown=int(numbers.unknown[used].sum(dtype=np.int64)),
        n_cut_rows=len(cut_rows),
        first_cut_rows=tuple(cut_rows[:N_SHOWN].tolist()),
        joiner=joiner,
    )


def _sequence_lengths(
    lengths: NDArray[np.int32], rows: NDArray[np.int64], joiner: RowJoiner | None
) -> NDArray[np.int64]:
    """Return the tokens of each row's sequences before truncation: shape (n_rows, n_sequences), int64."""
    if joiner is None:
        return lengths[rows].astype(np.int64)
    return joiner.whole_lengths(lengths, rows)[:, None]
