"""`sbert-ft export`: writes a model's graph for ONNX Runtime or OpenVINO, and prints how it compares with torch."""

from __future__ import annotations

import argparse
import logging
from itertools import islice
from pathlib import Path
from typing import Final

from sbert_ft.commands import options
from sbert_ft.errors import shown

logger = logging.getLogger(__name__)

# As in `engines.graph_file`; tests/commands/test_export_command.py compares them.
ENGINES: Final = ("onnxruntime", "openvino")
PRECISIONS: Final = ("float32", "int8", "bfloat16")
_MOST_ROWS: Final = 100_000

_EPILOG = """\
examples:
  sbert-ft export MODEL
  sbert-ft export MODEL --precision int8 --texts my_texts.csv
  sbert-ft export MODEL --engine openvino --precision bfloat16 -o exported

Without -o the graph is added to MODEL, under the name where other libraries look for it:
onnx/model.onnx, onnx/model_qint8_*.onnx, openvino/openvino_model.xml,
openvino/openvino_model_qint8_quantized.xml. It is compared with torch in float32 first; what is
too far from it is refused, and nothing is written, unless --force is given.

Install the engine's packages with: pip install "sbert-ft[onnx]" or "sbert-ft[openvino]"."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    options.add_model_argument(parser)
    add = parser.add_argument
    add("-o", "--output", metavar="FOLDER", help="save the model there together with its graph; default: into MODEL")
    add("--engine", choices=ENGINES, default=ENGINES[0], help="default onnxruntime")
    add("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="default float32; bfloat16 only for openvino")
    add("--force", action="store_true", help="write the graph even if its results are too far from torch's")
    texts = "texts or pairs to compare on and to calibrate int8 with: .txt, .csv, .jsonl and others; default: built in"
    add("--texts", metavar="FILE", help=texts)
    options.add_text_columns_options(parser)
    options.add_reading_options(parser)


def run(args: argparse.Namespace) -> int:
    """Export the model, print the comparison and return the exit code."""
    texts = _texts(args)
    from sbert_ft.model_folder.classifier import has_classifier
    from sbert_ft.model_folder.layout import read_folder
    from sbert_ft.models.classifier import ClassifierModel
    from sbert_ft.models.export import import_needed
    from sbert_ft.models.siamese import SiameseBert

    import_needed(args.engine, args.precision)
    source = read_folder(args.model)
    kind = ClassifierModel if has_classifier(source) else SiameseBert
    model = kind.from_pretrained(source, "cpu", "float32")

    if not args.quiet:
        where = args.model if args.output is None else args.output
        logger.info("exporting to %s; this takes from seconds to minutes", shown(Path(where)))
    report = model.export(args.output, args.engine, args.precision, texts, args.force)
    print("\n".join(report.lines()))
    return 0


def _texts(args: argparse.Namespace) -> list[str] | list[tuple[str, str]] | None:
    """Return the texts or pairs of --texts, of a large file the first hundred thousand; None without the option."""
    if args.texts is None:
        unused = ("column", "columns", "encoding", "delimiter", "kind")
        options.refuse_given(args, unused, "says how to read texts, but none are given", "add --texts FILE")
        return None
    table = options.open_given_table(args, args.texts)
    rows = list(islice(table.texts(options.columns_of_texts(table, args)), _MOST_ROWS))
    pairs = [(row[0], row[1]) for row in rows if len(row) == 2]
    return pairs or [row[0] for row in rows]
