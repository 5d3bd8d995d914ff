"""A run's log: one JSON object per line, appended during the run and read for the report.

Each line is written to the operating system at once, so that a killed process loses none, and synced to disk with each
checkpoint. A resumed run first removes the lines after its checkpoint: these steps are repeated, and the loss curve
must not have them twice. A line that a full disk or a kill cut off is dropped, not joined with the next one.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from sbert_ft.errors import ModelFolderError, ResourceError, RunFolderError, shown
from sbert_ft.files.atomic import open_regular, sync_folder, write_all, write_bytes, writing
from sbert_ft.files.strict_json import parse_json

logger = logging.getLogger(__name__)


class RunLog:
    """metrics.jsonl, open for appending; also a context manager that closes it.

    Args:
        path: The file; it is created if missing, and an incomplete last line is dropped.

    Raises:
        OutputError: The file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = self._open()

    def append(self, record: Mapping[str, object]) -> None:
        """Add one line; NaN and infinity become null.

        Raises:
            OutputError: It cannot be written; the earlier lines stay complete.
        """
        line = json.dumps(_without_nan(record), allow_nan=False).encode() + b"\n"
        with writing(self.path):
            n_bytes = os.fstat(self._descriptor).st_size
            try:
                write_all(self._descriptor, line)
            except BaseException:
                os.ftruncate(self._descriptor, n_bytes)
                raise

    def sync(self) -> None:
        """Sync all lines to disk.

        Raises:
            OutputError: Syncing failed.
        """
        with writing(self.path):
            os.fsync(self._descriptor)

    def truncate_after(self, step: int) -> int:
        """Remove the lines of steps after `step`, and broken lines; return how many.

        Raises:
            OutputError: The file cannot be rewritten; it is unchanged.
            RunFolderError: It cannot be read.
        """
        kept, n_dropped = [], 0
        for line, record in _lines(self.path):
            found = None if record is None else record.get("step")
            if record is None or (isinstance(found, int) and found > step):
                n_dropped += 1
            else:
                kept.append(line + b"\n")
        if n_dropped:
            write_bytes(self.path, b"".join(kept))
            self.close()
            self._descriptor = self._open()
        return n_dropped

    def close(self) -> None:
        """Close the file; calling it again has no effect."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> int:
        with writing(self.path):
            is_new = not os.path.lexists(self.path)
            descriptor = open_regular(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            try:
                os.ftruncate(descriptor, _end_of_last_line(descriptor))
                if is_new:
                    sync_folder(self.path.parent)
            except BaseException:
                os.close(descriptor)
                raise
        return descriptor


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log, empty if there is no file; broken lines are skipped with a warning.

    Raises:
        RunFolderError: The file cannot be read.
    """
    numbered = list(enumerate(_lines(path), start=1))
    if broken := [number for number, (_, record) in numbered if record is None]:
        logger.warning(
            "%s: %d lines are not JSON objects and were skipped, first line %d", path, len(broken), broken[0]
        )
    return [record for _, (_, record) in numbered if record is not None]


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Yield each complete line with its JSON object, None if it is not one; skip a last line without line feed."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            *lines, _ = file.read().split(b"\n")
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunFolderError(f"{shown(path)} cannot be read: {error.strerror or error}") from None
    for line in lines:
        try:
            yield line, parse_json(line, "the line")
        except ModelFolderError:
            yield line, None


def _end_of_last_line(descriptor: int) -> int:
    """Return the number of bytes up to and including the last line feed."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 4096)
        os.lseek(descriptor, start, os.SEEK_SET)
        found = os.read(descriptor, end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _without_nan(value: object) -> object:
    """Return `value` with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


class Scalars:
    """Writes the numbers of log lines to TensorBoard; without a writer it does nothing."""

    def __init__(self, writer: Any = None) -> None:
        self._writer = writer

    def add(self, record: Mapping[str, Any]) -> None:
        """Write every float of a log line, under its kind and name."""
        if self._writer is None:
            return
        values = record["metrics"] if record["kind"] == "eval" else record
        group = record["split"] if record["kind"] == "eval" else "train"
        for name, value in values.items():
            if isinstance(value, float):
                self._writer.add_scalar(f"{group}/{name}", value, record["step"])


@contextmanager
def open_scalars(folder: Path, wanted: bool, after_step: int = 0) -> Iterator[Scalars]:
    """Yield a writer of TensorBoard event files in `folder`, or one that writes nothing.

    Args:
        folder: The folder of event files; created if `wanted`.
        wanted: Whether to write event files.
        after_step: The step after which the run starts or resumes; later steps in older files are purged.

    Raises:
        ResourceError: tensorboard is not installed.
    """
    check_tensorboard(wanted)
    if not wanted:
        yield Scalars()
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=after_step + 1) as writer:
        yield Scalars(writer)


def check_tensorboard(wanted: bool) -> None:
    """Check that tensorboard is installed if `wanted`.

    Raises:
        ResourceError: tensorboard is not installed.
    """
    if wanted and importlib.util.find_spec("tensorboard") is None:
        raise ResourceError(
            "training.tensorboard needs the package tensorboard: pip install 'sbert-ft[tensorboard]', or set it to "
            "false; metrics.jsonl has the same numbers"
        )


class WarningList(logging.Handler):
    """A logging handler that keeps the messages of warnings from the thread that created it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._sentences: dict[str, None] = {}
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record's message."""
        if record.thread == self._thread:
            self._sentences[record.getMessage()] = None

    @property
    def sentences(self) -> list[str]:
        """The distinct warnings so far, in the order of their first occurrence."""
        return list(self._sentences)


@contextmanager
def warnings_kept() -> Iterator[WarningList]:
    """Yield a list that collects the package's warnings during the block; they are still logged as usual."""
    kept = WarningList()
    ours = logging.getLogger("sbert_ft")
    ours.addHandler(kept)
    try:
        yield kept
    finally:
        ours.removeHandler(kept)
