"""Tests of the report of a classifier: the HTML page, the Markdown text and the table of mistakes."""

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
from sklearn.metrics import confusion_matrix
from test_report import HOSTILE, RUN, Page, corners_of, log_lines, svgs_of
from test_report import report as pair_report
from test_report import split as pair_split

from sbert_ft.config.objectives import ObjectiveSettings
from sbert_ft.config.settings import DataSettings, EvaluationSettings, ModelSettings, RunSettings
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.data.ledger import Ledger
from sbert_ft.data.table import open_table
from sbert_ft.evaluation.class_evaluator import EvaluationRows, evaluate_classes, majority_codes
from sbert_ft.evaluation.results import ClassSplit, Mistake, confident_mistakes
from sbert_ft.model_folder.decision import Decision, FittedOn
from sbert_ft.report.charts import confusion_chart
from sbert_ft.report.classes import balance_grid, balance_note, confusions
from sbert_ft.report.content import Report, SplitResult
from sbert_ft.report.formatting import percent
from sbert_ft.report.html_page import STYLE, html_report
from sbert_ft.report.markdown import markdown_report
from sbert_ft.report.scores import verdict
from sbert_ft.report.svg import fitting
from sbert_ft.report.write import mistakes_csv, write_report

SETTINGS = EvaluationSettings(bootstrap_samples=40)
NLI = ("contradiction", "entailment", "neutral")
SECTIONS = ["scores", "classes", "decision", "training", "curves", "charts", "ledger", "worst", "settings"]
MAJORITY = "the majority class"
COSINE = "the cosine of the untrained encoder"


# ---------------------------------------------------------------- reports to look at


def class_split(name: str, class_names: tuple[str, ...], n: int = 120, right: float = 0.8) -> ClassSplit:
    """Return rows with unbalanced classes, of which about the share `right` is classified correctly."""
    random = np.random.default_rng([len(name), len(class_names)])
    k = len(class_names)
    gold = np.minimum(random.geometric(1.5 / (k + 1), n) - 1, k - 1).astype(np.int64)
    said = np.where(random.random(n) < right, gold, random.integers(k, size=n))
    logits = random.normal(0, 0.4, (n, k))
    logits[np.arange(n), said] += 2.0
    powers = np.exp(logits)
    probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return ClassSplit(name, f"{name}.csv", class_names, gold, majority_codes(gold, k, n), MAJORITY, probabilities)


def judged(split: ClassSplit, *, before: bool = True, baseline: bool = True) -> dict[str, Any]:
    dataset = ConnectionDataset.from_pairs([("a", "b"), ("c", "d")])
    rows = EvaluationRows(split.name, dataset, split.gold, split.class_names)
    others = {COSINE: np.roll(split.gold, 1)} if baseline else {}
    logits = np.log(split.probabilities)
    base = (split.before, MAJORITY) if before else (None, None)
    return {**evaluate_classes(rows, *base, logits, SETTINGS, others), "source": split.source}


def counts_of(split: ClassSplit) -> dict[str, int]:
    counted = np.bincount(split.gold, minlength=len(split.class_names)).tolist()
    return dict(zip(split.class_names, counted, strict=True))


