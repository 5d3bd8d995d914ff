"""Every vector, score and metric is a finite number, or raises an error, or is null with a reason: never a NaN."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sbert_ft import BertClassifier, ConnectionBert, SiameseBert
from sbert_ft.cli import main
from sbert_ft.errors import InputError
from sbert_ft.evaluation.calibration import expected_calibration_error, fit_temperature, log_loss
from sbert_ft.models.similarity import compare, cosine, unit

TEXTS = ["a man", "", "two dogs in the park", "the house " * 10, "뷁"]
PAIRS = [("a man", "a woman"), ("two dogs", "two dogs"), ("", "a")]
KINDS: tuple[Any, ...] = ("cosine", "dot", "euclidean", "manhattan")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Callable[..., Path]) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def bert(folder: Path) -> ConnectionBert:
    """Return an encoder whose weights the test may damage."""
    return ConnectionBert.from_pretrained(folder, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Callable[..., Path]) -> Path:
    """Return a folder of a model with finite weights, whose activations are too large for float16."""
    folder = tiny_bert_folder(tmp_path_factory.mktemp("wide") / "model")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    for name, tensor in weights.items():
        if name.endswith(("intermediate.dense.weight", "output.dense.weight")) and "attention" not in name:
            tensor *= 3e3
    torch.save(weights, folder / "pytorch_model.bin")
    return folder


def spoil(bert: ConnectionBert, value: float) -> None:
    """Set one weight of the last layer norm to `value`, such as NaN, as a diverging training run does."""
    with torch.no_grad():
        bert.encoder.get_parameter("encoder.layer.1.output.LayerNorm.weight")[3] = value


def scaled(bert: ConnectionBert, factor: float) -> SiameseBert:
    """Multiply every vector by about `factor`."""
    with torch.no_grad():
        for name in ("weight", "bias"):
            bert.encoder.get_parameter(f"encoder.layer.1.output.LayerNorm.{name}").mul_(factor)
    return SiameseBert(bert)


def zeroed(bert: ConnectionBert) -> ConnectionBert:
    """Set all weights to 0."""
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.zero_()
    return bert


def classifier(bert: ConnectionBert, kind: Any) -> BertClassifier:
    model = BertClassifier(bert, kind)
    model.start_head(["no", "yes"], seed=0)
    return model


# vectors that are no numbers


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_vectors_that_are_no_numbers_are_refused_with_the_texts_position(bert: ConnectionBert, value: float) -> None:
    model = SiameseBert(bert)
    sound = model.encode(TEXTS)
    spoil(bert, value)
    said = r"position 0: the model's vector is NaN or infinite.*its weights are NaN or infinite themselves"
    for use in (
        lambda: model.encode(TEXTS),
        lambda: model.encode(TEXTS, convert_to_tensor=True, normalize_embeddings=True),
        lambda: list(model.encode_stream(TEXTS)),
        lambda: model.encode(TEXTS[0]),
        lambda: model.score(PAIRS),
        lambda: model.match(PAIRS, threshold=0.5),
    ):
        with pytest.raises(InputError, match=said):
            use()
    spoil(bert, 1.0)
    assert np.isfinite(model.encode(TEXTS)).all()
    assert sound.shape == (5, 32)


@pytest.mark.parametrize(("kind", "rows"), [("single", TEXTS), ("joined", PAIRS), ("towers", PAIRS)])
def test_logits_that_are_no_numbers_are_refused_with_the_rows_position(
    bert: ConnectionBert, kind: str, rows: list[Any]
) -> None:
    model = classifier(bert, kind)
    spoil(bert, math.nan)
    for use in (model.predict, model.predict_proba, lambda rows: list(model.logits_stream(rows))):
        with pytest.raises(InputError, match=r"position 0: the model's .* is NaN or infinite"):
            use(rows)
    unchecked = np.concatenate(list(model.logits_stream(rows, check_finite=False)))
    assert np.isnan(unchecked).all()


def test_a_head_that_overflows_is_refused_though_its_vectors_are_numbers(bert: ConnectionBert) -> None:
    model = classifier(bert, "single")
    assert model.head is not None
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.fill_(3e38)
    with pytest.raises(InputError, match="row at position 0: the model's logits"):
        model.predict_proba(TEXTS)


def test_positions_of_vectors_that_are_no_numbers_count_over_windows(
    bert: ConnectionBert, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sbert_ft.models import inference

    monkeypatch.setattr(inference, "WINDOW_TEXTS", 4)
    word = int(bert.tokenizer.tokenize(["dogs"]).token_ids[0])
    with torch.no_grad():
        bert.encoder.get_parameter("embeddings.word_embeddings.weight")[word] = math.nan
    model = SiameseBert(bert)
    assert np.isfinite(model.encode(["a"] * 9)).all()
    with pytest.raises(InputError, match="text at position 8"):
        model.encode([*["a"] * 8, "dogs"])


def test_float16_that_overflows_is_refused_with_the_precision_to_take(overflowing: Path) -> None:
    model = SiameseBert.from_pretrained(overflowing, device="cpu", precision="float16")
    with pytest.raises(InputError, match=r"float16 holds no number beyond 65,504.*precision='float32'"):
        model.encode(TEXTS)
    for precision in ("float32", "bfloat16"):
        wide = SiameseBert.from_pretrained(overflowing, device="cpu", precision=precision)  # type: ignore[arg-type]
        assert np.isfinite(wide.encode(TEXTS)).all()


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_gives_float32_results_near_those_of_float32(folder: Path, precision: Any) -> None:
    model, half = (SiameseBert.from_pretrained(folder, device="cpu", precision=p) for p in ("float32", precision))
    expected, found = model.encode(TEXTS), half.encode(TEXTS)
    assert found.dtype == np.float32
    assert compare(found, expected, "cosine", pairwise=True).min() > 0.999
    assert half.score([(text, text) for text in TEXTS]).min() >= 1 - 1e-6


def test_the_command_line_writes_no_vector_that_is_no_number(
    overflowing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, pairs = tmp_path / "texts.txt", tmp_path / "pairs.csv"
    texts.write_text("a man\ntwo dogs\n")
    pairs.write_text("sentence1,sentence2\na man,two dogs\n")
    for command, source, target in (("encode", texts, "out.npy"), ("score", pairs, "out.csv")):
        arguments = [command, str(overflowing), str(source), "-o", str(tmp_path / target), "--precision", "float16"]
        assert main([*arguments, "--device", "cpu"]) == 2
        assert "float16 holds no number beyond 65,504" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pairs.csv", "texts.txt"]


# weights of all scales


@pytest.mark.parametrize("factor", [1e-42, 1e-30, 1e-12, 1e12, 1e17])
def test_a_cosine_does_not_depend_on_the_scale_of_the_vectors(folder: Path, factor: float) -> None:
    bert = ConnectionBert.from_pretrained(folder, device="cpu", precision="float32")
    plain = SiameseBert(bert).similarity(*[SiameseBert(bert).encode(TEXTS)] * 2)
    model = scaled(bert, factor)
    vectors = model.encode(TEXTS)
    assert 0 < np.abs(vectors).max() < math.inf
    # a denormal number keeps one to three digits
    torch.testing.assert_close(model.similarity(vectors, vectors), plain, atol=0.01 if factor < 1e-38 else 1e-5, rtol=0)
    assert model.score([(text, text) for text in TEXTS]).min() >= 1 - 1e-6
    lengths = np.linalg.norm(model.encode(TEXTS, normalize_embeddings=True).astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-6)


def test_all_zero_weights_give_zero_vectors_and_the_cosine_zero(bert: ConnectionBert) -> None:
    model = SiameseBert(zeroed(bert))
    vectors = model.encode(TEXTS)
    assert not vectors.any()
    assert not model.encode(TEXTS, normalize_embeddings=True).any()
    assert model.score(PAIRS).tolist() == [0.0, 0.0, 0.0]
    assert not model.similarity(vectors, vectors).any()
    assert model.match(PAIRS, threshold=0.5).tolist() == [False] * 3
    chances = classifier(bert, "single").predict_proba(TEXTS)
    np.testing.assert_allclose(chances.sum(1), 1.0, atol=1e-6)


def test_a_unit_vector_has_the_gradient_of_a_finite_number_everywhere() -> None:
    rows = torch.tensor([[0.0, 0.0], [1e-30, 1e-30], [1e30, -1e30], [3.0, 4.0]], requires_grad=True)
    cosine(rows, rows.detach().flip(0)).sum().backward()
    assert rows.grad is not None and rows.grad.isfinite().all()
    torch.testing.assert_close(unit(rows)[3].detach(), torch.tensor([0.6, 0.8]))


def test_ordinary_vectors_keep_their_bits_when_brought_to_length_one() -> None:
    rows = torch.randn(200, 32) * torch.logspace(-9, 9, 200)[:, None]
    assert torch.equal(unit(rows), torch.nn.functional.normalize(rows, dim=-1))


# comparing


@pytest.mark.parametrize("pairwise", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_comparisons_of_huge_and_tiny_vectors_are_finite(kind: Any, pairwise: bool) -> None:
    rows = torch.tensor([[3e38, -3e38], [3e38, 3e38], [-3e38, 1e-45], [1e-45, 0.0], [0.0, 0.0], [1.0, 2.0]])
    for a, b in ((rows, rows), (rows, rows.flip(0)), (rows.numpy(), -rows.numpy())):
        found = compare(a, b, kind, pairwise=pairwise)
        assert found.dtype == torch.float32 and found.isfinite().all()
        if kind == "cosine":
            assert found.abs().max() <= 1.0
    assert compare(rows[:1], rows[:1], "cosine", pairwise=True).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_vectors_with_a_number_that_is_none_are_refused_with_their_row(kind: Any, bad: float) -> None:
    rows = np.ones((4, 3))
    rows[2, 1] = bad
    for a, b in ((rows, np.ones((4, 3))), (np.ones((4, 3)), rows)):
        for pairwise in (False, True):
            with pytest.raises(InputError, match=r"row 2 holds NaN or a number beyond float32"):
                compare(a, b, kind, pairwise=pairwise)


def test_complex_numbers_are_refused_and_whole_ones_taken() -> None:
    with pytest.raises(InputError, match="complex"):
        compare(np.array([[1j, 2]]), np.ones((1, 2)), "cosine", pairwise=True)
    assert compare(np.array([[1, 2]]), [[2.0, 4.0]], "cosine", pairwise=True).item() == pytest.approx(1)  # type: ignore[list-item]


# texts of all sorts


ODD = {
    "family": "👨‍👩‍👧‍👦 👩🏽‍🚀",
    "hangul": "한국어 문장",
    "right to left": "שלום עולם \u202e abc \u202c",
    "zalgo": "z̸̢̛͇̝̈́a̵͍̎l̴̜̀g̷̘̽ơ̶͙",
    "private use": "\ue000\uf8ff\U000f0000",
    "NUL": "a\0b",
    "blank": " \t\r\n\u3000\u200b",
    "special tokens": "[CLS] [SEP] [MASK] [PAD]",
    "unknown": "뷁뷁 ꙮ",
    "controls": "\x1b[31m\x07\x7f",
    "byte order mark": "\ufeff\ufffe",
    "a word of a million": "x" * 1_000_000,
    "a million of words": "a " * 500_000,
}


def test_odd_texts_have_finite_vectors_that_no_neighbour_changes(bert: ConnectionBert) -> None:
    model = SiameseBert(bert)
    vectors = model.encode(list(ODD.values()), on_truncate="ignore")
    assert np.isfinite(vectors).all() and np.abs(vectors).max(1).min() > 0
    for name, vector in zip(ODD, vectors, strict=True):
        np.testing.assert_allclose(model.encode(ODD[name], on_truncate="ignore"), vector, atol=5e-6, err_msg=name)
    short = [text for text in ODD.values() if len(text) < 100]
    assert model.score([(text, text) for text in short]).min() >= 1 - 1e-6


def test_composed_and_decomposed_hangul_are_the_same_to_an_uncased_model(minilm_path: Path) -> None:
    import unicodedata

    model = SiameseBert.from_pretrained(minilm_path, device="cpu", precision="float32")
    composed, decomposed = (unicodedata.normalize(form, ODD["hangul"]) for form in ("NFC", "NFD"))
    assert composed != decomposed
    np.testing.assert_allclose(model.encode(composed), model.encode(decomposed), atol=5e-6)


def test_a_vector_depends_on_neither_threads_nor_padding(folder: Path, stsb_sentences: list[str]) -> None:
    model = SiameseBert.from_pretrained(folder, device="cpu", precision="float32")
    texts = [*stsb_sentences[:300], *TEXTS]
    expected = model.encode(texts, on_truncate="ignore")
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            found = model.encode(texts, batch_size=5 * n_threads, on_truncate="ignore")
            np.testing.assert_allclose(found, expected, atol=5e-6)
    finally:
        torch.set_num_threads(before)

    framed = model.tokenizer.frame(model.tokenizer.tokenize(texts), model.max_seq_length)
    for layout in model.bert.probe.layouts:
        batch = model.bert.pack(framed, layout)
        with torch.no_grad():
            found = batch.pool(model.bert.infer(batch), model.pooling).numpy()
        np.testing.assert_allclose(found, expected, atol=5e-6, err_msg=layout)


# metrics


def strict(text: str) -> Any:
    """Return the content of JSON, in which NaN and Infinity are errors."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def nulls_without_reason(value: Any) -> list[Any]:
    """Return the scores in a report that are null without a reason."""
    if isinstance(value, dict):
        own = [value] if "value" in value and value["value"] is None and not value.get("reason") else []
        return own + [found for inner in value.values() for found in nulls_without_reason(inner)]
    return [found for inner in value for found in nulls_without_reason(inner)] if isinstance(value, list) else []


