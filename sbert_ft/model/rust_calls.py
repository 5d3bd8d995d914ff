"""Calls of the Rust tokenizer, whose faults come as bare exceptions and as panics.

A panic is not even an `Exception` in Python. Most can only come from a tokenizer.json that contradicts itself, so they
are the folder's fault and said as such.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tokenizers import Encoding, Tokenizer

from sbert_ft.errors import ModelFolderError, SbertFtError, quoted

_PANIC = "PanicException"  # of pyo3_runtime, a module that cannot be imported


@contextmanager
def rust_faults(problem: str) -> Iterator[None]:
    """Turn whatever a call of the Rust side raises into a `ModelFolderError` that begins with `problem`."""
    try:
        yield
    except (SbertFtError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        raise ModelFolderError(f"{problem}: {quoted(error, limit=200)}") from None


def encode(backend: Tokenizer, text: str, pair: str | None = None, *, add_special_tokens: bool = True) -> Encoding:
    """Return what the tokenizer makes of a text, or of a pair.

    Raises:
        ModelFolderError: It fails.
    """
    with rust_faults("tokenizer.json describes a tokenizer that does not run"):
        return backend.encode(text, pair, add_special_tokens=add_special_tokens)


def encode_bodies(backend: Tokenizer, texts: Sequence[str]) -> list[Encoding]:
    """Return what the tokenizer makes of each text, without special tokens.

    Raises:
        ModelFolderError: It fails at one of them.
    """
    with rust_faults("the model's tokenizer cannot take one of the texts"):
        return backend.encode_batch_fast(list(texts), add_special_tokens=False)
