"""Pairs as a data set: reading from each source, errors and their messages, and that no row is lost."""

from __future__ import annotations

import json
import logging
import math
import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from sbert_ft.config.settings import Reading
from sbert_ft.data.dataset import Connection, ConnectionDataset
from sbert_ft.data.duplicates import text_key
from sbert_ft.errors import DataError, InputError, SbertFtError

HEADER = "sentence1,sentence2,score"
SKIP = Reading(on_bad_row="skip")
NLI = Reading(label_values={"entailment": 1, "contradiction": 0})
from_file, from_pairs = ConnectionDataset.from_file, ConnectionDataset.from_pairs


def written(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_bytes(content.encode())
    return path


def csv_of(folder: Path, *rows: str, header: str = HEADER) -> Path:
    return written(folder, "a.csv", "\n".join([header, *rows]) + "\n")


def kinds(dataset: ConnectionDataset) -> dict[str, int]:
    return {finding.kind: finding.count for finding in dataset.ledger.findings}


def first(dataset: ConnectionDataset, kind: str) -> tuple[int, ...]:
    return next(finding.first for finding in dataset.ledger.findings if finding.kind == kind)


def said(dataset: ConnectionDataset) -> str:
    return "\n".join(dataset.ledger.describe())


# ---------------------------------------------------------------- real files


@pytest.mark.parametrize(
    ("name", "n_rows", "kind"),
    [
        ("stsb/train.csv", 5749, "scores 0..5"),
        ("stsb/dev.csv", 1500, "scores 0..5"),
        ("korsts/train.tsv", 5749, "scores 0..5"),
        ("korsts/dev.tsv", 1500, "scores 0..5"),
        ("korsts/test.tsv", 1379, "scores 0..5"),
        ("korxnli/dev.tsv", 2490, "classes 'contradiction', 'entailment', 'neutral'"),
        ("nli_en/dev.tsv", 1479, "classes 'contradiction', 'entailment', 'neutral'"),
        ("sts12_14/sts14.tsv", 3750, "scores 0..5"),
    ],
)
def test_real_files_give_every_row(shared_data: Path, name: str, n_rows: int, kind: str) -> None:
    dataset = from_file(shared_data / name)
    assert len(dataset) == dataset.ledger.n_rows == dataset.ledger.n_kept == n_rows
    assert f"{n_rows:,} pairs, {kind}" in repr(dataset)


def test_real_classes_become_binary_by_stated_meanings(shared_data: Path) -> None:
    dataset = from_file(shared_data / "korxnli" / "dev.tsv", NLI)
    assert dataset.label_kind == "binary" and len(dataset) == 1660
    assert dataset.ledger.n_rows == 2490 and dataset.ledger.count("other_label") == 830
    matches = dataset.matches()
    assert matches is not None and matches.sum() == 830


def test_real_duplicates_and_overlap_are_counted(shared_data: Path) -> None:
    train, test = (from_file(shared_data / "stsb" / f"{name}.csv") for name in ("train", "test"))
    found = kinds(train)
    assert found["duplicate"] + found["contradictory"] == 60 and found["contradictory"] == 15
    with_test = train.with_overlaps(test=test)
    assert "12 different pairs" in said(with_test) and with_test.ledger.count("overlap_test") == 17
    assert "overlap_test" not in kinds(train)


def test_real_pairs_split_without_a_shared_sentence(shared_data: Path) -> None:
    train, dev = from_file(shared_data / "stsb" / "train.csv").split(0.1, seed=1)
    assert len(train) + len(dev) == 5749 and len(dev) == 575
    sides = [{text_key(text) for text in part.distinct_texts(0, part.n_distinct)} for part in (train, dev)]
    assert not sides[0] & sides[1]
    assert train.ledger.n_rows == dev.ledger.n_rows == 5749
    assert train.ledger.count("left_out") == 575


# ---------------------------------------------------------------- what is read


def test_row_has_its_texts_its_label_and_its_line(tmp_path: Path) -> None:
    path = csv_of(tmp_path, '"a, b\nc",NA,0.5', "", "d,e,5")
    dataset = from_file(path)
    assert list(dataset) == [Connection(("a, b\nc", "NA"), 0.5, 2), Connection(("d", "e"), 5.0, 5)]
    assert dataset[-1] == dataset[1] == dataset[np.int64(1)]
    assert dataset.lines.tolist() == [2, 5] and dataset.source == str(path)
    for outside in (2, -3):
        with pytest.raises(IndexError):
            dataset[outside]


ROWS = [("one dog", "a dog", 4.0), ("one cat", "a dog", 1.5)]


def test_every_source_of_the_same_rows_gives_the_same_content(tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS, columns=["sentence1", "sentence2", "score"])
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    sets = [from_file(tmp_path / name) for name in ("a.csv", "a.tsv", "a.jsonl")]
    sets += [ConnectionDataset.from_dataframe(frame), from_pairs(ROWS), from_pairs(iter(ROWS))]
    sets.append(from_pairs([np.array(["one dog", "a dog", 4.0], object), list(ROWS[1])]))  # type: ignore[list-item]
    assert len({dataset.sha256 for dataset in sets}) == 1
    for dataset in sets:
        assert list(dataset.pairs()) == [row[:2] for row in ROWS]
        assert dataset.labels is not None and dataset.labels.tolist() == [4.0, 1.5]
    assert len({dataset.ledger.sha256 for dataset in sets[:3]}) == 3
    assert sets[-1].ledger.sha256 == sets[-1].sha256


def test_the_constructor_is_every_source_by_what_it_is_given(tmp_path: Path) -> None:
    path = csv_of(tmp_path, "a,b,1", "c,d,5")
    frame = pd.read_csv(path)
    tuples, texts = list(frame.itertuples(index=False, name=None)), ["a", "b"]
    made = ConnectionDataset.from_texts
    for data, same in (
        (path, from_file(path)),
        (str(path), from_file(path)),
        (frame, ConnectionDataset.from_dataframe(frame)),
        (tuples, from_pairs(tuples)),
        (iter(tuples), from_pairs(tuples)),
        (frame.to_numpy(dtype=object), from_pairs(tuples)),
        (texts, made(texts)),
        (iter(texts), made(texts)),
        (pd.Series(texts), made(texts)),
        ([("a", "b", 3.0)], from_pairs([("a", "b", 3.0)])),
        (["a"], made(["a"])),
    ):
        dataset = ConnectionDataset(data)
        assert (dataset.ledger, list(dataset)) == (same.ledger, list(same))
    assert len(ConnectionDataset(frame.iloc[:1])) == 1
    words = ConnectionDataset(texts, Reading(label_kind="classes"), labels=["x", "y"])
    assert words.sha256 == made(texts, Reading(label_kind="classes"), labels=["x", "y"]).sha256
    assert ConnectionDataset(path, Reading(score_range=(0, 10))).score_range == (0, 10)
    assert list(pickle.loads(pickle.dumps(ConnectionDataset(path)))) == list(from_file(path))


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (3, InputError, "pairs is of type int"),
        ({"a": 1}, InputError, "pairs is of type dict"),
        (None, InputError, "pairs is of type NoneType"),
        (b"a.csv", InputError, "pairs is of type bytes"),
        ("", InputError, "expected a path"),
        ("missing.csv", DataError, r"missing\.csv.*no such file"),
        ([], DataError, "holds no row"),
        (["a", ("b", "c")], InputError, "row at position 1 .*expected a text"),
        ([("a",)], InputError, "row at position 0"),
        ([("a", "b"), ("a", None)], InputError, "row at position 1"),
        ([None, "a"], DataError, "the text is missing"),
    ],
)
def test_the_constructor_has_the_errors_of_its_source(data: object, error: type[SbertFtError], said: str) -> None:
    with pytest.raises(error, match=said):
        ConnectionDataset(data)


