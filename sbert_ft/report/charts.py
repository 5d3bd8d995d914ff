"""The charts of a report, such as loss, metric on dev, score histograms, intervals and the confusion matrix.

Each chart is a pure function from numbers to one SVG element, with a `title` of a few words; its `name` makes its ids
unique on a page. Thousands of steps are averaged in groups, because a phone is only about 300 points wide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbert_ft.evaluation.metrics import Score
from sbert_ft.report import svg
from sbert_ft.report.formatting import capitalised, percent
from sbert_ft.report.svg import CHAR, WIDTH, Axis, Floats, Frame, LegendEntry

Scores = NDArray[np.float32]
Flags = NDArray[np.bool_]

MOST_DOTS: Final = 2000
_N_BINS: Final = 30
_CELLS: Final = (44, 30)
_N_SHADES: Final = 5
_MOST_POINTS: Final = 300
_SMOOTH_FROM: Final = 20  # points; fewer need no running mean
# With more classes a chart is twice as wide, so that the cells are large enough for their counts.
MOST_NARROW: Final = 5
_SMALL: Final = 5.6  # width of a letter of 10 units
_TOP: Final = 40


@dataclass(frozen=True)
class ScoreWords:
    """The words for scores, the two labels and the rows."""

    score: str = "cosine"
    no: str = "no match"
    yes: str = "match"
    rows: str = "pairs"


def histogram_charts(
    name: str, scores: Mapping[str, Scores], matches: Flags, threshold: float | None, words: ScoreWords = ScoreWords()
) -> list[str]:
    """Return a histogram of the scores by label for each entry of `scores` (by title), all on the same axes.

    The threshold belongs to the last one, where a line marks it. Shape: each scores, finite, and matches (n,).
    """
    axis, n_yes, n_no = _score_axis(scores, words.score), int(matches.sum()), int((~matches).sum())
    edges = np.linspace(axis.low, axis.high, _N_BINS + 1)
    counts = [(np.histogram(of[~matches], edges)[0], np.histogram(of[matches], edges)[0]) for of in scores.values()]
    shares = [(100 * (no / max(1, n_no)), 100 * (yes / max(1, n_yes))) for no, yes in counts]
    y_axis = svg.round_axis(f"share of the label's {words.rows}, %", 0.0, float(np.max(shares)))
    no, yes = (svg.fitting(label, 15 * CHAR) for label in (words.no, words.yes))
    labels = [LegendEntry(f"{no} ({n_no:,})", "no", "area"), LegendEntry(f"{yes} ({n_yes:,})", "yes", "area")]
    charts = []
    for i, (title, values) in enumerate(scores.items()):
        marked = threshold if i == len(scores) - 1 else None
        legend = labels if marked is None else [*labels, LegendEntry(f"threshold {marked:.4f}", "mark")]
        # Both charts leave space for the longer legend, so that their plots have the same size.
        frame = Frame(axis, y_axis, legend, 270, least_rows=1 if threshold is None else 2)
        marks = []
        for style, heights in zip(("no", "yes"), shares[i], strict=True):
            y = frame.to_y(np.concatenate(([0.0], np.repeat(heights, 2), [0.0])))
            marks.append(svg.path(frame.to_x(np.repeat(edges, 2)), y, f"area {style}", closed=True))
        if marked is not None and axis.low <= marked <= axis.high:
            marks.append(frame.line(marked, 0.0, marked, y_axis.high, "line mark"))
        said = f"{words.yes}: {_middle(values[matches])}; {words.no}: {_middle(values[~matches])}"
        charts.append(frame.svg(f"{name}-{i}", title, f"{capitalised(words.score)} by label. {said}.", marks))
    return charts


def _score_axis(scores: Mapping[str, Scores], word: str) -> Axis:
    """Return one axis for all these scores, from the lowest to the highest. Shape: (n,) each."""
    found = np.concatenate(list(scores.values()))
    return svg.round_axis(word, float(found.min()), float(found.max()), n_ticks=8)


def _middle(scores: Scores) -> str:
    if not len(scores):
        return "no scores"
    low, middle, high = np.quantile(scores, [0.1, 0.5, 0.9])
    return f"median {middle:.3f}, 80 % between {low:.3f} and {high:.3f}"


def scatter_charts(
    name: str, scores: Mapping[str, Scores], gold: Floats, scale: tuple[float, float], word: str = "cosine"
) -> list[str]:
    """Return a chart of scores against gold for each entry of `scores` (by title), all on the same axes.

    Up to 2,000 pairs are drawn as dots. More are counted in cells: the more pairs, the stronger the colour. `scale` is
    the lowest and the highest gold score. Shape: each scores, gold (n,), finite.
    """
    frame = Frame(svg.round_axis("gold score", *scale, n_ticks=6, exact=True), _score_axis(scores, word), height=270)
    charts = []
    for i, (title, values) in enumerate(scores.items()):
        style = "after" if i == len(scores) - 1 else "before"
        x, y = frame.to_x(gold), frame.to_y(values.astype(np.float64))
        if len(x) <= MOST_DOTS:
            # A line of length 0 with round ends is a dot, and needs half the characters of a circle element.
            dots = "".join(f'<path d="M{a:g} {b:g}h0"/>' for a, b in zip(x.tolist(), y.tolist(), strict=True))
            marks, how = [f'<g class="dots {style}">{dots}</g>'], "one dot per pair"
        else:
            marks, how = _cells(frame, x, y, style), "the more pairs a cell holds, the stronger its colour"
        description = f"{capitalised(word)} against gold, {len(x):,} pairs; {how}."
        charts.append(frame.svg(f"{name}-{i}", title, description, marks))
    return charts


def _cells(frame: Frame, x: Floats, y: Floats, style: str) -> list[str]:
    """Return the plot's non-empty cells, in five shades by the logarithm of the number of pairs."""
    x_edges = np.linspace(frame.left, frame.right, _CELLS[0] + 1)
    y_edges = np.linspace(frame.top, frame.bottom, _CELLS[1] + 1)
    counts = np.histogram2d(x, y, (x_edges, y_edges))[0]
    shades = np.ceil(np.log1p(counts) / math.log1p(float(counts.max())) * _N_SHADES).astype(int)
    width, height = x_edges[1] - x_edges[0], y_edges[1] - y_edges[0]
    marks = []
    for shade in range(1, _N_SHADES + 1):
        found = np.argwhere(shades == shade).tolist()
        d = "".join(f"M{x_edges[i]:.1f} {y_edges[j]:.1f}h{width:.1f}v{height:.1f}h-{width:.1f}z" for i, j in found)
        if d:
            marks.append(f'<path class="cells {style} shade{shade}" d="{d}"/>')
    return marks


