"""`export`: the files of an export are in their places, whole, and belong to the weights beside them."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_TEXTS, export_folder

from sbert_ft.encoder import cpu
from sbert_ft.encoder.cpu import missing_flags
from sbert_ft.engines.graph_file import check_weights, digest_of_weights, find_graphs, read_graph
from sbert_ft.engines.session import open_session
from sbert_ft.errors import InputError, ModelFolderError, OutputError, ResourceError
from sbert_ft.files.atomic import put_in_place, staged_beside
from sbert_ft.model_folder.decision import Decision, FittedOn
from sbert_ft.model_folder.layout import read_folder
from sbert_ft.models import parity
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.export import _has_weights_of
from sbert_ft.models.parity import Comparison
from sbert_ft.models.sample_texts import ENGLISH, KOREAN
from sbert_ft.models.siamese import SiameseBert

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("nncf", reason="the extra openvino is not installed")

MakeFolder = Callable[..., Path]
FILES = {
    ("onnxruntime", "float32"): ["onnx/model.onnx"],
    ("openvino", "float32"): ["openvino/openvino_model.bin", "openvino/openvino_model.xml"],
    ("openvino", "bfloat16"): ["openvino/openvino_model.bin", "openvino/openvino_model.xml"],
    ("openvino", "int8"): [f"openvino/openvino_model_qint8_quantized.{end}" for end in ("bin", "xml")],
}


def weights_equal(model: SiameseBert | ClassifierModel, folder: Path) -> bool:
    """Return whether a folder has the weights that the model's graph would have."""
    head = model.head if isinstance(model, ClassifierModel) and model.is_stock else None
    return _has_weights_of(read_folder(folder), model.bert, head)


@pytest.fixture
def folder(tiny_bert_folder: MakeFolder, tmp_path: Path) -> Path:
    return tiny_bert_folder(tmp_path / "model", safetensors=True)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_bfloat16_is_refused_where_the_cpu_does_not_multiply_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = cpu.cpu_flags() - {"avx512_bf16", "amx_bf16"}
    if not flags or platform.machine() != "x86_64":
        pytest.skip("this system does not list the instructions of an x86 CPU")
    monkeypatch.setattr(cpu, "cpu_flags", lambda: flags)
    before = content(folder)
    with pytest.raises(ResourceError, match="is for CPUs with avx512_bf16 or amx_bf16, which this one"):
        export_folder(folder, None, "openvino", "bfloat16", SMALL_TEXTS)
    assert content(folder) == before


@pytest.mark.parametrize(("engine", "precision"), FILES)
def test_an_export_is_added_to_the_folder_under_the_usual_names(folder: Path, engine: str, precision: str) -> None:
    if precision == "bfloat16" and missing_flags(("avx512_bf16|amx_bf16",)):
        pytest.skip("this CPU does not multiply bfloat16")
    before = content(folder)
    report = export_folder(folder, None, engine, precision, SMALL_TEXTS)
    after = content(folder)
    assert sorted(after.keys() - before.keys()) == FILES[engine, precision]
    assert {name: after[name] for name in before} == before
    assert sorted(path.relative_to(folder).as_posix() for path in report.files) == FILES[engine, precision]
    assert find_graphs(folder) == [report.graph] == [read_graph(report.files[0])]
    facts = report.graph.facts
    assert (facts.engine, facts.precision, facts.weights) == (engine, precision, digest_of_weights(folder))
    open_session(report.graph)


def test_int8_of_onnx_runtime_is_named_by_its_cpu_and_float32_stays_beside_it(exported_folder: Path) -> None:
    report = export_folder(exported_folder, precision="int8", texts=SMALL_TEXTS)
    assert report.graph.path.name.startswith("model_qint8_") and report.graph.path.parent.name == "onnx"
    assert {graph.path.name for graph in find_graphs(exported_folder)} == {
        "model.onnx",
        report.graph.path.name,
        "openvino_model.xml",
    }


