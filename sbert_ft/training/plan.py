"""Plan a run before it starts: steps, text lengths, precision, memory.

Memory is estimated from shapes: the backward pass keeps a known number of values per token and layer. The number of
rows per forward follows from it; larger batches are split into parts, with the same gradient.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sbert_ft.config.settings import TrainingSettings
from sbert_ft.data.corpus import TextCorpus
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.data.ledger import counted, row_word
from sbert_ft.encoder.batching import Layout, row_width
from sbert_ft.encoder.devices import choose_precision, describe_device, memory_bytes
from sbert_ft.encoder.ranks import Ranks
from sbert_ft.errors import InputError, quoted, shown
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.models.tokenized_corpus import TokenizedCorpus, tokenize_corpus
from sbert_ft.tokenization.text_tokens import TextTokens
from sbert_ft.training.batch_sampler import epoch_batches, fitting_batch_size
from sbert_ft.training.negatives import NegativeMiner
from sbert_ft.training.optimizer import warmup_steps
from sbert_ft.training.prepare import PreparedRun, masker_of
from sbert_ft.training.text_decoder import TextDecoder
from sbert_ft.training.tokenized_dataset import TokenizedConnections, tokenize_connections
from sbert_ft.training.trainable_model import frozen_parameters

logger = logging.getLogger(__name__)

# Bytes kept for the backward pass of a BERT layer, per feature of a token and per attention score of a head, by the
# bytes of a value. Checked against MiniLM and a small BERT on a CPU with 16 and 64 STS pairs (see
# `tests/training/test_plan.py`): 0.9 to 1.25 times what is kept. Compared with the peak of whole steps, including a
# base-sized BERT and 256 tokens per text: 0.8 to 1.15 times. With little text in a batch, the peak is what
# `_BYTES_PER_WEIGHT` counts: gradients, and the weights in half precision under autocast.
_BYTES_PER_FEATURE = {2: 56, 4: 88}
_BYTES_PER_SCORE = {2: 8, 4: 16}
# Of a decoder, per word of the vocabulary and token: logits, their softmax and its gradient. Compared as above, with
# MiniLM and 16 and 64 texts: 0.95 to 1.05 times the peak.
_BYTES_PER_OUTPUT = {2: 16, 4: 12}
_BYTES_PER_AVERAGE = 4  # of a weight's moving average, float32
# Share of the free memory that the activations of a forward may use.
_SHARE_FOR_ACTIVATIONS = 0.5
_MOST_UNKNOWN = 0.9  # share of the tokens above which training is refused
# Weights, gradients and the two moments in float32; and the copy in half precision for inference.
_BYTES_PER_WEIGHT = 4 * 4 + 2


@dataclass(frozen=True)
class RunPlan:
    """A run with its training rows as tokens, and how it goes: steps, precision and memory.

    `micro_rows` go through at once in each of `n_processes`. The memory is that of weights, gradients and optimizer
    (`fixed_bytes`), and that of the largest forward and its backward (`batch_bytes`). Where `layout` is None it is
    chosen for each batch. `idle` says how many batches of the first epoch teach nothing; it is empty where all of them
    teach something. The `miner`, if there is one, adds negatives to the rows of each epoch.
    """

    run: PreparedRun
    tokens: TokenizedConnections | TokenizedCorpus
    steps_by_epoch: tuple[int, ...]
    micro_rows: int
    autocast_dtype: torch.dtype | None
    layout: Layout | None
    fixed_bytes: int
    batch_bytes: int
    idle: str = ""
    n_processes: int = 1
    miner: NegativeMiner | None = None

    @property
    def n_steps(self) -> int:
        """All optimizer steps."""
        return sum(self.steps_by_epoch)

    @property
    def precision(self) -> str:
        """Name of the type in which the encoder computes."""
        return str(self.autocast_dtype or torch.float32).removeprefix("torch.")

    @property
    def row(self) -> str:
        """What a row is: a text, pair or triplet; of raw texts a sequence."""
        return "sequence" if isinstance(self.tokens, TokenizedCorpus) else row_word(self.run.data.train.n_texts)

    @property
    def sequence(self) -> str:
        """What the encoder gets as one sequence: a text, or a pair that is joined."""
        return "text" if self.run.joined_by is None else "pair"

    @property
    def lines(self) -> NDArray[np.int64]:
        """The line of each training row in its source, shape (N,)."""
        return self.tokens.row_lines if isinstance(self.tokens, TokenizedCorpus) else self.run.connections.train.lines

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return the rows of each batch of an epoch, as `epoch_batches` does."""
        settings = self.run.settings.training
        text_rows = self.run.connections.train.text_rows if self.run.objective.distinct_texts else None
        return epoch_batches(len(self.tokens), settings.batch_size, settings.seed, epoch, text_rows=text_rows)

    def first_batch(self) -> TextTokens:
        """Return the sequences of the first batch, as the model gets them."""
        batch, model = self.batches(0)[0], self.run.model
        if isinstance(self.tokens, TokenizedConnections):
            tokens, decoder = self.tokens.pack_rows(batch), self.run.objective.decoder
            return tokens if decoder is None else decoder.damage(tokens, 0, 0)[0]
        assert isinstance(model, MaskedLanguageModel)
        random = np.random.default_rng([self.run.settings.training.seed, 0, 0])
        return self.tokens.draw(batch, masker_of(model, self.run.settings), random).tokens

    def describe(self) -> list[str]:
        """Return the plan as a few lines of text."""
        settings, tokens, percentiles = self.run.settings.training, self.tokens, self.tokens.percentiles()
        lengths = ", ".join(f"{p} % up to {n}" for p, n in percentiles.items() if p < 100)
        batch = f"batch {settings.batch_size}"
        if self.n_processes > 1:
            batch += f" dealt to {self.n_processes} processes"
        if settings.accumulation_steps > 1:
            batch += f" x {settings.accumulation_steps} accumulated"
        if self.micro_rows < settings.batch_size:
            batch += f" in forwards of {self.micro_rows}"
        rows = tokens.describe_rows() if isinstance(tokens, TokenizedCorpus) else counted(len(tokens), self.row)
        n_frozen = sum(p.numel() for p in frozen_parameters(self.run.model.bert.encoder, self.run.settings.model))
        frozen = f", {n_frozen:,} weights frozen" if n_frozen else ""
        prompts = self.run.prompts_of(self.run.data.train)
        prompted = [f"texts begin with the prompts {', '.join(map(quoted, prompts))}"]
        if len(set(prompts)) < 2:
            prompted = [
                f"every text begins with the default prompt {quoted(prompt)}" for prompt in prompts[:1] if prompt
            ]
        each = "" if self.n_processes == 1 else " in each"
        among = "" if self.n_processes == 1 else f"{self.n_processes} processes, the first on "
        n_warmup = warmup_steps(self.n_steps, settings)
        warm_up = f"after {counted(n_warmup, 'step')} of" if n_warmup else "without"
        return [
            f"{among}{describe_device(self.run.model.device)}, {self.precision}{frozen}",
            f"{rows}, objective {self.run.objective.describe()}",
            *prompted,
            *self._teacher(),
            f"tokens a {self.sequence}: {lengths}, the longest {percentiles[100]}; {tokens.describe_cut()}",
            f"{counted(self.n_steps, 'step')} ({counted(len(self.steps_by_epoch), 'epoch')}), {batch}, "
            f"rate {settings.learning_rate:g}, {settings.schedule} {warm_up} warm-up",
            f"memory foreseen{each}: {_size(self.fixed_bytes + self.batch_bytes)}, of which {_size(self.batch_bytes)} "
            "for a batch",
            *self._adversarial_in_words(),
            *self._average_in_words(),
            *([] if self.miner is None else [f"negatives: {self.miner.describe()}"]),
            *([self.idle] if self.idle else []),
        ]

    def _teacher(self) -> list[str]:
        """Return the line about a teacher's vectors, if there are any."""
        teacher = self.run.teacher
        if teacher is None:
            return []
        n_vectors = teacher.n_vectors(self.run.connections.train)
        size = _size(4 * n_vectors * teacher.width)
        return [f"teacher: {counted(n_vectors, 'vector')} of {teacher.width} numbers, {size} of memory"]

    def _adversarial_in_words(self) -> list[str]:
        """Return that each step is computed twice, as a line of text; empty if it is not."""
        epsilon = self.run.settings.training.adversarial_epsilon
        return [] if epsilon is None else [f"adversarial: each step again, with the words moved by {epsilon:g}"]

    def _average_in_words(self) -> list[str]:
        """Return how the weights are averaged and what it needs, as a line of text; empty if they are not."""
        settings = self.run.settings.training
        if settings.average == "ema":
            return [f"weights: evaluated and saved is their moving average, decay {settings.ema_decay:g}"]
        if settings.average == "best_k":
            disk = f"{_size(self.run.checkpoint_bytes)} of disk for the checkpoint of each"
            return [f"weights: the mean of the {settings.best_k} best evaluated steps is tried at the end, {disk}"]
        return []


