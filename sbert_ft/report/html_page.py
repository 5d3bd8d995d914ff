"""The report as one self-contained HTML page: no links, scripts, fonts or pictures from outside.

Texts from the data are escaped once, when they become markup; a content security policy in the page's head also
forbids scripts and external resources. Every chart is inline SVG. The same report gives the same bytes.

The style sheet, style.css, has one column on a phone, a dark mode, and nothing is cut off in print. Its colours can be
distinguished by readers with red-green colour blindness (blue and vermilion) and are never the only sign: lines of
"before" and "no match" are also dashed. Text has a contrast of at least 4.5 to 1 in both colour schemes.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.resources import files
from typing import Any, Final

from sbert_ft.data.ledger import counted
from sbert_ft.report import blocks
from sbert_ft.report.blocks import Block, Cell
from sbert_ft.report.content import Report
from sbert_ft.report.formatting import HIDDEN, escape_of, shortened, visible
from sbert_ft.report.scores import verdict
from sbert_ft.report.sections import sections_of

# Read at import: at the end of a run, the installed package may have changed.
STYLE: Final = files("sbert_ft.report").joinpath("style.css").read_text(encoding="utf-8")
_CELL_LIMIT: Final = 2000  # characters of any text: no finding, path or setting needs more
TEXT_LIMIT = 240  # characters of a text that the table of worst pairs shows
_SIGNS = {"better": "▲", "worse": "▼", "unclear": "◆", "unknown": "◇"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def escaped(text: str, limit: int = _CELL_LIMIT) -> str:
    """Return a text as markup: special characters escaped, hidden characters shown in a style of their own."""
    return HIDDEN.sub(
        lambda found: f'<span class="control">{escape_of(found[0])}</span>', html.escape(shortened(text, limit))
    )


def _heading(block: blocks.Heading) -> str:
    return f"<h3>{escaped(block.text)}</h3>"


def _paragraph(block: blocks.Paragraph) -> str:
    attribute = ' class="note"' if block.is_note else ""
    return f"<p{attribute}>{escaped(block.text)}</p>"


def _items(block: blocks.Items) -> str:
    items = "".join(f'<li dir="auto">{escaped(text)}</li>' for text in block.texts)
    return f"<ul>{items}</ul>"


def _table(grid: blocks.Grid) -> str:
    parts = [f'<table class="{grid.style if grid.header else "facts"}">']
    if grid.caption:
        parts.append(f'<caption dir="auto">{escaped(grid.caption)}</caption>')
    if grid.header:
        names = "".join(f'<th scope="col">{escaped(name)}</th>' for name in grid.header)
        parts.append(f"<thead><tr>{names}</tr></thead>")
    parts.append("<tbody>")
    for first, *rest in grid.rows:
        cells = "".join(f'<td dir="auto">{_cell(cell)}</td>' for cell in rest)
        parts.append(f'<tr><th scope="row">{_cell(first)}</th>{cells}</tr>')
    table = "".join([*parts, "</tbody></table>"])
    return _scrolling(table, grid.caption) if grid.scrolls else table


def _cell(cell: Cell) -> str:
    if not cell.note:
        return escaped(cell.value)
    style = "small interval" if cell.note.startswith("[") else "small"
    return f'{escaped(cell.value)} <span class="{style}">{escaped(cell.note)}</span>'


def _figure(figure: blocks.Figure) -> str:
    caption = f"<figcaption><b>{escaped(figure.title)}.</b> {escaped(figure.caption)}</figcaption>"
    drawn = f"<figure>{figure.svg}{caption}</figure>"
    return _scrolling(drawn, figure.title, "scroll drawing") if figure.is_wide else drawn


def _charts(charts: blocks.Charts) -> str:
    said = "".join(_block(part) for part in charts.parts if isinstance(part, blocks.Paragraph))
    drawn = "".join(_block(part) for part in charts.parts if isinstance(part, blocks.Figure))
    style = "charts wide" if charts.is_wide else "charts"
    return said + (f'<div class="{style}">{drawn}</div>' if drawn else "")


def _beside(block: blocks.Beside) -> str:
    """Return two groups of blocks side by side; one chart fills its side by itself."""
    left, right = ("".join(map(_block, side)) for side in (block.left, block.right))
    if not isinstance(block.left[0], blocks.Figure):
        left = f"<div>{left}</div>"
        is_group = len(block.right) > 1 or not block.uneven
        right = f"<div>{right}</div>" if block.right and is_group else right
    return f'<div class="{"pair uneven" if block.uneven else "pair"}">{left}{right}</div>'


def _texts(block: blocks.Texts) -> str:
    """Return a table of texts; on a phone its rows become cards, so ARIA roles keep it a table for screen readers."""
    names, rows = block.names, block.rows
    styles = ["word"] * block.n_words + ["number"] * (len(names) - block.n_words)
    heads = ("Line", "Texts" if len(rows[0].texts) > 1 else "Text", *names)
    head = "".join(
        f'<th role="columnheader" scope="col" class="{style}">{name}</th>'
        for name, style in zip(heads, ("line", "texts", *styles), strict=True)
    )
    parts = [
        f'<table class="worst" role="table"><caption>{escaped(block.caption)}</caption>',
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead><tbody role="rowgroup">',
    ]
    for row in rows:
        shown = "".join(f'<span class="text" dir="auto">{escaped(text, TEXT_LIMIT)}</span>' for text in row.texts)
        cells = "".join(
            f'<td class="{style}" role="cell" dir="auto" data-label="{name}">{escaped(value, TEXT_LIMIT)}</td>'
            for name, style, value in zip(names, styles, row.values, strict=True)
        )
        named = f'<th scope="row" role="rowheader">{row.line}</th>'
        parts.append(f'<tr role="row">{named}<td class="texts" role="cell">{shown}</td>{cells}</tr>')
    return "".join([*parts, "</tbody></table>"])


def _folded(block: blocks.Folded) -> str:
    lines = "\n".join(escaped(line) for line in block.text.split("\n"))
    return f"<details><summary>{escaped(block.summary)}</summary><pre>{lines}</pre></details>"


def _scrolling(content: str, label: str, style: str = "scroll") -> str:
    """Return the content in a box that scrolls, also by keyboard, if it is wider than the page."""
    name = html.escape(visible(shortened(label, 200)))
    return f'<div class="{style}" role="region" aria-label="{name}" tabindex="0">{content}</div>'


_RENDERERS: Final[Mapping[type, Callable[[Any], str]]] = {
    blocks.Heading: _heading,
    blocks.Paragraph: _paragraph,
    blocks.Items: _items,
    blocks.Grid: _table,
    blocks.Figure: _figure,
    blocks.Charts: _charts,
    blocks.Beside: _beside,
    blocks.Texts: _texts,
    blocks.Folded: _folded,
}


def _block(block: Block) -> str:
    return _RENDERERS[type(block)](block)


def _section(section: blocks.Section) -> Iterator[str]:
    name = section.name
    yield f'<section id="{name}" aria-labelledby="{name}-heading"><h2 id="{name}-heading">{section.heading}</h2>'
    yield from map(_block, section.blocks)
    yield "</section>"


def html_report(report: Report) -> str:
    """Return the HTML page of a run."""
    return html_page(report.title, (_verdict(report), _warnings(report)), sections_of(report))


def html_page(title: str, head: Iterable[str], sections: Iterable[blocks.Section]) -> str:
    """Return an HTML page with a title, markup below it, and sections."""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f'<title>{html.escape(visible(shortened(title, 200)))}</title><link rel="icon" href="data:,">',
        f"<style>{STYLE}</style></head><body><main>",
        f'<h1 dir="auto">{escaped(title)}</h1>',
        *head,
        *(part for section in sections for part in _section(section)),
        "</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _verdict(report: Report) -> str:
    found = verdict(report)
    head = f'<p class="verdict {found.kind}"><span aria-hidden="true">{_SIGNS[found.kind]} </span>'
    return f"{head}<strong>{escaped(found.headline)}:</strong> {escaped(found.sentence)}</p>"


def _warnings(report: Report) -> str:
    warnings = tuple(report.metrics.get("warnings", ()))
    if not warnings:
        return '<p class="note">No warnings.</p>'
    head, items = f"<h2>{counted(len(warnings), 'warning')}</h2>", _items(blocks.Items(warnings))
    return f'<section class="warnings" id="warnings">{head}{items}</section>'
