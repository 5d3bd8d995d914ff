"""The rows of a data set as tokens: a row is the numbers of its one to three texts, or two texts joined into one.

Each distinct text is tokenised once, 4 bytes a token; a row is the numbers of its texts, 8 bytes each. Joined rows are
built from the same tokens batch by batch, so they need no extra memory and no extra tokenising.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.settings import Truncation
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.data.ledger import counted
from sbert_ft.errors import InputError, quoted
from sbert_ft.models.inference import prompt_tokens, windows_of
from sbert_ft.tokenization.text_tokens import Pieces, TextTokens, frame_pieces, kept_lengths, offsets_of
from sbert_ft.tokenization.tokenizer import TextTokenizer

_SLICE_TEXTS = 256  # read from the data set at a time
PERCENTILES = (50, 90, 99, 100)


@dataclass(frozen=True)
class TokenizedConnections:
    """The rows of a data set as tokens.

    A row is k sequences, one for each of its texts, or one sequence of two joined texts. Counts of texts count each
    distinct text that occurs in a row once; counts of sequences count it in every row.
    """

    texts: TextTokens  # the distinct texts with their prompts and special tokens, truncated to `max_seq_length`
    rows: NDArray[np.int64]  # the numbers of each row's texts: shape (n_rows, k)
    lengths: NDArray[np.int32]  # tokens of each distinct text before truncation, special ones included: shape (N,)
    max_seq_length: int  # maximum tokens of a sequence, special tokens included
    n_unknown: int  # unknown tokens of the texts before truncation
    tokenizer: TextTokenizer
    joined_by: Truncation | None = None  # which text of a row is truncated; None if texts stay separate
    unknown_texts: tuple[str, ...] = ()  # some of those with unknown tokens

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_sequences(self) -> int:
        """Sequences per row: k, or 1 if texts are joined."""
        return 1 if self.joined_by is not None else int(self.rows.shape[1])

    @property
    def sequence_lengths(self) -> NDArray[np.int64]:
        """Tokens of each row's sequences before truncation, special tokens included: (n_rows, n_sequences), int64."""
        return _sequence_lengths(self.lengths, self.rows, self.tokenizer, self.joined_by)

    @cached_property
    def row_lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, the sum of its truncated sequences: shape (n_rows,), int64."""
        total: NDArray[np.int64] = np.minimum(self.sequence_lengths, self.max_seq_length).sum(axis=1)
        return total

    def long_text(self, column: int) -> int:
        """Return the tokens, after truncation, that 99 % of the texts of a column do not exceed."""
        lengths = np.minimum(self.lengths[self.rows[:, column]], self.max_seq_length)
        return int(np.percentile(lengths, 99, method="inverted_cdf"))

    @property
    def cut_rows(self) -> NDArray[np.int64]:
        """The rows with a truncated sequence, shape (n,), int64."""
        return np.flatnonzero((self.sequence_lengths > self.max_seq_length).any(axis=1))

    @property
    def n_cut(self) -> int:
        """Truncated texts; truncated rows if texts are joined."""
        if self.joined_by is not None:
            return len(self.cut_rows)
        return int((self._lengths_in_rows > self.max_seq_length).sum())

    def describe_cut(self) -> str:
        """Return how many sequences are truncated, in words."""
        sequence = "text" if self.joined_by is None else "pair"
        return f"{counted(self.n_cut, sequence)} cut at {self.max_seq_length}" if self.n_cut else "none is cut"

    @property
    def n_own_tokens(self) -> int:
        """Tokens of the texts before truncation, without special tokens."""
        lengths = self._lengths_in_rows
        return int(lengths.sum(dtype=np.int64)) - self.tokenizer.n_special * len(lengths)

    @property
    def _lengths_in_rows(self) -> NDArray[np.int32]:
        return self.lengths[_occur_in(self.rows, len(self.lengths))]

    @property
    def cut_share(self) -> float:
        """Share of the rows' sequences that are truncated, 0 to 1; a text counts in every row that has it."""
        return float((self.sequence_lengths > self.max_seq_length).mean()) if self.rows.size else 0.0

    def percentiles(self) -> dict[int, int]:
        """Return percentiles of the tokens per sequence before truncation, as {percentage: tokens}; 0 without rows."""
        if not self.rows.size:
            return dict.fromkeys(PERCENTILES, 0)
        found = np.percentile(self.sequence_lengths, PERCENTILES, method="inverted_cdf")
        return dict(zip(PERCENTILES, found.astype(int).tolist(), strict=True))

    def pack_rows(self, rows: NDArray[np.int64]) -> TextTokens:
        """Return the sequences of these rows, shape (n,), column after column, for one batch: n times `n_sequences`.

        Rows (a, b) and (c, d) become the texts a, c, b, d, so that splitting the vectors by the number of rows gives
        the columns. If texts are joined, they become the two sequences a b and c d, with token types.
        """
        texts = self.rows[rows].T
        if self.joined_by is None:
            return self.texts.select(texts.ravel())
        tokenizer, specials = self.tokenizer, self.tokenizer.pair_specials
        # from the lengths before truncation: two texts truncated to the same length no longer show which was longer
        first, second = self.lengths[texts].astype(np.int64) - tokenizer.n_special
        kept = kept_lengths(first, second, specials.room(self.max_seq_length, at_least=0), self.joined_by)
        begins = self.texts.offsets[texts] + len(tokenizer.specials.before)
        pieces = (Pieces(self.texts.token_ids, *piece) for piece in zip(begins, kept, strict=True))
        return frame_pieces(specials, *pieces)


