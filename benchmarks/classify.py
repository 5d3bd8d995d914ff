"""Train a classifier on the same rows with sbert_ft and with a plain transformers loop, in turn.

    python benchmarks/classify.py --task nli_joined                      # one epoch each: accuracy beside speed
    python benchmarks/classify.py --task nsmc --steps 40 --rounds 3      # speed and memory alone, on a sample
    python benchmarks/classify.py --task nsmc --contenders "sbert_ft auto"
    python benchmarks/classify.py --task nsmc --model korean             # random weights, a Korean vocabulary

The plain loop is what a tutorial writes: AutoModelForSequenceClassification (two encoder calls, mean pooling and a
linear layer over (u, v, |u-v|) for towers), batches tokenised as they come and padded to the longest of them, or to
512 tokens ("padded512"). Both sides get the same rows in the same order, folder, first weights of the head, maximal
length, epochs, batch size, threads, learning rate, warm-up, decay, clipping, fused AdamW and the dropout that the
model's config.json says. So per seed they differ by what dropout zeroes, by rounding, and by what one does wrongly.

Timed are the steps after the first ones, without loading, evaluation and checkpoints. The loop tokenises within them;
sbert_ft tokenises all texts beforehand, and this time is added to it. With --steps a pass over all rows is reckoned
from the rate. Accuracy is that of the task's second file, with a 95 % Wilson interval; the cross-entropy of the same
rows differs less from run to run.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
import peer_training as peer
import texts as corpus
from encode import minilm

if TYPE_CHECKING:
    from sbert_ft import ConnectionDataset
    from sbert_ft.config.settings import TrainingSettings

SHARED = corpus.DATA.parent
CONTENDERS = ["sbert_ft auto", "loop float32", "loop bfloat16"]
LIBRARIES, PRECISIONS = ("sbert_ft", "loop", "padded512"), ("auto", "float32", "bfloat16")
KOREAN = {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}


@dataclass(frozen=True)
class TaskFiles:
    """Which rows a task has: its folder, files of both parts, and the kind of classifier."""

    kind: str
    train: str
    judge: str


TASKS = {
    "nli_joined": TaskFiles("joined", "nli_en/train.tsv", "nli_en/dev.tsv"),
    "nli_towers": TaskFiles("towers", "nli_en/train.tsv", "nli_en/dev.tsv"),
    "nsmc": TaskFiles("single", "nsmc/train.txt", "nsmc/test.txt"),
}


def main() -> None:
    """Measure, print a table in Markdown, and write benchmarks/results/classify-<task>.json."""
    args = arguments()
    if args.answer:
        logging.basicConfig(level=logging.WARNING)
        peer.answer(args.answer, lambda: work(args))
        return
    if not SHARED.exists():
        raise SystemExit(f"{SHARED} is absent: this benchmark needs the data sets that benchmarks/README.md names")
    with tempfile.TemporaryDirectory() as place:
        answers = measure(args, model_folder(args.model, Path(place)))
    summary = report(args, answers)
    first = next(iter(answers.values()))[0]
    content = {
        "task": args.task,
        "model": args.model,
        "whole_epochs": args.steps is None,
        "settings": first["settings"],
        "device": first["device"],
        "memory": "most of the card's" if first["device"] == "cuda" else "most that was resident of the process",
        **summary,
    }
    whole = "-speed" if args.steps else ""
    own = "" if args.model == "minilm" else f"-{Path(args.model).name}"
    name = args.name or f"classify-{args.task.replace('_', '-')}{own}{whole}"
    print(f"written: {harness.write_result(name, content)}")


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, help="such as 'padded512 float32'")
    parser.add_argument("--rounds", type=int, default=1, help="each with a seed of its own; default 1")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--max-seq-length", type=int, default=128)
    parser.add_argument("--steps", type=int, help="so many steps on a sample of the rows; no accuracy")
    parser.add_argument("--warm-up", type=int, default=10, help="first steps, not timed")
    parser.add_argument(
        "--model", default="minilm", help="folder, minilm, or korean for random weights; default minilm"
    )
    parser.add_argument("--name", help="of the result's file")
    parser.add_argument("--seed", type=int, default=42, help="of the first round; default 42")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    for name in args.contenders:
        library, _, precision = name.partition(" ")
        if library not in LIBRARIES or precision not in PRECISIONS or (precision == "auto" and library != "sbert_ft"):
            parser.error(f"no contender is called '{name}'")
    if args.warm_up < 1 or (args.steps is not None and args.steps <= args.warm_up):
        parser.error("--warm-up must be at least 1 and below --steps")
    return args


def model_folder(name: str, place: Path) -> Path:
    """Return the folder of a model by its name; `korean` is made: a vocabulary, and random weights of a small BERT."""
    if name == "minilm":
        return minilm()
    if name != "korean":
        return Path(name).resolve()
    from sbert_ft import ConnectionBert, SiameseBert

    source, bare = SHARED / "ko-vocab-kcbert", place / "bare"
    bare.mkdir()
    shutil.copy(source / "vocab.txt", bare / "vocab.txt")
    shutil.copy(source / "tokenizer_config.json", bare / "tokenizer_config.json")
    config = json.loads((source / "config.json").read_text("utf-8")) | KOREAN
    (bare / "config.json").write_text(json.dumps(config), "utf-8")
    SiameseBert(ConnectionBert.from_config(bare, "cpu", "float32", seed=42)).save_pretrained(place / "korean")
    return place / "korean"


def measure(args: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what each contender's processes answered, round by round."""
    told = ["--task", args.task, "--model", str(folder), "--epochs", str(args.epochs)]
    told += ["--batch-size", str(args.batch_size), "--learning-rate", str(args.learning_rate)]
    told += ["--max-seq-length", str(args.max_seq_length), "--warm-up", str(args.warm_up)]
    told += [] if args.steps is None else ["--steps", str(args.steps)]
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in args.contenders}
    for turn in range(args.rounds):
        for name in args.contenders if turn % 2 else args.contenders[::-1]:
            answers[name].append(
                peer.in_own_process(__file__, [*told, "--worker", name, "--seed", str(args.seed + turn)])
            )
            one = answers[name][-1]
            right = ""
            if "accuracy" in one:
                right = f", accuracy {one['accuracy']:.4f}, cross-entropy {one['cross_entropy']:.4f}"
            rate = one["n_rows_timed"] / one["seconds"]
            print(
                f"  round {turn + 1}  {name:20s} {rate:8.1f} rows/s, {one['peak_mib']:.0f} MiB{right}", file=sys.stderr
            )
    return answers


