"""How fast this machine multiplies matrices: the limit that every other figure is held against.

    python benchmarks/rate.py                          # prints operations a second, by precision

One large square product by `torch.nn.functional.linear` as it comes, in each precision. The other scripts ask this one
in a process of its own, in the same run and with the same threads and instructions as their contenders.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping

import harness

REPETITIONS = 7


def measure(environment: Mapping[str, str], precisions: tuple[str, ...] = ("float32", "bfloat16")) -> dict[str, float]:
    """Return GFLOP/s by precision, and the product's size, measured in a process of its own."""
    command = [sys.executable, __file__, "--precisions", *precisions]
    told = {**os.environ, "OMP_NUM_THREADS": str(harness.n_threads()), **environment}
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=told).stdout
    rates: dict[str, float] = json.loads(said)
    return rates


def share(operations: float, seconds: float, precision: str, rates: Mapping[str, float]) -> dict[str, float]:
    """Return GFLOP/s, and their share of the machine's rate at that precision where this was measured."""
    achieved = operations / seconds / 1e9
    found = {"gflop_per_second": round(achieved, 1)}
    return found | ({"share": round(achieved / rates[precision], 3)} if precision in rates else {})


def main() -> None:
    """Measure each precision and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    print(json.dumps(measured_here(parser.parse_args().precisions)))


def measured_here(precisions: Iterable[str], size: int | None = None) -> dict[str, float]:
    """Return GFLOP/s by precision, and the product's size, measured in this process; None for the usual size."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = size or (8192 if device == "cuda" else 2048)
    found: dict[str, float] = {"size": size}
    for precision in precisions:
        left, right = (torch.randn(size, size, device=device).to(getattr(torch, precision)) for _ in range(2))
        seconds = []
        for turn in range(-2, REPETITIONS):
            harness.wait_for_device()
            start = time.perf_counter()
            torch.nn.functional.linear(left, right)
            harness.wait_for_device()
            if turn >= 0:
                seconds.append(time.perf_counter() - start)
        found[precision] = round(2 * size**3 / statistics.median(seconds) / 1e9, 1)
    return found


if __name__ == "__main__":
    main()
