"""The section on the negatives that a run has mined for its pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sbert_ft.evaluation.results import Json
from sbert_ft.report.blocks import Block, Cell, Grid, Paragraph, Section, TextRow, Texts
from sbert_ft.report.content import Report
from sbert_ft.report.formatting import decimals, plain_number

_RULES: Final = {
    "dev": "a probability above {most}, by a calibration that is fitted on dev each time",
    "stored": "a probability above {most}, by the calibration that was stored with the base model",
    "margin": "a cosine above 95 % of that of the first text's positive, because there is no calibration",
}


def negatives_section(report: Report) -> Section:
    """Return the section with what was mined before which epoch, and the nearest negatives of the last time."""
    heading, wanted = "Mined negatives", report.settings.data.negatives
    by_epoch = {line["epoch"]: line for line in report.log if line.get("kind") == "negatives"}
    if not by_epoch or wanted is None:
        return Section("negatives", heading, [Paragraph("The run logged no mined negatives.")])
    mined = [line for _, line in sorted(by_epoch.items())]
    note = (
        "Negatives are second texts of other pairs that are near to a pair's first text, by the model as it was "
        "before the epoch. Texts likely to match were left out: by {how}. The files negatives-1.csv and suspects-1.csv "
        "(by epoch) have all of them: a suspect that matches is a pair to add, a negative that matches is a wrong one."
    )
    how = "; or ".join(_RULES[rule].format(most=plain_number(wanted.max_probability)) for rule in _rules_in(mined))
    header = ("Before epoch", "Negatives", "Mean cosine", "Drawn at random", "Suspects left out")
    rows = [
        (
            Cell(f"{line['epoch']:,}"),
            Cell(f"{line['n']:,}"),
            Cell(decimals(line["mean_cosine"])),
            Cell(f"{line['n_drawn']:,}"),
            Cell(f"{line['n_suspects']:,}"),
        )
        for line in mined
    ]
    blocks: list[Block] = [Paragraph(note.format(how=how)), Grid("Negatives", header, rows)]
    nearest = [
        TextRow("train", line, (first, second, text), (decimals(cosine), decimals(probability)))
        for line, first, second, text, cosine, probability in mined[-1]["examples"]
    ]
    if nearest:
        caption = f"The nearest negatives of epoch {mined[-1]['epoch']}: first text, second text, negative"
        blocks.append(Texts(caption, ("Cosine", "Probability"), 0, nearest, "negative"))
    return Section("negatives", heading, blocks)


def _rules_in(mined: Sequence[Json]) -> list[str]:
    """Return the rules by which suspects were told, each once."""
    return list(dict.fromkeys(str(line["rule"]) for line in mined))
