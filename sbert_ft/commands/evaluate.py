"""`sbert-ft evaluate`: what labelled pairs say of a model, alone or against another one, with intervals."""

from __future__ import annotations

import argparse
import json
import logging
from typing import TYPE_CHECKING, Any

from sbert_ft.commands.options import add_computing_options, add_model_argument, add_reading_options
from sbert_ft.errors import InputError, quoted

if TYPE_CHECKING:
    from sbert_ft.config.settings import Reading
    from sbert_ft.model.siamese import SiameseBert

logger = logging.getLogger(__name__)

_EPILOG = """\
examples:
  sbert-ft evaluate runs/first/model test.csv
  sbert-ft evaluate runs/first/model test.csv --against bert-base-uncased/ --json
  sbert-ft evaluate MODEL nli.tsv --columns premise,hypothesis --label-values entailment=1,contradiction=0

Graded pairs are judged by Spearman's and Pearson's correlation, yes/no pairs by average precision and ROC AUC, and
where MODEL has a stored threshold by its decisions too. Differences are MODEL minus OTHER, on the same pairs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    add_model_argument(parser)
    parser.add_argument("pairs", metavar="DATA", help="a file of pairs with scores or labels")
    parser.add_argument("--against", metavar="OTHER", help="folder of a model to compare with")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--columns", metavar="A,B", help="the two columns with the texts, where not customary")
    parser.add_argument("--label-column", metavar="NAME", help="the column with score or label, where not customary")
    parser.add_argument("--label-values", metavar="WORD=N,...", help="what labels mean; other rows are left out")
    parser.add_argument("--score-range", metavar="LOW,HIGH", help="of the scores' scale, where it is not plain")
    parser.add_argument("--match-from", type=float, metavar="SCORE", help="graded pairs match from here on")
    parser.add_argument("--on-bad-row", choices=("error", "skip"), default="error", help="default: error")
    parser.add_argument("--samples", type=int, default=1000, metavar="N", help="bootstrap resamples; default 1000")
    add_reading_options(parser)
    add_computing_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the metrics and return the exit code."""
    reading = _reading(args)
    if not 1 <= args.samples <= 1_000_000:
        raise InputError(f"--samples is {args.samples}, expected a whole number from 1 to 1,000,000")
    from sbert_ft.config.settings import EvaluationSettings
    from sbert_ft.data.connection_dataset import ConnectionDataset
    from sbert_ft.evaluation.decision import same_data
    from sbert_ft.evaluation.judge import COLLAPSED_COSINE, chance_cosine, judge, judging_pairs

    dataset = ConnectionDataset.from_file(args.pairs, reading)
    for note in dataset.ledger.notes:
        logger.info("%s", note)
    settings = EvaluationSettings(match_from=args.match_from, bootstrap_samples=args.samples)
    model = _load(args, args.model)
    other = None if args.against is None else _load(args, args.against)
    decision = model.decision
    match_from = args.match_from
    scale = None if dataset.scale is None else (dataset.scale.low, dataset.scale.high)
    if match_from is None and decision is not None and scale is not None and decision.scale == scale:
        match_from = decision.match_from  # the same pairs match as when the threshold was chosen
    pairs = judging_pairs("data", dataset, match_from)
    other_decision = None if other is None else other.decision
    for folder, its_decision in ((args.model, decision), (args.against, other_decision)):
        if its_decision is not None and same_data(its_decision, dataset):
            logger.warning(
                "the threshold of %s was chosen on these very pairs: its precision, recall, F1 and accuracy are too "
                "good; judge it by others",
                quoted(folder, limit=400),
            )
    scores = _scores(model, pairs, args)
    chance = chance_cosine(model, dataset)
    before = None if other is None else _scores(other, pairs, args)
    result = judge(pairs, before, scores, settings, (other_decision, decision))
    if chance is not None and chance >= COLLAPSED_COSINE:
        logger.warning(
            "texts put together by chance have a mean cosine of %.2f: the model hardly tells texts apart", chance
        )
    report: dict[str, Any] = {
        "model": args.model,
        "against": args.against,
        "data": {"source": dataset.source, "sha256": dataset.sha256, "n": len(pairs), "note": pairs.note},
        "chance_cosine": chance,
        "threshold": None if decision is None else decision.threshold,
        "metrics": result["after"],
    }
    if before is not None:
        report |= {"against_metrics": result["before"], "difference": result["difference"]}
    print(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) if args.json else _table(report))
    return 0


def _reading(args: argparse.Namespace) -> Reading:
    """Return how the file is read, as the options say.

    Raises:
        InputError: An option is not of the form that its help shows.
    """
    from sbert_ft.config.settings import Reading

    return Reading(
        text_columns=None if args.columns is None else tuple(args.columns.split(",")),
        label_column=args.label_column,
        label_values=None if args.label_values is None else _label_values(args.label_values),
        score_range=None if args.score_range is None else _score_range(args.score_range),
        encoding=args.encoding,
        delimiter=args.delimiter,
        kind=args.kind,
        on_bad_row=args.on_bad_row,
    )


def _label_values(text: str) -> dict[str, float]:
    values = {}
    for part in text.split(","):
        word, number = (side.strip() for side in part.rpartition("=")[::2])
        try:
            value = float(number)
        except ValueError:
            word = ""
        if not word:
            raise InputError(f"--label-values: {quoted(part)} is not of the form WORD=NUMBER, such as entailment=1")
        if word in values:
            raise InputError(f"--label-values: {quoted(word)} is given twice")
        values[word] = value
    return values


def _score_range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise InputError(f"--score-range is {quoted(text)}, expected LOW,HIGH such as 0,5") from None
    if not low < high:
        raise InputError(f"--score-range is {quoted(text)}, expected the lower end first, such as 0,5")
    return low, high


def _load(args: argparse.Namespace, folder: str) -> SiameseBert:
    from sbert_ft.model.siamese import SiameseBert

    return SiameseBert.from_pretrained(folder, args.device, args.precision, args.max_seq_length)


def _scores(model: SiameseBert, pairs: Any, args: argparse.Namespace) -> Any:
    return model.score(pairs.texts(), args.batch_size, on_truncate=args.on_truncate)


def _table(report: dict[str, Any]) -> str:
    """Return the metrics as aligned lines, with intervals."""
    from sbert_ft.data.ledger import counted

    compared = "difference" in report
    heads = ["", "MODEL", *(["OTHER", "difference"] if compared else [])]
    rows = [heads]
    for name, score in report["metrics"].items():
        cells = [name.replace("_", " "), _cell(score)]
        if compared:
            cells += [_cell(report["against_metrics"].get(name)), _cell(report["difference"].get(name), "+")]
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    threshold = report["threshold"]
    facts = [counted(report["data"]["n"], "pair")]
    if threshold is not None:
        facts.append(f"threshold {threshold:.4f}")
    if report["chance_cosine"] is not None:
        facts.append(f"chance pairs have a mean cosine of {report['chance_cosine']:.4f}")
    notes = [] if report["data"]["note"] is None else [report["data"]["note"]]
    return "\n".join([", ".join(facts), *notes, *lines])


def _cell(score: dict[str, Any] | None, sign: str = "") -> str:
    if score is None:
        return "-"
    if score["value"] is None:
        return f"none: {score['reason']}"
    if score["low"] is None:
        return f"{score['value']:{sign}.4f}"
    return f"{score['value']:{sign}.4f} ({score['low']:{sign}.4f} to {score['high']:{sign}.4f})"
