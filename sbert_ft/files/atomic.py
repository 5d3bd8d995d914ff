"""Write files and model folders so that a crash, a kill or a full disk leaves the old or the new, never a part.

A file is written under a temporary name beside its target (`whole_file`), synced to the disk, and renamed to the
target; then the folder is synced too. A model's folder may hold files of others, so it is not replaced: its files are
written to a folder beside it (`staged_beside`) and moved in one by one, in an order in which a reader never finds a
mixture of two models (`put_in_place`). Temporary names begin with `PREFIX`, so that leftovers of a killed process can
be recognised and removed. The cost is one wait for the disk per file.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from sbert_ft.errors import OutputError, shown

if sys.platform != "win32":
    import fcntl

_PREFIX = ".sbert-ft-model-"
_ABANDONED = re.compile(re.escape(_PREFIX) + "[0-9a-f]{16}")
_LOCK = "lock"
_ENTRANCES = ("config.json", "modules.json")
"""Files that a reader of a model's folder opens first."""
_FOLDERS_CANNOT_BE_SYNCED = (errno.EINVAL, errno.ENOTSUP)  # some network file systems

logger = logging.getLogger(__name__)
PREFIX = ".sbert-ft-"
"""How every temporary name begins."""


@contextmanager
def staged_beside(target: Path) -> Iterator[Path]:
    """Context with an empty folder beside `target`, whose parent exists; it is removed when the block ends.

    Leftovers of processes that no longer run are removed from the parent.
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


def put_in_place(
    staging: Path, target: Path, obsolete: Sequence[str] = (), entrances: Sequence[str] = _ENTRANCES
) -> None:
    """Move all files of `staging` to `target`; they are synced to the disk when this returns.

    Args:
        staging: The folder from `staged_beside`, with the files.
        target: A folder, or a path that does not exist.
        obsolete: Files of sbert_ft, relative to the folder, to remove if `staging` does not have them.
        entrances: Files that a reader opens first; the first of them is moved away first and put in place last.

    Raises:
        OutputError: There is a folder in the place of a file, or the other way round; nothing was changed.
        OSError: A file cannot be moved; the folder is restored to what it was.
    """

    def rank(name: str) -> tuple[int, str]:
        return entrances.index(name) if name in entrances else len(entrances), name

    names = sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())
    for name in names:
        with (staging / name).open("rb") as opened:
            os.fsync(opened.fileno())
    for folder in (*(path for path in staging.rglob("*") if path.is_dir()), staging):
        sync_folder(folder)
    every = sorted({*names, *obsolete}, key=rank)
    inner = sorted({name.partition("/")[0] for name in every if "/" in name})
    _check_places(target, every, inner)
    moved: list[tuple[Path, Path]] = []
    try:
        if not os.path.lexists(target):
            _move(staging, target, moved)
            sync_folder(target.parent)
            return
        replaced = staging.with_name("replaced")
        replaced.mkdir()
        for name in every:
            if os.path.lexists(target / name):
                (replaced / name).parent.mkdir(exist_ok=True)
                _move(target / name, replaced / name, moved)
                if name in entrances:  # their absence reaches the disk before that of the others
                    sync_folder((target / name).parent)
        for name in inner:
            if (staging / name).exists():
                (target / name).mkdir(exist_ok=True)
            else:
                with suppress(OSError):  # not there, or has files of others
                    (target / name).rmdir()
        for name in sorted(names, key=rank, reverse=True):
            if name == entrances[0]:
                for folder in filter(Path.is_dir, (target, *(target / inside for inside in inner))):
                    sync_folder(folder)
            _move(staging / name, target / name, moved)
        for folder in {(target / entrances[0]).parent, target}:
            sync_folder(folder)
    except BaseException:
        for source, place in reversed(moved):
            source.parent.mkdir(exist_ok=True)  # an empty inner folder was removed
            os.rename(place, source)
        for name in inner:
            with suppress(OSError):  # rmdir only removes an empty one
                (target / name).rmdir()
        raise


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents; their names are synced to the disk when this returns."""
    missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        with suppress(PermissionError):  # a user may have write but no read permission
            sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Sync the names in `folder` to the disk, if the system can."""
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


def _check_places(target: Path, names: Sequence[str], inner: Sequence[str]) -> None:
    """Refuse, before anything is moved, a folder in the place of a file, or a file or link in that of a folder."""
    for name in names:
        if (target / name).is_dir() and not (target / name).is_symlink():
            raise OutputError(f"{shown(target / name)} is a folder; expected a file of a model, or nothing")
    for name in inner:
        place = target / name
        if place.is_symlink() or (place.exists() and not place.is_dir()):  # a link leads to another folder
            raise OutputError(f"{shown(place)} is a file or a link; expected a folder of a model, or nothing")


def _move(source: Path, place: Path, moved: list[tuple[Path, Path]]) -> None:
    os.rename(source, place)
    moved.append((source, place))


def _locked_place(parent: Path) -> tuple[Path, int | None]:
    """Return a new folder, and the descriptor that holds its lock (None on Windows, which has no such locks)."""
    while True:
        place = parent / f"{_PREFIX}{secrets.token_hex(8)}"  # not from a generator whose state a run depends on
        place.mkdir(0o700)
        if sys.platform == "win32":
            return place, None
        try:
            lock = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileNotFoundError:
            continue  # another process removed it as abandoned, before there was a lock
        except BaseException:
            place.rmdir()
            raise
        # if the file system has no locks, no process can get this one and remove the folder as abandoned
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.lexists(place / _LOCK):
            return place, lock
        os.close(lock)  # another process removed it as abandoned, before the lock was held


def _remove_abandoned(parent: Path) -> None:
    """Remove what killed processes left in `parent`; what cannot be removed stays."""
    if sys.platform == "win32":
        return
    try:
        names = [name for name in os.listdir(parent) if _ABANDONED.fullmatch(name)]
    except OSError:
        return
    for place in (parent / name for name in names):
        with suppress(OSError):
            if not os.path.lexists(place / _LOCK):
                place.rmdir()  # only removes an empty one
                continue
            lock = os.open(place / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(place)
            finally:
                os.close(lock)


def _remove(place: Path) -> None:
    """Remove a temporary folder; if that fails, its lock file stays, so that a later process can remove it."""
    for name in ("model", "replaced"):
        if (place / name).exists():
            shutil.rmtree(place / name)
    (place / _LOCK).unlink(missing_ok=True)
    place.rmdir()


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Context with an empty file beside the target; synced, it replaces the target when the block ends.

    After an error or a raised signal it is removed and the target is unchanged. Only a kill that cannot be caught
    leaves it behind, under a name that begins with `PREFIX`. A file that is replaced keeps its permissions; a link is
    replaced, and not what it leads to.

    Raises:
        OutputError: The folder cannot be written to, or the result cannot be synced to the disk.
    """
    # cut, because the name may already have the maximum length of the file system
    temporary = target.with_name(f"{PREFIX}{target.name[:48]}.{secrets.token_hex(4)}")
    try:
        with writing(target):
            temporary.touch(exist_ok=False)
        yield temporary
        with writing(target):
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
            if target.is_file():
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
    except OutputError as error:  # the user knows the target's name, not the temporary one
        if error.where != shown(temporary):
            raise
        raise OutputError(error.problem, error.hint, where=shown(target)) from error
    finally:
        temporary.unlink(missing_ok=True)
    with writing(target):
        sync_folder(target.parent)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error from writing `path` in the block into an `OutputError` that names it and the cause."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # the second is how safetensors reports a full disk
        cause = getattr(error, "strerror", None) or error
        raise OutputError(f"cannot be written: {cause}", where=shown(path)) from error


