"""The short form of the crash sweep: some calls of each kind in place of all, and a few random moments.

`make soak` runs it in full.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOAK = ROOT / "tests" / "soak"
MAX_SECONDS = 900  # for what takes less than one minute; one that hangs fails
EVERY_RUN = {"write", "sync", "rename", "unlink", "rmdir", "mkdir", "create", "truncate"}

sys.path.insert(0, str(SOAK))
from watched_calls import Call, Fail, Kill, reason_why_not, run_watched  # noqa: E402 (it lies in that folder)

if why_not := reason_why_not():
    pytest.skip(why_not, allow_module_level=True)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the short sweep has counted."""
    output = tmp_path_factory.mktemp("sweep") / "sweep.json"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(SOAK / "crash_sweep.py"), "--short", "--output", str(output)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=MAX_SECONDS,
    )
    assert output.exists(), done.stderr[-3000:]
    content: dict[str, Any] = json.loads(output.read_text())
    assert done.returncode == (1 if content["total"]["losses"] else 0), done.stderr[-3000:]
    return content


def test_runs_stopped_at_calls_of_every_kind_lose_nothing(
    swept: dict[str, Any], record_property: Callable[[str, object], None]
) -> None:
    total = swept["total"]
    points, stopped, losses = sum(total["points"].values()), sum(total["stopped"].values()), len(total["losses"])
    counts = f"{points} points, {stopped} processes stopped, {total['resumes']} resumes, {losses} losses"
    record_property("printed", f"crash sweep, short form: {counts} (all points: make soak)")
    assert total["losses"] == []
    for name in ("siamese", "classifier"):
        killed = swept["parts"][f"{name}: killed"]
        assert set(killed["points"]) == set(killed["stopped"]) == EVERY_RUN
        assert sum(killed["points"].values()) > 100
        assert set(swept["parts"][f"{name}: killed in a write"]["stopped"]) == {"write"}


def test_every_run_that_was_stopped_was_gone_on_with(swept: dict[str, Any]) -> None:
    for name, part in swept["parts"].items():
        if "kill" in name or "disk" in name:
            # before its config.json is there, a run is begun anew
            assert 0 < part["resumes"] <= sum(part["stopped"].values()) + part["outcomes"].get("runs", 0), name
    assert swept["parts"]["random kills"]["stopped"]["kill"] == 6


def test_a_disk_that_is_full_or_fails_is_said_in_a_sentence(swept: dict[str, Any]) -> None:
    for name in ("siamese", "classifier"):
        assert set(swept["parts"][f"{name}: disk full"]["outcomes"]) == {"refused"}
        assert swept["parts"][f"{name}: disk fails once"]["outcomes"]["refused"] > 0


def test_a_model_saved_over_another_is_the_old_the_new_or_refused(swept: dict[str, Any]) -> None:
    outcomes = swept["parts"]["saving a model"]["outcomes"]
    assert set(outcomes) == {"old", "new", "refused"}


def test_a_run_that_was_about_to_be_overwritten_is_whole_or_gone(swept: dict[str, Any]) -> None:
    assert set(swept["parts"]["overwriting a run"]["outcomes"]) == {"old", "none"}


# ---------------------------------------------------------------- the watching itself


def write_and_rename(folder: Path) -> int:
    folder.mkdir()
    (folder / "draft").write_text("twelve bytes")
    os.rename(folder / "draft", folder / "final")
    return 3


def test_calls_are_counted_and_those_elsewhere_are_not(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()

    def run() -> int:
        (tmp_path / "elsewhere" / "file").write_text("not asked about")
        return write_and_rename(tmp_path / "here")

    ended = run_watched(run, tmp_path / "here", tmp_path / "said", lambda call: None, 60)
    assert ended.code == 3 and ended.said == ""
    assert ended.calls == [
        Call(1, "mkdir", "."),
        Call(2, "create", "draft"),
        Call(3, "write", "draft"),
        Call(4, "rename", "final"),
    ]


@pytest.mark.parametrize(
    ("answer", "code", "left"),
    [
        (Kill(), -9, {"draft": ""}),
        (Kill(torn=True), -9, {"draft": "twelve"}),
        (Fail(28), 99, {"draft": ""}),
        (Fail(28, torn=True), 99, {"draft": "twelve"}),
    ],
)
def test_a_write_is_killed_refused_or_torn(
    tmp_path: Path, answer: Kill | Fail, code: int, left: dict[str, str]
) -> None:
    folder = tmp_path / "here"

    def decide(call: Call) -> Kill | Fail | None:
        return None if call.kind != "write" else answer if call.number == 3 else Fail(28)

    ended = run_watched(lambda: write_and_rename(folder), folder, tmp_path / "said", decide, 60)
    assert ended.code == code
    assert {path.name: path.read_text() for path in folder.iterdir()} == left
    assert ("No space left on device" in ended.said) == (code == 99)


def test_a_process_that_hangs_is_killed(tmp_path: Path) -> None:
    ended = run_watched(lambda: time.sleep(600) or 0, tmp_path / "here", tmp_path / "said", lambda call: None, 0.2)
    assert ended.code == -9
