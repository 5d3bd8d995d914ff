"""How far a run is: everything that a checkpoint needs besides weights, so that a resumed run is the unbroken one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sbert_ft.errors import CheckpointError, quoted
from sbert_ft.training.checkpoints import Checkpoint, remove_all_but, save_checkpoint
from sbert_ft.training.optimizer import Optimizer, optimizer_tensors, restore_optimizer


@dataclass
class Progress:
    """Where a run stands; grows while it runs.

    Attributes:
        step: Optimizer steps made.
        epoch: The one under way, from 0.
        step_in_epoch: Steps made of it.
        passes: Over the rows, the one under way as a share.
        micro_rows: Rows a forward, as memory has allowed.
        best_step: Step of the best evaluation; None before the first one.
        best_value: Its metric.
        n_stale: Evaluations since then.
        seconds: Spent in training, over all sittings.
        losses: Of the steps since the last line of the log.
        evaluation_due: Whether the run ended after a step before its evaluation was made.
        stopped_early: Whether evaluations stopped getting better.
        saved_step: Step of the last checkpoint; None before the first one.
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    passes: float = 0.0
    micro_rows: int = 1
    best_step: int | None = None
    best_value: float | None = None
    n_stale: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    evaluation_due: bool = False
    stopped_early: bool = False
    saved_step: int | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any], source: Path) -> Progress:
        """Return the progress that a checkpoint's state holds.

        Raises:
            CheckpointError: It holds something else.
        """
        fresh = asdict(cls())
        optional = {"best_step": int, "best_value": float, "saved_step": int}
        for name, usual in fresh.items():
            kind = optional.get(name, type(usual))
            value = content.get(name, source)  # a value that no JSON holds, where there is none
            fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool) == isinstance(
                value, bool
            )
            if not fits and not (value is None and name in optional):
                raise CheckpointError(f"{source}: state.json has no usable {quoted(name)}; begin anew with --overwrite")
        return cls(**{name: content[name] for name in fresh})


def save_progress(
    folder: Path,
    progress: Progress,
    module: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler | None,
) -> None:
    """Write the whole state of a run, then remove all checkpoints but this one, the last before it and the best.

    The last before it is there to fall back on, should this one be damaged.

    Raises:
        OutputError: It cannot be written; what was there before still is.
    """
    state_of_optimizer = optimizer_tensors(optimizer, module)  # first: it brings the weights up to date
    tensors = {
        "weights": dict(module.state_dict()),
        "optimizer": state_of_optimizer,
        "random": random_states(next(module.parameters()).device),
    }
    state = {"progress": asdict(progress), "scaler": None if scaler is None else scaler.state_dict()}
    save_checkpoint(folder, progress.step, tensors, state)
    kept = (progress.step, progress.saved_step, progress.best_step)
    remove_all_but(folder, {step for step in kept if step is not None})
    progress.saved_step = progress.step


def restore_progress(
    checkpoint: Checkpoint,
    module: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler | None,
) -> Progress:
    """Put everything that `save_progress` wrote back in place, and return the progress.

    What it had not yet removed when it was killed is removed.

    Raises:
        CheckpointError: The checkpoint is of another model or optimizer.
        OutputError: An earlier checkpoint cannot be removed.
    """
    content = checkpoint.state.get("progress")
    progress = Progress.from_json(content if isinstance(content, dict) else {}, checkpoint.path)
    kept = {step for step in (progress.saved_step, progress.best_step) if step is not None}
    progress.saved_step = checkpoint.step
    try:
        restore_weights(checkpoint, module)
        restore_optimizer(optimizer, module, checkpoint.read_tensors("optimizer"))
        restore_random_states(checkpoint.read_tensors("random"), next(module.parameters()).device)
        if scaler is not None and isinstance(checkpoint.state.get("scaler"), dict):
            scaler.load_state_dict(checkpoint.state["scaler"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.path} does not fit this run: {quoted(error, limit=200)}; it is of another model or setting"
        ) from error
    remove_all_but(checkpoint.path.parent, kept, before=checkpoint.step)
    return progress


def restore_weights(checkpoint: Checkpoint, module: nn.Module) -> None:
    """Put a checkpoint's weights into the encoder (and head), every one of them.

    Raises:
        CheckpointError: They are of another model.
    """
    try:
        module.load_state_dict(checkpoint.read_tensors("weights"), strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint.path} holds another model's weights: {quoted(error, limit=200)}; begin anew with --overwrite"
        ) from error


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the generators that dropout draws from, uint8."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Set the generators back; a run that goes on elsewhere begins with fresh ones of that device."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
