"""The report of a run: a page for a colleague, the same in short, and the worst rows as a table.

`write_report` writes report.html, report.md and worst_pairs.csv, or mistakes.csv of a classifier; docs/report.md says
what each part means. Each file is whole or not there, and the same report gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sbert_ft.data.formats import joined_cells
from sbert_ft.evaluation.results import (
    ClassSplit,
    Mistake,
    SplitScores,
    WorstPair,
    confident_mistakes,
    errors_of_place,
    worst_pairs,
)
from sbert_ft.files.atomic import write_bytes
from sbert_ft.report.content import Report
from sbert_ft.report.formatting import UNWRITABLE, escape_of
from sbert_ft.report.html_page import html_report
from sbert_ft.report.markdown import markdown_report

__all__ = [
    "ClassSplit",
    "Mistake",
    "Report",
    "SplitScores",
    "WorstPair",
    "confident_mistakes",
    "errors_of_place",
    "worst_pairs",
    "write_report",
]

_COLUMNS = ("split", "line", "text1", "text2", "gold", "before", "after", "error")


def write_report(report: Report, folder: Path) -> None:
    """Write report.html, report.md and worst_pairs.csv, or a classifier's mistakes.csv, to a folder that exists.

    Raises:
        OutputError: A file cannot be written; one that was there before is untouched.
    """
    if report.is_classifier:
        write_bytes(folder / "mistakes.csv", mistakes_csv(report.mistakes, report.row_word).encode())
    else:
        write_bytes(folder / "worst_pairs.csv", csv_of(report.worst).encode())
    write_bytes(folder / "report.md", markdown_report(report).encode())
    write_bytes(folder / "report.html", html_report(report).encode())


def csv_of(pairs: Sequence[WorstPair]) -> str:
    """Return the pairs as CSV in UTF-8 with whole, exact texts, a line feed after each record.

    Nothing is put before a text that a spreadsheet would take for a formula: it would no longer be the text. What no
    CSV file can hold, a NUL character or half a surrogate pair, is written as an escape.
    """
    return _csv(_rows(pairs))


def mistakes_csv(mistakes: Sequence[Mistake], row_word: str = "pair") -> str:
    """Return a classifier's mistakes as CSV, as `csv_of` does; a row that is a text has no column text2.

    Args:
        mistakes: Whose texts are as many as a row has.
        row_word: What a row is, pair or text.
    """
    texts = ("text1",) if row_word == "text" else ("text1", "text2")
    return _csv(_mistake_rows(mistakes, texts))


def _csv(rows: Iterator[Sequence[str]]) -> str:
    return "".join(joined_cells([UNWRITABLE.sub(_escape, cell) for cell in row], ",") + "\n" for row in rows)


def _escape(found: re.Match[str]) -> str:
    return escape_of(found[0])


def _rows(pairs: Sequence[WorstPair]) -> Iterator[Sequence[str]]:
    yield _COLUMNS
    for pair in pairs:
        before = "" if pair.before is None else _float32(pair.before)
        values = (repr(pair.gold), before, _float32(pair.after), repr(pair.error))
        yield (pair.split, str(pair.line), pair.text1, pair.text2, *values)


def _mistake_rows(mistakes: Sequence[Mistake], texts: Sequence[str]) -> Iterator[Sequence[str]]:
    yield ("split", "line", *texts, "gold", "predicted", "probability", "gold_probability")
    for mistake in mistakes:
        assert len(mistake.texts) == len(texts)
        probabilities = map(_float32, (mistake.probability, mistake.gold_probability))
        yield (mistake.split, str(mistake.line), *mistake.texts, mistake.gold, mistake.predicted, *probabilities)


def _float32(value: float) -> str:
    """Return the shortest decimals that give the same float32 back, which is what a score is."""
    return str(np.float32(value))
