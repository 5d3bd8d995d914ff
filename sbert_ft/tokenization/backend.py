"""Check a tokenizer's files before the Rust tokenizers library builds anything from them, and call that library.

A tokenizer.json is a small program: regular expressions, replacements that make text longer, words of any length. Some
take unlimited time or memory on a harmless text; one that drops tokens at random gives other vectors on every call; a
vocabulary of millions of lines does not belong to an embedding table of a few thousand rows. All of this is found from
the files' sizes and the JSON alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from sbert_ft.errors import ModelFolderError, SbertFtError, quoted, shown

# In memory, a vocabulary takes about fifteen times the size of its file.
MAX_VOCAB_BYTES = 64 * 2**20
MAX_VOCAB_LINES = 2**21  # for a vocabulary whose embedding table is not known
_BYTES_A_ROW, _SPARE_BYTES, _SPARE_LINES = 256, 16 * 2**20, 1024
_MAX_TOKEN_BYTES = 2**16
_MAX_STEPS = 64  # normalizers or pre-tokenizers in a row
_MAX_GROWTH = 256  # characters that normalizers may make of one
_MAX_WORD = 1000  # WordPiece's time grows with the square of a word's length, or faster
_MAX_REPEATS = 3  # unbounded repetitions in a row; each adds one power of the text's length to the time
_REFERENCE = re.compile(r"\\[1-9]|\\[kg][<'{]|\(\?(?:[&R(0-9]|P[=>])")
_ESCAPE = re.compile(r"\\[pPx]\{[^}]*\}|\\.", re.DOTALL)
_CHARACTER_CLASS = re.compile(r"\[\^?\]?[^\]]*\]")
_POSSESSIVE = re.compile(r"([*+}])[+?]")
_REPEATED_GROUP = re.compile(r"\)(?:[*+]|\{\d*,\d*\}|\{\d+\})")
_UNBOUNDED = re.compile(r"[*+]|\{\d*,\}")

USE_ITS_OWN = "use the vocabulary that belongs to these weights"


def most_bytes(n_rows: int | None) -> int:
    """Return the most bytes that a vocabulary file may have for an embedding table of `n_rows` rows (None: unknown)."""
    return MAX_VOCAB_BYTES if n_rows is None else min(MAX_VOCAB_BYTES, _SPARE_BYTES + _BYTES_A_ROW * n_rows)


def check_lines(path: Path, data: bytes, n_rows: int | None) -> None:
    """Raise a `ModelFolderError` about a vocabulary with far more lines than rows, or a line too long for a token."""
    n_lines = data.count(b"\n")
    most = MAX_VOCAB_LINES if n_rows is None else 2 * n_rows + _SPARE_LINES
    if n_lines > most:
        table = "" if n_rows is None else f"; the embedding table has {n_rows:,} rows"
        problem = f"has {n_lines:,} lines, expected at most {most:,}{table}"
        raise ModelFolderError(f"{shown(path)} {problem}", USE_ITS_OWN)
    if len(data) > _MAX_TOKEN_BYTES:
        lengths = [len(line) for line in data.split(b"\n")]
        line = next((i for i, length in enumerate(lengths, 1) if length > _MAX_TOKEN_BYTES), None)
        if line is not None:
            problem = f"line {line}, has {lengths[line - 1]:,} bytes, too many for a token"
            raise ModelFolderError(f"{shown(path)}, {problem}", "restore the file")


def check_content(path: Path, content: Mapping[str, Any]) -> None:
    """Raise a `ModelFolderError` about a tokenizer.json that may take unlimited time or memory, or is random."""
    for key in ("normalizer", "pre_tokenizer", "post_processor"):
        steps = list(_steps(content.get(key)))
        if len(steps) > _MAX_STEPS:
            raise ModelFolderError(f"{shown(path)}: {key} has {len(steps)} steps, expected at most {_MAX_STEPS}")
        for regex in filter(None, map(_regex_of, steps)):
            if (danger := _danger_of(regex)) is not None:
                problem = f"the regular expression {quoted(regex)}, which may run for ever on some texts ({danger})"
                raise ModelFolderError(f"{shown(path)}: {key} has {problem}", "use a tokenizer without it")
    growth = math.prod(map(_growth_of, _steps(content.get("normalizer"))))
    if growth > _MAX_GROWTH:
        problem = f"normalizer may turn one character into {growth:,.0f}, expected at most {_MAX_GROWTH}"
        raise ModelFolderError(f"{shown(path)}: {problem}", "use a tokenizer without such replacements")
    model = content.get("model")
    if not isinstance(model, dict):
        return
    problem, remedy = "", "copy the file again"
    longest = model.get("max_input_chars_per_word")
    if model.get("dropout") not in (None, 0):
        effect = "which drops tokens at random, so that a text gets a different vector on every call"
        problem, remedy = f"dropout is {quoted(model['dropout'])}, {effect}", "set it to null"
    elif isinstance(longest, int) and longest > _MAX_WORD:
        problem = f"max_input_chars_per_word is {longest}, expected at most {_MAX_WORD}: a long word would take hours"
        remedy = "set it to 100, the value of BERT"
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if not problem and isinstance(model.get(key), str) and len(model[key]) > _MAX_WORD:
            problem = f"{key} has {len(model[key])} characters, expected at most {_MAX_WORD}"
    if problem:
        raise ModelFolderError(f"{shown(path)}: model.{problem}", remedy)


def _steps(part: object) -> Iterator[Mapping[str, Any]]:
    """Yield a part of a tokenizer.json and, in order, all steps nested in it."""
    if isinstance(part, dict):
        yield part
        for key in ("normalizers", "pretokenizers", "processors"):
            inner = part.get(key)
            for step in inner if isinstance(inner, list) else ():
                yield from _steps(step)


def _regex_of(step: Mapping[str, Any]) -> str | None:
    pattern = step.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    return regex if isinstance(regex, str) else None


def _danger_of(regex: str) -> str | None:
    """Return why a regular expression may be slow on some text, None where no reason is found.

    A group that repeats may match one text in exponentially many ways; the time of n repetitions in a row grows with
    the n-th power of the text's length.
    """
    if _REFERENCE.search(regex):
        return "it refers back to a group"
    plain = _POSSESSIVE.sub(r"\1", _CHARACTER_CLASS.sub("x", _ESCAPE.sub("x", regex)))
    if _REPEATED_GROUP.search(plain):
        return "a group in it repeats"
    if max(len(_UNBOUNDED.findall(branch)) for branch in plain.split("|")) > _MAX_REPEATS:
        return f"more than {_MAX_REPEATS} repetitions in a row"
    return None


def _growth_of(step: Mapping[str, Any]) -> float:
    """Return the most characters that a normalizer makes of one character."""
    if step.get("type") == "Prepend":
        return 1.0 + len(str(step.get("prepend", "")))
    if step.get("type") != "Replace":
        return 1.0
    pattern, n_new = step.get("pattern"), len(str(step.get("content", "")))
    text = pattern.get("String") if isinstance(pattern, dict) else None
    # a regular expression may match the empty text between any two characters and add the replacement there
    return max(1.0, n_new / len(text)) if isinstance(text, str) and text else 1.0 + n_new


@contextmanager
def rust_faults(problem: str) -> Iterator[None]:
    """Turn an exception of the Rust library into a `ModelFolderError` whose message begins with `problem`."""
    try:
        yield
    except (SbertFtError, MemoryError):
        raise
    except BaseException as error:
        # a panic is compared by name: its module, pyo3_runtime, cannot be imported
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelFolderError(f"{problem}: {quoted(error, limit=200)}") from None


def encode(backend: Tokenizer, text: str, pair: str | None = None, *, add_special_tokens: bool = True) -> Encoding:
    """Return the tokenizer's encoding of a text, or of a pair of texts; a `ModelFolderError` if it fails."""
    with rust_faults("tokenizer.json describes a tokenizer that does not run"):
        return backend.encode(text, pair, add_special_tokens=add_special_tokens)


def encode_bodies(backend: Tokenizer, texts: Sequence[str]) -> list[Encoding]:
    """Return the encoding of each text, without special tokens; a `ModelFolderError` if the tokenizer fails on one."""
    with rust_faults("the model's tokenizer fails on one of the texts"):
        return backend.encode_batch_fast(list(texts), add_special_tokens=False)
