"""Write the folder of a search index: whole under a new version, then the manifest that names its files.

A new folder is written beside its place and renamed. In a folder that is an index, the new files get names that no
other version has, and the manifest is replaced when they are on the disk; then the old files are removed. So a crash
leaves the old index or the new one, and who has the old one open keeps it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from sbert_ft.arguments import word_argument
from sbert_ft.errors import (
    DataError,
    InputError,
    ModelFolderError,
    OutputError,
    ResourceError,
    RunFolderError,
    quoted,
    shown,
)
from sbert_ft.files.atomic import (
    json_bytes,
    put_in_place,
    remove_leftovers,
    staged_beside,
    sync_folder,
    write_bytes,
    writing,
)
from sbert_ft.files.file_lock import locked
from sbert_ft.files.strict_json import read_json
from sbert_ft.model_folder.digest import digest_of_files
from sbert_ft.search.approximate import (
    METHODS,
    PROPOSED,
    Method,
    build_approximate,
    check_method,
    open_approximate,
    parameters_for,
)
from sbert_ft.search.manifest import FORMAT, INDEX_VECTORS, MANIFEST, IndexFile, IndexVectors, Manifest
from sbert_ft.vectors.nearest import RowsOf, Vectors, best_of, nearest

logger = logging.getLogger(__name__)

HIT_COLUMNS = ("query_id", "rank", "id", "text", "score", "probability", "match")
GROUP_ROWS = 16_384
"""Rows of a group of the Parquet file, which are read together."""
_SAMPLED, _RECALL_AT = 500, 10
_FILES = re.compile(r"(vectors|texts|approximate)(-\d+)?\.(npy|parquet|usearch|faiss)")


@dataclass(frozen=True)
class IndexSettings:
    """How an index is searched, and what it stores.

    Attributes:
        method: ``exact`` looks at all vectors, which is right up to about a million; ``usearch`` and ``faiss`` find
            nearly all of the nearest, from some million on in a fraction of the time.
        vectors: Type of the stored vectors; ``float16`` halves their file and changes a score by at most 0.001.
        parameters: Of the method, in place of the usual ones; see `parameters_for`.
    """

    method: Method = "exact"
    vectors: IndexVectors = "float32"
    parameters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """Some rows of an index: the columns of the Parquet file, and vectors of length 1, shape (rows, d)."""

    columns: Mapping[str, Sequence[Any]]
    vectors: Vectors


@dataclass(frozen=True)
class Source:
    """Where the rows of an index come from: the model's digest and folder, and what is known of each row."""

    model: str
    model_path: str
    has_ids: bool
    has_texts: bool
    columns: tuple[str, ...]


@dataclass(frozen=True)
class OldIndex:
    """The rows of an index, their number, the file of its method (None for exact), and its recall."""

    blocks: Iterable[Block]
    count: int
    approximate: Path | None
    recall_at_10: float | None


