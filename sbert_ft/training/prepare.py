"""Prepare a run before it starts: its data, and the checks that its parts fit each other.

Training starts only after objective, data and settings have passed these checks.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sbert_ft.config.objectives import HeadToTrain
from sbert_ft.config.settings import RunSettings
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.encoder.devices import to_device
from sbert_ft.errors import InputError, quoted
from sbert_ft.evaluation.class_evaluator import ClassEvaluator, names_of_classes
from sbert_ft.evaluation.evaluator import Evaluator
from sbert_ft.evaluation.pair_evaluator import PairEvaluator
from sbert_ft.models.classifier import ClassifierModel, TrainableModel
from sbert_ft.training.objectives import Objective, build_objective, check_fits
from sbert_ft.training.run_folder import Mode
from sbert_ft.training.run_log import check_tensorboard
from sbert_ft.training.tokenized_dataset import Joining
from sbert_ft.training.trainable_model import check_encoder, frozen_parameters

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunData:
    """The pairs of a run.

    Attributes:
        train: The training pairs.
        dev: Pairs for choosing the best step, threshold and calibration; may be None.
        test: Pairs used for the final evaluation only; may be None.
    """

    train: ConnectionDataset
    dev: ConnectionDataset | None = None
    test: ConnectionDataset | None = None

    def splits(self) -> dict[str, ConnectionDataset]:
        """Return the data sets that are not None, by name."""
        named = {"train": self.train, "dev": self.dev, "test": self.test}
        return {name: dataset for name, dataset in named.items() if dataset is not None}

    def with_overlaps(self) -> RunData:
        """Return the same pairs, with overlaps between the splits counted in the ledger of the training pairs."""
        others = {name: dataset for name, dataset in self.splits().items() if name != "train"}
        return replace(self, train=self.train.with_overlaps(**others)) if others else self


@dataclass(frozen=True)
class RunOptions:
    """How a run is started.

    Attributes:
        mode: ``new``, ``resume`` or ``overwrite``.
        allow_changes: Whether to resume with other settings or data than the run started with.
        progress_bar: Whether to show a progress bar.
    """

    mode: Mode = "new"
    allow_changes: bool = False
    progress_bar: bool = False


@dataclass(frozen=True)
class FineTuneResult:
    """The result of a run.

    Attributes:
        folder: The run's folder.
        metrics: The content of metrics.json.
        was_finished: Whether the run was already finished; then nothing was done.
    """

    folder: Path
    metrics: dict[str, Any] = field(repr=False)
    was_finished: bool = False

    @property
    def model_dir(self) -> Path:
        """The folder of the tuned model, to use and share."""
        return self.folder / "model"

    @property
    def report(self) -> Path:
        """The report, a single HTML file."""
        return self.folder / "report.html"


@dataclass(frozen=True)
class PreparedRun:
    """A run whose parts have been checked to fit each other.

    Attributes:
        model: The base model; a classifier has its head.
        data: The pairs.
        settings: The resolved settings.
        objective: The loss.
        evaluator: Evaluates the result, and has the metric for choosing the best step.
        warnings: Warnings logged during preparation.
    """

    model: TrainableModel
    data: RunData
    settings: RunSettings
    objective: Objective
    evaluator: Evaluator
    warnings: tuple[str, ...] = ()

    @property
    def metric(self) -> str | None:
        """The metric for choosing the best step; None without dev pairs."""
        return self.evaluator.metric


def prepare(model: TrainableModel, data: RunData, settings: RunSettings) -> PreparedRun:
    """Return the run, after all checks that need no training.

    A classifier whose head is for other classes than those of the training rows gets a new head.

    Raises:
        InputError: Objective, data, encoder and settings do not fit each other.
        ResourceError: training.tensorboard is set, but tensorboard is not installed.
    """
    data = data.with_overlaps()
    _check_rows(model, data)
    check_fits(settings.objective, data.train)
    check_encoder(model.bert.encoder, settings)
    check_tensorboard(settings.training.tensorboard)
    head, had_head = None, False
    if isinstance(model, ClassifierModel):
        had_head = _with_head(model, data.train, settings)
        _check_something_is_trained(model, settings)
        head = _head_of(model, data.train)
    evaluator: Evaluator
    if isinstance(model, ClassifierModel) and model.n_outputs > 1:
        evaluator = ClassEvaluator.of(data.splits(), model, settings, had_head)
    else:
        evaluator = PairEvaluator.of(data.splits(), settings)
    return PreparedRun(model, data, settings, build_objective(settings.objective, head), evaluator)


def _check_rows(model: TrainableModel, data: RunData) -> None:
    """Check that the rows have as many texts as the model needs.

    Raises:
        InputError: They have more or fewer.
    """
    for name, dataset in data.splits().items():
        found = ("one text", "two texts", "three texts")[dataset.n_texts - 1]
        shown = quoted(dataset.source, limit=400)
        if isinstance(model, ClassifierModel) and dataset.n_texts != model.n_texts:
            wanted = ("one text", "two texts")[model.n_texts - 1]
            raise InputError(
                f"{shown}: a row has {found}, and a classifier of kind {model.kind} takes {wanted}",
                "name the columns with data.text_columns, or use another model.kind",
            )
        if (
            not isinstance(model, ClassifierModel) and dataset.n_texts == 1 and name != "train"
        ):  # `check_fits` checks train
            raise InputError(
                f"{shown}: a row has {found}, but a sentence encoder is evaluated on pairs", "name two columns"
            )


def _with_head(model: ClassifierModel, train: ConnectionDataset, settings: RunSettings) -> bool:
    """Return whether the model had a head for the classes of the training rows; otherwise give it a new one."""
    classes = train.class_names if settings.objective[0].name == "softmax" else None
    if model.head is not None:
        # in the head's own order, which another tool may have chosen
        if sorted(names_of_classes(model)) == sorted(classes or ()):
            return True
        logger.warning("the classifier's head is for other classes than the training rows have: a new head is created")
    model.start_head(classes, settings.training.seed)
    return False


def _check_something_is_trained(model: ClassifierModel, settings: RunSettings) -> None:
    """Check that some weights of the classifier are trained; with a frozen encoder, the head may be.

    Raises:
        InputError: Encoder and head are frozen.
    """
    assert model.head is not None
    n_frozen = len(frozen_parameters(model.bert.encoder, settings.model))
    if n_frozen == len(list(model.bert.encoder.parameters())) and not any(
        parameter.requires_grad for parameter in model.head.parameters()
    ):
        raise InputError("every weight is frozen, the head's by requires_grad", "leave some to train")


def _head_of(model: ClassifierModel, train: ConnectionDataset) -> HeadToTrain:
    """Return the head with balanced class weights: n / (K * n_class), as in scikit-learn."""
    assert model.head is not None
    if model.n_outputs == 1:
        return HeadToTrain(model.head)
    counts = np.bincount(train.class_codes(names_of_classes(model)), minlength=model.n_outputs)
    weights = len(train) / (model.n_outputs * np.maximum(counts, 1))
    return HeadToTrain(model.head, to_device(torch.from_numpy(weights.astype(np.float32)), model.device))


def training_targets(run: PreparedRun) -> NDArray[np.float32] | None:
    """Return the targets, shape (N,): class numbers, or scores (0 to 1 for a classifier), or None without labels."""
    train, model = run.data.train, run.model
    if not isinstance(model, ClassifierModel):
        return train.targets()
    if model.n_outputs > 1:
        return train.class_codes(names_of_classes(model)).astype(np.float32)
    targets = train.targets()
    if targets is None or train.scale is None or not train.scale.is_cosine:
        return targets
    return ((targets + 1) / 2).astype(np.float32)


def joining_of(model: TrainableModel) -> Joining | None:
    """Return how the model joins the two texts of a row; None if it encodes each text separately."""
    return Joining(model.truncation) if isinstance(model, ClassifierModel) and model.kind == "joined" else None
