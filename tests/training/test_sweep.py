"""`sweep`: grids of real short runs, killed, resumed, stopped on the way, and judged without the test file."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import COMMON_WORDS, default_vocabulary
from safetensors.torch import load_file
from warm import WarmProcess

from sbert_ft import soup, sweep
from sbert_ft.cli import main
from sbert_ft.config.loader import read_run
from sbert_ft.errors import ConfigError, DataError, InputError, RunFolderError, TrainingError
from sbert_ft.files.atomic import PREFIX
from sbert_ft.training.run_log import read_log
from sbert_ft.training.sweep import RUNGS

WORDS = COMMON_WORDS.split()
RATE = "training.learning_rate"
NAN = {"name": "cosine", "weight": 1e39}  # no number of float32, so the loss is infinite


def write_scored(path: Path, n: int, seed: int) -> Path:
    """Write pairs whose score, 0 to 5, is how many of the first text's words the second one keeps."""
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("sentence1", "sentence2", "score"))
        for i in range(n):
            words = draw.choices(WORDS, k=6)
            other = words[: i % 6] + draw.choices(WORDS, k=6 - i % 6)
            writer.writerow((" ".join(words), " ".join(other), i % 6))
    return path


@pytest.fixture(scope="module")
def place(tiny_bert_folder: Callable[..., Path]) -> Iterator[Path]:
    """Return a folder with a model and data, in memory where the system has one: every checkpoint is synced."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as path:
        for seed, (name, n) in enumerate({"train": 48, "dev": 24, "test": 24}.items()):
            write_scored(Path(path) / f"{name}.csv", n, seed)
        tiny_bert_folder(Path(path) / "model")
        yield Path(path)


@pytest.fixture
def config(place: Path) -> Iterator[Path]:
    """Return a configuration with twelve steps and four evaluations, in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=place) as own:
        content: dict[str, Any] = {
            "model": {"path": str(place / "model")},
            "data": {name: str(place / f"{name}.csv") for name in ("train", "dev", "test")},
            "training": {"epochs": 2, "batch_size": 8, "eval_steps": 3, "device": "cpu", "precision": "float32"},
            "evaluation": {"bootstrap_samples": 20},
            "output_dir": str(Path(own) / "sweep"),
        }
        path = Path(own) / "run.json"
        path.write_text(json.dumps(content))
        yield path


