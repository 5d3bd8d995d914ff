"""What `gpu.py` finds out, part by part: each is a function that notes what it measures as it goes.

What is computed is that of users: `encode`, `fine_tune`, `BertClassifier`, by the precision that each takes by itself.
Without a GPU everything runs in small sizes, on a small BERT of random weights; such figures say nothing of speed.
"""

from __future__ import annotations

import gc
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import classify
import contenders
import encode as encoding
import harness
import models
import numpy as np
import rate
import shares
import texts as corpus
import torch
import train as training
from torch.autograd import DeviceType
from torch.optim.optimizer import register_optimizer_step_post_hook

from sbert_ft import (
    BertClassifier,
    ConnectionBert,
    ConnectionDataset,
    MaskedLanguageModel,
    ObjectiveSettings,
    Reading,
    SiameseBert,
    TrainingSettings,
    fine_tune,
)
from sbert_ft.config.objectives import OBJECTIVES
from sbert_ft.config.settings import DataSettings, ModelSettings, RunSettings
from sbert_ft.data.corpus import TextCorpus
from sbert_ft.errors import RunInterrupted, SbertFtError
from sbert_ft.models.classifier import TrainableModel
from sbert_ft.models.inference import WINDOW_TEXTS
from sbert_ft.models.tokenized_corpus import tokenize_corpus
from sbert_ft.tokenization.masking import Masker
from sbert_ft.training.gradients import BackwardSettings, backward
from sbert_ft.training.masked_gradients import backward_masked
from sbert_ft.training.objectives import Objective
from sbert_ft.training.plan import plan_run, training_layout
from sbert_ft.training.prepare import RunData, prepare
from sbert_ft.training.trainable_model import trained_module

Value = TypeVar("Value")

SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
# Above what a vector or gradient differs from the CPU's by more than rounding, and below what cosine; as in the tests.
MOST_DIFFERENCE, MOST_GRADIENT, MOST_LOSS = 2e-5, 1e-3, 1e-4
LEAST_COSINE = {"bfloat16": 0.998, "float16": 0.9999}
# Names of kernels by which attention can be computed.
ATTENTION = re.compile(r"flash|fmha|efficient|cudnn|softmax", re.IGNORECASE)
TOP_KERNELS = 12
MIB = 2**20
TUTORIAL_MIB = 4096


class Failed(Exception):
    """Raised by a part whose findings are not as they should be; the message says which."""


class Enough(Exception):
    """Raised from an optimizer step to end a run of which no more is wanted."""


@dataclass
class Context:
    """What a part is given.

    Attributes:
        device: cuda or cpu.
        place: A folder for files that all parts share, removed at the end.
        save: Writes the findings down.
        found: The findings, by name.
    """

    device: str
    place: Path
    save: Callable[[dict[str, Any]], None]
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def on_card(self) -> bool:
        """Whether there is a GPU."""
        return self.device == "cuda"

    def note(self, name: str, value: Any) -> None:
        """Keep a finding, and write all down that there are."""
        self.found[name] = value
        self.write()

    def write(self) -> None:
        """Write down the findings."""
        self.save(self.found)

    def pick(self, on_card: Value, on_cpu: Value) -> Value:
        """Return the size for this device."""
        return on_card if self.on_card else on_cpu

    def minilm(self) -> Path:
        """Return the folder of the MiniLM; without a GPU that of a small BERT."""
        return models.minilm() if self.on_card else self.base()

    def base(self) -> Path:
        """Return the folder of a BERT-base of random weights; without a GPU that of a small BERT."""
        folder = self.place / "base"
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=self.place) as new:
                models.make_base(Path(new) / "base", **self.pick({}, SMALL)).rename(folder)
        return folder


def versions(context: Context) -> str:
    """Note versions and card, and for each precision which layouts the probe admits, or why it does not."""
    context.note("packages", harness.versions([*harness.PACKAGES, *harness.PEER_PACKAGES, "triton", "accelerate"]))
    context.note("card", card_facts())
    faults = []
    for precision in ("bfloat16", "float16", "float32"):
        start = time.perf_counter()
        try:
            bert = ConnectionBert.from_pretrained(models.minilm(), context.device, precision)
        except (SbertFtError, RuntimeError) as error:
            traceback.print_exc()
            faults.append(f"{precision}: {str(error).splitlines()[0]}")
            context.note(precision, {"error": str(error)})
            continue
        seconds = round(time.perf_counter() - start, 1)
        seen = {"described": bert.describe(), "layouts": bert.probe.layouts, "refused": bert.probe.refused}
        context.note(precision, {**seen, "seconds": seconds})
    if faults:
        raise Failed("; ".join(faults))
    return context.found["bfloat16"]["described"]


