# ruff: noqa: D102 (the base class says what a method does)
"""The formats of files with texts: classes that find out, read, count and write their rows.

A new format is a class here and an entry of `config.file_kinds`. Everything else goes through `FORMATS`: a `Table`
reads by it, `write_table_with_columns` writes by it, and messages take their words from it. Texts must be written
exactly as they were read, or a score would be beside a text that was not scored. So what a format cannot hold (a tab in
a tab file, a key without a column) is refused instead of dropped, and JSON lines are copied, with the values added at
their end.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import numpy as np

from sbert_ft.config.file_kinds import FILE_KINDS, KIND_OF_SUFFIX, WRITTEN_SUFFIXES, Kind
from sbert_ft.data import formats
from sbert_ft.data.formats import Missing, NewColumn, OnBadRecord, Row, TableFile, TableFormat, Values
from sbert_ft.data.ledger import Unit
from sbert_ft.data.text import fault, has_lone_return, lone_return, text_lines, without_line_end
from sbert_ft.errors import DataError, OutputError, listed, quoted, shown

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger(__name__)
_SEPARATOR_LINE = re.compile('"?sep=([^"\r\n])"?', re.IGNORECASE)


class FileFormat(ABC):
    """One format.

    Attributes:
        kind: Its name.
        unit: What the `line` of a row counts.
        bad_record: The kind of row, for the ledger, that is not one of this format.
        names_columns: How the columns are known, for messages.
    """

    kind: Kind
    unit: Unit = "line"
    bad_record: str = "ragged"
    names_columns: str = "the first line, taken as the header, names"

    @abstractmethod
    def find(self, path: Path, encoding: str, delimiter: str | None, is_named: bool) -> TableFormat:
        """Return the file's format, found from its beginning, or raise a `DataError` if it does not have this one.

        The first bytes are not those of another format. `delimiter` is None where it is to be found; `is_named` says
        that the user named the format, instead of the suffix.
        """

    @abstractmethod
    def rows(self, table: TableFile, columns: Sequence[int] | None, on_bad: OnBadRecord | None) -> Iterator[Row]:
        """Yield each row with the values of `columns`, or of all; see `Table.rows`."""

    @abstractmethod
    def count(self, table: TableFile) -> int:
        """Return the number of rows without checking them."""

    def write(self, table: TableFile, target: Path, columns: Sequence[NewColumn], values: Iterator[Values]) -> None:
        """Write a file of this format; see `write_table_with_columns`."""
        names = [column.name for column in columns]
        encoding = table.format.encoding if table.format.kind == self.kind else "utf-8"
        try:
            with open(target, "w", encoding=encoding, newline="") as file:
                file.writelines(self.lines(table, names, values))
        except UnicodeEncodeError:
            problem = f"{', '.join(map(quoted, names))} cannot be written in {encoding}"
            raise OutputError(problem, where=shown(target)) from None

    def lines(self, table: TableFile, names: Sequence[str], values: Iterator[Values]) -> Iterator[str]:
        """Yield the lines of a file of this format, with the table's rows and new columns of these names."""
        raise AssertionError(f"a table is not written to lines of {self.kind}")

    def whole_rows(self, table: TableFile) -> Iterator[Row]:
        """Yield the table's rows to be written in another format; a value in none of the columns is a `DataError`."""
        return self.rows(table, None, None)

    def arrow_schema(self, table: TableFile) -> pyarrow.Schema:
        """Return the types of the table's columns in Parquet: strings, where the format says no other."""
        import pyarrow

        return pyarrow.schema([(column, pyarrow.string()) for column in table.column_names])

    def arrow_batches(self, table: TableFile, schema: pyarrow.Schema) -> Iterator[pyarrow.RecordBatch]:
        """Yield the table's rows as batches for Parquet."""
        rows = self.whole_rows(table)
        while chunk := list(islice(rows, formats.PARQUET_BATCH_ROWS)):
            yield _arrow_batch(table, chunk, schema)


