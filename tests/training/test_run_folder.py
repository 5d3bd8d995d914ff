"""A run's folder: when a run may start there, what is removed, the lock, the log, and changes since the start."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sbert_ft._version import library_versions
from sbert_ft.errors import OutputError, RunFolderError, SbertFtError
from sbert_ft.files.atomic import PREFIX, write_json
from sbert_ft.files.file_lock import LOCK_NAME, locked, locked_by_name
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.training.checkpoints import newest_checkpoint, save_checkpoint
from sbert_ft.training.resume import (
    FREE_SETTINGS,
    WARNED_SETTINGS,
    check_unchanged,
    checked_fingerprint,
    differences,
    tensors_sha256,
)
from sbert_ft.training.run_folder import (
    RUN_FILES,
    RUN_FOLDERS,
    SUB_RUNS,
    Mode,
    RunFolder,
    check_run_folder,
    open_run_folder,
    remove_run,
)
from sbert_ft.training.run_log import RunLog, read_log

ROOT = Path(__file__).resolve().parents[2]
MODES: tuple[Mode, ...] = ("new", "resume", "overwrite")


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return all below `folder`: the bytes of files, None for folders."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def make_run(path: Path) -> RunFolder:
    """Write the files of a run, without the model."""
    folder = RunFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    for name in RUN_FILES:
        (path / name).write_text("{}\n")
    for step in (1, 2):
        save_checkpoint(folder.checkpoints_dir, step, {"weights": {"w": torch.zeros(3)}}, {"step": step})
    folder.tensorboard_dir.mkdir()
    (folder.tensorboard_dir / "events.out.tfevents.1.host.1.0").write_bytes(b"events")
    return folder


# when a run may start


@pytest.mark.parametrize("mode", ["new", "overwrite"])
def test_a_new_run_makes_its_folder_with_parents(tmp_path: Path, mode: Mode) -> None:
    with open_run_folder(tmp_path / "runs" / "첫 번째", mode) as folder:
        write_json(folder.config_file, {})
    assert tree(tmp_path / "runs") == {"첫 번째": None, "첫 번째/config.json": b"{}\n"}


def test_a_run_that_writes_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_run_folder(tmp_path / "run", "new"):
        raise KeyboardInterrupt
    assert tree(tmp_path) == {}
    (tmp_path / "run").mkdir()
    with open_run_folder(str(tmp_path / "run"), "new"):
        pass
    assert tree(tmp_path) == {"run": None}


def test_every_place_is_inside_the_folder_and_known(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    files = [folder.config_file, folder.ledger_file, folder.log_file, folder.metrics_file]
    places = [folder.model_dir, folder.checkpoints_dir, folder.tensorboard_dir]
    assert {p.name for p in files} <= set(RUN_FILES) and {p.name for p in places} == set(RUN_FOLDERS)
    assert {p.parent for p in files + places} == {tmp_path}


def test_a_folder_with_another_run_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    make_run(tmp_path)
    before = tree(tmp_path)
    with (
        pytest.raises(RunFolderError, match=r"another run.*--resume.*--overwrite.*output_dir"),
        open_run_folder(tmp_path, "new"),
    ):
        pass
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["thesis.odt", ".hidden", "model", "checkpoints"])
def test_a_folder_with_other_files_is_refused_by_their_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(RunFolderError, match=rf"not empty \('{name}'\).*--overwrite"), open_run_folder(tmp_path, "new"):
        pass
    assert tree(tmp_path) == {name: None}


def test_what_a_killed_process_left_does_not_make_a_folder_full(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text('{"pid": 1, "host": "x"}')
    (tmp_path / f"{PREFIX}0123").mkdir()
    (tmp_path / ".sbert-ft-model-0123456789abcdef").mkdir()
    (tmp_path / ".sbert-ft-model-0123456789abcdef" / "model.safetensors").write_bytes(b"half")
    with open_run_folder(tmp_path, "new") as folder:
        assert os.listdir(folder.path) == [LOCK_NAME]
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("content", [{}, {"metrics.json": "{}"}, {"config.json/file": ""}])
def test_only_a_run_can_be_resumed(tmp_path: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for path in (tmp_path, tmp_path / "missing"):
        before = tree(tmp_path)
        with (
            pytest.raises(RunFolderError, match=r"no run to resume: expected config\.json"),
            open_run_folder(path, "resume"),
        ):
            pass
        assert tree(tmp_path) == before


def test_resuming_changes_nothing_by_itself(tmp_path: Path) -> None:
    make_run(tmp_path)
    before = tree(tmp_path)
    for _ in range(2):
        with open_run_folder(tmp_path, "resume") as folder:
            checkpoint = newest_checkpoint(folder.checkpoints_dir)
            assert checkpoint is not None and checkpoint.step == 2
    assert tree(tmp_path) == before


def test_resuming_removes_half_written_files(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    before = tree(tmp_path)
    (folder.checkpoints_dir / f"{PREFIX}12").write_bytes(b"half")
    (tmp_path / f"{PREFIX}34").write_bytes(b"half")
    with open_run_folder(tmp_path, "resume"):
        pass
    assert tree(tmp_path) == before


def test_a_run_is_finished_when_results_reports_and_model_are_there(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    assert not folder.is_finished
    folder.model_dir.mkdir()
    (folder.model_dir / "sbert_ft.json").write_text("{}")
    assert folder.is_finished
    folder.metrics_file.unlink()
    assert not folder.is_finished


# overwriting


def test_overwriting_leaves_no_file_of_the_run(tmp_path: Path, tiny_bert_folder: Callable[..., Path]) -> None:
    folder = make_run(tmp_path / "run")
    model = SiameseBert.from_pretrained(tiny_bert_folder(tmp_path / "tiny"), device="cpu")
    model.save_pretrained(folder.model_dir)
    with open_run_folder(folder.path, "overwrite"):
        remove_run(folder)
        assert os.listdir(folder.path) == [LOCK_NAME]
    assert tree(folder.path) == {}


def test_overwriting_removes_mined_negatives_and_the_runs_of_stages(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    for name in ("negatives-1.csv", "suspects-1.csv", "negatives-x.csv"):
        (folder.path / name).write_text("anchor\n")
    make_run(folder.path / SUB_RUNS[0])
    make_run(folder.path / SUB_RUNS[1])
    (folder.path / SUB_RUNS[1] / "notes.txt").write_text("a person's")
    with open_run_folder(folder.path, "overwrite"):
        remove_run(folder)
    files = {name for name, data in tree(folder.path).items() if data is not None}
    assert files == {"negatives-x.csv", f"{SUB_RUNS[1]}/notes.txt"}
    assert not (folder.path / SUB_RUNS[0]).exists()


def test_overwriting_keeps_every_stray_file(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    (folder.model_dir / "1_Pooling").mkdir(parents=True)
    (folder.model_dir / "sbert_ft.json").write_text("{}")
    (folder.model_dir / "1_Pooling" / "config.json").write_text("{}")
    strays = [
        *("thesis.odt", "report.html.bak", "notes/config.json", "model/notes.txt", "model/1_Pooling/notes.txt"),
        *("checkpoints/notes.txt", "checkpoints/step-00000001/notes.txt", "checkpoints/step-12.safetensors"),
        "tensorboard/notes.txt",
    ]
    for name in strays:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a person's")
    with open_run_folder(tmp_path, "overwrite") as folder:
        remove_run(folder)
    files = {name for name, data in tree(tmp_path).items() if data is not None}
    assert files == set(strays)
    assert newest_checkpoint(folder.checkpoints_dir) is None
    assert not (folder.checkpoints_dir / "step-00000002.safetensors").exists()


def test_overwriting_follows_no_link(tmp_path: Path) -> None:
    elsewhere = make_run(tmp_path / "elsewhere")
    elsewhere.model_dir.mkdir()
    (elsewhere.model_dir / "sbert_ft.json").write_text("{}")
    before = tree(elsewhere.path)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("config.json", "fingerprint.json", "metrics.json", "model", "tensorboard"):
        (run / name).symlink_to(elsewhere.path / name)
    (run / "checkpoints" / "step-00000001.safetensors").symlink_to(
        elsewhere.checkpoints_dir / "step-00000001.safetensors"
    )
    with open_run_folder(run, "overwrite") as folder:
        remove_run(folder)
    assert tree(elsewhere.path) == before
    assert sorted(os.listdir(run)) == ["model", "tensorboard"]


def test_a_run_half_removed_is_not_resumed(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "config.json").unlink()  # the first to go
    with pytest.raises(RunFolderError, match="no run to resume"), open_run_folder(tmp_path, "resume"):
        pass


# unusable places


@pytest.mark.parametrize("mode", MODES)
def test_a_place_that_is_no_folder_is_refused(tmp_path: Path, mode: Mode) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    before = os.listdir(tmp_path)
    for name in ("file", "nowhere", "loop", "pipe", "file/inner", "nul\0", "x" * 300):
        with pytest.raises(SbertFtError), open_run_folder(tmp_path / name, mode):
            pass
    assert os.listdir(tmp_path) == before


def test_a_link_to_a_folder_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "large disk")
    with open_run_folder(tmp_path / "run", "new") as folder:
        write_json(folder.config_file, {})
    assert tree(tmp_path / "large disk") == {"config.json": b"{}\n"}


READ_ONLY = """
import os, sys
from sbert_ft.errors import OutputError
from sbert_ft.training.run_folder import open_run_folder
if os.geteuid() == 0:
    os.seteuid(65534)  # root may write everywhere