def class_report(
    *splits: ClassSplit,
    kind: str = "joined",
    texts: list[str] | None = None,
    decision: Decision | None = None,
    temperature: float | None = 1.5,
    **judging: bool,
) -> Report:
    texts = texts or [f"text number {i}" for i in range(40)]
    n_texts = 1 if kind == "single" else 2
    rows = [tuple(texts[(i * (j + 3)) % len(texts)] for j in range(n_texts)) for i in range(3000)]
    mistakes = tuple(
        mistake
        for split in splits
        for mistake in confident_mistakes(split, rows[: len(split.gold)], np.arange(2, len(split.gold) + 2))
    )
    settings = RunSettings(
        ModelSettings("bert", kind=kind),  # type: ignore[arg-type]
        DataSettings("rows.csv"),
        "runs/first",
        objective=(ObjectiveSettings("softmax", class_weight="balanced"),),
        evaluation=SETTINGS,
    )
    fitted_on = {"source": "dev.csv", "sha256": "ab" * 32, "n": 120}
    trained = class_split("train", splits[0].class_names if splits else NLI, 3000)
    return Report(
        title="Run first",
        settings=settings,
        metrics={
            "format": 1,
            "steps": 40,
            "best": {"step": 20, "metric": "macro_f1", "value": 0.81},
            "splits": {split.name: judged(split, **judging) for split in splits},
            "decision": None if decision is None else decision.to_json(),
            "calibration": temperature and {"kind": "temperature", "temperature": temperature, "fitted_on": fitted_on},
            "classes": {"train": {}} if not splits else {of.name: counts_of(of) for of in (trained, *splits)},
            "lengths": {"n_sequences": 100, "n_cut_rows": 7, "cut_share": 0.07, "unknown_share": 0.1234},
            "warnings": [],
        },
        ledgers={"train": Ledger("rows.csv", "csv", "ef" * 32, 100, 100)},
        log=log_lines(40, "macro_f1"),
        classes=splits,
        mistakes=mistakes,
        decision=decision,
    )


def stored_decision() -> Decision:
    reached = {"precision": 0.8, "recall": 0.9, "f1": 0.8471}
    made = Decision(0.4321, "f1", FittedOn("dev.csv", "ab" * 32, 120, 50), 0.4, 0.5, reached=reached)
    return dataclasses.replace(made, similarity="probability")


def numbered(n: int) -> tuple[str, ...]:
    return tuple(f"intent {i}" for i in range(n))


def hostile() -> Report:
    names = tuple(f"{i} {text}" for i, text in enumerate(HOSTILE))
    evil = "".join(HOSTILE[:7])
    split = dataclasses.replace(class_split("dev", names, 300), name=evil, source=evil, before_is=evil)
    made = class_report(split, texts=HOSTILE)
    of = {**made.metrics["splits"][evil], "before_is": evil, "baselines": {evil: {"accuracy": {"value": 0.5}}}}
    metrics = {
        **made.metrics,
        "splits": {evil: of},
        "calibration": {"temperature": 2.0, "fitted_on": {"source": evil, "sha256": evil, "n": 3}},
    }
    return dataclasses.replace(made, title=evil, metrics=metrics)


REPORTS: dict[str, Callable[[], Report]] = {
    "pairs": lambda: class_report(class_split("dev", NLI), class_split("test", NLI, 90)),
    "texts": lambda: class_report(
        class_split("dev", ("부정", "긍정")), kind="single", decision=stored_decision(), baseline=False
    ),
    "no base": lambda: class_report(class_split("test", NLI), before=False, baseline=False, temperature=None),
    "ten": lambda: class_report(class_split("dev", numbered(10), 400), kind="single"),
    "twenty": lambda: class_report(class_split("dev", numbered(20), 900), kind="single"),
    "many": lambda: class_report(class_split("dev", numbered(150), 2000), kind="single"),
    "perfect": lambda: class_report(class_split("dev", NLI, right=1.0)),
    "nothing": lambda: class_report(),
    "hostile": hostile,
}
# Frozen, and evaluating twenty classes takes a while: each is made once.
REPORTS = {name: functools.cache(make) for name, make in REPORTS.items()}
every_report = pytest.mark.parametrize("name", REPORTS)
both_renderings = pytest.mark.parametrize("render", [html_report, markdown_report])


def text_of(render: Callable[[Report], str], made: Report) -> str:
    return Page(render(made)).text if render is html_report else render(made)


# ---------------------------------------------------------------- the page


