"""Checks a command's output file, shows a progress bar and the speed, and lays out tables.

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
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sbert_ft.config.metrics import METRICS
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
        is_there, in_folder = target.exists(), target.parent.is_dir()
        mode = target.stat().st_mode if is_there else stat.S_IFREG
        same = is_there and source is not None and source.exists() and target.samefile(source)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{shown}: cannot be a file to write to: {reason}") from error
    suffix, either = Path(output).suffix.lower(), " or ".join(filter(None, [", ".join(suffixes[:-1]), suffixes[-1]]))
    unknown = f"the suffix {quoted(suffix)}" if suffix else "a name without suffix"
    special = "is a pipe, socket or device; expected a file, which can be replaced when done"
    read_only = is_there and not os.access(target, os.W_OK)
    lacks_pyarrow = suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None
    faults = (
        (target.is_symlink(), "is a link that leads to itself", "write to another file"),
        (stat.S_ISDIR(mode), "is a folder", f"give the name of a file, ending in {either}"),
        (suffix not in suffixes, f"cannot tell what to write from {unknown}", f"use {either}"),
        (not stat.S_ISREG(mode), special, ""),
        (not in_folder, f"the folder {quoted(target.parent, limit=400)} does not exist", "make it first"),
        (same, "is the file that is read", "write to another"),
        (read_only, "exists and is read-only", "write to another file or allow writing"),
        (lacks_pyarrow, "writing Parquet needs pyarrow: pip install 'sbert-ft[parquet]'", ""),
    )
    for is_so, problem, hint in faults:
        if is_so:
            raise OutputError(f"{shown}: {problem}", hint)
    return target


def aligned(rows: Sequence[Sequence[str]], right_from: int | None = None) -> list[str]:
    """Return rows of cells as lines; columns from `right_from` on are aligned right, the others left."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    ends = len(widths) if right_from is None else right_from
    lines = []
    for row in rows:
        gaps = [" " * (width - _width(text)) for text, width in zip(row, widths, strict=True)]
        cells = [gap + text if i >= ends else text + gap for i, (text, gap) in enumerate(zip(row, gaps, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _width(text: str) -> int:
    """Return the width of a text in terminal columns: a Hangul syllable is two wide."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def metric_rows(*columns: tuple[str, Mapping[str, Any], str]) -> list[list[str]]:
    """Return a row with the heads, and one for each metric of the first column.

    A column is its head, its scores by metric as in metrics.json, and "+" for the sign of differences, or "".
    """
    rows = [["", *(head for head, _, _ in columns)]]
    for name in columns[0][1]:
        rows.append([METRICS[name].short, *(cell(scores.get(name), sign) for _, scores, sign in columns)])
    return rows


def cell(score: dict[str, Any] | None, sign: str = "") -> str:
    """Return "0.7312 (0.7012 to 0.7621)", or why there is no number."""
    if score is None:
        return "-"
    if score["value"] is None:
        return f"none: {score['reason']}"
    if score["low"] is None:
        return _number(score["value"], sign)
    low, high = (_number(score[end], sign) for end in ("low", "high"))
    return f"{_number(score['value'], sign)} ({low} to {high})"


def _number(value: float, sign: str) -> str:
    """Return a metric with four decimals, from 100 on with one, as perplexities may have."""
    return f"{value:{sign},.{4 if abs(value) < 100 else 1}f}"


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

        `count_all` returns the total, or None if it is not known; it is only called for a bar.
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

    def report(self, target: Path, source: str, more: str = "") -> None:
        """Log the number of rows, the rows per second, `more` and the target; warn if `source` has no row."""
        from sbert_ft.data.ledger import counted

        seconds = time.perf_counter() - self._began
        pace = f"{self.n_done / max(seconds, 1e-9):,.0f} {self._unit}s a second, {seconds:.1f} s"
        logger.info("%s, %s%s -> %s", counted(self.n_done, self._unit), pace, more, quoted(target, limit=400)[1:-1])
        if not self.n_done:
            logger.warning("%s holds no %s: the result has no row", source, self._unit)
