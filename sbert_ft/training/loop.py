"""The training loop: batch, loss, gradient, step.

Periodic work (a line in the log, an evaluation, a checkpoint) is done after a step, in this order, so that a checkpoint
includes everything before it. The order of rows follows from seed and epoch, and dropout from the saved random states.
So a run that is interrupted anywhere and resumed makes the same steps as an uninterrupted run, bit by bit on a CPU. On
a GPU some kernels sum gradients in no fixed order, so two runs differ by rounding, resumed or not. The loop waits for
the device once per logging interval.

Where several processes train, each makes the same steps with the same sums of gradients, so their weights stay the same
bit by bit; dropout follows from seed, step and process. The first one writes. What one process alone knows (a signal,
that its memory ran out, the value of an evaluation) is agreed on before anything follows from it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from sbert_ft.config.metrics import METRICS
from sbert_ft.encoder.devices import is_out_of_memory
from sbert_ft.encoder.ranks import Ranks
from sbert_ft.errors import CheckpointError, ResourceError, TrainingError, shown
from sbert_ft.evaluation.retrieval_evaluator import RetrievalEvaluator
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.models.tokenized_corpus import TokenizedCorpus
from sbert_ft.training.adversarial import moved_words
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
from sbert_ft.training.masked_gradients import backward_masked
from sbert_ft.training.negatives import NEGATIVES, Candidates, NegativeMiner, describe_mined
from sbert_ft.training.optimizer import Optimizer, rate_factor, set_rate
from sbert_ft.training.plan import RunPlan
from sbert_ft.training.prepare import masker_of
from sbert_ft.training.run_folder import RunFolder
from sbert_ft.training.run_log import RunLog, read_log
from sbert_ft.training.teacher_vectors import TeacherVectors
from sbert_ft.training.tokenized_dataset import TokenizedConnections
from sbert_ft.training.trainable_model import set_up_for_training

_N_NAMED_LINES = 8
# A scaler starts at 2**16 and halves at each overflow; this many in sequence are not a problem of scale.
_MAX_OVERFLOWS = 30

logger = logging.getLogger(__name__)


class StepLogger:
    """Collects losses and times of steps for the log; losses and total time are kept in the trainer state."""

    def __init__(self, progress: TrainerState, lines: NDArray[np.int64], names: Sequence[str], scaled: bool) -> None:
        """Begin with the run's state and the line of each training row in its source, shape (N,).

        `names` are those of the objectives. `scaled`: whether a scaler is used, which skips steps whose gradient
        overflows and then tries a smaller scale.
        """
        self.progress = progress
        self.lines = lines
        self.names = names
        self.unread: list[tuple[int, list[NDArray[np.int64]], Tensor]] = []
        self.norm = 0.0
        self.n_overflows = 0
        self.max_overflows = _MAX_OVERFLOWS if scaled else 0
        self.n_rows = 0
        self.seconds_before = progress.seconds
        self.since = time.perf_counter()

    def add(self, group: list[NDArray[np.int64]], losses: list[Tensor], norm: Tensor) -> None:
        """Record a step without waiting for the losses of its batches, shape (P,) each: one number for an objective."""
        self.unread.append((self.progress.step, group, torch.cat([*losses, norm[None]])))
        self.n_rows += sum(map(len, group))

    def check(self) -> None:
        """Read the losses since the last check; waits for the device. One that is not finite is a `TrainingError`."""
        if not self.unread:
            return
        numbers: list[float] = torch.cat([read for _, _, read in self.unread]).cpu().tolist()  # one copy
        for step, group, read in self.unread:
            *parts, self.norm = numbers[: len(read)]
            del numbers[: len(read)]
            by_batch = np.reshape(parts, (-1, len(self.names)))
            losses = by_batch.sum(axis=1).tolist()
            self.n_overflows = 0 if math.isfinite(self.norm) else self.n_overflows + 1
            bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
            if bad is not None or self.n_overflows > self.max_overflows:
                rows = np.concatenate(group) if bad is None else group[bad]
                named = ", ".join(str(int(line)) for line in self.lines[rows][:_N_NAMED_LINES])
                named += f" and {more} more" if (more := len(rows) - _N_NAMED_LINES) > 0 else ""
                what = f"loss is {losses[bad]}" if bad is not None else f"gradient's norm is {self.norm}"
                raise TrainingError(
                    f"the {what} in step {step} (lines {named} of the training data)",
                    "check these rows, lower training.learning_rate, or set training.precision to float32; saved "
                    "checkpoints are from before this step",
                )
            self.progress.losses_by_objective.append(by_batch.mean(axis=0).tolist())
        self.unread.clear()

    def record(self, rate: float) -> dict[str, Any]:
        """Return the line for the log, and start a new interval."""
        self._add_time()
        steps, seconds = self.progress.losses_by_objective, self.progress.seconds - self.seconds_before
        means = [sum(losses) / len(losses) for losses in zip(*steps, strict=True)]
        record = {
            "kind": "train",
            "step": self.progress.step,
            "epoch": round(self.progress.passes, 4),
            "loss": sum(means),
            "learning_rate": rate,
            "grad_norm": self.norm,
            "rows_per_second": self.n_rows / seconds if seconds > 0 else 0.0,
            "seconds": self.progress.seconds,
        }
        if len(means) > 1:
            record |= {f"loss_{name}": mean for name, mean in zip(self.names, means, strict=True)}
        steps.clear()
        self.n_rows, self.seconds_before = 0, self.progress.seconds
        return record

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock during the block."""
        self._add_time()
        yield
        self.since = time.perf_counter()

    def _add_time(self) -> None:
        now = time.perf_counter()
        self.progress.seconds += now - self.since
        self.since = now


