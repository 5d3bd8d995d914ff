"""Gradients of a batch: parts give the gradient of the whole, and dropout is the same in both forwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sbert_ft.config.objectives import ObjectiveSettings
from sbert_ft.encoder.packing import Layout
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.tokenization.text_tokens import TextTokens
from sbert_ft.training.gradients import BackwardSettings, backward, select_rows
from sbert_ft.training.objectives import Objective

# Parts and the whole differ only by float32 rounding; relative to the largest gradient of all.
TOLERANCE = 1e-5
# bfloat16 keeps eight bits, and matrix products of other shapes round differently.
BFLOAT16_TOLERANCE = 0.05
N_ROWS = 7

TEXTS = [
    *(
        "the man plays a guitar",
        "two dogs run",
        "a cat",
        "green water in the park",
        "she was here",
        "one",
        "the old red",
    ),
    *("a man plays", "dogs are running in a park", "the dog", "blue water", "she is not there", "two three", "house"),
    *("a woman sits", "no dog", "a car on the long street", "food", "who was it", "four", "the new white house"),
]
SCORES = torch.tensor([0.8, 1.0, 0.4, 0.6, 0.2, 0.6, 0.0])
LABELS = torch.tensor([1.0, 0, 0, 1, 0, 1, 0])

COUPLED = {
    "cosent": ([ObjectiveSettings("cosent")], 2, SCORES),
    "angle": ([ObjectiveSettings("angle")], 2, SCORES),
    "online_contrastive": ([ObjectiveSettings("online_contrastive")], 2, LABELS),
    "in_batch_negatives": ([ObjectiveSettings("in_batch_negatives")], 2, None),
    "symmetric": ([ObjectiveSettings("in_batch_negatives", symmetric=True)], 2, None),
    "hard negatives": ([ObjectiveSettings("in_batch_negatives")], 3, None),
    "sum": ([ObjectiveSettings("cosine", weight=2), ObjectiveSettings("cosent", weight=0.5)], 2, SCORES),
}
UNCOUPLED = {
    "cosine": ([ObjectiveSettings("cosine")], 2, SCORES),
    "contrastive": ([ObjectiveSettings("contrastive")], 2, LABELS),
    "triplet": ([ObjectiveSettings("triplet")], 3, None),
    "sum": ([ObjectiveSettings("cosine", weight=2), ObjectiveSettings("contrastive", weight=0.5)], 2, LABELS),
}
Case = tuple[list[ObjectiveSettings], int, Tensor | None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_bert_folder: Callable[..., Path]) -> SiameseBert:
    folder = tiny_bert_folder(tmp_path_factory.mktemp("tiny") / "model")
    return SiameseBert.from_pretrained(folder, "cpu", "float32")


def batch_of(model: SiameseBert, n_texts: int) -> TextTokens:
    return model.tokenizer.frame(model.tokenizer.tokenize(TEXTS[: n_texts * N_ROWS]), model.max_seq_length)


def gradient(model: SiameseBert) -> Tensor:
    """Return the gradient of all parameters as one vector, and clear it."""
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return flat


def run(model: SiameseBert, case: Case, settings: BackwardSettings) -> tuple[Tensor, Tensor]:
    """Return the losses and the gradient of a case."""
    parts, n_texts, labels = case
    model.zero_grad()
    loss = backward(model, Objective(parts), batch_of(model, n_texts), labels, N_ROWS, settings)
    return loss, gradient(model)


def plain_gradient(model: SiameseBert, case: Case, micro: list[np.ndarray], layout: Layout) -> Tensor:
    """Return the gradient from one graph over the forwards of all micro-batches."""
    parts, n_texts, labels = case
    tokens = batch_of(model, n_texts)
    vectors = [model(model.bert.pack(select_rows(tokens, N_ROWS, rows), layout)) for rows in micro]
    split = [part.split(len(rows)) for part, rows in zip(vectors, micro, strict=True)]
    columns = [torch.cat(column) for column in zip(*split, strict=True)]
    Objective(parts).losses(columns, labels).sum().backward()
    return gradient(model)


def assert_close(found: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    largest = float(expected.abs().max())
    assert largest > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * largest)


def test_rows_are_selected_column_after_column() -> None:
    # a0 a1 a2 b0 b1 b2, of one to six tokens
    lengths = np.arange(1, 7)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = TextTokens(np.repeat(lengths, lengths).astype(np.int32), offsets)
    chosen = select_rows(tokens, 3, np.array([2, 0]))
    assert chosen.lengths.tolist() == [3, 1, 6, 4]
    assert chosen.token_ids.tolist() == [3] * 3 + [1] + [6] * 6 + [4] * 4


@pytest.mark.parametrize("layout", ["rows", "runs", "padded"])
def test_one_forward_gives_the_gradient_of_the_loss(model: SiameseBert, layout: Layout) -> None:
    model.eval()
    case = COUPLED["cosent"]
    loss, found = run(model, case, BackwardSettings(micro_rows=N_ROWS, layout=layout))
    assert (loss.dtype, loss.shape, loss.requires_grad) == (torch.float32, (1,), False)
    assert_close(found, plain_gradient(model, case, [np.arange(N_ROWS)], layout))


@pytest.mark.parametrize("micro_rows", [1, 2, 3, 6])
@pytest.mark.parametrize("case", [*COUPLED.values()], ids=[*COUPLED])
def test_cached_gradients_equal_those_of_the_whole_batch(model: SiameseBert, case: Case, micro_rows: int) -> None:
    model.eval()
    assert Objective(case[0]).coupled
    whole_loss, whole = run(model, case, BackwardSettings(micro_rows=N_ROWS))
    loss, found = run(model, case, BackwardSettings(micro_rows=micro_rows))
    assert loss.tolist() == pytest.approx(whole_loss.tolist(), rel=TOLERANCE)
    assert_close(found, whole)


@pytest.mark.parametrize("micro_rows", [1, 3])
@pytest.mark.parametrize("case", [*UNCOUPLED.values()], ids=[*UNCOUPLED])
def test_split_batches_have_the_gradient_of_the_whole(model: SiameseBert, case: Case, micro_rows: int) -> None:
    model.eval()
    assert not Objective(case[0]).coupled
    whole_loss, whole = run(model, case, BackwardSettings(micro_rows=N_ROWS))
    loss, found = run(model, case, BackwardSettings(micro_rows=micro_rows))
    assert loss.tolist() == pytest.approx(whole_loss.tolist(), rel=TOLERANCE)
    assert_close(found, whole)


@pytest.mark.parametrize("layout", ["rows", "runs"])
@pytest.mark.parametrize("name", ["cosent", "hard negatives"])
def test_dropout_drops_the_same_in_both_forwards(model: SiameseBert, name: str, layout: Layout) -> None:
    model.train()
    micro = np.array_split(np.arange(N_ROWS), 3)
    torch.manual_seed(5)
    expected = plain_gradient(model, COUPLED[name], micro, layout)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    _, found = run(model, COUPLED[name], BackwardSettings(micro_rows=3, layout=layout))
    assert_close(found, expected)
    # the generator continues as after one pass of forwards
    assert torch.equal(torch.get_rng_state(), after)
    _, other = run(model, COUPLED[name], BackwardSettings(micro_rows=3, layout=layout))
    assert float((other - expected).abs().max()) > 0.01 * float(expected.abs().max())


def test_gradient_checkpointing_changes_no_gradient(
    tmp_path: Path, tiny_bert_folder: Callable[..., Path], model: SiameseBert
) -> None:
    checkpointed = SiameseBert.from_pretrained(tiny_bert_folder(tmp_path / "model"), "cpu", "float32")
    encoder = checkpointed.bert.encoder
    # later versions of transformers warn of the older name
    getattr(encoder, "activation_checkpointing_enable", encoder.gradient_checkpointing_enable)()
    assert any(getattr(module, "gradient_checkpointing", False) for module in encoder.modules())
    for case, micro_rows in ((COUPLED["cosent"], 3), (COUPLED["cosent"], N_ROWS), (UNCOUPLED["cosine"], 3)):
        gradients = []
        for one in (model.train(), checkpointed.train()):
            torch.manual_seed(5)
            gradients.append(run(one, case, BackwardSettings(micro_rows=micro_rows))[1])
        assert_close(gradients[1], gradients[0])


def test_bfloat16_reaches_the_float32_weights_in_parts_and_whole(model: SiameseBert) -> None:
    model.eval()
    case = COUPLED["in_batch_negatives"]
    _, exact = run(model, case, BackwardSettings(micro_rows=N_ROWS))
    for micro_rows in (N_ROWS, 3):
        loss, found = run(model, case, BackwardSettings(micro_rows=micro_rows, autocast_dtype=torch.bfloat16))
        assert loss.dtype == found.dtype == torch.float32
        assert not torch.equal(found, exact)
        assert_close(found, exact, BFLOAT16_TOLERANCE)


@pytest.mark.parametrize("case", [COUPLED["cosent"], UNCOUPLED["cosine"]], ids=["coupled", "not coupled"])
@pytest.mark.parametrize("micro_rows", [3, N_ROWS])
def test_factors_change_the_gradient_and_not_the_loss(model: SiameseBert, case: Case, micro_rows: int) -> None:
    model.eval()
    plain_loss, plain = run(model, case, BackwardSettings(micro_rows=micro_rows))
    parts, n_texts, labels = case
    tokens, settings = batch_of(model, n_texts), BackwardSettings(micro_rows=micro_rows, loss_factor=0.25)
    objective, scaled = Objective(parts), replace(settings, scale=lambda loss: loss * 1024)
    loss = backward(model, objective, tokens, labels, N_ROWS, scaled)
    # a second batch is added to the first
    backward(model, objective, tokens, labels, N_ROWS, settings)
    assert torch.equal(loss, plain_loss)
    assert_close(gradient(model), plain * 0.25 * (1024 + 1))


def test_a_batch_of_equal_labels_leaves_zero_gradients(model: SiameseBert) -> None:
    model.eval()
    for micro_rows in (3, N_ROWS):
        case = ([ObjectiveSettings("cosent")], 2, torch.ones(N_ROWS))
        loss, found = run(model, case, BackwardSettings(micro_rows=micro_rows))
        assert loss.item() == 0
        assert torch.equal(found, torch.zeros_like(found))


def test_frozen_embeddings_are_left_out(tmp_path: Path, tiny_bert_folder: Callable[..., Path]) -> None:
    model = SiameseBert.from_pretrained(tiny_bert_folder(tmp_path / "model"), "cpu", "float32").eval()
    model.bert.encoder.embeddings.requires_grad_(False)
    settings, n_texts, _ = COUPLED["in_batch_negatives"]
    objective: Objective = Objective(settings)
    backward(model, objective, batch_of(model, n_texts), None, N_ROWS, BackwardSettings(micro_rows=3))
    assert all(p.grad is None for p in model.bert.encoder.embeddings.parameters())
    assert all(p.grad is not None for p in model.bert.encoder.encoder.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"])
def test_dropout_drops_the_same_in_both_forwards_on_a_gpu(
    tmp_path: Path, tiny_bert_folder: Callable[..., Path], dtype: torch.dtype | None
) -> None:
    model = SiameseBert.from_pretrained(tiny_bert_folder(tmp_path / "model"), "cuda", "float32").train()
    settings, n_texts, labels = COUPLED["cosent"]
    case = (settings, n_texts, labels.cuda())
    for layout in ("rows", "runs"):
        torch.manual_seed(5)
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
            expected = plain_gradient(model, case, np.array_split(np.arange(N_ROWS), 3), layout)
        torch.manual_seed(5)
        _, found = run(model, COUPLED["cosent"], BackwardSettings(micro_rows=3, autocast_dtype=dtype, layout=layout))
        assert_close(found, expected, 1e-3 if dtype is None else 1e-2)
