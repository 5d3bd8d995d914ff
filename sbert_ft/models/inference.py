"""Compute vectors or logits of any number of rows of one or two texts, one window at a time.

A window has some thousand rows. Its texts are tokenised in one call, split into batches of equal work (`batching.py`),
and returned in the caller's order, so a million texts need the memory of one window. When memory runs out, the token
budget is halved and the rest of the window is planned again; computed vectors are kept. On a GPU a thread tokenises the
next window at the same time, and the CPU waits for the device only at a window's end, for a check or a copy.

Texts, pairs, single rows and joined pairs take one way: `windows_of_texts` or `windows_of_pairs`, then `embed`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from sbert_ft.arguments import instance_argument, whole_number, word_argument
from sbert_ft.config.settings import Truncation
from sbert_ft.encoder.batching import PoolingMode
from sbert_ft.errors import InputError, quoted
from sbert_ft.models.text_encoder import TextEncoder
from sbert_ft.tokenization.text_tokens import TextTokens, offsets_of
from sbert_ft.tokenization.tokenizer import TextTokenizer, chunks_of

logger = logging.getLogger(__name__)

OnTruncate = Literal["warn", "error", "ignore", "chunk"]
# the sequences of a window that go through the encoder; with "chunk": how many of them each text or pair has
Sequences = tuple[TextTokens, NDArray[np.int64] | None]

WINDOW_TEXTS = 8192
# A window with so many characters is full too: tokens need about thirty times the memory of the text.
WINDOW_CHARACTERS = 8_000_000
# The share by which neighbouring windows of one text overlap (`on_truncate="chunk"`).
CHUNK_OVERLAP = 0.25


@dataclass(frozen=True)
class EmbedSettings:
    """How texts become vectors; `batch_size` and `on_truncate` are those of `SiameseBert.encode`.

    Attributes:
        pooling: See `PackedBatch.pool`.
        max_seq_length: Most tokens of a text, special ones included.
        prompt: Put before every text, besides those of a window.
        include_prompt: Pool the prompt's tokens too.
        truncation: Both texts of a pair become one sequence, and this says which of them is cut; None to keep every
            text a sequence of its own.
        check_finite: Raise an error for vectors with NaN or infinite numbers; False to return them unchecked.
        device: The device of the returned vectors; None for the model's device. The check, or the copy to the CPU,
            waits for a GPU once for each window.
    """

    pooling: PoolingMode
    max_seq_length: int
    batch_size: int = 32
    on_truncate: OnTruncate = "warn"
    prompt: str = ""
    include_prompt: bool = True
    truncation: Truncation | None = None
    check_finite: bool = True
    device: Any = None

    def __post_init__(self) -> None:
        """Check the values; raise an `InputError` for a wrong one."""
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
        unknown_texts: Some of the texts that have such tokens.
    """

    n_texts: int = 0
    n_long: int = 0
    longest: int = 0
    n_tokens: int = 0
    n_own_tokens: int = 0
    n_unknown: int = 0
    unknown_texts: list[str] = field(default_factory=list, compare=False, repr=False)

    @property
    def unknown_share(self) -> float:
        """Share of the texts' own tokens that are unknown, 0 to 1; 0 if there are no tokens."""
        return self.n_unknown / self.n_own_tokens if self.n_own_tokens else 0.0


