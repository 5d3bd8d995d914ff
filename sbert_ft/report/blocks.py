"""What the sections of a report are made of: blocks, which the two renderers walk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple


class Cell(NamedTuple):
    """A value in a table, with a note in smaller letters, such as its interval."""

    value: str
    note: str = ""


@dataclass(frozen=True)
class Grid:
    """A table: the first cell of each row names the row.

    Attributes:
        caption: What the table contains; empty if a heading says so.
        header: Names of the columns; empty for a list of facts with two columns.
        rows: The cells of each row, one per column.
        style: How a page lays its columns out.
        scrolls: Whether it may be wider than the page.
    """

    caption: str
    header: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    style: Literal["numbers", "numbers counts", "numbers found"] = "numbers"
    scrolls: bool = False


def fact(name: str, value: str, note: str = "") -> tuple[Cell, ...]:
    """Return one row of a list of facts."""
    return Cell(name), Cell(value, note)


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; a note is in smaller letters."""

    text: str
    is_note: bool = False


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """A chart (with its text alternative) above its title and caption; a wide one may be wider than the page."""

    title: str
    svg: str
    caption: str
    is_wide: bool = False


@dataclass(frozen=True)
class Charts:
    """Charts side by side, below the notes on those that cannot be drawn.

    Attributes:
        parts: The charts and notes.
        is_wide: Whether each chart needs more room than usual.
        table: What a text shows in their place; None for nothing.
    """

    parts: Sequence[Figure | Paragraph]
    is_wide: bool = False
    table: Grid | None = None


@dataclass(frozen=True)
class Beside:
    """Two groups of blocks side by side where there is room; the first takes more of it if `uneven`."""

    left: Sequence[Block]
    right: Sequence[Block]
    uneven: bool = False


class TextRow(NamedTuple):
    """A row of the data: its split, line and texts, and a value for each column after these."""

    split: str
    line: int
    texts: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True)
class Texts:
    """Rows of texts with values; the first `n_words` columns of `names` hold words, the others numbers.

    `word` is that for a row, if it is not a row of the data.
    """

    caption: str
    names: tuple[str, ...]
    n_words: int
    rows: Sequence[TextRow]
    word: str | None = None


@dataclass(frozen=True)
class Folded:
    """A long text that opens on request; a short report leaves it out."""

    summary: str
    text: str


Block = Heading | Paragraph | Items | Grid | Figure | Charts | Beside | Texts | Folded


@dataclass(frozen=True)
class Section:
    """A section of a report; `name` is its id on a page."""

    name: str
    heading: str
    blocks: Sequence[Block]