def test_labels_beside_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="labels are given beside a file"):
        ConnectionDataset(csv_of(tmp_path, "a,b,1"), labels=[1])


def test_parquet_is_read_by_rows_and_without_the_other_columns(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the Parquet extra is not installed")
    frame = pd.DataFrame(ROWS, columns=["sentence1", "sentence2", "score"])
    frame.assign(vector=[[0.5], [0.25]]).to_parquet(tmp_path / "a.parquet")
    dataset = from_file(tmp_path / "a.parquet")
    assert dataset.lines.tolist() == [1, 2] and dataset.sha256 == from_pairs(ROWS).sha256
    frame.assign(score=[4.0, None]).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match="1 of 2 rows cannot be used: row 2: label is missing"):
        from_file(tmp_path / "b.parquet")


def test_digest_changes_with_text_label_order_and_meaning() -> None:
    variants = [
        from_pairs(ROWS),
        from_pairs(ROWS[::-1]),
        from_pairs([("one dog ", "a dog", 4.0), ROWS[1]]),
        from_pairs([("one do", "ga dog", 4.0), ROWS[1]]),
        from_pairs([("a dog", "one dog", 4.0), ROWS[1]]),
        from_pairs([(*ROWS[0][:2], 4.5), ROWS[1]]),
        from_pairs([row[:2] for row in ROWS]),
        from_pairs(ROWS, Reading(score_range=(0, 10))),
    ]
    assert len({dataset.sha256 for dataset in variants}) == len(variants)


@pytest.mark.parametrize(
    "names", ["premise,hypothesis,gold_label", "question1,question2,is_duplicate", "Text_A, text_b ,LABEL"]
)
def test_columns_of_usual_names_are_taken(tmp_path: Path, names: str) -> None:
    dataset = from_file(csv_of(tmp_path, "a,b,1", "c,d,0", header=names))
    assert list(dataset.pairs()) == [("a", "b"), ("c", "d")] and dataset.label_kind == "binary"
    first_name, _, label = names.split(",")
    assert f"texts from '{first_name}'" in said(dataset) and f"labels from '{label}'" in said(dataset)


