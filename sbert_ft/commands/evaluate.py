"""`sbert-ft evaluate`: metrics of a model on labelled rows, or of two models and their difference, with intervals.

A sentence encoder and a classifier with one output are evaluated by their scores, other classifiers by their classes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sbert_ft.commands import evaluate_retrieval, options
from sbert_ft.commands.output import aligned, cell, metric_rows
from sbert_ft.errors import DataError, InputError, SbertFtError, quoted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sbert_ft.config.settings import EvaluationSettings, Reading
    from sbert_ft.data.dataset import ConnectionDataset
    from sbert_ft.model_folder.decision import Decision
    from sbert_ft.models.sentence_encoder import SentenceEncoder
    from sbert_ft.models.text_classifier import TextClassifier

    Scorer = SentenceEncoder | TextClassifier

logger = logging.getLogger(__name__)

# More classes do not fit in a line, and longer names do not fit above a column.
_MOST_COLUMNS = 20
_LONGEST_NAME = 24

_EPILOG = """\
examples:
  sbert-ft evaluate runs/first/model test.csv
  sbert-ft evaluate runs/first/model test.csv --against bert-base-uncased/ --json
  sbert-ft evaluate MODEL nli.tsv --columns premise,hypothesis --label-values entailment=1,contradiction=0
  sbert-ft evaluate CLASSIFIER reviews.csv --column document --classes negative,positive
  sbert-ft evaluate MODEL --queries queries.csv --corpus faq.csv --relevant relevant.csv --against OTHER

Metrics of graded pairs: Spearman's and Pearson's correlation; of yes/no pairs: average precision and ROC AUC. If
MODEL has a stored threshold, its decisions are evaluated too. Metrics of a classifier: accuracy, macro F1 and
Matthews' correlation (MCC), and those of each class; it is compared with OTHER, or else with the most common class of
DATA. Rows whose label is not one of its classes are left out and counted. Differences are MODEL minus OTHER, on the
same rows. Metrics of a search: nDCG, MRR, MAP and recall, by exact ranks in the whole corpus; files of BEIR and qrels
of TREC are read as they are, and queries without a relevant text are left out and counted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    options.add_model_argument(parser)
    add = parser.add_argument
    add("pairs", metavar="DATA", nargs="?", help="a file of pairs, or texts, with scores or labels")
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
    evaluate_retrieval.add_arguments(parser)
    options.add_reading_options(parser)
    options.add_computing_options(parser)
    options.add_truncate_dim_option(parser)


def run(args: argparse.Namespace) -> int:
    """Print the metrics and return the exit code."""
    reading = _reading(args)
    if not 1 <= args.samples <= 1_000_000:
        raise InputError(f"--samples is {args.samples}, expected a whole number from 1 to 1,000,000")
    from sbert_ft.config.settings import EvaluationSettings

    settings = EvaluationSettings(match_from=args.match_from, bootstrap_samples=args.samples)
    if evaluate_retrieval.is_wanted(args):
        report, lines = evaluate_retrieval.evaluate(args, settings)
        print(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) if args.json else lines)
        return 0
    classifier = None if args.as_encoder or not _is_classifier(args.model) else options.load_classifier(args)
    if classifier is not None:
        options.refuse_given(
            args, ("truncate_dim",), "is for sentence encoders, and MODEL is a classifier", "leave it out"
        )
    if classifier is not None and classifier.class_names:
        why = "is for scores, and MODEL is a classifier with classes"
        options.refuse_given(args, ("score_range", "match_from"), why, "leave it out")
        report = _evaluate_classes(args, classifier, reading, settings)
        lines = _class_table(report)
    else:
        why = "is for a classifier with classes, and MODEL is not one or --as-encoder is given"
        options.refuse_given(args, ("classes",), why, "leave it out")
        report = _evaluate_scores(args, classifier, reading, settings)
        lines = _table(report, "text" if classifier is not None and classifier.n_texts == 1 else "pair")
    print(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) if args.json else lines)
    return 0


