"""What was warned of while a run went on, kept for its report.

Only what the run's own thread warns of: another one may tune another model.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class WarningList(logging.Handler):
    """A handler that keeps the sentences of warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._sentences: dict[str, None] = {}
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's sentence."""
        if record.thread == self._thread:
            self._sentences[record.getMessage()] = None

    @property
    def sentences(self) -> list[str]:
        """The warnings so far, each once, in the order in which they first came."""
        return list(self._sentences)


@contextmanager
def warnings_kept() -> Iterator[WarningList]:
    """Keep every warning of the package while the block runs; they are logged as ever."""
    kept = WarningList()
    ours = logging.getLogger("sbert_ft")
    ours.addHandler(kept)
    try:
        yield kept
    finally:
        ours.removeHandler(kept)
