"""Turn texts into flat token ids, many texts in each call of the Rust tokenizer.

The Rust tokenizer runs without truncation and without special tokens; texts are cut and special tokens added
afterwards in numpy. So it is known exactly how many tokens a text has, what was cut, and what is unknown, and a long
text can be split into overlapping windows, or joined to another text, without tokenising it again.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import normalizers

from sbert_ft.config.settings import Truncation
from sbert_ft.errors import InputError, ModelFolderError, quoted
from sbert_ft.tokenization.backend import encode, encode_bodies
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

_SURROGATE = re.compile("[\ud800-\udfff]")
# One call of the Rust tokenizer takes about thirty times the memory of its texts: it gets at most so many texts, or
# fewer long ones, but always enough for every core to have some.
_FEW_UNKNOWN = 100
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


class TextTokenizer:
    """The tokenizer of a model folder.

    Attributes:
        backend: The Rust tokenizer.
        casing: The casing rule in use for a BERT vocabulary, None for other kinds.
        specials: The special tokens around a text.
        padding_id: Fills positions without a token.
        unknown_id: Stands for what is not in the vocabulary; None where the vocabulary has no such token.
        notes: What the user should know about the files, one sentence each.
        files: The files of the vocabulary.
        vocab_size: Highest token id plus one.
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
        self._token_types = files.token_types

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

    def tokenize(
        self, texts: Sequence[str], first_position: int = 0, name: Callable[[int], str] = text_at, prompt: str = ""
    ) -> TextTokens:
        """Return the tokens of each text, whole and without special tokens; `prompt` is put before every text.

        Errors as in `check_texts`; they name a text by `name` and its position, which begins at `first_position`.
        """
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
