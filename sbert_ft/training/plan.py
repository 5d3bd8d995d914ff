"""What a run is going to do, worked out and said before it starts: steps, lengths, precision, memory.

Memory is foreseen from shapes: what is kept for the backward pass is a known number of values a token and layer. From
it follows how many rows a forward takes; more are taken in parts, with the same gradient.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sbert_ft.config.settings import TrainingSettings
from sbert_ft.data.ledger import counted
from sbert_ft.encoder.devices import choose_precision, describe_device, memory_bytes
from sbert_ft.encoder.packing import Layout, row_width
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.training.batch_sampler import epoch_batches

# Kept for the backward pass of a BERT layer: so many bytes for each feature of a token, and for each score of a head.
# Checked against MiniLM and a small BERT on a CPU with 16 and 64 STS pairs (see `tests/training/test_plan.py`), this is
# 0.9 to 1.25 times what is kept; against the peak of whole steps, a base-sized BERT and 256 tokens a text among them,
# 0.8 to 1.15 times. With little text in a batch the peak is what `_BYTES_PER_WEIGHT` counts: gradients, and the weights
# in half precision under autocast.
_BYTES_PER_FEATURE = {2: 56, 4: 88}
_BYTES_PER_SCORE = {2: 8, 4: 16}
# Of the memory that is free, what the activations of a forward may take.
_SHARE_FOR_ACTIVATIONS = 0.5
# What a row of so many texts is called.
ROW_WORDS = {1: "text", 2: "pair", 3: "triplet"}
# Weights, gradients and the two moments, float32; and the copy in half precision for inference.
_BYTES_PER_WEIGHT = 4 * 4 + 2


@dataclass(frozen=True)
class RunPlan:
    """What a run is going to do.

    Attributes:
        n_rows: Training rows.
        n_texts: Texts a row.
        is_joined: Whether the texts of a row go through the encoder as one.
        steps_by_epoch: Optimizer steps of each epoch; the last may be cut by max_steps.
        n_steps: Optimizer steps in all.
        n_warmup: Of these, with a rising rate.
        micro_rows: Rows a forward.
        autocast_dtype: In which the encoder computes; None for float32.
        layout: How texts are laid out; None to choose batch by batch.
        device: Where.
        percentiles: Tokens of a text (or joined pair), by percentile.
        n_cut: Texts (or joined pairs) that max_seq_length cuts.
        max_seq_length: Tokens a text (or joined pair) may have.
        fixed_bytes: Memory of weights, gradients and optimizer.
        batch_bytes: Memory of the largest forward and its backward.
        n_frozen: Weights that are not trained.
        patience: Evaluations without a better one after which to stop; None for never.
    """

    n_rows: int
    n_texts: int
    steps_by_epoch: tuple[int, ...]
    n_steps: int
    n_warmup: int
    micro_rows: int
    autocast_dtype: torch.dtype | None
    layout: Layout | None
    device: torch.device
    percentiles: Mapping[int, int]
    n_cut: int
    max_seq_length: int
    fixed_bytes: int
    batch_bytes: int
    n_frozen: int
    patience: int | None = None
    is_joined: bool = False

    @property
    def precision(self) -> str:
        """The type in which the encoder computes, by name."""
        return str(self.autocast_dtype or torch.float32).removeprefix("torch.")

    def describe(self, settings: TrainingSettings, objective: str) -> list[str]:
        """Return the plan in a few lines."""
        rows = counted(self.n_rows, ROW_WORDS[self.n_texts])
        sequence = "pair" if self.is_joined else "text"
        lengths = ", ".join(f"{p} % up to {n}" for p, n in self.percentiles.items() if p < 100)
        cut = f"{counted(self.n_cut, sequence)} cut at {self.max_seq_length}" if self.n_cut else "none is cut"
        batch = f"batch {settings.batch_size}"
        if settings.accumulation_steps > 1:
            batch += f" x {settings.accumulation_steps} accumulated"
        if self.micro_rows < settings.batch_size:
            batch += f" in forwards of {self.micro_rows}"
        frozen = f", {self.n_frozen:,} weights frozen" if self.n_frozen else ""
        warm_up = f"after {counted(self.n_warmup, 'step')} of" if self.n_warmup else "without"
        return [
            f"{describe_device(self.device)}, {self.precision}{frozen}",
            f"{rows}, objective {objective}",
            f"tokens a {sequence}: {lengths}, the longest {self.percentiles[100]}; {cut}",
            f"{counted(self.n_steps, 'step')} ({counted(len(self.steps_by_epoch), 'epoch')}), {batch}, "
            f"rate {settings.learning_rate:g}, {settings.schedule} {warm_up} warm-up",
            f"memory foreseen: {_size(self.fixed_bytes + self.batch_bytes)}, of which {_size(self.batch_bytes)} for "
            "a batch",
        ]


def training_dtype(settings: TrainingSettings, device: torch.device) -> torch.dtype | None:
    """Return in which type the encoder computes under autocast, None for float32.

    ``auto`` is bfloat16 where the hardware multiplies it, float16 on older CUDA cards, else float32.

    Raises:
        InputError: No precision has this name.
    """
    if settings.precision == "auto" and device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    dtype = choose_precision(settings.precision, device)
    return None if dtype == torch.float32 else dtype


def training_layout(bert: ConnectionBert) -> Layout | None:
    """Return the layout to train in: rows, wherever the encoder runs them.

    On a GPU the kernel for runs has no dropout; on a CPU rows have one shape for all batches.
    """
    return "rows" if "rows" in bert.probe.layouts else None


def steps_by_epoch(
    n_rows: int, settings: TrainingSettings, text_rows: NDArray[np.int64] | None = None
) -> tuple[int, ...]:
    """Return the optimizer steps of each epoch, cut at max_steps.

    Args:
        n_rows: Training rows.
        settings: Epochs, batch size, accumulation, seed.
        text_rows: See `epoch_batches`: their number depends on the order where no text may come twice.
    """
    steps: list[int] = []
    left = settings.max_steps if settings.max_steps is not None else 1 << 62
    for epoch in range(settings.epochs):
        if text_rows is None and steps and steps[0] <= left:
            n_steps = steps[0]
        else:
            n_batches = len(epoch_batches(n_rows, settings.batch_size, settings.seed, epoch, text_rows=text_rows))
            n_steps = -(-n_batches // settings.accumulation_steps)
        steps.append(min(n_steps, left))
        left -= steps[-1]
        if left == 0:
            break
    return tuple(steps)


def keeps_scores(bert: ConnectionBert) -> bool:
    """Return whether a forward keeps the attention's scores: torch's kernels for rows on a GPU compute them again."""
    return bert.device.type != "cuda" or training_layout(bert) != "rows"


def activation_bytes(bert: ConnectionBert, n_tokens: int, longest: int, n_bytes: int, checkpointing: bool) -> int:
    """Return the memory that a forward keeps for its backward.

    Args:
        bert: The encoder.
        n_tokens: Tokens of the forward.
        longest: Of its longest text.
        n_bytes: Of a value: 2 in half precision, 4 in float32.
        checkpointing: Whether activations within a layer are computed again instead of kept.
    """
    config = bert.plan.config
    heads, layers, width = int(config.num_attention_heads), int(config.num_hidden_layers), bert.hidden_size
    feed_forward = int(getattr(config, "intermediate_size", 4 * width)) / (4 * width)
    per_token = width * _BYTES_PER_FEATURE[n_bytes] * (0.7 + 0.3 * feed_forward)
    scores = row_width(longest)
    per_token += heads * scores * _BYTES_PER_SCORE[n_bytes] if keeps_scores(bert) else 0
    if checkpointing:
        return int(n_tokens * (per_token + 4 * width * layers))
    return int(n_tokens * per_token * layers)


def foresee(
    bert: ConnectionBert,
    row_lengths: NDArray[np.int64],
    longest: int,
    settings: TrainingSettings,
    dtype: torch.dtype | None,
) -> tuple[int, int, int]:
    """Return the rows of a forward, and the bytes of what stays and of the largest batch.

    Args:
        bert: The encoder, on its device.
        row_lengths: Tokens of each training row, all its texts together, shape (N,).
        longest: Tokens of the longest text, as it is computed.
        settings: Batch size, micro-batch size.
        dtype: See `training_dtype`.
    """
    n_weights = sum(parameter.numel() for parameter in bert.encoder.parameters())
    fixed = n_weights * _BYTES_PER_WEIGHT
    n_bytes = 4 if dtype is None else 2
    per_token = activation_bytes(bert, 1, longest, n_bytes, settings.gradient_checkpointing)
    # rows as long as the longest percent of them
    typical = int(np.percentile(row_lengths, 99)) if len(row_lengths) else 1
    room = max(0, free_memory(bert.device) - fixed) * _SHARE_FOR_ACTIVATIONS
    fitting = max(1, int(room / max(1, per_token * typical)))
    micro_rows = min(settings.batch_size, settings.micro_batch_size or fitting)
    largest = int(np.sort(row_lengths)[-micro_rows:].sum()) if len(row_lengths) <= 1_000_000 else micro_rows * typical
    return micro_rows, fixed, per_token * largest


def free_memory(device: torch.device, group: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes that are free on the device; of a CPU's what can be had without swapping.

    Args:
        device: Where.
        group: The folder in which Linux says how much memory a container may have; where it is exceeded, the process
            is killed.
    """
    if device.type == "cuda":
        # what torch has taken from the card and does not use is free for it alone
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    available = re.search(r"^MemAvailable: +(\d+) kB", _read(Path("/proc/meminfo")), re.MULTILINE)
    free = memory_bytes() // 2 if available is None else int(available[1]) * 1024
    limit, used = (_read(group / name).strip() for name in ("memory.max", "memory.current"))
    if limit.isdigit() and used.isdigit():
        cached = re.search(r"^inactive_file (\d+)", _read(group / "memory.stat"), re.MULTILINE)
        reclaimable = 0 if cached is None else int(cached[1])  # files read before, dropped when memory gets scarce
        free = min(free, max(0, int(limit) - int(used) + reclaimable))
    return free


def _read(path: Path) -> str:
    """Return the content of a file of the system, nothing where there is none to read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _size(n_bytes: int) -> str:
    """Return a size as people say it, such as "1.5 GiB"."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"
