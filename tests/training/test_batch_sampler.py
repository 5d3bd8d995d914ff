"""Batches of an epoch: every row once, no text twice, few single rows, and determined by seed and epoch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sbert_ft.training.batch_sampler import epoch_batches, fitting_batch_size

Batches = list[NDArray[np.int64]]


@st.composite
def rows_of_texts(draw: st.DrawFn) -> NDArray[np.int64]:
    """Draw rows of two or three texts out of a few, so that most rows share a text."""
    n_columns = draw(st.integers(2, 3))
    text = st.integers(0, draw(st.sampled_from([0, 2, 8, 100])))
    rows = draw(st.lists(st.tuples(*[text] * n_columns), max_size=60))
    return np.array(rows, np.int64).reshape(len(rows), n_columns)


def sizes(batches: Batches) -> list[int]:
    return [len(batch) for batch in batches]


def assert_each_row_once(batches: Batches, n_rows: int) -> None:
    assert all(batch.dtype == np.int64 and len(batch) for batch in batches)
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(n_rows))


def assert_no_text_twice(batches: Batches, text_rows: NDArray[np.int64]) -> None:
    for batch in batches:
        texts = [text for row in text_rows[batch].tolist() for text in set(row)]
        assert len(texts) == len(set(texts))


# ---------------------------------------------------------------- any texts


@given(st.integers(0, 200), st.integers(1, 70), st.integers(0, 2**32), st.integers(0, 50))
def test_every_row_comes_once_in_full_batches(n_rows: int, batch_size: int, seed: int, epoch: int) -> None:
    batches = epoch_batches(n_rows, batch_size, seed, epoch)
    assert_each_row_once(batches, n_rows)
    most = 3 if batch_size == 2 else batch_size
    assert all(len(batch) <= most for batch in batches)
    assert all(len(batch) == batch_size for batch in batches[:-2])
    if batch_size > 1 and n_rows > 1:
        assert min(sizes(batches)) > 1


@pytest.mark.parametrize(
    ("n_rows", "batch_size", "expected"),
    [
        (9, 4, [4, 3, 2]),
        (8, 4, [4, 4]),
        (10, 4, [4, 4, 2]),
        (5, 2, [2, 3]),
        (3, 2, [3]),
        (4, 3, [2, 2]),
        (1, 4, [1]),
        (3, 1, [1, 1, 1]),
        (0, 4, []),
    ],
)
def test_no_row_stays_alone_at_the_end(n_rows: int, batch_size: int, expected: list[int]) -> None:
    text_rows = np.arange(2 * n_rows).reshape(n_rows, 2)
    assert sizes(epoch_batches(n_rows, batch_size, 0, 0)) == expected
    assert sorted(sizes(epoch_batches(n_rows, batch_size, 0, 0, text_rows=text_rows))) == sorted(expected)


def test_the_order_is_that_of_numpy_for_seed_and_epoch() -> None:
    batches = epoch_batches(100, 16, 42, 3)
    expected = np.random.default_rng([42, 3]).permutation(100)
    assert np.concatenate(batches).tolist() == expected.tolist()
    distinct = np.arange(200).reshape(100, 2)
    assert np.concatenate(epoch_batches(100, 16, 42, 3, text_rows=distinct)).tolist() == expected.tolist()


@given(rows_of_texts(), st.integers(1, 9), st.integers(0, 9), st.integers(0, 9))
def test_the_order_depends_on_seed_and_epoch_alone(
    text_rows: NDArray[np.int64], batch_size: int, seed: int, epoch: int
) -> None:
    first = epoch_batches(len(text_rows), batch_size, seed, epoch, text_rows=text_rows)
    np.random.default_rng().permutation(5)
    np.random.seed(1)
    second = epoch_batches(len(text_rows), batch_size, seed, epoch, text_rows=text_rows.copy())
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in second]


def test_epochs_and_seeds_differ() -> None:
    orders = [np.concatenate(epoch_batches(50, 8, seed, epoch)).tolist() for seed in range(4) for epoch in range(4)]
    assert len({tuple(order) for order in orders}) == 16


def test_another_process_finds_the_same_batches() -> None:
    code = """
