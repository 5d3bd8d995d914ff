"""The objective of a run: one or more of `config.objectives`, added with weights and checked against the data.

One packed forward gives the vectors of all texts of a batch; an objective turns them and the labels into one number, in
float32. `check_fits` checks before training that the rows are those that it takes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbert_ft.config.objectives import OBJECTIVES, HeadToTrain, ObjectiveSettings
from sbert_ft.errors import InputError, enumerated, quoted

if TYPE_CHECKING:
    from sbert_ft.config.objectives import LossMethod

logger = logging.getLogger(__name__)
_LABEL_WORDS = {"none": "no label", "binary": "a label 0 or 1", "score": "a score", "classes": "a class name"}
_NUMBER_WORDS = {1: "one text", 2: "two texts", 3: "three texts"}


class LabelledTexts(Protocol):
    """The parts of a data set that `check_fits` uses; `ConnectionDataset` has them."""

    @property
    def n_texts(self) -> int:
        """Texts per row."""

    @property
    def label_kind(self) -> str:
        """One of none, binary, score and classes."""

    @property
    def labels(self) -> NDArray[np.float64] | None:
        """Shape (rows,), or None without labels."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, if the labels are classes."""


@dataclass(frozen=True)
class Objective:
    """A loss over a batch, made by `build_objective`.

    Attributes:
        name: The name in the settings; several are joined by a plus.
        settings: The given settings, with all defaults filled in.
        n_texts: Texts that a row may have.
        label_kinds: Labels that a row may have: none, binary, score or classes.
        coupled: Whether a row's loss depends on the other rows of its batch. If not, the loss is the mean over rows.
        distinct_texts: Whether a batch must hold no text twice.
        methods: One loss function per entry of `settings`.
    """

    name: str
    settings: tuple[ObjectiveSettings, ...]
    n_texts: tuple[int, ...]
    label_kinds: tuple[str, ...]
    coupled: bool
    distinct_texts: bool
    methods: tuple[LossMethod, ...]

    def loss(self, embeddings: list[Tensor], labels: Tensor | None) -> Tensor:
        """Return the weighted sum of the losses of a batch: a scalar, float32, under autocast too.

        Args:
            embeddings: The vectors of each column of texts, shape (B, d) each, any floating type; joined pairs are
                one column.
            labels: Targets, shape (B,), any type, on the same device; None without labels.

        Raises:
            InputError: The objective does not accept this number of columns, or needs labels.
        """
        if len(embeddings) not in self.n_texts or (labels is None and "none" not in self.label_kinds):
            given = f"{len(embeddings)} columns of texts {'without' if labels is None else 'with'} labels"
            raise InputError(f"objective {self.name} was given {given}, but {_takes(self.settings)}")
        with torch.autocast(embeddings[0].device.type, enabled=False):
            vectors = [column.float() for column in embeddings]
            targets = None if labels is None else labels.float()
            parts = zip(self.settings, self.methods, strict=True)
            return torch.stack([part.weight * method(vectors, targets) for part, method in parts]).sum()

    def describe(self) -> str:
        """Return the objective in one line, such as ``cosine + 0.5 * cosent (scale 20)``."""
        return " + ".join(_describe(part) for part in self.settings)


def build_objective(settings: Sequence[ObjectiveSettings], head: HeadToTrain | None = None) -> Objective:
    """Return the objective that adds the losses of these settings, each times its weight.

    Args:
        settings: One or more objectives, checked by `config.loader`.
        head: The head of the classifier to train; None for a sentence encoder.

    Raises:
        InputError: No row fits all objectives, or an objective is not for this kind of model.
    """
    _check_trained(settings, head)
    name = " + ".join(part.name for part in settings)
    kinds = [OBJECTIVES[part.name] for part in settings]
    n_texts = tuple(n for n in kinds[0].n_texts if all(n in kind.n_texts for kind in kinds))
    label_kinds = tuple(k for k in kinds[0].label_kinds if all(k in kind.label_kinds for kind in kinds))
    if not n_texts or not label_kinds:
        raise InputError(f"the objectives {name} cannot be added, since no row fits all of them: {_takes(settings)}")
    filled = tuple(_filled(part) for part in settings)
    return Objective(
        name=name,
        settings=filled,
        n_texts=n_texts,
        label_kinds=label_kinds,
        coupled=any(kind.coupled for kind in kinds),
        distinct_texts=any(kind.distinct_texts for kind in kinds),
        methods=tuple(_method(part, head) for part in filled),
    )


def _check_trained(settings: Sequence[ObjectiveSettings], head: HeadToTrain | None) -> None:
    """Refuse classifier objectives for an encoder, and encoder objectives for a classifier.

    Raises:
        InputError: An objective is not for this kind of model, or a classifier has several objectives.
    """
    for part in settings:
        if OBJECTIVES[part.name].of_classifier != (head is not None):
            trained = "a sentence encoder (model.kind siamese)" if head is None else "a classifier"
            fitting = enumerated(name for name, kind in OBJECTIVES.items() if kind.of_classifier == (head is not None))
            raise InputError(f"objective {part.name} is not for {trained}, which takes {fitting}")
    if head is not None and len(settings) > 1:
        raise InputError(
            f"a classifier can have only one objective, found {enumerated(part.name for part in settings)}"
        )


