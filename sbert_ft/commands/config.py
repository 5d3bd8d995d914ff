"""`sbert-ft config`: prints a run's configuration to start from, its JSON schema, or the result of checking one.

No slow package is imported, so every action runs at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from pathlib import Path

from sbert_ft.commands.options import options_of_every_command
from sbert_ft.commands.output import checked_target
from sbert_ft.errors import OutputError, quoted
from sbert_ft.files.atomic import whole_file, writing

logger = logging.getLogger(__name__)

_EPILOG = """\
examples:
  sbert-ft config init -o run.json
  sbert-ft config check run.json
  sbert-ft config check run.json --set training.learning_rate=3e-5 --set objective=cosent
  sbert-ft config schema -o run.schema.json

docs/configuration.md has a table of all keys."""

_ACTIONS = {
    "init": "print a commented configuration to start from",
    "check": "check a configuration and print it with every default",
    "schema": "print a JSON schema, with which editors complete and check keys",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(title="what to do", metavar="ACTION", dest="action", required=True)
    for name, summary in _ACTIONS.items():
        description = f"{summary[0].upper()}{summary[1:]}."
        parents = [options_of_every_command()]
        action = actions.add_parser(name, help=summary, description=description, parents=parents, allow_abbrev=False)
        if name == "check":
            action.add_argument("file", metavar="FILE", help="a run's JSON; lines that begin with // are comments")
            add_set_option(action)
        else:
            action.add_argument("-o", "--output", metavar="FILE", help="write it to a new .json file instead")


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """Declare --set; its values are the overrides of `read_run`."""
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="replace a value of FILE, such as training.epochs=2; VALUE is JSON or else a text; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Print or write what the action produces and return the exit code."""
    if args.action == "check":
        return _check(args)
    if args.action == "init":
        from sbert_ft.config.schema import commented_start

        text = commented_start()
    else:
        from sbert_ft.config.schema import json_schema

        text = json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
    if args.output is None:
        print(text, end="")
    else:
        _write_new(args.output, text)
    return 0


def _check(args: argparse.Namespace) -> int:
    """Print the resolved configuration; warn of paths that do not exist."""
    from sbert_ft.config.loader import read_run, run_to_json

    settings = read_run(args.file, args.overrides)
    print(json.dumps(run_to_json(settings), indent=2, ensure_ascii=False, allow_nan=False))
    for key, path in settings.inputs.items():
        if not os.path.exists(path):
            logger.warning("%s: there is no %s here, in %s", key, quoted(path, limit=400), os.getcwd())
    return 0


def _write_new(output: str, text: str) -> None:
    """Write a text to a file that does not exist yet."""
    target = checked_target(output, (".json", ".jsonc"), None)
    if os.path.lexists(output):
        raise OutputError(f"{quoted(output, limit=400)}: exists, and may hold what you wrote", "give another name")
    with whole_file(target) as temporary, writing(target):
        temporary.write_text(text, encoding="utf-8")
    logger.info("-> %s", quoted(Path(output), limit=400)[1:-1])
