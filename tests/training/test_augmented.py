"""Runs with a joined classifier as teacher: their silver pairs, their stages, and what is refused.

The models are small BERTs and all processes are real ones.
"""

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COMMON_WORDS, make_bert_folder
from safetensors.torch import load_file
from test_distributed import WEIGHT_TOLERANCE, Runs, runs  # noqa: F401 (runs is a fixture)
from warm import WarmProcess

from sbert_ft import EvaluationSettings, Reading, SiameseBert, TrainingSettings, fine_tune
from sbert_ft.cli import main
from sbert_ft.config.loader import read_run
from sbert_ft.config.settings import TeacherSettings
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.data.duplicates import text_key
from sbert_ft.encoder.ranks import Ranks
from sbert_ft.errors import InputError
from sbert_ft.evaluation.pair_evaluator import PairEvaluator
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.training.fine_tune import load_run
from sbert_ft.training.gold_alone import GoldAlone

WORDS = COMMON_WORDS.split()
TEACHER = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 16, "pairs_per_text": 2}
STEP = {"module": "sbert_ft.training.loop", "name": "backward"}
TABLE = {"module": "sbert_ft.training.silver", "name": "write_rows"}
DESCRIBED = {"module": "sbert_ft.training.silver", "name": "write_json"}
CHOICE = {"module": "sbert_ft.training.run", "name": "_better_by_dev"}
# 40 pairs in batches of 8 and 16: five steps of gold, then six of the teacher
N_GOLD, N_TEACHER = 5, 6


