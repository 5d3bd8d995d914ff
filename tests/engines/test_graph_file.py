"""What an exported graph's file says of itself is read without loading it, and a file that lies is refused."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbert_ft.engines.graph_file import (
    GraphFacts,
    check_weights,
    find_graphs,
    read_graph,
)
from sbert_ft.errors import ModelFolderError

FACTS = GraphFacts(
    *("onnxruntime", "float32", "tokens", "0" * 64, 100, 32, 64, 2, True, None, "x86_64 avx2", 1.5),
    requires=("avx2",),
    parity={"mean_cosine": 0.5},
)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def onnx_bytes(facts: object, graph: bytes = b"") -> bytes:
    """Return an ONNX file by its definition (onnx.proto): version 8, a graph of these bytes, and the facts."""
    import onnx

    model = onnx.ModelProto(ir_version=8)
    entry = model.metadata_props.add()
    entry.key, entry.value = "sbert_ft", json.dumps(facts)
    whole = bytes(model.SerializeToString())
    return whole[:2] + b"\x3a" + bytes([len(graph)]) + graph + whole[2:]


def test_facts_are_read_back_from_json() -> None:
    for facts in (FACTS, replace(FACTS, output="logits", n_outputs=3, requires=(), parity={})):
        content = json.loads(json.dumps(facts.to_json()))
        assert GraphFacts.from_json(content, Path("x.onnx")) == facts


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, r"format is '2', expected 1; another version of sbert_ft exported it"),
        ({"engine": "tensorrt"}, "engine is 'tensorrt', expected one of onnxruntime, openvino"),
        ({"weights": "abc"}, "weights is 'abc', expected a SHA-256 digest"),
        ({"vocab_size": 0}, "vocab_size is '0', expected a whole number above 0"),
        ({"vocab_size": True}, "vocab_size is 'True', expected a whole number"),
        ({"speed": -1}, "speed is '-1', expected a number"),
        ({"requires": "avx2"}, "requires is 'avx2', expected a list of CPU flags"),
        ({"takes_token_types": 1}, "takes_token_types is '1', expected true or false"),
        ({"output": "logits"}, "n_outputs is 'None', expected a whole number"),
        ({"parity": {"cosine": "good"}}, "cosine is 'good', expected a number"),
        ({"color": 1}, "has a key 'color'"),
        ({"cpu": ...}, "has no cpu"),
    ],
)
def test_wrong_facts_are_refused_by_name(tmp_path: Path, change: dict[str, object], said: str) -> None:
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    content = {key: value for key, value in (FACTS.to_json() | change).items() if value is not ...}
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(content))
    with pytest.raises(ModelFolderError, match=said):
        read_graph(tmp_path / "model.onnx")


def test_both_engines_files_carry_their_facts(exported_path: Path) -> None:
    onnx, openvino = find_graphs(exported_path)
    assert onnx == read_graph(exported_path / "onnx" / "model.onnx")
    assert openvino == read_graph(exported_path / "openvino" / "openvino_model.xml")
    assert (onnx.facts.engine, openvino.facts.engine) == ("onnxruntime", "openvino")
    for graph in (onnx, openvino):
        facts = graph.facts
        assert (facts.hidden_size, facts.max_tokens, facts.takes_token_types, facts.output) == (32, 64, True, "tokens")
        assert facts.speed > 0 and facts.parity["lowest_cosine"] > 0.9999
        check_weights(graph, exported_path)


def test_graphs_of_other_tools_are_skipped(exported_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    import onnx

    model = onnx.load(str(exported_folder / "onnx" / "model.onnx"))
    del model.metadata_props[:]
    onnx.save(model, str(exported_folder / "onnx" / "model_O3.onnx"))
    (exported_folder / "onnx" / "model_O4.onnx").write_bytes(LFS)
    (exported_folder / "onnx" / "empty.onnx").write_bytes(b"")
    (exported_folder / "openvino" / "other.xml").write_text("<project/>")
    with caplog.at_level(logging.WARNING):
        assert [graph.path.name for graph in find_graphs(exported_folder)] == ["model.onnx", "openvino_model.xml"]
    assert caplog.text == ""
    for name, said in (
        ("model_O3", "was not exported by sbert_ft"),
        ("model_O4", "git-lfs pointer"),
        ("empty", "empty"),
    ):
        with pytest.raises(ModelFolderError, match=said):
            read_graph(exported_folder / "onnx" / f"{name}.onnx")


@pytest.mark.parametrize("name", ["onnx/model.onnx", "openvino/openvino_model.xml"])
def test_a_cut_file_is_damaged_and_not_used(exported_folder: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    whole = (exported_folder / name).read_bytes()
    for kept in (len(whole) - 2, len(whole) - 200, len(whole) // 2, 700):
        (exported_folder / name).write_bytes(whole[:kept])
        with pytest.raises(ModelFolderError, match="is incomplete or damaged: it has"):
            read_graph(exported_folder / name)
    with caplog.at_level(logging.WARNING):
        assert len(find_graphs(exported_folder)) == 1
    assert "is incomplete or damaged" in caplog.text and "it is not used" in caplog.text


@given(st.binary(max_size=200), st.integers(0, 400))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, junk: bytes, place: int) -> None:
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    path = tmp_path_factory.mktemp("junk") / "model.onnx"
    whole = onnx_bytes(FACTS.to_json())
    path.write_bytes(whole[:place] + junk + whole[place:])
    try:
        assert isinstance(read_graph(path).facts, GraphFacts)
    except ModelFolderError as error:
        assert str(path) in str(error)


def test_an_export_of_other_weights_is_refused_and_one_alone_is_served(
    exported_folder: Path, tiny_bert_folder: object, tmp_path: Path
) -> None:
    other = tiny_bert_folder(tmp_path / "other", seed=1, safetensors=True)  # type: ignore[operator]
    graphs = find_graphs(exported_folder)
    shutil.copy(other / "model.safetensors", exported_folder)
    for graph in graphs:
        with pytest.raises(ModelFolderError, match=r"exported from other weights than model\.safetensors; export"):
            check_weights(graph, exported_folder)
    (exported_folder / "model.safetensors").unlink()
    for graph in graphs:
        check_weights(graph, exported_folder)
