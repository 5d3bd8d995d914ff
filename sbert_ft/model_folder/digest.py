"""Digests of a model's folder: of its weights, and of all that decides the vector of a text.

Vectors of two models cannot be compared, so what holds vectors also holds the digest of the model that made them. The
cost is one pass over the weights, about a second for a gigabyte.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from sbert_ft.errors import ModelFolderError, shown
from sbert_ft.files.strict_json import open_file, read_json
from sbert_ft.model_folder.contents import WEIGHT_FILES
from sbert_ft.model_folder.layout import ModelFolder

_BUFFER = 2**20
_TOKENIZER_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
# What a folder says besides config.json that changes a text's vector; a decision, a head and the similarity do not.
_SETTINGS = (
    *("pooling", "include_prompt", "normalize", "max_seq_length"),
    *("lower_case_first", "prompts", "default_prompt_name"),
)


def model_digest(source: ModelFolder, weights: str | None = None) -> str:
    """Return the SHA-256 of what decides a text's vector, as hexadecimal digits.

    It is made of the weights, config.json, the tokenizer's files, pooling, length and prompts. What does not change
    vectors is left out: a stored decision, the model card, exported graphs, the engine and its precision.

    Args:
        source: The folder as it was read.
        weights: The digest of its weights, where the folder has none: that which an exported graph states.

    Raises:
        ModelFolderError: There are no weights, or a file cannot be read.
    """
    weights = digest_of_weights(source.encoder_path) or weights
    if weights is None:
        raise ModelFolderError(f"{shown(source.encoder_path)} has no weights: expected model.safetensors")
    names = [*_TOKENIZER_FILES, *(path.name for path in source.encoder_path.glob("*.model"))]
    files = sorted(name for name in names if os.path.lexists(source.encoder_path / name))
    content = {
        "weights": weights,
        "config": dict(source.config),
        "settings": {
            **{name: getattr(source, name) for name in _SETTINGS},
            **({} if source.truncate_dim is None else {"truncate_dim": source.truncate_dim}),
        },
        "tokenizer": {name: digest_of_files([source.encoder_path / name]) for name in files},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def digest_of_weights(encoder_path: Path) -> str | None:
    """Return the SHA-256 of the folder's weights, as hexadecimal digits; None if there are none.

    It is that of the first of model.safetensors, its shards, pytorch_model.bin, its shards; shards are read in the
    order of their names, one after the other.

    Raises:
        ModelFolderError: A file cannot be read.
    """
    files = weight_files(encoder_path)
    return digest_of_files(files) if files else None


def digest_of_files(files: list[Path]) -> str:
    """Return the SHA-256 of the files' bytes, one file after the other; a `ModelFolderError` if one cannot be read."""
    digest = hashlib.sha256()
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    for path in files:
        with open_file(path) as file:
            while n := file.readinto(buffer):  # type: ignore[attr-defined]
                digest.update(view[:n])
    return digest.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """Return the files with a folder's weights, in the order of their names; none if there are no weights.

    Raises:
        ModelFolderError: The list of the shards is damaged.
    """
    for name, _ in WEIGHT_FILES:
        if os.path.lexists(folder / name):
            return [folder / name]
        index = folder / f"{name}.index.json"
        if os.path.lexists(index):
            shards = read_json(index).get("weight_map")
            names = set(shards.values()) if isinstance(shards, dict) else set()
            if not names or not all(isinstance(shard, str) and Path(shard).name == shard for shard in names):
                raise ModelFolderError(f"{shown(index)} has no 'weight_map' from each tensor to a file beside it")
            return [folder / shard for shard in sorted(names)]
    return []
