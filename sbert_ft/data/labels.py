"""Labels of rows as numbers with a known meaning: 0 and 1, scores on a scale, classes, or no labels.

The inputs of objectives and metrics are made from them here, so that the scale is applied in one place. A score is
mapped linearly and never clipped. A request that does not fit the labels, such as a threshold for classes, is an error
with a hint. The module is long because all that a label can mean is decided here: scores, classes and label words have
to agree with each other.
"""

from __future__ import annotations

import difflib
import math
import numbers
import re
import unicodedata
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.settings import Reading
from sbert_ft.data.formats import Missing
from sbert_ft.data.ledger import Finding, RowFaults, RowPlaces, counted
from sbert_ft.errors import DataError, InputError, joined, quoted

LabelKind = Literal["none", "binary", "score", "classes"]
MAX_WORDS: Final = 10_000
_MAX_CHARS = 200  # anything longer is a text
_N_NAMED = 10  # classes named in a message
_N_LISTED = 20  # classes listed in a note
_N_UNKNOWN = 3  # unknown labels named in a message
_MAX_WHOLE_NUMBERS = 20  # up to so many different whole numbers may be classes
_NO_LABEL_GIVEN = frozenset({"na", "n/a", "#n/a", "<na>", "null", "none", "-", "?"})
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d+(?:\.0*)?", re.ASCII)
# As programs write whole numbers: 1 or 1.0, but not 01.
_PLAIN_WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)(\.0*)?", re.ASCII)
_SAY_MEANINGS = "say what each label means with data.label_values (Reading(label_values=...))"
# Digits and signs without a letter (0,85 or 85 % or 1_0 or ４), hexadecimal digits, NaN and infinities.
_NO_PROPER_NUMBER = re.compile(
    r"[\W\d_]*\d[\W\d_]*(e[+-]?\d+\W*)?|[+-]?0[xob][\da-f_]+|[+-]?(nan|inf|infinity)", re.IGNORECASE
)


@dataclass(frozen=True)
class ScoreScale:
    """The lowest and the highest possible score."""

    low: float
    high: float

    def describe(self) -> str:
        """Return the scale as text, such as "0..5"."""
        return f"{self.low:g}..{self.high:g}"

    @property
    def is_cosine(self) -> bool:
        """Whether the scale is that of a cosine, -1 to 1."""
        return (self.low, self.high) == (-1.0, 1.0)


