"""Check whether a vocabulary suits its encoder and the texts.

A wrong vocabulary, or the right one with a wrong casing rule, raises no error: words become [UNK] and the vectors mean
little. The checks look at the vocabulary itself and at the tokens of real texts. Texts are tokenized in windows and
only counted, so memory is that of one window.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sbert_ft.doctor.checks import Check, Status, failure, finding, listed
from sbert_ft.errors import InputError, quoted
from sbert_ft.models.inference import windows_of
from sbert_ft.tokenization.text_tokens import TextTokens
from sbert_ft.tokenization.tokenizer import TextTokenizer
from sbert_ft.tokenization.vocabulary import casing_of_vocabulary, holds_accents, holds_hangul, read_vocab

# Shares of unknown tokens and of truncated texts from which on a check is not OK.
_UNKNOWN_WARN, _UNKNOWN_FAIL, _CUT_WARN = 0.005, 0.2, 0.01
_HANGUL = re.compile("[가-힣ᄀ-ᇿ]")
_OTHER_VOCABULARY = "take the vocabulary that belongs to the weights"


@dataclass(frozen=True)
class TextLimits:
    """Maximum lengths of a text in tokens, special ones included; None where the folder cannot be read.

    Attributes:
        max_seq_length: Longer texts are truncated.
        n_positions: Upper limit of max_seq_length.
        prompt: Put before every text.
        joined: Whether two consecutive texts are one sequence.
    """

    max_seq_length: int | None
    n_positions: int | None
    prompt: str = ""
    joined: bool = False

    @property
    def unit(self) -> str:
        """What the encoder reads as one sequence: "text" or "pair"."""
        return "pair" if self.joined else "text"


@dataclass
class _TextCount:
    """Counts of the texts and their tokens; updated while they are read."""

    n_texts: int = 0
    n_empty: int = 0
    n_tokens: int = 0
    n_unknown: int = 0
    n_hangul: int = 0
    first_empty: int | None = None
    first_unknown: tuple[int, str] | None = None
    lengths: Counter[int] = field(default_factory=Counter)  # tokens of a sequence, special ones and prompt included
    half: list[int] = field(default_factory=list)  # length of a first side whose second side is in the next window


def vocabulary_checks(tokenizer: TextTokenizer, n_rows: int | None, folder: Path) -> list[Check]:
    """Return the checks of special tokens, of the vocabulary's size and of casing.

    Args:
        tokenizer: As read from `folder`.
        n_rows: Rows of the embedding table; None where unknown.
        folder: Where the tokenizer's files are.

    Raises:
        ModelFolderError: A file changed while it was read.
    """
    specials, token = tokenizer.specials, tokenizer.backend.id_to_token
    before, after = (" ".join(str(token(i)) for i in ids) or "nothing" for ids in (specials.before, specials.after))
    unknown = "none" if tokenizer.unknown_id is None else token(tokenizer.unknown_id)
    said = f"{before} before a text, {after} after it, padding {token(tokenizer.padding_id)}, unknown {unknown}"
    if specials.before and specials.after:
        of_specials = finding("special tokens", "OK", said)
    else:
        of_specials = finding("special tokens", "WARN", said, "use the tokenizer files that belong to the weights")
    from_list = not (folder / "tokenizer.json").exists() and (folder / "vocab.txt").exists()
    repeats = read_vocab(folder / "vocab.txt")[1] if tokenizer.notes and from_list else ()
    conflicts = [note for note in tokenizer.notes if note not in repeats]
    return [of_specials, _size(tokenizer.vocab_size, n_rows, folder, repeats), _casing(tokenizer, folder, conflicts)]


def _size(n_tokens: int, n_rows: int | None, folder: Path, repeats: Iterable[str]) -> Check:
    """Return the check that every token has a row in the embedding table."""
    repeats = tuple(repeats)
    sizes = f"{n_tokens:,} tokens" + (f" for {n_rows:,} embedding rows" if n_rows else "")
    said = "; ".join([sizes, *repeats])
    if n_rows is not None and n_tokens > n_rows:
        files = listed(name for name in ("tokenizer.json", "vocab.txt", "vocab.json") if (folder / name).exists())
        return finding(
            "vocabulary", "FAIL", f"{files}: {sizes}, so {n_tokens - n_rows:,} tokens have no row", _OTHER_VOCABULARY
        )
    if n_tokens + 1 == n_rows:
        said += "; one short: if a line is missing, all tokens after it are shifted"
        return finding("vocabulary", "WARN", said, _OTHER_VOCABULARY)
    return finding("vocabulary", "WARN", said, _OTHER_VOCABULARY) if repeats else finding("vocabulary", "OK", said)


def _casing(tokenizer: TextTokenizer, folder: Path, conflicts: Iterable[str]) -> Check:
    """Return the check of the casing rule: what it is, where it comes from, and whether it fits the vocabulary."""
    casing = tokenizer.casing
    if casing is None:
        return finding("casing", "OK", "the tokenizer's own (not BERT's rule)")
    harms, hint = _harm_of_casing(tokenizer, tokenizer.backend.get_vocab())
    conflicts = tuple(conflicts)
    said = [casing.describe(), *harms, *conflicts]
    if harms or conflicts:
        return finding("casing", "WARN", "; ".join(said), hint or "write the same rule into both files")
    if casing.source == "vocabulary":
        where = "does not say" if (folder / "tokenizer_config.json").exists() else "is absent"
        said.append(f"tokenizer_config.json {where}, so the rule is taken from the vocabulary")
        if not casing.do_lower_case or not casing.strip_accents:
            said.append("other tools would lower-case and strip accents; saving with sbert_ft stores the rule")
    return finding("casing", "OK", "; ".join(said))


def _harm_of_casing(tokenizer: TextTokenizer, vocab: Mapping[str, int]) -> tuple[list[str], str]:
    """Return how the current rule conflicts with this vocabulary, and which settings fix it; empty where it fits."""
    casing = tokenizer.casing
    if casing is None:
        return [], ""
    shown, harms, settings = casing_of_vocabulary(vocab), [], []
    if casing.do_lower_case and not shown.do_lower_case:
        harms.append("text is lower-cased, but the vocabulary was made from cased text")
        settings.append("do_lower_case false")
    if shown.do_lower_case and not casing.do_lower_case:
        harms.append("text keeps its case, but the vocabulary is all lower case: words with a capital are unknown")
        settings.append("do_lower_case true")
    if casing.strip_accents and holds_accents(vocab):
        held = "Hangul syllables, which this decomposes" if holds_hangul(vocab) else "letters with accents"
        harms.append(f"accents are stripped, but the vocabulary holds {held}")
        settings.append("strip_accents false")
    place = casing.source if casing.source == "sentence_bert_config.json" else "tokenizer_config.json"
    place += " and in the normalizer of tokenizer.json" if casing.source == "tokenizer.json" else ""
    return harms, f"set {' and '.join(settings)} in {place}" if settings else ""


def text_checks(tokenizer: TextTokenizer, texts: Iterable[str], limits: TextLimits) -> list[Check]:
    """Return the checks of texts: how many there are, unknown tokens, lengths and truncation.

    Args:
        tokenizer: The folder's.
        texts: Read once; errors that their source raises are not caught.
        limits: From which length on texts are too long.
    """
    prompt = "" if limits.joined else limits.prompt
    n_around = tokenizer.n_pair_special if limits.joined else tokenizer.n_special
    n_around += len(tokenizer.tokenize([prompt]).token_ids) if prompt else 0
    count = _TextCount()
    for window in windows_of(texts):
        try:
            bodies = _count_window(tokenizer, window, count)
            _count_lengths(bodies.lengths, n_around, limits.joined, count)
        except InputError as error:
            return [failure("texts", error, "fix the text")]
    if not count.n_texts:
        return [finding("texts", "FAIL", "no texts", "give a file with at least one text")]
    checks = [finding("texts", "OK", f"{count.n_texts:,}")]
    if count.n_empty:
        first = f"the first at position {count.first_empty}"
        said = f"{count.n_empty:,} of {count.n_texts:,} texts have no token, {first}; all of them get the same vector"
        checks.append(finding("empty texts", "WARN", said, "remove them"))
    else:
        checks.append(finding("empty texts", "OK", "none"))
    checks += [_unknown(tokenizer, count), _lengths(count, bool(prompt), limits.unit)]
    if limits.max_seq_length is not None:
        checks.append(_cut(count, limits.max_seq_length, limits))
    return checks


def _count_window(tokenizer: TextTokenizer, window: list[str], count: _TextCount) -> TextTokens:
    """Return the tokens of a window's texts; count everything but their lengths."""
    bodies = tokenizer.tokenize(window, count.n_texts)
    empty = np.flatnonzero(bodies.lengths == 0)
    if len(empty) and count.first_empty is None:
        count.first_empty = count.n_texts + int(empty[0])
    if count.first_unknown is None and tokenizer.unknown_id is not None:
        unknown = np.flatnonzero(bodies.token_ids == tokenizer.unknown_id)
        if len(unknown):
            text = int(np.searchsorted(bodies.offsets, unknown[0], side="right")) - 1
            count.first_unknown = (count.n_texts + text, window[text])
    count.n_texts += len(window)
    count.n_empty += len(empty)
    count.n_tokens += len(bodies.token_ids)
    count.n_unknown += tokenizer.count_unknown(bodies)
    count.n_hangul += sum(not text.isascii() and _HANGUL.search(text) is not None for text in window)
    return bodies