class Lines(FileFormat):
    """One text per line, without columns."""

    kind = "lines"

    def find(self, path: Path, encoding: str, delimiter: str | None, is_named: bool) -> TableFormat:
        next(text_lines(path, encoding), None)  # to find a wrong encoding early, where it shows in the first line
        return TableFormat("lines", encoding, None, None, ())

    def rows(self, table: TableFile, columns: Sequence[int] | None, on_bad: OnBadRecord | None) -> Iterator[Row]:
        for number, line in text_lines(table.path, table.format.encoding):
            if has_lone_return(line):  # two texts, perhaps
                raise lone_return(table.path, number)
            yield Row(number, (without_line_end(line),))

    def count(self, table: TableFile) -> int:
        return sum(1 for _ in text_lines(table.path, table.format.encoding))


class Cells(FileFormat):
    """Cells separated by a character and in quotes where needed (csv), or separated by tabs (tsv).

    Quotes in a .tsv are ordinary characters, unless a CSV writer must have written them.
    """

    def __init__(self, kind: Literal["csv", "tsv"]) -> None:
        self.kind = kind

    def find(self, path: Path, encoding: str, delimiter: str | None, is_named: bool) -> TableFormat:
        has_tabs = self.kind == "tsv"
        separator = "\t" if has_tabs else _delimiter_of(path, encoding, delimiter or _stated_delimiter(path, encoding))
        quoting = not has_tabs or (not is_named and _written_as_csv(path, encoding))
        header = next(formats.cell_records(path, _cell_lines(path, encoding), separator, quoting), None)
        if header is None:
            raise fault(path, "holds only empty lines; expected a header and rows")
        if re.search("\r(?!\n)", without_line_end(header.raw)):
            raise lone_return(path, header.line)
        return TableFormat(self.kind, encoding, separator, quoting, tuple(header.cells))

    def rows(self, table: TableFile, columns: Sequence[int] | None, on_bad: OnBadRecord | None) -> Iterator[Row]:
        records = self._records(table)
        header = next(records, None)
        if header is None or tuple(header.cells) != table.format.columns:
            raise fault(table.path, "the header has changed: the file was changed while it was read")
        may_be_two = len(header.cells) == 1  # else a line end that is not one gives too many cells
        for line, raw, cells in records:
            if may_be_two and has_lone_return(raw) and not (table.format.quoting and '"' in raw):
                raise lone_return(table.path, line)
            if len(cells) == len(header.cells):
                yield Row(line, tuple(cells) if columns is None else tuple(cells[i] for i in columns))
                continue
            if table.format.quoting:
                remedy = "quote a cell that holds the delimiter or a line end, or give the right --delimiter"
            else:
                remedy = "remove tabs and line ends from the cells; if they are quoted, save the file as .csv"
            expected = f"expected {len(header.cells)} cells as in the header, found {len(cells)}"
            if on_bad is None:
                raise fault(table.path, expected, line, hint=remedy)
            on_bad(line, expected, remedy)

    def count(self, table: TableFile) -> int:
        if table.format.quoting:
            return sum(1 for _ in self._records(table)) - 1
        lines = (line for _, line in _cell_lines(table.path, table.format.encoding))
        return sum(1 for line in lines if line not in ("\n", "\r\n")) - 1

    def lines(self, table: TableFile, names: Sequence[str], values: Iterator[Values]) -> Iterator[str]:
        is_own, has_tabs = table.format.kind == self.kind, self.kind == "tsv"
        delimiter = "\t" if has_tabs else (table.format.delimiter if is_own else None) or ","
        # In a .tsv all cells are quoted or none: quotes around the header tell a reader that the cells are quoted.
        is_plain = has_tabs and not (is_own and table.format.quoting)
        for line, cells in _cell_rows(table, names, values):
            if is_plain and any("\t" in cell or "\n" in cell for cell in cells):
                raise fault(table.path, "a tab or line end in a cell cannot be in a .tsv", line, hint="write to .csv")
            yield ("\t".join(cells) if is_plain else formats.joined_cells(cells, delimiter, always=has_tabs)) + "\n"

    def _records(self, table: TableFile) -> Iterator[formats.CellRecord]:
        assert table.format.delimiter is not None
        lines = _cell_lines(table.path, table.format.encoding)
        return formats.cell_records(table.path, lines, table.format.delimiter, bool(table.format.quoting))


