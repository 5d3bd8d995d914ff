"""`TextEncoder`: what runs token sequences through an encoder, whichever engine computes; and models on top of one."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from sbert_ft.arguments import whole_number
from sbert_ft.encoder.batching import PoolingMode
from sbert_ft.errors import shown
from sbert_ft.model_folder.layout import ModelFolder
from sbert_ft.models.arrays import ArrayOperations
from sbert_ft.tokenization.text_tokens import TextTokens
from sbert_ft.tokenization.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

# With this share or more, the vocabulary hardly covers the texts' language or script.
UNKNOWN_SHARE = 0.1


class TextEncoder(ABC):
    """A tokenizer, and an encoder that an engine runs.

    Attributes:
        tokenizer: The folder's tokenizer.
        source: The folder as it was read: pooling, length, prompts and so on.
    """

    tokenizer: TextTokenizer
    source: ModelFolder
    _said_unknown = False

    @property
    @abstractmethod
    def hidden_size(self) -> int:
        """Width of a token's vector, D."""

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """Tokens of the longest text that the encoder has positions for, special ones included."""

    @property
    @abstractmethod
    def token_budget(self) -> int:
        """Most tokens of a forward that still help speed."""

    @property
    @abstractmethod
    def operations(self) -> ArrayOperations:
        """What is done with the vectors that it returns."""

    @property
    def computes_beside(self) -> bool:
        """Whether texts are tokenised while a forward runs, since that is not done by the CPU."""
        return False

    @abstractmethod
    def vectors(self, sequences: TextTokens, pooling: PoolingMode, budget: int) -> tuple[Any, int]:
        """Return the vectors of N sequences, shape (N, D), float32, and the most tokens that fitted into memory.

        `budget` is the most tokens of a forward. A `ResourceError` if a single sequence does not fit into memory.
        """

    @abstractmethod
    def why_not_finite(self) -> str:
        """Return why a result may be NaN or infinite, and what to do."""

    @abstractmethod
    def describe(self) -> str:
        """Return a line with the kind of encoder, and how and where it is computed."""

    def warn_of_unknown(self, n_unknown: int, n_tokens: int, texts: Sequence[str]) -> None:
        """Log a warning, once for this model, where many of the texts' own tokens are unknown to its vocabulary.

        `texts` are some that have unknown tokens; they tell the cause.
        """
        if self._said_unknown or n_unknown < UNKNOWN_SHARE * n_tokens or not n_unknown:
            return
        self._said_unknown = True
        cause = self.tokenizer.why_unknown(texts)
        logger.warning(
            "%.1f %% of the texts' tokens are unknown to the vocabulary of %s%s: their vectors mean little; %s",
            *(100 * n_unknown / n_tokens, shown(self.source.path), cause.in_brackets, cause.remedy),
        )


class SequenceModel:
    """A model on a text encoder, `bert`; if it `joins_pairs`, a sequence has two texts."""

    bert: TextEncoder

    def _set_up(self, bert: TextEncoder, max_seq_length: int | None, joins_pairs: bool) -> None:
        """Combine the model with its encoder; an `InputError` for a length that it has no positions for."""
        self.bert = bert
        self._joins_pairs = joins_pairs
        self._max_seq_length = min(bert.source.max_seq_length or bert.max_tokens, bert.max_tokens)
        if max_seq_length is not None or joins_pairs:
            self.max_seq_length = self._max_seq_length if max_seq_length is None else max_seq_length

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer, which works in Rust on many texts at a time."""
        return self.bert.tokenizer

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a sequence, special ones included; ``on_truncate`` says what happens to longer ones."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        least = self.tokenizer.n_pair_special + 2 if self._joins_pairs else self.tokenizer.n_special + 1
        self._max_seq_length = whole_number(value, "max_seq_length", least, self.bert.max_tokens)
