"""Attention for packed batches equals torch's, text by text, and the probe finds encoders that run a layout wrongly."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, BertModel

from sbert_ft.encoder import attention
from sbert_ft.encoder.attention import ATTENTION_NAME, Runs, additive_mask, packed_attention, probe, register_attention
from sbert_ft.encoder.packing import Layout, PackedBatch, pack
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.tokenization.text_tokens import TextTokens, offsets_of

HEADS, WIDTH = 3, 8
MIXED = [5, 1, 17, 5, 9, 17, 2, 40, 5]
MODULE = nn.Identity()  # only stands where an attention layer would


def runs_of(batch: PackedBatch) -> Runs:
    return Runs(batch.run_shapes, batch.boundaries)


def batch_of(lengths: list[int], layout: Layout) -> PackedBatch:
    """Return a batch of texts of these lengths in a layout."""
    offsets = offsets_of(np.array(lengths))
    ids = np.arange(10, 10 + int(offsets[-1]), dtype=np.int32)
    return pack(TextTokens(ids, offsets), layout)


def leaves(batch: PackedBatch) -> list[Tensor]:
    """Return random query, key and value of a batch, shape (R, H, C, d), large enough for uneven attention weights."""
    n_rows, n_columns = batch.token_ids.shape
    return [torch.randn(n_rows, HEADS, n_columns, WIDTH, requires_grad=True) for _ in range(3)]


def attend(batch: PackedBatch, inputs: list[Tensor], mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Return the packed attention of a batch, token by token: shape (T, H, d)."""
    runs = runs_of(batch) if batch.layout == "runs" else None
    output, weights = packed_attention(MODULE, *inputs, mask, dropout=dropout, packed_runs=runs)
    assert weights is None and output.shape == (*batch.token_ids.shape, HEADS, WIDTH)
    return output.flatten(0, 1)[batch.cells]


def attend_text_by_text(batch: PackedBatch, inputs: list[Tensor]) -> Tensor:
    """Return torch's attention, computed for each text by itself: shape (T, H, d)."""
    bounds = [*batch.starts.tolist(), batch.n_tokens]
    flat = [tensor.transpose(1, 2).flatten(0, 1)[batch.cells] for tensor in inputs]  # (T, H, d)
    parts = []
    for start, end in itertools.pairwise(bounds):
        q, k, v = (tensor[start:end].transpose(0, 1) for tensor in flat)
        parts.append(torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("block_elements", [1, 3000, 1 << 20])
@pytest.mark.parametrize("mask_kind", ["bool", "additive", "runs"])
@pytest.mark.parametrize("lengths", [MIXED, [7], [6] * 5, list(range(1, 30))])
def test_each_text_attends_as_if_alone_forward_and_backward(
    lengths: list[int], mask_kind: str, block_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "BLOCK_ELEMENTS", block_elements)
    batch = batch_of(lengths, "runs" if mask_kind == "runs" else "rows")
    mask = batch.mask
    if mask_kind == "additive":
        assert mask is not None
        mask = additive_mask(mask, torch.float32)
    inputs = leaves(batch)
    direction = torch.randn(batch.n_tokens, HEADS, WIDTH)

    got = attend(batch, inputs, mask)
    expected = attend_text_by_text(batch, inputs)
    gradients = torch.autograd.grad((got * direction).sum(), inputs)
    expected_gradients = torch.autograd.grad((expected * direction).sum(), inputs)

    torch.testing.assert_close(got, expected, atol=2e-6, rtol=0.0)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-6, rtol=0.0)


def test_scaling_is_what_the_encoder_asks_for() -> None:
    for layout in ("rows", "runs"):
        batch = batch_of(MIXED, layout)  # type: ignore[arg-type]
        query, key, value = leaves(batch)
        runs = runs_of(batch) if layout == "runs" else None
        got, _ = packed_attention(MODULE, query, key, value, batch.mask, scaling=0.7, packed_runs=runs)
        usual, _ = packed_attention(MODULE, query * 0.7 * WIDTH**0.5, key, value, batch.mask, packed_runs=runs)
        torch.testing.assert_close(got, usual, atol=2e-6, rtol=0.0)


