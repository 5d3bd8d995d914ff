"""Find out why words of texts are not in a vocabulary, so that the advice fits: pure functions of both.

Compared are the letters of the texts, as the tokenizer normalises them, and the letters of all tokens. What a change of
the rule would make known is the cause; only what no change does is a vocabulary for other texts. Costs one pass over
the vocabulary.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sbert_ft.tokenization.vocabulary import holds_hangul, holds_jamo_words, holds_pieces, is_compatibility_jamo

_FIT = "take a model whose vocabulary was made for such texts"


@dataclass(frozen=True)
class Cause:
    """Why words are unknown: its name, what was found (empty where nothing was), and what to do."""

    name: Literal["case", "jamo", "pieces", "script", "unknown"]
    found: str
    remedy: str

    @property
    def in_brackets(self) -> str:
        """What was found, to follow other words."""
        return f" ({self.found})" if self.found else ""


def cause_of_unknown(
    texts: Sequence[str],
    vocab: Mapping[str, int],
    normalize: Callable[[str], str] = str,
    is_wordpiece: bool = True,
) -> Cause:
    """Return why texts have unknown words.

    Args:
        texts: Some that have unknown words.
        vocab: The tokens.
        normalize: What the tokenizer does to a text before it splits it.
        is_wordpiece: Whether it splits as WordPiece does.
    """
    if is_wordpiece and holds_pieces(vocab):
        found = "the vocabulary is of SentencePiece (▁ before a word), but texts are split as WordPiece"
        return Cause("pieces", found, "bring the SentencePiece model file or the tokenizer.json that belongs to it")
    known = set().union(*vocab)
    now = [normalize(text) for text in texts]
    missing = _missing_share(now, known)

    def helps(changed: Iterable[str]) -> bool:
        return 2 * _missing_share(changed, known) < missing

    as_they_are = [unicodedata.normalize("NFC", text) for text in texts]
    if helps(text.lower() for text in now):
        found = "the texts have capital letters, the vocabulary has none"
        return Cause("case", found, "set do_lower_case to true in tokenizer_config.json")
    if helps(as_they_are):
        if holds_hangul(vocab) and any(map(holds_hangul, as_they_are)) and not any(map(holds_hangul, now)):
            found = "Hangul is taken apart into jamo, the vocabulary holds syllables"
            return Cause("jamo", found, "set strip_accents to false in tokenizer_config.json")
        found = "the texts are lower-cased, the vocabulary has capital letters"
        return Cause("case", found, "set do_lower_case to false in tokenizer_config.json")
    if any(map(holds_hangul, now)) and not holds_hangul(vocab):
        in_compatibility = sum(len(token) > 1 and any(map(is_compatibility_jamo, token)) for token in vocab) > 1
        if holds_jamo_words(vocab) or in_compatibility:
            found = "the vocabulary holds Hangul as jamo, the texts as syllables"
            return Cause("jamo", found, "bring a tokenizer.json that takes Hangul apart as the vocabulary does")
    script = _script_of(as_they_are)
    if script == "Hangul" and not holds_hangul(vocab) and not holds_jamo_words(vocab):
        return Cause(
            "script", "the texts hold Hangul, the vocabulary has none", "take a model with a Korean vocabulary"
        )
    if script and not any(_script(letter) == script for letter in known):
        return Cause("script", f"the texts hold {script}, the vocabulary has none", _FIT)
    if is_wordpiece and not any(token.startswith("##") for token in vocab):
        found = "the vocabulary has no pieces that go on with a word (##...)"
        return Cause("pieces", found, "use the vocabulary that belongs to these weights")
    return Cause("unknown", "", _FIT)


def _missing_share(texts: Iterable[str], known: set[str]) -> float:
    """Return the share of the texts' letters that no token has: taken apart, Hangul has more letters."""
    letters = [letter in known for text in texts for letter in text if letter.isalpha()]
    return letters.count(False) / len(letters) if letters else 0.0


def _script_of(texts: Iterable[str]) -> str:
    """Return the script of most letters, empty without letters."""
    counts = Counter(letter for text in texts for letter in text if letter.isalpha())
    scripts: Counter[str] = Counter()
    for letter, n in counts.items():
        scripts[_script(letter)] += n
    return scripts.most_common(1)[0][0] if scripts else ""


def _script(letter: str) -> str:
    """Return the first word of a letter's name, which is its script, such as Hangul; empty for what is no letter."""
    return unicodedata.name(letter, "").partition(" ")[0].capitalize() if letter.isalpha() else ""
