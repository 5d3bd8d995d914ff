"""The report as one self-contained HTML page: no links, scripts, fonts or pictures from outside.

Texts from the data are escaped once, when they become markup; a content security policy in the page's head also
forbids scripts and external resources. Every chart is inline SVG. The same report gives the same bytes.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from sbert_ft.evaluation.results import Json, Mistake, WorstPair
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
    inner,
    interval_note,
    judged_splits,
    ledger_facts,
    ledger_findings,
    not_judged,
    score_grids,
    split_notes,
    verdict,
    worst_note,
)
from sbert_ft.report.figures import (
    Figure,
    class_f1_figure,
    class_split_figures,
    confusion_figure,
    interval_figure,
    is_wide,
    run_figures,
    split_figures,
)
from sbert_ft.report.formatting import (
    HIDDEN,
    capitalised,
    counted,
    decimals,
    escape_of,
    plain_number,
    shortened,
    visible,
)
from sbert_ft.report.style import STYLE
from sbert_ft.report.training import training_grid

_CELL_LIMIT: Final = 2000  # characters of any text: no finding, path or setting needs more

TEXT_LIMIT = 240  # characters of a text that the table of worst pairs shows
_SIGNS = {"better": "▲", "worse": "▼", "unclear": "◆", "unknown": "◇"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def escaped(text: str, limit: int = _CELL_LIMIT) -> str:
    """Return a text as markup: special characters escaped, hidden characters shown in a style of their own."""
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
    """Return a grid as an HTML table; a grid without a header is a list of facts."""
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
    """Return a chart with its title and caption."""
    caption = f"<figcaption><b>{escaped(shown.title)}.</b> {escaped(shown.caption)}</figcaption>"
    return f"<figure>{shown.svg}{caption}</figure>"


def figures(shown: Iterable[Figure], style: str = "charts") -> Iterator[str]:
    """Yield the charts side by side, after the sentences of figures without a chart."""
    found = list(shown)
    yield from (paragraph(each.caption, "note") for each in found if not each.svg)
    drawn = [figure(each) for each in found if each.svg]
    if drawn:
        yield f'<div class="{style}">{"".join(drawn)}</div>'


def scrolling(content: str, label: str, style: str = "scroll") -> str:
    """Return the content in a box that scrolls, also by keyboard, if it is wider than the page."""
    name = html.escape(visible(shortened(label, 200)))
    return f'<div class="{style}" role="region" aria-label="{name}" tabindex="0">{content}</div>'


def html_report(report: Report) -> str:
    """Return the HTML page."""
    sections = (
        _scores(report),
        *([_classes(report)] if report.is_classifier else []),
        _decision(report),
        _training(report),
        _curves(report),
        _probability_charts(report) if report.is_classifier else _score_charts(report),
        _ledgers(report),
        _mistakes(report) if report.is_classifier else _worst(report),
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


def _scores(report: Report) -> Iterator[str]:
    parts = []
    grids = list(score_grids(report))
    for i, (name, of) in enumerate(judged_splits(report).items()):
        drawn, grid = interval_figure(i, name, of), grids[i]
        chart = "" if drawn is None else figure(drawn)
        parts.append(f'<div class="pair uneven"><div>{table(grid, "numbers")}</div>{chart}</div>')
    if not parts:
        parts = [paragraph(f"{capitalised(not_judged(report))}, so nothing was measured.")]
    else:
        parts += [paragraph(note, "note") for note in (*split_notes(report), interval_note(report))]
    heading = "Scores and baselines" if report.is_classifier else "Scores before and after"
    return section("scores", heading, parts)


def _classes(report: Report) -> Iterator[str]:
    parts = []
    for i, name, of in judged_by_class(report):
        parts.append(f"<h3>{escaped(name)}: {counted(int(inner(of, 'n') or 0), report.row_word)}</h3>")
        if (grid := per_class_grid(report, name, of)) is not None:
            drawn = class_f1_figure(i, name, of)
            chart = "" if drawn is None else figure(drawn)
            parts.append(f'<div class="pair uneven"><div>{table(grid, "numbers")}</div>{chart}</div>')
        parts += _confusion(i, name, of)
        parts += [paragraph(note) for note in confusion_notes(report, name, of)]
    balance = balance_grid(report)
    if balance is not None:
        counts = table(replace(balance, caption=""), "numbers counts")
        parts += [f"<h3>{escaped(balance.caption)}</h3>", scrolling(counts, balance.caption)]
    return section("classes", "Class by class", [*parts, paragraph(balance_note(report), "note")])


def _confusion(number: int, name: str, of: Json) -> Iterator[str]:
    """Yield the confusion matrix of a split, as a chart and as a table."""
    drawn, grid = confusion_figure(number, name, of), confusion_grid(name, of)
    counts = "" if grid is None else scrolling(table(grid, "numbers counts"), grid.caption)
    if drawn is None:
        yield counts
    elif is_wide(of):
        yield scrolling(figure(drawn), drawn.title, "scroll drawing")
        yield counts
    else:
        yield f'<div class="pair">{figure(drawn)}{counts}</div>'


def _decision(report: Report) -> Iterator[str]:
    if report.decision is None and not report.is_classifier:
        return section("decision", "Decision", [paragraph(no_decision(report))])
    grids = [grid for grid in (probability_grid(report), reached_grid(report)) if grid is not None]
    done = f"<div>{''.join(table(grid, 'numbers') for grid in grids)}</div>" if grids else ""
    parts = [f'<div class="pair"><div>{table(decision_grid(report), "facts")}</div>{done}</div>']
    parts += [] if report.decision is None else [paragraph(decision_note(report), "note")]
    return section("decision", "Decision", parts)


def _training(report: Report) -> Iterator[str]:
    return section("training", "Training", [table(training_grid(report), "facts")])


def _curves(report: Report) -> Iterator[str]:
    return section("curves", "Curves", figures(run_figures(report)))


def _score_charts(report: Report) -> Iterator[str]:
    parts = []
    for i, split in enumerate(sorted(report.splits, key=lambda split: (split.name != "test", split.name))):
        parts.append(f"<h3>{escaped(split.name)}: {counted(len(split.after), report.row_word)}</h3>")
        parts += figures(split_figures(i, split, report.decision, report.score_word), "charts wide")
    if not parts:
        parts = [paragraph(f"No {report.row_word}s were scored, so there are no charts of scores.")]
    return section("charts", f"Scores, {report.row_word} by {report.row_word}", parts)


def _probability_charts(report: Report) -> Iterator[str]:
    parts = []
    for i, split in enumerate(sorted(report.classes, key=lambda split: (split.name != "test", split.name))):
        parts.append(f"<h3>{escaped(split.name)}: {counted(len(split.gold), report.row_word)}</h3>")
        parts += figures(class_split_figures(i, split, report))
    if not parts:
        parts = [paragraph(f"No {report.row_word}s were evaluated, so there are no charts of probabilities.")]
    return section("charts", f"Probabilities, {report.row_word} by {report.row_word}", parts)


def _ledgers(report: Report) -> Iterator[str]:
    parts = []
    for name, ledger in report.ledgers.items():
        parts.append(f"<h3>{escaped(name)}</h3>{table(ledger_facts(ledger), 'facts')}")
        grid = ledger_findings(ledger)
        parts.append(
            paragraph("Nothing unusual was found in its rows.") if grid is None else table(grid, "numbers found")
        )
        notes = "".join(f'<li dir="auto">{escaped(str(note))}</li>' for note in inner(ledger, "notes") or ())
        if notes:
            parts.append(f"<ul>{notes}</ul>")
    return section("ledger", "Data files", parts or [paragraph("No data file was recorded.")])


def _worst(report: Report) -> Iterator[str]:
    heading = f"Worst {report.row_word}s"
    if not report.worst:
        return section(
            "worst",
            heading,
            [paragraph(f"No {report.row_word}s were scored, so there are no worst {report.row_word}s.")],
        )
    parts = [paragraph(worst_note(report))]
    for name in dict.fromkeys(pair.split for pair in report.worst):
        pairs = [pair for pair in report.worst if pair.split == name]
        caption = f"{name}: {counted(len(pairs), report.row_word)}"
        parts.append(_worst_table(caption, pairs, 1 if report.row_word == "text" else 2))
    return section("worst", heading, parts)


def _worst_table(caption: str, pairs: list[WorstPair], n_texts: int) -> str:
    compared = any(pair.before is not None for pair in pairs)
    names = ("Gold", *(("Before",) if compared else ()), "After", "Error")
    rows = []
    for pair in pairs:
        values = [plain_number(pair.gold)]
        values += ["–" if pair.before is None else decimals(pair.before)] if compared else []
        values += [decimals(pair.after), decimals(pair.error, signed=True)]
        rows.append((pair.line, (pair.text1, pair.text2)[:n_texts], values))
    return _cards(caption, names, rows)


def _mistakes(report: Report) -> Iterator[str]:
    if not report.mistakes:
        return section("worst", "Most confident mistakes", [paragraph(no_mistakes(report))])
    parts = [paragraph(mistakes_note(report))]
    names = ("True class", "Predicted", "Probability", "Of the true class")
    for name in dict.fromkeys(mistake.split for mistake in report.mistakes):
        found = [mistake for mistake in report.mistakes if mistake.split == name]
        rows = [(mistake.line, mistake.texts, _mistake_values(mistake)) for mistake in found]
        parts.append(_cards(f"{name}: {counted(len(found), report.row_word)}", names, rows, n_words=2))
    return section("worst", "Most confident mistakes", parts)


def _mistake_values(mistake: Mistake) -> list[str]:
    return [mistake.gold, mistake.predicted, decimals(mistake.probability), decimals(mistake.gold_probability)]


def _cards(
    caption: str,
    names: Sequence[str],
    rows: Sequence[tuple[int, Sequence[str], Sequence[str]]],
    n_words: int = 0,
) -> str:
    """Return a table of texts; on a phone its rows become cards, so ARIA roles keep it a table for screen readers.

    Args:
        caption: What the table contains.
        names: Names of the columns after line and texts.
        rows: Line, texts and values.
        n_words: The first so many of these columns hold words, the others numbers.
    """
    styles = ["word"] * n_words + ["number"] * (len(names) - n_words)
    columns = zip(
        ("Line", "Texts" if rows and len(rows[0][1]) > 1 else "Text", *names), ("line", "texts", *styles), strict=True
    )
    head = "".join(f'<th role="columnheader" scope="col" class="{style}">{name}</th>' for name, style in columns)
    parts = [
        f'<table class="worst" role="table"><caption>{escaped(caption)}</caption>',
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead><tbody role="rowgroup">',
    ]
    for line, texts, values in rows:
        shown = "".join(f'<span class="text" dir="auto">{escaped(text, TEXT_LIMIT)}</span>' for text in texts)
        cells = "".join(
            f'<td class="{style}" role="cell" dir="auto" data-label="{name}">{escaped(value, TEXT_LIMIT)}</td>'
            for name, style, value in zip(names, styles, values, strict=True)
        )
        named = f'<th scope="row" role="rowheader">{line}</th>'
        parts.append(f'<tr role="row">{named}<td class="texts" role="cell">{shown}</td>{cells}</tr>')
    return "".join([*parts, "</tbody></table>"])


def _settings(report: Report) -> Iterator[str]:
    content = json.dumps(report.settings, indent=2, ensure_ascii=False, default=str)
    lines = "\n".join(escaped(line) for line in content.split("\n"))
    folded = f"<details><summary>The resolved configuration</summary><pre>{lines}</pre></details>"
    return section("settings", "Settings", [folded])
