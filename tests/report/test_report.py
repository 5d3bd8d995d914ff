"""Tests of the report: a self-contained page for any data, also if the run lacks some parts."""

from __future__ import annotations

import dataclasses
import html
import math
import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, brier_score_loss, precision_recall_curve, roc_auc_score

from sbert_ft.config.objectives import ObjectiveSettings
from sbert_ft.config.settings import DataSettings, EvaluationSettings, ModelSettings, Reading, RunSettings
from sbert_ft.data.ledger import Ledger
from sbert_ft.data.table import open_table
from sbert_ft.errors import OutputError
from sbert_ft.evaluation.metrics import Score, graded_metrics, label_metrics
from sbert_ft.evaluation.results import SplitScores, WorstPair, errors_of_place, worst_pairs
from sbert_ft.model_folder.decision import Calibration, Decision, FittedOn
from sbert_ft.report.charts import (
    calibrated,
    grouped,
    histogram_charts,
    loss_chart,
    precision_recall_chart,
    reliability_chart,
    running_mean,
    scatter_charts,
    short_count,
    thinned,
    wilson_interval,
)
from sbert_ft.report.content import Report
from sbert_ft.report.formatting import decimals, duration, interval, plain_number, shortened, visible
from sbert_ft.report.html_page import STYLE, TEXT_LIMIT, html_report
from sbert_ft.report.markdown import literal, markdown_report
from sbert_ft.report.scores import verdict
from sbert_ft.report.svg import round_axis
from sbert_ft.report.write import csv_of, write_report

HOSTILE = [
    "<script>alert(1)</script>",
    "\" onmouseover='alert(1)' <img src=x onerror=alert(1)>",
    "</table></main></html>",
    "nul \0 and \x1b[31mred\x1b[0m",
    "half \ud83d of a character",
    "turned \u202e around \u2066 here",
    "two\r\nlines\u2028three",
    "=1+1",
    "@SUM(A1)",
    "a,b;c\td|e",
    'He said ""no"", "yes"',
    "  spaces  ",
    "한국어 문장입니다.",
    "جملة عربية",
    "👩‍👩‍👧 e\u0301 ́",
    "&amp; &#x3c;",
    "| a | b |\n|---|---|",
    "[a](http://example.org) ![b](http://example.org/x.png) `c` **d**",
    "x" * 5000,
    "\ufeffmark",
]
SECTIONS = ["scores", "decision", "training", "curves", "charts", "ledger", "worst", "settings"]
VOID = {"meta", "link", "br"}
SETTINGS = EvaluationSettings(bootstrap_samples=40)
RUN = RunSettings(ModelSettings("bert"), DataSettings("pairs.csv"), "runs/first", evaluation=SETTINGS)


# ---------------------------------------------------------------- reports to look at


def json_of(scores: Mapping[str, Score]) -> dict[str, Any]:
    return {name: score.to_json() for name, score in scores.items()}


def decision(threshold: float = 0.5, **changes: Any) -> Decision:
    fitted = Decision(
        threshold=threshold,
        target="f1",
        fitted_on=FittedOn("dev.csv", "ab" * 32, 120, 60),
        low=threshold - 0.05,
        high=threshold + 0.05,
        reached={"precision": 0.8, "recall": 0.9, "f1": 0.8471},
        calibration=Calibration("isotonic", (0.0, 0.4, 0.6, 1.0), (0.05, 0.3, 0.7, 0.95)),
    )
    return dataclasses.replace(fitted, **changes)


def scores_for(unit_gold: NDArray[np.float64], noise: float, seed: int) -> NDArray[np.float32]:
    draws = np.random.default_rng(seed).normal(0, noise, len(unit_gold))
    return np.clip(unit_gold + draws, -1, 1).astype(np.float32)


def split(name: str = "dev", n: int = 120, *, graded: bool, before: bool = True, noise: float = 0.1) -> SplitScores:
    gold = np.random.default_rng(7).integers(0, 11, n) / 2
    if not graded:
        gold = (gold > 2.5).astype(np.float64)
    unit = gold / 5 if graded else gold
    old = scores_for(unit, 0.5, 1) if before else None
    matches = gold >= 2.5 if graded else None
    return SplitScores(name, f"{name}.csv", old, scores_for(unit, noise, 2), gold, matches, (0, 5) if graded else None)


