"""The sections on the training: model, data, important settings, versions, device and time; and its curves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from sbert_ft.config.metrics import metric_label
from sbert_ft.config.objectives import OBJECTIVES, ObjectiveSettings
from sbert_ft.data.ledger import counted
from sbert_ft.errors import enumerated
from sbert_ft.evaluation.results import Json
from sbert_ft.report.blocks import Cell, Charts, Figure, Grid, Paragraph, Section, fact
from sbert_ft.report.charts import learning_rate_chart, loss_chart, metric_chart
from sbert_ft.report.content import Report, SplitResult
from sbert_ft.report.formatting import decimals, duration, inside_sentence, percent, plain_number
from sbert_ft.report.scores import main_metric, predictor_name
from sbert_ft.report.svg import Floats
from sbert_ft.tokenization.masking import MASKED_SHARE, RANDOM_SHARE

_N_EVALUATIONS: Final = 20  # shown in the table
_WHAT: Final = {
    "siamese": "",
    "towers": "a classifier over the vectors of both texts",
    "joined": "a classifier over the two texts joined to one",
    "single": "a classifier of single texts",
    "masked_lm": "a masked language model",
}
_LOSS_OF: Final = "loss_"  # begins the key of an objective's part of the loss
_OWN_SETTINGS: Final = {"towers": ("features",), "joined": ("truncation",)}


def training_section(report: Report) -> Section:
    """Return the section with the facts of the training."""
    lengths = _sequence_facts if report.is_language else _length_facts
    makers = (_model_facts, _data_facts, lengths, _loop_facts, _run_facts)
    facts = [row for make in makers for row in make(report)]
    return Section("training", "Training", [Grid("Model, data and settings", (), facts)])


def _model_facts(report: Report) -> Iterator[tuple[Cell, ...]]:
    model = report.settings.model
    yield fact("Model", model.path, _WHAT[model.kind])
    parts = ["starts from random weights"] if model.init == "random" else []
    if model.max_seq_length is not None:
        texts = "sequences" if report.is_language else "pairs" if model.kind == "joined" else "texts"
        parts.append(f"{texts} of at most {plain_number(model.max_seq_length)} tokens")
    for key in ("pooling", *_OWN_SETTINGS.get(model.kind, ()), "dropout", "head_dropout"):
        if (value := getattr(model, key)) is not None:
            parts.append(f"{key} {plain_number(value)}".replace("_", " "))
    if model.layers is not None:
        parts.append(f"begins with the layers {', '.join(map(str, model.layers))}")
    if model.freeze_embeddings:
        parts.append("embeddings frozen")
    if model.freeze_layers:
        parts.append(f"lowest {counted(model.freeze_layers, 'layer')} frozen")
    if parts:
        yield fact("Model settings", ", ".join(parts))


def _data_facts(report: Report) -> Iterator[tuple[Cell, ...]]:
    for name, ledger in report.ledgers.items():
        rows = f"{ledger.n_kept:,} of {ledger.n_rows:,} rows"
        if report.is_language:
            rows = counted(ledger.n_kept, "text")
        yield fact(f"Data: {name}", ledger.source, f"{rows}; sha256 {ledger.sha256[:12]}")


def _length_facts(report: Report) -> Iterator[tuple[Cell, ...]]:
    """Yield the shares of truncated training texts and of unknown tokens."""
    if lengths := report.metrics.get("lengths"):
        texts = "pairs" if report.settings.model.kind == "joined" else "texts"
        where = f"in {counted(lengths['n_cut_rows'], 'row')}"
        yield fact("Truncated, as too long", f"{percent(lengths['cut_share'])} of the training {texts}", where)
        yield fact("Not in the vocabulary ([UNK])", f"{percent(lengths['unknown_share'])} of the training tokens")


def _sequence_facts(report: Report) -> Iterator[tuple[Cell, ...]]:
    """Yield what the sequences of a masked language model are made of, and what is masked in them."""
    if lengths := report.metrics.get("lengths"):
        kind = "each two segments of texts" if report.has_next_sentence else "each a text, or a block of a longer one"
        yield fact("Training sequences", f"{lengths['n_sequences']:,}", kind)
        found = ", ".join(f"{share} % up to {n:,}" for share, n in lengths["percentiles"].items() if share != "100")
        yield fact("Tokens per text", f"{found}, the longest {lengths['percentiles']['100']:,}")
        how = "cut to fit" if report.has_next_sentence else "cut into blocks"
        n_cut = f"{counted(lengths['n_cut_rows'], 'text')}, {how}" if lengths["n_cut_rows"] else "none is cut"
        yield fact("Longer than a sequence", f"{percent(lengths['cut_share'])} of the training texts", n_cut)
        yield fact("Not in the vocabulary ([UNK])", f"{percent(lengths['unknown_share'])} of the training tokens")
    for objective in report.settings.objective:
        if objective.name == "mlm":
            share = objective.mask_share or OBJECTIVES["mlm"].defaults["mask_share"]
            what = "words, all tokens of a word together" if objective.whole_words else "tokens"
            become = f"of these {100 * MASKED_SHARE:g} % become [MASK], {100 * RANDOM_SHARE:g} % a random token"
            rest = f"{100 * (1 - MASKED_SHARE - RANDOM_SHARE):g} % stay; drawn anew for each step"
            yield fact("Masked", f"{100 * share:g} % of the {what}", f"{become}, {rest}")
    if report.has_next_sentence:
        half = "in half of the pairs the second segment follows the first, in half it is from another document"
        yield fact("Next sentence", "predicted for each pair of segments", half)


def _loop_facts(report: Report) -> Iterator[tuple[Cell, ...]]:
    training = report.settings.training
    yield fact("Objective", " + ".join(map(_objective, report.settings.objective)))
    if (teacher := report.settings.teacher) is not None and teacher.path is not None:
        yield fact("Teacher", teacher.path, "" if teacher.texts is None else f"texts of {teacher.texts} too")
    batch = f"{plain_number(training.batch_size)} per batch"
    if training.accumulation_steps > 1:
        batch += f", {plain_number(training.accumulation_steps)} batches per step"
    yield fact(f"{report.train_word.capitalize()}s", batch)
    steps = training.warmup_steps
    warm = f"{100 * training.warmup_ratio:g} % of the steps" if steps is None else f"{steps:,} steps"
    rate = f"{plain_number(training.learning_rate)} at the peak, {training.schedule}"
    yield fact("Learning rate", f"{rate}, warm-up over {warm}")
    decay, norm = plain_number(training.weight_decay), plain_number(training.max_grad_norm)
    yield fact("Weight decay, gradient norm", f"{decay}, at most {norm}")
    yield fact("Seed", str(training.seed))


def _objective(objective: ObjectiveSettings) -> str:
    """Return the objective's name with its options, and its weight unless that is 1."""
    options = {key: value for key, value in vars(objective).items() if key not in ("name", "weight")}
    given = {key: value for key, value in options.items() if value is not None and value is not False}
    details = ", ".join(key if value is True else f"{key} {_value(value)}" for key, value in given.items())
    name = f"{objective.name} ({details})" if details else objective.name
    return name if objective.weight == 1 else f"{plain_number(objective.weight)} × {name}"