@dataclass(frozen=True)
class Calibrated:
    """The calibration of probabilities, in ten bins of equal width.

    Attributes:
        predicted: Mean probability in each non-empty bin. Shape: (m,).
        observed: Share of matches in each of these bins. Shape: (m,).
        n: Number of pairs in each. Shape: (m,).
        bins: Number of each bin, 0 to 9. Shape: (m,).
        brier: Mean squared difference of probability and label.
        error: Mean over the pairs of |predicted - observed| of their bin (the expected calibration error).
    """

    predicted: Floats
    observed: Floats
    n: NDArray[np.int64]
    bins: NDArray[np.int64]
    brier: float
    error: float


def calibrated(probabilities: Scores, matches: Flags) -> Calibrated:
    """Return the calibration of probabilities. Shape: (n,) each, n > 0."""
    p, y = probabilities.astype(np.float64), matches.astype(np.float64)
    bins = np.clip((p * 10).astype(np.int64), 0, 9)
    n = np.bincount(bins, minlength=10)
    filled = np.flatnonzero(n)
    predicted, observed = (np.bincount(bins, weights, minlength=10)[filled] / n[filled] for weights in (p, y))
    error = float((n[filled] * np.abs(predicted - observed)).sum() / len(p))
    return Calibrated(predicted, observed, n[filled], filled, float(np.mean((p - y) ** 2)), error)


