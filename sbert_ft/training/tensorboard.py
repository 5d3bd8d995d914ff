"""The log's numbers as event files of TensorBoard, where it is asked for and installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sbert_ft.errors import ResourceError


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
