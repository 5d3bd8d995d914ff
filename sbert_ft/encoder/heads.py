"""Classification heads: from one or two vectors of a row to a logit for each class, and the labels of classes.

A single text, or two texts joined into one sequence, use the stock head of the encoder's kind, so that other libraries
can load the folder; `kinds.py` has its layers and their names. Two towers use Sentence-BERT's softmax classifier. A
head is small: it always computes in float32, and a calibration is folded into its last layer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from sbert_ft.arguments import is_unicode, whole_number, word_argument
from sbert_ft.config.settings import Features
from sbert_ft.data.labels import class_key
from sbert_ft.encoder.dropout import FastDropout
from sbert_ft.encoder.kinds import KINDS, USUAL_DROPOUT, StockHead
from sbert_ft.encoder.packing import PoolingMode
from sbert_ft.errors import InputError, ModelFolderError, quoted

ClassifierKind = Literal["towers", "joined", "single"]
HeadPooling = Literal["mean", "cls", "max", "pooler"]
_N_NAMED = 5
# Width of the head's input for each choice of features, in vectors.
_WIDTHS: Final[Mapping[str, int]] = {"uv": 2, "difference": 1, "uv_difference": 3, "uv_difference_product": 4}


@dataclass(frozen=True)
class HeadPlan:
    """The settings of a head that can be built.

    Attributes:
        kind: As at `ClassifierModel`, like `pooling` and `features`.
        width: Width of a vector, D.
        dropout: Probability of the dropout before the last layer.
        initializer_range: Standard deviation of new weights.
        stock: The stock head of the encoder's kind if `pooling` is ``pooler``, otherwise None.
        activation: The activation after the dense layer of a stock head.
        first_dropout: Probability of the dropout before the dense layer of a stock head.
    """

    kind: ClassifierKind
    pooling: HeadPooling
    features: Features
    width: int
    dropout: float
    initializer_range: float
    stock: StockHead | None
    activation: str = "tanh"
    first_dropout: float = 0.0

    @property
    def token_pooling(self) -> PoolingMode:
        """How the batch is pooled: ``cls`` for a stock head, which reads the first token."""
        return "cls" if self.pooling == "pooler" else self.pooling

    @property
    def n_columns(self) -> int:
        """Number of vectors of a row: 2 for towers, otherwise 1."""
        return 2 if self.kind == "towers" else 1


def plan_head(
    config: PreTrainedConfig,
    kind: ClassifierKind,
    pooling: HeadPooling | None,
    features: Features,
    dropout: float | None,
    folder_pooling: PoolingMode,
) -> HeadPlan:
    """Return the settings of the head for an encoder with this `config`; other arguments as in `HeadPlan`.

    Without `pooling` it is ``pooler`` if the kind is not towers and the encoder's kind has a stock head, otherwise the
    pooling of the model folder. Without `dropout` it is the value in `config`.

    Raises:
        InputError: An unknown word, an invalid dropout, or a pooling that this kind does not support.
        ModelFolderError: The dropout or the activation in `config` is not valid.
    """
    word_argument(kind, "kind", get_args(ClassifierKind))
    word_argument(features, "features", get_args(Features))
    stock = KINDS[config.model_type].head
    if pooling is None:
        pooling = "pooler" if kind != "towers" and stock is not None else folder_pooling
    word_argument(pooling, "pooling", get_args(HeadPooling))
    if pooling == "pooler" and kind == "towers":
        raise InputError("pooling 'pooler' is for the kinds joined and single; expected mean, cls or max for towers")
    if pooling == "pooler" and stock is None:
        raise InputError(
            f"pooling 'pooler': the stock head of {quoted(config.model_type)} encoders is not supported",
            "choose pooling 'mean', 'cls' or 'max'",
        )
    if dropout is None:
        keys = USUAL_DROPOUT if stock is None else stock.dropout_keys
        dropout = next((_rate(config, key) for key in keys if getattr(config, key, None) is not None), 0.0)
    elif isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        raise InputError(f"head_dropout is {quoted(dropout)}, expected a probability from 0 to below 1")
    width, std = int(config.hidden_size), float(getattr(config, "initializer_range", 0.02))
    if pooling != "pooler" or stock is None:
        return HeadPlan(kind, pooling, features, width, float(dropout), std, None)
    first = 0.0
    if stock.first_dropout is not None:
        first = _rate(config, stock.first_dropout) if stock.first_dropout else float(dropout)
    named = getattr(config, stock.activation_key, None) if stock.activation_key else None
    activation = named or stock.activation
    if activation not in ACT2FN:
        raise ModelFolderError(
            f"config.json: {stock.activation_key} is {quoted(activation)}, expected the name of an activation of "
            "transformers, such as 'gelu'"
        )
    return HeadPlan(kind, pooling, features, width, float(dropout), std, stock, str(activation), first)


def _rate(config: PreTrainedConfig, key: str) -> float:
    """Return the dropout that `config` has under `key`, checked."""
    rate = getattr(config, key)
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise ModelFolderError(f"config.json: {key} is {quoted(rate)}, expected a probability from 0 to below 1")
    return float(rate)


class ClassificationHead(nn.Module):
    """A classification head, which computes logits from pooled vectors.

    With the stock head of an encoder's kind: dropout (some kinds), dense layer, activation, dropout, last layer.
    Otherwise dropout and a last layer over the vector, or over the features of two vectors u and v: Sentence-BERT's
    softmax(W (u, v, |u - v|)) (Reimers and Gurevych 2019, section 3, classification objective). `n_outputs` is K.
    """

    dense: nn.Linear | None

    def __init__(self, plan: HeadPlan, n_outputs: int, seed: int = 42) -> None:
        """Create a head with random weights from `seed` and zero biases; torch's global generators do not change."""
        super().__init__()
        self.plan = plan
        self.n_outputs = n_outputs
        self.first_dropout = FastDropout(plan.first_dropout)
        self.dropout = FastDropout(plan.dropout)
        width = plan.width * (_WIDTHS[plan.features] if plan.kind == "towers" else 1)
        # created on the meta device, since a layer would draw its weights from torch's global generator
        self.dense = None if plan.stock is None else nn.Linear(plan.width, plan.width, device="meta")
        self.output = nn.Linear(width, n_outputs, device="meta")
        self.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(whole_number(seed, "seed", 0, 2**63 - 1))
        with torch.no_grad():
            for layer in (self.dense, self.output):
                if layer is not None:
                    layer.weight.normal_(0.0, plan.initializer_range, generator=generator)
                    layer.bias.zero_()
        self.eval()

    def forward(self, columns: Sequence[Tensor]) -> Tensor:
        """Return the logits of B rows: shape (B, K), float32, with gradients if torch records them.

        `columns` are the pooled vectors, shape (B, D) each: two for towers, one otherwise.
        """
        assert len(columns) == self.plan.n_columns
        with torch.autocast(columns[0].device.type, enabled=False):
            vectors = [column.float() for column in columns]
            activation = vectors[0]
            if len(vectors) == 2:
                activation = _features(vectors[0], vectors[1], self.plan.features)
            if self.dense is not None:
                activation = ACT2FN[self.plan.activation](self.dense(self.first_dropout(activation)))
            logits: Tensor = self.output(self.dropout(activation))
        return logits

    @torch.no_grad()
    def logits(self, columns: Sequence[Tensor]) -> Tensor:
        """Return the logits as `forward` does, but always without dropout and gradients."""
        training = self.training
        self.eval()
        try:
            return self(columns)  # type: ignore[no-any-return]
        finally:
            self.train(training)

    @torch.no_grad()
    def begin_as(self, pooler: Mapping[str, Tensor]) -> bool:
        """Copy a pretrained pooler (see `ConnectionBert.pooler`) into the dense layer; return whether there was one."""
        stock = self.plan.stock
        if stock is None or self.dense is None or not stock.dense_in_encoder:
            return False
        weight, bias = pooler.get(f"{stock.dense}.weight"), pooler.get(f"{stock.dense}.bias")
        if weight is None or bias is None or weight.shape != self.dense.weight.shape:
            return False
        self.dense.weight.copy_(weight)
        self.dense.bias.copy_(bias)
        return True

    @torch.no_grad()
    def scale(self, factor: float, bias: float = 0.0) -> None:
        """Fold a calibration into the last layer: logits become ``factor * logits + bias``."""
        self.output.weight.mul_(factor)
        self.output.bias.mul_(factor).add_(bias)


