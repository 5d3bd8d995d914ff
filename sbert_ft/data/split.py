"""Choose a part of the rows for dev, such that no text is on both sides of the split.

Rows that share a text must stay together, and so must rows that share texts with those: they are a connected component
of the graph whose nodes are texts. If single rows were split instead, dev would have sentences that were trained on,
and its scores would be too high. Where labels are classes, the share of each class is met too, as closely as these
groups allow: in a purely random split, a rare class may be missing on one side.
"""

from __future__ import annotations

import logging
from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sbert_ft.arguments import whole_number
from sbert_ft.data.labels import Labels
from sbert_ft.errors import DataError, InputError, quoted

logger = logging.getLogger(__name__)


def rows_for_dev(
    groups: NDArray[np.int64], labels: Labels, dev_share: float, seed: int, source: str
) -> NDArray[np.bool_]:
    """Return which rows to use for dev, shape (N,); logs a warning where the groups do not allow the share.

    `groups` are the rows' texts as numbers, shape (N, k); where `labels` are classes, the share of each one is met.
    Other arguments and errors as in `ConnectionDataset.split`.
    """
    seed = whole_number(seed, "seed", 0)
    if isinstance(dev_share, bool) or not isinstance(dev_share, Real) or not 0.0 < dev_share < 1.0:
        raise InputError(f"dev_share is {quoted(dev_share)}, expected a number above 0 and below 1")
    components, n_rows = _connected_rows(groups), len(groups)
    why = "rows that share a text stay together"
    codes = np.zeros(n_rows, np.int64)  # one class for all
    if labels.kind == "classes" and labels.values is not None:
        why += ", and each class needs rows to train on"
        codes = labels.values.astype(np.int64)
    in_dev = share_of_classes(components, codes, dev_share, seed)
    if abs(in_dev.sum() - dev_share * n_rows) > max(1.0, 0.1 * dev_share * n_rows):
        logger.warning(
            "%s: dev gets %d of %d rows (%.1f %% instead of %.1f %%): %s",
            *(source, in_dev.sum(), n_rows, 100 * in_dev.mean(), 100 * dev_share, why),
        )
    return in_dev


def _connected_rows(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of each row's component, shape (N,), from 0; `groups` as in `rows_for_dev`."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n_columns = groups.shape[1]
    n_groups = int(groups.max(initial=0)) + 1
    anchors, others = np.repeat(groups[:, 0], n_columns - 1), groups[:, 1:].ravel()
    graph = coo_array((np.ones(len(anchors)), (anchors, others)), shape=(n_groups, n_groups))
    _, component = connected_components(graph, directed=False)
    numbers: NDArray[np.int64] = np.unique(component[groups[:, 0]], return_inverse=True)[1].astype(np.int64)
    return numbers


def share_of_classes(
    components: NDArray[np.int64], codes: NDArray[np.int64], share: float, seed: int
) -> NDArray[np.bool_]:
    """Return which rows to use for dev, shape (N,): whole components, about `share` of the rows of each class.

    Components are taken in random order, skipping those with which a class would exceed its share. Then single
    components are moved while this brings the classes closer to their shares, without taking all rows of a class.
    `components` and `codes` are the numbers of each row's component and class, shape (N,), from 0.

    Raises:
        DataError: All rows are one component.
    """
    n_rows = len(components)
    if not components.max(initial=0):
        rows = "there is only one row" if n_rows < 2 else "all rows are connected by shared texts"
        raise DataError(f"no dev part can be split off: {rows}", "give a file for dev instead of dev_share")
    n_wanted, rng = min(max(round(share * n_rows), 1), n_rows - 1), np.random.default_rng(seed)
    sizes = np.bincount(codes)
    numbers, counts = np.unique(components * len(sizes) + codes, return_counts=True)
    of_component, of_class = np.divmod(numbers, len(sizes))
    starts = np.append(0, np.cumsum(np.bincount(of_component)))
    cells = _ClassCells(of_component, of_class, counts, starts)
    wanted = _wanted_of_classes(sizes, share, n_wanted, rng)
    taken = np.zeros(len(starts) - 1, bool)
    classes, n_rows_of, left, n_left = of_class.tolist(), counts.tolist(), wanted.tolist(), wanted.sum()
    for component in map(int, rng.permutation(len(taken))):
        if not n_left:
            break
        own = range(starts[component], starts[component + 1])
        if all(n_rows_of[i] <= left[classes[i]] for i in own):
            taken[component] = True
            for i in own:
                left[classes[i]] -= n_rows_of[i]
                n_left -= n_rows_of[i]
    still = np.array(left, np.int64)
    chosen: NDArray[np.bool_] = _made_good(cells, taken, still, sizes - wanted + still)[components]
    return chosen


class _ClassCells(NamedTuple):
    """Rows counted by component and class: one cell for each class of a component, sorted by component."""

    of_component: NDArray[np.int64]
    of_class: NDArray[np.int64]
    counts: NDArray[np.int64]
    starts: NDArray[np.int64]  # index of each component's first cell, then the number of cells


def _made_good(
    cells: _ClassCells, taken: NDArray[np.bool_], left: NDArray[np.int64], in_train: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return which components to take, shape (C,): moves single ones until no move brings the classes closer.

    `taken` are those taken so far, shape (C,); `left` and `in_train` are the rows of each class that are still to be
    taken and that are not taken, shape (K,).
    """
    taken, left, in_train = taken.copy(), left.copy(), in_train.copy()
    while True:
        moved = np.where(taken[cells.of_component], cells.counts, -cells.counts)  # to training
        gains = np.abs(left)[cells.of_class] - np.abs(left[cells.of_class] + moved)
        gain = np.bincount(cells.of_component, gains)
        allowed = np.bincount(cells.of_component, in_train[cells.of_class] + moved < 1) == 0
        if taken.sum() == 1:  # neither part may become empty
            allowed &= ~taken
        if taken.sum() == len(taken) - 1:
            allowed &= taken
        if not taken.any() and not allowed.any():  # each component has all rows of some class; one is taken anyway
            allowed[:] = True
        best = int(np.argmax(np.where(allowed, gain, -np.inf)))
        if not allowed[best] or (gain[best] <= 0 and taken.any()):
            return taken
        taken[best] = not taken[best]
        own = slice(cells.starts[best], cells.starts[best + 1])
        left[cells.of_class[own]] += moved[own]
        in_train[cells.of_class[own]] += moved[own]


def _wanted_of_classes(
    sizes: NDArray[np.int64], share: float, n_wanted: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return how many rows of each class to take for dev, shape (K,): up to `n_wanted`, and never all of a class.

    Each class gets its share rounded down; those with the largest fractions get one more.
    """
    most = np.maximum(sizes - 1, 0)
    wanted: NDArray[np.int64] = np.minimum(np.floor(share * sizes).astype(np.int64), most)
    by_fraction = np.lexsort((rng.permutation(len(sizes)), wanted - share * sizes))
    more = by_fraction[(wanted < most)[by_fraction]][: max(n_wanted - int(wanted.sum()), 0)]
    wanted[more] += 1
    return wanted
