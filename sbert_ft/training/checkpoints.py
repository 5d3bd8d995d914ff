"""Save and load a run's state; a checkpoint on disk is either complete or absent.

A checkpoint is a folder `step-00000120`: tensors as safetensors, everything else in state.json, and manifest.json with
the size and sha256 of each file. It is written under a temporary name, synced and renamed. A kill at any moment
therefore leaves the earlier checkpoints, with or without the new one. The newest checkpoint is the one with the highest
step in its name; no clock is used. A checkpoint is valid only if all files match the manifest. Nothing is pickled. The
cost is reading each file back once for its sha256.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from sbert_ft.errors import CheckpointError, ModelFolderError, quoted, shown
from sbert_ft.files.atomic import (
    backup_of,
    discard,
    faults_named,
    json_bytes,
    make_folder,
    open_regular,
    staged_folder,
    sync_folder,
    write_new,
)
from sbert_ft.files.strict_json import parse_json
from sbert_ft.training.optimizer import Optimizer, optimizer_tensors, restore_optimizer

logger = logging.getLogger(__name__)

FORMAT = 1
_STATE, _MANIFEST = "state.json", "manifest.json"
_STEP_NAME = re.compile(r"step-([0-9]{8,18})(\.old)?")
_STEM = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MAX_MANIFEST_BYTES = 2**20
_MAX_STATE_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files all matched its manifest when it was opened.

    Attributes:
        path: Its folder.
        step: Optimizer steps made before it was saved.
        state: The JSON values saved with the tensors.
        stems: Names of its groups of tensors, for `read_tensors`.
    """

    path: Path
    step: int
    state: dict[str, Any] = field(repr=False)
    stems: tuple[str, ...]

    def read_tensors(self, stem: str) -> dict[str, torch.Tensor]:
        """Return the tensors saved as `stem`: copies on the CPU, with their original dtypes.

        Raises:
            CheckpointError: There is no such group, or its file cannot be read.
        """
        if stem not in self.stems:
            found = ", ".join(self.stems) or "none"
            raise CheckpointError(f"{shown(self.path)} has no tensors {quoted(stem)}; found: {found}")
        path = self.path / f"{stem}.safetensors"
        try:
            os.close(open_regular(path))
            with safe_open(path, framework="pt", device="cpu") as file:
                # copied, because the file may be deleted or replaced while the run goes on
                return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise _damaged(self.path, f"{path.name}: {quoted(error, limit=200)}") from None


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, torch.Tensor]], state: Mapping[str, object]
) -> Path:
    """Write a checkpoint and return its folder; the files are synced to disk before this returns.

    A checkpoint of the same step is replaced; the old one can be read until the new one is on disk.

    Args:
        folder: Where the run's checkpoints are; created if it does not exist.
        step: The optimizer steps made, from 0.
        tensors: Groups of tensors by name (lowercase letters, digits and `_`). They may be on any device, be views and
            share memory; of a view, only its own values are saved.
        state: Everything else, as JSON. Floats are restored bit by bit.

    Raises:
        OutputError: It cannot be written; earlier checkpoints are kept, and no partial file is left.
        ValueError: A name, a step or a value cannot be saved (NaN and infinity are not JSON: use null).
    """
    if not 0 <= step < 10**18 or not all(map(_STEM.fullmatch, tensors)):
        raise ValueError(f"step {step} or one of the names {list(tensors)} is not valid for a checkpoint")
    state_bytes = json_bytes(dict(state))
    if len(state_bytes) > _MAX_STATE_BYTES:
        raise ValueError(f"a state of {len(state_bytes)} bytes is above the limit for reading; save arrays as tensors")
    target = folder / _name(step)
    with faults_named(folder):
        make_folder(folder)
        _settle(target)
    with staged_folder(target) as staging:
        write_new(staging / _STATE, state_bytes)
        for stem, group in tensors.items():
            file = staging / f"{stem}.safetensors"
            save_file(_as_stored(group), str(file))
            shutil.copymode(staging / _STATE, file)  # safetensors creates files that only their owner can read
        files = {name: _size_and_sha256(staging / name) for name in sorted(os.listdir(staging))}
        entries = {name: {"bytes": n_bytes, "sha256": digest} for name, (n_bytes, digest) in files.items()}
        write_new(staging / _MANIFEST, json_bytes({"format": FORMAT, "step": step, "files": entries}))
    return target


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the complete checkpoint of the highest step, or None if there are no checkpoints.

    A damaged checkpoint is logged as a warning and skipped.

    Raises:
        CheckpointError: There are checkpoints, but all are damaged; or the folder cannot be read.
    """
    faults = []
    for path in _checkpoints(folder):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            faults.append(str(error))
            logger.warning("%s; it is skipped", error)
    if not faults:
        return None
    raise CheckpointError(
        f"{shown(folder)} holds no complete checkpoint: "
        + "; ".join(faults[:5])
        + (" ..." if len(faults) > 5 else "")
        + ". "
        "Restore one from a copy, or start the run again with --overwrite"
    )


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in the folder `path`, after checking every byte against the manifest.

    Raises:
        CheckpointError: It is missing, incomplete, damaged, or has a format that this version cannot read.
    """
    named = _STEP_NAME.fullmatch(path.name)
    try:
        if named is None or path.is_symlink() or not path.is_dir():
            raise _damaged(path, "it is not a folder named step- and a number")
        step = int(named[1])
        files = _manifest_files(_json_object(path / _MANIFEST, _MAX_MANIFEST_BYTES), step)
        for name, expected in files.items():
            found = os.lstat(path / name).st_size
            if found != expected[0]:  # before reading: the file may be endless
                raise ValueError(f"{name} has {found} bytes, the manifest says {expected[0]}")
            if _size_and_sha256(path / name) != expected:
                raise ValueError(f"the sha256 of {name} is not the one in the manifest")
        state = _json_object(path / _STATE, _MAX_STATE_BYTES)
    except OSError as error:
        name = Path(error.filename).name if isinstance(error.filename, str | os.PathLike) else path.name
        raise _damaged(path, f"{quoted(name)}: {error.strerror or error}") from None
    except (ValueError, ModelFolderError) as error:
        raise _damaged(path, str(error)) from None
    stems = tuple(sorted(name.removesuffix(".safetensors") for name in files if name != _STATE))
    return Checkpoint(path, step, state, stems)


