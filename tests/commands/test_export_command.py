"""`sbert-ft export` as a user sees it: what is printed, what is written, and one sentence for what is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from warm import WarmProcess

from sbert_ft.commands import export
from sbert_ft.encoder.cpu import missing_flags
from sbert_ft.engines.graph_file import Engine, GraphPrecision, find_graphs
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.connection_bert import ConnectionBert

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("nncf", reason="the extra openvino is not installed")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tiny_bert_folder: Callable[..., Path], tmp_path: Path) -> Path:
    return tiny_bert_folder(tmp_path / "model", safetensors=True)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.csv"
    file.write_text("text1,text2\na dog runs,a cat sleeps\nwater,the small girl sings in the park\n", "utf-8")
    return file


def test_words_are_those_of_the_engines() -> None:
    assert get_args(Engine) == export.ENGINES
    assert get_args(GraphPrecision) == export.PRECISIONS


@pytest.mark.parametrize(
    ("options", "name", "facts"),
    [
        ([], "onnx/model.onnx", "onnxruntime, float32"),
        (["--engine", "openvino", "--precision", "bfloat16"], "openvino/openvino_model.xml", "openvino, bfloat16"),
        (
            ["--engine", "openvino", "--precision", "int8"],
            "openvino/openvino_model_qint8_quantized.xml",
            "openvino, int8",
        ),
    ],
)
def test_an_export_says_where_it_is_how_close_and_how_fast(
    warm: WarmProcess, folder: Path, texts: Path, options: list[str], name: str, facts: str
) -> None:
    if "bfloat16" in options and missing_flags(("avx512_bf16|amx_bf16",)):
        pytest.skip("this CPU does not multiply bfloat16")
    done = warm.command("export", folder, "--texts", texts, *options)
    assert done.code == 0, done.err
    first, second, *figures, last = done.out.splitlines()
    assert first.startswith(f"wrote '{folder / name}' ({facts}, ") and first.endswith(" MiB)")
    assert second == "compared with torch in float32 on 4 texts, vectors:"
    assert [line.split("  ")[1].strip() for line in figures[:3]] == [
        "largest difference",
        "lowest cosine",
        "mean cosine",
    ]
    assert "times as fast as torch on these texts, on this CPU (" in last
    assert f"exporting to '{folder}'; this takes from seconds to minutes" in done.err
    assert "warn" not in done.err.lower()
    assert [graph.path for graph in find_graphs(folder)] == [folder / name]


def test_quiet_prints_only_the_result_and_a_new_folder_is_made(
    warm: WarmProcess, folder: Path, texts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "exported"
    done = warm.command("export", folder, "-o", output, "--precision", "int8", "--texts", texts, "--quiet")
    assert (done.code, done.err) == (0, "")
    (graph,) = find_graphs(output)
    assert done.out.startswith(f"wrote '{graph.path}' (onnxruntime, int8, ")
    assert find_graphs(folder) == []


def test_a_classifier_s_classes_are_counted(warm: WarmProcess, folder: Path, texts: Path, tmp_path: Path) -> None:
    model = ClassifierModel(ConnectionBert.from_pretrained(folder, "cpu", "float32"), "joined")
    model.start_head(["no", "yes"])
    model.save_pretrained(tmp_path / "classifier")
    done = warm.command("export", tmp_path / "classifier", "--texts", texts, "--quiet")
    assert (done.code, done.err) == (0, "")
    assert "compared with torch in float32 on 2 rows, probabilities:" in done.out
    assert "  changed classes       0\n" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["MODEL", "--precision", "bfloat16"], "precision bfloat16 is for the engine openvino; choose float32 or int8"),
        (["MODEL", "--engine", "tensorrt"], "invalid choice: 'tensorrt'"),
        (["MODEL", "--column", "text"], "--column says how to read texts, but none are given; add --texts FILE"),
        (["MODEL", "--texts", "nothing.csv"], "nothing.csv"),
        (["MODEL", "--texts", "empty.csv"], "holds no row; expected at least one text"),
        (["no-model"], "'no-model' is not a model folder: expected a folder with config.json, found nothing"),
        (["MODEL", "-o", "taken"], "taken is a file: expected a folder, or nothing, to write the model to"),
    ],
)
def test_wrong_options_are_one_sentence_and_write_nothing(
    warm: WarmProcess, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "empty.csv").write_text("text1,text2\n")
    before = sorted(tmp_path.rglob("*"))
    given = [str(folder) if part == "MODEL" else part for part in arguments]
    done = warm.command("export", *given, "--quiet")
    assert (done.code, done.out) == (2, "")
    assert said in done.err and done.err.count("\n") == 1, done.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("missing", "options", "said"),
    [
        ("onnx", [], 'the package onnx cannot be imported (.+), and an export needs it; pip install "sbert-ft[onnx]"'),
        ("onnxruntime", [], 'ONNX Runtime is not installed; pip install "sbert-ft[onnx]"'),
        ("openvino", ["--engine", "openvino"], 'OpenVINO is not installed; pip install "sbert-ft[openvino]"'),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    folder: Path, missing: str, options: list[str], said: str
) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from sbert_ft.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "export", str(folder), *options, "--quiet"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    begin, _, end = said.partition("(.+)")
    assert done.stderr.startswith(f"sbert-ft: error: {begin}") and done.stderr.endswith(f"{end}\n")
    assert done.stderr.count("\n") == 1 and not (folder / "onnx").exists()


def test_a_folder_with_an_inner_file_in_the_way_is_refused(warm: WarmProcess, folder: Path, texts: Path) -> None:
    (folder / "onnx").write_text("a file")
    done = warm.command("export", folder, "--texts", texts, "--quiet")
    assert (done.code, done.out) == (2, "")
    assert "is a file or a link; expected a folder of a model, or nothing" in done.err
    (folder / "onnx").unlink()
    assert warm.command("export", folder, "--texts", texts, "--quiet").code == 0
