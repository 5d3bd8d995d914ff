"""Reads JSON written by hand strictly: one object, no key twice, no NaN; lines that begin with // are comments.

No line of valid JSON begins with //, because a string never spans lines. So comments are removed before parsing
without changing anything else; line numbers in messages stay those of the file.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from pathlib import Path
from typing import Any, Final

from sbert_ft.errors import ConfigError, quoted
from sbert_ft.files.strict_json import is_deeper

_MOST_BYTES: Final = 2**20
_DEEPEST: Final = 8
_COMMENT: Final = re.compile(r"(^|[\r\n])[ \t]*//[^\r\n]*")
_NAMES: Final = {list: "an array", str: "a text", bool: "true or false", type(None): "null"}


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Return the object in a JSON file of at most 1 MiB; a byte order mark is accepted.

    Raises:
        ConfigError: The file cannot be read, or is not one strict JSON object.
    """
    where = quoted(path, limit=400)
    data = _bytes_of(path, where)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
    value = parse_json(_COMMENT.sub(r"\1", text), where)
    if not isinstance(value, dict):
        found = _NAMES.get(type(value), "a number")
        raise ConfigError(f"{where}: holds {found}; expected one object, {{...}}")
    return value


def parse_json(text: str, where: str) -> Any:
    """Return the value of a JSON text that has no comments; `where` names it in messages.

    Raises:
        ConfigError: It is not JSON, a key is in an object twice, or a value is NaN or Infinity.
    """
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        found = f"line {error.lineno}, column {error.colno}: {error.msg}{_usual_slip(text, error)}"
        raise ConfigError(f"{where}: is broken JSON at {found}") from None
    except RecursionError:
        raise ConfigError(f"{where}: is nested too deeply; expected sections with values") from None
    except ValueError as error:  # a key twice, NaN, or an integer of thousands of digits
        raise ConfigError(f"{where}: is not valid JSON: {str(error).partition(';')[0]}") from None
    refuse_depth(value, where)
    return value


def refuse_depth(value: object, where: str) -> None:
    """Refuse a value that is nested deeper than a configuration can be.

    Raises:
        ConfigError: It is; comparing or showing it could exhaust the stack.
    """
    if is_deeper(value, _DEEPEST):
        raise ConfigError(f"{where}: is nested too deeply; expected sections with values")


def _bytes_of(path: str | Path, where: str) -> bytes:
    """Return the bytes of a small regular file."""
    try:
        # Without O_NONBLOCK, opening a FIFO waits for its writer forever.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise ConfigError(f"{where}: no such file", "'sbert-ft config init -o FILE' writes one to start from") from None
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{where}: cannot be opened: {cause}") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        found = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise ConfigError(f"{where}: is {found}; expected a JSON file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{where}: is larger than the {_MOST_BYTES} bytes that a configuration may have")
    if not data.strip():
        raise ConfigError(f"{where}: is empty", "'sbert-ft config init -o FILE' writes one to start from")
    return data


def _usual_slip(text: str, error: json.JSONDecodeError) -> str:
    """Return how to fix the JSON at the error if the mistake is a usual one, else ""."""
    before, after = text[: error.pos].rstrip(), text[error.pos :].lstrip()
    if not before and after:  # YAML, TOML, Python
        return "; a configuration is one JSON object, {...}; 'sbert-ft config init -o FILE' writes one to start from"
    if after.startswith("/"):
        return "; write a comment on a line of its own"
    if after.startswith("'"):
        return "; write texts and keys in double quotes"
    if before.endswith(",") and after.startswith(("}", "]")):
        return "; remove the comma before the closing bracket"
    return ""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return `pairs` as a dict, or refuse a key that is there twice (readers could choose different values)."""
    items = dict(pairs)
    if len(items) < len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {quoted(repeated)} stands twice in one object")
    return items


def _no_number(word: str) -> float:
    """Refuse NaN and Infinity, which are not JSON and could pass range checks."""
    raise ValueError(f"{word} is not a JSON number")