def check_pyarrow() -> None:
    """Raise a `ResourceError` if pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ResourceError("a search index needs pyarrow", "pip install 'sbert-ft[parquet]'") from None


def check_target(path: Path, settings: IndexSettings, columns: Sequence[str]) -> None:
    """Refuse what an index cannot be written with or to, before texts are encoded.

    Raises:
        InputError: A setting or the name of a column is not possible.
        ResourceError: A package is not installed.
        OutputError: There is something else in this place, or no folder that it can be in.
    """
    check_pyarrow()
    word_argument(settings.method, "method", METHODS)
    word_argument(settings.vectors, "vectors", INDEX_VECTORS)
    check_method(settings.method)
    parameters_for(settings.method, 2**31, 1, settings.parameters)
    taken = next((n for i, n in enumerate(columns) if n in (*HIT_COLUMNS, "vector", *columns[:i])), None)
    if taken is not None:
        raise InputError(
            f"a kept column cannot be called {quoted(taken)}: an index has one", "rename it or leave it out"
        )
    path = Path(os.path.realpath(path))
    if os.path.lexists(path):
        _version_of(path)
    elif not path.parent.is_dir():
        raise OutputError(f"{shown(path)}: the folder {shown(path.parent)} does not exist", "make it first")


def write_index(
    path: Path, source: Source, settings: IndexSettings, blocks: Iterator[Block], old: OldIndex | None = None
) -> Manifest:
    """Write an index with the rows of `old` and those of `blocks`, put it in place whole, and return its manifest."""
    check_target(path, settings, source.columns)
    path = Path(os.path.realpath(path))
    is_new = not os.path.lexists(path)
    with writing(path), nullcontext() if is_new or old is not None else held(path), staged_beside(path) as staging:
        version = 1 if is_new else _version_of(path) + 1
        manifest = _write_files(staging, source, settings, blocks, old, version)
        content = json_bytes(manifest.to_json())
        if is_new:
            (staging / MANIFEST).write_bytes(content)
            put_in_place(staging, path, entrances=(MANIFEST,))
            return manifest
        remove_leftovers(path)
        names = {file.name for file in manifest.files.values()}
        for name in names:
            os.replace(staging / name, path / name)
        sync_folder(path)
        write_bytes(path / MANIFEST, content)
        for name in os.listdir(path):
            if _FILES.fullmatch(name) and name not in names:
                with suppress(OSError):  # a reader on Windows holds it; the next version removes it
                    os.unlink(path / name)
    return manifest


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of an index while the block runs; an `OutputError` if another process holds it."""
    try:
        with locked(path):
            yield
    except RunFolderError as error:
        raise OutputError(error.problem, "wait until it ends") from error


def _version_of(path: Path) -> int:
    """Return the version of the index in a folder, which may be damaged; refuse a folder or file of something else."""
    with suppress(ModelFolderError):
        content = read_json(path / MANIFEST)
        version = content.get("version")
        if content.get("format") == FORMAT and "recall_at_10" in content and isinstance(version, int):
            return version
    raise OutputError(f"{shown(path)} exists and is not a search index", "give another name, or remove it")


def _write_files(
    folder: Path,
    source: Source,
    settings: IndexSettings,
    blocks: Iterator[Block],
    old: OldIndex | None,
    version: int,
) -> Manifest:
    """Write the files of an index, synced, and return its manifest."""
    number = "" if version == 1 else f"-{version}"
    names = {"vectors": f"vectors{number}.npy", "texts": f"texts{number}.parquet"}
    first = next(blocks, None)
    if first is None:
        raise DataError("there is no text to build an index of, expected at least one")
    every = chain(() if old is None else old.blocks, [first], blocks)
    count = _write_rows(folder / names["vectors"], folder / names["texts"], source, settings.vectors, every)
    dimension = first.vectors.shape[1]
    given = settings.parameters
    parameters = parameters_for(settings.method, count, dimension, given)
    recall = None
    if settings.method != "exact":
        names["approximate"] = f"approximate{number}.{settings.method}"
        logger.info("the vectors are written; %s now adds %s of them", settings.method, f"{count:,}")
        recall = _write_approximate(
            folder / names["approximate"], folder / names["vectors"], settings.method, parameters, old
        )
    files = {}
    for role, name in names.items():
        with open(folder / name, "rb+") as opened:
            os.fsync(opened.fileno())
        files[role] = IndexFile(name, (folder / name).stat().st_size, digest_of_files([folder / name]))
    return Manifest(
        model=source.model,
        model_path=source.model_path,
        count=count,
        dimension=dimension,
        vectors=settings.vectors,
        has_ids=source.has_ids,
        has_texts=source.has_texts,
        columns=source.columns,
        method=settings.method,
        parameters=parameters,
        recall_at_10=recall,
        files=files,
        version=version,
    )


