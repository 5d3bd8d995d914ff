"""Pre-train on the same texts with sbert_ft and with transformers' Trainer and its collator for masked tokens, in turn.

    python benchmarks/pretrain.py                                   # everything, as in benchmarks/README.md
    python benchmarks/pretrain.py --sets short --steps 30 --rounds 2

Each contender trains in a process of its own, anew in each round, with the round's seed: the packaged MiniLM with a new
head of masked tokens, 15 % of them masked, the same texts, length, batch size, steps, threads, learning rate, warm-up,
decay, clipping and fused AdamW. The Trainer gets its texts tokenised, and pads each batch to its longest text;
`trainer bfloat16` has bf16=True. Timed are the steps after the first ones, without loading and saving; the time in
which each tokenises these texts is added to both. A token is one of a text, special ones included, without padding.

`short` are the STS benchmark's sentences, of about 15 tokens; `mid` are texts of about 60 tokens made of them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import models
import peer_training as peer
import rate
import texts as corpus

CONTENDERS = ["sbert_ft auto", "sbert_ft float32", "trainer float32", "trainer bfloat16"]
LIMITED = ["sbert_ft float32", "trainer float32"]
MAX_SEQ_LENGTH, FIRST_SEED, LEARNING_RATE = 128, 42, 1e-4
SETS: dict[str, Callable[[int], list[str]]] = {
    "short": lambda n: (corpus.sts_sentences() * (1 + n // 17_256))[:n],
    "mid": lambda n: corpus.joined(n, 60),
}


def main() -> None:
    """Measure, print a table for each set of texts, and write benchmarks/results/pretrain-<device>.json."""
    args = arguments()
    if args.answer:
        peer.answer(args.answer, lambda: work(args))
        return
    import torch

    on_gpu = torch.cuda.is_available()
    contenders = args.contenders or (LIMITED if args.isa else CONTENDERS)
    limit = harness.limited_to(args.isa)
    rates = rate.measure(limit, ("float32",) if args.isa else ("float32", "bfloat16"))
    results: dict[str, Any] = {}
    for name in args.sets:
        answers: dict[str, list[dict[str, Any]]] = {contender: [] for contender in contenders}
        for n in range(args.rounds):
            for contender in contenders if n % 2 else contenders[::-1]:
                told = ["--sets", name, "--steps", str(args.steps), "--warm-up", str(args.warm_up)]
                told += ["--batch-size", str(args.batch_size), "--worker", contender, "--seed", str(FIRST_SEED + n)]
                answers[contender].append(peer.in_own_process(__file__, told, limit))
                speed = answers[contender][-1]["n_tokens"] / answers[contender][-1]["seconds"]
                print(f"  {name}, round {n + 1}  {contender:16s} {speed:8.0f} tokens/s", file=sys.stderr)
        results[name] = report(name, answers)
    device = "gpu" if on_gpu else "cpu"
    content = {
        "model": "minilm",
        "isa": args.isa,
        "batch_size": args.batch_size,
        "max_seq_length": MAX_SEQ_LENGTH,
        "steps": args.steps,
        "trainer_packages": harness.versions(("accelerate",)),
        "rate": rates,
        "memory": "most of the card's" if on_gpu else "most that was resident of the process",
        "sets": results,
    }
    print(f"written: {harness.write_result('-'.join(filter(None, ['pretrain', device, args.isa])), content)}")


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS)
    parser.add_argument("--isa", choices=["avx2"], help="limit every contender to these instructions; float32 then")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warm-up", type=int, default=10, help="first steps, not timed")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not 1 <= args.warm_up < args.steps:
        parser.error("--warm-up must be at least 1 and below --steps")
    return args


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Be a contender's process: train once, and return seconds, tokens, memory and the loss at the end."""
    library, precision = args.worker.split()
    sentences = SETS[args.sets[0]](args.steps * args.batch_size)
    train = train_ours if library == "sbert_ft" else train_peer
    measured = train(args, precision, sentences)
    lengths = models.text_lengths(models.minilm(), sentences, MAX_SEQ_LENGTH)
    share = (args.steps - args.warm_up) / args.steps
    return {**measured, "n_tokens": float(lengths.sum()) * share}


