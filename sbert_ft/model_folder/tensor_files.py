"""Load the tensors of a .bin that torch.save wrote, or of a safetensors file, without trusting the file.

Both formats of torch contain a pickle. torch reads it with `weights_only=True`, which builds tensors and containers and
refuses everything else; a refused file is not read without it. Before torch reads the file, the pickle must name
nothing but what a state dict needs (torch itself would let a pickle request any amount of memory), and a zip's records
must be uncompressed, lie within the file and, when data is read, have the right checksum, which torch does not check.
To read only the shapes, no data is loaded and no memory used for it: storages are on the meta device.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import pickletools
import re
import struct
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeGuard

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from sbert_ft.errors import ModelFolderError, listed, quoted, shown
from sbert_ft.files.strict_json import damaged, foreign_content, open_file, parse_json
from sbert_ft.model_folder.tensor_names import TensorInfo, check_is_float

# Older versions run code or write out of bounds even with weights_only (CVE-2025-32434, CVE-2026-24747).
_OLDEST_TORCH = "2.10"
_MAX_PICKLE_BYTES = 16 * 2**20  # unpickled, it takes up to 25 times that; an encoder needs 0.1 MB
_MAX_DIRECTORY_BYTES = 16 * 2**20
_FOLDER_MARK = 0x10  # torch treats such a record as empty and returns memory that nothing was read into
_NEWEST_PROTOCOL = 3
_N_LEGACY_PICKLES = 5  # magic number, version, system, the value, its storages' keys
# "module name" of all that a state dict is made of. torch checks its own list after this one, but it is
# wider: a call of bytearray(2**40) or of a tensor class takes more memory than any file has.
_NEEDED = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_\w+|torch\._tensor _rebuild_from_type_v2"
    r"|torch\.nn\.parameter Parameter|torch(\.storage)? \w+Storage|torch (Tensor|Size)|torch [a-z]\w*"
    r"|torch\.serialization _get_layout"
)
# What torch.load and zipfile raise on damaged and hostile files, found by flipping bytes of files and cutting them.
_DAMAGE = (
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError),
    *(EOFError, MemoryError, ImportError, OSError),
    *(pickle.UnpicklingError, struct.error, zlib.error, tarfile.TarError, zipfile.BadZipFile),
)

# Parsed, a header takes up to 25 times its size; 16 MiB describe about 100,000 tensors.
_MAX_HEADER_BYTES = 16 * 2**20
_MAX_DIMS = 16
_PIECE_ELEMENTS = 2**20  # converted at a time
# By their names in safetensors.
_DTYPES: Mapping[str, torch.dtype] = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8},
    **{"BOOL": torch.bool, "C64": torch.complex64},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu},
}


def bin_header(path: Path) -> dict[str, TensorInfo]:
    """Return the shape and dtype of each tensor of a .bin; no data is loaded. Errors as in `load_bin`."""
    stored = _torch_load(path, shapes_only=True)
    return {key: TensorInfo(tuple(value.shape), _dtype_name(value.dtype)) for key, value in stored.items()}


def load_bin(path: Path, keys: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield those of `keys` that a .bin has, with their tensors as float32, each in memory of its own.

    Raises:
        ModelFolderError: The file is damaged, its pickle names more than tensors need, or it is not a dict of dense
            tensors of floating-point numbers.
    """
    loaded = _torch_load(path, shapes_only=False)
    n_sharing = Counter(tensor.untyped_storage().data_ptr() for tensor in loaded.values())
    for key in [key for key in loaded if key not in keys]:
        del loaded[key]
    for key in list(loaded):
        tensor = loaded.pop(key)  # popped, so that the original is freed after a copy
        check_is_float(_dtype_name(tensor.dtype), key, path)
        storage = tensor.untyped_storage()
        is_own = n_sharing[storage.data_ptr()] == 1 and storage.nbytes() == tensor.nbytes and tensor.is_contiguous()
        yield key, tensor.to(torch.float32, copy=not is_own, memory_format=torch.contiguous_format)


