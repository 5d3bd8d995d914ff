"""Classes and single texts as data: names of classes, columns of single texts, splits that keep class shares."""

from __future__ import annotations

import json
import logging
import math
import unicodedata
from collections import Counter
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbert_ft.config.settings import Reading
from sbert_ft.data.dataset import Connection, ConnectionDataset
from sbert_ft.data.duplicates import text_key
from sbert_ft.data.formats import Missing
from sbert_ft.data.labels import LabelFault, SeveralLabels, class_name, ordered_classes
from sbert_ft.data.ledger import row_word
from sbert_ft.data.split import share_of_classes
from sbert_ft.errors import DataError, InputError

CLASSES = Reading(label_kind="classes")
from_file, from_pairs, from_texts = (
    ConnectionDataset.from_file,
    ConnectionDataset.from_pairs,
    ConnectionDataset.from_texts,
)


def written(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return path


def kinds(dataset: ConnectionDataset) -> dict[str, int]:
    return {finding.kind: finding.count for finding in dataset.ledger.findings}


def said(dataset: ConnectionDataset) -> str:
    return "\n".join(dataset.ledger.describe())


def classes_of(labels: list[object], **stated: object) -> ConnectionDataset:
    """Return texts with these labels, read as classes unless something else is stated."""
    reading = Reading(**({"label_kind": "classes"} | stated))  # type: ignore[arg-type]
    return from_texts([f"text {i}" for i in range(len(labels))], reading, labels=labels)


# ---------------------------------------------------------------- real files


@pytest.mark.parametrize(
    ("name", "n_rows", "n_texts", "counts"),
    [
        ("nsmc/train.txt", 60_000, 1, {"0": 30_000, "1": 30_000}),
        ("nsmc/test.txt", 20_000, 1, {"0": 10_000, "1": 10_000}),
        ("korxnli/dev.tsv", 2490, 2, {"contradiction": 830, "entailment": 830, "neutral": 830}),
        ("nli_en/train.tsv", 15_237, 2, {"contradiction": 5058, "entailment": 5183, "neutral": 4996}),
    ],
)
def test_real_classes_are_all_read(
    shared_data: Path, name: str, n_rows: int, n_texts: int, counts: dict[str, int]
) -> None:
    dataset = from_file(shared_data / name, CLASSES)
    assert len(dataset) == dataset.ledger.n_rows == dataset.ledger.n_kept == n_rows
    assert dataset.n_texts == n_texts and dataset.class_counts() == counts
    assert dataset.class_names == tuple(counts) and sum(counts.values()) == n_rows


def test_real_reviews_in_a_txt_are_read_by_their_tabs(shared_data: Path) -> None:
    dataset = from_file(shared_data / "nsmc" / "train.txt")
    assert dataset.label_kind == "binary" and dataset.class_names == ()
    assert "60,000 texts, labels 0 and 1" in repr(dataset)
    assert dataset[0] == Connection(("정말 인생에서 한번쯤 봐야될 영화이지 않나 싶다~",), 1.0, 2)
    assert "texts from 'document' only, labels from 'label'" in said(dataset) and "tsv, tab, unquoted" in said(dataset)


@pytest.mark.parametrize("name", ["nsmc/test.txt", "korxnli/dev.tsv", "nli_en/dev.tsv"])
def test_real_split_keeps_the_share_of_each_class_and_no_text_on_both_sides(shared_data: Path, name: str) -> None:
    whole = from_file(shared_data / name, CLASSES)
    train, dev = whole.split(0.1, seed=7)
    keys = [{text_key(text) for text in part.distinct_texts(0, part.n_distinct)} for part in (train, dev)]
    assert not keys[0] & keys[1] and len(train) + len(dev) == len(whole)
    for class_, n in whole.class_counts().items():
        assert abs(dev.class_counts()[class_] - 0.1 * n) <= 2
        assert train.class_counts()[class_] + dev.class_counts()[class_] == n


def test_real_rows_of_other_classes_are_left_out_and_counted(shared_data: Path) -> None:
    dataset = from_file(shared_data / "korxnli" / "dev.tsv", Reading(classes=("neutral", "entailment")))
    assert dataset.class_names == ("neutral", "entailment") and len(dataset) == 1660
    assert dataset.ledger.count("other_label") == 830
    assert "a label that data.classes does not name" in said(dataset) and "'contradiction'" in said(dataset)


def test_real_codes_follow_the_order_that_is_asked_for(shared_data: Path) -> None:
    dataset = from_file(shared_data / "nli_en" / "dev.tsv", CLASSES)
    order = ("entailment", "neutral", "contradiction")
    codes = dataset.class_codes(order)
    assert codes.dtype == np.int64 and codes.shape == (len(dataset),)
    words = [line.split("\t")[2] for line in (shared_data / "nli_en" / "dev.tsv").read_text("utf-8").split("\n")[1:-1]]
    assert [order[code] for code in codes] == words


# ---------------------------------------------------------------- names of classes


@pytest.mark.parametrize(
    ("value", "name"),
    [
        *((0, "0"), (1.0, "1"), ("2", "2"), ("1.0", "1.0"), (" 3. ", "3."), ("0.50", "0.50"), (0.5, "0.5"), (-1, "-1")),
        *(("4.10", "4.10"), ("01110", "01110"), ("12E4", "12E4"), ("007", "007"), (4.1, "4.1")),
        *((-0.0, "0"), ("+7", "+7"), (np.int64(4), "4"), (np.float32(2), "2"), (Decimal("1.00"), "1")),
        *((Decimal("1.25"), "1.25"), (True, "true"), (np.False_, "false"), (np.str_("yes"), "yes")),
        *((2**60 + 1, str(2**60 + 1)), (str(2**60 + 1), str(2**60 + 1)), ("1e400", "1e400"), (1e300, "1e+300")),
        *((" 긍정 ", "긍정"), ("18-24", "18-24"), ("★5", "★5"), ("2020-01-01", "2020-01-01"), ("0x1", "0x1")),
        *(("-", "-"), ("NA", "NA"), ("True", "True")),
    ],
)
def test_class_is_called_as_its_text_or_its_number(value: object, name: str) -> None:
    assert class_name(value) == name
    assert class_name(name) == name


@pytest.mark.parametrize(
    "value",
    ["", " ", "nan", "NaN", None, Missing.MISSING, math.nan, math.inf, 10**5000, b"a", {}, object(), "w" * 201],
    ids=lambda value: ascii(value)[:20] if not isinstance(value, int) else "int",
)
def test_what_no_class_can_be_is_refused(value: object) -> None:
    with pytest.raises(LabelFault) as caught:
        class_name(value)
    assert len(str(caught.value)) < 200


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20))
def test_name_of_a_class_is_its_own_name(value: object) -> None:
    try:
        name = class_name(value)
    except LabelFault:
        return
    assert class_name(name) == name


