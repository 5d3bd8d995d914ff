"""Turn texts into flat token ids, many texts in each call of the Rust tokenizer.

The Rust tokenizer runs without truncation and without special tokens; texts are cut and special tokens added
afterwards in numpy. So it is known exactly how many tokens a text has, what was cut, and what is unknown, and a long
text can be split into overlapping windows, or joined to another text, without tokenising it again.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import normalizers

from sbert_ft.config.settings import Truncation
from sbert_ft.errors import InputError, ModelFolderError, quoted
from sbert_ft.tokenization.backend import encode_bodies
from sbert_ft.tokenization.loading import TokenizerFiles, normalizer_of, read_tokenizer
from sbert_ft.tokenization.pairs import (
    Pieces,
    join_pieces,
    kept_lengths,
    lay_end_to_end,
    overlapping_windows,
    pair_windows,
    room_of_pair,
)
from sbert_ft.tokenization.special_tokens import PairSpecials, find_pair_specials, find_specials, pairs_have_types
from sbert_ft.tokenization.text_tokens import TextTokens, offsets_of
from sbert_ft.tokenization.vocabulary import Casing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# BERT's and RoBERTa's tokens by role, used where the vocabulary lacks the token that the folder names
USUAL_TOKENS: Mapping[str, tuple[str, ...]] = {
    "unk_token": ("[UNK]", "<unk>"),
    "sep_token": ("[SEP]", "</s>"),
    "pad_token": ("[PAD]", "<pad>"),
    "cls_token": ("[CLS]", "<s>"),
    "mask_token": ("[MASK]", "<mask>"),
}
_SURROGATE = re.compile("[\ud800-\udfff]")
# One call of the Rust tokenizer takes about thirty times the memory of its texts: it gets at most so many texts, or
# fewer long ones, but always enough for every core to have some.
_CHUNK_TEXTS, _CHUNK_CHARACTERS, _FEW_TEXTS = 2048, 500_000, 64


class TextTokenizer:
    """The tokenizer of a model folder.

    Attributes:
        backend: The Rust tokenizer.
        casing: The casing rule in use for a BERT vocabulary, None for other kinds.
        specials: The special tokens around a text.
        notes: What the user should know about the files, one sentence each.
    """

    def __init__(self, files: TokenizerFiles) -> None:
        """Use the tokenizer of `files`, and find the special tokens that it puts around a text.

        Raises:
            ModelFolderError: The special tokens are not supported; see `find_specials`.
        """
        self.backend = files.backend
        self.casing: Casing | None = files.casing
        self.notes = files.notes
        vocab = self.backend.get_vocab()
        self._special_tokens = {
            role: next((token for token in (named, *USUAL_TOKENS[role]) if token in vocab), named)
            for role, named in files.special_tokens.items()
        }
        self.specials = find_specials(self.backend, self._special_tokens)
        self._token_types = files.token_types

    @classmethod
    def from_pretrained(cls, folder: str | Path, model_type: str = "bert", n_rows: int | None = None) -> TextTokenizer:
        """Return the tokenizer of a folder; see `read_tokenizer`."""
        return cls(read_tokenizer(Path(folder), model_type, n_rows))

    @property
    def vocab_size(self) -> int:
        """Highest token id plus one."""
        return max(self.backend.get_vocab().values()) + 1

    @property
    def n_special(self) -> int:
        """Number of special tokens around each text."""
        return len(self.specials.before) + len(self.specials.after)

    @cached_property
    def pair_specials(self) -> PairSpecials:
        """The special tokens around and between the texts of a pair; see `find_pair_specials`.

        All token types are 0 for an encoder that has none.
        """
        specials = find_pair_specials(self.backend, self.n_special)
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
        if self.casing is not None and self.casing.do_lower_case:
            return
        if self.casing is not None:
            self.casing = replace(self.casing, do_lower_case=True, source="sentence_bert_config.json")
            self.backend.normalizer = normalizer_of(self.casing)
            return
        rest = self.backend.normalizer
        first = normalizers.Lowercase()
        self.backend.normalizer = first if rest is None else normalizers.Sequence([first, rest])

    def tokenize(self, texts: Sequence[str], first_position: int = 0) -> TextTokens:
        """Return the tokens of each text, whole and without special tokens.

        Args:
            texts: The texts.
            first_position: Position of the first one, for messages.

        Raises:
            InputError: A text is not a string, or contains a lone surrogate.
        """
        check_texts(texts, first_position)
        lengths: list[NDArray[np.int64]] = []
        flat: list[NDArray[np.int32]] = []
        for chunk in _chunks_of(texts):
            ids = [encoding.ids for encoding in encode_bodies(self.backend, chunk)]
            lengths.append(np.fromiter(map(len, ids), np.int64, len(ids)))
            flat.append(np.fromiter(itertools.chain.from_iterable(ids), np.int32, int(lengths[-1].sum())))
        return TextTokens(np.concatenate(flat), offsets_of(np.concatenate(lengths)))

    def frame(self, bodies: TextTokens, max_tokens: int) -> TextTokens:
        """Return the texts with special tokens, each cut at its end to at most `max_tokens` in all."""
        kept = np.minimum(bodies.lengths, max_tokens - self.n_special)
        return self._between_specials(Pieces(bodies.token_ids, bodies.offsets[:-1], kept))

    def bodies(self, framed: TextTokens) -> TextTokens:
        """Return framed texts without their special tokens; the inverse of `frame`, except for what it cut."""
        begins = framed.offsets[:-1] + len(self.specials.before)
        pieces = Pieces(framed.token_ids, begins, framed.lengths - self.n_special)
        return lay_end_to_end([pieces], len(framed))

    def frame_windows(self, bodies: TextTokens, max_tokens: int, overlap: int) -> tuple[TextTokens, NDArray[np.int64]]:
        """Return each text as windows of at most `max_tokens`, and the number of windows of each text.

        Neighbours share `overlap` tokens; the last window ends where the text does and is full, so
        that a long text has no window of a few tokens.

        Returns:
            The windows, text after text, and the number of windows of each text, shape (N,), int64.
        """
        room = max_tokens - self.n_special
        lengths = bodies.lengths
        text, begin, counts = overlapping_windows(lengths, room, overlap)
        windows = Pieces(bodies.token_ids, bodies.offsets[text] + begin, np.minimum(lengths[text], room))
        return self._between_specials(windows), counts

    def _between_specials(self, pieces: Pieces) -> TextTokens:
        return lay_end_to_end([self.specials.before, pieces, self.specials.after], len(pieces))

    def join(
        self, first: TextTokens, second: TextTokens, max_tokens: int, truncation: Truncation = "longest_first"
    ) -> TextTokens:
        """Return each pair of texts as one sequence, with special tokens and token types.

        Args:
            first: N texts without special tokens.
            second: The other text of each.
            max_tokens: Tokens a pair may have in all; the texts of a longer pair are cut at their ends.
            truncation: Which text is cut; see `kept_lengths`.

        Raises:
            InputError: `max_tokens` leaves no room for the special tokens.
            ModelFolderError: The tokenizer's pairs are not supported; see `find_pair_specials`.
        """
        room = room_of_pair(max_tokens, self.pair_specials, at_least=0)
        of_first, of_second = kept_lengths(first.lengths, second.lengths, room, truncation)
        return join_pieces(
            self.pair_specials,
            Pieces(first.token_ids, first.offsets[:-1], of_first),
            Pieces(second.token_ids, second.offsets[:-1], of_second),
        )

    def join_windows(
        self, first: TextTokens, second: TextTokens, max_tokens: int, overlap: int
    ) -> tuple[TextTokens, NDArray[np.int64]]:
        """Return each pair as windows of at most `max_tokens`, and the number of windows of each pair.

        Each window has the whole shorter text (cut at its end to half the room, if it is longer) and as much of the
        longer text as fits, in windows as `frame_windows` makes them. A pair that fits is one window.

        Args:
            first: N texts without special tokens.
            second: The other text of each.
            max_tokens: Tokens of a window in all.
            overlap: Tokens of the longer text that neighbours share.

        Returns:
            The windows, pair after pair, and the number of windows of each pair, shape (N,), int64.

        Raises:
            InputError: `max_tokens` leaves no room for a token of each text.
            ModelFolderError: The tokenizer's pairs are not supported; see `find_pair_specials`.
        """
        room = room_of_pair(max_tokens, self.pair_specials, at_least=2)
        pieces, counts = pair_windows(first, second, room, overlap)
        return join_pieces(self.pair_specials, *pieces), counts

    def count_unknown(self, bodies: TextTokens) -> int:
        """Return the number of unknown tokens."""
        return int((bodies.token_ids == self.specials.unknown_id).sum()) if self.specials.unknown_id is not None else 0

    def save_pretrained(self, folder: str | Path, max_tokens: int) -> None:
        """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and, for WordPiece, vocab.txt.

        Casing is always written explicitly. The tokenizer class is PreTrainedTokenizerFast where text is
        composed first or pairs are not BERT's: transformers' BertTokenizer reads neither normalizer
        nor post-processor and would lose that.
        """
        target = Path(folder)
        # written by Python: the Rust library reports a full disk as a bare Exception
        (target / "tokenizer.json").write_text(self.backend.to_str(pretty=True), "utf-8")
        vocab = self.backend.get_vocab()
        special = {role: token for role, token in self._special_tokens.items() if token in vocab}
        (target / "special_tokens_map.json").write_text(json.dumps(special, indent=2, ensure_ascii=False), "utf-8")
        settings: dict[str, Any] = {
            **special,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_tokens,
            "model_input_names": self._input_names(),
            "padding_side": "right",
            "truncation_side": "right",
            "clean_up_tokenization_spaces": False,
        }
        if self.casing is not None:
            settings |= {
                "do_lower_case": self.casing.do_lower_case,
                "strip_accents": self.casing.strip_accents,
                "tokenize_chinese_chars": self.casing.tokenize_chinese_chars,
                "tokenizer_class": "BertTokenizer" if self._is_berts(self.casing) else "PreTrainedTokenizerFast",
            }
            lines = [token for token, _ in sorted(vocab.items(), key=lambda item: item[1])]
            if sorted(vocab.values()) == list(range(len(lines))):
                (target / "vocab.txt").write_text("".join(f"{t}\n" for t in lines), "utf-8", newline="\n")
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        (target / "tokenizer_config.json").write_text(text, "utf-8")

    def to_transformers(self, max_tokens: int) -> PreTrainedTokenizerBase:
        """Return the same tokenizer as a class of transformers, for libraries that need one."""
        from transformers import PreTrainedTokenizerFast

        vocab = self.backend.get_vocab()
        special = {role: token for role, token in self._special_tokens.items() if token in vocab}
        copy = type(self.backend).from_str(self.backend.to_str())
        tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
            tokenizer_object=copy, model_max_length=max_tokens, model_input_names=self._input_names(), **special
        )
        return tokenizer

    def _is_berts(self, casing: Casing) -> bool:
        """Return whether transformers' BertTokenizer would encode texts and pairs in the same way."""
        try:
            between = self.pair_specials.between
        except ModelFolderError:  # pairs are not supported, so only texts are compared
            return not casing.compose
        return len(between) == 1 and not casing.compose

    def _input_names(self) -> list[str]:
        """Return the inputs that transformers is to pass to the encoder; its default depends on its version."""
        types = ["token_type_ids"] if self._token_types and pairs_have_types(self.backend) else []
        return ["input_ids", *types, "attention_mask"]


