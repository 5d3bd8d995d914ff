"""The exam by classes: which rows a classifier gets right, and what it would have been without training.

A head that begins with random weights says nothing, so the tuned classifier is held against what needs no training:
always the most frequent class, and for pairs the untrained encoder's cosine (by a logistic regression on training
pairs). A classifier that goes on from a head for the same classes is held against itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.settings import EvaluationSettings, RunSettings
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.data.labels import class_name
from sbert_ft.errors import InputError
from sbert_ft.evaluation.class_judge import (
    COSINE_BASELINE,
    MAJORITY_BASELINE,
    JudgingRows,
    class_alarms,
    class_metric_of,
    cosine_baseline,
    judge_classes,
    judging_rows,
    logits_of,
    logits_unless,
    majority_codes,
    predicted_codes,
)
from sbert_ft.evaluation.class_metrics import CLASS_METRIC_NAMES
from sbert_ft.evaluation.decision import fit_decision
from sbert_ft.evaluation.report_content import ClassSplit, Mistake, confident_mistakes
from sbert_ft.evaluation.temperature import fit_temperature, softmax, temperature_fault
from sbert_ft.model.classifier import ClassifierModel
from sbert_ft.model.decision import Decision
from sbert_ft.model.siamese import SiameseBert
from sbert_ft.training.encoder_setup import Trainee
from sbert_ft.training.exam import N_WORST, Marks, as_probability

logger = logging.getLogger(__name__)

Codes = NDArray[np.int64]

DEFAULT_METRIC = "macro_f1"
# Training pairs that the cosine's regression is fitted on: one feature needs no more.
_N_FOR_COSINE = 4000
_SELF = "the classifier before training"


@dataclass(frozen=True)
class BaseAnswers:
    """What there is to compare a tuned classifier with, by the name of the rows.

    Attributes:
        codes: Shape (n,) each.
        is_: What said so, in words.
        baselines: Of each split, other answers by what gave them.
    """

    codes: Mapping[str, Codes] = field(default_factory=dict)
    is_: str = MAJORITY_BASELINE
    baselines: Mapping[str, Mapping[str, Codes]] = field(default_factory=dict)


@dataclass(frozen=True)
class ClassExam:
    """The rows that judge a classifier by their classes.

    Attributes:
        judges: By name: dev, test.
        train: The training rows, of which the most frequent class is known.
        metric: By which the best step is chosen, where there are dev rows.
        settings: How the result is judged.
        seed: Of the training pairs that the cosine's regression is fitted on.
        has_own_head: Whether the classifier came with a head for these classes.
    """

    judges: Mapping[str, JudgingRows]
    train: JudgingRows
    metric: str | None
    settings: EvaluationSettings
    seed: int
    has_own_head: bool

    @classmethod
    def of(
        cls, splits: Mapping[str, ConnectionDataset], model: ClassifierModel, settings: RunSettings, has_own_head: bool
    ) -> ClassExam:
        """Return the exam of a run.

        Args:
            splits: Its data sets by name, train among them.
            model: With a head for the classes of the training rows.
            settings: Of the run.
            has_own_head: Whether the head was there before the run.

        Raises:
            InputError: A row is of a class that no training row has, or the metric is none of classes.
        """
        rows = {name: judging_rows(name, dataset, names_of_classes(model)) for name, dataset in splits.items()}
        train = rows.pop("train")
        metric = None
        if "dev" in rows:
            metric = settings.training.metric or DEFAULT_METRIC
            if metric not in CLASS_METRIC_NAMES:
                names = ", ".join(CLASS_METRIC_NAMES)
                raise InputError(f"training.metric is {metric}, and classes are judged by one of {names}")
        return cls(rows, train, metric, settings.evaluation, settings.training.seed, has_own_head)

    def measure(self, model: Trainee, stopped: Callable[[], bool]) -> Mapping[str, float | None] | None:
        """Return the metrics of the classifier on dev, or None as soon as `stopped` is True."""
        assert isinstance(model, ClassifierModel) and self.metric is not None
        rows = self.judges["dev"]
        logits = logits_unless(model, rows, stopped)
        if logits is None:
            return None
        return {
            name: class_metric_of(name, logits, rows) for name in dict.fromkeys((self.metric, "accuracy", "macro_f1"))
        }

    def ask_base(self, model: Trainee) -> BaseAnswers:
        """Return what there is to compare with before training."""
        assert isinstance(model, ClassifierModel)
        n_classes = len(self.train.class_names)
        majority = {
            name: majority_codes(self.train.gold, n_classes, len(rows.gold)) for name, rows in self.judges.items()
        }
        baselines: dict[str, dict[str, Codes]] = {name: {} for name in self.judges}
        if model.n_texts == 2 and self.judges:
            for name, codes in self._by_cosine(model).items():
                baselines[name][COSINE_BASELINE] = codes
        if not self.has_own_head:
            return BaseAnswers(majority, MAJORITY_BASELINE, baselines)
        for name, codes in majority.items():
            baselines[name] = {MAJORITY_BASELINE: codes, **baselines[name]}
        own = {name: predicted_codes(logits_of(model, rows), rows) for name, rows in self.judges.items()}
        return BaseAnswers(own, _SELF, baselines)

    def _by_cosine(self, model: ClassifierModel) -> dict[str, Codes]:
        encoder = SiameseBert(model.bert, "mean")
        n_train = len(self.train.gold)
        sample = np.sort(np.random.default_rng(self.seed).permutation(n_train)[:_N_FOR_COSINE])
        known = encoder.score(self.train.dataset.select(sample).pairs(), on_truncate="ignore")
        return {
            name: cosine_baseline(
                known, self.train.gold[sample], encoder.score(rows.dataset.pairs(), on_truncate="ignore")
            )
            for name, rows in self.judges.items()
        }

    def mark(self, model: Trainee, before: BaseAnswers) -> Marks:
        """Return what the exam finds; the temperature is folded into the head, and a decision stored.

        Args:
            model: The tuned classifier.
            before: What there is to compare with.
        """
        assert isinstance(model, ClassifierModel)
        logits = {name: logits_of(model, rows) for name, rows in self.judges.items()}
        temperature = self._temperature(logits)
        if temperature is not None:
            model.calibrate(temperature)
            logits = {name: (found / np.float32(temperature)).astype(np.float32) for name, found in logits.items()}
        results = {
            name: judge_classes(
                rows, before.codes.get(name), before.is_, logits[name], self.settings, before.baselines.get(name, {})
            )
            for name, rows in self.judges.items()
        }
        found = class_alarms(results, self.metric or DEFAULT_METRIC)
        if not self.judges:
            found.append("nothing judged the tuned classifier: give data.dev or data.dev_share, and data.test")
        model.decision = self._decision(logits)
        every = {"train": self.train, **self.judges}
        facts = {
            "decision": None if model.decision is None else model.decision.to_json(),
            "calibration": None if temperature is None else self._calibration(temperature),
            "classes": {name: rows.dataset.class_counts() for name, rows in every.items()},
        }
        splits = tuple(self._split(name, before, logits[name]) for name in self.judges)
        return Marks(results, facts, found, model.decision, classes=splits, mistakes=self._mistakes(splits))

    def _temperature(self, logits: Mapping[str, NDArray[np.float32]]) -> float | None:
        if "dev" not in logits or self.settings.calibration == "none":
            return None
        gold = self.judges["dev"].gold
        fault = temperature_fault(logits["dev"], gold)
        if fault is not None:
            logger.warning("probabilities are not calibrated: %s", fault)
            return None
        return fit_temperature(logits["dev"], gold)

    def _calibration(self, temperature: float) -> dict[str, Any]:
        dataset = self.judges["dev"].dataset
        fitted_on = {"source": dataset.source, "sha256": dataset.sha256, "n": len(dataset)}
        return {"kind": "temperature", "temperature": temperature, "fitted_on": fitted_on}

    def _decision(self, logits: Mapping[str, NDArray[np.float32]]) -> Decision | None:
        """Return the threshold on the probability of the second of two classes, chosen on dev."""
        if "dev" not in logits or len(self.train.class_names) != 2:
            return None
        dataset = self.judges["dev"].dataset
        fitted_on = {"source": dataset.source, "sha256": dataset.sha256}
        settings = replace(self.settings, calibration="none", match_from=None)
        try:
            decision = fit_decision(softmax(logits["dev"])[:, 1], self.judges["dev"].gold == 1, settings, fitted_on)
        except InputError as error:
            logger.warning("no threshold is stored: %s", error)
            return None
        return as_probability(decision)

    def _split(self, name: str, before: BaseAnswers, logits: NDArray[np.float32]) -> ClassSplit:
        rows = self.judges[name]
        return ClassSplit(
            name=name,
            source=rows.dataset.source,
            class_names=rows.class_names,
            gold=rows.gold,
            before=before.codes.get(name),
            before_is=before.is_,
            probabilities=softmax(logits).astype(np.float32),
        )

    def _mistakes(self, splits: tuple[ClassSplit, ...]) -> tuple[Mistake, ...]:
        """Return the most confident mistakes, of test where there is one."""
        named = {split.name: split for split in splits}
        name = next((name for name in ("test", "dev") if name in named), None)
        if name is None:
            return ()
        dataset = self.judges[name].dataset
        return confident_mistakes(named[name], list(dataset.rows_of_texts()), dataset.lines, N_WORST)


def names_of_classes(model: ClassifierModel) -> tuple[str, ...]:
    """Return what data sets call the classes of a model, in its order; none for one output."""
    return tuple(map(class_name, model.classes_.tolist())) if model.n_outputs > 1 else ()