class JsonLines(FileFormat):
    """One JSON object per line; the keys of the first are the columns, as `formats.leaves` names them."""

    kind: Kind = "jsonl"
    bad_record = "not_json"
    names_columns = "the first object has"

    def find(self, path: Path, encoding: str, delimiter: str | None, is_named: bool) -> TableFormat:
        is_array = self.kind == "json" or formats.holds_array(path, encoding)
        first = next((formats.array_records if is_array else formats.json_records)(path, encoding), None)
        if first is None:
            expected = "an empty array" if is_array else "only blank lines; expected one JSON object a line"
            raise fault(path, f"holds {expected}")
        names = tuple(name for name, _ in formats.leaves(first.values))
        if (twice := next((name for name, n in Counter(names).items() if n > 1), None)) is not None:
            raise fault(path, f"the key {quoted(twice)} stands in the first object in two ways", first.line)
        return TableFormat("json" if is_array else "jsonl", encoding, None, None, names)

    def records(self, table: TableFile, on_bad: OnBadRecord | None = None) -> Iterator[formats.JsonRecord]:
        """Yield the file's objects; see `formats.json_records`."""
        return formats.json_records(table.path, table.format.encoding, on_bad)

    def rows(self, table: TableFile, columns: Sequence[int] | None, on_bad: OnBadRecord | None) -> Iterator[Row]:
        names = [table.format.columns[i] for i in columns] if columns is not None else table.format.columns
        for record in self.records(table, on_bad):
            yield Row(record.line, tuple(formats.value_at(record.values, name) for name in names))

    def whole_rows(self, table: TableFile) -> Iterator[Row]:
        for record in self.records(table):
            values = dict(formats.leaves(record.values))
            extra = next((key for key in values if key not in table.format.columns), None)
            if extra is not None:
                problem = f"the key {quoted(extra)} is not in the first object, so there is no column for it"
                raise fault(table.path, problem, record.line, hint="write to .jsonl")
            yield Row(record.line, tuple(values.get(key, Missing.MISSING) for key in table.format.columns))

    def count(self, table: TableFile) -> int:
        return sum(1 for _, line in text_lines(table.path, table.format.encoding) if line.strip(" \t\r\n"))

    def lines(self, table: TableFile, names: Sequence[str], values: Iterator[Values]) -> Iterator[str]:
        """Yield one JSON object per line; those read from JSON are copied exactly."""
        keys = [json.dumps(name, ensure_ascii=False) for name in names]
        own = FORMATS[table.format.kind]
        if isinstance(own, JsonLines):
            rows = own.records(table)
        else:
            rows = (_as_record(table, row) for row in own.rows(table, None, None))
        for row, cells in _with_values(table, values, rows, in_json=True):
            if (taken := next((name for name in names if name in row.values), None)) is not None:
                raise fault(table.path, f"has a key {quoted(taken)} already", row.line, hint="rename one of the two")
            added = ", ".join(f"{key}: {cell}" for key, cell in zip(keys, cells, strict=True))
            yield f"{row.raw[:-1].rstrip()}{', ' if row.values else ''}{added}}}\n"

    def arrow_schema(self, table: TableFile) -> pyarrow.Schema:
        """Return the types of the values in the first rows."""
        return _arrow_batch(table, list(islice(self.whole_rows(table), formats.PARQUET_BATCH_ROWS)), None).schema


class JsonArray(JsonLines):
    """An array of JSON objects, alone or as "data" of an object; `JsonLines` finds it."""

    kind = "json"

    def records(self, table: TableFile, on_bad: OnBadRecord | None = None) -> Iterator[formats.JsonRecord]:
        return formats.array_records(table.path, table.format.encoding, on_bad)

    def count(self, table: TableFile) -> int:
        return sum(1 for _ in self.records(table, lambda *_: None))

    def lines(self, table: TableFile, names: Sequence[str], values: Iterator[Values]) -> Iterator[str]:
        """Yield an array with an object a line."""
        begin = "[\n"
        for line in super().lines(table, names, values):
            yield begin + line.removesuffix("\n")
            begin = ",\n"
        yield "[]\n" if begin == "[\n" else "\n]\n"


