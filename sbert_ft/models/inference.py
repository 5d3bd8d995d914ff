"""Compute vectors or logits of any number of texts or pairs, one window at a time.

A window has some thousand texts. It is tokenised in one call, split into batches of equal work (see
`batching.py`), and returned in the caller's order, so a million texts need the memory of one window. When
memory runs out, the token budget is halved and the rest of the window is planned again; computed vectors
are kept. On a GPU a thread tokenises the next window at the same time, and the CPU waits for the device
only at a window's end, for a check or a copy.

The module is long because texts, pairs of texts, single rows and joined pairs share this one machinery.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sbert_ft.arguments import whole_number, word_argument
from sbert_ft.config.settings import Truncation
from sbert_ft.encoder.batching import plan_forwards
from sbert_ft.encoder.devices import is_out_of_memory, to_device, token_budget
from sbert_ft.encoder.heads import ClassificationHead
from sbert_ft.encoder.packing import PoolingMode
from sbert_ft.errors import InputError, ResourceError, quoted
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.tokenization.text_tokens import TextTokens, offsets_of
from sbert_ft.tokenization.tokenizer import check_texts, text_at

logger = logging.getLogger(__name__)

OnTruncate = Literal["warn", "error", "ignore", "chunk"]
Window = TypeVar("Window")

WINDOW_TEXTS = 8192
# A window with more characters than this is full too: tokens need about thirty times the memory of the text.
WINDOW_CHARACTERS = 8_000_000
# The share by which neighbouring windows of one text overlap (`on_truncate="chunk"`).
CHUNK_OVERLAP = 0.25


@dataclass(frozen=True)
class EmbedSettings:
    """How texts become vectors.

    Attributes:
        pooling: See `PackedBatch.pool`.
        max_seq_length: Most tokens of a text, special ones included.
        batch_size: A forward has at most as many tokens as this number of texts of full length.
        on_truncate: What to do with longer texts: ``warn`` cuts them and logs how many, ``error`` raises an error,
            ``ignore`` only cuts them, ``chunk`` takes the mean over overlapping windows.
        prompt: Put before every text.
        check_finite: Raise an error for vectors with NaN or infinite numbers; False to return them unchecked.
        device: The device of the returned vectors; None for the model's device. The check, or the copy to the CPU,
            waits for a GPU once for each window.
    """

    pooling: PoolingMode
    max_seq_length: int
    batch_size: int = 32
    on_truncate: OnTruncate = "warn"
    prompt: str = ""
    check_finite: bool = True
    device: torch.device | None = None

    @property
    def overlap(self) -> int:
        """Tokens that neighbouring windows of a text share."""
        return int(self.max_seq_length * CHUNK_OVERLAP)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: A number is not positive, or a word is not one of the supported ones.
        """
        word_argument(self.pooling, "pooling", get_args(PoolingMode))
        object.__setattr__(self, "batch_size", whole_number(self.batch_size, "batch_size", 1))
        word_argument(self.on_truncate, "on_truncate", get_args(OnTruncate))


@dataclass
class EmbedCount:
    """Counts of the texts and tokens read so far; they grow while a stream is read.

    Attributes:
        n_texts: Texts so far (joined pairs: pairs).
        n_long: How many of these are longer than ``max_seq_length``.
        longest: Tokens of the longest one, special ones included.
        n_tokens: Tokens that went through the encoder, special ones included.
        n_own_tokens: The texts' own tokens, without special ones and before any cut.
        n_unknown: How many of the own tokens are not in the vocabulary.
    """

    n_texts: int = 0
    n_long: int = 0
    longest: int = 0
    n_tokens: int = 0
    n_own_tokens: int = 0
    n_unknown: int = 0

    @property
    def unknown_share(self) -> float:
        """Share of the texts' own tokens that are unknown, 0 to 1; 0 if there are no tokens."""
        return self.n_unknown / self.n_own_tokens if self.n_own_tokens else 0.0


def window_is_full(n_texts: int, n_characters: int) -> bool:
    """Return whether a window with this many texts, and this many characters in all, is full."""
    return n_texts >= WINDOW_TEXTS or n_characters > WINDOW_CHARACTERS


