"""Checkpoints are restored bit by bit; damaged or incomplete ones are skipped, after a kill at any moment."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import itertools
import json
import logging
import math
import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from sbert_ft.config.settings import TrainingSettings
from sbert_ft.errors import CheckpointError, OutputError
from sbert_ft.files.atomic import (
    PREFIX,
    open_regular,
    remove_leftovers,
    sync_folder,
    whole_file,
    write_bytes,
    write_json,
    writing,
)
from sbert_ft.training.checkpoints import (
    TrainerState,
    checkpoint_steps,
    newest_checkpoint,
    read_checkpoint,
    remove_all_but,
    restore_progress,
    save_checkpoint,
    save_progress,
)
from sbert_ft.training.optimizer import Optimizer, optimizer_tensors
from sbert_ft.training.run_folder import open_run_folder

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "soak"))
from watched_calls import Fail, Kill, reason_why_not, run_watched


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
    assert path == tmp_path / "step-00000120.safetensors"
    assert os.listdir(tmp_path) == [path.name]
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.path, found.step, found.state) == (path, 120, STATE)
    assert found.groups == ("optimizer", "random", "weights")
    assert found.shapes("weights") == {name: tuple(t.shape) for name, t in groups()["weights"].items()}
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


class Loop:
    """A small module with dropout, its optimizer and a scaler, which make steps as a run does."""

    def __init__(self, width: int = 4, average: Literal["ema"] | None = None) -> None:
        torch.manual_seed(width)
        self.module = torch.nn.Sequential(
            torch.nn.Linear(width, width), torch.nn.Dropout(0.5), torch.nn.Linear(width, 1)
        )
        self.optimizer = Optimizer(self.module, TrainingSettings(learning_rate=0.01, average=average))
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
        self.width = width

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.scaler.scale(self.module(torch.rand(6, self.width)).square().mean()).backward()
        self.scaler.step(self.optimizer.adamw)
        self.scaler.update()
        if self.optimizer.average is not None:
            self.optimizer.average.update()


def test_a_loop_goes_on_from_its_progress_bit_by_bit(tmp_path: Path) -> None:
    loop, progress = Loop(), TrainerState(step=3, losses_by_objective=[[0.1 + 0.2, 1.0]], best_step=1, best_value=0.5)
    for _ in range(3):
        loop.step()
    save_progress(tmp_path, progress, loop.module, loop.optimizer, loop.scaler)
    for _ in range(3):
        loop.step()
    other = Loop()
    found = restore_progress(
        read_checkpoint(tmp_path / "step-00000003.safetensors"), other.module, other.optimizer, other.scaler
    )
    assert found == progress and found.saved_step == 3
    for _ in range(3):
        other.step()
    assert_equal_bits(other.module.state_dict(), loop.module.state_dict())
    assert_equal_bits(optimizer_tensors(other.optimizer, other.module), optimizer_tensors(loop.optimizer, loop.module))
    assert other.scaler.state_dict() == loop.scaler.state_dict() and loop.scaler.get_scale() > 8


def test_an_average_goes_on_with_the_loop_and_begins_again_without_one(tmp_path: Path) -> None:
    loop, other, plain = Loop(average="ema"), Loop(average="ema"), Loop()
    for _ in range(3):
        loop.step()
        plain.step()
    assert loop.optimizer.average is not None and other.optimizer.average is not None
    saved = tmp_path / "step-00000003.safetensors"
    save_progress(tmp_path, TrainerState(step=3), loop.module, loop.optimizer, loop.scaler)
    save(tmp_path, 1)
    restore_progress(read_checkpoint(saved), other.module, other.optimizer, other.scaler, tidies=False)
    assert checkpoint_steps(tmp_path) == [1, 3]
    assert other.optimizer.average.state() == loop.optimizer.average.state()
    averages = other.optimizer.average.tensors(other.module)
    assert_equal_bits(averages, loop.optimizer.average.tensors(loop.module))
    assert not torch.equal(averages["0.weight"], other.module.state_dict()["0.weight"])

    save_progress(tmp_path, TrainerState(step=3), plain.module, plain.optimizer, plain.scaler)
    restore_progress(read_checkpoint(saved), other.module, other.optimizer, other.scaler)
    assert_equal_bits(other.optimizer.average.tensors(other.module), plain.module.state_dict())


def test_the_newest_the_one_before_and_the_best_progress_are_kept(tmp_path: Path) -> None:
    loop, progress = Loop(), TrainerState(best_step=1)
    for progress.step in (1, 2, 3, 4):
        save_progress(tmp_path, progress, loop.module, loop.optimizer, None)
    assert checkpoint_steps(tmp_path) == [1, 3, 4]
    # a run that was killed before it removed the others removes them when it goes on
    save(tmp_path, 2)
    restore_progress(read_checkpoint(tmp_path / "step-00000004.safetensors"), loop.module, loop.optimizer, None)
    assert checkpoint_steps(tmp_path) == [1, 3, 4]


@pytest.mark.parametrize("stem", ["weights", "optimizer", "random"])
def test_the_progress_of_another_model_is_refused(tmp_path: Path, stem: str) -> None:
    loop, other = Loop(), Loop(width=5)
    save_progress(tmp_path, TrainerState(step=1), loop.module, loop.optimizer, None)
    checkpoint = read_checkpoint(tmp_path / "step-00000001.safetensors")
    mixed = {name: checkpoint.read_tensors(name) for name in ("weights", "optimizer", "random")}
    if stem == "weights":
        mixed["weights"] = dict(other.module.state_dict())
    elif stem == "optimizer":
        mixed["optimizer"] = optimizer_tensors(other.optimizer, other.module)
    else:
        mixed["random"] = {"cpu": torch.zeros(3, dtype=torch.uint8)}
    save_checkpoint(tmp_path, 1, mixed, dict(checkpoint.state))
    with pytest.raises(CheckpointError, match="another model") as caught:
        restore_progress(read_checkpoint(tmp_path / "step-00000001.safetensors"), loop.module, loop.optimizer, None)
    assert "step-00000001.safetensors" in str(caught.value)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrainerState)])
@pytest.mark.parametrize("value", ["1", {}, "missing"], ids=["text", "object", "missing"])
def test_a_progress_without_a_usable_value_is_refused(name: str, value: object) -> None:
    content = dataclasses.asdict(TrainerState())
    assert TrainerState.from_json(content, Path("step-1")) == TrainerState()
    if value == "missing":
        del content[name]
    else:
        content[name] = value
    with pytest.raises(CheckpointError, match=f"step-1: its state has no usable '{name}'"):
        TrainerState.from_json(content, Path("step-1"))


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
    with open(checkpoint.path, "r+b") as file:
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


def test_a_state_that_is_too_large_to_be_read_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="save arrays as tensors"):
        save(tmp_path, 1, losses="x" * 9 * 2**20)
    assert os.listdir(tmp_path) == []


def test_a_file_of_another_name_is_not_a_checkpoint(tmp_path: Path) -> None:
    other = save(tmp_path, 1).rename(tmp_path / "best.safetensors")
    with pytest.raises(CheckpointError, match="it is not a file named step- and a number"):
        read_checkpoint(other)


@pytest.mark.parametrize(("step", "stem"), [(-1, "weights"), (10**18, "weights"), (1, "../weights"), (1, "State")])
def test_names_that_could_not_be_read_are_not_written(tmp_path: Path, step: int, stem: str) -> None:
    with pytest.raises(ValueError, match="not valid for a checkpoint"):
        save_checkpoint(tmp_path, step, {stem: {}}, {})
    assert list(tmp_path.iterdir()) == []


def test_other_libraries_read_the_tensors(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    expected = {f"{group}/{name}": t for group, its in groups(1).items() for name, t in its.items()}
    found = load_file(path)
    for tensors in (found, expected):
        del tensors["random/cpu"]  # the state moves on
    assert_equal_bits(found, expected)


def test_files_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert save(tmp_path / "checkpoints", 1).stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    assert newest_checkpoint(tmp_path / "missing") is None
    (tmp_path / "notes").mkdir()
    (tmp_path / "step-12.safetensors").write_bytes(b"another's")
    (tmp_path / "step-00000001").mkdir()
    (tmp_path / "step-00000002.safetensors").mkdir()
    assert newest_checkpoint(tmp_path) is None


def test_an_unknown_group_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(save(tmp_path, 1))
    with pytest.raises(CheckpointError, match="no tensors 'scaler'; found: optimizer, random, weights"):
        checkpoint.read_tensors("scaler")


# which is newest, which are kept


def test_the_newest_is_the_highest_step_whatever_the_clock_says(tmp_path: Path) -> None:
    times = {5: 4_070_908_800, 99_999_999: 946_684_800, 100_000_000: 946_684_801, 7: 4_070_908_801}  # 2000 and 2099
    for step, time in times.items():
        os.utime(save(tmp_path, step), (time, time))
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.step == 100_000_000


def test_all_but_the_kept_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    (tmp_path / "step-00000002.safetensors").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("a person's")
    remove_all_but(tmp_path, {3, 4})
    assert sorted(os.listdir(tmp_path)) == ["notes.txt", "step-00000003.safetensors", "step-00000004.safetensors"]
    remove_all_but(tmp_path / "missing", ())


def test_only_earlier_checkpoints_are_removed_where_that_is_asked(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, {}, {})
    remove_all_but(tmp_path, {1}, before=3)
    assert checkpoint_steps(tmp_path) == [1, 3, 4]


def test_a_link_in_a_checkpoints_place_is_removed_and_not_followed(tmp_path: Path) -> None:
    elsewhere = save(tmp_path / "elsewhere", 5)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / elsewhere.name).symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match="it is a link"):
        newest_checkpoint(tmp_path / "checkpoints")
    remove_all_but(tmp_path / "checkpoints", ())
    assert os.listdir(tmp_path / "checkpoints") == []
    assert read_checkpoint(elsewhere).step == 5


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, 3, epoch=1)
    save(tmp_path, 3, epoch=2)
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.state["epoch"] == 2
    assert os.listdir(tmp_path) == ["step-00000003.safetensors"]


def test_leftovers_are_ignored_and_removed_by_their_prefix_only(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (tmp_path / f"{PREFIX}0123456789abcdef").mkdir()
    (tmp_path / f"{PREFIX}file").write_text("half of it")
    (tmp_path / f"{PREFIX}link").symlink_to(path)
    (tmp_path / ".sbert").write_text("not ours")
    assert newest_checkpoint(tmp_path) is not None
    assert remove_leftovers(tmp_path) == 3
    assert sorted(os.listdir(tmp_path)) == [".sbert", "step-00000001.safetensors"]
    assert read_checkpoint(path).step == 1


# damage


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


def into_a_link(path: Path) -> None:
    moved = path.parent.parent / path.name
    os.rename(path, moved)
    path.symlink_to(moved)


def into_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [cut, empty, lengthen, flip, into_a_link, into_a_pipe])
def test_a_damaged_checkpoint_is_named_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "checkpoints"
    save(folder, 10)
    damage(save(folder, 20))
    with caplog.at_level(logging.WARNING, "sbert_ft"):
        found = newest_checkpoint(folder)
    assert found is not None and found.step == 10
    (warning,) = caplog.messages
    assert "step-00000020" in warning and "incomplete or damaged" in warning and "skipped" in warning
    remove_all_but(folder, {20})
    with pytest.raises(CheckpointError, match=r"no complete checkpoint: .*step-00000020.*--overwrite"):
        newest_checkpoint(folder)


def test_every_flipped_bit_is_seen(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 20, {"weights": {"w": torch.arange(3)}}, {"epoch": 1})
    content = path.read_bytes()
    for i in range(len(content)):
        for bit in (0x01, 0x20):
            data = bytearray(content)
            data[i] ^= bit
            path.write_bytes(data)
            with pytest.raises(CheckpointError):
                read_checkpoint(path)
    path.write_bytes(content)
    assert read_checkpoint(path).state == {"epoch": 1}


def test_the_checkpoint_of_another_step_is_not_taken_for_this_one(tmp_path: Path) -> None:
    path = save(tmp_path, 20)
    os.rename(path, tmp_path / "step-00000021.safetensors")
    with pytest.raises(CheckpointError, match="its header is for step '20'"):
        newest_checkpoint(tmp_path)


def test_a_file_in_place_of_all_checkpoints_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="cannot be read"):
        newest_checkpoint(tmp_path / "checkpoints")
    with pytest.raises(OutputError, match="checkpoints"):
        save(tmp_path / "checkpoints", 1)


# hostile content


def with_digest(header: bytes, data: bytes = b"") -> bytes:
    """Return the bytes of a file whose digest, where its header has a place for one, is right."""
    n_header = len(header).to_bytes(8, "little")
    digest = hashlib.sha256(n_header + header + data).hexdigest()
    return n_header + header.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + digest.encode()) + data


def header_of(**changes: Any) -> bytes:
    metadata = {"format": "2", "step": "20", "groups": "weights", "state": "{}", "sha256": "0" * 64}
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = {"__metadata__": {**metadata, **changes.pop("metadata", {})}, "weights/w": {**entry, **changes}}
    return json.dumps(header, separators=(",", ":")).encode()


HOSTILE: dict[str, bytes] = {
    "no header": b"",
    "a pickle": b"\x80\x04.",
    "a header of 2**63 bytes": b"\xff" * 64,
    "an empty header": with_digest(b"{}"),
    "no digest": with_digest(b'{"__metadata__":{"format":"2"}}'),
    "a newer format": with_digest(header_of(metadata={"format": "3"}), b"1234"),
    "another step": with_digest(header_of(metadata={"step": "21"}), b"1234"),
    "no state": with_digest(header_of(metadata={"state": ""}), b"1234"),
    "a state that is a list": with_digest(header_of(metadata={"state": "[]"}), b"1234"),
    "a state of brackets": with_digest(header_of(metadata={"state": "[" * 100_000}), b"1234"),
    "a state with NaN": with_digest(header_of(metadata={"state": '{"a": NaN}'}), b"1234"),
    "metadata that is no text": with_digest(header_of(metadata={"step": 20}), b"1234"),
    "a shape that does not fit": with_digest(header_of(shape=[9]), b"1234"),
    "a huge shape": with_digest(header_of(shape=[2**62, 4]), b"1234"),
    "data that is cut": with_digest(header_of(), b"12"),
    "an unknown dtype": with_digest(header_of(dtype="F33"), b"1234"),
}


def test_what_the_hostile_files_are_made_of_is_read_where_it_is_right(tmp_path: Path) -> None:
    path = tmp_path / "step-00000020.safetensors"
    path.write_bytes(with_digest(header_of(), b"1234"))
    assert read_checkpoint(path).read_tensors("weights")["w"].shape == (1,)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_leads_nowhere(tmp_path: Path, name: str) -> None:
    path = tmp_path / "step-00000020.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(CheckpointError, match="step-00000020"):
        read_checkpoint(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["__metadata__", "format", "step", "state", "sha256", "weights/w", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(
    content=st.binary(max_size=200)
    | json_values.map(lambda value: with_digest(json.dumps(value).encode()))
    | json_values.map(lambda value: with_digest(header_of(metadata={"state": json.dumps(value)}), b"1234"))
)
def test_any_bytes_give_a_checkpoint_or_the_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any" / "step-00000020.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    try:
        found = read_checkpoint(path)
    except CheckpointError:
        return
    assert isinstance(found.state, dict)
    assert found.read_tensors("weights")["w"].shape == (1,)


# killed, and disk full


def save_version(folder: Path, step: int, version: int) -> None:
    tensors = {"weights": {"w": torch.full((3000,), float(version))}, "random": {"r": torch.arange(40) + version}}
    save_checkpoint(folder, step, tensors, {"version": version})


def version_of(folder: Path) -> int:
    """Return the version of the newest checkpoint, whose tensors have to be of it too."""
    found = newest_checkpoint(folder)
    assert found is not None
    version: int = found.state["version"]
    assert torch.equal(found.read_tensors("weights")["w"], torch.full((3000,), float(version)))
    assert torch.equal(found.read_tensors("random")["r"], torch.arange(40) + version)
    return version


@pytest.fixture(params=["next step", "same step"])
def prepared(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], tuple[Path, Callable[[], int]]]:
    """Return what makes a folder with a checkpoint of version 1, and what writes version 2 there."""
    numbers = itertools.count()

    def prepare() -> tuple[Path, Callable[[], int]]:
        folder = tmp_path / f"case-{next(numbers)}"
        save_version(folder, 20 if request.param == "same step" else 10, 1)

        def write() -> int:
            try:
                save_version(folder, 20, 2)
                remove_all_but(folder, {20})
            except OutputError as error:
                assert folder.name in str(error)
                return 2
            return 0

        return folder, write

    return prepare


@pytest.mark.skipif(bool(reason_why_not()), reason=str(reason_why_not()))
@pytest.mark.parametrize(
    "answer",
    [Kill(), Kill(torn=True), Fail(errno.ENOSPC), Fail(errno.EIO, torn=True)],
    ids=["kill", "torn", "full", "io"],
)
def test_stopped_at_any_call_there_is_the_old_or_the_new_checkpoint(
    prepared: Callable[[], tuple[Path, Callable[[], int]]], tmp_path: Path, answer: Kill | Fail
) -> None:
    folder, write = prepared()
    whole = run_watched(write, folder, tmp_path / "said", lambda call: None, 60)
    assert whole.code == 0 and len(whole.calls) > 6
    assert {"create", "write", "sync", "rename"} <= {call.kind for call in whole.calls}
    versions = []
    for number in range(1, len(whole.calls) + 1):
        folder, write = prepared()
        ended = run_watched(
            write, folder, tmp_path / "said", lambda call, n=number: answer if call.number == n else None, 60
        )
        assert ended.code in ((-9, 0) if isinstance(answer, Kill) else (0, 2)), ended.said
        versions.append(version_of(folder))
        assert ended.code != 0 or versions[-1] == 2
        left = [name for name in os.listdir(folder) if name.startswith(PREFIX)]
        assert isinstance(answer, Kill) or not left
        remove_leftovers(folder)
        save_version(folder, 20, 3)
        remove_all_but(folder, {20})
        assert version_of(folder) == 3 and os.listdir(folder) == ["step-00000020.safetensors"]
    assert set(versions) == {1, 2}
    assert isinstance(answer, Fail) or versions == sorted(versions)


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="the system cannot limit the size of a file")
@pytest.mark.parametrize("room", [0, 10, 500, 5000, 12_000, 12_500])
def test_a_full_disk_is_an_error_that_leaves_the_old_checkpoint_and_nothing_else(tmp_path: Path, room: int) -> None:
    save_version(tmp_path, 10, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(OutputError, match="cannot be written: File too large"):
            save_version(tmp_path, 20, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["step-00000010.safetensors"] and version_of(tmp_path) == 1


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


def test_a_file_of_a_nested_save_is_named_by_its_own_path(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "inner"
    with pytest.raises(OutputError, match=str(missing)), whole_file(tmp_path / "outer") as temporary:
        temporary.write_bytes(b"outer")
        write_bytes(missing, b"inner")
    assert os.listdir(tmp_path) == []


def test_an_error_in_the_temporary_file_names_the_file_that_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught, whole_file(tmp_path / "out.npy") as temporary, writing(temporary):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.where == f"'{tmp_path / 'out.npy'}'" and PREFIX not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no folder here that cannot be synced")
def test_a_file_system_that_cannot_sync_folders_is_no_error() -> None:
    sync_folder(Path("/proc/self"))


def test_a_folder_that_is_replaced_is_noticed(tmp_path: Path) -> None:
    with open_run_folder(tmp_path / "run", "new") as folder:
        folder.check_is_there()
        folder.path.rename(tmp_path / "moved")
        with pytest.raises(OutputError, match=r"was removed, moved or unmounted .* \(No such file or directory\)"):
            folder.check_is_there()
        folder.path.mkdir()
        with pytest.raises(OutputError, match="another folder is in its place"):
            folder.check_is_there()
