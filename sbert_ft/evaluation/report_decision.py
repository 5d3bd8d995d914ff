"""What the stored threshold is, and what it does on each set of pairs.

Counts are made here anew from the scores, so that what the report says of a threshold is what this threshold does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sbert_ft.evaluation.report_content import Report, SplitScores
from sbert_ft.evaluation.report_facts import Cell, Grid, fact
from sbert_ft.evaluation.report_words import counted, decimals, interval, plain_number, short_digest
from sbert_ft.evaluation.score_charts import Calibrated, calibrated
from sbert_ft.model.decision import Decision


@dataclass(frozen=True)
class Reached:
    """What a threshold does with a set of pairs; None is a share of nothing."""

    n: int
    n_matches: int
    n_called: int
    n_right: int
    precision: float | None
    recall: float | None
    f1: float | None
    calibration: Calibrated | None


def reached(split: SplitScores, decision: Decision) -> Reached | None:
    """Return what the threshold does with the pairs, None where nobody says which of them match."""
    labels, whole = split.labels, np.isfinite(split.after)
    if labels is None or not len(labels) or not whole.all():
        return None
    called = decision.match(split.after)
    hits, n_matches, n_called = int((called & labels).sum()), int(labels.sum()), int(called.sum())
    return Reached(
        n=len(labels),
        n_matches=n_matches,
        n_called=n_called,
        n_right=int((called == labels).sum()),
        precision=hits / n_called if n_called else None,
        recall=hits / n_matches if n_matches else None,
        f1=2 * hits / (n_called + n_matches) if n_matches else None,
        calibration=None if decision.calibration is None else calibrated(decision.probability(split.after), labels),
    )


def decision_facts(decision: Decision) -> Grid:
    """Return what the threshold is, what it was chosen for, and on what."""
    span = interval(decision.low, decision.high)
    named = f"{100 * decision.confidence:g} % interval {span}" if span else "no interval"
    rows = [fact("Threshold", decimals(decision.threshold), named), fact("Chosen for", decision.target)]
    if decision.reached:
        values = ", ".join(f"{name} {decimals(value)}" for name, value in decision.reached.items())
        rows.append(fact("Reached where it was chosen", values))
    if decision.match_from is not None:
        scale = "" if decision.scale is None else f", on a scale of {decision.scale[0]:g} to {decision.scale[1]:g}"
        rows.append(fact("A pair belongs together", f"from a gold score of {decision.match_from:g} on{scale}"))
    fitted = decision.fitted_on
    counts = f"{counted(fitted.n, 'pair')}, {plain_number(fitted.n_matches)} of them matches"
    rows.append(fact("Fitted on", f"{fitted.source}", f"{counts}; sha256 {short_digest(fitted.sha256)}"))
    if decision.calibration is None:
        rows.append(fact("Probabilities", "none: no calibration was fitted"))
    else:
        rows.append(fact("Probabilities", f"by {decision.calibration.kind} calibration on the same pairs"))
    return Grid("The stored threshold", (), tuple(rows))


def reached_grid(report: Report) -> Grid | None:
    """Return what the threshold does on each split, None where there is no threshold or no labels."""
    if report.decision is None:
        return None
    found = [(split.name, done) for split in report.splits if (done := reached(split, report.decision)) is not None]
    if not found:
        return None
    table = {
        "Pairs": [f"{done.n:,}" for _, done in found],
        "Matches": [f"{done.n_matches:,}" for _, done in found],
        "Said to match": [f"{done.n_called:,}" for _, done in found],
        "Precision": [_share(done.precision) for _, done in found],
        "Recall": [_share(done.recall) for _, done in found],
        "F1": [_share(done.f1) for _, done in found],
        "Accuracy": [_share(done.n_right / done.n) for _, done in found],
    }
    if report.decision.calibration is not None:
        judged = [done.calibration for _, done in found if done.calibration is not None]
        table["Brier score"] = [decimals(each.brier) for each in judged]
        table["Calibration error"] = [decimals(each.error) for each in judged]
    header = ("With this threshold", *(name for name, _ in found))
    rows = tuple((Cell(name), *map(Cell, values)) for name, values in table.items())
    return Grid("What it does on each set of pairs", header, rows)


def no_decision(report: Report) -> str:
    """Return why there may be no threshold."""
    if not report.splits:
        return "No threshold was chosen: that needs dev pairs with scores or labels."
    return "No threshold is stored with this model: none could be chosen on the pairs at hand."


def _share(value: float | None) -> str:
    return "–" if value is None else decimals(value)
