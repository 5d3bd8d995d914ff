"""`ClassifierModel`: an encoder with a head that gives each row of one or two texts a class, or a graded score.

Three arrangements share it. Towers: both texts apart in one packed batch, the head over their two vectors
(Sentence-BERT, section 3). Joined: [CLS] a [SEP] b [SEP] as one sequence (the cross-encoder of Sentence-BERT's Table
2). Single: one text. Names are those of scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sbert_ft.encoder.class_names import codes_of_labels
from sbert_ft.encoder.heads import probabilities
from sbert_ft.encoder.packing import PoolingMode
from sbert_ft.errors import InputError, quoted
from sbert_ft.evaluation.metrics import metric_value
from sbert_ft.model.classify import RowReading, classify
from sbert_ft.model.compiling import compile_encoder
from sbert_ft.model.embed import EmbedCount, EmbedSettings, OnTruncate
from sbert_ft.model.encoder_with_head import EncoderWithHead
from sbert_ft.model.siamese import SiameseBert
from sbert_ft.model_folder.decision import chosen_threshold, reaches


class ClassifierModel(EncoderWithHead):
    """A classifier of texts or of pairs of texts, or with one output a regressor; attributes as in the parent."""

    compile = compile_encoder  # type: ignore[assignment]

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
        value = metric_value("spearman", self._probabilities(logits)[:, 0], _numbers(gold))
        if value is None:
            raise InputError("Spearman's correlation is not defined: the scores or those of y are all the same")
        return value

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
                "for one output; use predict"
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
