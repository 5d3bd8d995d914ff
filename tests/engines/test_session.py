"""Sessions of both engines compute what torch computes, in threads, forks and copies, and say what is wrong."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_graph_file import FACTS, onnx_bytes

from sbert_ft.encoder.cpu import cpu_flags, kind_of_cpu, missing_flags, n_threads
from sbert_ft.engines.graph_file import ExportedGraph, find_graphs, read_graph
from sbert_ft.engines.session import Session, open_session
from sbert_ft.errors import ModelFolderError, ResourceError

ENGINES = ["onnxruntime", "openvino"]
Arrays = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this system")


@pytest.fixture(scope="module")
def batch() -> Arrays:
    """Return three texts of 9, 5 and 1 tokens."""
    ids = np.random.default_rng(0).integers(5, 100, (3, 9))
    mask = (np.arange(9) < np.array([[9], [5], [1]])).astype(np.int64)
    types = np.zeros_like(ids)
    types[0, 4:] = 1
    return ids * mask, mask, types


def graph_of(folder: Path, engine: str) -> ExportedGraph:
    (graph,) = (graph for graph in find_graphs(folder) if graph.facts.engine == engine)
    return graph


@pytest.mark.parametrize("engine", ENGINES)
def test_a_graph_computes_what_the_stock_model_computes(exported_path: Path, engine: str, batch: Arrays) -> None:
    from transformers import BertModel

    stock = BertModel.from_pretrained(exported_path).eval()
    names = ("input_ids", "attention_mask", "token_type_ids")
    with torch.inference_mode():
        expected = stock(**dict(zip(names, map(torch.from_numpy, batch), strict=True))).last_hidden_state.numpy()
    found = open_session(graph_of(exported_path, engine)).run(*batch)
    assert found.dtype == np.float32 and found.shape == (3, 9, 32)
    assert np.abs(found - expected)[batch[1].astype(bool)].max() < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_threads_and_copies_get_the_same_result(exported_path: Path, engine: str, batch: Arrays) -> None:
    session = open_session(graph_of(exported_path, engine))
    expected = session.run(*batch)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: session.run(*batch), range(24)):
            assert np.array_equal(found, expected)
    assert np.array_equal(pickle.loads(pickle.dumps(session)).run(*batch), expected)


@needs_fork
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("is_used", [True, False])
def test_a_forked_child_can_use_a_session_and_ends(
    exported_path: Path, engine: str, is_used: bool, batch: Arrays, tmp_path: Path
) -> None:
    """The child ends as a script does, with all destructors, which wait forever for threads that are not there."""
    code = f"""
import os, sys
import numpy as np
from pathlib import Path
from sbert_ft.engines.graph_file import find_graphs
from sbert_ft.engines.session import open_session
(graph,) = (g for g in find_graphs(Path({str(exported_path)!r})) if g.facts.engine == {engine!r})
session = open_session(graph)
ids = np.arange(12).reshape(2, 6) + 5
inputs = ids, np.ones_like(ids), np.zeros_like(ids)
expected = session.run(*inputs)
child = os.fork()
if child == 0:
    sys.exit(7 if not {is_used} or np.array_equal(session.run(*inputs), expected) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), np.array_equal(session.run(*inputs), expected))
"""
    done = python(code, timeout=60)
    assert (done.stdout, done.stderr) == ("7 True\n", "")


def python(code: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter, with this process's import paths."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_needs_no_torch_starts_no_other_thread_and_says_nothing(exported_path: Path, engine: str) -> None:
    """A thread after the import would be ONNX Runtime's, which sends statistics; OpenVINO sends them from Python."""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("threads are counted in /proc")
    code = f"""
import os, sys
import numpy as np
from pathlib import Path
from sbert_ft.engines import session
before = len(os.listdir("/proc/self/task"))
session.import_{engine}()
started = len(os.listdir("/proc/self/task")) - before
from sbert_ft.engines.graph_file import find_graphs
(graph,) = (g for g in find_graphs(Path({str(exported_path)!r})) if g.facts.engine == {engine!r})
ids = np.arange(12).reshape(2, 6) + 5
session.open_session(graph).run(ids, np.ones_like(ids), np.zeros_like(ids))
heavy = ("torch", "transformers", "onnx", "openvino_telemetry", "scipy", "sklearn")
print(started, [name for name in heavy if sys.modules.get(name) is not None])
"""
    done = python(code)
    assert (done.stdout, done.stderr) == ("0 []\n", "")