for path, mode in ((sys.argv[1], "new"), (sys.argv[1] + "/inner", "new"), (sys.argv[1], "overwrite")):
    try:
        with open_run_folder(path, mode):
            print("begun")
    except OutputError as error:
        print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="a folder's mode does not keep anyone out there")
def test_a_folder_that_may_not_be_written_is_refused_before_anything_starts() -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own are closed to others
        os.chmod(place, 0o755)
        folder = Path(place) / "read only"
        folder.mkdir()
        os.chmod(folder, 0o555)
        result = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert result.stdout.count("read only") == result.stdout.count("Permission denied") == 3, result
        assert tree(folder) == {}
        os.chmod(folder, 0o755)


# one process at a time


HOLDER = """
import sys, time
from sbert_ft.training.run_folder import open_run_folder
with open_run_folder(sys.argv[1], sys.argv[2]) as folder:
    folder.config_file.write_text('{"output_dir": "run"}')
    print("begun", flush=True)
    time.sleep(600)
"""


@contextmanager
def other_process(folder: Path, mode: Mode) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds the folder until it is killed."""
    command = [sys.executable, "-c", HOLDER, str(folder), mode]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "begun\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_until_the_first_is_gone_however_it_ends(tmp_path: Path) -> None:
    with other_process(tmp_path, "new") as process:
        for mode in ("resume", "overwrite"):
            who = rf"in use by process {process.pid} on {socket.gethostname()} since 20.*output_dir"
            with pytest.raises(RunFolderError, match=who), open_run_folder(tmp_path, mode):
                pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / LOCK_NAME).exists()
        with open_run_folder(tmp_path, "resume"):
            owner = json.loads((tmp_path / LOCK_NAME).read_bytes())
            assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
    assert tree(tmp_path) == {"config.json": b'{"output_dir": "run"}'}


def test_a_folder_is_held_within_a_process_too_and_freed_by_exceptions(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), open_run_folder(tmp_path, "new"):
            with pytest.raises(RunFolderError, match="in use by process"), open_run_folder(tmp_path, "new"):
                pass
            raise KeyboardInterrupt
    assert tree(tmp_path) == {}


def test_a_folder_that_vanishes_is_let_go(tmp_path: Path) -> None:
    with open_run_folder(tmp_path / "run", "new"):
        shutil.rmtree(tmp_path / "run")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff" * 10_000, b'{"pid": "\\u001b[31m"}', b'{"pid": 1}'])
def test_what_a_lock_says_does_not_keep_a_folder(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LOCK_NAME).write_bytes(content)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK_NAME).read_bytes())["pid"] == os.getpid()


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_a_lock_that_is_no_file_is_an_error(tmp_path: Path, kind: str) -> None:
    lock, elsewhere = tmp_path / LOCK_NAME, tmp_path / "elsewhere"
    elsewhere.write_text("a person's")
    if kind == "link":
        lock.symlink_to(elsewhere)
    else:
        (os.mkdir if kind == "folder" else os.mkfifo)(lock)
    with pytest.raises(OutputError, match=r"\.lock"), locked(tmp_path):
        pass
    assert elsewhere.read_text() == "a person's"


def test_of_many_who_come_at_once_one_at_a_time_gets_in(tmp_path: Path) -> None:
    inside, most, entered = [0], [0], [0]

    def come_and_go() -> None:
        mine = 0
        while mine < 25:
            try:
                with locked(tmp_path):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    time.sleep(0)
                    mine, entered[0] = mine + 1, entered[0] + 1
                    inside[0] -= 1
            except RunFolderError:
                continue

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(come_and_go) for _ in range(4)]:
            done.result()
    assert (most, entered, os.listdir(tmp_path)) == ([1], [100], [])


@pytest.mark.skipif(os.name == "nt", reason="the system has no such locks at all")
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_on_a_file_system_without_locks_the_file_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path):
        with pytest.raises(RunFolderError, match=f"in use by process {os.getpid()}"), locked(tmp_path):
            pass
        assert os.listdir(tmp_path) == [LOCK_NAME]
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="the system has no such locks at all")
def test_a_lock_that_fails_otherwise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.raises(OutputError, match=r"\.lock.*I/O|\.lock.*Input/output"), locked(tmp_path):
        pass


def dead_process() -> int:
    """Return the id of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def test_without_locks_of_the_system_the_file_is_the_lock(tmp_path: Path) -> None:
    path = tmp_path / LOCK_NAME
    with locked_by_name(path):
        with pytest.raises(RunFolderError, match=f"in use by process {os.getpid()} on"), locked_by_name(path):
            pass
        assert os.listdir(tmp_path) == [LOCK_NAME]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("host", [socket.gethostname(), "another-computer"])
