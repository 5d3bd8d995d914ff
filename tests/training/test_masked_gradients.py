"""Gradients of masked tokens: those of transformers' padded classes, in parts of rows and of the vocabulary too."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_bert_folder
from numpy.typing import NDArray
from test_masked_language_model import NEXT, load, make_language_folder
from test_spec import sentences
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForMaskedLM, BertForPreTraining

from sbert_ft.config.objectives import ObjectiveSettings
from sbert_ft.data.corpus import TextCorpus
from sbert_ft.models import masked_language_model
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.models.tokenized_corpus import tokenize_corpus
from sbert_ft.tokenization.masking import MaskedTokens, Masker
from sbert_ft.training.gradients import BackwardSettings
from sbert_ft.training.masked_gradients import backward_masked
from sbert_ft.training.objectives import Objective

# Relative to the largest gradient of the parameter; one that is zero but for rounding, such as that of a key's bias, is
# compared with a thousandth of the largest of all.
TOLERANCE = 1e-4
N_ROWS = 11
WHOLE = BackwardSettings(N_ROWS)
MLM = [ObjectiveSettings("mlm")]
BOTH = [ObjectiveSettings("mlm"), ObjectiveSettings("nsp")]
WEIGHTED = [ObjectiveSettings("nsp", weight=3.0), ObjectiveSettings("mlm", weight=0.5)]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    place = tmp_path_factory.mktemp("language")

    @cache
    def make(kind: str) -> Path:
        if kind == NEXT:
            return make_language_folder(place / kind, "bert", BertForPreTraining)
        return make_language_folder(place / kind, kind)

    return make


@pytest.fixture(scope="module")
def model_of(folder_of: Callable[[str], Path]) -> Callable[[str], MaskedLanguageModel]:
    return cache(lambda kind: load(folder_of(kind), next_sentence=kind == NEXT).eval())


def batch_of(model: MaskedLanguageModel, n_rows: int = N_ROWS, share: float = 0.2, seed: int = 0) -> MaskedTokens:
    """Return rows of real length with masked tokens: pairs of segments if the model has them."""
    texts = sentences(60, seed=4)
    if model.next_sentence:
        texts = [text for i in range(0, 60, 5) for text in [*texts[i : i + 5], ""]]
    corpus = tokenize_corpus(TextCorpus.from_texts(texts), model.tokenizer, 48, model.next_sentence)
    masker = Masker(model.tokenizer, share)
    return corpus.draw(np.arange(n_rows), masker, np.random.default_rng(seed))


def run(
    model: MaskedLanguageModel,
    parts: list[ObjectiveSettings],
    masked: MaskedTokens,
    settings: BackwardSettings = WHOLE,
    is_added: bool = False,
) -> tuple[float, dict[str, Tensor]]:
    """Return the loss, and the gradients by the names that transformers' class has for the parameters."""
    if not is_added:
        model.zero_grad()
    losses = backward_masked(model, Objective(parts), masked, settings)
    assert losses.dtype == torch.float32 and not losses.requires_grad and losses.shape == (len(parts),)
    prefix = f"{model.bert.plan.base_prefix}."
    named = {prefix + name: p for name, p in model.bert.encoder.named_parameters()}
    named |= model.head.own_tensors()
    if model.head.pooler is not None:
        named |= {f"{prefix}pooler.{name}": p for name, p in model.head.pooler.named_parameters()}
    found = {name: p.grad.to_dense().clone() for name, p in named.items() if p.grad is not None}
    model.zero_grad()
    return float(losses.sum()), found


def padded(masked: MaskedTokens, padding_id: int) -> dict[str, Tensor]:
    """Return the batch as a stock model takes it, with -100 where no token has to be predicted."""
    tokens = masked.tokens
    shape = (len(masked), int(tokens.lengths.max()))
    ids, types, mask = (np.full(shape, value) for value in (padding_id, 0, 0))
    labels = np.full(shape, -100)
    for row in range(len(masked)):
        begin, end = tokens.offsets[row : row + 2]
        ids[row, : end - begin], mask[row, : end - begin] = tokens.token_ids[begin:end], 1
        if tokens.token_types is not None:
            types[row, : end - begin] = tokens.token_types[begin:end]
        here = masked.owners == row
        labels[row, masked.places[here] - begin] = masked.labels[here]
    found: dict[str, NDArray[Any]] = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if tokens.token_types is not None:
        found["token_type_ids"] = types
    if masked.second is not None:
        found["next_sentence_label"] = masked.second
    return {name: torch.from_numpy(array.astype(np.int64)) for name, array in found.items()}


def check_equal(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = TOLERANCE) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1e-3
    for name, gradient in expected.items():
        scale = max(float(gradient.abs().max()), 1e-3 * largest)
        assert float((found[name] - gradient).abs().max()) <= tolerance * scale, name


