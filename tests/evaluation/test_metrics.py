"""Tests of metrics against scipy and scikit-learn, on random data and in every resample, and of undefined metrics."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from sbert_ft.config.metrics import choosing_metrics
from sbert_ft.config.settings import EvaluationSettings
from sbert_ft.errors import InputError
from sbert_ft.evaluation import bootstrap
from sbert_ft.evaluation import metrics as ours
from sbert_ft.evaluation.bootstrap import percentile_interval, resamples
from sbert_ft.evaluation.metrics import Numbers, Score

SETTINGS = EvaluationSettings()
FEW = EvaluationSettings(bootstrap_samples=20)
GRADED = ["spearman", "pearson"]
RANKED = ["average_precision", "roc_auc"]
DECIDED = ["f1", "accuracy", "precision", "recall", "mcc"]
BY_SKLEARN = {
    "average_precision": sk.average_precision_score,
    "roc_auc": sk.roc_auc_score,
    "f1": sk.f1_score,
    "accuracy": sk.accuracy_score,
    "precision": sk.precision_score,
    "recall": sk.recall_score,
    "mcc": sk.matthews_corrcoef,
}
# Few distinct scores, so that ties are common; whole numbers of hundredths, so that rounding makes no tie.
SCORES = st.integers(-100, 100).map(lambda n: n / 100) | st.sampled_from([0.0, 0.5, 1.0, -1.0])


def graded_metrics(predicted: Numbers, gold: Numbers, settings: EvaluationSettings, seed: int = 0) -> dict[str, Score]:
    return ours.graded_metrics(predicted, gold).with_intervals(settings, seed)


def label_metrics(
    predicted: Numbers, matches: np.ndarray, settings: EvaluationSettings, threshold: float | None = None
) -> dict[str, Score]:
    return ours.label_metrics(predicted, matches, threshold).with_intervals(settings)


def paired_differences(
    before: Numbers,
    after: Numbers,
    known: np.ndarray,
    settings: EvaluationSettings,
    seed: int = 0,
    thresholds: tuple[float, float] | None = None,
) -> dict[str, Score]:
    if known.dtype != np.bool_:
        sides = ours.graded_metrics(before, known), ours.graded_metrics(after, known)
    else:
        first, second = thresholds or (None, None)
        sides = ours.label_metrics(before, known, first), ours.label_metrics(after, known, second)
    return sides[1].minus(sides[0]).with_intervals(settings, seed)


def metric_value(name: str, predicted: Numbers, gold: Numbers | None = None, *, matches: Any = None) -> float | None:
    if gold is None:
        return ours.label_metrics(predicted, matches).value(name)
    return ours.graded_metrics(predicted, gold).value(name)


@st.composite
def graded(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(3, 25))
    columns = [draw(st.lists(SCORES, min_size=n, max_size=n)) for _ in range(2)]
    return np.array(columns[0], np.float32), 5 * np.array(columns[1])


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(3, 25))
    scores = draw(st.lists(SCORES, min_size=n, max_size=n))
    return np.array(scores, np.float32), np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))


def noisy(n: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return scores, and gold from 0 to 5 that is correlated with them."""
    random = np.random.default_rng(seed)
    gold = np.round(5 * random.random(n), 1)
    return (gold / 5 + random.normal(0, noise, n)).clip(-1, 1).astype(np.float32), gold


def reference(name: str, predicted: np.ndarray, known: np.ndarray, threshold: float = 0.25) -> float | None:
    """Return the metric by scipy or scikit-learn, None if it is undefined."""
    if name in GRADED:
        if len(np.unique(predicted)) == 1 or len(np.unique(known)) == 1:
            return None
        by = stats.spearmanr if name == "spearman" else stats.pearsonr
        return float(by(predicted.astype(np.float64), known).statistic)
    if name in RANKED:
        return None if known.all() or not known.any() else float(BY_SKLEARN[name](known, predicted))
    decided = predicted >= threshold
    one_of_a_kind = {
        "f1": not known.any(),
        "recall": not known.any(),
        "precision": not decided.any(),
        "accuracy": False,
    }
    one_of_a_kind["mcc"] = len(set(known.tolist())) == 1 or len(set(decided.tolist())) == 1
    return None if one_of_a_kind[name] else float(BY_SKLEARN[name](known, decided))