# In this order: scores without a negative one are never taken as cosines.
_KNOWN_SCALES = (*(ScoreScale(0.0, high) for high in (1.0, 5.0, 10.0, 100.0)), ScoreScale(-1.0, 1.0))


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of N rows and what they mean.

    Attributes:
        kind: "none" where there are no labels (pairs are then matches); "binary" for 0 and 1; "score" for numbers on
            a scale; "classes" for words, and for all labels that were read as classes.
        values: Shape (N,), float64: as in the file, or the numbers of the classes; None where there are no labels.
        scale: Of scores; None for other labels, and for the scores of triplets, which are margins.
        class_names: Names of the classes, by number; empty for other labels.
    """

    kind: LabelKind
    values: NDArray[np.float64] | None = None
    scale: ScoreScale | None = None
    class_names: tuple[str, ...] = ()

    def select(self, rows: NDArray[np.int64]) -> Labels:
        """Return the labels of these rows; their meaning stays the same."""
        return self if self.values is None else replace(self, values=self.values[rows])

    def targets(self) -> NDArray[np.float32] | None:
        """Return the targets of the objectives; see `ConnectionDataset.targets`."""
        if self.values is None:
            return None
        self._refuse_classes()
        if self.scale is None or self.scale.is_cosine:
            return self.values.astype(np.float32)
        return ((self.values - self.scale.low) / (self.scale.high - self.scale.low)).astype(np.float32)

    def matches(self, match_from: float | None) -> NDArray[np.bool_] | None:
        """Return which rows belong together; see `ConnectionDataset.matches`."""
        if self.values is None:
            return None
        self._refuse_classes()
        if self.scale is None:
            return np.equal(self.values, 1.0)
        least = (self.scale.low + self.scale.high) / 2 if match_from is None else match_from
        if not self.scale.low <= least <= self.scale.high:
            raise InputError(f"match_from is {quoted(least)}, expected a score on the scale {self.scale.describe()}")
        belongs: NDArray[np.bool_] = self.values >= least
        return belongs

    def findings(self, places: RowPlaces) -> list[Finding]:
        """Return what makes labels of little use: only one row, one label for all rows, or labels with only one row."""
        n_rows = len(places.lines)
        if n_rows == 1:
            sentence = "there is only one row, too few to train on or to evaluate with"
            return [Finding("single_row", 1, False, tuple(places.lines.tolist()), sentence)]
        if self.values is None:
            return []
        found, where, counts = np.unique(self.values, return_index=True, return_counts=True)
        if len(found) == 1:
            value = quoted(self.class_names[int(found[0])]) if self.class_names else f"{found[0]:g}"
            kind, word = ("constant_score", "score") if self.kind == "score" else ("one_label", "label")
            sentence = f"all {n_rows:,} rows have the {word} {value}, so the labels do not distinguish them"
            return [Finding(kind, n_rows, False, (), sentence)]
        rare = np.sort(where[counts == 1])
        if self.kind == "score" or not len(rare):
            return []
        return [places.finding("rare_label", rare, "with only one row", "label")]

    def class_counts(self) -> dict[str, int]:
        """Return how many rows each class has; see `ConnectionDataset.class_counts`. Labels 0 and 1 are two classes."""
        names, codes = self._own_codes()
        return dict(zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True))

    def class_codes(self, classes: Sequence[str], places: RowPlaces, source: str) -> NDArray[np.int64]:
        """Return the number of each row's class among `classes`, shape (N,); see `ConnectionDataset.class_codes`."""
        names, codes = self._own_codes()
        is_list = isinstance(classes, Sequence) and not isinstance(classes, str)
        if not is_list or not all(isinstance(name, str) for name in classes):
            raise InputError(f"classes is {quoted(classes)}, expected the names of all classes, as texts")
        place = {class_key(name): number for number, name in enumerate(classes)}
        new = np.array([place.get(class_key(name), -1) for name in names], np.int64)
        found: NDArray[np.int64] = new[codes]
        if not (found < 0).any():
            return found
        unknown = np.unique(codes[found < 0])
        shown = []
        for code in unknown[:_N_UNKNOWN].tolist():
            near = difflib.get_close_matches(names[code], classes, n=1)
            meant = f"; {quoted(near[0], limit=40)}?" if near else ""
            shown.append(f"{quoted(names[code], limit=40)} ({places.describe(np.flatnonzero(codes == code))}{meant})")
        more = f" and {counted(len(unknown) - _N_UNKNOWN, 'other label')}" if len(unknown) > _N_UNKNOWN else ""
        rows = f"{counted(int((found < 0).sum()), 'row')} with a label that is not one of the classes {named(classes)}"
        remedy = "fix the labels, or leave such rows out with data.classes (Reading(classes=...))"
        raise InputError(f"{quoted(source, limit=400)}: {rows}: {', '.join(shown)}{more}", remedy)

    def class_notes(self) -> list[str]:
        """Return notes about labels of kind "classes": how many rows each class has, and names that may be mistakes."""
        notes = [self._counts_note()]
        for key_of, difference in ((str.casefold, "capital letters"), (_number, "the way a number is written")):
            by_key: dict[object, list[str]] = {}
            for name in self.class_names:
                by_key.setdefault(key_of(name), []).append(name)
            if alike := [name for key, names in by_key.items() if key is not None and len(names) > 1 for name in names]:
                same = "if they are the same, use one spelling"
                notes.append(f"classes that differ only in {difference}: {named(alike)}; {same}")
        if none_given := [name for name in self.class_names if name.casefold() in _NO_LABEL_GIVEN]:
            remedy = "leave such rows out by naming the others in data.classes (Reading(classes=...))"
            notes.append(f"the class {named(none_given)} looks as if no label was given; if so, {remedy}")
        fractions = [name for name in self.class_names if _NUMBER.fullmatch(name) and not _WHOLE.fullmatch(name)]
        if fractions:
            what = f"numbers with a fraction are classes here ({named(fractions[:2])})"
            notes.append(f"{what}; if they are scores, set data.label_kind to scores")
        return notes

    def recounted(self, notes: Sequence[str], part: Labels) -> tuple[str, ...]:
        """Return the notes on these labels as notes on a part of them, with the part's number of rows of each class."""
        if self.kind != "classes":
            return tuple(notes)
        old, new = self._counts_note(), part._counts_note()
        return tuple(new if note == old else note for note in notes)

    def describe(self) -> str:
        """Return a short description, such as "scores 0..5"."""
        if self.kind == "score":
            return "margins" if self.scale is None else f"scores {self.scale.describe()}"
        if self.kind == "classes":
            return f"classes {named(self.class_names)}"
        return "labels 0 and 1" if self.kind == "binary" else "no labels"

    def _counts_note(self) -> str:
        counts = (f"{quoted(name, limit=40)} {n:,}" for name, n in self.class_counts().items())
        return f"classes: {joined(counts, _N_NAMED)}"

    def _own_codes(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Return the names of the labels' own classes and each row's number among them, shape (N,)."""
        if self.values is None:
            problem = "the rows have no labels, so they have no classes"
            raise InputError(problem, "name the column with data.label_column")
        if self.kind == "score":
            setting = "set data.label_kind to classes (Reading(label_kind='classes'))"
            remedy = f"where each different number is a class, {setting}"
            raise InputError(f"the labels are {self.describe()}, not classes", remedy)
        return self.class_names or ("0", "1"), self.values.astype(np.int64)

    def _refuse_classes(self) -> None:
        if self.kind == "classes":
            words = "classes" if any(name[-1:].isdigit() for name in self.class_names) else "words"
            meaning = f"Reading(label_values={{{quoted(self.class_names[0])}: 1, ...}})"
            remedy = f"say what each means with data.label_values or {meaning}"
            raise InputError(f"the labels are {words} ({named(self.class_names)}), not scores or 0 and 1", remedy)


def named(names: Iterable[str]) -> str:
    """Return the first names in quotes, separated by commas, and the number of the others."""
    return joined((quoted(name, limit=40) for name in names), _N_NAMED)


class LabelFault(ValueError):
    """Why a value is not a label; the reader of the rows adds where."""


class MissingLabel(LabelFault):
    """There is no label in a row."""


class SeveralLabels(LabelFault):
    """A row with a list of labels (multi-label data); no row of such data can be used."""


def class_name(value: object) -> str:
    """Return the name of a label's class: its text, or its number in the shortest spelling.

    A text stays as it is, without the white space around it: "1", "1.0" and "01" are three classes. The numbers 1 and
    1.0 are "1", 0.50 is "0.5", and True is "true".

    Raises:
        LabelFault: The value is missing, or is not a text, a finite number or a bool.
    """
    _refuse_no_scalar(value)
    if isinstance(value, str):
        word = _stripped(value)
        if word.casefold() == "nan":
            raise MissingLabel("is missing")
        return word
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, numbers.Integral):
        if abs(int(value)) >= 10**_MAX_CHARS:  # Python refuses to write very long ones as text
            raise LabelFault("is a number of too many digits for a label")
        return str(int(value))
    number = _as_float(value, "a text or a number")
    if math.isnan(number):
        raise MissingLabel("is missing")
    if math.isinf(number):
        raise LabelFault(f"{quoted(value, limit=40)} is not a finite number")
    if isinstance(value, Decimal) and abs(value) < 10**_MAX_CHARS and value == value.to_integral_value():
        return str(int(value))
    return _of_float(number)


def class_key(name: str) -> str:
    """Return what is equal for all spellings of a class: its name in one form of Unicode."""
    return unicodedata.normalize("NFC", name.strip())


def names_of_classes(labels: Iterable[object]) -> tuple[str, ...]:
    """Return the names of a model's classes, of which texts stay as they are."""
    return tuple(label if isinstance(label, str) else class_name(label) for label in labels)


def number_or_word(value: object) -> float | str:
    """Return a label as a finite number if it is one or spells one, else as a word without white space around it.

    A `LabelFault` if it is missing, is a number that cannot be a score, or is neither a number nor a word.
    """
    _refuse_no_scalar(value)
    if isinstance(value, str):
        word = _stripped(value)
        if _NUMBER.fullmatch(word):
            number = float(word)
        elif _NO_PROPER_NUMBER.fullmatch(word):
            expected = "write it with digits and a point, such as 0.85"
            raise LabelFault(f"{quoted(word, limit=40)} is not a number; {expected}")
        else:
            return word
    elif isinstance(value, (bool, np.bool_)):
        raise LabelFault(f"{value} is not a number; write 1 or 0, or say what it means with label_values")
    else:
        number = _as_float(value, "a number or a word")
    if not math.isfinite(number):
        raise LabelFault(f"{quoted(value, limit=40)} is not a finite number")
    return number


def _refuse_no_scalar(value: object) -> None:
    """Check that a label is present and is not a list."""
    if value is None or value is Missing.MISSING:
        raise MissingLabel("is missing")
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        raise SeveralLabels(f"is of type {type(value).__name__}: multi-label classification is out of scope")


def _stripped(text: str) -> str:
    """Return a label's text without white space around it; refuse one that is empty or too long."""
    word = text.strip()
    if not word:
        raise MissingLabel("is empty")
    if len(word) > _MAX_CHARS:
        raise LabelFault(f"{quoted(word, limit=40)} has {len(word):,} characters, too many for a label")
    return word


def _as_float(value: object, expected: str) -> float:
    if not isinstance(value, (numbers.Real, Decimal)):
        raise LabelFault(f"is of type {type(value).__name__}, expected {expected}")
    try:
        return float(value)
    except (OverflowError, ValueError):  # an integer beyond all floats, which may not print either; a signaling NaN
        raise LabelFault("is too large, or is not a number") from None


def _of_float(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < 1e16 else repr(number)


def _number(text: str) -> float | None:
    """Return the finite number that a text spells; None where it is not a number."""
    return number if _NUMBER.fullmatch(text) and math.isfinite(number := float(text)) else None


def ordered_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Return the different names in the default order: by number where all are numbers, else by text."""
    chosen = sorted(set(names))
    if all(map(_NUMBER.fullmatch, chosen)):
        chosen.sort(key=Decimal)
    return tuple(chosen)


class LabelColumn:
    """Collects the labels of rows one by one; `bad_rows`, then `labels`, find out what they mean together.

    Messages begin with `where`, such as the file's name in quotes, and the column's name.
    """

    def __init__(self, where: str, name: str, reading: Reading, n_texts: int = 2) -> None:
        self._n_texts = n_texts
        self._place = f"{where}: {name}"
        self._scale = None if reading.score_range is None else ScoreScale(*map(float, reading.score_range))
        self._kind = "classes" if reading.classes is not None else reading.label_kind
        self._stated = None if reading.classes is None else {class_key(name): name for name in reading.classes}
        self._meanings: dict[str, float] | None = None
        if reading.label_values is not None:
            self._meanings = {class_key(key): float(number) for key, number in reading.label_values.items()}
        spelled = {key: _number(key) for key in self._meanings or ()}
        self._key_of_number = {number: key for key, number in spelled.items() if number is not None}
        self._seen_keys: set[str] = set()
        self._values = array("d")  # NaN for a word
        self._codes = array("i")  # -1 for a number
        self._words: dict[str, int] = {}  # by `class_key`
        self._names: list[str] = []  # of these, as first seen
        self._places = RowPlaces(np.empty(0, np.int64), "line")  # known once all rows are added

    def add(self, value: object) -> bool:
        """Add the next row's label. Return False, and add nothing, where it is not one of the stated labels.

        Raises:
            LabelFault: The value is not a label; nothing is added.
            DataError: There are more than `MAX_WORDS` different words.
        """
        meant = value if self._meanings is None else self._meaning(value)
        if meant is None and self._meanings is not None:
            return False
        label = class_name(meant) if self._kind == "classes" else number_or_word(meant)
        code = -1
        if isinstance(label, str):
            key = class_key(label)
            if self._stated is not None and key not in self._stated:
                return False
            code = self._words.setdefault(key, len(self._words))
            if code == len(self._names):
                self._names.append(label)
            if code >= MAX_WORDS:
                things = "words" if self._kind is None else "labels"
                problem = f"{self._place} holds more than {MAX_WORDS:,} different {things}"
                raise DataError(problem, "name a column of labels")
            label = math.nan
        elif self._scale is not None and not self._scale.low <= label <= self._scale.high:
            raise LabelFault(f"{quoted(value, limit=40)} is outside the stated scale {self._scale.describe()}")
        self._values.append(label)
        self._codes.append(code)
        return True

    def _meaning(self, value: object) -> float | None:
        """Return the number that `label_values` gives to a label; None for a label that it does not have."""
        assert self._meanings is not None
        number: float | None
        if isinstance(value, str):
            spellings, number = [class_key(value)], None
            if _PLAIN_WHOLE.fullmatch(spellings[0]):
                number = _number(spellings[0])
            if spellings[0] not in self._meanings and spellings[0].casefold() in ("", "nan"):
                raise MissingLabel("is missing")
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
        """Return which of the N rows at `lines` have a label that does not fit the others, and add them to `faults`.

        Words among more numbers are bad rows. So are words that mean "no label" (NA, null, -), unless all labels are
        words and some of them are other words. Shape (N,).

        Raises:
            DataError: There are numbers among as many words or more.
        """
        self._places = RowPlaces(lines, faults.unit)
        codes = np.array(self._codes, np.int64)
        words = self._names
        is_number = codes < 0
        n_numbers = int(is_number.sum())
        none_given = np.array([word.casefold() in _NO_LABEL_GIVEN for word in words], bool)
        if self._kind == "classes" or not words or (n_numbers == 0 and not none_given.all()):
            return np.zeros(len(codes), bool)
        bad = ~is_number
        is_word = bad & ~np.append(none_given, False)[codes]  # -1 takes the last
        if n_numbers and is_word.sum() >= n_numbers:
            word, number = int(np.argmax(is_word)), int(np.argmax(is_number))
            raise DataError(
                f"{self._place} holds numbers and words: {self._values[number]:g} in {faults.unit} {lines[number]}, "
                f"{quoted(words[codes[word]], limit=40)} in {faults.unit} {lines[word]}",
                f"fix them, name another column, or {_SAY_MEANINGS}",
            )
        for row in np.flatnonzero(bad).tolist():
            problem = "is not a number, unlike most of the column" if is_word[row] else "means that there is no label"
            faults.add("bad_label", int(lines[row]), f"label {quoted(words[codes[row]], limit=40)} {problem}")
        return bad

    def labels(self, kept: NDArray[np.bool_]) -> tuple[Labels, list[str]]:
        """Return the labels of the kept rows, of which there is at least one, and notes about them.

        Raises:
            DataError: Scores fit no known scale and none is stated, or scores are expected but the labels are words.
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
            return Labels("binary", values), [*notes, f"labels are 0 and 1{meaning}"]
        return self._scores(values, self._places.lines[kept], notes)

    def _classes(self, codes: NDArray[np.int64], notes: list[str]) -> tuple[Labels, list[str]]:
        """Return the labels of rows whose words have these numbers, shape (n,), and the notes about them."""
        found = named(sorted(self._names))
        if self._scale is not None:
            raise DataError(f"{self._place} holds words ({found}), but data.score_range is set", "leave it out")
        if self._kind == "scores":
            remedy = f"{_SAY_MEANINGS}, or name another column"
            raise DataError(f"{self._place} holds words ({found}), but data.label_kind is scores", remedy)
        names = ordered_classes(self._names) if self._stated is None else tuple(self._stated.values())
        number_of_key = {class_key(name): number for number, name in enumerate(names)}
        number_of_code = np.array([number_of_key[key] for key in self._words], np.float64)
        if self._kind is None:
            numbered = joined((f"{quoted(name, limit=40)} = {i}" for i, name in enumerate(names)), _N_LISTED)
            notes.append(f"the labels are {counted(len(names), 'word')}, in order: {numbered}")
        if unseen := [name for name in names if class_key(name) not in self._words]:
            notes.append(f"no row has the label {named(unseen)} of data.classes")
        labels = Labels("classes", number_of_code[codes], class_names=names)
        return labels, [*notes, *labels.class_notes()]

    def _scores(
        self, values: NDArray[np.float64], lines: NDArray[np.int64], notes: list[str]
    ) -> tuple[Labels, list[str]]:
        """Return the labels of rows with these scores, shape (n,), and the notes about them."""
        low, high = float(values.min()), float(values.max())
        if self._n_texts == 3:
            notes.append(f"margins from {low:g} to {high:g} between the second text and the third, taken as they are")
            return Labels("score", values), notes
        fitting = (known for known in _KNOWN_SCALES if known.low <= low and high <= known.high)
        if (scale := self._scale or next(fitting, None)) is None:
            at_low, at_high = (f"{self._places.unit} {lines[row]}" for row in (values.argmin(), values.argmax()))
            known = ", ".join(known.describe() for known in _KNOWN_SCALES)
            problem = f"scores from {low:g} ({at_low}) to {high:g} ({at_high}), which fits none of the known scales"
            remedy = "fix them, or set data.score_range (Reading(score_range=(lowest, highest)))"
            remedy += ", or data.label_kind to classes if each is a class"
            raise DataError(f"{self._place} holds {problem} ({known})", remedy)
        kept_as = "taken as they are" if scale.is_cosine else "mapped linearly to 0..1 for objectives"
        source = "found; if it is another, set data.score_range" if self._scale is None else "as stated"
        notes.append(f"scores from {low:g} to {high:g} on the scale {scale.describe()} ({source}), {kept_as}")
        few = len(np.unique(values[: 1 << 20])) <= _MAX_WHOLE_NUMBERS
        if self._meanings is None and few and (values == np.floor(values)).all():
            note = "all of them are whole numbers: taken as scores, not as classes"
            notes.append(f"{note} (to change this, set data.label_values)")
        return Labels("score", values, scale), notes
