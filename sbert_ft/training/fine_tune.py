"""`fine_tune`: train a model on pairs and write the tuned model, a threshold and a report to a folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sbert_ft.arguments import path_argument, word_argument
from sbert_ft.config.loader import check_settings
from sbert_ft.config.objectives import CLASSIFIER_OBJECTIVES, ObjectiveSettings, reads_single_texts, takes_classes
from sbert_ft.config.settings import (
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    NegativeSettings,
    Reading,
    RunSettings,
    TeacherSettings,
    TrainingSettings,
)
from sbert_ft.data.corpus import TextCorpus
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.encoder.devices import Precision
from sbert_ft.errors import InputError, quoted
from sbert_ft.model_folder.classifier import has_classifier
from sbert_ft.model_folder.layout import read_folder
from sbert_ft.models.classifier import ClassifierModel, TrainableModel
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.training.augmented import check_augmented, gold_settings, labels_pairs, run_augmented
from sbert_ft.training.distributed import joined
from sbert_ft.training.interruption import memory_named
from sbert_ft.training.prepare import PreparedRun, RunData, RunOptions, prepare, prepare_language
from sbert_ft.training.pretrain import MODES, read_corpora, starting_language_model
from sbert_ft.training.run import FineTuneResult, run_training
from sbert_ft.training.run_log import warnings_kept
from sbert_ft.training.trainable_model import put_back_on_failure, trained_module

if TYPE_CHECKING:
    import pandas

logger = logging.getLogger(__name__)
# Settings of a classifier that are attributes of one too.
_OF_CLASSIFIER = ("pooling", "features", "truncation", "head_dropout", "max_seq_length")


def starting_model(settings: RunSettings) -> TrainableModel:
    """Return the model that the settings name, on its device; a classifier has a head only if its folder holds one.

    Raises:
        ModelFolderError: The folder is damaged, incomplete or of an unsupported kind.
        InputError: The settings do not fit the encoder.
        ResourceError: The device is not available.
    """
    wanted = settings.model
    precision: Precision = "float32" if settings.training.precision == "float32" else "auto"
    device = settings.training.device
    if wanted.kind == "masked_lm":
        return starting_language_model(settings)
    if wanted.init == "random":
        bert = ConnectionBert.from_config(wanted.path, device, precision, settings.training.seed)
    else:
        source = read_folder(wanted.path)
        if wanted.kind == "siamese" or wanted.layers is not None or not has_classifier(source):
            bert = ConnectionBert.from_pretrained(source, device, precision, wanted.layers)
        else:
            # a stock folder does not state the kind, one of ours does
            kind = None if "classifier" in source.own or wanted.kind == "towers" else wanted.kind
            found = ClassifierModel.from_pretrained(source, device, precision, wanted.max_seq_length, kind=kind)
            same_features = wanted.kind != "towers" or found.features == wanted.features
            same = all(getattr(wanted, name) in (None, getattr(found, name)) for name in ("pooling", "head_dropout"))
            if found.kind == wanted.kind and same_features and same:
                return found  # training goes on with its head
            logger.warning(
                "%s holds a classifier of another kind (%s): its encoder is used, and a new head is created",
                *(quoted(wanted.path, limit=400), found.kind),
            )
            bert = found.bert
    if wanted.kind == "siamese":
        assert wanted.pooling != "pooler", "rejected when the settings were checked"
        return SiameseBert(bert, wanted.pooling, wanted.max_seq_length)
    return ClassifierModel(bert, wanted.kind, **{name: getattr(wanted, name) for name in _OF_CLASSIFIER})


def _read_rows(
    train: Any, dev: Any, test: Any, objectives: Sequence[Any], reading: Reading, more: str | None = None
) -> RunData:
    """Return the rows of a run, all on the score scale of train; each split is given as in `as_dataset`, or None.

    With an objective for classes, labels are read as classes if `reading` does not say otherwise. With one for single
    texts, train is read as such, without labels, and so is the file `more`; one text column that `reading` names is
    then that of train alone.
    """
    if reads_single_texts(objectives):
        first = _single_texts(train, reading)
        if more is not None:
            first = first.with_texts(_single_texts(more, Reading()))
        if len(reading.text_columns or ()) == 1:
            reading = replace(reading, text_columns=None)
        return RunData(first, *(None if rows is None else as_dataset(rows, reading) for rows in (dev, test)))
    has_classes = any(takes_classes(part.name) for part in objectives[:1] if isinstance(part, ObjectiveSettings))
    if has_classes and reading.label_kind is None and reading.classes is None:
        reading = replace(reading, label_kind="classes")
    first = as_dataset(train, reading)
    reading = reading_on_scale_of(first, reading)
    return RunData(first, *(None if rows is None else as_dataset(rows, reading) for rows in (dev, test)))


def _single_texts(train: Any, reading: Reading) -> ConnectionDataset:
    """Return the different texts of a file, a folder of files or rows of any form, as rows of one text."""
    if isinstance(train, (str, os.PathLike)):
        return ConnectionDataset.from_corpus(TextCorpus(train, reading))
    return as_dataset(train, reading).as_single_texts()


def reading_on_scale_of(train: ConnectionDataset, reading: Reading) -> Reading:
    """Return how to read the other files: on the score scale of the training pairs, even if they have few scores."""
    if train.scale is None or reading.score_range is not None:
        return reading
    return replace(reading, score_range=(train.scale.low, train.scale.high))


def as_dataset(pairs: Any, reading: Reading | None = None) -> ConnectionDataset:
    """Return pairs as a data set: one is returned as it is, the rest is read as `reading` says.

    Raises:
        DataError, InputError: As in `ConnectionDataset`.
    """
    return pairs if isinstance(pairs, ConnectionDataset) else ConnectionDataset(pairs, reading)


def load_run(settings: RunSettings) -> PreparedRun:
    """Return the run of a configuration, with data and model loaded and checked; warnings are kept in it.

    Errors as in `starting_model`, `as_dataset` and `prepare`; a teacher that labels pairs is an `InputError` (see
    `run_augmented`).
    """
    with warnings_kept() as warnings, memory_named(settings, "data and model were read"):
        if settings.model.kind == "masked_lm":
            corpora = read_corpora(settings)
            language_model = starting_language_model(settings)
            return replace(prepare_language(language_model, corpora, settings), warnings=tuple(warnings))
        if labels_pairs(settings):
            raise InputError(
                "a teacher that labels pairs makes a run of several stages, which cannot be prepared as one",
                "start it by sbert-ft train or fine_tune, or leave teacher out",
            )
        rows = load_rows(settings)
        model = starting_model(settings)
        assert not isinstance(model, MaskedLanguageModel)
        run = prepare(model, rows, settings)
    return replace(run, warnings=tuple(warnings))


def load_rows(settings: RunSettings) -> RunData:
    """Return the rows that a configuration names; errors as in `as_dataset`."""
    data, more = settings.data, None if settings.teacher is None else settings.teacher.texts
    with memory_named(settings, "data were read"):
        rows = _read_rows(data.train, data.dev, data.test, settings.objective, data.reading, more)
    if data.dev_share is None:
        return rows
    train, dev = rows.train.split(data.dev_share, settings.training.seed)
    return replace(rows, train=train, dev=dev)


def load_gold(settings: RunSettings) -> PreparedRun:
    """Return the run on gold pairs alone of a configuration whose teacher labels pairs, with data and model loaded.

    Errors as in `check_augmented` and `load_run`.
    """
    with warnings_kept() as warnings, memory_named(settings, "data and model were read"):
        rows = load_rows(settings)
        check_augmented(settings, rows)
        model = starting_model(settings)
        assert isinstance(model, SiameseBert)
        run = prepare(model, rows, gold_settings(settings))
    return replace(run, warnings=tuple(warnings))


def fine_tune(
    model: SiameseBert | ClassifierModel,
    train: ConnectionDataset | str | os.PathLike[str] | pandas.DataFrame | Iterable[Any],
    dev: ConnectionDataset | str | os.PathLike[str] | pandas.DataFrame | Iterable[Any] | None = None,
    test: ConnectionDataset | str | os.PathLike[str] | pandas.DataFrame | Iterable[Any] | None = None,
    *,
    output_dir: str | os.PathLike[str],
    objective: str | ObjectiveSettings | Sequence[str | ObjectiveSettings] | None = None,
    training: TrainingSettings | None = None,
    evaluation: EvaluationSettings | None = None,
    prompts: str | Mapping[str, str] | None = None,
    retrieval: Mapping[str, str] | None = None,
    teacher: TeacherSettings | str | os.PathLike[str] | None = None,
    negatives: NegativeSettings | None = None,
    on_existing: str = "error",
    show_progress_bar: bool = False,
) -> FineTuneResult:
    """Fine-tune a model in place on pairs, and return the run's folder and metrics.

    If that fails or is interrupted, the model is left unchanged; the progress is in the run's checkpoints.

    Args:
        model: A sentence encoder or a classifier; its weights are trained in place. A classifier without a head for
            the classes of `train` gets a new one.
        train: Pairs or triplets (single texts for a classifier of kind single): a data set, or what
            `ConnectionDataset` takes. Objectives on single texts take all of these and a .txt of one text a line; each
            text is then a row of its own.
        dev: Pairs for choosing the best step, the threshold and the calibration.
        test: Pairs used for the final evaluation only.
        output_dir: The run's folder: model/, report.html, metrics.json, checkpoints/ and more.
        objective: A name (see `OBJECTIVES`), settings, or several whose losses are added; None for cosine, or for
            softmax with a classifier.
        training: The loop's settings. Its device is ignored: the model's own device is used.
        evaluation: How the result is evaluated, and what the threshold is chosen for.
        prompts: What is put before the texts of a sentence encoder, for all or by column; see `DataSettings`. Rows
            without named columns have sentence1, sentence2 and sentence3.
        retrieval: The files ``queries``, ``corpus`` and ``relevant`` of a search by which a sentence encoder is
            evaluated too; see `DataSettings`.
        teacher: The folder of a sentence encoder from whose vectors the objective learns, or of a classifier of kind
            joined that labels more pairs; or settings, without a path in which such a classifier is trained first, from
            the folder of the model. None for no teacher.
        negatives: Which negatives are mined for pairs that match; None for none.
        on_existing: What to do if the folder holds a run: ``error``, ``resume`` or ``overwrite``.
        show_progress_bar: Whether to show a progress bar on standard error.

    Raises:
        InputError: Objective, pairs and settings do not fit each other.
        ConfigError: A setting is out of range; all faults in one message.
        DataError: A file cannot be read as pairs, or as queries, corpus and judgements.
        RunFolderError: The folder holds something else or is in use, or its run was started differently.
        TrainingError: A loss is not a finite number.
        OutputError: Something cannot be written.
        ResourceError: Memory ran out.
        RunInterrupted: Ctrl-C, SIGTERM or SIGHUP; continue with ``on_existing="resume"``.
    """
    if not isinstance(model, (SiameseBert, ClassifierModel)):
        what = "sbert_ft.pretrain is for a MaskedLanguageModel" if isinstance(model, MaskedLanguageModel) else None
        raise InputError(
            f"model is of type {type(model).__name__}, expected a SiameseBert or BertClassifier; for a folder: "
            "SiameseBert.from_pretrained",
            what,
        )
    word_argument(on_existing, "on_existing", list(MODES))
    folder = str(path_argument(output_dir, "output_dir"))
    parts = _objectives(objective, model)
    with warnings_kept() as warnings:
        if teacher is not None and not isinstance(teacher, TeacherSettings):
            teacher = TeacherSettings(str(path_argument(teacher, "teacher")))
        more = None if teacher is None or teacher.texts is None else str(path_argument(teacher.texts, "teacher.texts"))
        data = _read_rows(train, dev, test, parts, Reading(), more)
        described = ("pooling", "max_seq_length") if isinstance(model, SiameseBert) else ("kind", *_OF_CLASSIFIER)
        sources: dict[str, Any] = {split: dataset.source for split, dataset in data.splits().items()}
        settings = check_settings(
            RunSettings(
                model=ModelSettings(str(model.bert.source.path), **{name: getattr(model, name) for name in described}),
                data=DataSettings(**sources, prompts=prompts, retrieval=retrieval, negatives=negatives),
                output_dir=folder,
                objective=parts,
                training=TrainingSettings() if training is None else training,
                evaluation=EvaluationSettings() if evaluation is None else evaluation,
                teacher=teacher,
            )
        )
        options = RunOptions(MODES[on_existing], progress_bar=show_progress_bar)
        with put_back_on_failure(model), memory_named(settings, "the run was prepared"):
            if labels_pairs(settings):
                result = _augmented(model, data, settings, options)
            else:
                prepared = replace(prepare(model, data, settings), warnings=tuple(warnings))
                result = run_training(prepared, options)
            if result.was_finished:
                _become(model, result)
    return result


def _augmented(
    model: SiameseBert | ClassifierModel, data: RunData, settings: RunSettings, options: RunOptions
) -> FineTuneResult:
    """Carry out the run of a model in memory whose teacher labels pairs; the teacher is on the model's device."""
    settings = replace(settings, training=replace(settings.training, device=str(model.device)))
    module = trained_module(model) if isinstance(model, SiameseBert) else None
    first = {} if module is None else {name: tensor.clone() for name, tensor in module.state_dict().items()}

    def start(wanted: RunSettings) -> TrainableModel:
        if module is None or wanted.model.kind != "siamese":
            return starting_model(wanted)
        module.load_state_dict(first)
        return model

    with joined() as ranks:
        return run_augmented(settings, data, start, options, ranks)


