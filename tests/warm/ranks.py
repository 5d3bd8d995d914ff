"""The processes of one run as forks, with what torchrun gives them: numbers, and a store that somebody else keeps."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch._C._distributed_c10d import TCPStore

from warm import calls

AFTER_THE_OTHERS = 3.0
"""Seconds after which a process that stands still is killed when all others have ended, as torchrun does it."""


def in_ranks(
    report: dict[str, Any],
    size: int,
    place: str,
    jobs: Sequence[Sequence[str]],
    strikes: Mapping[str, Mapping[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
    folders: Sequence[str] | None = None,
) -> int:
    """Run commands one after the other in `size` processes, and note in `report` how each of these ended.

    Args:
        report: Gets `codes`, and `seconds` from the first end of a process to the last one.
        size: How many processes; each runs all jobs, until one does not end with 0.
        place: A folder for what each process prints: 0.out, 0.err and so on.
        jobs: Arguments of `sbert-ft`, or of Python: -c, a program and its arguments.
        strikes: Arguments of `warm.calls.struck`, by the process that it is for.
        environment: More variables.
        folders: The working directory of each, as on several machines; that of all if None.
    """
    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    pids = {}
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "LOCAL_WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                **(environment or {}),
            }
            if folders is not None:
                os.chdir(folders[rank])
            os._exit(_be(folder / str(rank), jobs, (strikes or {}).get(str(rank))))
        pids[pid] = rank
    (folder / "pids").write_text(json.dumps({rank: pid for pid, rank in pids.items()}))
    ends: dict[int, tuple[int, float]] = {}
    while len(ends) < size:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            ends[pids[pid]] = os.waitstatus_to_exitcode(status), time.monotonic()
        latest = max((at for _, at in ends.values()), default=time.monotonic())
        if len(ends) == size - 1 and time.monotonic() - latest > AFTER_THE_OTHERS:
            for pid in (pid for pid, rank in pids.items() if rank not in ends):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    report["codes"] = [ends[rank][0] for rank in range(size)]
    moments = [at for _, at in ends.values()]
    report["seconds_apart"] = max(moments) - min(moments)
    return 0


def _be(place: Path, jobs: Sequence[Sequence[str]], strike: Mapping[str, Any] | None) -> int:
    """Be one of the processes, and return its exit code."""
    code = 99
    try:
        for number, end in enumerate(("out", "err"), 1):
            os.dup2(os.open(place.with_suffix(f".{end}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        torch.set_num_threads(1)
        if strike is not None:
            calls.struck(**strike)
        for job in jobs:
            code = calls.script({}, job[1], job[2:]) if job[0] == "-c" else calls.command({}, job)
            if code:
                break
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    return code
