"""Pairs of texts for a teacher to label: silver pairs, beside the gold ones that people have labelled.

Augmented SBERT (Thakur et al. 2021, Augmented SBERT, section 3.1) labels pairs with a model that reads both texts at
once, and which pairs these are decides whether it helps: among random pairs hardly any belong together, and the nearest
texts are nearly all alike. So the candidates are both, and of them so many of each score are kept that the scores are
distributed as the gold ones (`matched_to`). The cost is that of one search for the nearest texts of every text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from sbert_ft.vectors.nearest import Vectors, nearest

Sampling = Literal["matched", "nearest", "random"]
# A text has at most so many gold partners that are passed over in favour of texts farther away.
_MOST_PASSED_OVER: Final = 64
N_BINS: Final = 10


@dataclass(frozen=True)
class CandidatePairs:
    """Pairs of texts, each once in either order; all arrays have the shape (B,).

    Attributes:
        first: Number of each pair's first text.
        second: Number of the second.
        is_near: Whether the second is one of the first's nearest texts; otherwise it was drawn at random.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    is_near: NDArray[np.bool_]

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.first)


def candidate_pairs(
    vectors: Vectors, known: NDArray[np.int64], per_text: int, sampling: Sampling, seed: int
) -> CandidatePairs:
    """Return pairs of different texts that are not known: nearest ones first, in the order of their first texts.

    Args:
        vectors: Of the texts, rows of length 1, shape (n, d).
        known: Pairs that have labels already, as numbers of texts, shape (K, 2), in either order.
        per_text: The nearest texts of each text that it is paired with, and the random ones.
        sampling: Only nearest, only random pairs, or both (matched).
        seed: Of the random pairs.
    """
    n = len(vectors)
    taken = np.unique(_codes(known[:, 0], known[:, 1], n))
    empty = np.empty(0, np.int64)
    near, chance = (empty, empty), (empty, empty)
    if sampling != "random":
        near = _new_pairs(*_nearest(vectors, taken, per_text), taken, n)
        taken = np.union1d(taken, _codes(*near, n))
    if sampling != "nearest":
        drawn = np.random.default_rng(seed).integers(n, size=(n, per_text))
        chance = _new_pairs(np.repeat(np.arange(n), per_text), drawn.ravel(), taken, n)
    first, second = (np.concatenate(sides) for sides in zip(near, chance, strict=True))
    return CandidatePairs(first, second, np.arange(len(first)) < len(near[0]))


def _nearest(vectors: Vectors, taken: NDArray[np.int64], per_text: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each text with its nearest texts, without itself and the pairs whose codes are `taken`."""
    n = len(vectors)
    partners = np.bincount(np.concatenate([taken // n, taken % n]), minlength=n).max() if len(taken) else 0
    found = nearest(vectors, vectors, per_text + 1 + int(min(partners, _MOST_PASSED_OVER))).rows
    first = np.arange(n)[:, None]
    is_new = (found != first) & ~np.isin(_codes(first, found, n), taken)
    is_new &= np.cumsum(is_new, axis=1) <= per_text
    rows, places = np.nonzero(is_new)
    return rows, found[rows, places]


def _new_pairs(
    first: NDArray[np.int64], second: NDArray[np.int64], taken: NDArray[np.int64], n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of different texts that are not `taken`, each once, in their order."""
    codes = _codes(first, second, n)
    places = np.sort(np.unique(codes, return_index=True)[1])
    places = places[(first[places] != second[places]) & ~np.isin(codes[places], taken)]
    return first[places], second[places]


def _codes(first: NDArray[np.int64], second: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return a number for each pair of n texts, the same in either order."""
    codes: NDArray[np.int64] = np.minimum(first, second) * n + np.maximum(first, second)
    return codes


def matched_to(gold: NDArray[np.floating], silver: NDArray[np.floating], n_bins: int, seed: int) -> NDArray[np.bool_]:
    """Return which silver pairs to keep so that their scores, 0 to 1, are distributed as the gold ones: shape (B,).

    A pair is kept with the probability min(1, f_gold / f_silver) of its score (Thakur et al. 2021, section 3.1, kernel
    density estimation). The densities f are shares of `n_bins` equal bins here, so a label 0 or 1 has one too.

    Args:
        gold: Scores of the gold pairs, shape (N,).
        silver: Scores of the silver pairs, shape (B,).
        n_bins: Number of bins; 2 for labels 0 and 1.
        seed: Of the choice.
    """
    shares = share_of_bins(gold, n_bins), share_of_bins(silver, n_bins)
    kept = np.divide(*shares, out=np.zeros(n_bins), where=shares[1] > 0)
    probability = np.minimum(1.0, kept)[_bins(silver, n_bins)]
    is_kept: NDArray[np.bool_] = np.random.default_rng(seed).random(len(silver)) < probability
    return is_kept


def share_of_bins(scores: NDArray[np.floating], n_bins: int = N_BINS) -> NDArray[np.float64]:
    """Return the share of the scores, 0 to 1, in each of `n_bins` equal bins: shape (n_bins,)."""
    shares: NDArray[np.float64] = np.bincount(_bins(scores, n_bins), minlength=n_bins) / max(1, len(scores))
    return shares


def _bins(scores: NDArray[np.floating], n_bins: int) -> NDArray[np.int64]:
    places: NDArray[np.int64] = np.floor(scores * n_bins).astype(np.int64).clip(0, n_bins - 1)
    return places