class Workbook(FileFormat):
    """The first sheet of an Excel workbook, which is read and not written."""

    kind = "xlsx"
    unit = "row"
    names_columns = "its first row names"

    def find(self, path: Path, encoding: str, delimiter: str | None, is_named: bool) -> TableFormat:
        first, *others = formats.sheet_names(path)
        if others:
            names = listed(others, formats.N_SHOWN_COLUMNS)
            logger.warning("%s: reads the first sheet, %s; not read: %s", shown(path), quoted(first), names)
        _, header = next(formats.sheet_rows(path), (0, list[object]()))
        return TableFormat("xlsx", "utf-8", None, None, tuple("" if name is None else str(name) for name in header))

    def rows(self, table: TableFile, columns: Sequence[int] | None, on_bad: OnBadRecord | None) -> Iterator[Row]:
        n = len(table.format.columns)
        chosen = range(n) if columns is None else columns
        for number, values in islice(formats.sheet_rows(table.path), 1, None):
            if len(values) > n:
                expected, remedy = f"expected {n} cells as in the first row, found {len(values)}", "name every column"
                if on_bad is None:
                    raise fault(table.path, expected, number, "row", hint=remedy)
                on_bad(number, expected, remedy)
                continue
            values += [None] * (n - len(values))
            yield Row(number, tuple(values[i] for i in chosen))

    def count(self, table: TableFile) -> int:
        return sum(1 for _ in formats.sheet_rows(table.path)) - 1


class Parquet(FileFormat):
    """Columns of typed values, read in batches."""

    kind = "parquet"
    unit = "row"
    names_columns = "it has"

    def find(self, path: Path, encoding: str, delimiter: str | None, is_named: bool) -> TableFormat:
        with formats.open_parquet(path) as file:
            names = tuple(map(str, formats.flat_table((), file.schema_arrow).column_names))
        return TableFormat("parquet", "utf-8", None, None, names)

    def rows(self, table: TableFile, columns: Sequence[int] | None, on_bad: OnBadRecord | None) -> Iterator[Row]:
        chosen = range(len(table.format.columns)) if columns is None else columns
        for first_row, batch in formats.parquet_batches(table.path):
            flat = formats.flat_table([batch], batch.schema)
            values = [formats.parquet_values(table.path, flat, column, first_row) for column in chosen]
            for i in range(batch.num_rows):
                yield Row(first_row + i, tuple(column[i] for column in values))

    def count(self, table: TableFile) -> int:
        with formats.open_parquet(table.path) as file:
            return int(file.metadata.num_rows)

    def arrow_schema(self, table: TableFile) -> pyarrow.Schema:
        with formats.open_parquet(table.path) as file:
            return file.schema_arrow

    def arrow_batches(self, table: TableFile, schema: pyarrow.Schema) -> Iterator[pyarrow.RecordBatch]:
        return (batch for _, batch in formats.parquet_batches(table.path))

    def write(self, table: TableFile, target: Path, columns: Sequence[NewColumn], values: Iterator[Values]) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise OutputError("writing Parquet needs pyarrow: pip install 'sbert-ft[parquet]'") from None
        own = FORMATS[table.format.kind]
        types = own.arrow_schema(table)
        added = [pyarrow.field(column.name, formats.arrow_type(column)) for column in columns]
        schema = pyarrow.schema([*types, *added], types.metadata)
        n_rows = 0
        try:
            with pyarrow.parquet.ParquetWriter(target, schema) as writer:
                for batch in own.arrow_batches(table, types):
                    rows = list(islice(values, batch.num_rows))
                    n_rows += len(rows)
                    if len(rows) != batch.num_rows:
                        raise _other_number(table, n_rows)
                    arrays = [pyarrow.array([row[i] for row in rows], field.type) for i, field in enumerate(added)]
                    writer.write_batch(pyarrow.RecordBatch.from_arrays([*batch.columns, *arrays], schema=schema))
        except pyarrow.ArrowException as error:
            raise OutputError(f"cannot be written: {quoted(error, limit=200)}", where=shown(target)) from error
        if next(values, None) is not None:
            raise _other_number(table, n_rows)


_Row = TypeVar("_Row")
_LARGEST = float(np.finfo(np.float32).max)
_PROOF_CHARS = 1 << 20  # how much of a tab file is searched for proof that its cells are quoted
FORMATS: Final[Mapping[Kind, FileFormat]] = MappingProxyType(
    {made.kind: made for made in (Lines(), Cells("csv"), Cells("tsv"), JsonLines(), JsonArray(), Parquet(), Workbook())}
)


