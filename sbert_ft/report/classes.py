"""Tables and sentences about each class of a classifier: scores, confusions and number of rows.

With few classes the tables show all of them, with many only the worst (metrics.json has all). Everything is read from
metrics.json, whose splits hold a confusion matrix: rows are true classes, columns predicted ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbert_ft.evaluation.results import Json
from sbert_ft.report.blocks import Cell, Grid
from sbert_ft.report.content import Report
from sbert_ft.report.facts import inner, judged_splits, score_cell
from sbert_ft.report.formatting import counted, decimals, percent, plain_number

MOST_IN_MATRIX: Final = 20
_MOST_LISTED: Final = 50
_N_CONFUSIONS: Final = 10


class Confusion(NamedTuple):
    """A class predicted as another: `n` rows, of the `of` rows of that class."""

    gold: str
    predicted: str
    n: int
    of: int


def class_names(of: Json) -> tuple[str, ...]:
    """Return the class names of a split, empty if it was not evaluated by classes."""
    return tuple(map(str, inner(of, "classes") or ()))


def confusion_counts(of: Json) -> NDArray[np.int64] | None:
    """Return the confusion matrix of a split, shape (K, K), a row for each true class; None if there is none."""
    n, rows = len(class_names(of)), inner(of, "confusion")
    if not n or rows is None:
        return None
    counts = np.array(rows, dtype=np.int64)
    assert counts.shape == (n, n)
    return counts


def confusions(of: Json, n_most: int = _N_CONFUSIONS) -> list[Confusion]:
    """Return the most frequent confusions of a split, most rows first; ties in the order of the classes."""
    counts, names = confusion_counts(of), class_names(of)
    if counts is None:
        return []
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:n_most]
    places = zip(*(side.tolist() for side in np.unravel_index(order, wrong.shape)), strict=True)
    totals = counts.sum(axis=1)
    return [Confusion(names[i], names[j], int(wrong[i, j]), int(totals[i])) for i, j in places if wrong[i, j]]


def per_class_grid(report: Report, name: str, of: Json) -> Grid | None:
    """Return precision, recall and F1 of each class; if there are many, only the classes with the lowest F1."""
    entries = list(inner(of, "per_class") or ())
    if not entries:
        return None
    caption = f"Each class on {name}"
    if len(entries) > _MOST_LISTED:
        caption = f"On {name}, the {_MOST_LISTED} of {len(entries):,} classes with the lowest F1"
        entries = sorted((entry for entry in entries if inner(entry, "n")), key=_f1_first)[:_MOST_LISTED]
    rows = []
    for entry in entries:
        n = counted(int(entry["n"]), report.row_word)
        called = Cell(str(entry["name"]), f"{n}, {plain_number(entry['n_predicted'])} predicted")
        shares = (Cell("–" if entry[key] is None else decimals(entry[key])) for key in ("precision", "recall"))
        rows.append((called, *shares, score_cell(entry["f1"])))
    return Grid(caption, ("Class", "Precision", "Recall", "F1"), tuple(rows))


def _f1_first(entry: Json) -> tuple[bool, float]:
    value = inner(entry, "f1", "value")
    return value is None, 0.0 if value is None else float(value)


def confusion_grid(name: str, of: Json) -> Grid | None:
    """Return the confusion matrix as a table, or for many classes the most frequent confusions; None without either."""
    counts, names = confusion_counts(of), class_names(of)
    if counts is None:
        return None
    if len(names) <= MOST_IN_MATRIX:
        rows = tuple(
            (Cell(gold), *(Cell(f"{n:,}") for n in row)) for gold, row in zip(names, counts.tolist(), strict=True)
        )
        return Grid(
            f"Confusion matrix on {name}: rows true, columns predicted",
            ("True class", *names),
            rows,
            "numbers counts",
            True,
        )
    found = confusions(of)
    if not found:
        return None
    header = ("True class", "Predicted as", "Rows", "Share of the class")
    rows = tuple((Cell(c.gold), Cell(c.predicted), Cell(f"{c.n:,}"), Cell(percent(c.n / c.of))) for c in found)
    return Grid(f"The most frequent confusions on {name}", header, rows, "numbers counts", scrolls=True)


def confusion_notes(report: Report, name: str, of: Json) -> Iterator[str]:
    """Yield the most frequent confusion, and why there may be no matrix."""
    counts, names = confusion_counts(of), class_names(of)
    if counts is None:
        return
    if len(names) > MOST_IN_MATRIX:
        yield f"A matrix of {len(names):,} classes would be unreadable here; metrics.json has it."
    found = confusions(of, 1)
    if not found:
        yield f"Every {report.row_word} of {name} is classified correctly."
    for worst in found:
        share = f"{worst.n:,} of {counted(worst.of, report.row_word)}, {percent(worst.n / worst.of)}"
        yield f"Most often on {name}, “{worst.gold}” is predicted as “{worst.predicted}”: {share}."


def balance_grid(report: Report) -> Grid | None:
    """Return the rows of each class in each file, None if not counted; if there are many, only the rarest classes."""
    by_split = {str(name): counts for name, counts in (inner(report.metrics, "classes") or {}).items() if counts}
    if not by_split:
        return None
    names = list(dict.fromkeys(str(name) for counts in by_split.values() for name in counts))
    first = next(iter(by_split.values()))
    caption = "Class balance"
    if len(names) > _MOST_LISTED:
        caption = f"Class balance: the {_MOST_LISTED} rarest of {len(names):,} classes in {next(iter(by_split))}"
        names = sorted(names, key=lambda name: int(first.get(name, 0)))[:_MOST_LISTED]
    rows = tuple((Cell(name), *(_share_cell(counts, name) for counts in by_split.values())) for name in names)
    return Grid(caption, ("Class", *by_split), rows, "numbers counts", scrolls=True)


def _share_cell(counts: Json, name: str) -> Cell:
    n, total = int(counts.get(name, 0)), sum(map(int, counts.values()))
    return Cell(f"{n:,}", percent(n / total) if total else "")


def balance_note(report: Report) -> str:
    """Return how uneven the classes are in the first file, the training file."""
    by_split = inner(report.metrics, "classes") or {}
    name = next((name for name, of in by_split.items() if of), None)
    counts = {str(key): int(n) for key, n in (by_split.get(name) or {}).items()}
    if not counts:
        return "The rows of each class were not counted."
    rarest, commonest = min(counts, key=lambda key: counts[key]), max(counts, key=lambda key: counts[key])
    all_of_them = "Both" if len(counts) == 2 else f"All {len(counts):,}"
    if counts[rarest] == counts[commonest]:
        return f"{all_of_them} classes have the same number of {report.row_word}s in {name}."
    if not counts[rarest]:
        n_absent = sum(n == 0 for n in counts.values())
        return f"{n_absent:,} of {len(counts):,} classes have no {report.row_word} in {name}."
    ratio = counts[commonest] / counts[rarest]
    if ratio < 1.05:
        return f"{all_of_them} classes have nearly the same number of {report.row_word}s in {name}."
    often = f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"
    return f"In {name}, “{commonest}” has {often} times as many {report.row_word}s as “{rarest}”."


def mistakes_note(report: Report) -> str:
    """Return a sentence that says which rows the list of mistakes has."""
    split = next(
        (split for split in report.classes if report.mistakes and split.name == report.mistakes[0].split), None
    )
    whole = "The file mistakes.csv has them with full texts."
    how = f"Shown are the mistakes with the highest predicted probability, highest first. {whole}"
    if split is None:
        return how
    n_wrong = int((split.predicted != split.gold).sum())
    rows = counted(len(split.gold), report.row_word)
    return f"{n_wrong:,} of {rows} of {split.name} are classified wrongly. {how}"


def no_mistakes(report: Report) -> str:
    """Return a sentence that says why there is no list of mistakes."""
    if not report.classes:
        return f"No {report.row_word}s were evaluated, so there are no mistakes to show."
    names = " and ".join(split.name for split in report.classes)
    return f"Every {report.row_word} of {names} is classified correctly."


def judged_by_class(report: Report) -> Iterator[tuple[int, str, Json]]:
    """Yield number, name and results of each split that was evaluated by classes, test first."""
    for i, (name, of) in enumerate(judged_splits(report).items()):
        if class_names(of):
            yield i, name, of
