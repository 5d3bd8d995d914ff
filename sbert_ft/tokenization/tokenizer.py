"""Turn texts into flat token ids, many texts in each call of the Rust tokenizer.

The Rust tokenizer runs without truncation and without special tokens; texts are cut and special tokens added
afterwards in numpy. So it is known exactly how many tokens a text has, what was cut, and what is unknown, and a long
text can be split into overlapping windows, or joined to another text, without tokenising it again.

What tutorials call (``tokenizer(text, return_tensors="pt")``, `encode`, `decode`) is done by transformers' own class
around a copy of the same Rust tokenizer, which is made when it is first asked for.
"""

from __future__ import annotations

import inspect
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers

from sbert_ft.arguments import whole_number
from sbert_ft.config.settings import Truncation
from sbert_ft.errors import InputError, ModelFolderError, quoted
from sbert_ft.tokenization.backend import encode, encode_bodies, rust_faults
from sbert_ft.tokenization.loading import CASING_FLAGS, USUAL_TOKENS, TokenizerFiles, normalizer_of, read_tokenizer
from sbert_ft.tokenization.text_tokens import (
    Pieces,
    Specials,
    TextTokens,
    find_specials,
    frame_pieces,
    kept_lengths,
    offsets_of,
    overlapping_windows,
    pair_windows,
    probe_of,
)
from sbert_ft.tokenization.unknown_words import Cause, cause_of_unknown
from sbert_ft.tokenization.vocabulary import Casing

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerFast

_SURROGATE = re.compile("[\ud800-\udfff]")
# One call of the Rust tokenizer takes about thirty times the memory of its texts: it gets at most so many texts, or
# fewer long ones, but always enough for every core to have some.
_FEW_UNKNOWN = 100
_WORD_MARKS = ("▁", "Ġ")  # before a word: SentencePiece, byte-level BPE
_CHUNK_TEXTS, _CHUNK_CHARACTERS, _FEW_TEXTS = 2048, 500_000, 64


def chunks_of(texts: Iterable[str], most_texts: int, most_characters: int, least_texts: int = 1) -> Iterator[list[str]]:
    """Yield the texts in lists of at most `most_texts`; fewer where they are long, but at least `least_texts`."""
    chunk: list[str] = []
    n_characters = 0
    for text in texts:
        chunk.append(text)
        n_characters += len(text) if isinstance(text, str) else 0
        if len(chunk) >= most_texts or (n_characters >= most_characters and len(chunk) >= least_texts):
            yield chunk
            chunk, n_characters = [], 0
    if chunk:
        yield chunk


def text_at(position: int) -> str:
    """Return the name of a text in messages, where no file and row are known."""
    return f"text at position {position}"


def check_texts(texts: Sequence[object], first_position: int = 0, name: Callable[[int], str] = text_at) -> None:
    """Raise an `InputError` about the first item that is not a text that UTF-8 can encode, with its position."""
    for position, text in enumerate(texts, first_position):
        if not isinstance(text, str):  # the Rust tokenizer would silently read a tuple as a pair
            problem = f"{quoted(text)} ({type(text).__name__}), expected a string"
            raise InputError(f"{name(position)} is {problem}", "remove or replace it")
        # isascii reads a flag of the string, so the check costs nothing for ASCII text
        if not text.isascii() and (surrogate := _SURROGATE.search(text)):
            problem = f"the lone surrogate {quoted(surrogate[0])} at character {surrogate.start()}"
            raise InputError(f"{name(position)} holds {problem}, which UTF-8 cannot encode", "decode the source again")


@contextmanager
def _stock_faults() -> Iterator[None]:
    """Turn what transformers' tokenizers raise for a wrong argument into an `InputError`."""
    try:
        yield
    except BaseException as error:
        kinds = (TypeError, ValueError, OverflowError, LookupError, AttributeError, ImportError)
        # a panic of the Rust library is compared by name, as in `rust_faults`
        if not isinstance(error, kinds) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"transformers' tokenizer cannot take this: {quoted(error, limit=300)[1:-1]}") from None


def _checked(given: Any, name: str, in_words: bool) -> Any:
    """Return a text, or a list of texts or of pairs of texts; an `InputError` if it is something else."""
    given = given.tolist() if hasattr(given, "tolist") else given
    if not isinstance(given, (str, list, tuple)) or (not given and given != ""):
        found = f"{quoted(given)} ({type(given).__name__})"
        raise InputError(f"{name} is {found}, expected a text, or a list of at least one text or pair of texts")
    if not in_words:
        for position, one in enumerate([given] if isinstance(given, str) else given):
            texts = one if isinstance(one, (list, tuple)) and len(one) == 2 else [one]
            check_texts(texts, name=lambda _, position=position: text_at(position))  # type: ignore[misc]
    return given