import numpy as np
from sbert_ft.training.batch_sampler import epoch_batches
text_rows = np.random.default_rng(0).integers(0, 40, (200, 2))
print([batch.tolist() for batch in epoch_batches(200, 8, 1, 2, text_rows=text_rows)])
"""
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)]
    assert runs[0] == runs[1] != b""


# ---------------------------------------------------------------- no text twice


@given(rows_of_texts(), st.integers(1, 12), st.integers(0, 5))
def test_no_text_comes_twice_in_a_batch_and_every_row_once(
    text_rows: NDArray[np.int64], batch_size: int, epoch: int
) -> None:
    batches = epoch_batches(len(text_rows), batch_size, 0, epoch, text_rows=text_rows)
    assert_each_row_once(batches, len(text_rows))
    assert_no_text_twice(batches, text_rows)
    assert max(sizes(batches), default=0) <= max(batch_size, 3 if batch_size > 1 else 1)


@given(rows_of_texts(), st.integers(2, 12))
def test_a_row_is_alone_only_where_no_other_batch_has_a_row_for_it(
    text_rows: NDArray[np.int64], batch_size: int
) -> None:
    batches = epoch_batches(len(text_rows), batch_size, 0, 0, text_rows=text_rows)
    for single in (batch for batch in batches if len(batch) == 1):
        texts = set(text_rows[single].ravel().tolist())
        # Batches of two that got a third row got it from another single row, maybe after this one had failed.
        for other in (batch for batch in batches if len(batch) > 3):
            assert all(texts & set(row) for row in text_rows[other].tolist())


def test_the_same_pair_twice_is_never_in_one_batch() -> None:
    pair = np.arange(20).reshape(10, 2)
    text_rows = np.concatenate([pair, pair, pair[:, ::-1]])
    batches = epoch_batches(30, 8, 0, 0, text_rows=text_rows)
    assert all(len(np.unique(batch % 10)) == len(batch) for batch in batches)
    assert len(batches) <= 5


def test_a_row_may_hold_one_text_twice() -> None:
    text_rows = np.repeat(np.arange(12), 2).reshape(12, 2)
    assert sizes(epoch_batches(12, 4, 0, 0, text_rows=text_rows)) == [4, 4, 4]
    assert fitting_batch_size(12, text_rows) == 12


def test_few_repeats_leave_the_batches_full() -> None:
    """Anchors of three rows each, as in the pairs of natural language inference."""
    rows = np.arange(3000)
    text_rows = np.stack([rows // 3, rows + 3000], axis=1)
    batches = epoch_batches(3000, 50, 0, 0, text_rows=text_rows)
    assert all(len(batch) == 50 for batch in batches[:-2])
    assert len(batches) <= 61
    assert_no_text_twice(batches, text_rows)


def test_a_frequent_text_makes_all_batches_smaller_and_about_equal() -> None:
    text_rows = np.arange(2000).reshape(1000, 2)
    text_rows[::10, 0] = 0  # in 100 of 1,000 rows
    assert fitting_batch_size(64, text_rows) == 10
    assert fitting_batch_size(8, text_rows) == 8
    batches = epoch_batches(1000, 64, 0, 0, text_rows=text_rows)
    assert_no_text_twice(batches, text_rows)
    assert max(sizes(batches)) == 10
    assert np.mean(sizes(batches)) > 8
    assert min(sizes(batches)) > 1


def test_a_text_in_most_rows_makes_small_batches_and_loses_no_row() -> None:
    text_rows = np.arange(400).reshape(200, 2)
    text_rows[:150, 0] = 0
    batches = epoch_batches(200, 16, 0, 0, text_rows=text_rows)
    assert_each_row_once(batches, 200)
    assert_no_text_twice(batches, text_rows)
    assert len(batches) == 150  # the minimum
    same = np.zeros((30, 2), np.int64)
    assert sizes(epoch_batches(30, 16, 0, 0, text_rows=same)) == [1] * 30


def test_rows_that_clash_in_every_way_are_all_placed() -> None:
    """Each of 20 texts is paired with each of 20 others, several times: at most 20 rows fit into a batch."""
    generator = np.random.default_rng(0)
    text_rows = np.stack([generator.integers(0, 20, 20_000), generator.integers(20, 40, 20_000)], axis=1)
    batches = epoch_batches(20_000, 64, 0, 0, text_rows=text_rows)
    assert_each_row_once(batches, 20_000)
    assert_no_text_twice(batches, text_rows)
    assert len(batches) < 1500
