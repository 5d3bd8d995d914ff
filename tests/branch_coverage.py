"""Print how many of the branches the tests take in the modules that read what others wrote, and hold each to 90 %.

`make test` runs this after the tests; it reads the file that coverage.py left. What runs in the processes that tests
fork or start is not counted, so the figures are lower bounds.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from coverage import Coverage

ROOT = Path(__file__).resolve().parent.parent
FLOOR = 90.0
"""Per cent of the branches of each group of modules."""

GROUPS = {
    "folder": [
        *("model_folder/layout.py", "model_folder/writer.py", "model_folder/classifier.py", "model_folder/weights.py"),
        *("model_folder/tensor_names.py", "model_folder/tensor_files.py", "model_folder/metadata.py"),
        *("files/strict_json.py", "encoder/spec.py", "encoder/kinds.py", "model_folder/not_applied.py"),
    ],
    "tokenizer": [
        *("tokenization/tokenizer.py", "tokenization/loading.py", "tokenization/vocabulary.py"),
        *("tokenization/text_tokens.py", "tokenization/sentencepiece_model.py", "tokenization/classes.py"),
    ],
    "tables": [
        *("data/table.py", "data/formats.py", "data/file_formats.py", "data/text.py"),
        *("data/columns.py", "data/ledger.py", "data/labels.py", "data/sources.py", "data/dataset.py"),
    ],
    "checkpoints": [
        *("training/checkpoints.py", "files/atomic.py", "training/run_folder.py", "files/file_lock.py"),
        "training/run_log.py",
    ],
}


def main() -> int:
    """Print a line a group; return 1 where one is below the floor."""
    coverage = Coverage(config_file=str(ROOT / "pyproject.toml"))
    coverage.load()
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "coverage.json"
        coverage.json_report(outfile=str(report))
        files = json.loads(report.read_text("utf-8"))["files"]
    counts = {Path(name).as_posix().partition("sbert_ft/")[2]: file["summary"] for name, file in files.items()}
    is_low = False
    for group, names in GROUPS.items():
        total = sum(counts[name]["num_branches"] for name in names)
        taken = sum(counts[name]["covered_branches"] for name in names)
        share = 100 * taken / total
        is_low |= share < FLOOR
        print(f"branch coverage of {group}: {share:.1f} % ({taken} of {total} branches, {len(names)} files)")
    if is_low:
        print(f"expected at least {FLOOR:.0f} % of each", file=sys.stderr)
    return int(is_low)


if __name__ == "__main__":
    raise SystemExit(main())
