"""Adversarial training against its formula on the stock encoder, and that it leaves nothing behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COMMON_WORDS, make_bert_folder
from torch import Tensor
from transformers import AutoTokenizer, BertModel

from sbert_ft import (
    BertClassifier,
    ConnectionBert,
    ConnectionDataset,
    ObjectiveSettings,
    SiameseBert,
    TrainingSettings,
    fine_tune,
)
from sbert_ft.config.loader import run_from_json
from sbert_ft.config.settings import EvaluationSettings
from sbert_ft.encoder.ranks import Ranks
from sbert_ft.errors import ConfigError, InputError
from sbert_ft.training.adversarial import moved_words
from sbert_ft.training.fine_tune import load_run
from sbert_ft.training.plan import plan_run
from sbert_ft.training.prepare import RunOptions
from sbert_ft.training.run import run_training
from sbert_ft.training.sparse_embedding import EmbeddingRows

QUICK = EvaluationSettings(bootstrap_samples=5)
WORDS = COMMON_WORDS.split()
ROWS = [(" ".join(WORDS[i : i + 5]), " ".join(WORDS[i + 2 : i + 9]), (i % 6) / 5) for i in range(16)]
STEP = TrainingSettings(
    max_steps=1,
    batch_size=16,
    learning_rate=1e-3,
    warmup_ratio=0.0,
    logging_steps=1,
    precision="float32",
    device="cpu",
    adversarial_epsilon=0.5,
)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small BERT without dropout, so that both passes have the same masks."""
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return make_bert_folder(tmp_path_factory.mktemp("adversarial") / "bert", safetensors=True, config_extra=still)


# ---------------------------------------------------------------- the move


def table_with_gradient(by_row: bool) -> tuple[Tensor, EmbeddingRows | None]:
    """Return a table of 9 words with a gradient in three of them, and its rows, which have two more prepared."""
    words = torch.nn.Embedding(9, 3, sparse=by_row)
    with torch.no_grad():
        words.weight.copy_(torch.randn(9, 3, generator=torch.Generator().manual_seed(1)))
    rows = EmbeddingRows(words.weight) if by_row else None
    if rows is not None:
        rows.prepare(np.array([7, 1, 4, 4, 0], np.int32))
        rows.prepare(np.array([8, 7], np.int32))
    (words(torch.tensor([1, 4, 4, 7])) * torch.tensor([[1.0, -2.0, 3.0]])).square().sum().backward()
    return words.weight, rows


@pytest.mark.parametrize("by_row", [False, True])
def test_words_are_moved_along_the_gradient_and_back(by_row: bool) -> None:
    table, rows = table_with_gradient(by_row)
    before = table.detach().clone()
    assert table.grad is not None and table.grad.is_sparse == by_row
    gradient = table.grad.to_dense()
    with moved_words(table, rows, 0.25, Ranks()):
        moved = table.detach() - before
        torch.testing.assert_close(moved, 0.25 * gradient / gradient.norm())
        assert float(moved.norm()) == pytest.approx(0.25, rel=1e-5)
    assert torch.equal(table, before), "bit by bit"
    torch.testing.assert_close(table.grad.to_dense(), gradient, msg="the gradient is kept")
    with pytest.raises(MemoryError), moved_words(table, rows, 0.25, Ranks()):
        raise MemoryError
    assert torch.equal(table, before)


@pytest.mark.parametrize("gradient", [None, torch.zeros(9, 3)], ids=["no gradient", "a gradient of zeros"])
def test_words_without_a_direction_stay(gradient: Tensor | None) -> None:
    table = torch.nn.Parameter(torch.ones(9, 3))
    table.grad = gradient
    with moved_words(table, None, 1.0, Ranks()):
        assert torch.equal(table, torch.ones(9, 3))


# ---------------------------------------------------------------- training


def norm_of_step(folder: Path) -> float:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return float(next(line["grad_norm"] for line in lines if line["kind"] == "train"))


