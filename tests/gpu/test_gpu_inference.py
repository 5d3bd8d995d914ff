"""A CUDA device gives the same vectors and gradients as the CPU, and uses the kernels meant for it."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COMMON_WORDS

from sbert_ft.encoder import attention
from sbert_ft.encoder.devices import Precision, multiplies_bfloat16
from sbert_ft.encoder.packing import Layout
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.tokenization.text_tokens import TextTokens

pytestmark = pytest.mark.gpu

WORDS = COMMON_WORDS.split()
PACKED: tuple[Layout, ...] = ("rows", "runs")
# cosine to the CPU's float32 vectors, below which a kernel computes something else
LEAST_COSINE = {"bfloat16": 0.998, "float16": 0.9999}


def sentences(n: int) -> list[str]:
    """Return texts of 1 to 45 common words each."""
    draw = random.Random(7)
    return [" ".join(draw.choices(WORDS, k=draw.choice([1, 2, 3, 5, 8, 8, 13, 21, 45]))) for _ in range(n)]


def framed(model: ConnectionBert, texts: list[str]) -> TextTokens:
    """Return the texts' tokens with special tokens."""
    return model.tokenizer.frame(model.tokenizer.tokenize(texts), model.max_tokens)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of one tensor with the same row of the other."""
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


@pytest.fixture(autouse=True)
def _exact_float32() -> None:
    """Compute float32 products without rounding to TF32, which is also torch's default."""
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.fixture(scope="module")
def on_cpu(minilm_path: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(minilm_path, "cpu", "float32")


def test_rows_and_runs_equal_padded_in_float32(minilm_path: Path, on_cpu: SiameseBert) -> None:
    model = ConnectionBert.from_pretrained(minilm_path, "cuda", "float32")
    tokens = framed(model, sentences(64))
    batch = on_cpu.bert.pack(tokens, "padded")
    expected = batch.pool(on_cpu.bert.infer(batch))
    for layout in model.probe.layouts:
        batch = model.pack(tokens, layout)
        vectors = batch.pool(model.infer(batch))
        assert vectors.dtype == torch.float32 and vectors.device.type == "cuda"
        torch.testing.assert_close(vectors.cpu(), expected, atol=2e-5, rtol=0.0)
    assert "rows" in model.probe.layouts


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_rows_and_runs_come_close_to_float32_in_half_precision(
    precision: Precision, minilm_path: Path, on_cpu: SiameseBert
) -> None:
    if precision == "bfloat16" and not multiplies_bfloat16(torch.device("cuda", 0)):
        pytest.skip("this card does not multiply bfloat16")
    model = ConnectionBert.from_pretrained(minilm_path, "cuda", precision)
    texts = sentences(64)
    expected = on_cpu.encode(texts)
    tokens = framed(model, texts)
    for layout in model.probe.layouts:
        batch = model.pack(tokens, layout)
        vectors = batch.pool(model.infer(batch))
        assert vectors.dtype == torch.float32
        assert cosines(vectors.cpu().numpy(), expected).min() > LEAST_COSINE[precision], layout


def test_runs_in_half_precision_are_admitted_and_go_through_the_varlen_kernel(
    minilm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not multiplies_bfloat16(torch.device("cuda", 0)):
        pytest.skip("the kernel for varying lengths needs an Ampere card or a newer one")
    model = ConnectionBert.from_pretrained(minilm_path, "cuda", "bfloat16")
    assert model.probe.layouts == ("rows", "runs", "padded"), model.probe
    tokens = framed(model, sentences(64))
    assert model.pack(tokens).layout == "runs"

    calls: list[bool] = []
    real = attention._attend_varlen
    monkeypatch.setattr(attention, "_attend_varlen", lambda *parts: calls.append(True) or real(*parts))
    model.infer(model.pack(tokens, "runs"))
    assert len(calls) == model.plan.config.num_hidden_layers
    model.infer(model.pack(tokens, "rows"))
    assert len(calls) == model.plan.config.num_hidden_layers


def test_gradients_equal_the_cpus(tiny_bert_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_bert_folder(tmp_path / "model")
    here = ConnectionBert.from_pretrained(folder, "cpu", "float32")
    there = ConnectionBert.from_pretrained(folder, "cuda", "float32")
    tokens = framed(here, sentences(8))
    direction = torch.randn(8, here.hidden_size)
    gradients = []
    for model, layout in ((here, "padded"), *((there, layout) for layout in PACKED if layout in there.probe.layouts)):
        batch = model.pack(tokens, layout)
        loss = (batch.pool(model(batch)) * direction.to(model.device)).sum()
        gradients.append(torch.autograd.grad(loss, list(model.encoder.parameters())))
    expected, *found = gradients
    largest = max(float(g.abs().max()) for g in expected)
    for of_layout in found:
        for ours, theirs in zip(of_layout, expected, strict=True):
            scale = max(float(theirs.abs().max()), 1e-3 * largest)
            assert float((ours.cpu() - theirs).abs().max()) / scale < 1e-3


def test_encode_equals_the_cpus(minilm_path: Path, on_cpu: SiameseBert, stsb_sentences: list[str]) -> None:
    texts = stsb_sentences[:300]
    expected = on_cpu.encode(texts)
    model = SiameseBert.from_pretrained(minilm_path, "cuda", "float32")
    found = model.encode(texts)
    assert isinstance(found, np.ndarray) and np.abs(found - expected).max() < 2e-5
    assert model.encode(texts[:2], convert_to_tensor=True).device.type == "cuda"
    automatic = SiameseBert.from_pretrained(minilm_path)
    assert automatic.device.type == "cuda"
    assert cosines(automatic.encode(texts), expected).min() > 0.998
    assert "GiB" in automatic.bert.describe()


def test_out_of_memory_halves_the_budget_and_goes_on(
    minilm_path: Path, on_cpu: SiameseBert, caplog: pytest.LogCaptureFixture
) -> None:
    model = SiameseBert.from_pretrained(minilm_path, "cuda", "float32")
    texts = ["the dog and the cat " * 12] * 3000
    model.encode(texts[:64])
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(model.device).total_memory
    # of 65,536 tokens, the intermediate layer alone has 400 MB, and twice that with its activation
    spare = 300 * 2**20
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + spare) / total)
    try:
        with caplog.at_level(logging.WARNING, "sbert_ft"):
            found = model.encode(texts, batch_size=4096)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    warned = [record.getMessage() for record in caplog.records if "out of memory on cuda" in record.getMessage()]
    assert 1 <= len(warned) <= 6, warned
    assert np.abs(found - on_cpu.encode(texts[:1])).max() < 2e-5


def test_a_folder_saved_on_the_gpu_loads_on_the_cpu(minilm_path: Path, on_cpu: SiameseBert, tmp_path: Path) -> None:
    SiameseBert.from_pretrained(minilm_path, "cuda").save_pretrained(tmp_path / "saved")
    texts = sentences(5)
    found = SiameseBert.from_pretrained(tmp_path / "saved", "cpu", "float32").encode(texts)
    assert np.array_equal(found, on_cpu.encode(texts)), "float32 weights were rounded on the way"


KINDS = ("towers", "joined", "single")


def rows_for(kind: str, n: int) -> list[object]:
    """Return texts, or pairs of texts; some are long."""
    firsts, seconds = sentences(n), sentences(2 * n)[n:]
    return list(firsts) if kind == "single" else list(zip(firsts, seconds, strict=True))


def classifier_folder(folder: Path, kind: str, target: Path) -> Path:
    """Write a classifier with a random head, and return its folder."""
    model = ClassifierModel(ConnectionBert.from_pretrained(folder, "cpu", "float32"), kind)  # type: ignore[arg-type]
    model.start_head(["entailment", "neutral", "contradiction"], seed=1)
    assert model.head is not None
    model.head.scale(20.0)  # a new head's probabilities are nearly the same for all rows
    model.save_pretrained(target)
    return target


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifiers_probabilities_equal_the_cpus(minilm_path: Path, tmp_path: Path, kind: str) -> None:
    folder = classifier_folder(minilm_path, kind, tmp_path / "saved")
    here, there = (ClassifierModel.from_pretrained(folder, device, "float32") for device in ("cpu", "cuda"))
    rows = rows_for(kind, 300)
    expected, found = here.predict_proba(rows), there.predict_proba(rows)
    assert expected.std(0).min() > 0.01
    assert found.dtype == np.float32 and np.abs(found - expected).max() < 1e-4
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert np.abs(there.predict_proba(rows, batch_size=1 + len(rows) // 7) - found).max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_classifier_in_half_precision_comes_close_to_float32(
    precision: Precision, minilm_path: Path, tmp_path: Path, kind: str
) -> None:
    if precision == "bfloat16" and not multiplies_bfloat16(torch.device("cuda", 0)):
        pytest.skip("this card does not multiply bfloat16")
    folder = classifier_folder(minilm_path, kind, tmp_path / "saved")
    rows = rows_for(kind, 300)
    expected = ClassifierModel.from_pretrained(folder, "cpu", "float32").predict_proba(rows)
    model = ClassifierModel.from_pretrained(folder, "cuda", precision)
    assert model.head is not None and model.head.output.weight.dtype == torch.float32
    found = model.predict_proba(rows)
    assert np.abs(found - expected).max() < (0.1 if precision == "bfloat16" else 0.02)
    assert np.mean(found.argmax(1) == expected.argmax(1)) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifiers_gradients_equal_the_cpus(
    tiny_bert_folder: Callable[..., Path], tmp_path: Path, kind: str
) -> None:
    folder = classifier_folder(tiny_bert_folder(tmp_path / "model"), kind, tmp_path / "saved")
    targets = torch.arange(8) % 3
    gradients = []
    for device in ("cpu", "cuda"):
        model = ClassifierModel.from_pretrained(folder, device, "float32", 48)
        assert model.head is not None
        tokenizer = model.tokenizer
        rows = [row if isinstance(row, tuple) else (row,) for row in rows_for(kind, 8)]
        columns = [tokenizer.tokenize([row[side] for row in rows]) for side in range(model.n_texts)]
        if kind == "joined":
            framed = [tokenizer.join(*columns, 48)]
        else:
            framed = [tokenizer.frame(column, 48) for column in columns]
        vectors = [model(model.bert.pack(tokens, "rows")) for tokens in framed]
        loss = torch.nn.functional.cross_entropy(model.head(vectors), targets.to(device))
        gradients.append([g.cpu() for g in torch.autograd.grad(loss, list(model.trained.parameters()))])
    largest = max(float(gradient.abs().max()) for gradient in gradients[0])
    for theirs, ours in zip(*gradients, strict=True):
        scale = max(float(theirs.abs().max()), 1e-3 * largest)
        assert float((ours - theirs).abs().max()) / scale < 1e-3


def test_a_classifier_saved_on_the_gpu_loads_on_the_cpu(minilm_path: Path, tmp_path: Path) -> None:
    folder = classifier_folder(minilm_path, "joined", tmp_path / "first")
    ClassifierModel.from_pretrained(folder, "cuda").save_pretrained(tmp_path / "saved")
    rows = rows_for("joined", 20)
    one, other = (ClassifierModel.from_pretrained(f, "cpu", "float32") for f in (folder, tmp_path / "saved"))
    assert np.array_equal(one.predict_proba(rows), other.predict_proba(rows)), "float32 weights were rounded"
