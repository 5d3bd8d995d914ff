"""`sbert-ft search`: the texts of an index that are nearest to a question, or to each question of a file."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sbert_ft.commands import options
from sbert_ft.commands.added_columns import argument_text
from sbert_ft.commands.output import Progress, aligned, checked_target
from sbert_ft.errors import InputError, quoted, shown
from sbert_ft.files.atomic import whole_file

if TYPE_CHECKING:
    from sbert_ft.data.formats import Values
    from sbert_ft.data.text_rows import TextRows
    from sbert_ft.search.index import Hit, SearchIndex

logger = logging.getLogger(__name__)

_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_USUAL_K = 10
_WINDOW = 16_384  # queries that are searched together, so that the index is read once for them

_EPILOG = """\
examples:
  sbert-ft search faq.index "How do I reset my password?"
  sbert-ft search faq.index "비밀번호를 잊었어요" -k 3 --where lang=ko
  sbert-ft search faq.index queries.csv --column question --id-column key -k 5 -o hits.csv

Columns of OUT (.csv, .tsv, .jsonl, .parquet), best hit first:
  query_id     the question's id, or its row number from 0
  rank         1 for the nearest
  id, text     of the hit
  score        the cosine, from -1 to 1
  probability  how likely the two belong together, from 0 to 1, where the model has a calibration
  match        true where the score reaches the model's threshold
and the columns that the index keeps. The model is the folder that made the index, or --model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("index", metavar="INDEX", help="a folder written by sbert-ft index")
    add("queries", metavar="QUERIES | TEXT", help="a file of questions, or one question")
    add("-k", type=options.positive, metavar="N", help=f"hits for each question; default {_USUAL_K}, or all if fewer")
    add("-o", "--output", metavar="OUT", help="the hits of a file of questions; replaced when complete")
    add(
        "--where",
        action="append",
        metavar="NAME=VALUE",
        default=[],
        help="only rows with this value; may be repeated",
    )
    add("--model", metavar="MODEL", help="where the index's model is now, if it was moved")
    add("--column", metavar="NAME", help="the column with the questions, if it has no usual name")
    add("--id-column", metavar="NAME", help="the column with their ids; default: row numbers from 0")
    options.add_reading_options(parser)
    options.add_computing_options(parser)
    options.add_truncate_dim_option(parser)


def run(args: argparse.Namespace) -> int:
    """Search and return the exit code."""
    from sbert_ft.search.index import SearchIndex

    index = SearchIndex.open(args.index)
    k = min(_USUAL_K, len(index)) if args.k is None else index.checked_k(args.k)
    where = _conditions(args.where)
    for name in where:
        index.check_column(name)
    if args.output is None:
        _search_one(args, index, k, where)
    else:
        _search_file(args, index, k, where)
    return 0


def _conditions(given: list[str]) -> dict[str, list[str]]:
    """Return the values of each column of NAME=VALUE, ...; one column's values are alternatives."""
    where: dict[str, list[str]] = {}
    for text in map(argument_text, given):
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise InputError(f"--where {quoted(text)} is no condition", "write it as NAME=VALUE")
        where.setdefault(name, []).append(value)
    return where


def _search_one(args: argparse.Namespace, index: SearchIndex, k: int, where: dict[str, list[str]]) -> None:
    """Print the hits of one question."""
    text = argument_text(args.queries)
    if os.path.isfile(text):
        raise InputError(f"{quoted(text, limit=400)}: is a file", "give -o OUT to write the hits of its questions")
    why = f"is for a file of questions, but one was given: {quoted(text)}"
    options.refuse_given(args, ("column", "id_column", "encoding", "delimiter", "kind"), why)
    if not text:
        raise InputError("the question is empty", "give a text that is not empty")
    _load(args, index)
    vectors = index.encode_queries([text], args.batch_size, args.on_truncate)
    (hits,) = index.hits(index.neighbors(vectors, k, where))
    if not hits:
        print("no row of the index has these values")
        return
    rows = [["score", *_decided(index), "id", *(["text"] if index.manifest.has_texts else [])]]
    for hit in hits:
        texts = [] if hit.text is None else [quoted(hit.text, limit=120)[1:-1]]
        rows.append([f"{hit.score:.4f}", *_said(hit), quoted(hit.id)[1:-1], *texts])
    print("\n".join(aligned(rows)))
    if hits[0].match is False:  # the nearest
        print("nothing here matches")


