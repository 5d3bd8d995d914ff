"""The report of a run that is evaluated by a search: its table, which result the verdict takes, the worst queries."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import HOSTILE, RUN, SETTINGS, Page, report, split

from sbert_ft.config.settings import DataSettings
from sbert_ft.data.retrieval import RetrievalData, RetrievalFiles
from sbert_ft.evaluation.results import WorstQuery
from sbert_ft.evaluation.retrieval import judged
from sbert_ft.report.content import Report
from sbert_ft.report.html_page import html_report
from sbert_ft.report.markdown import markdown_report
from sbert_ft.report.scores import verdict
from sbert_ft.report.write import write_report

FILES = {"queries": "q.csv", "corpus": "c.csv", "relevant": "r.csv"}


def entry(before: int, after: int, n: int = 40) -> dict[str, Any]:
    """Return the entry of a search whose relevant texts are at about these ranks."""
    names = tuple(map(str, range(n)))
    ones, noise = np.ones(n), np.random.default_rng(0).integers(0, 2, n)
    of_query = np.arange(n)
    data = RetrievalData(RetrievalFiles(**FILES), "", names, (1,) * n, names, names, names, of_query, of_query, ones, 0)
    return judged(data, before + noise, after + noise, SETTINGS)


def searched(made: Report, worst: tuple[WorstQuery, ...] = (), metric: str = "ndcg@10", **ranks: int) -> Report:
    """Return a report with a search too, whose metric may have chosen the best step."""
    splits = {**made.metrics["splits"], "retrieval": entry(**ranks)}
    metrics = {**made.metrics, "splits": splits, "best": {"step": 10, "metric": metric, "value": 0.5}}
    settings = dataclasses.replace(RUN, data=DataSettings("pairs.csv", retrieval=FILES))
    return dataclasses.replace(made, settings=settings, metrics=metrics, worst_queries=worst)


def query(text: str, number: int = 1, before: int | None = 2) -> WorstQuery:
    return WorstQuery(number, f"q{number}", text, "d1", text, before, 4, 0.25, "d2", text, 0.5)


def test_the_verdict_is_that_of_the_metric_that_chose_unless_there_is_a_test() -> None:
    dev, test = split("dev", graded=True), split("test", graded=True)
    by_search = verdict(searched(report(dev), before=5, after=1))
    assert by_search.kind == "better"
    assert by_search.sentence.startswith("on retrieval (40 queries) the nDCG@10 rose from")
    assert "On dev the difference is" in by_search.sentence
    assert by_search.sentence.endswith(
        "The best step was also chosen on retrieval, so the result is a little too good."
    )
    assert verdict(searched(report(dev), before=1, after=5)).kind == "worse"
    assert verdict(searched(report(dev), metric="spearman", before=1, after=5)).sentence.startswith(
        "on dev (120 pairs)"
    )
    by_test = verdict(searched(report(dev, test), before=1, after=5)).sentence
    assert by_test.startswith("on test (120 pairs)") and "On retrieval the difference is" in by_test


def test_the_metrics_stand_before_and_after() -> None:
    made = searched(report(split("dev", graded=True)), before=5, after=1)
    text = markdown_report(made)
    assert "**retrieval: 40 queries of q.csv, c.csv and r.csv**" in text
    rows = text.partition("**retrieval: ")[2].splitlines()[4:10]
    names = ["nDCG@10", "MRR@10", "MAP", "Recall@1", "Recall@10", "Recall@100"]
    assert [row.split(" | ")[0] for row in rows] == [f"| {name}" for name in names]
    assert all(row.count("[") == 3 for row in rows[:5])
    assert "undefined: the corpus has only 40 texts" in rows[5]
    assert "Every query has a relevant text in the first place." in text


@pytest.mark.parametrize("before", [2, None])
def test_worst_queries_are_shown_and_can_neither_run_nor_hide(tmp_path: Path, before: int | None) -> None:
    worst = tuple(query(text, i, before) for i, text in enumerate(HOSTILE))
    made = searched(report(split("dev", graded=True)), worst, before=5, after=1)
    source = html_report(made)
    page = Page(source)
    assert "<script" not in source and "<img" not in source
    assert page.text.count("<script>alert(1)</script>") == 3  # as the query, the relevant text and the other one
    assert r"turned \u202e around" in page.text
    write_report(made, tmp_path)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert f"The first 10 queries of {len(HOSTILE)}, by split and line." in text
    assert ("| Rank before | Rank after |" in text) == (before is not None)
    with (tmp_path / "worst_queries.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["after"] for row in rows] == ["4"] * len(HOSTILE)
    assert {row["before"] for row in rows} == {"" if before is None else "2"}
    plain = [i for i, text in enumerate(HOSTILE) if text.isprintable()]
    assert plain and all(rows[i]["query"] == HOSTILE[i] == rows[i]["wrong"] for i in plain)