@given(st.integers(-(10**15), 10**15))
def test_whole_number_is_one_class_in_every_type(number: int) -> None:
    values = (number, float(number), np.int64(number), Decimal(number), f"{number}")
    assert {class_name(value) for value in values} == {str(number)}


def test_classes_stand_by_number_or_else_by_text() -> None:
    assert ordered_classes(["10", "9", "-1", "0.5"]) == ("-1", "0.5", "9", "10")
    assert ordered_classes(["b", "10", "9", "b"]) == ("10", "9", "b")


# ---------------------------------------------------------------- a column of classes


def test_numbers_are_classes_where_that_is_stated() -> None:
    dataset = classes_of([10, "9", 9.0, 10.0, 2])
    assert dataset.label_kind == "classes" and dataset.class_names == ("2", "9", "10")
    assert dataset.class_counts() == {"2": 1, "9": 2, "10": 2}
    assert dataset.labels is not None and dataset.labels.tolist() == [2, 1, 1, 2, 0]
    assert "classes: '2' 1, '9' 2, '10' 2" in said(dataset)


def test_numbers_and_words_and_truth_values_are_classes_side_by_side() -> None:
    assert classes_of([1, "other", "18-24", 1.0]).class_counts() == {"1": 2, "18-24": 1, "other": 1}
    assert classes_of([True, False, True]).class_counts() == {"false": 1, "true": 2}


