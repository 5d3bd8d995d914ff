"""What 10 thousand to 2 million texts take: commands of ours as a user gives them, one after the other.

    python benchmarks/scale.py                      # as in docs/scale.md, about 25 minutes on two cores
    python benchmarks/scale.py --parts encode --sizes 10000

Each command is a process of its own. Seconds are those of the whole process, start and loading included; MiB are the
most that was resident of it. The texts are those of `texts.phrases`, of about 12 tokens, the model is the packaged
MiniLM, 384 wide. What the largest size gives is kept in benchmarks/.cache/ and is what `search.py` searches.

- `encode`: `sbert-ft encode` into a folder of shards, by number of texts;
- `types`: the same by type of vector, for the smallest size;
- `memory`: 2,000,000 texts into shards and into a single file, by a BERT of one layer of 64 and random weights;
- `index`: `sbert-ft index` of the shards of the largest size, exact, then one question, and 1,000 (`search.py` has
  usearch);
- `mine`: `sbert-ft mine` of the first two sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import harness
import models
import texts as corpus
from startup import measured

CACHE = harness.ROOT / "benchmarks" / ".cache"
N_QUERIES, N_OF_MEMORY = 1_000, 2_000_000
SIZES = (10_000, 100_000, 1_000_000)
SHARDS = "vectors"  # the shards of the largest size


def main() -> None:
    """Measure, print, and write benchmarks/results/scale-cpu.json; parts that are not measured stay as they were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--make-texts", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    CACHE.mkdir(exist_ok=True)
    texts = CACHE / "texts.txt"
    if args.make_texts:
        texts.write_text("".join(f"{text}\n" for text in corpus.phrases(max(SIZES) + N_QUERIES)), "utf-8")
        return
    if not texts.exists():  # by a process of its own: what this one had resident would count as its children's
        subprocess.run([sys.executable, __file__, "--make-texts"], check=True)
    path = harness.RESULTS / "scale-cpu.json"
    results: dict[str, Any] = json.loads(path.read_text("utf-8"))["parts"] if path.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        for part in args.parts:
            results[part] = PARTS[part](Path(scratch), args.sizes)
            print(f"written: {harness.write_result('scale-cpu', {'model': 'minilm', 'parts': results})}")


def first_texts(scratch: Path, n: int) -> Path:
    """Return a file with the first `n` texts."""
    path = scratch / f"{n}.txt"
    if not path.exists():
        with (CACHE / "texts.txt").open(encoding="utf-8") as whole, path.open("w", encoding="utf-8") as part:
            part.writelines(islice(whole, n))
    return path


def command(name: str, *args: object) -> dict[str, Any]:
    """Run a command of ours, print and return its seconds and MiB."""
    environment = {**os.environ, "PYTHONPATH": str(harness.ROOT), "HF_HUB_OFFLINE": "1"}
    seconds, mib = measured([sys.executable, "-m", "sbert_ft", name, *map(str, args), "--quiet"], environment)
    print(f"  {name} {' '.join(map(str, args))}: {seconds:.1f} s, {mib:.0f} MiB", file=sys.stderr)
    return {"seconds": round(seconds, 1), "peak_mib": round(mib)}


def bytes_of(folder: Path, pattern: str = "*") -> int:
    """Return the bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.glob(pattern))


def encode(scratch: Path, sizes: list[int]) -> dict[str, Any]:
    """Encode into shards, by number of texts."""
    found = {}
    for n in sizes:
        folder = CACHE / SHARDS if n == max(SIZES) else scratch / f"vectors-{n}"
        one = command("encode", models.minilm(), first_texts(scratch, n), "-o", f"{folder}/")
        found[str(n)] = {**one, "texts_per_second": round(n / one["seconds"]), "bytes": bytes_of(folder, "*.parquet")}
    return found


def types(scratch: Path, sizes: list[int]) -> dict[str, Any]:
    """Encode into shards, by type of vector."""
    found, n = {}, min(sizes)
    for kind in ("float32", "float16", "int8", "binary"):
        folder = scratch / kind
        one = command("encode", models.minilm(), first_texts(scratch, n), "-o", f"{folder}/", "--vectors", kind)
        recall = json.loads((folder / "manifest.json").read_text("utf-8"))["plan"]["recall"]
        size = bytes_of(folder, "*.parquet") / n
        found[kind] = {**one, "bytes_per_text": round(size), "recall": None if recall is None else recall["recall"]}
    return found


def memory(scratch: Path, sizes: list[int]) -> dict[str, Any]:
    """Encode many texts by a small model into shards and into a file."""
    small = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 64}
    scratch.joinpath("small").mkdir()
    model = models.make_base(scratch / "small", **small)
    found: dict[str, Any] = {}
    for n in (N_OF_MEMORY // 10, N_OF_MEMORY):
        many, n_written = scratch / f"many-{n}.txt", 0
        with many.open("w", encoding="utf-8") as file:
            while n_written < n:
                with (CACHE / "texts.txt").open(encoding="utf-8") as whole:
                    for line in islice(whole, n - n_written):
                        file.write(line)
                        n_written += 1
        found[str(n)] = {
            "shards": command("encode", model, many, "-o", f"{scratch / 'many'}-{n}/"),
            "file": command("encode", model, many, "-o", scratch / "many.npy"),
        }
    return found


def index(scratch: Path, sizes: list[int]) -> dict[str, Any]:
    """Build the index of the shards that `encode` kept, and search it."""
    texts, queries, place = first_texts(scratch, max(SIZES)), scratch / "queries.txt", scratch / "exact.index"
    with (CACHE / "texts.txt").open(encoding="utf-8") as whole:
        lines = deque(whole, maxlen=N_QUERIES)
    queries.write_text("".join(lines), "utf-8")
    built = command("index", models.minilm(), CACHE / SHARDS, "--texts", texts, "-o", place)
    return {
        "build": {**built, "bytes": bytes_of(place)},
        "one question": command("search", place, lines[-1].strip(), "-k", 10),
        f"{N_QUERIES:,} questions": command("search", place, queries, "-k", 10, "-o", scratch / "hits.csv"),
    }


def mine(scratch: Path, sizes: list[int]) -> dict[str, Any]:
    """Find pairs among all texts."""
    found = {}
    for n in sizes[:2]:
        out = scratch / "pairs.csv"
        one = command("mine", models.minilm(), first_texts(scratch, n), "-o", out, "--threshold", "0.9")
        with out.open(encoding="utf-8") as rows:
            found[str(n)] = {**one, "pairs": sum(1 for _ in rows) - 1}
    return found


PARTS: dict[str, Callable[[Path, list[int]], dict[str, Any]]] = {
    "encode": encode,
    "types": types,
    "memory": memory,
    "index": index,
    "mine": mine,
}


if __name__ == "__main__":
    main()
