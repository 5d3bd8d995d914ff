"""Encode the same texts with sbert_ft and with what its users could pick instead, side by side.

    python benchmarks/encode.py                     # everything, as in benchmarks/README.md
    python benchmarks/encode.py --sets short --rounds 3 --sample 2000
    python benchmarks/encode.py --isa avx2          # as a CPU without AVX512 and AMX would, in float32
    python benchmarks/encode.py --engines           # ONNX Runtime and OpenVINO: by sbert_ft, by others, by hand
    python benchmarks/encode.py --engines --isa avx2

All get the same strings, weights, maximal length and threads; the time holds tokenising and the way back to numpy.
Sets: `short` (STS-B sentences, about 15 tokens), `mid` (about 60), `long` (about 250), and the first two on a BERT-base
of random weights. `contenders.py` says what a contender's name means. Those with ONNX or OpenVINO live in an
environment of their own (`make bench-peers`; PEERS_PYTHON names another interpreter) and are left out without it; those
of sbert_ft run in this one, on exports that are made first. In set `short` each contender also encodes the pairs of
STS-B test: Spearman's correlation, and the cosines of its vectors to those of float32.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contenders as field
import harness
import isa
import models
import rate
import texts as corpus
from models import minilm

__all__ = ["minilm"]
MAX_SEQ_LENGTH = 384


@dataclass(frozen=True)
class TextSet:
    """Which model runs on which texts.

    Attributes:
        model: minilm or base.
        make: Returns so many texts.
        on_cpu: How many there.
        on_gpu: How many there.
    """

    model: str
    make: Callable[[int], list[str]]
    on_cpu: int
    on_gpu: int


def sentences(n_texts: int) -> list[str]:
    """Return STS-B sentences from all of its parts, which are sorted by origin."""
    every = corpus.sts_sentences()
    return every[:: max(1, len(every) // n_texts)][:n_texts]


SETS = {
    "short": TextSet("minilm", sentences, 1000, 17256),
    "mid": TextSet("minilm", lambda n: corpus.joined(n, 60), 240, 10000),
    "long": TextSet("minilm", lambda n: corpus.joined(n, 250), 60, 4000),
    "base-short": TextSet("base", sentences, 128, 8000),
    "base-mid": TextSet("base", lambda n: corpus.joined(n, 60), 48, 4000),
    "base-long": TextSet("base", lambda n: corpus.joined(n, 250), 16, 1000),
}
ON_CPU = {"sets": ("short", "mid", "long", "base-short", "base-mid"), "rounds": 3}
ON_GPU = {"sets": tuple(SETS), "rounds": 5}
CONTENDERS = {
    "cpu short": [
        "sbert_ft auto b32",
        "sbert_ft auto compiled b32",
        "sbert_ft float32 b32",
        "st float32 b32",
        "st bfloat16 b32",
        "st bfloat16 b128",
        "st onnx b32",
        "st openvino b32",
        "openvino bfloat16 b32",
        "onnxruntime float32 b32",
    ],
    "cpu longer": [
        "sbert_ft auto b32",
        "sbert_ft auto compiled b32",
        "st float32 b32",
        "st bfloat16 b32",
        "st bfloat16 b128",
        "st openvino b32",
        "openvino bfloat16 b32",
    ],
    "cpu base": [
        "sbert_ft auto b32",
        "sbert_ft auto compiled b32",
        "st float32 b32",
        "st bfloat16 b32",
        "openvino bfloat16 b32",
    ],
    "engines short": [
        "sbert_ft auto b32",
        "sbert_ft auto compiled b32",
        "sbert_ft onnxruntime b32",
        "sbert_ft onnxruntime int8 b32",
        "sbert_ft openvino b32",
        "sbert_ft openvino bfloat16 b32",
        "sbert_ft openvino int8 b32",
        "st float32 b32",
        "st bfloat16 b32",
        "st onnx b32",
        "st openvino b32",
        *(f"onnxruntime float32 b{n}" for n in (8, 16, 32, 64)),
        *(f"onnxruntime int8 b{n}" for n in (32, 64)),
        "openvino float32 b32",
        "openvino bfloat16 b32",
    ],
    "engines longer": [
        "sbert_ft auto b32",
        "sbert_ft auto compiled b32",
        "sbert_ft onnxruntime b32",
        "sbert_ft onnxruntime int8 b32",
        "sbert_ft openvino b32",
        "sbert_ft openvino bfloat16 b32",
        "st openvino b32",
        *(f"onnxruntime float32 b{n}" for n in (2, 8, 32)),
        *(f"onnxruntime int8 b{n}" for n in (4, 16)),
        "openvino float32 b8",
        *(f"openvino bfloat16 b{n}" for n in (8, 32)),
    ],
    "cpu isa": ["sbert_ft float32 b32", "sbert_ft float32 compiled b32", "st float32 b32"],
    "gpu": [
        "sbert_ft auto best",
        "sbert_ft float16 best",
        "st float32 best",
        "st bfloat16 best",
        "st float16 best",
        "st flash best",
    ],
}


def main() -> None:
    """Measure, print tables, and write benchmarks/results/encode-<device>.json."""
    args = arguments()
    if args.worker:
        harness.serve(lambda: work(args))
        return
    import torch

    on_gpu = torch.cuda.is_available()
    defaults = ON_GPU if on_gpu else ON_CPU
    usual = ("short", "mid", "long") if args.engines else ("short",) if args.isa else defaults["sets"]
    kind = "engines-cpu" if args.engines else f"encode-{'gpu' if on_gpu else 'cpu'}"
    name = args.name or f"{kind}{f'-{args.isa}' if args.isa else ''}"
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        for set_name in args.sets or usual:
            wanted, what = args.contenders or usual_contenders(set_name, on_gpu, args.isa, args.engines), SETS[set_name]
            n_texts = min(filter(None, (args.sample, what.on_gpu if on_gpu else what.on_cpu)))
            folder = minilm() if what.model == "minilm" else base(place / "base")
            print(f"{set_name}: {n_texts} texts", file=sys.stderr)
            exported = place / f"{what.model}-exports"
            missing = export(wanted, folder, exported, args.isa)
            told = ["--folder", str(folder), "--exports", str(exported), "--sets", set_name, "--sample", str(n_texts)]
            if set_name == "short":
                told += ["--reference", str(reference(folder, place / "reference.npy"))]
            precisions = ("float32",) if args.isa else ("float32", "bfloat16", "float16")[: 2 + on_gpu]
            rates = rate.measure(harness.limited_to(args.isa), precisions)
            found = harness.compare(wanted, told, args.rounds or defaults["rounds"], starter(args.isa, missing))
            results[set_name] = report(set_name, folder, what.make(n_texts), found, rates)
            content = {"max_seq_length": MAX_SEQ_LENGTH, "isa": args.isa, "limited": isa.record(args.isa)}
            content["sets"] = results
            path = harness.write_result(name, content)
    print(f"written: {path}")


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), help="default: all but base-long on a CPU")
    parser.add_argument("--contenders", nargs="+", help="such as 'st bfloat16 b32'; see contenders.py")
    parser.add_argument("--rounds", type=int, help="default 3, on a GPU 5")
    parser.add_argument("--sample", type=int, help="at most so many texts of each set")
    parser.add_argument("--isa", choices=["avx2"], help="limit every contender to these instructions; float32 then")
    parser.add_argument(
        "--engines", action="store_true", help="compare what runs the model by ONNX Runtime or OpenVINO"
    )
    parser.add_argument("--name", help="of the result's file; default encode-cpu, -cpu-avx2, -gpu, or engines-cpu ...")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--exports", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--reference", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def usual_contenders(set_name: str, on_gpu: bool, limited_to: str | None, engines: bool) -> list[str]:
    """Return who takes part in a set where nobody says."""
    if engines:
        every = CONTENDERS["engines short" if set_name == "short" else "engines longer"]
        if not limited_to:
            return every
        slow = ("bfloat16", "openvino int8")  # without AVX512 OpenVINO is slower in int8 than in float32
        return [name.replace("auto", "float32") for name in every if not any(words in name for words in slow)]
    if on_gpu:
        return CONTENDERS["gpu"]
    if limited_to:
        return CONTENDERS["cpu isa"]
    if SETS[set_name].model == "base":
        return CONTENDERS["cpu base"]
    return CONTENDERS["cpu short" if set_name == "short" else "cpu longer"]


def base(folder: Path) -> Path:
    """Return the folder of the BERT-base, written where it is not yet."""
    return folder if folder.exists() else models.make_base(folder)


def work(args: argparse.Namespace) -> harness.Contender:
    """Return what a contender's process measures."""
    what, kind = SETS[args.sets[0]], field.export_of(args.worker)
    folder = args.folder if kind is None else args.exports / kind
    sts = None
    if args.reference:
        import numpy as np

        sts = field.Sts(corpus.sts_pairs("test"), np.load(args.reference))
    return field.contender(args.worker, folder, what.make(args.sample), MAX_SEQ_LENGTH, sts)


