"""Prepare a run before it starts: its data, and the checks that its parts fit each other.

Training starts only after objective, data and settings have passed these checks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sbert_ft.config.objectives import OBJECTIVES, reads_single_texts, takes_classes
from sbert_ft.config.settings import RunSettings, Truncation
from sbert_ft.data.columns import places_of
from sbert_ft.data.corpus import TextCorpus
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.data.labels import class_key, names_of_classes
from sbert_ft.data.ledger import counted
from sbert_ft.data.retrieval import RetrievalFiles, read_retrieval
from sbert_ft.encoder.devices import Precision, to_device
from sbert_ft.encoder.dropout import has_dropout
from sbert_ft.errors import InputError, listed, quoted
from sbert_ft.evaluation.class_evaluator import ClassEvaluator
from sbert_ft.evaluation.evaluator import Evaluator
from sbert_ft.evaluation.language_evaluator import DEFAULT_METRIC, EvaluationTexts, LanguageEvaluator
from sbert_ft.evaluation.pair_evaluator import PairEvaluator
from sbert_ft.evaluation.retrieval_evaluator import RetrievalEvaluator
from sbert_ft.model_folder.classifier import has_classifier
from sbert_ft.model_folder.layout import read_folder
from sbert_ft.models.classifier import ClassifierModel, TrainableModel
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.models.tokenized_corpus import tokenize_corpus
from sbert_ft.tokenization.masking import Masker
from sbert_ft.training.gold_alone import GoldAlone
from sbert_ft.training.objectives import NUMBERS_OF_TEXTS, Objective, check_fits, learns_from_teacher
from sbert_ft.training.run_folder import Mode
from sbert_ft.training.run_log import check_tensorboard
from sbert_ft.training.teacher_vectors import VectorTeacher
from sbert_ft.training.text_decoder import TextDecoder
from sbert_ft.training.trainable_model import check_encoder, trained_module, trained_parameters

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunData:
    """The rows of a run: to train on, to choose step, threshold and calibration by, and for the final evaluation."""

    train: ConnectionDataset
    dev: ConnectionDataset | None = None
    test: ConnectionDataset | None = None

    def splits(self) -> dict[str, ConnectionDataset]:
        """Return the data sets that are not None, by name."""
        named = {"train": self.train, "dev": self.dev, "test": self.test}
        return {name: dataset for name, dataset in named.items() if dataset is not None}


@dataclass(frozen=True)
class CorpusData:
    """The raw texts of a run that trains a masked language model; otherwise as `RunData`."""

    train: TextCorpus
    dev: TextCorpus | None = None
    test: TextCorpus | None = None

    def splits(self) -> dict[str, TextCorpus]:
        """Return the corpora that are not None, by name."""
        named = {"train": self.train, "dev": self.dev, "test": self.test}
        return {name: corpus for name, corpus in named.items() if corpus is not None}


@dataclass(frozen=True)
class RunOptions:
    """How a run is started: with `allow_changes` it is resumed with other settings or data than it began with.

    With `pause_share` it ends by `RunPaused` at the first evaluation after this share of its steps. Resumed later, it
    makes the steps that it would have made without the pause: the learning rate follows from all steps.
    """

    mode: Mode = "new"
    allow_changes: bool = False
    progress_bar: bool = False
    pause_share: float | None = None


@dataclass(frozen=True)
class PreparedRun:
    """A run whose parts have been checked to fit each other; a classifier has its head.

    `warnings` are those that were logged during preparation. `gold_alone` is the model that one trained on gold and
    silver pairs is compared with in the end.
    """

    model: TrainableModel
    data: RunData | CorpusData
    settings: RunSettings
    objective: Objective
    evaluator: Evaluator
    warnings: tuple[str, ...] = ()
    teacher: VectorTeacher | None = None
    gold_alone: GoldAlone | None = None

    @property
    def connections(self) -> RunData:
        """The rows of a run that does not train a masked language model."""
        assert isinstance(self.data, RunData)
        return self.data

    @property
    def trained(self) -> nn.Module:
        """The module that is trained and saved in checkpoints: that of the model, and what is needed beside it.

        This is what a decoder has of its own, or how the vectors of a wider teacher are brought to the model's width.
        """
        module, decoder = trained_module(self.model), self.objective.decoder
        if decoder is not None:
            return nn.ModuleDict({"encoder": module, "decoder": decoder.own})
        if self.teacher is not None and self.teacher.fitted.basis is not None:
            return nn.ModuleDict({"encoder": module, "teacher": self.teacher.fitted})
        return module

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of a checkpoint: weights, moments, and the moving average if there is one."""
        table = self.model.bert.encoder.get_input_embeddings().weight  # has moments only for the rows that were read
        trained = trained_parameters(self.model, self.settings.model, self.trained).values()
        n_numbers = sum(parameter.numel() for parameter in self.trained.parameters())
        n_numbers += sum(2 * parameter.numel() for parameter in trained if parameter is not table)
        if self.settings.training.average == "ema":
            n_numbers += sum(parameter.numel() for parameter in trained)
        return 4 * n_numbers

    @property
    def joined_by(self) -> Truncation | None:
        """Which text of a row is cut where the model joins two to one sequence; None if it encodes each separately."""
        model = self.model
        return model.truncation if isinstance(model, ClassifierModel) and model.kind == "joined" else None

    @property
    def reads_words_alone(self) -> bool:
        """Whether the word table is only read by the tokens of a batch, so that its gradient has few rows."""
        return not isinstance(self.model, MaskedLanguageModel) and self.objective.decoder is None

    def prompts_of(self, dataset: ConnectionDataset | TextCorpus) -> tuple[str, ...]:
        """Return what is put before the texts of each column, in training as in use; only for a sentence encoder."""
        if not isinstance(self.model, SiameseBert):
            return ()
        first, second = self.model.prompts_of_pair
        return (first, second, second)[: dataset.n_texts]

    def targets(self) -> NDArray[np.float32] | None:
        """Return the targets, shape (N,): class numbers, or scores (0 to 1 for a classifier); None without labels."""
        if isinstance(self.data, CorpusData):
            return None
        train, model = self.data.train, self.model
        if isinstance(model, ClassifierModel) and model.n_outputs > 1:
            return train.class_codes(model.class_names).astype(np.float32)
        targets = train.targets()
        of_cosine = train.scale is not None and train.scale.is_cosine
        if targets is None or not of_cosine or not isinstance(model, ClassifierModel):
            return targets
        return ((targets + 1) / 2).astype(np.float32)