def test_stated_classes_give_the_order_and_leave_out_the_rest() -> None:
    dataset = classes_of(["b", "-", "a", "c", "b"], classes=("b", "a", "d"), label_kind=None)
    assert dataset.class_names == ("b", "a", "d") and dataset.class_counts() == {"b": 2, "a": 1, "d": 0}
    assert dataset.lines.tolist() == [0, 2, 4] and dataset.ledger.count("other_label") == 2
    assert "no row has the label 'd' of data.classes" in said(dataset)
    assert classes_of([1, 0, 2.0], classes=("1", "0")).class_names == ("1", "0")


def test_no_row_of_the_stated_classes_is_an_error() -> None:
    with pytest.raises(DataError, match=r"data.classes does not name\): position 0: 'a'"):
        classes_of(["a", "a"], classes=("x", "y"))


def test_missing_label_is_a_bad_row_among_classes_too() -> None:
    with pytest.raises(DataError, match="2 of 4 rows cannot be used: position 1: label is missing; position 2: label"):
        classes_of(["a", None, " ", "b"])
    kept = classes_of(["a", math.nan, "b"], classes=("a", "b"), on_bad_row="skip")
    assert kinds(kept)["bad_label"] == 1 and len(kept) == 2


def test_class_that_looks_like_no_label_is_said() -> None:
    assert "the class '-' looks as if no label was given" in said(classes_of(["a", "-", "b"]))
    assert "looks as if" not in said(classes_of(["a", "b"]))


def test_classes_that_differ_in_capital_letters_alone_are_said() -> None:
    notes = classes_of(["Good", "bad", "good", "fair"]).ledger.notes
    assert any(note.startswith("classes that differ only in capital letters: 'Good', 'good'; ") for note in notes)
    assert not any("capital" in note for note in classes_of(["good", "bad"]).ledger.notes)


def test_fractions_as_classes_are_said() -> None:
    assert "numbers with a fraction are classes here ('0.5')" in said(classes_of([0.5, 1, 2]))
    assert "fraction" not in said(classes_of([0, 1, 2]))


def test_stated_meanings_become_classes_by_their_numbers() -> None:
    dataset = classes_of(["bad", "good", "great", "odd"], label_values={"bad": 0, "good": 1, "great": 1})
    assert dataset.class_counts() == {"0": 1, "1": 2} and kinds(dataset)["other_label"] == 1


def test_words_where_scores_are_stated_are_refused() -> None:
    with pytest.raises(DataError, match=r"list of labels holds words \('a', 'b'\), but data.label_kind is scores"):
        classes_of(["a", "b"], label_kind="scores")
    assert classes_of([0.5, 3], label_kind="scores").label_kind == "score"


def test_too_many_classes_are_refused_while_they_are_read() -> None:
    with pytest.raises(DataError, match="more than 10,000 different labels"):
        classes_of(list(range(10_001)))


@pytest.mark.parametrize("label", [["a", "b"], ["a"], ("a",), np.array([0, 1]), {"a"}])
def test_list_of_labels_is_out_of_scope(label: object) -> None:
    for stated in ({}, {"label_kind": None}, {"on_bad_row": "skip"}):
        with pytest.raises(DataError, match=r"position 1: label .*multi-label classification is out of scope"):
            classes_of(["a", label], **stated)
    with pytest.raises(SeveralLabels):
        class_name(label)


