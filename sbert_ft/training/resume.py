"""Record what a run starts with, and check settings, data, weights and checkpoint when it is resumed.

All checks come before anything is written, so that a rejected run is left unchanged. Problems that do not stop the run
(a missing log, an edited config.json that nothing reads) are logged as warnings here.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from sbert_ft._version import library_versions
from sbert_ft.config.loader import run_to_json
from sbert_ft.config.settings import RETRIEVAL_FILES
from sbert_ft.data.corpus import TextCorpus
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.data.retrieval import RetrievalData
from sbert_ft.encoder.devices import describe_device
from sbert_ft.encoder.ranks import Ranks
from sbert_ft.errors import CheckpointError, InputError, RunFolderError, quoted, shown
from sbert_ft.evaluation.retrieval_evaluator import RETRIEVAL, RetrievalEvaluator
from sbert_ft.files.atomic import write_json
from sbert_ft.training.checkpoints import Checkpoint, TrainerState, newest_checkpoint
from sbert_ft.training.prepare import PreparedRun, RunOptions
from sbert_ft.training.run_folder import RunFolder, content_of
from sbert_ft.training.run_log import read_log
from sbert_ft.training.trainable_model import trained_module, trained_parameters

logger = logging.getLogger(__name__)

Weight = Literal["refuse", "warn", "free"]
Fingerprint = Mapping[str, Any]
"""The JSON document of everything that a run's results depend on; `fingerprint_of` says what is in it."""
_SECTIONS = {"settings": dict, "data": dict, "model": dict, "versions": dict, "device": str}

FREE_SETTINGS = (
    "output_dir",
    "training.logging_steps",
    "training.save_steps",
    "training.tensorboard",
    "training.allow_unknown",
)
"""Settings that may differ, since they do not change results; so may paths of files that are compared by sha256."""
# The same gradient, summed in another order; what the device is, is compared separately.
WARNED_SETTINGS = ("training.device", "training.micro_batch_size")
"""Settings that may differ with a warning."""
_ABSENT = "absent"
_SHA256 = re.compile("[0-9a-f]{64}")
_SHOWN_DIGITS = 12
_N_CHECKPOINTS = 3  # the last, the one before or the best, and the one being written


def fingerprint_of(run: PreparedRun) -> Fingerprint:
    """Return what the run starts with: what a resumed run is compared with.

    It has the resolved settings; for each split of the data, and for the search to evaluate by, its source (as given),
    sha256 and n (rows); the sha256 of the weights and of the tokenizer, and the digest of a teacher; the versions of
    Python and the libraries; and the device in words.
    """
    sets: dict[str, ConnectionDataset | TextCorpus | RetrievalData] = {**run.data.splits()}
    if isinstance(run.evaluator, RetrievalEvaluator):
        sets[RETRIEVAL] = run.evaluator.data
    return {
        "settings": run_to_json(run.settings),
        "data": {
            name: {"source": dataset.source, "sha256": dataset.sha256, "n": len(dataset)}
            for name, dataset in sets.items()
        },
        "model": {
            "weights": tensors_sha256(trained_module(run.model).state_dict()),
            "tokenizer": hashlib.sha256(run.model.tokenizer.backend.to_str().encode()).hexdigest(),
            **({"prompts": list(prompts)} if any(prompts := run.prompts_of(run.data.train)) else {}),
            **({} if run.teacher is None else {"teacher": run.teacher.digest}),
        },
        "versions": library_versions(),
        "device": describe_device(run.model.device),
    }


def checked_fingerprint(value: object, source: Path) -> Fingerprint:
    """Return the fingerprint that the file `source` holds; another value is a `RunFolderError`."""
    if not isinstance(value, dict) or set(value) != set(_SECTIONS):
        raise RunFolderError(f"{shown(source)} does not say what the run started with; expected {', '.join(_SECTIONS)}")
    for name, kind in _SECTIONS.items():
        if not isinstance(value[name], kind):
            raise RunFolderError(f"{shown(source)}: expected {name} to be of type {kind.__name__}")
    return value


class Difference(NamedTuple):
    """A value that differs, and what that does to results: nothing (free), rounding (warn), or more (refuse)."""

    sentence: str
    weight: Weight


