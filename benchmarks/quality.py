"""How good a recipe is: the whole run of a configuration, with several seeds, on dev and test.

    python benchmarks/quality.py --recipe configs/sts_cosine.json --data stsb --peer
    python benchmarks/quality.py --recipe configs/sts_cosent.json --data korsts --seeds 1 2 3
    python benchmarks/quality.py --recipe configs/pairs_in_batch_negatives.json --data nli
    python benchmarks/quality.py --recipe configs/sts_cosine.json --data stsb --set training.epochs=4

Each seed is a process of its own. `--peer` trains sentence-transformers' own trainer on the same rows with the same
settings, seed by seed: in float32 as it comes, or also in what else is named. Where a run has several epochs, both
sides keep the one that is best on dev. Recipes are chosen by dev; test is looked at once they are.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
import peer_training as peer
import texts as corpus
from encode import minilm

if TYPE_CHECKING:
    from sbert_ft.config.settings import RunSettings

PARTS = ("train", "dev", "test")
SHARED = corpus.DATA.parent


def main() -> None:
    """Run every seed, print a table in Markdown, and write benchmarks/results/quality-<recipe>-<data>.json."""
    args = arguments()
    if args.answer:
        logging.basicConfig(level=logging.WARNING)
        peer.answer(args.answer, lambda: work(args))
        return
    name = args.name or "-".join(["quality", args.recipe.stem, *([args.data] if args.data else [])])
    contenders = ["sbert_ft", *(f"sentence-transformers {precision}" for precision in args.peer or ())]
    runs: dict[str, dict[str, Any]] = {contender: {} for contender in contenders}
    told = ["--recipe", str(args.recipe.resolve()), "--model", str((args.model or minilm()).resolve())]
    with tempfile.TemporaryDirectory() as place:
        overrides = [*data_of(args.data, Path(place)), *args.overrides]
        told += [word for override in overrides for word in ("--set", override)]
        for seed in args.seeds:
            for contender in reversed(contenders):  # what cannot be compared is refused before ours has trained
                started = ["--worker", contender, "--seeds", str(seed)]
                runs[contender][str(seed)] = peer.in_own_process(__file__, [*told, *started])
                print(f"  seed {seed}  {contender}: {said(runs[contender][str(seed)])}", file=sys.stderr)
                content = {"recipe": args.recipe.name, "data": args.data, "overrides": args.overrides}
                content["trainer_packages"] = peer.trainer_versions()
                content |= {"summary": summary(runs), "runs": runs}
                # a result is read elsewhere: no path of this machine in the warnings it keeps
                shown = json.dumps(content).replace(str(SHARED.resolve()), os.path.relpath(SHARED, harness.ROOT))
                path = harness.write_result(name, json.loads(shown))
    print_table(runs)
    print(f"written: {path}")


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True, help="a run's JSON, such as configs/sts_cosine.json")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--model", type=Path, help="folder; the packaged MiniLM where none is given")
    parser.add_argument("--data", choices=["stsb", "korsts", "nli"], help="in place of the recipe's; see README.md")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="as in train")
    parser.add_argument("--peer", nargs="*", choices=["float32", "bfloat16"], help="compare; float32 if none is named")
    parser.add_argument("--name", help="of the result's file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer == []:
        args.peer = ["float32"]
    if args.peer and not peer.trainer_is_installed():
        parser.error(f"--peer needs {' and '.join(peer.TRAINER_PACKAGES)}: pip install 'sbert-ft[bench]'")
    return args


def data_of(name: str | None, place: Path) -> list[str]:
    """Return the settings that put a data set in the place of a recipe's.

    `nli` trains on the pairs of an NLI corpus that follow from each other, and is judged by the STS benchmark.

    Args:
        name: stsb, korsts, nli; None for what the recipe says.
        place: A folder for files that have to be made.
    """
    if name is None:
        return []
    if not SHARED.exists():
        raise SystemExit(f"{SHARED} is absent: --data needs the data sets that benchmarks/README.md names")
    suffix = {"stsb": "csv", "korsts": "tsv", "nli": "csv"}[name]
    files = {part: SHARED / ("stsb" if name == "nli" else name) / f"{part}.{suffix}" for part in PARTS}
    if name == "nli":
        files["train"] = place / "entailments.csv"
        with (SHARED / "nli_en" / "train.tsv").open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened, delimiter="\t", quoting=csv.QUOTE_NONE))
        with files["train"].open("w", encoding="utf-8", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["sentence1", "sentence2"])
            writer.writerows([r["premise"], r["hypothesis"]] for r in rows if r["label"] == "entailment")
    scale = "null" if name == "nli" else "[0, 5]"
    return [*(f"data.{part}={json.dumps(str(files[part]))}" for part in PARTS), f"data.score_range={scale}"]


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Be one seed's process: train, and return what dev and test say of it."""
    from sbert_ft.config.loader import read_run

    with tempfile.TemporaryDirectory() as place:
        ours = [f"model.path={json.dumps(str(args.model))}", *args.overrides]
        ours += [f"output_dir={json.dumps(str(Path(place) / 'run'))}", f"training.seed={args.seeds[0]}"]
        settings = read_run(args.recipe, ours)
        if args.worker == "sbert_ft":
            return run_ours(settings)
        return run_peer(settings, args.worker.split()[1])


