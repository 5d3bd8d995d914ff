"""The objectives: of each one its options, the rows that it takes and its loss.

This is the one place for a new objective: an entry of `OBJECTIVES`, and where it has a new option a field of
`ObjectiveSettings`. Configuration, schema, messages and the tables of the documents are made from them. A loss is a
function of the vectors of a batch's texts, a column of texts each, and the labels, in float32. torch and
sentence-transformers are imported when a loss is made, so that reading a configuration brings neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from sbert_ft.config.limits import one_of, within

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    LossMethod = Callable[[list[Tensor], Tensor | None], Tensor]

# The loss classes hold a model for their own forward, which is not used here.
_NO_MODEL: Any = None
_SCORED: Final = "two texts and a score or a label 0 or 1"
_LABELLED: Final = "two texts and a label 0 or 1"


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
    defaults: Mapping[str, float | None]
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

    from torch.nn.functional import relu

    def loss(columns: list[Tensor], labels: Tensor | None) -> Tensor:
        assert labels is not None
        distances = _cosine_distance(columns)
        shortfall = relu(margin - distances)
        return 0.5 * (labels * distances.square() + (1 - labels) * shortfall.square()).mean()

    return loss


def _online_contrastive(margin: float) -> LossMethod:
    """Return sentence-transformers' OnlineContrastiveLoss, without its selections that wait for the device."""

    import torch

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
        pushed = torch.where(other & (distances < farthest), torch.relu(margin - distances), 0.0)
        return (pulled.square() + pushed.square()).sum()

    return loss


def _cosine_distance(columns: list[Tensor]) -> Tensor:
    """Return 1 - cosine of two columns row by row, shape (B,)."""
    from torch.nn.functional import cosine_similarity

    return 1 - cosine_similarity(columns[0], columns[1])


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
    import torch

    distance: Tensor = torch.linalg.vector_norm(left - right, dim=-1)
    return distance


def _softmax(head: HeadToTrain) -> LossMethod:
    """Return the cross-entropy of a batch, the mean over its rows of (weighted) losses.

    Torch's mean of a weighted loss is not used: it divides by the sum of the batch's weights, so a row's share would
    depend on the other rows, and the losses of micro-batches could not be added.
    """

    from torch.nn.functional import cross_entropy

    def loss(columns: list[Tensor], labels: Tensor | None) -> Tensor:
        assert labels is not None
        codes = labels.long()
        losses = cross_entropy(head.head(columns), codes, reduction="none")
        if head.class_weights is not None:
            losses = losses * head.class_weights[codes]
        return losses.mean()

    return loss


def _binary_cross_entropy(head: HeadToTrain) -> LossMethod:
    from torch.nn.functional import binary_cross_entropy_with_logits

    def loss(columns: list[Tensor], labels: Tensor | None) -> Tensor:
        assert labels is not None
        return binary_cross_entropy_with_logits(head.head(columns)[:, 0], labels)

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
            defaults={"class_weight": None},
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

# These train a classifier, and the first is the default; the others train a sentence encoder.
CLASSIFIER_OBJECTIVES: Final = tuple(name for name, kind in OBJECTIVES.items() if kind.of_classifier)


@dataclass(frozen=True)
class ObjectiveSettings:
    """One objective and its options; None is the objective's own default.

    Which objectives take an option follows from their entries in `OBJECTIVES`.

    Attributes:
        name: Which loss; each accepts its own kind of labels.
        weight: Factor of this objective's loss where several are added.
        scale: factor before the softmax or exponential (inverse temperature).
        margin: distance beyond which a negative pair costs nothing.
        symmetric: also find the first text from the second one.
        class_weight: balanced for a weight of each class that is inverse to its number of rows.
    """

    name: str = field(default="cosine", metadata=one_of(*OBJECTIVES))
    weight: float = field(default=1.0, metadata=within(above=0))
    scale: float | None = field(default=None, metadata=within(above=0))
    margin: float | None = field(default=None, metadata=within(at_least=0))
    symmetric: bool = False
    class_weight: Literal["balanced"] | None = None


def takers_of(option: str) -> tuple[str, ...]:
    """Return the names of the objectives that use an option; another one would ignore it silently."""
    return tuple(name for name, kind in OBJECTIVES.items() if option in kind.defaults)
