"""How good a recipe is: the whole run of a configuration, with several seeds, on dev and test.

    python benchmarks/quality.py --recipe configs/sts_cosine.json --data stsb --peer
    python benchmarks/quality.py --recipe configs/sts_cosent.json --data korsts --seeds 1 2 3
    python benchmarks/quality.py --recipe configs/pairs_in_batch_negatives.json --data nli
    python benchmarks/quality.py --recipe configs/sts_cosine.json --data stsb --set training.epochs=4
    python benchmarks/quality.py --recipe configs/sentiment_single.json --data nsmc --model e5/ --set training.epochs=1
    python benchmarks/quality.py --recipe configs/nli_joined.json --data nli_en --set training.epochs=1
    python benchmarks/quality.py --recipe configs/sts_adversarial.json configs/sts_cosent_long.json --data stsb \\
        --uniform --held-out --peer --peer-recipe configs/sts_cosent_long.json --peer-set training.epochs=4 \\
        --peer-set training.learning_rate=5e-5

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
import shutil
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
    from collections.abc import Callable, Sequence

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
    stems = "+".join(recipe.stem for recipe in args.recipe)
    name = args.name or "-".join(["quality", stems, *([args.data] if args.data else [])])
    contenders = ["sbert_ft", *(f"sentence-transformers {precision}" for precision in args.peer or ())]
    runs: dict[str, dict[str, Any]] = {contender: {} for contender in contenders}
    result = harness.RESULTS / f"{name}.json"
    told_of = {
        "recipe": [recipe.name for recipe in args.recipe],
        "model": args.model.name if args.model else "packaged MiniLM",
        "data": args.data,
        "overrides": args.overrides,
        "peer_overrides": args.peer_overrides,
        "soup": None if len(args.recipe) == 1 else "uniform" if args.uniform else "greedy",
        "peer_recipe": (args.peer_recipe or args.recipe[0]).name,
        "trainer_packages": peer.trainer_versions(),
    }
    if args.add and result.exists():
        refuse_others(told_of, json.loads(result.read_text("utf-8")))
    told = ["--recipe", *(str(recipe.resolve()) for recipe in args.recipe)]
    told += ["--model", str((args.model or minilm()).resolve())]
    told += [flag for flag, is_set in (("--held-out", args.held_out), ("--uniform", args.uniform)) if is_set]
    if args.keep is not None:
        told += ["--keep", str(args.keep.resolve())]
    told += [word for override in args.peer_overrides for word in ("--peer-set", override)]
    if args.peer_recipe is not None:
        told += ["--peer-recipe", str(args.peer_recipe.resolve())]
    with tempfile.TemporaryDirectory() as place:
        overrides = [*data_of(args.data, Path(place)), *args.overrides]
        told += [word for override in overrides for word in ("--set", override)]
        for seed in args.seeds:
            for contender in reversed(contenders):  # what cannot be compared is refused before ours has trained
                started = ["--worker", contender, "--seeds", str(seed)]
                runs[contender][str(seed)] = peer.in_own_process(__file__, [*told, *started])
                print(f"  seed {seed}  {contender}: {said(runs[contender][str(seed)])}", file=sys.stderr)
                if args.add and result.exists():
                    runs = with_earlier(runs, json.loads(result.read_text("utf-8")))
                content = {**told_of, "summary": summary(runs), "runs": runs}
                # a result is read elsewhere: no path of this machine in the warnings it keeps
                shown = json.dumps(content).replace(str(SHARED.resolve()), os.path.relpath(SHARED, harness.ROOT))
                path = harness.write_result(name, json.loads(shown))
    print_table(runs)
    print(f"written: {path}")


def refuse_others(told_of: dict[str, Any], earlier: dict[str, Any]) -> None:
    """End where an earlier result is not of these settings, so that nothing is trained in vain."""
    for key, value in told_of.items():
        if key in earlier and earlier[key] != value:
            raise SystemExit(f"--add: the result is of {key} {earlier[key]}, not {value}; give another --name")


def with_earlier(runs: dict[str, dict[str, Any]], earlier: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the runs, and those of other seeds and contenders in an earlier result."""
    names = dict.fromkeys([*runs, *earlier["runs"]])
    both = {name: earlier["runs"].get(name, {}) | runs.get(name, {}) for name in names}
    return {name: dict(sorted(by_seed.items())) for name, by_seed in both.items()}


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        *("--recipe",), type=Path, nargs="+", required=True, help="a run's JSON, such as configs/sts_cosine.json"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--model", type=Path, help="folder; the packaged MiniLM where none is given")
    parser.add_argument(
        "--data", choices=["stsb", "korsts", "nli", "nli_en", "nsmc"], help="in place of the recipe's; see README.md"
    )
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="as in train")
    parser.add_argument("--peer", nargs="*", choices=["float32", "bfloat16"], help="compare; float32 if none is named")
    parser.add_argument("--peer-recipe", type=Path, help="what the peer trains, if it is not the first recipe")
    parser.add_argument("--peer-set", dest="peer_overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--uniform", action="store_true", help="the soup has all recipes, whatever dev says")
    parser.add_argument("--held-out", action="store_true", help="judge by STS12 to STS14 too")
    parser.add_argument("--name", help="of the result's file")
    parser.add_argument("--add", action="store_true", help="keep other seeds that the result's file has already")
    parser.add_argument("--keep", type=Path, help="folder for runs and soups; finished runs in it are taken")
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

    `nli` trains on the pairs of an NLI corpus that follow from each other, and is judged by the STS benchmark. `nli_en`
    trains a classifier of pairs on all its rows, judged by its own dev. `nsmc` trains one of texts on the first 10,000
    Korean reviews, with the next 2,000 as dev and 5,000 others as test.

    Args:
        name: stsb, korsts, nli, nli_en, nsmc; None for what the recipe says.
        place: A folder for files that have to be made.
    """
    if name is None:
        return []
    if not SHARED.exists():
        raise SystemExit(f"{SHARED} is absent: --data needs the data sets that benchmarks/README.md names")
    if name == "nsmc":
        files = reviews(place)
        words = {"classes": ["0", "1"], "text_columns": ["document"], "label_column": "label", **files}
        return [*(f"data.{key}={json.dumps(value)}" for key, value in words.items()), "training.metric=accuracy"]
    if name == "nli_en":
        files = {part: str(SHARED / "nli_en" / f"{part}.tsv") for part in ("train", "dev")}
        words = {"text_columns": ["premise", "hypothesis"], "label_column": "label", "test": None, **files}
        return [*(f"data.{key}={json.dumps(value)}" for key, value in words.items()), "training.metric=accuracy"]
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


def reviews(place: Path) -> dict[str, str]:
    """Write the parts of NSMC that are used into a folder, and return their paths by part."""
    lines = {part: (SHARED / "nsmc" / f"{part}.txt").read_text("utf-8").splitlines() for part in ("train", "test")}
    header, *train = lines["train"]
    parts = {"train": train[:10_000], "dev": train[10_000:12_000], "test": lines["test"][1:5_001]}
    for part, rows in parts.items():
        (place / f"nsmc-{part}.txt").write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return {part: str(place / f"nsmc-{part}.txt") for part in parts}


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Be one seed's process: train, and return what dev and test say of it."""
    from sbert_ft.config.loader import read_run

    is_ours = args.worker == "sbert_ft"
    with tempfile.TemporaryDirectory() as temporary:
        is_kept = args.keep is not None and is_ours
        place = args.keep / f"seed-{args.seeds[0]}" if is_kept else Path(temporary)
        settings = []
        for recipe in args.recipe if is_ours else [args.peer_recipe or args.recipe[0]]:
            ours = [f"model.path={json.dumps(str(args.model))}", *args.overrides]
            ours += [] if is_ours else args.peer_overrides
            ours += [f"output_dir={json.dumps(str(place / recipe.stem))}", f"training.seed={args.seeds[0]}"]
            settings.append(read_run(recipe, ours))
        if is_ours:
            return run_ours(settings, args.held_out, args.uniform)
        return run_peer(settings[0], args.worker.split()[1], args.held_out)


