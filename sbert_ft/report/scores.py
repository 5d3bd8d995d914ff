"""The verdict on a model, and the section with its scores before and after, or beside baselines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from sbert_ft.config.metrics import METRICS, metric_label
from sbert_ft.data.ledger import counted
from sbert_ft.evaluation.metrics import Score
from sbert_ft.report.blocks import Beside, Block, Cell, Figure, Grid, Paragraph, Section
from sbert_ft.report.charts import IntervalRow, interval_chart
from sbert_ft.report.content import Report, SplitResult
from sbert_ft.report.formatting import capitalised, decimals, inside_sentence, interval, plain_number
from sbert_ft.report.svg import WIDTH, fitting

VerdictKind = Literal["better", "worse", "unclear", "unknown"]
_HEADLINES: Final[Mapping[VerdictKind, str]] = {
    "better": "Better",
    "worse": "Worse",
    "unclear": "No clear difference",
    "unknown": "Not compared",
}
_THAN: Final[Mapping[VerdictKind, str]] = {"better": "than", "worse": "than", "unclear": "from"}
_MAIN_METRICS: Final = ("spearman", "average_precision", "pearson", "roc_auc", "f1", "macro_f1", "accuracy", "loss")
_NOT_DRAWN: Final = "perplexity"  # its logarithm is: before training it is thousands of times that after
_MEANING: Final = (
    "Loss is the mean cross-entropy of the masked tokens, in nats; perplexity is e to the power of it. Both are better "
    "the lower they are. Masked accuracy is the share of the masked tokens that the model finds."
)
_MEANING_OF_ORDER: Final = (
    " Next-sentence accuracy is the share of the pairs of segments for which it is right about whether the second "
    "follows the first; guessing gives 0.5."
)


@dataclass(frozen=True)
class Verdict:
    """Whether the model is better than before, and the numbers that show it."""

    kind: VerdictKind
    headline: str
    sentence: str


def verdict(report: Report) -> Verdict:
    """Return whether the model is better: by the interval of the difference on test, or on dev without a test."""
    found = [(of, metric) for of in report.results if (metric := main_metric(report, of)) is not None]
    chosen_by = (report.metrics.get("best") or {}).get("metric")

    def order(each: tuple[SplitResult, str]) -> tuple[bool, ...]:
        of, metric = each  # on test nothing was chosen; of the others, that by which the best step was chosen is first
        return of.difference[metric].value is None, of.name != "test", metric != chosen_by

    found.sort(key=order)
    if not found:
        return Verdict("unknown", "Not evaluated", f"{_not_judged(report)}, so it is not known how good this model is.")
    of, metric = found[0]
    kind, sentence = _judged(report, of, metric)
    if len(found) > 1:
        sentence += f" {_in_short(*found[1])}"
    if kind != "unknown" and ((of.name == "dev" and len(found) == 1) or (of.unit is not None and metric == chosen_by)):
        caution = f"The best step was also chosen on {of.name}, so the result is a little too good"
        sentence += f" {caution}; a test file avoids this." if of.name == "dev" else f" {caution}."
    headline = _HEADLINES[kind]
    if of.before_is is not None and kind in _THAN:
        headline += f" {_THAN[kind]} {of.before_is}"
    if kind in ("better", "unclear") and (clearly := _better_without_training(of, metric)) is not None:
        headline += f", {'but' if kind == 'better' else 'and'} worse than {clearly[0]}"
        return Verdict("worse", headline, f"{sentence} {clearly[1]}")
    return Verdict(kind, headline, sentence)


def main_metric(report: Report, of: SplitResult) -> str | None:
    """Return the metric used for the verdict: the one that chose the best step, if the split has it."""
    best = report.metrics.get("best") or {}
    return next((name for name in (best.get("metric"), *_MAIN_METRICS, *of.after) if name in of.after), None)


def _better_without_training(of: SplitResult, metric: str) -> tuple[str, str] | None:
    """Return a baseline without training that is clearly better than the classifier, and a sentence about it."""
    for who, differences in of.baseline_differences.items():
        if _kind(differences[metric], metric) == "worse":
            label, value = inside_sentence(metric_label(metric)), decimals(of.baselines[who][metric].value)
            change = _said(differences[metric], signed=True)
            return who, f"But {who} has a {label} of {value} on {of.name}; the model differs from it by {change}."
    return None


def _not_judged(report: Report) -> str:
    """Return the clause, without a full stop, that there were no rows to evaluate the model on."""
    if report.is_language:
        return "there were neither dev nor test texts"
    needed = "labels" if report.is_classifier else "scores or labels"
    return f"there were neither dev nor test {report.row_word}s with {needed}"


def _judged(report: Report, of: SplitResult, metric: str) -> tuple[VerdictKind, str]:
    """Return the verdict by one metric; a new head has no scores before, so it is compared with another predictor."""
    before, after, difference = of.before[metric], of.after[metric], of.difference[metric]
    its = f"on {of.name} ({counted(of.n, of.unit or report.row_word)}) the {inside_sentence(metric_label(metric))}"
    said = f"{its} is {_said(after)}"
    if after.value is None:
        return "unknown", f"{its} is undefined ({after.reason or 'no reason was recorded'})."
    if before.value is None and not report.is_classifier:
        why = before.reason or "the base model was not scored on these pairs"
        return "unknown", f"{said}; there is nothing to compare it with ({why})."
    if metric not in of.before:
        return "unknown", f"{said}; there is nothing to compare it with."
    if before.value is None:
        why = before.reason or "no reason was recorded"
        return "unknown", f"{said}; that of {of.before_is} is undefined ({why})."
    kind, low, high = _kind(difference, metric), difference.low, difference.high
    zero = ", an interval that contains zero" if kind == "unclear" else ""
    change = _said(difference, signed=True)
    if report.is_classifier:
        said += f", that of {of.before_is} {decimals(before.value)}"
        if low is None or high is None:
            return kind, f"{said}; the difference has no interval, so it may be chance."
        return kind, f"{said}: a difference of {change}{zero}."
    rose = (kind == "better") != lower_is_better(metric)
    verb = "went" if kind == "unclear" else "rose" if rose else "fell"
    if low is None or high is None:
        zero = "; the change has no interval, so it may be chance"
    return kind, f"{its} {verb} from {decimals(before.value)} to {decimals(after.value)}, by {change}{zero}."


def lower_is_better(metric: str) -> bool:
    """Return whether the metric is a loss."""
    return metric in METRICS and METRICS[metric].lower_is_better


def _kind(difference: Score, metric: str) -> VerdictKind:
    if difference.low is not None and difference.low > 0:
        return "worse" if lower_is_better(metric) else "better"
    if difference.high is not None and difference.high < 0:
        return "better" if lower_is_better(metric) else "worse"
    return "unclear"


def _said(score: Score, *, signed: bool = False) -> str:
    cell = score_cell(score, signed=signed)
    return f"{cell.value} {cell.note}".strip()


def _in_short(of: SplitResult, metric: str) -> str:
    difference, now = of.difference[metric], of.after[metric]
    if difference.value is not None:
        return f"On {of.name} the difference is {_said(difference, signed=True)}."
    return f"On {of.name} it is {'undefined' if now.value is None else _said(now)}."


def score_cell(score: Score, *, signed: bool = False) -> Cell:
    """Return a metric with its interval, or a dash with the reason if it has no value."""
    if score.value is None:
        return Cell("–", f"undefined: {score.reason}" if score.reason else "not known")
    span = interval(score.low, score.high, signed=signed)
    return Cell(decimals(score.value, signed=signed), span or score.reason or "")


def scores_section(report: Report) -> Section:
    """Return the section with the measures of each split."""
    blocks: list[Block] = []
    for i, of in enumerate(report.results):
        blocks.append(Beside((_score_grid(report, of),), tuple(_interval_figure(i, report, of)), uneven=True))
        if of.by_width:
            blocks.append(_width_grid(of))
    if blocks:
        notes = (f"The {_rows_of(report, of)} of {of.name}: {of.note}." for of in report.results if of.note)
        meanings = [_MEANING + (_MEANING_OF_ORDER if report.has_next_sentence else "")] if report.is_language else []
        blocks += [Paragraph(note, is_note=True) for note in (*notes, *meanings, _interval_note(report))]
    else:
        blocks.append(Paragraph(f"{capitalised(_not_judged(report))}, so nothing was measured."))
    return Section("scores", "Scores and baselines" if report.is_classifier else "Scores before and after", blocks)


def _rows_of(report: Report, of: SplitResult) -> str:
    """Return the word for the rows of a split: pairs, texts, sequences or queries."""
    return counted(0, of.unit or report.row_word).removeprefix("0 ")


def _score_grid(report: Report, of: SplitResult) -> Grid:
    """Return the measures of a split: a row for each metric, or of a classifier a row for each predictor."""
    caption = f"{of.name}: {counted(of.n, of.unit or report.row_word)} of {of.source}"
    if report.is_classifier:
        return Grid(caption, ("Predictor", *map(metric_label, of.after)), tuple(_predictor_rows(of)))
    rows = []
    for metric, after in of.after.items():
        cells = [Cell(metric_label(metric)), score_cell(after)]
        if of.before:
            cells.insert(1, score_cell(of.before[metric]))
            cells.append(score_cell(of.difference[metric], signed=True))
        rows.append(tuple(cells))
    return Grid(caption, ("Measure", "Before", "After", "Difference") if of.before else ("Measure", "After"), rows)


def _width_grid(of: SplitResult) -> Grid:
    """Return the metrics of a split by the first features of the vectors, a row for each number of them."""
    names = [*next(iter(of.by_width.values()))["after"]]
    rows = [
        (
            Cell(f"{int(width):,}"),
            *(Cell(decimals(sides[side][name])) for name in names for side in ("before", "after")),
        )
        for width, sides in of.by_width.items()
    ]
    header = (f"{metric_label(name)} {side}" for name in names for side in ("before", "after"))
    return Grid(f"{of.name}, by the first features of the vectors", ("Features", *header), rows)


def _predictor_rows(of: SplitResult) -> Iterator[tuple[Cell, ...]]:
    """Yield a row for each predictor (the baselines and this classifier), and then the differences."""
    before_is = of.before_is or "before"
    predictors = {before_is: of.before} if of.before else {}
    predictors |= {who: scores for who, scores in of.baselines.items() if who != before_is}
    for who, scores in (*predictors.items(), ("This model", of.after)):
        yield Cell(capitalised(who)), *(score_cell(scores[metric]) for metric in of.after)
    for who, changes in ({before_is: of.difference} | of.baseline_differences).items():
        if changes:
            yield Cell("Difference", f"from {who}"), *(score_cell(changes[metric], signed=True) for metric in of.after)


def _interval_figure(number: int, report: Report, of: SplitResult) -> Iterator[Figure]:
    """Yield the charts of a split's measures with intervals; `number` makes their ids unique.

    A loss has a chart of its own, because its scale is not that of the other measures.
    """
    known = {metric: score for metric, score in of.after.items() if score.value is not None and metric != _NOT_DRAWN}
    losses = [metric for metric in known if lower_is_better(metric)]
    shared = [metric for metric in known if metric not in losses]
    for which, drawn in (("loss-intervals", losses), ("intervals", shared)):
        rows = [IntervalRow(metric_label(metric), of.before[metric], known[metric]) for metric in drawn]
        if not rows:
            continue
        # A new classifier has no scores before training: a baseline takes their place.
        is_new = report.is_classifier or of.before_is is not None
        names = (predictor_name(of), "this model") if is_new else ("before", "after")
        title = f"Loss on {of.name}" if drawn is losses else f"Measures on {of.name}"
        heading = title if drawn is losses else f"The measures on {of.name}"
        chart = interval_chart(f"{which}-{number}", title, rows, names)
        yield Figure(heading, chart, "Dots are values, lines their intervals.")


def predictor_name(of: SplitResult) -> str:
    """Return the name, in a legend, of the predictor that the model is compared with."""
    return fitting(of.before_is or "before", 0.8 * WIDTH)


def _interval_note(report: Report) -> str:
    """Return a sentence that explains the brackets."""
    settings = report.settings.evaluation
    rows = " and ".join(dict.fromkeys(_rows_of(report, of) for of in report.results))
    of = f"of {plain_number(settings.bootstrap_samples)} resamples"
    meaning = f"In brackets: the {100 * settings.confidence:g} % bootstrap interval {of}."
    compared = [split for split in report.results if split.before]
    if not compared:
        nothing = "There is nothing to compare it with"
        if not report.is_classifier:
            nothing = f"The base model was not scored on these {rows}"
        return f"{meaning} {nothing}, so there is no difference to show."
    paired = f"{meaning} The interval of a difference is paired: "
    if report.is_classifier:
        return f"{paired}both on the same resampled {rows}."
    before_is = next((split.before_is for split in report.results if split.before_is), None)
    both, each = ("both models", "each model") if before_is is None else ("both", "each")
    paired += f"{both} on the same resampled {rows}."
    if before_is is not None:
        paired = f"Before: {before_is}. After: this model. {paired}"
    if any("f1" in split.before for split in compared):
        paired += f" F1 and the measures after it: {each} with its own threshold."
    return paired
