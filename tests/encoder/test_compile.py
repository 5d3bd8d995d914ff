"""Compiled inference gives the eager encoder's results, is kept on disk safely, and stops when the weights change."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from sbert_ft import SiameseBert
from sbert_ft.encoder.compile_cache import default_cache_dir, private_folder
from sbert_ft.encoder.devices import multiplies_bfloat16
from sbert_ft.errors import InputError, ResourceError

HAS_BFLOAT16 = multiplies_bfloat16(torch.device("cpu"))
needs_bfloat16 = pytest.mark.skipif(not HAS_BFLOAT16, reason="compile() is for CPUs that multiply bfloat16")


def needs_compiler(test: Any) -> Any:
    missing = shutil.which(os.environ.get("CXX") or "g++") is None
    return needs_bfloat16(pytest.mark.skipif(missing, reason="there is no C++ compiler, which compiling needs")(test))


SENTENCE = "a man plays the guitar in the street while two women walk by"
# Rows (short and mixed), runs (some of 200 tokens), a text that is cut, and one of two tokens.
TEXTS = [" ".join(SENTENCE.split()[: 1 + i % 13]) for i in range(300)] + [
    " ".join([SENTENCE] * n) for n in (3, 8, 15, 40)
]
TEXTS.append("")


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "compiled"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture(scope="module")
def low_layers(minilm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the lowest two of the real model's six layers: six take three times as long to compile."""
    folder = tmp_path_factory.mktemp("low") / "model"
    shutil.copytree(minilm_path, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}), "utf-8")
    (file,) = folder.glob("*.safetensors")
    kept = {name: t for name, t in load_file(file).items() if not re.search(r"layer\.[2-5]\.", name)}
    save_file(kept, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def minilm(low_layers: Path, cache_dir: Path) -> Iterator[tuple[SiameseBert, NDArray[np.float32]]]:
    """Return those layers in float32, compiled, and their vectors of TEXTS from before they were compiled."""
    model = SiameseBert.from_pretrained(low_layers, device="cpu", precision="float32")
    eager = model.encode(TEXTS, on_truncate="ignore")
    yield model.compile(cache_dir), eager


def is_on(model: SiameseBert) -> bool:
    return model.bert.compiled is not None and model.bert.compiled.is_on


def cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    return (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


@needs_compiler
def test_compiled_vectors_are_the_eager_ones_in_float32(minilm: tuple[SiameseBert, NDArray[np.float32]]) -> None:
    model, eager = minilm
    assert is_on(model) and model.bert.describe().endswith(", compiled")
    vectors = model.encode(TEXTS, on_truncate="ignore")
    assert vectors.dtype == np.float32
    # the order of sums in a product differs: some 1e-6 of activations of about 1
    np.testing.assert_allclose(vectors, eager, atol=1e-5, rtol=0)
    assert is_on(model)


@needs_compiler
def test_few_texts_and_none_are_compiled_as_well(minilm: tuple[SiameseBert, NDArray[np.float32]]) -> None:
    model, eager = minilm
    assert model.encode([]).shape == (0, 384)
    for place in (0, 7, 303):
        np.testing.assert_allclose(model.encode(TEXTS[place], on_truncate="ignore"), eager[place], atol=1e-5, rtol=0)
    backwards = model.encode(TEXTS[::-1], on_truncate="ignore")[::-1]
    np.testing.assert_allclose(backwards, eager, atol=1e-5, rtol=0)
    assert is_on(model)


@needs_compiler
def test_two_threads_share_a_compiled_encoder(minilm: tuple[SiameseBert, NDArray[np.float32]]) -> None:
    model, eager = minilm
    found: dict[int, NDArray[np.float32]] = {}

    def encode(part: int) -> None:
        found[part] = model.encode(TEXTS[part::2], on_truncate="ignore")

    threads = [threading.Thread(target=encode, args=(part,)) for part in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    for part in (0, 1):
        np.testing.assert_allclose(found[part], eager[part::2], atol=1e-5, rtol=0)


@needs_compiler
def test_a_second_process_finds_the_code_on_disk(
    minilm: tuple[SiameseBert, NDArray[np.float32]], low_layers: Path, cache_dir: Path
) -> None:
    program = (
        "import sys; from sbert_ft import SiameseBert\n"
        "model = SiameseBert.from_pretrained(sys.argv[1], device='cpu', precision='float32').compile(sys.argv[2])\n"
        "print(model.bert.compiled.seconds, float(model.encode(sys.argv[3])[0]))"
    )
    packages = {file: file.read_bytes() for file in cache_dir.glob("*.pt2")}
    # without a compiler: what is on disk needs none
    told = subprocess.run(
        [sys.executable, "-c", program, str(low_layers), str(cache_dir), SENTENCE],
        env={**os.environ, "CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, first = map(float, told.stdout.split())
    assert seconds == 0.0
    assert first == pytest.approx(float(minilm[0].encode(SENTENCE)[0]), abs=1e-5)
    assert {file: file.read_bytes() for file in cache_dir.glob("*.pt2")} == packages


@needs_compiler
def test_damaged_code_is_not_loaded(
    minilm: tuple[SiameseBert, NDArray[np.float32]], cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(cache_dir, folder)
    (package,) = folder.glob("*.pt2")
    content = bytearray(package.read_bytes())
    content[len(content) // 2] ^= 1
    package.write_bytes(content)
    monkeypatch.setenv("CXX", "no-such-compiler")
    try:
        with pytest.raises(ResourceError, match=r"C\+\+ compiler"):  # it would be compiled anew
            minilm[0].compile(folder)
        assert not is_on(minilm[0])
    finally:
        minilm[0].compile(cache_dir)
    assert is_on(minilm[0])


@needs_compiler
def test_changed_weights_end_the_compiled_encoder(
    minilm: tuple[SiameseBert, NDArray[np.float32]], cache_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, _ = minilm
    parameter = model.bert.encoder.encoder.layer[0].output.dense.bias
    before = model.encode(SENTENCE)
    kept = parameter.detach().clone()
    try:
        with torch.no_grad():
            parameter.mul_(5)
        with caplog.at_level(logging.WARNING, "sbert_ft"):
            changed = model.encode(SENTENCE)
            model.encode(SENTENCE)
        assert [record.message for record in caplog.records if "compiled" in record.message] == [
            "the compiled encoder is no longer used: the weights, their place or the precision changed; "
            "call compile() again"
        ]
        assert np.abs(changed - before).max() > 0.01
        assert not is_on(model) and "compiled" not in model.bert.describe()
    finally:
        with torch.no_grad():
            parameter.copy_(kept)
        model.compile(cache_dir)
    np.testing.assert_allclose(model.encode(SENTENCE), before, atol=1e-6, rtol=0)
    assert is_on(model)


@needs_compiler
def test_compiled_vectors_are_the_eager_ones_in_bfloat16(low_layers: Path, cache_dir: Path) -> None:
    exact = SiameseBert.from_pretrained(low_layers, device="cpu", precision="float32").encode(
        TEXTS, on_truncate="ignore"
    )
    model = SiameseBert.from_pretrained(low_layers, device="cpu", precision="bfloat16")
    eager = model.encode(TEXTS, on_truncate="ignore")
    compiled = model.compile(cache_dir).encode(TEXTS, on_truncate="ignore")
    assert is_on(model)
    # Both round to 8 bits, at other places: .99996 to float32 on average, and .9999 at least, for either. The errors of
    # the two are independent, so that their distance to each other is up to the sum of their distances to float32.
    assert cosines(compiled, exact).min() > 0.9998
    assert cosines(compiled, eager).mean() > 0.9999
    assert np.abs(compiled - eager).max() < 0.02 * np.abs(eager).max()
    errors = [float(np.square(vectors - exact).mean() ** 0.5) for vectors in (compiled, eager)]
    assert errors[0] < 1.5 * errors[1]


def test_a_cpu_without_bfloat16_is_refused(low_layers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SiameseBert.from_pretrained(low_layers, device="cpu", precision="float32")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # as far as bfloat16 goes, what a CPU without it says
    with pytest.raises(InputError, match=r"only for CPUs that multiply bfloat16.*sbert-ft export MODEL"):
        model.compile()


@needs_bfloat16
def test_a_missing_compiler_is_said_in_one_sentence(
    low_layers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SiameseBert.from_pretrained(low_layers, device="cpu", precision="float32")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ResourceError, match=r"needs a C\+\+ compiler, and there is no 'no-such-compiler'.*without"):
        model.compile(tmp_path / "fresh")
    assert model.encode(SENTENCE).shape == (384,)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="the system knows no owners of files")
def test_code_is_kept_only_where_nobody_else_writes(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(InputError, match="others can write to it"):
        private_folder(shared, tmp_path / "model")
    with pytest.raises(InputError, match="is in the model's folder"):
        private_folder(tmp_path / "model" / "cache", tmp_path / "model")
    assert not (tmp_path / "model").exists(), "something was made in a place that is refused"
    made = private_folder(tmp_path / "new" / "folder", tmp_path / "model")
    assert made.stat().st_mode & 0o777 == 0o700


def test_the_default_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SBERT_FT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "sbert_ft" / "compiled"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache_dir() == Path.home() / ".cache" / "sbert_ft" / "compiled"
    monkeypatch.setenv("SBERT_FT_CACHE", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own" / "compiled"
