"""`ClassifierModel`: a classifier that torch runs: an encoder with a head that gives each row a class, or a score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, overload

import torch
from torch import Tensor, nn

from sbert_ft.arguments import path_argument, word_argument
from sbert_ft.config.settings import Features, Truncation
from sbert_ft.encoder.batching import PoolingMode
from sbert_ft.encoder.classes import ClassifierKind, HeadPooling, typed_classes
from sbert_ft.encoder.devices import Precision
from sbert_ft.encoder.heads import ClassificationHead, plan_head
from sbert_ft.encoder.packing import PackedBatch
from sbert_ft.engines.choice import EngineChoice, ExportPrecision, output_of_classifier
from sbert_ft.errors import InputError, quoted
from sbert_ft.model_folder.classifier import ClassifierSettings, find_classifier, read_head
from sbert_ft.model_folder.decision import Decision
from sbert_ft.model_folder.layout import ModelFolder, read_folder
from sbert_ft.model_folder.metadata import OwnSettings
from sbert_ft.model_folder.writer import EncoderParts, save_classifier
from sbert_ft.models.connection_bert import ConnectionBert, TextModel
from sbert_ft.models.exported import ExportedClassifier, open_exported
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.models.text_classifier import SIGMOID_SCALE, TextClassifier

if TYPE_CHECKING:
    from sbert_ft.engines.graph_file import Engine, GraphPrecision
    from sbert_ft.models.export import ExportReport
    from sbert_ft.models.parity import Rows

# Arguments of the class that are attributes and keys of sbert_ft.json too.
_SETTINGS = ("pooling", "features", "truncation", "head_dropout")
_Self = TypeVar("_Self", bound="ClassifierModel")


class ClassifierModel(TextModel, TextClassifier):
    """A classifier that torch runs, and that can be trained; see `TextClassifier` for its kinds.

    Without a head (before `start_head`), what needs one raises an `InputError`.

    Attributes:
        bert: Tokenizer and encoder.
        kind, pooling, features, truncation, head_dropout, class_weight: As in `__init__`, without None.
        head: The head, which computes logits from vectors; None before `start_head`.
        decision, score_scale, temperature: As at `TextClassifier`.
    """

    def __init__(
        self,
        bert: ConnectionBert,
        kind: ClassifierKind = "joined",
        *,
        pooling: HeadPooling | None = None,
        features: Features = "uv_difference",
        truncation: Truncation = "longest_first",
        head_dropout: float | None = None,
        class_weight: Literal["balanced"] | None = None,
        max_seq_length: int | None = None,
    ) -> None:
        """Create a classifier without a head; `start_head` adds one.

        Other arguments, and the words for them, as in `config.settings.ModelSettings`.

        Args:
            bert: Tokenizer and encoder; the pooling and length of its folder are the defaults.
            pooling: None for ``pooler`` if the kind is not towers and the encoder's kind has a stock head, otherwise
                for the folder's pooling.
            truncation: Other libraries use longest_first, so only with it their results are the same for pairs that
                are too long.
            class_weight: ``balanced`` to weigh classes by the inverse of their number of rows.

        Raises:
            InputError: An unknown word, or a length that the encoder has no positions for.
            ModelFolderError: The kind is joined, but the tokenizer cannot make pairs.
        """
        word_argument(kind, "kind", get_args(ClassifierKind))
        super().__init__(bert, max_seq_length, joins_pairs=kind == "joined")
        word_argument(truncation, "truncation", get_args(Truncation))
        if class_weight not in (None, "balanced"):
            raise InputError(f"class_weight is {quoted(class_weight)}, expected 'balanced' or None")
        self._plan = plan_head(bert.plan.config, kind, pooling, features, head_dropout, bert.source.pooling)
        self.kind: ClassifierKind = kind
        self.pooling: HeadPooling = self._plan.pooling
        self.features: Features = features
        self.truncation: Truncation = truncation
        self.head_dropout = self._plan.dropout
        self.class_weight = class_weight
        self._classes: tuple[object, ...] | None = None
        self._hint = ""
        self.head: ClassificationHead | None = None
        self.decision: Decision | None = None
        self.score_scale = SIGMOID_SCALE
        self.temperature: float | None = None

    @overload
    @classmethod
    def from_pretrained(
        cls: type[_Self],
        folder: str | Path | ModelFolder,
        device: str | torch.device | None = ...,
        precision: Precision = ...,
        max_seq_length: int | None = ...,
        engine: Literal["torch"] = ...,
        *,
        kind: ClassifierKind | None = ...,
    ) -> _Self: ...
    @overload
    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | ModelFolder,
        device: str | torch.device | None = ...,
        precision: Precision | ExportPrecision = ...,
        max_seq_length: int | None = ...,
        *,
        engine: EngineChoice,
        kind: ClassifierKind | None = ...,
    ) -> TextClassifier: ...

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | ModelFolder,
        device: str | torch.device | None = None,
        precision: Any = "auto",
        max_seq_length: int | None = None,
        engine: EngineChoice = "torch",
        *,
        kind: ClassifierKind | None = None,
    ) -> TextClassifier:
        """Return the classifier of a local folder: saved by this library, or a stock ...ForSequenceClassification.

        Other arguments, and errors, as in `SiameseBert.from_pretrained`; the head always computes in float32.

        Args:
            max_seq_length: Most tokens of a sequence, in place of the folder's.
            kind: For stock folders, which do not say whether they are for pairs. None for ``joined`` if the folder was
                saved by sentence-transformers' CrossEncoder, and for ``single`` otherwise.

        Raises:
            ModelFolderError: There is no head, or one that does not fit the folder's settings; a head is never
                replaced by a random one.
            InputError: An argument contradicts the folder.
        """
        source = read_folder(folder)
        exported = open_exported(source, engine, precision, device, output_of_classifier(source))
        if exported is not None:
            return ExportedClassifier.of_bert(exported, max_seq_length, kind)
        found = find_classifier(source, kind)
        settings = found.settings
        bert = ConnectionBert.from_pretrained(source, device, precision)
        given = {name: getattr(settings, name) for name in _SETTINGS}
        model = cls(bert, settings.kind, max_seq_length=max_seq_length, **given)
        model.start_head(settings.classes)
        assert model.head is not None
        read_head(found, model.head)
        model._read_own_settings(settings)
        model._hint = found.hint
        return model

    @property
    def n_outputs(self) -> int:
        """Number of logits of a row, K; 1 for a graded score."""
        return self._fitted_head().n_outputs

    @property
    def is_stock(self) -> bool:
        """Whether `save_pretrained` writes a stock folder, which other libraries load as a classifier."""
        return self._plan.stock is not None

    @property
    def trained(self) -> nn.Module:
        """The module with the trained parameters (shared, not copied), named ``encoder.*`` and ``head.*``."""
        return nn.ModuleDict({"encoder": self.bert.encoder, "head": self._fitted_head()})

    def start_head(self, classes: Sequence[object] | None, seed: int = 42) -> bool:
        """Replace the head by a new one with random weights (or those of a pretrained pooler); reset the calibration.

        `classes` are at least two different labels, all words or all numbers; None for one output, a graded score.
        Returns whether a pretrained pooler is missing: the head has the encoder's own pooler, which begins random.

        Raises:
            InputError: The labels are not valid classes.
        """
        self._classes = None if classes is None else typed_classes(classes)
        head = ClassificationHead(self._plan, 1 if self._classes is None else len(self._classes), seed)
        has_begun = head.begin_as(self.bert.pooler)
        self.head = head.to(self.device)
        self.decision, self.score_scale, self.temperature = None, SIGMOID_SCALE, None
        stock = self._plan.stock
        return stock is not None and stock.dense_in_encoder and not has_begun

    def forward(self, batch: PackedBatch) -> Tensor:
        """Return the pooled vectors of a packed batch, as `SiameseBert.forward`, for ``model.head(columns)``."""
        return batch.pool(self.bert(batch), self._plan.token_pooling)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `from_pretrained` reads; errors as in `SiameseBert.save_pretrained`.

        With a stock head (joined or single) it can also be loaded by transformers' AutoModelForSequenceClassification,
        its text-classification pipeline and sentence-transformers' CrossEncoder. Otherwise it is a folder of a sentence
        encoder, which sentence-transformers can load, with the head in it.
        """
        source, head = self.bert.source, self._fitted_head()
        given = {name: getattr(self, name) for name in _SETTINGS}
        settings = ClassifierSettings(self.kind, classes=self._classes, temperature=self.temperature, **given)
        own = OwnSettings(self.decision, self.score_scale, OwnSettings.of(source).others, settings.to_json())
        pooling = source.pooling if self.pooling == "pooler" else self.pooling
        said = replace(source, pooling=pooling, max_seq_length=self.max_seq_length)
        parts = EncoderParts(self.bert.encoder, self.bert.pooler, self.tokenizer, said, own)
        save_classifier(parts, settings, head, path_argument(folder, "folder"))

    def _fitted_head(self) -> ClassificationHead:
        if self.head is None:
            raise InputError("the classifier is not fitted yet", "call fit, or start_head for a random head")
        return self.head

    @property
    def token_pooling(self) -> PoolingMode:
        """How a sequence's tokens become the vector that the head reads."""
        return self._plan.token_pooling

    def _check_head(self) -> None:
        self._fitted_head()

    def logits_of(self, columns: Sequence[Tensor]) -> Tensor:
        """Return the logits, shape (B, K), of the vectors of B rows, without gradients and dropout."""
        return self._fitted_head().logits(columns)

    def calibrate(self, temperature: float, bias: float = 0.0) -> None:
        """Fold a calibration into the head: logits are divided by `temperature`, then `bias` is added.

        Guo et al. 2017, section 4.2; a temperature does not change the predicted classes.

        Raises:
            InputError: The temperature is not a finite number above 0, or the bias is not a finite number.
        """
        for name, value in (("temperature", temperature), ("bias", bias)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise InputError(f"{name} is {quoted(value)}, expected a finite number")
        if temperature <= 0:
            raise InputError(f"temperature is {temperature:g}, expected a number above 0")
        self._fitted_head().scale(1 / temperature, bias)
        self.temperature = temperature * (1.0 if self.temperature is None else self.temperature)

    def export(
        self,
        folder: str | Path | None = None,
        engine: Engine = "onnxruntime",
        precision: GraphPrecision = "float32",
        texts: Rows | None = None,
        force: bool = False,
    ) -> ExportReport:
        """Write a graph of the model for an engine that runs it without torch, and return how it compares with torch.

        A stock head is a part of the graph; another head stays in a file of its own. Arguments and errors as in
        `SiameseBert.export`.
        """
        from sbert_ft.models.export import export_model

        head = self._fitted_head()
        in_graph = head if self.is_stock else None
        return export_model(self, self.save_pretrained, in_graph, folder, engine, precision, texts, force)

    def as_sentence_encoder(self) -> SiameseBert:
        """Return a sentence encoder for vectors and cosines; it shares the weights."""
        pooling: PoolingMode | None = None if self.pooling == "pooler" else self.pooling
        model = SiameseBert(self.bert, pooling)
        if self.kind != "joined":  # the length of a pair says nothing about the length of a text
            model.max_seq_length = self.max_seq_length
        model.decision = None
        return model


# What can be trained: a sentence encoder, a classifier, or a masked language model.
TrainableModel = SiameseBert | ClassifierModel | MaskedLanguageModel
