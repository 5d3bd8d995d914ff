"""Find, inspect and read the weights of a model folder without trusting them.

First the headers alone: which tensors, of which shape and dtype, held against the size of the
file, so that a hostile folder is refused before memory is given to it. Then the tensors that are
needed, copied into memory of their own. A safetensors header is parsed here and bounded; a .bin
is read by torch with `weights_only=True` and never without it, after its zip records are checked
(stored as they are, within the file, with the right checksum). The cost over plain loading is one
pass over a .bin for the checksums.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Literal, TypeGuard

import torch
from safetensors import SafetensorError, safe_open

from sbert_ft.errors import ModelFolderError, quoted
from sbert_ft.model.json_files import damaged, foreign_content, open_file, parse_json, read_json, shown
from sbert_ft.model.pickled_weights import load_bin
from sbert_ft.model.weight_names import NameMatch, TensorInfo, check_match, match_names

__all__ = [
    "NameMatch",
    "TensorInfo",
    "WeightFiles",
    "check_match",
    "find_tensors",
    "find_weights",
    "match_names",
    "read_tensors",
]

# Parsed, a header takes up to 25 times its size; 16 MiB describe about 100,000 tensors.
_MAX_HEADER_BYTES = 16 * 2**20
_MAX_DIMS = 16
# The memory that needed tensors take may exceed the file where they share storage (tied layers), not by more.
_MAX_SHARING = 16
_N_LISTED = 12  # names of a folder in a message
_FLOATS = ("float32", "float16", "bfloat16", "float64")
# The format's names of dtypes: torch's name and bytes an element.
_SAFETENSORS_DTYPES = {
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
_Kind = Literal["safetensors", "bin"]
_LAYOUTS: tuple[tuple[str, _Kind], ...] = (("model.safetensors", "safetensors"), ("pytorch_model.bin", "bin"))
# Weights that we do not read, by how their file or folder names begin or end.
_OTHER_WEIGHTS = (
    (re.compile(r"^tf_model|\.h5$|\.ckpt"), "TensorFlow"),
    (re.compile(r"\.msgpack$"), "Flax"),
    (re.compile(r"^onnx$|\.onnx$"), "ONNX"),
    (re.compile(r"^openvino"), "OpenVINO"),
    (re.compile(r"\.gguf$"), "GGUF"),
    (re.compile(r"^adapter_model\."), "an adapter (PEFT) without its base model"),
)


@dataclass(frozen=True)
class WeightFiles:
    """The weights of a folder, as far as their headers tell."""

    kind: _Kind
    files: tuple[Path, ...]
    """One file, or the shards in the order of their names."""
    index: Path | None
    """The *.index.json of shards."""
    tensors: Mapping[str, TensorInfo]
    """Every tensor of every file, by the file's key."""


def find_weights(folder: Path) -> WeightFiles:
    """Return the weights in `folder`; only their headers are read.

    The first of model.safetensors, its shards, pytorch_model.bin, its shards counts. Where it is
    broken, nothing else is tried: a damaged download must not turn into other weights.

    Raises:
        ModelFolderError: No weights there, or weights that are damaged, hostile or of another kind.
    """
    for name, kind in _LAYOUTS:
        path, index = folder / name, folder / f"{name}.index.json"
        if os.path.lexists(path):
            return WeightFiles(kind, (path,), None, MappingProxyType(_header(path, kind)))
        if os.path.lexists(index):
            return _find_shards(index, kind)
    raise _no_weights(folder)


def find_tensors(file: Path) -> WeightFiles:
    """Return the tensors of one safetensors file; only its header is read.

    Raises:
        ModelFolderError: The file is missing, damaged or hostile.
    """
    return WeightFiles("safetensors", (file,), None, MappingProxyType(_header(file, "safetensors")))


