"""Fine-tune on the same pairs with sbert_ft and with sentence-transformers' own trainer, in turn.

    python benchmarks/train.py                                # everything, as in benchmarks/README.md
    python benchmarks/train.py --steps 60 --rounds 2          # speed alone, on a sample of the pairs
    python benchmarks/train.py --batch-sizes 16 64 --steps 30 12 --warm-up 6     # as many steps as batch sizes
    python benchmarks/train.py --batch-sizes 16 --contenders "sbert_ft auto" "st bfloat16"
    python benchmarks/train.py --isa avx2 --steps 20          # as a CPU without AVX512 and AMX would, in float32
    python benchmarks/train.py --model base                   # random weights of BERT-base's size

Each contender trains in a process of its own, anew in each round, with the round's seed. Both sides get the same rows,
targets, folder, maximal length, epochs, batch size, threads, learning rate, warm-up, decay, clipping, fused AdamW and
the dropout that the model's config.json says. `st float32` is the trainer as it comes, `st bfloat16` has bf16=True;
`loop ...` is a plain loop over transformers' own classes with the same optimizer, as a tutorial writes it; it stands
in for the trainer where that one's packages are not installed.

Timed are the steps after the first ones, without loading, evaluation and checkpoints. sentence-transformers tokenises
each batch within them; sbert_ft tokenises all texts beforehand, and this time is added to it, for every epoch.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
import models
import peer_training as peer
import rate
import texts as corpus
from models import minilm

if TYPE_CHECKING:
    from sbert_ft import ConnectionDataset
    from sbert_ft.config.settings import TrainingSettings

CONTENDERS = ["sbert_ft auto", "st float32", "st bfloat16", "loop bfloat16"]
LIMITED = ["sbert_ft float32", "st float32"]  # contenders where the instructions are limited
ON_CPU, ON_GPU = [16, 32, 64], [16, 64, 256]  # batch sizes
LIBRARIES, PRECISIONS = ("sbert_ft", "st", "loop"), ("auto", "float32", "bfloat16")
MAX_SEQ_LENGTH = 128
EXAMPLES = harness.ROOT / "examples" / "data"
FIRST_SEED = 42


def main() -> None:
    """Measure, print a table for each batch size, and write benchmarks/results/train-<device>.json."""
    args = arguments()
    if args.answer:
        logging.basicConfig(level=logging.WARNING)
        peer.answer(args.answer, lambda: work(args))
        return
    import torch

    on_gpu = torch.cuda.is_available()
    wanted = args.contenders or (LIMITED if args.isa else CONTENDERS)
    contenders, batch_sizes = [installed(name) for name in wanted], args.batch_sizes or (ON_GPU if on_gpu else ON_CPU)
    steps = args.steps if len(args.steps) == len(batch_sizes) else args.steps * len(batch_sizes)
    if len(steps) != len(batch_sizes):
        raise SystemExit(f"--steps has {len(steps)} numbers, expected one, or one for each of {batch_sizes}")
    limit = harness.limited_to(args.isa)
    name = args.name or "-".join(filter(None, ["train", "gpu" if on_gpu else "cpu", args.isa, base_of(args.model)]))
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = models.make_base(Path(place) / "base") if args.model == "base" else Path(args.model or minilm())
        for batch_size, n_steps in zip(batch_sizes, steps, strict=True):
            rates = rate.measure(limit, ("float32",) if args.isa else ("float32", "bfloat16"))
            answers = measure(args, contenders, Turn(folder, batch_size, n_steps, limit))
            results[str(batch_size)] = report(batch_size, answers, rates)
            first = answers[contenders[0]][0]
            content = {
                "data": os.path.relpath(args.data, harness.ROOT),
                "model": base_of(args.model) or "minilm",
                "isa": args.isa,
                "max_seq_length": MAX_SEQ_LENGTH,
                "whole_epochs": n_steps is None,
                "trainer_packages": peer.trainer_versions(),
                "device": first["device"],
                "memory": "most of the card's" if on_gpu else "most that was resident of the process",
                "settings": first["settings"],
                "batch_sizes": results,
            }
            path = harness.write_result(name, content)
    print(f"written: {path}")


@dataclass(frozen=True)
class Turn:
    """What all contenders are told for one batch size: folder, size, steps (None: whole epochs), environment."""

    folder: Path
    batch_size: int
    n_steps: int | None
    environment: dict[str, str]


def base_of(model: str | None) -> str:
    """Return the name of a model beside the packaged one, as results are named by it."""
    return "" if model is None else Path(model).name


def arguments(told: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line, or what these words mean as one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", nargs="+", type=int, help="default 16 32 64, on a GPU 16 64 256")
    parser.add_argument("--contenders", nargs="+", help="such as 'st float32'; sbert_ft, st, loop")
    parser.add_argument("--isa", choices=["avx2"], help="limit every contender to these instructions; float32 then")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument(
        "--steps",
        nargs="+",
        type=int,
        default=[None],
        help="so many steps an epoch, on as many pairs as they take, for all or for each batch size; no test score",
    )
    parser.add_argument("--warm-up", type=int, default=20, help="first steps, not timed; at most a third of an epoch")
    parser.add_argument("--model", help="folder, or base for random weights; the packaged MiniLM where none is given")
    parser.add_argument(
        "--data",
        type=Path,
        default=corpus.DATA if corpus.DATA.exists() else EXAMPLES,
        help="folder with train.csv and test.csv: sentence1, sentence2, score",
    )
    parser.add_argument("--name", help="of the result's file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(told)
    for name in args.contenders or ():
        library, _, precision = name.partition(" ")
        if library not in LIBRARIES or precision not in PRECISIONS or (precision == "auto" and library != "sbert_ft"):
            parser.error(f"no contender is called '{name}'")
    if args.warm_up < 1 or min(n or 3 for n in args.steps) < 3:
        parser.error("--warm-up must be at least 1, --steps at least 3")
    return args


def installed(contender: str) -> str:
    """Return the contender, or the plain loop where the trainer's packages are missing."""
    if contender.startswith("st ") and not peer.trainer_is_installed():
        instead = contender.replace("st ", "loop ")
        print(f"{contender}: {', '.join(peer.TRAINER_PACKAGES)} missing, {instead} instead", file=sys.stderr)
        return instead
    return contender