def tokenize_connections(
    dataset: ConnectionDataset,
    tokenizer: TextTokenizer,
    max_seq_length: int,
    joined_by: Truncation | None = None,
    prompts: Sequence[str] = (),
    include_prompt: bool = True,
) -> TokenizedConnections:
    """Return the data set's rows as tokens, at most `max_seq_length` a sequence, special tokens included.

    `joined_by` joins the two texts of a row and says which of them is truncated. Without it each text is a sequence,
    which loses its end if it is too long. `prompts` are put before the texts of each column; without
    `include_prompt` their tokens are not pooled.

    Raises:
        InputError: A text is not valid or has no tokens, `max_seq_length` is too small for any token of a text, or
            rows to be joined do not have two texts.
        ModelFolderError: The tokenizer cannot join two texts.
    """
    if max_seq_length <= tokenizer.n_special:
        least = tokenizer.n_special + 1
        raise InputError(f"max_seq_length is {quoted(max_seq_length)}, expected a whole number of at least {least}")
    if joined_by is not None:
        _check_can_be_joined(dataset.text_rows, tokenizer, max_seq_length)
    kinds, rows = number_texts(dataset, prompts)
    occurs = _occur_in(rows, dataset.n_distinct * len(kinds))
    token_ids = io.BytesIO()  # grows in place: a list of arrays that is joined at the end takes twice the memory
    parts = [np.zeros(0, np.int32)]
    n_texts = n_unknown = 0
    unknown_texts: list[str] = []
    for window, bodies in _tokenized_texts(dataset, tokenizer, kinds):
        tokenizer.keep_unknown(unknown_texts, window, bodies)
        token_ids.write(tokenizer.frame(bodies, max_seq_length).token_ids.data)
        parts.append((bodies.lengths + tokenizer.n_special).astype(np.int32))
        is_unknown = bodies.token_ids == tokenizer.unknown_id
        n_unknown += int((is_unknown & np.repeat(occurs[n_texts : n_texts + len(bodies)], bodies.lengths)).sum())
        n_texts += len(bodies)
    lengths = np.concatenate(parts)
    content = np.frombuffer(token_ids.getbuffer().toreadonly(), np.int32)
    skipped = None if include_prompt else np.repeat(prompt_tokens(tokenizer, kinds, max_seq_length), dataset.n_distinct)
    offsets = offsets_of(np.minimum(lengths, max_seq_length).astype(np.int64))
    texts = TextTokens(content, offsets, skipped=skipped)
    tokens = TokenizedConnections(
        texts, rows, lengths, max_seq_length, n_unknown, tokenizer, joined_by, tuple(unknown_texts)
    )
    if not tokens.sequence_lengths.all():  # possible only if the tokenizer adds no special tokens
        row, column = np.argwhere(tokens.sequence_lengths == 0)[0]
        number = int(rows[row, column]) % dataset.n_distinct
        raise InputError(
            f"the text {quoted(dataset.distinct_texts(number, number + 1)[0])} has no tokens, and this model's "
            "tokenizer adds no special tokens",
            "leave its rows out",
        )
    return tokens


