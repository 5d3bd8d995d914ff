"""Carry out a run in its folder, from its first step or its newest checkpoint to its report.

The base model is evaluated first, on the same pairs as the tuned model later. If a run ends early (a signal, a NaN
loss, a full disk), its last checkpoint stays complete, and the run can be resumed from it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg.blas import dgemm

from sbert_ft._version import library_versions
from sbert_ft.config.metrics import METRICS
from sbert_ft.config.settings import RunSettings
from sbert_ft.data.ledger import Ledger, counted
from sbert_ft.encoder.devices import describe_device
from sbert_ft.encoder.ranks import Ranks
from sbert_ft.errors import CheckpointError, RunFolderError, quoted, shown
from sbert_ft.evaluation.evaluator import EvaluationResult
from sbert_ft.files.atomic import write_json
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.models.tokenized_corpus import TokenizedCorpus
from sbert_ft.report.content import Report
from sbert_ft.report.write import write_report
from sbert_ft.training.checkpoints import (
    Checkpoint,
    TrainerState,
    checkpoint_file,
    final_weights,
    read_checkpoint,
    restore_weights,
)
from sbert_ft.training.distributed import check_device, joined
from sbert_ft.training.gold_alone import GOLD, GOLD_AND_SILVER, GoldAlone
from sbert_ft.training.interruption import interruptible, memory_named, saved_named
from sbert_ft.training.loop import TrainingSession, train
from sbert_ft.training.plan import RunPlan, plan_run
from sbert_ft.training.prepare import PreparedRun, RunOptions
from sbert_ft.training.resume import (
    check_finished,
    check_same_everywhere,
    checked_resume_state,
    warn_of_disk_space,
)
from sbert_ft.training.run_folder import (
    RunFolder,
    check_run_folder,
    is_of_run,
    open_run_folder,
    remove_run,
)
from sbert_ft.training.run_log import check_tensorboard, read_log, warnings_kept
from sbert_ft.training.tokenized_dataset import cut_rows
from sbert_ft.training.weight_average import mean_weights

FORMAT = 1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FineTuneResult:
    """The result of a run: its folder, the content of metrics.json, and whether the run was already finished."""

    folder: Path
    metrics: dict[str, Any] = field(repr=False)
    was_finished: bool = False

    @property
    def model_dir(self) -> Path:
        """The folder of the tuned model, to use and share."""
        return RunFolder(self.folder).model_dir

    @property
    def report(self) -> Path:
        """The report, a single HTML file."""
        return self.folder / "report.html"


def check_output_dir(settings: RunSettings, options: RunOptions) -> None:
    """Check before data and model are loaded that the folder can be used for the run.

    Raises:
        RunFolderError, OutputError: As in `open_run_folder`; or the model or a data file would be overwritten.
        ResourceError: As in `check_tensorboard`.
    """
    check_tensorboard(settings.training.tensorboard)
    if options.mode == "overwrite":  # opening would remove the old run before the new one is known to work
        check_run_folder(RunFolder(Path(settings.output_dir)), options.mode)
        check_inputs_stay(settings)
        return
    with open_run_folder(settings.output_dir, options.mode):
        pass


def run_training(run: PreparedRun, options: RunOptions, ranks: Ranks | None = None) -> FineTuneResult:
    """Carry out a run in its folder; the model is tuned in place.

    Where torchrun has started several processes, all of them call it with the same run. `ranks` are those that have
    joined already (see `joined`); None to join them here. The first one writes the folder.

    Raises:
        CheckpointError: No checkpoint is complete.
        RunFolderError, TrainingError, ResourceError, OutputError, RunInterrupted: As in `fine_tune`.
        RunPaused: The options asked for it.
    """
    if ranks is None:
        with joined() as all_ranks:
            return run_training(run, options, all_ranks)
    check_device(ranks, run.model.device)
    if options.mode == "overwrite":
        check_inputs_stay(run.settings)
    unopened = nullcontext(RunFolder(Path(run.settings.output_dir)))
    with (
        warnings_kept() as warnings,
        interruptible(aloud=ranks.size == 1) as interruption,
        open_run_folder(run.settings.output_dir, options.mode) if ranks.is_first else unopened as folder,
        saved_named(folder),
        memory_named(run.settings, "the run went on"),
        run.model.bert.shared_by(ranks),
    ):
        check_same_everywhere(run, ranks)
        is_finished = options.mode == "resume" and folder.is_finished
        finished = ranks.told(lambda: check_finished(run, folder, options) if is_finished else None)
        if finished is not None:
            logger.info("%s: the run is finished; nothing is left to do", folder.path)
            return FineTuneResult(folder.path, finished, was_finished=True)
        state = ranks.told(lambda: checked_resume_state(run, folder, options))
        plan = plan_run(run, ranks)  # may refuse the run, so nothing is written or removed before
        for line in plan.describe():
            logger.info("%s", line)
        if ranks.is_first:
            if options.mode == "overwrite":
                remove_run(folder)
            state.write_files()
            warn_of_disk_space(run, folder, state)
            ledgers = _write_ledgers(plan, folder)
        _allocate_blas_buffers()

        ranks.doing("the evaluation before the first step")
        before = run.evaluator.evaluate_baseline(run.model)
        for sentence in run.evaluator.doubts(run.model, before):
            logger.warning("%s", sentence)
        if state.checkpoint is not None:
            logger.info("going on after step %d of %d", state.checkpoint.step, plan.n_steps)
        shows = options.progress_bar and ranks.is_first
        ranks.doing("the encoding of the texts by the teacher")
        taught = None if run.teacher is None else run.teacher.encode(run.connections.train, ranks)
        session = TrainingSession(folder, interruption, state.checkpoint, shows, ranks, taught, options.pause_share)
        progress = train(plan, session)
        interruption.raise_if_signalled("after its last step; continue with --resume")
        average = _take_weights(run, progress, folder, ranks)
        of_silver: dict[str, Any] = {}
        if run.gold_alone is not None:
            ranks.doing("the choice between gold alone and gold and silver")
            of_silver = {"silver": _better_by_dev(run, run.gold_alone, ranks)}

        ranks.doing("the evaluation after the last step")
        found = run.evaluator.evaluate_final(run.model, before)
        for sentence in found.alarms:
            logger.warning("%s", sentence)
        if not ranks.is_first:
            return FineTuneResult(folder.path, ranks.told(dict))
        ranks.doing("the writing of the model and the report")
        folder.check_is_there()
        run.model.save_pretrained(folder.model_dir)
        metrics = _metrics(plan, progress, found, [*run.warnings, *warnings], average) | of_silver
        what = "Pre-training" if isinstance(plan.tokens, TokenizedCorpus) else "Fine-tuning"
        report = Report(
            title=f"{what} of {Path(run.settings.model.path).resolve().name or run.settings.model.path}",
            settings=run.settings,
            metrics=metrics,
            ledgers=ledgers,
            log=read_log(folder.log_file),
            splits=found.splits,
            worst=found.worst,
            decision=found.decision,
            classes=found.classes,
            mistakes=found.mistakes,
            worst_queries=found.worst_queries,
        )
        folder.check_is_there()
        write_report(report, folder.path)
        folder.check_is_there()
        write_json(folder.metrics_file, metrics)
        return FineTuneResult(folder.path, ranks.told(lambda: metrics))


def _allocate_blas_buffers() -> None:
    """Make the OpenBLAS of numpy and that of scipy allocate their buffers now.

    Each does so at its first product, about 32 MiB, and ends the process without an exception where they are missing.
    In an evaluation that would be after the training has filled the memory.
    """
    square = np.ones((256, 256))
    np.dot(square, square)
    dgemm(1.0, square, square)


def _take_weights(run: PreparedRun, progress: TrainerState, folder: RunFolder, ranks: Ranks) -> dict[str, Any] | None:
    """Load the weights that the run ends with into the model, in each process: the average, or the best step's.

    The model has the trained weights of the last step. Returns what metrics.json says of the average: for ema what
    these reached, for best_k which steps were averaged, what their mean reached, and whether it is taken.
    """
    training, metric, found = run.settings.training, run.evaluator.metric, dict[str, Any]()
    if training.average == "ema":
        value = _value_on_dev(run, ranks)
        found = {"kind": "ema", "decay": training.ema_decay, "step": progress.step, "raw_value": value}
        if value is not None:
            sentence = "averaged weights (ema); those of the last step, not averaged, reach %s %.4f on dev"
            logger.info(sentence, metric, value)
    if training.average == "best_k" and metric is not None:
        steps, best, value = ranks.told(lambda: _load_mean(run, progress, folder)), progress.best_value, None
        if steps:
            ranks.broadcast(run.trained.state_dict().values())
            value = _value_on_dev(run, ranks)
        is_taken = METRICS[metric].is_not_worse(value, best)
        if value is not None and best is not None:
            sentence = "the mean of the weights after steps %s has %s %.4f on dev, the best step %.4f: it is %s"
            taken = "taken" if is_taken else "not taken"
            logger.info(sentence, ", ".join(map(str, steps)), metric, value, best, taken)
        found = {"kind": "best_k", "steps": steps, "value": value, "best_value": best, "is_taken": is_taken}
    if ranks.is_first and not found.get("is_taken"):
        _take_best(run, progress, folder)
    ranks.broadcast(run.trained.state_dict().values())
    return found or None


def _value_on_dev(run: PreparedRun, ranks: Ranks) -> float | None:
    """Return the metric that chooses the best step, of the model as it is; None without dev, or if it has none."""
    metric = run.evaluator.metric
    if metric is None:
        return None
    ranks.doing("the comparison with averaged weights")
    scores = run.evaluator.evaluate(run.model, lambda: False)
    return ranks.told(lambda: None if scores is None else scores[metric].value)


def _load_mean(run: PreparedRun, progress: TrainerState, folder: RunFolder) -> list[int]:
    """Load the mean of the best steps' weights into the model, and return these steps; a damaged one is left out.

    If fewer than two are left, there is no mean, and the model stays as it is.
    """
    checkpoints = list[Checkpoint]()
    for step in sorted(progress.best_steps):
        try:
            checkpoints.append(read_checkpoint(checkpoint_file(folder.checkpoints_dir, step)))
        except CheckpointError as error:
            logger.warning("%s; it was one of the best steps, and is left out of their mean", error)
    if len(checkpoints) < 2:
        logger.warning("fewer than two evaluated steps are there, so no mean of their weights is made")
        return []
    run.trained.load_state_dict(mean_weights(map(final_weights, checkpoints)))
    return [checkpoint.step for checkpoint in checkpoints]


def _take_best(run: PreparedRun, progress: TrainerState, folder: RunFolder) -> None:
    """Load the best step's weights into the model; if there are none, or damaged ones, the last step's.

    Where weights are averaged as the run goes, they are the averages after that step.

    Raises:
        CheckpointError: The averages after the last step are needed, and their checkpoint is damaged.
    """
    if progress.best_step is None and run.evaluator.metric is not None:
        sentence = "dev never had the metric %s, so no step was the best: the model is that of the last step, %d"
        logger.warning(sentence, run.evaluator.metric, progress.step)
    is_averaged = run.settings.training.average == "ema"
    if progress.best_step not in (None, progress.step):
        try:
            best = read_checkpoint(checkpoint_file(folder.checkpoints_dir, progress.best_step))
        except CheckpointError as error:
            sentence = "%s; it was the best step, so the model of the last step, %d, is used instead"
            logger.warning(sentence, error, progress.step)
            progress.best_step = progress.best_value = None
        else:
            restore_weights(best, run.trained, averaged=True)
            return
    if is_averaged:  # otherwise they are those of the model
        last = read_checkpoint(checkpoint_file(folder.checkpoints_dir, progress.step))
        restore_weights(last, run.trained, averaged=True)


def _better_by_dev(run: PreparedRun, gold_alone: GoldAlone, ranks: Ranks) -> dict[str, Any]:
    """Load the better model by dev, that of gold and silver or that of gold alone, and return what is known of both."""
    assert isinstance(run.model, SiameseBert)
    found = gold_alone.choose(run.model, run.evaluator, run.connections.splits(), run.settings, ranks)
    if found["chosen"] == GOLD:
        values = (found["dev"][name] for name in (GOLD, GOLD_AND_SILVER))
        sentence = (
            "silver pairs did not help: %s of dev is %s with gold alone and %s with both, so model/ is that of %s"
        )
        logger.warning(sentence, found["metric"], *(_decimals(value) for value in values), shown(gold_alone.model_dir))
    return found


def _decimals(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _metrics(
    plan: RunPlan,
    progress: TrainerState,
    found: EvaluationResult,
    warnings: Iterable[str],
    average: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the content of metrics.json."""
    run, tokens = plan.run, plan.tokens
    source = quoted(run.data.train.source, limit=400)
    overlaps = [finding for finding in run.data.train.ledger.findings if finding.kind.startswith("overlap_")]
    best = {"step": progress.best_step, "metric": run.evaluator.metric, "value": progress.best_value}
    # alarms, and evaluation pairs that were trained on, are listed even if logging is off
    listed = [*found.alarms, *(f"{source}: {finding.sentence}" for finding in overlaps), *warnings]
    return {
        "format": FORMAT,
        "objective": [part.name for part in run.settings.objective],
        "device": describe_device(run.model.device),
        "precision": plan.precision,
        "plan": plan.describe(),
        "versions": library_versions(),
        "seconds": progress.seconds,
        "steps": progress.step,
        "stopped_early": progress.stopped_early,
        "best": None if progress.best_step is None else best,
        "average": average,
        "splits": found.results,
        **found.facts,
        "lengths": {
            "n_sequences": tokens.n_sequences * len(tokens),
            "n_cut_rows": tokens.n_cut if isinstance(tokens, TokenizedCorpus) else len(tokens.cut_rows),
            "cut_share": tokens.cut_share,
            "unknown_share": tokens.n_unknown / tokens.n_own_tokens if tokens.n_own_tokens else 0.0,
            "percentiles": {str(share): n for share, n in tokens.percentiles().items()},
        },
        "warnings": list(dict.fromkeys(listed)),
    }


