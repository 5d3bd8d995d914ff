"""`sbert-ft train`: runs the training that a JSON describes and writes a model and a report, or prints the plan."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbert_ft.commands.config import add_set_option
from sbert_ft.commands.output import cell
from sbert_ft.config.metrics import METRICS
from sbert_ft.errors import InputError, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sbert_ft.data.corpus import TextCorpus
    from sbert_ft.data.dataset import ConnectionDataset
    from sbert_ft.encoder.ranks import Ranks
    from sbert_ft.training.prepare import PreparedRun
    from sbert_ft.training.run import FineTuneResult

logger = logging.getLogger(__name__)

_EPILOG = """\
examples:
  sbert-ft config init -o run.json
  sbert-ft train run.json --dry-run
  sbert-ft train run.json --set training.learning_rate=3e-5
  sbert-ft train run.json --resume

The run's folder (output_dir) holds model/, report.html, report.md, metrics.json, metrics.jsonl, ledger.json,
worst_pairs.csv, config.json and checkpoints/. Ctrl-C, SIGTERM and SIGHUP finish the step and write a checkpoint.
A classifier's run has mistakes.csv instead of worst_pairs.csv, that of raw texts (masked_lm) has neither. A run with
data.retrieval has worst_queries.csv too."""

# The first of these groups that a split has completely is shown; a threshold has an accuracy, but no macro F1.
_SHOWN = (
    *(("accuracy", "macro_f1"), ("spearman",), ("average_precision",), ("ndcg@10", "mrr@10")),
    *(("perplexity", "masked_accuracy", "next_sentence_accuracy"), ("perplexity", "masked_accuracy")),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("config", metavar="CONFIG", help="the run's JSON; see sbert-ft config")
    add_set_option(parser)
    add("--dry-run", action="store_true", help="print the plan and the first batch, then stop")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue the run in output_dir")
    existing.add_argument("--overwrite", action="store_true", help="replace the run in output_dir; other files stay")
    add("--allow-changes", action="store_true", help="with --resume: continue even if settings or data have changed")


def run(args: argparse.Namespace) -> int:
    """Run the training, or print its plan, and return the exit code."""
    return run_kind(args, None)


def run_kind(args: argparse.Namespace, kind: str | None) -> int:
    """Do the same for a run whose kind of model is this one where the JSON names none; another is an `InputError`."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return _run(args, kind, None)
    from sbert_ft.training.distributed import joined  # several processes, started by torchrun

    with joined() as ranks:
        return _run(args, kind, ranks)


def _run(args: argparse.Namespace, kind: str | None, ranks: Ranks | None) -> int:
    from sbert_ft.config.loader import read_run

    if args.allow_changes and not args.resume:
        raise InputError("--allow-changes is only for a resumed run", "give --resume too")
    settings = read_run(args.config, args.overrides or (), {} if kind is None else {"model.kind": kind})
    if kind is not None and settings.model.kind != kind:
        problem = f"{quoted(args.config, limit=400)}: model.kind is {settings.model.kind}, but pretrain is for {kind}"
        raise InputError(problem, "use sbert-ft train, or leave model.kind out")
    from sbert_ft.encoder.ranks import Ranks
    from sbert_ft.training.augmented import describe_augmented, labels_pairs, run_augmented
    from sbert_ft.training.fine_tune import load_gold, load_rows, load_run, starting_model
    from sbert_ft.training.prepare import RunOptions
    from sbert_ft.training.run import check_output_dir, run_training

    ranks = Ranks() if ranks is None else ranks
    options = RunOptions(
        "resume" if args.resume else "overwrite" if args.overwrite else "new",
        allow_changes=args.allow_changes,
        progress_bar=not args.quiet and sys.stderr is not None and sys.stderr.isatty(),
    )
    if not args.dry_run:
        # before the data is read and the model is loaded
        ranks.told(lambda: check_output_dir(settings, options))
    ranks.doing("the reading of data and model")
    is_augmented = labels_pairs(settings)
    if is_augmented and not args.dry_run:
        rows = load_rows(settings)
        _log_rows(rows.splits(), settings.model.kind)
        result = run_augmented(settings, rows, starting_model, options, ranks)
        if ranks.is_first:
            _show_result(result)
        return 0
    prepared = load_gold(settings) if is_augmented else load_run(settings)
    _log_rows(prepared.data.splits(), settings.model.kind)
    if args.dry_run:
        _show_plan(prepared, ranks)
        if is_augmented and ranks.is_first:
            for line in describe_augmented(settings, prepared.connections):
                print(line)
        return 0
    result = run_training(prepared, options, ranks)
    if ranks.is_first:
        _show_result(result)
    return 0


