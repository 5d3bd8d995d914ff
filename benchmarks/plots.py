"""Bars of what was measured: the median of the rounds, and a line from the least to the most. Drawn as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sbert_ft.report.svg import line, rectangle, round_axis, svg, text

WIDTH: Final = 640
_LEFT: Final = 215  # for the names
_RIGHT: Final = 70  # for the numbers
_ROW: Final = 24
_TOP: Final = 34
_STYLE: Final = (
    "<style>text{font:12px system-ui,sans-serif;fill:#1b1f23}.title{font-weight:600}.ours{fill:#005fa8}"
    ".theirs{fill:#9aa1a8}.grid{stroke:#e3e6e9}.spread{stroke:#1b1f23;stroke-width:1.5}"
    "@media(prefers-color-scheme:dark){text{fill:#e9ebed}.ours{fill:#6db8ff}.theirs{fill:#767d85}"
    ".grid{stroke:#30363c}.spread{stroke:#e9ebed}}</style>"
)


@dataclass(frozen=True)
class Bar:
    """A contender's median with least and most."""

    name: str
    median: float
    least: float
    most: float

    @property
    def is_ours(self) -> bool:
        """Return whether the bar is drawn in our colour."""
        return self.name.startswith("sbert_ft")


def bars_of(table: dict[str, Any]) -> list[Bar]:
    """Return the bars of a result's set or batch size, the fastest first."""
    found = [Bar(name, one["per_second"], one["least"], one["most"]) for name, one in table["contenders"].items()]
    return sorted(found, key=lambda bar: -bar.median)


def bar_chart(name: str, title: str, unit: str, bars: Sequence[Bar]) -> str:
    """Return a file's content with one bar for each contender.

    Args:
        name: Makes the chart's ids its own.
        title: What is shown.
        unit: Of the numbers, such as texts/s.
        bars: At least one.
    """
    axis = round_axis(unit, 0.0, max(bar.most for bar in bars))
    bottom = _TOP + _ROW * len(bars)

    def across(value: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * value / axis.high

    parts = [text(2, 16, title, style="title")]
    for tick, label in zip(axis.ticks, axis.tick_texts(), strict=True):
        parts.append(line(across(tick), _TOP, across(tick), bottom, "grid"))
        parts.append(text(across(tick), bottom + 16, label, "middle"))
    parts.append(text(WIDTH - 2, bottom + 16, unit, "end"))
    for i, bar in enumerate(bars):
        y = _TOP + _ROW * i
        parts.append(text(_LEFT - 6, y + 16, bar.name, "end"))
        style = "ours" if bar.is_ours else "theirs"
        parts.append(rectangle(_LEFT, y + 4, across(bar.median) - _LEFT, _ROW - 8, style))
        parts.append(line(across(bar.least), y + _ROW / 2, across(bar.most), y + _ROW / 2, "spread"))
        parts.append(text(across(bar.most) + 5, y + 16, f"{bar.median:,.0f}"))
    said = ", ".join(f"{bar.name} {bar.median:,.0f} ({bar.least:,.0f}-{bar.most:,.0f})" for bar in bars)
    drawn = svg(name, title, f"{unit}: {said}.", bottom + 24, [_STYLE, *parts], WIDTH)
    return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"
