"""Fill the tables and plots of benchmarks/README.md from the results. Without a change in them, it changes nothing.

    python benchmarks/tables.py            # write
    python benchmarks/tables.py --check    # say what is out of date, and end with 1

A region stands between `<!-- name -->` and `<!-- /name -->`; everything outside is written by hand and stays.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import goals
import harness
import plots

README = harness.ROOT / "benchmarks" / "README.md"
PLOTS = harness.ROOT / "benchmarks" / "plots"
SHOWN = {
    "encode-cpu": "texts",
    "encode-cpu-avx2": "texts",
    "engines-cpu": "texts",
    "engines-cpu-avx2": "texts",
    "train-cpu": "pairs",
    "train-cpu-avx2": "pairs",
    "pretrain-cpu": "tokens",
    "search-cpu": "queries",
    "encode-gpu": "texts",
    "train-gpu": "pairs",
    "train-gpu-base": "pairs",
}
MARKS = {"goal": "✓✓ goal", "floor": "✓ floor", "missed": "✗"}
SETS = {
    "short": "short: STS-B sentences",
    "mid": "mid: sentences joined to about 60 tokens",
    "long": "long: sentences joined to about 250 tokens",
    "base-short": "base-short: STS-B sentences, BERT-base of random weights",
    "base-mid": "base-mid: about 60 tokens, BERT-base of random weights",
    "base-long": "base-long: about 250 tokens, BERT-base of random weights",
    "search": "search: the 10 nearest of 1,000,000 vectors",
    "mine": "mine: pairs among all vectors whose cosine reaches 0.9",
}
ITEMS = {"mine": "texts"}  # of a set, where they are others than those of its result


def main() -> None:
    """Write the README and the plots, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where something would change")
    check = parser.parse_args().check
    wanted = files(read_results(harness.RESULTS), README.read_text("utf-8"))
    stale = [path for path, content in wanted.items() if not path.exists() or path.read_text("utf-8") != content]
    stale += [path for path in sorted(PLOTS.glob("*.svg")) if path not in wanted]
    for path in stale:
        print(f"{'out of date' if check else 'written'}: {path.relative_to(harness.ROOT)}")
        if not check and path in wanted:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path], "utf-8")
        elif not check:
            path.unlink()
    sys.exit(1 if check and stale else 0)


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the content of every result, by name."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


def files(results: dict[str, dict[str, Any]], readme: str) -> dict[Path, str]:
    """Return what the README and each plot should hold."""
    by_region = {"goals": goals.CPU, "goals-engines": goals.ENGINES, "goals-gpu": goals.GPU}
    wanted, regions = {}, {region: goal_table(wanted, results) for region, wanted in by_region.items()}
    for name, item in SHOWN.items():
        if name not in results:
            regions[name] = "Not measured."
            continue
        regions[name], drawn = section(name, results[name], item)
        wanted |= drawn
    return {README: filled(readme, regions), **wanted}


def filled(document: str, regions: dict[str, str]) -> str:
    """Return a document with its regions replaced.

    Raises:
        SystemExit: The document does not have exactly one region of a name.
    """
    for name, content in regions.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        if document.count(opening) != 1 or document.count(closing) != 1:
            raise SystemExit(f"the document needs one region from {opening} to {closing}")
        before, rest = document.split(opening)
        document = f"{before}{opening}\n{content}\n{closing}{rest.split(closing)[1]}"
    return document


def goal_table(wanted: tuple[goals.Goal, ...], results: dict[str, dict[str, Any]]) -> str:
    """Return measured, floor and goal of each row."""
    rows = ["| | measured | | floor | goal |", "| --- | --- | --- | --- | --- |"]
    for goal in wanted:
        found = goals.reached(goal, results)
        limits = [said(goal, limit) if limit is not None else "" for limit in (goal.floor, goal.goal)]
        if not found:
            rows.append(f"| {goal.what} | not measured | | {limits[0]} | {limits[1]} |")
        for one in found:
            spread = "" if one.least is None or one.most is None else f" ({one.least:.2f}-{one.most:.2f})"
            what = f"{goal.what}{f', {one.how}' if one.how else ''}"
            rows.append(f"| {what} | {said(goal, one.value)}{spread} | {MARKS[one.mark]} | {limits[0]} | {limits[1]} |")
    return "\n".join(rows)


def said(goal: goals.Goal, value: float) -> str:
    """Return a figure with its unit."""
    if goal.kind == "share of the matrix rate":
        return f"{value:.0%} of the matrix rate"
    if goal.kind == "GiB at most":
        return f"{value:.1f} GiB"
    if goal.kind in ("Spearman lost", "mean cosine", "recall@10"):
        return f"{round(value, 4) + 0.0:.4f}"  # no minus before a zero
    return f"{value:.2f} times" + (" their memory" if goal.kind == "of the peer's memory" else "")


def section(name: str, result: dict[str, Any], item: str) -> tuple[str, dict[Path, str]]:
    """Return the text and tables of a result, and its plots."""
    parts, drawn = [provenance(name, result)], {}
    for key, table in result.get("sets", result.get("batch_sizes", {})).items():
        title, item = SETS.get(key, f"batch {key}"), ITEMS.get(key, item)
        counted = counts_of(table, item)
        parts += [f"**{title}**: {counted}{rates_of(table)}", contender_table(table, item)]
        parts += skipped(table)
        file = PLOTS / f"{name}-{key}.svg"
        drawn[file] = plots.bar_chart(file.stem, f"{title}, {item} a second", f"{item}/s", plots.bars_of(table))
        parts.append(f"![{title}: {item} a second](plots/{file.name})")
    return "\n\n".join(parts), drawn


