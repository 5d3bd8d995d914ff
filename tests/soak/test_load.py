"""The short form of `tests/soak/load.py`: flat memory, threads and processes that end with the same vectors, a stream.

`make soak` runs it in full. Also here: what the model does so that forks and copies work.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from warm import WarmProcess

from sbert_ft import BertClassifier, ConnectionBert, SiameseBert
from sbert_ft.encoder.process_safety import ForkSafeLock, prepare_process

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["A man plays a guitar.", "two dogs running in the park", "", "the house " * 10, "a"]
SAME_VECTORS = [
    "threads_of_one_process",
    "threads_beside_changes",
    "copies",
    "forked_pool",
    "forked_with_parallel_tokenizer",
    "forked_executor",
    "prefork_server",
    "forked_while_threads_encode",
    "loader_with_workers",
    "spawned_executor",
]

needs_forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="this system has no /proc to read memory in"
)


def short_form(section: str, folder: Path) -> dict[str, Any]:
    """Return what one section of the script gave; its jobs are in a process of their own, and it kills what hangs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(ROOT / "tests" / "soak"))  # what it adds to the path itself goes with this
        patched.setenv("OMP_NUM_THREADS", "1")
        import load

        result: dict[str, Any] = load.run_section(section, short=True, place=folder)
    return result


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return short_form("processes", tmp_path_factory.mktemp("processes"))


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return short_form("memory", tmp_path_factory.mktemp("memory"))


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return short_form("stream", tmp_path_factory.mktemp("stream"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Callable[..., Path]) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("tiny") / "model")


# threads and processes


@needs_forks
@pytest.mark.parametrize("job", SAME_VECTORS)
def test_threads_and_processes_end_with_the_same_vectors(processes: dict[str, Any], job: str) -> None:
    result = processes[job]
    assert "failed" not in result and "hangs" not in result, result
    assert result["results"] > 0
    assert result["largest_difference"] <= 5e-6
    assert result.get("errors", []) == []
    assert result.get("classifier_is_the_same", True)
    assert result.get("bfloat16", {"largest_difference": 0.0})["largest_difference"] == 0.0


@needs_forks
def test_a_forked_child_computes_and_tokenises_with_one_thread(folder: Path) -> None:
    model = SiameseBert.from_pretrained(folder, device="cpu", precision="float32")
    assert model.encode(TEXTS).shape == (5, 32)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write, f"{torch.get_num_threads()} {os.environ['TOKENIZERS_PARALLELISM']}".encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"1 false"
    assert os.waitpid(child, 0)[1] == 0


@needs_forks
def test_a_lock_that_another_thread_holds_is_open_in_a_forked_child() -> None:
    prepare_process()
    lock, held, over = ForkSafeLock(), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            over.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    child = os.fork()
    if not child:
        alarm = threading.Timer(30, os._exit, (1,))
        alarm.start()
        with lock:
            os._exit(0)
    over.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_a_copied_model_has_the_same_vectors_and_weights_of_its_own(folder: Path, precision: Any, way: str) -> None:
    model = SiameseBert.from_pretrained(folder, device="cpu", precision=precision)
    expected = model.encode(TEXTS)
    if way == "deepcopy":
        twin = copy.deepcopy(model)
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    np.testing.assert_array_equal(twin.encode(TEXTS), expected)
    assert twin.bert.compute_dtype == model.bert.compute_dtype
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2.0)
    assert np.abs(twin.encode(TEXTS) - expected).max() > 0.01
    np.testing.assert_array_equal(model.encode(TEXTS), expected)


def test_a_copied_model_is_as_small_as_its_weights(folder: Path) -> None:
    model = SiameseBert.from_pretrained(folder, device="cpu", precision="bfloat16")
    before = len(pickle.dumps(model))
    model.encode(TEXTS)
    assert len(pickle.dumps(model)) < before + 1000  # the half-precision copy that encoding has made is not taken along


def test_another_process_runs_a_pickled_model_that_it_has_not_loaded(
    warm: WarmProcess, folder: Path, tmp_path: Path
) -> None:
    model = BertClassifier(ConnectionBert.from_pretrained(folder, device="cpu", precision="float32"), "single")
    model.start_head(["no", "yes"], seed=0)
    (tmp_path / "model.pickle").write_bytes(pickle.dumps((model, TEXTS)))
    code = (
        "import pickle, sys; import numpy as np\n"
        "model, texts = pickle.load(open('model.pickle', 'rb'))\n"
        "np.save('found.npy', model.predict_proba(texts))"
    )
    assert warm.script(code, cwd=tmp_path).code == 0
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), model.predict_proba(TEXTS), atol=1e-6)


# memory


@needs_proc
@pytest.mark.parametrize(
    "job", ["memory_encode", "memory_encode_half", "memory_score", "memory_predict", "memory_load"]
)
def test_memory_and_open_files_are_flat_over_rounds(memory: dict[str, Any], job: str) -> None:
    result = memory[job]
    assert "failed" not in result and "hangs" not in result, result
    # a round that kept its vectors would keep 250 KiB, one that kept its model more than 1,000
    assert result["slope_kib_a_round"] < (1000 if job == "memory_load" else 125), result
    assert result["files"][0] == result["files"][1]


@needs_proc
def test_a_stream_of_many_texts_takes_the_memory_of_few(stream: dict[str, Any]) -> None:
    lines = stream["stream_lines"]
    assert "failed" not in lines, lines
    assert (lines["some"]["rows"], lines["all"]["rows"]) == (20_000, 60_000)
    # a text's vector alone has 128 bytes, its characters and their string some 100
    assert lines["bytes_a_text"] < 120
    for part in (lines["some"], lines["all"], *stream["stream_tables"].values()):
        assert part["largest_difference"] <= 5e-6
    assert lines["left_behind"] == []


def test_a_killed_stream_leaves_the_old_result_as_it_was(stream: dict[str, Any]) -> None:
    result = stream["stream_killed"]
    assert "failed" not in result, result
    assert result["old_result_kept"]
    assert result["was_running"]
    assert result["others_left"] == []
