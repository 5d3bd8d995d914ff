"""Vectors of length 1 of many texts, for all that compares texts with each other: mining, and judging a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sbert_ft.models.inference import OnTruncate
from sbert_ft.models.sentence_encoder import SentenceEncoder
from sbert_ft.vectors.nearest import Vectors, unit_rows


@dataclass(frozen=True)
class Encoding:
    """How texts are encoded, and who is told how far it is.

    Attributes:
        batch_size: As in `SentenceEncoder.encode`, as is `on_truncate`.
        on_encoded: Called with the number of newly encoded texts, some thousand at a time.
    """

    batch_size: int = 32
    on_truncate: OnTruncate = "warn"
    on_encoded: Callable[[int], None] = lambda n: None


def unit_vectors(model: SentenceEncoder, texts: Sequence[str], prompt: str, encoding: Encoding) -> Vectors:
    """Return the vectors of texts with a prompt, scaled to length 1: shape (n, d), float32.

    Raises:
        InputError: As in `SentenceEncoder.encode`.
    """
    vectors = np.empty((len(texts), model.get_embedding_dimension()), np.float32)
    n_done = 0
    stream = model.encode_stream(
        texts, prompt=prompt, batch_size=encoding.batch_size, on_truncate=encoding.on_truncate, device="cpu"
    )
    for part in stream:
        vectors[n_done : n_done + len(part)] = unit_rows(model.bert.operations.to_numpy(part))
        n_done += len(part)
        encoding.on_encoded(len(part))
    return vectors