def changed(config: Path, **sections: dict[str, Any]) -> Path:
    """Return the configuration after changing values in it."""
    content = json.loads(config.read_text())
    for section, values in sections.items():
        content[section] |= values
    config.write_text(json.dumps(content))
    return config


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(encoding="utf-8", newline="") as file:
        return [{name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def state(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "sweep.json").read_text())["state"]
    return content


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    return list(first) == list(second) and all(first[name].equal(second[name]) for name in first)


# ---------------------------------------------------------------- the grid, and the best of it


def test_each_combination_has_a_run_for_each_seed_and_the_best_mean_on_dev_wins(config: Path) -> None:
    changed(config, training={"epochs": 1})
    result = sweep(config, {RATE: [1e-5, 3e-3], "training.batch_size": [8, 16]}, seeds=[4, 9], final="none")
    rows = table(result.folder)
    assert len(rows) == 4 and len(list(result.folder.glob("runs/*/seed-*"))) == 8
    for row in rows:
        run = result.folder / "runs" / row["folder"]
        settings = json.loads((run / "seed-9" / "config.json").read_text())["training"]
        assert (repr(settings["learning_rate"]), str(settings["batch_size"]), settings["seed"]) == (
            *(row["learning_rate"], row["batch_size"]),
            9,
        )
        values = [json.loads((run / f"seed-{seed}/metrics.json").read_text())["best"]["value"] for seed in (4, 9)]
        assert [float(row["seed_4"]), float(row["seed_9"])] == values
        assert float(row["mean"]) == pytest.approx(sum(values) / 2)
        assert (float(row["lowest"]), float(row["highest"])) == (min(values), max(values))
        assert row["state"] == "finished" and row["share_of_steps"] == "1.0000"
    means = [float(row["mean"]) for row in rows]
    assert means == sorted(means, reverse=True) and means[0] > means[-1]
    assert result.report.winner == rows[0]["folder"] and rows[0]["folder"] in (result.folder / "sweep.csv").read_text()
    assert "<svg" in (result.folder / "sweep.html").read_text()


def test_options_of_an_objective_and_objectives_can_be_tried_together(config: Path) -> None:
    over = {"objective": ["cosent", {"name": "cosent", "scale": 5}], "model.freeze_layers": [0, 1]}
    result = sweep(config, over, overrides=["training.max_steps=2"], final="none")
    assert {row.label for row in result.report.rows} == {
        f"objective={objective}, freeze_layers={n}" for objective in ("cosent", "cosent scale 5") for n in (0, 1)
    }
    assert result.model_dir is None and not (result.folder / "model").exists() and not state(result.folder)["looks"]


def test_a_teacher_and_cut_layers_can_be_tried(config: Path, place: Path) -> None:
    setting = [f'teacher={{"path": "{place / "model"}"}}', "training.max_steps=2"]
    over = {"model.layers": [[0], [1]], "objective": [["mse", "cosine"], "mse"]}
    result = sweep(config, over, overrides=setting)
    assert {row["state"] for row in table(result.folder)} == {"finished"} and result.test is not None
    plan = json.loads((result.folder / "sweep.json").read_text())["plan"]
    assert list(plan["model"]) == ["path", "teacher"] and list(plan["model"]["teacher"]) == ["path"]


# ---------------------------------------------------------------- halving


def test_halving_stops_the_worse_half_and_what_goes_on_is_the_uninterrupted_run(config: Path) -> None:
    result = sweep(config, {RATE: [1e-6, 1e-4, 1e-3, 5e-3]}, seeds=2, halving=True)
    values = dict[float, dict[str, float]]()
    for rung, step in zip(RUNGS, (3, 6), strict=True):
        values[rung] = {}
        for folder in (result.folder / "runs").iterdir():
            logs = [
                [line for line in read_log(seed / "metrics.jsonl") if line["kind"] == "eval"]
                for seed in folder.iterdir()
            ]
            if all(log[-1]["step"] >= step for log in logs):
                best = [max(line["metrics"]["spearman"] for line in log if line["step"] <= step) for log in logs]
                values[rung][folder.name] = sum(best) / len(best)
    stopped = state(result.folder)["stopped"]
    for rung, n_alive in zip(RUNGS, (4, 2), strict=True):
        order = sorted(values[rung], key=lambda name: values[rung][name])
        assert len(order) == n_alive
        assert {name for name, at in stopped.items() if at == rung} == set(order[: n_alive // 2])
    assert [row["share_of_steps"] for row in table(result.folder)] == ["1.0000", "0.5000", "0.2500", "0.2500"]
    assert not list(result.folder.glob("runs/*/*/checkpoints/*"))
    # the winner's configuration is a usual one, and trains its model
    assert result.winner is not None and result.model_dir is not None and result.test is not None
    assert read_run(result.folder / "best.json") == result.winner
    assert main(["train", str(result.folder / "best.json"), "--quiet"]) == 0
    again = Path(result.winner.output_dir)
    assert same_weights(again / "model", result.model_dir)
    test = json.loads((again / "metrics.json").read_text())["splits"]["test"]
    for part in ("before", "after", "difference"):
        assert result.test[part]["spearman"] == test[part]["spearman"]


def test_settings_are_compared_once_where_two_rungs_are_one_evaluation(config: Path) -> None:
    changed(config, training={"eval_steps": None})  # the first is after half of the steps
    result = sweep(config, {RATE: [1e-4, 1e-3, 5e-3]}, halving=True, final="none")
    assert sorted(row["share_of_steps"] for row in table(result.folder)) == ["0.5000", "1.0000", "1.0000"]


def test_equal_settings_are_both_kept(config: Path) -> None:
    over = {"training.logging_steps": [1, 2]}  # changes nothing
    result = sweep(config, over, halving=True, final="none")
    assert state(result.folder)["stopped"] == {}
    assert "1 setting reaches into the range" in " ".join(result.report.notes)


# ---------------------------------------------------------------- interrupted, and out of time

STEP = ("sbert_ft.training.loop", "backward")
NOTED = ("sbert_ft.training.sweep", "write_json")
MODEL = ("sbert_ft.training.sweep", "put_in_place")
GRID = ("--over", f"{RATE}=1e-4,3e-3", "--seeds", "2", "--halving")


def strike(place: tuple[str, str], nth: int, number: int) -> dict[str, Any]:
    return {"module": place[0], "name": place[1], "nth": nth, "signals": [number]}


@pytest.fixture(scope="module")
def unbroken(warm: WarmProcess, place: Path) -> Path:
    """Return the folder of a sweep that nothing struck; `config` cannot be used, which is made anew for each test."""
    content: dict[str, Any] = {
        "model": {"path": str(place / "model")},
        "data": {name: str(place / f"{name}.csv") for name in ("train", "dev", "test")},
        "training": {"epochs": 2, "batch_size": 8, "eval_steps": 3, "device": "cpu", "precision": "float32"},
        "evaluation": {"bootstrap_samples": 20},
        "output_dir": str(place / "unbroken"),
    }
    (place / "unbroken.json").write_text(json.dumps(content))
    ended = warm.command("sweep", place / "unbroken.json", *GRID)
    assert ended.code == 0, ended.err
    return place / "unbroken"


@pytest.mark.parametrize(
    ("where", "nth", "number"),
    [
        (STEP, 2, signal.SIGKILL),  # before any checkpoint
        (NOTED, 1, signal.SIGKILL),  # before the sweep is noted at all
        (NOTED, 3, signal.SIGKILL),  # a run has paused, and that is not noted
        (MODEL, 1, signal.SIGKILL),
        (STEP, 20, signal.SIGTERM),
        (STEP, 29, signal.SIGINT),
    ],
)
def test_a_sweep_that_was_ended_anywhere_goes_on_to_the_same_end(
    where: tuple[str, str], nth: int, number: int, warm: WarmProcess, config: Path, unbroken: Path
) -> None:
    folder = config.parent / "sweep"
    ended = warm.command("sweep", config, *GRID, strike=strike(where, nth, number))
    assert ended.code == (-number if number == signal.SIGKILL else 128 + number), ended.said
    assert "--resume" in ended.err or number == signal.SIGKILL
    again = [] if (where, nth) == (NOTED, 1) else ["--resume"]
    ended = warm.command("sweep", config, *GRID, *again)
    assert ended.code == 0, ended.err
    assert table(folder) == table(unbroken)
    assert same_weights(folder / "model", unbroken / "model")
    assert state(folder)["looks"] == state(unbroken)["looks"]


def test_a_finished_sweep_has_nothing_left_to_do(config: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = sweep(config, {RATE: [1e-4, 3e-3]})
    caplog.clear()
    second = sweep(config, {RATE: [1e-4, 3e-3]}, resume=True)
    assert second.report.rows == first.report.rows and second.test == first.test
    assert not [record for record in caplog.records if "run 1 of" in record.getMessage()]


def test_no_run_is_begun_that_would_end_after_the_budget(config: Path) -> None:
    grid = {RATE: [1e-4, 3e-3]}
    short = sweep(config, grid, seeds=2, budget_seconds=1e-3)  # nothing is measured before the first run
    assert [run["status"] for run in state(short.folder)["runs"].values()] == ["finished", *["waiting"] * 3]
    assert len(short.left_out) == 3 and "3 runs not made for want of time" in " ".join(short.report.notes)
    none = sweep(config, grid, seeds=2, budget_seconds=1e-3, resume=True)
    assert len(none.left_out) == 3
    rest = sweep(config, grid, seeds=2, budget_seconds=3600, resume=True)
    assert not rest.left_out and {row["state"] for row in table(rest.folder)} == {"finished"}


# ---------------------------------------------------------------- runs that fail


def test_a_run_that_fails_is_noted_and_the_others_go_on(config: Path) -> None:
    result = sweep(config, {"objective": [NAN, "cosine"]}, seeds=2)
    best, failed = table(result.folder)
    assert (best["objective"], best["state"], failed["state"]) == ("cosine", "finished", "failed")
    assert failed["error"].startswith("the loss is inf in step 1") and failed["mean"] == ""
    assert result.model_dir is not None
    assert "Runs that failed" in (result.folder / "sweep.html").read_text()


def test_a_run_that_is_judged_by_another_metric_is_not_compared(config: Path) -> None:
    over = {"model.kind": ["siamese", "joined"]}  # whose objective is softmax, so its labels are classes
    result = sweep(config, over, overrides=["training.max_steps=1"], final="none")
    first, other = table(result.folder)
    assert (first["kind"], other["state"]) == ("siamese", "failed")
    assert "judged by macro_f1, the others by spearman" in other["error"]


def test_if_every_run_fails_the_exit_code_is_1_with_the_first_sentence(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainingError, match="every run of the sweep failed; the first: the loss is inf in step 1"):
        sweep(config, {"objective": [NAN]}, seeds=2)
    grid = ("--over", f"objective={json.dumps(NAN)}", "--seeds", "2")
    assert main(["sweep", str(config), *grid, "--resume", "--quiet"]) == 1
    assert "error: every run of the sweep failed; the first: the loss is inf" in capsys.readouterr().err


# ---------------------------------------------------------------- the test file


def test_no_run_reads_the_test_file(config: Path) -> None:
    test = config.parent / "test.csv"
    test.write_bytes(b"\x00\xff no table at all")
    changed(config, data={"test": str(test)})
    with pytest.raises(DataError, match=r"test\.csv"):
        sweep(config, {RATE: [1e-4, 3e-3]})
    folder = config.parent / "sweep"
    assert {row["state"] for row in table(folder)} == {"finished"} and (folder / "model").is_dir()
    assert state(folder)["looks"] == []
    write_scored(test, 24, 7)
    result = sweep(config, {RATE: [1e-4, 3e-3]}, resume=True)
    assert result.test is not None
    assert "was not looked at before" in " ".join(result.report.test)


def test_a_second_look_at_the_test_file_says_so(config: Path) -> None:
    first = sweep(config, {RATE: [1e-4, 3e-3]}, seeds=2, budget_seconds=1e-3)
    assert "was not looked at before" in " ".join(first.report.test)
    second = sweep(config, {RATE: [1e-4, 3e-3]}, seeds=2, resume=True)
    assert first.winner != second.winner
    assert "was looked at before, 1 time" in " ".join(second.report.test)
    assert "was looked at before, 1 time" in (second.folder / "sweep.html").read_text()
    assert len(state(second.folder)["looks"]) == 2


# ---------------------------------------------------------------- the average of the seeds


def test_the_average_of_the_best_settings_seeds_is_their_soup(config: Path) -> None:
    result = sweep(config, {RATE: [1e-4, 3e-3]}, seeds=3, final="average")
    runs = sorted((result.folder / "runs" / str(result.report.winner)).iterdir())
    mixed = soup(runs, config.parent / "soup")
    assert result.model_dir is not None and len(mixed.runs) == 3
    assert same_weights(config.parent / "soup", result.model_dir)
    assert [look["of"]["final"] for look in state(result.folder)["looks"]] == ["average"]
    assert not [path for path in result.folder.iterdir() if path.name.startswith(PREFIX)]


# ---------------------------------------------------------------- memory


def test_memory_does_not_grow_with_the_number_of_runs(
    warm: WarmProcess, tiny_bert_folder: Callable[..., Path], config: Path
) -> None:
    """Runs that kept their weights, 40 MiB each, would stand out."""
    vocab = [*default_vocabulary(), *(f"word{i}" for i in range(40_000))]
    tiny_bert_folder(config.parent / "wide", vocab=vocab, hidden_size=256)
    changed(config, model={"path": str(config.parent / "wide")}, training={"max_steps": 1})
    code = """
import sys
sys.path.insert(0, "tests")
from sbert_ft import soup, sweep
from warm.calls import peak_kib
peaks = []
for name, seeds in (("first", 1), ("second", 5)):
    sweep(sys.argv[1], {}, seeds=seeds, output_dir=f"{sys.argv[2]}/{name}", final="none")
    peaks.append(peak_kib())
print((peaks[1] - peaks[0]) >> 10)
"""
    ended = warm.script(code, config, config.parent, max_seconds=500)
    assert ended.code == 0, ended.err
    assert int(ended.out) < 80


# ---------------------------------------------------------------- refused


def refusal(config: Path, over: dict[str, Any], **options: Any) -> str:
    with pytest.raises((ConfigError, InputError, RunFolderError)) as caught:
        sweep(config, over, **options)
    return str(caught.value)


def test_every_fault_of_every_combination_is_in_one_message(config: Path) -> None:
    said = refusal(config, {"training.epochs": [0, 1], "objective": ["cosine", "softmax"]})
    assert "training.epochs" in said and "softmax trains a classifier" in said
    assert '(with training.epochs=0 objective="softmax")' in said and not (config.parent / "sweep").exists()


@pytest.mark.parametrize(
    ("over", "options", "expected"),
    [
        ({"training.learning_rat": [1e-5]}, {}, "unknown key; did you mean 'learning_rate'?"),
        ({RATE: []}, {}, "expected one or more values"),
        ({RATE: "1e-5"}, {}, "expected one or more values"),
        ({RATE: [1e-5, 1e-5]}, {}, "has the value 1e-05 twice"),
        ({RATE: [float("nan")]}, {}, "expected values that JSON has"),
        ({RATE: [1e-5], "learning_rate": [1e-4]}, {}, "is given twice"),
        ({"training.seed": [1, 2]}, {}, "give them with --seeds"),
        ({"training.metric": ["spearman", "pearson"]}, {}, "cannot be compared"),
        ({"data.dev": ["a.csv", "b.csv"]}, {}, "cannot be compared"),
        ({"evaluation.match_from": [3, 4]}, {}, "cannot be compared"),
        ({"output_dir": ["a", "b"]}, {}, "cannot be compared"),
        ({RATE: [i / 2000 for i in range(1, 1002)]}, {}, "expected at most 1,000 combinations, found 1,001"),
        ({RATE: [1e-5]}, {"seeds": 0}, "expected a whole number from 1 to 100"),
        ({RATE: [1e-5]}, {"seeds": [3, 3]}, "different ones"),
        ({RATE: [1e-5]}, {"seeds": [-1]}, "expected a whole number from 0"),
        ({RATE: [1e-5]}, {"final": "mean"}, "expected one of best, average, none"),
        ({RATE: [1e-5]}, {"budget_seconds": 0}, "expected more than 0"),
        ({RATE: [1e-5]}, {"halving": True}, "--halving compares settings, and there is one"),
        ({RATE: [1e-5]}, {"resume": True}, "holds no sweep to resume"),
        ({"data.train": ["nowhere.csv"]}, {}, "there is no 'nowhere.csv' here"),
        ({RATE: [1e-5]}, {"overrides": ["data.dev=null", "training.eval_steps=null"]}, "a sweep chooses by dev"),
        (
            {RATE: [1e-5, 1e-4]},
            {"halving": True, "overrides": ["training.eval_steps=null", "training.epochs=1"]},
            "no run is evaluated before its end",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    over: dict[str, Any], options: dict[str, Any], expected: str, config: Path
) -> None:
    assert expected in refusal(config, over, **options)
    assert not (config.parent / "sweep").exists()


def test_another_grid_or_configuration_is_not_resumed(config: Path, place: Path) -> None:
    grid = {RATE: [1e-4, 3e-3]}
    folder = sweep(config, grid, final="none", overrides=["training.max_steps=1"]).folder
    before = (folder / "sweep.json").read_bytes()
    again: dict[str, Any] = {"resume": True, "overrides": ["training.max_steps=1"]}
    assert "over.training.learning_rate.1 was 0.003, is 0.001" in refusal(config, {RATE: [1e-4, 1e-3]}, **again)
    assert "seeds.1 was absent, is 43" in refusal(config, grid, seeds=2, **again)
    assert "halving was false, is true" in refusal(config, grid, halving=True, **again)
    assert "training.max_steps was 1, is 2" in refusal(config, grid, resume=True, overrides=["training.max_steps=2"])
    other = write_scored(config.parent / "other.csv", 48, 5)
    changed(config, data={"train": str(other)})
    assert "data.train.sha256 was" in refusal(config, grid, **again)
    assert "holds a sweep; continue it with --resume" in refusal(config, grid)
    assert (folder / "sweep.json").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(config: Path) -> None:
    folder = config.parent / "sweep"
    folder.write_text("mine")
    assert "is a file; expected a folder" in refusal(config, {RATE: [1e-5]})
    assert folder.read_text() == "mine"
    folder.unlink()
    folder.mkdir()
    (folder / "mine.txt").touch()
    assert "is not empty" in refusal(config, {RATE: [1e-5]})
    (folder / "sweep.json").write_text('{"format": 1, "plan": {}, "state": []}')
    assert "is damaged, expected plan and state of a sweep" in refusal(config, {RATE: [1e-5]}, resume=True)


def test_torchrun_is_refused(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "torchrun has started several" in refusal(config, {RATE: [1e-5]})
