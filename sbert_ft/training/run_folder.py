"""The folder of one run: the paths in it, the checks before a run starts there, and the lock against a second process.

A new run needs an empty or missing folder, a resumed run needs a folder with a run. Overwriting removes only the files
that a run writes, by a list of names, and follows no links. A small file is written and synced first, so that a folder
that cannot be written to is noticed before training.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from sbert_ft.errors import ModelFolderError, OutputError, RunFolderError, quoted, shown
from sbert_ft.files.atomic import PREFIX, make_folder, probe_writing, remove_leftovers, sync_folder, writing
from sbert_ft.files.file_lock import LOCK_NAME, locked
from sbert_ft.files.strict_json import read_json
from sbert_ft.training import checkpoints

Mode = Literal["new", "resume", "overwrite"]

_CONFIG = "config.json"
_FINGERPRINT = "fingerprint.json"
_RESULTS = ("metrics.json", "report.html", "report.md")
_TABLES = ("worst_pairs.csv", "mistakes.csv", "worst_queries.csv", "silver.csv", "silver.json")
RUN_FILES = (_CONFIG, _FINGERPRINT, "ledger.json", "metrics.jsonl", *_RESULTS, *_TABLES)
"""Files that a run writes, config.json first."""
RUN_FOLDERS = ("model", "checkpoints", "tensorboard")
"""Folders that a run writes."""
SUB_RUNS = ("gold", "teacher")
"""Folders of the runs that are part of a run with a teacher (see `training/augmented.py`)."""
_BEFORE_FIRST_STEP = (_CONFIG, _FINGERPRINT, "ledger.json")
_MODEL_FILES = (
    *("sbert_ft.json", "modules.json", "config.json", "model.safetensors", "head.safetensors", "README.md"),
    *("sentence_bert_config.json", "config_sentence_transformers.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "added_tokens.json"),
)
_MODEL_FOLDERS = ("1_Pooling", "2_Normalize")  # with a config.json each
_OF_EPOCH = re.compile(r"(negatives|suspects)-[1-9][0-9]{0,8}\.csv")  # as `NegativeMiner.write` names them
_TENSORBOARD_FILE = re.compile(r"events\.out\.tfevents\..+")
_N_LISTED = 5


def is_of_run(name: str) -> bool:
    """Return whether this is the name of a file or folder that a run writes."""
    return name in (*RUN_FILES, *RUN_FOLDERS, *SUB_RUNS) or _OF_EPOCH.fullmatch(name) is not None


class RunFolder:
    """Paths of a run's files; nothing is created."""

    def __init__(self, path: Path, found: os.stat_result | None = None) -> None:
        """Name the files in `path`; `found` is what an open folder must still be (see `check_is_there`)."""
        self.path = path
        self.config_file = path / _CONFIG  # the resolved configuration; written first, marks the folder as a run
        self.fingerprint_file = path / _FINGERPRINT  # what a resumed run is compared with
        self.ledger_file = path / "ledger.json"  # the counts of kept and left-out rows
        self.log_file = path / "metrics.jsonl"  # the log, one JSON object per line
        self.metrics_file = path / "metrics.json"  # the results
        self.model_dir, self.checkpoints_dir, self.tensorboard_dir = (path / name for name in RUN_FOLDERS)
        self._found = found

    @property
    def is_finished(self) -> bool:
        """Return whether the run is finished: results, both reports and the model exist."""
        return all((self.path / name).is_file() for name in (*_RESULTS, "model/sbert_ft.json"))

    @property
    def ways_on(self) -> str:
        """What can be done after a finished run, for messages."""
        return (
            f"to train its model further, start from {shown(self.model_dir)} (model.path) with another output_dir; to "
            "start again, use --overwrite (in Python on_existing='overwrite')"
        )

    def check_is_there(self) -> None:
        """Check that a folder from `open_run_folder` is still the same one.

        Raises:
            OutputError: It is gone, or another folder is in its place.
        """
        assert self._found is not None
        try:
            there = os.path.samestat(os.stat(self.path), self._found)
            what = "another folder is in its place"
        except OSError as error:
            there, what = False, (error.strerror or str(error))
        if not there:
            raise OutputError(
                f"{shown(self.path)} was removed, moved or unmounted while the run wrote to it ({what}); nothing more "
                "is written. Restore it and continue with --resume, or start again"
            )


@contextmanager
def open_run_folder(path: str | os.PathLike[str], mode: Mode) -> Iterator[RunFolder]:
    """Check and lock a run's folder, and yield it; the lock is released after the block.

    A missing folder is created, and removed again if the block leaves it empty. The mode ``new`` needs an empty or
    missing folder, or a run that ended before its first step; ``resume`` a folder with a run. ``overwrite`` takes any
    but a model's: `remove_run` then removes the run in it.

    Raises:
        RunFolderError: The folder is in use, or its content does not fit the mode.
        OutputError: The folder cannot be created or written to.
    """
    folder = RunFolder(Path(path))
    check_run_folder(folder, mode)  # before anything is written there
    was_there = folder.path.is_dir()
    with writing(folder.path):
        make_folder(folder.path)
    try:
        with locked(folder.path):
            check_run_folder(folder, mode)
            probe_writing(folder.path)
            # half-written files of a killed process; no other process is writing now
            remove_leftovers(folder.path)
            if _is_real_folder(folder.checkpoints_dir):
                remove_leftovers(folder.checkpoints_dir)
            with _identified(folder.path) as found:
                yield RunFolder(folder.path, found)
    finally:
        if not was_there:
            with suppress(OSError):
                folder.path.rmdir()  # fails, as wanted, unless the folder is empty


