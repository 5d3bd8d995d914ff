"""The facts of a report as sentences and small tables, the same for the page and for the short text.

Whatever a run did not have (a dev set, a base model's scores, a threshold, a metric that is defined) becomes a sentence
that says so. Everything is read from the report alone, so equal reports give equal words.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from sbert_ft.evaluation.report_content import Json, Report
from sbert_ft.evaluation.report_words import (
    counted,
    decimals,
    duration,
    inside_sentence,
    interval,
    metric_label,
    plain_number,
    short_digest,
)

VerdictKind = Literal["better", "worse", "unclear", "unknown"]
_HEADLINES: Final[Mapping[VerdictKind, str]] = {
    "better": "Better",
    "worse": "Worse",
    "unclear": "No clear difference",
    "unknown": "Not compared",
}
_MAIN_METRICS: Final = ("spearman", "average_precision", "pearson", "roc_auc", "f1", "accuracy")


class Cell(NamedTuple):
    """A value in a table, and what is said of it in smaller letters, such as its interval."""

    value: str
    note: str = ""


@dataclass(frozen=True)
class Grid:
    """A table: the first cell of each row names the row.

    Attributes:
        caption: What it holds; empty where a heading says so.
        header: Names of the columns; none for a list of facts with two columns.
        rows: Cells, as many as columns.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Verdict:
    """Whether the model is better than before, and why one says so."""

    kind: VerdictKind
    headline: str
    sentence: str


def fact(name: str, value: str, note: str = "") -> tuple[Cell, ...]:
    """Return a row of a list of facts."""
    return Cell(name), Cell(value, note)


