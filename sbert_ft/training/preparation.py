"""A run before it starts: its pairs, its parts held against each other, and the plan.

Nothing is trained before objective, data and settings have been found to fit.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sbert_ft.config.settings import RunSettings
from sbert_ft.data.batch_order import fitting_batch_size
from sbert_ft.data.connection_dataset import ConnectionDataset
from sbert_ft.data.token_store import TokenizedConnections, tokenize_connections
from sbert_ft.errors import InputError
from sbert_ft.evaluation.judge import JudgingPairs, judging_pairs, same_gold_kind
from sbert_ft.model.siamese import SiameseBert
from sbert_ft.training.encoder_setup import check_encoder, frozen_parameters
from sbert_ft.training.objectives import Objective, build_objective, check_fits
from sbert_ft.training.optimizer import warmup_steps
from sbert_ft.training.plan import RunPlan, foresee, steps_by_epoch, training_dtype, training_layout
from sbert_ft.training.run_folder import Mode
from sbert_ft.training.tensorboard import check_tensorboard

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunData:
    """The pairs of a run.

    Attributes:
        train: To train on.
        dev: To choose the best step, threshold and calibration by; None for none.
        test: To judge only; None for none.
    """

    train: ConnectionDataset
    dev: ConnectionDataset | None = None
    test: ConnectionDataset | None = None

    def splits(self) -> dict[str, ConnectionDataset]:
        """Return the data sets that there are, by name."""
        named = {"train": self.train, "dev": self.dev, "test": self.test}
        return {name: dataset for name, dataset in named.items() if dataset is not None}

    def judging(self) -> ConnectionDataset:
        """Return what is judged on first: dev, else test, else the training pairs."""
        return self.dev or self.test or self.train

    def with_overlaps(self) -> RunData:
        """Return the same pairs, with overlaps between them counted in the ledgers."""
        others = {name: dataset for name, dataset in self.splits().items() if name != "train"}
        return replace(self, train=self.train.with_overlaps(**others)) if others else self


@dataclass(frozen=True)
class RunOptions:
    """How a run is started.

    Attributes:
        mode: ``new``, ``resume`` or ``overwrite``.
        allow_changes: Go on with other settings or data than the run began with.
        progress_bar: Whether to show one.
    """

    mode: Mode = "new"
    allow_changes: bool = False
    progress_bar: bool = False


@dataclass(frozen=True)
class FineTuneResult:
    """What a run left behind.

    Attributes:
        folder: The run's folder.
        metrics: The content of metrics.json.
        was_finished: Whether the run had come to its end before; then nothing was done.
    """

    folder: Path
    metrics: dict[str, Any] = field(repr=False)
    was_finished: bool = False

    @property
    def model_dir(self) -> Path:
        """The model's folder, to use and share."""
        return self.folder / "model"

    @property
    def report(self) -> Path:
        """The report, one file to open in a browser or send on."""
        return self.folder / "report.html"


@dataclass(frozen=True)
class PreparedRun:
    """A run whose parts have been found to fit each other.

    Attributes:
        model: The base model.
        data: The pairs.
        settings: As given, resolved.
        objective: The loss.
        metric: By which the best step is chosen, where there are dev pairs.
        judges: The pairs that judge, by name: dev, test.
        warnings: What was warned of on the way here.
    """

    model: SiameseBert
    data: RunData
    settings: RunSettings
    objective: Objective
    metric: str | None
    judges: dict[str, JudgingPairs]
    warnings: tuple[str, ...] = ()


def prepare(model: SiameseBert, data: RunData, settings: RunSettings) -> PreparedRun:
    """Return the run, checked as far as can be without training.

    Raises:
        InputError: Objective, data, encoder and settings do not fit each other.
        ResourceError: tensorboard is asked for and not installed.
    """
    objective = build_objective(settings.objective)
    data = data.with_overlaps()
    check_fits(objective, data.train)
    check_encoder(model.bert.encoder, settings)
    check_tensorboard(settings.training.tensorboard)
    judges = {
        name: judging_pairs(name, dataset, settings.evaluation.match_from)
        for name, dataset in data.splits().items()
        if name != "train"
    }
    metric = None
    if "dev" in judges:
        metric = settings.training.metric or judges["dev"].default_metric
        same_gold_kind(metric, judges["dev"])
    elif settings.training.metric or settings.training.early_stopping_patience or settings.training.eval_steps:
        raise InputError(
            "training.metric, early_stopping_patience and eval_steps need pairs to evaluate on; give data.dev or "
            "data.dev_share"
        )
    return PreparedRun(model, data, settings, objective, metric, judges)


def plan_run(run: PreparedRun, cache_dir: Path | None) -> tuple[RunPlan, TokenizedConnections]:
    """Return what the run is going to do, and its tokens, which are kept in `cache_dir`.

    Raises:
        InputError: An unknown precision.
        OutputError: The tokens cannot be written.
    """
    model, settings = run.model, run.settings.training
    tokens = tokenize_connections(run.data.train, model.tokenizer, model.max_seq_length, cache_dir)
    dtype = training_dtype(settings, model.device)
    text_rows = tokens.rows if run.objective.distinct_texts else None
    if text_rows is not None and (fitting := fitting_batch_size(settings.batch_size, text_rows)) < settings.batch_size:
        logger.warning(
            "batches have %d rows instead of %d: one text stands in so many rows, and no batch may hold a text twice",
            fitting,
            settings.batch_size,
        )
    by_epoch = steps_by_epoch(len(run.data.train), settings, text_rows)
    longest = min(int(tokens.lengths.max()), model.max_seq_length)
    micro_rows, fixed, batch = foresee(model.bert, tokens.row_lengths, longest, settings, dtype)
    plan = RunPlan(
        n_rows=len(run.data.train),
        n_texts=run.data.train.n_texts,
        steps_by_epoch=by_epoch,
        n_steps=sum(by_epoch),
        n_warmup=warmup_steps(sum(by_epoch), settings),
        micro_rows=micro_rows,
        autocast_dtype=dtype,
        layout=training_layout(model.bert),
        device=model.device,
        percentiles=tokens.percentiles(),
        n_cut=tokens.n_cut,
        max_seq_length=model.max_seq_length,
        fixed_bytes=fixed,
        batch_bytes=batch,
        n_frozen=sum(p.numel() for p in frozen_parameters(model.bert.encoder, run.settings.model)),
        patience=settings.early_stopping_patience,
    )
    return plan, tokens