def remove_all_but(folder: Path, keep: Collection[int], before: int | None = None) -> None:
    """Remove the checkpoints of all steps except those in `keep`, damaged ones too; other files stay.

    Args:
        folder: Where the run's checkpoints are.
        keep: The steps to keep.
        before: Checkpoints of this step and later ones are kept, too; None to keep only `keep`.

    Raises:
        OutputError: One cannot be removed.
        CheckpointError: The folder cannot be read.
    """
    for path in _checkpoints(folder):
        with faults_named(path):
            if _step(path) not in keep and (before is None or _step(path) < before):
                discard(path)
            elif path == backup_of(folder / _name(_step(path))):
                _settle(folder / _name(_step(path)))
    if folder.is_dir():
        with faults_named(folder):
            sync_folder(folder)


def checkpoint_steps(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint, damaged ones too; empty if the folder cannot be read."""
    try:
        return sorted(_step(path) for path in _checkpoints(folder))
    except CheckpointError:
        return []


def is_checkpoint_file(name: str) -> bool:
    """Return whether this is the name of a checkpoint's file."""
    return name in (_STATE, _MANIFEST) or (name.endswith(".safetensors") and bool(_STEM.fullmatch(name[:-12])))


def is_checkpoint_name(name: str) -> bool:
    """Return whether this can be the name of a checkpoint's folder."""
    named = _STEP_NAME.fullmatch(name)
    return named is not None and name.removesuffix(".old") == _name(int(named[1]))


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _step(path: Path) -> int:
    return int(path.name.removesuffix(".old").removeprefix("step-"))


def _checkpoints(folder: Path) -> list[Path]:
    """Return the paths named like a checkpoint, the highest step first; of one step, the newer first."""
    try:
        found = [folder / name for name in os.listdir(folder) if is_checkpoint_name(name)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"{shown(folder)} cannot be read: {cause}; expected a folder of checkpoints") from None
    found = [path for path in found if not _holds_only_others(path)]
    return sorted(found, key=lambda path: (-_step(path), path.name.endswith(".old")))


def _holds_only_others(path: Path) -> bool:
    """Return whether `path` is a folder with files, none of them a checkpoint's (left when a run was overwritten)."""
    try:
        if path.is_symlink() or not path.is_dir():
            return False
        names = os.listdir(path)
    except OSError:
        return False  # reading it will name the fault
    return bool(names) and not any(map(is_checkpoint_file, names))


def _settle(target: Path) -> None:
    """Finish a replacement of `target` that a kill interrupted: keep the new one if complete, else the old one."""
    backup = backup_of(target)
    if not os.path.lexists(backup) or not os.path.lexists(target):
        return
    try:
        read_checkpoint(target)
    except CheckpointError:
        discard(target)
    else:
        discard(backup)


def _as_stored(group: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors as safetensors needs them: on the CPU, contiguous, without shared memory."""
    stored: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in group.items():
        plain = tensor.detach().to("cpu").contiguous()
        storage = plain.untyped_storage()
        if storage.nbytes() != plain.nbytes or storage.data_ptr() in storages:
            plain = plain.clone()  # only where needed: copying everything would double the memory
        storages.add(plain.untyped_storage().data_ptr())
        stored[name] = plain
    return stored


def _size_and_sha256(path: Path) -> tuple[int, str]:
    digest, n_bytes = hashlib.sha256(), 0
    with os.fdopen(open_regular(path), "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            n_bytes += len(chunk)
    return n_bytes, digest.hexdigest()


def _json_object(path: Path, max_bytes: int) -> dict[str, Any]:
    with os.fdopen(open_regular(path), "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"{path.name} is larger than {max_bytes} bytes")
    object_: dict[str, Any] = parse_json(data, path.name)
    return object_


def _manifest_files(manifest: Mapping[str, Any], step: int) -> dict[str, tuple[int, str]]:
    """Return size and sha256 of each file that a manifest names; a ValueError says what is wrong with it."""
    if type(manifest.get("format")) is not int or manifest["format"] != FORMAT:
        raise ValueError(f"its format is {quoted(manifest.get('format'))}; this version reads {FORMAT}")
    if type(manifest.get("step")) is not int or manifest["step"] != step:
        raise ValueError(f"the manifest is for step {quoted(manifest.get('step'))}")
    entries = manifest.get("files")
    if not isinstance(entries, dict) or _STATE not in entries:
        raise ValueError(f"the manifest names no {_STATE}")
    files: dict[str, tuple[int, str]] = {}
    for name, entry in entries.items():
        if not is_checkpoint_file(name) or name == _MANIFEST:
            raise ValueError(f"the manifest names {quoted(name)}, which is not a file of a checkpoint")
        n_bytes, digest = (entry.get("bytes"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
        if type(n_bytes) is not int or not isinstance(digest, str):
            raise ValueError(f"the manifest gives no size and sha256 of {name}")
        files[name] = (n_bytes, digest)
    return files


def _damaged(path: Path, cause: str) -> CheckpointError:
    return CheckpointError(f"the checkpoint {shown(path)} is incomplete or damaged: {cause}")


@dataclass
class TrainerState:
    """The state of the training loop, updated after each step.

    Attributes:
        step: Optimizer steps made.
        epoch: The current epoch, from 0.
        step_in_epoch: Steps made in the current epoch.
        passes: Passes over the rows, with the current one as a fraction.
        micro_rows: Rows per forward; reduced when memory runs out.
        best_step: Step of the best evaluation; None before the first one.
        best_value: The metric of the best evaluation.
        n_stale: Evaluations since the best one.
        seconds: Training time over all sessions.
        losses: Losses of the steps since the last line of the log.
        evaluation_due: Whether the run ended after a step, but before the evaluation due there.
        stopped_early: Whether training stopped because evaluations did not improve.
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
    def from_json(cls, content: Mapping[str, Any], source: Path) -> TrainerState:
        """Return the trainer state from a checkpoint's JSON.

        Raises:
            CheckpointError: A value is missing or has a wrong type.
        """
        fresh = asdict(cls())
        optional = {"best_step": int, "best_value": float, "saved_step": int}
        for name, usual in fresh.items():
            kind = optional.get(name, type(usual))
            value = content.get(name, source)  # if missing, a Path, which has no valid type
            fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool) == isinstance(
                value, bool
            )
            if not fits and not (value is None and name in optional):
                raise CheckpointError(
                    f"{source}: state.json has no usable {quoted(name)}; start again with --overwrite"
                )
        return cls(**{name: content[name] for name in fresh})


def save_progress(
    folder: Path,
    progress: TrainerState,
    module: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler | None,
) -> None:
    """Write the whole state of a run, then remove all checkpoints except this one, the previous one and the best.

    The previous one is the fallback in case this one gets damaged.

    Raises:
        OutputError: It cannot be written; earlier checkpoints are kept.
    """
    state_of_optimizer = optimizer_tensors(optimizer, module)  # first, because it brings the weights up to date
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
) -> TrainerState:
    """Restore everything that `save_progress` wrote, and return the trainer state.

    Checkpoints that `save_progress` should have removed before it was killed are removed now.

    Raises:
        CheckpointError: The checkpoint belongs to another model or optimizer.
        OutputError: An earlier checkpoint cannot be removed.
    """
    content = checkpoint.state.get("progress")
    progress = TrainerState.from_json(content if isinstance(content, dict) else {}, checkpoint.path)
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
            f"{checkpoint.path} does not fit this run: {quoted(error, limit=200)}; it belongs to another model or "
            "other settings"
        ) from error
    remove_all_but(checkpoint.path.parent, kept, before=checkpoint.step)
    return progress


def restore_weights(checkpoint: Checkpoint, module: nn.Module) -> None:
    """Load all of a checkpoint's weights into the encoder (and head).

    Raises:
        CheckpointError: They belong to another model.
    """
    try:
        module.load_state_dict(checkpoint.read_tensors("weights"), strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint.path} holds another model's weights: {quoted(error, limit=200)}; start again with --overwrite"
        ) from error


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