def write_pairs(
    path: Path, n: int, seed: int, label: Callable[[float], object] = lambda share: round(5 * share, 2)
) -> Path:
    """Write pairs of which a share of the words is the same, with a label of this share."""
    draw = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["sentence1", "sentence2", "score"])
        for i in range(n):
            first = draw.choices(WORDS, k=draw.randint(4, 9))
            second = [word if draw.random() < i / n else draw.choice(WORDS) for word in first]
            rows.writerow([" ".join(first), " ".join(second), label(i / n)])
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small BERT, and with train, dev and test of graded scores and of labels 0 and 1."""
    place = tmp_path_factory.mktemp("augmented")
    make_bert_folder(place / "bert", safetensors=True)
    for seed, (name, n) in enumerate({"train": 40, "dev": 30, "test": 30}.items()):
        write_pairs(place / f"{name}.csv", n, seed)
        write_pairs(place / f"{name}01.csv", n, seed, lambda share: int(share >= 0.5))
    return place


def config(
    place: Path, output_dir: Path, teacher: Mapping[str, Any] | None = MappingProxyType({}), **sections: Any
) -> Path:
    """Write a configuration beside the folder of its run, and return its path."""
    labels = sections.pop("labels", "")
    content: dict[str, Any] = {
        "model": {"path": str(place / "bert")},
        "data": {name: str(place / f"{name}{labels}.csv") for name in ("train", "dev", "test")},
        "training": {"batch_size": 8, "learning_rate": 1e-3, "device": "cpu", "logging_steps": 1, "save_steps": 2},
        "evaluation": {"bootstrap_samples": 10},
        "teacher": None if teacher is None else {**TEACHER, **teacher},
        "output_dir": str(output_dir),
    }
    if not labels:
        content["data"]["score_range"] = [0, 5]
    for name, section in sections.items():
        content[name] = {**content[name], **section} if isinstance(section, dict) and name in content else section
    path = output_dir.with_suffix(".json")
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    first, second = weights_of(one), weights_of(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a log, without what depends on the clock."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in one.items() if "second" not in key} for one in records]


def silver_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "silver.csv").open(newline="", encoding="utf-8") as file:
        return [*csv.DictReader(file)]


def keys_of(path: Path) -> set[frozenset[int]]:
    return {frozenset(map(text_key, texts)) for texts in ConnectionDataset(path).rows_of_texts()}


def texts_in(path: Path) -> set[int]:
    return {key for pair in keys_of(path) for key in pair}


@pytest.fixture(scope="module")
def unbroken(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run that trained its teacher; not to be changed."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert main(["train", str(config(place, folder)), "--quiet"]) == 0
    return folder


def test_the_run_learns_gold_and_silver_and_keeps_the_better_by_dev(place: Path, unbroken: Path) -> None:
    found = metrics_of(unbroken)["silver"]
    n_gold, rows = len(ConnectionDataset(place / "train.csv")), silver_rows(unbroken)
    assert found["n_silver"] == len(rows) > 20 and f"{n_gold + len(rows)} pairs" in metrics_of(unbroken)["plan"][1]
    assert len(log_of(unbroken / "gold")) == N_GOLD + 1 and len(log_of(unbroken / "teacher")) == N_TEACHER + 2
    gold, both = found["dev"]["gold alone"], found["dev"]["gold and silver"]
    assert found["chosen"] == ("gold and silver" if both > gold else "gold alone")
    assert same_weights(unbroken / "model", unbroken / "gold" / "model") == (found["chosen"] == "gold alone")
    assert gold == pytest.approx(metrics_of(unbroken / "gold")["splits"]["dev"]["after"]["spearman"]["value"], abs=1e-6)
    assert found["splits"]["dev"]["difference"]["spearman"]["value"] == pytest.approx(both - gold, abs=1e-6)
    after = metrics_of(unbroken)["splits"]["dev"]["after"]["spearman"]["value"]
    assert after == pytest.approx(max(gold, both), abs=1e-6)
    of_teacher = metrics_of(unbroken / "teacher")["splits"]["dev"]["after"]["spearman"]["value"]
    assert found["teacher"]["dev"]["spearman"]["value"] == pytest.approx(of_teacher, abs=1e-6)
    report = (unbroken / "report.md").read_text()
    for part in (
        "Gold alone, and gold with silver pairs",
        "| Silver pairs |",
        "Share of the pairs by score",
        "Teacher",
    ):
        assert part in report
    assert json.loads((unbroken / "ledger.json").read_text())["train"]["n_kept"] == n_gold + len(rows)


def test_gold_alone_is_the_run_without_a_teacher(place: Path, unbroken: Path, tmp_path: Path) -> None:
    assert main(["train", str(config(place, tmp_path / "run", teacher=None)), "--quiet"]) == 0
    assert same_weights(tmp_path / "run" / "model", unbroken / "gold" / "model")


def test_silver_pairs_are_new_pairs_of_training_texts_with_the_scores_of_the_teacher(
    place: Path, unbroken: Path
) -> None:
    rows = silver_rows(unbroken)
    silver = [frozenset(map(text_key, (row["sentence1"], row["sentence2"]))) for row in rows]
    assert len({*silver}) == len(silver)
    for split in ("train", "dev", "test"):
        assert not {*silver} & keys_of(place / f"{split}.csv")
    assert {key for pair in silver for key in pair} <= texts_in(place / "train.csv")
    assert {row["found_by"] for row in rows} == {"nearest", "random"}
    teacher = ClassifierModel.from_pretrained(unbroken / "teacher" / "model", "cpu")
    wanted = teacher.predict([(row["sentence1"], row["sentence2"]) for row in rows])
    np.testing.assert_allclose([float(row["score"]) for row in rows], wanted, atol=1e-5)


@pytest.mark.parametrize(
    "strike",
    [
        pytest.param({**STEP, "nth": 4}, id="gold"),
        pytest.param({**STEP, "nth": N_GOLD + 4}, id="teacher"),
        pytest.param({**TABLE, "nth": 1}, id="before silver.csv"),
        pytest.param({**DESCRIBED, "nth": 1}, id="after silver.csv"),
        pytest.param({**STEP, "nth": N_GOLD + N_TEACHER + 4}, id="gold and silver"),
        pytest.param({**CHOICE, "nth": 1}, id="choice"),
    ],
)
def test_killed_in_any_stage_it_goes_on_as_the_unbroken_run(
    place: Path, unbroken: Path, warm: WarmProcess, tmp_path: Path, strike: dict[str, Any]
) -> None:
    path, call = str(config(place, tmp_path / "run")), "warm.calls:command"
    killed = warm.run(call, argv=["train", path, "--quiet"], strike={**strike, "signals": [signal.SIGKILL]})
    assert killed.code == -signal.SIGKILL
    again = warm.run(call, argv=["train", path, "--quiet"])
    assert again.code == 2 and "holds another run; continue it with --resume" in again.err
    resumed = warm.run(call, argv=["train", path, "--quiet", "--resume"])
    assert resumed.code == 0, resumed.said
    assert (tmp_path / "run" / "silver.csv").read_bytes() == (unbroken / "silver.csv").read_bytes()
    for part in (".", "gold", "teacher"):
        assert log_of(tmp_path / "run" / part) == log_of(unbroken / part)
        assert same_weights(tmp_path / "run" / part / "model", unbroken / part / "model")
    assert metrics_of(tmp_path / "run")["silver"]["dev"] == metrics_of(unbroken)["silver"]["dev"]


def test_a_signal_ends_it_in_the_run_of_the_teacher_and_says_how_to_go_on(
    place: Path, warm: WarmProcess, tmp_path: Path
) -> None:
    path = str(config(place, tmp_path / "run"))
    strike = {**STEP, "nth": N_GOLD + 3, "signals": [signal.SIGTERM]}
    ended = warm.run("warm.calls:command", argv=["train", path], strike=strike)
    assert ended.code == 143
    assert "the run was ended by SIGTERM after step 3; continue with --resume" in ended.err


def test_a_finished_run_is_left_as_it_is(unbroken: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in unbroken.rglob("*") if path.is_file()}
    assert main(["train", str(unbroken.with_suffix(".json")), "--quiet", "--resume"]) == 0
    assert "was finished; nothing was changed" in capfd.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in unbroken.rglob("*") if path.is_file()} == before


def test_two_processes_make_the_run_of_one(runs: Runs, place: Path, tmp_path: Path) -> None:  # noqa: F811
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    make_bert_folder(tmp_path / "still", safetensors=True, config_extra=still)
    model, training = {"path": str(tmp_path / "still")}, {"precision": "float32"}
    folders = []
    for size in (1, 2):
        path = config(place, tmp_path / str(size), model=model, training=training)
        codes, said = runs.train(size, json.loads(path.read_text()))
        assert codes == [0] * size, said
        folders.append(tmp_path / str(size))
    one, two = ([[row["sentence1"], row["sentence2"]] for row in silver_rows(folder)] for folder in folders)
    assert one == two
    for part in ("gold", "teacher", "."):
        first, second = (weights_of(folder / part / "model") for folder in folders)
        # a bias of all keys changes nothing, so that AdamW scales up its rounding
        compared = [name for name in first if first[name].is_floating_point() and not name.endswith("key.bias")]
        assert max(float((first[name] - second[name]).abs().max()) for name in compared) <= 10 * WEIGHT_TOLERANCE


# ---------------------------------------------------------------- teachers and texts


def test_labels_0_and_1_give_silver_labels_0_and_1(place: Path, unbroken: Path, tmp_path: Path) -> None:
    teacher = {"path": str(unbroken / "teacher" / "model")}
    path = config(place, tmp_path / "run", teacher, labels="01", objective="contrastive")
    assert main(["train", str(path), "--quiet"]) == 0
    found = metrics_of(tmp_path / "run")["silver"]
    rows = silver_rows(tmp_path / "run")
    assert {row["score"] for row in rows} <= {"0.0", "1.0"} and len(rows) == found["n_silver"] > 0
    assert found["metric"] == "average_precision"


def two_classes(place: Path, folder: Path) -> Path:
    """Write a stock classifier of pairs with two classes, as transformers does, and return its folder."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    stock = BertForSequenceClassification(BertConfig.from_pretrained(place / "bert", num_labels=2))
    stock.save_pretrained(folder)
    shutil.copy(place / "bert" / "vocab.txt", folder)
    return folder


