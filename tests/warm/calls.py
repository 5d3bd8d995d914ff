"""What the forks of the warm process run: the command line, a program, or a model's loading, spoiled and watched.

Each function gets the report of its run, in which it may note something, and returns the exit code.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sbert_ft
from sbert_ft import BertClassifier, SiameseBert
from sbert_ft.cli import main
from sbert_ft.training.tokenized_dataset import TokenizedConnections
from warm import tree

Report = dict[str, Any]


def command(
    report: Report,
    argv: Sequence[str],
    setup: str = "as usual",
    strike: Mapping[str, Any] | None = None,
    rows: str | None = None,
) -> int:
    """Run `sbert-ft`.

    Args:
        report: Not used.
        argv: The arguments.
        setup: A name of `SETUPS`.
        strike: What to do right before the nth call of a function, see `struck`.
        rows: A file for the rows of each batch.
    """
    SETUPS[setup]()
    if strike is not None:
        struck(**strike)
    if rows is not None:
        note_rows(rows)
    return main(list(argv))


def script(report: Report, code: str, argv: Sequence[str]) -> int:
    """Run a program, as ``python -c`` does."""
    sys.argv = ["-c", *argv]
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    return 0


def in_a_sandbox(report: Report, sandbox: str, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> int:
    """Carry out calls of this module one after the other, each watched; `report["parts"]` says what each did.

    A part has `code`, `out`, `err`, `changed` (paths within the sandbox that were made, changed or removed), and what
    `watched` notes.
    """
    report["parts"] = [one_part(sandbox, function, arguments) for function, arguments in calls]
    return 0


def one_part(sandbox: str, function: str, arguments: Mapping[str, Any]) -> Report:
    """Return what a call did; its standard streams are files in memory meanwhile."""
    part: Report = {}
    before = tree(Path(sandbox))
    kept, said = [os.dup(number) for number in (1, 2)], [os.memfd_create(name) for name in ("out", "err")]
    for number, end in enumerate(said, 1):
        os.dup2(end, number)
    began = time.monotonic()
    try:
        part["code"] = watched(part, sandbox, lambda: globals()[function](part, **arguments))
    except SystemExit as end_of_it:
        part["code"] = end_of_it.code if isinstance(end_of_it.code, int) else 98
    except BaseException:
        traceback.print_exc()
        part["code"] = 99
    sys.stdout.flush()
    sys.stderr.flush()
    part["seconds"] = time.monotonic() - began
    for number, end in enumerate(kept, 1):
        os.dup2(end, number)
        os.close(end)
    for name, number in zip(("out", "err"), said, strict=True):
        os.lseek(number, 0, os.SEEK_SET)
        with os.fdopen(number, "rb") as file:
            part[name] = file.read().decode("utf-8", "replace")
    after = tree(Path(sandbox))
    part["changed"] = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return part


def loading(report: Report, **request: Any) -> int:
    """Load a model, compute texts, save it and compute them again; print the vectors as JSON."""
    try:
        print(vectors_as_json(**request))
        return 0
    except sbert_ft.SbertFtError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2


def vectors_as_json(
    folder: str, texts: list[Any], kind: str, save: str | None, options: Mapping[str, Any], unprivileged: bool
) -> str:
    """Return the vectors (of a classifier the probabilities) of `texts`; those of the saved model have to be equal."""
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s", force=True)

    def computed(place: str, target: str | None = None) -> Any:
        if unprivileged:
            os.seteuid(65534)
        try:
            model: Any = {"siamese": SiameseBert, "classifier": BertClassifier}[kind].from_pretrained(place, **options)
        finally:
            if unprivileged:
                os.seteuid(0)
        vectors = (model.encode if kind == "siamese" else model.predict_proba)(texts)
        if target is not None:
            model.save_pretrained(target)
        return vectors

    vectors = computed(folder, save)
    if save is not None:
        again = computed(save)
        assert (vectors == again).all(), f"saved and loaded again, it computes {again} instead of {vectors}"
    return json.dumps(vectors.tolist())


# ---------------------------------------------------------------- watched: what no input may bring about

_CHANGES = {
    *("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown"),
    *("shutil.rmtree", "shutil.copyfile", "shutil.move"),
}
_STARTS = {
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "os.fork", "os.forkpty"),
    *("subprocess.Popen", "pty.spawn"),
}
_NET = ("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.")


def watched(report: Report, sandbox: str, run: Callable[[], int]) -> int:
    """Return what `run` returns, and note in the report what it did that no input may bring about.

    `noted`: programs that it would start, connections that it would open, classes that a pickle asks for, modules
    imported from the sandbox, and changes of files outside of it. `growth_kib`: by how much its memory grew.
    """
    noted: list[str] = []
    is_over = False  # a hook stays to the end of the process
    root = os.path.realpath(sandbox)

    def is_inside(path: Any) -> bool:
        if isinstance(path, int):
            return True
        place = os.path.realpath(os.fsdecode(path))
        return place == root or place.startswith(root + os.sep) or place == os.devnull

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if is_over:
            return
        if event == "open":
            path, _, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND) and not is_inside(path):
                noted.append(f"open for writing {path!r}")
        elif event in _CHANGES:
            for path in arguments[:2]:
                if isinstance(path, (str, bytes)) and not is_inside(path):
                    noted.append(f"{event} {path!r}")
        elif event in _STARTS or event.startswith(_NET) or event == "pickle.find_class":
            noted.append(f"{event} {arguments!r}"[:300])

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: calls before this one may have had a higher
    known, before = set(sys.modules), peak_kib()
    sys.addaudithook(note)
    try:
        return run()
    finally:
        is_over = True
        report["noted"] = noted
        report["growth_kib"] = peak_kib() - before
        for name in set(sys.modules) - known:
            origin = getattr(sys.modules[name], "__file__", None)
            if isinstance(origin, str) and os.path.realpath(origin).startswith(root + os.sep):
                noted.append(f"import {name}")


def peak_kib() -> int:
    """Return the most memory that this process has taken."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


