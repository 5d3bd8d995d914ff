"""Files of texts as one numbered stream, from which the rows of each shard are read.

Rows are numbered from 0 over all files, in their order. The files are read forward once, whatever shards are wanted; to
begin in the middle of a file its first rows are read and left out. Memory is that of one text.
"""

from __future__ import annotations

import glob
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sbert_ft.arguments import is_unicode
from sbert_ft.config.file_kinds import KIND_OF_SUFFIX
from sbert_ft.data.ledger import file_sha256
from sbert_ft.data.table import open_table
from sbert_ft.data.text import fault
from sbert_ft.data.text_rows import TextRow, TextRows
from sbert_ft.errors import DataError, shown
from sbert_ft.vectors.shard_plan import InputFacts, ShardPlan

MOST_CHECKED_IDS: Final = 10_000_000
"""Among so many ids none may be there twice; they take 8 bytes each while they are checked."""

IdAndText = tuple[int | str, str]


def find_inputs(inputs: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return the files that paths, folders and patterns (``*``, ``?``, ``[a-z]``, ``**``) stand for, in order.

    A folder stands for its files of texts, and a pattern for those that match it, both in the order of their names.

    Raises:
        DataError: A folder or a pattern has no file of texts, or a file is there twice.
    """
    found: list[Path] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            of_folder = (file for file in path.iterdir() if not file.name.startswith("."))
            files = sorted(file for file in of_folder if file.suffix.lower() in KIND_OF_SUFFIX and file.is_file())
        elif not path.exists() and glob.has_magic(os.fspath(given)):
            files = sorted(Path(name) for name in glob.glob(os.fspath(given), recursive=True) if os.path.isfile(name))
        else:
            files = [path]
        if not files:
            kinds = ", ".join(KIND_OF_SUFFIX)
            raise fault(path, f"there is no file of texts; expected files ending in {kinds}")
        found += files
    seen: set[str] = set()
    for path in found:
        if (real := os.path.realpath(path)) in seen:
            raise fault(path, "is there twice among the inputs", hint="give it once")
        seen.add(real)
    return found


@dataclass(frozen=True)
class TextReading:
    """How files are read: options of `open_table` and `TextRows`."""

    column: str | None = None
    id_column: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    kind: str | None = None


class InputFile:
    """A file of texts, and what it was when it was opened.

    Attributes:
        path: As given.
        rows: Its texts.
        sha256: Of its bytes.
    """

    def __init__(self, path: Path, reading: TextReading) -> None:
        """Open the file and find its columns; a `DataError` as in `open_table` and `TextRows`."""
        self.path = path
        table = open_table(path, encoding=reading.encoding, delimiter=reading.delimiter, kind=reading.kind)
        self.rows = TextRows(table, reading.column, reading.id_column)
        self._stamp = self._stamped()
        self.sha256 = file_sha256(path)

    def _stamped(self) -> tuple[int, int]:
        status = os.stat(self.path)
        return status.st_size, status.st_mtime_ns

    def check_unchanged(self) -> None:
        """Refuse the file if it has changed since it was opened: a `DataError`."""
        try:
            is_same = self._stamped() == self._stamp
        except OSError as error:
            raise fault(self.path, f"cannot be read: {error.strerror or error}") from error
        if not is_same:
            raise fault(self.path, "has changed while it was read", hint="encode it again into another folder")


def counted_inputs(files: Sequence[InputFile]) -> tuple[InputFacts, ...]:
    """Return what the files are; all rows are read once, so a bad one is found before a model runs.

    Raises:
        DataError: A row has no text or id, or an id is there twice among the first `MOST_CHECKED_IDS`; or there is no
            text.
    """
    facts, hashes = [], array("q")
    for file in files:
        n_rows = 0
        for row in file.rows:
            n_rows += 1
            if isinstance(row.id, str) and len(hashes) < MOST_CHECKED_IDS:
                if not is_unicode(row.id):
                    raise fault(file.path, "the id is no valid Unicode", row.line, file.rows.table.unit)
                hashes.append(hash(row.id))
        file.check_unchanged()
        facts.append(InputFacts(file.path.name, file.sha256, n_rows))
    if not any(file.n_rows for file in facts):
        raise DataError(f"{', '.join(shown(file.path) for file in files[:3])}: holds no text; expected at least one")
    _refuse_repeated_ids(files, hashes)
    return tuple(facts)


def _refuse_repeated_ids(files: Sequence[InputFile], hashes: array[int]) -> None:
    """Refuse an id that is there twice; files are read again only where two hashes are equal."""
    found, counts = np.unique(np.frombuffer(hashes, np.int64), return_counts=True)
    suspects = set(found[counts > 1].tolist())
    seen: set[str] = set()
    if not suspects:
        return
    for file in files:
        for row in file.rows:
            if isinstance(row.id, str) and hash(row.id) in suspects:
                if row.id in seen:
                    raise file.rows.repeated(row)
                seen.add(row.id)


def rows_of_shards(
    files: Sequence[InputFile], plan: ShardPlan, shards: Iterable[int]
) -> Iterator[tuple[int, Iterator[IdAndText]]]:
    """Yield each of the shards, in ascending order, with its ids and texts, which must be read before the next one.

    Raises:
        DataError: While they are read: a file has changed, or an id is there twice within a shard.
    """
    stream = RowStream(files, plan)
    for shard in shards:
        yield shard, stream.rows(plan.rows_of(shard))


class RowStream:
    """All rows of some files, read forward."""

    def __init__(self, files: Sequence[InputFile], plan: ShardPlan) -> None:
        """Begin before the first row."""
        self._files, self._n_rows = files, [facts.n_rows for facts in plan.inputs]
        self._firsts = [sum(self._n_rows[:i]) for i in range(len(files))]
        self._at, self._place = -1, 0
        self._iterator: Iterator[TextRow] = iter(())

    def rows(self, wanted: range) -> Iterator[IdAndText]:
        """Yield the rows of these numbers, which come after those of the call before."""
        seen: set[str] = set()
        for file, first, n_rows in zip(self._files, self._firsts, self._n_rows, strict=True):
            part = range(max(wanted.start, first), min(wanted.stop, first + n_rows))
            for number in part:
                row = self._row(file, number - first)
                if isinstance(row.id, str):
                    if row.id in seen:
                        raise file.rows.repeated(row)
                    seen.add(row.id)
                yield (row.id if isinstance(row.id, str) else number), row.text
            if part:
                file.check_unchanged()

    def _row(self, file: InputFile, place: int) -> TextRow:
        at = self._files.index(file)
        if at != self._at:
            self._at, self._place, self._iterator = at, 0, iter(file.rows)
        for row in self._iterator:
            self._place += 1
            if self._place > place:
                return row
        file.check_unchanged()
        raise fault(file.path, "has fewer rows than before", hint="encode it again into another folder")