def _dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name without "torch."."""
    return str(dtype).removeprefix("torch.")


def _torch_load(path: Path, *, shapes_only: bool) -> dict[str, Tensor]:
    """Return the tensors in `path` by name: on the CPU, or without data on the meta device."""
    if TorchVersion(torch.__version__) < _OLDEST_TORCH:
        raise ModelFolderError(
            f"{shown(path)} is a pickle file, which torch {torch.__version__} does not read safely",
            f"update torch to {_OLDEST_TORCH} or newer, or convert the model to safetensors",
        )
    with open_file(path) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        head = file.read(512)
        if foreign := _foreign_to_torch(head):
            raise ModelFolderError(f"{shown(path)} {foreign}")
        if head.startswith(b"PK\x03\x04"):
            _check_zip(file, path, n_bytes, with_data=not shapes_only)
        else:
            file.seek(0)
            _check_pickles(file, path, n_bytes, _N_LEGACY_PICKLES)
        file.seek(0)
        # skip_data is for the format before zip, for which torch reads data even for the meta device.
        without_data = torch.serialization.skip_data() if shapes_only else nullcontext()
        try:
            with without_data:
                loaded = torch.load(file, map_location="meta" if shapes_only else "cpu", weights_only=True, mmap=False)
        except _DAMAGE as error:
            raise _refusal(path, n_bytes, error) from None
    return _dense_tensors(loaded, path, n_bytes, "meta" if shapes_only else "cpu")


def _foreign_to_torch(head: bytes) -> str | None:
    """Return what a file named .bin is instead of one that torch.save wrote, or None."""
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**40:
        return "is a safetensors file under a wrong name; rename it to model.safetensors"
    if head[257:262] == b"ustar":
        return "is a tar archive, perhaps of one of torch's first versions; load it there and save it again"
    return foreign_content(head[:64])


def _check_zip(file: BinaryIO, path: Path, n_bytes: int, *, with_data: bool) -> None:
    """Refuse zips that are not uncompressed records one after another; check the checksums of what is read next."""
    if not _has_plain_directory(file, n_bytes):
        raise damaged(path, n_bytes, "the list of records at the end of the zip archive is missing")
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            names = [record.filename.lower() for record in records]  # torch ignores case in them
            if any(record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 for record in records):
                raise ModelFolderError(f"{shown(path)} holds compressed or encrypted records; torch.save writes none")
            if any(record.external_attr & _FOLDER_MARK for record in records):
                raise damaged(path, n_bytes, "some of its records are marked as folders")
            if sum(record.file_size for record in records) > n_bytes or len(set(names)) < len(names):
                raise damaged(path, n_bytes, "its records overlap or go beyond its end")
            if any(name.endswith("/constants.pkl") for name in names):
                raise ModelFolderError(f"{shown(path)} is a TorchScript archive; expected a file of tensors")
            pickles = [record for record in records if record.filename.lower().endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > _MAX_PICKLE_BYTES:
                raise ModelFolderError(
                    f"{shown(path)} is not a file of tensors: expected one record data.pkl of at most "
                    f"{_MAX_PICKLE_BYTES} bytes, found {len(pickles)} of {sum(p.file_size for p in pickles)} bytes"
                )
            if with_data and (broken := archive.testzip()) is not None:
                raise damaged(path, n_bytes, f"the checksum of its record {quoted(broken)} is wrong")
            _check_pickles(io.BytesIO(archive.read(pickles[0])), path, n_bytes, 1)  # read() checks its checksum too
    except _DAMAGE as error:
        raise damaged(path, n_bytes, quoted(error)) from None


def _has_plain_directory(file: BinaryIO, n_bytes: int) -> bool:
    """Return whether the zip's directory is at the end of the file, where all readers find it, and not too large."""
    file.seek(max(0, n_bytes - 98))
    tail = file.read(98).rjust(98, b"\0")
    signature, *_, size, offset, n_comment = struct.unpack("<4s4H2LH", tail[76:])
    end = n_bytes - 22
    if signature != b"PK\x05\x06" or n_comment:
        return False
    if tail[56:60] == b"PK\x06\x07":  # the directory of a zip64, which torch writes
        end = n_bytes - 98
        size, offset = struct.unpack("<2Q", tail[40:56])
        if tail[:4] != b"PK\x06\x06" or int.from_bytes(tail[64:72], "little") != end:
            return False
    return bool(size <= _MAX_DIRECTORY_BYTES and offset + size == end)


