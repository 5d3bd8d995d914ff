"""Encode files of texts into a folder of vectors, so that a crash costs one shard.

`prepare_bulk` reads the files once, loads the model, and writes the folder's plan or compares with it; `BulkJob.run`
encodes the shards that are not there. What is done is told by the shards alone: each is whole or not there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Final, Literal

import numpy as np

from sbert_ft.arguments import whole_number, word_argument
from sbert_ft.bulk.encode_shard import encode_shard, engine_of, vector_stream
from sbert_ft.bulk.inputs import InputFile, TextReading, counted_inputs, find_inputs, rows_of_shards
from sbert_ft.bulk.ray_cluster import RayTask, encode_on_ray
from sbert_ft.bulk.workers import LoadModel, encode_in_processes
from sbert_ft.errors import InputError, OutputError, listed, shown
from sbert_ft.files.atomic import PREFIX, make_folder, writing
from sbert_ft.files.file_lock import remove_unheld
from sbert_ft.models.inference import EmbedSettings, OnTruncate
from sbert_ft.models.sentence_encoder import SentenceEncoder
from sbert_ft.vectors.quantization import VECTOR_TYPES, Quantizer, Recall, VectorType
from sbert_ft.vectors.shard_plan import PLAN_FILE, InputFacts, ShardPlan
from sbert_ft.vectors.shards import ShardFacts, ShardSet, finished, shard_facts

logger = logging.getLogger(__name__)

ROWS_PER_SHARD: Final = 100_000
_MOST_SAMPLED: Final = 20_000
_LEAST_SAMPLED: Final = 2_000


@dataclass(frozen=True)
class BulkSettings:
    """How texts become stored vectors.

    Attributes:
        reading: How files are read.
        vectors: The type in which vectors are stored.
        rows_per_shard: Texts of every shard but the last.
        prompt_name: As in `SentenceEncoder.encode`, as are `normalize`, `truncate_dim`, `batch_size`, `on_truncate`.
    """

    reading: TextReading = field(default_factory=TextReading)
    vectors: VectorType = "float32"
    rows_per_shard: int = ROWS_PER_SHARD
    prompt_name: str | None = None
    normalize: bool = False
    truncate_dim: int | None = None
    batch_size: int = 32
    on_truncate: OnTruncate = "warn"

    def __post_init__(self) -> None:
        """Check the values; raise an `InputError` for a wrong one."""
        word_argument(self.vectors, "vectors", VECTOR_TYPES)
        whole_number(self.rows_per_shard, "rows_per_shard", 1)


@dataclass(frozen=True)
class BulkPart:
    """Which shards a process encodes, and by what.

    Attributes:
        number: Of the part, from 1; its shards lie side by side.
        n_parts: How many parts there are; each may be encoded on another machine.
        resume: Whether shards may be there already; those are left as they are.
        devices: A worker process for each, None for the model's own choice; a single one is this process.
        cluster: ``ray`` for workers on a Ray cluster, of the first of `devices`; None for this machine.
        n_workers: Most workers on the cluster; None for as many as it has room for.
    """

    number: int = 1
    n_parts: int = 1
    resume: bool = False
    devices: tuple[str | None, ...] = (None,)
    cluster: Literal["ray"] | None = None
    n_workers: int | None = None

    def __post_init__(self) -> None:
        """Check the values; raise an `InputError` for a wrong one."""
        whole_number(self.n_parts, "n_parts", 1)
        whole_number(self.number, "number", 1, self.n_parts)
        if not self.devices:
            raise InputError("devices is empty", "name at least one")
        if self.cluster is not None:
            word_argument(self.cluster, "cluster", ("ray",))
            if find_spec("ray") is None:
                raise InputError("a Ray cluster needs the package ray", "pip install 'sbert-ft[ray]'")
        if self.n_workers is not None:
            whole_number(self.n_workers, "n_workers", 1)

    def shards(self, n_shards: int) -> range:
        """Return the numbers of the part's shards."""
        return range(n_shards * (self.number - 1) // self.n_parts, n_shards * self.number // self.n_parts)


@dataclass(frozen=True)
class BulkReport:
    """What was done.

    Attributes:
        encoded: The shards that this call encoded.
        n_there: Shards of its part that were there before.
        finished: The set of all shards; None while some are missing.
    """

    encoded: tuple[ShardFacts, ...]
    n_there: int
    finished: ShardSet | None


@dataclass(frozen=True)
class BulkJob:
    """Shards to encode; made by `prepare_bulk`.

    Attributes:
        folder: Of the vectors.
        plan: The folder's.
        todo: The numbers of the shards that are not there, ascending.
        n_there: Shards of the part that are there.
        files: The inputs.
        load: Returns the model on a device; a worker calls it.
        part: Which shards, and by what.
        reading: How the inputs are read.
    """

    folder: Path
    plan: ShardPlan
    todo: tuple[int, ...]
    n_there: int
    files: Sequence[InputFile]
    load: LoadModel
    part: BulkPart
    reading: TextReading
    _models: list[SentenceEncoder]  # the loaded one, taken out when workers load their own

    @property
    def n_texts(self) -> int:
        """Texts to encode."""
        return sum(len(self.plan.rows_of(shard)) for shard in self.todo)

    def run(self, advance: Callable[[int], None] = lambda n: None) -> BulkReport:
        """Encode the shards, and write the manifest if all of the folder's are there then.

        Args:
            advance: Called with the number of newly encoded texts.

        Raises:
            DataError: An input has changed meanwhile, or a shard is damaged.
            OutputError: A shard cannot be written; those before stay.
            ResourceError: A worker was killed.
        """
        shards = rows_of_shards(self.files, self.plan, self.todo)
        devices = self.part.devices[: len(self.todo)]
        if self.part.cluster is not None and self.todo:
            self._models.clear()
            paths = tuple(file.path for file in self.files)
            task = RayTask(self.load, devices[0], self.folder, self.plan, paths, self.reading, os.getcwd())
            encoded = encode_on_ray(task, self.todo, self.part.n_workers, advance)
        elif len(devices) > 1:
            self._models.clear()
            encoded = encode_in_processes(self.load, devices, self.folder, self.plan, shards, advance)
        else:
            (model,) = self._models
            encoded = [encode_shard(model, self.folder, self.plan, shard, rows, advance) for shard, rows in shards]
        return self.report(encoded)

    def report(self, encoded: Sequence[ShardFacts]) -> BulkReport:
        """Return what was done, and write the manifest if all shards of the folder are there; errors as in `run`.

        Args:
            encoded: Facts of the shards that this call's workers encoded.
        """
        if (n_cut := sum(facts.n_cut for facts in encoded)) and self.plan.settings["on_truncate"] == "warn":
            logger.warning(
                "%d of %d texts are longer than %s tokens and were cut; raise the length or let on_truncate be chunk",
                *(n_cut, sum(facts.n_rows for facts in encoded), self.plan.settings["max_seq_length"]),
            )
        return BulkReport(tuple(encoded), self.n_there, finished(self.folder, self.plan))


def encode_to_shards(
    model: str | os.PathLike[str] | LoadModel,
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output_dir: str | os.PathLike[str],
    settings: BulkSettings | None = None,
    part: BulkPart | None = None,
) -> BulkReport:
    """Encode files of texts into a folder of Parquet shards, and return what was done.

    Args:
        model: A model's folder, which torch runs; or a function from a device to a model, such as
            ``functools.partial(SiameseBert.from_pretrained, folder)``.
        inputs: Other arguments, and errors, as in `prepare_bulk` and `BulkJob.run`. With several devices the script
            that calls this needs ``if __name__ == "__main__":``.
    """
    load: LoadModel = model if callable(model) else partial(_from_folder, model)
    given = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    return prepare_bulk(load, given, output_dir, settings, part).run()


def _from_folder(folder: str | os.PathLike[str], device: str | None) -> SentenceEncoder:
    from sbert_ft.models.siamese import SiameseBert

    return SiameseBert.from_pretrained(Path(folder), device)


def prepare_bulk(
    load: LoadModel,
    inputs: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    settings: BulkSettings | None = None,
    part: BulkPart | None = None,
) -> BulkJob:
    """Return the shards to encode; the folder has its plan then.

    The files are read once to check and count their texts, unless the plan has it already. For a smaller type of
    vectors a sample of the texts is encoded, which gives the ranges of int8 and the recall.

    Args:
        load: Returns the model; called with the first device here, and with each device in its worker.
        inputs: Files, folders and patterns of files.
        folder: Made where it does not exist.
        settings: How texts become stored vectors.
        part: Which shards, and by what.

    Raises:
        DataError: A file or row cannot be used, or a shard in the folder is damaged.
        OutputError: The folder holds something else, vectors of another run, or shards without `part.resume`.
        InputError: A setting is not valid for the model.
    """
    settings, part, place = settings or BulkSettings(), part or BulkPart(), Path(folder)
    known = _plan_there(place, part)
    files = [InputFile(path, settings.reading) for path in find_inputs(inputs)]
    digests = [(file.path.name, file.sha256) for file in files]
    if known is not None and [(file.name, file.sha256) for file in known.inputs] != digests:
        known.refuse_other(replace(known, inputs=tuple(InputFacts(*digest, 0) for digest in digests)), place)
    facts = counted_inputs(files) if known is None else known.inputs
    model = load(part.devices[0])
    dimension = model.get_embedding_dimension()
    if settings.truncate_dim is not None:
        dimension = whole_number(settings.truncate_dim, "truncate_dim", 1, dimension)
    EmbedSettings(model.pooling, model.max_seq_length, settings.batch_size, settings.on_truncate)  # checks them
    encoding = {
        **asdict(settings.reading),
        "prompt": model.prompt_text(settings.prompt_name),
        "normalize": settings.normalize,
        "max_seq_length": model.max_seq_length,
        "on_truncate": settings.on_truncate,
        "batch_size": settings.batch_size,
    }
    plan = ShardPlan(
        model=model.bert.source.path.name,
        model_sha256=model.digest(),
        engine=engine_of(model),
        settings=encoding,
        inputs=facts,
        rows_per_shard=settings.rows_per_shard,
        quantizer=Quantizer(settings.vectors, dimension),
    )
    if known is not None:
        known.refuse_other(plan, place)
        plan = known
    else:
        plan = _with_quantizer(model, plan, files)
        with writing(place):
            make_folder(place)
        plan = plan.created(place)
    remove_unheld(place)
    shards = part.shards(plan.n_shards)
    there = [shard for shard in shards if shard_facts(place, plan, shard) is not None]
    if there and not part.resume:
        raise OutputError(f"{shown(place)} holds {len(there)} of these shards already", "add --resume to do the rest")
    todo = tuple(shard for shard in shards if shard not in set(there))
    return BulkJob(place, plan, todo, len(there), files, load, part, settings.reading, [model])


def _plan_there(folder: Path, part: BulkPart) -> ShardPlan | None:
    """Return the plan of a folder that may be gone on with, None for one that is empty or does not exist."""
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(PREFIX)]
    except FileNotFoundError:
        above = next((place for place in folder.absolute().parents if place.exists()), folder)
        if not os.access(above, os.W_OK | os.X_OK) or not above.is_dir():
            raise OutputError(f"cannot be made: {shown(above)} is no folder to write to", where=shown(folder)) from None
        return None
    except OSError as error:
        problem = f"cannot be a folder of vectors: {error.strerror or error}"
        raise OutputError(problem, "give another folder", where=shown(folder)) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError("cannot be written to", "allow writing, or give another folder", where=shown(folder))
    if not names:
        return None
    if PLAN_FILE not in names:
        problem = f"holds other files, and no vectors of sbert-ft encode: {listed(sorted(names), 3)}"
        raise OutputError(problem, "give a new or an empty folder", where=shown(folder))
    if not part.resume and part.n_parts == 1:
        problem = "holds vectors already, of a run that is finished or not"
        raise OutputError(problem, "add --resume to do what is missing, or give another folder", where=shown(folder))
    return ShardPlan.read(folder)


