"""Train as sentence-transformers does, with the settings of a run of ours; and ask a process of its own to do so.

`trainer` is its own SentenceTransformerTrainer, which needs `pip install "sentence-transformers[train]"` (accelerate
and datasets). `loop` is what a tutorial writes over transformers' own classes, with the same optimizer.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer

    from sbert_ft import ConnectionDataset
    from sbert_ft.config.objectives import ObjectiveSettings
    from sbert_ft.config.settings import ModelSettings, TrainingSettings

TRAINER_PACKAGES = ("accelerate", "datasets")
_SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class PeerRun:
    """What sentence-transformers is to train, in our settings' terms.

    Attributes:
        model: Folder, maximal length; dropout and frozen layers cannot be asked for.
        objective: cosine, cosent or angle.
        training: Batch, epochs, rate, warm-up, decay, clipping, schedule, seed; its precision is not used.
        bfloat16: Whether to train in it; float32 otherwise.
    """

    model: ModelSettings
    objective: ObjectiveSettings
    training: TrainingSettings
    bfloat16: bool

    def load(self) -> SentenceTransformer:
        """Return the base model."""
        from sentence_transformers import SentenceTransformer

        if self.model.dropout is not None or self.model.freeze_layers or self.model.freeze_embeddings:
            raise SystemExit("sentence-transformers has no setting for dropout or frozen layers; leave them out")
        if self.model.pooling not in (None, "mean"):
            raise SystemExit("pooling other than the folder's is not carried over to sentence-transformers")
        model = SentenceTransformer(self.model.path, device=self.training.device)
        if self.model.max_seq_length is not None:
            model.max_seq_length = self.model.max_seq_length
        return model

    def loss(self, model: SentenceTransformer) -> Any:
        """Return its loss of the same name."""
        from sentence_transformers.sentence_transformer import losses

        scale = {} if self.objective.scale is None else {"scale": self.objective.scale}
        if self.objective.name == "cosine":
            return losses.CosineSimilarityLoss(model)
        if self.objective.name == "cosent":
            return losses.CoSENTLoss(model, **scale)
        if self.objective.name == "angle":
            return losses.AnglELoss(model, **scale)
        raise SystemExit(f"objective {self.objective.name} is not compared: take cosine, cosent or angle")

    def n_steps(self, n_rows: int) -> int:
        """Return the optimizer steps of all epochs."""
        n_batches = math.ceil(n_rows / self.training.batch_size)
        steps = self.training.epochs * math.ceil(n_batches / self.training.accumulation_steps)
        return min(steps, self.training.max_steps or steps)


@dataclass
class Clock:
    """Times the steps after `warm_up`, up to the last one; waits for a GPU at these two points only."""

    warm_up: int
    n_steps: int
    seconds: float = field(default=math.nan, init=False)
    _since: float = field(default_factory=time.perf_counter, init=False)

    def after_step(self, step: int) -> None:
        """Note that a step, counted from 1, has been taken."""
        if step in (self.warm_up, self.n_steps):
            harness.wait_for_device()
            if step == self.warm_up:
                self._since = time.perf_counter()
            else:
                self.seconds = time.perf_counter() - self._since


def trainer_is_installed() -> bool:
    """Return whether sentence-transformers' trainer finds the packages it needs."""
    return all(find_spec(name) is not None for name in TRAINER_PACKAGES)


def trainer_versions() -> dict[str, str]:
    """Return the versions of what its trainer needs beside it."""
    return harness.versions(TRAINER_PACKAGES)


def train_by_trainer(
    run: PeerRun, train: ConnectionDataset, clock: Clock, dev: ConnectionDataset | None = None
) -> SentenceTransformer:
    """Return the model that sentence-transformers' trainer makes of the pairs.

    Args:
        run: See `PeerRun`.
        train: Scored pairs; it gets the same rows and targets as our loop.
        clock: Times its steps.
        dev: With several epochs, the epoch that is best on these is kept, as by our loop. Without, nothing is
            evaluated or saved.
    """
    import datasets
    import torch
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from transformers import TrainerCallback

    class Ticking(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            clock.after_step(state.global_step)

    texts, targets = rows_of(train)
    columns = {"sentence1": [a for a, _ in texts], "sentence2": [b for _, b in texts], "label": targets}
    settings, model = run.training, run.load()
    chooses = dev is not None and settings.epochs > 1
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            num_train_epochs=settings.epochs,
            max_steps=settings.max_steps or -1,
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.accumulation_steps,
            learning_rate=settings.learning_rate,
            lr_scheduler_type=_SCHEDULES[settings.schedule],
            warmup_steps=n_warmup(run, len(train)),
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            optim="adamw_torch_fused",
            gradient_checkpointing=settings.gradient_checkpointing,
            bf16=run.bfloat16,
            use_cpu=not torch.cuda.is_available(),
            seed=settings.seed,
            logging_steps=settings.logging_steps,
            report_to="none",
            disable_tqdm=True,
            eval_strategy="epoch" if chooses else "no",
            save_strategy="epoch" if chooses else "no",
            save_only_model=True,
            save_total_limit=2,
            load_best_model_at_end=chooses,
            metric_for_best_model="eval_dev_spearman_cosine" if chooses else None,
        )
        SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=datasets.Dataset.from_dict(columns),
            loss=run.loss(model),
            evaluator=evaluator_of(dev) if chooses and dev is not None else None,
            callbacks=[Ticking()],
        ).train()
    return model