def test_a_lock_by_name_is_stale_when_its_process_is_gone_from_here(tmp_path: Path, host: str) -> None:
    path = tmp_path / LOCK_NAME
    path.write_text(json.dumps({"pid": dead_process(), "host": host, "started": "yesterday"}))
    if host == socket.gethostname():
        with locked_by_name(path):
            assert json.loads(path.read_bytes())["pid"] == os.getpid()
        return
    with (
        pytest.raises(RunFolderError, match=r"on another-computer since yesterday.*delete \.lock"),
        locked_by_name(path),
    ):
        pass


@pytest.mark.parametrize("pid", ["1", -1, 0, 2**40, None, True])
def test_a_lock_by_name_that_says_nonsense_is_held(tmp_path: Path, pid: object) -> None:
    path = tmp_path / LOCK_NAME
    path.write_text(json.dumps({"pid": pid, "host": socket.gethostname()}))
    with pytest.raises(RunFolderError, match="in use"), locked_by_name(path):
        pass


# the log


def test_a_log_reads_back_as_it_was_written(tmp_path: Path) -> None:
    records = [
        {"kind": "train", "step": 1, "loss": 0.1 + 0.2},
        {"kind": "eval", "metrics": {"spearman": None}, "t": "é\n"},
    ]
    with RunLog(tmp_path / "metrics.jsonl") as log:
        for record in records:
            log.append(record)
            assert read_log(log.path)[-1] == record  # at once
        log.sync()
    with RunLog(tmp_path / "metrics.jsonl") as log:
        log.append({"step": 3})
    log.close()
    assert read_log(tmp_path / "metrics.jsonl") == [*records, {"step": 3}]
    assert read_log(tmp_path / "missing") == []