def json_bytes(value: object) -> bytes:
    """Return `value` as indented JSON in UTF-8; floats are read back exactly.

    Raises:
        ValueError: NaN or infinity, which JSON does not have (write null), or a circular reference.
        TypeError: A value of a type that JSON does not have.
    """
    try:
        return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except UnicodeEncodeError:  # a lone surrogate, which needs an escape
        return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON to `path`; errors as in `write_bytes` and `json_bytes`."""
    write_bytes(path, json_bytes(value))


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, synced to the disk when this returns; errors as in `whole_file`."""
    with writing(path), whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_new(path: Path, data: bytes) -> None:
    """Write `data`, synced, to the new file `path`; after an error the caller has to remove it."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, in as many system calls as necessary."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def remove_leftovers(folder: Path) -> int:
    """Remove what killed processes left in `folder` under temporary names; return the number of leftovers.

    Only for the holder of the folder's lock: without it, the files may belong to a process that still runs. A folder
    that cannot be removed stays, with a warning; what cannot be read or removed else is an `OutputError`.
    """
    with writing(folder):
        leftovers = [folder / name for name in os.listdir(folder) if name.startswith(PREFIX)]
        for path in leftovers:
            if path.is_symlink() or not path.is_dir():
                os.unlink(path)
                continue
            try:
                shutil.rmtree(path)
            except OSError as error:
                logger.warning("%s is no longer needed and cannot be deleted: %s", shown(path), error.strerror or error)
    return len(leftovers)


def probe_writing(folder: Path) -> None:
    """Write, sync and remove a small file in `folder`, so that an `OutputError` comes now and not hours later."""
    with writing(folder):
        temporary = folder / f"{PREFIX}{secrets.token_hex(8)}"
        try:
            write_new(temporary, b"probe\n")
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of `path`, a regular file and not a link, else an `OSError`; a pipe does not block it."""
    safe = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if os.path.islink(path):  # a clear message, also on systems without O_NOFOLLOW
        raise OSError(errno.ELOOP, "it is a link; expected a file", str(path))
    descriptor = os.open(path, flags | safe, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is not a regular file", str(path))
