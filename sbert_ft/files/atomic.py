"""Write files and folders so that a crash, a kill or a full disk leaves the old or the new, never a part.

Content goes to a temporary name beside its place, is synced to the disk, and takes its place by one rename, after
which the folder is synced too. A folder that replaces another needs two renames; between them the old one stands
under `backup_of` its name, where a reader finds it. Temporary names begin with `PREFIX`, so that what a killed process
leaves is known and can be removed. The cost is waiting for the disk once a file.
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

from sbert_ft.errors import OutputError, quoted, shown

if sys.platform != "win32":
    import fcntl

_PREFIX = ".sbert-ft-model-"
_ABANDONED = re.compile(re.escape(_PREFIX) + "[0-9a-f]{16}")
_LOCK = "lock"
_ENTRANCES = ("config.json", "modules.json")
"""Files by which a folder is read; the first of them goes first and comes last."""
_FOLDERS_CANNOT_BE_SYNCED = (errno.EINVAL, errno.ENOTSUP)  # some network file systems


logger = logging.getLogger(__name__)
PREFIX = ".sbert-ft-"


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


@contextmanager
def replaced_when_whole(target: Path) -> Iterator[Path]:
    """Give an empty file beside the target to write; it becomes the target when the block ends without an error.

    Otherwise, and when a signal is raised, it is removed and the target is what it was. Only a kill that cannot be
    caught leaves it behind, as `.NAME.PROCESS.tmp`.

    Raises:
        OutputError: The folder cannot be written to, or the result not be brought to the disk.
    """
    # cut, for a name may be as long as a file system takes
    temporary = target.with_name(f".{target.name[:48]}.{os.getpid()}.tmp")
    try:
        with refusals_of(target):
            temporary.unlink(missing_ok=True)  # left by a killed process that had our number
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        with refusals_of(target):
            _bring_to_disk(temporary)
            if target.exists():
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
    except OutputError as error:  # the user knows the target's name, not the temporary one
        raise OutputError(error.problem.replace(_shown(temporary.name), _shown(target.name)), error.hint) from error
    finally:
        temporary.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # elsewhere a folder cannot be opened
        with refusals_of(target):
            _bring_to_disk(target.parent, os.O_RDONLY | os.O_DIRECTORY)


def _bring_to_disk(path: Path, flags: int = os.O_RDWR) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def refusals_of(path: Path) -> Iterator[None]:
    """Turn what the system refuses inside into an `OutputError` that names the path."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{quoted(path, limit=400)}: cannot be written: {error.strerror or error}") from error


def _shown(name: str) -> str:
    return quoted(name, limit=400)[1:-1]


"""How every temporary name begins."""


@contextmanager
def faults_named(path: Path) -> Iterator[None]:
    """Turn what the system says while `path` is written into an `OutputError` that names it and the cause."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # the second is how safetensors reports a full disk
        cause = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"{shown(path)} cannot be written: {cause}") from error


def json_bytes(value: object) -> bytes:
    """Return `value` as indented JSON in UTF-8; floats read back as they were, bit by bit.

    Raises:
        ValueError: NaN or infinity, which JSON does not have (write null), or a circle.
        TypeError: A value of a type that JSON does not have.
    """
    try:
        return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except UnicodeEncodeError:  # half a surrogate pair, which only an escape can express
        return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON to `path`; otherwise as `write_bytes` and `json_bytes`."""
    write_bytes(path, json_bytes(value))


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, on the disk when this returns; a file there is replaced, a link too.

    Raises:
        OutputError: It cannot be written; what was there is untouched, and nothing else is left.
    """
    with faults_named(path):
        temporary = _temporary_name(path.parent)
        try:
            write_new(temporary, data)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)


def write_new(path: Path, data: bytes) -> None:
    """Write `data`, synced, to the file `path` that must not exist; what fails half-way is the caller's to remove."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)  # the umask applies, as for any file
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, however many calls the system wants for it."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder to fill; when the block ends it is synced and takes the place of `target`.

    Raises:
        OutputError: It cannot be written or put in place; what was at `target` is there as before.
    """
    with faults_named(target):
        staging = _temporary_name(target.parent)
        try:
            os.mkdir(staging)
            yield staging
            _sync_tree(staging)
            _put_in_place(staging, target)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        if os.path.lexists(backup_of(target)):
            discard(backup_of(target))


def backup_of(target: Path) -> Path:
    """Return where the folder `target` stands while a new one takes its place."""
    return target.with_name(f"{target.name}.old")


def discard(path: Path) -> None:
    """Remove a file, link or folder; a folder is gone from its name at once, and nothing behind a link is touched.

    What cannot be deleted then is left under a temporary name with a warning: the run need not end for it.

    Raises:
        OSError: The name cannot be freed.
    """
    if path.is_symlink() or not path.is_dir():
        os.unlink(path)
        return
    doomed = _temporary_name(path.parent)
    os.rename(path, doomed)
    _remove_tree(doomed)


def remove_leftovers(folder: Path) -> int:
    """Remove what a killed process left in `folder` under our temporary names; return how many there were.

    Only for who holds the folder's lock: the names may be another process's, still at work.

    Raises:
        OutputError: The folder cannot be read, or a leftover not be removed.
    """
    with faults_named(folder):
        leftovers = [folder / name for name in os.listdir(folder) if name.startswith(PREFIX)]
        for path in leftovers:
            if path.is_symlink() or not path.is_dir():
                os.unlink(path)
            else:
                _remove_tree(path)
    return len(leftovers)


def probe_writing(folder: Path) -> None:
    """Write, sync and remove a small file in `folder`, to know now and not after hours.

    Raises:
        OutputError: It cannot be done.
    """
    with faults_named(folder):
        temporary = _temporary_name(folder)
        try:
            write_new(temporary, b"probe\n")
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of `path`, which is a regular file and no link; a pipe does not block.

    Raises:
        OSError: It cannot be opened, or is something else.
    """
    safe = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if os.path.islink(path):  # said in words, and where the system has no O_NOFOLLOW
        raise OSError(errno.ELOOP, "it is a link; expected a file", str(path))
    descriptor = os.open(path, flags | safe, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is no regular file", str(path))


def _temporary_name(folder: Path) -> Path:
    return folder / f"{PREFIX}{secrets.token_hex(8)}"  # not from a generator whose state a run depends on


def _sync_tree(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(place, name), "r+b") as file:
                os.fsync(file.fileno())
        sync_folder(Path(place))


def _put_in_place(staging: Path, target: Path) -> None:
    """Rename `staging` to `target`; what is there stays under `backup_of` its name."""
    backup = backup_of(target)
    if not os.path.lexists(target):
        os.rename(staging, target)
    else:
        if os.path.lexists(backup):
            discard(backup)
        os.rename(target, backup)
        try:
            os.rename(staging, target)
        except BaseException:
            os.rename(backup, target)
            raise
    sync_folder(target.parent)


def _remove_tree(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        logger.warning("%s is no longer needed and cannot be deleted: %s", shown(folder), error.strerror or error)