@pytest.mark.parametrize(
    "names", ["anchor,positive,negative", "query,positive,negative", "premise,entailment,contradiction"]
)
def test_triplets_are_taken_by_their_names(tmp_path: Path, names: str) -> None:
    dataset = from_file(csv_of(tmp_path, "a,b,c,1", "d,e,f,2", header=f"{names},score"))
    assert dataset.n_texts == 3 and dataset.label_kind == "none" and dataset.labels is None
    assert dataset[1].texts == ("d", "e", "f") and dataset[1].label is None
    assert list(dataset.pairs()) == [("a", "b"), ("d", "e")]
    assert "'score' is not read unless" in said(dataset)
    assert "2 triplets, no labels" in repr(dataset)


def test_columns_are_taken_as_stated(tmp_path: Path) -> None:
    path = csv_of(tmp_path, "1,b,0.5,a", "2,d,0.75,c", header="id,right,how,left")
    dataset = from_file(path, Reading(text_columns=("left", "right"), label_column="how"))
    assert list(dataset.pairs()) == [("a", "b"), ("c", "d")]
    assert dataset.labels is not None and dataset.labels.tolist() == [0.5, 0.75]


def test_stated_label_goes_before_a_guess_and_may_stand_beside_triplets(tmp_path: Path) -> None:
    path = csv_of(tmp_path, "a,b,1,x", "c,d,0,y", header="sentence1,sentence2,label,score")
    assert from_file(path, Reading(label_column="score")).class_names == ("x", "y")
    path = csv_of(tmp_path, "a,b,c,0.5", "d,e,f,0.25", header="anchor,positive,negative,margin")
    labels = from_file(path, Reading(label_column="margin")).labels
    assert labels is not None and labels.tolist() == [0.5, 0.25]


def test_pairs_without_a_label_are_known_only_to_match_and_that_is_said(tmp_path: Path) -> None:
    dataset = from_file(csv_of(tmp_path, "a,b,x", "c,d,y", header="sentence1,sentence2,topic"))
    assert dataset.label_kind == "none" and dataset.labels is None and dataset.scale is None
    assert dataset.targets() is None and dataset.matches() is None and dataset[0].label is None
    assert "all pairs are taken as matches; not read: 'topic'" in said(dataset)
    near = from_file(csv_of(tmp_path, "a,b,1", "c,d,0", header="sentence1,sentence2,scores"))
    assert "if 'scores' is the label, set data.label_column" in said(near)


def test_frame_with_any_index_is_read_by_position() -> None:
    frame = pd.DataFrame({"label": [1, 0], "text1": ["a", "c"], "text2": ["b", "d"], 7: [0, 0]}, index=[9, 9])
    dataset = ConnectionDataset.from_dataframe(frame)
    assert dataset.lines.tolist() == [0, 1] and dataset.source == "<dataframe>"
    assert dataset[1] == Connection(("c", "d"), 0.0, 1)


def test_long_texts_and_rare_characters_are_kept_exactly() -> None:
    hangul = ["\uac01", "\u1100\u1161\u11a8"]  # composed and not
    texts = ["a" * 1_000_000, "\U0001f468\u200d\U0001f469", *hangul, "אבג", "z\u0321\u032c\u034a", "=1+1", "\ue000"]
    dataset = from_pairs([(text, "x") for text in texts])
    assert [left for left, _ in dataset.pairs()] == texts
    assert dataset.n_distinct == len(texts) + 1


# ---------------------------------------------------------------- texts as numbers


def test_distinct_texts_are_numbered_by_first_appearance() -> None:
    dataset = from_pairs([("b", "a"), ("a", "c"), ("b", "b")])
    assert dataset.text_rows.tolist() == [[0, 1], [1, 2], [0, 0]]
    assert dataset.n_distinct == 3 and dataset.distinct_texts(0, 9) == ["b", "a", "c"]
    assert dataset.distinct_texts(1, 2) == ["a"]


def test_dropped_rows_leave_no_text_behind(tmp_path: Path) -> None:
    path = csv_of(tmp_path, "x,y,0.5", "gone,away,NA", "y,z,0.25")
    dataset = from_file(path, SKIP)
    assert dataset.distinct_texts(0, 9) == ["x", "y", "z"]
    assert dataset.text_rows.tolist() == [[0, 1], [1, 2]]
    assert dataset.sha256 == from_pairs([("x", "y", 0.5), ("y", "z", 0.25)]).sha256


def test_selected_rows_have_their_own_numbers_and_content() -> None:
    whole = from_pairs([("a", "b", 0.1), ("c", "d", 0.2), ("d", "e", 0.3), ("f", "a", 0.4)])
    part = whole.select(np.array([2, 1]))
    assert list(part.pairs()) == [("d", "e"), ("c", "d")] and part.lines.tolist() == [2, 1]
    assert part.distinct_texts(0, 9) == ["d", "e", "c"] and part.text_rows.tolist() == [[0, 1], [2, 0]]
    assert part.sha256 == from_pairs([("d", "e", 0.3), ("c", "d", 0.2)]).sha256
    assert part.ledger.count("left_out") == 2 and part.ledger.n_rows == 4
    again = part.select(np.array([1]))
    assert list(again) == [Connection(("c", "d"), 0.2, 1)] and again.ledger.count("left_out") == 3


