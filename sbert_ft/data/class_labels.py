"""Labels as classes: what a class is called, in which order they stand, and which number each row's class has.

A file writes 1, another 1.0 and a third "1": as scores these are equal, so as classes they must be too, or a model that
was trained on one file would not know the labels of the other. Every label has therefore one name, a text, and a model
numbers classes by these names. Whole numbers are never taken through a float, so that long ones stay apart.
"""

from __future__ import annotations

import difflib
import math
import numbers
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.data.labels import Labels, named
from sbert_ft.data.ledger import Unit, at_lines, counted, first_lines
from sbert_ft.data.tables import Missing
from sbert_ft.errors import InputError, quoted

MAX_LABEL_CHARS: Final = 200  # what is longer is a text
NO_LABEL_GIVEN: Final = frozenset({"na", "n/a", "#n/a", "<na>", "null", "none", "-", "?"})
NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"([+-]?\d+)(?:\.0*)?", re.ASCII)
_N_NAMED = 20  # classes named in a note
_N_UNKNOWN = 3  # unknown labels named in a message


class LabelFault(ValueError):
    """Why a value is no label; the reader of the rows says where."""


class SeveralLabels(LabelFault):
    """A row that has a list of labels, as where several classes hold at once; no row of such data can be used."""


def stripped(text: str) -> str:
    """Return a label's text without white space around it.

    Raises:
        LabelFault: There is none, or far too much of it.
    """
    word = text.strip()
    if not word:
        raise LabelFault("is empty")
    if len(word) > MAX_LABEL_CHARS:
        raise LabelFault(f"{quoted(word, limit=40)} has {len(word):,} characters, too many for a label")
    return word


def refuse_no_scalar(value: object) -> None:
    """Make sure that a label is there and is not a list.

    Raises:
        LabelFault: It is missing.
        SeveralLabels: It is a list.
    """
    if value is None or value is Missing.MISSING:
        raise LabelFault("is missing")
    if isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        raise SeveralLabels(f"is of type {type(value).__name__}: multi-label classification is out of scope")


def class_name(value: object) -> str:
    """Return what the class of this label is called: its text, or its number in the shortest spelling.

    1, 1.0, "1" and "1.0" are "1"; 0.50 is "0.5"; True is "true"; any other text stays as it is, white space around it
    aside.

    Raises:
        LabelFault: There is no value, or it is neither a text nor a finite number nor a truth value.
    """
    refuse_no_scalar(value)
    if isinstance(value, str):
        word = stripped(value)
        if word.casefold() == "nan":
            raise LabelFault("is missing")
        if whole := _WHOLE.fullmatch(word):
            return str(int(whole[1]))
        return _of_float(float(word)) if NUMBER.fullmatch(word) and math.isfinite(float(word)) else word
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, numbers.Integral):
        if abs(int(value)) >= 10**MAX_LABEL_CHARS:  # the very long ones have no text, by Python's own limit
            raise LabelFault("is a number of too many digits for a label")
        return str(int(value))
    if not isinstance(value, (numbers.Real, Decimal)):
        raise LabelFault(f"is of type {type(value).__name__}, expected a text or a number")
    try:
        number = float(value)
    except (OverflowError, ValueError):  # beyond all floats; a strange NaN
        raise LabelFault("is too large for a number, or none") from None
    if math.isnan(number):
        raise LabelFault("is missing")
    if math.isinf(number):
        raise LabelFault(f"{quoted(value, limit=40)} is no finite number")
    if isinstance(value, Decimal) and abs(value) < 10**MAX_LABEL_CHARS and value == value.to_integral_value():
        return str(int(value))
    return _of_float(number)


