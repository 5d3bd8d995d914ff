"""Ctrl-C, SIGTERM and SIGHUP asked for once: finish the step, write a checkpoint, end. Asked for twice: end at once."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from sbert_ft.config.settings import RunSettings
from sbert_ft.encoder.devices import is_out_of_memory
from sbert_ft.errors import OutputError, ResourceError, RunInterrupted
from sbert_ft.training.checkpoints import checkpoint_steps
from sbert_ft.training.run_folder import FolderWatch

logger = logging.getLogger(__name__)

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class _AtOnce(BaseException):
    """A signal ends the run where the program stands; no `except Exception` on the way, as in logging, swallows it."""


class Interruption:
    """Whether the run was asked to end.

    Attributes:
        signal_number: Of the signal, 0 while there was none.
        deferring: While True a first signal is only noted, for the loop to end when its step is done; otherwise the
            run ends where the program stands.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self.deferring = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the signal, or end at once where there is nothing to finish or it is the second one."""
        again, self.signal_number = self.signal_number != 0, number
        if again or not self.deferring:
            raise _AtOnce
        with suppress(RuntimeError):  # a stream that is being written to in this very moment takes nothing else
            logger.warning("%s: finishing this step, then writing a checkpoint; once more ends at once", _name(number))

    def end_if_asked(self, how: str) -> None:
        """End the run where a signal was noted.

        Raises:
            RunInterrupted: Always then.
        """
        if self.signal_number:
            raise self.error(how)

    def error(self, how: str) -> RunInterrupted:
        """Return the exception that ends the run."""
        return RunInterrupted(f"the run was ended by {_name(self.signal_number)} {how}", self.signal_number)


def _name(number: int) -> str:
    return "Ctrl-C (SIGINT)" if number == signal.SIGINT else signal.Signals(number).name


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Handle the signals inside; outside of the main thread, where Python allows no handler, none is noted.

    Raises:
        RunInterrupted: A signal ended the block at once.
    """
    interruption = Interruption()
    before = {}
    if threading.current_thread() is threading.main_thread():
        wanted = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
        # One that is ignored stays so: that is how nohup and background jobs work. One that is no handler of Python's
        # could not be put back.
        wanted = [number for number in wanted if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        before = {number: signal.signal(number, interruption.handle) for number in wanted}
    try:
        yield interruption
    except _AtOnce:
        how = "at once; it goes on from its last checkpoint with --resume, if it has one"
        raise interruption.error(how) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def memory_named(settings: RunSettings, while_what: str) -> Iterator[None]:
    """Turn a want of memory into a sentence with the settings that would need less.

    Raises:
        ResourceError: Memory ran out in the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        training, length = settings.training, settings.model.max_seq_length
        longest = "the model's own" if length is None else str(length)
        raise ResourceError(
            f"out of memory while {while_what}: lower training.batch_size ({training.batch_size}) or "
            f"model.max_seq_length ({longest}), set training.micro_batch_size or training.gradient_checkpointing, take "
            "a smaller model, or end other programs"
        ) from error


@contextmanager
def saved_named(watch: FolderWatch) -> Iterator[None]:
    """Add to an error of writing from which step the run goes on, where there is a checkpoint.

    Raises:
        OutputError: The block did, and the folder is still there.
    """
    try:
        yield
    except OutputError as error:
        watch.check()
        steps = checkpoint_steps(watch.path / "checkpoints")
        if not steps:
            raise
        raise OutputError(
            f"{error}. What was saved up to step {max(steps):,} is still there: mend this, then go on with --resume"
        ) from error
