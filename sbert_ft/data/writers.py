"""Write a table's rows with more columns, such as scores, in any of the formats, as a stream.

Texts must be written exactly as they were read, or a score would be beside a text that was not scored. So the writers
check for what a format cannot hold (a tab in a tab file, a key without a column) instead of dropping it, and JSON
lines are copied, with the values added at their end.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from sbert_ft.data import formats
from sbert_ft.data.formats import Missing
from sbert_ft.data.sniffing import KIND_OF_SUFFIX, Kind
from sbert_ft.data.table import Row, Table
from sbert_ft.data.text import fault
from sbert_ft.errors import DataError, OutputError, quoted

if TYPE_CHECKING:
    import pyarrow

_LARGEST = float(np.finfo(np.float32).max)


Values = Sequence[float | bool | str]


@dataclass(frozen=True)
class NewColumn:
    """A column to add.

    Attributes:
        name: Different from the names in the table.
        type: float32, in text files as the shortest decimals that give the same float32 back; bool, in text files as
            true and false; or text, unchanged.
    """

    name: str
    type: Literal["float32", "bool", "text"] = "float32"


def write_table_with_columns(
    table: Table, target: Path, columns: Sequence[NewColumn], values: Iterator[Values], *, kind: Kind | None = None
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
    taken = next((name for i, name in enumerate(names) if name in (*_columns(table), *names[:i])), None)
    if taken is not None:
        raise fault(table.path, f"has a column {quoted(taken)} already", hint="give the new one another name")
    if os.path.exists(target) and os.path.samefile(table.path, target):
        raise OutputError(f"{quoted(target, limit=400)}: is the file that is read", "write to another file")
    encoding = table.format.encoding if target_kind == table.format.kind else "utf-8"
    try:
        if target_kind == "parquet":
            _write_parquet(table, target, columns, _finite(values))
            return
        as_lines = _json_lines if target_kind == "jsonl" else _csv_lines if target_kind == "csv" else _tsv_lines
        with open(target, "w", encoding=encoding, newline="") as file:
            file.writelines(as_lines(table, names, _finite(values)))
    except UnicodeEncodeError:
        shown = ", ".join(map(quoted, names))
        raise OutputError(f"{shown} cannot be written in {encoding}", where=quoted(target, limit=400)) from None
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", where=quoted(target, limit=400)) from error


def _target_kind(table: Table, target: Path, kind: Kind | None) -> Kind:
    """Return the format to write; a table of cells that is written to a .txt keeps its own format."""
    found = kind or KIND_OF_SUFFIX.get(target.suffix.lower(), table.format.kind)
    if found == "lines" and table.format.kind in ("csv", "tsv"):
        return table.format.kind
    if found == "lines":
        problem = "a file of one text per line has no place for a column"
        raise OutputError(f"{quoted(target, limit=400)}: {problem}", "write to .csv, .tsv, .jsonl or .parquet")
    return found


def _columns(table: Table) -> tuple[str, ...]:
    return table.format.columns or ("text",)


def _finite(values: Iterator[Values]) -> Iterator[Values]:
    for i, of_row in enumerate(values, start=1):
        for value in of_row:
            if not isinstance(value, str) and not math.fabs(value) <= _LARGEST:  # holds for NaN, too
                raise OutputError(f"value {i:,} of the new column is {value}; expected a finite float32")
        yield of_row


def _with_values(
    table: Table, rows: Iterable[Row], values: Iterator[Values], in_json: bool
) -> Iterator[tuple[Row, list[str]]]:
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


def _other_number(table: Table, n_rows: int) -> DataError:
    return fault(table.path, f"values and rows differ in number after {n_rows:,}: did the file change meanwhile?")


def _whole_rows(table: Table) -> Iterator[Row]:
    """Yield the table's rows; raise DataError where a JSON object has a key that is not among the columns."""
    if table.format.kind != "jsonl":
        yield from table
        return
    for record in formats.json_records(table.path, table.format.encoding):
        extra = next((key for key in record.values if key not in table.format.columns), None)
        if extra is not None:
            problem = f"the key {quoted(extra)} is not in the first object, so there is no column for it"
            raise fault(table.path, problem, record.line, hint="write to .jsonl")
        yield Row(record.line, tuple(record.values.get(key, Missing.MISSING) for key in table.format.columns))


def _json_lines(table: Table, names: Sequence[str], values: Iterator[Values]) -> Iterator[str]:
    """Yield one JSON object per line; those read from JSON lines are copied exactly."""
    keys = [json.dumps(name, ensure_ascii=False) for name in names]
    if table.format.kind == "jsonl":
        records = formats.json_records(table.path, table.format.encoding)
        # Here the values of a row are its text, whether it has keys, and the first new key that it already has.
        rows = (Row(r.line, (r.raw, bool(r.values), next((n for n in names if n in r.values), None))) for r in records)
    else:
        rows = (Row(row.line, (_json_object(table, row), True, None)) for row in table)
    for row, cells in _with_values(table, rows, values, in_json=True):
        line, has_keys, taken = row.values
        if taken is not None:
            raise fault(table.path, f"has a key {quoted(taken)} already", row.line, hint="rename one of the two")
        added = ", ".join(f"{key}: {cell}" for key, cell in zip(keys, cells, strict=True))
        yield f"{str(line)[:-1].rstrip()}{', ' if has_keys else ''}{added}}}\n"