def card_facts() -> dict[str, Any]:
    """Return the card's name, size and versions of what drives it; nothing but Nones without one."""
    facts: dict[str, Any] = dict.fromkeys(("name", "gib", "capability", "multiprocessors", "driver", "cuda", "cudnn"))
    if not torch.cuda.is_available():
        return facts
    card = torch.cuda.get_device_properties(0)
    facts |= {"name": card.name, "gib": round(card.total_memory / 2**30, 1), "capability": [card.major, card.minor]}
    facts |= {"multiprocessors": card.multi_processor_count, "cuda": torch.version.cuda}
    facts["cudnn"] = torch.backends.cudnn.version()
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        facts["driver"] = subprocess.run(asked, stdout=subprocess.PIPE, text=True).stdout.split("\n")[0].strip()
    return facts


def tests(context: Context) -> str:
    """Run the tests of models on a GPU."""
    return run_tests(context, "gpu/test_gpu_inference.py", ())


def tests_training(context: Context) -> str:
    """Run the tests of training on a GPU, those of equality and memory first."""
    return run_tests(context, "gpu/test_gpu_training.py", ("equal", "memory"))


def run_tests(context: Context, file: str, first: tuple[str, ...]) -> str:
    """Note how each test of a file ends, those whose names have one of these words first."""
    import pytest

    log = Outcomes(context, first)
    arguments = [str(harness.ROOT / "tests" / file), "-q", "-p", "no:cacheprovider"]
    code = pytest.ExitCode(pytest.main(arguments, plugins=[log]))
    said = ", ".join(f"{len(names)} {outcome}" for outcome, names in log.ended.items())
    if code == pytest.ExitCode.TESTS_FAILED:
        raise Failed(f"{said}: {'; '.join(log.ended['failed'])}")
    if code != pytest.ExitCode.OK:
        raise Failed(f"{said}; pytest ended with {code.name}")
    if not log.ended["passed"]:
        raise harness.Skipped(f"{said}: {'; '.join(sorted(log.reasons))}")
    return said


