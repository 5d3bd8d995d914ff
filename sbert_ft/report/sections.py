"""The sections of a report, in order: what is added here is on the page and in the Markdown text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from sbert_ft.config.metrics import metric_label
from sbert_ft.evaluation.results import ClassSplit, Json, SplitScores
from sbert_ft.report.blocks import (
    Beside,
    Block,
    Cell,
    Charts,
    Folded,
    Grid,
    Heading,
    Items,
    Paragraph,
    Section,
    Texts,
)
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
    evaluations,
    inner,
    interval_note,
    judged_splits,
    ledger_facts,
    ledger_findings,
    not_judged,
    score_grids,
    split_notes,
    worst_note,
)
from sbert_ft.report.figures import (
    class_f1_figure,
    class_split_figures,
    confusion_figure,
    interval_figure,
    run_figures,
    split_figures,
)
from sbert_ft.report.formatting import capitalised, counted, decimals, plain_number
from sbert_ft.report.training import training_grid

_N_EVALUATIONS: Final = 20


def sections_of(report: Report) -> Iterator[Section]:
    """Yield the sections of a report that it has something for."""
    for make in _SECTIONS:
        section = make(report)
        if section is not None:
            yield section


def _scores(report: Report) -> Section:
    blocks: list[Block] = []
    for i, ((name, of), grid) in enumerate(zip(judged_splits(report).items(), score_grids(report), strict=True)):
        drawn = interval_figure(i, name, of)
        blocks.append(Beside((grid,), () if drawn is None else (drawn,), uneven=True))
    if blocks:
        blocks += [Paragraph(note, is_note=True) for note in (*split_notes(report), interval_note(report))]
    else:
        blocks.append(Paragraph(f"{capitalised(not_judged(report))}, so nothing was measured."))
    heading = "Scores and baselines" if report.is_classifier else "Scores before and after"
    return Section("scores", heading, tuple(blocks))


def _classes(report: Report) -> Section | None:
    if not report.is_classifier:
        return None
    blocks: list[Block] = []
    for i, name, of in judged_by_class(report):
        blocks.append(Heading(f"{name}: {counted(int(inner(of, 'n') or 0), report.row_word)}"))
        if (grid := per_class_grid(report, name, of)) is not None:
            drawn = class_f1_figure(i, name, of)
            blocks.append(Beside((grid,), () if drawn is None else (drawn,), uneven=True))
        blocks += _confusion(i, name, of)
        blocks += [Paragraph(note) for note in confusion_notes(report, name, of)]
    balance = balance_grid(report)
    if balance is not None:
        blocks.append(balance)
    return Section("classes", "Class by class", (*blocks, Paragraph(balance_note(report), is_note=True)))


def _confusion(number: int, name: str, of: Json) -> Iterator[Block]:
    """Yield the confusion matrix of a split, as a chart and as a table."""
    drawn, grid = confusion_figure(number, name, of), confusion_grid(name, of)
    counts = () if grid is None else (grid,)
    if drawn is None or drawn.is_wide:
        yield from (*(() if drawn is None else (drawn,)), *counts)
    else:
        yield Beside((drawn,), counts)


def _decision(report: Report) -> Section:
    if report.decision is None and not report.is_classifier:
        return Section("decision", "Decision", (Paragraph(no_decision(report)),))
    grids = tuple(grid for grid in (probability_grid(report), reached_grid(report)) if grid is not None)
    note = () if report.decision is None else (Paragraph(decision_note(report), is_note=True),)
    return Section("decision", "Decision", (Beside((decision_grid(report),), grids), *note))


def _training(report: Report) -> Section:
    return Section("training", "Training", (training_grid(report),))


def _curves(report: Report) -> Section:
    return Section("curves", "Curves", (Charts(tuple(run_figures(report)), table=_evaluations_grid(report)),))


def _evaluations_grid(report: Report) -> Grid | None:
    """Return the evaluations on dev: at most twenty, evenly spaced, and the best one; None without any."""
    lines = evaluations(report)
    names = list(dict.fromkeys(name for line in lines for name in line.get("metrics") or {}))
    if not names:
        return None
    best = inner(report.metrics, "best", "step")
    spaced = set(np.linspace(0, len(lines) - 1, min(_N_EVALUATIONS, len(lines))).astype(int).tolist())
    rows = []
    for line in (line for i, line in enumerate(lines) if i in spaced or line["step"] == best):
        values = [inner(line, "metrics", name) for name in names]
        cells = [Cell("–" if value is None else decimals(float(value))) for value in values]
        rows.append((Cell(f"{line['step']:,}", "best" if line["step"] == best else ""), *cells))
    return Grid("On dev during training", ("Step", *map(metric_label, names)), tuple(rows))


def _charts(report: Report) -> Section:
    """Return the section with the charts of scores, or of a classifier's probabilities."""
    word, blocks = report.row_word, list[Block]()
    what = "Probabilities" if report.is_classifier else "Scores"
    for i, split in enumerate(sorted(report.splits, key=_test_first)):
        blocks.append(Heading(f"{split.name}: {counted(len(split.after), word)}"))
        blocks.append(Charts(tuple(split_figures(i, split, report.decision, report.score_word)), is_wide=True))
    for i, by_class in enumerate(sorted(report.classes, key=_test_first)):
        blocks.append(Heading(f"{by_class.name}: {counted(len(by_class.gold), word)}"))
        blocks.append(Charts(tuple(class_split_figures(i, by_class, report))))
    if not blocks:
        why = "evaluated" if report.is_classifier else "scored"
        blocks.append(Paragraph(f"No {word}s were {why}, so there are no charts of {what.lower()}."))
    return Section("charts", f"{what}, {word} by {word}", tuple(blocks))


