"""Where rows of texts and labels come from: a file, a DataFrame or tuples, all seen as one stream of raw rows.

A raw row holds what stands in the chosen columns as it is; whether that is a text or a label is asked later, in one
place for all sources. Nothing here is kept: a source is read once, from beginning to end.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from sbert_ft.config.settings import Reading
from sbert_ft.data import formats
from sbert_ft.data.columns import LABEL_NAMES, PairColumns, find_columns
from sbert_ft.data.ledger import RowFaults, Unit, file_sha256
from sbert_ft.data.tables import Missing, Table, open_table
from sbert_ft.data.text_files import fault
from sbert_ft.errors import InputError, quoted

if TYPE_CHECKING:
    import pandas

_CHUNK_ROWS: Final = 16_384
_PAIR: Final = "(text, text)"
_LABELLED: Final = "(text, text, number)"
_TRIPLET: Final = "(text, text, text)"


class RawRow(NamedTuple):
    """What stands in the chosen columns of one row."""

    line: int
    texts: Sequence[object]
    label: object  # None where no label is read


@dataclass(frozen=True)
class PairSource:
    """A stream of raw rows and what is known of it before it is read.

    Attributes:
        name: The path as given, or "<dataframe>" or "<pairs>".
        where: The name in quotes, with which messages begin.
        format: How it is read, in a line.
        sha256: Of a file's bytes; None where there is no file.
        unit: What the rows' `line` counts: lines from 1, rows of Parquet from 1, positions from 0.
        text_names: Of the two or three columns with texts, for messages.
        label_name: Of the column with the label, for messages; None where there is none.
        notes: What was found out, a sentence each.
        rows: The stream; rows that have no columns, being ragged, go to the faults instead.
    """

    name: str
    where: str
    format: str
    sha256: str | None
    unit: Unit
    text_names: tuple[str, ...]
    label_name: str | None
    notes: tuple[str, ...]
    rows: Callable[[RowFaults], Iterator[RawRow]]


def file_source(path: Path, reading: Reading) -> PairSource:
    """Return the rows of a file.

    Raises:
        DataError: It is no file of rows, or its columns are not what was stated or not clear.
    """
    table = open_table(path, encoding=reading.encoding, delimiter=reading.delimiter, kind=reading.kind)
    if table.format.kind == "lines":
        raise fault(path, "has one text a line, expected rows of pairs; give a .csv, .tsv, .jsonl or .parquet")
    where = quoted(path, limit=400)
    columns = find_columns(where, table.format.columns, reading)
    unit: Unit = "row" if table.format.kind == "parquet" else "line"
    rows = _checked_json_rows if table.format.kind == "jsonl" and columns.label is None else _table_rows

    def raw_rows(faults: RowFaults) -> Iterator[RawRow]:
        return rows(table, columns, faults)

    described = table.format.describe()
    return _of_columns(str(path), described, file_sha256(path), unit, table.format.columns, columns, raw_rows)


def _of_columns(
    name: str,
    described: str,
    sha256: str | None,
    unit: Unit,
    names: Sequence[str],
    columns: PairColumns,
    rows: Callable[[RowFaults], Iterator[RawRow]],
) -> PairSource:
    text_names = tuple(f"text in {quoted(names[i])}" for i in columns.texts)
    label_name = None if columns.label is None else f"column {quoted(names[columns.label])}"
    where = quoted(name, limit=400)
    return PairSource(name, where, described, sha256, unit, text_names, label_name, columns.notes, rows)


def _table_rows(table: Table, columns: PairColumns, faults: RowFaults) -> Iterator[RawRow]:
    n_texts = len(columns.texts)
    wanted = columns.texts if columns.label is None else (*columns.texts, columns.label)

    def ragged(line: int, problem: str) -> None:
        faults.add("ragged", line, problem)

    for row in table.rows(wanted, ragged):
        yield RawRow(row.line, row.values[:n_texts], row.values[n_texts] if len(wanted) > n_texts else None)


def _checked_json_rows(table: Table, columns: PairColumns, faults: RowFaults) -> Iterator[RawRow]:
    """Yield the rows of JSON lines without labels; the columns are the first object's, so another may have a label."""
    names = [table.format.columns[i] for i in columns.texts]
    for record in formats.json_records(table.path, table.format.encoding):
        for key in record.values:
            if key not in table.format.columns and key.casefold().strip() in LABEL_NAMES and len(names) == 2:
                problem = f"has a key {quoted(key)} like a label, which the first object has not"
                raise fault(table.path, f"{problem}; give it to all objects or to none", record.line)
        yield RawRow(record.line, [record.values.get(name, Missing.MISSING) for name in names], None)


