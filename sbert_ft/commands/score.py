"""`sbert-ft score`: the cosine of two texts, or of each pair in a file, as new columns.

If the model has a decision, each cosine comes with a probability and with whether the texts match. Of classifiers
only towers have a cosine; for the others there is `sbert-ft predict`.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sbert_ft.commands.added_columns import RowsToExtend, ScoreSummary, given_texts, refuse_file_options
from sbert_ft.commands.options import (
    add_compile_option,
    add_computing_options,
    add_model_argument,
    add_reading_options,
    load_model,
    number_within,
    warn_of_unknown,
)
from sbert_ft.commands.output import Progress
from sbert_ft.errors import InputError, quoted
from sbert_ft.files.atomic import whole_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sbert_ft.model_folder.decision import Calibration
    from sbert_ft.models.siamese import SiameseBert

logger = logging.getLogger(__name__)

_REMEDY = "rename it, or leave the new one out with --only-score"

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
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="PAIRS with their scores are written here; replaced when complete"
    )
    parser.add_argument("--columns", metavar="A,B", help="the two columns with the texts, if without usual names")
    parser.add_argument("--name", metavar="NAME", help="name of the new column with the cosine; default score")
    deciding = parser.add_mutually_exclusive_group()
    deciding.add_argument(
        "--threshold",
        type=number_within(-1.0, 1.0, "a cosine"),
        metavar="X",
        help="texts with at least this score match; default: MODEL's, if it has one",
    )
    deciding.add_argument("--only-score", action="store_true", help="leave out probability and match")
    add_reading_options(parser)
    add_computing_options(parser)
    add_compile_option(parser)


def run(args: argparse.Namespace) -> int:
    """Score the file or the two texts and return the exit code."""
    if len(args.inputs) > 2:
        raise InputError(f"expected a file of pairs or two texts, found {len(args.inputs)}", "put each text in quotes")
    if len(args.inputs) == 2:
        return _score_two(args)
    return _score_file(args, args.inputs[0])


def _score_two(args: argparse.Namespace) -> int:
    """Print the cosine of two texts, with its probability and whether they match."""
    options = ("output", "columns", "name", "encoding", "delimiter", "kind")
    refuse_file_options(args, options, "one file of pairs")
    first, second = given_texts(args.inputs, "scored")
    model = _load(args)
    from sbert_ft.models.inference import EmbedCount

    count = EmbedCount()
    (scores,) = model.score_stream([(first, second)], args.batch_size, on_truncate=args.on_truncate, count=count)
    warn_of_unknown(count, args.model)
    decider = Judge.of(args, model)
    ((score, *rest),) = decider.rows(scores)
    parts = [f"{round(score, 4) + 0.0:.4f}"]  # without the sign of a rounded -0.00001
    for column, value in zip(decider.columns, rest, strict=True):
        parts.append(f"{column} {('yes' if value else 'no') if isinstance(value, bool) else format(value, '.2f')}")
    print("  ".join(parts))
    return 0


def _score_file(args: argparse.Namespace, pairs: str) -> int:
    """Write the file's rows with their scores."""
    if args.output is None:
        if os.path.isfile(pairs):
            raise InputError(
                f"{quoted(pairs, limit=400)}: is a file", "give -o OUT to write its rows with their scores"
            )
        raise InputError(f"{quoted(pairs, limit=400)}: no such file of pairs", "for the cosine of two texts give both")
    file = RowsToExtend.of(args, pairs)
    columns = file.text_columns(args.columns, 2)
    name = "score" if args.name is None else args.name
    if not name:
        raise InputError("--name is empty", "give the new column a name")
    if name in file.table.format.columns:
        remedy = "give the new one another with --name, such as --name cosine"
        raise InputError(f"{quoted(pairs, limit=400)}: has a column {quoted(name)} already; {remedy}")
    if args.threshold is not None:
        file.refuse_taken(("match",), _REMEDY, (name,))
    from sbert_ft.data.formats import NewColumn

    with whole_file(file.target) as temporary:
        model = _load(args)
        from sbert_ft.models.inference import EmbedCount

        decider = Judge.of(args, model)
        file.refuse_taken(decider.columns, _REMEDY, (name,))
        added = [NewColumn(n, "bool" if n == "match" else "float32") for n in (name, *decider.columns)]
        progress, summary, count = Progress("pair", quiet=args.quiet), ScoreSummary(), EmbedCount()
        pairs_of_file = ((first, second) for first, second in file.texts(columns))
        stream = model.score_stream(pairs_of_file, args.batch_size, on_truncate=args.on_truncate, count=count)
        file.write(temporary, added, (summary.added(list(decider.rows(scores))) for scores in stream), progress)
    warn_of_unknown(count, args.model)
    progress.say_pace(Path(args.output), summary.describe())
    if not progress.n_done:
        logger.warning("%s holds no pair: the result has no row", quoted(pairs, limit=400))
    return 0


def _load(args: argparse.Namespace) -> SiameseBert:
    """Return the model of MODEL.

    Raises:
        SbertFtError: It cannot be loaded, or is a classifier whose encoder was not trained to embed texts.
    """
    from sbert_ft.model_folder.layout import architecture_of_classifier, read_folder

    source = read_folder(args.model)
    own = source.own.get("classifier")
    kind = own.get("kind") if isinstance(own, dict) else None
    stock = architecture_of_classifier(source.config)
    if kind == "joined" or stock is not None:
        what = f"of kind {kind}" if kind is not None else f"({stock})"
        raise InputError(
            f"{quoted(args.model, limit=400)} is a classifier {quoted(what)[1:-1]}, whose encoder gives no vectors to "
            "compare",
            "use sbert-ft predict",
        )
    return load_model(args)


@dataclass(frozen=True)
class Judge:
    """Computes from a score the probability of a match and whether the texts match.

    Attributes:
        threshold: Texts with at least this score match; None for no match column.
        calibration: From a score to the probability of a match; None for no probability column.
    """

    threshold: float | None
    calibration: Calibration | None

    @classmethod
    def of(cls, args: argparse.Namespace, model: SiameseBert) -> Judge:
        """Return the values that the options and the model's decision define; a stored threshold is logged."""
        decision = None if args.only_score else model.decision
        if args.threshold is None and decision is not None:
            logger.info("match: a score of at least %s", decision.describe())
        threshold = decision.threshold if args.threshold is None and decision is not None else args.threshold
        return cls(threshold, None if decision is None else decision.calibration)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the new columns beside the score."""
        return ("probability",) * (self.calibration is not None) + ("match",) * (self.threshold is not None)

    def rows(self, scores: NDArray[np.float32]) -> Iterator[tuple[float | bool, ...]]:
        """Yield each of the scores, shape (n,), with the values of `columns`."""
        values: list[list[float | bool]] = [scores.tolist()]
        if self.calibration is not None:
            values.append(self.calibration.probability(scores).tolist())
        if self.threshold is not None:
            from sbert_ft.model_folder.decision import reaches

            values.append(reaches(scores, self.threshold).tolist())
        yield from zip(*values, strict=True)
