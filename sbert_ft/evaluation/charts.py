"""The charts of a run: its loss, its learning rate, its metric on dev, and the scores before and after with intervals.

Each is a pure function from numbers to one SVG element. Thousands of steps are averaged in groups: a phone has some
300 points in a row to show them with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.evaluation.chart_frame import WIDTH, Axis, Frame, Key, circle, fitting, line, path, round_axis, svg, text

_MOST_POINTS: Final = 300
_SMOOTH_FROM: Final = 20  # points; fewer are seen one by one


@dataclass(frozen=True)
class IntervalRow:
    """One measure before and after: (value, low, high), the ends None where there is no interval."""

    label: str
    before: tuple[float, float | None, float | None] | None
    after: tuple[float, float | None, float | None]


def loss_chart(name: str, steps: NDArray[np.float64], losses: NDArray[np.float64]) -> str:
    """Return the loss by step: each value faint, and over many of them their running mean.

    Args:
        name: Makes the chart's ids its own.
        steps: Shape: (n,), ascending.
        losses: Shape: (n,), finite.
    """
    x, y = grouped(steps, losses)
    many = len(x) >= _SMOOTH_FROM
    legend = (
        Key("as logged" if len(x) == len(steps) else "mean of a few lines", "faint"),
        Key("running mean", "after"),
    )
    frame = Frame(_step_axis(steps), round_axis("loss", float(y.min()), float(y.max())), legend if many else ())
    smooth = running_mean(y)
    marks = [path(frame.to_x(x), frame.to_y(y), f"line {'faint' if many else 'after'}")]
    if many:
        marks.append(path(frame.to_x(x), frame.to_y(smooth), "line after"))
    span = f"From {smooth[0]:.4g} near step {steps[0]:,.0f} to {smooth[-1]:.4g} near step {steps[-1]:,.0f}"
    return frame.svg(name, "Loss by step", f"{span}; lowest {y.min():.4g}, highest {y.max():.4g}.", marks)


def learning_rate_chart(name: str, steps: NDArray[np.float64], rates: NDArray[np.float64]) -> str:
    """Return the learning rate by step. Shape: steps, rates (n,)."""
    x, y = grouped(steps, rates)
    frame = Frame(_step_axis(steps), round_axis("learning rate", 0.0, float(y.max())))
    peak = float(steps[int(np.argmax(rates))])
    description = f"Highest, {rates.max():.3g}, at step {peak:,.0f}; {rates[-1]:.3g} at the last step logged."
    return frame.svg(name, "Learning rate by step", description, [path(frame.to_x(x), frame.to_y(y), "line after")])


def metric_chart(
    name: str,
    label: str,
    points: Sequence[tuple[float, float]],
    best_step: float | None,
    before: float | None,
    before_is: str = "before",
) -> str:
    """Return a metric at each evaluation, with the best step marked and the base model's value as a level line.

    Args:
        name: Makes the chart's ids its own.
        label: What the metric is called.
        points: (step, value) of each evaluation, ascending, at least one.
        best_step: The step that was kept; None where nobody says.
        before: The base model's value; None where it was not evaluated.
        before_is: What the level line is called.
    """
    steps, values = np.array(points, dtype=np.float64).T
    shown = values if before is None else np.append(values, before)
    best = [value for step, value in points if step == best_step]
    legend = [Key("while training", "after")]
    legend += [Key(before_is, "before")] if before is not None else []
    legend += [Key(f"best: step {best_step:,.0f}", "mark", "dot")] if best and best_step is not None else []
    frame = Frame(_step_axis(steps), round_axis(label, float(shown.min()), float(shown.max())), tuple(legend))
    marks = [frame.line(frame.x.low, before, frame.x.high, before, "line before")] if before is not None else []
    x, y = frame.to_x(steps), frame.to_y(values)
    marks.append(path(x, y, "line after"))
    if len(points) <= 60:
        marks += [circle(float(a), float(b), 3, "after") for a, b in zip(x, y, strict=True)]
    description = f"{len(points):,} evaluations, from {values[0]:.4f} to {values[-1]:.4f}"
    if best and best_step is not None:
        marks.append(circle(float(frame.to_x(best_step)), float(frame.to_y(best[-1])), 5.5, "mark"))
        description += f"; the best, {best[-1]:.4f}, at step {best_step:,.0f}, was kept"
    if before is not None:
        who = "the base model" if before_is == "before" else before_is
        description += f"; {who} has {before:.4f}"
    return frame.svg(name, f"{label} on dev by step", f"{description}.", marks)


def interval_chart(
    name: str, title: str, rows: Sequence[IntervalRow], names: tuple[str, str] = ("before", "after")
) -> str:
    """Return each measure as two dots with their intervals, before above after, on one axis.

    Args:
        name: Makes the chart's ids its own.
        title: What is shown.
        rows: At least one.
        names: What the two are called.
    """
    found = [value for row in rows for value in (*(row.before or ()), *row.after) if value is not None]
    paired = any(row.before is not None for row in rows)
    # Differences of a few hundredths are what is looked for, so the axis begins where the values do.
    axis = round_axis("value, with its interval", min(found), max(found), n_ticks=6)
    legend = (*((Key(names[0], "before hollow", "dot"),) if paired else ()), Key(names[1], "after", "dot"))
    each = 46 if paired else 34
    frame = Frame(axis, round_axis("", 0.0, 1.0), legend)
    frame = replace(frame, height=round(frame.top) - 2 + each * len(rows) + 40)
    top = frame.top - 6
    marks = []
    for tick, label in zip(axis.ticks, axis.tick_texts(), strict=True):
        x = _wide(frame, tick)
        marks.append(line(x, top, x, frame.bottom, "grid"))
        marks.append(text(x, frame.bottom + 17, label, "middle"))
    marks.append(text(WIDTH / 2, frame.height - 6, axis.label, "middle", "label"))
    for i, row in enumerate(rows):
        y = top + each * i + 14
        marks.append(text(2, y, fitting(row.label, WIDTH - 8), "start", "label halo"))
        both = [(row.before, "before hollow"), (row.after, "after")]
        for value, style in both if paired else both[1:]:
            y += 12
            if value is not None:
                marks += _whisker(frame, value, y, style)
    entries = frame.legend_marks()
    return svg(name, title, " ".join(_said(row, names) for row in rows), frame.height, [*entries, *marks])


def _wide(frame: Frame, value: float) -> float:
    """Return a coordinate on an axis that uses the whole width, as there are no numbers on the left."""
    share = (value - frame.x.low) / (frame.x.high - frame.x.low)
    return round(24 + share * (WIDTH - 48), 1)


def _whisker(frame: Frame, value: tuple[float, float | None, float | None], y: float, style: str) -> list[str]:
    middle, low, high = value
    dot = circle(_wide(frame, middle), y, 4, style)
    if low is None or high is None:
        return [dot]
    return [line(_wide(frame, low), y, _wide(frame, high), y, f"line solid {style.split()[0]}"), dot]


def _said(row: IntervalRow, names: tuple[str, str]) -> str:
    before = "" if row.before is None else f"{names[0]} {row.before[0]:.4f}, "
    return f"{row.label}: {before}{names[1]} {row.after[0]:.4f}."


def _step_axis(steps: NDArray[np.float64]) -> Axis:
    return round_axis("step", 0.0, float(steps.max()), exact=True)


def grouped(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return at most 300 points, each the mean of as many neighbours as it takes. Shape: x, y (n,), returns (m,)."""
    size = -(-len(x) // _MOST_POINTS)
    if size <= 1:
        return x, y
    starts = np.arange(0, len(x), size)
    n = np.diff(np.append(starts, len(x)))
    return np.add.reduceat(x, starts) / n, np.add.reduceat(y, starts) / n


def running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each value and its neighbours, a fifteenth of them all, fewer at the ends. Shape: (n,)."""
    half = max(1, len(values) // 30)
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    sums = np.concatenate(([0.0], np.cumsum(values)))
    means: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return means
