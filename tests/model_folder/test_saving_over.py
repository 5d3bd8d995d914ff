"""Saving a model over existing files: obstacles are refused first, errors restore all, abandoned files are removed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sbert_ft.errors import ModelFolderError, OutputError
from sbert_ft.files.atomic import make_folder, put_in_place, staged_beside, sync_folder
from sbert_ft.models.siamese import SiameseBert

HELD = """
import sys
from pathlib import Path
from sbert_ft.files.atomic import staged_beside
with staged_beside(Path(sys.argv[1])) as folder:
    (folder / "config.json").write_text("{}")
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Callable[..., Path]) -> SiameseBert:
    folder = tiny_bert_folder(tmp_path_factory.mktemp("bert") / "model", hidden_size=16, safetensors=True)
    return SiameseBert.from_pretrained(folder, "cpu", "float32")


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return everything below `folder` by path: the bytes of files, None for folders."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def put(target: Path, files: dict[str, str], obsolete: tuple[str, ...] = ()) -> None:
    with staged_beside(target) as staging:
        for name, text in files.items():
            (staging / name).parent.mkdir(exist_ok=True)
            (staging / name).write_text(text)
        put_in_place(staging, target, obsolete)


@pytest.mark.parametrize("name", ["vocab.txt", "config.json", "modules.json", "sbert_ft.json", "1_Pooling/config.json"])
def test_a_persons_folder_in_the_place_of_a_file_is_refused_before_anything_is_changed(
    model: SiameseBert, tmp_path: Path, name: str
) -> None:
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    (tmp_path / "model" / name).mkdir()
    (tmp_path / "model" / name / "thesis.txt").write_text("a year's work")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"is a folder; expected a file of a model"):
        model.save_pretrained(tmp_path / "model")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("is_link", [False, True])
def test_nothing_is_written_behind_a_link_in_the_folder(model: SiameseBert, tmp_path: Path, is_link: bool) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text("a person's")
    if is_link:
        (tmp_path / "model" / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    else:
        (tmp_path / "model" / "1_Pooling").write_text("a person's")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"1_Pooling' is a file or a link; expected a folder"):
        model.save_pretrained(tmp_path / "model")
    assert tree(tmp_path) == before


def test_a_link_to_a_file_is_replaced_and_not_what_it_leads_to(model: SiameseBert, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "blob").write_text("shared by other models")
    (tmp_path / "model" / "vocab.txt").symlink_to(tmp_path / "blob")
    model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "blob").read_text() == "shared by other models"
    assert not (tmp_path / "model" / "vocab.txt").is_symlink()


def test_a_persons_files_in_a_folder_that_is_no_longer_wanted_stay(tmp_path: Path) -> None:
    put(tmp_path / "model", {"config.json": "old", "2_Normalize/config.json": "old", "1_Pooling/config.json": "old"})
    (tmp_path / "model" / "2_Normalize" / "notes.txt").write_text("mine")
    put(tmp_path / "model", {"config.json": "new"}, ("2_Normalize/config.json", "1_Pooling/config.json"))
    assert tree(tmp_path) == {
        "model": None,
        "model/config.json": b"new",
        "model/2_Normalize": None,
        "model/2_Normalize/notes.txt": b"mine",
    }


def test_an_interruption_on_the_way_puts_all_of_the_old_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {"config.json": "old", "modules.json": "old", "vocab.txt": "old", "1_Pooling/config.json": "old"}
    put(tmp_path / "model", old)
    before, rename = tree(tmp_path), os.rename
    for nth in range(1, 8):  # four are taken away, three put there
        left = iter(range(nth - 1))

        def interrupted(source: Path, place: Path, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                monkeypatch.undo()
                raise KeyboardInterrupt
            rename(source, place)

        monkeypatch.setattr(os, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            put(tmp_path / "model", {"config.json": "new", "vocab.txt": "new", "head": "new"}, tuple(old))
        assert tree(tmp_path) == before
    put(tmp_path / "model", {"config.json": "new", "vocab.txt": "new", "head": "new"}, tuple(old))
    assert tree(tmp_path / "model") == {"config.json": b"new", "head": b"new", "vocab.txt": b"new"}


def test_a_folder_without_its_config_is_refused_whatever_else_is_in_it(model: SiameseBert, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(ModelFolderError, match=r"has no config\.json"):
        SiameseBert.from_pretrained(tmp_path / "model")


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that is about to save beside `tmp_path / "model"`."""
    with subprocess.Popen(
        [sys.executable, "-c", HELD, str(tmp_path / "model")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        yield process
        process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no locks that end with their holder")
def test_what_a_killed_process_left_goes_and_what_one_at_work_has_stays(
    tmp_path: Path, holder: subprocess.Popen[bytes]
) -> None:
    (tmp_path / ".sbert-ft-model-mine").mkdir()  # not a name that we give
    (tmp_path / ".sbert-ft-model-00000000000000ff").mkdir()  # killed before it had a lock
    theirs = {name for name in tree(tmp_path) if name.endswith("config.json")}
    assert len(theirs) == 1
    put(tmp_path / "model", {"config.json": "ours"})
    assert {name for name in tree(tmp_path) if name.endswith("config.json")} == {*theirs, "model/config.json"}
    holder.kill()
    holder.wait()
    put(tmp_path / "model", {"config.json": "ours"})
    assert sorted(tree(tmp_path)) == [".sbert-ft-model-mine", "model", "model/config.json"]


def test_folders_are_made_with_those_above_them_and_twice_is_once(tmp_path: Path) -> None:
    for _ in range(2):
        make_folder(tmp_path / "one" / "two" / "three")
        assert list(tree(tmp_path)) == ["one", "one/two", "one/two/three"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        make_folder(tmp_path / "file" / "folder")


@pytest.mark.parametrize(("number", "is_raised"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synced_is_no_error_and_a_disk_that_fails_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_raised: bool
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(number)) if is_raised else contextlib.nullcontext():
        sync_folder(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such locks")
@pytest.mark.parametrize("before", ["the lock is there", "the lock is held"])
def test_a_new_folder_that_another_process_removes_as_abandoned_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    import fcntl

    removed: list[Path] = []

    def remove_once() -> None:
        if not removed:
            removed.extend(tmp_path.glob(".sbert-ft-model-*"))
            shutil.rmtree(removed[0])

    open_file, lock_file = os.open, fcntl.flock

    def opened(path: Any, *options: Any, **more: Any) -> int:
        if before == "the lock is there" and Path(path).name == "lock":
            remove_once()
        return open_file(path, *options, **more)

    def locked(descriptor: int, operation: int) -> None:
        if before == "the lock is held":
            remove_once()
        lock_file(descriptor, operation)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(fcntl, "flock", locked)
    put(tmp_path / "model", {"config.json": "{}"})
    assert len(removed) == 1
    assert tree(tmp_path) == {"model": None, "model/config.json": b"{}"}


def test_a_lock_that_cannot_be_made_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_file = os.open

    def opened(path: Any, *options: Any, **more: Any) -> int:
        if Path(path).name == "lock":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return open_file(path, *options, **more)

    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(OSError, match="No space left"):
        put(tmp_path / "model", {"config.json": "{}"})
    assert tree(tmp_path) == {}