def measure(args: argparse.Namespace, contenders: list[str], turn: Turn) -> dict[str, list[dict[str, Any]]]:
    """Return what each contender's processes answered, round by round."""
    told = ["--batch-sizes", str(turn.batch_size), "--epochs", str(args.epochs), "--warm-up", str(args.warm_up)]
    told += ["--data", str(args.data.resolve()), "--model", str(turn.folder.resolve())]
    told += [] if turn.n_steps is None else ["--steps", str(turn.n_steps)]
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for n in range(args.rounds):
        for name in contenders if n % 2 else contenders[::-1]:
            started = ["--worker", name, "--seed", str(FIRST_SEED + n)]
            answers[name].append(peer.in_own_process(__file__, [*told, *started], turn.environment))
            speed = answers[name][-1]["n_pairs_timed"] / answers[name][-1]["seconds"]
            print(f"  batch {turn.batch_size}, round {n + 1}  {name:16s} {speed:8.1f} pairs/s", file=sys.stderr)
    return answers


@dataclass(frozen=True)
class Task:
    """What one process trains.

    Attributes:
        folder: The base model's.
        train: The pairs.
        test: What the tuned model is judged by; None where it saw less than whole epochs.
        settings: Of our loop, and in its terms of the peer's.
        warm_up: Steps that are not timed.
    """

    folder: Path
    train: ConnectionDataset
    test: ConnectionDataset | None
    settings: TrainingSettings
    warm_up: int

    @property
    def n_steps(self) -> int:
        """Return the steps of all epochs."""
        return self.settings.epochs * ceil(len(self.train) / self.settings.batch_size)

    @property
    def n_pairs_timed(self) -> int:
        """Return the pairs of the steps after the first ones."""
        return self.settings.epochs * len(self.train) - self.warm_up * self.settings.batch_size


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Be a contender's process: train once, and return seconds, memory and test score."""
    import torch

    from sbert_ft import ConnectionDataset
    from sbert_ft.config.settings import Reading, TrainingSettings
    from sbert_ft.training.fine_tune import reading_on_scale_of

    library, precision = args.worker.split()
    batch_size = args.batch_sizes[0]
    train = ConnectionDataset.from_file(args.data / "train.csv")
    test = None
    if args.steps[0] is None:
        test = ConnectionDataset.from_file(args.data / "test.csv", reading_on_scale_of(train, Reading()))
    else:
        train = corpus.some_rows(train, args.steps[0] * batch_size)
    warm_up = max(1, min(args.warm_up, ceil(len(train) / batch_size) // 3))
    # the log needs a line at the step from which time is counted
    every = 10 if warm_up % 10 == 0 else warm_up
    settings = TrainingSettings(epochs=args.epochs, batch_size=batch_size, seed=args.seed, logging_steps=every)
    task = Task(Path(args.model), train, test, settings, warm_up)
    measured = train_ours(task, precision) if library == "sbert_ft" else train_peer(task, library, precision)
    # reckoned from the mean of all pairs
    lengths = models.text_lengths(task.folder, [text for pair in train.pairs() for text in pair], MAX_SEQ_LENGTH)
    forward = models.forward_operations(lengths, models.config_of(task.folder))
    told = ("epochs", "learning_rate", "schedule", "warmup_ratio", "weight_decay", "max_grad_norm", "logging_steps")
    return {
        **measured,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "n_rows": len(train),
        "gflop_timed": forward * models.TRAINING * task.n_pairs_timed / len(train) / 1e9,
        "n_pairs_timed": task.n_pairs_timed,
        "n_steps_before": warm_up,
        "settings": {name: getattr(settings, name) for name in told},
    }


def train_ours(task: Task, precision: str) -> dict[str, Any]:
    """Train by `fine_tune`, in a run's folder as users do; times are those of the run's log."""
    from sbert_ft import SiameseBert, fine_tune
    from sbert_ft.training.run_log import read_log
    from sbert_ft.training.tokenized_dataset import tokenize_connections

    loaded = harness.peak_mib()
    settings = replace(task.settings, precision=precision)
    model = SiameseBert.from_pretrained(task.folder, precision=precision, max_seq_length=MAX_SEQ_LENGTH)
    start = time.perf_counter()
    tokenize_connections(task.train, model.tokenizer, MAX_SEQ_LENGTH)
    tokenizing = (time.perf_counter() - start) * task.n_pairs_timed / len(task.train)
    with tempfile.TemporaryDirectory() as place:
        result = fine_tune(model, task.train, output_dir=Path(place) / "run", objective="cosine", training=settings)
        log = [record for record in read_log(result.folder / "metrics.jsonl") if record["kind"] == "train"]
        peak = harness.peak_mib()
    first = next(record["seconds"] for record in log if record["step"] == task.warm_up)
    measured = {
        "seconds": log[-1]["seconds"] - first + tokenizing,
        "seconds_tokenizing": tokenizing,
        "precision": result.metrics["precision"],
        "peak_mib": peak,
        "loaded_mib": loaded,
    }
    if task.test is not None:
        measured["test_spearman"] = spearman(model.score(task.test.pairs(), on_truncate="ignore"), task.test)
    return measured


def train_peer(task: Task, library: str, precision: str) -> dict[str, Any]:
    """Train by sentence-transformers' trainer, or by the plain loop over its model."""
    import sentence_transformers  # noqa: F401  # loaded before memory is looked at, as ours is

    from sbert_ft.config.objectives import ObjectiveSettings
    from sbert_ft.config.settings import ModelSettings

    loaded = harness.peak_mib()
    settings = ModelSettings(path=str(task.folder), max_seq_length=MAX_SEQ_LENGTH)
    run = peer.PeerRun(settings, ObjectiveSettings("cosine"), task.settings, precision == "bfloat16")
    clock = peer.Clock(task.warm_up, task.n_steps)
    model = (peer.train_by_trainer if library == "st" else peer.train_by_loop)(run, task.train, clock)
    measured = {"seconds": clock.seconds, "precision": precision, "peak_mib": harness.peak_mib(), "loaded_mib": loaded}
    if task.test is not None:
        measured["test_spearman"] = spearman(peer.cosines(model, list(task.test.pairs())), task.test)
    return measured


def spearman(scores: Any, pairs: ConnectionDataset) -> float:
    """Return Spearman's rank correlation of scores with the pairs' own."""
    from scipy.stats import spearmanr

    return float(spearmanr(scores, pairs.labels).statistic)


def report(batch_size: int, answers: dict[str, list[dict[str, Any]]], rates: dict[str, float]) -> dict[str, Any]:
    """Print a batch size's table, in Markdown, and return it."""
    timings = {
        name: harness.Timings(
            seconds=[one["seconds"] for one in rounds],
            peak_mib=max(one["peak_mib"] for one in rounds),
            loaded_mib=max(one["loaded_mib"] for one in rounds),
        )
        for name, rounds in answers.items()
    }
    others = [name for name in timings if not name.startswith("sbert_ft")]
    compared = {name: harness.ratios(timings, name, others) for name in timings if name not in others}
    contenders = {}
    for name, rounds in answers.items():
        first, middle = rounds[0], statistics.median(one["seconds"] for one in rounds)
        contenders[name] = timings[name].summary(first["n_pairs_timed"])
        contenders[name]["precision"] = first["precision"]
        contenders[name] |= rate.share(first["gflop_timed"] * 1e9, middle, first["precision"], rates)
        contenders[name]["seconds"] = [round(one["seconds"], 3) for one in rounds]
        if "seconds_tokenizing" in first:
            contenders[name]["seconds_tokenizing"] = [round(one["seconds_tokenizing"], 3) for one in rounds]
        if "test_spearman" in first:
            contenders[name]["test_spearman"] = [round(one["test_spearman"], 4) for one in rounds]
    headings = [f"{name} is faster by" for name in compared]
    print(
        f"\n**batch {batch_size}**\n\n| | pairs/s | of the rate | peak, MiB | test Spearman | {' | '.join(headings)} |"
    )
    print("| " + " | ".join(["---"] * (5 + len(headings))) + " |")
    for name, one in contenders.items():
        ratios = [table.get(name) for table in compared.values()]
        said = [f"{r['median']} ({r['least']}-{r['most']})" if r else "" for r in ratios]
        scores = one.get("test_spearman")
        quality = f"{statistics.mean(scores):.4f} ({min(scores):.4f}-{max(scores):.4f})" if scores else ""
        speed, limit = f"{one['per_second']} ({one['least']}-{one['most']})", f"{one.get('share', 0):.0%}"
        print(f"| {name} | {speed} | {limit} | {one['peak_mib']} | {quality} | {' | '.join(said)} |")
    first = next(iter(answers.values()))[0]
    counts = {name: first[name] for name in ("n_rows", "n_pairs_timed", "n_steps_before")}
    memory = {name: harness.memory_ratios(timings, name, others) for name in compared}
    return {**counts, "rate": rates, "contenders": contenders, "times_faster": compared, "memory_ratio": memory}


if __name__ == "__main__":
    main()
