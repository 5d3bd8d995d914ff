"""Files of texts as rows: reading, errors and their messages, and writing."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sbert_ft.data import formats, text
from sbert_ft.data.file_formats import write_table_with_columns
from sbert_ft.data.formats import Missing, NewColumn, TableFormat
from sbert_ft.data.table import Row, Table, open_table
from sbert_ft.errors import DataError, OutputError

pa = pytest.importorskip("pyarrow", reason="the Parquet extra is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="the Parquet extra is not installed")

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the shared data is not at {DATA}")
HEADER = "sentence1,sentence2,score"


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_scores(table: Table, target: Path, name: str, scores: Iterable[float]) -> None:
    """Write the table's rows with one more column of float32."""
    write_table_with_columns(table, target, (NewColumn(name),), ((score,) for score in scores))


def values(path: Path, **options: str) -> list[tuple[object, ...]]:
    return [row.values for row in open_table(path, **options)]


def pairs(path: Path, **options: str) -> list[tuple[str, ...]]:
    table = open_table(path, **options)
    return list(table.texts(table.text_columns(None, 2)))


# ---------------------------------------------------------------- real files


@needs_data
@pytest.mark.parametrize(
    ("name", "kind", "n_rows", "text_names"),
    [
        ("stsb/train.csv", None, 5749, None),
        ("stsb/dev.csv", None, 1500, None),
        ("stsb/test.csv", None, 1379, None),
        ("korsts/train.tsv", None, 5749, None),
        ("korsts/dev.tsv", None, 1500, None),
        ("korsts/test.tsv", None, 1379, None),
        ("korxnli/dev.tsv", None, 2490, None),
        ("korxnli/test.tsv", None, 5010, None),
        ("nli_en/dev.tsv", None, 1479, None),
        ("sts12_14/sts12.tsv", None, 3108, None),
        ("sts12_14/sts14.tsv", None, 3750, None),
        ("nsmc/test.txt", "tsv", 20000, ["document"]),
    ],
)
def test_real_files_give_every_row(name: str, kind: str | None, n_rows: int, text_names: list[str] | None) -> None:
    table = open_table(DATA / name, kind=kind)
    columns = table.text_columns(text_names, 1 if text_names else 2)
    assert sum(1 for _ in table.texts(columns)) == n_rows
    assert table.count_rows() == n_rows
    assert table.format.quoting is (table.format.kind == "csv")


@needs_data
def test_real_csv_is_read_as_the_standard_reader_reads_it() -> None:
    path = DATA / "stsb" / "train.csv"
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    table = open_table(path)
    assert table.format.columns == tuple(header)
    assert [list(row.values) for row in table] == rows


@needs_data
def test_real_reviews_are_lines_unless_a_kind_is_given() -> None:
    path = DATA / "nsmc" / "test.txt"
    assert open_table(path).format.describe() == "lines, utf-8"
    assert open_table(path).count_rows() == 20001
    assert open_table(path, delimiter="tab").format.columns == ("id", "document", "label")
    assert open_table(path, kind="tsv").text_columns(None, 1) == (1,)


@needs_data
def test_real_tab_file_with_scores_keeps_its_bytes(tmp_path: Path) -> None:
    source, target = DATA / "korsts" / "dev.tsv", tmp_path / "scored.tsv"
    write_scores(open_table(source), target, "predicted", iter([0.5] * 1500))
    lines = target.read_text(encoding="utf-8").split("\n")
    assert [line.rsplit("\t", 1)[0] for line in lines[:-1]] == source.read_text(encoding="utf-8").split("\n")


# ---------------------------------------------------------------- what is read


def test_header_may_hold_line_ends_in_quotes(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'a,"b\r\nc"\r\n1,2\r\n')
    assert open_table(path).format.columns == ("a", "b\r\nc")
    assert values(path) == [("1", "2")]


def test_format_says_what_was_found_in_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", f"{HEADER}\na,b,1\n")
    assert open_table(path).format.describe() == "csv, comma, quoted, utf-8, columns sentence1, sentence2, score"
    shown = TableFormat("tsv", "utf-16", "\t", False, ("a\x1b[31m\n",)).describe()
    assert shown == "tsv, tab, unquoted, utf-16, columns a\\x1b[31m\\n"


def test_table_can_be_read_many_times(tmp_path: Path) -> None:
    table = open_table(written(tmp_path, "a.csv", "a,b\n1,2\n"))
    assert list(table) == list(table) == [Row(2, ("1", "2"))]


def test_cells_that_look_like_numbers_or_missing_stay_texts(tmp_path: Path) -> None:
    cells = ["NA", "null", "None", "nan", "007", "1e5", "=1+1", " x ", "\u3000", "\u200b", "N/A", "#N/A", "TRUE"]
    for name, join in (("a.csv", ","), ("a.tsv", "\t")):
        path = written(tmp_path, name, f"a{join}b\n" + "".join(f"{c}{join}{c}\n" for c in cells))
        assert pairs(path) == [(c, c) for c in cells]


def test_quoted_cells_hold_delimiters_quotes_and_line_ends(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'a,b\r\n"1, 2","say ""hi"""\r\n"x\r\ny\nz",""""\r\n"", 5" disk \r\n')
    assert list(open_table(path)) == [
        Row(2, ("1, 2", 'say "hi"')),
        Row(3, ("x\r\ny\nz", '"')),
        Row(6, ("", ' 5" disk ')),
    ]


@pytest.mark.parametrize(("delimiter", "name"), [(",", "comma"), (";", "semicolon"), ("\t", "tab"), ("|", "pipe")])
def test_delimiter_is_found_in_the_header_outside_quotes(tmp_path: Path, delimiter: str, name: str) -> None:
    path = written(tmp_path, "a.csv", f'"x,;|\t,;|\t"{delimiter}b\n1{delimiter}2\n')
    assert values(path) == [("1", "2")]
    assert f"csv, {name}, quoted" in open_table(path).format.describe()