def read_tensors(
    weights: WeightFiles, names: Mapping[str, str], dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Return the tensors that `names` asks for, as `dtype`, contiguous and in memory of their own.

    No file stays open or mapped. The memory on the way is one file's worth beyond the result.

    Args:
        weights: What `find_weights` returned.
        names: The name to return a tensor under, to the file's key.
        dtype: A floating-point dtype.

    Raises:
        ModelFolderError: Damage, integer or quantised weights, NaN or infinity.
    """
    wanted: dict[str, list[str]] = {}
    for name, key in names.items():
        wanted.setdefault(key, []).append(name)
    n_file_bytes = sum(path.stat().st_size for path in weights.files)
    n_bytes = sum(math.prod(weights.tensors[key].shape) * dtype.itemsize for key in names.values())
    if n_bytes > _MAX_SHARING * n_file_bytes:
        raise ModelFolderError(
            f"{shown(weights.files[0].parent)}: the tensors take {n_bytes} bytes in memory but come from "
            f"{n_file_bytes} bytes of files, which stored weights do not; use another copy of the model"
        )
    tensors: dict[str, torch.Tensor] = {}
    for path in weights.files:
        for key, tensor in _stored(path, weights.kind, wanted):
            _check_readable(tensor, key, path)
            for name in wanted[key]:
                tensors[name] = tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
            _check_finite(tensors[wanted[key][0]], key, path)
    if absent := [name for name in names if name not in tensors]:
        raise ModelFolderError(f"{shown(weights.files[0])} changed while it was read: {quoted(absent[0])} is gone")
    return {name: tensors[name] for name in names}


def _header(path: Path, kind: _Kind) -> dict[str, TensorInfo]:
    """Return the tensors of one file, without reading their data."""
    if kind == "safetensors":
        return _safetensors_header(path)
    stored = load_bin(path, shapes_only=True)
    return {key: TensorInfo(tuple(value.shape), _dtype_name(value.dtype)) for key, value in stored.items()}


def _stored(path: Path, kind: _Kind, keys: Mapping[str, object]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield those of `keys` that one file holds, with their tensors, which may be views of the file."""
    if kind == "bin":
        loaded = load_bin(path, shapes_only=False)
        for key in [key for key in loaded if key in keys]:
            yield key, loaded.pop(key)  # popped, so that the copy replaces it instead of adding to it
        return
    header = _safetensors_header(path)  # once more: a file cut since then would crash the mapped read
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for key in header:
                if key in keys:
                    yield key, file.get_tensor(key)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise damaged(path, path.stat().st_size, str(error)) from None


def _find_shards(index: Path, kind: _Kind) -> WeightFiles:
    """Return the shards that an index names, all of them inside its folder and complete."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFolderError(f"{shown(index)} has no 'weight_map' that gives each tensor its file")
    for key, name in weight_map.items():
        if not _is_plain_name(name):
            raise ModelFolderError(
                f"{shown(index)}: the index leaves the folder: {quoted(key)} is to be read from {quoted(name)}; "
                "expected the name of a file beside the index"
            )
    files = tuple(index.parent / name for name in sorted(set(weight_map.values())))
    owners: dict[str, str] = {}
    tensors: dict[str, TensorInfo] = {}
    for path in files:
        for key, info in _header(path, kind).items():
            if key in tensors:
                raise ModelFolderError(f"{shown(path)} and {quoted(owners[key])} both hold the tensor {quoted(key)}")
            tensors[key], owners[key] = info, path.name
    for key, name in weight_map.items():
        if owners.get(key) != name:
            raise ModelFolderError(
                f"{shown(index.parent / name)} lacks the tensor {quoted(key)} that {index.name} promises there; "
                "copy or download all files of the model again"
            )
    return WeightFiles(kind, files, index, MappingProxyType(tensors))


def _is_plain_name(name: object) -> bool:
    """Return whether `name` can only be a file beside the index, on any operating system."""
    if not isinstance(name, str) or not name.isprintable() or name in ("", ".", ".."):
        return False
    return PurePosixPath(name).name == name and PureWindowsPath(name).name == name


def _safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """Return the tensors of a safetensors file whose header is sound and fits the file's size."""
    with open_file(path) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        head = file.read(64)
        if head[8:9] != b"{":
            zipped = head.startswith(b"PK\x03\x04") or re.match(rb"\x80[\x02-\x05]", head)
            other = "is a pickle file of torch under a wrong name; name it pytorch_model.bin if you trust it"
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
    tensors: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int]] = []
    for key, entry in header.items():
        try:
            tensors[key], span = _header_entry(entry)
        except ValueError as error:
            raise damaged(path, n_bytes, f"its header is wrong at {quoted(key)}: {error}") from None
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
    if not isinstance(name, str) or name not in _SAFETENSORS_DTYPES:
        raise ValueError(f"the dtype {quoted(name) if isinstance(name, str) else type(name).__name__} is not known")
    if not _are_sizes(shape) or not _are_sizes(span) or len(span) != 2:
        raise ValueError("expected a shape and two data_offsets of whole numbers from 0")
    dtype, itemsize = _SAFETENSORS_DTYPES[name]
    if (n_needed := math.prod(shape) * itemsize) != span[1] - span[0]:
        raise ValueError(f"the shape needs {n_needed} bytes, the data_offsets span {span[1] - span[0]}")
    return TensorInfo(tuple(shape), dtype), (span[0], span[1])


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    """Return whether `value` is a short list of numbers that sizes in a file can be."""
    return isinstance(value, list) and len(value) <= _MAX_DIMS and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name without "torch."."""
    return str(dtype).removeprefix("torch.")


def _check_readable(tensor: torch.Tensor, key: str, path: Path) -> None:
    """Refuse weights that are not plain floating-point numbers."""
    if (name := _dtype_name(tensor.dtype)) not in _FLOATS:
        raise ModelFolderError(
            f"{shown(path)}: the tensor {quoted(key)} is {name}; expected one of {', '.join(_FLOATS)}. "
            "Quantised weights are not supported; use the original ones"
        )


def _check_finite(tensor: torch.Tensor, key: str, path: Path) -> None:
    """Refuse weights with NaN or infinity, without a mask of their size."""
    if tensor.numel() and not all(end.isfinite() for end in torch.aminmax(tensor)):
        n_bad = int((~tensor.isfinite()).sum())
        raise ModelFolderError(
            f"{shown(path)}: the tensor {quoted(key)} holds NaN or infinity ({n_bad} of {tensor.numel()} values as "
            f"{_dtype_name(tensor.dtype)}); the model was damaged in training or saving, use an earlier copy"
        )


def _no_weights(folder: Path) -> ModelFolderError:
    """Return the error for a folder without weights: what is there, and what is accepted."""
    try:
        there = sorted(os.listdir(folder))
    except OSError as error:
        return ModelFolderError(f"{shown(folder)} is not a folder that can be read ({error.strerror}); expected one")
    accepted = ", ".join(f"{name} or its shards with {name}.index.json" for name, _ in _LAYOUTS)
    others = dict.fromkeys(kind for name in there for pattern, kind in _OTHER_WEIGHTS if pattern.search(name))
    inner = next((name for name in there if any(os.path.isfile(folder / name / w) for w, _ in _LAYOUTS)), None)
    only = f", only weights of {', '.join(others)}, which are not read" if others else ""
    hint = f". Its folder {quoted(inner)} holds weights; give that one" if inner is not None else ""
    listed = ", ".join(quoted(name) for name in there[:_N_LISTED]) + (" and more" if len(there) > _N_LISTED else "")
    return ModelFolderError(
        f"{shown(folder)} holds no weights that can be read{only}. Accepted: {accepted}. "
        f"There: {listed or 'nothing'}{hint}"
    )
