"""Train a WordPiece vocabulary on raw texts, and choose pieces to add to a model's vocabulary.

The tokenizers library merges the pairs of pieces that stand together most often (Sennrich et al. 2016). It numbers the
characters that continue words in the order of a hash table, and breaks ties between pairs by these numbers, so that
each run gives another vocabulary. Here all single characters are numbered before, in the order of their code points:
the same texts give the same vocabulary. Texts are read twice, once for their characters, and never kept.

A WordPiece tokenizer turns a whole word into [UNK] if one of its characters is no piece, so the characters are chosen
by their share of the text and not by a fixed number: 1,000, the usual limit, is too low for Hangul.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from sbert_ft.arguments import whole_number
from sbert_ft.errors import InputError, ModelFolderError, quoted
from sbert_ft.tokenization.loading import USUAL_TOKENS, TokenizerFiles, build_wordpiece
from sbert_ft.tokenization.tokenizer import TextTokenizer, check_texts, chunks_of
from sbert_ft.tokenization.vocabulary import Casing

logger = logging.getLogger(__name__)

SPECIAL_TOKENS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""In the order of BERT's vocabularies, here with the ids 0 to 4; Google's have unused tokens between the first two."""
LEAST_SIZE: Final = 64
_MOST_SIZE: Final = 2**20
_CHARACTERS_KEPT: Final = 0.9999  # their share of all characters of the texts
_CHARACTERS_EXPECTED: Final = 0.999  # below this share there is a warning
_LEAST_USES: Final = 2  # a piece that is used once teaches a model nothing
_CHUNK_TEXTS, _CHUNK_CHARACTERS = 2048, 500_000


@dataclass(frozen=True)
class NewPiece:
    """A piece to add to a vocabulary.

    Attributes:
        token: The piece, with ## in front if it continues a word.
        made_of: The ids of the old pieces it consists of; the unknown token's for each character without any.
        n_saved: About how many tokens of the texts it saves: its uses among twice as many candidates, times the tokens
            that each saves; 0 for a single character, which makes words known.
    """

    token: str
    made_of: tuple[int, ...]
    n_saved: int


@dataclass(frozen=True)
class TextFigures:
    """How a vocabulary splits texts; words are what stands between white space.

    Attributes:
        n_pieces: Tokens of the vocabulary.
        n_texts: Texts.
        n_words: Their words.
        n_unknown: Words with an unknown token.
        n_tokens: Tokens of the texts, without special ones.
    """

    n_pieces: int
    n_texts: int
    n_words: int
    n_unknown: int
    n_tokens: int

    @classmethod
    def of(cls, tokenizer: TextTokenizer, texts: Iterable[str]) -> TextFigures:
        """Return the figures of a tokenizer on texts."""
        n_texts = n_words = n_unknown = n_tokens = 0
        for chunk in chunks_of(texts, _CHUNK_TEXTS, _CHUNK_CHARACTERS):
            words = tokenizer.tokenize([word for text in chunk for word in text.split()])
            places = np.flatnonzero(words.token_ids == tokenizer.unknown_id)
            n_texts, n_words = n_texts + len(chunk), n_words + len(words)
            n_unknown += len(np.unique(np.searchsorted(words.offsets, places, side="right")))
            n_tokens += len(tokenizer.tokenize(chunk).token_ids)
        return cls(len(tokenizer.get_vocab()), n_texts, n_words, n_unknown, n_tokens)

    def cells(self) -> tuple[str, ...]:
        """Return pieces, share of words with unknown tokens, tokens a text and tokens a word, for a table."""
        unknown = f"{100 * self.n_unknown / max(self.n_words, 1):.2f} %"
        of_text, of_word = (f"{self.n_tokens / max(n, 1):.2f}" for n in (self.n_texts, self.n_words))
        return f"{self.n_pieces:,}", unknown, of_text, of_word


