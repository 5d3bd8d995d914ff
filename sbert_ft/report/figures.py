"""The charts of a report, each with a sentence below it; only the sentence if there is nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.metrics import metric_label
from sbert_ft.evaluation.results import ClassSplit, Json, SplitScores
from sbert_ft.model_folder.decision import Decision
from sbert_ft.report.blocks import Figure
from sbert_ft.report.charts import (
    IntervalRow,
    ScoreWords,
    calibrated,
    confusion_chart,
    confusion_width,
    histogram_charts,
    interval_chart,
    learning_rate_chart,
    loss_chart,
    metric_chart,
    precision_recall_chart,
    reliability_chart,
    scatter_charts,
)
from sbert_ft.report.classes import MOST_IN_MATRIX, class_names, confusion_counts
from sbert_ft.report.content import Report
from sbert_ft.report.decision_facts import Reached, quoted_name, reached, second_class_scores
from sbert_ft.report.facts import evaluations, inner, judged_splits, main_metric, train_lines
from sbert_ft.report.formatting import counted, decimals, inside_sentence, shortened
from sbert_ft.report.svg import WIDTH, fitting

_MOST_ROWS: Final = 20


def interval_figure(number: int, name: str, of: Json) -> Figure | None:
    """Return a chart of a split's measures with intervals, None if none has a value; `number` makes its ids unique."""
    rows = []
    for metric, score in (inner(of, "after") or {}).items():
        after, before = triple(score), triple(inner(of, "before", metric))
        if after is not None:
            rows.append(IntervalRow(metric_label(metric), before, after))
    if not rows:
        return None
    # A new classifier has no scores before training: a baseline takes their place.
    names = ("before", "after") if "before_is" not in of else (_predictor(of), "this model")
    chart = interval_chart(f"intervals-{number}", f"Measures on {name}", rows, names)
    return Figure(f"The measures on {name}", chart, "Dots are values, lines their intervals.")


def _predictor(of: Json) -> str:
    """Return the legend's name for the predictor that the model is compared with."""
    return fitting(str(inner(of, "before_is") or "before"), 0.8 * WIDTH)


def triple(score: object) -> tuple[float, float | None, float | None] | None:
    """Return value, low and high of a metric, None if it has no finite value."""
    value, low, high = (inner(score, key) for key in ("value", "low", "high"))
    return None if value is None or not math.isfinite(value) else (float(value), low, high)


def run_figures(report: Report) -> Iterator[Figure]:
    """Yield the curves of the run: loss, learning rate, and the metric on dev."""
    for key, title, draw in (
        ("loss", "Loss", loss_chart),
        ("learning_rate", "Learning rate", learning_rate_chart),
    ):
        steps, values = _logged(report, key)
        if not len(steps):
            yield Figure(title, "", f"The run logged no {title.lower()}, so there is no curve.")
        else:
            caption = f"{counted(len(steps), 'line')} of the log, the last at step {steps[-1]:,.0f}."
            yield Figure(title, draw(key.replace("_", "-"), steps, values), caption)
    yield _metric_figure(report)


