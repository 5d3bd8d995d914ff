"""`sbert-ft predict` as a user sees it: the predicted classes are added, and the rows stay unchanged."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sbert_ft import SiameseBert
from sbert_ft.cli import main
from sbert_ft.model_folder.decision import Calibration, Decision, FittedOn
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.connection_bert import ConnectionBert

pa = pytest.importorskip("pyarrow", reason="the Parquet extra is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="the Parquet extra is not installed")

TEXTS = ["A man plays a guitar.", "a dog, running", 'the "red" car', "a dog, running", "NA", "007", "music"]
PAIRS = [(text, TEXTS[(i + 2) % len(TEXTS)]) for i, text in enumerate(TEXTS)]
FLOAT32 = ["--precision", "float32", "--device", "cpu"]
KOREAN = ("긍정", "부정", "중립")
Make = Callable[..., tuple[Path, ClassifierModel]]


@pytest.fixture(scope="module")
def make(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that makes and saves a classifier that predicts several classes."""
    place = tmp_path_factory.mktemp("predict")
    encoder = tiny_bert_folder(place / "encoder")

    def build(
        name: str, kind: Any, classes: Any, decision: Decision | None = None, scale: tuple[float, float] | None = None
    ) -> tuple[Path, ClassifierModel]:
        model = ClassifierModel(ConnectionBert.from_pretrained(encoder, "cpu", "float32"), kind)
        model.start_head(classes)
        spread_head(model, TEXTS if kind == "single" else PAIRS)
        model.decision = decision
        if scale is not None:
            model.score_scale = scale
        model.save_pretrained(place / name)
        return place / name, ClassifierModel.from_pretrained(place / name, "cpu", "float32")

    return build


