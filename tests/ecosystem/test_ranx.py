"""The metrics of a search are those of ranx (0.3.21; its numba code takes about a minute to compile)."""

from __future__ import annotations

import numpy as np
import pytest

from sbert_ft.evaluation.retrieval_metrics import query_metrics, relevant_ranks
from sbert_ft.vectors.nearest import unit_rows

# Query ids have two digits, because ranx returns its values in the order of the ids.
ranx = pytest.importorskip("ranx", reason="ranx is not installed (tests/ecosystem/requirements.txt)")


def test_metrics_are_those_of_ranx() -> None:
    random = np.random.default_rng(0)
    queries, corpus = (unit_rows(random.normal(size=(n, 16))) for n in (80, 400))
    rows = [np.sort(random.choice(400, random.integers(1, 30), replace=False)) for _ in range(80)]
    of_query = np.repeat(np.arange(80), [len(each) for each in rows])
    flat, grades = np.concatenate(rows), random.integers(1, 4, len(of_query))
    scores = queries.astype(np.float64) @ corpus.T.astype(np.float64)
    ranks = np.argsort(np.argsort(-scores, axis=1), axis=1)[of_query, flat] + 1
    # texts whose cosines are equal up to 1e-6 are in the order of their rows for us, and not for ranx
    assert (relevant_ranks(queries, corpus, of_query, flat) == ranks).mean() > 0.99
    found = query_metrics(80, of_query, ranks, grades.astype(np.float64))
    relevant: dict[str, dict[str, int]] = {f"q{i:02}": {} for i in range(80)}
    for query, row, grade in zip(of_query.tolist(), flat.tolist(), grades.tolist(), strict=True):
        relevant[f"q{query:02}"][f"d{row}"] = grade
    run = {f"q{i:02}": {f"d{row}": float(score) for row, score in enumerate(scores[i])} for i in range(80)}
    expected = ranx.evaluate(ranx.Qrels(relevant), ranx.Run(run), list(found), return_mean=False)
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-9, err_msg=name)
