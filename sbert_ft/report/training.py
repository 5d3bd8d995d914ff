"""The training section of a report: model, data, important settings, versions, device and time."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Final

from sbert_ft.config.metrics import metric_label
from sbert_ft.report.blocks import Cell, Grid, fact
from sbert_ft.report.content import Report
from sbert_ft.report.facts import inner
from sbert_ft.report.formatting import (
    counted,
    decimals,
    duration,
    inside_sentence,
    percent,
    plain_number,
    short_digest,
)

_WHAT: Final[Mapping[str, str]] = {
    "towers": "a classifier over the vectors of both texts",
    "joined": "a classifier over the two texts joined to one",
    "single": "a classifier of single texts",
}


def training_grid(report: Report) -> Grid:
    """Return the facts of the training: model, data, important settings, versions, device and time."""
    facts = (_model_facts, _data_facts, _length_facts, _loop_facts, _run_facts)
    rows = [row for found in facts for row in found(report)]
    return Grid("Model, data and settings", (), tuple(rows))


def _model_facts(report: Report) -> Iterator[tuple[Cell, ...]]:
    model = inner(report.settings, "model") or {}
    kind = model.get("kind", "siamese")
    what = "" if kind == "siamese" else _WHAT.get(kind, str(kind))
    yield fact("Model", str(inner(model, "path") or "not recorded"), what)
    parts = ["starts from random weights"] if model.get("init") == "random" else []
    if model.get("max_seq_length") is not None:
        texts = "pairs" if kind == "joined" else "texts"
        parts.append(f"{texts} of at most {plain_number(model['max_seq_length'])} tokens")
    own = {"towers": ("features",), "joined": ("truncation",)}.get(kind, ())
    for key in ("pooling", *own, "dropout", "head_dropout"):
        if model.get(key) is not None:
            parts.append(f"{key.replace('_', ' ')} {str(plain_number(model[key])).replace('_', ' ')}")
    if model.get("freeze_embeddings"):
        parts.append("embeddings frozen")
    if model.get("freeze_layers"):
        parts.append(f"lowest {counted(int(model['freeze_layers']), 'layer')} frozen")
    if parts:
        yield fact("Model settings", ", ".join(parts))


def _data_facts(report: Report) -> Iterator[tuple[Cell, ...]]:
    for name, ledger in report.ledgers.items():
        rows = f"{plain_number(inner(ledger, 'n_kept'))} of {plain_number(inner(ledger, 'n_rows'))} rows"
        digest = inner(ledger, "sha256")
        yield fact(f"Data: {name}", str(inner(ledger, "source")), f"{rows}; sha256 {short_digest(digest)}")


def _length_facts(report: Report) -> Iterator[tuple[Cell, ...]]:
    """Yield the shares of truncated training texts and of unknown tokens."""
    lengths = inner(report.metrics, "lengths")
    if (cut := inner(lengths, "cut_share")) is not None:
        texts = "pairs" if inner(report.settings, "model", "kind") == "joined" else "texts"
        n_rows = inner(lengths, "n_cut_rows")
        where = "" if n_rows is None else f"in {counted(int(n_rows), 'row')}"
        yield fact("Truncated, as too long", f"{percent(cut)} of the training {texts}", where)
    if (unknown := inner(lengths, "unknown_share")) is not None:
        yield fact("Not in the vocabulary ([UNK])", f"{percent(unknown)} of the training tokens")


def _loop_facts(report: Report) -> Iterator[tuple[Cell, ...]]:
    training = inner(report.settings, "training") or {}
    objectives = inner(report.settings, "objective") or inner(report.metrics, "objective")
    if objectives:
        listed = [objectives] if isinstance(objectives, (str, Mapping)) else list(objectives)
        yield fact("Objective", " + ".join(_objective(each) for each in listed))
    if not training:
        return
    batch = f"{plain_number(training.get('batch_size'))} per batch"
    if (training.get("accumulation_steps") or 1) > 1:
        batch += f", {plain_number(training['accumulation_steps'])} batches per step"
    yield fact(f"{report.row_word.capitalize()}s", batch)
    rate = f"{plain_number(training.get('learning_rate'))} at the peak, {training.get('schedule', 'linear')}"
    warmup = training.get("warmup_steps")
    warm = (
        f"{warmup:,} steps" if warmup is not None else f"{100 * (training.get('warmup_ratio') or 0):g} % of the steps"
    )
    yield fact("Learning rate", f"{rate}, warm-up over {warm}")
    decay, norm = training.get("weight_decay"), training.get("max_grad_norm")
    yield fact("Weight decay, gradient norm", f"{plain_number(decay)}, at most {plain_number(norm)}")
    yield fact("Seed", str(training.get("seed", "not recorded")))


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
        length.append(f"{counted(int(epochs), 'epoch')} requested")
    if inner(metrics, "stopped_early"):
        length.append("stopped early: dev did not improve")
    yield fact("Length", ", ".join(length))
    if (best := inner(metrics, "best")) and inner(best, "step") is not None:
        value = inner(best, "value")
        by = f"{inside_sentence(metric_label(str(inner(best, 'metric'))))}"
        at_best = f" {decimals(value)}" if value is not None else ""
        yield fact("Kept", f"step {plain_number(best['step'])}, the best by {by}{at_best}")
    if (seconds := inner(metrics, "seconds")) is not None:
        rates = [float(line["pairs_per_second"]) for line in report.log if line.get("pairs_per_second")]
        pace = f"{statistics.median(rates):,.0f} {report.row_word}s per second" if rates else ""
        yield fact("Time", duration(float(seconds)), pace)
    yield fact(
        "Device",
        f"{inner(metrics, 'device') or 'not recorded'}, {inner(metrics, 'precision') or 'precision not recorded'}",
    )
    if versions := inner(metrics, "versions"):
        yield fact("Versions", ", ".join(f"{name} {number}" for name, number in versions.items()))
    collapse = inner(metrics, "collapse") or {}
    if any(value is not None for value in collapse.values()):  # classifiers have no collapse values
        said = [f"{key.replace('_', ' ')} {_rounded(value)}" for key, value in collapse.items()]
        yield fact("Mean cosine of random pairs of texts", ", ".join(said), "near 1, the model has collapsed")
    if plan := inner(metrics, "plan"):
        yield fact("Plan", "; ".join(map(str, plan)))


def _rounded(value: object) -> str:
    if value is None:
        return "not known"
    return decimals(value) if isinstance(value, float) else plain_number(value)