def run_ours(recipes: Sequence[RunSettings], held_out: bool, uniform: bool) -> dict[str, Any]:
    """Carry the runs out as `sbert-ft train` does, and return what metrics.json or their soup says.

    A run whose folder holds it already is continued, or taken as it is.
    """
    from sbert_ft import SiameseBert
    from sbert_ft.training.fine_tune import load_run
    from sbert_ft.training.prepare import RunOptions
    from sbert_ft.training.run import run_training
    from sbert_ft.training.soup import soup

    runs, metric_of = [], dict[str, str]()
    for settings in recipes:
        prepared = load_run(settings)
        asked = settings.training.metric
        metric_of = {name: asked or pairs.default_metric for name, pairs in prepared.evaluator.sets.items()}
        mode = "resume" if Path(settings.output_dir, "config.json").exists() else "error"
        runs.append(run_training(prepared, RunOptions(mode=mode)))
    first = runs[0].metrics
    result = {name: first[name] for name in ("precision", "best")} | {"n_rows": len(prepared.data.train)}
    result |= {name: sum(run.metrics[name] for run in runs) for name in ("steps", "seconds")}
    result["warnings"] = [warning for run in runs for warning in run.metrics["warnings"]]
    found, model_dir = first["splits"], runs[0].model_dir
    if len(runs) > 1:
        model_dir = runs[0].folder.with_name("soup")
        if model_dir.exists():
            shutil.rmtree(model_dir)
        mixed = soup([run.folder for run in runs], model_dir, uniform=uniform)
        found = mixed.splits
        result["soup"] = [
            {"run": run.folder.name, "dev": run.value, "is_in_soup": run.is_in_soup, "dev_so_far": run.soup_value}
            for run in mixed.runs
        ]
    splits = {}
    for name, split in found.items():
        metric = metric_of[name]
        splits[name] = {
            "metric": metric,
            "n": split["n"],
            **{when: split[when][metric]["value"] for when in ("before", "after") if split.get(when)},
            "interval": [split["after"][metric]["low"], split["after"][metric]["high"]],
        }
    if held_out:
        models = {"before": recipes[0].model.path, "after": model_dir}
        scored = {when: held_out_spearman(SiameseBert.from_pretrained(folder).score) for when, folder in models.items()}
        splits["sts12_14"] = {"metric": "spearman", **{when: found["mean"] for when, found in scored.items()}}
        result["held_out"] = scored
    return {"splits": splits, **result}