def plan_run(run: PreparedRun, ranks: Ranks | None = None) -> RunPlan:
    """Return the plan of a run, with its tokens; of several processes each calls it, and all have the same plan."""
    ranks = Ranks() if ranks is None else ranks
    model, settings, tokens = run.model, run.settings.training, _tokens_of(run)
    _check_known(tokens, model.bert, settings)
    _check_adversarial(run)
    text_rows = run.connections.train.text_rows if run.objective.distinct_texts else None
    if text_rows is not None and (fitting := fitting_batch_size(settings.batch_size, text_rows)) < settings.batch_size:
        logger.warning(
            "batches have %d rows instead of %d: one text occurs in many rows, and no batch may hold a text twice",
            *(fitting, settings.batch_size),
        )
    dtype = training_dtype(settings, model.device)
    longest = min(tokens.percentiles()[100], model.max_seq_length)
    negatives, row_lengths = run.settings.data.negatives, tokens.row_lengths
    miner = None if negatives is None else NegativeMiner(run, negatives)
    if negatives is not None and isinstance(tokens, TokenizedConnections):
        row_lengths = row_lengths + negatives.per_pair * tokens.long_text(1)
    micro_rows, fixed_bytes, batch_bytes = foresee(
        model.bert, row_lengths, longest, settings, dtype, run.objective.decoder, ranks
    )
    micro_rows = -ranks.most([-micro_rows])[0]  # the fewest that fit anywhere
    steps = steps_by_epoch(len(tokens), settings, text_rows)
    layout = training_layout(model.bert)
    plan = RunPlan(
        *(run, tokens, steps, micro_rows, dtype, layout, fixed_bytes, batch_bytes), n_processes=ranks.size, miner=miner
    )
    batches = plan.batches(0)
    if miner is not None:
        miner.check_batches(batches)
    plan = replace(plan, idle=_idle_batches(run, batches))
    if plan.idle:
        logger.warning("%s", plan.idle)
    return plan


