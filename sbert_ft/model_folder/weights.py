"""Find, inspect and read the weights of a model folder without trusting them.

First only the headers are read: which tensors, of which shape and dtype, checked against the size of the file, so that
a hostile folder is refused before memory is allocated for it. Then the tensors that are needed are read, each into
memory of its own and never in two copies. `tensor_files.py` reads the files.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch

from sbert_ft.errors import ModelFolderError, listed, quoted, shown
from sbert_ft.files.strict_json import read_json
from sbert_ft.model_folder.contents import WEIGHT_FILES, WeightKind, what_it_holds
from sbert_ft.model_folder.tensor_files import bin_header, load_bin, load_safetensors, safetensors_header
from sbert_ft.model_folder.tensor_names import TensorInfo

# The needed tensors may take more memory than their files where they share storage (tied layers), at most by this.
_MAX_SHARING = 16
_N_LISTED = 12  # names of a folder in a message
_HEADERS = {"safetensors": safetensors_header, "bin": bin_header}
_LOADERS = {"safetensors": load_safetensors, "bin": load_bin}


@dataclass(frozen=True)
class WeightFiles:
    """The weights of a folder, by their headers: one file, or the shards in the order of their names and their index.

    `tensors` has every tensor of every file, by the file's key.
    """

    kind: WeightKind
    files: tuple[Path, ...]
    index: Path | None
    tensors: Mapping[str, TensorInfo]


def find_weights(folder: Path) -> WeightFiles:
    """Return the weights in `folder`; only their headers are read.

    The first of model.safetensors, its shards, pytorch_model.bin, its shards is used. If it is broken, nothing else is
    tried: a damaged download must not be replaced by other weights.

    Raises:
        ModelFolderError: There are no weights, or they are damaged, hostile or of another kind.
    """
    for name, kind in WEIGHT_FILES:
        path, index = folder / name, folder / f"{name}.index.json"
        if os.path.lexists(path):
            return WeightFiles(kind, (path,), None, _HEADERS[kind](path))
        if os.path.lexists(index):
            return _find_shards(index, kind)
    raise _no_weights(folder)


def find_tensors(file: Path) -> WeightFiles:
    """Return the tensors of one safetensors file; only its header is read. Errors as in `find_weights`."""
    return WeightFiles("safetensors", (file,), None, safetensors_header(file))


def read_tensors(weights: WeightFiles, names: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Return the tensors of `names`, as float32, contiguous and in memory of their own.

    No file stays open or mapped. A .bin takes more memory than the result: for its other tensors, or another dtype.
    `names` has the file's key by the name under which its tensor is returned.

    Raises:
        ModelFolderError: A file is damaged, or the weights are integer, quantized, NaN or infinite.
    """
    wanted: dict[str, list[str]] = {}
    for name, key in names.items():
        wanted.setdefault(key, []).append(name)
    n_file_bytes = sum(path.stat().st_size for path in weights.files)
    n_bytes = sum(math.prod(weights.tensors[key].shape) * torch.float32.itemsize for key in names.values())
    if n_bytes > _MAX_SHARING * n_file_bytes:
        raise ModelFolderError(
            f"{shown(weights.files[0].parent)}: the tensors take {n_bytes} bytes in memory but come from "
            f"{n_file_bytes} bytes of files, expected at most {_MAX_SHARING} times as many",
            "use another copy of the model",
        )
    tensors: dict[str, torch.Tensor] = {}
    for path in weights.files:
        for key, tensor in _LOADERS[weights.kind](path, wanted):
            _check_finite(tensor, key, path)
            first, *others = wanted[key]
            tensors[first] = tensor
            tensors |= {name: tensor.clone() for name in others}
    if absent := [name for name in names if name not in tensors]:
        raise ModelFolderError(
            f"{shown(weights.files[0])} changed while it was read: {quoted(absent[0])} is missing now"
        )
    return {name: tensors[name] for name in names}


def _find_shards(index: Path, kind: WeightKind) -> WeightFiles:
    """Return the shards that an index names, checked to be inside its folder and complete."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFolderError(f"{shown(index)} has no 'weight_map' from each tensor to its file")
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
        for key, info in _HEADERS[kind](path).items():
            if key in tensors:
                raise ModelFolderError(f"{shown(path)} and {quoted(owners[key])} both hold the tensor {quoted(key)}")
            tensors[key], owners[key] = info, path.name
    for key, name in weight_map.items():
        if owners.get(key) != name:
            raise ModelFolderError(
                f"{shown(index.parent / name)} lacks the tensor {quoted(key)} that {index.name} promises there",
                "copy or download all files of the model again",
            )
    return WeightFiles(kind, files, index, tensors)


def _is_plain_name(name: object) -> bool:
    """Return whether `name` can only be a file beside the index, on any operating system."""
    if not isinstance(name, str) or not name.isprintable() or name in ("", ".", ".."):
        return False
    return PurePosixPath(name).name == PureWindowsPath(name).name == name


def _check_finite(tensor: torch.Tensor, key: str, path: Path) -> None:
    """Refuse weights with NaN or infinity; finite ones are checked without a mask of their size."""
    if tensor.numel() and not all(end.isfinite() for end in torch.aminmax(tensor)):
        n_bad = int((~tensor.isfinite()).sum())
        raise ModelFolderError(
            f"{shown(path)}: the tensor {quoted(key)} holds NaN or infinity ({n_bad} of {tensor.numel()} values as "
            "float32)",
            "the model was damaged in training or saving, use an earlier copy",
        )


def _no_weights(folder: Path) -> ModelFolderError:
    """Return the error for a folder without weights: what is there, and what is accepted."""
    try:
        there = sorted(os.listdir(folder))
    except OSError as error:
        return ModelFolderError(f"{shown(folder)} is not a folder that can be read ({error.strerror}); expected one")
    accepted = ", ".join(f"{name} or its shards with {name}.index.json" for name, _ in WEIGHT_FILES)
    others = what_it_holds(there)
    inner = next((name for name in there if any(os.path.isfile(folder / name / w) for w, _ in WEIGHT_FILES)), None)
    only = f", only {', '.join(others)}" if others else ""
    hint = (
        next(iter(others.values()), "") if inner is None else f"its folder {quoted(inner)} holds weights; give that one"
    )
    return ModelFolderError(
        f"{shown(folder)} holds no weights that can be read{only}. Accepted: {accepted}. "
        f"There: {listed(there, _N_LISTED) or 'nothing'}",
        hint,
    )
