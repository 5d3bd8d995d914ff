"""The plan of a folder of vectors: from what, how and in which shards they are made, in plan.json.

A plan follows from inputs, model and settings alone, so every process that works in the folder has the same one. It is
written once, before the first shard. What differs from it later (another model, a changed input) is refused by name.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from sbert_ft.errors import DataError, ModelFolderError, OutputError, quoted, shown
from sbert_ft.files.atomic import PREFIX, json_bytes, sync_folder, writing
from sbert_ft.files.file_lock import held
from sbert_ft.files.strict_json import JsonObject, read_json
from sbert_ft.vectors.quantization import Quantizer, Recall

FORMAT: Final = 1
PLAN_FILE: Final = "plan.json"
Setting = str | int | bool | None


@dataclass(frozen=True)
class InputFacts:
    """A file of texts.

    Attributes:
        name: Its name without its folders, which may have other names on another machine.
        sha256: Of its bytes.
        n_rows: Its texts.
    """

    name: str
    sha256: str
    n_rows: int


@dataclass(frozen=True)
class ShardPlan:
    """What the vectors of a folder are made of, and their shards.

    Attributes:
        model: Name of the model's folder, for people.
        model_sha256: See `model_folder.digest.model_digest`.
        engine: What runs the model: "torch float32 cpu".
        settings: How files are read and texts encoded, by name; ``id_column`` is among them.
        inputs: The files, in order; their rows are numbered from 0 over all of them.
        rows_per_shard: Rows of every shard but the last.
        quantizer: How vectors are stored.
        recall: What that costs, measured on a sample of the vectors; None for float32.
    """

    model: str
    model_sha256: str
    engine: str
    settings: Mapping[str, Setting]
    inputs: tuple[InputFacts, ...]
    rows_per_shard: int
    quantizer: Quantizer
    recall: Recall | None = None

    @property
    def n_rows(self) -> int:
        """Texts of all inputs."""
        return sum(file.n_rows for file in self.inputs)

    @property
    def n_shards(self) -> int:
        """Shards of the whole folder."""
        return -(-self.n_rows // self.rows_per_shard)

    @property
    def has_text_ids(self) -> bool:
        """Whether ids are texts of a column; otherwise they are the numbers of the rows."""
        return self.settings.get("id_column") is not None

    @property
    def sha256(self) -> str:
        """Digest of the plan, which stands in every shard."""
        return hashlib.sha256(json_bytes(self.to_json())).hexdigest()

    def rows_of(self, shard: int) -> range:
        """Return the numbers of the rows of a shard."""
        begin = shard * self.rows_per_shard
        return range(begin, min(begin + self.rows_per_shard, self.n_rows))

    def file_of(self, shard: int) -> str:
        """Return the name of the file of a shard, whose numbers begin with 0."""
        return f"vectors-{shard:05d}-of-{self.n_shards:05d}.parquet"

    def refuse_other(self, other: ShardPlan, folder: Path) -> None:
        """Refuse another plan for the `folder` that holds this one, but for ranges and recall, which follow from it.

        Raises:
            OutputError: It names the first thing that differs.
        """
        ours, theirs = _facts(self), _facts(other)
        for name in (*ours, *theirs):
            if ours.get(name) != theirs.get(name):
                found, here = _said(theirs.get(name)), _said(ours.get(name))
                raise OutputError(
                    f"{shown(folder)} holds vectors of another run: {name} was {here}, and is {found} now",
                    "give what it was, or another folder",
                )

    def created(self, folder: Path) -> ShardPlan:
        """Write the plan into `folder`, and return it; if another process was faster, return its plan.

        Raises:
            OutputError: The file cannot be written, or the other plan is for something else.
        """
        path = folder / PLAN_FILE
        temporary = folder / f"{PREFIX}{PLAN_FILE}.{secrets.token_hex(4)}"
        with writing(path), held(temporary):
            try:
                with open(temporary, "wb") as file:
                    file.write(json_bytes(self.to_json()))
                    file.flush()
                    os.fsync(file.fileno())
                try:
                    os.link(temporary, path)  # only where there is none, and whole from the first moment
                except FileExistsError:
                    pass
                except OSError:  # a file system without such links
                    if not path.exists():
                        os.replace(temporary, path)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
            sync_folder(folder)
        found = ShardPlan.read(folder)
        found.refuse_other(self, folder)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON object."""
        return {
            "format": FORMAT,
            "model": self.model,
            "model_sha256": self.model_sha256,
            "engine": self.engine,
            "settings": dict(self.settings),
            "inputs": [asdict(file) for file in self.inputs],
            "rows_per_shard": self.rows_per_shard,
            "vectors": self.quantizer.to_json(),
            "recall": None if self.recall is None else asdict(self.recall),
        }

    @classmethod
    def from_json(cls, json: JsonObject) -> ShardPlan:
        """Return the plan of a JSON object; a `ModelFolderError` names what is wrong with it."""
        check_format(json)
        settings = json.inner("settings").content
        if not all(value is None or isinstance(value, (str, int)) for value in settings.values()):
            raise json.fault("settings", "texts, whole numbers, true, false or null")
        recall = None if json.value("recall") is None else json.inner("recall")
        files = json.value("inputs")
        if not isinstance(files, list) or not files or json.whole("rows_per_shard") < 1:
            raise json.fault("inputs", "a list of files, and rows_per_shard of at least 1")
        inputs = [JsonObject(file, f"{json.path}.inputs", json.file) for file in files]
        return cls(
            model=json.text("model"),
            model_sha256=json.text("model_sha256"),
            engine=json.text("engine"),
            settings=settings,
            inputs=tuple(InputFacts(f.text("name"), f.text("sha256"), f.whole("n_rows")) for f in inputs),
            rows_per_shard=json.whole("rows_per_shard"),
            quantizer=Quantizer.from_json(json.inner("vectors")),
            recall=None
            if recall is None
            else Recall(recall.number("recall", 0, 1), *map(recall.whole, ("k", "n_queries", "n_vectors"))),
        )

    @classmethod
    def read(cls, folder: Path) -> ShardPlan:
        """Return the plan in a folder; a `DataError` if it is missing, damaged or of another version."""
        with json_faults():
            path = folder / PLAN_FILE
            return cls.from_json(JsonObject(read_json(path), "plan", path))


def check_format(json: JsonObject) -> None:
    """Refuse a JSON object of another version of the format."""
    if json.value("format") != FORMAT:
        raise json.fault("format", str(FORMAT), "another version of sbert_ft wrote it; use that one, or encode again")


@contextmanager
def json_faults() -> Iterator[None]:
    """Turn an error about a JSON file in the block, which is not a model's here, into a `DataError`."""
    try:
        yield
    except ModelFolderError as error:
        raise DataError(error.problem, error.hint, where=error.where) from error


def _facts(plan: ShardPlan) -> dict[str, Setting]:
    """Return what two plans must agree in, by names for people; what is most telling first."""
    facts: dict[str, Setting] = {"the model": plan.model_sha256, "the engine": plan.engine}
    facts["the number of inputs"] = len(plan.inputs)
    for place, file in enumerate(plan.inputs, start=1):
        facts[f"the name of input {place}"] = file.name
        facts[f"the content of input {quoted(file.name)}"] = file.sha256
    facts |= {"--vectors": plan.quantizer.type, "the dimension": plan.quantizer.dimension}
    facts["--shard-size"] = plan.rows_per_shard
    return facts | {f"the setting {name}": value for name, value in plan.settings.items()}


def _said(value: Setting) -> str:
    if isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value):
        return f"sha256 {value[:12]}"
    return "none" if value is None else quoted(value, limit=60)
