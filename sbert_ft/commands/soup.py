"""`sbert-ft soup`: one model from several finished runs, by averaging their weights."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sbert_ft.commands.output import aligned, cell
from sbert_ft.config.metrics import METRICS
from sbert_ft.errors import quoted, shown

if TYPE_CHECKING:
    from sbert_ft.training.soup import SoupResult

_EPILOG = """\
examples:
  sbert-ft soup runs/seed-1 runs/seed-2 runs/seed-3 -o model
  sbert-ft soup runs/* -o model --uniform

Each RUN is the folder (output_dir) of a finished run. All have started from the same model, and have the same
dev. They are sorted by their metric on dev; each is tried in the mean, and kept where dev does not get worse
(Wortsman et al. 2022, Model soups). Paths in the runs' configurations start at the current directory, as in
training. MODEL gets a whole model: its threshold and calibration are fitted anew on dev."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments and options."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="+", help="folders of finished runs, at least two")
    add("-o", "--output", metavar="MODEL", required=True, help="where to write the model; empty or new")
    add("--uniform", action="store_true", help="the mean of all runs, whatever dev says")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1 or mps; default: that of the best run's configuration")


def run(args: argparse.Namespace) -> int:
    """Average the runs, print what is in the soup, and return the exit code."""
    from sbert_ft.training.soup import soup

    _show(soup(args.runs, args.output, uniform=args.uniform, device=args.device))
    return 0


def _show(result: SoupResult) -> None:
    """Print a row for each run, and the test values of the best run and of the soup."""
    rows = [("run", "in the soup", "seed", f"dev {METRICS[result.metric].short}", "dev of the soup so far")]
    for its in result.runs:
        value = "-" if its.soup_value is None else f"{its.soup_value:.4f}"
        taken = "yes" if its.is_in_soup else "no"
        rows.append((quoted(its.folder, limit=400)[1:-1], taken, str(its.seed), f"{its.value:.4f}", value))
    print("\n".join(aligned(rows, right_from=2)))
    n_taken = sum(its.is_in_soup for its in result.runs)
    if n_taken == 1:
        print("no other run made the mean better on dev: the soup is the best run")
    test, of_best = (splits.get("test", {}).get("after", {}) for splits in (result.splits, result.best_splits))
    names = [result.metric] if result.metric in test else list(test)[:1]
    for name in names:
        print(f"test {METRICS[name].short}: best run {cell(of_best.get(name))}, soup {cell(test[name])}")
    print(f"wrote {shown(result.folder)}")