def differences(saved: Fingerprint, now: Fingerprint) -> list[Difference]:
    """Return all differences between two fingerprints, section by section."""
    in_both = saved["data"].keys() & now["data"].keys()
    free = {*FREE_SETTINGS, *(f"data.{split}" for split in in_both)}
    free |= {f"data.{RETRIEVAL}.{name}" for name in RETRIEVAL_FILES if RETRIEVAL in in_both}
    free |= {f"data.{split}.source" for split in (*saved["data"], *now["data"])}  # the same rows under another name
    if saved["model"] and now["model"]:
        free.add("model.path")
    if "teacher" in saved["model"] and "teacher" in now["model"]:  # its texts are among those of train
        free |= {"teacher.path", "teacher.texts"}
    found = []
    for section in _SECTIONS:
        before, after = dict(_leaves(saved[section], "")), dict(_leaves(now[section], ""))
        for key in dict.fromkeys([*before, *after]):
            old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
            is_same = old == new and isinstance(old, bool) == isinstance(new, bool)  # 1 equals 1.0, but not true
            if key in before and key in after and is_same:
                continue
            path = key if section == "settings" else f"{section}.{key}".rstrip(".")
            is_rounding = path in WARNED_SETTINGS or section in ("versions", "device")
            weight: Weight = "free" if path in free else "warn" if is_rounding else "refuse"
            sentence = f"{quoted(path).strip(chr(39))} was {_short(old)}, is {_short(new)}"
            found.append(Difference(sentence, weight))
    return found


def check_unchanged(
    saved: Fingerprint, now: Fingerprint, *, allow_changes: bool = False, finished: RunFolder | None = None
) -> list[str]:
    """Return a warning for each difference that is allowed; with `allow_changes` all are, but not in a `finished` run.

    Raises:
        RunFolderError: Settings, data or weights differ; the message names every difference.
    """
    found = differences(saved, now)
    refused = [difference.sentence for difference in found if difference.weight == "refuse"]
    if refused and finished is not None:
        what = f"the run in {shown(finished.path)} is finished, and was started differently: {'; '.join(refused)}"
        raise RunFolderError(what, finished.ways_on)
    if refused and not allow_changes:
        raise RunFolderError(
            "the run was started differently: " + "; ".join(refused) + ". Undo this, start another run in another "
            "output_dir, or continue anyway with --allow-changes"
        )
    return [f"since the run began: {difference.sentence}" for difference in found if difference.weight != "free"]


