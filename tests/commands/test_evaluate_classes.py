"""`sbert-ft evaluate` on classifiers: the same numbers as scikit-learn, tables that show them, and refused input."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    precision_recall_fscore_support,
)

from sbert_ft import ConnectionDataset, SiameseBert
from sbert_ft.cli import main
from sbert_ft.errors import InputError
from sbert_ft.model_folder.decision import Decision, FittedOn
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.connection_bert import ConnectionBert

CPU = ("--device", "cpu", "--precision", "float32")
FEW = ("--samples", "20")
NLI = ("contradiction", "entailment", "neutral")
WORDS = ["the", "of", "man", "woman", "dog", "cat", "plays", "guitar", "music", "street", "red", "blue"]
PAIRS = [(" ".join(WORDS[i % 7 : i % 7 + 3]), " ".join(WORDS[i % 5 : i % 5 + 1 + i % 4])) for i in range(60)]
GOLD = [NLI[(i * i + i // 4) % 3] for i in range(60)]


@pytest.fixture(scope="module")
def make(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that makes and saves a classifier that predicts several classes."""
    place = tmp_path_factory.mktemp("classes")
    encoder = tiny_bert_folder(place / "encoder")

    def build(name: str, kind: Any, classes: Sequence[str] | None, **attributes: Any) -> Path:
        model = ClassifierModel(ConnectionBert.from_pretrained(encoder, "cpu", "float32"), kind)
        model.start_head(classes)
        assert model.head is not None
        last = [module for module in model.head.modules() if isinstance(module, torch.nn.Linear)][-1]
        rows = [first for first, _ in PAIRS] if kind == "single" else PAIRS
        with torch.no_grad():
            last.weight.normal_(generator=torch.Generator().manual_seed(len(name)))
            logits = np.concatenate(list(model.logits_stream(rows)))
            last.bias.copy_(torch.from_numpy(-np.median(logits, 0)))
        for attribute, value in attributes.items():
            setattr(model, attribute, value)
        model.save_pretrained(place / name)
        return place / name

    return build


@pytest.fixture(scope="module")
def joined(make: Callable[..., Path]) -> Path:
    return make("joined", "joined", NLI)


@pytest.fixture(scope="module")
def towers(make: Callable[..., Path]) -> Path:
    return make("towers", "towers", NLI[::-1])


@pytest.fixture(scope="module")
def single(make: Callable[..., Path]) -> Path:
    decision = Decision(0.45, "f1", FittedOn("dev.csv", "0" * 64, 40, 20), similarity="probability")
    return make("single", "single", ("부정", "긍정"), decision=decision)


@pytest.fixture(scope="module")
def graded(make: Callable[..., Path]) -> Path:
    return make("graded", "joined", None, score_scale=(0.0, 5.0))


