"""The allowed values of a field of settings, which stand in its metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The allowed values of a type.

    Attributes:
        at_least: Lowest allowed number.
        above: Exclusive lower bound of a number.
        at_most: Highest allowed number.
        below: Exclusive upper bound of a number.
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
    n_items: tuple[int, int] | None = None

    def admits_number(self, value: float) -> bool:
        """Return whether a number is in the range."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def admits_text(self, value: str) -> bool:
        """Return whether a text is one of the choices or matches the pattern."""
        if self.choices:
            return value in self.choices
        return re.fullmatch(self.pattern, value) is not None if self.pattern else True

    def range_words(self) -> str:
        """Return the range in words, to follow "a number": " above 0 and at most 1"; "" if all are allowed."""
        if self.at_least is not None and self.at_most is not None:
            return f" from {shown_number(self.at_least)} to {shown_number(self.at_most)}"
        parts = [] if self.at_least is None else [f"of at least {shown_number(self.at_least)}"]
        parts += [] if self.above is None else [f"above {shown_number(self.above)}"]
        parts += [] if self.at_most is None else [f"at most {shown_number(self.at_most)}"]
        parts += [] if self.below is None else [f"below {shown_number(self.below)}"]
        return " " + " and ".join(parts) if parts else ""

    def n_items_words(self) -> str:
        """Return the allowed number of entries in words: "2 or 3", "1 to 3"; "" if any number is allowed."""
        if self.n_items is None:
            return ""
        least, most = self.n_items
        return f"{shown_number(least)} {'or' if most == least + 1 else 'to'} {shown_number(most)}"


def within(
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Mapping[str, Limits]:
    """Return the metadata of a field whose number is in this range."""
    return {"limits": Limits(at_least=at_least, above=above, at_most=at_most, below=below)}


def one_of(*choices: str) -> Mapping[str, Limits]:
    """Return the metadata of a field whose text is one of these."""
    return {"limits": Limits(choices=choices)}


def matching(pattern: str, words: str) -> Mapping[str, Limits]:
    """Return the metadata of a field whose text matches `pattern`, described by `words`."""
    return {"limits": Limits(pattern=pattern, words=words)}


def holding(least: int, most: int) -> Mapping[str, Limits]:
    """Return the metadata of a field whose array has `least` to `most` entries."""
    return {"limits": Limits(n_items=(least, most))}


def shown_number(value: float) -> str:
    """Return a number for a message: 1,000,000 or 0.5 or 2e-05."""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
