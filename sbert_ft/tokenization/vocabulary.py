"""Read a WordPiece vocabulary, and find the casing that it was made for.

A bare `vocab.txt` does not state its casing, and other tools then lower-case text and strip accents. To strip accents,
text is decomposed, which takes Hangul syllables apart into jamo that no vocabulary has: all Korean silently becomes
[UNK]. So the rule is read from the vocabulary:

- upper-case pieces, or Hangul syllables without all 26 lower-case Latin letters: text is left as it is (cased);
- otherwise the vocabulary was learned from lower-cased text, so text is lower-cased; accents are stripped unless the
  vocabulary has letters (é, が, 한) that stripping would change;
- Hangul syllables: text is first composed to NFC, since decomposed Hangul looks the same;
- no syllables, but conjoining jamo: the vocabulary was learned from decomposed text, so text is decomposed, to NFKD if
  this changes no token, else (the compatibility jamo of ㅋㅋ, for example) to NFD.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sbert_ft.errors import ModelFolderError, quoted, shown
from sbert_ft.files.strict_json import read_small
from sbert_ft.tokenization.backend import MAX_VOCAB_BYTES, check_lines

Form = Literal["", "NFC", "NFD", "NFKD"]
_SAVE_AGAIN = "save the vocabulary as UTF-8"


@dataclass(frozen=True)
class Casing:
    """How text is normalised before WordPiece (Devlin et al. 2019; its BasicTokenizer).

    `strip_accents` decomposes text, which takes Hangul syllables apart. `form` is the normal form of Unicode that text
    is brought to first, empty for none. `source` is the file that sets the rule, or ``vocabulary``.
    """

    do_lower_case: bool
    strip_accents: bool
    tokenize_chinese_chars: bool
    form: Form
    source: str

    def describe(self) -> str:
        """Return the rule in words, for messages."""
        case = "lower-cased" if self.do_lower_case else "cased"
        accents = "accents stripped" if self.strip_accents else "accents kept"
        form = f", {'composed' if self.form == 'NFC' else 'decomposed'} to {self.form}" if self.form else ""
        return f"{case}, {accents}{form} (by {self.source})"


def read_vocab(path: Path, n_rows: int | None = None) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return the id of each token of a vocab.txt, and notes on what is unusual in it.

    The file has one token a line, split only at line feeds (a token may contain U+2028); a byte order mark and
    carriage returns at the ends of lines are dropped. Far more lines than the `n_rows` of the embedding table (None if
    not known) are refused before they are parsed.

    Raises:
        ModelFolderError: Not UTF-8, empty, a blank line inside, too large, or not a vocabulary.
    """
    data = read_small(path, MAX_VOCAB_BYTES, "a vocabulary")
    check_lines(path, data, n_rows)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        hint = ", it looks like UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        problem = f"line {line}, is not UTF-8 (byte {data[error.start]:#04x}{hint})"
        raise ModelFolderError(f"{shown(path)}, {problem}", _SAVE_AGAIN) from error
    if "\0" in text:
        raise ModelFolderError(f"{shown(path)} contains NUL bytes, it looks like UTF-16", _SAVE_AGAIN)
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ModelFolderError(f"{shown(path)} is empty: expected a vocabulary with one token a line")
    if "" in lines:
        raise ModelFolderError(
            f"{shown(path)}, line {lines.index('') + 1}, is blank: every line of a vocabulary is a token, and a "
            "missing one changes the ids of all that follow",
            "restore the file",
        )
    vocab = {token: line for line, token in enumerate(lines)}
    if len(vocab) == len(lines):
        return vocab, ()
    repeated = next(token for line, token in enumerate(lines) if vocab[token] != line)
    return vocab, (
        f"duplicate tokens in {path.name}: {len(lines) - len(vocab)}, such as {quoted(repeated)}; the last one is used",
    )


def holds_hangul(tokens: Iterable[str]) -> bool:
    """Return whether any token, or character of a text, has a composed Hangul syllable (U+AC00 to U+D7A3)."""
    return any("가" <= c <= "힣" for token in tokens for c in token)


def holds_jamo_words(vocab: Iterable[str]) -> bool:
    """Return whether any token has two conjoining jamo: single ones are in vocabularies without Hangul words too."""
    return any(sum("\u1100" <= c <= "\u11ff" for c in token) > 1 for token in vocab)


def is_compatibility_jamo(letter: str) -> bool:
    """Return whether it is a jamo that stands alone, such as those of ㅋㅋ (U+3131 to U+318E)."""
    return "\u3131" <= letter <= "\u318e"


def holds_pieces(vocab: Iterable[str]) -> bool:
    """Return whether it is a vocabulary of SentencePiece: ▁ before a word, not ## before the rest of one."""
    n_pieces = n_rests = n_tokens = 0
    for token in vocab:
        n_tokens += 1
        n_pieces += len(token) > 1 and token[0] == "▁"
        n_rests += token.startswith("##")
    return n_pieces > max(n_rests, n_tokens // 20)


def holds_accents(vocab: Mapping[str, int]) -> bool:
    """Return whether stripping accents would change any token, for example one with é, が or 한."""
    decomposed = (unicodedata.normalize("NFD", token) for token in vocab if not token.isascii())
    return holds_hangul(vocab) or any(unicodedata.category(c) == "Mn" for token in decomposed for c in token)


def _holds_upper_case(vocab: Mapping[str, int]) -> bool:
    # not str.isupper: ℝ is upper case but lower-casing does not change it, so uncased vocabularies have it
    return any(token != token.lower() for token in vocab if not token.startswith("["))


def casing_of_vocabulary(vocab: Mapping[str, int]) -> Casing:
    """Return the casing rule that a vocabulary implies, by the rules in this module's docstring."""
    hangul, upper = holds_hangul(vocab), _holds_upper_case(vocab)
    latin = all(letter in vocab for letter in "abcdefghijklmnopqrstuvwxyz")
    lower = not upper and (latin or not hangul)
    strip = lower and not holds_accents(vocab)
    return Casing(lower, strip, True, form_of_vocabulary(vocab, single_jamo=not strip), "vocabulary")


def form_of_vocabulary(vocab: Mapping[str, int], *, single_jamo: bool = False) -> Form:
    """Return the normal form of Unicode in which a vocabulary holds Hangul, empty where it holds none.

    With `single_jamo`, jamo count that are not in words, which vocabularies of other languages have too.
    """
    if holds_hangul(vocab):
        return "NFC"
    if holds_jamo_words(vocab) or (single_jamo and _holds_jamo(vocab) and _is_in("NFD", vocab)):
        return "NFKD" if _is_in("NFKD", vocab) else "NFD"
    return ""


def _holds_jamo(vocab: Iterable[str]) -> bool:
    """Return whether any token has a conjoining vowel of Hangul."""
    return any("\u1161" <= c <= "\u11a7" for token in vocab for c in token)


def _is_in(form: Literal["NFD", "NFKD"], vocab: Iterable[str]) -> bool:
    """Return whether a normal form of Unicode changes no token."""
    return all(unicodedata.is_normalized(form, token) for token in vocab)