def test_list_of_labels_in_a_file_is_out_of_scope(tmp_path: Path) -> None:
    rows = [{"text": "a", "labels": [0, 1]}, {"text": "b", "labels": [1]}]
    path = written(tmp_path, "a.jsonl", *map(json.dumps, rows))
    with pytest.raises(DataError, match=r"line 1: label .*multi-label classification is out of scope"):
        from_file(path, CLASSES)
    pytest.importorskip("pyarrow", reason="the Parquet extra is not installed")
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"row 1: label .*multi-label classification is out of scope"):
        from_file(tmp_path / "a.parquet", CLASSES)
    with pytest.raises(DataError, match=r"position 0: label .*multi-label classification is out of scope"):
        ConnectionDataset.from_dataframe(pd.DataFrame(rows), CLASSES)
    with pytest.raises(DataError, match=r"position 0: label .*multi-label"):
        from_texts(["a", "b"], CLASSES, labels=np.eye(2))


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        ({"label_kind": "class"}, "label_kind: expected one of scores, classes, or null, found 'class'"),
        ({"classes": ("a",)}, "classes: expected an array of 2 to 10,000 different texts"),
        ({"classes": "ab"}, "classes: expected an array of 2 to 10,000 different texts"),
        ({"classes": (0, 1)}, "classes: expected an array of 2 to 10,000 different texts"),
        ({"classes": ("각", unicodedata.normalize("NFD", "각"))}, "the label '각' stands there 2 times"),
        ({"classes": ("a", "")}, "classes: expected an array .* texts that are not blank"),
        ({"classes": ("a", "b"), "label_kind": "scores"}, "label_kind is scores"),
        ({"classes": ("a", "b"), "label_values": {"a": 1}}, "classes: is set beside data.label_values"),
        ({"label_kind": "classes", "score_range": (0, 1)}, "score_range: is set, but the labels are read as classes"),
    ],
)
def test_reading_that_contradicts_itself_about_classes_is_refused(stated: dict[str, object], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        from_texts(["a"], Reading(**stated))  # type: ignore[arg-type]


# ---------------------------------------------------------------- codes and counts


def test_unknown_class_is_refused_with_its_lines_and_a_remedy() -> None:
    dataset = classes_of(["yes", "no", "nope", "yess", "nope"])
    with pytest.raises(InputError) as caught:
        dataset.class_codes(["no", "yes"])
    message = str(caught.value)
    assert message.startswith("'<texts>': 3 rows with a label that is not one of the classes 'no', 'yes': ")
    assert "'nope' (positions 2, 4" in message and "'yess' (position 3; 'yes'?)" in message
    assert "data.classes" in message and "\n" not in message


def test_codes_are_those_of_the_same_text() -> None:
    assert classes_of([1, 0]).class_codes(["0", "1"]).tolist() == [1, 0]
    assert classes_of(["4.1", "4.10"]).class_codes(["4.10", "4.1"]).tolist() == [1, 0]
    assert classes_of(["b"]).class_codes(["a", "b", "c"]).tolist() == [1]
    with pytest.raises(InputError, match=r"not one of the classes '4.1', '4.2': '4.10' \(position 0"):
        classes_of(["4.10", "4.1"]).class_codes(["4.1", "4.2"])


def test_codes_of_every_source_keep_their_names(tmp_path: Path) -> None:
    codes = ["4.1", "4.10", "01110", "1110", "12E4", "007", "0x1"]
    rows = [{"text": f"text {i}", "label": code} for i, code in enumerate(codes * 2)]
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    written(tmp_path, "a.jsonl", *map(json.dumps, rows))
    written(tmp_path, "a.json", json.dumps(rows))
    pytest.importorskip("pyarrow", reason="the Parquet extra is not installed")
    frame.to_parquet(tmp_path / "a.parquet")
    names = ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"]
    found = [from_file(tmp_path / name, CLASSES) for name in names]
    found += [ConnectionDataset.from_dataframe(frame, CLASSES), classes_of(codes * 2)]
    for dataset in found:
        assert dataset.class_counts() == dict.fromkeys(dataset.class_names, 2), dataset.source
        assert set(dataset.class_names) == set(codes), dataset.source
        assert "only in the way a number is written: '01110', '1110', '4.1', '4.10'; if they" in said(dataset)


def test_numbers_of_a_column_with_a_type_are_the_same_class_in_every_type(tmp_path: Path) -> None:
    for values in ([1, 0], [1.0, 0.0], np.array([1, 0], np.int8), [Decimal(1), Decimal(0)], ["1", "0"]):
        dataset = ConnectionDataset.from_dataframe(pd.DataFrame({"text": ["a", "b"], "label": values}), CLASSES)
        assert dataset.class_names == ("0", "1")
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": [1, None, 0]})  # of floats, since one is missing
    kept = ConnectionDataset.from_dataframe(frame, Reading(label_kind="classes", on_bad_row="skip"))
    assert kept.class_names == ("0", "1")


def test_classes_are_compared_in_one_form_of_unicode_and_kept_as_first_seen() -> None:
    nfc, nfd = "긍정", unicodedata.normalize("NFD", "긍정")
    assert classes_of([nfd, nfc, "부정"]).class_counts() == {nfd: 2, "부정": 1}
    assert classes_of([nfd, nfd, "부정"], classes=(nfc, "부정"), label_kind=None).class_counts() == {nfc: 2, "부정": 1}
    assert classes_of([nfd, "부정"]).class_codes(["부정", nfc]).tolist() == [1, 0]
    meant = classes_of([nfd, "부정"], label_kind=None, label_values={nfc: 1, "부정": 0})
    assert meant.labels is not None and meant.labels.tolist() == [1, 0]


def test_zeros_and_ones_are_two_classes_where_codes_are_asked_for() -> None:
    dataset = from_texts(["a", "b", "c"], labels=[1, 0, 1])
    assert dataset.label_kind == "binary"
    assert dataset.class_counts() == {"0": 1, "1": 2} and dataset.class_codes(["1", "0"]).tolist() == [0, 1, 0]


def test_scores_and_no_labels_have_no_classes() -> None:
    for dataset, problem in (
        (from_pairs([("a", "b", 0.5), ("c", "d", 3)]), r"scores 0..5, not classes.*label_kind='classes'"),
        (from_pairs([("a", "b")]), "the rows have no labels"),
    ):
        for use in (dataset.class_counts, lambda dataset=dataset: dataset.class_codes(["0", "1"])):
            with pytest.raises(InputError, match=problem):
                use()


def test_classes_of_numbers_are_no_targets() -> None:
    with pytest.raises(InputError, match=r"the labels are classes \('0', '1'\), not scores"):
        classes_of([0, 1]).targets()


# ---------------------------------------------------------------- single texts in files and frames


@pytest.mark.parametrize(
    "header",
    [
        "sentence,label",
        "id,document,label",
        "Text ,gold_label",
        "review,sentiment",
        "utterance,intent,extra",
        "content,a,target",
    ],
)
def test_column_of_single_texts_is_found(tmp_path: Path, header: str) -> None:
    names = header.split(",")
    texts = next(i for i, name in enumerate(names) if name.strip().casefold() not in ("id",))
    rows = [",".join(f"{value}{i}" for i in range(len(names))) for value in ("p", "q")]
    dataset = from_file(written(tmp_path, "a.csv", header, *rows), CLASSES)
    assert dataset.n_texts == 1 and [row.texts for row in dataset] == [(f"p{texts}",), (f"q{texts}",)]
    assert len(dataset.class_names) == 2 and f"texts from '{names[texts]}' only" in said(dataset)


def test_stated_column_of_single_texts_goes_before_usual_pairs(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "premise,hypothesis,label", "a,b,x", "c,d,y")
    assert from_file(path).n_texts == 2
    single = from_file(path, Reading(text_columns=("hypothesis",)))
    assert list(single.rows_of_texts()) == [("b",), ("d",)] and single.class_names == ("x", "y")


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("text,content,label", r"not clear \(text or content\); .*data.text_columns"),
        ("query,intent", "expected two columns of texts, such as sentence1 and sentence2, or one, such as text"),
        ("sentense,label", r"nearest: 'sentense'\)"),
        ("text,label,target", "'label' and 'target' could all be the label"),
        ("text,topic,intent", "'topic' and 'intent' could all be the label"),
        ("text,mark", "classes are needed, but no column has a usual label name; the columns are .*data.label_column"),
    ],
)
def test_unclear_single_texts_are_an_error(tmp_path: Path, header: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        from_file(written(tmp_path, "a.csv", header, "a,b,c"[: 2 * header.count(",") + 1]), CLASSES)


def test_text_without_tabs_in_a_txt_stays_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one text per line, expected rows of pairs"):
        from_file(written(tmp_path, "a.txt", "document label", "a b"))
    tabs = written(tmp_path, "b.txt", "document\tlabel", 'a "b\t1')
    assert from_file(tabs)[0].texts == ('a "b',)


def test_single_texts_without_labels_are_texts_alone(tmp_path: Path) -> None:
    dataset = from_file(written(tmp_path, "a.csv", "id,text", "1,a", "2,b"))
    assert dataset.label_kind == "none" and dataset.n_texts == 1
    assert "so the texts have no labels" in said(dataset)


def test_label_that_only_later_objects_of_single_texts_have_is_not_lost(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"text": "a"}', '{"text": "b", "label": "x"}')
    with pytest.raises(DataError, match="line 2: has a key 'label' like a label"):
        from_file(path)


def test_bad_single_texts_are_bad_rows(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "text,label", "a,x", ",y", "b,")
    with pytest.raises(
        DataError, match=r"2 of 3 rows cannot be used: line 3: the text in 'text' is empty; line 4: lab"
    ):
        from_file(path)
    assert len(from_file(path, Reading(on_bad_row="skip"))) == 1
    with pytest.raises(DataError, match=r"holds no row; expected at least one text$"):
        from_file(written(tmp_path, "b.csv", "text,label"))


# ---------------------------------------------------------------- texts and labels as lists


@pytest.mark.parametrize("holder", [list, np.array, pd.Series, lambda rows: np.array(rows, object), iter])
def test_texts_and_labels_of_every_holder_are_the_same_rows(holder: object) -> None:
    texts, labels = ["a", "b", "각"], ["x", "y", "x"]
    labels_too = labels if holder is iter else holder(labels)  # type: ignore[operator]
    dataset = from_texts(holder(texts), CLASSES, labels=labels_too)  # type: ignore[operator]
    assert list(dataset.rows_of_texts()) == [("a",), ("b",), ("각",)] and dataset.class_counts() == {"x": 2, "y": 1}
    frame = ConnectionDataset.from_dataframe(pd.DataFrame({"text": texts, "label": labels}))
    assert dataset.sha256 == frame.sha256 and dataset.source == "<texts>"
    assert "3 texts, classes 'x', 'y'" in repr(dataset)


def test_pairs_and_labels_in_a_list_are_the_rows_of_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "text1,text2,label", "a,b,yes", "c,d,no")
    pairs, labels = [("a", "b"), ("c", "d")], ["yes", "no"]
    sets = [
        from_pairs(pairs, labels=labels),
        from_pairs(pd.Series(pairs, index=[5, 5]), labels=pd.Series(labels, index=[1, 0])),
        from_pairs(np.array(pairs), labels=np.array(labels)),
        from_pairs(iter(pairs), CLASSES, labels=labels),
        from_pairs([(*pair, label) for pair, label in zip(pairs, labels, strict=True)], CLASSES),
    ]
    assert {dataset.sha256 for dataset in sets} == {from_file(path).sha256}


