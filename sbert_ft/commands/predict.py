"""`sbert-ft predict`: the class of a text or a pair, or of each row of a file, as new columns.

A classifier with one output has no classes: it predicts a score on the scale that it was trained on.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sbert_ft.commands.added_columns import RowsToExtend, ScoreSummary, given_texts, refuse_file_options
from sbert_ft.commands.options import (
    add_classifier_option,
    add_compile_option,
    add_computing_options,
    add_model_argument,
    add_reading_options,
    load_classifier,
    number_within,
    warn_of_unknown,
)
from sbert_ft.commands.output import Progress
from sbert_ft.errors import InputError, quoted
from sbert_ft.files.atomic import whole_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sbert_ft.data.formats import NewColumn
    from sbert_ft.model_folder.decision import Calibration
    from sbert_ft.models.classifier import ClassifierModel

    Values = tuple[float | bool | str, ...]

logger = logging.getLogger(__name__)

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
_SHOWN_CLASSES = 5


_ROWS_OF = {1: "single texts", 2: "pairs"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    add_model_argument(parser)
    parser.add_argument(
        "inputs", metavar="TEXT | TEXT TEXT | FILE", nargs="+", help="a text, a pair, or many in a file"
    )
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="FILE with its classes is written here; replaced when complete"
    )
    parser.add_argument(
        "--columns", "--column", metavar="A[,B]", help="the columns with the texts, if without usual names"
    )
    parser.add_argument("--prefix", metavar="TEXT", help="put before the names of the new columns")
    parser.add_argument("--all-probabilities", action="store_true", help="add the probability of every class")
    deciding = parser.add_mutually_exclusive_group()
    deciding.add_argument(
        "--threshold",
        type=number_within(0.0, 1.0, "a probability"),
        metavar="X",
        help="match from this probability on; default: MODEL's, if it has one",
    )
    deciding.add_argument("--only-predicted", action="store_true", help="leave out probability and match")
    add_classifier_option(parser)
    add_reading_options(parser)
    add_computing_options(parser)
    add_compile_option(parser)


def run(args: argparse.Namespace) -> int:
    """Predict the class of the file's rows or of the texts and return the exit code."""
    if len(args.inputs) > 2:
        raise InputError(f"expected a text, two texts or a file, found {len(args.inputs)}", "put each text in quotes")
    if args.only_predicted and args.all_probabilities:
        raise InputError("--only-predicted leaves out what --all-probabilities asks for", "give one of them")
    if args.output is not None and len(args.inputs) == 1:
        return _predict_file(args, args.inputs[0])
    if len(args.inputs) == 1:
        _refuse_file(args.inputs[0])
    return _predict_texts(args)


def _refuse_file(text: str) -> None:
    """Refuse a text that is a file, or looks like the name of one.

    Raises:
        InputError: It is or does.
    """
    from sbert_ft.config.file_kinds import KIND_OF_SUFFIX

    shown = quoted(text, limit=400)
    if os.path.isfile(text):
        raise InputError(f"{shown}: is a file", "give -o OUT to write its rows with their classes")
    if Path(text).suffix.lower() in KIND_OF_SUFFIX and not any(map(str.isspace, text)):
        raise InputError(f"{shown}: no such file", "to predict this as a text, put it in a file")


def _predict_texts(args: argparse.Namespace) -> int:
    """Print what is predicted for a text or a pair."""
    options = ("output", "columns", "prefix", "encoding", "delimiter", "kind")
    refuse_file_options(args, options, "a file")
    texts = given_texts(args.inputs, "classified")
    model = load_classifier(args)
    if len(texts) != model.n_texts:
        wanted = ("one text", "two texts")[model.n_texts - 1]
        found = ("one text was", "two texts were")[len(texts) - 1]
        raise InputError(
            f"{quoted(args.model, limit=400)} classifies {_ROWS_OF[model.n_texts]} (kind {model.kind}), but {found} "
            f"given",
            f"give {wanted}{_foreign_hint(args, model)}",
        )
    answers = Answers.of(args, model)
    from sbert_ft.models.inference import EmbedCount

    count = EmbedCount()
    row = texts[0] if len(texts) == 1 else texts
    (logits,) = model.logits_stream([row], args.batch_size, on_truncate=args.on_truncate, count=count)
    warn_of_unknown(count, args.model)
    (values,) = answers.rows(logits)
    parts = [_said(value, 4) for value in values[:1]]
    parts += [f"{_plain(name)} {_said(value, 2)}" for name, value in zip(answers.names[1:], values[1:], strict=True)]
    print("  ".join(parts))
    return 0