def test_a_stock_classifier_of_two_classes_labels_by_its_second_class(place: Path, tmp_path: Path) -> None:
    teacher = two_classes(place, tmp_path / "stock")
    path = config(place, tmp_path / "run", {"path": str(teacher), "sampling": "random"})
    assert main(["train", str(path), "--quiet"]) == 0
    assert not (tmp_path / "run" / "teacher").exists()
    rows = silver_rows(tmp_path / "run")
    assert {row["found_by"] for row in rows} == {"random"}
    stock = ClassifierModel.from_pretrained(teacher, "cpu", kind="joined")
    wanted = 5 * stock.predict_proba([(row["sentence1"], row["sentence2"]) for row in rows])[:, 1]
    np.testing.assert_allclose([float(row["score"]) for row in rows], wanted, atol=1e-4)
    assert metrics_of(tmp_path / "run")["silver"]["path"] == str(teacher)


def test_further_texts_are_paired_but_none_that_only_dev_or_test_has(
    place: Path, unbroken: Path, tmp_path: Path
) -> None:
    of_dev = ConnectionDataset(place / "dev.csv").distinct_texts(0, 5)
    new = [f'quite another text {word}, "quoted"' for word in WORDS[:12]]
    (tmp_path / "more.txt").write_text("\n".join([*of_dev, *(text.upper() for text in of_dev), *new]), encoding="utf-8")
    teacher = {"path": str(unbroken / "teacher" / "model"), "texts": str(tmp_path / "more.txt"), "sampling": "nearest"}
    assert main(["train", str(config(place, tmp_path / "run", teacher)), "--quiet"]) == 0
    paired = {text_key(row[side]) for row in silver_rows(tmp_path / "run") for side in ("sentence1", "sentence2")}
    assert {*map(text_key, new)} <= paired
    assert paired <= texts_in(place / "train.csv") | {*map(text_key, new)}