def _delimiter_of(path: Path, encoding: str, wanted: str | None) -> str:
    """Return the wanted delimiter, or the most frequent one in the first line outside quotes (comma if none)."""
    if wanted is not None:
        return formats.DELIMITER_NAMES.get(wanted, wanted)
    lines = (line for _, line in _cell_lines(path, encoding) if without_line_end(line))
    outside_quotes = "".join(next(lines, "").split('"')[::2])
    counts = Counter(character for character in outside_quotes if character in ",;\t|").most_common(2)
    if len(counts) == 2 and counts[0][1] == counts[1][1]:
        both = " and ".join(formats.delimiter_name(character) for character, _ in counts)
        problem = f"the first line has as many of {both}"
        raise fault(path, problem, hint="say which one separates cells with --delimiter")
    return counts[0][0] if counts else ","


def _stated_delimiter(path: Path, encoding: str) -> str | None:
    """Return the delimiter that the first line states as Excel writes it (sep=;), or None."""
    found = _SEPARATOR_LINE.fullmatch(without_line_end(next(text_lines(path, encoding), (1, ""))[1]))
    return None if found is None else found[1]


def _cell_lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """Return the lines of a file of cells without a first one that states the delimiter."""
    lines = text_lines(path, encoding)
    first = next(lines, None)
    if first is None or _SEPARATOR_LINE.fullmatch(without_line_end(first[1])) is not None:
        return lines
    return chain((first,), lines)


def _written_as_csv(path: Path, encoding: str) -> bool:
    """Return whether only a writer of quoted cells can have written this tab file (see `table.open_table`)."""
    useful, n_chars, n_columns = False, 0, 0
    try:
        for record in formats.cell_records(path, _cell_lines(path, encoding), "\t"):
            raw = without_line_end(record.raw)
            if n_columns == 0 and raw == formats.joined_cells(record.cells, "\t", always=True):
                return True
            n_columns = n_columns or len(record.cells)
            minimal = formats.joined_cells(record.cells, "\t")
            if len(record.cells) != n_columns or raw != minimal:
                return False
            useful = useful or '"' in raw
            n_chars += len(raw)
            if n_chars > _PROOF_CHARS:
                break
    except DataError:  # an open quote, or text after a closed one: these quotes do not quote cells
        return False
    return useful


def write_table_with_columns(
    table: TableFile, target: Path, columns: Sequence[NewColumn], values: Iterator[Values], *, kind: Kind | None = None
) -> None:
    """Write the table's rows in order with more columns, one row at a time; `values` yields the new values of each row.

    The format is `kind`, else that of the target's suffix, else the table's own. Texts are written unchanged, even
    cells that look like formulas or numbers. JSON objects keep their spelling and every key; numbers from JSON and
    Parquet are written in cells in Python's spelling, lists in JSON's, null as an empty cell. A file of the table's
    own format keeps its delimiter, quoting and encoding, another is in UTF-8; lines end with a line feed. Lines
    without columns become the column "text". The caller passes a temporary file and moves it when it is complete.

    Raises:
        DataError: A new column's name exists already, a row cannot be read or cannot be written in this format, or
            the numbers of rows and values differ.
        OutputError: The target cannot be written, or a value is not a finite float32.
    """
    target_kind = _target_kind(table, target, kind)
    names = [column.name for column in columns]
    taken = next((name for i, name in enumerate(names) if name in (*table.column_names, *names[:i])), None)
    if taken is not None:
        raise fault(table.path, f"has a column {quoted(taken)} already", hint="give the new one another name")
    if os.path.exists(target) and os.path.samefile(table.path, target):
        raise OutputError(f"{shown(target)}: is the file that is read", "write to another file")
    try:
        FORMATS[target_kind].write(table, target, columns, _finite(values))
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", where=shown(target)) from error