def _foreign_hint(args: argparse.Namespace, model: ClassifierModel) -> str:
    """Return a hint to give --model-kind if the number of texts of a model made elsewhere is not certain."""
    if args.model_kind is not None or model.kind == "towers" or (Path(args.model) / "sbert_ft.json").exists():
        return ""
    other = "joined" if model.kind == "single" else "single"
    return f", or give --model-kind {other} if the model was trained so"


def _said(value: float | bool | str, decimals: int) -> str:
    if isinstance(value, str):
        return _plain(value)
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.{decimals}f}"


def _plain(text: str) -> str:
    """Return a text from a model's folder with control characters escaped."""
    return quoted(text, limit=400)[1:-1]


def _predict_file(args: argparse.Namespace, name: str) -> int:
    """Write the file's rows with what is predicted for them."""
    prefix = args.prefix or ""
    file = RowsToExtend.of(args, name)
    n_named = None if args.columns is None else args.columns.count(",") + 1
    if n_named is not None:
        file.text_columns(args.columns, 1 if n_named == 1 else 2)
    file.refuse_taken((prefix + "predicted",), _REMEDY)
    from sbert_ft.data.formats import NewColumn

    with whole_file(file.target) as temporary:
        model = load_classifier(args)
        if n_named is not None and n_named != model.n_texts:
            raise InputError(
                f"{quoted(args.model, limit=400)} classifies {_ROWS_OF[model.n_texts]} (kind {model.kind}), but "
                f"--columns names {n_named}{_foreign_hint(args, model)}"
            )
        columns = file.text_columns(args.columns, 1 if model.n_texts == 1 else 2)
        answers = Answers.of(args, model)
        added = [NewColumn(prefix + column.name, column.type) for column in answers.columns]
        file.refuse_taken([column.name for column in added], f"{_REMEDY}, or leave it out with --only-predicted")
        from sbert_ft.models.inference import EmbedCount

        progress, count = Progress(("text", "pair")[model.n_texts - 1], quiet=args.quiet), EmbedCount()
        rows = (texts[0] if model.n_texts == 1 else texts for texts in file.texts(columns))
        stream = model.logits_stream(rows, args.batch_size, on_truncate=args.on_truncate, count=count)
        file.write(temporary, added, (answers.counted(logits) for logits in stream), progress)
    warn_of_unknown(count, args.model)
    progress.say_pace(Path(args.output), answers.describe())
    if not progress.n_done:
        logger.warning("%s holds no text: the result has no row", quoted(name, limit=400))
    return 0


