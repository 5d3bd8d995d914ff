"""`manifest.json` of a search index: which files it has, which model made its vectors, and how it is searched.

The manifest names the other files, and is written last. So whoever opens an index finds all files of one version, also
while another process adds to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from sbert_ft.errors import DataError, ModelFolderError, quoted, shown
from sbert_ft.files.strict_json import JsonObject, read_json
from sbert_ft.search.approximate import METHODS

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
INDEX_VECTORS: Final = ("float32", "float16")
IndexVectors = Literal["float32", "float16"]
_AGAIN: Final = "build the index again with sbert-ft index"


@dataclass(frozen=True)
class IndexFile:
    """A file of an index: its name, size in bytes and SHA-256."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an index says of itself.

    Attributes:
        model: `model_digest` of the model whose vectors it has.
        model_path: The model's folder, absolute.
        count: Number of vectors, n.
        dimension: Width of a vector, d.
        vectors: Their type.
        has_ids: Whether ids were given; otherwise they are the numbers of the rows, from 0.
        has_texts: Whether it has texts.
        columns: Names of the other columns.
        method: How it is searched.
        parameters: Of the method.
        recall_at_10: Share of the 10 nearest vectors that the method found for sampled vectors before they were added;
            None where there are too few.
        files: Its files: vectors, texts, and approximate unless the method is exact.
        version: Counts the times that it was written.
    """

    model: str
    model_path: str
    count: int
    dimension: int
    vectors: IndexVectors
    has_ids: bool
    has_texts: bool
    columns: tuple[str, ...]
    method: Any
    parameters: Mapping[str, int]
    recall_at_10: float | None
    files: Mapping[str, IndexFile] = field(default_factory=dict)
    version: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {"format": FORMAT, **asdict(self), "columns": list(self.columns)}

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Return the manifest of an index; the sizes of its files are compared.

        Raises:
            DataError: The folder is no index, one of another version, or its manifest or a file is damaged.
        """
        file = folder / MANIFEST
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing"
            raise DataError(f"{shown(folder)} is not a search index: expected a folder, found {found}", _AGAIN)
        if not file.is_file():
            raise DataError(f"{shown(folder)} is not a search index: it has no {MANIFEST}", _AGAIN)
        try:
            manifest = cls._of(JsonObject(read_json(file), "index", file))
        except ModelFolderError as error:
            raise DataError(error.problem, _AGAIN) from error
        for stored in manifest.files.values():
            path = folder / stored.name
            found = f"{path.stat().st_size:,} bytes" if path.is_file() else "no such file"
            if found != f"{stored.bytes:,} bytes":
                raise DataError(f"{shown(path)}: expected {stored.bytes:,} bytes, found {found}", _AGAIN)
        return manifest

    @classmethod
    def _of(cls, json: JsonObject) -> Manifest:
        if json.value("format") != FORMAT:
            raise json.fault("format", f"{FORMAT}: another version of sbert_ft wrote it")
        json.refuse_all_but(("format", *cls.__dataclass_fields__))
        method = json.word("method", METHODS)
        files = json.inner("files")
        names = ("vectors", "texts") if method == "exact" else ("vectors", "texts", "approximate")
        files.refuse_all_but(names)
        columns, parameters = json.value("columns"), json.inner("parameters")
        if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
            raise json.fault("columns", "a list of names")
        for key in ("has_ids", "has_texts"):
            if not isinstance(json.value(key), bool):
                raise json.fault(key, "true or false")
        return cls(
            model=json.text("model"),
            model_path=json.text("model_path"),
            count=json.whole("count"),
            dimension=json.whole("dimension"),
            vectors=json.word("vectors", INDEX_VECTORS),  # type: ignore[arg-type]
            has_ids=json.value("has_ids"),
            has_texts=json.value("has_texts"),
            columns=tuple(columns),
            method=method,
            parameters={name: parameters.whole(name) for name in parameters.content},
            recall_at_10=json.number_or_none("recall_at_10", 0.0, 1.0),
            files={name: _file(files.inner(name)) for name in names},
            version=json.whole("version"),
        )


def _file(json: JsonObject) -> IndexFile:
    json.refuse_all_but(("name", "bytes", "sha256"))
    if not re.fullmatch(r"[a-z]+(-\d+)?\.[a-z]+", json.text("name")):  # in the folder, and none of another's
        raise json.fault("name", "a file in the folder")
    return IndexFile(json.text("name"), json.whole("bytes"), json.text("sha256"))


def describe_method(manifest: Manifest) -> str:
    """Return "exact", or "usearch (connectivity 16, ...), recall@10 0.987"."""
    if manifest.method == "exact":
        return "exact"
    values = ", ".join(f"{quoted(name)[1:-1]} {value}" for name, value in manifest.parameters.items())
    recall = "" if manifest.recall_at_10 is None else f", recall@10 {manifest.recall_at_10:.4f}"
    return f"{manifest.method} ({values}){recall}"
