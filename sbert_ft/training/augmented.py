"""A run with a joined classifier as its teacher: the encoder learns gold pairs and silver ones, which it has labelled.

Augmented SBERT (Thakur et al. 2021, Augmented SBERT, section 3). Four stages follow each other, each in the run's
folder and each with one model in memory: the encoder learns the gold pairs alone (`gold/`, a whole run); the teacher
learns them too, where none is given (`teacher/`, a whole run); the tuned encoder finds pairs of texts and the teacher
labels them (`silver.csv`); the encoder learns gold and silver from its first weights on. The better of the two
encoders by dev is the run's model. A run that ends in any stage goes on there. The cost is that of both smaller runs,
and of one pass of the teacher over the silver pairs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from sbert_ft.config.loader import check_settings, run_to_json
from sbert_ft.config.metrics import choosing_metrics
from sbert_ft.config.objectives import OBJECTIVES, ObjectiveSettings
from sbert_ft.config.settings import ModelSettings, RunSettings, TrainingSettings
from sbert_ft.data.corpus import TextCorpus
from sbert_ft.data.ledger import counted
from sbert_ft.encoder.ranks import Ranks
from sbert_ft.errors import InputError, RunFolderError, enumerated, quoted, shown
from sbert_ft.files.atomic import write_json
from sbert_ft.model_folder.classifier import has_classifier
from sbert_ft.models.classifier import TrainableModel
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.training.gold_alone import GoldAlone
from sbert_ft.training.interruption import interruptible, memory_named
from sbert_ft.training.prepare import PreparedRun, RunData, RunOptions, prepare
from sbert_ft.training.run import FineTuneResult, check_inputs_stay, run_training
from sbert_ft.training.run_folder import SUB_RUNS, RunFolder, content_of, open_run_folder, remove_run
from sbert_ft.training.run_log import warnings_kept
from sbert_ft.training.silver import Silver, SilverSource, check_teacher, silver_of_run

logger = logging.getLogger(__name__)

_GOLD, _TEACHER = SUB_RUNS
# The objectives that learn from pairs with scores or with labels 0 and 1, of which silver pairs are more.
OBJECTIVES_OF_SILVER = tuple(
    name
    for name, kind in OBJECTIVES.items()
    if 2 in kind.rows.n_texts and {"score", "binary"}.issuperset(kind.rows.label_kinds) and not kind.of_classifier
)


def labels_pairs(settings: RunSettings) -> bool:
    """Return whether a run has a teacher that labels pairs: a classifier, or none yet.

    Objectives that learn from vectors have a sentence encoder as teacher.

    Raises:
        ModelFolderError: The teacher's folder cannot be read.
    """
    teacher = settings.teacher
    if teacher is None or any(OBJECTIVES[part.name].teacher != "never" for part in settings.objective):
        return False
    return teacher.path is None or has_classifier(Path(teacher.path))


def check_augmented(settings: RunSettings, data: RunData) -> None:
    """Check, before anything is trained, that silver pairs can be made for a run and judged.

    Raises:
        InputError: Objective or labels do not fit, there are no dev pairs, or as in `check_teacher`.
        ModelFolderError: As in `check_teacher`.
        DataError: The file of further texts is not there, or has no column of texts.
    """
    others = [part.name for part in settings.objective if part.name not in OBJECTIVES_OF_SILVER]
    if others:
        raise InputError(
            f"a teacher of kind joined gives pairs scores or labels 0 and 1, which objective {others[0]} does not take",
            f"use {enumerated(OBJECTIVES_OF_SILVER)}, or leave teacher out",
        )
    train = data.train
    if train.n_texts != 2 or train.labels is None or train.label_kind == "classes" or np.ptp(train.labels) == 0:
        raise InputError(
            f"{quoted(train.source, limit=400)}: a teacher of kind joined learns from pairs with scores, or with both "
            f"labels 0 and 1; found {train!r}",
            "give such pairs, or leave teacher out",
        )
    if data.dev is None or data.dev.labels is None:
        raise InputError(
            "a teacher of kind joined needs labelled dev pairs, by which the better of gold alone and gold and silver "
            "is chosen",
            "give data.dev or data.dev_share",
        )
    assert settings.teacher is not None
    if settings.teacher.path is not None:
        check_teacher(Path(settings.teacher.path))
    if settings.teacher.texts is not None:
        TextCorpus(settings.teacher.texts)  # the file and its columns are there


def gold_settings(settings: RunSettings) -> RunSettings:
    """Return the settings of the run on gold pairs alone, in the folder of the run."""
    return replace(settings, teacher=None, output_dir=str(Path(settings.output_dir) / _GOLD))


def teacher_settings(settings: RunSettings) -> RunSettings:
    """Return the settings of the run that trains the teacher, from the same base model and pairs.

    Its length is that of its folder, since it reads both texts of a pair at once. Steps, rate, batch and evaluations
    are its own.
    """
    wanted, training = settings.teacher, settings.training
    assert wanted is not None
    own = TrainingSettings()
    of_relevance = training.metric in choosing_metrics("relevance")
    return check_settings(
        replace(
            settings,
            model=ModelSettings(settings.model.path, "joined", settings.model.init, dropout=settings.model.dropout),
            data=replace(settings.data, prompts=None, retrieval=None, negatives=None),
            objective=(ObjectiveSettings("binary_cross_entropy"),),
            training=replace(
                training,
                epochs=wanted.epochs,
                learning_rate=wanted.learning_rate,
                batch_size=wanted.batch_size,
                metric=None if of_relevance else training.metric,
                **{
                    name: getattr(own, name)
                    for name in ("max_steps", "eval_steps", "accumulation_steps", "schedule", "warmup_steps")
                },
            ),
            teacher=None,
            output_dir=str(Path(settings.output_dir) / _TEACHER),
        )
    )


def describe_augmented(settings: RunSettings, data: RunData) -> list[str]:
    """Return what a run with a teacher does, beside its plan on gold pairs, as a few lines of text."""
    wanted = settings.teacher
    assert wanted is not None
    of_teacher = teacher_settings(settings)
    trained = (
        f"a joined classifier is trained in {quoted(of_teacher.output_dir, limit=400)} ({wanted.epochs} epochs, batch "
        f"{wanted.batch_size}, rate {wanted.learning_rate:g})"
    )
    n_texts = f"{counted(data.train.n_distinct, 'text')}{'' if wanted.texts is None else ' and those of teacher.texts'}"
    return [
        f"this plan is that of gold pairs alone, in {quoted(gold_settings(settings).output_dir, limit=400)}",
        f"teacher: {trained if wanted.path is None else quoted(wanted.path, limit=400)}",
        f"silver pairs: {wanted.sampling}, up to {wanted.pairs_per_text} of each way for each of {n_texts}",
        "then gold and silver pairs are trained on, and the better model by dev is kept",
    ]


def run_augmented(
    settings: RunSettings,
    data: RunData,
    start: Callable[[RunSettings], TrainableModel],
    options: RunOptions,
    ranks: Ranks,
) -> FineTuneResult:
    """Carry out a run with a joined teacher in its folder, or go on with it.

    Where torchrun has started several processes, all of them call it; the first one makes the silver pairs alone.

    Args:
        settings: Of the run; `labels_pairs` is true of it.
        data: The gold pairs, dev and test.
        start: Returns the model that settings name, with its first weights; called for each training.
        options: How the run is started.
        ranks: The processes of the run, joined already.

    Raises:
        InputError, ModelFolderError: As in `check_augmented` and `prepare`.
        RunFolderError, TrainingError, ResourceError, OutputError, RunInterrupted: As in `fine_tune`.
    """
    check_augmented(settings, data)
    of_gold, of_teacher, wanted = gold_settings(settings), teacher_settings(settings), settings.teacher
    assert wanted is not None
    prepared = _prepared(start, data, of_gold)
    ranks.told(lambda: _begin(settings, options))
    logger.info("gold alone, in %s", quoted(of_gold.output_dir, limit=400))
    gold = run_training(prepared, ranks.told(lambda: _options(of_gold, options)), ranks)
    del prepared  # one model in memory at a time
    teacher_dir = Path(wanted.path or RunFolder(Path(of_teacher.output_dir)).model_dir)
    if wanted.path is None:
        logger.info("teacher, in %s", quoted(of_teacher.output_dir, limit=400))
        prepared = _prepared(start, data, of_teacher)
        run_training(prepared, ranks.told(lambda: _options(of_teacher, options)), ranks)
        del prepared
    source = SilverSource(data, settings, gold.model_dir, teacher_dir)

    def label() -> Silver:
        with (
            interruptible(),
            open_run_folder(settings.output_dir, "resume") as folder,
            memory_named(settings, "the teacher labelled pairs"),
        ):
            return silver_of_run(folder, source, allow_changes=options.allow_changes)

    ranks.doing("the labelling of silver pairs")
    silver = ranks.told(label)
    logger.info("gold and %s, in %s", *(silver.described, quoted(settings.output_dir, limit=400)))
    _warn_of_teacher(silver, gold)
    train = data.train.with_rows_of(silver.pairs, "silver pair")
    prepared = _prepared(start, replace(data, train=train), settings)
    prepared = replace(prepared, gold_alone=GoldAlone(gold.model_dir, silver.facts))
    return run_training(prepared, replace(options, mode="resume"), ranks)


def _prepared(start: Callable[[RunSettings], TrainableModel], data: RunData, settings: RunSettings) -> PreparedRun:
    """Return the run of these settings on these pairs, with its own model; its warnings are kept in it."""
    with warnings_kept() as warnings, memory_named(settings, "the model was read"):
        model = start(settings)
        assert not isinstance(model, MaskedLanguageModel)
        run = prepare(model, data, settings)
    return replace(run, warnings=tuple(warnings))


def _warn_of_teacher(silver: Silver, gold: FineTuneResult) -> None:
    """Warn if the teacher is no better on dev than the encoder that is to learn from it."""
    best = gold.metrics.get("best") or {}
    value = silver.facts["teacher"]["dev"].get(best.get("metric"), {}).get("value")
    if value is not None and best["value"] is not None and value <= best["value"]:
        sentence = "the teacher is no better on dev than the encoder with gold alone: %s %.4f against %.4f"
        logger.warning(f"{sentence}; train it for longer, or leave teacher out", best["metric"], value, best["value"])


def _begin(settings: RunSettings, options: RunOptions) -> None:
    """Mark the folder as that of the run, before the runs that are part of it begin in it."""
    if options.mode == "overwrite":
        check_inputs_stay(settings)
    with open_run_folder(settings.output_dir, options.mode) as folder:
        if options.mode == "resume" and (content_of(folder.config_file) or {}).get("teacher", {}) is None:
            raise RunFolderError(
                f"the run in {shown(folder.path)} was started without a teacher",
                "leave teacher out, start again with --overwrite, or give another output_dir",
            )
        if options.mode != "resume":
            remove_run(folder)
            write_json(folder.config_file, run_to_json(settings))


def _options(part: RunSettings, options: RunOptions) -> RunOptions:
    """Return how a run that is part of another is started: it goes on where it has begun."""
    if RunFolder(Path(part.output_dir)).config_file.exists():
        return replace(options, mode="resume")
    return replace(options, mode="new", allow_changes=False)