@contextmanager
def _identified(path: Path) -> Iterator[os.stat_result]:
    """Yield what tells the folder from others; it is open in the block, so that no other one gets its number."""
    descriptor = -1
    with suppress(OSError):  # a folder cannot be opened on Windows, where one in use cannot be removed either
        descriptor = os.open(path, os.O_RDONLY)
    try:
        yield os.stat(path)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def check_run_folder(folder: RunFolder, mode: Mode) -> None:
    """Check that the folder, or what is in its place, fits the mode, as in `open_run_folder`; nothing is written."""
    path = folder.path
    names = []
    try:
        names = sorted(os.listdir(path))
    except (OSError, ValueError) as error:
        if os.path.islink(path) and not os.path.exists(path):
            raise OutputError(f"{shown(path)} is a broken link; expected a folder, or nothing") from None
        if os.path.isdir(path):
            raise OutputError(f"{shown(path)} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        if os.path.lexists(path):
            raise RunFolderError(f"{shown(path)} is a file; expected a folder, or nothing, for the run") from None
        if not isinstance(error, FileNotFoundError):  # no permission for its parent, a NUL in the name
            raise OutputError(f"{shown(path)} cannot be a run's folder: {quoted(error, limit=200)}") from None
    is_run = _CONFIG in names and folder.config_file.is_file()
    if mode == "resume" and not is_run:
        raise RunFolderError(f"{shown(path)} holds no run to resume: expected {_CONFIG} in it")
    is_ours = is_run and _holds_run(folder)
    if mode != "new" and is_run and not is_ours:
        raise RunFolderError(
            f"the config.json in {shown(path)} is not from a run; it may belong to a model", "give another output_dir"
        )
    names = [name for name in names if name != LOCK_NAME and not name.startswith(PREFIX)]
    if mode != "new" or not names or (is_ours and set(names).issubset(_BEFORE_FIRST_STEP)):
        return
    listed = ", ".join(map(quoted, names[:_N_LISTED])) + (" and more" if len(names) > _N_LISTED else "")
    if folder.is_finished:
        raise RunFolderError(f"{shown(path)} holds another run, which is finished", folder.ways_on)
    if _CONFIG in names:
        raise RunFolderError(
            f"{shown(path)} holds another run",
            "continue it with --resume, replace it with --overwrite, or give another output_dir",
        )
    raise RunFolderError(
        f"{shown(path)} is not empty ({listed})",
        "give another output_dir, or use --overwrite, which removes the files of a run and keeps all others",
    )


def _holds_run(folder: RunFolder) -> bool:
    """Return whether the folder's config.json is a run's: its settings name its folder, those of a model do not."""
    return folder.fingerprint_file.exists() or "output_dir" in (content_of(folder.config_file) or {})


def content_of(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None if it cannot be read."""
    try:
        return read_json(path)
    except ModelFolderError:
        return None


def remove_run(folder: RunFolder) -> None:
    """Remove what a run wrote, config.json first, so that a half-removed run is not resumed.

    Raises:
        OutputError: Something cannot be removed.
    """
    with writing(folder.path):
        for name in RUN_FILES:
            _remove_file(folder.path / name)
            if name == _CONFIG:
                sync_folder(folder.path)
        for name in filter(_OF_EPOCH.fullmatch, os.listdir(folder.path)):
            _remove_file(folder.path / name)
        _remove_files(folder.checkpoints_dir, checkpoints.is_checkpoint_name)
        _remove_files(folder.tensorboard_dir, _TENSORBOARD_FILE.fullmatch)
        if _is_real_folder(folder.model_dir):
            for name in _MODEL_FOLDERS:
                _remove_files(folder.model_dir / name, lambda inner: inner == "config.json")
        _remove_files(folder.model_dir, _MODEL_FILES.__contains__)
        sync_folder(folder.path)
    for part in (RunFolder(folder.path / name) for name in SUB_RUNS):
        if _is_real_folder(part.path) and _holds_run(part):
            remove_run(part)
            with suppress(OSError):
                part.path.rmdir()  # fails, as wanted, unless the folder is empty


def _remove_files(place: Path, is_ours: Callable[[str], object]) -> None:
    """Remove our files in a folder, and the folder if it is then empty; a link to a folder is not followed."""
    if not _is_real_folder(place):
        return
    for name in filter(is_ours, os.listdir(place)):
        _remove_file(place / name)
    with suppress(OSError):
        place.rmdir()


def _remove_file(path: Path) -> None:
    """Remove a file, or a link without its target; a folder of this name is not ours and is kept."""
    if path.is_symlink() or path.is_file():
        path.unlink()


def _is_real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
