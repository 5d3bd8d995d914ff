"""Any bytes as model.safetensors, or as the index of its shards."""

from __future__ import annotations

import json
import math
import struct

from fuzz.inputs import name_and_content, named, only_file, scratch_folder
from sbert_ft.errors import SbertFtError
from sbert_ft.model_folder.tensor_names import match_names
from sbert_ft.model_folder.weights import find_weights, read_tensors

INSTRUMENTED = (
    "sbert_ft.files.strict_json",
    "sbert_ft.model_folder.tensor_files",
    "sbert_ft.model_folder.tensor_names",
    "sbert_ft.model_folder.weights",
)
MOST_BYTES = 2048
NAMES = ("model.safetensors", "model.safetensors.index.json")
SHARDS = ("model-1.safetensors", "model-2.safetensors")


def safetensors(tensors: dict[str, tuple[str, list[int], int]], **metadata: str) -> bytes:
    """Return a file with tensors of zeros, each given by its dtype, shape and bytes an element."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, (dtype, shape, n_bytes) in tensors.items():
        start, end = end, end + math.prod(shape) * n_bytes
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def seeds() -> dict[str, bytes]:
    """Return valid inputs by name: files of one and of several tensors, and the index of two shards."""
    weight_map = {"a.weight": SHARDS[0], "b.bias": SHARDS[1]}
    files = {
        "one": safetensors({"a.weight": ("F32", [2, 3], 4)}, format="pt"),
        "half": safetensors({"a.weight": ("BF16", [2, 3], 2), "b.bias": ("F16", [4], 2)}),
        "prefixed": safetensors({"bert.a.weight": ("F32", [3], 4), "bert.cls.bias": ("F64", [1], 8)}),
        "no-elements": safetensors({"a.weight": ("F32", [0, 5], 4), "b.bias": ("F32", [], 4)}),
        "integers": safetensors({"a.weight": ("I64", [2], 8), "b.bias": ("BOOL", [3], 1)}),
    }
    found = {name: named(NAMES[0], content) for name, content in files.items()}
    return {**found, "index": named(NAMES[1], json.dumps({"metadata": {}, "weight_map": weight_map}))}


def read(data: bytes) -> None:
    """Read the header, then every tensor; each must have the shape that the header promised.

    Raises:
        SbertFtError: The file is refused.
    """
    name, content = name_and_content(data, NAMES)
    folder = scratch_folder()
    only_file(SHARDS[0], safetensors({"a.weight": ("F32", [2], 4)}))
    only_file(SHARDS[1], safetensors({"b.bias": ("F32", [2], 4)}))
    path = only_file(name, content)
    try:
        weights = find_weights(folder)
        shapes = {key: info.shape for key, info in weights.tensors.items()}
        assert sum(map(math.prod, shapes.values())) <= 16 + 8 * len(content), "more elements than the file has bytes"
        match_names(weights.tensors, {"a.weight": (2, 3), "b.bias": (4,)}, "bert")
        for key, tensor in read_tensors(weights, {key: key for key in shapes}).items():
            assert tuple(tensor.shape) == shapes[key] and bool(tensor.isfinite().all())
    finally:
        path.unlink()


def test_one_input(data: bytes) -> bool:
    """Return whether the input was read, not refused; anything but the typed error goes on to the caller."""
    try:
        read(data)
    except SbertFtError as error:
        assert str(error).strip(), "a refusal says why"
        return False
    return True
