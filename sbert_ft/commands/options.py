"""Options that commands share: how a file is read, where and how the model computes, and how it is loaded."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sbert_ft.config.file_kinds import FILE_KINDS
from sbert_ft.errors import DataError, InputError, shown

if TYPE_CHECKING:
    from sbert_ft.data.table import Table
    from sbert_ft.engines.choice import EngineChoice
    from sbert_ft.engines.graph_file import GraphOutput
    from sbert_ft.model_folder.layout import ModelFolder
    from sbert_ft.models.exported import ExportedBert
    from sbert_ft.models.sentence_encoder import SentenceEncoder
    from sbert_ft.models.text_classifier import TextClassifier

logger = logging.getLogger(__name__)

# As in `encoder.devices` and `models.inference`, which import torch; tests/commands/test_cli.py compares them.
PRECISIONS: Final = ("auto", "float32", "bfloat16", "float16")
ENGINES: Final = ("auto", "torch", "onnxruntime", "openvino")
ON_TRUNCATE: Final = ("warn", "error", "ignore", "chunk")
# Of folders that other tools wrote; only sbert_ft writes towers.
CLASSIFIER_KINDS: Final = ("single", "joined")


def options_of_every_command() -> argparse.ArgumentParser:
    """Return a parent parser with --quiet and --debug."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add = parser.add_argument_group("options of every command").add_argument
    # No default: the command's parser would overwrite an option that was given before the command.
    add("--quiet", action="store_true", default=argparse.SUPPRESS, help="no notes, no progress bar")
    add("--debug", action="store_true", default=argparse.SUPPRESS, help="details and tracebacks")
    return parser


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Declare MODEL, the first argument."""
    parser.add_argument("model", metavar="MODEL", help="folder with config.json, weights and tokenizer files")


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options for reading the input file."""
    add = parser.add_argument_group("reading the file (detected if not given)").add_argument
    add("--encoding", metavar="NAME", help="utf-8, cp949, ...")
    add("--delimiter", metavar="CHAR", help="a character, or comma, semicolon, tab, pipe")
    add("--kind", "--format", metavar="KIND", dest="kind", help=", ".join(FILE_KINDS))


def add_computing_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options for the device, precision and batches."""
    add = parser.add_argument_group("computing").add_argument
    add("--batch-size", type=positive, default=32, metavar="N", help="limits memory; default 32")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1 or mps; default: cuda, else mps, else cpu")
    add(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="what runs the encoder; auto: an export in MODEL (sbert-ft export) that was measured faster than torch on "
        "this kind of CPU, for texts on the command line any export, else torch",
    )
    add(
        "--precision",
        choices=(*PRECISIONS, "int8"),
        default="auto",
        help="auto: that of the export, or bfloat16 if the hardware can multiply in it; int8 needs an export",
    )
    add("--max-seq-length", type=positive, metavar="N", help="tokens a text may have; default: MODEL's")
    add(
        "--on-truncate",
        choices=ON_TRUNCATE,
        default="warn",
        help="longer texts: cut and warn (default), refuse, cut, or take the mean over overlapping windows",
    )


def add_truncate_dim_option(parser: argparse.ArgumentParser) -> None:
    """Declare --truncate-dim, for commands that compare vectors."""
    parser.add_argument(
        "--truncate-dim",
        type=positive,
        metavar="N",
        help="compare the first N features of each vector, as of a model trained with matryoshka_dims; a stored "
        "threshold is then not used",
    )


def add_compile_option(parser: argparse.ArgumentParser) -> None:
    """Declare --compile, which compiles the encoder first."""
    add = parser.add_argument_group("compiling").add_argument
    add(
        "--compile",
        action="store_true",
        help="on a CPU that multiplies bfloat16: compile the encoder first, once per model in about 15 to 45 seconds "
        "with a C++ compiler, kept in ~/.cache/sbert_ft; saves time from about 300,000 short texts, and once kept from "
        "about 20,000; on other CPUs use sbert-ft export",
    )


def add_classifier_option(parser: argparse.ArgumentParser) -> None:
    """Declare --model-kind, for classifiers made elsewhere whose folder does not say it."""
    parser.add_argument(
        "--model-kind",
        choices=CLASSIFIER_KINDS,
        help="input of a classifier made elsewhere, if its folder does not say: one text, or two joined",
    )


def add_columns_option(parser: argparse.ArgumentParser) -> None:
    """Declare --columns, for rows of one or two texts."""
    parser.add_argument(
        *("--columns", "--column"),
        type=names,
        metavar="A[,B]",
        help="the columns with the texts, if without usual names",
    )


def add_text_columns_options(parser: argparse.ArgumentParser) -> None:
    """Declare --column and --columns, one of which says where the texts of --texts are (see `columns_of_texts`)."""
    add = parser.add_mutually_exclusive_group().add_argument
    add("--column", metavar="NAME", help="the column with the texts, if it has no usual name")
    add("--columns", type=names, metavar="A,B", help="the two columns with the pairs, if without usual names")


def columns_of_texts(table: Table, args: argparse.Namespace) -> tuple[int, ...]:
    """Return the positions of the columns with the texts or pairs: those named, else of pairs, else of texts.

    Raises:
        DataError: There are none.
    """
    if args.column is not None or args.columns is not None:
        return table.text_columns([args.column], 1) if args.columns is None else table.text_columns(args.columns, 2)
    try:
        return table.text_columns(None, 2)
    except DataError:  # no pairs; the error about single texts is the one to show
        try:
            return table.text_columns(None, 1)
        except DataError as error:
            raise DataError(f"{error}, or the two of pairs with --columns A,B") from None


def names(text: str) -> list[str]:
    """Return the names of an option that takes several, separated by commas."""
    return text.split(",")


def positive(text: str) -> int:
    """Return an option's whole number of at least 1."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


