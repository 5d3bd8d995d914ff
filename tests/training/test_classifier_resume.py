"""Runs of classifiers that are killed, stopped and resumed: head, log and metrics equal those of an uninterrupted run.

The forking process and the comparison of runs come from `test_resume`.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from test_resume import (
    AFTER_CHECKPOINT,
    IN_CHECKPOINT,
    REPORT,
    STEP,
    Bench,
    assert_same_run,
    changed,
    folder_in_memory,
    folder_of,
    kill_until_finished,
    log_of,
    newest_step,
    steps_kept,
    strike,
    texts,
    tree,
    write_rows,
)
from warm import WarmProcess

from sbert_ft import BertClassifier
from sbert_ft.training.checkpoints import read_checkpoint
from sbert_ft.training.run_folder import RUN_FILES

EVALUATION = ("sbert_ft.evaluation.class_evaluator", "joined_unless")
JUDGING = ("sbert_ft.evaluation.class_evaluator", "joined")
AFTER_THE_LOCK = ("sbert_ft.training.run", "warn_of_disk_space")

PAIRS = {"train": "nli.csv", "dev": "nli-dev.csv"}
TEXTS = {"train": "sentiment.csv", "dev": "sentiment-dev.csv"}

SCENARIOS: dict[str, dict[str, Any]] = {
    # classes of very different size, pairs that are cut, dropout in encoder and head
    "joined": {
        "model": {"kind": "joined", "max_seq_length": 12, "head_dropout": 0.3},
        "data": PAIRS,
        "objective": {"name": "softmax", "class_weight": "balanced"},
        "training": {"epochs": 4, "batch_size": 8, "eval_steps": 7, "save_steps": 3},
    },
    # three batches a step, one in the last of an epoch, in forwards of three rows at most
    "towers": {
        "model": {"kind": "towers", "features": "uv_difference_product", "head_dropout": 0.2},
        "data": PAIRS,
        "training": {
            **{"epochs": 4, "batch_size": 7, "accumulation_steps": 3, "micro_batch_size": 3},
            **{"eval_steps": 5, "save_steps": 3},
        },
    },
    # steps so large that the classifier soon stops improving
    "single": {
        "model": {"kind": "single"},
        "data": TEXTS,
        "training": {
            **{"epochs": 1, "batch_size": 4, "learning_rate": 0.1, "eval_steps": 2, "save_steps": 3},
            "early_stopping_patience": 3,
        },
    },
    "graded": {
        "model": {"kind": "joined"},
        "data": {"train": "scored.csv", "dev": "scored-dev.csv"},
        "objective": "binary_cross_entropy",
        "training": {"epochs": 2, "batch_size": 8, "eval_steps": 3, "save_steps": 2},
    },
}


def write_classes(path: Path, n: int, seed: int, shares: dict[str, float], n_texts: int) -> None:
    """Write rows of classes of different sizes; a text's last word usually tells its class."""
    generator = random.Random(seed)
    labels = generator.choices(list(shares), weights=list(shares.values()), k=n)
    labels[: len(shares)] = shares
    told = dict(zip(shares, ("dog", "red", "piano"), strict=False))
    columns = [texts(generator, n) for _ in range(n_texts)]
    columns[-1] = [
        f"{text} {told[label] if generator.random() < 0.8 else 'the'}"
        for text, label in zip(columns[-1], labels, strict=True)
    ]
    header = ("premise", "hypothesis") if n_texts == 2 else ("text",)
    write_rows(path, (*header, "label"), list(zip(*columns, labels, strict=True)))


def write_graded(path: Path, n: int, seed: int) -> None:
    generator = random.Random(seed)
    rows = zip(texts(generator, n), texts(generator, n), [5 * i / (n - 1) for i in range(n)], strict=True)
    write_rows(path, ("sentence1", "sentence2", "score"), list(rows))


@pytest.fixture(scope="module")
def bench(warm: WarmProcess, tiny_bert_folder: Callable[..., Path]) -> Iterator[Bench]:
    nli, sentiment = {"neutral": 0.6, "entailment": 0.3, "contradiction": 0.1}, {"good": 0.7, "bad": 0.3}
    with folder_in_memory() as place:
        tiny_bert_folder(place / "model", hidden_size=16, intermediate=32, safetensors=True)
        for name, n, seed in (("", 64, 1), ("-dev", 24, 2)):
            write_classes(place / f"nli{name}.csv", n, seed, nli, 2)
            write_classes(place / f"sentiment{name}.csv", n, seed, sentiment, 1)
            write_graded(place / f"scored{name}.csv", n, seed)
        yield Bench(warm, place, SCENARIOS)


def assert_same_classifier(folder: Path, unbroken: Path) -> None:
    """Check that a classifier's run equals the uninterrupted one, including the rows that it classifies wrongly."""
    assert_same_run(folder, unbroken)
    name = "mistakes.csv" if (unbroken / "mistakes.csv").exists() else "worst_pairs.csv"
    assert (folder / name).read_bytes() == (unbroken / name).read_bytes()


