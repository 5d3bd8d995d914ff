"""Shards encoded by several processes, each with a model of its own, on one machine.

This process reads the files and hands each worker the texts of one shard at a time. So files are read once, and memory
is that of the texts of as many shards as there are workers, and one more.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Final

from sbert_ft.bulk.encode_shard import check_model, encode_shard
from sbert_ft.bulk.inputs import IdAndText
from sbert_ft.encoder.cpu import n_threads
from sbert_ft.errors import OutputError, ResourceError, SbertFtError
from sbert_ft.files.file_lock import remove_unheld
from sbert_ft.models.sentence_encoder import SentenceEncoder
from sbert_ft.vectors.shard_plan import ShardPlan
from sbert_ft.vectors.shards import ShardFacts

LoadModel = Callable[[str | None], SentenceEncoder]
"""Returns the model on a device, None for the one that it chooses; a function that pickle can send to a process."""

_SECONDS_TO_END: Final = 10.0


def encode_in_processes(
    load: LoadModel,
    devices: Sequence[str | None],
    folder: Path,
    plan: ShardPlan,
    shards: Iterable[tuple[int, Iterator[IdAndText]]],
    advance: Callable[[int], None],
) -> list[ShardFacts]:
    """Encode shards in one process for each device, and return their facts in the order in which they were done.

    Workers on a CPU share its threads. When this function ends, so have they; an error, or a signal, ends them at once.

    Raises:
        SbertFtError: What a worker raised.
        ResourceError: A worker was killed.
    """
    done: list[ShardFacts] = []
    # each is read to its end before the next, since a file is read forward; one is ready before a worker asks for it
    waiting = ((shard, list(rows)) for shard, rows in shards)
    with _started(load, devices, folder, plan) as workers:
        busy: dict[Connection, SpawnProcess] = {}
        for connection, process in workers:
            if (task := next(waiting, None)) is not None:
                _send(connection, task)
                busy[connection] = process
        ready = next(waiting, None)
        while busy:
            heard = set(wait(list(busy)))
            for connection in [connection for connection in busy if connection in heard]:
                try:
                    said = connection.recv()
                except (EOFError, OSError):
                    raise _killed(busy[connection]) from None
                if isinstance(said, int):
                    advance(said)
                    continue
                if isinstance(said, BaseException):
                    raise said
                done.append(said)
                if ready is None:
                    del busy[connection]
                    continue
                _send(connection, ready)
                ready = next(waiting, None)
    return done


def _send(connection: Connection, task: tuple[int, list[IdAndText]] | None) -> None:
    """Send a task, or None for the end; a worker that has ended does not hear it, which the next recv says."""
    with suppress(OSError):
        connection.send(task)


def _killed(process: SpawnProcess) -> ResourceError:
    process.join(_SECONDS_TO_END)
    how = f"exit code {process.exitcode}"
    if process.exitcode is not None and process.exitcode < 0:
        how = f"ended by {signal.Signals(-process.exitcode).name}, perhaps for lack of memory"
    return ResourceError(
        f"a worker process has gone ({how})",
        "the shards that are done stay: go on with --resume, or with fewer workers",
    )


@contextmanager
def _started(
    load: LoadModel, devices: Sequence[str | None], folder: Path, plan: ShardPlan
) -> Iterator[list[tuple[Connection, SpawnProcess]]]:
    """Context with the processes, which are ended after the block: after an error at once."""
    context = multiprocessing.get_context("spawn")  # a fork cannot use a GPU, nor more than one thread
    threads = max(1, n_threads() // len(devices))
    workers: list[tuple[Connection, SpawnProcess]] = []
    try:
        for device in devices:
            ours, theirs = context.Pipe()
            arguments = (theirs, load, device, threads, folder, plan)
            process = context.Process(target=_work, args=arguments, name=f"sbert_ft-{device or 'worker'}", daemon=True)
            process.start()
            theirs.close()  # so that the pipe breaks when the worker ends
            workers.append((ours, process))
        yield workers
        for connection, _ in workers:
            _send(connection, None)
    finally:
        failed = sys.exc_info()[0] is not None
        for connection, process in workers:
            connection.close()
            if failed:
                process.terminate()
        for _, process in workers:
            process.join(_SECONDS_TO_END)
            if process.is_alive():
                process.kill()
                process.join()
        if failed:
            with suppress(OutputError):  # the error that ended them is the one to show
                remove_unheld(folder)  # what they were writing


def _work(
    connection: Connection, load: LoadModel, device: str | None, threads: int, folder: Path, plan: ShardPlan
) -> None:
    """Encode the shards that come through `connection`, until None comes; what a worker process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too; the parent ends it
    try:
        model = load_in_worker(load, device, threads, plan)
        while (task := connection.recv()) is not None:
            shard, rows = task
            connection.send(encode_shard(model, folder, plan, shard, rows, connection.send))
    except SbertFtError as error:
        connection.send(error)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has gone


def load_in_worker(load: LoadModel, device: str | None, threads: int, plan: ShardPlan) -> SentenceEncoder:
    """Return the model of a worker process, which uses so many threads.

    Raises:
        InputError: It is not the plan's model, or another engine or precision runs it.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries; the parent has shown them
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if (torch := sys.modules.get("torch")) is not None:  # imported by the user's own script
        torch.set_num_threads(threads)
    model = load(device)
    check_model(model, plan)
    return model
