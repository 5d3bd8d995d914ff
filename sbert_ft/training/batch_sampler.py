"""Choose which rows share a batch, and in which order, from the seed and the epoch only.

A resumed run therefore gets the same batches as an uninterrupted one, on any device, and only two numbers need to be
stored. In-batch objectives use a row's texts as negatives for all other rows. So no text may occur in two rows of a
batch, and a batch of one row teaches nothing: both are avoided here. The cost is a few microseconds per row.
"""

from __future__ import annotations

import itertools
from array import array
from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# A row's number and the numbers of its texts. Tuples that hold only numbers: the garbage collector can skip them.
Entry = tuple[int, ...]
Waiting = dict[int, deque[Entry]]

_CHUNK_ROWS = 8192  # converted to Python lists at a time
_MAX_MOVES = 64  # of rows between queues, per batch: limits the cost of the search when hardly any row fits
_MAX_TRIED = 64  # batches that are tried as the source of a second row, or as the new place, for a single row


def epoch_batches(
    n_rows: int, batch_size: int, seed: int, epoch: int, *, text_rows: NDArray[np.int64] | None = None
) -> list[NDArray[np.int64]]:
    """Return the rows of each batch of an epoch, in order; every row occurs exactly once.

    The order is numpy's ``default_rng([seed, epoch]).permutation``, the same on all platforms. With `text_rows`, no
    text occurs in two rows of a batch: a row that would repeat a text waits for a later batch. The last batch may be
    smaller; other batches are smaller only if `fitting_batch_size` says so or no remaining row fits. For batch sizes
    above 1, a batch of a single row gets a second row from a larger batch. If all others have two rows, the single
    row is moved into one of them, which then has three. A row stays single only if there is no other row, or if its
    texts occur in most of them.

    Args:
        n_rows: Rows of the data set.
        batch_size: Rows per batch, at least 1; a batch has the shape (rows,), int64.
        seed: At least 0.
        epoch: From 0.
        text_rows: The numbers of each row's texts, shape (n_rows, k); one row may hold the same text twice.
    """
    assert batch_size >= 1 and (text_rows is None or len(text_rows) == n_rows)
    order = np.random.default_rng([seed, epoch]).permutation(n_rows).astype(np.int64)
    if text_rows is None:
        bounds = list(range(0, n_rows, batch_size))
    else:
        order, bounds = _without_repeats(order, fitting_batch_size(batch_size, text_rows), text_rows)
    batches = np.split(order, bounds[1:]) if n_rows else []
    return batches if batch_size == 1 else _without_single_rows(batches, text_rows)


