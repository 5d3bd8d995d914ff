"""Labels as people bring them, from training to use: codes as classes, and 0 for pairs that mean the same."""

from __future__ import annotations

import csv
import io
import json
import logging
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sbert_ft.cli import main
from sbert_ft.config.settings import Reading, TrainingSettings
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.training.bert_classifier import BertClassifier
from sbert_ft.training.fine_tune import fine_tune

CODES = ("4.1", "4.10", "01110", "1110")  # in the order of their numbers
ONE_STEP = TrainingSettings(max_steps=1, batch_size=4, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def bert(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("model") / "bert")


def write_codes(path: Path, codes: tuple[str, ...] = CODES) -> Path:
    path.write_text("text,label\n" + "".join(f"a dog {i} {code},{code}\n" for i in range(4) for code in codes))
    return path


def test_codes_keep_their_names_from_training_to_use(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_codes(tmp_path / "train.csv")
    run = {
        "model": {"path": str(bert), "kind": "single"},
        "data": {"train": "train.csv", "dev": "train.csv"},
        "training": {"max_steps": 1, "device": "cpu", "precision": "float32"},
        "output_dir": "run",
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert main(["train", "run.json", "--quiet"]) == 0
    use = ["--device", "cpu", "--precision", "float32", "--quiet"]
    assert main(["predict", "run/model", "train.csv", "-o", "out.csv", "--all-probabilities", *use]) == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [name for name in rows[0] if name.startswith("probability_")] == [f"probability_{code}" for code in CODES]
    assert {row["predicted"] for row in rows} <= set(CODES)
    capsys.readouterr()
    assert main(["evaluate", "run/model", "train.csv", "--json", "--samples", "2", *use]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["classes"] == list(CODES) and [entry["n"] for entry in report["per_class"]] == [4] * 4
    write_codes(tmp_path / "other.csv", ("4.1", "4.100"))
    assert main(["evaluate", "run/model", "other.csv", "--json", "--samples", "2", *use]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert (data["n"], data["n_left_out"]) == (4, 4)  # 4.100 is no class of the model


def test_fit_keeps_codes_and_takes_both_forms_of_unicode_for_one_class(bert: Path) -> None:
    model = BertClassifier(ConnectionBert.from_pretrained(bert, "cpu", "float32"), "single")
    texts = [f"a dog {i}" for i in range(8)]
    model.fit(texts, list(CODES) * 2, training=ONE_STEP)
    assert model.classes_.tolist() == sorted(CODES) and set(model.predict(texts)) <= set(CODES)
    nfc, nfd = "긍정", unicodedata.normalize("NFD", "긍정")
    model.fit(texts, [nfc, "부정", nfd, "부정"] * 2, training=ONE_STEP)
    assert model.classes_.tolist() == [nfc, "부정"]
    assert model.score(texts, [nfc] * 8) == model.score(texts, [nfd] * 8)
    model.fit(texts, np.array([1.0, 0.0] * 4), training=ONE_STEP)
    assert model.class_names == ("0", "1") and model.classes_.dtype == np.float64


def pairs_of_0_for_the_same(n: int = 40) -> list[tuple[Any, ...]]:
    """Return pairs of one text with label 0, and of two different ones with label 1."""
    names = ("dog", "cat", "man", "park", "red")
    text = [f"a {names[i % 5]} {i} {names[i % 3]} b" for i in range(n)]
    return [(text[i], text[i] if i % 2 == 0 else f"the {text[(i * 7 + 3) % n]} c", i % 2) for i in range(n)]


def test_labels_that_mean_the_opposite_are_said_before_training(
    bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pairs = pairs_of_0_for_the_same()
    sets: dict[str, dict[str, Any]] = {"train": {}, "dev": {"dev": ConnectionDataset.from_pairs(pairs)}}
    for name, more in sets.items():
        caplog.clear()
        model = SiameseBert(ConnectionBert.from_pretrained(bert, "cpu", "float32"))
        train = ConnectionDataset.from_pairs(pairs)
        result = fine_tune(model, train, **more, output_dir=tmp_path / name, training=ONE_STEP)
        messages = [record.getMessage() for record in caplog.records]
        (place,) = [i for i, said in enumerate(messages) if "less similar for the model than the others" in said]
        assert "roc auc 0.00, interval 0.00 to 0.00" in messages[place] and caplog.records[place].levelname == "WARNING"
        assert 'set data.label_values to {"0": 1, "1": 0}' in messages[place]
        assert messages[place] in result.metrics["warnings"]
        assert place < min((i for i, said in enumerate(messages) if said.startswith("step ")), default=len(messages))


def test_labels_without_doubt_are_not_said(bert: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = pairs_of_0_for_the_same()
    turned = Reading(label_values={"0": 1, "1": 0})
    cases = (
        ConnectionDataset.from_pairs(pairs, turned),
        ConnectionDataset.from_pairs(pairs[:20]),  # too few
        ConnectionDataset.from_pairs([(a, b) for a, b, _ in pairs]),  # no labels
    )
    for i, train in enumerate(cases):
        model = SiameseBert(ConnectionBert.from_pretrained(bert, "cpu", "float32"))
        objective = "in_batch_negatives" if train.labels is None else "cosine"
        fine_tune(model, train, output_dir=tmp_path / str(i), training=ONE_STEP, objective=objective)
    assert "less similar for the model" not in caplog.text


def test_evaluate_says_so_too_of_labels_and_of_scores(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, factor, remedy in (("labels", 1, "--label-values 0=1,1=0"), ("scores", 2.5, "turn the scores round")):
        rows = "".join(f"{a},{b},{label * factor}\n" for a, b, label in pairs_of_0_for_the_same())
        (tmp_path / f"{name}.csv").write_text(f"sentence1,sentence2,score\n{rows}")
        assert main(["evaluate", str(bert), f"{name}.csv", "--samples", "50", "--device", "cpu"]) == 0
        said = capfd.readouterr().err
        assert "less similar for the model than the others" in said and remedy in said
    given = ["--label-values", "0=1,1=0", "--samples", "50", "--device", "cpu"]
    assert main(["evaluate", str(bert), "labels.csv", *given]) == 0
    assert "less similar" not in capfd.readouterr().err
