"""Write the report of a run: an HTML page, a short Markdown version, and a table of the worst rows.

`write_report` writes report.html, report.md and worst_pairs.csv: mistakes.csv for a classifier, and no table for a
masked language model, which is not evaluated on labelled rows. A run with data.retrieval has worst_queries.csv too.
docs/report.md explains each part. Files are written atomically, and the same report gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sbert_ft.data.formats import joined_cells
from sbert_ft.evaluation.results import Mistake, WorstPair, WorstQuery
from sbert_ft.files.atomic import write_bytes
from sbert_ft.report.content import Report
from sbert_ft.report.formatting import UNWRITABLE, escape_of
from sbert_ft.report.html_page import html_report
from sbert_ft.report.markdown import markdown_report


def write_report(report: Report, folder: Path) -> None:
    """Write report.html, report.md and the table of the worst rows, if there is one, to an existing folder.

    Raises:
        OutputError: A file cannot be written; an existing file is then left unchanged.
    """
    if report.is_classifier:
        write_bytes(folder / "mistakes.csv", mistakes_csv(report.mistakes, report.row_word).encode())
    elif not report.is_language:
        write_bytes(folder / "worst_pairs.csv", csv_of(report.worst).encode())
    if report.settings.data.retrieval is not None:
        write_bytes(folder / "worst_queries.csv", queries_csv(report.worst_queries).encode())
    write_bytes(folder / "report.md", markdown_report(report).encode())
    write_bytes(folder / "report.html", html_report(report).encode())


def csv_of(pairs: Sequence[WorstPair]) -> str:
    """Return the pairs as CSV with full, exact texts and a line feed after each record.

    A text that a spreadsheet would read as a formula is not prefixed, so that the text stays exact. A NUL character
    or half a surrogate pair cannot be stored in a CSV file and is written as an escape.
    """
    rows = [("split", "line", "text1", "text2", "gold", "before", "after", "error")]
    for pair in pairs:
        before = "" if pair.before is None else _float32(pair.before)
        values = (repr(pair.gold), before, _float32(pair.after), repr(pair.error))
        rows.append((pair.split, str(pair.line), pair.text1, pair.text2, *values))
    return _csv(rows)


def mistakes_csv(mistakes: Sequence[Mistake], row_word: str = "pair") -> str:
    """Return a classifier's mistakes as CSV, written as in `csv_of`; rows of single texts have no column text2."""
    texts = ("text1",) if row_word == "text" else ("text1", "text2")
    rows: list[tuple[str, ...]] = [("split", "line", *texts, "gold", "predicted", "probability", "gold_probability")]
    for mistake in mistakes:
        assert len(mistake.texts) == len(texts)
        probabilities = map(_float32, (mistake.probability, mistake.gold_probability))
        rows.append((mistake.split, str(mistake.line), *mistake.texts, mistake.gold, mistake.predicted, *probabilities))
    return _csv(rows)


def queries_csv(queries: Sequence[WorstQuery]) -> str:
    """Return the worst queries of a search as CSV, written as in `csv_of`."""
    names = ("line", "query_id", "query", "right_id", "right", "before", "after", "right_score")
    rows: list[tuple[str, ...]] = [(*names, "wrong_id", "wrong", "wrong_score")]
    for query in queries:
        ranks = "" if query.before is None else str(query.before), str(query.after)
        right = (query.right_id, query.right, *ranks, _float32(query.right_score))
        wrong = query.wrong_id, query.wrong, _float32(query.wrong_score)
        rows.append((str(query.line), query.query_id, query.query, *right, *wrong))
    return _csv(rows)


def _csv(rows: Iterable[Sequence[str]]) -> str:
    escaped = ([UNWRITABLE.sub(lambda found: escape_of(found[0]), cell) for cell in row] for row in rows)
    return "".join(joined_cells(row, ",") + "\n" for row in escaped)


def _float32(value: float) -> str:
    """Return the shortest decimal number that gives the same float32; scores are float32."""
    return str(np.float32(value))
