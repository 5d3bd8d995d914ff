"""Metrics of a ranking of texts for each query, from the exact ranks of its relevant texts.

The definitions are those of trec_eval and ranx, over the whole ranking and not only its beginning. A query's recall@k
is the share of its relevant texts among the first k, its reciprocal rank 1 / rank of the first relevant text (0 after
rank k), its nDCG@k the sum of grade / log2(rank + 1) over the first k, divided by that of the best order (Järvelin and
Kekäläinen 2002, with the grade itself as the gain, as trec_eval's ndcg), its average precision the mean of the
precisions at the ranks of its relevant texts. A metric is the mean over the queries. Letters: Q queries, N texts of
the corpus, R relevant pairs of a query and a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.evaluation.bootstrap import Floats, resamples
from sbert_ft.evaluation.metrics import Metrics, Score
from sbert_ft.vectors.nearest import Vectors

Ints = NDArray[np.int64]

MRR_RANKS: Final = 10
NDCG_RANKS: Final = 10
RECALL_RANKS: Final = (1, 10, 100)
# Cosines closer than this are equal up to the rounding of their products, which depends on the size of a block.
_EQUAL: Final = 1e-6
_QUERIES: Final = 256  # in a block
_TEXTS: Final = 16_384


def relevant_ranks(queries: Vectors, corpus: Vectors, of_query: Ints, rows: Ints) -> Ints:
    """Return the rank, from 1 on, of each relevant text among all texts by cosine, exactly, shape (R,).

    Nothing is sorted: the texts that are before a relevant one are counted, block by block, so memory is that of some
    million products. Of equal cosines (up to 1e-6) the lower row is first.

    Args:
        queries: Shape (Q, d), of length 1.
        corpus: Shape (N, d), of length 1.
        of_query: The query of each relevant pair, rising, shape (R,).
        rows: The row of each relevant pair in the corpus, shape (R,).
    """
    scores = np.einsum("ij,ij->i", queries[of_query], corpus[rows], dtype=np.float64)
    low, high = (scores - _EQUAL).tolist(), (scores + _EQUAL).tolist()
    ranks = np.ones(len(rows), np.int64)
    for first in range(0, len(queries), _QUERIES):
        block = queries[first : first + _QUERIES]
        pairs = range(*np.searchsorted(of_query, (first, first + len(block))).tolist())
        for begin in range(0, len(corpus), _TEXTS):
            products = block @ corpus[begin : begin + _TEXTS].T
            for pair in pairs:
                cosines, place = products[of_query[pair] - first], int(rows[pair]) - begin
                # a text in a lower row is before the relevant one with an equal cosine too, itself is in neither part
                ranks[pair] += np.count_nonzero(cosines[: max(0, place)] >= low[pair])
                ranks[pair] += np.count_nonzero(cosines[max(0, place + 1) :] > high[pair])
    return ranks


def query_metrics(n_queries: int, of_query: Ints, ranks: Ints, grades: Floats) -> dict[str, Floats]:
    """Return each metric of every query, shape (Q,).

    Args:
        n_queries: Q; each has a relevant text.
        of_query: The query of each relevant pair, shape (R,).
        ranks: The rank of each relevant pair, from 1 on, shape (R,).
        grades: The grade of each relevant pair, above 0, shape (R,).
    """

    def summed(values: Floats) -> Floats:
        return np.bincount(of_query, values, n_queries).astype(np.float64)

    n_relevant = summed(np.ones(len(ranks)))
    order = np.lexsort((ranks, of_query))
    starts = np.searchsorted(of_query[order], np.arange(n_queries))
    number = np.empty(len(ranks))  # 1 for the first relevant text of its query
    number[order] = np.arange(len(ranks)) - starts[of_query[order]] + 1
    best = np.empty(len(ranks))  # the rank that it has in the best order: highest grades first
    best[np.lexsort((-grades, of_query))] = number[order]

    def gain(places: Floats) -> Floats:
        return summed(np.where(places <= NDCG_RANKS, grades / np.log2(places + 1.0), 0.0))

    first = ranks[order][starts]
    return {
        f"ndcg@{NDCG_RANKS}": gain(ranks.astype(np.float64)) / gain(best),
        f"mrr@{MRR_RANKS}": np.where(first <= MRR_RANKS, 1.0 / first, 0.0),
        "map": summed(number / ranks) / n_relevant,
        **{f"recall@{k}": summed((ranks <= k).astype(np.float64)) / n_relevant for k in RECALL_RANKS},
    }


def retrieval_metrics(of_queries: Mapping[str, Floats], n_texts: int) -> Metrics:
    """Return the means of the metrics of every query, shape (Q,); their intervals resample queries.

    recall@k is undefined for a corpus of k texts or fewer, where each ranking has all relevant texts.
    """
    n_queries = len(next(iter(of_queries.values())))
    names = [name for name in of_queries if not is_trivial(name, n_texts)]
    values = np.stack([of_queries[name] for name in names], axis=1)

    def of_counts(counts: Floats) -> dict[str, Floats]:
        means = counts @ values / counts.sum(axis=1, keepdims=True)
        return dict(zip(names, means.T, strict=True))

    found = Metrics.of(of_counts, np.ones((1, n_queries)), {}, partial(resamples, n_queries))
    reason = f"the corpus has only {n_texts:,} texts, so every ranking reaches 1"
    scores = {name: found.scores.get(name, Score(None, reason=reason)) for name in of_queries}
    return Metrics(scores, of_counts, found.draws)


def is_trivial(name: str, n_texts: int) -> bool:
    """Return whether a metric is 1 for every ranking of so many texts."""
    return any(name == f"recall@{k}" and k >= n_texts for k in RECALL_RANKS)
