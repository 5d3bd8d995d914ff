"""Search and mine vectors of short texts with sbert_ft and with sentence-transformers' functions, in turn.

    python benchmarks/search.py                       # everything, as in benchmarks/README.md
    python benchmarks/search.py --sets mine --rounds 3

The texts are real sentences and reviews, and runs of words out of them (`texts.phrases`); their vectors, 384 wide, are
computed once by the packaged MiniLM and kept in benchmarks/.cache/, as are the indexes. Each contender runs in a
process of its own. sentence-transformers gets the vectors as an array in memory, ours as its commands have them: an
index on the disk for search, an array in memory for pairs.

- `search`: the 10 nearest of 1,000,000 vectors for 1,000 queries, exactly and by usearch, against `semantic_search`;
- `mine`: the pairs among 200,000 vectors whose cosine reaches 0.9, against `paraphrase_mining_embeddings`. That takes
  no threshold but a number of pairs: it gets as many as there are, and its usual 100 partners a text.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import models
import texts as corpus

CACHE = harness.ROOT / "benchmarks" / ".cache"
N_QUERIES, K, THRESHOLD = 1_000, 10, 0.9
SETS: dict[str, tuple[int, tuple[str, ...]]] = {
    "search": (1_000_000, ("sbert_ft exact", "sbert_ft usearch", "st semantic_search")),
    "mine": (200_000, ("sbert_ft", "st paraphrase_mining")),
}


def main() -> None:
    """Measure, print a table for each set, and write benchmarks/results/search-cpu.json."""
    args = arguments()
    if args.build:
        build_index(vectors_file(args.n), args.scratch, args.build)
        return
    if args.worker:
        harness.serve(lambda: MAKERS[args.worker](vectors_file(args.n), args.scratch))
        return
    results: dict[str, Any] = {}
    for name in args.sets:
        n, contenders = args.n or SETS[name][0], list(SETS[name][1])
        vectors_file(n)
        scratch = CACHE / f"indexes-{n}"
        scratch.mkdir(exist_ok=True)
        told = ["--n", str(n), "--scratch", str(scratch)]
        seconds = {method: built_in(told, method) for method in (("exact", "usearch") if name == "search" else ())}
        compared = harness.compare(contenders, told, args.rounds)
        results[name] = report(name, n, compared, seconds)
    content = {"model": "minilm", "dimension": 384, "n_queries": N_QUERIES, "k": K, "threshold": THRESHOLD}
    packages = harness.versions(("usearch", "pyarrow"))
    print(f"written: {harness.write_result('search-cpu', {**content, 'search_packages': packages, 'sets': results})}")


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--n", type=int, help="vectors; default as said above")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--build", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def vectors_file(n: int) -> Path:
    """Return the .npy with the unit vectors of `n` texts, then those of the queries, which is made if it is not there.

    The texts and their vectors are those that `scale.py` keeps, if it was run; else all are encoded here.
    """
    path = CACHE / f"vectors-{n}.npy"
    if path.exists():
        return path
    import numpy as np

    from sbert_ft import ShardSet, SiameseBert
    from sbert_ft.vectors.nearest import unit_rows

    CACHE.mkdir(exist_ok=True)
    print(f"making {path.relative_to(harness.ROOT)}", file=sys.stderr)
    sentences = corpus.phrases(1_000_000 + N_QUERIES)
    model = SiameseBert.from_pretrained(models.minilm())
    queries = model.encode(sentences[-N_QUERIES:])
    if (CACHE / "vectors" / "manifest.json").exists():
        shards = ShardSet.open(CACHE / "vectors")
        parts, n_read = [], 0
        for block in shards.blocks():
            parts.append(shards.plan.quantizer.decode(block.stored))
            if (n_read := n_read + len(parts[-1])) >= n:
                break
        vectors = np.concatenate(parts)[:n]
    else:
        vectors = model.encode(sentences[:n])
    np.save(path, unit_rows(np.concatenate([vectors, queries])))
    return path


def load(file: Path) -> tuple[Any, Any]:
    """Return the vectors and the queries of a file, in memory."""
    import numpy as np

    content = np.load(file)
    return content[:-N_QUERIES], content[-N_QUERIES:]


def built_in(told: list[str], method: str) -> float:
    """Build an index in a process of its own, if it is not kept already, and return the seconds that took."""
    kept = Path(told[-1]) / f"{method}.seconds"
    if not kept.exists():
        begin = time.perf_counter()
        subprocess.run([sys.executable, sys.argv[0], *told, "--build", method], check=True)
        kept.write_text(f"{time.perf_counter() - begin:.1f}", "utf-8")
    return float(kept.read_text("utf-8"))


def build_index(file: Path, scratch: Path, method: Any) -> None:
    """Write the index of a method."""
    import numpy as np

    from sbert_ft import SearchIndex
    from sbert_ft.search.index_writer import IndexSettings

    mapped = np.load(file, mmap_mode="r")
    n = len(mapped) - N_QUERIES
    parts = (range(begin, min(n, begin + 8192)) for begin in range(0, n, 8192))
    blocks = ((list(part), mapped[part.start : part.stop]) for part in parts)
    SearchIndex.build_from_vectors(blocks, scratch / method, ("none", str(models.minilm())), IndexSettings(method))


def index_of(method: str) -> Callable[[Path, Path], harness.Contender]:
    """Return what makes our search of an index."""

    def make(file: Path, scratch: Path) -> harness.Contender:
        import numpy as np
        import torch  # noqa: F401  as in a process that has encoded the queries

        from sbert_ft import SearchIndex

        queries = np.array(np.load(file, mmap_mode="r")[-N_QUERIES:])
        index = SearchIndex.open(scratch / method)
        found: list[Any] = []

        def run() -> None:
            found[:] = index.neighbors(queries, K).rows.tolist()

        size = sum(path.stat().st_size for path in index.path.iterdir()) / 2**20
        return harness.Contender(
            run, lambda: {f"recall_at_{K}": recall(file, found)}, "float32", {"index_mib": round(size)}
        )

    return make


def semantic_search(file: Path, scratch: Path) -> harness.Contender:
    """sentence-transformers' exact search."""
    from sentence_transformers.util import semantic_search

    vectors, queries = load(file)
    found: list[Any] = []

    def run() -> None:
        hits = semantic_search(queries, vectors, top_k=K)
        found[:] = [[hit["corpus_id"] for hit in of_query] for of_query in hits]

    return harness.Contender(run, lambda: {f"recall_at_{K}": recall(file, found)}, "float32")


