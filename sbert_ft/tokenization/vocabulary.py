"""A WordPiece vocabulary, and the casing that it means.

A bare `vocab.txt` says nothing about casing, and every other tool then lower-cases and strips
accents. To strip accents, text is decomposed, which takes Hangul syllables apart into jamo that no
vocabulary holds: all Korean becomes [UNK] without a word. So the rule is read from the vocabulary:

- Hangul syllables or upper-case pieces in it: the text is left as it is (cased);
- no upper-case piece, but all 26 lower-case Latin letters: it was lower-cased when it was learned,
  so the text is lower-cased; accents are stripped unless the vocabulary has letters (é, が, 한) that
  stripping would take away;
- composed syllables in it: text is first composed to NFC, since decomposed Hangul looks the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sbert_ft.errors import ModelFolderError, quoted, shown
from sbert_ft.files.strict_json import foreign_content, open_file
from sbert_ft.tokenization.backend import MAX_VOCAB_BYTES, check_lines


@dataclass(frozen=True)
class Casing:
    """How text is normalised before WordPiece (Devlin et al. 2019; its BasicTokenizer).

    Attributes:
        do_lower_case: Text is lower-cased.
        strip_accents: Text is decomposed and marks are dropped; takes Hangul apart.
        tokenize_chinese_chars: Each Chinese character is a word.
        compose: Text is brought to NFC first.
        source: Which file said so, or ``vocabulary``.
    """

    do_lower_case: bool
    strip_accents: bool
    tokenize_chinese_chars: bool
    compose: bool
    source: str

    def describe(self) -> str:
        """Return the rule in words, for one line of a message."""
        case = "lower-cased" if self.do_lower_case else "cased"
        accents = "accents stripped" if self.strip_accents else "accents kept"
        return f"{case}, {accents}{', composed to NFC' if self.compose else ''} (by {self.source})"


def read_vocab(path: Path, n_rows: int | None = None) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return token to id of a vocab.txt, and notes on what is odd in it.

    One token a line, split at line feeds alone (a token may hold U+2028); a byte order mark and
    carriage returns at the ends of lines are dropped.

    Args:
        path: The file.
        n_rows: Rows of the embedding table, where they are known: far more lines are refused before they are read.

    Raises:
        ModelFolderError: Not UTF-8, empty, a blank line inside, too large, or no vocabulary at all.
    """
    with open_file(path) as file:
        data = file.read(MAX_VOCAB_BYTES + 1)
    if len(data) > MAX_VOCAB_BYTES:
        raise ModelFolderError(f"{shown(path)} has more than {MAX_VOCAB_BYTES:,} bytes, too many for a vocabulary")
    if foreign := foreign_content(data[:64]):
        raise ModelFolderError(f"{shown(path)} {foreign}")
    check_lines(path, data, n_rows)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        hint = ", it looks like UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise ModelFolderError(
            f"{shown(path)}, line {line}, is not UTF-8 (byte {data[error.start]:#04x}{hint}): "
            "save the vocabulary as UTF-8"
        ) from error
    if "\0" in text:
        raise ModelFolderError(f"{shown(path)} holds NUL bytes, it looks like UTF-16: save the vocabulary as UTF-8")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ModelFolderError(f"{shown(path)} is empty: expected a vocabulary with one token a line")
    if "" in lines:
        raise ModelFolderError(
            f"{shown(path)}, line {lines.index('') + 1}, is blank: every line of a vocabulary is a token, and a lost "
            "one shifts all that follow",
            "restore the file",
        )
    vocab = {token: line for line, token in enumerate(lines)}
    if len(vocab) == len(lines):
        return vocab, ()
    repeated = next(token for line, token in enumerate(lines) if vocab[token] != line)
    return vocab, (
        f"duplicate tokens in {path.name}: {len(lines) - len(vocab)}, such as {quoted(repeated)}; the last one counts",
    )


def holds_hangul(vocab: Mapping[str, int]) -> bool:
    """Return whether any token has a composed Hangul syllable (U+AC00 to U+D7A3)."""
    return any("가" <= c <= "힣" for token in vocab for c in token)


def holds_accents(vocab: Mapping[str, int]) -> bool:
    """Return whether stripping accents would change any token: é, が or 한 in it, say."""

    def changes(token: str) -> bool:
        return any(unicodedata.category(c) == "Mn" for c in unicodedata.normalize("NFD", token)) or any(
            "가" <= c <= "힣" for c in token
        )

    return any(not token.isascii() and changes(token) for token in vocab)


def _holds_upper_case(vocab: Mapping[str, int]) -> bool:
    # not str.isupper: ℝ is upper case and stays when text is lower-cased, so uncased vocabularies hold it
    return any(token != token.lower() for token in vocab if not token.startswith("["))


def casing_of_vocabulary(vocab: Mapping[str, int]) -> Casing:
    """Return the rule that a vocabulary itself shows; see the head of this module."""
    hangul, upper = holds_hangul(vocab), _holds_upper_case(vocab)
    latin = all(letter in vocab for letter in "abcdefghijklmnopqrstuvwxyz")
    lower = not upper and (latin or not hangul)
    return Casing(lower, lower and not holds_accents(vocab), True, hangul, "vocabulary")
