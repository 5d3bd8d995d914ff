"""Classifiers in use: rows of one and two texts, scikit-learn's conventions, cuts, batches, decisions, bad inputs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score
from torch.nn import functional as F

from sbert_ft.errors import InputError
from sbert_ft.model_folder.decision import Decision, FittedOn
from sbert_ft.models import inference
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.inference import EmbedCount
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.tokenization.text_tokens import TextTokens

TEXTS = ["a man plays", "a dog", "", "the cat sat on the mat and slept", "a man plays", "music", "x"]
PAIRS = list(zip(TEXTS, TEXTS[1:] + TEXTS[:1], strict=True))
LONG = "one two three four five six seven eight nine ten " * 6
KINDS = ("towers", "joined", "single")
TOLERANCE = 5e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Callable[..., Path]) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("bert") / "model", max_positions=80)


@pytest.fixture
def bert(folder: Path) -> ConnectionBert:
    return ConnectionBert.from_pretrained(folder, device="cpu", precision="float32")


def make(bert: ConnectionBert, kind: Any = "joined", classes: Any = ("a", "b", "c"), **options: Any) -> ClassifierModel:
    """Return a classifier with a random head whose weights are large enough that the rows' results differ."""
    model = ClassifierModel(bert, kind, **options)
    model.start_head(classes)
    model.calibrate(0.05)
    return model


def rows_of(kind: str, rows: int = len(PAIRS)) -> list[Any]:
    return (TEXTS if kind == "single" else PAIRS)[:rows]


def logits_of(model: ClassifierModel, rows: Any, batch_size: int = 32, **options: Any) -> NDArray[np.float32]:
    return np.concatenate(list(model.logits_stream(rows, batch_size, **{"on_truncate": "ignore", **options})))


def decision_at(threshold: float) -> Decision:
    return Decision(threshold, "f1", FittedOn("dev.csv", "0" * 64, 10, 5), similarity="probability")


# predictions


@pytest.mark.parametrize(("kind", "pooling"), [("towers", "mean"), ("joined", "pooler"), ("single", "max")])
def test_logits_depend_on_neither_order_nor_batch_size(bert: ConnectionBert, kind: str, pooling: str) -> None:
    model = make(bert, kind, pooling=pooling)
    rows = rows_of(kind) * 5
    expected = logits_of(model, rows)
    assert np.abs(expected - expected.mean(0)).max() > 0.1
    for batch_size in (1, 3, 200):
        np.testing.assert_allclose(logits_of(model, rows, batch_size), expected, atol=TOLERANCE * 20)
    np.testing.assert_allclose(logits_of(model, rows[::-1])[::-1], expected, atol=TOLERANCE * 20)


@pytest.mark.parametrize("kind", KINDS)
def test_windows_change_no_logit(bert: ConnectionBert, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(bert, kind)
    expected = logits_of(model, rows_of(kind))
    monkeypatch.setattr(inference, "WINDOW_TEXTS", 4)
    parts = list(model.logits_stream(iter(rows_of(kind))))
    assert [len(part) for part in parts] == ([4, 3] if kind == "single" else [2, 2, 2, 1])
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=TOLERANCE * 20)
    monkeypatch.setattr(inference, "WINDOW_TEXTS", 8192)
    monkeypatch.setattr(inference, "WINDOW_CHARACTERS", 10)
    np.testing.assert_allclose(logits_of(model, rows_of(kind)), expected, atol=TOLERANCE * 20)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [("a", "b"), (0, 1), (0.5, 1.5), (False, True), None], ids=str)
def test_one_row_by_itself_gives_one_class(bert: ConnectionBert, kind: str, classes: Any) -> None:
    model = make(bert, kind, classes)
    model.decision = decision_at(0.5)
    row = rows_of(kind)[1]
    ways = [(row,)] if kind == "single" else [row, (row,)]
    for way in ways:
        predicted, expected = model.predict(*way), model.predict([row])
        assert type(predicted) is (float if classes is None else type(classes[0]))
        assert predicted == pytest.approx(float(expected[0]), abs=1e-6) if classes is None else predicted == expected[0]
        assert model.match(*way) is bool(model.match([row])[0])
        if classes is not None:
            np.testing.assert_allclose(model.predict_proba(*way), model.predict_proba([row])[0], atol=1e-6)


