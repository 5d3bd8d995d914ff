"""The heads that transformers puts on encoders to classify sequences, as a table: layers, names, where dropout is set.

A head with these layers under these names makes a stock folder, which everybody opens. ModernBERT's, with its layer
norm, is not among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

# Keys of config.json with the dropout before the last layer; the first that is set counts.
USUAL_DROPOUT: Final = ("classifier_dropout", "hidden_dropout_prob")


@dataclass(frozen=True)
class StockHead:
    """The head that transformers puts on a kind of encoder to classify: dense layer, activation, last layer.

    Attributes:
        architecture: transformers' class.
        prefix: Of the encoder's names in the weights.
        dense: Name of the dense layer in the weights.
        output: Name of the last layer.
        dense_in_encoder: Whether the dense layer is the encoder's own pooler, saved under the encoder's prefix.
        pooler: Name of the pretrained pooler that a new dense layer begins as; None where it begins random.
        activation: After the dense layer, in transformers' words.
        activation_key: Key of config.json that names another activation; None for none.
        dropout_keys: Keys of config.json with the dropout before the last layer; the first that is set counts.
        first_dropout: Key of config.json with the dropout before the dense layer, "" for the same as before the last
            one, None for no dropout there.
        saved_dropout: Key of config.json that is the head's alone and is written; None where there is none.
    """

    architecture: str
    prefix: str
    dense: str = "classifier.dense"
    output: str = "classifier.out_proj"
    dense_in_encoder: bool = False
    pooler: str | None = None
    activation: str = "tanh"
    activation_key: str | None = None
    dropout_keys: tuple[str, ...] = USUAL_DROPOUT
    first_dropout: str | None = ""
    saved_dropout: str | None = "classifier_dropout"


STOCK_HEADS: Final[Mapping[str, StockHead]] = {
    "bert": StockHead(
        "BertForSequenceClassification",
        "bert",
        dense="pooler.dense",
        output="classifier",
        dense_in_encoder=True,
        pooler="pooler.dense",
        first_dropout=None,
    ),
    "roberta": StockHead("RobertaForSequenceClassification", "roberta"),
    "xlm-roberta": StockHead("XLMRobertaForSequenceClassification", "roberta"),
    "camembert": StockHead("CamembertForSequenceClassification", "roberta"),
    "electra": StockHead("ElectraForSequenceClassification", "electra", activation="gelu"),
    "mpnet": StockHead(
        "MPNetForSequenceClassification", "mpnet", dropout_keys=("hidden_dropout_prob",), saved_dropout=None
    ),
    "distilbert": StockHead(
        "DistilBertForSequenceClassification",
        "distilbert",
        dense="pre_classifier",
        output="classifier",
        activation="relu",
        dropout_keys=("seq_classif_dropout",),
        first_dropout=None,
        saved_dropout="seq_classif_dropout",
    ),
    "albert": StockHead(
        "AlbertForSequenceClassification",
        "albert",
        dense="pooler",
        output="classifier",
        dense_in_encoder=True,
        pooler="pooler",
        dropout_keys=("classifier_dropout_prob",),
        first_dropout=None,
        saved_dropout="classifier_dropout_prob",
    ),
    "deberta-v2": StockHead(
        "DebertaV2ForSequenceClassification",
        "deberta",
        dense="pooler.dense",
        output="classifier",
        activation="gelu",
        activation_key="pooler_hidden_act",
        dropout_keys=("cls_dropout", "hidden_dropout_prob"),
        first_dropout="pooler_dropout",
        saved_dropout="cls_dropout",
    ),
}
