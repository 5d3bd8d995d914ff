"""From any number of texts to vectors, a window at a time.

A window of some thousand texts is tokenised in one call, planned into batches of equal work with
the longest texts first, and leaves in the caller's order. So a million texts need the memory of
one window. When memory runs out, the token budget is halved and the rest of the window planned
anew: nothing that was computed is lost.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sbert_ft.errors import InputError, ResourceError, quoted
from sbert_ft.model.connection_bert import ConnectionBert
from sbert_ft.model.devices import is_out_of_memory, token_budget
from sbert_ft.model.packing import PoolingMode, TextTokens, offsets_of
from sbert_ft.model.planning import plan_forwards
from sbert_ft.model.tokenizer import check_texts, text_at

logger = logging.getLogger(__name__)

OnTruncate = Literal["warn", "error", "ignore", "chunk"]

WINDOW_TEXTS = 8192
# Long texts close a window early: their tokens take some thirty times the memory of the text.
WINDOW_CHARACTERS = 8_000_000
# Neighbouring windows of a text share this part of them (`on_truncate="chunk"`).
CHUNK_OVERLAP = 0.25


@dataclass(frozen=True)
class EmbedSettings:
    """How texts become vectors.

    Attributes:
        pooling: See `PackedBatch.pool`.
        max_seq_length: Tokens a text may have, special ones included.
        batch_size: A forward holds at most the tokens of so many texts of full length.
        on_truncate: What to do with longer texts: cut them and ``warn`` with their number, raise
            an ``error``, cut and ``ignore``, or ``chunk``: the mean over overlapping windows.
        prompt: Put before every text.
    """

    pooling: PoolingMode
    max_seq_length: int
    batch_size: int = 32
    on_truncate: OnTruncate = "warn"
    prompt: str = ""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: Not positive, or none of the words.
        """
        if self.pooling not in get_args(PoolingMode):
            words = ", ".join(get_args(PoolingMode))
            raise InputError(f"pooling is {quoted(self.pooling)}, expected one of {words}")
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise InputError(f"batch_size is {quoted(self.batch_size)}, expected a whole number of at least 1")
        if self.on_truncate not in get_args(OnTruncate):
            words = ", ".join(get_args(OnTruncate))
            raise InputError(f"on_truncate is {quoted(self.on_truncate)}, expected one of {words}")


@dataclass
class EmbedCount:
    """What was met on the way; grows while a stream is read.

    Attributes:
        n_texts: Texts so far.
        n_long: Of these, longer than ``max_seq_length``.
        longest: Tokens of the longest, special ones included.
        n_tokens: Tokens computed, special ones included.
        n_own_tokens: The texts' own tokens, without special ones and before any cut.
        n_unknown: Of these, the ones that the vocabulary does not have.
    """

    n_texts: int = 0
    n_long: int = 0
    longest: int = 0
    n_tokens: int = 0
    n_own_tokens: int = 0
    n_unknown: int = 0

    @property
    def unknown_share(self) -> float:
        """Share of the texts' own tokens that are unknown, 0 to 1; 0 where there is none."""
        return self.n_unknown / self.n_own_tokens if self.n_own_tokens else 0.0


def windows_of(texts: Iterable[str]) -> Iterator[list[str]]:
    """Return the texts in lists of at most `WINDOW_TEXTS`, fewer where they are long."""
    window: list[str] = []
    characters = 0
    for text in texts:
        window.append(text)
        characters += len(text) if isinstance(text, str) else 0
        if len(window) == WINDOW_TEXTS or characters > WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def embed(
    model: ConnectionBert,
    texts: Iterable[str],
    settings: EmbedSettings,
    count: EmbedCount,
    name: Callable[[int], str] = text_at,
) -> Iterator[Tensor]:
    """Yield the vectors of the texts, window by window, in order; what was cut is counted, not said.

    Args:
        model: Tokenizer and encoder.
        texts: Any iterable; read once, a window ahead of the vectors.
        settings: See there.
        count: Filled while the texts are read.
        name: How the text with this number is named in a message.

    Yields:
        Shape (texts of the window, D), float32, on the model's device.

    Raises:
        InputError: A text is no string, or too long where that is an error; with its position.
        ResourceError: One text alone does not fit into memory.
    """
    budget = min(settings.batch_size * settings.max_seq_length, token_budget(model.device))
    for window in windows_of(texts):
        check_texts(window, count.n_texts, name)
        prompted = [settings.prompt + text for text in window] if settings.prompt else window
        bodies = model.tokenizer.tokenize(prompted, count.n_texts)
        _count_window(model, bodies, settings, count, name)
        if settings.on_truncate == "chunk":
            overlap = int(settings.max_seq_length * CHUNK_OVERLAP)
            framed, n_chunks = model.tokenizer.frame_windows(bodies, settings.max_seq_length, overlap)
            vectors, budget = _run(model, framed, settings.pooling, budget)
            if len(framed) > len(window):
                starts = torch.from_numpy(offsets_of(n_chunks)[:-1]).to(vectors.device)
                rows = torch.arange(len(framed), device=vectors.device)
                vectors = F.embedding_bag(rows, vectors, starts, mode="mean")
        else:
            framed = model.tokenizer.frame(bodies, settings.max_seq_length)
            vectors, budget = _run(model, framed, settings.pooling, budget)
        count.n_tokens += int(framed.offsets[-1])
        yield vectors


def warn_of_cuts(count: EmbedCount, settings: EmbedSettings) -> None:
    """Say once, where ``warn`` was asked for, how many texts were cut."""
    if count.n_long and settings.on_truncate == "warn":
        logger.warning(
            "%d of %d texts are longer than %d tokens (the longest has %d) and were cut; "
            "raise max_seq_length or take on_truncate='chunk'",
            count.n_long,
            count.n_texts,
            settings.max_seq_length,
            count.longest,
        )


