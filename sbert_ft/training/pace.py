"""Losses and times of the steps since the last line of the log, looked at without holding up the device."""

from __future__ import annotations

import math
import time
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbert_ft.errors import TrainingError
from sbert_ft.training.progress import Progress

_N_NAMED_LINES = 8
# A scaler begins at 2**16 and halves at each overflow; so many on end are no matter of scale.
_MAX_OVERFLOWS = 30


class TrainRecord(TypedDict):
    """A line of the log about steps."""

    kind: str
    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    pairs_per_second: float
    seconds: float


class Pace:
    """Collects losses and times, step by step; the sums are kept in the run's progress.

    Args:
        progress: Of the run.
        scaled: Whether a scaler skips steps whose gradient overflows, and tries a smaller scale.
    """

    def __init__(self, progress: Progress, scaled: bool) -> None:
        self.progress = progress
        self.unseen: list[tuple[int, list[NDArray[np.int64]], Tensor, Tensor]] = []
        self.norm = 0.0
        self.n_overflows = 0
        self.max_overflows = _MAX_OVERFLOWS if scaled else 0
        self.n_rows = 0
        self.n_seconds = 0.0
        self.since = time.perf_counter()

    def add(self, group: list[NDArray[np.int64]], losses: list[Tensor], norm: Tensor) -> None:
        """Note a step without waiting for its loss."""
        self.unseen.append((self.progress.step, group, torch.stack(losses), norm))
        self.n_rows += sum(map(len, group))

    def check(self, lines: NDArray[np.int64]) -> None:
        """Read the losses of the steps not looked at yet.

        Raises:
            TrainingError: One is no finite number, or the gradient's norm is none.
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
                    f"the {what} in step {step} (lines {named} of the training data); look at these rows, lower "
                    "training.learning_rate, or set training.precision to float32; what was saved is from before"
                )
            self.progress.losses.append(sum(values) / len(values))
        self.unseen.clear()

    def record(self, rate: float) -> TrainRecord:
        """Return the line for the log, and begin a new interval."""
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
