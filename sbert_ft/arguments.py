"""Checks for the arguments of public functions, done before anything else.

Without them a wrong type is an unclear error from some library, or is misread: an empty path as the current folder, a
text as its letters, 0 as an argument that was left out. Whole numbers may be numpy's.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import SupportsIndex, TypeVar

from sbert_ft.errors import InputError, quoted

_T = TypeVar("_T")


def path_argument(value: object, name: str) -> Path:
    """Return `value` as a path.

    Raises:
        InputError: It is neither a text nor a path object, or is empty, which would mean the current folder.
    """
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or not path:
        raise InputError(f"{name} is {_found(value)}, expected a path: a text that is not empty, or a pathlib.Path")
    return Path(path)


def whole_number(value: object, name: str, least: int, most: int | None = None) -> int:
    """Return `value`, a whole number from `least` to `most`, as Python's int.

    Raises:
        InputError: It is not one; True and 3.0 are not accepted.
    """
    number = _index_of(value)
    if number is None or number < least or (most is not None and number > most):
        expected = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name} is {_found(value)}, expected a whole number {expected}")
    return number


def _index_of(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # an array or tensor of several numbers, or of another type
        return None


def word_argument(value: object, name: str, words: Sequence[str]) -> str:
    """Return `value`, which must be one of the words.

    Raises:
        InputError: It is not one of them.
    """
    if not isinstance(value, str) or value not in words:
        raise InputError(f"{name} is {_found(value)}, expected one of {', '.join(words)}")
    return value


def instance_argument(kind: type[_T], value: object, name: str, remedy: str = "") -> _T:
    """Return `value`, which must be an instance of the class `kind`; `remedy` ends the message.

    Raises:
        InputError: It is of another class.
    """
    if not isinstance(value, kind):
        more = f"; {remedy}" if remedy else ""
        raise InputError(f"{name} is of type {type(value).__name__}, expected {kind.__name__}{more}")
    return value


def is_unicode(text: str) -> bool:
    """Return whether UTF-8 can encode the text: whether it has no lone surrogate."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _found(value: object) -> str:
    """Return the value for a message, with its type where it is neither a text nor a number."""
    plain = value is None or isinstance(value, str | int | float)
    return quoted(value, limit=60) if plain else f"{quoted(value, limit=60)} ({type(value).__name__})"
