"""Whether a run's folder is still the one that the run began in.

A folder that is removed, moved away or unmounted while the run goes on would be made anew by the next checkpoint, as
half a run, or in a place that is somebody else's by now. So it is held open, which keeps its number from being given
to another one, and compared before anything is written: a call to the system each time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sbert_ft.errors import OutputError, shown


class FolderWatch:
    """Compares a folder with what it was.

    Args:
        path: The folder, which exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        with suppress(OSError):  # a folder cannot be opened on Windows, where one in use cannot be removed either
            self._descriptor = os.open(path, os.O_RDONLY)
        self._found = os.stat(path)

    def check(self) -> None:
        """Do nothing where the folder is the one that it was.

        Raises:
            OutputError: It is gone, or another one stands in its place.
        """
        try:
            there = os.path.samestat(os.stat(self.path), self._found)
            what = "another folder stands in its place"
        except OSError as error:
            there, what = False, (error.strerror or str(error))
        if not there:
            raise OutputError(
                f"{shown(self.path)} was removed, moved or unmounted while the run wrote to it ({what}); nothing more "
                "is written. Bring it back and go on with --resume, or begin anew"
            )

    def close(self) -> None:
        """Hold the folder no longer."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextmanager
def watched(path: Path) -> Iterator[FolderWatch]:
    """Return what compares the folder `path`, which exists, with what it is now."""
    watch = FolderWatch(path)
    try:
        yield watch
    finally:
        watch.close()
