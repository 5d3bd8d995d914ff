"""What a model needs to outlive a fork, and to be copied: locks, threads, and nothing that only this process can use.

A fork copies memory but of all threads only the one that calls it. Three things then wait forever in the child: OpenMP
for the pool of threads that torch computes with, the Rust tokenizer for its own, and whoever wants a lock that another
thread held. So a forked child computes with one thread, tokenises with one, and finds every lock open. A process that
is to compute with more threads is spawned.
"""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType
from typing import Any

import torch

from sbert_ft.encoder.attention import register_attention
from sbert_ft.encoder.mixed_precision import STEPS

# Read by the Rust tokenizer at each call.
_TOKENIZER_THREADS = "TOKENIZERS_PARALLELISM"


class ForkSafeLock:
    """A lock that is open in a forked child, whoever held it, and that a copy or another process has anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        FORKS.locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[ForkSafeLock], tuple[()]]:
        return ForkSafeLock, ()

    def open_anew(self) -> None:
        """Be a lock that nobody holds."""
        self._lock = threading.Lock()


class Forks:
    """Makes forked children of this process fit to compute, from `start` on.

    Attributes:
        locks: All that are to be open in a child.
    """

    def __init__(self) -> None:
        self.locks: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()
        self._started = False

    def start(self) -> None:
        """Begin to look after forks; once is enough, again changes nothing."""
        if not self._started and hasattr(os, "register_at_fork"):  # there are no forks on Windows
            os.register_at_fork(after_in_child=self._in_child)
            self._started = True

    def _in_child(self) -> None:
        torch.set_num_threads(1)
        os.environ[_TOKENIZER_THREADS] = "false"
        for lock in self.locks:
            lock.open_anew()


# One for the process, like the hook itself; nothing is registered before the first model is built.
FORKS = Forks()


def prepare_process() -> None:
    """Do once what this process needs to run a model: attention known to transformers, steps and forks looked after."""
    register_attention()
    STEPS.start()
    FORKS.start()


def state_to_copy(module: torch.nn.Module) -> dict[str, Any]:
    """Return what a copy of a `ConnectionBert` is made of, here or in another process: all but what is made anew.

    A half-precision copy is made when it is first needed; compiled code and the place where a training run keeps
    its copy belong to this process.
    """
    return {**module.__dict__, "_half": None, "compiled": None, "trained_copy": None}


def set_state(module: torch.nn.Module, state: dict[str, Any]) -> None:
    """Make a copy of what `state_to_copy` gave; this process may be another."""
    torch.nn.Module.__setstate__(module, state)
    prepare_process()