@dataclass(frozen=True)
class Task:
    """What one process trains.

    Attributes:
        folder: The base model's.
        kind: Of the classifier.
        train: The rows.
        judge: What the tuned model is judged by; None where it saw less than whole epochs.
        settings: Of our loop, and in its terms of the other.
        max_seq_length: Tokens of a sequence at most.
        warm_up: Steps that are not timed.
    """

    folder: Path
    kind: str
    train: ConnectionDataset
    judge: ConnectionDataset | None
    settings: TrainingSettings
    max_seq_length: int
    warm_up: int

    @property
    def n_steps(self) -> int:
        """Return the steps of all epochs."""
        return self.settings.epochs * ceil(len(self.train) / self.settings.batch_size)

    @property
    def n_rows_timed(self) -> int:
        """Return the rows of the steps after the first ones."""
        return self.settings.epochs * len(self.train) - self.warm_up * self.settings.batch_size

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        return self.train.class_names


def work(args: argparse.Namespace) -> dict[str, Any]:
    """Be a contender's process: train once, and return seconds, memory and accuracy."""
    import numpy as np
    import torch

    from sbert_ft import ConnectionDataset
    from sbert_ft.config.settings import Reading, TrainingSettings

    files, (library, precision) = TASKS[args.task], args.worker.split()
    reading = Reading(label_kind="classes")
    whole = train = ConnectionDataset.from_file(SHARED / files.train, reading)
    if args.steps is not None:
        n_rows = min(len(train), args.steps * args.batch_size)
        train = train.select(np.sort(np.random.default_rng(0).permutation(len(train))[:n_rows]))
    judge = None if args.steps is not None else ConnectionDataset.from_file(SHARED / files.judge, reading)
    settings = TrainingSettings(
        epochs=args.epochs,
        batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        seed=args.seed,
        logging_steps=args.warm_up,
    )
    task = Task(Path(args.model), files.kind, train, judge, settings, args.max_seq_length, args.warm_up)
    if library == "sbert_ft":
        measured = train_ours(task, precision)
    else:
        measured = train_loop(task, 512 if library == "padded512" else None, precision == "bfloat16")
    told = ("epochs", "batch_size", "learning_rate", "schedule", "warmup_ratio", "weight_decay", "max_grad_norm")
    return {
        **measured,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "n_rows": len(train),
        "n_rows_whole": len(whole),
        "n_rows_timed": task.n_rows_timed,
        "settings": {name: getattr(settings, name) for name in told} | {"max_seq_length": args.max_seq_length},
    }


