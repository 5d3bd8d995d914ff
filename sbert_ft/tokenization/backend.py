"""What a tokenizer's files may ask for, held before the Rust side does any of it.

A tokenizer.json is a small program: regular expressions, replacements that make text longer, words of any length. Some
take for ever or all memory on a harmless text, and one that drops tokens at random gives other vectors on every call.
So is a vocabulary of millions of lines for an embedding table of a few thousand rows. All of that is found by looking
at the files' sizes and at the JSON, before anything is built from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from sbert_ft.errors import ModelFolderError, SbertFtError, quoted, shown

# Held in memory, a vocabulary takes some fifteen times its file.
MAX_VOCAB_BYTES = 64 * 2**20
_MAX_LINES = 2**21  # of a vocabulary whose embedding table is not known
_BYTES_A_ROW, _SPARE_BYTES, _SPARE_LINES = 256, 16 * 2**20, 1024
_MAX_TOKEN_BYTES = 2**16
_MAX_STEPS = 64  # normalizers or pre-tokenizers in a row
_MAX_GROWTH = 256  # characters that normalizers make of one
_MAX_WORD = 1000  # WordPiece takes the square of a word's length, and more
_MAX_REPEATS = 3  # unbounded repetitions in a row; each is one more power of the text's length
_REFERENCE = re.compile(r"\\[1-9]|\\[kg][<'{]|\(\?(?:[&R(0-9]|P[=>])")
_ESCAPE = re.compile(r"\\[pPx]\{[^}]*\}|\\.", re.DOTALL)
_CHARACTER_CLASS = re.compile(r"\[\^?\]?[^\]]*\]")
_POSSESSIVE = re.compile(r"([*+}])[+?]")
_REPEATED_GROUP = re.compile(r"\)(?:[*+]|\{\d*,\d*\}|\{\d+\})")
_UNBOUNDED = re.compile(r"[*+]|\{\d*,\}")


_PANIC = "PanicException"  # of pyo3_runtime, a module that cannot be imported


def most_bytes(n_rows: int | None) -> int:
    """Return how large a file of a vocabulary may be for an embedding table of so many rows."""
    return MAX_VOCAB_BYTES if n_rows is None else min(MAX_VOCAB_BYTES, _SPARE_BYTES + _BYTES_A_ROW * n_rows)


def check_lines(path: Path, data: bytes, n_rows: int | None) -> None:
    """Refuse a vocabulary of far more lines than rows, or with a line that is no token, before it is taken apart.

    Raises:
        ModelFolderError: Naming the file and what there is too much of.
    """
    n_lines = data.count(b"\n")
    most = _MAX_LINES if n_rows is None else 2 * n_rows + _SPARE_LINES
    if n_lines > most:
        table = "" if n_rows is None else f"; the embedding table has {n_rows:,} rows"
        raise ModelFolderError(
            f"{shown(path)} has {n_lines:,} lines, at most {most:,} are read{table}",
            "take the vocabulary that belongs to these weights",
        )
    if len(data) > _MAX_TOKEN_BYTES:
        lengths = [len(line) for line in data.split(b"\n")]
        if max(lengths) > _MAX_TOKEN_BYTES:
            line = 1 + next(i for i, length in enumerate(lengths) if length > _MAX_TOKEN_BYTES)
            raise ModelFolderError(
                f"{shown(path)}, line {line}, has {lengths[line - 1]:,} bytes, which is no token", "restore the file"
            )


def check_content(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse a tokenizer.json that may take for ever or all memory, or gives other tokens on every call.

    Raises:
        ModelFolderError: Naming the file, the key and what is wrong with it.
    """
    for key in ("normalizer", "pre_tokenizer", "post_processor"):
        steps = list(_steps(content.get(key)))
        if len(steps) > _MAX_STEPS:
            raise ModelFolderError(f"{shown(path)}: {key} has {len(steps)} steps, expected at most {_MAX_STEPS}")
        for regex in filter(None, map(_regex_of, steps)):
            if (danger := _danger_of(regex)) is not None:
                raise ModelFolderError(
                    f"{shown(path)}: {key} has the regular expression {quoted(regex)}, which may take for ever on a "
                    f"text ({danger})",
                    "use a tokenizer without it",
                )
    growth = 1.0
    for step in _steps(content.get("normalizer")):
        growth *= _growth_of(step)
    if growth > _MAX_GROWTH:
        raise ModelFolderError(
            f"{shown(path)}: normalizer may make {growth:,.0f} characters of one, expected at most {_MAX_GROWTH}",
            "use a tokenizer without such replacements",
        )
    model = content.get("model")
    if isinstance(model, dict):
        _check_model(path, model)


def _check_model(path: Path, model: Mapping[str, Any]) -> None:
    if model.get("dropout") not in (None, 0):
        raise ModelFolderError(
            f"{shown(path)}: model.dropout is {quoted(model['dropout'])}, which drops tokens at random, so that a text "
            "has another vector on every call",
            "set it to null",
        )
    longest = model.get("max_input_chars_per_word")
    if isinstance(longest, int) and longest > _MAX_WORD:
        raise ModelFolderError(
            f"{shown(path)}: model.max_input_chars_per_word is {longest}, expected at most {_MAX_WORD}: a long word "
            "would take hours",
            "set it to 100, as BERT has it",
        )
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if isinstance(model.get(key), str) and len(model[key]) > _MAX_WORD:
            raise ModelFolderError(f"{shown(path)}: model.{key} has {len(model[key])} characters", "use a whole file")


def _steps(part: object) -> Iterator[Mapping[str, Any]]:
    """Yield what a part of a tokenizer.json does, one after the other, out of sequences in sequences."""
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
    """Return what makes a regular expression slow on some text, None where nothing is known to.

    A group that repeats may match one text in exponentially many ways; n repetitions in a row take the n-th power of
    the text's length.
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
    """Return how many characters a normalizer makes of one at most."""
    if step.get("type") == "Prepend":
        return 1.0 + len(str(step.get("prepend", "")))
    if step.get("type") != "Replace":
        return 1.0
    pattern, n_new = step.get("pattern"), len(str(step.get("content", "")))
    text = pattern.get("String") if isinstance(pattern, dict) else None
    # a regular expression may match between any two characters, and what is put there is added
    return max(1.0, n_new / len(text)) if isinstance(text, str) and text else 1.0 + n_new


@contextmanager
def rust_faults(problem: str) -> Iterator[None]:
    """Turn whatever a call of the Rust side raises into a `ModelFolderError` that begins with `problem`."""
    try:
        yield
    except (SbertFtError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        raise ModelFolderError(f"{problem}: {quoted(error, limit=200)}") from None


def encode(backend: Tokenizer, text: str, pair: str | None = None, *, add_special_tokens: bool = True) -> Encoding:
    """Return what the tokenizer makes of a text, or of a pair.

    Raises:
        ModelFolderError: It fails.
    """
    with rust_faults("tokenizer.json describes a tokenizer that does not run"):
        return backend.encode(text, pair, add_special_tokens=add_special_tokens)


def encode_bodies(backend: Tokenizer, texts: Sequence[str]) -> list[Encoding]:
    """Return what the tokenizer makes of each text, without special tokens.

    Raises:
        ModelFolderError: It fails at one of them.
    """
    with rust_faults("the model's tokenizer cannot take one of the texts"):
        return backend.encode_batch_fast(list(texts), add_special_tokens=False)