class Outcomes:
    """A plugin of pytest that notes how each test ended as soon as it did."""

    def __init__(self, context: Context, first: tuple[str, ...]) -> None:
        self.context, self.first = context, first
        self.ended: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
        self.failures: dict[str, str] = {}
        self.reasons: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items.sort(key=lambda item: not any(word in item.name for word in self.first))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.context.note("running", nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.passed:
            return
        name = report.nodeid.split("::", 1)[-1]
        self.ended[report.outcome].append(name)
        if report.failed:
            lines = [text for text in report.longreprtext.split("\n") if text.startswith("E")] or [report.longreprtext]
            self.failures[name] = "\n".join(lines)[:1000]
        elif report.skipped and isinstance(report.longrepr, tuple):
            self.reasons.add(str(report.longrepr[2]).removeprefix("Skipped: "))
        self.context.found |= {"running": None, "failures": self.failures, "reasons_to_skip": sorted(self.reasons)}
        self.context.found["counts"] = {outcome: len(names) for outcome, names in self.ended.items()}
        self.context.note("tests", self.ended)


def correctness(context: Context) -> str:
    """Hold vectors, and the loss and gradient of a step by each objective, against the CPU's in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    faults = []
    here = SiameseBert.from_pretrained(context.minilm(), "cpu", "float32")
    texts = some_texts(context.pick(200, 8))
    expected = here.encode(texts)
    for precision in ("bfloat16", "float16", "float32"):
        there = SiameseBert.from_pretrained(context.minilm(), context.device, precision)
        found = there.encode(texts)
        cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        difference, cosine = float(np.abs(found - expected).max()), float(cosines.min())
        context.note(f"vectors {precision}", {"largest_difference": difference, "least_cosine": cosine})
        if not (difference < MOST_DIFFERENCE if precision == "float32" else cosine > LEAST_COSINE[precision]):
            faults.append(f"vectors in {precision}: difference {difference:.1e}, cosine {cosine:.5f}")
    worst = 0.0
    for name, kind in objective_cases():  # the last of the models is in float32
        loss, gradients = one_step(here, name, kind)
        other_loss, others = one_step(there, name, kind)
        largest = max(float(gradient.abs().max()) for gradient in gradients.values())
        differences = {
            key: float((others[key] - gradient).abs().max()) / max(float(gradient.abs().max()), 1e-3 * largest)
            for key, gradient in gradients.items()
        }
        key = max(differences, key=lambda key: differences[key])
        step = {"loss": loss, "loss_difference": abs(other_loss - loss)}
        context.note(" ".join(filter(None, ("step", name, kind))), {**step, "gradient": differences[key], "of": key})
        worst = max(worst, differences[key])
        if not (differences[key] < MOST_GRADIENT and abs(other_loss - loss) <= MOST_LOSS * max(1.0, abs(loss))):
            faults.append(
                f"step of {name}: loss differs by {abs(other_loss - loss):.1e}, {key} by {differences[key]:.1e}"
            )
    if faults:
        raise Failed("; ".join(faults))
    difference = context.found["vectors float32"]["largest_difference"]
    return f"float32 vectors differ by {difference:.1e}, gradients by {worst:.1e}"


def objective_cases() -> Iterator[tuple[str, str]]:
    """Yield every objective, for classifiers with each kind of row that it takes.

    Without simcse, whose texts differ by dropout alone, and tsdae, whose decoder is another model.
    """
    for name, row in OBJECTIVES.items():
        if row.n_views > 1 or row.decodes:
            continue
        for kind in ("single", "towers", "joined") if row.of_classifier else ("",):
            yield name, kind


def one_step(encoder: SiameseBert, name: str, kind: str) -> tuple[float, dict[str, Any]]:
    """Return the loss and the gradients of one batch, without dropout, with float32 weights.

    Args:
        encoder: Its layers are used.
        name: Of the objective.
        kind: Of the classifier that is put on the encoder; empty for none.
    """
    row, n_rows, head = OBJECTIVES[name], 16, None
    if row.of_language:
        return masked_step(encoder, name)
    model: TrainableModel = encoder
    if kind:
        model = BertClassifier(encoder.bert, kind)
        model.start_head(["no", "maybe", "yes"] if "classes" in row.rows.label_kinds else None, seed=1)
        head = model.head
    n_texts = {"": row.rows.n_texts[0], "single": 1, "towers": 2, "joined": 2}[kind]
    texts = some_texts(n_rows * n_texts)
    tokenizer, longest = model.tokenizer, model.max_seq_length
    if kind == "joined":
        tokens = tokenizer.join(tokenizer.tokenize(texts[:n_rows]), tokenizer.tokenize(texts[n_rows:]), longest)
    else:
        tokens = tokenizer.frame(tokenizer.tokenize(texts), longest)
    # of the labels: none, classes, scores, or else 0 and 1
    n_values = next((n for word, n in (("none", 0), ("classes", 3), ("score", 5)) if word in row.rows.label_kinds), 2)
    labels = None if n_values == 0 else (torch.arange(n_rows) % n_values).float()
    if labels is not None and "classes" not in row.rows.label_kinds:
        labels /= n_values - 1
    model.eval()
    settings = BackwardSettings(micro_rows=n_rows, layout=training_layout(model.bert))
    objective = Objective([ObjectiveSettings(name)], head)
    taught = None
    if row.teacher != "never":
        taught = torch.randn(n_rows, n_texts, model.bert.hidden_size, generator=torch.Generator().manual_seed(2))
    loss = float(backward(model, objective, tokens, labels, n_rows, settings, taught).sum())
    module = trained_module(model)
    gradients = {key: p.grad.cpu() for key, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return loss, gradients


def masked_step(encoder: SiameseBert, name: str) -> tuple[float, dict[str, Any]]:
    """Return the loss and the gradients of one batch of masked tokens, for nsp of pairs of segments."""
    model = MaskedLanguageModel(encoder.bert, next_sentence=name == "nsp", max_seq_length=64)
    texts = some_texts(32)
    if name == "nsp":
        texts = [text for i in range(0, 32, 4) for text in (*texts[i : i + 4], "")]
    rows = tokenize_corpus(TextCorpus.from_texts(texts), model.tokenizer, 64, model.next_sentence)
    masked = rows.draw(np.arange(len(rows)), Masker(model.tokenizer), np.random.default_rng(0))
    parts = [ObjectiveSettings(part) for part in dict.fromkeys(("mlm", name))]
    model.eval()
    settings = BackwardSettings(micro_rows=len(rows), layout=training_layout(model.bert))
    loss = float(backward_masked(model, Objective(parts), masked, settings).sum())
    gradients = {key: p.grad.cpu() for key, p in model.trained.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss, gradients


def waits(context: Context) -> str:
    """Count how often encoding and training wait for the GPU, and note the lines of ours that make them."""
    if not context.on_card:
        context.note("seen", "nothing: a CPU is never waited for, so what is counted here is 0")
    model = SiameseBert.from_pretrained(context.minilm(), context.device)
    n_windows = context.pick(3, 1)
    texts = some_texts(n_windows * context.pick(WINDOW_TEXTS, 32))
    model.encode(texts[:64])
    with waits_seen(context) as seen:
        model.encode(texts)
    context.note("encode", counted_by_line(seen, n_windows, "window"))

    first, last = 1, 6
    begun: list[int] = []
    with waits_seen(context) as seen:
        settings = TrainingSettings(batch_size=context.pick(16, 4))
        take_steps(model, some_pairs(100), last, settings, lambda step: begun.append(len(seen)))
    context.note("train", counted_by_line(seen[begun[first - 1] : begun[last - 1]], last - first, "step"))
    found = context.found
    return f"{found['encode']['a_window']:g} a window of encoding, {found['train']['a_step']:g} a step of training"


@contextmanager
def waits_seen(context: Context) -> Iterator[list[str]]:
    """Return a list that grows by a line of ours each time that torch says that the GPU is waited for."""
    seen: list[str] = []

    def note(message: Warning | str, category: type[Warning], filename: str, number: int, *_: Any) -> None:
        if "synchronizing" in str(message):
            seen.append(line_of_ours())

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        if context.on_card:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield seen
        finally:
            if context.on_card:
                torch.cuda.set_sync_debug_mode("default")


def line_of_ours() -> str:
    """Return the innermost line of the package that is being run, such as sbert_ft/models/inference.py:285 embed."""
    package = harness.ROOT / "sbert_ft"
    for frame in reversed(traceback.extract_stack()):
        if package in Path(frame.filename).parents:
            return f"{Path(frame.filename).relative_to(harness.ROOT)}:{frame.lineno} {frame.name}"
    return "no line of the package"


def counted_by_line(lines: list[str], n_units: int, unit: str) -> dict[str, Any]:
    """Return how many waits there were, in all, a unit and by line."""
    by_line = dict(Counter(lines).most_common())
    return {"waits": len(lines), f"{unit}s": n_units, f"a_{unit}": len(lines) / n_units, "by_line": by_line}


def take_steps(
    model: TrainableModel,
    rows: ConnectionDataset,
    n_steps: int,
    settings: TrainingSettings,
    after: Callable[[int], object] = lambda step: None,
) -> None:
    """Train by `fine_tune` for so many steps, then give the run up: nothing is saved, and the model is as it was.

    Args:
        model: Tuned for the cosine of pairs.
        rows: Taken as often as need be.
        n_steps: How many.
        settings: Of which batch and precision count.
        after: Called with the number of each step when it is done.
    """
    n_done = 0

    def count(*_: object) -> None:
        nonlocal n_done
        n_done += 1
        after(n_done)
        if n_done == n_steps:
            raise Enough

    never = n_steps + 1
    settings = replace(settings, epochs=never, max_steps=never, logging_steps=never, save_steps=never)
    with tempfile.TemporaryDirectory() as place, after_steps(count), suppress(Enough):
        fine_tune(model, rows, output_dir=Path(place) / "run", training=settings)


@contextmanager
def after_steps(call: Callable[..., None]) -> Iterator[None]:
    """Have something called after each step of any optimizer."""
    hook = register_optimizer_step_post_hook(call)
    try:
        yield
    finally:
        hook.remove()


def profile(context: Context) -> str:
    """Note launches, times and kernels of training steps in small and large batches, and of encoding short texts."""
    model = SiameseBert.from_pretrained(context.minilm(), context.device, max_seq_length=128)
    for batch_size in context.pick((16, 256), (4,)):
        context.note(f"train, batch {batch_size}", profile_of_steps(context, model, batch_size))
    texts = some_texts(context.pick(4096, 32))
    model.encode(texts)
    start = time.perf_counter()
    model.encode(texts)
    seconds = time.perf_counter() - start
    with shares.new_profiler() as profiler:
        model.encode(texts)
    context.note(f"encode, {len(texts)} texts", kernels(profiler, 1, seconds))
    return "; ".join(
        f"{name}: {one['ms']} ms, {one['launches']:g} launches, GPU busy {one['busy_share']:.0%}"
        for name, one in context.found.items()
    )


def profile_of_steps(context: Context, model: SiameseBert, batch_size: int) -> dict[str, Any]:
    """Return what the profiler saw of a step, and how long one takes without it, by the steps before."""
    first, middle, last = context.pick((5, 25, 45), (1, 2, 3))
    times: dict[int, float] = {}

    def after(step: int) -> None:
        if step in (first, middle):
            harness.wait_for_device()
            times[step] = time.perf_counter()

    pairs, settings = some_pairs(batch_size * last), TrainingSettings(batch_size=batch_size)
    profiler, _ = shares.profiled_steps(lambda: take_steps(model, pairs, last + 1, settings, after), middle, last)
    return kernels(profiler, last - middle, (times[middle] - times[first]) / (middle - first))


def kernels(profiler: Any, n_units: int, seconds: float) -> dict[str, Any]:
    """Return what the profiler saw of each unit, such as a step.

    Args:
        profiler: After its end.
        n_units: That it saw.
        seconds: That a unit takes without it.

    Returns:
        Times in milliseconds; of the top kernels how often they are called, and the time of all their calls.
    """
    events = profiler.key_averages()
    on_gpu = [e for e in events if e.device_type == DeviceType.CUDA and not getattr(e, "is_user_annotation", False)]
    on_cpu = [e for e in events if e.device_type == DeviceType.CPU]

    def calls(words: str) -> float:
        return sum(event.count for event in on_cpu if words in event.key) / n_units

    gpu_ms = sum(event.self_device_time_total for event in on_gpu) / 1e3 / n_units
    ranked = sorted(on_gpu, key=lambda event: -event.self_device_time_total)
    return {
        "ms": round(seconds * 1e3, 3),
        "launches": calls("LaunchKernel"),
        "copies": calls("cudaMemcpy"),
        "synchronisations": calls("Synchronize"),
        "cpu_ms_profiled": round(sum(event.self_cpu_time_total for event in on_cpu) / 1e3 / n_units, 3),
        "gpu_ms": round(gpu_ms, 3),
        "busy_share": round(gpu_ms / 1e3 / seconds, 3),
        "top": {
            e.key[:160]: [e.count / n_units, e.self_device_time_total / 1e3 / n_units] for e in ranked[:TOP_KERNELS]
        },
        "attention": sorted({event.key[:160] for event in on_gpu if ATTENTION.search(event.key)}),
    }


def resume(context: Context) -> str:
    """Hold a run that was interrupted and resumed against an unbroken one, and that against a second one."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored in a process of the background
    n_steps, stop_after = context.pick((12, 5), (4, 2))
    settings = TrainingSettings(batch_size=context.pick(16, 4), max_steps=n_steps, learning_rate=1e-4)
    rows = some_pairs(settings.batch_size * n_steps)

    def run(folder: Path, stop_after: int = 0) -> dict[str, Any]:
        model, steps = SiameseBert.from_pretrained(context.minilm(), context.device), []

        def count(*_: object) -> None:
            steps.append(1)
            if len(steps) == stop_after:
                signal.raise_signal(signal.SIGINT)

        with after_steps(count):
            existing = "resume" if folder.exists() else "error"
            fine_tune(model, rows, output_dir=folder, training=settings, on_existing=existing)
        return {name: tensor.cpu() for name, tensor in model.bert.encoder.state_dict().items()}

    with tempfile.TemporaryDirectory() as place:
        base = SiameseBert.from_pretrained(context.minilm(), "cpu", "float32").bert.encoder.state_dict()
        unbroken = run(Path(place) / "unbroken")
        with suppress(RunInterrupted):
            run(Path(place) / "broken", stop_after)
            raise Failed("a run that was sent SIGINT went on to its end")
        context.note("steps", {"all": n_steps, "interrupted_after": stop_after})
        resumed = distance(run(Path(place) / "broken"), unbroken, base)
        context.note("resumed", resumed)
        again = distance(run(Path(place) / "again"), unbroken, base)
        context.note("again", again)
    said = "; ".join(
        f"{name}: bit-equal {one['bit_equal']}, differs by {one['largest_difference']:.1e}, {one['share_of_way']:.1e} "
        "of the way"
        for name, one in (("resumed", resumed), ("a second unbroken run", again))
    )
    # unbroken runs differ where kernels add in any order; a resumed one may differ as much
    if resumed["share_of_way"] > 3 * again["share_of_way"]:
        raise Failed(said)
    return said


def distance(found: dict[str, Any], expected: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Return how far weights are from those expected, also as a share of the way that these have come from `base`."""
    apart = [(found[name] - expected[name]).double() for name in expected]
    way = [(base[name] - expected[name]).double() for name in expected]
    lengths = [float(torch.stack([part.square().sum() for part in parts]).sum().sqrt()) for parts in (apart, way)]
    return {
        "bit_equal": all(torch.equal(found[name], expected[name]) for name in expected),
        "largest_difference": max(float(part.abs().max()) for part in apart),
        "share_of_way": lengths[0] / lengths[1],
    }


def memory(context: Context) -> str:
    """Hold the memory that the plan foresees against what steps take of the card."""
    cases = [
        ("minilm", 64, 128, "bfloat16"),
        ("base", 32, 128, "bfloat16"),
        ("minilm", 256, 32, "bfloat16"),
        ("minilm", 64, 128, "float32"),
        ("base", 16, 384, "bfloat16"),
        ("base", 32, 128, "float32"),
    ]
    for case in context.pick(cases, [("base", 2, 16, "float32")]):
        context.note("cases", [*context.found.get("cases", []), memory_of(context, *case)])
    ratios = [case["measured_by_foreseen"] for case in context.found["cases"]]
    return f"measured by foreseen: {', '.join(f'{ratio}' for ratio in ratios)}"


def memory_of(context: Context, name: str, batch_size: int, n_tokens: int, precision: str) -> dict[str, Any]:
    """Return what is foreseen and measured for a model, batches of texts of so many tokens, and a precision."""
    folder = context.minilm() if name == "minilm" else context.base()
    model = SiameseBert.from_pretrained(folder, context.device, max_seq_length=n_tokens)
    long = "the heating in the kitchen has stopped working again " * (n_tokens // 8)
    rows = ConnectionDataset.from_pairs([(f"{i} {long}", f"{long} {i}", i % 6 / 5) for i in range(batch_size)])
    settings = TrainingSettings(batch_size=batch_size, precision=precision)
    told = RunSettings(ModelSettings(str(folder)), DataSettings("rows"), "run", (ObjectiveSettings(),), settings)
    plan = plan_run(prepare(model, RunData(rows), told))
    peaks: list[float] = []
    forget_peak(context)
    take_steps(model, rows, 3, settings, lambda step: peaks.append(harness.peak_mib()))
    foreseen, measured = (plan.fixed_bytes + plan.batch_bytes) / MIB, peaks[-1] if context.on_card else None
    return {
        **{"model": name, "batch_size": batch_size, "tokens": n_tokens, "precision": precision},
        "rows_a_forward": plan.micro_rows,
        "foreseen_mib": round(foreseen, 1),
        "measured_mib": None if measured is None else round(measured, 1),
        "measured_by_foreseen": None if measured is None else round(measured / foreseen, 2),
    }


def forget_peak(context: Context) -> None:
    """Let the most memory that was taken be what is taken now, by what is still in use."""
    gc.collect()
    if context.on_card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def encode(context: Context) -> str:
    """Time encoding against sentence-transformers' in bfloat16, and with flash attention where there is one."""
    rates = rate.measured_here(("bfloat16",), context.pick(None, 256))
    context.note("rate", rates)
    if context.on_card and not corpus.DATA.is_dir():
        raise harness.Skipped(f"{corpus.DATA} is absent, from which texts of several lengths are made")
    names = ["sbert_ft auto best", "st bfloat16 best", *context.pick(["st flash best"], [])]
    sizes = {"short": 4096, "base-long": 512, "long": 1024, "base-short": 2048, "mid": 2048, "base-mid": 1024}
    open_encoders: dict[str, tuple[dict[str, contenders.Encoder], dict[str, str]]] = {}
    said = []
    for name, n_texts in context.pick(sizes, {"short": 8}).items():
        what = encoding.SETS[name]
        folder = context.minilm() if what.model == "minilm" else context.base()
        if what.model not in open_encoders:
            open_encoders[what.model] = opened(names, folder)
        encoders, skipped = open_encoders[what.model]
        strings = what.make(n_texts) if context.on_card else some_texts(n_texts)
        tried = context.pick((32, 128, 512, 1024), (8,))
        ready = {key: contenders.prepared(one, "best", strings, None, tried) for key, one in encoders.items()}
        timings = harness.compare_here(ready, context.pick(5, 1))
        lengths = models.text_lengths(folder, strings, encoding.MAX_SEQ_LENGTH)
        operations = models.forward_operations(lengths, models.config_of(folder))
        others = [key for key in timings if key != names[0]]
        summaries = {}
        for key, one in timings.items():
            summary = one.summary(len(strings))
            share = rate.share(operations * summary["per_second"] / len(strings), 1.0, summary["precision"], rates)
            summaries[key] = share | {word: value for word, value in summary.items() if not word.endswith("_mib")}
        faster = harness.ratios(timings, names[0], others)
        facts = {"n_texts": len(strings), "mean_tokens": round(float(lengths.mean()), 1), "rate": rates}
        context.note(name, {**facts, "contenders": summaries, "times_faster": faster, "skipped": skipped})
        compared = ", ".join(f"{ratio['median']} times {key}" for key, ratio in faster.items())
        said.append(f"{name}: {compared}, {summaries[names[0]].get('share', 0):.0%} of the rate")
    return "; ".join(said)


def opened(names: list[str], folder: Path) -> tuple[dict[str, contenders.Encoder], dict[str, str]]:
    """Return the contenders that can be had here, and why the others cannot."""
    encoders, skipped = {}, {}
    for name in names:
        try:
            encoders[name] = contenders.opened(name, folder, encoding.MAX_SEQ_LENGTH)
        except harness.Skipped as reason:
            skipped[name] = str(reason)
    return encoders, skipped


def train(context: Context) -> str:
    """Time training against sentence-transformers' in bfloat16."""
    rates = rate.measured_here(("bfloat16",), context.pick(None, 256))
    names = [training.installed(name) for name in ("sbert_ft auto", "st bfloat16")]
    said = []
    for batch_size, n_steps, warm_up in context.pick(((16, 60, 20), (256, 20, 6), (64, 40, 12)), ((4, 3, 1),)):
        told = ["--batch-sizes", batch_size, "--steps", n_steps, "--warm-up", warm_up, "--model", context.minilm()]
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for turn in range(context.pick(2, 1)):
            for name in names if turn % 2 else names[::-1]:
                forget_peak(context)
                words = [*told, "--worker", name, "--seed", training.FIRST_SEED + turn]
                answers[name].append(training.work(training.arguments(list(map(str, words)))))
        table = training.report(batch_size, answers, rates)
        context.note(f"batch {batch_size}", table)
        ratio = table["times_faster"][names[0]][names[1]]
        said.append(f"batch {batch_size}: {ratio['median']} ({ratio['least']}-{ratio['most']}) times {names[1]}")
    return "; ".join(said)


def tutorial(context: Context) -> str:
    """Fine-tune a BERT-base on film reviews as tutorials do, with 4 GiB of the card."""
    if context.on_card:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(TUTORIAL_MIB * MIB / total)
    file = classify.SHARED / "nsmc" / "train.txt"
    if not file.exists():
        file = training.EXAMPLES / "reviews_ko_train.csv"
    batch_size, n_steps, warm_up = context.pick((32, 60, 10), (4, 4, 1))
    whole = ConnectionDataset.from_file(file, Reading(label_kind="classes"))
    rows = corpus.some_rows(whole, batch_size * n_steps)
    settings = TrainingSettings(
        batch_size=batch_size, epochs=-(-batch_size * n_steps // len(rows)), max_steps=n_steps, logging_steps=warm_up
    )
    facts = {"reviews": f"{file.parent.name}/{file.name}", "batch_size": batch_size, "steps": n_steps, "ran": False}
    context.note("run", facts | {"limit_mib": TUTORIAL_MIB if context.on_card else None})
    task = classify.Task(context.base(), "single", rows, None, settings, 128, warm_up)
    done = classify.train_ours(task, "auto")
    speed = batch_size * (n_steps - warm_up) / done["seconds"]
    context.note("run", {**context.found["run"], "ran": True, "rows_per_second": round(speed, 1), **done})
    return f"{speed:.0f} reviews/s, peak {done['peak_mib']:.0f} MiB"


def cards(context: Context) -> str:
    """Train by one process and by one for each card, and compare losses and speed; without a GPU by two on the CPU."""
    n_cards = context.pick(torch.cuda.device_count(), 2)
    if n_cards < 2:
        raise harness.Skipped("one card: the runs of several are compared where there are several")
    n_steps, batch_size = context.pick((40, 64 * n_cards), (4, 8))
    said = []
    for precision in context.pick(("float32", "auto"), ("float32",)):
        logs = [logged_run(context, n, precision, n_steps, batch_size) for n in (1, n_cards)]
        pairs = list(zip(*([record["loss"] for record in log[: n_steps // 4]] for log in logs), strict=True))
        difference = max(abs(one - several) / abs(one) for one, several in pairs)
        seconds = [log[-1]["seconds"] - log[len(log) // 2 - 1]["seconds"] for log in logs]
        facts = {"cards": n_cards, "batch_size": batch_size, "steps": n_steps, "loss_difference": difference}
        context.note(precision, {**facts, "seconds": seconds, "times_faster": round(seconds[0] / seconds[1], 2)})
        said.append(
            f"{precision}: {n_cards} processes {seconds[0] / seconds[1]:.2f} times as fast as one, losses differ "
            f"by {difference:.1e}"
        )
        if precision == "float32" and not difference <= MOST_LOSS:
            raise Failed("; ".join(said))
    return "; ".join(said)


def logged_run(
    context: Context, n_processes: int, precision: str, n_steps: int, batch_size: int
) -> list[dict[str, Any]]:
    """Return the log of a run of `sbert-ft train` with so many processes; objective cosent, without dropout."""
    with tempfile.TemporaryDirectory(dir=context.place) as place:
        config = {
            "model": {"path": str(context.minilm()), "dropout": 0.0},
            "data": {
                "train": str((corpus.DATA if (corpus.DATA / "train.csv").exists() else training.EXAMPLES) / "train.csv")
            },
            "objective": "cosent",
            "training": {
                "batch_size": batch_size,
                "max_steps": n_steps,
                "logging_steps": 1,
                "precision": precision,
                "device": context.device,
                "epochs": 100,
            },
            "output_dir": f"{place}/run",
        }
        path = Path(place) / "run.json"
        path.write_text(json.dumps(config), "utf-8")
        started = ["torch.distributed.run", "--standalone", f"--nproc-per-node={n_processes}", "-m"]
        command = [
            sys.executable,
            "-m",
            *(started if n_processes > 1 else []),
            "sbert_ft",
            "train",
            str(path),
            "--quiet",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{n_processes} processes ended with {done.returncode}: {done.stderr[:500]}")
        return [json.loads(line) for line in (Path(place) / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]


@cache
def known_pairs() -> ConnectionDataset:
    """Return the training pairs of the STS benchmark, or of the examples where that is absent."""
    folder = corpus.DATA if (corpus.DATA / "train.csv").exists() else training.EXAMPLES
    return ConnectionDataset.from_file(folder / "train.csv")


def some_pairs(n_rows: int) -> ConnectionDataset:
    """Return so many of the known pairs, or all where there are fewer."""
    return corpus.some_rows(known_pairs(), n_rows)


def some_texts(n_texts: int) -> list[str]:
    """Return so many different sentences of the known pairs, over again where there are fewer."""
    texts = list(dict.fromkeys(text for pair in known_pairs().pairs() for text in pair))
    texts = texts[:: max(1, len(texts) // n_texts)]  # files are sorted by origin
    return (texts * -(-n_texts // len(texts)))[:n_texts]
