"""Run the command line, or a model's loading, on a bad input in a process of its own, and judge what it did.

A run is a fork of the warm process (`warm/`). It notes, by an audit hook of Python, every program that it would start,
every connection that it would open, every class that a pickle asks for and every file outside its sandbox that it
would change; what it did within the sandbox is seen by comparing the tree before and after. So "nothing was executed"
and "nothing was written" are observed, not assumed.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warm import WarmProcess

MAX_SECONDS = 60
"""After so long a run counts as hanging and is killed."""
MAX_GROWTH_MIB = 1024
"""What reading a bad input may take beside what the libraries take."""
Call = tuple[str, Mapping[str, Any]]
"""A function of `warm.calls`, and what it is called with."""


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        code: Its exit code, negative for the signal that ended it.
        stdout: What it printed.
        stderr: What it said.
        noted: What it did that no input may bring about: programs, connections, imports, changes outside the sandbox.
        changed: Paths within the sandbox that were made, changed or removed.
        seconds: Wall time.
        growth_mib: Peak memory beyond that of the process before.
    """

    code: int
    stdout: str
    stderr: str
    noted: tuple[str, ...]
    changed: tuple[str, ...]
    seconds: float
    growth_mib: float

    @property
    def warnings(self) -> list[str]:
        """The lines of standard error that are warnings."""
        return [line for line in self.stderr.splitlines() if "warning" in line.lower()]


@dataclass
class Judge:
    """Runs commands and loads models in forks of the warm process, watched.

    Attributes:
        warm: The process that forks.
        place: For the temporary files of runs; outside of every sandbox.
    """

    warm: WarmProcess
    place: Path

    def run(self, arguments: Sequence[object], sandbox: Path, environment: Mapping[str, str] | None = None) -> Outcome:
        """Run `sbert-ft` with `arguments` within the folder `sandbox`, which is its working directory."""
        return self.each([command(arguments)], sandbox, environment)[0]

    def each(
        self, calls: Sequence[Call], sandbox: Path, environment: Mapping[str, str] | None = None
    ) -> tuple[Outcome, ...]:
        """Carry out calls one after the other in one process, within the folder `sandbox`."""
        with tempfile.TemporaryDirectory(dir=self.place) as temporary:
            settings = {"TMPDIR": temporary, "SBERT_FT_CACHE": f"{temporary}/cache", **(environment or {})}
            ended = self.warm.run(
                "warm.calls:in_a_sandbox",
                cwd=sandbox,
                environment=settings,
                max_seconds=MAX_SECONDS,
                sandbox=str(sandbox),
                calls=list(calls),
            )
            left = [f"left in TMPDIR: {name}" for name in os.listdir(temporary)]
        assert ended.code == 0, (ended.code, ended.said)
        return tuple(self._outcome(part, left) for part in ended.report["parts"])

    def _outcome(self, part: Mapping[str, Any], left: Sequence[str]) -> Outcome:
        return Outcome(
            code=part["code"],
            stdout=part["out"],
            stderr=part["err"],
            noted=(*(what for what in part["noted"] if str(self.place) not in what), *left),
            changed=tuple(part["changed"]),
            seconds=part["seconds"],
            growth_mib=part["growth_kib"] / 1024,
        )


def command(arguments: Sequence[object]) -> Call:
    """Return the call of `sbert-ft` with these arguments."""
    return "command", {"argv": [str(argument) for argument in arguments]}


def loading(
    folder: Path,
    texts: Sequence[object],
    *,
    kind: str = "siamese",
    save: Path | None = None,
    options: Mapping[str, Any] | None = None,
    unprivileged: bool = False,
) -> Call:
    """Return the call that loads a model, computes `texts`, and where `save` saves it and computes the same from there.

    A `SbertFtError` is exit code 2 with its type and message in `stderr`; vectors, or probabilities of a
    `kind="classifier"`, are printed as JSON. Where `unprivileged`, root loads it as a user who may not read all.
    """
    return "loading", {
        "folder": str(folder),
        "texts": list(texts),
        "kind": kind,
        "save": None if save is None else str(save),
        "options": dict(options or {}),
        "unprivileged": unprivileged and os.geteuid() == 0,
    }


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f‪-‮⁦-⁩]")


def assert_harmless(outcome: Outcome) -> None:
    """Whatever the input: no traceback, nothing executed, nothing that drives a terminal, bounded memory."""
    assert "Traceback" not in outcome.stderr, outcome.stderr[-3000:]
    assert not outcome.noted, outcome.noted
    assert not _CONTROL.search(outcome.stderr), ascii(outcome.stderr)
    assert outcome.growth_mib < MAX_GROWTH_MIB, f"{outcome.growth_mib:.0f} MiB"


def assert_refused(outcome: Outcome, *words: str) -> None:
    """Exit code 2 with a message that has each of `words`, nothing printed, nothing written."""
    assert_harmless(outcome)
    assert outcome.code == 2, (outcome.code, outcome.stdout[-500:], outcome.stderr[-2000:])
    error = outcome.stderr[outcome.stderr.lower().find("error: ") :]
    missing = [word for word in words if word.lower() not in error.lower()]
    assert not missing, f"{missing} not in: {error}"
    assert not outcome.changed, outcome.changed


def assert_warned(outcome: Outcome, *words: str) -> None:
    """Exit code 0 with one warning line that has each of `words`."""
    assert_harmless(outcome)
    assert outcome.code == 0, outcome.stderr[-2000:]
    fitting = [line for line in outcome.warnings if all(word.lower() in line.lower() for word in words)]
    assert fitting, f"no warning with {words} in: {outcome.stderr}"


def assert_works(outcome: Outcome, *, same: bool = True) -> None:
    """Exit code 0 without a warning; with other tokens (not `same`), one that many of them are unknown is right."""
    assert_harmless(outcome)
    assert outcome.code == 0, outcome.stderr[-2000:]
    found = [line for line in outcome.warnings if same or "tokens are unknown to the vocabulary" not in line]
    assert not found, found
