"""The sentences and small tables of a report.

If a run lacks something (a dev set, scores of the base model, a threshold, a defined metric), a sentence says so.
Everything is read from the `Report` only, so equal reports give equal text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sbert_ft.config.metrics import metric_label
from sbert_ft.evaluation.results import Json
from sbert_ft.report.blocks import Cell, Grid, fact
from sbert_ft.report.content import Report
from sbert_ft.report.formatting import (
    capitalised,
    counted,
    decimals,
    inside_sentence,
    interval,
    plain_number,
)

VerdictKind = Literal["better", "worse", "unclear", "unknown"]
_HEADLINES: Final[Mapping[VerdictKind, str]] = {
    "better": "Better",
    "worse": "Worse",
    "unclear": "No clear difference",
    "unknown": "Not compared",
}
_THAN: Final[Mapping[VerdictKind, str]] = {"better": "than", "worse": "than", "unclear": "from"}
_MAIN_METRICS: Final = ("spearman", "average_precision", "pearson", "roc_auc", "f1", "macro_f1", "accuracy")


@dataclass(frozen=True)
class Verdict:
    """Whether the model is better than before, and the numbers that show it."""

    kind: VerdictKind
    headline: str
    sentence: str


def inner(content: object, *keys: str) -> Any:
    """Return the value under these keys of nested JSON, None if a key is missing."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def judged_splits(report: Report) -> Mapping[str, Json]:
    """Return the results of each split in metrics.json, test first: nothing was chosen on it."""
    splits = inner(report.metrics, "splits") or {}
    return {name: splits[name] for name in sorted(splits, key=lambda name: (name != "test", name))}


def main_metric(report: Report, of: Json) -> str | None:
    """Return the metric used for the verdict: the one that chose the best step, if the split has it."""
    names = (inner(report.metrics, "best", "metric"), *_MAIN_METRICS, *(inner(of, "after") or {}))
    after = inner(of, "after") or {}
    return next((name for name in names if isinstance(name, str) and name in after), None)


def verdict(report: Report) -> Verdict:
    """Return whether the model is better: by the interval of the difference on test, or on dev without a test."""
    splits = judged_splits(report)
    found = [(name, of, metric) for name, of in splits.items() if (metric := main_metric(report, of)) is not None]
    found.sort(key=lambda each: inner(each[1], "difference", each[2], "value") is None)
    if not found:
        return Verdict("unknown", "Not evaluated", f"{not_judged(report)}, so it is not known how good this model is.")
    name, of, metric = found[0]
    before_is = inner(of, "before_is")
    evaluated = _judged_classes if report.is_classifier else _judged
    kind, sentence = evaluated(f"on {name} ({counted(int(inner(of, 'n') or 0), report.row_word)})", of, metric)
    if len(found) > 1:
        other, of, metric = found[1]
        sentence += f" {_in_short(other, of, metric)}"
    elif found[0][0] == "dev" and kind != "unknown":
        sentence += (
            " The best step was also chosen on dev, so the result is a little too good; a test file avoids this."
        )
    than = _THAN.get(kind, "")
    headline = _HEADLINES[kind] if before_is is None or not than else f"{_HEADLINES[kind]} {than} {before_is}"
    if kind in ("better", "unclear") and (clearly := _better_without_training(*found[0])) is not None:
        headline += f", {'but' if kind == 'better' else 'and'} worse than {clearly[0]}"
        return Verdict("worse", headline, f"{sentence} {clearly[1]}")
    return Verdict(kind, headline, sentence)


def _better_without_training(name: str, of: Json, metric: str) -> tuple[str, str] | None:
    """Return a baseline without training that is clearly better than the classifier, and a sentence about it."""
    for who, differences in (inner(of, "baseline_differences") or {}).items():
        difference, theirs = inner(differences, metric), inner(of, "baselines", who, metric)
        high = inner(difference, "high")
        if high is not None and high < 0 and inner(theirs, "value") is not None:
            label, value = inside_sentence(metric_label(metric)), decimals(theirs["value"])
            change = _said(difference, signed=True)
            return who, f"But {who} has a {label} of {value} on {name}; the model differs from it by {change}."
    return None


def not_judged(report: Report) -> str:
    """Return the clause, without a full stop, that there were no rows to evaluate the model on."""
    return (
        f"there were neither dev nor test {report.row_word}s with {'' if report.is_classifier else 'scores or '}labels"
    )


