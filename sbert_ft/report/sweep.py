"""The table of a sweep as CSV and as an HTML page with a plot."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sbert_ft.config.metrics import METRICS, metric_label
from sbert_ft.data.ledger import counted
from sbert_ft.evaluation.metrics import Score
from sbert_ft.report.blocks import Cell, Charts, Figure, Grid, Items, Paragraph, Section
from sbert_ft.report.charts import IntervalRow, interval_chart
from sbert_ft.report.formatting import decimals, duration
from sbert_ft.report.html_page import escaped, html_page

_MOST_DRAWN: Final = 40


@dataclass(frozen=True)
class SweepRow:
    """A setting in the table.

    Attributes:
        name: Its folder.
        values: Its values by key.
        dev: The metric on dev of each seed that has one: at the end, or where the run stands.
        n_seeds: Seeds that it was to have.
        seconds: Time that its runs took.
        share: Share of the steps that the run which is furthest has made.
        state: finished, stopped, failed or unfinished.
        sentence: Why the first of its failed runs failed; empty where none did.
    """

    name: str
    values: Mapping[str, str]
    dev: Mapping[int, float]
    n_seeds: int
    seconds: float
    share: float
    state: str
    sentence: str = ""

    @property
    def label(self) -> str:
        """The values in words."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items()) or "as configured"

    @property
    def mean(self) -> float | None:
        """The mean over the seeds; None without any."""
        return statistics.fmean(self.dev.values()) if self.dev else None

    @property
    def how_far(self) -> str:
        """The state, and at which share of the steps if that is not the end."""
        return self.state if self.share in (0, 1) else f"{self.state} at {self.share:.0%} of the steps"


@dataclass(frozen=True)
class SweepReport:
    """What the table and the page of a sweep show.

    Attributes:
        title: The page's title.
        metric: By which settings are compared; None before any run was evaluated.
        rows: The settings, best first.
        winner: Name of the best one; None where no run is finished.
        notes: What has to be known to read the table.
        test: Sentences on the test file.
    """

    title: str
    metric: str | None
    rows: Sequence[SweepRow]
    winner: str | None
    notes: Sequence[str] = ()
    test: Sequence[str] = ()

    def cells(self) -> list[tuple[str, ...]]:
        """Return the table: a row of heads, and one for each setting."""
        metric = "metric" if self.metric is None else METRICS[self.metric].short
        cells: list[tuple[str, ...]] = [("setting", f"dev {metric}", "lowest", "highest", "seeds", "time", "")]
        for row in self.rows:
            values = [*row.dev.values()]
            spread = (f"{min(values):.4f}", f"{max(values):.4f}") if len(values) > 1 else ("-", "-")
            mean = "-" if row.mean is None else f"{row.mean:.4f}"
            how_far = "best" if row.name == self.winner else row.how_far
            cells.append((row.label, mean, *spread, f"{len(values)} of {row.n_seeds}", duration(row.seconds), how_far))
        return cells


def sweep_csv(report: SweepReport) -> str:
    """Return the table as CSV: a row for each setting, best first, with full numbers."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    keys = [*report.rows[0].values] if report.rows else []
    seeds = sorted({seed for row in report.rows for seed in row.dev})
    head = ["folder", *keys, "state", "share_of_steps", "mean", "lowest", "highest"]
    writer.writerow([*head, *(f"seed_{seed}" for seed in seeds), "seconds", "error"])
    for row in report.rows:
        values = [*row.dev.values()]
        spread = [repr(each) for each in (row.mean, min(values), max(values))] if values else ["", "", ""]
        own = [repr(row.dev[seed]) if seed in row.dev else "" for seed in seeds]
        facts = [row.name, *row.values.values(), row.state, f"{row.share:.4f}", *spread]
        writer.writerow([*facts, *own, f"{row.seconds:.1f}", row.sentence])
    return out.getvalue()


def sweep_page(report: SweepReport) -> str:
    """Return the HTML page."""
    best = next((row for row in report.rows if row.name == report.winner), None)
    found = "no run is finished" if best is None else f"{best.label}, {decimals(best.mean)} on dev"
    head = [f'<p class="verdict"><strong>The best setting:</strong> {escaped(found)}</p>']
    return html_page(report.title, head, _sections(report))


def _sections(report: SweepReport) -> Iterator[Section]:
    label = metric_label(report.metric or "metric")
    drawn = [row for row in report.rows if row.mean is not None][:_MOST_DRAWN]
    notes = [Items(tuple(report.notes))] if report.notes else []
    heads, *rows = report.cells()
    grid = Grid(
        "Best first; the mean over the seeds",
        heads,
        [tuple(map(Cell, row)) for row in rows],
        "numbers counts",
        scrolls=True,
    )
    yield Section("settings", "Settings", [*_chart(label, drawn), grid, *notes])
    if report.test:
        yield Section("test", "Test", [Paragraph(sentence) for sentence in report.test])
    failed = tuple(f"{row.label}: {row.sentence}" for row in report.rows if row.sentence)
    if failed:
        yield Section("failed", "Runs that failed", [Items(failed)])


def _chart(label: str, rows: Sequence[SweepRow]) -> Iterator[Charts]:
    if not rows:
        return
    drawn = []
    for row in rows:
        values = [*row.dev.values()]
        drawn.append(IntervalRow(row.label, Score(None), Score(row.mean, min(values), max(values))))
    svg = interval_chart("settings", f"{label} by setting", drawn, ("", "mean, from the lowest to the highest seed"))
    caption = f"{counted(len(rows), 'setting')}, best first; runs that were stopped are shown as they stood then."
    yield Charts([Figure(f"{label} on dev", svg, caption)], is_wide=True)
