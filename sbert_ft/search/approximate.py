"""Graphs and inverted lists that find nearly all nearest vectors without looking at each: usearch and faiss.

Both only propose rows: these are scored by the vectors themselves, so a score is the same whatever found it. usearch
(HNSW) is fast and keeps a copy of the vectors with 8 bits a feature. faiss (IVF with product quantization) keeps some
100 bytes a vector, for very many of them. It runs in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from sbert_ft.encoder.cpu import n_threads
from sbert_ft.errors import InputError, OutputError, ResourceError, shown
from sbert_ft.files.atomic import writing
from sbert_ft.vectors.nearest import Rows, Vectors

Method = Literal["exact", "usearch", "faiss"]
METHODS: Final[tuple[Method, ...]] = ("exact", "usearch", "faiss")
_PACKAGES = {"usearch": "usearch", "faiss": "faiss-cpu"}
PROPOSED: Final[Mapping[Method, int]] = {"usearch": 2, "faiss": 20}
"""Rows that are scored for each that is wanted."""
_BLOCK = 65_536
_LEAST_FOR_FAISS = 10_000  # its quantizers are trained on as many


class Approximate(ABC):
    """An index of a file that proposes rows for queries."""

    @abstractmethod
    def propose(self, queries: Vectors, n: int) -> Rows:
        """Return rows that are probably among the nearest, shape (queries, n), -1 for none."""


def check_method(method: Method) -> None:
    """Refuse a method whose package is not installed: a `ResourceError`."""
    if method != "exact" and importlib.util.find_spec(method) is None:
        raise ResourceError(
            f"the method {method} needs {_PACKAGES[method]}, which is not installed",
            f"pip install 'sbert-ft[{method}]', or build the index with the method exact",
        )


def parameters_for(method: Method, n: int, width: int, given: Mapping[str, int]) -> dict[str, Any]:
    """Return the parameters of an index of n vectors; `given` ones replace ours.

    Of usearch: ``connectivity`` (neighbours of a vector in the graph), ``expansion_add`` and ``expansion_search``
    (candidates looked at while the graph is built and searched). Of faiss: ``lists``, ``codes`` (bytes of a vector) and
    ``probes`` (lists looked into).

    Raises:
        InputError: There is no such parameter, it is below 1, or there are too few vectors.
    """
    usual: dict[str, int] = {}
    if method == "usearch":
        usual = {"connectivity": 32, "expansion_add": 128, "expansion_search": 128}
    elif method == "faiss":
        if n < _LEAST_FOR_FAISS:
            raise InputError(
                f"the method faiss needs at least {_LEAST_FOR_FAISS:,} vectors, found {n:,}", "use the method exact"
            )
        lists = max(64, min(65_536, 1 << round(np.log2(2 * n**0.5))))
        codes = max(size for size in range(1, max(2, width // 4 + 1)) if width % size == 0)
        usual = {"lists": lists, "codes": codes, "probes": max(16, lists // 32)}
    for name, value in given.items():
        if name not in usual:
            known = ", ".join(usual) or "none"
            raise InputError(f"the method {method} has no parameter {name!r}; its parameters are: {known}")
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"the parameter {name} is {value!r}, expected a whole number of at least 1")
    return {**usual, **given}


def build_approximate(
    method: Method,
    vectors_file: Path,
    target: Path,
    parameters: Mapping[str, Any],
    rows: Rows,
    old: Path | None = None,
) -> None:
    """Write an index of some vectors of a .npy.

    With one thread (OMP_NUM_THREADS=1) usearch makes the same graph each time.

    Args:
        method: usearch or faiss.
        vectors_file: The vectors.
        target: The new file.
        parameters: Of the method.
        rows: The numbers of the vectors, in the order in which they are added.
        old: An index of other vectors, to which they are added; None for a new one.

    Raises:
        OutputError: It cannot be written.
    """
    if method == "faiss":
        options = json.dumps(dict(parameters)), "" if old is None else str(old)
        command = _worker("build", str(vectors_file), str(target), *options)
        done = subprocess.run(command, input=rows.tobytes(), env=_environment(), capture_output=True, check=False)
        if done.returncode:
            raise OutputError(f"faiss could not write it: {_last_line(done.stderr)}", where=shown(target))
        return
    from usearch.index import Index

    vectors = np.load(vectors_file, mmap_mode="r")
    index = Index(ndim=vectors.shape[1], metric="cos", dtype="i8", **parameters)
    if old is not None:
        index.load(str(old))
    for begin in range(0, len(rows), _BLOCK):
        block = rows[begin : begin + _BLOCK]
        index.add(block, np.asarray(vectors[block], np.float32), threads=n_threads())
    with writing(target):
        try:
            index.save(str(target))
        except RuntimeError as error:  # how usearch reports a full disk
            raise OSError(str(error)) from error


def open_approximate(method: Method, file: Path, parameters: Mapping[str, Any]) -> Approximate:
    """Return the index in a file, which is mapped and not read.

    Raises:
        ResourceError: The package is not installed.
        InputError: The file is damaged.
    """
    check_method(method)
    return FaissLists(file, parameters) if method == "faiss" else UsearchGraph(file, parameters)


class UsearchGraph(Approximate):
    """A graph of usearch."""

    def __init__(self, file: Path, parameters: Mapping[str, Any]) -> None:
        """Map the file; an `InputError` if it is damaged."""
        from usearch.index import Index

        try:
            index = Index.restore(str(file), view=True)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{shown(file)} cannot be read by usearch: {error}", "build the index again") from error
        assert index is not None
        self._index, self._size = index, len(index)
        self._index.expansion_search = parameters["expansion_search"]

    def propose(self, queries: Vectors, n: int) -> Rows:
        """Return rows that are probably among the nearest, shape (queries, n), -1 for none."""
        found = self._index.search(queries, min(n, self._size), threads=n_threads())
        keys: NDArray[np.int64] = np.atleast_2d(found.keys).astype(np.int64)
        counts: NDArray[np.int64] = np.atleast_1d(getattr(found, "counts", np.int64(keys.shape[1])))
        keys[np.arange(keys.shape[1]) >= counts[:, None]] = -1
        rows = np.full((len(queries), n), -1, np.int64)
        rows[:, : keys.shape[1]] = keys
        return rows


class FaissLists(Approximate):
    """Inverted lists of faiss, in a process that is started with the first question and ends with this object."""

    def __init__(self, file: Path, parameters: Mapping[str, Any]) -> None:
        self._file, self._command = file, _worker("search", str(file), json.dumps(dict(parameters)))
        self._process: subprocess.Popen[bytes] | None = None

    def propose(self, queries: Vectors, n: int) -> Rows:
        """Return rows that are probably among the nearest, shape (queries, n), -1 for none.

        Raises:
            ResourceError: The process ended: the file is damaged, or memory ran out.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        values = np.ascontiguousarray(queries, np.float32)
        try:
            stdin.write(np.array([*values.shape, n], np.int64).tobytes() + values.tobytes())
            stdin.flush()
            rows: Rows = np.frombuffer(stdout.read(8 * len(values) * n), np.int64).reshape(len(values), n)
        except (OSError, ValueError) as error:
            _, said = self._process.communicate()
            self._process = None
            problem = f"faiss ended while it searched {shown(self._file)}: {_last_line(said)}"
            raise ResourceError(problem, "build the index again if its file is damaged") from error
        return rows

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()  # its input ends, and so does it
            self._process = None

    def __del__(self) -> None:
        self.close()


def _worker(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sbert_ft.search.faiss_worker", *arguments]


def _environment() -> dict[str, str]:
    """Return the environment of the worker, which finds this package and uses as many threads as we may."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(n_threads())}


def _last_line(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
