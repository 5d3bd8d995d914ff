"""Judge a model by a search: does it rank the relevant texts of each query first?

Queries and texts are encoded with the model's prompts for them. All vectors are in memory (4 bytes a number), products
only block by block. `retrieval_metrics` says what is computed. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sbert_ft.config.settings import EvaluationSettings
from sbert_ft.data.ledger import counted
from sbert_ft.data.retrieval import RetrievalData
from sbert_ft.evaluation.bootstrap import Floats
from sbert_ft.evaluation.metrics import Metrics
from sbert_ft.evaluation.results import WorstQuery
from sbert_ft.evaluation.retrieval_metrics import Ints, query_metrics, relevant_ranks, retrieval_metrics
from sbert_ft.models.sentence_encoder import SentenceEncoder
from sbert_ft.models.unit_vectors import Encoding, unit_vectors
from sbert_ft.vectors.nearest import Vectors, nearest

UNIT = "query"


@dataclass(frozen=True)
class Search:
    """The vectors of queries, shape (Q, d), and corpus, shape (N, d), of length 1, and the ranks that follow.

    Attributes:
        queries: Of the queries.
        corpus: Of the corpus.
        ranks: The rank of each relevant pair, from 1 on, shape (R,).
    """

    queries: Vectors
    corpus: Vectors
    ranks: Ints

    @classmethod
    def of(cls, model: SentenceEncoder, data: RetrievalData, encoding: Encoding) -> Search:
        """Return a model's search.

        Raises:
            InputError, ResourceError: As in `SentenceEncoder.encode`.
        """
        queries = unit_vectors(model, data.queries, model.prompt_text(model.query_prompt_name), encoding)
        corpus = unit_vectors(model, data.corpus, model.prompt_text(model.document_prompt_name), encoding)
        return cls(queries, corpus, relevant_ranks(queries, corpus, data.of_query, data.rows))


def metrics_of(data: RetrievalData, ranks: Ints) -> Metrics:
    """Return the metrics of a search by the ranks of the relevant pairs, shape (R,)."""
    return retrieval_metrics(query_metrics(len(data), data.of_query, ranks, data.grades), len(data.corpus))


def judged(data: RetrievalData, before: Ints | None, after: Ints, settings: EvaluationSettings) -> dict[str, Any]:
    """Return the entry of a search in metrics.json: metrics before and after, and their differences.

    Args:
        data: The queries and judgements.
        before: Ranks by the model to compare with, shape (R,); None if there is none.
        after: Ranks by the evaluated model, shape (R,).
        settings: Number of resamples and confidence of the intervals.
    """
    texts, relevant = counted(len(data.corpus), "text"), counted(len(data.rows), "relevant text")
    note = f"searched in {texts}, with {relevant} in all"
    if data.n_without:
        note += f"; {counted(data.n_without, UNIT)} without a relevant text left out"
    later = metrics_of(data, after)
    result: dict[str, Any] = {
        "source": data.source,
        "sha256": data.sha256,
        "n": len(data),
        "unit": UNIT,
        "n_texts": len(data.corpus),
        "n_relevant": len(data.rows),
        "n_without": data.n_without,
        "note": note,
        "after": later.to_json(settings),
    }
    if before is not None:
        earlier = metrics_of(data, before)
        result["before"] = earlier.to_json(settings)
        result["difference"] = later.minus(earlier).to_json(settings)
    return result


def worst_queries(data: RetrievalData, before: Ints | None, search: Search, n: int) -> tuple[WorstQuery, ...]:
    """Return the `n` worst queries: the largest drop of the reciprocal rank first, then the lowest reciprocal rank.

    Without ranks `before`, shape (R,), the lowest reciprocal rank is first. Queries with a relevant text in the first
    place are not among them.
    """
    best = _best_pairs(data, search.ranks)
    after = search.ranks[best]
    earlier = None if before is None else before[_best_pairs(data, before)]
    change: Floats = np.zeros(len(data)) if earlier is None else 1 / after - 1 / earlier
    order = np.lexsort((1 / after, change))
    chosen = order[after[order] > 1][:n]
    if not len(chosen):
        return ()
    relevant: Mapping[int, set[int]] = {query: set() for query in chosen.tolist()}
    for query, row in zip(data.of_query.tolist(), data.rows.tolist(), strict=True):
        if query in relevant:
            relevant[query].add(row)
    k = min(len(data.corpus), 1 + max(map(len, relevant.values())))
    found = nearest(search.queries[chosen], search.corpus, k)
    worst = []
    for place, query in enumerate(chosen.tolist()):
        right = int(data.rows[best[query]])
        first = next(i for i, row in enumerate(found.rows[place].tolist()) if row not in relevant[query])
        wrong = int(found.rows[place, first])
        worst.append(
            WorstQuery(
                line=data.query_lines[query],
                query_id=data.query_ids[query],
                query=data.queries[query],
                right_id=data.corpus_ids[right],
                right=data.corpus[right],
                before=None if earlier is None else int(earlier[query]),
                after=int(after[query]),
                right_score=float(search.queries[query] @ search.corpus[right]),
                wrong_id=data.corpus_ids[wrong],
                wrong=data.corpus[wrong],
                wrong_score=float(found.scores[place, first]),
            )
        )
    return tuple(worst)


def _best_pairs(data: RetrievalData, ranks: Ints) -> Ints:
    """Return the relevant pair with the lowest rank of each query, shape (Q,)."""
    order = np.lexsort((ranks, data.of_query))
    return order[np.searchsorted(data.of_query, np.arange(len(data)))]