def run_ours(settings: RunSettings) -> dict[str, Any]:
    """Carry the run out as `sbert-ft train` does, and return what its metrics.json says."""
    from sbert_ft.training.fine_tune import load_run
    from sbert_ft.training.prepare import RunOptions
    from sbert_ft.training.run import run_training

    prepared = load_run(settings)
    metrics = run_training(prepared, RunOptions()).metrics
    splits = {}
    for name, split in metrics["splits"].items():
        metric = prepared.evaluator.sets[name].default_metric
        splits[name] = {
            "metric": metric,
            "n": split["n"],
            **{when: split[when][metric]["value"] for when in ("before", "after")},
            "interval": [split["after"][metric]["low"], split["after"][metric]["high"]],
        }
    kept = ("precision", "steps", "seconds", "best", "warnings")
    return {"splits": splits, **{name: metrics[name] for name in kept}, "n_rows": len(prepared.data.train)}


def run_peer(settings: RunSettings, precision: str) -> dict[str, Any]:
    """Train sentence-transformers' trainer on the run's rows, and judge it by the run's pairs."""
    from sbert_ft.training.fine_tune import load_run

    if len(settings.objective) != 1 or settings.training.early_stopping_patience or settings.training.eval_steps:
        raise SystemExit("--peer compares runs with one objective, evaluated at the end of each epoch")
    prepared = load_run(settings)
    data = prepared.data
    run = peer.PeerRun(settings.model, settings.objective[0], settings.training, precision == "bfloat16")
    clock = peer.Clock(1, run.n_steps(len(data.train)))  # speed is the other script's matter
    model = peer.train_by_trainer(run, data.train, clock, data.dev)
    splits = {}
    for name, pairs in prepared.evaluator.sets.items():
        metric = pairs.default_metric
        after = pairs.metrics(peer.cosines(model, list(pairs.texts()))).value(metric)
        splits[name] = {"metric": metric, "n": len(pairs), "after": after}
    return {"splits": splits, "precision": precision, "steps": clock.n_steps, "n_rows": len(data.train)}


def said(run: dict[str, Any]) -> str:
    """Return a run's scores on a line."""
    return ", ".join(
        f"{name} {split['metric']} {split['after']:.4f}"
        for name, split in run["splits"].items()
        if split["after"] is not None
    )


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return, by contender, split and before or after, the mean over seeds, the least and the most."""
    result: dict[str, Any] = {}
    for contender, by_seed in runs.items():
        for run in by_seed.values():
            for name, split in run["splits"].items():
                place = result.setdefault(contender, {}).setdefault(name, {"metric": split["metric"]})
                for when in ("before", "after"):
                    if split.get(when) is not None:
                        place.setdefault(when, []).append(split[when])
    for splits in result.values():
        for place in splits.values():
            for when in ("before", "after"):
                values = place.get(when)
                if values:
                    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
                    rounded = {"mean": statistics.mean(values), "least": min(values), "most": max(values)}
                    place[when] = {key: round(value, 4) for key, value in rounded.items()}
                    place[when]["deviation"] = None if math.isnan(deviation) else round(deviation, 4)
    return result


def print_table(runs: dict[str, dict[str, Any]]) -> None:
    """Print what each seed reached, and the mean with the least and the most, in Markdown."""
    table = summary(runs)
    splits = list(next(iter(table.values())))
    columns = [(name, when) for name in splits for when in ("before", "after")]
    metric = {name: table["sbert_ft"][name]["metric"].replace("_", " ") for name in splits}
    headings = [f"{name} {metric[name]} {when}" for name, when in columns]
    print(f"\n| | seed | {' | '.join(headings)} |")
    print("| " + " | ".join(["---"] * (2 + len(headings))) + " |")
    for contender, by_seed in runs.items():
        for seed, run in by_seed.items():
            values = [run["splits"][name].get(when) for name, when in columns]
            print(f"| {contender} | {seed} | {' | '.join('' if v is None else f'{v:.4f}' for v in values)} |")
        means = [table[contender][name].get(when) for name, when in columns]
        shown = ["" if m is None else f"**{m['mean']:.4f}** ({m['least']:.4f}-{m['most']:.4f})" for m in means]
        print(f"| {contender} | mean | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
