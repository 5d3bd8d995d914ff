"""What can go wrong through no fault of ours, as one family of exceptions.

Everything that a user can fix (a folder, a file, a setting, a text) is raised as a subclass of `SbertFtError`: what is
wrong and where, what was expected and what was found (`problem`), and what to do (`hint`). The command line prints
both as one sentence and exits with 2. Any other exception is a defect of ours and keeps its traceback. Code that needs
the parts reads the attributes, never the sentence.
"""

from __future__ import annotations

from pathlib import Path


class SbertFtError(Exception):
    """A fault that the user can fix.

    Attributes:
        problem: What is wrong: what was expected and what was found.
        hint: What to do; empty where the problem says it.
        where: The file, where the problem does not name it; empty otherwise.
        position: Within the file, such as ``line 3``; empty otherwise.
    """

    def __init__(self, problem: str, hint: str = "", *, where: str = "", position: str = "") -> None:
        self.problem, self.hint, self.where, self.position = problem, hint, where, position
        super().__init__(f"{self.statement}; {hint}" if hint else self.statement)

    @property
    def statement(self) -> str:
        """Where and what, without the hint."""
        place = ", ".join(filter(None, (self.where, self.position)))
        return f"{place}: {self.problem}" if place else self.problem


class ModelFolderError(SbertFtError):
    """A model folder that is missing, incomplete, damaged, hostile or of a kind not supported."""


class DataError(SbertFtError):
    """A data file whose bytes, columns or rows cannot be read as what they should be."""


class ConfigError(SbertFtError):
    """A run's configuration with keys or values that cannot be; the message has all of its faults, a line each."""


class InputError(SbertFtError, ValueError):
    """An argument or a text that a function cannot take (also a `ValueError`, as in scikit-learn)."""


class OutputError(SbertFtError):
    """A result that cannot be written where it was asked for."""


class RunFolderError(SbertFtError):
    """A run's folder that holds something else, is in use, or does not fit what is asked of it."""


class CheckpointError(RunFolderError):
    """A checkpoint that is incomplete, damaged or hostile."""


class TrainingError(SbertFtError):
    """Training that cannot go on: a loss or gradient that is no finite number."""


class RunInterrupted(SbertFtError):
    """A run that stopped because it was asked to; what it had done is in its checkpoint.

    Attributes:
        signal_number: Of the signal that asked.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class ResourceError(SbertFtError):
    """Memory or a device that is not there, or not enough of it."""


def quoted(value: object, limit: int = 80) -> str:
    """Return `value` in quotes for a message: one line, no control characters, at most `limit` long.

    Terminal escapes, newlines and lone surrogates from a file must neither drive the user's
    terminal nor break the encoding of standard error. Printable text of any script stays as it is.
    """
    text = value if isinstance(value, str) else str(value)
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    return f"'{shown}'"


def shown(path: Path) -> str:
    """Return `path` for a message, with room for the whole of a usual path."""
    return quoted(path, limit=400)
