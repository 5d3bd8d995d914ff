"""Objectives: losses over the vectors of a batch, built by name and checked against the data.

One packed forward gives the vectors of all texts of a batch; an objective turns them and the labels into one number, in
float32. Several objectives may be added with weights. The table `OBJECTIVES` says what rows and settings each one
accepts: `build_objective` checks settings and `check_fits` checks data against it, before training starts.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sbert_ft.config.settings import ObjectiveSettings
from sbert_ft.errors import InputError, quoted

LossMethod = Callable[[list[Tensor], Tensor | None], Tensor]

# The loss classes hold a model for their own forward, which is not used here.
_NO_MODEL: Any = None


_SCORED = "two texts and a score or a label 0 or 1"
_LABELLED = "two texts and a label 0 or 1"
logger = logging.getLogger(__name__)
_LABEL_WORDS = {"none": "no label", "binary": "a label 0 or 1", "score": "a score", "classes": "a class name"}
_NUMBER_WORDS = {1: "one text", 2: "two texts", 3: "three texts"}


@dataclass(frozen=True)
class ObjectiveKind:
    """One entry of `OBJECTIVES`.

    Attributes:
        summary: What the loss is, and its source.
        takes: The rows that it accepts, in words.
        n_texts: Texts that a row may have.
        label_kinds: Labels that a row may have: none, binary (0 or 1), score or classes.
        make: Makes the loss from the settings named in `defaults`.
        defaults: The settings that it accepts, with their default values.
        coupled: Whether a row's loss depends on the other rows of its batch.
        distinct_texts: Whether a text that occurs twice in a batch would be used as its own negative.
        find_fault: Returns what is wrong with the labels, shape (rows,), as the rest of a sentence; or None.
        of_classifier: Whether it trains a classifier, with a loss on the head's logits: `make` gets a `HeadToTrain`.
    """

    summary: str
    takes: str
    n_texts: tuple[int, ...]
    label_kinds: tuple[str, ...]
    make: Callable[..., LossMethod]
    defaults: Mapping[str, float]
    coupled: bool = False
    distinct_texts: bool = False
    find_fault: Callable[[NDArray[np.float64]], str | None] | None = None
    of_classifier: bool = False


@dataclass(frozen=True)
class HeadToTrain:
    """The head and the class weights that a classifier's loss needs.

    Attributes:
        head: Maps the vectors of each column of texts, shape (B, D) each, to logits, shape (B, K).
        class_weights: Factor on the loss of each class's rows, shape (K,), on the head's device; None for 1.
    """

    head: Callable[[list[Tensor]], Tensor]
    class_weights: Tensor | None = None


def find_no_order(labels: NDArray[np.float64]) -> str | None:
    """Return why an objective that ranks rows cannot learn from these labels, or None if it can."""
    if len(labels) == 0 or (labels != labels[0]).any():
        return None
    return f"learns from which of two rows has the higher label, but all {len(labels):,} labels are {labels[0]:g}"


def find_no_match(labels: NDArray[np.float64]) -> str | None:
    """Return why an objective for matching rows cannot use these labels, or None if it can."""
    n_other = int((labels != 1).sum())
    if n_other == 0:
        return None
    return (
        f"takes rows known to match, but {n_other:,} of {len(labels):,} labels are 0: keep only the matching rows "
        'with data.label_values, such as {"1": 1}'
    )


def _losses() -> Any:
    from sentence_transformers.sentence_transformer import losses

    return losses


def _loss_method(loss: Any) -> LossMethod:
    method: LossMethod = loss.compute_loss_from_embeddings
    return method


def _cosine() -> LossMethod:
    return _loss_method(_losses().CosineSimilarityLoss(_NO_MODEL))


def _cosent(scale: float) -> LossMethod:
    return _loss_method(_losses().CoSENTLoss(_NO_MODEL, scale=scale))


def _angle(scale: float) -> LossMethod:
    return _loss_method(_losses().AnglELoss(_NO_MODEL, scale=scale))


def _contrastive(margin: float) -> LossMethod:
    """Return sentence-transformers' ContrastiveLoss, without its label check that waits for the device."""

    def loss(columns: list[Tensor], labels: Tensor | None) -> Tensor:
        assert labels is not None
        distances = _cosine_distance(columns)
        shortfall = F.relu(margin - distances)
        return 0.5 * (labels * distances.square() + (1 - labels) * shortfall.square()).mean()

    return loss


