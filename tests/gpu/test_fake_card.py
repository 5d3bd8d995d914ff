"""The CUDA code on a simulated device (`fake_card/card.py`): nothing raises, waits or blocks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

JOURNEYS = ROOT / "tests" / "gpu" / "fake_card" / "journeys.py"
N_LAYERS = 2
VARLEN = "torch_attn._varlen_attn.default"
VARLEN_BACKWARD = "torch_attn._varlen_attn_backward.default"
SDPA = "aten.scaled_dot_product_attention.default"
Told = dict[str, dict[str, Any]]


def pinned_torch() -> str:
    """Return the version of torch that constraints.txt names."""
    lines = (ROOT / "constraints.txt").read_text("ascii").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("torch=="))


@pytest.fixture(scope="session")
def guard_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder into which the guard is compiled, once for each test session."""
    if shutil.which(os.environ.get("CXX") or "g++") is None:
        pytest.skip("the fake card needs a C++ compiler (g++, or what CXX names)")
    if version("torch").partition("+")[0] != pinned_torch():
        pytest.skip(f"the fake card is written for torch {pinned_torch()}, here is {version('torch')}")
    return tmp_path_factory.mktemp("guard")


@pytest.fixture(scope="session")
def run_journeys(
    guard_folder: Path, tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Told]]:
    """Yield a function that runs a group of journeys in its own process and returns their results by name."""
    place = tmp_path_factory.mktemp("card")
    model = tiny_bert_folder(place / "model", hidden_size=64, layers=N_LAYERS, heads=2, intermediate=128)
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with (
        (place / "errors").open("w") as errors,
        subprocess.Popen(
            [sys.executable, str(JOURNEYS), str(model), str(place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "FAKE_CARD_PLACE": str(guard_folder), "PYTHONPATH": paths},
            cwd=ROOT,
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None

        def run(group: str) -> Told:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(f"{group}\n")
            process.stdin.flush()
            lines = []
            while (line := process.stdout.readline()) != "\n":
                assert line, f"the process has ended: {(place / 'errors').read_text()[-3000:]}"
                lines.append(line)
            assert lines, (place / "errors").read_text()[-3000:]
            told = {journey["name"]: journey for journey in map(json.loads, lines)}
            failed = {name: journey["error"] for name, journey in told.items() if "error" in journey}
            assert not failed, "\n".join(f"{name}: {error}" for name, error in failed.items())
            return told

        yield run
        process.stdin.close()


def of_function(counted: dict[str, int], *functions: str) -> int:
    """Return how many waits or copies these functions, such as ``loop.check``, requested."""
    return sum(n for place, n in counted.items() if place.partition(": ")[2].partition(" < ")[0] in functions)


def test_encoding_waits_for_the_card_once_a_window(run_journeys: Callable[[str], Told]) -> None:
    told = run_journeys("inference")
    for precision in ("bfloat16", "float16", "float32"):
        in_half = precision != "float32"
        loaded = told[f"load {precision}"]
        assert loaded["is"] == "cuda:0"
        assert loaded["layouts"] == (["rows", "runs", "padded"] if in_half else ["rows", "padded"])
        assert list(loaded["refused"]) == ([] if in_half else ["runs"])

        encoded = told[f"encode {precision}"]
        assert encoded["shape"] == [60, 64] and sum(encoded["waits"].values()) == 1
        assert encoded["attention"] == {VARLEN if in_half else SDPA: N_LAYERS}
        # one for the batch, one for the places of its vectors
        assert sum(encoded["copies"].values()) == 2
        for layout in ("rows", "runs", "padded"):
            inferred = told[f"infer {precision} {layout}"]
            if layout == "runs" and not in_half:
                assert inferred["refused"] is True
                continue
            assert inferred["is"] == "cuda:0" and inferred["waits"] == {}
            assert inferred["attention"] == {VARLEN if layout == "runs" else SDPA: N_LAYERS}

    windows = told["encode in windows"]
    assert sum(windows["waits"].values()) == windows["windows"] == 4
    moved = told["encode moves the model"]
    assert (moved["shape"], moved["is"], moved["tokens"]) == ([60, 64], "cuda:0", "cpu")
    assert moved["layouts"] == ["rows", "padded"]  # the card's kernel for runs takes no float32
    assert (told["to the card"]["layouts"], told["to the card"]["in"]) == (["rows", "padded"], "cuda:0")
    assert told["encode as tensor"]["is"] == "cuda:0" and sum(told["encode as tensor"]["waits"].values()) == 1
    assert told["encode chunked"]["shape"] == [60, 64] and sum(told["encode chunked"]["waits"].values()) == 1
    # the check of the vectors, and the copy of the cosines
    scored = told["score in windows"]
    assert scored["shape"] == [60] and sum(scored["waits"].values()) == 2 * scored["windows"]
    assert "model.safetensors" in told["save"]["files"]
    assert told["doctor"]["device"] == "cuda:0 (fake card, 139.0 GiB), half precision: bfloat16 and float16"
    assert told["doctor"]["layouts"] == "run on cuda:0 in bfloat16: rows, runs, padded correct"
    # what loads a model within the journey sends its weights
    blocking = {name: journey["blocking"] for name, journey in told.items() if journey["blocking"]}
    assert set(blocking) == {"doctor", "encode moves the model", "to the card"}
    del blocking["to the card"]  # and the features
    for sent in blocking.values():
        assert of_function(sent, "connection_bert._settle") == sum(sent.values())

    scarce = told["encode out of memory"]
    assert scarce["shape"] == [60, 64] and sum(scarce["waits"].values()) == 1
    assert [sentence.partition(":")[0] for sentence in scarce["said"]] == ["out of memory on cuda"] * len(
        scarce["said"]
    )
    assert 1 <= len(scarce["said"]) <= 6
    assert "does not fit into the memory of cuda:0" in told["one text does not fit"]["refused"]
    assert "forked process" in told["encode in a fork"]["refused"] and "spawn" in told["encode in a fork"]["refused"]


def test_classifiers_wait_once_a_window_and_never_block(run_journeys: Callable[[str], Told]) -> None:
    told = run_journeys("classifiers")
    for kind in ("towers", "joined", "single"):
        predicted, chunked = told[f"predict {kind}"], told[f"predict {kind} chunked"]
        assert predicted["shape"] == chunked["shape"] == [60, 3]
        assert sum(predicted["waits"].values()) == predicted["windows"] > 1
        assert sum(chunked["waits"].values()) == 1
        assert predicted["blocking"] == chunked["blocking"] == {}
        assert predicted["attention"] == {VARLEN: N_LAYERS * predicted["windows"]}


def test_no_objective_and_no_step_waits_or_blocks(run_journeys: Callable[[str], Told]) -> None:
    from sbert_ft.config.objectives import OBJECTIVES

    told = run_journeys("objectives")
    for name in OBJECTIVES:
        for how in ("whole", "in parts"):
            assert told[f"{name}, {how}"]["is"] == "cuda:0" and told[f"{name}, {how}"]["gradients"] > 30
    held_up = {name: (journey["waits"], journey["blocking"]) for name, journey in told.items()}
    assert {name: counted for name, counted in held_up.items() if counted != ({}, {})} == {}

    for precision in ("bfloat16", "float16", "float32"):
        # dropout needs the products themselves; without it, half precision goes through the kernel for runs
        without = told[f"step {precision} runs without dropout"]["attention"]
        expected = {} if precision == "float32" else {VARLEN: N_LAYERS, VARLEN_BACKWARD: N_LAYERS}
        assert without == expected
        assert told[f"step {precision} runs with dropout"]["attention"] == {}
    # what the copy in half precision costs is not a launch for each parameter
    copied, plain = told["step bfloat16 rows with dropout"], told["step float32 rows with dropout"]
    assert copied["launches"] - plain["launches"] < copied["parameters"]


def test_a_step_of_several_processes_waits_for_no_card(run_journeys: Callable[[str], Told]) -> None:
    """What is agreed on goes through the CPU; sums of vectors and gradients are queued on the card."""
    told = run_journeys("processes")
    for name in ("cosine", "cosent"):
        for how in ("whole", "in parts"):
            step = told[f"{name}, {how}"]
            assert step["is"] == "cuda:0" and step["gradients"] > 30
            assert (step["waits"], step["blocking"]) == ({}, {}), name
    assert told["encode"]["shape"] == [60, 64] and sum(told["encode"]["waits"].values()) == 1


def test_runs_wait_for_the_card_at_the_logging_interval_alone(run_journeys: Callable[[str], Told]) -> None:
    told = run_journeys("runs")
    names = [
        f"fine_tune {precision}{how}" for precision in ("auto", "float32", "float16") for how in ("", " checkpointing")
    ]
    averaged = [f"with dev, averaged by {kind}" for kind in ("ema", "best_k")]
    names += [f"fine_tune {how}" for how in ("with dev", *averaged, "adversarial", "towers", "joined", "single")]
    # what is done once a run, a checkpoint or an evaluation; the names of functions of ours
    outside = (
        *("trainable_model._write", "resume.tensors_sha256", "checkpoints.save_progress"),
        *("tensor_files.write_safetensors", "pair_evaluator._score_stream"),
        *("tensors.not_finite", "tensors.to_numpy", "tensors.cosine"),
    )
    for name in names:
        run = told[name]
        assert run["steps"] == 4 and run["model"] is True, name
        assert of_function(run["waits"], "loop.check") == 2, (name, run["waits"])
        assert of_function(run["waits"], *outside) == sum(run["waits"].values()) - 2, (name, run["waits"])
        # once, at the end: the weights that were averaged or kept are read from checkpoints
        read = (
            of_function(run["blocking"], "checkpoints.restore_weights", "run._load_mean") if "averaged" in name else 0
        )
        assert read == sum(run["blocking"].values()), (name, run["blocking"])

    resumed = told["resume"]
    assert resumed["interrupted"] is True and resumed["steps"] == 4
    foreseen = told["memory foreseen"]
    assert foreseen["free"] == 138 + 3 - 1, "what torch has taken and does not use is free"
    # 2 heads x 64 scores x 8 bytes, 2 layers, 1000 tokens: the card's kernels for rows keep none
    assert foreseen["on cpu"] - foreseen["on card"] == 2 * 64 * 8 * 2 * 1000
    scarce = told["fine_tune out of memory"]
    assert scarce["steps"] == 2
    assert scarce["said"] and all("the batch stays the same" in sentence for sentence in scarce["said"])