def _stock(name: str) -> Any:
    """Return an attribute that has the value of transformers' tokenizer."""
    return property(lambda self: getattr(self.as_transformers(), name), doc=f"``{name}``, as in transformers.")


class TextTokenizer:
    """The tokenizer of a model folder.

    `encode`, `decode`, the call and ids such as `pad_token_id` are those of transformers' tokenizers; ids and texts
    cannot be changed through them.

    Attributes:
        backend: The Rust tokenizer.
        casing: The casing rule in use for a BERT vocabulary, None for other kinds.
        specials: The special tokens around a text.
        padding_id: Fills positions without a token.
        unknown_id: Stands for what is not in the vocabulary; None where the vocabulary has no such token.
        mask_id: Stands for a token that a language model has to predict; None where the vocabulary has none.
        notes: What the user should know about the files, one sentence each.
        files: The files of the vocabulary.
        vocab_size: Highest token id plus one.
        model_max_length: Where `__call__` and `encode` cut a text if they are to truncate it and are given no
            max_length; None to cut nothing then.
    """

    def __init__(self, files: TokenizerFiles) -> None:
        """Use the tokenizer of `files`; a `ModelFolderError` as in `find_specials`, or if it has no padding token."""
        self.backend = files.backend
        self.casing: Casing | None = files.casing
        self.notes, self.files, vocab = files.notes, files.files, files.vocab
        self.vocab_size = max(vocab.values(), default=-1) + 1
        candidates = {role: (named, *USUAL_TOKENS[role]) for role, named in files.special_tokens.items()}
        found = {role: next((token for token in tokens if token in vocab), "") for role, tokens in candidates.items()}
        self._special_tokens = {role: token for role, token in found.items() if token in vocab}
        self.specials = find_specials(self.backend, 1, self.vocab_size)
        if "pad_token" not in self._special_tokens:
            raise ModelFolderError("the tokenizer has no padding token", "set pad_token in tokenizer_config.json")
        self.padding_id = vocab[self._special_tokens["pad_token"]]
        self.unknown_id = vocab.get(self._special_tokens.get("unk_token", ""))
        self.mask_id = vocab.get(self._special_tokens.get("mask_token", ""))
        self._token_types = files.token_types
        self.model_max_length: int | None = None
        self._as_transformers: PreTrainedTokenizerFast | None = None

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, model_type: str = "bert", n_rows: int | None = None, config_class: object = None
    ) -> TextTokenizer:
        """Return the tokenizer of a folder; see `read_tokenizer`."""
        return cls(read_tokenizer(Path(folder), model_type, n_rows, config_class))

    @property
    def n_special(self) -> int:
        """Number of special tokens around each text."""
        return self.specials.n_special

    @cached_property
    def pair_specials(self) -> Specials:
        """The special tokens around and between the texts of a pair; all token types are 0 for an encoder without them.

        A `ModelFolderError` as in `find_specials`, or if a pair has fewer special tokens than a single text.
        """
        specials = find_specials(self.backend, 2, self.vocab_size)
        if specials.n_special < self.n_special:  # texts are cut to fit a single text's special tokens
            found = f"{specials.n_special} special tokens around a pair but {self.n_special} around a single text"
            problem = f"tokenizer.json puts {found}, expected at least as many"
            raise ModelFolderError(problem, "fix the pair template of its post_processor")
        return specials if self._token_types else replace(specials, types=(0,) * len(specials.types))

    @property
    def n_pair_special(self) -> int:
        """Number of special tokens around and between the two texts of a pair."""
        return self.pair_specials.n_special

    @cached_property
    def begins_word(self) -> NDArray[np.bool_]:
        """Whether each token of the vocabulary begins a word, shape (vocab_size,).

        WordPiece marks the rest of a word (##), SentencePiece and byte-level BPE the beginning (▁, Ġ). An `InputError`
        says that the vocabulary has neither.
        """
        model, vocab = self.backend.model, self.backend.get_vocab()
        begins = np.ones(self.vocab_size, bool)
        if isinstance(model, models.WordPiece):
            begins[[i for token, i in vocab.items() if token.startswith(model.continuing_subword_prefix)]] = False
            return begins
        # the mark of one is a letter (Ġ, of Maltese) or a sign to the other
        by_mark = ([i for token, i in vocab.items() if token.startswith(mark)] for mark in _WORD_MARKS)
        marked = max(by_mark, key=len)
        if not marked and not isinstance(model, models.WordLevel):
            found = f"its {type(model).__name__} vocabulary marks neither the beginning nor the rest of a word"
            raise InputError(f"the tokenizer does not show where a word begins: {found}, as ▁, Ġ and ## do")
        if marked:
            begins[:] = False
            begins[marked] = True
        return begins

    def drop_token_types(self) -> None:
        """Join pairs without token types, for an encoder that has none. Call it before the first pair is joined."""
        assert "pair_specials" not in self.__dict__, "a pair was joined already"
        self._token_types = False

    def lower_case_first(self) -> None:
        """Lower-case texts before every other step, for the old ``do_lower_case`` setting of sentence-transformers."""
        if self.casing is None:
            rest, first = self.backend.normalizer, normalizers.Lowercase()
            self.backend.normalizer = first if rest is None else normalizers.Sequence([first, rest])
        elif not self.casing.do_lower_case:
            self.casing = replace(self.casing, do_lower_case=True, source="sentence_bert_config.json")
            self.backend.normalizer = normalizer_of(self.casing)

    @overload
    def tokenize(self, texts: str) -> list[str]: ...  # type: ignore[overload-overlap]
    @overload
    def tokenize(
        self, texts: Sequence[str], first_position: int = ..., name: Callable[[int], str] = ..., prompt: str = ...
    ) -> TextTokens: ...

    def tokenize(
        self, texts: Sequence[str], first_position: int = 0, name: Callable[[int], str] = text_at, prompt: str = ""
    ) -> TextTokens | list[str]:
        """Return the tokens of each text, whole and without special tokens; `prompt` is put before every text.

        A single text gives its tokens as texts, as in transformers. Errors as in `check_texts`; they name a text by
        `name` and its position, which begins at `first_position`.
        """
        if isinstance(texts, str):
            check_texts([texts], first_position, name)
            return encode(self.backend, prompt + texts, add_special_tokens=False).tokens
        check_texts(texts, first_position, name)
        if prompt:
            texts = [prompt + text for text in texts]
            check_texts(texts[:1], first_position, name)
        lengths = [np.zeros(0, np.int64)]
        flat = [np.zeros(0, np.int32)]
        for chunk in chunks_of(texts, _CHUNK_TEXTS, _CHUNK_CHARACTERS, _FEW_TEXTS):
            ids = [encoding.ids for encoding in encode_bodies(self.backend, chunk)]
            lengths.append(np.fromiter(map(len, ids), np.int64, len(ids)))
            flat.append(np.fromiter(itertools.chain.from_iterable(ids), np.int32, int(lengths[-1].sum())))
        return TextTokens(np.concatenate(flat), offsets_of(np.concatenate(lengths)))

    def frame(self, bodies: TextTokens, max_tokens: int) -> TextTokens:
        """Return the texts with special tokens, each cut at its end to at most `max_tokens` in all."""
        kept = np.minimum(bodies.lengths, max_tokens - self.n_special)
        return frame_pieces(self.specials, Pieces(bodies.token_ids, bodies.offsets[:-1], kept))

    def frame_windows(self, bodies: TextTokens, max_tokens: int, overlap: int) -> tuple[TextTokens, NDArray[np.int64]]:
        """Return each text as windows of at most `max_tokens`, and the number of windows of each text.

        Neighbours share `overlap` tokens; the last window ends where the text does and is full, so that a long text
        has no window of a few tokens. The numbers of windows have the shape (N,), int64.
        """
        room = max_tokens - self.n_special
        text, begin, counts = overlapping_windows(bodies.lengths, room, overlap)
        windows = Pieces(bodies.token_ids, bodies.offsets[text] + begin, np.minimum(bodies.lengths[text], room))
        return frame_pieces(self.specials, windows), counts

    def join(
        self, first: TextTokens, second: TextTokens, max_tokens: int, truncation: Truncation = "longest_first"
    ) -> TextTokens:
        """Return each pair of bodies as one sequence, with special tokens and token types.

        The texts of a pair of more than `max_tokens` in all are cut at their ends, as in `kept_lengths`. An
        `InputError` without room for the special tokens; a `ModelFolderError` as in `pair_specials`.
        """
        room = self.pair_specials.room(max_tokens, at_least=0)
        kept = kept_lengths(first.lengths, second.lengths, room, truncation)
        pieces = (Pieces(text.token_ids, text.offsets[:-1], n) for text, n in zip((first, second), kept, strict=True))
        return frame_pieces(self.pair_specials, *pieces)

    def join_windows(
        self, first: TextTokens, second: TextTokens, max_tokens: int, overlap: int
    ) -> tuple[TextTokens, NDArray[np.int64]]:
        """Return each pair as windows of at most `max_tokens`, and the number of windows of each pair.

        Each window has the whole shorter text (cut at its end to half the room, if it is longer) and as much of the
        longer text as fits, in windows as `frame_windows` makes them. A pair that fits is one window. Arguments and
        errors as in `join`; at least one token of each text must fit.
        """
        room = self.pair_specials.room(max_tokens, at_least=2)
        pieces, counts = pair_windows(first, second, room, overlap)
        return frame_pieces(self.pair_specials, *pieces), counts

    def count_unknown(self, bodies: TextTokens) -> int:
        """Return the number of unknown tokens."""
        return 0 if self.unknown_id is None else int((bodies.token_ids == self.unknown_id).sum())

    def keep_unknown(self, sample: list[str], texts: Sequence[str], bodies: TextTokens) -> None:
        """Add texts that have unknown tokens to a sample of at most 100, which `why_unknown` takes."""
        if self.unknown_id is not None and len(sample) < _FEW_UNKNOWN:
            places = np.flatnonzero(bodies.token_ids == self.unknown_id)
            found = np.unique(np.searchsorted(bodies.offsets, places, side="right") - 1)
            sample += [texts[i] for i in found[: _FEW_UNKNOWN - len(sample)].tolist()]

    def why_unknown(self, texts: Sequence[str]) -> Cause:
        """Return why these texts have unknown tokens, and what to do."""
        normalizer = self.backend.normalizer
        normalize = str if normalizer is None else normalizer.normalize_str
        return cause_of_unknown(texts, self.backend.get_vocab(), normalize, self.casing is not None)

    def with_pieces(self, pieces: Iterable[str]) -> TextTokenizer:
        """Return a copy of a WordPiece tokenizer whose vocabulary has more pieces, with ids from `vocab_size` on.

        Added tokens become a part of the vocabulary: after new pieces the Rust library would give them other ids.
        """
        content = json.loads(self.backend.to_str())
        vocab = content["model"]["vocab"] | self.backend.get_vocab()
        content["model"]["vocab"] = vocab | {piece: self.vocab_size + i for i, piece in enumerate(pieces)}
        grown = copy(self)
        with rust_faults("the vocabulary cannot be extended"):
            grown.backend = Tokenizer.from_str(json.dumps(content))
        grown.vocab_size = max(content["model"]["vocab"].values()) + 1
        grown._as_transformers = None
        return grown

    def as_transformers(self) -> PreTrainedTokenizerFast:
        """Return transformers' tokenizer around a copy of this one, which gives the same ids; it is made once."""
        if self._as_transformers is None:
            from transformers import PreTrainedTokenizerFast

            limit = {} if self.model_max_length is None else {"model_max_length": self.model_max_length}
            names = self._input_names()
            with _stock_faults():
                self._as_transformers = PreTrainedTokenizerFast(
                    tokenizer_object=self.backend, model_input_names=names, **limit, **self._special_tokens
                )
        return self._as_transformers

    def __call__(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """Return `input_ids`, `attention_mask` and, where the encoder has them, `token_type_ids`, as in transformers.

        Args:
            text: A text, or a list of texts or of pairs of texts.
            text_pair: The second text of a pair, or a list of them.
            options: As in transformers: `padding`, `truncation`, `max_length`, `return_tensors` ("pt", "np" or None),
                `add_special_tokens`, `return_offsets_mapping` and so on; `pad_to_max_length=True`, as in older
                tutorials, is `padding="max_length"`.

        Raises:
            InputError: Something is not a text, with its position, or an option is unknown or cannot be used.
        """
        return cast("BatchEncoding", self._by_transformers("__call__", text, text_pair, options))

    # the names of older tutorials
    encode_plus = batch_encode_plus = __call__

    def encode(self, text: str, text_pair: str | None = None, **options: Any) -> list[int]:
        """Return the ids of a text, or of a pair, with special tokens; options and errors as in `__call__`."""
        return cast("list[int]", self._by_transformers("encode", text, text_pair, options))

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the text of ids, or the list of texts of several lists of ids; an `InputError` if they are not ids."""
        with _stock_faults():
            return self.as_transformers().decode(token_ids, skip_special_tokens=skip_special_tokens)

    batch_decode = decode

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or the list of the tokens of several; None for an id without a token."""
        with _stock_faults():
            return self.as_transformers().convert_ids_to_tokens(ids, skip_special_tokens=skip_special_tokens)

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of a token, or the list of the ids of several; the unknown token's where there is none."""
        with _stock_faults():
            return self.as_transformers().convert_tokens_to_ids(tokens)

    def get_vocab(self) -> dict[str, int]:
        """Return the id of each token."""
        return self.backend.get_vocab()

    def __len__(self) -> int:
        return self.backend.get_vocab_size()

    pad_token = _stock("pad_token")
    pad_token_id = _stock("pad_token_id")
    unk_token = _stock("unk_token")
    unk_token_id = _stock("unk_token_id")
    cls_token = _stock("cls_token")
    cls_token_id = _stock("cls_token_id")
    sep_token = _stock("sep_token")
    sep_token_id = _stock("sep_token_id")
    mask_token = _stock("mask_token")
    mask_token_id = _stock("mask_token_id")
    all_special_tokens = _stock("all_special_tokens")
    all_special_ids = _stock("all_special_ids")

    def _by_transformers(self, name: str, text: Any, text_pair: Any, options: dict[str, Any]) -> Any:
        """Return what a method of transformers' tokenizer returns, with the texts and options checked before."""
        if options.pop("pad_to_max_length", False):
            options.setdefault("padding", "max_length")
        stock = self.as_transformers()
        if unknown := options.keys() - inspect.signature(type(stock).__call__).parameters.keys():
            raise InputError(f"the tokenizer has no option {quoted(min(unknown))}", "use those of transformers")
        if options.get("max_length") is not None:
            options["max_length"] = whole_number(options["max_length"], "max_length", 1)
        in_words = bool(options.get("is_split_into_words"))
        text = _checked(text, "text", in_words)
        text_pair = None if text_pair is None else _checked(text_pair, "text_pair", in_words)
        with _stock_faults():
            return getattr(stock, name)(text, text_pair, **options)

    def save_pretrained(self, folder: str | Path, max_tokens: int) -> None:
        """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and, for WordPiece, vocab.txt.

        Casing is always written explicitly. The tokenizer class is PreTrainedTokenizerFast where text is composed first
        or pairs are not BERT's: transformers' BertTokenizer reads neither normalizer nor post-processor.
        """
        target = Path(folder)
        vocab = self.backend.get_vocab()
        settings: dict[str, Any] = {
            **self._special_tokens,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_tokens,
            "model_input_names": self._input_names(),
            "padding_side": "right",
            "truncation_side": "right",
            "clean_up_tokenization_spaces": False,
        }
        if self.casing is not None:
            settings |= {flag: getattr(self.casing, flag) for flag in CASING_FLAGS}
            settings["tokenizer_class"] = "BertTokenizer" if self._is_berts(self.casing) else "PreTrainedTokenizerFast"
            lines = [token for token, _ in sorted(vocab.items(), key=lambda item: item[1])]
            if sorted(vocab.values()) == list(range(len(lines))):
                (target / "vocab.txt").write_text("".join(f"{t}\n" for t in lines), "utf-8", newline="\n")
        # written by Python: the Rust library reports a full disk as a bare Exception
        (target / "tokenizer.json").write_text(self.backend.to_str(pretty=True), "utf-8")
        for name, content in (("special_tokens_map", self._special_tokens), ("tokenizer_config", settings)):
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (target / f"{name}.json").write_text(text, "utf-8")

    def _is_berts(self, casing: Casing) -> bool:
        """Return whether transformers' BertTokenizer would encode texts and pairs in the same way."""
        try:
            between = self.pair_specials.gaps[1]
        except ModelFolderError:  # pairs are not supported, so only texts are compared
            return not casing.form
        return len(between) == 1 and not casing.form

    def _input_names(self) -> list[str]:
        """Return the inputs that transformers is to pass to the encoder; its default depends on its version."""
        probe = probe_of(self.backend)
        has_types = self._token_types and any(encode(self.backend, probe, probe).type_ids)
        return ["input_ids", *(["token_type_ids"] if has_types else []), "attention_mask"]
