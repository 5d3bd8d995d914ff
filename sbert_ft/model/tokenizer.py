"""Texts to flat token ids, in one call of the Rust tokenizer a window, and never cut in silence.

The tokenizer runs without truncation and without special tokens; both are put on afterwards in
numpy. So it is known exactly how many tokens a text has, what was cut, and what is unknown, and
an over-long text can be taken in overlapping windows without tokenising it again.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import normalizers

from sbert_ft.errors import InputError, ModelFolderError, quoted
from sbert_ft.model.packing import TextTokens, offsets_of
from sbert_ft.model.tokenizer_files import TokenizerFiles, normalizer_of, read_tokenizer
from sbert_ft.model.vocabulary import Casing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# by role, BERT's and RoBERTa's, where a folder names none that its vocabulary has
USUAL_TOKENS: Mapping[str, tuple[str, ...]] = {
    "unk_token": ("[UNK]", "<unk>"),
    "sep_token": ("[SEP]", "</s>"),
    "pad_token": ("[PAD]", "<pad>"),
    "cls_token": ("[CLS]", "<s>"),
    "mask_token": ("[MASK]", "<mask>"),
}
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Specials:
    """The token ids that an encoder expects around a text.

    Attributes:
        before: Ids before a text, such as that of [CLS].
        after: Ids after it, such as that of [SEP].
        padding_id: Fills what no text covers.
        unknown_id: Stands for what is not in the vocabulary; None where nothing is unknown.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    padding_id: int
    unknown_id: int | None


