"""The charts of a set of scored pairs: scores by label or against gold, calibration, precision against recall.

Each is a pure function from numbers to SVG elements. What would be thousands of marks is counted in cells or reduced to
what a line of that width can show, the same way each time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.evaluation.chart_frame import CHAR, Axis, Frame, Key, circle, fitting, path, round_axis, text
from sbert_ft.evaluation.report_words import capitalised

_N_BINS: Final = 30
_MOST_DOTS: Final = 2000
_CELLS: Final = (44, 30)
_N_SHADES: Final = 5
_Z: Final = 1.959964  # of a 95 % interval

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class ScoreWords:
    """What scores, the two labels and the rows are called."""

    score: str = "cosine"
    no: str = "no match"
    yes: str = "match"
    rows: str = "pairs"


def histogram_charts(
    name: str,
    scores: Mapping[str, Scores],
    matches: NDArray[np.bool_],
    threshold: float | None,
    words: ScoreWords = ScoreWords(),
) -> list[str]:
    """Return a histogram of the scores by label for each entry of `scores`, all on the same axes.

    Args:
        name: Makes the charts' ids their own.
        scores: What the panel is called -> scores. Shape: (n,). The threshold belongs to the last one.
        matches: Whether a pair belongs together. Shape: (n,).
        threshold: Marked by a line; None for none.
        words: What scores and labels are called.
    """
    axis = score_axis(*scores.values(), word=words.score)
    edges = np.linspace(axis.low, axis.high, _N_BINS + 1)
    shares = {title: _shares(values, matches, edges) for title, values in scores.items()}
    highest = max(float(share.max()) for pair in shares.values() for share in pair)
    y_axis = round_axis(f"share of the label's {words.rows}, %", 0.0, 100 * highest)
    n_yes, n_no = int(matches.sum()), int((~matches).sum())
    no, yes = (fitting(label, 15 * CHAR) for label in (words.no, words.yes))
    labels = (Key(f"{no} ({n_no:,})", "no", "area"), Key(f"{yes} ({n_yes:,})", "yes", "area"))
    charts = []
    for i, (title, pair) in enumerate(shares.items()):
        marked = threshold if i == len(shares) - 1 else None
        legend = labels if marked is None else (*labels, Key(f"threshold {marked:.4f}", "mark"))
        # Both panels keep room for the longer legend, so that their plots are of one size.
        frame = Frame(axis, y_axis, legend, 270, least_rows=1 if threshold is None else 2)
        marks = [_steps_area(frame, edges, 100 * pair[k], "no" if k == 0 else "yes") for k in (0, 1)]
        if marked is not None and axis.low <= marked <= axis.high:
            marks.append(frame.line(marked, 0.0, marked, y_axis.high, "line mark"))
        values = scores[title]
        description = "; ".join(
            f"{label}: {_middle(values[mask])}" for label, mask in ((words.yes, matches), (words.no, ~matches))
        )
        charts.append(frame.svg(f"{name}-{i}", title, f"{capitalised(words.score)} by label. {description}.", marks))
    return charts


def score_axis(*scores: Scores, word: str = "cosine") -> Axis:
    """Return the axis for all of these scores, from the lowest to the highest. Shape: (n,) each."""
    found = np.concatenate([values[np.isfinite(values)] for values in scores])
    if not len(found):
        return round_axis(word, 0.0, 1.0)
    return round_axis(word, float(found.min()), float(found.max()), n_ticks=8)


def _shares(
    scores: Scores, matches: NDArray[np.bool_], edges: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of the non-matches and of the matches in each bin. Shape: (bins,) each."""
    no, yes = (np.histogram(scores[mask], edges)[0] / max(1, int(mask.sum())) for mask in (~matches, matches))
    return no, yes


def _steps_area(frame: Frame, edges: NDArray[np.float64], heights: NDArray[np.float64], style: str) -> str:
    x = frame.to_x(np.repeat(edges, 2))
    y = frame.to_y(np.concatenate(([0.0], np.repeat(heights, 2), [0.0])))
    return path(x, y, f"area {style}", closed=True)


