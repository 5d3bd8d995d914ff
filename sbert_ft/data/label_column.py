"""A column of labels while a file is read: what each value is, and what all of them together mean.

Whether 1 means "the same", "a little alike" or the second of three classes is decided over the whole column and always
said, never row by row. A number is read strictly: 0,85 and 85 % and 0x1 and nan are no scores, since the readers that
take them disagree about what they are. Numbers cost 8 bytes a row and words 4, whatever the number of rows.
"""

from __future__ import annotations

import math
import numbers
import re
from array import array
from decimal import Decimal
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.settings import Reading
from sbert_ft.data.class_labels import (
    NO_LABEL_GIVEN,
    NUMBER,
    LabelFault,
    about_classes,
    class_name,
    ordered_classes,
    refuse_no_scalar,
    stripped,
)
from sbert_ft.data.labels import COSINE_SCALE, POSITIVE_SCALES, Labels, ScoreScale, named
from sbert_ft.data.ledger import RowFaults, Unit, counted
from sbert_ft.errors import DataError, quoted

MAX_WORDS: Final = 10_000
_MAX_WHOLE_NUMBERS = 20  # so many different ones could as well be classes
# Digits and signs without a letter (0,85 or 85 % or 1_0 or ４), hexadecimal digits, and what is not finite.
_NO_PROPER_NUMBER = re.compile(
    r"[\W\d_]*\d[\W\d_]*(e[+-]?\d+\W*)?|[+-]?0[xob][\da-f_]+|[+-]?(nan|inf|infinity)", re.IGNORECASE
)


def number_or_word(value: object) -> float | str:
    """Return a label as the finite number that it is or spells, or else as a word without white space around it.

    Raises:
        LabelFault: There is no value, or a number that no score can be, or something that is neither.
    """
    refuse_no_scalar(value)
    if isinstance(value, str):
        word = stripped(value)
        if not NUMBER.fullmatch(word):
            if _NO_PROPER_NUMBER.fullmatch(word):
                raise LabelFault(f"{quoted(word, limit=40)} is no number; write it with digits and a point, as 0.85")
            return word
        number = float(word)
    elif isinstance(value, (bool, np.bool_)):
        raise LabelFault(f"{value} is no number; write 1 or 0, or say what it means with label_values")
    elif isinstance(value, (numbers.Real, Decimal)):
        try:
            number = float(value)
        except (OverflowError, ValueError):  # an integer beyond all floats, which may not print either; a strange NaN
            raise LabelFault("is too large for a number, or none") from None
    else:
        raise LabelFault(f"is of type {type(value).__name__}, expected a number or a word")
    if not math.isfinite(number):
        raise LabelFault(f"{quoted(value, limit=40)} is no finite number")
    return number


