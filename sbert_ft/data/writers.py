"""Write a table's rows with more columns, such as scores, in any of the formats, as a stream.

Texts must be written exactly as they were read, or a score would be beside a text that was not scored. So the writers
check for what a format cannot hold (a tab in a tab file, a key without a column) instead of dropping it, and JSON
lines are copied, with the values added at their end.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from sbert_ft.config.file_kinds import KIND_OF_SUFFIX, Kind
from sbert_ft.data.file_formats import FORMATS, Parquet
from sbert_ft.data.formats import NewColumn, Row, Values
from sbert_ft.data.table import Table
from sbert_ft.data.text import fault
from sbert_ft.errors import DataError, OutputError, quoted, shown

_LARGEST = float(np.finfo(np.float32).max)


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
    taken = next((name for i, name in enumerate(names) if name in (*table.column_names, *names[:i])), None)
    if taken is not None:
        raise fault(table.path, f"has a column {quoted(taken)} already", hint="give the new one another name")
    if os.path.exists(target) and os.path.samefile(table.path, target):
        raise OutputError(f"{shown(target)}: is the file that is read", "write to another file")
    encoding = table.format.encoding if target_kind == table.format.kind else "utf-8"
    try:
        if target_kind == "parquet":
            checked = _finite(values)
            Parquet().write(table, target, columns, _batches(table, checked))
            if next(checked, None) is not None:
                raise _other_number(table, table.count_rows())
            return
        lines = FORMATS[target_kind].lines(table, names, partial(_with_values, table, _finite(values)))
        with open(target, "w", encoding=encoding, newline="") as file:
            file.writelines(lines)
    except UnicodeEncodeError:
        columns_shown = ", ".join(map(quoted, names))
        raise OutputError(f"{columns_shown} cannot be written in {encoding}", where=shown(target)) from None
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror or error}", where=shown(target)) from error


def _target_kind(table: Table, target: Path, kind: Kind | None) -> Kind:
    """Return the format to write; a table of cells that is written to a .txt keeps its own format."""
    found = kind or KIND_OF_SUFFIX.get(target.suffix.lower(), table.format.kind)
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
    table: Table, values: Iterator[Values], rows: Iterable[Row], in_json: bool
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


def _batches(table: Table, values: Iterator[Values]) -> Callable[[int], Sequence[Values]]:
    """Return a function that takes the new values of the next so many rows; it raises where there are not as many."""
    n_rows = 0

    def take(n: int) -> Sequence[Values]:
        nonlocal n_rows
        rows = list(islice(values, n))
        n_rows += len(rows)
        if len(rows) != n:
            raise _other_number(table, n_rows)
        return rows

    return take