def cut_rows(
    dataset: ConnectionDataset,
    tokenizer: TextTokenizer,
    max_seq_length: int,
    joined_by: Truncation | None = None,
    prompts: Sequence[str] = (),
) -> NDArray[np.int64]:
    """Return the rows with a sequence that `tokenize_connections` would truncate, shape (n,); tokens are not kept."""
    if joined_by is not None:
        _check_can_be_joined(dataset.text_rows, tokenizer, max_seq_length)
    kinds, rows = number_texts(dataset, prompts)
    parts = [bodies.lengths.astype(np.int32) for _, bodies in _tokenized_texts(dataset, tokenizer, kinds)]
    lengths = np.concatenate([np.zeros(0, np.int32), *parts]) + np.int32(tokenizer.n_special)
    lengths_of_rows = _sequence_lengths(lengths, rows, tokenizer, joined_by)
    return np.flatnonzero((lengths_of_rows > max_seq_length).any(axis=1))


def number_texts(dataset: ConnectionDataset, prompts: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct prompts, and each row's texts as numbers, shape (N, k).

    All distinct texts with the first prompt are numbered first, then all with the second.
    """
    kinds = list(dict.fromkeys(prompts)) or [""]
    columns = [kinds.index(prompt) for prompt in prompts] or [0]
    return kinds, dataset.text_rows + dataset.n_distinct * np.array(columns, np.int64)


def _tokenized_texts(
    dataset: ConnectionDataset, tokenizer: TextTokenizer, prompts: Sequence[str]
) -> Iterator[tuple[list[str], TextTokens]]:
    """Yield the distinct texts and their tokens with each prompt, without special tokens, some thousand at a time."""
    for prompt in prompts:
        starts = range(0, dataset.n_distinct, _SLICE_TEXTS)
        slices = (dataset.distinct_texts(start, min(start + _SLICE_TEXTS, dataset.n_distinct)) for start in starts)
        n_texts = 0
        for window in windows_of(text for texts in slices for text in texts):
            yield window, tokenizer.tokenize(window, n_texts, prompt=prompt)
            n_texts += len(window)


def _check_can_be_joined(rows: NDArray[np.int64], tokenizer: TextTokenizer, max_seq_length: int) -> None:
    n_texts = rows.shape[1]
    if n_texts != 2:
        raise InputError(
            f"the rows have {n_texts} text{'s' if n_texts > 1 else ''} each, expected two to be joined into one",
            "name two columns of texts",
        )
    tokenizer.pair_specials.room(max_seq_length, at_least=2)  # raises if max_seq_length is too small


def _occur_in(rows: NDArray[np.int64], n_texts: int) -> NDArray[np.bool_]:
    """Return which of the distinct texts occur in a row: shape (n_texts,), bool."""
    occurs = np.zeros(n_texts, bool)
    occurs[rows] = True
    return occurs


def _sequence_lengths(
    lengths: NDArray[np.int32], rows: NDArray[np.int64], tokenizer: TextTokenizer, joined_by: Truncation | None
) -> NDArray[np.int64]:
    """Return the tokens of each row's sequences before truncation: shape (n_rows, n_sequences), int64."""
    if joined_by is None:
        return lengths[rows].astype(np.int64)
    own: NDArray[np.int64] = lengths[rows].sum(axis=1, keepdims=True, dtype=np.int64) - 2 * tokenizer.n_special
    return own + tokenizer.pair_specials.n_special
