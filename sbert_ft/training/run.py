"""A run in its folder, from its first step or its newest checkpoint to its report.

The base model is judged first, on the same pairs as the tuned one will be. What ends a run early (a signal, a loss
that is no number, a full disk) leaves the last checkpoint whole, and resuming begins there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch

from sbert_ft.config.reading import run_to_json
from sbert_ft.config.settings import RunSettings
from sbert_ft.data.token_store import TokenizedConnections
from sbert_ft.errors import CheckpointError, RunFolderError, quoted
from sbert_ft.model.devices import describe_device
from sbert_ft.training.checkpoints import Checkpoint, newest_checkpoint, read_checkpoint
from sbert_ft.training.comparison import Fingerprint, check_unchanged, library_versions, tensors_sha256
from sbert_ft.training.durable_files import write_json
from sbert_ft.training.encoder_setup import set_up_for_training, trained_module
from sbert_ft.training.interruption import Interruption, interruptible
from sbert_ft.training.loop import Evaluation, Sitting, TrainingRows, train
from sbert_ft.training.outcome import Course, conclude
from sbert_ft.training.plan import RunPlan
from sbert_ft.training.preparation import FineTuneResult, PreparedRun, RunOptions, plan_run, training_targets
from sbert_ft.training.progress import Progress, restore_weights
from sbert_ft.training.run_folder import RunFolder, open_run_folder
from sbert_ft.training.run_log import RunLog
from sbert_ft.training.tensorboard import check_tensorboard, open_scalars
from sbert_ft.training.warning_list import warnings_kept

logger = logging.getLogger(__name__)


def run_training(run: PreparedRun, options: RunOptions) -> FineTuneResult:
    """Carry out a run in its folder; the model is tuned in place.

    Raises:
        RunFolderError: The folder holds something else, is in use, or the run began otherwise.
        CheckpointError: No checkpoint is whole.
        TrainingError: A loss is no finite number.
        ResourceError: One row alone does not fit into memory.
        OutputError: Something cannot be written.
        RunInterrupted: The run was asked to end.
    """
    _check_whose(RunFolder(Path(run.settings.output_dir)), options)
    with (
        warnings_kept() as warnings,
        interruptible() as interruption,
        open_run_folder(run.settings.output_dir, options.mode) as folder,
    ):
        if options.mode == "resume" and folder.is_finished:
            _check_unchanged(_fingerprint(run), folder, options)
            logger.info("%s: the run is finished; nothing is left to do", folder.path)
            return FineTuneResult(folder.path, _read_json(folder.metrics_file), was_finished=True)
        _check_or_write_beginning(run, folder, options)
        plan, tokens = plan_run(run, folder.cache_dir)
        for line in plan.describe(run.settings.training, run.objective.describe()):
            logger.info("%s", line)
        ledgers = _write_ledgers(run, tokens, folder)

        before = run.exam.ask_base(run.model)
        checkpoint = newest_checkpoint(folder.checkpoints_dir) if options.mode == "resume" else None
        if checkpoint is not None:
            logger.info("going on after step %d of %d", checkpoint.step, plan.n_steps)
        progress = _train(run, plan, tokens, folder, checkpoint, interruption, options.progress_bar)
        _take_best(run, progress, folder)
        metrics = conclude(run, Course(plan, tokens, before, progress, ledgers), folder, warnings)
        return FineTuneResult(folder.path, metrics)


def check_run_folder(settings: RunSettings, options: RunOptions) -> None:
    """Find out now, rather than when all has been loaded, whether the folder is fit for the run.

    Raises:
        RunFolderError: It holds something else, or is in use.
        OutputError: It cannot be written to.
        ResourceError: tensorboard is asked for and not there.
    """
    check_tensorboard(settings.training.tensorboard)
    _check_whose(RunFolder(Path(settings.output_dir)), options)
    if options.mode != "overwrite":  # which would remove what is there before its successor can be had
        with open_run_folder(settings.output_dir, options.mode):
            pass


def _train(
    run: PreparedRun,
    plan: RunPlan,
    tokens: TokenizedConnections,
    folder: RunFolder,
    checkpoint: Checkpoint | None,
    interruption: Interruption,
    progress_bar: bool,
) -> Progress:
    """Set the encoder up for training, run the loop, and leave the encoder as an encoder is used."""
    settings, begin = run.settings, 0 if checkpoint is None else checkpoint.step
    rows = TrainingRows(tokens, training_targets(run), run.data.train.lines)
    devices = range(torch.cuda.device_count())  # a seed is set on all of them
    with (
        RunLog(folder.log_file) as log,
        open_scalars(folder.tensorboard_dir, settings.training.tensorboard, begin) as scalars,
        torch.random.fork_rng(devices=devices),  # the caller's generators stay as they were
        set_up_for_training(run.model.bert.encoder, settings),
    ):
        log.truncate_after(begin)
        sitting = Sitting(folder, log, interruption, scalars, checkpoint, progress_bar)
        evaluation = _evaluation(run, interruption)
        interruption.deferring = True
        try:
            progress = train(run.model, rows, run.objective, settings.training, plan, evaluation, sitting)
        finally:
            interruption.deferring = False
            run.model.eval()
        interruption.end_if_asked("after its last step; go on with --resume")
        return progress


def _take_best(run: PreparedRun, progress: Progress, folder: RunFolder) -> None:
    """Put the best step's weights into the model, or say that the last step's have to do."""
    if progress.best_step is None or progress.best_step == progress.step:
        return
    try:
        best = read_checkpoint(folder.checkpoints_dir / f"step-{progress.best_step:08d}")
    except CheckpointError as error:
        logger.warning("%s; it was the best step's, and the model is that of the last one, %d", error, progress.step)
        progress.best_step = progress.best_value = None
        return
    restore_weights(best, trained_module(run.model))


def _evaluation(run: PreparedRun, interruption: Interruption) -> Evaluation | None:
    """Return how the best step is found on the dev pairs, where there are any."""
    if run.metric is None:
        return None
    return Evaluation(lambda: run.exam.measure(run.model, lambda: interruption.signal_number != 0), run.metric)


def _check_whose(folder: RunFolder, options: RunOptions) -> None:
    """Refuse a folder whose config.json is no run's, such as a model's: it would be replaced by one.

    Raises:
        RunFolderError: It is none.
    """
    # by os.path, to which a place that cannot be looked at is not there: opening the folder will say why
    if options.mode == "new" or os.path.exists(folder.fingerprint_file) or not os.path.isfile(folder.config_file):
        return
    try:
        content = json.loads(folder.config_file.read_bytes())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or "output_dir" not in content:
        shown = quoted(folder.path, limit=400)
        raise RunFolderError(
            f"the config.json in {shown} is not that of a run but of a model, maybe; give another output_dir"
        )


def _check_or_write_beginning(run: PreparedRun, folder: RunFolder, options: RunOptions) -> None:
    """Hold a resumed run against what it began with, or write down what a new one begins with."""
    now = _fingerprint(run)
    begun = folder.fingerprint_file.exists() or newest_checkpoint(folder.checkpoints_dir) is not None
    if options.mode == "resume" and begun:
        _check_unchanged(now, folder, options)
        if not options.allow_changes:
            return  # else what is allowed now is what the next sitting is held against
    write_json(folder.config_file, now.to_json()["settings"])
    write_json(folder.fingerprint_file, now.to_json())


def _fingerprint(run: PreparedRun) -> Fingerprint:
    return Fingerprint(
        settings=run_to_json(run.settings),
        data={
            name: {"source": dataset.source, "sha256": dataset.sha256, "n": len(dataset)}
            for name, dataset in run.data.splits().items()
        },
        model={
            "weights": tensors_sha256(trained_module(run.model).state_dict()),
            "tokenizer": hashlib.sha256(run.model.tokenizer.backend.to_str().encode()).hexdigest(),
        },
        versions=library_versions(),
        device=describe_device(run.model.device),
    )


def _check_unchanged(now: Fingerprint, folder: RunFolder, options: RunOptions) -> None:
    """Warn of what differs from what the run began with, or refuse it.

    Raises:
        RunFolderError: Settings, data or weights differ, and that is not allowed.
    """
    saved = Fingerprint.from_json(_read_json(folder.fingerprint_file), folder.fingerprint_file)
    for sentence in check_unchanged(saved, now, allow_changes=options.allow_changes):
        logger.warning("%s", sentence)


def _write_ledgers(run: PreparedRun, tokens: TokenizedConnections, folder: RunFolder) -> dict[str, Any]:
    """Write what became of every row, texts that are cut included, and return it."""
    ledgers = {name: dataset.ledger for name, dataset in run.data.splits().items()}
    if tokens.n_cut_rows:
        lines = run.data.train.lines[list(tokens.first_cut_rows)]
        what = "are together" if tokens.n_sequences == 1 and tokens.rows.shape[1] == 2 else "have a text"
        sentence = f"{tokens.n_cut_rows:,} rows {what} longer than {run.model.max_seq_length} tokens, which is cut"
        ledgers["train"] = ledgers["train"].with_finding("cut", tokens.n_cut_rows, sentence, first=lines.tolist())
        logger.warning("%s: %s", quoted(run.data.train.source, limit=400), sentence)
    content = {name: ledger.to_json() for name, ledger in ledgers.items()}
    write_json(folder.ledger_file, content)
    return content


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        shown = quoted(path, limit=400)
        raise RunFolderError(
            f"{shown} cannot be read: {quoted(error, limit=200)}; begin anew with --overwrite"
        ) from None
    if not isinstance(content, dict):
        raise RunFolderError(f"{quoted(path, limit=400)} holds no JSON object; begin anew with --overwrite")
    return content
