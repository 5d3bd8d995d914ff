"""Sources of rows of texts and labels: a file, a DataFrame or tuples, each read as a stream of raw rows.

A raw row has the values of the chosen columns as they are; whether they are texts and labels is checked later, in one
place for all sources. Nothing is kept here: a source is read once, from beginning to end.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set, Sized
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

import numpy as np

from sbert_ft.config.settings import Reading
from sbert_ft.data import formats
from sbert_ft.data.columns import (
    LABEL_NAMES,
    SINGLE_LABEL_NAMES,
    PairColumns,
    find_columns,
    folded,
    unread_numbers,
)
from sbert_ft.data.file_formats import FORMATS, JsonLines
from sbert_ft.data.ledger import RowFaults, Unit, file_sha256
from sbert_ft.data.table import Table, open_table
from sbert_ft.data.text import fault
from sbert_ft.errors import DataError, InputError, quoted, shown

if TYPE_CHECKING:
    import pandas

_CHUNK_ROWS: Final = 16_384
_FIRST_ROWS: Final = 200  # by which columns that are not read are judged
_PAIR: Final = "(text, text)"
_LABELLED: Final = "(text, text, number)"
_CLASSED: Final = "(text, text, label)"
_TRIPLET: Final = "(text, text, text)"
_LABEL_LIST: Final = "the list of labels"
_HEADER: Final = " (the first line, taken as the header; if it is not, put one before it)"
_LINES: Final = "give a .csv, .tsv, .jsonl or .parquet; only objectives on single texts train on such a file"
_HOLDERS: Final = {"pairs": "tuples", "texts": "texts"}
_Row = TypeVar("_Row")


class RawRow(NamedTuple):
    """The values of the chosen columns in one row."""

    line: int
    texts: Sequence[object]
    label: object  # None where no label is read


@dataclass(frozen=True)
class PairSource:
    """A stream of raw rows and what is known about it before it is read.

    Attributes:
        name: The path as given, or "<dataframe>", "<pairs>" or "<texts>".
        format: How the source is read, in one line.
        text_names: Of the one, two or three columns with texts, for messages.
        rows: Returns the stream; records that are not rows, such as ragged ones, are added to the faults instead.
        label_name: Of the column with the label, for messages; None where no label is read.
        notes: What was found out, one sentence each.
        sha256: Of a file's bytes; None where there is no file.
        columns: Names of the columns with texts; empty where there are none.
        unit: What the rows' `line` counts: lines from 1, rows of Parquet from 1, positions from 0.
        unread: What a column that is not read may be; None where there is nothing to say.
    """

    name: str
    format: str
    text_names: tuple[str, ...]
    rows: Callable[[RowFaults], Iterator[RawRow]]
    label_name: str | None = None
    notes: tuple[str, ...] = ()
    sha256: str | None = None
    unit: Unit = "position"
    unread: str | None = None
    columns: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The name in quotes; messages begin with it."""
        return quoted(self.name, limit=400)


def file_source(path: Path, reading: Reading) -> PairSource:
    """Return the rows of a file; errors as in `ConnectionDataset.from_file`.

    One text per line is of no use here, so a .txt whose first line has tabs is read as a tab file.
    """
    table = open_table(path, encoding=reading.encoding, delimiter=reading.delimiter, kind=reading.kind)
    is_text = not table.format.columns and reading.kind is None
    if is_text and any("\t" in str(value) for row in islice(table, 1) for value in row.values):
        table = open_table(path, encoding=table.format.encoding, delimiter="tab")
    if not table.format.columns:
        raise fault(path, "has one text per line, expected rows of pairs", hint=_LINES)
    hint = table.format.delimiter_hint() or (_HEADER if table.format.delimiter is not None else "")
    columns = find_columns(shown(path), table.format.columns, reading, hint=hint)
    is_json = isinstance(FORMATS[table.format.kind], JsonLines)
    rows = _checked_json_rows if is_json and columns.label is None else _table_rows
    first: list[Sequence[object]] = []
    with suppress(DataError):  # which is raised again where the rows are read, if it concerns the chosen columns
        for row in islice(table.rows(None, lambda *_: None), _FIRST_ROWS if columns.label is None else 0):
            first.append(row.values)
    unread = unread_numbers(table.format.columns, columns, first)

    def raw_rows(faults: RowFaults) -> Iterator[RawRow]:
        return rows(table, columns, partial(faults.add, FORMATS[table.format.kind].bad_record))

    source = _of_columns(str(path), table.format.describe(), table.format.columns, columns, raw_rows)
    return replace(source, sha256=file_sha256(path), unit=table.unit, unread=unread)