def test_python_makes_the_run_of_the_command_line(place: Path, unbroken: Path, tmp_path: Path) -> None:
    read = Reading(score_range=(0, 5))
    data = {name: ConnectionDataset(place / f"{name}.csv", read) for name in ("train", "dev", "test")}
    model = SiameseBert.from_pretrained(place / "bert", "cpu")
    training = TrainingSettings(batch_size=8, learning_rate=1e-3, logging_steps=1, save_steps=2)
    teacher = TeacherSettings(**TEACHER)  # type: ignore[arg-type]
    result = fine_tune(
        *(model, data["train"], data["dev"], data["test"]),
        output_dir=tmp_path / "run",
        training=training,
        teacher=teacher,
        evaluation=EvaluationSettings(bootstrap_samples=10),
    )
    assert same_weights(result.model_dir, unbroken / "model")
    assert (tmp_path / "run" / "silver.csv").read_bytes() == (unbroken / "silver.csv").read_bytes()
    texts = ["a man plays the guitar", "water"]
    np.testing.assert_array_equal(
        model.encode(texts), SiameseBert.from_pretrained(result.model_dir, "cpu").encode(texts)
    )


@pytest.mark.parametrize("gold_is_better", [True, False])
def test_the_weights_of_the_better_model_are_kept(place: Path, tmp_path: Path, gold_is_better: bool) -> None:
    """Two encoders with other weights: which of them is called gold alone changes nothing else."""
    folders = [make_bert_folder(tmp_path / str(seed), seed=seed, safetensors=True) for seed in (0, 5)]
    settings = replace(read_run(config(place, tmp_path / "run")), teacher=None)
    dev = ConnectionDataset(place / "dev.csv", Reading(score_range=(0, 5)))
    splits = {"train": dev, "dev": dev}
    evaluator = PairEvaluator.of(splits, settings)

    def value(folder: Path) -> float:
        found = evaluator.evaluate(SiameseBert.from_pretrained(folder, "cpu"), lambda: False)
        assert found is not None and found["spearman"].value is not None
        return found["spearman"].value

    worse, better = sorted(folders, key=value)
    assert value(worse) < value(better)
    gold, other = (better, worse) if gold_is_better else (worse, better)
    model = SiameseBert.from_pretrained(other, "cpu")
    found = GoldAlone(gold, {}).choose(model, evaluator, splits, settings, Ranks())
    assert found["chosen"] == ("gold alone" if gold_is_better else "gold and silver")
    assert found["dev"] == {"gold alone": pytest.approx(value(gold)), "gold and silver": pytest.approx(value(other))}
    np.testing.assert_array_equal(model.encode(["water"]), SiameseBert.from_pretrained(better, "cpu").encode(["water"]))