def _json_object(table: Table, row: Row) -> str:
    values = dict(zip(_columns(table), row.values, strict=True))
    try:
        return json.dumps(values, ensure_ascii=False, allow_nan=False, default=_as_text)
    except (TypeError, ValueError) as error:
        problem = f"cannot be written as JSON: {quoted(error)}"
        raise fault(table.path, problem, row.line, "row", hint="write to .parquet") from None


def _as_text(value: object) -> str:
    """Return the text of a value that JSON has no type for, such as a date."""
    if isinstance(value, bytes):
        raise TypeError("bytes are not text")
    return str(value)


def _cells(table: Table, row: Row) -> list[str]:
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


def _cell_rows(table: Table, names: Sequence[str], values: Iterator[Values]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, cells) of the header and of each row, including the new columns."""
    yield 1, [*_columns(table), *names]
    for row, cells in _with_values(table, _whole_rows(table), values, in_json=False):
        yield row.line, [*_cells(table, row), *cells]


def _csv_lines(table: Table, names: Sequence[str], values: Iterator[Values]) -> Iterator[str]:
    delimiter = (table.format.delimiter if table.format.kind == "csv" else None) or ","
    for _, cells in _cell_rows(table, names, values):
        yield formats.joined_cells(cells, delimiter) + "\n"


def _tsv_lines(table: Table, names: Sequence[str], values: Iterator[Values]) -> Iterator[str]:
    """Yield lines without quoting, or with all cells in quotes where the table's own cells are quoted.

    Quotes around the cells of the header tell a reader that the cells are quoted.
    """
    quoting = table.format.kind == "tsv" and table.format.quoting
    for line, cells in _cell_rows(table, names, values):
        if not quoting and any("\t" in cell or "\n" in cell for cell in cells):
            raise fault(table.path, "a tab or line end in a cell cannot be in a .tsv", line, hint="write to .csv")
        yield (formats.joined_cells(cells, "\t", always=True) if quoting else "\t".join(cells)) + "\n"


def _write_parquet(table: Table, target: Path, columns: Sequence[NewColumn], values: Iterator[Values]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise OutputError("writing Parquet needs pyarrow: pip install 'sbert-ft[parquet]'") from None
    types = _arrow_schema(table)
    arrow_types = {"float32": pyarrow.float32(), "bool": pyarrow.bool_(), "text": pyarrow.string()}
    added = [arrow_types[column.type] for column in columns]
    schema = types
    for column, type_ in zip(columns, added, strict=True):
        schema = schema.append(pyarrow.field(column.name, type_))
    n_rows = 0
    try:
        with pyarrow.parquet.ParquetWriter(target, schema) as writer:
            for batch in _arrow_batches(table, types):
                rows = list(islice(values, batch.num_rows))
                n_rows += len(rows)
                if len(rows) != batch.num_rows:
                    raise _other_number(table, n_rows)
                arrays = [pyarrow.array([row[i] for row in rows], type_) for i, type_ in enumerate(added)]
                writer.write_batch(pyarrow.RecordBatch.from_arrays([*batch.columns, *arrays], schema=schema))
        if next(values, None) is not None:
            raise _other_number(table, n_rows)
    except pyarrow.ArrowException as error:
        raise OutputError(f"cannot be written: {quoted(error, limit=200)}", where=quoted(target, limit=400)) from error


def _arrow_schema(table: Table) -> pyarrow.Schema:
    """Return the types of the table's columns: strings for cells and lines; for JSON, those in the first rows."""
    import pyarrow

    if table.format.kind == "parquet":
        with formats.open_parquet(table.path) as file:
            return file.schema_arrow
    if table.format.kind == "jsonl":
        return _arrow_batch(table, list(islice(_whole_rows(table), formats.PARQUET_BATCH_ROWS)), None).schema
    return pyarrow.schema([(column, pyarrow.string()) for column in _columns(table)])


def _arrow_batches(table: Table, schema: pyarrow.Schema) -> Iterator[pyarrow.RecordBatch]:
    if table.format.kind == "parquet":
        yield from (batch for _, batch in formats.parquet_batches(table.path))
        return
    rows = _whole_rows(table)
    while chunk := list(islice(rows, formats.PARQUET_BATCH_ROWS)):
        yield _arrow_batch(table, chunk, schema)


def _arrow_batch(table: Table, rows: list[Row], schema: pyarrow.Schema | None) -> pyarrow.RecordBatch:
    import pyarrow

    arrays = []
    for i, column in enumerate(_columns(table)):
        values = [None if row.values[i] is Missing.MISSING else row.values[i] for row in rows]
        try:
            arrays.append(pyarrow.array(values, None if schema is None else schema.types[i]))
        except (pyarrow.ArrowException, OverflowError, TypeError, ValueError) as error:
            problem = f"column {quoted(column)} holds values of several types ({quoted(error, limit=200)})"
            raise fault(table.path, f"{problem}", rows[0].line, "at or after line", hint="write to .jsonl") from None
    return pyarrow.RecordBatch.from_arrays(arrays, names=list(_columns(table)))