def _of_columns(
    name: str, described: str, names: Sequence[str], columns: PairColumns, rows: Callable[[RowFaults], Iterator[RawRow]]
) -> PairSource:
    text_names = tuple(f"text in {quoted(names[i])}" for i in columns.texts)
    label_name = None if columns.label is None else f"column {quoted(names[columns.label])}"
    own = tuple(names[i] for i in columns.texts)
    return PairSource(name, described, text_names, rows, label_name, columns.notes, columns=own)


def _table_rows(table: Table, columns: PairColumns, on_bad: formats.OnBadRecord) -> Iterator[RawRow]:
    n_texts = len(columns.texts)
    wanted = columns.texts if columns.label is None else (*columns.texts, columns.label)
    for row in table.rows(wanted, on_bad):
        yield RawRow(row.line, row.values[:n_texts], row.values[n_texts] if len(wanted) > n_texts else None)


def _checked_json_rows(table: Table, columns: PairColumns, on_bad: formats.OnBadRecord) -> Iterator[RawRow]:
    """Yield the rows of JSON lines without labels; raise DataError where a later object has one, unlike the first."""
    names = [table.format.columns[i] for i in columns.texts]
    like_labels = (*LABEL_NAMES, *(SINGLE_LABEL_NAMES if len(names) == 1 else ()))
    own = FORMATS[table.format.kind]
    assert isinstance(own, JsonLines)
    for record in own.records(table, on_bad):
        for key, _ in formats.leaves(record.values):
            if key not in table.format.columns and folded(key) in like_labels and len(names) < 3:
                problem = f"has a key {quoted(key)} like a label, which the first object does not have"
                raise fault(table.path, problem, record.line, hint="give it to all objects or to none")
        yield RawRow(record.line, [formats.value_at(record.values, name) for name in names], None)


def frame_source(frame: pandas.DataFrame, reading: Reading) -> PairSource:
    """Return the rows of a DataFrame, at positions from 0; errors as in `ConnectionDataset.from_dataframe`."""
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

    first = frame.iloc[: _FIRST_ROWS if columns.label is None else 0]
    cells = first.astype(object).where(first.notna(), None).to_numpy().tolist()
    source = _of_columns("<dataframe>", f"DataFrame, {len(names)} columns", names, columns, rows)
    return replace(source, unread=unread_numbers(names, columns, cells))


def tuple_source(
    pairs: Iterable[Sequence[object]], reading: Reading, labels: Iterable[object] | None = None
) -> PairSource:
    """Return the rows of (a, b), (a, b, number) or (anchor, positive, negative), at positions from 0.

    Arguments and errors as in `ConnectionDataset.from_pairs`.
    """
    _check_given(pairs, reading, "pairs", "a list of pairs of texts")
    given = None if labels is None else _label_list(labels, pairs)
    states_labels = any(stated is not None for stated in (reading.label_kind, reading.classes, reading.label_values))
    third_is_label = states_labels and given is None
    values = (_texts_and_number(row, position, third_is_label) for position, row in enumerate(pairs))
    first = next(values, None)
    shape = _PAIR if first is None else _shape(first, third_is_label)
    n_texts = 3 if shape == _TRIPLET else 2
    has_third_label = shape in (_LABELLED, _CLASSED)
    if given is not None and has_third_label:
        problem = f"labels are given, but the row at position 0 is {shape}"
        raise InputError(problem, "leave out its third value or the labels")

    def rows(faults: RowFaults) -> Iterator[RawRow]:
        every = chain(() if first is None else (first,), values)
        for line, (row, label) in enumerate(_with_labels(every, given)):
            if (found := _shape(row, third_is_label)) != shape:
                problem = f"row at position {line} is {found}, but the first one is {shape}"
                raise InputError(problem, "give all of one kind")
            yield RawRow(line, row[:n_texts], row[2] if has_third_label else label)

    names = ("first text", "second text", "third text")[:n_texts]
    described = shape if given is None else f"{shape} and labels"
    if has_third_label or given is not None:
        return PairSource("<pairs>", described, names, rows, "third value" if has_third_label else _LABEL_LIST)
    note = "triplets need no label" if shape == _TRIPLET else "no labels: all pairs are taken as matches"
    return PairSource("<pairs>", described, names, rows, notes=(note,))


