"""The options that commands share: how a file is read, which model computes how, and the loading of it."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sbert_ft.data.table import Table
    from sbert_ft.models.classifier import ClassifierModel
    from sbert_ft.models.inference import EmbedCount
    from sbert_ft.models.siamese import SiameseBert

logger = logging.getLogger(__name__)

# As in `model.devices` and `model.embed`, which would bring torch with them; a test holds them together.
PRECISIONS: Final = ("auto", "float32", "bfloat16", "float16")
ON_TRUNCATE: Final = ("warn", "error", "ignore", "chunk")
# Of folders that others wrote; towers are ours alone.
CLASSIFIER_KINDS: Final = ("single", "joined")

# From here on the vocabulary hardly knows the texts' language or script.
_NOTED_UNKNOWN_SHARE = 0.05


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Declare MODEL, the first argument."""
    parser.add_argument("model", metavar="MODEL", help="folder with config.json, weights and tokenizer files")


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Declare how the file that is read is to be understood."""
    group = parser.add_argument_group("reading the file (found out where not given)")
    group.add_argument("--encoding", metavar="NAME", help="utf-8, cp949, ...")
    group.add_argument("--delimiter", metavar="CHAR", help="a character, or comma, semicolon, tab, pipe")
    group.add_argument("--kind", "--format", metavar="KIND", dest="kind", help="lines, csv, tsv, jsonl or parquet")


def add_computing_options(parser: argparse.ArgumentParser) -> None:
    """Declare on which device and how the model computes."""
    group = parser.add_argument_group("computing")
    group.add_argument("--batch-size", type=positive, default=32, metavar="N", help="bounds memory; default 32")
    group.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps; default: the first of them there is")
    group.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="auto: bfloat16 where the hardware multiplies it"
    )
    group.add_argument("--max-seq-length", type=positive, metavar="N", help="tokens a text may have; default: MODEL's")
    group.add_argument(
        "--on-truncate",
        choices=ON_TRUNCATE,
        default="warn",
        help="longer texts: cut and warn (default), refuse, cut, or take the mean over overlapping windows",
    )


def add_compile_option(parser: argparse.ArgumentParser) -> None:
    """Declare that the encoder is to be compiled first."""
    group = parser.add_argument_group("compiling")
    group.add_argument(
        "--compile",
        action="store_true",
        help="on a CPU: compile the encoder first, some 15 to 45 seconds and a C++ compiler once per model, kept in "
        "~/.cache/sbert_ft; pays from some 20,000 short texts on in float32, 300,000 in bfloat16, and once it is "
        "kept from some 1,000 and 20,000",
    )


def add_classifier_option(parser: argparse.ArgumentParser) -> None:
    """Declare what a classifier takes that was made elsewhere, whose folder need not say."""
    parser.add_argument(
        "--model-kind",
        choices=CLASSIFIER_KINDS,
        help="what a classifier made elsewhere takes, where its folder does not say: one text, or two joined",
    )


def positive(text: str) -> int:
    """Return a whole number of at least 1.

    Raises:
        ArgumentTypeError: The text is none.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


def number_within(low: float, high: float, kind: str) -> Callable[[str], float]:
    """Return what reads an option's number from `low` to `high`; `kind` says what the number is: a cosine."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = high + 1.0
        if not (low <= value <= high and "_" not in text):  # NaN is none, too
            raise argparse.ArgumentTypeError(f"expected {kind}, a number from {low:g} to {high:g}, found {text!r}")
        return value

    return read


def open_given_table(args: argparse.Namespace, path: str) -> Table:
    """Return the table at `path`, as the reading options say, and log what was found."""
    from sbert_ft.data.table import open_table

    table = open_table(path, encoding=args.encoding, delimiter=args.delimiter, kind=args.kind)
    logger.debug("%s: %s", table.path, table.format.describe())
    return table


def load_model(args: argparse.Namespace) -> SiameseBert:
    """Return the model of MODEL, as the computing options say; its device is logged."""
    from sbert_ft.models.siamese import SiameseBert

    model = SiameseBert.from_pretrained(args.model, args.device, args.precision, args.max_seq_length)
    return model.compile() if getattr(args, "compile", False) else model


def load_classifier(args: argparse.Namespace, folder: str | None = None) -> ClassifierModel:
    """Return the classifier of MODEL, or of another folder, as the computing options say; its device is logged.

    Raises:
        ModelFolderError: The folder cannot be loaded, or holds no classifier.
    """
    from sbert_ft.models.classifier import ClassifierModel

    chosen = args.model if folder is None else folder
    model = ClassifierModel.from_pretrained(
        chosen, args.device, args.precision, args.max_seq_length, kind=args.model_kind
    )
    return model.compile() if getattr(args, "compile", False) else model


def warn_of_unknown(count: EmbedCount, model: str) -> None:
    """Warn where many of the texts' tokens are not in the vocabulary, for such vectors say little."""
    if count.unknown_share >= _NOTED_UNKNOWN_SHARE:
        logger.warning(
            "%.1f %% of the texts' tokens are unknown to the vocabulary of %s; see sbert-ft doctor MODEL --texts FILE",
            100 * count.unknown_share,
            model,
        )
