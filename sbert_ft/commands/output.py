"""Checks a command's output file, shows a progress bar, and logs the speed at the end.

A result is written to a temporary name beside its target, synced to the disk and renamed. So a reader never sees half
a file, an existing target survives every failure, and a folder that cannot be written to is an error before the model
is loaded, not hours later.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sbert_ft.errors import OutputError, quoted

logger = logging.getLogger(__name__)


def checked_target(output: str, suffixes: Sequence[str], source: Path | None) -> Path:
    """Return the path of the result; a link is resolved, so that its target is replaced and not the link.

    Args:
        output: The path as the user typed it.
        suffixes: Those that this command can write, in lower case.
        source: The file that is read; None for standard input.

    Raises:
        OutputError: No file can be written or replaced there, the suffix is unknown, or a package that it needs is not
            installed.
    """
    shown = quoted(output, limit=400)
    try:
        target = Path(os.path.realpath(output))
        mode = target.stat().st_mode if target.exists() else None
        in_folder = target.parent.is_dir()
        same = mode is not None and source is not None and source.exists() and target.samefile(source)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{shown}: cannot be a file to write to: {reason}") from error
    if target.is_symlink():
        raise OutputError(f"{shown}: is a link that leads to itself", "write to another file")
    suffix = Path(output).suffix.lower()
    if mode is not None and stat.S_ISDIR(mode):
        raise OutputError(f"{shown}: is a folder", f"give the name of a file, ending in {_either(suffixes)}")
    if suffix not in suffixes:
        found = f"the suffix {quoted(suffix)}" if suffix else "a name without suffix"
        raise OutputError(f"{shown}: cannot tell what to write from {found}", f"use {_either(suffixes)}")
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"{shown}: is a pipe, socket or device; expected a file, which can be replaced when done")
    if not in_folder:
        raise OutputError(f"{shown}: the folder {quoted(target.parent, limit=400)} does not exist", "make it first")
    if same:
        raise OutputError(f"{shown}: is the file that is read", "write to another")
    if mode is not None and not os.access(target, os.W_OK):
        raise OutputError(f"{shown}: exists and is read-only", "write to another file or allow writing")
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise OutputError(f"{shown}: writing Parquet needs pyarrow: pip install 'sbert-ft[parquet]'")
    return target


def _either(words: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


class Progress:
    """Counts processed rows, shows a bar on a terminal, and logs the speed at the end.

    Attributes:
        n_done: Texts or pairs so far.
    """

    def __init__(self, unit: str, *, quiet: bool) -> None:
        """Start the clock; `unit` is what is counted, in the singular."""
        self.n_done = 0
        self._unit = unit
        self._has_bar = not quiet and sys.stderr is not None and sys.stderr.isatty()
        self._began = time.perf_counter()

    @contextmanager
    def bar(self, count_all: Callable[[], int | None]) -> Iterator[Callable[[int], None]]:
        """Context with a function to call with the number of newly processed rows.

        Args:
            count_all: Returns the total, or None if it is not known; only called for a bar.
        """
        with ExitStack() as stack:
            shown = None
            if self._has_bar:
                from tqdm import tqdm
                from tqdm.contrib.logging import logging_redirect_tqdm

                shown = stack.enter_context(
                    tqdm(total=count_all(), unit=f" {self._unit}s", unit_scale=True, leave=False, dynamic_ncols=True)
                )
                stack.enter_context(logging_redirect_tqdm([logging.getLogger("sbert_ft")]))
            self._began = time.perf_counter()

            def advance(n: int) -> None:
                self.n_done += n
                if shown is not None:
                    shown.update(n)

            yield advance

    def say_pace(self, target: Path, more: str = "") -> None:
        """Log the number of rows, the rows per second and the target, with `more` before the target."""
        seconds = time.perf_counter() - self._began
        what = f"{self.n_done:,} {self._unit}{'' if self.n_done == 1 else 's'}"
        pace = f"{self.n_done / max(seconds, 1e-9):,.0f} {self._unit}s a second, {seconds:.1f} s"
        logger.info("%s, %s%s -> %s", what, pace, more, quoted(target, limit=400)[1:-1])
