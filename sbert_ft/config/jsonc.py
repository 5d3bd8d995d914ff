"""Reads JSON written by hand strictly: one object, no key twice, no NaN; lines that begin with // are comments.

No line of valid JSON begins with //, because a string never spans lines. So comments are removed before parsing
without changing anything else; line numbers in messages stay those of the file.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Final

from sbert_ft.errors import ConfigError, ModelFolderError, quoted
from sbert_ft.files.strict_json import is_deeper, open_file, strict_value

_MOST_BYTES: Final = 2**20
_DEEPEST: Final = 8
_COMMENT: Final = re.compile(r"(^|[\r\n])[ \t]*//[^\r\n]*")
_NAMES: Final = {list: "an array", str: "a text", bool: "true or false", type(None): "null"}


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Return the object in a JSON file of at most 1 MiB; a byte order mark is accepted.

    Raises:
        ConfigError: The file cannot be read, or is not one strict JSON object.
    """
    where, start = quoted(path, limit=400), "'sbert-ft config init -o FILE' writes one to start from"
    if not os.path.lexists(path):
        raise ConfigError(f"{where}: no such file", start)
    try:
        with open_file(Path(path)) as file:
            data = file.read(_MOST_BYTES + 1)
    except ModelFolderError as error:
        raise ConfigError(error.problem, error.hint) from None
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{where}: is larger than the {_MOST_BYTES} bytes that a configuration may have")
    if not data.strip():
        raise ConfigError(f"{where}: is empty", start)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: is not UTF-8 text (byte {error.start})", "save it as UTF-8") from None
    value = parse_json(_COMMENT.sub(r"\1", text), where)
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: holds {_NAMES.get(type(value), 'a number')}; expected one object, {{...}}")
    return value


def parse_json(text: str, where: str) -> Any:
    """Return the value of a JSON text that has no comments; `where` names it in messages.

    Raises:
        ConfigError: It is not JSON, a key is in an object twice, or a value is NaN or Infinity.
    """
    try:
        value = strict_value(text, finite=False)  # a range check names the key
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
    """Raise a `ConfigError` for a value so deep that comparing or showing it could exhaust the stack."""
    if is_deeper(value, _DEEPEST):
        raise ConfigError(f"{where}: is nested too deeply; expected sections with values")


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
