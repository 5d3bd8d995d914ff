"""Processes under test as forks of one that has imported everything, so that each costs a tenth of a second.

Starting Python with torch and transformers takes seconds, and hundreds of tests want a process of their own: to kill
it, to limit it, to spoil its streams, or to see what a bad input makes it do. One warm process for each process of
pytest (the fixture `warm` in conftest.py) forks for every such run. What depends on how Python itself is started (its
encoding, its warnings, what is imported) is tested in whole processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
MAX_SECONDS = 120
"""After so long a run counts as hanging and is killed."""


@dataclass(frozen=True)
class Ended:
    """A run that is over.

    Attributes:
        code: Its exit code, negative for the signal that ended it.
        out: What it printed.
        err: What it said on standard error.
        report: What its call noted, and its seconds; empty where it was killed.
    """

    code: int
    out: str
    err: str
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """Both streams."""
        return self.out + self.err


@dataclass
class WarmProcess:
    """The process that forks; one run at a time.

    Attributes:
        process: The process.
        place: Where it keeps what runs said.
    """

    process: subprocess.Popen[bytes]
    place: Path
    n_runs: int = 0
    pid: int = 0

    def start(
        self,
        call: str,
        *,
        cwd: Path | None = None,
        stdin: bytes | Path | None = None,
        environment: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> int:
        """Start ``module:function`` in a fork, and return its process number.

        Args:
            call: A function of `warm.calls` or of another module of the tests; it returns the exit code.
            cwd: Its working directory; that of pytest if None.
            stdin: Its standard input, or the path of it.
            environment: Variables to set.
            arguments: What the function is called with, as JSON has it.
        """
        self.n_runs += 1
        if isinstance(stdin, bytes):
            self._path("stdin").write_bytes(stdin)
            stdin = self._path("stdin")
        request = {
            "call": call,
            "arguments": arguments,
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(environment or {}),
            "stdin": stdin,
            **{name: str(self._path(name)) for name in ("stdout", "stderr", "report")},
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request, default=str).encode() + b"\n")
        self.process.stdin.flush()
        self.pid = int(self._answer())
        return self.pid

    def has_ended(self, seconds: float) -> bool:
        """Wait for so many seconds, and return whether the run is over."""
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def end(self, max_seconds: float = MAX_SECONDS) -> Ended:
        """Wait for the run's end; one that hangs is killed, and fails the test."""
        ends = self.has_ended(max_seconds)
        if not ends:
            os.kill(self.pid, signal.SIGKILL)
        code = int(self._answer())
        out, err = (self._path(name).read_text("utf-8", "surrogateescape") for name in ("stdout", "stderr"))
        assert ends, f"killed after {max_seconds} s: {err[-2000:]}"
        report = self._path("report").read_text("utf-8") if self._path("report").exists() else ""
        return Ended(code, out, err, json.loads(report or "{}"))

    def run(self, call: str, *, max_seconds: float = MAX_SECONDS, **options: Any) -> Ended:
        """Start a call, and wait for its end."""
        self.start(call, **options)
        return self.end(max_seconds)

    def command(self, *arguments: object, max_seconds: float = MAX_SECONDS, **options: Any) -> Ended:
        """Run `sbert-ft` with these arguments to its end."""
        return self.run("warm.calls:command", argv=[str(a) for a in arguments], max_seconds=max_seconds, **options)

    def script(self, code: str, *arguments: object, max_seconds: float = MAX_SECONDS, **options: Any) -> Ended:
        """Run a program, as ``python -c code arguments`` does, to its end."""
        argv = [str(argument) for argument in arguments]
        return self.run("warm.calls:script", code=code, argv=argv, max_seconds=max_seconds, **options)

    def _path(self, name: str) -> Path:
        return self.place / f"{name}-{self.n_runs}"

    def _answer(self) -> bytes:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the warm process has gone"
        return line


@contextlib.contextmanager
def started() -> Iterator[WarmProcess]:
    """Start the warm process: not set offline, and with proxies where nobody answers."""
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    nobody = "http://127.0.0.1:9"
    environment = {name: value for name, value in os.environ.items() if name not in offline}
    environment |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_ENDPOINT": nobody, "HF_TOKEN": "hf_x", "HTTP_PROXY": nobody, "HTTPS_PROXY": nobody}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with (
        tempfile.TemporaryDirectory() as place,
        subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "warm" / "server.py")],
            bufsize=0,  # what a buffer has read ahead would be waited for in vain
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process,
    ):
        made = WarmProcess(process, Path(place))
        assert made._answer() == b"ready\n"
        yield made
        assert process.stdin is not None
        process.stdin.close()


def tree(folder: Path) -> dict[str, str]:
    """Return every path under `folder` with what it is and holds; links are not followed."""
    found: dict[str, str] = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(place, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                what = f"link to {os.readlink(path)}"
            elif stat.S_ISREG(mode):
                size = os.path.getsize(path)
                if size > 50_000_000:  # sparse files of gigabytes are told by size and time alone
                    what = f"{size} bytes of {os.lstat(path).st_mtime_ns}"
                else:
                    with open(path, "rb") as file:
                        what = hashlib.sha256(file.read()).hexdigest()
            else:
                what = stat.filemode(mode)[0]
            found[os.path.relpath(path, folder)] = what
    return found