def check_inputs_stay(settings: RunSettings) -> None:
    """Check that overwriting a run does not remove the inputs of the new run; a `RunFolderError` if it does."""
    folder = os.path.realpath(settings.output_dir)
    for key, path in settings.inputs.items():
        if not os.path.exists(path):
            continue
        first = os.path.relpath(os.path.realpath(path), folder).split(os.sep)[0]
        if is_of_run(first):
            raise RunFolderError(
                f"{key}, {quoted(path, limit=400)}, is part of the run in {quoted(settings.output_dir, limit=400)} "
                "that would be overwritten",
                "give another output_dir, or copy it elsewhere first",
            )


def _write_ledgers(plan: RunPlan, folder: RunFolder) -> dict[str, Ledger]:
    """Write the counts of kept, left-out and truncated rows per split, and return them."""
    model, tokens, ledgers = plan.run.model, plan.tokens, dict[str, Ledger]()
    if isinstance(tokens, TokenizedCorpus):
        for name, corpus in plan.run.data.splits().items():
            ledgers[name] = corpus.ledger
        write_json(folder.ledger_file, {name: ledger.to_json() for name, ledger in ledgers.items()})
        return ledgers
    what = "a text" if tokens.joined_by is None else "both texts together"
    for name, dataset in plan.run.connections.splits().items():
        ledger, cut = dataset.ledger, tokens.cut_rows
        if name != "train":
            cut = cut_rows(
                dataset, model.tokenizer, model.max_seq_length, tokens.joined_by, plan.run.prompts_of(dataset)
            )
        if len(cut):
            sentence = f"{counted(len(cut), 'row')} with {what} longer than {model.max_seq_length} tokens, which is cut"
            ledger = ledger.with_finding("cut", len(cut), sentence, first=dataset.lines[cut].tolist())
            logger.warning("%s: %s", quoted(dataset.source, limit=400), sentence)
        ledgers[name] = ledger
    write_json(folder.ledger_file, {name: ledger.to_json() for name, ledger in ledgers.items()})
    return ledgers