def _check_adversarial(run: PreparedRun) -> None:
    """Check that the words can be moved where the run asks for it; an `InputError` if not."""
    epsilon, encoder = run.settings.training.adversarial_epsilon, run.model.bert.encoder
    if epsilon is None:
        return
    table = encoder.get_input_embeddings().weight
    if any(parameter is table for parameter in frozen_parameters(encoder, run.settings.model)):
        raise InputError(
            f"training.adversarial_epsilon is {epsilon:g}, but the word embeddings are frozen",
            "leave out model.freeze_embeddings, or training.adversarial_epsilon",
        )


def _tokens_of(run: PreparedRun) -> TokenizedConnections | TokenizedCorpus:
    """Return the training rows as tokens; an `InputError` if no row is left."""
    model, train = run.model, run.data.train
    if isinstance(model, MaskedLanguageModel):
        assert isinstance(train, TextCorpus)
        tokens = tokenize_corpus(train, model.tokenizer, model.max_seq_length, model.next_sentence)
        if not len(tokens):
            raise InputError(f"no text of {quoted(train.source, limit=400)} has a token of this vocabulary")
        return tokens
    assert isinstance(train, ConnectionDataset)
    include_prompt = model.bert.source.include_prompt
    rows = tokenize_connections(
        train, model.tokenizer, model.max_seq_length, run.joined_by, run.prompts_of(train), include_prompt
    )
    n_views = run.objective.n_views
    return rows if n_views == 1 else replace(rows, rows=rows.rows.repeat(n_views, axis=1))


