"""What `score` and `predict` share: texts from the command line, and a file's rows with the model's results added.

The file is read twice in parallel, once for the texts and once for the rows as they are, so that all other columns
are unchanged and memory does not grow with the number of rows.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sbert_ft.commands.options import open_given_table, refuse_given
from sbert_ft.commands.output import Progress, checked_target
from sbert_ft.errors import InputError, OutputError, quoted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sbert_ft.config.file_kinds import Kind
    from sbert_ft.data.formats import NewColumn, Values
    from sbert_ft.data.table import Table
    from sbert_ft.model_folder.decision import Calibration, Decision

logger = logging.getLogger(__name__)

_SHOWN_CLASSES = 5


def given_texts(args: argparse.Namespace, naming: str, thing: str, done: str) -> tuple[str, ...]:
    """Return the texts of the command line, decoded and checked.

    Options that are only for `thing`, a file, are refused, among them `naming`, which names new columns; `done` is what
    is done with the texts, for a warning, such as "scored".

    Raises:
        InputError: A text is empty or not in UTF-8, or an option is only for files.
    """
    from sbert_ft.data.text import is_blank

    count = "a text was" if len(args.inputs) == 1 else "two texts were"
    why = f"is for {thing}, but {count} given: {' and '.join(map(quoted, args.inputs))}"
    refuse_given(args, ("output", "columns", naming, "encoding", "delimiter", "kind"), why)
    decoded = tuple(map(argument_text, args.inputs))
    for text in decoded:
        if not text:
            which = "the text" if len(decoded) == 1 else "one of the two texts"
            raise InputError(f"{which} is empty", "give a text that is not empty")
        if is_blank(text):
            logger.warning("the text %s is blank, so its result means nothing", quoted(text))
        if os.path.isfile(text):
            logger.warning("%s is %s as a text, not read as a file", quoted(text), done)
    return decoded


def argument_text(argument: str) -> str:
    """Return a text from the command line, decoded from UTF-8 if an ASCII locale left its bytes undecoded.

    Raises:
        InputError: The bytes are not UTF-8.
    """
    with suppress(UnicodeEncodeError):  # has surrogates, which represent the undecoded bytes
        argument.encode("utf-8")
        return argument
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        raise InputError(f"the text {quoted(argument)} is not in UTF-8", "write it to a file") from None


def chosen_threshold(args: argparse.Namespace, decision: Decision | None, what: str) -> float | None:
    """Return --threshold, or else the model's, which is logged; `what` is compared with it. None without both."""
    if args.threshold is not None or decision is None:
        threshold: float | None = args.threshold
        return threshold
    logger.info("match: a %s of at least %s", what, decision.describe())
    return decision.threshold