@every_report
def test_page_of_a_classifier_is_well_formed_and_has_every_section_in_order(name: str) -> None:
    page = Page(html_report(REPORTS[name]()))
    sections = [a["id"] for tag, a in page.tags if tag == "section" and a["id"] != "warnings"]
    assert sections == SECTIONS
    assert not {"script", "iframe", "img", "object", "a"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not any(attribute.startswith("on") for attribute in attributes), tag
        assert not {"src", "style", "srcset"} & set(attributes), tag


@every_report
def test_ids_of_a_classifiers_page_are_unique_and_exist(name: str) -> None:
    page = Page(html_report(REPORTS[name]()))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {part for _, a in page.tags for part in (a.get("aria-labelledby") or "").split()} <= set(ids)


@every_report
def test_charts_of_a_classifier_stay_inside_their_box(name: str) -> None:
    svgs = svgs_of(html_report(REPORTS[name]()))
    # Curves are three; a split has its measures, F1 by class, the matrix and reliability; two classes have two more.
    expected = {"pairs": 11, "texts": 9, "no base": 7, "twenty": 7, "many": 5, "nothing": 3}
    assert len(svgs) == expected.get(name, len(svgs))
    for svg in svgs:
        width, height = re.match(r'<svg viewBox="0 0 (\d+) (\d+)" role="img"', svg).groups()  # type: ignore[union-attr]
        for x, y in corners_of(svg):
            assert 0 <= x <= int(width) and 0 <= y <= int(height), svg[:300]


@every_report
def test_tables_of_a_classifier_have_as_many_cells_as_heads(name: str) -> None:
    made = REPORTS[name]()
    for table in re.findall(r"<table.*?</table>", html_report(made), re.DOTALL):
        assert len({len(re.findall(r"<t[hd][ >]", row)) for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)}) == 1
    for block in markdown_report(made).split("\n\n"):
        rows = [line for line in block.split("\n") if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) <= 1


@both_renderings
def test_a_classifier_of_single_texts_speaks_neither_of_cosines_nor_of_pairs(render: Any) -> None:
    shown = text_of(render, REPORTS["texts"]()).lower()
    shown = shown.split("the resolved configuration")[0]
    assert "cosine" not in shown
    assert not re.search(r"\bpairs?\b", shown)


def test_hostile_class_names_can_neither_run_nor_hide() -> None:
    source = html_report(hostile())
    assert "<script" not in source and "<img" not in source
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", source)
    source.encode()
    short = markdown_report(hostile())
    assert "<script" not in short and "\x1b" not in short
    assert short.replace("<br>", "").count("<") == 0


def test_many_classes_and_rows_stay_a_small_file() -> None:
    big = class_split("dev", numbered(1000), 20_000)
    made = class_report()
    of = {
        "n": 20_000,
        "classes": list(big.class_names),
        "after": {"accuracy": {"value": 0.5}},
        "confusion": confusion_matrix(big.gold, big.predicted, labels=range(1000)).tolist(),
        "per_class": [
            {"name": name, "n": n, "n_predicted": 1, "precision": 0.5, "recall": None, "f1": {"value": 1 / (i + 1)}}
            for i, (name, n) in enumerate(counts_of(big).items())
        ],
    }
    metrics = {**made.metrics, "splits": {"dev": of}, "classes": {"train": counts_of(big)}}
    made = dataclasses.replace(made, metrics=metrics, classes=(big,))
    shown = html_report(made)
    assert len(shown.encode()) < 200_000
    assert "the 50 of 1,000 classes with the lowest F1" in shown
    assert "A matrix of 1,000 classes would be unreadable here" in shown


