"""Classification heads: from one or two vectors of a row to a logit for each class.

A single text, or two texts joined into one sequence, use the stock head of the encoder's kind, so that other libraries
can load the folder; `kinds.py` has its layers and their names. Two towers use Sentence-BERT's softmax classifier. A
head is small: it always computes in float32, and a calibration is folded into its last layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from sbert_ft.arguments import whole_number, word_argument
from sbert_ft.config.settings import Features
from sbert_ft.encoder.batching import PoolingMode
from sbert_ft.encoder.classes import FEATURE_WIDTHS, ClassifierKind, HeadPooling, feature_parts
from sbert_ft.encoder.dropout import FastDropout
from sbert_ft.encoder.kinds import KINDS, USUAL_DROPOUT, StockHead
from sbert_ft.errors import InputError, ModelFolderError, quoted


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
        width = plan.width * (FEATURE_WIDTHS[plan.features] if plan.kind == "towers" else 1)
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
                activation = torch.cat(feature_parts(vectors[0], vectors[1], self.plan.features), dim=-1)
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