def train_wordpiece(
    texts: Iterable[str],
    size: int,
    normalizer: normalizers.Normalizer | None,
    pre_tokenizer: pre_tokenizers.PreTokenizer,
    prefix: str = "##",
) -> list[str]:
    """Return a WordPiece vocabulary: special tokens, single characters, then pieces in the order of their merging.

    Single characters take at most half of the size. The most frequent are kept, until they are 99.99 % of the texts'
    characters and take a tenth of the size; each that can continue a word is there with and without the prefix. Every
    other piece is made of two that stand together at least twice, so there may be fewer pieces than `size`.

    Args:
        texts: Read twice.
        size: Tokens of the vocabulary, with the five special ones; at least 64.
        normalizer: What is done to a text first; None for nothing.
        pre_tokenizer: What splits a text into words.
        prefix: Before a piece that continues a word.

    Raises:
        InputError: The size is not valid, `texts` can be read only once, one is not a text that UTF-8 can encode, or
            all are empty.
    """
    size = whole_number(size, "size", LEAST_SIZE, _MOST_SIZE)
    check_rereadable(texts)
    normalize: Callable[[str], str] = str if normalizer is None else normalizer.normalize_str
    counts: Counter[str] = Counter()
    for text in _checked(texts):
        counts.update(normalize(text))
    for character in [character for character in counts if character.isspace()]:
        del counts[character]
    if not counts:
        raise InputError("the texts hold no word", "give texts with letters")
    pieces = _single_characters(counts, size, normalize, pre_tokenizer, prefix)
    table = {ord(character): " " for character in counts if character not in pieces}
    # the library numbers these first, in this order, and takes them for special only in the tokenizer made here
    first = [*SPECIAL_TOKENS, *sorted(pieces), *sorted(piece for found in pieces.values() for piece in found[1:])]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=_LEAST_USES,
        special_tokens=first,
        continuing_subword_prefix=prefix,
        show_progress=False,
    )
    trained = Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS[1]))
    trained.pre_tokenizer = pre_tokenizer
    _train(trained, (normalize(text).translate(table) for text in _checked(texts)), trainer)
    vocab = trained.get_vocab()
    return sorted(vocab, key=vocab.__getitem__)


