"""Kill or halt one process of a run of several at random moments, and resume it: `make soak` runs this.

    python tests/soak/lost_processes.py --rounds 20 --output lost.json

Each round starts a run of three processes by the real torchrun, with the seconds that users have. It must end within a
minute, with one sentence and a checkpoint that is whole; one process then goes on from it to the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "training")]

N_PROCESSES = 3
MOST_SECONDS = 60.0
SIGNALS = (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM)


def command(config: Path, n_processes: int, *options: str) -> list[str]:
    started = ["torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}", "-m"]
    return [sys.executable, "-m", *(started if n_processes > 1 else ()), "sbert_ft", "train", str(config), *options]


def processes_of(torchrun: int) -> list[int]:
    """Return the processes that a torchrun has started, in the order of their ranks."""
    return sorted(int(pid) for pid in Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split())


def one_round(draw: random.Random, config: Path, run: Path) -> dict[str, Any]:
    """Return what was done to which process, how long the end took, and what was wrong with it; empty if nothing."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done: dict[str, Any] = {"signal": draw.choice(SIGNALS).name, "rank": draw.randrange(N_PROCESSES), "faults": []}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command(config, N_PROCESSES), stdout=said, stderr=said, env=environment)
        while not list(run.glob("checkpoints/*.safetensors")) and process.poll() is None:
            time.sleep(0.1)
        time.sleep(draw.random() * 3)
        if process.poll() is not None:
            return {**done, "faults": ["it ended before it was touched"]}
        os.kill(processes_of(process.pid)[done["rank"]], signal.Signals[done["signal"]])
        began = time.monotonic()
        try:
            process.wait(2 * MOST_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        done["seconds"] = round(time.monotonic() - began, 1)
        said.seek(0)
        sentences = [line for line in said.read().splitlines() if line.startswith("sbert-ft: ")]
    if done["seconds"] > MOST_SECONDS:
        done["faults"].append(f"it took {done['seconds']} s")
    if len(sentences) != 1:
        done["faults"].append(f"{len(sentences)} sentences: {sentences}")
    done["said"] = sentences[:1]
    resumed = subprocess.run(command(config, 1, "--resume"), capture_output=True, text=True, env=environment)
    if resumed.returncode:
        done["faults"].append(f"it cannot be resumed: {resumed.stderr[-500:]}")
    return done


def main() -> None:
    """Run the rounds, print each, write what was counted; exit code 1 where one had a fault."""
    from conftest import make_bert_folder
    from test_distributed import write_rows

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    draw, rounds = random.Random(args.seed), []
    for number in range(args.rounds):
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            files = {split: write_rows(place / f"{split}.csv", ("a", "b", "score"), 80) for split in ("train", "dev")}
            config = {
                "model": {"path": str(make_bert_folder(place / "bert"))},
                "data": files,
                "objective": "cosent",
                "training": {"epochs": 60, "batch_size": 8, "eval_steps": 10, "save_steps": 10, "device": "cpu"},
                "evaluation": {"bootstrap_samples": 10},
                "output_dir": str(place / "run"),
            }
            (place / "run.json").write_text(json.dumps(config))
            rounds.append(one_round(draw, place / "run.json", place / "run"))
        print(number + 1, rounds[-1], flush=True)
    faults = [fault for one in rounds for fault in one["faults"]]
    if args.output:
        args.output.write_text(json.dumps({"rounds": rounds, "faults": faults}, indent=1) + "\n")
    print(f"{len(rounds)} rounds, {len(faults)} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
