"""Checkpoints are restored bit by bit; damaged or incomplete ones are skipped, after a kill at any moment."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sbert_ft.errors import CheckpointError, OutputError
from sbert_ft.files.atomic import (
    PREFIX,
    backup_of,
    open_regular,
    remove_leftovers,
    staged_folder,
    write_bytes,
    write_json,
)
from sbert_ft.training.checkpoints import newest_checkpoint, read_checkpoint, remove_all_but, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def groups(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """Return tensors of each kind that a run saves: weights, optimizer, random states."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(7, 5, generator=generator)
    return {
        "weights": {"a.weight": weight, "a.half": weight.bfloat16(), "a.16": weight.half(), "empty": torch.zeros(0, 3)},
        "optimizer": {"0.step": torch.tensor(3.0), "0.exp_avg": weight * 2, "rows": torch.arange(9)},
        "random": {"cpu": torch.get_rng_state(), "flag": torch.tensor([True, False])},
    }


STATE: dict[str, Any] = {
    "epoch": 1,
    "position": 17,
    "best": None,
    "loss": 0.1 + 0.2,
    "text": "한국어 \ud800",
    "list": [1],
}


def assert_equal_bits(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        flat = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (found[name], tensor)]
        assert torch.equal(*flat), name


def save(folder: Path, step: int, **state: Any) -> Path:
    return save_checkpoint(folder, step, groups(step), {**STATE, **state})


