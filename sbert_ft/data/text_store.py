"""Store the distinct texts of a data set as flat bytes, each under a number.

Millions of Python strings need more memory than their characters, and the same sentence often is in many pairs. So
each distinct text is kept once, as UTF-8 in one block of bytes, and a pair is two numbers. A finished store costs 8
bytes per text plus the text's own bytes, which are in a memory-mapped file when they are many. While it is built, a
dictionary of hashes finds equal texts: 100 to 130 bytes more for each distinct text, 2 GB for 20 million, freed at the
end.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import operator
import tempfile
import weakref
from array import array
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import IO, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from sbert_ft.errors import InputError, OutputError, quoted

MEMORY_BYTES = 64 << 20  # of texts kept in memory; whenever there are this many, they are written to a file
_KEY_BITS = (1 << 60) - 1  # a Python integer of up to 60 bits takes 16 bytes less than a whole hash


class TextStore:
    """Texts that are read by number, as from a list, and decoded when they are read."""

    def __init__(self, content: bytes | mmap.mmap, offsets: NDArray[np.int64]) -> None:
        """Create a store from the bytes of all texts; use `TextStoreBuilder` to make them.

        Args:
            content: The texts in UTF-8, one after the other.
            offsets: Beginning of each text, then the end of the last one: shape (N + 1,), int64.
        """
        self._content = content
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: SupportsIndex) -> str:
        place = operator.index(index)
        if not 0 <= place < len(self):
            raise IndexError(f"text {place} of {len(self)}")
        return self._content[int(self._offsets[place]) : int(self._offsets[place + 1])].decode()

    def __reduce__(self) -> tuple[type[TextStore], tuple[bytes, NDArray[np.int64]]]:
        # A memory map cannot be pickled; the workers of a data loader get a copy of the bytes.
        return TextStore, (self._content[:], self._offsets)

    def slice(self, start: int, stop: int) -> list[str]:
        """Return the texts from `start` to before `stop`, as a slice of a list does; faster than one by one."""
        start, stop, _ = slice(start, stop).indices(len(self))
        if stop <= start:
            return []
        bounds = self._offsets[start : stop + 1].tolist()
        first = bounds[0]
        part = self._content[first : bounds[-1]]
        return [part[begin - first : end - first].decode() for begin, end in itertools.pairwise(bounds)]

    @cached_property
    def sha256(self) -> str:
        """Digest of the texts and their boundaries; equal for the same texts in the same order."""
        digest = hashlib.sha256(self._content)
        digest.update(self._offsets.astype("<i8", copy=False).data)
        return digest.hexdigest()


class TextStoreBuilder:
    """Collects texts, each distinct one once, for a `TextStore`."""

    def __init__(self, folder: Path | None = None, *, memory_bytes: int = MEMORY_BYTES) -> None:
        """Create a builder without texts.

        Args:
            folder: Where the bytes are written when they are many, to a file without a name that disappears with the
                store, however the process ends; None for the system's folder of temporary files.
            memory_bytes: Number of bytes in memory from which on they are written there.
        """
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._file: IO[bytes] | None = None
        self._n_written = 0
        self._tail = bytearray()  # the bytes after those in the file
        self._offsets = array("q", [0])
        self._index_of: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(self, text: str) -> int:
        """Return the number of this text: that of an equal text if there is one, otherwise the next, from 0.

        Raises:
            InputError: It has a lone surrogate, which UTF-8 cannot encode.
            OutputError: The bytes cannot be written, for example because the disk is full.
        """
        try:
            encoded = text.encode()
        except UnicodeEncodeError as error:
            surrogate = quoted(text[error.start])
            raise InputError(
                f"a text holds the lone surrogate {surrogate} at character {error.start}, which UTF-8 cannot encode",
                "decode the source again",
            ) from None
        # Texts with the same hash use the next keys, so a text is compared with every text that may be equal to it.
        key = hash(text) & _KEY_BITS
        while (index := self._index_of.get(key)) is not None:
            if self._encoded(index) == encoded:
                return index
            key += 1
        index = self._index_of[key] = len(self)
        self._tail += encoded
        self._offsets.append(self._offsets[-1] + len(encoded))
        if len(self._tail) >= self._memory_bytes:
            self._write_tail()
        return index

    def finish(self) -> TextStore:
        """Return the store of all texts that were added; no more can be added after this.

        Raises:
            OutputError: The bytes cannot be written, for example because the disk is full.
        """
        self._index_of.clear()
        offsets = np.frombuffer(memoryview(self._offsets).toreadonly(), np.int64)
        if self._file is None:
            return TextStore(bytes(self._tail), offsets)
        self._write_tail()
        with self._file as file:
            return TextStore(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), offsets)

    def _encoded(self, index: int) -> bytes | bytearray:
        """Return the bytes of a text that was added before."""
        begin, end = self._offsets[index], self._offsets[index + 1]
        if self._file is None or begin >= self._n_written:
            return self._tail[begin - self._n_written : end - self._n_written]
        self._file.seek(begin)
        return self._file.read(end - begin)

    def _write_tail(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
                weakref.finalize(self, self._file.close)  # for the case that an error prevents `finish`
            self._file.seek(self._n_written)
            self._file.write(self._tail)
            self._file.flush()
        except OSError as error:
            if self._file is not None:
                with suppress(OSError):  # closing tries once more to write the rest
                    self._file.close()
            folder = quoted(self._folder or tempfile.gettempdir(), limit=400)
            size = self._offsets[-1] >> 20
            raise OutputError(
                f"{folder}: {size:,} MB of texts cannot be written there: {error.strerror or error}",
                "free some space, or name another folder",
            ) from error
        self._n_written += len(self._tail)
        self._tail.clear()