class RunPaused(Exception):
    """Not an error: a run ended at an evaluation, as it was asked to, with its progress in a checkpoint.

    Attributes:
        step: Steps made, of `n_steps`.
        metric: The name of the metric that chooses the best step.
        value: Its value at the best evaluation so far; None if it never had one.
    """

    def __init__(self, step: int, n_steps: int, metric: str | None, value: float | None) -> None:
        super().__init__(f"paused after step {step:,} of {n_steps:,}")
        self.step, self.n_steps, self.metric, self.value = step, n_steps, metric, value


@dataclass(frozen=True)
class TrainingSession:
    """One call of `train`: the run's folder, its signals, the checkpoint to resume from, and the processes.

    `taught` are the vectors of a teacher, for objectives that learn from them.
    With `pause_share` it ends at the first evaluation after this share of the steps, unless that is the last one.
    """

    folder: RunFolder
    interruption: Interruption
    resume_from: Checkpoint | None = None
    progress_bar: bool = False
    ranks: Ranks = field(default_factory=Ranks)
    taught: TeacherVectors | None = None
    pause_share: float | None = None


def train(plan: RunPlan, session: TrainingSession) -> TrainerState:
    """Train the model of a run in place, and return the final trainer state; the model is then in eval mode.

    The weights of the best and of the last step are in checkpoints.

    Raises:
        TrainingError: A loss or gradient is not a finite number; the message names the step and the rows.
        ResourceError, OutputError, RunInterrupted: As in `run_training`; a signal is followed by a checkpoint.
        RunPaused: The session asked for it.
    """
    run, folder = plan.run, session.folder
    begin = 0 if session.resume_from is None else session.resume_from.step
    tensorboard = folder.tensorboard_dir if run.settings.training.tensorboard else None
    devices = range(torch.cuda.device_count())  # the seed is set on all of them
    is_first = session.ranks.is_first
    if is_first:
        folder.check_is_there()  # the base model was evaluated meanwhile
    with (
        RunLog(folder.log_file, begin, tensorboard) if is_first else nullcontext() as log,
        torch.random.fork_rng(devices=devices),  # the caller's generators stay as they were
        set_up_for_training(run.model.bert.encoder, run.settings, run.objective.decoder, by_row=run.reads_words_alone),
        session.interruption.deferred(),
    ):
        try:
            return _Loop(plan, session, log).train()
        finally:
            run.model.eval()


