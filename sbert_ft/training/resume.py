"""What a run begins with, and whether one that goes on may: settings, data, weights and checkpoint held against it.

All is checked before anything is written, so that a run that is refused is as it was. What goes on with a warning only
(a log that is gone, a configuration edited where nothing reads it) is said here too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sbert_ft._version import library_versions
from sbert_ft.config.loader import run_to_json
from sbert_ft.encoder.devices import describe_device
from sbert_ft.errors import CheckpointError, RunFolderError, quoted, shown
from sbert_ft.files.atomic import write_json
from sbert_ft.model_folder.tensor_files import safetensors_header
from sbert_ft.training.checkpoints import Checkpoint, TrainerState, newest_checkpoint
from sbert_ft.training.prepare import PreparedRun, RunOptions
from sbert_ft.training.run_folder import RunFolder
from sbert_ft.training.run_log import read_log
from sbert_ft.training.trainable_model import frozen_parameters, trained_module

Weight = Literal["refuse", "warn", "free"]

FREE_SETTINGS = ("output_dir", "training.logging_steps", "training.save_steps", "training.tensorboard")
"""Settings that may differ, since they do not change what is computed; so may paths of what has a sha256."""
# The same gradient, added up in another order; the device is compared by what it is.
WARNED_SETTINGS = ("training.device", "training.micro_batch_size")
"""Settings that may differ with a warning."""
_ABSENT = "absent"
_SHOWN_DIGITS = 12


logger = logging.getLogger(__name__)
_N_CHECKPOINTS = 3  # the last, the one before or the best, and the one that is being written


@dataclass(frozen=True)
class Fingerprint:
    """What makes a run the run that it is; every part is JSON.

    Attributes:
        settings: The resolved configuration.
        data: For each split its ``source`` (as given), ``sha256`` and ``n`` (rows).
        model: Names of parts of the model the run began with (files, or ``weights``), each with its sha256.
        versions: Of Python and the libraries, as `library_versions` returns.
        device: The device and what it is.
    """

    settings: Mapping[str, Any]
    data: Mapping[str, Mapping[str, Any]]
    model: Mapping[str, str]
    versions: Mapping[str, str]
    device: str

    def to_json(self) -> dict[str, Any]:
        """Return the fingerprint as JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(vars(self)))
        return values

    @classmethod
    def from_json(cls, value: object, source: Path) -> Fingerprint:
        """Return the fingerprint that `to_json` gave; `source` names it in messages.

        Raises:
            RunFolderError: The value is something else.
        """
        names = tuple(cls.__dataclass_fields__)
        if not isinstance(value, dict) or set(value) != set(names):
            raise RunFolderError(
                f"{shown(source)} says nothing of what the run began with; expected {', '.join(names)}"
            )
        for name in names:
            kind = str if name == "device" else dict
            if not isinstance(value[name], kind):
                raise RunFolderError(f"{shown(source)}: expected {name} to be of type {kind.__name__}")
        return cls(**value)


@dataclass(frozen=True)
class Difference:
    """One thing that is not what it was.

    Attributes:
        path: Where: the setting's path, or the section and the name in it.
        sentence: What it was and what it is.
        weight: Whether a run with it is another run (``refuse``), the same up to rounding (``warn``), or the same.
    """

    path: str
    sentence: str
    weight: Weight


def differences(saved: Fingerprint, now: Fingerprint) -> list[Difference]:
    """Return all that differs between two fingerprints, section by section."""
    was, is_ = saved.to_json(), now.to_json()
    free = {*FREE_SETTINGS, *(f"data.{split}" for split in saved.data.keys() & now.data.keys())}
    if saved.model and now.model:
        free.add("model.path")
    found = []
    for section in was:
        before, after = dict(_leaves(was[section], "")), dict(_leaves(is_[section], ""))
        for key in dict.fromkeys([*before, *after]):
            old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
            if key in before and key in after and _same(old, new):
                continue
            path = key if section == "settings" else f"{section}.{key}".rstrip(".")
            sentence = f"{quoted(path).strip(chr(39))} was {_short(old)}, is {_short(new)}"
            found.append(Difference(path, sentence, _weight(section, key, free)))
    return found


