"""Folders of vectors in Parquet shards: each shard is written whole or not at all, and read back in blocks.

A shard has the columns id and vector (a list of fixed size), and in its footer its plan's digest and that of its ids
and vectors. So a shard can be told from one of another run without any other file, and processes on several machines
write into one folder without a lock. When all shards are there, manifest.json lists them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.errors import DataError, ModelFolderError, shown
from sbert_ft.files.atomic import json_bytes, writing
from sbert_ft.files.file_lock import remove_unheld, whole_held_file
from sbert_ft.files.strict_json import JsonObject, parse_json, read_json
from sbert_ft.vectors.nearest import Vectors
from sbert_ft.vectors.quantization import Quantizer
from sbert_ft.vectors.shard_plan import FORMAT, PLAN_FILE, ShardPlan, check_format, json_faults

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

MANIFEST_FILE: Final = "manifest.json"
_KEY: Final = b"sbert_ft"
_MOST_BYTES: Final = 2**30  # of a manifest: a million shards
_AGAIN: Final = "delete it and encode again with --resume"


@dataclass(frozen=True)
class ShardFacts:
    """What a shard says of itself.

    Attributes:
        shard: Its number, from 0.
        n_rows: Its texts.
        n_tokens: Tokens that went through the encoder.
        n_cut: Texts that were longer than the model reads.
        sha256: Of its ids and vectors (not of the file's bytes, which depend on the version of pyarrow).
    """

    shard: int
    n_rows: int
    n_tokens: int
    n_cut: int
    sha256: str

    @classmethod
    def from_json(cls, json: JsonObject) -> ShardFacts:
        """Return the facts of a JSON object; a `ModelFolderError` names what is wrong with it."""
        shard, n_rows, n_tokens, n_cut = map(json.whole, ("shard", "n_rows", "n_tokens", "n_cut"))
        return cls(shard, n_rows, n_tokens, n_cut, json.text("sha256"))


class ContentDigest:
    """Digest of ids and vectors, the same however they are cut into blocks."""

    def __init__(self) -> None:
        self._ids, self._vectors = hashlib.sha256(), hashlib.sha256()

    def update(self, ids: Sequence[int] | Sequence[str], stored: NDArray[Any]) -> None:
        """Add rows."""
        texts = [value.encode() for value in ids if isinstance(value, str)]
        self._ids.update(
            b"".join(len(text).to_bytes(4, "little") + text for text in texts)
            if texts
            else np.asarray(ids, "<i8").tobytes()
        )
        self._vectors.update(np.ascontiguousarray(stored).data)

    def hexdigest(self) -> str:
        """Return the digest as hexadecimal digits."""
        return hashlib.sha256(self._ids.digest() + self._vectors.digest()).hexdigest()


class VectorWriter:
    """Appends row groups of ids and vectors to a Parquet file."""

    def __init__(self, path: Path, quantizer: Quantizer, has_text_ids: bool) -> None:
        """Begin the file, which `vector_writer` ends."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        item = pa.field("element", pa.from_numpy_dtype(quantizer.dtype), nullable=False)
        self.schema = pa.schema(
            [
                pa.field("id", pa.string() if has_text_ids else pa.int64(), nullable=False),
                pa.field("vector", pa.list_(item, quantizer.width), nullable=False),
            ]
        )
        self.path, self._quantizer, self.digest, self.n_rows = path, quantizer, ContentDigest(), 0
        with writing(path):
            # Numbers and ids hardly repeat, so a dictionary would only cost time. Parquet has small whole numbers as
            # 4 bytes each; as packed differences they take about as many bits as they have.
            packed = {"column_encoding": {"vector.list.element": "DELTA_BINARY_PACKED"}, "compression": "zstd"}
            is_whole = quantizer.dtype.kind != "f"
            self.file = pq.ParquetWriter(path, self.schema, use_dictionary=False, **(packed if is_whole else {}))

    def append(self, ids: Sequence[int] | Sequence[str], vectors: Vectors) -> None:
        """Append vectors, shape (n, d), and their ids."""
        import pyarrow as pa

        stored = self._quantizer.encode(vectors)
        column: pyarrow.Array = pa.array(ids, self.schema.types[0])
        lists = pa.FixedSizeListArray.from_arrays(pa.array(stored.reshape(-1)), type=self.schema.types[1])
        with writing(self.path):
            self.file.write_batch(pa.RecordBatch.from_arrays([column, lists], schema=self.schema))
        self.digest.update(ids, stored)
        self.n_rows += len(stored)


@contextmanager
def vector_writer(path: Path, quantizer: Quantizer, has_text_ids: bool) -> Iterator[VectorWriter]:
    """Context with a writer of the columns id and vector to the Parquet file `path`."""
    writer = VectorWriter(path, quantizer, has_text_ids)
    try:
        yield writer
        with writing(path):
            writer.file.close()
    finally:
        with suppress(OSError):  # closed already, or another error is being raised
            writer.file.close()


class ShardWriter:
    """Appends rows to a shard; `facts` are those of the finished shard."""

    def __init__(self, writer: VectorWriter) -> None:
        self.append = writer.append
        self.n_tokens = self.n_cut = 0
        self.facts: ShardFacts | None = None


@contextmanager
def shard_writer(folder: Path, plan: ShardPlan, shard: int) -> Iterator[ShardWriter]:
    """Context with a writer of a shard, which is there, whole, when the block ends, and not there after an error.

    Raises:
        OutputError: It cannot be written.
        DataError: It got another number of rows than planned.
    """
    target = folder / plan.file_of(shard)
    with whole_held_file(target) as temporary:
        with vector_writer(temporary, plan.quantizer, plan.has_text_ids) as writer:
            found = ShardWriter(writer)
            yield found
            if writer.n_rows != len(plan.rows_of(shard)):
                problem = f"expected {len(plan.rows_of(shard)):,} texts for it, found {writer.n_rows:,}"
                raise DataError(problem, "did an input change meanwhile?", where=shown(target))
            facts = ShardFacts(shard, writer.n_rows, found.n_tokens, found.n_cut, writer.digest.hexdigest())
            footer = json.dumps({**asdict(facts), "plan": plan.sha256})
            writer.file.add_key_value_metadata({_KEY: footer.encode()})
        found.facts = facts


def shard_facts(folder: Path, plan: ShardPlan, shard: int) -> ShardFacts | None:
    """Return what a shard's footer says, None where the shard is not there; no vector is read.

    Raises:
        DataError: It is cut short or damaged, or belongs to another plan.
    """
    path = folder / plan.file_of(shard)
    if not os.path.lexists(path):
        return None
    with _opened(path) as file:
        return _facts_of(path, file, plan, shard)


def finished(folder: Path, plan: ShardPlan) -> ShardSet | None:
    """Write the manifest if all shards are there, and return the set of them, else None.

    Several processes may come to this at once: they write the same.

    Raises:
        DataError: A shard is damaged or belongs to another plan.
        OutputError: The manifest cannot be written.
    """
    if any(not os.path.lexists(folder / plan.file_of(shard)) for shard in range(plan.n_shards)):
        return None
    shards = [shard_facts(folder, plan, shard) for shard in range(plan.n_shards)]
    if None in shards:
        return None
    found = ShardSet(folder, plan, tuple(facts for facts in shards if facts is not None))
    remove_unheld(folder)
    data = json_bytes(found.to_json())
    if not (folder / MANIFEST_FILE).is_file() or (folder / MANIFEST_FILE).read_bytes() != data:
        with whole_held_file(folder / MANIFEST_FILE) as temporary, writing(folder / MANIFEST_FILE):
            temporary.write_bytes(data)
    return found


@dataclass(frozen=True)
class VectorBlock:
    """Some rows of a shard.

    Attributes:
        first: The number of the first row over all shards.
        ids: Of the rows.
        stored: Their vectors as they are stored, shape (n, `Quantizer.width`).
    """

    first: int
    ids: Sequence[int] | Sequence[str]
    stored: NDArray[Any]


@dataclass(frozen=True)
class ShardSet:
    """A finished folder of vectors.

    Attributes:
        folder: Its path.
        plan: What its vectors are made of.
        shards: What each shard says of itself.
    """

    folder: Path
    plan: ShardPlan
    shards: tuple[ShardFacts, ...]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> ShardSet:
        """Return the vectors of a folder; the files of the shards are looked at when they are read.

        Raises:
            DataError: The folder is not finished, its manifest is damaged or of another version, or a shard is missing.
        """
        place = Path(folder)
        path = place / MANIFEST_FILE
        if not path.exists():
            if not (place / PLAN_FILE).exists():
                raise DataError("is no folder of vectors: it has no manifest.json", where=shown(place))
            plan = ShardPlan.read(place)
            n = sum((place / plan.file_of(shard)).exists() for shard in range(plan.n_shards))
            problem = f"is not finished: {n:,} of {plan.n_shards:,} shards are there"
            raise DataError(problem, "finish it with sbert-ft encode --resume", where=shown(place))
        with json_faults():
            json = JsonObject(read_json(path, _MOST_BYTES), "manifest", path)
            check_format(json)
            plan, listed = ShardPlan.from_json(json.inner("plan")), json.value("shards")
            if not isinstance(listed, list) or len(listed) != plan.n_shards:
                raise json.fault("shards", f"a list of {plan.n_shards} shards")
            shards = tuple(ShardFacts.from_json(JsonObject(item, "manifest.shards", path)) for item in listed)
            for place_of, facts in enumerate(shards):
                if (facts.shard, facts.n_rows) != (place_of, len(plan.rows_of(place_of))):
                    raise json.fault("shards", "the shards of its plan, in order")
        for facts in shards:
            if not (place / plan.file_of(facts.shard)).exists():
                raise DataError("is missing", "encode it again with --resume", where=_place(place, plan, facts))
        return cls(place, plan, shards)

    @property
    def n_rows(self) -> int:
        """Vectors of all shards."""
        return self.plan.n_rows

    def to_json(self) -> dict[str, Any]:
        """Return the manifest."""
        counts = {name: sum(getattr(facts, name) for facts in self.shards) for name in ("n_rows", "n_tokens", "n_cut")}
        return {
            "format": FORMAT,
            **counts,
            "plan": self.plan.to_json(),
            "shards": [asdict(facts) for facts in self.shards],
        }

    def blocks(self, n_rows: int = 16_384, *, check: bool = False) -> Iterator[VectorBlock]:
        """Yield the rows in order, at most `n_rows` at a time; `plan.quantizer.decode` makes float32 of them.

        With `check` the digest of each shard is compared when it was read.

        Raises:
            DataError: A shard is cut short, damaged or of another run, or holds NaN.
        """
        for facts in self.shards:
            yield from self._blocks(facts, n_rows, check)

    def _blocks(self, facts: ShardFacts, n_rows: int, check: bool) -> Iterator[VectorBlock]:
        path, quantizer = self.folder / self.plan.file_of(facts.shard), self.plan.quantizer
        first, digest = self.plan.rows_of(facts.shard).start, ContentDigest()
        with _opened(path) as file:
            if _facts_of(path, file, self.plan, facts.shard) != facts:
                raise DataError("is not the shard that manifest.json lists", _AGAIN, where=shown(path))
            batches = file.iter_batches(n_rows)
            while True:
                with _reading(path):
                    batch = next(batches, None)
                if batch is None:
                    break
                flat = batch.column(1).flatten().to_numpy(zero_copy_only=False)
                stored, ids = flat.reshape(len(batch), quantizer.width), batch.column(0).to_pylist()
                if stored.dtype.kind == "f" and not np.isfinite(stored).all():
                    row = int(np.flatnonzero(~np.isfinite(stored).all(1))[0])
                    raise DataError(f"row {first + row:,}: the vector holds NaN or infinity", _AGAIN, where=shown(path))
                if check:
                    digest.update(ids, stored)
                yield VectorBlock(first, ids, stored)
                first += len(batch)
        if check and digest.hexdigest() != facts.sha256:
            raise DataError("has changed since it was written: its digest differs", _AGAIN, where=shown(path))


def _place(folder: Path, plan: ShardPlan, facts: ShardFacts) -> str:
    return shown(folder / plan.file_of(facts.shard))


def _facts_of(path: Path, file: pyarrow.parquet.ParquetFile, plan: ShardPlan, shard: int) -> ShardFacts:
    """Return what the footer of an open shard says, checked against its plan and the file's columns."""
    footer, schema = file.metadata, file.schema_arrow
    try:
        said = JsonObject(parse_json((footer.metadata or {})[_KEY], shown(path)), "footer", path)
        facts, of_plan = ShardFacts.from_json(said), said.text("plan")
    except (KeyError, ModelFolderError):
        raise DataError("is no shard of sbert-ft encode", _AGAIN, where=shown(path)) from None
    if of_plan != plan.sha256 or facts.shard != shard:
        raise DataError("is a shard of another run", _AGAIN, where=shown(path))
    width = getattr(schema.field("vector").type, "list_size", None) if "vector" in schema.names else None
    if schema.names != ["id", "vector"] or width != plan.quantizer.width or footer.num_rows != facts.n_rows:
        raise DataError("has other columns or rows than its plan says", _AGAIN, where=shown(path))
    return facts


@contextmanager
def _opened(path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    import pyarrow.parquet as pq

    with _reading(path):
        file = pq.ParquetFile(path)
    with file:
        yield file


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn an error from reading a shard in the block into a `DataError`."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, FileNotFoundError):
            raise DataError("is missing", "encode it again with --resume", where=shown(path)) from None
        raise DataError("is cut short or damaged", _AGAIN, where=shown(path)) from error
