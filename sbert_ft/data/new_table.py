"""Write a new file of rows, one row at a time, in the formats that `table.open_table` reads back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np

from sbert_ft.config.file_kinds import Kind
from sbert_ft.data.formats import PARQUET_BATCH_ROWS, NewColumn, Values, arrow_type, joined_cells
from sbert_ft.errors import DataError, OutputError, quoted, shown
from sbert_ft.files.atomic import writing


def write_rows(path: Path, kind: Kind, columns: Sequence[NewColumn], rows: Iterable[Values]) -> None:
    """Write rows with a value for each column; the file is in UTF-8, and its lines end with a line feed.

    The caller passes a temporary file and moves it when it is complete.

    Raises:
        DataError: A text cannot be in a file of this kind: a tab or line end in a .tsv, a NUL in cells.
        OutputError: The file cannot be written.
    """
    if kind == "parquet":
        _write_parquet(path, columns, rows)
        return
    names = [column.name for column in columns]
    if kind == "jsonl":
        keys = [json.dumps(name, ensure_ascii=False) for name in names]
        lines: Iterator[str] = (_object(keys, row) for row in rows)
    else:
        lines = (_cells(row, kind) for row in chain([names], rows))
    with writing(path), path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(lines)


def _object(keys: Sequence[str], row: Values) -> str:
    spelled = (json.dumps(v, ensure_ascii=False) if isinstance(v, (str, int)) else str(np.float32(v)) for v in row)
    return "{" + ", ".join(f"{key}: {value}" for key, value in zip(keys, spelled, strict=True)) + "}\n"


def _cells(row: Values, kind: Kind) -> str:
    cells = [v if isinstance(v, str) else str(v).lower() if isinstance(v, int) else str(np.float32(v)) for v in row]
    forbidden = "\0\t\n\r" if kind == "tsv" else "\0"
    bad = next((cell for cell in cells if any(character in cell for character in forbidden)), None)
    if bad is not None:
        what, where = ("a NUL character", "cells") if "\0" in bad else ("a tab or line end", "a .tsv")
        raise DataError(f"the text {quoted(bad, limit=40)} has {what}, which cannot be in {where}", "write to .jsonl")
    return ("\t".join(cells) if kind == "tsv" else joined_cells(cells, ",")) + "\n"


def _write_parquet(path: Path, columns: Sequence[NewColumn], rows: Iterable[Values]) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([pyarrow.field(column.name, arrow_type(column), nullable=False) for column in columns])
    left = iter(rows)
    try:
        with writing(path), pyarrow.parquet.ParquetWriter(path, schema) as writer:
            while chunk := list(islice(left, PARQUET_BATCH_ROWS)):
                arrays = [
                    pyarrow.array(values, kind)
                    for values, kind in zip(zip(*chunk, strict=True), schema.types, strict=True)
                ]
                writer.write_batch(pyarrow.RecordBatch.from_arrays(arrays, schema=schema))
    except pyarrow.ArrowException as error:
        raise OutputError(f"cannot be written: {quoted(error, limit=200)}", where=shown(path)) from error
