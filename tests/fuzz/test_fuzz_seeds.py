"""Every seed of every fuzz target through its function, so that what was once found stays fixed on any platform."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from fuzz.run import TARGETS

pytest.importorskip("pyarrow", reason="the Parquet extra, which builds a seed, is not installed")

FUZZ = Path(__file__).resolve().parent


def target_module(target: str) -> ModuleType:
    return importlib.import_module(f"fuzz.{target}")


def seeds_of(target: str) -> dict[str, bytes]:
    """Return the seeds that a target builds, and those that lie in its folder."""
    kept = {path.name: path.read_bytes() for path in sorted((FUZZ / "seeds" / target).iterdir())}
    built = target_module(target).seeds()
    assert not kept.keys() & built.keys(), "two seeds of one name"
    return {**built, **kept}


SEEDS = [(target, name) for target in TARGETS for name in seeds_of(target)]


@pytest.mark.filterwarnings("ignore")  # of the libraries, on what is wrong on purpose
@pytest.mark.parametrize(("target", "name"), SEEDS)
def test_every_seed_gives_a_result_or_the_typed_error(target: str, name: str) -> None:
    assert target_module(target).test_one_input(seeds_of(target)[name]) in (True, False)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_reads_what_it_builds_and_refuses_some_of_what_was_found(target: str) -> None:
    module = target_module(target)
    outcomes = {name: module.test_one_input(data) for name, data in seeds_of(target).items()}
    read = [name for name in module.seeds() if outcomes[name]]
    assert len(read) >= 5, f"hardly any valid seed is read: {read}"
    assert [name for name, was_read in outcomes.items() if not was_read], "no seed is refused"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_lets_through_what_is_not_the_typed_error(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = target_module(target)

    def defect(data: bytes) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(module, "read", defect)
    with pytest.raises(KeyError, match="a defect"):
        module.test_one_input(b"")


def test_every_target_names_modules_of_ours_to_instrument() -> None:
    for target in TARGETS:
        for name in target_module(target).INSTRUMENTED:
            assert find_spec(name) is not None, f"{target} instruments {name}, which is not there"


WITHOUT_ATHERIS = """
import runpy, sys
sys.modules["atheris"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("flags", "status", "ends"), [([], 2, "atheris\n"), (["--if-available"], 0, "skipped\n")])
def test_without_atheris_the_runner_says_so(flags: list[str], status: int, ends: str) -> None:
    command = [sys.executable, "-c", WITHOUT_ATHERIS, str(FUZZ / "run.py"), "--all", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    assert "pip install atheris" in done.stdout and done.stdout.endswith(ends)
