"""What `score` and `predict` share: texts of the command line, or a file's rows beside what a model says of them.

The file is read twice side by side, once for the texts and once for the rows as they stand, so that every other
column comes out as it went in and memory does not grow with the rows.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sbert_ft.commands.options import open_given_table
from sbert_ft.commands.output import Progress, checked_target
from sbert_ft.errors import InputError, OutputError, quoted

if TYPE_CHECKING:
    from sbert_ft.data.sniffing import Kind
    from sbert_ft.data.table import Table
    from sbert_ft.data.writers import NewColumn, Values

logger = logging.getLogger(__name__)

_WITH_COLUMNS = ".csv, .tsv, .jsonl or .parquet"


def given_texts(texts: Sequence[str], done: str) -> tuple[str, ...]:
    """Return the texts of the command line as texts.

    Args:
        texts: As they were typed.
        done: What is done to them, for a warning: scored.

    Raises:
        InputError: One is empty, or not in UTF-8.
    """
    from sbert_ft.data.text import is_blank

    decoded = tuple(map(argument_text, texts))
    for text in decoded:
        if not text:
            which = "the text" if len(decoded) == 1 else "one of the two texts"
            raise InputError(f"{which} is empty", "write a text there")
        if is_blank(text):
            logger.warning("the text %s is blank, so a model can say nothing of it", quoted(text))
        if os.path.isfile(text):
            logger.warning("%s is %s as a text, not read as a file", quoted(text), done)
    return decoded


def refuse_file_options(args: argparse.Namespace, names: Iterable[str], thing: str) -> None:
    """Refuse the options of a file where texts were given.

    Args:
        args: The options, among them `inputs`, the texts.
        names: Of the options, as attributes of `args`.
        thing: What they are for: one file of pairs.

    Raises:
        InputError: One is given.
    """
    given = next((name for name in names if getattr(args, name) is not None), None)
    if given is not None:
        count = "a text was" if len(args.inputs) == 1 else "two texts were"
        found = " and ".join(map(quoted, args.inputs))
        raise InputError(f"--{given} is for {thing}, but {count} given: {found}")


def argument_text(argument: str) -> str:
    """Return a text from the command line, which an ASCII locale hands over as undecoded bytes.

    Raises:
        InputError: The bytes are not UTF-8.
    """
    try:
        argument.encode("utf-8")
        return argument
    except UnicodeEncodeError:  # surrogates, which stand for the bytes
        pass
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        raise InputError(f"the text {quoted(argument)} is not in UTF-8", "write it to a file") from None


@dataclass(frozen=True)
class RowsToExtend:
    """A file whose rows get new columns, and where they go.

    Attributes:
        name: Of the file, as it was typed.
        table: Its rows.
        target: Where the result goes.
        kind: The format of the result.
    """

    name: str
    table: Table
    target: Path
    kind: Kind

    @classmethod
    def of(cls, args: argparse.Namespace, name: str) -> RowsToExtend:
        """Return the file that is named, to be written to --output.

        Raises:
            SbertFtError: It cannot be read, or the result not be written there.
        """
        from sbert_ft.data.sniffing import KIND_OF_SUFFIX

        target = checked_target(args.output, tuple(KIND_OF_SUFFIX), Path(name))
        table = open_given_table(args, name)
        kind = KIND_OF_SUFFIX[Path(args.output).suffix.lower()]
        if kind == "lines" and table.format.kind not in ("csv", "tsv"):
            raise OutputError(f"{quoted(args.output, limit=400)}: a .txt has no columns", f"write to {_WITH_COLUMNS}")
        return cls(name, table, target, kind)

    def text_columns(self, names: str | None, n: Literal[1, 2]) -> tuple[int, ...]:
        """Return the positions of the columns with the texts: those named, with commas between, or customary ones.

        Raises:
            DataError: There are no such columns.
        """
        return self.table.text_columns(None if names is None else names.split(","), n)

    def texts(self, columns: tuple[int, ...]) -> Iterator[tuple[str, ...]]:
        """Return an iterator over each row's texts; a header with nothing below it is no fault."""
        return self.table.texts(columns, may_be_empty=True)

    def refuse_taken(self, new: Sequence[str], remedy: str, taken: Sequence[str] = ()) -> None:
        """Refuse new columns whose names are taken.

        Args:
            new: Their names.
            remedy: What to do.
            taken: Names that are taken besides those of the file.

        Raises:
            InputError: One is.
        """
        name = next((n for i, n in enumerate(new) if n in (*self.table.format.columns, *taken, *new[:i])), None)
        if name is not None:
            shown = quoted(self.name, limit=400)
            raise InputError(f"{shown}: a column {quoted(name)} is there already; {remedy}")

    def write(
        self, path: Path, columns: Sequence[NewColumn], batches: Iterator[Sequence[Values]], progress: Progress
    ) -> None:
        """Write the rows to `path` with new columns, whose values come in batches of rows; progress counts them.

        Raises:
            SbertFtError: As `write_table_with_columns`.
        """
        from sbert_ft.data.writers import write_table_with_columns

        def rows(advance: Callable[[int], None]) -> Iterator[Values]:
            for batch in batches:
                yield from batch
                advance(len(batch))

        with progress.bar(self.table.count_rows) as advance:
            write_table_with_columns(self.table, path, columns, rows(advance), kind=self.kind)


@dataclass
class ScoreSummary:
    """Mean and range of scores as they go by."""

    n: int = 0
    total: float = 0.0
    least: float = math.inf
    most: float = -math.inf
    n_matches: int | None = None

    def added(self, rows: list[tuple[float | bool, ...]]) -> list[tuple[float | bool, ...]]:
        """Return the rows, each a score and what else is said of it, when they are taken into account."""
        for score, *decided in rows:
            for value in decided:
                if isinstance(value, bool):
                    self.n_matches = (self.n_matches or 0) + value
            self.n += 1
            self.total += score
            self.least, self.most = min(self.least, score), max(self.most, score)
        return rows

    def describe(self) -> str:
        """Return ", scores 0.5432 on average (0.0123 to 0.9876), 12 match", nothing where there is none."""
        if not self.n:
            return ""
        matches = "" if self.n_matches is None else f", {self.n_matches:,} match"
        return f", scores {self.total / self.n:.4f} on average ({self.least:.4f} to {self.most:.4f}){matches}"