class _Loop:
    """The loop, and what changes in it: model, optimizer, scaler and trainer state."""

    def __init__(self, plan: RunPlan, session: TrainingSession, log: RunLog | None) -> None:
        self.plan, self.session, self.log, self.ranks = plan, session, log, session.ranks
        self.model, self.settings = plan.run.model, plan.run.settings.training
        self.module, self.device = plan.run.trained, self.model.device
        self.targets, self.tokens = plan.run.targets(), plan.tokens
        self.candidates: Candidates | None = None  # of the rows' negatives
        evaluator = plan.run.evaluator
        self.evaluated_on = evaluator.evaluated_on if isinstance(evaluator, RetrievalEvaluator) else "dev"
        self.masker = None
        if isinstance(self.model, MaskedLanguageModel):
            self.masker = masker_of(self.model, plan.run.settings)
        self.optimizer = Optimizer(self.module, self.settings)
        self.scaler = torch.amp.GradScaler(self.device.type) if plan.autocast_dtype == torch.float16 else None
        if self.scaler is not None:
            self.scaler.scale(torch.zeros((), device=self.device))  # it has its scale even where a process has no row
        torch.manual_seed(self.settings.seed)
        self.progress = TrainerState(micro_rows=plan.micro_rows)
        if session.resume_from is not None:
            is_first = session.ranks.is_first
            if not is_first and not session.resume_from.path.exists():
                raise CheckpointError(
                    f"{shown(session.resume_from.path)} is not there, from which process 0 goes on",
                    "give all machines the same output_dir, on storage that they share",
                )
            self.progress = restore_progress(session.resume_from, self.module, self.optimizer, self.scaler, is_first)
            if plan.miner is not None and NEGATIVES in session.resume_from.groups:
                self.candidates = Candidates.of_tensors(session.resume_from.read_tensors(NEGATIVES))
            if self.settings.micro_batch_size is not None:
                self.progress.micro_rows = min(self.progress.micro_rows, plan.micro_rows)

    def train(self) -> TrainerState:
        plan, settings, progress, session = self.plan, self.settings, self.progress, self.session
        evaluates = plan.run.evaluator.metric is not None
        shown = session.progress_bar
        bar = tqdm(total=plan.n_steps, initial=progress.step, unit="step", disable=not shown, dynamic_ncols=True)
        with bar, closing(self.optimizer), self.model.bert.trained_in(plan.autocast_dtype):
            if progress.evaluation_due and evaluates:  # the run ended before this evaluation was made
                self.optimizer.settle()
                self._evaluate(is_resumed=True)
                self._save()
            self._pause_if_asked()
            steps = StepLogger(progress, plan.lines, plan.run.objective.names, scaled=self.scaler is not None)
            self.model.train()
            for group, passes in self._groups(steps):
                self.ranks.doing(f"step {progress.step + 1}")
                rate = settings.learning_rate * rate_factor(progress.step, plan.n_steps, settings)
                set_rate(self.optimizer, rate)
                losses = self._gradients(group)
                norm = self._step()

                progress.step += 1
                progress.step_in_epoch += 1
                progress.passes = passes
                steps.add(group, losses, norm)
                ends_epoch = progress.step_in_epoch == plan.steps_by_epoch[progress.epoch]
                is_last = ends_epoch and progress.epoch + 1 == len(plan.steps_by_epoch)
                log_due = is_last or progress.step % settings.logging_steps == 0
                save_due = is_last or self._is_due(settings.save_steps, ends_epoch)
                progress.evaluation_due = evaluates and (is_last or self._is_due(settings.eval_steps, ends_epoch))
                if self.device.type == "cpu" or log_due or save_due or progress.evaluation_due:
                    steps.check()  # the one place that waits for the device
                if log_due:
                    self._check_same()
                    record = steps.record(rate)
                    if self.log is not None:
                        session.folder.check_is_there()
                        self.log.append(record)
                    speed = f"{record['rows_per_second']:.0f} {plan.row}s/s"
                    bar.set_postfix_str(f"loss {record['loss']:.4f}, rate {rate:.1e}, {speed}")
                bar.update(1)
                if ends_epoch:
                    progress.epoch, progress.step_in_epoch = progress.epoch + 1, 0

                if is_last or progress.evaluation_due:
                    self.optimizer.settle()  # at the same steps as in a resumed run, so that the weights are the same
                if progress.evaluation_due and not self._is_signalled():
                    with steps.paused():
                        save_due |= self._evaluate()
                        self.model.train()
                if self._is_signalled() or save_due or progress.stopped_early or self._pauses():
                    steps.check()
                    with steps.paused():
                        self._save()
                if progress.stopped_early:
                    break
                self._pause_if_asked()
        return progress

    def _groups(self, steps: StepLogger) -> Iterator[tuple[list[NDArray[np.int64]], float]]:
        """Yield the batches of each step that is left, and the passes over the rows that it completes."""
        progress, size = self.progress, self.settings.accumulation_steps
        while progress.epoch < len(self.plan.steps_by_epoch) and not progress.stopped_early:
            epoch, n_steps = progress.epoch, self.plan.steps_by_epoch[progress.epoch]
            batches = self.plan.batches(epoch)
            groups = [batches[i : i + size] for i in range(0, len(batches), size)]
            if self.plan.miner is not None and progress.step_in_epoch < n_steps:
                with steps.paused():
                    self._add_negatives(self.plan.miner, batches)
            for i in range(progress.step_in_epoch, n_steps):
                yield groups[i], epoch + (i + 1) / len(groups)
            # also where no step is left: the run was resumed with fewer of them, by --allow-changes
            progress.epoch, progress.step_in_epoch = epoch + 1, 0

    def _add_negatives(self, miner: NegativeMiner, batches: list[NDArray[np.int64]]) -> None:
        """Add negatives to the rows of the current epoch, and mine them before if that is due.

        What is mined is in every checkpoint from then on. A run that goes on from its last checkpoint before the epoch
        mines again, by the same weights.
        """
        progress, session, mined = self.progress, self.session, None
        is_start = progress.step_in_epoch == 0
        if self.candidates is None or (is_start and miner.is_due(progress.epoch)):
            self.ranks.doing(f"the mining of negatives after step {progress.step}")
            self.optimizer.settle()  # at the same steps as in a resumed run, so that the weights are the same
            mined = miner.mine(progress.step == 0, self.ranks, self._is_signalled)
            self.model.train()
            if mined is None:
                if progress.step:
                    self._save()
                session.interruption.raise_if_signalled("before its first step; continue with --resume")
            assert mined is not None
            self.candidates = mined.candidates
        assert self.candidates is not None and isinstance(self.plan.tokens, TokenizedConnections)
        chosen = miner.choose(self.candidates, batches, progress.epoch)
        self.tokens = miner.with_negatives(self.plan.tokens, chosen)
        if mined is not None and self.log is not None:
            session.folder.check_is_there()
            record = miner.write(session.folder.path, progress.epoch, mined, chosen)
            where = {"kind": NEGATIVES, "step": progress.step, "epoch": progress.epoch + 1}
            # it is there if the run was killed before the next checkpoint
            if not any(where.items() <= line.items() for line in read_log(self.log.path)):
                self.log.append({**where, **record})
            logger.info("epoch %d: %s", progress.epoch + 1, describe_mined(record, mined.seconds))
            if 2 * record["n_drawn"] > record["n"]:
                logger.warning(
                    "epoch %d: %d of %d negatives are drawn at random, because so few near texts are not likely to "
                    "match: widen data.negatives.ranks, raise max_probability, or give dev pairs with labels",
                    *(progress.epoch + 1, record["n_drawn"], record["n"]),
                )

    def _pauses(self) -> bool:
        """Return whether the run is to pause after this step, which was evaluated."""
        progress, share, n_steps = self.progress, self.session.pause_share, self.plan.n_steps
        if share is None or not share * n_steps <= progress.step < n_steps or progress.stopped_early:
            return False
        evaluated = self._is_due(self.settings.eval_steps, progress.step_in_epoch == 0)
        return evaluated and self.plan.run.evaluator.metric is not None and not progress.evaluation_due

    def _pause_if_asked(self) -> None:
        """End the run by `RunPaused` where it is to pause; a checkpoint of this step is on disk."""
        if self._pauses():
            progress, metric = self.progress, self.plan.run.evaluator.metric
            raise RunPaused(progress.step, self.plan.n_steps, metric, progress.best_value)

    def _is_due(self, every: int | None, ends_epoch: bool) -> bool:
        return self.progress.step % every == 0 if every else ends_epoch

    def _gradients(self, group: list[NDArray[np.int64]]) -> list[Tensor]:
        """Compute the gradients of the mean loss of a group of batches, and return its batches' losses, (P,) each.

        If memory runs out, the rows per forward are halved and the step is repeated with the same dropout masks.
        """
        plan, progress, model, ranks = self.plan, self.progress, self.model, self.ranks
        scale = None if self.scaler is None else self.scaler.scale
        if ranks.size > 1:  # other masks in each process, and the same when a run of as many is resumed
            place = np.random.SeedSequence([self.settings.seed, progress.step, ranks.rank])
            torch.manual_seed(int(place.generate_state(1, np.uint64)[0] >> 1))
        while True:
            states = random_states(self.device)
            settings = BackwardSettings(
                progress.micro_rows, plan.autocast_dtype, plan.layout, 1.0 / len(group), scale, ranks
            )
            losses = []
            try:
                for number, batch in enumerate(group):
                    losses.append(self._backward(batch, number, settings))
                if self.settings.adversarial_epsilon is not None:
                    words = model.bert.encoder.get_input_embeddings().weight
                    assert isinstance(words, Tensor)
                    with moved_words(words, self.optimizer.rows, self.settings.adversarial_epsilon, ranks):
                        for number, batch in enumerate(group):
                            self._backward(batch, number, settings, is_second=True)
                self.optimizer.sum_gradients(ranks, *losses)
                return losses
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if progress.micro_rows == 1:
                    raise ResourceError(
                        f"one row of at most {plan.tokens.max_seq_length} tokens a {plan.sequence} does not fit into "
                        f"the memory of {self.device} beside a batch of {len(group[0])}",
                        "lower model.max_seq_length or training.batch_size, or set training.gradient_checkpointing",
                    ) from error
            # outside the handler, whose exception would keep the failed forward's tensors alive
            most_rows = -(-max(map(len, group)) // ranks.size)
            progress.micro_rows = max(1, min(progress.micro_rows, most_rows) // 2)
            self.optimizer.zero_grad()
            if model.bert.trained_copy is not None:
                model.bert.trained_copy.drop_gradients()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            restore_random_states(states, self.device)
            logger.warning(
                "out of memory on %s: going on from step %d with forwards of %d rows; the batch stays the same",
                *(self.device if ranks.size == 1 else "a device", progress.step, progress.micro_rows),
            )

    def _backward(
        self, batch: NDArray[np.int64], number: int, settings: BackwardSettings, is_second: bool = False
    ) -> Tensor:
        """Add the gradients of one batch, the one of this number in its step, and return its losses, shape (P,).

        The second time in a step the rows of the word table are left as they are.
        """
        model, tokens, objective = self.model, self.tokens, self.plan.run.objective
        if isinstance(model, MaskedLanguageModel):
            assert isinstance(tokens, TokenizedCorpus) and self.masker is not None
            random = np.random.default_rng([self.settings.seed, self.progress.step, number])
            return backward_masked(model, objective, tokens.draw(batch, self.masker, random), settings)
        assert isinstance(tokens, TokenizedConnections)
        packed = tokens.pack_rows(batch)
        targets = None if self.targets is None else torch.from_numpy(self.targets[batch])
        if objective.decoder is not None:
            packed, targets = objective.decoder.damage(packed, self.progress.step, number)
        if not is_second:
            self.optimizer.prepare(np.append(packed.token_ids, model.tokenizer.padding_id))
        taught = None if self.session.taught is None else self.session.taught.of_rows(batch)
        return backward(model, objective, packed, targets, len(batch), settings, taught)

    def _step(self) -> Tensor:
        """Update the weights, clear the gradient, and return its norm before clipping, a scalar."""
        scaler = self.scaler
        if isinstance(self.model, MaskedLanguageModel) and all(p.grad is None for p in self.module.parameters()):
            scaler = None  # the batch has no masked token; a scaler wants to see a gradient
        if scaler is not None:
            scaler.unscale_(self.optimizer.adamw)
        norm = self.optimizer.clip_gradient(self.settings.max_grad_norm or math.inf)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer.adamw)
            scaler.update()
        if self.optimizer.average is not None:
            self.optimizer.average.update()
        self.optimizer.zero_grad()
        if self.model.bert.trained_copy is not None:
            self.model.bert.trained_copy.refresh()
        return norm

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Let the model have its averaged weights during the block, if there are any; all weights are up to date."""
        if self.optimizer.average is None:
            yield
            return
        copied = self.model.bert.trained_copy
        try:
            with self.optimizer.average.in_place():
                if copied is not None:
                    copied.refresh()
                yield
        finally:
            if copied is not None:
                copied.refresh()

    def _evaluate(self, is_resumed: bool = False) -> bool:
        """Evaluate the model, log the result, and return whether it is one of the best so far and must be saved.

        If `is_resumed`, the log may have this evaluation already: the run was killed before the next checkpoint.
        """
        progress, run = self.progress, self.plan.run
        self.ranks.doing(f"the evaluation after step {progress.step}")
        with self._averaged():
            found = run.evaluator.evaluate(self.model, self._is_signalled)
        metrics = self.ranks.told(lambda: found)
        if metrics is None:
            return False
        name = run.evaluator.metric or ""
        value, reason = metrics[name].value, metrics[name].reason
        lower_is_better = METRICS[name].lower_is_better
        sign = -1 if lower_is_better else 1
        best = value is not None and (progress.best_value is None or sign * value > sign * progress.best_value)
        if best:
            progress.best_step, progress.best_value, progress.n_stale = progress.step, value, 0
        elif value is None:
            logger.warning(
                "%s has no %s (%s): such an evaluation is neither better nor worse", self.evaluated_on, name, reason
            )
        else:
            progress.n_stale += 1
        is_kept = best
        if self.settings.average == "best_k" and value is not None:
            is_kept |= progress.keep(value, lower_is_better, self.settings.best_k)
        progress.evaluation_due = False
        patience = self.settings.early_stopping_patience
        progress.stopped_early = patience is not None and progress.n_stale >= patience
        if self.log is None:
            return is_kept
        records = read_log(self.log.path) if is_resumed else []
        if not any(record.get("kind") == "eval" and record.get("step") == progress.step for record in records):
            passes = round(progress.passes, 4)
            where = {"kind": "eval", "step": progress.step, "epoch": passes, "split": self.evaluated_on}
            self.log.append({**where, "metrics": {name: score.value for name, score in metrics.items()}, "best": best})
        shown = ", ".join(f"{name} {score.value:.4f}" for name, score in metrics.items() if score.value is not None)
        logger.info("step %d: %s %s%s", progress.step, self.evaluated_on, shown, ", the best so far" if best else "")
        if progress.stopped_early:
            logger.info("stopped early: no better %s in %d evaluations", run.evaluator.metric, progress.n_stale)
        return is_kept

    def _save(self) -> None:
        """Write a checkpoint; then end the run if a signal came before or meanwhile."""
        folder = self.session.folder
        self.ranks.doing(f"the checkpoint after step {self.progress.step}")
        if self.log is not None:
            folder.check_is_there()
            self.log.sync()
            more = {} if self.candidates is None else {NEGATIVES: self.candidates.tensors()}
            save_progress(folder.checkpoints_dir, self.progress, self.module, self.optimizer, self.scaler, more)
        self.progress.saved_step = self.progress.step
        self.ranks.most([0])  # nobody goes on, or ends, before it is on disk
        self.session.interruption.raise_if_signalled(f"after step {self.progress.step:,}; continue with --resume")

    def _is_signalled(self) -> bool:
        """Return whether a signal has asked any process to end, and note in this one that it has."""
        interruption = self.session.interruption
        (number,) = self.ranks.most([interruption.signal_number])
        if number and not interruption.aloud:
            interruption.signal_number, interruption.aloud = number, True
            interruption.say()
        return number != 0

    def _check_same(self) -> None:
        """Check that all processes have the same weights, bit by bit; it waits for the device."""
        if self.ranks.size == 1:
            return
        sums = [weight.detach().view(torch.int32).sum() for weight in self.optimizer.weights]
        total = int(torch.stack(sums).sum()) >> 1  # the negative is then a number, too
        if self.ranks.most([total, -total]) != [total, -total]:
            raise TrainingError(
                f"the processes no longer have the same weights after step {self.progress.step}",
                "look for a machine that computes otherwise than the first one (all need the same kind of processor or "
                "card), then start again, or go on from a checkpoint with fewer of them",
            )
