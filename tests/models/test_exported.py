"""Models that another engine runs: the same results as torch's, without importing torch, and when each one is taken."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sbert_ft import (
    BertClassifier,
    ConnectionDataset,
    ExportedClassifier,
    ExportedEncoder,
    SiameseBert,
    fit_threshold,
)
from sbert_ft.encoder.batching import PoolingMode
from sbert_ft.encoder.cpu import kind_of_cpu
from sbert_ft.engines.choice import choose_engine
from sbert_ft.engines.graph_file import find_graphs
from sbert_ft.errors import InputError, ModelFolderError
from sbert_ft.model_folder.decision import Calibration, Decision, FittedOn
from sbert_ft.model_folder.layout import read_folder
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.exported import pool
from sbert_ft.models.onnx_graph import add_facts

pytest.importorskip("onnxruntime", reason="onnxruntime is absent")
pytest.importorskip("onnx", reason="onnx is absent")

TEXTS = [
    "A man plays a guitar.",
    "two dogs running in the park",
    "",
    "한국어 뷁",
    "the house " * 10,
    "a",
    "a man " * 30,
]
PAIRS = list(zip(TEXTS, reversed(TEXTS), strict=True))
TOLERANCE = 1e-5
DECISION = Decision(
    0.4, "f1", FittedOn("dev.csv", "0" * 64, 10, 5), calibration=Calibration("platt", slope=4.0, intercept=-1.0)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Callable[..., Path]) -> Path:
    """Return a sentence encoder with prompts, a decision and an export of ONNX Runtime in float32."""
    base = tmp_path_factory.mktemp("exported")
    model = SiameseBert.from_pretrained(tiny_bert_folder(base / "bert"), "cpu", "float32")
    model.use_prompts("query: ", "text: ")
    model.decision = DECISION
    model.save_pretrained(base / "model")
    SiameseBert.from_pretrained(base / "model", "cpu", "float32").export()
    return base / "model"


@pytest.fixture
def torch_model(folder: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(folder, "cpu", "float32")


@pytest.fixture
def exported(folder: Path) -> ExportedEncoder:
    return ExportedEncoder.from_pretrained(folder)


# results


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_vectors_are_those_of_torch(folder: Path, pooling: PoolingMode, include_prompt: bool) -> None:
    source = replace(read_folder(folder), include_prompt=include_prompt, pooling=pooling)
    ours = SiameseBert(ConnectionBert.from_pretrained(source, "cpu", "float32"))
    theirs = ExportedEncoder.from_pretrained(source)
    for options in (
        {},
        {"prompt_name": "query"},
        {"prompt": "a man "},
        {"batch_size": 1},
        {"normalize_embeddings": True},
    ):
        expected = ours.encode(TEXTS, on_truncate="ignore", **options)
        found = theirs.encode(TEXTS, on_truncate="ignore", **options)
        assert isinstance(found, np.ndarray) and found.dtype == np.float32 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_every_form_of_result_is_that_of_torch(torch_model: SiameseBert, exported: ExportedEncoder) -> None:
    torch_model.max_seq_length = exported.max_seq_length = 12
    for options in (
        {"on_truncate": "chunk"},
        {"truncate_dim": 8},
        {"convert_to_tensor": True},
        {"precision": "ubinary"},
    ):
        expected = torch_model.encode(TEXTS, **options)
        found = exported.encode(TEXTS, **options)
        assert type(found) is type(expected)
        np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=TOLERANCE, rtol=0)
    tensors = exported.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(tensors, list) and all(isinstance(tensor, torch.Tensor) for tensor in tensors)
    assert exported.encode([]).shape == (0, 32)
    assert exported.encode("a").shape == (32,)
    np.testing.assert_allclose(exported.encode_query("a"), torch_model.encode_query("a"), atol=TOLERANCE)
    vectors = exported.encode(TEXTS)
    np.testing.assert_allclose(
        exported.similarity(vectors, vectors), torch_model.similarity(vectors, vectors), atol=TOLERANCE
    )


def test_scores_matches_and_probabilities_are_those_of_torch(
    torch_model: SiameseBert, exported: ExportedEncoder
) -> None:
    assert exported.decision == torch_model.decision == DECISION
    scores = torch_model.score(PAIRS)
    np.testing.assert_allclose(exported.score(PAIRS), scores, atol=TOLERANCE)
    np.testing.assert_allclose(exported.predict_proba(PAIRS), torch_model.predict_proba(PAIRS), atol=1e-4)
    clear = np.abs(scores - DECISION.threshold) > 1e-4
    assert clear.any()
    np.testing.assert_array_equal(exported.match(PAIRS)[clear], torch_model.match(PAIRS)[clear])
    assert isinstance(exported.score("a", "b"), float) and isinstance(exported.match("a", "b"), bool)


def test_a_threshold_is_fitted_on_an_export_and_saved(folder: Path, tmp_path: Path) -> None:
    rows = [(f"a man {i}", f"a man {i}" if i % 2 else f"two dogs {i}", float(i % 2)) for i in range(40)]
    pairs = [row[:2] for row in rows]
    shutil.copytree(folder, tmp_path / "model")
    exported = ExportedEncoder.from_pretrained(tmp_path / "model")
    model = SiameseBert.from_pretrained(tmp_path / "model", "cpu", "float32")
    model.decision = fit_threshold(exported, ConnectionDataset.from_pairs(rows))
    model.save_pretrained(tmp_path / "model")
    saved = ExportedEncoder.from_pretrained(tmp_path / "model")  # the weights are the same, so the graph is used
    assert saved.decision == exported.decision and saved.decision != DECISION
    np.testing.assert_array_equal(saved.match(pairs), exported.match(pairs))


def test_a_vector_does_not_depend_on_its_neighbours(exported: ExportedEncoder) -> None:
    texts = [" ".join(["man", "dog", "park", "guitar"][: 1 + i % 4] * (1 + i % 9)) for i in range(200)]
    together = exported.encode(texts)
    alone = np.stack([exported.encode(text) for text in texts])
    np.testing.assert_allclose(together, alone, atol=5e-6, rtol=0)
    np.testing.assert_allclose(exported.encode(texts[::-1])[::-1], together, atol=5e-6, rtol=0)


def test_a_copy_by_pickle_gives_the_same(exported: ExportedEncoder) -> None:
    copy = pickle.loads(pickle.dumps(exported))
    np.testing.assert_array_equal(copy.encode(TEXTS), exported.encode(TEXTS))


@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
def test_pooling_leaves_skipped_tokens_out(mode: PoolingMode) -> None:
    hidden = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    lengths, skipped = np.array([5, 3, 2]), np.array([1, 0, 2])
    found = pool(hidden, lengths, skipped, mode)
    for row, (length, first) in enumerate(zip(lengths, skipped, strict=True)):
        tokens = hidden[row, first:length]
        if mode == "cls":
            expected = tokens[0] if len(tokens) else hidden[row, 0]
        elif not len(tokens):
            expected = np.zeros(4)
        else:
            expected = tokens.mean(0) if mode == "mean" else tokens.max(0)
        np.testing.assert_allclose(found[row], expected, atol=1e-6)


# classifiers


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("single", {}),
        ("joined", {}),
        ("joined", {"pooling": "mean"}),
        ("single", {"pooling": "max"}),
        *(("towers", {"features": name}) for name in ("uv", "difference", "uv_difference", "uv_difference_product")),
    ],
)
def test_classifiers_are_those_of_torch(
    tmp_path: Path, tiny_bert_folder: Callable[..., Path], kind: Any, options: dict[str, Any]
) -> None:
    model = BertClassifier(
        ConnectionBert.from_pretrained(tiny_bert_folder(tmp_path / "bert"), "cpu", "float32"), kind, **options
    )
    model.start_head(["no", "perhaps", "yes"], seed=3)
    assert model.head is not None
    rows = TEXTS if kind == "single" else PAIRS
    logits = np.concatenate(list(model.logits_stream(rows, on_truncate="ignore")))
    with torch.no_grad():  # so that the predicted classes differ
        model.head.output.bias.sub_(torch.from_numpy(logits.mean(0)))
    model.head.scale(20.0)
    model.save_pretrained(tmp_path / "model")
    saved = BertClassifier.from_pretrained(tmp_path / "model", "cpu", "float32")
    saved.export()
    exported = ExportedClassifier.from_pretrained(tmp_path / "model")
    assert exported.kind == kind and exported.class_names == ("no", "perhaps", "yes")
    for on_truncate in ("ignore", "chunk"):
        expected = saved.predict_proba(rows, on_truncate=on_truncate)
        found = exported.predict_proba(rows, on_truncate=on_truncate)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert len(set(saved.predict(rows).tolist())) > 1
    np.testing.assert_array_equal(exported.predict(rows), saved.predict(rows))
    with pytest.raises(InputError, match=r"takes (single texts|pairs)"):
        exported.predict(PAIRS if kind == "single" else TEXTS)
    if kind != "towers":
        return
    vectors = ExportedEncoder.from_pretrained(tmp_path / "model").encode(TEXTS, on_truncate="ignore")
    encoder = saved.as_sentence_encoder().encode(TEXTS, on_truncate="ignore")
    np.testing.assert_allclose(vectors, encoder, atol=TOLERANCE)


# without torch


def test_commands_and_models_do_not_import_torch(folder: Path, tmp_path: Path) -> None:
    """Scoring, encoding and matching from the command line and from Python import numpy, tokenizers and the engine."""
    (tmp_path / "texts.txt").write_text("a man\na dog\n", "utf-8")
    (tmp_path / "pairs.csv").write_text("sentence1,sentence2\na man,a dog\na dog,a park\n", "utf-8")
    program = f"""
