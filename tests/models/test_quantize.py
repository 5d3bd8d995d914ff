"""int8 graphs: smoothing changes no result, the chosen products stay in float32, and int8 is close to float32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import export_folder
from test_onnx_graph import batch_of, exported, facts_of, real_tokens
from test_spec import make_encoder_folder

from sbert_ft.engines.graph_file import ExportedGraph
from sbert_ft.engines.session import INPUTS, Session, open_session
from sbert_ft.models import quantize
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.onnx_graph import graph_inputs, takes_token_types
from sbert_ft.models.quantize import OnnxQuantizer, int8_variant

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")


def quantizer_of(bert: ConnectionBert, file: Path) -> OnnxQuantizer:
    names = INPUTS if takes_token_types(bert) else INPUTS[:2]
    batches = [dict(zip(names, graph_inputs(batch_of(bert, n)), strict=False)) for n in ([30, 12, 5], [50], [9] * 4)]
    return OnnxQuantizer(file, batches, file.parent)


def cosines(bert: ConnectionBert, session: Session) -> np.ndarray:
    batch = batch_of(bert, [40, 3, 17, 9, 60])
    with torch.inference_mode():
        expected = real_tokens(batch, bert(batch))
    found = real_tokens(batch, torch.from_numpy(session.run(*graph_inputs(batch))))
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    return (expected * found).sum(1) / norms  # type: ignore[no-any-return]


def operators(file: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(file)).graph.node)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> ConnectionBert:
    """Return a BERT with a few large activations, as trained ones have them."""
    folder = make_encoder_folder(tmp_path_factory.mktemp("int8") / "bert", "bert")
    model = ConnectionBert.from_pretrained(folder, "cpu", "float32")
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if name.endswith("LayerNorm.weight"):
                parameter[3] *= 20
    return model


def test_smoothing_changes_no_result(bert: ConnectionBert, tmp_path: Path) -> None:
    plain = exported(bert, None, tmp_path / "model.onnx")
    quantizer = quantizer_of(bert, tmp_path / "model.onnx")
    smoothed = open_session(ExportedGraph(tmp_path / "smoothed.onnx", facts_of(bert, None)))
    inputs = graph_inputs(batch_of(bert, [40, 3, 17]))
    expected = plain.run(*inputs)
    assert np.abs(smoothed.run(*inputs) - expected).max() < 1e-4 * np.abs(expected).max()
    added = operators(tmp_path / "smoothed.onnx")["Mul"] - operators(tmp_path / "model.onnx")["Mul"]
    assert added == 2 * 4 and len(quantizer.sensitive) == 2  # two layers; query, key and value share one scale


def test_smoothing_makes_int8_closer(bert: ConnectionBert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported(bert, None, tmp_path / "model.onnx")
    found = {}
    for smoothing in (0.0, quantize.SMOOTHING):
        monkeypatch.setattr(quantize, "SMOOTHING", smoothing)
        quantizer_of(bert, tmp_path / "model.onnx").write(tmp_path / "int8.onnx", 0, reduce_range=True)
        found[smoothing] = 1 - cosines(bert, open_session(ExportedGraph(tmp_path / "int8.onnx", facts_of(bert, None))))
    assert found[quantize.SMOOTHING].mean() < 0.5 * found[0.0].mean()


@pytest.mark.parametrize("n_float", [0, 1, 2])
def test_the_first_sensitive_products_stay_in_float32(bert: ConnectionBert, tmp_path: Path, n_float: int) -> None:
    exported(bert, None, tmp_path / "model.onnx")
    quantizer = quantizer_of(bert, tmp_path / "model.onnx")
    quantizer.write(tmp_path / "int8.onnx", n_float, reduce_range=False)
    counted = operators(tmp_path / "int8.onnx")
    assert counted["MatMulInteger"] == 2 * 6 - n_float
    kept = [node.name for node in onnx.load(str(tmp_path / "int8.onnx")).graph.node if node.name in quantizer.sensitive]
    assert kept == quantizer.sensitive[:n_float]
    assert [name.split("/")[-3:] for name in quantizer.sensitive] == [["output", "dense", "MatMul"]] * 2
    assert cosines(bert, open_session(ExportedGraph(tmp_path / "int8.onnx", facts_of(bert, None)))).mean() > 0.99


@pytest.mark.parametrize("kind", ["albert", "deberta-v2", "modernbert", "mpnet", "roberta"])
def test_int8_of_other_kinds_is_close(kind: str, tmp_path: Path) -> None:
    """ALBERT's layers share their weights, which are not smoothed."""
    bert = ConnectionBert.from_pretrained(make_encoder_folder(tmp_path / kind, kind), "cpu", "float32")
    exported(bert, None, tmp_path / "model.onnx")
    quantizer_of(bert, tmp_path / "model.onnx").write(tmp_path / "int8.onnx", 0, reduce_range=True)
    assert operators(tmp_path / "int8.onnx")["MatMulInteger"] > 0
    assert cosines(bert, open_session(ExportedGraph(tmp_path / "int8.onnx", facts_of(bert, None)))).mean() > 0.98


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", {"avx2"}, ("qint8_avx2", True, ())),
        ("x86_64", set(), ("qint8_avx2", True, ())),
        ("x86_64", {"avx512f", "avx512_vnni"}, ("qint8_avx512_vnni", False, ("avx512_vnni|avx_vnni",))),
        ("AMD64", {"avx_vnni"}, ("qint8_avx512_vnni", False, ("avx512_vnni|avx_vnni",))),
        ("aarch64", {"asimd"}, ("qint8_arm64", False, ())),
        ("arm64", set(), ("qint8_arm64", False, ())),
    ],
)
def test_the_range_of_the_weights_follows_the_cpu(
    machine: str, flags: set[str], expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize.platform, "machine", lambda: machine)
    monkeypatch.setattr(quantize, "cpu_flags", lambda: flags)
    assert int8_variant() == expected


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_minilm_in_int8_keeps_the_stated_cosine(
    engine: str, minilm_path: Path, tmp_path: Path, stsb_sentences: list[str], record_property: Callable[..., None]
) -> None:
    """Calibrated on 16 sentences, and compared on 100 others."""
    from sbert_ft.models.parity import Comparison
    from sbert_ft.models.siamese import SiameseBert

    report = export_folder(minilm_path, tmp_path / "out", engine, "int8", stsb_sentences[:16])
    model = SiameseBert.from_pretrained(minilm_path, "cpu", "float32")
    comparison = Comparison.of(model, None, stsb_sentences[500:600])
    parity = comparison.compare(comparison.by_torch(), comparison.by_graph(open_session(report.graph)))
    record_property("printed", f"MiniLM in int8 by {engine}: {parity.figures}, {report.n_float} products in float32")
    assert parity.figures["mean_cosine"] >= 0.99
    assert replace(report.graph.facts, parity={}).precision == "int8"