@dataclass
class Results:
    """Computes the new columns from what the model gives for the rows, and counts their values.

    The model gives logits of K classes, shape (n, K), or scores, shape (n,).

    Attributes:
        name: Of the first new column, which has the class or the score.
        threshold: Of the score, or of the probability of the second class; None for no match column.
        calibration: From a score to the probability of a match; None for no such column.
        class_names: Of the K classes; empty for scores.
        with_probability: Whether the probability of the predicted class is a column.
        all_probabilities: Whether the probability of every class is a column.
        scale: Lowest and highest score; the model gives scores of this scale from 0 to 1.
        prefix: Before the name of every new column.
    """

    name: str
    threshold: float | None
    calibration: Calibration | None
    class_names: tuple[str, ...] = ()
    with_probability: bool = False
    all_probabilities: bool = False
    scale: tuple[float, float] = (0.0, 1.0)
    prefix: str = ""
    _n: int = 0
    _n_matches: int = 0
    _n_by_class: Counter[str] = field(default_factory=Counter)
    _total: float = 0.0
    _least: float = math.inf
    _most: float = -math.inf

    @property
    def columns(self) -> list[NewColumn]:
        """The new columns, in order."""
        from sbert_ft.data.formats import NewColumn

        found = [NewColumn(self.prefix + self.name, "text" if self.class_names else "float32")]
        if self.with_probability or self.calibration is not None:
            found.append(NewColumn(f"{self.prefix}probability"))
        if self.all_probabilities:
            found += [NewColumn(f"{self.prefix}probability_{name}") for name in self.class_names]
        return [*found, NewColumn(f"{self.prefix}match", "bool")] if self.threshold is not None else found

    def rows(self, outputs: NDArray[np.float32]) -> list[Values]:
        """Return the values of `columns` for each row, and count them for `describe`."""
        from sbert_ft.encoder.classes import probabilities
        from sbert_ft.model_folder.decision import reaches

        values: list[list[float | bool | str]]
        if self.class_names:
            shares, codes = probabilities(outputs), outputs.argmax(axis=1).tolist()
            values = [[self.class_names[code] for code in codes]]
            self._n_by_class.update(map(str, values[0]))
            if self.with_probability:
                values.append(shares[range(len(codes)), codes].tolist())
            if self.all_probabilities:
                values += shares.T.tolist()
            decided = shares[:, -1]
        else:
            low, high = self.scale
            scores = (low + (high - low) * outputs).tolist()
            values, decided = [scores], outputs
            self._total += sum(scores)
            self._least, self._most = min([self._least, *scores]), max([self._most, *scores])
            if self.calibration is not None:
                values.append(self.calibration.probability(outputs).tolist())
        if self.threshold is not None:
            values.append(reaches(decided, self.threshold).tolist())
            self._n_matches += values[-1].count(True)
        self._n += len(outputs)
        return list(zip(*values, strict=True))

    def print_row(self, outputs: NDArray[np.float32]) -> None:
        """Print the values of a single row in a line."""
        ((first, *others),) = self.rows(outputs)
        named = zip(self.columns[1:], others, strict=True)
        print("  ".join([_said(first, 4), *(f"{_plain(column.name)} {_said(value, 2)}" for column, value in named)]))

    def describe(self) -> str:
        """Return ", scores 0.5432 on average (0.0123 to 0.9876), 12 match", or the commonest classes."""
        if not self._n:
            return ""
        parts = [f"{quoted(name)} {n:,}" for name, n in self._n_by_class.most_common(_SHOWN_CLASSES)]
        if len(self._n_by_class) > _SHOWN_CLASSES:
            parts.append(f"{len(self._n_by_class) - _SHOWN_CLASSES} other classes")
        if not self.class_names:
            parts = [f"scores {self._total / self._n:.4f} on average ({self._least:.4f} to {self._most:.4f})"]
        if self.threshold is not None:
            parts.append(f"{self._n_matches:,} match")
        return "".join(f", {part}" for part in parts)


def _said(value: float | bool | str, decimals: int) -> str:
    if isinstance(value, str):
        return _plain(value)
    # without the sign of a rounded -0.00001
    return ("yes" if value else "no") if isinstance(value, bool) else f"{round(value, decimals) + 0.0:.{decimals}f}"


def _plain(text: str) -> str:
    """Return a text from a model's folder with control characters escaped."""
    return quoted(text, limit=400)[1:-1]


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
    def of(cls, args: argparse.Namespace) -> RowsToExtend:
        """Return the only input, with --output as its target.

        Raises:
            SbertFtError: The file cannot be read, or the result cannot be written to --output.
        """
        from sbert_ft.config.file_kinds import KIND_OF_SUFFIX, WRITTEN_SUFFIXES

        (name,) = args.inputs
        target = checked_target(args.output, WRITTEN_SUFFIXES, Path(name))
        table = open_given_table(args, name)
        suffix = Path(args.output).suffix.lower()
        kind = "json" if suffix == ".json" and table.format.kind == "json" else KIND_OF_SUFFIX[suffix]
        if kind == "lines" and table.format.kind not in ("csv", "tsv"):
            hint = "write to .csv, .tsv, .jsonl or .parquet"
            raise OutputError(f"{quoted(args.output, limit=400)}: a .txt has no columns", hint)
        return cls(name, table, target, kind)

    def refuse_taken(self, new: Sequence[str], remedy: str, taken: Sequence[str] = ()) -> None:
        """Refuse new columns with a name of the file, of `taken` or of another new one; `remedy` says what to do.

        Raises:
            InputError: A name is in use.
        """
        name = next((n for i, n in enumerate(new) if n in (*self.table.format.columns, *taken, *new[:i])), None)
        if name is not None:
            shown = quoted(self.name, limit=400)
            raise InputError(f"{shown}: a column {quoted(name)} is there already", remedy)

    def write(self, path: Path, results: Results, outputs: Iterable[NDArray[np.float32]], progress: Progress) -> None:
        """Write the rows to `path` with the new columns, from what the model gives for them; `progress` counts them.

        Raises:
            SbertFtError: As `write_table_with_columns`.
        """
        from sbert_ft.data.file_formats import write_table_with_columns

        def values(advance: Callable[[int], None]) -> Iterator[Values]:
            for window in outputs:
                yield from results.rows(window)
                advance(len(window))

        with progress.bar(self.table.count_rows) as advance:
            write_table_with_columns(self.table, path, results.columns, values(advance), kind=self.kind)