def test_delimiter_and_kind_can_be_given(tmp_path: Path) -> None:
    content = "a:b\n1:2\n"
    assert values(written(tmp_path, "a.csv", content), delimiter=":") == [("1", "2")]
    assert values(written(tmp_path, "a.dat", content), delimiter=":", kind="csv") == [("1", "2")]
    assert values(written(tmp_path, "a.txt", "a\tb\n1\t2\n"), delimiter="\\t") == [("1", "2")]
    assert open_table(tmp_path / "a.txt").format.columns == ()


def test_tab_file_keeps_rows_with_raw_quotes(tmp_path: Path) -> None:
    rows = [('"x', "y"), ('"a" b', '"c"'), ('say ""hi""', '"')]
    path = written(tmp_path, "a.tsv", "a\tb\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
    assert pairs(path) == rows


@pytest.mark.parametrize(
    "content",
    ['"a"\t"b"\n"1"\t"say ""hi"""\n', 'a\tb\n1\t"say ""hi"""\n', 'a\tb\r\n1\t"say ""hi"""\r\n'],
)
def test_tab_file_that_a_csv_writer_wrote_is_unquoted(tmp_path: Path, content: str) -> None:
    path = written(tmp_path, "a.tsv", content)
    assert values(path) == [("1", 'say "hi"')]
    assert "tsv, tab, quoted" in open_table(path).format.describe()
    assert values(path, kind="tsv") != [("1", 'say "hi"')], "a kind that is given is not second-guessed"


def test_quoted_tab_file_may_be_longer_than_what_is_searched_for_the_proof(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tsv", "a\tb\n" + '1\t"x\ny"\n' * 150_000)
    assert open_table(path).format.quoting is True


@pytest.mark.parametrize(("codec", "found"), [("utf-8", "utf-8"), ("utf-8-sig", "utf-8-sig"), ("utf-16", "utf-16")])
def test_byte_order_mark_says_the_encoding(tmp_path: Path, codec: str, found: str) -> None:
    path = written(tmp_path, "a.csv", "a,b\n가,나\u2028다\n".encode(codec))
    assert open_table(path).format.encoding == found
    assert pairs(path) == [("가", "나\u2028다")]


@pytest.mark.parametrize("codec", ["cp949", "euc-kr", "johab", "utf-16-le", "utf-8"])
def test_given_encoding_is_used(tmp_path: Path, codec: str) -> None:
    path = written(tmp_path, "a.tsv", "a\tb\n가나\t다라\n".encode(codec))
    assert pairs(path, encoding=codec) == [("가나", "다라")]


def test_mark_is_no_text_where_utf_8_is_given(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", codecs.BOM_UTF8 + b"x\n")
    assert values(path, encoding="utf8") == [("x",)]


def test_only_line_feeds_end_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "a\u2028b\x85c\x0bd\r\r\n \nlast")
    table = open_table(path)
    assert list(table.texts(table.text_columns(None, 1))) == [("a\u2028b\x85c\x0bd\r",), (" ",), ("last",)]
    assert table.count_rows() == 3


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_empty_lines_between_records_are_left_out_and_lines_still_counted(tmp_path: Path, name: str) -> None:
    join = "," if name == "a.csv" else "\t"
    path = written(tmp_path, name, f"\na{join}b\n\r\n1{join}2\n\n\n3{join}4")
    assert list(open_table(path)) == [Row(4, ("1", "2")), Row(7, ("3", "4"))]
    assert open_table(path).count_rows() == 2


def test_very_long_cells_are_read_without_changing_the_limit_of_the_process(tmp_path: Path) -> None:
    limit, long = csv.field_size_limit(), "가" * 1_000_000
    path = written(tmp_path, "a.csv", f'a,b\n"{long}, x",y\n')
    assert pairs(path) == [(long + ", x", "y")]
    assert csv.field_size_limit() == limit


def test_json_values_keep_their_type_and_missing_keys_are_seen(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "a.jsonl",
        '\ufeff{"text": "가\\ud83d\\ude00", "n": 1, "x": [1, null]}\n\n  {"n": 2.50, "other": true, "text": "b"} \r\n',
    )
    table = open_table(path)
    assert list(table) == [Row(1, ("가😀", 1, [1, None])), Row(3, ("b", 2.5, Missing.MISSING))]
    assert list(table.texts((0,))) == [("가😀",), ("b",)]
    assert table.count_rows() == 2


@pytest.mark.parametrize("type_name", ["string", "large_string", "string_view", "dictionary"])
def test_parquet_texts_of_every_string_type_are_read(tmp_path: Path, type_name: str) -> None:
    if type_name == "string_view" and not hasattr(pa, "string_view"):
        pytest.skip("this pyarrow has no string_view")
    type_ = pa.dictionary(pa.int32(), pa.string()) if type_name == "dictionary" else getattr(pa, type_name)()
    table = pa.table({"n": [1, 2], "a": pa.array(["x", "y"]).cast(type_), "b": ["NA", "\u200b"]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = open_table(tmp_path / "a.parquet")
    assert list(found.texts(found.text_columns(None, 2))) == [("x", "NA"), ("y", "\u200b")]
    assert list(found) == [Row(1, (1, "x", "NA")), Row(2, (2, "y", "\u200b"))]
    assert found.format.describe() == "parquet, columns n, a, b"


def test_parquet_rows_are_numbered_across_batches(tmp_path: Path) -> None:
    n_rows = formats.PARQUET_BATCH_ROWS * 2 + 3
    texts = [str(i) for i in range(n_rows)]
    texts[-2] = ""
    pq.write_table(pa.table({"text": texts, "bytes": [b"x"] * n_rows}), tmp_path / "a.parquet", row_group_size=5000)
    table = open_table(tmp_path / "a.parquet")
    assert table.count_rows() == n_rows
    with pytest.raises(DataError, match=f"row {n_rows - 1}: column 'text': expected a text, found an empty one"):
        list(table.texts(table.text_columns(["text"], 1)))


@pytest.mark.parametrize(
    ("columns", "n", "expected"),
    [
        ("Sentence1,x,SENTENCE2", 2, (0, 2)),
        ("hypothesis,premise", 2, (1, 0)),
        ("id,question1,question2", 2, (1, 2)),
        ("text_a,text_b", 2, (0, 1)),
        ("text2,text1", 2, (1, 0)),
        ("query,document", 2, (0, 1)),
        ("a,b,c", 2, (0, 1)),
        ("id,Text", 1, (1,)),
        ("id,document,label", 1, (1,)),
    ],
)
def test_text_columns_are_found_by_usual_names(tmp_path: Path, columns: str, n: int, expected: tuple[int, ...]) -> None:
    path = written(tmp_path, "a.csv", columns + "\n")
    assert open_table(path).text_columns(None, n) == expected  # type: ignore[arg-type]


def test_reading_needs_no_heavy_import() -> None:
    code = (
        "import sys, sbert_ft.data.table as t; "
        "print([m for m in ('torch', 'transformers', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "a,b\n" + ('"x, 1' + "x" * 200 + '",y\n') * 30_000)
    code = (
        "import sys, tracemalloc; from sbert_ft.data.table import open_table; tracemalloc.start(); "
        "t = open_table(sys.argv[1]); n = sum(1 for _ in t.texts((0, 1))); print(n, tracemalloc.get_traced_memory()[1])"
    )
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    n_rows, peak_bytes = map(int, result.stdout.split())
    assert n_rows == 30_000
    assert peak_bytes < 1_000_000 < path.stat().st_size


# ---------------------------------------------------------------- what is refused

BAD_TEXT_FILES: list[tuple[str, str, str | bytes, str]] = [
    ("no byte", "a.csv", b"", "is empty"),
    ("only line ends", "a.csv", "\n\r\n\n", "only empty lines"),
    ("only blank JSON lines", "a.jsonl", "\n  \n", "only blank lines"),
    ("only a mark", "a.txt", codecs.BOM_UTF8, "holds no row"),
    ("header only", "a.csv", "a,b\n", "holds no row"),
    ("header only, tabs", "a.tsv", "a\tb", "holds no row"),
    ("unknown suffix", "a.xyz", "a", r"suffix '.xyz'; expected .txt, .csv, .*--kind"),
    ("no suffix", "texts", "a", r"suffix ''; expected .txt"),
    ("gzip", "a.csv", gzip.compress(b"a,b\n1,2\n"), "expected csv, found a gzip archive; unpack"),
    ("gzip by suffix", "a.csv.gz", gzip.compress(b"a,b\n"), "suffix '.gz'"),
    ("web page", "a.csv", "\n<!DOCTYPE html><html></html>", r"found a web page"),
    ("web page as lines", "a.txt", "<html lang='en'>\n", r"found a web page"),
    ("old workbook", "a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1", "found an old Excel workbook"),
    ("pdf", "a.txt", b"%PDF-1.7\n", "found a PDF"),
    ("text as Parquet", "a.parquet", "a,b\n1,2\n", "not PAR1"),
    ("cut Parquet", "a.parquet", b"PAR1\x15\x04\x15", "damaged or truncated"),
    ("unclosed quote", "a.csv", 'a,b\n1,2\n"x\ny",z\n"3,4\n5,6\n', "line 5: the quote that opens a cell"),
    ("unclosed second cell", "a.csv", 'a,b\n"x\ny","z\n', "line 3: the quote that opens a cell"),
    ("unclosed header", "a.csv", 'a,"b\n1,2\n', "line 1: the quote"),
    ("text after quote", "a.csv", 'a,b\n"x"y,z\n', """line 2: after the quote .* expected ',' .* found 'y,z'"""),
    ("few cells", "a.csv", "a,b\n1,2\n3\n", "line 3: expected 2 cells as in the header, found 1"),
    ("many cells", "a.csv", "a,b\n1,2,\n", "line 2: expected 2 cells as in the header, found 3"),
    ("few cells after a long record", "a.csv", 'a,b\n"1\n1",2\n3\n', "line 4: expected 2"),
    ("ragged tabs", "a.tsv", "a\tb\nx\ty\nx\ty\tz\n", "line 3: expected 2 cells .*, found 3.*tabs"),
    ("white line", "a.csv", "a,b\n \n", "line 2: expected 2 cells as in the header, found 1"),
    ("same names", "a.csv", "a,b,a\n1,2,3\n", "2 columns are called 'a'"),
    ("same names, tabs", "a.tsv", "a\ta\n1\t2\n", "2 columns are called 'a'"),
    ("two delimiters", "a.csv", "a,b;c\n1,2;3\n", "as many of comma and semicolon.*--delimiter"),
    ("return after a header", "a.csv", "a,b\r1,2\n", "line 1: a lone carriage return"),
    ("return between texts", "a.txt", "a\nb\rc\n", "line 2: a lone carriage return"),
    ("return between rows", "a.tsv", "a\tb\n1\t2\r3\t4\n", "line 2: expected 2 cells"),
    ("return between objects", "a.jsonl", '{"a": "x", "b": "y"}\n{"a": "x"}\r{"a": "y"}\n', "line 2: is not JSON"),
    ("line feed after many returns", "a.txt", "a\r" * 40_000 + "b\nc\n", "line 40,?001: ends with a line feed"),
    ("empty cell", "a.csv", "a,b\n1,2\n3,\n", "line 3: column 'b': expected a text, found an empty one"),
    ("empty quoted cell", "a.csv", 'a,b\n"",2\n', "line 2: column 'a': expected a text, found an empty one"),
    ("empty cell, tabs", "a.tsv", "a\tb\n\t2\n", "line 2: column 'a'"),
    ("empty line", "a.txt", "x\n\ny\n", "line 2: empty text"),
    ("empty last line", "a.txt", "x\r\n\r\n", "line 2: empty text"),
    ("NUL in lines", "a.txt", "x\ny\0z\n", "line 2: holds a NUL"),
    ("NUL in cells", "a.csv", "a,b\n1,\0\n", "line 2: holds a NUL"),
    ("NUL in tab cells", "a.tsv", "a\tb\n1\t\0\n", "line 2: holds a NUL"),
    ("UTF-16 without mark", "a.csv", "a,b\n1,2\n".encode("utf-16-le"), "line 1: holds a NUL .*utf-16-le"),
    ("UTF-16 cut", "a.txt", "ab\ncd\n".encode("utf-16")[:-1], "line 2: byte 0x0a at offset 12 is not in utf-16"),
    (
        "cp949 with Hanja",
        "a.csv",
        "a,b\n1,한國語\n".encode("cp949"),
        "line 2: byte 0xc7 at offset 6 .*--encoding cp949",
    ),
    ("latin-1", "a.csv", "a,b\n1,caf\xe9\n".encode("latin-1"), "line 2: byte 0xe9 at offset 9 .*--encoding latin-1"),
    ("mixed encodings", "a.txt", "가\n".encode() * 9 + "나\n".encode("cp949"), "line 10: byte 0xb3 at offset 36"),
    ("cut character", "a.txt", "x\n가".encode()[:-1], "line 2: byte 0xea at offset 2 is not in utf-8"),
    ("half character", "a.txt", b"x\n\xed\xa0\xbd\n", "line 2: byte 0xed"),
    ("JSON array of texts", "a.json", '[\n"x", "y"]', "line 2: expected a JSON object"),
    ("JSON array that is cut", "a.json", '[\n{"a": "x", "b": "y"},\n{"a": "y"', "line 3: is not JSON from here on"),
    (
        "JSON array without a comma",
        "a.json",
        '[\n{"a": "x", "b": "y"}\n{"a": "y"}]',
        "line 3: is not JSON from here on",
    ),
    ("JSON after an array", "a.json", '[{"a": "x", "b": "y"}]\n\n7', "line 3: is not JSON from here on"),
    ("JSON array with NaN", "a.json", '[{"a": "x", "b": "y"},\n{"a": NaN}]', "line 2: .*NaN is not a JSON number"),
    ("JSON array, empty", "a.json", " [ ] ", "an empty array"),
    ("key in two ways", "a.jsonl", '{"a.b": "x", "a": {"b": "y"}}', "line 1: the key 'a.b' stands in the first"),
    ("workbook that is text", "a.xlsx", "a,b\n", "not a zip archive"),
    ("workbook that is cut", "a.xlsx", b"PK\x03\x04" + bytes(99), "damaged, or not an Excel workbook"),
    ("JSON cut", "a.jsonl", '{"a": "x", "b": "y"}\n{"a": "x", "b', "line 2: is not JSON"),
    ("JSON text", "a.jsonl", '{"a": "x", "b": "y"}\n"x"\n', "line 2: expected a JSON object, found"),
    ("JSON list", "a.jsonl", '{"a": "x", "b": "y"}\n["x", "y"]\n', "line 2: expected a JSON object, found"),
    ("JSON null", "a.jsonl", "null\n", "line 1: expected a JSON object, found 'null'"),
    ("JSON deep", "a.jsonl", '{"a": ' + "[" * 200_000, "line 1: is nested too deeply"),
    ("JSON half character", "a.jsonl", '{"a": "\\ud800", "b": "y"}', "line 1: holds half a character"),
    ("JSON half key", "a.jsonl", '{"\\udc00": "x", "b": "y"}', "line 1: holds half a character"),
    ("JSON digits", "a.jsonl", '{"a": "x", "b": ' + "1" * 5000 + "}", "line 1: a number of 5,000 digits"),
    ("JSON NaN", "a.jsonl", '{"a": "x", "b": "y", "c": NaN}', "line 1: NaN is not a JSON number"),
    ("JSON infinity", "a.jsonl", '{"a": "x", "b": "y", "c": -Infinity}', "line 1: -Infinity is not a JSON"),
    ("JSON overflow", "a.jsonl", '{"a": "x", "b": "y", "c": 1e309}', "line 1: the number '1e309' is too large"),
    (
        "JSON keys twice",
        "a.jsonl",
        '{"a": "x", "b": "y"}\n{"a": "x", "a": "y"}',
        "line 2: the key 'a' stands twice",
    ),
    ("JSON control", "a.jsonl", '{"a": "x\ty", "b": "y"}', "line 1: is not JSON"),
    ("JSON two objects", "a.jsonl", '{"a": "x", "b": "y"} {"a": "x"}', "line 1: is not JSON"),
    ("JSON no keys", "a.jsonl", "{}\n", "no columns"),
    ("JSON missing key", "a.jsonl", '{"a": "x", "b": "y"}\n{"a": "x"}', "line 2: column 'b'.* found no such key"),
    ("JSON null value", "a.jsonl", '{"a": "x", "b": null}', "line 1: column 'b'.* found null"),
    ("JSON number", "a.jsonl", '{"a": 5, "b": "y"}', "line 1: column 'a': expected a text, found int '5'"),
    ("JSON true", "a.jsonl", '{"a": "x", "b": true}', "line 1: column 'b': expected a text, found bool 'True'"),
    ("JSON nested text", "a.jsonl", '{"a": "x", "b": ["y"]}', "line 1: column 'b': expected a text, found list"),
    ("JSON NUL", "a.jsonl", '{"a": "x", "b": "\0"}', "line 1: holds a NUL"),
]


def read_all(path: Path) -> None:
    """Read the texts of a file as the commands do."""
    table = open_table(path)
    list(table.texts(table.text_columns(None, 1 if table.format.kind == "lines" else 2)))


@pytest.mark.parametrize(("name", "content", "message"), [pytest.param(*c[1:], id=c[0]) for c in BAD_TEXT_FILES])
def test_bad_file_is_refused_with_its_place_and_remedy(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(DataError, match=message) as caught:
        read_all(path)
    assert name in str(caught.value)
    assert "\ufffd" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_of_several_columns_of_one_name_none_can_be_named(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, "a,b,a\n1,2,3\n") if name.endswith("csv") else same_names(tmp_path)
    table = open_table(path)
    with pytest.raises(DataError, match="2 columns are called 'a'; give each a name of its own"):
        table.column_index("a")


def parquet_of(column: object) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        pq.write_table(pa.table({"a": ["x", "y"], "b": column}), folder / "a.parquet")
        return folder / "a.parquet"

    return build


def damaged_page(folder: Path) -> Path:
    path = folder / "a.parquet"
    pq.write_table(pa.table({"a": ["x" * 9999], "b": ["y" * 9999]}), path, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[60:90] = b"\xff" * 30
    path.write_bytes(content)
    return path


def cut_file(folder: Path) -> Path:
    path = parquet_of(["x", "y"])(folder)
    path.write_bytes(path.read_bytes()[:-20])
    return path


def same_names(folder: Path) -> Path:
    pq.write_table(pa.Table.from_arrays([pa.array(["x"])] * 2, names=["a", "a"]), folder / "a.parquet")
    return folder / "a.parquet"


def wrong_bytes(folder: Path) -> Path:
    buffers = pa.array([b"x", b"\xff"]).buffers()
    array = pa.StringArray.from_buffers(2, buffers[1], buffers[2])
    pq.write_table(pa.table({"a": ["x", "y"], "b": array}), folder / "a.parquet")
    return folder / "a.parquet"


def other_suffix(folder: Path) -> Path:
    return parquet_of(["x", "y"])(folder).rename(folder / "a.csv")


def workbook(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.csv", "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return folder / "a.csv"


def zip_archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.csv", "w") as archive:
        archive.writestr("data.csv", "a,b\n")
    return folder / "a.csv"


def a_folder(folder: Path) -> Path:
    (folder / "a.csv").mkdir()
    return folder / "a.csv"


def dangling_link(folder: Path) -> Path:
    (folder / "a.csv").symlink_to(folder / "gone.csv")
    return folder / "a.csv"


def link_circle(folder: Path) -> Path:
    (folder / "a.csv").symlink_to(folder / "a.csv")
    return folder / "a.csv"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.csv")
    return folder / "a.csv"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        pytest.param(parquet_of(["x", None]), "row 2: column 'b': expected a text, found null", id="null"),
        pytest.param(parquet_of([1, 2]), "row 1: column 'b': expected a text, found int '1'", id="numbers"),
        pytest.param(parquet_of([b"x", b"y"]), "row 1: column 'b': expected a text, found bytes", id="binary"),
        pytest.param(parquet_of([float("nan"), 1.0]), "row 1: column 'b': .* found float 'nan'", id="NaN"),
        pytest.param(parquet_of([["x"], ["y"]]), "row 1: column 'b': expected a text, found list", id="lists"),
        pytest.param(damaged_page, "damaged", id="damaged page"),
        pytest.param(cut_file, "damaged or truncated", id="cut"),
        pytest.param(same_names, "2 columns are called 'a'", id="same names"),
        pytest.param(wrong_bytes, "column 'b' holds a value that cannot be read", id="wrong bytes"),
        pytest.param(other_suffix, "expected csv, found a Parquet file; give it the suffix .parquet", id="suffix"),
        pytest.param(workbook, "found an Excel workbook", id="workbook"),
        pytest.param(zip_archive, "found a zip archive; unpack", id="zip"),
        pytest.param(a_folder, "is a folder", id="folder"),
        pytest.param(dangling_link, "is a link to '.*gone.csv', which does not exist", id="dangling link"),
        pytest.param(link_circle, "cannot be read: .*symbolic links", id="link circle"),
        pytest.param(pipe, "is a pipe", id="pipe"),
        pytest.param(lambda folder: folder / "a.csv", "no such file", id="no file"),
        pytest.param(lambda folder: folder / ("a" * 300 + ".csv"), "cannot be read: File name too long", id="long"),
        pytest.param(lambda folder: folder / "a\0.csv", "cannot be a path", id="NUL"),
        pytest.param(lambda folder: folder / "a.csv" / "b.csv", "no such file", id="no folder"),
    ],
)
def test_bad_place_or_parquet_is_refused_at_once(tmp_path: Path, build: Callable[[Path], Path], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_all(build(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", "a,b\n", {"kind": "xls"}, "--kind 'xls' is not known; expected lines, csv"),
        ("a.csv", "a,b\n", {"delimiter": ",,"}, "--delimiter ',,' cannot separate"),
        ("a.csv", "a,b\n", {"delimiter": '"'}, "cannot separate"),
        ("a.csv", "a,b\n", {"delimiter": ""}, "cannot separate"),
        ("a.tsv", "a\tb\n", {"delimiter": ","}, "tabs between cells, not ','"),
        ("a.jsonl", "{}", {"delimiter": ","}, "jsonl has no delimiter"),
        ("a.txt", "x", {"delimiter": ",", "kind": "lines"}, "lines has no delimiter"),
        ("a.csv", "a,b\n", {"encoding": "klingon"}, "--encoding 'klingon' is not an encoding"),
        ("a.csv", "a,b\n", {"encoding": "zlib"}, "--encoding 'zlib' is not an encoding"),
        ("a.csv", "a,b\n", {"encoding": "unicode_escape"}, "is not an encoding of text files"),
        ("a.csv", "a,b\n", {"encoding": "\0"}, "is not an encoding"),
        ("a.csv", "a,b\n", {"encoding": ""}, "is not an encoding"),
        ("a.csv", "가,나\n", {"encoding": "ascii"}, "line 1: byte 0xea at offset 0 .* leave --encoding out"),
        ("a.csv", "가,나\n", {"encoding": "utf-16"}, "is not in utf-16"),
        ("a.parquet", b"PAR1", {"encoding": "utf-8"}, "leave --encoding out"),
    ],
)
def test_wrong_option_is_refused(
    tmp_path: Path, name: str, content: str | bytes, options: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_table(written(tmp_path, name, content), **options)


@pytest.mark.parametrize(
    ("name", "content", "names", "n", "message"),
    [
        (
            "a.csv",
            HEADER,
            ["sentnce1", "score"],
            2,
            "no column 'sentnce1'; the first line, taken as the header, names 'sentence1', .*did you mean 'sentence1'",
        ),
        ("a.csv", HEADER, ["Sentence1", "score"], 2, "did you mean 'sentence1'"),
        ("a.csv", HEADER, ["score", "score"], 2, "expected the names of two columns of texts, found 'score', 'score'"),
        ("a.csv", HEADER, ["score"], 2, "expected the names of two columns"),
        ("a.csv", HEADER, [], 1, "expected the names of one column"),
        ("a.csv", HEADER, None, 1, "one column of texts, which of them is not clear; .*--column NAME"),
        (
            "a.csv",
            "x,y,z",
            None,
            2,
            "none with a usual name; the first line, taken as the header, names 'x', 'y', 'z'.*--columns A,B",
        ),
        ("a.csv", "A man eats.,A man is eating.", None, 2, "none with a usual name; .*'A man eats.'"),
        ("a.csv", "premise,hypothesis,a,b", None, 2, "which of them is not clear"),
        ("a.csv", "text,Text", None, 1, "which of them is not clear"),
        ("a.csv", "only one", None, 1, "none with a usual name"),
        ("a.jsonl", '{"x": "1", "y": "2"}', None, 2, "the first object has 'x', 'y'"),
        ("a.txt", "x", None, 2, "expected two columns of texts, found one text per line"),
        ("a.txt", "x", ["text"], 1, "one text per line, so there is no column 'text'"),
    ],
)
def test_columns_that_cannot_be_told_are_refused(
    tmp_path: Path, name: str, content: str, names: list[str] | None, n: int, message: str
) -> None:
    table = open_table(written(tmp_path, name, content))
    with pytest.raises(DataError, match=message):
        table.text_columns(names, n)  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", ["utf-8", "cp949", "utf-16-le"])
def test_place_of_a_bad_byte_is_right_far_into_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    monkeypatch.setattr(text, "_CHUNK_BYTES", 7)
    good = "가나\n".encode(codec) * 50
    path = written(tmp_path, "a.txt", good + b"\xff\xdf")
    with pytest.raises(DataError, match=rf"line 51: byte 0x.. at offset {len(good)} is not in {codec}"):
        list(open_table(path, encoding=codec))


def test_unclosed_quote_does_not_read_a_huge_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_RECORD_CHARS", 1000)
    lines = ((i, "x\n") for i in range(3, 10**9))
    with pytest.raises(DataError, match="line 2: the quote that opens a cell here is not closed"):
        list(formats.cell_records(Path("a.csv"), iter([(2, '"x\n'), *(next(lines) for _ in range(999))]), ","))


def test_line_longer_than_any_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_RECORD_CHARS", 10)
    with pytest.raises(DataError, match="line 2: longer than 10 characters"):
        list(open_table(written(tmp_path, "a.txt", "x\n" + "y" * 11)))


def test_file_that_changes_between_readings_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "a,b\n1,2\n")
    table = open_table(path)
    path.write_text("b,a\n1,2\n")
    with pytest.raises(DataError, match="changed while it was read"):
        list(table)


# ---------------------------------------------------------------- what is written

CONTENTS = {
    "csv": 'a,b\n"x, y",007\n"say ""hi""","two\r\nlines"\n=1+1,NA\n',
    "tsv": 'a\tb\n"x\t007\nsay "hi"\t1e5\n=1+1\tNA\n',
    "jsonl": '{"a": "x, y", "b": "007"}\n{"b": "NA", "a": "\\uac00"}\n{"a": "=1+1", "b": "\\u2028"}\n',
}


@pytest.mark.parametrize("source", [*CONTENTS, "parquet"])
@pytest.mark.parametrize("target", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_can_be_written_from_every_other(tmp_path: Path, source: str, target: str) -> None:
    path = tmp_path / f"in.{source}"
    if source == "parquet":
        pq.write_table(pa.table({"a": ["x, y", "z", '"'], "b": ["007", "NA", "=1+1"]}), path)
    else:
        path.write_bytes(CONTENTS[source].encode())
    table, out = open_table(path), tmp_path / f"out.{target}"
    if (source, target) == ("csv", "tsv"):
        with pytest.raises(DataError, match="line 3: a tab or line end in a cell"):
            write_scores(table, out, "score", iter([0.1, -1.0, 1e-7]))
        return
    write_scores(table, out, "score", iter([0.1, -1.0, 1e-7]))
    back = open_table(out)
    assert back.format.columns == ("a", "b", "score")
    assert [row.values[:2] for row in back] == [row.values for row in table]
    scores = np.array([float(row.values[2]) for row in back], dtype=np.float32)  # type: ignore[arg-type]
    assert scores.tolist() == np.array([0.1, -1.0, 1e-7], dtype=np.float32).tolist()


def test_json_lines_keep_their_spelling_and_extra_keys(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"a":"\\uac00","n":1.10}\n\n {"n":1e2 , "more":{"x":[ ]} }\r\n{}\n')
    write_scores(open_table(path), tmp_path / "b.jsonl", "점수", iter([1, 0.25, 3]))
    assert (tmp_path / "b.jsonl").read_text(encoding="utf-8") == (
        '{"a":"\\uac00","n":1.10, "점수": 1.0}\n{"n":1e2 , "more":{"x":[ ]}, "점수": 0.25}\n{"점수": 3.0}\n'
    )


def test_file_of_its_own_kind_keeps_delimiter_encoding_and_quoting(tmp_path: Path) -> None:
    for name, content, expected in [
        ("a.csv", 'a;b\n가;"x;y"\n'.encode("utf-8-sig"), 'a;b;s\n가;"x;y";0.5\n'.encode("utf-8-sig")),
        ("a.csv", "a,b\n가,y\n".encode("utf-16"), "a,b,s\n가,y,0.5\n".encode("utf-16")),
        ("a.tsv", b'"a"\t"b"\n"1\t2"\t"3"\n', b'"a"\t"b"\t"s"\n"1\t2"\t"3"\t"0.5"\n'),
        ("a.tsv", b'a\tb\n"1\t2"\n', b'a\tb\ts\n"1\t2"\t0.5\n'),
    ]:
        table = open_table(written(tmp_path, name, content))
        write_scores(table, tmp_path / f"out_{name}", "s", iter([0.5]))
        assert (tmp_path / f"out_{name}").read_bytes() == expected


def test_tab_file_named_txt_is_written_as_one(tmp_path: Path) -> None:
    table = open_table(written(tmp_path, "a.txt", "id\ttext\n1\tx\n"), kind="tsv")
    write_scores(table, tmp_path / "b.txt", "s", iter([0.5]))
    assert (tmp_path / "b.txt").read_text() == "id\ttext\ts\n1\tx\t0.5\n"


def test_lines_are_written_as_a_column_of_texts(tmp_path: Path) -> None:
    table = open_table(written(tmp_path, "a.txt", "x, y\nz\n"))
    write_scores(table, tmp_path / "b.csv", "s", iter([0.5, 1]))
    assert (tmp_path / "b.csv").read_text() == 'text,s\n"x, y",0.5\nz,1.0\n'
    with pytest.raises(OutputError, match="has no place for a column"):
        write_scores(table, tmp_path / "b.txt", "s", iter([0.5, 1]))


def test_parquet_keeps_types_and_metadata_and_is_written_in_batches(tmp_path: Path) -> None:
    n_rows = formats.PARQUET_BATCH_ROWS + 1
    source = pa.table(
        {"text": ["x"] * n_rows, "n": pa.array([1] * n_rows, pa.int8()), "v": [[0.5, None]] * n_rows}
    ).replace_schema_metadata({"k": "v"})
    pq.write_table(source, tmp_path / "a.parquet")
    write_scores(open_table(tmp_path / "a.parquet"), tmp_path / "b.parquet", "s", iter([0.5] * n_rows))
    back = pq.read_table(tmp_path / "b.parquet")
    assert back.schema.field("s").type == pa.float32()
    assert back.schema.metadata[b"k"] == b"v"
    assert back.drop_columns(["s"]).equals(source)


def test_parquet_without_rows_is_written(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    write_scores(open_table(tmp_path / "a.parquet"), tmp_path / "b.parquet", "s", iter([]))
    assert pq.read_table(tmp_path / "b.parquet").schema.names == ["text", "s"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("scores", [[0.5], [0.5, 0.5, 0.5]])
def test_other_number_of_values_than_rows_is_refused(tmp_path: Path, kind: str, scores: list[float]) -> None:
    table = open_table(written(tmp_path, "a.csv", "a,b\n1,2\n3,4\n"))
    with pytest.raises(DataError, match="values and rows differ in number after"):
        write_scores(table, tmp_path / f"out.{kind}", "s", iter(scores))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_value_that_is_no_finite_float32_is_not_written(tmp_path: Path, value: float, kind: str) -> None:
    table = open_table(written(tmp_path, "a.csv", "a,b\n1,2\n"))
    with pytest.raises(OutputError, match="value 1 of the new column"):
        write_scores(table, tmp_path / f"out.{kind}", "s", iter([value]))


def test_target_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "a,b\n가,2\n".encode("cp949"))
    table = open_table(path, encoding="cp949")
    with pytest.raises(OutputError, match="is the file that is read"):
        write_scores(table, path, "s", iter([1.0]))
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        write_scores(table, tmp_path / "no" / "b.csv", "s", iter([1.0]))
    with pytest.raises(OutputError, match=r"cannot be written: .*No such file"):
        write_scores(table, tmp_path / "no" / "b.parquet", "s", iter([1.0]))
    with pytest.raises(OutputError, match="'😀' cannot be written in cp949"):
        write_scores(table, tmp_path / "b.csv", "😀", iter([1.0]))
    assert path.read_bytes() == "a,b\n가,2\n".encode("cp949")


@pytest.mark.parametrize(
    ("name", "content", "target", "column", "message"),
    [
        ("a.csv", "a,s\n1,2\n", "b.csv", "s", "has a column 's' already"),
        ("a.jsonl", '{"a": "x"}\n{"a": "y", "s": 1}\n', "b.jsonl", "s", "line 2: has a key 's' already"),
        ("a.jsonl", '{"a": "x"}\n{"a": "y", "z": 1}\n', "b.csv", "s", "line 2: the key 'z' is not in the first"),
        ("a.jsonl", '{"a": "x"}\n{"a": 1}\n', "b.parquet", "s", "column 'a' holds values of several types"),
        ("a.jsonl", '{"a": "x\\u0000"}\n', "b.csv", "s", "holds a NUL character"),
        ("a.jsonl", '{"a": "x\\ty"}\n', "b.tsv", "s", "line 1: a tab or line end"),
        ("a.txt", "x\n", "b.csv", "text", "has a column 'text' already"),
    ],
)
def test_column_that_cannot_be_added_is_refused(
    tmp_path: Path, name: str, content: str, target: str, column: str, message: str
) -> None:
    table = open_table(written(tmp_path, name, content))
    with pytest.raises(DataError, match=message):
        write_scores(table, tmp_path / target, column, iter([0.5, 0.5]))


def test_parquet_values_that_json_and_cells_do_not_know_are_refused(tmp_path: Path) -> None:
    for column in ([b"x"], [float("nan")]):
        pq.write_table(pa.table({"v": column}), tmp_path / "a.parquet")
        with pytest.raises(DataError, match="row 1: cannot be written as JSON"):
            write_scores(open_table(tmp_path / "a.parquet"), tmp_path / "b.jsonl", "s", iter([0.5]))
    pq.write_table(pa.table({"v": [b"x"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 1: holds bytes"):
        write_scores(open_table(tmp_path / "a.parquet"), tmp_path / "b.csv", "s", iter([0.5]))


# ---------------------------------------------------------------- properties

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
TRICKY = st.text(st.sampled_from('",;\t\n\r \\x가\u2028\ufeff'), max_size=8)
TAB_TEXT = st.one_of(ANY_TEXT, TRICKY).map(lambda text: text.replace("\t", " ").replace("\n", " "))
# The examples of one test share its folder: each one overwrites the files.
A_FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def rows_of(texts: st.SearchStrategy[str]) -> st.SearchStrategy[list[tuple[str, str]]]:
    return st.lists(st.tuples(texts, texts), min_size=1, max_size=6)


def comes_back(folder: Path, rows: list[tuple[str, str]], kind: str) -> None:
    """Write the rows as objects, add a column in the format `kind`, read, add another: the rows are the same."""
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in rows))
    first, second = folder / f"first.{kind}", folder / f"second.{kind}"
    n_rows = len(rows)
    write_scores(open_table(source), first, "s", iter([0.5] * n_rows))
    write_scores(open_table(first, kind=kind), second, "t", iter([0.25] * n_rows))
    table = open_table(second, kind=kind)
    assert [row.values[:2] for row in table] == rows
    assert [tuple(map(float, row.values[2:])) for row in table] == [(0.5, 0.25)] * n_rows  # type: ignore[arg-type]
    assert table.count_rows() == n_rows


@A_FEW
@given(rows=rows_of(st.one_of(ANY_TEXT, TRICKY)))
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_rows_written_and_read_are_the_same(tmp_path: Path, kind: str, rows: list[tuple[str, str]]) -> None:
    comes_back(tmp_path, rows, kind)


@A_FEW
@given(rows=rows_of(TAB_TEXT))
def test_rows_without_tabs_and_line_ends_are_the_same_in_tab_files(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    comes_back(tmp_path, rows, "tsv")


@A_FEW
@given(rows=rows_of(st.one_of(ANY_TEXT, TRICKY)), delimiter=st.sampled_from(",;\t|"), always=st.booleans())
def test_quoted_cells_are_read_as_the_standard_writer_meant_them(
    tmp_path: Path, rows: list[tuple[str, str]], delimiter: str, always: bool
) -> None:
    path = tmp_path / "a.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL if always else csv.QUOTE_MINIMAL)
        writer.writerows([("a", "b"), *rows])
    assert values(path, delimiter=delimiter) == rows


@A_FEW
@given(content=st.binary(max_size=60), suffix=st.sampled_from(["txt", "csv", "tsv", "jsonl", "parquet"]))
def test_any_bytes_give_rows_or_our_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = written(tmp_path, f"a.{suffix}", content)
    try:
        table = open_table(path)
        n_rows = sum(1 for _ in table)
    except DataError as error:
        assert f"a.{suffix}" in str(error)
    else:
        assert table.count_rows() == n_rows


CLASSES = ["긍정", "a,b", 'the "red" one', "=1+1", "007"]


@pytest.mark.parametrize("target", ["out.csv", "out.jsonl", "out.parquet", "out.tsv"])
def test_new_texts_come_out_as_they_went_in(tmp_path: Path, target: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"text": "row {i}"}}\n' for i in range(len(CLASSES))), "utf-8")
    columns = (NewColumn("predicted", "text"), NewColumn("probability"), NewColumn("match", "bool"))
    values = ((name, 0.25, i % 2 == 0) for i, name in enumerate(CLASSES))
    write_table_with_columns(open_table(source), tmp_path / target, columns, values)
    rows = [row.values for row in open_table(tmp_path / target)]
    assert [row[:2] for row in rows] == [(f"row {i}", name) for i, name in enumerate(CLASSES)]
    assert {str(row[2]) for row in rows} == {"0.25"}
    assert [str(row[3]).lower() for row in rows] == ["true", "false", "true", "false", "true"]


def test_new_texts_that_a_format_cannot_hold_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.tsv"
    source.write_text("text\tx\na\tb\n", "utf-8")
    columns = (NewColumn("predicted", "text"),)
    with pytest.raises(DataError, match="a tab or line end in a cell"):
        write_table_with_columns(open_table(source), tmp_path / "out.tsv", columns, iter([("a\tb",)]))
    source.write_bytes("text,x\na,가\n".encode("cp949"))
    table = open_table(source, encoding="cp949", kind="csv")
    with pytest.raises(OutputError, match="cannot be written in"):
        write_table_with_columns(table, tmp_path / "out.csv", columns, iter([("😀",)]))