# ---------------------------------------------------------------- struck: in the middle of a run


def struck(
    module: str,
    name: str,
    nth: int,
    signals: Sequence[int] = (),
    file_bytes: int | None = None,
    shell: str | None = None,
    out_of_memory: bool = False,
    skipped: bool = False,
) -> None:
    """Right before a function's nth call, limit the size of files, run a shell command, send signals, or fail.

    A call that is `skipped` is left out.
    """
    place = importlib.import_module(module)
    call, seen = getattr(place, name), [0]

    def counted(*arguments: Any, **options: Any) -> Any:
        seen[0] += 1
        if seen[0] == nth:
            if file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
            if shell is not None:
                subprocess.run(shell, shell=True, check=True)
            for number in signals:
                os.kill(os.getpid(), number)
            if out_of_memory:
                raise MemoryError
            if skipped:
                return None
        return call(*arguments, **options)

    setattr(place, name, counted)


def note_rows(path: str) -> None:
    """Write the rows of each batch to a file, as they are packed."""
    call = TokenizedConnections.pack_rows

    def noted(self: TokenizedConnections, rows: Any) -> Any:
        with open(path, "a") as file:
            print(json.dumps(rows.tolist()), file=file)
        return call(self, rows)

    TokenizedConnections.pack_rows = noted  # type: ignore[method-assign]


# ---------------------------------------------------------------- surroundings


def _stream(number: int, encoding: str = "utf-8") -> Any:
    return open(number, "w", encoding=encoding, buffering=1 if number == 2 else -1, closefd=False)


def _onto(path: str, *numbers: int) -> None:
    for number in numbers:
        os.dup2(os.open(path, os.O_WRONLY), number)


def _closed(*numbers: int) -> None:
    for number in numbers:
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)


def _nobody_reads(number: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, number)
    setattr(sys, ("stdin", "stdout", "stderr")[number], _stream(number))


def _ascii_streams() -> None:
    sys.stdout, sys.stderr = _stream(1, "ascii"), _stream(2, "ascii")


def _no_folder() -> None:
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")


def _no_temporary_folder() -> None:
    tempfile.tempdir = None
    os.environ["TMPDIR"] = "/nonexistent"


def _sockets_noted() -> None:
    seen = os.open("sockets", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        asks_the_kernel_alone = event == "socket.gethostname"  # what a run's lock says of whom it is held by
        if event.startswith(("socket.", "urllib.", "http.", "ftplib.", "smtplib.")) and not asks_the_kernel_alone:
            os.write(seen, f"{event} {arguments}\n".encode())

    sys.addaudithook(note)


SETUPS: dict[str, Callable[[], object]] = {
    "as usual": lambda: None,
    "standard output is full": lambda: _onto("/dev/full", 1),
    "standard error is full": lambda: _onto("/dev/full", 2),
    "both are full": lambda: _onto("/dev/full", 1, 2),
    "standard output is closed": lambda: _closed(1),
    "standard error is closed": lambda: _closed(2),
    "all streams are closed": lambda: _closed(0, 1, 2),
    "nobody reads standard output": lambda: _nobody_reads(1),
    "nobody reads standard error": lambda: _nobody_reads(2),
    "streams take ASCII": _ascii_streams,
    "there is no home": lambda: os.environ.pop("HOME", None),
    "there is no temporary folder": _no_temporary_folder,
    "the current folder is gone": _no_folder,
    "few files may be open": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12)),
    "files are for the owner": lambda: os.umask(0o077),
    "files are for all": lambda: os.umask(0),
    "sockets are noted": _sockets_noted,
}
