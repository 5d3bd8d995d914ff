"""`sbert-ft index`: a file of texts to a search index, or more texts to one that is there."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from sbert_ft.commands import options
from sbert_ft.commands.output import Progress
from sbert_ft.errors import InputError, quoted, shown

if TYPE_CHECKING:
    from sbert_ft.search.index import SearchIndex
    from sbert_ft.search.index_writer import IndexSettings

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
  sbert-ft encode MODEL corpus/ -o vectors/ --workers 4
  sbert-ft index MODEL vectors/ --texts corpus/ -o corpus.index --method usearch

INPUT may be the folder of vectors that sbert-ft encode wrote; --texts are the files that were
encoded, without which the index has ids alone.

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
    add("input", metavar="INPUT", help="a file of texts: .csv, .tsv, .jsonl, .parquet or .txt; or a folder of vectors")
    form = "INPUT is a folder of vectors: its files of texts, as they were encoded"
    add("--texts", nargs="+", metavar="FILE", help=form)
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
    options.add_truncate_dim_option(parser)
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
    if os.path.isdir(args.input):
        return _index_vectors(args, path, settings)
    options.refuse_given(args, ("texts",), "is for a folder of vectors", "leave it out")
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


def _index_vectors(args: argparse.Namespace, path: Path, settings: IndexSettings) -> int:
    """Build the index of a folder of vectors, and return the exit code."""
    from sbert_ft.bulk.inputs import find_inputs
    from sbert_ft.data.text_rows import TextRows
    from sbert_ft.search.index import SearchIndex
    from sbert_ft.search.index_writer import check_target
    from sbert_ft.search.manifest import describe_method
    from sbert_ft.vectors.shards import ShardSet

    place = shown(Path(args.input))
    if args.add:
        raise InputError(f"--add takes a file of texts, but {place} is a folder", "build a new index")
    shards = ShardSet.open(args.input)
    if args.texts is None and (args.keep or args.column is not None or args.id_column is not None):
        raise InputError("--column, --id-column and --keep are of texts, but there are none", "add --texts FILE")
    tables = [options.open_given_table(args, str(file)) for file in find_inputs(args.texts or [])]
    texts = [TextRows(table, args.column, args.id_column, args.keep) for table in tables]
    check_target(path, settings, args.keep)
    quantizer, model = shards.plan.quantizer, options.load_model(args)
    if quantizer.type == "binary":
        hint = "encode with --vectors float32, float16 or int8"
        raise InputError(f"{place} holds binary vectors, whose cosines are not the model's", hint)
    if model.digest() != shards.plan.model_sha256:
        problem = f"{place} has the vectors of another model than {shown(Path(args.model))}: {shards.plan.model}"
        raise InputError(problem, "give that model, or encode again with this one")
    if quantizer.dimension != model.get_embedding_dimension():
        problem = f"{place} has vectors of {quantizer.dimension} features, the model's have"
        hint = "encode without --truncate-dim"
        raise InputError(f"{problem} {model.get_embedding_dimension()}: queries would not fit", hint)
    if shards.plan.settings["prompt"] != model.prompt_text(model.document_prompt_name):
        logger.warning("%s was encoded with another prompt than the model has for documents", place)
    progress = Progress("vector", quiet=args.quiet)
    with progress.bar(lambda: shards.n_rows) as advance:
        blocks = ((block.ids, quantizer.decode(block.stored)) for block in shards.blocks(check=True))
        about = shards.plan.model_sha256, args.model
        index = SearchIndex.build_from_vectors(blocks, path, about, settings, texts, on_written=advance)
    progress.report(path, quoted(args.input, limit=400), f", {describe_method(index.manifest)}")
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
