"""The exam by scores of pairs: a cosine, or what a classifier with one output says, held against gold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.settings import EvaluationSettings, RunSettings
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.evaluation.class_judge import COSINE_BASELINE
from sbert_ft.evaluation.judge import (
    JudgingPairs,
    alarms,
    chance_cosine,
    judge,
    judging_pairs,
    metric_of,
    same_gold_kind,
    score_pairs,
    score_unless,
    split_scores,
    try_decision,
)
from sbert_ft.evaluation.report_content import WorstPair, worst_pairs
from sbert_ft.model.classifier import ClassifierModel
from sbert_ft.model.decision import Decision
from sbert_ft.model.siamese import SiameseBert
from sbert_ft.training.encoder_setup import Trainee
from sbert_ft.training.exam import N_WORST, Marks, as_probability

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answers:
    """What a model makes of the pairs that judge.

    Attributes:
        scores: By the name of the pairs, shape (n,) each; nothing where it was not asked.
        chance: Mean cosine of texts put together by chance; None where there are too few, or for a classifier.
    """

    scores: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    chance: float | None = None


@dataclass(frozen=True)
class PairExam:
    """The pairs that judge a model by their scores.

    Attributes:
        judges: By name: dev, test.
        metric: By which the best step is chosen, where there are dev pairs.
        settings: How the result is judged.
        chance: The data set whose texts are put together by chance.
        scale: Lowest and highest score of the training pairs; None where they are yes or no.
    """

    judges: Mapping[str, JudgingPairs]
    metric: str | None
    settings: EvaluationSettings
    chance: ConnectionDataset
    scale: tuple[float, float] | None

    @classmethod
    def of(cls, splits: Mapping[str, ConnectionDataset], settings: RunSettings) -> PairExam:
        """Return the exam of a run.

        Args:
            splits: Its data sets by name, train among them.
            settings: Of the run.

        Raises:
            InputError: The metric needs other labels than the dev pairs have.
        """
        judges = {
            name: judging_pairs(name, dataset, settings.evaluation.match_from)
            for name, dataset in splits.items()
            if name != "train"
        }
        metric = None
        if "dev" in judges:
            metric = settings.training.metric or judges["dev"].default_metric
            same_gold_kind(metric, judges["dev"])
        train = splits["train"]
        chance = next((splits[name] for name in ("dev", "test") if name in splits), train)
        scale = None if train.scale is None else (train.scale.low, train.scale.high)
        return cls(judges, metric, settings.evaluation, chance, scale)

    def measure(self, model: Trainee, stopped: Callable[[], bool]) -> Mapping[str, float | None] | None:
        """Return the metrics of the model on dev, or None as soon as `stopped` is True."""
        pairs = self.judges["dev"]
        assert self.metric is not None
        customary = ("average_precision",) if pairs.scale is None else ("spearman", "pearson")
        scores = score_unless(model, pairs, stopped)
        if scores is None:
            return None
        return {name: metric_of(name, scores, pairs) for name in dict.fromkeys((self.metric, *customary))}

    def ask_base(self, model: Trainee) -> Answers:
        """Return what there is to compare with before training: cosines of the base model's encoder.

        A new head knows nothing, so a classifier is held against its encoder's cosine; over single texts there is none.
        """
        if isinstance(model, ClassifierModel):
            if model.n_texts == 1:
                return Answers()
            encoder = SiameseBert(model.bert, "mean")
            return Answers({name: score_pairs(encoder, pairs) for name, pairs in self.judges.items()})
        return self.ask(model)

    def ask(self, model: Trainee) -> Answers:
        """Return what the model, as it is, makes of the pairs."""
        scores = {name: score_pairs(model, pairs) for name, pairs in self.judges.items()}
        return Answers(scores, None if isinstance(model, ClassifierModel) else chance_cosine(model, self.chance))

    def mark(self, model: Trainee, before: Answers) -> Marks:
        """Return what the exam finds; decision and score scale are stored in the model.

        Args:
            model: The tuned one.
            before: Of the base model.
        """
        after = self.ask(model)
        is_classifier = isinstance(model, ClassifierModel)
        base_decision, decision = self._decide(before, after, is_classifier)
        results = {
            name: judge(pairs, before.scores.get(name), after.scores[name], self.settings, (base_decision, decision))
            for name, pairs in self.judges.items()
        }
        if is_classifier:
            for result in results.values():
                result |= {"before_is": COSINE_BASELINE} if "before" in result else {}
        collapse = {"before": before.chance, "after": after.chance}
        found = alarms(results, self.metric or "spearman", collapse)
        if not self.judges:
            found.append("nothing judged the tuned model: give data.dev or data.dev_share, and data.test")
        model.score_scale = self.scale or ((0.0, 1.0) if is_classifier else (-1.0, 1.0))
        model.decision = decision
        return Marks(
            results,
            {"decision": None if decision is None else decision.to_json(), "collapse": collapse},
            found,
            decision,
            splits=tuple(
                split_scores(pairs, before.scores.get(name), after.scores[name]) for name, pairs in self.judges.items()
            ),
            worst=self._worst(before, after),
        )

    def _decide(self, before: Answers, after: Answers, is_classifier: bool) -> tuple[Decision | None, Decision | None]:
        """Return the decisions of the base and of the tuned model, both chosen on the dev pairs."""
        if "dev" not in self.judges:
            return None, None
        pairs, bare = self.judges["dev"], replace(self.settings, calibration="none")
        decision = try_decision(after.scores["dev"], pairs, bare if is_classifier else self.settings)
        if isinstance(decision, str):
            logger.warning("no threshold is stored: %s", decision)
            return None, None
        if is_classifier:
            decision = as_probability(decision)
        base = try_decision(before.scores["dev"], pairs, bare) if "dev" in before.scores else None
        return base if isinstance(base, Decision) else None, decision

    def _worst(self, before: Answers, after: Answers) -> tuple[WorstPair, ...]:
        """Return the pairs that the tuned model puts farthest from their place, of test where there is one."""
        name = next((name for name in ("test", "dev") if name in self.judges), None)
        if name is None:
            return ()
        pairs = self.judges[name]
        texts = list(pairs.texts())
        firsts, seconds = [row[0] for row in texts], [row[1] if len(row) > 1 else "" for row in texts]
        scores = split_scores(pairs, before.scores.get(name), after.scores[name])
        return worst_pairs(scores, firsts, seconds, pairs.lines, N_WORST)