def _count_window(
    model: ConnectionBert, bodies: TextTokens, settings: EmbedSettings, count: EmbedCount, name: Callable[[int], str]
) -> None:
    lengths = bodies.lengths + model.tokenizer.n_special
    too_long = np.flatnonzero(lengths > settings.max_seq_length)
    if len(too_long) and settings.on_truncate == "error":
        first = int(too_long[0])
        raise InputError(
            f"{name(count.n_texts + first)} has {int(lengths[first])} tokens, but max_seq_length is "
            f"{settings.max_seq_length}; raise it, or take on_truncate='chunk' or 'warn'"
        )
    count.n_texts += len(bodies)
    count.n_own_tokens += len(bodies.token_ids)
    count.n_unknown += model.tokenizer.count_unknown(bodies)
    count.n_long += len(too_long)
    count.longest = max(count.longest, int(lengths.max()))


def _run(model: ConnectionBert, framed: TextTokens, pooling: PoolingMode, budget: int) -> tuple[Tensor, int]:
    """Return the pooled vectors, shape (N, D), float32, and the token budget that has fitted."""
    vectors = torch.empty(len(framed), model.hidden_size, device=model.device)
    lengths = framed.lengths
    device, layouts = model.device.type, model.probe.layouts
    todo = plan_forwards(lengths, budget, device, layouts)
    with torch.inference_mode():
        while todo:
            texts = todo[0]
            try:
                batch = model.pack(framed.select(texts)).to(model.device)
                vectors[torch.from_numpy(texts).to(model.device)] = batch.pool(model.infer(batch), pooling)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(texts) == 1:
                    raise ResourceError(
                        f"one text of {int(lengths[texts[0]])} tokens does not fit into the memory of {model.device}; "
                        "lower max_seq_length, or choose another device"
                    ) from error
            else:
                del todo[0]
                continue
            # outside of the handler: its exception would keep the failed forward's tensors alive
            budget = max(1, int(lengths[texts].sum()) // 2)
            logger.warning("out of memory on %s: going on with batches of at most %d tokens", model.device, budget)
            _free_memory(model.device)
            rest: NDArray[np.int64] = np.concatenate(todo)
            todo = [rest[part] for part in plan_forwards(lengths[rest], budget, device, layouts)]
    return vectors, budget


def _free_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def windows_of_pairs(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[list[str], NDArray[np.int64]]]:
    """Return the pairs in windows, each as its distinct texts and the rows of both sides, shape (2, B).

    Raises:
        InputError: Something that is no pair of strings, with its position.
    """
    if not hasattr(pairs, "__iter__"):
        raise InputError(f"pairs is of type {type(pairs).__name__}, expected a list of pairs of texts")
    iterator = iter(pairs)
    position = 0
    while chunk := list(itertools.islice(iterator, WINDOW_TEXTS // 2)):
        distinct: dict[str, int] = {}
        rows = np.empty((2, len(chunk)), np.int64)
        for column, pair in enumerate(chunk):
            if isinstance(pair, (str, Mapping, Set)) or not hasattr(pair, "__len__") or len(pair) != 2:
                raise InputError(
                    f"pair at position {position + column} is {quoted(pair)} ({type(pair).__name__}), expected a "
                    "pair of texts"
                )
            for side, text in enumerate(pair):
                if not isinstance(text, str):
                    raise InputError(
                        f"pair at position {position + column} has {quoted(text)} ({type(text).__name__}), expected "
                        "two strings; drop the pair or replace the text"
                    )
                rows[side, column] = distinct.setdefault(text, len(distinct))
        position += len(chunk)
        yield list(distinct), rows


def embed_pairs(
    model: ConnectionBert, pairs: Iterable[tuple[str, str]], settings: EmbedSettings, count: EmbedCount
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the vectors of both sides, window by window, in order; equal texts are computed once a window.

    Yields:
        Twice shape (pairs of the window, D), float32, on the model's device.

    Raises:
        InputError: Something that is no pair of strings, or too long; with the pair's position.
        ResourceError: One text alone does not fit into memory.
    """
    n_pairs = 0
    for texts, rows in windows_of_pairs(pairs):
        name = partial(_pair_of, rows, count.n_texts, n_pairs)
        vectors = torch.cat(list(embed(model, texts, settings, count, name)))
        left, right = torch.from_numpy(rows).to(vectors.device)
        n_pairs += rows.shape[1]
        yield vectors[left], vectors[right]


def _pair_of(rows: NDArray[np.int64], first_text: int, first_pair: int, text: int) -> str:
    pair = first_pair + int(np.flatnonzero((rows == text - first_text).any(0))[0])
    return f"a text of the pair at position {pair}"


def ordered_texts(inputs: Iterable[str]) -> Iterable[str]:
    """Return what can be read in order; an array or Series as a list.

    Raises:
        InputError: A type that has no order of texts, or more than one column.
    """
    if isinstance(inputs, (bytes, dict, set, frozenset)) or not hasattr(inputs, "__iter__"):
        raise InputError(f"inputs is of type {type(inputs).__name__}, expected a text or a list of texts")
    n_dimensions = getattr(inputs, "ndim", 1)
    if n_dimensions != 1:
        raise InputError(f"inputs has {n_dimensions} dimensions, expected one text each: choose a column")
    if hasattr(inputs, "tolist"):
        listed: list[str] = inputs.tolist()
        return listed
    return inputs
