"""`sbert-ft predict`: the class of a text or a pair, or of each row of a file, as new columns.

A classifier with one output has no classes: it predicts a score on the scale that it was trained on.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sbert_ft.commands import options
from sbert_ft.commands.added_columns import Results, RowsToExtend, chosen_threshold, given_texts
from sbert_ft.commands.output import Progress
from sbert_ft.errors import InputError, quoted
from sbert_ft.files.atomic import whole_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sbert_ft.models.text_classifier import TextClassifier

_EPILOG = """\
examples:
  sbert-ft predict MODEL "A dull film, but beautifully shot."
  sbert-ft predict MODEL "A man plays a guitar." "Someone makes music."
  sbert-ft predict MODEL reviews.csv -o predicted.csv
  sbert-ft predict MODEL nli.parquet --columns premise,hypothesis --all-probabilities -o predicted.parquet

OUT holds the rows of FILE as they are; its suffix may be another one (.csv, .tsv, .jsonl,
.parquet). New columns:
  predicted          name of the most likely class; of a classifier with one output the score
  probability        of that class, from 0 to 1; of a score, of a match, where MODEL has a calibration
  probability_CLASS  of each class, with --all-probabilities
  match              of two classes, or one output: true where the probability of the second class
                     reaches the threshold, that stored with MODEL or --threshold. A threshold other
                     than 0.5 can give true where the first class is more likely"""

_REMEDY = "rename it, put something before the new names with --prefix, such as --prefix model_"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    options.add_model_argument(parser)
    add = parser.add_argument
    add("inputs", metavar="TEXT | TEXT TEXT | FILE", nargs="+", help="a text, a pair, or many in a file")
    add("-o", "--output", metavar="OUT", help="FILE with its classes is written here; replaced when complete")
    options.add_columns_option(parser)
    add("--prefix", metavar="TEXT", help="put before the names of the new columns")
    add("--all-probabilities", action="store_true", help="add the probability of every class")
    add = parser.add_mutually_exclusive_group().add_argument
    add(
        "--threshold",
        type=options.number_within(0.0, 1.0, "a probability"),
        metavar="X",
        help="match from this probability on; default: MODEL's, if it has one",
    )
    add("--only-predicted", action="store_true", help="leave out probability and match")
    options.add_classifier_option(parser)
    options.add_reading_options(parser)
    options.add_computing_options(parser)
    options.add_compile_option(parser)


def run(args: argparse.Namespace) -> int:
    """Predict the class of the file's rows or of the texts and return the exit code."""
    if len(args.inputs) > 2:
        raise InputError(f"expected a text, two texts or a file, found {len(args.inputs)}", "put each text in quotes")
    if args.only_predicted and args.all_probabilities:
        raise InputError("--only-predicted leaves out what --all-probabilities asks for", "give one of them")
    if args.output is not None and len(args.inputs) == 1:
        _predict_file(args)
    else:
        _predict_texts(args)
    return 0


def _refuse_file(text: str) -> None:
    """Refuse a text that is a file, or looks like the name of one."""
    from sbert_ft.config.file_kinds import KIND_OF_SUFFIX

    shown = quoted(text, limit=400)
    if os.path.isfile(text):
        raise InputError(f"{shown}: is a file", "give -o OUT to write its rows with their classes")
    if Path(text).suffix.lower() in KIND_OF_SUFFIX and not any(map(str.isspace, text)):
        raise InputError(f"{shown}: no such file", "to predict this as a text, put it in a file")


def _predict_texts(args: argparse.Namespace) -> None:
    """Print what is predicted for a text or a pair."""
    if len(args.inputs) == 1:
        _refuse_file(args.inputs[0])
    texts = given_texts(args, "prefix", "a file", "classified")
    model = options.load_classifier(args)
    if len(texts) != model.n_texts:
        found = ("one text was", "two texts were")[len(texts) - 1]
        raise options.other_number(
            args, model, f"{found} given", f"give {('one text', 'two texts')[model.n_texts - 1]}"
        )
    results = _results(args, model)
    (outputs,) = _outputs(args, model, [texts])
    results.print_row(outputs)


def _predict_file(args: argparse.Namespace) -> None:
    """Write the file's rows with what is predicted for them."""
    prefix = args.prefix or ""
    file = RowsToExtend.of(args)
    n_named = None if args.columns is None else len(args.columns)
    if n_named is not None:
        file.table.text_columns(args.columns, 1 if n_named == 1 else 2)
    file.refuse_taken((prefix + "predicted",), _REMEDY)
    with whole_file(file.target) as temporary:
        model = options.load_classifier(args)
        if n_named not in (None, model.n_texts):
            raise options.other_number(args, model, f"--columns names {n_named}", f"name {model.n_texts}")
        columns = file.table.text_columns(args.columns, 1 if model.n_texts == 1 else 2)
        results = _results(args, model, prefix)
        new = [column.name for column in results.columns]
        file.refuse_taken(new, f"{_REMEDY}, or leave it out with --only-predicted")
        progress = Progress(("text", "pair")[model.n_texts - 1], quiet=args.quiet)
        outputs = _outputs(args, model, file.table.texts(columns, may_be_empty=True))
        file.write(temporary, results, outputs, progress)
    progress.report(Path(args.output), quoted(file.name, limit=400), results.describe())


def _outputs(
    args: argparse.Namespace, model: TextClassifier, rows: Iterable[tuple[str, ...]]
) -> Iterator[NDArray[np.float32]]:
    """Yield the logits of the rows, shape (n, K), or the scores, 0 to 1, shape (n,), of a model with one output."""
    from sbert_ft.encoder.classes import probabilities

    texts = (row[0] if model.n_texts == 1 else row for row in rows)
    for logits in model.logits_stream(texts, args.batch_size, on_truncate=args.on_truncate):
        yield logits if model.class_names else probabilities(logits)[:, 0]


def _results(args: argparse.Namespace, model: TextClassifier, prefix: str = "") -> Results:
    """Return the columns that the options and the model's decision define; refuse options that the model has not."""
    shown = quoted(args.model, limit=400)
    if args.threshold is not None and model.n_outputs > 2:
        raise InputError(f"--threshold is for two classes or a score, but {shown} has {model.n_outputs} classes")
    if args.all_probabilities and model.n_outputs == 1:
        raise InputError(f"--all-probabilities is for classes, but {shown} predicts a score")
    decision = None if args.only_predicted or model.n_outputs > 2 else model.decision
    return Results(
        "predicted",
        chosen_threshold(args, decision, "probability"),
        None if decision is None or model.n_outputs > 1 else decision.calibration,
        model.class_names,
        with_probability=not args.only_predicted and model.n_outputs > 1,
        all_probabilities=args.all_probabilities,
        scale=model.score_scale if model.n_outputs == 1 else (0.0, 1.0),
        prefix=prefix,
    )
