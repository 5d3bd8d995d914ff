"""The data that a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.objectives import reads_single_texts
from sbert_ft.config.rules import LANGUAGE_KIND
from sbert_ft.config.settings import RunSettings
from sbert_ft.data.ledger import Ledger
from sbert_ft.evaluation.metrics import Score
from sbert_ft.evaluation.results import ClassSplit, Json, Mistake, SplitScores, WorstPair, WorstQuery
from sbert_ft.model_folder.decision import Decision


class Scores(dict[str, Score]):
    """Metric -> its score; one that was not computed has neither value nor reason."""

    def __missing__(self, metric: str) -> Score:
        return Score(None)


@dataclass(frozen=True)
class SplitResult:
    """The entry of dev, test or a search in metrics.json; what it does not have is empty or None.

    `evaluate_pairs`, `evaluate_classes` and `judged` make these entries. `unit` is the word for what is counted, if it
    is not a row of the data. `confusion` has a row for each true class, shape (K, K). `by_width` has the metrics
    before and after by the first features of the vectors alone, for some numbers of these.
    """

    name: str
    n: int = 0
    unit: str | None = None
    source: str = "an unnamed source"
    note: str | None = None
    before_is: str | None = None
    before: Scores = field(default_factory=Scores)
    after: Scores = field(default_factory=Scores)
    difference: Scores = field(default_factory=Scores)
    baselines: dict[str, Scores] = field(default_factory=dict)
    baseline_differences: dict[str, Scores] = field(default_factory=dict)
    classes: Sequence[str] = ()
    per_class: Sequence[Json] = ()
    confusion: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    log_loss: float | None = None
    calibration_error: float | None = None
    by_width: Mapping[str, Mapping[str, Mapping[str, float | None]]] = field(default_factory=dict)

    @classmethod
    def of_json(cls, name: str, entry: Json) -> SplitResult:
        """Return the entry of the split `name` as a result."""
        values: dict[str, Any] = {key: value for key, value in entry.items() if key in cls.__dataclass_fields__}
        for key in values.keys() & {"before", "after", "difference"}:
            values[key] = _scores(values[key])
        for key in values.keys() & {"baselines", "baseline_differences"}:
            values[key] = {who: _scores(scores) for who, scores in values[key].items()}
        if "confusion" in values:
            values["confusion"] = np.array(values["confusion"], dtype=np.int64)
        return cls(name, **values)


def _scores(content: Json) -> Scores:
    return Scores({metric: Score(**score) for metric, score in content.items()})


@dataclass(frozen=True)
class Report:
    """The content of a report.

    `metrics` is the content of metrics.json, `log` the lines of metrics.jsonl, and `ledgers` the accounts of train, dev
    and test. The report of a classifier of classes has `classes` and `mistakes` (highest predicted probability first),
    that of a masked language model none of these, any other `splits` and `worst` (worst first), and where a search
    is evaluated too, `worst_queries` (worst first).
    """

    title: str
    settings: RunSettings
    metrics: Json
    ledgers: Mapping[str, Ledger]
    log: Sequence[Json]
    splits: tuple[SplitScores, ...] = ()
    worst: tuple[WorstPair, ...] = ()
    decision: Decision | None = None
    classes: tuple[ClassSplit, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    worst_queries: tuple[WorstQuery, ...] = ()

    @cached_property
    def results(self) -> tuple[SplitResult, ...]:
        """The results of each split, test first."""
        splits = self.metrics.get("splits", {})
        return tuple(sorted((SplitResult.of_json(name, of) for name, of in splits.items()), key=split_order))

    @property
    def is_classifier(self) -> bool:
        """Whether the model classifies rows."""
        return self.metrics.get("classes") is not None

    @property
    def is_language(self) -> bool:
        """Whether the model is a masked language model, trained on raw texts."""
        return self.settings.model.kind == LANGUAGE_KIND

    @property
    def has_next_sentence(self) -> bool:
        """Whether next-sentence prediction is trained too."""
        return any(part.name == "nsp" for part in self.settings.objective)

    @property
    def row_word(self) -> str:
        """The word for a row of the data: pair, text, or sequence (a text, a part of one, or two segments)."""
        if self.is_language:
            return "sequence"
        return "text" if self.settings.model.kind == "single" else "pair"

    @property
    def train_word(self) -> str:
        """The word for a row of the training data: pair or text."""
        return "text" if reads_single_texts(self.settings.objective) else self.row_word

    @property
    def score_word(self) -> str:
        """The word for the model's scores: cosine, or score for a classifier with one output."""
        return "cosine" if self.settings.model.kind == "siamese" and not self.is_classifier else "score"


def split_order(split: SplitResult | SplitScores | ClassSplit) -> tuple[bool, str]:
    """Return the sort key of a split: test comes first, because nothing was chosen on it."""
    return split.name != "test", split.name
