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
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from sbert_ft.errors import OutputError, shown
from sbert_ft.model.staging import sync_folder

logger = logging.getLogger(__name__)

PREFIX = ".sbert-ft-"
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
