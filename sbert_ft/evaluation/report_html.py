"""The report as one HTML page that needs nothing else: no link, no script, no font, no picture from outside.

Texts of the data are escaped here, once, when they become markup; a policy in the page's head forbids it to run or
load anything besides. Every chart is SVG in the page. The same report gives the same bytes.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator

from sbert_ft.evaluation.report_content import Report, WorstPair
from sbert_ft.evaluation.report_decision import decision_facts, no_decision, reached_grid
from sbert_ft.evaluation.report_facts import (
    Cell,
    Grid,
    inner,
    interval_note,
    judged_splits,
    ledger_facts,
    ledger_findings,
    score_grids,
    split_notes,
    training_grid,
    verdict,
)
from sbert_ft.evaluation.report_figures import Figure, interval_figure, run_figures, split_figures
from sbert_ft.evaluation.report_style import STYLE
from sbert_ft.evaluation.report_words import HIDDEN, counted, decimals, escape_of, plain_number, shortened, visible

TEXT_LIMIT = 240
"""Characters of a text that the table of worst pairs shows."""
_CELL_LIMIT = 2000  # of any other text from outside: no finding, path or setting needs more
_SIGNS = {"better": "▲", "worse": "▼", "unclear": "◆", "unknown": "◇"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def html_report(report: Report) -> str:
    """Return the page."""
    sections = (
        _scores(report),
        _decision(report),
        _training(report),
        _curves(report),
        _score_charts(report),
        _ledgers(report),
        _worst(report),
        _settings(report),
    )
    title = escaped(report.title)
    plain_title = html.escape(visible(shortened(report.title, 200)))
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f'<title>{plain_title}</title><link rel="icon" href="data:,">',
            f"<style>{STYLE}</style></head><body><main>",
            f'<h1 dir="auto">{title}</h1>',
            _verdict(report),
            _warnings(report),
            *(part for section in sections for part in section),
            "</main></body></html>",
            "",
        ]
    )


def escaped(text: str, limit: int = _CELL_LIMIT) -> str:
    """Return a text as markup: what is special escaped, what cannot be seen shown and set apart."""
    shown, at = [], 0
    text = shortened(text, limit)
    for found in HIDDEN.finditer(text):
        shown.append(html.escape(text[at : found.start()]))
        shown.append(f'<span class="control">{html.escape(escape_of(found[0]))}</span>')
        at = found.end()
    return "".join([*shown, html.escape(text[at:])])


def _verdict(report: Report) -> str:
    found = verdict(report)
    head = f'<p class="verdict {found.kind}"><span aria-hidden="true">{_SIGNS[found.kind]} </span>'
    return f"{head}<strong>{escaped(found.headline)}:</strong> {escaped(found.sentence)}</p>"


def _warnings(report: Report) -> str:
    warnings = [str(warning) for warning in inner(report.metrics, "warnings") or ()]
    if not warnings:
        return '<p class="note">No warnings.</p>'
    listed = "".join(f'<li dir="auto">{escaped(warning)}</li>' for warning in warnings)
    heading = "1 warning" if len(warnings) == 1 else f"{len(warnings):,} warnings"
    return f'<section class="warnings" id="warnings"><h2>{heading}</h2><ul>{listed}</ul></section>'


def _section(name: str, heading: str, parts: Iterable[str]) -> Iterator[str]:
    yield f'<section id="{name}" aria-labelledby="{name}-heading"><h2 id="{name}-heading">{heading}</h2>'
    yield from parts
    yield "</section>"


def _paragraph(sentence: str, style: str = "") -> str:
    attribute = f' class="{style}"' if style else ""
    return f"<p{attribute}>{escaped(sentence)}</p>"


def _table(grid: Grid, style: str) -> str:
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


def _figure(figure: Figure) -> str:
    caption = f"<figcaption><b>{escaped(figure.title)}.</b> {escaped(figure.caption)}</figcaption>"
    return f"<figure>{figure.svg}{caption}</figure>"


def _figures(figures: Iterable[Figure], style: str = "charts") -> Iterator[str]:
    """Yield the charts side by side, after the sentences of those that there are none of."""
    found = list(figures)
    yield from (_paragraph(figure.caption, "note") for figure in found if not figure.svg)
    drawn = [_figure(figure) for figure in found if figure.svg]
    if drawn:
        yield f'<div class="{style}">{"".join(drawn)}</div>'


def _scores(report: Report) -> Iterator[str]:
    parts = []
    grids = list(score_grids(report))
    for i, (name, of) in enumerate(judged_splits(report).items()):
        figure, grid = interval_figure(i, name, of), grids[i]
        chart = "" if figure is None else _figure(figure)
        parts.append(f'<div class="pair uneven"><div>{_table(grid, "numbers")}</div>{chart}</div>')
    if not parts:
        parts = [_paragraph("There were neither dev nor test pairs with scores or labels, so nothing was measured.")]
    else:
        parts += [_paragraph(note, "note") for note in (*split_notes(report), interval_note(report))]
    return _section("scores", "Scores before and after", parts)


def _decision(report: Report) -> Iterator[str]:
    if report.decision is None:
        return _section("decision", "Decision", [_paragraph(no_decision(report))])
    grid = reached_grid(report)
    done = "" if grid is None else f"<div>{_table(grid, 'numbers')}</div>"
    parts = [f'<div class="pair"><div>{_table(decision_facts(report.decision), "facts")}</div>{done}</div>']
    said = "A pair whose cosine reaches the threshold is said to match. It was chosen on dev, so dev flatters it."
    return _section("decision", "Decision", [*parts, _paragraph(said, "note")])


def _training(report: Report) -> Iterator[str]:
    return _section("training", "Training", [_table(training_grid(report), "facts")])


def _curves(report: Report) -> Iterator[str]:
    return _section("curves", "Curves", _figures(run_figures(report)))


def _score_charts(report: Report) -> Iterator[str]:
    parts = []
    for i, split in enumerate(sorted(report.splits, key=lambda split: (split.name != "test", split.name))):
        parts.append(f"<h3>{escaped(split.name)}: {counted(len(split.after), 'pair')}</h3>")
        parts += _figures(split_figures(i, split, report.decision), "charts wide")
    if not parts:
        parts = [_paragraph("No pairs were scored, so there are no charts of scores.")]
    return _section("charts", "Scores, pair by pair", parts)


def _ledgers(report: Report) -> Iterator[str]:
    parts = []
    for name, ledger in report.ledgers.items():
        parts.append(f"<h3>{escaped(name)}</h3>{_table(ledger_facts(ledger), 'facts')}")
        grid = ledger_findings(ledger)
        parts.append(
            _paragraph("Nothing odd was found in its rows.") if grid is None else _table(grid, "numbers found")
        )
        notes = "".join(f'<li dir="auto">{escaped(str(note))}</li>' for note in inner(ledger, "notes") or ())
        if notes:
            parts.append(f"<ul>{notes}</ul>")
    return _section("ledger", "Every row of the data", parts or [_paragraph("No data file is on record.")])


def _worst(report: Report) -> Iterator[str]:
    if not report.worst:
        return _section("worst", "Worst pairs", [_paragraph("No pairs were scored, so none is the worst.")])
    parts = [_paragraph(worst_note(report))]
    for name in dict.fromkeys(pair.split for pair in report.worst):
        pairs = [pair for pair in report.worst if pair.split == name]
        parts.append(_worst_table(f"{name}: {counted(len(pairs), 'pair')}", pairs))
    return _section("worst", "Worst pairs", parts)


def worst_note(report: Report) -> str:
    """Return what the error of a pair is."""
    graded = any(split.scale is not None for split in report.splits)
    whole = "The file worst_pairs.csv holds them with whole texts."
    if graded:
        how = "Error: the share of pairs that score lower than this one, minus the share with a lower gold score."
    else:
        how = "Error: for a match, minus the share of non-matches that score higher; for a non-match, of matches lower."
    return f"{how} Above zero the model finds the texts too alike. {whole}"


def _worst_table(caption: str, pairs: list[WorstPair]) -> str:
    """Return the table; on a phone its rows are laid out as cards, so the roles of a table are said aloud."""
    compared = any(pair.before is not None for pair in pairs)
    names = ("Line", "Texts", "Gold", *(("Before",) if compared else ()), "After", "Error")
    styles = ("", "", *(' class="number"',) * (len(names) - 2))
    columns = zip(names, styles, strict=True)
    head = "".join(f'<th role="columnheader" scope="col"{style}>{name}</th>' for name, style in columns)
    parts = [
        f'<table class="worst" role="table"><caption>{escaped(caption)}</caption>',
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead><tbody role="rowgroup">',
    ]
    for pair in pairs:
        texts = "".join(
            f'<span class="text" dir="auto">{escaped(text, TEXT_LIMIT)}</span>' for text in (pair.text1, pair.text2)
        )
        values = [("Gold", plain_number(pair.gold))]
        values += [("Before", "–" if pair.before is None else decimals(pair.before))] if compared else []
        values += [("After", decimals(pair.after)), ("Error", decimals(pair.error, signed=True))]
        cells = "".join(f'<td class="number" role="cell" data-label="{name}">{said}</td>' for name, said in values)
        line = f'<th scope="row" role="rowheader">{pair.line}</th>'
        parts.append(f'<tr role="row">{line}<td class="texts" role="cell">{texts}</td>{cells}</tr>')
    return "".join([*parts, "</tbody></table>"])


def _settings(report: Report) -> Iterator[str]:
    content = json.dumps(report.settings, indent=2, ensure_ascii=False, default=str)
    lines = "\n".join(escaped(line) for line in content.split("\n"))
    folded = f"<details><summary>The resolved configuration</summary><pre>{lines}</pre></details>"
    return _section("settings", "Settings", [folded])
