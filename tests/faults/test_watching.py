"""What the tests of bad inputs rely on: a watched run's programs, connections, pickles and changes are noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_inputs.judging import Judge, Outcome, assert_harmless, command
from warm import WarmProcess


@pytest.fixture
def sandbox(tmp_path: Path) -> Path:
    (tmp_path / "sandbox").mkdir()
    return tmp_path / "sandbox"


def outcome_of(warm: WarmProcess, sandbox: Path, code: str) -> Outcome:
    (outcome,) = Judge(warm, sandbox.parent).each([("script", {"code": code, "argv": []})], sandbox)
    return outcome


@pytest.mark.parametrize(
    ("code", "noted"),
    [
        ("import os; os.system('true')", "os.system"),
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
        ("import socket; socket.socket().connect_ex(('127.0.0.1', 9))", "socket.connect"),
        ("import pickle; pickle.loads(b'cos\\nsystem\\n.')", "pickle.find_class"),
        ("open('../outside', 'w')", "open for writing '../outside'"),
        ("import os; os.mkdir('../outside')", "os.mkdir '../outside'"),
        (
            "open('odd_module.py', 'w').close(); import sys; sys.path.insert(0, '.'); import odd_module",
            "import odd_mod",
        ),
    ],
)
def test_what_no_input_may_bring_about_is_noticed(warm: WarmProcess, sandbox: Path, code: str, noted: str) -> None:
    outcome = outcome_of(warm, sandbox, code)
    assert any(what.startswith(noted) for what in outcome.noted), outcome
    with pytest.raises(AssertionError):
        assert_harmless(outcome)


def test_changes_within_the_sandbox_are_seen_and_each_call_has_its_own(warm: WarmProcess, sandbox: Path) -> None:
    (sandbox / "changed").write_text("old")
    (sandbox / "removed").write_text("old")
    code = "import os; open('changed', 'w').write('new'); os.remove('removed'); os.mkdir('made'); print('said')"
    calls = [("script", {"code": code, "argv": []}), command(["--version"]), command(["score", "nowhere", "a", "b"])]
    first, second, third = Judge(warm, sandbox.parent).each(calls, sandbox)
    assert first.changed == ("changed", "made", "removed") and first.stdout == "said\n" and not first.noted
    assert second.code == 0 and second.changed == () and second.stdout.startswith("sbert-ft ")
    assert third.code == 2 and "nowhere" in third.stderr and third.stdout == ""


def test_a_traceback_a_large_memory_and_a_process_that_hangs_fail_a_test(warm: WarmProcess, sandbox: Path) -> None:
    with pytest.raises(AssertionError):
        assert_harmless(outcome_of(warm, sandbox, "raise RuntimeError"))
    outcome = outcome_of(warm, sandbox, "content = b'1' * 50_000_000")
    assert outcome.growth_mib > 40
    with pytest.raises(AssertionError, match="killed after"):
        warm.script("import time; time.sleep(600)", max_seconds=0.3)
    assert warm.script("print(3)").out == "3\n"
