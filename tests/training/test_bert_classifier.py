"""Training a classifier with `fine_tune`, `fit` or a configuration; its loss, head and calibration."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_bert_folder
from safetensors.torch import load_file, save_file
from sentence_transformers.sentence_transformer import losses
from sklearn.metrics import f1_score
from torch.nn import functional as F

from sbert_ft import (
    BertClassifier,
    ConnectionBert,
    ConnectionDataset,
    EvaluationSettings,
    ObjectiveSettings,
    Reading,
    SiameseBert,
    TrainingSettings,
    fine_tune,
)
from sbert_ft.config.loader import read_run
from sbert_ft.config.settings import DataSettings, ModelSettings, RunSettings
from sbert_ft.errors import ConfigError, InputError, SbertFtError
from sbert_ft.files import strict_json
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.training.bert_classifier import classes_of
from sbert_ft.training.fine_tune import load_run, starting_model
from sbert_ft.training.gradients import BackwardSettings, backward
from sbert_ft.training.objectives import Objective
from sbert_ft.training.prepare import RunOptions
from sbert_ft.training.run import run_training

FEW = EvaluationSettings(bootstrap_samples=20)
QUICK = TrainingSettings(max_steps=4, batch_size=8, learning_rate=1e-3, precision="float32", warmup_steps=0)
LEARN = TrainingSettings(epochs=6, batch_size=16, learning_rate=3e-3, precision="float32")
CLASSES = Reading(label_kind="classes")
BALANCED = ObjectiveSettings("softmax", class_weight="balanced")
TOPICS = {"animals": ["dog", "cat", "bird", "horse"], "colours": ["red", "blue", "green", "white"]}
FILLERS = [
    "the",
    "a",
    "is",
    "in",
    "was",
    "on",
    "at",
    "by",
    "this",
    "from",
    "two",
    "small",
    "large",
    "very",
    "good",
    "old",
]


@pytest.fixture(scope="module")
def folder(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("base") / "model")


def classifier(folder: Path, kind: str = "single", **options: Any) -> BertClassifier:
    return BertClassifier(ConnectionBert.from_pretrained(folder, "cpu", "float32"), kind, **options)  # type: ignore[arg-type]


def texts_by_topic(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Return texts that each contain a word of one of two topics, and the topics."""
    draw = random.Random(seed)
    labels = [draw.choice(sorted(TOPICS)) for _ in range(n)]
    texts = [
        " ".join([*draw.sample(FILLERS, 3), draw.choice(TOPICS[label]), *draw.sample(FILLERS, 2), str(i)])
        for i, label in enumerate(labels)
    ]
    return texts, labels


def pairs_by_topic(n: int, seed: int = 0) -> tuple[list[tuple[str, str]], list[str]]:
    """Return pairs of texts, and the topic of the second text, or neither if it has none."""
    draw = random.Random(seed)
    rows, labels = [], []
    for i in range(n):
        label = draw.choice([*sorted(TOPICS), "neither"])
        words = [draw.choice(TOPICS[label])] if label in TOPICS else draw.sample(FILLERS, 1)
        rows.append((f"{' '.join(draw.sample(FILLERS, 3))} {i}", " ".join([draw.choice(FILLERS), *words])))
        labels.append(label)
    return rows, labels


# what a run with a classifier writes