def reliability_chart(
    name: str, title: str, found: Calibrated, observed_is: str = "share that matches", rows: str = "pairs"
) -> str:
    """Return the observed share against the probability, with 95 % Wilson intervals and the number of rows."""
    legend = (LegendEntry("perfectly calibrated", "before"), LegendEntry("bin with its interval", "after", "dot"))
    frame = Frame(_unit_axis("probability"), _unit_axis(observed_is), legend, foot=20)
    marks = [frame.line(0, 0, 1, 1, "line before"), svg.text(2, frame.height + 14, rows, style="label")]
    largest, said = float(found.n.max()), []
    columns = (found.predicted, found.observed, found.n, found.bins)
    for predicted, observed, n, k in zip(*(column.tolist() for column in columns), strict=True):
        low, high = wilson_interval(observed, n)
        marks.append(frame.line(predicted, low, predicted, high, "line solid after"))
        marks.append(frame.circle(predicted, observed, 3 + 4 * math.sqrt(n / largest), "after"))
        marks.append(svg.text(frame.at(k / 10 + 0.05)[0], frame.height + 14, short_count(n), "middle", "small"))
        said.append(f"{predicted:.2f}: {observed:.2f} of {n:,}")
    return frame.svg(name, title, f"Probability and {observed_is} by bin. {', '.join(said)}.", marks)


def _unit_axis(label: str) -> Axis:
    return svg.round_axis(label, 0.0, 1.0, n_ticks=6)


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of n trials (Wilson 1927); it stays within 0 to 1."""
    from scipy.stats import binomtest

    interval = binomtest(round(share * n), n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def short_count(n: int) -> str:
    """Return a count in at most four characters: 987, 9.9k, 99k, 1.2M."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if n >= size:
            return f"{n / size:.1f}{unit}" if n < 9.95 * size else f"{n / size:.0f}{unit}"
    return str(n)


def precision_recall_chart(
    name: str, title: str, scores: Mapping[str, Scores], matches: Flags, reached: tuple[float, float] | None
) -> str:
    """Return a chart of precision against recall, drawn as steps, as average precision sums them.

    `scores` are by "before" or "after", both labels must occur in `matches`, and `reached` is (recall, precision) at
    the threshold. Shape: each scores, matches (n,).
    """
    from sklearn.metrics import precision_recall_curve

    share = float(matches.mean())
    legend = [*(LegendEntry(label, label) for label in scores), LegendEntry(f"by chance {share:.2f}", "chance")]
    legend += [LegendEntry("threshold", "mark", "dot")] if reached is not None else []
    frame = Frame(_unit_axis("recall"), _unit_axis("precision"), legend, 270)
    marks = [frame.line(0, share, 1, share, "line chance")]
    for label, values in scores.items():
        precision, recall, _ = precision_recall_curve(matches, values)
        recall, precision = thinned(recall, precision)
        x, y = frame.to_x(np.repeat(recall, 2)[1:]), frame.to_y(np.repeat(precision, 2)[:-1])
        marks.append(svg.path(x, y, f"line {label}"))
    description = f"By chance precision is {share:.3f}"
    if reached is not None:
        marks.append(frame.circle(*reached, 5.5, "mark"))
        description += f"; at the threshold recall is {reached[0]:.3f} and precision {reached[1]:.3f}"
    return frame.svg(name, title, f"{description}.", marks)


def thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return only visible points: the first, lowest, highest and last of each of 300 columns. Shape: (n,) each."""
    columns = np.floor(x * 300).astype(np.int64)
    kept: list[int] = []
    starts = np.flatnonzero(np.append(True, np.diff(columns) != 0))
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(x)], strict=True):
        inside = y[start:stop]
        kept += sorted({start, start + int(inside.argmin()), start + int(inside.argmax()), stop - 1})
    return x[kept], y[kept]


def loss_chart(name: str, steps: Floats, losses: Floats) -> str:
    """Return a chart of the loss by step, with its running mean where there are many values. Shape: (n,), finite."""
    x, y = grouped(steps, losses)
    many, smooth = len(x) >= _SMOOTH_FROM, running_mean(y)
    logged = "as logged" if len(x) == len(steps) else "mean of a few steps"
    legend = (LegendEntry(logged, "faint"), LegendEntry("running mean", "after")) if many else ()
    frame = Frame(_step_axis(steps), svg.round_axis("loss", float(y.min()), float(y.max())), legend)
    marks = [svg.path(frame.to_x(x), frame.to_y(y), f"line {'faint' if many else 'after'}")]
    if many:
        marks.append(svg.path(frame.to_x(x), frame.to_y(smooth), "line after"))
    span = f"From {smooth[0]:.4g} near step {steps[0]:,.0f} to {smooth[-1]:.4g} near step {steps[-1]:,.0f}"
    return frame.svg(name, "Loss by step", f"{span}; lowest {y.min():.4g}, highest {y.max():.4g}.", marks)


def learning_rate_chart(name: str, steps: Floats, rates: Floats) -> str:
    """Return a chart of the learning rate by step. Shape: steps, rates (n,)."""
    x, y = grouped(steps, rates)
    frame = Frame(_step_axis(steps), svg.round_axis("learning rate", 0.0, float(y.max())))
    peak = float(steps[int(np.argmax(rates))])
    description = f"Highest, {rates.max():.3g}, at step {peak:,.0f}; {rates[-1]:.3g} at the last step logged."
    return frame.svg(name, "Learning rate by step", description, [svg.path(frame.to_x(x), frame.to_y(y), "line after")])


def metric_chart(
    name: str,
    label: str,
    points: Sequence[tuple[float, float]],
    best_step: float | None,
    before: float | None,
    before_is: str = "before",
) -> str:
    """Return a chart of a metric at each evaluation: the best step is marked, the base model's value is a level line.

    `points` are (step, value) of each evaluation, ascending, at least one; `before_is` is the name of the level line.
    """
    steps, values = np.array(points, dtype=np.float64).T
    best = next((value for step, value in reversed(points) if step == best_step), None)
    legend, shown = [LegendEntry("during training", "after")], [*values]
    description = f"{len(points):,} evaluations, from {values[0]:.4f} to {values[-1]:.4f}"
    if best is not None:
        legend.append(LegendEntry(f"best: step {best_step:,.0f}", "mark", "dot"))
        description += f"; the best, {best:.4f}, at step {best_step:,.0f}"
    if before is not None:
        shown.append(before)
        legend.insert(1, LegendEntry(before_is, "before"))
        description += f"; {'the base model' if before_is == 'before' else before_is} has {before:.4f}"
    frame = Frame(_step_axis(steps), svg.round_axis(label, float(min(shown)), float(max(shown))), legend)
    marks = [] if before is None else [frame.line(frame.x.low, before, frame.x.high, before, "line before")]
    marks.append(svg.path(frame.to_x(steps), frame.to_y(values), "line after"))
    if len(points) <= 60:
        marks += [frame.circle(step, value, 3, "after") for step, value in points]
    if best is not None and best_step is not None:
        marks.append(frame.circle(best_step, best, 5.5, "mark"))
    return frame.svg(name, f"{label} on dev by step", f"{description}.", marks)


class IntervalRow(NamedTuple):
    """One measure before and after; `before` has no value if it was not measured."""

    label: str
    before: Score
    after: Score


def interval_chart(
    name: str, title: str, rows: Sequence[IntervalRow], names: tuple[str, str] = ("before", "after")
) -> str:
    """Return a chart of one or more measures on one axis, each as two dots with intervals, before above after."""
    scores = [score for row in rows for score in (row.before, row.after)]
    ends = [end for score in scores for end in (score.value, score.low, score.high) if end is not None]
    paired = any(row.before.value is not None for row in rows)
    # Differences of a few hundredths must be visible, so the axis does not begin at 0.
    axis = svg.round_axis("value, with its interval", min(ends), max(ends), n_ticks=6)
    styles = {"before hollow": names[0], "after": names[1]} if paired else {"after": names[1]}
    legend = [LegendEntry(label, style, "dot") for style, label in styles.items()]
    each = 46 if paired else 34
    frame = Frame(axis, _unit_axis(""), legend, margin=24)  # there are no numbers on the left
    frame = replace(frame, height=round(frame.top) - 2 + each * len(rows) + 40)
    top, marks, said = frame.top - 6, list[str](), list[str]()
    for tick, label in zip(axis.ticks, axis.tick_texts(), strict=True):
        x, _ = frame.at(tick)
        marks += [svg.line(x, top, x, frame.bottom, "grid"), svg.text(x, frame.bottom + 17, label, "middle")]
    marks.append(svg.text(WIDTH / 2, frame.height - 6, axis.label, "middle", "label"))
    for i, row in enumerate(rows):
        y = top + each * i + 14
        marks.append(svg.text(2, y, svg.fitting(row.label, WIDTH - 8), "start", "label halo"))
        for score, style in zip((row.before, row.after) if paired else (row.after,), styles, strict=True):
            y += 12
            if score.low is not None and score.high is not None:
                (low, _), (high, _) = frame.at(score.low), frame.at(score.high)
                marks.append(svg.line(low, y, high, y, f"line solid {style.split()[0]}"))
            if score.value is not None:
                marks.append(svg.circle(frame.at(score.value)[0], y, 4, style))
        was = "" if row.before.value is None else f"{names[0]} {row.before.value:.4f}, "
        said.append(f"{row.label}: {was}{names[1]} {row.after.value:.4f}.")
    return svg.svg(name, title, " ".join(said), frame.height, [*frame.legend_marks(), *marks])


def _step_axis(steps: Floats) -> Axis:
    return svg.round_axis("step", 0.0, float(steps.max()), exact=True)


def grouped(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return at most 300 points, each the mean of equally many neighbours. Shape: x, y (n,), returns (m,)."""
    size = -(-len(x) // _MOST_POINTS)
    if size <= 1:
        return x, y
    starts = np.arange(0, len(x), size)
    n = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / n, np.add.reduceat(y, starts) / n


def running_mean(values: Floats) -> Floats:
    """Return the running mean over about a fifteenth of all values, over fewer at the ends. Shape: (n,)."""
    half = max(1, len(values) // 30)
    sums, n = (np.convolve(each, np.ones(2 * half + 1))[half:-half] for each in (values, np.ones(len(values))))
    return sums / n


def confusion_chart(name: str, title: str, class_names: Sequence[str], counts: NDArray[np.int64]) -> str:
    """Return the heat map of the confusion matrix of at most about twenty classes.

    `counts`, of shape (K, K), has a row for each true class and a column for each predicted one.
    """
    n = len(class_names)
    width = WIDTH if n <= MOST_NARROW else 2 * WIDTH
    labels = [svg.fitting(f"{i + 1} {label}", 0.32 * width) for i, label in enumerate(class_names)]
    left = 10 + float(max(svg.end_positions(label)[-1] for label in labels))
    cell = (width - 2 - left) / n
    height = 44.0 if n <= MOST_NARROW else max(24.0, min(40.0, cell))
    level = [svg.fitting(label, cell - 4, _SMALL) for label in class_names]
    is_level = level == list(class_names)
    if is_level:
        labels = [svg.fitting(label, left - 10) for label in class_names]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    parts = [svg.text(2, 14, "rows: true class; columns: predicted class", style="label")]
    for j, head in enumerate(level if is_level else range(1, n + 1)):
        parts.append(svg.text(left + (j + 0.5) * cell, _TOP - 7, str(head), "middle", "small"))
    for i in range(n):
        y = _TOP + i * height
        parts.append(svg.text(left - 6, y + height / 2 + 4, labels[i], "end", "label"))
        for j in range(n):
            x = left + j * cell
            parts += _cell(x, y, (cell, height), int(counts[i, j]), float(shares[i, j]))
    # Drawn last, so that no other cell covers the frames.
    corners = ((left + i * cell, _TOP + i * height) for i in range(n))
    parts += [svg.rectangle(x, y, cell, height, "heat-right") for x, y in corners]
    description = " ".join(_row_in_words(i, class_names, counts) for i in range(n))
    return svg.svg(name, title, description, round(_TOP + n * height + 4), parts, width)


def _cell(x: float, y: float, size: tuple[float, float], count: int, share: float) -> list[str]:
    """Return a cell: its colour, its count, and its share if it fits."""
    width, height = size
    place = f'x="{svg.number(x)}" y="{svg.number(y)}" width="{svg.number(width)}" height="{svg.number(height)}"'
    parts = [f'<rect class="heat" fill-opacity="{share:.2f}" {place}/>']
    shown = f"{count:,}" if CHAR * len(f"{count:,}") <= width - 4 else short_count(count)
    style = ("label" if count else "") + (" small" if CHAR * len(shown) > width - 4 else "")
    middle = x + width / 2
    if height < 44:
        return [*parts, svg.text(middle, y + height / 2 + 4, shown, "middle", style)]
    parts.append(svg.text(middle, y + height / 2 - 1, shown, "middle", style))
    return [*parts, svg.text(middle, y + height / 2 + 13, percent(share), "middle", "label small")]


def _row_in_words(i: int, class_names: Sequence[str], counts: NDArray[np.int64]) -> str:
    name, total, others = class_names[i], int(counts[i].sum()), counts[i] * (np.arange(len(counts)) != i)
    if not total:
        return f"{name}: no rows."
    worst = int(others.argmax())
    confused = f", {int(others[worst]):,} predicted as {class_names[worst]}" if others[worst] else ""
    return f"{name}: {int(counts[i, i]):,} of {total:,} right{confused}."
