"""Evaluators score a model during training, and compare it with its starting point at the end.

An evaluator holds the rows of dev and test. It evaluates a model on dev, takes down a baseline before training, and
evaluates the tuned model at the end: metrics, the decision that is stored with the model, what a report shows. Whatever
is fitted (a threshold, a calibration, a temperature) is fitted on dev alone; test rows are for evaluation only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sbert_ft.evaluation.results import ClassSplit, Mistake, SplitScores, WorstPair
from sbert_ft.model_folder.decision import Decision
from sbert_ft.models.classifier import TrainableModel

N_WORST = 50  # rows that a report shows, worst first


@dataclass(frozen=True)
class EvaluationResult:
    """What an evaluator has found out about the tuned model.

    Attributes:
        results: By name of the split: what metrics.json says of it.
        facts: Other keys of metrics.json.
        alarms: What must be said first, a sentence each.
        decision: Stored with the model; None for none.
        splits: What a report shows of scored pairs.
        worst: The pairs farthest from their place.
        classes: What a report shows of classified rows.
        mistakes: The rows that were classified wrongly with most confidence.
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
    """`PairEvaluator` and `ClassEvaluator`."""

    @property
    def metric(self) -> str | None:
        """By which the best step is chosen, where there are dev rows."""

    def evaluate(self, model: TrainableModel, stopped: Callable[[], bool]) -> Mapping[str, float | None] | None:
        """Return the metrics of the model on dev, or None as soon as `stopped` is True."""

    def evaluate_baseline(self, model: TrainableModel) -> Any:
        """Return what there is to compare with before training, for `evaluate_final`."""

    def evaluate_final(self, model: TrainableModel, before: Any) -> EvaluationResult:
        """Return what is found of the tuned model; what was fitted to it is stored in it."""


def as_probability(decision: Decision) -> Decision:
    """Return a decision whose threshold is one on a probability, which is not below 0."""
    ends = {name: max(0.0, value) for name in ("low", "high") if (value := getattr(decision, name)) is not None}
    return replace(decision, threshold=max(0.0, decision.threshold), similarity="probability", **ends)
