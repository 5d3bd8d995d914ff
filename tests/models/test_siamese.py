"""`SiameseBert` as users call it: every kind of input and result, and bad inputs refused with their position."""

from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from sbert_ft.errors import InputError, SbertFtError
from sbert_ft.model_folder.decision import Calibration, Decision, FittedOn
from sbert_ft.models import inference
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.inference import EmbedCount
from sbert_ft.models.siamese import SiameseBert

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["A man plays a guitar.", "two dogs running in the park", "", "한국어 뷁", "the house " * 10, "a"]
TOLERANCE = 5e-6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Callable[..., Path]) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def bert(folder: Path) -> ConnectionBert:
    return ConnectionBert.from_pretrained(folder, device="cpu", precision="float32")


@pytest.fixture
def model(bert: ConnectionBert) -> SiameseBert:
    """Return a model whose settings the test may change; its encoder is shared."""
    return SiameseBert(bert)


@pytest.fixture(scope="module")
def reference(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    target = tmp_path_factory.mktemp("saved") / "model"
    SiameseBert.from_pretrained(folder, device="cpu", precision="float32").save_pretrained(target)
    return SentenceTransformer(str(target), device="cpu")


# kinds of input and result


@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        np.array,
        lambda texts: np.array(texts, dtype=object),
        pd.Series,
        lambda texts: pd.Series(texts, index=range(50, 50 + len(texts)), dtype="string"),
        lambda texts: (text for text in texts),
        iter,
        lambda texts: dict.fromkeys(texts).keys(),
        lambda texts: [np.str_(text) for text in texts],
    ],
    ids=["list", "tuple", "array", "objects", "Series", "string Series", "generator", "iterator", "keys", "np.str_"],
)
def test_every_ordered_kind_of_input_gives_one_row_a_text(model: SiameseBert, kind: Callable[[list[str]], Any]) -> None:
    vectors = model.encode(kind(TEXTS))
    assert isinstance(vectors, np.ndarray)
    assert (vectors.shape, vectors.dtype) == ((len(TEXTS), 32), np.float32)
    np.testing.assert_array_equal(vectors, model.encode(list(TEXTS)))


@pytest.mark.parametrize("text", [TEXTS[0], "", np.str_("a man")])
def test_a_text_alone_gives_one_vector(model: SiameseBert, text: str) -> None:
    vector = model.encode(text)
    assert (vector.shape, vector.dtype) == ((32,), np.float32)
    np.testing.assert_allclose(vector, model.encode([text])[0], atol=1e-6)


@pytest.mark.parametrize("inputs", [TEXTS, TEXTS[0]], ids=["list", "text"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"convert_to_numpy": False},
        {"convert_to_tensor": True},
        {"convert_to_tensor": True, "convert_to_numpy": False},
        {"normalize_embeddings": True},
        {"truncate_dim": 8},
        {"truncate_dim": 8, "normalize_embeddings": True},
        {"truncate_dim": 32, "convert_to_tensor": True},
        {"batch_size": 1, "show_progress_bar": False},
    ],
    ids=str,
)
def test_results_have_the_types_shapes_and_values_of_sentence_transformers(
    model: SiameseBert, reference: SentenceTransformer, inputs: str | list[str], options: dict[str, Any]
) -> None:
    result, expected = model.encode(inputs, **options), reference.encode(inputs, **options)
    assert type(result) is type(expected)
    if isinstance(expected, list):
        assert [v.shape for v in result] == [v.shape for v in expected]
        assert all(isinstance(v, torch.Tensor) and v.dtype == torch.float32 for v in result)
        result, expected = torch.stack(list(result)), torch.stack(expected)
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(np.asarray(result), np.asarray(expected), atol=5e-6, rtol=0)


def test_a_text_without_any_token_is_refused_by_its_position(folder: Path, tmp_path: Path) -> None:
    SiameseBert.from_pretrained(folder).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}), "utf-8")
    bare = SiameseBert.from_pretrained(tmp_path)
    assert bare.encode(["a dog", "a"]).shape == (2, 32)
    with pytest.raises(InputError, match="text at position 1 has no tokens"):
        bare.encode(["a dog", "", "a"])


@pytest.mark.parametrize(
    "empty",
    [[], (), np.array([], dtype=str), pd.Series([], dtype=object), iter(())],
    ids=lambda empty: type(empty).__name__,
)
def test_no_texts_give_no_rows_of_the_right_width(model: SiameseBert, empty: Any) -> None:
    vectors = model.encode(empty)
    assert (vectors.shape, vectors.dtype) == ((0, 32), np.float32)
    assert model.encode([], truncate_dim=5).shape == (0, 5)
    assert model.encode([], convert_to_tensor=True).shape == (0, 32)
    assert model.encode([], convert_to_numpy=False) == []
    assert model.score([]).shape == (0,)
    assert list(model.encode_stream([])) == []