# values


@settings(deadline=None)
@given(graded())
def test_correlations_are_those_of_scipy(data: tuple[np.ndarray, np.ndarray]) -> None:
    predicted, gold = data
    found = graded_metrics(predicted, gold, FEW)
    assert list(found) == GRADED
    for name, score in found.items():
        assert score.value == pytest.approx(reference(name, predicted, gold), abs=1e-9)
        assert metric_value(name, predicted, gold) == score.value
        check(score)


@settings(deadline=None)
@given(labelled())
def test_metrics_of_labels_are_those_of_scikit_learn(data: tuple[np.ndarray, np.ndarray]) -> None:
    predicted, matches = data
    found = label_metrics(predicted, matches, FEW, threshold=0.25)
    assert list(found) == RANKED + DECIDED
    for name, score in found.items():
        assert score.value == pytest.approx(reference(name, predicted, matches), abs=1e-12), name
        check(score)
    assert metric_value("roc_auc", predicted, matches=matches) == found["roc_auc"].value


def check(score: Score) -> None:
    """For any data a metric is never NaN, is within its range, and has either a value or a reason."""
    content = score.to_json()
    assert list(content) == ["value", "low", "high", "reason"]
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert (score.low is None) == (score.high is None) == (score.reason is not None)
    if score.value is None:
        assert score.low is None
    else:
        assert -1 <= score.value <= 1
    if score.low is not None and score.high is not None:
        assert -1 <= score.low <= score.high <= 1


def test_an_example_by_hand() -> None:
    # ranks 1 2 3 4 against 2 1 3 4: 1 - 6 * (1 + 1) / (4 * 15)
    assert metric_value("spearman", [0.1, 0.2, 0.3, 0.9], [1.0, 0.0, 2.0, 5.0]) == pytest.approx(0.8)
    # in falling order: match, no, match, no: (1/1 + 2/3) / 2; of the four combinations three are won
    scores, matches = [0.9, 0.8, 0.7, 0.1], np.array([True, False, True, False])
    assert metric_value("average_precision", scores, matches=matches) == pytest.approx(5 / 6)
    assert metric_value("roc_auc", scores, matches=matches) == pytest.approx(3 / 4)
    found = label_metrics(scores, matches, FEW, threshold=0.8)  # accepts the first two
    assert {name: found[name].value for name in DECIDED} == pytest.approx(
        {"f1": 1 / 2, "accuracy": 1 / 2, "precision": 1 / 2, "recall": 1 / 2, "mcc": 0.0}
    )


def test_correlation_does_not_depend_on_the_scale() -> None:
    predicted, gold = noisy(60, 0.3)
    expected = graded_metrics(predicted, gold, FEW)
    for factor, shift in ((1e-3, 0.0), (1e6, -7e5), (1e300, 0.0), (1e-300, 0.0)):
        found = graded_metrics(predicted, factor * gold + shift, FEW)
        for name in GRADED:
            for end in ("value", "low", "high"):
                assert getattr(found[name], end) == pytest.approx(getattr(expected[name], end), abs=1e-6)


def test_a_perfect_order_is_one_and_no_more() -> None:
    gold = np.linspace(0, 5, 50)
    for name, score in graded_metrics((gold / 7).astype(np.float32), gold, FEW).items():
        assert score.value == pytest.approx(1, abs=1e-9) and score.value <= 1, name
        assert score.low is not None and score.low == pytest.approx(1, abs=1e-9)
    for score in label_metrics(gold / 7, gold > 2, FEW).values():
        assert (score.value, score.low, score.high) == pytest.approx((1, 1, 1))


# every resample