def prepare_language(model: MaskedLanguageModel, data: CorpusData, settings: RunSettings) -> PreparedRun:
    """Return the run of a masked language model, after all checks that need no training; dev and test are tokenised.

    Raises:
        InputError: Data, encoder and settings do not fit each other.
        ResourceError: As in `check_tensorboard`.
    """
    check_encoder(model.bert.encoder, settings)
    check_tensorboard(settings.training.tensorboard)
    masker = masker_of(model, settings)
    sets = {
        name: EvaluationTexts(
            *(name, corpus.source, corpus.sha256),
            tokenize_corpus(corpus, model.tokenizer, model.max_seq_length, model.next_sentence),
            *(masker, settings.training.seed),
        )
        for name, corpus in data.splits().items()
        if name != "train"
    }
    metric = (settings.training.metric or DEFAULT_METRIC) if "dev" in sets else None
    evaluator = LanguageEvaluator(sets, metric, settings.evaluation)
    return PreparedRun(model, data, settings, Objective(settings.objective), evaluator)


def masker_of(model: MaskedLanguageModel, settings: RunSettings) -> Masker:
    """Return what chooses and masks tokens, as the settings of the objective mlm say."""
    mlm = next(part for part in settings.objective if part.name == "mlm")
    share = OBJECTIVES["mlm"].defaults["mask_share"] if mlm.mask_share is None else mlm.mask_share
    return Masker(model.tokenizer, share, mlm.whole_words)


