"""The frame of a chart as one SVG element: axes with round ticks, a legend, and a title for screen readers.

A chart is 360 units wide, about the width of a phone, so its text is readable there. Colours are classes of the page's
style sheet, so that dark mode and print can change them. Coordinates are rounded to a tenth of a unit: smaller
differences are not visible, and equal input gives an equal file.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbert_ft.report.formatting import shortened, visible

WIDTH: Final = 360
CHAR: Final = 6.6  # width of a character at font size 12, a little more than the average
_ROW: Final = 17  # height of a row of the legend

Floats = NDArray[np.float64]


class LegendEntry(NamedTuple):
    """An entry of a legend: its text, the CSS class of its mark (such as after, no or mark), and the mark's shape."""

    label: str
    style: str
    swatch: Literal["line", "area", "dot"] = "line"

    @property
    def width(self) -> float:
        """The width of mark and text."""
        return 38 + CHAR * len(self.label)

    def mark(self, x: float, y: float) -> str:
        """Return the mark with its left end at x and its middle at y."""
        if self.swatch == "dot":
            return circle(x + 10, y, 4, self.style)
        if self.swatch == "area":
            return rectangle(x, y - 5, 20, 10, f"area {self.style}")
        return line(x, y, x + 20, y, f"line {self.style}")


@dataclass(frozen=True)
class Axis:
    """One axis: what is measured, its ends, and round numbers between them as ticks, evenly spaced."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]

    def tick_texts(self) -> tuple[str, ...]:
        """Return the ticks as text, all with as many decimals as their spacing needs."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1.0
        power = math.floor(math.log10(step) + 1e-9)
        if power < -3 or power > 6:
            return tuple(_scientific(tick) for tick in self.ticks)
        decimals = next((n for n in range(max(0, -power), 6) if abs(round(step, n) - step) < step / 1000), 6)
        return tuple(f"{tick + 0.0:,.{decimals}f}" for tick in self.ticks)


def _scientific(value: float) -> str:
    mantissa, exponent = f"{value:.6e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}" if value else "0"