def _test_first(split: SplitScores | ClassSplit) -> tuple[bool, str]:
    return split.name != "test", split.name


def _ledgers(report: Report) -> Section:
    blocks: list[Block] = []
    for name, ledger in report.ledgers.items():
        blocks += [Heading(name), ledger_facts(ledger)]
        grid = ledger_findings(ledger)
        blocks.append(Paragraph("Nothing unusual was found in its rows.") if grid is None else grid)
        if notes := tuple(map(str, inner(ledger, "notes") or ())):
            blocks.append(Items(notes))
    return Section("ledger", "Data files", tuple(blocks) or (Paragraph("No data file was recorded."),))


def _worst(report: Report) -> Section:
    """Return the section with the worst pairs, or with a classifier's most confident mistakes."""
    word = report.row_word
    if report.is_classifier:
        heading, note = "Most confident mistakes", mistakes_note if report.mistakes else no_mistakes
        names, n_words = ("True class", "Predicted", "Probability", "Of the true class"), 2
        rows = []
        for found in report.mistakes:
            shares = decimals(found.probability), decimals(found.gold_probability)
            rows.append((found.split, found.line, found.texts, (found.gold, found.predicted, *shares)))
        return Section("worst", heading, (Paragraph(note(report)), *_by_split(report, names, n_words, rows)))
    heading = f"Worst {word}s"
    if not report.worst:
        return Section("worst", heading, (Paragraph(f"No {word}s were scored, so there are no worst {word}s."),))
    compared = any(pair.before is not None for pair in report.worst)
    names = ("Gold", *(("Before",) if compared else ()), "After", "Error")
    rows = []
    for pair in report.worst:
        before = ("–" if pair.before is None else decimals(pair.before),) if compared else ()
        values = (plain_number(pair.gold), *before, decimals(pair.after), decimals(pair.error, signed=True))
        rows.append((pair.split, pair.line, (pair.text1, pair.text2)[: 1 if word == "text" else 2], values))
    return Section("worst", heading, (Paragraph(worst_note(report)), *_by_split(report, names, 0, rows)))


def _by_split(
    report: Report,
    names: tuple[str, ...],
    n_words: int,
    rows: Sequence[tuple[str, int, tuple[str, ...], tuple[str, ...]]],
) -> Iterator[Texts]:
    """Yield a table of texts for each split."""
    for name in dict.fromkeys(row[0] for row in rows):
        own = [row for row in rows if row[0] == name]
        yield Texts(f"{name}: {counted(len(own), report.row_word)}", names, n_words, own)


def _settings(report: Report) -> Section:
    content = json.dumps(report.settings, indent=2, ensure_ascii=False, default=str)
    return Section("settings", "Settings", (Folded("The resolved configuration", content),))


_SECTIONS: Final[tuple[Callable[[Report], Section | None], ...]] = (
    *(_scores, _classes, _decision, _training, _curves, _charts, _ledgers, _worst, _settings),
)