def _check_pickles(file: IO[bytes], path: Path, n_bytes: int, n_pickles: int) -> None:
    """Refuse pickles that name more than a state dict needs; they are parsed, not run."""
    texts: list[str] = []
    protocol = 0
    try:
        for _ in range(n_pickles):
            for opcode, argument, position in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                    name = " ".join(texts) if opcode.name == "STACK_GLOBAL" else str(argument)
                    if name == "torch._utils _rebuild_qtensor":
                        raise ModelFolderError(
                            f"{shown(path)} holds quantized tensors, which are not supported",
                            "use the original weights",
                        )
                    if not _NEEDED.fullmatch(name):
                        raise _refused_call(path, name.replace(" ", "."))
                elif isinstance(argument, str):
                    texts = [*texts[-1:], argument]
                elif opcode.name == "PROTO" and isinstance(argument, int):
                    protocol = max(protocol, argument)
                if (position or 0) > _MAX_PICKLE_BYTES:
                    raise ModelFolderError(f"{shown(path)} has a pickle of more than {_MAX_PICKLE_BYTES} bytes")
    except _DAMAGE as error:
        raise damaged(path, n_bytes, f"its pickle cannot be parsed ({quoted(error)})") from None
    if protocol > _NEWEST_PROTOCOL:
        raise ModelFolderError(
            f"{shown(path)} is written with pickle protocol {protocol}, which torch cannot read safely",
            "save it again with torch.save and its default protocol",
        )


def _refused_call(path: Path, name: str) -> ModelFolderError:
    """Return the error for a pickle that names a function or class which weights do not need."""
    return ModelFolderError(
        f"{shown(path)} asks to call {quoted(name)}, which a file of weights does not need; "
        "nothing was run. Do not use this file unless you know why it does this",
        "get the weights as a safetensors file",
    )


def _refusal(path: Path, n_bytes: int, error: BaseException) -> ModelFolderError:
    """Return the error for what torch.load raised, without torch's advice to load the file unsafely."""
    message = str(error)
    if refused := re.search(r"GLOBAL (\S+)", message):
        return _refused_call(path, refused[1])
    cause = re.search(r"WeightsUnpickler error: *(?:\n\n)?([^\n]+)", message)
    if cause is None and "weights_only" not in message:
        cause = re.search(r"([^\n]+)", message)
    return damaged(path, n_bytes, quoted(cause[1], 160) if cause else f"torch cannot read it ({type(error).__name__})")


def _dense_tensors(loaded: Any, path: Path, n_bytes: int, device: str) -> dict[str, Tensor]:
    """Return what was loaded if it is a dict of dense tensors whose data is in the file."""
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not loaded:
        found = "an empty dict" if isinstance(loaded, dict) else f"a {type(loaded).__name__}"
        raise ModelFolderError(f"{shown(path)} holds {found}; expected a dict of tensors by name, as torch.save writes")
    for key, value in loaded.items():
        if not isinstance(key, str):
            raise ModelFolderError(f"{shown(path)} names a tensor by a {type(key).__name__}; expected text")
        where = f"{shown(path)}, entry {quoted(key)}:"
        if type(value) not in (torch.Tensor, torch.nn.Parameter):
            inner = [name for name, part in loaded.items() if _has_tensors(part)]
            what = f"it is a training checkpoint: save what is in {listed(inner, 3)} as a file of its own"
            problem = f"{where} found a value of type {type(value).__name__}; expected a tensor"
            raise ModelFolderError(problem, what if inner else "")
        if value.layout != torch.strided or value.is_quantized or value.is_nested:
            raise ModelFolderError(f"{where} a sparse, nested or quantized tensor; expected a dense one of floats")
        held = value.untyped_storage().nbytes()
        if value.device.type != device or max(held, value.numel() * value.itemsize) > n_bytes:
            raise ModelFolderError(f"{where} the file of {n_bytes} bytes does not hold the data of this tensor")
    return {key: value.detach() for key, value in loaded.items()}


def _has_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(inner, torch.Tensor) for inner in value.values())


def safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """Return the shape and dtype of each tensor by a safetensors header. Errors as in `load_safetensors`."""
    with open_file(path) as file:
        return {key: info for key, (info, _) in _stored_tensors(file, path).items()}


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, with texts in its header; one tensor at a time is brought to the CPU.

    Views and tensors that share memory are written as they look. A file that exists keeps its permissions.

    Raises:
        OSError: It cannot be written.
    """
    names = {dtype: name for name, dtype in _DTYPES.items()}
    # the largest elements first, so that each tensor begins at a multiple of its element's size
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.numel() * tensor.element_size()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb", buffering=2**20) as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in order:
            plain = tensors[name].detach().to("cpu").contiguous()
            file.write(plain.reshape(-1).view(torch.uint8).numpy().data)


def load_safetensors(path: Path, keys: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield those of `keys` that a file has, with their tensors as float32, each in memory of its own.

    Raises:
        ModelFolderError: The file is of another kind or damaged, its header is too large, or the weights are integer
            or quantized.
    """
    with open_file(path) as file:
        for key, (info, start) in _stored_tensors(file, path).items():
            if key in keys:
                check_is_float(info.dtype, key, path)
                file.seek(start)
                yield key, _read_tensor(file, path, info)


def _read_tensor(file: BinaryIO, path: Path, info: TensorInfo) -> Tensor:
    """Return the tensor whose data is next in the file, as float32."""
    tensor = torch.empty(info.shape, dtype=torch.float32)
    if info.dtype == "float32":
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


def _stored_tensors(file: BinaryIO, path: Path) -> dict[str, tuple[TensorInfo, int]]:
    """Return the tensors of an open safetensors file by key, and the byte at which the data of each begins."""
    n_bytes = os.fstat(file.fileno()).st_size
    head = file.read(64)
    if head[8:9] != b"{":
        foreign = foreign_content(head)
        if re.match(rb"PK\x03\x04|\x80[\x02-\x05]", head):
            is_model = path.name == "model.safetensors"
            advice = "rename it to pytorch_model.bin if you trust it" if is_model else "copy it again"
            foreign = f"is a pickle file of torch under a wrong name; {advice}"
        if foreign:
            raise ModelFolderError(f"{shown(path)} {foreign}")
    n_header = int.from_bytes(head[:8], "little")
    if n_header > n_bytes - 8:
        raise damaged(path, n_bytes, f"its header promises at least {8 + n_header}")
    if n_header > _MAX_HEADER_BYTES:
        raise ModelFolderError(f"{shown(path)} has a header of {n_header} bytes; expected at most {_MAX_HEADER_BYTES}")
    file.seek(8)
    data = file.read(n_header)
    try:
        header = parse_json(data, "its header")
    except ModelFolderError as error:
        raise damaged(path, n_bytes, str(error)) from None
    header.pop("__metadata__", None)
    if not header:
        raise ModelFolderError(f"{shown(path)} holds no tensors; expected those of an encoder")
    tensors: dict[str, tuple[TensorInfo, int]] = {}
    spans: list[tuple[int, int]] = []
    for key, entry in header.items():
        try:
            info, span = _header_entry(entry)
        except ValueError as error:
            raise damaged(path, n_bytes, f"its header is wrong at {quoted(key)}: {error}") from None
        tensors[key] = info, 8 + n_header + span[0]
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
    """Return the tensor of a header's entry and the span of its bytes; a ValueError says what is wrong with it."""
    if not isinstance(entry, dict):
        raise ValueError("expected an object with dtype, shape and data_offsets")
    name, shape, span = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(name, str) or name not in _DTYPES:
        raise ValueError(f"the dtype {quoted(name) if isinstance(name, str) else type(name).__name__} is not known")
    if not _are_sizes(shape) or not _are_sizes(span) or len(span) != 2:
        raise ValueError("expected a shape and two data_offsets of whole numbers from 0")
    dtype = _DTYPES[name]
    if (n_needed := math.prod(shape) * dtype.itemsize) != span[1] - span[0]:
        raise ValueError(f"the shape needs {n_needed} bytes, the data_offsets span {span[1] - span[0]}")
    return TensorInfo(tuple(shape), _dtype_name(dtype)), (span[0], span[1])


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    """Return whether `value` is a short list of whole numbers that can be sizes in a file."""
    return isinstance(value, list) and len(value) <= _MAX_DIMS and all(type(n) is int and 0 <= n < 2**63 for n in value)
