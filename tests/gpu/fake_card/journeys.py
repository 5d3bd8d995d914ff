"""Run groups of journeys (sequences of calls) on the fake card, and print the result of each as a line of JSON.

    echo inference | FAKE_CARD_PLACE=folder python tests/gpu/fake_card/journeys.py MODEL_FOLDER WORK_FOLDER

The groups are `inference`, `classifiers`, `objectives`, `processes` and `runs`. Each line of standard input names one,
which runs in a fork, so that torch is imported once for all of them; an empty line is printed at its end. If a journey
raises, its error is printed and the others still run. `tests/gpu/test_fake_card.py` checks the counts.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import card as fake  # before torch
import numpy as np
import torch

# torch's own Parameter looks whether a tensor that is not quite one has an address.
warnings.filterwarnings("ignore", message=".*data pointer of FakeTensor.*")

TEXTS = [" ".join(["the dog runs in the park"] * n) for n in (1, 3, 1, 2, 5, 8)] * 10
PAIRS = list(zip(TEXTS, TEXTS[::-1], strict=True))
CLASSES = ["yes", "no", "maybe"]
PRECISIONS = ("bfloat16", "float16", "float32")


class Journeys:
    """Runs functions and prints the counts of each."""

    def __init__(self, card: fake.FakeCard, model: Path, work: Path) -> None:
        self.card, self.model, self.work = card, model, work
        self.said: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: self.said.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("sbert_ft").addHandler(handler)

    def go(self, name: str, journey: Callable[[], dict[str, Any] | None]) -> None:
        """Run one journey and print its line."""
        self.card.clear()
        self.said.clear()
        told: dict[str, Any] = {"name": name}
        try:
            told |= journey() or {}
        except Exception as error:  # of any kind: it is what is looked for
            frames = [f for f in traceback.extract_tb(error.__traceback__) if "/sbert_ft/" in f.filename]
            place = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in frames[::-1][:4])
            told["error"] = f"{type(error).__name__}: {str(error)[:500]} ({place})"
        finally:
            self.card.most_elements = None
        counted = {"waits": self.card.waits, "blocking": self.card.blocking, "copies": self.card.copies}
        told |= {key: dict(counter) for key, counter in counted.items()}
        told |= {"attention": self.card.attention_calls(), "launches": sum(self.card.calls.values())}
        told["said"] = [sentence for sentence in self.said if "memory" in sentence]
        print(json.dumps(told), flush=True)

    def siamese(self, precision: str = "auto", **options: Any) -> Any:
        """Return a sentence encoder on the card; its loading is not counted."""
        from sbert_ft import SiameseBert

        model = SiameseBert.from_pretrained(self.model, precision=precision, **options)  # type: ignore[arg-type]
        self.card.clear()
        return model

    def masked(self, *, next_sentence: bool) -> Any:
        """Return a masked language model on the card; its loading is not counted."""
        from sbert_ft import MaskedLanguageModel

        model = MaskedLanguageModel.from_pretrained(self.model, next_sentence=next_sentence)
        self.card.clear()
        return model

    def classifier(self, kind: str, **options: Any) -> Any:
        """Return a classifier on the card with a random head for `CLASSES`."""
        from sbert_ft import BertClassifier, ConnectionBert

        model = BertClassifier(ConnectionBert.from_pretrained(self.model), kind, **options)  # type: ignore[arg-type]
        model.start_head(CLASSES, seed=1)
        self.card.clear()
        return model


@contextmanager
def constant(module: Any, name: str, value: Any) -> Iterator[None]:
    """Set a constant of a module to another value within the context."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def inference(journeys: Journeys) -> None:
    """Load, encode and score: every precision and layout, several windows, long texts, memory that runs out."""
    from sbert_ft.errors import ResourceError
    from sbert_ft.models import inference

    for precision in PRECISIONS:

        def load(precision: str = precision) -> dict[str, Any]:
            model = journeys.siamese(precision)
            return {"layouts": model.bert.probe.layouts, "refused": model.bert.probe.refused, "is": str(model.device)}

        journeys.go(f"load {precision}", load)

        def encode(precision: str = precision) -> dict[str, Any]:
            model = journeys.siamese(precision)
            return {"shape": model.encode(TEXTS, on_truncate="ignore").shape}

        journeys.go(f"encode {precision}", encode)
        for layout in ("rows", "runs", "padded"):

            def infer(precision: str = precision, layout: str = layout) -> dict[str, Any]:
                bert = journeys.siamese(precision).bert
                if layout not in bert.probe.layouts:
                    return {"refused": True}
                tokens = bert.tokenizer.frame(bert.tokenizer.tokenize(TEXTS), 40)
                batch = bert.pack(tokens, layout)
                vectors = batch.pool(bert.infer(batch))
                return {"shape": vectors.shape, "is": str(vectors.device)}

            journeys.go(f"infer {precision} {layout}", infer)

    def in_windows() -> dict[str, Any]:
        model = journeys.siamese()
        with constant(inference, "WINDOW_TEXTS", 16):
            return {"shape": model.encode(TEXTS, on_truncate="ignore").shape, "windows": -(-len(TEXTS) // 16)}

    journeys.go("encode in windows", in_windows)

    def as_tensor() -> dict[str, Any]:
        found = journeys.siamese().encode(TEXTS, convert_to_tensor=True, normalize_embeddings=True, truncate_dim=8)
        return {"shape": found.shape, "is": str(found.device)}

    journeys.go("encode as tensor", as_tensor)

    def moved() -> dict[str, Any]:
        from sbert_ft import SiameseBert

        model = SiameseBert.from_pretrained(journeys.model, "cpu", "float32")
        shape = model.encode(TEXTS, device="cuda").shape
        layouts = list(model.bert.probe.layouts)
        model.encode(TEXTS[:3], device="cuda")
        of_tokens = model.encode(TEXTS[:3], output_value="token_embeddings")
        return {"shape": shape, "is": str(model.device), "layouts": layouts, "tokens": str(of_tokens[0].device)}

    journeys.go("encode moves the model", moved)

    def moved_to() -> dict[str, Any]:
        from sbert_ft import SiameseBert

        model = SiameseBert.from_pretrained(journeys.model, "cpu", "float32").to("cuda")
        layouts = list(model.bert.probe.layouts)
        return {"layouts": layouts, "in": str(model.tokenize(TEXTS[:3])["input_ids"].device)}

    journeys.go("to the card", moved_to)

    def chunked() -> dict[str, Any]:
        return {"shape": journeys.siamese(max_seq_length=12).encode(TEXTS, on_truncate="chunk").shape}

    journeys.go("encode chunked", chunked)

    def scored() -> dict[str, Any]:
        model = journeys.siamese()
        with constant(inference, "WINDOW_TEXTS", 40):
            return {"shape": model.score(PAIRS, on_truncate="ignore").shape, "windows": -(-len(PAIRS) // 20)}

    journeys.go("score in windows", scored)

    def memory_runs_out() -> dict[str, Any]:
        model = journeys.siamese("float32")
        journeys.card.most_elements = 40_000
        return {"shape": model.encode(TEXTS, batch_size=64, on_truncate="ignore").shape}

    journeys.go("encode out of memory", memory_runs_out)

    def one_text_does_not_fit() -> dict[str, Any]:
        model = journeys.siamese("float32")
        journeys.card.most_elements = 4000  # 60 vectors of 64 fit, a layer of 50 tokens and 128 features does not
        try:
            model.encode(TEXTS, on_truncate="ignore")
        except ResourceError as error:
            return {"refused": str(error)}
        return {}

    journeys.go("one text does not fit", one_text_does_not_fit)

    def in_a_fork() -> dict[str, Any]:
        model = journeys.siamese()
        with constant(torch.cuda, "_is_in_bad_fork", lambda: True):
            try:
                model.encode(TEXTS, on_truncate="ignore")
            except ResourceError as error:
                return {"refused": str(error)}
        return {}

    journeys.go("encode in a fork", in_a_fork)

    def saved() -> dict[str, Any]:
        model = journeys.siamese()
        model.save_pretrained(journeys.work / "saved")
        return {"files": sorted(path.name for path in (journeys.work / "saved").iterdir())}

    journeys.go("save", saved)

    def examined() -> dict[str, Any]:
        from sbert_ft.doctor.folder import examine

        return {check.name: check.found for check in examine(journeys.model) if check.name in ("device", "layouts")}

    journeys.go("doctor", examined)


def classifiers(journeys: Journeys) -> None:
    """Predict with every kind of classifier, with long rows cut and in windows."""
    from sbert_ft.models import inference

    for kind in ("towers", "joined", "single"):
        rows = TEXTS if kind == "single" else PAIRS

        def predicted(kind: str = kind, rows: Any = rows) -> dict[str, Any]:
            model = journeys.classifier(kind)
            with constant(inference, "WINDOW_TEXTS", 40):
                found = model.predict_proba(rows, on_truncate="ignore")
            return {"shape": found.shape, "windows": -(-len(rows) // (40 if kind == "single" else 20))}

        journeys.go(f"predict {kind}", predicted)

        def chunked(kind: str = kind, rows: Any = rows) -> dict[str, Any]:
            return {
                "shape": journeys.classifier(kind, max_seq_length=20).predict_proba(rows, on_truncate="chunk").shape
            }

        journeys.go(f"predict {kind} chunked", chunked)


def objectives(journeys: Journeys) -> None:
    """Run a batch of every objective, whole and in parts, forward and backward, and whole steps in every precision."""
    from sbert_ft import ObjectiveSettings, TrainingSettings
    from sbert_ft.config.objectives import OBJECTIVES
    from sbert_ft.data.corpus import TextCorpus
    from sbert_ft.models.tokenized_corpus import tokenize_corpus
    from sbert_ft.tokenization.masking import Masker
    from sbert_ft.training.gradients import BackwardSettings, backward
    from sbert_ft.training.masked_gradients import backward_masked
    from sbert_ft.training.objectives import Objective
    from sbert_ft.training.optimizer import Optimizer
    from sbert_ft.training.text_decoder import TextDecoder

    n_rows = 8
    encoder, classifier = journeys.siamese(), journeys.classifier("towers")

    def columns_of(model: Any, n: int) -> Any:
        return model.tokenizer.frame(model.tokenizer.tokenize(TEXTS[: n * n_rows]), 40)

    def masked_batch(name: str, micro_rows: int) -> dict[str, Any]:
        model = journeys.masked(next_sentence=name == "nsp")
        rows = tokenize_corpus(TextCorpus.from_texts(documents), model.tokenizer, 40, model.next_sentence)
        masked = rows.draw(np.arange(n_rows), Masker(model.tokenizer, 0.3), np.random.default_rng(0))
        objective = Objective([ObjectiveSettings(part) for part in dict.fromkeys(("mlm", name))])
        model.train()
        with model.bert.trained_in(torch.bfloat16):
            journeys.card.clear()
            loss = backward_masked(model, objective, masked, BackwardSettings(micro_rows, torch.bfloat16, "rows"))
        n_gradients = sum(p.grad is not None for p in model.trained.parameters())
        return {"is": str(loss.device), "gradients": n_gradients}

    documents = [text for number in range(n_rows) for text in (*TEXTS[number : number + 3], "")]
    for name, kind in OBJECTIVES.items():
        for micro_rows in (n_rows, 3):

            def batch(name: str = name, kind: Any = kind, micro_rows: int = micro_rows) -> dict[str, Any]:
                if kind.of_language:
                    return masked_batch(name, micro_rows)
                if kind.of_classifier:
                    model = classifier
                    weights = torch.ones(3).to(model.device) if name == "softmax" else None
                    weight = "balanced" if name == "softmax" else None
                    objective = Objective([ObjectiveSettings(name, class_weight=weight)], model.head, weights)
                else:
                    model = encoder
                    decoder = TextDecoder(model, deletion=0.6, seed=1) if kind.decodes else None
                    objective = Objective([ObjectiveSettings(name)], decoder=decoder)
                model.zero_grad()
                targets = None if "none" in kind.rows.label_kinds else torch.tensor([0.0, 1.0] * (n_rows // 2))
                n_columns = max(kind.rows.n_texts) * kind.n_views
                tokens = columns_of(model, n_columns)
                # of a teacher, whose vectors stay on the CPU
                taught = None if kind.teacher == "never" else torch.ones(n_rows, n_columns, model.bert.hidden_size)
                if objective.decoder is not None:
                    tokens, targets = objective.decoder.damage(tokens, 0)
                model.train()
                with model.bert.trained_in(torch.bfloat16):
                    journeys.card.clear()
                    settings = BackwardSettings(micro_rows, torch.bfloat16, "rows")
                    loss = backward(model, objective, tokens, targets, n_rows, settings, taught)
                n_gradients = sum(p.grad is not None for p in model.bert.encoder.parameters())
                return {"is": str(loss.device), "gradients": n_gradients}

            journeys.go(f"{name}, {'whole' if micro_rows == n_rows else 'in parts'}", batch)

    for precision in PRECISIONS:
        for layout in ("rows", "runs", "padded"):
            for dropout in (0.1, 0.0):

                def step(precision: str = precision, layout: str = layout, dropout: float = dropout) -> dict[str, Any]:
                    from sbert_ft.encoder.dropout import dropout_set_to

                    dtype = None if precision == "float32" else getattr(torch, precision)
                    model = encoder
                    model.zero_grad()
                    objective = Objective([ObjectiveSettings("cosine")])
                    tokens, targets = columns_of(model, 2), torch.rand(n_rows)
                    optimizer = Optimizer(model.bert.encoder, TrainingSettings(average="ema"))
                    settings = BackwardSettings(n_rows, dtype, layout)  # type: ignore[arg-type]
                    with dropout_set_to(model, dropout), model.bert.trained_in(dtype):
                        model.train()
                        for _ in range(2):  # what is made once is not in the second step
                            journeys.card.clear()
                            backward(model, objective, tokens, targets, n_rows, settings)
                            optimizer.clip_gradient(1.0)
                            optimizer.step()
                            assert optimizer.average is not None
                            optimizer.average.update()
                            optimizer.zero_grad()
                            if model.bert.trained_copy is not None:
                                model.bert.trained_copy.refresh()
                    return {"parameters": sum(1 for _ in model.bert.encoder.parameters())}

                journeys.go(f"step {precision} {layout} {'with' if dropout else 'without'} dropout", step)


def processes(journeys: Journeys) -> None:
    """Take steps as the second of two processes, with torch's stand-in for the other, which sends nothing."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from sbert_ft import ObjectiveSettings, TrainingSettings
    from sbert_ft.encoder.ranks import Ranks
    from sbert_ft.training.gradients import BackwardSettings, backward
    from sbert_ft.training.objectives import Objective
    from sbert_ft.training.optimizer import Optimizer

    dist.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    n_rows, ranks, model = 8, Ranks(1, 2, 2), journeys.siamese()
    for name in ("cosine", "cosent"):
        for micro_rows in (n_rows, 2):

            def step(name: str = name, micro_rows: int = micro_rows) -> dict[str, Any]:
                model.zero_grad()
                tokens = model.tokenizer.frame(model.tokenizer.tokenize(TEXTS[: 2 * n_rows]), 40)
                optimizer = Optimizer(model.bert.encoder, TrainingSettings())
                settings = BackwardSettings(micro_rows, torch.bfloat16, "rows", ranks=ranks)
                model.train()
                with model.bert.trained_in(torch.bfloat16):
                    journeys.card.clear()
                    targets = torch.rand(n_rows)
                    loss = backward(model, Objective([ObjectiveSettings(name)]), tokens, targets, n_rows, settings)
                    optimizer.sum_gradients(ranks, loss)
                    optimizer.clip_gradient(1.0)
                    optimizer.step()
                n_gradients = sum(parameter.grad is not None for parameter in model.bert.encoder.parameters())
                return {"is": str(loss.device), "gradients": n_gradients}

            journeys.go(f"{name}, {'whole' if micro_rows == n_rows else 'in parts'}", step)

    def encode() -> dict[str, Any]:
        with model.bert.shared_by(ranks):
            return {"shape": list(model.encode(TEXTS).shape)}

    journeys.go("encode", encode)


def runs(journeys: Journeys) -> None:
    """Do whole runs: every precision, checkpointed activations, classifiers, a resume, memory that runs out."""
    from sbert_ft import ConnectionDataset, ObjectiveSettings, Reading, SiameseBert, TrainingSettings, fine_tune

    steps, every = 4, 2
    scored = ConnectionDataset.from_pairs([(*pair, (i % 6) / 5) for i, pair in enumerate(PAIRS[:48])])

    def settings(**given: Any) -> TrainingSettings:
        return TrainingSettings(**{"batch_size": 8, "logging_steps": every, "max_steps": steps, **given})

    def told(result: Any) -> dict[str, Any]:
        return {"steps": result.metrics["steps"], "model": (result.folder / "model" / "model.safetensors").exists()}

    for precision in ("auto", "float32", "float16"):
        for checkpointing in (False, True):

            def tuned(precision: str = precision, checkpointing: bool = checkpointing) -> dict[str, Any]:
                model = journeys.siamese()
                given = settings(precision=precision, gradient_checkpointing=checkpointing)
                place = journeys.work / f"run-{precision}-{checkpointing}"
                return told(fine_tune(model, scored, output_dir=place, training=given))

            journeys.go(f"fine_tune {precision}{' checkpointing' if checkpointing else ''}", tuned)

    for average in (None, "ema", "best_k"):

        def with_dev(average: Any = average) -> dict[str, Any]:
            place, given = journeys.work / f"dev-{average}", settings(eval_steps=2, average=average)
            return told(fine_tune(journeys.siamese(), scored, dev=scored, output_dir=place, training=given))

        journeys.go(f"fine_tune with dev{'' if average is None else f', averaged by {average}'}", with_dev)

    def adversarial() -> dict[str, Any]:
        place, given = journeys.work / "adversarial", settings(adversarial_epsilon=1.0)
        return told(fine_tune(journeys.siamese(), scored, output_dir=place, training=given))

    journeys.go("fine_tune adversarial", adversarial)

    for kind in ("towers", "joined", "single"):

        def classified(kind: str = kind) -> dict[str, Any]:
            reading = Reading(label_kind="classes")
            labels = [CLASSES[i % 3] for i in range(48)]
            if kind == "single":
                data = ConnectionDataset.from_texts(TEXTS[:48], reading, labels=labels)
            else:
                data = ConnectionDataset.from_pairs(PAIRS[:48], reading, labels=labels)
            model = journeys.classifier(kind)
            objective = ObjectiveSettings("softmax", class_weight="balanced")
            place = journeys.work / f"run-{kind}"
            result = fine_tune(model, data, dev=data, output_dir=place, objective=objective, training=settings())
            return told(result)

        journeys.go(f"fine_tune {kind}", classified)

    def resumed() -> dict[str, Any]:
        from torch.optim.optimizer import register_optimizer_step_post_hook

        from sbert_ft.errors import RunInterrupted

        def run(on_existing: str) -> Any:
            model = SiameseBert.from_pretrained(journeys.model)
            place = journeys.work / "resumed"
            given = settings(save_steps=2)
            return fine_tune(model, scored, output_dir=place, training=given, on_existing=on_existing)  # type: ignore[arg-type]

        n_steps = 0

        def interrupt_in_the_third(*_: object) -> None:
            nonlocal n_steps
            n_steps += 1
            if n_steps == 3:
                signal.raise_signal(signal.SIGTERM)

        hook, interrupted = register_optimizer_step_post_hook(interrupt_in_the_third), False
        try:
            run("error")
        except RunInterrupted:
            interrupted = True
        hook.remove()
        return {"interrupted": interrupted, **told(run("resume"))}

    journeys.go("resume", resumed)

    def foreseen() -> dict[str, Any]:
        from sbert_ft.training.plan import activation_bytes, free_memory

        bert = journeys.siamese().bert
        on_card = activation_bytes(bert, 1000, 64, 2, checkpointing=False)
        reserved = constant(torch.cuda, "memory_reserved", lambda *_: 3 << 30)
        with reserved, constant(torch.cuda, "memory_allocated", lambda *_: 1 << 30):
            free = free_memory(bert.device)
        on_cpu = activation_bytes(SiameseBert.from_pretrained(journeys.model, "cpu").bert, 1000, 64, 2, False)
        return {"free": free >> 30, "on card": on_card, "on cpu": on_cpu}

    journeys.go("memory foreseen", foreseen)

    def memory_runs_out() -> dict[str, Any]:
        model = journeys.siamese()
        journeys.card.most_elements = 40_000
        given = settings(batch_size=32, micro_batch_size=32, precision="float32", max_steps=2)
        return told(fine_tune(model, scored, output_dir=journeys.work / "scarce", training=given))

    journeys.go("fine_tune out of memory", memory_runs_out)


GROUPS = {
    "inference": inference,
    "classifiers": classifiers,
    "objectives": objectives,
    "processes": processes,
    "runs": runs,
}


def main() -> None:
    """Run each group that standard input names."""
    model, work = map(Path, sys.argv[1:])
    for module in ("sbert_ft.training.run", "sbert_ft.doctor.folder", "sbert_ft.training.bert_classifier"):
        importlib.import_module(module)
    for group in map(str.strip, sys.stdin):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                np.random.seed(0)
                torch.manual_seed(0)
                (work / group).mkdir()
                with fake.card_in_place() as card:
                    GROUPS[group](Journeys(card, model, work / group))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        os.waitpid(pid, 0)
        print(flush=True)


if __name__ == "__main__":
    main()