@pytest.mark.parametrize("rows", [[], [0, 0], [2], [-1], [0.5], [[0]], [True, False]])
def test_selection_of_what_is_no_row_is_refused(rows: list[object]) -> None:
    with pytest.raises(InputError, match="whole numbers from 0 to 1"):
        from_pairs(ROWS).select(np.array(rows))


def test_data_set_goes_to_other_processes_and_through_a_loader() -> None:
    dataset = from_pairs(ROWS * 3).select(np.arange(1, 6))
    copy = pickle.loads(pickle.dumps(dataset))
    assert list(copy) == list(dataset) and copy.sha256 == dataset.sha256 and copy.ledger == dataset.ledger
    loader = DataLoader(dataset, batch_size=2, num_workers=1)
    assert [label for batch in loader for label in batch.label.tolist()] == [1.5, 4.0, 1.5, 4.0, 1.5]


# ---------------------------------------------------------------- bad rows


BAD_ROWS = {
    "empty text": (",b,1", "empty", "line 3: the text in 'sentence1' is empty"),
    "blank text": ("a,  \t,1", "empty", "line 3: the text in 'sentence2' is blank"),
    "ideographic space": ("\u3000,b,1", "empty", "is blank"),
    "zero width spaces": ("a,\u200b\u200b,1", "empty", "is blank"),
    "byte order mark": ("a,\ufeff,1", "empty", "is blank"),
    "Hangul filler": ("\u3164,b,1", "empty", "is blank"),
    "no label": ("a,b,", "bad_label", "line 3: label is empty"),
    "decimal comma": ('a,b,"0,85"', "bad_label", "line 3: label '0,85' is not a number; write it with digits"),
    "percent": ("a,b,85 %", "bad_label", "'85 %' is not a number"),
    "underscore": ("a,b,1_0", "bad_label", "'1_0' is not a number"),
    "hexadecimal": ("a,b,0x1", "bad_label", "'0x1' is not a number"),
    "nan": ("a,b,nan", "bad_label", "'nan' is not a number"),
    "inf": ("a,b,-inf", "bad_label", "'-inf' is not a number"),
    "too large": ("a,b,1e309", "bad_label", "'1e309' is not a finite number"),
    "not available": ("a,b,N/A", "bad_label", "'N/A' means that there is no label"),
    "word": ("a,b,good", "bad_label", "'good' is not a number, unlike most of the column"),
    "too few cells": ("a,b", "ragged", "line 3: expected 3 cells as in the header, found 2"),
    "too many cells": ("a,b,1,2", "ragged", "line 3: expected 3 cells as in the header, found 4"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_row_is_an_error_with_its_line(tmp_path: Path, case: str) -> None:
    row, _, problem = BAD_ROWS[case]
    path = csv_of(tmp_path, "c,d,0.5", row, "e,f,0.75")
    with pytest.raises(DataError) as caught:
        from_file(path)
    message = str(caught.value)
    assert message.startswith(f"'{path}': 1 of 3 rows cannot be used: line 3: ") and problem in message
    assert "on_bad_row" in message and "\n" not in message


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_row_is_counted_and_left_out_if_so_wished(tmp_path: Path, case: str) -> None:
    row, kind, _ = BAD_ROWS[case]
    dataset = from_file(csv_of(tmp_path, "c,d,0.5", row, "e,f,0.75"), SKIP)
    assert list(dataset.pairs()) == [("c", "d"), ("e", "f")] and dataset.lines.tolist() == [2, 4]
    assert kinds(dataset) == {kind: 1} and first(dataset, kind) == (3,)
    assert (dataset.ledger.n_rows, dataset.ledger.n_kept) == (3, 2)
    assert "line 3" in said(dataset)


def test_first_five_bad_rows_and_their_number_come_in_one_message(tmp_path: Path) -> None:
    rows = ["a,b,0.5", ",x,1", "c,d,0x1", "e,f", *["g,,1"] * 4, "h,i,0.25"]
    with pytest.raises(DataError) as caught:
        from_file(csv_of(tmp_path, *rows))
    message = str(caught.value)
    assert "7 of 9 rows cannot be used" in message and "and 2 more" in message
    assert re.findall(r"line (\d+)", message) == ["3", "4", "5", "6", "7"]


JSON_BAD = {
    "text is a number": '{"sentence1": 1, "sentence2": "b", "score": 0.5}',
    "text is a list": '{"sentence1": ["a"], "sentence2": "b", "score": 0.5}',
    "text is null": '{"sentence1": null, "sentence2": "b", "score": 0.5}',
    "no such key": '{"sentence1": "a", "score": 0.5}',
    "label is true": '{"sentence1": "a", "sentence2": "b", "score": true}',
    "label is null": '{"sentence1": "a", "sentence2": "b", "score": null}',
    "label is absent": '{"sentence1": "a", "sentence2": "b"}',
    "label is an object": '{"sentence1": "a", "sentence2": "b", "score": {}}',
    "label is huge": '{"sentence1": "a", "sentence2": "b", "score": 1' + "0" * 400 + "}",
}


@pytest.mark.parametrize("case", JSON_BAD)
def test_json_values_are_not_taken_for_what_they_are_not(tmp_path: Path, case: str) -> None:
    good = '{"sentence1": "c", "sentence2": "d", "score": 0.25}'
    path = written(tmp_path, "a.jsonl", f"{good}\n{JSON_BAD[case]}\n")
    with pytest.raises(DataError, match="1 of 2 rows cannot be used: line 2: "):
        from_file(path)
    assert len(from_file(path, SKIP)) == 1


def test_label_that_only_later_objects_have_is_not_lost(tmp_path: Path) -> None:
    lines = ['{"sentence1": "a", "sentence2": "b"}', '{"sentence1": "a", "sentence2": "b", "score": 1}']
    with pytest.raises(DataError, match="line 2: has a key 'score' like a label, which the first object does not have"):
        from_file(written(tmp_path, "a.jsonl", "\n".join(lines)))


@pytest.mark.parametrize("missing", [None, math.nan, pd.NA, pd.NaT])
@pytest.mark.parametrize("column", ["text1", "text2", "score"])
def test_missing_value_in_a_frame_is_a_bad_row(missing: object, column: str) -> None:
    frame = pd.DataFrame({"text1": ["a", "c"], "text2": ["b", "d"], "score": [0.5, 0.2]}).astype(object)
    frame.loc[1, column] = missing
    with pytest.raises(DataError, match=r"1 of 2 rows cannot be used: position 1: .* is missing"):
        ConnectionDataset.from_dataframe(frame)
    assert kinds(ConnectionDataset.from_dataframe(frame, SKIP))["bad_label" if column == "score" else "empty"] == 1


@pytest.mark.parametrize("label", [math.nan, math.inf, -math.inf, True, None, np.float32("nan"), 10**400])
def test_number_of_a_tuple_that_no_label_can_be_is_a_bad_row(label: object) -> None:
    with pytest.raises(DataError, match="1 of 2 rows cannot be used: position 1: label "):
        from_pairs([("a", "b", 0.5), ("c", "d", label)])


def test_half_characters_are_bad_rows_and_nul_is_kept() -> None:
    with pytest.raises(DataError, match=r"position 0: the first text holds half a character \('\\ud800'\)"):
        from_pairs([("a\ud800", "b")])
    assert from_pairs([("a\0", "b")])[0].texts == ("a\0", "b")


@pytest.mark.parametrize("content", [HEADER, f"{HEADER}\n", f"{HEADER}\n\n\n"])
def test_file_without_rows_is_an_error(tmp_path: Path, content: str) -> None:
    with pytest.raises(DataError, match="holds no row"):
        from_file(written(tmp_path, "a.csv", content))
    with pytest.raises(DataError, match="holds no row"):
        from_pairs([])


def test_nothing_left_after_skipping_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of 2 rows can be used: line 2: .*empty; line 3: label"):
        from_file(csv_of(tmp_path, ",b,1", "a,b,0x1"), SKIP)
    with pytest.raises(DataError, match="none of 1 row can be used: line 2: label 'NA'"):
        from_file(csv_of(tmp_path, "a,b,NA"), SKIP)
    problem = "data.label_values does not name\\): line 2: 'neutral'"
    with pytest.raises(DataError, match=problem):
        from_file(csv_of(tmp_path, "a,b,neutral", "c,d,neutral"), NLI)


# ---------------------------------------------------------------- columns that are not clear


@pytest.mark.parametrize(
    ("header", "stated", "problem"),
    [
        (
            "left,right,score",
            {},
            "no column has a usual name; the columns are 'left', 'right', 'score' .*; set data.te",
        ),
        ("sentense1,sentense2,score", {}, r"nearest: 'sentense1', 'sentense2'\)"),
        ("text_a,text_b,s1,s2", {}, r"not clear \(text_a/text_b or s1/s2\)"),
        ("query,positive,negative,passage", {}, r"not clear \(query/positive/negative or query/passage\)"),
        ("Text1,text2,text1", {}, "not clear"),
        ("sentence1,sentence2,score,label", {}, "'score' and 'label' could all be the label; set data.label_column"),
        ("a,b,Score,score", {}, "'Score' and 'score' could all be the label"),
        (
            "a,b,c,d",
            {"text_columns": ("a", "z")},
            "no column 'z'; the columns are 'a', 'b', 'c', 'd'; fix data.text_c",
        ),
        ("a,b,Mark,d", {"label_column": "mark"}, "no column 'mark'; .* did you mean 'Mark'?"),
        ("a,b,c,d", {"label_column": "a"}, "'a' is a column of texts and of labels"),
        ("a,b,c,d", {"score_range": (0, 5)}, "score_range is set, but no column has a usual label name"),
        ("a,b,c,d", {"label_values": {"x": 1}}, "label_values is set, but no column has a usual label name"),
        ("a,b,a,d", {"text_columns": ("a", "b")}, "2 columns are called 'a'"),
        ("sentence1,sentence2,y,y", {"label_column": "y"}, "2 columns are called 'y'"),
        ("a,a,score,d", {}, "2 columns are called 'a'"),
    ],
)
def test_unclear_columns_are_an_error_that_says_what_to_set(
    tmp_path: Path, header: str, stated: dict[str, object], problem: str
) -> None:
    n_columns = header.count(",") + 1
    path = csv_of(tmp_path, ",".join("wxyz"[:n_columns]), header=header)
    with pytest.raises(DataError, match=problem) as caught:
        from_file(path, Reading(**stated))  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"'{path}'")


def test_frame_with_unclear_columns_is_an_error() -> None:
    with pytest.raises(DataError, match="'<dataframe>': 2 columns are called 'a'"):
        frame = pd.DataFrame([["x", "y", "z"]], columns=["a", "a", "b"])
        ConnectionDataset.from_dataframe(frame, Reading(text_columns=("a", "b")))
    with pytest.raises(DataError, match="'<dataframe>': expected two columns of texts"):
        ConnectionDataset.from_dataframe(pd.DataFrame({"left": ["a"], "right": ["b"]}))


@pytest.mark.parametrize("header", ["v1,v2,,,", "v1,v2,memo,memo", "v1,v2,v3,v3"])
def test_unused_columns_of_one_name_do_no_harm(tmp_path: Path, header: str) -> None:
    rows = [("ham" if i % 2 else "spam", f"good {i} movie", "x", "y") for i in range(4)]
    names = header.split(",")[:4]
    path = csv_of(tmp_path, *(",".join([*row, *[""] * (header.count(",") - 3)]) for row in rows), header=header)
    reading = Reading(text_columns=("v2",), label_column="v1")
    frame = pd.DataFrame(rows, columns=names)
    for found in (from_file(path, reading), ConnectionDataset.from_dataframe(frame, reading)):
        assert found.class_counts() == {"ham": 2, "spam": 2}
        assert found.distinct_texts(0, 4) == [row[1] for row in rows]


def test_lines_of_texts_are_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one text per line, expected rows of pairs"):
        from_file(written(tmp_path, "a.txt", "a\nb\n"))


@pytest.mark.parametrize(
    "stated",
    [
        *({"on_bad_row": "warn"}, {"text_columns": ("a",)}, {"text_columns": ("a", "a")}, {"text_columns": "ab"}),
        *({"score_range": (5, 0)}, {"score_range": (0, math.inf)}, {"score_range": (1, 1)}, {"score_range": (0, 1, 2)}),
        *({"score_range": ("0", "5")}, {"label_values": {}}, {"label_values": {"a": math.nan}}),
        *({"label_values": {"a": "1"}}, {"label_values": {1: 1}}, {"label_values": {"a": 6}, "score_range": (0, 5)}),
    ],
)
def test_reading_that_contradicts_itself_is_refused(stated: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(stated))):
        from_pairs(ROWS, Reading(**stated))  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [None, 5, "ab", b"ab", {"a": "b"}, {("a", "b")}])
