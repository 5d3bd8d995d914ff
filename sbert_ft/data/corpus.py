"""Raw texts for pre-training: one file or a folder of them, read as a stream of texts in documents.

Nothing is kept here, so files of any size take the memory of one text. In a file of one text per line, an empty line
ends a document, as in the input of BERT's own pre-training. In a table, rows of one document stand together and have
the same value in the document column; without that column each row is a document of its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from sbert_ft.config.file_kinds import KIND_OF_SUFFIX
from sbert_ft.config.settings import Reading
from sbert_ft.data.columns import usual_texts
from sbert_ft.data.formats import N_SHOWN_COLUMNS
from sbert_ft.data.ledger import Finding, Ledger, RowFaults, Unit, counted, file_sha256
from sbert_ft.data.table import Table, open_table
from sbert_ft.data.text import fault, is_blank
from sbert_ft.errors import DataError, listed, quoted, shown

_EMPTY: Final = "empty"


class CorpusText(NamedTuple):
    """A text, the line or row of its file counted over all files from 1, and the number of its document from 0."""

    text: str
    line: int
    document: int


@dataclass(frozen=True)
class _File:
    """A table, the positions of its columns with texts, and of the one that names documents; None without one."""

    table: Table
    columns: tuple[int, ...]
    document_column: int | None


class TextCorpus:
    """The texts of one file, or of all files of texts in a folder in the order of their names.

    Attributes:
        source: The path as it was given.
        sha256: Of the file's bytes, or of the digests of all files.
        has_documents: Whether several texts may belong to one document.
        unit: What a text's `line` counts.
        n_texts: Texts that a row of the training data has: one.
    """

    n_texts = 1

    def __init__(
        self, path: str | os.PathLike[str], reading: Reading | None = None, document_column: str | None = None
    ) -> None:
        """Find the files, their formats and their columns.

        Args:
            path: A file (.txt, .csv, .tsv, .jsonl, .parquet) or a folder of such files.
            reading: Columns, encoding, delimiter and kind; the texts of several columns are texts of their own.
            document_column: The column whose value is the same for all rows of a document.

        Raises:
            DataError: A file cannot be read, its format is not known, or a column is not there.
        """
        reading = reading or Reading()
        self.source = str(path)
        paths = _files_of(Path(path))
        self._files = [_open(file, reading, document_column) for file in paths]
        digests = [file_sha256(file) for file in paths]
        self.sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
        self.has_documents = document_column is not None or any(not file.table.format.columns for file in self._files)
        units: set[Unit] = {file.table.unit for file in self._files}
        self.unit: Unit = units.pop() if len(units) == 1 else "position"
        self._ledger: Ledger | None = None

    @property
    def ledger(self) -> Ledger:
        """The account of all rows; it is known once `texts` was read to its end."""
        if self._ledger is None:
            for _ in self.texts():
                pass
        assert self._ledger is not None
        return self._ledger

    def texts(self) -> Iterator[CorpusText]:
        """Yield each text; empty ones are left out and counted, and in a file of lines they end a document.

        Raises:
            DataError: A value is not a text, a file cannot be read further, or there is no text at all.
        """
        faults, n_before, n_rows, n_kept, document = RowFaults(self.unit), 0, 0, 0, -1
        for file in self._files:
            line, key, begins = 0, object(), True
            wanted = file.columns if file.document_column is None else (*file.columns, file.document_column)
            for row in file.table.rows(wanted):
                line = row.line
                if file.table.format.columns:
                    key_before, key = key, object() if file.document_column is None else row.values[-1]
                    begins = begins or key != key_before
                for place, _ in enumerate(file.columns):
                    n_rows += 1
                    text = _text_of(row.values[place], file, place, line)
                    if text is None:
                        faults.add(_EMPTY, n_before + line, "")
                        begins = begins or not file.table.format.columns
                        continue
                    document += begins
                    begins = False
                    n_kept += 1
                    yield CorpusText(text, n_before + line, document)
            n_before += line
        if not n_kept:
            raise DataError(f"{quoted(self.source, limit=400)} holds no text; expected at least one")
        self._ledger = self._account(faults, n_rows, n_kept)

    def _account(self, faults: RowFaults, n_rows: int, n_kept: int) -> Ledger:
        formats = list(dict.fromkeys(file.table.format.describe() for file in self._files))
        described = "; ".join(formats) if len(self._files) == 1 else f"{len(self._files)} files: {'; '.join(formats)}"
        findings: tuple[Finding, ...] = ()
        if n_empty := faults.counts[_EMPTY]:
            first = tuple(line for line, _ in faults.first((_EMPTY,)))
            sentence = f"{counted(n_empty, 'row')} without a text left out: {faults.places(_EMPTY)}"
            findings = (Finding(_EMPTY, n_empty, True, first, sentence),)
        first_file = self._files[0]
        columns = tuple(
            first_file.table.format.columns[i] for i in first_file.columns if first_file.table.format.columns
        )
        return Ledger(self.source, described, self.sha256, n_rows, n_kept, findings, (), columns)


def _files_of(path: Path) -> list[Path]:
    """Return the file, or all files of texts in the folder in the order of their names."""
    if not path.is_dir():
        return [path]
    try:
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in KIND_OF_SUFFIX and file.is_file())
    except OSError as error:
        raise fault(path, f"cannot be read: {error.strerror or error}") from error
    if not found:
        raise fault(path, f"is a folder without files of texts; expected {', '.join(KIND_OF_SUFFIX)}")
    return found


def _open(path: Path, reading: Reading, document_column: str | None) -> _File:
    table = open_table(path, encoding=reading.encoding, delimiter=reading.delimiter, kind=reading.kind)
    names = table.format.columns
    if not names:
        for name in (*(reading.text_columns or ()), *([document_column] if document_column else [])):
            table.column_index(name)  # raises: there are no columns
        return _File(table, (0,), None)
    document = None if document_column is None else table.column_index(document_column)
    if reading.text_columns is not None:
        return _File(table, tuple(map(table.column_index, reading.text_columns)), document)
    if len(names) == 1 and table.format.delimiter is None:
        return _File(table, (0,), document)
    columns, _ = usual_texts(names, (1, 2, 3))
    if columns is None:
        expected = "expected columns of texts with usual names such as text or sentence"
        raise fault(path, f"{expected}, found {_named(names)}", hint="name them with data.text_columns or --columns")
    return _File(table, columns, document)


def _named(names: Sequence[str]) -> str:
    return listed(names, N_SHOWN_COLUMNS)


def _text_of(value: Any, file: _File, place: int, line: int) -> str | None:
    """Return a cell's text; None for an empty one. Another value is a `DataError`."""
    if isinstance(value, str):
        return None if is_blank(value) else value
    if value is None or not isinstance(value, bool | int | float | list | dict):  # null, or no such key
        return None
    column = quoted(file.table.format.columns[file.columns[place]])
    where = f"{shown(file.table.path)}, {file.table.unit} {line}"
    found = f"expected a text, found {type(value).__name__} {quoted(value, limit=40)}"
    raise DataError(f"{where}: column {column}: {found}", "write texts there (in quotes) or name another column")
