"""Make a process, and each child that is forked from it, ready to run a model.

A fork copies the memory of a process, but only the thread that calls it. Without the code here the child could wait
forever in three places: OpenMP for torch's pool of threads, the Rust tokenizer for its own threads, and any code for a
lock that another thread held. So a forked child computes with one thread, tokenises with one thread, and has every lock
open. To compute with more threads, spawn the process instead.
"""

from __future__ import annotations

import os
import threading
import weakref
from functools import cache

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from sbert_ft.encoder.attention import register_attention
from sbert_ft.encoder.mixed_precision import STEPS


class ForkSafeLock:
    """A lock that is open in a forked child, even if a thread of the parent held it; a copy gets a new lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _LOCKS.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *raised: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[type[ForkSafeLock], tuple[()]]:
        return ForkSafeLock, ()


# All locks of this process, for its forked children.
_LOCKS: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()


@cache
def prepare_process() -> None:
    """Register attention, count optimizer steps, and handle forks; a second call changes nothing."""
    register_attention()
    register_optimizer_step_post_hook(STEPS.count)
    if hasattr(os, "register_at_fork"):  # there are no forks on Windows
        os.register_at_fork(after_in_child=_in_child)


def _in_child() -> None:
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the Rust tokenizer reads it at each call
    for lock in _LOCKS:
        lock._lock = threading.Lock()
