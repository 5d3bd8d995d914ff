"""A lock that lets only one process use a folder, names its holder, and ends with that process.

The kernel releases the system's lock (`flock`) on the file `.lock` however a process ends, so it is never stale; the
content of the file only says who holds it. On systems without such locks (Windows, some network file systems) the file
itself is the lock; it is stale when the process that it names no longer runs on the same computer.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sbert_ft.errors import ModelFolderError, RunFolderError, quoted, shown
from sbert_ft.files.atomic import PREFIX, open_regular, whole_file, write_all, write_new, writing
from sbert_ft.files.strict_json import parse_json

if sys.platform != "win32":
    import fcntl

LOCK_NAME = ".lock"
_NO_SUCH_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_MAX_OWNER_BYTES = 4096


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of the existing folder `folder` while the block runs.

    If another process holds it, a `RunFolderError` names that; if it cannot be written, an `OutputError`.
    """
    path = folder / LOCK_NAME
    descriptor = None if sys.platform == "win32" else _flocked(path)
    if descriptor is None:
        with locked_by_name(path):
            yield
        return
    try:
        yield
    finally:
        with suppress(OSError):  # the folder may be gone
            os.unlink(path)  # before the lock is released, so that its next holder notices that the file was removed
        os.close(descriptor)


@contextmanager
def locked_by_name(path: Path) -> Iterator[None]:
    """Hold the file `path` itself while the block runs, for systems without locks.

    Two processes that find the same stale file at the same moment can both take it over; `flock` does not have this
    problem. Errors as in `locked`.
    """
    whole = path.with_name(f"{PREFIX}{secrets.token_hex(8)}")
    with writing(path):
        try:
            write_new(whole, _this_process())
            try:
                os.link(whole, path)  # appears with its content, or fails if the name exists
            except FileExistsError:
                if not _is_stale(path):
                    raise _in_use(path) from None
                os.replace(whole, path)
        finally:
            with suppress(OSError):
                os.unlink(whole)
    try:
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Show other processes, while the block runs, that the temporary file `path` is in use (see `remove_unheld`).

    The file is made where it is not there. On systems without locks nothing is shown.
    """
    descriptor = None
    while descriptor is None and sys.platform != "win32":
        with writing(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            got = _try_flock(descriptor)
            is_there = os.path.lexists(path) and os.path.samestat(os.lstat(path), os.fstat(descriptor))
        if got is False or not is_there:  # another process is removing it
            os.close(descriptor)
            descriptor = None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def whole_held_file(target: Path) -> Iterator[Path]:
    """As `whole_file`, of a file that is held until it has replaced the target."""
    with ExitStack() as until_replaced, whole_file(target) as temporary:
        until_replaced.enter_context(held(temporary))
        yield temporary


def remove_unheld(folder: Path) -> None:
    """Remove the temporary files of killed processes in `folder`, which no running process holds (see `held`)."""
    if sys.platform == "win32":
        return
    with writing(folder):
        leftovers = [folder / name for name in os.listdir(folder) if name.startswith(PREFIX)]
    for path in leftovers:
        with suppress(OSError):  # it is gone meanwhile, or not ours
            descriptor = open_regular(path, os.O_RDWR)
            try:
                if _try_flock(descriptor):
                    os.unlink(path)
            finally:
                os.close(descriptor)


def _flocked(path: Path) -> int | None:
    """Return a descriptor that holds the lock of the file at `path`, or None if the system has no locks."""
    while True:
        with writing(path):
            descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
            try:
                got = _try_flock(descriptor)
                with suppress(FileNotFoundError):  # the former holder may have removed the file since it was opened
                    if got and os.path.samestat(os.lstat(path), os.fstat(descriptor)):
                        os.ftruncate(descriptor, 0)
                        write_all(descriptor, _this_process())
                        return descriptor
            except BaseException:
                os.close(descriptor)
                raise
        os.close(descriptor)
        if got is None:
            return None
        if not got:
            raise _in_use(path)


def _try_flock(descriptor: int) -> bool | None:
    """Return whether the lock was acquired, None if the file system has no locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if error.errno in _NO_SUCH_LOCKS:
            return None
        raise
    return True


def _this_process() -> bytes:
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": started}).encode()


def _owner(path: Path) -> dict[str, Any] | None:
    """Return the content of the lock file, {} if it cannot be read, None if it is empty or missing."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            data = file.read(_MAX_OWNER_BYTES)
        owner: dict[str, Any] = parse_json(data, "the lock") if data else {}
    except FileNotFoundError:
        return None
    except (OSError, ModelFolderError):
        return {}
    return owner or None


def _is_stale(path: Path) -> bool:
    """Return whether the process that a lock file names has certainly ended."""
    owner = _owner(path)
    if owner is None:
        return True  # left by an attempt to lock it; a lock appears with its content
    pid, host = owner.get("pid"), owner.get("host")
    if type(pid) is not int or not 0 < pid < 2**31 or host != socket.gethostname() or os.name == "nt":
        return False  # on Windows, os.kill would end the process
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False


def _in_use(path: Path) -> RunFolderError:
    owner = _owner(path) or {}
    who = "another process"
    if "pid" in owner:
        who = "process {} on {} since {}".format(
            *(quoted(owner.get(key, "?")).strip("'") for key in ("pid", "host", "started"))
        )
    return RunFolderError(
        f"{shown(path.parent)} is in use by {who}",
        f"wait until it ends or give another output_dir (if it no longer runs, delete {path.name})",
    )