def test_rows_can_be_given_side_by_side_and_as_one_column(bert: ConnectionBert) -> None:
    model = make(bert, "joined")
    expected = model.predict(PAIRS).tolist()
    firsts, seconds = zip(*PAIRS, strict=True)
    assert model.predict(list(firsts), pd.Series(seconds)).tolist() == expected
    np.testing.assert_array_equal(model.predict_proba(firsts, seconds), model.predict_proba(PAIRS))
    with pytest.raises(InputError, match="7 first texts and 6 second ones"):
        model.predict(firsts, seconds[:6])
    with pytest.raises(InputError, match="of type int"):
        model.predict(PAIRS, 64)
    single = make(bert, "single")
    for column in (pd.DataFrame({"text": TEXTS}), np.array(TEXTS)[:, None]):
        assert single.predict(column).tolist() == single.predict(TEXTS).tolist()
    for gold in (np.array(single.predict(TEXTS))[:, None], pd.DataFrame({"y": single.predict(TEXTS)})):
        assert single.score(TEXTS, gold) == 1.0
    with pytest.raises(InputError, match="second is given, but this classifier takes single texts"):
        single.predict("a", "b")


def test_a_stream_reads_a_window_at_a_time(bert: ConnectionBert, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "WINDOW_TEXTS", 4)
    taken: list[int] = []

    def source() -> Iterator[tuple[str, str]]:
        for i in range(20):
            taken.append(i)
            yield f"text {i}", "another"

    stream = make(bert).logits_stream(source())
    next(stream)
    assert len(taken) <= 4


