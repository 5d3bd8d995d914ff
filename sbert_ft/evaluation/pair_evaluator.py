"""Evaluate a model on pairs, and compare it with the model before training.

Any data set can be used: graded scores and yes/no labels as they are; triplets as one pair that matches and one that
does not; pairs known to match together with as many random pairs (a first text with the second text of another row).
Random pairs also show a collapse: an encoder that maps all texts to nearly the same vector scores them as high as
matching pairs, and a ranking metric on a small set may not show this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.objectives import dimensions_of
from sbert_ft.config.settings import EvaluationSettings, RunSettings
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.encoder.classes import probabilities
from sbert_ft.errors import InputError, quoted
from sbert_ft.evaluation.evaluator import (
    N_WORST,
    EvaluationResult,
    decision_to_store,
    joined,
    joined_unless,
    split_of_worst_rows,
    try_decision,
    worse_than_before,
)
from sbert_ft.evaluation.metrics import Metrics, Score, pair_metrics
from sbert_ft.evaluation.results import COSINE_BASELINE, SplitScores, WorstPair, worst_pairs
from sbert_ft.model_folder.decision import Decision
from sbert_ft.models.classifier import ClassifierModel, TrainableModel
from sbert_ft.models.inference import OnTruncate
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.models.sentence_encoder import SentenceEncoder
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.models.text_classifier import TextClassifier

MAX_CHANCE_PAIRS = 2000
# Random pairs of a good encoder are far below; those of a raw BERT with mean pooling are at about 0.6 to 0.8.
COLLAPSED_COSINE = 0.9
# Labels are doubted if the whole interval of the agreement is below this, with at least so many pairs.
_DOUBTED = {"roc_auc": 0.4, "spearman": -0.2}
_LEAST_DOUBTED = 30
_MOST_DOUBTED = 500  # training pairs, if there are no others


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

    @property
    def usual_metrics(self) -> tuple[str, ...]:
        """The metrics that every evaluation shows."""
        return ("average_precision",) if self.scale is None else ("spearman", "pearson")

    def texts(self) -> Iterator[tuple[str, ...]]:
        """Yield the texts of each pair."""
        for side in self.sides:
            yield tuple(self.dataset.distinct_texts(i, i + 1)[0] for i in side.tolist())

    def metrics(self, scores: NDArray[np.float32], threshold: float | None = None) -> Metrics:
        """Return every metric of the scores, shape (n,), that the gold allows, as `pair_metrics` does."""
        return pair_metrics(scores, None if self.scale is None else self.gold, self.matches, threshold)


def evaluation_pairs(name: str, dataset: ConnectionDataset, match_from: float | None, seed: int = 0) -> EvaluationPairs:
    """Return the pairs of a data set of pairs or triplets to evaluate on; the seed is that of the random pairs.

    Graded pairs match if their score is at least `match_from`; None for the middle of the scale.

    Raises:
        InputError: The labels are classes, or `match_from` is not on the scale.
    """
    rows, lines = dataset.text_rows, dataset.lines
    # the score of a triplet is a margin, and which of its texts is the nearer one is known without it
    has_margins = dataset.n_texts == 3 and dataset.label_kind == "score"
    matches, labels = None if has_margins else dataset.matches(match_from), dataset.labels
    if matches is not None and labels is not None:
        return EvaluationPairs(name, dataset, rows[:, :2], lines, labels, matches, dataset.score_range)
    if dataset.n_texts == 3:
        others, other_lines = rows[:, [0, 2]], lines
        note = f"{len(rows):,} anchors with their positives (match) and their negatives (no match)"
    else:
        others, places = chance_pairs(rows, len(rows), seed)
        other_lines = lines[places]
        note = f"{len(rows):,} pairs known to match, and {len(others):,} random pairs of their first and second texts"
    known = np.repeat([True, False], [len(rows), len(others)])
    sides, all_lines = np.concatenate([rows[:, :2], others]), np.concatenate([lines, other_lines])
    return EvaluationPairs(name, dataset, sides, all_lines, known.astype(np.float64), known, None, note)


def chance_pairs(rows: NDArray[np.int64], n_most: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return first texts with second texts of other rows, shape (n, 2), and the rows of the first ones, shape (n,).

    `rows` are the numbers of each row's texts, shape (N, k); a single text is paired with that of another row. Pairs
    that are among them, in either order, or have the same text twice are left out. There are at most `n_most` pairs,
    chosen by the seed.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    places, others = order, np.roll(order, 1)
    second = rows[:, min(1, rows.shape[1] - 1)]
    made = np.stack([rows[places, 0], second[others]], axis=1)
    n_texts = int(rows.max()) + 1
    known = rows[:, 0] * n_texts + second
    there = np.isin(made[:, 0] * n_texts + made[:, 1], known) | np.isin(made[:, 1] * n_texts + made[:, 0], known)
    kept = np.flatnonzero(~there & (made[:, 0] != made[:, 1]))[:n_most]
    return made[kept], places[kept]


def score_stream(
    model: SentenceEncoder | TextClassifier,
    pairs: EvaluationPairs,
    batch_size: int = 32,
    *,
    on_truncate: OnTruncate = "ignore",
    check_finite: bool = False,
) -> Iterator[NDArray[np.float32]]:
    """Yield the model's score of each pair, some thousand at a time: the cosine, or the probability of one output.

    Other arguments and errors as in `SentenceEncoder.score_stream` and `TextClassifier.logits_stream`. Scores that are
    not finite can be evaluated too: the metric is then None with a reason.
    """
    if isinstance(model, TextClassifier):
        rows = (texts[0] if len(texts) == 1 else texts for texts in pairs.texts())
        stream = model.logits_stream(rows, batch_size, on_truncate=on_truncate, check_finite=check_finite)
        return (probabilities(logits)[:, 0] for logits in stream)
    sides = ((texts[0], texts[1]) for texts in pairs.texts())
    return model.score_stream(sides, batch_size, on_truncate=on_truncate, check_finite=check_finite)


def chance_cosine(model: SentenceEncoder, dataset: ConnectionDataset, seed: int = 0) -> float | None:
    """Return the mean cosine of random pairs; None if fewer than two can be made, or if it is not finite."""
    sides, _ = chance_pairs(dataset.text_rows, MAX_CHANCE_PAIRS, seed)
    if len(sides) < 2:
        return None
    every = np.zeros(len(sides), np.float64)
    pairs = EvaluationPairs("chance", dataset, sides, every.astype(np.int64), every, every.astype(bool), None)
    mean = float(joined(score_stream(model, pairs)).mean())
    return mean if math.isfinite(mean) else None


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
    first, second = (None if decision is None else decision.threshold for decision in decisions)
    metrics = pairs.metrics(after, second)
    result: dict[str, Any] = {
        "source": pairs.dataset.source,
        "sha256": pairs.dataset.sha256,
        "n": len(pairs),
        "after": metrics.to_json(settings),
    }
    if pairs.note is not None:
        result["note"] = pairs.note
    if before is not None:
        earlier = pairs.metrics(before, first)
        result["before"] = earlier.to_json(settings)
        result["difference"] = metrics.minus(earlier).to_json(settings)
    return result


def alarms(results: Mapping[str, Mapping[str, Any]], metric: str, collapse: Mapping[str, float | None]) -> list[str]:
    """Return warnings: the model is worse than before (see `worse_than_before`), or has collapsed.

    `results` are by name of the split; `collapse` has the mean cosine of random pairs, ``before`` and ``after``.
    """
    found = [sentence for name, result in results.items() for sentence in worse_than_before(name, result, metric)]
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


def doubt_of_labels(pairs: EvaluationPairs, scores: NDArray[np.float32], settings: EvaluationSettings) -> str | None:
    """Return that labels may mean the opposite, since pairs that match are the less similar ones by these scores.

    None if there is no doubt: the agreement is not far below chance, with its interval, or there are too few pairs.
    """
    metric = "roc_auc" if pairs.scale is None else "spearman"
    bound, metrics = _DOUBTED[metric], pairs.metrics(scores)
    value = metrics.value(metric)
    if pairs.dataset.labels is None or len(pairs) < _LEAST_DOUBTED or value is None or value >= bound:
        return None
    found = metrics.with_intervals(settings)[metric]
    if found.high is None or found.high >= bound:
        return None
    how = f"{metric.replace('_', ' ')} {value:.2f}, interval {found.low:.2f} to {found.high:.2f}"
    setting = 'data.label_values to {"0": 1, "1": 0} (--label-values 0=1,1=0)'
    remedy = f"label 0 means that two texts belong together, set {setting}"
    if pairs.scale is not None:
        remedy = "a low score means that two texts belong together, turn the scores round in the file"
    return (
        f"{quoted(pairs.dataset.source, limit=400)}: pairs that match by their labels are less similar for the model "
        f"than the others ({how}); if {remedy}"
    )


def split_scores(pairs: EvaluationPairs, before: NDArray[np.float32] | None, after: NDArray[np.float32]) -> SplitScores:
    """Return the scores of these pairs for a report."""
    return SplitScores(pairs.name, pairs.dataset.source, before, after, pairs.gold, pairs.matches, pairs.scale)


def same_gold_kind(metric: str, pairs: EvaluationPairs) -> None:
    """Check that the pairs have graded scores if the metric needs them.

    Raises:
        InputError: They have yes/no labels.
    """
    if metric in ("spearman", "pearson") and pairs.scale is None:
        raise InputError(
            f"training.metric is {metric}, which needs graded scores, but {quoted(pairs.dataset.source, limit=400)} "
            "has yes/no labels",
            "use average_precision or roc_auc",
        )


def _values(pairs: EvaluationPairs, scores: NDArray[np.float32]) -> dict[str, float | None]:
    """Return the usual metrics of the scores, shape (n,), without intervals."""
    found = pairs.metrics(scores).scores
    return {name: found[name].value for name in pairs.usual_metrics}


@dataclass(frozen=True)
class PairScores:
    """A model's scores of the evaluation pairs.

    Attributes:
        scores: Name of the split -> scores, shape (n,) each; empty if the model did not score them.
        chance: Mean cosine of random pairs of texts; None if there are too few texts, or for a classifier.
        by_width: Number of first features of the vectors -> the scores by these.
    """

    scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    chance: float | None = None
    by_width: Mapping[int, Mapping[str, NDArray[np.float32]]] = field(default_factory=dict)


@dataclass(frozen=True)
class PairEvaluator:
    """Evaluates a model on dev and test pairs by its scores.

    Attributes:
        sets: The pairs to evaluate on by name: dev, test.
        metric: The metric that chooses the best step; None without dev pairs.
        settings: How the result is evaluated.
        chance: The data set for random pairs of texts.
        scale: Lowest and highest score of the training pairs; None if they have no graded scores.
        is_alone: Whether nothing else evaluates the model.
        widths: Numbers of first features by which a sentence encoder is evaluated too.
    """

    sets: Mapping[str, EvaluationPairs]
    metric: str | None
    settings: EvaluationSettings
    chance: ConnectionDataset
    scale: tuple[float, float] | None
    is_alone: bool = True
    widths: tuple[int, ...] = ()

    @classmethod
    def of(cls, splits: Mapping[str, ConnectionDataset], settings: RunSettings) -> PairEvaluator:
        """Return the evaluator of a run with these data sets, by name, train among them.

        Raises:
            InputError: The metric needs other labels than the dev pairs have.
        """
        match_from = settings.evaluation.match_from
        sets = {name: evaluation_pairs(name, splits[name], match_from) for name in splits if name != "train"}
        metric = None
        if "dev" in sets:
            metric = settings.training.metric or sets["dev"].default_metric
            same_gold_kind(metric, sets["dev"])
        chance = next(splits[name] for name in ("dev", "test", "train") if name in splits)
        widths = dimensions_of(settings.objective)
        return cls(sets, metric, settings.evaluation, chance, splits["train"].score_range, widths=widths)

    def evaluate(self, model: TrainableModel, stopped: Callable[[], bool]) -> Mapping[str, Score] | None:
        """Return the metrics of the model on dev, or None once `stopped` returns True."""
        pairs = self.sets["dev"]
        assert self.metric is not None and not isinstance(model, MaskedLanguageModel)
        scores = joined_unless(score_stream(model, pairs), stopped)
        if scores is None:
            return None
        metrics = pairs.metrics(scores)
        return {name: metrics.scores[name] for name in dict.fromkeys((self.metric, *pairs.usual_metrics))}

    def evaluate_baseline(self, model: TrainableModel) -> PairScores:
        """Return the scores before training.

        A new head is not trained yet, so a classifier is compared with its encoder's cosine; single texts have none.
        """
        if not isinstance(model, ClassifierModel):
            return self._scores_of(model)
        if model.n_texts == 1:
            return PairScores()
        encoder = SiameseBert(model.bert, "mean")
        return PairScores({name: joined(score_stream(encoder, pairs)) for name, pairs in self.sets.items()})

    def doubts(self, model: TrainableModel, before: PairScores) -> list[str]:
        """Return why labels may mean the opposite; see `doubt_of_labels`."""
        sets, scores = dict(self.sets), dict(before.scores)
        if not sets and isinstance(model, SiameseBert) and self.chance.labels is not None:
            n = min(len(self.chance), _MOST_DOUBTED)
            rows = np.sort(np.random.default_rng(0).choice(len(self.chance), n, replace=False))
            sets["train"] = evaluation_pairs("train", self.chance.select(rows), None)
            scores["train"] = joined(score_stream(model, sets["train"]))
        found = (doubt_of_labels(sets[name], scores[name], self.settings) for name in scores)
        return [sentence for sentence in found if sentence is not None]

    def _scores_of(self, model: TrainableModel) -> PairScores:
        assert not isinstance(model, MaskedLanguageModel)
        scores = {name: joined(score_stream(model, pairs)) for name, pairs in self.sets.items()}
        if isinstance(model, ClassifierModel):
            return PairScores(scores)
        whole, by_width = model.truncate_dim, {}
        try:
            for width in self.widths:
                model.truncate_dim = width
                by_width[width] = {name: joined(score_stream(model, pairs)) for name, pairs in self.sets.items()}
        finally:
            model.truncate_dim = whole
        return PairScores(scores, chance_cosine(model, self.chance), by_width)

    def evaluate_final(self, model: TrainableModel, before: PairScores) -> EvaluationResult:
        """Return the results of the tuned model; decision and score scale are stored in it."""
        after = self._scores_of(model)
        assert not isinstance(model, MaskedLanguageModel)
        is_classifier = isinstance(model, ClassifierModel)
        base_decision, decision = self._decide(before, after, is_classifier)
        results, splits = {}, {}
        for name, pairs in self.sets.items():
            sides = before.scores.get(name), after.scores[name]
            results[name] = evaluate_pairs(pairs, *sides, self.settings, (base_decision, decision))
            if is_classifier and "before" in results[name]:
                results[name]["before_is"] = COSINE_BASELINE
            if self.widths:
                results[name]["by_width"] = {
                    str(width): {
                        side: _values(pairs, scores.by_width[width][name])
                        for side, scores in (("before", before), ("after", after))
                    }
                    for width in after.by_width
                }
            splits[name] = split_scores(pairs, *sides)
        collapse = {"before": before.chance, "after": after.chance}
        found = alarms(results, self.metric or "spearman", collapse)
        if not self.sets and self.is_alone:
            dev = "data.dev" if self.chance.n_texts == 1 else "data.dev or data.dev_share,"
            found.append(f"the tuned model was not evaluated: set {dev} and data.test")
        model.score_scale = self.scale or ((0.0, 1.0) if is_classifier else (-1.0, 1.0))
        model.decision = decision
        facts = {"decision": None if decision is None else decision.to_json(), "collapse": collapse}
        worst: tuple[WorstPair, ...] = ()
        if (shown := split_of_worst_rows(splits)) is not None:
            texts = list(self.sets[shown].texts())
            firsts, seconds = [row[0] for row in texts], [row[1] if len(row) > 1 else "" for row in texts]
            worst = worst_pairs(splits[shown], firsts, seconds, self.sets[shown].lines, N_WORST)
        return EvaluationResult(results, facts, found, decision, splits=tuple(splits.values()), worst=worst)

    def _decide(
        self, before: PairScores, after: PairScores, is_classifier: bool
    ) -> tuple[Decision | None, Decision | None]:
        """Return the decisions of the base and of the tuned model, both fitted on the dev pairs."""
        if "dev" not in self.sets:
            return None, None
        matches, dataset = self.sets["dev"].matches, self.sets["dev"].dataset
        scores = after.scores["dev"]
        decision = decision_to_store(scores, matches, dataset, self.settings, of_probabilities=is_classifier)
        if decision is None or "dev" not in before.scores:
            return None, decision
        base = try_decision(before.scores["dev"], matches, dataset, replace(self.settings, calibration="none"))
        return base if isinstance(base, Decision) else None, decision