def choose_pieces(tokenizer: TextTokenizer, texts: Iterable[str], n_pieces: int) -> list[NewPiece]:
    """Return pieces to add to a WordPiece vocabulary, so that it splits the texts into fewer tokens and unknown words.

    Candidates are the pieces of a vocabulary trained on the texts, split into words as the tokenizer does. First come
    single characters without which words are unknown, the most frequent ones, in at most half of the pieces; then the
    pieces that save most tokens. A long candidate takes uses from those that it holds, so uses are counted three times:
    with all candidates added, then with the best four times and twice `n_pieces`. Fewer are returned if fewer are used
    twice.

    No text gets an unknown token that it did not have. This needs each character with which old pieces continue words
    as a piece of its own; where some are not, they come before all.

    Args:
        tokenizer: A WordPiece tokenizer.
        texts: Read five times.
        n_pieces: How many to choose at most.

    Raises:
        ModelFolderError: The tokenizer is not WordPiece.
        InputError: As in `train_wordpiece`; or there is no room for the characters that come before all.
    """
    n_pieces = whole_number(n_pieces, "n_pieces", 1, _MOST_SIZE)
    model, vocab, pre_tokenizer = check_wordpiece(tokenizer), tokenizer.get_vocab(), tokenizer.backend.pre_tokenizer
    prefix, unknown = str(model.continuing_subword_prefix), vocab[model.unk_token]
    within = {character for piece in vocab for character in _continuing(piece, prefix, pre_tokenizer)}
    first = [piece for piece in sorted(prefix + character for character in within) if piece not in vocab]
    if len(first) > n_pieces:
        problem = f"the vocabulary lacks {len(first):,} single characters such as {quoted(first[0])}, which are added"
        raise InputError(f"{problem} first, but only {n_pieces:,} pieces may be added", f"add {len(first):,} or more")
    size = max(LEAST_SIZE, min(len(vocab) + 2 * n_pieces + len(SPECIAL_TOKENS), _MOST_SIZE))
    trained = train_wordpiece(texts, size, tokenizer.backend.normalizer, pre_tokenizer, prefix)[len(SPECIAL_TOKENS) :]
    new = list(dict.fromkeys(piece for piece in (*first, *trained) if piece not in vocab))
    uses = _count_uses(tokenizer, new, texts)
    first += _unknown_characters(uses, vocab, prefix, set(first))[: max(n_pieces // 2 - len(first), 0)]
    spelled = vocab | dict.fromkeys(first, unknown)

    def best(n_kept: int) -> list[tuple[str, int]]:
        """Return the pieces that come first, then those that save most tokens, with how many."""
        saved = {piece: n * (len(_old_pieces(piece, spelled, prefix, unknown)) - 1) for piece, n in uses.items()}
        useful = [piece for piece, n in saved.items() if n > 0 and uses[piece] >= _LEAST_USES and piece not in spelled]
        useful.sort(key=lambda piece: (-saved[piece], piece))
        return [(piece, saved[piece]) for piece in [*first, *useful][:n_kept]]

    for factor in (4, 2):
        uses = _count_uses(tokenizer, [piece for piece, _ in best(factor * n_pieces)], texts)
    return [NewPiece(piece, _old_pieces(piece, vocab, prefix, unknown), n) for piece, n in best(n_pieces)]


def bert_tokenizer(file: Path, vocab: dict[str, int], casing: Casing) -> TextTokenizer:
    """Return BERT's tokenizer over a vocabulary; a `ModelFolderError` that names `file` if it lacks a special token."""
    special = {role: usual for role, (usual, _) in USUAL_TOKENS.items()}
    backend = build_wordpiece(file, vocab, casing, special)
    return TextTokenizer(TokenizerFiles(backend, vocab, (file,), casing, special, ()))


def check_rereadable(texts: Iterable[str]) -> None:
    """Raise an `InputError` about texts that are one text, or that can be read only once, such as a generator's."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable) or isinstance(texts, Iterator):
        found = f"texts is of type {type(texts).__name__}"
        raise InputError(f"{found}, expected a list of texts, or another collection that can be read several times")


def check_wordpiece(tokenizer: TextTokenizer) -> models.WordPiece:
    """Return the tokenizer's WordPiece model; a `ModelFolderError` if it is of another kind."""
    model = tokenizer.backend.model
    if not isinstance(model, models.WordPiece) or tokenizer.backend.pre_tokenizer is None or not model.unk_token:
        kind = type(model).__name__ if not isinstance(model, models.WordPiece) else "WordPiece over whole texts"
        problem = f"{quoted(tokenizer.files[0], limit=400)} is of a tokenizer of the kind {kind}"
        raise ModelFolderError(f"{problem}, expected WordPiece, which alone can be extended", "give a model like BERT")
    return model


def _train(tokenizer: Tokenizer, texts: Iterable[str], trainer: trainers.Trainer) -> None:
    """Train a tokenizer; after Ctrl-C or another signal no more texts are read.

    The library reads texts in threads of its own and does not return before it is done, and a signal is raised only in
    the main thread. So this one waits in Python. Merging, the last part, cannot be stopped.
    """
    is_stopped = threading.Event()

    def until_stopped() -> Iterator[str]:
        for text in texts:
            if is_stopped.is_set():
                raise CancelledError
            yield text

    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(tokenizer.train_from_iterator, until_stopped(), trainer)
        try:
            training.result()
        except BaseException:
            is_stopped.set()
            raise


def _checked(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts, each checked as in `check_texts`."""
    for position, text in enumerate(texts):
        check_texts((text,), position)
        yield text


def _single_characters(
    counts: Counter[str],
    size: int,
    normalize: Callable[[str], str],
    pre_tokenizer: pre_tokenizers.PreTokenizer,
    prefix: str,
) -> dict[str, tuple[str, ...]]:
    """Return the characters that are pieces of a vocabulary, each with its pieces; log which share is left out."""
    n_all, n_kept, n_pieces = sum(counts.values()), 0, 0
    kept: dict[str, tuple[str, ...]] = {}
    for character, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        words = (f"a{character}a", character * 2)
        joins = any(len(pre_tokenizer.pre_tokenize_str(normalize(word))) == 1 for word in words)
        pieces = (character, prefix + character) if joins else (character,)
        if n_pieces + len(pieces) > (size - len(SPECIAL_TOKENS)) // 2:
            break
        if n_kept >= _CHARACTERS_KEPT * n_all and n_pieces >= size // 10:
            break
        kept[character] = pieces
        n_kept, n_pieces = n_kept + n, n_pieces + len(pieces)
    if n_kept < n_all:
        level = logging.INFO if n_kept > _CHARACTERS_EXPECTED * n_all else logging.WARNING
        message = "%s of %s different characters are no pieces, %.2f %% of the texts: words with them become %s"
        share = 100 * (1 - n_kept / n_all)
        logger.log(level, message, f"{len(counts) - len(kept):,}", f"{len(counts):,}", share, SPECIAL_TOKENS[1])
    return kept


def _unknown_characters(
    uses: Mapping[str, int], vocab: Mapping[str, int], prefix: str, taken: Collection[str]
) -> list[str]:
    """Return the candidates of one character that `vocab` lacks, the most used first, within other candidates too."""
    n_uses: Counter[str] = Counter()
    for piece, n in uses.items():
        for character in _characters(piece, prefix):
            n_uses[character] += n
    found = [piece for piece, n in n_uses.items() if n >= _LEAST_USES and piece in uses and piece not in vocab]
    return sorted((piece for piece in found if piece not in taken), key=lambda piece: (-n_uses[piece], piece))


def _continuing(piece: str, prefix: str, pre_tokenizer: pre_tokenizers.PreTokenizer) -> str:
    """Return the characters of a piece that continue a word; none of one that is no part of a word, such as [CLS]."""
    is_rest = piece.startswith(prefix) and len(piece) > len(prefix)
    surface = piece[len(prefix) :] if is_rest else piece
    return (surface if is_rest else surface[1:]) if len(pre_tokenizer.pre_tokenize_str(surface)) == 1 else ""


def _characters(piece: str, prefix: str) -> list[str]:
    """Return a piece as pieces of single characters."""
    is_rest = piece.startswith(prefix) and len(piece) > len(prefix)
    surface = piece[len(prefix) :] if is_rest else piece
    return [prefix + character if i or is_rest else character for i, character in enumerate(surface)]


def _old_pieces(piece: str, vocab: Mapping[str, int], prefix: str, unknown: int) -> tuple[int, ...]:
    """Return the ids of the pieces that WordPiece makes of a piece; `unknown` for a character without any."""
    ids: list[int] = []
    characters = _characters(piece, prefix)
    while characters:
        first, rest = characters[0], "".join(character.removeprefix(prefix) for character in characters[1:])
        end = next((end for end in range(len(rest), -1, -1) if first + rest[:end] in vocab), 0)
        ids.append(vocab.get(first + rest[:end], unknown))
        characters = characters[1 + end :]
    return tuple(ids)


def _count_uses(tokenizer: TextTokenizer, pieces: list[str], texts: Iterable[str]) -> dict[str, int]:
    """Return how many tokens of the texts are each of `pieces`, if these are added to the vocabulary."""
    grown = tokenizer.with_pieces(pieces)
    counts = np.zeros(grown.vocab_size, np.int64)
    for chunk in chunks_of(texts, _CHUNK_TEXTS, _CHUNK_CHARACTERS):
        counts += np.bincount(grown.tokenize(chunk).token_ids, minlength=grown.vocab_size)
    return dict(zip(pieces, counts[tokenizer.vocab_size :].tolist(), strict=True))