def _value(value: object) -> str:
    """Return the value of an option as text; that of matryoshka_dims is several numbers."""
    return "/".join(map(plain_number, value)) if isinstance(value, list | tuple) else plain_number(value)


def _run_facts(report: Report) -> Iterator[tuple[Cell, ...]]:
    metrics = report.metrics
    length = [f"{metrics.get('steps', 0):,} steps", f"{counted(report.settings.training.epochs, 'epoch')} requested"]
    if metrics.get("stopped_early"):
        length.append("stopped early: dev did not improve")
    yield fact("Length", ", ".join(length))
    average = metrics.get("average") or {}
    if best := metrics.get("best"):
        at_best = "" if best["value"] is None else f" {decimals(best['value'])}"
        by = inside_sentence(metric_label(str(best["metric"])))
        kept = f"step {best['step']:,}, the best by {by}{at_best}"
        if average.get("is_taken"):
            kept = f"mean of the weights after {_steps(average['steps'])}, {by} {decimals(average['value'])}"
        yield fact("Kept", kept)
    if average:
        yield fact("Averaged weights", *_average(average))
    if (seconds := metrics.get("seconds")) is not None:
        rates = [line["rows_per_second"] for line in report.log if line.get("rows_per_second")]
        pace = f"{statistics.median(rates):,.0f} {report.train_word}s per second" if rates else ""
        yield fact("Time", duration(seconds), pace)
    device, precision = metrics.get("device", "not recorded"), metrics.get("precision", "precision not recorded")
    yield fact("Device", f"{device}, {precision}")
    if versions := metrics.get("versions"):
        yield fact("Versions", ", ".join(f"{name} {number}" for name, number in versions.items()))
    collapse = metrics.get("collapse", {})
    if any(value is not None for value in collapse.values()):  # classifiers have no collapse values
        said = (f"{key} {'not known' if value is None else decimals(value)}" for key, value in collapse.items())
        yield fact("Mean cosine of random pairs of texts", ", ".join(said), "near 1, the model has collapsed")
    if plan := metrics.get("plan"):
        yield fact("Plan", "; ".join(plan))