def _decided(index: SearchIndex) -> list[str]:
    """Return the names of the columns that the model's decision gives."""
    decision = None if index.model is None else index.model.decision
    if decision is None or decision.similarity != "cosine":
        return []
    return ["match"] if decision.calibration is None else ["probability", "match"]


def _said(hit: Hit) -> list[str]:
    probability = [] if hit.probability is None else [f"{hit.probability:.2f}"]
    return [*probability, *([] if hit.match is None else ["yes" if hit.match else "no"])]


def _search_file(args: argparse.Namespace, index: SearchIndex, k: int, where: dict[str, list[str]]) -> None:
    """Write the hits of each question of a file."""
    from sbert_ft.config.file_kinds import KIND_OF_SUFFIX
    from sbert_ft.data.formats import NewColumn
    from sbert_ft.data.ledger import counted
    from sbert_ft.data.new_table import write_rows
    from sbert_ft.data.text_rows import TextRows

    target = checked_target(args.output, _SUFFIXES, Path(args.queries))
    rows = TextRows(options.open_given_table(args, args.queries), args.column, args.id_column)
    counts = {"hits": 0, "without": 0}
    with whole_file(target) as temporary:
        _load(args, index)
        decided = _decided(index)
        columns = [NewColumn("query_id", "text"), NewColumn("rank", "int64"), NewColumn("id", "text")]
        columns += [NewColumn("text", "text")] if index.manifest.has_texts else []
        columns += [NewColumn("score"), *(NewColumn(n, "bool" if n == "match" else "float32") for n in decided)]
        columns += [NewColumn(name, "text") for name in index.manifest.columns]
        progress = Progress("text", quiet=args.quiet)
        with progress.bar(rows.table.count_rows) as advance:
            found = _hits(args, index, k, where, rows, counts, advance)
            write_rows(temporary, KIND_OF_SUFFIX[Path(args.output).suffix.lower()], columns, found)
    more = f", {counted(counts['hits'], 'hit')}"
    if decided:
        more += f", nothing matches {counts['without']:,} of them"
    progress.report(Path(args.output), quoted(args.queries, limit=400), more)


def _hits(
    args: argparse.Namespace,
    index: SearchIndex,
    k: int,
    where: dict[str, list[str]],
    rows: TextRows,
    counts: dict[str, int],
    advance: Callable[[int], None],
) -> Iterator[Values]:
    """Yield the rows of the result, and count hits and questions without a match."""
    left = iter(rows)
    while window := list(islice(left, _WINDOW)):
        vectors = index.encode_queries([row.text for row in window], args.batch_size, args.on_truncate)
        for row, hits in zip(window, index.hits(index.neighbors(vectors, k, where)), strict=True):
            for rank, hit in enumerate(hits, start=1):
                values: list[float | bool | str] = [str(row.id), rank, str(hit.id)]
                values += [] if hit.text is None else [hit.text]
                values += [value for value in (hit.score, hit.probability, hit.match) if value is not None]
                yield [*values, *(value or "" for value in hit.values.values())]
            counts["hits"] += len(hits)
            counts["without"] += not any(hit.match for hit in hits)
        advance(len(window))


def _load(args: argparse.Namespace, index: SearchIndex) -> None:
    """Load the model of the index, and say what its decision is."""
    if args.model is None:
        args.model = index.manifest.model_path
        if not os.path.isdir(args.model):
            problem = f"{shown(index.path)}: its model, {quoted(args.model, limit=400)}, is not there"
            raise InputError(problem, "give the model's folder with --model")
    model = options.load_model(args)
    index.use(model)
    if not _decided(index):
        logger.warning(
            "%s has no stored threshold, so hits have no probability and no match: fit one with fit_threshold on "
            "labelled pairs",
            quoted(args.model, limit=400),
        )
    elif model.decision is not None:
        logger.info("match: a score of at least %s", model.decision.describe())