def windows_of(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the texts in lists of at most `WINDOW_TEXTS`, fewer where they are long."""
    return chunks_of(texts, WINDOW_TEXTS, WINDOW_CHARACTERS)


@dataclass(frozen=True)
class Window:
    """Some thousand rows of one or two texts.

    Attributes:
        texts: The texts to be tokenised; a text of several rows need be here only once.
        rows: The index of each row's texts in `texts`: shape (texts of a row, rows), int64.
        first: The position of the first row, for messages.
        prompts: What each of the texts begins with; None where they have no prompts of their own.
    """

    texts: list[str]
    rows: NDArray[np.int64]
    first: int
    prompts: list[str] | None = None

    def text_name(self, text: int) -> str:
        """Return the name of a text for messages: by the position of the first row that has it."""
        position = self.first + int(np.flatnonzero((self.rows == text).any(0))[0])
        return f"text at position {position}" if len(self.rows) == 1 else f"a text of the pair at position {position}"

    def row_name(self, row: int) -> str:
        """Return the name of a row for messages."""
        return f"{'text' if len(self.rows) == 1 else 'pair'} at position {self.first + row}"


def windows_of_texts(texts: Iterable[str], hint: str | None = None) -> Iterator[Window]:
    """Yield texts in windows, each text a row.

    For a classifier `hint` ends the message about something that is not a text, which is an `InputError`, and each
    distinct text of a window is there once. None for an encoder.
    """
    first = 0
    for window in windows_of(ordered_texts(texts)):
        if hint is None:
            yield Window(window, np.arange(len(window), dtype=np.int64)[None], first)
        else:
            for position, text in enumerate(window, first):
                if not isinstance(text, str):
                    raise InputError(
                        f"text at position {position} is {quoted(text)} ({type(text).__name__}), expected a string: "
                        f"this classifier takes single texts{hint}"
                    )
            places = {text: place for place, text in enumerate(dict.fromkeys(window))}
            yield Window(list(places), np.array([[places[text] for text in window]], np.int64), first)
        first += len(window)


def windows_of_pairs(
    pairs: Iterable[tuple[str, str]], hint: str = "", prompts: tuple[str, str] = ("", "")
) -> Iterator[Window]:
    """Yield pairs in windows with the distinct texts of each; `hint` ends the `InputError` about what is not a pair.

    `prompts` are put before the first and before the second text of each pair.
    """
    unordered = isinstance(pairs, (str, bytes, dict, set, frozenset)) or getattr(pairs, "ndim", 1) == 0
    if unordered or not hasattr(pairs, "__iter__"):
        raise InputError(f"pairs is of type {type(pairs).__name__}, expected a list of pairs of texts{hint}")
    distinct: dict[tuple[str, str], int] = {}
    rows: list[tuple[int, ...]] = []

    def window(first: int) -> Window:
        texts = [prompt + text for prompt, text in distinct]
        return Window(texts, np.array(rows, np.int64).T, first, [prompt for prompt, _ in distinct])

    characters = 0
    for position, pair in enumerate(pairs):
        is_list = (
            not isinstance(pair, (str, Mapping, Set)) and hasattr(pair, "__len__") and getattr(pair, "ndim", 1) > 0
        )
        if not is_list or len(pair) != 2:
            raise InputError(
                f"pair at position {position} is {quoted(pair)} ({type(pair).__name__}), expected a pair of texts{hint}"
            )
        for text in pair:
            if not isinstance(text, str):
                raise InputError(
                    f"pair at position {position} has {quoted(text)} ({type(text).__name__}), expected two strings",
                    "drop the pair or replace the text",
                )
        sides = list(zip(prompts, pair, strict=True))
        for side in sides:
            if side not in distinct:
                distinct[side] = len(distinct)
                characters += len(side[0]) + len(side[1])
        rows.append(tuple(map(distinct.__getitem__, sides)))
        if 2 * len(rows) >= WINDOW_TEXTS or characters >= WINDOW_CHARACTERS:
            yield window(position + 1 - len(rows))
            distinct, rows, characters = {}, [], 0
    if rows:
        yield window(position + 1 - len(rows))


def prompt_tokens(tokenizer: TextTokenizer, prompts: Sequence[str], max_tokens: int) -> NDArray[np.int64]:
    """Return how many first tokens of a text are not pooled where its prompt is not, for each prompt: shape (N,).

    As in sentence-transformers it is the length of the prompt as a text, cut to `max_tokens`, without the special token
    at its end; 0 without a prompt.
    """
    bodies = {prompt: len(tokenizer.tokenize([prompt]).token_ids) for prompt in set(prompts) if prompt}
    ends = bool(tokenizer.specials.after)
    known = {prompt: min(tokenizer.n_special + n, max_tokens) - ends for prompt, n in bodies.items()}
    return np.array([known.get(prompt, 0) for prompt in prompts], np.int64)


def embed(
    encoder: TextEncoder,
    windows: Iterable[Window],
    settings: EmbedSettings,
    count: EmbedCount | None = None,
    head: Callable[[Any], Any] | None = None,
) -> Iterator[list[Any]]:
    """Yield the vectors of the rows, window by window, in order; log at the end how many texts or pairs were cut.

    On a CPU a window is read after the one before was yielded. On other devices the next window is read, and prepared
    by a thread, while the device computes.

    Args:
        encoder: Tokenizer and encoder.
        windows: Read in the caller's thread.
        settings: How texts become vectors.
        count: Filled while the windows are read.
        head: Computes what is yielded from the vectors, such as logits.

    Yields:
        One array (a tensor, where torch computes) for each text of a row, or one for joined rows: shape (rows of the
        window, D or the width of `head`'s output), float32, on `settings.device`, by default the model's. Errors as in
        `SiameseBert.encode`.
    """
    count = EmbedCount() if count is None else instance_argument(EmbedCount, count, "count")
    budget, operations = min(settings.batch_size * settings.max_seq_length, encoder.token_budget), encoder.operations
    prepare = partial(sequences_of, encoder.tokenizer, settings, count)
    prepared = (
        _one_ahead(windows, prepare) if encoder.computes_beside else ((window, prepare(window)) for window in windows)
    )
    for window, (sequences, n_parts) in prepared:
        values, budget = encoder.vectors(sequences, settings.pooling, budget)
        count.n_tokens += int(sequences.offsets[-1])
        if head is not None:
            values = head(values)
        if n_parts is not None and len(values) != len(n_parts):
            values = operations.mean_of_parts(values, n_parts)
        values = operations.moved(values, settings.device)
        if settings.check_finite and len(wrong := operations.not_finite(values)):
            refuse_rows(wrong, len(values), "vector", window.text_name, encoder)
        columns = [values]  # joined, or texts that are the rows in order: already one for each row
        if settings.truncation is None and window.rows.shape != (1, len(window.texts)):
            columns = [operations.take(values, side) for side in window.rows]
        del values  # before the next window is computed
        yield columns
        del columns
    warn_of_texts(encoder, settings, count)


def warn_of_texts(encoder: TextEncoder, settings: EmbedSettings, count: EmbedCount) -> None:
    """Log how many texts were cut, and where many of their tokens are unknown."""
    if count.n_long and settings.on_truncate == "warn":
        logger.warning(
            "%d of %d %s are longer than %d tokens (the longest has %d) and were cut; "
            "raise max_seq_length or use on_truncate='chunk'",
            count.n_long,
            count.n_texts,
            "texts" if settings.truncation is None else "pairs",
            settings.max_seq_length,
            count.longest,
        )
    encoder.warn_of_unknown(count.n_unknown, count.n_own_tokens, count.unknown_texts)


def sequences_of(tokenizer: TextTokenizer, settings: EmbedSettings, count: EmbedCount, window: Window) -> Sequences:
    """Return the token sequences of a window, and add it to `count`."""
    bodies = tokenizer.tokenize(window.texts, name=window.text_name, prompt=settings.prompt)
    joined, single = settings.truncation is not None, len(window.rows) == 1
    name = window.row_name if joined or single else window.text_name
    if joined:
        lengths = bodies.lengths[window.rows].sum(0) + tokenizer.n_pair_special
    else:
        lengths = bodies.lengths + tokenizer.n_special
        lengths = lengths[window.rows[0]] if single else lengths
    if not lengths.all():  # only with a tokenizer that adds no special tokens
        first = int(lengths.argmin())
        raise InputError(
            f"{name(first)} has no tokens, and this model's tokenizer adds no special tokens", "leave it out"
        )
    most = settings.max_seq_length
    too_long = np.flatnonzero(lengths > most)
    if len(too_long) and settings.on_truncate == "error":
        first = int(too_long[0])
        raise InputError(
            f"{name(first)} has {int(lengths[first])} tokens, but max_seq_length is {most}",
            "raise it, or use on_truncate='chunk' or 'warn'",
        )
    count.n_texts += len(lengths)
    count.n_own_tokens += len(bodies.token_ids)
    count.n_unknown += tokenizer.count_unknown(bodies)
    tokenizer.keep_unknown(count.unknown_texts, window.texts, bodies)
    count.n_long += len(too_long)
    count.longest = max(count.longest, int(lengths.max()))
    in_parts, overlap = settings.on_truncate == "chunk", int(most * CHUNK_OVERLAP)
    if settings.truncation is None:
        framed, n_parts = (
            tokenizer.frame_windows(bodies, most, overlap) if in_parts else (tokenizer.frame(bodies, most), None)
        )
        if not settings.include_prompt:
            skipped = np.zeros(len(framed), np.int64)
            firsts = np.arange(len(framed)) if n_parts is None else offsets_of(n_parts)[:-1]
            skipped[firsts] = prompt_tokens(tokenizer, window.prompts or [settings.prompt] * len(bodies), most)
            framed = replace(framed, skipped=skipped)
        return framed, n_parts
    left, right = (bodies.select(side) for side in window.rows)
    if in_parts:
        return tokenizer.join_windows(left, right, most, overlap)
    return tokenizer.join(left, right, most, settings.truncation), None


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


def refuse_rows(
    wrong: NDArray[np.int64], n_rows: int, what: str, name: Callable[[int], str], encoder: TextEncoder, first: int = 0
) -> NoReturn:
    """Raise an error about the rows `wrong` of `n_rows`, which contain NaN or an infinite number.

    `what` names the values in the message, and `name` a row of them, whose numbers begin with `first`.
    """
    others = f", and {len(wrong) - 1:,} more of {n_rows:,}" if len(wrong) > 1 else ""
    raise InputError(
        f"{name(first + int(wrong[0]))}: the model's {what} is NaN or infinite{others}: {encoder.why_not_finite()}"
    )


def paired_texts(first: Any, second: Any) -> tuple[Iterable[tuple[str, str]], bool]:
    """Return pairs of texts from the first and the second ones, and whether each is a single text.

    Raises:
        InputError: Only one of them is a single text, they are not texts in order, or their numbers differ.
    """
    if isinstance(first, str) and isinstance(second, str):
        return [(first, second)], True
    left, right = list(ordered_texts(first)), list(ordered_texts(second))
    if len(left) != len(right):
        raise InputError(f"there are {len(left):,} first texts and {len(right):,} second ones")
    return zip(left, right, strict=True), False


def ordered_texts(inputs: Iterable[str]) -> Iterable[str]:
    """Return the texts in order, an array or Series as a list; raise an `InputError` for another kind of value."""
    if isinstance(inputs, (str, bytes, dict, set, frozenset)) or not hasattr(inputs, "__iter__"):
        raise InputError(f"inputs is of type {type(inputs).__name__}, expected a list of texts")
    n_dimensions = getattr(inputs, "ndim", 1)
    if n_dimensions != 1:
        raise InputError(f"inputs has {n_dimensions} dimensions, expected 1", "choose a column")
    if hasattr(inputs, "tolist"):
        listed: list[str] = inputs.tolist()
        return listed
    return inputs
