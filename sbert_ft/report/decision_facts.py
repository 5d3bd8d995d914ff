"""The decision section of a report: the stored threshold and its results, or a classifier's probabilities.

The results are computed here again from the scores, so they always belong to the threshold that is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sbert_ft.evaluation.results import ClassSplit, SplitScores
from sbert_ft.model_folder.decision import Decision
from sbert_ft.report.blocks import Cell, Grid, fact
from sbert_ft.report.charts import Calibrated, calibrated
from sbert_ft.report.content import Report
from sbert_ft.report.facts import inner, judged_splits
from sbert_ft.report.formatting import counted, decimals, interval, plain_number, short_digest, shortened


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


def reached(split: SplitScores, decision: Decision) -> Reached | None:
    """Return the results of the threshold on the pairs; None if labels are missing or a score is not finite."""
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


def decision_grid(report: Report) -> Grid:
    """Return how the model decides; for a model without a threshold see `no_decision`."""
    facts = _class_facts(report) if report.is_classifier else ()
    stored = () if report.decision is None else _threshold_facts(report, report.decision)
    return Grid("How the model decides" if report.is_classifier else "The stored threshold", (), (*facts, *stored))


def _class_facts(report: Report) -> Iterator[tuple[Cell, ...]]:
    """Yield how the class is predicted, and how probabilities are computed."""
    yield fact("Predicted class", "the one with the highest probability")
    calibration = inner(report.metrics, "calibration")
    temperature = inner(calibration, "temperature")
    if temperature is None:
        yield fact("Probabilities", "softmax of the logits", "no temperature was fitted")
        return
    fitted = inner(calibration, "fitted_on")
    n = counted(int(inner(fitted, "n") or 0), report.row_word)
    on = f"fitted on {inner(fitted, 'source')}: {n}; sha256 {short_digest(inner(fitted, 'sha256'))}"
    yield fact("Probabilities", f"softmax of the logits divided by a temperature of {decimals(temperature)}", on)


def _threshold_facts(report: Report, decision: Decision) -> Iterator[tuple[Cell, ...]]:
    """Yield the threshold, its target, and the rows that it was fitted on."""
    span = interval(decision.low, decision.high)
    named = f"{100 * decision.confidence:g} % interval {span}" if span else "no interval"
    names = two_classes(report)
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
    yield fact("Fitted on", f"{fitted.source}", f"{counts}; sha256 {short_digest(fitted.sha256)}")
    if names:
        return
    if decision.calibration is None:
        yield fact("Probabilities", "none: no calibration was fitted")
    else:
        yield fact("Probabilities", f"by {decision.calibration.kind} calibration on the same pairs")


def decision_note(report: Report) -> str:
    """Return what the stored threshold decides."""
    assert report.decision is not None
    names = two_classes(report)
    caution = "It was chosen on dev, so its results on dev are a little too good."
    if names is None:
        return (
            f"A pair is predicted to match if its {report.decision.similarity} is at or above the threshold. {caution}"
        )
    return (
        f"A {report.row_word} is predicted to match if its probability of {quoted_name(names[1])} is at or above the "
        f"threshold. {caution} The predicted class does not depend on it."
    )


def quoted_name(name: str) -> str:
    """Return a class name in quotes, shortened if it is long."""
    return f"“{shortened(name, 60)}”"


def two_classes(report: Report) -> tuple[str, str] | None:
    """Return the names of a classifier's two classes; None if it has more, or the model is not a classifier."""
    names = [split.class_names for split in report.classes]
    names += [tuple(map(str, counts)) for counts in (inner(report.metrics, "classes") or {}).values()]
    return (names[0][0], names[0][1]) if names and len(names[0]) == 2 else None


def second_class_scores(split: ClassSplit) -> SplitScores:
    """Return the probabilities of the second of two classes as scores; rows of that class are the matches."""
    assert len(split.class_names) == 2
    gold = split.gold.astype(np.float64)
    return SplitScores(split.name, split.source, None, split.probabilities[:, 1], gold, None, None)


def probability_grid(report: Report) -> Grid | None:
    """Return log loss and calibration error of a classifier on each split, None if neither was computed."""
    splits = judged_splits(report)
    rows = []
    for key, label in (("log_loss", "Log loss"), ("calibration_error", "Calibration error")):
        values = [inner(of, key) for of in splits.values()]
        if any(value is not None for value in values):
            rows.append((Cell(label), *(Cell("–" if value is None else decimals(value)) for value in values)))
    return Grid("Quality of the probabilities", ("Lower is better", *splits), tuple(rows)) if rows else None


def reached_grid(report: Report) -> Grid | None:
    """Return the results of the threshold on each split, None if there is no threshold or there are no labels."""
    if report.decision is None:
        return None
    names = two_classes(report)
    splits = [*report.splits, *(second_class_scores(split) for split in report.classes if names)]
    found = [(split.name, done) for split in splits if (done := reached(split, report.decision)) is not None]
    if not found:
        return None
    table = {
        f"{report.row_word.capitalize()}s": [f"{done.n:,}" for _, done in found],
        f"Labelled {quoted_name(names[1])}" if names else "Matches": [f"{done.n_matches:,}" for _, done in found],
        "Predicted to match": [f"{done.n_called:,}" for _, done in found],
        "Precision": [_share(done.precision) for _, done in found],
        "Recall": [_share(done.recall) for _, done in found],
        "F1": [_share(done.f1) for _, done in found],
        "Accuracy": [_share(done.n_right / done.n) for _, done in found],
    }
    if report.decision.calibration is not None:
        calibrations = [done.calibration for _, done in found if done.calibration is not None]
        table["Brier score"] = [decimals(each.brier) for each in calibrations]
        table["Calibration error"] = [decimals(each.error) for each in calibrations]
    header = ("With this threshold", *(name for name, _ in found))
    rows = tuple((Cell(name), *map(Cell, values)) for name, values in table.items())
    return Grid(f"Results on each set of {report.row_word}s", header, rows)


def no_decision(report: Report) -> str:
    """Return a sentence that says why there is no threshold."""
    if not report.splits:
        return f"No threshold was chosen: that needs dev {report.row_word}s with scores or labels."
    return "No threshold is stored with this model: none could be chosen on the available pairs."


def _share(value: float | None) -> str:
    return "–" if value is None else decimals(value)
