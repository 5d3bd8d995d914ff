"""Tests of the evaluation on pairs: the pairs, the results of two models, and warnings."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from test_spec import sentences

from sbert_ft.config.settings import EvaluationSettings
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.errors import InputError
from sbert_ft.evaluation.evaluator import joined, joined_unless, try_decision
from sbert_ft.evaluation.pair_evaluator import (
    COLLAPSED_COSINE,
    alarms,
    chance_cosine,
    chance_pairs,
    evaluate_pairs,
    evaluation_pairs,
    same_gold_kind,
    score_stream,
    split_scores,
)
from sbert_ft.model_folder.decision import Decision
from sbert_ft.models.siamese import SiameseBert

SETTINGS = EvaluationSettings(bootstrap_samples=200)

GRADED = [("a man", "the man", 5.0), ("a dog", "two dogs", 4.0), ("a cat", "a car", 1.0), ("one", "blue", 0.0)]
YES_NO = [("a man", "the man", 1), ("a dog", "two dogs", 1), ("a cat", "a car", 0), ("one", "blue", 0)]
# Scores for four pairs, one model before and one after: the second model swaps the last two places.
BEFORE = np.array([0.9, 0.8, 0.2, 0.3], np.float32)
AFTER = np.array([0.9, 0.8, 0.3, 0.2], np.float32)


@pytest.fixture
def model(tmp_path: Path, tiny_bert_folder: Callable[..., Path]) -> SiameseBert:
    return SiameseBert.from_pretrained(tiny_bert_folder(tmp_path / "model"), "cpu", "float32")


def dataset(rows: list[Any]) -> ConnectionDataset:
    return ConnectionDataset.from_pairs(rows)


# the evaluation pairs


def test_graded_pairs_judge_as_they_are() -> None:
    pairs = evaluation_pairs("dev", dataset(GRADED), None)
    assert list(pairs.texts()) == [row[:2] for row in GRADED]
    assert pairs.gold.tolist() == [5, 4, 1, 0] and pairs.scale == (0.0, 5.0)
    assert pairs.matches.tolist() == [True, True, False, False]
    assert pairs.lines.tolist() == [0, 1, 2, 3]
    assert (pairs.note, pairs.default_metric, len(pairs)) == (None, "spearman", 4)
    assert evaluation_pairs("dev", dataset(GRADED), 5.0).matches.tolist() == [True, False, False, False]


def test_match_from_must_be_on_the_scale() -> None:
    with pytest.raises(InputError, match=r"match_from is '7\.0', expected a score on the scale 0\.\.5"):
        evaluation_pairs("dev", dataset(GRADED), 7.0)


def test_yes_and_no_judge_as_they_are() -> None:
    pairs = evaluation_pairs("dev", dataset(YES_NO), None)
    assert pairs.matches.tolist() == [True, True, False, False]
    assert pairs.scale is None and pairs.default_metric == "average_precision"
    with pytest.raises(InputError, match="needs graded scores"):
        same_gold_kind("pearson", pairs)
    same_gold_kind("roc_auc", pairs)
    same_gold_kind("spearman", evaluation_pairs("dev", dataset(GRADED), None))


def test_class_names_do_not_judge() -> None:
    rows = {"premise": ["a", "c", "e"], "hypothesis": ["b", "d", "f"], "label": ["entailment", "neutral", "neutral"]}
    words = ConnectionDataset.from_dataframe(pd.DataFrame(rows))
    with pytest.raises(InputError, match="label_values"):
        evaluation_pairs("dev", words, None)


def test_triplets_judge_as_a_pair_that_matches_and_one_that_does_not() -> None:
    rows = [("a man", "the man", "a car"), ("a dog", "two dogs", "blue")]
    pairs = evaluation_pairs("dev", dataset(rows), None)
    assert list(pairs.texts()) == [("a man", "the man"), ("a dog", "two dogs"), ("a man", "a car"), ("a dog", "blue")]
    assert pairs.matches.tolist() == [True, True, False, False]
    assert pairs.gold.tolist() == [1, 1, 0, 0] and pairs.lines.tolist() == [0, 1, 0, 1]
    assert pairs.note == "2 anchors with their positives (match) and their negatives (no match)"


def test_pairs_known_only_to_match_are_judged_beside_chance_pairs() -> None:
    texts = sentences(60)
    rows = [(f"{texts[2 * i]} x{i}", f"{texts[2 * i + 1]} y{i}") for i in range(30)]
    pairs = evaluation_pairs("dev", dataset(rows), None)
    assert len(pairs) == 60 and pairs.matches.tolist() == [True] * 30 + [False] * 30
    made = list(pairs.texts())
    assert made[:30] == rows
    assert not set(made[30:]) & set(rows)
    assert sorted(first for first, _ in made[30:]) == sorted(first for first, _ in rows)
    # a chance pair stands where its first text does
    assert all(rows[line][0] == first for (first, _), line in zip(made[30:], pairs.lines[30:], strict=True))
    assert pairs.note == "30 pairs known to match, and 30 random pairs of their first and second texts"


def test_chance_pairs_follow_from_the_seed() -> None:
    rows = np.stack([np.arange(50), np.arange(50) + 50], axis=1)
    first, again, other = (chance_pairs(rows, 50, seed)[0] for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()
    assert len(first) == 50


def test_a_chance_pair_is_never_one_that_is_there() -> None:
    # few texts in many rows: a third of random pairs would be among the rows, some of them reversed
    draw = np.random.default_rng(0)
    for seed in range(20):
        rows = draw.integers(0, 12, (40, 2))
        known = {frozenset(row) for row in rows.tolist()}
        made, places = chance_pairs(rows, 1000, seed)
        assert all(frozenset(pair) not in known and pair[0] != pair[1] for pair in made.tolist())
        assert rows[places, 0].tolist() == made[:, 0].tolist()
    assert chance_pairs(np.array([[0, 1]]), 10)[0].shape == (0, 2)
    assert len(chance_pairs(np.stack([np.arange(99), np.arange(99) + 99], axis=1), 10)[0]) == 10


def test_chance_pairs_of_triplets_are_no_anchor_with_a_positive_of_its_own() -> None:
    rows = np.array([[0, 1, 9], [0, 2, 8], [3, 4, 7]])
    made, _ = chance_pairs(rows, 10)
    assert {tuple(pair) for pair in made.tolist()} <= {(0, 4), (3, 1), (3, 2)}


def test_scoring_ends_when_it_is_told_to(model: SiameseBert) -> None:
    pairs = evaluation_pairs("dev", dataset(GRADED), None)
    scores = joined_unless(score_stream(model, pairs), lambda: False)
    assert scores is not None
    np.testing.assert_array_equal(scores, joined(score_stream(model, pairs)))
    np.testing.assert_allclose(scores, model.score([row[:2] for row in GRADED]), atol=1e-6)
    assert joined_unless(score_stream(model, pairs), lambda: True) is None


# the results


def test_metrics_before_and_after_are_those_of_scipy_and_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    texts = sentences(80)
    gold = draw.integers(0, 6, 40).astype(float)
    rows = [(texts[i], f"{texts[i + 40]} {i}", gold[i]) for i in range(40)]
    pairs = evaluation_pairs("test", ConnectionDataset.from_pairs(rows), None)
    before, after = (np.clip(gold / 5 + draw.normal(0, s, 40), -1, 1).astype(np.float32) for s in (0.5, 0.2))
    result = evaluate_pairs(pairs, before, after, SETTINGS)
    assert (result["n"], result["sha256"], result["source"]) == (40, pairs.dataset.sha256, "<pairs>")
    for name, by in (
        ("spearman", lambda scores: spearmanr(scores, gold).statistic),
        ("pearson", lambda scores: pearsonr(scores.astype(np.float64), gold).statistic),
        ("average_precision", lambda scores: average_precision_score(gold >= 2.5, scores)),
        ("roc_auc", lambda scores: roc_auc_score(gold >= 2.5, scores)),
    ):
        for part, scores in (("before", before), ("after", after)):
            assert result[part][name]["value"] == pytest.approx(by(scores), abs=1e-9), name
            assert result[part][name]["low"] <= result[part][name]["value"] <= result[part][name]["high"]
        change = result["difference"][name]
        assert change["value"] == pytest.approx(by(after) - by(before), abs=1e-9)
        assert change["low"] <= change["value"] <= change["high"]
        assert pairs.metrics(after).value(name) == pytest.approx(by(after), abs=1e-9)


def test_four_pairs_by_hand() -> None:
    pairs = evaluation_pairs("dev", dataset(GRADED), None)
    result = evaluate_pairs(pairs, BEFORE, AFTER, SETTINGS)
    # ranks 4 3 1 2 against 4 3 2 1: 1 - 6 * 2 / (4 * 15) = 0.8
    assert result["before"]["spearman"]["value"] == pytest.approx(0.8)
    assert result["after"]["spearman"]["value"] == pytest.approx(1.0)
    assert result["difference"]["spearman"]["value"] == pytest.approx(0.2)
    # both put what matches first
    assert result["difference"]["average_precision"]["value"] == 0.0
    assert set(result["before"]) == {"spearman", "pearson", "average_precision", "roc_auc"}


def test_yes_and_no_have_decisions_of_two_thresholds() -> None:
    pairs = evaluation_pairs("dev", dataset(YES_NO), None)
    one, other = (try_decision(scores, pairs.matches, pairs.dataset, SETTINGS) for scores in (BEFORE, AFTER))
    assert isinstance(one, Decision) and isinstance(other, Decision)
    assert one.threshold == pytest.approx((0.8 + 0.3) / 2)
    result = evaluate_pairs(pairs, BEFORE, AFTER, SETTINGS, (one, other))
    assert {"f1", "accuracy", "precision", "recall", "mcc"} < set(result["difference"])
    assert result["after"]["f1"]["value"] == f1_score(pairs.matches, other.threshold <= AFTER) == 1.0
    # with only one threshold decisions cannot be compared
    result = evaluate_pairs(pairs, BEFORE, AFTER, SETTINGS, (None, other))
    assert set(result["difference"]) == {"average_precision", "roc_auc"}
    assert "f1" in result["after"] and "f1" not in result["before"]


def test_a_model_alone_is_judged_without_a_difference() -> None:
    result = evaluate_pairs(evaluation_pairs("data", dataset(GRADED), None), None, AFTER, SETTINGS)
    assert "before" not in result and "difference" not in result
    assert "note" not in result
    triplets = evaluation_pairs("data", dataset([("a", "b", "c"), ("d", "e", "f")]), None)
    assert "2 anchors" in evaluate_pairs(triplets, None, AFTER, SETTINGS)["note"]


def test_pairs_that_allow_no_decision_say_why() -> None:
    alike = evaluation_pairs("dev", dataset([(a, b, 1) for a, b, _ in YES_NO]), None)
    reason = try_decision(AFTER, alike.matches, alike.dataset, SETTINGS)
    assert isinstance(reason, str) and "4 pairs, of which 4 match" in reason
    graded = evaluation_pairs("dev", dataset(GRADED), None)
    settings = EvaluationSettings(threshold_target="precision>=0.95", bootstrap_samples=10)
    unreachable = try_decision(-AFTER, graded.matches, graded.dataset, settings)
    assert isinstance(unreachable, str) and "no threshold reaches precision>=0.95" in unreachable


def test_a_report_gets_the_very_scores() -> None:
    pairs = evaluation_pairs("dev", dataset(GRADED), None)
    shown = split_scores(pairs, BEFORE, AFTER)
    assert (shown.name, shown.source, shown.scale) == ("dev", "<pairs>", (0.0, 5.0))
    assert shown.before is BEFORE and shown.after is AFTER


# alarms


def a_score(value: float | None, low: float | None = None, high: float | None = None, reason: str | None = None) -> Any:
    return {"value": value, "low": low, "high": high, "reason": reason}


def result_of(change: Any, before: Any = None, after: Any = None) -> dict[str, Any]:
    before = before or {name: a_score(0.8) for name in change}
    after = after or {name: a_score(0.7) for name in change}
    return {"before": before, "after": after, "difference": change}


NO_COLLAPSE = {"before": 0.1, "after": 0.1}


def test_a_worse_model_is_said_to_be_worse_and_how_sure_that_is() -> None:
    sure = result_of({"spearman": a_score(-0.1, -0.2, -0.05)})
    unsure = result_of({"spearman": a_score(-0.01, -0.05, 0.03)})
    assert alarms({"dev": sure, "test": unsure}, "spearman", NO_COLLAPSE) == [
        "the tuned model is worse on dev: spearman changed by -0.1000 (interval -0.2000 to -0.0500)",
        "the tuned model scores lower, maybe by chance, on test: spearman changed by -0.0100 (interval "
        "-0.0500 to +0.0300)",
    ]


def test_a_change_without_an_interval_is_said_without_a_judgement_on_chance() -> None:
    lone = result_of({"spearman": a_score(-0.1, reason="no interval: undefined in 3 of 10 resamples")})
    assert alarms({"dev": lone}, "spearman", NO_COLLAPSE) == [
        "the tuned model scores lower on dev: spearman changed by -0.1000 (no interval: undefined in 3 of 10 resamples)"
    ]


def test_better_equal_and_undefined_before_are_no_alarm() -> None:
    better = result_of({"spearman": a_score(0.1, 0.05, 0.2)})
    equal = result_of({"spearman": a_score(0.0, -0.05, 0.05)})
    unknown = result_of({"spearman": a_score(None, reason="before: x")}, {"spearman": a_score(None, reason="x")})
    alone = {"after": {"spearman": a_score(0.5)}}
    assert alarms({"a": better, "b": equal, "c": unknown, "d": alone}, "spearman", NO_COLLAPSE) == []
    assert alarms({}, "spearman", {}) == []


def test_a_metric_that_the_tuned_model_has_lost_is_an_alarm() -> None:
    change = {"spearman": a_score(None, reason="after: all scores are equal")}
    lost = result_of(change, after={"spearman": a_score(None, reason="all scores are equal")})
    assert alarms({"dev": lost}, "spearman", NO_COLLAPSE) == [
        "the tuned model has no spearman on dev (all scores are equal), but the base model has"
    ]


def test_a_split_without_the_metric_is_judged_by_what_it_has() -> None:
    result = result_of({"average_precision": a_score(-0.2, -0.3, -0.1), "roc_auc": a_score(0.2, 0.1, 0.3)})
    found = alarms({"test": result}, "spearman", NO_COLLAPSE)
    assert len(found) == 1 and "average_precision changed by -0.2000" in found[0]
    assert alarms({"test": result}, "roc_auc", NO_COLLAPSE) == []


def test_a_collapse_is_told_from_a_base_model_that_was_no_better() -> None:
    said = alarms({}, "spearman", {"before": 0.12, "after": 0.97})
    assert len(said) == 1 and "has collapsed" in said[0] and "mean cosine of 0.97 (before: 0.12)" in said[0]
    said = alarms({}, "spearman", {"before": 0.98, "after": 0.97})
    assert len(said) == 1 and "has collapsed" not in said[0] and "like the base model" in said[0]
    assert alarms({}, "spearman", {"before": None, "after": COLLAPSED_COSINE})
    assert alarms({}, "spearman", {"before": 0.95, "after": COLLAPSED_COSINE - 0.01}) == []
    assert alarms({}, "spearman", {"before": 0.1, "after": None}) == []


def test_a_model_with_all_but_constant_weights_is_found_to_have_collapsed(model: SiameseBert) -> None:
    texts = sentences(40)
    rows = [(f"{texts[2 * i]} x{i}", f"{texts[2 * i + 1]} y{i}", (i % 6) / 1.0) for i in range(20)]
    pairs = dataset(rows)
    sound = chance_cosine(model, pairs)
    assert sound is not None and sound < COLLAPSED_COSINE
    with torch.no_grad():
        for parameter in model.bert.encoder.parameters():
            parameter.fill_(0.5).add_(torch.randn_like(parameter) * 1e-4)
    after = chance_cosine(model, pairs)
    assert after is not None and after > COLLAPSED_COSINE
    said = alarms({}, "spearman", {"before": sound, "after": after})
    assert len(said) == 1 and "has collapsed" in said[0]


def test_a_model_that_gives_no_numbers_is_an_alarm_and_no_crash(
    model: SiameseBert, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = evaluation_pairs("dev", dataset(GRADED), None)
    before = joined(score_stream(model, pairs))
    with torch.no_grad():
        model.bert.encoder.get_parameter("embeddings.LayerNorm.weight").fill_(float("nan"))
    after = joined(score_stream(model, pairs))
    assert chance_cosine(model, pairs.dataset) is None
    assert isinstance(try_decision(after, pairs.matches, pairs.dataset, SETTINGS), str)
    result = evaluate_pairs(pairs, before, after, SETTINGS)
    with caplog.at_level(logging.WARNING):
        said = alarms({"dev": result}, "spearman", {"before": 0.5, "after": None})
    assert said == [
        "the tuned model has no spearman on dev (4 of 4 scores are NaN or infinite), but the base model has"
    ]


def test_too_few_texts_for_chance_pairs_give_none(model: SiameseBert) -> None:
    assert chance_cosine(model, dataset([("a", "b", 1.0)])) is None
    assert chance_cosine(model, dataset([("a", "b", 1.0), ("b", "a", 0.0)])) is None