# ---------------------------------------------------------------- killed


@pytest.mark.parametrize(("scenario", "n_kills"), [("joined", 5), ("towers", 5), ("single", 3), ("graded", 2)])
def test_killed_at_random_moments_a_classifier_ends_as_the_unbroken_one(
    bench: Bench, scenario: str, n_kills: int
) -> None:
    unbroken = bench.unbroken(scenario)
    n_steps = json.loads((unbroken / "metrics.json").read_text())["steps"]
    config = bench.config(scenario)
    begun = kill_until_finished(bench, config, n_kills, per_attempt=n_steps // n_kills + 4, seed=5)
    assert begun == sorted(begun) and (n_kills < 5 or len(set(begun)) > 1)
    if not (folder_of(config) / "metrics.json").exists():
        ended = bench.resume(config)
        assert ended.code == 0, ended.said
    assert_same_classifier(folder_of(config), unbroken)


@pytest.mark.parametrize(
    ("scenario", "where", "nth"),
    [
        ("single", JUDGING, 1),
        ("graded", AFTER_CHECKPOINT, 3),
        ("joined", REPORT, 1),  # calibrated and saved, which the checkpoint that it goes on from knows nothing of
        ("towers", REPORT, 1),
    ],
)
def test_killed_at_a_step_of_its_way_a_classifier_ends_as_the_unbroken_one(
    bench: Bench, scenario: str, where: tuple[str, str], nth: int
) -> None:
    config = bench.config(scenario)
    assert bench.train(config, strike=strike(where, nth, signal.SIGKILL)).code == -signal.SIGKILL
    assert not (folder_of(config) / "metrics.json").exists()
    ended = bench.resume(config)
    assert ended.code == 0, ended.said
    assert_same_classifier(folder_of(config), bench.unbroken(scenario))


# ---------------------------------------------------------------- ended by a signal


@pytest.mark.parametrize(
    ("scenario", "where", "nth", "step"),
    [
        ("joined", STEP, 5, 5),
        ("joined", EVALUATION, 2, 14),
        ("single", IN_CHECKPOINT, 2, 3),
        ("towers", STEP, 5, 2),  # the second of a step's three batches
        ("single", EVALUATION, 2, 4),
        ("graded", STEP, 3, 3),
    ],
)
def test_a_signal_finishes_a_classifiers_step_and_leaves_a_checkpoint(
    bench: Bench, scenario: str, where: tuple[str, str], nth: int, step: int
) -> None:
    config = bench.config(scenario)
    ended = bench.train(config, strike=strike(where, nth, signal.SIGTERM))
    assert ended.code == 128 + signal.SIGTERM, ended.said
    assert f"after step {step}; continue with --resume" in ended.said and "Traceback" not in ended.said
    assert newest_step(folder_of(config)) == step
    assert not (folder_of(config) / "model").exists()
    ended = bench.resume(config)
    assert ended.code == 0, ended.said
    assert f"going on after step {step} of " in ended.said
    assert_same_classifier(folder_of(config), bench.unbroken(scenario))


# ---------------------------------------------------------------- what is left


def test_a_checkpoint_holds_the_head_and_the_best_step_s_is_saved(bench: Bench) -> None:
    folder = bench.unbroken("towers")
    metrics = json.loads((folder / "metrics.json").read_text())
    for step in steps_kept(folder):
        weights = read_checkpoint(folder / "checkpoints" / f"step-{step:08d}.safetensors").read_tensors("weights")
        assert {name.partition(".")[0] for name in weights} == {"encoder", "head"}
    best = read_checkpoint(folder / "checkpoints" / f"step-{metrics['best']['step']:08d}.safetensors").read_tensors(
        "weights"
    )
    saved = load_file(folder / "model" / "head.safetensors")
    temperature = metrics["calibration"]["temperature"]
    # calibrated: the head of the best step, divided by the temperature
    for name, tensor in saved.items():
        assert (tensor - best[f"head.{name}"] / temperature).abs().max() < 1e-6
    model = BertClassifier.from_pretrained(folder / "model", "cpu", "float32")
    assert model.temperature == temperature and model.features == "uv_difference_product"


def test_one_epoch_is_stopped_early_between_its_evaluations(bench: Bench) -> None:
    folder = bench.unbroken("single")
    metrics = json.loads((folder / "metrics.json").read_text())
    evaluations = [line for line in log_of(folder) if line["kind"] == "eval"]
    assert metrics["stopped_early"] and metrics["steps"] < 16
    assert [line["step"] for line in evaluations] == list(range(2, metrics["steps"] + 1, 2))
    assert [line["best"] for line in evaluations[-3:]] == [False] * 3
    assert metrics["best"]["metric"] == "macro_f1" and metrics["best"]["step"] == metrics["steps"] - 6


# ---------------------------------------------------------------- overwritten


def test_overwriting_removes_what_a_classifiers_run_wrote_and_nothing_else(bench: Bench) -> None:
    config = bench.config("towers")
    folder = folder_of(config)
    shutil.copytree(bench.unbroken("towers"), folder)
    for name in ("mistakes.csv", "model/head.safetensors", "model/modules.json"):
        assert (folder / name).is_file()
    foreign = {
        "mistakes.xlsx": b"a person's",
        "head.safetensors": b"of another",
        "model/heads.safetensors": b"of another",
        "model/notes.txt": b"mine",
        "checkpoints/notes.txt": b"mine",
    }
    for name, content in foreign.items():
        (folder / name).write_bytes(content)
    # killed when everything is removed and hardly anything written
    ended = bench.train(config, "--overwrite", strike=strike(AFTER_THE_LOCK, 1, signal.SIGKILL))
    assert ended.code == -signal.SIGKILL, ended.said
    left = {name for name, content in tree(folder).items() if content is not None}
    begun = {"config.json", "fingerprint.json"}
    assert {name for name in left - begun if not name.startswith(".")} == set(foreign)
    assert not left & (set(RUN_FILES) - begun)
    assert {name: (folder / name).read_bytes() for name in foreign} == foreign
    ended = bench.train(config, "--overwrite")
    assert ended.code == 0, ended.said
    assert {name: (folder / name).read_bytes() for name in foreign} == foreign
    for name in ("heads.safetensors", "notes.txt"):
        (folder / "model" / name).unlink()
    assert_same_classifier(folder, bench.unbroken("towers"))


@pytest.mark.parametrize(("before", "after"), [("towers", "joined"), ("joined", "towers")])
def test_a_run_of_another_kind_leaves_no_mixture_of_models(bench: Bench, before: str, after: str) -> None:
    config = bench.config(after)
    folder = folder_of(config)
    shutil.copytree(bench.unbroken(before), folder)
    ended = bench.train(config, "--overwrite")
    assert ended.code == 0, ended.said
    assert_same_classifier(folder, bench.unbroken(after))
    assert set(tree(folder)) == set(tree(bench.unbroken(after)))


# ---------------------------------------------------------------- changed


@pytest.mark.parametrize(
    ("scenario", "overrides", "named"),
    [
        ("joined", ['data.classes=["contradiction","neutral","entailment"]'], "data.classes was null, is "),
        ("joined", ["model.kind=towers"], "model.kind was 'joined', is 'towers'"),
        ("joined", ["objective=softmax"], "objective.0.class_weight was 'balanced', is null"),
        ("joined", ["model.truncation=only_first"], "model.truncation was 'longest_first', is 'only_first'"),
        ("joined", ["model.head_dropout=0.1"], "model.head_dropout was 0.3, is 0.1"),
        ("joined", ["training.metric=accuracy"], "training.metric was null, is 'accuracy'"),
        ("towers", ["model.features=uv"], "model.features was 'uv_difference_product', is 'uv'"),
    ],
)
def test_a_classifiers_changed_setting_is_refused_by_name(
    bench: Bench, stopped: dict[str, Path], scenario: str, overrides: list[str], named: str
) -> None:
    config = bench.copy_of(stopped[scenario])
    before = tree(folder_of(config))
    ended = bench.resume(config, *(argument for said in overrides for argument in ("--set", said)))
    assert ended.code == 2 and "Traceback" not in ended.said
    assert named in ended.said and "--allow-changes" in ended.said
    assert tree(folder_of(config)) == before


@pytest.fixture(scope="module")
def stopped(bench: Bench) -> dict[str, Path]:
    """Return the configurations of runs that have a checkpoint."""
    return {scenario: bench.stopped(scenario, 3) for scenario in ("joined", "towers")}


def test_a_label_that_changed_in_the_data_is_refused(bench: Bench, stopped: dict[str, Path]) -> None:
    config = bench.copy_of(stopped["joined"])
    other = bench.place / "nli-other.csv"
    other.write_text((bench.place / "nli.csv").read_text().replace("neutral", "entailment", 1))
    ended = bench.resume(changed(config, data={"train": str(other)}))
    assert ended.code == 2 and "data.train.sha256 was " in ended.said and "Traceback" not in ended.said


def test_another_head_does_not_take_a_checkpoint_s_weights_even_where_changes_are_allowed(
    bench: Bench, stopped: dict[str, Path]
) -> None:
    config = bench.copy_of(stopped["towers"])
    ended = bench.resume(config, "--set", "model.features=uv", "--allow-changes")
    assert ended.code == 2 and "Traceback" not in ended.said
    assert "step-00000003" in ended.said and "holds another model's weights" in ended.said
