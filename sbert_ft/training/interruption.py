"""Handle Ctrl-C, SIGTERM and SIGHUP: the first ends the run after this step and a checkpoint, the second at once."""

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
from sbert_ft.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class _AtOnce(BaseException):
    """Raised to end the run at once; a BaseException, so that no `except Exception` (as in logging) swallows it."""


class Interruption:
    """Records whether a signal requested the end of the run.

    While `deferring`, a first signal is only recorded, and the loop ends after the current step; otherwise the run ends
    at once. `signal_number` is 0 if no signal was received. If `aloud`, a deferred signal is logged at once; where
    several processes train, the loop does so when all of them know of it.
    """

    def __init__(self, aloud: bool = True) -> None:
        self.signal_number = 0
        self.aloud = aloud
        self.deferring = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Record the signal; end at once if the signal is not deferred or is the second one."""
        again, self.signal_number = self.signal_number != 0, number
        if again or not self.deferring:
            raise _AtOnce
        if self.aloud:
            self.say()

    def say(self) -> None:
        """Log what the signal does."""
        with suppress(RuntimeError):  # the stream may be in the middle of a write, which the handler interrupted
            logger.warning(
                "%s: finishing this step, then writing a checkpoint; a second signal ends the run at once",
                _name(self.signal_number),
            )

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only record a first signal in the block."""
        self.deferring = True
        try:
            yield
        finally:
            self.deferring = False

    def raise_if_signalled(self, how: str) -> None:
        """Raise `RunInterrupted` if a signal was recorded; `how` says when the run ended and how to continue."""
        if number := self.signal_number:
            raise RunInterrupted(f"the run was ended by {_name(number)} {how}", number) from None


def _name(number: int) -> str:
    return "Ctrl-C (SIGINT)" if number == signal.SIGINT else signal.Signals(number).name


@contextmanager
def interruptible(aloud: bool = True) -> Iterator[Interruption]:
    """Handle the signals in the block, which a second one ends at once by a `RunInterrupted`.

    Outside the main thread Python allows no handlers, so none are installed.
    """
    interruption = Interruption(aloud)
    before = {}
    if threading.current_thread() is threading.main_thread():
        wanted = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
        # Ignored signals stay ignored, as nohup and background jobs need. A handler that was not set by Python (None)
        # could not be restored.
        wanted = [number for number in wanted if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        before = {number: signal.signal(number, interruption.handle) for number in wanted}
    try:
        yield interruption
    except _AtOnce:
        interruption.raise_if_signalled("at once; if it has a checkpoint, continue from the last one with --resume")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def memory_named(settings: RunSettings, while_what: str) -> Iterator[None]:
    """Turn an out-of-memory error into a `ResourceError` that names the settings that reduce memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        training, length = settings.training, settings.model.max_seq_length
        longest = "the model's own" if length is None else str(length)
        raise ResourceError(
            f"out of memory while {while_what}: lower training.batch_size ({training.batch_size}) or "
            f"model.max_seq_length ({longest}), set training.micro_batch_size or training.gradient_checkpointing, use "
            "a smaller model, or end other programs"
        ) from error


@contextmanager
def saved_named(folder: RunFolder) -> Iterator[None]:
    """Add to an `OutputError` that the folder is gone, or the step from which the run can be resumed, if any."""
    try:
        yield
    except OutputError as error:
        folder.check_is_there()
        steps = checkpoint_steps(folder.checkpoints_dir)
        if not steps:
            raise
        raise OutputError(
            f"{error}. What was saved up to step {max(steps):,} is still there: fix this, then continue with --resume"
        ) from error
