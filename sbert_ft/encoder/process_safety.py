"""Make a model usable after a fork and in a copy: locks, threads, and state that belongs to one process.

A fork copies the memory of a process, but only the thread that calls it. Without the code here the child could wait
forever in three places: OpenMP for torch's pool of threads, the Rust tokenizer for its own threads, and any code for a
lock that another thread held. So a forked child computes with one thread, tokenises with one thread, and has every lock
open. To compute with more threads, spawn the process instead.
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

# The Rust tokenizer reads this environment variable at each call.
_TOKENIZER_THREADS = "TOKENIZERS_PARALLELISM"


class ForkSafeLock:
    """A lock that is open in a forked child, even if a thread of the parent held it; a copy gets a new lock."""

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
        """Replace the inner lock by a new one, which is open."""
        self._lock = threading.Lock()


class Forks:
    """Prepares each forked child of this process to compute, once `start` has been called.

    Attributes:
        locks: The locks that are opened in a child.
    """

    def __init__(self) -> None:
        self.locks: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()
        self._started = False

    def start(self) -> None:
        """Register the hook that runs in forked children; a second call changes nothing."""
        if not self._started and hasattr(os, "register_at_fork"):  # there are no forks on Windows
            os.register_at_fork(after_in_child=self._in_child)
            self._started = True

    def _in_child(self) -> None:
        torch.set_num_threads(1)
        os.environ[_TOKENIZER_THREADS] = "false"
        for lock in self.locks:
            lock.open_anew()


# One for the process, like the hook of `os`; nothing is registered before the first model is built.
FORKS = Forks()


def prepare_process() -> None:
    """Prepare this process to run a model: register attention, count optimizer steps, handle forks."""
    register_attention()
    STEPS.start()
    FORKS.start()


def state_to_copy(module: torch.nn.Module) -> dict[str, Any]:
    """Return the state of a `ConnectionBert` for a copy in this or another process, without what belongs to this one.

    The half-precision copy is left out because it is made when first needed; compiled code and the copy that a
    training run uses belong to this process.
    """
    return {**module.__dict__, "_half": None, "compiled": None, "trained_copy": None}


def set_state(module: torch.nn.Module, state: dict[str, Any]) -> None:
    """Restore a copy from the result of `state_to_copy`, and prepare this process, which may be another one."""
    torch.nn.Module.__setstate__(module, state)
    prepare_process()