def whole(folder: Path) -> dict[str, bytes]:
    """Return the bytes of each file below `folder`."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# reading back


def test_what_is_saved_comes_back_bit_by_bit(tmp_path: Path) -> None:
    path = save(tmp_path, 120)
    assert path == tmp_path / "step-00000120"
    assert sorted(p.name for p in path.iterdir()) == [
        *("manifest.json", "optimizer.safetensors", "random.safetensors", "state.json", "weights.safetensors")
    ]
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.path, found.step, found.state) == (path, 120, STATE)
    assert found.stems == ("optimizer", "random", "weights")
    for stem, tensors in groups(120).items():
        if stem != "random":
            assert_equal_bits(found.read_tensors(stem), tensors)
    assert found.read_tensors("random")["cpu"].dtype == torch.uint8


def test_a_random_state_goes_on_where_it_was(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(7)
    torch.rand(11, generator=generator)
    save_checkpoint(tmp_path, 1, {"random": {"state": generator.get_state()}}, {})
    expected = torch.rand(5, generator=generator)
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    other = torch.Generator()
    other.set_state(checkpoint.read_tensors("random")["state"])
    assert torch.equal(torch.rand(5, generator=other), expected)


def test_views_shared_and_strange_tensors_are_saved_as_they_look(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "base": base,
        "same": base,
        "transposed": base.T,
        "row": base[1],
        "column": base[:, 2],
        "expanded": torch.ones(1, 3).expand(5, 3),
        "parameter": torch.nn.Parameter(base[2:]),
        "nan": torch.tensor([math.nan, math.inf, -0.0]),
        "scalar": torch.tensor(2**62),
        "empty": torch.empty(0),
        "empty too": torch.empty(0, 4),
    }
    save_checkpoint(tmp_path, 0, {"weights": tensors, "nothing": {}}, {})
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.step == 0
    assert_equal_bits(found.read_tensors("weights"), tensors)
    assert found.read_tensors("nothing") == {}


def test_tensors_outlive_their_file(tmp_path: Path) -> None:
    save(tmp_path, 1)
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    tensors = checkpoint.read_tensors("weights")
    with open(checkpoint.path / "weights.safetensors", "r+b") as file:
        file.write(b"\0" * 4096)
    assert_equal_bits(tensors, groups(1)["weights"])


@pytest.mark.parametrize("value", [0.1, 1e-323, 1.7976931348623157e308, -0.0, 2**53 + 1, 1 / 3])
def test_numbers_of_the_state_come_back_exactly(tmp_path: Path, value: float) -> None:
    save(tmp_path, 1, value=value)
    found = newest_checkpoint(tmp_path)
    assert found is not None and repr(found.state["value"]) == repr(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_state_that_is_not_json_is_refused_before_anything_is_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save(tmp_path / "checkpoints", 1, value=value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("step", "stem"), [(-1, "weights"), (10**18, "weights"), (1, "../weights"), (1, "State")])
def test_names_that_could_not_be_read_are_not_written(tmp_path: Path, step: int, stem: str) -> None:
    with pytest.raises(ValueError, match="not valid for a checkpoint"):
        save_checkpoint(tmp_path, step, {stem: {}}, {})
    assert list(tmp_path.iterdir()) == []


def test_files_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    assert len({file.stat().st_mode for file in path.iterdir()}) == 1


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "missing") is None
    (tmp_path / "step-12").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "step-00000001").mkdir()
    (tmp_path / "step-00000001" / "notes.txt").write_text("a person's")
    assert newest_checkpoint(tmp_path) is None


def test_an_unknown_group_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(save(tmp_path, 1))
    with pytest.raises(CheckpointError, match="no tensors 'scaler'; found: optimizer, random, weights"):
        checkpoint.read_tensors("scaler")


# which is newest, which are kept


def test_the_newest_is_the_highest_step_whatever_the_clock_says(tmp_path: Path) -> None:
    times = {5: 4_070_908_800, 99_999_999: 946_684_800, 100_000_000: 946_684_801, 7: 4_070_908_801}  # 2000 and 2099
    for step, time in times.items():
        path = save(tmp_path, step)
        for place in (*path.iterdir(), path):
            os.utime(place, (time, time))
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.step == 100_000_000


def test_all_but_the_kept_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    (tmp_path / "step-00000002" / "manifest.json").unlink()
    (tmp_path / "notes.txt").write_text("a person's")
    os.rename(tmp_path / "step-00000001", tmp_path / "step-00000004.old")
    remove_all_but(tmp_path, {3, 4})
    assert sorted(os.listdir(tmp_path)) == ["notes.txt", "step-00000003", "step-00000004"]
    remove_all_but(tmp_path / "missing", ())


def test_only_earlier_checkpoints_are_removed_where_that_is_asked(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, {}, {})
    remove_all_but(tmp_path, {1}, before=3)
    assert sorted(os.listdir(tmp_path)) == ["step-00000001", "step-00000003", "step-00000004"]


def test_a_link_in_a_checkpoints_place_is_removed_and_not_followed(tmp_path: Path) -> None:
    elsewhere = save(tmp_path / "elsewhere", 5)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000005").symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match="not a folder named step-"):
        newest_checkpoint(tmp_path / "checkpoints")
    remove_all_but(tmp_path / "checkpoints", ())
    assert os.listdir(tmp_path / "checkpoints") == []
    assert read_checkpoint(elsewhere).step == 5


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, 3, epoch=1)
    save(tmp_path, 3, epoch=2)
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.state["epoch"] == 2
    assert os.listdir(tmp_path) == ["step-00000003"]


@pytest.mark.parametrize("damaged", ["", ".old"])
def test_of_two_states_of_a_step_the_whole_one_counts(tmp_path: Path, damaged: str) -> None:
    path = save(tmp_path, 3, epoch=1)
    shutil.copytree(path, backup_of(path))
    (tmp_path / f"{path.name}{damaged}" / "weights.safetensors").write_bytes(b"")
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.state["epoch"] == 1
    save(tmp_path, 3, epoch=2)
    assert os.listdir(tmp_path) == ["step-00000003"]
    assert read_checkpoint(path).state["epoch"] == 2


def test_leftovers_are_ignored_and_removed_by_their_prefix_only(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    shutil.copytree(path, tmp_path / f"{PREFIX}0123456789abcdef")
    (tmp_path / f"{PREFIX}file").write_text("half of it")
    (tmp_path / f"{PREFIX}link").symlink_to(path)
    (tmp_path / ".sbert").write_text("not ours")
    assert newest_checkpoint(tmp_path) is not None
    assert remove_leftovers(tmp_path) == 3
    assert sorted(os.listdir(tmp_path)) == [".sbert", "step-00000001"]
    assert read_checkpoint(path).step == 1


# damage


FILES = ("weights.safetensors", "optimizer.safetensors", "random.safetensors", "state.json", "manifest.json")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path) -> None:
    path.unlink()


def lengthen(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"x")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x04
    path.write_bytes(data)


def into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def into_a_link(path: Path) -> None:
    moved = path.parent.parent / path.name
    os.rename(path, moved)
    path.symlink_to(moved)


def into_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [cut, empty, delete, lengthen, flip, into_a_folder, into_a_link, into_a_pipe])
def test_a_damaged_checkpoint_is_named_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: Callable[[Path], None]
) -> None:
    save(tmp_path, 10)
    damage(save(tmp_path, 20) / name)
    with caplog.at_level(logging.WARNING, "sbert_ft"):
        found = newest_checkpoint(tmp_path)
    assert found is not None and found.step == 10
    (warning,) = caplog.messages
    assert "step-00000020" in warning and "skipped" in warning
    remove_all_but(tmp_path, {20})
    with pytest.raises(CheckpointError, match=r"no complete checkpoint: .*step-00000020.*--overwrite"):
        newest_checkpoint(tmp_path)


def test_every_flipped_byte_of_the_manifest_is_seen_or_harmless(tmp_path: Path) -> None:
    path = save(tmp_path, 20)
    content = (path / "manifest.json").read_bytes()
    for i in range(len(content)):
        data = bytearray(content)
        data[i] ^= 0x01
        (path / "manifest.json").write_bytes(data)
        try:
            found = read_checkpoint(path)
        except CheckpointError:
            continue
        assert found.state == STATE, i


def test_a_file_in_a_checkpoints_place_is_damage(tmp_path: Path) -> None:
    (tmp_path / "step-00000020").write_text("not a folder")
    (tmp_path / "step-00000021").mkdir()
    with pytest.raises(CheckpointError, match="step-00000021"):
        newest_checkpoint(tmp_path)
    assert save(tmp_path, 20).is_dir()


def test_a_file_in_place_of_all_checkpoints_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="cannot be read"):
        newest_checkpoint(tmp_path / "checkpoints")
    with pytest.raises(OutputError, match="checkpoints"):
        save(tmp_path / "checkpoints", 1)


# hostile content


def entry(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((path / "manifest.json").read_bytes())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "outside": lambda m: m["files"].update({"../secret.safetensors": entry(b"secret")}),
    "absolute": lambda m: m["files"].update({"/etc/passwd": entry(b"")}),
    "backslash": lambda m: m["files"].update({"..\\secret.safetensors": entry(b"secret")}),
    "nul": lambda m: m["files"].update({"a\0.safetensors": entry(b"")}),
    "itself": lambda m: m["files"].update({"manifest.json": entry(b"")}),
    "huge": lambda m: m["files"]["state.json"].update(bytes=10**4000),
    "negative": lambda m: m["files"]["state.json"].update(bytes=-1),
    "fraction": lambda m: m["files"]["state.json"].update(bytes=1.5),
    "true": lambda m: m["files"]["state.json"].update(bytes=True),
    "no digest": lambda m: m["files"]["state.json"].update(sha256=None),
    "entry a list": lambda m: m["files"].update({"state.json": []}),
    "files a list": lambda m: m.update(files=["state.json"]),
    "no files": lambda m: m.pop("files"),
    "no state": lambda m: m["files"].pop("state.json"),
    "other step": lambda m: m.update(step=21),
    "step true": lambda m: m.update(step=True),
    "no step": lambda m: m.pop("step"),
    "newer format": lambda m: m.update(format=2),
    "format a list": lambda m: m.update(format=[[1]]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_leads_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    path = save(tmp_path, 20)
    rewrite(path, HOSTILE[name])
    with pytest.raises(CheckpointError, match="step-00000020"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        b'{"format": 1, "format": 1, "step": 20, "files": {}}',
        b"[" * 100_000,
        b'{"step": ' + b"9" * 5000 + b"}",
        b'{"step": NaN}',
        b"\xff\xfe{}",
        b"null",
        b"",
        b" " * (2**20 + 1),
    ],
)
def test_a_broken_manifest_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = save(tmp_path, 20)
    (path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "data", [b"", b"\x80\x04.", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}", b'\x08\0\0\0\0\0\0\0{"a":1} ']
)
def test_tensors_with_the_right_sha256_are_still_not_trusted(tmp_path: Path, data: bytes) -> None:
    path = save(tmp_path, 20)
    (path / "weights.safetensors").write_bytes(data)
    rewrite(path, lambda manifest: manifest["files"].update({"weights.safetensors": entry(data)}))
    checkpoint = read_checkpoint(path)
    try:
        assert checkpoint.read_tensors("weights") == {}
    except CheckpointError as error:
        assert "weights.safetensors" in str(error)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("original"), 20)


@pytest.fixture(scope="module")
def victim_folder(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("victims")


@pytest.fixture
def victim(request: pytest.FixtureRequest, original: Path, victim_folder: Path) -> Path:
    """Return a checkpoint that the examples of a test damage one after another."""
    return Path(shutil.copytree(original, victim_folder / request.node.originalname / original.name))


def declare(path: Path, name: str, content: bytes) -> None:
    """Write a manifest that is correct except for one file, which it says holds `content`."""
    files = {p.name: entry(p.read_bytes()) for p in path.iterdir() if p.name != "manifest.json"}
    manifest = {"format": 1, "step": 20, "files": {**files, name: entry(content)}}
    (path / "manifest.json").write_text(json.dumps(manifest))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["format", "step", "files", "bytes", "sha256", *FILES, "..", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)
any_content = st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=any_content)
def test_any_bytes_as_a_manifest_give_the_error(victim: Path, content: bytes) -> None:
    (victim / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError):
        newest_checkpoint(victim.parent)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=any_content, is_declared=st.booleans())
def test_any_bytes_as_a_state_give_a_checkpoint_or_the_error(victim: Path, content: bytes, is_declared: bool) -> None:
    (victim / "state.json").write_bytes(content)
    declare(victim, "state.json", content if is_declared else b"something else")
    try:
        found = newest_checkpoint(victim.parent)
    except CheckpointError:
        return
    assert is_declared and found is not None and isinstance(found.state, dict)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=any_content)
def test_any_bytes_as_tensors_give_tensors_or_the_error(victim: Path, content: bytes) -> None:
    (victim / "weights.safetensors").write_bytes(content)
    declare(victim, "weights.safetensors", content)
    try:
        read_checkpoint(victim).read_tensors("weights")
    except CheckpointError as error:
        assert "weights.safetensors" in str(error)


# killed, and disk full


# In one process that has torch loaded, and a fork of it for each death: a state of version 1 is on the disk, the fork
# writes version 2 and is stopped at its kth call of the system. Every call is counted first.
SWEEP = """
import errno, json, logging, os, random, resource, shutil, signal, sys, time
from pathlib import Path
import torch
from sbert_ft.errors import SbertFtError
from sbert_ft.training import checkpoints
from sbert_ft.files.atomic import PREFIX, remove_leftovers