class LabelColumn:
    """Takes the label of one row after another; `bad_rows` and then `labels` say what they mean together.

    Args:
        where: What messages begin with, such as the file's name in quotes.
        name: The column's name for messages, in quotes.
        reading: What was stated about labels.
        n_texts: Texts a row, for what is said of labels.
    """

    def __init__(self, where: str, name: str, reading: Reading, n_texts: int = 2) -> None:
        self._n_texts = n_texts
        self._place = f"{where}: {name}"
        self._scale = None if reading.score_range is None else ScoreScale(*map(float, reading.score_range))
        self._kind = "classes" if reading.classes is not None else reading.label_kind
        self._stated = None if reading.classes is None else tuple(map(class_name, reading.classes))
        self._accepted: frozenset[float | str] | None = None if self._stated is None else frozenset(self._stated)
        self._meanings: dict[str, float] | None = None
        if reading.label_values is not None:
            self._meanings = {key.strip(): float(number) for key, number in reading.label_values.items()}
        spelled = {key: _number(key) for key in self._meanings or ()}
        self._key_of_number = {number: key for key, number in spelled.items() if number is not None}
        self._seen_keys: set[str] = set()
        self._values = array("d")  # NaN for a word
        self._codes = array("i")  # -1 for a number
        self._words: dict[str, int] = {}
        self._lines = np.empty(0, np.int64)  # where the rows stand, once all are there
        self._unit: Unit = "line"

    def add(self, value: object) -> bool:
        """Take the next row's label; return False, with nothing taken, where the stated labels do not have it.

        Raises:
            LabelFault: The value is no label; nothing is taken either.
            DataError: There are more words than any labels have.
        """
        meant = value if self._meanings is None else self._meaning(value)
        if meant is None and self._meanings is not None:
            return False
        label = class_name(meant) if self._kind == "classes" else number_or_word(meant)
        if self._accepted is not None and label not in self._accepted:
            return False
        if isinstance(label, str):
            code = self._words.setdefault(label, len(self._words))
            if code >= MAX_WORDS:
                things = "words" if self._kind is None else "labels"
                raise DataError(
                    f"{self._place} holds more than {MAX_WORDS:,} different {things}; name a column of labels"
                )
            self._values.append(math.nan)
            self._codes.append(code)
            return True
        if self._scale is not None and not self._scale.low <= label <= self._scale.high:
            raise LabelFault(f"{quoted(value, limit=40)} is outside the stated scale {self._scale.describe()}")
        self._values.append(label)
        self._codes.append(-1)
        return True

    def _meaning(self, value: object) -> float | None:
        """Return the number that `label_values` has for a label, None where it has none."""
        assert self._meanings is not None
        number: float | None
        if isinstance(value, str):
            spellings, number = [value.strip()], _number(value.strip())
            if spellings[0] not in self._meanings and spellings[0].casefold() in ("", "nan"):
                raise LabelFault("is missing")
        elif isinstance(value, (bool, np.bool_)):
            spellings, number = [str(bool(value)), str(bool(value)).lower()], None
        else:
            spellings, number = [], float(number_or_word(value))
        if number is not None and number in self._key_of_number:
            spellings.append(self._key_of_number[number])
        key = next((spelling for spelling in spellings if spelling in self._meanings), None)
        if key is None:
            return None
        self._seen_keys.add(key)
        return self._meanings[key]

    def bad_rows(self, lines: NDArray[np.int64], faults: RowFaults) -> NDArray[np.bool_]:
        """Return which of the N rows have no label that fits the others, shape (N,), and add them to `faults`.

        Words among more numbers are bad rows, and so is what says that there is no label (NA, null, -) unless there
        are other words.

        Args:
            lines: Where the rows stand, shape (N,).
            faults: Of the file.

        Raises:
            DataError: There are numbers among as many words or more.
        """
        self._lines, self._unit = lines, faults.unit
        codes = np.array(self._codes, np.int64)
        words = list(self._words)
        if self._kind == "classes":
            return np.zeros(len(codes), bool)
        is_number = codes < 0
        n_numbers = int(is_number.sum())
        none_given = np.array([word.casefold() in NO_LABEL_GIVEN for word in words], bool)
        if not words or (n_numbers == 0 and not none_given.all()):
            return np.zeros(len(codes), bool)
        bad = ~is_number
        is_word = bad & ~np.append(none_given, False)[codes]  # -1 takes the last
        if n_numbers and is_word.sum() >= n_numbers:
            word, number = int(np.argmax(is_word)), int(np.argmax(is_number))
            raise DataError(
                f"{self._place} holds numbers and words: {self._values[number]:g} in {faults.unit} {lines[number]}, "
                f"{quoted(words[codes[word]], limit=40)} in {faults.unit} {lines[word]}; mend them, name another "
                "column, or say what each label means with data.label_values (Reading(label_values=...))"
            )
        for row in np.flatnonzero(bad).tolist():
            problem = "is no number, unlike most of the column" if is_word[row] else "says that there is none"
            faults.add("bad_label", int(lines[row]), f"label {quoted(words[codes[row]], limit=40)} {problem}")
        return bad

    def labels(self, kept: NDArray[np.bool_]) -> tuple[Labels, list[str]]:
        """Return the labels of the kept rows, of which there is one at least, and what is to be said of them.

        Args:
            kept: Shape (N,).

        Raises:
            DataError: Scores are on no scale known and none is stated, or a scale is stated for words.
        """
        values = np.array(self._values, np.float64)[kept]
        notes = []
        if self._meanings is not None:
            meant = ", ".join(f"{quoted(key, limit=40)} = {number:g}" for key, number in self._meanings.items())
            notes.append(f"labels mean what label_values says: {meant}")
            if unseen := [key for key in self._meanings if key not in self._seen_keys]:
                notes.append(f"no row has the label {named(unseen)} of label_values")
        if np.isnan(values[0]):  # all are words
            return self._classes(np.array(self._codes, np.int64)[kept], notes)
        if self._scale is None and np.isin(values, (0.0, 1.0)).all():
            meaning = ": a pair with label 1 belongs together" if self._n_texts == 2 else ""
            notes.append(f"labels are 0 and 1{meaning}")
            return Labels("binary", values), notes
        scale = self._scale or self._found_scale(values, self._lines[kept])
        notes.extend(_about_scores(values, scale, self._scale is not None, self._meanings is not None))
        return Labels("score", values, scale), notes

    def _classes(self, codes: NDArray[np.int64], notes: list[str]) -> tuple[Labels, list[str]]:
        """Return the labels of rows whose words have these numbers, shape (n,), and the notes with what is to be said.

        Raises:
            DataError: Scores are expected.
        """
        found = named(sorted(self._words))
        if self._scale is not None:
            raise DataError(f"{self._place} holds words ({found}), but data.score_range is set; leave it out")
        if self._kind == "scores":
            remedy = "say what each means with data.label_values (Reading(label_values=...)), or name another column"
            raise DataError(f"{self._place} holds words ({found}), but data.label_kind is scores; {remedy}")
        names = self._stated or ordered_classes(self._words)
        number_of_name = {name: number for number, name in enumerate(names)}
        number_of_code = np.array([number_of_name[word] for word in self._words], np.float64)
        if self._kind is None:
            listed = ", ".join(f"{quoted(name, limit=40)} = {i}" for i, name in enumerate(names[:20]))
            more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
            notes.append(f"the labels are {counted(len(names), 'word')}, in order: {listed}{more}")
        if unseen := [name for name in names if name not in self._words]:
            notes.append(f"no row has the label {named(unseen)} of data.classes")
        labels = Labels("classes", number_of_code[codes], class_names=names)
        return labels, [*notes, *about_classes(labels)]

    def _found_scale(self, values: NDArray[np.float64], lines: NDArray[np.int64]) -> ScoreScale:
        """Return the scale that the scores, shape (n,), of the rows at `lines` fit.

        Raises:
            DataError: They fit none.
        """
        low, high = float(values.min()), float(values.max())
        if -1.0 <= low < 0.0 and high <= 1.0:
            return COSINE_SCALE
        scale = next((scale for scale in POSITIVE_SCALES if low >= 0.0 and high <= scale.high), None)
        if scale is None:
            known = ", ".join(known.describe() for known in (*POSITIVE_SCALES, COSINE_SCALE))
            raise DataError(
                f"{self._place} holds scores from {low:g} ({self._unit} {lines[values.argmin()]}) to {high:g} "
                f"({self._unit} {lines[values.argmax()]}), which is none of the scales known ({known}); mend them, or "
                "set data.score_range (Reading(score_range=(lowest, highest)))"
            )
        return scale


def _about_scores(values: NDArray[np.float64], scale: ScoreScale, stated: bool, named_values: bool) -> list[str]:
    """Return what scores there are, on which scale they are taken to be and what objectives make of them."""
    low, high = float(values.min()), float(values.max())
    kept_as = "taken as they are" if scale.is_cosine else "mapped linearly to 0..1 for objectives"
    source = "as stated" if stated else "found; if it is another, set data.score_range"
    notes = [f"scores from {low:g} to {high:g} on the scale {scale.describe()} ({source}), {kept_as}"]
    whole = np.unique(values[: 1 << 20])
    if not named_values and len(whole) <= _MAX_WHOLE_NUMBERS and (values == np.floor(values)).all():
        notes.append(
            "all of them are whole numbers: taken as scores, not as classes (data.label_values says otherwise)"
        )
    return notes


def _number(text: str) -> float | None:
    """Return the finite number that a text spells, None where it spells none."""
    return number if NUMBER.fullmatch(text) and math.isfinite(number := float(text)) else None