def test_what_is_no_list_of_pairs_is_refused(rows: object) -> None:
    with pytest.raises(InputError, match="expected a list of pairs"):
        from_pairs(rows)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "row",
    [
        *(None, 5, "ab", ["a"], ("a", "b", 1, 2), {"a": 1, "b": 2}, {"a", "b"}, ("a", 1), (None, "b"), (b"a", "b")),
        *(("a", "b", ["c"]), ("a", "b", b"c"), ("a", "b", object()), ("a", "b"), ("a", "b", "c"), ()),
    ],
    ids=lambda row: type(row).__name__,
)
def test_tuple_of_another_kind_is_refused_with_its_position(row: object) -> None:
    with pytest.raises(InputError, match="row at position 1 "):
        from_pairs([("a", "b", 0.5), row])  # type: ignore[list-item]


def test_columns_of_tuples_cannot_be_named() -> None:
    for stated in (Reading(text_columns=("a", "b")), Reading(label_column="score")):
        with pytest.raises(InputError, match="tuples do not have"):
            from_pairs(ROWS, stated)


@pytest.mark.parametrize("frame", [None, [("a", "b")], "a.csv", pd.Series(["a"]), np.zeros((2, 2))])
def test_what_is_no_frame_is_refused(frame: object) -> None:
    with pytest.raises(InputError, match="expected a pandas DataFrame"):
        ConnectionDataset.from_dataframe(frame)


