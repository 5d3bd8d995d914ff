"""The section with charts of the scores of each pair, or of a classifier's probabilities of each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.data.ledger import counted
from sbert_ft.evaluation.results import ClassSplit, SplitScores
from sbert_ft.report import charts as draw
from sbert_ft.report.blocks import Block, Charts, Figure, Heading, Paragraph, Section
from sbert_ft.report.charts import Scores, ScoreWords
from sbert_ft.report.content import Report, split_order
from sbert_ft.report.decision import Reached, quoted_name, reached, second_class_scores
from sbert_ft.report.formatting import decimals, shortened

_CELLS: Final = "The stronger a cell's colour, the more pairs"


def charts_section(report: Report) -> Section:
    """Return the section with the charts of scores, or of a classifier's probabilities."""
    word, blocks = report.row_word, list[Block]()
    what, done = ("Probabilities", "evaluated") if report.is_classifier else ("Scores", "scored")
    for i, split in enumerate(sorted(report.splits, key=split_order)):
        blocks.append(Heading(f"{split.name}: {counted(len(split.after), word)}"))
        blocks.append(Charts(tuple(_pair_charts(i, split, report)), is_wide=True))
    for i, by_class in enumerate(sorted(report.classes, key=split_order)):
        blocks.append(Heading(f"{by_class.name}: {counted(len(by_class.gold), word)}"))
        blocks.append(Charts(tuple(_class_charts(i, by_class, report))))
    if not blocks:
        blocks.append(Paragraph(f"No {word}s were {done}, so there are no charts of {what.lower()}."))
    return Section("charts", f"{what}, {word} by {word}", blocks)


def _note(text: str) -> Paragraph:
    return Paragraph(text, is_note=True)


def _pair_charts(number: int, split: SplitScores, report: Report) -> Iterator[Figure | Paragraph]:
    """Yield the charts of a split's scores, without those that are not finite; `number` makes their ids unique."""
    finite = np.isfinite(split.after) & (True if split.before is None else np.isfinite(split.before))
    if not finite.any():
        yield _note(f"There are no scores of pairs in {split.name}, so there is nothing to draw.")
        return
    if not finite.all():
        n_left_out = counted(int((~finite).sum()), "pair")
        yield _note(f"{n_left_out} of {split.name} without a finite score left out of the charts.")
        rows: dict[str, Any] = {key: of[finite] for key, of in vars(split).items() if isinstance(of, np.ndarray)}
        split = replace(split, **rows)
    yield from _finite_pair_charts(number, split, report)


def _finite_pair_charts(number: int, split: SplitScores, report: Report) -> Iterator[Figure | Paragraph]:
    """Yield the charts of finite scores: by label or against gold, precision and recall, reliability."""
    labels, decision, word = split.labels, report.decision, report.score_word
    scores = {} if split.before is None else {"before": split.before}
    scores["after"] = split.after
    titled = {name.capitalize(): values for name, values in scores.items()}
    if split.scale is not None:
        caption = f"{word} against gold. With a good model the scores rise from left to right with little spread."
        is_small = len(split.after) <= draw.MOST_DOTS
        caption = f"{'Each dot is a pair' if is_small else _CELLS}: {caption}"
        charts = draw.scatter_charts(f"scatter-{number}", titled, split.gold, split.scale, word)
    elif labels is not None:
        caption = "The distribution of the scores of each label, in shares. The less the two overlap, the better."
        threshold = None if decision is None else decision.threshold
        charts = draw.histogram_charts(f"histogram-{number}", titled, labels, threshold, ScoreWords(word))
    else:
        yield _note(f"The pairs of {split.name} have no labels, so their scores cannot be shown by label.")
        return
    for title, chart in zip(titled, charts, strict=True):
        yield Figure(f"{title}: scores on {split.name}", chart, caption)
    if labels is None or (decision is None and split.scale is not None):
        return
    title, done = f"Precision and recall on {split.name}", reached(split, decision)
    curve = _precision_recall(number, title, scores, labels, done, f"pair of {split.name} matches")
    yield curve
    if isinstance(curve, Figure) and done is not None and done.calibration is not None:
        title, error = f"Probabilities on {split.name}", decimals(done.calibration.error)
        caption = f"Of the pairs with a probability of 70 %, 70 % should match. Calibration error {error}."
        if split.name == "dev":
            caption += " They were fitted on these same pairs, so they look better than they are."
        yield Figure(title, draw.reliability_chart(f"reliability-{number}", title, done.calibration), caption)


def _precision_recall(
    number: int,
    title: str,
    scores: Mapping[str, Scores],
    labels: NDArray[np.bool_],
    done: Reached | None,
    row_matches: str,
) -> Figure | Paragraph:
    """Return the precision-recall curve, with the values at the threshold if there is one.

    `scores` are by "before" or "after". `row_matches`, after "every" or "no", is the clause for labels that are all the
    same. Shape: each scores, labels (n,).
    """
    if labels.all() or not labels.any():
        which = "Every" if labels.all() else "No"
        return _note(f"{which} {row_matches}, so a precision-recall curve has no meaning.")
    point = None
    caption = "Precision: the share of predicted matches that are right. Recall: the share of matches that are found."
    if done is not None and done.precision is not None and done.recall is not None:
        point = done.recall, done.precision
        caption += f" At the threshold: precision {decimals(done.precision)} and recall {decimals(done.recall)}."
    return Figure(title, draw.precision_recall_chart(f"precision-{number}", title, scores, labels, point), caption)


def _class_charts(number: int, split: ClassSplit, report: Report) -> Iterator[Figure | Paragraph]:
    """Yield the charts of a split's probabilities: reliability, and for two classes histogram and precision-recall."""
    if not len(split.gold) or not np.isfinite(split.probabilities).all():
        yield _note(f"There are no finite probabilities on {split.name}, so no chart of them.")
        return
    title, rows = f"Probabilities on {split.name}", f"{report.row_word}s"
    found = draw.calibrated(split.probabilities.max(axis=1), split.predicted == split.gold)
    caption = f"Of the {rows} whose predicted class has a probability of 70 %, 70 % should be right."
    if split.name == "dev" and report.metrics.get("calibration") is not None:
        caption += " The temperature was fitted on them, so this looks better than it is."
    chart = draw.reliability_chart(f"reliability-{number}", title, found, "share that is right", rows)
    yield Figure(title, chart, caption)
    if len(split.class_names) != 2:
        return
    scores, decision, (no, yes) = second_class_scores(split), report.decision, split.class_names
    labels, threshold = scores.gold > 0.5, None if decision is None else decision.threshold
    words = ScoreWords(f"probability of {shortened(yes, 24)}", shortened(no, 24), shortened(yes, 24), rows)
    title = f"Probability of {quoted_name(yes)} on {split.name}"
    chart = draw.histogram_charts(f"histogram-{number}", {title: scores.after}, labels, threshold, words)[0]
    caption = "The distribution of the probabilities of each class, in shares. The less the two overlap, the better."
    yield Figure(title, chart, caption)
    title = f"Precision and recall of {quoted_name(yes)} on {split.name}"
    row_matches = f"{report.row_word} of {split.name} is labelled {quoted_name(yes)}"
    yield _precision_recall(number, title, {"after": scores.after}, labels, reached(scores, decision), row_matches)
