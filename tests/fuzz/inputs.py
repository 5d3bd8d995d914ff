"""How one string of bytes becomes a file of a given name, so that a seed is a text that a person can read.

The first line of an input names the file, the rest is its content: `vocab.txt`, a line feed, the vocabulary. A
mutation of the name is taken for one of the names all the same, so that no input is wasted.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path


def named(name: str, content: str | bytes) -> bytes:
    """Return the input that stands for a file of this name and content."""
    return f"{name}\n".encode() + (content.encode() if isinstance(content, str) else content)


def name_and_content(data: bytes, names: Sequence[str]) -> tuple[str, bytes]:
    """Return the name in the first line, or one of the names that the first line picks, and what follows it."""
    first, _, content = data.partition(b"\n")
    name = first.decode("latin-1")
    return (name if name in names else names[sum(first) % len(names)]), content


@cache
def scratch_folder() -> Path:
    """Return an empty folder of this process, in memory where the system has such, removed when the process ends."""
    in_memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="sbert-ft-fuzz-", dir=in_memory if in_memory.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def only_file(name: str, content: bytes) -> Path:
    """Return a file of this content in the scratch folder; a file of the same name is replaced."""
    path = scratch_folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
