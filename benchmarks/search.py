"""Search, mine and index vectors of short texts with sbert_ft and with sentence-transformers' functions, in turn.

    python benchmarks/search.py                       # everything, as in benchmarks/README.md
    python benchmarks/search.py --sets mine --rounds 3

The texts are real sentences and reviews, and runs of words out of them (`texts.phrases`); their vectors, 384 wide, are
computed once by the packaged MiniLM and kept in benchmarks/.cache/. Each contender runs in a process of its own, and
reads the vectors from that file: sentence-transformers as its documentation does, into memory; ours as its commands do.

- `exact`: the 10 nearest of 1,000,000 vectors for 1,000 queries, against `semantic_search`;
- `mine`: the pairs among 200,000 vectors with a cosine of at least 0.9, against `paraphrase_mining_embeddings`, which
  takes no threshold: it gets as many pairs as there are, and as many partners as the text with most of them has;
- `usearch`: the same queries as `exact`, by our index with usearch, against our exact search: recall@10 too.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import models
import texts as corpus

CACHE = harness.ROOT / "benchmarks" / ".cache"
N_QUERIES, K, THRESHOLD = 1_000, 10, 0.9
SETS: dict[str, tuple[int, list[str]]] = {
    "exact": (1_000_000, ["sbert_ft", "st semantic_search"]),
    "mine": (200_000, ["sbert_ft", "st paraphrase_mining"]),
    "usearch": (1_000_000, ["sbert_ft usearch", "sbert_ft exact"]),
}


def main() -> None:
    """Measure, print a table for each set, and write benchmarks/results/search-cpu.json."""
    args = arguments()
    if args.worker:
        harness.serve(lambda: MAKERS[args.sets[0], args.worker](vectors_file(args.n), args))
        return
    results: dict[str, Any] = {}
    for name in args.sets:
        n, contenders = args.n or SETS[name][0], SETS[name][1]
        vectors_file(n)
        told = ["--sets", name, "--n", str(n)]
        with tempfile.TemporaryDirectory() as scratch:
            compared = harness.compare(contenders, [*told, "--scratch", scratch], args.rounds)
        results[name] = report(name, n, compared)
    content = {"model": "minilm", "dimension": 384, "k": K, "threshold": THRESHOLD, "sets": results}
    print(f"written: {harness.write_result('search-cpu', content)}")


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--n", type=int, help="vectors; default as said above")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def vectors_file(n: int) -> Path:
    """Return the .npy with the vectors of `n` texts and of the queries, computed where it is not there yet.

    The queries are its last rows: runs of words that are no row before.
    """
    path = CACHE / f"phrases-{n}.npy"
    if not path.exists():
        import numpy as np

        from sbert_ft import SiameseBert

        CACHE.mkdir(exist_ok=True)
        print(f"computing {path.relative_to(harness.ROOT)}", file=sys.stderr)
        model = SiameseBert.from_pretrained(models.minilm())
        np.save(path, model.encode(corpus.phrases(n + N_QUERIES), normalize_embeddings=True))
    return path
