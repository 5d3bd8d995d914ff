"""The classes of a classifier: checked labels that keep their type and order, and their conversion to class indices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from sbert_ft.errors import InputError, quoted

_N_NAMED = 5


def typed_classes(classes: Sequence[object]) -> tuple[object, ...]:
    """Return the classes as Python's str, int, float or bool, checked and in the given order.

    Args:
        classes: At least two different labels, all words or all numbers (True and False count as numbers).

    Raises:
        InputError: The labels are not valid classes.
    """
    if isinstance(classes, (str, bytes)) or not hasattr(classes, "__iter__") or getattr(classes, "ndim", 1) == 0:
        raise InputError(f"classes is {quoted(classes)}, expected a list of labels")
    labels = tuple(_plain(label) for label in classes)
    fault = fault_of_classes(labels)
    if fault is not None:
        raise InputError(f"{fault}; expected at least two different labels, all words or all numbers")
    return labels


def fault_of_classes(labels: Sequence[object]) -> str | None:
    """Return why these labels are not valid classes; None if they are."""
    wrong = next((label for label in labels if not isinstance(label, (str, int, float))), None)
    if wrong is not None or any(label is None for label in labels):
        return f"the class {quoted(wrong)} is of type {type(wrong).__name__}"
    if len(labels) < 2:
        found = ", ".join(quoted(label) for label in labels) or "none"
        return f"a classifier needs at least two classes, but there are fewer: {found}"
    words = [label for label in labels if isinstance(label, str)]
    if words and len(words) < len(labels):
        number = next(label for label in labels if not isinstance(label, str))
        return f"the classes are of two types, such as the word {quoted(words[0])} and the number {number}"
    for label in words:
        if "\0" in label or not is_unicode(label):
            return f"the class {quoted(label)} contains a character that cannot be saved"
    infinite = next((label for label in labels if isinstance(label, float) and not math.isfinite(label)), None)
    if infinite is not None:
        return f"the class {infinite} is not a finite number"
    if len(set(labels)) < len(labels):
        counts = Counter(labels)
        twice = next(label for label in labels if counts[label] > 1)
        return f"the class {quoted(twice)} appears twice"
    return None


def codes_of_labels(labels: Iterable[object], classes: Sequence[object]) -> NDArray[np.int64]:
    """Return the index of each label's class, -1 for a label that is not a class: shape (N,), int64.

    Raises:
        InputError: A label is a word and the classes are numbers, or the reverse.
    """
    numbers = {label: code for code, label in enumerate(classes)}
    are_words = isinstance(classes[0], str)
    codes = []
    for position, label in enumerate(map(_plain, labels)):
        if isinstance(label, str) != are_words or not isinstance(label, (str, int, float)):
            expected = "words" if are_words else "numbers"
            named = ", ".join(quoted(name) for name in classes[:_N_NAMED]) + (", ..." if classes[_N_NAMED:] else "")
            raise InputError(
                f"the label at position {position} is {quoted(label)} ({type(label).__name__}), but the classes are "
                f"{expected}: {named}"
            )
        codes.append(numbers.get(label, -1))
    return np.array(codes, np.int64)


def _plain(label: object) -> object:
    return label.item() if isinstance(label, np.generic) else label


def is_unicode(text: str) -> bool:
    """Return whether UTF-8 can encode the text: whether it has no lone surrogate."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
