"""The allowed values of a field of settings, which stand in its metadata."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple


class Bound(NamedTuple):
    """One kind of end of a range: its test, its words for messages, and its keyword of JSON Schema."""

    admits: Callable[[float, float], bool]
    words: str
    keyword: str


BOUNDS: Final = {
    "at_least": Bound(operator.ge, "of at least", "minimum"),
    "above": Bound(operator.gt, "above", "exclusiveMinimum"),
    "at_most": Bound(operator.le, "at most", "maximum"),
    "below": Bound(operator.lt, "below", "exclusiveMaximum"),
}


@dataclass(frozen=True)
class Limits:
    """The allowed values of a type.

    Attributes:
        at_least: Lowest number; `above` is the same without the number itself.
        at_most: Highest number; `below` likewise.
        choices: The allowed texts.
        pattern: Regular expression for the whole text, with the same meaning in Python and JavaScript.
        words: The texts that match the pattern, in words for messages.
        n_items: Minimum and maximum number of entries of an array.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""
    words: str = ""
    n_items: tuple[int, int] = (0, 0)

    def bounds(self) -> Iterator[tuple[Bound, float]]:
        """Yield the ends of the range of numbers that are set."""
        for name, bound in BOUNDS.items():
            if (value := getattr(self, name)) is not None:
                yield bound, value

    def admits_number(self, value: float) -> bool:
        """Return whether a number is in the range."""
        return all(bound.admits(value, end) for bound, end in self.bounds())

    def admits_text(self, value: str) -> bool:
        """Return whether a text is one of the choices or matches the pattern; without either, if it is not blank."""
        if self.choices:
            return value in self.choices
        return re.fullmatch(self.pattern, value) is not None if self.pattern else not value.isspace()

    def range_words(self) -> str:
        """Return the range in words, to follow "a number": " above 0 and at most 1"; "" if all are allowed."""
        if self.at_least is not None and self.at_most is not None:
            return f" from {shown_number(self.at_least)} to {shown_number(self.at_most)}"
        parts = [f"{bound.words} {shown_number(end)}" for bound, end in self.bounds()]
        return " " + " and ".join(parts) if parts else ""


def setting(default: Any, **limits: Any) -> Any:
    """Return a field of settings with a default, and `Limits` of these arguments as its metadata."""
    return field(default=default, metadata={"limits": Limits(**limits)})


def shown_number(value: float) -> str:
    """Return a number for a message: 1,000,000 or 0.5 or 2e-05."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
