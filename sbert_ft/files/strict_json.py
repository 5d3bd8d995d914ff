"""Open untrusted files of a model folder, and read those that are JSON.

A folder can come from anywhere: a file may be a FIFO, a broken link, or the web page that a failed download left.
Files are opened so that nothing blocks, JSON is read strictly (one object, UTF-8, no key twice, no NaN) up to a size,
and every fault is a `ModelFolderError` that names file and cause. The cost is one pass over the text.
"""

from __future__ import annotations

import gc
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from sbert_ft.errors import ModelFolderError, listed, quoted, shown

_DEEPEST = 64  # levels; a tokenizer.json has about ten
_LARGE = 2**20
_MAX_DIGITS = 4300  # Python's own limit, which the oldest supported releases do not have
_FOUND = {dict: "an object", list: "an array", str: "a text", bool: "true or false", type(None): "null"}


def open_file(path: Path) -> BinaryIO:
    """Return `path`, a regular file or a link to one, opened for reading bytes; else a `ModelFolderError`."""
    try:
        # Without O_NONBLOCK, opening a FIFO waits for its writer forever.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        cause = "is a link to a file that is not there" if os.path.islink(path) else "is missing"
        raise ModelFolderError(f"{shown(path)} {cause}", "copy or download the file itself again") from None
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise ModelFolderError(f"{shown(path)} cannot be opened ({cause}); expected a file that you may read") from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        found = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise ModelFolderError(f"{shown(path)} is {found}; expected a file")
    return os.fdopen(descriptor, "rb")


def foreign_content(head: bytes) -> str | None:
    """Return what is wrong if `head` (64 bytes suffice) begins no content (empty, git-lfs pointer, HTML), or None."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head:
        return "is empty (0 bytes); copy or download it again"
    if text.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the file it stands for; run 'git lfs pull' in the folder"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return "is an HTML page, probably that of a failed download; download the file itself"
    return None


def damaged(path: Path, n_bytes: int, cause: str) -> ModelFolderError:
    """Return the error for a file of `n_bytes` that is cut off or has changed since it was written."""
    return ModelFolderError(
        f"{shown(path)} is incomplete or damaged: it has {n_bytes} bytes, and {cause}", "copy or download it again"
    )


def strict_value(text: str, *, finite: bool = True) -> Any:
    """Return the value of a JSON text, which has no key twice in an object, no NaN, and no number that is too large.

    Unless `finite`, a number beyond the range of a float is not refused, but read as infinity.

    Raises:
        ValueError: It has; the message is a clause. Or it is not JSON (`json.JSONDecodeError`).
        RecursionError: It is nested too deeply.
    """
    value = _decoder(finite).decode(text)
    if text.count("[") + text.count("{") > _DEEPEST and is_deeper(value, _DEEPEST):
        raise RecursionError
    return value


def strict_prefix(text: str, begin: int) -> tuple[Any, int]:
    """Return the JSON value that begins at a place of `text`, and where it ends; otherwise as `strict_value`."""
    value, end = _decoder(True).raw_decode(text, begin)
    if is_deeper(value, _DEEPEST):
        raise RecursionError
    return value, end


@cache
def _decoder(finite: bool) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=_without_repeats,
        parse_float=_finite if finite else float,
        parse_int=_short,
        parse_constant=_no_number,
    )


def parse_json(data: bytes, source: str, kind: type = dict) -> Any:
    """Return the one JSON value in `data`, of the type `kind`; `source` names it in messages.

    A `ModelFolderError` if it is not UTF-8, not JSON, not of the kind, nested too deeply, or has a key twice.
    """
    is_collecting = gc.isenabled()
    try:
        if len(data) > _LARGE:
            gc.disable()  # its runs over a quarter of a million new lists take four times as long as reading them
        value = strict_value(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        hint = ", it looks like UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise ModelFolderError(f"{source} is not UTF-8 text (byte {error.start}{hint})", "save it as UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ModelFolderError(f"{source} is broken JSON at {where}: {error.msg}") from None
    except RecursionError:
        raise ModelFolderError(f"{source} is nested too deeply; expected a plain JSON object") from None
    except ValueError as error:  # a key twice, NaN, or an integer of thousands of digits
        raise ModelFolderError(f"{source} is not valid JSON: {str(error).partition(';')[0]}") from None
    finally:
        if is_collecting:
            gc.enable()
    if not isinstance(value, kind):
        expected = "an object, {...}" if kind is dict else "an array, [...]"
        raise ModelFolderError(f"{source} holds {_FOUND.get(type(value), 'a number')}; expected {expected}")
    return value


def read_json(path: Path, max_bytes: int = 32 * 2**20) -> dict[str, Any]:
    """Return the JSON object in a file of at most `max_bytes`; else a `ModelFolderError`, as in `parse_json`."""
    object_: dict[str, Any] = parse_json(read_small(path, max_bytes, "such a JSON file"), shown(path))
    return object_


def read_json_if_there(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file `path`, empty where there is no such file; otherwise as `read_json`."""
    return read_json(path) if os.path.lexists(path) else {}


def read_json_list(path: Path, max_bytes: int = 32 * 2**20) -> list[Any]:
    """Return the JSON array in the file `path`; otherwise as `read_json`."""
    array: list[Any] = parse_json(read_small(path, max_bytes, "such a JSON file"), shown(path), list)
    return array


