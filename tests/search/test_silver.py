"""Pairs for a teacher to label: which are found, and which are kept."""

from __future__ import annotations

import numpy as np
import pytest

from sbert_ft.search.silver import CandidatePairs, candidate_pairs, matched_to, share_of_bins

NONE_KNOWN = np.empty((0, 2), np.int64)


def on_a_circle(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def pairs_of(found: CandidatePairs) -> list[tuple[int, int]]:
    return list(zip(found.first.tolist(), found.second.tolist(), strict=True))


def test_each_text_is_paired_with_its_nearest_and_each_pair_is_there_once() -> None:
    # 0 and 1 are each other's nearest; that of 2 is 1, and that of 3 is 2
    found = candidate_pairs(on_a_circle(0, 10, 30, 70), NONE_KNOWN, 1, "nearest", seed=0)
    assert pairs_of(found) == [(0, 1), (2, 1), (3, 2)]
    assert found.is_near.all()


def test_a_known_pair_gives_way_to_the_next_text() -> None:
    found = candidate_pairs(on_a_circle(0, 10, 30, 70), np.array([[1, 0], [2, 3]]), 1, "nearest", seed=0)
    # the nearest of 0 but 1 is 2, that of 3 but 2 is 1
    assert pairs_of(found) == [(0, 2), (1, 2), (3, 1)]


def test_a_text_with_many_known_partners_still_gets_its_pairs() -> None:
    n = 20
    known = np.array([[0, other] for other in range(1, n - 1)])
    found = candidate_pairs(on_a_circle(*range(n)), known, 1, "nearest", seed=0)
    assert (0, n - 1) in pairs_of(found)


@pytest.mark.parametrize("sampling", ["matched", "nearest", "random"])
def test_no_pair_is_known_or_there_twice_or_of_one_text(sampling: str) -> None:
    random = np.random.default_rng(1)
    vectors = random.normal(size=(60, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    known = random.integers(60, size=(300, 2))
    found = candidate_pairs(vectors, known, 5, sampling, seed=2)  # type: ignore[arg-type]
    sets = [frozenset(pair) for pair in pairs_of(found)]
    assert len(sets) == len({*sets}) > 50
    assert not {*sets} & {frozenset(pair) for pair in known.tolist()}
    assert all(len(pair) == 2 for pair in sets)
    assert {*found.is_near.tolist()} == {"matched": {True, False}, "nearest": {True}, "random": {False}}[sampling]
    again = candidate_pairs(vectors, known, 5, sampling, seed=2)  # type: ignore[arg-type]
    assert pairs_of(again) == pairs_of(found)


def test_silver_scores_are_thinned_to_the_distribution_of_gold() -> None:
    gold = np.repeat([0.1, 0.9], [500, 500])
    silver = np.repeat([0.1, 0.9], [9000, 1000])
    kept = matched_to(gold, silver, 2, seed=0)
    # min(1, f_gold / f_silver): 0.5 / 0.9 of the low scores, all of the high ones
    assert kept[9000:].all()
    spread = 9000 * 5 / 9 * 4 / 9  # of a binomial
    assert abs(kept[:9000].sum() - 9000 * 5 / 9) < 5 * spread**0.5


def test_scores_that_gold_does_not_have_are_left_out() -> None:
    kept = matched_to(np.array([0.95, 0.91]), np.array([0.05, 0.5, 0.95, 1.0]), 10, seed=0)
    assert kept.tolist() == [False, False, True, True]


def test_the_shares_of_bins_have_both_ends() -> None:
    assert share_of_bins(np.array([0.0, 0.05, 0.1, 1.0]), 10).tolist() == [0.5, 0.25, 0, 0, 0, 0, 0, 0, 0, 0.25]
    assert share_of_bins(np.empty(0), 2).tolist() == [0, 0]
