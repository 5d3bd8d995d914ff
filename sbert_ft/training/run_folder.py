"""The folder of one run: the paths in it, the checks before a run starts there, and the lock against a second process.

A new run needs an empty or missing folder, a resumed run needs a folder with a run. Overwriting removes only the files
that a run writes, by a list of names, and follows no links. A small file is written and synced first, so that a folder
that cannot be written to is noticed before training.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sbert_ft.errors import ModelFolderError, OutputError, RunFolderError, quoted, shown
from sbert_ft.files.atomic import PREFIX, make_folder, probe_writing, remove_leftovers, sync_folder, writing
from sbert_ft.files.file_lock import LOCK_NAME, locked
from sbert_ft.files.strict_json import read_json
from sbert_ft.training import checkpoints

Mode = Literal["new", "resume", "overwrite"]

_CONFIG = "config.json"
_FINGERPRINT = "fingerprint.json"
_RESULTS = ("metrics.json", "report.html", "report.md")
RUN_FILES = (_CONFIG, _FINGERPRINT, "ledger.json", "metrics.jsonl", *_RESULTS, "worst_pairs.csv", "mistakes.csv")
"""Files that a run writes, config.json first."""
RUN_FOLDERS = ("model", "checkpoints", "tensorboard")
"""Folders that a run writes."""
_MODEL_FILES = (
    *("sbert_ft.json", "modules.json", "config.json", "model.safetensors", "head.safetensors", "README.md"),
    *("sentence_bert_config.json", "config_sentence_transformers.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "added_tokens.json"),
    *("1_Pooling/config.json", "2_Normalize/config.json"),
)
_TENSORBOARD_FILE = re.compile(r"events\.out\.tfevents\..+")
_N_LISTED = 5


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files; nothing is created.

    Attributes:
        path: The run's folder.
    """

    path: Path

    @property
    def config_file(self) -> Path:
        """Return the path of the resolved configuration; it is written first, and marks the folder as a run."""
        return self.path / _CONFIG

    @property
    def fingerprint_file(self) -> Path:
        """Return the path of the fingerprint, which a resumed run is checked against."""
        return self.path / _FINGERPRINT

    @property
    def ledger_file(self) -> Path:
        """Return the path of the counts of kept and left-out rows."""
        return self.path / "ledger.json"

    @property
    def log_file(self) -> Path:
        """Return the path of the log, one JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def metrics_file(self) -> Path:
        """Return the path of the results."""
        return self.path / "metrics.json"

    @property
    def model_dir(self) -> Path:
        """Return the path of the tuned model's folder."""
        return self.path / "model"

    @property
    def checkpoints_dir(self) -> Path:
        """Return the path of the folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def tensorboard_dir(self) -> Path:
        """Return the path of the folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def is_finished(self) -> bool:
        """Return whether the run is finished: results, both reports and the model exist."""
        return all((self.path / name).is_file() for name in (*_RESULTS, "model/sbert_ft.json"))


