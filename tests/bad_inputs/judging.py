"""Run the command line, or a model's loading, on a bad input in a process of its own, and judge what it did.

One process imports everything once and forks for each run, so that a run costs a tenth of a second. The child notes,
by an audit hook of Python, every program that it would start, every connection that it would open, every class that a
pickle asks for and every file outside its sandbox that it would change; what it did within the sandbox is seen by
comparing the tree before and after. So "nothing was executed" and "nothing was written" are observed, not assumed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
MAX_SECONDS = 60
"""After so long a run counts as hanging and is killed."""
MAX_GROWTH_MIB = 1024
"""What reading a bad input may take beside what the libraries take."""

SERVER = r"""
import encodings.utf_8_sig, json, logging, os, signal, sys, time, traceback
import torch
torch.set_num_threads(1)
import pandas, pyarrow.parquet, scipy.stats, sklearn.isotonic, sklearn.linear_model, sklearn.metrics, transformers
import sentence_transformers.sentence_transformer.losses
import sbert_ft
import sbert_ft.commands.config, sbert_ft.commands.doctor, sbert_ft.commands.encode, sbert_ft.commands.evaluate
import sbert_ft.commands.predict, sbert_ft.commands.score, sbert_ft.commands.train
import sbert_ft.data.dataset, sbert_ft.doctor.folder, sbert_ft.models.classifier, sbert_ft.models.siamese
import sbert_ft.training.fine_tune, sbert_ft.training.run
from sbert_ft import BertClassifier, SiameseBert
from sbert_ft.cli import main

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
           "os.chown", "shutil.rmtree", "shutil.copyfile", "shutil.move"}
STARTS = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "os.fork", "os.forkpty",
          "subprocess.Popen", "pty.spawn"}

def peak_kib():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

def watch(sandbox, noted):
    sandbox = os.path.realpath(sandbox)
    def inside(path):
        if isinstance(path, int):
            return True
        place = os.path.realpath(os.fsdecode(path))
        return place == sandbox or place.startswith(sandbox + os.sep) or place == os.devnull
    def hook(event, arguments):
        if event == "open":
            path, mode, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND) and not inside(path):
                noted.append(f"open for writing {path!r}")
        elif event in CHANGES:
            for path in arguments[:2]:
                if isinstance(path, (str, bytes)) and not inside(path):
                    noted.append(f"{event} {path!r}")
        elif event in STARTS or event.startswith(("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.")):
            noted.append(f"{event} {arguments!r}"[:300])
        elif event == "pickle.find_class":
            noted.append(f"{event} {arguments!r}"[:300])
    sys.addaudithook(hook)

def load(request):
    kind = {"siamese": SiameseBert, "classifier": BertClassifier}[request["kind"]]
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s", force=True)
    def computed(folder, save=None):
        if request["unprivileged"]:
            os.seteuid(65534)
        try:
            model = kind.from_pretrained(folder, **request["options"])
        finally:
            if request["unprivileged"]:
                os.seteuid(0)
        vectors = (model.encode if kind is SiameseBert else model.predict_proba)(request["texts"])
        if save is not None:
            model.save_pretrained(save)
        return vectors
    vectors = computed(request["folder"], request["save"])
    if request["save"] is not None:
        again = computed(request["save"])
        assert (vectors == again).all(), f"saved and loaded again, it computes {again} instead of {vectors}"
    return json.dumps(vectors.tolist())

