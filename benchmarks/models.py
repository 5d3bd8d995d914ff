"""The models that benchmarks run: the packaged MiniLM, and a BERT-base of random weights for its size.

    python benchmarks/models.py FOLDER     # write the BERT-base, for classify.py --model FOLDER

And what a model has to compute: only products are counted, and only those of real tokens. Two operations for each
weight of a linear layer and token, and 4 L D a token and layer for the scores of L tokens and what they weigh, D wide.
Filler, embeddings, norms and the softmax count nothing, so a contender that pads has a lower share for it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundle import minilm_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOKENIZER_FILES = ("vocab.txt", "tokenizer_config.json", "tokenizer.json")
TRAINING = 3  # a step computes the forward, and twice as much backward


def minilm() -> Path:
    """Return the folder of the packaged MiniLM, or that of the bundle where the package is absent."""
    return minilm_folder()


def make_base(folder: Path, **config: int) -> Path:
    """Write a BERT with random weights and MiniLM's vocabulary, and return its folder.

    Args:
        folder: Where.
        config: Settings of `BertConfig` other than those of BERT-base (12 layers, width 768).
    """
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig(**config)).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(minilm() / name, folder / name)
    return folder


def forward_operations(lengths: NDArray[np.int64], config: dict[str, Any]) -> int:
    """Return the floating-point operations of the encoder's products over texts.

    Args:
        lengths: Tokens of each text, special ones included. Shape: (N,).
        config: Of the model, as in its config.json.
    """
    width, inner, n_layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    weights = n_layers * (4 * width * width + 2 * width * inner)
    tokens, squares = int(lengths.sum()), int((lengths.astype("int64") ** 2).sum())
    return 2 * weights * tokens + n_layers * 4 * width * squares


def text_lengths(folder: Path, texts: list[str], max_seq_length: int) -> NDArray[np.int64]:
    """Return the tokens of each text as the model of a folder sees them, special ones included. Shape: (N,)."""
    import numpy as np

    from sbert_ft.tokenization.tokenizer import TextTokenizer

    tokenizer = TextTokenizer.from_pretrained(folder)
    lengths = np.asarray(tokenizer.tokenize(texts).lengths, dtype=np.int64)
    return np.minimum(lengths + tokenizer.n_special, max_seq_length)


def config_of(folder: Path) -> dict[str, Any]:
    """Return what a folder's config.json says."""
    content: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return content


def main() -> None:
    """Write the BERT-base."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    print(f"written: {make_base(parser.parse_args().folder)}")


if __name__ == "__main__":
    main()
