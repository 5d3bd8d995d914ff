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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers", "numpy", "sbert-ft")
ENGINE_PACKAGES = ("onnxruntime", "openvino", "nncf")  # that our own environment runs models by
PEER_PACKAGES = ("optimum", "optimum-intel", "optimum-onnx", "openvino", "onnxruntime", "onnx", "flash-attn", "kernels")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it counts each conversion over the network


class Skipped(Exception):
    """Raised while a contender is made where it cannot be had here; the message says why."""


@dataclass(frozen=True)
class Contender:
    """What a contender's process measures.

    Attributes:
        run: What is timed, once a round.
        quality: Measured once at the end, after memory was looked at.
        precision: In which it multiplies, such as bfloat16.
        facts: What else is worth knowing of it: the batch size it chose, seconds to compile.
    """

    run: Callable[[], None]
    quality: Callable[[], dict[str, float]]
    precision: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """How a contender's process is started: by which interpreter, and with what beside this one's environment."""

    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Timings:
    """What was measured of one contender: seconds a round, and its process's memory in MiB."""

    seconds: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    loaded_mib: float = 0.0
    quality: dict[str, float] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)

    def summary(self, n_items: int) -> dict[str, Any]:
        """Return items a second (median, least, most), memory, quality, and what the process told of itself."""
        rates = sorted(n_items / s for s in self.seconds)
        return {
            "per_second": round(statistics.median(rates), 1),
            "least": round(rates[0], 1),
            "most": round(rates[-1], 1),
            "rounds": len(rates),
            "peak_mib": round(self.peak_mib),
            "loaded_mib": round(self.loaded_mib),
            **{name: round(value, 6) for name, value in self.quality.items()},
            **self.told,
        }


@dataclass
class Comparison:
    """Contenders timed in turn.

    Attributes:
        timings: Of those that ran.
        skipped: Why the others did not.
        environments: Versions of the packages in interpreters other than this one, by what they are for.
    """

    timings: dict[str, Timings] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    environments: dict[str, dict[str, str]] = field(default_factory=dict)


def machine() -> dict[str, Any]:
    """Return versions, processor and command, as every result states them."""
    import torch

    flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "packages": versions([*PACKAGES, *ENGINE_PACKAGES]),
        "processor": str(flags.get("cpu_name") or platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "avx512_bf16": bool(flags.get("avx512_bf16")),
        "amx_bf16": bool(flags.get("amx_bf16")),
        "card": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": " ".join(["python", *(os.path.relpath(a, ROOT) if a.endswith(".py") else a for a in sys.argv)]),
    }


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the installed versions of packages."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def n_threads() -> int:
    """Return how many threads every contender gets: OMP_NUM_THREADS, or as many as torch takes by itself."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit():
        return int(given)
    import torch

    return torch.get_num_threads()


def limited_to(isa: str | None) -> dict[str, str]:
    """Return the environment in which a process multiplies with no more than these instructions; None for all."""
    return {} if isa is None else {"ATEN_CPU_CAPABILITY": isa, "ONEDNN_MAX_CPU_ISA": isa.upper()}


def search_first(*folders: str) -> dict[str, str]:
    """Return the environment in which a process looks for packages in these folders before any other."""
    own = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    return {"PYTHONPATH": os.pathsep.join([*folders, *own])} if folders else {}


def serve(make: Callable[[], Contender]) -> None:
    """Be a contender's process: make the model, then time one call for each line that comes in.

    Args:
        make: Returns what is timed; raises `Skipped` where it cannot be had here.
    """
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not be taken for a result
    try:
        contender = make()
    except Skipped as reason:
        print(json.dumps({"skipped": str(reason)}), file=channel, flush=True)
        return
    loaded = peak_mib()
    told = {"precision": contender.precision, **contender.facts}
    own = [*PACKAGES, *PEER_PACKAGES]
    print(json.dumps({"told": told, "packages": versions(own)}), file=channel, flush=True)
    for line in sys.stdin:
        if line.strip() == "round":
            start = time.perf_counter()
            contender.run()
            wait_for_device()
            print(json.dumps({"seconds": time.perf_counter() - start}), file=channel, flush=True)
        else:
            done = {"peak_mib": peak_mib(), "loaded_mib": loaded}
            print(json.dumps({**done, "quality": contender.quality()}), file=channel, flush=True)
            return


def compare(
    contenders: list[str], arguments: list[str], rounds: int, start: Callable[[str], Start] = lambda name: Start()
) -> Comparison:
    """Start a process for each contender and time them in turn.

    Args:
        contenders: Names; each process is this script with ``--worker NAME``.
        arguments: What else the processes are told.
        rounds: Timed rounds; every contender once a round. What comes before them is the process's own affair.
        start: How a contender's process is started; raises `Skipped` where it cannot be.
    """
    result, workers = Comparison(), {}
    threads = {"OMP_NUM_THREADS": str(n_threads())}
    try:
        for name in contenders:
            try:
                how = start(name)
            except Skipped as reason:
                result.skipped[name] = str(reason)
                print(f"  {name}: {reason}", file=sys.stderr)
                continue
            command = [how.python, sys.argv[0], "--worker", name, *arguments]
            environment = {**os.environ, **threads, **how.environment}
            workers[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
            ready = json.loads(_line(workers[name], name))
            if "skipped" in ready:
                result.skipped[name] = ready["skipped"]
                print(f"  {name}: {ready['skipped']}", file=sys.stderr)
                workers.pop(name).wait()
                continue
            result.timings[name] = Timings(told=ready["told"])
            if how.python != sys.executable:
                result.environments["peers"] = ready["packages"]
        running = list(workers)
        for turn in range(rounds):
            for name in running if turn % 2 else running[::-1]:
                seconds = json.loads(_ask(workers[name], name, "round"))["seconds"]
                result.timings[name].seconds.append(seconds)
                print(f"  round {turn + 1:2d}  {name:36s} {seconds:8.2f} s", file=sys.stderr)
        for name in running:
            end = json.loads(_ask(workers[name], name, "end"))
            one = result.timings[name]
            one.peak_mib, one.loaded_mib, one.quality = end["peak_mib"], end["loaded_mib"], end["quality"]
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    return result


def compare_here(contenders: Mapping[str, Contender], rounds: int) -> dict[str, Timings]:
    """Time contenders in turn in this very process, where a process for each would take too long to start.

    Their memory cannot be told apart then, and is left at 0.
    """
    timings = {name: Timings(told={"precision": one.precision, **one.facts}) for name, one in contenders.items()}
    for turn in range(rounds):
        for name in list(contenders) if turn % 2 else list(contenders)[::-1]:
            wait_for_device()
            start = time.perf_counter()
            contenders[name].run()
            wait_for_device()
            timings[name].seconds.append(time.perf_counter() - start)
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


def memory_ratios(timings: dict[str, Timings], ours: str, others: list[str]) -> dict[str, float]:
    """Return the peak memory of `ours` as a share of each other's."""
    return {other: round(timings[ours].peak_mib / timings[other].peak_mib, 3) for other in others}


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


def peak_mib() -> float:
    """Return the most memory that was taken: on a GPU of the card's by tensors, otherwise of this process's own.

    What the interpreter's parent had resident is not in it, as it would be in getrusage's figure on Linux.
    """
    torch = _loaded_torch()
    if torch is not None and torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text("ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def wait_for_device() -> None:
    """Wait until a GPU has done what it was told; a clock is read after it."""
    torch = _loaded_torch()
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def _loaded_torch() -> Any:
    """Return torch where the process has it: a contender without it must not get it by being measured."""
    return sys.modules.get("torch")