def _judged_classes(where: str, of: Json, metric: str) -> tuple[VerdictKind, str]:
    """Return the verdict on a classifier, compared with another predictor: a new head has no scores before training."""
    label, before_is = inside_sentence(metric_label(metric)), inner(of, "before_is")
    after, before, difference = (inner(of, part, metric) for part in ("after", "before", "difference"))
    if inner(after, "value") is None:
        return "unknown", f"{where} the {label} is undefined ({inner(after, 'reason') or 'no reason was recorded'})."
    said = f"{where} the {label} is {_said(after)}"
    if before is None:
        return "unknown", f"{said}; there is nothing to compare it with."
    if inner(before, "value") is None:
        why = inner(before, "reason") or "no reason was recorded"
        return "unknown", f"{said}; that of {before_is} is undefined ({why})."
    said += f", that of {before_is} {decimals(before['value'])}"
    low, high = inner(difference, "low"), inner(difference, "high")
    if low is None or high is None:
        return "unclear", f"{said}; the difference has no interval, so it may be chance."
    kind: VerdictKind = "better" if low > 0 else "worse" if high < 0 else "unclear"
    contains_zero = ", an interval that contains zero" if kind == "unclear" else ""
    return kind, f"{said}: a difference of {_said(difference, signed=True)}{contains_zero}."


def _judged(where: str, of: Json, metric: str) -> tuple[VerdictKind, str]:
    label, after = inside_sentence(metric_label(metric)), inner(of, "after", metric)
    before, difference = inner(of, "before", metric), inner(of, "difference", metric)
    if inner(after, "value") is None:
        return "unknown", f"{where} the {label} is undefined ({inner(after, 'reason') or 'no reason was recorded'})."
    if inner(before, "value") is None:
        why = inner(before, "reason") or "the base model was not scored on these pairs"
        return "unknown", f"{where} the {label} is {_said(after)}; there is nothing to compare it with ({why})."
    change = _said(difference, signed=True)
    span = f"the {label} went from {decimals(before['value'])} to {decimals(after['value'])}"
    low, high = inner(difference, "low"), inner(difference, "high")
    if low is None or high is None:
        return "unclear", f"{where} {span}, by {change}; the change has no interval, so it may be chance."
    if low > 0 or high < 0:
        verb = "rose" if low > 0 else "fell"
        return ("better" if low > 0 else "worse"), f"{where} {span.replace('went', verb)}, by {change}."
    return "unclear", f"{where} {span}, by {change}, an interval that contains zero."


def _said(score: object, *, signed: bool = False) -> str:
    cell = score_cell(score, signed=signed)
    return f"{cell.value} {cell.note}".strip()


def _in_short(name: str, of: Json, metric: str) -> str:
    difference = inner(of, "difference", metric)
    if inner(difference, "value") is None:
        now = inner(of, "after", metric)
        return f"On {name} it is {'undefined' if inner(now, 'value') is None else _said(now)}."
    return f"On {name} the difference is {_said(difference, signed=True)}."


def score_cell(score: object, *, signed: bool = False) -> Cell:
    """Return a metric with its interval, or a dash with the reason if it has no value."""
    value, reason = inner(score, "value"), inner(score, "reason")
    if value is None:
        return Cell("–", f"undefined: {reason}" if reason else "not known")
    span = interval(inner(score, "low"), inner(score, "high"), signed=signed)
    return Cell(decimals(value, signed=signed), span or str(reason or ""))


def score_grids(report: Report) -> Iterator[Grid]:
    """Yield a table for each split with its measures before and after."""
    for name, of in judged_splits(report).items():
        n = counted(int(inner(of, "n") or 0), report.row_word)
        caption = f"{name}: {n} of {inner(of, 'source') or 'an unnamed source'}"
        after, before = inner(of, "after") or {}, inner(of, "before") or {}
        if report.is_classifier:
            yield _predictors_grid(caption, of)
            continue
        if not before:
            rows = [(Cell(metric_label(metric)), score_cell(score)) for metric, score in after.items()]
            yield Grid(caption, ("Measure", "After"), tuple(rows))
            continue
        rows_of_four = []
        for metric, score in after.items():
            difference = score_cell(inner(of, "difference", metric), signed=True)
            old = score_cell(before.get(metric))
            rows_of_four.append((Cell(metric_label(metric)), old, score_cell(score), difference))
        yield Grid(caption, ("Measure", "Before", "After", "Difference"), tuple(rows_of_four))


def _predictors_grid(caption: str, of: Json) -> Grid:
    """Return a table with one row per predictor: the baselines, this classifier, and the differences."""
    names = tuple(inner(of, "after") or {})
    before_is, before = inner(of, "before_is"), inner(of, "before") or {}
    others = {str(name): scores for name, scores in (inner(of, "baselines") or {}).items() if name != before_is}
    if before:
        others = {str(before_is or "before"): before, **others}
    rows = [
        (Cell(capitalised(who)), *(score_cell(inner(scores, name)) for name in names)) for who, scores in others.items()
    ]
    rows.append((Cell("This model"), *(score_cell(of["after"][name]) for name in names)))
    differences = {str(before_is): inner(of, "difference")} | (inner(of, "baseline_differences") or {})
    for who, changes in differences.items():
        if changes:
            cells = (score_cell(inner(changes, name), signed=True) for name in names)
            rows.append((Cell("Difference", f"from {who}"), *cells))
    return Grid(caption, ("Predictor", *map(metric_label, names)), tuple(rows))


