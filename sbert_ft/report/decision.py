"""The decision section of a report: the stored threshold and its results, or a classifier's probabilities.

The results are computed here again from the scores, so they always belong to the threshold that is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sbert_ft.data.ledger import counted
from sbert_ft.evaluation.results import ClassSplit, SplitScores
from sbert_ft.model_folder.decision import Decision
from sbert_ft.report.blocks import Beside, Cell, Grid, Paragraph, Section, fact
from sbert_ft.report.charts import Calibrated, calibrated
from sbert_ft.report.content import Report
from sbert_ft.report.formatting import decimals, interval, plain_number, shortened


@dataclass(frozen=True)
class Reached:
    """The results of a threshold on a set of pairs; a share is None if its denominator is 0."""

    n: int
    n_matches: int
    n_called: int
    n_right: int
    precision: float | None
    recall: float | None
    f1: float | None
    calibration: Calibrated | None


def reached(split: SplitScores, decision: Decision | None) -> Reached | None:
    """Return the results of the threshold; None without one, without labels, or if a score is not finite."""
    labels = split.labels
    if decision is None or labels is None or not len(labels) or not np.isfinite(split.after).all():
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
        calibration=None
        if decision.calibration is None
        else calibrated(decision.calibration.probability(split.after), labels),
    )


def decision_section(report: Report) -> Section:
    """Return the section about the threshold and the probabilities."""
    decision, names, row = report.decision, _two_classes(report), report.row_word
    if report.is_classifier:
        title, facts = "How the model decides", [*_class_facts(report)]
    elif decision is not None:
        title, facts = "The stored threshold", []
    else:
        why = f"No threshold was chosen: that needs dev {row}s with scores or labels."
        if report.splits:
            why = "No threshold is stored with this model: none could be chosen on the available pairs."
        return Section("decision", "Decision", [Paragraph(why)])
    grids, notes = [_probability_grid(report)] if report.is_classifier else [], []
    if decision is not None:
        facts += _threshold_facts(report, decision, names)
        grids.append(_reached_grid(report, decision, names))
        caution = "It was chosen on dev, so its results on dev are a little too good."
        value = f"probability of {quoted_name(names[1])}" if names else decision.similarity
        note = f"A {row if names else 'pair'} is predicted to match if its {value} is at or above the threshold."
        more = " The predicted class does not depend on it." if names else ""
        notes = [Paragraph(f"{note} {caution}{more}", is_note=True)]
    right = [grid for grid in grids if grid is not None]
    return Section("decision", "Decision", [Beside((Grid(title, (), facts),), right), *notes])


def _class_facts(report: Report) -> Iterator[tuple[Cell, ...]]:
    """Yield how the class is predicted, and how probabilities are computed."""
    yield fact("Predicted class", "the one with the highest probability")
    calibration = report.metrics.get("calibration")
    if calibration is None:
        yield fact("Probabilities", "softmax of the logits", "no temperature was fitted")
        return
    fitted = calibration["fitted_on"]
    n, temperature = counted(fitted["n"], report.row_word), decimals(calibration["temperature"])
    on = f"fitted on {fitted['source']}: {n}; sha256 {fitted['sha256'][:12]}"
    yield fact("Probabilities", f"softmax of the logits divided by a temperature of {temperature}", on)


def _threshold_facts(report: Report, decision: Decision, names: tuple[str, ...] | None) -> Iterator[tuple[Cell, ...]]:
    """Yield the threshold, its target, and the rows that it was fitted on."""
    span = interval(decision.low, decision.high)
    named = f"{100 * decision.confidence:g} % interval {span}" if span else "no interval"
    of = f"of the probability of {quoted_name(names[1])}, " if names else ""
    yield fact("Threshold", decimals(decision.threshold), of + named)
    yield fact("Chosen for", decision.target)
    if decision.reached:
        values = ", ".join(f"{name} {decimals(value)}" for name, value in decision.reached.items())
        yield fact("Reached on the fitting data", values)
    if decision.match_from is not None:
        scale = "" if decision.scale is None else f", on a scale of {decision.scale[0]:g} to {decision.scale[1]:g}"
        yield fact("A pair is a match", f"if its gold score is at least {decision.match_from:g}{scale}")
    fitted = decision.fitted_on
    matches = f"labelled {quoted_name(names[1])}" if names else "matches"
    counts = f"{counted(fitted.n, report.row_word)}, {plain_number(fitted.n_matches)} of them {matches}"
    yield fact("Fitted on", fitted.source, f"{counts}; sha256 {fitted.sha256[:12]}")
    if not names:
        kind = None if decision.calibration is None else decision.calibration.kind
        how = "none: no calibration was fitted" if kind is None else f"by {kind} calibration on the same pairs"
        yield fact("Probabilities", how)


def quoted_name(name: str) -> str:
    """Return a class name in quotes, shortened if it is long."""
    return f"“{shortened(name, 60)}”"


def _two_classes(report: Report) -> tuple[str, ...] | None:
    """Return the names of a classifier's two classes; None if it has more, or the model is not a classifier."""
    names = report.classes[0].class_names if report.classes else ()
    return names if len(names) == 2 else None


def second_class_scores(split: ClassSplit) -> SplitScores:
    """Return the probabilities of the second of two classes as scores; rows of that class are the matches."""
    gold = split.gold.astype(np.float64)
    return SplitScores(split.name, split.source, None, split.probabilities[:, 1], gold, None, None)


def _probability_grid(report: Report) -> Grid | None:
    """Return log loss and calibration error of a classifier on each split, None if there are none."""
    results = [of for of in report.results if of.log_loss is not None]
    rows = (
        (Cell("Log loss"), *(Cell(decimals(of.log_loss)) for of in results)),
        (Cell("Calibration error"), *(Cell(decimals(of.calibration_error)) for of in results)),
    )
    header = ("Lower is better", *(of.name for of in results))
    return Grid("Quality of the probabilities", header, rows) if results else None


def _reached_grid(report: Report, decision: Decision, names: tuple[str, ...] | None) -> Grid | None:
    """Return the results of the threshold on each split, None if there are no labels."""
    splits = [*report.splits, *(second_class_scores(split) for split in report.classes if names)]
    found = {split.name: done for split in splits if (done := reached(split, decision)) is not None}
    if not found:
        return None
    each = found.values()
    table = {
        f"{report.row_word.capitalize()}s": [f"{done.n:,}" for done in each],
        f"Labelled {quoted_name(names[1])}" if names else "Matches": [f"{done.n_matches:,}" for done in each],
        "Predicted to match": [f"{done.n_called:,}" for done in each],
        "Precision": [decimals(done.precision) for done in each],
        "Recall": [decimals(done.recall) for done in each],
        "F1": [decimals(done.f1) for done in each],
        "Accuracy": [decimals(done.n_right / done.n) for done in each],
    }
    calibrations = [done.calibration for done in each if done.calibration is not None]
    if calibrations:
        table["Brier score"] = [decimals(calibration.brier) for calibration in calibrations]
        table["Calibration error"] = [decimals(calibration.error) for calibration in calibrations]
    rows = [(Cell(name), *map(Cell, values)) for name, values in table.items()]
    return Grid(f"Results on each set of {report.row_word}s", ("With this threshold", *found), rows)
