"""Evaluators score a model during training, and compare it with its starting point at the end.

An evaluator holds the rows of dev and test. It evaluates a model on dev, records a baseline before training, and
evaluates the tuned model at the end: metrics, the decision that is stored with the model, and data for the report.
Thresholds, calibrations and temperatures are fitted only on dev; test rows are used only for evaluation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.metrics import METRICS
from sbert_ft.config.settings import EvaluationSettings
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.errors import InputError, quoted
from sbert_ft.evaluation.bootstrap import Flags
from sbert_ft.evaluation.calibration import fit_decision
from sbert_ft.evaluation.metrics import Score
from sbert_ft.evaluation.results import ClassSplit, Mistake, SplitScores, WorstPair, WorstQuery
from sbert_ft.model_folder.decision import Decision
from sbert_ft.models.classifier import TrainableModel

N_WORST = 50  # number of worst rows in a report

logger = logging.getLogger(__name__)


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
        worst_queries: The queries whose relevant texts are ranked worst.
    """

    results: dict[str, Any]
    facts: dict[str, Any]
    alarms: list[str]
    decision: Decision | None = None
    splits: tuple[SplitScores, ...] = ()
    worst: tuple[WorstPair, ...] = ()
    classes: tuple[ClassSplit, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    worst_queries: tuple[WorstQuery, ...] = ()


class Evaluator(Protocol):
    """The interface of `PairEvaluator`, `ClassEvaluator`, `LanguageEvaluator` and `RetrievalEvaluator`."""

    @property
    def metric(self) -> str | None:
        """The metric that chooses the best step; None without dev rows."""

    def evaluate(self, model: TrainableModel, stopped: Callable[[], bool]) -> Mapping[str, Score] | None:
        """Return the metrics of the model on dev, without intervals, or None as soon as `stopped` is True."""

    def evaluate_baseline(self, model: TrainableModel) -> Any:
        """Return the baseline before training, for `evaluate_final`."""

    def doubts(self, model: TrainableModel, before: Any) -> list[str]:
        """Return warnings about the labels, to be read before training."""

    def evaluate_final(self, model: TrainableModel, before: Any) -> EvaluationResult:
        """Return the results of the tuned model; what was fitted on dev is stored in the model."""


def check_n_texts(dataset: ConnectionDataset, has: int, needs: int) -> None:
    """Check that a row of the data set has as many texts as a model needs.

    Raises:
        InputError: It has more or fewer.
    """
    if has != needs:
        found, needed = (("one text", "two texts", "three texts")[n - 1] for n in (has, needs))
        problem = f"a row of {quoted(dataset.source, limit=400)} has {found}, but the model needs {needed}"
        raise InputError(problem, "name the columns with --columns")


def joined(parts: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return a stream of arrays as one."""
    return np.concatenate(list(parts))


def joined_unless(parts: Iterable[NDArray[np.float32]], stopped: Callable[[], bool]) -> NDArray[np.float32] | None:
    """Return a stream of arrays as one, or None once `stopped`, called after each of them, returns True."""
    found = []
    for part in parts:
        found.append(part)
        if stopped():
            return None
    return np.concatenate(found)


def split_of_worst_rows(sets: Iterable[str]) -> str | None:
    """Return the split whose worst rows a report shows: test, or dev if there is no test; None without both."""
    return next((name for name in ("test", "dev") if name in set(sets)), None)


def try_decision(
    scores: NDArray[np.floating], matches: Flags, dataset: ConnectionDataset, settings: EvaluationSettings
) -> Decision | str:
    """Return the decision of `fit_decision` for pairs of a data set, or a sentence that says why there is none."""
    fitted_on = {"source": dataset.source, "sha256": dataset.sha256}
    try:
        return fit_decision(scores, matches, settings, fitted_on, scale=dataset.score_range)
    except InputError as error:
        return str(error)


def decision_to_store(
    scores: NDArray[np.floating],
    matches: Flags,
    dataset: ConnectionDataset,
    settings: EvaluationSettings,
    *,
    of_probabilities: bool,
) -> Decision | None:
    """Return the same as `try_decision`, or None after a warning.

    For probabilities no calibration is fitted, and threshold and interval are at least 0.
    """
    if of_probabilities:
        settings = replace(settings, calibration="none")
    decision = try_decision(scores, matches, dataset, settings)
    if isinstance(decision, str):
        logger.warning("no threshold is stored: %s", decision)
        return None
    if not of_probabilities:
        return decision
    ends = {name: max(0.0, value) for name in ("low", "high") if (value := getattr(decision, name)) is not None}
    return replace(decision, threshold=max(0.0, decision.threshold), similarity="probability", **ends)


def change_in_words(difference: Mapping[str, Any]) -> str:
    """Return a difference that has a value, as in metrics.json: "-0.0123 (interval -0.0200 to -0.0050)"."""
    value, low, high, reason = (difference[part] for part in ("value", "low", "high", "reason"))
    return f"{value:+.4f} ({reason if low is None else f'interval {low:+.4f} to {high:+.4f}'})"


def worse_than_before(name: str, result: Mapping[str, Any], metric: str) -> list[str]:
    """Return a warning if the model is worse than before on a split, by its entry in metrics.json; empty if not.

    For a split without the metric, its first metric is compared.
    """
    differences = result.get("difference", {})
    named = metric if metric in differences else next(iter(differences), None)
    if named is None:
        return []
    before, after, difference = (result[part][named] for part in ("before", "after", "difference"))
    if before["value"] is not None and after["value"] is None:
        return [f"the tuned model has no {named} on {name} ({after['reason']}), but the base model has"]
    lower_is_better = named in METRICS and METRICS[named].lower_is_better
    if difference["value"] is None or (difference["value"] <= 0 if lower_is_better else difference["value"] >= 0):
        return []
    end = difference["low" if lower_is_better else "high"]
    scores = f"scores {'higher' if lower_is_better else 'lower'}"
    is_certain = end is not None and (end > 0 if lower_is_better else end < 0)
    how = scores if end is None else "is worse" if is_certain else f"{scores}, maybe by chance,"
    return [f"the tuned model {how} on {name}: {named} changed by {change_in_words(difference)}"]
