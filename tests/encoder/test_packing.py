"""Packed batches keep every token, rows are full, and pooling equals a loop over the texts."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sbert_ft.encoder.batching import RUN_OVERHEAD, choose_layout, plan_batches, plan_forwards
from sbert_ft.encoder.packing import ROW_TOKENS, Layout, PackedBatch, pack, row_width
from sbert_ft.tokenization.text_tokens import TextTokens, offsets_of
from sbert_ft.tokenization.tokenizer import TextTokenizer

LAYOUTS: tuple[Layout, ...] = ("rows", "runs", "padded")
PADDING = -7  # a token that no text has


def texts_of(lengths: list[int], *, typed: bool = False) -> TextTokens:
    """Return texts of these lengths in which no token appears twice."""
    offsets = offsets_of(np.array(lengths, np.int64))
    ids = np.arange(offsets[-1], dtype=np.int32) + 100
    return TextTokens(ids, offsets, (ids % 2).astype(np.uint8) if typed else None)


lengths_of_texts = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def test_the_example_of_the_docstring_is_what_pack_returns() -> None:
    names = ["a0", "a1", "a2", "b0", "b1", "c0", "c1", "c2", "c3", "d0", "e0", "e1"]
    texts = TextTokens(np.arange(12, dtype=np.int32), offsets_of(np.array([3, 2, 4, 1, 2])))

    batch = pack(texts, "rows", row_tokens=6, padding_id=99)

    rows = [" ".join(names[i] for i in row) for row in batch.token_ids.tolist()]
    assert rows == ["c0 c1 c2 c3 b0 b1", "a0 a1 a2 e0 e1 d0"]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 0]]
    assert batch.mask is not None and batch.mask.shape == (2, 1, 6, 6)
    drawn = ["".join("x" if seen else "." for seen in row) for row in batch.mask[1, 0].tolist()]
    assert drawn == ["xxx...", "xxx...", "xxx...", "...xx.", "...xx.", ".....x"]
    assert batch.cells.tolist() == [6, 7, 8, 4, 5, 0, 1, 2, 3, 11, 9, 10]
    assert batch.starts.tolist() == [0, 3, 5, 9, 10]
    assert batch.order == (2, 1, 0, 4, 3)
    assert len(batch) == 5 and batch.n_tokens == 12 and batch.run_shapes == ()


@given(lengths_of_texts, st.sampled_from(LAYOUTS), st.integers(1, 50), st.integers(0, 3), st.booleans())
def test_every_token_is_found_again_by_its_cell(
    lengths: list[int], layout: Layout, row_tokens: int, first_position: int, typed: bool
) -> None:
    texts = texts_of(lengths, typed=typed)

    batch = pack(texts, layout, row_tokens=row_tokens, padding_id=PADDING, first_position=first_position)

    assert len(set(batch.cells.tolist())) == batch.n_tokens == sum(lengths), "two tokens lie on one cell"
    assert batch.token_ids.flatten()[batch.cells].tolist() == texts.token_ids.tolist()
    positions = [first_position + place for length in lengths for place in range(length)]
    assert batch.position_ids.flatten()[batch.cells].tolist() == positions
    types = [0] * sum(lengths) if texts.token_types is None else texts.token_types.tolist()
    assert batch.token_types.flatten()[batch.cells].tolist() == types
    assert batch.starts.tolist() == texts.offsets[:-1].tolist()
    assert sorted(batch.order) == list(range(len(lengths)))
    begins = batch.cells[batch.starts].tolist()
    assert [begins[text] for text in batch.order] == sorted(begins), "order is not the order of laying"

    covered = torch.zeros(batch.token_ids.numel(), dtype=torch.bool)
    covered[batch.cells] = True
    filler = ~covered
    assert (batch.token_ids.flatten()[filler] == PADDING).all()
    assert (batch.position_ids.flatten()[filler] == first_position).all()
    assert (batch.token_types.flatten()[filler] == 0).all()
    for tensor in (batch.token_ids, batch.position_ids, batch.token_types, batch.cells, batch.starts):
        assert tensor.dtype == torch.int64


@given(lengths_of_texts, st.integers(1, 50))
def test_in_rows_a_token_sees_exactly_its_own_text_and_filler_sees_filler(lengths: list[int], row_tokens: int) -> None:
    batch = pack(texts_of(lengths), "rows", row_tokens=row_tokens)

    n_rows, width = batch.token_ids.shape
    assert width == row_width(max(lengths), row_tokens)
    owner = torch.full((n_rows * width,), -1)
    owner[batch.cells] = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    rows = owner.view(n_rows, width)
    assert batch.mask is not None and batch.mask.dtype == torch.bool
    assert torch.equal(batch.mask, (rows[:, None, :, None] == rows[:, None, None, :]))
    assert batch.mask.any(-1).all(), "a token that may look nowhere gives NaN"
    # a row is opened only for a text that no earlier row took, so no two rows would go into one
    used = sorted((rows >= 0).sum(1).tolist())
    assert n_rows == 1 or used[0] + used[1] > width


@given(lengths_of_texts)
def test_runs_are_one_row_without_filler_longest_first(lengths: list[int]) -> None:
    batch = pack(texts_of(lengths), "runs", padding_id=PADDING)

    assert batch.mask is None
    assert batch.token_ids.shape == (1, sum(lengths)) and PADDING not in batch.token_ids.tolist()[0]
    laid = [lengths[text] for text in batch.order]
    assert laid == sorted(lengths, reverse=True)
    assert [length for n, length in batch.run_shapes for _ in range(n)] == laid
    assert len({length for _, length in batch.run_shapes}) == len(batch.run_shapes)


@given(lengths_of_texts)
def test_padded_is_the_rectangle_that_everybody_knows(lengths: list[int]) -> None:
    batch = pack(texts_of(lengths), "padded", padding_id=PADDING)

    assert batch.token_ids.shape == (len(lengths), max(lengths))
    assert batch.mask is not None
    assert batch.mask.tolist() == [[place < length for place in range(max(lengths))] for length in lengths]
    assert torch.equal(batch.mask, batch.token_ids != PADDING)


def test_rows_are_well_filled_on_real_sentences(stsb_sentences: list[str], minilm_path: str) -> None:
    tokenizer = TextTokenizer.from_pretrained(minilm_path)
    texts = tokenizer.frame(tokenizer.tokenize(stsb_sentences), 256)
    for n_texts in (64, 256):
        filled = []
        for start in range(0, len(texts) - n_texts, n_texts):
            batch = pack(texts.select(np.arange(start, start + n_texts)), "rows", row_tokens=ROW_TOKENS)
            filled.append(batch.n_tokens / batch.token_ids.numel())
        assert np.mean(filled) > 0.93 and min(filled) > 0.85, (n_texts, np.mean(filled), min(filled))


@pytest.mark.parametrize("lengths", [[], [3, 0, 2]])
def test_nothing_to_pack_is_refused(lengths: list[int]) -> None:
    for layout in LAYOUTS:
        with pytest.raises(ValueError, match="at least one"):
            pack(texts_of(lengths), layout)


def test_texts_are_selected_by_index_with_their_types() -> None:
    texts = texts_of([2, 1, 3], typed=True)

    chosen = texts.select(np.array([2, 0, 2]))

    assert chosen.token_ids.tolist() == [103, 104, 105, 100, 101, 103, 104, 105]
    assert chosen.offsets.tolist() == [0, 3, 5, 8] and chosen.lengths.tolist() == [3, 2, 3]
    assert chosen.token_types is not None and chosen.token_types.tolist() == [1, 0, 1, 0, 1, 1, 0, 1]
    assert len(texts.select(np.zeros(0, np.int64))) == 0
    assert texts_of([2]).select(np.array([0])).token_types is None


@given(st.lists(st.integers(1, 60), max_size=50), st.integers(1, 200), st.booleans())
def test_batches_take_every_text_once_longest_first_within_the_budget(
    lengths: list[int], budget: int, padded: bool
) -> None:
    array = np.array(lengths, np.int64)

    batches = plan_batches(array, budget, padded=padded)

    flat = [int(text) for batch in batches for text in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[text] for text in flat] == sorted(lengths, reverse=True)
    sizes = [room_of(array[batch], padded) for batch in batches]
    assert all(size <= budget or len(batch) == 1 for size, batch in zip(sizes, batches, strict=True))
    for batch, following in itertools.pairwise(batches):
        assert room_of(array[[*batch, following[0]]], padded) > budget, "the next text would have fitted"


def test_rows_widen_by_a_fixed_step_and_take_the_longest_text() -> None:
    assert [row_width(longest) for longest in (1, 64, 65, 96, 97, 128, 384)] == [64, 64, 96, 96, 128, 128, 384]
    assert [row_width(longest, 6) for longest in (4, 6, 7, 38, 39)] == [6, 6, 38, 38, 70]


def room_of(lengths: NDArray[np.int64], padded: bool) -> int:
    """Return the number of tokens in a batch of these lengths."""
    return len(lengths) * int(lengths.max()) if padded else int(lengths.sum())


def test_the_layout_follows_from_what_is_admitted_device_and_lengths() -> None:
    short, long = np.full(64, 12), np.repeat([190, 100, 60, 30], 16)
    mixed = np.arange(2, 62)
    everything: tuple[Layout, ...] = ("rows", "runs", "padded")

    assert choose_layout(short, 12, 384, "cpu", ("padded",)) == "padded"
    assert choose_layout(short, 12, 384, "cpu", ("rows", "padded")) == "rows"
    assert choose_layout(short, 12, 384, "cuda", ("rows", "padded")) == "rows"
    assert choose_layout(short, 12, 384, "cpu", ("runs", "padded")) == "runs"
    assert choose_layout(mixed, 12, 384, "cuda", everything) == "runs"
    # equal lengths are one run, and cost nothing beyond their own scores
    assert choose_layout(short, 12, 384, "cpu", everything) == "runs"
    # a row as wide as the longest text would compute many scores of others
    assert choose_layout(long, 12, 384, "cpu", everything) == "runs"
    # many lengths, few scores: the price of the runs counts
    assert choose_layout(mixed, 12, 384, "cpu", everything) == "rows"
    assert mixed.sum() * ROW_TOKENS * 12 < 60 * RUN_OVERHEAD


def loop_pool(hidden: torch.Tensor, batch: PackedBatch, mode: str) -> torch.Tensor:
    """Return the vectors by a plain loop over the texts, in float64."""
    flat, ends = hidden.flatten(0, 1).double(), [*batch.starts.tolist()[1:], batch.n_tokens]
    vectors = []
    for start, end in zip(batch.starts.tolist(), ends, strict=True):
        tokens = flat[batch.cells[start:end]]
        vectors.append({"mean": tokens.mean(0), "cls": tokens[0], "max": tokens.amax(0)}[mode])
    return torch.stack(vectors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pooling_equals_a_loop_over_the_texts_forward_and_backward(
    layout: Layout, mode: str, dtype: torch.dtype
) -> None:
    batch = pack(texts_of([3, 17, 1, 40, 17, 8, 64, 2]), layout)
    # a constant beside small differences: rounding to bfloat16 within the sum would show
    hidden = (torch.randn(*batch.token_ids.shape, 16) + 30.0).to(dtype).requires_grad_()
    weights = torch.randn(8, 16)

    vectors = batch.pool(hidden, mode)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad((vectors * weights).sum(), hidden)
    exact = hidden.detach().double().requires_grad_()
    expected = loop_pool(exact, batch, mode)
    (expected_gradient,) = torch.autograd.grad((expected * weights.double()).sum(), exact)

    assert vectors.dtype == torch.float32 and vectors.shape == (8, 16)
    torch.testing.assert_close(vectors.double(), expected, atol=1e-5, rtol=0.0)
    if mode == "max" and dtype == torch.bfloat16:
        return  # equal numbers share the gradient in one and not in the other
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(gradient.double(), expected_gradient, atol=tolerance, rtol=0.0)
    filler = torch.ones(batch.token_ids.numel(), dtype=torch.bool)
    filler[batch.cells] = False
    assert not gradient.flatten(0, 1)[filler].any()


def test_token_vectors_come_text_by_text_in_the_callers_order() -> None:
    lengths = [3, 17, 1, 40]
    for layout in LAYOUTS:
        batch = pack(texts_of(lengths), layout)
        hidden = batch.token_ids[..., None].bfloat16().float()
        vectors = batch.token_vectors(hidden.bfloat16())
        assert [len(v) for v in vectors] == lengths and all(v.dtype == torch.float32 for v in vectors)
        expected = torch.arange(100, 100 + sum(lengths)).bfloat16().float()
        assert torch.equal(torch.cat(vectors).flatten(), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_lies_whole_on_the_device_that_it_is_packed_for(layout: Layout) -> None:
    here = pack(texts_of([3, 2]), layout)
    there = pack(texts_of([3, 2]), layout, device=torch.device("meta"))

    assert (here.device.type, there.device.type) == ("cpu", "meta")
    for name in ("token_ids", "position_ids", "token_types", "owners", "cells", "starts", "boundaries", "mask"):
        one, other = getattr(here, name), getattr(there, name)
        if layout == "runs" and name == "mask":
            assert one is other is None
        else:
            assert other.device.type == "meta" and one.shape == other.shape, name
    assert (there.layout, there.order, there.run_shapes) == (here.layout, here.order, here.run_shapes)
    vectors = there.pool(torch.zeros(*there.token_ids.shape, 4, device="meta"))
    assert vectors.device.type == "meta" and vectors.shape == (2, 4)


def test_boundaries_are_where_texts_begin_in_a_run() -> None:
    batch = pack(texts_of([2, 5, 2]), "runs")
    assert batch.boundaries.tolist() == [0, 5, 7, 9]
    assert batch.boundaries[:-1].tolist() == batch.cells[batch.starts][list(batch.order)].tolist()


def test_many_short_texts_share_rows_of_one_shape_whatever_order_they_come_in(
    minilm_path: Path, stsb_sentences: list[str]
) -> None:
    tokenizer = TextTokenizer.from_pretrained(minilm_path)
    framed = tokenizer.frame(tokenizer.tokenize(stsb_sentences), 64)
    by_length = framed.select(np.argsort(framed.lengths, kind="stable"))
    everything: tuple[Layout, ...] = ("rows", "runs", "padded")

    plan = plan_forwards(by_length.lengths, 2048, "cpu", everything)

    assert sorted(np.concatenate(plan).tolist()) == list(range(len(by_length)))
    shapes = []
    for texts in plan:
        lengths = by_length.lengths[texts]
        assert choose_layout(lengths, 12, 384, "cpu", everything) == "rows"
        shapes.append(tuple(pack(by_length.select(texts), "rows").token_ids.shape))
    rows = [n_rows for n_rows, _ in shapes]
    assert {width for _, width in shapes} == {ROW_TOKENS}
    assert max(rows) - min(rows) <= 3
    assert max(rows) * ROW_TOKENS <= 1.1 * 2048


@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=200), budget=st.integers(1, 3000))
@pytest.mark.parametrize("admitted", [("padded",), ("rows", "padded"), ("rows", "runs", "padded"), ("runs", "padded")])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_text_is_planned_once(admitted: tuple[Layout, ...], device: str, lengths: list[int], budget: int) -> None:
    plan = plan_forwards(np.array(lengths, np.int64), budget, device, admitted)
    assert sorted(np.concatenate(plan).tolist()) == list(range(len(lengths)))
    assert all(len(batch) for batch in plan)
