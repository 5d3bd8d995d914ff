"""Folders with exported graphs, loaded by sentence-transformers' backends and by optimum: they compute what we do.

The libraries run in the peers' environment (`make bench-peers`), because optimum-onnx asks for an older transformers;
PEERS_PYTHON names another interpreter. What servers take of such a folder is in docs/serving.md.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sbert_ft import BertClassifier, ConnectionBert, SiameseBert, TrainingSettings

ROOT = Path(__file__).resolve().parent.parent.parent
PEERS_PYTHON = os.environ.get("PEERS_PYTHON") or str(ROOT / ".venv-peers" / "bin" / "python")
TOLERANCE = 5e-6
ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}  # folder of the graphs: engine
GRAPH_SUFFIX = {"onnx": "onnx", "openvino": "xml"}
VECTOR_LOADERS = ("SentenceTransformer", "ModelForFeatureExtraction")
TEXTS = [f"The {a} {b} the {c}." for a in ("dog", "bank") for b in ("chases", "raises") for c in ("ball", "rate")]
# of many lengths, one above the 256 tokens of the model
TEXTS += ["x", "안녕하세요, 세계!", "A longer sentence about guitars, dogs and invoices. " * 8, "word " * 300]
PAIRS = [(f"The {a} sleeps.", f"A {b} is asleep.") for a in ("dog", "cat", "man") for b in ("dog", "cat", "man")]
CLASSIFIED: dict[str, list[Any]] = {"joined": PAIRS, "single": [f"{left} {right}" for left, right in PAIRS]}


def run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def export(folder: Path, precision: str) -> None:
    """Run `sbert-ft export` on a folder, for both engines."""
    for engine in ENGINES.values():
        command = [sys.executable, "-m", "sbert_ft", "export", str(folder), "--engine", engine]
        run([*command, "--precision", precision])


def outputs_of_others(folder: Path, rows: Sequence[Any], runs: Sequence[str]) -> Mapping[str, Any]:
    """Return what each run ("LOADER ENGINE [FILE]") computes from a folder, or its error as text."""
    if shutil.which(PEERS_PYTHON) is None:
        pytest.skip(f"{PEERS_PYTHON} is absent: make bench-peers makes the environment with optimum")
    given, written = folder.parent / "rows.json", folder.parent / "outputs.npz"
    given.write_text(json.dumps(rows), encoding="utf-8")
    script = ROOT / "tests" / "ecosystem" / "run_backends.py"
    run([PEERS_PYTHON, str(script), str(folder), str(given), str(written), *runs])
    with np.load(written) as arrays:
        return dict(arrays)


def numbers(outputs: Mapping[str, Any], run_name: str) -> Any:
    """Return a run's array, or fail with its error."""
    assert outputs[run_name].dtype.kind == "f", str(outputs[run_name])
    return outputs[run_name]


@pytest.fixture(scope="module")
def encoder(minilm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sentence encoder's folder with all four graphs."""
    folder = tmp_path_factory.mktemp("encoder") / "model"
    SiameseBert.from_pretrained(minilm_path, device="cpu").save_pretrained(folder)
    for precision in ("float32", "int8"):
        export(folder, precision)
    return folder


@pytest.fixture(scope="module")
def int8_files(encoder: Path) -> Mapping[str, str]:
    """Return the path of each engine's int8 graph; its name depends on the CPU."""
    found = {}
    for engine, suffix in GRAPH_SUFFIX.items():
        (file,) = encoder.glob(f"{engine}/*qint8*.{suffix}")
        found[engine] = file.relative_to(encoder).as_posix()
    return found


@pytest.fixture(scope="module")
def vectors_of_others(encoder: Path, int8_files: Mapping[str, str]) -> Mapping[str, Any]:
    kinds = [f"{engine}{file}" for engine in ENGINES for file in ("", f" {int8_files[engine]}")]
    return outputs_of_others(encoder, TEXTS, [f"{loader} {kind}" for loader in VECTOR_LOADERS for kind in kinds])


@pytest.fixture(scope="module")
def vectors(encoder: Path) -> Any:
    return SiameseBert.from_pretrained(encoder, device="cpu", precision="float32").encode(TEXTS)


@pytest.fixture(scope="module", params=CLASSIFIED)
def classifier(request: pytest.FixtureRequest, minilm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a trained classifier's folder with both float32 graphs."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    model = BertClassifier(ConnectionBert.from_pretrained(minilm_path, device="cpu"), kind=request.param)
    labels = ["first" if i % 3 == 0 else "other" for i in range(len(PAIRS))]
    settings = TrainingSettings(epochs=1, batch_size=4, learning_rate=1e-4)
    model.fit(CLASSIFIED[request.param], labels, training=settings).save_pretrained(folder)
    export(folder, "float32")
    return folder


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("loader", VECTOR_LOADERS)
def test_the_float32_graph_is_taken_by_itself(
    vectors_of_others: Mapping[str, Any], vectors: Any, loader: str, engine: str
) -> None:
    """Although the int8 graph lies beside it."""
    np.testing.assert_allclose(numbers(vectors_of_others, f"{loader} {engine}"), vectors, atol=TOLERANCE)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("loader", VECTOR_LOADERS)
def test_the_int8_graph_is_taken_by_its_name(
    vectors_of_others: Mapping[str, Any], vectors: Any, int8_files: Mapping[str, str], loader: str, engine: str
) -> None:
    """How exact int8 is, the export itself checks; a graph that is read or pooled wrongly is far below."""
    found = numbers(vectors_of_others, f"{loader} {engine} {int8_files[engine]}")
    cosines = (found * vectors).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(vectors, axis=1)
    assert cosines.mean() > 0.95
    assert np.abs(found - vectors).max() > 100 * TOLERANCE  # it is not the float32 graph


def test_other_libraries_give_a_classifiers_probabilities(classifier: Path) -> None:
    model = BertClassifier.from_pretrained(classifier, device="cpu", precision="float32")
    rows = CLASSIFIED[model.kind]
    loaders = ["ModelForSequenceClassification", *["CrossEncoder"] * (model.kind == "joined")]
    runs = [f"{loader} {engine}" for loader in loaders for engine in ENGINES]
    found = outputs_of_others(classifier, rows, runs)
    for name in runs:
        np.testing.assert_allclose(numbers(found, name), model.predict_proba(rows), atol=TOLERANCE, err_msg=name)
