"""The token ids of many texts in one flat array, with the offset at which each text begins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TextTokens:
    """The tokens of N texts, flat: text i is ``token_ids[offsets[i]:offsets[i + 1]]``.

    Attributes:
        token_ids: Shape (T,), int32.
        offsets: Shape (N + 1,), int64, rising from 0 to T.
        token_types: Shape (T,), uint8 (0 first, 1 second text of a pair), or None for all 0.
    """

    token_ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    token_types: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each text, shape (N,), int64."""
        return np.diff(self.offsets)

    def select(self, texts: NDArray[np.int64]) -> TextTokens:
        """Return the texts with these indices, in this order."""
        lengths = self.offsets[texts + 1] - self.offsets[texts]  # only of these: there may be millions of texts
        offsets = offsets_of(lengths)
        source = np.arange(offsets[-1]) + np.repeat(self.offsets[texts] - offsets[:-1], lengths)
        types = None if self.token_types is None else self.token_types[source]
        return TextTokens(self.token_ids[source], offsets, types)


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where pieces of these lengths begin when laid end to end, and the end: shape (N + 1,), int64."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
