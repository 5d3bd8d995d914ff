"""Any bytes as a file of texts or pairs, in each format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fuzz.inputs import name_and_content, named, only_file, scratch_folder
from sbert_ft.config.settings import Reading
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.data.file_formats import write_table_with_columns
from sbert_ft.data.formats import NewColumn
from sbert_ft.data.table import Table, open_table
from sbert_ft.errors import SbertFtError

INSTRUMENTED = ("sbert_ft.data",)
MOST_BYTES = 4096
NAMES = ("pairs.csv", "pairs.tsv", "pairs.jsonl", "texts.txt", "pairs.parquet")

# The footer's number of rows, as Thrift writes it, before the list of row groups.
N_ROWS_TWO_AND_FOUR = b"\x16\x04\x19\x1c", b"\x16\x08\x19\x1c"
ROWS = [("a cat", "one cat", "5"), ('the "red" one', "a, b", "0.5"), ("가나", "é\u0301 😀", "3")]


def seeds() -> dict[str, bytes]:
    """Return valid inputs by name, in the formats and with the oddities that the readers know."""
    csv = "sentence1,sentence2,score\n" + "".join(
        ",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in ROWS
    )
    tsv = "sentence1\tsentence2\tscore\n" + "".join("\t".join(row) + "\n" for row in ROWS)
    jsonl = (
        '{"sentence1": "a cat", "sentence2": "one \\ud83d\\ude00", "score": 5}\n\n{"sentence1": "b", "x": [1, null]}\n'
    )
    return {
        "csv": named("pairs.csv", csv),
        "csv-semicolons-crlf": named("pairs.csv", "text1;text2;label\r\na;b;1\r\n\r\nc;d;0\r\n"),
        "csv-lines-in-cells": named("pairs.csv", 'a,b\n"x\ny","z\r\n"\n'),
        "csv-utf-16": named("pairs.csv", csv.encode("utf-16")),
        "csv-classes": named("pairs.csv", "text,label\ngood,pos\nbad,neg\n,neg\n"),
        "tsv": named("pairs.tsv", "\ufeff" + tsv),
        "tsv-quoted": named("pairs.tsv", '"a"\t"b"\n"x\ty"\t"""z"""\n'),
        "jsonl": named("pairs.jsonl", jsonl),
        "jsonl-triplets": named("pairs.jsonl", '{"anchor": "a", "positive": "b", "negative": "c"}\n' * 2),
        "lines": named("texts.txt", "one\nzwei 둘\n\n\u2028drei\r\n"),
        "lines-with-tabs": named("texts.txt", tsv),
        "parquet": named("pairs.parquet", parquet()),
        # the footer's number of rows, as Thrift writes it, and the list of row groups that follows
        "parquet-promises-more-rows": named(
            "pairs.parquet", parquet().replace(b"\x16\x04\x19\x1c", b"\x16\x08\x19\x1c")
        ),
    }


def parquet() -> bytes:
    """Return a Parquet file of two rows, without compression, dictionary or statistics, so that mutations meet data."""
    import pyarrow
    from pyarrow.parquet import write_table

    path = scratch_folder() / "seed.parquet"
    table = pyarrow.table({"sentence1": ["a cat", "b"], "sentence2": ["one", None], "score": [0.5, 1.0]})
    write_table(table, path, compression="none", use_dictionary=False, write_statistics=False, store_schema=False)
    return path.read_bytes()


def read(data: bytes) -> None:
    """Read the file as a table, write it with one more column and read that; then read it as rows to train on.

    Raises:
        SbertFtError: It is refused in every one of these.
    """
    name, content = name_and_content(data, NAMES)
    path = only_file(name, content)
    table = open_table(path)
    rows = [row.values for row in table]
    assert table.count_rows() == len(rows)
    if table.format.kind not in ("lines", "parquet"):
        _check_written_again(table, path.with_name(f"written{path.suffix}"), len(rows))
    if table.format.kind == "lines" and b"\t" not in content:
        list(table.texts((0,)))
        return
    dataset = ConnectionDataset.from_file(path, Reading(on_bad_row="skip"))
    assert dataset.ledger.n_rows == dataset.ledger.n_kept + sum(f.count for f in dataset.ledger.findings if f.dropped)
    assert len(dataset) == dataset.ledger.n_kept <= len(rows)
    for texts in dataset.rows_of_texts():
        "".join(texts).encode()  # what reaches a tokenizer is text


def _check_written_again(table: Table, target: Path, n_rows: int) -> None:
    """Write the table with a column more, and read it: the rows are the same, in the order in which they were."""
    column = "a column that no mutation makes"
    n_columns = len(table.format.columns)
    write_table_with_columns(table, target, (NewColumn(column),), iter([(0.5,)] * n_rows))
    options = {"delimiter": table.format.delimiter} if table.format.kind == "csv" else {}
    written = open_table(target, encoding=table.format.encoding, **options)
    assert written.format.columns[-1] == column or not n_rows
    for before, after in zip(_rows(table, n_columns), _rows(written, n_columns), strict=True):
        assert before == after


def _rows(table: Table, n_columns: int) -> Iterator[tuple[object, ...]]:
    for row in table:
        yield row.values[:n_columns]


def test_one_input(data: bytes) -> bool:
    """Return whether the input was read, not refused; anything but the typed error goes on to the caller."""
    try:
        read(data)
    except SbertFtError as error:
        assert str(error).strip(), "a refusal says why"
        return False
    return True