def test_what_is_no_number_is_null_in_a_log(tmp_path: Path) -> None:
    with RunLog(tmp_path / "log") as log:
        log.append({"loss": math.nan, "metrics": {"a": -math.inf, "b": [math.inf, 1.5]}})
    assert read_log(tmp_path / "log") == [{"loss": None, "metrics": {"a": None, "b": [None, 1.5]}}]


def test_a_resumed_run_takes_back_later_lines_and_its_log_is_one_curve(tmp_path: Path) -> None:
    unbroken = [{"kind": "train", "step": step, "loss": 1 / step} for step in range(1, 11)]
    with RunLog(tmp_path / "log") as log:
        log.append({"kind": "eval", "step": 0})
        log.append({"kind": "note"})
        for record in unbroken[:7]:
            log.append(record)
    with RunLog(tmp_path / "log", after_step=4) as log:
        assert len(read_log(log.path)) == 6
        for record in unbroken[4:]:
            log.append(record)
    assert read_log(tmp_path / "log") == [{"kind": "eval", "step": 0}, {"kind": "note"}, *unbroken]
    assert os.listdir(tmp_path) == ["log"]


@pytest.mark.parametrize("tail", [b'{"step": 3, "lo', b"\0" * 5000, '{"text": "é'.encode()[:-1], b"}"])
def test_a_last_line_cut_off_is_dropped_and_never_glued_to_the_next(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + tail)
    assert read_log(path) == [{"step": 1}, {"step": 2}]
    with RunLog(path) as log:
        log.append({"step": 3})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_broken_lines_are_named_passed_over_and_gone_after_a_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"step": 1}\nhello\n[1]\n\xff\n{"step": NaN}\n{"step": 2}\n')
    with caplog.at_level(logging.WARNING, "sbert_ft"):
        assert read_log(path) == [{"step": 1}, {"step": 2}]
    assert "4 lines" in caplog.text and "first line 2" in caplog.text
    RunLog(path, after_step=2).close()
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


