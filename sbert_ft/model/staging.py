"""A model folder filled beside its place, and moved there so that nobody ever reads a mixture of two models.

What is new is filled and synced under a temporary name. Where nothing is, it takes the place by one rename. Where a
folder is, its config.json goes first and the new one comes last: without it no folder is a model, to us or to anybody
else, so that a process that is killed on the way leaves the old model, the new one, or a folder that is refused. An
error on the way puts all of the old back. Files that are not ours are not touched.

A process that is killed leaves its temporary folder. It holds a lock in it that ends with it, by which the next one
that writes there knows what is abandoned.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from sbert_ft.errors import OutputError, shown

if sys.platform != "win32":
    import fcntl

_PREFIX = ".sbert-ft-model-"
_ABANDONED = re.compile(re.escape(_PREFIX) + "[0-9a-f]{16}")
_LOCK = "lock"
_ENTRANCES = ("config.json", "modules.json")
"""Files by which a folder is read; the first of them goes first and comes last."""
_FOLDERS_CANNOT_BE_SYNCED = (errno.EINVAL, errno.ENOTSUP)  # some network file systems


@contextmanager
def staged_beside(target: Path) -> Iterator[Path]:
    """Give an empty folder beside `target`, whose parent exists; it is gone when the block has ended.

    What processes that no longer run have left beside it is removed.

    Raises:
        OSError: It cannot be made.
    """
    _remove_abandoned(target.parent)
    place, lock = _locked_place(target.parent)
    try:
        folder = place / "model"
        folder.mkdir()
        yield folder
    finally:
        with suppress(OSError):
            _remove(place)
        if lock is not None:
            os.close(lock)


def put_in_place(staging: Path, target: Path, obsolete: Sequence[str]) -> None:
    """Move all files of `staging` to `target`, on the disk when this returns.

    Args:
        staging: What `staged_beside` gave, filled.
        target: A folder, or nothing.
        obsolete: Files of ours, from the folder on, that must not stay where `staging` does not have them.

    Raises:
        OutputError: A folder stands where a file is to go, or the other way round; nothing was changed.
        OSError: A file cannot be moved; all that was there is there again.
    """
    names = sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())
    for name in names:
        with (staging / name).open("rb") as opened:
            os.fsync(opened.fileno())
    for folder in (*(path for path in staging.rglob("*") if path.is_dir()), staging):
        sync_folder(folder)
    if not os.path.lexists(target):
        os.rename(staging, target)
        try:
            sync_folder(target.parent)
        except BaseException:
            os.rename(target, staging)
            raise
        return
    inner = sorted({name.partition("/")[0] for name in (*names, *obsolete) if "/" in name})
    _check_places(target, (*names, *obsolete), inner)
    moved: list[tuple[Path, Path]] = []
    try:
        _take_away(target, staging.with_name("replaced"), sorted({*names, *obsolete}, key=_rank), moved)
        for name in inner:
            if (staging / name).exists():
                (target / name).mkdir(exist_ok=True)
            else:
                with suppress(OSError):  # not there, or with files that are not ours
                    (target / name).rmdir()
        for name in sorted(names, key=_rank, reverse=True):
            if name == _ENTRANCES[0]:
                _sync_all(target, inner)
            _move(staging / name, target / name, moved)
        sync_folder(target)
    except BaseException:
        for source, place in reversed(moved):
            source.parent.mkdir(exist_ok=True)  # an inner folder that was empty has gone
            os.rename(place, source)
        for name in inner:
            with suppress(OSError):  # which it does to an empty one only
                (target / name).rmdir()
        raise


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing; their names are on the disk when this returns.

    Raises:
        OSError: One cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        with suppress(PermissionError):  # somebody may make folders in one that he may not read
            sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk, where the system can."""
    if os.name == "nt":
        return  # a folder cannot be opened there; a rename is in the journal
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _FOLDERS_CANNOT_BE_SYNCED:
            raise
    finally:
        os.close(descriptor)


def _rank(name: str) -> tuple[int, str]:
    return _ENTRANCES.index(name) if name in _ENTRANCES else len(_ENTRANCES), name


def _check_places(target: Path, names: Sequence[str], inner: Sequence[str]) -> None:
    """Refuse, before anything is moved, a folder in the place of a file, and a file or link in that of a folder."""
    for name in names:
        if (target / name).is_dir() and not (target / name).is_symlink():
            raise OutputError(f"{shown(target / name)} is a folder; expected a file of a model, or nothing")
    for name in inner:
        place = target / name
        if place.is_symlink() or (place.exists() and not place.is_dir()):  # behind a link is another folder
            raise OutputError(f"{shown(place)} is a file or a link; expected a folder of a model, or nothing")


def _take_away(target: Path, replaced: Path, names: Sequence[str], moved: list[tuple[Path, Path]]) -> None:
    """Move these of the files that are there to `replaced`, the first of them for certain before the others."""
    replaced.mkdir()
    for name in names:
        if os.path.lexists(target / name):
            (replaced / name).parent.mkdir(exist_ok=True)
            _move(target / name, replaced / name, moved)
            if name in _ENTRANCES:
                sync_folder(target)


def _move(source: Path, place: Path, moved: list[tuple[Path, Path]]) -> None:
    os.rename(source, place)
    moved.append((source, place))


def _sync_all(target: Path, inner: Sequence[str]) -> None:
    for folder in (target, *(target / name for name in inner)):
        if folder.is_dir():
            sync_folder(folder)


def _locked_place(parent: Path) -> tuple[Path, int | None]:
    """Return a new folder, and the descriptor that holds the lock in it; None on Windows, which has no such locks."""
    while True:
        place = parent / f"{_PREFIX}{secrets.token_hex(8)}"  # not from a generator whose state a run depends on
        place.mkdir(0o700)
        if sys.platform == "win32":
            return place, None
        try:
            lock = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileNotFoundError:
            continue  # taken for abandoned, in the moment before there was a lock
        except BaseException:
            place.rmdir()
            raise
        # where the file system has no locks, nobody gets this one and takes the folder for abandoned
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.lexists(place / _LOCK):
            return place, lock
        os.close(lock)  # taken for abandoned, in the moment before the lock was held


def _remove_abandoned(parent: Path) -> None:
    """Remove what killed processes left in `parent`; whatever cannot be removed stays."""
    if sys.platform == "win32":
        return
    try:
        names = [name for name in os.listdir(parent) if _ABANDONED.fullmatch(name)]
    except OSError:
        return
    for place in (parent / name for name in names):
        with suppress(OSError):
            try:
                lock = os.open(place / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                place.rmdir()  # which it does to an empty one only
                continue
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(place)
            finally:
                os.close(lock)


def _remove(place: Path) -> None:
    """Remove a temporary folder; what cannot be removed keeps its lock file, by which a later process finds it."""
    for name in ("model", "replaced"):
        if (place / name).exists():
            shutil.rmtree(place / name)
    (place / _LOCK).unlink(missing_ok=True)
    place.rmdir()