def test_same_report_of_a_classifier_gives_the_same_bytes_and_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_report(REPORTS["pairs"](), tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["mistakes.csv", "report.html", "report.md"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# ---------------------------------------------------------------- what it says


def test_verdict_of_a_classifier_names_what_it_is_checked_against() -> None:
    found = verdict(REPORTS["pairs"]())
    assert found.kind == "better" and found.headline == "Better than the majority class"
    assert found.sentence.startswith("on test (90 pairs) the macro F1 is 0.")
    assert ", that of the majority class 0." in found.sentence and ": a difference of +0." in found.sentence
    assert "On dev the difference is +" in found.sentence
    alone = verdict(REPORTS["no base"]())
    assert alone.kind == "unknown" and "nothing to compare it with" in alone.sentence
    nothing = verdict(REPORTS["nothing"]())
    assert nothing.headline == "Not evaluated" and "neither dev nor test pairs with labels" in nothing.sentence


@pytest.mark.parametrize(
    ("low", "high", "headline"),
    [
        (0.01, 0.2, "Better than the majority class"),
        (-0.2, -0.01, "Worse than the majority class"),
        (-0.1, 0.1, "No clear difference from the majority class"),
        (None, None, "No clear difference from the majority class"),
    ],
)
def test_verdict_of_a_classifier_follows_the_interval(low: float | None, high: float | None, headline: str) -> None:
    made = REPORTS["texts"]()
    of = dict(made.metrics["splits"]["dev"])
    of["difference"] = {"macro_f1": {"value": 0.1, "low": low, "high": high, "reason": None}}
    found = verdict(dataclasses.replace(made, metrics={**made.metrics, "splits": {"dev": of}}))
    assert found.headline == headline and "on dev (120 texts)" in found.sentence


def test_verdict_says_that_the_cosine_is_better_without_training() -> None:
    made = REPORTS["pairs"]()
    of = dict(made.metrics["splits"]["test"])
    for high, headline in [(-0.01, "Better than the majority class, but worse than " + COSINE), (0.01, None)]:
        lower = {"macro_f1": {"value": -0.1, "low": -0.2, "high": high, "reason": None}}
        of = {**of, "baseline_differences": {COSINE: lower}}
        found = verdict(dataclasses.replace(made, metrics={**made.metrics, "splits": {"test": of}}))
        assert found.headline == (headline or "Better than the majority class")
        assert found.kind == ("worse" if headline else "better")
        assert ("the model differs from it by −0.1000 [−0.2000, −0.0100]" in found.sentence) == bool(headline)


@both_renderings
def test_measures_stand_with_intervals_beside_every_baseline(render: Any) -> None:
    made = REPORTS["pairs"]()
    shown = text_of(render, made)
    of = made.metrics["splits"]["test"]
    for scores in (of["before"], of["after"], of["baselines"][COSINE]):
        score = scores["macro_f1"]
        assert f"{score['value']:.4f} [{score['low']:.4f}, {score['high']:.4f}]" in shown
    for words in ("The majority class", "The cosine of the untrained encoder", "This model", f"from {COSINE}"):
        assert words in shown
    assert "Matthews correlation" in shown and "both on the same resampled pairs" in shown


@both_renderings
def test_each_class_is_shown_with_precision_recall_and_f1(render: Any) -> None:
    made = REPORTS["pairs"]()
    shown = text_of(render, made)
    for entry in made.metrics["splits"]["test"]["per_class"]:
        f1 = entry["f1"]
        assert f"{entry['n']:,} pairs, {entry['n_predicted']:,} predicted" in shown
        for value in (entry["precision"], entry["recall"], f1["value"], f1["low"]):
            assert f"{value:.4f}" in shown


def test_confusion_table_has_the_counts_of_scikit_learn() -> None:
    made = REPORTS["pairs"]()
    split = made.classes[1]
    expected = confusion_matrix(split.gold, split.predicted).tolist()
    table = (
        markdown_report(made)
        .split("**Confusion matrix on test: rows true, columns predicted**\n\n")[1]
        .split("\n\n")[0]
        .split("\n")
    )
    assert table[0] == f"| True class | {' | '.join(NLI)} |"
    assert table[2:] == [f"| {name} | {' | '.join(map(str, row))} |" for name, row in zip(NLI, expected, strict=True)]


def test_commonest_confusions_are_listed_most_rows_first() -> None:
    of = SplitResult.of_json("dev", {"classes": ["a", "b", "c"], "confusion": [[5, 1, 4], [0, 9, 0], [4, 0, 0]]})
    assert [tuple(found) for found in confusions(of)] == [("a", "c", 4, 10), ("c", "a", 4, 4), ("a", "b", 1, 10)]
    assert confusions(SplitResult.of_json("dev", {"classes": ["a"], "confusion": [[3]]})) == []


@both_renderings
def test_worst_confusion_is_said_in_a_sentence(render: Any) -> None:
    made = REPORTS["many"]()
    worst = confusions(made.results[0], 1)[0]
    sentence = f"“{worst.gold}” is predicted as “{worst.predicted}”: {worst.n} of {worst.of} texts"
    assert sentence in text_of(render, made)
    assert "Every pair of dev is classified correctly." in text_of(render, REPORTS["perfect"]())


def test_class_balance_is_counted_by_file() -> None:
    counts = {"train": {"a": 30, "b": 10}, "dev": {"a": 1, "b": 3}}
    made = Report("", RUN, {"classes": counts}, {}, [])
    grid = balance_grid(made)
    assert grid is not None and grid.header == ("Class", "train", "dev")
    assert [[tuple(cell) for cell in row] for row in grid.rows] == [
        [("a", ""), ("30", "75.0 %"), ("1", "25.0 %")],
        [("b", ""), ("10", "25.0 %"), ("3", "75.0 %")],
    ]
    assert balance_note(made) == "In train, “a” has 3.0 times as many pairs as “b”."
    even = dataclasses.replace(made, metrics={"classes": {"train": {"a": 5, "b": 5}}})
    assert balance_note(even) == "Both classes have the same number of pairs in train."
    absent = dataclasses.replace(made, metrics={"classes": {"train": {"a": 5, "b": 0}}})
    assert balance_note(absent) == "1 of 2 classes have no pair in train."


@both_renderings
def test_decision_of_two_classes_speaks_of_probability(render: Any) -> None:
    shown = text_of(render, REPORTS["texts"]())
    assert "The predicted class does not depend on it." in shown
    for words in (
        "0.4321",
        "of the probability of “긍정”",
        "50 of them labelled “긍정”",
        "Predicted to match",
        "Log loss",
    ):
        assert words in shown
    assert "divided by a temperature of 1.5000" in shown and "fitted on dev.csv: 120 texts" in shown
    assert "no temperature was fitted" in text_of(render, REPORTS["no base"]())


def test_threshold_table_counts_the_second_class() -> None:
    made = REPORTS["texts"]()
    split = made.classes[0]
    called, labels = split.probabilities[:, 1].astype(np.float64) >= 0.4321, split.gold == 1
    shown = markdown_report(made)
    assert f"| Texts | {len(labels)} |" in shown and f"| Labelled “긍정” | {labels.sum()} |" in shown
    assert f"| Predicted to match | {called.sum()} |" in shown
    assert (
        f"| Precision | {labels[called].mean():.4f} |" in shown and f"| Recall | {called[labels].mean():.4f} |" in shown
    )


@both_renderings
def test_training_facts_say_what_was_cut_and_what_is_unknown(render: Any) -> None:
    shown = text_of(render, REPORTS["pairs"]())
    for words in ("7.0 % of the training pairs", "in 7 rows", "12.3 % of the training tokens", "longest first"):
        assert words in shown
    assert "a classifier over the two texts joined to one" in shown and "balanced" in shown
    assert "a classifier of single texts" in text_of(render, REPORTS["texts"]())
    siamese = pair_report(pair_split(graded=True))
    lengths = {"cut_share": 0.0, "unknown_share": 0.0004, "n_cut_rows": 0}
    shown = text_of(render, dataclasses.replace(siamese, metrics={**siamese.metrics, "lengths": lengths}))
    assert "0.0 % of the training texts" in shown and "below 0.1 % of the training tokens" in shown


@both_renderings
def test_one_output_has_scores_instead_of_cosines(render: Any) -> None:
    decision = dataclasses.replace(stored_decision(), match_from=2.5, scale=(0.0, 5.0))
    made = pair_report(pair_split(graded=True, before=False), fitted=decision)
    nothing = {"before": None, "after": None}
    metrics = {**made.metrics, "collapse": nothing, "objective": [{"name": "binary_cross_entropy"}]}
    model = dataclasses.replace(made.settings.model, kind="joined")
    settings = dataclasses.replace(made.settings, model=model, objective=(ObjectiveSettings("binary_cross_entropy"),))
    shown = text_of(render, dataclasses.replace(made, metrics=metrics, settings=settings))
    assert "cosine" not in shown.split("The resolved configuration")[0].lower()
    assert "Gold is on the file's scale, 0 to 5; after is the model's output, 0 to 1." in shown
    assert "Mean cosine" not in shown
    if render is html_report:
        assert "score against gold" in shown and "if its probability is at or above the threshold" in shown


# ---------------------------------------------------------------- the most confident mistakes


def small_split() -> ClassSplit:
    probabilities = np.array(
        [[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4], [0.05, 0.9, 0.05]], dtype=np.float32
    )
    gold = np.array([0, 0, 1, 0, 2])
    return ClassSplit("test", "test.csv", NLI, gold, None, None, probabilities)


def test_mistakes_are_wrong_rows_surest_first() -> None:
    found = confident_mistakes(small_split(), [(f"a{i}", f"b{i}") for i in range(5)], [2, 3, 4, 5, 6], n=3)
    assert [(each.line, each.gold, each.predicted) for each in found] == [
        (6, "neutral", "entailment"),
        (4, "entailment", "neutral"),
        (3, "contradiction", "entailment"),
    ]
    assert found[0] == Mistake("test", 6, ("a4", "b4"), "neutral", "entailment", *map(float, np.float32([0.9, 0.05])))
    assert len(confident_mistakes(small_split(), [("a",)] * 5, range(5))) == 4


def test_equally_sure_mistakes_stand_in_the_order_of_the_file() -> None:
    made = dataclasses.replace(small_split(), probabilities=np.tile(np.float32([0.2, 0.2, 0.6]), (5, 1)))
    assert [each.line for each in confident_mistakes(made, [("a",)] * 5, range(5))] == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["joined", "single"])
def test_mistakes_read_back_exactly(tmp_path: Path, kind: str) -> None:
    texts = [text for text in HOSTILE if "\0" not in text and "\ud83d" not in text]
    made = class_report(class_split("dev", NLI, 400, right=0.5), texts=texts, kind=kind)
    write_report(made, tmp_path)
    table = open_table(tmp_path / "mistakes.csv")
    columns = ("text1",) if kind == "single" else ("text1", "text2")
    assert table.format.columns == ("split", "line", *columns, "gold", "predicted", "probability", "gold_probability")
    assert len(made.mistakes) == 50
    for row, mistake in zip(table, made.mistakes, strict=True):
        split, line, *rest = map(str, row.values)
        assert (split, int(line), tuple(rest[:-4])) == (mistake.split, mistake.line, mistake.texts)
        assert rest[-4:-2] == [mistake.gold, mistake.predicted]
        assert [np.float32(value) for value in rest[-2:]] == [mistake.probability, mistake.gold_probability]


def test_table_without_mistakes_has_its_header() -> None:
    assert mistakes_csv((), "text") == "split,line,text1,gold,predicted,probability,gold_probability\n"


@both_renderings
def test_mistakes_are_counted_and_their_absence_is_said(render: Any) -> None:
    made = REPORTS["texts"]()
    n_wrong = int((made.classes[0].predicted != made.classes[0].gold).sum())
    assert f"{n_wrong} of 120 texts of dev are classified wrongly." in text_of(render, made)
    assert made.mistakes[0].texts[0] in text_of(render, made)
    assert "Every pair of dev is classified correctly." in text_of(render, REPORTS["perfect"]())
    assert "No pairs were evaluated" in text_of(render, REPORTS["nothing"]())


# ---------------------------------------------------------------- the picture


def cells_of(chart: str) -> list[tuple[float, ...]]:
    found = re.findall(r'<rect class="heat" fill-opacity="([\d.]+)" x="([\d.]+)" y="([\d.]+)"', chart)
    return [tuple(map(float, cell)) for cell in found]


def test_colour_of_a_cell_is_its_share_of_the_true_class() -> None:
    counts = np.array([[6, 2, 2], [0, 50, 50], [0, 0, 0]])
    chart = confusion_chart("c", "title", NLI, counts)
    cells = cells_of(chart)
    assert [share for share, _, _ in cells] == [0.6, 0.2, 0.2, 0.0, 0.5, 0.5, 0.0, 0.0, 0.0]
    rows = [cells[i : i + 3] for i in (0, 3, 6)]
    assert all(len({y for _, _, y in row}) == 1 and row[0][1] < row[1][1] < row[2][1] for row in rows)
    assert "contradiction: 6 of 10 right, 2 predicted as entailment." in chart and "neutral: no rows." in chart
    assert chart.count('class="heat-right"') == 3


@pytest.mark.parametrize("n", [2, 3, 5, 6, 12, 20])
@pytest.mark.parametrize("word", ["class", "a rather long name of a class", "아주 긴 한국어 분류 이름입니다"])
def test_matrix_of_up_to_twenty_classes_fits_its_box(n: int, word: str) -> None:
    counts = np.random.default_rng(n).integers(0, 99_999, (n, n))
    chart = confusion_chart("c", "title", [f"{word} {i}" for i in range(n)], counts)
    width, height = map(int, re.match(r'<svg viewBox="0 0 (\d+) (\d+)"', chart).groups())  # type: ignore[union-attr]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in corners_of(chart))
    assert len(cells_of(chart)) == n * n
    xs: NDArray[np.float64] = np.unique([x for _, x, _ in cells_of(chart)])
    assert len(xs) == n and np.diff(xs).min() >= 22


def test_columns_are_numbered_where_names_do_not_fit() -> None:
    counts = np.eye(3, dtype=np.int64)
    short = confusion_chart("c", "title", ["no", "yes", "maybe"], counts)
    assert short.count(">yes</text>") == 2 and "2 yes" not in short
    long = confusion_chart("c", "title", ["no", "yes and rather more than that", "maybe"], counts)
    assert ">1 no</text>" in long and ">1</text>" in long and long.count(">2 yes") == 1


def test_names_are_cut_by_their_width() -> None:
    assert fitting("abcdef", 100) == "abcdef"
    assert fitting("abcdef", 27) == "abc…"
    assert fitting("가나다라", 45) == "가나…"


def test_letters_stand_out_on_the_strongest_colour_of_the_matrix() -> None:
    """WCAG 2.1 requires a contrast of 4.5 to 1 for text."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    inks, heats = (re.findall(rf"--{name}:#([0-9a-f]{{6}});", STYLE) for name in ("ink", "heat"))
    assert len(inks) == len(heats) == 2
    for ink, heat in zip(inks, heats, strict=True):
        dark, light = sorted((luminance(ink), luminance(heat)))
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_shares_are_never_rounded_to_none_or_all() -> None:
    assert [percent(share) for share in (0.0, 0.0004, 0.5, 0.9996, 1.0)] == [
        *("0.0 %", "below 0.1 %", "50.0 %", "above 99.9 %", "100.0 %")
    ]
