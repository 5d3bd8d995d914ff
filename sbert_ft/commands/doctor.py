"""`sbert-ft doctor`: prints a table of checks of a model folder, and of how it fits texts.

On a terminal the lines are wrapped at its width; in a file or a pipe each check is one line, for searching.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from sbert_ft.commands import options
from sbert_ft.errors import quoted

if TYPE_CHECKING:
    from sbert_ft.data.table import Table
    from sbert_ft.doctor.checks import Check

_EPILOG = """\
examples:
  sbert-ft doctor MODEL
  sbert-ft doctor MODEL --texts pairs.csv
  sbert-ft doctor MODEL --texts reviews.tsv --column document --max-seq-length 64

OK: nothing to do. WARN: it runs, but something may be wrong. FAIL: it cannot be loaded, or is not
usable for these texts. The exit code is 0 without a FAIL and 1 with one."""

_LEAST_WIDTH = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    options.add_model_argument(parser)
    add = parser.add_argument
    add("--texts", metavar="FILE", help="also check how MODEL fits these texts: .txt, .csv, .jsonl, .xlsx and others")
    options.add_text_columns_options(parser)
    add("--max-seq-length", type=options.positive, metavar="N", help="tokens a text may have; default: MODEL's")
    add("--deep", action="store_true", help="read the tensors too (checksums, NaN), and run the model")
    add("--json", action="store_true", help="print a JSON array instead of the table")
    options.add_reading_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the checks and return the exit code."""
    texts, texts_a_row = _texts(args)
    from sbert_ft.doctor.folder import examine

    checks = examine(args.model, texts, args.max_seq_length, deep=args.deep, texts_a_row=texts_a_row)
    if args.json:
        shown = ("name", "status", "found", "hint")
        content = [{name: getattr(check, name) for name in shown} for check in checks]
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        on_terminal = sys.stdout is not None and sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if on_terminal else None
        print("\n".join(table_lines(checks, width)))
    return 1 if any(check.status == "FAIL" for check in checks) else 0


def table_lines(checks: Sequence[Check], width: int | None) -> list[str]:
    """Return the lines of the table, wrapped at `width` characters unless it is None, the last one with the counts."""
    indent = 6 + 2 + max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        text = f"{check.status:<6}{check.name:<{indent - 6}}{check.found}" + (f"; {check.hint}" if check.hint else "")
        if width is None or width < indent + _LEAST_WIDTH:
            lines.append(text)
        else:
            # one column is left free: some terminals wrap a line that fills the last one
            lines += textwrap.wrap(
                text, width - 1, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
            )
    counts = [f"{sum(check.status == status for check in checks)} {status}" for status in ("OK", "WARN", "FAIL")]
    return [*lines, ", ".join(counts)]


def _texts(args: argparse.Namespace) -> tuple[Iterator[str] | None, Literal[1, 2]]:
    """Return the texts of the file (of a pair, one after the other; None without a file) and those in a row."""
    if args.texts is None:
        unused = ("column", "columns", "encoding", "delimiter", "kind")
        options.refuse_given(args, unused, "says how to read texts, but none are given", "add --texts FILE")
        return None, 1
    table = options.open_given_table(args, args.texts)
    columns = options.columns_of_texts(table, args)
    return _cells(table, columns), 2 if len(columns) == 2 else 1


def _cells(table: Table, columns: tuple[int, ...]) -> Iterator[str]:
    """Yield the texts; empty cells and null become empty texts, which the checks count."""
    from sbert_ft.data.formats import Missing
    from sbert_ft.data.table import Row

    def no_text(row: Row) -> tuple[str, str] | None:
        for column, value in zip(columns, row.values, strict=True):
            if not (isinstance(value, str) or value is None or value is Missing.MISSING):
                found = f"{type(value).__name__} {quoted(value, limit=40)}"
                problem = f"column {quoted(table.format.columns[column])}: expected a text, found {found}"
                return problem, "name another column"
        return None

    for row in table.checked_rows(columns, no_text):
        yield from (value if isinstance(value, str) else "" for value in row.values)