def text_source(texts: Iterable[object], reading: Reading, labels: Iterable[object] | None = None) -> PairSource:
    """Return rows of one text each, at positions from 0; None and NaN count as missing texts.

    Arguments and errors as in `ConnectionDataset.from_texts`.
    """
    _check_given(texts, reading, "texts", "a list of texts")
    given = None if labels is None else _label_list(labels, texts)

    def rows(faults: RowFaults) -> Iterator[RawRow]:
        values = _list_of_series(texts) if hasattr(texts, "notna") else texts
        for line, (text, label) in enumerate(_with_labels(iter(values), given)):
            missing = text is None or (isinstance(text, float) and math.isnan(text))
            if not missing and not isinstance(text, str):
                several = "; for rows of several texts use from_pairs" if isinstance(text, (list, tuple)) else ""
                found = f"{quoted(text)} ({type(text).__name__})"
                raise InputError(f"row at position {line} is {found}, expected a text{several}")
            yield RawRow(line, (None if missing else text,), label)

    if given is None:
        return PairSource("<texts>", "text", ("text",), rows, notes=("no labels",))
    return PairSource("<texts>", "text and labels", ("text",), rows, _LABEL_LIST)


def _check_given(rows: object, reading: Reading, name: str, expected: str) -> None:
    """Raise InputError where `rows` cannot be read in order, or where `reading` names columns."""
    if hasattr(rows, "iloc") and getattr(rows, "ndim", 1) == 2:
        raise InputError(f"{name} is a DataFrame, expected {expected}", "use from_dataframe")
    if not _is_in_order(rows):
        raise InputError(f"{name} is of type {type(rows).__name__}, expected {expected}")
    if reading.text_columns is not None or reading.label_column is not None:
        problem = f"text_columns and label_column name columns, which {_HOLDERS[name]} do not have"
        raise InputError(problem, "leave them out")


def _is_in_order(values: object) -> bool:
    """Return whether values can be read in order: neither a text, nor a mapping, a set or a single number."""
    is_other = isinstance(values, (str, bytes, Mapping, Set)) or getattr(values, "ndim", 1) == 0
    return hasattr(values, "__iter__") and not is_other


def _label_list(labels: object, rows: object) -> list[object]:
    """Return the labels as a list, with None for missing ones of pandas; refuse another number than that of rows."""
    if not _is_in_order(labels) or not hasattr(labels, "__len__") or hasattr(labels, "columns"):
        raise InputError(f"labels is of type {type(labels).__name__}, expected a list of one label for each row")
    if hasattr(labels, "notna"):
        listed = _list_of_series(labels)
    else:
        listed = labels.tolist() if isinstance(labels, np.ndarray) else list(cast(Iterable[object], labels))
    if isinstance(rows, Sized) and len(rows) != len(listed):
        raise _other_number(f"{len(rows):,}", len(listed))
    return listed


def _list_of_series(series: Any) -> list[object]:
    cells: list[object] = series.astype(object).where(series.notna(), None).tolist()
    return cells


def _with_labels(rows: Iterator[_Row], labels: list[object] | None) -> Iterator[tuple[_Row, object]]:
    """Yield each row with its label, None where `labels` is None; refuse more rows than labels, or fewer."""
    if labels is None:
        yield from ((row, None) for row in rows)
        return
    nothing: Any = object()
    for n, (row, label) in enumerate(zip_longest(rows, labels, fillvalue=nothing)):
        if row is nothing or label is nothing:
            raise _other_number(f"{n:,}" if row is nothing else f"more than {n:,}", len(labels))
        yield row, label


def _other_number(n_rows: str, n_labels: int) -> InputError:
    problem = f"there are {n_rows} rows, but labels has length {n_labels:,}"
    return InputError(problem, "give one label for each row")


def _texts_and_number(row: object, position: int, third_is_label: bool) -> tuple[object, ...]:
    """Return a row as a tuple, or refuse its form; whether a third value is a valid label is checked later."""
    values = tuple(cast(Iterable[object], row)) if _is_in_order(row) else ()
    if len(values) not in (2, 3):
        expected = f"expected {_PAIR}, {_LABELLED} or {_TRIPLET}"
        single = "; for single texts use from_texts" if isinstance(row, str) or len(values) == 1 else ""
        raise InputError(f"row at position {position} is {quoted(row)} ({type(row).__name__}), {expected}{single}")
    for i, value in enumerate(values):
        expected = "a text" if i < 2 else "a number or a text"
        is_number = value is None or isinstance(value, (numbers.Real, Decimal, np.bool_))
        if not isinstance(value, str) and not (i == 2 and (is_number or third_is_label)):
            found = f"{quoted(value)} ({type(value).__name__})"
            raise InputError(f"row at position {position} has {found}, expected {expected}", "fix or remove the row")
    return values


def _shape(values: tuple[object, ...], third_is_label: bool) -> str:
    if len(values) == 2:
        return _PAIR
    return _CLASSED if third_is_label else _TRIPLET if isinstance(values[2], str) else _LABELLED
