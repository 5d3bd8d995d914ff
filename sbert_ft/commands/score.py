"""`sbert-ft score`: the cosine of two texts, or a file of pairs with more columns.

A file of pairs is read twice side by side, once for the texts and once for the rows as they stand, so that every
other column comes out as it went in and memory does not grow with the rows. Where the model has a decision, each
cosine comes with a probability and with whether the texts match.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sbert_ft.commands.options import (
    add_computing_options,
    add_model_argument,
    add_reading_options,
    load_model,
    open_given_table,
    warn_of_unknown,
)
from sbert_ft.commands.output import Progress, checked_target, replaced_when_whole
from sbert_ft.errors import InputError, OutputError, quoted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sbert_ft.data.tables import Table
    from sbert_ft.model.decision import Calibration
    from sbert_ft.model.siamese import SiameseBert

logger = logging.getLogger(__name__)

_EPILOG = """\
examples:
  sbert-ft score MODEL "A man plays a guitar." "Someone makes music."
  sbert-ft score MODEL pairs.csv -o scored.csv
  sbert-ft score MODEL pairs.parquet --columns question,answer --name cosine -o scored.parquet

OUT holds the rows of PAIRS as they are; its suffix may be another one (.csv, .tsv, .jsonl,
.parquet). New columns:
  score        the cosine, from -1 to 1
  probability  how likely the texts belong together, from 0 to 1, where MODEL has a calibration
  match        true where the score reaches the threshold: that stored with MODEL, or --threshold"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    add_model_argument(parser)
    parser.add_argument("inputs", metavar="PAIRS | TEXT TEXT", nargs="+", help="a file of pairs, or two texts")
    parser.add_argument("-o", "--output", metavar="OUT", help="where PAIRS go with their scores; replaced when whole")
    parser.add_argument("--columns", metavar="A,B", help="the two columns with the texts, where not customary")
    parser.add_argument("--name", metavar="NAME", help="of the new column with the cosine; default score")
    deciding = parser.add_mutually_exclusive_group()
    deciding.add_argument(
        "--threshold", type=_cosine, metavar="X", help="texts match from this score on; default: MODEL's, if it has one"
    )
    deciding.add_argument("--only-score", action="store_true", help="leave out probability and match")
    add_reading_options(parser)
    add_computing_options(parser)


def run(args: argparse.Namespace) -> int:
    """Score the file or the two texts and return the exit code."""
    if len(args.inputs) > 2:
        raise InputError(f"expected a file of pairs or two texts, found {len(args.inputs)}; put each text in quotes")
    if len(args.inputs) == 2:
        return _score_two(args, *args.inputs)
    return _score_file(args, args.inputs[0])


def _score_two(args: argparse.Namespace, first: str, second: str) -> int:
    """Print the cosine of two texts, and what follows from it."""
    options = ("output", "columns", "name", "encoding", "delimiter", "kind")
    given = next((name for name in options if getattr(args, name) is not None), None)
    if given is not None:
        found = f"{quoted(first)} and {quoted(second)}"
        raise InputError(f"--{given} is for one file of pairs, but two texts were given: {found}")
    texts = _argument_text(first), _argument_text(second)
    for text in texts:
        if not text:
            raise InputError("one of the two texts is empty; write a text there")
        if os.path.isfile(text):
            logger.warning("%s is scored as a text, not read as a file", quoted(text))
    model = load_model(args)
    from sbert_ft.model.embed import EmbedCount

    count = EmbedCount()
    (scores,) = model.score_stream([texts], args.batch_size, on_truncate=args.on_truncate, count=count)
    warn_of_unknown(count, args.model)
    judge = Judge.of(args, model)
    ((score, *rest),) = judge.rows(scores)
    parts = [f"{round(score, 4) + 0.0:.4f}"]  # without the sign of a rounded -0.00001
    for column, value in zip(judge.columns, rest, strict=True):
        parts.append(f"{column} {('yes' if value else 'no') if isinstance(value, bool) else format(value, '.2f')}")
    print("  ".join(parts))
    return 0


def _argument_text(argument: str) -> str:
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
        raise InputError(f"the text {quoted(argument)} is not in UTF-8; write it to a file of pairs") from None