# ---------------------------------------------------------------- labels


def test_labels_targets_and_matches_are_those_of_the_rows() -> None:
    scores = from_pairs([("a", "b", 0), ("c", "d", 2.5), ("e", "f", 5)])
    targets = scores.targets()
    assert scores.scale is not None and scores.scale.describe() == "0..5"
    assert targets is not None and targets.dtype == np.float32 and targets.tolist() == [0, 0.5, 1]
    assert np.array_equal(scores.matches(), [False, True, True])
    assert np.array_equal(scores.matches(2.6), [False, False, True])
    assert "scale 0..5 (found" in said(scores)


def test_scores_of_no_known_scale_are_an_error_until_it_is_stated() -> None:
    rows = [("a", "b", -7.5), ("c", "d", 3)]
    with pytest.raises(DataError, match=r"scores from -7.5 \(position 0\) to 3 .*set data.score_range"):
        from_pairs(rows)
    targets = from_pairs(rows, Reading(score_range=(-10, 10))).targets()
    assert targets is not None and np.allclose(targets, [0.125, 0.65])


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([("a", "b", 1)], "single_row"),
        ([("a", "b")], "single_row"),
        ([("a", "b", 1), ("c", "d", 1)], "one_label"),
        ([("a", "b", 0.5), ("c", "d", 0.5)], "constant_score"),
    ],
)
def test_labels_of_little_use_are_told_not_refused(rows: list[tuple[object, ...]], kind: str) -> None:
    assert kind in kinds(from_pairs(rows))


