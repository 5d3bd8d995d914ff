"""`sbert-ft score`: the cosine of two texts, or of each pair in a file, as new columns.

If the model has a decision, each cosine comes with a probability and with whether the texts match. Of classifiers
only towers have a cosine; for the others there is `sbert-ft predict`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sbert_ft.commands import options
from sbert_ft.commands.added_columns import Results, RowsToExtend, chosen_threshold, given_texts
from sbert_ft.commands.output import Progress
from sbert_ft.errors import InputError, quoted
from sbert_ft.files.atomic import whole_file

if TYPE_CHECKING:
    from sbert_ft.models.sentence_encoder import SentenceEncoder

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
    options.add_model_argument(parser)
    add = parser.add_argument
    add("inputs", metavar="PAIRS | TEXT TEXT", nargs="+", help="a file of pairs, or two texts")
    add("-o", "--output", metavar="OUT", help="PAIRS with their scores are written here; replaced when complete")
    add("--columns", type=options.names, metavar="A,B", help="the two columns with the texts, if without usual names")
    add("--name", metavar="NAME", help="name of the new column with the cosine; default score")
    add = parser.add_mutually_exclusive_group().add_argument
    add(
        "--threshold",
        type=options.number_within(-1.0, 1.0, "a cosine"),
        metavar="X",
        help="texts with at least this score match; default: MODEL's, if it has one",
    )
    add("--only-score", action="store_true", help="leave out probability and match")
    options.add_reading_options(parser)
    options.add_computing_options(parser)
    options.add_truncate_dim_option(parser)
    options.add_compile_option(parser)


def run(args: argparse.Namespace) -> int:
    """Score the file or the two texts and return the exit code."""
    if len(args.inputs) > 2:
        raise InputError(f"expected a file of pairs or two texts, found {len(args.inputs)}", "put each text in quotes")
    if len(args.inputs) == 2:
        _score_two(args)
    else:
        _score_file(args)
    return 0


def _score_two(args: argparse.Namespace) -> None:
    """Print the cosine of two texts, with its probability and whether they match."""
    first, second = given_texts(args, "name", "one file of pairs", "scored")
    model = _load(args)
    (scores,) = model.score_stream([(first, second)], args.batch_size, on_truncate=args.on_truncate)
    _results(args, model).print_row(scores)


def _score_file(args: argparse.Namespace) -> None:
    """Write the file's rows with their scores."""
    shown = quoted(args.inputs[0], limit=400)
    if args.output is None:
        if os.path.isfile(args.inputs[0]):
            raise InputError(f"{shown}: is a file", "give -o OUT to write its rows with their scores")
        raise InputError(f"{shown}: no such file of pairs", "for the cosine of two texts give both")
    file = RowsToExtend.of(args)
    columns = file.table.text_columns(args.columns, 2)
    name = "score" if args.name is None else args.name
    if not name:
        raise InputError("--name is empty", "give the new column a name")
    file.refuse_taken((name,), "give the new one another name with --name, such as --name cosine")
    if args.threshold is not None:
        file.refuse_taken(("match",), _REMEDY, (name,))
    with whole_file(file.target) as temporary:
        model = _load(args)
        results = _results(args, model)
        file.refuse_taken([column.name for column in results.columns[1:]], _REMEDY, (name,))
        progress = Progress("pair", quiet=args.quiet)
        pairs = ((first, second) for first, second in file.table.texts(columns, may_be_empty=True))
        scores = model.score_stream(pairs, args.batch_size, on_truncate=args.on_truncate)
        file.write(temporary, results, scores, progress)
    progress.report(Path(args.output), shown, results.describe())


def _results(args: argparse.Namespace, model: SentenceEncoder) -> Results:
    """Return the columns that the options and the model's decision define."""
    decision = None if args.only_score else model.decision
    threshold = chosen_threshold(args, decision, "score")
    return Results(args.name or "score", threshold, None if decision is None else decision.calibration)


def _load(args: argparse.Namespace) -> SentenceEncoder:
    """Return the model of MODEL; refuse a classifier whose encoder was not trained to embed texts."""
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
    return options.load_model(args)
