"""The objectives: of each one its options, the rows that it takes and its loss.

This is the one place for a new objective: a function that makes its loss, in `OBJECTIVES`, and where it has a new
option a field of `ObjectiveSettings`. Configuration, schema, messages and the tables of the documents are made from
them. A loss is a function of the vectors of a batch's texts, a column of texts each (or of a classifier's logits, as
the only column), and the labels, in float32. torch and sentence-transformers are imported when a loss is made, so that
reading a configuration brings neither.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from sbert_ft.config.limits import setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    # The labels are a tensor, or None for an objective that takes rows without labels. In their place an objective that
    # learns from a teacher gets the teacher's vectors, a column for each text of a row.
    LossMethod = Callable[[list[Tensor], Any], Tensor]


@dataclass(frozen=True)
class Rows:
    """The rows that an objective takes: in words, by their number of texts, and by their labels.

    The kinds of labels are none, binary (0 or 1), score and classes.
    """

    takes: str
    n_texts: tuple[int, ...]
    label_kinds: tuple[str, ...]


@dataclass(frozen=True)
class ObjectiveKind:
    """One entry of `OBJECTIVES`.

    Attributes:
        rows: The rows that it takes.
        make: Makes the loss. Its name is the objective's name, its docstring says what the loss is and its source, and
            its arguments with a default are the options.
        coupled: Whether a row's loss depends on the other rows of its batch.
        distinct_texts: Whether a text that occurs twice in a batch would be used as its own negative.
        n_views: How many times each text is encoded, each time with other dropout; every time is a column of vectors.
        decodes: Whether a decoder must give back a text from the vector of the damaged text (`make` is called with it).
        teacher: Whether it learns from the vectors of another encoder: never, of rows without labels, or always.
        find_fault: Returns what is wrong with the labels, shape (rows,), as the rest of a sentence; or None.
        of_classifier: Whether it trains a classifier, with a loss on the head's logits, shape (B, K).
        of_language: Whether it trains a masked language model, with a loss on a head's logits, shape (M, K).
    """

    rows: Rows
    make: Callable[..., LossMethod]
    coupled: bool = False
    distinct_texts: bool = False
    n_views: int = 1
    decodes: bool = False
    teacher: Literal["never", "unlabelled", "always"] = "never"
    find_fault: Callable[[NDArray[np.float64]], str | None] | None = None
    of_classifier: bool = False
    of_language: bool = False

    @property
    def of_vectors(self) -> bool:
        """Whether its loss is a function of the texts' vectors alone, so that their first features have one too."""
        return not (self.of_classifier or self.of_language or self.decodes)

    @cached_property
    def defaults(self) -> Mapping[str, Any]:
        """The options that it takes, with their default values."""
        parameters = inspect.signature(self.make).parameters.values()
        return {option.name: option.default for option in parameters if option.default is not option.empty}

    @property
    def required(self) -> tuple[str, ...]:
        """What `make` is called with besides the options."""
        parameters = inspect.signature(self.make).parameters.values()
        return tuple(option.name for option in parameters if option.default is option.empty)


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


def _library_loss(name: str, **options: Any) -> LossMethod:
    """Return a loss of sentence-transformers, without a model: its forward is not used here."""
    from sentence_transformers.sentence_transformer import losses

    method: LossMethod = getattr(losses, name)(None, **options).compute_loss_from_embeddings
    return method


