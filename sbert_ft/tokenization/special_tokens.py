"""Find the special tokens that a tokenizer puts around a text and around a pair of texts, by encoding one.

Tokenizer files describe them in many ways (post-processors by template, by name, in sequence). The result always has
one form, `Specials`: the ids around and between the texts, and the token types that tell the second from the first.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer

from sbert_ft.errors import InputError, ModelFolderError, quoted
from sbert_ft.tokenization.backend import encode

_N_TYPES = 256  # values of a token type in TextTokens, which are uint8


@dataclass(frozen=True)
class Specials:
    """The token ids that an encoder expects around a text or around and between two, and the token types.

    BERT's [CLS] a [SEP] b [SEP] has the gaps ([CLS],), ([SEP],), ([SEP],) and the types 0 0 0 1 1; RoBERTa's
    <s> a </s></s> b </s> has two ids between and six types, all 0.

    Attributes:
        gaps: The ids before the first text, between the texts, and after the last one.
        types: The token type of each id and of each text, in their order.
    """

    gaps: tuple[tuple[int, ...], ...]
    types: tuple[int, ...]

    @property
    def before(self) -> tuple[int, ...]:
        """The ids before the first text."""
        return self.gaps[0]

    @property
    def after(self) -> tuple[int, ...]:
        """The ids after the last text."""
        return self.gaps[-1]

    @property
    def n_special(self) -> int:
        """Number of special tokens around and between the texts."""
        return sum(map(len, self.gaps))

    def room(self, max_tokens: int, at_least: int) -> int:
        """Return how many of `max_tokens` are left for the two texts of a pair.

        Raises:
            InputError: Fewer than `at_least` are left.
        """
        room = max_tokens - self.n_special
        if room < at_least:
            raise InputError(
                f"max_seq_length is {quoted(max_tokens)}, expected a whole number of at least "
                f"{self.n_special + at_least} for two texts in one sequence with {self.n_special} special tokens"
            )
        return room


def find_specials(backend: Tokenizer, n_texts: int) -> Specials:
    """Return the special tokens around `n_texts` texts, 1 or 2, found by encoding a short text so many times.

    A text alone has only the token type 0, whatever the tokenizer says.

    Raises:
        ModelFolderError: The result is not the texts in order with special tokens around them, each text with its own
            tokens and one token type, or a special token is not in the vocabulary.
    """
    probe = probe_of(backend)
    body = encode(backend, probe, add_special_tokens=False).ids
    encoding = encode(backend, *[probe] * n_texts)
    ids, types = encoding.ids, encoding.type_ids if n_texts == 2 else [0] * len(encoding.ids)
    gaps: list[tuple[int, ...]] = []
    kept_types: list[int] = []
    end = 0
    for text in range(n_texts):
        own = [place for place, side in enumerate(encoding.sequence_ids) if side == text]
        begin = own[0] if own else -1
        if begin < end or own != list(range(begin, begin + len(body))) or ids[begin : own[-1] + 1] != body:
            raise _unsupported(n_texts)
        if len(set(types[begin : own[-1] + 1])) > 1:
            raise _unsupported(n_texts)
        gaps.append(tuple(ids[end:begin]))
        kept_types += types[end : begin + 1]
        end = own[-1] + 1
    if max(types) >= _N_TYPES:
        raise _unsupported(n_texts)
    # the embedding table may have no row for an id above the highest one of the vocabulary
    if max(ids) > (highest := max(backend.get_vocab().values(), default=-1)):
        raise ModelFolderError(
            f"tokenizer.json puts the token id {max(ids)} around a text, but the highest id of its vocabulary is "
            f"{highest}",
            "fix the ids in special_tokens of its post_processor",
        )
    return Specials((*gaps, tuple(ids[end:])), (*kept_types, *types[end:]))


def _unsupported(n_texts: int) -> ModelFolderError:
    if n_texts == 1:
        return ModelFolderError("tokenizer.json changes a text's own tokens when it adds special ones: not supported")
    return ModelFolderError(
        "tokenizer.json does not encode a pair as the first text and then the second with special tokens around "
        "them: not supported",
        "set the pair template of post_processor, for example to [CLS] $A [SEP] $B [SEP]",
    )


def probe_of(backend: Tokenizer) -> str:
    """Return a text that has tokens, the first of a few candidates; if none has any, "a"."""
    return next((c for c in "ae가1.的" if encode(backend, c, add_special_tokens=False).ids), "a")
