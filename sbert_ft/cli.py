"""`sbert-ft`: finds the command, sets up what it says, and turns whatever goes wrong into one line and an exit code.

A command is a module of `sbert_ft.commands`, which is imported only when its command is named, so that help answers
at once. What a user can mend ends with 2 and a sentence; anything else is a defect of ours, keeps its traceback and
ends with 1. A signal that asks to end is raised like Ctrl-C, so that temporary files are removed on the way out.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import FrameType
from typing import Final, NoReturn, Protocol, cast

from sbert_ft._version import __version__
from sbert_ft.errors import ResourceError, RunInterrupted, SbertFtError, quoted

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "train": ("sbert_ft.commands.train", "fine-tune on pairs or single texts: a JSON in, a model and a report out"),
    "evaluate": ("sbert_ft.commands.evaluate", "judge a model on labelled rows, alone or against another one"),
    "encode": ("sbert_ft.commands.encode", "texts to vectors, in a .npy or .parquet file"),
    "score": ("sbert_ft.commands.score", "the cosine of two texts, or of each pair in a file"),
    "predict": ("sbert_ft.commands.predict", "the class of a text or a pair, or of each in a file"),
    "doctor": ("sbert_ft.commands.doctor", "check a model folder, and whether it fits your texts"),
    "config": ("sbert_ft.commands.config", "begin, check or describe the JSON that a run is"),
}

DONE, DEFECT, USER_FAULT, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 130, 141

_EPILOG = """\
exit codes:
  0    done
  1    a check failed (doctor), or a defect of sbert-ft, which keeps its traceback
  2    something you can mend: a wrong option, file or text; nothing was written
  130  interrupted (Ctrl-C); 143 and 129: ended by SIGTERM or SIGHUP; no temporary file stays
  141  the reader of standard output went away

Nothing here opens a network connection: MODEL is a folder on this machine.
'sbert-ft COMMAND --help' lists a command's options."""

# Read by libraries when they are imported; a user's own setting stands.
_LIBRARY_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "true",
}
_LIBRARY_SILENCE = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


_OF_STREAMS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


class Command(Protocol):
    """What every module of `sbert_ft.commands` that is named in `COMMANDS` offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments and options."""

    def run(self, args: argparse.Namespace) -> int:
        """Do the work and return the exit code."""


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: The arguments after the program's name; those of the process where None.
    """
    arguments = sys.argv[1:] if argv is None else argv
    _hold_standard_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            with suppress(OSError, ValueError):  # a stream that was closed
                reconfigure(errors="backslashreplace")  # Hangul on a terminal that knows ASCII alone
    debug = "--debug" in arguments
    try:
        with _signals_raised():
            code = _run(arguments)
            if sys.stdout is not None:
                sys.stdout.flush()  # a reader that went away shall show now, not when the interpreter ends
            return code
    except SystemExit as stop:  # argparse: help, version, usage
        return _flushed(stop.code if isinstance(stop.code, int) else DEFECT)
    except RunInterrupted as stop:
        _say(f"sbert-ft: {_one_line(str(stop))}")
        return 128 + stop.signal_number
    except SbertFtError as error:
        return _refuse(str(error), debug)
    except BrokenPipeError:
        _forget_stdout()
        return CLOSED_PIPE
    except KeyboardInterrupt:
        # Where the interrupt came inside an exec, as in dataclasses while they are imported, the interpreter remembers
        # it and would end by the signal instead of with our code; the next exec makes it forget.
        exec("")
        _say("sbert-ft: interrupted")
        return INTERRUPTED
    except _Ended as ended:
        _say(f"sbert-ft: ended by {signal.Signals(ended.number).name}")
        return 128 + ended.number
    except Exception as error:
        # The outermost handler: all that is left is to say what happened, whatever it was.
        if isinstance(error, OSError) and error.errno is not None:
            return _refuse(_of_stdout(error) or _sentence(error), debug)
        traceback.print_exc()
        _say("sbert-ft: this is a defect of sbert-ft; please report it with the lines above")
        return DEFECT


def _run(arguments: list[str]) -> int:
    """Parse the arguments and run the command that they name."""
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    command = cast(Command, import_module(COMMANDS[named][0])) if named in COMMANDS else None
    args = _parser(named, command).parse_args(arguments)
    assert command is not None  # the parser refuses any other name, and none
    args.quiet, args.debug = "quiet" in args, "debug" in args
    if sys.flags.optimize > 1 and named != "config":
        raise ResourceError("transformers does not run under python -OO, which strips docstrings", "take -O or none")
    for name, value in (_LIBRARY_SETTINGS if args.debug else _LIBRARY_SETTINGS | _LIBRARY_SILENCE).items():
        os.environ.setdefault(name, value)
    with _log_to_stderr(quiet=args.quiet, debug=args.debug), warnings.catch_warnings():
        if not args.debug and not sys.warnoptions:
            warnings.simplefilter("ignore")  # those of libraries; what a user should know is logged
        return command.run(args)


def _parser(named: str | None, command: Command | None) -> argparse.ArgumentParser:
    """Return the parser of the whole command line, with the options of the named command alone."""
    everywhere = _Parser(add_help=False, allow_abbrev=False)
    group = everywhere.add_argument_group("options of every command")
    # Without a default, or the command's parser would undo what stood before the command.
    group.add_argument("--quiet", action="store_true", default=argparse.SUPPRESS, help="no notes, no progress bar")
    group.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="details and tracebacks")
    parser = _Parser(
        prog="sbert-ft",
        description="Embed, score and classify texts with a local BERT, offline.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[everywhere],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sbert-ft {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, (_, summary) in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[everywhere],
            allow_abbrev=False,
        )
        if command is not None and name == named:
            command.add_arguments(sub)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser that refuses in one line, as everything else here does."""

    def error(self, message: str) -> NoReturn:
        _say(f"sbert-ft: error: {_one_line(message)} (see {self.prog} --help)")
        raise SystemExit(USER_FAULT)