@pytest.mark.parametrize("kind", ["towers", "joined", "single"])
def test_a_run_learns_what_the_majority_class_does_not_know(kind: str, folder: Path, tmp_path: Path) -> None:
    make = texts_by_topic if kind == "single" else pairs_by_topic
    build = ConnectionDataset.from_texts if kind == "single" else ConnectionDataset.from_pairs
    data = {
        name: build(rows, CLASSES, labels=labels)  # type: ignore[operator]
        for name, (rows, labels) in {"train": make(192, 1), "dev": make(48, 2), "test": make(48, 3)}.items()
    }
    model = classifier(folder, kind)
    epochs = 6 if kind == "single" else 10
    result = fine_tune(
        model,
        data["train"],
        data["dev"],
        data["test"],
        output_dir=tmp_path / "run",
        training=replace(LEARN, epochs=epochs),
        evaluation=FEW,
    )
    said = result.metrics["splits"]["test"]
    assert said["before_is"] == "the majority class"
    assert said["after"]["accuracy"]["value"] > said["before"]["accuracy"]["value"] + 0.1
    assert said["difference"]["macro_f1"]["value"] > 0.1
    assert ("the cosine of the untrained encoder" in said["baselines"]) == (kind != "single")
    assert result.metrics["best"]["metric"] == "macro_f1"
    assert result.metrics["classes"]["train"] == data["train"].class_counts()
    gold = [data["test"].class_names[int(code)] for code in data["test"].labels]
    rows = [row[0] if kind == "single" else row for row in data["test"].rows_of_texts()]
    predicted = model.predict(rows)
    assert f1_score(gold, predicted, average="macro") == pytest.approx(said["after"]["macro_f1"]["value"])
    assert sum(map(sum, said["confusion"])) == 48
    for name in ("report.html", "report.md", "mistakes.csv", "ledger.json", "metrics.jsonl", "config.json"):
        assert (result.folder / name).stat().st_size > 0
    again = BertClassifier.from_pretrained(result.model_dir, "cpu", "float32")
    assert again.predict(rows).tolist() == predicted.tolist()
    np.testing.assert_allclose(again.predict_proba(rows), model.predict_proba(rows), atol=1e-6)


def test_a_finished_run_gives_its_classifier_to_a_fresh_one(folder: Path, tmp_path: Path) -> None:
    texts, labels = texts_by_topic(40)
    data = ConnectionDataset.from_texts(texts, CLASSES, labels=labels)
    tuned, fresh = classifier(folder), classifier(folder)
    run = {"output_dir": tmp_path / "run", "training": QUICK, "evaluation": FEW}
    fine_tune(tuned, data, data, **run)  # type: ignore[arg-type]
    result = fine_tune(fresh, data, data, **run, on_existing="resume")  # type: ignore[arg-type]
    assert result.was_finished
    np.testing.assert_allclose(fresh.predict_proba(texts), tuned.predict_proba(texts), atol=1e-6)
    assert fresh.decision == tuned.decision is not None


def test_a_run_goes_on_with_the_head_that_its_folder_has(folder: Path, tmp_path: Path) -> None:
    texts, labels = texts_by_topic(160)
    data = ConnectionDataset.from_texts(texts, CLASSES, labels=labels)
    first = fine_tune(classifier(folder), data, data, output_dir=tmp_path / "a", training=LEARN, evaluation=FEW)
    model = BertClassifier.from_pretrained(first.model_dir, "cpu", "float32")
    again = fine_tune(model, data, data, output_dir=tmp_path / "b", training=QUICK, evaluation=FEW)
    said = again.metrics["splits"]["dev"]
    assert said["before_is"] == "the classifier before training"
    assert said["before"]["accuracy"] == first.metrics["splits"]["dev"]["after"]["accuracy"]
    assert "the majority class" in said["baselines"]


