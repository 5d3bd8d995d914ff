"""A run's log: one JSON object a line, appended while it runs, read back for the report.

Each line is handed to the system at once, so that a killed process loses none, and brought to the disk when a
checkpoint is. A resumed run first takes back the lines after its checkpoint: the steps come again, and the loss curve
stays one curve. A line that a full disk or a kill cut off is dropped, never glued to the next.
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
from sbert_ft.files.atomic import faults_named, open_regular, sync_folder, write_all, write_bytes
from sbert_ft.files.strict_json import parse_json

logger = logging.getLogger(__name__)


class RunLog:
    """metrics.jsonl, open for appending; also a context manager that closes it.

    Args:
        path: The file; it is made where there is none, and a last line that was cut off is dropped.

    Raises:
        OutputError: The file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = self._open()

    def append(self, record: Mapping[str, object]) -> None:
        """Add one line; NaN and infinity become null.

        Raises:
            OutputError: It cannot be written; the lines before it are whole.
        """
        line = json.dumps(_without_nan(record), allow_nan=False).encode() + b"\n"
        with faults_named(self.path):
            n_bytes = os.fstat(self._descriptor).st_size
            try:
                write_all(self._descriptor, line)
            except BaseException:
                os.ftruncate(self._descriptor, n_bytes)
                raise

    def sync(self) -> None:
        """Bring all lines to the disk.

        Raises:
            OutputError: The system cannot.
        """
        with faults_named(self.path):
            os.fsync(self._descriptor)

    def truncate_after(self, step: int) -> int:
        """Take back the lines of later steps than `step`, broken ones too; return how many.

        Raises:
            OutputError: The file cannot be written anew; it is as it was.
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
        """Close the file; without effect when it is closed."""
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
        with faults_named(self.path):
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
    """Return the records of a log, none where there is no file; broken lines are passed over with a warning.

    Raises:
        RunFolderError: The file cannot be read.
    """
    numbered = list(enumerate(_lines(path), start=1))
    if broken := [number for number, (_, record) in numbered if record is None]:
        logger.warning("%s: %d lines are no JSON objects and left out, first line %d", path, len(broken), broken[0])
    return [record for _, (_, record) in numbered if record is not None]


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Yield each whole line with its object, None where it is none; the last counts only with its line feed."""
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
    """Return how many bytes there are up to and with the last line feed."""
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
    """Return `value` with null for what is no number: JSON has neither NaN nor infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


class Scalars:
    """Takes lines of the log; writes nothing where there is no writer."""

    def __init__(self, writer: Any = None) -> None:
        self._writer = writer

    def add(self, record: Mapping[str, Any]) -> None:
        """Write every number of a line of the log, under its kind and name."""
        if self._writer is None:
            return
        values = record["metrics"] if record["kind"] == "eval" else record
        group = record["split"] if record["kind"] == "eval" else "train"
        for name, value in values.items():
            if isinstance(value, float):
                self._writer.add_scalar(f"{group}/{name}", value, record["step"])


@contextmanager
def open_scalars(folder: Path, wanted: bool, after_step: int = 0) -> Iterator[Scalars]:
    """Give a writer of event files into `folder`, or one that writes nothing.

    Args:
        folder: Made where it is wanted.
        wanted: Whether it is.
        after_step: Where the run begins or goes on; what older files say of later steps is taken back.

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
    """Find out whether it is there, where it is wanted.

    Raises:
        ResourceError: tensorboard is not installed.
    """
    if wanted and importlib.util.find_spec("tensorboard") is None:
        raise ResourceError(
            "training.tensorboard needs the package tensorboard: pip install 'sbert-ft[tensorboard]', or set it to "
            "false; metrics.jsonl has the same numbers"
        )


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
