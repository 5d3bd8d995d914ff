"""Raw texts for pre-training: one file or a folder of them, read as a stream of texts in documents.

Nothing is kept here, so files of any size take the memory of one text. In a file of one text per line, an empty line
ends a document, as in the input of BERT's own pre-training. In a table, rows of one document stand together and have
the same value in the document column; without that column each row is a document of its own.
"""

from __future__ import annotations

import copy
import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from sbert_ft.config.file_kinds import KIND_OF_SUFFIX
from sbert_ft.config.settings import Reading
from sbert_ft.data.columns import usual_texts
from sbert_ft.data.formats import N_SHOWN_COLUMNS
from sbert_ft.data.ledger import Finding, Ledger, RowFaults, Unit, counted, file_sha256
from sbert_ft.data.table import Table, open_table
from sbert_ft.data.text import fault, is_blank
from sbert_ft.errors import DataError, InputError, listed, quoted, shown

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

    A .txt with tabs whose first line names columns is a tab file.

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
        self._texts: Sequence[str] = ()
        self._keeps: Callable[[str, int], bool] | None = None

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> TextCorpus:
        """Return the corpus of texts in memory; an empty one ends a document, as in a file of lines.

        Raises:
            InputError: Something is not a text that UTF-8 can encode.
        """
        corpus = cls.__new__(cls)
        corpus._texts = [text if isinstance(text, str) else _refuse(text, place) for place, text in enumerate(texts)]
        corpus.source, corpus.has_documents, corpus.unit = "<texts>", True, "position"
        digest = hashlib.sha256()
        for place, text in enumerate(corpus._texts):
            try:
                digest.update(text.encode() + b"\n")
            except UnicodeEncodeError:
                _refuse(text, place)
        corpus.sha256 = digest.hexdigest()
        corpus._files, corpus._ledger, corpus._keeps = [], None, None
        return corpus

    def split(self, share: float, seed: int, by_document: bool = False) -> tuple[TextCorpus, TextCorpus]:
        """Return two parts of the corpus, the second with about this share of the texts, or of the documents.

        Which part a text is in follows from its characters and the seed, so texts that are equal are never in both.
        With `by_document` it follows from the number of the document, so documents are whole.
        """

        def in_second(text: str, document: int) -> bool:
            what = str(document) if by_document else text
            return zlib.crc32(f"{seed} {what}".encode()) < share * 2**32

        first, second = copy.copy(self), copy.copy(self)
        first._keeps, second._keeps = (lambda *what: not in_second(*what)), in_second
        first._ledger = second._ledger = None
        return first, second

    def __len__(self) -> int:
        return self.ledger.n_kept

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
        faults, n_rows, n_kept, n_others = RowFaults(self.unit), 0, 0, 0
        for text, line, document in self._rows():
            n_rows += 1
            if text is None:
                faults.add(_EMPTY, line, "")
            elif self._keeps is not None and not self._keeps(text, document):
                n_others += 1
            else:
                n_kept += 1
                yield CorpusText(text, line, document)
        if not n_kept and n_others:
            problem = f"{quoted(self.source, limit=400)}: all {counted(n_others, 'text')} are in the other part"
            raise DataError(problem, "raise data.dev_share, or name a file for data.dev")
        if not n_kept:
            raise DataError(f"{quoted(self.source, limit=400)} holds no text; expected at least one")
        self._ledger = self._account(faults, n_rows, n_kept, n_others)

    def _rows(self) -> Iterator[tuple[str | None, int, int]]:
        """Yield text (None for an empty one), line and document of each cell with a text."""
        document, begins = -1, True
        for place, text in enumerate(self._texts):
            is_empty = is_blank(text)
            document += begins and not is_empty
            yield None if is_empty else text, place, document
            begins = is_empty
        n_before = 0
        for file in self._files:
            line, key, begins = 0, object(), True
            wanted = file.columns if file.document_column is None else (*file.columns, file.document_column)
            for row in file.table.rows(wanted):
                line = row.line
                if file.table.format.columns:
                    key_before, key = key, object() if file.document_column is None else row.values[-1]
                    begins = begins or key != key_before
                for place in range(len(file.columns)):
                    value = _text_of(row.values[place], file, place, line)
                    document += begins and value is not None
                    yield value, n_before + line, document
                    begins = value is None and (begins or not file.table.format.columns)
            n_before += line

    def _account(self, faults: RowFaults, n_rows: int, n_kept: int, n_others: int) -> Ledger:
        formats = list(dict.fromkeys(file.table.format.describe() for file in self._files))
        described = "; ".join(formats) or "texts in memory"
        if len(self._files) > 1:
            described = f"{len(self._files)} files: {described}"
        findings: tuple[Finding, ...] = ()
        if n_empty := faults.counts[_EMPTY]:
            first = tuple(line for line, _ in faults.first((_EMPTY,)))
            sentence = f"{counted(n_empty, 'row')} without a text left out: {faults.places(_EMPTY)}"
            findings = (Finding(_EMPTY, n_empty, True, first, sentence),)
        if n_others:
            sentence = f"{counted(n_others, 'text')} in the other part of the split"
            findings = (*findings, Finding("left_out", n_others, True, (), sentence))
        names = self._files[0].table.format.columns if self._files else ()
        columns = tuple(names[i] for i in self._files[0].columns) if names else ()
        return Ledger(self.source, described, self.sha256, n_rows, n_kept, findings, (), columns)


def _files_of(path: Path) -> list[Path]:
    """Return the file, or all files of texts in the folder in the order of their names."""
    try:
        if not path.is_dir():
            return [path]
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in KIND_OF_SUFFIX and file.is_file())
    except OSError as error:
        raise fault(path, f"cannot be read: {error.strerror or error}") from error
    if not found:
        raise fault(path, f"is a folder without files of texts; expected {', '.join(KIND_OF_SUFFIX)}")
    return found


def _open(path: Path, reading: Reading, document_column: str | None) -> _File:
    table = open_table(path, encoding=reading.encoding, delimiter=reading.delimiter, kind=reading.kind)
    if not table.format.columns and any("\t" in str(value) for row in islice(table, 1) for value in row.values):
        tabbed = open_table(path, encoding=table.format.encoding, delimiter="tab")
        has_header = reading.text_columns or usual_texts(tabbed.format.columns, (1, 2, 3))[0]
        table = tabbed if has_header else table  # a text may hold a tab too
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


def _refuse(text: object, place: int) -> NoReturn:
    found = f"{quoted(text, limit=40)} ({type(text).__name__})"
    raise InputError(f"text at position {place} is {found}, expected a string that UTF-8 can encode", "remove it")