def _score_file(args: argparse.Namespace, pairs: str) -> int:
    """Write the file's rows with their scores."""
    from sbert_ft.data.detection import KIND_OF_SUFFIX

    if args.output is None:
        if os.path.isfile(pairs):
            raise InputError(f"{quoted(pairs, limit=400)}: say with -o OUT where its rows go with their scores")
        raise InputError(f"{quoted(pairs, limit=400)}: no such file of pairs; for the cosine of two texts give both")
    target = checked_target(args.output, tuple(KIND_OF_SUFFIX), Path(pairs))
    table = open_given_table(args, pairs)
    columns = table.text_columns(None if args.columns is None else args.columns.split(","), 2)
    kind = KIND_OF_SUFFIX[Path(args.output).suffix.lower()]
    if kind == "lines" and table.format.kind not in ("csv", "tsv"):
        raise OutputError(f"{quoted(args.output, limit=400)}: a .txt has no columns; write to {_WITH_COLUMNS}")
    name = "score" if args.name is None else args.name
    if not name:
        raise InputError("--name is empty; give the new column a name")
    if name in table.format.columns:
        remedy = "give the new one another with --name, such as --name cosine"
        raise InputError(f"{quoted(pairs, limit=400)}: has a column {quoted(name)} already; {remedy}")
    if args.threshold is not None:
        _check_names(pairs, (*table.format.columns, name), ("match",))
    from sbert_ft.data.writing import NewColumn, write_table_with_columns

    with replaced_when_whole(target) as temporary:
        model = load_model(args)
        from sbert_ft.model.embed import EmbedCount

        judge = Judge.of(args, model)
        _check_names(pairs, (*table.format.columns, name), judge.columns)
        added = [NewColumn(n, "bool" if n == "match" else "float32") for n in (name, *judge.columns)]
        progress, summary, count = Progress("pair", quiet=args.quiet), Summary(), EmbedCount()

        def rows(advance: Callable[[int], None]) -> Iterator[Sequence[float | bool]]:
            batches = model.score_stream(
                _pairs(table, columns), args.batch_size, on_truncate=args.on_truncate, count=count
            )
            for batch in batches:
                for row in judge.rows(batch):
                    summary.add(*row)
                    yield row
                advance(len(batch))

        with progress.bar(table.count_rows) as advance:
            write_table_with_columns(table, temporary, added, rows(advance), kind=kind)
    warn_of_unknown(count, args.model)
    progress.say_pace(Path(args.output), summary.describe())
    if not progress.n_done:
        logger.warning("%s holds no pair: the result has no row", quoted(pairs, limit=400))
    return 0


_WITH_COLUMNS = ".csv, .tsv, .jsonl or .parquet"


def _check_names(pairs: str, taken: Sequence[str], new: Sequence[str]) -> None:
    """Refuse new columns whose names are taken.

    Raises:
        InputError: One is.
    """
    name = next((name for name in new if name in taken), None)
    if name is not None:
        remedy = "rename it, or leave the new one out with --only-score"
        raise InputError(f"{quoted(pairs, limit=400)}: a column {quoted(name)} is there already; {remedy}")


def _cosine(text: str) -> float:
    """Return a number from -1 to 1.

    Raises:
        ArgumentTypeError: The text is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 2.0
    if not (-1.0 <= value <= 1.0 and "_" not in text):  # NaN is none, too
        raise argparse.ArgumentTypeError(f"expected a cosine, a number from -1 to 1, found {text!r}")
    return value


def _pairs(table: Table, columns: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    if next(iter(table), None) is None:  # a header and nothing below it: no pair, and no fault
        return
    for first, second in table.texts(columns):  # noqa: UP028 (a pair, where texts gives tuples of any length)
        yield first, second


@dataclass(frozen=True)
class Judge:
    """What follows from a score.

    Attributes:
        threshold: Texts match from it on; None where that is not to be said.
        calibration: How likely a score makes a match; likewise.
    """

    threshold: float | None
    calibration: Calibration | None

    @classmethod
    def of(cls, args: argparse.Namespace, model: SiameseBert) -> Judge:
        """Return what the options and the model's decision give, and log which threshold holds."""
        decision = None if args.only_score else model.decision
        if args.threshold is None and decision is not None:
            logger.info("match: a score of at least %s", decision.describe())
        threshold = decision.threshold if args.threshold is None and decision is not None else args.threshold
        return cls(threshold, None if decision is None else decision.calibration)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what is said beside the score."""
        return ("probability",) * (self.calibration is not None) + ("match",) * (self.threshold is not None)

    def rows(self, scores: NDArray[np.float32]) -> Iterator[tuple[float | bool, ...]]:
        """Yield each of the scores, shape (n,), with the values of `columns`."""
        values: list[list[float | bool]] = [scores.tolist()]
        if self.calibration is not None:
            values.append(self.calibration.probability(scores).tolist())
        if self.threshold is not None:
            from sbert_ft.model.decision import reaches

            values.append(reaches(scores, self.threshold).tolist())
        yield from zip(*values, strict=True)


@dataclass
class Summary:
    """Mean and range of scores as they go by."""

    n: int = 0
    total: float = 0.0
    least: float = 1.0
    most: float = -1.0
    n_matches: int | None = None

    def add(self, score: float, *decided: float | bool) -> None:
        """Take one more score into account, and whether its pair matches, if that is said."""
        for value in decided:
            if isinstance(value, bool):
                self.n_matches = (self.n_matches or 0) + value
        self.n += 1
        self.total += score
        self.least, self.most = min(self.least, score), max(self.most, score)

    def describe(self) -> str:
        """Return ", scores 0.5432 on average (0.0123 to 0.9876), 12 match", nothing where there is none."""
        if not self.n:
            return ""
        matches = "" if self.n_matches is None else f", {self.n_matches:,} match"
        return f", scores {self.total / self.n:.4f} on average ({self.least:.4f} to {self.most:.4f}){matches}"
