"""Texts for mining: the distinct ones among them, and what is put before them.

Texts that are equal up to case, spacing and Unicode composition (`data.duplicates.text_key`) are one text here. It is
encoded once, as its first row has it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sbert_ft.data.duplicates import text_keys
from sbert_ft.errors import InputError, quoted

if TYPE_CHECKING:
    from sbert_ft.models.sentence_encoder import SentenceEncoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DistinctTexts:
    """The distinct texts among some rows.

    Attributes:
        texts: The distinct texts, in the order of their first rows.
        rows: The first row of each of them, shape (n_distinct,).
        of_row: The number of each row's text among them, shape (N,).
        keys: Key of each of them, shape (n_distinct,).
    """

    texts: list[str]
    rows: NDArray[np.int64]
    of_row: NDArray[np.int64]
    keys: NDArray[np.uint64]

    @classmethod
    def of(cls, texts: Sequence[str], name: str = "texts") -> DistinctTexts:
        """Return the distinct ones of some texts.

        Raises:
            InputError: There is none, or one is not a string; `name` is that of the argument.
        """
        if isinstance(texts, str) or not len(texts):
            found = "a single text" if isinstance(texts, str) else "none"
            raise InputError(f"{name}: expected a list of texts, found {found}")
        bad = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
        if bad is not None:
            raise InputError(f"{name}: text at position {bad} is {quoted(texts[bad])}, expected a string")
        keys = text_keys(texts)
        _, firsts, numbers = np.unique(keys, return_index=True, return_inverse=True)
        first_of_row = firsts[numbers]
        rows = np.sort(firsts)
        return cls([texts[row] for row in rows.tolist()], rows, np.searchsorted(rows, first_of_row), keys[rows])

    def repeats(self) -> NDArray[np.int64]:
        """Return the rows that repeat the text of an earlier row, in order."""
        return np.flatnonzero(self.rows[self.of_row] != np.arange(len(self.of_row)))

    def places(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the number of the distinct text with each of these keys, shape (n,); -1 where there is none."""
        order = np.argsort(self.keys)
        near = order[np.minimum(np.searchsorted(self.keys, keys, sorter=order), len(order) - 1)]
        return np.where(self.keys[near] == keys, near, -1)


def prompt_of_single_set(model: SentenceEncoder) -> str:
    """Return the prompt for texts that are compared with each other; where pairs have two, the second, with a warning.

    The score of a pair must not depend on which of its texts is the first.
    """
    first, second = model.prompts_of_pair
    if first != second:
        logger.warning(
            "the model has one prompt for the first and another for the second texts of pairs; here all texts get that "
            "of the second ones, so the stored threshold and probability are less certain"
        )
    return second
