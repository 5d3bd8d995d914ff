"""What each technique of docs/recipes.md adds to a run: time and memory beside the same run without it.

Each run is the command of users, `sbert-ft train`, in a process of its own: the packaged MiniLM on the first pairs of
the STS benchmark, with their scores, or the matching ones of them without. Runs alternate; a technique is compared with
the plain run of its own rows in the same round. On a machine that does other work, the processor's time says more than
the clock's. Quality is the matter of `quality.py`.

    python benchmarks/techniques.py
    python benchmarks/techniques.py --rounds 3 --rows 2000 --only ema matryoshka
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import statistics
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

SCORED, MATCHING = "scored pairs, cosine", "matching pairs, in_batch_negatives"
# Name -> the plain run that it is compared with, and what it adds to its configuration.
TECHNIQUES: dict[str, tuple[str, dict[str, Any]]] = {
    "ema": (SCORED, {"training.average": "ema"}),
    "best_k": (SCORED, {"training.average": "best_k"}),
    "adversarial": (SCORED, {"training.adversarial_epsilon": 1.0}),
    "matryoshka": (SCORED, {"objective": {"name": "cosine", "matryoshka_dims": [384, 128, 64]}}),
    "mse beside cosine": (SCORED, {"objective": ["cosine", "mse"], "teacher": {"path": "{model}"}}),
    "three of six layers": (SCORED, {"model.layers": [0, 2, 5]}),
    "silver pairs": (SCORED, {"teacher": {"pairs_per_text": 2, "epochs": 1}}),
    "mined negatives": (MATCHING, {"data.negatives": {"per_pair": 1, "ranks": [10, 50]}}),
    "guided negatives": (MATCHING, {"objective": "guided_in_batch_negatives", "teacher": {"path": "{model}"}}),
}


def write_rows(place: Path, n_rows: int) -> None:
    """Write the first pairs with scores, those of at least 4 of 5 as matching pairs, and dev."""
    folder = corpus.DATA if (corpus.DATA / "train.csv").exists() else EXAMPLES
    for part, most in (("train", n_rows), ("dev", 500)):
        with (folder / f"{part}.csv").open(encoding="utf-8", newline="") as opened:
            rows = [(row["sentence1"], row["sentence2"], row["score"]) for row in csv.DictReader(opened)]
        matching = [row[:2] for row in rows if float(row[2]) >= 4][:n_rows]
        for name, heads, kept in (
            (part, ("sentence1", "sentence2", "score"), rows[:most]),
            (f"{part}_matching", ("sentence1", "sentence2"), matching),
        ):
            with (place / f"{name}.csv").open("w", encoding="utf-8", newline="") as opened:
                writer = csv.writer(opened)
                writer.writerow(heads)
                writer.writerows(kept)


def configuration(place: Path, rows: str, more: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a run over these rows, with what a technique adds."""
    scored = rows == SCORED
    config: dict[str, Any] = {
        "model": {"path": str(minilm())},
        "data": {"train": str(place / f"train{'' if scored else '_matching'}.csv"), "dev": str(place / "dev.csv")},
        "objective": "cosine" if scored else "in_batch_negatives",
        "training": {"batch_size": 32, "learning_rate": 5e-5, "epochs": 1, "device": "cpu", "logging_steps": 1},
        "output_dir": str(place / "run"),
    }
    if scored:
        config["data"]["score_range"] = [0, 5]
        config["training"]["eval_steps"] = 10
    for path, value in json.loads(json.dumps(more).replace("{model}", str(minilm()))).items():
        section, _, name = path.partition(".")
        if name:
            config[section][name] = value
        else:
            config[section] = value
    return config


def run_once(place: Path, rows: str, more: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of the command, of the processor and of a step, the peak of memory, and the folder's size."""
    (place / "run.json").write_text(json.dumps(configuration(place, rows, more)), "utf-8")
    command = [sys.executable, "-m", "sbert_ft", "train", str(place / "run.json"), "--overwrite", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(harness.n_threads()), "PYTHONPATH": str(harness.ROOT)}
    begin = time.perf_counter()
    started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=place)
    assert started.stdout is not None
    said = started.stdout.read().decode(errors="replace")
    _, status, usage = os.wait4(started.pid, 0)
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {started.returncode}: {said[-2000:]}")
    log = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [record["seconds"] for record in log if record["kind"] == "train"]
    return {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "step_seconds": (steps[-1] - steps[2]) / (len(steps) - 3),
        "peak_mib": usage.ru_maxrss / 1024,
        "disk_mib": sum(path.stat().st_size for path in (place / "run").rglob("*") if path.is_file()) / 2**20,
    }


def main() -> None:
    """Measure in turn, print a table in Markdown, write benchmarks/results/techniques-cpu.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1000, help="pairs of a run")
    parser.add_argument("--only", nargs="+", choices=list(TECHNIQUES), default=list(TECHNIQUES))
    parser.add_argument("--name", default="techniques-cpu", help="of the result's file")
    args = parser.parse_args()
    plain = {rows: {} for rows in (SCORED, MATCHING) if any(TECHNIQUES[name][0] == rows for name in args.only)}
    wanted = {**{rows: (rows, more) for rows, more in plain.items()}, **{name: TECHNIQUES[name] for name in args.only}}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in wanted}
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), args.rows)
        # a small process starts the runs: what is resident here would count as the peak of theirs
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 < 300
        for turn in range(args.rounds):
            for name in wanted if turn % 2 else reversed(wanted):
                found[name].append(run_once(Path(folder), *wanted[name]))
                print(f"  round {turn + 1}  {name}: {found[name][-1]['seconds']:.1f} s", file=sys.stderr)
    results = {name: compared(found[name], found[wanted[name][0]], name in plain) for name in wanted}
    content = {"model": "minilm", "rows": args.rows, "rounds": args.rounds, "runs": results}
    print_table(results)
    print(f"written: {harness.write_result(args.name, content)}")


def compared(own: list[dict[str, float]], plain: list[dict[str, float]], is_plain: bool) -> dict[str, Any]:
    """Return the medians of a technique's runs, and its ratios to the plain runs, round by round."""
    result: dict[str, Any] = {key: round(statistics.median(run[key] for run in own), 4) for key in own[0]}
    if not is_plain:
        for key in own[0]:
            ratios = [run[key] / other[key] for run, other in zip(own, plain, strict=True)]
            named = {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
            result[f"{key}_ratio"] = {word: round(value, 3) for word, value in named.items()}
    return result


def print_table(results: dict[str, dict[str, Any]]) -> None:
    """Print medians, and for techniques the ratios with least and most, in Markdown."""
    of_plain = "command | processor | step | memory | folder"  # as ratios
    print(f"| | command, s | processor, s | a step, ms | memory, MiB | folder, MiB | {of_plain} |")
    print(f"| --- |{10 * ' --- |'}")
    for name, run in results.items():
        own = [f"{run['seconds']:.1f}", f"{run['cpu_seconds']:.1f}", f"{1000 * run['step_seconds']:.0f}"]
        own += [f"{run['peak_mib']:,.0f}", f"{run['disk_mib']:,.0f}"]
        keys = ("seconds", "cpu_seconds", "step_seconds", "peak_mib", "disk_mib")
        ratios = [run.get(f"{key}_ratio") for key in keys]
        shown = ["" if r is None else f"{r['median']:.2f} ({r['least']:.2f}-{r['most']:.2f})" for r in ratios]
        print(f"| {name} | {' | '.join([*own, *shown])} |")


if __name__ == "__main__":
    main()