@pytest.mark.parametrize("block_elements", [1, 3000, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lengths", [MIXED, [7], [32] * 5, [64, 33, 32, 31, 1], list(range(1, 30))])
def test_in_half_precision_texts_of_a_width_attend_as_if_alone(
    lengths: list[int], dtype: torch.dtype, block_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "BLOCK_ELEMENTS", block_elements)
    batch = batch_of(lengths, "runs")
    inputs = [tensor.detach().to(dtype) for tensor in leaves(batch)]

    got = attend(batch, inputs, None)

    expected = attend_text_by_text(batch, [tensor.float() for tensor in inputs])
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), expected, atol=0.03 if dtype == torch.bfloat16 else 0.004, rtol=0.0)


def test_blocks_bring_texts_to_whole_steps_of_softmax() -> None:
    blocks = runs_of(batch_of([33, 30, 40], "runs")).blocks

    assert blocks.shapes == ((2, 64), (1, 32))
    filled, sources = blocks.filled.tolist(), blocks.sources.tolist()
    assert [sum(filled[:64]), sum(filled[64:128]), sum(filled[128:])] == [40, 33, 30]
    assert [source for source, real in zip(sources, filled, strict=True) if real] == list(range(103))
    assert sources[40:64] == [39] * 24 and sources[128 + 30 :] == [102, 102]
    for n_heads in (1, 3):
        # (texts, H, tokens of each), block after block
        rows = [(text, head) for text in range(3) for head in range(n_heads)]
        width = (64, 64, 32)
        laid = [(text, head, place) for text, head in rows for place in range(width[text])]
        found = [laid[place] for place in blocks.places(n_heads).tolist()]
        own = [(text, place) for text, length in enumerate((40, 33, 30)) for place in range(length)]
        assert found == [(text, head, place) for text, place in own for head in range(n_heads)]


def test_runs_know_where_each_text_begins() -> None:
    runs = runs_of(batch_of([3, 5, 3, 1], "runs"))

    assert runs.shapes == ((1, 5), (2, 3), (1, 1))
    assert runs.boundaries.tolist() == [0, 5, 8, 11, 12]
    assert runs.boundaries_int32.dtype == torch.int32 and torch.equal(runs.boundaries_int32, runs.boundaries)


@pytest.mark.parametrize("layout", ["rows", "runs"])
def test_dropout_keeps_the_expectation_and_repeats_with_the_seed(layout: Layout) -> None:
    batch = batch_of([3, 7, 1, 3], layout)
    inputs = [tensor.detach() for tensor in leaves(batch)]
    without = attend(batch, inputs, batch.mask)

    torch.manual_seed(5)
    first = attend(batch, inputs, batch.mask, dropout=0.3)
    second = attend(batch, inputs, batch.mask, dropout=0.3)
    torch.manual_seed(5)
    assert torch.equal(attend(batch, inputs, batch.mask, dropout=0.3), first)
    assert not torch.equal(first, second)
    assert torch.equal(attend(batch, inputs, batch.mask, dropout=0.0), without)

    n_draws = 400
    draws = torch.stack([attend(batch, inputs, batch.mask, dropout=0.3) for _ in range(n_draws)])
    # The mean of n draws is off by their deviation / sqrt(n); for 336 numbers, hardly ever by five times that.
    error = (draws.mean(0) - without).abs()
    assert (error <= 5 * draws.std(0) / n_draws**0.5 + 1e-6).all()


@pytest.mark.parametrize("layout", ["rows", "runs"])
def test_dropout_drops_for_each_text_and_head_anew(layout: Layout) -> None:
    # Values of one leave the sum of the kept weights, which is the same for all where the masks are.
    batch = batch_of([8] * 6, layout)
    query, key, value = leaves(batch)
    sums = attend(batch, [query * 0, key, torch.ones_like(value)], batch.mask, dropout=0.5)[..., 0].detach()

    patterns = {tuple(text[:, head].tolist()) for text in sums.split(8) for head in range(HEADS)}
    assert len(patterns) == 6 * HEADS