def test_no_internet_socket_is_opened(exported_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("system calls are watched with strace, which is absent")
    code = f"""
import time
from pathlib import Path
from sbert_ft.engines.graph_file import find_graphs
from sbert_ft.engines.session import open_session
for graph in find_graphs(Path({str(exported_path)!r})):
    open_session(graph)
time.sleep(0.5)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    line = ["strace", "-f", "-e", "trace=socket,connect", sys.executable, "-c", code]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, check=False)
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip("this machine lets no process be traced")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "exited with 0" in done.stderr and "AF_INET" not in done.stderr


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_is_not_installed_is_named_with_its_extra(exported_path: Path, engine: str) -> None:
    code = f"""
import sys
from pathlib import Path
sys.modules[{engine!r}] = None
from sbert_ft.engines.graph_file import find_graphs
from sbert_ft.engines.session import open_session
from sbert_ft.errors import ResourceError
(graph,) = (g for g in find_graphs(Path({str(exported_path)!r})) if g.facts.engine == {engine!r})
try:
    open_session(graph)
except ResourceError as error:
    print(error)
"""
    named = {"onnxruntime": ("ONNX Runtime", "onnx"), "openvino": ("OpenVINO", "openvino")}[engine]
    assert python(code).stdout == '{} is not installed; pip install "sbert-ft[{}]"\n'.format(*named)


def test_a_cpu_without_the_instructions_is_refused(exported_path: Path) -> None:
    graph = graph_of(exported_path, "onnxruntime")
    graph = replace(graph, facts=replace(graph.facts, requires=("avx1024_xyz|avx2048",)))
    with pytest.raises(ResourceError, match=r"is for CPUs with avx1024_xyz or avx2048, which this one \(.+\) does not"):
        open_session(graph)


def test_of_alternative_flags_one_is_enough() -> None:
    if not (flags := sorted(cpu_flags())):
        pytest.skip("this system does not report the flags of its CPU")
    assert missing_flags([f"nothing|{flags[0]}", flags[-1], "nothing", "nothing|else"]) == ("nothing", "nothing|else")
    assert kind_of_cpu().split()[0] == os.uname().machine


def test_threads_follow_the_usual_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert n_threads() == 3
    for given in ("", "0", "-1", "many", "1.5", "2,2"):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert n_threads() == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else n_threads() >= 1


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_size": 48}, "gives float32 of shape 2 x 3 x 32 .* expected float32 of 2 x 3 x 48; export"),
        (
            {"output": "logits", "n_outputs": 3},
            "gives float32 of shape 2 x 3 x 32 .* expected float32 of 2 x 3; export",
        ),
        ({"takes_token_types": False}, "has the inputs .*'token_type_ids'.*, expected input_ids, attention_mask; exp"),
    ],
)
def test_a_graph_that_is_not_what_it_says_is_refused(
    exported_path: Path, engine: str, change: dict[str, object], said: str
) -> None:
    graph = graph_of(exported_path, engine)
    with pytest.raises(ModelFolderError, match=said):
        open_session(replace(graph, facts=replace(graph.facts, **change)))  # type: ignore[arg-type]


def test_a_graph_with_other_inputs_is_refused(exported_folder: Path) -> None:
    import onnx

    path = exported_folder / "onnx" / "model.onnx"
    model = onnx.load(str(path))
    for place in (*model.graph.input, *model.graph.node):
        if isinstance(place, onnx.ValueInfoProto):
            place.name = place.name.replace("input_ids", "tokens")
        else:
            place.input[:] = [name.replace("input_ids", "tokens") for name in place.input]
    onnx.save(model, str(path))
    with pytest.raises(
        ModelFolderError, match=r"has the inputs 'tokens', .*, expected input_ids, attention_mask, token"
    ):
        open_session(read_graph(path))


def test_a_damaged_graph_is_an_error_in_one_sentence(exported_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx_bytes(FACTS.to_json(), b"no graph"))
    with pytest.raises(ModelFolderError, match=r"model\.onnx' cannot be loaded by ONNX Runtime: '.+'; export the"):
        open_session(read_graph(tmp_path / "model.onnx"))
    weights = exported_folder / "openvino" / "openvino_model.bin"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelFolderError, match=r"openvino_model\.xml' cannot be loaded by OpenVINO: '.+'; export the"):
        open_session(read_graph(weights.with_suffix(".xml")))
    weights.unlink()
    with pytest.raises(ModelFolderError, match=r"openvino_model\.xml' cannot be loaded by OpenVINO: '.+'; export the"):
        open_session(read_graph(weights.with_suffix(".xml")))


@pytest.mark.parametrize("engine", ENGINES)
def test_too_little_memory_is_a_memory_error_and_the_session_goes_on(exported_path: Path, engine: str) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("the memory of a process is limited by Linux")
    code = f"""
import resource
import numpy as np
from pathlib import Path
from sbert_ft.engines.graph_file import find_graphs
from sbert_ft.engines.session import open_session
(graph,) = (g for g in find_graphs(Path({str(exported_path)!r})) if g.facts.engine == {engine!r})
session = open_session(graph)
ids = np.ones((65536, 64), np.int64)
inputs = ids, ids.copy(), 0 * ids
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 100 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    session.run(*inputs)
except MemoryError as error:
    print("not enough memory for 65536 x 64 tokens" in str(error))
print(session.run(*(values[:2] for values in inputs)).shape)
"""
    done = python(code)
    assert (done.stdout, done.stderr) == ("True\n(2, 64, 32)\n", "")


def test_a_graph_that_does_not_run_is_an_error(exported_path: Path) -> None:
    session = Session(graph_of(exported_path, "onnxruntime"))
    ids = np.full((1, 3), 10**6)
    with pytest.raises(ModelFolderError, match=r"does not run by ONNX Runtime: '.+'; export the model again"):
        session.run(ids, np.ones_like(ids), np.zeros_like(ids))
