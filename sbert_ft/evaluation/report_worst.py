"""What the numbers in the table of worst pairs mean: gold, before, after, and the error that orders them.

They are on scales of their own (gold on the file's, a classifier's score from 0 to 1, a cosine), so the table cannot be
read without a sentence on each.
"""

from __future__ import annotations

from collections.abc import Iterator

from sbert_ft.evaluation.report_facts import inner, judged_splits
from sbert_ft.evaluation.results import Report


def worst_note(report: Report) -> str:
    """Return what the error of a pair is, and on which scales the scores are."""
    if any(split.scale is not None for split in report.splits):
        rows = f"{report.row_word}s"
        how = f"Error: the share of {rows} that score lower than this one, minus the share with a lower gold score."
    else:
        how = "Error: for a match, minus the share of non-matches that score higher; for a non-match, of matches lower."
    above = "the model finds the texts too alike" if report.row_word == "pair" else "the score is too high"
    scales = "".join(f" {sentence}" for sentence in _scales(report))
    return f"{how} Above zero {above}.{scales} The file worst_pairs.csv holds them with whole texts."


def _scales(report: Report) -> Iterator[str]:
    """Yield on which scales gold, before and after are, where these are not all the same."""
    scale = next((split.scale for split in report.splits if split.scale is not None), None)
    if report.score_word == "score" and scale is not None:
        yield f"Gold is on the file's scale, {scale[0]:g} to {scale[1]:g}; after is the model's output, 0 to 1."
    for of in judged_splits(report).values():
        if before_is := inner(of, "before_is"):
            yield f"Before is {before_is}."
            return