def test_third_text_is_a_label_only_where_labels_are_stated() -> None:
    rows = [("a", "b", "x"), ("c", "d", "y")]
    assert from_pairs(rows).n_texts == 3
    for reading in (CLASSES, Reading(classes=("x", "y")), Reading(label_values={"x": 1, "y": 0})):
        dataset = from_pairs(rows, reading)
        assert dataset.n_texts == 2 and dataset.labels is not None
    triplets = from_pairs(rows, labels=[0.5, 0.25])
    assert triplets.n_texts == 3 and triplets.labels is not None and triplets.labels.tolist() == [0.5, 0.25]


@pytest.mark.parametrize("n_labels", [0, 1, 3])
def test_labels_of_another_number_are_refused(n_labels: int) -> None:
    labels = ["x", "y", "z"][:n_labels]
    for texts in (["a", "b"], iter(["a", "b"])):
        with pytest.raises(InputError, match=rf"labels has length {n_labels}; give one label for each row"):
            from_texts(texts, labels=labels)
    for pairs in ([("a", "b")] * 2, iter([("a", "b")] * 2)):
        with pytest.raises(InputError, match=rf"labels has length {n_labels}; give one label for each row"):
            from_pairs(pairs, labels=labels)


@pytest.mark.parametrize(
    "labels", ["ab", b"ab", {"a": 1, "b": 2}, {"a", "b"}, 5, iter("ab"), np.array(1), pd.DataFrame()]
)
def test_what_is_no_list_of_labels_is_refused(labels: object) -> None:
    with pytest.raises(InputError, match=r"labels is of type .*, expected a list of one label for each row"):
        from_texts(["a", "b"], labels=labels)  # type: ignore[arg-type]