def _log_rows(splits: Mapping[str, ConnectionDataset | TextCorpus], kind: str) -> None:
    """Log how many rows each file has, and how it was read."""
    for name, dataset in splits.items():
        ledger = dataset.ledger
        of_rows = f"{len(dataset)} of {ledger.n_rows} rows"
        lines = ledger.notes
        if kind == "masked_lm":
            of_rows, lines = f"{len(dataset)} texts", tuple(found.sentence for found in ledger.findings)
        logger.info("%s: %s, %s", name, dataset.source, of_rows)
        for line in lines:
            logger.info("  %s", line)


def _show_plan(prepared: PreparedRun, ranks: Ranks) -> None:
    """Print the plan of the run and its first batch."""
    from sbert_ft.training.plan import plan_run

    plan = plan_run(prepared, ranks)
    if not ranks.is_first:
        return
    for line in plan.describe():
        print(line)
    batch, first = plan.batches(0)[0], plan.first_batch()
    packed = prepared.model.bert.pack(first, plan.layout)
    shape = " x ".join(map(str, packed.token_ids.shape))
    print(f"first batch: {len(batch)} rows, {packed.n_tokens:,} tokens in {shape} ({packed.layout})")
    if prepared.settings.model.kind == "masked_lm":
        backend = prepared.model.tokenizer.backend
        for row, line in enumerate(plan.lines[batch].tolist()):
            tokens = first.token_ids[first.offsets[row] : first.offsets[row + 1]].tolist()
            print(f"  line {line}: {quoted(' '.join(map(str, map(backend.id_to_token, tokens))), limit=200)}")
        return
    train = prepared.connections.train
    names = train.class_names
    for row in batch.tolist():
        connection, label = train[row], ""
        if connection.label is not None:
            label = quoted(names[int(connection.label)], limit=40)[1:-1] if names else format(connection.label, "g")
            label += "  "
        print(f"  line {connection.line}: {label}{' | '.join(quoted(text, limit=200) for text in connection.texts)}")


def _show_result(result: FineTuneResult) -> None:
    """Print the metrics before and after, the threshold, and the paths of the model and the report."""
    metrics = result.metrics
    if result.was_finished:
        print(f"the run in {_path(result.folder)} was finished; nothing was changed")
    for name, split in metrics.get("splits", {}).items():
        for line in lines_of_split(name, split):
            print(line)
    if average := metrics.get("average"):
        print(_average(average, (metrics.get("best") or {}).get("metric")))
    decision = metrics.get("decision")
    if decision is not None:
        reached = ", ".join(f"{name} {value:.3f}" for name, value in decision["reached"].items())
        of_cosine = decision.get("similarity", "cosine") == "cosine"
        what = "texts belong together from a cosine of" if of_cosine else "match: from a probability of"
        print(f"{what} {decision['threshold']:.4f} (on dev: {reached})")
    print(f"{metrics['steps']:,} steps in {metrics['seconds']:,.0f} s")
    print(f"model:  {_path(result.model_dir)}")
    print(f"report: {_path(result.report)}")


def lines_of_split(name: str, split: dict[str, Any]) -> list[str]:
    """Return the main metrics of a split before and after, by its entry in metrics.json."""
    shown = next((names for names in _SHOWN if all(metric in split["after"] for metric in names)), ())
    return [f"{name} {METRICS[metric].short}: {_before_and_after(split, metric)}" for metric in shown]


def _average(average: dict[str, Any], metric: str | None) -> str:
    """Return in a line how the weights of a run are averaged, and what this is compared with on dev."""
    short = "" if metric is None else METRICS[metric].short
    if average["kind"] == "ema":
        value = average["raw_value"]
        raw = "" if value is None else f"; not averaged, after the last step, dev {short} {value:.4f}"
        return f"weights: moving average, decay {average['decay']:g}{raw}"
    if not average["steps"]:
        return "weights: not averaged, as fewer than two evaluated steps are there"
    steps = ", ".join(map(str, average["steps"]))
    reached = "not known" if average["value"] is None else f"{average['value']:.4f}"
    best = "" if average["best_value"] is None else f", the best step {average['best_value']:.4f}"
    taken = "taken" if average["is_taken"] else "not taken"
    return f"weights: mean of steps {steps}, dev {short} {reached}{best}: {taken}"


def _path(path: Path) -> str:
    """Return a path with control characters escaped: an untrusted output_dir must not control the terminal."""
    return quoted(path, limit=4096)[1:-1]


def _before_and_after(split: dict[str, Any], metric: str) -> str:
    """Return one metric of a split before and after; "before" is explained if it is not the base model."""
    after = f"{cell(split['after'][metric])} after"
    if metric not in split.get("before", {}):
        return after
    what = f" ({split['before_is']})" if split.get("before_is") else ""
    change = split.get("difference", {}).get(metric)
    by = "" if change is None else f", change {cell(change, '+')}"
    return f"{cell(split['before'][metric])} before{what}, {after}{by}"