def _is_classifier(folder: str) -> bool:
    from sbert_ft.model_folder.classifier import has_classifier

    return has_classifier(Path(folder))


def _evaluate_scores(
    args: argparse.Namespace, classifier: TextClassifier | None, reading: Reading, settings: EvaluationSettings
) -> dict[str, Any]:
    """Return the report on a model that gives scores: cosines, or those of a classifier with one output."""
    from sbert_ft.evaluation import pair_evaluator as on_pairs
    from sbert_ft.evaluation.evaluator import check_n_texts, joined
    from sbert_ft.models.sentence_encoder import SentenceEncoder

    dataset = _read_rows(args, reading)
    model: Scorer = options.load_model(args) if classifier is None else classifier
    other = None if args.against is None else _load_other(args)
    if classifier is not None:
        _check_n_texts(args, classifier, dataset)
    for scorer in (model, model if other is None else other):
        check_n_texts(dataset, min(dataset.n_texts, 2), getattr(scorer, "n_texts", 2))  # an encoder compares two
    if dataset.n_texts == 1 and dataset.labels is None:
        raise InputError(f"{quoted(dataset.source, limit=400)} has no scores", "name their column with --label-column")
    decision, match_from = model.decision, args.match_from
    if match_from is None and decision is not None and decision.scale == dataset.score_range is not None:
        match_from = decision.match_from  # the same pairs match as when the threshold was chosen
    pairs = on_pairs.evaluation_pairs("data", dataset, match_from)
    other_decision = None if other is None else other.decision
    _warn_of_own_rows(args.model, decision, dataset)
    _warn_of_own_rows(args.against, other_decision, dataset)

    def scores_of(scorer: Scorer) -> NDArray[np.float32]:
        stream = on_pairs.score_stream
        return joined(stream(scorer, pairs, args.batch_size, on_truncate=args.on_truncate, check_finite=True))

    scores = scores_of(model)
    chance = on_pairs.chance_cosine(model, dataset) if isinstance(model, SentenceEncoder) else None
    before = None if other is None else scores_of(other)
    result = on_pairs.evaluate_pairs(pairs, before, scores, settings, (other_decision, decision))
    if (doubt := on_pairs.doubt_of_labels(pairs, scores, settings)) is not None:
        logger.warning("%s", doubt)
    if chance is not None and chance >= on_pairs.COLLAPSED_COSINE:
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


def _read_rows(args: argparse.Namespace, reading: Reading) -> ConnectionDataset:
    """Return the rows of DATA; what is odd about them is logged."""
    from sbert_ft.data.dataset import ConnectionDataset

    dataset = ConnectionDataset.from_file(args.pairs, reading)
    for note in dataset.ledger.notes:
        logger.info("%s", note)
    return dataset


def _warn_of_own_rows(folder: str, decision: Decision | None, dataset: ConnectionDataset) -> None:
    """Warn, naming the model's folder, if its threshold was chosen on the same rows."""
    from sbert_ft.data.ledger import row_word
    from sbert_ft.evaluation.calibration import same_data

    if decision is not None and same_data(decision, dataset):
        logger.warning(
            "the threshold of %s was chosen on these very %ss: its precision, recall, F1 and accuracy are too good; "
            "evaluate it on others",
            quoted(folder, limit=400),
            row_word(dataset.n_texts),
        )


