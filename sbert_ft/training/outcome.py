"""What a run has come to: both models judged, a decision chosen, the model saved, and all of it reported.

The threshold and the calibration are chosen on dev alone; test pairs only judge.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.reading import run_to_json
from sbert_ft.data.connection_dataset import ConnectionDataset
from sbert_ft.errors import quoted
from sbert_ft.evaluation.judge import alarms, chance_cosine, judge, score_pairs, split_scores, try_decision
from sbert_ft.evaluation.report import Report, WorstPair, worst_pairs, write_report
from sbert_ft.model.decision import Decision
from sbert_ft.model.devices import describe_device
from sbert_ft.training.comparison import library_versions
from sbert_ft.training.durable_files import write_json
from sbert_ft.training.plan import RunPlan
from sbert_ft.training.preparation import PreparedRun
from sbert_ft.training.progress import Progress
from sbert_ft.training.run_folder import RunFolder
from sbert_ft.training.run_log import read_log
from sbert_ft.training.warning_list import WarningList

logger = logging.getLogger(__name__)

N_WORST = 50
FORMAT = 1


@dataclass(frozen=True)
class Judgement:
    """What a model makes of the pairs that judge.

    Attributes:
        scores: Its cosines by the name of the pairs, shape (n,) each.
        chance: Mean cosine of texts put together by chance; None where there are too few.
    """

    scores: Mapping[str, NDArray[np.float32]]
    chance: float | None

    @classmethod
    def of(cls, run: PreparedRun) -> Judgement:
        """Return what the run's model, as it is, makes of the run's pairs."""
        scores = {name: score_pairs(run.model, pairs) for name, pairs in run.judges.items()}
        return cls(scores, chance_cosine(run.model, run.data.judging()))


def conclude(
    run: PreparedRun,
    plan: RunPlan,
    progress: Progress,
    before: Judgement,
    ledgers: Mapping[str, Any],
    folder: RunFolder,
    warnings: WarningList,
) -> dict[str, Any]:
    """Judge the tuned model, save it with its decision, write metrics.json and the report; return the metrics.

    Args:
        run: Its model is the tuned one.
        plan: What was going to be done.
        progress: What was.
        before: What the base model made of the pairs.
        ledgers: The account of every row.
        folder: Where all goes.
        warnings: What was warned of.

    Raises:
        OutputError: Something cannot be written.
    """
    after = Judgement.of(run)
    base_decision, decision = _decide(run, before, after)
    results = {
        name: judge(pairs, before.scores[name], after.scores[name], run.settings.evaluation, (base_decision, decision))
        for name, pairs in run.judges.items()
    }
    collapse = {"before": before.chance, "after": after.chance}
    found = alarms(results, run.metric or "spearman", collapse)
    if not run.judges:
        found.append("nothing judged the tuned model: give data.dev or data.dev_share, and data.test")
    for sentence in found:
        logger.warning("%s", sentence)

    scale = run.data.train.scale
    run.model.score_scale = (-1.0, 1.0) if scale is None else (scale.low, scale.high)
    run.model.decision = decision
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
        "splits": results,
        "decision": None if decision is None else decision.to_json(),
        "collapse": collapse,
        # those of the result, and of pairs that judge and were trained on, stand here even where logging is off
        "warnings": list(dict.fromkeys([*found, *_overlaps(run.data.train), *run.warnings, *warnings.sentences])),
    }
    report = Report(
        title=f"Fine-tuning of {_name_of(run.settings.model.path)}",
        settings=run_to_json(run.settings),
        metrics=metrics,
        ledgers=ledgers,
        log=read_log(folder.log_file),
        splits=tuple(
            split_scores(pairs, before.scores[name], after.scores[name]) for name, pairs in run.judges.items()
        ),
        worst=_worst(run, before, after),
        decision=decision,
    )
    write_report(report, folder.path)
    write_json(folder.metrics_file, metrics)
    return metrics


def _overlaps(train: ConnectionDataset) -> list[str]:
    """Return which training pairs are among the pairs that judge, too."""
    source = quoted(train.source, limit=400)
    return [f"{source}: {found.sentence}" for found in train.ledger.findings if found.kind.startswith("overlap_")]


def _decide(run: PreparedRun, before: Judgement, after: Judgement) -> tuple[Decision | None, Decision | None]:
    """Return the decisions of the base and of the tuned model, both chosen on the dev pairs."""
    if "dev" not in run.judges:
        return None, None
    settings, pairs = run.settings.evaluation, run.judges["dev"]
    decision = try_decision(after.scores["dev"], pairs, settings)
    if isinstance(decision, str):
        logger.warning("no threshold is stored: %s", decision)
        return None, None
    base = try_decision(before.scores["dev"], pairs, replace(settings, calibration="none"))
    return base if isinstance(base, Decision) else None, decision


def _worst(run: PreparedRun, before: Judgement, after: Judgement) -> tuple[WorstPair, ...]:
    """Return the pairs that the tuned model puts farthest from their place, of test where there is one."""
    name = "test" if "test" in run.judges else "dev"
    if name not in run.judges:
        return ()
    pairs = run.judges[name]
    firsts, seconds = zip(*pairs.texts(), strict=True)
    scores = split_scores(pairs, before.scores[name], after.scores[name])
    return worst_pairs(scores, firsts, seconds, pairs.lines, N_WORST)


def _name_of(path: str) -> str:
    return Path(path).resolve().name or path