def train_ours(task: Task, precision: str) -> dict[str, Any]:
    """Train by `fine_tune`, in a run's folder as users do; times are those of the run's log."""
    from sbert_ft import BertClassifier, ConnectionBert, fine_tune
    from sbert_ft.training.run_log import read_log
    from sbert_ft.training.tokenized_dataset import tokenize_connections

    settings = replace(task.settings, precision=precision)
    bert = ConnectionBert.from_pretrained(task.folder, precision=precision)
    model = BertClassifier(bert, task.kind, max_seq_length=task.max_seq_length)
    start = time.perf_counter()
    tokenize_connections(task.train, model.tokenizer, task.max_seq_length)
    tokenizing = (time.perf_counter() - start) * task.n_rows_timed / len(task.train)
    with tempfile.TemporaryDirectory() as place:
        result = fine_tune(model, task.train, output_dir=Path(place) / "run", training=settings)
        log = [record for record in read_log(result.folder / "metrics.jsonl") if record["kind"] == "train"]
        peak = harness.peak_mib()
    first = next(record["seconds"] for record in log if record["step"] == task.warm_up)
    measured = {
        "seconds": log[-1]["seconds"] - first + tokenizing,
        "precision": result.metrics["precision"],
        "peak_mib": peak,
        "lengths": result.metrics["lengths"],
        "training_loss": sum(record["loss"] for record in log) / len(log),
    }
    if task.judge is not None:
        rows = [texts[0] if len(texts) == 1 else texts for texts in task.judge.rows_of_texts()]
        probabilities = model.predict_proba(rows, on_truncate="ignore")
        measured |= judged(probabilities, [str(label) for label in model.classes_], task)
        if task.kind == "towers":
            measured["sts_dev_spearman"] = {
                "before": sts_dev_of(task.folder),
                "after": sts_dev(model.as_sentence_encoder()),
            }
    return measured


def sts_dev_of(folder: Path) -> float:
    """Return what an untuned encoder reaches on the STS benchmark's dev part."""
    from sbert_ft import ConnectionBert, SiameseBert

    return sts_dev(SiameseBert(ConnectionBert.from_pretrained(folder), "mean"))


def sts_dev(encoder: Any) -> float:
    """Return Spearman's correlation on the STS benchmark's dev part."""
    from scipy.stats import spearmanr

    from sbert_ft import ConnectionDataset

    pairs = ConnectionDataset.from_file(SHARED / "stsb" / "dev.csv")
    return float(spearmanr(encoder.score(pairs.pairs(), on_truncate="ignore"), pairs.labels).statistic)


