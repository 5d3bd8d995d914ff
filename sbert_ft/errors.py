"""The exceptions for errors that the user can fix, all subclasses of `SbertFtError`.

Everything that a user can fix (a folder, a file, a setting, a text) is raised as a subclass of `SbertFtError`: what is
wrong and where, what was expected and what was found (`problem`), and what to do (`hint`). The command line prints
both as one sentence and exits with 2. Any other exception is a bug in sbert_ft and keeps its traceback. Code that needs
the parts reads the attributes, never the sentence.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class SbertFtError(Exception):
    """An error that the user can fix.

    Attributes:
        problem: What is wrong: what was expected and what was found.
        hint: What to do; empty if the problem says it.
        where: The file, if the problem does not name it; empty otherwise.
        position: The place in the file, such as ``line 3``; empty otherwise.
    """

    def __init__(self, problem: str, hint: str = "", *, where: str = "", position: str = "") -> None:
        self.problem, self.hint, self.where, self.position = problem, hint, where, position
        super().__init__(f"{self.statement}; {hint}" if hint else self.statement)

    @property
    def statement(self) -> str:
        """The file, the position and the problem, without the hint."""
        place = ", ".join(filter(None, (self.where, self.position)))
        return f"{place}: {self.problem}" if place else self.problem


class ModelFolderError(SbertFtError):
    """A model folder is missing, incomplete, damaged, malicious or of an unsupported kind."""


class DataError(SbertFtError):
    """A data file has bytes, columns or rows that cannot be read."""


class ConfigError(SbertFtError):
    """A run's configuration has unknown keys or wrong values; the message lists all of them, one a line."""


class InputError(SbertFtError, ValueError):
    """An argument or a text is not accepted by a function (also a `ValueError`, as in scikit-learn)."""


class OutputError(SbertFtError):
    """A result cannot be written to the requested place."""


class RunFolderError(SbertFtError):
    """A run's folder holds something else, is in use, or does not fit the requested run."""


class CheckpointError(RunFolderError):
    """A checkpoint is incomplete, damaged or malicious."""


class TrainingError(SbertFtError):
    """Training cannot continue: a loss or gradient is not finite."""


class RunInterrupted(SbertFtError):
    """A run was stopped by a signal; its progress is in its checkpoint.

    Attributes:
        signal_number: Number of that signal.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class ReportedElsewhere(SbertFtError):
    """A run of several processes has failed, and another process of it reports why.

    Attributes:
        exit_code: The exit code of all of them.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ResourceError(SbertFtError):
    """A device or other resource is missing, or there is not enough memory."""


def quoted(value: object, limit: int = 80) -> str:
    """Return `value` in quotes for a message: one line, no control characters, at most `limit` long.

    Terminal escapes, newlines and lone surrogates are escaped: from a file they could control the user's terminal or
    break the encoding of standard error. Printable text of any script stays as it is.
    """
    text = value if isinstance(value, str) else str(value)
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return f"'{shown}'"


def shown(path: Path) -> str:
    """Return `path` in quotes for a message, cut after 400 characters."""
    return quoted(path, limit=400)


def joined(names: Iterable[str], most: int) -> str:
    """Return the first `most` names, separated by commas, and how many more there are."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most:,} more" if len(every) > most else "")


def listed(names: Iterable[object], most: int) -> str:
    """Return the first `most` names in quotes, and how many more there are."""
    return joined(map(quoted, names), most)


def enumerated(names: Iterable[str]) -> str:
    """Return names joined for a sentence: "towers, joined and single"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