def train_ours(args: argparse.Namespace, precision: str, sentences: list[str]) -> dict[str, Any]:
    """Train by `pretrain`, in a run's folder as users do; times are those of the run's log."""
    from sbert_ft import MaskedLanguageModel, TrainingSettings, pretrain
    from sbert_ft.data.corpus import TextCorpus
    from sbert_ft.models.tokenized_corpus import tokenize_corpus
    from sbert_ft.training.run_log import read_log

    loaded = harness.peak_mib()
    model = MaskedLanguageModel.from_pretrained(models.minilm(), None, precision, MAX_SEQ_LENGTH, seed=args.seed)
    texts = TextCorpus.from_texts(sentences)
    start = time.perf_counter()
    tokenize_corpus(texts, model.tokenizer, MAX_SEQ_LENGTH)
    tokenizing = (time.perf_counter() - start) * (args.steps - args.warm_up) / args.steps
    settings = TrainingSettings(
        epochs=1, batch_size=args.batch_size, learning_rate=LEARNING_RATE, seed=args.seed,
        logging_steps=args.warm_up, precision=precision,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        result = pretrain(model, texts, output_dir=Path(place) / "run", training=settings)
        log = [record for record in read_log(result.folder / "metrics.jsonl") if record["kind"] == "train"]
        peak = harness.peak_mib()
    first = next(record["seconds"] for record in log if record["step"] == args.warm_up)
    return {
        "seconds": log[-1]["seconds"] - first + tokenizing,
        "loss": log[-1]["loss"],
        "precision": result.metrics["precision"],
        "peak_mib": peak,
        "loaded_mib": loaded,
    }


def train_peer(args: argparse.Namespace, precision: str, sentences: list[str]) -> dict[str, Any]:
    """Train by transformers' Trainer with its collator for masked tokens."""
    import torch
    from transformers import (
        AutoModelForMaskedLM,
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    clock = peer.Clock(args.warm_up, args.steps)

    class Ticking(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            clock.after_step(state.global_step)

    loaded = harness.peak_mib()
    torch.manual_seed(args.seed)
    model = AutoModelForMaskedLM.from_pretrained(models.minilm())
    tokenizer = AutoTokenizer.from_pretrained(models.minilm())
    start = time.perf_counter()
    encoded = tokenizer(sentences, truncation=True, max_length=MAX_SEQ_LENGTH, return_special_tokens_mask=True)
    rows = [{key: encoded[key][i] for key in encoded} for i in range(len(sentences))]
    tokenizing = (time.perf_counter() - start) * (args.steps - args.warm_up) / args.steps
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder, num_train_epochs=1, per_device_train_batch_size=args.batch_size, seed=args.seed,
            learning_rate=LEARNING_RATE, lr_scheduler_type="linear", warmup_steps=args.steps // 10, weight_decay=0.01,
            max_grad_norm=1.0, optim="adamw_torch_fused", bf16=precision == "bfloat16", report_to="none",
            use_cpu=not torch.cuda.is_available(), logging_steps=args.warm_up, disable_tqdm=True, save_strategy="no",
        )  # fmt: skip
        trainer = Trainer(
            model=model,
            args=settings,
            train_dataset=rows,
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
            callbacks=[Ticking()],
        )
        trainer.train()
        losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
    return {
        "seconds": clock.seconds + tokenizing,
        "loss": float(losses[-1]),
        "precision": precision,
        "peak_mib": harness.peak_mib(),
        "loaded_mib": loaded,
    }


def report(name: str, answers: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Print the table of a set of texts, in Markdown, and return it."""
    timings = {
        contender: harness.Timings(
            seconds=[one["seconds"] for one in rounds],
            peak_mib=max(one["peak_mib"] for one in rounds),
            loaded_mib=max(one["loaded_mib"] for one in rounds),
        )
        for contender, rounds in answers.items()
    }
    others = [contender for contender in timings if not contender.startswith("sbert_ft")]
    compared = {one: harness.ratios(timings, one, others) for one in timings if one not in others}
    memory = {one: harness.memory_ratios(timings, one, others) for one in compared}
    contenders = {}
    for contender, rounds in answers.items():
        contenders[contender] = timings[contender].summary(round(rounds[0]["n_tokens"]))
        contenders[contender]["precision"] = rounds[0]["precision"]
        contenders[contender]["seconds"] = [round(one["seconds"], 3) for one in rounds]
        contenders[contender]["last_loss"] = round(statistics.mean(one["loss"] for one in rounds), 3)
    headings = [f"{one} is faster by" for one in compared]
    print(f"\n**{name} texts**\n\n| | tokens/s | peak, MiB | last loss | {' | '.join(headings)} |")
    print("| " + " | ".join(["---"] * (4 + len(headings))) + " |")
    for contender, one in contenders.items():
        ratios = [table.get(contender) for table in compared.values()]
        said = [f"{r['median']} ({r['least']}-{r['most']})" if r else "" for r in ratios]
        speed = f"{one['per_second']} ({one['least']}-{one['most']})"
        print(f"| {contender} | {speed} | {one['peak_mib']} | {one['last_loss']} | {' | '.join(said)} |")
    print(f"memory, of the peer's: {memory}")
    n_tokens = round(next(iter(answers.values()))[0]["n_tokens"])
    return {"n_tokens": n_tokens, "contenders": contenders, "times_faster": compared, "memory_ratio": memory}


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