def child(request, noted):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(request["cwd"])
    os.environ.update(request["environment"])
    import tempfile
    tempfile.tempdir = None
    out = os.open(request["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    errors = os.open(request["said"] + ".err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1), os.dup2(errors, 2)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    watch(request["cwd"], noted)
    if request["arguments"] is not None:
        return main(request["arguments"])
    try:
        print(load(request))
        return 0
    except sbert_ft.SbertFtError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2

os.write(1, b"ready\n")
for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if pid == 0:
        code, noted, before, began = 99, [], peak_kib(), time.monotonic()
        known = set(sys.modules)
        try:
            code = child(request, noted)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 98
        except BaseException:
            traceback.print_exc()
        finally:
            seconds = time.monotonic() - began
            sys.stdout.flush(), sys.stderr.flush()
            place = os.path.realpath(request["cwd"]) + os.sep
            for name in set(sys.modules) - known:
                origin = getattr(sys.modules[name], "__file__", None)
                if isinstance(origin, str) and os.path.realpath(origin).startswith(place):
                    noted.append(f"import {name}")
            with open(request["said"] + ".json", "w") as file:
                json.dump({"noted": noted, "seconds": seconds, "growth_kib": peak_kib() - before}, file)
            os._exit(code)
    os.write(1, b"%d\n" % pid)
    status = os.waitpid(pid, 0)[1]
    os.write(1, b"%d\n" % os.waitstatus_to_exitcode(status))
"""


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
    """A warm process that forks for each run; one run at a time.

    Attributes:
        process: The process.
        place: Where it keeps what runs said; outside of every sandbox.
    """

    process: subprocess.Popen[bytes]
    place: Path
    n_runs: int = 0

    def run(self, arguments: Sequence[object], sandbox: Path, environment: Mapping[str, str] | None = None) -> Outcome:
        """Run `sbert-ft` with `arguments` within the folder `sandbox`, which is its working directory."""
        return self._run(sandbox, {"arguments": [str(argument) for argument in arguments]}, environment)

    def load(
        self,
        folder: Path,
        sandbox: Path,
        texts: Sequence[object],
        *,
        kind: str = "siamese",
        save: Path | None = None,
        options: Mapping[str, Any] | None = None,
        unprivileged: bool = False,
    ) -> Outcome:
        """Load a model by `from_pretrained` and compute `texts`; where `save`, save it and compute the same from there.

        A `SbertFtError` is exit code 2 with its type and message in `stderr`; vectors, or probabilities of a
        `kind="classifier"`, are printed as JSON. Where `unprivileged`, root loads it as a user who may not read all.
        """
        request = {
            "folder": str(folder),
            "texts": list(texts),
            "kind": kind,
            "save": None if save is None else str(save),
            "options": dict(options or {}),
            "unprivileged": unprivileged and os.geteuid() == 0,
        }
        return self._run(sandbox, {"arguments": None, **request}, None)

    def _run(self, sandbox: Path, request: Mapping[str, Any], environment: Mapping[str, str] | None) -> Outcome:
        self.n_runs += 1
        said = self.place / f"said-{self.n_runs}"
        temporary = self.place / f"tmp-{self.n_runs}"
        temporary.mkdir()
        before = tree(sandbox)
        settings = {"TMPDIR": str(temporary), "SBERT_FT_CACHE": str(temporary / "cache"), **(environment or {})}
        line = json.dumps({**request, "cwd": str(sandbox), "said": str(said), "environment": settings})
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        hangs = not select.select([self.process.stdout], [], [], MAX_SECONDS)[0]
        if hangs:
            os.kill(pid, signal.SIGKILL)
        code = int(self.process.stdout.readline())
        errors = Path(f"{said}.err").read_text("utf-8", "replace") if Path(f"{said}.err").exists() else ""
        assert not hangs, f"killed after {MAX_SECONDS} s: {errors[-2000:]}"
        report = json.loads(Path(f"{said}.json").read_text("utf-8")) if Path(f"{said}.json").exists() else {}
        after = tree(sandbox)
        left = [f"left in TMPDIR: {path.name}" for path in temporary.iterdir()]
        return Outcome(
            code=code,
            stdout=said.read_text("utf-8", "replace") if said.exists() else "",
            stderr=errors,
            noted=tuple(n for n in report.get("noted", []) if str(self.place) not in n) + tuple(left),
            changed=tuple(sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p))),
            seconds=report.get("seconds", 0.0),
            growth_mib=report.get("growth_kib", 0) / 1024,
        )


@contextlib.contextmanager
def started_judge(place: Path) -> Iterator[Judge]:
    """Start the process that forks; what runs say goes to the folder `place`."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        bufsize=0,  # what a buffer has read ahead would be waited for in vain
        cwd=place,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        yield Judge(process, place)
        process.stdin.close()


def tree(folder: Path) -> dict[str, str]:
    """Return every path under `folder` with what it is and holds; links are not followed."""
    found: dict[str, str] = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(place, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                what = f"link to {os.readlink(path)}"
            elif stat.S_ISREG(mode):
                size = os.path.getsize(path)
                if size > 50_000_000:  # sparse files of gigabytes are told by size and time alone
                    what = f"{size} bytes of {os.lstat(path).st_mtime_ns}"
                else:
                    with open(path, "rb") as file:
                        what = hashlib.sha256(file.read()).hexdigest()
            else:
                what = stat.filemode(mode)[0]
            found[os.path.relpath(path, folder)] = what
    return found


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


def assert_works(outcome: Outcome) -> None:
    """Exit code 0 without a warning."""
    assert_harmless(outcome)
    assert outcome.code == 0, outcome.stderr[-2000:]
    assert not outcome.warnings, outcome.warnings
