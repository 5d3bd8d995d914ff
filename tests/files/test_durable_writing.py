"""Files and folders are put in place whole: what a failed call, a dead process or a second process leaves behind."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sbert_ft.errors import OutputError, RunFolderError
from sbert_ft.files.atomic import (
    PREFIX,
    make_folder,
    open_regular,
    probe_writing,
    put_in_place,
    remove_leftovers,
    staged_beside,
    sync_folder,
    whole_file,
    write_bytes,
)
from sbert_ft.files.file_lock import held, locked, remove_unheld, whole_held_file
from sbert_ft.training.checkpoints import checkpoint_steps

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it has no such locks, and no fsync of folders")

OLD = {**dict.fromkeys(("config.json", "1_Pooling/config.json", "2_Normalize/config.json"), "old"), "notes.txt": "own"}
NEW = {"config.json": "new", "1_Pooling/config.json": "new", "3_Dense/config.json": "new", "vocab.txt": "new"}
OBSOLETE = ("2_Normalize/config.json", "modules.json")


def write_files(folder: Path, contents: dict[str, str]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, "utf-8")
    return folder


def files_in(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()
    }


def failing_at(n: int, function: Callable[..., Any], code: int = errno.EIO) -> Callable[..., Any]:
    """Return the function, whose call number n (from 0) fails once."""
    calls = iter(range(1_000))

    def call(*args: Any, **options: Any) -> Any:
        if next(calls) == n:
            raise OSError(code, os.strerror(code))
        return function(*args, **options)

    return call


# a model's folder


def test_a_folder_over_another_keeps_a_persons_files(tmp_path: Path) -> None:
    target = write_files(tmp_path / "model", OLD)
    with staged_beside(target) as staging:
        put_in_place(write_files(staging, NEW), target, OBSOLETE)
    assert files_in(target) == {**NEW, "notes.txt": "own"}
    assert os.listdir(tmp_path) == ["model"] and not (target / "2_Normalize").exists()


@pytest.mark.parametrize("n", range(7))
def test_whichever_move_fails_the_old_folder_is_there_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    target = write_files(tmp_path / "model", OLD)
    with staged_beside(target) as staging:
        write_files(staging, NEW)
        monkeypatch.setattr(os, "rename", failing_at(n, os.rename))
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            put_in_place(staging, target, OBSOLETE)
    assert files_in(target) == OLD
    assert os.listdir(tmp_path) == ["model"] and not (target / "3_Dense").exists()


def test_a_new_folder_whose_move_fails_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with staged_beside(tmp_path / "model") as staging:
        write_files(staging, NEW)
        monkeypatch.setattr(os, "rename", failing_at(0, os.rename))
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            put_in_place(staging, tmp_path / "model")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name, inner", [("config.json", False), ("1_Pooling", True)])
def test_a_folder_for_a_file_and_a_file_for_a_folder_are_refused_untouched(
    tmp_path: Path, name: str, inner: bool
) -> None:
    target = write_files(tmp_path / "model", {"notes.txt": "own"})
    (target / name).touch() if inner else (target / name).mkdir()
    with staged_beside(target) as staging, pytest.raises(OutputError, match=f"{name}' is a f"):
        put_in_place(write_files(staging, NEW), target)
    assert sorted(os.listdir(target)) == sorted(["notes.txt", name])


def left_by_a_dead_process(parent: Path) -> None:
    """Stage a folder in a process that ends at once, without a chance to tidy up."""
    code = "import os, sys; from pathlib import Path; from sbert_ft.files.atomic import staged_beside\n"
    code += "with staged_beside(Path(sys.argv[1]) / 'model') as staging:\n"
    code += "    (staging / 'config.json').touch(); (staging.parent / 'replaced').mkdir(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code, str(parent)], check=True)


def test_only_what_no_process_holds_is_removed_beside_a_folder(tmp_path: Path) -> None:
    left_by_a_dead_process(tmp_path)
    assert len(os.listdir(tmp_path)) == 1
    never_locked = tmp_path / f".sbert-ft-model-{'0' * 16}"
    never_locked.mkdir()
    not_ours = tmp_path / f".sbert-ft-model-{'1' * 16}"
    not_ours.mkdir()
    (not_ours / "lock").symlink_to(tmp_path)
    with staged_beside(tmp_path / "first") as first:
        with staged_beside(tmp_path / "second") as second:
            assert sorted(os.listdir(tmp_path)) == sorted([not_ours.name, first.parent.name, second.parent.name])
        assert first.is_dir() and not second.exists()
    assert os.listdir(tmp_path) == [not_ours.name]


def test_a_staging_folder_without_a_lock_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", failing_at(0, os.open, errno.EMFILE))
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)), staged_beside(tmp_path / "model"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_staging_folder_that_another_process_takes_for_abandoned_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", failing_at(0, os.open, errno.ENOENT))
    with staged_beside(tmp_path / "model") as staging:
        assert staging.is_dir() and (staging.parent / "lock").is_file()


# single files and folders


def test_a_sync_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing_at(0, os.fsync))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        sync_folder(tmp_path)


def test_a_file_keeps_its_permissions_and_a_new_folder_has_its_parents(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    path = tmp_path / "a" / "b" / "file"
    path.touch(0o640)
    path.chmod(0o640)
    write_bytes(path, b"content")
    assert path.stat().st_mode & 0o777 == 0o640 and path.read_bytes() == b"content"


def test_a_leftover_that_cannot_be_deleted_is_said_and_the_others_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / f"{PREFIX}folder").mkdir()
    (tmp_path / f"{PREFIX}file").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path)
    monkeypatch.setattr("shutil.rmtree", failing_at(0, lambda path: None, errno.EBUSY))
    with caplog.at_level(logging.WARNING):
        assert remove_leftovers(tmp_path) == 3
    assert os.listdir(tmp_path) == [f"{PREFIX}folder"]
    assert "is no longer needed and cannot be deleted" in caplog.text


def test_a_probe_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe_writing(tmp_path)
    with pytest.raises(OutputError, match="missing"):
        probe_writing(tmp_path / "missing")
    monkeypatch.setattr(os, "fsync", failing_at(0, os.fsync, errno.ENOSPC))
    with pytest.raises(OutputError, match=os.strerror(errno.ENOSPC)):
        probe_writing(tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_is_not_a_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "pipe")


def test_checkpoints_in_a_place_that_is_no_folder_have_no_steps(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    assert checkpoint_steps(tmp_path / "checkpoints") == []


# files that are held


def test_a_held_file_stays_and_others_go(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}left").touch()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path)
    (tmp_path / "a person's").touch()
    with whole_held_file(tmp_path / "out") as temporary:
        temporary.write_bytes(b"content")
        remove_unheld(tmp_path)
        assert sorted(os.listdir(tmp_path)) == sorted([temporary.name, f"{PREFIX}link", "a person's"])
    assert (tmp_path / "out").read_bytes() == b"content"


def test_a_file_that_is_removed_before_it_is_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"{PREFIX}file"
    real, calls = os.open, iter(range(1_000))

    def open_and_lose(*args: Any, **options: Any) -> int:
        descriptor = real(*args, **options)
        if next(calls) == 0:
            path.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", open_and_lose)
    with held(path):
        assert path.is_file()


def test_without_locks_of_the_system_a_file_is_held_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with held(tmp_path / f"{PREFIX}file"):
        remove_unheld(tmp_path)  # it cannot tell, so the file stays
        assert os.listdir(tmp_path) == [f"{PREFIX}file"]


def test_a_lock_that_cannot_be_read_is_held(tmp_path: Path) -> None:
    from sbert_ft.files.file_lock import LOCK_NAME, locked_by_name

    (tmp_path / LOCK_NAME).mkdir()
    with pytest.raises((RunFolderError, OutputError)), locked_by_name(tmp_path / LOCK_NAME):
        pass
    (tmp_path / LOCK_NAME).rmdir()
    with locked(tmp_path):
        pass


def test_an_error_of_another_file_keeps_its_own_name(tmp_path: Path) -> None:
    other = OutputError("cannot be written", where="'elsewhere'")
    with pytest.raises(OutputError) as caught, whole_file(tmp_path / "out"):
        raise other
    assert caught.value is other and os.listdir(tmp_path) == []
