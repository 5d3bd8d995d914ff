"""Save and load a run's state; a checkpoint on disk is either complete or absent.

A checkpoint is one safetensors file `step-00000120.safetensors`, with everything that is not a tensor as JSON in the
metadata of its header. It is written under a temporary name, synced and renamed, so a kill at any moment leaves the
earlier checkpoints, with or without the new one. The newest checkpoint is the one with the highest step in its name; no
clock is used. A digest in the header covers every byte of the file, and a file that does not match it is not used.
Nothing is pickled. The cost is one pass over the file when a run is resumed.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sbert_ft.errors import CheckpointError, ModelFolderError, quoted, shown
from sbert_ft.files.atomic import json_bytes, make_folder, open_regular, sync_folder, whole_file, writing
from sbert_ft.files.strict_json import parse_json
from sbert_ft.model_folder.tensor_files import safetensors_header, write_safetensors
from sbert_ft.training.optimizer import Optimizer, optimizer_tensors, restore_optimizer

logger = logging.getLogger(__name__)

FORMAT = 2
_FILE_NAME = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,17})\.safetensors")  # as `checkpoint_file` makes it
_GROUP = re.compile(r"[a-z][a-z0-9_]{0,63}")
_WEIGHTS, _AVERAGE = "weights", "average"  # the weights that are trained, and their moving average if there is one
_NO_DIGEST = "0" * 64
_DIGEST = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_MAX_STATE_BYTES = 8 * 2**20
_MAX_HEADER_BYTES = 16 * 2**20
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose bytes matched its digest when it was opened, after `step` optimizer steps.

    `state` has the JSON values that were saved with the tensors, and `groups` the names for `read_tensors`.
    """

    path: Path
    step: int
    state: dict[str, Any] = field(repr=False)
    groups: tuple[str, ...]

    def read_tensors(self, group: str) -> dict[str, torch.Tensor]:
        """Return the tensors saved as `group`: copies on the CPU, with their original dtypes.

        Raises:
            CheckpointError: There is no such group, or the file cannot be read.
        """
        prefix = self._prefix(group)
        try:
            os.close(open_regular(self.path))
            with safe_open(self.path, framework="pt", device="cpu") as file:
                names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
                # copied, because the file may be deleted or replaced while the run goes on
                return {name.removeprefix(prefix): file.get_tensor(name).clone() for name in names}
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise _damaged(self.path, quoted(error, limit=200)) from None

    def shapes(self, group: str) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors of a group, without reading them; errors as in `read_tensors`."""
        prefix = self._prefix(group)
        header = safetensors_header(self.path)
        return {name.removeprefix(prefix): info.shape for name, info in header.items() if name.startswith(prefix)}

    def _prefix(self, group: str) -> str:
        if group in self.groups:
            return f"{group}/"
        found = ", ".join(self.groups) or "none"
        raise CheckpointError(
            f"{shown(self.path)} has no tensors {quoted(group)}; found: {found}", "start again with --overwrite"
        )


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, torch.Tensor]], state: Mapping[str, object]
) -> Path:
    """Write a checkpoint and return its file, which is synced to disk before this returns.

    A checkpoint of the same step is replaced; the old one can be read until the new one is on disk. The folder is
    created if it does not exist. `tensors` are in groups by name (lowercase letters, digits and `_`), as
    `write_safetensors` takes them; `state` is everything else, as JSON, of which floats are restored bit by bit.

    Raises:
        OutputError: It cannot be written; earlier checkpoints are kept, and no partial file is left.
        ValueError: A name, a step or a value cannot be saved (NaN and infinity are not JSON: use null).
    """
    if not 0 <= step < 10**18 or not all(map(_GROUP.fullmatch, tensors)):
        raise ValueError(f"step {step} or one of the names {list(tensors)} is not valid for a checkpoint")
    state_bytes = json_bytes(dict(state))
    if len(state_bytes) > _MAX_STATE_BYTES:
        raise ValueError(f"a state of {len(state_bytes)} bytes is above the limit for reading; save arrays as tensors")
    metadata = {
        "format": str(FORMAT),
        "step": str(step),
        "groups": " ".join(sorted(tensors)),
        "state": state_bytes.decode(),
        "sha256": _NO_DIGEST,
    }
    target = checkpoint_file(folder, step)
    with writing(folder):
        make_folder(folder)
    with writing(target), whole_file(target) as temporary:
        named = {f"{group}/{name}": tensor for group, its in tensors.items() for name, tensor in its.items()}
        write_safetensors(named, temporary, metadata)
        with temporary.open("r+b") as file:
            place, digest = _digest_of(file)
            file.seek(place)
            file.write(digest.encode())
    return target


def _digest_of(file: BinaryIO) -> tuple[int, str]:
    """Return where a file's digest is, and what it has to be: the sha256 of all bytes, with zeros in its own place."""
    file.seek(0)
    n_header = int.from_bytes(file.read(8), "little")
    head = file.read(min(n_header, _MAX_HEADER_BYTES))
    found = _DIGEST.search(head)
    if found is None or len(head) != n_header:
        raise ValueError("its header is cut or holds no digest")
    place = found.start(1)
    digest = hashlib.sha256(n_header.to_bytes(8, "little"))
    digest.update(head[:place] + _NO_DIGEST.encode() + head[found.end(1) :])
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return 8 + place, digest.hexdigest()


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the complete checkpoint of the highest step, or None; damaged ones are skipped with a warning.

    Raises:
        CheckpointError: There are checkpoints, but all are damaged; or the folder cannot be read.
    """
    faults = []
    for path in _checkpoints(folder).values():
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            faults.append(str(error))
            logger.warning("%s; it is skipped", error)
    if not faults:
        return None
    listed = "; ".join(faults[:5]) + (" ..." if len(faults) > 5 else "")
    raise CheckpointError(
        f"{shown(folder)} holds no complete checkpoint: {listed}. Restore one from a copy, or start the run again with "
        "--overwrite"
    )


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in the file `path`, after checking every byte against its digest.

    Raises:
        CheckpointError: It is missing, incomplete, damaged, or has a format that this version cannot read.
    """
    step = _step_of(path.name)
    try:
        if step is None:
            raise ValueError("it is not a file named step- and a number")
        with os.fdopen(open_regular(path), "rb") as file:
            place, expected = _digest_of(file)
            file.seek(place)
            if file.read(len(expected)).decode() != expected:
                raise ValueError("its sha256 is not the one in its header")
        with safe_open(path, framework="pt", device="cpu") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
        if metadata.get("format") != str(FORMAT):
            raise ValueError(f"its format is {quoted(metadata.get('format'))}; this version reads {FORMAT}")
        if metadata.get("step") != str(step):
            raise ValueError(f"its header is for step {quoted(metadata.get('step'))}")
        state: dict[str, Any] = parse_json(metadata.get("state", "").encode("utf-8", "surrogatepass"), "its state")
        groups = tuple(metadata.get("groups", "").split())
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from None
    except (ValueError, SafetensorError, ModelFolderError) as error:
        raise _damaged(path, str(error)) from None
    return Checkpoint(path, step, state, groups)


