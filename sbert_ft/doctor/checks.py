"""The result of one check of the doctor, and how an error becomes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from sbert_ft.errors import SbertFtError, quoted

Status = Literal["OK", "WARN", "FAIL"]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was checked.
        status: ``FAIL`` where the model cannot be loaded or is of no use for the texts, ``WARN`` where the user should
            look into it.
        found: What was found, without control characters.
        hint: What to do; empty where the status is ``OK``.
    """

    name: str
    status: Status
    found: str
    hint: str = ""


def finding(name: str, status: Status, found: str, hint: str = "") -> Check:
    """Return a check in whose texts control characters, such as those of file names, are escaped."""
    visible = [quoted(text, limit=len(text) + 1)[1:-1] for text in (found, hint)]
    return Check(name, status, *visible)


def failure(name: str, error: SbertFtError | OSError, hint: str) -> Check:
    """Return a FAIL with the error's parts; `hint` is used where the error has no hint."""
    if isinstance(error, OSError):
        place = f"{quoted(error.filename, limit=400)} cannot be read: " if error.filename else ""
        return finding(name, "FAIL", f"{place}{error.strerror or error}", hint)
    own = error.hint[:1].lower() + error.hint[1:]
    return finding(name, "FAIL", error.statement, own or hint)


def attempt(checks: list[Check], name: str, hint: str, read: Callable[[], _T]) -> _T | None:
    """Return the result of `read`; where it raises an SbertFtError or OSError, add a FAIL to `checks`."""
    try:
        return read()
    except (SbertFtError, OSError) as error:
        checks.append(failure(name, error, hint))
        return None


def listed(names: Iterable[str], limit: int = 16) -> str:
    """Return the first names, separated by commas, and the number of the others; "none" where there are none."""
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return (", ".join(every[:limit]) or "none") + more
