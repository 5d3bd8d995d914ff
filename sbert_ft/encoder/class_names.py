"""The classes of a classifier: labels of any type with a stable order, kept with their type and named for others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbert_ft.errors import InputError, quoted

_N_NAMED = 5


def typed_classes(classes: Sequence[object]) -> tuple[object, ...]:
    """Return labels as Python's str, int, float or bool, checked to be classes; their order stays.

    Args:
        classes: At least two different labels, all words or all numbers (yes and no count as numbers).

    Raises:
        InputError: They are not.
    """
    if isinstance(classes, (str, bytes)) or not hasattr(classes, "__iter__") or getattr(classes, "ndim", 1) == 0:
        raise InputError(f"classes is {quoted(classes)}, expected a list of labels")
    labels = tuple(_plain(label) for label in classes)
    fault = fault_of_classes(labels)
    if fault is not None:
        raise InputError(f"{fault}; expected at least two different labels, all words or all numbers")
    return labels


def fault_of_classes(labels: Sequence[object]) -> str | None:
    """Return what keeps these labels from being classes, None where nothing does."""
    wrong = next((label for label in labels if not isinstance(label, (str, int, float))), None)
    if wrong is not None or any(label is None for label in labels):
        return f"the class {quoted(wrong)} is of type {type(wrong).__name__}"
    if len(labels) < 2:
        found = ", ".join(quoted(label) for label in labels) or "none"
        return f"a classifier needs at least two classes, and there are fewer: {found}"
    words = [label for label in labels if isinstance(label, str)]
    if words and len(words) < len(labels):
        number = next(label for label in labels if not isinstance(label, str))
        return f"classes are of two types, such as the word {quoted(words[0])} and the number {number}"
    for label in words:
        if "\0" in label or not _is_unicode(label):
            return f"the class {quoted(label)} holds a character that no file of names can"
    infinite = next((label for label in labels if isinstance(label, float) and not math.isfinite(label)), None)
    if infinite is not None:
        return f"the class {infinite} is no finite number"
    if len(set(labels)) < len(labels):
        counts = Counter(labels)
        twice = next(label for label in labels if counts[label] > 1)
        return f"the class {quoted(twice)} stands twice"
    return None


def typed_array(classes: Sequence[object]) -> NDArray[Any]:
    """Return the classes as an array, shape (K,), of their own type."""
    return np.array(classes)


def codes_of_labels(labels: Iterable[object], classes: Sequence[object]) -> NDArray[np.int64]:
    """Return the number of each label's class, -1 where it is none: shape (N,), int64.

    Raises:
        InputError: Labels are words where classes are numbers, or the reverse.
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


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