torch.set_num_threads(1)
logging.disable(logging.CRITICAL)
root = Path(sys.argv[1])
CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "scandir", "listdir")

def save(folder, step, version):
    tensors = {"weights": {"w": torch.full((3000,), float(version))}, "random": {"r": torch.arange(40) + version}}
    checkpoints.save_checkpoint(folder, step, tensors, {"version": version})

def version_of(folder):
    found = checkpoints.newest_checkpoint(folder)
    version = found.state["version"]
    assert torch.equal(found.read_tensors("weights")["w"], torch.full((3000,), float(version)))
    assert torch.equal(found.read_tensors("random")["r"], torch.arange(40) + version)
    return version

def next_step(folder):
    save(folder, 10, 1)
    def write():
        save(folder, 20, 2)
        checkpoints.remove_all_but(folder, {20})
    return write

def same_step(folder):
    save(folder, 20, 1)
    return lambda: save(folder, 20, 2)

def same_step_once_killed(folder):
    save(folder, 20, 1)
    shutil.copytree(folder / "step-00000020", folder / "step-00000020.old")
    (folder / "step-00000020" / "state.json").write_text("{}")
    return lambda: save(folder, 20, 2)

def at_call(k, strike):
    seen = [0]
    def wrapped(call, name):
        def counted(*arguments, **options):
            seen[0] += 1
            if seen[0] == k:
                if name == "write":
                    call(arguments[0], arguments[1][: len(arguments[1]) // 2])
                if name == "save_file":
                    call(*arguments, **options)
                    os.truncate(arguments[1], 1000)
                strike()
            return call(*arguments, **options)
        return counted
    for name in CALLS:
        setattr(os, name, wrapped(getattr(os, name), name))
    checkpoints.save_file = wrapped(checkpoints.save_file, "save_file")
    return seen

def forked(task):
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = task() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def no_room():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

def refused(write):
    try:
        write()
    except SbertFtError as error:
        assert "step-" in str(error) or "case-" in str(error), error
        return 2
    return 0

def sweep(prepare, strike):
    n_calls, outcomes = None, []
    k = 0
    while n_calls is None or k <= n_calls:
        folder = root / f"case-{prepare.__name__}-{strike.__name__}-{k}"
        folder.mkdir()
        write = prepare(folder)
        def task():
            seen = at_call(k, strike)
            code = refused(write)
            (root / "n_calls").write_text(str(seen[0]))
            return code
        code = forked(task)
        if n_calls is None:
            assert code == 0
            n_calls = int((root / "n_calls").read_text())
        version = version_of(folder)
        leftovers = [name for name in os.listdir(folder) if name.startswith(PREFIX)]
        if strike is die:
            assert code == (0 if k == 0 else -signal.SIGKILL), (k, code)
        else:
            assert code in (0, 2), (k, code)
            assert not leftovers or version == 2, (k, leftovers)
        if code == 0:
            assert version == 2, k
        remove_leftovers(folder)
        save(folder, 20, 3)
        checkpoints.remove_all_but(folder, {20})
        assert version_of(folder) == 3, k
        assert os.listdir(folder) == ["step-00000020"], k
        shutil.rmtree(folder)
        outcomes.append(version)
        k += 1
    return {"calls": n_calls, "old": outcomes.count(1), "new": outcomes.count(2)}

def full_disk():
    found = {}
    for limit in (0, 10, 200, 400, 500, 1000, 5000, 12000, 12050):
        folder = root / f"case-{limit}"
        folder.mkdir()
        save(folder, 10, 1)
        def task():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            return refused(lambda: save(folder, 20, 2))
        assert forked(task) == 2, limit
        assert os.listdir(folder) == ["step-00000010"], limit
        assert version_of(folder) == 1
        found[limit] = "refused"
    return found

def random_kills():
    folder, generator, reached = root / "checkpoints", random.Random(0), [0]
    folder.mkdir()
    started = time.monotonic()
    for _ in range(5):
        save(root / "timed", 1, 1)
    seconds = time.monotonic() - started
    while len(reached) <= 25 or reached[-1] < 10:
        child = os.fork()
        if child == 0:
            for step in range(reached[-1] + 1, 10**6):
                save(folder, step, step)
                checkpoints.remove_all_but(folder, {step})
        time.sleep(generator.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = checkpoints.newest_checkpoint(folder)
        step = 0 if found is None else found.step
        assert step >= reached[-1], (step, reached)
        if step:
            assert version_of(folder) == step
        if step == reached[-1]:
            seconds *= 1.2  # a slow machine
        reached.append(step)
        remove_leftovers(folder)
    return {"kills": len(reached) - 1, "reached": reached[-1]}

scenarios = (next_step, same_step, same_step_once_killed)
killed = {scenario.__name__: sweep(scenario, die) for scenario in scenarios}
faulty = {scenario.__name__: sweep(scenario, no_room) for scenario in scenarios}
print(json.dumps({"killed": killed, "faulty": faulty, "full": full_disk(), "random": random_kills()}))
"""


@pytest.fixture(scope="module")
def swept() -> dict[str, Any]:
    """Return the results of all kills; the process asserts that the old or the new checkpoint was complete each time.

    In memory if the system has such a folder, so that hundreds of synced files do not wait for a disk.
    """
    if not hasattr(os, "fork"):
        pytest.skip("the process under test is a fork")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as place:
        command = [sys.executable, "-c", SWEEP, place]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    found: dict[str, Any] = json.loads(result.stdout)
    return found


SCENARIOS = ["next_step", "same_step", "same_step_once_killed"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_any_call_there_is_the_old_or_the_new_checkpoint(swept: dict[str, Any], scenario: str) -> None:
    found = swept["killed"][scenario]
    assert found["old"] > 5 and found["new"] > 2
    assert found["old"] + found["new"] == found["calls"] + 1 > 20


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_fault_at_any_call_is_an_error_that_leaves_the_old_checkpoint(swept: dict[str, Any], scenario: str) -> None:
    found = swept["faulty"][scenario]
    assert found["old"] > 5 and found["new"] > 2


def test_a_full_disk_is_an_error_that_leaves_the_old_checkpoint_and_nothing_else(swept: dict[str, Any]) -> None:
    assert set(swept["full"].values()) == {"refused"}


def test_killed_at_random_moments_no_checkpoint_is_lost(swept: dict[str, Any]) -> None:
    assert swept["random"]["kills"] >= 25


# files and folders written durably


def test_a_file_is_replaced_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"value": 0.1})
    write_json(path, {"value": None, "text": "\ud800 é"})
    assert json.loads(path.read_text("utf-8")) == {"value": None, "text": "\ud800 é"}
    write_bytes(path, b"\0\1")
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"\0\1", ["metrics.json"])
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_cannot_be_written_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    for path in (tmp_path / "taken", tmp_path / "missing" / "file"):
        with pytest.raises(OutputError, match=path.name):
            write_bytes(path, b"content")
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file", math.nan)
    assert os.listdir(tmp_path) == ["taken"]


def test_a_file_behind_a_link_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("a person's")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    write_bytes(tmp_path / "link", b"ours")
    assert (tmp_path / "elsewhere").read_text() == "a person's"
    with pytest.raises(OSError, match="link"):
        (tmp_path / "other").symlink_to(tmp_path / "elsewhere")
        open_regular(tmp_path / "other")


def test_a_folder_whose_filling_fails_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with staged_folder(target) as staging:
        (staging / "inner").mkdir()
        (staging / "inner" / "file").write_text("old")
    before = whole(tmp_path)
    with pytest.raises(KeyboardInterrupt), staged_folder(target) as staging:
        (staging / "file").write_text("half")
        raise KeyboardInterrupt
    assert whole(tmp_path) == before
    with staged_folder(target) as staging:
        (staging / "file").write_text("new")
    assert whole(tmp_path) == {"model/file": b"new"}