def _features(u: Tensor, v: Tensor, features: Features) -> Tensor:
    if features == "uv":
        return torch.cat((u, v), dim=-1)
    difference = (u - v).abs()
    if features == "difference":
        return difference
    parts = (u, v, difference) if features == "uv_difference" else (u, v, difference, u * v)
    return torch.cat(parts, dim=-1)


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities of the classes, shape (N, K); for one output its sigmoid, shape (N, 1)."""
    values = torch.from_numpy(logits)
    found: NDArray[np.float32] = (values.sigmoid() if values.shape[-1] == 1 else F.softmax(values, dim=-1)).numpy()
    return found


def typed_classes(classes: Sequence[object]) -> tuple[object, ...]:
    """Return the classes as Python's str, int, float or bool, checked and in the given order.

    There have to be at least two, all words or all numbers (True and False count as numbers).

    Raises:
        InputError: The labels are not valid classes.
    """
    if isinstance(classes, (str, bytes)) or not hasattr(classes, "__iter__") or getattr(classes, "ndim", 1) == 0:
        raise InputError(f"classes is {quoted(classes)}, expected a list of labels")
    labels = tuple(_plain(label) for label in classes)
    if (fault := fault_of_classes(labels)) is not None:
        raise InputError(f"{fault}; expected at least two different labels, all words or all numbers")
    return labels


def fault_of_classes(labels: Sequence[object]) -> str | None:
    """Return why these labels are not valid classes; None if they are."""
    for label in labels:
        if not isinstance(label, (str, int, float)):
            return f"the class {quoted(label)} is of type {type(label).__name__}"
    if len(labels) < 2:
        found = ", ".join(quoted(label) for label in labels) or "none"
        return f"a classifier needs at least two classes, but there are fewer: {found}"
    words = [label for label in labels if isinstance(label, str)]
    if words and len(words) < len(labels):
        number = next(label for label in labels if not isinstance(label, str))
        return f"the classes are of two types, such as the word {quoted(words[0])} and the number {number}"
    for word in words:
        if "\0" in word or not is_unicode(word):
            return f"the class {quoted(word)} contains a character that cannot be saved"
    for label in labels:
        if isinstance(label, float) and not math.isfinite(label):
            return f"the class {label} is not a finite number"
    if len(set(labels)) == len(labels):
        return None
    twice = next(label for label, n in Counter(labels).items() if n > 1)
    return f"the class {quoted(twice)} appears twice"


def codes_of_labels(labels: Iterable[object], classes: Sequence[object]) -> NDArray[np.int64]:
    """Return the index of each label's class, -1 for a label that is not a class: shape (N,), int64.

    Raises:
        InputError: A label is a word and the classes are numbers, or the reverse.
    """
    numbers = {_key(label): code for code, label in enumerate(classes)}
    are_words = isinstance(classes[0], str)
    codes = []
    for position, label in enumerate(map(_plain, labels)):
        if isinstance(label, str) != are_words or not isinstance(label, (str, int, float)):
            expected = "words" if are_words else "numbers"
            named = ", ".join(quoted(name) for name in classes[:_N_NAMED]) + (", ..." if classes[_N_NAMED:] else "")
            raise InputError(
                f"the label at position {position} is {quoted(label)} ({type(label).__name__}), but the classes are "
                f"{expected}: {named}",
                "for labels that are the numbers of the classes, give classes_[labels]" if are_words else "",
            )
        codes.append(numbers.get(_key(label), -1))
    return np.array(codes, np.int64)


def _key(label: object) -> object:
    return class_key(label) if isinstance(label, str) else label


def _plain(label: object) -> object:
    return label.item() if isinstance(label, np.generic) else label
