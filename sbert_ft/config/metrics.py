"""The metrics: what each is called, and by which gold it can choose the best step of a run.

Configuration, schema, messages, commands and the report read this table; `evaluation.metrics`,
`evaluation.class_metrics` and `evaluation.retrieval_metrics` compute what stands in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

# Graded scores, labels that say whether a pair matches, classes, the masked tokens of texts, or relevance judgements.
GoldKind = Literal["graded", "labels", "classes", "tokens", "relevance"]


@dataclass(frozen=True)
class MetricKind:
    """One entry of `METRICS`: its name in a report, at the beginning of a line, and in a terminal.

    `chooses_by` is the gold by which it can choose the best step; None for a metric that needs a threshold, which is
    fitted after the best step is known. `lower_is_better` is said of losses.
    """

    label: str
    short: str
    chooses_by: GoldKind | None = None
    lower_is_better: bool = False

    def is_not_worse(self, value: float | None, other: float | None) -> bool:
        """Return whether a value of this metric is as good as another one, or better; False if one is not defined."""
        if value is None or other is None:
            return False
        return value <= other if self.lower_is_better else value >= other


METRICS: Final[Mapping[str, MetricKind]] = MappingProxyType(
    {
        "spearman": MetricKind("Spearman correlation", "spearman", "graded"),
        "pearson": MetricKind("Pearson correlation", "pearson", "graded"),
        "average_precision": MetricKind("Average precision", "average precision", "labels"),
        "roc_auc": MetricKind("ROC AUC", "roc auc", "labels"),
        "accuracy": MetricKind("Accuracy", "accuracy", "classes"),
        "macro_f1": MetricKind("Macro F1", "macro F1", "classes"),
        "mcc": MetricKind("Matthews correlation", "MCC", "classes"),
        "loss": MetricKind("Loss", "loss", "tokens", lower_is_better=True),
        "perplexity": MetricKind("Perplexity", "perplexity", "tokens", lower_is_better=True),
        "masked_accuracy": MetricKind("Masked accuracy", "masked accuracy", "tokens"),
        "next_sentence_accuracy": MetricKind("Next-sentence accuracy", "next-sentence accuracy", "tokens"),
        "ndcg@10": MetricKind("nDCG@10", "nDCG@10", "relevance"),
        "mrr@10": MetricKind("MRR@10", "MRR@10", "relevance"),
        "map": MetricKind("MAP", "MAP", "relevance"),
        "recall@1": MetricKind("Recall@1", "recall@1", "relevance"),
        "recall@10": MetricKind("Recall@10", "recall@10", "relevance"),
        "recall@100": MetricKind("Recall@100", "recall@100", "relevance"),
        "f1": MetricKind("F1", "f1"),
        "precision": MetricKind("Precision", "precision"),
        "recall": MetricKind("Recall", "recall"),
    }
)
# By which a run can choose its best step.
CHOOSING_METRICS: Final = tuple(name for name, kind in METRICS.items() if kind.chooses_by is not None)


def choosing_metrics(*gold: GoldKind) -> tuple[str, ...]:
    """Return the names of the metrics that can choose the best step by one of these kinds of gold."""
    return tuple(name for name, kind in METRICS.items() if kind.chooses_by in gold)


def metric_label(name: str) -> str:
    """Return a metric's name for people, at the beginning of a line."""
    return METRICS[name].label if name in METRICS else name.replace("_", " ").capitalize()
