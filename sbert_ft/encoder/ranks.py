"""The processes of one run, and what they compute together: sums, the choice of one of them, equal shares of work.

Each process (a *rank*, as torch.distributed calls it) has the whole model, and its share of a batch's rows or of the
texts to be encoded. `Ranks()` is a run of one process, in which nothing is sent and every sum is what it was, so that
code is written once. `training/distributed.py` joins the processes that torchrun has started.

Sums of numbers on the CPU go through gloo, those on CUDA devices through NCCL, which is queued like a kernel: the CPU
does not wait for it. What is decided is always exchanged on the CPU.
"""

from __future__ import annotations

import heapq
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from sbert_ft.encoder.devices import is_out_of_memory

_T = TypeVar("_T")
_BUCKET_NUMBERS = 2**22  # smaller tensors are sent together, up to so many numbers
_GLANCE = timedelta(seconds=0.5)  # how long a wait lasts before it is asked whether the others are still there
_STILL_WAITING = "Operation timed out"  # in torch's message about a wait that has not ended yet


class Watch(Protocol):
    """What notices that another process has ended or hangs; see `training/distributed.py`."""

    doing: str

    def check(self) -> None:
        """Raise the error by which the run ends, if another process has told one or is lost."""

    def blame(self, error: RuntimeError) -> NoReturn:
        """Raise the same after an exchange has failed with this error."""


class NoWatch:
    """The watch of a single process."""

    doing = ""

    def check(self) -> None:
        """Do nothing."""

    def blame(self, error: RuntimeError) -> NoReturn:
        """Raise the error."""
        raise error


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run; every method is called by all of them, in the same order.

    Attributes:
        rank: Its number, from 0; the first one writes what the run writes.
        size: How many there are.
        n_local: How many of them are on this machine.
        watch: What notices that another one has ended.
    """

    rank: int = 0
    size: int = 1
    n_local: int = 1
    watch: Watch = field(default_factory=NoWatch)

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def doing(self, what: str) -> None:
        """Note what this process does, for the message if it is lost."""
        self.watch.doing = what

    def share(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the items of this process, in rising order, shape (n,); see `shares`."""
        return np.arange(len(lengths)) if self.size == 1 else shares(lengths, self.size)[self.rank]

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, in place; the same bits in each of them.

        They are contiguous, on one device and of one type.
        """
        if self.size == 1:
            return
        small, waiting = list[list[Tensor]](), list[tuple[Any, Tensor]]()
        n_numbers = _BUCKET_NUMBERS
        for tensor in tensors:
            if tensor.numel() >= _BUCKET_NUMBERS:
                waiting.append((dist.all_reduce(tensor, async_op=True), tensor))
                continue
            n_numbers += tensor.numel()
            if n_numbers > _BUCKET_NUMBERS:
                small.append([])
                n_numbers = tensor.numel()
            small[-1].append(tensor)
        buckets = [torch.cat([tensor.reshape(-1) for tensor in group]) for group in small]
        waiting += [(dist.all_reduce(bucket, async_op=True), bucket) for bucket in buckets]
        for work, tensor in waiting:
            self._wait(work, tensor.device)
        for group, bucket in zip(small, buckets, strict=True):
            parts = bucket.split([tensor.numel() for tensor in group])
            for tensor, part in zip(group, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def most(self, values: Sequence[int]) -> list[int]:
        """Return the highest of each of these numbers over all processes."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(list(values), dtype=torch.int64)
        self._wait(dist.all_reduce(numbers, dist.ReduceOp.MAX, async_op=True), numbers.device)
        found: list[int] = numbers.tolist()
        return found

    def told(self, function: Callable[[], _T]) -> _T:
        """Return what the function returns in the first process, the only one that calls it."""
        if self.size == 1:
            return function()
        found = function() if self.is_first else None
        content = np.frombuffer(pickle.dumps(found), np.uint8)
        (n_bytes,) = self.most([len(content)])
        buffer = torch.from_numpy(np.resize(content, n_bytes))
        self._wait(dist.broadcast(buffer, 0, async_op=True), buffer.device)
        # what another process of this run has sent, never the content of a file
        return found if self.is_first else pickle.loads(buffer.numpy().tobytes())  # type: ignore[return-value]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by that of the first process, in place."""
        for tensor in tensors if self.size > 1 else ():
            sent = tensor.contiguous()
            self._wait(dist.broadcast(sent, 0, async_op=True), tensor.device)
            tensor.copy_(sent)

    def together(self, function: Callable[[], _T]) -> _T:
        """Return what the function returns; if memory runs out in one process, raise a `MemoryError` in all."""
        if self.size == 1:
            return function()
        found, is_out = None, False
        try:
            found = function()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            is_out = True
        if self.most([is_out])[0]:  # outside the handler, whose exception would keep the failed forward's tensors alive
            raise MemoryError("memory ran out in one of the processes")
        return found  # type: ignore[return-value]

    def _wait(self, work: Any, device: torch.device) -> None:
        """Wait for an exchange, or raise the error by which the run ends; on a device it is only queued."""
        while True:
            try:
                work.wait() if device.type == "cuda" else work.wait(_GLANCE)
                return
            except RuntimeError as error:
                self.watch.check()
                if _STILL_WAITING not in str(error):
                    self.watch.blame(error)


def shares(lengths: NDArray[np.int64], n: int) -> list[NDArray[np.int64]]:
    """Return `n` shares of the items, each in rising order, with about the same sum of lengths.

    The longest item goes first, and each to the share that has the least so far. With lengths 5, 1, 4 and 3 and two
    shares, 5 and 1 are the first (items 0 and 1), 4 and 3 the second (2 and 3).
    """
    chosen: list[list[int]] = [[] for _ in range(n)]
    least = [(0, share) for share in range(n)]
    for item in np.argsort(-lengths, kind="stable").tolist():
        total, share = heapq.heappop(least)
        chosen[share].append(item)
        heapq.heappush(least, (total + int(lengths[item]), share))
    return [np.array(sorted(items), np.int64) for items in chosen]
