"""Masked tokens: which tokens of a batch a language model has to predict, and what it sees in their places.

Devlin et al. 2019, BERT, section 3.1 and appendix A.1: 15 % of the tokens are chosen; of these, 80 % become [MASK],
10 % a random token and 10 % stay as they are. What is drawn is a function of the generator alone, so a resumed run
draws the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.errors import InputError
from sbert_ft.tokenization.text_tokens import TextTokens
from sbert_ft.tokenization.tokenizer import TextTokenizer

MASKED_SHARE: Final = 0.8
RANDOM_SHARE: Final = 0.1


@dataclass(frozen=True)
class MaskedTokens:
    """N sequences with masked tokens.

    Attributes:
        tokens: What the model sees.
        places: Which tokens it has to predict: rising indices into ``tokens.token_ids``, shape (M,), int64.
        labels: The tokens that stood there, shape (M,), int64.
        second: For pairs of segments: 0 where the second one follows the first, 1 where it is from another document;
            shape (N,), int64. None for single segments.
    """

    tokens: TextTokens
    places: NDArray[np.int64]
    labels: NDArray[np.int64]
    second: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def owners(self) -> NDArray[np.int64]:
        """The sequence of each place, shape (M,)."""
        return np.searchsorted(self.tokens.offsets, self.places, side="right") - 1

    def select(self, rows: NDArray[np.int64]) -> MaskedTokens:
        """Return the sequences with these indices, shape (n,), in this order."""
        tokens, owners = self.tokens.select(rows), self.owners
        bounds = np.searchsorted(owners, np.stack([rows, rows + 1]))
        counts = bounds[1] - bounds[0]
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        chosen = nth + np.repeat(bounds[0], counts)
        places = self.places[chosen] + np.repeat(tokens.offsets[:-1] - self.tokens.offsets[rows], counts)
        second = None if self.second is None else self.second[rows]
        return MaskedTokens(tokens, places, self.labels[chosen], second)


class Masker:
    """Chooses and masks tokens, by the vocabulary of a tokenizer."""

    def __init__(self, tokenizer: TextTokenizer, share: float = 0.15, whole_words: bool = False) -> None:
        """Look up what the vocabulary says.

        Args:
            tokenizer: Has a mask token.
            share: Share of a text's tokens (or words) that are chosen, above 0 and at most 1.
            whole_words: Choose words instead of tokens: all tokens between two spaces, in Korean an eojeol. For
                WordPiece, a punctuation mark is a word of its own.

        Raises:
            InputError: There is no mask token, or no token but special ones; or whole words are wanted, and the
                vocabulary does not show where they begin.
        """
        vocabulary: dict[str, int] = tokenizer.backend.get_vocab(with_added_tokens=True)
        size = max(vocabulary.values()) + 1
        self.share, self.whole_words = share, whole_words
        if tokenizer.mask_id is None:
            raise InputError(
                "the vocabulary has no mask token, [MASK] or <mask>, so no token can be masked",
                "add a line [MASK] to vocab.txt, or train a vocabulary with sbert-ft vocab",
            )
        self.mask_id = tokenizer.mask_id
        special = {tokenizer.unknown_id, self.mask_id, tokenizer.padding_id, *tokenizer.specials.before}
        special |= set(tokenizer.specials.after)
        special |= {number for number, token in tokenizer.backend.get_added_tokens_decoder().items() if token.special}
        self.is_special = np.zeros(size, bool)
        self.is_special[[number for number in special if number is not None and 0 <= number < size]] = True
        ordinary = np.zeros(size, bool)
        ordinary[list(vocabulary.values())] = True
        self._ordinary = np.flatnonzero(ordinary & ~self.is_special)
        if not len(self._ordinary):
            raise InputError("the vocabulary has only special tokens, so there is nothing to mask", "use another one")
        # special tokens stand between words
        self._begins_word = tokenizer.begins_word | self.is_special if whole_words else self.is_special

    def mask(self, tokens: TextTokens, random: np.random.Generator) -> MaskedTokens:
        """Return the sequences with masked tokens; special and unknown tokens are never chosen.

        Of a sequence with n tokens (or words) of its own, share * n are chosen, rounded up or down at random so that
        the mean is exact.
        """
        ids, offsets = tokens.token_ids, tokens.offsets
        candidate = ~self.is_special[ids]
        owner = np.repeat(np.arange(len(tokens)), tokens.lengths)
        if self.whole_words:
            starts = self._begins_word[ids]
            starts[offsets[:-1][tokens.lengths > 0]] = True
            unit = np.cumsum(starts) - 1
            unit_owner = owner[np.flatnonzero(starts)]
            usable = np.zeros(len(unit_owner), bool)
            usable[unit[candidate]] = True
        else:
            unit, unit_owner, usable = np.arange(len(ids)), owner, candidate
        chosen_units = np.zeros(len(unit_owner), bool)
        units = np.flatnonzero(usable)
        of = unit_owner[units]
        counts = np.bincount(of, minlength=len(tokens))
        n_chosen = np.floor(self.share * counts + random.random(len(tokens))).astype(np.int64)
        order = np.lexsort((random.random(len(units)), of))  # within each sequence in random order
        rank = np.arange(len(units)) - np.repeat(np.cumsum(counts) - counts, counts)
        chosen_units[units[order[rank < n_chosen[of[order]]]]] = True
        places = np.flatnonzero(chosen_units[unit] & candidate)
        labels = ids[places].astype(np.int64)
        seen, draw = ids.copy(), random.random(len(places))
        seen[places[draw < MASKED_SHARE]] = self.mask_id
        replaced = places[(draw >= MASKED_SHARE) & (draw < MASKED_SHARE + RANDOM_SHARE)]
        seen[replaced] = self._ordinary[random.integers(len(self._ordinary), size=len(replaced))]
        return MaskedTokens(replace(tokens, token_ids=seen), places, labels)
