"""Parts of the page: texts made harmless, tables, charts, sections.

Texts of the data are escaped here, once, when they become markup.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from typing import Final

from sbert_ft.evaluation.report_facts import Cell, Grid
from sbert_ft.evaluation.report_figures import Figure
from sbert_ft.evaluation.report_words import HIDDEN, escape_of, shortened, visible

_CELL_LIMIT: Final = 2000  # of any text from outside: no finding, path or setting needs more


def escaped(text: str, limit: int = _CELL_LIMIT) -> str:
    """Return a text as markup: what is special escaped, what cannot be seen shown and set apart."""
    shown, at = [], 0
    text = shortened(text, limit)
    for found in HIDDEN.finditer(text):
        shown.append(html.escape(text[at : found.start()]))
        shown.append(f'<span class="control">{html.escape(escape_of(found[0]))}</span>')
        at = found.end()
    return "".join([*shown, html.escape(text[at:])])


def section(name: str, heading: str, parts: Iterable[str]) -> Iterator[str]:
    """Yield a section with its heading."""
    yield f'<section id="{name}" aria-labelledby="{name}-heading"><h2 id="{name}-heading">{heading}</h2>'
    yield from parts
    yield "</section>"


def paragraph(sentence: str, style: str = "") -> str:
    """Return a sentence as a paragraph."""
    attribute = f' class="{style}"' if style else ""
    return f"<p{attribute}>{escaped(sentence)}</p>"


def table(grid: Grid, style: str) -> str:
    """Return a grid as a table; one without header is a list of facts."""
    parts = [f'<table class="{style}">']
    if grid.caption:
        parts.append(f'<caption dir="auto">{escaped(grid.caption)}</caption>')
    if grid.header:
        names = "".join(f'<th scope="col">{escaped(name)}</th>' for name in grid.header)
        parts.append(f"<thead><tr>{names}</tr></thead>")
    parts.append("<tbody>")
    for first, *rest in grid.rows:
        cells = "".join(f'<td dir="auto">{_cell(cell)}</td>' for cell in rest)
        parts.append(f'<tr><th scope="row">{_cell(first)}</th>{cells}</tr>')
    return "".join([*parts, "</tbody></table>"])


def _cell(cell: Cell) -> str:
    if not cell.note:
        return escaped(cell.value)
    style = "small interval" if cell.note.startswith("[") else "small"
    return f'{escaped(cell.value)} <span class="{style}">{escaped(cell.note)}</span>'


def figure(shown: Figure) -> str:
    """Return a chart with what it is called and shows."""
    caption = f"<figcaption><b>{escaped(shown.title)}.</b> {escaped(shown.caption)}</figcaption>"
    return f"<figure>{shown.svg}{caption}</figure>"


def figures(shown: Iterable[Figure], style: str = "charts") -> Iterator[str]:
    """Yield the charts side by side, after the sentences of those that there are none of."""
    found = list(shown)
    yield from (paragraph(each.caption, "note") for each in found if not each.svg)
    drawn = [figure(each) for each in found if each.svg]
    if drawn:
        yield f'<div class="{style}">{"".join(drawn)}</div>'


def scrolling(content: str, label: str, style: str = "scroll") -> str:
    """Return what may be wider than the page in a box of its own, which the keyboard can scroll too."""
    name = html.escape(visible(shortened(label, 200)))
    return f'<div class="{style}" role="region" aria-label="{name}" tabindex="0">{content}</div>'