def _objectives(
    objective: str | ObjectiveSettings | Sequence[str | ObjectiveSettings] | None, model: TrainableModel
) -> tuple[ObjectiveSettings, ...]:
    """Return the objectives as settings; a value that is neither a name nor settings is reported by later checks."""
    if objective is None:
        if isinstance(model, ClassifierModel):
            return (ObjectiveSettings(CLASSIFIER_OBJECTIVES[0], class_weight=model.class_weight),)
        return (ObjectiveSettings(),)
    parts: tuple[Any, ...]
    parts = (objective,) if isinstance(objective, str) or not isinstance(objective, Sequence) else tuple(objective)
    return tuple(ObjectiveSettings(part) if isinstance(part, str) else part for part in parts)


def _become(model: SiameseBert | ClassifierModel, result: FineTuneResult) -> None:
    """Load what a finished run has saved into its base model: weights, decision and score scale."""
    kind = ClassifierModel if isinstance(model, ClassifierModel) else SiameseBert
    tuned: SiameseBert | ClassifierModel = kind.from_pretrained(result.model_dir, "cpu", "float32")
    if isinstance(model, ClassifierModel) and isinstance(tuned, ClassifierModel):
        model.start_head(tuned.classes_.tolist() if tuned.n_outputs > 1 else None)
        model.temperature = tuned.temperature
    trained_module(model).load_state_dict(trained_module(tuned).state_dict())
    model.decision, model.score_scale = tuned.decision, tuned.score_scale