def remove_all_but(folder: Path, keep: Collection[int], before: int | None = None) -> None:
    """Remove the checkpoints of all steps except those in `keep`, damaged ones too; other files stay.

    With `before`, checkpoints of this step and later ones are kept, too.

    Raises:
        OutputError, CheckpointError: One cannot be removed, or the folder cannot be read.
    """
    for step, path in _checkpoints(folder).items():
        if step not in keep and (before is None or step < before):
            with writing(path):
                path.unlink()
    if folder.is_dir():
        with writing(folder):
            sync_folder(folder)


def checkpoint_steps(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint, damaged ones too; empty if the folder cannot be read."""
    try:
        return sorted(_checkpoints(folder))
    except CheckpointError:
        return []


def checkpoint_file(folder: Path, step: int) -> Path:
    """Return the path of a step's checkpoint."""
    return folder / f"step-{step:08d}.safetensors"


def is_checkpoint_name(name: str) -> bool:
    """Return whether this is the name of a checkpoint's file."""
    return _step_of(name) is not None


def _step_of(name: str) -> int | None:
    named = _FILE_NAME.fullmatch(name)
    return None if named is None else int(named[1])


def _checkpoints(folder: Path) -> dict[int, Path]:
    """Return the files and links named like a checkpoint, by step, the highest step first."""
    try:
        steps = [step for name in os.listdir(folder) if (step := _step_of(name)) is not None]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"{shown(folder)} cannot be read: {cause}; expected a folder of checkpoints") from None
    found = {step: checkpoint_file(folder, step) for step in sorted(steps, reverse=True)}
    # a folder of this name is somebody's own
    return {step: path for step, path in found.items() if path.is_symlink() or not path.is_dir()}