def _evaluate_classes(
    args: argparse.Namespace, model: TextClassifier, reading: Reading, settings: EvaluationSettings
) -> dict[str, Any]:
    """Return the report on a classifier with classes, which are set in `reading` here."""
    from sbert_ft.evaluation.calibration import class_probabilities
    from sbert_ft.evaluation.class_evaluator import evaluate_classes, evaluation_rows, logit_stream, majority_codes
    from sbert_ft.evaluation.evaluator import joined
    from sbert_ft.evaluation.metrics import label_metrics
    from sbert_ft.evaluation.results import MAJORITY_BASELINE

    names = _class_names(args, model)
    reading = dataclasses.replace(
        reading, label_kind="classes", classes=names if reading.label_values is None else None
    )
    other = None if args.against is None else _other_classifier(args, model, names)
    try:
        dataset = _read_rows(args, reading)
    except DataError:
        if reading.classes is not None:
            _check_names(args, names, dataclasses.replace(reading, classes=None))
        raise
    _check_n_texts(args, model, dataset)
    rows = evaluation_rows("data", dataset, names)
    majority = majority_codes(rows.gold, len(names), len(rows))
    before, before_is, baselines = majority, MAJORITY_BASELINE, {}
    # logits that are not finite are refused, with the row's line, where they are evaluated
    logits = joined(logit_stream(model, rows, args.batch_size, args.on_truncate))
    if other is not None:
        classifier, order = other
        found = joined(logit_stream(classifier, rows, args.batch_size, args.on_truncate))
        before, before_is = found[:, order].argmax(axis=1).astype("int64"), args.against
        baselines = {MAJORITY_BASELINE: majority}
    result = evaluate_classes(rows, before, before_is, logits, settings, baselines)
    match = None
    if model.decision is not None and model.n_outputs == 2:
        _warn_of_own_rows(args.model, model.decision, dataset)
        threshold, scores = model.decision.threshold, class_probabilities(logits)[:, 1].astype("float32")
        metrics = label_metrics(scores, rows.gold == 1, threshold)
        match = {"class": names[1], "threshold": threshold, "metrics": metrics.to_json(settings)}
    report = {
        "model": args.model,
        "kind": model.kind,
        "against": args.against,
        "before_is": result["before_is"],
        "data": {
            "source": dataset.source,
            "sha256": dataset.sha256,
            "n": len(dataset),
            "n_left_out": dataset.ledger.n_rows - len(dataset),
            "note": result.get("note"),
        },
        "metrics": result["after"],
        "against_metrics": result["before"],
        "difference": result["difference"],
    }
    kept = ("classes", "baselines", "baseline_differences", "per_class", "confusion", "log_loss", "calibration_error")
    return report | {key: result[key] for key in kept} | {"match": match}


def _check_n_texts(args: argparse.Namespace, model: TextClassifier, dataset: ConnectionDataset) -> None:
    """Check that a row of DATA has as many texts as the classifier needs, as `sbert-ft predict` does."""
    if dataset.n_texts != model.n_texts:
        n_texts = ("one text", "two texts", "three texts")
        found = f"a row of {quoted(dataset.source, limit=400)} has {n_texts[dataset.n_texts - 1]}"
        raise options.other_number(
            args, model, found, f"name {('one column', 'two columns')[model.n_texts - 1]} with --columns"
        )


def _check_names(args: argparse.Namespace, names: tuple[str, ...], every_class: Reading) -> None:
    """Raise an `InputError` if DATA can be read, but calls no class by one of these names."""
    from sbert_ft.data.dataset import ConnectionDataset

    try:
        found = ConnectionDataset.from_file(args.pairs, every_class).class_names
    except SbertFtError:
        return
    if set(found).isdisjoint(names):
        theirs, ours = (", ".join(map(quoted, classes[:_MOST_COLUMNS])) for classes in (found, names))
        example = f", such as --classes {','.join(found)}" if len(found) == len(names) else ""
        raise InputError(
            f"the labels of {quoted(args.pairs, limit=400)} are {theirs}, but the classes of "
            f"{quoted(args.model, limit=400)} are {ours}",
            f"say with --classes A,B,... what DATA calls them, in this order{example}",
        )


