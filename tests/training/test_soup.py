"""Soups of real runs: their weights are the mean, dev decides, and runs that do not fit are refused by name."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COMMON_WORDS, make_bert_folder
from safetensors.torch import load_file, save_file

import sbert_ft
from sbert_ft.cli import main
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.training.soup import SoupResult

SEEDS = (1, 2, 3)


def write(path: Path, n: int, seed: int) -> Path:
    draw, words = random.Random(seed), COMMON_WORDS.split()
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("sentence1", "sentence2", "score"))
        for _ in range(n):
            first, n_same = draw.choices(words, k=6), draw.randint(0, 5)
            rows.writerow((" ".join(first), " ".join(first[:n_same] + draw.choices(words, k=6 - n_same)), n_same))
    return path


Runs = Callable[..., Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("soup")
    make_bert_folder(place / "bert", safetensors=True)
    make_bert_folder(place / "other", safetensors=True, seed=1)
    for name, n in (("train", 48), ("dev", 40), ("dev2", 24), ("test", 40)):
        write(place / f"{name}.csv", n, len(name) + n)
    return place


def go(place: Path, name: str, model: Any = None, training: Any = None, **data: Any) -> Path:
    """Train a run, and return its folder."""
    files = {split: str(place / f"{split}.csv") for split in ("train", "dev", "test")} | data
    config = {
        "model": {"path": str(place / "bert"), **(model or {})},
        "data": {split: path for split, path in files.items() if path is not None},
        "training": {
            **{"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "device": "cpu", "precision": "float32"},
            **(training or {}),
        },
        "evaluation": {"bootstrap_samples": 5},
        "output_dir": str(place / name),
    }
    path = place / f"{name}.json"
    path.write_text(json.dumps(config))
    assert main(["train", str(path), "--quiet"]) == 0
    return place / name


@pytest.fixture(scope="module")
def runs(place: Path) -> list[str]:
    return [str(go(place, f"seed-{seed}", training={"seed": seed})) for seed in SEEDS]


def dev_of(run: str) -> float:
    return float(json.loads((Path(run) / "metrics.json").read_text())["best"]["value"])


def model_file(run: str | Path) -> Path:
    return Path(run) / "model" / "model.safetensors"


def mean_of(runs: list[str]) -> dict[str, np.ndarray]:
    every = [load_file(model_file(run)) for run in runs]
    return {name: np.mean([weights[name].double().numpy() for weights in every], axis=0) for name in every[0]}


def assert_is(folder: Path, expected: dict[str, np.ndarray]) -> None:
    saved = load_file(folder / "model.safetensors")
    assert saved.keys() == expected.keys()
    for name, tensor in saved.items():
        np.testing.assert_allclose(tensor.double().numpy(), expected[name], rtol=0, atol=1e-6, err_msg=name)


def test_a_uniform_soup_is_the_mean_of_all_and_a_whole_model(runs: list[str], tmp_path: Path) -> None:
    result = sbert_ft.soup(runs, tmp_path / "model", uniform=True)
    assert isinstance(result, SoupResult) and all(run.is_in_soup for run in result.runs)
    assert_is(result.folder, mean_of(runs))
    model = SiameseBert.from_pretrained(result.folder, "cpu", "float32")
    own = json.loads((Path(runs[0]) / "model" / "sbert_ft.json").read_text())
    found = json.loads((result.folder / "sbert_ft.json").read_text())
    assert found.keys() == own.keys() and found["score_scale"] == own["score_scale"]
    # the threshold is that of the soup's own cosines on dev
    assert model.decision is not None
    again = sbert_ft.fit_threshold(model, sbert_ft.ConnectionDataset(runs[0].replace("seed-1", "dev.csv")))
    assert model.decision.threshold == pytest.approx(again.threshold, abs=1e-5)
    assert (result.folder / "modules.json").exists() and (result.folder / "tokenizer.json").exists()


def test_a_greedy_soup_takes_what_does_not_make_dev_worse(
    runs: list[str], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # the embeddings of one model are turned round, so that those of its mean with another one nearly vanish
    worse = go(place, "worse", training={"seed": 4})
    model = place / "worse" / "model" / "model.safetensors"
    broken = {name: tensor.neg() if "embeddings" in name else tensor for name, tensor in load_file(model).items()}
    save_file(broken, model, metadata={"format": "pt"})
    capsys.readouterr()
    folders = [str(worse), *runs]
    assert main(["soup", *folders, "-o", str(tmp_path / "model"), "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "run",
        "in",
        "the",
        "soup",
        "seed",
        "dev",
        "spearman",
        "dev",
        "of",
        "the",
        "soup",
        "so",
        "far",
    ]
    table = [line.split() for line in lines[1:5]]
    assert [cells[0] for cells in table] == sorted(folders, key=dev_of, reverse=True)
    assert table[0][1] == "yes", "the best one is always in it"
    assert all(float(cells[3]) == pytest.approx(dev_of(cells[0]), abs=1e-4) for cells in table)
    taken, value = [], -1.0
    for cells in table:
        now = float(cells[4])
        assert now >= value and (cells[1] == "yes" or now == value)
        taken += [cells[0]] if cells[1] == "yes" else []
        value = now
    assert_is(tmp_path / "model", mean_of(taken))
    assert str(worse) not in taken or table[0][0] == str(worse)  # the best run by metrics.json is the start
    best = json.loads((Path(table[0][0]) / "metrics.json").read_text())["splits"]["test"]["after"]["spearman"]["value"]
    of_test = next(line for line in lines if line.startswith("test spearman"))
    assert f"best run {best:.4f}" in of_test and ", soup 0." in of_test


def test_runs_of_minilm_on_stsb(minilm_path: Path, shared_data: Path, tmp_path: Path) -> None:
    for name, n in (("train", 16), ("dev", 24)):
        with (shared_data / "stsb" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))[:n]
        with (tmp_path / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    one = {"max_steps": 1, "schedule": "constant", "warmup_ratio": 0, "batch_size": 16, "precision": "auto"}
    folders = [
        str(go(tmp_path, str(kind), {"path": str(minilm_path)}, {**one, "average": kind}, test=None))
        for kind in (None, "ema")
    ]
    first, tuned, average = (load_file(path) for path in (minilm_path / "model.safetensors", *map(model_file, folders)))
    n_moved = 0
    for name in tuned.keys() & first.keys():
        torch.testing.assert_close(average[name], (2 * first[name] + 9 * tuned[name]) / 11, atol=1e-6, rtol=0)
        n_moved += not torch.allclose(average[name], tuned[name], atol=1e-6)
    assert n_moved > 50
    result = sbert_ft.soup(folders, tmp_path / "model")
    assert_is(result.folder, mean_of([str(run.folder) for run in result.runs if run.is_in_soup]))
    assert set(result.splits) == {"dev"} and result.metric == "spearman"
    after = result.splits["dev"]["after"]["spearman"]["value"]
    assert after == pytest.approx(result.runs[-1].soup_value, abs=1e-6)
    assert after >= max(run.value for run in result.runs) - 1e-6


def test_classifiers_of_one_head_are_averaged(place: Path, tmp_path: Path) -> None:
    """Other seeds draw other heads, which cannot be averaged; runs that start from one head can."""
    labels = {"label_kind": "classes", "label_column": "score", "test": None}
    single = {"kind": "joined"}
    first = go(place, "head", single, {"seed": 1, "max_steps": 1}, **labels)
    other = go(place, "other head", single, {"seed": 2, "max_steps": 1}, **labels)
    with pytest.raises(sbert_ft.SbertFtError) as error:
        sbert_ft.soup([first, other], tmp_path / "model")
    assert "the base model's weights" in str(error.value) and "start all runs from a folder" in str(error.value)
    # on the rows that they learn, so that the temperatures are not all at their limit
    start, labels = {**single, "path": str(first / "model")}, {**labels, "dev": str(place / "train.csv")}
    longer = {"epochs": 4, "learning_rate": 3e-3}
    folders = [str(go(place, f"class-{s}", start, {"seed": s, **longer}, **labels)) for s in (1, 2)]
    result = sbert_ft.soup(folders, tmp_path / "model", uniform=True)
    # the head of a run has its temperature in it
    parts = [*(Path(run) / "model" for run in folders), result.folder]
    folded = [json.loads((part / "sbert_ft.json").read_text())["classifier"]["temperature"] for part in parts]
    assert len(set(folded)) == 3
    one, two, found = (load_file(part / "model.safetensors") for part in parts)
    for name, tensor in found.items():
        scales = folded if name.startswith("classifier.") else (1, 1, 1)
        mean = (one[name] * scales[0] + two[name] * scales[1]) / 2
        torch.testing.assert_close(tensor * scales[2], mean, atol=1e-5, rtol=1e-5, msg=name)
    assert sum(name.startswith("classifier.") for name in found) == 2


def refused(capsys: pytest.CaptureFixture[str], target: Path, *arguments: str) -> str:
    """Return the sentence with which a soup is refused; nothing is written."""
    before = sorted(target.parent.rglob("*"))
    capsys.readouterr()
    assert main(["soup", *arguments, "-o", str(target), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sbert-ft: error: ") and "Traceback" not in said and said.count("\n") == 1
    assert sorted(target.parent.rglob("*")) == before
    return said


def test_runs_that_do_not_fit_are_refused_by_what_differs(
    runs: list[str], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "model"
    base = go(place, "other base", {"path": str(place / "other")}, {"max_steps": 1})
    said = refused(capsys, target, runs[0], str(base))
    assert "cannot be averaged, as these differ: the base model's weights" in said and "other base" in said
    another = go(place, "other dev", {"pooling": "cls"}, {"max_steps": 1}, dev=str(place / "dev2.csv"))
    said = refused(capsys, target, runs[0], str(another))
    assert "model.pooling ('None' and 'cls')" in said and "the content of data.dev" in said
    split = go(place, "split", None, {"max_steps": 1}, dev=None, dev_share=0.25)
    said = refused(capsys, target, str(split), runs[0])
    assert "data.dev_share splits by training.seed" in said
    without = go(place, "without dev", None, {"max_steps": 1}, dev=None)
    assert "has no metric on dev" in refused(capsys, target, runs[0], str(without))


def test_what_is_no_finished_run_is_refused(
    runs: list[str], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "model"
    assert "expected at least two runs to average, found 1" in refused(capsys, target, runs[0])
    assert "is named twice" in refused(capsys, target, runs[0], runs[1], f"{runs[0]}/")
    for name in ("missing", "bert"):
        assert "holds no finished run" in refused(capsys, target, runs[0], str(place / name))
    unfinished = shutil.copytree(runs[1], tmp_path / "unfinished")
    (unfinished / "metrics.json").unlink()
    assert "--resume" in refused(capsys, target, runs[0], str(unfinished))
    (unfinished / "metrics.json").write_text("{")
    assert "metrics.json' is damaged or missing" in refused(capsys, target, runs[0], str(unfinished))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    said = refused(capsys, tmp_path / "full", *runs)
    assert "holds 'notes.txt'; expected a folder that is empty or does not exist" in said
    with pytest.raises(sbert_ft.SbertFtError, match="expected a list of at least two folders"):
        sbert_ft.soup(runs[0], target)


def test_files_that_have_changed_since_the_runs_are_refused(
    runs: list[str], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dev, target = place / "dev.csv", tmp_path / "model"
    before = dev.read_bytes()
    try:
        write(dev, 40, seed=99)
        said = refused(capsys, target, *runs)
        assert "its files have changed: data.dev.sha256 was" in said
        dev.unlink()
        assert "dev.csv" in refused(capsys, target, *runs)
    finally:
        dev.write_bytes(before)


def test_a_damaged_model_leaves_nothing(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = shutil.copytree(runs[1], tmp_path / "broken")
    (broken / "model" / "model.safetensors").write_bytes(b"nothing")
    assert "model.safetensors" in refused(capsys, tmp_path / "model", runs[0], str(broken))