def train_by_loop(run: PeerRun, train: ConnectionDataset, clock: Clock) -> SentenceTransformer:
    """Return the model that a plain loop makes of the pairs, with the trainer's optimizer and schedule.

    Two calls of the stock encoder a step, batches tokenised as they come and padded to their longest text, mean
    pooling, and the squared error of the cosine. sentence-transformers only holds the result.
    """
    import torch
    from torch.nn import functional as F
    from transformers import AutoTokenizer, get_scheduler

    texts, targets = rows_of(train)
    settings, model = run.training, run.load()
    if settings.accumulation_steps != 1 or run.objective.name != "cosine":
        raise SystemExit("the plain loop knows the cosine objective, without accumulated batches")
    encoder, device = model[0].auto_model.train(), model.device
    tokenizer = AutoTokenizer.from_pretrained(run.model.path)
    options = {"padding": True, "truncation": True, "max_length": model.max_seq_length, "return_tensors": "pt"}

    def pooled(strings: list[str]) -> torch.Tensor:
        inputs = tokenizer(strings, **options).to(device)
        kept = inputs["attention_mask"][:, :, None].float()
        return (encoder(**inputs).last_hidden_state.float() * kept).sum(1) / kept.sum(1)

    n_steps, step = run.n_steps(len(train)), 0
    torch.manual_seed(settings.seed)
    named = list(encoder.named_parameters())
    groups = [
        {"params": [p for _, p in named if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    schedule = get_scheduler(_SCHEDULES[settings.schedule], optimizer, n_warmup(run, len(train)), n_steps)
    while step < n_steps:
        order = torch.randperm(len(texts)).tolist()
        for batch in (order[i : i + settings.batch_size] for i in range(0, len(order), settings.batch_size)):
            labels = torch.tensor([targets[i] for i in batch], device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=run.bfloat16):
                sides = [pooled([texts[i][side] for i in batch]) for side in (0, 1)]
            F.mse_loss(F.cosine_similarity(*sides), labels).backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), settings.max_grad_norm or math.inf)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            clock.after_step(step)
            if step == n_steps:
                break
    return model.eval()


def rows_of(pairs: ConnectionDataset) -> tuple[list[tuple[str, str]], list[float]]:
    """Return the texts and targets that objectives get."""
    targets = pairs.targets()
    if targets is None:
        raise SystemExit(f"{pairs.source} has no scores, which these objectives need")
    return list(pairs.pairs()), targets.tolist()


def n_warmup(run: PeerRun, n_rows: int) -> int:
    """Return the number of steps in which the rate rises."""
    from sbert_ft.training.optimizer import warmup_steps

    return warmup_steps(run.n_steps(n_rows), run.training)


def evaluator_of(dev: ConnectionDataset) -> Any:
    """Return sentence-transformers' evaluator by which the best epoch is chosen."""
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    texts, targets = rows_of(dev)
    first, second = ([pair[side] for pair in texts] for side in (0, 1))
    return EmbeddingSimilarityEvaluator(first, second, targets, main_similarity="cosine", name="dev")


def cosines(model: SentenceTransformer, pairs: list[tuple[str, str]]) -> np.ndarray:
    """Return the model's cosine of each pair, shape (n,), float32."""
    import numpy as np

    sides = [np.asarray(model.encode([pair[side] for pair in pairs]), np.float32) for side in (0, 1)]
    return (sides[0] * sides[1]).sum(1) / np.linalg.norm(sides[0], axis=1) / np.linalg.norm(sides[1], axis=1)


def in_own_process(script: str, arguments: list[str], limit: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return what a script's process of its own answers by `answer`; what it says is shown where it fails.

    Args:
        script: The script's file.
        arguments: What it is told beside where to answer.
        limit: Environment that it gets beside this process's.
    """
    with tempfile.TemporaryDirectory() as folder:
        place, said = Path(folder) / "answer.json", Path(folder) / "said"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(harness.ROOT), *_python_path()])}
        environment |= {"OMP_NUM_THREADS": str(harness.n_threads()), **(limit or {})}
        command = [sys.executable, script, *arguments, "--answer", str(place)]
        with said.open("wb") as stream:
            code = subprocess.run(command, stdout=stream, stderr=stream, env=environment, cwd=harness.ROOT).returncode
        if code:
            print(said.read_text("utf-8", errors="replace"), file=sys.stderr)
            raise SystemExit(f"{' '.join(command)} ended with exit code {code}")
        answered: dict[str, Any] = json.loads(place.read_text("utf-8"))
        return answered


def answer(place: Path, make: Callable[[], dict[str, Any]]) -> None:
    """Be the process that `in_own_process` asks: write down what `make` returns."""
    place.write_text(json.dumps(make()), "utf-8")


def _python_path() -> Iterator[str]:
    yield from filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