def number_within(low: float, high: float, kind: str) -> Callable[[str], float]:
    """Return a parser of an option's number from `low` to `high`; `kind` names the number in errors: "a cosine"."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = high + 1.0
        if not (low <= value <= high and "_" not in text):  # refuses NaN too
            raise argparse.ArgumentTypeError(f"expected {kind}, a number from {low:g} to {high:g}, found {text!r}")
        return value

    return read


def open_given_table(args: argparse.Namespace, path: str) -> Table:
    """Return the table at `path`, opened with the reading options; its format is logged."""
    from sbert_ft.data.table import open_table

    table = open_table(path, encoding=args.encoding, delimiter=args.delimiter, kind=args.kind)
    logger.debug("%s: %s", table.path, table.format.describe())
    return table


def refuse_given(args: argparse.Namespace, options: Iterable[str], why: str, hint: str = "") -> None:
    """Refuse options, given as attributes of `args`, that have no place here; `why` comes after the option's name.

    Raises:
        InputError: One of them is given.
    """
    for option in options:
        if getattr(args, option) is not None:
            raise InputError(f"--{option.replace('_', '-')} {why}", hint)


def load_model(args: argparse.Namespace, folder: str | None = None) -> SentenceEncoder:
    """Return the encoder of MODEL or `folder`, loaded with the computing options; engine and device are logged."""
    from sbert_ft.model_folder.layout import read_folder
    from sbert_ft.models.exported import ExportedEncoder

    width = getattr(args, "truncate_dim", None)
    source = read_folder(args.model if folder is None else folder)
    if (bert := _exported(args, source, "tokens", is_other=folder is not None)) is not None:
        return ExportedEncoder(bert, None, args.max_seq_length, width)
    from sbert_ft.models.siamese import SiameseBert

    model = SiameseBert.from_pretrained(source, args.device, args.precision, args.max_seq_length, truncate_dim=width)
    return model.compile() if getattr(args, "compile", False) else model


def load_classifier(args: argparse.Namespace, folder: str | None = None) -> TextClassifier:
    """Return the classifier of MODEL or `folder`, as `load_model` does the encoder."""
    from sbert_ft.engines.choice import output_of_classifier
    from sbert_ft.model_folder.layout import read_folder
    from sbert_ft.models.exported import ExportedClassifier

    source = read_folder(args.model if folder is None else folder)
    if (bert := _exported(args, source, output_of_classifier(source), is_other=folder is not None)) is not None:
        return ExportedClassifier.of_bert(bert, args.max_seq_length, args.model_kind)
    from sbert_ft.models.classifier import ClassifierModel

    model = ClassifierModel.from_pretrained(
        source, args.device, args.precision, args.max_seq_length, kind=args.model_kind
    )
    return model.compile() if getattr(args, "compile", False) else model


def _exported(
    args: argparse.Namespace, source: ModelFolder, output: GraphOutput, *, is_other: bool
) -> ExportedBert | None:
    """Return the exported encoder that the options choose, None for torch; a model to compare with may use any."""
    from sbert_ft.models.exported import open_exported

    engine: EngineChoice = "auto" if is_other and args.engine != "torch" else args.engine
    if getattr(args, "compile", False):
        if engine in ("onnxruntime", "openvino"):
            raise InputError(f"--compile is for torch, but --engine is {engine}", "leave one of them out")
        engine = "torch"
    is_for_few = getattr(args, "output", "") is None  # a row on the command line, whose result is printed
    bert = open_exported(source, engine, args.precision, args.device, output, for_few_rows=is_for_few)
    if bert is None and args.precision == "int8":
        raise InputError(
            f"--precision int8 needs an export, and {shown(source.path)} has none that can be used here",
            "write one with sbert-ft export MODEL --engine onnxruntime --precision int8",
        )
    return bert


def other_number(args: argparse.Namespace, model: TextClassifier, found: str, remedy: str) -> InputError:
    """Return the error that rows have another number of texts; --model-kind can tell that of a model made elsewhere."""
    rows = "single texts" if model.n_texts == 1 else "pairs"
    problem = f"{shown(Path(args.model))} classifies {rows} (kind {model.kind}), but {found}"
    if args.model_kind is None and model.kind != "towers" and not (Path(args.model) / "sbert_ft.json").exists():
        other = "joined" if model.kind == "single" else "single"
        remedy += f", or give --model-kind {other} if the model was trained so"
    return InputError(problem, remedy)
