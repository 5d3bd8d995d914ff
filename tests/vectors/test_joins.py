"""Joins of vectors, against the whole matrix of cosines."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sbert_ft.errors import InputError
from sbert_ft.vectors import joins
from sbert_ft.vectors.joins import BestPairs, join, ranks_among_partners
from sbert_ft.vectors.nearest import unit_rows
from sbert_ft.vectors.products import HalfProducts, Products, cosines

Pair = tuple[int, int]


def vectors(n: int, seed: int, d: int = 6) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(n, d)))


def whole(left: np.ndarray, right: np.ndarray | None) -> dict[Pair, float]:
    """Return all pairs with their cosines, from a matrix in float64."""
    cosines = left.astype(np.float64) @ (left if right is None else right).T.astype(np.float64)
    places = zip(*np.indices(cosines.shape).reshape(2, -1).tolist(), strict=True)
    return {(i, j): float(np.float32(cosines[i, j])) for i, j in places if right is not None or i < j}


def collected(found: BestPairs) -> list[tuple[float, int, int]]:
    first, second, scores = (part.tolist() for part in found.pairs())
    return list(zip(scores, first, second, strict=True))


@pytest.mark.parametrize("n_right", [None, 1, 210])
@pytest.mark.parametrize("tile", [1, 64, 1024])
def test_the_join_is_every_pair_of_the_matrix_that_reaches_the_floor(
    monkeypatch: pytest.MonkeyPatch, tile: int, n_right: int | None
) -> None:
    monkeypatch.setattr(joins, "_LEFT_ROWS", tile)
    monkeypatch.setattr(joins, "_RIGHT_ROWS", 2 * tile)
    left, right = vectors(150, 0), None if n_right is None else vectors(n_right, 1)
    expected = {pair: cosine for pair, cosine in whole(left, right).items() if cosine >= 0.7}
    done: list[int] = []
    found = {}
    for first, second, scores in join(left, right, lambda: 0.7, done.append):
        found |= dict(zip(zip(first.tolist(), second.tolist(), strict=True), scores.tolist(), strict=True))
    assert found.keys() == expected.keys() and (n_right == 1 or len(found) > 100)
    assert found == pytest.approx(expected, abs=3e-7)  # sums of float32
    assert sum(done) == 150


def test_pairs_and_scores_do_not_depend_on_tiles_or_on_what_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Near ties at the floor: all have the same bits for any tile."""
    base = vectors(40, 4, 24)
    near = unit_rows(np.repeat(base, 30, axis=0) + np.random.default_rng(5).normal(size=(1200, 24)) * 1e-3)
    found = []
    for kind in [Products, *([HalfProducts] if torch.cpu._is_avx512_bf16_supported() else [])]:
        for left_rows, right_rows in ((7, 33), (1024, 512), (300, 4000)):
            monkeypatch.setattr(joins, "products_for", kind)
            monkeypatch.setattr(joins, "_LEFT_ROWS", left_rows)
            monkeypatch.setattr(joins, "_RIGHT_ROWS", right_rows)
            parts = [np.concatenate(part) for part in zip(*join(near, None, lambda: 0.99998), strict=True)]
            order = np.lexsort((parts[1], parts[0]))
            found.append([part[order] for part in parts])
    assert 40 * 5 < len(found[0][0]) < 40 * 435
    for others in found[1:]:
        for first, second in zip(found[0], others, strict=True):
            np.testing.assert_array_equal(first, second)


def test_nan_is_refused_with_its_row() -> None:
    wrong = vectors(3000, 12)
    wrong[2999, 5] = np.nan
    for left, right in ((wrong, None), (vectors(3, 13), wrong)):
        with pytest.raises(InputError, match="the vector of row 2999 has NaN or infinity"):
            list(join(left, right, lambda: 0.5))


def test_a_cosine_does_not_depend_on_the_pairs_beside_it() -> None:
    left = vectors(400, 2, 384)
    first, second = np.arange(400).repeat(3), np.arange(1200) % 400
    together = cosines(left, left, first, second)
    alone = [cosines(left, left, first[i : i + 1], second[i : i + 1])[0] for i in range(0, 1200, 7)]
    np.testing.assert_array_equal(together[::7], alone)


@pytest.mark.parametrize("max_pairs", [1, 40, 10_000])
def test_the_best_pairs_are_those_of_a_plain_sort_in_whatever_order_they_come(max_pairs: int) -> None:
    some = np.repeat(vectors(40, 3), 2, axis=0)  # twins, so that cosines are equal
    pairs = [(cosine, *pair) for pair, cosine in whole(some, None).items() if cosine >= 0.3]
    expected = sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))[:max_pairs]
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(pairs))
        best = BestPairs(0.3, max_pairs, None)
        best._room = 20  # so that pairs are dropped on the way
        for place in order.tolist():
            cosine, first, second = pairs[place]
            if cosine >= best.floor():
                best.add(np.array([first]), np.array([second]), np.array([cosine], np.float32))
        assert collected(best) == expected
    assert max_pairs > 40 or best.floor() > 0.3


@pytest.mark.parametrize("offset", [0, 80])
@pytest.mark.parametrize("top_k", [1, 3])
def test_top_k_keeps_what_is_among_the_best_of_one_side(top_k: int, offset: int) -> None:
    some = vectors(80, 4)
    pairs = whole(some, vectors(80, 5) if offset else None)
    partners: dict[int, list[tuple[float, int]]] = {}
    for (i, j), cosine in pairs.items():
        partners.setdefault(i, []).append((-cosine, j + offset))
        partners.setdefault(j + offset, []).append((-cosine, i))
    best_of = {row: {partner for _, partner in sorted(found)[:top_k]} for row, found in partners.items()}
    expected = {(i, j) for i, j in pairs if j + offset in best_of[i] or i in best_of[j + offset]}
    best = BestPairs(-1.0, None, top_k, offset)
    best._room = 50
    for part in np.array_split(np.array([(i, j, cosine) for (i, j), cosine in pairs.items()]), 30):
        best.add(part[:, 0].astype(np.int64), part[:, 1].astype(np.int64), part[:, 2].astype(np.float32))
    assert {(i, j) for _, i, j in collected(best)} == expected
    assert best.n_added == len(pairs)


def test_ranks_by_hand() -> None:
    # row 0: partner 1 at .9, partner 2 at .8; row 1: partner 0 at .9, partner 2 at .9; equal ones by the lower partner
    first, second, scores = np.array([0, 0, 1]), np.array([1, 2, 2]), np.array([0.9, 0.8, 0.9], np.float32)
    of_first, of_second = ranks_among_partners(first, second, scores)
    assert of_first.tolist() == [0, 1, 1] and of_second.tolist() == [0, 1, 0]


def test_no_pairs_at_all() -> None:
    assert [len(part) for part in BestPairs(0.5, 10, 2).pairs()] == [0, 0, 0]
