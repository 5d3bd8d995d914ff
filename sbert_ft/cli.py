"""`sbert-ft`: finds and runs the command, sets up logging, and turns every error into one line and an exit code.

A command is a module of `sbert_ft.commands` with `add_arguments(parser)`, and `run(args)` that returns the exit code.
It is imported only when its command is named, so help is printed at once. An error that the user can fix prints one
sentence and exits with 2; any other is a bug in sbert_ft, prints its traceback and exits with 1. SIGTERM and SIGHUP are
raised like Ctrl-C, so that temporary files are removed first.
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
from types import FrameType, ModuleType
from typing import Any, Final, NoReturn

from sbert_ft._version import __version__
from sbert_ft.commands.options import options_of_every_command
from sbert_ft.errors import ReportedElsewhere, ResourceError, RunInterrupted, SbertFtError, quoted

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "train": ("sbert_ft.commands.train", "fine-tune on pairs or single texts: a JSON in, a model and a report out"),
    "pretrain": ("sbert_ft.commands.pretrain", "pre-train a BERT on raw texts: masked tokens and next sentences"),
    "soup": ("sbert_ft.commands.soup", "average the models of several runs of one base, as far as dev allows"),
    "sweep": ("sbert_ft.commands.sweep", "find the recipe: train a grid of settings, judge them on dev, keep the best"),
    "evaluate": ("sbert_ft.commands.evaluate", "evaluate a model on labelled rows, and compare it with another one"),
    "encode": ("sbert_ft.commands.encode", "texts to vectors, in a .npy or .parquet file"),
    "index": ("sbert_ft.commands.index", "texts and their vectors to a folder that can be searched"),
    "search": ("sbert_ft.commands.search", "the texts of an index nearest to a question, or to each in a file"),
    "score": ("sbert_ft.commands.score", "the cosine of two texts, or of each pair in a file"),
    "mine": ("sbert_ft.commands.mine", "pairs and groups of texts that say the same, and hard negatives"),
    "predict": ("sbert_ft.commands.predict", "the class of a text or a pair, or of each in a file"),
    "export": ("sbert_ft.commands.export", "a graph of the model for ONNX Runtime or OpenVINO, also in int8"),
    "vocab": ("sbert_ft.commands.vocab", "a WordPiece vocabulary from raw texts, or more pieces for a model's"),
    "doctor": ("sbert_ft.commands.doctor", "check a model folder, and whether it fits your texts"),
    "config": ("sbert_ft.commands.config", "write, check or describe the JSON of a run"),
}

DONE, DEFECT, USER_FAULT, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 130, 141

_EPILOG = """\
exit codes:
  0    done
  1    a check failed (doctor), or a bug in sbert-ft, with its traceback
  2    something you can fix: a wrong option, file or text; nothing was written
  130  interrupted (Ctrl-C); 143 and 129: ended by SIGTERM or SIGHUP; temporary files are removed
  141  the reader of standard output closed it

Nothing here opens a network connection: MODEL is a folder on this machine.
'sbert-ft COMMAND --help' lists a command's options."""

# Read by libraries when they are imported; a value that the user has set is kept.
_LIBRARY_SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "true",
}
_LIBRARY_SILENCE = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