def frame_source(frame: pandas.DataFrame, reading: Reading) -> PairSource:
    """Return the rows of a DataFrame, at positions from 0; missing values of any kind are None.

    Raises:
        InputError: It is no DataFrame.
        DataError: Its columns are not what was stated or not clear.
    """
    if not all(hasattr(frame, name) for name in ("iloc", "columns", "isna")) or getattr(frame, "ndim", 0) != 2:
        raise InputError(f"expected a pandas DataFrame, found {type(frame).__name__}")
    names = [str(name) for name in frame.columns]
    columns = find_columns("'<dataframe>'", names, reading)
    wanted = list(columns.texts if columns.label is None else (*columns.texts, columns.label))

    def rows(faults: RowFaults) -> Iterator[RawRow]:
        n_texts = len(columns.texts)
        for start in range(0, len(frame), _CHUNK_ROWS):
            part = frame.iloc[start : start + _CHUNK_ROWS, wanted]
            cells = part.astype(object).where(part.notna(), None)
            values = zip(*(cells.iloc[:, i].tolist() for i in range(len(wanted))), strict=True)
            for line, row in enumerate(values, start):
                yield RawRow(line, row[:n_texts], row[n_texts] if len(row) > n_texts else None)

    return _of_columns("<dataframe>", f"DataFrame, {len(names)} columns", None, "position", names, columns, rows)


def tuple_source(pairs: Iterable[Sequence[object]], reading: Reading) -> PairSource:
    """Return the rows of (a, b), (a, b, number) or (anchor, positive, negative), at positions from 0.

    Raises:
        InputError: What is given cannot be read in order, or its first row is none of these, or columns are named.
    """
    if isinstance(pairs, (str, bytes, Mapping, Set)) or not hasattr(pairs, "__iter__"):
        raise InputError(f"pairs is of type {type(pairs).__name__}, expected a list of pairs of texts")
    if reading.text_columns is not None or reading.label_column is not None:
        raise InputError("text_columns and label_column name columns, which tuples do not have; leave them out")
    values = (_texts_and_number(row, position) for position, row in enumerate(pairs))
    first = next(values, None)
    shape = _PAIR if first is None else _shape(first)
    n_texts = 3 if shape == _TRIPLET else 2

    def rows(faults: RowFaults) -> Iterator[RawRow]:
        for line, row in enumerate(chain(() if first is None else (first,), values)):
            if _shape(row) != shape:
                found = f"row at position {line} is {_shape(row)}"
                raise InputError(f"{found}, but the first one is {shape}; give all of one kind")
            yield RawRow(line, row[:n_texts], row[2] if shape == _LABELLED else None)

    names = ("first text", "second text", "third text")[:n_texts]
    note = "triplets need no label" if shape == _TRIPLET else "no labels: the pairs are taken as known only to match"
    notes = () if shape == _LABELLED else (note,)
    label_name = "third value" if shape == _LABELLED else None
    return PairSource("<pairs>", "'<pairs>'", shape, None, "position", names, label_name, notes, rows)


def _texts_and_number(row: object, position: int) -> tuple[object, ...]:
    """Return a row of one of the three kinds as a tuple.

    Raises:
        InputError: It is of none of them.
    """
    values = tuple(row) if isinstance(row, Iterable) and not isinstance(row, (str, bytes, Mapping, Set)) else ()
    if len(values) not in (2, 3):
        expected = f"expected {_PAIR}, {_LABELLED} or {_TRIPLET}"
        raise InputError(f"row at position {position} is {quoted(row)} ({type(row).__name__}), {expected}")
    for i, value in enumerate(values):
        expected = "a text" if i < 2 else "a number or a text"
        is_number = value is None or isinstance(value, (numbers.Real, Decimal, np.bool_))
        if not isinstance(value, str) and not (i == 2 and is_number):
            found = f"{quoted(value)} ({type(value).__name__})"
            raise InputError(f"row at position {position} has {found}, expected {expected}; drop the row or mend it")
    return values


def _shape(values: tuple[object, ...]) -> str:
    return _PAIR if len(values) == 2 else _TRIPLET if isinstance(values[2], str) else _LABELLED