class TextTokenizer:
    """The tokenizer of a model folder.

    Attributes:
        backend: The Rust tokenizer.
        casing: The rule in force for a BERT vocabulary, None for other kinds.
        specials: What is put around a text.
        notes: What the user should know about the files, a sentence each.
    """

    def __init__(self, files: TokenizerFiles) -> None:
        """Take over the files' tokenizer and learn from it what it puts around a text.

        Raises:
            ModelFolderError: It puts something between or into the words.
        """
        self.backend = files.backend
        self.casing: Casing | None = files.casing
        self.notes = files.notes
        vocab = self.backend.get_vocab()
        self._special_tokens = {
            role: next((token for token in (named, *USUAL_TOKENS[role]) if token in vocab), named)
            for role, named in files.special_tokens.items()
        }
        self.specials = self._find_specials()

    @classmethod
    def from_pretrained(cls, folder: str | Path, model_type: str = "bert") -> TextTokenizer:
        """Return the tokenizer of a folder; see `read_tokenizer`."""
        return cls(read_tokenizer(Path(folder), model_type))

    @property
    def vocab_size(self) -> int:
        """Highest token id plus one."""
        return max(self.backend.get_vocab().values()) + 1

    @property
    def n_special(self) -> int:
        """Tokens put around each text."""
        return len(self.specials.before) + len(self.specials.after)

    def lower_case_first(self) -> None:
        """Lower-case texts before all else, as an old setting of sentence-transformers asks for."""
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
            first_position: Number of the first one, for messages.

        Raises:
            InputError: A text is no string, or holds a lone surrogate.
        """
        if not len(texts):
            return TextTokens(np.zeros(0, np.int32), np.zeros(1, np.int64))
        check_texts(texts, first_position)
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        offsets = offsets_of(lengths)
        flat = np.fromiter(itertools.chain.from_iterable(ids), np.int32, int(offsets[-1]))
        return TextTokens(flat, offsets)

    def frame(self, bodies: TextTokens, max_tokens: int) -> TextTokens:
        """Return the texts with special tokens, each cut at its end to `max_tokens` in all."""
        kept = np.minimum(bodies.lengths, max_tokens - self.n_special)
        return self._between_specials(bodies, bodies.offsets[:-1], kept)

    def frame_windows(self, bodies: TextTokens, max_tokens: int, overlap: int) -> tuple[TextTokens, NDArray[np.int64]]:
        """Return each text as windows of at most `max_tokens`, and the windows a text has.

        Neighbours share `overlap` tokens; the last window ends where the text does and is full, so
        that no window is a scrap.

        Returns:
            The windows, text after text, and their number by text, shape (N,), int64.
        """
        room = max_tokens - self.n_special
        step = max(1, room - overlap)
        lengths = bodies.lengths
        counts = np.where(lengths <= room, 1, -(-np.maximum(lengths - room, 0) // step) + 1)
        text = np.repeat(np.arange(len(lengths)), counts)
        nth = np.arange(len(text)) - np.repeat(offsets_of(counts)[:-1], counts)
        begin = np.minimum(nth * step, np.maximum(lengths[text] - room, 0))
        return self._between_specials(bodies, bodies.offsets[text] + begin, np.minimum(lengths[text], room)), counts

    def _between_specials(self, bodies: TextTokens, begins: NDArray[np.int64], kept: NDArray[np.int64]) -> TextTokens:
        before, after = self.specials.before, self.specials.after
        offsets = offsets_of(kept + self.n_special)
        framed = np.empty(int(offsets[-1]), np.int32)
        within = np.arange(int(kept.sum())) - np.repeat(offsets_of(kept)[:-1], kept)
        framed[np.repeat(offsets[:-1] + len(before), kept) + within] = bodies.token_ids[
            np.repeat(begins, kept) + within
        ]
        for place, token_id in enumerate(before):
            framed[offsets[:-1] + place] = token_id
        for place, token_id in enumerate(after):
            framed[offsets[1:] - len(after) + place] = token_id
        return TextTokens(framed, offsets)

    def count_unknown(self, bodies: TextTokens) -> int:
        """Return how many tokens are unknown."""
        return int((bodies.token_ids == self.specials.unknown_id).sum()) if self.specials.unknown_id is not None else 0

    def _find_specials(self) -> Specials:
        """Encode a word with and without special tokens, and see what stands around it."""
        vocab = self.backend.get_vocab()
        probe = next((c for c in "ae가1.的" if self.backend.encode(c, add_special_tokens=False).ids), "a")
        body = self.backend.encode(probe, add_special_tokens=False).ids
        whole = self.backend.encode(probe).ids
        begin = next((i for i in range(len(whole)) if whole[i : i + len(body)] == body), None)
        if begin is None or not body:
            raise ModelFolderError(
                "tokenizer.json changes a text's own tokens when it adds special ones: not supported"
            )
        padding, unknown = (vocab.get(self._special_tokens[role]) for role in ("pad_token", "unk_token"))
        if padding is None:
            raise ModelFolderError("the tokenizer has no padding token: name pad_token in tokenizer_config.json")
        return Specials(tuple(whole[:begin]), tuple(whole[begin + len(body) :]), padding, unknown)

    def save_pretrained(self, folder: str | Path, max_tokens: int) -> None:
        """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and, for WordPiece, vocab.txt.

        Casing is always written down. The class is named as PreTrainedTokenizerFast where text is
        composed first: transformers' BertTokenizer reads no normalizer and would lose that.
        """
        target = Path(folder)
        # written here: the Rust side reports a full disk as a bare Exception
        (target / "tokenizer.json").write_text(self.backend.to_str(pretty=True), "utf-8")
        vocab = self.backend.get_vocab()
        special = {role: token for role, token in self._special_tokens.items() if token in vocab}
        (target / "special_tokens_map.json").write_text(json.dumps(special, indent=2, ensure_ascii=False), "utf-8")
        settings: dict[str, Any] = {
            **special,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_tokens,
            "padding_side": "right",
            "truncation_side": "right",
            "clean_up_tokenization_spaces": False,
        }
        if self.casing is not None:
            settings |= {
                "do_lower_case": self.casing.do_lower_case,
                "strip_accents": self.casing.strip_accents,
                "tokenize_chinese_chars": self.casing.tokenize_chinese_chars,
                "tokenizer_class": "PreTrainedTokenizerFast" if self.casing.compose else "BertTokenizer",
            }
            lines = [token for token, _ in sorted(vocab.items(), key=lambda item: item[1])]
            if sorted(vocab.values()) == list(range(len(lines))):
                (target / "vocab.txt").write_text("".join(f"{t}\n" for t in lines), "utf-8", newline="\n")
        text = json.dumps(settings, indent=2, ensure_ascii=False)
        (target / "tokenizer_config.json").write_text(text, "utf-8")

    def to_transformers(self, max_tokens: int) -> PreTrainedTokenizerBase:
        """Return the same tokenizer as transformers' class, for libraries that want one."""
        from transformers import PreTrainedTokenizerFast

        vocab = self.backend.get_vocab()
        special = {role: token for role, token in self._special_tokens.items() if token in vocab}
        copy = type(self.backend).from_str(self.backend.to_str())
        tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
            tokenizer_object=copy, model_max_length=max_tokens, **special
        )
        return tokenizer


def text_at(position: int) -> str:
    """Return how a text is named in a message where nothing better is known."""
    return f"text at position {position}"


def check_texts(texts: Sequence[object], first_position: int = 0, name: Callable[[int], str] = text_at) -> None:
    """Refuse what is no text; the Rust tokenizer would take a tuple for a pair without a word.

    Raises:
        InputError: Something is no string, or holds a lone surrogate; with its position.
    """
    for position, text in enumerate(texts, first_position):
        if not isinstance(text, str):
            raise InputError(
                f"{name(position)} is {quoted(text)} ({type(text).__name__}), expected a string; drop it or replace it"
            )
        # isascii is a flag of the string: the usual text costs nothing here
        if not text.isascii() and (surrogate := _SURROGATE.search(text)):
            raise InputError(
                f"{name(position)} holds the lone surrogate {quoted(surrogate[0])} at character "
                f"{surrogate.start()}, which no UTF-8 text can; decode the source again"
            )
