"""Tests of the report of a run on raw texts: losses, which are better the lower they are, and nothing of pairs."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_report import HOSTILE, Page, corners_of, svgs_of

from sbert_ft.config.objectives import ObjectiveSettings
from sbert_ft.config.settings import DataSettings, EvaluationSettings, ModelSettings, RunSettings, TrainingSettings
from sbert_ft.data.ledger import Ledger
from sbert_ft.evaluation.language_evaluator import language_metrics
from sbert_ft.report.content import Report
from sbert_ft.report.html_page import html_report
from sbert_ft.report.markdown import markdown_report
from sbert_ft.report.scores import verdict
from sbert_ft.report.write import write_report

SETTINGS = EvaluationSettings(bootstrap_samples=40)
SECTIONS = ["scores", "training", "curves", "ledger", "settings"]
MLM = ObjectiveSettings("mlm")
Sums = NDArray[np.float64]


# ---------------------------------------------------------------- reports to look at


def sums(loss: float, right: float, in_order: float | None = None, n: int = 120) -> Sums:
    """Return what `sums_of_sequences` returns for `n` sequences: about this loss and these shares of right answers."""
    random = np.random.default_rng(5)
    n_masked = random.integers(2, 6, n)
    losses = n_masked * loss * random.uniform(0.8, 1.2, n)
    n_right = random.binomial(n_masked, right)
    pairs = np.zeros((n, 2)) if in_order is None else np.stack([np.ones(n), random.random(n) < in_order], axis=1)
    return np.column_stack([n_masked, losses, n_right, pairs])


def compared(before: Sums, after: Sums, source: str = "dev.txt") -> dict[str, Any]:
    earlier, later = language_metrics(before), language_metrics(after)
    return {
        "source": source,
        "n": len(after),
        "note": f"{int(after[:, 0].sum()):,} masked tokens, the same before and after",
        "before": earlier.to_json(SETTINGS),
        "after": later.to_json(SETTINGS),
        "difference": later.minus(earlier).to_json(SETTINGS),
    }


def language_report(objective: tuple[ObjectiveSettings, ...] = (MLM,), **splits: dict[str, Any]) -> Report:
    lines: list[dict[str, Any]] = []
    for step in range(1, 41):
        numbers = {"loss": 10 / step, "learning_rate": 1e-4, "grad_norm": 1.0, "rows_per_second": 250.0}
        lines.append({"kind": "train", "step": step, "epoch": step / 40, **numbers})
        if step % 10 == 0 and "dev" in splits:
            values = {"loss": 8 - step / 10, "perplexity": float(np.exp(8 - step / 10)), "masked_accuracy": step / 100}
            lines.append({"kind": "eval", "step": step, "epoch": 1.0, "split": "dev", "metrics": values, "best": True})
    ledger = Ledger("texts.txt", "lines, utf-8", "ef" * 32, 100, 100)
    return Report(
        title="Pre-training of bert",
        settings=RunSettings(
            ModelSettings("bert", "masked_lm", max_seq_length=64),
            DataSettings("texts.txt"),
            "runs/first",
            objective,
            TrainingSettings(batch_size=32),
            SETTINGS,
        ),
        metrics={
            "format": 1,
            "steps": 40,
            "seconds": 83.2,
            "best": {"step": 40, "metric": "loss", "value": 4.0} if "dev" in splits else None,
            "splits": splits,
            "lengths": {
                "n_sequences": 1234,
                "n_cut_rows": 3,
                "cut_share": 0.003,
                "unknown_share": 0.1234,
                "percentiles": {"50": 12, "90": 26, "99": 39, "100": 1070},
            },
            "plan": ["1,234 sequences from 1,231 texts, objective mlm"],
            "warnings": ["The dev set is small."],
        },
        ledgers={"train": ledger.with_finding("empty", 7, "7 rows without a text left out", dropped=True, first=[3])},
        log=lines,
    )


def both_tasks() -> Report:
    objective = (ObjectiveSettings("mlm", mask_share=0.2, whole_words=True), ObjectiveSettings("nsp", 0.5))
    before, after = sums(10.4, 0.0, 0.5), sums(4.1, 0.3, 0.8)
    return language_report(objective, dev=compared(before, after), test=compared(before, after, "test.txt"))


def hostile() -> Report:
    evil = "".join(HOSTILE[:7])
    made = language_report(dev=compared(sums(9, 0.0), sums(7, 0.1), evil))
    ledger = Ledger(evil, evil, evil, 3, 3, notes=(evil,)).with_finding(evil, 1, evil, first=[1])
    settings = dataclasses.replace(made.settings, model=ModelSettings(evil, "masked_lm"), data=DataSettings(evil))
    metrics = {**made.metrics, "warnings": [evil], "plan": [evil]}
    return dataclasses.replace(made, title=evil, settings=settings, metrics=metrics, ledgers={evil: ledger})


REPORTS: dict[str, Callable[[], Report]] = {
    "dev": lambda: language_report(dev=compared(sums(10.4, 0.0), sums(4.1, 0.3))),
    "both tasks": both_tasks,
    "not finite": lambda: language_report(dev=compared(sums(10.4, 0.0), sums(float("inf"), 0.3))),
    "nothing masked": lambda: language_report(test=compared(np.zeros((4, 5)), np.zeros((4, 5)))),
    "nothing": language_report,
    "bare": lambda: dataclasses.replace(language_report(), metrics={}, ledgers={}, log=[]),
    "hostile": hostile,
}
REPORTS = {name: functools.cache(make) for name, make in REPORTS.items()}
every_report = pytest.mark.parametrize("name", REPORTS)
both_renderings = pytest.mark.parametrize("render", [html_report, markdown_report])


def text_of(render: Callable[[Report], str], made: Report) -> str:
    return Page(render(made)).text if render is html_report else render(made)


# ---------------------------------------------------------------- the page


@every_report
def test_page_of_a_language_model_has_its_sections_and_no_others(name: str) -> None:
    page = Page(html_report(REPORTS[name]()))
    assert [a["id"] for tag, a in page.tags if tag == "section" and a["id"] != "warnings"] == SECTIONS
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert not {"script", "iframe", "img", "object", "a"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not any(attribute.startswith("on") for attribute in attributes), tag


@every_report
def test_charts_of_a_language_model_stay_inside_their_box(name: str) -> None:
    svgs = svgs_of(html_report(REPORTS[name]()))
    # Loss and learning rate, the metric on dev, and for each split its loss and its accuracies.
    expected = {"dev": 5, "both tasks": 7, "not finite": 4, "nothing masked": 2, "nothing": 2, "bare": 0, "hostile": 5}
    assert len(svgs) == expected[name]
    for svg in svgs:
        width, height = re.match(r'<svg viewBox="0 0 (\d+) (\d+)" role="img"', svg).groups()  # type: ignore[union-attr]
        for x, y in corners_of(svg):
            assert 0 <= x <= int(width) and 0 <= y <= int(height), svg[:300]


@pytest.mark.parametrize("name", [name for name in REPORTS if name != "hostile"])
@both_renderings
def test_nothing_is_said_of_pairs_and_their_scores(name: str, render: Callable[[Report], str]) -> None:
    report = REPORTS[name]()
    said = text_of(render, report).split("The resolved configuration")[0]
    said = said.replace("pairs of segments", "").replace("pair of segments", "").replace("half of the pairs", "")
    found = re.findall(r"\w*(?:pairs?\b|cosine|threshold|decision|class|gold|worst|mistake)\w*", said, re.IGNORECASE)
    assert found == []


# ---------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("before", "after", "kind", "verb"),
    [(9.0, 4.0, "better", "fell"), (4.0, 9.0, "worse", "rose"), (4.0, 4.0, "unclear", "went")],
)
def test_a_lower_loss_is_better(before: float, after: float, kind: str, verb: str) -> None:
    made = language_report(test=compared(sums(before, 0.1), sums(after, 0.1), "test.txt"))
    found = verdict(made)
    assert found.kind == kind
    shown = made.metrics["splits"]["test"]
    values = (shown[side]["loss"]["value"] for side in ("before", "after"))
    assert found.sentence.startswith(
        "on test (120 sequences) the loss {} from {:.4f} to {:.4f}, by".format(verb, *values)
    )


def test_a_higher_masked_accuracy_is_better() -> None:
    made = language_report(dev=compared(sums(4, 0.1), sums(4, 0.6)))
    made.metrics["best"] = {"step": 40, "metric": "masked_accuracy", "value": 0.6}
    found = verdict(made)
    assert found.kind == "better" and "the masked accuracy rose from 0." in found.sentence


@pytest.mark.parametrize(("name", "sentence"), [("nothing", "there were neither dev nor test texts"), ("bare", "")])
def test_a_run_without_texts_to_evaluate_on_says_so(name: str, sentence: str) -> None:
    found = verdict(REPORTS[name]())
    assert found.kind == "unknown" and sentence in found.sentence
    assert "There were neither dev nor test texts, so nothing was measured." in markdown_report(REPORTS[name]())


@both_renderings
def test_measures_stand_before_and_after_with_intervals_and_meanings(render: Callable[[Report], str]) -> None:
    said = text_of(render, REPORTS["both tasks"]())
    shown = REPORTS["both tasks"]().metrics["splits"]["test"]
    for name in ("loss", "masked_accuracy", "next_sentence_accuracy"):
        for side in ("before", "after"):
            score = shown[side][name]
            assert f"{score['value']:.4f} [{score['low']:.4f}, {score['high']:.4f}]" in said
    before, after = shown["before"]["perplexity"], shown["after"]["perplexity"]
    assert before["value"] > 10_000  # is written with one decimal
    assert f"{before['value']:,.1f} [{before['low']:,.1f}, {before['high']:,.1f}]" in said
    assert f"{after['value']:.4f} [{after['low']:.4f}, {after['high']:.4f}]" in said
    assert "Loss is the mean cross-entropy of the masked tokens, in nats" in said and "guessing gives 0.5" in said
    assert "both models on the same resampled sequences" in said
    assert "guessing gives 0.5" not in text_of(render, REPORTS["dev"]())


@both_renderings
def test_the_training_tells_sequences_lengths_and_masking(render: Callable[[Report], str]) -> None:
    alone, both = (text_of(render, REPORTS[name]()).replace("\\", "") for name in ("dev", "both tasks"))
    for said in (alone, both):
        assert "50 % up to 12, 90 % up to 26, 99 % up to 39, the longest 1,070" in said
        assert "0.3 % of the training texts" in said and "12.3 % of the training tokens" in said
        assert "of these 80 % become [MASK], 10 % a random token, 10 % stay; drawn anew for each step" in said
        assert "250 sequences per second" in said and "sequences of at most 64 tokens" in said
        assert "7 rows without a text left out" in said
    assert "15 % of the tokens" in alone and "3 texts, cut into blocks" in alone
    assert "each a text, or a block of a longer one" in alone and "Next sentence" not in alone
    assert "20 % of the words, all tokens of a word together" in both and "3 texts, cut to fit" in both
    assert "mlm (mask_share 0.2, whole_words) + 0.5 × nsp" in both and "from another document" in both


def test_an_undefined_loss_is_a_dash_with_its_reason() -> None:
    for name in ("not finite", "nothing masked"):
        assert "| – (undefined: no token is masked, or the loss is not finite) |" in markdown_report(REPORTS[name]())


def test_no_table_of_rows_is_written_or_named(tmp_path: Path) -> None:
    write_report(REPORTS["both tasks"](), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md"]
    assert (tmp_path / "report.md").read_text(encoding="utf-8").endswith("settings are in `report.html`.\n")
