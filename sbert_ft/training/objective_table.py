"""What is known of each objective: its loss and source, the rows and labels that it takes, its settings.

The losses are sentence-transformers' own, called on vectors that are there already
(``compute_loss_from_embeddings``), but for the two that wait for a GPU in each step. Importing that
library costs seconds, so it waits until a loss is made. The defaults are its own too, written down
here so that a later version of it cannot change what a configuration means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

LossMethod = Callable[[list[Tensor], Tensor | None], Tensor]

# The loss classes keep a model for a forward of their own, which is not used here.
_NO_MODEL: Any = None


@dataclass(frozen=True)
class ObjectiveKind:
    """One row of the table.

    Attributes:
        summary: What the loss is, and its source.
        takes: The rows that it takes, in words.
        n_texts: Texts that a row may have.
        label_kinds: Labels that a row may have: none, binary (0 or 1) or score.
        make: Makes the loss from the settings named in `defaults`.
        defaults: The settings that it takes, with the value of each where none is given.
        coupled: Whether a row's loss depends on the other rows of its batch.
        distinct_texts: Whether a text that stands twice in a batch would be taken for its own negative.
        find_fault: Returns what is wrong with the labels, shape (rows,), as half a sentence; or None.
        of_classifier: Whether it trains a classifier, whose head its loss is taken of: `make` gets a `HeadToTrain`.
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
    """What the loss of a classifier is made with.

    Attributes:
        head: From the vectors of each column of texts, shape (B, D) each, to logits, shape (B, K).
        class_weights: Factor on the loss of each class's rows, shape (K,), on the head's device; None for 1.
    """

    head: Callable[[list[Tensor]], Tensor]
    class_weights: Tensor | None = None


def find_no_order(labels: NDArray[np.float64]) -> str | None:
    """Return why an objective that ranks rows learns nothing from these labels, or None."""
    if len(labels) == 0 or (labels != labels[0]).any():
        return None
    return f"learns from which of two rows has the higher label, but all {len(labels):,} labels are {labels[0]:g}"


def find_no_match(labels: NDArray[np.float64]) -> str | None:
    """Return why an objective for matching rows cannot take these labels, or None."""
    n_other = int((labels != 1).sum())
    if n_other == 0:
        return None
    return (
        f"takes rows known to match, but {n_other:,} of {len(labels):,} labels are 0: keep the matching rows alone "
        'with data.label_values, such as {"1": 1}'
    )


def _losses() -> Any:
    from sentence_transformers.sentence_transformer import losses

    return losses


def _method(loss: Any) -> LossMethod:
    method: LossMethod = loss.compute_loss_from_embeddings
    return method


def _cosine() -> LossMethod:
    return _method(_losses().CosineSimilarityLoss(_NO_MODEL))


def _cosent(scale: float) -> LossMethod:
    return _method(_losses().CoSENTLoss(_NO_MODEL, scale=scale))


def _angle(scale: float) -> LossMethod:
    return _method(_losses().AnglELoss(_NO_MODEL, scale=scale))


def _contrastive(margin: float) -> LossMethod:
    """Return the loss of sentence-transformers' ContrastiveLoss, which waits for the device to check its labels."""

    def loss(columns: list[Tensor], labels: Tensor | None) -> Tensor:
        assert labels is not None
        distances = _cosine_distance(columns)
        lacking = F.relu(margin - distances)
        return 0.5 * (labels * distances.square() + (1 - labels) * lacking.square()).mean()

    return loss


def _online_contrastive(margin: float) -> LossMethod:
    """Return the loss of sentence-transformers' OnlineContrastiveLoss, whose selections wait for the device."""

    def loss(columns: list[Tensor], labels: Tensor | None) -> Tensor:
        assert labels is not None
        distances = _cosine_distance(columns)
        matching, other = labels == 1, labels == 0
        farthest = distances.masked_fill(~matching, -math.inf).amax()
        nearest = distances.masked_fill(~other, math.inf).amin()
        # a batch of one kind is measured by its own mean
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
        return _method(losses.MultipleNegativesRankingLoss(_NO_MODEL, scale=scale))
    both = ("query_to_doc", "doc_to_query")
    return _method(
        losses.MultipleNegativesRankingLoss(_NO_MODEL, scale=scale, directions=both, partition_mode="per_direction")
    )


def _triplet(margin: float) -> LossMethod:
    # The library's own distance had, up to 6.0, a square root whose gradient is NaN where two texts are the same.
    return _method(_losses().TripletLoss(_NO_MODEL, distance_metric=_distance, triplet_margin=margin))


def _distance(left: Tensor, right: Tensor) -> Tensor:
    """Return the Euclidean distance row by row, shape (B,), with a gradient of 0 where it is 0."""
    distance: Tensor = torch.linalg.vector_norm(left - right, dim=-1)
    return distance


def _softmax(head: HeadToTrain) -> LossMethod:
    """Return the cross-entropy of a batch, the mean over its rows of (weighted) losses.

    Not torch's mean of a weighted loss, which divides by the weights of the batch: a row's share would depend on the
    others, and rows that a micro-batch holds could not be added up.
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


_SCORED = "two texts and a score or a label 0 or 1"
_LABELLED = "two texts and a label 0 or 1"

OBJECTIVES: Mapping[str, ObjectiveKind] = MappingProxyType(
    {
        "cosine": ObjectiveKind(
            summary="Mean squared error between the cosine of two texts and their score, brought to 0..1 (or -1..1) "
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
            summary="Half the squared cosine distance of matching rows, and half the square of what others lack to "
            "the margin (Hadsell et al. 2006).",
            takes=_LABELLED,
            n_texts=(2,),
            label_kinds=("binary",),
            make=_contrastive,
            defaults={"margin": 0.5},
        ),
        "online_contrastive": ObjectiveKind(
            summary="contrastive, summed over a batch's hard rows alone: matching ones farther apart than the nearest "
            "other, and others nearer than the farthest matching one (sentence-transformers).",
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
            takes="two texts known to match, and maybe a third that does not, without labels or with label 1 alone",
            n_texts=(2, 3),
            label_kinds=("none", "binary"),
            make=_in_batch_negatives,
            defaults={"scale": 20.0, "symmetric": False},
            coupled=True,
            distinct_texts=True,
            find_fault=find_no_match,
        ),
        "triplet": ObjectiveKind(
            summary="What the third text lacks to being farther from the first, by the margin, than the second is, in "
            "Euclidean distance (Sentence-BERT, section 3). Vectors of length 1 are at most 2 apart.",
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
            summary="Cross-entropy between the score, brought to 0..1, and the sigmoid of the head's one logit: the "
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
