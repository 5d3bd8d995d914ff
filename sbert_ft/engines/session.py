"""Run an exported graph by ONNX Runtime or OpenVINO: token ids in, token vectors or logits out.

A `Session` belongs to the process that opened it. The threads of an engine do not exist in a forked child, where even
deleting the engine's objects would wait for them forever; so a child abandons those of its parent without deleting them
and opens the graph again when it is first used there. A copy by pickle opens it again too.

Both libraries send statistics of their use over the network, and ONNX Runtime (from 1.29) starts a thread for that
when it is imported. `import_onnxruntime` and `import_openvino` import them without this; import them nowhere else.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.encoder.cpu import kind_of_cpu, missing_flags, n_threads
from sbert_ft.engines.graph_file import ExportedGraph
from sbert_ft.errors import ModelFolderError, ResourceError, joined, quoted, shown

# Tokens of a forward, padding included, that both engines run fastest: with more, activations leave the processor's
# cache (see `benchmarks/LOG.md`).
TOKEN_BUDGET: Final = 768
INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
_EXTRAS: Final = {"onnxruntime": "onnx", "openvino": "openvino"}
_NAMES: Final = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
# Words in the messages of both engines, and of C++, when there is no memory left.
_OUT_OF_MEMORY: Final = ("bad_alloc", "out of memory", "ailed to allocate", "not allocate", "posix_memalign", "mmap")
_FATAL: Final = 4  # ONNX Runtime's level of messages; errors come as exceptions anyway
_EXPORT_AGAIN: Final = "export the model again"

# Takes token ids, mask and token types, int64 of shape (N, L) each, and returns the graph's first output.
_Run = Callable[[Mapping[str, NDArray[np.int64]]], NDArray[np.float32]]


def open_session(graph: ExportedGraph) -> Session:
    """Return the graph, loaded by its engine and tried once on two short texts.

    Raises:
        ResourceError: The engine is not installed, the CPU lacks an instruction set, or there is not enough memory.
        ModelFolderError: The file is damaged, or the graph does not take our inputs or gives another output.
    """
    session = Session(graph)
    session.check()
    return session


class Session:
    """An exported graph, loaded by its engine; usable from several threads, after a fork, and as a pickled copy.

    Attributes:
        graph: The graph's file and what it says of itself.
    """

    def __init__(self, graph: ExportedGraph) -> None:
        """Prepare to run the graph, which is loaded when it is first used; `open_session` also checks it."""
        self.graph = graph
        self._lock = threading.Lock()
        self._loaded: tuple[_Run, tuple[Any, ...]] | None = None
        _handle_forks()
        _SESSIONS.add(self)

    def __reduce__(self) -> tuple[type[Session], tuple[ExportedGraph]]:
        return Session, (self.graph,)

    def run(
        self, token_ids: NDArray[np.int64], mask: NDArray[np.int64], token_types: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return what the graph computes for N texts, padded to L tokens: shape (N, L, D), or (N, K) for logits.

        Args:
            token_ids: Shape (N, L), int64, from 0 to below ``vocab_size``.
            mask: Shape (N, L), int64: 1 for tokens, 0 for padding.
            token_types: Shape (N, L), int64; not used by a graph without token types.

        Raises:
            MemoryError: There is not enough memory for so many tokens.
            ModelFolderError: The graph does not run, or gives another shape.
            ResourceError: As in `open_session`, in a process that has not used the graph before.
        """
        run = self._engine()
        inputs = {"input_ids": token_ids, "attention_mask": mask, "token_type_ids": token_types}
        if not self.graph.facts.takes_token_types:
            del inputs["token_type_ids"]
        try:
            output = run(inputs)
        except Exception as error:  # the engines have no common class of errors
            if _is_out_of_memory(error):
                shape = " x ".join(map(str, token_ids.shape))
                raise MemoryError(f"{shown(self.graph.path)}: not enough memory for {shape} tokens") from error
            raise _broken(self.graph, "does not run", error) from error
        self._check_shape(output, *token_ids.shape)
        return output

    def _check_shape(self, output: NDArray[np.float32], n_texts: int, n_tokens: int) -> None:
        facts = self.graph.facts
        expected = (n_texts, n_tokens, facts.hidden_size) if facts.n_outputs is None else (n_texts, facts.n_outputs)
        if output.shape != expected or output.dtype != np.float32:
            shapes = " x ".join(map(str, output.shape)), " x ".join(map(str, expected))
            given = f"for {n_texts} texts of {n_tokens} tokens"
            problem = f"gives {output.dtype} of shape {shapes[0]} {given}, expected float32 of {shapes[1]}"
            raise ModelFolderError(f"{shown(self.graph.path)} {problem}", _EXPORT_AGAIN)

    def check(self) -> None:
        """Load the graph and run it on two short texts; errors as in `open_session`."""
        ids = np.full((2, 3), min(1, self.graph.facts.vocab_size - 1))
        try:
            self.run(ids, np.array([[1, 1, 1], [1, 1, 0]]), np.zeros_like(ids))
        except MemoryError as error:
            raise ResourceError(str(error)) from error

    def _engine(self) -> _Run:
        with self._lock:
            if self._loaded is None:
                self._loaded = _load(self.graph)
            return self._loaded[0]

    def _abandon(self) -> None:
        """In a forked child: forget the parent's engine without deleting it."""
        self._lock = threading.Lock()
        if self._loaded is not None:
            import ctypes

            for part in self._loaded[1]:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(part))
            self._loaded = None