def check_same_everywhere(run: PreparedRun, ranks: Ranks) -> None:
    """Check that all processes of a run start with the same settings, data, weights and versions.

    Raises:
        InputError: This process does not start with those of the first one.
    """
    if ranks.size == 1:
        return
    now = fingerprint_of(run)
    first = ranks.told(lambda: now)
    found = [difference.sentence for difference in differences(first, now) if difference.weight == "refuse"]
    found += [
        f"versions.{name} was {quoted(value)}, is {quoted(now['versions'].get(name))}"
        for name, value in first["versions"].items()
        if now["versions"].get(name) != value
    ]
    if found:
        raise InputError(
            f"this process does not start with what process 0 has: {'; '.join(found)}",
            "give all machines the same files and the same libraries",
        )


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 of tensors on any device: names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Yield each value in nested JSON with its path, such as objective.0.name; empty containers count as values."""
    items: list[tuple[Any, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    if not items:
        yield path, value
    for key, item in items:
        yield from _leaves(item, f"{path}.{key}" if path else key)


def _short(value: object) -> str:
    """Return a value for a message; a digest is shortened to its first digits."""
    if value is _ABSENT:
        return _ABSENT
    if isinstance(value, str):
        return quoted(f"{value[:_SHOWN_DIGITS]}…" if _SHA256.fullmatch(value) else value)
    return quoted(json.dumps(value)).strip("'")


@dataclass(frozen=True)
class ResumeState:
    """How a session starts: from which checkpoint, if any, and after which JSON files are written."""

    checkpoint: Checkpoint | None
    files: Mapping[Path, object]  # in this order: config.json marks the folder as a run

    def write_files(self) -> None:
        """Write the files; an `OutputError` says that one cannot be written."""
        for path, content in self.files.items():
            write_json(path, content)


def checked_resume_state(run: PreparedRun, folder: RunFolder, options: RunOptions) -> ResumeState:
    """Return how the session starts; nothing is written.

    Raises:
        RunFolderError: The run was started differently and changes are not allowed, or its fingerprint is missing.
        CheckpointError: No checkpoint is complete, or the newest belongs to another model.
    """
    now = fingerprint_of(run)
    both_files = {folder.config_file: now["settings"], folder.fingerprint_file: now}
    if options.mode != "resume":
        return ResumeState(None, both_files)
    checkpoint = newest_checkpoint(folder.checkpoints_dir)
    if checkpoint is None and not folder.fingerprint_file.exists():
        return ResumeState(None, both_files)  # the run ended before it wrote its fingerprint
    saved = _checked_against(now, folder, options)
    if checkpoint is not None:
        _check_fits(run, checkpoint)
    _warn_of_gaps(run, folder, checkpoint)
    if options.allow_changes or saved is None:  # the next session is compared with the changed state
        return ResumeState(checkpoint, both_files)
    if content_of(folder.config_file) == saved["settings"]:
        return ResumeState(checkpoint, {})
    logger.warning(
        "%s was edited or damaged since the run began and is written again; to change settings, edit the CONFIG that "
        "the command names",
        shown(folder.config_file),
    )
    return ResumeState(checkpoint, {folder.config_file: saved["settings"]})


def check_finished(run: PreparedRun, folder: RunFolder, options: RunOptions) -> dict[str, Any]:
    """Return the metrics of a finished run, after checking that it was started with the same settings, data and model.

    Raises:
        RunFolderError: The run was started differently, which nothing can allow after its end, or its metrics cannot be
            read.
    """
    _checked_against(fingerprint_of(run), folder, options)
    content = content_of(folder.metrics_file)
    if content is None:
        raise RunFolderError(
            f"{shown(folder.metrics_file)} is damaged, expected the results of the finished run",
            "delete it, then --resume evaluates the model again",
        )
    return content


def warn_of_disk_space(run: PreparedRun, folder: RunFolder, state: ResumeState) -> None:
    """Warn before training starts if there may be too little disk space for checkpoints and model."""
    training = run.settings.training
    n_checkpoints = _N_CHECKPOINTS + (training.best_k if training.average == "best_k" else 0)
    n_weights = sum(parameter.numel() for parameter in run.trained.parameters())
    needed = n_checkpoints * run.checkpoint_bytes + 4 * n_weights
    try:
        free = shutil.disk_usage(folder.path).free
    except OSError:
        return
    if state.checkpoint is None and free < needed:
        logger.warning(
            "%s has %s MiB of free space, but checkpoints and model need about %s MiB: the run may fail before it is "
            "finished; free some space, or give another output_dir",
            *(shown(folder.path), f"{free >> 20:,}", f"{needed >> 20:,}"),
        )


def _checked_against(now: Fingerprint, folder: RunFolder, options: RunOptions) -> Fingerprint | None:
    """Return what the run started with, or None if unknown and changes are allowed; log a warning per difference."""
    path = folder.fingerprint_file
    try:
        content = content_of(path)
        if content is None:
            raise RunFolderError(f"{shown(path)}, which says what the run started with, is missing or damaged")
        saved = checked_fingerprint(content, path)
    except RunFolderError as error:
        if options.allow_changes:
            logger.warning("%s: the run continues without being checked against it", error)
            return None
        raise RunFolderError(
            f"{error}. Restore it from a copy, start again with --overwrite, or continue anyway with --allow-changes"
        ) from None
    finished = folder if folder.is_finished else None
    for sentence in check_unchanged(saved, now, allow_changes=options.allow_changes, finished=finished):
        logger.warning("%s", sentence)
    return saved


def _check_fits(run: PreparedRun, checkpoint: Checkpoint) -> None:
    """Check that the checkpoint can be restored: with allowed changes, it may belong to another model."""
    TrainerState.from_json(checkpoint.state.get("progress"), checkpoint.path)
    saved = checkpoint.shapes("weights")
    own = {name: tuple(tensor.shape) for name, tensor in run.trained.state_dict().items()}
    for name in sorted({*saved, *own}):
        if saved.get(name) != own.get(name):
            was, is_ = saved.get(name, "absent"), own.get(name, "absent")
            raise CheckpointError(
                f"{shown(checkpoint.path)} holds another model's weights: {quoted(name, limit=200)} is {was} there and "
                f"{is_} in this run",
                "undo the change, or start again with --overwrite",
            )
    optimizer = checkpoint.shapes("optimizer")
    for name in trained_parameters(run.model, run.settings.model, run.trained):
        if not all(f"{key}:{name}" in optimizer for key in ("exp_avg", "step")):
            raise CheckpointError(
                f"{shown(checkpoint.path)} has no state of the optimizer for {quoted(name, limit=200)}, which was "
                "frozen when the run began",
                "freeze it again, or start again with --overwrite",
            )


def _warn_of_gaps(run: PreparedRun, folder: RunFolder, checkpoint: Checkpoint | None) -> None:
    """Warn if steps are repeated because there is no checkpoint, or if steps are missing in the log."""
    steps = [record.get("step", 0) for record in read_log(folder.log_file) if record.get("kind") == "train"]
    if checkpoint is None:
        if steps:
            logger.warning("%s holds no checkpoint: the run starts again from its first step", shown(folder.path))
        return
    if checkpoint.step >= run.settings.training.logging_steps and not any(step <= checkpoint.step for step in steps):
        logger.warning(
            "%s has no lines for the steps up to %d: the loss curve of the report begins after them",
            *(shown(folder.log_file), checkpoint.step),
        )
