"""Tests of thresholds (against a search over all of them), calibrations, and their storage in a model folder."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from sentence_transformers import SentenceTransformer
from sklearn import metrics as sk
from sklearn.isotonic import IsotonicRegression

from sbert_ft.config.settings import CalibrationKind, EvaluationSettings
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.errors import InputError, ModelFolderError
from sbert_ft.evaluation.bootstrap import resamples
from sbert_ft.evaluation.calibration import fit_calibration, fit_decision, fit_threshold, same_data
from sbert_ft.model_folder.decision import Calibration, Decision, FittedOn, parse_target, stored_calibration
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.siamese import SiameseBert

FITTED_ON = {"source": "some/where/dev.csv", "sha256": "abc"}
FEW = EvaluationSettings(bootstrap_samples=25)
FILE = Path("model/sbert_ft.json")
ISOTONIC = Calibration("isotonic", x=(-0.5, 0.25, 0.5), y=(0.125, 0.125, 0.75))
PLATT = Calibration("platt", slope=8.0, intercept=-4.0)
DECISION = Decision(
    threshold=0.5,
    target="precision>=0.95",
    fitted_on=FittedOn("dev.csv", "abc", 1500, 400),
    low=0.4,
    high=0.625,
    confidence=0.9,
    reached={"precision": 0.96, "recall": 0.5, "f1": 0.66},
    calibration=ISOTONIC,
    match_from=2.5,
    scale=(0.0, 5.0),
)


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Return scores with ties, not all equal, and both labels."""
    n = draw(st.integers(2, 30))
    score = st.integers(-20, 20).map(lambda i: i / 20)
    scores = draw(st.lists(score, min_size=n, max_size=n).filter(lambda s: len(set(s)) > 1))
    matches = draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(lambda m: len(set(m)) > 1))
    return np.array(scores, np.float32), np.array(matches)