_OF_STREAMS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def main(argv: list[str] | None = None) -> int:
    """Run a command line, the arguments after the program's name or those of the process; return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    _hold_standard_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            with suppress(OSError, ValueError):  # a stream that was closed
                reconfigure(errors="backslashreplace")  # Hangul on a terminal that supports only ASCII
    debug = "--debug" in arguments
    try:
        with _signals_raised():
            try:
                code = _run(arguments)
            except SystemExit as stop:  # argparse: help, version, usage
                code = stop.code if isinstance(stop.code, int) else DEFECT
            if sys.stdout is not None:
                sys.stdout.flush()  # so that a closed pipe is noticed here, not when the interpreter exits
            return code
    except ReportedElsewhere as stop:
        return stop.exit_code
    except RunInterrupted as stop:
        _say(f"sbert-ft: {_one_line(str(stop))}")
        return 128 + stop.signal_number
    except SbertFtError as error:
        return _refuse(str(error), debug)
    except BrokenPipeError:
        _forget_stdout()
        return CLOSED_PIPE
    except KeyboardInterrupt:
        # After an interrupt inside an exec, as when dataclasses are imported, the interpreter remembers it and would
        # end by the signal instead of with our exit code. Another exec clears this.
        exec("")
        _say("sbert-ft: interrupted")
        return INTERRUPTED
    except _Ended as ended:
        (number,) = ended.args
        _say(f"sbert-ft: ended by {signal.Signals(number).name}")
        return 128 + int(number)
    except Exception as error:
        # The outermost handler: it only reports the error.
        if isinstance(error, OSError) and error.errno is not None:
            return _refuse(_of_stdout(error) or _sentence(error), debug)
        traceback.print_exc()
        _say("sbert-ft: this is a bug in sbert-ft; please report it with the lines above")
        return DEFECT


def _run(arguments: list[str]) -> int:
    """Parse the arguments and run the command that they name."""
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    command = import_module(COMMANDS[named][0]) if named in COMMANDS else None
    args = _parser(named, command).parse_args(arguments)
    assert command is not None  # the parser refuses any other name, and a missing one
    args.quiet, args.debug = "quiet" in args, "debug" in args
    if sys.flags.optimize > 1 and named != "config":
        raise ResourceError("transformers does not run under python -OO, which strips docstrings", "take -O or none")
    for name, value in (_LIBRARY_SETTINGS if args.debug else _LIBRARY_SETTINGS | _LIBRARY_SILENCE).items():
        os.environ.setdefault(name, value)
    with _log_to_stderr(quiet=args.quiet, debug=args.debug), warnings.catch_warnings():
        if not args.debug and not sys.warnoptions:
            warnings.simplefilter("ignore")  # those of libraries; our own warnings are logged
        code: int = command.run(args)
        return code


def _parser(named: str | None, command: ModuleType | None) -> argparse.ArgumentParser:
    """Return the parser of the whole command line; of the commands, only the named one has its options."""
    form: dict[str, Any] = {"parents": [options_of_every_command()], "allow_abbrev": False}
    form["formatter_class"] = argparse.RawDescriptionHelpFormatter
    description = "Embed, score and classify texts with a local BERT, offline."
    parser = _Parser(prog="sbert-ft", description=description, epilog=_EPILOG, **form)
    parser.add_argument("--version", action="version", version=f"sbert-ft {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, (_, summary) in COMMANDS.items():
        description = f"{summary[0].upper()}{summary[1:]}."
        sub = commands.add_parser(name, help=summary, description=description, **form)
        if command is not None and name == named:
            command.add_arguments(sub)
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line, like every other error of the command line."""

    def error(self, message: str) -> NoReturn:
        _say(f"sbert-ft: error: {_one_line(message)} (see {self.prog} --help)")
        raise SystemExit(USER_FAULT)


class _Ended(BaseException):
    """The number of a signal to end the process; a `BaseException`, so that no `except Exception` catches it."""


@contextmanager
def _signals_raised() -> Iterator[None]:
    """Raise `_Ended` on SIGTERM and SIGHUP inside the block, so that temporary files are removed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Ended(number)

    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {}
    if threading.current_thread() is threading.main_thread():
        # An ignored signal stays ignored: nohup relies on it.
        before = {number: signal.signal(number, end) for number in wanted if signal.getsignal(number) == signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _log_to_stderr(*, quiet: bool, debug: bool) -> Iterator[None]:
    """Write the log messages of sbert_ft to standard error as plain lines; other libraries' logging is unchanged."""
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
    """Formats a message as one line, with its level in front ("warning: ") unless that is INFO."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return prefix + _one_line(record.getMessage())


def _refuse(message: str, debug: bool) -> int:
    """Print an error that the user can fix, after its traceback if `debug`; return the exit code."""
    if debug:
        traceback.print_exc()
    lines = message.splitlines() or [""]
    _say("\n".join(["sbert-ft: error: " + _one_line(lines[0]), *map(_one_line, lines[1:])]))
    return USER_FAULT


def _sentence(error: OSError) -> str:
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{quoted(os.fspath(error.filename), limit=400)}: {reason}"


def _one_line(text: str) -> str:
    """Return the text with control characters escaped: a file name must not send commands to the terminal."""
    return quoted(text, limit=max(len(text), 1))[1:-1]


def _say(text: str) -> None:
    """Print to standard error; do nothing if it is closed."""
    if sys.stderr is None:  # print would write to standard output instead
        return
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _of_stdout(error: OSError) -> str:
    """Return the message if standard output caused the error (it is then redirected to nowhere), or ""."""
    try:
        if error.filename is None and error.errno in _OF_STREAMS and sys.stdout is not None:
            print(flush=True)  # an error without a file name can have any source: does standard output fail again?
    except OSError:
        _forget_stdout()
        return f"standard output cannot be written: {error.strerror or error}"
    return ""


def _hold_standard_descriptors() -> None:
    """Open the null device in the place of each closed standard stream: a result must not get its number."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one


def _forget_stdout() -> None:
    """Redirect standard output to the null device, so that the interpreter does not report an error at exit."""
    with suppress(OSError, ValueError):  # a stream without a descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
