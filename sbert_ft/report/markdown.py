"""A short version of the report in Markdown, with tables that GitHub and most editors show.

Texts from the data cannot become markup: what Markdown or HTML would read as markup is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from sbert_ft.data.ledger import counted
from sbert_ft.markdown_text import escaped_markdown
from sbert_ft.report.blocks import Beside, Block, Cell, Charts, Grid, Heading, Items, Paragraph, Section, Texts
from sbert_ft.report.content import Report
from sbert_ft.report.formatting import shortened, visible
from sbert_ft.report.scores import verdict
from sbert_ft.report.sections import sections_of

# Two numbers in brackets are an interval, which needs no escapes unless the text after it would make it a link.
_INTERVAL = re.compile(r"\\\[([+−]?[\d,]+\.\d{1,4}, [+−]?[\d,]+\.\d{1,4})\\\](?![(:\\])")
_LIST_MARK = re.compile(r"^(\d{1,9})([.)])|^([-+=])")
_N_WORST = 10
_TEXT_LIMIT = 120
_CELL_LIMIT = 1000


def markdown_report(report: Report) -> str:
    """Return the Markdown text: the sections of the page without charts and settings, and the first of many texts."""
    found = verdict(report)
    last = "The charts and the settings are in `report.html`."
    if not report.is_language:
        table = "mistakes.csv" if report.is_classifier else "worst_pairs.csv"
        more = f"The charts, the settings and more {report.row_word}s are in `report.html`"
        last = f"{more}, the full texts in `{table}`."
    parts = [
        f"# {literal(report.title)}",
        f"**{literal(found.headline)}:** {literal(found.sentence)}",
        *_warnings(report),
        *(part for section in sections_of(report) for part in _section(section, report.row_word)),
        last,
    ]
    return "\n\n".join(parts) + "\n"


def _section(section: Section, row_word: str) -> Iterator[str]:
    """Yield a section, or nothing where it has only charts; a heading stands only above something."""
    above = [f"## {section.heading}"]
    for block in section.blocks:
        if isinstance(block, Heading):
            above.append(f"### {literal(block.text)}")
        for part in _block(block, row_word):
            yield from above
            yield part
            above.clear()


def _block(block: Block, row_word: str) -> Iterator[str]:
    if isinstance(block, Paragraph):
        yield literal(block.text)
    elif isinstance(block, Items):
        yield _items(block.texts)
    elif isinstance(block, Grid):
        yield _table(block)
    elif isinstance(block, Charts) and block.table is not None:
        yield _table(block.table)
    elif isinstance(block, Beside):
        for inside in (*block.left, *block.right):
            yield from _block(inside, row_word)
    elif isinstance(block, Texts):
        yield from _texts(block, row_word)


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
    warnings = report.metrics.get("warnings")
    yield from ("## Warnings", _items(warnings)) if warnings else ("No warnings.",)


def _texts(block: Texts, row_word: str) -> Iterator[str]:
    """Yield the first rows of a table of texts."""
    numbers = ["---"] * (2 + block.n_words) + ["---:"] * (len(block.names) - block.n_words)
    rows = [_row(("Where", "Texts", *block.names)), _row(numbers)]
    for row in block.rows[:_N_WORST]:
        both = "<br>".join(literal(text, _TEXT_LIMIT) for text in row.texts)
        cells = (literal(value, _TEXT_LIMIT) for value in row.values)
        rows.append(_row([literal(f"{row.split} {row.line}"), both, *cells]))
    if len(block.rows) > _N_WORST:
        yield f"The first {counted(_N_WORST, block.word or row_word)} of {len(block.rows):,}, by split and line."
    yield "\n".join(rows)
