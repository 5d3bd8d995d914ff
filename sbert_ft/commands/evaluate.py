"""`sbert-ft evaluate`: metrics of a model on labelled rows, or of two models and their difference, with intervals.

A sentence encoder and a classifier with one output are evaluated by their scores. Classifiers with classes are
evaluated in `evaluate_classes`.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbert_ft.commands import options
from sbert_ft.commands.evaluate_classes import class_table, evaluate_classes, read_rows, warn_of_own_rows
from sbert_ft.commands.output import aligned, metric_rows
from sbert_ft.errors import InputError, quoted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sbert_ft.config.settings import EvaluationSettings, Reading
    from sbert_ft.models.classifier import ClassifierModel
    from sbert_ft.models.siamese import SiameseBert

    Scorer = SiameseBert | ClassifierModel

logger = logging.getLogger(__name__)

_EPILOG = """\
examples:
  sbert-ft evaluate runs/first/model test.csv
  sbert-ft evaluate runs/first/model test.csv --against bert-base-uncased/ --json
  sbert-ft evaluate MODEL nli.tsv --columns premise,hypothesis --label-values entailment=1,contradiction=0
  sbert-ft evaluate CLASSIFIER reviews.csv --column document --classes negative,positive

Metrics of graded pairs: Spearman's and Pearson's correlation; of yes/no pairs: average precision and ROC AUC. If
MODEL has a stored threshold, its decisions are evaluated too. Metrics of a classifier: accuracy, macro F1 and
Matthews' correlation (MCC), and those of each class; it is compared with OTHER, or else with the most common class of
DATA. Rows whose label is not one of its classes are left out and counted. Differences are MODEL minus OTHER, on the
same rows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    options.add_model_argument(parser)
    add = parser.add_argument
    add("pairs", metavar="DATA", help="a file of pairs, or texts, with scores or labels")
    add("--against", metavar="OTHER", help="folder of a model to compare with")
    add("--json", action="store_true", help="print JSON")
    options.add_columns_option(parser)
    add("--label-column", metavar="NAME", help="the column with the score or label, if it has no usual name")
    add("--label-values", metavar="WORD=N,...", help="what labels mean; other rows are left out")
    add("--score-range", metavar="LOW,HIGH", help="lowest and highest score of the scale, if it cannot be detected")
    add("--match-from", type=float, metavar="SCORE", help="graded pairs with at least this score match")
    add("--on-bad-row", choices=("error", "skip"), default="error", help="default: error")
    add("--samples", type=int, default=1000, metavar="N", help="bootstrap resamples; default 1000")
    add = parser.add_argument_group("classifiers").add_argument
    add("--classes", metavar="A,B,...", help="what DATA calls the classes of MODEL, in MODEL's order")
    add("--as-encoder", action="store_true", help="evaluate the cosine of a classifier's encoder instead")
    options.add_classifier_option(parser)
    options.add_reading_options(parser)
    options.add_computing_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the metrics and return the exit code."""
    reading = _reading(args)
    if not 1 <= args.samples <= 1_000_000:
        raise InputError(f"--samples is {args.samples}, expected a whole number from 1 to 1,000,000")
    from sbert_ft.config.settings import EvaluationSettings

    settings = EvaluationSettings(match_from=args.match_from, bootstrap_samples=args.samples)
    classifier = None if args.as_encoder or not _is_classifier(args.model) else options.load_classifier(args)
    if classifier is not None and classifier.class_names:
        why = "is for scores, and MODEL is a classifier with classes"
        options.refuse_given(args, ("score_range", "match_from"), why, "leave it out")
        report = evaluate_classes(args, classifier, reading, settings)
        lines = class_table(report)
    else:
        why = "is for a classifier with classes, and MODEL is not one or --as-encoder is given"
        options.refuse_given(args, ("classes",), why, "leave it out")
        report = _evaluate_scores(
            args, options.load_model(args) if classifier is None else classifier, reading, settings
        )
        lines = _table(report, "text" if classifier is not None and classifier.n_texts == 1 else "pair")
    print(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) if args.json else lines)
    return 0


def _is_classifier(folder: str) -> bool:
    from sbert_ft.model_folder.classifier import has_classifier

    return has_classifier(Path(folder))


def _evaluate_scores(
    args: argparse.Namespace, model: Scorer, reading: Reading, settings: EvaluationSettings
) -> dict[str, Any]:
    """Return the report on a model that gives scores: cosines, or those of a classifier with one output."""
    from sbert_ft.evaluation.evaluator import check_n_texts, joined
    from sbert_ft.evaluation.pair_evaluator import (
        COLLAPSED_COSINE,
        chance_cosine,
        evaluate_pairs,
        evaluation_pairs,
        score_stream,
    )
    from sbert_ft.models.siamese import SiameseBert

    dataset = read_rows(args, reading)
    other = None if args.against is None else _load_other(args)
    for scorer in (model, other or model):
        check_n_texts(dataset, min(dataset.n_texts, 2), getattr(scorer, "n_texts", 2))  # an encoder compares two
    if dataset.n_texts == 1 and dataset.labels is None:
        raise InputError(f"{quoted(dataset.source, limit=400)} has no scores", "name their column with --label-column")
    decision, match_from = model.decision, args.match_from
    if match_from is None and decision is not None and decision.scale == dataset.score_range is not None:
        match_from = decision.match_from  # the same pairs match as when the threshold was chosen
    pairs = evaluation_pairs("data", dataset, match_from)
    other_decision = None if other is None else other.decision
    warn_of_own_rows(args.model, decision, dataset)
    warn_of_own_rows(args.against, other_decision, dataset)

    def scores_of(scorer: Scorer) -> NDArray[np.float32]:
        return joined(score_stream(scorer, pairs, args.batch_size, on_truncate=args.on_truncate, check_finite=True))

    scores = scores_of(model)
    chance = chance_cosine(model, dataset) if isinstance(model, SiameseBert) else None
    before = None if other is None else scores_of(other)
    result = evaluate_pairs(pairs, before, scores, settings, (other_decision, decision))
    if chance is not None and chance >= COLLAPSED_COSINE:
        logger.warning("random pairs of texts have a mean cosine of %.2f: the model hardly tells texts apart", chance)
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
    return report


def _reading(args: argparse.Namespace) -> Reading:
    """Return the settings for reading the file, from the options."""
    from sbert_ft.config.settings import Reading

    return Reading(
        text_columns=None if args.columns is None else tuple(args.columns),
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


def _load_other(args: argparse.Namespace) -> Scorer:
    """Return the model of OTHER: a classifier with one output, or an encoder."""
    if args.as_encoder or not _is_classifier(args.against):
        return options.load_model(args, args.against)
    other = options.load_classifier(args, args.against)
    if other.class_names:
        raise InputError(
            f"{quoted(args.against, limit=400)} is a classifier with classes, which have no order for comparing scores",
            "compare with an encoder or a classifier with one output, or evaluate its encoder with --as-encoder",
        )
    return other


def _table(report: dict[str, Any], unit: str) -> str:
    """Return the metrics as aligned lines, with intervals; `unit` is the word for a row."""
    from sbert_ft.data.ledger import counted

    columns = [("MODEL", report["metrics"], "")]
    if "difference" in report:
        columns += [("OTHER", report["against_metrics"], ""), ("difference", report["difference"], "+")]
    facts = [counted(report["data"]["n"], unit)]
    if report["threshold"] is not None:
        facts.append(f"threshold {report['threshold']:.4f}")
    if report["chance_cosine"] is not None:
        facts.append(f"chance pairs have a mean cosine of {report['chance_cosine']:.4f}")
    notes = [] if report["data"]["note"] is None else [report["data"]["note"]]
    return "\n".join([", ".join(facts), *notes, *aligned(metric_rows(*columns))])
