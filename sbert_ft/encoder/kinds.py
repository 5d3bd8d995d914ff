"""The supported kinds of stock encoders: a new kind is one entry in `KINDS`.

The layers themselves are transformers'. An entry says what cannot be read from transformers' own tables: how positions
are counted, which settings the config class does not list, and how the stock classification head is built and saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

# Keys of config.json with the dropout before the last layer; the first one that is set is used.
USUAL_DROPOUT: Final = ("classifier_dropout", "hidden_dropout_prob")


@dataclass(frozen=True)
class StockHead:
    """The classification head that transformers has for a kind of encoder: dense layer, activation, last layer.

    Attributes:
        dense: Name of the dense layer in the weights.
        output: Name of the last layer in the weights.
        dense_in_encoder: Whether the dense layer is the encoder's own pooler, saved under the encoder's prefix; a new
            dense layer gets the weights of a pretrained pooler.
        activation: The activation after the dense layer, by transformers' name.
        activation_key: Key of config.json that names another activation; None if there is no such key.
        dropout_keys: Keys of config.json with the dropout before the last layer; the first one that is set is used.
        first_dropout: Key of config.json with the dropout before the dense layer; "" for the same as before the last
            layer; None for no dropout there.
    """

    dense: str = "classifier.dense"
    output: str = "classifier.out_proj"
    dense_in_encoder: bool = False
    activation: str = "tanh"
    activation_key: str | None = None
    dropout_keys: tuple[str, ...] = USUAL_DROPOUT
    first_dropout: str | None = ""


@dataclass(frozen=True)
class EncoderKind:
    """What is known of a kind of encoder beside transformers' own classes.

    Attributes:
        head: Its stock classification head; None if it is not supported.
        counts_from_padding: Whether positions begin at the padding id + 1 instead of 0.
        computes_as: Another kind that computes the same, so that weights of either kind fit.
        unlisted: Settings that the config class accepts but does not list as fields, and their types.
    """

    head: StockHead | None
    counts_from_padding: bool = False
    computes_as: str | None = None
    unlisted: Mapping[str, type] = field(default_factory=dict)


KINDS: Final[Mapping[str, EncoderKind]] = {
    "bert": EncoderKind(StockHead("pooler.dense", "classifier", dense_in_encoder=True, first_dropout=None)),
    "roberta": EncoderKind(StockHead(), counts_from_padding=True),
    "xlm-roberta": EncoderKind(StockHead(), counts_from_padding=True, computes_as="roberta"),
    "camembert": EncoderKind(StockHead(), counts_from_padding=True, computes_as="roberta"),
    "electra": EncoderKind(StockHead(activation="gelu")),
    "distilbert": EncoderKind(
        StockHead(
            "pre_classifier", "classifier", activation="relu", dropout_keys=("seq_classif_dropout",), first_dropout=None
        )
    ),
    "albert": EncoderKind(
        StockHead(
            "pooler", "classifier", dense_in_encoder=True, dropout_keys=("classifier_dropout_prob",), first_dropout=None
        )
    ),
    "mpnet": EncoderKind(StockHead(dropout_keys=("hidden_dropout_prob",)), counts_from_padding=True),
    "modernbert": EncoderKind(
        None, unlisted={"global_attn_every_n_layers": int, "global_rope_theta": float, "local_rope_theta": float}
    ),
    "deberta-v2": EncoderKind(
        StockHead(
            "pooler.dense",
            "classifier",
            activation="gelu",
            activation_key="pooler_hidden_act",
            dropout_keys=("cls_dropout", "hidden_dropout_prob"),
            first_dropout="pooler_dropout",
        ),
        unlisted={
            **{"share_att_key": bool, "norm_rel_ebd": str, "conv_act": str},
            **dict.fromkeys(("position_buckets", "attention_head_size", "embedding_size"), int),
            **dict.fromkeys(("conv_kernel_size", "conv_groups"), int),
        },
    ),
}
