"""`sbert-ft train` as a user sees it: its plan, what it refuses, and that its results can be used."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COMMON_WORDS
from sentence_transformers import SentenceTransformer

from sbert_ft import ConnectionBert, MaskedLanguageModel, SiameseBert
from sbert_ft.cli import main
from sbert_ft.config.jsonc import read_json_object
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.training.batch_sampler import epoch_batches

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.json"))
WORDS = COMMON_WORDS.split()
SMALL = ["--set", "evaluation.bootstrap_samples=20", "--set", "training.device=cpu"]


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def sbert_ft(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Return a function that runs the command line in this process."""

    def run(*arguments: object) -> Said:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return Said(code, said.out, said.err)

    return run


@pytest.fixture(scope="module")
def model(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("train") / "model", max_positions=128)


def texts(n: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(2, 9))) for _ in range(n)]


def write_rows(path: Path, header: tuple[str, ...], columns: list[list[Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *zip(*columns, strict=True)])
    return path


def write_scored(path: Path, n: int, seed: int) -> Path:
    scores = [5 * i / (n - 1) for i in range(n)]
    random.Random(seed).shuffle(scores)
    return write_rows(path, ("sentence1", "sentence2", "score"), [texts(n, seed), texts(n, seed + 100), scores])


def write_config(path: Path, model: Path, **sections: Any) -> Path:
    """Write a run's configuration beside its data, with a few quick steps unless other values are given."""
    content = {
        "model": {"path": str(model)},
        "data": {name: str(path.parent / f"{name}.csv") for name in ("train", "dev", "test")},
        "training": {"batch_size": 8, "learning_rate": 1e-3, "device": "cpu", "logging_steps": 2, "seed": 3},
        "evaluation": {"bootstrap_samples": 20},
        "output_dir": str(path.parent / "run"),
    }
    for name, section in sections.items():
        merge = isinstance(section, dict) and name in ("training", "evaluation")
        content[name] = {**content[name], **section} if merge else section
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def config(tmp_path: Path, model: Path) -> Path:
    """Return a configuration of a run on scored pairs."""
    for seed, (name, n) in enumerate({"train": 40, "dev": 16, "test": 16}.items()):
        write_scored(tmp_path / f"{name}.csv", n, seed)
    return write_config(tmp_path / "run.json", model)


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that holds a finished run, `run`, with its data and configuration beside it."""
    place = tmp_path_factory.mktemp("finished")
    for seed, (name, n) in enumerate({"train": 40, "dev": 30, "test": 30}.items()):
        write_scored(place / f"{name}.csv", n, seed)
    assert main(["train", str(write_config(place / "run.json", model, training={"epochs": 2})), "--quiet"]) == 0
    return place


def metrics_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return content


# ---------------------------------------------------------------- the shipped configurations


@pytest.mark.parametrize("shipped", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_trains_a_model(
    sbert_ft: Callable[..., Said], model: Path, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # its paths are the sample pairs of the project
    places = ["--set", f"model.path={model}", "--set", f"output_dir={tmp_path / 'run'}"]
    said = sbert_ft("train", shipped.relative_to(ROOT), *places, "--set", "training.max_steps=2", *SMALL)
    assert said.code == 0, said.err
    metrics = metrics_of(tmp_path / "run")
    assert metrics["steps"] == 2
    assert set(metrics["splits"]) == {"dev", "test"}
    stored = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert stored["training"]["batch_size"] == read_json_object(shipped)["training"]["batch_size"]
    tuned = ConnectionBert.from_pretrained(tmp_path / "run" / "model", device="cpu", precision="float32")
    base = ConnectionBert.from_pretrained(model, device="cpu", precision="float32")
    before = dict(base.encoder.named_parameters())
    assert any(not torch.equal(before[name], weight) for name, weight in tuned.encoder.named_parameters())
    if stored["model"]["kind"] == "siamese":
        assert np.isfinite(SiameseBert(tuned).encode(["a dog"])).all()
    elif stored["model"]["kind"] == "masked_lm":
        language_model = MaskedLanguageModel.from_pretrained(tmp_path / "run" / "model", "cpu", "float32")
        assert np.isfinite([found["score"] for found in language_model.fill_mask("a [MASK]")]).all()
    else:
        classifier = ClassifierModel.from_pretrained(tmp_path / "run" / "model", "cpu", "float32")
        row = "a dog" if classifier.n_texts == 1 else ("a dog", "a cat")
        assert np.isfinite(classifier.predict_proba([row])).all()


def test_configurations_are_shipped() -> None:
    assert len(CONFIGS) >= 5


# ---------------------------------------------------------------- before


def test_a_dry_run_says_the_plan_and_the_first_batch_and_writes_nothing(
    sbert_ft: Callable[..., Said], config: Path
) -> None:
    before = sorted(config.parent.rglob("*"))
    said = sbert_ft("train", config, "--dry-run", "--set", "training.epochs=3")
    assert said.code == 0, said.err
    assert sorted(config.parent.rglob("*")) == before
    assert re.search(r"40 pairs, objective cosine\n", said.out)
    assert re.search(r"15 steps \(3 epochs\), batch 8, rate 0\.001, linear after 2 steps of warm-up", said.out)
    assert re.search(r"tokens a text: .*; none is cut\n", said.out)
    assert "memory foreseen" in said.out and "cpu (" in said.out
    assert re.search(r"first batch: 8 rows, \d+ tokens in \d+ x \d+", said.out)
    shown = re.findall(r"^  line (\d+): \S+  '(.*)' \| '(.*)'$", said.out, re.MULTILINE)
    rows = epoch_batches(40, 8, 3, 0)[0].tolist()
    dataset = ConnectionDataset.from_file(config.parent / "train.csv")
    assert [(int(line), a, b) for line, a, b in shown] == [(row + 2, *dataset[row].texts) for row in rows]


def test_a_dry_run_is_made_beside_a_run_that_is_there(sbert_ft: Callable[..., Said], finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert sbert_ft("train", finished / "run.json", "--dry-run").code == 0
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_text_cannot_drive_the_terminal_in_a_dry_run(sbert_ft: Callable[..., Said], config: Path) -> None:
    path = config.parent / "train.csv"
    path.write_text(path.read_text().replace("\n", "\nred \x1b[31m alarm \x07 bell ", 40), encoding="utf-8")
    said = sbert_ft("train", config, "--dry-run")
    assert said.code == 0, said.err
    assert "\x1b" not in said.out + said.err and "\x07" not in said.out + said.err
    assert r"red \x1b[31m alarm \x07 bell" in said.out


def test_what_is_set_on_the_command_line_is_what_the_run_is(sbert_ft: Callable[..., Said], config: Path) -> None:
    overrides = ["training.max_steps=3", "objective=cosent", "training.schedule=constant", "training.warmup_steps=0"]
    said = sbert_ft("train", config, *(part for override in overrides for part in ("--set", override)))
    assert said.code == 0, said.err
    stored = json.loads((config.parent / "run" / "config.json").read_text())
    assert stored["training"]["max_steps"] == 3 and stored["objective"][0]["name"] == "cosent"
    metrics = metrics_of(config.parent / "run")
    assert (metrics["steps"], metrics["objective"]) == (3, ["cosent"])
    lines = [json.loads(line) for line in (config.parent / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["learning_rate"] for line in lines if line["kind"] == "train"} == {1e-3}
    assert {line["epoch"] for line in lines if line["step"] == 3} == {0.6}  # both kinds of lines say the same


# ---------------------------------------------------------------- refused


def assert_nothing_written(config: Path) -> None:
    assert not (config.parent / "run").exists()


def test_all_faults_of_a_configuration_are_said_at_once(sbert_ft: Callable[..., Said], config: Path) -> None:
    content = json.loads(config.read_text())
    content["training"] |= {"epochs": 0, "learning_rte": 1e-5, "batch_size": "sixteen"}
    config.write_text(json.dumps(content))
    said = sbert_ft("train", config)
    assert (said.code, said.out) == (2, "")
    for word in ("training.epochs", "learning_rte", "learning_rate", "training.batch_size"):
        assert word in said.err
    assert_nothing_written(config)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"model": {"path": "x"}, "model": {}}', "\x00"])
def test_what_is_no_configuration_is_refused(sbert_ft: Callable[..., Said], config: Path, content: str) -> None:
    config.write_text(content)
    said = sbert_ft("train", config)
    assert said.code == 2 and "run.json" in said.err


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.path=nowhere", "nowhere"),
        ("data.train=nowhere.csv", "nowhere.csv"),
        ("data.dev=nowhere.csv", "nowhere.csv"),
        ("data.test=nowhere.csv", "nowhere.csv"),
        ('data.text_columns=["left","right"]', "left"),
        ("data.label_column=grade", "grade"),
        ("training.device=cuda:7", "cuda:7"),
        ("model.freeze_layers=9", "model.freeze_layers"),
        ("model.max_seq_length=4096", "4096"),
        ("training.metric=f2", "training.metric"),
        ("evaluation.match_from=9", "match_from"),
    ],
)
def test_what_cannot_be_is_refused_by_name_before_anything_is_written(
    sbert_ft: Callable[..., Said], config: Path, override: str, named: str
) -> None:
    said = sbert_ft("train", config, "--set", override)
    assert (said.code, said.out) == (2, "")
    assert named in said.err.splitlines()[-1], said.err
    assert_nothing_written(config)


@pytest.mark.parametrize(
    ("objective", "fitting"), [("in_batch_negatives", "cosine"), ("triplet", "cosent"), ("contrastive", "angle")]
)
def test_an_objective_that_does_not_fit_the_pairs_is_refused_with_those_that_do(
    sbert_ft: Callable[..., Said], config: Path, objective: str, fitting: str
) -> None:
    said = sbert_ft("train", config, "--set", f"objective={objective}")
    assert (said.code, said.out) == (2, "")
    assert f"objective {objective}" in said.err and fitting in said.err.partition("fit this data")[2]
    assert_nothing_written(config)


def test_a_row_that_cannot_be_used_is_refused_by_its_line(sbert_ft: Callable[..., Said], config: Path) -> None:
    path = config.parent / "train.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:7], "a man,a dog,rather similar", *lines[8:]]))
    said = sbert_ft("train", config)
    assert said.code == 2 and "8" in said.err and "rather similar" in said.err
    assert_nothing_written(config)
    said = sbert_ft("train", config, "--set", "data.on_bad_row=skip", "--set", "training.max_steps=1")
    assert said.code == 0, said.err
    ledger = json.loads((config.parent / "run" / "ledger.json").read_text())["train"]
    assert (ledger["n_rows"], ledger["n_kept"]) == (40, 39)


@pytest.mark.parametrize(
    ("options", "said_of_it"),
    [
        (["--allow-changes"], "--resume"),
        (["--resume", "--overwrite"], "not allowed with"),
        (["--resume"], "no run to resume"),
        (["--epochs", "3"], "--epochs"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    sbert_ft: Callable[..., Said], config: Path, options: list[str], said_of_it: str
) -> None:
    said = sbert_ft("train", config, *options)
    assert said.code == 2 and said_of_it in said.err
    assert_nothing_written(config)


def test_a_file_in_the_runs_place_is_refused_before_the_data_are_read(
    sbert_ft: Callable[..., Said], config: Path
) -> None:
    (config.parent / "run").write_text("a person's")
    said = sbert_ft("train", config)
    assert said.code == 2 and "is a file" in said.err and "train.csv" not in said.err
    assert (config.parent / "run").read_text() == "a person's"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_place_that_may_not_be_written_is_refused_before_the_data_are_read(
    sbert_ft: Callable[..., Said], config: Path
) -> None:
    (config.parent / "run").mkdir()
    (config.parent / "run").chmod(0o555)
    said = sbert_ft("train", config)
    assert said.code == 2 and "cannot be written" in said.err and "train.csv" not in said.err


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_tensorboard_that_is_asked_for_and_absent_is_said_at_once(sbert_ft: Callable[..., Said], config: Path) -> None:
    said = sbert_ft("train", config, "--set", "training.tensorboard=true")
    assert said.code == 2 and "tensorboard" in said.err and "train.csv" not in said.err
    assert_nothing_written(config)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_that_is_asked_for_gets_its_files(sbert_ft: Callable[..., Said], config: Path) -> None:
    said = sbert_ft("train", config, "--set", "training.tensorboard=true", "--set", "training.max_steps=2")
    assert said.code == 0, said.err
    assert list((config.parent / "run" / "tensorboard").glob("events.out.tfevents.*"))


# ---------------------------------------------------------------- what a run writes


def test_all_that_the_help_names_is_there(sbert_ft: Callable[..., Said], finished: Path) -> None:
    help_text = sbert_ft("train", "--help").out
    named = help_text.partition("(output_dir) holds ")[2].partition("Ctrl-C")[0]
    names = re.findall(r"[a-z_]+(?:\.[a-z]+|/)", named)
    assert {"model/", "report.html", "metrics.json", "checkpoints/"} <= set(names) and len(names) >= 9
    for name in names:
        path = finished / "run" / name
        assert path.is_dir() if name.endswith("/") else path.stat().st_size > 0
    assert not [path.name for path in (finished / "run").iterdir() if path.name.startswith(".")]


def test_it_prints_before_and_after_the_threshold_and_where_all_is(sbert_ft: Callable[..., Said], config: Path) -> None:
    said = sbert_ft("train", config)
    assert said.code == 0, said.err
    number, interval = r"-?\d\.\d{4}", r" \(-?\d\.\d{4} to -?\d\.\d{4}\)"
    change = r"[+-]\d\.\d{4} \([+-]\d\.\d{4} to [+-]\d\.\d{4}\)"
    for name in ("dev", "test"):
        line = rf"^{name} spearman: {number}{interval} before, {number}{interval} after, change {change}$"
        assert re.search(line, said.out, re.MULTILINE), said.out
    assert re.search(r"^texts belong together from a cosine of -?\d\.\d{4} \(on dev: .*\)$", said.out, re.MULTILINE)
    assert f"model:  {config.parent / 'run' / 'model'}\n" in said.out
    assert f"report: {config.parent / 'run' / 'report.html'}\n" in said.out
    assert "train.csv, 40 of 40 rows" in said.err and "step 5: dev spearman" in said.err


def test_quiet_leaves_the_results_alone(sbert_ft: Callable[..., Said], config: Path) -> None:
    said = sbert_ft("train", config, "--quiet")
    assert said.code == 0
    assert all(line.startswith("warning: ") for line in said.err.splitlines()), said.err
    assert "dev spearman" in said.out


def test_the_log_has_a_line_for_each_interval_and_evaluation(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [2, 4, 6, 8, 10]
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [5, 10]
    for line in lines:
        if line["kind"] == "train":
            keys = {"kind", "step", "epoch", "loss", "learning_rate", "grad_norm", "rows_per_second", "seconds"}
            assert set(line) == keys and line["loss"] > 0 and line["grad_norm"] > 0 and line["rows_per_second"] > 0
        else:
            assert set(line) == {"kind", "step", "epoch", "split", "metrics", "best"} and line["split"] == "dev"


def test_the_ledger_accounts_for_every_row_of_every_file(finished: Path) -> None:
    ledger = json.loads((finished / "run" / "ledger.json").read_text())
    assert {name: (part["n_rows"], part["n_kept"]) for name, part in ledger.items()} == {
        "train": (40, 40),
        "dev": (30, 30),
        "test": (30, 30),
    }


@pytest.mark.parametrize("name", ["dev", "test"])
def test_evaluate_agrees_with_what_the_run_says(sbert_ft: Callable[..., Said], finished: Path, name: str) -> None:
    model, pairs = finished / "run" / "model", finished / f"{name}.csv"
    said = sbert_ft("evaluate", model, pairs, "--json", "--samples", 20, "--device", "cpu")
    assert said.code == 0, said.err
    assert ("chosen on these very pairs" in said.err) == (name == "dev")
    found, expected = json.loads(said.out)["metrics"], metrics_of(finished / "run")["splits"][name]["after"]
    assert set(found) == set(expected)
    for metric, score in expected.items():
        assert found[metric]["value"] == pytest.approx(score["value"], abs=1e-6), metric
        assert found[metric]["low"] == pytest.approx(score["low"], abs=1e-6), metric


def test_evaluate_against_the_base_model_agrees_with_the_difference(
    sbert_ft: Callable[..., Said], finished: Path, model: Path
) -> None:
    arguments = [finished / "test.csv", "--against", model, "--json", "--samples", 20, "--device", "cpu"]
    said = sbert_ft("evaluate", finished / "run" / "model", *arguments)
    assert said.code == 0, said.err
    expected = metrics_of(finished / "run")["splits"]["test"]["difference"]["spearman"]
    found = json.loads(said.out)["difference"]["spearman"]
    assert (found["value"], found["low"]) == pytest.approx((expected["value"], expected["low"]), abs=1e-6)


def test_sentence_transformers_loads_the_model_and_finds_the_same_vectors(finished: Path) -> None:
    folder = finished / "run" / "model"
    few = texts(20, seed=9)
    ours = SiameseBert.from_pretrained(folder, device="cpu", precision="float32")
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    np.testing.assert_allclose(ours.encode(few), theirs.encode(few), atol=5e-6)


def test_the_threshold_of_the_report_is_that_of_the_model(finished: Path) -> None:
    decision = metrics_of(finished / "run")["decision"]
    tuned = SiameseBert.from_pretrained(finished / "run" / "model", device="cpu", precision="float32")
    assert tuned.decision is not None
    assert tuned.decision.threshold == decision["threshold"]
    assert f"{decision['threshold']:.2f}" in (finished / "run" / "report.html").read_text(encoding="utf-8")
    pairs = list(ConnectionDataset.from_file(finished / "dev.csv").pairs())
    assert tuned.match(pairs).any() and not tuned.match(pairs).all()


def test_it_learns_what_the_pairs_say(sbert_ft: Callable[..., Said], config: Path) -> None:
    """With the training pairs as dev, a few epochs must improve the metric that chooses the best step."""
    options = ["--set", "training.epochs=6", "--set", f"data.dev={config.parent / 'train.csv'}"]
    assert sbert_ft("train", config, *options).code == 0
    split = metrics_of(config.parent / "run")["splits"]["dev"]
    assert split["after"]["spearman"]["value"] > split["before"]["spearman"]["value"] + 0.2


def test_a_process_of_its_own_trains_and_says_so(config: Path) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-W", "error::DeprecationWarning:sbert_ft", "-m", "sbert_ft", "train", str(config)]
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*command, "--set", "training.max_steps=2"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "dev spearman" in done.stdout and "Traceback" not in done.stderr and "\r" not in done.stderr


# ---------------------------------------------------------------- kinds of pairs


def kept_and_metrics(config: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    folder = config.parent / "run"
    return json.loads((folder / "ledger.json").read_text()), metrics_of(folder)


@pytest.mark.parametrize("objective", ["triplet", "in_batch_negatives"])
def test_triplets(sbert_ft: Callable[..., Said], model: Path, tmp_path: Path, objective: str) -> None:
    for seed, (name, n) in enumerate({"train": 24, "dev": 12}.items()):
        columns = [texts(n, 10 * seed + i) for i in range(3)]
        write_rows(tmp_path / f"{name}.csv", ("anchor", "positive", "negative"), columns)
    data = {name: str(tmp_path / f"{name}.csv") for name in ("train", "dev")}
    config = write_config(tmp_path / "run.json", model, data=data, objective=objective, training={"epochs": 2})
    said = sbert_ft("train", config)
    assert said.code == 0, said.err
    assert "24 triplets" in said.err and "dev average precision: " in said.out
    metrics = metrics_of(tmp_path / "run")
    assert metrics["best"]["metric"] == "average_precision"
    assert "12 anchors" in metrics["splits"]["dev"]["note"]


def test_pairs_known_only_to_match_with_a_share_for_dev(
    sbert_ft: Callable[..., Said], model: Path, tmp_path: Path
) -> None:
    columns = [texts(60, 1), texts(60, 2)]
    columns[0][10] = columns[0][11] = columns[0][12]
    write_rows(tmp_path / "train.csv", ("text_a", "text_b"), columns)
    data = {"train": str(tmp_path / "train.csv"), "dev_share": 0.25}
    objective = {"name": "in_batch_negatives", "symmetric": True}
    training = {"epochs": 2, "micro_batch_size": 3}
    config = write_config(tmp_path / "run.json", model, data=data, objective=objective, training=training)
    said = sbert_ft("train", config)
    assert said.code == 0, said.err
    ledger, metrics = kept_and_metrics(config)
    assert ledger["train"]["n_kept"] + ledger["dev"]["n_kept"] == 60
    assert 12 <= ledger["dev"]["n_kept"] <= 18
    assert metrics["best"]["metric"] == "average_precision" and metrics["decision"] is not None
    assert "known to match" in metrics["splits"]["dev"]["note"]


@pytest.mark.parametrize("objective", ["contrastive", "online_contrastive", "cosine", "cosent"])
def test_labels_in_words(sbert_ft: Callable[..., Said], model: Path, tmp_path: Path, objective: str) -> None:
    for seed, (name, n) in enumerate({"train": 36, "dev": 24, "test": 24}.items()):
        labels = [("entailment", "neutral", "contradiction")[i % 3] for i in range(n)]
        columns = [texts(n, 10 * seed), texts(n, 10 * seed + 1), labels]
        write_rows(tmp_path / f"{name}.csv", ("premise", "hypothesis", "label"), columns)
    data = {name: str(tmp_path / f"{name}.csv") for name in ("train", "dev", "test")}
    config = write_config(tmp_path / "run.json", model, data=data, objective=objective)
    said = sbert_ft("train", config)
    assert said.code == 2 and "label_values" in said.err and "'neutral'" in said.err
    assert_nothing_written(config)
    meaning = {"entailment": 1, "contradiction": 0}
    config = write_config(tmp_path / "run.json", model, data={**data, "label_values": meaning}, objective=objective)
    said = sbert_ft("train", config)
    assert said.code == 0, said.err
    ledger, metrics = kept_and_metrics(config)
    assert (ledger["train"]["n_rows"], ledger["train"]["n_kept"]) == (36, 24)
    assert set(metrics["splits"]["test"]["after"]) >= {"average_precision", "roc_auc", "f1", "accuracy", "mcc"}
    assert "spearman" not in metrics["splits"]["test"]["after"]


def test_without_dev_and_test_it_trains_and_warns_that_nothing_judged_it(
    sbert_ft: Callable[..., Said], config: Path, model: Path
) -> None:
    write_config(config, model, data={"train": str(config.parent / "train.csv")})
    said = sbert_ft("train", config)
    assert said.code == 0, said.err
    assert "warning: the tuned model was not evaluated" in said.err
    metrics = metrics_of(config.parent / "run")
    assert (metrics["splits"], metrics["best"], metrics["decision"]) == ({}, None, None)
    assert (config.parent / "run" / "report.html").exists()
    said = sbert_ft("train", config, "--overwrite", "--set", "training.early_stopping_patience=2")
    assert said.code == 2 and "data.dev" in said.err


def test_texts_that_are_cut_are_counted_with_their_lines(sbert_ft: Callable[..., Said], config: Path) -> None:
    said = sbert_ft("train", config, "--set", "model.max_seq_length=5", "--set", "training.max_steps=1")
    assert said.code == 0, said.err
    cut = [f for f in json.loads((config.parent / "run" / "ledger.json").read_text())["train"]["findings"]]
    found = next(finding for finding in cut if finding["kind"] == "cut")
    assert found["count"] > 10 and not found["dropped"] and 0 < len(found["first"]) <= 5
    assert "longer than 5 tokens, which is cut" in said.err
    assert any("cut" in warning for warning in metrics_of(config.parent / "run")["warnings"])


def test_what_the_data_are_warned_of_stands_in_the_report(sbert_ft: Callable[..., Said], config: Path) -> None:
    path = config.parent / "train.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1], lines[2]]) + "\n")
    said = sbert_ft("train", config, "--set", "training.max_steps=1")
    assert said.code == 0 and "repeat" in said.err
    found = json.loads((config.parent / "run" / "ledger.json").read_text())["train"]["findings"]
    assert any(finding["kind"] == "duplicate" and finding["count"] == 2 for finding in found), found
    assert "repeat" in (config.parent / "run" / "report.html").read_text(encoding="utf-8")


def test_the_callers_random_states_stay_as_they_were(sbert_ft: Callable[..., Said], config: Path) -> None:
    before = torch.get_rng_state()
    assert sbert_ft("train", config, "--set", "training.max_steps=2").code == 0
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- classifiers

SIGNALS = {"긍정": "music", "부정": "street", "보통": "water"}


@pytest.fixture(params=["joined", "towers", "single"])
def classifier(request: pytest.FixtureRequest, tmp_path: Path, model: Path) -> Path:
    """Return a configuration of a run on rows whose Korean class is shown by one of their words."""
    for seed, (name, n) in enumerate({"train": 48, "dev": 24, "test": 24}.items()):
        labels = [list(SIGNALS)[i % 3] for i in range(n)]
        signs = [f"{SIGNALS[label]} {text}" for label, text in zip(labels, texts(n, seed + 40), strict=True)]
        if request.param == "single":
            write_rows(tmp_path / f"{name}.csv", ("document", "label"), [signs, labels])
        else:
            header = ("premise", "hypothesis", "label")
            write_rows(tmp_path / f"{name}.csv", header, [texts(n, seed + 80), signs, labels])
    path = write_config(tmp_path / "run.json", model, training={"epochs": 2})
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "model": {"path": str(model), "kind": request.param}}), encoding="utf-8")
    return path


def test_a_dry_run_shows_the_rows_of_a_classifier_with_their_classes(
    sbert_ft: Callable[..., Said], classifier: Path
) -> None:
    said = sbert_ft("train", classifier, "--dry-run")
    assert said.code == 0, said.err
    dataset = ConnectionDataset.from_file(classifier.parent / "train.csv")
    rows = epoch_batches(48, 8, 3, 0)[0].tolist()
    shown = re.findall(r"^  line (\d+): (\S+)  (.*)$", said.out, re.MULTILINE)
    expected = []
    for row in rows:
        _, label, line = dataset[row]
        assert label is not None
        expected.append((str(line), dataset.class_names[int(label)], " | ".join(f"'{t}'" for t in dataset[row].texts)))
    assert shown == expected
    assert re.search(r"first batch: 8 rows, \d+ tokens in ", said.out)
    assert not (classifier.parent / "run").exists()


def test_it_prints_accuracy_and_macro_f1_of_a_classifier_and_of_what_it_is_to_beat(
    sbert_ft: Callable[..., Said], classifier: Path
) -> None:
    said = sbert_ft("train", classifier, "--quiet")
    assert said.code == 0, said.err
    after = metrics_of(classifier.parent / "run")["splits"]["test"]["after"]
    for metric, words in (("accuracy", "accuracy"), ("macro_f1", "macro F1")):
        line = re.search(rf"^test {words}: \S+ \(.*\) before \(the majority class\), (\S+) .*$", said.out, re.MULTILINE)
        assert line is not None, said.out
        assert line[1] == f"{after[metric]['value']:.4f}"
    assert "cosine" not in said.out
    evaluated = sbert_ft("evaluate", classifier.parent / "run" / "model", classifier.parent / "test.csv", *JSON)
    assert evaluated.code == 0, evaluated.err
    found = json.loads(evaluated.out)["metrics"]
    assert {name: score["value"] for name, score in found.items()} == {
        name: pytest.approx(score["value"]) for name, score in after.items()
    }


JSON = ["--json", "--quiet", "--samples", "20", "--device", "cpu", "--precision", "float32"]


def test_prompts_by_column_reach_every_command(sbert_ft: Callable[..., Said], model: Path, tmp_path: Path) -> None:
    lines = "".join(f"what is {i},it is {i} more,{i % 6 / 5}\n" for i in range(12))
    (tmp_path / "asked.csv").write_text(f"question,answer,score\n{lines}", "utf-8")
    config = {
        "model": {"path": str(model)},
        "data": {
            **{"train": str(tmp_path / "asked.csv"), "test": str(tmp_path / "asked.csv")},
            "prompts": {"question": "the query: ", "answer": "a passage: "},
        },
        "training": {"max_steps": 2, "device": "cpu", "precision": "float32"},
        "output_dir": str(tmp_path / "run"),
    }
    (tmp_path / "run.json").write_text(json.dumps(config), "utf-8")
    assert (
        "texts begin with the prompts 'the query: ', 'a passage: '"
        in sbert_ft("train", tmp_path / "run.json", "--dry-run").out
    )
    assert sbert_ft("train", tmp_path / "run.json").code == 0
    tuned = SiameseBert.from_pretrained(tmp_path / "run" / "model", device="cpu", precision="float32")
    plain = tuned.encode(["the query: cat", "a passage: dog"])
    expected = float(tuned.similarity_pairwise(plain[:1], plain[1:])[0])
    said = sbert_ft("score", tmp_path / "run" / "model", "cat", "dog", "--device", "cpu", "--precision", "float32")
    assert abs(float(said.out.split()[0]) - expected) < 1e-4
    found = sbert_ft(
        *("evaluate", tmp_path / "run" / "model", tmp_path / "asked.csv", "--json", "--samples", 10),
        *("--device", "cpu", "--precision", "float32"),
    )
    value = metrics_of(tmp_path / "run")["splits"]["test"]["after"]["spearman"]["value"]
    assert json.loads(found.out)["metrics"]["spearman"]["value"] == pytest.approx(value, abs=1e-9)
    for change, said_of in (
        (['data.prompts={"answr":"a"}'], "names 'answr', but the texts of"),
        (["model.kind=joined"], "data.prompts"),
    ):
        refused = sbert_ft(
            "train", tmp_path / "run.json", "--overwrite", *(part for one in change for part in ("--set", one))
        )
        assert refused.code == 2 and said_of in refused.err