@pytest.mark.parametrize(
    ("features", "by_hand"),
    [
        ("uv", lambda u, v: [u, v]),
        ("difference", lambda u, v: [(u - v).abs()]),
        ("uv_difference", lambda u, v: [u, v, (u - v).abs()]),
        ("uv_difference_product", lambda u, v: [u, v, (u - v).abs(), u * v]),
    ],
)
def test_towers_see_the_features_of_sentence_bert(bert: ConnectionBert, features: Any, by_hand: Any) -> None:
    model = make(bert, "towers", features=features)
    encoder = model.as_sentence_encoder()
    u, v = (encoder.encode([pair[side] for pair in PAIRS], convert_to_tensor=True) for side in (0, 1))
    assert model.head is not None
    expected = torch.cat(by_hand(u, v), dim=1) @ model.head.output.weight.T + model.head.output.bias
    np.testing.assert_allclose(logits_of(model, PAIRS), expected.detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_those_of_the_logits(bert: ConnectionBert, kind: str) -> None:
    model, rows = make(bert, kind), rows_of(kind)
    logits = torch.from_numpy(logits_of(model, rows))
    probabilities = model.predict_proba(rows)
    np.testing.assert_allclose(probabilities, F.softmax(logits, 1).numpy(), atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    predicted = model.predict(rows)
    assert predicted.tolist() == [model.classes_[i] for i in logits.argmax(1)]
    assert predicted.dtype == model.classes_.dtype
    gold = ["a", "b", "c", "a", "b", "c", "a"]
    assert model.score(rows, gold) == accuracy_score(gold, predicted)
    assert model.score(rows, ["never seen"] * 7) == 0.0


def test_one_output_is_a_score_on_the_scale_of_its_training(bert: ConnectionBert) -> None:
    model = make(bert, "joined", None)
    model.score_scale = (1.0, 5.0)
    sigmoid = 1 / (1 + np.exp(-logits_of(model, PAIRS)[:, 0]))
    np.testing.assert_allclose(model.predict(PAIRS), 1 + 4 * sigmoid, atol=1e-5)
    np.testing.assert_allclose(model.connection_scores(PAIRS), sigmoid, atol=1e-6)
    gold = [0.1, 3, 2, 4, 1, 2.5, 4]
    assert model.score(PAIRS, gold) == pytest.approx(spearmanr(sigmoid, gold).statistic)
    with pytest.raises(InputError, match=r"one output and no classes; use predict"):
        model.predict_proba(PAIRS)
    with pytest.raises(InputError, match="one output and no classes"):
        _ = model.classes_
    assert model.class_names == ()


@pytest.mark.parametrize("classes", [None, [0, 1]])
def test_a_match_is_decided_on_the_probability(bert: ConnectionBert, classes: Any) -> None:
    model = make(bert, "joined", classes)
    scores = model.connection_scores(PAIRS)
    assert scores.dtype == np.float32
    if classes is not None:
        np.testing.assert_array_equal(scores, model.predict_proba(PAIRS)[:, 1])
    middle = float(np.median(scores))
    expected = (scores >= middle).tolist()
    assert model.match(PAIRS, threshold=middle).tolist() == expected
    with pytest.raises(InputError, match="no stored threshold"):
        model.match(PAIRS)
    model.decision = decision_at(middle)
    assert model.match(PAIRS).tolist() == expected
    for wrong in (-0.1, 1.1, "x", True):
        with pytest.raises(InputError, match="expected a probability: a number from 0 to 1"):
            model.match(PAIRS, threshold=wrong)  # type: ignore[arg-type]


def test_more_than_two_classes_match_nothing(bert: ConnectionBert) -> None:
    with pytest.raises(InputError, match=r"3 classes.*two classes"):
        make(bert).match(PAIRS, threshold=0.5)


def test_calibration_divides_the_logits_and_is_recorded(bert: ConnectionBert) -> None:
    model = make(bert, "single")
    logits, before = logits_of(model, TEXTS), model.predict(TEXTS)
    model.calibrate(4.0, 0.5)
    np.testing.assert_allclose(logits_of(model, TEXTS), logits / 4 + 0.5, atol=1e-5)
    assert model.predict(TEXTS).tolist() == before.tolist()
    assert model.temperature == pytest.approx(0.05 * 4)
    for wrong in (0, -1, float("nan"), "1", True):
        with pytest.raises(InputError, match="temperature is"):
            model.calibrate(wrong)  # type: ignore[arg-type]
    model.start_head(["x", "y"])
    assert model.temperature is None


# rows


@pytest.mark.parametrize(
    "rows", [np.array(PAIRS), pd.DataFrame(PAIRS), pd.Series(PAIRS), (pair for pair in PAIRS), [list(p) for p in PAIRS]]
)
def test_pairs_come_in_many_containers(bert: ConnectionBert, rows: Any) -> None:
    model = make(bert)
    np.testing.assert_allclose(logits_of(model, rows), logits_of(model, PAIRS), atol=TOLERANCE)


@pytest.mark.parametrize("rows", [np.array(TEXTS), pd.Series(TEXTS, index=range(5, 12)), iter(TEXTS), tuple(TEXTS)])
def test_texts_come_in_many_containers(bert: ConnectionBert, rows: Any) -> None:
    model = make(bert, "single")
    np.testing.assert_allclose(logits_of(model, rows), logits_of(model, TEXTS), atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_give_no_predictions(bert: ConnectionBert, kind: str) -> None:
    model = make(bert, kind)
    assert (model.predict([]).shape, model.predict_proba([]).shape) == ((0,), (0, 3))
    with pytest.raises(InputError, match="no rows"):
        model.score([], [])


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ("single", ["a", ("b", "c")], r"text at position 1 .*tuple.*this classifier takes single texts"),
        ("single", ["a", None], r"text at position 1 .*NoneType"),
        ("single", ["a", float("nan")], r"text at position 1 .*float"),
        ("single", b"a text", r"X is .*, expected a list of texts"),
        ("single", ["a", "b\ud800"], r"text at position 1 .*surrogate"),
        ("single", pd.DataFrame({"x": ["a"], "y": ["b"]}), "2 dimensions"),
        ("single", 3, "type int"),
        ("joined", ["a", "b"], r"pair at position 0 is 'a'.*this classifier takes pairs"),
        ("joined", [("a", "b"), ("a", "b", "c")], r"pair at position 1 .*this classifier takes pairs"),
        ("joined", [("a", "b"), ("a", None)], r"pair at position 1 .*NoneType"),
        ("joined", [("a", "b"), ("c", "d\ud800")], r"pair at position 1 .*surrogate"),
        ("joined", "ab", r"X is 'ab', expected a list of pairs"),
        ("joined", 3, r"type int.*this classifier takes pairs"),
        ("towers", ["a", "b"], r"pair at position 0 is 'a'.*this classifier takes pairs"),
        ("towers", [("a", "b"), ("c", "d\ud800")], r"pair at position 1 .*surrogate"),
    ],
)
def test_rows_of_another_kind_are_refused_with_their_position(
    bert: ConnectionBert, kind: str, rows: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make(bert, kind).predict(rows)


@pytest.mark.parametrize("kind", ["single", "joined"])
def test_positions_count_over_windows(bert: ConnectionBert, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "WINDOW_TEXTS", 4)
    rows = rows_of(kind)
    bad: Any = "x\udc80" if kind == "single" else ("a", "x\udc80")
    with pytest.raises(InputError, match=r"position 6 .*surrogate"):
        make(bert, kind).predict([*rows[:6], bad])
    with pytest.raises(InputError, match=r"position 6 has \d+ tokens, but max_seq_length is 70"):
        long: Any = LONG * 2 if kind == "single" else ("a", LONG * 2)
        make(bert, kind, max_seq_length=70).predict([*rows[:6], long], on_truncate="error")


def test_a_text_that_stands_several_times_is_computed_once(bert: ConnectionBert) -> None:
    count = EmbedCount()
    logits = np.concatenate(list(make(bert, "single").logits_stream(["a man"] * 50, count=count)))
    assert (logits.shape, count.n_texts, count.n_tokens) == ((50, 3), 50, count.n_tokens)
    assert count.n_tokens < 20


# cuts


@pytest.mark.parametrize(("kind", "unit"), [("single", "texts"), ("joined", "pairs"), ("towers", "texts")])
def test_cut_rows_are_counted_and_said_once(
    bert: ConnectionBert, kind: str, unit: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = make(bert, kind, max_seq_length=20)
    rows: list[Any] = [LONG, "a", "b"] if kind == "single" else [("c", LONG), ("a", "b"), ("c", "a")]
    with caplog.at_level(logging.WARNING):
        model.predict(rows)
    assert [
        r.getMessage().startswith("1 of ") and f" {unit} are longer than 20" in r.getMessage() for r in caplog.records
    ] == [True]
    caplog.clear()
    model.predict(rows, on_truncate="ignore")
    model.predict(rows, on_truncate="chunk")
    assert not caplog.records


def test_the_truncation_says_which_text_is_cut(bert: ConnectionBert) -> None:
    short = "seven eight"
    cut: dict[str, NDArray[np.float32]] = {}
    for truncation in ("longest_first", "only_first", "only_second"):
        model = make(bert, truncation=truncation, max_seq_length=30)
        cut[truncation] = logits_of(model, [(LONG, short), (short, LONG)])
    np.testing.assert_allclose(cut["only_first"][0], cut["longest_first"][0], atol=1e-5)
    np.testing.assert_allclose(cut["only_second"][1], cut["longest_first"][1], atol=1e-5)


def test_chunks_are_the_mean_of_their_logits(bert: ConnectionBert) -> None:
    model = make(bert, "single", max_seq_length=20)
    tokenizer = bert.tokenizer
    bodies = tokenizer.tokenize([LONG])
    framed, counts = tokenizer.frame_windows(bodies, 20, int(20 * inference.CHUNK_OVERLAP))
    assert counts[0] > 2
    parts = [framed.select(np.array([i])) for i in range(len(framed))]
    assert model.head is not None
    by_hand = torch.stack([model.head([model(bert.pack(part))])[0] for part in parts]).mean(0)
    np.testing.assert_allclose(logits_of(model, [LONG], on_truncate="chunk")[0], by_hand.detach().numpy(), atol=1e-4)
    pair = make(bert, "joined", max_seq_length=20)
    first, second = tokenizer.tokenize(["a b"]), bodies
    framed, _ = tokenizer.join_windows(first, second, 20, int(20 * inference.CHUNK_OVERLAP))
    parts = [framed.select(np.array([i])) for i in range(len(framed))]
    assert pair.head is not None
    by_hand = torch.stack([pair.head([pair(bert.pack(part))])[0] for part in parts]).mean(0)
    found = logits_of(pair, [("a b", LONG), ("a", "b")], on_truncate="chunk")
    np.testing.assert_allclose(found[0], by_hand.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(found[1], logits_of(pair, [("a", "b")])[0], atol=1e-4)


# training


def framed_pairs(model: ClassifierModel) -> TextTokens:
    tokenizer = model.tokenizer
    first, second = (tokenizer.tokenize([pair[side] for pair in PAIRS]) for side in (0, 1))
    return tokenizer.join(first, second, model.max_seq_length)


def test_forward_and_head_give_the_logits_with_gradients(bert: ConnectionBert) -> None:
    model = make(bert)
    assert model.head is not None
    vectors = model(bert.pack(framed_pairs(model)))
    logits = model.head([vectors])
    np.testing.assert_allclose(logits.detach().numpy(), logits_of(model, PAIRS), atol=1e-4)
    F.cross_entropy(logits, torch.zeros(len(PAIRS), dtype=torch.int64)).backward()
    without = [name for name, parameter in model.trained.named_parameters() if parameter.grad is None]
    assert without == []


def test_what_is_trained_are_the_models_own_parameters(bert: ConnectionBert) -> None:
    model = make(bert)
    state = model.trained.state_dict()
    assert {name.partition(".")[0] for name in state} == {"encoder", "head"}
    own = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in model.trained.parameters()} == own
    before = logits_of(model, PAIRS)
    changed = {name: tensor + 0.01 if name == "head.output.bias" else tensor for name, tensor in state.items()}
    model.trained.load_state_dict(changed)
    np.testing.assert_allclose(logits_of(model, PAIRS), before + 0.01, atol=1e-4)


def test_predictions_have_no_dropout_and_leave_the_mode_of_training(bert: ConnectionBert) -> None:
    model = make(bert, "single", head_dropout=0.5)
    expected = logits_of(model, TEXTS)
    assert model.head is not None
    model.head.train()
    np.testing.assert_array_equal(logits_of(model, TEXTS), expected)
    assert model.head.training
    vectors = model(bert.pack(bert.tokenizer.frame(bert.tokenizer.tokenize(TEXTS), 80)))
    assert not torch.equal(model.head([vectors]), model.head([vectors]))


def test_the_head_computes_in_float32_under_autocast(bert: ConnectionBert) -> None:
    model = make(bert, "single")
    assert model.head is not None
    vectors = torch.randn(4, bert.hidden_size)
    expected = model.head([vectors])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.head([vectors])
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_bfloat16_gives_nearly_the_same_probabilities(folder: Path, bert: ConnectionBert) -> None:
    half = ConnectionBert.from_pretrained(folder, device="cpu", precision="bfloat16")
    models = [ClassifierModel(encoder, "single") for encoder in (bert, half)]
    for model in models:
        model.start_head(["a", "b"])
    exact, rounded = (model.predict_proba(TEXTS) for model in models)
    np.testing.assert_allclose(rounded, exact, atol=0.02)
    assert rounded.dtype == np.float32


# construction


def test_the_sentence_encoder_shares_the_weights(bert: ConnectionBert) -> None:
    model = make(bert, "towers", pooling="max")
    encoder = model.as_sentence_encoder()
    assert isinstance(encoder, SiameseBert)
    assert encoder.bert is bert
    assert encoder.pooling == "max"
    assert make(bert).as_sentence_encoder().pooling == "mean"


def test_what_is_resolved_can_be_read(bert: ConnectionBert) -> None:
    joined, towers = ClassifierModel(bert), ClassifierModel(bert, "towers", head_dropout=0)
    assert (joined.kind, joined.pooling, joined.head_dropout, joined.is_stock) == ("joined", "pooler", 0.1, True)
    assert (towers.pooling, towers.head_dropout, towers.is_stock) == ("mean", 0.0, False)
    assert (joined.n_texts, towers.n_texts, ClassifierModel(bert, "single").n_texts) == (2, 2, 1)
    assert not ClassifierModel(bert, "single", pooling="mean").is_stock


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "siamese"}, "kind is 'siamese', expected one of towers, joined, single"),
        ({"pooling": "last"}, "pooling is 'last', expected one of mean, cls, max, pooler"),
        ({"kind": "towers", "pooling": "pooler"}, "expected mean, cls or max for towers"),
        ({"features": "u"}, "features is 'u'"),
        ({"truncation": "both"}, "truncation is 'both'"),
        ({"head_dropout": 1.0}, "head_dropout is '1.0', expected a probability"),
        ({"head_dropout": True}, "head_dropout is 'True'"),
        ({"class_weight": "even"}, "class_weight is 'even', expected 'balanced'"),
        ({"max_seq_length": 4}, "max_seq_length is '4', expected a whole number from 5 to 80"),
        ({"max_seq_length": 81}, "max_seq_length is '81'"),
    ],
)
def test_wrong_arguments_are_refused(bert: ConnectionBert, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClassifierModel(bert, **options)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "fewer: none"),
        (["a"], "fewer: 'a'"),
        (["a", "a"], "'a' appears twice"),
        ([1, 1.0], "appears twice"),
        ([0, False], "appears twice"),
        (["a", 1], "of two types"),
        (["a", None], "'None' is of type NoneType"),
        ([("a",), ("b",)], "of type tuple"),
        ([1.0, float("nan")], "not a finite number"),
        (["a", "b\ud800"], "cannot be saved"),
        (["a", "b\0"], "cannot be saved"),
        ("ab", "expected a list of labels"),
        (3, "expected a list of labels"),
    ],
    ids=str,
)
def test_labels_that_are_no_classes_are_refused(bert: ConnectionBert, classes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClassifierModel(bert).start_head(classes)


def test_labels_of_numpy_are_pythons(bert: ConnectionBert) -> None:
    model = make(bert, classes=np.array([3, 5]))
    assert model.class_names == ("3", "5")
    assert model.predict(PAIRS).dtype == np.int64
    assert model.score(PAIRS, np.array(model.predict(PAIRS))) == 1.0


@pytest.mark.parametrize("use", ["predict", "predict_proba", "classes_", "trained", "n_outputs", "class_names", "save"])
def test_a_classifier_without_a_head_says_that_it_is_not_fitted(bert: ConnectionBert, use: str, tmp_path: Path) -> None:
    model = ClassifierModel(bert)
    with pytest.raises(InputError, match="not fitted yet"):
        if use in ("predict", "predict_proba"):
            getattr(model, use)(PAIRS)
        elif use == "save":
            model.save_pretrained(tmp_path / "saved")
        else:
            getattr(model, use)


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        (["a"], "7 rows, but y has 1 labels"),
        ([1] * 7, r"label at position 0 is '1' \(int\), but the classes are words: 'a', 'b', 'c'"),
        ([None] * 7, "label at position 0"),
    ],
)
def test_gold_of_another_sort_is_refused(bert: ConnectionBert, gold: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(bert).score(PAIRS, gold)


def test_graded_gold_must_be_numbers_that_differ(bert: ConnectionBert) -> None:
    model = make(bert, classes=None)
    with pytest.raises(InputError, match="not a number"):
        model.score(PAIRS, ["high"] * 7)
    with pytest.raises(InputError, match="not defined"):
        model.score(PAIRS, [1] * 7)