def measured(of: SplitScores) -> dict[str, Any]:
    labels = of.labels
    if of.scale is None:
        assert labels is not None
        sides = [None if s is None else label_metrics(s, labels, 0.5) for s in (of.before, of.after)]
    else:
        sides = [None if s is None else graded_metrics(s, of.gold) for s in (of.before, of.after)]
    assert sides[1] is not None
    found: dict[str, Any] = {"source": of.source, "sha256": "cd" * 32, "n": len(of.after), "note": "made by chance"}
    if sides[0] is not None:
        differences = sides[1].minus(sides[0]).with_intervals(SETTINGS)
        found |= {"before": json_of(sides[0].with_intervals(SETTINGS)), "difference": json_of(differences)}
    return found | {"after": json_of(sides[1].with_intervals(SETTINGS))}


def log_lines(n: int, metric: str) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(1, n + 1):
        numbers = {"loss": 1 / step, "learning_rate": 2e-5 * (1 - step / n), "grad_norm": 1.0}
        lines.append({"kind": "train", "step": step, "epoch": step / n, "rows_per_second": 100.0, **numbers})
        if step % (n // 4) == 0:
            values = {metric: 0.8 + 0.01 * step / n, "pearson": None}
            lines.append({"kind": "eval", "step": step, "epoch": 1.0, "split": "dev", "metrics": values, "best": False})
    return lines


def report(
    *splits: SplitScores,
    fitted: Decision | None = None,
    texts: list[str] | None = None,
    n_steps: int = 40,
    n_worst: int = 50,
) -> Report:
    texts = texts or [f"text {i}" for i in range(40)]
    worst = tuple(
        pair
        for of in splits
        for pair in worst_pairs(
            of,
            [texts[i % len(texts)] for i in range(len(of.after))],
            [texts[(i * 7 + 1) % len(texts)] for i in range(len(of.after))],
            np.arange(2, len(of.after) + 2),
            n_worst,
        )
    )
    metric = "spearman" if any(of.scale is not None for of in splits) else "average_precision"
    ledger = Ledger("pairs.csv", "csv, comma, quoted, utf-8", "ef" * 32, 100, 100, (), ("Scores are on 0..5.",))
    ledger = ledger.with_finding("duplicate", 7, "7 rows come twice", dropped=True, first=[3, 5, 8, 13, 21, 34])
    return Report(
        title="Run first",
        settings=RUN,
        metrics={
            "format": 1,
            "objective": [{"name": "cosine", "weight": 1.0, "scale": None, "symmetric": False}],
            "device": "cpu",
            "precision": "float32",
            "versions": {"torch": "2.13.0"},
            "seconds": 83.21,
            "steps": n_steps,
            "best": {"step": n_steps // 4 * 2, "metric": metric, "value": 0.81},
            "splits": {of.name: measured(of) for of in splits},
            "decision": None if fitted is None else fitted.to_json(),
            "collapse": {"before": None, "after": 0.12341},
            "plan": ["tokens a text: 50 % up to 12", "memory foreseen: 1.0 GiB"],
            "stopped_early": True,
            "warnings": ["The dev set is small."],
        },
        ledgers={"train": ledger},
        log=log_lines(n_steps, metric),
        splits=splits,
        worst=worst,
        decision=fitted,
    )


def bare() -> Report:
    return Report("Run first", RUN, {}, {}, [])


def hostile() -> Report:
    made = report(split(graded=True), fitted=decision(), texts=HOSTILE, n_worst=120)
    evil = "".join(HOSTILE[:7])
    ledger = Ledger(evil, evil, evil, 3, 3, notes=(evil,)).with_finding(evil, 1, evil, first=[1])
    metrics = {
        **made.metrics,
        "warnings": [evil, "1. one", "- two"],
        "device": evil,
        "versions": {evil: evil},
        "collapse": {evil: 0.5},
        "best": {"step": 20, "metric": evil, "value": 0.5},
        "splits": {
            "dev": {**made.metrics["splits"]["dev"], "source": evil},
            evil: {"source": evil, "n": 3, "after": {evil: {"value": None, "reason": evil}}},
        },
    }
    splits = (*made.splits, dataclasses.replace(made.splits[0], name=evil, source=evil))
    objective = (ObjectiveSettings(evil), ObjectiveSettings(evil, 2.0, margin=0.0, symmetric=True))
    data = DataSettings(evil, evil, evil, reading=Reading(text_columns=(evil, evil), label_values={evil: 1}))
    settings = RunSettings(ModelSettings(evil), data, evil, objective)
    return dataclasses.replace(
        made,
        title=evil,
        settings=settings,
        metrics=metrics,
        ledgers={evil: ledger},
        splits=splits,
    )


def one_label() -> Report:
    of = split(graded=False, before=False)
    matches = np.ones(len(of.after), dtype=np.bool_)
    of = dataclasses.replace(of, gold=matches.astype(np.float64))
    return report(of, fitted=decision(calibration=None, low=None, high=None, reached={}))


REPORTS = {
    "graded": lambda: report(split(graded=True), split("test", 90, graded=True), fitted=decision(match_from=2.5)),
    "labels": lambda: report(split(graded=False), fitted=decision()),
    "no base": lambda: report(split("test", graded=False, before=False)),
    "one label": one_label,
    "many": lambda: report(split(n=2500, graded=True), fitted=decision()),
    "nothing": report,
    "bare": bare,
    "hostile": hostile,
}
every_report = pytest.mark.parametrize("name", REPORTS)


# ---------------------------------------------------------------- reading a page


class Page(HTMLParser):
    """A parsed page: tags in order, texts and attributes; unbalanced tags fail."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def svgs_of(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, re.DOTALL)


def points_of(d: str) -> Iterator[tuple[float, float]]:
    """Yield the corners of a path of M, L, h, v and Z."""
    x = y = 0.0
    for command, first, second in re.findall(r"([MLhvZz])(-?[\d.]+)?(?: (-?[\d.]+))?", d):
        if command in "ML":
            x, y = float(first), float(second)
        elif command == "h":
            x += float(first)
        elif command == "v":
            y += float(first)
        yield x, y


def corners_of(svg: str) -> Iterator[tuple[float, float]]:
    """Yield the extreme points of a chart's marks; the width of text is estimated."""
    for tag, attributes in Page(svg).tags:
        values = {name: float(v) for name, v in attributes.items() if v and re.fullmatch(r"-?[\d.]+", v)}
        if tag == "path":
            yield from points_of(attributes["d"] or "")
        elif tag == "circle":
            for sign in (-1, 1):
                yield values["cx"] + sign * values["r"], values["cy"] + sign * values["r"]
        elif tag == "rect":
            yield values["x"], values["y"]
            yield values["x"] + values["width"], values["y"] + values["height"]
    for x, y, anchor, content in re.findall(r'<text x="([\d.-]+)" y="([\d.-]+)"(.*?)>(.*?)</text>', svg):
        width = 6 * len(html.unescape(content))
        begin = float(x) - (width if "end" in anchor else width / 2 if "middle" in anchor else 0)
        yield begin, float(y)
        yield begin + width, float(y)


# ---------------------------------------------------------------- the page


@every_report
def test_page_is_well_formed_and_needs_nothing_else(name: str) -> None:
    source = html_report(REPORTS[name]())
    page = Page(source)
    assert source.startswith("<!DOCTYPE html>")
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "iframe", "img", "object", "embed", "form", "base", "a"} & set(tags)
    for tag, attributes in page.tags:
        assert not any(attribute.startswith("on") for attribute in attributes), tag
        assert not {"src", "srcset", "style", "xlink:href"} & set(attributes), tag
        assert attributes.get("href", "data:,") == "data:,"
    assert "url(" not in STYLE and "@import" not in STYLE and "http" not in STYLE
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")


@every_report
def test_page_fits_a_phone_and_has_every_section_in_order(name: str) -> None:
    page = Page(html_report(REPORTS[name]()))
    metas = [attributes for tag, attributes in page.tags if tag == "meta"]
    assert {"charset": "utf-8"} in metas
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in metas
    sections = [a["id"] for tag, a in page.tags if tag == "section" and a["id"] != "warnings"]
    assert sections == SECTIONS
    assert [tag for tag, _ in page.tags].count("h1") == 1


@every_report
def test_ids_are_unique_and_those_referred_to_exist(name: str) -> None:
    page = Page(html_report(REPORTS[name]()))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    named = [part for _, a in page.tags for part in (a.get("aria-labelledby") or "").split()]
    assert set(named) <= set(ids)


@every_report
def test_charts_are_described_and_stay_inside_their_box(name: str) -> None:
    svgs = svgs_of(html_report(REPORTS[name]()))
    assert len(svgs) == {"graded": 13, "labels": 8, "no base": 6, "one label": 5, "nothing": 3}.get(name, len(svgs))
    for svg in svgs:
        width, height = re.match(r'<svg viewBox="0 0 (\d+) (\d+)" role="img"', svg).groups()  # type: ignore[union-attr]
        assert re.search(r"<title [^>]*>[^<]+</title><desc [^>]*>[^<]+</desc>", svg)
        for x, y in corners_of(svg):
            assert 0 <= x <= int(width) and 0 <= y <= int(height), svg[:300]


@every_report
def test_tables_have_as_many_cells_as_heads(name: str) -> None:
    source = html_report(REPORTS[name]())
    for table in re.findall(r"<table.*?</table>", source, re.DOTALL):
        counts = {len(re.findall(r"<t[hd][ >]", row)) for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)}
        assert len(counts) == 1
        assert 'scope="row"' in table


