"""Read a safetensors file without trusting it: a bounded header first, then tensors into memory of their own.

The header is parsed here, so that shapes and spans are held against the size of the file before memory is given to
them. The tensors are read, not mapped: a mapped file counts as memory beside its copy while it is loaded, and one that
is cut meanwhile ends the process. What has to be converted goes through a buffer of one piece.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeGuard

import torch
from torch import Tensor

from sbert_ft.errors import ModelFolderError, quoted, shown
from sbert_ft.files.strict_json import damaged, foreign_content, open_file, parse_json
from sbert_ft.model.weight_names import TensorInfo, check_is_float

# Parsed, a header takes up to 25 times its size; 16 MiB describe about 100,000 tensors.
_MAX_HEADER_BYTES = 16 * 2**20
_MAX_DIMS = 16
_PIECE_ELEMENTS = 2**20  # converted at a time
# The format's names of dtypes: torch's name and bytes an element.
_DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
    "C64": ("complex64", 8),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
}


@dataclass(frozen=True)
class _Stored:
    """A tensor of a file: what the header says of it, and the byte of the file at which its data begins."""

    info: TensorInfo
    start: int


def safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a safetensors file whose header is sound and fits the file's size.

    Raises:
        ModelFolderError: Another kind of file, a damaged or an oversized one.
    """
    with open_file(path) as file:
        return {key: stored.info for key, stored in _stored_tensors(file, path).items()}


def load_safetensors(path: Path, keys: Collection[str], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield those of `keys` that a file holds, with their tensors as `dtype`, each in memory of its own.

    Raises:
        ModelFolderError: As `safetensors_header`, integer or quantised weights, or a file that was cut while it was
            read.
    """
    with open_file(path) as file:
        for key, stored in _stored_tensors(file, path).items():
            if key in keys:
                check_is_float(stored.info.dtype, key, path)
                file.seek(stored.start)
                yield key, _read_tensor(file, path, stored.info, dtype)


def _read_tensor(file: BinaryIO, path: Path, info: TensorInfo, dtype: torch.dtype) -> Tensor:
    """Return the tensor whose data is next in the file, as `dtype`."""
    tensor = torch.empty(info.shape, dtype=dtype)
    if str(dtype) == f"torch.{info.dtype}":
        _read_into(tensor.view(-1), file, path)
        return tensor
    piece = torch.empty(min(tensor.numel(), _PIECE_ELEMENTS), dtype=getattr(torch, info.dtype))
    for part in tensor.view(-1).split(_PIECE_ELEMENTS):
        _read_into(piece[: len(part)], file, path)
        part.copy_(piece[: len(part)])
    return tensor


def _read_into(flat: Tensor, file: BinaryIO, path: Path) -> None:
    """Fill `flat`, shape (n,), contiguous, with the next bytes of the file, which are little-endian."""
    if not len(flat):
        return
    target = flat.view(torch.uint8).numpy()
    try:
        n_read = file.readinto(target)  # type: ignore[attr-defined]
    except OSError as error:
        raise damaged(path, os.fstat(file.fileno()).st_size, f"it cannot be read ({error.strerror})") from None
    if n_read != len(target):
        raise damaged(path, os.fstat(file.fileno()).st_size, "it was cut while it was read")
    if sys.byteorder == "big":
        flat.view(torch.uint8).view(len(flat), -1).copy_(flat.view(torch.uint8).view(len(flat), -1).flip(1))


def _stored_tensors(file: BinaryIO, path: Path) -> dict[str, _Stored]:
    """Return the tensors of an open file, by key, in the order of its header."""
    n_bytes = os.fstat(file.fileno()).st_size
    head = file.read(64)
    if head[8:9] != b"{":
        zipped = head.startswith(b"PK\x03\x04") or re.match(rb"\x80[\x02-\x05]", head)
        mend = "name it pytorch_model.bin if you trust it" if path.name == "model.safetensors" else "copy it again"
        other = f"is a pickle file of torch under a wrong name; {mend}"
        if foreign := other if zipped else foreign_content(head):
            raise ModelFolderError(f"{shown(path)} {foreign}")
    n_header = int.from_bytes(head[:8], "little")
    if n_header > n_bytes - 8:
        raise damaged(path, n_bytes, f"its header promises at least {8 + n_header}")
    if n_header > _MAX_HEADER_BYTES:
        raise ModelFolderError(f"{shown(path)} has a header of {n_header} bytes; at most {_MAX_HEADER_BYTES}")
    file.seek(8)
    data = file.read(n_header)
    try:
        header = parse_json(data, "its header")
    except ModelFolderError as error:
        raise damaged(path, n_bytes, str(error)) from None
    header.pop("__metadata__", None)
    if not header:
        raise ModelFolderError(f"{shown(path)} holds no tensors; expected those of an encoder")
    tensors: dict[str, _Stored] = {}
    spans: list[tuple[int, int]] = []
    for key, entry in header.items():
        try:
            info, span = _header_entry(entry)
        except ValueError as error:
            raise damaged(path, n_bytes, f"its header is wrong at {quoted(key)}: {error}") from None
        tensors[key] = _Stored(info, 8 + n_header + span[0])
        spans.append(span)
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise damaged(path, n_bytes, "the tensors of its header overlap or leave gaps")
        end = stop
    if 8 + n_header + end != n_bytes:
        raise damaged(path, n_bytes, f"its header promises {8 + n_header + end}")
    return tensors


def _header_entry(entry: object) -> tuple[TensorInfo, tuple[int, int]]:
    """Return what a header says of one tensor, and the span of its bytes; ValueError says what is wrong."""
    if not isinstance(entry, dict):
        raise ValueError("expected an object with dtype, shape and data_offsets")
    name, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(name, str) or name not in _DTYPES:
        raise ValueError(f"the dtype {quoted(name) if isinstance(name, str) else type(name).__name__} is not known")
    if not _are_sizes(shape) or not _are_sizes(span) or len(span) != 2:
        raise ValueError("expected a shape and two data_offsets of whole numbers from 0")
    dtype, itemsize = _DTYPES[name]
    if (n_needed := math.prod(shape) * itemsize) != span[1] - span[0]:
        raise ValueError(f"the shape needs {n_needed} bytes, the data_offsets span {span[1] - span[0]}")
    return TensorInfo(tuple(shape), dtype), (span[0], span[1])


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    """Return whether `value` is a short list of numbers that sizes in a file can be."""
    return isinstance(value, list) and len(value) <= _MAX_DIMS and all(type(n) is int and 0 <= n < 2**63 for n in value)
