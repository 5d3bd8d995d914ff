"""The report of a run: a page for a colleague, the same in short, and the worst pairs as a table.

`write_report` writes report.html, report.md and worst_pairs.csv; docs/report.md says what each part means. Each file is
whole or not there, and the same report gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sbert_ft.data.formats import joined_cells
from sbert_ft.evaluation.report_content import Report, SplitScores, WorstPair, errors_of_place, worst_pairs
from sbert_ft.evaluation.report_html import html_report
from sbert_ft.evaluation.report_markdown import markdown_report
from sbert_ft.evaluation.report_words import UNWRITABLE, escape_of
from sbert_ft.training.durable_files import write_bytes

__all__ = ["Report", "SplitScores", "WorstPair", "errors_of_place", "worst_pairs", "write_report"]

_COLUMNS = ("split", "line", "text1", "text2", "gold", "before", "after", "error")


def write_report(report: Report, folder: Path) -> None:
    """Write report.html, report.md and worst_pairs.csv to a folder that exists.

    Raises:
        OutputError: A file cannot be written; one that was there before is untouched.
    """
    write_bytes(folder / "worst_pairs.csv", csv_of(report.worst).encode())
    write_bytes(folder / "report.md", markdown_report(report).encode())
    write_bytes(folder / "report.html", html_report(report).encode())


def csv_of(pairs: Sequence[WorstPair]) -> str:
    """Return the pairs as CSV in UTF-8 with whole, exact texts, a line feed after each record.

    Nothing is put before a text that a spreadsheet would take for a formula: it would no longer be the text. What no
    CSV file can hold, a NUL character or half a surrogate pair, is written as an escape.
    """
    return "".join(joined_cells([UNWRITABLE.sub(_escape, cell) for cell in row], ",") + "\n" for row in _rows(pairs))


def _escape(found: re.Match[str]) -> str:
    return escape_of(found[0])


def _rows(pairs: Sequence[WorstPair]) -> Iterator[Sequence[str]]:
    yield _COLUMNS
    for pair in pairs:
        before = "" if pair.before is None else _float32(pair.before)
        values = (repr(pair.gold), before, _float32(pair.after), repr(pair.error))
        yield (pair.split, str(pair.line), pair.text1, pair.text2, *values)


def _float32(value: float) -> str:
    """Return the shortest decimals that give the same float32 back, which is what a cosine is."""
    return str(np.float32(value))
