"""Raw texts as tokens in flat arrays, and the sequences that a language model is trained on.

Each text is tokenised once, 4 bytes a token. Up to 1 GiB of tokens is held in memory; more goes to a temporary file,
of which the system keeps in memory what is read. For masked tokens alone, a text is a sequence, cut into blocks of
nearly equal length where it is too long. For next-sentence prediction, a row is a group of consecutive texts of a
document, about as many as fit, which is split in two anew each time it is drawn.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from array import array
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.data.corpus import TextCorpus
from sbert_ft.data.ledger import counted
from sbert_ft.errors import InputError, OutputError, quoted
from sbert_ft.models.inference import windows_of
from sbert_ft.tokenization.masking import MaskedTokens, Masker
from sbert_ft.tokenization.text_tokens import Pieces, TextTokens, frame_pieces, kept_lengths, offsets_of
from sbert_ft.tokenization.tokenizer import TextTokenizer

PERCENTILES: Final = (50, 90, 99, 100)
_MOST_IN_MEMORY: Final = 2**30  # bytes of tokens


@dataclass(frozen=True)
class TokenizedCorpus:
    """The texts of a corpus as tokens, and the rows made of them.

    Attributes:
        token_ids: The tokens of all texts end to end, without special ones: shape (T,), int32.
        offsets: Where each text begins, and the end: shape (N + 1,), int64.
        documents: Where each document begins, and the end, as numbers of texts: shape (n_documents + 1,), int64.
        begins: Where each row begins: of blocks as places in `token_ids`, of pairs as numbers of texts; shape (R,).
        ends: Where each row ends, shape (R,).
        row_lines: The line of each row's first text, shape (R,).
        tokenizer: What made the tokens.
        max_seq_length: Most tokens of a sequence, special ones included.
        n_unknown: Unknown tokens.
        unknown_texts: Some texts with unknown tokens.
        in_pairs: Whether rows are pairs of segments for next-sentence prediction.
        n_left_out: Texts that are in no row: for pairs, those of documents with a single text.
    """

    token_ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    documents: NDArray[np.int64]
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    row_lines: NDArray[np.int64]
    tokenizer: TextTokenizer
    max_seq_length: int
    n_unknown: int
    unknown_texts: tuple[str, ...]
    in_pairs: bool = False
    n_left_out: int = 0

    def __len__(self) -> int:
        return len(self.begins)

    @property
    def n_sequences(self) -> int:
        """Sequences of a row: one."""
        return 1

    @property
    def n_own_tokens(self) -> int:
        """Tokens of the texts, without special tokens."""
        return int(self.offsets[-1])

    @cached_property
    def row_lengths(self) -> NDArray[np.int64]:
        """Tokens of each row's sequence, special ones included, at most `max_seq_length`: shape (R,), int64."""
        lengths: NDArray[np.int64] = self.ends - self.begins + self.tokenizer.n_special
        if self.in_pairs:
            lengths = self.offsets[self.ends] - self.offsets[self.begins] + self.tokenizer.n_pair_special
        return np.minimum(lengths, self.max_seq_length)

    @cached_property
    def _text_lengths(self) -> NDArray[np.int64]:
        """Tokens of each text with special ones."""
        lengths: NDArray[np.int64] = np.diff(self.offsets) + self.tokenizer.n_special
        return lengths

    @property
    def n_cut(self) -> int:
        """Texts that are longer than a sequence."""
        return int((self._text_lengths > self.max_seq_length).sum())

    @property
    def cut_share(self) -> float:
        """Share of the texts that are longer than a sequence."""
        return self.n_cut / len(self._text_lengths)

    def percentiles(self) -> dict[int, int]:
        """Return percentiles of the tokens per text, special ones included, as {percentage: tokens}."""
        found = np.percentile(self._text_lengths, PERCENTILES, method="inverted_cdf")
        return dict(zip(PERCENTILES, found.astype(int).tolist(), strict=True))

    def describe_rows(self) -> str:
        """Return how many sequences there are, and what they are made of, in words."""
        n_texts, n_documents = len(self._text_lengths), len(self.documents) - 1
        found = f"{counted(len(self), 'sequence')} from {counted(n_texts, 'text')}"
        if not self.in_pairs:
            return found
        found = f"{found} in {counted(n_documents, 'document')}"
        left_out = f"{counted(self.n_left_out, 'text')} alone in a document left out"
        return f"{found}, {left_out}" if self.n_left_out else found

    def describe_cut(self) -> str:
        """Return what becomes of long texts, in words."""
        if self.in_pairs:
            return f"pairs of segments of up to {self.max_seq_length}"
        if not self.n_cut:
            return "none is cut"
        return f"{self.n_cut:,} cut into blocks of up to {self.max_seq_length}"

    def draw(self, rows: NDArray[np.int64], masker: Masker, random: np.random.Generator) -> MaskedTokens:
        """Return the sequences of these rows, shape (n,), with masked tokens."""
        if not self.in_pairs:
            begins, ends = self.begins[rows], self.ends[rows]
            return masker.mask(
                frame_pieces(self.tokenizer.specials, Pieces(self.token_ids, begins, ends - begins)), random
            )
        tokens, second = self._pairs(rows, random)
        masked = masker.mask(tokens, random)
        return MaskedTokens(masked.tokens, masked.places, masked.labels, second)

    def _pairs(self, rows: NDArray[np.int64], random: np.random.Generator) -> tuple[TextTokens, NDArray[np.int64]]:
        """Return the rows as pairs of segments, and 0 where the second follows the first, 1 where it does not.

        A row's texts are split between two of them, drawn evenly. In half of the rows, drawn evenly, the second segment
        is replaced by texts from another document, of about as many tokens. What is too long loses the beginning of the
        first and the end of the second segment, so that what follows still follows.
        """
        first, last = self.begins[rows], self.ends[rows]
        split = first + 1 + np.floor(random.random(len(rows)) * (last - first - 1)).astype(np.int64)
        second = (random.random(len(rows)) < 0.5).astype(np.int64)
        begin_b, end_b = self.offsets[split], self.offsets[last]
        own = np.searchsorted(self.documents, first, side="right") - 1
        other = np.floor(random.random(len(rows)) * (len(self.documents) - 2)).astype(np.int64)
        other += other >= own  # any document but its own
        start, stop = self._texts_of(other, end_b - begin_b, random)
        is_other = second == 1
        begin_b = np.where(is_other, self.offsets[start], begin_b)
        end_b = np.where(is_other, self.offsets[stop], end_b)
        begin_a, end_a = self.offsets[first], self.offsets[split]
        specials = self.tokenizer.pair_specials
        room = specials.room(self.max_seq_length, at_least=2)
        kept_a, kept_b = kept_lengths(end_a - begin_a, end_b - begin_b, room, "longest_first")
        pieces = Pieces(self.token_ids, end_a - kept_a, kept_a), Pieces(self.token_ids, begin_b, kept_b)
        return frame_pieces(specials, *pieces), second

    def _texts_of(
        self, documents: NDArray[np.int64], n_tokens: NDArray[np.int64], random: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return consecutive texts of each document that come nearest to so many tokens: the first, and after the last.

        The first is drawn evenly among those after which enough tokens are left; otherwise it is the document's first.
        """
        begin, end = self.documents[documents], self.documents[documents + 1]
        latest = np.searchsorted(self.offsets, self.offsets[end] - n_tokens, side="right") - 1
        n_starts = np.clip(latest + 1, begin + 1, end) - begin
        first = begin + np.floor(random.random(len(documents)) * n_starts).astype(np.int64)
        wanted = self.offsets[first] + n_tokens
        stop = np.searchsorted(self.offsets, wanted)  # the first boundary at or after
        nearer = wanted - self.offsets[stop - 1] < self.offsets[np.minimum(stop, len(self.offsets) - 1)] - wanted
        stop -= nearer
        return first, np.clip(stop, first + 1, end)


def tokenize_corpus(
    corpus: TextCorpus, tokenizer: TextTokenizer, max_seq_length: int, in_pairs: bool = False
) -> TokenizedCorpus:
    """Return the corpus as tokens, in rows of at most `max_seq_length` tokens, special ones included.

    `in_pairs` makes the rows pairs of segments for next-sentence prediction.

    Raises:
        DataError: The corpus cannot be read.
        InputError: `max_seq_length` is too small, or there are no documents of several texts for pairs.
        OutputError: There is no space for a temporary file.
    """
    specials = tokenizer.pair_specials if in_pairs else tokenizer.specials
    least = specials.n_special + (2 if in_pairs else 1)
    if max_seq_length < least:
        raise InputError(f"max_seq_length is {quoted(max_seq_length)}, expected a whole number of at least {least}")
    lengths, lines, first_texts = array("i"), array("q"), array("q")
    document, n_texts, n_unknown = -1, 0, 0
    unknown_texts: list[str] = []
    stream = corpus.texts()

    def texts() -> object:
        nonlocal document
        for text, line, number in stream:
            if number != document:
                document = number
                first_texts.append(len(lines))
            lines.append(line)
            yield text

    with _TokenFile() as file:
        for window in windows_of(texts()):  # type: ignore[arg-type]
            bodies = tokenizer.tokenize(window, n_texts)
            tokenizer.keep_unknown(unknown_texts, window, bodies)
            n_unknown += tokenizer.count_unknown(bodies)
            file.write(bodies.token_ids)
            lengths.frombytes(bodies.lengths.astype(np.intc).tobytes())
            n_texts += len(bodies)
        token_ids = file.tokens()
    offsets = offsets_of(np.frombuffer(lengths, np.intc).astype(np.int64))
    documents = np.append(np.frombuffer(first_texts, np.int64), n_texts)
    room = max_seq_length - specials.n_special
    if in_pairs:
        begins, ends = _groups(offsets, documents, room)
        if not len(begins) or len(documents) < 3:
            raise InputError(
                f"next-sentence prediction needs two or more documents of several texts, but "
                f"{quoted(corpus.source, limit=400)} has {len(begins):,} groups of consecutive texts in "
                f"{len(documents) - 1:,} documents",
                "end each document with an empty line, or name a column with data.document_column",
            )
        of_row, n_left_out = begins, int((np.diff(documents) == 1).sum())
    else:
        text, begins, ends = _blocks(offsets, room)
        of_row, n_left_out = text, 0
    return TokenizedCorpus(
        *(token_ids, offsets, documents, begins, ends, np.frombuffer(lines, np.int64)[of_row]),
        *(tokenizer, max_seq_length, n_unknown, tuple(unknown_texts), in_pairs, n_left_out),
    )


def _blocks(offsets: NDArray[np.int64], room: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the text of each block, and where it begins and ends; texts without a token have none.

    A text of more than `room` tokens is cut into as few blocks as possible, whose lengths differ by one at most.
    """
    lengths = np.diff(offsets)
    counts = -(-lengths // room)
    text = np.repeat(np.arange(len(lengths)), counts)
    nth = np.arange(len(text)) - np.repeat(np.cumsum(counts) - counts, counts)
    begins = offsets[text] + lengths[text] * nth // counts[text]
    ends = offsets[text] + lengths[text] * (nth + 1) // counts[text]
    return text, begins, ends


def _groups(
    offsets: NDArray[np.int64], documents: NDArray[np.int64], room: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first text of each group of consecutive texts of a document, and the one after its last.

    A group has two texts or more, and ends with the text that fills the room; a last text alone joins the group
    before, and documents of one text have no group.
    """
    begins, ends = array("q"), array("q")
    for document in range(len(documents) - 1):
        first, last = int(documents[document]), int(documents[document + 1])
        while last - first >= 2:
            full = int(np.searchsorted(offsets, offsets[first] + room))  # the first text boundary at or after
            end = max(first + 2, min(full, last))
            if last - end == 1:
                end = last
            begins.append(first)
            ends.append(end)
            first = end
    return np.frombuffer(begins, np.int64).copy(), np.frombuffer(ends, np.int64).copy()


class _TokenFile:
    """Tokens written one after another: in memory, and in a temporary file once they are many."""

    def __init__(self) -> None:
        self._file: IO[bytes] = io.BytesIO()
        self._n_bytes = 0

    def __enter__(self) -> _TokenFile:
        return self

    def __exit__(self, *_: object) -> None:
        if not isinstance(self._file, io.BytesIO):
            with contextlib.suppress(OSError):  # what could not be written is said already
                self._file.close()  # the memory map stays

    def write(self, token_ids: NDArray[np.int32]) -> None:
        """Append tokens, int32."""
        try:
            if isinstance(self._file, io.BytesIO) and self._n_bytes + token_ids.nbytes > _MOST_IN_MEMORY:
                before = self._file
                self._file = tempfile.TemporaryFile(prefix="sbert-ft-tokens-")  # noqa: SIM115 (closed in __exit__)
                self._file.write(before.getbuffer())
            self._file.write(token_ids.data)
            self._file.flush()
        except OSError as error:
            where = "" if tempfile.tempdir is None else f" in {quoted(tempfile.tempdir, limit=400)}"
            raise OutputError(
                f"the tokens of the texts cannot be written to a temporary file{where}: {error.strerror or error}",
                "name a folder with more space in the environment variable TMPDIR",
            ) from error
        self._n_bytes += token_ids.nbytes

    def tokens(self) -> NDArray[np.int32]:
        """Return all tokens, read only."""
        if isinstance(self._file, io.BytesIO):
            return np.frombuffer(self._file.getbuffer().toreadonly(), np.int32)
        return np.memmap(self._file, np.int32, mode="r")