def _online_contrastive(margin: float) -> LossMethod:
    """Return sentence-transformers' OnlineContrastiveLoss, without its selections that wait for the device."""

    def loss(columns: list[Tensor], labels: Tensor | None) -> Tensor:
        assert labels is not None
        distances = _cosine_distance(columns)
        matching, other = labels == 1, labels == 0
        farthest = distances.masked_fill(~matching, -math.inf).amax()
        nearest = distances.masked_fill(~other, math.inf).amin()
        # a batch of only one kind is compared with its own mean
        farthest = torch.where(matching.any(), farthest, distances.mean())
        nearest = torch.where(other.any(), nearest, distances.mean())
        pulled = torch.where(matching & (distances > nearest), distances, 0.0)
        pushed = torch.where(other & (distances < farthest), F.relu(margin - distances), 0.0)
        return (pulled.square() + pushed.square()).sum()

    return loss


def _cosine_distance(columns: list[Tensor]) -> Tensor:
    """Return 1 - cosine of two columns row by row, shape (B,)."""
    return 1 - F.cosine_similarity(columns[0], columns[1])


def _in_batch_negatives(scale: float, symmetric: bool) -> LossMethod:
    losses = _losses()
    if not symmetric:
        return _loss_method(losses.MultipleNegativesRankingLoss(_NO_MODEL, scale=scale))
    both = ("query_to_doc", "doc_to_query")
    return _loss_method(
        losses.MultipleNegativesRankingLoss(_NO_MODEL, scale=scale, directions=both, partition_mode="per_direction")
    )


def _triplet(margin: float) -> LossMethod:
    # The library's own distance had, up to 6.0, a square root whose gradient is NaN where two texts are the same.
    return _loss_method(_losses().TripletLoss(_NO_MODEL, distance_metric=_distance, triplet_margin=margin))


def _distance(left: Tensor, right: Tensor) -> Tensor:
    """Return the Euclidean distance row by row, shape (B,), with a gradient of 0 where it is 0."""
    distance: Tensor = torch.linalg.vector_norm(left - right, dim=-1)
    return distance


def _softmax(head: HeadToTrain) -> LossMethod:
    """Return the cross-entropy of a batch, the mean over its rows of (weighted) losses.

    Torch's mean of a weighted loss is not used: it divides by the sum of the batch's weights, so a row's share would
    depend on the other rows, and the losses of micro-batches could not be added.
    """

    def loss(columns: list[Tensor], labels: Tensor | None) -> Tensor:
        assert labels is not None
        codes = labels.long()
        losses = F.cross_entropy(head.head(columns), codes, reduction="none")
        if head.class_weights is not None:
            losses = losses * head.class_weights[codes]
        return losses.mean()

    return loss


def _binary_cross_entropy(head: HeadToTrain) -> LossMethod:
    def loss(columns: list[Tensor], labels: Tensor | None) -> Tensor:
        assert labels is not None
        return F.binary_cross_entropy_with_logits(head.head(columns)[:, 0], labels)

    return loss


