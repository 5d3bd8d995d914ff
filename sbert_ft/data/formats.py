"""Read the records of each format one by one: plain cells, quoted cells, JSON objects, batches of Parquet.

General readers lose rows silently: at a stray quote, a CSV reader reads all rows up to the next quote as one cell; a
JSON reader keeps the last of two equal keys. Here every record is complete and has the line it begins in, or a
`DataError` names that line. Quoted cells are read by our own loop because the standard reader's limit on the length
of a cell is one number for the whole process, and its errors do not say where a quote was opened.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from sbert_ft.config.file_kinds import FILE_KINDS, Kind
from sbert_ft.data.text import MAX_RECORD_CHARS, fault, text_lines, without_line_end
from sbert_ft.errors import joined, quoted
from sbert_ft.files.strict_json import strict_prefix, strict_value

if TYPE_CHECKING:
    import openpyxl
    import pyarrow
    import pyarrow.parquet

PARQUET_BATCH_ROWS = 16_384
_JOINED_LINES = 4096
_MAX_RECORD_LINES = 1 << 21  # more than any text has; searching further for a closing quote takes minutes
_LARGEST_WORKBOOK = 1 << 30  # bytes of its parts when unpacked, all texts of which are kept in memory
_SPACE = re.compile(r"[ \t\r\n]*")
# The beginning of a file that holds an array of objects, alone or as "data" after simple values.
_ARRAY = re.compile(
    r"""\s*(\{\s*("[^"\\]*"\s*:\s*("[^"\\]*"|[\w.+-]+)\s*,\s*)*"data"\s*:\s*)?(\[)""", re.ASCII | re.VERBOSE
)
_HEAD_CHARS = 4096
# Called with the line of a bad record, what is wrong with it, and what to do.
OnBadRecord = Callable[[int, str, str], None]
DELIMITER_NAMES: Final = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|"}
N_SHOWN_COLUMNS = 20


class Missing(Enum):
    """The value of a key that a JSON object does not have."""

    MISSING = "no such key"


@dataclass(frozen=True)
class TableFormat:
    """The format of a file of texts.

    Attributes:
        kind: The format; "lines" is one text per line.
        encoding: The codec, as given or found ("utf-8", "utf-8-sig", "utf-16").
        delimiter: The character between cells; None for formats without cells.
        quoting: True where cells are quoted as in CSV, False where quotes are ordinary characters, None without cells.
        columns: Names in the order of the file; empty for lines, the first object's keys for JSON lines.
    """

    kind: Kind
    encoding: str
    delimiter: str | None
    quoting: bool | None
    columns: tuple[str, ...]

    def describe(self) -> str:
        """Return one line for the user, such as "csv, comma, quoted, utf-8, columns a, b"."""
        parts: list[str] = [self.kind]
        if self.delimiter is not None:
            parts.append(delimiter_name(self.delimiter))
            parts.append("quoted" if self.quoting else "unquoted")
        if FILE_KINDS[self.kind].takes_encoding:
            parts.append(self.encoding)
        if self.columns:
            parts.append("columns " + joined((quoted(name)[1:-1] for name in self.columns), N_SHOWN_COLUMNS))
        return ", ".join(parts)

    def delimiter_hint(self) -> str:
        """Return what to do where the name of the only column looks like several names, otherwise ""."""
        if not FILE_KINDS[self.kind].takes_delimiter or len(self.columns) != 1:
            return ""
        count, found = max((self.columns[0].count(character), character) for character in ",;\t|")
        if not count:
            return ""
        kind = "--kind csv (data.kind) with " if self.kind == "tsv" else ""
        name = delimiter_name(found)
        return f"; cells look separated by {name}: give {kind}--delimiter {name} (data.delimiter)"


def delimiter_name(delimiter: str) -> str:
    """Return the name of a delimiter, such as "comma"; a character without a name in quotes."""
    return next((name for name, character in DELIMITER_NAMES.items() if character == delimiter), quoted(delimiter))


@dataclass(frozen=True)
class TableFile:
    """A file whose format is known."""

    path: Path
    format: TableFormat

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns; a file without columns has one, "text"."""
        return self.format.columns or ("text",)


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its values in the order of the format's columns, and the line in which it begins, for messages.

    Attributes:
        line: The line in which the record begins, from 1; for Parquet the number of the row.
        values: Texts exactly as in the file; JSON and Parquet values keep their type, and a key that an object does
            not have is `Missing.MISSING`.
    """

    line: int
    values: tuple[object, ...]


Values = Sequence[float | bool | str]


@dataclass(frozen=True)
class NewColumn:
    """A column to add.

    Attributes:
        name: Different from the names in the table.
        type: float32, in text files as the shortest decimals that give the same float32 back; int64; bool, in text
            files as true and false; or text, unchanged.
    """

    name: str
    type: Literal["float32", "int64", "bool", "text"] = "float32"


def arrow_type(column: NewColumn) -> pyarrow.DataType:
    """Return the column's type in Parquet."""
    import pyarrow

    types = {"float32": pyarrow.float32(), "int64": pyarrow.int64(), "bool": pyarrow.bool_(), "text": pyarrow.string()}
    found: pyarrow.DataType = types[column.type]
    return found


class CellRecord(NamedTuple):
    """One record of a file of cells."""

    line: int  # where it begins, from 1
    raw: str  # as in the file, line ends included
    cells: list[str]


class JsonRecord(NamedTuple):
    """One object of a file of JSON."""

    line: int
    raw: str  # as in the file on one line, without white space around it
    values: dict[str, object]


def leaves(values: Mapping[str, object], above: str = "") -> Iterator[tuple[str, object]]:
    """Yield the values of an object by their keys; those of an object within it as "labels.label"."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{key}.")
        else:
            yield above + key, value


def value_at(values: Mapping[str, object], name: str) -> object:
    """Return the value of a key, or of one as `leaves` names it, or `Missing.MISSING`."""
    return values[name] if name in values else dict(leaves(values)).get(name, Missing.MISSING)


def cell_records(
    path: Path, lines: Iterator[tuple[int, str]], delimiter: str, quoting: bool = True
) -> Iterator[CellRecord]:
    """Yield the records of a file of cells, the header first; empty lines are left out.

    With `quoting` as in RFC 4180, a cell that begins with a quote ends with the closing one and may contain delimiters,
    line ends and doubled quotes. Every other quote is an ordinary character. A quote that is not closed, and text
    after a closed one, is a `DataError`.
    """
    for number, line in lines:
        if quoting and '"' in line:
            yield _quoted_record(path, number, line, lines, delimiter)
        elif line not in ("\n", "\r\n"):
            yield CellRecord(number, line, without_line_end(line).split(delimiter))


def _quoted_record(path: Path, number: int, line: str, lines: Iterator[tuple[int, str]], delimiter: str) -> CellRecord:
    """Return the record that begins with `line`, reading on in `lines` while a quote is open."""
    raw, cells, at, last, n_chars = [line], list[str](), 0, number, len(line)
    long_raw = list[str]()  # short lines joined, because each string costs 50 bytes more than its content
    while True:
        if not line.startswith('"', at):
            end = line.find(delimiter, at)
            if end < 0:
                cells.append(without_line_end(line[at:]))
                break
            cells.append(line[at:end])
            at = end + 1
            continue
        opened, parts, long_parts, at = last, list[str](), list[str](), at + 1
        while True:
            end = line.find('"', at)
            if end >= 0 and not line.startswith('"', end + 1):
                parts.append(line[at:end])
                break
            if end >= 0:  # a doubled quote means one quote
                parts.append(line[at : end + 1])
                at = end + 2
                continue
            parts.append(line[at:])
            last, line = next(lines, (0, ""))
            raw.append(line)
            if len(raw) >= _JOINED_LINES:
                long_raw.append("".join(raw))
                long_parts.append("".join(parts))
                raw.clear()
                parts.clear()
            n_chars += len(line)
            if not line or n_chars > MAX_RECORD_CHARS or last - number > _MAX_RECORD_LINES:
                problem = "the quote that opens a cell here is not closed"
                raise fault(path, problem, opened, hint="close it or double it")
            at = 0
        cells.append("".join([*long_parts, *parts]))
        at = end + 1
        rest = line[at : at + 20]
        if rest in ("", "\n", "\r\n"):
            break
        if not rest.startswith(delimiter):
            expected = f"after the quote that closes a cell expected {quoted(delimiter)} or the line's end"
            remedy = 'write a quote inside a quoted cell twice (""), or give --delimiter'
            raise fault(path, f"{expected}, found {quoted(without_line_end(rest))}", last, hint=remedy)
        at += 1
    return CellRecord(number, "".join([*long_raw, *raw]), cells)


def joined_cells(cells: Sequence[str], delimiter: str, always: bool = False) -> str:
    """Return a record as a line of CSV without its end: all cells in quotes, or only those that need them."""
    needing = ('"', delimiter, "\n", "\r")
    return delimiter.join(
        '"' + cell.replace('"', '""') + '"' if always or any(map(cell.__contains__, needing)) else cell
        for cell in cells
    )


def json_records(path: Path, encoding: str, on_bad: OnBadRecord | None = None) -> Iterator[JsonRecord]:
    """Yield the object of each line that is not blank.

    For a line that is not JSON, is not an object, or holds what is not allowed (NaN, infinities, two equal keys, half
    characters), `on_bad` is called with the line, what is wrong and what to do; without `on_bad` it is a `DataError`.
    """
    for number, line in text_lines(path, encoding):
        raw = line.strip(" \t\r\n")
        if not raw:
            continue
        try:
            value = _whole_object(strict_value(raw), raw)
        except (TypeError, ValueError, RecursionError) as error:
            problem, remedy = _json_fault(raw, number, error)
            if on_bad is None:
                raise fault(path, problem, number, hint=remedy) from None
            on_bad(number, problem, remedy)
        else:
            yield JsonRecord(number, raw, value)


def _whole_object(value: object, raw: str) -> dict[str, object]:
    """Return a value that is an object without half characters; otherwise a TypeError or UnicodeEncodeError."""
    if "\\u" in raw:
        json.dumps(value, ensure_ascii=False).encode()
    if not isinstance(value, dict):
        raise TypeError
    return value


def holds_array(path: Path, encoding: str) -> bool:
    """Return whether a file begins as an array of JSON, or as an object that has one as "data"."""
    head = ""
    for _, line in text_lines(path, encoding):
        head += line
        if len(head) >= _HEAD_CHARS:
            break
    return _ARRAY.match(head[:_HEAD_CHARS]) is not None


def array_records(path: Path, encoding: str, on_bad: OnBadRecord | None = None) -> Iterator[JsonRecord]:
    """Yield the objects of an array of JSON, each with the line in which it begins; bad ones as in `json_records`.

    The file is read whole, and its objects one by one; after broken JSON no further object can be found.
    """
    lines, n_chars = list[str](), 0
    for _, line in text_lines(path, encoding):
        lines.append(line)
        if (n_chars := n_chars + len(line)) > MAX_RECORD_CHARS:
            problem = f"an array of JSON longer than {MAX_RECORD_CHARS:,} characters"
            raise fault(path, problem, hint="write one object a line (.jsonl)")
    text = "".join(lines)
    if (opened := _ARRAY.match(text)) is None:
        raise fault(path, 'expected an array of JSON objects, alone or as "data" of an object')
    begin = end = opened.end()
    number, separator = 1 + text.count("\n", 0, begin), "["
    try:
        while separator != "]":
            begin, before = _after_space(text, end), begin
            number += text.count("\n", before, begin)
            if separator == "[" and text.startswith("]", begin):
                end = begin + 1
                break
            value, end = strict_prefix(text, begin)
            raw = text[begin:end].replace("\r", " ").replace("\n", " ")
            try:
                record = JsonRecord(number, raw, _whole_object(value, raw))
            except (TypeError, UnicodeEncodeError) as error:
                problem, remedy = _json_fault(raw, number, error)
                if on_bad is None:
                    raise fault(path, problem, number, hint=remedy) from None
                on_bad(number, problem, remedy)
            else:
                yield record
            end = _after_space(text, end)
            separator = text[end : end + 1]
            if separator not in (",", "]"):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, end)
            end += 1
        strict_value(text[: opened.end()] + " " * (end - opened.end() - 1) + "]" + text[end:])  # what is around it
    except (ValueError, RecursionError) as error:
        problem = str(error) or "nested too deeply"
        if isinstance(error, json.JSONDecodeError):
            problem, number = error.msg, error.lineno
        raise fault(path, f"is not JSON from here on ({problem})", number, hint="fix or download it again") from None


def _after_space(text: str, begin: int) -> int:
    found = _SPACE.match(text, begin)
    assert found is not None
    return found.end()


def _json_fault(raw: str, number: int, error: Exception) -> tuple[str, str]:
    """Return what is wrong with a line that is not one strict JSON object, and what to do."""
    if isinstance(error, json.JSONDecodeError):
        whole_file = number == 1 and raw[0] in "[{"
        remedy = "write each object on one line, without a list around them" if whole_file else "fix the line"
        return f"is not JSON ({error.msg}, character {error.pos + 1}): {quoted(raw)}", remedy
    if isinstance(error, UnicodeEncodeError):
        return "holds half a character (a lone surrogate such as \\ud83d)", "fix the line"
    if isinstance(error, RecursionError):
        return "is nested too deeply", "expected an object of texts and numbers"
    if isinstance(error, ValueError):  # a key twice, NaN, or a number that is too large
        return f"{error}: {quoted(raw)}", "fix the line"
    remedy = "write one object a line, without a list around them" if raw[0] == "[" else "fix the line"
    return f"expected a JSON object, found {quoted(raw)}", remedy


def open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    """Return the opened file, which the caller closes; a `DataError` if it is damaged or pyarrow is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise fault(path, "reading Parquet needs pyarrow: pip install 'sbert-ft[parquet]'") from None
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise fault(path, f"is damaged or truncated, or not a Parquet file: {quoted(error, limit=200)}") from error


def parquet_batches(path: Path) -> Iterator[tuple[int, pyarrow.RecordBatch]]:
    """Yield batches of rows, each with the number of its first row from 1; a `DataError` if the file is damaged."""
    first_row = 1
    with open_parquet(path) as file:
        import pyarrow

        try:
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                yield first_row, batch
                first_row += batch.num_rows
            n_rows, n_promised = first_row - 1, file.metadata.num_rows
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise fault(path, f"is damaged: {quoted(error, limit=200)}", first_row, "at or after row") from error
    if n_rows != n_promised:  # pyarrow does not report this
        problem = f"is damaged: it holds {n_rows:,} rows, but its footer says {n_promised:,}"
        raise fault(path, problem, hint="copy it again")


def flat_table(batches: Sequence[pyarrow.RecordBatch], schema: pyarrow.Schema) -> pyarrow.Table:
    """Return batches as a table in which the fields of a struct are columns, named as `leaves` does."""
    import pyarrow

    table = pyarrow.Table.from_batches(batches, schema)
    while any(map(pyarrow.types.is_struct, table.schema.types)):
        table = table.flatten()
    return table


def parquet_values(path: Path, batch: pyarrow.Table, column: int, first_row: int) -> list[object]:
    """Return one column of a flat batch as Python values, None where one is missing, or raise a `DataError`."""
    import pyarrow

    try:
        values: list[object] = batch.column(column).to_pylist()
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        name = quoted(batch.schema.names[column])
        problem = f"column {name} holds a value that cannot be read: {quoted(error, limit=200)}"
        raise fault(path, problem, first_row, "at or after row") from error
    return values


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn what openpyxl and the parsers below it raise for a damaged workbook into a `DataError`."""
    damage = (zipfile.BadZipFile, OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, EOFError)
    try:
        yield
    except damage as error:
        problem = f"is damaged, or not an Excel workbook: {quoted(error, limit=200)}"
        raise fault(path, problem, hint="save it again as .xlsx, or the sheet as CSV (UTF-8)") from error


def sheet_names(path: Path) -> list[str]:
    """Return the names of a workbook's sheets; a `DataError` if it is damaged or openpyxl is not installed."""
    with _damage_named(path):
        book = _workbook(path)
        book.close()
        return [sheet.title for sheet in book.worksheets]


def sheet_rows(path: Path) -> Iterator[tuple[int, list[object]]]:
    """Yield the rows of a workbook's first sheet that are not empty, by their numbers; errors as in `sheet_names`.

    Texts stay texts, and what the sheet holds as a number is one; a formula has the value that was saved with it.
    """
    book = _workbook(path)
    try:
        with _damage_named(path):
            book.worksheets[0].reset_dimensions()  # what a file says of them may be wrong
            for number, cells in enumerate(book.worksheets[0].iter_rows(values_only=True), start=1):
                values: list[object] = list(cells)
                while values and values[-1] is None:
                    values.pop()
                if values:
                    yield number, values
    finally:
        book.close()


def _workbook(path: Path) -> openpyxl.Workbook:
    with _damage_named(path), zipfile.ZipFile(path) as parts:
        parts.getinfo("xl/workbook.xml")
        size = sum(part.file_size for part in parts.infolist())
    if size > _LARGEST_WORKBOOK:
        raise fault(path, f"unpacks to {size:,} bytes, too many for a workbook", hint="save the sheet as CSV")
    try:
        import openpyxl
    except ImportError:
        raise fault(path, "reading a workbook needs openpyxl: pip install 'sbert-ft[xlsx]'") from None
    with _damage_named(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions, which say nothing about cells
            book = openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
        if not book.worksheets:
            raise fault(path, "has no sheet of cells")
        return book
