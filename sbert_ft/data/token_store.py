"""The texts of a data set as token ids, made once, in a file that later runs find again.

Tokenising costs as much as a small model's training step, and an epoch comes after another; so each distinct text
goes through the tokenizer once, and a row is two or three numbers of texts. The ids lie end to end in one file that
is mapped into memory: 4 bytes a token and 8 a text on disk, and 8 a text in memory, however long the texts are.

A cache is two files. ``tokens-KEY.bin`` holds int32 alone: the ids of all texts, then of each text its tokens before
any cut, then of each its unknown ones. ``tokens-KEY.json`` says how many there are and their digest, and is written
last. KEY follows from all that the ids depend on, so that nothing in a cache can be out of date; one that is not
whole is made anew. A process that is killed leaves a file of a temporary name, which the next one replaces.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import logging
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import tokenizers
from numpy.typing import NDArray

from sbert_ft.errors import InputError, ModelFolderError, OutputError, quoted
from sbert_ft.model.embed import windows_of
from sbert_ft.model.json_files import open_file, read_json, shown
from sbert_ft.model.packing import TextTokens, offsets_of
from sbert_ft.model.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

FORMAT = 1
PERCENTILES = (50, 90, 99, 100)
N_SHOWN = 5  # first rows with a cut text

_TOKEN = np.dtype("<i4")
_SLICE_TEXTS = 256  # taken from the data set at a time
_LARGEST_JSON = 1 << 16


class TextRows(Protocol):
    """What is asked of a data set here; `ConnectionDataset` has it."""

    @property
    def n_distinct(self) -> int:
        """Distinct texts."""

    @property
    def text_rows(self) -> NDArray[np.int64]:
        """The number of each row's texts among the distinct ones: shape (n_rows, k), int64."""

    @property
    def sha256(self) -> str:
        """Digest that is different wherever the distinct texts are, or their order."""

    def distinct_texts(self, start: int, stop: int) -> list[str]:
        """Return the distinct texts from number `start` to before `stop`."""


@dataclass(frozen=True)
class TokenizedConnections:
    """The rows of a data set as tokens.

    What is counted is counted for the texts that stand in the rows, each once.

    Attributes:
        texts: The distinct texts with special tokens, cut to `max_seq_length`.
        rows: The number of each row's texts: shape (n_rows, k), int64.
        lengths: Tokens of each distinct text before it was cut, special ones included: shape (N,), int32.
        max_seq_length: Tokens a text may have, special ones included.
        n_cut: Texts that were cut.
        n_own_tokens: Tokens of the texts, without special ones and before any cut.
        n_unknown: Of these, the ones that the vocabulary does not have.
        n_cut_rows: Rows with a text that was cut.
        first_cut_rows: The first of them, five at most.
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

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def row_lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, all of its texts together, as they are computed: shape (n_rows,), int64."""
        total = np.zeros(len(self.rows), np.int64)
        for column in self.rows.T:
            total += np.minimum(self.lengths[column], self.max_seq_length)
        return total

    @property
    def cut_share(self) -> float:
        """Share of the rows' texts that are cut, 0 to 1; a text counts in each row that it stands in."""
        return float((self.lengths[self.rows] > self.max_seq_length).mean()) if self.rows.size else 0.0

    def percentiles(self) -> dict[int, int]:
        """Return how many tokens, before any cut, the given percentage of the rows' texts has at most."""
        if not self.rows.size:
            return dict.fromkeys(PERCENTILES, 0)
        found = np.percentile(self.lengths[self.rows], PERCENTILES, method="inverted_cdf")
        return dict(zip(PERCENTILES, found.astype(int).tolist(), strict=True))

    def pack_rows(self, rows: NDArray[np.int64]) -> TextTokens:
        """Return the texts of these rows, column after column, to be laid out in one batch.

        Rows (a, b) and (c, d) become the texts a, c, b, d, so that the vectors, split by the number of rows, are
        those of each column.

        Args:
            rows: Shape (n,), int64.

        Returns:
            n times k texts, in arrays of their own.
        """
        return self.texts.select(self.rows[rows].T.ravel())


def tokenize_connections(
    dataset: TextRows, tokenizer: TextTokenizer, max_seq_length: int, folder: Path | None
) -> TokenizedConnections:
    """Return the data set's rows as tokens, from the cache in `folder` if it is there.

    Args:
        dataset: Its rows and distinct texts.
        tokenizer: The model's.
        max_seq_length: Tokens a text may have, special ones included; longer ones lose their end.
        folder: Where the cache is, or is written; one process at a time. None to keep the tokens in memory.

    Raises:
        InputError: A text is none, or `max_seq_length` leaves no room for one.
        OutputError: The cache cannot be written.
    """
    if max_seq_length <= tokenizer.n_special:
        least = tokenizer.n_special + 1
        raise InputError(f"max_seq_length is {quoted(max_seq_length)}, expected a whole number of at least {least}")
    if folder is None or not dataset.n_distinct:  # an empty file cannot be mapped
        memory = io.BytesIO()
        n_tokens = _write_tokens(memory, dataset, tokenizer, max_seq_length).n_tokens
        content = np.frombuffer(memory.getbuffer().toreadonly(), _TOKEN)
    else:
        key = _cache_key(dataset, tokenizer, max_seq_length)
        whole = _read_cache(folder, key, dataset.n_distinct)
        if whole is None:
            _write_cache(folder, key, dataset, tokenizer, max_seq_length)
            whole = _read_cache(folder, key, dataset.n_distinct)
        if whole is None:
            raise OutputError(
                f"{shown(folder / _name(key))} is not what was written to it; does another process write "
                "there, or does the disk fail?"
            )
        content, n_tokens = whole
    return _tokenized(content, n_tokens, dataset, tokenizer, max_seq_length)


