"""The calls by which a process changes files, as the kernel sees them: counted, refused, or the last that it makes.

A forked process gives itself a seccomp filter that asks its parent before each such system call, whoever makes it:
Python, safetensors' Rust, or the C library. The parent reads which file it is for, and lets the call through, answers
in the kernel's place with an error, or kills the process before the call or in the middle of a write. Nothing of the
code under test is replaced, and no compiler, tracer or privilege is wanted; Linux 5.6 or later is.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Where a call's file stands among its arguments: a descriptor, a path, or a folder's descriptor and a path.
_FD, _PATH, _AT, _AT_LATER = (0,), (None, 0), (0, 1), (2, 3)
_TO_PATH = (None, 1)


@dataclass(frozen=True)
class _Machine:
    architecture: int
    seccomp: int
    calls: dict[int, tuple[str, tuple[int | None, ...]]]
    opening: dict[int, tuple[int, tuple[int | None, ...]]]  # number to which argument holds the flags, and the file's
    plain_write: int


_MACHINES = {
    "x86_64": _Machine(
        architecture=0xC000003E,
        seccomp=317,
        calls={
            **{number: ("write", _FD) for number in (1, 18, 20, 40, 296, 328)},
            **{326: ("write", (2,)), 285: ("truncate", _FD), 77: ("truncate", _FD), 76: ("truncate", _PATH)},
            **{74: ("sync", _FD), 75: ("sync", _FD), 277: ("sync", _FD)},
            **{82: ("rename", _TO_PATH), 264: ("rename", _AT_LATER), 316: ("rename", _AT_LATER)},
            **{87: ("unlink", _PATH), 263: ("unlink", _AT), 84: ("rmdir", _PATH)},
            **{83: ("mkdir", _PATH), 258: ("mkdir", _AT)},
            **{86: ("link", _TO_PATH), 265: ("link", _AT_LATER), 88: ("link", _TO_PATH), 266: ("link", (1, 2))},
            **{90: ("chmod", _PATH), 91: ("chmod", _FD), 268: ("chmod", _AT), 452: ("chmod", _AT)},
        },
        opening={2: (1, _PATH), 257: (2, _AT)},
        plain_write=1,
    ),
    "aarch64": _Machine(
        architecture=0xC00000B7,
        seccomp=277,
        calls={
            **{number: ("write", _FD) for number in (64, 66, 68, 70, 71, 287)},
            **{285: ("write", (2,)), 47: ("truncate", _FD), 46: ("truncate", _FD), 45: ("truncate", _PATH)},
            **{82: ("sync", _FD), 83: ("sync", _FD), 84: ("sync", _FD)},
            **{38: ("rename", _AT_LATER), 276: ("rename", _AT_LATER)},
            **{35: ("unlink", _AT), 34: ("mkdir", _AT)},
            **{37: ("link", _AT_LATER), 36: ("link", (1, 2))},
            **{52: ("chmod", _FD), 53: ("chmod", _AT), 452: ("chmod", _AT)},
        },
        opening={56: (2, _AT)},
        plain_write=64,
    ),
}
_UNLINK_AT = {"x86_64": 263, "aarch64": 35}
_REMOVE_FOLDER = 0x200  # AT_REMOVEDIR
_PIDFD_GETFD = 438
_NO_NEW_PRIVS, _END_WITH_PARENT = 38, 1
_NEW_LISTENER, _NOTIFICATION_SIZES, _FILTER = 8, 3, 1
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_RECEIVE, _ANSWER, _LET_THROUGH = 0xC0502100, 0xC0182101, 1
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # id, thread, flags, number, architecture, instruction, arguments
_AT_WORKING_FOLDER = 2**32 - 100  # AT_FDCWD, as the low half of an argument

KINDS = ("write", "sync", "rename", "unlink", "rmdir", "mkdir", "create", "truncate", "link", "chmod")
"""Of calls; `create` opens a file that it makes or empties."""


@dataclass(frozen=True)
class Call:
    """One call that is about to be made.

    Attributes:
        number: Among those of its process, from 1.
        kind: One of `KINDS`.
        path: Of the file, from the watched folder on; of a rename, its new name.
    """

    number: int
    kind: str
    path: str


@dataclass(frozen=True)
class Kill:
    """End the process.

    Attributes:
        torn: Whether half of what the call would write is written first.
        after_seconds: Let the call through and wait so long; None to kill in its place.
    """

    torn: bool = False
    after_seconds: float | None = None


@dataclass(frozen=True)
class Fail:
    """Let the call fail with this `errno`.

    Attributes:
        number: The error's.
        torn: Whether of a write the first half is written, and said to be, in place of the error.
    """

    number: int
    torn: bool = False


Answer = Kill | Fail | None
"""What happens at a call; None lets it through."""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, or minus a signal's number; what it said; the calls that it began."""

    code: int
    said: str
    calls: list[Call]


