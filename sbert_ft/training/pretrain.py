"""`pretrain`: train a masked language model on raw texts, and write the model and a report to a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from sbert_ft.arguments import path_argument, word_argument
from sbert_ft.config.loader import check_settings
from sbert_ft.config.objectives import ObjectiveSettings
from sbert_ft.config.settings import DataSettings, EvaluationSettings, ModelSettings, RunSettings, TrainingSettings
from sbert_ft.data.corpus import TextCorpus
from sbert_ft.encoder.devices import Precision
from sbert_ft.errors import InputError
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.training.interruption import memory_named
from sbert_ft.training.prepare import CorpusData, RunOptions, prepare_language
from sbert_ft.training.run import FineTuneResult, run_training
from sbert_ft.training.run_folder import Mode
from sbert_ft.training.run_log import warnings_kept
from sbert_ft.training.trainable_model import put_back_on_failure

MODES: Final[Mapping[str, Mode]] = {"error": "new", "resume": "resume", "overwrite": "overwrite"}


def pretrain(
    model: MaskedLanguageModel,
    train: TextCorpus | str | os.PathLike[str] | Iterable[str],
    dev: TextCorpus | str | os.PathLike[str] | Iterable[str] | None = None,
    test: TextCorpus | str | os.PathLike[str] | Iterable[str] | None = None,
    *,
    output_dir: str | os.PathLike[str],
    mask_share: float = 0.15,
    whole_words: bool = False,
    training: TrainingSettings | None = None,
    evaluation: EvaluationSettings | None = None,
    on_existing: str = "error",
    show_progress_bar: bool = False,
) -> FineTuneResult:
    """Pre-train a masked language model in place on raw texts, and return the run's folder and metrics.

    Masked tokens, and next-sentence prediction if the model has it (Devlin et al. 2019, BERT, section 3.1). If the run
    fails or is interrupted, the model is left unchanged; the progress is in the run's checkpoints.

    Args:
        model: From a folder, or with random weights; its weights are trained in place.
        train: A file, a folder of files, texts in memory, or a `TextCorpus`. In texts and files of one text a line, an
            empty one ends a document.
        dev: Texts for choosing the best step.
        test: Texts used for the final evaluation only.
        output_dir: The run's folder: model/, report.html, metrics.json, checkpoints/ and more.
        mask_share: Share of the tokens that have to be predicted.
        whole_words: Choose whole words instead of single tokens.
        training: The loop's settings. Its device is ignored: the model's own device is used.
        evaluation: Resamples and confidence of the intervals.
        on_existing: What to do if the folder holds a run: ``error``, ``resume`` or ``overwrite``.
        show_progress_bar: Whether to show a progress bar on standard error.

    Raises:
        Errors as in `fine_tune`.
    """
    if not isinstance(model, MaskedLanguageModel):
        found = f"model is of type {type(model).__name__}, expected a MaskedLanguageModel"
        raise InputError(found, "MaskedLanguageModel.from_pretrained(folder), or from_config for random weights")
    word_argument(on_existing, "on_existing", list(MODES))
    folder = str(path_argument(output_dir, "output_dir"))
    first, *others = (None if texts is None else _as_corpus(texts) for texts in (train, dev, test))
    if first is None:
        raise InputError("train is None, expected texts: a file, a folder, or a list of texts")
    data = CorpusData(first, *others)
    sources: dict[str, Any] = {split: corpus.source for split, corpus in data.splits().items()}
    objective = (ObjectiveSettings("mlm", mask_share=mask_share, whole_words=whole_words),)
    settings = check_settings(
        RunSettings(
            model=ModelSettings(str(model.bert.source.path), "masked_lm", max_seq_length=model.max_seq_length),
            data=DataSettings(**sources),
            output_dir=folder,
            objective=(*objective, ObjectiveSettings("nsp")) if model.next_sentence else objective,
            training=TrainingSettings() if training is None else training,
            evaluation=EvaluationSettings() if evaluation is None else evaluation,
        )
    )
    with put_back_on_failure(model), memory_named(settings, "the run was prepared"):
        with warnings_kept() as warnings:
            prepared = prepare_language(model, data, settings)
        options = RunOptions(MODES[on_existing], progress_bar=show_progress_bar)
        result = run_training(replace(prepared, warnings=tuple(warnings)), options)
        if result.was_finished:
            tuned = MaskedLanguageModel.from_pretrained(
                result.model_dir, "cpu", "float32", next_sentence=model.next_sentence
            )
            model.trained.load_state_dict(tuned.trained.state_dict())
    return result


def _as_corpus(texts: TextCorpus | str | os.PathLike[str] | Iterable[str]) -> TextCorpus:
    """Return texts as a corpus: a path is read, other texts are held in memory."""
    if isinstance(texts, TextCorpus):
        return texts
    if isinstance(texts, str | os.PathLike):
        return TextCorpus(texts)
    if not isinstance(texts, Iterable) or hasattr(texts, "columns"):  # a data frame yields the names of its columns
        found = (
            f"the texts are of type {type(texts).__name__}, expected a file, a folder, a TextCorpus or a list of texts"
        )
        raise InputError(found, "give one column of a data frame, such as frame['text']")
    return TextCorpus.from_texts(texts)


def starting_language_model(settings: RunSettings) -> MaskedLanguageModel:
    """Return the masked language model that the settings name; errors as in `starting_model`."""
    wanted, training = settings.model, settings.training
    next_sentence = any(part.name == "nsp" for part in settings.objective)
    start = MaskedLanguageModel.from_config if wanted.init == "random" else MaskedLanguageModel.from_pretrained
    precision: Precision = "float32" if training.precision == "float32" else "auto"
    options: dict[str, Any] = {"next_sentence": next_sentence, "seed": training.seed}
    return start(wanted.path, training.device, precision, wanted.max_seq_length, **options)


def read_corpora(settings: RunSettings) -> CorpusData:
    """Return the raw texts that the settings name; a share of train is split off as dev by its texts or documents."""
    data = settings.data
    splits = [
        None if path is None else TextCorpus(path, data.reading, data.document_column)
        for path in (data.train, data.dev, data.test)
    ]
    train, dev, test = splits
    assert train is not None
    if data.dev_share is not None:
        by_document = any(part.name == "nsp" for part in settings.objective)
        train, dev = train.split(data.dev_share, settings.training.seed, by_document)
    return CorpusData(train, dev, test)
