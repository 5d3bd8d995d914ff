"""The section about each class of a classifier: scores, confusions and number of rows.

With few classes the tables show all of them, with many only the worst (metrics.json has all).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from sbert_ft.data.ledger import counted
from sbert_ft.evaluation.metrics import Score
from sbert_ft.report.blocks import Beside, Block, Cell, Figure, Grid, Heading, Paragraph, Section
from sbert_ft.report.charts import MOST_NARROW, IntervalRow, confusion_chart, interval_chart
from sbert_ft.report.content import Report, SplitResult
from sbert_ft.report.formatting import decimals, percent
from sbert_ft.report.scores import score_cell

_MOST_IN_MATRIX: Final = 20
_MOST_IN_CHART: Final = 20
_MOST_LISTED: Final = 50
_N_CONFUSIONS: Final = 10


class Confusion(NamedTuple):
    """A class predicted as another: `n` rows, of the `of` rows of that class."""

    gold: str
    predicted: str
    n: int
    of: int


def classes_section(report: Report) -> Section:
    """Return the section about each class of a classifier."""
    blocks: list[Block] = []
    for i, of in enumerate(report.results):
        if of.classes:
            blocks += [Heading(f"{of.name}: {counted(of.n, report.row_word)}"), *_split_blocks(i, report, of)]
    if (balance := balance_grid(report)) is not None:
        blocks.append(balance)
    return Section("classes", "Class by class", [*blocks, Paragraph(balance_note(report), is_note=True)])


def _split_blocks(number: int, report: Report, of: SplitResult) -> Iterator[Block]:
    """Yield what there is about the classes of a split; `number` makes the ids of its charts unique."""
    if of.per_class:
        yield Beside((_per_class_grid(report, of),), tuple(_f1_figure(number, of)), uneven=True)
    if not of.confusion.size:
        return
    if len(of.classes) <= _MOST_IN_MATRIX:
        figure, grid = _confusion_figure(number, of), _confusion_matrix(of)
        yield from (figure, grid) if figure.is_wide else (Beside((figure,), (grid,)),)
    elif found := confusions(of):
        header = ("True class", "Predicted as", "Rows", "Share of the class")
        rows = [(Cell(c.gold), Cell(c.predicted), Cell(f"{c.n:,}"), Cell(percent(c.n / c.of))) for c in found]
        yield Grid(f"The most frequent confusions on {of.name}", header, rows, "numbers counts", scrolls=True)
    yield from map(Paragraph, _confusion_notes(report, of))


def confusions(of: SplitResult, n_most: int = _N_CONFUSIONS) -> list[Confusion]:
    """Return the most frequent confusions of a split, most rows first; ties in the order of the classes."""
    wrong = of.confusion - np.diag(np.diag(of.confusion))
    order = np.argsort(-wrong, axis=None, kind="stable")[:n_most].tolist()
    places = [divmod(place, len(of.classes)) for place in order]
    totals = of.confusion.sum(axis=1)
    return [Confusion(of.classes[i], of.classes[j], int(wrong[i, j]), int(totals[i])) for i, j in places if wrong[i, j]]


def _per_class_grid(report: Report, of: SplitResult) -> Grid:
    """Return precision, recall and F1 of each class; if there are many, only the classes with the lowest F1."""
    entries, caption = of.per_class, f"Each class on {of.name}"
    if len(entries) > _MOST_LISTED:
        caption = f"On {of.name}, the {_MOST_LISTED} of {len(entries):,} classes with the lowest F1"
        ranked = sorted((entry for entry in entries if entry["n"]), key=lambda entry: entry["f1"]["value"])
        entries = ranked[:_MOST_LISTED]
    rows = []
    for entry in entries:
        n = counted(entry["n"], report.row_word)
        called = Cell(entry["name"], f"{n}, {entry['n_predicted']:,} predicted")
        shares = (Cell(decimals(entry[key])) for key in ("precision", "recall"))
        rows.append((called, *shares, score_cell(Score(**entry["f1"]))))
    return Grid(caption, ("Class", "Precision", "Recall", "F1"), rows)


def _f1_figure(number: int, of: SplitResult) -> Iterator[Figure]:
    """Yield a chart of the F1 of each class with its interval, unless no class has one or there are too many."""
    rows = [IntervalRow(entry["name"], Score(None), Score(**entry["f1"])) for entry in of.per_class]
    rows = [row for row in rows if row.after.value is not None]
    if rows and len(of.per_class) <= _MOST_IN_CHART:
        title = f"F1 of each class on {of.name}"
        chart = interval_chart(f"class-f1-{number}", title, rows, ("before", "this model"))
        caption = "Dots are values, lines their intervals: the fewer rows a class has, the longer the line."
        yield Figure(title, chart, caption)


def _confusion_figure(number: int, of: SplitResult) -> Figure:
    title = f"Confusion matrix on {of.name}"
    chart = confusion_chart(f"confusion-{number}", title, of.classes, of.confusion)
    good = "with a good model the framed diagonal has the strongest colour"
    caption = f"The colour is the share of the true class: {good}."
    return Figure(title, chart, caption, is_wide=len(of.classes) > MOST_NARROW)


def _confusion_matrix(of: SplitResult) -> Grid:
    caption = f"Confusion matrix on {of.name}: rows true, columns predicted"
    counts = of.confusion.tolist()
    rows = [(Cell(gold), *(Cell(f"{n:,}") for n in row)) for gold, row in zip(of.classes, counts, strict=True)]
    return Grid(caption, ("True class", *of.classes), rows, "numbers counts", scrolls=True)


def _confusion_notes(report: Report, of: SplitResult) -> Iterator[str]:
    """Yield the most frequent confusion, and why there may be no matrix."""
    if len(of.classes) > _MOST_IN_MATRIX:
        yield f"A matrix of {len(of.classes):,} classes would be unreadable here; metrics.json has it."
    found = confusions(of, 1)
    if not found:
        yield f"Every {report.row_word} of {of.name} is classified correctly."
    for worst in found:
        share = f"{worst.n:,} of {counted(worst.of, report.row_word)}, {percent(worst.n / worst.of)}"
        yield f"Most often on {of.name}, “{worst.gold}” is predicted as “{worst.predicted}”: {share}."


def balance_grid(report: Report) -> Grid | None:
    """Return the rows of each class in each file, None if not counted; if there are many, only the rarest classes."""
    by_split = {name: counts for name, counts in report.metrics["classes"].items() if counts}
    if not by_split:
        return None
    names = list(dict.fromkeys(name for counts in by_split.values() for name in counts))
    (first_name, first), *_ = by_split.items()
    caption = "Class balance"
    if len(names) > _MOST_LISTED:
        caption = f"Class balance: the {_MOST_LISTED} rarest of {len(names):,} classes in {first_name}"
        names = sorted(names, key=lambda name: first.get(name, 0))[:_MOST_LISTED]
    rows = []
    for name in names:
        counts = [(of.get(name, 0), sum(of.values())) for of in by_split.values()]
        rows.append((Cell(name), *(Cell(f"{n:,}", percent(n / total) if total else "") for n, total in counts)))
    return Grid(caption, ("Class", *by_split), rows, "numbers counts", scrolls=True)


def balance_note(report: Report) -> str:
    """Return how uneven the classes are in the first file, the training file."""
    name, counts = next(((name, of) for name, of in report.metrics["classes"].items() if of), ("", {}))
    if not counts:
        return "The rows of each class were not counted."
    rows, all_of_them = report.row_word, "Both" if len(counts) == 2 else f"All {len(counts):,}"
    rarest, commonest = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[rarest] == counts[commonest]:
        return f"{all_of_them} classes have the same number of {rows}s in {name}."
    if not counts[rarest]:
        n_absent = sum(n == 0 for n in counts.values())
        return f"{n_absent:,} of {len(counts):,} classes have no {rows} in {name}."
    ratio = counts[commonest] / counts[rarest]
    if ratio < 1.05:
        return f"{all_of_them} classes have nearly the same number of {rows}s in {name}."
    often = f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"
    return f"In {name}, “{commonest}” has {often} times as many {rows}s as “{rarest}”."