def test_a_head_for_other_classes_makes_room_for_a_new_one(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts, labels = texts_by_topic(32)
    model = classifier(folder)
    model.start_head(["x", "y", "z"])
    with caplog.at_level(logging.WARNING, "sbert_ft"):
        fine_tune(
            model,
            ConnectionDataset.from_texts(texts, CLASSES, labels=labels),
            output_dir=tmp_path / "run",
            training=QUICK,
            evaluation=FEW,
        )
    assert "a new head is created" in caplog.text
    assert model.classes_.tolist() == ["animals", "colours"]


def test_a_graded_score_is_learned_by_one_output(folder: Path, tmp_path: Path) -> None:
    texts, labels = texts_by_topic(160)
    rows = [(text, text) for text in texts]
    scores = [5.0 if label == "animals" else 1.0 + i % 2 for i, label in enumerate(labels)]
    data = ConnectionDataset.from_pairs(rows, Reading(score_range=(0, 5)), labels=scores)
    model = classifier(folder, "joined")
    result = fine_tune(
        model,
        data,
        data,
        output_dir=tmp_path / "run",
        objective="binary_cross_entropy",
        training=replace(LEARN, epochs=12),
        evaluation=FEW,
    )
    dev = result.metrics["splits"]["dev"]
    assert dev["after"]["spearman"]["value"] > 0.5
    assert "spearman" in dev["before"], "the untrained encoder's cosine stands beside it"
    assert model.score_scale == (0.0, 5.0)
    predicted = model.predict(rows)
    assert predicted.min() >= 0 and predicted.max() <= 5
    assert model.decision is not None and model.decision.similarity == "probability"
    assert model.match(rows).dtype == bool
    again = BertClassifier.from_pretrained(result.model_dir, "cpu", "float32")
    np.testing.assert_allclose(again.predict(rows), predicted, atol=1e-5)


# the loss


@pytest.mark.parametrize(
    ("features", "parts"),
    [
        ("uv", (True, False, False)),
        ("difference", (False, True, False)),
        ("uv_difference", (True, True, False)),
        ("uv_difference_product", (True, True, True)),
    ],
)
def test_loss_and_gradient_of_towers_are_those_of_sentence_transformers(
    features: str, parts: tuple[bool, bool, bool], folder: Path
) -> None:
    pairs, labels = pairs_by_topic(8)
    names = sorted(set(labels))
    codes = torch.tensor([names.index(label) for label in labels])
    ours = classifier(folder, "towers", features=features)
    ours.start_head(names)
    theirs = SiameseBert.from_pretrained(folder, "cpu", "float32").as_sentence_transformer()
    loss_of_theirs = losses.SoftmaxLoss(theirs, 32, 3, *parts)
    assert ours.head is not None
    with torch.no_grad():
        loss_of_theirs.classifier.weight.copy_(ours.head.output.weight)
        loss_of_theirs.classifier.bias.copy_(ours.head.output.bias)
    theirs.eval(), ours.eval()
    expected = loss_of_theirs([theirs.preprocess([pair[side] for pair in pairs]) for side in (0, 1)], codes)
    expected.backward()

    texts = ours.tokenizer.tokenize([pair[side] for side in (0, 1) for pair in pairs])
    objective = Objective([ObjectiveSettings("softmax")], ours.head)
    tokens = ours.tokenizer.frame(texts, 64)
    (loss,) = backward(ours, objective, tokens, codes.float(), len(pairs), BackwardSettings(len(pairs)))
    torch.testing.assert_close(loss, expected.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.head.output.weight.grad, loss_of_theirs.classifier.weight.grad)
    gradients = {name: p.grad for name, p in ours.bert.encoder.named_parameters()}
    for name, parameter in theirs[0].model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_balanced_weights_make_a_rare_class_count_as_much_as_a_frequent_one() -> None:
    logits = torch.tensor([[2.0, 0.0]]).repeat(4, 1)
    labels = torch.tensor([0.0, 0, 0, 1])
    weights = torch.tensor([4 / (2 * 3), 4 / (2 * 1)])
    weighted = Objective([BALANCED], lambda columns: columns[0], weights)
    (found,) = weighted.losses([logits], labels)
    of_class = F.cross_entropy(logits, labels.long(), reduction="none")
    torch.testing.assert_close(found, (of_class[:3].mean() + of_class[3]) / 2)
    theirs = F.cross_entropy(logits, labels.long(), weight=weights)
    torch.testing.assert_close(found, theirs)  # torch divides by the weights, whose sum is the number of rows here


@pytest.mark.parametrize("kind", ["towers", "joined", "single"])
def test_micro_batches_give_the_whole_batch_s_gradient(kind: str, folder: Path) -> None:
    rows, labels = texts_by_topic(8) if kind == "single" else pairs_by_topic(8)
    model = classifier(folder, kind)
    names = sorted(set(labels))
    model.start_head(names)
    model.eval()
    bodies = [model.tokenizer.tokenize([r if kind == "single" else r[side] for r in rows]) for side in (0, 1)]
    if kind == "joined":
        tokens = model.tokenizer.join(*bodies, 40)
    elif kind == "single":
        tokens = model.tokenizer.frame(bodies[0], 40)
    else:
        tokens = model.tokenizer.frame(model.tokenizer.tokenize([r[s] for s in (0, 1) for r in rows]), 40)
    assert model.head is not None
    objective = Objective([BALANCED], model.head, torch.tensor([2.0, 0.5, 1.0]))
    targets = torch.tensor([names.index(label) for label in labels])
    gradients = []
    for micro_rows in (8, 3):
        model.zero_grad()
        loss = backward(model, objective, tokens, targets, 8, BackwardSettings(micro_rows))
        gradients.append([loss, *(p.grad.clone() for p in model.trained.parameters() if p.grad is not None)])
    assert len(gradients[0]) > 10
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


# scikit-learn's interface


@pytest.mark.parametrize(
    ("names", "kind"), [(("긍정", "부정"), "U"), ((1, 0), "i"), ((True, False), "b"), ((2.5, 1.0), "f")]
)
def test_labels_of_any_type_come_back_as_they_went_in(
    names: tuple[Any, Any], kind: str, folder: Path, tmp_path: Path
) -> None:
    texts, topics = texts_by_topic(48)
    labels = [names[0] if topic == "animals" else names[1] for topic in topics]
    training = replace(LEARN, epochs=20)
    model = classifier(folder).fit(texts, labels, dev=(texts, labels), training=training, evaluation=FEW)
    assert model.classes_.tolist() == sorted(names)
    predicted = model.predict(texts)
    assert predicted.dtype.kind == kind
    assert np.mean(predicted == np.array(labels)) == model.score(texts, labels) > 0.8
    model.save_pretrained(tmp_path / "saved")
    again = BertClassifier.from_pretrained(tmp_path / "saved", "cpu", "float32")
    assert again.classes_.tolist() == sorted(names) and again.predict(texts).dtype.kind == kind
    assert json.loads((tmp_path / "saved" / "config.json").read_text("utf-8"))["id2label"].keys() == {"0", "1"}


def test_a_head_that_fit_has_made_is_no_starting_point(folder: Path, tmp_path: Path) -> None:
    texts, topics = texts_by_topic(24)
    model, options = classifier(folder), {"dev": (texts, topics), "training": QUICK, "evaluation": FEW}
    for name, before in (("first", "the majority class"), ("second", "the classifier before training")):
        model.fit(texts, topics, output_dir=tmp_path / name, **options)
        metrics = json.loads((tmp_path / name / "metrics.json").read_text("utf-8"))
        assert metrics["splits"]["dev"]["before_is"] == before


def test_fit_takes_columns_of_a_data_frame(folder: Path) -> None:
    pairs, labels = pairs_by_topic(24)
    frame = pd.DataFrame({"a": [a for a, _ in pairs], "b": [b for _, b in pairs], "label": labels})
    rows = list(zip(frame["a"], frame["b"], strict=True))
    model = classifier(folder, "joined").fit(rows, frame["label"], training=QUICK, evaluation=FEW)
    assert model.predict_proba(rows).shape == (24, 3)
    np.testing.assert_allclose(model.predict_proba(rows).sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["joined", "single"])
def test_fit_takes_the_frames_that_predict_takes(kind: str, folder: Path) -> None:
    pairs, labels = pairs_by_topic(24)
    frame = pd.DataFrame(pairs, columns=["a", "b"])
    columns = frame[["a", "b"]] if kind == "joined" else frame[["b"]]
    fitted = [
        classifier(folder, kind).fit(rows, labels, training=QUICK)
        for rows in (columns, pairs if kind == "joined" else [b for _, b in pairs], columns.to_numpy())
    ]
    by_frame, by_list, by_array = (model.predict_proba(pairs if kind == "joined" else frame["b"]) for model in fitted)
    assert np.array_equal(by_frame, by_list) and np.array_equal(by_array, by_list)
    with pytest.raises(InputError, match=r"X has 3 columns, expected (one|two), "):
        classifier(folder, kind).fit(frame.assign(c="x"), labels, training=QUICK)
    columns = columns.astype(object)
    columns.iloc[2, 0] = None
    with pytest.raises(SbertFtError, match="position 2"):
        classifier(folder, kind).fit(columns, labels, training=QUICK)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_label_is_named_by_its_position(missing: Any, folder: Path) -> None:
    with pytest.raises(InputError, match="y has no label at position 1 "):
        classifier(folder).fit(["x", "y", "z"], ["a", missing, "b"])
    with pytest.raises(InputError, match=r"at position 0, .*multi-label classification"):
        classifier(folder).fit(["x"], [["a", "b"]])


def test_fit_goes_on_with_a_head_whose_classes_stand_in_another_order(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts, topics = texts_by_topic(48)
    model = classifier(folder)
    model.start_head(["1", "0"])
    before = [value.clone() for value in model.head.state_dict().values()]  # type: ignore[union-attr]
    with caplog.at_level(logging.WARNING, logger="sbert_ft"):
        model.fit(texts, [int(topic == "animals") for topic in topics], training=replace(QUICK, learning_rate=1e-9))
        assert model.classes_.tolist() == [1, 0] and model.predict(texts).dtype.kind == "i"
        for old, new in zip(before, model.head.state_dict().values(), strict=True):  # type: ignore[union-attr]
            torch.testing.assert_close(old, new, rtol=0, atol=1e-6)
        assert "head is for other classes" not in caplog.text
        model.fit(texts, topics, training=QUICK)
    assert model.classes_.tolist() == ["animals", "colours"] and "head is for other classes" in caplog.text


@pytest.mark.parametrize(
    ("has_pooler", "pooling", "warned"), [(False, None, True), (True, None, False), (False, "mean", False)]
)
def test_a_pooler_that_is_missing_is_said_where_a_head_has_one(
    tmp_path: Path, has_pooler: bool, pooling: str | None, warned: bool
) -> None:
    path = make_bert_folder(tmp_path / "bert", safetensors=True)
    if not has_pooler:
        weights = load_file(path / "model.safetensors")
        save_file({name: its for name, its in weights.items() if "pooler" not in name}, path / "model.safetensors")
    texts, topics = texts_by_topic(30)
    (tmp_path / "train.csv").write_text(
        "text,label\n" + "".join(f"{text},{topic}\n" for text, topic in zip(texts, topics, strict=True))
    )
    settings = RunSettings(
        model=ModelSettings(str(path), kind="single", pooling=pooling),  # type: ignore[arg-type]
        data=DataSettings(str(tmp_path / "train.csv")),
        objective=(ObjectiveSettings("softmax"),),
        output_dir=str(tmp_path / "run"),
    )
    said = [warning for warning in load_run(settings).warnings if "no pooler" in warning]
    assert len(said) == warned
    if warned:
        assert str(path) in said[0] and "model.pooling mean" in said[0]
    assert not load_run(replace(settings, model=replace(settings.model, init="random"))).warnings


def test_fit_sets_a_share_of_the_rows_apart_for_dev(folder: Path, tmp_path: Path) -> None:
    texts, labels = texts_by_topic(80)
    model = classifier(folder)
    model.fit(texts, labels, dev_share=0.25, training=QUICK, evaluation=FEW, output_dir=tmp_path / "run")
    said = json.loads((tmp_path / "run" / "metrics.json").read_text("utf-8"))
    assert said["splits"]["dev"]["n"] == 20
    assert sum(said["classes"]["train"].values()) == 60
    assert model.temperature == pytest.approx(said["calibration"]["temperature"])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a"] * 8, "at least two classes"),
        (["a", "b", "c"], "labels"),
        ([1, "1"] * 4, "different types"),
        ([None, "a"] * 4, "None"),
        ([[1, 2], [3, 4]] * 4, "list"),
        (["a", "b", "nan", "a"] * 2, "y at position 2 is 'nan': the label is missing"),
        (["a", "b", " ", "a"] * 2, "y at position 2 is ' ': the label is empty"),
        (["a", "b" * 201] * 4, "y at position 1 .* has 201 characters"),
        ([1, 10**400] * 4, "y at position 1 .* is a number of too many digits"),
        ("abababab", "expected a list of labels"),
        (np.zeros((8, 2)), "several columns"),
    ],
)
def test_labels_that_are_none_are_refused_in_one_sentence(labels: Any, said: str, folder: Path) -> None:
    texts, _ = texts_by_topic(8)
    with pytest.raises(SbertFtError, match=said) as found:
        classifier(folder).fit(texts, labels, training=QUICK, evaluation=FEW)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("kind", ["array", "frame"])
