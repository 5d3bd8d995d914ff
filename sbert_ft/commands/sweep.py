"""`sbert-ft sweep`: trains a grid of settings, judges them on dev, and keeps the best."""

from __future__ import annotations

import argparse
import logging
import re
import sys
from typing import Any

from sbert_ft.commands.config import add_set_option
from sbert_ft.commands.output import aligned
from sbert_ft.commands.train import lines_of_split
from sbert_ft.config.faults import Fault, refuse
from sbert_ft.config.jsonc import parse_json
from sbert_ft.errors import ConfigError, InputError, TrainingError, quoted

logger = logging.getLogger(__name__)

# As in `training.sweep`, which imports torch; tests/commands/test_sweep_command.py compares them.
FINALS = ("best", "average", "none")
_BUDGET = re.compile(r"(?=.)(?:([0-9]{1,4})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,8})s)?", re.ASCII)

_EPILOG = """\
examples:
  sbert-ft sweep run.json --over training.learning_rate=2e-5,5e-5,1e-4 --over objective=cosine,cosent --seeds 3
  sbert-ft sweep run.json --over training.epochs=1,2,4 --halving --budget 2h -o runs/sweep
  sbert-ft sweep run.json --over training.epochs=1,2,4 --halving --budget 2h -o runs/sweep --resume

A value is JSON or a text; commas inside of brackets, braces and quotes do not separate values. Runs do not read the
test file: they are judged on dev, and the best model is evaluated on test once, at the end. The folder holds
sweep.json, sweep.csv, sweep.html, best.json (the best configuration), model/ and runs/, with a usual run for each
setting and seed. A run that fails is noted, and the others go on; if all fail, the exit code is 1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("config", metavar="CONFIG", help="a run's JSON; see sbert-ft config")
    add("--over", metavar="KEY=A,B,...", action="append", default=[], help="values to try; repeated: all combinations")
    add(
        "--seeds", metavar="N", default="1", help="runs of each setting, from training.seed on; or seeds, such as 1,2,7"
    )
    add("-o", "--output", metavar="FOLDER", help="the sweep's folder, in place of the output_dir of CONFIG")
    add("--budget", metavar="TIME", help="such as 2h, 30m or 1h30m: begin no run that would end later")
    add("--halving", action="store_true", help="stop the worse half of the settings at 1/4 and at 1/2 of the steps")
    add(
        "--final",
        choices=FINALS,
        default="best",
        help="the model: of the best seed by dev (default), the mean of the seeds' weights, or none",
    )
    add("--resume", action="store_true", help="continue the sweep in the folder")
    add_set_option(parser)


def run(args: argparse.Namespace) -> int:
    """Run the sweep, print its table, and return the exit code."""
    over, budget, seeds = values_to_try(args.over), seconds_of(args.budget), seeds_of(args.seeds)
    from sbert_ft.training.sweep import sweep

    handlers, once = [*logging.getLogger("sbert_ft").handlers], _OnceFilter()
    for handler in handlers:
        handler.addFilter(once)
    try:
        result = sweep(
            args.config,
            over,
            seeds=seeds,
            output_dir=args.output,
            budget_seconds=budget,
            halving=args.halving,
            final=args.final,
            resume=args.resume,
            overrides=args.overrides,
            show_progress_bar=not args.quiet and sys.stderr is not None and sys.stderr.isatty(),
        )
    except TrainingError as error:
        logger.error("%s", error)
        return 1
    finally:
        for handler in handlers:
            handler.removeFilter(once)
    report = result.report
    for line in aligned(report.cells(), right_from=1):
        print(_plain(line))
    for sentence in (*report.notes, *report.test):
        print(_plain(sentence))
    for line in [] if result.test is None else lines_of_split("test", result.test):
        print(line)
    if result.winner is not None:
        print(f"config: {_plain(result.folder / 'best.json')}")
    if result.model_dir is not None:
        print(f"model:  {_plain(result.model_dir)}")
    print(f"report: {_plain(result.folder / 'sweep.html')}")
    return 0


class _OnceFilter(logging.Filter):
    """Leaves out what a run before has said in the same words: all of them read the same files."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the message is new, or is about the sweep."""
        message = record.getMessage()
        is_new = message not in self.said
        self.said.add(message)
        return is_new or record.name.endswith(".sweep")


def values_to_try(options: list[str]) -> dict[str, list[Any]]:
    """Return the values of each key of --over; all faults are in one `ConfigError`."""
    over, faults = dict[str, list[Any]](), list[Fault]()
    for option in options:
        key, equals, text = option.partition("=")
        key = key.strip()
        if not equals or not key:
            expected = "expected KEY=A,B,..., such as training.learning_rate=2e-5,5e-5"
            faults.append(Fault(f"--over {quoted(option)}", expected))
        elif key in over:
            faults.append(Fault(f"--over {quoted(key)[1:-1]}", "is given twice; give all values at once"))
        else:
            over[key] = [_value(part) for part in split_values(text)]
            if "" in over[key]:
                faults.append(Fault(f"--over {quoted(key)[1:-1]}", 'has an empty value; write "" for an empty text'))
    refuse("the sweep", faults)
    return over


def split_values(text: str) -> list[str]:
    """Return the parts of a text between commas that are not inside of brackets, braces or quotes."""
    parts, depth, is_quoted, is_escaped = [""], 0, False, False
    for character in text:
        if character == "," and not depth and not is_quoted:
            parts.append("")
            continue
        parts[-1] += character
        if is_quoted:
            is_quoted = character != '"' or is_escaped
            is_escaped = character == "\\" and not is_escaped
        elif character == '"':
            is_quoted = True
        else:
            depth = max(0, depth + (character in "[{") - (character in "]}"))
    return [part.strip() for part in parts]


def _value(text: str) -> Any:
    try:
        return parse_json(text, "")
    except ConfigError:
        return text


def seconds_of(text: str | None) -> float | None:
    """Return the seconds of a time such as 2h, 30m, 90s or 1h30m; None for None.

    Raises:
        InputError: It is no such time.
    """
    if text is None:
        return None
    found = _BUDGET.fullmatch(text)
    seconds = sum(int(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0
    if not seconds:
        raise InputError(f"--budget is {quoted(text)}, expected a time such as 2h, 30m, 90s or 1h30m")
    return float(seconds)


def seeds_of(text: str) -> int | list[int]:
    """Return the number of seeds, or the seeds of a list.

    Raises:
        InputError: It is neither.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) <= 10 for part in parts):
        raise InputError(f"--seeds is {quoted(text)}, expected their number, or seeds such as 1,2,7")
    return int(parts[0]) if len(parts) == 1 else list(map(int, parts))


def _plain(text: object) -> str:
    """Return a text with control characters escaped: a name must not control the terminal."""
    return quoted(text, limit=4096)[1:-1]
