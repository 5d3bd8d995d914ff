"""Evaluators score a model during training, and compare it with its starting point at the end.

An evaluator holds the rows of dev and test. It evaluates a model on dev, records a baseline before training, and
evaluates the tuned model at the end: metrics, the decision that is stored with the model, and data for the report.
Thresholds, calibrations and temperatures are fitted only on dev; test rows are used only for evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sbert_ft.evaluation.results import ClassSplit, Mistake, SplitScores, WorstPair
from sbert_ft.model_folder.decision import Decision
from sbert_ft.models.classifier import TrainableModel

N_WORST = 50  # number of worst rows in a report


@dataclass(frozen=True)
class EvaluationResult:
    """The results of an evaluator for the tuned model.

    Attributes:
        results: Name of the split -> its entry in metrics.json.
        facts: Other keys of metrics.json.
        alarms: Warnings, one sentence each.
        decision: Stored with the model; None if there is none.
        splits: Scored pairs for the report.
        worst: The pairs with the largest error (see `errors_of_place`).
        classes: Classified rows for the report.
        mistakes: The wrongly classified rows with the highest predicted probability.
    """

    results: dict[str, Any]
    facts: dict[str, Any]
    alarms: list[str]
    decision: Decision | None = None
    splits: tuple[SplitScores, ...] = ()
    worst: tuple[WorstPair, ...] = ()
    classes: tuple[ClassSplit, ...] = ()
    mistakes: tuple[Mistake, ...] = ()


class Evaluator(Protocol):
    """The interface of `PairEvaluator` and `ClassEvaluator`."""

    @property
    def metric(self) -> str | None:
        """The metric that chooses the best step; None without dev rows."""

    def evaluate(self, model: TrainableModel, stopped: Callable[[], bool]) -> Mapping[str, float | None] | None:
        """Return the metrics of the model on dev, or None as soon as `stopped` is True."""

    def evaluate_baseline(self, model: TrainableModel) -> Any:
        """Return the baseline before training, for `evaluate_final`."""

    def evaluate_final(self, model: TrainableModel, before: Any) -> EvaluationResult:
        """Return the results of the tuned model; what was fitted on dev is stored in the model."""


def as_probability(decision: Decision) -> Decision:
    """Return the decision with similarity "probability"; threshold and interval are at least 0."""
    ends = {name: max(0.0, value) for name in ("low", "high") if (value := getattr(decision, name)) is not None}
    return replace(decision, threshold=max(0.0, decision.threshold), similarity="probability", **ends)
