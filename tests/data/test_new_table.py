"""New files of rows, read back as they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sbert_ft.config.file_kinds import Kind
from sbert_ft.data.formats import NewColumn
from sbert_ft.data.new_table import write_rows
from sbert_ft.data.table import open_table
from sbert_ft.errors import DataError, OutputError

COLUMNS = [NewColumn("a text", "text"), NewColumn("score"), NewColumn("is it", "bool"), NewColumn("rank", "int64")]
ROWS = [('say "so", 가', 0.1, True, 1), ("=1+1", -1.0, False, 2**40), ("007", float(np.float32(1) / 3), True, 3)]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_rows_are_read_back(tmp_path: Path, kind: Kind) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="the Parquet extra is not installed")
    path = tmp_path / f"out.{kind}"
    write_rows(path, kind, COLUMNS, iter(ROWS))
    table = open_table(path)
    assert table.column_names == tuple(column.name for column in COLUMNS)
    found = [row.values for row in table]
    assert [text for text, *_ in found] == [text for text, *_ in ROWS]
    np.testing.assert_array_equal(np.array([row[1] for row in found], np.float32), np.float32([r[1] for r in ROWS]))
    assert [str(row[2]).lower() for row in found] == ["true", "false", "true"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_no_rows_leave_the_columns(tmp_path: Path, kind: Kind) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="the Parquet extra is not installed")
    write_rows(tmp_path / f"out.{kind}", kind, COLUMNS, iter(()))
    table = open_table(tmp_path / f"out.{kind}")
    assert (len(table.column_names), list(table)) == (4, [])


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [("tsv", "a\tb", "a tab or line end, which cannot be in a .tsv"), ("csv", "a\0b", "a NUL character")],
)
def test_a_text_that_the_format_cannot_hold_is_refused(tmp_path: Path, kind: Kind, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        write_rows(tmp_path / "out", kind, COLUMNS, iter([(text, 0.5, True, 1)]))


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_rows(tmp_path / "no" / "out.csv", "csv", COLUMNS, iter(ROWS))
