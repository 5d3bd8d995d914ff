"""Check whether a vocabulary suits its encoder and the texts.

A wrong vocabulary, or the right one with a wrong casing rule, raises no error: words become [UNK] and the vectors mean
little. The checks look at the vocabulary itself and at the tokens of real texts. Texts are tokenized in windows and
only counted, so memory is that of one window.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sbert_ft.doctor.checks import Check, failure, names_of, noted
from sbert_ft.errors import InputError, quoted
from sbert_ft.model_folder.layout import ModelFolder
from sbert_ft.models.inference import windows_of
from sbert_ft.tokenization.tokenizer import TextTokenizer
from sbert_ft.tokenization.vocabulary import casing_of_vocabulary, holds_accents, holds_hangul

# Shares of unknown tokens and of truncated texts from which on a check is not OK.
_UNKNOWN_WARN, _UNKNOWN_FAIL, _CUT_WARN = 0.005, 0.2, 0.01


@dataclass
class _TextCount:
    """Counts of the texts and their tokens; updated while they are read."""

    joined: bool  # whether two consecutive texts are one sequence
    n_texts: int = 0
    n_empty: int = 0
    n_tokens: int = 0
    n_unknown: int = 0
    first_empty: int = 0
    first_unknown: str = ""
    unknown_texts: list[str] = field(default_factory=list)
    lengths: Counter[int] = field(default_factory=Counter)  # by the number of a sequence's own tokens
    half: list[int] = field(default_factory=list)  # length of a first side whose second side is in the next window

    def add(self, window: list[str], tokenizer: TextTokenizer) -> None:
        """Count a window's texts; where two are joined, the last of an odd number waits for the next window."""
        bodies = tokenizer.tokenize(window, self.n_texts)
        lengths: NDArray[np.int64] = bodies.lengths
        empty = np.flatnonzero(lengths == 0)
        if len(empty) and not self.n_empty:
            self.first_empty = self.n_texts + int(empty[0])
        unknown = np.flatnonzero(bodies.token_ids == (-1 if tokenizer.unknown_id is None else tokenizer.unknown_id))
        if len(unknown) and not self.n_unknown:
            place = int(np.searchsorted(bodies.offsets, unknown[0], side="right")) - 1
            self.first_unknown = f"the text at position {self.n_texts + place}, {quoted(window[place], limit=40)}"
        self.n_texts += len(window)
        self.n_empty += len(empty)
        self.n_tokens += len(bodies.token_ids)
        self.n_unknown += len(unknown)
        tokenizer.keep_unknown(self.unknown_texts, window, bodies)
        if self.joined:
            lengths = np.concatenate([np.array(self.half, np.int64), lengths])
            n_whole = len(lengths) // 2 * 2
            self.half = lengths[n_whole:].tolist()
            lengths = lengths[:n_whole].reshape(-1, 2).sum(axis=1)
        self.lengths.update(lengths.tolist())


def vocabulary_checks(tokenizer: TextTokenizer, n_rows: int | None, folder: Path) -> Iterator[Check]:
    """Yield the checks of special tokens, of the vocabulary's size and of casing.

    The embedding table has `n_rows`, None where unknown.
    """
    specials, token = tokenizer.specials, tokenizer.backend.id_to_token
    before, after = (" ".join(str(token(i)) for i in ids) or "nothing" for ids in (specials.before, specials.after))
    unknown = "none" if tokenizer.unknown_id is None else token(tokenizer.unknown_id)
    said = f"{before} before a text, {after} after it, padding {token(tokenizer.padding_id)}, unknown {unknown}"
    is_usual = specials.before and specials.after
    yield noted("special tokens", said, "" if is_usual else "use the tokenizer files that belong to the weights")
    files = [file.name for file in tokenizer.files]
    # A vocab.txt that is read has notes on its lines; a tokenizer.json on where it disagrees about casing.
    repeats, conflicts = ((), tokenizer.notes) if "tokenizer.json" in files else (tokenizer.notes, ())
    n_tokens, other = tokenizer.vocab_size, "take the vocabulary that belongs to the weights"
    sizes = f"{n_tokens:,} tokens" + (f" for {n_rows:,} embedding rows" if n_rows else "")
    short = ("one short: if a line is missing, all tokens after it are shifted",) if n_tokens + 1 == n_rows else ()
    if n_rows is not None and n_tokens > n_rows:
        said = f"{names_of(files)}: {sizes}, so {n_tokens - n_rows:,} tokens have no row"
        yield Check("vocabulary", "FAIL", said, other)
    else:
        yield noted("vocabulary", "; ".join([sizes, *repeats, *short]), other if repeats or short else "")
    yield _casing(tokenizer, folder, conflicts)


def _casing(tokenizer: TextTokenizer, folder: Path, conflicts: tuple[str, ...]) -> Check:
    """Return the check of the casing rule: what it is, where it comes from, and whether it fits the vocabulary."""
    casing = tokenizer.casing
    if casing is None:
        return noted("casing", "the tokenizer's own (not BERT's rule)")
    harms, hint = _harm_of_casing(tokenizer)
    said = [casing.describe(), *harms, *conflicts]
    if harms or conflicts:
        return noted("casing", "; ".join(said), hint or "write the same rule into both files")
    if casing.source == "vocabulary":
        where = "does not say" if (folder / "tokenizer_config.json").exists() else "is absent"
        said.append(f"tokenizer_config.json {where}, so the rule is taken from the vocabulary")
        if not casing.do_lower_case or not casing.strip_accents:
            said.append("other tools would lower-case and strip accents; saving with sbert_ft stores the rule")
    return noted("casing", "; ".join(said))