def test_rows_of_another_data_set_are_added_behind(place: Path) -> None:
    read = Reading(score_range=(0, 5))
    train, dev = (ConnectionDataset(place / f"{name}.csv", read) for name in ("train", "dev"))
    both = train.with_rows_of(dev, "silver pair")
    assert [*both.rows_of_texts()] == [*train.rows_of_texts(), *dev.rows_of_texts()]
    assert train.labels is not None and dev.labels is not None and both.labels is not None
    assert both.labels.tolist() == [*train.labels.tolist(), *dev.labels.tolist()]
    assert both.ledger.n_kept == len(both) and both.ledger.findings[-1].sentence.startswith("30 silver pairs of ")
    assert both.sha256 not in (train.sha256, dev.sha256)
    with pytest.raises(InputError, match=r"has labels 0 and 1, but .* has scores 0\.\.5; give both the same labels"):
        train.with_rows_of(ConnectionDataset(place / "dev01.csv"), "silver pair")


# ---------------------------------------------------------------- plans and refusals


def test_it_is_not_prepared_as_a_run_of_one_stage(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="makes a run of several stages, which cannot be prepared as one"):
        load_run(read_run(config(place, tmp_path / "run")))


def test_a_dry_run_says_what_will_be_done_and_writes_nothing(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(config(place, tmp_path / "run")), "--dry-run", "--quiet"]) == 0
    said = capfd.readouterr().out
    assert f"this plan is that of gold pairs alone, in '{tmp_path / 'run' / 'gold'}'" in said
    assert "teacher: a joined classifier is trained in " in said and "(2 epochs, batch 16, rate 0.001)" in said
    assert "silver pairs: matched, up to 2 of each way for each of " in said
    assert not (tmp_path / "run").exists()