def test_labels_as_one_column_are_the_labels_of_its_rows(kind: str, folder: Path) -> None:
    texts, labels = texts_by_topic(16)
    column = pd.DataFrame({"label": labels}) if kind == "frame" else np.array(labels, dtype=object)[:, None]
    fitted = classifier(folder).fit(texts, column, training=QUICK, evaluation=FEW)
    assert list(fitted.classes_) == sorted(set(labels))
    assert fitted.score(texts, column) == fitted.score(texts, labels)


def test_a_class_of_dev_that_training_lacks_is_named(folder: Path, tmp_path: Path) -> None:
    texts, labels = texts_by_topic(16)
    with pytest.raises(InputError, match="plants"):
        classifier(folder).fit(
            texts, labels, dev=(["a tree 1", "a dog 2"], ["plants", "animals"]), training=QUICK, evaluation=FEW
        )


def test_classes_are_the_different_labels_in_order() -> None:
    assert classes_of([3, 1, 2, 1]) == [1, 2, 3]
    assert classes_of(["b", "a"]) == ["a", "b"]


# configurations


def write_rows(path: Path, rows: list[Any], labels: list[str]) -> Path:
    columns = (
        {"text": rows}
        if isinstance(rows[0], str)
        else dict(zip(("premise", "hypothesis"), zip(*rows, strict=True), strict=True))
    )
    pd.DataFrame({**columns, "label": labels}).to_csv(path, index=False)
    return path


