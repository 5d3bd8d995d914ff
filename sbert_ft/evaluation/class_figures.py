"""Which charts the report of a classifier shows, each with a sentence below it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from sbert_ft.evaluation.chart_frame import WIDTH
from sbert_ft.evaluation.charts import IntervalRow, interval_chart
from sbert_ft.evaluation.class_charts import confusion_chart, confusion_width
from sbert_ft.evaluation.report_classes import MOST_IN_MATRIX, class_names, confusion_counts
from sbert_ft.evaluation.report_decision import quoted_name, reached, second_class_scores
from sbert_ft.evaluation.report_facts import inner
from sbert_ft.evaluation.report_figures import Figure, precision_caption, triple
from sbert_ft.evaluation.report_words import shortened
from sbert_ft.evaluation.results import ClassSplit, Json, Report
from sbert_ft.evaluation.score_charts import (
    ScoreWords,
    calibrated,
    histogram_charts,
    precision_recall_chart,
    reliability_chart,
)

_MOST_ROWS: Final = 20


def confusion_figure(number: int, name: str, of: Json) -> Figure | None:
    """Return the confusion matrix of a split as a picture; None where there is none, or of too many classes."""
    counts, names = confusion_counts(of), class_names(of)
    if counts is None or len(names) > MOST_IN_MATRIX:
        return None
    title = f"Confusion matrix on {name}"
    chart = confusion_chart(f"confusion-{number}", title, names, counts)
    caption = "Each row's colour is its share of the true class: a good model has its colour on the framed diagonal."
    return Figure(title, chart, caption)


def is_wide(of: Json) -> bool:
    """Return whether the picture of a split's confusion matrix needs the width of the page."""
    return confusion_width(len(class_names(of))) > WIDTH


def class_f1_figure(number: int, name: str, of: Json) -> Figure | None:
    """Return F1 of each class with its interval; None where no class has one, or there are too many."""
    entries = inner(of, "per_class") or ()
    found = [(str(entry["name"]), triple(entry["f1"])) for entry in entries]
    rows = [IntervalRow(label, None, value) for label, value in found if value is not None]
    if not rows or len(entries) > _MOST_ROWS:
        return None
    title = f"F1 of each class on {name}"
    chart = interval_chart(f"class-f1-{number}", title, rows, ("before", "this model"))
    return Figure(title, chart, "Dots are values, lines their intervals: the fewer rows a class has, the longer.")


def class_split_figures(number: int, split: ClassSplit, report: Report) -> Iterator[Figure]:
    """Yield the charts of a split's probabilities: do they hold, and of two classes, do they tell them apart.

    Args:
        number: Makes the ids of these charts their own.
        split: What the model says of the rows.
        report: For its decision and its words.
    """
    whole = np.isfinite(split.probabilities).all()
    if not len(split.gold) or not whole:
        yield Figure("Probabilities", "", f"There are no finite probabilities on {split.name}, so no chart of them.")
        return
    title = f"Probabilities on {split.name}"
    found = calibrated(split.probabilities.max(axis=1), split.predicted == split.gold)
    chart = reliability_chart(f"reliability-{number}", title, found, "share that is right", f"{report.row_word}s")
    fitted = inner(report.metrics, "calibration") is not None and split.name == "dev"
    caption = f"By the probability of the predicted class: of {report.row_word}s with 70 %, 70 % should be right."
    yield Figure(title, chart, caption + (" The temperature was fitted on them, which flatters it." if fitted else ""))
    if len(split.class_names) == 2:
        yield from _two_class_figures(number, split, report)


def _two_class_figures(number: int, split: ClassSplit, report: Report) -> Iterator[Figure]:
    decision, scores = report.decision, second_class_scores(split)
    labels = scores.gold > 0.5
    no, yes = split.class_names
    words = ScoreWords(
        f"probability of {shortened(yes, 24)}", shortened(no, 24), shortened(yes, 24), f"{report.row_word}s"
    )
    threshold = None if decision is None else decision.threshold
    title = f"Probability of {quoted_name(yes)} on {split.name}"
    chart = histogram_charts(f"histogram-{number}", {title: scores.after}, labels, threshold, words)[0]
    caption = "How the probabilities of each class are spread, in shares. The less the two overlap, the better."
    yield Figure(title, chart, caption)
    title = f"Precision and recall of {quoted_name(yes)} on {split.name}"
    if labels.all() or not labels.any():
        which = "Every" if labels.all() else "No"
        yield Figure(
            title,
            "",
            f"{which} {report.row_word} of {split.name} is labelled {quoted_name(yes)}, so precision against recall "
            "says nothing.",
        )
        return
    done = None if decision is None else reached(scores, decision)
    point = None if done is None or done.recall is None or done.precision is None else (done.recall, done.precision)
    chart = precision_recall_chart(f"precision-{number}", title, {"after": scores.after}, labels, point)
    yield Figure(title, chart, precision_caption(done))