# ---------------------------------------------------------------- transformers' own classes


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "albert", "mpnet", "modernbert"])
def test_loss_and_gradients_are_those_of_the_stock_padded_class(
    kind: str, folder_of: Callable[[str], Path], model_of: Callable[[str], MaskedLanguageModel]
) -> None:
    model = model_of(kind)
    masked = batch_of(model)
    stock = AutoModelForMaskedLM.from_pretrained(folder_of(kind), local_files_only=True).eval()
    inputs = padded(masked, model.tokenizer.padding_id)
    loss = stock(**inputs).loss
    loss.backward()
    expected = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    assert len(masked.places) > 20
    for layout in model.bert.probe.layouts:
        found_loss, found = run(model, MLM, masked, BackwardSettings(N_ROWS, layout=layout))
        assert found_loss == pytest.approx(float(loss.detach()), rel=1e-5)
        check_equal(found, expected)


@pytest.mark.parametrize("parts", [BOTH, WEIGHTED], ids=["equal", "weighted"])
def test_loss_and_gradients_are_those_of_bert_for_pre_training(
    parts: list[ObjectiveSettings], folder_of: Callable[[str], Path], model_of: Callable[[str], MaskedLanguageModel]
) -> None:
    model = model_of(NEXT)
    masked = batch_of(model)
    assert masked.second is not None and 0 < masked.second.sum() < N_ROWS
    stock = BertForPreTraining.from_pretrained(folder_of(NEXT), local_files_only=True).eval()
    inputs = padded(masked, model.tokenizer.padding_id)
    assert inputs["token_type_ids"].any()
    output = stock(**inputs)
    weights = {part.name: part.weight for part in parts}
    mlm = F.cross_entropy(output.prediction_logits.flatten(0, 1), inputs["labels"].flatten())
    nsp = F.cross_entropy(output.seq_relationship_logits, inputs["next_sentence_label"])
    loss = weights["mlm"] * mlm + weights["nsp"] * nsp
    if parts is BOTH:
        assert float(output.loss.detach()) == pytest.approx(float(loss.detach()), rel=1e-6)  # the class's own sum
    loss.backward()
    expected = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    assert set(expected) == {name for name, _ in stock.named_parameters()}
    for layout in model.bert.probe.layouts:
        found_loss, found = run(model, parts, masked, BackwardSettings(N_ROWS, layout=layout))
        assert found_loss == pytest.approx(float(loss.detach()), rel=1e-5)
        check_equal(found, expected)


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize("kind", ["roberta", NEXT])
@pytest.mark.parametrize("micro_rows", [1, 3, N_ROWS + 5])
@pytest.mark.parametrize("logits_at_once", [None, 1, 2000])
def test_parts_of_rows_and_of_logits_have_the_gradient_of_the_whole(
    kind: str,
    micro_rows: int,
    logits_at_once: int | None,
    model_of: Callable[[str], MaskedLanguageModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of(kind)
    masked, parts = batch_of(model), WEIGHTED if kind == NEXT else MLM
    per_row = np.bincount(masked.owners, minlength=N_ROWS)
    assert per_row.min() < per_row.max()  # so a mean of means would be another number
    loss, expected = run(model, parts, masked)
    if logits_at_once is not None:
        monkeypatch.setattr(masked_language_model, "_LOGITS_AT_ONCE", {"cpu": logits_at_once})
        assert model.places_at_once() < len(masked.places)
    found_loss, found = run(model, parts, masked, BackwardSettings(micro_rows))
    assert found_loss == pytest.approx(loss, rel=1e-5)
    check_equal(found, expected)


def test_gradients_add_up_and_factors_change_them_and_not_the_loss(
    model_of: Callable[[str], MaskedLanguageModel],
) -> None:
    model = model_of(NEXT)
    first, second = batch_of(model, seed=1), batch_of(model, seed=2)
    (loss, one), (_, other) = run(model, BOTH, first), run(model, BOTH, second)
    model.zero_grad()
    backward_masked(model, Objective(BOTH), first, WHOLE)
    _, both = run(model, BOTH, second, is_added=True)
    check_equal(both, {name: one[name] + other[name] for name in one})
    settings = BackwardSettings(4, loss_factor=0.25, scale=lambda loss: loss * 1024)
    scaled_loss, scaled = run(model, BOTH, first, settings)
    assert scaled_loss == pytest.approx(loss, rel=1e-5)
    check_equal(scaled, {name: gradient * 256 for name, gradient in one.items()})


# ---------------------------------------------------------------- nothing to predict


def without_masks(masked: MaskedTokens, rows: list[int]) -> MaskedTokens:
    """Return the batch with masked tokens in these rows alone."""
    kept = np.isin(masked.owners, rows)
    return MaskedTokens(masked.tokens, masked.places[kept], masked.labels[kept], masked.second)


@pytest.mark.parametrize("micro_rows", [1, 4, N_ROWS])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_batch_without_a_masked_token_has_no_loss_and_no_gradient(
    micro_rows: int, dtype: torch.dtype | None, model_of: Callable[[str], MaskedLanguageModel]
) -> None:
    model = model_of("bert")
    with model.bert.trained_in(dtype):
        loss, found = run(model, MLM, without_masks(batch_of(model), []), BackwardSettings(micro_rows, dtype))
    assert loss == 0 and not any(gradient.any() for gradient in found.values())


@pytest.mark.parametrize("micro_rows", [1, 4, N_ROWS])
def test_without_a_masked_token_segments_are_still_learned(
    micro_rows: int, model_of: Callable[[str], MaskedLanguageModel]
) -> None:
    model = model_of(NEXT)
    masked = without_masks(batch_of(model), [])
    loss, found = run(model, BOTH, masked, BackwardSettings(micro_rows))
    whole_loss, expected = run(model, BOTH, masked)
    assert loss == pytest.approx(whole_loss, rel=1e-5) and loss > 0
    check_equal(found, expected)
    assert "cls.seq_relationship.weight" in found and "cls.predictions.transform.dense.weight" not in found


@pytest.mark.parametrize("micro_rows", [1, 4])
def test_masked_tokens_in_one_row_have_their_gradient_whatever_the_parts(
    micro_rows: int, model_of: Callable[[str], MaskedLanguageModel]
) -> None:
    model = model_of("roberta")
    masked = batch_of(model)
    row = int(np.bincount(masked.owners).argmax())
    alone = without_masks(masked, [row])
    assert 0 < len(alone.places) < len(masked.places)
    loss, expected = run(model, MLM, alone)
    found_loss, found = run(model, MLM, alone, BackwardSettings(micro_rows))
    assert found_loss == pytest.approx(loss, rel=1e-5)
    check_equal(found, expected)


# ---------------------------------------------------------------- half precision


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the norm of the difference of all gradients, relative to the norm of the expected ones."""
    assert found.keys() == expected.keys()
    difference = torch.cat([(found[name] - expected[name]).flatten() for name in expected])
    return float(difference.norm() / torch.cat([one.flatten() for one in expected.values()]).norm())


@pytest.mark.parametrize("kind", ["bert", NEXT, "roberta", "albert", "mpnet", "modernbert"])
def test_in_bfloat16_gradients_reach_the_float32_weights_close_to_those_of_float32(
    kind: str, model_of: Callable[[str], MaskedLanguageModel]
) -> None:
    model = model_of(kind)
    masked, parts = batch_of(model), BOTH if kind == NEXT else MLM
    loss, exact = run(model, parts, masked)
    half = BackwardSettings(N_ROWS, torch.bfloat16)
    in_autocast = run(model, parts, masked, half)
    with model.bert.trained_in(torch.bfloat16):
        assert (model.bert.trained_copy is None) == (kind == "mpnet")
        in_copy = run(model, parts, masked, half)
        in_parts = run(model, parts, masked, BackwardSettings(3, torch.bfloat16))
    for found_loss, found in (in_autocast, in_copy, in_parts):
        assert all(gradient.dtype == torch.float32 for gradient in found.values())
        assert found_loss == pytest.approx(loss, rel=0.02) and found_loss != loss
        assert 0 < distance(found, exact) < 0.1


# ---------------------------------------------------------------- memory


class WidestOutput(TorchDispatchMode):
    """Notes how many rows as wide as the vocabulary a tensor had at most."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.n_rows = width, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, tuple | list) else (found,):
            if isinstance(tensor, Tensor) and tensor.dim() and tensor.shape[-1] == self.width:
                self.n_rows = max(self.n_rows, tensor.numel() // self.width)
        return found


def test_no_more_logits_than_those_of_a_part_are_there_however_large_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_words = 5003
    folder = make_bert_folder(tmp_path / "model", config_extra={"vocab_size": n_words})
    model = MaskedLanguageModel.from_pretrained(folder, "cpu", "float32").train()

    def most_rows(n_rows: int) -> int:
        masked = batch_of(model, n_rows, share=1.0)
        assert len(masked.places) > 4 * n_rows
        with WidestOutput(n_words) as widest:
            backward_masked(model, Objective(MLM), masked, BackwardSettings(n_rows))
        return widest.n_rows

    assert most_rows(40) == len(batch_of(model, 40, share=1.0).places)  # all at once, in one part
    monkeypatch.setattr(masked_language_model, "_LOGITS_AT_ONCE", {"cpu": 50 * n_words})
    assert [most_rows(n_rows) for n_rows in (10, 20, 40)] == [50, 50, 50]
