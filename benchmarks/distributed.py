"""What several processes cost on a CPU: two with one thread each against one process with two, by the same run.

Each run is the command of users, `sbert-ft train`, alone or started by torchrun: the packaged MiniLM on pairs of the
STS benchmark. Both train the same model, so the losses are compared too. Pairs a second are those of the steps after
the warm-up, by the run's own log; the seconds of the whole command include imports, evaluation and report.

    python benchmarks/distributed.py
    python benchmarks/distributed.py --rounds 3 --steps 20 --objectives cosent
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import texts as corpus
from models import minilm
from train import EXAMPLES

WARM_UP = 10
# Name -> processes and threads of each.
CONTENDERS = {"one process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}
OBJECTIVES = ("cosine", "cosent")  # rows alone, and rows compared with each other


def run_once(place: Path, n_processes: int, n_threads: int, objective: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return seconds of the steps after the warm-up, seconds of the command, and the losses of one run."""
    folder = corpus.DATA if (corpus.DATA / "train.csv").exists() else EXAMPLES
    config = {
        "model": {"path": str(minilm()), "dropout": 0.0},
        "data": {"train": str(folder / "train.csv")},
        "objective": objective,
        "training": {
            **{"batch_size": args.batch_size, "max_steps": args.steps, "logging_steps": WARM_UP, "device": "cpu"},
            **{"precision": args.precision},
        },
        "output_dir": str(place / "run"),
    }
    (place / "run.json").write_text(json.dumps(config), "utf-8")
    command = [sys.executable, "-m"]
    if n_processes > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}", "-m"]
    command += ["sbert_ft", "train", str(place / "run.json"), "--overwrite", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(n_threads), "PYTHONPATH": str(harness.ROOT)}
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=place)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    log = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    return {
        "seconds": log[-1]["seconds"] - log[0]["seconds"],
        "command_seconds": seconds,
        "losses": [record["loss"] for record in log],
    }


def main() -> None:
    """Measure in turn, print a line for each contender, write benchmarks/results/distributed-cpu.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50, help=f"of a run; the first {WARM_UP} do not count")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES)
    parser.add_argument("--name", default="distributed-cpu", help="of the result's file")
    args = parser.parse_args()
    ours, other = reversed(CONTENDERS)
    n_rows, found = args.batch_size * (args.steps - WARM_UP), {}
    for objective in args.objectives:
        timings = {name: harness.Timings() for name in CONTENDERS}
        commands: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        losses: dict[str, list[float]] = {}
        for turn in range(args.rounds):
            for name in list(CONTENDERS) if turn % 2 else list(CONTENDERS)[::-1]:
                with tempfile.TemporaryDirectory() as place:
                    one = run_once(Path(place), *CONTENDERS[name], objective, args)
                timings[name].seconds.append(one["seconds"])
                commands[name].append(one["command_seconds"])
                losses[name] = one["losses"]
                print(f"  round {turn + 1}  {objective:8s} {name:28s} {one['seconds']:7.2f} s", file=sys.stderr)
        pairs = list(zip(losses[ours], losses[other], strict=True))
        found[objective] = {
            "contenders": {name: timings[name].summary(n_rows) for name in CONTENDERS},
            "command_seconds": {name: round(sorted(commands[name])[args.rounds // 2], 2) for name in CONTENDERS},
            "times_faster": harness.ratios(timings, ours, [other])[other],
            "largest_difference_of_losses": max(abs(mine - theirs) for mine, theirs in pairs),
        }
        ratio = found[objective]["times_faster"]
        print(f"{objective}: {ours} {ratio['median']} ({ratio['least']}-{ratio['most']}) times as fast as {other}")
    facts = {"batch_size": args.batch_size, "steps": args.steps, "warm_up": WARM_UP, "precision": args.precision}
    print(f"written: {harness.write_result(args.name, {**facts, 'objectives': found})}")


if __name__ == "__main__":
    main()