def inner(content: object, *keys: str) -> Any:
    """Return what stands under these keys of nested JSON, None where one is not there."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def judged_splits(report: Report) -> Mapping[str, Json]:
    """Return what metrics.json says of each split, test first: nothing was chosen by it."""
    splits = inner(report.metrics, "splits") or {}
    return {name: splits[name] for name in sorted(splits, key=lambda name: (name != "test", name))}


def main_metric(report: Report, of: Json) -> str | None:
    """Return the metric that a split is judged by: the one that chose the best step, if it is there."""
    names = (inner(report.metrics, "best", "metric"), *_MAIN_METRICS, *(inner(of, "after") or {}))
    after = inner(of, "after") or {}
    return next((name for name in names if isinstance(name, str) and name in after), None)


def verdict(report: Report) -> Verdict:
    """Return whether the model is better, by the interval of the difference: on test, or else on dev."""
    splits = judged_splits(report)
    found = [(name, of, metric) for name, of in splits.items() if (metric := main_metric(report, of)) is not None]
    found.sort(key=lambda each: inner(each[1], "difference", each[2], "value") is None)
    if not found:
        reason = "there were neither dev nor test pairs with scores or labels, so nothing says how good this model is."
        return Verdict("unknown", "Not judged", reason)
    kind, sentence = _judged(*found[0])
    if len(found) > 1:
        other, of, metric = found[1]
        sentence += f" {_in_short(other, of, metric)}"
    elif found[0][0] == "dev" and kind != "unknown":
        sentence += " Dev also chose the best step, which flatters the model a little; a test file would not."
    return Verdict(kind, _HEADLINES[kind], sentence)


def _judged(name: str, of: Json, metric: str) -> tuple[VerdictKind, str]:
    label, after = inside_sentence(metric_label(metric)), inner(of, "after", metric)
    where = f"on {name} ({counted(int(inner(of, 'n') or 0), 'pair')})"
    before, difference = inner(of, "before", metric), inner(of, "difference", metric)
    if inner(after, "value") is None:
        return "unknown", f"{where} the {label} is undefined ({inner(after, 'reason') or 'no reason is on record'})."
    if inner(before, "value") is None:
        why = inner(before, "reason") or "the base model was not scored on these pairs"
        return "unknown", f"{where} the {label} is {_said(after)}; there is nothing to compare it with ({why})."
    change = _said(difference, signed=True)
    span = f"the {label} went from {decimals(before['value'])} to {decimals(after['value'])}"
    low, high = inner(difference, "low"), inner(difference, "high")
    if low is None or high is None:
        return "unclear", f"{where} {span}, by {change}; there is no interval to hold that against."
    if low > 0 or high < 0:
        verb = "rose" if low > 0 else "fell"
        return ("better" if low > 0 else "worse"), f"{where} {span.replace('went', verb)}, by {change}."
    return "unclear", f"{where} {span}, by {change}: an interval that holds zero."


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
    """Return a metric with its interval, or a dash with the reason why it has no value."""
    value, reason = inner(score, "value"), inner(score, "reason")
    if value is None:
        return Cell("–", f"undefined: {reason}" if reason else "not known")
    span = interval(inner(score, "low"), inner(score, "high"), signed=signed)
    return Cell(decimals(value, signed=signed), span or str(reason or ""))


def score_grids(report: Report) -> Iterator[Grid]:
    """Yield for each split its measures before and after."""
    for name, of in judged_splits(report).items():
        after, before = inner(of, "after") or {}, inner(of, "before") or {}
        caption = f"{name}: {counted(int(inner(of, 'n') or 0), 'pair')} of {inner(of, 'source') or 'an unnamed source'}"
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


def split_notes(report: Report) -> Iterator[str]:
    """Yield how the pairs of a split were made, where they are not simply those of its file."""
    for name, of in judged_splits(report).items():
        if note := inner(of, "note"):
            yield f"The pairs of {name}: {note}."


def interval_note(report: Report) -> str:
    """Return what the brackets mean."""
    confidence = inner(report.settings, "evaluation", "confidence") or 0.95
    samples = inner(report.settings, "evaluation", "bootstrap_samples")
    of = f" of {plain_number(samples)} resamples" if samples else ""
    meaning = f"In brackets: the {100 * confidence:g} % bootstrap interval{of}."
    if not any(inner(split, "before") for split in judged_splits(report).values()):
        return f"{meaning} The base model was not scored on these pairs, so there is no difference to show."
    paired = f"{meaning} That of a difference is paired: both models on the same resampled pairs."
    if any(inner(split, "before", "f1") for split in judged_splits(report).values()):
        paired += " F1 and what follows it: each model by a threshold of its own."
    return paired


def training_grid(report: Report) -> Grid:
    """Return what was trained on what, with the settings that matter, versions, device and time."""
    rows = [*_model_facts(report), *_data_facts(report), *_loop_facts(report), *_run_facts(report)]
    return Grid("What was trained on what", (), tuple(rows))


def _model_facts(report: Report) -> Iterator[tuple[Cell, ...]]:
    model = inner(report.settings, "model") or {}
    yield fact("Model", str(inner(model, "path") or "not said"))
    parts = []
    if model.get("max_seq_length") is not None:
        parts.append(f"texts of at most {plain_number(model['max_seq_length'])} tokens")
    parts += [f"{key} {plain_number(model[key])}" for key in ("pooling", "dropout") if model.get(key) is not None]
    if model.get("freeze_embeddings"):
        parts.append("embeddings frozen")
    if model.get("freeze_layers"):
        parts.append(f"lowest {counted(int(model['freeze_layers']), 'layer')} frozen")
    if parts:
        yield fact("Set for the model", ", ".join(parts))


def _data_facts(report: Report) -> Iterator[tuple[Cell, ...]]:
    for name, ledger in report.ledgers.items():
        rows = f"{plain_number(inner(ledger, 'n_kept'))} of {plain_number(inner(ledger, 'n_rows'))} rows"
        digest = inner(ledger, "sha256")
        yield fact(f"Data: {name}", str(inner(ledger, "source")), f"{rows}; sha256 {short_digest(digest)}")


def _loop_facts(report: Report) -> Iterator[tuple[Cell, ...]]:
    training = inner(report.settings, "training") or {}
    objectives = inner(report.settings, "objective") or inner(report.metrics, "objective")
    if objectives:
        listed = [objectives] if isinstance(objectives, (str, Mapping)) else list(objectives)
        yield fact("Objective", " + ".join(_objective(each) for each in listed))
    if not training:
        return
    batch = f"{plain_number(training.get('batch_size'))} a batch"
    if (training.get("accumulation_steps") or 1) > 1:
        batch += f", {plain_number(training['accumulation_steps'])} batches a step"
    yield fact("Pairs", batch)
    rate = f"{plain_number(training.get('learning_rate'))} at the peak, {training.get('schedule', 'linear')}"
    warmup = training.get("warmup_steps")
    warm = (
        f"{warmup:,} steps" if warmup is not None else f"{100 * (training.get('warmup_ratio') or 0):g} % of the steps"
    )
    yield fact("Learning rate", f"{rate}, warm-up over {warm}")
    decay, norm = training.get("weight_decay"), training.get("max_grad_norm")
    yield fact("Weight decay, gradient norm", f"{plain_number(decay)}, at most {plain_number(norm)}")
    yield fact("Seed", str(training.get("seed", "not said")))


def _objective(objective: object) -> str:
    if not isinstance(objective, Mapping):
        return str(objective)
    weight = objective.get("weight", 1.0)
    extra = {k: v for k, v in objective.items() if k not in ("name", "weight") and v is not None and v is not False}
    details = ", ".join(k if v is True else f"{k} {plain_number(v)}" for k, v in extra.items())
    name = f"{objective.get('name', '?')}{f' ({details})' if details else ''}"
    return name if weight == 1 else f"{plain_number(weight)} × {name}"


def _run_facts(report: Report) -> Iterator[tuple[Cell, ...]]:
    metrics = report.metrics
    length = [f"{plain_number(inner(metrics, 'steps') or 0)} steps"]
    if (epochs := inner(report.settings, "training", "epochs")) is not None:
        length.append(f"{counted(int(epochs), 'epoch')} asked for")
    if inner(metrics, "stopped_early"):
        length.append("stopped early, as dev got no better")
    yield fact("Length", ", ".join(length))
    if (best := inner(metrics, "best")) and inner(best, "step") is not None:
        value = inner(best, "value")
        by = f"{inside_sentence(metric_label(str(inner(best, 'metric'))))}"
        held = f" {decimals(value)}" if value is not None else ""
        yield fact("Kept", f"step {plain_number(best['step'])}, the best by {by}{held}")
    if (seconds := inner(metrics, "seconds")) is not None:
        rates = [float(line["pairs_per_second"]) for line in report.log if line.get("pairs_per_second")]
        pace = f"{statistics.median(rates):,.0f} pairs a second" if rates else ""
        yield fact("Time", duration(float(seconds)), pace)
    yield fact(
        "Device", f"{inner(metrics, 'device') or 'not said'}, {inner(metrics, 'precision') or 'precision not said'}"
    )
    if versions := inner(metrics, "versions"):
        yield fact("Versions", ", ".join(f"{name} {number}" for name, number in versions.items()))
    if collapse := inner(metrics, "collapse"):
        said = [f"{key.replace('_', ' ')} {_rounded(value)}" for key, value in collapse.items()]
        yield fact("Mean cosine of texts put together by chance", ", ".join(said), "near 1 would be a collapse")
    if plan := inner(metrics, "plan"):
        yield fact("As planned", "; ".join(map(str, plan)))


def _rounded(value: object) -> str:
    if value is None:
        return "not known"
    return decimals(value) if isinstance(value, float) else plain_number(value)


def ledger_facts(ledger: Json) -> Grid:
    """Return what a data file is and how many of its rows are kept."""
    kept, total = inner(ledger, "n_kept"), inner(ledger, "n_rows")
    rows = (
        fact("File", str(inner(ledger, "source"))),
        fact("Read as", str(inner(ledger, "format"))),
        fact("sha256", str(inner(ledger, "sha256"))),
        fact("Rows", f"{plain_number(total)} in the file, {plain_number(kept)} kept"),
    )
    return Grid("", (), rows)


def ledger_findings(ledger: Json) -> Grid | None:
    """Return what was found in a file's rows, None where there was nothing."""
    rows = []
    for finding in inner(ledger, "findings") or ():
        first, count = inner(finding, "first") or (), int(inner(finding, "count") or 0)
        lines = ", ".join(map(str, first)) + (" …" if count > len(first) else "")
        dropped = "left out" if inner(finding, "dropped") else "kept"
        kind = str(inner(finding, "kind")).replace("_", " ")
        rows.append((Cell(kind, str(inner(finding, "sentence"))), Cell(f"{count:,}"), Cell(dropped), Cell(lines)))
    return Grid("Findings", ("Finding", "Rows", "They are", "First lines"), tuple(rows)) if rows else None


def evaluations(report: Report) -> Sequence[Json]:
    """Return the evaluations on dev by step, each step once: a resumed run logs the last word."""
    lines = [line for line in report.log if line.get("kind") == "eval" and line.get("split", "dev") == "dev"]
    return [line for _, line in sorted({int(line["step"]): line for line in lines}.items())]


def train_lines(report: Report) -> Sequence[Json]:
    """Return the logged steps in their order, each once."""
    lines = {int(line["step"]): line for line in report.log if line.get("kind") == "train"}
    return [line for _, line in sorted(lines.items())]