def _class_names(args: argparse.Namespace, model: TextClassifier) -> tuple[str, ...]:
    """Return the names of the model's classes in the file: those of --classes, or its own."""
    if args.classes is None:
        return model.class_names
    names = tuple(name.strip() for name in args.classes.split(","))
    if len(names) != model.n_outputs or len(set(names)) != len(names) or "" in names:
        its_own = ", ".join(map(quoted, model.class_names[:_MOST_COLUMNS]))
        raise InputError(
            f"--classes is {quoted(args.classes)}, expected {model.n_outputs} different names, one for each class of "
            f"the model in its order: {its_own}"
        )
    return names


def _other_classifier(
    args: argparse.Namespace, model: TextClassifier, names: tuple[str, ...]
) -> tuple[TextClassifier, NDArray[np.int64]]:
    """Return the classifier of OTHER, and the index of each class among its outputs, shape (K,)."""
    import numpy as np

    from sbert_ft.data.labels import class_key

    other = options.load_classifier(args, args.against)
    shown = quoted(args.against, limit=400)
    if other.n_texts != model.n_texts:
        kinds = f"{other.kind}, the model is of kind {model.kind}"
        raise InputError(
            f"{shown} is of kind {kinds}: their rows have different numbers of texts",
            "compare with one of a matching kind",
        )
    for classes in (model.class_names, names):
        keys = list(map(class_key, other.class_names))
        if set(keys) == set(map(class_key, classes)):
            return other, np.array([keys.index(class_key(name)) for name in classes], np.int64)
    theirs, ours = (", ".join(map(quoted, classes[:_MOST_COLUMNS])) for classes in (other.class_names, names))
    raise InputError(
        f"{shown} has {f'the classes {theirs}' if theirs else 'no classes'}, the model {ours}",
        "compare with a classifier of the same classes",
    )


def _class_table(report: dict[str, Any]) -> str:
    """Return the report on a classifier as aligned lines."""
    from sbert_ft.data.ledger import counted

    data, against = report["data"], report["against"]
    facts = [counted(data["n"], "row"), f"{len(report['classes'])} classes"]
    facts += [f"{data['n_left_out']:,} left out"] if data["n_left_out"] else []
    facts += [f"log loss {report['log_loss']:.4f}", f"calibration error {report['calibration_error']:.4f}"]
    head = "OTHER" if against is not None else report["before_is"]
    columns = [("MODEL", report["metrics"], ""), (head, report["against_metrics"], "")]
    columns.append(("difference", report["difference"], "+"))
    columns += [(name, scores, "") for name, scores in report["baselines"].items()]
    notes = [] if data["note"] is None else [data["note"]]
    parts = [[", ".join(facts), *notes, *aligned(metric_rows(*columns))], _class_lines(report)]
    match = report["match"]
    if match is not None:
        title = f"match: {quoted(match['class'])} from a probability of {match['threshold']:.4f}"
        parts.append([title, *aligned(metric_rows(("", match["metrics"], ""))[1:])])
    return "\n\n".join("\n".join(lines) for lines in [*parts, _confusion_lines(report)])


def _class_lines(report: dict[str, Any]) -> list[str]:
    rows = [["class", "rows", "predicted", "precision", "recall", "F1"]]
    for entry in report["per_class"]:
        shares = ["-" if entry[key] is None else f"{entry[key]:.4f}" for key in ("precision", "recall")]
        counts = [f"{entry[key]:,}" for key in ("n", "n_predicted")]
        rows.append([_short(entry["name"]), *counts, *shares, cell(entry["f1"])])
    return aligned(rows)


def _confusion_lines(report: dict[str, Any]) -> list[str]:
    names = [_short(name) for name in report["classes"]]
    if len(names) > _MOST_COLUMNS:
        return [f"the table of {len(names)} by {len(names)} predicted classes is in --json, as confusion"]
    heads = ["gold \\ predicted", *names]
    counts = [[f"{n:,}" for n in row] for row in report["confusion"]]
    return aligned([heads, *([name, *row] for name, row in zip(names, counts, strict=True))], right_from=1)


def _short(name: str) -> str:
    return quoted(name, limit=_LONGEST_NAME)[1:-1]
