"""The confusion matrix as a picture: a row for each true class, its colour the share of that row.

Shares rather than counts are the colour, so a rare class is seen as well as a common one; the counts stand in the
cells. Column names are numbers where they would not fit level, for turned letters read badly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.evaluation.chart_frame import CHAR, WIDTH, fitting, number, rectangle, svg, text
from sbert_ft.evaluation.report_words import percent
from sbert_ft.evaluation.score_charts import short_count

# With more classes a chart has twice the width: cells stay large enough for their counts.
_MOST_NARROW: Final = 5
_SMALL: Final = 5.6  # width of a letter of 10 units
_TOP: Final = 40


def confusion_width(n_classes: int) -> int:
    """Return the chart's width in its units."""
    return WIDTH if n_classes <= _MOST_NARROW else 2 * WIDTH


def confusion_chart(name: str, title: str, class_names: Sequence[str], counts: NDArray[np.int64]) -> str:
    """Return the heat map of a confusion matrix.

    Args:
        name: Makes the chart's ids its own.
        title: What is shown.
        class_names: Shape: (K,), at most some twenty.
        counts: Rows of the true class, columns of the predicted one. Shape: (K, K).
    """
    n = len(class_names)
    width = confusion_width(n)
    marked = [f"{i + 1} {label}" for i, label in enumerate(class_names)]
    labels = [fitting(label, 0.32 * width) for label in marked]
    left = 10 + max(_width(label) for label in labels)
    cell = (width - 2 - left) / n
    height = 44.0 if n <= _MOST_NARROW else max(24.0, min(40.0, cell))
    level = [fitting(label, cell - 4, _SMALL) for label in class_names]
    is_level = all(short == label for short, label in zip(level, class_names, strict=True))
    if is_level:
        labels = [fitting(label, left - 10) for label in class_names]
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    parts = [text(2, 14, "rows: true class; columns: predicted class", style="label")]
    for j in range(n):
        parts.append(text(left + (j + 0.5) * cell, _TOP - 7, level[j] if is_level else str(j + 1), "middle", "small"))
    for i in range(n):
        y = _TOP + i * height
        parts.append(text(left - 6, y + height / 2 + 4, labels[i], "end", "label"))
        for j in range(n):
            x = left + j * cell
            parts += _cell(x, y, (cell, height), int(counts[i, j]), float(shares[i, j]))
    # Drawn last, so that no neighbour covers a line.
    corners = ((left + i * cell, _TOP + i * height) for i in range(n))
    parts += [rectangle(x, y, cell, height, "heat-right") for x, y in corners]
    description = " ".join(_said(i, class_names, counts) for i in range(n))
    return svg(name, title, description, round(_TOP + n * height + 4), parts, width)


def _cell(x: float, y: float, size: tuple[float, float], count: int, share: float) -> list[str]:
    """Return a cell: its colour, its count, and where there is room its share."""
    width, height = size
    place = f'x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}"'
    parts = [f'<rect class="heat" fill-opacity="{share:.2f}" {place}/>']
    shown = f"{count:,}" if CHAR * len(f"{count:,}") <= width - 4 else short_count(count)
    style = ("label" if count else "") + (" small" if CHAR * len(shown) > width - 4 else "")
    middle = x + width / 2
    if height < 44:
        return [*parts, text(middle, y + height / 2 + 4, shown, "middle", style)]
    parts.append(text(middle, y + height / 2 - 1, shown, "middle", style))
    return [*parts, text(middle, y + height / 2 + 13, percent(share), "middle", "label small")]


def _width(label: str) -> float:
    """Return about how wide a label is: the least room that it fits."""
    low, high = 0.0, 2 * CHAR * len(label)
    while high - low > 1:
        middle = (low + high) / 2
        low, high = (low, middle) if fitting(label, middle) == label else (middle, high)
    return high


def _said(i: int, class_names: Sequence[str], counts: NDArray[np.int64]) -> str:
    total, others = int(counts[i].sum()), counts[i].copy()
    if not total:
        return f"{class_names[i]}: no row."
    others[i] = 0
    said = f"{class_names[i]}: {int(counts[i, i]):,} of {total:,} right"
    if not others.any():
        return f"{said}."
    worst = int(others.argmax())
    return f"{said}, {int(others[worst]):,} taken for {class_names[worst]}."