def held_out_spearman(score: Callable[[list[tuple[str, str]]], Any]) -> dict[str, float]:
    """Return Spearman's correlation on STS12 to STS14, without pairs of the STS benchmark: by year, and their mean.

    That of a year is the mean over its subsets. `score` returns the cosine of each of some pairs.
    """
    from scipy.stats import spearmanr

    by_year = {}
    for year in ("sts12", "sts13", "sts14"):
        with (SHARED / "sts12_14" / f"{year}.tsv").open(encoding="utf-8", newline="") as opened:
            rows = [row for row in csv.DictReader(opened, delimiter="\t", quoting=csv.QUOTE_NONE) if not row["in_stsb"]]
        subsets: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            subsets.setdefault(row["subset"], []).append(row)
        found = []
        for some in subsets.values():
            cosines = score([(row["sentence1"], row["sentence2"]) for row in some])
            found.append(float(spearmanr(cosines, [float(row["score"]) for row in some]).statistic))
        by_year[year] = statistics.mean(found)
    return {**by_year, "mean": statistics.mean(by_year.values())}


def run_peer(settings: RunSettings, precision: str, held_out: bool) -> dict[str, Any]:
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
    if held_out:
        scored = held_out_spearman(lambda some: peer.cosines(model, some))
        splits["sts12_14"] = {"metric": "spearman", "after": scored["mean"]}
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
