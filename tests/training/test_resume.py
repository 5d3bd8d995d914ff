"""Runs that are killed, stopped, short of disk space or damaged, in separate processes with real signals.

A run is a fork of the warm process (`warm/`). A resumed run is compared with the uninterrupted one byte by byte: the
whole model folder, the log without its times, the metrics.
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COMMON_WORDS, default_vocabulary
from safetensors.torch import load_file, save_file
from warm import Ended, WarmProcess

from sbert_ft import ConnectionDataset, fine_tune
from sbert_ft.cli import main
from sbert_ft.config.settings import EvaluationSettings, TrainingSettings
from sbert_ft.errors import RunInterrupted
from sbert_ft.files.atomic import PREFIX
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.training.batch_sampler import epoch_batches
from sbert_ft.training.checkpoints import newest_checkpoint, read_checkpoint
from sbert_ft.training.run import FineTuneResult

if not hasattr(os, "fork") or not sys.platform.startswith("linux"):
    pytest.skip("the processes under test are forks", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
N_KILLS = 8  # the sweep of make soak has a hundred
WORDS = COMMON_WORDS.split()

# Where in a run something strikes, as (module, function): at its nth call.
STEP = ("sbert_ft.training.loop", "backward")
EVALUATION = ("sbert_ft.evaluation.pair_evaluator", "joined_unless")
IN_CHECKPOINT = ("sbert_ft.training.checkpoints", "write_safetensors")
BEFORE_CHECKPOINT = ("sbert_ft.training.checkpoints", "save_checkpoint")
AFTER_CHECKPOINT = ("sbert_ft.training.checkpoints", "remove_all_but")
MINING = ("sbert_ft.training.negatives", "unit_vectors")
MINED = ("sbert_ft.training.negatives", "write_rows")
JUDGING = ("sbert_ft.evaluation.pair_evaluator", "joined")
REPORT = ("sbert_ft.training.run", "write_report")
METRICS = ("sbert_ft.training.run", "write_json")


def strike(
    place: tuple[str, str], nth: int, *signals: int, file_bytes: int | None = None, shell: str | None = None
) -> dict[str, Any]:
    """Return what to do right before a function's nth call: limit file sizes, run a shell command, send signals."""
    what = {"nth": nth, "signals": signals, "file_bytes": file_bytes, "shell": shell}
    return {"module": place[0], "name": place[1], **what}


@contextlib.contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Return a folder, in memory if the system has one, so that hundreds of synced files do not wait for a disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as path:
        yield Path(path)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with folder_in_memory() as path:
        yield path


# ---------------------------------------------------------------- runs


def texts(generator: random.Random, n: int) -> list[str]:
    return [" ".join(generator.choices(WORDS, k=generator.randint(2, 9))) for _ in range(n)]


