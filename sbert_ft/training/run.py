"""Carry out a run in its folder, from its first step or its newest checkpoint to its report.

The base model is evaluated first, on the same pairs as the tuned model later. If a run ends early (a signal, a NaN
loss, a full disk), its last checkpoint stays complete, and the run can be resumed from it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sbert_ft._version import library_versions
from sbert_ft.config.loader import run_to_json
from sbert_ft.config.settings import RunSettings
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.data.ledger import counted
from sbert_ft.encoder.devices import describe_device
from sbert_ft.errors import CheckpointError, RunFolderError, quoted
from sbert_ft.files.atomic import write_json
from sbert_ft.report.write import Report, write_report
from sbert_ft.training.checkpoints import (
    Checkpoint,
    TrainerState,
    checkpoint_file,
    read_checkpoint,
    restore_weights,
)
from sbert_ft.training.interruption import Interruption, interruptible, memory_named, saved_named
from sbert_ft.training.loop import Evaluation, TrainingRows, TrainingSession, train
from sbert_ft.training.plan import RunPlan
from sbert_ft.training.prepare import FineTuneResult, PreparedRun, RunOptions, joining_of, plan_run, training_targets
from sbert_ft.training.resume import check_finished, checked_resume_state, warn_of_room, write_resume_state
from sbert_ft.training.run_folder import RUN_FILES, RUN_FOLDERS, FolderWatch, RunFolder, open_run_folder, watched
from sbert_ft.training.run_log import RunLog, WarningList, check_tensorboard, open_scalars, read_log, warnings_kept
from sbert_ft.training.tokenized_dataset import N_SHOWN, TokenizedConnections, cut_rows
from sbert_ft.training.trainable_model import set_up_for_training, trained_module

FORMAT = 1


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSummary:
    """The plan and the outcome of training, for the final evaluation and the report.

    Attributes:
        plan: The plan of the run.
        tokens: Tokens of the training rows.
        before: What the evaluator's `evaluate_baseline` returned before training.
        progress: The final trainer state.
        ledgers: The ledger of each split: counts of kept and left-out rows.
    """

    plan: RunPlan
    tokens: TokenizedConnections
    before: Any
    progress: TrainerState
    ledgers: Mapping[str, Any]


def finalize(run: PreparedRun, summary: RunSummary, watch: FolderWatch, warnings: WarningList) -> dict[str, Any]:
    """Evaluate the tuned model, save it with its decision, write metrics.json and the report; return the metrics.

    Args:
        run: The run, with the tuned model.
        summary: Plan and outcome of its training.
        watch: The run's folder, where everything is written; checked before each write.
        warnings: The warnings logged so far.

    Raises:
        OutputError: Something cannot be written.
    """
    plan, progress, folder = summary.plan, summary.progress, RunFolder(watch.path)
    found = run.evaluator.evaluate_final(run.model, summary.before)
    for sentence in found.alarms:
        logger.warning("%s", sentence)
    watch.check()
    run.model.save_pretrained(folder.model_dir)
    best = {"step": progress.best_step, "metric": run.metric, "value": progress.best_value}
    metrics = {
        "format": FORMAT,
        "objective": [part.name for part in run.settings.objective],
        "device": describe_device(run.model.device),
        "precision": plan.precision,
        "plan": plan.describe(run.settings.training, run.objective.describe()),
        "versions": library_versions(),
        "seconds": progress.seconds,
        "steps": progress.step,
        "stopped_early": progress.stopped_early,
        "best": None if progress.best_step is None else best,
        "splits": found.results,
        **found.facts,
        "lengths": _lengths(summary.tokens),
        # alarms, and evaluation pairs that were trained on, are listed here even if logging is off
        "warnings": list(
            dict.fromkeys([*found.alarms, *_overlaps(run.data.train), *run.warnings, *warnings.sentences])
        ),
    }
    report = Report(
        title=f"Fine-tuning of {_name_of(run.settings.model.path)}",
        settings=run_to_json(run.settings),
        metrics=metrics,
        ledgers=summary.ledgers,
        log=read_log(folder.log_file),
        splits=found.splits,
        worst=found.worst,
        decision=found.decision,
        classes=found.classes,
        mistakes=found.mistakes,
    )
    watch.check()
    write_report(report, folder.path)
    watch.check()
    write_json(folder.metrics_file, metrics)
    return metrics


def _overlaps(train: ConnectionDataset) -> list[str]:
    """Return a warning for each overlap of training pairs with the evaluation pairs."""
    source = quoted(train.source, limit=400)
    return [f"{source}: {found.sentence}" for found in train.ledger.findings if found.kind.startswith("overlap_")]


def _lengths(tokens: TokenizedConnections) -> dict[str, Any]:
    """Return the lengths of the training rows, and the shares of truncated sequences and unknown tokens."""
    return {
        "n_sequences": tokens.n_sequences * len(tokens),
        "n_cut_rows": tokens.n_cut_rows,
        "cut_share": tokens.cut_share,
        "unknown_share": tokens.n_unknown / tokens.n_own_tokens if tokens.n_own_tokens else 0.0,
        "percentiles": {str(share): n for share, n in tokens.percentiles().items()},
    }


def _name_of(path: str) -> str:
    return Path(path).resolve().name or path


def run_training(run: PreparedRun, options: RunOptions) -> FineTuneResult:
    """Carry out a run in its folder; the model is tuned in place.

    Raises:
        RunFolderError: The folder holds something else or is in use, or its run was started differently.
        CheckpointError: No checkpoint is complete.
        TrainingError: A loss is not a finite number.
        ResourceError: A single row does not fit into memory.
        OutputError: Something cannot be written.
        RunInterrupted: A signal ended the run.
    """
    _check_whose(RunFolder(Path(run.settings.output_dir)), options)
    _check_inputs_stay(run.settings, options)
    with (
        warnings_kept() as warnings,
        interruptible() as interruption,
        open_run_folder(run.settings.output_dir, options.mode) as folder,
        watched(folder.path) as watch,
        saved_named(watch),
        memory_named(run.settings, "the run went on"),
    ):
        if options.mode == "resume" and folder.is_finished:
            metrics = check_finished(run, folder, options)
            logger.info("%s: the run is finished; nothing is left to do", folder.path)
            return FineTuneResult(folder.path, metrics, was_finished=True)
        state = checked_resume_state(run, folder, options)
        checkpoint = state.checkpoint
        write_resume_state(state, folder)
        warn_of_room(run, folder, state)
        plan, tokens = plan_run(run)
        for line in plan.describe(run.settings.training, run.objective.describe()):
            logger.info("%s", line)
        ledgers = _write_ledgers(run, tokens, folder)

        before = run.evaluator.evaluate_baseline(run.model)
        if checkpoint is not None:
            logger.info("going on after step %d of %d", checkpoint.step, plan.n_steps)
        progress = _train(run, plan, tokens, watch, checkpoint, interruption, options.progress_bar)
        _take_best(run, progress, folder)
        metrics = finalize(run, RunSummary(plan, tokens, before, progress, ledgers), watch, warnings)
        return FineTuneResult(folder.path, metrics)


def check_run_folder(settings: RunSettings, options: RunOptions) -> None:
    """Check before data and model are loaded that the folder can be used for the run.

    Raises:
        RunFolderError: It holds something else, or is in use.
        OutputError: It cannot be written to.
        ResourceError: training.tensorboard is set, but tensorboard is not installed.
    """
    check_tensorboard(settings.training.tensorboard)
    _check_whose(RunFolder(Path(settings.output_dir)), options)
    _check_inputs_stay(settings, options)
    if options.mode != "overwrite":  # which would remove the old run before the new one is known to work
        with open_run_folder(settings.output_dir, options.mode):
            pass


def _train(
    run: PreparedRun,
    plan: RunPlan,
    tokens: TokenizedConnections,
    watch: FolderWatch,
    checkpoint: Checkpoint | None,
    interruption: Interruption,
    progress_bar: bool,
) -> TrainerState:
    """Set the encoder up for training, run the loop, and return the model to eval mode."""
    settings, begin, folder = run.settings, 0 if checkpoint is None else checkpoint.step, RunFolder(watch.path)
    rows = TrainingRows(tokens, training_targets(run), run.data.train.lines)
    devices = range(torch.cuda.device_count())  # the seed is set on all of them
    watch.check()  # the base model was evaluated meanwhile
    with (
        RunLog(folder.log_file) as log,
        open_scalars(folder.tensorboard_dir, settings.training.tensorboard, begin) as scalars,
        torch.random.fork_rng(devices=devices),  # the caller's generators stay as they were
        set_up_for_training(run.model.bert.encoder, settings),
    ):
        log.truncate_after(begin)
        session = TrainingSession(watch, log, interruption, scalars, checkpoint, progress_bar)
        evaluation = _evaluation(run, interruption)
        interruption.deferring = True
        try:
            progress = train(run.model, rows, run.objective, settings.training, plan, evaluation, session)
        finally:
            interruption.deferring = False
            run.model.eval()
        interruption.end_if_asked("after its last step; continue with --resume")
        return progress


def _take_best(run: PreparedRun, progress: TrainerState, folder: RunFolder) -> None:
    """Load the best step's weights into the model; if they are damaged, keep the last step's with a warning."""
    if progress.best_step is None or progress.best_step == progress.step:
        return
    try:
        best = read_checkpoint(checkpoint_file(folder.checkpoints_dir, progress.best_step))
    except CheckpointError as error:
        logger.warning(
            "%s; it was the best step, so the model of the last step, %d, is used instead", error, progress.step
        )
        progress.best_step = progress.best_value = None
        return
    restore_weights(best, trained_module(run.model))


def _evaluation(run: PreparedRun, interruption: Interruption) -> Evaluation | None:
    """Return how the best step is found on the dev pairs; None without dev pairs."""
    if run.metric is None:
        return None
    return Evaluation(lambda: run.evaluator.evaluate(run.model, lambda: interruption.signal_number != 0), run.metric)


def _check_whose(folder: RunFolder, options: RunOptions) -> None:
    """Check that config.json, if there is one, is from a run and not from a model: the run would replace it.

    Raises:
        RunFolderError: It is not from a run.
    """
    # os.path reports an unreadable place as missing; opening the folder will report the reason
    if options.mode == "new" or os.path.exists(folder.fingerprint_file) or not os.path.isfile(folder.config_file):
        return
    try:
        content = json.loads(folder.config_file.read_bytes())
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or "output_dir" not in content:
        shown = quoted(folder.path, limit=400)
        raise RunFolderError(
            f"the config.json in {shown} is not from a run; it may belong to a model", "give another output_dir"
        )


def _check_inputs_stay(settings: RunSettings, options: RunOptions) -> None:
    """Check that overwriting a run does not remove the inputs of the new run.

    Raises:
        RunFolderError: Overwriting would remove the model or a data file.
    """
    if options.mode != "overwrite":
        return
    folder, data = os.path.realpath(settings.output_dir), settings.data
    inputs = {"model.path": settings.model.path, "data.train": data.train, "data.dev": data.dev, "data.test": data.test}
    for key, path in inputs.items():
        if path is None or not os.path.exists(path):
            continue
        first = os.path.relpath(os.path.realpath(path), folder).split(os.sep)[0]
        if first in (*RUN_FILES, *RUN_FOLDERS):
            raise RunFolderError(
                f"{key}, {quoted(path, limit=400)}, is part of the run in {quoted(settings.output_dir, limit=400)} "
                "that would be overwritten",
                "give another output_dir, or copy it elsewhere first",
            )


def _write_ledgers(run: PreparedRun, tokens: TokenizedConnections, folder: RunFolder) -> dict[str, Any]:
    """Write the counts of kept, left-out and truncated rows per split, and return them."""
    model, ledgers = run.model, {}
    what = "a text" if tokens.joiner is None else "both texts together"
    for name, dataset in run.data.splits().items():
        ledgers[name] = dataset.ledger
        if name == "train":
            n_cut, first = tokens.n_cut_rows, list(tokens.first_cut_rows)
        else:
            cut = cut_rows(dataset, model.tokenizer, model.max_seq_length, joining_of(model))
            n_cut, first = len(cut), cut[:N_SHOWN].tolist()
        if n_cut:
            sentence = f"{counted(n_cut, 'row')} with {what} longer than {model.max_seq_length} tokens, which is cut"
            lines = dataset.lines[first].tolist()
            ledgers[name] = dataset.ledger.with_finding("cut", n_cut, sentence, first=lines)
            logger.warning("%s: %s", quoted(dataset.source, limit=400), sentence)
    content = {name: ledger.to_json() for name, ledger in ledgers.items()}
    write_json(folder.ledger_file, content)
    return content