def ordered_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names in their order where none is stated: by number where all are numbers, else by text."""
    chosen = sorted(set(names))
    if all(map(NUMBER.fullmatch, chosen)):
        chosen.sort(key=Decimal)
    return tuple(chosen)


def about_classes(labels: Labels) -> list[str]:
    """Return what is to be said of classes: how many rows each has, and which are perhaps none.

    Args:
        labels: Of kind "classes".
    """
    notes = [_counts_note(labels)]
    by_letters: dict[str, list[str]] = {}
    for name in labels.class_names:
        by_letters.setdefault(name.casefold(), []).append(name)
    if alike := [name for names in by_letters.values() if len(names) > 1 for name in names]:
        notes.append(
            f"classes that differ in capital letters alone: {named(alike)}; if they are the same, write them alike"
        )
    if none_given := [name for name in labels.class_names if name.casefold() in NO_LABEL_GIVEN]:
        notes.append(
            f"the class {named(none_given)} looks as if no label was given; if so, leave such rows out by naming the "
            "others in data.classes (Reading(classes=...))"
        )
    fractions = [name for name in labels.class_names if NUMBER.fullmatch(name) and not _WHOLE.fullmatch(name)]
    if fractions:
        notes.append(
            f"numbers with a fraction are classes here ({named(fractions[:2])}); if they are scores, set "
            "data.label_kind to scores"
        )
    return notes


def class_counts(labels: Labels) -> dict[str, int]:
    """Return how many rows each class has, in the order of the classes; labels 0 and 1 are two of them.

    Raises:
        InputError: The labels are scores, or there are none.
    """
    names, codes = _own_codes(labels)
    return dict(zip(names, np.bincount(codes, minlength=len(names)).tolist(), strict=True))


def class_codes(
    labels: Labels, classes: Sequence[str], lines: NDArray[np.int64], unit: Unit, source: str
) -> NDArray[np.int64]:
    """Return the number of each row's class among `classes`, shape (N,).

    Args:
        labels: Of N rows; labels 0 and 1 are the classes "0" and "1".
        classes: The names of all classes, in the order of their numbers.
        lines: Where the rows stand, shape (N,).
        unit: What `lines` counts.
        source: What messages begin with.

    Raises:
        InputError: The labels are scores, or there are none, or a row has a class that is not one of `classes`.
    """
    names, codes = _own_codes(labels)
    if isinstance(classes, str) or not isinstance(classes, Sequence) or not all(isinstance(c, str) for c in classes):
        raise InputError(f"classes is {quoted(classes)}, expected the names of all classes, as texts")
    place = {_spelling(name): number for number, name in enumerate(classes)}
    new = np.array([place.get(_spelling(name), -1) for name in names], np.int64)
    found: NDArray[np.int64] = new[codes]
    if not (found < 0).any():
        return found
    unknown = np.unique(codes[found < 0])
    shown = []
    for code in unknown[:_N_UNKNOWN].tolist():
        rows = np.flatnonzero(codes == code)
        near = difflib.get_close_matches(names[code], classes, n=1)
        meant = f"; {quoted(near[0], limit=40)}?" if near else ""
        shown.append(f"{quoted(names[code], limit=40)} ({at_lines(first_lines(lines[rows]), len(rows), unit)}{meant})")
    more = f" and {counted(len(unknown) - _N_UNKNOWN, 'other label')}" if len(unknown) > _N_UNKNOWN else ""
    raise InputError(
        f"{quoted(source, limit=400)}: {counted(int((found < 0).sum()), 'row')} with a label that is none of the "
        f"classes {named(classes)}: {', '.join(shown)}{more}; mend the labels, or leave such rows out with "
        "data.classes (Reading(classes=...))"
    )


def recounted(notes: Sequence[str], whole: Labels, part: Labels) -> tuple[str, ...]:
    """Return the notes on all rows as those on a part of them, which has its own number of rows of each class."""
    if whole.kind != "classes":
        return tuple(notes)
    old, new = _counts_note(whole), _counts_note(part)
    return tuple(new if note == old else note for note in notes)


def _counts_note(labels: Labels) -> str:
    counts = [f"{quoted(name, limit=40)} {n:,}" for name, n in class_counts(labels).items()]
    more = f" and {len(counts) - _N_NAMED:,} more" if len(counts) > _N_NAMED else ""
    return f"classes: {', '.join(counts[:_N_NAMED])}{more}"


def _own_codes(labels: Labels) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the names of the labels' own classes and each row's number among them, shape (N,)."""
    if labels.values is None:
        raise InputError("the rows have no labels, so they are of no class; name the column with data.label_column")
    if labels.kind == "score":
        raise InputError(
            f"the labels are {labels.describe()}, not classes; where each different number is a class, set "
            "data.label_kind to classes (Reading(label_kind='classes'))"
        )
    return labels.class_names or ("0", "1"), labels.values.astype(np.int64)


def _of_float(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < 1e16 else repr(number)


def _spelling(name: str) -> str:
    """Return what is equal for names of one class: "1.0" and "1", and "True" of Python and "true" of JSON."""
    folded = name.strip().casefold()
    if folded in ("true", "false"):
        return folded
    try:
        return class_name(name)
    except LabelFault:  # a class that a file cannot have, such as an empty one; it is found by no label
        return name
