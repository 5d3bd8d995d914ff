"""Join the processes that torchrun has started to one run, and end all of them when one ends.

torchrun starts the same command some times and gives each process a number (RANK) and the address of a store, a small
table that all can read. A thread of each process writes there every second that it is alive and what it is doing. A
process that is silent for `SILENT_SECONDS`, or that a collective has lost, ends the run in all others, with one
sentence. So does an error: the process that has it writes it to the store, the others raise it at their next exchange,
and the first one prints it; the others end without a word (`ReportedElsewhere`).

The thread cannot see whether the main thread of a living process hangs; after `_LONGEST_WAIT` for it the run ends too.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Final, NoReturn

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed.rendezvous import rendezvous

from sbert_ft.encoder.ranks import Ranks
from sbert_ft.errors import (
    InputError,
    ReportedElsewhere,
    ResourceError,
    RunInterrupted,
    SbertFtError,
    TrainingError,
    quoted,
)

SILENT_SECONDS: Final = 20
"""After so long without a sign of life a process counts as lost; SBERT_FT_SILENT_SECONDS replaces it."""
_BEAT_SECONDS = 1.0
_RANKS_A_BEAT = 64  # with more processes the beats are rarer, so that the store has no more to do
_GRACE_SECONDS = 15.0  # for the main thread to reach its next exchange after the run has failed
_JOIN = timedelta(minutes=5)
_LONGEST_WAIT = timedelta(minutes=30)
_GONE = "ended"


def n_processes() -> int:
    """Return how many processes torchrun has started, by the environment variable WORLD_SIZE; 1 without it."""
    return _number("WORLD_SIZE", 1)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other processes of this run, if torchrun has started several, and end with them.

    In processes other than the first nothing is logged in the block, which ends in all of them at the same time. A
    script may join again afterwards; on CUDA devices not after an error.

    Raises:
        InputError: The environment does not say which process this is.
        ResourceError: The others did not come.
        ReportedElsewhere: In other processes than the one that tells the user: the run has failed.
        TrainingError, RunInterrupted: Another process was lost, had an error or was ended by a signal.
    """
    if n_processes() == 1:
        yield Ranks()
        return
    watch = _join()
    ours = logging.getLogger("sbert_ft")
    level = ours.level
    try:
        if watch.rank:
            ours.setLevel(logging.CRITICAL + 1)
        ranks = Ranks(watch.rank, watch.size, _number("LOCAL_WORLD_SIZE", 1), watch)
        ranks.doing("the joining of all processes")
        ranks.most([0])  # an error of one that is there already must not cut off another that still connects
        yield ranks
        ranks.doing("the end")
        ranks.most([0])  # until the first process has written everything
    except BaseException as error:
        end = watch.farewell(error)
        # so that a script can go on; it waits for an exchange that is under way until the others have left it, which
        # one that is lost never does, and NCCL's do not
        if not watch.has_lost and not torch.cuda.is_available():
            dist.destroy_process_group()
        if end is error:
            raise
        raise end from None
    finally:
        ours.setLevel(level)
        watch.close()
    dist.destroy_process_group()


def check_device(ranks: Ranks, device: torch.device) -> None:
    """Check that each process has a device of its own.

    Raises:
        InputError: Processes of one machine share a card, or the device is not for several.
    """
    if ranks.size == 1 or device.type == "cpu":
        return
    local, n_cards = _number("LOCAL_RANK", 0), torch.cuda.device_count()
    if device.type != "cuda":
        raise InputError(f"several processes train on CUDA cards or on CPUs, not on {device}", "set training.device")
    if ranks.n_local > n_cards:
        raise InputError(
            f"{ranks.n_local} processes were started on a machine with {n_cards} CUDA cards, expected one for each",
            f"start it with torchrun --nproc-per-node {n_cards}, or set training.device to cpu",
        )
    if device.index != local:
        raise InputError(
            f"process {ranks.rank} trains on {device}, but the card of process {local} of a machine is cuda:{local}",
            "leave training.device out; in Python load the model on cuda:LOCAL_RANK",
        )


