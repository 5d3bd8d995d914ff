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
    """The result of one check; control characters in its texts, such as those of file names, are escaped.

    Attributes:
        name: What was checked.
        status: ``FAIL`` where the model cannot be loaded or is of no use for the texts, ``WARN`` where the user should
            look into it.
        found: What was found.
        hint: What to do; empty where the status is ``OK``.
    """

    name: str
    status: Status
    found: str
    hint: str = ""

    def __post_init__(self) -> None:
        """Escape the texts."""
        for name in ("found", "hint"):
            text = getattr(self, name)
            object.__setattr__(self, name, quoted(text, limit=len(text) + 1)[1:-1])


def noted(name: str, found: str, hint: str = "") -> Check:
    """Return an OK; with a hint a WARN."""
    return Check(name, "WARN" if hint else "OK", found, hint)


def failure(name: str, error: SbertFtError | OSError, hint: str, status: Status = "FAIL") -> Check:
    """Return a check with the error's parts; `hint` is used where the error has no hint."""
    if isinstance(error, OSError):
        place = f"{quoted(error.filename, limit=400)} cannot be read: " if error.filename else ""
        return Check(name, status, f"{place}{error.strerror or error}", hint)
    return Check(name, status, error.statement, error.hint or hint)


def attempt(checks: list[Check], name: str, hint: str, read: Callable[[], _T]) -> _T | None:
    """Return the result of `read`; where it raises an SbertFtError or OSError, add a FAIL to `checks`."""
    try:
        return read()
    except (SbertFtError, OSError) as error:
        checks.append(failure(name, error, hint))
        return None


def names_of(names: Iterable[str], limit: int = 16) -> str:
    """Return the first names, separated by commas, and the number of the others; "none" where there are none."""
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return (", ".join(every[:limit]) or "none") + more
