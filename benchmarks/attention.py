"""Attention on a CPU: plain products over blocks against torch's flash kernel, at one forward's size.

    python benchmarks/attention.py

The tokens of a forward (4,096) as texts of one length, heads as in MiniLM (12 of width 32) and in
BERT-base (12 of 64), without a mask; and as rows of 64 with texts of 16 behind a mask.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import harness


def main() -> None:
    """Measure in turn, print medians in milliseconds, write benchmarks/results/attention-cpu.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=4096)
    args = parser.parse_args()
    import torch
    from torch.nn import functional as F

    from sbert_ft.encoder import attention

    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        for width in (32, 64):
            for length, masked in ((16, False), (64, False), (128, False), (256, False), (512, False), (64, True)):
                n, heads = args.tokens // length, 12
                # as the encoder hands them over: (R, C, H, d) seen as (R, H, C, d)
                q, k, v = (torch.randn(n, length, heads, width, dtype=dtype).transpose(1, 2) for _ in range(3))
                text = torch.arange(length) // 16
                seen = (text[:, None] == text[None]).expand(n, 1, length, length).contiguous() if masked else None
                mask = None if seen is None else attention.additive_mask(seen, dtype)

                def flash(q=q, k=k, v=v, mask=mask) -> None:
                    F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).contiguous()

                def blocks(q=q, k=k, v=v, mask=mask, width=width) -> None:
                    attention._attend_in_blocks(q * width**-0.5, k, v, mask, 0.0).transpose(1, 2).contiguous()

                def whole(q=q, k=k, v=v, mask=mask, width=width) -> None:
                    attention._attend(q * width**-0.5, k, v, mask, 0.0).transpose(1, 2).contiguous()

                with torch.inference_mode():
                    times = in_turn({"flash": flash, "blocks": blocks, "whole": whole}, args.rounds)
                row = {"dtype": str(dtype)[6:], "head_width": width, "length": length, "mask": masked, **times}
                rows.append(row)
                print("  ".join(f"{key} {value}" for key, value in row.items()))
    print(f"written: {harness.write_result('attention-cpu', {'tokens': args.tokens, 'milliseconds': rows})}")


def in_turn(kernels: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return each kernel's median in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in kernels}
    for turn in range(-2, rounds):
        for name, kernel in kernels.items():
            start = time.perf_counter()
            kernel()
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    return {name: round(statistics.median(t) * 1e3, 2) for name, t in times.items()}


if __name__ == "__main__":
    main()