def _chunks_of(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the texts in lists, one for each call of the Rust tokenizer; the last list may be empty."""
    chunk: list[str] = []
    n_characters = 0
    for text in texts:
        chunk.append(text)
        n_characters += len(text)
        if len(chunk) >= _CHUNK_TEXTS or (n_characters >= _CHUNK_CHARACTERS and len(chunk) >= _FEW_TEXTS):
            yield chunk
            chunk, n_characters = [], 0
    yield chunk


def text_at(position: int) -> str:
    """Return the name of a text in messages, where no file and row are known."""
    return f"text at position {position}"


def check_texts(texts: Sequence[object], first_position: int = 0, name: Callable[[int], str] = text_at) -> None:
    """Refuse what is not a text; the Rust tokenizer would silently read a tuple as a pair.

    Raises:
        InputError: An item is not a string, or contains a lone surrogate; with its position.
    """
    for position, text in enumerate(texts, first_position):
        if not isinstance(text, str):
            raise InputError(
                f"{name(position)} is {quoted(text)} ({type(text).__name__}), expected a string",
                "remove or replace it",
            )
        # isascii reads a flag of the string, so the check costs nothing for ASCII text
        if not text.isascii() and (surrogate := _SURROGATE.search(text)):
            raise InputError(
                f"{name(position)} holds the lone surrogate {quoted(surrogate[0])} at character "
                f"{surrogate.start()}, which UTF-8 cannot encode",
                "decode the source again",
            )
