"""The data that a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sbert_ft.evaluation.results import ClassSplit, Json, Mistake, SplitScores, WorstPair
from sbert_ft.model_folder.decision import Decision


@dataclass(frozen=True)
class Report:
    """The content of a report.

    The report of a classifier of classes has `classes` and `mistakes`, but no `splits` and no `worst`.

    Attributes:
        title: The heading.
        settings: The resolved configuration, as JSON.
        metrics: The content of metrics.json.
        ledgers: train, dev or test -> `Ledger.to_json()`.
        log: The lines of metrics.jsonl.
        splits: Scored pairs for the charts.
        worst: The worst pairs, worst first.
        decision: Threshold and calibration; None if there are none.
        classes: Classified rows for the charts of a classifier.
        mistakes: Wrongly classified rows, highest predicted probability first.
    """

    title: str
    settings: Json
    metrics: Json
    ledgers: Mapping[str, Json]
    log: Sequence[Json]
    splits: tuple[SplitScores, ...] = ()
    worst: tuple[WorstPair, ...] = ()
    decision: Decision | None = None
    classes: tuple[ClassSplit, ...] = ()
    mistakes: tuple[Mistake, ...] = ()

    @property
    def is_classifier(self) -> bool:
        """Return whether the model classifies rows."""
        return bool(self.classes) or self.metrics.get("classes") is not None

    @property
    def row_word(self) -> str:
        """Return the word for a row of the data: pair or text."""
        model = self.settings.get("model")
        return "text" if isinstance(model, Mapping) and model.get("kind") == "single" else "pair"

    @property
    def score_word(self) -> str:
        """Return the word for the model's scores: cosine, or score for a classifier with one output."""
        model = self.settings.get("model")
        kind = model.get("kind", "siamese") if isinstance(model, Mapping) else "siamese"
        return "cosine" if kind == "siamese" and not self.is_classifier else "score"