def prepare(model: SiameseBert | ClassifierModel, data: RunData, settings: RunSettings) -> PreparedRun:
    """Return the run, after all checks that need no training.

    A classifier whose head is for other classes than those of the training rows gets a new head.

    Raises:
        InputError: Objective, data, encoder and settings do not fit each other.
        DataError: As in `read_retrieval`.
        ResourceError: As in `check_tensorboard`.
    """
    if others := {name: dataset for name, dataset in data.splits().items() if name != "train"}:
        data = replace(data, train=data.train.with_overlaps(**others))
    _check_rows(model, data, settings)
    check_fits(settings.objective, data.train)
    check_encoder(model.bert.encoder, settings)
    _check_dropout(model, settings)
    _check_dimensions(model, settings)
    check_tensorboard(settings.training.tensorboard)
    if settings.data.prompts is not None and isinstance(model, SiameseBert):
        model.use_prompts(*_prompts_by_side(settings.data.prompts, data.train))
    head = class_weights = None
    evaluator: Evaluator | None = None
    if isinstance(model, ClassifierModel):
        had_head = _with_head(model, data.train, settings)
        if not trained_parameters(model, settings.model):  # with a frozen encoder, the head may be trained
            raise InputError("every weight is frozen, the head's by requires_grad", "leave some to train")
        head = model.head
        if model.n_outputs > 1:
            # one of each class, n / (K * n_class) as in scikit-learn
            counts = np.bincount(data.train.class_codes(model.class_names), minlength=model.n_outputs)
            weights = len(data.train) / (model.n_outputs * np.maximum(counts, 1))
            class_weights = to_device(torch.from_numpy(weights.astype(np.float32)), model.device)
            evaluator = ClassEvaluator.of(data.splits(), model, settings, had_head)
    elif settings.data.retrieval is not None:
        found = read_retrieval(RetrievalFiles(**settings.data.retrieval))
        sizes = counted(len(found), "query"), counted(len(found.corpus), "text"), found.n_without
        logger.info("retrieval: %s, %s; left out, as they have no relevant text: %d", *sizes)
        evaluator = RetrievalEvaluator.of(data.splits(), found, settings)
    teacher = _teacher(model, data.train, settings)
    fitted = None if teacher is None else teacher.fitted
    n_negatives = 0 if settings.data.negatives is None else settings.data.negatives.per_pair
    objective = Objective(settings.objective, head, class_weights, _decoder(model, settings), fitted, n_negatives)
    evaluator = evaluator or PairEvaluator.of(data.splits(), settings)
    return PreparedRun(model, data, settings, objective, evaluator, teacher=teacher)


def _check_rows(model: SiameseBert | ClassifierModel, data: RunData, settings: RunSettings) -> None:
    """Check that the rows have as many texts as the model and mined negatives need."""
    for name, dataset in data.splits().items():
        found = f"{quoted(dataset.source, limit=400)}: a row has {NUMBERS_OF_TEXTS[dataset.n_texts]}"
        if isinstance(model, ClassifierModel):
            if dataset.n_texts != model.n_texts:
                raise InputError(
                    f"{found}, and a classifier of kind {model.kind} takes {NUMBERS_OF_TEXTS[model.n_texts]}",
                    "name the columns with data.text_columns, or use another model.kind",
                )
        elif name == "train" and dataset.n_texts == 3 and settings.data.negatives is not None:
            raise InputError(
                f"{found}, of which the third is a negative already, but data.negatives mines them for pairs",
                "name two columns with data.text_columns, or leave data.negatives out",
            )
        elif dataset.n_texts == 1 and name != "train":  # `check_fits` checks train
            raise InputError(f"{found}, but a sentence encoder is evaluated on pairs", "name two columns")


def _check_dropout(model: TrainableModel, settings: RunSettings) -> None:
    """Check that there is dropout where an objective compares two vectors of one text."""
    rate, name = settings.model.dropout, settings.objective[0].name
    if OBJECTIVES[name].n_views > 1 and not (has_dropout(model.bert.encoder) if rate is None else rate):
        raise InputError(
            f"objective {name} compares two vectors of a text that differ by dropout alone, and the encoder has none: "
            "every rate is 0, so nothing can be learned",
            "set model.dropout, such as 0.1",
        )


def _decoder(model: TrainableModel, settings: RunSettings) -> TextDecoder | None:
    part, *_ = settings.objective
    kind = OBJECTIVES[part.name]
    if not kind.decodes or not isinstance(model, SiameseBert):
        return None
    deletion = kind.defaults["deletion"] if part.deletion is None else part.deletion
    return TextDecoder(model, deletion, settings.training.seed)