def check_fits(objective: Objective, dataset: LabelledTexts) -> None:
    """Check that the objective can learn from these rows.

    If all labels are equal, a warning is logged: if texts are only pulled together, all end at one point.

    Raises:
        InputError: It cannot; the message says what rows the data has and which objectives would fit.
    """
    for part in objective.settings:
        fault = _misfit(part.name, dataset)
        if fault is not None:
            of_classifier = OBJECTIVES[part.name].of_classifier
            raise InputError(f"objective {part.name} {fault}; {_advice(dataset, of_classifier)}")
    labels = dataset.labels
    if labels is None or len(labels) == 0 or objective.distinct_texts or (labels != labels[0]).any():
        return
    if dataset.label_kind == "classes":
        name = quoted(dataset.class_names[int(labels[0])], limit=40)
        raise InputError(
            f"all {len(labels):,} training rows are of the class {name}, but a classifier needs at least two classes",
            "add rows of another class, or check which classes data.classes leaves out",
        )
    better = "; in_batch_negatives is for such rows" if "in_batch_negatives" in fitting_objectives(dataset) else ""
    logger.warning(
        "all %d labels are %g: objective %s needs at least two different labels%s",
        len(labels),
        labels[0],
        objective.name,
        better,
    )


def fitting_objectives(dataset: LabelledTexts, of_classifier: bool = False) -> tuple[str, ...]:
    """Return the names of the objectives that can learn from these rows, in the table's order.

    Args:
        dataset: The rows.
        of_classifier: True for objectives of classifiers, False for those of sentence encoders.
    """
    kinds = [name for name, kind in OBJECTIVES.items() if kind.of_classifier == of_classifier]
    return tuple(name for name in kinds if _misfit(name, dataset) is None)


def _misfit(name: str, dataset: LabelledTexts) -> str | None:
    """Return why the objective cannot learn from these rows, as the rest of a sentence; or None."""
    kind = OBJECTIVES[name]
    if dataset.n_texts not in kind.n_texts or dataset.label_kind not in kind.label_kinds:
        found = f"{_NUMBER_WORDS[dataset.n_texts]} and {_LABEL_WORDS[dataset.label_kind]}"
        return f"takes {kind.takes}, but a row of this data has {found}"
    if kind.find_fault is None or dataset.labels is None:
        return None
    return kind.find_fault(dataset.labels)


def _advice(dataset: LabelledTexts, of_classifier: bool) -> str:
    """Return what to do with data that the chosen objective does not fit."""
    if of_classifier and dataset.label_kind == "none":
        return "name the column of labels with data.label_column"
    if of_classifier and dataset.label_kind in ("binary", "score"):
        return (
            "read every distinct number as a class with data.label_kind classes (Reading(label_kind='classes')), or "
            "use binary_cross_entropy for scores"
        )
    if not of_classifier and dataset.n_texts == 1:
        return "train a classifier of single texts with model.kind single, or name two columns with data.text_columns"
    if not of_classifier and dataset.label_kind == "classes":
        names = ", ".join(quoted(name, limit=20) for name in dataset.class_names[:5])
        return (
            "train a classifier with model.kind joined or towers, or for a sentence encoder say with "
            f"data.label_values which of {names} means 1 and which 0 (the rows with other labels are left out)"
        )
    fitting = fitting_objectives(dataset, of_classifier)
    if not fitting:
        return "no objective fits such rows: name two text columns, or three without labels, with data.text_columns"
    advice = f"objectives that fit this data: {enumerated(fitting)}"
    if dataset.label_kind == "none" and dataset.n_texts == 2:
        advice += " (a column of scores or labels is named with data.label_column)"
    return advice


def _filled(settings: ObjectiveSettings) -> ObjectiveSettings:
    """Return the settings with the objective's own default in place of None."""
    defaults = OBJECTIVES[settings.name].defaults
    missing: dict[str, Any] = {key: value for key, value in defaults.items() if getattr(settings, key) is None}
    return replace(settings, **missing)


def _method(settings: ObjectiveSettings, head: HeadToTrain | None) -> LossMethod:
    kind = OBJECTIVES[settings.name]
    if kind.of_classifier:
        return kind.make(head)
    return kind.make(**{key: getattr(settings, key) for key in kind.defaults})


def _describe(settings: ObjectiveSettings) -> str:
    options = []
    for name in OBJECTIVES[settings.name].defaults:
        value = getattr(settings, name)
        if value not in (None, False):
            shown = f" {value:g}" if isinstance(value, float | int) else f" {value}"
            options.append(name.replace("_", " ") + ("" if value is True else shown))
    factor = "" if settings.weight == 1 else f"{settings.weight:g} * "
    return f"{factor}{settings.name}{' (' + ', '.join(options) + ')' if options else ''}"


def _takes(settings: Iterable[ObjectiveSettings]) -> str:
    return ", ".join(f"{part.name} takes {OBJECTIVES[part.name].takes}" for part in settings)