OBJECTIVES: Mapping[str, ObjectiveKind] = MappingProxyType(
    {
        "cosine": ObjectiveKind(
            summary="Mean squared error between the cosine of two texts and their score, scaled to 0..1 (or -1..1) "
            "(Reimers and Gurevych 2019, Sentence-BERT, section 3).",
            takes=_SCORED,
            n_texts=(2,),
            label_kinds=("score", "binary"),
            make=_cosine,
            defaults={},
        ),
        "cosent": ObjectiveKind(
            summary="log(1 + sum of exp(scale * (cosine of a row - cosine of another))) over all rows of a batch and "
            "others with a higher label; only the order of the labels counts (Huang et al. 2024, CoSENT).",
            takes=_SCORED,
            n_texts=(2,),
            label_kinds=("score", "binary"),
            make=_cosent,
            defaults={"scale": 20.0},
            coupled=True,
            find_fault=find_no_order,
        ),
        "angle": ObjectiveKind(
            summary="cosent with the similarity of halved vectors in the complex plane in place of the cosine, whose "
            "gradient does not vanish where texts are nearly the same (Li and Li 2024, AnglE).",
            takes=_SCORED,
            n_texts=(2,),
            label_kinds=("score", "binary"),
            make=_angle,
            defaults={"scale": 20.0},
            coupled=True,
            find_fault=find_no_order,
        ),
        "contrastive": ObjectiveKind(
            summary="Half the squared cosine distance of matching rows, and half the square of margin minus distance "
            "(at least 0) of the others (Hadsell et al. 2006).",
            takes=_LABELLED,
            n_texts=(2,),
            label_kinds=("binary",),
            make=_contrastive,
            defaults={"margin": 0.5},
        ),
        "online_contrastive": ObjectiveKind(
            summary="contrastive, summed over only a batch's hard rows: matching rows farther apart than the nearest "
            "other row, and other rows nearer than the farthest matching one (sentence-transformers).",
            takes=_LABELLED,
            n_texts=(2,),
            label_kinds=("binary",),
            make=_online_contrastive,
            defaults={"margin": 0.5},
            coupled=True,
        ),
        "in_batch_negatives": ObjectiveKind(
            summary="Cross-entropy of finding a row's second text among all second (and third) texts of the batch by "
            "scale * cosine (Henderson et al. 2017; van den Oord et al. 2018); symmetric: and the first text from the "
            "second, both halved.",
            takes="two texts known to match, and optionally a third that does not, without labels or with only label 1",
            n_texts=(2, 3),
            label_kinds=("none", "binary"),
            make=_in_batch_negatives,
            defaults={"scale": 20.0, "symmetric": False},
            coupled=True,
            distinct_texts=True,
            find_fault=find_no_match,
        ),
        "triplet": ObjectiveKind(
            summary="Distance of the first text to the second, minus its distance to the third, plus the margin (at "
            "least 0), Euclidean (Sentence-BERT, section 3). Vectors of length 1 are at most 2 apart.",
            takes="three texts without labels",
            n_texts=(3,),
            label_kinds=("none",),
            make=_triplet,
            defaults={"margin": 5.0},
        ),
        "softmax": ObjectiveKind(
            summary="Cross-entropy of the classes by the head's logits: over (u, v, |u-v|) of two towers (Reimers and "
            "Gurevych 2019, Sentence-BERT, section 3), a joined pair or one text (Devlin et al. 2019, section 4.1).",
            takes="one or two texts and a class",
            n_texts=(1, 2),
            label_kinds=("classes",),
            make=_softmax,
            defaults={},
            of_classifier=True,
        ),
        "binary_cross_entropy": ObjectiveKind(
            summary="Cross-entropy between the score, scaled to 0..1, and the sigmoid of the head's one logit: the "
            "cross-encoder for graded pairs (Sentence-BERT, table 2).",
            takes="one or two texts and a score or a label 0 or 1",
            n_texts=(1, 2),
            label_kinds=("score", "binary"),
            make=_binary_cross_entropy,
            defaults={},
            of_classifier=True,
        ),
    }
)


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
        settings: One or more objectives.
        head: The head of the classifier to train; None for a sentence encoder.

    Raises:
        InputError: A name is unknown, a setting is out of range or not one of its objective, no row fits all
            objectives, or an objective is not for this kind of model. All faults are in one message.
    """
    if not settings:
        raise InputError(f"objective is empty, expected one or more of {_listed(OBJECTIVES)}")
    faults = [fault for part in settings for fault in _faults(part)]
    if faults:
        raise InputError("; ".join(faults))
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
            fitting = _listed(name for name, kind in OBJECTIVES.items() if kind.of_classifier == (head is not None))
            raise InputError(f"objective {part.name} is not for {trained}, which takes {fitting}")
    if head is not None and len(settings) > 1:
        raise InputError(f"a classifier can have only one objective, found {_listed(part.name for part in settings)}")


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
    advice = f"objectives that fit this data: {_listed(fitting)}"
    if dataset.label_kind == "none" and dataset.n_texts == 2:
        advice += " (a column of scores or labels is named with data.label_column)"
    return advice


def _faults(settings: ObjectiveSettings) -> list[str]:
    """Return a sentence for each fault of the settings; data are not considered."""
    name = str(settings.name)
    kind = OBJECTIVES.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, OBJECTIVES, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        return [f"objective {quoted(name)} is not known{meant}, expected one of {_listed(OBJECTIVES)}"]
    faults = []
    if settings.class_weight is not None and name != "softmax":
        faults.append(f"objective {name} takes no class_weight, which is a setting of softmax")
    if settings.class_weight not in (None, "balanced"):
        faults.append(f"class_weight is {quoted(settings.class_weight)}, expected balanced or None")
    for key in ("scale", "margin", "symmetric"):
        if getattr(settings, key) not in (None, False) and key not in kind.defaults:
            takers = [other for other, its in OBJECTIVES.items() if key in its.defaults]
            faults.append(f"objective {name} takes no {key}, which is a setting of {_listed(takers)}")
    for key, least in (("weight", "above 0"), ("scale", "above 0"), ("margin", "from 0 on")):
        value = getattr(settings, key)
        if value is None and key != "weight":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _in_range(value, least == "above 0"):
            faults.append(f"{key} of objective {name} is {quoted(value)}, expected a number {least}")
    return faults


def _in_range(value: float, above: bool) -> bool:
    return math.isfinite(value) and (value > 0 or (value == 0 and not above))


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
    numbers = [(key, getattr(settings, key)) for key in ("scale", "margin")]
    options = [f"{key} {value:g}" for key, value in numbers if value is not None]
    if settings.symmetric:
        options.append("symmetric")
    if settings.class_weight is not None:
        options.append(f"class weights {settings.class_weight}")
    factor = "" if settings.weight == 1 else f"{settings.weight:g} * "
    return f"{factor}{settings.name}{' (' + ', '.join(options) + ')' if options else ''}"


def _takes(settings: Iterable[ObjectiveSettings]) -> str:
    return ", ".join(f"{part.name} takes {OBJECTIVES[part.name].takes}" for part in settings)


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