def run_file(tmp_path: Path, folder: Path, kind: str, **more: Any) -> Path:
    make = texts_by_topic if kind == "single" else pairs_by_topic
    content = {
        "model": {"path": str(folder), "kind": kind, "max_seq_length": 32, **more.pop("model", {})},
        "data": {
            "train": str(write_rows(tmp_path / "train.csv", *make(64, 1))),
            "dev": str(write_rows(tmp_path / "dev.csv", *make(24, 2))),
        },
        "training": {"max_steps": 4, "batch_size": 8, "learning_rate": 1e-3, "precision": "float32"},
        "evaluation": {"bootstrap_samples": 20},
        "output_dir": str(tmp_path / "run"),
        **more,
    }
    (tmp_path / "run.json").write_text(json.dumps(content), "utf-8")
    return tmp_path / "run.json"


@pytest.mark.parametrize("kind", ["towers", "joined", "single"])
def test_a_configuration_trains_a_classifier(kind: str, folder: Path, tmp_path: Path) -> None:
    settings = read_run(run_file(tmp_path, folder, kind))
    assert settings.objective == (ObjectiveSettings("softmax"),)
    result = run_training(load_run(settings), RunOptions())
    loaded = ClassifierModel.from_pretrained(result.model_dir, "cpu", "float32")
    assert (loaded.kind, loaded.max_seq_length) == (kind, 32)
    assert (result.model_dir / "modules.json").exists() == (kind == "towers")


