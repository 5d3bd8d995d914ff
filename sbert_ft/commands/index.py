"""`sbert-ft index`: a file of texts to a search index, or more texts to one that is there."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sbert_ft.commands import options
from sbert_ft.commands.output import Progress
from sbert_ft.errors import InputError, quoted

if TYPE_CHECKING:
    from sbert_ft.search.index import SearchIndex

logger = logging.getLogger(__name__)

# As in `search.approximate` and `search.manifest`, which import numpy; tests/commands/test_index_command.py compares.
_METHODS = ("exact", "usearch", "faiss")
_VECTOR_TYPES = ("float32", "float16")

_EPILOG = """\
examples:
  sbert-ft index MODEL faq.csv -o faq.index
  sbert-ft index MODEL articles.jsonl --column body --id-column key --keep lang,year -o articles.index
  sbert-ft index MODEL new.csv --id-column key --keep lang,year -o articles.index --add
  sbert-ft search faq.index "How do I reset my password?"

INDEX is a folder: vectors (.npy), ids, texts and kept columns (.parquet, row by row the same),
and manifest.json. An index that is there is replaced when the new one is complete; --add copies
it with the new rows, whose ids must be new.

exact looks at all vectors: no further package, always right, up to about a million texts.
usearch (a graph) and faiss (lists of compressed vectors) find nearly all of the nearest ones; how
many is measured against exact and printed. Parameters for --set:
  usearch  connectivity, expansion_add, expansion_search
  faiss    lists, codes, probes"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    options.add_model_argument(parser)
    add = parser.add_argument
    add("input", metavar="INPUT", help="a file of texts: .csv, .tsv, .jsonl, .parquet or .txt")
    add("-o", "--output", metavar="INDEX", required=True, help="the index, a folder")
    add("--column", metavar="NAME", help="the column with the texts, if it has no usual name")
    add("--id-column", metavar="NAME", help="the column with the ids; default: row numbers from 0")
    add("--keep", type=options.names, metavar="A,B", default=[], help="further columns, for hits and search --where")
    add("--add", action="store_true", help="add the texts to INDEX, which was made by MODEL with the same columns")
    add = parser.add_argument_group("index").add_argument
    add("--method", choices=_METHODS, help="how it is searched; default exact")
    add("--vectors", choices=_VECTOR_TYPES, help="type of the stored vectors; default float32")
    add("--set", action="append", metavar="NAME=N", dest="parameters", help="a parameter of the method")
    options.add_reading_options(parser)
    options.add_computing_options(parser)
    options.add_compile_option(parser)


def run(args: argparse.Namespace) -> int:
    """Build the index or add to it, and return the exit code."""
    from sbert_ft.data.text_rows import TextRows
    from sbert_ft.search.index import SearchIndex
    from sbert_ft.search.index_writer import IndexSettings, check_target
    from sbert_ft.search.manifest import describe_method

    path = Path(args.output)
    if args.add:
        options.refuse_given(args, ("method", "vectors"), "is that of the index", "leave it out, or build a new one")
        options.refuse_given(args, ("parameters",), "(--set) are those of the index", "leave them out")
    settings = IndexSettings(args.method or "exact", args.vectors or "float32", _parameters(args.parameters or []))
    rows = TextRows(options.open_given_table(args, args.input), args.column, args.id_column, args.keep)
    old = SearchIndex.open(path) if args.add else None
    if old is None:
        check_target(path, settings, rows.others)  # now, and not after hours
    model = options.load_model(args)
    progress = Progress("text", quiet=args.quiet)
    with progress.bar(rows.table.count_rows) as advance:
        how = {"batch_size": args.batch_size, "on_truncate": args.on_truncate, "on_encoded": advance}
        index: SearchIndex
        if old is None:
            index = SearchIndex.build(model, rows, path, settings, **how)
        else:
            old.use(model)
            index = old.add(rows, **how)
    total = f", {len(index):,} in the index" if args.add else ""
    progress.report(path, quoted(args.input, limit=400), f"{total}, {describe_method(index.manifest)}")
    return 0


def _parameters(given: list[str]) -> dict[str, int]:
    """Return the parameters of NAME=N, ..."""
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if not (name and value.isascii() and value.isdigit() and len(value) < 10):
            raise InputError(f"--set {quoted(text)} is no parameter", "write it as NAME=N, such as expansion_search=64")
        found[name] = int(value)
    return found