class _Ended(BaseException):
    """A signal asked the process to end; no `except Exception` on the way swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise `_Ended` inside, where they would end the process without cleaning up."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Ended(number)

    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {}
    if threading.current_thread() is threading.main_thread():
        # One that is ignored stays so: that is how nohup works.
        before = {number: signal.signal(number, end) for number in wanted if signal.getsignal(number) == signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _log_to_stderr(*, quiet: bool, debug: bool) -> Iterator[None]:
    """Write what the library logs to standard error, in plain lines; other libraries' logging is left alone."""
    ours = logging.getLogger("sbert_ft")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PlainFormatter())
    level_before, propagate_before = ours.level, ours.propagate
    ours.addHandler(handler)
    ours.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    ours.propagate = False
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level_before)
        ours.propagate = propagate_before


class _PlainFormatter(logging.Formatter):
    """The message on one line, after "warning: " where it is one."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return prefix + _one_line(record.getMessage())


def _refuse(message: str, debug: bool) -> int:
    """Say what the user can mend, with the traceback being handled where `debug`; return the exit code."""
    if debug:
        traceback.print_exc()
    lines = message.splitlines() or [""]
    _say("\n".join(["sbert-ft: error: " + _one_line(lines[0]), *map(_one_line, lines[1:])]))
    return USER_FAULT


def _sentence(error: OSError) -> str:
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{quoted(os.fspath(error.filename), limit=400)}: {reason}"


def _one_line(text: str) -> str:
    """Return the text without control characters: a file's name must not drive the terminal."""
    return quoted(text, limit=max(len(text), 1))[1:-1]


def _say(text: str) -> None:
    """Print to standard error, be it closed."""
    if sys.stderr is None:  # print would take standard output in its place
        return
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _flushed(code: int) -> int:
    """Return the code of a help text or version that has been printed, or that it cannot be."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _forget_stdout()
        return CLOSED_PIPE
    except OSError as error:
        return _refuse(_of_stdout(error) or _sentence(error), debug=False)
    return code


def _of_stdout(error: OSError) -> str:
    """Return the sentence of an error that standard output fails with, which is then given up; else nothing."""
    try:
        if error.filename is None and error.errno in _OF_STREAMS and sys.stdout is not None:
            print(flush=True)  # a nameless error may be that of anything: does standard output fail again?
    except OSError:
        _forget_stdout()
        return f"standard output cannot be written: {error.strerror or error}"
    return ""


def _hold_standard_descriptors() -> None:
    """Open nothing in the place of a standard stream that is closed.

    The next file opened would get its number, and what a library of the system writes to standard error would go into
    a result.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one


def _forget_stdout() -> None:
    """Point standard output nowhere, so that the interpreter does not complain of it at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # a stream without a descriptor
        return