def train_loop(task: Task, pad_to: int | None, bfloat16: bool) -> dict[str, Any]:
    """Train by a plain loop over transformers' own classes."""
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, get_scheduler

    from sbert_ft.training.batch_sampler import epoch_batches

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(task.settings.seed)
    tokenizer, n_classes = AutoTokenizer.from_pretrained(task.folder), len(task.classes)
    if task.kind == "towers":
        model: Any = Towers(AutoModel.from_pretrained(task.folder, add_pooling_layer=False), n_classes).module
    else:
        model = AutoModelForSequenceClassification.from_pretrained(task.folder, num_labels=n_classes)
    begin_alike(model, task)
    model.to(device).train()
    rows = list(task.train.rows_of_texts())
    labels = torch.from_numpy(task.train.class_codes(task.classes))

    def batch_of(some: list[tuple[str, ...]]) -> list[dict[str, Any]]:
        columns = [[row[side] for row in some] for side in range(len(some[0]))]
        columns = [[column] for column in columns] if task.kind == "towers" else [columns]
        padding = True if pad_to is None else "max_length"
        options = {"truncation": True, "max_length": pad_to or task.max_seq_length, "return_tensors": "pt"}
        return [tokenizer(*texts, padding=padding, **options).to(device) for texts in columns]

    def logits_of(some: list[tuple[str, ...]]) -> Any:
        inputs = batch_of(some)
        return model(*inputs) if task.kind == "towers" else model(**inputs[0]).logits

    settings, clock = task.settings, peer.Clock(task.warm_up, task.n_steps)
    named = list(model.named_parameters())
    groups = [
        {"params": [p for _, p in named if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    n_warmup = ceil(task.n_steps * settings.warmup_ratio)
    schedule = get_scheduler("linear", optimizer, n_warmup, task.n_steps)
    step, losses = 0, []
    for epoch in range(settings.epochs):
        for chosen in epoch_batches(len(rows), settings.batch_size, settings.seed, epoch):
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                logits = logits_of([rows[i] for i in chosen])
                loss = torch.nn.functional.cross_entropy(logits, labels[torch.from_numpy(chosen)].to(device))
            loss.backward()
            losses.append(loss.detach())
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            clock.after_step(step)
    measured = {
        "seconds": clock.seconds,
        "precision": "bfloat16" if bfloat16 else "float32",
        "peak_mib": harness.peak_mib(),
        "training_loss": float(torch.stack(losses).mean()),
    }
    if task.judge is None:
        return measured
    model.eval()
    with torch.inference_mode():
        logits = torch.cat([logits_of(some) for some in chunks(list(task.judge.rows_of_texts()), 64)])
    return measured | judged(logits.double().softmax(-1).cpu().numpy(), task.classes, task)


def begin_alike(model: Any, task: Task) -> None:
    """Give the loop's model the first weights of our head; torch's generator is as before."""
    import torch

    from sbert_ft import BertClassifier, ConnectionBert

    ours = BertClassifier(ConnectionBert.from_pretrained(task.folder, "cpu", "float32"), task.kind)
    ours.start_head(task.classes, task.settings.seed)
    assert ours.head is not None
    layers = [(model.linear if task.kind == "towers" else model.classifier, ours.head.output)]
    if task.kind != "towers":
        layers.append((model.bert.pooler.dense, ours.head.dense))
    with torch.no_grad():
        for theirs, its in layers:
            theirs.weight.copy_(its.weight)
            theirs.bias.copy_(its.bias)


class Towers:
    """Sentence-BERT's classification objective as a plain module: mean pooling, (u, v, |u-v|), a linear layer."""

    def __init__(self, encoder: Any, n_classes: int) -> None:
        import torch

        class Module(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.encoder = encoder
                self.linear = torch.nn.Linear(3 * encoder.config.hidden_size, n_classes)

            def forward(self, *sides: Any) -> Any:
                u, v = map(self.pooled, sides)
                return self.linear(torch.cat([u, v, (u - v).abs()], dim=-1))

            def pooled(self, inputs: Any) -> Any:
                mask = inputs["attention_mask"][:, :, None].float()
                hidden = self.encoder(**inputs).last_hidden_state.float()
                return (hidden * mask).sum(1) / mask.sum(1)

        self.module = Module()


def chunks(rows: list[Any], size: int) -> Iterator[list[Any]]:
    """Yield the rows in lists of `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def judged(probabilities: Any, classes: Sequence[str], task: Task) -> dict[str, Any]:
    """Return the accuracy with its interval and the cross-entropy of probabilities, whose columns are these classes."""
    import numpy as np

    from sbert_ft.report.charts import wilson_interval

    assert task.judge is not None
    codes = task.judge.class_codes(tuple(classes))
    share = float((probabilities.argmax(axis=1) == codes).mean())
    return {
        "accuracy": share,
        "accuracy_interval": list(wilson_interval(share, len(codes))),
        "cross_entropy": float(-np.log(probabilities[np.arange(len(codes)), codes]).mean()),
        "n_judged": len(codes),
    }


def report(args: argparse.Namespace, answers: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Print the table, in Markdown, and return it."""
    timings = {
        name: harness.Timings(
            seconds=[one["seconds"] for one in rounds], peak_mib=max(one["peak_mib"] for one in rounds)
        )
        for name, rounds in answers.items()
    }
    ours = next((name for name in timings if name.startswith("sbert_ft")), None)
    others = [name for name in timings if name != ours]
    compared = {} if ours is None else harness.ratios(timings, ours, others)
    contenders = {}
    print("\n| | rows/s | a pass over all rows, s | peak memory, MiB | accuracy | sbert_ft is faster by | loss |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, rounds in answers.items():
        one = timings[name].summary(rounds[0]["n_rows_timed"])
        one.pop("loaded_mib")
        one["seconds_a_pass"] = round(rounds[0]["n_rows_whole"] / one["per_second"], 1)
        for key in ("precision", "lengths"):
            one |= {key: rounds[0][key]} if key in rounds[0] else {}
        for key in ("accuracy", "accuracy_interval", "cross_entropy", "training_loss", "sts_dev_spearman"):
            one |= {key: [each[key] for each in rounds]} if key in rounds[0] else {}
        contenders[name] = one
        right = ""
        if "accuracy" in one:
            ends = "; ".join(f"{low:.4f}-{high:.4f}" for low, high in one["accuracy_interval"])
            right = f"{statistics.mean(one['accuracy']):.4f} ({ends})"
        ratio = compared.get(name)
        faster = f"{ratio['median']} ({ratio['least']}-{ratio['most']})" if ratio else ""
        speed = f"{one['per_second']} ({one['least']}-{one['most']})"
        loss = f"training {statistics.mean(one['training_loss']):.4f}"
        if "cross_entropy" in one:
            loss += f", judged {statistics.mean(one['cross_entropy']):.4f}"
        print(f"| {name} | {speed} | {one['seconds_a_pass']} | {one['peak_mib']} | {right} | {faster} | {loss} |")
    first = next(iter(answers.values()))[0]
    counts = {name: first[name] for name in ("n_rows", "n_rows_whole", "n_rows_timed")}
    reckoned = {} if args.steps is None else {"seconds_a_pass_is": "reckoned from the rate of the timed steps"}
    return {**counts, **reckoned, "contenders": contenders, "times_faster": compared}


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    main()
