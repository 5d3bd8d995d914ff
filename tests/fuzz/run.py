"""Fuzz one target, or all: mutate its seeds, guided by what of our code they reach, until something else than the typed
error comes out.

    python tests/fuzz/run.py fuzz_vocab --seconds 60
    python tests/fuzz/run.py --all --seconds 60

A target is a module of this folder with `test_one_input`. Its seeds are those that its `seeds` builds and the files of
seeds/TARGET/. What ends in a crash, takes longer than 10 seconds or more than 2 GiB of memory is written there, a seed
from then on. Each target runs in a process of its own and is reported in one line; two run at a time with --all.
Exit status: 0 nothing was found, 1 something was, 2 it could not be looked for.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import logging
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGETS = ("fuzz_config", "fuzz_safetensors_header", "fuzz_vocab", "fuzz_tables")
N_AT_A_TIME = 2
SHARE_OF_JSON = 0.7  # of the mutations of JSON, those that leave it JSON
MAX_MIB = 2048
MAX_SECONDS_OF_AN_INPUT = 10
_DONE = re.compile(r"^#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+)", re.MULTILINE)
_FINDING = re.compile(r"^ *=+ (Uncaught|==?\d+== ?ERROR)|^==\d+==|^ *=== Uncaught", re.MULTILINE)
_NOISE = re.compile(r"^\s*#?\d+[:\t ]|^\s+at /|^\s*$|^(INFO|WARNING|MS): |^#\d+")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", nargs="?", choices=TARGETS)
    parser.add_argument("--all", action="store_true", help="run every target, two at a time")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the mutations; 0 for others each time (default: %(default)s)"
    )
    parser.add_argument(
        "--if-available", action="store_true", help="skip, with status 0, where atheris is not installed"
    )
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.all == (options.target is not None):
        parser.error("name one target, or give --all")
    if find_spec("atheris") is None:
        need = "fuzzing needs atheris, which has builds for Linux on x86-64: pip install atheris"
        print(f"{need}; skipped" if options.if_available else need)
        return 0 if options.if_available else 2
    if options.inside is not None:
        _fuzz(options.target, options.seconds, options.seed, options.inside)
    with ThreadPoolExecutor(N_AT_A_TIME) as pool:
        targets = TARGETS if options.all else (options.target,)
        return max(pool.map(lambda target: _report(target, options.seconds, options.seed), targets))


def _report(target: str, seconds: int, seed: int) -> int:
    """Run a target in a process of its own, print what came of it in a line (and what it found), return the status."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sbert-ft-fuzz-corpus-") as corpus:
        command = [sys.executable, str(HERE / "run.py"), target, "--seconds", str(seconds), "--seed", str(seed)]
        quiet = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
        command += ["--inside", corpus]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=quiet)
        n_inputs = len(os.listdir(corpus))
    passed = time.monotonic() - start
    found = _DONE.findall(done.stderr)
    executions, coverage, _ = map(int, found[-1]) if found else (0, 0, 0)
    verdict = "nothing found" if done.returncode == 0 else f"FOUND SOMETHING (status {done.returncode})"
    details = "" if done.returncode == 0 else _findings(done.stdout + done.stderr)
    print(
        f"{target}: {executions:,} executions, coverage {coverage:,} points, {n_inputs:,} inputs kept, "
        f"{passed:.0f} s, {verdict}{details}",
        flush=True,
    )
    return 0 if done.returncode == 0 and executions else 1


def _fuzz(target: str, seconds: int, seed: int, corpus: Path) -> None:
    """Fuzz in this process, which ends here: libFuzzer leaves by exit."""
    import atheris

    sys.path.insert(0, str(HERE.parent))
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=_instrumented(target)):
        module = importlib.import_module(f"fuzz.{target}")
        mutated_input = importlib.import_module("fuzz.mutations").mutated_input
    kept = HERE / "seeds" / target
    kept.mkdir(parents=True, exist_ok=True)
    for name, data in module.seeds().items():
        (corpus / name).write_bytes(data)

    def quiet(data: bytes) -> None:
        module.test_one_input(data)

    def mutated(data: bytes, max_size: int, number: int) -> bytes:
        rng = random.Random(number)
        changed = mutated_input(data, rng) if rng.random() < SHARE_OF_JSON else None
        return atheris.Mutate(data, max_size) if changed is None or len(changed) > max_size else changed

    flags = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-rss_limit_mb={MAX_MIB}",
        f"-timeout={MAX_SECONDS_OF_AN_INPUT}",
        f"-max_len={module.MOST_BYTES}",
        f"-artifact_prefix={kept}{os.sep}",
        f"-report_slow_units={MAX_SECONDS_OF_AN_INPUT}",
    ]
    atheris.Setup([str(HERE / target), *flags, str(corpus), str(kept)], quiet, custom_mutator=mutated)
    atheris.Fuzz()


def _instrumented(target: str) -> list[str]:
    """Return the target's INSTRUMENTED, read from its text: to import it would import our modules too early."""
    tree = ast.parse((HERE / f"{target}.py").read_text(encoding="utf-8"))
    values = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INSTRUMENTED"
    ]
    (names,) = values
    return list(names)


def _findings(said: str) -> str:
    """Return what libFuzzer and Python said of what was found, without the progress before it and native frames."""
    begin = _FINDING.search(said)
    lines = said[begin.start() :].splitlines() if begin else said.splitlines()[-40:]
    return "\n".join(["", *(line for line in lines if not _NOISE.match(line))][:80])


if __name__ == "__main__":
    sys.exit(main())