def test_labels_are_given_once() -> None:
    with pytest.raises(InputError, match=r"labels are given, but the row at position 0 is \(text, text, number\)"):
        from_pairs([("a", "b", 1)], labels=[1])


@pytest.mark.parametrize(
    "texts", [None, 5, "ab", b"ab", {"a": "b"}, {"a"}, np.array("a"), pd.DataFrame({"text": ["a"]})]
)
def test_what_is_no_list_of_texts_is_refused(texts: object) -> None:
    with pytest.raises(InputError, match=r"texts is .*expected a list of texts"):
        from_texts(texts)  # type: ignore[arg-type]


def test_row_that_is_no_text_is_refused_with_its_position() -> None:
    with pytest.raises(InputError, match=r"row at position 1 is .* \(tuple\), expected a text; .* from_pairs"):
        from_texts(["a", ("b", "c")])
    with pytest.raises(InputError, match="row at position 0 is '5'"):
        from_texts([5])
    with pytest.raises(InputError, match="for single texts use from_texts"):
        from_pairs(["a", "b"])
    with pytest.raises(InputError, match="use from_dataframe"):
        from_pairs(pd.DataFrame({"a": ["b"]}))
    with pytest.raises(InputError, match=r"which texts do not have"):
        from_texts(["a"], Reading(label_column="label"))