def split_notes(report: Report) -> Iterator[str]:
    """Yield a note on how the rows of a split were made, if they are not simply the rows of its file."""
    for name, of in judged_splits(report).items():
        if note := inner(of, "note"):
            yield f"The {report.row_word}s of {name}: {note}."


def interval_note(report: Report) -> str:
    """Return a sentence that explains the brackets."""
    confidence = inner(report.settings, "evaluation", "confidence") or 0.95
    samples = inner(report.settings, "evaluation", "bootstrap_samples")
    of = f" of {plain_number(samples)} resamples" if samples else ""
    meaning = f"In brackets: the {100 * confidence:g} % bootstrap interval{of}."
    if not any(inner(split, "before") for split in judged_splits(report).values()):
        nothing = (
            "There is nothing to compare it with"
            if report.is_classifier
            else (f"The base model was not scored on these {report.row_word}s")
        )
        return f"{meaning} {nothing}, so there is no difference to show."
    if report.is_classifier:
        return f"{meaning} The interval of a difference is paired: both on the same resampled {report.row_word}s."
    before_is = next((is_ for split in judged_splits(report).values() if (is_ := inner(split, "before_is"))), None)
    both = "both models" if before_is is None else "both"
    paired = f"{meaning} The interval of a difference is paired: {both} on the same resampled pairs."
    if before_is is not None:
        paired = f"Before: {before_is}. After: this model. {paired}"
    if any(inner(split, "before", "f1") for split in judged_splits(report).values()):
        paired += (
            f" F1 and the measures after it: {'each model' if before_is is None else 'each'} with its own threshold."
        )
    return paired


def ledger_facts(ledger: Json) -> Grid:
    """Return a data file's name, format, sha256 and numbers of rows."""
    kept, total = inner(ledger, "n_kept"), inner(ledger, "n_rows")
    rows = (
        fact("File", str(inner(ledger, "source"))),
        fact("Read as", str(inner(ledger, "format"))),
        fact("sha256", str(inner(ledger, "sha256"))),
        fact("Rows", f"{plain_number(total)} in the file, {plain_number(kept)} kept"),
    )
    return Grid("", (), rows)


def ledger_findings(ledger: Json) -> Grid | None:
    """Return the findings in a file's rows, None if there are none."""
    rows = []
    for finding in inner(ledger, "findings") or ():
        first, count = inner(finding, "first") or (), int(inner(finding, "count") or 0)
        lines = ", ".join(map(str, first)) + (" …" if count > len(first) else "")
        dropped = "left out" if inner(finding, "dropped") else "kept"
        kind = str(inner(finding, "kind")).replace("_", " ")
        rows.append((Cell(kind, str(inner(finding, "sentence"))), Cell(f"{count:,}"), Cell(dropped), Cell(lines)))
    return (
        Grid("Findings", ("Finding", "Rows", "Status", "First lines"), tuple(rows), "numbers found") if rows else None
    )


def evaluations(report: Report) -> Sequence[Json]:
    """Return the evaluations on dev by step; of a step logged twice (after a resume) the last line counts."""
    lines = [line for line in report.log if line.get("kind") == "eval" and line.get("split", "dev") == "dev"]
    return [line for _, line in sorted({int(line["step"]): line for line in lines}.items())]


def train_lines(report: Report) -> Sequence[Json]:
    """Return the logged training steps in order; of a step logged twice the last line counts."""
    lines = {int(line["step"]): line for line in report.log if line.get("kind") == "train"}
    return [line for _, line in sorted(lines.items())]


def worst_note(report: Report) -> str:
    """Return sentences that define the error of a pair and the scales of the scores."""
    if any(split.scale is not None for split in report.splits):
        rows = f"{report.row_word}s"
        how = f"Error: the share of {rows} that score lower than this one, minus the share with a lower gold score."
    else:
        how = (
            "Error: for a match, minus the share of non-matches that score higher; for a non-match, the share of "
            "matches that score lower."
        )
    above = "the model finds the texts too similar" if report.row_word == "pair" else "the score is too high"
    scales = "".join(f" {sentence}" for sentence in _scales(report))
    return f"{how} Above zero, {above}.{scales} The file worst_pairs.csv has them with full texts."


def _scales(report: Report) -> Iterator[str]:
    """Yield the scales of gold, before and after, if they differ."""
    scale = next((split.scale for split in report.splits if split.scale is not None), None)
    if report.score_word == "score" and scale is not None:
        yield f"Gold is on the file's scale, {scale[0]:g} to {scale[1]:g}; after is the model's output, 0 to 1."
    for of in judged_splits(report).values():
        if before_is := inner(of, "before_is"):
            yield f"Before is {before_is}."
            return