def test_normalised_vectors_have_length_one(model: SiameseBert) -> None:
    assert np.linalg.norm(model.encode(TEXTS, normalize_embeddings=True), axis=1) == pytest.approx(1, abs=1e-6)
    shortened = model.encode(TEXTS, normalize_embeddings=True, truncate_dim=4)
    assert np.linalg.norm(shortened, axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("value", [0, -1, 33, 1.5, "8"], ids=repr)
def test_a_width_that_is_none_is_refused(model: SiameseBert, value: Any) -> None:
    with pytest.raises(InputError, match=r"truncate_dim.*from 1 to 32"):
        model.encode(TEXTS, truncate_dim=value)


@pytest.mark.parametrize("value", [0, -3, 1.5, None, "32", True], ids=repr)
def test_a_batch_size_that_is_none_is_refused(model: SiameseBert, value: Any) -> None:
    with pytest.raises(InputError, match="batch_size"):
        model.encode(TEXTS, batch_size=value)
    with pytest.raises(InputError, match="batch_size"):
        model.score([("a", "b")], batch_size=value)


@pytest.mark.parametrize(
    ("asked", "level", "seen"), [(True, 30, True), (None, 30, False), (None, 20, True), (False, 10, False)]
)
def test_a_progress_bar_is_drawn_on_standard_error_when_asked_for(
    model: SiameseBert, capsys: pytest.CaptureFixture[str], asked: bool | None, level: int, seen: bool
) -> None:
    logger = logging.getLogger("sbert_ft")
    before = logger.level
    logger.setLevel(level)
    try:
        model.encode(TEXTS, show_progress_bar=asked)
    finally:
        logger.setLevel(before)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("text" in captured.err) is seen


# what is refused


@pytest.mark.parametrize(
    "bad", [None, float("nan"), 3, 2.5, ("a", "b"), ["a"], b"a", np.nan, pd.NA, {"a": 1}], ids=repr
)
def test_what_is_no_text_is_refused_with_its_position(model: SiameseBert, bad: Any) -> None:
    for inputs in (["a", "b", bad, "c"], ("a", "b", bad), iter(["a", "b", bad])):
        with pytest.raises(InputError, match=r"position 2 .*expected a string"):
            model.encode(inputs)


def test_a_missing_value_is_refused_beyond_the_first_window(model: SiameseBert) -> None:
    texts: list[Any] = ["a"] * (inference.WINDOW_TEXTS + 40)
    texts[inference.WINDOW_TEXTS + 7] = None
    with pytest.raises(InputError, match=rf"position {inference.WINDOW_TEXTS + 7} .*NoneType"):
        model.encode(texts)


def test_a_missing_value_in_a_series_is_refused_by_place_and_not_by_index(model: SiameseBert) -> None:
    for dtype in (object, "string"):
        series = pd.Series(["a", None, "c"], index=[10, 20, 30], dtype=dtype)
        with pytest.raises(InputError, match="position 1 "):
            model.encode(series)
    with pytest.raises(InputError, match=r"position 0 .*float"):
        model.encode(pd.Series([np.nan, "a"]))


def test_a_missing_value_is_refused_when_a_prompt_is_set(model: SiameseBert) -> None:
    with pytest.raises(InputError, match=r"position 1 .*'None'"):
        model.encode(["a", None], prompt="query: ")  # type: ignore[list-item]
    model.prompts, model.default_prompt_name = {"q": "query: "}, "q"
    with pytest.raises(InputError, match=r"position 1 .*'nan'"):
        model.encode(["a", float("nan")])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "inputs",
    [
        {"a": 1},
        {"a", "b"},
        frozenset("ab"),
        b"bytes",
        3,
        None,
        2.5,
        np.array([["a", "b"]]),
        np.array("a"),
        pd.DataFrame({"a": ["x"]}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_holds_no_order_of_texts_is_refused(model: SiameseBert, inputs: Any) -> None:
    with pytest.raises(InputError, match="inputs"):
        model.encode(inputs)


def test_a_lone_surrogate_is_refused_with_its_position(model: SiameseBert) -> None:
    with pytest.raises(InputError, match=r"position 1 .*surrogate"):
        model.encode(["a", "b\ud800"])


@pytest.mark.parametrize("value", [2, 0, -1, 65, 1.5, None, "32", True], ids=repr)
def test_a_length_outside_of_the_encoders_positions_is_refused(model: SiameseBert, value: Any) -> None:
    with pytest.raises(InputError, match=r"max_seq_length.*from 3 to 64"):
        model.max_seq_length = value
    if value is not None:
        with pytest.raises(InputError):
            SiameseBert(model.bert, max_seq_length=value)
    assert model.max_seq_length == 64


def test_the_length_can_be_set_within_the_encoders_positions(model: SiameseBert) -> None:
    for value in (3, 20, 64):
        model.max_seq_length = value
        assert model.max_seq_length == value
        assert model.encode(TEXTS, on_truncate="ignore").shape == (6, 32)
    assert SiameseBert(model.bert, max_seq_length=10).max_seq_length == 10


@pytest.mark.parametrize("pooling", ["sum", "lasttoken", "Mean", 3], ids=repr)
def test_an_unknown_pooling_is_refused(model: SiameseBert, pooling: Any) -> None:
    with pytest.raises(InputError, match=r"pooling is .*expected one of mean, cls, max"):
        SiameseBert(model.bert, pooling=pooling)


# texts that are too long

LONG = "the man and the woman in the park with a dog and a cat and a horse on the street " * 3


def test_cut_texts_are_said_once_with_their_number(model: SiameseBert, caplog: pytest.LogCaptureFixture) -> None:
    model.max_seq_length = 16
    with caplog.at_level("WARNING"):
        model.encode(["a", LONG, "b", LONG])
    (record,) = caplog.records
    longest = len(model.tokenizer.tokenize([LONG]).token_ids) + 2
    assert record.getMessage().startswith(
        f"2 of 4 texts are longer than 16 tokens (the longest has {longest}) and were cut"
    )


def test_cut_texts_are_said_once_over_all_windows(
    model: SiameseBert, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "WINDOW_TEXTS", 8)
    model.max_seq_length = 16
    with caplog.at_level("WARNING"):
        model.encode([LONG, *("a" * 1 for _ in range(30)), LONG])
        model.score([("a", LONG)] + [("a", f"b {i}") for i in range(20)])
    assert [r.getMessage().split(" are")[0] for r in caplog.records] == ["2 of 32 texts", "1 of 27 texts"]


def test_texts_that_fit_are_not_warned_of(model: SiameseBert, caplog: pytest.LogCaptureFixture) -> None:
    exact = " ".join(["a"] * 14)
    model.max_seq_length = 16
    with caplog.at_level("WARNING"):
        model.encode([exact])
        model.encode([LONG], on_truncate="ignore")
        model.encode([LONG], on_truncate="chunk")
    assert caplog.records == []


def test_a_cut_text_is_its_beginning(model: SiameseBert) -> None:
    model.max_seq_length = 16
    expected = model.encode(" ".join(LONG.split()[:14]))
    np.testing.assert_allclose(model.encode(LONG, on_truncate="ignore"), expected, atol=1e-6)


def test_a_long_text_can_be_an_error_with_its_position(model: SiameseBert) -> None:
    model.max_seq_length = 16
    with pytest.raises(InputError, match=r"position 2 has .* tokens, but max_seq_length is 16"):
        model.encode(["a", "b", LONG], on_truncate="error")
    with pytest.raises(InputError, match="a text of the pair at position 1 has"):
        model.score([("a", "b"), ("b", LONG)], on_truncate="error")
    assert model.encode(["a", "b"], on_truncate="error").shape == (2, 32)


def test_an_unknown_treatment_of_long_texts_is_refused(model: SiameseBert) -> None:
    with pytest.raises(InputError, match="on_truncate is 'cut', expected one of warn, error, ignore, chunk"):
        model.encode(["a"], on_truncate="cut")  # type: ignore[call-overload]


def test_chunks_are_the_mean_of_windows_that_overlap_by_a_quarter(
    model: SiameseBert, reference: SentenceTransformer
) -> None:
    model.max_seq_length = 16  # 14 tokens of the text a window, of which 4 are in the next one too
    words = LONG.split()
    assert len(model.tokenizer.tokenize([LONG]).token_ids) == len(words)
    begins = [*range(0, len(words) - 14, 10), len(words) - 14]
    windows = [" ".join(words[begin : begin + 14]) for begin in begins]
    by_hand = reference.encode(windows).mean(axis=0)
    chunked = model.encode(["a man", LONG, "", "two dogs"], on_truncate="chunk")
    np.testing.assert_allclose(chunked[1], by_hand, atol=5e-6, rtol=0)


def test_chunks_leave_short_texts_as_they_are(model: SiameseBert) -> None:
    short = ["a man", "", "two dogs", " ".join(["a"] * 14)]
    model.max_seq_length = 16
    plain = model.encode(short)
    np.testing.assert_array_equal(model.encode(short, on_truncate="chunk"), plain)
    np.testing.assert_allclose(model.encode([*short, LONG], on_truncate="chunk")[:-1], plain, atol=1e-6)


# similarity and scores


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_similarity_is_that_of_sentence_transformers(
    model: SiameseBert, reference: SentenceTransformer, name: Any, as_tensor: bool
) -> None:
    model.similarity_fn_name = name
    before, reference.similarity_fn_name = reference.similarity_fn_name, name
    try:
        a, b = torch.randn(7, 32), torch.randn(7, 32)
        left, right = (a, b) if as_tensor else (a.numpy(), b.numpy())
        for one, other in [(left, right), (left[0], right), (left, right[0]), (left[0], right[0])]:
            result, expected = model.similarity(one, other), reference.similarity(one, other)
            assert (result.shape, result.dtype) == (expected.shape, torch.float32)
            torch.testing.assert_close(result, expected.float(), atol=1e-5 if name != "cosine" else 1e-6, rtol=1e-6)
        pairwise = model.similarity_pairwise(left, right)
        expected = reference.similarity_pairwise(left, right)
        assert pairwise.shape == expected.shape == (7,)
        torch.testing.assert_close(pairwise, expected, atol=1e-6, rtol=1e-6)
    finally:
        reference.similarity_fn_name = before


def test_similarity_takes_lists_of_vectors_and_half_precision(model: SiameseBert) -> None:
    a = torch.randn(3, 32)
    expected = model.similarity(a, a)
    torch.testing.assert_close(model.similarity(list(a), [row.numpy() for row in a]), expected)
    torch.testing.assert_close(model.similarity(a.double(), a.double().numpy()), expected)
    torch.testing.assert_close(model.similarity(a.bfloat16(), a.half()), expected, atol=0.02, rtol=0)
    frozen = a.numpy().copy()
    frozen.flags.writeable = False
    torch.testing.assert_close(model.similarity(frozen, frozen), expected)


def test_identical_sentences_score_one_and_never_more(model: SiameseBert, stsb_sentences: list[str]) -> None:
    texts = [*stsb_sentences[:200], "", "뷁"]
    scores = model.score([(text, text) for text in texts])
    assert scores.max() <= 1.0 and scores.min() >= 1 - 1e-6
    vectors = model.encode(texts)
    assert model.similarity(vectors, vectors).max() <= 1.0
    assert model.similarity_pairwise(vectors, vectors).min() >= 1 - 1e-6


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_zero_vectors_are_compared_without_nan(model: SiameseBert, name: Any) -> None:
    model.similarity_fn_name = name
    a = torch.randn(3, 32)
    a[1] = 0
    for result in (model.similarity(a, a), model.similarity_pairwise(a, a)):
        assert torch.isfinite(result).all()
    if name in ("cosine", "dot"):
        assert model.similarity(a, a)[1].tolist() == [0.0, 0.0, 0.0]
        assert model.similarity_pairwise(a, a)[1].item() == 0.0


@pytest.mark.parametrize(
    ("a", "b", "pairwise"),
    [
        (np.zeros((2, 4)), np.zeros((2, 5)), False),
        (np.zeros((2, 4)), np.zeros((3, 4)), True),
        (np.zeros((2, 4, 1)), np.zeros((2, 4)), False),
        (np.array(["a"]), np.zeros((2, 4)), False),
        (np.array([None, None]), np.zeros((2, 4)), False),
        (["a", "b"], np.zeros((2, 4)), False),
    ],
    ids=["widths", "numbers", "dimensions", "strings", "objects", "texts"],
)
def test_vectors_that_cannot_be_compared_are_refused(model: SiameseBert, a: Any, b: Any, pairwise: bool) -> None:
    with pytest.raises(InputError):
        (model.similarity_pairwise if pairwise else model.similarity)(a, b)


PAIRS = [("a man", "two dogs"), ("", "music"), ("two dogs", "two dogs"), ("two dogs", "a man")]


@pytest.mark.parametrize(
    "kind",
    [
        list,
        tuple,
        iter,
        lambda pairs: ([*pair] for pair in pairs),
        np.array,
        lambda pairs: zip(*zip(*pairs, strict=True), strict=True),
        lambda pairs: pd.DataFrame(pairs).itertuples(index=False),
    ],
    ids=["list", "tuple", "iterator", "lists", "array", "zip", "rows"],
)
def test_every_iterable_of_pairs_is_scored(model: SiameseBert, kind: Callable[[list[tuple[str, str]]], Any]) -> None:
    scores = model.score(kind(PAIRS))
    assert (scores.shape, scores.dtype) == ((4,), np.float32)
    left, right = (model.encode([pair[side] for pair in PAIRS]) for side in (0, 1))
    np.testing.assert_allclose(scores, model.similarity_pairwise(left, right), atol=2e-6)
    assert scores[0] == scores[3] and scores[2] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "bad",
    [
        "ab",
        ("a",),
        ("a", "b", "c"),
        None,
        3,
        ("a", None),
        (float("nan"), "b"),
        ("a", 3),
        (b"a", b"b"),
        {"sentence1": "a", "sentence2": "b"},
        {"a", "b"},
        (("a", "b"), ("c", "d")),
        ("a", "b\ud800"),
    ],
    ids=lambda bad: type(bad).__name__,
)
def test_what_is_no_pair_is_refused_with_its_position(model: SiameseBert, bad: Any) -> None:
    with pytest.raises(InputError, match="pair at position 2"):
        model.score([("a", "b"), ("c", "d"), bad])


@pytest.mark.parametrize(
    "pairs", [None, 3, ("a", "b"), "ab", {"a": "b"}, pd.DataFrame({"x": ["a"], "y": ["b"]})], ids=str
)
def test_what_holds_no_pairs_is_refused(model: SiameseBert, pairs: Any) -> None:
    with pytest.raises(InputError, match="pair"):
        model.score(pairs)


def test_a_wrong_pair_is_refused_beyond_the_first_window(model: SiameseBert) -> None:
    place = inference.WINDOW_TEXTS // 2 + 3
    pairs: list[Any] = [("a", "b")] * (place + 5)
    pairs[place] = ("a", "c\udc80")
    with pytest.raises(InputError, match=rf"pair at position {place} .*surrogate"):
        model.score(pairs)


def test_equal_texts_are_computed_once(model: SiameseBert) -> None:
    count = EmbedCount()
    scores = np.concatenate(list(model.score_stream(PAIRS * 25, count=count)))
    assert (scores.shape, count.n_texts) == ((100,), 4)


def test_many_unknown_tokens_are_said_once_for_a_model(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    loaded = SiameseBert.from_pretrained(folder, device="cpu", precision="float32")
    loaded.encode(["the dog runs in the park"] * 5)
    assert "unknown" not in caplog.text
    loaded.score([("뷁 뷁", "the dog")])
    loaded.encode(["뷁"])
    (record,) = [record for record in caplog.records if "unknown" in record.message]
    assert record.message.startswith(f"50.0 % of the texts' tokens are unknown to the vocabulary of '{folder}'")


def test_a_count_tells_what_was_met(model: SiameseBert) -> None:
    model.max_seq_length = 8
    count = EmbedCount()
    list(model.encode_stream(["a man", "", "뷁 a", "a a a a a a a a a"], on_truncate="ignore", count=count))
    assert count == EmbedCount(n_texts=4, n_long=1, longest=11, n_tokens=18, n_own_tokens=13, n_unknown=1)
    assert count.unknown_share == pytest.approx(1 / 13)
    assert EmbedCount().unknown_share == 0.0


def test_a_score_takes_the_default_prompt(model: SiameseBert) -> None:
    model.prompts, model.default_prompt_name = {"q": "who is "}, "q"
    left, right = model.encode(["a man"]), model.encode(["a dog"])
    np.testing.assert_allclose(model.score([("a man", "a dog")]), model.similarity_pairwise(left, right), atol=1e-6)


# state, order, threads, memory


def test_a_vector_depends_on_neither_order_nor_batch_size(model: SiameseBert, stsb_sentences: list[str]) -> None:
    texts = [*stsb_sentences[:150], *TEXTS]
    expected = model.encode(texts, on_truncate="ignore")
    for batch_size in (1, 7, 500):
        np.testing.assert_allclose(
            model.encode(texts, batch_size=batch_size, on_truncate="ignore"), expected, atol=5e-6
        )
    np.testing.assert_allclose(model.encode(texts[::-1], on_truncate="ignore")[::-1], expected, atol=5e-6)


def test_windows_change_no_vector(
    model: SiameseBert, stsb_sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = stsb_sentences[:50]
    expected = model.encode(texts)
    monkeypatch.setattr(inference, "WINDOW_TEXTS", 7)
    np.testing.assert_allclose(model.encode(texts), expected, atol=5e-6)
    assert [len(part) for part in model.encode_stream(texts)] == [7] * 7 + [1]
    monkeypatch.setattr(inference, "WINDOW_TEXTS", 8192)
    monkeypatch.setattr(inference, "WINDOW_CHARACTERS", 100)
    np.testing.assert_allclose(model.encode(texts), expected, atol=5e-6)


def test_a_stream_reads_a_window_at_a_time(model: SiameseBert, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "WINDOW_TEXTS", 4)
    taken: list[int] = []

    def source() -> Iterator[str]:
        for number in range(100):
            taken.append(number)
            yield f"a {number}"

    stream = model.encode_stream(source())
    assert taken == []
    assert next(stream).shape == (4, 32)
    assert len(taken) == 4


STREAMED = """
import resource, sys
from sbert_ft.models.siamese import SiameseBert
model = SiameseBert.from_pretrained(sys.argv[1], device="cpu", precision="float32")
def texts(n):
    return ("dog " + str(i % 89) for i in range(n))
def stream(n):
    total = sum(len(part) for part in model.encode_stream(texts(n), on_truncate="error"))
    assert total == n
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
first = stream(20_000)
print(stream(60_000) - first)
"""


def test_a_long_stream_takes_no_more_memory_than_a_short_one(
    tmp_path: Path, tiny_bert_folder: Callable[..., Path]
) -> None:
    pytest.importorskip("resource")
    small = tiny_bert_folder(tmp_path / "small", hidden_size=8, heads=1, layers=1, intermediate=8)
    done = subprocess.run(
        [sys.executable, "-c", STREAMED, str(small)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    # kept vectors would take 1.3 MB here, kept texts and tokens 20: the allocator's own wandering is allowed for
    assert int(done.stdout) < 15_000, f"{done.stdout} KiB more"


def test_encode_from_eight_threads_gives_the_same_vectors(model: SiameseBert, stsb_sentences: list[str]) -> None:
    parts = [stsb_sentences[i * 20 : i * 20 + 40] for i in range(8)]
    expected = [model.encode(part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            for result, vectors in zip(pool.map(model.encode, parts), expected, strict=True):
                np.testing.assert_allclose(result, vectors, atol=1e-6)


def test_threads_share_one_half_precision_copy(folder: Path, stsb_sentences: list[str]) -> None:
    half = SiameseBert.from_pretrained(folder, device="cpu", precision="bfloat16")
    expected = SiameseBert.from_pretrained(folder, device="cpu", precision="float32").encode(stsb_sentences[:20])
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(half.encode, [stsb_sentences[:20]] * 8))
    assert all(np.array_equal(result, results[0]) for result in results)
    assert results[0].dtype == np.float32
    np.testing.assert_allclose(half.similarity_pairwise(results[0], expected), 1, atol=0.01)


@pytest.mark.parametrize("grad", [True, False])
def test_encode_leaves_the_random_state_and_the_grad_mode(model: SiameseBert, grad: bool) -> None:
    before = torch.random.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()
    with torch.set_grad_enabled(grad):
        model.encode(TEXTS, on_truncate="chunk")
        model.score(PAIRS)
        stream = model.encode_stream(TEXTS)
        next(stream)
        assert torch.is_grad_enabled() is grad
        assert not torch.is_inference_mode_enabled()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_tensors_from_encode_can_be_trained_on(model: SiameseBert) -> None:
    vectors = model.encode(TEXTS, convert_to_tensor=True)
    assert not vectors.requires_grad and not vectors.is_inference()
    layer = torch.nn.Linear(32, 1)
    layer(vectors).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_encode_is_deterministic_in_training_mode(folder: Path, precision: Any) -> None:
    model = SiameseBert.from_pretrained(folder, device="cpu", precision=precision)
    expected = model.encode(TEXTS)
    model.train()
    np.testing.assert_array_equal(model.encode(TEXTS), expected)
    np.testing.assert_array_equal(model.encode(TEXTS), expected)


def test_forward_has_gradients_and_the_vectors_of_encode(model: SiameseBert) -> None:
    bodies = model.tokenizer.tokenize(TEXTS)
    batch = model.bert.pack(model.tokenizer.frame(bodies, model.max_seq_length))
    vectors = model.eval()(batch)
    np.testing.assert_allclose(vectors.detach().numpy(), model.encode(TEXTS), atol=5e-6)
    vectors.sum().backward()
    assert all(p.grad is not None for n, p in model.bert.encoder.named_parameters() if "pooler" not in n)
    model.zero_grad()


def test_names_are_those_of_sentence_transformers(model: SiameseBert, reference: SentenceTransformer) -> None:
    assert model.get_embedding_dimension() == reference.get_embedding_dimension() == 32
    assert model.device == reference.device == torch.device("cpu")
    assert model.max_seq_length == reference.max_seq_length == 64
    assert model.tokenizer is model.bert.tokenizer


# quality


@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_arguments_of_sentence_transformers_do_what_they_do_there(
    model: SiameseBert, reference: SentenceTransformer, precision: Any
) -> None:
    np.testing.assert_allclose(model.encode(sentences=TEXTS), reference.encode(TEXTS), atol=TOLERANCE)
    np.testing.assert_allclose(model.encode(TEXTS, device="cpu", pool=None), reference.encode(TEXTS), atol=TOLERANCE)
    ours, theirs = (each.encode(TEXTS, precision=precision) for each in (model, reference))
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    if "binary" in precision:
        np.testing.assert_array_equal(ours, theirs)
    else:  # a rounding may fall to the other side
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    for mine, their in zip(
        model.encode(TEXTS, output_value="token_embeddings"),
        reference.encode(TEXTS, output_value="token_embeddings"),
        strict=True,
    ):
        np.testing.assert_allclose(mine, their.cpu(), atol=TOLERANCE)
    short = model.encode(TEXTS, output_value="token_embeddings", truncate_dim=5, normalize_embeddings=True)
    assert {tuple(tokens.shape[1:]) for tokens in short} == {(5,)}
    assert all(torch.allclose(tokens.norm(dim=1), torch.ones(len(tokens))) for tokens in short)
    alone = model.encode(TEXTS[0], output_value="token_embeddings")
    np.testing.assert_allclose(alone, reference.encode(TEXTS[0], output_value="token_embeddings"), atol=TOLERANCE)


def test_everything_that_is_computed_of_a_text_is_that_of_sentence_transformers(
    model: SiameseBert, reference: SentenceTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    for normalize in (False, True):
        model.normalize = normalize
        every = model.encode(TEXTS, output_value=None, batch_size=2)
        vectors = model.encode(TEXTS)
        for text, ours, vector in zip(TEXTS, every, vectors, strict=True):
            theirs = reference.encode(text, output_value=None)
            assert list(ours) == [
                "input_ids",
                "attention_mask",
                "token_type_ids",
                "token_embeddings",
                "sentence_embedding",
            ]
            for name in ("input_ids", "attention_mask", "token_type_ids"):
                assert ours[name].tolist() == theirs[name].tolist()
            np.testing.assert_allclose(ours["token_embeddings"], theirs["token_embeddings"], atol=TOLERANCE)
            np.testing.assert_allclose(ours["sentence_embedding"], vector, atol=TOLERANCE)
    alone = model.encode(TEXTS[0], output_value=None, truncate_dim=3)
    assert (alone["token_embeddings"].shape[1], alone["sentence_embedding"].shape) == (3, (3,))


@pytest.mark.parametrize("layouts", [("padded",), ("rows", "runs", "padded")], ids=str)
def test_features_go_through_the_model_as_in_sentence_transformers(
    bert: ConnectionBert, reference: SentenceTransformer, layouts: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bert, "probe", replace(bert.probe, layouts=layouts))
    model = SiameseBert(bert).eval()
    texts = [*TEXTS, "the dog " * 80]
    ours, theirs = model.tokenize(texts), reference.preprocess(texts)
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert ours[name].tolist() == theirs[name].tolist()
        assert ours[name].dtype == torch.int64
    assert ours["input_ids"].shape == (7, model.get_max_seq_length())
    with torch.no_grad():
        out, expected = model(ours), reference(theirs)
    assert list(out) == [*ours, "token_embeddings", "sentence_embedding"]
    np.testing.assert_allclose(out["sentence_embedding"], expected["sentence_embedding"], atol=TOLERANCE)
    real = ours["attention_mask"].bool()
    np.testing.assert_allclose(out["token_embeddings"][real], expected["token_embeddings"][real], atol=TOLERANCE)
    assert out["token_embeddings"].shape == expected["token_embeddings"].shape
    assert not out["token_embeddings"][~real].any()
    model(ours)["sentence_embedding"].sum().backward()
    assert bert.encoder.get_input_embeddings().weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    bert.zero_grad()


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({}, "expected input_ids as a tensor of whole numbers"),
        ({"input_ids": [[2, 3]]}, "expected input_ids as a tensor"),
        ({"input_ids": torch.tensor([2, 3])}, "of shape"),
        ({"input_ids": torch.zeros(0, 3, dtype=torch.int64)}, "of shape"),
        ({"input_ids": torch.tensor([[2.0, 3.0]])}, "whole numbers"),
        ({"input_ids": torch.tensor([[2, 9999]])}, "input_ids must be from 0 to"),
        ({"input_ids": torch.tensor([[2, -1]])}, "input_ids must be from 0 to"),
        ({"input_ids": torch.tensor([[2, 3]]), "attention_mask": [[1, 1]]}, "expected attention_mask as a tensor"),
        ({"input_ids": torch.tensor([[2, 3]]), "attention_mask": torch.tensor([[1]])}, "differ in shape"),
        ({"input_ids": torch.tensor([[2, 3]]), "attention_mask": torch.tensor([[0, 0]])}, "1 to 64 tokens"),
        ({"input_ids": torch.ones(1, 65, dtype=torch.int64)}, "1 to 64 tokens"),
        ({"input_ids": torch.tensor([[2, 3]]), "token_type_ids": torch.tensor([[0, 2]])}, "must be from 0 to 1"),
    ],
)
def test_features_that_cannot_be_used_are_named(model: SiameseBert, features: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        model(features)


def test_the_names_of_sentence_transformers(model: SiameseBert, tmp_path: Path) -> None:
    model.prompts = {"query": "the "}
    np.testing.assert_array_equal(model.encode_query(sentences=["a"]), model.encode(["the a"]))
    np.testing.assert_array_equal(model.encode_document(sentences=["a"]), model.encode(["a"]))
    assert model.get_sentence_embedding_dimension() == model.get_embedding_dimension() == 32
    assert model.to("cpu") is model and model.train().eval() is model
    model.save(str(tmp_path / "saved"))
    np.testing.assert_array_equal(SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode("a").shape, (32,))
    for call in (model.start_multi_process_pool, lambda: model.encode_multi_process(["a"], {})):
        with pytest.raises(
            InputError, match=r"no pool of processes: encode runs in one process.*; for several GPUs start a process"
        ):
            call()
    for arguments in ({"device": "tpu"}, {"device": "cuda:99"}):
        with pytest.raises(SbertFtError, match=r"'tpu' is not a device|cuda"):
            model.to(**arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sentences": ["a"], "inputs": ["a"]}, "both given"),
        ({"inputs": ["a"], "pool": {}}, "pool is given, but encode runs in one process"),
        ({"inputs": ["a"], "device": ["cpu", "cpu"]}, "device is a list, but encode runs in one process"),
        ({"inputs": ["a"], "precision": "int4"}, "precision is 'int4', expected one of float32, int8"),
        ({"inputs": ["a"], "output_value": "words"}, "output_value is 'words'"),
        ({"inputs": ["a"], "batchsize": 8}, "encode has no argument 'batchsize'"),
        ({"inputs": ["a"], "output_value": "token_embeddings", "on_truncate": "chunk"}, "has no vectors of tokens"),
        ({"inputs": ["a"], "output_value": "token_embeddings", "precision": "int8"}, "of tokens are not quantized"),
        (
            {"inputs": ["the house " * 40], "output_value": "token_embeddings", "on_truncate": "error"},
            "text at position 0 has 82 tokens, but max_seq_length is 64",
        ),
        ({}, "inputs is of type NoneType"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(model: SiameseBert, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        model.encode(**arguments)


@pytest.mark.parametrize("names", [("query", "document"), ("query", "passage"), ("other", "corpus"), ()])
def test_queries_and_documents_get_their_prompts(
    model: SiameseBert, reference: SentenceTransformer, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = {name: f"the {name} " for name in names}
    model.prompts = prompts
    monkeypatch.setattr(reference, "prompts", prompts)
    for way in ("encode_query", "encode_document"):
        for more in ({}, {"prompt": "a dog "}):
            ours, theirs = (getattr(each, way)(TEXTS, **more) for each in (model, reference))
            np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def test_texts_of_pairs_can_be_given_side_by_side(model: SiameseBert) -> None:
    pairs = list(zip(TEXTS, TEXTS[::-1], strict=True))
    expected = model.score(pairs)
    np.testing.assert_array_equal(model.score(TEXTS, TEXTS[::-1]), expected)
    np.testing.assert_array_equal(model.score(pd.Series(TEXTS), np.array(TEXTS[::-1])), expected)
    assert model.score(*pairs[1]) == pytest.approx(expected[1], abs=1e-6)
    with pytest.raises(InputError, match="6 first texts and 5 second ones"):
        model.score(TEXTS, TEXTS[:5])
    with pytest.raises(InputError, match="of type int"):
        model.score(pairs, 64)  # type: ignore[call-overload]
    calibration = Calibration("platt", slope=2.0)
    model.decision = Decision(0.9, "f1", FittedOn("dev.csv", "0" * 64, 10, 5), calibration=calibration)
    assert model.match("a", "a") is True
    assert model.match(TEXTS, TEXTS[::-1]).tolist() == model.match(pairs).tolist() == (expected >= 0.9).tolist()
    assert model.predict_proba("a", "a") == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6)
    np.testing.assert_array_equal(model.predict_proba(TEXTS, TEXTS[::-1]), model.predict_proba(pairs))


def test_minilm_reaches_the_known_quality_on_the_sts_benchmark(minilm_path: Path, shared_data: Path) -> None:
    with (shared_data / "stsb" / "test.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    pairs = [(row["sentence1"], row["sentence2"]) for row in rows]
    gold = [float(row["score"]) for row in rows]

    def spearman(scores: Any, step: int = 1) -> float:
        return float(spearmanr(scores, gold[::step]).statistic)

    scores = SiameseBert.from_pretrained(minilm_path, device="cpu", precision="float32").score(pairs)
    full = spearman(scores)
    auto = spearman(SiameseBert.from_pretrained(minilm_path, device="cpu").score(pairs[::4]), 4)
    stock = SentenceTransformer(str(minilm_path), device="cpu")
    left, right = (stock.encode([pair[side] for pair in pairs[::4]]) for side in (0, 1))
    theirs = stock.similarity_pairwise(left, right).numpy()
    fourth = spearman(scores[::4], 4)
    print(f"Spearman on STS-B test: {full:.5f} in float32; on every fourth pair: {fourth:.5f}, {auto:.5f} by itself")
    print(f"and {spearman(theirs, 4):.5f} by sentence-transformers")
    assert full == pytest.approx(0.8203, abs=5e-4)
    assert fourth == pytest.approx(spearman(theirs, 4), abs=1e-4)
    np.testing.assert_allclose(scores[::4], theirs, atol=TOLERANCE, rtol=0)
    assert auto == pytest.approx(fourth, abs=1e-3)
