"""How long a start takes and what memory it needs: imports, the first vector and the command line, beside the peer's.

Each start is a process of its own. Seconds are those of the whole process, from its beginning to its end; MiB are the
most that was resident of it, the interpreter, torch and transformers included, which all of them share.

python benchmarks/startup.py
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
    return {
        "sbert-ft --help": [*command, "--help"],
        "sbert-ft encode, one text": [*command, "encode", model, str(texts), *vectors],
        "sbert-ft score, one pair": [*command, "score", model, TEXT, TEXT],
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
        "import torch": [*code, "import torch"],
        "a stock BERT of transformers imported": [*code, "import transformers.models.bert.modeling_bert"],
        "python -c pass": [*code, "pass"],
    }


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
    rounds = parser.parse_args().rounds
    environment = {**os.environ, "PYTHONPATH": str(harness.ROOT)}
    with tempfile.TemporaryDirectory() as scratch:
        commands = starts(minilm(), Path(scratch))
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
    print(f"written: {harness.write_result('startup', {'rounds': rounds, 'commands': table})}")


if __name__ == "__main__":
    main()
