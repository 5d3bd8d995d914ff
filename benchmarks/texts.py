"""The texts that benchmarks run on: real sentences, alone or joined to a wanted length."""

from __future__ import annotations

import csv
import random
from typing import TYPE_CHECKING

from bundle import data_folder

if TYPE_CHECKING:
    from sbert_ft import ConnectionDataset

DATA = data_folder() / "stsb"


def sts_pairs(part: str) -> list[tuple[str, str, float]]:
    """Return (sentence, sentence, score 0 to 5) of a part of the STS benchmark: train, dev or test."""
    file = DATA / f"{part}.csv"
    if not file.exists():
        raise SystemExit(
            f"{file} is absent: the benchmarks need the STS benchmark as CSV (sentence1, sentence2, score)"
        )
    with file.open(encoding="utf-8", newline="") as opened:
        return [(row["sentence1"], row["sentence2"], float(row["score"])) for row in csv.DictReader(opened)]


def sts_sentences() -> list[str]:
    """Return all 17,256 sentences of the STS benchmark."""
    pairs = [pair for part in ("train", "dev", "test") for pair in sts_pairs(part)]
    return [pair[side] for side in (0, 1) for pair in pairs]


def joined(n_texts: int, n_tokens: int, seed: int = 0) -> list[str]:
    """Return texts of about `n_tokens` tokens (a third more or less), joined from sentences."""
    sentences = sts_sentences()
    draw = random.Random(seed)
    texts = []
    for _ in range(n_texts):
        wanted, text, words = n_tokens * draw.uniform(0.67, 1.33), [], 0.0
        while words < wanted - 8:
            sentence = draw.choice(sentences)
            text.append(sentence)
            words += 1.25 * len(sentence.split())
        texts.append(" ".join(text) or draw.choice(sentences))
    return texts


def some_rows(whole: ConnectionDataset, n_rows: int) -> ConnectionDataset:
    """Return some rows by chance: files are sorted by origin, and short sentences stand together."""
    import numpy as np

    return whole.select(np.sort(np.random.default_rng(0).permutation(len(whole))[:n_rows]))


def phrases(n: int, seed: int = 0) -> list[str]:
    """Return `n` distinct short texts: real English sentences first, then pairs of runs of 3 to 6 words out of them."""
    folder, found = data_folder(), dict[str, None]()
    columns = {
        "stsb/*.csv": ("sentence1", "sentence2"),
        "sts12_14/*.tsv": ("sentence1", "sentence2"),
        "nli_en/*.tsv": ("premise", "hypothesis"),
    }
    for pattern, names in columns.items():
        for file in sorted(folder.glob(pattern)):
            tabs = {} if file.suffix == ".csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
            with file.open(encoding="utf-8", newline="") as opened:
                for row in csv.DictReader(opened, **tabs):
                    found |= {row[name].strip(): None for name in names if row[name] and row[name].strip()}
    whole, draw = list(found), random.Random(seed)
    if not whole:
        raise SystemExit(f"no data sets under {folder}: the benchmarks of search need them")
    words = [text.split() for text in whole]

    def run() -> str:
        text, size = draw.choice(words), draw.randint(3, 6)
        first = draw.randint(0, max(0, len(text) - size))
        return " ".join(text[first : first + size])

    while len(found) < n:
        found[f"{run()} {run()}"] = None
    texts = list(found)[:n] if n >= len(whole) else whole
    draw.shuffle(texts)
    return texts[:n]
