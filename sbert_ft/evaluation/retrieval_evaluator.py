"""Evaluate a sentence encoder during training by a search too, beside its dev and test pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from sbert_ft.config.metrics import choosing_metrics
from sbert_ft.config.settings import EvaluationSettings, RunSettings
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.data.retrieval import RetrievalData
from sbert_ft.errors import InputError, quoted
from sbert_ft.evaluation.evaluator import N_WORST, EvaluationResult, worse_than_before
from sbert_ft.evaluation.metrics import Score
from sbert_ft.evaluation.pair_evaluator import PairEvaluator, PairScores
from sbert_ft.evaluation.retrieval import Search, judged, metrics_of, worst_queries
from sbert_ft.evaluation.retrieval_metrics import Ints, is_trivial
from sbert_ft.models.classifier import TrainableModel
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.models.unit_vectors import Encoding

DEFAULT_METRIC: Final = "ndcg@10"
_USUAL: Final = (DEFAULT_METRIC, "mrr@10")
RETRIEVAL: Final = "retrieval"  # the name of its entry beside dev and test


class _Stopped(Exception):
    """The run is to end, so an evaluation does."""


@dataclass(frozen=True)
class RetrievalEvaluator:
    """Evaluates a model by a search and on dev and test pairs.

    Attributes:
        pairs: The evaluator of the pairs, of which there may be none.
        data: The queries and judgements.
        metric: The metric that chooses the best step: one of the search, or that of the dev pairs.
        settings: How the result is evaluated.
    """

    pairs: PairEvaluator
    data: RetrievalData
    metric: str
    settings: EvaluationSettings

    @classmethod
    def of(
        cls, splits: Mapping[str, ConnectionDataset], data: RetrievalData, settings: RunSettings
    ) -> RetrievalEvaluator:
        """Return the evaluator of a run with these data sets, by name, train among them.

        Raises:
            InputError: The metric needs other labels than the dev pairs have, or a larger corpus.
        """
        metric = settings.training.metric
        if metric in choosing_metrics("relevance"):
            settings = replace(settings, training=replace(settings.training, metric=None))
        pairs = replace(PairEvaluator.of(splits, settings), is_alone=False)
        metric = metric or pairs.metric or DEFAULT_METRIC
        if is_trivial(metric, len(data.corpus)):
            raise InputError(
                f"training.metric is {metric}, but {quoted(data.files.corpus, limit=400)} has only "
                f"{len(data.corpus):,} texts, so every ranking reaches 1",
                f"use {DEFAULT_METRIC}, or a larger corpus",
            )
        return cls(pairs, data, metric, settings.evaluation)

    @property
    def evaluated_on(self) -> str:
        """What `evaluate` evaluates on, in words."""
        return f"dev and {RETRIEVAL}" if "dev" in self.pairs.sets else RETRIEVAL

    def evaluate(self, model: TrainableModel, stopped: Callable[[], bool]) -> Mapping[str, Score] | None:
        """Return the metrics of the search and of dev, or None once `stopped` returns True."""
        of_pairs = self.pairs.evaluate(model, stopped) if "dev" in self.pairs.sets else {}
        if of_pairs is None:
            return None
        try:
            search = self._search_until(model, stopped)
        except _Stopped:
            return None
        scores = metrics_of(self.data, search.ranks).scores
        shown = {name: scores[name] for name in dict.fromkeys((self.metric, *_USUAL)) if name in scores}
        return {**shown, **of_pairs}

    def evaluate_baseline(self, model: TrainableModel) -> tuple[PairScores, Ints]:
        """Return the scores of the pairs and the ranks of the relevant texts before training."""
        return self.pairs.evaluate_baseline(model), self._search(model).ranks

    def doubts(self, model: TrainableModel, before: tuple[PairScores, Ints]) -> list[str]:
        """Return why labels may mean the opposite, as `PairEvaluator` does."""
        return self.pairs.doubts(model, before[0])

    def evaluate_final(self, model: TrainableModel, before: tuple[PairScores, Ints]) -> EvaluationResult:
        """Return the results of the tuned model; decision and score scale are stored in it."""
        scores, ranks = before
        found, search = self.pairs.evaluate_final(model, scores), self._search(model)
        entry = judged(self.data, ranks, search.ranks, self.settings)
        return replace(
            found,
            results={**found.results, RETRIEVAL: entry},
            alarms=[*found.alarms, *worse_than_before(RETRIEVAL, entry, self.metric)],
            worst_queries=worst_queries(self.data, ranks, search, N_WORST),
        )

    def _search(self, model: TrainableModel) -> Search:
        return self._search_until(model, lambda: False)

    def _search_until(self, model: TrainableModel, stopped: Callable[[], bool]) -> Search:
        """Return the model's search; raise `_Stopped` once `stopped` returns True."""
        assert isinstance(model, SiameseBert)

        def on_encoded(n: int) -> None:
            if stopped():
                raise _Stopped

        return Search.of(model, self.data, Encoding(on_truncate="ignore", on_encoded=on_encoded))
