"""Where the time of a forward and of a training step goes, by torch's profiler: what docs/performance.md shows.

    python benchmarks/shares.py                         # encoding: short, mid, long
    python benchmarks/shares.py --train 16 --steps 20   # milliseconds of a training step at batch 16

Self time of the main thread, operations grouped; profiling itself slows small operations down, so shares of the
smallest groups are upper bounds. Writes benchmarks/results/shares-*.json.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import texts as corpus
from models import minilm

# The first group that names an operation has it; what no group names is "other".
GROUPS = {
    "matrix products of layers": ("addmm", "mm", "linear"),
    "attention: products": ("bmm", "baddbmm", "matmul", "scaled_dot", "flash"),
    "attention: softmax": ("softmax",),
    "GELU": ("gelu",),
    "layer norm": ("layer_norm",),
    "dropout": ("random_", "bernoulli", "native_dropout", "ge", "mul"),
    "AdamW": ("_fused_adamw_", "Optimizer.step"),
    "gradient: norm, scaling, freeing": ("linalg_vector_norm", "mul_", "Optimizer.zero_grad"),
    "copies and casts": ("copy_", "clone", "_to_copy", "cat", "contiguous"),
    "gathers, look-ups, pooling": ("index", "embedding", "gather"),
    "zeros": ("fill_", "zero_", "zeros"),
    "additions": ("add", "add_", "sum"),
}


def main() -> None:
    """Profile, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, metavar="BATCH_SIZE", help="profile training steps instead of encoding")
    parser.add_argument("--steps", type=int, default=20, help="training steps, of which the second half is profiled")
    parser.add_argument("--name", help="of the result's file")
    args = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    found = {f"batch {args.train}": training(args.train, args.steps)} if args.train else encoding()
    names = [*GROUPS, "other"]
    print("| | " + " | ".join(found) + " |\n| --- |" + " --- |" * len(found))
    for name in names:
        print(f"| {name} | " + " | ".join(f"{one['groups'].get(name, 0):.1f}" for one in found.values()) + " |")
    print("| all | " + " | ".join(f"{one['all']:.1f} ms" for one in found.values()) + " |")
    if args.train:  # with what is outside of torch: draws for dropout, packing, Python
        print("| from step to step | " + " | ".join(f"{one['wall']:.1f} ms" for one in found.values()) + " |")
    name = args.name or (f"shares-train-{args.train}" if args.train else "shares-encode")
    print(f"written: {harness.write_result(name, {'milliseconds': found})}")


def encoding() -> dict[str, Any]:
    """Return the profile of 4,096 tokens of each set, after a pass over it, in milliseconds."""
    from sbert_ft import SiameseBert

    model = SiameseBert.from_pretrained(minilm())
    model.max_seq_length = 384
    found = {}
    for name, strings in (
        ("15 tokens", corpus.sts_sentences()[::16]),
        ("60 tokens", corpus.joined(250, 60)),
        ("250 tokens", corpus.joined(64, 250)),
    ):
        model.encode(strings, on_truncate="ignore")
        lengths = model.tokenizer.tokenize(strings).lengths + 2
        found[name] = profiled(lambda s=strings: model.encode(s, on_truncate="ignore"), int(lengths.sum()) / 4096)
    return found


def training(batch_size: int, n_steps: int) -> dict[str, Any]:
    """Return the profile of a training step on STS-B pairs, in milliseconds."""
    import numpy as np

    from sbert_ft import ConnectionDataset, SiameseBert, fine_tune
    from sbert_ft.config.settings import TrainingSettings

    whole = ConnectionDataset.from_file(corpus.DATA / "train.csv")
    train = whole.select(np.sort(np.random.default_rng(0).permutation(len(whole))[: batch_size * n_steps]))
    model = SiameseBert.from_pretrained(minilm(), max_seq_length=128)

    def run() -> None:
        with tempfile.TemporaryDirectory() as place:
            settings = TrainingSettings(epochs=1, batch_size=batch_size)
            fine_tune(model, train, output_dir=Path(place) / "run", objective="cosine", training=settings)

    return between_steps(run, n_steps // 2, n_steps)


def profiled(run: Callable[[], object], n_units: float) -> dict[str, Any]:
    """Return the milliseconds of a call by group, for each of its units."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    return grouped(profiler, n_units)


def between_steps(run: Callable[[], object], first: int, last: int) -> dict[str, Any]:
    """Return the milliseconds of an optimizer step by group, from the end of step `first` to that of `last`."""
    profiler, seconds = profiled_steps(run, first, last)
    return {**grouped(profiler, last - first), "wall": round(seconds * 1e3 / (last - first), 2)}


def profiled_steps(run: Callable[[], object], first: int, last: int) -> tuple[Any, float]:
    """Return torch's profiler, a GPU's kernels included, and the seconds from the end of step `first` to `last`."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    profiler, n_done = new_profiler(), 0
    since, seconds = 0.0, 0.0

    def count(*_: object) -> None:
        nonlocal n_done, since, seconds
        n_done += 1
        if n_done == first:
            harness.wait_for_device()
            profiler.start()
            since = time.perf_counter()
        elif n_done == last:
            harness.wait_for_device()
            seconds = time.perf_counter() - since
            profiler.stop()

    hook = register_optimizer_step_post_hook(count)
    try:
        run()
    finally:
        hook.remove()
    return profiler, seconds


def new_profiler() -> Any:
    """Return torch's profiler for what there is: the CPU's operations, and a GPU's kernels."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    return profile(activities=[ProfilerActivity.CPU, *on_gpu])


def grouped(profiler: Any, n_units: float) -> dict[str, Any]:
    """Return self times in milliseconds a unit by group."""
    groups: dict[str, float] = {}
    for event in profiler.key_averages():
        name = event.key.removeprefix("aten::")
        group = next((g for g, words in GROUPS.items() if _is_of(name, words)), "other")
        groups[group] = groups.get(group, 0.0) + event.self_cpu_time_total / 1e3 / n_units
    return {"groups": {g: round(ms, 2) for g, ms in groups.items()}, "all": round(sum(groups.values()), 2)}


def _is_of(name: str, words: tuple[str, ...]) -> bool:
    return any(name == word or name.startswith(f"{word}_") or (len(word) > 5 and word in name) for word in words)


if __name__ == "__main__":
    main()
