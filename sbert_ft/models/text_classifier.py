"""`TextClassifier`: classes or scores of rows of one or two texts, whichever engine runs the encoder.

`classifier.py` has the model that torch runs, and `exported.py` the one that another engine runs. Names are those of
scikit-learn.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.settings import Features, Truncation
from sbert_ft.data.labels import names_of_classes
from sbert_ft.encoder.batching import PoolingMode
from sbert_ft.encoder.classes import ClassifierKind, HeadPooling, codes_of_labels, probabilities
from sbert_ft.errors import InputError, quoted
from sbert_ft.model_folder.classifier import ClassifierSettings
from sbert_ft.model_folder.decision import Decision, chosen_threshold, reaches
from sbert_ft.model_folder.metadata import OwnSettings
from sbert_ft.models.arrays import ArrayOperations
from sbert_ft.models.inference import (
    EmbedCount,
    EmbedSettings,
    OnTruncate,
    embed,
    paired_texts,
    refuse_rows,
    windows_of_pairs,
    windows_of_texts,
)
from sbert_ft.models.text_encoder import SequenceModel

# The range of a sigmoid, which a classifier with one output uses if it was not trained on another scale.
SIGMOID_SCALE = (0.0, 1.0)


class TextClassifier(SequenceModel, ABC):
    """A classifier of texts or of pairs of texts; with one output, a regressor.

    It has three kinds. Towers: both texts are encoded apart in the same batches, and the head gets their two vectors
    (Sentence-BERT, section 3). Joined: [CLS] a [SEP] b [SEP] is one sequence (the cross-encoder of Sentence-BERT's
    Table 2). Single: a row is one text.

    Attributes:
        bert: Tokenizer and encoder.
        kind, pooling, features, truncation: As at `ClassifierModel`.
        decision: The probability from which on a row matches; None if it was not fitted.
        score_scale: For one output: lowest and highest score of the training data.
        temperature: What the logits were divided by, which is part of the head; None without calibration.
    """

    kind: ClassifierKind
    pooling: HeadPooling
    features: Features
    truncation: Truncation
    decision: Decision | None
    score_scale: tuple[float, float]
    temperature: float | None
    _classes: tuple[object, ...] | None
    _hint: str

    @property
    @abstractmethod
    def n_outputs(self) -> int:
        """Number of logits of a row, K; 1 for a graded score."""

    @property
    @abstractmethod
    def token_pooling(self) -> PoolingMode:
        """How a sequence's tokens become the vector that the head reads."""

    @abstractmethod
    def _check_head(self) -> None:
        """Raise an `InputError` where there is no head yet."""

    @abstractmethod
    def logits_of(self, columns: Sequence[Any]) -> Any:
        """Return the logits, shape (B, K), of the vectors of B rows: two of shape (B, D) for towers, otherwise one."""

    def _read_own_settings(self, settings: ClassifierSettings) -> None:
        """Take from the folder what was fitted after the head."""
        source = self.bert.source
        own = OwnSettings.of(source)
        self.decision = own.decision if own.decision is not None and own.decision.similarity == "probability" else None
        self.score_scale = own.score_scale if "score_scale" in source.own else SIGMOID_SCALE
        self.temperature = settings.temperature

    @property
    def n_texts(self) -> int:
        """Number of texts of a row: 1 for the kind single, 2 for the others."""
        return 1 if self.kind == "single" else 2

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
        self._check_head()
        return names_of_classes(self._classes or ())

    def _classes_of_head(self) -> tuple[object, ...]:
        self._check_head()
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
        self._check_head()
        settings = EmbedSettings(
            self.token_pooling,
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
        of_vectors = None if self.kind == "towers" else lambda vectors: self.logits_of([vectors])
        n_done = 0
        for columns in embed(self.bert, windows, settings, count, of_vectors):
            # a GPU is waited for only by this copy
            logits = self.bert.operations.to_numpy(columns[0] if of_vectors else self.logits_of(columns))
            if check_finite and len(wrong := ArrayOperations().not_finite(logits)):
                refuse_rows(wrong, len(logits), "logits", "row at position {}".format, self.bert, n_done)
            n_done += len(logits)
            yield logits

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
        from scipy.stats import spearmanr

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
