"""Tests of temperatures against a grid search, and of probabilities against scipy and scikit-learn."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import special
from sklearn import metrics as sk

from sbert_ft.errors import InputError
from sbert_ft.evaluation.calibration import (
    class_probabilities,
    expected_calibration_error,
    fit_temperature,
    log_loss,
    temperature_fault,
)


def believable(n: int, n_classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits, and classes drawn with the probabilities of these logits."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (n, n_classes))
    cumulated = special.softmax(logits, axis=1).cumsum(axis=1)
    gold = (random.random((n, 1)) > cumulated[:, :-1]).sum(axis=1)
    return logits, gold.astype(np.int64)


# temperature


@pytest.mark.parametrize("surer", [0.25, 1.0, 4.0])
def test_the_temperature_undoes_how_much_too_sure_logits_are(surer: float) -> None:
    logits, gold = believable(20_000)
    assert fit_temperature((surer * logits).astype(np.float32), gold) == pytest.approx(surer, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_temperature_has_a_lower_loss(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, gold = random.normal(0, 3, (40, 4)), random.integers(4, size=40)
    logits[np.arange(40), gold] += 0.7 * seed
    found = fit_temperature(logits, gold)
    others = np.geomspace(0.05, 20, 2000)
    losses = [-special.log_softmax(logits / t, axis=1)[np.arange(40), gold].mean() for t in others]
    assert log_loss(class_probabilities(logits / found), gold) <= min(losses) + 1e-7
    assert found == pytest.approx(others[np.argmin(losses)], rel=0.01)


def test_the_temperature_of_scaled_logits_scales_and_predictions_stay() -> None:
    logits, gold = believable(500)
    found = fit_temperature(logits, gold)
    assert fit_temperature(3 * logits, gold) == pytest.approx(3 * found, rel=1e-3)
    assert fit_temperature(logits / found, gold) == pytest.approx(1, rel=1e-3)
    assert (class_probabilities(logits / found).argmax(axis=1) == logits.argmax(axis=1)).all()


def test_calibrated_probabilities_err_less() -> None:
    logits, gold = believable(5000)
    sure = 5 * logits
    found = fit_temperature(sure[:2500], gold[:2500])
    before, after = (class_probabilities(x[2500:]) for x in (sure, sure / found))
    assert expected_calibration_error(after, gold[2500:]) < 0.05 < expected_calibration_error(before, gold[2500:])
    assert log_loss(after, gold[2500:]) < log_loss(before, gold[2500:])


def test_the_temperature_stays_within_its_bounds() -> None:
    gold = np.arange(300) % 3
    right = 0.01 * np.eye(3)[gold]
    right[0, 1] = 0.02
    assert fit_temperature(right, gold) == pytest.approx(0.05, rel=1e-3)
    assert fit_temperature(-right, gold) == pytest.approx(20, rel=1e-3)


def test_huge_logits_do_not_overflow() -> None:
    logits, gold = believable(200)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert fit_temperature(1e30 * logits.astype(np.float32), gold) == pytest.approx(20, rel=1e-4)
        assert np.isfinite(class_probabilities(1e30 * logits)).all()


@pytest.mark.parametrize(
    ("gold", "logits", "why"),
    [
        (np.arange(9) % 3, np.eye(3)[np.arange(9) % 2], "9 rows, too few: at least 10 are needed"),
        (np.zeros(1, np.int64), np.eye(3)[:1], "1 row, too few: at least 10 are needed"),
        (np.zeros(12, np.int64), np.eye(3)[np.arange(12) % 3], "all rows are of one class"),
        (np.arange(12) % 3, np.full((12, 3), 0.5), "all classes of each row are equally likely"),
        (np.arange(12) % 3, np.eye(3)[np.arange(12) % 3], "all rows are classified correctly"),
    ],
)
def test_rows_that_cannot_tell_give_no_temperature_and_a_warning(
    gold: np.ndarray, logits: np.ndarray, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert temperature_fault(logits, gold) == why
    with caplog.at_level(logging.WARNING):
        assert fit_temperature(logits, gold) is None
    assert f"probabilities are not calibrated: {why}" in caplog.text


def test_one_wrong_row_of_ten_is_enough_to_fit_by() -> None:
    gold = np.arange(10) % 2
    assert temperature_fault(np.eye(2)[np.append(gold[:9], 0)], gold) is None


def test_wrong_arguments_are_refused_with_what_is_wrong() -> None:
    logits, gold = believable(12)
    with pytest.raises(InputError, match=r"logits have the shape \(12, 3\) and classes \(11,\)"):
        fit_temperature(logits, gold[:11])
    with pytest.raises(InputError, match=r"probabilities have the shape \(0, 3\)"):
        log_loss(logits[:0], gold[:0])
    with pytest.raises(InputError, match="there is a class number 3, expected 0 to 2"):
        fit_temperature(logits, np.full(12, 3))
    with pytest.raises(InputError, match="there is a class number -1"):
        expected_calibration_error(class_probabilities(logits), np.full(12, -1))
    logits[4, 1] = np.nan
    with pytest.raises(InputError, match="logits of 1 of 12 rows are NaN or infinite"):
        fit_temperature(logits, gold)


# probabilities


@given(arrays(np.float32, (4, 3), elements=st.floats(-100, 100, width=32)))
def test_probabilities_are_those_of_scipy(logits: np.ndarray) -> None:
    found = class_probabilities(logits)
    assert found.dtype == np.float64
    assert found == pytest.approx(special.softmax(logits.astype(np.float64), axis=1), abs=1e-15)
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-12)


def test_the_log_loss_is_that_of_scikit_learn() -> None:
    logits, gold = believable(300)
    probabilities = class_probabilities(logits)
    assert log_loss(probabilities, gold) == pytest.approx(sk.log_loss(gold, probabilities))
    impossible = np.array([[1.0, 0.0], [0.5, 0.5]])
    assert log_loss(impossible, np.array([1, 0])) == pytest.approx(sk.log_loss([1, 0], impossible))


def test_the_calibration_error_of_an_example_by_hand() -> None:
    top = np.array([0.95, 0.95, 0.65, 0.65])
    probabilities = np.stack([top, 1 - top], axis=1)
    gold = np.array([0, 1, 0, 0])
    # bin of 0.95: half is right, 0.45 apart; bin of 0.65: all are right, 0.35 apart; half of the rows each
    assert expected_calibration_error(probabilities, gold, 10) == pytest.approx(0.45 / 2 + 0.35 / 2)
    # in one bin: mean probability 0.8, three of four right
    assert expected_calibration_error(probabilities, gold, 1) == pytest.approx(0.05)


def test_an_end_of_a_bin_belongs_to_the_bin_below() -> None:
    probabilities = np.array([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]])
    # bins (0, 0.5] with 0.5 wrong, (0.5, 1] with 0.75 wrong and 1.0 right
    assert expected_calibration_error(probabilities, np.array([1, 1, 0]), 2) == pytest.approx((0.5 + 0.75) / 3)


def test_classes_drawn_with_their_probabilities_are_calibrated() -> None:
    logits, gold = believable(20_000)
    assert expected_calibration_error(class_probabilities(logits), gold) < 0.02
    assert expected_calibration_error(class_probabilities(np.zeros((30, 3))), np.arange(30) % 3) == pytest.approx(
        0, abs=1e-12
    )
