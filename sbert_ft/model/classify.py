"""From any number of rows of one or two texts to logits, a window at a time, with bounded memory.

Each distinct text of a window is tokenised once; a single text is also computed once. Joined pairs are made of their
texts' tokens (`TextTokenizer.join`), so a text that stands in a thousand pairs is tokenised for the first alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbert_ft.config.settings import Truncation
from sbert_ft.encoder.devices import to_device
from sbert_ft.encoder.heads import ClassificationHead
from sbert_ft.errors import InputError, quoted
from sbert_ft.model.connection_bert import ConnectionBert
from sbert_ft.model.embed import (
    EmbedCount,
    EmbedSettings,
    Sequences,
    computed,
    count_window,
    ordered_texts,
    refuse_not_finite,
    warn_of_cuts,
    windows_of,
)
from sbert_ft.model.pair_embed import embed_pairs, pair_of, windows_of_pairs
from sbert_ft.model.tokenizer import check_texts


@dataclass(frozen=True)
class RowReading:
    """How rows become logits.

    Attributes:
        settings: As for vectors.
        truncation: Joined pairs: which text is cut.
        hint: Ends the message about a row that is none of the classifier's kind.
    """

    settings: EmbedSettings
    truncation: Truncation
    hint: str = ""


def classify(
    model: ConnectionBert, head: ClassificationHead, rows: Iterable[Any], reading: RowReading, count: EmbedCount
) -> Iterator[Tensor]:
    """Yield the logits of the rows, window by window, in order; what was cut is said at the end.

    Args:
        model: Tokenizer and encoder.
        head: What is put on its vectors; it tells what a row is.
        rows: Texts or pairs, as the head's kind has them; read once, a window ahead of the logits.
        reading: See there.
        count: Filled while the rows are read.

    Yields:
        Shape (rows of the window, K), float32, on the CPU; the copy is the one wait for a GPU.

    Raises:
        InputError: A row is none of this kind, or too long where that is an error, or its logits are not finite; with
            its position.
        ResourceError: One sequence alone does not fit into memory.
    """
    n_done = 0
    for on_device in _classify(model, head, rows, reading, count):
        logits = on_device.cpu()
        if reading.settings.check_finite:
            refuse_not_finite(logits, "logits", _row_at, n_done, model)
        n_done += len(logits)
        yield logits
    warn_of_cuts(count, reading.settings, "pairs" if head.plan.kind == "joined" else "texts")


def _classify(
    model: ConnectionBert, head: ClassificationHead, rows: Iterable[Any], reading: RowReading, count: EmbedCount
) -> Iterator[Tensor]:
    kind = head.plan.kind
    if isinstance(rows, (str, bytes)):
        raise InputError(f"X is {quoted(rows)}, expected a list of {'texts' if kind == 'single' else 'pairs of texts'}")
    if kind == "single":
        yield from _of_texts(model, head, ordered_texts(rows), reading, count)
    else:
        hint = f"; this classifier takes pairs{reading.hint}"
        pairs = _as_pairs(rows)
        if kind == "joined":
            yield from _of_joined(model, head, pairs, reading, count, hint)
        else:
            # a vector that is not finite shows in its row's logits
            for columns in embed_pairs(model, pairs, replace(reading.settings, check_finite=False), count, hint):
                yield head.logits(columns)


def _of_texts(
    model: ConnectionBert, head: ClassificationHead, texts: Iterable[str], reading: RowReading, count: EmbedCount
) -> Iterator[Tensor]:
    """Yield the logits of single texts; each distinct one of a window is computed once."""
    tokenizer, settings = model.tokenizer, reading.settings

    def distinct(window: list[str]) -> tuple[list[str], NDArray[np.int64]]:
        places = {text: place for place, text in enumerate(dict.fromkeys(window))}
        return list(places), np.fromiter((places[text] for text in window), np.int64, len(window))

    def prepare(window: tuple[list[str], NDArray[np.int64]]) -> Sequences:
        bodies = tokenizer.tokenize(window[0])
        count_window(model, bodies, (bodies.lengths + tokenizer.n_special)[window[1]], settings, count, _text_at)
        if settings.on_truncate == "chunk":
            return Sequences(*tokenizer.frame_windows(bodies, settings.max_seq_length, settings.overlap))
        return Sequences(tokenizer.frame(bodies, settings.max_seq_length))

    windows = map(distinct, _checked_windows(texts, reading.hint))
    for (_, rows), logits in computed(model, windows, prepare, settings, count, lambda v: head.logits([v])):
        yield logits[to_device(torch.from_numpy(rows), logits.device)]


def _checked_windows(texts: Iterable[str], hint: str) -> Iterator[list[str]]:
    """Yield the texts in windows.

    Raises:
        InputError: One is no string that can be encoded; with its position.
    """
    n_done = 0
    for window in windows_of(texts):
        for position, text in enumerate(window, n_done):
            if not isinstance(text, str):
                raise InputError(
                    f"text at position {position} is {quoted(text)} ({type(text).__name__}), expected a string: this "
                    f"classifier takes single texts{hint}"
                )
        check_texts(window, n_done)
        n_done += len(window)
        yield window


def _of_joined(
    model: ConnectionBert,
    head: ClassificationHead,
    pairs: Iterable[tuple[str, str]],
    reading: RowReading,
    count: EmbedCount,
    hint: str,
) -> Iterator[Tensor]:
    """Yield the logits of joined pairs; each distinct text of a window is tokenised once."""
    tokenizer, settings = model.tokenizer, reading.settings

    def prepare(window: tuple[list[str], NDArray[np.int64]]) -> Sequences:
        texts, rows = window
        check_texts(texts, 0, partial(pair_of, rows, 0, count.n_texts))
        bodies = tokenizer.tokenize(texts)
        count_window(model, bodies, bodies.lengths[rows].sum(0) + tokenizer.n_pair_special, settings, count, _pair_at)
        first, second = bodies.select(rows[0]), bodies.select(rows[1])
        if settings.on_truncate == "chunk":
            return Sequences(*tokenizer.join_windows(first, second, settings.max_seq_length, settings.overlap))
        return Sequences(tokenizer.join(first, second, settings.max_seq_length, reading.truncation))

    windows = windows_of_pairs(pairs, hint)
    for _, logits in computed(model, windows, prepare, settings, count, lambda v: head.logits([v])):
        yield logits


def _as_pairs(rows: Iterable[Any]) -> Iterable[tuple[str, str]]:
    """Return what can be read pair by pair; a frame or array of two columns by its rows."""
    if getattr(rows, "ndim", 1) == 2 and hasattr(rows, "to_numpy"):
        by_row: Iterable[tuple[str, str]] = rows.to_numpy(dtype=object)
        return by_row
    return rows


def _row_at(position: int) -> str:
    return f"row at position {position}"


def _text_at(position: int) -> str:
    return f"text at position {position}"


def _pair_at(position: int) -> str:
    return f"pair at position {position}"
