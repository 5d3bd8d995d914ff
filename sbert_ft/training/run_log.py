"""A run's log: one JSON object per line, appended during the run and read for the report.

Each line is written to the operating system at once, so that a killed process loses none, and synced to disk with each
checkpoint. A resumed run first removes the lines after its checkpoint: these steps are repeated, and the loss curve
must not have them twice. A line that a full disk or a kill cut off is dropped, not joined with the next one.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sbert_ft.errors import ModelFolderError, ResourceError, RunFolderError, shown
from sbert_ft.files.atomic import open_regular, write_all, write_bytes, writing
from sbert_ft.files.strict_json import parse_json

logger = logging.getLogger(__name__)


class RunLog:
    """metrics.jsonl, open for appending, and TensorBoard's event files; also a context manager that closes them."""

    def __init__(self, path: Path, after_step: int | None = None, tensorboard: Path | None = None) -> None:
        """Open or create the file, without broken lines and lines of steps after `after_step`, if one is given.

        Event files in the folder `tensorboard` get the same numbers. A file that cannot be written is an `OutputError`.
        """
        self.path = path
        self._writer: Any = None
        self._descriptor = -1
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            # events of later steps in older files are not shown
            self._writer = SummaryWriter(str(tensorboard), purge_step=(after_step or 0) + 1)
        with writing(path):
            content = _content(path)
            kept = b"".join(line + b"\n" for line, record in _lines(content or b"") if _is_kept(record, after_step))
            if content != kept:
                write_bytes(path, kept)
            self._descriptor = open_regular(path, os.O_WRONLY | os.O_APPEND)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line; NaN and infinity become null. After an `OutputError` the earlier lines stay complete."""
        strict = json.loads(json.dumps(record), parse_constant=lambda _word: None)
        line = json.dumps(strict).encode() + b"\n"
        with writing(self.path):
            n_bytes = os.fstat(self._descriptor).st_size
            try:
                write_all(self._descriptor, line)
            except BaseException:
                os.ftruncate(self._descriptor, n_bytes)
                raise
        if self._writer is not None:
            group, values = (record["split"], record["metrics"]) if record["kind"] == "eval" else ("train", record)
            for name, value in values.items():
                if isinstance(value, float):
                    self._writer.add_scalar(f"{group}/{name}", value, record["step"])

    def sync(self) -> None:
        """Sync all lines to disk; a failure is an `OutputError`."""
        with writing(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the files; calling it again has no effect."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the records of a log, empty if there is no file; broken lines are skipped with a warning.

    A file that cannot be read is a `RunFolderError`.
    """
    try:
        records = [record for _, record in _lines(_content(path) or b"")]
    except OSError as error:
        raise RunFolderError(f"{shown(path)} cannot be read: {error.strerror or error}") from None
    if n_broken := records.count(None):
        first = records.index(None) + 1
        logger.warning("%s: %d lines are not JSON objects and were skipped, first line %d", path, n_broken, first)
    return [record for record in records if record is not None]


def _content(path: Path) -> bytes | None:
    """Return the bytes of a log, or None if there is no file."""
    if not os.path.lexists(path):
        return None
    with os.fdopen(open_regular(path), "rb") as file:
        return file.read()


def _lines(content: bytes) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Yield each complete line with its JSON object, None if it is not one; skip a last line without line feed."""
    for line in content.split(b"\n")[:-1]:
        try:
            yield line, parse_json(line, "the line")
        except ModelFolderError:
            yield line, None


def _is_kept(record: Mapping[str, Any] | None, after_step: int | None) -> bool:
    step = None if record is None else record.get("step")
    return record is not None and (after_step is None or not isinstance(step, int) or step <= after_step)


def check_tensorboard(wanted: bool) -> None:
    """Raise a `ResourceError` if tensorboard is `wanted` and not installed."""
    if wanted and importlib.util.find_spec("tensorboard") is None:
        raise ResourceError(
            "training.tensorboard needs the package tensorboard: pip install 'sbert-ft[tensorboard]', or set it to "
            "false; metrics.jsonl has the same numbers"
        )


@contextmanager
def warnings_kept() -> Iterator[list[str]]:
    """Yield a list that collects the package's warnings of this thread during the block, each once; all are logged."""
    sentences: list[str] = []
    thread = threading.get_ident()

    def keep(record: logging.LogRecord) -> bool:
        if record.thread == thread and (sentence := record.getMessage()) not in sentences:
            sentences.append(sentence)
        return False  # the handler itself writes nothing

    handler, ours = logging.Handler(logging.WARNING), logging.getLogger("sbert_ft")
    handler.addFilter(keep)
    ours.addHandler(handler)
    try:
        yield sentences
    finally:
        ours.removeHandler(handler)