def test_an_export_is_replaced_whole(exported_folder: Path, tiny_bert_folder: MakeFolder, tmp_path: Path) -> None:
    other = tiny_bert_folder(tmp_path / "other", seed=1, safetensors=True)
    shutil.copy(other / "model.safetensors", exported_folder)
    for engine in ("onnxruntime", "openvino"):
        report = export_folder(exported_folder, None, engine, texts=SMALL_TEXTS)
        check_weights(report.graph, exported_folder)
    assert len(find_graphs(exported_folder)) == 2
    model = SiameseBert.from_pretrained(other, "cpu", "float32")
    for graph in find_graphs(exported_folder):
        comparison = Comparison.of(model, None, SMALL_TEXTS)
        found = comparison.compare(comparison.by_torch(), comparison.by_graph(open_session(graph)))
        assert found.figures["lowest_cosine"] > 0.9999


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_new_folder_holds_the_model_and_its_export(folder: Path, tmp_path: Path, engine: str) -> None:
    before = content(folder)
    output = tmp_path / "new" / "exported"
    report = export_folder(folder, output, engine, texts=SMALL_TEXTS)
    assert content(folder) == before
    assert not any(path.name.startswith(".") for path in output.parent.rglob("*"))
    assert report.graph.path.is_relative_to(output) and find_graphs(output) == [report.graph]
    check_weights(report.graph, output)
    texts = list(SMALL_TEXTS)
    models = (SiameseBert.from_pretrained(place, "cpu", "float32") for place in (folder, output))
    first, second = (model.encode(texts) for model in models)
    assert np.array_equal(first, second)


def test_the_export_lies_beside_the_encoder_of_an_old_folder(folder: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(folder, old / "0_BERT")
    modules = [("0_BERT", "BERT"), ("1_Pooling", "Pooling")]
    listed = [
        {"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{n}"}
        for i, (p, n) in enumerate(modules)
    ]
    (old / "modules.json").write_text(json.dumps(listed))
    (old / "1_Pooling").mkdir()
    (old / "1_Pooling" / "config.json").write_text("{}")
    report = export_folder(old, texts=SMALL_TEXTS)
    assert report.graph.path == old / "0_BERT" / "onnx" / "model.onnx"
    assert find_graphs(old / "0_BERT") == [report.graph] and find_graphs(old) == []


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("kind", "pooling", "output"),
    [
        ("single", "pooler", "logits"),
        ("joined", "pooler", "logits"),
        ("towers", "mean", "tokens"),
        ("single", "mean", "tokens"),
    ],
)
def test_classifiers_are_exported_with_a_stock_head_or_as_their_encoder(
    folder: Path, tmp_path: Path, engine: str, kind: str, pooling: str, output: str
) -> None:
    model = ClassifierModel(ConnectionBert.from_pretrained(folder, "cpu", "float32"), kind, pooling=pooling)  # type: ignore[arg-type]
    model.start_head(["no", "maybe", "yes"])
    model.save_pretrained(tmp_path / "classifier")
    report = export_folder(tmp_path / "classifier", None, engine, texts=SMALL_TEXTS)
    facts = report.graph.facts
    assert (facts.output, facts.n_outputs) == (output, 3 if output == "logits" else None)
    assert report.parity.of_classifier and report.parity.n_rows == len(SMALL_TEXTS)
    assert report.parity.figures["largest_difference"] < 1e-5 and report.parity.figures["changed_classes"] == 0
    assert weights_equal(model, tmp_path / "classifier")
    check_weights(report.graph, tmp_path / "classifier")


def test_a_decision_s_pairs_are_counted(folder: Path, tmp_path: Path) -> None:
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    vectors = model.encode(list(SMALL_TEXTS))
    middle = float(np.median(np.corrcoef(vectors)))
    model.decision = Decision(middle, "f1", FittedOn("dev.csv", "0" * 64, 10, 5))
    model.save_pretrained(tmp_path / "decided")
    report = export_folder(tmp_path / "decided", texts=SMALL_TEXTS)
    assert (report.parity.figures["pairs"], report.parity.figures["pairs_changing_sides"]) == (6, 0)
    assert any("pairs changing sides" in line for line in report.lines())