def reason_why_not() -> str | None:
    """Return why calls cannot be watched here, or None."""
    if not sys.platform.startswith("linux") or platform.machine() not in _MACHINES:
        return "calls are watched by seccomp, of Linux on x86_64 or aarch64"
    sizes = (ctypes.c_uint16 * 3)()
    machine = _MACHINES[platform.machine()]
    if _libc().syscall(machine.seccomp, _NOTIFICATION_SIZES, 0, sizes) or sizes[0] != _NOTIFICATION.size:
        return "this kernel's seccomp does not ask another process"
    return None


def run_watched(
    run: Callable[[], int], root: Path, said: Path, decide: Callable[[Call], Answer], seconds: float
) -> Ended:
    """Fork, run `run` there, ask `decide` at every call that changes something in `root`, and return how it ended.

    Args:
        run: Returns the exit code.
        root: The folder that is watched; what is written elsewhere is not asked about.
        said: Where the process's output goes.
        decide: Asked before each call.
        seconds: After which a process that hangs is killed, with an exit code of -9.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        _be_watched(run, said, theirs)
    theirs.close()
    with ours:
        listener = socket.recv_fds(ours, 1, 1)[1][0]
    watcher = _Watcher(pid, listener, os.path.realpath(root), decide, time.monotonic() + seconds)
    try:
        watcher.watch()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)  # without effect on one that has ended
        os.close(listener)  # not before: a call that waits for an answer would fail, and the process go on
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Ended(code, said.read_text("utf-8", "replace"), watcher.calls)


# ---------------------------------------------------------------- in the process that is watched


def _be_watched(run: Callable[[], int], said: Path, parent: socket.socket) -> None:
    code = 99
    try:
        _libc().prctl(_END_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = os.fdopen(output, "w", encoding="utf-8", buffering=1)
        listener = _filtered()
        socket.send_fds(parent, [b"x"], [listener])
        os.close(listener)
        parent.close()
        code = run()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _filtered() -> int:
    """Let this process ask before calls that change files, and return the descriptor where that is heard."""
    program = _program(_MACHINES[platform.machine()])
    buffer = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
    libc = _libc()
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    listener = libc.syscall(_MACHINES[platform.machine()].seccomp, _FILTER, _NEW_LISTENER, described)
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(listener)


def _program(machine: _Machine) -> bytes:
    """Return the filter, in the kernel's language."""

    def load(offset: int) -> tuple[int, int, int, int]:
        return 0x20, 0, 0, offset

    def end(action: int) -> tuple[int, int, int, int]:
        return 0x06, 0, 0, action

    steps = [load(4), (0x15, 1, 0, machine.architecture), end(_ALLOW), load(0)]
    for number in machine.calls:
        steps += [(0x15, 0, 1, number), end(_ASK)]
    for number, (flags, _) in machine.opening.items():
        making = os.O_CREAT | os.O_TRUNC
        steps += [(0x15, 0, 4, number), load(16 + 8 * flags), (0x45, 0, 1, making), end(_ASK), end(_ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in [*steps, end(_ALLOW)])


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


# ---------------------------------------------------------------- in the process that watches


class _Watcher:
    def __init__(self, pid: int, listener: int, root: str, decide: Callable[[Call], Answer], until: float) -> None:
        self.pid, self.listener, self.root, self.decide, self.until = pid, listener, root, decide, until
        self.calls: list[Call] = []
        self.machine = _MACHINES[platform.machine()]
        self.kills_at = until

    def watch(self) -> None:
        """Answer until the process has ended or is to be killed."""
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        while True:
            wait = min(self.until, self.kills_at) - time.monotonic()
            events = poll.poll(max(0.0, wait) * 1000)
            if not events or time.monotonic() >= self.kills_at:
                return
            if not events[0][1] & select.POLLIN:
                return  # it has ended
            asked = bytearray(_NOTIFICATION.size)
            try:
                fcntl.ioctl(self.listener, _RECEIVE, asked)
                identity, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack(asked)
                found = self._call(thread, number, arguments)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR, errno.ESRCH):  # it has gone meanwhile
                    continue
                raise
            answer = None
            if found is not None:
                self.calls.append(found)
                answer = self.decide(found)
            if isinstance(answer, Kill) and answer.after_seconds is None:
                if answer.torn and number == self.machine.plain_write:
                    self._write_half(thread, arguments)
                return
            if isinstance(answer, Kill) and answer.after_seconds is not None:
                self.kills_at = time.monotonic() + answer.after_seconds
            reply = (0, 0, _LET_THROUGH)
            if isinstance(answer, Fail):
                torn = answer.torn and number == self.machine.plain_write
                n_written = self._write_half(thread, arguments) if torn else 0
                reply = (n_written, 0, 0) if n_written else (0, -answer.number, 0)
            with contextlib.suppress(FileNotFoundError):  # it has gone meanwhile
                fcntl.ioctl(self.listener, _ANSWER, struct.pack("=QqiI", identity, *reply))

    def _call(self, thread: int, number: int, arguments: list[int]) -> Call | None:
        """Return the call, None where it is for a file elsewhere."""
        if number in self.machine.opening:
            kind, places = "create", self.machine.opening[number][1]
        else:
            kind, places = self.machine.calls[number]
        if number == _UNLINK_AT[platform.machine()] and arguments[2] & _REMOVE_FOLDER:
            kind = "rmdir"
        path = self._path(thread, places, arguments)
        if path != self.root and not path.startswith(self.root + os.sep):
            return None
        return Call(len(self.calls) + 1, kind, os.path.relpath(path, self.root))

    def _path(self, thread: int, places: tuple[int | None, ...], arguments: list[int]) -> str:
        folder = places[0]
        base = f"/proc/{thread}/cwd"
        if folder is not None and arguments[folder] & 0xFFFFFFFF != _AT_WORKING_FOLDER:
            base = f"/proc/{thread}/fd/{arguments[folder] & 0xFFFFFFFF}"
        if len(places) == 1:
            return os.readlink(base)
        assert places[1] is not None
        text = os.fsdecode(self._memory(thread, arguments[places[1]], 4096).split(b"\0")[0])
        named = text if os.path.isabs(text) else os.path.join(os.readlink(base), text)
        return os.path.join(os.path.realpath(os.path.dirname(named)), os.path.basename(named))

    def _memory(self, thread: int, address: int, n_bytes: int) -> bytes:
        with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            to_page = 4096 - address % 4096  # the next page may not be there
            first = memory.read(min(n_bytes, to_page))
            if b"\0" in first or n_bytes <= to_page:
                return first
            return first + (memory.read(n_bytes - to_page) or b"")

    def _write_half(self, thread: int, arguments: list[int]) -> int:
        """Write the first half of what a call would, by the process's own descriptor; return how many bytes."""
        descriptor, address, n_bytes = arguments[0], arguments[1], arguments[2] // 2
        with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            half = memory.read(n_bytes)
        process = os.pidfd_open(self.pid)
        try:
            shared = _libc().syscall(_PIDFD_GETFD, process, descriptor & 0xFFFFFFFF, 0)
            if shared < 0:
                raise OSError(ctypes.get_errno(), "pidfd_getfd")
            try:
                return os.write(shared, half)
            finally:
                os.close(shared)
        finally:
            os.close(process)
