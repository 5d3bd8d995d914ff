"""`sbert-ft evaluate` for classifiers: compares predicted classes with those of labelled rows, as JSON or tables."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from typing import TYPE_CHECKING, Any

from sbert_ft.commands.options import load_classifier
from sbert_ft.commands.output import aligned, cell, metric_rows
from sbert_ft.errors import InputError, quoted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sbert_ft.config.settings import EvaluationSettings, Reading
    from sbert_ft.data.dataset import ConnectionDataset
    from sbert_ft.model_folder.decision import Decision
    from sbert_ft.models.classifier import ClassifierModel

logger = logging.getLogger(__name__)

# More classes do not fit in a line, and longer names do not fit above a column.
_MOST_COLUMNS = 20
_LONGEST_NAME = 24


def read_rows(args: argparse.Namespace, reading: Reading) -> ConnectionDataset:
    """Return the rows of DATA; what is odd about them is logged."""
    from sbert_ft.data.dataset import ConnectionDataset

    dataset = ConnectionDataset.from_file(args.pairs, reading)
    for note in dataset.ledger.notes:
        logger.info("%s", note)
    return dataset


def warn_of_own_rows(folder: str, decision: Decision | None, dataset: ConnectionDataset) -> None:
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


def evaluate_classes(
    args: argparse.Namespace, model: ClassifierModel, reading: Reading, settings: EvaluationSettings
) -> dict[str, Any]:
    """Return the report on a classifier with classes, which are set in `reading` here.

    Raises:
        SbertFtError: The file cannot be read, its labels are not the classes, or OTHER has other classes.
    """
    from sbert_ft.evaluation.calibration import class_probabilities
    from sbert_ft.evaluation.class_evaluator import evaluate_classes, evaluation_rows, logit_stream, majority_codes
    from sbert_ft.evaluation.evaluator import joined
    from sbert_ft.evaluation.metrics import label_metrics, scores_to_json
    from sbert_ft.evaluation.results import MAJORITY_BASELINE

    names = _class_names(args, model)
    reading = dataclasses.replace(
        reading, label_kind="classes", classes=names if reading.label_values is None else None
    )
    other = None if args.against is None else _other(args, model, names)
    dataset = read_rows(args, reading)
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
        warn_of_own_rows(args.model, model.decision, dataset)
        threshold, scores = model.decision.threshold, class_probabilities(logits)[:, 1].astype("float32")
        metrics = scores_to_json(label_metrics(scores, rows.gold == 1, threshold).with_intervals(settings))
        match = {"class": names[1], "threshold": threshold, "metrics": metrics}
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


def _class_names(args: argparse.Namespace, model: ClassifierModel) -> tuple[str, ...]:
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


def _other(
    args: argparse.Namespace, model: ClassifierModel, names: tuple[str, ...]
) -> tuple[ClassifierModel, NDArray[np.int64]]:
    """Return the classifier of OTHER, and the index of each class among its outputs, shape (K,)."""
    import numpy as np

    other = load_classifier(args, args.against)
    shown = quoted(args.against, limit=400)
    if other.n_texts != model.n_texts:
        kinds = f"{other.kind}, the model is of kind {model.kind}"
        raise InputError(
            f"{shown} is of kind {kinds}: their rows have different numbers of texts",
            "compare with one of a matching kind",
        )
    for classes in (model.class_names, names):
        if set(other.class_names) == set(classes):
            return other, np.array([other.class_names.index(name) for name in classes], np.int64)
    theirs, ours = (", ".join(map(quoted, classes[:_MOST_COLUMNS])) for classes in (other.class_names, names))
    raise InputError(
        f"{shown} has {f'the classes {theirs}' if theirs else 'no classes'}, the model {ours}",
        "compare with a classifier of the same classes",
    )


def class_table(report: dict[str, Any]) -> str:
    """Return the report on a classifier as aligned lines."""
    from sbert_ft.data.ledger import counted

    data, against = report["data"], report["against"]
    facts = [counted(data["n"], "row"), f"{len(report['classes'])} classes"]
    if data["n_left_out"]:
        facts.append(f"{data['n_left_out']:,} left out")
    facts.append(f"log loss {report['log_loss']:.4f}")
    facts.append(f"calibration error {report['calibration_error']:.4f}")
    head = "OTHER" if against is not None else report["before_is"]
    columns = [("MODEL", report["metrics"], ""), (head, report["against_metrics"], "")]
    columns.append(("difference", report["difference"], "+"))
    columns += [(name, scores, "") for name, scores in report["baselines"].items()]
    notes = [] if data["note"] is None else [data["note"]]
    parts = ["\n".join([", ".join(facts), *notes, *aligned(metric_rows(*columns))]), "\n".join(_class_lines(report))]
    match = report["match"]
    if match is not None:
        title = f"match: {quoted(match['class'])} from a probability of {match['threshold']:.4f}"
        parts.append("\n".join([title, *aligned(metric_rows(("", match["metrics"], ""))[1:])]))
    return "\n\n".join([*parts, "\n".join(_confusion_lines(report))])


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