def _middle(scores: Scores) -> str:
    if not len(scores):
        return "none"
    low, middle, high = np.quantile(scores, [0.1, 0.5, 0.9])
    return f"half of them above {middle:.3f}, four fifths between {low:.3f} and {high:.3f}"


def scatter_charts(
    name: str, scores: Mapping[str, Scores], gold: NDArray[np.float64], scale: tuple[float, float], word: str = "cosine"
) -> list[str]:
    """Return the scores against gold for each entry of `scores`, all on the same axes.

    Up to 2,000 pairs are dots; more are counted in cells, whose colour is the stronger the more pairs they hold.

    Args:
        name: Makes the charts' ids their own.
        scores: What the panel is called -> scores. Shape: (n,).
        gold: The score that people gave. Shape: (n,).
        scale: Lowest and highest gold score.
        word: What the scores are.
    """
    y_axis = score_axis(*scores.values(), word=word)
    x_axis = round_axis("gold score", *scale, n_ticks=6, exact=True)
    charts = []
    for i, (title, values) in enumerate(scores.items()):
        frame = Frame(x_axis, y_axis, height=270)
        style = "after" if i == len(scores) - 1 else "before"
        whole = np.isfinite(values) & np.isfinite(gold)
        x, y = frame.to_x(gold[whole]), frame.to_y(values[whole].astype(np.float64))
        marks = _dots(x, y, style) if len(x) <= _MOST_DOTS else _cells(frame, x, y, style)
        how = "one dot a pair" if len(x) <= _MOST_DOTS else "the more pairs a cell holds, the stronger its colour"
        charts.append(
            frame.svg(f"{name}-{i}", title, f"{capitalised(word)} against gold, {len(x):,} pairs; {how}.", marks)
        )
    return charts


def _dots(x: NDArray[np.float64], y: NDArray[np.float64], style: str) -> list[str]:
    # A line of no length with round ends is a dot, in half the letters of a circle.
    dots = "".join(f'<path d="M{a:g} {b:g}h0"/>' for a, b in zip(x.tolist(), y.tolist(), strict=True))
    return [f'<g class="dots {style}">{dots}</g>']


def _cells(frame: Frame, x: NDArray[np.float64], y: NDArray[np.float64], style: str) -> list[str]:
    """Return the plot's cells that hold a pair, in five shades by the logarithm of the number."""
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
    """How well probabilities hold: by ten equal bins.

    Attributes:
        predicted: Mean probability in each bin that holds a pair. Shape: (m,).
        observed: Share of matches there. Shape: (m,).
        n: Pairs there. Shape: (m,).
        bins: Which of the ten. Shape: (m,).
        brier: Mean squared difference of probability and label.
        error: Mean over the pairs of their bin's |predicted - observed| (the expected calibration error).
    """

    predicted: NDArray[np.float64]
    observed: NDArray[np.float64]
    n: NDArray[np.int64]
    bins: NDArray[np.int64]
    brier: float
    error: float


def calibrated(probabilities: Scores, matches: NDArray[np.bool_]) -> Calibrated:
    """Return how well probabilities hold. Shape: (n,) each, n > 0."""
    p, y = probabilities.astype(np.float64), matches.astype(np.float64)
    bins = np.clip((p * 10).astype(np.int64), 0, 9)
    n = np.bincount(bins, minlength=10)
    held = np.flatnonzero(n)
    predicted, observed = (np.bincount(bins, weights, minlength=10)[held] / n[held] for weights in (p, y))
    error = float((n[held] * np.abs(predicted - observed)).sum() / len(p))
    return Calibrated(predicted, observed, n[held], held, float(np.mean((p - y) ** 2)), error)