def round_axis(label: str, low: float, high: float, *, n_ticks: int = 5, exact: bool = False) -> Axis:
    """Return an axis over at least low to high whose ticks are round numbers (1, 2, 2.5 or 5 times a power of ten).

    Args:
        label: What is measured.
        low: The smallest value.
        high: The largest; if both are equal, the axis is widened around them.
        n_ticks: About how many.
        exact: End the axis at low and high, rather than at the next ticks beyond.
    """
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-30):
        pad = abs(low) / 10 or 0.5
        low, high = low - pad, high + pad
    rough = (high - low) / max(1, n_ticks - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if exact:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = tuple(float(f"{i * step:.12g}") for i in range(first, last + 1))
    return Axis(label, low if exact else ticks[0], high if exact else ticks[-1], ticks)


@dataclass(frozen=True)
class Frame:
    """The position of a chart's plot in its SVG, and the mapping from values to coordinates.

    Attributes:
        x: The axis along the bottom.
        y: The axis on the left; its label is above the plot, because rotated text is hard to read.
        legend: Entries in one or two rows below that label.
        height: Height without the foot.
        foot: Space below, for a row of numbers under the horizontal axis.
        least_rows: Space for at least so many rows of legend, so that the plots of two charts have the same size.
        margin: Space on both sides in place of that for the numbers of the vertical axis.
    """

    x: Axis
    y: Axis
    legend: Sequence[LegendEntry] = ()
    height: int = 250
    foot: int = 0
    least_rows: int = 0
    margin: int = 0

    @property
    def left(self) -> float:
        """The plot's left edge, after the longest number of the vertical axis."""
        return self.margin or 10 + CHAR * max(len(text) for text in self.y.tick_texts())

    @property
    def right(self) -> float:
        """The plot's right edge."""
        return WIDTH - (self.margin or 12)

    @property
    def top(self) -> float:
        """The plot's top edge, below label and legend."""
        return 28 + _ROW * max(self.least_rows, len(_legend_rows(self.legend)))

    @property
    def bottom(self) -> float:
        """The plot's bottom edge, above the numbers."""
        return self.height - 40

    def to_x(self, values: Floats | float) -> Floats:
        """Return the horizontal coordinates of values, clipped to the axis. Shape: as `values`."""
        share = (np.asarray(values, dtype=np.float64) - self.x.low) / (self.x.high - self.x.low)
        return np.round(self.left + np.clip(share, 0, 1) * (self.right - self.left), 1)

    def to_y(self, values: Floats | float) -> Floats:
        """Return the vertical coordinates of values, clipped to the axis. Shape: as `values`."""
        share = (np.asarray(values, dtype=np.float64) - self.y.low) / (self.y.high - self.y.low)
        return np.round(self.bottom - np.clip(share, 0, 1) * (self.bottom - self.top), 1)

    def at(self, x: float, y: float = 0.0) -> tuple[float, float]:
        """Return the coordinates of a point given in values."""
        return float(self.to_x(x)), float(self.to_y(y))

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> str:
        """Return a straight line between two points given in values."""
        return line(*self.at(x1, y1), *self.at(x2, y2), style)

    def circle(self, x: float, y: float, radius: float, style: str) -> str:
        """Return a dot around a point given in values."""
        return circle(*self.at(x, y), radius, style)

    def svg(self, name: str, title: str, description: str, marks: Sequence[str]) -> str:
        """Return the chart, as `svg`: grid and numbers below, the elements `marks` in their order, legend above."""
        parts = [*self._grid(), *marks, *self.legend_marks()]
        return svg(name, title, description, self.height + self.foot, parts)

    def _grid(self) -> list[str]:
        parts = []
        for tick, label in zip(self.y.ticks, self.y.tick_texts(), strict=True):
            _, y = self.at(self.x.low, tick)
            parts += [line(self.left, y, self.right, y, "grid"), text(self.left - 5, y + 4, label, "end")]
        room = math.inf
        for tick, label in reversed(list(zip(self.x.ticks, self.x.tick_texts(), strict=True))):
            (x, _), half = self.at(tick), CHAR * len(label) / 2
            middle = min(max(x, half), WIDTH - half)
            parts.append(line(x, self.bottom, x, self.bottom + 4, "axis"))
            if middle + half < room:  # a number that would touch the one on its right is left out
                parts.append(text(middle, self.bottom + 17, label, "middle"))
                room = middle - half - CHAR
        parts.append(line(self.left, self.bottom, self.right, self.bottom, "axis"))
        parts.append(text((self.left + self.right) / 2, self.height - 6, self.x.label, "middle", "label"))
        parts.append(text(2, 14, self.y.label, "start", "label"))
        return parts

    def legend_marks(self) -> list[str]:
        """Return the legend's marks and labels."""
        parts = []
        for row, entries in enumerate(_legend_rows(self.legend)):
            y, x = 24 + _ROW * row, 2.0
            for entry in entries:
                parts += [entry.mark(x, y + 5), text(x + 25, y + 9, entry.label)]
                x += entry.width
        return parts


def _legend_rows(legend: Sequence[LegendEntry]) -> list[list[LegendEntry]]:
    """Return the entries in rows that fit the width of the chart."""
    rows: list[list[LegendEntry]] = []
    for entry in legend:
        if not rows or sum(each.width for each in [*rows[-1], entry]) > WIDTH:
            rows.append([])
        rows[-1].append(entry)
    return rows


def number(value: float) -> str:
    """Return a coordinate with one decimal at most."""
    digits = f"{value:.1f}".removesuffix(".0")
    return "0" if digits == "-0" else digits


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """Return a straight line between two coordinates."""
    return f'<path class="{style}" d="M{number(x1)} {number(y1)}L{number(x2)} {number(y2)}"/>'


def path(x: Floats, y: Floats, style: str, closed: bool = False) -> str:
    """Return a line through coordinates, closed to an area if `closed`. Shape: x, y (n,)."""
    points = "L".join(f"{number(a)} {number(b)}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
    return f'<path class="{style}" d="M{points}{"Z" if closed else ""}"/>'


def circle(x: float, y: float, radius: float, style: str) -> str:
    """Return a dot."""
    return f'<circle class="{style}" cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"/>'


def rectangle(x: float, y: float, width: float, height: float, style: str) -> str:
    """Return a box."""
    size = f'width="{number(width)}" height="{number(height)}"'
    return f'<rect class="{style}" x="{number(x)}" y="{number(y)}" {size}/>'


def text(x: float, y: float, content: str, anchor: str = "start", style: str = "") -> str:
    """Return a line of text."""
    attributes = ("" if anchor == "start" else f' text-anchor="{anchor}"') + (f' class="{style}"' if style else "")
    return f'<text x="{number(x)}" y="{number(y)}"{attributes}>{html.escape(visible(content))}</text>'


def end_positions(content: str, char: float = CHAR) -> Floats:
    """Return where each character of a text ends, after 0; wide East Asian characters count twice. Shape: (n + 1,)."""
    return np.cumsum([0.0, *(char * (2 if unicodedata.east_asian_width(c) in "WF" else 1) for c in content)])


def fitting(content: str, room: float, char: float = CHAR) -> str:
    """Return a text, cut with an ellipsis if it is wider than `room`."""
    shown = visible(content)
    ends = end_positions(shown, char)
    return shown if ends[-1] <= room else shortened(shown, max(1, int(np.searchsorted(ends, room - char, "right"))))


def svg(name: str, title: str, description: str, height: int, parts: Sequence[str], width: int = WIDTH) -> str:
    """Return the SVG element with a title of a few words, and a description for who cannot see it.

    `name`, of letters, digits and hyphens, makes its ids unique on a page.
    """
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-title {name}-description">'
    said = f'<title id="{name}-title">{html.escape(visible(title))}</title>'
    said += f'<desc id="{name}-description">{html.escape(visible(description))}</desc>'
    return head + said + "".join(parts) + "</svg>"
