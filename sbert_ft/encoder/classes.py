"""The classes of a classifier, and probabilities from its logits; nothing here needs torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from sbert_ft.arguments import is_unicode
from sbert_ft.config.settings import Features
from sbert_ft.data.labels import class_key
from sbert_ft.errors import InputError, quoted

ClassifierKind = Literal["towers", "joined", "single"]
HeadPooling = Literal["mean", "cls", "max", "pooler"]
Vectors = TypeVar("Vectors", bound=Any)
# Width of the input of the head of towers for each choice of features, in vectors.
FEATURE_WIDTHS: Final[Mapping[str, int]] = {"uv": 2, "difference": 1, "uv_difference": 3, "uv_difference_product": 4}
_N_NAMED = 5


def feature_parts(u: Vectors, v: Vectors, features: Features) -> tuple[Vectors, ...]:
    """Return what the head of towers reads of two vectors, side by side: shape (B, D) each, tensors or arrays.

    Reimers and Gurevych 2019, section 3, classification objective: (u, v, |u - v|).
    """
    if features == "uv":
        return u, v
    difference = abs(u - v)
    if features == "difference":
        return (difference,)
    return (u, v, difference) if features == "uv_difference" else (u, v, difference, u * v)


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities of the classes, shape (N, K); for one output its sigmoid, shape (N, 1)."""
    if logits.shape[-1] == 1:
        # of -|x|, whose exponential is never infinite
        small = np.exp(-np.abs(logits))
        found: NDArray[np.float32] = np.where(logits >= 0, 1, small) / (1 + small)
        return found
    powers = np.exp(logits - logits.max(-1, keepdims=True, initial=-np.inf))
    shares: NDArray[np.float32] = powers / powers.sum(-1, keepdims=True)
    return shares


def typed_classes(classes: Sequence[object]) -> tuple[object, ...]:
    """Return the classes as Python's str, int, float or bool, checked and in the given order.

    There have to be at least two, all words or all numbers (True and False count as numbers).

    Raises:
        InputError: The labels are not valid classes.
    """
    if isinstance(classes, (str, bytes)) or not hasattr(classes, "__iter__") or getattr(classes, "ndim", 1) == 0:
        raise InputError(f"classes is {quoted(classes)}, expected a list of labels")
    labels = tuple(_plain(label) for label in classes)
    if (fault := fault_of_classes(labels)) is not None:
        raise InputError(f"{fault}; expected at least two different labels, all words or all numbers")
    return labels


def fault_of_classes(labels: Sequence[object]) -> str | None:
    """Return why these labels are not valid classes; None if they are."""
    for label in labels:
        if not isinstance(label, (str, int, float)):
            return f"the class {quoted(label)} is of type {type(label).__name__}"
    if len(labels) < 2:
        found = ", ".join(quoted(label) for label in labels) or "none"
        return f"a classifier needs at least two classes, but there are fewer: {found}"
    words = [label for label in labels if isinstance(label, str)]
    if words and len(words) < len(labels):
        number = next(label for label in labels if not isinstance(label, str))
        return f"the classes are of two types, such as the word {quoted(words[0])} and the number {number}"
    for word in words:
        if "\0" in word or not is_unicode(word):
            return f"the class {quoted(word)} contains a character that cannot be saved"
    for label in labels:
        if isinstance(label, float) and not math.isfinite(label):
            return f"the class {label} is not a finite number"
    if len(set(labels)) == len(labels):
        return None
    twice = next(label for label, n in Counter(labels).items() if n > 1)
    return f"the class {quoted(twice)} appears twice"


def codes_of_labels(labels: Iterable[object], classes: Sequence[object]) -> NDArray[np.int64]:
    """Return the index of each label's class, -1 for a label that is not a class: shape (N,), int64.

    Raises:
        InputError: A label is a word and the classes are numbers, or the reverse.
    """
    numbers = {_key(label): code for code, label in enumerate(classes)}
    are_words = isinstance(classes[0], str)
    codes = []
    for position, label in enumerate(map(_plain, labels)):
        if isinstance(label, str) != are_words or not isinstance(label, (str, int, float)):
            expected = "words" if are_words else "numbers"
            named = ", ".join(quoted(name) for name in classes[:_N_NAMED]) + (", ..." if classes[_N_NAMED:] else "")
            raise InputError(
                f"the label at position {position} is {quoted(label)} ({type(label).__name__}), but the classes are "
                f"{expected}: {named}",
                "for labels that are the numbers of the classes, give classes_[labels]" if are_words else "",
            )
        codes.append(numbers.get(_key(label), -1))
    return np.array(codes, np.int64)


def _key(label: object) -> object:
    return class_key(label) if isinstance(label, str) else label


def _plain(label: object) -> object:
    return label.item() if isinstance(label, np.generic) else label