@contextmanager
def open_run_folder(path: str | os.PathLike[str], mode: Mode) -> Iterator[RunFolder]:
    """Check and lock a run's folder, and yield it; the lock is released after the block.

    Args:
        path: The folder. If missing, it is created, and removed again if the block leaves it empty.
        mode: ``new`` needs an empty or missing folder, ``resume`` a folder with a run; ``overwrite`` removes a run's
            files, but not other files.

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
            _check_content(folder, mode)
            probe_writing(folder.path)
            _remove_leftovers(folder)
            if mode == "overwrite":
                with writing(folder.path):
                    _remove_run(folder)
            yield folder
    finally:
        if not was_there:
            with suppress(OSError):
                folder.path.rmdir()  # fails, as wanted, unless the folder is empty


def check_run_folder(folder: RunFolder, mode: Mode) -> None:
    """Check that the folder, or what is in its place, fits the mode, as in `open_run_folder`; nothing is written."""
    _check_place(folder.path)
    _check_content(folder, mode)


def _check_place(path: Path) -> None:
    try:
        os.lstat(path)
        is_link, taken = path.is_symlink(), path.exists() and not path.is_dir()
    except FileNotFoundError:
        return
    except (OSError, ValueError, RuntimeError) as error:  # no permission, a NUL in the name, a loop of links
        raise OutputError(f"{shown(path)} cannot be a run's folder: {quoted(error, limit=200)}") from None
    if is_link and not path.exists():
        raise OutputError(f"{shown(path)} is a broken link; expected a folder, or nothing")
    if taken:
        raise RunFolderError(f"{shown(path)} is a file; expected a folder, or nothing, for the run")


def _check_content(folder: RunFolder, mode: Mode) -> None:
    path = folder.path
    try:
        names = sorted(os.listdir(path))
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise OutputError(f"{shown(path)} cannot be read: {error.strerror or error}") from None
    if mode == "resume" and (_CONFIG not in names or not folder.config_file.is_file()):
        raise RunFolderError(f"{shown(path)} holds no run to resume: expected {_CONFIG} in it")
    if mode != "new" and _FINGERPRINT not in names and os.path.isfile(folder.config_file) and not _is_of_run(folder):
        raise RunFolderError(
            f"the config.json in {shown(path)} is not from a run; it may belong to a model", "give another output_dir"
        )
    names = [name for name in names if name != LOCK_NAME and not name.startswith(PREFIX)]
    if mode != "new" or not names:
        return
    listed = ", ".join(map(quoted, names[:_N_LISTED])) + (" and more" if len(names) > _N_LISTED else "")
    if _CONFIG in names:
        raise RunFolderError(
            f"{shown(path)} holds another run",
            "continue it with --resume, replace it with --overwrite, or give another output_dir",
        )
    raise RunFolderError(
        f"{shown(path)} is not empty ({listed})",
        "give another output_dir, or use --overwrite, which removes the files of a run and keeps all others",
    )


def _is_of_run(folder: RunFolder) -> bool:
    """Return whether config.json is from a run, which would replace it, and not from a model."""
    try:
        return "output_dir" in read_json(folder.config_file)
    except ModelFolderError:
        return False


def _remove_leftovers(folder: RunFolder) -> None:
    """Remove half-written files of a killed process; the lock ensures that no other process is writing."""
    remove_leftovers(folder.path)
    if _is_real_folder(folder.checkpoints_dir):
        remove_leftovers(folder.checkpoints_dir)


def _remove_run(folder: RunFolder) -> None:
    """Remove what a run wrote, config.json first, so that a half-removed run is not resumed."""
    for name in RUN_FILES:
        _remove_file(folder.path / name)
        if name == _CONFIG:
            sync_folder(folder.path)
    if _is_real_folder(folder.checkpoints_dir):
        for name in filter(checkpoints.is_checkpoint_name, os.listdir(folder.checkpoints_dir)):
            _remove_file(folder.checkpoints_dir / name)
    if _is_real_folder(folder.tensorboard_dir):
        _remove_files(
            folder.tensorboard_dir, list(filter(_TENSORBOARD_FILE.fullmatch, os.listdir(folder.tensorboard_dir)))
        )
    _remove_files(folder.model_dir, _MODEL_FILES)
    for place in (folder.checkpoints_dir, folder.tensorboard_dir):
        _remove_if_empty(place)
    sync_folder(folder.path)


def _remove_files(place: Path, names: Sequence[str]) -> None:
    """Remove the named files of a folder, then each folder that is left empty."""
    if not _is_real_folder(place):
        return
    for name in names:
        if _is_real_folder((place / name).parent):
            _remove_file(place / name)
    for inner in {(place / name).parent for name in names} - {place}:
        _remove_if_empty(inner)
    _remove_if_empty(place)


def _remove_file(path: Path) -> None:
    """Remove a file, or a link without its target; a folder of this name is not ours and is kept."""
    if path.is_symlink() or path.is_file():
        path.unlink()


def _remove_if_empty(path: Path) -> None:
    if _is_real_folder(path):
        with suppress(OSError):
            path.rmdir()


def _is_real_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


class FolderWatch:
    """Notices if a folder was removed or replaced during a run.

    Args:
        path: The folder, which exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        with suppress(OSError):  # a folder cannot be opened on Windows, where one in use cannot be removed either
            self._descriptor = os.open(path, os.O_RDONLY)
        self._found = os.stat(path)

    def check(self) -> None:
        """Check that the folder is still the same one.

        Raises:
            OutputError: It is gone, or another folder is in its place.
        """
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

    def close(self) -> None:
        """Stop watching the folder."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextmanager
def watched(path: Path) -> Iterator[FolderWatch]:
    """Yield a watch on the folder `path`, which must exist; it is closed after the block."""
    watch = FolderWatch(path)
    try:
        yield watch
    finally:
        watch.close()