def test_training_goes_on_from_a_stock_classifier_of_others_as_the_kind_that_is_asked_for(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoTokenizer, BertForSequenceClassification

    names = ["animals", "neither", "colours"]
    theirs = BertForSequenceClassification.from_pretrained(
        folder, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)}
    )
    theirs.save_pretrained(tmp_path / "theirs")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "theirs")
    for kind in ("joined", "towers"):
        path = run_file(tmp_path, tmp_path / "theirs", kind)
        with caplog.at_level(logging.WARNING, "sbert_ft"):
            model = load_run(read_run(path)).model
        assert isinstance(model, ClassifierModel) and model.head is not None
        if kind == "joined":
            assert model.class_names == tuple(names), "the head's own order stays"
            torch.testing.assert_close(model.head.output.weight, theirs.classifier.weight)
            assert "a new head is created" not in caplog.text
        else:
            assert model.class_names == tuple(sorted(names))
            assert "a new head is created" in caplog.text


def test_random_weights_follow_from_the_seed_alone(ko_vocab: Path, tmp_path: Path) -> None:
    config = json.loads((ko_vocab / "config.json").read_text("utf-8"))
    small = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    base = tmp_path / "korean"
    base.mkdir()
    (base / "config.json").write_text(json.dumps(config | small), "utf-8")
    (base / "vocab.txt").write_bytes((ko_vocab / "vocab.txt").read_bytes())
    rows, labels = ["정말 재미있다", "너무 지루하다", "최고의 영화", "최악의 영화"] * 3, ["좋음", "나쁨"] * 6
    texts = [f"{row} {i}" for i, row in enumerate(rows)]
    path = run_file(
        tmp_path,
        base,
        "single",
        model={"init": "random"},
        data={"train": str(write_rows(tmp_path / "k.csv", texts, labels))},
    )
    models = [load_run(read_run(path, [f"training.seed={seed}"])).model for seed in (1, 1, 2)]
    states = [model.trained.state_dict() for model in models if isinstance(model, ClassifierModel)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])
    result = run_training(load_run(read_run(path)), RunOptions())
    assert result.metrics["lengths"]["unknown_share"] < 0.1
    assert ClassifierModel.from_pretrained(result.model_dir).classes_.tolist() == ["나쁨", "좋음"]