def _logged(report: Report, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the steps and finite values of a key in the log. Shape: (n,) each."""
    found = [(float(line["step"]), float(line[key])) for line in train_lines(report) if line.get(key) is not None]
    points = np.array([point for point in found if math.isfinite(point[1])], dtype=np.float64).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def _metric_figure(report: Report) -> Figure:
    lines = evaluations(report)
    counts: dict[str, int] = {}
    for line in lines:
        for metric, value in (line.get("metrics") or {}).items():
            counts[metric] = counts.get(metric, 0) + (value is not None)
    dev = judged_splits(report).get("dev", {})
    chosen = inner(report.metrics, "best", "metric") or main_metric(report, dev)
    name = chosen if counts.get(chosen or "") else next((metric for metric, n in counts.items() if n), None)
    if name is None:
        return Figure("Metric on dev", "", "There was no evaluation during training, so there is no curve of a metric.")
    values = [(float(line["step"]), inner(line, "metrics", name)) for line in lines]
    points = [(step, float(value)) for step, value in values if value is not None and math.isfinite(value)]
    best = inner(report.metrics, "best", "step")
    if best is None:
        best = next((line["step"] for line in reversed(lines) if line.get("best")), None)
    before = triple(inner(dev, "before", name))
    label = metric_label(name)
    chart = metric_chart("metric", label, points, best, None if before is None else before[0], _predictor(dev))
    kept = "" if best is None else f" The model of step {best:,} was kept."
    return Figure(f"{label} on dev", chart, f"{counted(len(points), 'evaluation')} during training.{kept}")


def split_figures(number: int, split: SplitScores, decision: Decision | None, word: str = "cosine") -> Iterator[Figure]:
    """Yield the charts of a split's scores: by label or against gold, precision and recall, reliability.

    Args:
        number: Makes the ids of these charts unique.
        split: The scores.
        decision: Threshold and calibration; None if there are none.
        word: What the scores are, such as cosine.
    """
    whole = np.isfinite(split.after) if split.before is None else np.isfinite(split.after) & np.isfinite(split.before)
    if not whole.any():
        yield Figure("Scores", "", f"There are no scores of pairs in {split.name}, so there is nothing to draw.")
        return
    if not whole.all():
        caption = (
            f"{counted(int((~whole).sum()), 'pair')} of {split.name} without a finite score left out of the charts."
        )
        yield Figure("Left out", "", caption)
        split = _rows(split, whole)
    yield from _score_figures(number, split, decision, word)
    yield from _decision_figures(number, split, decision)


def _rows(split: SplitScores, kept: NDArray[np.bool_]) -> SplitScores:
    return replace(
        split,
        before=None if split.before is None else split.before[kept],
        after=split.after[kept],
        gold=split.gold[kept],
        matches=None if split.matches is None else split.matches[kept],
    )


def _score_figures(number: int, split: SplitScores, decision: Decision | None, word: str) -> Iterator[Figure]:
    scores = {} if split.before is None else {"Before": split.before}
    scores["After"] = split.after
    labels = split.labels
    if split.scale is not None:
        what = "Each dot is a pair" if len(split.after) <= 2000 else "The stronger a cell's colour, the more pairs"
        caption = (
            f"{what}: {word} against gold. With a good model the scores rise from left to right with little spread."
        )
        charts = scatter_charts(f"scatter-{number}", scores, split.gold, split.scale, word)
    elif labels is None:
        yield Figure(
            "Scores", "", f"The pairs of {split.name} have no labels, so their scores cannot be shown by label."
        )
        return
    else:
        caption = "The distribution of the scores of each label, in shares. The less the two overlap, the better."
        threshold = None if decision is None else decision.threshold
        charts = histogram_charts(f"histogram-{number}", scores, labels, threshold, ScoreWords(word))
    for title, chart in zip(scores, charts, strict=True):
        yield Figure(f"{title}: scores on {split.name}", chart, caption)


def _decision_figures(number: int, split: SplitScores, decision: Decision | None) -> Iterator[Figure]:
    labels = split.labels
    if labels is None or (decision is None and split.scale is not None):
        return
    title = f"Precision and recall on {split.name}"
    if labels.all() or not labels.any():
        which = "Every pair" if labels.all() else "No pair"
        yield Figure(title, "", f"{which} of {split.name} matches, so a precision-recall curve has no meaning.")
        return
    done = None if decision is None else reached(split, decision)
    scores = {} if split.before is None else {"before": split.before}
    scores["after"] = split.after
    point = None if done is None or done.recall is None or done.precision is None else (done.recall, done.precision)
    chart = precision_recall_chart(f"precision-{number}", title, scores, labels, point)
    yield Figure(title, chart, precision_caption(done))
    if done is not None and done.calibration is not None:
        title = f"Probabilities on {split.name}"
        chart = reliability_chart(f"reliability-{number}", title, done.calibration)
        fitted = (
            " They were fitted on these same pairs, so they look better than they are." if split.name == "dev" else ""
        )
        error = decimals(done.calibration.error)
        caption = f"Of the pairs with a probability of 70 %, 70 % should match. Calibration error {error}."
        yield Figure(title, chart, caption + fitted)


def precision_caption(done: Reached | None) -> str:
    """Return the caption of a precision-recall chart, with the values at the threshold if there is one."""
    base = "Precision: the share of predicted matches that are right. Recall: the share of matches that are found."
    if done is None or done.precision is None or done.recall is None:
        return base
    at = f"{inside_sentence('Precision')} {decimals(done.precision)} and recall {decimals(done.recall)}"
    return f"{base} At the threshold: {at}."


def confusion_figure(number: int, name: str, of: Json) -> Figure | None:
    """Return a chart of a split's confusion matrix; None if there is none, or if it has too many classes."""
    counts, names = confusion_counts(of), class_names(of)
    if counts is None or len(names) > MOST_IN_MATRIX:
        return None
    title = f"Confusion matrix on {name}"
    chart = confusion_chart(f"confusion-{number}", title, names, counts)
    caption = (
        "The colour is the share of the true class: with a good model the framed diagonal has the strongest colour."
    )
    return Figure(title, chart, caption, is_wide=confusion_width(len(names)) > WIDTH)


def class_f1_figure(number: int, name: str, of: Json) -> Figure | None:
    """Return a chart of the F1 of each class with its interval; None if no class has an F1, or there are too many."""
    entries = inner(of, "per_class") or ()
    found = [(str(entry["name"]), triple(entry["f1"])) for entry in entries]
    rows = [IntervalRow(label, None, value) for label, value in found if value is not None]
    if not rows or len(entries) > _MOST_ROWS:
        return None
    title = f"F1 of each class on {name}"
    chart = interval_chart(f"class-f1-{number}", title, rows, ("before", "this model"))
    return Figure(
        title, chart, "Dots are values, lines their intervals: the fewer rows a class has, the longer the line."
    )


def class_split_figures(number: int, split: ClassSplit, report: Report) -> Iterator[Figure]:
    """Yield the charts of a split's probabilities: reliability, and for two classes histogram and precision-recall.

    Args:
        number: Makes the ids of these charts unique.
        split: The probabilities of the rows.
        report: Its decision and its word for rows are used.
    """
    whole = np.isfinite(split.probabilities).all()
    if not len(split.gold) or not whole:
        yield Figure("Probabilities", "", f"There are no finite probabilities on {split.name}, so no chart of them.")
        return
    title = f"Probabilities on {split.name}"
    found = calibrated(split.probabilities.max(axis=1), split.predicted == split.gold)
    chart = reliability_chart(f"reliability-{number}", title, found, "share that is right", f"{report.row_word}s")
    fitted = inner(report.metrics, "calibration") is not None and split.name == "dev"
    caption = f"Of the {report.row_word}s whose predicted class has a probability of 70 %, 70 % should be right."
    yield Figure(
        title,
        chart,
        caption + (" The temperature was fitted on them, so this looks better than it is." if fitted else ""),
    )
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
    caption = "The distribution of the probabilities of each class, in shares. The less the two overlap, the better."
    yield Figure(title, chart, caption)
    title = f"Precision and recall of {quoted_name(yes)} on {split.name}"
    if labels.all() or not labels.any():
        which = "Every" if labels.all() else "No"
        yield Figure(
            title,
            "",
            f"{which} {report.row_word} of {split.name} is labelled {quoted_name(yes)}, so a precision-recall "
            "curve has no meaning.",
        )
        return
    done = None if decision is None else reached(scores, decision)
    point = None if done is None or done.recall is None or done.precision is None else (done.recall, done.precision)
    chart = precision_recall_chart(f"precision-{number}", title, {"after": scores.after}, labels, point)
    yield Figure(title, chart, precision_caption(done))