@dataclass
class Answers:
    """Computes the new columns of each row, and counts their values.

    Attributes:
        class_names: Of the K classes; empty for a score.
        scale: Lowest and highest score, for a score.
        all_probabilities: Whether the probability of every class is a column.
        with_probability: Whether the probability of the predicted class is a column.
        threshold: Of the probability of a match; None for no match column.
        calibration: From a score's probability to that of a match; None for none.
        n_by_class: Rows by predicted class, so far.
        n_matches: Rows that match, so far.
        scores: Summary of the scores, so far.
    """

    class_names: tuple[str, ...]
    scale: tuple[float, float]
    all_probabilities: bool
    with_probability: bool
    threshold: float | None
    calibration: Calibration | None
    n_by_class: Counter[int] = field(default_factory=Counter)
    n_matches: int = 0
    scores: ScoreSummary = field(default_factory=ScoreSummary)

    @classmethod
    def of(cls, args: argparse.Namespace, model: ClassifierModel) -> Answers:
        """Return the answers that the options and the model's decision define, and log a stored threshold.

        Raises:
            InputError: A threshold is given for more than two classes, or all probabilities for one output.
        """
        shown = quoted(args.model, limit=400)
        if args.threshold is not None and model.n_outputs > 2:
            raise InputError(f"--threshold is for two classes or a score, but {shown} has {model.n_outputs} classes")
        if args.all_probabilities and model.n_outputs == 1:
            raise InputError(f"--all-probabilities is for classes, but {shown} predicts a score")
        decision = None if args.only_predicted or model.n_outputs > 2 else model.decision
        if args.threshold is None and decision is not None:
            logger.info("match: a probability of at least %s", decision.describe())
        return cls(
            class_names=model.class_names,
            scale=model.score_scale,
            all_probabilities=args.all_probabilities,
            with_probability=not args.only_predicted and model.n_outputs > 1,
            threshold=decision.threshold if args.threshold is None and decision is not None else args.threshold,
            calibration=None if decision is None or model.n_outputs > 1 else decision.calibration,
        )

    @property
    def columns(self) -> list[NewColumn]:
        """The new columns, in order."""
        from sbert_ft.data.formats import NewColumn

        kind: Literal["text", "float32"] = "text" if self.class_names else "float32"
        found = [NewColumn("predicted", kind)]
        if self.with_probability or self.calibration is not None:
            found.append(NewColumn("probability"))
        if self.all_probabilities:
            found += [NewColumn(f"probability_{name}") for name in self.class_names]
        return [*found, NewColumn("match", "bool")] if self.threshold is not None else found

    @property
    def names(self) -> list[str]:
        """Names of the new columns, in order."""
        return [column.name for column in self.columns]

    def rows(self, logits: NDArray[np.float32]) -> list[Values]:
        """Return the values of `columns` for each row.

        Args:
            logits: Shape (n, K), or (n, 1) for a score.
        """
        from sbert_ft.encoder.heads import probabilities
        from sbert_ft.model_folder.decision import reaches

        shares = probabilities(logits)
        values = self._of_classes(logits, shares) if self.class_names else self._of_scores(shares[:, 0])
        if self.threshold is not None:
            values.append(reaches(shares[:, -1], self.threshold).tolist())
        return list(zip(*values, strict=True))

    def _of_classes(self, logits: NDArray[np.float32], shares: NDArray[np.float32]) -> list[list[float | bool | str]]:
        import numpy as np

        codes = logits.argmax(axis=1)
        values: list[list[float | bool | str]] = [[self.class_names[code] for code in codes.tolist()]]
        if self.with_probability:
            values.append(shares[np.arange(len(codes)), codes].tolist())
        if self.all_probabilities:
            values += shares.T.tolist()
        return values

    def _of_scores(self, shares: NDArray[np.float32]) -> list[list[float | bool | str]]:
        low, high = self.scale
        values: list[list[float | bool | str]] = [(low + (high - low) * shares).tolist()]
        if self.calibration is not None:
            values.append(self.calibration.probability(shares).tolist())
        return values

    def counted(self, logits: NDArray[np.float32]) -> list[Values]:
        """Return the same as `rows`, and count it for `describe`."""
        rows = self.rows(logits)
        if self.class_names:
            self.n_by_class.update(logits.argmax(axis=1).tolist())
            self.n_matches += sum(row[-1] is True for row in rows)
        else:
            self.scores.added([tuple(value for value in row if not isinstance(value, str)) for row in rows])
        return rows

    def describe(self) -> str:
        """Return ", 'negative' 512, 'positive' 488", or the summary of the scores; "" without a row."""
        if not self.class_names:
            return self.scores.describe()
        commonest = [f"{quoted(self.class_names[code])} {n:,}" for code, n in self.n_by_class.most_common()]
        n_more = len(commonest) - _SHOWN_CLASSES
        more = [f"{n_more} other classes"] if n_more > 0 else []
        more += [f"{self.n_matches:,} match"] if self.threshold is not None and commonest else []
        return "".join(f", {part}" for part in [*commonest[:_SHOWN_CLASSES], *more])