def read_small(path: Path, max_bytes: int, what: str) -> bytes:
    """Return the bytes of a file of at most `max_bytes`; `what` it is stands in the message about a larger one."""
    with open_file(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ModelFolderError(f"{shown(path)} is larger than the {max_bytes} bytes accepted for {what}")
    if foreign := foreign_content(data[:64]):
        raise ModelFolderError(f"{shown(path)} {foreign}")
    return data


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return `pairs` as a dict, or refuse a key that is there twice (readers could choose different values)."""
    items = dict(pairs)
    if len(items) < len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {quoted(repeated)} stands twice in one object")
    return items


def _finite(word: str) -> float:
    """Return `word` as a float; refuse a number too large for one, which Python would read as infinity."""
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(f"the number {quoted(word)} is too large")
    return number


def _short(digits: str) -> int:
    """Return `digits` as an int; refuse thousands of digits, whose conversion would take minutes."""
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits is too large")
    return int(digits)


def _no_number(word: str) -> float:
    """Refuse NaN and Infinity, which are not JSON and could pass range checks."""
    raise ValueError(f"{word} is not a JSON number")


def listing(folder: Path) -> str:
    """Return the first names in a folder, for a message."""
    try:
        names = sorted(os.listdir(folder))
    except (OSError, ValueError) as error:
        return f"not a folder that can be read ({getattr(error, 'strerror', None) or error})"
    return listed(names, 12) or "nothing"


def is_deeper(value: object, levels: int) -> bool:
    """Return whether `value` has more than `levels` levels of lists and objects; without recursion.

    Showing, comparing or writing a value of more levels could exhaust Python's stack.
    """
    level = [value]
    for _ in range(levels):
        nested = [inner for inner in level if isinstance(inner, (dict, list, tuple))]
        level = [value for inner in nested for value in (inner.values() if isinstance(inner, dict) else inner)]
        if not level:
            return False
    return True


@dataclass(frozen=True)
class JsonObject:
    """A JSON object with its place in a file, for checked access to its values.

    A key that is missing, or has another value than a method expects, is a `ModelFolderError` that names both.

    Attributes:
        content: The JSON value; anything but an object is refused.
        path: Keys that lead to it, such as ``decision.fitted_on``.
        file: The file.
    """

    content: Any
    path: str
    file: Path

    def __post_init__(self) -> None:
        if not isinstance(self.content, dict):
            raise ModelFolderError(f"{shown(self.file)}: {self.path} is {quoted(self.content)}, expected an object")

    def fault(self, key: str, expected: str, hint: str = "") -> ModelFolderError:
        """Return the error for a wrong value of a key."""
        name, found = f"{self.path}.{quoted(key)[1:-1]}", quoted(self.content.get(key))
        return ModelFolderError(f"{shown(self.file)}: {name} is {found}, expected {expected}", hint)

    def refuse_all_but(self, names: Collection[str]) -> None:
        """Refuse keys that are not in `names`."""
        unknown = next((key for key in self.content if key not in names), None)
        if unknown is not None:
            raise ModelFolderError(
                f"{shown(self.file)}: {self.path} has a key {quoted(unknown)}, expected {', '.join(names)}",
                "a newer version of sbert_ft may have written it",
            )

    def value(self, key: str) -> Any:
        """Return the value of a required key."""
        if key not in self.content:
            raise ModelFolderError(f"{shown(self.file)}: {self.path} has no {quoted(key)[1:-1]}", "copy the file again")
        return self.content[key]

    def inner(self, key: str) -> JsonObject:
        """Return the object that is the value of a key."""
        return JsonObject(self.value(key), f"{self.path}.{key}", self.file)

    def number(self, key: str, low: float, high: float) -> float:
        """Return the value of a key, a number from `low` to `high`."""
        number = _number(self.value(key))
        if number is None or not low <= number <= high:
            raise self.fault(key, f"a number from {low:g} to {high:g}")
        return number

    def number_or_none(self, key: str, low: float, high: float) -> float | None:
        """Return the value of a key, a number from `low` to `high`, or None for null."""
        return None if self.value(key) is None else self.number(key, low, high)

    def numbers(self, key: str, low: float, high: float) -> tuple[float, ...]:
        """Return the value of a key, a list of at least one number from `low` to `high`."""
        value = self.value(key)
        found = [_number(item) for item in value] if isinstance(value, list) else []
        numbers = tuple(number for number in found if number is not None and low <= number <= high)
        if not numbers or len(numbers) != len(found):
            raise self.fault(key, f"a list of numbers from {low:g} to {high:g}")
        return numbers

    def whole(self, key: str) -> int:
        """Return the value of a key, a whole number of 0 or more."""
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self.fault(key, "a whole number of 0 or more")
        return value

    def text(self, key: str) -> str:
        """Return the value of a key, a text."""
        value = self.value(key)
        if not isinstance(value, str):
            raise self.fault(key, "a text")
        return value

    def word(self, key: str, words: Collection[str]) -> str:
        """Return the value of a key, one of the words."""
        value = self.value(key)
        if not isinstance(value, str) or value not in words:
            raise self.fault(key, f"one of {', '.join(words)}")
        return value

    def scale(self, key: str) -> tuple[float, float]:
        """Return the value of a key, the lowest and the highest score of a scale."""
        value = self.value(key)
        low, high = map(_number, value) if isinstance(value, list) and len(value) == 2 else (None, None)
        if low is None or high is None or low >= high:
            raise self.fault(key, "[lowest score, highest score]")
        return low, high


def _number(value: object) -> float | None:
    """Return a finite number as a float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return number if math.isfinite(number) else None