def windows_of(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the texts in lists of at most `WINDOW_TEXTS`, fewer where they are long."""
    window: list[str] = []
    characters = 0
    for text in texts:
        window.append(text)
        characters += len(text) if isinstance(text, str) else 0
        if window_is_full(len(window), characters):
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
    """Yield the vectors of the texts, window by window, in order.

    Truncated texts are counted in `count`; nothing is logged here.

    Args:
        model: Tokenizer and encoder.
        texts: Any iterable; read once, a window ahead of the vectors on a GPU.
        settings: How texts become vectors.
        count: Filled while the texts are read.
        name: Returns the name of a text, given its position, for messages.

    Yields:
        Shape (texts of the window, D), float32, on `settings.device`, by default the model's.

    Raises:
        InputError: A text is not a string, or is too long with ``error``, or its vector is not finite; with its
            position.
        ResourceError: A single text does not fit into memory.
    """

    def prepare(window: list[str]) -> Sequences:
        return tokenized_texts(model, window, settings, count, name)

    n_done = count.n_texts
    for window, vectors in computed(model, windows_of(texts), prepare, settings, count):
        if settings.device is not None:
            vectors = vectors.to(settings.device)
        if settings.check_finite:
            refuse_not_finite(vectors, "vector", name, n_done, model)
        n_done += len(window)
        yield vectors
        del vectors  # before the next window is computed


@dataclass(frozen=True)
class Sequences:
    """The token sequences of a window of texts or pairs that go through the encoder.

    Attributes:
        framed: The sequences with their special tokens.
        n_parts: With ``chunk``: how many sequences in `framed` each text or pair has, shape (N,); otherwise None.
    """

    framed: TextTokens
    n_parts: NDArray[np.int64] | None = None


def tokenized_texts(
    model: ConnectionBert,
    texts: list[str],
    settings: EmbedSettings,
    count: EmbedCount,
    name: Callable[[int], str],
) -> Sequences:
    """Return the token sequences of a window's texts; arguments and errors as in `embed`."""
    check_texts(texts, count.n_texts, name)
    prompted = [settings.prompt + text for text in texts] if settings.prompt else texts
    bodies = model.tokenizer.tokenize(prompted, count.n_texts)
    count_window(model, bodies, bodies.lengths + model.tokenizer.n_special, settings, count, name)
    if settings.on_truncate == "chunk":
        return Sequences(*model.tokenizer.frame_windows(bodies, settings.max_seq_length, settings.overlap))
    return Sequences(model.tokenizer.frame(bodies, settings.max_seq_length))


def computed(
    model: ConnectionBert,
    windows: Iterable[Window],
    prepare: Callable[[Window], Sequences],
    settings: EmbedSettings,
    count: EmbedCount,
    head: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[Window, Tensor]]:
    """Yield each window with its vectors, or with the output of `head` for them, in order.

    On a CPU a window is read after the one before was yielded. On other devices the next window is read, and prepared
    by a thread, while the device computes.

    Args:
        model: The encoder.
        windows: Read in the caller's thread.
        prepare: Tokenises a window; called for one window at a time.
        settings: How texts become vectors.
        count: Its `n_tokens` is updated.
        head: Computes the output from vectors, such as logits; None to yield the vectors.

    Yields:
        Shape (texts or pairs of the window, D or the width of `head`'s output), float32, on the model's device, without
        waiting for the device.

    Raises:
        ResourceError: As in `run_forwards`.
    """
    budget = min(settings.batch_size * settings.max_seq_length, token_budget(model.device))
    on_cpu = model.device.type == "cpu"
    prepared = ((window, prepare(window)) for window in windows) if on_cpu else _one_ahead(windows, prepare)
    for window, sequences in prepared:
        result, budget = run_forwards(model, sequences.framed, settings.pooling, budget)
        count.n_tokens += int(sequences.framed.offsets[-1])
        if head is not None:
            result = head(result)
        if sequences.n_parts is not None:
            result = mean_over_parts(result, sequences.n_parts)
        yield window, result
        del result  # before the next window is computed


def _one_ahead(windows: Iterable[Window], prepare: Callable[[Window], Sequences]) -> Iterator[tuple[Window, Sequences]]:
    """Yield each window, prepared; a thread prepares the next one while the caller works on this one."""
    this: tuple[Window, Sequences] | None = None
    with ThreadPoolExecutor(1, "sbert_ft-tokenizer") as thread:  # the thread starts with the second window
        for window in windows:
            if this is None:
                this = window, prepare(window)
                continue
            coming = thread.submit(prepare, window)
            yield this
            this = window, coming.result()
    if this is not None:
        yield this


def mean_over_parts(values: Tensor, n_parts: NDArray[np.int64]) -> Tensor:
    """Return the mean over the parts of each text.

    Args:
        values: Shape (parts, D), text after text.
        n_parts: Number of parts of each text, at least 1: shape (N,).

    Returns:
        Shape (N, D), float32.
    """
    if len(values) == len(n_parts):
        return values
    starts = to_device(torch.from_numpy(offsets_of(n_parts)[:-1]), values.device)
    return F.embedding_bag(torch.arange(len(values), device=values.device), values, starts, mode="mean")


def warn_of_cuts(count: EmbedCount, settings: EmbedSettings, unit: str = "texts") -> None:
    """Log how many texts (for joined pairs: pairs) were cut, if `on_truncate` is ``warn`` and there are any."""
    if count.n_long and settings.on_truncate == "warn":
        logger.warning(
            "%d of %d %s are longer than %d tokens (the longest has %d) and were cut; "
            "raise max_seq_length or use on_truncate='chunk'",
            count.n_long,
            count.n_texts,
            unit,
            settings.max_seq_length,
            count.longest,
        )


def count_window(
    model: ConnectionBert,
    bodies: TextTokens,
    lengths: NDArray[np.int64],
    settings: EmbedSettings,
    count: EmbedCount,
    name: Callable[[int], str],
) -> None:
    """Add a window to `count`, and check the lengths of its sequences.

    Args:
        model: The model with the tokenizer.
        bodies: The texts of the window, without special tokens.
        lengths: Tokens of each sequence of the encoder, before any cut: shape (N,).
        settings: Says the longest allowed sequence, and whether a longer one is an error.
        count: Updated.
        name: Returns the name of a sequence, given its position, for messages.

    Raises:
        InputError: A sequence has no token at all, or is too long with ``error``.
    """
    if not lengths.all():  # only with a tokenizer that adds no special tokens
        first = int(np.flatnonzero(lengths == 0)[0])
        raise InputError(
            f"{name(count.n_texts + first)} has no tokens, and this model's tokenizer adds no special tokens",
            "leave it out",
        )
    too_long = np.flatnonzero(lengths > settings.max_seq_length)
    if len(too_long) and settings.on_truncate == "error":
        first = int(too_long[0])
        raise InputError(
            f"{name(count.n_texts + first)} has {int(lengths[first])} tokens, but max_seq_length is "
            f"{settings.max_seq_length}",
            "raise it, or use on_truncate='chunk' or 'warn'",
        )
    count.n_texts += len(lengths)
    count.n_own_tokens += len(bodies.token_ids)
    count.n_unknown += model.tokenizer.count_unknown(bodies)
    count.n_long += len(too_long)
    count.longest = max(count.longest, int(lengths.max()))


def refuse_not_finite(values: Tensor, what: str, name: Callable[[int], str], first: int, model: ConnectionBert) -> None:
    """Raise an error if a vector, or the logits of a row, contain NaN or an infinite number.

    Args:
        values: Shape (N, any).
        what: The name of the values in the message.
        name: Returns the name of a sequence, given its position, for messages.
        first: Position of the first row of `values`.
        model: The model that computed the values.

    Raises:
        InputError: Some are NaN or infinite; with the first position, and what to do.
    """
    if values.isfinite().all():
        return
    wrong = np.flatnonzero(~values.isfinite().all(1).cpu().numpy())
    advice = "its weights are damaged, or its training diverged; load other weights"
    if model.compute_dtype == torch.float16:
        advice = "float16 holds no number beyond 65,504; load the model with precision='float32' or 'bfloat16'"
    elif not all(parameter.isfinite().all() for parameter in model.encoder.parameters()):
        advice = "its weights are NaN or infinite themselves; load other weights"
    others = f", and {len(wrong) - 1:,} more of {len(values):,}" if len(wrong) > 1 else ""
    raise InputError(f"{name(first + int(wrong[0]))}: the model's {what} is NaN or infinite{others}: {advice}")


def run_forwards(model: ConnectionBert, framed: TextTokens, pooling: PoolingMode, budget: int) -> tuple[Tensor, int]:
    """Return the pooled vectors, shape (N, D), float32, and the token budget that fitted into memory.

    Args:
        model: The encoder.
        framed: N texts, at least one, with their special tokens.
        pooling: See `PackedBatch.pool`.
        budget: Most tokens of a forward; after an out-of-memory error, half of the tokens of the failed forward.

    Raises:
        ResourceError: A single text does not fit into memory.
    """
    lengths = framed.lengths
    device, layouts = model.device, model.probe.layouts
    todo = plan_forwards(lengths, budget, device.type, layouts)
    vectors = torch.empty(len(framed), model.hidden_size, device=device)
    # copied to the device once for all forwards
    places, n_placed = to_device(torch.from_numpy(np.concatenate(todo)), device), 0
    with torch.inference_mode():
        while todo:
            texts = todo[0]
            try:
                batch = model.pack(framed.select(texts))
                pooled = batch.pool(model.infer(batch), pooling)
                vectors.index_copy_(0, places[n_placed : n_placed + len(texts)], pooled)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(texts) == 1:
                    raise ResourceError(
                        f"one text of {int(lengths[texts[0]])} tokens does not fit into the memory of {device}",
                        "lower max_seq_length, or choose another device",
                    ) from error
            else:
                del todo[0]
                n_placed += len(texts)
                continue
            # outside of the except block: there the exception would keep the failed forward's tensors in memory
            budget = max(1, int(lengths[texts].sum()) // 2)
            logger.warning("out of memory on %s: continuing with batches of at most %d tokens", device, budget)
            _free_memory(device)
            rest: NDArray[np.int64] = np.concatenate(todo)
            todo = [rest[part] for part in plan_forwards(lengths[rest], budget, device.type, layouts)]
            places, n_placed = to_device(torch.from_numpy(np.concatenate(todo)), device), 0
    return vectors, budget


def _free_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def ordered_texts(inputs: Iterable[str]) -> Iterable[str]:
    """Return an iterable of the texts in order; an array or Series becomes a list.

    Raises:
        InputError: The type is not an ordered collection of texts, or has more than one dimension.
    """
    if isinstance(inputs, (str, bytes, dict, set, frozenset)) or not hasattr(inputs, "__iter__"):
        raise InputError(f"inputs is of type {type(inputs).__name__}, expected a list of texts")
    n_dimensions = getattr(inputs, "ndim", 1)
    if n_dimensions != 1:
        raise InputError(f"inputs has {n_dimensions} dimensions, expected 1", "choose a column")
    if hasattr(inputs, "tolist"):
        listed: list[str] = inputs.tolist()
        return listed
    return inputs


def windows_of_pairs(pairs: Iterable[tuple[str, str]], hint: str = "") -> Iterator[tuple[list[str], NDArray[np.int64]]]:
    """Yield the pairs in windows: the distinct texts of each, and the indices of both sides into them, shape (2, B).

    Args:
        pairs: Any iterable; read once.
        hint: The end of the message about something that is not a pair.

    Raises:
        InputError: Something is not a pair of strings; with its position.
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
                    f"pair at position {position} has {quoted(text)} ({type(text).__name__}), expected two strings",
                    "drop the pair or replace the text",
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
    """Yield the vectors of both sides, window by window, in order; equal texts of a window are computed once.

    Arguments as in `embed` and `windows_of_pairs`.

    Yields:
        Two tensors of shape (pairs of the window, D), float32, on the model's device.

    Raises:
        InputError: Something is not a pair of strings, a text is too long with ``error``, or its vector is not finite;
            with the pair's position.
        ResourceError: A single text does not fit into memory.
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
    """Return the name of a window's text for a message: by the position of the window's first pair that has it."""
    pair = first_pair + int(np.flatnonzero((rows == text - first_text).any(0))[0])
    return f"a text of the pair at position {pair}"


@dataclass(frozen=True)
class RowReading:
    """How rows become logits.

    Attributes:
        settings: How texts become vectors.
        truncation: For joined pairs: which text of a too long pair is cut.
        hint: The end of the message about a row that does not fit the classifier's kind.
    """

    settings: EmbedSettings
    truncation: Truncation
    hint: str = ""


def classify(
    model: ConnectionBert, head: ClassificationHead, rows: Iterable[Any], reading: RowReading, count: EmbedCount
) -> Iterator[Tensor]:
    """Yield the logits of the rows, window by window, in order; log at the end how many texts or pairs were cut.

    Args:
        model: Tokenizer and encoder.
        head: The classification head; its kind says what a row is.
        rows: Texts or pairs, depending on the head's kind; read once, a window ahead of the logits on a GPU.
        reading: How rows become logits.
        count: Filled while the rows are read.

    Yields:
        Shape (rows of the window, K), float32, on the CPU; a GPU is waited for only by this copy.

    Raises:
        InputError: A row does not fit the head's kind, or is too long with ``error``, or its logits are not finite;
            with its position.
        ResourceError: A single sequence does not fit into memory.
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
            # `classify` checks the logits: they are not finite if a vector is not
            for columns in embed_pairs(model, pairs, replace(reading.settings, check_finite=False), count, hint):
                yield head.logits(columns)


def _of_texts(
    model: ConnectionBert, head: ClassificationHead, texts: Iterable[str], reading: RowReading, count: EmbedCount
) -> Iterator[Tensor]:
    """Yield the logits of single texts; each distinct text of a window is computed once."""
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
    """Yield the texts in windows, checked.

    Raises:
        InputError: A text is not a string that can be encoded; with its position.
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
    """Return an iterable of pairs; for a data frame its rows."""
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
