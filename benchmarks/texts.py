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
