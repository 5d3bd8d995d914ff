"""Files as people bring them: from spreadsheets, old Macs and other tools, in Korean, and data sets as published.

The excerpts have the layout of the published files and sentences of their own.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sbert_ft.config.settings import Reading
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.data.file_formats import write_table_with_columns
from sbert_ft.data.formats import Missing, NewColumn
from sbert_ft.data.table import open_table
from sbert_ft.errors import DataError, OutputError

CLASSES = Reading(label_kind="classes")
from_file = ConnectionDataset.from_file
KOREAN = "문장1,문장2,유사도\n고양이가 소파에서 잔다.,소파 위에 고양이가 있다.,4.2\n비가 온다.,빵을 굽는다.,0.4\n"


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def said(dataset: ConnectionDataset) -> str:
    return "\n".join(dataset.ledger.describe())


def labels_of(dataset: ConnectionDataset) -> list[float]:
    assert dataset.labels is not None
    return dataset.labels.tolist()


def workbook(path: Path, rows: list[list[Any]], **more: list[list[Any]]) -> Path:
    openpyxl = pytest.importorskip("openpyxl", reason="the xlsx extra is not installed")
    book = openpyxl.Workbook()
    book.active.title = "pairs"
    for sheet, values in ((book.active, rows), *((book.create_sheet(name), rows) for name, rows in more.items())):
        for row in values:
            sheet.append(row)
    book.save(path)
    return path


# ---------------------------------------------------------------- JSON


def test_array_of_objects_is_read_with_the_line_of_each(tmp_path: Path) -> None:
    rows = [{"text": f'text {i}\n[not] "the" end', "label": i % 2} for i in range(4)]
    for name, content, lines in (
        ("a.json", json.dumps(rows), [1, 1, 1, 1]),
        ("b.json", json.dumps(rows, indent=1), [2, 6, 10, 14]),
        ("c.json", json.dumps({"version": "v1", "data": rows, "n": [4]}, indent=1), [4, 8, 12, 16]),
        ("d.json", "\n".join(map(json.dumps, rows)), [1, 2, 3, 4]),
        ("e.jsonl", json.dumps(rows), [1, 1, 1, 1]),
    ):
        dataset = from_file(written(tmp_path, name, content))
        assert [row.texts[0] for row in dataset] == [row["text"] for row in rows]
        assert labels_of(dataset) == [0, 1, 0, 1] and dataset.lines.tolist() == lines, name


def test_bad_object_of_an_array_is_named_or_skipped(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", '[{"text": "a", "label": 1},\n 7,\n{"text": "b", "label": 0}]')
    with pytest.raises(DataError, match="1 of 3 rows cannot be used: line 2: expected a JSON object, found '7'"):
        from_file(path)
    assert from_file(path, Reading(on_bad_row="skip")).lines.tolist() == [1, 3]


def test_nested_keys_are_columns_and_the_label_among_them_is_found(tmp_path: Path) -> None:
    rows = [
        {"id": i, "in": {"sentence1": f"a {i}", "sentence2": f"b {i}"}, "labels": {"label": i / 2, "real": 3.1}}
        for i in range(3)
    ]
    path = written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert open_table(path).format.columns == ("id", "in.sentence1", "in.sentence2", "labels.label", "labels.real")
    dataset = from_file(path)
    assert dataset[1].texts == ("a 1", "b 1") and labels_of(dataset) == [0, 0.5, 1]
    assert "texts from 'in.sentence1' and 'in.sentence2', labels from 'labels.label'" in said(dataset)
    named = from_file(path, Reading(text_columns=("in.sentence2", "in.sentence1"), label_column="labels.real"))
    assert named[0].texts == ("b 0", "a 0") and labels_of(named) == [3.1] * 3
    pytest.importorskip("pyarrow", reason="the Parquet extra is not installed")
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    assert labels_of(from_file(tmp_path / "a.parquet")) == [0, 0.5, 1]


def test_label_that_is_nested_in_later_objects_alone_is_no_match(tmp_path: Path) -> None:
    lines = '{"sentence1": "a", "sentence2": "b"}\n{"sentence1": "a", "sentence2": "c", "score": 1}\n'
    with pytest.raises(DataError, match="line 2: has a key 'score' like a label"):
        from_file(written(tmp_path, "a.jsonl", lines))
    missing = '{"text": "a", "labels": {"label": 1}}\n{"text": "b", "labels": null}\n'
    with pytest.raises(DataError, match="line 2: label is missing"):
        from_file(written(tmp_path, "b.jsonl", missing))


def test_array_is_written_as_it_was_with_the_new_column(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", '{"data": [{"text": "a", "n": {"x": 1.50}},\n{"text": "b",\n"n": {"x": 2}}]}')
    columns = [NewColumn("score")]
    table = open_table(path)
    write_table_with_columns(table, tmp_path / "out.json", columns, iter([(0.5,), (0.25,)]), kind="json")
    expected = '[\n{"text": "a", "n": {"x": 1.50}, "score": 0.5},\n{"text": "b", "n": {"x": 2}, "score": 0.25}\n]\n'
    assert (tmp_path / "out.json").read_text() == expected
    write_table_with_columns(table, tmp_path / "out.jsonl", columns, iter([(0.5,), (0.25,)]))
    assert (tmp_path / "out.jsonl").read_text().splitlines()[0] == '{"text": "a", "n": {"x": 1.50}, "score": 0.5}'
    write_table_with_columns(table, tmp_path / "out.csv", columns, iter([(0.5,), (0.25,)]))
    assert (tmp_path / "out.csv").read_text() == "text,n.x,score\na,1.5,0.5\nb,2,0.25\n"
    assert [row.values for row in open_table(tmp_path / "out.json").rows((0, 2))] == [("a", 0.5), ("b", 0.25)]


# ---------------------------------------------------------------- workbooks


def test_first_sheet_is_read_and_the_others_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [["문장", "코드", None, None], ["첫째", "01110"], [], ["둘째", "1110", None, None], ["셋째", 7]]
    dataset = from_file(
        workbook(tmp_path / "a.xlsx", rows, notes=[["x"]]), Reading(label_column="코드", label_kind="classes")
    )
    assert dataset.class_names == ("7", "01110", "1110")
    assert [row.texts for row in dataset] == [("첫째",), ("둘째",), ("셋째",)] and dataset.lines.tolist() == [2, 4, 5]
    assert "reads the first sheet, 'pairs'; not read: 'notes'" in caplog.text
    assert open_table(tmp_path / "a.xlsx").count_rows() == 3


def test_workbook_with_bad_rows_names_them(tmp_path: Path) -> None:
    rows = [["sentence1", "sentence2", "score"], ["a", 5, 1], ["b", "c"], ["d", "e", 0.5, "more"]]
    with pytest.raises(DataError) as caught:
        from_file(workbook(tmp_path / "a.xlsx", rows))
    for part in ("3 of 3 rows", "row 2: the text in 'sentence2' is int '5'", "row 3: label is missing", "row 4: exp"):
        assert part in str(caught.value)


def test_workbook_is_not_written_but_its_rows_are(tmp_path: Path) -> None:
    table = open_table(workbook(tmp_path / "a.xlsx", [["text", "n"], ["a", 1], ["b"]]))
    write_table_with_columns(table, tmp_path / "a.csv", [NewColumn("s")], iter([(0.5,), (1.0,)]))
    assert (tmp_path / "a.csv").read_text() == "text,n,s\na,1,0.5\nb,,1.0\n"
    with pytest.raises(OutputError, match=r"a file of kind xlsx is only read; write to .csv, .tsv"):
        write_table_with_columns(table, tmp_path / "b.xlsx", [NewColumn("s")], iter([(0.5,), (1.0,)]))
    with pytest.raises(DataError, match=r"expected csv, found an Excel workbook; give it the suffix .xlsx"):
        open_table(written(tmp_path, "c.csv", b"PK\x03\x04 xl/workbook.xml"))


# ---------------------------------------------------------------- cells and lines


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "sep=;\r\nsentence1;sentence2;score\r\na,b;c;1\r\n"),
        ("a.csv", b'\xef\xbb\xbf"sep=|"\nsentence1|sentence2|score\na,b|c|1\n'),
        ("a.tsv", "sep=\t\nsentence1\tsentence2\tscore\na,b\tc\t1\n"),
    ],
)
def test_line_that_states_the_delimiter_is_no_header(tmp_path: Path, name: str, content: str | bytes) -> None:
    table = open_table(written(tmp_path, name, content))
    assert [(row.line, *row.values) for row in table] == [(3, "a,b", "c", "1")] and table.count_rows() == 1


def test_lines_of_an_old_mac_are_lines_in_every_format(tmp_path: Path) -> None:
    for name, content in (
        ("a.txt", "a\rb\rc\r"),
        ("b.txt", "a\rb\rc".encode("utf-16")),
        ("a.csv", 'text,n\ra,1\r"b",2\rc,3\r'),
        ("a.tsv", "text\tn\ra\t1\rb\t2\rc\t3\r"),
        ("a.jsonl", '{"text": "a"}\r{"text": "b"}\r{"text": "c"}\r'),
    ):
        table = open_table(written(tmp_path, name, content))
        n_heads = 1 if table.format.delimiter else 0
        assert [(row.line - n_heads, row.values[0]) for row in table] == [(1, "a"), (2, "b"), (3, "c")], name
        assert table.count_rows() == 3


def test_return_within_the_only_cell_is_refused_and_within_quotes_kept(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2: a lone carriage return within the line"):
        list(open_table(written(tmp_path, "a.csv", "text\na\rb\nc\n")))
    assert [row.values for row in open_table(written(tmp_path, "b.csv", 'text\n"a\rb"\n'))] == [("a\rb",)]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_cp949_is_found_and_said(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    text = KOREAN if name == "a.csv" else KOREAN.replace(",", "\t")
    if name == "a.jsonl":
        text = json.dumps({"문장1": "고양이가 잔다.", "문장2": "‘개’ ㅋㅋ ★", "유사도": 4.2}, ensure_ascii=False)
    dataset = from_file(written(tmp_path, name, text.encode("cp949")))
    assert dataset[0].texts[0].startswith("고양이가") and "is not in UTF-8 and is read as cp949" in caplog.text
    assert "cp949" in dataset.ledger.format


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("a,b\nun café déjà,Ångström Ä Öl\n", "latin-1"),
        ("a,b\nпривет мир,ещё раз\n", "cp1251"),
        ("a,b\n今日は良い天気です。,猫が寝ている\n", "euc-jp"),
        ("a,b\n今日は良い天気です。,猫が寝ている\n", "shift-jis"),
        ("a,b\n今天天气很好,猫在睡觉\n", "gbk"),
        ("a,b\n今天天氣很好,貓在睡覺\n", "big5"),
        ("a,b\nสวัสดีครับ,แมวนอน\n", "tis-620"),
        ("a,b\n고양이가 잔다,비가 온다\n", "johab"),
    ],
)
def test_other_encodings_are_not_taken_for_cp949(tmp_path: Path, text: str, codec: str) -> None:
    with pytest.raises(DataError, match="not in utf-8"):
        list(open_table(written(tmp_path, "a.csv", text.encode(codec))))


def test_utf_8_with_a_damaged_line_is_not_taken_for_cp949(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 4: byte 0x.* is not in utf-8"):
        list(open_table(written(tmp_path, "a.csv", KOREAN.encode() + "나무,가지,1\n".encode("cp949"))))


# ---------------------------------------------------------------- columns


@pytest.mark.parametrize(
    ("header", "n_texts"),
    [
        ("문장1,문장2,유사도", 2),
        ("문장 1,문장 2,라벨", 2),
        ("번호,질문,답변,레이블", 2),
        ("텍스트,라벨", 1),
        ("문장,감정", 1),
        ("Sentence 1,Sentence 2,Score", 2),
    ],
)
def test_usual_korean_names_are_found_in_both_forms_of_unicode(tmp_path: Path, header: str, n_texts: int) -> None:
    n = header.count(",") + 1
    for form in ("NFC", "NFD"):
        rows = "".join(",".join([*(f"글 {i}{j}" for j in range(n - 1)), str(i)]) + "\n" for i in range(2))
        dataset = from_file(written(tmp_path, f"{form}.csv", f"{unicodedata.normalize(form, header)}\n{rows}"))
        assert dataset.n_texts == n_texts and labels_of(dataset) == [0, 1]


def test_column_is_named_in_either_form_of_unicode(tmp_path: Path) -> None:
    nfd = unicodedata.normalize("NFD", "왼쪽,오른쪽,값")
    path = written(tmp_path, "a.csv", f"{nfd}\na,b,1\n")
    assert from_file(path, Reading(text_columns=("왼쪽", "오른쪽"), label_column="값"))[0].texts == ("a", "b")
    assert open_table(path).text_columns(["오른쪽", "왼쪽"], 2) == (1, 0)
    both = written(tmp_path, "b.csv", f"각,{unicodedata.normalize('NFD', '각')}\na,b\n")
    assert open_table(both).column_index("각") == 0  # the exact one comes first


def test_numbers_that_nobody_reads_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = "".join(f"{i},a {i},b {i},{i % 5},2020\n" for i in range(9))
    path = written(tmp_path, "a.csv", f"no,sentence1,sentence2,rating,when\n{lines}")
    dataset = from_file(path)
    (finding,) = [found for found in dataset.ledger.findings if found.kind == "unread_numbers"]
    assert finding.sentence.startswith("column 'rating' holds numbers and is not read, so all pairs are taken as")
    assert "set data.label_column" in finding.sentence and finding.sentence in caplog.text
    caplog.clear()
    frame = pd.read_csv(path)
    assert "unread_numbers" in {found.kind for found in ConnectionDataset.from_dataframe(frame).ledger.findings}
    caplog.clear()
    for reading in (Reading(label_column="rating"), Reading(text_columns=("sentence1", "sentence2", "when"))):
        from_file(path, reading)
    from_file(written(tmp_path, "b.csv", "id,sentence1,sentence2,genre\n1,a,b,news\n7,c,d,web\n"))
    assert "holds numbers" not in caplog.text


# ---------------------------------------------------------------- data sets as published


def test_klue_sts(tmp_path: Path) -> None:
    rows = [
        {
            "guid": f"klue-sts-v1_train_{i:05}",
            "source": "airbnb-rtt",
            "sentence1": f"숙소가 {i}번 버스 정류장에서 가깝습니다.",
            "sentence2": f"버스 정류장 {i}번이 숙소 옆이에요.",
            "labels": {"label": 3.7 - i, "real-label": 3.714285714285714 - i, "binary-label": int(i == 0)},
            "annotations": {"agreement": "0:0:0:2:3:2:0", "annotators": ["07", "13"], "annotations": [3, 4]},
        }
        for i in range(3)
    ]
    path = written(tmp_path, "klue-sts-v1.1_train.json", json.dumps(rows, ensure_ascii=False, indent=2))
    dataset = from_file(path)
    assert labels_of(dataset) == [3.7, 2.7, 3.7 - 2] and dataset.score_range == (0, 5)
    binary = from_file(path, Reading(label_column="labels.binary-label"))
    assert binary.label_kind == "binary" and labels_of(binary) == [1, 0, 0]


def test_klue_nli(tmp_path: Path) -> None:
    rows = [
        {
            "guid": f"klue-nli-v1_train_{i:05}",
            "source": "NSMC",
            "premise": "화분에 물을 너무 많이 주었다.",
            "hypothesis": f"화분이 {i}개다.",
            "gold_label": label,
            "author": label,
            **{f"label{n}": label for n in range(2, 6)},
        }
        for i, label in enumerate(("neutral", "entailment", "contradiction"))
    ]
    dataset = from_file(written(tmp_path, "klue-nli-v1.1_train.json", json.dumps(rows, ensure_ascii=False)))
    assert dataset.class_names == ("contradiction", "entailment", "neutral") and labels_of(dataset) == [2, 1, 0]


def test_korsts(tmp_path: Path) -> None:
    lines = (
        "genre\tfilename\tyear\tid\tscore\tsentence1\tsentence2\n"
        'main-captions\tMSRvid\t2012test\t0001\t5.000\t"비행기가 뜬다.\t비행기가 "이륙"한다.\n'
        "main-news\theadlines\t2014\t0042\t0.800\t빵값이 올랐다.\t눈이 내린다."
    )
    dataset = from_file(written(tmp_path, "sts-train.tsv", lines))
    assert labels_of(dataset) == [5, 0.8] and dataset[0].texts == ('"비행기가 뜬다.', '비행기가 "이륙"한다.')


def test_kornli(tmp_path: Path) -> None:
    lines = 'sentence1\tsentence2\tgold_label\n"가게는 닫혔다.\t문이 열려 있다."\tcontradiction\n낮\t밤\tneutral\n'
    dataset = from_file(written(tmp_path, "multinli.train.ko.tsv", lines))
    assert dataset.class_counts() == {"contradiction": 1, "neutral": 1} and dataset[0].texts[0] == '"가게는 닫혔다.'


def test_nsmc_has_empty_documents_that_are_named_and_skipped_when_asked(tmp_path: Path) -> None:
    lines = "id\tdocument\tlabel\n9976970\t연기가 참 좋았다\t1\n5403919\t\t0\n7797314\t두 번은 못 보겠다..\t0\n"
    path = written(tmp_path, "ratings_train.txt", lines)
    with pytest.raises(DataError, match=r"line 3: the text in 'document' is empty.*data.on_bad_row to 'skip'"):
        from_file(path, CLASSES)
    dataset = from_file(path, Reading(label_kind="classes", on_bad_row="skip"))
    assert dataset.class_counts() == {"0": 1, "1": 1} and dataset.ledger.count("empty") == 1


def test_paws_x(tmp_path: Path) -> None:
    lines = (
        "id\tsentence1\tsentence2\tlabel\n1\t강은 북에서 남으로 흐른다.\t강은 남에서 북으로 흐른다.\t0\n2\tNS\tNS\t1\n"
    )
    dataset = from_file(written(tmp_path, "translated_train.tsv", lines))
    assert dataset.label_kind == "binary" and labels_of(dataset) == [0, 1]


def test_question_pair_has_0_for_the_same_and_a_mapping_for_it(tmp_path: Path) -> None:
    rows = '0,1,2,물이 안 나와요,"단수인가요, 혹시",0\n1,3,4,물이 안 나와요,버스가 늦네요,1\n'
    path = written(tmp_path, "kor_pair_train.csv", f"id,qid1,qid2,question1,question2,is_duplicate\n{rows}")
    assert labels_of(from_file(path)) == [0, 1]
    assert labels_of(from_file(path, Reading(label_values={"0": 1, "1": 0}))) == [1, 0]


def test_parakqc_has_no_header_and_one_sentence_says_so(tmp_path: Path) -> None:
    lines = "0\t1\t회의 메일이 언제 왔지?\n0\t1\t회의 메일 온 시각 좀\n2\t3\t거실 불을 꺼 줘\n"
    path = written(tmp_path, "paraKQC_v1.txt", lines)
    with pytest.raises(DataError, match="the first line, taken as the header; if it is not, put one before it"):
        from_file(path)
    dataset = from_file(written(tmp_path, "a.txt", f"topic\tact\tsentence\n{lines}"), CLASSES)
    assert dataset.class_counts() == {"0": 2, "2": 1}


def test_missing_is_not_a_key_of_nested_objects() -> None:
    from sbert_ft.data.formats import value_at

    assert value_at({"a": {"b": {}}}, "a.b") == {} and value_at({"a": 1}, "a.b") is Missing.MISSING
    assert value_at({"a.b": 1, "a": {"b": 2}}, "a.b") == 1


def test_workbook_without_openpyxl_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workbook(tmp_path / "a.xlsx", [["text"], ["a"]])
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(DataError, match=r"needs openpyxl: pip install 'sbert-ft\[xlsx\]'"):
        open_table(path)