def _idle_batches(run: PreparedRun, batches: Sequence[NDArray[np.int64]]) -> str:
    """Return how many of the batches teach nothing, in words, or ""; an `InputError` where it is all of them."""
    objective = run.objective
    if not objective.coupled:
        return ""
    train = run.connections.train
    of_rows = [None if train.labels is None else train.labels[batch] for batch in batches]
    idle = [
        len(batch)
        for batch, labels in zip(batches, of_rows, strict=True)
        if not objective.can_learn_from(len(batch), train.n_texts, labels)
    ]
    if not idle:
        return ""
    n_single = idle.count(1)
    causes = [f"{n_single:,} have one row"] if n_single else []
    causes += [f"in {len(idle) - n_single:,} all labels are equal"] if n_single < len(idle) else []
    found = f"{len(idle):,} of {len(batches):,} batches of an epoch teach nothing"
    found += f" by objective {objective.describe()}, which compares the rows of a batch: {' and '.join(causes)}"
    if len(idle) < len(batches):
        return found
    if len(train) == 1:
        remedy = "give more rows"
    elif run.settings.training.batch_size == 1 or n_single < len(idle):
        remedy = "raise training.batch_size"
    else:
        remedy = "any two rows share a text, and no batch may hold a text twice: give rows with other texts"
    raise InputError(f"nothing can be learned: {found}", remedy)


def _check_known(
    tokens: TokenizedConnections | TokenizedCorpus, bert: ConnectionBert, settings: TrainingSettings
) -> None:
    """Warn of many unknown tokens; refuse to train where hardly any is known."""
    if tokens.n_unknown <= _MOST_UNKNOWN * tokens.n_own_tokens or settings.allow_unknown:
        bert.warn_of_unknown(tokens.n_unknown, tokens.n_own_tokens, tokens.unknown_texts)
        return
    cause = bert.tokenizer.why_unknown(tokens.unknown_texts)
    share = 100 * tokens.n_unknown / tokens.n_own_tokens
    raise InputError(
        f"{share:.1f} % of the training texts' tokens are unknown to the vocabulary of {shown(bert.source.path)}"
        f"{cause.in_brackets}, so nothing can be learned from them",
        f"{cause.remedy}, or set training.allow_unknown",
    )


def training_dtype(settings: TrainingSettings, device: torch.device) -> torch.dtype | None:
    """Return the type in which the encoder computes under autocast; None for float32.

    ``auto`` is bfloat16 if the hardware multiplies it, float16 on older CUDA GPUs, otherwise float32.
    """
    if settings.precision == "auto" and device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    dtype = choose_precision(settings.precision, device)
    return None if dtype == torch.float32 else dtype


def training_layout(bert: ConnectionBert) -> Layout | None:
    """Return the layout for training: rows, if the encoder supports it; otherwise None."""
    # on a GPU the kernel for runs has no dropout; on a CPU rows have the same shape in all batches
    return "rows" if "rows" in bert.probe.layouts else None


