"""How long the command line takes to answer, beside what its peers take to be imported.

python benchmarks/startup.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

import harness

COMMANDS = {
    "sbert-ft --help": [sys.executable, "-m", "sbert_ft", "--help"],
    "import sbert_ft": [sys.executable, "-c", "import sbert_ft"],
    "from sbert_ft import SiameseBert": [sys.executable, "-c", "from sbert_ft import SiameseBert"],
    "import sentence_transformers": [sys.executable, "-c", "import sentence_transformers"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def main() -> None:
    """Measure in turn, print medians, write benchmarks/results/startup.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    environment = {**os.environ, "PYTHONPATH": str(harness.ROOT)}
    for turn in range(-1, rounds):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    table = {
        name: {"seconds": round(statistics.median(s), 3), "least": round(min(s), 3), "most": round(max(s), 3)}
        for name, s in seconds.items()
    }
    for name, row in table.items():
        print(f"{name:36s} {row['seconds']:7.3f} s ({row['least']}-{row['most']})")
    print(f"written: {harness.write_result('startup', {'rounds': rounds, 'commands': table})}")


if __name__ == "__main__":
    main()
