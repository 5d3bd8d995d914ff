"""`ClassifierModel`: an encoder with a head that gives each row of one or two texts a class, or a graded score.

It has three kinds. Towers: both texts are encoded apart in one packed batch, and the head gets their two vectors
(Sentence-BERT, section 3). Joined: [CLS] a [SEP] b [SEP] is one sequence (the cross-encoder of Sentence-BERT's Table
2). Single: a row is one text. Names are those of scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn

from sbert_ft.arguments import path_argument, word_argument
from sbert_ft.config.settings import Features, Truncation
from sbert_ft.data.labels import names_of_classes
from sbert_ft.encoder.devices import Precision
from sbert_ft.encoder.heads import (
    ClassificationHead,
    ClassifierKind,
    HeadPooling,
    codes_of_labels,
    plan_head,
    probabilities,
    typed_classes,
)
from sbert_ft.encoder.packing import PackedBatch, PoolingMode
from sbert_ft.errors import InputError, quoted
from sbert_ft.model_folder.classifier import ClassifierSettings, find_classifier, read_head
from sbert_ft.model_folder.decision import Decision, chosen_threshold, reaches
from sbert_ft.model_folder.layout import ModelFolder, read_folder
from sbert_ft.model_folder.metadata import OwnSettings
from sbert_ft.model_folder.writer import EncoderParts, save_classifier
from sbert_ft.models.connection_bert import ConnectionBert, TextModel
from sbert_ft.models.inference import (
    EmbedCount,
    EmbedSettings,
    OnTruncate,
    embed,
    paired_texts,
    refuse_not_finite,
    windows_of_pairs,
    windows_of_texts,
)
from sbert_ft.models.siamese import SiameseBert

# The range of a sigmoid, which a classifier with one output uses if it was not trained on another scale.
SIGMOID_SCALE = (0.0, 1.0)
# Arguments of the class that are attributes and keys of sbert_ft.json too.
_SETTINGS = ("pooling", "features", "truncation", "head_dropout")
_Self = TypeVar("_Self", bound="ClassifierModel")


class ClassifierModel(TextModel):
    """A classifier of texts or of pairs of texts; with one output, a regressor.

    Without a head (before `start_head`), what needs one raises an `InputError`.

    Attributes:
        bert: Tokenizer and encoder.
        kind, pooling, features, truncation, head_dropout, class_weight: As in `__init__`, without None.
        head: The head, which computes logits from vectors; None before `start_head`.
        decision: The probability from which on a row matches; None if it was not fitted.
        score_scale: For one output: lowest and highest score of the training data.
        temperature: What `calibrate` has divided the logits by, which is part of the head; None without calibration.
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

    @classmethod
    def from_pretrained(
        cls: type[_Self],
        folder: str | Path | ModelFolder,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        max_seq_length: int | None = None,
        *,
        kind: ClassifierKind | None = None,
    ) -> _Self:
        """Return the classifier of a local folder: saved by this library, or a stock ...ForSequenceClassification.

        Other arguments, and errors, as in `ConnectionBert.from_pretrained`; the head always computes in float32.

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
        found = find_classifier(source, kind)
        settings = found.settings
        bert = ConnectionBert.from_pretrained(source, device, precision)
        given = {name: getattr(settings, name) for name in _SETTINGS}
        model = cls(bert, settings.kind, max_seq_length=max_seq_length, **given)
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
    def n_texts(self) -> int:
        """Number of texts of a row: 1 for the kind single, 2 for the others."""
        return 1 if self.kind == "single" else 2

    @property
    def n_outputs(self) -> int:
        """Number of logits of a row, K; 1 for a graded score."""
        return self._fitted_head().n_outputs

    @property
    def classes_(self) -> NDArray[Any]:
        """The classes in the order of their logits: shape (K,), of the labels' type.

        One output without classes raises an `InputError`.
        """
        return np.array(self._classes_of_head())

    @property
    def known_classes(self) -> tuple[object, ...] | None:
        """The classes in the order of their logits, with their types, even before there is a head; None for none."""
        return self._classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes as strings, in the order of their logits; empty for one output."""
        self._fitted_head()
        return names_of_classes(self._classes or ())

    @property
    def is_stock(self) -> bool:
        """Whether `save_pretrained` writes a stock folder, which other libraries load as a classifier."""
        return self._plan.stock is not None

    @property
    def trained(self) -> nn.Module:
        """The module with the trained parameters (shared, not copied), named ``encoder.*`` and ``head.*``."""
        return nn.ModuleDict({"encoder": self.bert.encoder, "head": self._fitted_head()})

    def start_head(self, classes: Sequence[object] | None, seed: int = 42) -> None:
        """Replace the head by a new one with random weights (or those of a pretrained pooler); reset the calibration.

        `classes` are at least two different labels, all words or all numbers; None for one output, a graded score.

        Raises:
            InputError: The labels are not valid classes.
        """
        self._classes = None if classes is None else typed_classes(classes)
        head = ClassificationHead(self._plan, 1 if self._classes is None else len(self._classes), seed)
        head.begin_as(self.bert.pooler)
        self.head = head.to(self.device)
        self.decision, self.score_scale, self.temperature = None, SIGMOID_SCALE, None

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

    def _classes_of_head(self) -> tuple[object, ...]:
        self._fitted_head()
        if self._classes is None:
            raise InputError("the classifier has one output and no classes", "use predict, which gives graded scores")
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
            on_truncate: As in `SiameseBert.encode`; ``chunk`` takes the mean of the logits over the windows of a
                sequence, for towers the mean of the vectors.
            count: Filled with counts of the texts and tokens while the rows are read.
            check_finite: Raise an error for logits that are NaN or infinite; False to yield them unchecked.

        Yields:
            Shape (rows of the window, K), float32.

        Raises:
            InputError: A row does not fit the kind, or its logits are not finite; with its position.
            ResourceError: A single sequence does not fit into memory.
        """
        head = self._fitted_head()
        settings = EmbedSettings(
            self._plan.token_pooling,
            self.max_seq_length,
            batch_size,
            on_truncate,
            truncation=self.truncation if self.kind == "joined" else None,
            check_finite=False,  # the logits are checked: they are not finite if a vector is not
        )
        if isinstance(rows, (str, bytes)):
            takes = "texts" if self.kind == "single" else "pairs of texts"
            raise InputError(f"X is {quoted(rows)}, expected a list of {takes}")
        if self.kind == "single":
            if getattr(rows, "ndim", 1) == 2 and rows.shape[1] == 1:  # type: ignore[attr-defined]
                rows = np.asarray(rows, object).ravel()
            windows = windows_of_texts(rows, self._hint)
        else:
            if getattr(rows, "ndim", 1) == 2 and hasattr(rows, "to_numpy"):  # the rows of a data frame
                rows = rows.to_numpy(dtype=object)
            windows = windows_of_pairs(rows, f"; this classifier takes pairs{self._hint}")
        # with "chunk", the logits of a sequence's windows are averaged, but the vectors of a tower's
        of_vectors = None if self.kind == "towers" else lambda vectors: head.logits([vectors])
        n_done = 0
        for columns in embed(self.bert, windows, settings, count, of_vectors):
            # a GPU is waited for only by this copy
            logits = (head.logits(columns) if of_vectors is None else columns[0]).cpu()
            if check_finite:
                refuse_not_finite(logits, "logits", "row at position {}".format, self.bert, n_done)
            n_done += len(logits)
            yield logits.numpy()

    def predict(self, X: Any, second: Any = None, batch_size: int = 32, *, on_truncate: OnTruncate = "warn") -> Any:
        """Return the most probable class of each row: shape (n,), of the type of `classes_`.

        With one output, return the score of each row, float32, on `score_scale`. Of a single row, ``predict("a text")``
        or ``predict("a", "b")`` and ``predict(("a", "b"))`` for a pair, return the class itself, or the score. Other
        arguments, and errors, as in `logits_stream`.

        Args:
            X: Texts (kind single) or pairs of texts: a list, array, Series, frame of columns or generator; or one row.
            second: The second texts of the pairs, of which X then has the first ones.
        """
        rows, is_one = self._rows(X, second)
        logits = self._logits(rows, batch_size, on_truncate)
        if self._classes is not None:
            predicted: NDArray[Any] = self.classes_[logits.argmax(1)]
        else:
            low, high = self.score_scale
            predicted = (low + (high - low) * probabilities(logits)[:, 0]).astype(np.float32)
        return predicted.tolist()[0] if is_one else predicted

    def predict_proba(
        self, X: Any, second: Any = None, batch_size: int = 32, *, on_truncate: OnTruncate = "warn"
    ) -> NDArray[np.float32]:
        """Return the probability of each class for each row: shape (n, K), float32; each row sums to 1.

        Of a single row, the shape is (K,). Arguments and errors as in `predict`; one output without classes raises an
        `InputError`.
        """
        self._classes_of_head()
        rows, is_one = self._rows(X, second)
        found = probabilities(self._logits(rows, batch_size, on_truncate))
        return found[0] if is_one else found

    def score(self, X: Iterable[Any], y: Iterable[Any], batch_size: int = 32) -> float:
        """Return the accuracy: the share of rows whose most probable class is the label in `y`, 0 to 1.

        With one output, return Spearman's correlation of the scores with those in `y`, -1 to 1.

        Raises:
            InputError: `y` has another length than `X`, or labels of another type than `classes_`; there are no rows;
                the correlation is not defined; or as in `logits_stream`.
        """
        logits = self._logits(X, batch_size, "warn")
        gold = listed_labels(y, "y")
        if len(gold) != len(logits):
            raise InputError(f"X has {len(logits):,} rows, but y has {len(gold):,} labels; expected one for each row")
        if not gold:
            raise InputError("X has no rows: there is nothing to score")
        if self._classes is not None:
            return float((codes_of_labels(gold, self._classes) == logits.argmax(1)).mean())
        scores = probabilities(logits)[:, 0]
        try:
            wanted = np.asarray(gold, np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"y holds something that is not a number: {error}") from error
        if np.ptp(scores) == 0 or np.ptp(wanted) == 0:
            raise InputError("Spearman's correlation is not defined: the scores, or those in y, are all the same")
        return float(spearmanr(scores, wanted).statistic)

    def connection_scores(
        self,
        rows: Iterable[Any],
        batch_size: int = 32,
        *,
        on_truncate: OnTruncate = "warn",
        count: EmbedCount | None = None,
    ) -> NDArray[np.float32]:
        """Return what `match` compares with the threshold: shape (n,), float32, 0 to 1.

        It is the second class's probability, or one output's sigmoid. Arguments and errors as in `match`.
        """
        if self.n_outputs > 2:
            fault = f"the classifier has {self.n_outputs} classes, but a match is defined only for two classes or one"
            raise InputError(f"{fault} output", "use predict")
        return probabilities(self._logits(rows, batch_size, on_truncate, count))[:, -1]

    def match(
        self,
        X: Any,
        second: Any = None,
        batch_size: int = 32,
        *,
        threshold: float | None = None,
        on_truncate: OnTruncate = "warn",
    ) -> Any:
        """Return whether each row's probability of the second class, or its score, reaches the threshold: (n,), bool.

        Other arguments, and errors, as in `predict`; without any threshold, or with more than two classes, it is an
        `InputError`. `threshold` is the lowest probability of a match, in place of the stored one.
        """
        chosen = chosen_threshold(self.decision, threshold, "probability")
        rows, is_one = self._rows(X, second)
        found = reaches(self.connection_scores(rows, batch_size, on_truncate=on_truncate), chosen)
        return bool(found[0]) if is_one else found

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

    def as_sentence_encoder(self) -> SiameseBert:
        """Return a sentence encoder for vectors and cosines; it shares the weights."""
        pooling: PoolingMode | None = None if self.pooling == "pooler" else self.pooling
        model = SiameseBert(self.bert, pooling)
        if self.kind != "joined":  # the length of a pair says nothing about the length of a text
            model.max_seq_length = self.max_seq_length
        model.decision = None
        return model

    def _rows(self, X: Any, second: Any) -> tuple[Any, bool]:
        """Return the rows of the arguments of `predict`, and whether they are one row that was given by itself."""
        if self.kind == "single":
            if second is not None:
                raise InputError("second is given, but this classifier takes single texts" + self._hint)
            return ([X], True) if isinstance(X, str) else (X, False)
        if second is None and isinstance(X, tuple) and len(X) == 2 and all(isinstance(x, str) for x in X):
            X, second = X
        return (X, False) if second is None else paired_texts(X, second)

    def _logits(
        self, rows: Iterable[Any], batch_size: int, on_truncate: OnTruncate, count: EmbedCount | None = None
    ) -> NDArray[np.float32]:
        stream = self.logits_stream(rows, batch_size, on_truncate=on_truncate, count=count)
        return np.concatenate([np.zeros((0, self.n_outputs), np.float32), *stream])


def listed_labels(values: Iterable[Any], name: str) -> list[Any]:
    """Return labels, one a row, as a list of plain Python values; raise an `InputError` for several columns.

    `values`, called `name` in messages, are a list, array, Series, or an array or frame of shape (n, 1).
    """
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__") or getattr(values, "ndim", 1) == 0:
        raise InputError(f"{name} is of type {type(values).__name__}, expected a list of labels, one a row")
    shape = tuple(getattr(values, "shape", ()))
    if len(shape) == 2 and shape[1] == 1:
        values = np.asarray(values).ravel()
    elif len(shape) > 1:
        raise InputError(
            f"{name} has several columns, expected one label a row; multi-label classification is not supported"
        )
    listed: list[Any] = np.asarray(values).tolist() if hasattr(values, "dtype") else list(values)
    return [value.item() if isinstance(value, np.generic) else value for value in listed]


# What can be trained: a sentence encoder, or a classifier.
TrainableModel = SiameseBert | ClassifierModel