@settings(deadline=None, max_examples=40)
@given(graded(), st.integers(0, 2**32 - 1))
def test_each_resample_of_graded_pairs_gives_what_scipy_gives_for_it(
    data: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    predicted, gold = data[0].astype(np.float64), data[1]
    if len(np.unique(predicted)) == 1 or len(np.unique(gold)) == 1:
        return
    statistics = {
        "spearman": bootstrap.spearman_statistic(predicted, gold),
        "pearson": bootstrap.pearson_statistic(stats.zscore(predicted), stats.zscore(gold)),
    }
    compare_resamples(statistics, predicted, gold, seed)


@settings(deadline=None, max_examples=40)
@given(labelled(), st.integers(0, 2**32 - 1))
def test_each_resample_of_labelled_pairs_gives_what_scikit_learn_gives_for_it(
    data: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    predicted, matches = data[0].astype(np.float64), data[1]
    statistics = {
        "average_precision": bootstrap.average_precision_statistic(predicted, matches),
        "roc_auc": bootstrap.roc_auc_statistic(predicted, matches),
        **bootstrap.decided_statistics(predicted >= 0.25, matches),
    }
    compare_resamples(statistics, predicted, matches, seed)


def compare_resamples(statistics: dict[str, Any], predicted: np.ndarray, known: np.ndarray, seed: int) -> None:
    (counts,) = resamples(len(predicted), 5, seed)
    for name, statistic in statistics.items():
        for value, count in zip(statistic(counts), counts, strict=True):
            rows = np.repeat(np.arange(len(predicted)), count.astype(int))
            expected = reference(name, predicted[rows], known[rows])
            if expected is None:
                assert math.isnan(value), name
            else:
                assert value == pytest.approx(expected, abs=1e-7), name


def test_resamples_draw_as_many_pairs_as_there_are_and_follow_from_the_seed() -> None:
    first = np.concatenate(list(resamples(40, 200, seed=3)))
    assert first.shape == (200, 40)
    assert (first.sum(axis=1) == 40).all() and (first >= 0).all()
    assert first.mean() == 1 and 0.34 < (first == 0).mean() < 0.40  # 1/e is left out
    np.testing.assert_array_equal(first, np.concatenate(list(resamples(40, 200, seed=3))))
    assert not np.array_equal(first, np.concatenate(list(resamples(40, 200, seed=4))))


def test_resamples_hold_a_bounded_number_of_counts_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_CELLS", 100)
    assert [len(part) for part in resamples(30, 10, seed=0)] == [3, 3, 3, 1]
    assert [len(part) for part in resamples(1000, 2, seed=0)] == [1, 1]


# intervals


@pytest.mark.parametrize("name", GRADED + RANKED)
def test_an_interval_is_near_that_of_scipys_bootstrap(name: str) -> None:
    predicted, gold = noisy(150, 0.4)
    known = gold if name in GRADED else gold > 2.5
    ours = (graded_metrics if name in GRADED else label_metrics)(predicted, known, SETTINGS)[name]
    theirs = stats.bootstrap(
        (predicted, known),
        lambda p, k: reference(name, p, k),
        paired=True,
        vectorized=False,
        n_resamples=400,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours.low is not None and ours.high is not None and ours.value is not None
    assert ours.low < ours.value < ours.high
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.03)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    truth = metric_value("spearman", *noisy(200_000, 0.4, seed=99))
    quick = EvaluationSettings(bootstrap_samples=300, confidence=0.9)
    found = [graded_metrics(*noisy(120, 0.4, seed=seed), quick)["spearman"] for seed in range(150)]
    held = np.mean([score.low <= truth <= score.high for score in found])  # type: ignore[operator]
    assert 0.82 < held < 0.97


def test_intervals_follow_from_the_seed_and_shrink_with_pairs_and_with_confidence() -> None:
    few, many = noisy(100, 0.4), noisy(1600, 0.4)
    one, same = (graded_metrics(*few, SETTINGS, seed=5) for _ in range(2))
    assert one == same != graded_metrics(*few, SETTINGS, seed=6)
    loose = EvaluationSettings(confidence=0.5)
    widths = [
        width(graded_metrics(*data, s)["spearman"]) for data, s in ((few, SETTINGS), (few, loose), (many, SETTINGS))
    ]
    assert widths[1] < widths[0] / 2 and widths[2] == pytest.approx(widths[0] / 4, rel=0.4)


def width(score: Score) -> float:
    assert score.low is not None and score.high is not None
    return score.high - score.low


def test_the_ends_of_an_interval_are_percentiles_of_the_defined_values() -> None:
    assert percentile_interval(np.append(np.arange(101.0), [np.nan] * 101), 0.9) == pytest.approx((5, 95))
    assert percentile_interval(np.append(np.arange(101.0), [np.nan] * 102), 0.9) is None
    assert percentile_interval(np.zeros(0), 0.9) is None


# differences


def test_a_difference_is_taken_within_each_resample() -> None:
    before, gold = noisy(200, 0.5)
    after = (0.5 * before + 0.1 * gold).astype(np.float32)
    found = paired_differences(before, after, gold, SETTINGS, seed=7)
    counts = np.concatenate(list(resamples(200, SETTINGS.bootstrap_samples, seed=7)))
    for name in GRADED:
        drawn = []
        for count in counts[:200]:
            rows = np.repeat(np.arange(200), count.astype(int))
            drawn.append(reference(name, after[rows], gold[rows]) - reference(name, before[rows], gold[rows]))  # type: ignore[operator]
        sides = [graded_metrics(side, gold, SETTINGS, seed=7)[name] for side in (before, after)]
        assert found[name].value == pytest.approx(sides[1].value - sides[0].value)  # type: ignore[operator]
        assert (found[name].low, found[name].high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)
        assert width(found[name]) < width(sides[0])


def test_a_model_does_not_differ_from_itself() -> None:
    predicted, gold = noisy(50, 0.5)
    for known in (gold, gold > 2.5):
        for score in paired_differences(predicted, predicted, known, FEW, thresholds=(0.5, 0.5)).values():
            assert score == Score(0.0, 0.0, 0.0)


def test_differences_of_decisions_take_the_threshold_of_each_model() -> None:
    before, gold = noisy(300, 0.3)
    after, matches = (before - 0.5).clip(-1, 1), gold > 2.5
    ranked = paired_differences(before, after, matches, FEW)
    assert list(ranked) == RANKED
    found = paired_differences(before, before - np.float32(0.5), matches, FEW, thresholds=(0.5, 0.0))
    assert list(found) == RANKED + DECIDED
    assert found["f1"].value == pytest.approx(0, abs=0.02)


def test_a_difference_is_undefined_where_a_side_is() -> None:
    predicted, gold = noisy(50, 0.5)
    level = np.full(50, 0.5)
    assert paired_differences(level, predicted, gold, FEW)["spearman"] == Score(
        None, reason="before: all scores are equal"
    )
    assert paired_differences(predicted, level, gold, FEW)["pearson"].reason == "after: all scores are equal"


# what is undefined

NAN = float("nan")
ONE_DIFFERS = np.array([True, False, True])


@pytest.mark.parametrize(
    ("predicted", "gold", "reason"),
    [
        ([], [], "0 pairs, too few: at least 3 are needed"),
        ([0.5], [1], "1 pair, too few: at least 3 are needed"),
        ([0.5, 0.6], [1, 2], "2 pairs, too few: at least 3 are needed"),
        ([0.5, 0.5, 0.5], [1, 2, 3], "all scores are equal"),
        ([0.5, 0.6, 0.7], [4, 4, 4], "all gold scores are equal"),
        ([0.5, NAN, NAN], [1, 2, 3], "2 of 3 scores are NaN or infinite"),
        ([0.5, float("inf"), 0.1], [1, 2, 3], "1 of 3 scores are NaN or infinite"),
    ],
)
def test_undefined_correlations_are_none_with_a_reason_and_without_a_warning(
    predicted: list[float], gold: list[float], reason: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = graded_metrics(np.array(predicted, np.float32), np.array(gold), FEW)
        assert metric_value("spearman", predicted, gold) is None
    assert found == dict.fromkeys(GRADED, Score(None, reason=reason))


def test_scores_that_differ_by_rounding_alone_have_no_pearson_correlation() -> None:
    found = graded_metrics(np.array([1.0, np.nextafter(1, 2), 1.0, 1.0]), [1, 2, 3, 4], FEW)
    assert found["pearson"] == Score(None, reason="all scores are equal up to rounding")
    assert found["spearman"].value is not None


@pytest.mark.parametrize(
    ("predicted", "matches", "undefined"),
    [
        ([0.9, 0.8, 0.1], [True] * 3, {**dict.fromkeys([*RANKED, "mcc"], "every pair matches")}),
        ([0.9, 0.8, 0.1], [False] * 3, dict.fromkeys([*RANKED, "f1", "recall", "mcc"], "no pair matches")),
        ([0.4, 0.3, 0.1], [True, False, False], dict.fromkeys(["precision", "mcc"], "no pair reaches the threshold")),
        ([0.9, 0.8, 0.7], [True, False, False], {"mcc": "every pair reaches the threshold"}),
        ([0.9, NAN, 0.7], [True, False, False], dict.fromkeys(RANKED + DECIDED, "1 of 3 scores are NaN or infinite")),
        ([0.9, 0.1], [True, False], dict.fromkeys(RANKED + DECIDED, "2 pairs, too few: at least 3 are needed")),
    ],
)
def test_undefined_metrics_of_labels_are_none_with_a_reason_and_without_a_warning(
    predicted: list[float], matches: list[bool], undefined: dict[str, str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = label_metrics(predicted, np.array(matches, bool), FEW, threshold=0.5)
    assert {name: score.reason for name, score in found.items() if score.value is None} == undefined


def test_equal_scores_rank_by_chance() -> None:
    found = label_metrics(np.full(40, 0.3), np.arange(40) < 10, FEW)
    assert found["roc_auc"].value == 0.5 and found["average_precision"].value == pytest.approx(0.25)


def test_a_value_may_have_no_interval() -> None:
    # both classes, but most resamples of three pairs miss one of them or have one score only
    found = label_metrics([0.1, 0.2, 0.3], np.array([False, False, True]), SETTINGS, threshold=0.3)
    assert found["precision"].value == 1 and found["precision"].reason is None  # defined in 70 % of the resamples
    scarce = graded_metrics([0.1] * 30 + [0.2], [1.0] * 30 + [2.0], EvaluationSettings(bootstrap_samples=400))[
        "spearman"
    ]
    assert scarce.value == pytest.approx(1) and scarce.low == scarce.high == pytest.approx(1)
    rarest = graded_metrics([0.1] * 2 + [0.2] + [0.1] * 5, [1.0] * 7 + [2.0], SETTINGS)["spearman"]
    assert rarest.value is not None and rarest.low is None
    assert rarest.reason is not None and rarest.reason.startswith("no interval: undefined in ")
    assert rarest.reason.endswith(" of 1000 resamples")


# what is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metric_value("speerman", [1, 2, 3], [1, 2, 3]),
            "'speerman', expected one of spearman, pearson",
        ),
        (lambda: metric_value("f1", [1, 2, 3], matches=ONE_DIFFERS), "'f1', expected one of average_precision, roc"),
        (lambda: metric_value("pearson", [1, 2, 3], matches=ONE_DIFFERS), "'pearson', expected one of average_prec"),
        (lambda: metric_value("roc_auc", [1, 2, 3], [1, 2, 3]), "'roc_auc', expected one of spearman, pearson"),
        (lambda: graded_metrics([1, 2, 3], [1, 2], FEW), "3 scores but 2 known"),
        (lambda: graded_metrics([1, 2, 3], [1, NAN, 2], FEW), "a gold score is NaN"),
        (lambda: graded_metrics([[1, 2, 3]], [[1, 2, 3]], FEW), "2 dimensions"),  # type: ignore[list-item]
        (lambda: graded_metrics(["a", "b"], [1, 2], FEW), "predicted are not numbers"),  # type: ignore[list-item]
        (lambda: label_metrics([1, 2, 3], np.array([1, 0, 1]), FEW), "type int64, expected bool"),
        (lambda: label_metrics([1, 2, 3], np.array([True]), FEW), "3 scores but 1 known"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_graded_and_labelled_pairs_have_the_metrics_of_the_table() -> None:
    assert {*choosing_metrics("graded", "labels")} == {*GRADED, *RANKED}