@pytest.mark.parametrize("missing", [None, math.nan])
def test_missing_text_or_label_of_a_list_is_a_bad_row(missing: object) -> None:
    for texts in (["a", missing], pd.Series(["a", missing])):
        with pytest.raises(DataError, match="1 of 2 rows cannot be used: position 1: the text is missing"):
            from_texts(texts)
    for labels in (["x", missing], pd.Series(["x", missing]), pd.Series(["x", pd.NA])):
        with pytest.raises(DataError, match="1 of 2 rows cannot be used: position 1: label is missing"):
            from_texts(["a", "b"], CLASSES, labels=labels)


def test_graded_scores_of_single_texts_are_scores() -> None:
    targets = from_texts(["a", "b"], labels=[0, 5]).targets()
    assert targets is not None and targets.tolist() == [0, 1]


# ---------------------------------------------------------------- rows of one text


def test_rows_are_called_by_what_they_are() -> None:
    assert [row_word(k) for k in (1, 2, 3)] == ["text", "pair", "triplet"]


def test_rows_of_texts_have_as_many_as_there_are() -> None:
    assert list(from_pairs([("a", "b", "c")]).rows_of_texts()) == [("a", "b", "c")]
    assert list(from_pairs([("a", "b")] * 5000).rows_of_texts()) == [("a", "b")] * 5000
    with pytest.raises(InputError, match="'<texts>': expected rows of two texts, found one text per row"):
        from_texts(["a"]).pairs()


def test_repeats_of_single_texts_are_counted() -> None:
    dataset = from_texts(["a", "A ", "a", "b"], CLASSES, labels=["x", "x", "y", "y"])
    assert kinds(dataset) == {"duplicate": 1, "contradictory": 1}
    assert "1 row repeating an earlier text with the same label (ignoring case and spacing): position 1" in said(
        dataset
    )
    assert "1 row repeating an earlier text with another label" in said(dataset)


def test_overlaps_of_single_texts_are_counted_and_not_with_pairs() -> None:
    train, dev = from_texts(["a b", "c", "C ", "d"]), from_texts(["A  b", "c", "x"])
    both = train.with_overlaps(dev=dev)
    assert kinds(both)["overlap_dev"] == 3
    assert (
        "3 rows having a text that dev has too: positions 0, 1, 2 (2 different texts; ignoring case and spacing)"
        in said(both)
    )
    assert "shared with" not in said(both)
    pairs = from_pairs([("a b", "a b"), ("c", "d")])
    assert "overlap_dev" not in kinds(train.with_overlaps(dev=pairs)) and "overlap_t" not in kinds(
        pairs.with_overlaps(t=train)
    )
    assert "shared with dev: 3 texts" in said(train.with_overlaps(dev=pairs))


def test_selected_single_texts_have_their_own_numbers() -> None:
    part = classes_of(["x", "y", "x"]).select(np.array([2, 0]))
    assert list(part.rows_of_texts()) == [("text 2",), ("text 0",)] and part.class_counts() == {"x": 2, "y": 0}
    assert part.text_rows.tolist() == [[0], [1]]


# ---------------------------------------------------------------- splitting