def test_importing_registers_nothing_and_registering_twice_is_once() -> None:
    script = f"""
import sbert_ft.encoder.attention as ours
from transformers import AttentionInterface, AttentionMaskInterface
def known():
    return "{ATTENTION_NAME}" in AttentionInterface().valid_keys(), "{ATTENTION_NAME}" in AttentionMaskInterface()
assert known() == (False, False), "registered at import"
before = set(AttentionInterface().valid_keys())
ours.register_attention()
ours.register_attention()
assert known() == (True, True)
assert set(AttentionInterface().valid_keys()) - before == {{"{ATTENTION_NAME}"}}
assert AttentionInterface()["{ATTENTION_NAME}"] is ours.packed_attention
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr


def padded_call(model: BertModel, name: str) -> Tensor:
    """Return the first text's activations in an ordinary padded call with a two-dimensional mask."""
    model.set_attn_implementation(name)
    ids = torch.randint(10, 90, (3, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    with torch.inference_mode():
        return model(input_ids=ids, attention_mask=mask).last_hidden_state[0, :7]


def test_a_name_without_an_entry_for_masks_looks_at_padding_and_ours_does_not(
    tiny_bert_folder: Callable[..., Path], tmp_path: Path
) -> None:
    register_attention()
    model = BertModel.from_pretrained(tiny_bert_folder(tmp_path / "model"), add_pooling_layer=False).eval()
    stock = padded_call(model, "sdpa")

    torch.testing.assert_close(padded_call(model, ATTENTION_NAME), stock, atol=5e-6, rtol=0.0)

    AttentionInterface.register("sbert_ft_test_without_mask", packed_attention)
    try:
        assert "sbert_ft_test_without_mask" not in AttentionMaskInterface()
        assert (padded_call(model, "sbert_ft_test_without_mask") - stock).abs().max() > 1e-2
    finally:
        AttentionInterface._global_mapping.pop("sbert_ft_test_without_mask")


@pytest.mark.parametrize("stock", [{"is_causal": True}, {"position_bias": torch.zeros(1, HEADS, 4, 4)}])
def test_what_packed_attention_does_not_know_is_refused(stock: dict[str, object]) -> None:
    inputs = [torch.randn(1, HEADS, 4, WIDTH) for _ in range(3)]
    with pytest.raises(ValueError, match="neither position biases nor causal masks"):
        packed_attention(MODULE, *inputs, None, **stock)  # type: ignore[arg-type]
    packed_attention(MODULE, *inputs, None, is_causal=False, position_bias=None)


@pytest.fixture(scope="module")
def tiny_bert(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> ConnectionBert:
    folder = tiny_bert_folder(tmp_path_factory.mktemp("attention") / "model")
    return ConnectionBert.from_pretrained(folder, device="cpu", precision="float32")


def probe_of(model: ConnectionBert, forward: Callable[[PackedBatch], Tensor]) -> attention.ProbeResult:
    """Return the probe's result for a forward built around a tiny encoder."""
    return probe(forward, int(model.plan.config.vocab_size), model.max_tokens, {"padding_id": 0})


def test_the_probe_admits_a_right_encoder(tiny_bert: ConnectionBert) -> None:
    assert probe_of(tiny_bert, tiny_bert.forward) == tiny_bert.probe
    assert tiny_bert.probe.layouts == ("rows", "runs", "padded") and not tiny_bert.probe.refused


def ignores_mask(batch: PackedBatch) -> PackedBatch:
    return batch if batch.layout != "rows" else replace(batch, owners=torch.zeros_like(batch.owners))


def ignores_positions(batch: PackedBatch) -> PackedBatch:
    if batch.layout == "padded":
        return batch
    counted = torch.arange(batch.token_ids.shape[1]).clamp(max=63).expand_as(batch.token_ids)
    return replace(batch, position_ids=counted)


def lets_runs_melt(batch: PackedBatch) -> PackedBatch:
    return batch if batch.layout != "runs" else replace(batch, run_shapes=((1, batch.n_tokens),))


@pytest.mark.parametrize(
    ("wrong", "refused"),
    [(ignores_mask, {"rows"}), (ignores_positions, {"rows", "runs"}), (lets_runs_melt, {"runs"})],
)
def test_the_probe_refuses_an_encoder_that_is_silently_wrong(
    tiny_bert: ConnectionBert, wrong: Callable[[PackedBatch], PackedBatch], refused: set[str]
) -> None:
    result = probe_of(tiny_bert, lambda batch: tiny_bert(wrong(batch)))

    assert set(result.refused) == refused
    assert set(result.layouts) == {"rows", "runs", "padded"} - refused
    assert all("differs from the padded model by" in reason for reason in result.refused.values())


def test_the_probe_refuses_a_window_that_only_long_texts_show(
    tiny_bert_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_bert_folder(tmp_path / "model", max_positions=200)
    model = ConnectionBert.from_pretrained(folder, device="cpu", precision="float32")

    class Windowed(PackedBatch):
        @property
        def mask(self) -> Tensor | None:
            whole = super().mask
            place = torch.arange(self.token_ids.shape[1])
            near = (place[:, None] - place[None, :]).abs() <= 64
            return whole & near if self.layout == "rows" and whole is not None else whole

    def windowed(batch: PackedBatch) -> PackedBatch:
        return Windowed(**{field.name: getattr(batch, field.name) for field in fields(batch)})

    assert set(probe_of(model, lambda batch: model(windowed(batch))).refused) == {"rows"}


def test_the_probe_refuses_nan_and_what_raises(tiny_bert: ConnectionBert) -> None:
    def not_a_number(batch: PackedBatch) -> Tensor:
        hidden = tiny_bert(batch)
        return hidden if batch.layout == "padded" else hidden.masked_fill(torch.rand(hidden.shape) < 0.01, torch.nan)

    def raises(batch: PackedBatch) -> Tensor:
        if batch.layout == "rows":
            raise RuntimeError("The size of tensor a must match the size of tensor b\nand more")
        if batch.layout == "runs":
            raise TypeError("forward() got an unexpected keyword argument")
        return tiny_bert(batch)

    result = probe_of(tiny_bert, not_a_number)
    assert result.layouts == ("padded",) and "nan" in result.refused["rows"]
    result = probe_of(tiny_bert, raises)
    assert result.layouts == ("padded",)
    assert result.refused["rows"] == "RuntimeError: The size of tensor a must match the size of tensor b"
    assert result.refused["runs"].startswith("TypeError: ")


def test_a_defect_is_not_taken_for_a_layout_that_does_not_fit(tiny_bert: ConnectionBert) -> None:
    def broken(batch: PackedBatch) -> Tensor:
        assert batch.layout == "padded", "our own invariant"
        return tiny_bert(batch)

    with pytest.raises(AssertionError, match="our own invariant"):
        probe_of(tiny_bert, broken)


def test_the_probe_draws_nothing_from_the_global_generator(tiny_bert: ConnectionBert) -> None:
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    probe_of(tiny_bert, tiny_bert.forward)
    assert torch.equal(torch.get_rng_state(), state[0]) and (np.random.get_state()[1] == state[1]).all()


def test_the_stock_pooler_reads_the_first_token_of_a_row(
    tiny_bert_folder: Callable[..., Path], tmp_path: Path, tiny_bert: ConnectionBert
) -> None:
    model = BertModel.from_pretrained(tiny_bert_folder(tmp_path / "model")).eval()
    batch = batch_of([9, 8, 7, 6], "rows")
    assert batch.mask is not None and len(batch.token_ids) == 1
    with torch.inference_mode():
        output = model(
            input_ids=batch.token_ids,
            position_ids=batch.position_ids,
            attention_mask=additive_mask(batch.mask, torch.float32),
        )
        of_first = model.pooler(output.last_hidden_state[:, :1])
    assert output.pooler_output.shape == (1, 32), "one vector a row, where the row holds four texts"
    torch.testing.assert_close(output.pooler_output, of_first)
    assert getattr(tiny_bert.encoder, "pooler", None) is None, "so ours is built without it"
    assert "pooler.dense.weight" in tiny_bert.pooler, "and keeps its tensors for saving"


def test_positions_stay_below_the_table_however_long_the_row(tiny_bert: ConnectionBert) -> None:
    lengths = [tiny_bert.max_tokens, 60, 5, 30, 64, 33]
    texts = TextTokens(np.full(sum(lengths), 20, np.int32), offsets_of(np.array(lengths)))
    for layout in tiny_bert.probe.layouts:
        batch = tiny_bert.pack(texts, layout)
        assert int(batch.position_ids.max()) == tiny_bert.plan.config.max_position_embeddings - 1
        assert tiny_bert.infer(batch).isfinite().all()
    assert tiny_bert.pack(texts, "runs").token_ids.shape[1] > tiny_bert.max_tokens