def _average(average: Json) -> tuple[str, str]:
    """Return how the weights of a run are averaged, and what this is compared with."""
    if average["kind"] == "ema":
        raw = average["raw_value"]
        at = f"after the last step, {average['step']:,}"
        compared = "" if raw is None else f"those that are not averaged have {decimals(raw)} on dev {at}"
        return f"exponential moving average (ema), decay {plain_number(average['decay'])}", compared
    if not average["steps"]:
        return "none (best_k): fewer than two evaluated steps are there", ""
    taken = "taken" if average["is_taken"] else "not taken"
    found = f"mean of {_steps(average['steps'])} (best_k), {taken}"
    return found, f"{decimals(average['value'])} on dev, the best step {decimals(average['best_value'])}"


def _steps(steps: Sequence[int]) -> str:
    return f"steps {enumerated(f'{step:,}' for step in steps)}"


def curves_section(report: Report) -> Section:
    """Return the section with loss (of several objectives also each one's part), learning rate, and metric on dev."""
    evaluations = _by_step(report, "eval")
    keys = dict.fromkeys(key for line in _by_step(report, "train") for key in line)
    parts = [key for key in keys if key.startswith(_LOSS_OF)]
    curves = (
        _curve(report, "loss", loss_chart, "Loss"),
        *(_curve(report, key, loss_chart, f"Loss of {key.removeprefix(_LOSS_OF)}, times its weight") for key in parts),
        _curve(report, "learning_rate", learning_rate_chart, "Learning rate"),
        _metric_curve(report, evaluations),
    )
    return Section("curves", "Curves", [Charts(curves, table=_evaluations_grid(report, evaluations))])


def _by_step(report: Report, kind: str) -> list[Json]:
    """Return the log's lines of this kind in order; of a step logged twice (after a resume) the last line counts."""
    lines = {int(line["step"]): line for line in report.log if line.get("kind") == kind}
    return [line for _, line in sorted(lines.items())]


def _curve(report: Report, key: str, draw: Callable[[str, Floats, Floats], str], title: str) -> Figure | Paragraph:
    """Return the chart of a value that each logged step has."""
    found = [(line["step"], line[key]) for line in _by_step(report, "train") if line.get(key) is not None]
    points = np.array([point for point in found if math.isfinite(point[1])], dtype=np.float64).reshape(-1, 2)
    if not len(points):
        return Paragraph(f"The run logged no {title.lower()}, so there is no curve.", is_note=True)
    steps, values = points.T
    caption = f"{counted(len(steps), 'line')} of the log, the last at step {steps[-1]:,.0f}."
    return Figure(title, draw(key.replace("_", "-"), steps, values), caption)


def _metric_curve(report: Report, evaluations: Sequence[Json]) -> Figure | Paragraph:
    """Return the chart of the metric that chose the best step, or of the first one that has values."""
    values = [(name, value) for line in evaluations for name, value in line["metrics"].items()]
    defined = {name for name, value in values if value is not None}
    dev = next((of for of in report.results if of.name == "dev"), SplitResult("dev"))
    best = report.metrics.get("best") or {}
    chosen = best.get("metric") or main_metric(report, dev)
    name = next((name for name in (chosen, *(name for name, _ in values)) if name in defined), None)
    if name is None:
        sentence = "There was no evaluation during training, so there is no curve of a metric."
        return Paragraph(sentence, is_note=True)
    found = [(float(line["step"]), line["metrics"].get(name)) for line in evaluations]
    points = [(step, value) for step, value in found if value is not None and math.isfinite(value)]
    best_step = best.get("step", next((line["step"] for line in reversed(evaluations) if line.get("best")), None))
    label = metric_label(name)
    of = next((of for of in report.results if of.name != "test" and name in of.after), dev)
    chart = metric_chart("metric", label, points, best_step, of.before[name].value, predictor_name(of))
    kept = "" if best_step is None else f" The model of step {best_step:,} was kept."
    average = report.metrics.get("average") or {}
    if average.get("is_taken"):
        kept = f" The mean of the weights after {_steps(average['steps'])} was kept."
    elif average.get("kind") == "ema":
        kept = f" They are of the averaged weights.{kept}"
    return Figure(f"{label} on {of.name}", chart, f"{counted(len(points), 'evaluation')} during training.{kept}")


def _evaluations_grid(report: Report, evaluations: Sequence[Json]) -> Grid | None:
    """Return the evaluations on dev: at most twenty, evenly spaced, and the best one; None without any."""
    names = list(dict.fromkeys(name for line in evaluations for name in line["metrics"]))
    if not names:
        return None
    best = (report.metrics.get("best") or {}).get("step")
    spaced = set(np.linspace(0, len(evaluations) - 1, min(_N_EVALUATIONS, len(evaluations))).astype(int).tolist())
    rows = []
    for i, line in enumerate(evaluations):
        if i in spaced or line["step"] == best:
            cells = (Cell(decimals(line["metrics"].get(name))) for name in names)
            rows.append((Cell(f"{line['step']:,}", "best" if line["step"] == best else ""), *cells))
    where = " and ".join(of.name for of in report.results if of.name != "test") or "dev"
    return Grid(f"On {where} during training", ("Step", *map(metric_label, names)), rows)