def test_texts_from_data_can_neither_run_nor_hide() -> None:
    source = html_report(hostile())
    page = Page(source)
    assert "<script" not in source and "<img" not in source
    assert "<script>alert(1)</script>" in page.text
    assert r"nul \x00 and \x1b[31mred\x1b[0m" in page.text
    assert r"half \ud83d of a character" in page.text
    assert r"turned \u202e around \u2066 here" in page.text
    assert r"two\r\nlines\u2028three" in page.text
    assert "한국어 문장입니다." in page.text and "جملة عربية" in page.text and "👩‍👩‍👧" in page.text
    assert "&amp; &#x3c;" in page.text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", source)
    source.encode()
    assert '<span class="control">' in source


def test_long_texts_are_cut_on_the_page_and_whole_in_the_table(tmp_path: Path) -> None:
    made = hostile()
    write_report(made, tmp_path)
    assert max(map(len, Page((tmp_path / "report.html").read_text("utf-8")).texts)) < 2500
    assert "x" * (TEXT_LIMIT - 1) + "…" in (tmp_path / "report.html").read_text("utf-8")
    assert "x" * 5000 in (tmp_path / "worst_pairs.csv").read_text("utf-8")


def test_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_report(REPORTS["graded"](), tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["report.html", "report.md", "worst_pairs.csv"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("graded", [True, False])
def test_many_pairs_and_steps_stay_a_small_file(graded: bool) -> None:
    big = report(*(split(name, 10_000, graded=graded) for name in ("dev", "test")), fitted=decision())
    size = len(html_report(dataclasses.replace(big, log=log_lines(20_000, "spearman"))).encode())
    assert size < 700_000


def test_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_report(bare(), tmp_path)
    old = (tmp_path / "report.md").read_bytes()
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.html").mkdir()
    (tmp_path / "report.html" / "file").touch()
    with pytest.raises(OutputError, match=r"report\.html"):
        write_report(bare(), tmp_path)
    assert (tmp_path / "report.md").read_bytes() == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md", "worst_pairs.csv"]
    with pytest.raises(OutputError, match="missing"):
        write_report(bare(), tmp_path / "missing")


def test_letters_and_marks_stand_out_in_light_and_dark() -> None:
    """WCAG 2.1 requires a contrast of 4.5 to 1 for text and 3 to 1 for the marks of a chart."""

    def luminance(colour: str) -> float:
        digits = colour if len(colour) == 6 else "".join(c * 2 for c in colour)
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    schemes = [dict(re.findall(r"--(\w+):#([0-9a-f]{3,6});", part)) for part in re.findall(r":root\{(.*?)\}", STYLE)]
    schemes = [scheme for scheme in schemes if scheme]
    assert len(schemes) == 2
    for scheme in schemes:
        for ink, grounds, least in (
            ("ink", ("ground", "card", "alarm"), 4.5),
            ("soft", ("ground",), 4.5),
            ("no", ("ground",), 4.5),
            *((mark, ("ground",), 3.0) for mark in ("after", "before", "yes", "chance")),
        ):
            for ground in grounds:
                dark, light = sorted((luminance(scheme[ink]), luminance(scheme[ground])))
                assert (light + 0.05) / (dark + 0.05) >= least, (ink, ground)


# ---------------------------------------------------------------- what it says


def test_verdict_follows_the_interval_of_the_difference_on_test() -> None:
    def judged(low: float | None, value: float | None, high: float | None, name: str = "test") -> str:
        scores = {"n": 1234, "before": {"spearman": {"value": 0.5}}, "after": {"spearman": {"value": 0.6}}}
        scores["difference"] = {"spearman": {"value": value, "low": low, "high": high}}
        found = verdict(Report("", RUN, {"splits": {name: scores}}, {}, []))
        assert f"on {name} (1,234 pairs)" in found.sentence
        assert ("also chosen on dev" in found.sentence) == (name == "dev")
        return found.kind

    assert judged(0.01, 0.1, 0.2) == "better"
    assert judged(-0.2, -0.1, -0.01) == "worse"
    assert judged(-0.01, 0.1, 0.2) == "unclear"
    assert judged(0.0, 0.1, 0.2) == "unclear"
    assert judged(None, 0.1, None) == "unclear"
    assert judged(0.01, 0.1, 0.2, "dev") == "better"
    assert verdict(bare()).kind == "unknown"
    no_base = verdict(REPORTS["no base"]())
    assert no_base.kind == "unknown" and "nothing to compare" in no_base.sentence


def test_verdict_takes_test_before_dev_and_tells_both() -> None:
    found = verdict(REPORTS["graded"]())
    assert found.kind == "better"
    assert found.sentence.startswith("on test (90 pairs) the Spearman correlation rose from ")
    assert "On dev the difference is +" in found.sentence


@pytest.mark.parametrize("render", [html_report, markdown_report])
def test_scores_stand_with_intervals_and_differences(render: Any) -> None:
    made = REPORTS["graded"]()
    shown = Page(render(made)).text if render is html_report else render(made)
    of = made.metrics["splits"]["test"]
    for side in ("before", "after"):
        score = of[side]["spearman"]
        assert f"{score['value']:.4f} [{score['low']:.4f}, {score['high']:.4f}]" in shown
    assert decimals(of["difference"]["pearson"]["value"], signed=True) in shown
    assert "95 % bootstrap interval of 40 resamples" in shown
    assert "The pairs of test: made by chance." in shown


@pytest.mark.parametrize("render", [html_report, markdown_report])
def test_what_is_missing_is_said_in_a_sentence(render: Any) -> None:
    shown = render(bare())
    for sentence in ("neither dev nor test pairs", "No threshold was chosen", "No data file", "No pairs were scored"):
        assert sentence in shown
    assert "No warnings." in shown
    assert "base model was not scored" in render(REPORTS["no base"]())
    undefined = render(REPORTS["one label"]())
    assert "undefined: every pair matches" in undefined
    assert "no calibration was fitted" in undefined


def test_charts_that_cannot_be_drawn_are_sentences() -> None:
    shown = Page(html_report(REPORTS["one label"]())).text
    assert "Every pair of dev matches, so a precision-recall curve has no meaning." in shown
    shown = Page(html_report(bare())).text
    assert "The run logged no loss" in shown and "There was no evaluation during training" in shown
    unscored = dataclasses.replace(split(graded=True), after=np.full(120, np.nan, dtype=np.float32))
    made = dataclasses.replace(REPORTS["graded"](), splits=(unscored,))
    assert "There are no scores of pairs in dev" in html_report(made)
    partly = split(graded=True)
    partly.after[:3] = np.nan
    shown = html_report(dataclasses.replace(made, splits=(partly,)))
    assert "3 pairs of dev without a finite score left out of the charts." in shown


@pytest.mark.parametrize("render", [html_report, markdown_report])
def test_training_ledger_and_decision_are_told(render: Any) -> None:
    shown = render(REPORTS["graded"]())
    shown = Page(shown).text if render is html_report else shown
    for fact in ("93 of 100 rows", "efefefefefef", "cosine", "2e-5 at the peak", "83.2 s"):
        assert fact in shown
    for fact in (
        "step 20, the best by Spearman correlation 0.8100",
        "torch 2.13.0",
        "before not known, after 0.1234",
        "12; memory foreseen",
        "stopped early",
    ):
        assert fact in shown
    for fact in ("7 rows come twice", "3, 5, 8, 13, 21 …", "left out", "Scores are on 0..5.", "The dev set is small."):
        assert fact in shown
    for fact in ("0.5000", "[0.4500, 0.5500]", "if its gold score is at least 2.5", "isotonic", "Brier score"):
        assert fact in shown


def test_a_resumed_run_has_one_curve() -> None:
    made = REPORTS["graded"]()
    again = [{**line, "loss": 9.0} for line in made.log if line["kind"] == "train" and line["step"] > 30]
    resumed = dataclasses.replace(made, log=[*again, *made.log])
    assert html_report(resumed) == html_report(made)


def test_each_objective_that_is_added_has_a_curve() -> None:
    made = REPORTS["graded"]()
    shares = {"loss_cosine": 0.75, "loss_in_batch_negatives": 0.25}
    lines = [
        {**line, **{key: line["loss"] * share for key, share in shares.items()}} if line["kind"] == "train" else line
        for line in made.log
    ]
    shown = html_report(dataclasses.replace(made, log=lines))
    for name in ("cosine", "in_batch_negatives"):
        title = f"Loss of {name}, times its weight"
        assert title in shown and title not in html_report(made)
    assert shown.count(">Loss by step</title>") == html_report(made).count(">Loss by step</title>") + 2 > 2


def test_losses_that_are_not_finite_are_left_out() -> None:
    made = REPORTS["labels"]()
    odd = [{"kind": "train", "step": 41, "loss": math.nan}, {"kind": "train", "step": 42, "loss": None}]
    assert html_report(dataclasses.replace(made, log=[*made.log, *odd])) == html_report(made)


# ---------------------------------------------------------------- the short text


@every_report
def test_markdown_tables_have_equal_rows(name: str) -> None:
    for block in markdown_report(REPORTS[name]()).split("\n\n"):
        rows = [line for line in block.split("\n") if line.startswith("|")]
        counts = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(counts) <= 1, rows
        assert not rows or set(rows[1]) <= set("|-: ")


def test_markdown_shows_texts_as_they_are() -> None:
    shown = markdown_report(hostile())
    assert "<script" not in shown and "<img" not in shown and "\x1b" not in shown and "\0" not in shown
    assert re.sub("<br>", "", shown).count("<") == 0
    assert "](http" not in shown.replace(r"\](http", "")
    assert r"- 1\. one" in shown and r"- \- two" in shown
    assert literal("| a [0.1234, +0.5678] [0.1234, 0.5678](x)") == r"\| a [0.1234, +0.5678] \[0.1234, 0.5678\](x)"


def test_markdown_lists_at_most_twenty_evaluations_and_the_best() -> None:
    made = REPORTS["graded"]()
    lines = [{"kind": "eval", "step": i, "split": "dev", "metrics": {"spearman": i / 1000}} for i in range(1, 301)]
    shown = markdown_report(dataclasses.replace(made, log=lines))
    table = shown.split("**On dev during training**\n\n")[1].split("\n\n")[0].split("\n")[2:]
    assert 20 <= len(table) <= 21
    assert table[0].startswith("| 1 |") and table[-1].startswith("| 300 |")
    assert "| 20 (best) | 0.0200 |" in table


# ---------------------------------------------------------------- the worst pairs


def test_worst_graded_pairs_are_those_furthest_from_their_place() -> None:
    gold = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    after = np.array([0.1, 0.9, 0.2, 0.3, 0.4], dtype=np.float32)
    of = SplitScores("dev", "dev.csv", None, after, gold, None, (0, 5))
    assert errors_of_place(of).tolist() == pytest.approx([0.0, 0.6, -0.2, -0.2, -0.2])
    found = worst_pairs(of, list("abcde"), list("fghij"), [2, 3, 4, 5, 6], n=3)
    assert [(pair.line, pair.text1, pair.text2, pair.gold) for pair in found] == [
        (3, "b", "g", 1.0),
        (4, "c", "h", 2.0),
        (5, "d", "i", 3.0),
    ]
    assert found[0].before is None and found[0].after == float(np.float32(0.9))


def test_equal_gold_scores_share_their_place() -> None:
    of = SplitScores("dev", "", None, np.array([0.1, 0.5, 0.9], dtype=np.float32), np.ones(3), None, (0, 5))
    assert errors_of_place(of).tolist() == pytest.approx([-1 / 3, 0, 1 / 3])


def test_worst_labelled_pairs_are_low_matches_and_high_others() -> None:
    gold = np.array([1.0, 1.0, 0.0, 0.0, 1.0])
    after = np.array([0.9, 0.15, 0.8, 0.1, 0.2], dtype=np.float32)
    of = SplitScores("dev", "", after, after, gold, None, None)
    assert errors_of_place(of).tolist() == pytest.approx([0, -0.5, 2 / 3, 0, -0.5])
    assert [pair.line for pair in worst_pairs(of, list("abcde"), list("abcde"), range(5), n=3)] == [2, 1, 4]
    labels = gold > 0.5
    mean_error = np.abs(errors_of_place(of)[labels]).mean()
    assert mean_error == pytest.approx(1 - roc_auc_score(labels, after))


def test_labels_told_apart_entirely_begin_with_the_nearest_to_the_other_side() -> None:
    gold = np.array([1.0, 1.0, 0.0, 0.0])
    after = np.array([0.9, 0.61, 0.1, 0.4], dtype=np.float32)
    of = SplitScores("dev", "", None, after, gold, None, None)
    assert [pair.line for pair in worst_pairs(of, list("abcd"), list("abcd"), range(4))] == [1, 3, 0, 2]


def test_worst_pairs_read_back_exactly(tmp_path: Path) -> None:
    texts = [text for text in HOSTILE if "\0" not in text and "\ud83d" not in text]
    made = report(split(n=80, graded=True), texts=texts)
    write_report(made, tmp_path)
    table = open_table(tmp_path / "worst_pairs.csv")
    assert table.format.columns == ("split", "line", "text1", "text2", "gold", "before", "after", "error")
    assert len(made.worst) == 50
    for row, pair in zip(table, made.worst, strict=True):
        name, line, text1, text2, gold, before, after, error = map(str, row.values)
        assert (name, int(line), text1, text2) == (pair.split, pair.line, pair.text1, pair.text2)
        assert (float(gold), float(error)) == (pair.gold, pair.error)
        assert (np.float32(before), np.float32(after)) == (pair.before, pair.after)
    assert list(table.texts(table.text_columns(None, 2))) == [(pair.text1, pair.text2) for pair in made.worst]
    assert {text for pair in made.worst for text in (pair.text1, pair.text2)} >= {
        "=1+1",
        "한국어 문장입니다.",
        "two\r\nlines\u2028three",
    }


def test_what_no_csv_can_hold_is_escaped(tmp_path: Path) -> None:
    pair = WorstPair("dev", 2, "a\0b", "half \ud83d", 1.0, None, 0.5, -0.25)
    (tmp_path / "worst.csv").write_bytes(csv_of([pair]).encode())
    assert [row.values for row in open_table(tmp_path / "worst.csv")] == [
        ("dev", "2", r"a\x00b", r"half \ud83d", "1.0", "", "0.5", "-0.25")
    ]


# ---------------------------------------------------------------- charts


def labelled(n: int = 400) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    labels = np.random.default_rng(3).random(n) < 0.3
    return scores_for(labels * 0.4, 0.3, 4), labels


def test_precision_recall_curve_is_that_of_scikit_learn() -> None:
    scores, labels = labelled(60)
    precision, recall, _ = precision_recall_curve(labels, scores)
    chart = precision_recall_chart("pr", "title", {"after": scores}, labels, None)
    d = re.search(r'<path class="line after" d="(.*?)"', chart).group(1)  # type: ignore[union-attr]
    drawn = np.array(list(points_of(d)))
    bottom, top = (
        float(re.search(rf'y="([\d.]+)" text-anchor="end">{v}<', chart).group(1)) - 4 for v in ("0.0", "1.0")
    )  # type: ignore[union-attr]
    left, right = drawn[:, 0].min(), drawn[:, 0].max()
    shown_recall = (drawn[:, 0] - left) / (right - left)
    shown_precision = (bottom - drawn[:, 1]) / (bottom - top)
    shown = np.stack([shown_recall, shown_precision], axis=1)
    for corner in zip(np.repeat(recall, 2)[1:], np.repeat(precision, 2)[:-1], strict=True):
        # The steps go along the axes, so the nearest point of each lies in the box that its ends span.
        nearest = np.clip(corner, np.minimum(shown[:-1], shown[1:]), np.maximum(shown[:-1], shown[1:]))
        assert np.abs(nearest - corner).max(axis=1).min() < 0.003
    area = -np.sum(np.diff(shown_recall) * shown_precision[:-1])
    assert area == pytest.approx(average_precision_score(labels, scores), abs=0.005)


def test_thinned_curves_keep_their_area() -> None:
    scores, labels = labelled(20_000)
    precision, recall, _ = precision_recall_curve(labels, scores)
    x, y = thinned(recall, precision)
    assert len(x) <= 4 * 301
    assert -np.sum(np.diff(x) * y[:-1]) == pytest.approx(average_precision_score(labels, scores), abs=2e-3)


def test_calibration_is_counted_by_ten_bins() -> None:
    probabilities = np.array([0.0, 0.05, 0.15, 0.95, 1.0, 1.0], dtype=np.float32)
    labels = np.array([False, True, False, True, True, False])
    found = calibrated(probabilities, labels)
    assert found.n.tolist() == [2, 1, 3] and found.bins.tolist() == [0, 1, 9]
    assert found.observed.tolist() == pytest.approx([0.5, 0, 2 / 3])
    assert found.predicted.tolist() == pytest.approx([0.025, 0.15, 2.95 / 3])
    assert found.brier == pytest.approx(brier_score_loss(labels, probabilities))
    assert found.error == pytest.approx((2 * 0.475 + 0.15 + 0.95) / 6)
    chart = reliability_chart("r", "title", found)
    assert ">2</text>" in chart and ">1</text>" in chart and ">3</text>" in chart


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_is_that_of_scipy(found: tuple[int, int]) -> None:
    k, n = found
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert wilson_interval(k / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_panels_of_one_set_share_their_axes() -> None:
    scores, labels = labelled()
    panels = {"Before": scores / 2, "After": scores}
    for charts in (
        histogram_charts("h", panels, labels, 0.2),
        histogram_charts("h", panels, labels, None),
        scatter_charts("s", panels, labels * 5.0, (0, 5)),
    ):
        numbers = [
            re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(?:middle|end)">', chart) for chart in charts
        ]
        assert numbers[0] == numbers[1]
        assert charts[0].split('"')[1] == charts[1].split('"')[1]


def test_histograms_show_shares_of_each_label() -> None:
    scores = np.array([0.0, 0.0, 0.0, 1.0], dtype=np.float32)
    chart = histogram_charts("h", {"After": scores}, np.array([False, False, True, True]), None)[0]
    assert "no match (2)" in chart and "match (2)" in chart
    assert ">100</text>" in chart  # every non-match is in the first bin


def test_odd_scores_are_drawn_too() -> None:
    for values in ([0.5, 0.5], [-1.0, 1.0], [1e-30, 2e-30], [0.0, 0.0]):
        scores = np.array(values, dtype=np.float32)
        labels = np.array([True, False])
        charts = [
            *histogram_charts("h", {"After": scores}, labels, 0.5),
            *scatter_charts("s", {"After": scores}, labels * 5.0, (0, 5)),
            precision_recall_chart("p", "t", {"after": scores}, labels, (1.0, 0.5)),
            loss_chart("l", np.array([1.0, 2.0]), scores.astype(np.float64)),
            loss_chart("l", np.array([1.0]), scores[:1].astype(np.float64)),
        ]
        for chart in charts:
            assert "nan" not in chart and "inf" not in chart
            assert all(0 <= x <= 360 for x, _ in corners_of(chart))


def test_long_logs_are_averaged_in_groups() -> None:
    steps = np.arange(1.0, 1001.0)
    x, y = grouped(steps, steps * 2)
    assert len(x) <= 300 and x[0] == 2.5 and np.allclose(y, 2 * x)
    assert len(grouped(steps[:300], steps[:300])[0]) == 300


def test_running_mean_is_the_mean_of_neighbours() -> None:
    values = np.random.default_rng(0).random(90)
    expected = [values[max(0, i - 3) : i + 4].mean() for i in range(90)]
    assert running_mean(values).tolist() == pytest.approx(expected)


sizes = st.floats(-1e6, 1e6, allow_nan=False)


@given(sizes, sizes, st.integers(3, 9), st.booleans())
def test_axes_have_round_numbers_that_cover_the_values(a: float, b: float, n: int, exact: bool) -> None:
    low, high = min(a, b), max(a, b)
    axis = round_axis("x", low, high, n_ticks=n, exact=exact)
    assert axis.low < axis.high and 1 <= len(axis.ticks) <= 2 * n + 2
    slack = 1e-6 * max(abs(low), abs(high), 1e-9)
    assert axis.low <= low + slack and axis.high >= high - slack
    assert all(axis.low - slack <= tick <= axis.high + slack for tick in axis.ticks)
    assert len(set(axis.tick_texts())) == len(axis.ticks)


def test_ticks_are_printed_with_the_decimals_they_need() -> None:
    assert round_axis("x", 0, 2e-5).tick_texts() == ("0", "5e-6", "1e-5", "1.5e-5", "2e-5")
    assert round_axis("x", 0, 1).tick_texts() == ("0.00", "0.25", "0.50", "0.75", "1.00")
    assert round_axis("x", 0, 4000).tick_texts() == ("0", "1,000", "2,000", "3,000", "4,000")


# ---------------------------------------------------------------- words


def test_numbers_are_written_for_people() -> None:
    assert decimals(-0.12344) == "−0.1234"
    assert decimals(-0.00001, signed=True) == "0.0000"
    assert interval(0.5, 0.75) == "[0.5000, 0.7500]" and interval(None, 1) == ""
    assert [plain_number(v) for v in (None, True, 1234, 2e-5, 12345.0, 0.1)] == [
        *("not set", "yes", "1,234", "2e-5", "12,345", "0.1")
    ]
    assert [duration(s) for s in (3.25, 99.96, 125, 3599.6, 11_220)] == [
        *("3.2 s", "100.0 s", "2 min 5 s", "1 h 0 min", "3 h 7 min")
    ]
    assert [short_count(n) for n in (0, 987, 1000, 9949, 9960, 99_400, 1_240_000)] == [
        *("0", "987", "1.0k", "9.9k", "10k", "99k", "1.2M")
    ]


def test_cuts_do_not_split_a_letter() -> None:
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "ab…"
    assert shortened("abe\u0301\u0301xyz", 5) == "ab…"
    assert shortened("ab👩‍👩‍👧xyz", 6) == "ab…"
    assert len(shortened("e" + "\u0301" * 1000, 100)) == 81


@given(st.text(alphabet=st.characters(), max_size=40))
def test_visible_texts_can_be_encoded_and_keep_what_is_seen(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert "\n" not in shown and "\x1b" not in shown
    assert visible(shown) == shown