def fitting_batch_size(batch_size: int, text_rows: NDArray[np.int64]) -> int:
    """Return the batch size, at most `batch_size`, with which no batch repeats a text and all are about equal in size.

    A text that occurs in 1,000 rows needs 1,000 batches, however large they are. If the first batches were full, only
    rows with this text would be left at the end of the epoch, one per batch. So all batches are made as small as the
    most frequent text requires, with at least 2 rows. `text_rows` are as in `epoch_batches`.
    """
    if not text_rows.size:
        return batch_size
    by_row = np.sort(text_rows, axis=1)
    again = by_row[:, 1:][by_row[:, 1:] == by_row[:, :-1]]  # a row that holds a text twice counts once
    most = int((np.bincount(by_row.ravel()) - np.bincount(again, minlength=int(by_row.max()) + 1)).max())
    return min(batch_size, max(2, len(text_rows) // most))


def _without_repeats(
    order: NDArray[np.int64], batch_size: int, text_rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[int]]:
    """Return the rows batch by batch, and the index at which each batch begins.

    A row that does not fit waits in the queue of the text that it would repeat. At most one row of a queue fits into
    a batch, so only the heads of the queues are looked at, not all waiting rows.
    """
    chosen = array("q")
    bounds: list[int] = []
    waiting: Waiting = {}
    fresh = _rows_with_texts(order, text_rows)
    while len(chosen) < len(order):
        bounds.append(len(chosen))
        stop = len(chosen) + batch_size
        present: set[int] = set()
        _take_waiting(waiting, chosen, stop, present)
        while len(chosen) < stop and (entry := next(fresh, None)) is not None:
            _take_or_queue(entry, waiting, chosen, present)
    return np.array(chosen, np.int64), bounds


def _rows_with_texts(order: NDArray[np.int64], text_rows: NDArray[np.int64]) -> Iterator[Entry]:
    for start in range(0, len(order), _CHUNK_ROWS):
        rows = order[start : start + _CHUNK_ROWS]
        yield from zip(rows.tolist(), *text_rows[rows].T.tolist(), strict=True)


def _take_waiting(waiting: Waiting, chosen: array[int], stop: int, present: set[int]) -> None:
    """Fill a batch from the queues, the oldest first, with at most one row per queue."""
    n_moves = 0
    # For each row of the batch, at most one queue supplies it and three are blocked by its texts; others move rows.
    for text in list(itertools.islice(waiting, 4 * (stop - len(chosen)) + _MAX_MOVES)):
        if len(chosen) == stop or n_moves == _MAX_MOVES:
            return
        queue = waiting[text]
        while queue and text not in present and n_moves < _MAX_MOVES:
            n_moves += not _take_or_queue(queue.popleft(), waiting, chosen, present)
        if not queue:
            del waiting[text]


def _take_or_queue(entry: Entry, waiting: Waiting, chosen: array[int], present: set[int]) -> bool:
    """Return whether the row was added to the batch; if not, it waits in the queue of the text that it would repeat."""
    row, *texts = entry
    for text in texts:
        if text in present:
            waiting.setdefault(text, deque()).append(entry)
            return False
    present.update(texts)
    chosen.append(row)
    return True


def _without_single_rows(
    batches: list[NDArray[np.int64]], text_rows: NDArray[np.int64] | None
) -> list[NDArray[np.int64]]:
    """Return the batches, where each single row got a second row or was moved to another batch, if any fits.

    Batches of more than two rows give rows in turns, the last first, so that none gets much smaller than the others.
    """
    singles = [i for i, batch in enumerate(batches) if len(batch) == 1]
    if not singles:
        return batches
    lenders = deque(i for i, batch in enumerate(batches) if len(batch) > 2)
    pairs = deque(i for i, batch in enumerate(batches) if len(batch) == 2)
    n_failed = 0
    for single in singles:
        n_failed = 0 if _place_single_row(batches, single, lenders, pairs, text_rows) else n_failed + 1
        if n_failed == _MAX_TRIED:  # one text occurs in most rows: the other single rows will fail, too
            break
    return [batch for batch in batches if len(batch)]


def _place_single_row(
    batches: list[NDArray[np.int64]],
    single: int,
    lenders: deque[int],
    pairs: deque[int],
    text_rows: NDArray[np.int64] | None,
) -> bool:
    """Return whether a row of a batch of more than two was moved to the single row, or this row to a batch of two."""
    row = batches[single]
    for queue in (lenders, pairs):
        for _ in range(min(len(queue), _MAX_TRIED)):
            other = queue.pop()
            fits = np.ones(len(batches[other]), bool)
            if text_rows is not None:
                fits = ~(text_rows[batches[other]][:, :, None] == text_rows[row]).any(axis=(1, 2))
            if queue is lenders and fits.any():
                lent = np.flatnonzero(fits)[-1]
                batches[single] = np.append(row, batches[other][lent])
                batches[other] = np.delete(batches[other], lent)
                (pairs if len(batches[other]) == 2 else lenders).appendleft(other)
                return True
            if queue is pairs and fits.all():
                batches[other], batches[single] = np.append(batches[other], row), row[:0]  # its own is then empty
                lenders.append(other)
                return True
            queue.appendleft(other)
    return False