def provenance(name: str, result: dict[str, Any]) -> str:
    """Return on what, when and by which command a result was measured."""
    machine = result["machine"]
    versions = ", ".join(f"{package} {machine['packages'][package]}" for package in ("torch", "transformers"))
    versions += f", sentence-transformers {machine['packages']['sentence-transformers']}"
    if name.startswith("engines"):
        versions += "".join(f", {package} {machine['packages'][package]}" for package in harness.ENGINE_PACKAGES)
    has = [word for key, word in (("avx512_bf16", "AVX512-BF16"), ("amx_bf16", "AMX")) if machine[key]]
    where = machine["card"] or f"{machine['threads']} threads of {machine['processor']}"
    where += "" if machine["card"] else f" ({' and '.join(has) or 'no bfloat16 products'})"
    if result.get("isa"):
        where += f", limited to {result['isa'].upper()}"
    peers = {
        k: v for t in result.get("sets", {}).values() for k, v in t.get("environments", {}).get("peers", {}).items()
    }
    own = [f"{package} {version}" for package, version in peers.items() if version != "not installed"]
    beside = f" The peers' ONNX and OpenVINO, in their own environment: {', '.join(own)}." if own else ""
    file = f"[results/{name}.json](results/{name}.json)"
    return f"{machine['date']}, {where}, {versions}; `{machine['command']}`; {file}.{beside}"


def counts_of(table: dict[str, Any], item: str) -> str:
    """Return how much was measured."""
    if item == "pairs":
        return f"{table['n_pairs_timed']:,} pairs timed"
    if "n_vectors" in table:
        built = [f"{method} in {seconds:.0f} s" for method, seconds in table["seconds_to_build"].items()]
        return f"{table['n_vectors']:,} vectors" + (f"; the index was built: {', '.join(built)}" if built else "")
    if item == "tokens":
        return f"{table['n_tokens']:,} tokens timed"
    return f"{table['n_texts']:,} texts, {table['mean_tokens']} tokens on average, longest {table['longest']}"


def rates_of(table: dict[str, Any]) -> str:
    """Return the matrix rates that were measured beside a table."""
    found = [f"{p} {v:,.0f}" for p, v in table.get("rate", {}).items() if p != "size"]
    return f". Matrix rate, GFLOP/s: {', '.join(found)}" if found else ""


def contender_table(table: dict[str, Any], item: str) -> str:
    """Return a table of contenders: speed, share of the matrix rate, memory, quality; and ours against each.

    Ours are the default one, and of those that an engine runs the fastest of each precision.
    """
    engines, own = fastest_engines(table), [name for name in table["times_faster"] if not _engine(name)]
    own = headline([name for name in own if "auto" in name] or own)
    ours = [*own, *engines]
    quality = any(_quality(one) for one in table["contenders"].values())
    cosine = any("mean_cosine" in one for one in table["contenders"].values())
    heads = ["", f"{item}/s", "of the matrix rate", "peak memory, MiB", *(["STS-B test Spearman"] if quality else [])]
    heads += ["mean cosine to float32 (lowest)"] if cosine else []
    heads += [f"{_short(name)} is faster by" for name in ours] + [f"{_short(name)} takes of its memory" for name in own]
    rows = [f"| {' | '.join(heads)} |", f"| {' | '.join(['---'] * len(heads))} |"]
    for name, one in table["contenders"].items():
        share = f"{one['share']:.0%} ({one['precision']})" if "share" in one else ""
        cells = [name, f"{one['per_second']:,} ({one['least']:,}-{one['most']:,})", share, f"{one['peak_mib']:,}"]
        cells += [_quality(one)] if quality else []
        cells += [f"{one['mean_cosine']:.4f} ({one['lowest_cosine']:.4f})" if "mean_cosine" in one else ""] * cosine
        ratios = [table["times_faster"][mine].get(name) for mine in ours]
        cells += [f"{r['median']} ({r['least']}-{r['most']})" if r else "" for r in ratios]
        memory = [table.get("memory_ratio", {}).get(mine, {}).get(name) for mine in own]
        cells += [f"{value:.2f}" if value is not None else "" for value in memory]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def headline(names: list[str]) -> list[str]:
    """Return one contender of ours of each kind: of several batch sizes, the first."""
    kept: dict[str, str] = {}
    for name in names:
        kept.setdefault(_short(name), name)
    return list(kept.values())


def fastest_engines(table: dict[str, Any]) -> list[str]:
    """Return of ours that ONNX Runtime or OpenVINO runs the fastest of each precision."""
    rates = {name: table["contenders"][name]["per_second"] for name in table["times_faster"] if _engine(name)}
    best: dict[str, str] = {}
    for name in sorted(rates, key=lambda name: -rates[name]):
        best.setdefault(table["contenders"][name]["precision"], name)
    return list(best.values())


def skipped(table: dict[str, Any]) -> list[str]:
    """Return a sentence for each contender that did not take part."""
    found = [f"{name}: {reason}" for name, reason in table.get("skipped", {}).items()]
    return ["Left out: " + "; ".join(found) + "."] if found else []


def _engine(name: str) -> bool:
    return name.startswith(("sbert_ft onnxruntime", "sbert_ft openvino"))


def _short(name: str) -> str:
    return re.sub(r" (b\d+|best)$", "", name)


def _quality(one: dict[str, Any]) -> str:
    if "stsb_test_spearman" in one:
        return f"{one['stsb_test_spearman']:.4f}"
    scores = one.get("test_spearman")
    return f"{statistics.mean(scores):.4f} ({min(scores):.4f}-{max(scores):.4f})" if scores else ""


if __name__ == "__main__":
    main()