def _harm_of_casing(tokenizer: TextTokenizer) -> tuple[list[str], str]:
    """Return how the current rule conflicts with the vocabulary, and which settings fix it; empty where it fits."""
    casing, vocab = tokenizer.casing, tokenizer.backend.get_vocab()
    if casing is None:
        return [], ""
    fitting, harms, settings = casing_of_vocabulary(vocab), [], []
    if casing.do_lower_case and not fitting.do_lower_case:
        harms.append("text is lower-cased, but the vocabulary was made from cased text")
    elif fitting.do_lower_case and not casing.do_lower_case:
        harms.append("text keeps its case, but the vocabulary is all lower case: words with a capital are unknown")
    if harms:
        settings.append(f"do_lower_case {str(fitting.do_lower_case).lower()}")
    if casing.strip_accents and holds_accents(vocab):
        held = "Hangul syllables, which this decomposes" if holds_hangul(vocab) else "letters with accents"
        harms.append(f"accents are stripped, but the vocabulary holds {held}")
        settings.append("strip_accents false")
    place = casing.source if casing.source == "sentence_bert_config.json" else "tokenizer_config.json"
    place += " and in the normalizer of tokenizer.json" if casing.source == "tokenizer.json" else ""
    return harms, f"set {' and '.join(settings)} in {place}" if settings else ""


def text_checks(
    tokenizer: TextTokenizer,
    texts: Iterable[str],
    source: ModelFolder,
    n_positions: int | None,
    max_seq_length: int | None,
    joined: bool,
) -> Iterator[Check]:
    """Yield the checks of texts, which are read once: how many there are, unknown tokens, lengths and truncation.

    Arguments as in `examine`; errors that the source of the texts raises are not caught. The encoder has `n_positions`,
    None where unknown.
    """
    count = _TextCount(joined)
    for window in windows_of(texts):
        try:
            count.add(window, tokenizer)
        except InputError as error:
            yield failure("texts", error, "fix the text")
            return
    if not count.n_texts:
        yield Check("texts", "FAIL", "no texts", "give a file with at least one text")
        return
    yield noted("texts", f"{count.n_texts:,}")
    if count.n_empty:
        first = f"the first at position {count.first_empty}"
        said = f"{count.n_empty:,} of {count.n_texts:,} texts have no token, {first}; all of them get the same vector"
        yield noted("empty texts", said, "remove them")
    else:
        yield noted("empty texts", "none")
    yield _unknown(tokenizer, count)
    sides = source.own.get("pair_prompts")
    names = sides if isinstance(sides, list) else [source.default_prompt_name]
    prompt = "" if joined else max((source.prompts.get(str(name), "") for name in names), key=len, default="")
    lengths = [length for length in (max_seq_length or source.max_seq_length, n_positions) if length is not None]
    yield from _lengths(tokenizer, count, prompt, min(lengths, default=None), n_positions)


def _unknown(tokenizer: TextTokenizer, count: _TextCount) -> Check:
    share = count.n_unknown / max(1, count.n_tokens)
    said = f"{_percent(count.n_unknown, count.n_tokens)} of {count.n_tokens:,} tokens are unknown"
    if share < _UNKNOWN_WARN:
        return noted("unknown words", said)
    said += f", the first in {count.first_unknown}"
    cause = tokenizer.why_unknown(count.unknown_texts)
    said += f"; {cause.found}" if cause.found else ""
    # the rule's own conflict with the vocabulary names every setting and file
    hint = (_harm_of_casing(tokenizer)[1] if cause.name in ("case", "jamo", "unknown") else "") or cause.remedy
    return Check("unknown words", "FAIL" if share >= _UNKNOWN_FAIL else "WARN", said, hint)


def _lengths(
    tokenizer: TextTokenizer, count: _TextCount, prompt: str, limit: int | None, n_positions: int | None
) -> Iterator[Check]:
    """Yield the checks of the lengths of texts, or joined pairs, and of how many are longer than `limit`."""
    unit, command = ("pair", "predict") if count.joined else ("text", "encode")
    n_around = tokenizer.n_pair_special if count.joined else tokenizer.n_special
    n_around += len(tokenizer.tokenize([prompt] if prompt else []).token_ids)
    lengths, n_times = np.array(sorted(count.lengths.items()) or [(-n_around, 0)]).T
    lengths, n_all = lengths + n_around, int(n_times.sum())
    # the smallest length such that at least this part of the texts is not longer
    places = np.searchsorted(n_times.cumsum(), [0.5 * n_all, 0.95 * n_all, n_all])
    median, most, longest = lengths[places].tolist()
    around = "special ones and prompt included" if prompt else "special ones included"
    yield noted(f"tokens a {unit}", f"median {median:,}, 95 % have at most {most:,}, longest {longest:,}; {around}")
    if limit is None:
        return
    n_long, hint = int(n_times[lengths > limit].sum()), ""
    if n_long and n_long >= _CUT_WARN * n_all:
        raised = min(longest, n_positions or limit)
        hint = f"raise max_seq_length to {raised:,}, or " if raised > limit else ""
        hint += f"{command} with on_truncate='chunk'"
    said = f"{_percent(n_long, n_all)} of the {unit}s are cut at max_seq_length {limit:,}"
    yield noted(f"cut {unit}s", said, hint)


def _percent(part: int, whole: int) -> str:
    share = 100 * part / max(1, whole)
    return "less than 0.01 %" if 0 < share < 0.01 else f"{share:.2f} %"
