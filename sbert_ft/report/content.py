"""."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sbert_ft.evaluation.results import ClassSplit, Json, Mistake, SplitScores, WorstPair
from sbert_ft.model_folder.decision import Decision


@dataclass(frozen=True)
class Report:
    """All that a report says.

    A classifier's has `classes` and `mistakes`, and neither `splits` nor `worst`.

    Attributes:
        title: Its heading.
        settings: The resolved configuration, as JSON has it.
        metrics: The content of metrics.json.
        ledgers: train, dev or test -> `Ledger.to_json()`.
        log: The lines of metrics.jsonl.
        splits: What the charts show.
        worst: Pairs, worst first.
        decision: Threshold and calibration; None where there are none.
        classes: What the charts of a classifier show.
        mistakes: Wrong rows, those of which the classifier was surest first.
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
        """Return whether the model puts rows into classes."""
        return bool(self.classes) or self.metrics.get("classes") is not None

    @property
    def row_word(self) -> str:
        """Return what a row of the data is: a pair, or a text."""
        model = self.settings.get("model")
        return "text" if isinstance(model, Mapping) and model.get("kind") == "single" else "pair"

    @property
    def score_word(self) -> str:
        """Return what the model's scores are: cosine, or of a classifier with one output, score."""
        model = self.settings.get("model")
        kind = model.get("kind", "siamese") if isinstance(model, Mapping) else "siamese"
        return "cosine" if kind == "siamese" and not self.is_classifier else "score"