_SCORED: Final = Rows("two texts and a score or a label 0 or 1", (2,), ("score", "binary"))
_LABELLED: Final = Rows("two texts and a label 0 or 1", (2,), ("binary",))
_MATCHING: Final = Rows(
    "two texts known to match, and optionally a third that does not, without labels or with only label 1",
    (2, 3),
    ("none", "binary"),
)
_TRIPLETS: Final = Rows("three texts without labels", (3,), ("none",))
_TEXTS: Final = Rows("one text without a label", (1,), ("none",))
_ANY: Final = Rows(
    "one to three texts, whatever their label; alone it takes every text as a row",
    (1, 2, 3),
    ("none", "binary", "score"),
)
_MARGINS: Final = Rows(
    "three texts, with a margin as the score, or without labels beside a teacher", (3,), ("none", "binary", "score")
)
_CLASSIFIED: Final = Rows("one or two texts and a class", (1, 2), ("classes",))
_RAW: Final = Rows("texts without labels", (1,), ("none",))
_DOCUMENTS: Final = Rows("documents of several texts, without labels", (1,), ("none",))
_GRADED: Final = Rows("one or two texts and a score or a label 0 or 1", (1, 2), ("score", "binary"))


@partial(ObjectiveKind, _SCORED)
def cosine() -> LossMethod:
    """Mean squared error between the cosine of two texts and their score, scaled to 0..1 (or -1..1).

    Reimers and Gurevych 2019, Sentence-BERT, section 3.
    """
    return _library_loss("CosineSimilarityLoss")


@partial(ObjectiveKind, _SCORED, coupled=True, find_fault=find_no_order)
def cosent(scale: float = 20.0) -> LossMethod:
    """Only the order of the labels counts: log(1 + sum of exp(scale * (cosine of a row - cosine of another))).

    The sum is over all rows of a batch, and for each over the others with a higher label (Huang et al. 2024, CoSENT).
    """
    return _library_loss("CoSENTLoss", scale=scale)


@partial(ObjectiveKind, _SCORED, coupled=True, find_fault=find_no_order)
def angle(scale: float = 20.0) -> LossMethod:
    """As cosent, with the similarity of halved vectors in the complex plane in place of the cosine.

    Its gradient does not vanish where texts are nearly the same (Li and Li 2024, AnglE).
    """
    return _library_loss("AnglELoss", scale=scale)


def _cosine_distance(columns: list[Tensor]) -> Tensor:
    """Return 1 - cosine of two columns row by row, shape (B,)."""
    from torch.nn.functional import cosine_similarity

    return 1 - cosine_similarity(columns[0], columns[1])


@partial(ObjectiveKind, _LABELLED)
def contrastive(margin: float = 0.5) -> LossMethod:
    """Half the squared distance of matching rows, and half the square of margin minus distance of the others.

    The distance is 1 - cosine, and beyond the margin a row costs nothing (Hadsell et al. 2006). It is
    sentence-transformers' ContrastiveLoss, without its label check that waits for the device.
    """
    from torch import relu

    def loss(columns: list[Tensor], labels: Tensor) -> Tensor:
        distances = _cosine_distance(columns)
        shortfall = relu(margin - distances)
        return 0.5 * (labels * distances.square() + (1 - labels) * shortfall.square()).mean()

    return loss


@partial(ObjectiveKind, _LABELLED, coupled=True)
def online_contrastive(margin: float = 0.5) -> LossMethod:
    """As contrastive, but only a batch's hard rows count, and their losses are added.

    Hard are matching rows farther apart than the nearest other row, and other rows nearer than the farthest matching
    one. It is sentence-transformers' OnlineContrastiveLoss, without its selections that wait for the device.
    """
    import torch

    def loss(columns: list[Tensor], labels: Tensor) -> Tensor:
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


