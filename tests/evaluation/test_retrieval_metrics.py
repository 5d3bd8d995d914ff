"""The metrics of a search: exact ranks, an example by hand, scikit-learn's values, ties, intervals, worst queries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from sbert_ft.config.settings import EvaluationSettings
from sbert_ft.data.retrieval import RetrievalData, RetrievalFiles
from sbert_ft.evaluation.retrieval import Search, judged, metrics_of, worst_queries
from sbert_ft.evaluation.retrieval_metrics import Ints, query_metrics, relevant_ranks
from sbert_ft.vectors.nearest import Vectors, unit_rows

SETTINGS = EvaluationSettings(bootstrap_samples=100)


def vectors(n: int, seed: int, d: int = 16) -> Vectors:
    return unit_rows(np.random.default_rng(seed).normal(size=(n, d)))


def judgements(n_queries: int, n_texts: int, seed: int = 3) -> tuple[Ints, Ints, np.ndarray]:
    """Return queries, rows and grades of one to five relevant texts of each query."""
    random = np.random.default_rng(seed)
    rows = [np.sort(random.choice(n_texts, random.integers(1, 6), replace=False)) for _ in range(n_queries)]
    of_query = np.repeat(np.arange(n_queries), [len(each) for each in rows])
    return of_query, np.concatenate(rows), random.integers(1, 4, len(of_query)).astype(np.float64)


def data_of(of_query: Ints, rows: Ints, grades: np.ndarray, n_texts: int) -> RetrievalData:
    n = int(of_query.max()) + 1
    names = tuple(map(str, range(max(n, n_texts))))
    files = RetrievalFiles("q.csv", "c.csv", "r.csv")
    texts = tuple(f"text {name}" for name in names[:n_texts])
    return RetrievalData(files, "", names[:n], (1,) * n, names[:n], names[:n_texts], texts, of_query, rows, grades, 2)


def test_the_metrics_of_an_example_by_hand() -> None:
    """One query finds its texts of grades 1 and 3 at ranks 1 and 4, another its only one at rank 12."""
    found = query_metrics(2, np.array([0, 0, 1]), np.array([4, 1, 12]), np.array([3.0, 1.0, 2.0]))
    dcg, best = 1 / math.log2(2) + 3 / math.log2(5), 3 / math.log2(2) + 1 / math.log2(3)
    expected = {
        "ndcg@10": [dcg / best, 0],
        "mrr@10": [1, 0],
        "map": [(1 / 1 + 2 / 4) / 2, 1 / 12],
        "recall@1": [0.5, 0],
        "recall@10": [1, 0],
        "recall@100": [1, 1],
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values), name


def test_ranks_are_those_of_a_whole_sort_in_blocks_of_any_size() -> None:
    queries, corpus = vectors(300, 0), vectors(17_000, 1)  # more than one block of each
    of_query, rows, _ = judgements(300, len(corpus))
    ranks = relevant_ranks(queries, corpus, of_query, rows)
    cosines = queries.astype(np.float64) @ corpus.T.astype(np.float64)
    place = np.argsort(np.argsort(-cosines, axis=1), axis=1) + 1
    expected = place[of_query, rows]
    # texts whose cosines differ by rounding may change places
    assert (ranks == expected).mean() > 0.95 and np.abs(ranks - expected).max() <= 2


def test_metrics_are_those_of_scikit_learn() -> None:
    queries, corpus = vectors(60, 0), vectors(80, 1)
    of_query, rows, grades = judgements(60, len(corpus))
    ranks = relevant_ranks(queries, corpus, of_query, rows)
    found = query_metrics(60, of_query, ranks, grades)
    gold = np.zeros((60, 80))
    gold[of_query, rows] = grades
    scores = queries.astype(np.float64) @ corpus.T.astype(np.float64)
    for query in range(60):
        expected = ndcg_score(gold[query : query + 1], scores[query : query + 1], k=10)
        assert found["ndcg@10"][query] == pytest.approx(expected, abs=1e-9)
        assert found["map"][query] == pytest.approx(average_precision_score(gold[query] > 0, scores[query]), abs=1e-9)
    assert metrics_of(data_of(of_query, rows, grades, 80), ranks).value("map") == pytest.approx(found["map"].mean())


def test_of_equal_cosines_the_lower_row_is_first() -> None:
    corpus = np.repeat(vectors(3, 2), 4, axis=0)
    ranks = relevant_ranks(corpus[4:6], corpus, np.array([0, 0, 1]), np.array([4, 6, 7]))
    assert ranks.tolist() == [1, 3, 4]


def test_a_model_that_gives_every_text_the_same_vector_finds_nothing() -> None:
    one = vectors(1, 5, 384)
    ranks = relevant_ranks(np.repeat(one, 3, axis=0), np.repeat(one, 500, axis=0), np.arange(3), np.array([0, 99, 499]))
    assert ranks.tolist() == [1, 100, 500]


def test_recall_that_every_ranking_reaches_is_undefined() -> None:
    of_query, rows, grades = judgements(5, 10)
    metrics = metrics_of(data_of(of_query, rows, grades, 10), np.arange(len(rows)) % 10 + 1)
    shown = metrics.to_json(SETTINGS)
    assert [name for name, score in shown.items() if score["value"] is None] == ["recall@10", "recall@100"]
    assert shown["recall@10"]["reason"] == "the corpus has only 10 texts, so every ranking reaches 1"
    assert shown["recall@1"]["low"] is not None


def test_the_interval_of_a_difference_is_paired() -> None:
    of_query, rows, grades = judgements(200, 1000)
    data = data_of(of_query, rows, grades, 1000)
    after = np.random.default_rng(1).integers(1, 30, len(rows))
    result = judged(data, after + 1, after, SETTINGS)
    own, change = result["after"]["map"], result["difference"]["map"]
    assert 0 < change["low"] < change["value"] < change["high"]
    assert change["high"] - change["low"] < own["high"] - own["low"]
    same = judged(data, after, after, SETTINGS)["difference"]["ndcg@10"]
    assert (same["value"], same["low"], same["high"]) == (0, 0, 0)
    assert result["note"].endswith("; 2 queries without a relevant text left out")


def test_the_worst_queries_are_the_largest_drops_and_then_the_lowest_ranks() -> None:
    corpus = unit_rows(np.eye(6))
    of_query, rows = np.arange(4), np.array([0, 1, 2, 3])
    # query 0 finds its text first, 1 second (as before), 2 third (before: first), 3 fourth (as before)
    queries = unit_rows(
        np.array([[9, 1, 2, 3, 4, 5], [1, 8, 9, 3, 4, 5], [8, 9, 7, 3, 4, 5], [7, 8, 9, 6, 1, 2]], np.float32)
    )
    ranks = relevant_ranks(queries, corpus, of_query, rows)
    assert ranks.tolist() == [1, 2, 3, 4]
    data = data_of(of_query, rows, np.ones(4), 6)
    search = Search(queries, corpus, ranks)
    worst = worst_queries(data, np.array([2, 2, 1, 4]), search, 10)
    assert [(query.query_id, query.before, query.after) for query in worst] == [("2", 1, 3), ("3", 4, 4), ("1", 2, 2)]
    assert (worst[0].right, worst[0].wrong) == ("text 2", "text 1")
    assert worst[0].wrong_score > worst[0].right_score
    assert [query.query_id for query in worst_queries(data, None, search, 2)] == ["3", "2"]
