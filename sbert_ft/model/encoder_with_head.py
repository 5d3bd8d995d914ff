"""An encoder with a classifier's head on it: how it is made, trained and kept; `ClassifierModel` adds what it predicts.

The head takes pooled vectors by columns: two for towers, where both texts of a row lie apart in one packed batch, and
one where a row is a single text or two texts joined to one. So training is one loop for all three.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sbert_ft.arguments import instance_argument, path_argument, whole_number
from sbert_ft.config.settings import Features, Truncation
from sbert_ft.encoder.class_names import typed_array, typed_classes
from sbert_ft.encoder.devices import Precision
from sbert_ft.encoder.heads import ClassificationHead, ClassifierKind, HeadPooling, check_truncation, plan_head
from sbert_ft.encoder.packing import PackedBatch
from sbert_ft.errors import InputError, quoted
from sbert_ft.model.connection_bert import ConnectionBert
from sbert_ft.model.tokenizer import TextTokenizer
from sbert_ft.model_folder.classifier import ClassifierSettings, find_classifier, read_head
from sbert_ft.model_folder.decision import Decision
from sbert_ft.model_folder.layout import read_folder
from sbert_ft.model_folder.metadata import OwnSettings
from sbert_ft.model_folder.writer import EncoderParts, SiameseSettings, save_classifier

# Of a sigmoid: what holds where a classifier with one output was not trained on another scale.
SIGMOID_SCALE = (0.0, 1.0)
_Self = TypeVar("_Self", bound="EncoderWithHead")


class EncoderWithHead(nn.Module):
    """A classifier of texts or of pairs of texts, or with one output a regressor.

    Attributes:
        bert: Tokenizer and encoder.
        kind: ``towers``, ``joined`` or ``single``.
        pooling: How a sequence's tokens become its vector; ``pooler`` for the stock head of the encoder's kind.
        features: Towers: what the head sees of the two vectors.
        truncation: Joined: which text of too long a pair is cut.
        head_dropout: Probability of the dropout before the head's last layer, in training.
        class_weight: ``balanced`` where training weighs classes by their number of rows.
        head: What is put on the vectors; None before `start_head`.
        decision: From which probability on a row matches; None where that was not fitted.
        score_scale: One output: lowest and highest score of what it was trained on.
        temperature: What the logits were divided by in calibration (done already, see `calibrate`); None for nothing.
    """

    head: ClassificationHead | None
    decision: Decision | None

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
        """Prepare an encoder for a head, which `start_head` makes.

        Args:
            bert: Tokenizer and encoder; what its folder says of pooling and length counts.
            kind: See above.
            pooling: See above. None for ``pooler`` with one sequence a row where the encoder's kind has a stock head
                that is known here, and for the folder's otherwise.
            features: See above: ``uv`` for (u, v), ``difference`` for |u-v|, ``uv_difference`` for (u, v, |u-v|),
                ``uv_difference_product`` for (u, v, |u-v|, u*v).
            truncation: See above. Other libraries cut longest first, so only then their numbers are the same for
                pairs that are too long.
            head_dropout: See above; None for what config.json says.
            class_weight: See above.
            max_seq_length: Tokens a sequence may have, special ones included, in place of the folder's.

        Raises:
            InputError: A word that is none of these, or a length that the encoder has no positions for.
            ModelFolderError: Joined: the tokenizer makes no pairs.
        """
        super().__init__()
        check_truncation(truncation)
        if class_weight not in (None, "balanced"):
            raise InputError(f"class_weight is {quoted(class_weight)}, expected 'balanced' or None")
        source = instance_argument(ConnectionBert, bert, "bert", "ConnectionBert.from_pretrained(folder)").source
        self.bert = bert
        self._plan = plan_head(bert.plan.config, kind, pooling, features, head_dropout, source.pooling)
        self.kind: ClassifierKind = kind
        self.pooling: HeadPooling = self._plan.pooling
        self.features: Features = features
        self.truncation: Truncation = truncation
        self.head_dropout = self._plan.dropout
        self.class_weight = class_weight
        self._max_seq_length = min(source.max_seq_length or bert.max_tokens, bert.max_tokens)
        if max_seq_length is not None or kind == "joined":
            self.max_seq_length = self._max_seq_length if max_seq_length is None else max_seq_length
        self._classes: tuple[object, ...] | None = None
        self._hint = ""
        self.head = None
        self.decision = None
        self.score_scale = SIGMOID_SCALE
        self.temperature: float | None = None

    @classmethod
    def from_pretrained(
        cls: type[_Self],
        folder: str | Path,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        max_seq_length: int | None = None,
        *,
        kind: ClassifierKind | None = None,
    ) -> _Self:
        """Return the classifier of a local folder: one of ours, or a stock ...ForSequenceClassification.

        Args:
            folder: As in `ConnectionBert.from_pretrained`, with a head.
            device: As there.
            precision: As there; the head computes in float32 always.
            max_seq_length: Tokens a sequence may have, in place of the folder's.
            kind: Stock folders do not say whether they take pairs. None for ``joined`` where the folder was saved by
                sentence-transformers' CrossEncoder, and ``single`` elsewhere.

        Raises:
            ModelFolderError: As in `ConnectionBert.from_pretrained`; also where there is no head, or one that does
                not fit what the folder says of it. A head is never random.
            InputError: An argument names nothing known, or not what the folder holds.
            ResourceError: The device is not there.
        """
        found = find_classifier(read_folder(folder), kind)
        settings = found.settings
        bert = ConnectionBert.from_pretrained(folder, device, precision)
        model = cls(
            bert,
            settings.kind,
            pooling=settings.pooling,
            features=settings.features,
            truncation=settings.truncation,
            head_dropout=settings.head_dropout,
            max_seq_length=max_seq_length,
        )
        model.start_head(settings.classes)
        assert model.head is not None
        read_head(found, model.head)
        own = OwnSettings.of(bert.source)
        model.decision = own.decision if own.decision is not None and own.decision.similarity == "probability" else None
        model.score_scale = own.score_scale if "score_scale" in bert.source.own else SIGMOID_SCALE
        model.temperature = settings.temperature
        model._hint = found.hint
        return model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.bert.device

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer: batched, in Rust."""
        return self.bert.tokenizer

    @property
    def max_seq_length(self) -> int:
        """Tokens a sequence (joined: both texts together) may have, special ones included."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        tokenizer = self.bert.tokenizer
        least = tokenizer.n_pair_special + 2 if self.kind == "joined" else tokenizer.n_special + 1
        most = self.bert.max_tokens
        self._max_seq_length = whole_number(value, "max_seq_length", least, most)

    @property
    def n_texts(self) -> int:
        """Texts of a row: 1 for the kind single, 2 for the others."""
        return 1 if self.kind == "single" else 2

    @property
    def n_outputs(self) -> int:
        """Logits of a row, K; 1 for a graded score.

        Raises:
            InputError: There is no head yet.
        """
        return self._fitted_head().n_outputs

    @property
    def classes_(self) -> NDArray[Any]:
        """The classes in the order of their logits: shape (K,), of the labels' own type.

        Raises:
            InputError: There is no head yet, or it has one output and no classes.
        """
        return typed_array(self._known_classes())

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes as words, in the order of their logits; none for one output."""
        self._fitted_head()
        return tuple(map(str, self._classes or ()))

    @property
    def is_stock(self) -> bool:
        """Whether `save_pretrained` writes a stock folder, which others open as a classifier."""
        return self._plan.stock is not None

    @property
    def trained(self) -> nn.Module:
        """What training changes: the encoder's and the head's very own parameters, as ``encoder.*`` and ``head.*``.

        Raises:
            InputError: There is no head yet.
        """
        return nn.ModuleDict({"encoder": self.bert.encoder, "head": self._fitted_head()})

    def start_head(self, classes: Sequence[object] | None, seed: int = 42) -> None:
        """Put a new head on: random, but for a pretrained pooler; what was calibrated before is forgotten.

        Args:
            classes: At least two different labels, all words or all numbers; None for one output, a graded score.
            seed: Of the random weights.

        Raises:
            InputError: Labels that are no classes.
        """
        self._classes = None if classes is None else typed_classes(classes)
        head = ClassificationHead(self._plan, 1 if self._classes is None else len(self._classes), seed)
        head.begin_as(self.bert.pooler)
        self.head = head.to(self.device)
        self.decision, self.score_scale, self.temperature = None, SIGMOID_SCALE, None

    def forward(self, batch: PackedBatch) -> Tensor:
        """Return the pooled vectors of a packed batch, shape (N, D), float32, with gradients as torch is set.

        The head, which takes them by columns, is the caller's to apply: ``model.head(columns)``.
        """
        return batch.pool(self.bert(batch), self._plan.token_pooling)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `from_pretrained` reads.

        Joined and single with the stock head: one that transformers' AutoModelForSequenceClassification, its
        text-classification pipeline and sentence-transformers' CrossEncoder read too. Otherwise a folder of a
        sentence encoder, which sentence-transformers reads, with the head beside it.

        Raises:
            InputError: There is no head yet.
            OutputError: The folder cannot be written.
        """
        source, head = self.bert.source, self._fitted_head()
        settings = ClassifierSettings(
            kind=self.kind,
            pooling=self.pooling,
            features=self.features,
            truncation=self.truncation,
            classes=self._classes,
            temperature=self.temperature,
            head_dropout=self.head_dropout,
        )
        own = OwnSettings(self.decision, self.score_scale, OwnSettings.of(source).others, settings.to_json())
        encoder = SiameseSettings(
            pooling=source.pooling if self.pooling == "pooler" else self.pooling,
            normalize=source.normalize,
            max_seq_length=self.max_seq_length,
            similarity=source.similarity,
            prompts=source.prompts,
            default_prompt_name=source.default_prompt_name,
            own=own,
        )
        parts = EncoderParts(self.bert.encoder, self.bert.pooler, self.bert.tokenizer)
        save_classifier(parts, encoder, settings, head, path_argument(folder, "folder"))

    def _fitted_head(self) -> ClassificationHead:
        if self.head is None:
            raise InputError("the classifier is not fitted yet: call fit, or start_head for a random head")
        return self.head

    def _known_classes(self) -> tuple[object, ...]:
        self._fitted_head()
        if self._classes is None:
            raise InputError("the classifier has one output and no classes: predict gives the graded scores")
        return self._classes