def steps_by_epoch(
    n_rows: int, settings: TrainingSettings, text_rows: NDArray[np.int64] | None = None
) -> tuple[int, ...]:
    """Return the optimizer steps of each epoch, at most max_steps in total.

    With `text_rows`, as in `epoch_batches`, the number of batches depends on the order of the epoch.
    """
    steps: list[int] = []
    n_steps, left = 0, settings.max_steps or 1 << 62
    for epoch in range(settings.epochs):
        if epoch == 0 or text_rows is not None:
            n_batches = len(epoch_batches(n_rows, settings.batch_size, settings.seed, epoch, text_rows=text_rows))
            n_steps = -(-n_batches // settings.accumulation_steps)
        steps.append(min(n_steps, left))
        left -= steps[-1]
        if left == 0:
            break
    return tuple(steps)


def activation_bytes(bert: ConnectionBert, n_tokens: int, longest: int, n_bytes: int, checkpointing: bool) -> int:
    """Return the bytes that a forward of `n_tokens`, `longest` of them in one text, keeps for its backward.

    A value has `n_bytes`: 2 in half precision, 4 in float32. With `checkpointing`, activations within a layer are
    recomputed instead of kept.
    """
    config = bert.plan.config
    heads, layers, width = int(config.num_attention_heads), int(config.num_hidden_layers), bert.hidden_size
    feed_forward = int(getattr(config, "intermediate_size", 4 * width)) / (4 * width)
    per_token = width * _BYTES_PER_FEATURE[n_bytes] * (0.7 + 0.3 * feed_forward)
    if bert.device.type != "cuda" or training_layout(bert) != "rows":  # torch's kernels for rows recompute scores there
        per_token += heads * row_width(longest) * _BYTES_PER_SCORE[n_bytes]
    if checkpointing:
        return int(n_tokens * (per_token + 4 * width * layers))
    return int(n_tokens * per_token * layers)


def foresee(
    bert: ConnectionBert,
    row_lengths: NDArray[np.int64],
    longest: int,
    settings: TrainingSettings,
    dtype: torch.dtype | None,
    decoder: TextDecoder | None = None,
    ranks: Ranks | None = None,
) -> tuple[int, int, int]:
    """Return the rows per forward, the fixed bytes (weights, gradients, moments, copies), those of the largest batch.

    All three are those of one of several processes; on a CPU they share the memory of their machine.

    `row_lengths`, shape (N,), are the tokens of each training row, and `longest` those of the longest text, truncated.
    """
    n_weights = sum(parameter.numel() for parameter in bert.encoder.parameters())
    if decoder is not None:
        n_weights += sum(parameter.numel() for parameter in decoder.own.parameters())
    fixed = n_weights * (_BYTES_PER_WEIGHT + (_BYTES_PER_AVERAGE if settings.average == "ema" else 0))
    if settings.adversarial_epsilon is not None and bert.device.type != "cpu":  # a CPU copies only a step's words
        words = bert.encoder.get_input_embeddings().weight
        assert isinstance(words, torch.Tensor)
        fixed += 4 * words.numel()
    n_bytes = 4 if dtype is None else 2
    per_token = activation_bytes(bert, 1, longest, n_bytes, settings.gradient_checkpointing)
    if decoder is not None:
        per_token += (
            activation_bytes(bert, 1, longest, n_bytes, False) + _BYTES_PER_OUTPUT[n_bytes] * decoder.vocab_size
        )
    # plan for rows at the 99th percentile of length
    typical = int(np.percentile(row_lengths, 99)) if len(row_lengths) else 1
    n_local, size = (1, 1) if ranks is None else (ranks.n_local, ranks.size)
    free = free_memory(bert.device) // (n_local if bert.device.type == "cpu" else 1)
    available = max(0, free - fixed) * _SHARE_FOR_ACTIVATIONS
    fitting = max(1, int(available / max(1, per_token * typical)))
    micro_rows = min(settings.batch_size, settings.micro_batch_size or fitting)
    at_once = min(micro_rows, -(-settings.batch_size // size))
    largest = int(np.sort(row_lengths)[-at_once:].sum()) if len(row_lengths) <= 1_000_000 else at_once * typical
    return micro_rows, fixed, per_token * largest


def free_memory(device: torch.device, group: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the free bytes on the device; for a CPU, the memory available without swapping.

    The Linux cgroup folder `group` has the memory limit of a container; a process that exceeds it is killed.
    """
    if device.type == "cuda":
        # memory that torch has reserved but does not use is free, but only for torch
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    available = re.search(r"^MemAvailable: +(\d+) kB", _read(Path("/proc/meminfo")), re.MULTILINE)
    free = memory_bytes() // 2 if available is None else int(available[1]) * 1024
    limit, used = (_read(group / name).strip() for name in ("memory.max", "memory.current"))
    if limit.isdigit() and used.isdigit():
        cached = re.search(r"^inactive_file (\d+)", _read(group / "memory.stat"), re.MULTILINE)
        reclaimable = 0 if cached is None else int(cached[1])  # cached files, dropped when memory gets scarce
        free = min(free, max(0, int(limit) - int(used) + reclaimable))
    return free


def _read(path: Path) -> str:
    """Return the content of a system file, or "" if it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _size(n_bytes: int) -> str:
    """Return a size as text, such as "1.5 GiB"."""
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"