def _damaged(path: Path, cause: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint {shown(path)} is incomplete or damaged: {cause}")


@dataclass
class TrainerState:
    """The state of the training loop, updated after each step."""

    step: int = 0  # optimizer steps made
    epoch: int = 0  # the current one, from 0
    step_in_epoch: int = 0  # steps made in the current epoch
    passes: float = 0.0  # over the rows, with the current one as a fraction
    micro_rows: int = 1  # rows per forward; reduced when memory runs out
    best_step: int | None = None  # step of the best evaluation; None before the first one
    best_value: float | None = None  # the metric of the best evaluation
    best_steps: list[int] = field(default_factory=list)  # those to be averaged (best_k), the best first
    best_values: list[float] = field(default_factory=list)  # their metric
    n_stale: int = 0  # evaluations since the best one
    seconds: float = 0.0  # training time over all sessions
    losses_by_objective: list[list[float]] = field(default_factory=list)  # of the steps since the last line of the log
    evaluation_due: bool = False  # whether the run ended after a step, but before the evaluation due there
    stopped_early: bool = False  # whether training stopped because evaluations did not improve
    saved_step: int | None = None  # step of the last checkpoint; None before the first one

    @classmethod
    def from_json(cls, content: object, source: Path) -> TrainerState:
        """Return the trainer state from a checkpoint's JSON; a missing or wrong value is a `CheckpointError`."""
        values: dict[str, Any] = content if isinstance(content, dict) else {}
        kinds = {"int": "int", "float": "int float", "bool": "bool"}
        for name, annotation in cls.__annotations__.items():
            kind, *optional = annotation.split(" | ")
            found = type(values.get(name, source)).__name__  # if missing, of a Path
            if found not in kinds.get(kind, "list").split() and not (optional and found == "NoneType"):
                raise CheckpointError(f"{source}: its state has no usable {quoted(name)}; start again with --overwrite")
        return cls(**{name: values[name] for name in cls.__annotations__})

    def keep(self, value: float, lower_is_better: bool, most: int) -> bool:
        """Note the metric of this step's evaluation, and return whether it is one of the `most` best ones.

        Of equal values the earlier one is the better, as for the best step.
        """
        found = [*zip(self.best_values, self.best_steps, strict=True), (value, self.step)]
        found.sort(key=lambda pair: (pair[0] if lower_is_better else -pair[0], pair[1]))
        self.best_values, self.best_steps = ([*column] for column in zip(*found[:most], strict=True))
        return self.step in self.best_steps

    @property
    def kept_steps(self) -> set[int]:
        """The steps whose checkpoints are still needed: the last one saved, and the best ones."""
        return {step for step in (self.saved_step, self.best_step, *self.best_steps) if step is not None}


def save_progress(
    folder: Path,
    progress: TrainerState,
    module: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler | None,
    more: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write the whole state of a run, then remove all checkpoints except this one, the previous one and the best ones.

    The previous one is the fallback in case this one gets damaged. `more` are further groups of tensors, which the
    loop reads itself. Errors as in `save_checkpoint`.
    """
    tensors = {
        "optimizer": optimizer_tensors(optimizer, module),  # first, because it brings the weights up to date
        _WEIGHTS: module.state_dict(),
        "random": random_states(next(module.parameters()).device),
        **(more or {}),
    }
    state = {"progress": asdict(progress), "scaler": None if scaler is None else scaler.state_dict()}
    if optimizer.average is not None:
        tensors[_AVERAGE] = optimizer.average.tensors(module)
        state[_AVERAGE] = optimizer.average.state()
    save_checkpoint(folder, progress.step, tensors, state)
    remove_all_but(folder, {progress.step, *progress.kept_steps})
    progress.saved_step = progress.step


def restore_progress(
    checkpoint: Checkpoint,
    module: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler | None,
    tidies: bool = True,
) -> TrainerState:
    """Restore everything that `save_progress` wrote, and return the trainer state.

    If it `tidies`, checkpoints that `save_progress` should have removed before it was killed are removed now.

    Raises:
        CheckpointError: The checkpoint belongs to another model or optimizer. Others as in `remove_all_but`.
    """
    progress = TrainerState.from_json(checkpoint.state.get("progress"), checkpoint.path)
    kept = progress.kept_steps
    progress.saved_step = checkpoint.step
    try:
        restore_weights(checkpoint, module)
        restore_optimizer(optimizer, module, checkpoint.read_tensors("optimizer"))
        restore_random_states(checkpoint.read_tensors("random"), next(module.parameters()).device)
        if scaler is not None and isinstance(checkpoint.state.get("scaler"), dict):
            scaler.load_state_dict(checkpoint.state["scaler"])
        if optimizer.average is not None and _AVERAGE in checkpoint.groups:
            optimizer.average.restore(module, checkpoint.read_tensors(_AVERAGE), checkpoint.state[_AVERAGE])
        elif optimizer.average is not None:
            optimizer.average.restart()
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.path} does not fit this run: {quoted(error, limit=200)}; it belongs to another model or "
            "other settings"
        ) from error
    if tidies:
        remove_all_but(checkpoint.path.parent, kept, before=checkpoint.step)
    return progress


def restore_weights(checkpoint: Checkpoint, module: nn.Module, *, averaged: bool = False) -> None:
    """Load all of a checkpoint's weights into the encoder (and head), or those of `final_weights` if `averaged`.

    Those of another model are a `CheckpointError`.
    """
    tensors = final_weights(checkpoint) if averaged else checkpoint.read_tensors(_WEIGHTS)
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint.path} holds another model's weights: {quoted(error, limit=200)}; start again with --overwrite"
        ) from error


def final_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the weights that are evaluated and saved as a model, by name: the moving average where there is one.

    Errors as in `Checkpoint.read_tensors`.
    """
    averages = checkpoint.read_tensors(_AVERAGE) if _AVERAGE in checkpoint.groups else {}
    return checkpoint.read_tensors(_WEIGHTS) | averages


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the random generators that dropout uses, uint8."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore the random generators; a run that moved to another type of device keeps that device's own state."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