def recall(file: Path, found: list[list[int]]) -> float:
    """Return the share of the nearest rows, computed in float64 for the first 100 queries, that were found."""
    import numpy as np

    vectors, queries = load(file)
    asked = queries[:100].astype(np.float64).T
    parts = [vectors[i : i + 65_536].astype(np.float64) @ asked for i in range(0, len(vectors), 65_536)]
    cosines = np.concatenate(parts).T
    kth = np.partition(cosines, -K, axis=1)[:, -K]
    rows = np.array(found[:100])
    # rows with the same vector are as good
    return float((np.take_along_axis(cosines, rows, 1) >= kth[:, None] - 1e-6).mean())


def mine_ours(file: Path, scratch: Path) -> harness.Contender:
    """Our pairs above a threshold."""
    import torch  # noqa: F401  as in a process that has encoded the texts

    from sbert_ft.vectors.joins import BestPairs, join

    vectors, _ = load(file)
    found: list[Any] = []

    def run() -> None:
        best = BestPairs(THRESHOLD, 100_000_000, None)
        for pairs in join(vectors, None, best.floor):
            best.add(*pairs)
        found[:] = best.pairs()

    return harness.Contender(run, lambda: {"n_pairs": len(found[0]), "sum_of_scores": float(found[2].sum())}, "float32")


def paraphrase_mining(file: Path, scratch: Path) -> harness.Contender:
    """sentence-transformers' pairs, as many as reach the threshold."""
    import numpy as np
    import torch
    from sentence_transformers.util import paraphrase_mining_embeddings

    from sbert_ft.vectors.joins import join

    vectors, _ = load(file)
    n_pairs, partners = 0, np.zeros(len(vectors), np.int64)
    for first, second, _ in join(vectors, None, lambda: THRESHOLD):
        n_pairs += len(first)
        np.add.at(partners, first, 1)
        np.add.at(partners, second, 1)
    found: list[Any] = []

    def run() -> None:
        found[:] = paraphrase_mining_embeddings(torch.from_numpy(vectors), max_pairs=n_pairs)

    def quality() -> dict[str, float]:
        return {"n_pairs": len(found), "sum_of_scores": float(sum(score for score, _, _ in found))}

    return harness.Contender(run, quality, "float32", {"most_partners": int(partners.max())})


MAKERS: dict[str, Callable[[Path, Path], harness.Contender]] = {
    "sbert_ft": mine_ours,
    "sbert_ft exact": index_of("exact"),
    "sbert_ft usearch": index_of("usearch"),
    "st semantic_search": semantic_search,
    "st paraphrase_mining": paraphrase_mining,
}


def report(name: str, n: int, compared: harness.Comparison, seconds: dict[str, float]) -> dict[str, Any]:
    """Print the table of a set, in Markdown, and return it."""
    timings = compared.timings
    ours = [contender for contender in timings if contender.startswith("sbert_ft")]
    faster = {
        one: harness.ratios(timings, one, [other for other in timings if other not in (one, "sbert_ft usearch")])
        for one in ours
    }
    memory = {one: harness.memory_ratios(timings, one, list(faster[one])) for one in ours}
    n_items = n if name == "mine" else N_QUERIES
    contenders = {}
    for contender, one in timings.items():
        contenders[contender] = one.summary(n_items)
        contenders[contender]["seconds"] = [round(value, 3) for value in one.seconds]
    heads = " | ".join(f"{one} is faster by, takes of its memory" for one in ours)
    print(f"\n**{name}**, {n:,} vectors\n\n| | seconds | peak, MiB | quality | {heads} |")
    print("| " + " | ".join(["---"] * (4 + len(ours))) + " |")
    for contender, one in timings.items():
        ratios = [(faster[mine].get(contender), memory[mine].get(contender)) for mine in ours]
        said = [f"{r['median']} ({r['least']}-{r['most']}), {share:.2f}" if r else "" for r, share in ratios]
        quality = ", ".join(f"{key} {value:,.4f}" for key, value in one.quality.items())
        seconds_of = f"{statistics.median(one.seconds):.2f}"
        print(f"| {contender} | {seconds_of} | {one.peak_mib:.0f} | {quality} | {' | '.join(said)} |")
    return {
        "n_vectors": n,
        "seconds_to_build": seconds,
        "contenders": contenders,
        "times_faster": faster,
        "memory_ratio": memory,
    }


if __name__ == "__main__":
    main()
