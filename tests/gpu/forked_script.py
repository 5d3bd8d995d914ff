"""`benchmarks/gpu.py` in a fork of the warm process, and each of its parts in a fork of that: Python starts but once.

The script itself is whole: it ends a part whose time is over, reads what it has printed, and how it ended.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO


class ForkedPython:
    """What of `subprocess.Popen` the script needs, for a command that is Python with a script: a fork that runs it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdout: BinaryIO,
        stderr: BinaryIO,
        env: Mapping[str, str],
        cwd: Path,
        start_new_session: bool,
    ) -> None:
        assert list(command[:2]) == [sys.executable, "-u"] and start_new_session, command
        sys.stdout.flush()
        self.args, self.code = command, None
        self.pid = os.fork()
        if self.pid == 0:
            self._be(list(command[2:]), (stdout.fileno(), stderr.fileno()), env, cwd)

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float = 60.0) -> int:
        until = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(list(self.args), seconds)
            time.sleep(0.01)
        return code

    def _be(self, argv: list[str], streams: tuple[int, int], env: Mapping[str, str], cwd: Path) -> None:
        code = 1
        try:
            os.setsid()
            os.chdir(cwd)
            for number, end in enumerate(streams, 1):
                os.dup2(end, number)
            os.environ.clear()
            os.environ.update(env)
            subprocess.Popen = _POPEN  # type: ignore[misc]  # what a part starts is a process as ever
            sys.argv = argv
            runpy.run_path(argv[0], run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


_POPEN = subprocess.Popen


def _started(command: Sequence[str], **options: Any) -> Any:
    """Start a part: `tests` as a process that starts Python, which takes longer than the second that it is given."""
    is_slow = command[command.index("--worker") + 1] == "tests"
    return _POPEN(command, **options) if is_slow else ForkedPython(command, **options)


def run(report: dict[str, Any], script: str, argv: Sequence[str]) -> int:
    """Run the script; its folder is where Python looks first, as it does for a script."""
    sys.path.insert(0, str(Path(script).parent))
    subprocess.Popen = _started  # type: ignore[misc,assignment]
    sys.argv = [script, *argv]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        sys.stdout.flush()
    return 0