def reference(folder: Path, file: Path) -> Path:
    """Write the float32 vectors of STS-B test by torch on this CPU, and return their file."""
    import numpy as np

    from sbert_ft import SiameseBert

    model = SiameseBert.from_pretrained(folder, device="cpu", precision="float32", max_seq_length=MAX_SEQ_LENGTH)
    texts = [pair[side] for side in (0, 1) for pair in corpus.sts_pairs("test")]
    np.save(file, model.encode(texts, show_progress_bar=False, on_truncate="ignore"))
    return file


def peers_python() -> str | None:
    """Return the interpreter of the peers' own environment, None where there is none."""
    named = os.environ.get("PEERS_PYTHON") or str(harness.ROOT / ".venv-peers" / "bin" / "python")
    return shutil.which(named)


def export(wanted: Iterable[str], folder: Path, place: Path, limited_to: str | None) -> dict[str, str]:
    """Write what the contenders' engines load into a folder for each kind, and return why some kinds are not there."""
    missing = {}
    for name in wanted:
        kind = field.export_of(name)
        if kind is None or (place / kind).exists() or kind in missing:
            continue
        python = interpreter(name)
        if python is None:
            missing[kind] = "no environment of its own, which `make bench-peers` makes"
            continue
        command = [python, str(harness.ROOT / "benchmarks" / "exports.py"), str(folder), str(place), "--kinds", kind]
        command += ["--isa", limited_to] if limited_to and not field.is_of_peers(name) else []
        environment = {**os.environ, **isa.limit(limited_to, python)}
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        if done.returncode:
            print(done.stdout, file=sys.stderr)
            shutil.rmtree(place / kind, ignore_errors=True)
            missing[kind] = f"its model could not be exported: {done.stdout.strip().splitlines()[-1]}"
    return missing


