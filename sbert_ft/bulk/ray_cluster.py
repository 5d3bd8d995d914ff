"""Shards encoded on a Ray cluster: Ray Data gives each shard to an actor that holds the model.

What is done is told by the folder's shards, as everywhere, and not by Ray. So a killed worker costs the shard that it
was encoding, which Ray gives to another one; and after a killed driver, to resume encodes what is missing. All machines
have sbert_ft, and see the model, the inputs and the folder at the same paths (a shared file system).
"""

from __future__ import annotations

import logging
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sbert_ft.bulk.encode_shard import encode_shard
from sbert_ft.bulk.inputs import InputFile, RowStream, TextReading
from sbert_ft.bulk.workers import LoadModel, load_in_worker
from sbert_ft.errors import DataError, ResourceError, SbertFtError, shown
from sbert_ft.models.sentence_encoder import SentenceEncoder
from sbert_ft.vectors.shard_plan import ShardPlan
from sbert_ft.vectors.shards import ShardFacts, shard_facts

logger = logging.getLogger(__name__)

_MOST_TRIES: Final = 5  # of a shard, since Ray itself would start killed workers for ever


@dataclass(frozen=True)
class RayTask:
    """What every worker is told.

    Attributes:
        load: Returns the model on a device.
        device: For the model; None where each worker has a GPU of its own.
        folder: Of the vectors.
        plan: The folder's.
        inputs: The files of texts.
        reading: How they are read.
        directory: From which relative paths are meant.
        n_threads: Of each worker.
        tries: The actor that counts how often each shard was begun.
    """

    load: LoadModel
    device: str | None
    folder: Path
    plan: ShardPlan
    inputs: tuple[Path, ...]
    reading: TextReading
    directory: str
    n_threads: int = 1
    tries: Any = None


class Tries:
    """Ray's actor that counts how often each shard was begun."""

    def __init__(self) -> None:
        """Begin with none."""
        self._counts: Counter[int] = Counter()

    def begin(self, shard: int) -> int:
        """Return how often the shard was begun, this time included."""
        self._counts[shard] += 1
        return self._counts[shard]


class ShardEncoder:
    """A worker, Ray's actor: loads the model with its first shard, and reads the inputs forward for the others."""

    def __init__(self, task: RayTask) -> None:
        """Take the task; nothing is loaded yet."""
        self._task = task
        self._model: SentenceEncoder | None = None
        self._rows: RowStream | None = None
        self._last = -1  # the shard whose rows were read last

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode the shard of this number; return its facts, or the error of ours, pickled."""
        said: ShardFacts | SbertFtError
        try:
            said = self._facts(int(row["shard"]))
        except SbertFtError as error:
            said = error
        return {"said": pickle.dumps(said)}

    def _facts(self, shard: int) -> ShardFacts:
        import ray

        task = self._task
        if self._model is None:
            os.chdir(task.directory)
            self._model = load_in_worker(task.load, task.device, task.n_threads, task.plan)
        # a worker that was killed after the last write has not said so
        if (there := shard_facts(task.folder, task.plan, shard)) is not None:
            return there
        if ray.get(task.tries.begin.remote(shard)) > _MOST_TRIES:
            problem = f"shard {shard} was begun {_MOST_TRIES} times, and each time its worker was killed"
            raise ResourceError(problem, "perhaps for lack of memory: give fewer --workers, and --resume")
        if self._rows is None or shard <= self._last:
            files = [InputFile(path, task.reading) for path in task.inputs]
            for file, planned in zip(files, task.plan.inputs, strict=True):
                if file.sha256 != planned.sha256:
                    raise DataError("differs from the file that was planned", "did it change?", where=shown(file.path))
            self._rows = RowStream(files, task.plan)
        rows, self._last = self._rows.rows(task.plan.rows_of(shard)), shard
        return encode_shard(self._model, task.folder, task.plan, shard, rows)


def encode_on_ray(
    task: RayTask, shards: Sequence[int], n_workers: int | None, advance: Callable[[int], None]
) -> list[ShardFacts]:
    """Encode shards on the cluster of ``RAY_ADDRESS``, one that runs on this machine, or a new one on this machine.

    Args:
        task: What every worker is told; `device` and `n_threads` are chosen here where `device` is None.
        shards: Their numbers.
        n_workers: None for one on each GPU, or on each CPU but one, which Ray Data needs for itself.
        advance: Called with the number of texts of each shard that is done.

    Returns:
        The facts of the shards, in the order in which they were done.

    Raises:
        SbertFtError: What a worker raised.
        ResourceError: The workers of a shard were killed again and again, or the cluster is gone.
    """
    import ray.data
    from ray.exceptions import RayError

    done: list[ShardFacts] = []
    with _connected():
        n, resources, task = _shared(task, min(n_workers or len(shards), len(shards)))
        workers = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards)).map(
            ShardEncoder,
            fn_constructor_args=(task,),
            compute=ray.data.ActorPoolStrategy(size=n, max_tasks_in_flight_per_actor=1),
            **resources,
        )
        try:
            for row in workers.iter_rows():
                said = pickle.loads(row["said"])  # from our own workers
                if isinstance(said, SbertFtError):
                    raise said
                done.append(said)
                advance(said.n_rows)
        except RayError as error:
            cause = str(error).strip().splitlines()[0]
            hint = "the shards that are done stay: go on with --resume, or with fewer --workers if memory ran out"
            raise ResourceError(f"the Ray cluster gave up: {cause}", hint) from error
    return done


@contextmanager
def _connected() -> Iterator[None]:
    """Context with a connection to a Ray cluster; one that the caller has already is left open."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    if ray.is_initialized():
        yield
        return
    ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _shared(task: RayTask, most: int) -> tuple[int, dict[str, float], RayTask]:
    """Return how many workers there are, at most `most`, what each takes of the cluster, and the task with it."""
    import ray

    total = ray.cluster_resources()
    task = replace(task, tries=ray.remote(Tries).options(num_cpus=0, max_restarts=-1).remote())
    if task.device is None and total.get("GPU", 0) >= 1:
        return min(most, int(total["GPU"])), {"num_gpus": 1}, task
    free = max(1, int(total.get("CPU", 1)) - 1)
    n = min(most, free)
    smallest = min(int(node["Resources"].get("CPU", 0)) or free for node in ray.nodes() if node["Alive"])
    n_cpus = max(1, min(free // n, smallest))
    return n, {"num_cpus": n_cpus}, replace(task, device=task.device or "cpu", n_threads=n_cpus)
