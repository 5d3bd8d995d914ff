"""Evaluate a model on pairs, and compare it with the model before training.

Any data set can be used: graded scores and yes/no labels as they are; triplets as one pair that matches and one that
does not; pairs known to match together with as many random pairs (a first text with the second text of another row).
Random pairs also show a collapse: an encoder that maps all texts to nearly the same vector scores them as high as
matching pairs, and a ranking metric on a small set may not show this.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.settings import EvaluationSettings, RunSettings
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.errors import InputError, quoted
from sbert_ft.evaluation.calibration import fit_decision
from sbert_ft.evaluation.evaluator import N_WORST, EvaluationResult, as_probability
from sbert_ft.evaluation.metrics import Score, graded_metrics, label_metrics, metric_value, paired_differences
from sbert_ft.evaluation.results import COSINE_BASELINE, SplitScores, WorstPair, worst_pairs
from sbert_ft.model_folder.decision import Decision
from sbert_ft.models.classifier import ClassifierModel, TrainableModel
from sbert_ft.models.siamese import SiameseBert

MAX_CHANCE_PAIRS = 2000
# Random pairs of a good encoder are far below; those of a raw BERT with mean pooling are at about 0.6 to 0.8.
COLLAPSED_COSINE = 0.9


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationPairs:
    """The evaluation pairs of a data set, as numbers of its distinct texts.

    Attributes:
        name: dev, test, or another name.
        dataset: Their data set.
        sides: The two texts of each pair, shape (n, 2); shape (n, 1) if single texts have scores.
        lines: Line of each pair in its source, shape (n,).
        gold: Graded scores in the file's scale, or 0 and 1; shape (n,).
        matches: Whether each pair matches, shape (n,).
        scale: Lowest and highest graded score; None if the gold is yes or no.
        note: How the pairs were made, if they are not simply those of the data set.
    """

    name: str
    dataset: ConnectionDataset
    sides: NDArray[np.int64]
    lines: NDArray[np.int64]
    gold: NDArray[np.float64]
    matches: NDArray[np.bool_]
    scale: tuple[float, float] | None
    note: str | None = None

    def __len__(self) -> int:
        return len(self.sides)

    @property
    def default_metric(self) -> str:
        """The metric that chooses the best step: spearman for graded scores, average_precision for yes or no."""
        return "average_precision" if self.scale is None else "spearman"

    def texts(self) -> Iterator[tuple[str, ...]]:
        """Yield the texts of each pair."""
        return map(self.texts_of, range(len(self)))

    def texts_of(self, place: int) -> tuple[str, ...]:
        """Return the texts of one pair."""
        return tuple(self.dataset.distinct_texts(int(i), int(i) + 1)[0] for i in self.sides[place])


def evaluation_pairs(name: str, dataset: ConnectionDataset, match_from: float | None, seed: int = 0) -> EvaluationPairs:
    """Return the pairs of a data set to evaluate on.

    Args:
        name: dev, test, or another name.
        dataset: Pairs or triplets.
        match_from: For graded scores: a pair matches if its score is at least this; None for the middle of the scale.
        seed: Seed of the random pairs.

    Raises:
        InputError: The labels are classes, or `match_from` is not on the scale.
    """
    rows, lines = dataset.text_rows, dataset.lines
    matches, labels = dataset.matches(match_from), dataset.labels
    if matches is not None and labels is not None:
        scale = None if dataset.scale is None else (dataset.scale.low, dataset.scale.high)
        return EvaluationPairs(name, dataset, rows[:, :2], lines, labels, matches, scale)
    if dataset.n_texts == 3:
        others, other_lines = rows[:, [0, 2]], lines
        note = f"{len(rows):,} anchors with their positives (match) and their negatives (no match)"
    else:
        others, places = chance_pairs(rows, len(rows), seed)
        other_lines = lines[places]
        note = f"{len(rows):,} pairs known to match, and {len(others):,} random pairs of their first and second texts"
    known = np.repeat([True, False], [len(rows), len(others)])
    return EvaluationPairs(
        name,
        dataset,
        np.concatenate([rows[:, :2], others]),
        np.concatenate([lines, other_lines]),
        known.astype(np.float64),
        known,
        None,
        note,
    )


def chance_pairs(rows: NDArray[np.int64], n_most: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return first texts with second texts of other rows, shape (n, 2), and the rows of the first ones, shape (n,).

    Pairs that are among the rows, in either order, or have the same text twice are left out.

    Args:
        rows: Numbers of each row's texts, shape (N, k).
        n_most: Maximum number of pairs.
        seed: Seed of the choice.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    places, others = order, np.roll(order, 1)
    made = np.stack([rows[places, 0], rows[others, 1]], axis=1)
    n_texts = int(rows.max()) + 1
    known = rows[:, 0] * n_texts + rows[:, 1]
    there = np.isin(made[:, 0] * n_texts + made[:, 1], known) | np.isin(made[:, 1] * n_texts + made[:, 0], known)
    kept = np.flatnonzero(~there & (made[:, 0] != made[:, 1]))[:n_most]
    return made[kept], places[kept]


def score_pairs(model: SiameseBert | ClassifierModel, pairs: EvaluationPairs) -> NDArray[np.float32]:
    """Return the model's score of each pair, shape (n,); too long texts are truncated without a warning.

    The score is the cosine, or the probability of a classifier with one output.
    """
    return np.concatenate(list(_score_stream(model, pairs)))


def score_unless(
    model: SiameseBert | ClassifierModel, pairs: EvaluationPairs, stopped: Callable[[], bool]
) -> NDArray[np.float32] | None:
    """Return the same as `score_pairs`, or None once `stopped` returns True; it is called every few thousand pairs."""
    parts = []
    for scores in _score_stream(model, pairs):
        parts.append(scores)
        if stopped():
            return None
    return np.concatenate(parts)


def _score_stream(model: SiameseBert | ClassifierModel, pairs: EvaluationPairs) -> Iterator[NDArray[np.float32]]:
    if isinstance(model, ClassifierModel):
        single = pairs.sides.shape[1] == 1
        rows = (texts[0] if single else texts for texts in pairs.texts())
        for logits in model.logits_stream(rows, on_truncate="ignore", check_finite=False):
            yield (0.5 * (1.0 + np.tanh(0.5 * logits[:, 0].astype(np.float64)))).astype(np.float32)  # the sigmoid
        return
    # scores that are not finite are evaluated too: the metric is then null with a reason
    sides = ((texts[0], texts[1]) for texts in pairs.texts())
    yield from model.score_stream(sides, on_truncate="ignore", check_finite=False)


def chance_cosine(model: SiameseBert, dataset: ConnectionDataset, seed: int = 0) -> float | None:
    """Return the mean cosine of random pairs; None if fewer than two can be made, or if it is not finite."""
    sides, _ = chance_pairs(dataset.text_rows, MAX_CHANCE_PAIRS, seed)
    if len(sides) < 2:
        return None
    every = np.zeros(len(sides), np.float64)
    pairs = EvaluationPairs("chance", dataset, sides, every.astype(np.int64), every, every.astype(bool), None)
    mean = float(score_pairs(model, pairs).mean())
    return mean if math.isfinite(mean) else None


def metric_of(name: str, scores: NDArray[np.float32], pairs: EvaluationPairs) -> float | None:
    """Return one metric of the scores, shape (n,); None if it is undefined.

    Raises:
        InputError: The metric needs graded scores, and the pairs have none.
    """
    return metric_value(name, scores, None if pairs.scale is None else pairs.gold, pairs.matches)


def try_decision(scores: NDArray[np.float32], pairs: EvaluationPairs, settings: EvaluationSettings) -> Decision | str:
    """Return the decision fitted on the pairs, or a sentence that says why none can be fitted."""
    fitted_on = {"source": pairs.dataset.source, "sha256": pairs.dataset.sha256}
    try:
        return fit_decision(scores, pairs.matches, settings, fitted_on, scale=pairs.scale)
    except InputError as error:
        return str(error)


def metrics_of(
    scores: NDArray[np.float32], pairs: EvaluationPairs, settings: EvaluationSettings, decision: Decision | None
) -> dict[str, Score]:
    """Return every metric that the pairs' gold allows, with intervals.

    Graded pairs have spearman and pearson; all have average_precision and roc_auc, and with a decision also the metrics
    of its threshold.
    """
    graded = {} if pairs.scale is None else graded_metrics(scores, pairs.gold, settings)
    threshold = None if decision is None else decision.threshold
    return graded | label_metrics(scores, pairs.matches, settings, threshold)


def evaluate_pairs(
    pairs: EvaluationPairs,
    before: NDArray[np.float32] | None,
    after: NDArray[np.float32],
    settings: EvaluationSettings,
    decisions: tuple[Decision | None, Decision | None] = (None, None),
) -> dict[str, Any]:
    """Return one split of metrics.json: metrics of the model before, of the model after, and their differences.

    Args:
        pairs: The pairs, from `evaluation_pairs`.
        before: Scores of the base (or another) model, shape (n,); None if there is none to compare with.
        after: Scores of the evaluated model, shape (n,).
        settings: Number of resamples and confidence of the intervals.
        decisions: Of the model before and of the one after.
    """
    result: dict[str, Any] = {
        "source": pairs.dataset.source,
        "sha256": pairs.dataset.sha256,
        "n": len(pairs),
        "after": _as_json(metrics_of(after, pairs, settings, decisions[1])),
    }
    if pairs.note is not None:
        result["note"] = pairs.note
    if before is None:
        return result
    both = None if decisions[0] is None or decisions[1] is None else (decisions[0].threshold, decisions[1].threshold)
    changes = {} if pairs.scale is None else paired_differences(before, after, pairs.gold, settings)
    changes |= paired_differences(before, after, pairs.matches, settings, thresholds=both)
    result["before"] = _as_json(metrics_of(before, pairs, settings, decisions[0]))
    result["difference"] = _as_json(changes)
    return result


def alarms(results: Mapping[str, Mapping[str, Any]], metric: str, collapse: Mapping[str, float | None]) -> list[str]:
    """Return warnings: the model is worse than before, or has collapsed.

    Args:
        results: By name of the split, as `evaluate_pairs` returns them.
        metric: The metric to compare by; for a split without it, the split's first metric.
        collapse: Mean cosine of random pairs, ``before`` and ``after``.
    """
    found = []
    for name, result in results.items():
        differences = result.get("difference", {})
        named = metric if metric in differences else next(iter(differences), None)
        if named is not None and (sentence := _worsening(name, named, result)) is not None:
            found.append(sentence)
    after, before = collapse.get("after"), collapse.get("before")
    if after is not None and after >= COLLAPSED_COSINE:
        was = "" if before is None else f" (before: {before:.2f})"
        new = before is None or before < COLLAPSED_COSINE
        how = "has collapsed and hardly tells texts apart" if new else "hardly tells texts apart, like the base model"
        found.append(
            f"the tuned model {how}: random pairs of texts have a mean cosine of {after:.2f}{was}; "
            "lower the learning rate, or use an objective that pushes texts apart"
        )
    return found


def _worsening(name: str, metric: str, result: Mapping[str, Any]) -> str | None:
    """Return a warning if one metric of a split is lower than before, else None."""
    before, after, difference = (result[part][metric] for part in ("before", "after", "difference"))
    if before["value"] is not None and after["value"] is None:
        return f"the tuned model has no {metric} on {name} ({after['reason']}), but the base model has"
    change, low, high = (difference[part] for part in ("value", "low", "high"))
    if change is None or change >= 0:
        return None
    if high is None:
        return f"the tuned model scores lower on {name}: {metric} changed by {change:+.4f} ({difference['reason']})"
    how = "is worse" if high < 0 else "scores lower, maybe by chance,"
    interval = f"interval {low:+.4f} to {high:+.4f}"
    return f"the tuned model {how} on {name}: {metric} changed by {change:+.4f} ({interval})"


def split_scores(pairs: EvaluationPairs, before: NDArray[np.float32] | None, after: NDArray[np.float32]) -> SplitScores:
    """Return the scores of these pairs for a report."""
    return SplitScores(pairs.name, pairs.dataset.source, before, after, pairs.gold, pairs.matches, pairs.scale)


def same_gold_kind(metric: str, pairs: EvaluationPairs) -> None:
    """Raise InputError if the metric needs graded scores and the pairs have yes/no labels.

    Raises:
        InputError: The pairs have no graded scores.
    """
    if metric in ("spearman", "pearson") and pairs.scale is None:
        raise InputError(
            f"training.metric is {metric}, which needs graded scores, but {quoted(pairs.dataset.source, limit=400)} "
            "has yes/no labels",
            "use average_precision or roc_auc",
        )


def _as_json(scores: Mapping[str, Score]) -> dict[str, Any]:
    return {name: score.to_json() for name, score in scores.items()}


@dataclass(frozen=True)
class PairScores:
    """A model's scores of the evaluation pairs.

    Attributes:
        scores: Name of the split -> scores, shape (n,) each; empty if the model did not score them.
        chance: Mean cosine of random pairs of texts; None if there are too few texts, or for a classifier.
    """

    scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    chance: float | None = None


@dataclass(frozen=True)
class PairEvaluator:
    """Evaluates a model on dev and test pairs by its scores.

    Attributes:
        sets: The pairs to evaluate on by name: dev, test.
        metric: The metric that chooses the best step; None without dev pairs.
        settings: How the result is evaluated.
        chance: The data set for random pairs of texts.
        scale: Lowest and highest score of the training pairs; None if they have no graded scores.
    """

    sets: Mapping[str, EvaluationPairs]
    metric: str | None
    settings: EvaluationSettings
    chance: ConnectionDataset
    scale: tuple[float, float] | None

    @classmethod
    def of(cls, splits: Mapping[str, ConnectionDataset], settings: RunSettings) -> PairEvaluator:
        """Return the evaluator of a run.

        Args:
            splits: The run's data sets by name, train among them.
            settings: The run's settings.

        Raises:
            InputError: The metric needs other labels than the dev pairs have.
        """
        sets = {
            name: evaluation_pairs(name, dataset, settings.evaluation.match_from)
            for name, dataset in splits.items()
            if name != "train"
        }
        metric = None
        if "dev" in sets:
            metric = settings.training.metric or sets["dev"].default_metric
            same_gold_kind(metric, sets["dev"])
        train = splits["train"]
        chance = next((splits[name] for name in ("dev", "test") if name in splits), train)
        scale = None if train.scale is None else (train.scale.low, train.scale.high)
        return cls(sets, metric, settings.evaluation, chance, scale)

    def evaluate(self, model: TrainableModel, stopped: Callable[[], bool]) -> Mapping[str, float | None] | None:
        """Return the metrics of the model on dev, or None once `stopped` returns True."""
        pairs = self.sets["dev"]
        assert self.metric is not None
        usual = ("average_precision",) if pairs.scale is None else ("spearman", "pearson")
        scores = score_unless(model, pairs, stopped)
        if scores is None:
            return None
        return {name: metric_of(name, scores, pairs) for name in dict.fromkeys((self.metric, *usual))}

    def evaluate_baseline(self, model: TrainableModel) -> PairScores:
        """Return the scores before training: the cosines of the base model's encoder.

        A new head is not trained yet, so a classifier is compared with its encoder's cosine; for single texts there is
        none.
        """
        if isinstance(model, ClassifierModel):
            if model.n_texts == 1:
                return PairScores()
            encoder = SiameseBert(model.bert, "mean")
            return PairScores({name: score_pairs(encoder, pairs) for name, pairs in self.sets.items()})
        return self.ask(model)

    def ask(self, model: TrainableModel) -> PairScores:
        """Return the current model's scores of all pairs."""
        scores = {name: score_pairs(model, pairs) for name, pairs in self.sets.items()}
        return PairScores(scores, None if isinstance(model, ClassifierModel) else chance_cosine(model, self.chance))

    def evaluate_final(self, model: TrainableModel, before: PairScores) -> EvaluationResult:
        """Return the results; decision and score scale are stored in the model.

        Args:
            model: The tuned model.
            before: Scores of the base model.
        """
        after = self.ask(model)
        is_classifier = isinstance(model, ClassifierModel)
        base_decision, decision = self._decide(before, after, is_classifier)
        results = {
            name: evaluate_pairs(
                pairs, before.scores.get(name), after.scores[name], self.settings, (base_decision, decision)
            )
            for name, pairs in self.sets.items()
        }
        if is_classifier:
            for result in results.values():
                result |= {"before_is": COSINE_BASELINE} if "before" in result else {}
        collapse = {"before": before.chance, "after": after.chance}
        found = alarms(results, self.metric or "spearman", collapse)
        if not self.sets:
            found.append("the tuned model was not evaluated: set data.dev or data.dev_share, and data.test")
        model.score_scale = self.scale or ((0.0, 1.0) if is_classifier else (-1.0, 1.0))
        model.decision = decision
        return EvaluationResult(
            results,
            {"decision": None if decision is None else decision.to_json(), "collapse": collapse},
            found,
            decision,
            splits=tuple(
                split_scores(pairs, before.scores.get(name), after.scores[name]) for name, pairs in self.sets.items()
            ),
            worst=self._worst(before, after),
        )

    def _decide(
        self, before: PairScores, after: PairScores, is_classifier: bool
    ) -> tuple[Decision | None, Decision | None]:
        """Return the decisions of the base and of the tuned model, both fitted on the dev pairs."""
        if "dev" not in self.sets:
            return None, None
        pairs, uncalibrated = self.sets["dev"], replace(self.settings, calibration="none")
        decision = try_decision(after.scores["dev"], pairs, uncalibrated if is_classifier else self.settings)
        if isinstance(decision, str):
            logger.warning("no threshold is stored: %s", decision)
            return None, None
        if is_classifier:
            decision = as_probability(decision)
        base = try_decision(before.scores["dev"], pairs, uncalibrated) if "dev" in before.scores else None
        return base if isinstance(base, Decision) else None, decision

    def _worst(self, before: PairScores, after: PairScores) -> tuple[WorstPair, ...]:
        """Return the tuned model's worst pairs on test, or on dev if there is no test."""
        name = next((name for name in ("test", "dev") if name in self.sets), None)
        if name is None:
            return ()
        pairs = self.sets[name]
        texts = list(pairs.texts())
        firsts, seconds = [row[0] for row in texts], [row[1] if len(row) > 1 else "" for row in texts]
        scores = split_scores(pairs, before.scores.get(name), after.scores[name])
        return worst_pairs(scores, firsts, seconds, pairs.lines, N_WORST)