def _count_lengths(own: NDArray[np.int64], n_around: int, joined: bool, count: _TextCount) -> None:
    """Count the sequences by length.

    Args:
        own: Number of tokens of each text of a window, without special ones, shape (N,).
        n_around: Number of special tokens of a sequence, plus those of the prompt.
        joined: Whether two consecutive texts are one sequence; the last of an odd number waits for the next window.
        count: Updated in place.
    """
    if joined:
        own = np.concatenate([np.array(count.half, np.int64), own])
        n_whole = len(own) // 2 * 2
        count.half = own[n_whole:].tolist()
        own = own[:n_whole].reshape(-1, 2).sum(axis=1)
    lengths, n_times = np.unique(own + n_around, return_counts=True)
    count.lengths.update(dict(zip(lengths.tolist(), n_times.tolist(), strict=True)))


def _unknown(tokenizer: TextTokenizer, count: _TextCount) -> Check:
    """Return the check of the share of unknown tokens among the texts' own tokens."""
    share = count.n_unknown / count.n_tokens if count.n_tokens else 0.0
    said = f"{_percent(count.n_unknown, count.n_tokens)} of {count.n_tokens:,} tokens are unknown"
    if share < _UNKNOWN_WARN:
        return finding("unknown words", "OK", said)
    if count.first_unknown is not None:
        position, text = count.first_unknown
        said += f", the first in the text at position {position}, {quoted(text, limit=40)}"
    vocab = tokenizer.backend.get_vocab()
    _, hint = _harm_of_casing(tokenizer, vocab)
    if count.n_hangul and not holds_hangul(vocab):
        said += f"; {count.n_hangul:,} texts hold Hangul, the vocabulary has none"
        hint = "take a model with a Korean vocabulary"
    status: Status = "FAIL" if share >= _UNKNOWN_FAIL else "WARN"
    return finding("unknown words", status, said, hint or "take a model whose vocabulary was made for such texts")


