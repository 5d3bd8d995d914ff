"""What this machine's CPU is and how many threads to use, without torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# From the instructions that matter most for speed down; the first that a CPU has names its kind.
_MARKS: Final = ("amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2")


def cpu_flags() -> set[str]:
    """Return the names of the CPU's instruction sets as Linux reports them; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return set()
    flags = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return set(next(flags, "").split())


def kind_of_cpu() -> str:
    """Return the machine type and its best instruction set for matrix products, such as ``x86_64 avx512_vnni``."""
    flags = cpu_flags()
    mark = next((name for name in _MARKS if name in flags), "")
    return f"{platform.machine()} {mark}".strip()


def missing_flags(required: Iterable[str]) -> tuple[str, ...]:
    """Return those of the required flags that this CPU lacks; of ``a|b`` one is enough."""
    flags = cpu_flags()
    return tuple(flag for flag in required if flags.isdisjoint(flag.split("|")))


def n_threads() -> int:
    """Return how many threads an engine uses: OMP_NUM_THREADS if that is a number above 0, else the CPUs we may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isascii() and given.isdigit() and 0 < int(given) < 2**15:
        return int(given)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