ROWS = {
    "one row": [("a man", "a dog", 1.0)],
    "two rows": [("a man", "a dog", 1.0), ("a house", "a house", 4.0)],
    "constant gold": [("a man", "a dog", 3.0), ("a house", "a cat", 3.0), ("red", "blue", 3.0)],
    "constant scores": [("a", "a", 1.0), ("b", "b", 2.0), ("c", "c", 5.0), ("d", "d", 0.0)],
    "all unknown": [("뷁", "ꙮ", 1.0), ("ꙮ뷁", "뷁", 2.0), ("뷁", "뷁", 5.0)],
    "one class": [("a man", "a dog", 1), ("a house", "a cat", 1), ("red", "blue", 1)],
    "one of a class": [("a man", "a dog", 0), ("a house", "a cat", 1), ("red", "blue", 1)],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("weights", ["sound", "zero"])
@pytest.mark.parametrize("name", ROWS)
def test_a_set_that_tells_nothing_has_null_and_a_reason_in_strict_json(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, weights: str
) -> None:
    model = folder
    if weights == "zero":
        model = tmp_path / "zero"
        SiameseBert(zeroed(ConnectionBert.from_pretrained(folder, device="cpu"))).save_pretrained(model)
    data = tmp_path / "data.csv"
    graded = not name.endswith("class")
    column = "score" if graded else "label"
    data.write_text("\n".join([f"sentence1,sentence2,{column}", *(f"{a},{b},{y}" for a, b, y in ROWS[name])]) + "\n")
    scale = ["--score-range", "0,5"] if graded else []
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        code = main(
            ["evaluate", str(model), str(data), "--json", "--quiet", "--samples", "50", "--device", "cpu", *scale]
        )
    captured = capsys.readouterr()
    assert code == 0, captured.err
    report = strict(captured.out)
    assert nulls_without_reason(report) == []
    assert "spearman" in report["metrics"] or "average_precision" in report["metrics"], report["metrics"]


def test_probabilities_of_exactly_zero_and_one_have_a_finite_loss() -> None:
    certain = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    right, wrong = np.array([0, 1, 0]), np.array([1, 0, 1])
    assert log_loss(certain, right) == 0.0
    assert log_loss(certain, wrong) == pytest.approx(-math.log(np.finfo(np.float64).eps))
    assert expected_calibration_error(certain, right) == 0.0
    assert expected_calibration_error(certain, wrong) == 1.0
    logits = np.tile(np.array([[3e38, -3e38], [-3e38, 3e38]], np.float32), (10, 1))
    fitted = (np.tile([1, 0], 10), np.array([1, *[0, 1] * 9, 1]))
    for gold in (*fitted, np.tile([0, 1], 10), np.zeros(20, np.int64)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            temperature = fit_temperature(logits, gold)
        assert (temperature is not None) == any(gold is one for one in fitted)
        assert temperature is None or (math.isfinite(temperature) and temperature > 0)