@partial(ObjectiveKind, _MATCHING, coupled=True, distinct_texts=True, find_fault=find_no_match)
def in_batch_negatives(scale: float = 20.0, symmetric: bool = False) -> LossMethod:
    """Cross-entropy of finding a row's second text among all second (and third) texts of the batch by scale * cosine.

    Henderson et al. 2017; van den Oord et al. 2018. Symmetric: and the first text from the second, both halved.
    """
    options: dict[str, Any] = {"scale": scale}
    if symmetric:
        options |= {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    return _library_loss("MultipleNegativesRankingLoss", **options)


@partial(ObjectiveKind, _TRIPLETS)
def triplet(margin: float = 5.0) -> LossMethod:
    """Distance of the first text to the second, minus its distance to the third, plus the margin; at least 0.

    The distance is Euclidean (Sentence-BERT, section 3). Vectors of length 1 are at most 2 apart.
    """
    # The library's own distance had, up to 6.0, a square root whose gradient is NaN where two texts are the same.
    return _library_loss("TripletLoss", distance_metric=_distance, triplet_margin=margin)


def _distance(left: Tensor, right: Tensor) -> Tensor:
    """Return the Euclidean distance row by row, shape (B,), with a gradient of 0 where it is 0."""
    import torch

    distance: Tensor = torch.linalg.vector_norm(left - right, dim=-1)
    return distance


@partial(ObjectiveKind, _TEXTS, coupled=True, distinct_texts=True, n_views=2)
def simcse(scale: float = 20.0) -> LossMethod:
    """As in_batch_negatives, with two vectors of the same text, which differ by the encoder's dropout.

    The scale is 1 / temperature (Gao, Yao and Chen 2021, SimCSE, section 3).
    """
    return _library_loss("MultipleNegativesRankingLoss", scale=scale)


@partial(ObjectiveKind, _TEXTS, decodes=True)
def tsdae(decoder: Callable[[Tensor, Tensor], Tensor], deletion: float = 0.6) -> LossMethod:
    """Cross-entropy of each token of a text, given those before it and the vector of the text with most words deleted.

    A word is deleted with the probability deletion, and at least one word stays; a decoder that shares the encoder's
    weights gives the text back (Wang, Reimers and Gurevych 2021, TSDAE). It is sentence-transformers'
    DenoisingAutoEncoderLoss.

    The words are deleted, and the token ids of whole texts handed over as labels, by `training.text_decoder`.
    """

    def loss(columns: list[Tensor], labels: Tensor) -> Tensor:
        return decoder(columns[0], labels)

    return loss


@partial(ObjectiveKind, _ANY, teacher="always")
def mse(fitted: Callable[[Tensor], Tensor]) -> LossMethod:
    """Mean squared error between a text's vector and that of the teacher, over features, texts of a row and rows.

    Reimers and Gurevych 2020, Making Monolingual Sentence Embeddings Multilingual, section 2. A teacher's vector of
    another width is projected first (`training.teacher_vectors`). It is sentence-transformers' MSELoss.

    `fitted` returns the teacher's vectors, shape (B, d), in the width of the encoder.
    """
    method = _library_loss("MSELoss")

    def loss(columns: list[Tensor], taught: list[Tensor]) -> Tensor:
        width = columns[0].shape[-1]  # with matryoshka_dims, of the first features
        return method(columns, [fitted(vectors)[:, :width] for vectors in taught])

    return loss


@partial(ObjectiveKind, _MARGINS, teacher="unlabelled")
def margin_mse(scale: float = 1.0) -> LossMethod:
    """Mean squared error between a margin and scale * (cosine to the second text - cosine to the third one).

    The margin is the label as it stands in the file, or the teacher's difference of the same cosines (Hofstätter et al.
    2020, Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation). It is
    sentence-transformers' MarginMSELoss with the cosine in place of the dot product.
    """
    from torch.nn.functional import cosine_similarity

    def margin(columns: list[Tensor]) -> Tensor:
        return cosine_similarity(columns[0], columns[1]) - cosine_similarity(columns[0], columns[2])

    method = _library_loss("MarginMSELoss", similarity_fct=lambda left, right: scale * cosine_similarity(left, right))

    def loss(columns: list[Tensor], margins: Any) -> Tensor:
        return method(columns, scale * margin(margins) if isinstance(margins, list) else margins)

    return loss


@partial(ObjectiveKind, _MATCHING, coupled=True, distinct_texts=True, find_fault=find_no_match, teacher="always")
def guided_in_batch_negatives(scale: float = 100.0, margin: float = 0.0) -> LossMethod:
    """As in_batch_negatives, without the texts that the teacher finds nearer to the first text than its match.

    The other first texts are negatives too, and the other matches once more, by their cosine to the match. Left out is
    what has a higher cosine by the teacher than the match has, minus the margin (Solatorio 2024, GISTEmbed, section 3).

    It is sentence-transformers' GISTEmbedLoss, whose own code calls two models with the same tokenizer and needs
    memory for B * B * d numbers.
    """
    import torch
    from torch.nn.functional import cross_entropy, normalize

    def cosines(columns: list[Tensor]) -> list[Tensor]:
        first, second, *third = (normalize(column, dim=-1) for column in columns)
        return [first @ second.T, first @ first.T, second @ second.T, *(first @ column.T for column in third)]

    def loss(columns: list[Tensor], taught: list[Tensor]) -> Tensor:
        guides = cosines(taught)
        own = torch.eye(len(guides[0]), dtype=torch.bool, device=guides[0].device)
        kept = [guide <= guides[0].diagonal()[:, None] - margin for guide in guides]
        # the match stays, and no text is its own negative, whatever the rounding of a cosine of 1
        kept[:3] = kept[0] | own, kept[1] & ~own, kept[2] & ~own
        scores = scale * torch.cat(cosines(columns), dim=1).masked_fill(~torch.cat(kept, dim=1), -math.inf)
        return cross_entropy(scores, torch.arange(len(own), device=own.device))

    return loss


@partial(ObjectiveKind, _CLASSIFIED, of_classifier=True)
def softmax(class_weight: Tensor | None = None) -> LossMethod:
    """Cross-entropy of the classes by the head's logits, the mean over the rows of a batch of (weighted) losses.

    The head gets (u, v, |u-v|) of two towers (Reimers and Gurevych 2019, Sentence-BERT, section 3), or the vector of a
    joined pair or of one text (Devlin et al. 2019, section 4.1).

    Torch's mean of a weighted loss is not used: it divides by the sum of the batch's weights, so a row's share would
    depend on the other rows, and the losses of micro-batches could not be added. class_weight: shape (K,).
    """
    from torch.nn.functional import cross_entropy

    def loss(columns: list[Tensor], labels: Tensor) -> Tensor:
        codes = labels.long()
        losses = cross_entropy(columns[0], codes, reduction="none")
        if class_weight is not None:
            losses = losses * class_weight[codes]
        return losses.mean()

    return loss


@partial(ObjectiveKind, _GRADED, of_classifier=True)
def binary_cross_entropy() -> LossMethod:
    """Cross-entropy between the score, scaled to 0..1, and the sigmoid of the head's one logit.

    The cross-encoder for graded pairs (Sentence-BERT, table 2).
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    def loss(columns: list[Tensor], labels: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(columns[0][:, 0], labels)

    return loss


def _mean_cross_entropy() -> LossMethod:
    from torch.nn.functional import cross_entropy

    return lambda columns, labels: cross_entropy(columns[0], labels)


@partial(ObjectiveKind, _RAW, of_language=True)
def mlm(mask_share: float = 0.15, whole_words: bool = False) -> LossMethod:
    """Cross-entropy of the tokens at masked places, by the logits of the whole vocabulary; mean over these places.

    Of the chosen tokens 80 % are masked, 10 % are replaced by a random token and 10 % stay (Devlin et al. 2019, BERT,
    section 3.1, masked LM).
    """
    return _mean_cross_entropy()


@partial(ObjectiveKind, _DOCUMENTS, of_language=True)
def nsp() -> LossMethod:
    """Cross-entropy of whether the second segment of a pair follows the first in its document; beside mlm.

    Half of the second segments are from another document (Devlin et al. 2019, BERT, section 3.1, next sentence
    prediction).
    """
    return _mean_cross_entropy()


_ALL = (
    *(cosine, cosent, angle, contrastive, online_contrastive, in_batch_negatives, triplet),
    *(simcse, tsdae),
    *(mse, margin_mse, guided_in_batch_negatives),
    *(softmax, binary_cross_entropy),
    *(mlm, nsp),
)
OBJECTIVES: Final[Mapping[str, ObjectiveKind]] = MappingProxyType({kind.make.__name__: kind for kind in _ALL})
# These train a classifier, and the first is the default.
CLASSIFIER_OBJECTIVES: Final = tuple(name for name, kind in OBJECTIVES.items() if kind.of_classifier)
# These train a masked language model, the first alone or both; all others train a sentence encoder.
LANGUAGE_OBJECTIVES: Final = tuple(name for name, kind in OBJECTIVES.items() if kind.of_language)


@dataclass(frozen=True)
class ObjectiveSettings:
    """One objective and its options; None is the objective's own default.

    Which objectives take an option follows from their entries in `OBJECTIVES`.

    Attributes:
        name: Which loss; each accepts its own kind of labels.
        weight: Factor of this objective's loss where several are added.
        scale: factor before the softmax or exponential (inverse temperature).
        margin: distance beyond which a negative pair costs nothing; guided_in_batch_negatives: how much less near than
            the match the teacher must find a text, for it to be a negative.
        matryoshka_dims: numbers of first features, the largest first; the loss is added up over the first so many
            features of the vectors, each scaled to length 1 (Kusupati et al. 2022, Matryoshka Representation
            Learning). The run evaluates the model at each of them.
        matryoshka_weights: factor of the loss at each of matryoshka_dims; null for 1.
        symmetric: also find the first text from the second one.
        mask_share: share of a text's tokens that have to be predicted.
        whole_words: choose whole words instead of single tokens, in Korean an eojeol.
        deletion: probability with which a word is deleted.
        class_weight: balanced for a weight of each class that is inverse to its number of rows.
    """

    name: str = setting("cosine", choices=tuple(OBJECTIVES))
    weight: float = setting(1.0, above=0)
    scale: float | None = setting(None, above=0)
    margin: float | None = setting(None, at_least=0)
    matryoshka_dims: tuple[int, ...] | None = setting(None, n_items=(1, 32), at_least=1)
    matryoshka_weights: tuple[float, ...] | None = setting(None, n_items=(1, 32), above=0)
    symmetric: bool = False
    mask_share: float | None = setting(None, above=0, at_most=1)
    whole_words: bool = False
    deletion: float | None = setting(None, above=0, below=1)
    class_weight: Literal["balanced"] | None = None


def takers_of(option: str) -> tuple[str, ...]:
    """Return the names of the objectives that use an option; another one would ignore it silently."""
    if option.startswith("matryoshka_"):
        return tuple(name for name, kind in OBJECTIVES.items() if kind.of_vectors)
    return tuple(name for name, kind in OBJECTIVES.items() if option in kind.defaults)


def takes_single_texts(name: object) -> bool:
    """Return whether an objective of a sentence encoder takes only single texts; False for what is no name of one."""
    return isinstance(name, str) and name in OBJECTIVES and OBJECTIVES[name].rows is _TEXTS


def reads_single_texts(objectives: Iterable[object]) -> bool:
    """Return whether the training data of such settings are read as single texts: all objectives take these."""
    names = [part.name for part in objectives if isinstance(part, ObjectiveSettings)]
    known = [OBJECTIVES[name].rows for name in names if isinstance(name, str) and name in OBJECTIVES]
    return bool(known) and len(known) == len(names) and all(rows in (_TEXTS, _ANY) for rows in known)


def dimensions_of(settings: Iterable[ObjectiveSettings]) -> tuple[int, ...]:
    """Return the numbers of first features that the objectives train, the largest first; empty for none."""
    return tuple(sorted({size for part in settings for size in part.matryoshka_dims or ()}, reverse=True))


def takes_classes(name: object) -> bool:
    """Return whether the labels of an objective's rows are classes; False for what is no objective's name."""
    return isinstance(name, str) and name in OBJECTIVES and "classes" in OBJECTIVES[name].rows.label_kinds
