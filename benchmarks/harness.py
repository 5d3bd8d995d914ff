"""Measure contenders fairly: each in a process of its own, in turn, in one run.

A contender is a function that makes a model and returns what is to be timed. Each gets its own
process, so that its peak memory is its own; a round asks one after the other, so that a machine
that drifts drifts for all. Reported are median and spread, and ratios within the run.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "numpy", "sbert-ft")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


@dataclass
class Timings:
    """What was measured of one contender: seconds a round, and its process's memory in MiB."""

    seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    loaded_mib: float = 0.0
    quality: dict[str, float] = field(default_factory=dict)

    def summary(self, n_items: int) -> dict[str, Any]:
        """Return items a second (median, least, most) and memory."""
        rates = sorted(n_items / s for s in self.seconds)
        return {
            "per_second": round(statistics.median(rates), 1),
            "least": round(rates[0], 1),
            "most": round(rates[-1], 1),
            "rounds": len(rates),
            "peak_mib": round(self.peak_mib),
            "loaded_mib": round(self.loaded_mib),
            **{name: round(value, 6) for name, value in self.quality.items()},
        }


def machine() -> dict[str, Any]:
    """Return versions, processor and command, as every result states them."""
    import torch

    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "packages": packages,
        "processor": str(flags.get("cpu_name") or platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "avx512_bf16": bool(flags.get("avx512_bf16")),
        "amx_bf16": bool(flags.get("amx_bf16")),
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": " ".join(["python", *(os.path.relpath(a, ROOT) if a.endswith(".py") else a for a in sys.argv)]),
    }


def serve(make: Callable[[], tuple[Callable[[], None], Callable[[], dict[str, float]]]]) -> None:
    """Be a contender's process: make the model, then time one call for each line that comes in.

    Args:
        make: Returns what is timed, and what measures its quality once at the end.
    """
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for a result
    run, quality = make()
    loaded = _peak_mib()
    print("ready", file=channel, flush=True)
    for line in sys.stdin:
        if line.strip() == "round":
            start = time.perf_counter()
            run()
            _wait_for_device()
            print(json.dumps({"seconds": time.perf_counter() - start}), file=channel, flush=True)
        else:
            done = {"peak_mib": _peak_mib(), "loaded_mib": loaded}
            print(json.dumps({**done, "quality": quality()}), file=channel, flush=True)
            return


def compare(contenders: list[str], arguments: list[str], rounds: int, warm_up: int = 0) -> dict[str, Timings]:
    """Start a process for each contender and time them in turn.

    Args:
        contenders: Names; each process is this script with ``--worker NAME``.
        arguments: What else the processes are told.
        rounds: Timed rounds; every contender once a round.
        warm_up: Rounds before them that do not count, beyond what a process does by itself.
    """
    timings = {name: Timings() for name in contenders}
    workers = {}
    try:
        for name in contenders:
            command = [sys.executable, sys.argv[0], "--worker", name, *arguments]
            workers[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            if _line(workers[name], name) != "ready":
                raise SystemExit(f"{name} did not start")
        for turn in range(-warm_up, rounds):
            for name in contenders if turn % 2 else contenders[::-1]:
                seconds = json.loads(_ask(workers[name], name, "round"))["seconds"]
                if turn >= 0:
                    timings[name].seconds.append(seconds)
                print(f"  round {turn + 1:2d}  {name:36s} {seconds:8.2f} s", file=sys.stderr)
        for name in contenders:
            end = json.loads(_ask(workers[name], name, "end"))
            timings[name].peak_mib, timings[name].loaded_mib = end["peak_mib"], end["loaded_mib"]
            timings[name].quality = end["quality"]
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    return timings


def ratios(timings: dict[str, Timings], ours: str, others: list[str]) -> dict[str, dict[str, float]]:
    """Return how many times faster `ours` is than each other, round by round: median, least, most."""
    result = {}
    for other in others:
        pairs = zip(timings[other].seconds, timings[ours].seconds, strict=True)
        by_round = sorted(theirs / mine for theirs, mine in pairs)
        median = statistics.median(by_round)
        result[other] = {"median": round(median, 2), "least": round(by_round[0], 2), "most": round(by_round[-1], 2)}
    return result


def write_result(name: str, content: dict[str, Any]) -> Path:
    """Write a result as JSON under benchmarks/results/ and return its path."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **content}, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return path


def _ask(worker: subprocess.Popen[str], name: str, word: str) -> str:
    assert worker.stdin is not None
    worker.stdin.write(word + "\n")
    worker.stdin.flush()
    return _line(worker, name)


def _line(worker: subprocess.Popen[str], name: str) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise SystemExit(f"{name} ended early with exit code {worker.wait()}")
    return line.strip()


def _peak_mib() -> float:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _wait_for_device() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
