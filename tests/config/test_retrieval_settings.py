"""data.retrieval, and the metrics of a search as training.metric: what is taken, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from sbert_ft.config.loader import run_from_json, run_to_json
from sbert_ft.config.metrics import choosing_metrics
from sbert_ft.config.schema import json_schema
from sbert_ft.errors import ConfigError

FILES = {"queries": "q.csv", "corpus": "c.csv", "relevant": "r.csv"}


def settings(data: dict[str, Any], training: dict[str, Any] | None = None, kind: str = "siamese") -> dict[str, Any]:
    return {
        "model": {"path": "m", "kind": kind},
        "data": {"train": "t.csv", **data},
        "training": training or {},
        "output_dir": "o",
    }


@pytest.mark.parametrize("metric", [None, *choosing_metrics("relevance")])
def test_a_search_needs_no_dev_and_any_of_its_metrics_may_choose(metric: str | None) -> None:
    run = run_from_json(settings({"retrieval": FILES}, {"metric": metric, "early_stopping_patience": 2}), "'run.json'")
    assert run.data.retrieval == FILES and run.training.metric == metric
    assert run_from_json(run_to_json(run), "'config.json'") == run
    assert run.inputs == {
        **{"model.path": "m", "data.train": "t.csv"},
        **{f"data.retrieval.{name}": path for name, path in FILES.items()},
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            settings({"retrieval": {**FILES, "queries": ""}}),
            "data.retrieval: expected an object with the paths of",
        ),
        (settings({"retrieval": {"queries": "q.csv"}}), "files, queries, corpus and relevant, or null, found"),
        (settings({"retrieval": {**FILES, "dev": "x"}}), "files, queries, corpus and relevant, or null, found"),
        (settings({"retrieval": "q.csv"}), "files, queries, corpus and relevant, or null, found 'q.csv'"),
        (settings({"retrieval": {**FILES, "corpus": "~/c.csv"}}), "data.retrieval.corpus: found '~/c.csv', but only a"),
        (settings({"retrieval": FILES}, kind="single"), "is for siamese; model.kind is single; leave it out"),
        (
            settings({}, {"metric": "ndcg@10"}),
            "training.metric: ndcg@10 needs queries, a corpus and which texts are relevant; give data.retrieval",
        ),
        (
            settings({"retrieval": FILES}, {"metric": "spearman"}),
            "training.metric: spearman needs evaluation pairs; give data.dev or data.dev_share, or one of ndcg@10",
        ),
        (
            settings({"dev": "d.csv"}, {"metric": "map"}, "single"),
            "training.metric: map is of a search, for kind siamese; objective is softmax; expected one of accuracy",
        ),
        (settings({"dev": "d.csv"}, {"metric": "ndcg@7"}), "training.metric: expected one of"),
    ],
)
def test_what_does_not_fit_is_refused(value: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_from_json(value, "'run.json'")
    assert message in str(caught.value)


def test_the_schema_knows_the_three_files() -> None:
    schema = json_schema()["properties"]["data"]["properties"]["retrieval"]
    assert schema["type"] == ["object", "null"] and schema["default"] is None
    assert sorted(schema["required"]) == sorted(schema["properties"]) == sorted(FILES)