FULL_LOG = """
import resource, sys
from pathlib import Path
from sbert_ft.errors import OutputError
from sbert_ft.training.run_log import RunLog
log = RunLog(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    for step in range(1000):
        log.append({"step": step})
except OutputError as error:
    print(step, error)
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no limit to a file's size to be set there")
def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    command = [sys.executable, "-c", FULL_LOG, str(path)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert "metrics.jsonl" in said and "too large" in said
    assert [record["step"] for record in read_log(path)] == list(range(int(said.split()[0])))
    assert path.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_a_log_that_is_no_file_is_an_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "log"
    if kind == "link":
        path.symlink_to(tmp_path / "missing")
    else:
        (os.mkdir if kind == "folder" else os.mkfifo)(path)
    with pytest.raises(RunFolderError, match="log"):
        read_log(path)
    with pytest.raises(OutputError, match="log"):
        RunLog(path)
    assert not (tmp_path / "missing").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=100), step=st.integers(-1, 3))
def test_any_bytes_as_a_log_are_read_and_mended(tmp_path: Path, content: bytes, step: int) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"step": 1}\n' + content)
    before = read_log(path)
    with RunLog(path, after_step=step) as log:
        log.append({"step": 9})
    assert read_log(path) == [r for r in before if not (isinstance(r.get("step"), int) and r["step"] > step)] + [
        {"step": 9}
    ]


# what has changed


SETTINGS: dict[str, Any] = {
    "model": {"path": "bert/", "max_seq_length": None},
    "data": {"train": "a.csv", "dev": None, "label_values": {"entailment": 1.0}},
    "objective": [{"name": "cosine", "weight": 1.0}],
    "training": {"learning_rate": 2e-5, "logging_steps": 10, "tensorboard": False, "micro_batch_size": None},
    "output_dir": "runs/first",
}
DATA = {"train": {"source": "a.csv", "sha256": "ab" * 32, "n": 5749}}


def fingerprint(**changes: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "settings": SETTINGS,
        "data": DATA,
        "model": {"weights": "01" * 32},
        "versions": {"torch": "2.13.0"},
        "device": "cpu (2 threads)",
    }
    return {**parts, **changes}


def with_setting(path: str, value: object) -> dict[str, Any]:
    """Return the fingerprint with one setting changed."""
    changed = json.loads(json.dumps(SETTINGS))
    *sections, name = path.split(".")
    place = changed
    for section in sections:
        place = place[int(section) if isinstance(place, list) else section]
    place[name] = value
    return fingerprint(settings=changed)


def test_a_fingerprint_survives_the_disk(tmp_path: Path) -> None:
    print_ = fingerprint(
        settings={**SETTINGS, "objective": [{"name": "cosine", "weight": 1}]}, versions=library_versions()
    )
    write_json(tmp_path / "f.json", print_)
    again = checked_fingerprint(json.loads((tmp_path / "f.json").read_text()), tmp_path / "f.json")
    assert differences(again, print_) == []
    assert check_unchanged(again, print_) == []
    assert {"sbert_ft", "python", "torch", "transformers"} <= set(again["versions"])


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("training.learning_rate", 3e-5, "training.learning_rate was 2e-05, is 3e-05"),
        ("model.max_seq_length", 64, "model.max_seq_length was null, is 64"),
        ("training.seed", 1, "training.seed was absent, is 1"),
        ("training.micro_batch_size", True, None),
        ("objective.0.name", "cosent", "objective.0.name was 'cosine', is 'cosent'"),
        ("objective", [], "objective.0.name was 'cosine', is absent"),
        ("data.label_values", {"entailment": 1.0, "neutral": 0.5}, "data.label_values.neutral was absent, is 0.5"),
        ("data.dev", "dev.csv", "data.dev was null, is 'dev.csv'"),
    ],
)
def test_each_changed_setting_is_named_and_refused(path: str, value: object, said: str | None) -> None:
    now = with_setting(path, value)
    if said is None:
        assert path in WARNED_SETTINGS and path in check_unchanged(fingerprint(), now)[0]
        return
    with pytest.raises(RunFolderError, match="--allow-changes") as error:
        check_unchanged(fingerprint(), now)
    assert said in str(error.value)
    assert any(said in warning for warning in check_unchanged(fingerprint(), now, allow_changes=True))


def test_equal_numbers_are_no_change_but_true_is_not_one() -> None:
    assert differences(fingerprint(), with_setting("objective.0.weight", 1)) == []
    assert differences(fingerprint(), with_setting("objective.0.weight", True)) != []


@pytest.mark.parametrize("path", FREE_SETTINGS)
def test_what_changes_no_result_may_change(path: str) -> None:
    assert check_unchanged(fingerprint(), with_setting(path, "other")) == []


def test_moved_files_of_the_same_content_are_the_same_data() -> None:
    now = json.loads(json.dumps(SETTINGS))
    now["data"]["train"], now["model"]["path"] = "b.csv", "elsewhere/"
    moved = fingerprint(settings=now, data={"train": {**DATA["train"], "source": "b.csv"}})
    assert [difference.weight for difference in differences(fingerprint(), moved)] == ["free"] * 3
    assert check_unchanged(fingerprint(), moved) == []
    unknown = {"model": {}, "data": {}}
    with pytest.raises(RunFolderError, match=r"model\.path was .*data\.train was"):
        check_unchanged(fingerprint(**unknown), fingerprint(settings=now, **unknown))


def test_changed_data_and_weights_are_all_named_at_once() -> None:
    data = {
        "train": {**DATA["train"], "sha256": "cd" * 32, "n": 5748},
        "dev": {"source": "d", "sha256": "ef" * 32, "n": 3},
    }
    now = fingerprint(data=data, model={"weights": "02" * 32})
    with pytest.raises(RunFolderError) as error:
        check_unchanged(fingerprint(), now)
    for said in (
        "data.train.sha256 was 'abababababab…', is 'cdcdcdcdcdcd…'",
        "data.train.n was 5749, is 5748",
        "data.dev.sha256 was absent",
        "model.weights was '010101010101…', is '020202020202…'",
    ):
        assert said in str(error.value)
    assert "source" not in str(error.value)


def test_other_versions_and_devices_are_warnings() -> None:
    now = fingerprint(versions={"torch": "2.14.0"}, device="cuda:0 (H200)")
    assert check_unchanged(fingerprint(), now) == [
        "since the run began: versions.torch was '2.13.0', is '2.14.0'",
        "since the run began: device was 'cpu (2 threads)', is 'cuda:0 (H200)'",
    ]


def test_a_message_cannot_drive_a_terminal() -> None:
    now = fingerprint(settings={**SETTINGS, "a\x1b[31m": "b\x1b[0m\n"})
    with pytest.raises(RunFolderError) as error:
        check_unchanged(fingerprint(), now)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("value", [None, [], {}, {"settings": {}}, {**fingerprint(), "device": 1}, {"x": 1}])
def test_what_is_no_fingerprint_is_an_error(value: object, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"state\.json"):
        checked_fingerprint(value, tmp_path / "state.json")


def test_the_sha256_of_tensors_sees_names_types_shapes_and_values() -> None:
    base = {"a": torch.arange(6.0), "b": torch.tensor(True), "c": torch.zeros(0, 2), "d": torch.ones(3).bfloat16()}
    others = [
        {**base, "a": torch.arange(6.0).reshape(2, 3)},
        {**base, "a": torch.arange(6)},
        {**base, "a": torch.tensor([0.0, 1, 2, 3, 4, 6])},
        {**base, "c": torch.zeros(2, 0)},
        {("x" if name == "a" else name): tensor for name, tensor in base.items()},
        {name: tensor for name, tensor in base.items() if name != "b"},
    ]
    assert tensors_sha256(base) == tensors_sha256(dict(reversed(base.items())))
    assert tensors_sha256(base) == tensors_sha256({**base, "a": torch.arange(12.0)[:6].clone()})
    assert len({tensors_sha256(tensors) for tensors in (base, *others)}) == 7


@pytest.mark.parametrize("mode", ["resume", "overwrite"])
@pytest.mark.parametrize("content", ['{"model_type": "bert"}', "{", "[]"], ids=["a model's", "broken", "an array"])
def test_a_folder_whose_config_is_not_from_a_run_is_refused_and_stays(tmp_path: Path, mode: Mode, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(RunFolderError, match=r"config\.json in .* is not from a run; it may belong to a model"):
        check_run_folder(RunFolder(tmp_path), mode)
    assert (tmp_path / "config.json").read_text() == content and len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize("mode", ["resume", "overwrite"])
def test_a_run_that_was_stopped_before_its_fingerprint_is_known_by_its_config(tmp_path: Path, mode: Mode) -> None:
    (tmp_path / "config.json").write_text('{"output_dir": "run"}')
    check_run_folder(RunFolder(tmp_path), mode)


def test_a_full_disk_leaves_the_log_s_complete_lines(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    was = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with RunLog(tmp_path / "metrics.jsonl") as log:
        log.append({"kind": "train", "step": 1})
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
            with pytest.raises(OutputError, match=r"metrics\.jsonl"):
                log.append({"kind": "train", "step": 2, "text": "x" * 200})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, was)
        log.append({"kind": "train", "step": 3})
    assert [record["step"] for record in read_log(tmp_path / "metrics.jsonl")] == [1, 3]
