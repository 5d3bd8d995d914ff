"""The sections of a report, in order: what is added here is on the page and in the Markdown text."""

from __future__ import annotations

import json
from collections.abc import Iterator

from sbert_ft.config.loader import run_to_json
from sbert_ft.report.blocks import Folded, Section
from sbert_ft.report.classes import classes_section
from sbert_ft.report.content import Report
from sbert_ft.report.decision import decision_section
from sbert_ft.report.negatives import negatives_section
from sbert_ft.report.rows import ledger_section, queries_section, worst_section
from sbert_ft.report.score_charts import charts_section
from sbert_ft.report.scores import scores_section
from sbert_ft.report.silver import silver_section
from sbert_ft.report.training import curves_section, training_section


def sections_of(report: Report) -> Iterator[Section]:
    """Yield the sections of a report."""
    yield scores_section(report)
    if report.metrics.get("silver") is not None:
        yield silver_section(report)
    if report.is_classifier:
        yield classes_section(report)
    if not report.is_language:
        yield decision_section(report)
    yield training_section(report)
    yield curves_section(report)
    if report.settings.data.negatives is not None:
        yield negatives_section(report)
    if not report.is_language:
        yield charts_section(report)
    yield ledger_section(report)
    if not report.is_language:
        yield worst_section(report)
    if report.settings.data.retrieval is not None:
        yield queries_section(report)
    content = json.dumps(run_to_json(report.settings), indent=2, ensure_ascii=False)
    yield Section("settings", "Settings", [Folded("The resolved configuration", content)])
