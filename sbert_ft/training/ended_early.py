"""What ended a run early, said with what is left of it and what to do.

A full disk and a want of memory come from below as bare facts. Here they become sentences of a run: which checkpoint
is whole, and which settings would need less.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sbert_ft.config.settings import RunSettings
from sbert_ft.encoder.devices import is_out_of_memory
from sbert_ft.errors import OutputError, ResourceError
from sbert_ft.training.checkpoints import checkpoint_steps
from sbert_ft.training.folder_watch import FolderWatch


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