def classifier(place: Path, folder: Path, kind: str, classes: list[str] | None) -> Path:
    made = ClassifierModel(ConnectionBert.from_pretrained(place / "bert", "cpu"), kind)  # type: ignore[arg-type]
    made.start_head(classes)
    made.save_pretrained(folder)
    return folder


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "kind": (
        {"model": {"kind": "joined"}},
        "teacher: is for siamese; model.kind is joined; leave it out",
    ),
    "objective": (
        {"objective": "in_batch_negatives"},
        "which objective in_batch_negatives does not take; use cosine, ",
    ),
    "no dev": ({"data": {"dev": None}}, "needs labelled dev pairs"),
    "one label": ({"data": {"train": "ones.csv"}}, "with both labels 0 and 1; found ConnectionDataset("),
    "no folder": ({"teacher": {"path": "nowhere"}}, "nowhere"),
    "towers": ({"teacher": {"path": "towers"}}, "holds a classifier of kind towers, expected one of kind joined"),
    "three classes": (
        {"teacher": {"path": "three"}},
        "holds a classifier of 3 classes, expected one with a score or two",
    ),
    "sampling": (
        {"teacher": {"sampling": "bm25"}},
        "teacher: sampling: expected one of matched, nearest, random, found",
    ),
    "epochs": ({"teacher": {"epochs": 0}}, "teacher: epochs: expected a whole number of at least 1, found 0"),
    "rate": (
        {"teacher": {"learning_rate": 0}},
        "teacher: learning_rate: expected a number above 0 and at most 1, found 0",
    ),
    "batch": ({"teacher": {"batch_size": 0}}, "teacher: batch_size: expected a whole number of at least 1, found 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    place: Path, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pairs(tmp_path / "ones.csv", 20, 3, lambda share: 1)
    if case == "towers":
        classifier(place, tmp_path / "towers", "towers", None)
    if case == "three classes":
        classifier(place, tmp_path / "three", "joined", ["a", "b", "c"])
    sections, sentence = {**REFUSED[case][0]}, REFUSED[case][1]
    if case == "one label":
        sections["data"] = {**sections["data"], "score_range": None}
    if case == "kind":
        sections["objective"] = "binary_cross_entropy"
    path = config(place, tmp_path / "run", sections.pop("teacher", {}), **sections)
    capfd.readouterr()
    assert main(["train", str(path), "--quiet"]) == 2
    said = capfd.readouterr().err
    errors = [line for line in said.splitlines() if "error" in line]
    assert len(errors) == 1 and sentence in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_texts_that_are_not_there_are_named_before_anything_is_trained(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = config(place, tmp_path / "run", {"texts": str(tmp_path / "gone.txt")})
    assert main(["train", str(path), "--quiet"]) == 2
    assert "gone.txt" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_refuses_silver_pairs_that_were_changed_or_made_otherwise(
    place: Path, unbroken: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(unbroken, tmp_path / "run")
    for name in ("fingerprint.json", "metrics.json"):  # as before the first step on gold and silver
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints")

    def resumed(path: Path, *options: str) -> tuple[int, str]:
        capfd.readouterr()
        return main(["train", str(path), "--quiet", "--resume", *options]), capfd.readouterr().err

    code, said = resumed(config(place, run, {"pairs_per_text": 3}))
    assert code == 2 and "were made with another 'teacher.pairs_per_text'; undo this, start again with" in said
    path, table = config(place, run), run / "silver.csv"
    rows = table.read_text().splitlines(True)
    table.write_text("".join(rows[:-1]))
    code, said = resumed(path)
    assert code == 2 and "silver.csv' was changed since the run wrote it; restore it, or remove it and" in said
    table.unlink()
    assert resumed(path)[0] == 0
    assert table.read_text() == "".join(rows) and same_weights(run / "model", unbroken / "model")
    shutil.rmtree(run / "checkpoints")
    (run / "fingerprint.json").unlink()
    (run / "metrics.json").unlink()
    code, said = resumed(config(place, run, {"pairs_per_text": 3}), "--allow-changes")
    assert code == 0 and "they are made again" in said
    assert len(silver_rows(run)) != len(rows) - 1


def test_a_run_without_a_teacher_is_not_resumed_with_one(
    place: Path, unbroken: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(unbroken / "gold", tmp_path / "run")
    assert main(["train", str(config(place, run)), "--quiet", "--resume"]) == 2
    assert "was started without a teacher; leave teacher out, start again with" in capfd.readouterr().err
    assert not (run / "gold").exists()


def test_a_teacher_whose_scores_are_all_unlike_gold_is_named(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The gold scores are at the ends of the scale, those of an untrained head in its middle."""
    train = write_pairs(tmp_path / "ends.csv", 20, 3, lambda share: 5 * int(share >= 0.5))
    teacher = {"path": str(two_classes(place, tmp_path / "stock"))}
    assert main(["train", str(config(place, tmp_path / "run", teacher, data={"train": str(train)})), "--quiet"]) == 2
    said = capfd.readouterr().err
    assert "has a score such as gold pairs have, so sampling matched keeps none; set teacher.sampling to" in said
    assert not (tmp_path / "run" / "silver.csv").exists()


def test_overwrite_removes_the_runs_that_are_part_of_it_and_nothing_else(
    place: Path, unbroken: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(unbroken, tmp_path / "run")
    (run / "notes.txt").write_text("mine")
    own = config(place, run, {"path": str(run / "teacher" / "model")})
    assert main(["train", str(own), "--quiet", "--overwrite"]) == 2
    assert "teacher.path, " in (said := capfd.readouterr().err) and "is part of the run in" in said
    assert main(["train", str(config(place, run)), "--quiet", "--overwrite"]) == 0
    assert same_weights(run / "model", unbroken / "model") and (run / "notes.txt").read_text() == "mine"


def test_a_run_without_a_teacher_that_overwrites_one_keeps_only_what_is_not_of_it(
    place: Path, unbroken: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(unbroken, tmp_path / "run")
    shutil.rmtree(run / "teacher")
    shutil.copytree(place / "bert", run / "teacher")
    assert main(["train", str(config(place, run, teacher=None)), "--quiet", "--overwrite"]) == 0
    assert not {path.name for path in run.iterdir()} & {"gold", "silver.csv", "silver.json"}
    assert {path.name for path in (run / "teacher").iterdir()} == {path.name for path in (place / "bert").iterdir()}
