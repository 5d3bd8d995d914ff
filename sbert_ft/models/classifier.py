"""`ClassifierModel`: an encoder with a head that gives each row of one or two texts a class, or a graded score.

Three arrangements share it. Towers: both texts apart in one packed batch, the head over their two vectors
(Sentence-BERT, section 3). Joined: [CLS] a [SEP] b [SEP] as one sequence (the cross-encoder of Sentence-BERT's Table
2). Single: one text. Names are those of scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from sbert_ft.arguments import instance_argument, path_argument, whole_number
from sbert_ft.config.settings import Features, Truncation
from sbert_ft.encoder.class_names import codes_of_labels, typed_array, typed_classes
from sbert_ft.encoder.devices import Precision
from sbert_ft.encoder.heads import (
    ClassificationHead,
    ClassifierKind,
    HeadPooling,
    check_truncation,
    plan_head,
    probabilities,
)
from sbert_ft.encoder.packing import PackedBatch, PoolingMode
from sbert_ft.errors import InputError, quoted
from sbert_ft.model_folder.classifier import ClassifierSettings, find_classifier, read_head
from sbert_ft.model_folder.decision import Decision, chosen_threshold, reaches
from sbert_ft.model_folder.layout import read_folder
from sbert_ft.model_folder.metadata import OwnSettings
from sbert_ft.model_folder.writer import EncoderParts, SiameseSettings, save_classifier
from sbert_ft.models.connection_bert import ConnectionBert, compile_encoder
from sbert_ft.models.inference import EmbedCount, EmbedSettings, OnTruncate, RowReading, classify
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.tokenization.tokenizer import TextTokenizer

# Of a sigmoid: what holds where a classifier with one output was not trained on another scale.
SIGMOID_SCALE = (0.0, 1.0)
_Self = TypeVar("_Self", bound="ClassifierModel")


class ClassifierModel(nn.Module):
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
    compile = compile_encoder  # type: ignore[assignment]

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

    def logits_stream(
        self,
        rows: Iterable[Any],
        batch_size: int = 32,
        *,
        on_truncate: OnTruncate = "warn",
        count: EmbedCount | None = None,
        check_finite: bool = True,
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the logits of any iterable of rows, some thousand at a time, with bounded memory.

        Args:
            rows: Texts (kind single) or pairs of texts.
            batch_size: Bounds memory as in `SiameseBert.encode`; how rows are batched does not change a logit.
            on_truncate: What to do with sequences longer than `max_seq_length`: cut them and ``warn`` with their
                number, raise an ``error``, cut and ``ignore``, or ``chunk``: the mean of the logits over windows
                that overlap by a quarter (towers: the mean of the vectors).
            count: Filled with what was met on the way.
            check_finite: Refuse logits that are NaN or infinite; without it they are given out as they are.

        Yields:
            Shape (rows of the window, K), float32.

        Raises:
            InputError: A row is none of this kind, or its logits are not finite, with its position; or there is no
                head yet.
            ResourceError: One sequence alone does not fit into memory.
        """
        settings = EmbedSettings(
            self._plan.token_pooling, self.max_seq_length, batch_size, on_truncate, check_finite=check_finite
        )
        reading = RowReading(settings, self.truncation, self._hint)
        for logits in classify(self.bert, self._fitted_head(), rows, reading, count or EmbedCount()):
            yield logits.numpy()

    def predict(self, X: Iterable[Any], batch_size: int = 32, *, on_truncate: OnTruncate = "warn") -> NDArray[Any]:
        """Return the likeliest class of each row: shape (n,), of the type of `classes_`.

        With one output the score of each row, float32, on `score_scale`.

        Args:
            X: Texts (kind single) or pairs of texts: a list, array, Series, frame of two columns or generator.
            batch_size: See `logits_stream`.
            on_truncate: See `logits_stream`.

        Raises:
            InputError: As in `logits_stream`.
        """
        logits = self._logits(X, batch_size, on_truncate)
        if self._classes is not None:
            labels: NDArray[Any] = self.classes_[logits.argmax(1)]
            return labels
        low, high = self.score_scale
        scores: NDArray[np.float32] = (low + (high - low) * self._probabilities(logits)[:, 0]).astype(np.float32)
        return scores

    def predict_proba(
        self, X: Iterable[Any], batch_size: int = 32, *, on_truncate: OnTruncate = "warn"
    ) -> NDArray[np.float32]:
        """Return the probability of each class for each row: shape (n, K), float32, rows that sum to 1.

        Raises:
            InputError: There are no classes but one output, or as in `logits_stream`.
        """
        self._known_classes()
        return self._probabilities(self._logits(X, batch_size, on_truncate))

    def score(self, X: Iterable[Any], y: Iterable[Any], batch_size: int = 32) -> float:
        """Return the share of rows whose likeliest class is that of `y`, 0 to 1.

        With one output Spearman's correlation of the scores with those of `y`, -1 to 1.

        Raises:
            InputError: `y` has another length than `X`, or labels of another type than `classes_`; a correlation
                that is not defined; or as in `logits_stream`.
        """
        logits = self._logits(X, batch_size, "warn")
        if isinstance(y, (str, bytes)) or not hasattr(y, "__iter__") or getattr(y, "ndim", 1) != 1:
            raise InputError(f"y is of type {type(y).__name__}, expected a list of labels, one a row")
        gold = list(y)
        if len(gold) != len(logits):
            raise InputError(f"X has {len(logits):,} rows and y has {len(gold):,} labels; expected as many")
        if not gold:
            raise InputError("X has no rows: there is nothing to score")
        if self._classes is not None:
            return float((codes_of_labels(gold, self._classes) == logits.argmax(1)).mean())
        scores, wanted = self._probabilities(logits)[:, 0], _numbers(gold)
        if np.ptp(scores) == 0 or np.ptp(wanted) == 0:
            raise InputError("Spearman's correlation is not defined: the scores or those of y are all the same")
        return float(spearmanr(scores, wanted).statistic)

    def connection_scores(
        self,
        rows: Iterable[Any],
        batch_size: int = 32,
        *,
        on_truncate: OnTruncate = "warn",
        count: EmbedCount | None = None,
    ) -> NDArray[np.float32]:
        """Return what `match` compares: the probability of the second of two classes, or the sigmoid of one output.

        Returns:
            Shape (n,), float32, 0 to 1.

        Raises:
            InputError: There are more than two classes, or as in `logits_stream`.
        """
        if self.n_outputs > 2:
            raise InputError(
                f"the classifier has {self.n_outputs} classes: whether a row matches is defined for two classes, or "
                "for one output",
                "use predict",
            )
        return self._probabilities(self._logits(rows, batch_size, on_truncate, count))[:, -1]

    def match(
        self,
        X: Iterable[Any],
        batch_size: int = 32,
        *,
        threshold: float | None = None,
        on_truncate: OnTruncate = "warn",
    ) -> NDArray[np.bool_]:
        """Return whether each row is of the second of two classes, or its score is high enough: shape (n,), bool.

        Args:
            X: As in `predict`.
            batch_size: See `logits_stream`.
            threshold: The probability from which on rows match, in place of the stored one.
            on_truncate: See `logits_stream`.

        Raises:
            InputError: There is neither a stored threshold nor a given one, there are more than two classes, or as in
                `logits_stream`.
        """
        chosen = chosen_threshold(self.decision, threshold, "probability")
        return reaches(self.connection_scores(X, batch_size, on_truncate=on_truncate), chosen)

    def calibrate(self, temperature: float, bias: float = 0.0) -> None:
        """Fold a calibration into the head: logits are divided by `temperature`, and `bias` added.

        Guo et al. 2017, section 4.2; no prediction changes by a temperature.

        Raises:
            InputError: The temperature is no number above 0, or the bias none.
        """
        for name, value in (("temperature", temperature), ("bias", bias)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise InputError(f"{name} is {quoted(value)}, expected a finite number")
        if temperature <= 0:
            raise InputError(f"temperature is {temperature:g}, expected a number above 0")
        self._fitted_head().scale(1 / temperature, bias)
        self.temperature = temperature * (1.0 if self.temperature is None else self.temperature)

    def as_sentence_encoder(self) -> SiameseBert:
        """Return the encoder with pooling, for vectors and cosines: the very same weights, no copy."""
        pooling: PoolingMode | None = None if self.pooling == "pooler" else self.pooling
        model = SiameseBert(self.bert, pooling)
        if self.kind != "joined":  # the length of a pair says nothing of a text
            model.max_seq_length = self.max_seq_length
        model.decision = None
        return model

    def _logits(
        self, rows: Iterable[Any], batch_size: int, on_truncate: OnTruncate, count: EmbedCount | None = None
    ) -> NDArray[np.float32]:
        parts = list(self.logits_stream(rows, batch_size, on_truncate=on_truncate, count=count))
        return np.concatenate(parts) if parts else np.zeros((0, self.n_outputs), np.float32)

    @staticmethod
    def _probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = probabilities(torch.from_numpy(logits)).numpy()
        return found


def _numbers(gold: list[Any]) -> NDArray[np.float64]:
    try:
        return np.asarray(gold, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"y holds something that is no number, such as {quoted(gold[0])}: {error}") from error


# What can be trained: a sentence encoder, or a classifier.
TrainableModel = SiameseBert | ClassifierModel