def spread_head(model: ClassifierModel, rows: list[Any]) -> None:
    """Set weights and biases of the head so that the rows have positive and negative values of every logit."""
    assert model.head is not None
    generator = torch.Generator().manual_seed(1)
    last = [module for module in model.head.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.normal_(generator=generator)
        last.bias.zero_()
        logits = np.concatenate(list(model.logits_stream(rows)))
        spread = torch.from_numpy(logits.std(0) / 2)
        last.weight.div_(spread[:, None])
        last.bias.copy_(-torch.from_numpy(np.median(logits, 0)) / spread)


@pytest.fixture(scope="module")
def joined(make: Make) -> tuple[Path, ClassifierModel]:
    return make("joined", "joined", ["contradiction", "entailment", "neutral"])


@pytest.fixture(scope="module")
def single(make: Make) -> tuple[Path, ClassifierModel]:
    return make("single", "single", KOREAN)


def a_decision(threshold: float, calibration: Calibration | None = None) -> Decision:
    fitted_on = FittedOn("dev.csv", "0" * 64, 40, 20)
    return Decision(threshold, "f1", fitted_on, calibration=calibration, similarity="probability")


@pytest.fixture(scope="module")
def two_classes(make: Make) -> tuple[Path, ClassifierModel]:
    return make("two", "towers", ["no", "yes"], a_decision(0.3))


@pytest.fixture(scope="module")
def graded(make: Make) -> tuple[Path, ClassifierModel]:
    decision = a_decision(0.4, Calibration("platt", slope=5.0, intercept=-2.0))
    return make("graded", "joined", None, decision, (0.0, 5.0))


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a few inputs, as a user does."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "texts.csv", [("key", "document"), *((f"k{i}", text) for i, text in enumerate(TEXTS))])
    write(tmp_path / "pairs.csv", [("key", "premise", "hypothesis"), *((f"k{i}", *p) for i, p in enumerate(PAIRS))])
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    return tmp_path


def write(path: Path, rows: list[tuple[str, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def columns_of(path: Path) -> dict[str, list[Any]]:
    if path.suffix == ".parquet":
        found: dict[str, list[Any]] = pq.read_table(path).to_pydict()
        return found
    lines = path.read_text("utf-8").splitlines()
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in lines]
        return {name: [row[name] for row in rows] for name in rows[0]}
    cells = csv.reader(lines) if path.suffix == ".csv" else (line.split("\t") for line in lines)
    return {column[0]: list(column[1:]) for column in zip(*cells, strict=True)}


def floats(values: list[Any]) -> np.ndarray:
    return np.array(values, np.float32)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("target", ["out.csv", "out.tsv", "out.jsonl", "out.parquet"])
def test_pairs_get_the_classes_and_probabilities_that_the_model_predicts(
    joined: tuple[Path, ClassifierModel], inside: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = joined
    assert main(["predict", str(folder), "pairs.csv", "-o", target, "--all-probabilities", *FLOAT32]) == 0
    columns = columns_of(inside / target)
    of_classes = [f"probability_{name}" for name in ("contradiction", "entailment", "neutral")]
    assert list(columns) == ["key", "premise", "hypothesis", "predicted", "probability", *of_classes]
    assert list(zip(columns["premise"], columns["hypothesis"], strict=True)) == PAIRS
    expected = model.predict(PAIRS).tolist()
    assert columns["predicted"] == expected and len(set(expected)) > 1
    probabilities = model.predict_proba(PAIRS)
    np.testing.assert_allclose(floats(columns["probability"]), probabilities.max(1), atol=1e-5)
    for i, name in enumerate(of_classes):
        np.testing.assert_allclose(floats(columns[name]), probabilities[:, i], atol=1e-5)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("7 pairs, ") and last.endswith(f" -> {target}")
    assert all(f", '{name}' {expected.count(name)}" in last for name in set(expected))


@pytest.mark.parametrize(("source", "options"), [("texts.csv", []), ("texts.txt", []), ("pairs.csv", ["premise"])])
def test_single_texts_get_korean_classes_and_the_rows_stay_byte_for_byte(
    single: tuple[Path, ClassifierModel], inside: Path, source: str, options: list[str]
) -> None:
    folder, model = single
    named = ["--column", *options] if options else []
    assert main(["predict", str(folder), source, "-o", "out.csv", *named, *FLOAT32, "--quiet"]) == 0
    columns = columns_of(inside / "out.csv")
    assert list(columns)[-2:] == ["predicted", "probability"]
    assert columns["predicted"] == model.predict(TEXTS).tolist() and set(columns["predicted"]) <= set(KOREAN)
    if source.endswith(".csv"):
        rows, predicted = (Path(name).read_bytes().decode().split("\n") for name in (source, "out.csv"))
        assert all(line.startswith(f"{row},") for row, line in zip(rows[:-1], predicted[:-1], strict=True))


def test_only_the_class_can_be_asked_for_and_names_can_have_a_prefix(
    two_classes: tuple[Path, ClassifierModel], inside: Path
) -> None:
    given = ["predict", str(two_classes[0]), "pairs.csv", "-o", "out.parquet", *FLOAT32, "--quiet"]
    assert main([*given, "--only-predicted"]) == 0
    assert list(columns_of(inside / "out.parquet")) == ["key", "premise", "hypothesis", "predicted"]
    assert main([*given, "--prefix", "new_", "--all-probabilities"]) == 0
    names = ["new_predicted", "new_probability", "new_probability_no", "new_probability_yes", "new_match"]
    assert list(columns_of(inside / "out.parquet"))[3:] == names
    types = [pa.string(), pa.float32(), pa.float32(), pa.float32(), pa.bool_()]
    assert pq.read_schema("out.parquet").types[3:] == types


def test_two_classes_match_from_the_stored_threshold_or_from_a_given_one(
    two_classes: tuple[Path, ClassifierModel], inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = two_classes
    given = ["predict", str(folder), "pairs.csv", "-o", "out.jsonl", *FLOAT32]
    assert main(given) == 0
    columns = columns_of(inside / "out.jsonl")
    assert columns["match"] == model.match(PAIRS).tolist() == (model.predict_proba(PAIRS)[:, 1] >= 0.3).tolist()
    assert columns["predicted"] == model.predict(PAIRS).tolist()
    said = capsys.readouterr().err
    assert "match: a probability of at least 0.3000 (chosen for f1 on 40 pairs)" in said
    assert said.splitlines()[-1].endswith(f", {sum(columns['match'])} match -> out.jsonl")
    assert main([*given, "--threshold", "0"]) == 0
    assert columns_of(inside / "out.jsonl")["match"] == [True] * len(PAIRS)
    assert "match: " not in capsys.readouterr().err


def test_one_output_gives_scores_on_the_scale_of_training(
    graded: tuple[Path, ClassifierModel], inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = graded
    assert main(["predict", str(folder), "pairs.csv", "-o", "out.parquet", *FLOAT32]) == 0
    columns = columns_of(inside / "out.parquet")
    assert list(columns)[3:] == ["predicted", "probability", "match"]
    assert pq.read_schema("out.parquet").types[3:] == [pa.float32(), pa.float32(), pa.bool_()]
    np.testing.assert_allclose(columns["predicted"], model.predict(PAIRS), atol=1e-4)
    assert model.predict(PAIRS).max() > 1.5
    assert model.decision is not None and model.decision.calibration is not None
    calibrated = model.decision.calibration.probability(model.connection_scores(PAIRS))
    np.testing.assert_allclose(columns["probability"], calibrated, atol=1e-5)
    assert columns["match"] == model.match(PAIRS).tolist()
    assert ", scores " in capsys.readouterr().err.splitlines()[-1]


def test_a_thousand_rows_keep_their_order_whatever_the_batches(
    joined: tuple[Path, ClassifierModel], inside: Path
) -> None:
    folder, model = joined
    pairs = [(f"dog {i % 31}", f"car {i % 17} " + "music " * (i % 9)) for i in range(5000)]
    write(inside / "many.csv", [("sentence1", "sentence2"), *pairs])
    assert main(["predict", str(folder), "many.csv", "-o", "out.parquet", *FLOAT32, "--batch-size", "7"]) == 0
    columns = columns_of(inside / "out.parquet")
    np.testing.assert_allclose(columns["probability"], model.predict_proba(pairs).max(1), atol=1e-4)


def test_a_header_alone_gives_a_result_without_rows(
    joined: tuple[Path, ClassifierModel], inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (inside / "empty.csv").write_text("text1,text2\n")
    assert main(["predict", str(joined[0]), "empty.csv", "-o", "out.csv"]) == 0
    assert (inside / "out.csv").read_text() == "text1,text2,predicted,probability\n"
    assert "warning: 'empty.csv' holds no pair" in capsys.readouterr().err


def test_of_many_classes_the_commonest_are_said(make: Make, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, model = make("many", "single", [f"intent\x1b{i}" for i in range(8)])
    texts = [f"{text} {word}" for text in TEXTS for word in ("dog", "red car", "music street", "the man", "blue 5")]
    write(inside / "many.csv", [("text",), *((text,) for text in texts)])
    assert (
        main(["predict", str(folder), "many.csv", "-o", "out.csv", "--kind", "csv", "--column", "text", *FLOAT32]) == 0
    )
    said = capsys.readouterr().err
    n_classes = len(set(model.predict(texts).tolist()))
    assert n_classes > 6 and f", {n_classes - 5} other classes -> out.csv" in said and "\x1b" not in said


# ---------------------------------------------------------------- texts


def test_a_text_gets_its_class_and_probability(
    single: tuple[Path, ClassifierModel], inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = single
    assert main(["predict", str(folder), "a dog", *FLOAT32, "--quiet"]) == 0
    assert main(["predict", str(folder), "a dog", *FLOAT32, "--quiet", "--all-probabilities"]) == 0
    assert main(["predict", str(folder), "a dog", *FLOAT32, "--quiet", "--only-predicted"]) == 0
    whole, every, only = capsys.readouterr().out.splitlines()
    (predicted,), (probabilities,) = model.predict(["a dog"]), model.predict_proba(["a dog"])
    assert whole == f"{predicted}  probability {probabilities.max():.2f}"
    each = "  ".join(f"probability_{name} {p:.2f}" for name, p in zip(KOREAN, probabilities, strict=True))
    assert every == f"{whole}  {each}"
    assert only == predicted


def test_two_texts_are_a_pair(
    two_classes: tuple[Path, ClassifierModel],
    graded: tuple[Path, ClassifierModel],
    inside: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder, model in (two_classes, graded):
        assert main(["predict", str(folder), *PAIRS[0], *FLOAT32, "--quiet"]) == 0
        said = capsys.readouterr().out.strip()
        (predicted,) = model.predict(PAIRS[:1])
        assert said.startswith(predicted if model.class_names else f"{predicted:.4f}")
        assert said.endswith("  match yes" if model.match(PAIRS[:1])[0] else "  match no")
    assert main(["predict", str(two_classes[0]), *PAIRS[0], *FLOAT32, "--threshold", "1", "--quiet"]) == 0
    assert capsys.readouterr().out.strip().endswith("  match no")


def test_unknown_words_are_warned_of(
    single: tuple[Path, ClassifierModel], inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(single[0]), "한국어 문장", "--quiet"]) == 0
    assert "warning: 100.0 % of the texts' tokens are unknown" in capsys.readouterr().err


# ---------------------------------------------------------------- what is refused

OUT = ["-o", "out.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["M", "texts.csv"], "'texts.csv': is a file; give -o OUT to write its rows with their classes"),
        (["M", "none.csv"], "'none.csv': no such file"),
        (["M", "none.csv", *OUT], "'none.csv': no such file"),
        (["M", "a", "b", "c"], "found 3; put each text in quotes"),
        (["M", "a", "b", *OUT], "--output is for a file, but two texts were given: 'a' and 'b'"),
        (["M", "a", "--column", "x"], "--columns is for a file, but a text was given: 'a'"),
        (["M", "a b", "--prefix", "x"], "--prefix is for a file"),
        (["M", "a", ""], "one of the two texts is empty"),
        (["M", ""], "the text is empty"),
        (["M", "a", "--threshold", "1.5"], "expected a probability, a number from 0 to 1, found '1.5'"),
        (["M", "a", "--threshold", "nan"], "expected a probability"),
        (["M", "a", "--threshold", "0.5", "--only-predicted"], "not allowed with argument --threshold"),
        (["M", "a", "--all-probabilities", "--only-predicted"], "give one of them"),
        (["M", "a", "--model-kind", "towers"], "--model-kind"),
        (["M", "texts.csv", "-o", "texts.csv"], "is the file that is read"),
        (["M", "texts.csv", "-o", "out.npy"], "cannot tell what to write from the suffix '.npy'"),
        (["M", "texts.txt", "-o", "out.txt"], "a .txt has no columns"),
        (["M", "texts.csv", *OUT, "--columns", "a,b,c"], "expected the names of two columns"),
        (["M", "texts.csv", *OUT, "--column", "docment"], "did you mean 'document'?"),
        (["M", "taken.csv", *OUT], "a column 'predicted' is there already; rename it, put something before"),
        (["none", "texts.csv", *OUT], "'none' is not a model folder"),
        (["none", "a text"], "'none' is not a model folder"),
        (["JOINED", "a text"], "classifies pairs (kind joined), but one text was given; give two texts"),
        (["SINGLE", "a", "b"], "classifies single texts (kind single), but two texts were given; give one text"),
        (["SINGLE", "pairs.csv", *OUT, "--columns", "premise,hypothesis"], "but --columns names 2"),
        (["JOINED", "texts.csv", *OUT], "expected two columns of texts"),
        (["SINGLE", "pairs.csv", *OUT], "expected one column of texts"),
        (["JOINED", "a", "b", "--threshold", "0.5"], "--threshold is for two classes or a score"),
        (["GRADED", "a", "b", "--all-probabilities"], "--all-probabilities is for classes"),
        (["TWO", "match.csv", *OUT], "a column 'match' is there already"),
        (["ENCODER", "a", "b"], "BertClassifier"),
        (["SINGLE", "gap.csv", *OUT], "'gap.csv', line 3"),
        (["JOINED", "a", "b", "--max-seq-length", "3"], "max_seq_length is '3'"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_bad_use_is_refused_in_one_line_and_leaves_nothing(
    request: pytest.FixtureRequest, inside: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write(inside / "taken.csv", [("text", "predicted"), ("a", "b")])
    write(inside / "match.csv", [("text1", "text2", "match"), ("a", "b", "x")])
    write(inside / "gap.csv", [("text", "x"), ("a", "b"), ("", "b")])
    before = sorted(path.name for path in inside.iterdir())
    fixtures = {"JOINED": "joined", "SINGLE": "single", "GRADED": "graded", "TWO": "two_classes"}
    if arguments[0] in fixtures:
        arguments = [str(request.getfixturevalue(fixtures[arguments[0]])[0]), *arguments[1:]]
    elif arguments[0] == "ENCODER":
        arguments = [str(request.getfixturevalue("joined")[0].parent / "encoder"), *arguments[1:]]
    try:
        code = main(["predict", *arguments, "--quiet"])
    except SystemExit as stop:
        code = stop.code
    said = capfd.readouterr()
    assert (code, said.out) == (2, "")
    errors = [line for line in said.err.splitlines() if line.startswith("sbert-ft: error: ")]
    assert len(errors) == 1 and message in errors[0], said.err
    assert sorted(path.name for path in inside.iterdir()) == before


# ---------------------------------------------------------------- folders made elsewhere, and other commands


def test_a_folder_made_elsewhere_takes_what_it_is_said_to_take(
    tiny_bert_folder: Callable[..., Path], inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

    folder = tiny_bert_folder(inside / "encoder")
    config = BertConfig.from_pretrained(folder, num_labels=2, id2label={0: "bad", 1: "good"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        stock = BertForSequenceClassification(config)
    stock.save_pretrained(inside / "stock")
    (inside / "stock" / "vocab.txt").write_bytes((folder / "vocab.txt").read_bytes())
    assert main(["predict", "stock", "a dog", "--all-probabilities", *FLOAT32, "--quiet"]) == 0
    said = capsys.readouterr().out
    tokens = ClassifierModel.from_pretrained(inside / "stock", "cpu", "float32").tokenizer
    framed = tokens.frame(tokens.tokenize(["a dog"]), 64)
    model = AutoModelForSequenceClassification.from_pretrained(inside / "stock").eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(framed.token_ids.astype(np.int64))[None]).logits[0]
    bad, good = logits.softmax(0).tolist()
    assert said.strip().endswith(f"probability_bad {bad:.2f}  probability_good {good:.2f}")
    assert said.startswith("bad" if bad > good else "good")
    assert main(["predict", "stock", "a dog", "a cat", *FLOAT32, "--quiet"]) == 2
    assert "or give --model-kind joined if the model was trained so" in capsys.readouterr().err
    assert main(["predict", "stock", "a dog", "a cat", *FLOAT32, "--quiet", "--model-kind", "joined"]) == 0
    assert capsys.readouterr().out.split()[0] in ("bad", "good")


@pytest.mark.parametrize("name", ["joined", "single"])
def test_score_refuses_a_classifier_without_towers_and_names_predict(
    request: pytest.FixtureRequest, inside: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = request.getfixturevalue(name)
    for given in (["a", "b"], ["pairs.csv", "-o", "out.csv"]):
        assert main(["score", str(folder), *given, "--quiet"]) == 2
        said = capsys.readouterr()
        assert f"is a classifier of kind {name}" in said.err and "sbert-ft predict" in said.err and said.out == ""
    assert not (inside / "out.csv").exists()


def test_towers_are_scored_as_the_encoder_that_they_are(
    two_classes: tuple[Path, ClassifierModel], inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", str(two_classes[0]), *PAIRS[0], *FLOAT32, "--only-score", "--quiet"]) == 0
    (expected,) = SiameseBert.from_pretrained(two_classes[0], "cpu", "float32").score(PAIRS[:1])
    said = capsys.readouterr()
    assert (said.out.strip(), said.err) == (f"{expected:.4f}", "")


def test_encode_warns_of_a_classifier_and_names_predict(
    single: tuple[Path, ClassifierModel],
    two_classes: tuple[Path, ClassifierModel],
    inside: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["encode", str(single[0]), "texts.txt", "-o", "out.npy"]) == 0
    said = capsys.readouterr().err
    assert said.count("warning: ") == 1 and "is a classifier" in said and "sbert-ft predict" in said
    assert main(["encode", str(two_classes[0]), "texts.txt", "-o", "out.npy"]) == 0
    said = capsys.readouterr().err
    assert "warning: " not in said and "predict" not in said