def norm_by_formula(bert: Path, epsilon: float) -> float:
    """Return the norm of g(w) + g(w + epsilon g / ||g||) of the squared error of cosines, by the padded encoder."""
    encoder = BertModel.from_pretrained(bert, add_pooling_layer=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(bert)
    table = encoder.get_input_embeddings().weight

    def vectors(side: int) -> Tensor:
        inputs = tokenizer([str(row[side]) for row in ROWS], padding=True, return_tensors="pt")
        mask = inputs["attention_mask"][:, :, None]
        hidden = encoder(**inputs).last_hidden_state
        return (hidden * mask).sum(1) / mask.sum(1)

    def backward() -> None:
        cosines = torch.cosine_similarity(vectors(0), vectors(1))
        torch.nn.functional.mse_loss(cosines, torch.tensor([row[2] for row in ROWS])).backward()

    backward()
    assert table.grad is not None
    move = epsilon * table.grad / table.grad.norm()
    with torch.no_grad():
        table.add_(move)
    backward()
    gradients = [parameter.grad for parameter in encoder.parameters() if parameter.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


@pytest.mark.parametrize("epsilon", [None, 0.5, 3.0])
def test_a_step_has_the_gradient_of_both_passes(bert: Path, tmp_path: Path, epsilon: float | None) -> None:
    model, training = SiameseBert.from_pretrained(bert, "cpu", "float32"), replace(STEP, adversarial_epsilon=epsilon)
    result = fine_tune(
        model, ConnectionDataset.from_pairs(ROWS), output_dir=tmp_path / "run", training=training, evaluation=QUICK
    )
    expected = norm_by_formula(bert, epsilon or 0.0)
    if epsilon is None:
        expected /= 2  # both passes of a move by 0 are the same
    assert norm_of_step(result.folder) == pytest.approx(expected, rel=2e-4)


def tuned(bert: Path, place: Path, objective: str = "cosine", **training: Any) -> dict[str, Tensor]:
    settings = replace(STEP, **{"max_steps": 3, "batch_size": 8, **training})
    rows = [row[:2] for row in ROWS] if objective == "in_batch_negatives" else ROWS
    model = SiameseBert.from_pretrained(bert, "cpu", "float32" if settings.precision == "float32" else "auto")
    fine_tune(
        model,
        ConnectionDataset.from_pairs(rows),
        output_dir=place,
        objective=ObjectiveSettings(objective),
        training=settings,
        evaluation=QUICK,
    )
    return {name: tensor.clone() for name, tensor in model.bert.encoder.state_dict().items()}


@pytest.mark.parametrize("objective", ["cosine", "cosent", "in_batch_negatives"])
def test_batches_in_parts_give_the_same(bert: Path, tmp_path: Path, objective: str) -> None:
    whole = tuned(bert, tmp_path / "whole", objective)
    parts = tuned(bert, tmp_path / "parts", objective, micro_batch_size=3)
    plain = tuned(bert, tmp_path / "plain", objective, adversarial_epsilon=None)
    apart = {name: float((whole[name] - parts[name]).abs().max()) for name in whole if "key.bias" not in name}
    assert max(apart.values()) < 5e-5, apart
    assert max(float((whole[name] - plain[name]).abs().max()) for name in whole) > 5e-4


def test_accumulated_batches_are_moved_by_the_gradient_of_the_step(bert: Path, tmp_path: Path) -> None:
    """The mean of the losses of two batches of 8 is the loss of one of 16, of squared errors."""
    one = tuned(bert, tmp_path / "one", batch_size=16, max_steps=1)
    two = tuned(bert, tmp_path / "two", batch_size=8, accumulation_steps=2, max_steps=1)
    assert max(float((one[name] - two[name]).abs().max()) for name in one if "key.bias" not in name) < 5e-5


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_run_is_the_run_that_was_not_stopped(bert: Path, tmp_path: Path, precision: str) -> None:
    config = {
        "model": {"path": str(bert), "dropout": 0.1},
        "data": {"train": str(tmp_path / "train.jsonl"), "score_range": [0, 1]},
        "training": {
            "adversarial_epsilon": 1.0,
            "max_steps": 4,
            "epochs": 4,
            "batch_size": 8,
            "save_steps": 2,
            "precision": precision,
            "device": "cpu",
        },
        "evaluation": {"bootstrap_samples": 5},
    }
    lines = [json.dumps({"sentence1": a, "sentence2": b, "score": score}) for a, b, score in ROWS]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    found = []
    for name in ("straight", "resumed"):
        settings = run_from_json({**config, "output_dir": str(tmp_path / name)}, "the test")
        result = run_training(load_run(settings), RunOptions())
        if name == "resumed":
            for checkpoint in (result.folder / "checkpoints").iterdir():
                if checkpoint.stem == "step-4":
                    checkpoint.unlink()
            (result.folder / "metrics.json").unlink()
            result = run_training(load_run(settings), RunOptions(mode="resume"))
        found.append(SiameseBert.from_pretrained(result.model_dir, "cpu", "float32").bert.encoder.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_classifiers_are_trained_so_too(bert: Path, tmp_path: Path) -> None:
    weights = []
    for epsilon in (None, 1.0):
        classifier = BertClassifier(ConnectionBert.from_pretrained(bert, "cpu", "float32"), "joined")
        training = replace(STEP, max_steps=3, batch_size=8, adversarial_epsilon=epsilon)
        place = tmp_path / f"run-{epsilon}"
        pairs, labels = [row[:2] for row in ROWS], ["yes", "no"] * 8
        classifier.fit(pairs, labels, training=training, output_dir=place)
        weights.append(classifier.trained.state_dict())
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) > 5e-4


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"training": {"adversarial_epsilon": 0}}, "training.adversarial_epsilon: expected a number above 0, or null"),
        (
            {"training": {"adversarial_epsilon": 1}, "model": {"path": "m", "kind": "masked_lm"}},
            "training.adversarial_epsilon",
        ),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        run_from_json({"model": {"path": "m"}, "data": {"train": "t.csv"}, "output_dir": "o", **changed}, "the test")
    assert sentence in str(error.value) and "faults" not in str(error.value)


def test_runs_whose_words_cannot_be_moved_are_refused(bert: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"sentence1": a, "sentence2": b, "score": score}) for a, b, score in ROWS]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    config: dict[str, Any] = {
        "model": {"path": str(bert)},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "training": {"adversarial_epsilon": 1.0, "device": "cpu"},
        "output_dir": str(tmp_path / "run"),
    }
    run = load_run(run_from_json(config, "the test"))
    assert "adversarial: each step again, with the words moved by 1" in plan_run(run).describe()
    config["model"] |= {"freeze_embeddings": True}
    run = load_run(run_from_json(config, "the test"))
    with pytest.raises(InputError, match=r"adversarial_epsilon is 1, but the word embeddings are frozen"):
        plan_run(run)
