"""The section of a run with a teacher: gold alone beside gold and silver, and what the silver pairs are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sbert_ft.config.metrics import metric_label
from sbert_ft.data.ledger import counted
from sbert_ft.report.blocks import Block, Cell, Grid, Paragraph, Section, fact
from sbert_ft.report.content import Report, SplitResult, split_order
from sbert_ft.report.formatting import decimals, percent
from sbert_ft.report.scores import score_cell


def silver_section(report: Report) -> Section:
    """Return the section on the silver pairs of a run with a teacher."""
    found = report.metrics["silver"]
    blocks: list[Block] = [Paragraph(_chosen(found))]
    splits = sorted((SplitResult.of_json(name, of) for name, of in found["splits"].items()), key=split_order)
    blocks += [_grid(of) for of in splits]
    blocks.append(
        Paragraph(
            "In brackets: bootstrap intervals; that of a difference is paired, both models on the same resampled "
            "pairs. On dev the better model was chosen, so its difference there is a little too good.",
            is_note=True,
        )
    )
    blocks.append(Grid("The teacher and its silver pairs", (), tuple(_facts(found))))
    blocks.append(_shares(found["shares"]))
    return Section("silver", "Gold alone, and gold with silver pairs", blocks)


def _chosen(found: Mapping[str, Any]) -> str:
    """Return which of the two models was taken, and why."""
    values = ", ".join(f"{name} {_value(value)}" for name, value in found["dev"].items())
    return f"This model learned {found['chosen']}, the better on dev by {metric_label(found['metric'])}: {values}."


def _value(value: float | None) -> str:
    return "undefined" if value is None else decimals(value)


def _grid(of: SplitResult) -> Grid:
    rows = tuple(
        (
            Cell(metric_label(metric)),
            score_cell(of.before[metric]),
            score_cell(after),
            score_cell(of.difference[metric], signed=True),
        )
        for metric, after in of.after.items()
    )
    caption = f"{of.name}: {counted(of.n, 'pair')} of {of.source}"
    return Grid(caption, ("Measure", "Gold alone", "Gold and silver", "Difference"), rows)


def _facts(found: Mapping[str, Any]) -> Iterator[tuple[Cell, ...]]:
    yield fact("Teacher", found["path"], "reads both texts of a pair at once")
    for name, metrics in found["teacher"].items():
        of = SplitResult.of_json(name, {"after": metrics})
        for metric in list(of.after)[:1]:
            cell = score_cell(of.after[metric])
            yield fact(f"Its {metric_label(metric)} on {name}", cell.value, cell.note)
    labelled = f"of {counted(found['n_labelled'], 'pair')} that it labelled, among {counted(found['n_texts'], 'text')}"
    yield fact("Silver pairs", f"{found['n_silver']:,}", labelled)
    n_random = found["n_silver"] - found["n_nearest"]
    yield fact("How they were found", f"{found['n_nearest']:,} of nearest texts", f"{n_random:,} of random ones")


def _shares(shares: Mapping[str, list[float]]) -> Grid:
    """Return the distribution of the gold and of the silver scores, over equal parts of the scale."""
    n = len(shares["gold"])
    rows = tuple(
        (Cell(f"{i / n:g} to {(i + 1) / n:g}"), *(Cell(percent(shares[name][i])) for name in ("gold", "silver")))
        for i in range(n)
    )
    return Grid("Share of the pairs by score, on a scale of 0 to 1", ("Score", "Gold", "Silver"), rows)