def _tokenized(
    content: NDArray[np.int32], n_tokens: int, dataset: TextRows, tokenizer: TextTokenizer, max_seq_length: int
) -> TokenizedConnections:
    """Return rows and counts from the numbers of a cache."""
    token_ids, lengths, unknown = np.split(content, [n_tokens, n_tokens + dataset.n_distinct])
    offsets = offsets_of(np.minimum(lengths, max_seq_length).astype(np.int64))
    rows = dataset.text_rows
    used = np.zeros(dataset.n_distinct, bool)
    used[rows] = True
    cut = lengths > max_seq_length
    cut_rows = np.flatnonzero(cut[rows].any(axis=1))
    return TokenizedConnections(
        texts=TextTokens(token_ids, offsets),
        rows=rows,
        lengths=lengths,
        max_seq_length=max_seq_length,
        n_cut=int((cut & used).sum()),
        n_own_tokens=int(lengths[used].sum(dtype=np.int64)) - tokenizer.n_special * int(used.sum()),
        n_unknown=int(unknown[used].sum(dtype=np.int64)),
        n_cut_rows=len(cut_rows),
        first_cut_rows=tuple(cut_rows[:N_SHOWN].tolist()),
    )


@dataclass(frozen=True)
class _Written:
    n_tokens: int
    sha256: str


def _write_tokens(file: IO[bytes], dataset: TextRows, tokenizer: TextTokenizer, max_seq_length: int) -> _Written:
    """Write the numbers of a cache: ids, then lengths, then unknown tokens."""
    digest = hashlib.sha256()
    n_texts = n_tokens = 0
    lengths: list[NDArray[np.int32]] = []
    unknown: list[NDArray[np.int32]] = []
    for window in windows_of(_all_texts(dataset)):
        bodies = tokenizer.tokenize(window, n_texts)
        framed = tokenizer.frame(bodies, max_seq_length)
        n_texts, n_tokens = n_texts + len(window), n_tokens + len(framed.token_ids)
        lengths.append((bodies.lengths + tokenizer.n_special).astype(np.int32))
        n_unknown_before = offsets_of((bodies.token_ids == tokenizer.specials.unknown_id).astype(np.int64))
        unknown.append(np.diff(n_unknown_before[bodies.offsets]).astype(np.int32))
        _write(file, digest, framed.token_ids)
    for counts in itertools.chain(lengths, unknown):
        _write(file, digest, counts)
    return _Written(n_tokens, digest.hexdigest())


def _all_texts(dataset: TextRows) -> Iterator[str]:
    for start in range(0, dataset.n_distinct, _SLICE_TEXTS):
        yield from dataset.distinct_texts(start, min(start + _SLICE_TEXTS, dataset.n_distinct))


def _write(file: IO[bytes], digest: Any, numbers: NDArray[np.int32]) -> None:
    data = numbers.astype(_TOKEN, copy=False).data
    digest.update(data)
    file.write(data)


def _cache_key(dataset: TextRows, tokenizer: TextTokenizer, max_seq_length: int) -> str:
    """Return what is different wherever any token id might be."""
    specials = tokenizer.specials
    parts = {
        "format": FORMAT,
        "texts": dataset.sha256,
        "n_distinct": dataset.n_distinct,
        "tokenizer": hashlib.sha256(tokenizer.backend.to_str().encode()).hexdigest(),
        "tokenizers": tokenizers.__version__,
        "specials": [specials.before, specials.after, specials.unknown_id],
        "max_seq_length": max_seq_length,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _name(key: str) -> str:
    return f"tokens-{key[:16]}"


def _read_cache(folder: Path, key: str, n_distinct: int) -> tuple[NDArray[np.int32], int] | None:
    """Return the numbers of a cache and how many of them are token ids; None if it is not there, or not whole."""
    path, description = folder / f"{_name(key)}.bin", folder / f"{_name(key)}.json"
    if not description.exists():
        return None
    with suppress(ModelFolderError, OSError, ValueError):  # the last: an empty file cannot be mapped
        said = read_json(description, _LARGEST_JSON)
        with open_file(path) as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        n_tokens = said.get("n_tokens")
        if (
            isinstance(n_tokens, int)
            and said.get("key") == key
            and len(mapped) == _TOKEN.itemsize * (n_tokens + 2 * n_distinct)
            and said.get("sha256") == hashlib.sha256(mapped).hexdigest()
        ):
            return np.frombuffer(mapped, _TOKEN), n_tokens
    logger.warning("%s is missing or damaged; the texts are tokenised again", shown(path))
    return None


def _write_cache(folder: Path, key: str, dataset: TextRows, tokenizer: TextTokenizer, max_seq_length: int) -> None:
    """Write both files of a cache, or leave nothing."""
    # Not synced: what a power failure leaves of it is found out by the digest.
    path, description = folder / f"{_name(key)}.bin", folder / f"{_name(key)}.json"
    temporary = folder / f".sbert-ft-{_name(key)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in (description, path, temporary):  # first, for its room may be needed
            old.unlink(missing_ok=True)
        with open(temporary, "wb") as file:
            written = _write_tokens(file, dataset, tokenizer, max_seq_length)
        os.replace(temporary, path)
        content = {"format": FORMAT, "key": key, "n_tokens": written.n_tokens, "sha256": written.sha256}
        temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        os.replace(temporary, description)
    except BaseException as error:
        for part in (temporary, path):
            with suppress(OSError):
                part.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OutputError(
            f"{shown(path)}: the tokens of the texts cannot be written: {error.strerror or error}; make room, or name "
            "another folder"
        ) from error
