"""Evaluate a masked language model on texts that it is not trained on.

The tokens to predict are drawn once, by the seed, so every evaluation has the same. Loss is the mean cross-entropy of
the masked tokens in nats, perplexity its exponential, and accuracy the share of tokens (or of pairs of segments) that
are predicted right. Intervals are those of resampled sequences, since the tokens of one text are not independent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from sbert_ft.config.settings import EvaluationSettings
from sbert_ft.encoder.batching import plan_forwards
from sbert_ft.encoder.devices import is_out_of_memory, to_device
from sbert_ft.errors import ResourceError
from sbert_ft.evaluation.bootstrap import Floats, divided, resamples
from sbert_ft.evaluation.evaluator import EvaluationResult, worse_than_before
from sbert_ft.evaluation.metrics import Metrics, Score
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.models.tokenized_corpus import TokenizedCorpus
from sbert_ft.tokenization.masking import MaskedTokens, Masker

logger = logging.getLogger(__name__)

DEFAULT_METRIC: Final = "loss"
_CHUNK_ROWS: Final = 4096  # sequences drawn at a time
_MOST_CELLS: Final = 20_000  # sequences that are resampled one by one; more of them in groups of neighbours
_MASKED: Final = ("loss", "perplexity", "masked_accuracy")
_COLUMNS: Final = ("n_masked", "loss", "n_right", "n_pairs", "n_pairs_right")


@dataclass(frozen=True)
class EvaluationTexts:
    """The texts of dev or test.

    Attributes:
        name: dev or test.
        source: Their file.
        sha256: Of the file.
        rows: Their tokens, in rows.
        masker: Chooses what has to be predicted.
        seed: Of what is drawn.
    """

    name: str
    source: str
    sha256: str
    rows: TokenizedCorpus
    masker: Masker
    seed: int

    def __len__(self) -> int:
        return len(self.rows)

    def drawn(self) -> Iterator[MaskedTokens]:
        """Yield all sequences with masked tokens, some thousand at a time, the same in every call."""
        for begin in range(0, len(self.rows), _CHUNK_ROWS):
            chunk = np.arange(begin, min(begin + _CHUNK_ROWS, len(self.rows)))
            yield self.rows.draw(chunk, self.masker, np.random.default_rng([self.seed, begin]))


def sums_of_sequences(
    model: MaskedLanguageModel, texts: EvaluationTexts, stopped: Callable[[], bool] = lambda: False
) -> Floats | None:
    """Return for each sequence its masked tokens, their loss, those right, pairs and pairs right, shape (N, 5).

    None once `stopped`, called after some thousand sequences, returns True.
    """
    found = []
    for masked in texts.drawn():
        found.append(_sums(model, masked))
        if stopped():
            return None
    return np.concatenate(found) if found else np.zeros((0, len(_COLUMNS)))


def _sums(model: MaskedLanguageModel, masked: MaskedTokens) -> Floats:
    bert, sums = model.bert, np.zeros((len(masked), len(_COLUMNS)))
    lengths = masked.tokens.lengths
    planned = plan_forwards(lengths, bert.token_budget, bert.device.type, bert.probe.layouts)
    for number in bert.ranks.share(np.array([lengths[rows].sum() for rows in planned], np.int64)).tolist():
        _set_sums(model, masked, planned[number], sums)
    bert.ranks.sum([torch.from_numpy(sums)])  # zero in all processes but the one that has computed it
    return sums


def _set_sums(model: MaskedLanguageModel, masked: MaskedTokens, rows: NDArray[np.int64], sums: Floats) -> None:
    """Set the sums of these sequences, shape (n,), by one forward, or by two of half as many if memory runs out.

    Raises:
        ResourceError: A single sequence does not fit into memory.
    """
    try:
        sums[rows] = _sums_of_forward(model, masked.select(rows))
        return
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if len(rows) == 1:
            n_tokens = int(masked.tokens.lengths[rows[0]])
            raise ResourceError(
                f"one sequence of {n_tokens} tokens does not fit into the memory of {model.device}",
                "lower model.max_seq_length, or choose another device",
            ) from error
    # outside of the except block, where the exception would keep the failed forward's tensors in memory
    logger.warning("out of memory on %s: evaluating %d sequences in two parts", model.device, len(rows))
    if model.device.type != "cpu":
        torch.get_device_module(model.device).empty_cache()
    for part in np.array_split(rows, 2):
        _set_sums(model, masked, part, sums)


@torch.inference_mode()
def _sums_of_forward(model: MaskedLanguageModel, masked: MaskedTokens) -> Floats:
    bert, head, sums = model.bert, model.head.eval(), np.zeros((len(masked), len(_COLUMNS)))
    batch = bert.pack(masked.tokens)
    hidden = bert.infer(batch).flatten(0, 1)
    places = to_device(torch.from_numpy(masked.places), bert.device)
    labels = to_device(torch.from_numpy(masked.labels), bert.device)
    losses, right, size = [], [], model.places_at_once()
    for at, gold in zip(batch.cells[places].split(size), labels.split(size), strict=True):
        logits = head.word_logits(hidden.index_select(0, at).float())
        losses.append(F.cross_entropy(logits, gold, reduction="none"))
        right.append(logits.argmax(-1) == gold)
    owners = masked.owners
    np.add.at(sums[:, 0], owners, 1.0)
    if losses:
        np.add.at(sums[:, 1], owners, torch.cat(losses).double().cpu().numpy())
        np.add.at(sums[:, 2], owners, torch.cat(right).cpu().numpy())
    if masked.second is not None:
        order = head.order_logits(hidden.index_select(0, batch.cells[batch.starts]).float())
        sums[:, 3] = 1.0
        sums[:, 4] = order.argmax(-1).cpu().numpy() == masked.second
    return sums


def language_metrics(sums: Floats) -> Metrics:
    """Return the metrics of sequences by their sums, shape (N, 5), as `sums_of_sequences` returns them."""
    n = len(sums)
    if n > _MOST_CELLS:
        sums = np.add.reduceat(sums, np.linspace(0, n, _MOST_CELLS, endpoint=False).astype(np.int64), axis=0)
    names = [name for name in _of_totals(np.ones((1, len(_COLUMNS)))) if n == 0 or sums[:, 3].any() or name in _MASKED]
    if not n:
        return Metrics.undefined(names, "there are no texts")

    def of_counts(counts: Floats) -> dict[str, Floats]:
        with np.errstate(invalid="ignore"):  # a loss that is not finite
            found = _of_totals(counts @ sums)
        return {name: found[name] for name in names}

    reasons = dict.fromkeys(names, "no token is masked, or the loss is not finite")
    return Metrics.of(of_counts, np.ones((1, len(sums))), reasons, lambda n, seed: resamples(len(sums), n, seed))


def _of_totals(totals: Floats) -> dict[str, Floats]:
    """Return the metrics of the sums over sequences, shape (B, 5)."""
    n_masked, loss, n_right, n_pairs, n_pairs_right = totals.T
    mean = divided(loss, n_masked)
    with np.errstate(over="ignore"):
        perplexity = np.exp(mean)
    return {
        "loss": np.where(np.isfinite(mean), mean, np.nan),
        "perplexity": np.where(np.isfinite(perplexity), perplexity, np.nan),
        "masked_accuracy": divided(n_right, n_masked),
        "next_sentence_accuracy": divided(n_pairs_right, n_pairs),
    }


@dataclass(frozen=True)
class LanguageEvaluator:
    """Evaluates a masked language model on dev and test texts.

    Attributes:
        sets: The texts by name: dev, test.
        metric: The metric that chooses the best step; None without dev.
        settings: Number of resamples and confidence of the intervals.
    """

    sets: Mapping[str, EvaluationTexts]
    metric: str | None
    settings: EvaluationSettings

    def evaluate(self, model: Any, stopped: Callable[[], bool]) -> Mapping[str, Score] | None:
        """Return the metrics of the model on dev, or None once `stopped` returns True."""
        sums = sums_of_sequences(model, self.sets["dev"], stopped)
        return None if sums is None else language_metrics(sums).scores

    def evaluate_baseline(self, model: Any) -> dict[str, Floats]:
        """Return the sums of each split before training."""
        found = {name: sums_of_sequences(model, texts) for name, texts in self.sets.items()}
        return {name: sums for name, sums in found.items() if sums is not None}

    def doubts(self, model: Any, before: dict[str, Floats]) -> list[str]:
        """Return no warning: there are no labels."""
        return []

    def evaluate_final(self, model: Any, before: dict[str, Floats]) -> EvaluationResult:
        """Return the results of the trained model beside those before training."""
        results: dict[str, Any] = {}
        for name, texts in self.sets.items():
            after = sums_of_sequences(model, texts)
            assert after is not None
            earlier, later = language_metrics(before[name]), language_metrics(after)
            results[name] = {
                "source": texts.source,
                "sha256": texts.sha256,
                "n": len(texts),
                "note": f"{int(after[:, 0].sum()):,} masked tokens, the same before and after",
                "before": earlier.to_json(self.settings),
                "after": later.to_json(self.settings),
                "difference": later.minus(earlier).to_json(self.settings),
            }
        metric = self.metric or DEFAULT_METRIC
        alarms = [sentence for name, result in results.items() for sentence in worse_than_before(name, result, metric)]
        if not self.sets:
            alarms.append("the model was not evaluated: set data.dev or data.dev_share, and data.test")
        return EvaluationResult(results, {}, alarms)
