"""A short version of the report in Markdown, with tables that GitHub and most editors show.

Texts from the data cannot become markup: what Markdown or HTML would read as markup is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from sbert_ft.config.metrics import metric_label
from sbert_ft.markdown_text import escaped_markdown
from sbert_ft.report.classes import (
    balance_grid,
    balance_note,
    confusion_grid,
    confusion_notes,
    judged_by_class,
    mistakes_note,
    no_mistakes,
    per_class_grid,
)
from sbert_ft.report.content import Report
from sbert_ft.report.decision_facts import decision_grid, decision_note, no_decision, probability_grid, reached_grid
from sbert_ft.report.facts import (
    Cell,
    Grid,
    evaluations,
    inner,
    interval_note,
    ledger_findings,
    not_judged,
    score_grids,
    split_notes,
    verdict,
    worst_note,
)
from sbert_ft.report.formatting import capitalised, counted, decimals, plain_number, shortened, visible
from sbert_ft.report.training import training_grid

# Two numbers in brackets are an interval, which needs no escapes unless the text after it would make it a link.
_INTERVAL = re.compile(r"\\\[([+−]?\d\.\d{4}, [+−]?\d\.\d{4})\\\](?![(:\\])")
_LIST_MARK = re.compile(r"^(\d{1,9})([.)])|^([-+=])")
_N_WORST = 10
_N_EVALUATIONS = 20
_TEXT_LIMIT = 120
_CELL_LIMIT = 1000


def markdown_report(report: Report) -> str:
    """Return the Markdown text."""
    found, table = verdict(report), "mistakes.csv" if report.is_classifier else "worst_pairs.csv"
    parts = [
        f"# {literal(report.title)}",
        f"**{literal(found.headline)}:** {literal(found.sentence)}",
        *_warnings(report),
        "## Scores and baselines" if report.is_classifier else "## Scores before and after",
        *_scores(report),
        *_classes(report),
        "## Decision",
        *_decision(report),
        "## Training",
        _table(training_grid(report)),
        *_curve(report),
        "## Data files",
        *_ledgers(report),
        "## Most confident mistakes" if report.is_classifier else f"## Worst {report.row_word}s",
        *(_mistakes(report) if report.is_classifier else _worst(report)),
        f"The charts, the settings and more {report.row_word}s are in `report.html`, the full texts in `{table}`.",
    ]
    return "\n\n".join(parts) + "\n"


def literal(text: str, limit: int = _CELL_LIMIT) -> str:
    """Return a text in one line, escaped so that Markdown shows it unchanged."""
    return _INTERVAL.sub(r"[\1]", escaped_markdown(visible(shortened(text, limit))))


def _items(texts: Sequence[str]) -> str:
    """Return a list; list marks at the start of an item are escaped."""
    marked = (_LIST_MARK.sub(lambda found: f"{found[1] or ''}\\{found[2] or found[3]}", literal(t)) for t in texts)
    return "\n".join(f"- {item}" for item in marked)


def _table(grid: Grid) -> str:
    header = grid.header or (grid.caption, "")
    numeric = ["---:" if grid.header else "---"] * (len(header) - 1)
    lines = [_row(map(literal, header)), _row(["---", *numeric])]
    lines += [_row(map(_cell, cells)) for cells in grid.rows]
    title = f"**{literal(grid.caption)}**\n\n" if grid.header else ""
    return title + "\n".join(lines)


def _row(cells: Iterator[str] | Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    value, note = literal(cell.value), literal(cell.note)
    return f"{value} {note}".strip() if note.startswith("[") or not note else f"{value} ({note})"


def _warnings(report: Report) -> Iterator[str]:
    warnings = [str(warning) for warning in inner(report.metrics, "warnings") or ()]
    if not warnings:
        yield "No warnings."
        return
    yield "## Warnings"
    yield _items(warnings)


def _scores(report: Report) -> Iterator[str]:
    grids = list(score_grids(report))
    if not grids:
        yield f"{capitalised(not_judged(report))}, so nothing was measured."
        return
    yield from map(_table, grids)
    yield from map(literal, (*split_notes(report), interval_note(report)))


def _classes(report: Report) -> Iterator[str]:
    """Yield the scores, confusions and number of rows of each class of a classifier."""
    if not report.is_classifier:
        return
    yield "## Class by class"
    for _, name, of in judged_by_class(report):
        grids = (per_class_grid(report, name, of), confusion_grid(name, of))
        yield from (_table(grid) for grid in grids if grid is not None)
        yield from map(literal, confusion_notes(report, name, of))
    balance = balance_grid(report)
    if balance is not None:
        yield _table(balance)
    yield literal(balance_note(report))


def _decision(report: Report) -> Iterator[str]:
    if report.decision is None and not report.is_classifier:
        yield no_decision(report)
        return
    yield _table(decision_grid(report))
    yield from (_table(grid) for grid in (probability_grid(report), reached_grid(report)) if grid is not None)
    if report.decision is not None:
        yield literal(decision_note(report))


def _curve(report: Report) -> Iterator[str]:
    """Yield the evaluations on dev: at most twenty, evenly spaced, and the best one."""
    lines = evaluations(report)
    names = list(dict.fromkeys(name for line in lines for name in line.get("metrics") or {}))
    if not names:
        return
    best = inner(report.metrics, "best", "step")
    spaced = set(np.linspace(0, len(lines) - 1, min(_N_EVALUATIONS, len(lines))).astype(int).tolist())
    shown = [line for i, line in enumerate(lines) if i in spaced or line["step"] == best]
    rows = []
    for line in shown:
        values = [inner(line, "metrics", name) for name in names]
        cells = [Cell("–" if value is None else decimals(float(value))) for value in values]
        rows.append((Cell(f"{line['step']:,}", "best" if line["step"] == best else ""), *cells))
    yield _table(Grid("On dev during training", ("Step", *map(metric_label, names)), tuple(rows)))


def _ledgers(report: Report) -> Iterator[str]:
    if not report.ledgers:
        yield "No data file was recorded."
    for name, ledger in report.ledgers.items():
        kept, total = plain_number(inner(ledger, "n_kept")), plain_number(inner(ledger, "n_rows"))
        described = f"{inner(ledger, 'source')}: {kept} of {total} rows kept ({inner(ledger, 'format')})"
        lines = [f"**{literal(name)}**: {literal(described)}"]
        grid = ledger_findings(ledger)
        if grid is None:
            lines.append("Nothing unusual was found in its rows.")
        else:
            rows = tuple((Cell(f"{first.value}: {first.note}"), *rest) for first, *rest in grid.rows)
            lines.append(_table(replace(grid, rows=rows)))
        lines.append(_items([str(note) for note in inner(ledger, "notes") or ()]))
        yield "\n\n".join(filter(None, lines))


def _worst(report: Report) -> Iterator[str]:
    if not report.worst:
        yield f"No {report.row_word}s were scored, so there are no worst {report.row_word}s."
        return
    pairs, n_texts = report.worst[:_N_WORST], 1 if report.row_word == "text" else 2
    header = (report.row_word.capitalize(), "Texts", "Gold", "Before", "After", "Error")
    rows = [_row(header), _row(["---", "---", "---:", "---:", "---:", "---:"])]
    for pair in pairs:
        texts = "<br>".join(literal(text, _TEXT_LIMIT) for text in (pair.text1, pair.text2)[:n_texts])
        before = "–" if pair.before is None else decimals(pair.before)
        error = decimals(pair.error, signed=True)
        where = literal(f"{pair.split} {pair.line}")
        rows.append(_row([where, texts, plain_number(pair.gold), before, decimals(pair.after), error]))
    yield literal(worst_note(report))
    yield f"The first {counted(len(pairs), report.row_word)} of {len(report.worst):,}, by split and line."
    yield "\n".join(rows)


def _mistakes(report: Report) -> Iterator[str]:
    if not report.mistakes:
        yield no_mistakes(report)
        return
    header = ("Where", "Texts", "True class", "Predicted", "Probability", "Of the true class")
    rows = [_row(header), _row(["---", "---", "---", "---", "---:", "---:"])]
    for found in report.mistakes[:_N_WORST]:
        texts = "<br>".join(literal(text, _TEXT_LIMIT) for text in found.texts)
        names = (literal(name, _TEXT_LIMIT) for name in (found.gold, found.predicted))
        where = literal(f"{found.split} {found.line}")
        rows.append(_row([where, texts, *names, decimals(found.probability), decimals(found.gold_probability)]))
    yield literal(mistakes_note(report))
    yield f"The first {counted(len(rows) - 2, report.row_word)} of {len(report.mistakes):,}, by split and line."
    yield "\n".join(rows)
