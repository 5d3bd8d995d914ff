"""`sbert-ft evaluate MODEL --queries --corpus --relevant`: does a search with the model find the relevant texts?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sbert_ft.commands import options
from sbert_ft.commands.output import Progress, aligned, metric_rows
from sbert_ft.errors import InputError, quoted

if TYPE_CHECKING:
    from sbert_ft.config.settings import EvaluationSettings
    from sbert_ft.evaluation.retrieval import Search

_FILES = ("queries", "corpus", "relevant")
_OF_PAIRS = ("columns", "label_column", "label_values", "score_range", "match_from", "classes", "model_kind")
_N_WORST = 50  # in the JSON
_N_SHOWN = 5  # in the table
_TEXT_LIMIT = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of a search."""
    add = parser.add_argument_group("a search, in place of DATA").add_argument
    add("--queries", metavar="FILE", help="queries with their ids")
    add("--corpus", metavar="FILE", help="the texts to search in, with their ids")
    add("--relevant", metavar="FILE", help="ids of queries and of their relevant texts, with grades if there are some")
    add("--query-columns", type=options.names, metavar="ID,TEXT", help="columns of --queries, if without usual names")
    add("--corpus-columns", type=options.names, metavar="ID,TEXT", help="columns of --corpus")
    add("--relevant-columns", type=options.names, metavar="QUERY,TEXT[,GRADE]", help="columns of --relevant")


def is_wanted(args: argparse.Namespace) -> bool:
    """Return whether a search is to be evaluated rather than rows.

    Raises:
        InputError: Some of its files are missing, or DATA or options for rows are given beside them.
    """
    given = [name for name in _FILES if getattr(args, name) is not None]
    if not given:
        for name in ("query_columns", "corpus_columns", "relevant_columns"):
            options.refuse_given(args, (name,), "is for a search", "give --queries, --corpus and --relevant too")
        if args.pairs is None:
            raise InputError("there is nothing to evaluate on", "give DATA, or --queries, --corpus and --relevant")
        return False
    if missing := [f"--{name}" for name in _FILES if name not in given]:
        raise InputError(f"a search needs {' and '.join(missing)} too", "give --queries, --corpus and --relevant")
    if args.pairs is not None:
        raise InputError(f"{quoted(args.pairs, limit=400)} is given beside --queries", "evaluate them one by one")
    options.refuse_given(args, _OF_PAIRS, "is for rows of DATA, and a search is evaluated", "leave it out")
    for name, n in (("query_columns", (2,)), ("corpus_columns", (2,)), ("relevant_columns", (2, 3))):
        found: Sequence[str] | None = getattr(args, name)
        if found is not None and len(found) not in n:
            names = f"{' or '.join(map(str, n))} names"
            raise InputError(f"--{name.replace('_', '-')} is {quoted(','.join(found))}, expected {names}")
    return True


def evaluate(args: argparse.Namespace, settings: EvaluationSettings) -> tuple[dict[str, Any], str]:
    """Return the report on a search as JSON and as lines."""
    from sbert_ft.data.retrieval import RetrievalFiles, read_retrieval
    from sbert_ft.evaluation.retrieval import Search, judged, worst_queries
    from sbert_ft.models.unit_vectors import Encoding

    columns = (args.query_columns, args.corpus_columns, args.relevant_columns)
    files = RetrievalFiles(args.queries, args.corpus, args.relevant, *columns)
    data = read_retrieval(files, lambda path: options.open_given_table(args, path))
    progress = Progress("text", quiet=args.quiet)

    def search_of(folder: str | None) -> Search:
        model = options.load_model(args, folder)
        with progress.bar(lambda: len(data) + len(data.corpus)) as advance:
            return Search.of(model, data, Encoding(args.batch_size, args.on_truncate, advance))

    before = None if args.against is None else search_of(args.against).ranks
    search = search_of(None)
    result = judged(data, before, search.ranks, settings)
    kept = ("source", "sha256", "n", "n_texts", "n_relevant", "n_without", "note")
    report: dict[str, Any] = {
        "model": args.model,
        "against": args.against,
        "data": {key: result[key] for key in kept},
        "metrics": result["after"],
    }
    if before is not None:
        report |= {"against_metrics": result["before"], "difference": result["difference"]}
    worst = worst_queries(data, before, search, _N_WORST)
    report["worst_queries"] = [asdict(query) for query in worst]
    return report, _lines(report)


def _lines(report: dict[str, Any]) -> str:
    """Return the report as aligned lines: the metrics, and the worst queries with what was found in place."""
    from sbert_ft.data.ledger import counted

    columns = [("MODEL", report["metrics"], "")]
    if "difference" in report:
        columns += [("OTHER", report["against_metrics"], ""), ("difference", report["difference"], "+")]
    facts = f"{counted(report['data']['n'], 'query')}, {report['data']['note']}"
    lines = [facts, *aligned(metric_rows(*columns))]
    worst = report["worst_queries"][:_N_SHOWN]
    if worst:
        lines += ["", f"worst queries ({len(worst)} of {len(report['worst_queries'])} in --json)"]
    for query in worst:
        was = "" if query["before"] is None else f" (OTHER: {query['before']:,})"
        shown = {name: quoted(query[name], limit=_TEXT_LIMIT) for name in ("query_id", "query", "right", "wrong")}
        lines.append(f"  line {query['line']}, {shown['query_id']}: {shown['query']}")
        lines.append(f"    relevant, rank {query['after']:,}{was}, {query['right_score']:.4f}: {shown['right']}")
        lines.append(f"    not relevant, {query['wrong_score']:.4f}: {shown['wrong']}")
    return "\n".join(lines)
