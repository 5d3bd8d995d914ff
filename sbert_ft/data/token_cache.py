"""The texts of a data set as token ids, made once, in a file that later runs find again.

Tokenising costs as much as a small model's training step, and an epoch comes after another; so each distinct text
goes through the tokenizer once. The ids lie end to end in one file that is mapped into memory: 4 bytes a token and 8
a text on disk, however long the texts are.

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
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import tokenizers
from numpy.typing import NDArray

from sbert_ft.errors import ModelFolderError, OutputError, shown
from sbert_ft.files.strict_json import open_file, read_json
from sbert_ft.models.inference import windows_of
from sbert_ft.tokenization.text_tokens import offsets_of
from sbert_ft.tokenization.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

FORMAT = 1

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
class TextNumbers:
    """The distinct texts of a data set as numbers.

    Attributes:
        token_ids: The texts with special tokens, cut, end to end: shape (T,), int32.
        lengths: Tokens of each before it was cut, special ones included: shape (N,), int32.
        unknown: Of these, the ones that the vocabulary does not have: shape (N,), int32.
    """

    token_ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    unknown: NDArray[np.int32]


def text_numbers(dataset: TextRows, tokenizer: TextTokenizer, max_seq_length: int, folder: Path | None) -> TextNumbers:
    """Return the distinct texts as numbers, from the cache in `folder` if it is there.

    Args:
        dataset: Its distinct texts.
        tokenizer: The model's.
        max_seq_length: Tokens a text may have, special ones included; longer ones lose their end.
        folder: Where the cache is, or is written; one process at a time. None to keep the tokens in memory.

    Raises:
        InputError: A text is none.
        OutputError: The cache cannot be written.
    """
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
    return TextNumbers(*np.split(content, [n_tokens, n_tokens + dataset.n_distinct]))


def text_lengths(dataset: TextRows, tokenizer: TextTokenizer) -> NDArray[np.int32]:
    """Return the tokens of each distinct text before any cut, special ones included: shape (N,), int32.

    Raises:
        InputError: A text is none.
    """
    lengths = [np.zeros(0, np.int32)]
    n_texts = 0
    for window in windows_of(_all_texts(dataset)):
        lengths.append((tokenizer.tokenize(window, n_texts).lengths + tokenizer.n_special).astype(np.int32))
        n_texts += len(window)
    return np.concatenate(lengths)


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