import sys
from sbert_ft import ExportedEncoder
from sbert_ft.cli import main

model, work = {str(folder)!r}, {str(tmp_path)!r}
commands = [
    ["score", model, "a man", "a dog"],
    ["score", model, work + "/pairs.csv", "-o", work + "/scored.csv", "--engine", "onnxruntime"],
    ["encode", model, work + "/texts.txt", "-o", work + "/vectors.npy", "--engine", "onnxruntime"],
]
assert [main(command) for command in commands] == [0, 0, 0]
encoder = ExportedEncoder.from_pretrained(model)
encoder.match([("a man", "a dog")])
heavy = {{"torch", "transformers", "sentence_transformers", "scipy", "sklearn", "pandas", "onnx", "openvino"}}
found = sorted(heavy & set(sys.modules))
assert not found, found
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert np.load(tmp_path / "vectors.npy").shape == (2, 32)
    assert (tmp_path / "scored.csv").read_text("utf-8").startswith("sentence1,sentence2,score,probability,match\n")


def test_a_classifier_predicts_without_torch(tmp_path: Path, tiny_bert_folder: Callable[..., Path]) -> None:
    model = BertClassifier(
        ConnectionBert.from_pretrained(tiny_bert_folder(tmp_path / "bert"), "cpu", "float32"), "joined"
    )
    model.start_head(["no", "yes"])
    model.save_pretrained(tmp_path / "model")
    BertClassifier.from_pretrained(tmp_path / "model", "cpu", "float32").export()
    program = (
        "import sys; from sbert_ft.cli import main\n"
        f"assert main(['predict', {str(tmp_path / 'model')!r}, 'a man', 'a dog']) == 0\n"
        "assert not {'torch', 'transformers', 'scipy'} & set(sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert told.stdout.split()[0] in ("no", "yes")


# which engine is taken


def with_facts(folder: Path, target: Path, **changes: Any) -> Path:
    """Return a copy of the folder whose graph says something else of itself."""
    shutil.copytree(folder, target)
    file = target / "onnx" / "model.onnx"
    (graph,) = find_graphs(target)
    add_facts(file, replace(graph.facts, **changes))  # the last facts count
    return target


def test_auto_takes_what_was_measured_faster_here(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def chosen(place: Path, device: str | None = "cpu", precision: str = "auto", few: bool = False) -> str | None:
        found = choose_engine(read_folder(place), "auto", precision, device, "tokens", for_few_rows=few)
        return None if found is None else found.path.name

    faster = with_facts(folder, tmp_path / "faster", cpu=kind_of_cpu(), speed=1.5)
    slower = with_facts(folder, tmp_path / "slower", cpu=kind_of_cpu(), speed=0.5)
    elsewhere = with_facts(folder, tmp_path / "elsewhere", cpu="x86_64 of another kind", speed=9.0)
    assert chosen(faster) == "model.onnx"
    assert chosen(faster, "cuda") is None
    assert chosen(faster, precision="bfloat16") is None
    for place in (slower, elsewhere):
        with caplog.at_level(logging.INFO, "sbert_ft"):
            assert chosen(place) is None
        assert "no export in the folder was measured faster on this kind of CPU" in caplog.text
        caplog.clear()
        assert chosen(place, few=True) == "model.onnx"
    exact = with_facts(folder, tmp_path / "exact", cpu=kind_of_cpu(), speed=0.5, precision="bfloat16")
    (graph,) = find_graphs(exact)
    shutil.copy(graph.path, graph.path.with_name("another.onnx"))
    add_facts(graph.path.with_name("another.onnx"), replace(graph.facts, precision="int8"))
    assert chosen(exact, few=True) == "model.onnx" and chosen(exact, precision="int8") == "another.onnx"
    lacking = with_facts(folder, tmp_path / "lacking", cpu=kind_of_cpu(), speed=9.0, requires=("no_such_flag",))
    assert chosen(lacking) is None and chosen(lacking, few=True) is None


def test_from_pretrained_returns_the_model_of_the_engine(folder: Path, tmp_path: Path) -> None:
    assert type(SiameseBert.from_pretrained(folder)) is SiameseBert
    assert type(SiameseBert.from_pretrained(folder, engine="onnxruntime")) is ExportedEncoder
    faster = with_facts(folder, tmp_path / "faster", cpu=kind_of_cpu(), speed=1.5)
    assert type(SiameseBert.from_pretrained(faster, "cpu", engine="auto")) is ExportedEncoder
    for arguments, message in (
        ({"engine": "tensorrt"}, "engine is 'tensorrt', expected"),
        ({"engine": "openvino"}, "has no export for openvino"),
        ({"engine": "onnxruntime", "precision": "int8"}, "has no export for onnxruntime in int8, only in float32"),
        ({"engine": "onnxruntime", "device": "cuda"}, "runs on the CPU, not on cuda"),
        ({"precision": "int8"}, "precision 'int8' is not one of"),
    ):
        with pytest.raises((InputError, ModelFolderError), match=message):
            SiameseBert.from_pretrained(folder, **arguments)


def test_an_engine_never_runs_other_weights(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stale = with_facts(folder, tmp_path / "stale", cpu=kind_of_cpu(), speed=1.5)
    model = SiameseBert.from_pretrained(stale, "cpu", "float32")
    with torch.no_grad():
        next(model.bert.encoder.parameters()).mul_(2)
    model.save_pretrained(tmp_path / "tuned")
    shutil.copy(tmp_path / "tuned" / "model.safetensors", stale / "model.safetensors")
    with pytest.raises(ModelFolderError, match=r"model.onnx' was exported from other weights than model.safetensors; "):
        SiameseBert.from_pretrained(stale, engine="onnxruntime")
    with caplog.at_level(logging.WARNING, "sbert_ft"):
        assert type(SiameseBert.from_pretrained(stale, "cpu", engine="auto")) is SiameseBert
    assert "was exported from other weights" in caplog.text and "torch is used" in caplog.text
    with torch.no_grad():
        next(model.bert.encoder.parameters()).mul_(2)
    with pytest.raises(InputError, match=r"the model's weights differ from those in .*stale.*; give a folder"):
        model.export()


def test_a_folder_without_weights_is_served_by_its_export(
    folder: Path, tmp_path: Path, exported: ExportedEncoder
) -> None:
    shutil.copytree(folder, tmp_path / "served", ignore=shutil.ignore_patterns("*.safetensors"))
    found = ExportedEncoder.from_pretrained(tmp_path / "served").encode(TEXTS, on_truncate="ignore")
    np.testing.assert_array_equal(found, exported.encode(TEXTS, on_truncate="ignore"))
    with pytest.raises(ModelFolderError, match=r"holds no weights.*ONNX"):
        SiameseBert.from_pretrained(tmp_path / "served")


def test_what_only_torch_does_is_refused(exported: ExportedEncoder) -> None:
    with pytest.raises(InputError, match="vectors of texts, not of tokens"):
        exported.encode(TEXTS, output_value="token_embeddings")
    with pytest.raises(InputError, match="runs on the CPU, not on 'cuda'"):
        exported.encode(TEXTS, device="cuda")
    with pytest.raises(InputError, match="text at position 1 is 'None'"):
        exported.encode(["a", None])  # type: ignore[list-item]


def test_options_of_commands_that_cannot_be_met(folder: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (["--engine", "openvino"], "has no export for openvino"),
        (["--engine", "onnxruntime", "--device", "cuda"], "runs on the CPU, not on cuda"),
        (["--engine", "onnxruntime", "--compile"], "--compile is for torch, but --engine is onnxruntime"),
        (["--precision", "int8"], "--precision int8 needs an export"),
    ):
        told = subprocess.run(
            [sys.executable, "-m", "sbert_ft", "score", str(folder), "a", "b", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        assert told.returncode == 2 and message in told.stderr and "Traceback" not in told.stderr, told.stderr


def test_evaluate_takes_an_engine(folder: Path, tmp_path: Path) -> None:
    rows = "".join(f"a man {i},a dog {i % 3},{i % 2}\n" for i in range(40))
    (tmp_path / "pairs.csv").write_text(f"sentence1,sentence2,label\n{rows}", "utf-8")
    found = {}
    for engine in ("torch", "onnxruntime"):
        command = ["evaluate", str(folder), str(tmp_path / "pairs.csv"), "--engine", engine, "--json", "--quiet"]
        options = ["--precision", "float32", "--device", "cpu", "--samples", "10"]
        told = subprocess.run(
            [sys.executable, "-m", "sbert_ft", *command, *options], capture_output=True, text=True, check=True
        )
        found[engine] = json.loads(told.stdout)["metrics"]
    assert found["torch"]["average_precision"] == pytest.approx(found["onnxruntime"]["average_precision"], abs=1e-3)
