"""Which layout is fastest for which batch, and whether `choose_layout` knows: rows, runs, padded.

    python benchmarks/layout.py

Batches of real sentences of mixed lengths through the packaged MiniLM in `auto` precision, and how
many tokens a forward should hold.
"""

from __future__ import annotations

import argparse
import statistics
import time

import harness
import texts as corpus
from models import minilm


def main() -> None:
    """Measure in turn, print medians, write benchmarks/results/layout-cpu.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    import numpy as np

    from sbert_ft import SiameseBert
    from sbert_ft.encoder.batching import choose_layout, plan_batches

    model = SiameseBert.from_pretrained(minilm())
    bert = model.bert
    strings = {"short": corpus.sts_sentences()[::7], "mid": corpus.joined(1000, 60), "long": corpus.joined(200, 250)}
    table = []
    for name, all_texts in strings.items():
        framed = bert.tokenizer.frame(bert.tokenizer.tokenize(all_texts), 384)
        for n_texts in (1, 4, 16, 32, 64, 128, 256):
            if n_texts * framed.lengths.mean() > 9000:
                continue
            picked = framed.select(np.random.default_rng(n_texts).choice(len(framed), n_texts, replace=False))
            layouts = ("rows", "runs", "padded")
            batches = {layout: bert.pack(picked, layout) for layout in layouts}
            seconds: dict[str, list[float]] = {layout: [] for layout in layouts}
            for turn in range(-1, rounds):
                for layout in layouts:
                    start = time.perf_counter()
                    bert.infer(batches[layout])
                    if turn >= 0:
                        seconds[layout].append(time.perf_counter() - start)
            medians = {layout: round(statistics.median(s) * 1e3, 2) for layout, s in seconds.items()}
            chosen = choose_layout(picked.lengths, 12, 384, "cpu", layouts)
            lost = medians[chosen] / min(medians.values()) - 1
            table.append({"texts": name, "n": n_texts, **medians, "chosen": chosen, "lost": round(lost, 3)})
            print("  ".join(f"{key} {value}" for key, value in table[-1].items()))
    budgets = []
    for name, all_texts in strings.items():
        sizes = (1024, 2048, 4096, 8192, 16384)
        seconds = {str(size): [] for size in sizes}
        bodies = bert.tokenizer.frame(bert.tokenizer.tokenize(all_texts), 384)
        for turn in range(-1, max(3, rounds // 2)):
            for size in sizes:
                start = time.perf_counter()
                for texts in plan_batches(bodies.lengths, size):
                    bert.infer(bert.pack(bodies.select(texts)))
                if turn >= 0:
                    seconds[str(size)].append(time.perf_counter() - start)
        row = {size: round(len(all_texts) / statistics.median(s), 1) for size, s in seconds.items()}
        budgets.append({"texts": name, **row})
        print(f"texts/s by tokens a forward: {budgets[-1]}")
    print(f"written: {harness.write_result('layout-cpu', {'milliseconds': table, 'budgets': budgets})}")


if __name__ == "__main__":
    main()
