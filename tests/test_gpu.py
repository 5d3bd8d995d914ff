"""On a CUDA device: the same vectors and gradients as on the CPU, by the kernels meant for it."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COMMON_WORDS

from sbert_ft.model import attention
from sbert_ft.model.connection_bert import ConnectionBert
from sbert_ft.model.devices import Precision, multiplies_bfloat16
from sbert_ft.model.packing import Layout, TextTokens
from sbert_ft.model.siamese import SiameseBert

pytestmark = pytest.mark.gpu

WORDS = COMMON_WORDS.split()
PACKED: tuple[Layout, ...] = ("rows", "runs")
# cosine to the CPU's float32 vectors, below which a kernel computes something else
LEAST_COSINE = {"bfloat16": 0.998, "float16": 0.9999}


def sentences(n: int) -> list[str]:
    """Return texts of common words, 1 to 45 of them."""
    draw = random.Random(7)
    return [" ".join(draw.choices(WORDS, k=draw.choice([1, 2, 3, 5, 8, 8, 13, 21, 45]))) for _ in range(n)]


def framed(model: ConnectionBert, texts: list[str]) -> TextTokens:
    """Return the texts' tokens with special ones."""
    return model.tokenizer.frame(model.tokenizer.tokenize(texts), model.max_tokens)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the cosine of each row of one with that of the other."""
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


@pytest.fixture(autouse=True)
def _exact_float32() -> None:
    """Keep float32 products from being rounded to TF32, which is the default of torch, too."""
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
        batch = model.pack(tokens, layout).to(model.device)
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
        batch = model.pack(tokens, layout).to(model.device)
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
        batch = model.pack(tokens, layout).to(model.device)
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