def interpreter(name: str) -> str | None:
    """Return the interpreter that a contender lives in, None where its environment is absent."""
    return peers_python() if field.is_of_peers(name) else sys.executable


def starter(limited_to: str | None, missing: dict[str, str]) -> Callable[[str], harness.Start]:
    """Return what says how a contender is started.

    Args:
        limited_to: The only instructions that it may use; None for all.
        missing: Why exports are not there, by kind.
    """

    def start(name: str) -> harness.Start:
        kind, python = field.export_of(name), interpreter(name)
        if kind in missing:
            raise harness.Skipped(missing[kind])
        assert python is not None  # otherwise its export is missing
        limit = isa.limit(limited_to, python) if field.runs_engine(name) else harness.limited_to(limited_to)
        return harness.Start(python, limit)

    return start


def report(
    set_name: str, folder: Path, strings: list[str], found: harness.Comparison, rates: dict[str, float]
) -> dict[str, Any]:
    """Print a set's table and return it."""
    lengths = models.text_lengths(folder, strings, MAX_SEQ_LENGTH)
    operations = models.forward_operations(lengths, models.config_of(folder))
    ours = [name for name in found.timings if name.startswith("sbert_ft")]
    others = [name for name in found.timings if name not in ours]
    summaries = {}
    for name, timings in found.timings.items():
        one = timings.summary(len(strings))
        summaries[name] = one | rate.share(operations * one["per_second"] / len(strings), 1.0, one["precision"], rates)
    faster = {name: harness.ratios(found.timings, name, others) for name in ours}
    print(f"\n{set_name}: {len(strings)} texts, {lengths.mean():.1f} tokens on average, longest {lengths.max()}")
    for name, one in summaries.items():
        limit = f", {one['share']:.0%} of the {one['precision']} rate" if "share" in one else ""
        speed = f"{one['per_second']:9.1f} texts/s ({one['least']}-{one['most']})"
        print(f"  {name:28s} {speed}, peak {one['peak_mib']} MiB{limit}")
    for name, table in faster.items():
        said = ", ".join(f"{other}: {r['median']} ({r['least']}-{r['most']})" for other, r in table.items())
        print(f"  {name} is faster than {said}")
    return {
        "n_texts": len(strings),
        "mean_tokens": round(float(lengths.mean()), 1),
        "longest": int(lengths.max()),
        "gflop": round(operations / 1e9, 1),
        "rate": rates,
        "contenders": summaries,
        "skipped": found.skipped,
        "environments": found.environments,
        "times_faster": faster,
        "memory_ratio": {name: harness.memory_ratios(found.timings, name, others) for name in ours},
    }


if __name__ == "__main__":
    main()