def noisy(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return scores whose probability of a match is the sigmoid of 8 times the score minus 4."""
    random = np.random.default_rng(seed)
    scores = random.uniform(-0.2, 1, n).astype(np.float32)
    return scores, random.random(n) < expit(8 * scores.astype(np.float64) - 4)


def fitted(scores: np.ndarray, matches: np.ndarray, target: str = "f1", kind: CalibrationKind = "none") -> Decision:
    settings = EvaluationSettings(threshold_target=target, calibration=kind, bootstrap_samples=25)
    return fit_decision(scores, matches, settings, FITTED_ON)


def reached(threshold: float, scores: np.ndarray, matches: np.ndarray) -> dict[str, float]:
    """Return precision, recall and F1 of a threshold that accepts at least one pair."""
    decided = scores >= threshold
    n_true, n_accepted, n_matches = (decided & matches).sum(), decided.sum(), matches.sum()
    precision, recall = n_true / n_accepted, n_true / n_matches
    return {"precision": precision, "recall": recall, "f1": 2 * n_true / (n_accepted + n_matches)}


# thresholds


@settings(deadline=None)
@given(
    labelled(), st.sampled_from(["f1", "precision>=0.6", "precision>=1", "recall>=0.5", "recall>=.9", "recall>=1.0"])
)
def test_no_other_threshold_does_better(data: tuple[np.ndarray, np.ndarray], target: str) -> None:
    scores, matches = data
    # every set of accepted pairs that any threshold gives
    all_reached = [reached(score, scores.astype(np.float64), matches) for score in np.unique(scores).tolist()]
    kind, _, least = target.partition(">=")
    if kind == "f1":
        best = max(r["f1"] for r in all_reached)
    else:
        aim = {"precision": "recall", "recall": "precision"}[kind]
        fit = [r[aim] for r in all_reached if r[kind] >= float(least)]
        if not fit:
            with pytest.raises(InputError, match=f"no threshold reaches {target} on 'some/where/dev.csv'"):
                fitted(scores, matches, target)
            return
        best = max(fit)
    decision = fitted(scores, matches, target)
    found = reached(decision.threshold, scores.astype(np.float64), matches)
    assert found == pytest.approx(dict(decision.reached))
    assert found["f1"] == pytest.approx(sk.f1_score(matches, decision.match(scores)))
    assert found["f1" if kind == "f1" else aim] == pytest.approx(best)
    assert kind == "f1" or found[kind] >= float(least)
    np.testing.assert_array_equal(decision.match(scores), scores.astype(np.float64) >= decision.threshold)


def test_an_example_by_hand() -> None:
    scores = np.array([0.9, 0.7, 0.6, 0.4, 0.1])
    matches = np.array([True, True, False, True, False])
    best = fitted(scores, matches)  # accepting 2 gives 4/5, accepting 4 gives 6/7
    assert best.threshold == pytest.approx(0.25) and best.reached == pytest.approx(
        {"precision": 3 / 4, "recall": 1, "f1": 6 / 7}
    )
    assert fitted(scores, matches, "precision>=0.95").threshold == pytest.approx(0.65)
    assert fitted(scores, matches, "recall>=0.5").threshold == pytest.approx(0.65)
    assert fitted(scores, matches, "recall>=0.7").threshold == pytest.approx(0.25)
    assert (best.target, best.match_from, best.scale, best.similarity) == ("f1", None, None, "cosine")
    assert best.fitted_on == FittedOn("dev.csv", "abc", n=5, n_matches=3)  # the model may be shared: no folders


def test_accepting_all_has_a_threshold_too() -> None:
    scores, matches = np.array([0.5, 0.2, 0.0]), np.array([True, False, True])
    assert fitted(scores, matches, "recall>=1").threshold == -0.5
    assert fitted(np.array([0.5, 0.2, -1.0]), matches, "recall>=1").match(np.array([-1.0])).all()


def test_a_threshold_between_neighbouring_float32_numbers_parts_them() -> None:
    low = np.float32(0.7)
    scores = np.array([low, np.nextafter(low, np.float32(1))], np.float32)
    decision = fitted(scores, np.array([False, True]))
    assert decision.match(scores).tolist() == [False, True]
    assert Decision.from_json(json.loads(json.dumps(decision.to_json())), FILE).match(scores).tolist() == [False, True]
    close = np.array([0.7, np.nextafter(0.7, 1)])  # in float64 there is no number between
    assert fitted(close, np.array([False, True])).match(close).tolist() == [False, True]


def test_equal_scores_are_accepted_together() -> None:
    scores = np.array([0.8] * 4 + [0.3] * 4)
    matches = np.array([True] * 3 + [False] + [True] + [False] * 3)
    decision = fitted(scores, matches)
    assert decision.threshold == pytest.approx(0.55)
    assert decision.reached["precision"] == decision.reached["recall"] == 0.75


def test_a_precision_that_cannot_be_reached_is_refused_with_what_can_be() -> None:
    scores, matches = np.array([0.9, 0.8, 0.7, 0.1]), np.array([False, True, True, False])
    best = "0.6667, at a threshold of 0.4000, with a recall of 1.0000; lower the target"
    message = f"precision>=0.95 .*the highest precision is {best}"
    with pytest.raises(InputError, match=message):
        fitted(scores, matches, "precision>=0.95")
    assert fitted(scores, matches, "precision>=0.66").threshold == pytest.approx(0.4)


@pytest.mark.parametrize("target", ["f1", "precision>=0.7", "recall>=0.9"])
def test_the_interval_is_that_of_thresholds_chosen_anew(target: str) -> None:
    scores, matches = noisy(120)
    many = EvaluationSettings(threshold_target=target, calibration="none", bootstrap_samples=60, confidence=0.8)
    decision = fit_decision(scores, matches, many, FITTED_ON, seed=3)
    chosen = []
    for count in np.concatenate(list(resamples(120, 60, seed=3))):
        rows = np.repeat(np.arange(120), count.astype(int))
        chosen.append(fitted(scores[rows], matches[rows], target).threshold)
    # a resample's own neighbours lie further apart than those of all pairs
    assert (decision.low, decision.high) == pytest.approx(np.quantile(chosen, [0.1, 0.9]), abs=0.03)
    assert decision.confidence == 0.8
    assert decision == fit_decision(scores, matches, many, FITTED_ON, seed=3)


def test_the_interval_shrinks_with_pairs() -> None:
    widths = []
    for n in (100, 3000):
        decision = fit_decision(*noisy(n), EvaluationSettings(calibration="none"), FITTED_ON)
        assert decision.low is not None and decision.high is not None
        assert decision.low <= decision.threshold <= decision.high
        widths.append(decision.high - decision.low)
    assert widths[1] < widths[0] / 1.5


def test_resamples_that_allow_no_threshold_give_no_interval() -> None:
    one = EvaluationSettings(calibration="none", bootstrap_samples=1)
    found = [fit_decision(np.array([0.1, 0.9]), np.array([False, True]), one, FITTED_ON, seed=s) for s in range(20)]
    assert {decision.threshold for decision in found} == {0.5}
    assert {(decision.low, decision.high) for decision in found} == {(0.5, 0.5), (None, None)}


@pytest.mark.parametrize(
    ("scores", "matches", "message"),
    [
        (
            [0.1, 0.2],
            [True, True],
            "has 2 pairs, of which 2 match: a threshold needs matching and other pairs",
        ),
        ([0.1, 0.2], [False, False], "has 2 pairs, of which none matches"),
        ([], [], "has 0 pairs, of which none matches"),
        ([0.3, 0.3], [True, False], "all scores of 'some/where/dev.csv' are 0.3000"),
        ([0.3, float("nan")], [True, False], "1 of 2 scores of 'some/where/dev.csv' are not cosines"),
        ([0.3, 1.5], [True, False], "1 of 2 scores of 'some/where/dev.csv' are not cosines"),
        ([0.3, 0.4, 0.5], [True, False], r"found shapes \(3,\) and \(2,\)"),
    ],
)
def test_pairs_that_no_threshold_can_be_fitted_on_are_refused(
    scores: list[float], matches: list[bool], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fit_decision(np.array(scores), np.array(matches, bool), EvaluationSettings(), FITTED_ON)


@pytest.mark.parametrize("target", ["F1", "accuracy", "precision", "precision>0.9", "recall>=0", "recall>=1.5", "f1 "])
def test_an_unknown_target_is_refused(target: str) -> None:
    assert parse_target(target) is None
    with pytest.raises(InputError, match="expected f1, or precision>=X or recall>=X"):
        fitted(*noisy(20), target)


def test_targets_are_those_of_the_configuration() -> None:
    from sbert_ft.config import settings as config

    pattern = next(f.metadata for f in dataclasses.fields(EvaluationSettings) if f.name == "threshold_target")
    (limits,) = pattern.values()
    for target in [
        "f1",
        "precision>=0.95",
        "recall>=.9",
        "precision>=1",
        "recall>=1.0",
        "recall>=0.0",
        "recall>=2",
        "",
    ]:
        assert limits.admits_text(target) is (parse_target(target) is not None), target
    assert parse_target("recall>=.9") == ("recall", 0.9) and parse_target("f1") == ("f1", 0.0)
    assert config.EvaluationSettings().threshold_target == "f1"


# calibrations


def test_auto_is_platt_below_a_thousand_pairs_and_isotonic_from_there_on() -> None:
    for n, kind in ((999, "platt"), (1000, "isotonic")):
        calibration = fit_calibration(*as_float64(noisy(n)), "auto")
        assert calibration is not None and calibration.kind == kind
    assert fit_calibration(*as_float64(noisy(1000)), "none") is None
    with pytest.raises(InputError, match="calibration is 'sigmoid', expected one of auto, isotonic, platt, none"):
        fitted(*noisy(20), kind="sigmoid")  # type: ignore[arg-type]


def as_float64(data: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return data[0].astype(np.float64), data[1]


@settings(deadline=None, max_examples=40)
@given(labelled())
def test_platt_is_the_sigmoid_of_least_cross_entropy_to_smoothed_targets(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, matches = as_float64(data)
    calibration = fit_calibration(scores, matches, "platt")
    assert calibration is not None
    n_matches, n_others = matches.sum(), (~matches).sum()
    targets = np.where(matches, (n_matches + 1) / (n_matches + 2), 1 / (n_others + 2))

    def entropy(parameters: np.ndarray) -> float:
        z = max(parameters[0], 0) * scores + parameters[1]
        return float((np.logaddexp(0, z) - targets * z).sum())

    best = min((minimize(entropy, start, method="Nelder-Mead") for start in ([1, 0], [20, -5])), key=lambda r: r.fun)
    assert entropy(np.array([calibration.slope, calibration.intercept])) <= best.fun + 1e-5


@settings(deadline=None)
@given(labelled())
def test_isotonic_is_that_of_scikit_learn_kept_off_zero_and_one(data: tuple[np.ndarray, np.ndarray]) -> None:
    scores, matches = as_float64(data)
    calibration = fit_calibration(scores, matches, "isotonic")
    assert calibration is not None
    asked = np.linspace(-1, 1, 41)
    low, high = 1 / ((~matches).sum() + 2), (matches.sum() + 1) / (matches.sum() + 2)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, matches)
    np.testing.assert_allclose(calibration.probability(scores), theirs.predict(scores).clip(low, high), atol=1e-6)
    probabilities = calibration.probability(asked)
    assert probabilities.min() >= low - 1e-7 and probabilities.max() <= high + 1e-7


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_probabilities_are_near_the_true_ones(kind: CalibrationKind) -> None:
    scores, matches = noisy(6000)
    decision = fitted(scores, matches, kind=kind)
    asked = np.linspace(0, 0.9, 30, dtype=np.float32)
    np.testing.assert_allclose(
        stored_calibration(decision).probability(asked), expit(8 * asked - 4), atol=0.02 if kind == "platt" else 0.1
    )


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_separated_scores_do_not_give_certainty(kind: CalibrationKind) -> None:
    scores = np.array([0.1, 0.1001, 0.9, 0.9001])
    decision = fitted(scores, np.array([False, False, True, True]), kind=kind)
    probabilities = stored_calibration(decision).probability(np.array([-1, 0.1, 0.5, 0.9, 1]))
    assert (probabilities[[1, 3]] == pytest.approx([0.25, 0.75], abs=0.02)) and (np.diff(probabilities) >= 0).all()


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_scores_that_fall_where_pairs_match_give_all_the_same_probability_and_a_warning(
    kind: CalibrationKind, caplog: pytest.LogCaptureFixture
) -> None:
    scores, matches = noisy(400)
    decision = fitted(-scores, matches, kind=kind)
    (record,) = caplog.records
    assert "matching pairs do not score higher than others" in record.getMessage()
    probabilities = stored_calibration(decision).probability(np.linspace(-1, 1, 5))
    assert probabilities == pytest.approx([matches.mean()] * 5, abs=0.01)


FINITE = st.floats(-1, 1)
CURVES = st.one_of(
    st.builds(
        lambda points: Calibration(
            "isotonic", x=tuple(sorted(x for x, _ in points)), y=tuple(sorted(y for _, y in points))
        ),
        st.lists(st.tuples(FINITE, st.floats(0, 1)), min_size=1, max_size=12, unique_by=lambda p: p[0]),
    ),
    st.builds(lambda a, b: Calibration("platt", slope=a, intercept=b), st.floats(0, 1e15), st.floats(-1e15, 1e15)),
)


@settings(deadline=None)
@given(CURVES, st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40))
def test_probabilities_never_fall_and_stay_within_their_range(curve: Calibration, scores: list[float]) -> None:
    with np.errstate(all="raise", under="ignore"):
        probabilities = curve.probability(np.sort(np.array(scores, np.float32)))
    assert probabilities.dtype == np.float32
    assert probabilities.min() >= 0 and probabilities.max() <= 1
    assert (np.diff(probabilities) >= 0).all()


def test_lines_between_points_by_hand() -> None:
    scores = np.array([-1.0, -0.5, 0.0, 0.25, 0.375, 0.5, 1.0])
    assert ISOTONIC.probability(scores).tolist() == [0.125, 0.125, 0.125, 0.125, 0.4375, 0.75, 0.75]
    assert Calibration("isotonic", x=(0.5,), y=(0.25,)).probability(scores).tolist() == [0.25] * 7
    assert PLATT.probability(np.array([0.5, 1.0])) == pytest.approx([0.5, expit(4.0)])
    assert PLATT.probability(np.zeros(0, np.float32)).shape == (0,)


def test_scores_that_are_none_are_not_decided() -> None:
    for scores in (np.array([0.5, np.nan]), np.array([np.inf, 0.5])):
        for decide in (DECISION.match, stored_calibration(DECISION).probability):
            with pytest.raises(InputError, match="1 of 2 scores are NaN or infinite"):
                decide(scores)
    with pytest.raises(InputError, match="without a calibration"):
        stored_calibration(dataclasses.replace(DECISION, calibration=None))


# what a folder keeps


@settings(deadline=None)
@given(
    st.builds(
        lambda curve, interval, threshold: dataclasses.replace(
            DECISION, calibration=curve, low=interval[0], high=interval[1], threshold=threshold
        ),
        st.none() | CURVES,
        st.just((None, None)) | st.tuples(FINITE, FINITE).map(sorted),
        FINITE,
    )
)
def test_a_decision_is_the_same_after_json(decision: Decision) -> None:
    assert Decision.from_json(json.loads(json.dumps(decision.to_json(), allow_nan=False)), FILE) == decision
    assert Decision.from_json(decision.to_json(), FILE) == decision


def test_a_decision_of_yes_and_no_labels_has_no_scale() -> None:
    decision = dataclasses.replace(DECISION, match_from=None, scale=None, reached={})
    assert Decision.from_json(decision.to_json(), FILE) == decision


def test_a_fitted_decision_is_the_same_after_json() -> None:
    for kind in ("platt", "isotonic", "none"):
        scores, matches = noisy(200)
        decision = fitted(scores, matches, kind=kind)  # type: ignore[arg-type]
        again = Decision.from_json(json.loads(json.dumps(decision.to_json())), FILE)
        assert again == decision
        np.testing.assert_array_equal(again.match(scores), decision.match(scores))


WRONG = [
    ("threshold", None, "decision.threshold is 'None', expected a number from -1 to 1"),
    ("threshold", "0.5", "decision.threshold is '0.5', expected a number from -1 to 1"),
    ("threshold", True, "decision.threshold is 'True'"),
    ("threshold", 1.5, "decision.threshold is '1.5'"),
    ("threshold", 10**400, "decision.threshold is '1000"),
    ("threshold", ..., "decision has no threshold"),
    ("low", 0.9, "decision.low is '0.9', expected a number up to high, the upper end of the interval, or null"),
    ("low", None, "decision.low is 'None'"),
    ("confidence", 2, "decision.confidence is '2'"),
    ("target", "accuracy", "decision.target is 'accuracy', expected f1, or"),
    ("target", 1, "decision.target is '1', expected a text"),
    ("similarity", "dot", "decision.similarity is 'dot', expected cosine"),
    ("match_from", "3", "decision.match_from is '3'"),
    ("scale", [5, 0], r"decision.scale is '\[5, 0\]', expected \[lowest score, highest score\]"),
    ("scale", [1, 2, 3], "decision.scale is"),
    ("scale", 5, "decision.scale is '5'"),
    ("reached", [1], r"decision.reached is '\[1\]', expected an object"),
    ("reached", {"precision": 2}, "decision.reached.precision is '2'"),
    ("reached", {"speed": 1}, "decision.reached has a key 'speed', expected precision, recall, f1"),
    ("fitted_on", None, "decision.fitted_on is 'None', expected an object"),
    ("fitted_on", {"source": "a", "sha256": "b", "n": 1}, "decision.fitted_on has no n_matches"),
    ("fitted_on", {"source": "a", "sha256": "b", "n": 1, "n_matches": 2}, "n_matches is '2', expected at most n, 1"),
    ("fitted_on", {"source": "a", "sha256": "b", "n": -1, "n_matches": 0}, "decision.fitted_on.n is '-1'"),
    ("fitted_on", {"source": 1, "sha256": "b", "n": 1, "n_matches": 0}, "decision.fitted_on.source is '1'"),
    ("calibration", "platt", "decision.calibration is 'platt', expected an object"),
    ("calibration", {}, "decision.calibration has no kind"),
    ("calibration", {"kind": "spline"}, "decision.calibration.kind is 'spline', expected isotonic or platt"),
    ("calibration", {"kind": "platt", "slope": -1, "intercept": 0}, "decision.calibration.slope is '-1'"),
    ("calibration", {"kind": "platt", "slope": 1}, "decision.calibration has no intercept"),
    ("calibration", {"kind": "platt", "slope": 1, "intercept": 0, "x": []}, "has a key 'x', expected kind, slope"),
    ("calibration", {"kind": "isotonic", "x": [0, 0], "y": [0, 1]}, "calibration.x is .*, expected numbers that rise"),
    (
        "calibration",
        {"kind": "isotonic", "x": [0, 1], "y": [1, 0]},
        "calibration.y is .*, expected 2 numbers that never",
    ),
    ("calibration", {"kind": "isotonic", "x": [0, 1], "y": [0]}, "calibration.y is .*, expected 2 numbers"),
    ("calibration", {"kind": "isotonic", "x": [], "y": []}, "calibration.x is .*, expected a list of numbers"),
    ("calibration", {"kind": "isotonic", "x": [0, "1"], "y": [0, 1]}, "calibration.x is"),
    ("calibration", {"kind": "isotonic", "x": [0, 2], "y": [0, 1]}, "calibration.x is .* from -1 to 1"),
    ("calibration", {"kind": "isotonic", "x": [0, 1], "y": [0, 2]}, "calibration.y is .* from 0 to 1"),
    ("newer", 1, "decision has a key 'newer', expected threshold, .*; a newer version of sbert_ft may have written it"),
    ("\x1b[31m", 1, r"a key '\\x1b\[31m'"),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG, ids=[f"{i} {w[0]!a}" for i, w in enumerate(WRONG)])
def test_a_damaged_decision_is_refused_with_file_and_key(key: str, value: Any, message: str) -> None:
    content = copy.deepcopy(DECISION.to_json())
    if value is ...:
        del content[key]
    else:
        content[key] = value
    with pytest.raises(ModelFolderError, match=message) as caught:
        Decision.from_json(content, FILE)
    assert str(caught.value).startswith("'model/sbert_ft.json': ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[], "f1", 3, True])
def test_a_decision_that_is_no_object_is_refused(content: object) -> None:
    with pytest.raises(ModelFolderError, match=r"decision is .*expected an object"):
        Decision.from_json(content, FILE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.sampled_from(sorted(DECISION.to_json())), JSON)
def test_anything_in_place_of_a_value_gives_a_decision_or_our_error(key: str, value: object) -> None:
    content = {**DECISION.to_json(), key: value}
    try:
        decision = Decision.from_json(content, FILE)
    except ModelFolderError:
        return
    assert decision.match(np.array([-1.0, 0.0, 1.0], np.float32)).shape == (3,)
    assert Decision.from_json(decision.to_json(), FILE) == decision


# with a model

SENTENCES = ["A man plays a guitar.", "two dogs running in the park", "music", "the house", "a", "한국어"]
PAIRS = [(a, b) for i, a in enumerate(SENTENCES) for b in SENTENCES[i:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Callable[..., Path]) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def bert(folder: Path) -> ConnectionBert:
    return ConnectionBert.from_pretrained(folder, device="cpu", precision="float32")


@pytest.fixture
def model(bert: ConnectionBert) -> SiameseBert:
    return SiameseBert(bert)


def same_or_not() -> ConnectionDataset:
    """Return pairs that match where both texts are the same."""
    return ConnectionDataset.from_pairs([(a, b, int(a == b)) for a, b in PAIRS])


def test_a_fitted_model_says_which_pairs_match_and_how_likely(model: SiameseBert) -> None:
    with pytest.raises(InputError, match=r"no stored threshold: fit one with fit_threshold .* or pass threshold="):
        model.match(PAIRS)
    with pytest.raises(InputError, match="no stored threshold"):
        model.predict_proba(PAIRS)
    dev = same_or_not()
    decision = fit_threshold(model, dev)
    assert model.decision is decision and same_data(decision, dev)
    assert not same_data(decision, ConnectionDataset.from_pairs([("a", "b", 1), ("b", "c", 0)]))
    assert (decision.fitted_on.n, decision.fitted_on.n_matches) == (21, 6)
    assert (decision.scale, decision.match_from) == (None, None)
    matches, likely = model.match(iter(PAIRS)), model.predict_proba(PAIRS)
    assert (matches.dtype, likely.dtype) == (np.bool_, np.float32)
    assert matches.tolist() == [a == b for a, b in PAIRS]
    np.testing.assert_array_equal(likely, stored_calibration(decision).probability(model.score(PAIRS)))
    assert likely[matches].min() >= likely[~matches].max()
    assert model.match(PAIRS, threshold=-1).all()
    np.testing.assert_array_equal(model.match(PAIRS, threshold=np.float32(0.5)), model.score(PAIRS) >= 0.5)
    assert model.match([]).shape == model.predict_proba([]).shape == (0,)


@pytest.mark.parametrize("threshold", [1.5, -1.1, float("nan"), "0.5", True], ids=repr)
def test_a_threshold_that_is_no_cosine_is_refused_before_the_pairs_are_read(model: SiameseBert, threshold: Any) -> None:
    pairs = iter(PAIRS)
    with pytest.raises(InputError, match="expected a cosine: a number from -1 to 1"):
        model.match(pairs, threshold=threshold)
    assert next(pairs) == PAIRS[0]


def test_graded_pairs_match_from_a_score_on(model: SiameseBert) -> None:
    random = np.random.default_rng(0)
    dev = ConnectionDataset.from_pairs([(a, b, 5.0 if a == b else float(random.integers(0, 4))) for a, b in PAIRS])
    middle = fit_threshold(model, dev, "recall>=0.9", "isotonic")
    assert (middle.match_from, middle.scale, middle.target) == (2.5, (0.0, 5.0), "recall>=0.9")
    assert middle.calibration is not None and middle.calibration.kind == "isotonic"
    high = fit_threshold(model, dev, match_from=5)
    assert (high.match_from, high.fitted_on.n_matches) == (5, 6)
    assert model.match(PAIRS).tolist() == [a == b for a, b in PAIRS]


def test_a_model_whose_fit_fails_keeps_its_decision(model: SiameseBert) -> None:
    model.decision = DECISION
    for dev, message in (
        (ConnectionDataset.from_pairs([("a", "b"), ("c", "d")]), "'<pairs>' has no labels"),
        (ConnectionDataset.from_pairs([("a", "b", 1), ("c", "d", 1)]), "of which 2 match"),
    ):
        with pytest.raises(InputError, match=message):
            fit_threshold(model, dev)
    with pytest.raises(InputError, match="target is 'best'"):
        fit_threshold(model, same_or_not(), "best")
    assert model.decision is DECISION


def test_a_decision_outlives_saving_over_and_over(model: SiameseBert, tmp_path: Path) -> None:
    model.decision, model.score_scale = DECISION, (0.0, 5.0)
    contents = set()
    for name in ("one", "two", "two"):
        model.save_pretrained(tmp_path / name)
        contents.add((tmp_path / name / "sbert_ft.json").read_bytes())
        model = SiameseBert.from_pretrained(tmp_path / name, device="cpu", precision="float32")
        assert (model.decision, model.score_scale) == (DECISION, (0.0, 5.0))
    (content,) = map(json.loads, contents)
    assert content["decision"]["threshold"] == 0.5 and content["score_scale"] == [0, 5]
    assert SentenceTransformer(str(tmp_path / "two"), device="cpu").encode("a").shape == (32,)
    model.decision = None
    model.save_pretrained(tmp_path / "two")
    assert "decision" not in json.loads((tmp_path / "two" / "sbert_ft.json").read_bytes())


def test_a_decision_does_not_outlive_another_pooling(model: SiameseBert, tmp_path: Path) -> None:
    model.decision = DECISION
    model.save_pretrained(tmp_path / "model")
    bert = ConnectionBert.from_pretrained(tmp_path / "model", device="cpu", precision="float32")
    assert SiameseBert(bert).decision == SiameseBert(bert, pooling="mean").decision == DECISION
    assert SiameseBert(bert, pooling="cls").decision is None


def test_the_model_card_says_from_where_on_texts_belong_together(model: SiameseBert, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    without = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "match(" not in without
    model.decision = DECISION
    model.save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    said = (
        "0.5000 (90 % interval 0.4000 to 0.6250, chosen for precision>=0.95 on 1,500 pairs). On these pairs it reaches "
    )
    assert said + "precision 0.960" in card and "model.match(pairs)" in card and "model.predict_proba(pairs)" in card
    assert card.count("```") % 2 == 0
    model.decision = dataclasses.replace(DECISION, calibration=None)
    model.save_pretrained(tmp_path / "model")
    assert "predict_proba" not in (tmp_path / "model" / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"decision": {"threshold": 2}}, "sbert_ft.json': decision has no reached"),
        ({"decision": 0.5}, "sbert_ft.json': decision is '0.5', expected an object"),
        ({"score_scale": [5, 0]}, "sbert_ft.json': settings.score_scale is"),
        ({"score_scale": None}, "sbert_ft.json': settings.score_scale is"),
    ],
)
def test_a_folder_with_a_damaged_file_of_ours_is_refused(
    tmp_path: Path, tiny_bert_folder: Callable[..., Path], content: object, message: str
) -> None:
    damaged = tiny_bert_folder(tmp_path / "model")
    (damaged / "sbert_ft.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ModelFolderError, match=message):
        SiameseBert.from_pretrained(damaged, device="cpu", precision="float32")
    (damaged / "sbert_ft.json").write_text(json.dumps({"decision": None, "mine": [1]}), "utf-8")
    assert SiameseBert.from_pretrained(damaged, device="cpu", precision="float32").decision is None


def test_minilm_decides_on_the_sts_benchmark(minilm_path: Path, shared_data: Path) -> None:
    model = SiameseBert.from_pretrained(minilm_path, device="cpu")
    dev = ConnectionDataset.from_file(shared_data / "stsb" / "dev.csv")
    decision = fit_threshold(model, dev.select(np.arange(0, len(dev), 4)), calibration="isotonic")
    assert decision.calibration is not None and decision.calibration.kind == "isotonic"
    assert decision.low is not None and decision.high is not None
    assert decision.fitted_on.n == 375
    assert 0.3 < decision.low <= decision.threshold <= decision.high < 0.8
    assert decision.reached["f1"] > 0.8
    assert decision.fitted_on.source == "dev.csv" and decision.match_from == 2.5
    likely = model.predict_proba(
        [("A man plays a guitar.", "A man is playing a guitar."), ("A dog runs.", "I pay tax.")]
    )
    assert likely[0] > 0.9 and likely[1] < 0.1
