"""Labels: which values are numbers, what a column of labels means, and the inputs of objectives and metrics."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbert_ft.config.settings import Reading
from sbert_ft.data.formats import Missing
from sbert_ft.data.labels import MAX_WORDS, LabelColumn, LabelFault, Labels, ScoreScale, number_or_word
from sbert_ft.data.ledger import RowFaults, RowPlaces
from sbert_ft.errors import DataError, InputError


def labels_of(values: list[object], **stated: object) -> tuple[Labels, list[str], RowFaults]:
    """Return the labels of a column, its notes and the rows that were dropped; lines are counted from 1."""
    column, faults, lines = LabelColumn("'a.csv'", "column 'score'", Reading(**stated)), RowFaults("line"), []  # type: ignore[arg-type]
    for line, value in enumerate(values, 1):
        try:
            if column.add(value):
                lines.append(line)
        except LabelFault as problem:
            faults.add("bad_label", line, str(problem))
    bad = column.bad_rows(np.array(lines, np.int64), faults)
    labels, notes = column.labels(~bad)
    return labels, notes, faults


# ---------------------------------------------------------------- one value


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *(("0", 0.0), ("1.0", 1.0), ("5.000", 5.0), ("-0.25", -0.25), ("+3", 3.0), (".5", 0.5), ("5.", 5.0)),
        *(("1e-3", 0.001), ("2E2", 200.0), (" 4.2 ", 4.2), ("007", 7.0), ("0" * 150 + "1", 1.0)),
        *((3, 3.0), (0.5, 0.5), (np.float32(0.5), 0.5), (np.int64(4), 4.0), (Decimal("1.25"), 1.25)),
    ],
)
def test_number_is_read(value: object, number: float) -> None:
    assert number_or_word(value) == number


@pytest.mark.parametrize("word", ["entailment", "같음", "half", "true", "3 stars", "e5", "one", "A", "NA", "-", "x"])
def test_word_is_kept_as_a_word(word: str) -> None:
    assert number_or_word(f" {word}\t") == word


@pytest.mark.parametrize(
    "value",
    [
        *("0,85", "85 %", "85%", "1_0", "0x1", "0X1F", "0b1", "nan", "NaN", "-nan", "inf", "-Infinity", "1e309"),
        *("-1e999", "1.2.3", "--1", "1,000.5", "4/5", "1 2", "$5", "1e5%", "４", "٣", "2020-01-01", "1-"),
        *("", " ", "\u3000", "\xa0", None, Missing.MISSING, True, False, np.True_, math.nan, math.inf, -math.inf),
        *(np.float32("nan"), 10**400, 10**5000, Decimal("NaN"), Decimal("sNaN"), Decimal("1e999")),
        *([], {}, [0.5], b"1", object(), 1j, "w" * 201, "9" * 400),
    ],
    ids=lambda value: ascii(value)[:20] if not isinstance(value, int) else "int",
)
def test_value_that_no_label_can_be_is_refused(value: object) -> None:
    with pytest.raises(LabelFault) as caught:
        number_or_word(value)
    assert len(str(caught.value)) < 200


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_read_back_from_its_digits(number: float) -> None:
    assert number_or_word(repr(number)) == number


@given(st.text(max_size=30) | st.from_regex(r"[-+0-9.,_ xeE%]{1,12}", fullmatch=True))
def test_any_text_is_a_finite_number_a_word_or_a_fault(text: str) -> None:
    try:
        found = number_or_word(text)
    except LabelFault:
        return
    if isinstance(found, str):
        assert found == text.strip() != ""
    else:
        assert math.isfinite(found) and found == float(text)


# ---------------------------------------------------------------- what a column means


@pytest.mark.parametrize("values", [["0", "1"], ["0.0", "1.0", "1"], [0, 1], ["1", "1"], [0.0, "0"]])
def test_zeros_and_ones_are_binary(values: list[object]) -> None:
    labels, notes, _ = labels_of(values)
    assert labels.kind == "binary" and labels.scale is None
    assert labels.values is not None and labels.values.dtype == np.float64
    assert any("labels are 0 and 1" in note for note in notes)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([0.2, 0.9], 0, 1),
        ([0, 1, 0.5], 0, 1),
        ([-0.5, 0.5], -1, 1),
        ([-1, 0], -1, 1),
        ([0, 5], 0, 5),
        ([1, 2, 5], 0, 5),
        ([0, 5.5], 0, 10),
        ([10], 0, 10),
        ([0, 85], 0, 100),
    ],
)
def test_scale_of_scores_is_found_and_said(values: list[object], low: float, high: float) -> None:
    labels, notes, _ = labels_of(values)
    assert labels.kind == "score" and labels.scale == ScoreScale(low, high)
    assert any(f"on the scale {low:g}..{high:g} (found" in note for note in notes)
    mapped = "taken as they are" if low < 0 else "mapped linearly to 0..1"
    assert any(mapped in note for note in notes)


@pytest.mark.parametrize("values", [[-7.5, 3], [0, 101], [-1.01, 1], [-0.1, 1.5], [0, 10**9], [0, 1e300]])
def test_scores_of_no_known_scale_ask_for_it(values: list[object]) -> None:
    with pytest.raises(DataError, match=r"'a.csv': column 'score' holds scores from .* set data.score_range"):
        labels_of(values)


def test_stated_scale_makes_scores_of_zeros_and_ones_and_refuses_what_is_outside() -> None:
    labels, notes, faults = labels_of(["0", "1", "5.1", "-0.1"], score_range=(0, 5))
    assert labels.kind == "score" and labels.scale == ScoreScale(0, 5)
    assert any("as stated" in note for note in notes)
    assert [line for line, _ in faults.first(["bad_label"])] == [3, 4]
    assert faults.first(["bad_label"])[0][1] == "'5.1' is outside the stated scale 0..5"


def test_whole_numbers_are_scores_and_that_is_said() -> None:
    labels, notes, _ = labels_of(["0", "1", "2"])
    assert labels.kind == "score"
    assert any("whole numbers: taken as scores, not as classes" in note for note in notes)
    assert not any("whole numbers" in note for note in labels_of(["0", "1", "2.5"])[1])


def test_words_are_classes_in_a_stable_order_that_is_said() -> None:
    labels, notes, _ = labels_of(["neutral", "entailment", " neutral ", "contradiction"])
    assert labels.kind == "classes"
    assert labels.class_names == ("contradiction", "entailment", "neutral")
    assert labels.values is not None and labels.values.tolist() == [2, 1, 2, 0]
    assert any("'contradiction' = 0, 'entailment' = 1, 'neutral' = 2" in note for note in notes)
    assert labels_of(["contradiction", "neutral", "entailment"])[0].class_names == labels.class_names


def test_stated_scale_for_words_is_refused() -> None:
    with pytest.raises(DataError, match=r"holds words \('no', 'yes'\), but data.score_range is set"):
        labels_of(["yes", "no"], score_range=(0, 1))


def test_numbers_among_words_are_an_error_that_names_the_first_of_both() -> None:
    with pytest.raises(DataError, match=r"numbers and words: 1 in line 3, 'neutral' in line 1; .*data.label_values"):
        labels_of(["neutral", "neutral", "1"])
    with pytest.raises(DataError, match="numbers and words"):
        labels_of(["a", "1"])


def test_word_among_more_numbers_is_a_bad_row() -> None:
    labels, _, faults = labels_of(["0.5", "high", "0.25", "0.75"])
    assert labels.kind == "score"
    assert faults.first(["bad_label"]) == [(2, "label 'high' is not a number, unlike most of the column")]


@pytest.mark.parametrize("word", ["NA", "n/a", "null", "None", "-", "#N/A"])
def test_sign_for_no_label_is_a_bad_row_among_numbers_and_a_class_among_words(word: str) -> None:
    _, _, faults = labels_of(["0.5", word])
    assert faults.first(["bad_label"]) == [(2, f"label '{word}' means that there is no label")]
    assert labels_of(["yes", word])[0].class_names == tuple(sorted(["yes", word]))


def test_column_of_texts_is_not_taken_for_one_of_labels() -> None:
    with pytest.raises(DataError, match=rf"more than {MAX_WORDS:,} different words"):
        labels_of([f"text {i} of many words" for i in range(MAX_WORDS + 1)])


# ---------------------------------------------------------------- stated meanings


def test_stated_meanings_give_binary_or_scores_and_leave_out_the_rest() -> None:
    meanings = {"entailment": 1, "contradiction": 0}
    labels, notes, _ = labels_of(["entailment", "neutral", "contradiction", "-"], label_values=meanings)
    assert labels.kind == "binary" and labels.values is not None and labels.values.tolist() == [1, 0]
    assert any("'entailment' = 1, 'contradiction' = 0" in note for note in notes)
    labels, _, _ = labels_of(["a", "b", "c"], label_values={"a": 1, "b": 0.5, "c": 0})
    assert labels.kind == "score" and labels.scale == ScoreScale(0, 1)
    labels, _, _ = labels_of(["a", "b"], label_values={"a": 1, "b": 0}, score_range=(0, 5))
    assert labels.kind == "score" and labels.scale == ScoreScale(0, 5)


@pytest.mark.parametrize(
    ("value", "key"),
    [("1", "1"), ("1.0", "1"), (1, "1"), (1.0, "1"), ("1", "1.0"), (True, "true"), (True, "True"), (np.int64(1), "1")],
)
def test_stated_meaning_is_found_for_every_spelling_of_a_number(value: object, key: str) -> None:
    labels, _, faults = labels_of([value], label_values={key: 1})
    assert labels.values is not None and labels.values.tolist() == [1] and not faults.counts


def test_stated_meaning_that_no_row_has_is_said() -> None:
    _, notes, _ = labels_of(["entailment"], label_values={"entailment": 1, "contradicton": 0})
    assert any("no row has the label 'contradicton'" in note for note in notes)


@pytest.mark.parametrize("value", ["", " ", None, Missing.MISSING, "NaN", math.nan, [1]])
def test_missing_label_is_bad_even_with_stated_meanings(value: object) -> None:
    _, _, faults = labels_of(["yes", value], label_values={"yes": 1})
    assert faults.counts["bad_label"] == 1


# ---------------------------------------------------------------- inputs of objectives and metrics


def test_targets_are_labels_of_0_and_1_or_scores_mapped_without_clipping() -> None:
    binary = Labels("binary", np.array([0.0, 1.0])).targets()
    assert binary is not None and binary.dtype == np.float32 and binary.tolist() == [0, 1]
    mapped = Labels("score", np.array([0.0, 2.5, 5.0]), ScoreScale(0, 5)).targets()
    assert mapped is not None and mapped.tolist() == [0, 0.5, 1]
    cosine = Labels("score", np.array([-1.0, 0.25]), ScoreScale(-1, 1)).targets()
    assert cosine is not None and cosine.tolist() == [-1, 0.25]
    shifted = Labels("score", np.array([1.0, 5.0, 3.0]), ScoreScale(1, 5)).targets()
    assert shifted is not None and shifted.tolist() == [0, 1, 0.5]
    assert Labels("none").targets() is None


@given(st.lists(st.floats(0, 5), min_size=1), st.sampled_from([(0.0, 5.0), (-1.0, 6.0)]))
def test_targets_lie_between_0_and_1_in_the_order_of_the_scores(scores: list[float], ends: tuple[float, float]) -> None:
    targets = Labels("score", np.array(scores), ScoreScale(*ends)).targets()
    assert targets is not None and targets.min() >= 0 and targets.max() <= 1
    assert (np.diff(targets[np.argsort(scores, kind="stable")]) >= 0).all()


def test_matches_are_label_1_or_scores_from_the_middle_of_the_scale_on() -> None:
    scores = Labels("score", np.array([0.0, 2.5, 4.0]), ScoreScale(0, 5))
    assert np.array_equal(scores.matches(None), [False, True, True])
    assert np.array_equal(scores.matches(4), [False, False, True])
    assert np.array_equal(Labels("binary", np.array([0.0, 1.0])).matches(None), [False, True])
    assert Labels("none").matches(None) is None
    for outside in (5.1, -1, math.nan):
        with pytest.raises(InputError, match=r"match_from is .* expected a score on the scale 0\.\.5"):
            scores.matches(outside)


def test_classes_are_no_targets_and_no_matches() -> None:
    classes = Labels("classes", np.array([0.0, 1.0]), class_names=("no", "yes"))
    for use in (classes.targets, lambda: classes.matches(None)):
        with pytest.raises(InputError, match=r"words \('no', 'yes'\).*label_values=\{'no': 1"):
            use()


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (Labels("binary", np.array([1.0])), "single_row"),
        (Labels("none"), "single_row"),
        (Labels("binary", np.array([1.0, 1.0])), "one_label"),
        (Labels("classes", np.array([0.0, 0.0]), class_names=("same",)), "one_label"),
        (Labels("score", np.array([2.0, 2.0, 2.0]), ScoreScale(0, 5)), "constant_score"),
        (Labels("binary", np.array([1.0, 1.0, 0.0])), "rare_label"),
    ],
)
def test_labels_of_little_use_are_found(labels: Labels, kind: str) -> None:
    n_rows = 1 if labels.values is None else len(labels.values)
    (finding,) = labels.findings(RowPlaces(np.arange(2, 2 + n_rows), "line"))
    assert finding.kind == kind and not finding.dropped
    if kind == "rare_label":
        assert finding.first == (4,) and finding.sentence == "1 label with only one row: line 4"


def test_labels_of_use_are_not_found_fault_with() -> None:
    assert Labels("binary", np.array([1.0, 0.0, 1.0, 0.0])).findings(RowPlaces(np.arange(4), "line")) == []
    assert Labels("score", np.array([1.0, 0.5]), ScoreScale(0, 1)).findings(RowPlaces(np.arange(2), "line")) == []
