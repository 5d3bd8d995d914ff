"""What a run has come to: both models judged by the run's exam, the model saved, and all of it reported."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sbert_ft._version import library_versions
from sbert_ft.config.loader import run_to_json
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.data.token_store import TokenizedConnections
from sbert_ft.encoder.devices import describe_device
from sbert_ft.errors import quoted
from sbert_ft.files.atomic import write_json
from sbert_ft.report.write import Report, write_report
from sbert_ft.training.folder_watch import FolderWatch
from sbert_ft.training.plan import RunPlan
from sbert_ft.training.preparation import PreparedRun
from sbert_ft.training.progress import Progress
from sbert_ft.training.run_folder import RunFolder
from sbert_ft.training.run_log import read_log
from sbert_ft.training.warning_list import WarningList

logger = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True)
class Course:
    """How a run went.

    Attributes:
        plan: What was going to be done.
        tokens: Of the training rows.
        before: What the exam's `ask_base` returned before training.
        progress: What was done.
        ledgers: The account of every row.
    """

    plan: RunPlan
    tokens: TokenizedConnections
    before: Any
    progress: Progress
    ledgers: Mapping[str, Any]


def conclude(run: PreparedRun, course: Course, watch: FolderWatch, warnings: WarningList) -> dict[str, Any]:
    """Judge the tuned model, save it with its decision, write metrics.json and the report; return the metrics.

    Args:
        run: Its model is the tuned one.
        course: How it came about.
        watch: The run's folder, where all goes; looked at before anything is written there.
        warnings: What was warned of.

    Raises:
        OutputError: Something cannot be written.
    """
    plan, progress, folder = course.plan, course.progress, RunFolder(watch.path)
    marks = run.exam.mark(run.model, course.before)
    for sentence in marks.alarms:
        logger.warning("%s", sentence)
    watch.check()
    run.model.save_pretrained(folder.model_dir)
    best = {"step": progress.best_step, "metric": run.metric, "value": progress.best_value}
    metrics = {
        "format": FORMAT,
        "objective": [part.name for part in run.settings.objective],
        "device": describe_device(run.model.device),
        "precision": plan.precision,
        "plan": plan.describe(run.settings.training, run.objective.describe()),
        "versions": library_versions(),
        "seconds": progress.seconds,
        "steps": progress.step,
        "stopped_early": progress.stopped_early,
        "best": None if progress.best_step is None else best,
        "splits": marks.results,
        **marks.facts,
        "lengths": _lengths(course.tokens),
        # those of the result, and of pairs that judge and were trained on, stand here even where logging is off
        "warnings": list(
            dict.fromkeys([*marks.alarms, *_overlaps(run.data.train), *run.warnings, *warnings.sentences])
        ),
    }
    report = Report(
        title=f"Fine-tuning of {_name_of(run.settings.model.path)}",
        settings=run_to_json(run.settings),
        metrics=metrics,
        ledgers=course.ledgers,
        log=read_log(folder.log_file),
        splits=marks.splits,
        worst=marks.worst,
        decision=marks.decision,
        classes=marks.classes,
        mistakes=marks.mistakes,
    )
    watch.check()
    write_report(report, folder.path)
    watch.check()
    write_json(folder.metrics_file, metrics)
    return metrics


def _overlaps(train: ConnectionDataset) -> list[str]:
    """Return which training pairs are among the pairs that judge, too."""
    source = quoted(train.source, limit=400)
    return [f"{source}: {found.sentence}" for found in train.ledger.findings if found.kind.startswith("overlap_")]


def _lengths(tokens: TokenizedConnections) -> dict[str, Any]:
    """Return how long the training rows are, and what was cut of them or is not in the vocabulary."""
    return {
        "n_sequences": tokens.n_sequences * len(tokens),
        "n_cut_rows": tokens.n_cut_rows,
        "cut_share": tokens.cut_share,
        "unknown_share": tokens.n_unknown / tokens.n_own_tokens if tokens.n_own_tokens else 0.0,
        "percentiles": {str(share): n for share, n in tokens.percentiles().items()},
    }


def _name_of(path: str) -> str:
    return Path(path).resolve().name or path