def _with_quantizer(model: SentenceEncoder, plan: ShardPlan, files: Sequence[InputFile]) -> ShardPlan:
    """Return the plan with the ranges and the recall of a smaller type, from a sample of the texts.

    The sample is drawn from all texts, without regard to their order: a twentieth, at least 2,000, at most 20,000.
    """
    if plan.quantizer.type == "float32":
        return plan
    n_sampled = min(plan.n_rows, max(_LEAST_SAMPLED, min(plan.n_rows // 20, _MOST_SAMPLED)))
    generator = np.random.default_rng(0)
    chosen = np.sort(generator.choice(plan.n_rows, n_sampled, replace=False))
    every = chain.from_iterable(rows for _, rows in rows_of_shards(files, plan, range(plan.n_shards)))

    def texts() -> Iterator[str]:
        wanted = iter(chosen.tolist())
        following = next(wanted)
        for number, (_, text) in enumerate(every):
            if number == following:
                yield text
                following = next(wanted, -1)

    parts = [model.bert.operations.to_numpy(part) for part in vector_stream(model, plan, texts())]
    sample = np.concatenate(parts)[generator.permutation(n_sampled)]  # the queries are its first rows
    quantizer = Quantizer.fitted(plan.quantizer.type, sample)
    return replace(plan, quantizer=quantizer, recall=Recall.measured(quantizer, sample))