def _write_rows(
    vectors_file: Path, texts_file: Path, source: Source, kind: IndexVectors, blocks: Iterable[Block]
) -> int:
    """Write vectors and columns, and return the number of rows."""
    import pyarrow
    import pyarrow.parquet

    fields = [pyarrow.field("id", pyarrow.string() if source.has_ids else pyarrow.int64(), nullable=False)]
    fields += [pyarrow.field("text", pyarrow.string(), nullable=False)] if source.has_texts else []
    schema = pyarrow.schema([*fields, *(pyarrow.field(name, pyarrow.string()) for name in source.columns)])
    count, dimension = 0, 0
    with (
        open(vectors_file, "wb") as file,
        pyarrow.parquet.ParquetWriter(texts_file, schema) as writer,
    ):
        rest: list[pyarrow.RecordBatch] = []
        for block in blocks:
            if not count:
                dimension = block.vectors.shape[1]
                _write_header(file, kind, 0, dimension)
            arrays = [pyarrow.array(block.columns[column.name], column.type) for column in schema]
            rest.append(pyarrow.RecordBatch.from_arrays(arrays, schema=schema))
            file.write(np.ascontiguousarray(block.vectors, kind).data)
            count += len(block.vectors)
            rest = _write_groups(writer, rest, GROUP_ROWS)
        _write_groups(writer, rest, 1)
        file.seek(0)
        _write_header(file, kind, count, dimension)  # as long as the first: numpy pads for any number of rows
    return count


def _write_groups(writer: Any, batches: list[Any], least: int) -> list[Any]:
    """Write whole groups of rows from batches, and return what is left, fewer than `least` rows."""
    import pyarrow

    table = pyarrow.Table.from_batches(batches) if batches else None
    while table is not None and table.num_rows >= least:
        writer.write_table(table.slice(0, GROUP_ROWS), GROUP_ROWS)
        table = table.slice(GROUP_ROWS)
    return table.to_batches() if table is not None else []


def _write_header(file: Any, kind: IndexVectors, count: int, dimension: int) -> None:
    description = {"descr": np.dtype(kind).newbyteorder("<").str, "fortran_order": False, "shape": (count, dimension)}
    npy.write_array_header_1_0(file, description)


def _write_approximate(
    target: Path, vectors_file: Path, method: Method, parameters: Mapping[str, int], old: OldIndex | None
) -> float | None:
    """Write the index of a method, and return which share of the 10 nearest it finds.

    It is asked for vectors that it does not have yet, which are added after that: a graph finds what is around one of
    its own vectors more easily than what is around a question. None where there are too few vectors; few new ones leave
    what was measured for the old index.
    """
    vectors = np.load(vectors_file, mmap_mode="r")
    n_old, before = (0, None) if old is None else (old.count, old.approximate)
    new = np.arange(n_old, len(vectors))
    asked = n_old + np.sort(np.random.default_rng(0).permutation(len(new))[: min(_SAMPLED, len(new) // 10)])
    if not len(asked) or len(vectors) - len(asked) < _RECALL_AT:
        build_approximate(method, vectors_file, target, parameters, new, before)
        return None if old is None else old.recall_at_10
    without = target.with_name("without")
    build_approximate(method, vectors_file, without, parameters, np.setdiff1d(new, asked), before)
    queries = np.asarray(vectors[asked], np.float32)
    exact = nearest(queries, RowsOf(vectors, np.setdiff1d(np.arange(len(vectors)), asked)), _RECALL_AT)
    n_proposed = min(len(vectors) - len(asked), _RECALL_AT * PROPOSED[method])
    found = best_of(
        queries, vectors, open_approximate(method, without, parameters).propose(queries, n_proposed), _RECALL_AT
    )
    build_approximate(method, vectors_file, target, parameters, asked, without)
    without.unlink()
    # of equal scores any will do: equal texts have equal vectors
    return float((found.scores >= exact.scores[:, -1:]).mean())
