"""How long a start takes and what memory it needs: imports, the first vector and the command line, beside the peer's.

Each start is a process of its own. Seconds are those of the whole process, from its beginning to its end; MiB are the
most that was resident of it, the interpreter and libraries included. `sbert-ft score` runs on the model's folder, and
on copies with an export in them: with `--engine` by that engine, without it by the one that the library takes itself.

    python benchmarks/startup.py
    python benchmarks/startup.py --only score --rounds 3     # those whose name has this word
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
from models import minilm

TEXT = "A man is playing a guitar."
OTHER = "Someone makes music."
EXPORTS = {
    "ONNX Runtime": "onnxruntime-float32",
    "ONNX Runtime int8": "onnxruntime-int8",
    "OpenVINO": "openvino-float32",
}
PEER = "from sentence_transformers import SentenceTransformer as S; "


def starts(folder: Path, scratch: Path) -> dict[str, list[str]]:
    """Return the command of each start, by its name.

    Args:
        folder: MiniLM.
        scratch: For files that the commands read and write.
    """
    texts = scratch / "texts.txt"
    texts.write_text(f"{TEXT}\n", "utf-8")
    command, code = [sys.executable, "-m", "sbert_ft"], [sys.executable, "-c"]
    model = str(folder)
    vectors = ["-o", str(scratch / "vectors.npy")]

    def score(exported: str, *options: str) -> list[str]:
        return [*command, "score", str(scratch / f"sbert_ft-{exported}"), TEXT, OTHER, *options]

    return {
        "sbert-ft --help": [*command, "--help"],
        "sbert-ft encode, one text": [*command, "encode", model, str(texts), *vectors],
        "sbert-ft score, one pair": [*command, "score", model, TEXT, OTHER],
        "sbert-ft score, one pair, exported folder": score(EXPORTS["ONNX Runtime"]),
        **{
            f"sbert-ft score, one pair, {name}": score(kind, "--engine", kind.split("-")[0])
            for name, kind in EXPORTS.items()
        },
        "sbert-ft doctor": [*command, "doctor", model],
        "import sbert_ft": [*code, "import sbert_ft"],
        "from sbert_ft import SiameseBert": [*code, "from sbert_ft import SiameseBert"],
        "sbert_ft, first vector": [
            *code,
            f"from sbert_ft import SiameseBert as S; S.from_pretrained({model!r}).encode({TEXT!r})",
        ],
        "import sentence_transformers": [*code, "import sentence_transformers"],
        "sentence-transformers, first vector": [*code, f"{PEER}S({model!r}, device='cpu').encode({TEXT!r})"],
        "sentence-transformers bfloat16, first vector": [
            *code,
            f"{PEER}S({model!r}, device='cpu', model_kwargs={{'dtype': 'bfloat16'}}).encode({TEXT!r})",
        ],
        "sentence-transformers, one pair": [
            *code,
            f"{PEER}m = S({model!r}, device='cpu'); print(m.similarity(m.encode({TEXT!r}), m.encode({OTHER!r})))",
        ],
        "import torch": [*code, "import torch"],
        "import torch, transformers": [*code, "import torch, transformers"],
        "a stock BERT of transformers imported": [*code, "import transformers.models.bert.modeling_bert"],
        "python -c pass": [*code, "pass"],
    }


def export(folder: Path, scratch: Path) -> None:
    """Write copies of a model's folder with an export in each, by a process of its own.

    Raises:
        SystemExit: The model could not be exported.
    """
    kinds = [f"sbert_ft-{kind}" for kind in EXPORTS.values()]
    script = str(Path(__file__).with_name("exports.py"))
    command = [sys.executable, script, str(folder), str(scratch), "--kinds", *kinds]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise SystemExit(f"the model could not be exported: {done.stdout.strip()}")


def measured(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Run a command and return its seconds and the most memory that was resident, in MiB.

    Raises:
        SystemExit: The command failed.
    """
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{command} ended with {process.returncode}: {said.decode(errors='replace')[-500:]}")
    return seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    """Measure in turn, print medians, write benchmarks/results/startup.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", metavar="WORD", help="only the starts whose name has this word")
    parser.add_argument("--name", default="startup", help="of the result's file")
    args = parser.parse_args()
    rounds = args.rounds
    environment = {**os.environ, "PYTHONPATH": str(harness.ROOT)}
    with tempfile.TemporaryDirectory() as scratch:
        commands = {n: c for n, c in starts(minilm(), Path(scratch)).items() if args.only in n}
        if any("score" in name for name in commands):
            export(minilm(), Path(scratch))
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        mib: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(-1, rounds):  # the first, which brings the files into memory, does not count
            for name, command in commands.items():
                took, peak = measured(command, environment)
                if turn >= 0:
                    seconds[name].append(took)
                    mib[name].append(peak)
    table = {
        name: {
            "seconds": round(statistics.median(s), 3),
            "least": round(min(s), 3),
            "most": round(max(s), 3),
            "mib": round(statistics.median(mib[name])),
        }
        for name, s in seconds.items()
    }
    for name, row in table.items():
        print(f"{name:46s} {row['seconds']:7.3f} s ({row['least']}-{row['most']})  {row['mib']:5d} MiB")
    print(f"written: {harness.write_result(args.name, {'rounds': rounds, 'commands': table})}")


if __name__ == "__main__":
    main()
