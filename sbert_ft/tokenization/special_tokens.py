"""Find the special tokens that a tokenizer puts around a text and around a pair of texts, by encoding one.

Tokenizer files describe them in many ways (post-processors by template, by name, in sequence). The result always has
one form: ids before, between and after, and the token types that tell the second text from the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from sbert_ft.errors import ModelFolderError
from sbert_ft.tokenization.backend import encode

_N_TYPES = 256  # values of a token type in TextTokens, which are uint8


@dataclass(frozen=True)
class Specials:
    """The token ids that an encoder expects around a text.

    Attributes:
        before: Ids before a text, such as that of [CLS].
        after: Ids after it, such as that of [SEP].
        padding_id: Fills positions without a token.
        unknown_id: Stands for what is not in the vocabulary; None where the vocabulary has no such token.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    padding_id: int
    unknown_id: int | None


@dataclass(frozen=True)
class PairSpecials:
    """The token ids that an encoder expects around a pair of texts, and the token types.

    BERT's [CLS] a [SEP] b [SEP] has the types 0 0 0 1 1; RoBERTa's <s> a </s></s> b </s> has two ids between and six
    types, all 0.

    Attributes:
        before: Ids before the first text.
        between: Ids between the texts.
        after: Ids after the second text.
        types: The token type of each id before, of the first text, of each id between, of the second text, and of
            each id after, in this order.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, ...]

    @property
    def n_special(self) -> int:
        """Number of special tokens around and between two texts."""
        return len(self.before) + len(self.between) + len(self.after)


def find_specials(backend: Tokenizer, special_tokens: Mapping[str, str]) -> Specials:
    """Return the special tokens around a text, found by encoding one with and without them.

    Args:
        backend: The Rust tokenizer.
        special_tokens: Token by role, such as ``pad_token``.

    Raises:
        ModelFolderError: Special tokens change the text's own tokens or are not in the vocabulary, or there is no
            padding token.
    """
    vocab = backend.get_vocab()
    probe = _probe(backend)
    body = encode(backend, probe, add_special_tokens=False).ids
    encoding = encode(backend, probe)
    whole = encoding.ids
    begin = next((i for i in range(len(whole)) if whole[i : i + len(body)] == body), None)
    if begin is None or not body or encoding.sequence_ids.count(0) != len(body):
        raise ModelFolderError("tokenizer.json changes a text's own tokens when it adds special ones: not supported")
    padding, unknown = (vocab.get(special_tokens[role]) for role in ("pad_token", "unk_token"))
    _check_known(whole, vocab)
    if padding is None:
        raise ModelFolderError("the tokenizer has no padding token", "set pad_token in tokenizer_config.json")
    return Specials(tuple(whole[:begin]), tuple(whole[begin + len(body) :]), padding, unknown)


def find_pair_specials(backend: Tokenizer, n_special: int) -> PairSpecials:
    """Return the special tokens around and between the texts of a pair, found by encoding one.

    Args:
        backend: The Rust tokenizer.
        n_special: Number of special tokens around a single text.

    Raises:
        ModelFolderError: A pair is not the first text and then the second with special tokens around them, or has fewer
            special tokens than a single text.
    """
    probe = _probe(backend)
    body = encode(backend, probe, add_special_tokens=False).ids
    pair = encode(backend, probe, probe)
    ids, types, sides = pair.ids, pair.type_ids, pair.sequence_ids
    first, second = ([place for place, side in enumerate(sides) if side == which] for which in (0, 1))
    if not (
        first
        and second
        and ids[first[0] : first[-1] + 1] == body == ids[second[0] : second[-1] + 1]
        and first[-1] < second[0]
        and len({types[place] for place in first}) == len({types[place] for place in second}) == 1
        and max(types) < _N_TYPES
    ):
        raise ModelFolderError(
            "tokenizer.json does not encode a pair as the first text and then the second with special tokens around "
            "them: not supported",
            "set the pair template of post_processor, for example to [CLS] $A [SEP] $B [SEP]",
        )
    _check_known(ids, backend.get_vocab())
    specials = PairSpecials(
        before=tuple(ids[: first[0]]),
        between=tuple(ids[first[-1] + 1 : second[0]]),
        after=tuple(ids[second[-1] + 1 :]),
        types=(*types[: first[0] + 1], *types[first[-1] + 1 : second[0] + 1], *types[second[-1] + 1 :]),
    )
    if specials.n_special < n_special:  # texts are cut to fit a single text's special tokens
        raise ModelFolderError(
            f"tokenizer.json puts {specials.n_special} special tokens around a pair but {n_special} around a single "
            "text, expected at least as many",
            "fix the pair template of its post_processor",
        )
    return specials


def pairs_have_types(backend: Tokenizer) -> bool:
    """Return whether the tokenizer marks the second text of a pair by token types."""
    probe = _probe(backend)
    return any(encode(backend, probe, probe).type_ids)


def _check_known(ids: Sequence[int], vocab: Mapping[str, int]) -> None:
    """Refuse special token ids above the vocabulary's highest id: the embedding table may have no row for them."""
    highest = max(vocab.values(), default=-1)
    if max(ids, default=0) > highest:
        raise ModelFolderError(
            f"tokenizer.json puts the token id {max(ids)} around a text, but the highest id of its vocabulary is "
            f"{highest}",
            "fix the ids in special_tokens of its post_processor",
        )


def _probe(backend: Tokenizer) -> str:
    """Return a text that has tokens, the first of a few candidates; if none has any, "a"."""
    return next((c for c in "ae가1.的" if encode(backend, c, add_special_tokens=False).ids), "a")