@pytest.fixture(scope="module")
def nli(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [(*pair, label) for pair, label in zip(PAIRS, GOLD, strict=True)]
    return write(tmp_path_factory.mktemp("nli") / "nli.csv", ("premise", "hypothesis", "label"), rows)


def write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command and return its exit code, standard output and standard error."""
    capsys.readouterr()
    code = main(["evaluate", *map(str, arguments), *CPU, *FEW])
    said = capsys.readouterr()
    return code, said.out, said.err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    code, out, err = evaluate(capsys, *arguments, "--json", "--quiet")
    assert code == 0, err
    report: dict[str, Any] = json.loads(out)
    return report


def load(folder: Path) -> ClassifierModel:
    return ClassifierModel.from_pretrained(folder, "cpu", "float32")


# ---------------------------------------------------------------- numbers


def test_classes_get_the_numbers_of_scikit_learn(joined: Path, nli: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = as_json(capsys, joined, nli)
    predicted = load(joined).predict(PAIRS).tolist()
    assert len(set(predicted)) > 1
    metrics = {name: score["value"] for name, score in report["metrics"].items()}
    assert metrics == {
        "accuracy": pytest.approx(accuracy_score(GOLD, predicted)),
        "macro_f1": pytest.approx(f1_score(GOLD, predicted, average="macro")),
        "mcc": pytest.approx(matthews_corrcoef(GOLD, predicted)),
    }
    assert all(score["low"] <= score["value"] <= score["high"] for score in report["metrics"].values())
    assert report["confusion"] == confusion_matrix(GOLD, predicted, labels=NLI).tolist()
    precision, recall, f1, n = precision_recall_fscore_support(GOLD, predicted, labels=NLI, zero_division=0)
    assert [entry["name"] for entry in report["per_class"]] == report["classes"] == list(NLI)
    assert [entry["n"] for entry in report["per_class"]] == n.tolist()
    for i, entry in enumerate(report["per_class"]):
        found = [entry["precision"] or 0.0, entry["recall"], entry["f1"]["value"]]
        assert found == pytest.approx([precision[i], recall[i], f1[i]])
    expected = {"source": str(nli), "n": 60, "n_left_out": 0, "note": None}
    assert {key: report["data"][key] for key in expected} == expected
    assert (report["model"], report["kind"], report["against"]) == (str(joined), "joined", None)


def test_without_another_model_it_is_the_commonest_class_that_is_to_be_beaten(
    joined: Path, nli: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = as_json(capsys, joined, nli)
    assert report["before_is"] == "the majority class" and report["baselines"] == {}
    share = max(GOLD.count(name) for name in NLI) / len(GOLD)
    assert report["against_metrics"]["accuracy"]["value"] == pytest.approx(share)
    change = report["metrics"]["accuracy"]["value"] - share
    assert report["difference"]["accuracy"]["value"] == pytest.approx(change)


def test_another_classifier_of_the_same_classes_in_another_order_is_compared(
    joined: Path, towers: Path, nli: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = as_json(capsys, joined, nli, "--against", towers)
    other = load(towers).predict(PAIRS).tolist()
    assert report["against_metrics"]["accuracy"]["value"] == pytest.approx(accuracy_score(GOLD, other))
    assert report["before_is"] == str(towers) and list(report["baselines"]) == ["the majority class"]
    alone = as_json(capsys, towers, nli)
    assert report["against_metrics"]["macro_f1"]["value"] == pytest.approx(alone["metrics"]["macro_f1"]["value"])
    itself = as_json(capsys, joined, nli, "--against", joined)["difference"]
    assert all(change["value"] == change["low"] == change["high"] == 0 for change in itself.values())


def test_single_texts_with_korean_classes_and_a_threshold_are_judged(
    single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [first + " " + second for first, second in PAIRS]
    gold = ["긍정" if i % 3 else "부정" for i in range(60)]
    data = write(tmp_path / "reviews.csv", ("document", "label"), list(zip(texts, gold, strict=True)))
    report = as_json(capsys, single, data)
    model = load(single)
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(accuracy_score(gold, model.predict(texts)))
    assert report["classes"] == ["부정", "긍정"]
    f1 = f1_score([label == "긍정" for label in gold], model.match(texts))
    assert (report["match"]["class"], report["match"]["threshold"]) == ("긍정", 0.45)
    assert report["match"]["metrics"]["f1"]["value"] == pytest.approx(f1)
    said = evaluate(capsys, single, data)[1]
    assert "match: '긍정' from a probability of 0.4500" in said.splitlines()


def test_the_tables_show_what_the_json_holds(
    joined: Path, towers: Path, nli: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = as_json(capsys, joined, nli)
    code, out, err = evaluate(capsys, joined, nli)
    assert code == 0
    facts, heads, accuracy, macro_f1, mcc, _, class_heads, *lines = out.splitlines()
    expected = f"60 rows, 3 classes, log loss {report['log_loss']:.4f}"
    assert facts == f"{expected}, calibration error {report['calibration_error']:.4f}"
    assert heads.split() == ["MODEL", "the", "majority", "class", "difference"]
    score = report["metrics"]["accuracy"]
    assert accuracy.split("  ")[1] == f"{score['value']:.4f} ({score['low']:.4f} to {score['high']:.4f})"
    assert macro_f1.startswith("macro F1  ") and mcc.startswith("MCC ")
    assert report["against_metrics"]["mcc"]["reason"] in mcc  # the majority class has no MCC
    assert class_heads.split() == ["class", "rows", "predicted", "precision", "recall", "F1"]
    assert [line.split()[0] for line in lines[:3]] == list(NLI)
    assert lines[4].split() == ["gold", "\\", "predicted", *NLI]
    assert [[int(n) for n in line.split()[1:]] for line in lines[5:8]] == report["confusion"]
    assert "classes: 'contradiction'" in err
    against = evaluate(capsys, joined, nli, "--against", towers)[1].splitlines()[1]
    assert against.split() == ["MODEL", "OTHER", "difference", "the", "majority", "class"]


def test_many_classes_have_no_confusion_table_but_are_in_the_json(
    make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"intent {i:02d}" for i in range(25)]
    folder = make("intents", "single", names)
    data = write(tmp_path / "a.csv", ("text", "label"), [(f"{a} {b}", names[i % 25]) for i, (a, b) in enumerate(PAIRS)])
    out = evaluate(capsys, folder, data)[1]
    assert out.splitlines()[-1] == "the table of 25 by 25 predicted classes is in --json, as confusion"
    assert np.sum(as_json(capsys, folder, data)["confusion"]) == 60


# ---------------------------------------------------------------- which rows, which names


def test_rows_of_other_labels_are_left_out_and_counted(
    joined: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["-" if i < 4 else label for i, label in enumerate(GOLD)]
    rows = [(*pair, label) for pair, label in zip(PAIRS, labels, strict=True)]
    data = write(tmp_path / "snli.csv", ("sentence1", "sentence2", "label"), rows)
    report = as_json(capsys, joined, data)
    assert (report["data"]["n"], report["data"]["n_left_out"]) == (56, 4)
    assert "56 rows, 3 classes, 4 left out" in evaluate(capsys, joined, data)[1]


def test_the_file_may_call_the_classes_otherwise(
    joined: Path, nli: Path, towers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = as_json(capsys, joined, nli, "--against", towers)
    names = {"contradiction": "2", "entailment": "0", "neutral": "1"}
    rows = [(*pair, names[label]) for pair, label in zip(PAIRS, GOLD, strict=True)]
    data = write(tmp_path / "mnli.csv", ("premise", "hypothesis", "label"), rows)
    report = as_json(capsys, joined, data, "--classes", "2,0,1", "--against", towers)
    assert report["classes"] == ["2", "0", "1"] and report["confusion"] == expected["confusion"]
    assert report["against_metrics"] == expected["against_metrics"]
    code, _, err = evaluate(capsys, joined, data)
    assert code == 2 and len([line for line in err.splitlines() if line.startswith("sbert-ft: error")]) == 1


def test_words_can_be_the_numbers_that_the_classes_are(
    make: Callable[..., Path], nli: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make("numbers", "joined", (0, 1))
    report = as_json(capsys, folder, nli, "--label-values", "entailment=1,contradiction=0")
    rows = [(pair, int(label == "entailment")) for pair, label in zip(PAIRS, GOLD, strict=True) if label != "neutral"]
    pairs, gold = zip(*rows, strict=True)
    assert report["classes"] == ["0", "1"] and report["data"]["n"] == len(rows) < 60
    expected = accuracy_score(gold, load(folder).predict(list(pairs)))
    assert report["metrics"]["accuracy"]["value"] == pytest.approx(expected)


def test_columns_of_other_names_are_found_when_named(
    joined: Path, nli: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(*pair, label) for pair, label in zip(PAIRS, GOLD, strict=True)]
    data = write(tmp_path / "other.csv", ("left", "right", "gold"), rows)
    found = as_json(capsys, joined, data, "--columns", "left,right", "--label-column", "gold")
    assert found["metrics"] == as_json(capsys, joined, nli)["metrics"]


# ---------------------------------------------------------------- one output, and encoders


GRADED = [(*pair, (7 * i) % 11 / 2) for i, pair in enumerate(PAIRS)]


def test_one_output_is_judged_like_a_cosine_and_against_one(
    graded: Path, towers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "sts.csv", ("sentence1", "sentence2", "score"), GRADED)
    encoder = graded.parent / "encoder"
    report = as_json(capsys, graded, data, "--against", encoder)
    gold = [row[2] for row in GRADED]
    for part, scores in (
        ("metrics", load(graded).predict(PAIRS)),
        ("against_metrics", SiameseBert.from_pretrained(encoder, "cpu", "float32").score(PAIRS)),
    ):
        assert report[part]["spearman"]["value"] == pytest.approx(spearmanr(scores, gold).statistic, abs=1e-5)
    assert report["chance_cosine"] is None
    assert "60 pairs" in evaluate(capsys, graded, data)[1].splitlines()[0]
    code, _, err = evaluate(capsys, graded, data, "--against", towers)
    assert code == 2 and "evaluate its encoder with --as-encoder" in err
    assert evaluate(capsys, graded, data, "--classes", "a,b")[0] == 2


def test_single_texts_with_scores_are_judged(
    make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make("rating", "single", None)
    texts = [f"{first} {second}" for first, second in PAIRS]
    gold = [1 + (7 * i) % 9 / 2 for i in range(60)]
    data = write(tmp_path / "stars.csv", ("review", "score"), list(zip(texts, gold, strict=True)))
    report = as_json(capsys, folder, data)
    expected = spearmanr(load(folder).predict(texts), gold).statistic
    assert report["metrics"]["spearman"]["value"] == pytest.approx(expected, abs=1e-5)
    assert evaluate(capsys, folder, data)[1].startswith("60 texts")


def test_the_encoder_of_towers_is_judged_by_its_cosine_on_request(
    towers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "sts.csv", ("sentence1", "sentence2", "score"), GRADED)
    report = as_json(capsys, towers, data, "--as-encoder", "--against", towers.parent / "encoder")
    scores = SiameseBert.from_pretrained(towers, "cpu", "float32").score(PAIRS)
    expected = spearmanr(scores, [row[2] for row in GRADED]).statistic
    assert report["metrics"]["spearman"]["value"] == pytest.approx(expected, abs=1e-5)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("joined", ("--score-range", "0,5"), "--score-range is for scores"),
        ("joined", ("--match-from", "3"), "--match-from is for scores"),
        ("joined", ("--classes", "a,b"), "expected 3 different names, one for each class of the model in its order"),
        ("joined", ("--classes", "a,a,b"), "expected 3 different names"),
        ("joined", ("--classes", "a,,b"), "expected 3 different names"),
        ("joined", ("--against", "graded"), "has no classes"),
        ("joined", ("--against", "single"), "is of kind single, the model is of kind joined"),
        ("joined", ("--against", "encoder"), "BertClassifier"),
        ("joined", ("--column", "premise"), "classifies pairs (kind joined), but a row of"),
        ("joined", ("--label-column", "gold"), "has no column 'gold'"),
        ("single", (), "has two texts; name one column with --columns"),
        ("encoder", ("--classes", "a,b,c"), "--classes is for a classifier"),
        ("nowhere", (), "is not a model folder"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    request: pytest.FixtureRequest,
    joined: Path,
    nli: Path,
    name: str,
    options: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def folder_of(word: str) -> str:
        if word in ("joined", "single", "graded"):
            return str(request.getfixturevalue(word))
        return str(joined.parent / word) if word in ("encoder", "nowhere") else word

    data: Path = nli
    if name == "single":  # the file must have the two classes of this classifier
        data = nli.with_name("two.csv")
        write(data, ("premise", "hypothesis", "label"), [(*pair, "긍정") for pair in PAIRS])
    code, out, err = evaluate(capsys, folder_of(name), data, *map(folder_of, options))
    assert (code, out) == (2, "")
    errors = [line for line in err.splitlines() if line.startswith("sbert-ft: error: ")]
    assert len(errors) == 1 and said in errors[0], err


def test_the_data_set_is_the_one_that_python_reads(joined: Path, nli: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sbert_ft.config.settings import Reading

    dataset = ConnectionDataset.from_file(nli, Reading(classes=NLI))
    assert as_json(capsys, joined, nli)["data"]["sha256"] == dataset.sha256


@pytest.fixture
def foreign(tmp_path: Path, tiny_bert_folder: Callable[..., Path]) -> Path:
    """Return the folder of a stock classifier with the classes LABEL_0 and LABEL_1, as others publish them."""
    bert = ConnectionBert.from_pretrained(tiny_bert_folder(tmp_path / "tiny"), "cpu", "float32")
    model = ClassifierModel(bert, "single")
    model.start_head(["LABEL_0", "LABEL_1"])
    model.save_pretrained(tmp_path / "foreign")
    (tmp_path / "foreign" / "sbert_ft.json").unlink()
    (tmp_path / "pairs.csv").write_text(
        "premise,hypothesis,label\n" + "a man,the cat,LABEL_1\na dog,the man,LABEL_0\n" * 3
    )
    (tmp_path / "texts.csv").write_text("document,label\n" + "a man,0\nthe cat,1\n" * 5)
    return tmp_path / "foreign"


def test_a_stock_classifier_of_pairs_is_told_the_kind_as_in_predict(
    foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = str(foreign.parent / "pairs.csv")
    assert main(["evaluate", str(foreign), pairs]) == 2
    assert "(kind single), but a row of" in (err := capsys.readouterr().err) and "or give --model-kind joined if" in err
    assert main(["evaluate", str(foreign), pairs, "--model-kind", "joined", "--samples", "10"]) == 0


def test_labels_that_the_model_names_otherwise_are_mapped_by_classes_alone(
    foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = str(foreign.parent / "texts.csv")
    assert main(["evaluate", str(foreign), texts]) == 2
    expected = (
        "are '0', '1', but the classes of '{}' are 'LABEL_0', 'LABEL_1'; say with --classes A,B,... what DATA calls "
    )
    assert expected.format(foreign) + "them, in this order, such as --classes 0,1" in capsys.readouterr().err
    model = ClassifierModel.from_pretrained(foreign, "cpu")
    for classes in ("0,1", "1,0"):
        assert main(["evaluate", str(foreign), texts, "--classes", classes, "--json", "--samples", "10"]) == 0
        predicted = [classes.split(",")[int(label[-1])] for label in model.predict(["a man", "the cat"])]
        accuracy = np.mean([found == gold for found, gold in zip(predicted, "01", strict=True)])
        assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"]["value"] == accuracy
    with pytest.raises(InputError, match=r"the classes are words: 'LABEL_0', 'LABEL_1'; .* give classes_\[labels\]"):
        model.score(["a man", "the cat"], [0, 1])
    assert model.score(["a man", "the cat"], model.classes_[[0, 1]]) in (0.0, 0.5, 1.0)