_SESSIONS: weakref.WeakSet[Session] = weakref.WeakSet()


@cache
def _handle_forks() -> None:
    if hasattr(os, "register_at_fork"):  # there are no forks on Windows
        os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    for session in list(_SESSIONS):
        session._abandon()


def import_onnxruntime() -> ModuleType:
    """Return onnxruntime, which sends no statistics; a `ResourceError` if it is not installed."""
    with _environment("ORT_DISABLE_TELEMETRY", "1"), _named_when_missing("onnxruntime"):
        import onnxruntime
    onnxruntime.disable_telemetry_events()  # where it was imported before
    module: ModuleType = onnxruntime
    return module


def import_openvino() -> ModuleType:
    """Return openvino, which sends no statistics; a `ResourceError` if it is not installed."""
    with without_openvino_telemetry(), _named_when_missing("openvino"):
        import openvino
    module: ModuleType = openvino
    return module


@contextmanager
def without_openvino_telemetry() -> Iterator[None]:
    """Context in which openvino and nncf are imported as where their package that sends statistics is absent."""
    name = "openvino_telemetry"
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = before


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


@contextmanager
def _named_when_missing(engine: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        cause = "is not installed" if isinstance(error, ModuleNotFoundError) else f"cannot be imported ({error})"
        raise ResourceError(f"{_NAMES[engine]} {cause}", f'pip install "sbert-ft[{_EXTRAS[engine]}]"') from error


def _load(graph: ExportedGraph) -> tuple[_Run, tuple[Any, ...]]:
    """Return the function that runs the graph, and the objects of the engine behind it."""
    if missing := missing_flags(graph.facts.requires):
        instructions = joined((flag.replace("|", " or ") for flag in missing), 4)
        raise ResourceError(
            f"{shown(graph.path)} is for CPUs with {instructions}, which this one ({kind_of_cpu()}) does not have",
            "export the model again on this machine",
        )
    load = _load_onnxruntime if graph.facts.engine == "onnxruntime" else _load_openvino
    try:
        names, run, parts = load(graph)
    except (ResourceError, ModelFolderError):
        raise
    except Exception as error:  # the engines have no common class of errors
        if _is_out_of_memory(error):
            raise ResourceError(f"{shown(graph.path)}: there is not enough memory to load the graph") from error
        raise _broken(graph, "cannot be loaded", error) from error
    expected = INPUTS if graph.facts.takes_token_types else INPUTS[:2]
    if set(names) != set(expected):
        raise ModelFolderError(
            f"{shown(graph.path)} has the inputs {joined(map(quoted, names), 6)}, expected {', '.join(expected)}",
            _EXPORT_AGAIN,
        )
    return run, parts


def _load_onnxruntime(graph: ExportedGraph) -> tuple[list[str], _Run, tuple[Any, ...]]:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = n_threads(), 1
    options.log_severity_level = _FATAL
    session = onnxruntime.InferenceSession(str(graph.path), options, providers=["CPUExecutionProvider"])
    output = session.get_outputs()[0].name

    def run(inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        (result,) = session.run([output], dict(inputs))
        return np.asarray(result)

    return [value.name for value in session.get_inputs()], run, (session, session._sess)


def _load_openvino(graph: ExportedGraph) -> tuple[list[str], _Run, tuple[Any, ...]]:
    openvino = import_openvino()
    core = openvino.Core()
    hint = "bf16" if graph.facts.precision == "bfloat16" else "f32"
    options = {
        "INFERENCE_PRECISION_HINT": hint,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": n_threads(),
        "ENABLE_CPU_PINNING": False,  # else the threads of several processes share the first cores
    }
    compiled = core.compile_model(str(graph.path), "CPU", options)
    request, lock = compiled.create_infer_request(), threading.Lock()

    def run(inputs: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        with lock:  # a request holds one batch; a second one would only share the same threads
            # with one thread, infer() hides errors and leaves the output of the call before (2026.4); wait() does not
            request.start_async(dict(inputs), share_inputs=True)
            request.wait()
            return np.array(request.get_output_tensor(0).data)

    return [value.any_name for value in compiled.inputs], run, (core, compiled, request)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def _broken(graph: ExportedGraph, what: str, error: Exception) -> ModelFolderError:
    cause = quoted(" ".join(str(error).split()), limit=300)
    return ModelFolderError(f"{shown(graph.path)} {what} by {_NAMES[graph.facts.engine]}: {cause}", _EXPORT_AGAIN)