def check_unchanged(saved: Fingerprint, now: Fingerprint, *, allow_changes: bool = False) -> list[str]:
    """Return warnings about what differs but may.

    Args:
        saved: What the run began with.
        now: What it is to go on with.
        allow_changes: Whether other settings, data or weights are warnings, too.

    Raises:
        RunFolderError: Settings, data or weights differ; the message names every difference.
    """
    found = differences(saved, now)
    refused = [difference.sentence for difference in found if difference.weight == "refuse"]
    if refused and not allow_changes:
        raise RunFolderError(
            "the run began otherwise: " + "; ".join(refused) + ". Put this back, begin another run in another "
            "output_dir, or go on nevertheless with --allow-changes"
        )
    return [f"since the run began: {difference.sentence}" for difference in found if difference.weight != "free"]


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 of tensors: their names, dtypes, shapes and bytes, in the order of the names.

    Args:
        tensors: Such as a state dict, on any device.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Yield each value in nested JSON with its path, such as objective.0.name; empty containers are values."""
    items: list[tuple[str, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = [(str(i), item) for i, item in enumerate(value)]
    if not items:
        yield path, value
    for key, item in items:
        yield from _leaves(item, f"{path}.{key}" if path else key)


def _same(old: object, new: object) -> bool:
    return old == new and isinstance(old, bool) == isinstance(new, bool)  # 1 is 1.0, but it is not true


def _weight(section: str, key: str, free: Collection[str]) -> Weight:
    if section in ("versions", "device"):
        return "warn"
    if section == "data":
        return "free" if key.endswith(".source") else "refuse"  # the same rows under another name
    if section == "settings" and key in free:
        return "free"
    return "warn" if section == "settings" and key in WARNED_SETTINGS else "refuse"


def _short(value: object) -> str:
    """Return a value for a message; of a digest its state."""
    if value is _ABSENT:
        return _ABSENT
    if isinstance(value, str):
        is_digest = len(value) == 64 and all(c in "0123456789abcdef" for c in value)
        return quoted(f"{value[:_SHOWN_DIGITS]}…" if is_digest else value)
    return quoted(json.dumps(value)).strip("'")


@dataclass(frozen=True)
class ResumeState:
    """Where a session begins.

    Attributes:
        now: What it begins with.
        checkpoint: To go on from; None for the first step.
        settings: What config.json is to hold; None where it holds that.
        is_new: Whether later sittings are held against this one.
    """

    now: Fingerprint
    checkpoint: Checkpoint | None
    settings: dict[str, Any] | None
    is_new: bool


def checked_resume_state(run: PreparedRun, folder: RunFolder, options: RunOptions) -> ResumeState:
    """Return where the session begins; nothing is written.

    Raises:
        RunFolderError: The run began otherwise, and that is not allowed; or nothing says how.
        CheckpointError: No checkpoint is whole, or the newest is of another model.
    """
    now = _fingerprint(run)
    settings: dict[str, Any] = now.to_json()["settings"]
    if options.mode != "resume":
        return ResumeState(now, None, settings, is_new=True)
    checkpoint = newest_checkpoint(folder.checkpoints_dir)
    if checkpoint is None and not folder.fingerprint_file.exists():
        return ResumeState(now, None, settings, is_new=True)  # ended before it had written down what it begins with
    saved = _held_against(now, folder, options)
    _check_fits(run, checkpoint)
    _warn_of_gaps(run, folder, checkpoint)
    if options.allow_changes or saved is None:  # what is allowed now is what the next session is held against
        return ResumeState(now, checkpoint, settings, is_new=True)
    if _content(folder.config_file) == saved.to_json()["settings"]:
        return ResumeState(now, checkpoint, None, is_new=False)
    logger.warning(
        "%s was edited or damaged since the run began and is written anew; settings are changed in the CONFIG that the "
        "command names",
        shown(folder.config_file),
    )
    return ResumeState(now, checkpoint, saved.to_json()["settings"], is_new=False)


def write_resume_state(state: ResumeState, folder: RunFolder) -> None:
    """Write down what the run begins with, config.json first: it makes the folder a run.

    Raises:
        OutputError: It cannot be written.
    """
    if state.settings is not None:
        write_json(folder.config_file, state.settings)
    if state.is_new:
        write_json(folder.fingerprint_file, state.now.to_json())


def check_finished(run: PreparedRun, folder: RunFolder, options: RunOptions) -> dict[str, Any]:
    """Return the metrics of a finished run, held against what it is asked to be.

    Raises:
        RunFolderError: It began otherwise, or its metrics cannot be read.
    """
    _held_against(_fingerprint(run), folder, options)
    content = _content(folder.metrics_file)
    if content is None:
        raise RunFolderError(
            f"{shown(folder.metrics_file)} is damaged, expected the results of the finished run",
            "delete it, and --resume judges the model anew",
        )
    return content


def warn_of_room(run: PreparedRun, folder: RunFolder, state: ResumeState) -> None:
    """Say now, rather than after hours, that checkpoints and model may not find room on the disk."""
    module = trained_module(run.model)
    frozen = {id(parameter) for parameter in frozen_parameters(run.model.bert.encoder, run.settings.model)}
    table = id(run.model.bert.encoder.get_input_embeddings().weight)  # of its moments only the rows that were read
    n_weights = sum(parameter.numel() for parameter in module.parameters())
    n_moments = sum(2 * p.numel() for p in module.parameters() if id(p) not in frozen and id(p) != table)
    needed = 4 * (_N_CHECKPOINTS * (n_weights + n_moments) + n_weights)
    try:
        free = shutil.disk_usage(folder.path).free
    except OSError:
        return
    if state.checkpoint is None and free < needed:
        logger.warning(
            "%s has room for %s MiB, and checkpoints and model take some %s MiB: the run may end before it is "
            "finished; make room, or give another output_dir",
            *(shown(folder.path), f"{free >> 20:,}", f"{needed >> 20:,}"),
        )


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


def _held_against(now: Fingerprint, folder: RunFolder, options: RunOptions) -> Fingerprint | None:
    """Return what the run began with, None where nothing says it and that is allowed; differences are warned of.

    Raises:
        RunFolderError: Settings, data or weights differ, or nothing says what they were.
    """
    path = folder.fingerprint_file
    try:
        content = _content(path)
        if content is None:
            raise RunFolderError(f"{shown(path)} is missing or damaged, which says what the run began with")
        saved = Fingerprint.from_json(content, path)
    except RunFolderError as error:
        if options.allow_changes:
            logger.warning("%s: the run goes on without being held against it", error)
            return None
        raise RunFolderError(
            f"{error}. Bring it back from a copy, begin anew with --overwrite, or go on nevertheless with "
            "--allow-changes"
        ) from None
    for sentence in check_unchanged(saved, now, allow_changes=options.allow_changes):
        logger.warning("%s", sentence)
    return saved


def _check_fits(run: PreparedRun, checkpoint: Checkpoint | None) -> None:
    """Refuse a checkpoint that could not be restored: with changes that are allowed, the model may be another one.

    Raises:
        CheckpointError: Its weights, its optimizer's state or its progress are none of this run.
    """
    if checkpoint is None:
        return
    content = checkpoint.state.get("progress")
    TrainerState.from_json(content if isinstance(content, dict) else {}, checkpoint.path)
    module = trained_module(run.model)
    saved = _shapes(checkpoint, "weights")
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name in sorted({*saved, *own}):
        if saved.get(name) != own.get(name):
            was, is_ = saved.get(name, "absent"), own.get(name, "absent")
            raise CheckpointError(
                f"{shown(checkpoint.path)} holds another model's weights: {quoted(name, limit=200)} is {was} there and "
                f"{is_} in this run",
                "put the change back, or begin anew with --overwrite",
            )
    frozen = {id(parameter) for parameter in frozen_parameters(run.model.bert.encoder, run.settings.model)}
    optimizer = _shapes(checkpoint, "optimizer")
    for name, parameter in module.named_parameters():
        if _is_trained(parameter, frozen) and not all(f"{key}:{name}" in optimizer for key in ("exp_avg", "step")):
            raise CheckpointError(
                f"{shown(checkpoint.path)} has no state of the optimizer for {quoted(name, limit=200)}, which was "
                "frozen when the run began; freeze it again, or begin anew with --overwrite"
            )


def _is_trained(parameter: nn.Parameter, frozen: set[int]) -> bool:
    return parameter.requires_grad and id(parameter) not in frozen


def _shapes(checkpoint: Checkpoint, stem: str) -> dict[str, tuple[int, ...]]:
    if stem not in checkpoint.stems:
        raise CheckpointError(f"{shown(checkpoint.path)} has no tensors {stem!r}; begin anew with --overwrite")
    header = safetensors_header(checkpoint.path / f"{stem}.safetensors")
    return {name: info.shape for name, info in header.items()}


def _warn_of_gaps(run: PreparedRun, folder: RunFolder, checkpoint: Checkpoint | None) -> None:
    """Say that steps come again for want of a checkpoint, or are no longer in the log."""
    steps = [record.get("step", 0) for record in read_log(folder.log_file) if record.get("kind") == "train"]
    if checkpoint is None:
        if steps:
            logger.warning("%s holds no checkpoint: the run begins again with its first step", shown(folder.path))
        return
    if checkpoint.step >= run.settings.training.logging_steps and not any(step <= checkpoint.step for step in steps):
        logger.warning(
            "%s has no line of the steps up to %d: the loss curve of the report begins after them",
            *(shown(folder.log_file), checkpoint.step),
        )


def _content(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, None where there is none that can be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