def reliability_chart(
    name: str, title: str, found: Calibrated, observed_is: str = "share that matches", rows: str = "pairs"
) -> str:
    """Return the share of matches against the probability, with 95 % Wilson intervals and the number of pairs.

    Args:
        name: Makes the chart's ids its own.
        title: What is shown.
        found: The bins.
        observed_is: What the share is of.
        rows: What is counted.
    """
    legend = (Key("as it should be", "before"), Key("bin with its interval", "after", "dot"))
    unit = round_axis("", 0.0, 1.0, n_ticks=6)
    x_axis, y_axis = (Axis(label, 0.0, 1.0, unit.ticks) for label in ("probability", observed_is))
    frame = Frame(x_axis, y_axis, legend, foot=20)
    marks = [frame.line(0, 0, 1, 1, "line before"), text(2, frame.height + 14, rows, style="label")]
    largest = float(found.n.max())
    columns = (found.predicted, found.observed, found.n, found.bins)
    for predicted, observed, n, k in zip(*(column.tolist() for column in columns), strict=True):
        low, high = wilson_interval(observed, n)
        marks.append(frame.line(predicted, low, predicted, high, "line solid after"))
        x, y = float(frame.to_x(predicted)), float(frame.to_y(observed))
        marks.append(circle(x, y, 3 + 4 * math.sqrt(n / largest), "after"))
        marks.append(text(float(frame.to_x(k / 10 + 0.05)), frame.height + 14, short_count(n), "middle", "small"))
    said = ", ".join(f"{p:.2f}: {o:.2f} of {n:,}" for p, o, n in zip(*columns[:3], strict=True))
    return frame.svg(name, title, f"Probability and {observed_is} by bin. {said}.", marks)


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of n trials (Wilson 1927), which does not leave 0 to 1."""
    z2 = _Z**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def short_count(n: int) -> str:
    """Return a count in at most four characters: 987, 9.9k, 99k, 1.2M."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if n >= size:
            return f"{n / size:.1f}{unit}" if n < 9.95 * size else f"{n / size:.0f}{unit}"
    return str(n)


def precision_recall_points(
    scores: Scores, matches: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (recall, precision) of every threshold, recall falling to 0. Shape: (n,); both labels must occur."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(matches, scores)
    return np.asarray(recall, dtype=np.float64), np.asarray(precision, dtype=np.float64)


def precision_recall_chart(
    name: str,
    title: str,
    scores: Mapping[str, Scores],
    matches: NDArray[np.bool_],
    reached: tuple[float, float] | None,
) -> str:
    """Return precision against recall as steps, as average precision counts it.

    Args:
        name: Makes the chart's ids its own.
        title: What is shown.
        scores: "before" or "after" -> scores. Shape: (n,).
        matches: Both labels must occur. Shape: (n,).
        reached: (recall, precision) at the threshold; None where there is none.
    """
    ticks = round_axis("", 0.0, 1.0, n_ticks=6).ticks
    share = float(matches.mean())
    legend = [Key(label, label) for label in scores] + [Key(f"by chance {share:.2f}", "chance")]
    legend += [Key("threshold", "mark", "dot")] if reached is not None else []
    frame = Frame(Axis("recall", 0.0, 1.0, ticks), Axis("precision", 0.0, 1.0, ticks), tuple(legend), 270)
    marks = [frame.line(0, share, 1, share, "line chance")]
    for label, values in scores.items():
        recall, precision = thinned(*precision_recall_points(values, matches))
        x, y = frame.to_x(np.repeat(recall, 2)[1:]), frame.to_y(np.repeat(precision, 2)[:-1])
        marks.append(path(x, y, f"line {label}"))
    description = f"Without a model precision is {share:.3f}"
    if reached is not None:
        marks.append(circle(float(frame.to_x(reached[0])), float(frame.to_y(reached[1])), 5.5, "mark"))
        description += f"; at the threshold recall is {reached[0]:.3f} and precision {reached[1]:.3f}"
    return frame.svg(name, title, f"{description}.", marks)


def thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the points that show: of each of 300 columns the first, lowest, highest and last. Shape: (n,) each."""
    columns = np.floor(x * 300).astype(np.int64)
    kept: list[int] = []
    starts = np.flatnonzero(np.append(True, np.diff(columns) != 0))
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(x)], strict=True):
        inside = y[start:stop]
        kept += sorted({start, start + int(inside.argmin()), start + int(inside.argmax()), stop - 1})
    return x[kept], y[kept]
