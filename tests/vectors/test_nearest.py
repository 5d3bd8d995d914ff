"""The nearest vectors, against a plain sort of all cosines."""

from __future__ import annotations

import numpy as np
import pytest

from sbert_ft.vectors.nearest import nearest, pairs_above, unit_rows


def vectors(n: int, seed: int, d: int = 24) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(n, d)))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (50, 50), (5000, 10)])
def test_neighbors_are_those_of_a_plain_sort(n: int, k: int) -> None:
    queries, corpus = vectors(30, 0), vectors(n, 1)
    found = nearest(queries, corpus, k)
    cosines = queries.astype(np.float64) @ corpus.T.astype(np.float64)
    expected = np.sort(cosines, axis=1)[:, ::-1][:, :k]
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(cosines, found.rows, 1), found.scores, atol=1e-6)


def test_of_equal_scores_the_lower_row_is_first() -> None:
    corpus = np.repeat(vectors(3, 2), 4, axis=0)
    found = nearest(corpus[4:5], corpus, 6)
    assert found.rows[0, :4].tolist() == [4, 5, 6, 7]


def test_pairs_above_are_those_of_the_whole_matrix() -> None:
    some = vectors(300, 3, 6)
    cosines = some.astype(np.float64) @ some.T.astype(np.float64)
    expected = {(i, j) for i, j in zip(*np.nonzero(cosines >= 0.8), strict=True) if i < j}
    found = {(i, j) for a, b, _ in pairs_above(some, 0.8) for i, j in zip(a.tolist(), b.tolist(), strict=True)}
    assert len(expected) > 20 and found == expected