def _target_kind(table: TableFile, target: Path, kind: Kind | None) -> Kind:
    """Return the format to write; a table of cells that is written to a .txt keeps its own format."""
    found = kind or KIND_OF_SUFFIX.get(target.suffix.lower(), table.format.kind)
    if not FILE_KINDS[found].is_written:
        problem = f"a file of kind {found} is only read"
        raise OutputError(f"{shown(target)}: {problem}", f"write to {', '.join(WRITTEN_SUFFIXES[1:])}")
    if found == "lines" and table.format.kind in ("csv", "tsv"):
        return table.format.kind
    if found == "lines":
        problem = "a file of one text per line has no place for a column"
        raise OutputError(f"{shown(target)}: {problem}", "write to .csv, .tsv, .jsonl or .parquet")
    return found


def _finite(values: Iterator[Values]) -> Iterator[Values]:
    for i, of_row in enumerate(values, start=1):
        for value in of_row:
            if not isinstance(value, str) and not math.fabs(value) <= _LARGEST:  # holds for NaN, too
                raise OutputError(f"value {i:,} of the new column is {value}; expected a finite float32")
        yield of_row


def _with_values(
    table: TableFile, values: Iterator[Values], rows: Iterable[_Row], in_json: bool
) -> Iterator[tuple[_Row, list[str]]]:
    """Yield each row with its values as text: shortest decimals, true and false, and texts (in quotes for JSON)."""
    n_rows = 0
    for row in rows:
        of_row = next(values, None)
        if of_row is None:
            raise _other_number(table, n_rows)
        n_rows += 1
        yield row, [_spelled(value, in_json) for value in of_row]
    if next(values, None) is not None:
        raise _other_number(table, n_rows)


def _spelled(value: float | bool | str, in_json: bool) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if in_json else value
    return str(value).lower() if isinstance(value, bool) else str(np.float32(value))


def _other_number(table: TableFile, n_rows: int) -> DataError:
    return fault(table.path, f"values and rows differ in number after {n_rows:,}: did the file change meanwhile?")


def _cell_rows(table: TableFile, names: Sequence[str], values: Iterator[Values]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of the header and of each row, including the new columns."""
    yield 1, [*table.column_names, *names]
    for row, cells in _with_values(table, values, FORMATS[table.format.kind].whole_rows(table), in_json=False):
        yield row.line, [*_cells(table, row), *cells]


def _cells(table: TableFile, row: Row) -> list[str]:
    """Return the row's values as cells of a text file."""
    cells = []
    for value in row.values:
        if value is None or value is Missing.MISSING:
            cell = ""
        elif isinstance(value, str):
            cell = value
        elif isinstance(value, (bool, dict, list)):
            cell = json.dumps(value, ensure_ascii=False, default=str)
        elif isinstance(value, bytes):
            raise fault(table.path, "holds bytes, which are not text", row.line, "row", hint="write to .parquet")
        else:
            cell = str(value)
        if "\0" in cell:
            raise fault(table.path, "holds a NUL character", row.line, "row", hint="write to .jsonl or .parquet")
        cells.append(cell)
    return cells


def _as_record(table: TableFile, row: Row) -> formats.JsonRecord:
    """Return a row of another format as a line of JSON."""
    values = dict(zip(table.column_names, row.values, strict=True))
    try:
        text = json.dumps(values, ensure_ascii=False, allow_nan=False, default=_as_text)
    except (TypeError, ValueError) as error:
        problem = f"cannot be written as JSON: {quoted(error)}"
        raise fault(table.path, problem, row.line, "row", hint="write to .parquet") from None
    return formats.JsonRecord(row.line, text, values)


def _as_text(value: object) -> str:
    """Return the text of a value that JSON has no type for, such as a date."""
    if isinstance(value, bytes):
        raise TypeError("bytes are not text")
    return str(value)


def _arrow_batch(table: TableFile, rows: list[Row], schema: pyarrow.Schema | None) -> pyarrow.RecordBatch:
    import pyarrow

    arrays = []
    for i, column in enumerate(table.column_names):
        values = [None if row.values[i] is Missing.MISSING else row.values[i] for row in rows]
        try:
            arrays.append(pyarrow.array(values, None if schema is None else schema.types[i]))
        except (pyarrow.ArrowException, OverflowError, TypeError, ValueError) as error:
            problem = f"column {quoted(column)} holds values of several types ({quoted(error, limit=200)})"
            raise fault(table.path, problem, rows[0].line, "at or after line", hint="write to .jsonl") from None
    return pyarrow.RecordBatch.from_arrays(arrays, names=list(table.column_names))