def _lengths(count: _TextCount, with_prompt: bool, unit: str) -> Check:
    median, most, longest = (_percentile(count.lengths, part) for part in (0.5, 0.95, 1.0))
    around = "special ones and prompt included" if with_prompt else "special ones included"
    return finding(
        f"tokens a {unit}", "OK", f"median {median:,}, 95 % have at most {most:,}, longest {longest:,}; {around}"
    )


def _cut(count: _TextCount, limit: int, limits: TextLimits) -> Check:
    """Return the check of the share of texts, or joined pairs, that are longer than `limit` tokens."""
    name = f"cut {limits.unit}s"
    n_long = sum(n for length, n in count.lengths.items() if length > limit)
    n_all = count.lengths.total()
    said = f"{_percent(n_long, n_all)} of the {limits.unit}s are cut at max_seq_length {limit:,}"
    if n_long < _CUT_WARN * n_all or not n_long:
        return finding(name, "OK", said)
    most = min(max(count.lengths), limits.n_positions or limit)
    chunks = f"{'predict' if limits.joined else 'encode'} with on_truncate='chunk'"
    return finding(name, "WARN", said, f"raise max_seq_length to {most:,}, or {chunks}" if most > limit else chunks)


def _percentile(lengths: Counter[int], part: float) -> int:
    """Return the smallest length such that at least this part of the texts is not longer."""
    needed, n_below = part * lengths.total(), 0
    for length in sorted(lengths):
        n_below += lengths[length]
        if n_below >= needed:
            return length
    return 0


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole if whole else 0.0
    return "less than 0.01 %" if 0 < share < 0.01 else f"{share:.2f} %"