def test_pairs_that_change_sides_are_found(folder: Path) -> None:
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    model.decision = Decision(0.5, "f1", FittedOn("dev.csv", "0" * 64, 10, 5))
    comparison = Comparison.of(model, None, ["a", "b", "c"])
    expected = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)  # cosines .6, 0 and .8
    found = np.array([[1, 0], [0.4, 0.917], [0, 1]], np.float32)  # .4, 0 and .92
    figures = comparison.compare(expected, found).figures
    assert (figures["pairs"], figures["pairs_changing_sides"]) == (3, 1)
    assert figures["largest_difference"] == pytest.approx(0.2)
    assert figures["lowest_cosine"] == pytest.approx(
        0.6 * 0.4 / np.hypot(0.4, 0.917) + 0.8 * 0.917 / np.hypot(0.4, 0.917)
    )


def test_classes_that_change_are_counted(folder: Path) -> None:
    model = ClassifierModel(ConnectionBert.from_pretrained(folder, "cpu", "float32"), "single")
    model.start_head(["a", "b"])
    comparison = Comparison.of(model, None, ["a", "b"])
    found = comparison.compare(np.array([[0.6, 0.4], [0.2, 0.8]]), np.array([[0.4, 0.6], [0.2, 0.8]]))
    assert found.figures == pytest.approx(
        {"largest_difference": 0.2, "mean_difference": 0.1, "changed_classes": 1, "changed_share": 0.5}
    )
    assert found.faults("int8") == [
        "mean difference 0.10000, expected at most 0.02",
        "changed share 0.50000, expected at most 0.03",
    ]


def test_what_is_too_far_from_torch_is_refused_and_nothing_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(tmp_path)
    monkeypatch.setitem(parity._BOUNDS_OF_VECTORS, "float32", (("mean_cosine", 1.5, True),))  # type: ignore[index]
    for output in (None, tmp_path / "new"):
        with pytest.raises(
            InputError, match=r"too far from torch: mean cosine 1\.00000, expected at least 1\.5; nothing"
        ):
            export_folder(folder, output, texts=SMALL_TEXTS)
        assert content(tmp_path) == before and not (tmp_path / "new").exists()
    report = export_folder(folder, texts=SMALL_TEXTS, force=True)
    assert report.accepted == ("mean cosine 1.00000, expected at least 1.5",)
    assert find_graphs(folder) == [report.graph]


def test_weights_of_the_model_are_compared_with_those_of_a_folder(
    folder: Path, tiny_bert_folder: MakeFolder, tmp_path: Path
) -> None:
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    assert weights_equal(model, folder)
    assert not weights_equal(model, tiny_bert_folder(tmp_path / "seed", seed=1))
    assert not weights_equal(model, tiny_bert_folder(tmp_path / "wide", hidden_size=64))
    with torch.no_grad():
        next(model.bert.encoder.parameters())[0, 0] += 1e-3
    assert not weights_equal(model, folder)


def test_weights_of_a_head_count_too(folder: Path, tmp_path: Path) -> None:
    model = ClassifierModel(ConnectionBert.from_pretrained(folder, "cpu", "float32"), "single")
    model.start_head(["a", "b"])
    assert not weights_equal(model, folder)
    model.save_pretrained(tmp_path / "saved")
    assert weights_equal(model, tmp_path / "saved")
    model.calibrate(2.0)
    assert not weights_equal(model, tmp_path / "saved")


def test_rows_are_given_as_the_model_takes_them(folder: Path) -> None:
    bert = ConnectionBert.from_pretrained(folder, "cpu", "float32")
    pairs = [("a dog", "a cat"), ("a dog", "water")]
    assert Comparison.of(SiameseBert(bert), None, pairs).rows == ["a dog", "a cat", "water"]
    assert Comparison.of(ClassifierModel(bert, "joined"), None, pairs).rows == pairs
    ring = [("a", "b"), ("b", "c"), ("c", "a")]
    assert Comparison.of(ClassifierModel(bert, "towers"), None, ["a", "b", "c"]).rows == ring
    assert len(Comparison.of(SiameseBert(bert), None, [f"text {i}" for i in range(1200)]).rows) == 400
    with pytest.raises(InputError, match="there are no texts to compare the graph with torch on"):
        Comparison.of(SiameseBert(bert), None, [])