# ---------------------------------------------------------------- repeats and overlaps


def test_repeats_are_counted_with_their_first_lines() -> None:
    rows = [("a", "b", 0.5), ("A ", "b", 0.5), ("b", "a", 0.5), ("a", "b", 0.9), ("c", "c", 0.1), ("d", "e", 0.2)]
    dataset = from_pairs([*rows, ("c", "C", 0.1), ("a", "b", 0.9)])
    assert kinds(dataset) == {"duplicate": 4, "contradictory": 1, "swapped": 1, "identical_sides": 2}
    assert first(dataset, "duplicate") == (1, 2, 6, 7)
    assert first(dataset, "contradictory") == (3,)
    assert first(dataset, "swapped") == (2,)
    assert first(dataset, "identical_sides") == (4, 6)
    assert dataset.ledger.n_kept == len(dataset) == 8


def test_order_matters_for_classes(tmp_path: Path) -> None:
    rows = ["a,b,yes", "b,a,no", "a,b,no", "c,d,yes", "c,d,yes"]
    dataset = from_file(csv_of(tmp_path, *rows))
    assert kinds(dataset) == {"duplicate": 1, "contradictory": 1, "swapped": 1}
    assert first(dataset, "contradictory") == (4,) and first(dataset, "swapped") == (3,)


def test_composed_and_decomposed_hangul_are_the_same_text_in_the_account() -> None:
    assert kinds(from_pairs([("각", "b"), ("\u1100\u1161\u11a8", "b")])) == {"duplicate": 1}


def test_triplets_that_contradict_each_other_are_counted() -> None:
    rows = [("a", "b", "c"), ("a", "c", "d"), ("e", "f", "f"), ("a", "b", "c"), ("a", "x", "y")]
    dataset = from_pairs(rows)
    assert kinds(dataset) == {"duplicate": 1, "contradictory_negative": 3}
    assert first(dataset, "contradictory_negative") == (0, 2, 3)


def test_overlap_is_counted_whatever_the_order_case_and_spacing() -> None:
    train = from_pairs([("a b", "c", 0.1), ("d", "e", 0.2), ("f", "g", 0.3), ("C", "A  b", 0.4)])
    dev = from_pairs([("c", "a b", 0.5), ("d", "g", 0.6)])
    test = from_pairs([("x", "y"), ("z", "w")])
    both = train.with_overlaps(dev=dev, test=test)
    assert both.ledger.count("overlap_dev") == 2 and first(both, "overlap_dev") == (0, 3)
    assert "1 different pair;" in said(both) and "shared with dev: 4 texts" in said(both)
    assert "test" not in said(both)
    assert list(both) == list(train) and "overlap_dev" not in kinds(train)
    reverse = dev.with_overlaps(train=train)
    assert first(reverse, "overlap_train") == (0,)


def test_same_data_overlaps_in_every_row_and_triplets_by_anchor_and_positive() -> None:
    dataset = from_pairs(ROWS)
    assert dataset.with_overlaps(test=dataset).ledger.count("overlap_test") == 2
    triplets = from_pairs([("a dog", "one dog", "x"), ("one cat", "x", "a dog")])
    assert triplets.with_overlaps(test=dataset).ledger.count("overlap_test") == 1


def test_findings_are_warned_of_in_one_line_and_clean_data_in_none(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="sbert_ft"):
        from_pairs([("a", "b", 0.5), ("c", "d", 0.7)])
        assert not caplog.records
        from_pairs([("a", "b", 0.5), ("b", "a", 0.7)])
    (record,) = caplog.records
    assert "another label" in record.message and "swapped" in record.message and "\n" not in record.message


# ---------------------------------------------------------------- splitting


def test_split_takes_the_share_and_is_the_same_for_the_same_seed() -> None:
    dataset = from_pairs([(f"a{i}", f"b{i}", i / 200) for i in range(200)])
    train, dev = dataset.split(0.2, seed=3)
    assert (len(train), len(dev)) == (160, 40)
    assert dev.lines.tolist() == sorted(dev.lines.tolist())
    again, other = dataset.split(0.2, seed=3)[1], dataset.split(0.2, seed=4)[1]
    assert again.sha256 == dev.sha256 != other.sha256
    assert dev.scale == train.scale == dataset.scale
    assert "40 rows split off for dev (seed 3)" in said(train) and "160 rows left for training" in said(dev)


