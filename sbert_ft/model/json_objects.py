"""An object of a folder's JSON whose values are taken out one by one, each checked.

What a folder says is neither trusted nor guessed at: a key that is missing, unknown or of a wrong type or range is a
`ModelFolderError` that names the file, the key with its path, what was found and what was expected.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sbert_ft.errors import ModelFolderError, quoted, shown


@dataclass(frozen=True)
class JsonObject:
    """An object, and where it stands.

    Attributes:
        content: What JSON holds there; anything but an object is refused.
        path: Keys that lead there, such as ``decision.fitted_on``.
        file: The file.
    """

    content: Any
    path: str
    file: Path

    def __post_init__(self) -> None:
        if not isinstance(self.content, dict):
            raise ModelFolderError(f"{shown(self.file)}: {self.path} is {quoted(self.content)}, expected an object")

    def fault(self, key: str, expected: str) -> ModelFolderError:
        """Return the error for the value of a key."""
        name, found = f"{self.path}.{quoted(key)[1:-1]}", quoted(self.content.get(key))
        return ModelFolderError(f"{shown(self.file)}: {name} is {found}, expected {expected}")

    def refuse_all_but(self, names: Collection[str]) -> None:
        """Refuse keys that are not among the names.

        Raises:
            ModelFolderError: There is one.
        """
        unknown = next((key for key in self.content if key not in names), None)
        if unknown is not None:
            raise ModelFolderError(
                f"{shown(self.file)}: {self.path} has a key {quoted(unknown)}, expected {', '.join(names)}; "
                "a newer version of sbert_ft may have written it"
            )

    def value(self, key: str) -> Any:
        """Return the value of a key that must be there.

        Raises:
            ModelFolderError: It is not.
        """
        if key not in self.content:
            raise ModelFolderError(f"{shown(self.file)}: {self.path} has no {quoted(key)[1:-1]}; copy the file again")
        return self.content[key]

    def inner(self, key: str) -> JsonObject:
        """Return the object that is the value of a key.

        Raises:
            ModelFolderError: The value is none.
        """
        return JsonObject(self.value(key), f"{self.path}.{key}", self.file)

    def number(self, key: str, low: float, high: float) -> float:
        """Return a number from `low` to `high`.

        Raises:
            ModelFolderError: The value is none.
        """
        number = _number(self.value(key))
        if number is None or not low <= number <= high:
            raise self.fault(key, f"a number from {low:g} to {high:g}")
        return number

    def number_or_none(self, key: str, low: float, high: float) -> float | None:
        """Return a number from `low` to `high`, None for null.

        Raises:
            ModelFolderError: The value is neither.
        """
        return None if self.value(key) is None else self.number(key, low, high)

    def numbers(self, key: str, low: float, high: float) -> tuple[float, ...]:
        """Return a list of numbers from `low` to `high`, at least one.

        Raises:
            ModelFolderError: The value is none.
        """
        value = self.value(key)
        found = [_number(item) for item in value] if isinstance(value, list) else []
        numbers = tuple(number for number in found if number is not None and low <= number <= high)
        if not numbers or len(numbers) != len(found):
            raise self.fault(key, f"a list of numbers from {low:g} to {high:g}")
        return numbers

    def whole(self, key: str) -> int:
        """Return a whole number of 0 or more.

        Raises:
            ModelFolderError: The value is none.
        """
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.fault(key, "a whole number of 0 or more")
        return value

    def text(self, key: str) -> str:
        """Return a text.

        Raises:
            ModelFolderError: The value is none.
        """
        value = self.value(key)
        if not isinstance(value, str):
            raise self.fault(key, "a text")
        return value

    def word(self, key: str, words: Collection[str]) -> str:
        """Return one of the words.

        Raises:
            ModelFolderError: The value is none of them.
        """
        value = self.value(key)
        if not isinstance(value, str) or value not in words:
            raise self.fault(key, f"one of {', '.join(words)}")
        return value

    def scale(self, key: str) -> tuple[float, float]:
        """Return the lowest and the highest score of a scale.

        Raises:
            ModelFolderError: The value is no list of two finite numbers that rise.
        """
        value = self.value(key)
        low, high = map(_number, value) if isinstance(value, list) and len(value) == 2 else (None, None)
        if low is None or high is None or low >= high:
            raise self.fault(key, "[lowest score, highest score]")
        return low, high


def _number(value: object) -> float | None:
    """Return a finite number as a float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return number if math.isfinite(number) else None
