"""What `score` and `predict` share: texts from the command line, and a file's rows with the model's results added.

The file is read twice in parallel, once for the texts and once for the rows as they are, so that all other columns
are unchanged and memory does not grow with the number of rows.
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
    from sbert_ft.config.file_kinds import Kind
    from sbert_ft.data.formats import NewColumn, Values
    from sbert_ft.data.table import Table

logger = logging.getLogger(__name__)

_WITH_COLUMNS = ".csv, .tsv, .jsonl or .parquet"


def given_texts(texts: Sequence[str], done: str) -> tuple[str, ...]:
    """Return the texts of the command line, decoded and checked.

    Args:
        texts: As they were typed.
        done: What is done with them, for a warning, such as "scored".

    Raises:
        InputError: A text is empty, or not in UTF-8.
    """
    from sbert_ft.data.text import is_blank

    decoded = tuple(map(argument_text, texts))
    for text in decoded:
        if not text:
            which = "the text" if len(decoded) == 1 else "one of the two texts"
            raise InputError(f"{which} is empty", "give a text that is not empty")
        if is_blank(text):
            logger.warning("the text %s is blank, so its result means nothing", quoted(text))
        if os.path.isfile(text):
            logger.warning("%s is %s as a text, not read as a file", quoted(text), done)
    return decoded


def refuse_file_options(args: argparse.Namespace, names: Iterable[str], thing: str) -> None:
    """Refuse options that are only for files if texts were given.

    Args:
        args: The options, among them `inputs`, the texts.
        names: The refused options, as attributes of `args`.
        thing: What the options are for, such as "one file of pairs".

    Raises:
        InputError: One of the options is given.
    """
    given = next((name for name in names if getattr(args, name) is not None), None)
    if given is not None:
        count = "a text was" if len(args.inputs) == 1 else "two texts were"
        found = " and ".join(map(quoted, args.inputs))
        raise InputError(f"--{given} is for {thing}, but {count} given: {found}")


def argument_text(argument: str) -> str:
    """Return a text from the command line, decoded from UTF-8 if an ASCII locale left its bytes undecoded.

    Raises:
        InputError: The bytes are not UTF-8.
    """
    try:
        argument.encode("utf-8")
        return argument
    except UnicodeEncodeError:  # has surrogates, which represent the undecoded bytes
        pass
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        raise InputError(f"the text {quoted(argument)} is not in UTF-8", "write it to a file") from None


@dataclass(frozen=True)
class RowsToExtend:
    """A file whose rows get new columns, and the file to write them to.

    Attributes:
        name: Name of the file, as it was typed.
        table: Its rows.
        target: Path of the result.
        kind: The format of the result.
    """

    name: str
    table: Table
    target: Path
    kind: Kind

    @classmethod
    def of(cls, args: argparse.Namespace, name: str) -> RowsToExtend:
        """Return the file `name`, with --output as its target.

        Raises:
            SbertFtError: The file cannot be read, or the result cannot be written to --output.
        """
        from sbert_ft.config.file_kinds import KIND_OF_SUFFIX

        target = checked_target(args.output, tuple(KIND_OF_SUFFIX), Path(name))
        table = open_given_table(args, name)
        kind = KIND_OF_SUFFIX[Path(args.output).suffix.lower()]
        if kind == "lines" and table.format.kind not in ("csv", "tsv"):
            raise OutputError(f"{quoted(args.output, limit=400)}: a .txt has no columns", f"write to {_WITH_COLUMNS}")
        return cls(name, table, target, kind)

    def text_columns(self, names: str | None, n: Literal[1, 2]) -> tuple[int, ...]:
        """Return the positions of the text columns: those named (separated by commas), or those with usual names.

        Raises:
            DataError: There are no such columns.
        """
        return self.table.text_columns(None if names is None else names.split(","), n)

    def texts(self, columns: tuple[int, ...]) -> Iterator[tuple[str, ...]]:
        """Return an iterator over each row's texts; a file with only a header is accepted."""
        return self.table.texts(columns, may_be_empty=True)

    def refuse_taken(self, new: Sequence[str], remedy: str, taken: Sequence[str] = ()) -> None:
        """Refuse new columns whose names are already in use.

        Args:
            new: Names of the new columns.
            remedy: What to do, for the message.
            taken: Names in use besides those of the file.

        Raises:
            InputError: A name is in use.
        """
        name = next((n for i, n in enumerate(new) if n in (*self.table.format.columns, *taken, *new[:i])), None)
        if name is not None:
            shown = quoted(self.name, limit=400)
            raise InputError(f"{shown}: a column {quoted(name)} is there already", remedy)

    def write(
        self, path: Path, columns: Sequence[NewColumn], batches: Iterator[Sequence[Values]], progress: Progress
    ) -> None:
        """Write the rows to `path` with new columns, whose values come in batches of rows; `progress` counts the rows.

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
    """Running count, mean and range of scores."""

    n: int = 0
    total: float = 0.0
    least: float = math.inf
    most: float = -math.inf
    n_matches: int | None = None

    def added(self, rows: list[tuple[float | bool, ...]]) -> list[tuple[float | bool, ...]]:
        """Add rows, each a score and its other values, to the summary and return them unchanged."""
        for score, *decided in rows:
            for value in decided:
                if isinstance(value, bool):
                    self.n_matches = (self.n_matches or 0) + value
            self.n += 1
            self.total += score
            self.least, self.most = min(self.least, score), max(self.most, score)
        return rows

    def describe(self) -> str:
        """Return ", scores 0.5432 on average (0.0123 to 0.9876), 12 match", or "" without a row."""
        if not self.n:
            return ""
        matches = "" if self.n_matches is None else f", {self.n_matches:,} match"
        return f", scores {self.total / self.n:.4f} on average ({self.least:.4f} to {self.most:.4f}){matches}"