def test_split_keeps_together_what_shares_a_text_through_others() -> None:
    chain = [(f"t{i}", f"t{i + 1}") for i in range(10)]
    dataset = from_pairs([*chain, *[(f"p{i}", f"P{i} ") for i in range(10)], ("T0 ", "other")])
    for seed in range(5):
        _, dev = dataset.split(0.3, seed)
        assert len(dev) == 6 and all(row.texts[0].startswith("p") for row in dev)


def test_split_takes_the_nearest_share_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    big = [("hub", f"x{i}") for i in range(30)]
    other = [("hub2", f"y{i}") for i in range(20)]
    with caplog.at_level(logging.WARNING, logger="sbert_ft"):
        train, dev = from_pairs([*big, *other]).split(0.1, seed=0)
    assert (len(train), len(dev)) == (30, 20)
    assert "dev gets 20 of 50 rows (40.0 % instead of 10.0 %)" in caplog.text


def test_split_of_what_hangs_together_is_an_error() -> None:
    with pytest.raises(DataError, match="all rows are connected by shared texts; give a file for dev"):
        from_pairs([("hub", "a"), ("hub", "b"), ("b", "c")]).split(0.5, 0)
    with pytest.raises(DataError, match="there is only one row"):
        from_pairs([("a", "b")]).split(0.5, 0)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, math.nan])
def test_split_by_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(InputError, match=r"dev_share is .*, expected a number above 0 and below 1"):
        from_pairs(ROWS).split(share, 0)


def test_split_shares_hubs_of_many_rows_correctly() -> None:
    # 256 rows of the same two texts were once an edge whose weight overflowed to zero in small integers.
    rows = [("a", "b")] * 256 + [("c", "d")] * 10
    train, dev = from_pairs(rows).split(0.05, 0)
    assert (len(train), len(dev)) == (256, 10)


# ---------------------------------------------------------------- properties

TEXTS = st.sampled_from(["a", "A", "b", "c d", "각", "", " ", "\u200b", "e\u3000", 'q"q', "x,y", "l1\nl2"])
LABELS = st.sampled_from(["0", "1", "0.5", "5", "", "nan", "0,5", "x", "NA", "2"])


@given(st.lists(st.tuples(TEXTS, TEXTS, LABELS, st.booleans()), max_size=12))
def test_ledger_accounts_for_every_row(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, bool]]
) -> None:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    lines = [",".join([*map(cell, row[:3]), *(["more"] if row[3] else [])]) for row in rows]
    path = csv_of(tmp_path_factory.mktemp("property"), *lines)
    try:
        dataset = from_file(path, SKIP)
    except DataError as error:
        assert re.search("holds no row|none of|numbers and words", str(error))
        return
    ledger = dataset.ledger
    assert ledger.n_rows == len(rows)
    assert ledger.n_kept == len(dataset) == len(dataset.lines)
    assert ledger.n_rows - ledger.n_kept == sum(finding.count for finding in ledger.findings if finding.dropped)
    good = [row for row in rows if not row[3] and all(text.strip(" \u3000\u200b") for text in row[:2])]
    assert [row.texts for row in dataset] == [row[:2] for row in good if _is_kept(row[2], dataset)]
    assert json.loads(json.dumps(ledger.to_json()))["n_rows"] == len(rows)


def _is_kept(label: str, dataset: ConnectionDataset) -> bool:
    if dataset.label_kind == "classes":
        return label in dataset.class_names
    return label in ("0", "1", "0.5", "5", "2")


@given(
    st.lists(st.tuples(*[st.integers(0, 30)] * 3), min_size=1, max_size=40),
    st.booleans(),
    st.floats(0.01, 0.99),
    st.integers(0, 3),
)
def test_split_puts_no_text_on_both_sides_and_no_row_on_neither(
    numbers: list[tuple[int, int, int]], triplets: bool, share: float, seed: int
) -> None:
    dataset = from_pairs([tuple(f"t{i}" for i in (row if triplets else row[:2])) for row in numbers])
    try:
        parts = dataset.split(share, seed)
    except DataError as error:
        assert re.search("connected by shared texts|only one row", str(error))
        return
    sides = [{text for row in part for text in row.texts} for part in parts]
    assert not sides[0] & sides[1]
    assert min(map(len, parts)) > 0
    assert sorted(np.concatenate([part.lines for part in parts])) == list(range(len(numbers)))
    for part in parts:
        assert all(part[i] == dataset[line] for i, line in enumerate(part.lines))
        assert part.ledger.n_kept == len(part)


@given(st.binary(max_size=200), st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.parquet"]))
def test_any_bytes_give_rows_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = tmp_path_factory.mktemp("bytes") / name
    path.write_bytes(content)
    for reading in (Reading(), SKIP):
        try:
            from_file(path, reading)
        except SbertFtError as error:
            assert "\n" not in str(error)
