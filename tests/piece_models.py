"""The bytes of SentencePiece model files, without SentencePiece."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = range(1, 6)


def varint(number: int) -> bytes:
    data = b""
    while number > 127:
        data, number = data + bytes([number & 127 | 128]), number >> 7
    return data + bytes([number])


def field(number: int, value: int | float | bytes) -> bytes:
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def model_bytes(
    pieces: Sequence[tuple[str, float, int]], trainer: Mapping[int, int] = {}, normalizer: Mapping[int, Any] = {}
) -> bytes:
    """Return the bytes of a model file with these pieces, and these fields of its two specifications."""
    data = b"".join(field(1, field(1, t.encode()) + field(2, float(s)) + field(3, kind)) for t, s, kind in pieces)
    specs = (b"".join(field(*item) for item in spec.items()) for spec in (trainer, normalizer))
    return data + b"".join(field(number, spec) for number, spec in enumerate(specs, 2))