def test_split_of_classes_is_stratified_and_the_same_for_the_same_seed() -> None:
    labels = ["common"] * 900 + ["rare"] * 90 + ["rarest"] * 10
    dataset = classes_of(labels)  # type: ignore[arg-type]
    train, dev = dataset.split(0.1, seed=3)
    assert dev.class_counts() == {"common": 90, "rare": 9, "rarest": 1} and len(train) == 900
    assert dev.lines.tolist() == sorted(dev.lines.tolist())
    assert dataset.split(0.1, seed=3)[1].sha256 == dev.sha256 != dataset.split(0.1, seed=4)[1].sha256


def test_split_leaves_the_only_row_of_a_class_for_training() -> None:
    for seed in range(20):
        train, dev = classes_of(["a"] * 20 + ["b"] * 20 + ["only"]).split(0.5, seed)
        assert train.class_counts()["only"] == 1 and len(dev) == 20


def test_split_of_classes_warns_where_the_groups_do_not_allow_the_share(caplog: pytest.LogCaptureFixture) -> None:
    rows = [("hub", f"t{i}", "x" if i % 2 else "y") for i in range(90)] + [(f"a{i}", f"b{i}", "x") for i in range(10)]
    with caplog.at_level(logging.WARNING, logger="sbert_ft"):
        train, dev = from_pairs(rows, CLASSES).split(0.3, 0)
    assert len(dev) == 10 and len(train) == 90
    assert "dev gets 10 of 100 rows (10.0 % instead of 30.0 %)" in caplog.text
    assert caplog.text.rstrip().endswith("rows that share a text stay together, and each class needs rows to train on")


def test_each_side_of_a_split_says_its_own_rows_of_each_class() -> None:
    whole = classes_of(["a"] * 20 + ["b"] * 10)
    assert "classes: 'a' 20, 'b' 10" in whole.ledger.notes
    train, dev = whole.split(0.3, 0)
    assert "classes: 'a' 14, 'b' 7" in train.ledger.notes and "classes: 'a' 6, 'b' 3" in dev.ledger.notes
    assert len(train.ledger.notes) == len(dev.ledger.notes) == len(whole.ledger.notes)


def test_split_of_classes_that_hang_together_is_an_error() -> None:
    with pytest.raises(DataError, match="connected by shared texts"):
        from_pairs([("a", "b", "x"), ("b", "c", "y")], CLASSES).split(0.5, 0)
    with pytest.raises(DataError, match="only one row"):
        classes_of(["x"]).split(0.5, 0)


def test_split_of_two_groups_ends_with_one_on_each_side() -> None:
    for share in (0.01, 0.4, 0.6, 0.99):
        taken = share_of_classes(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2]), share, 0)
        assert taken.tolist() in ([True] * 3 + [False] * 2, [False] * 3 + [True] * 2)


@given(
    st.lists(st.tuples(st.integers(0, 25), st.integers(0, 3)), min_size=2, max_size=60),
    st.floats(0.01, 0.99),
    st.integers(0, 3),
)
def test_split_of_classes_takes_whole_groups_and_leaves_some_on_each_side(
    rows: list[tuple[int, int]], share: float, seed: int
) -> None:
    groups, codes = (np.array(column) for column in zip(*rows, strict=True))
    components = np.unique(groups, return_inverse=True)[1]
    if not components.any():
        with pytest.raises(DataError, match="connected by shared texts"):
            share_of_classes(components, codes, share, seed)
        return
    taken = share_of_classes(components, codes, share, seed)
    assert 0 < taken.sum() < len(rows)
    by_group = {group: set(taken[components == group].tolist()) for group in set(components.tolist())}
    assert all(len(sides) == 1 for sides in by_group.values())
    assert (taken == share_of_classes(components, codes, share, seed)).all()


@given(st.lists(st.integers(0, 4), min_size=4, max_size=200), st.floats(0.05, 0.9), st.integers(0, 3))
def test_share_of_each_class_is_met_to_a_row_where_rows_stand_alone(codes: list[int], share: float, seed: int) -> None:
    taken = share_of_classes(np.arange(len(codes)), np.array(codes), share, seed)
    in_dev = Counter(np.array(codes)[taken].tolist())
    alone = len(set(codes)) == len(codes)  # each class has one row, so one of them must lose it
    for code, n in Counter(codes).items():
        assert abs(in_dev[code] - share * n) < 1 or in_dev[code] == n - 1 or taken.sum() == 1
        assert alone or in_dev[code] < n