def test_of_the_built_in_texts_those_that_the_vocabulary_knows_are_taken(folder: Path) -> None:
    assert (len(ENGLISH), len(KOREAN)) == (32, 32) and len({*ENGLISH, *KOREAN}) == 64
    lengths = [len(text.split()) for text in ENGLISH]
    assert min(lengths) == 1 and 50 <= max(lengths) <= 70
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    assert Comparison.of(model, None, None).rows == list(ENGLISH)  # its vocabulary spells ASCII alone


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engine": "tensorrt"}, "engine is 'tensorrt', expected one of onnxruntime, openvino"),
        ({"precision": "float16"}, "precision is 'float16', expected one of float32, int8, bfloat16"),
        ({"precision": "bfloat16"}, "precision bfloat16 is for the engine openvino; choose"),
        ({"output": ""}, "folder is '', expected a path"),
    ],
)
def test_wrong_arguments_are_refused(folder: Path, given: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        export_folder(folder, **given)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"has no config\.json"):
        export_folder(tmp_path)


# full disk, and killed


@contextmanager
def files_limited_to(n_bytes: int) -> Iterator[None]:
    """Let writing fail after so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [1_000, 60_000, 110_000])
@pytest.mark.parametrize(("engine", "precision"), [*FILES, ("onnxruntime", "int8")])
def test_a_full_disk_is_an_error_and_changes_nothing(
    exported_folder: Path, tmp_path: Path, engine: str, precision: str, room: int
) -> None:
    before = content(tmp_path)
    for output in (None, tmp_path / "new"):
        with pytest.raises(OutputError, match=r"cannot be written"), files_limited_to(room):
            export_folder(exported_folder, output, engine, precision, SMALL_TEXTS)
        assert content(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this system")
def test_a_kill_between_any_two_moves_leaves_no_mixture(tmp_path: Path) -> None:
    """The old graph with the old weights, the new one with the new ones, or none: the graph is the last in place."""
    place, names = tmp_path / "model", ["openvino/m.xml", "openvino/m.bin"]
    seen = set()
    for n_moves in range(6):
        shutil.rmtree(tmp_path, ignore_errors=True)
        for name in (*names, "config.json"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text("old")
        child = os.fork()
        if child == 0:
            rename, done = os.rename, []

            def killing(
                *arguments: str, rename: Callable[..., None] = rename, done: list[int] = done, n: int = n_moves
            ) -> None:
                if len(done) == n:
                    os.kill(os.getpid(), signal.SIGKILL)
                done.append(1)
                rename(*arguments)

            os.rename = killing  # type: ignore[assignment]
            with staged_beside(place / "openvino") as staging:
                (staging / "openvino").mkdir()
                for name in names:
                    (staging / name).write_text("new")
                put_in_place(staging, place, entrances=names)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        graph, weights = ((place / name).read_text() if (place / name).exists() else "" for name in names)
        assert graph in ("", weights), n_moves
        assert (place / "config.json").read_text() == "old"
        seen.add((code, graph))
    assert seen == {(-signal.SIGKILL, "old"), (-signal.SIGKILL, ""), (0, "new")}


def test_a_killed_export_leaves_the_model_and_the_next_one_cleans_up(exported_folder: Path) -> None:
    before = content(exported_folder)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    code = f"from sbert_ft import SiameseBert; SiameseBert.from_pretrained({str(exported_folder)!r}, 'cpu').export()"
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    deadline = time.monotonic() + 120
    while not any(exported_folder.glob(".sbert-ft-*/model/draft/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    leftovers = list(exported_folder.glob(".sbert-ft-*"))
    assert len(leftovers) == 1
    assert {
        name: data for name, data in content(exported_folder).items() if not name.startswith(".sbert-ft-")
    } == before
    export_folder(exported_folder, texts=SMALL_TEXTS)
    assert not list(exported_folder.glob(".sbert-ft-*")) and len(find_graphs(exported_folder)) == 2
