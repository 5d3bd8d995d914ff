"""The nearest vectors, against a plain sort of all cosines."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sbert_ft.errors import InputError
from sbert_ft.vectors import nearest as module
from sbert_ft.vectors.nearest import nearest, unit_rows
from sbert_ft.vectors.products import HalfProducts, Products


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


def test_rows_and_scores_do_not_depend_on_blocks_or_on_what_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Near ties, equal rows and more of them than are kept: all have the same bits for any block."""
    base = vectors(40, 4)
    near = unit_rows(np.repeat(base, 60, axis=0) + np.random.default_rng(5).normal(size=(2400, 24)) * 1e-4)
    corpus = np.concatenate([near, np.repeat(base[:1], 900, axis=0), vectors(300, 6)])
    queries = np.concatenate([base, vectors(20, 7)])
    found = [nearest(queries, corpus, 20)]
    kinds = [Products]
    if torch.cpu._is_avx512_bf16_supported():
        kinds.append(HalfProducts)
    for kind in kinds:
        for query_rows, corpus_rows in ((7, 33), (1024, 512), (3, 4000)):
            monkeypatch.setattr(module, "products_for", kind)
            monkeypatch.setattr(module, "_QUERY_ROWS", query_rows)
            monkeypatch.setattr(module, "_CORPUS_ROWS", corpus_rows)
            monkeypatch.setattr(module, "_FEW_PRODUCTS", 0)
            found.append(nearest(queries, corpus, 20))
    assert found[0].rows[0].tolist() == sorted(found[0].rows[0].tolist()), "the equal rows, the lowest ones"
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].rows, other.rows)
        np.testing.assert_array_equal(found[0].scores, other.scores)


def test_a_mapped_file_of_float16_gives_the_cosines_of_its_rows(tmp_path: Path) -> None:
    halves = vectors(700, 8).astype(np.float16)
    np.save(tmp_path / "vectors.npy", halves)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    found = nearest(vectors(5, 9), mapped, 3)
    np.testing.assert_array_equal(found.scores, nearest(vectors(5, 9), halves.astype(np.float32), 3).scores)


def test_few_rows_no_queries_and_zero_rows() -> None:
    corpus = np.concatenate([vectors(2, 10), np.zeros((1, 24), np.float32)])
    assert nearest(vectors(4, 11), corpus, 9).rows.shape == (4, 3)
    assert nearest(corpus[:0], corpus, 2).rows.shape == (0, 2)
    assert nearest(corpus, corpus[:0], 2).rows.shape == (3, 0)
    assert nearest(corpus[2:], corpus, 3).scores.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("place", [0, 2999])
def test_nan_is_refused_with_its_row(place: int) -> None:
    corpus = vectors(3000, 12)
    corpus[place, 5] = np.nan
    with pytest.raises(InputError, match=f"the vector of row {place} has NaN or infinity"):
        nearest(vectors(3, 13), corpus, 4)
    with pytest.raises(InputError, match=f"the query of row {place} has NaN or infinity"):
        nearest(corpus, vectors(3, 13), 2)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is resident is read from /proc/self/smaps")
def test_many_queries_leave_only_a_block_of_a_mapped_file_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npy"
    np.save(path, vectors(100_000, 14, 96))
    expected = nearest(vectors(100, 15, 96), np.load(path), 5)
    mapped = np.load(path, mmap_mode="r")
    for _ in range(2):  # rows that were given back are read again
        found = nearest(vectors(100, 15, 96), mapped, 5)
        np.testing.assert_array_equal(found.rows, expected.rows)
        np.testing.assert_array_equal(found.scores, expected.scores)
        assert resident_kib(path) < 0.4 * path.stat().st_size / 1024
    nearest(vectors(1, 15, 96), mapped, 5)  # one query is faster where the rows stay
    assert resident_kib(path) > 0.9 * path.stat().st_size / 1024


def resident_kib(path: Path) -> int:
    """Return how much of a mapped file is in this process's memory."""
    lines = Path("/proc/self/smaps").read_text("utf-8").splitlines()
    begin = next(i for i, line in enumerate(lines) if line.endswith(str(path)))
    return int(next(line for line in lines[begin:] if line.startswith("Rss:")).split()[1])