@pytest.mark.parametrize(
    ("kind", "columns", "said"),
    [("single", ("premise", "hypothesis"), "takes one text"), ("joined", ("text",), "takes two texts")],
)
def test_rows_with_the_wrong_number_of_texts_are_refused_before_training(
    kind: str, columns: tuple[str, ...], said: str, folder: Path, tmp_path: Path
) -> None:
    other = "joined" if kind == "single" else "single"
    path = run_file(tmp_path, folder, other)
    with pytest.raises(InputError, match=said):
        load_run(read_run(path, [f"model.kind={kind}"]))
    assert not (tmp_path / "run").exists()


def test_a_sentence_encoder_and_a_classifier_do_not_take_each_other_s_objectives(folder: Path, tmp_path: Path) -> None:
    texts, labels = texts_by_topic(8)
    data = ConnectionDataset.from_texts(texts, CLASSES, labels=labels)
    with pytest.raises((InputError, ConfigError), match="cosine"):
        fine_tune(classifier(folder), data, output_dir=tmp_path / "a", objective="cosine", training=QUICK)
    encoder = SiameseBert.from_pretrained(folder, "cpu", "float32")
    with pytest.raises((InputError, ConfigError), match="softmax"):
        fine_tune(encoder, data, output_dir=tmp_path / "b", objective="softmax", training=QUICK)


def test_towers_leave_an_encoder_that_sentence_transformers_opens(folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    pairs, labels = pairs_by_topic(32)
    model = classifier(folder, "towers").fit(pairs, labels, training=QUICK, evaluation=FEW, output_dir=tmp_path / "run")
    theirs = SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    texts = [a for a, _ in pairs]
    np.testing.assert_allclose(model.as_sentence_encoder().encode(texts), theirs.encode(texts), atol=1e-5)


def test_training_from_a_classifiers_folder_reads_the_folder_once(
    tiny_bert_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ClassifierModel(ConnectionBert.from_pretrained(tiny_bert_folder(tmp_path / "bert"), "cpu"), "joined")
    model.start_head(["no", "yes"])
    model.save_pretrained(tmp_path / "saved")
    opened: list[str] = []
    real = strict_json.open_file
    monkeypatch.setattr(strict_json, "open_file", lambda path: opened.append(path.name) or real(path))
    settings = RunSettings(ModelSettings(str(tmp_path / "saved"), kind="joined"), DataSettings("rows"), "run")
    assert isinstance(starting_model(settings), ClassifierModel)
    assert opened.count("config.json") == opened.count("sbert_ft.json") == 1
