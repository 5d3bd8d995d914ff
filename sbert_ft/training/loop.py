"""The training loop: batch, loss, gradient, step.

Periodic work (a line in the log, an evaluation, a checkpoint) is done after a step, in this order, so that a checkpoint
includes everything before it. The order of rows follows from seed and epoch, and dropout from the saved random states.
So a run that is interrupted anywhere and resumed makes the same steps as an uninterrupted run, bit by bit on a CPU. On
a GPU some kernels sum gradients in no fixed order, so two runs differ by rounding, resumed or not. The loop waits for
the device once per logging interval.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from sbert_ft.config.settings import TrainingSettings
from sbert_ft.encoder.devices import is_out_of_memory
from sbert_ft.errors import ResourceError, TrainingError
from sbert_ft.models.classifier import TrainableModel
from sbert_ft.training.batch_sampler import epoch_batches
from sbert_ft.training.checkpoints import (
    Checkpoint,
    TrainerState,
    random_states,
    restore_progress,
    restore_random_states,
    save_progress,
)
from sbert_ft.training.gradients import BackwardSettings, backward
from sbert_ft.training.interruption import Interruption
from sbert_ft.training.objectives import Objective
from sbert_ft.training.optimizer import Optimizer, rate_factor, set_rate
from sbert_ft.training.plan import ROW_WORDS, RunPlan
from sbert_ft.training.run_folder import FolderWatch, RunFolder
from sbert_ft.training.run_log import RunLog, Scalars, read_log
from sbert_ft.training.tokenized_dataset import TokenizedConnections
from sbert_ft.training.trainable_model import trained_module

_N_NAMED_LINES = 8
# A scaler starts at 2**16 and halves at each overflow; this many in sequence are not a problem of scale.
_MAX_OVERFLOWS = 30


logger = logging.getLogger(__name__)


class TrainRecord(TypedDict):
    """A line of the log about training steps."""

    kind: str
    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    pairs_per_second: float
    seconds: float


class StepLogger:
    """Collects losses and times of steps for the log; losses and total time are kept in the trainer state.

    Args:
        progress: The run's trainer state.
        scaled: Whether a scaler is used, which skips steps whose gradient overflows and then tries a smaller scale.
    """

    def __init__(self, progress: TrainerState, scaled: bool) -> None:
        self.progress = progress
        self.unseen: list[tuple[int, list[NDArray[np.int64]], Tensor, Tensor]] = []
        self.norm = 0.0
        self.n_overflows = 0
        self.max_overflows = _MAX_OVERFLOWS if scaled else 0
        self.n_rows = 0
        self.n_seconds = 0.0
        self.since = time.perf_counter()

    def add(self, group: list[NDArray[np.int64]], losses: list[Tensor], norm: Tensor) -> None:
        """Record a step without waiting for its loss."""
        self.unseen.append((self.progress.step, group, torch.stack(losses), norm))
        self.n_rows += sum(map(len, group))

    def check(self, lines: NDArray[np.int64]) -> None:
        """Read the losses of the steps since the last check; waits for the device.

        Raises:
            TrainingError: A loss or the norm of a gradient is not a finite number.
        """
        if not self.unseen:
            return
        read = [part for _, _, losses, norm in self.unseen for part in (losses, norm[None])]
        numbers: list[float] = torch.cat(read).cpu().tolist()  # one copy from the device for all steps
        for step, group, losses, _ in self.unseen:
            *values, self.norm = numbers[: len(losses) + 1]
            del numbers[: len(losses) + 1]
            self.n_overflows = 0 if math.isfinite(self.norm) else self.n_overflows + 1
            bad = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
            if bad is not None or self.n_overflows > self.max_overflows:
                rows = np.concatenate(group) if bad is None else group[bad]
                named = ", ".join(str(int(line)) for line in lines[rows][:_N_NAMED_LINES])
                named += f" and {more} more" if (more := len(rows) - _N_NAMED_LINES) > 0 else ""
                what = f"loss is {values[bad]}" if bad is not None else f"gradient's norm is {self.norm}"
                raise TrainingError(
                    f"the {what} in step {step} (lines {named} of the training data)",
                    "check these rows, lower training.learning_rate, or set training.precision to float32; saved "
                    "checkpoints are from before this step",
                )
            self.progress.losses.append(sum(values) / len(values))
        self.unseen.clear()

    def record(self, rate: float) -> TrainRecord:
        """Return the line for the log, and start a new interval."""
        self.pause()
        losses, seconds = self.progress.losses, self.n_seconds
        record: TrainRecord = {
            "kind": "train",
            "step": self.progress.step,
            "epoch": round(self.progress.passes, 4),
            "loss": sum(losses) / len(losses),
            "learning_rate": rate,
            "grad_norm": self.norm,
            "pairs_per_second": self.n_rows / seconds if seconds > 0 else 0.0,
            "seconds": self.progress.seconds,
        }
        losses.clear()
        self.n_rows, self.n_seconds = 0, 0.0
        self.go_on()
        return record

    def pause(self) -> None:
        """Stop the clock."""
        now = time.perf_counter()
        self.n_seconds += now - self.since
        self.progress.seconds += now - self.since
        self.since = now

    def go_on(self) -> None:
        """Start the clock again."""
        self.since = time.perf_counter()


@dataclass(frozen=True)
class TrainingRows:
    """The training rows.

    Attributes:
        tokens: The rows' texts as tokens.
        targets: Targets for the objective, shape (N,), float32: scores or class numbers; None without labels.
        lines: The line of each row in its source, shape (N,).
    """

    tokens: TokenizedConnections
    targets: NDArray[np.float32] | None
    lines: NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """How the best step is found.

    Attributes:
        evaluate: Returns the metrics of the current model; None if a signal stopped the evaluation.
        metric: The metric that decides; higher is better.
        split: Name of the data that is evaluated on.
    """

    evaluate: Callable[[], Mapping[str, float | None] | None]
    metric: str
    split: str = "dev"


@dataclass(frozen=True)
class TrainingSession:
    """The folder, log and interruption state for one call of `train`.

    Attributes:
        watch: The run's folder, checked before anything is written there.
        log: The run's open log.
        interruption: Whether a signal requested the end of the run.
        scalars: The TensorBoard writer; writes nothing if TensorBoard is off.
        resume_from: The checkpoint to resume from; None to start from the first step.
        progress_bar: Whether to show a progress bar.
    """

    watch: FolderWatch
    log: RunLog
    interruption: Interruption
    scalars: Scalars
    resume_from: Checkpoint | None = None
    progress_bar: bool = False


def train(
    model: TrainableModel,
    rows: TrainingRows,
    objective: Objective,
    settings: TrainingSettings,
    plan: RunPlan,
    evaluation: Evaluation | None,
    session: TrainingSession,
) -> TrainerState:
    """Train the model in place, and return the final trainer state; the best and the last step are in checkpoints.

    Args:
        model: float32 weights, on the device to train on.
        rows: The training rows.
        objective: The loss.
        settings: The loop's settings.
        plan: Steps, precision and memory, computed from the settings.
        evaluation: How the best step is found; None for no evaluation.
        session: Folder, log, signals and checkpoint to resume from.

    Raises:
        TrainingError: A loss or gradient is not a finite number; the message names the step and the rows.
        ResourceError: A single row does not fit into memory.
        OutputError: A checkpoint cannot be written.
        RunInterrupted: A signal ended the run, after a checkpoint was written.
    """
    module, device = trained_module(model), model.device
    optimizer = Optimizer(module, settings)
    scaler = torch.amp.GradScaler(device.type) if plan.autocast_dtype == torch.float16 else None
    torch.manual_seed(settings.seed)
    progress = TrainerState(micro_rows=plan.micro_rows)
    if session.resume_from is not None:
        progress = restore_progress(session.resume_from, module, optimizer, scaler)
        if settings.micro_batch_size is not None:
            progress.micro_rows = min(progress.micro_rows, plan.micro_rows)

    with (
        closing(optimizer),
        model.bert.trained_in(plan.autocast_dtype),
        _bar(plan, progress, session.progress_bar) as bar,
    ):
        if progress.evaluation_due and evaluation is not None:  # the run ended before this evaluation was made
            optimizer.settle()
            _evaluate(model, evaluation, progress, plan, session, is_noted=_is_noted(session.log, progress.step))
            _save(model, optimizer, scaler, progress, session)
        step_logger = StepLogger(progress, scaled=scaler is not None)
        while progress.epoch < len(plan.steps_by_epoch) and not progress.stopped_early:
            text_rows = rows.tokens.rows if objective.distinct_texts else None
            batches = epoch_batches(
                plan.n_rows, settings.batch_size, settings.seed, progress.epoch, text_rows=text_rows
            )
            groups = [
                batches[i : i + settings.accumulation_steps]
                for i in range(0, len(batches), settings.accumulation_steps)
            ]
            model.train()
            for group in groups[progress.step_in_epoch : plan.steps_by_epoch[progress.epoch]]:
                rate = settings.learning_rate * rate_factor(progress.step, plan.n_steps, settings)
                set_rate(optimizer, rate)

                losses = _gradients(model, rows, objective, group, plan, progress, optimizer, scaler)
                if scaler is not None:
                    scaler.unscale_(optimizer.adamw)
                norm = optimizer.clip_gradient(settings.max_grad_norm or math.inf)
                if scaler is None:
                    optimizer.step()
                else:
                    scaler.step(optimizer.adamw)
                    scaler.update()
                optimizer.zero_grad()
                if model.bert.trained_copy is not None:
                    model.bert.trained_copy.refresh()

                progress.step += 1
                progress.step_in_epoch += 1
                progress.passes = progress.epoch + progress.step_in_epoch / len(groups)
                step_logger.add(group, losses, norm)
                ends_epoch = progress.step_in_epoch == plan.steps_by_epoch[progress.epoch]
                is_last = ends_epoch and progress.epoch + 1 == len(plan.steps_by_epoch)
                log_due = is_last or _due(progress, settings.logging_steps)
                save_due = is_last or (_due(progress, settings.save_steps) if settings.save_steps else ends_epoch)
                progress.evaluation_due = evaluation is not None and (
                    is_last or (_due(progress, settings.eval_steps) if settings.eval_steps else ends_epoch)
                )
                if device.type == "cpu" or log_due or save_due or progress.evaluation_due:
                    step_logger.check(rows.lines)  # the one place that waits for the device
                if log_due:
                    session.watch.check()
                    record = step_logger.record(rate)
                    session.log.append(record)
                    session.scalars.add(record)
                    speed = f"{record['pairs_per_second']:.0f} {ROW_WORDS[plan.n_texts]}s/s"
                    bar.set_postfix_str(f"loss {record['loss']:.4f}, rate {rate:.1e}, {speed}")
                bar.update(1)
                if ends_epoch:
                    progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0

                if is_last or progress.evaluation_due:
                    optimizer.settle()  # at the same steps as in a resumed run, so that the weights are the same
                if evaluation is not None and progress.evaluation_due and not session.interruption.signal_number:
                    step_logger.pause()
                    save_due |= _evaluate(model, evaluation, progress, plan, session)
                    model.train()
                    step_logger.go_on()
                if save_due or progress.stopped_early or session.interruption.signal_number:
                    step_logger.check(rows.lines)
                    step_logger.pause()
                    _save(model, optimizer, scaler, progress, session)
                    step_logger.go_on()
                if progress.stopped_early or ends_epoch:
                    break
            else:  # no steps left in this epoch: the run was resumed with fewer of them, by --allow-changes
                progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0
    model.eval()
    return progress


def _gradients(
    model: TrainableModel,
    rows: TrainingRows,
    objective: Objective,
    group: list[NDArray[np.int64]],
    plan: RunPlan,
    progress: TrainerState,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler | None,
) -> list[Tensor]:
    """Compute the gradients of the mean loss of a group of batches, and return the batches' losses.

    If memory runs out, the rows per forward are halved and the step is repeated with the same dropout masks.
    """
    while True:
        states = random_states(model.device)
        settings = BackwardSettings(progress.micro_rows, plan.autocast_dtype, plan.layout, 1.0 / len(group))
        scale = None if scaler is None else scaler.scale
        losses = []
        try:
            for batch in group:
                tokens = rows.tokens.pack_rows(batch)
                targets = None if rows.targets is None else torch.from_numpy(rows.targets[batch])
                optimizer.prepare(np.append(tokens.token_ids, model.tokenizer.padding_id))
                losses.append(backward(model, objective, tokens, targets, len(batch), settings, scale))
            return losses
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if progress.micro_rows == 1:
                sequence = "pair" if plan.is_joined else "text"
                raise ResourceError(
                    f"one row of at most {plan.max_seq_length} tokens a {sequence} does not fit into the memory of "
                    f"{model.device} beside a batch of {len(group[0])}",
                    "lower model.max_seq_length or training.batch_size, or set training.gradient_checkpointing",
                ) from error
        # outside the handler, whose exception would keep the failed forward's tensors alive
        progress.micro_rows = max(1, min(progress.micro_rows, max(map(len, group))) // 2)
        optimizer.zero_grad()
        if model.bert.trained_copy is not None:
            model.bert.trained_copy.drop_gradients()
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
        restore_random_states(states, model.device)
        logger.warning(
            "out of memory on %s: going on from step %d with forwards of %d rows; the batch stays the same",
            model.device,
            progress.step,
            progress.micro_rows,
        )


def _evaluate(
    model: TrainableModel,
    evaluation: Evaluation,
    progress: TrainerState,
    plan: RunPlan,
    session: TrainingSession,
    is_noted: bool = False,
) -> bool:
    """Evaluate the model, log the result, and return whether it is the best so far and must be saved."""
    metrics = evaluation.evaluate()
    if metrics is None:
        return False
    value = metrics.get(evaluation.metric)
    best = value is not None and (progress.best_value is None or value > progress.best_value)
    if best:
        progress.best_step, progress.best_value, progress.n_stale = progress.step, value, 0
    else:
        progress.n_stale += 1
    progress.evaluation_due = False
    patience = plan.patience
    progress.stopped_early = patience is not None and progress.n_stale >= patience
    record = {
        "kind": "eval",
        "step": progress.step,
        "epoch": round(progress.passes, 4),
        "split": evaluation.split,
        "metrics": dict(metrics),
        "best": best,
    }
    if not is_noted:
        session.log.append(record)
        session.scalars.add(record)
    shown = ", ".join(f"{name} {number:.4f}" for name, number in metrics.items() if number is not None)
    logger.info("step %d: %s %s%s", progress.step, evaluation.split, shown, ", the best so far" if best else "")
    if progress.stopped_early:
        logger.info("stopped early: no better %s in %d evaluations", evaluation.metric, progress.n_stale)
    return best


def _save(
    model: TrainableModel,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler | None,
    progress: TrainerState,
    session: TrainingSession,
) -> None:
    """Write a checkpoint; then end the run if a signal came before or meanwhile."""
    session.watch.check()
    session.log.sync()
    save_progress(RunFolder(session.watch.path).checkpoints_dir, progress, trained_module(model), optimizer, scaler)
    session.interruption.end_if_asked(f"after step {progress.step:,}; continue with --resume")


def _is_noted(log: RunLog, step: int) -> bool:
    """Return whether the log already has the evaluation of this step, as after a kill before the next checkpoint."""
    return any(record.get("kind") == "eval" and record.get("step") == step for record in read_log(log.path))


def _due(progress: TrainerState, every: int | None) -> bool:
    return every is not None and progress.step % every == 0


def _bar(plan: RunPlan, progress: TrainerState, shown: bool) -> tqdm:
    return tqdm(total=plan.n_steps, initial=progress.step, unit="step", disable=not shown, dynamic_ncols=True)
