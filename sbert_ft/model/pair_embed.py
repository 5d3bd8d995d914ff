"""From any number of pairs to the vectors of both sides, a window at a time, each distinct text once a window."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbert_ft.encoder.devices import to_device
from sbert_ft.errors import InputError, quoted
from sbert_ft.model.connection_bert import ConnectionBert
from sbert_ft.model.embed import (
    EmbedCount,
    EmbedSettings,
    Sequences,
    computed,
    refuse_not_finite,
    tokenized_texts,
    window_is_full,
)


def windows_of_pairs(pairs: Iterable[tuple[str, str]], hint: str = "") -> Iterator[tuple[list[str], NDArray[np.int64]]]:
    """Return the pairs in windows, each as its distinct texts and the rows of both sides, shape (2, B).

    Args:
        pairs: Any iterable; read once.
        hint: Ends the message about something that is no pair.

    Raises:
        InputError: Something that is no pair of strings, with its position.
    """
    unordered = isinstance(pairs, (str, bytes, dict, set, frozenset)) or getattr(pairs, "ndim", 1) == 0
    if unordered or not hasattr(pairs, "__iter__"):
        raise InputError(f"pairs is of type {type(pairs).__name__}, expected a list of pairs of texts{hint}")
    distinct: dict[str, int] = {}
    rows: list[tuple[int, ...]] = []
    characters = 0
    for position, pair in enumerate(pairs):
        if isinstance(pair, (str, Mapping, Set)) or not hasattr(pair, "__len__") or len(pair) != 2:
            raise InputError(
                f"pair at position {position} is {quoted(pair)} ({type(pair).__name__}), expected a pair of texts{hint}"
            )
        for text in pair:
            if not isinstance(text, str):
                raise InputError(
                    f"pair at position {position} has {quoted(text)} ({type(text).__name__}), expected two strings; "
                    "drop the pair or replace the text"
                )
            if text not in distinct:
                distinct[text] = len(distinct)
                characters += len(text)
        rows.append(tuple(distinct[text] for text in pair))
        if window_is_full(2 * len(rows), characters):
            yield list(distinct), np.array(rows, np.int64).T
            distinct, rows, characters = {}, [], 0
    if rows:
        yield list(distinct), np.array(rows, np.int64).T


def embed_pairs(
    model: ConnectionBert,
    pairs: Iterable[tuple[str, str]],
    settings: EmbedSettings,
    count: EmbedCount,
    hint: str = "",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the vectors of both sides, window by window, in order; equal texts are computed once a window.

    Yields:
        Twice shape (pairs of the window, D), float32, on the model's device.

    Raises:
        InputError: Something that is no pair of strings, or too long; with the pair's position.
        ResourceError: One text alone does not fit into memory.
    """
    n_read = 0

    def prepare(window: tuple[list[str], NDArray[np.int64]]) -> Sequences:
        nonlocal n_read
        texts, rows = window
        name = partial(pair_of, rows, count.n_texts, n_read)
        n_read += rows.shape[1]
        return tokenized_texts(model, texts, settings, count, name)

    n_pairs = 0
    for (_, rows), vectors in computed(model, windows_of_pairs(pairs, hint), prepare, settings, count):
        if settings.check_finite:
            refuse_not_finite(vectors, "vector", partial(pair_of, rows, 0, n_pairs), 0, model)
        left, right = to_device(torch.from_numpy(rows), vectors.device)
        n_pairs += rows.shape[1]
        yield vectors[left], vectors[right]


def pair_of(rows: NDArray[np.int64], first_text: int, first_pair: int, text: int) -> str:
    """Return how a window's text is named in a message: by the first of the window's pairs that has it."""
    pair = first_pair + int(np.flatnonzero((rows == text - first_text).any(0))[0])
    return f"a text of the pair at position {pair}"