def write_rows(path: Path, header: tuple[str, ...], rows: list[tuple[object, ...]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_scored(path: Path, n: int, seed: int) -> Path:
    generator = random.Random(seed)
    scores = [5 * i / (n - 1) for i in range(n)]
    generator.shuffle(scores)
    pairs = zip(texts(generator, n), texts(generator, n), scores, strict=True)
    return write_rows(path, ("sentence1", "sentence2", "score"), list(pairs))


def write_matches(path: Path, n: int, seed: int) -> Path:
    """Write pairs known to match; some share a text, so that batches must keep them apart."""
    generator = random.Random(seed)
    firsts, seconds = texts(generator, n), texts(generator, n)
    firsts[n // 2] = firsts[n // 2 + 1] = firsts[0]
    return write_rows(path, ("text_a", "text_b"), list(zip(firsts, seconds, strict=True)))


SCENARIOS: dict[str, dict[str, Any]] = {
    # dropout as a BERT has it (0.1), two batches a step, evaluations and checkpoints out of step with epochs
    "cosine": {
        "training": {"epochs": 10, "batch_size": 4, "accumulation_steps": 2, "eval_steps": 7, "save_steps": 3},
    },
    # gradient caching in parts of three rows
    "in_batch_negatives": {
        "data": {"train": "matches.csv"},
        "objective": {"name": "in_batch_negatives", "symmetric": True},
        "training": {"epochs": 10, "batch_size": 6, "micro_batch_size": 3, "eval_steps": 7, "save_steps": 3},
    },
    # a loss so large that the scaler has to find its scale first, skipping steps
    "float16": {
        "objective": {"name": "cosine", "weight": 300},
        "training": {"epochs": 3, "batch_size": 8, "precision": "float16", "save_steps": 2, "logging_steps": 1},
    },
    "frozen": {
        "model": {"freeze_embeddings": True, "freeze_layers": 1, "dropout": 0.2, "pooling": "cls"},
        "objective": ["cosine", {"name": "cosent", "weight": 0.1}],
        "training": {"epochs": 3, "batch_size": 8, "gradient_checkpointing": True, "save_steps": 2, "eval_steps": 3},
    },
    "short": {
        "training": {"epochs": 3, "batch_size": 8, "eval_steps": 4, "save_steps": 3, "logging_steps": 5},
    },
    "without dev": {
        "data": {"dev": None},
        "training": {"epochs": 3, "batch_size": 8, "save_steps": 3, "logging_steps": 4},
    },
    # mined before each epoch, by a calibration of dev, and out of step with checkpoints
    "mined negatives": {
        "data": {
            **{"train": "matches.csv", "dev": "near.csv"},
            "negatives": {"per_pair": 2, "ranks": [2, 12], "every_epochs": 1},
        },
        "objective": {"name": "in_batch_negatives"},
        "training": {"epochs": 3, "batch_size": 6, "micro_batch_size": 4, "eval_steps": 7, "save_steps": 4},
    },
    # two vectors of each text, by gradient caching in parts of three texts
    "simcse": {
        "data": {"train": "texts.txt"},
        "objective": "simcse",
        "training": {"epochs": 3, "batch_size": 8, "micro_batch_size": 3, "eval_steps": 7, "save_steps": 3},
    },
    # other words are deleted in each epoch, and the decoder's own weights are in the checkpoints
    "tsdae": {
        "data": {"train": "texts.txt"},
        "objective": "tsdae",
        "training": {"epochs": 3, "batch_size": 8, "accumulation_steps": 2, "eval_steps": 3, "save_steps": 2},
    },
    # a wider teacher, whose directions are in the checkpoints
    "mse": {
        "data": {"train": "texts.txt"},
        "objective": {"name": "mse", "matryoshka_dims": [16, 4]},
        "teacher": {"path": "teacher"},
        "training": {"epochs": 3, "batch_size": 8, "micro_batch_size": 3, "eval_steps": 7, "save_steps": 3},
    },
    "guided_in_batch_negatives": {
        "data": {"train": "matches.csv"},
        "objective": [{"name": "guided_in_batch_negatives", "margin": 0.1}, {"name": "mse", "weight": 0.5}],
        "teacher": {"path": "teacher"},
        "training": {"epochs": 3, "batch_size": 6, "micro_batch_size": 3, "eval_steps": 7, "save_steps": 3},
    },
    # averages of the weights are evaluated, chosen by and saved; the trained ones go on
    "ema": {
        "training": {"epochs": 3, "batch_size": 8, "average": "ema", "eval_steps": 5, "save_steps": 3},
    },
    # the checkpoints of the best steps outlive others, until their mean is made
    "best_k": {
        "training": {"epochs": 3, "batch_size": 8, "average": "best_k", "eval_steps": 3, "save_steps": 5},
    },
    "patient": {
        "training": {"epochs": 20, "batch_size": 16, "eval_steps": 1, "save_steps": 4, "early_stopping_patience": 2},
    },
}


@dataclass
class Bench:
    """Data, a model, and configurations of runs with them."""

    warm: WarmProcess
    place: Path
    scenarios: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: SCENARIOS)
    n_runs: int = 0
    unbroken_runs: dict[str, Path] = field(default_factory=dict)

    def config(self, scenario: str, output_dir: Path | None = None, **training: Any) -> Path:
        """Write a configuration of a scenario, and return its path; its run's folder is new unless given."""
        self.n_runs += 1
        said = self.scenarios[scenario]
        content = {
            "model": {"path": "model", **said.get("model", {})},
            "data": {"train": "train.csv", "dev": "dev.csv", **said.get("data", {})},
            **({"objective": said["objective"]} if "objective" in said else {}),
            **({"teacher": {**said["teacher"]}} if "teacher" in said else {}),
            "training": {
                **{"learning_rate": 1e-3, "seed": 7, "device": "cpu", "precision": "float32", "logging_steps": 1},
                **said["training"],
                **training,
            },
            "evaluation": {"bootstrap_samples": 20},
            "output_dir": str(output_dir or self.place / f"run-{self.n_runs}"),
        }
        for section in ("model", "data", "teacher"):
            for key in ("path", "train", "dev") if section in content else ():
                if content[section].get(key) is not None:
                    content[section][key] = str(self.place / content[section][key])
        content["data"] = {key: value for key, value in content["data"].items() if value is not None}
        path = self.place / f"config-{self.n_runs}.json"
        path.write_text(json.dumps(content))
        return path

    def unbroken(self, scenario: str) -> Path:
        """Return the folder of a scenario's uninterrupted run."""
        if scenario not in self.unbroken_runs:
            config = self.config(scenario)
            assert self.train(config).code == 0
            self.unbroken_runs[scenario] = folder_of(config)
        return self.unbroken_runs[scenario]

    def start(self, config: Path, *arguments: object) -> int:
        """Start `sbert-ft train`, and return the process's number."""
        argv = ["train", *map(str, (config, *arguments))]
        return self.warm.start("warm.calls:command", argv=argv)

    def train(self, config: Path, *arguments: object, **options: Any) -> Ended:
        """Run `sbert-ft train` to its end."""
        return self.warm.command("train", config, *arguments, **options)

    def resume(self, config: Path, *arguments: object, **options: Any) -> Ended:
        return self.train(config, "--resume", *arguments, **options)

    def copy_of(self, config: Path) -> Path:
        """Return a configuration whose folder is a copy of that of `config`."""
        self.n_runs += 1
        content = json.loads(config.read_text())
        target = self.place / f"run-{self.n_runs}"
        shutil.copytree(content["output_dir"], target)
        path = self.place / f"config-{self.n_runs}.json"
        path.write_text(json.dumps({**content, "output_dir": str(target)}))
        return path

    def stopped(self, scenario: str, step: int) -> Path:
        """Return the configuration of a run that SIGTERM has ended after a step."""
        config = self.config(scenario)
        n_batches = self.scenarios[scenario]["training"].get("accumulation_steps", 1)
        ended = self.train(config, strike=strike(STEP, n_batches * step, signal.SIGTERM))
        assert ended.code == 143, ended.said
        assert newest_step(folder_of(config)) == step
        return config


@pytest.fixture(scope="module")
def bench(warm: WarmProcess, place: Path, tiny_bert_folder: Callable[..., Path]) -> Bench:
    tiny_bert_folder(place / "model", hidden_size=16, intermediate=32, safetensors=True)
    tiny_bert_folder(place / "teacher", hidden_size=32, seed=5)
    write_scored(place / "train.csv", 64, seed=1)
    write_scored(place / "dev.csv", 20, seed=2)
    write_matches(place / "matches.csv", 50, seed=3)
    near = texts(random.Random(5), 40)
    labelled = [(text, f"{text} it", 1) for text in near] + [(a, b, 0) for a, b in pairwise(near)]
    write_rows(place / "near.csv", ("sentence1", "sentence2", "label"), list(labelled))
    (place / "texts.txt").write_text("\n".join(texts(random.Random(4), 60)) + "\n")
    return Bench(warm, place)


def folder_of(config: Path) -> Path:
    return Path(json.loads(config.read_text())["output_dir"])


def newest_step(folder: Path) -> int:
    found = newest_checkpoint(folder / "checkpoints")
    return 0 if found is None else found.step


def steps_kept(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in (folder / "checkpoints").iterdir())


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Return the log's lines without their times."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [{key: value for key, value in line.items() if key not in ("seconds", "rows_per_second")} for line in lines]


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return all below `folder`: the bytes of files, None for folders."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def assert_same_run(folder: Path, unbroken: Path) -> None:
    """Check that a run equals the uninterrupted one: bit-equal weights, one loss curve, the same scores."""
    assert tree(folder / "model") == tree(unbroken / "model")
    tables, expected_tables = ({p.name: p.read_bytes() for p in path.glob("*.csv")} for path in (folder, unbroken))
    assert tables == expected_tables
    log = log_of(folder)
    assert log == log_of(unbroken)
    keys = [(line["kind"], line["step"]) for line in log]
    assert len(keys) == len(set(keys)) and [step for _, step in keys] == sorted(step for _, step in keys)
    found, expected = (json.loads((path / "metrics.json").read_text()) for path in (folder, unbroken))
    for key in found.keys() | expected.keys():
        # some warnings of a resumed run are about the resuming
        assert key in ("seconds", "warnings") or found[key] == expected[key], key
    assert not [name for name in tree(folder) if PREFIX in name]


# ---------------------------------------------------------------- killed


@dataclass
class Log:
    """Reads how far a run's log is, without the lines that an earlier run left there."""

    folder: Path
    stale: int | None = None

    def look(self, newest: int) -> None:
        """Remember the log file if it has lines after the newest checkpoint, which a resumed run will remove."""
        lines = log_of(self.folder) if (self.folder / "metrics.jsonl").exists() else []
        self.stale = os.stat(self.folder / "metrics.jsonl").st_ino if lines and lines[-1]["step"] > newest else None

    def reached(self) -> int:
        path = self.folder / "metrics.jsonl"
        if not path.exists() or path.stat().st_ino == self.stale:
            return 0
        lines = log_of(self.folder)
        return lines[-1]["step"] if lines else 0


def kill_until_finished(bench: Bench, config: Path, n_kills: int, per_attempt: int, seed: int) -> list[int]:
    """Kill and resume a run again and again at random moments; return the step that each attempt began after."""
    generator, begun = random.Random(seed), []
    log = Log(folder_of(config))
    while len(begun) < n_kills:
        begun.append(newest_step(log.folder) if (log.folder / "config.json").exists() else 0)
        mode = ["--resume"] if (log.folder / "config.json").exists() else []
        log.look(begun[-1])
        pid = bench.start(config, "--quiet", *mode)
        n_steps = generator.randint(0, per_attempt)
        while n_steps and log.reached() < begun[-1] + n_steps and not bench.warm.has_ended(0.001):
            pass
        # without a step: before the first one
        bench.warm.has_ended(generator.uniform(0, 0.02 if n_steps else 0.4))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        ended = bench.warm.end()
        assert ended.code in (-signal.SIGKILL, 0), ended.said
        if ended.code == 0:
            break
    return begun


@pytest.mark.parametrize(("scenario", "n_kills"), [("cosine", N_KILLS), ("in_batch_negatives", N_KILLS)])
def test_killed_at_random_moments_it_ends_as_the_unbroken_run(bench: Bench, scenario: str, n_kills: int) -> None:
    unbroken = bench.unbroken(scenario)
    n_steps = json.loads((unbroken / "metrics.json").read_text())["steps"]
    config = bench.config(scenario)
    begun = kill_until_finished(bench, config, n_kills, per_attempt=n_steps // n_kills + 4, seed=11)
    assert begun == sorted(begun) and len(set(begun)) > 5
    if not (folder_of(config) / "metrics.json").exists():
        ended = bench.resume(config)
        assert ended.code == 0, ended.said
        assert len(begun) == n_kills
    assert_same_run(folder_of(config), unbroken)


@pytest.mark.parametrize(
    "scenario",
    [
        "float16",
        "frozen",
        "patient",
        "simcse",
        "tsdae",
        "mse",
        "guided_in_batch_negatives",
        "mined negatives",
        "ema",
        "best_k",
    ],
)
def test_killed_now_and_then_it_ends_as_the_unbroken_run(bench: Bench, scenario: str) -> None:
    config = bench.config(scenario)
    kill_until_finished(bench, config, n_kills=6, per_attempt=6, seed=12)
    assert bench.resume(config).code == 0
    assert_same_run(folder_of(config), bench.unbroken(scenario))


@pytest.mark.parametrize(
    ("where", "nth"), [(JUDGING, 1), (BEFORE_CHECKPOINT, 1), (AFTER_CHECKPOINT, 3), (REPORT, 1), (METRICS, 1)]
)
def test_killed_at_a_step_of_its_way_it_ends_as_the_unbroken_run(
    bench: Bench, where: tuple[str, str], nth: int
) -> None:
    config = bench.config("short")
    assert bench.train(config, strike=strike(where, nth, signal.SIGKILL)).code == -signal.SIGKILL
    assert not (folder_of(config) / "metrics.json").exists()
    ended = bench.resume(config)
    assert ended.code == 0, ended.said
    assert_same_run(folder_of(config), bench.unbroken("short"))


@pytest.mark.parametrize(
    ("where", "nth", "number", "code", "step"),
    [
        (MINING, 1, signal.SIGTERM, 143, 0),
        (MINING, 3, signal.SIGTERM, 143, 9),  # before the second epoch
        (MINED, 1, signal.SIGKILL, -9, 0),
        (MINED, 4, signal.SIGKILL, -9, 8),
    ],
)
def test_ended_while_it_mines_negatives_it_ends_as_the_unbroken_run(
    bench: Bench, where: tuple[str, str], nth: int, number: int, code: int, step: int
) -> None:
    config = bench.config("mined negatives")
    ended = bench.train(config, strike=strike(where, nth, number))
    assert (ended.code, newest_step(folder_of(config))) == (code, step), ended.said
    assert not list(folder_of(config).glob("negatives-2.csv")) or where == MINED
    assert bench.resume(config).code == 0
    assert_same_run(folder_of(config), bench.unbroken("mined negatives"))
    mined = [line for line in log_of(folder_of(config)) if line["kind"] == "negatives"]
    assert [line["epoch"] for line in mined] == [1, 2, 3] and all(line["n_drawn"] < line["n"] / 2 for line in mined)


def test_what_a_run_had_not_removed_when_it_was_killed_after_its_last_checkpoint_goes(bench: Bench) -> None:
    config = bench.config("without dev")
    n_checkpoints = 24 // 3
    killed = bench.train(config, strike=strike(AFTER_CHECKPOINT, n_checkpoints, signal.SIGKILL))
    assert killed.code == -signal.SIGKILL
    assert steps_kept(folder_of(config)) == [18, 21, 24]
    ended = bench.resume(config)
    assert ended.code == 0, ended.said
    assert steps_kept(folder_of(config)) == [21, 24]
    assert_same_run(folder_of(config), bench.unbroken("without dev"))


# ---------------------------------------------------------------- ended by a signal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("where", "nth", "step"),
    [(STEP, 5, 5), (EVALUATION, 2, 8), (IN_CHECKPOINT, 2, 4), (STEP, 24, 24), (EVALUATION, 6, 24)],
    ids=["in a step", "in an evaluation", "in a checkpoint", "in the last step", "in the last evaluation"],
)
def test_a_signal_finishes_the_step_and_leaves_a_checkpoint(
    bench: Bench, where: tuple[str, str], nth: int, step: int, number: int
) -> None:
    config = bench.config("short")
    ended = bench.train(config, strike=strike(where, nth, number))
    assert ended.code == 128 + number, ended.said
    assert f"after step {step}; continue with --resume" in ended.said and "Traceback" not in ended.said
    assert newest_step(folder_of(config)) == step
    assert not (folder_of(config) / "model").exists()
    ended = bench.resume(config)
    assert ended.code == 0, ended.said
    assert f"going on after step {step} of 24" in ended.said
    assert_same_run(folder_of(config), bench.unbroken("short"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("where", "nth"), [(JUDGING, 1), (JUDGING, 2), (REPORT, 1)])
def test_a_signal_before_or_after_the_training_ends_at_once(
    bench: Bench, where: tuple[str, str], nth: int, number: int
) -> None:
    config = bench.config("short")
    ended = bench.train(config, strike=strike(where, nth, number))
    assert ended.code == 128 + number, ended.said
    assert "at once" in ended.said and "Traceback" not in ended.said
    assert bench.resume(config).code == 0
    assert_same_run(folder_of(config), bench.unbroken("short"))


@pytest.mark.parametrize(
    ("where", "nth", "numbers", "step"),
    [
        (STEP, 8, (signal.SIGTERM, signal.SIGTERM), 6),
        (EVALUATION, 2, (signal.SIGINT, signal.SIGINT), 6),
        (IN_CHECKPOINT, 3, (signal.SIGTERM, signal.SIGINT), 4),
    ],
)
def test_a_second_signal_ends_at_once(
    bench: Bench, where: tuple[str, str], nth: int, numbers: tuple[int, int], step: int
) -> None:
    config = bench.config("short")
    ended = bench.train(config, strike=strike(where, nth, *numbers))
    assert ended.code == 128 + numbers[-1], ended.said
    assert "at once" in ended.said
    assert newest_step(folder_of(config)) == step
    assert not [name for name in tree(folder_of(config)) if PREFIX in name]
    assert bench.resume(config).code == 0
    assert_same_run(folder_of(config), bench.unbroken("short"))


def test_an_evaluation_that_was_missed_is_made_once(bench: Bench) -> None:
    config = bench.config("short")
    assert bench.train(config, strike=strike(EVALUATION, 1, signal.SIGTERM)).code == 143
    ended = bench.resume(config, strike=strike(EVALUATION, 1, signal.SIGTERM))  # the evaluation that it catches up on
    assert ended.code == 143, ended.said
    assert newest_step(folder_of(config)) == 4
    # its line is in the log now, but no checkpoint knows of it
    assert bench.resume(config, strike=strike(BEFORE_CHECKPOINT, 1, signal.SIGKILL)).code == -signal.SIGKILL
    assert bench.resume(config).code == 0
    assert_same_run(folder_of(config), bench.unbroken("short"))


def test_a_real_signal_from_outside_ends_it_with_a_checkpoint(bench: Bench) -> None:
    config = bench.config("cosine")
    log = Log(folder_of(config))
    pid = bench.start(config)
    while log.reached() < 9:
        assert not bench.warm.has_ended(0.001)
    os.kill(pid, signal.SIGTERM)
    ended = bench.warm.end()
    assert ended.code == 143, ended.said
    step = newest_step(log.folder)
    assert step >= 9 and f"after step {step}; continue with --resume" in ended.said
    assert bench.resume(config).code == 0
    assert_same_run(log.folder, bench.unbroken("cosine"))


@pytest.mark.parametrize("scenario", ["short", "in_batch_negatives"])
def test_rows_come_in_the_order_of_the_unbroken_run_in_later_epochs_too(bench: Bench, scenario: str) -> None:
    rows = {name: bench.place / f"rows-{name}-{scenario}" for name in ("unbroken", "resumed")}
    config = bench.config(scenario)
    assert bench.train(config, rows=rows["unbroken"]).code == 0
    config = bench.config(scenario)
    assert bench.train(config, strike=strike(STEP, 11, signal.SIGTERM), rows=rows["resumed"]).code == 143
    assert bench.resume(config, strike=strike(STEP, 9, signal.SIGTERM), rows=rows["resumed"]).code == 143
    assert bench.resume(config, rows=rows["resumed"]).code == 0
    noted = [json.loads(line) for line in rows["unbroken"].read_text().splitlines()]
    assert [json.loads(line) for line in rows["resumed"].read_text().splitlines()] == noted
    by_epoch = [noted[i : i + len(noted) // 10] for i in range(0, len(noted), len(noted) // 10)]
    assert by_epoch[1] != by_epoch[2]


# ---------------------------------------------------------------- damaged


@pytest.fixture(scope="module")
def stopped_short(bench: Bench) -> Path:
    """Return the configuration of a run with two checkpoints, the newest of step 10."""
    config = bench.stopped("short", 10)
    assert len(steps_kept(folder_of(config))) >= 2
    return config


def flip(path: Path, place: float = 0.5) -> None:
    """Flip a bit of a file, so far from its beginning to its end."""
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999], ids=["its header", "its middle", "its end"])
def test_a_damaged_newest_checkpoint_is_named_and_passed_over(bench: Bench, stopped_short: Path, share: float) -> None:
    config = bench.copy_of(stopped_short)
    flip(folder_of(config) / "checkpoints" / "step-00000010.safetensors", share)
    earlier = steps_kept(folder_of(config))[-2]
    ended = bench.resume(config)
    assert ended.code == 0, ended.said
    assert "step-00000010.safetensors' is incomplete or damaged" in ended.said and "it is skipped" in ended.said
    assert f"going on after step {earlier} of 24" in ended.said
    assert_same_run(folder_of(config), bench.unbroken("short"))


def test_where_all_checkpoints_are_damaged_that_is_said_and_nothing_is_changed(
    bench: Bench, stopped_short: Path
) -> None:
    config = bench.copy_of(stopped_short)
    for path in (folder_of(config) / "checkpoints").glob("*.safetensors"):
        flip(path)
    before = tree(folder_of(config) / "checkpoints")
    ended = bench.resume(config)
    assert ended.code == 2
    assert (
        "holds no complete checkpoint" in ended.said and "--overwrite" in ended.said and "Traceback" not in ended.said
    )
    assert tree(folder_of(config) / "checkpoints") == before


def test_without_dev_too_there_is_an_earlier_checkpoint_to_fall_back_on(bench: Bench) -> None:
    config = bench.stopped("without dev", 10)
    assert steps_kept(folder_of(config)) == [9, 10]
    flip(folder_of(config) / "checkpoints" / "step-00000010.safetensors")
    ended = bench.resume(config)
    assert "going on after step 9 of 24" in ended.said
    assert_same_run(folder_of(config), bench.unbroken("without dev"))


def test_no_more_checkpoints_are_kept_than_the_last_two_and_the_best(bench: Bench) -> None:
    folder = bench.unbroken("short")
    best = json.loads((folder / "metrics.json").read_text())["best"]["step"]
    steps = steps_kept(folder)
    assert steps[-1] == 24 and best in steps and len(set(steps) - {best}) <= 2
    for step in steps:
        assert read_checkpoint(folder / "checkpoints" / f"step-{step:08d}.safetensors").step == step


# ---------------------------------------------------------------- changed


def changed(config: Path, **sections: Mapping[str, Any]) -> Path:
    """Rewrite a configuration with some keys changed, and return it."""
    content = json.loads(config.read_text())
    for section, values in sections.items():
        content[section] = {**content[section], **values}
    config.write_text(json.dumps(content))
    return config


def test_what_changed_is_refused_by_name_all_at_once_and_nothing_is_written(bench: Bench, stopped_short: Path) -> None:
    config = bench.copy_of(stopped_short)
    before = tree(folder_of(config))
    other_model = shutil.copytree(bench.place / "model", bench.place / "other-model")
    weights = load_file(other_model / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][5, 3] += 1e-3
    save_file(weights, other_model / "model.safetensors", metadata={"format": "pt"})
    lines = (bench.place / "train.csv").read_text().splitlines(keepends=True)
    (bench.place / "other-train.csv").write_text("".join([*lines[:-1], lines[-1].replace(",", " too,", 1)]))
    changed(
        config,
        model={"path": str(other_model)},
        data={"train": str(bench.place / "other-train.csv")},
        training={"learning_rate": 2e-3, "seed": 8, "logging_steps": 2},
    )
    ended = bench.resume(config)
    assert ended.code == 2 and "Traceback" not in ended.said
    for name in ("training.learning_rate", "training.seed", "data.train.sha256", "model.weights"):
        assert f"{name} was " in ended.said, ended.said
    assert "logging_steps was" not in ended.said and "--allow-changes" in ended.said
    assert tree(folder_of(config)) == before


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.learning_rate=0.002", "training.learning_rate was 0.001, is 0.002"),
        ("training.seed=8", "training.seed was 7, is 8"),
        ("objective=cosent", "objective.0.name was 'cosine', is 'cosent'"),
        ("model.dropout=0.3", "model.dropout was null, is 0.3"),
        ("training.epochs=4", "training.epochs was 3, is 4"),
    ],
)
def test_a_changed_setting_is_refused_by_name(bench: Bench, stopped_short: Path, override: str, named: str) -> None:
    ended = bench.resume(bench.copy_of(stopped_short), "--set", override)
    assert ended.code == 2
    assert named in ended.said


def test_allowed_changes_are_warned_of_and_are_what_the_next_sitting_is_checked_against(
    bench: Bench, stopped_short: Path
) -> None:
    config = bench.copy_of(stopped_short)
    other = ["--set", "training.learning_rate=0.002"]
    ended = bench.resume(config, *other, "--allow-changes", strike=strike(STEP, 3, signal.SIGTERM))
    assert ended.code == 143, ended.said
    assert "warning: since the run began: training.learning_rate was 0.001, is 0.002" in ended.said
    ended = bench.resume(config)
    assert ended.code == 2 and "training.learning_rate was 0.002, is 0.001" in ended.said
    ended = bench.resume(config, *other)
    assert ended.code == 0, ended.said
    assert json.loads((folder_of(config) / "config.json").read_text())["training"]["learning_rate"] == 0.002
    rates = {line["step"]: line["learning_rate"] for line in log_of(folder_of(config)) if line["kind"] == "train"}
    unchanged = {line["step"]: line["learning_rate"] for line in log_of(bench.unbroken("short")) if "loss" in line}
    assert rates[10] == unchanged[10] and rates[20] == pytest.approx(2 * unchanged[20])


@pytest.mark.parametrize(
    "overrides",
    [("training.batch_size=32",), ("training.max_steps=4",), ("training.epochs=1",), ("training.epochs=2",)],
)
def test_a_shorter_run_that_is_allowed_comes_to_its_end(
    bench: Bench, stopped_short: Path, overrides: tuple[str, ...]
) -> None:
    config = bench.copy_of(stopped_short)
    said = [argument for override in overrides for argument in ("--set", override)]
    ended = bench.resume(config, "--allow-changes", *said)
    assert ended.code == 0, ended.said
    folder = folder_of(config)
    assert (folder / "model" / "model.safetensors").exists()
    assert json.loads((folder / "metrics.json").read_text())["steps"] >= 10


def test_dev_pairs_may_go_where_changes_are_allowed(bench: Bench) -> None:
    config = bench.config("short")
    assert bench.train(config, strike=strike(EVALUATION, 2, signal.SIGTERM)).code == 143
    content = json.loads(config.read_text())
    del content["data"]["dev"], content["training"]["eval_steps"]
    config.write_text(json.dumps(content))
    ended = bench.resume(config, "--allow-changes")
    assert ended.code == 0, ended.said


def test_other_versions_and_settings_that_change_no_result_go_on(bench: Bench, stopped_short: Path) -> None:
    config = bench.copy_of(stopped_short)
    path = folder_of(config) / "fingerprint.json"
    content = json.loads(path.read_text())
    content["versions"]["torch"] = "2.10.0"
    path.write_text(json.dumps(content))
    ended = bench.resume(config, "--set", "training.save_steps=2")
    assert ended.code == 0, ended.said
    assert "warning: since the run began: versions.torch was '2.10.0', is" in ended.said
    assert "save_steps was" not in ended.said
    assert_same_run(folder_of(config), bench.unbroken("short"))


def test_a_smaller_micro_batch_is_heeded_when_a_run_goes_on(bench: Bench, stopped_short: Path) -> None:
    config = bench.copy_of(stopped_short)
    ended = bench.resume(
        config, "--set", "training.micro_batch_size=2", strike=strike(BEFORE_CHECKPOINT, 2, signal.SIGTERM)
    )
    assert ended.code == 143 and "training.micro_batch_size was null, is 2" in ended.said
    checkpoint = newest_checkpoint(folder_of(config) / "checkpoints")
    assert checkpoint is not None and checkpoint.state["progress"]["micro_rows"] == 2


# ---------------------------------------------------------------- finished, in use, not empty


def stamped(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_finished_run_says_so_and_changes_nothing(bench: Bench) -> None:
    config = bench.config("short")
    assert bench.train(config).code == 0
    before = stamped(folder_of(config))
    for _ in range(2):
        ended = bench.resume(config)
        assert ended.code == 0, ended.said
        assert "finished" in ended.said and "nothing was changed" in ended.said
        assert stamped(folder_of(config)) == before


def test_a_finished_run_is_not_that_of_other_settings(bench: Bench) -> None:
    config = bench.config("short")
    assert bench.train(config).code == 0
    before = stamped(folder_of(config))
    ended = bench.resume(config, "--set", "training.learning_rate=0.0123")
    assert ended.code == 2 and "training.learning_rate" in ended.said and "0.0123" in ended.said, ended.said
    assert stamped(folder_of(config)) == before


def test_a_second_run_in_a_folder_is_refused_by_the_number_of_the_first(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    config = bench.config("cosine")
    log = Log(folder_of(config))
    pid = bench.start(config)
    try:
        while log.reached() < 4:
            assert not bench.warm.has_ended(0.001)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.05)
        before = tree(log.folder)
        for mode in ("--resume", "--overwrite"):
            assert main(["train", str(config), mode]) == 2
            assert f"is in use by process {pid} on" in capsys.readouterr().err
        assert main(["train", str(config)]) == 2
        assert "another run" in capsys.readouterr().err
        assert tree(log.folder) == before
    finally:
        os.kill(pid, signal.SIGKILL)
    assert bench.warm.end().code == -signal.SIGKILL
    ended = bench.resume(config)  # the lock went with its holder
    assert ended.code == 0, ended.said
    assert_same_run(log.folder, bench.unbroken("cosine"))


def test_foreign_files_are_refused_and_outlive_an_overwriting_run(bench: Bench) -> None:
    config = bench.config("short")
    folder = folder_of(config)
    (folder / "checkpoints").mkdir(parents=True)
    foreign = {"thesis.txt": b"a year's work", "checkpoints/notes.txt": b"mine"}
    for name, content in foreign.items():
        (folder / name).write_bytes(content)
    ended = bench.train(config)
    assert ended.code == 2 and "'thesis.txt'" in ended.said and "--overwrite" in ended.said
    assert {name: content for name, content in tree(folder).items() if content is not None} == foreign
    for _ in range(2):
        ended = bench.train(config, "--overwrite")
        assert ended.code == 0, ended.said
        assert {name: tree(folder)[name] for name in foreign} == foreign
        assert_same_run(folder, bench.unbroken("short"))


def test_overwriting_forgets_the_steps_of_the_run_before(bench: Bench) -> None:
    config = bench.stopped("short", 20)
    assert bench.train(config, "--overwrite", strike=strike(STEP, 7, signal.SIGKILL)).code == -signal.SIGKILL
    assert max(steps_kept(folder_of(config))) == 6
    ended = bench.resume(config)
    assert "going on after step 6 of 24" in ended.said
    assert_same_run(folder_of(config), bench.unbroken("short"))


def test_a_run_does_not_overwrite_the_model_that_it_begins_with(bench: Bench) -> None:
    model = shutil.copytree(bench.place / "model", bench.place / "precious")
    before = tree(model)
    config = changed(bench.config("short", output_dir=model), model={"path": str(model)})
    for mode in ([], ["--overwrite"], ["--resume"]):
        ended = bench.train(config, *mode)
        assert ended.code == 2 and "Traceback" not in ended.said
        assert tree(model) == before


def test_resuming_where_there_is_no_run_is_refused(bench: Bench) -> None:
    ended = bench.resume(bench.config("short"))
    assert ended.code == 2 and "holds no run to resume" in ended.said


# ---------------------------------------------------------------- NaN loss, full disk


@pytest.fixture(scope="module")
def poisoned(bench: Bench, tiny_bert_folder: Callable[..., Path]) -> tuple[Path, int, int]:
    """Return a configuration with a row whose loss is no number, the step that meets it first, and the row's line."""
    place, model = bench.place, tiny_bert_folder(bench.place / "poisoned", hidden_size=16, safetensors=True)
    weights = load_file(model / "model.safetensors")
    word = default_vocabulary().index("guitar")
    weights["embeddings.word_embeddings.weight"][word] = 3e38  # finite, and its square is not
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with (place / "train.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    rows = [[text.replace("guitar", "piano") for text in row] for row in rows]
    batches = epoch_batches(len(rows), 8, 7, 0)
    row = int(batches[4][3])
    rows[row][1] += " guitar"
    with (place / "dev.csv").open(newline="") as file:
        dev = [[text.replace("guitar", "piano") for text in row] for row in csv.reader(file)]
    write_rows(place / "poisoned.csv", tuple(header), [tuple(row) for row in rows])
    write_rows(place / "sound-dev.csv", tuple(dev[0]), [tuple(row) for row in dev[1:]])
    config = changed(
        bench.config("short"),
        model={"path": str(model)},
        data={"train": str(place / "poisoned.csv"), "dev": str(place / "sound-dev.csv")},
    )
    return config, 5, row + 2


def test_a_loss_that_is_no_number_stops_with_the_step_and_the_lines(
    bench: Bench, poisoned: tuple[Path, int, int]
) -> None:
    config, step, line = poisoned
    folder = folder_of(config)
    ended = bench.train(config)
    assert ended.code == 2 and "Traceback" not in ended.said
    assert f"the loss is nan in step {step} (lines " in ended.said
    lines = ended.said.partition("(lines ")[2].partition(" of the training data)")[0]
    assert str(line) in lines.split(", ")
    assert newest_step(folder) == 4
    for saved in steps_kept(folder):
        tensors = read_checkpoint(folder / "checkpoints" / f"step-{saved:08d}.safetensors").read_tensors("weights")
        assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert not (folder / "model").exists() and not (folder / "metrics.json").exists()
    again = bench.resume(config)
    assert again.code == 2 and f"in step {step} (" in again.said
    assert newest_step(folder) == 4


def test_a_gradient_that_is_no_number_stops_with_the_lines_of_the_whole_step(bench: Bench) -> None:
    config = bench.config("without dev", accumulation_steps=2, batch_size=3, save_steps=1)
    content = json.loads(config.read_text())
    content["objective"] = {"name": "cosine", "weight": 1e30}  # the loss is a number, the square of its gradient not
    config.write_text(json.dumps(content))
    ended = bench.train(config)
    assert ended.code == 2 and "Traceback" not in ended.said
    rows = np.concatenate(epoch_batches(64, 3, 7, 0)[:2])
    lines = ", ".join(str(row + 2) for row in rows)
    assert f"the gradient's norm is inf in step 1 (lines {lines} of the training data)" in ended.said
    assert newest_step(folder_of(config)) == 0


def test_a_scaler_skips_what_overflows_but_not_for_ever(bench: Bench) -> None:
    config = bench.config("float16", epochs=10)
    content = json.loads(config.read_text())
    content["objective"] = {"name": "cosine", "weight": 1e30}
    config.write_text(json.dumps(content))
    ended = bench.train(config)
    assert ended.code == 2 and "Traceback" not in ended.said
    assert "in step 31 (lines " in ended.said
    tensors = read_checkpoint(folder_of(config) / "checkpoints" / "step-00000030.safetensors").read_tensors("weights")
    assert all(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize(
    ("where", "nth", "file_bytes"),
    [(BEFORE_CHECKPOINT, 3, 2000), (BEFORE_CHECKPOINT, 3, 0), (STEP, 8, 100), (REPORT, 1, 1000)],
    ids=["in a checkpoint", "at its beginning", "in the log", "in the report"],
)
def test_without_room_it_ends_with_the_earlier_checkpoint_whole(
    bench: Bench, where: tuple[str, str], nth: int, file_bytes: int
) -> None:
    config = bench.config("short")
    folder = folder_of(config)
    ended = bench.train(config, strike=strike(where, nth, file_bytes=file_bytes))
    assert ended.code == 2 and "Traceback" not in ended.said
    assert "cannot be written: " in ended.said and "File too large" in ended.said
    assert newest_step(folder) > 0
    assert not [name for name in tree(folder) if PREFIX in name]
    ended = bench.resume(config)
    assert ended.code == 0, ended.said
    assert_same_run(folder, bench.unbroken("short"))


def test_a_full_disk_at_the_very_beginning_is_said_and_the_run_can_go_on(bench: Bench) -> None:
    config = bench.config("short")
    ended = bench.train(config, strike=strike(("sbert_ft.training.run", "plan_run"), 1, file_bytes=0))
    assert ended.code == 2 and "cannot be written" in ended.said and "Traceback" not in ended.said
    assert not folder_of(config).exists()  # nothing was written yet, so there is nothing to resume
    ended = bench.train(config, strike=strike(("sbert_ft.training.run", "warn_of_disk_space"), 1, file_bytes=0))
    assert ended.code == 2 and "cannot be written" in ended.said and "Traceback" not in ended.said
    ended = bench.resume(config)
    assert ended.code == 0, ended.said
    assert_same_run(folder_of(config), bench.unbroken("short"))


# ---------------------------------------------------------------- best, early, scaled


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return SiameseBert.from_pretrained(folder, device="cpu", precision="float32").bert.encoder.state_dict()


@pytest.mark.parametrize("scenario", ["patient", "cosine"])
def test_the_weights_that_are_saved_are_those_of_the_best_step(bench: Bench, scenario: str) -> None:
    folder = bench.unbroken(scenario)
    metrics = json.loads((folder / "metrics.json").read_text())
    evaluations = [line for line in log_of(folder) if line["kind"] == "eval"]
    best = max(evaluations, key=lambda line: (line["metrics"]["spearman"], -line["step"]))
    assert metrics["best"] == {"step": best["step"], "metric": "spearman", "value": best["metrics"]["spearman"]}
    assert [line["step"] for line in evaluations if line["best"]][-1] == best["step"]
    assert metrics["splits"]["dev"]["after"]["spearman"]["value"] == pytest.approx(best["metrics"]["spearman"])
    saved = read_checkpoint(folder / "checkpoints" / f"step-{best['step']:08d}.safetensors").read_tensors("weights")
    tuned = weights_of(folder / "model")
    assert set(tuned) <= set(saved)
    assert all(torch.equal(saved[name], tensor) for name, tensor in tuned.items())


def test_without_dev_the_weights_are_those_of_the_last_step(bench: Bench) -> None:
    folder = bench.unbroken("without dev")
    assert json.loads((folder / "metrics.json").read_text())["best"] is None
    saved = read_checkpoint(folder / "checkpoints" / "step-00000024.safetensors").read_tensors("weights")
    assert all(torch.equal(saved[name], tensor) for name, tensor in weights_of(folder / "model").items())


def test_it_stops_early_when_evaluations_get_no_better(bench: Bench) -> None:
    folder = bench.unbroken("patient")
    metrics = json.loads((folder / "metrics.json").read_text())
    evaluations = [line for line in log_of(folder) if line["kind"] == "eval"]
    assert metrics["stopped_early"] and metrics["steps"] < 80
    assert metrics["steps"] == evaluations[-1]["step"] == metrics["best"]["step"] + 2
    assert [line["best"] for line in evaluations[-3:]] == [True, False, False]


def test_a_best_checkpoint_that_was_damaged_is_named_and_the_last_step_is_taken(bench: Bench) -> None:
    folder = bench.unbroken("patient")
    best = json.loads((folder / "metrics.json").read_text())["best"]["step"]
    config = bench.config("patient")
    assert bench.train(config, strike=strike(REPORT, 1, signal.SIGKILL)).code == -signal.SIGKILL
    flip(folder_of(config) / "checkpoints" / f"step-{best:08d}.safetensors")
    ended = bench.resume(config)
    assert ended.code == 0, ended.said
    assert f"step-{best:08d}.safetensors' is incomplete or damaged" in ended.said
    metrics = json.loads((folder_of(config) / "metrics.json").read_text())
    assert metrics["best"] is None and any("damaged" in warning for warning in metrics["warnings"])


def test_the_scalers_state_is_saved_and_goes_on(bench: Bench) -> None:
    config = bench.stopped("float16", 7)
    checkpoint = newest_checkpoint(folder_of(config) / "checkpoints")
    assert checkpoint is not None
    scaler, norms = checkpoint.state["scaler"], norms_of(folder_of(config))
    n_skipped = norms.count(None)
    assert 0 < n_skipped < 7 and norms[-1] is not None
    assert scaler["scale"] == 2.0 ** (16 - n_skipped) and 0 < scaler["_growth_tracker"] <= 7 - n_skipped
    assert bench.resume(config).code == 0
    assert_same_run(folder_of(config), bench.unbroken("float16"))
    assert norms_of(folder_of(config)).count(None) == n_skipped


def norms_of(folder: Path) -> list[float | None]:
    return [line["grad_norm"] for line in log_of(folder) if line["kind"] == "train"]


# ---------------------------------------------------------------- in Python


class RaisesAt(logging.Handler):
    """A logging handler that sends this process a signal as soon as something is logged."""

    def __init__(self, beginning: str, number: int) -> None:
        super().__init__()
        self.beginning, self.number = beginning, number

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(self.beginning):
            signal.raise_signal(self.number)


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """Enable Ctrl-C as in a terminal: tests that run in the background are started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_fine_tune_is_interrupted_and_goes_on_with_the_callers_things_as_they_were(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def tune(name: str, on_existing: str = "error") -> SiameseBert:
        pairs = [ConnectionDataset.from_file(bench.place / f"{part}.csv") for part in ("train", "dev")]
        model = SiameseBert.from_pretrained(bench.place / "model", device="cpu", precision="float32")
        models.append(model)
        fine_tune(
            model,
            *pairs,
            output_dir=tmp_path / name,
            training=TrainingSettings(epochs=2, batch_size=8, learning_rate=1e-3, precision="float32", eval_steps=4),
            evaluation=EvaluationSettings(bootstrap_samples=20),
            on_existing=on_existing,
        )
        return model

    models: list[SiameseBert] = []
    ours, handlers = logging.getLogger("sbert_ft"), {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    caplog.set_level(logging.INFO, "sbert_ft")
    unbroken = tune("unbroken")
    random_state = torch.get_rng_state()
    ours.addHandler(raising := RaisesAt("step 12: dev", number))
    try:
        with pytest.raises(RunInterrupted, match="after step 12; continue with") as interrupted:
            tune("run")
    finally:
        ours.removeHandler(raising)
    assert interrupted.value.signal_number == number
    encoder = models[-1].bert.encoder
    assert not encoder.training and all(parameter.requires_grad for parameter in encoder.parameters())
    resumed = tune("run", on_existing="resume")
    assert torch.equal(torch.get_rng_state(), random_state)
    assert {n: signal.getsignal(n) for n in handlers} == handlers
    assert tree(tmp_path / "run" / "model") == tree(tmp_path / "unbroken" / "model")
    for name, tensor in unbroken.bert.encoder.state_dict().items():
        assert torch.equal(resumed.bert.encoder.state_dict()[name], tensor), name
    assert resumed.decision == unbroken.decision is not None


def test_a_run_in_a_thread_of_its_own_needs_no_signals(bench: Bench, tmp_path: Path) -> None:
    def tune() -> None:
        model = SiameseBert.from_pretrained(bench.place / "model", device="cpu", precision="float32")
        training = TrainingSettings(max_steps=2, batch_size=8)
        results.append(fine_tune(model, bench.place / "train.csv", output_dir=tmp_path / "run", training=training))

    results: list[FineTuneResult] = []
    thread = threading.Thread(target=tune)
    thread.start()
    thread.join()
    assert results[0].metrics["steps"] == 2 and results[0].report.exists()