def _number(name: str, default: int | None = None) -> int:
    """Return an environment variable as a number; an `InputError` if it is none."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdigit():
        found = "is not set" if text is None else f"is {quoted(text)}"
        raise InputError(
            f"the environment variable {name} {found}, expected a number: this is one of several processes of a run, "
            "by WORLD_SIZE",
            "start them with torchrun, which sets RANK and WORLD_SIZE, or unset WORLD_SIZE",
        )
    return int(text)


def _join() -> Watch:
    """Return the watch of this process, after all have come; the default group of torch.distributed is then there."""
    rank, size, port = _number("RANK"), _number("WORLD_SIZE"), _number("MASTER_PORT")
    host = os.environ.get("MASTER_ADDR", "localhost")
    if dist.is_initialized():
        raise InputError(
            "torch.distributed is in use already; sbert_ft joins the processes itself",
            "leave init_process_group out",
        )
    where = f"process {rank} of {size}"
    if rank >= size:
        raise InputError(f"RANK is {rank}, but WORLD_SIZE is {size}", "start the processes with torchrun")
    try:
        made, _, _ = next(iter(rendezvous("env://", timeout=_JOIN)))
        # a connection of its own, since one that waits answers nothing else
        client = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=_JOIN)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        n_runs = client.add(f"sbert_ft/{attempt}/{rank}", 1)  # a script may train more than once
        place = f"sbert_ft/{attempt}/{n_runs}"
        store = PrefixStore(place, client)
        watch = Watch(rank, size, store)
        watch.beat()
        keys = [watch.key(other) for other in range(size)]
        try:
            store.wait(keys, _JOIN)
        except RuntimeError:
            missing = [str(other) for other, key in enumerate(keys) if not store.check([key])]
            raise ResourceError(
                f"{where} waited {int(_JOIN.total_seconds())} s for the processes {', '.join(missing[:8])}, which did "
                "not start",
                "look at what they said, and at the addresses and ports given to torchrun",
            ) from None
        watch.listen()
        backend = "gloo"
        if torch.cuda.is_available():
            backend = "cpu:gloo,cuda:nccl"
            if (local := _number("LOCAL_RANK", 0)) < torch.cuda.device_count():
                torch.cuda.set_device(local)
        group = PrefixStore(f"{place}/group", made)
        dist.init_process_group(backend, store=group, rank=rank, world_size=size, timeout=_LONGEST_WAIT)
    except SbertFtError:
        raise
    except (RuntimeError, ValueError) as error:
        raise ResourceError(
            f"{where} did not reach the others at {quoted(f'{host}:{port}')}: {quoted(error, limit=200)}",
            "start all of them with torchrun, with the same address",
        ) from error
    watch.start()
    return watch


@dataclass(frozen=True)
class Ending:
    """Why the run ends, as one process tells the others.

    Attributes:
        sentence: The message for the user.
        code: The exit code.
        lost: The processes that are lost, if that is why.
    """

    sentence: str
    code: int
    lost: tuple[int, ...] = ()

    def error(self) -> SbertFtError:
        """Return it as an exception."""
        return RunInterrupted(self.sentence, self.code - 128) if self.code > 128 else TrainingError(self.sentence)


class Watch(threading.Thread):
    """The thread that says that this process is alive, and listens whether the others are.

    Attributes:
        rank: The number of this process.
        size: How many there are.
        doing: What this process does, in words.
        ending: Why the run ends; None while it goes on.
    """

    def __init__(self, rank: int, size: int, store: Store) -> None:
        super().__init__(name="sbert_ft-watch", daemon=True)
        self.rank, self.size, self.store = rank, size, store
        self.doing = "the beginning"
        self.ending: Ending | None = None
        self._n_beats, self._closing = 0, threading.Event()
        self._seconds = _BEAT_SECONDS * max(1.0, size / _RANKS_A_BEAT)
        self._silent_seconds = max(3 * self._seconds, _number("SBERT_FT_SILENT_SECONDS", SILENT_SECONDS))
        self._heard: dict[int, tuple[str, float]] = {}  # the last beat of each process, and when it was heard
        self._has_failed = False
        self._handlers: dict[int, Any] = {}
        self._process = f"process {os.getpid()} on {socket.gethostname()}"

    @property
    def has_lost(self) -> bool:
        """Whether the run has ended because a process is lost."""
        return self.ending is not None and bool(self.ending.lost)

    def key(self, rank: int) -> str:
        """Return the name of a process's entry in the store."""
        return f"beat/{rank}"

    def beat(self) -> None:
        """Write to the store that this process is alive."""
        self._n_beats += 1
        self.store.set(self.key(self.rank), json.dumps([self._n_beats, self.doing, self._process]))

    def run(self) -> None:
        """Beat and listen until `close`; end the process if the run has failed and the main thread does not notice."""
        failed_at, answered_at = None, time.monotonic()
        while not self._closing.wait(self._seconds):
            try:
                self.beat()
                if self.store.check(["ending"]):
                    self._hear_ending()
                self.listen()
                answered_at = time.monotonic()
            except RuntimeError:  # nobody answers: its process has ended, or the network is down
                if self._closing.is_set():
                    return
                if time.monotonic() - answered_at > self._silent_seconds and self.ending is None:
                    self.ending = Ending(f"the store of the run, which torchrun keeps, is gone; {_ON}", 2, (-1,))
            if self.ending is None and (silent := self._silent(self._silent_seconds)):
                self.tell(self._lost(silent, f"nothing was heard from it for {self._silent_seconds:.0f} s"))
            if self.ending is not None:
                failed_at = failed_at or time.monotonic()
                if time.monotonic() - failed_at > _GRACE_SECONDS and not self._has_failed:
                    self._end_at_once(self.ending)

    def check(self) -> None:
        """Raise the error by which the run ends, if it does."""
        if self.ending is not None:
            raise self.ending.error()

    def blame(self, error: RuntimeError) -> NoReturn:
        """Raise the error by which the run ends, after an exchange failed with `error`: who told it, or who is lost."""
        self._look_for_lost()
        if self.ending is None:
            self.tell(Ending(f"the processes of the run lost their connection: {quoted(error, limit=200)}; {_ON}", 2))
        assert self.ending is not None
        raise self.ending.error() from None

    def tell(self, ending: Ending) -> None:
        """Tell all others why the run ends; the first one that tells it is heard."""
        with suppress(RuntimeError):
            self.store.compare_set("ending", "", json.dumps(asdict(ending)))
            self._hear_ending()
        self.ending = self.ending or ending

    def farewell(self, error: BaseException) -> BaseException:
        """Return what to raise in place of `error`, by which this process ends, after the others know of it."""
        self._ignore_signals()
        self._has_failed, code = True, _exit_code(error)
        if code > 128 and self.ending is None:
            self._look_for_lost()  # by its signal torchrun ends all after one has died
        if self.ending is None:
            what = str(error) if code != 1 else f"{type(error).__name__}: {quoted(error, limit=200)}"
            if not isinstance(error, Exception):
                what = f"the run was ended by {'Ctrl-C' if code == 130 else signal.Signals(code - 128).name}"
            where = "" if self.rank == 0 and code != 1 else f"process {self.rank} of {self.size}: "
            self.tell(Ending(where + what, code))
        assert self.ending is not None
        if self.ending.lost:
            atexit.register(_leave, code if code == 1 else self.ending.code)
        if code == 1:
            return error  # with its traceback
        speaker = next(rank for rank in range(self.size) if rank not in self.ending.lost)
        while self.rank != speaker:
            with suppress(RuntimeError):
                if self.store.check(["said"]):
                    time.sleep(self._seconds)  # torchrun ends all others as soon as one has ended
                    return ReportedElsewhere(self.ending.sentence, self.ending.code)
            if speaker in self._silent(3 * self._seconds):
                break
            time.sleep(0.1)
        with suppress(RuntimeError):
            self.store.set("said", "")
        is_own = (self.rank == 0 and isinstance(error, (SbertFtError, OSError))) or not isinstance(error, Exception)
        return error if is_own and not self.ending.lost else self.ending.error()

    def close(self) -> None:
        """End the thread; this process is no longer missed."""
        self._closing.set()
        self.doing = _GONE
        with suppress(RuntimeError):
            self.beat()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _hear_ending(self) -> None:
        content = json.loads(self.store.get("ending"))
        self.ending = Ending(**{**content, "lost": tuple(content["lost"])})

    def listen(self) -> None:
        """Read the beats of all processes."""
        now = time.monotonic()
        beats = self.store.multi_get([self.key(rank) for rank in range(self.size)])
        slept = any(now - at > self._silent_seconds for rank, (_, at) in self._heard.items() if rank == self.rank)
        for rank, content in enumerate(beats):
            beat = content.decode()
            if slept or rank not in self._heard or self._heard[rank][0] != beat:
                self._heard[rank] = beat, now

    def _silent(self, seconds: float) -> list[int]:
        """Return the processes that were not heard for so long and have not ended by themselves."""
        now = time.monotonic()
        heard = [(rank, json.loads(beat)[1], at) for rank, (beat, at) in self._heard.items()]
        return [rank for rank, doing, at in heard if rank != self.rank and doing != _GONE and now - at > seconds]

    def _look_for_lost(self) -> None:
        """Wait until another process tells why the run ends, or one is silent, or all of them were heard again."""
        began = time.monotonic()
        while self.ending is None:
            time.sleep(0.1)
            if silent := self._silent(2.5 * self._seconds):
                self.tell(self._lost(silent, "it has ended without a word, or its machine cannot be reached"))
            # what is heard first may have been written before
            if all(at > began + self._seconds for _, at in self._heard.values()):
                return

    def _lost(self, ranks: list[int], how: str) -> Ending:
        _, doing, process = json.loads(self._heard[ranks[0]][0])
        more = f" (and {len(ranks) - 1} more)" if len(ranks) > 1 else ""
        who = f"process {ranks[0]} of {self.size}{more}, {process}, was lost, last heard of in {doing}"
        return Ending(f"{who}: {how}; {_ON}", 2, tuple(ranks))

    def _end_at_once(self, ending: Ending) -> None:
        """End this process from this thread, since the main thread hangs in an exchange with a device."""
        if self.rank == next(rank for rank in range(self.size) if rank not in ending.lost):
            os.write(2, f"sbert-ft: error: {ending.sentence}\n".encode(errors="backslashreplace"))
        os._exit(ending.code)

    def _ignore_signals(self) -> None:
        """Let no signal interrupt the end of the run in this process: torchrun sends one when a process has ended."""
        if threading.current_thread() is threading.main_thread():
            wanted = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
            self._handlers = {number: signal.signal(number, signal.SIG_IGN) for number in wanted}


_ON = "find out why, then continue with --resume, or start again if there is no checkpoint"


def _exit_code(error: BaseException) -> int:
    """Return the exit code of a process that ends by this exception, as `sbert_ft.cli` has them."""
    if isinstance(error, RunInterrupted):
        return 128 + error.signal_number
    if isinstance(error, SbertFtError) or (isinstance(error, OSError) and error.errno is not None):
        return 2
    if isinstance(error, Exception):
        return 1
    number: Any = error.args[0] if error.args else signal.SIGINT
    return 128 + int(number) if isinstance(number, int) and number > 0 else 130


def _leave(code: int) -> None:
    """End the process without its other threads, one of which waits for a process that is lost."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
