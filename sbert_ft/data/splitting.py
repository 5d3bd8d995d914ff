"""A part of the rows to judge by, such that no text is on both sides.

Rows that share a text must stay together, and so must rows that share texts with those: a connected component of the
graph whose nodes are texts. Split by row instead, a dev set holds sentences that were trained on and flatters the
model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sbert_ft.errors import DataError


def connected_rows(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of each row's component, shape (N,), from 0.

    Args:
        groups: The rows' texts as numbers, shape (N, k).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n_columns = groups.shape[1]
    n_groups = int(groups.max(initial=0)) + 1
    anchors, others = np.repeat(groups[:, 0], n_columns - 1), groups[:, 1:].ravel()
    graph = coo_array((np.ones(len(anchors)), (anchors, others)), shape=(n_groups, n_groups))
    _, component = connected_components(graph, directed=False)
    numbers: NDArray[np.int64] = np.unique(component[groups[:, 0]], return_inverse=True)[1].astype(np.int64)
    return numbers


def share_of_components(components: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Return which rows to set apart, shape (N,): whole components in random order, about `share` of the rows.

    A component that would take more than is left is passed over; where the share is not reached without it, the
    smallest one passed over is taken if the share is nearer then.

    Args:
        components: Number of each row's component, shape (N,), from 0.
        share: Of the rows, above 0 and below 1.
        seed: Of the order.

    Raises:
        DataError: All rows are one component.
    """
    sizes = np.bincount(components)
    if len(sizes) < 2:
        rows = "there is only one row" if len(components) < 2 else "all rows hang together by the texts they share"
        raise DataError(f"no dev part can be split off: {rows}; give a file for dev instead of dev_share")
    wanted = min(max(round(share * len(components)), 1), len(components) - 1)
    taken = np.zeros(len(sizes), bool)
    left = wanted
    for component in np.random.default_rng(seed).permutation(len(sizes)).tolist():
        if sizes[component] <= left:
            taken[component] = True
            left -= int(sizes[component])
            if not left:
                break
    smallest = int(np.argmin(np.where(taken, len(components) + 1, sizes)))
    nearer = abs(left - int(sizes[smallest])) < left
    if (nearer or not taken.any()) and taken.sum() + 1 < len(sizes):
        taken[smallest] = True
    chosen: NDArray[np.bool_] = taken[components]
    return chosen