def _check_dimensions(model: TrainableModel, settings: RunSettings) -> None:
    """Check that the encoder has as many features as the objectives' matryoshka_dims say."""
    width = model.bert.hidden_size
    for part in settings.objective:
        most = max(part.matryoshka_dims or (width,))
        if most > width:
            raise InputError(
                f"objective {part.name}: matryoshka_dims has {most}, but a vector of the model has {width} features",
                f"give numbers up to {width}",
            )
        if most < width:
            logger.warning(
                "objective %s: matryoshka_dims does not have %d, the width of a vector: features after the first %d "
                "are not trained by it",
                *(part.name, width, most),
            )


def _teacher(model: TrainableModel, train: ConnectionDataset, settings: RunSettings) -> VectorTeacher | None:
    """Return the teacher whose vectors the objectives learn from, loaded; None if they learn from none."""
    named, names = settings.teacher, " + ".join(part.name for part in settings.objective)
    path = None if named is None else named.path
    if not learns_from_teacher(settings.objective, train.labels is not None):
        if path is not None and not has_classifier(read_folder(path)):
            raise InputError(
                f"teacher.path: {quoted(path, limit=400)} is a sentence encoder, but objective {names} does not learn "
                "from vectors",
                "add mse to the objectives, or leave the teacher out",
            )
        return None
    if path is None:
        raise InputError(
            f"objective {names} takes rows without labels only beside a sentence encoder as their teacher",
            "give teacher.path, or name the column with the margins in data.label_column",
        )
    if named is not None and named.texts is not None and not reads_single_texts(settings.objective):
        raise InputError(
            f"teacher.texts are single texts, but the rows of objective {names} are not",
            "leave teacher.texts out, or make mse the only objective",
        )
    precision: Precision = "float32" if settings.training.precision == "float32" else "auto"
    return VectorTeacher(path, model.device, precision, model.bert.hidden_size)


def _prompts_by_side(prompts: str | Mapping[str, str], train: ConnectionDataset) -> tuple[str, str]:
    """Return the prompts before the first and the second texts of pairs, from those of the columns of `train`."""
    if isinstance(prompts, str):
        return prompts, prompts
    if train.n_texts == 1:
        raise InputError(
            f"data.prompts names columns, but the rows of {quoted(train.source, limit=400)} are single texts",
            "give one prompt for all texts",
        )
    columns = train.ledger.columns or ("sentence1", "sentence2", "sentence3")[: train.n_texts]
    if unknown := [name for name in prompts if not places_of(name, columns)]:
        where = quoted(train.source, limit=400)
        raise InputError(
            f"data.prompts names {listed(unknown, 3)}, but the texts of {where} are in {listed(columns, 3)}",
            "name these columns, or give one prompt for all texts",
        )
    by_place = {place: prompt for name, prompt in prompts.items() for place in places_of(name, columns)}
    first, second, *third = (by_place.get(place, "") for place in range(len(columns)))
    if third and third[0] != second:
        raise InputError(
            f"data.prompts puts {quoted(second)} before {quoted(columns[1])}, but {quoted(third[0])} before "
            f"{quoted(columns[2])}; both are compared with {quoted(columns[0])}",
            "give them the same prompt",
        )
    return first, second


def _with_head(model: ClassifierModel, train: ConnectionDataset, settings: RunSettings) -> bool:
    """Return whether the model had a head for the classes of the training rows; otherwise give it a new one."""
    names = train.class_names if takes_classes(settings.objective[0].name) else ()
    classes: Sequence[object] | None = names or None
    own = model.known_classes
    if sorted(map(class_key, names_of_classes(own or ()))) == sorted(map(class_key, names)):
        if model.head is not None:
            return True
        classes = own  # as `fit` has named them, in the type of its labels
    elif model.head is not None:
        logger.warning(
            "the classifier's head is for other classes (%s) than the training rows have (%s): a new head is created",
            *(listed(classes or ("a score",), 5) for classes in (own, names)),
        )
    lacks_pooler = model.start_head(classes, settings.training.seed)
    if lacks_pooler and settings.model.init == "pretrained":
        logger.warning(
            "%s has no pooler, so that of the new head begins with random weights; with model.pooling mean the head "
            "reads what the encoder has learned",
            quoted(settings.model.path, limit=400),
        )
    return False
