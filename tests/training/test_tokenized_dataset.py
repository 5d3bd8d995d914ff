"""Rows as tokens: the tokenizer's own ids, counts of truncated texts, joined rows included."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sbert_ft.config.settings import Truncation
from sbert_ft.encoder.packing import pack
from sbert_ft.errors import InputError
from sbert_ft.tokenization.text_tokens import TextTokens
from sbert_ft.tokenization.tokenizer import TextTokenizer
from sbert_ft.training.tokenized_dataset import TokenizedConnections, tokenize_connections

TEXTS = [
    "A man plays a guitar.",
    "Someone makes music.",
    "",
    "한국어 문장입니다",
    "👩‍👩‍👧 is no word of this vocabulary",
    "a much longer text " * 20,
    "The cat does not sleep.",
]


@dataclass(frozen=True)
class Rows:
    """Distinct texts and rows of their numbers, like a data set."""

    texts: tuple[str, ...]
    text_rows: NDArray[np.int64]

    @property
    def n_distinct(self) -> int:
        return len(self.texts)

    @cached_property
    def sha256(self) -> str:
        return sha256(json.dumps([self.texts, self.text_rows.tolist()]).encode()).hexdigest()

    def distinct_texts(self, start: int, stop: int) -> list[str]:
        return list(self.texts[start:stop])


def rows_of(*rows: tuple[int, ...], texts: list[str] = TEXTS) -> Rows:
    return Rows(tuple(texts), np.array(rows, np.int64))


PAIRS = rows_of((0, 1), (2, 3), (4, 5), (0, 6))


@pytest.fixture(scope="module")
def minilm(minilm_path: Path) -> TextTokenizer:
    return TextTokenizer.from_pretrained(minilm_path)


def framed(tokenizer: TextTokenizer, texts: list[str], max_tokens: int) -> list[list[int]]:
    return listed(tokenizer.frame(tokenizer.tokenize(texts), max_tokens))


def listed(tokens: TextTokens) -> list[list[int]]:
    return [tokens.token_ids[a:b].tolist() for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]


def assert_equal(one: TokenizedConnections, other: TokenizedConnections) -> None:
    assert listed(one.texts) == listed(other.texts)
    assert one.lengths.tolist() == other.lengths.tolist()
    counts = [(t.n_cut, t.n_own_tokens, t.n_unknown, t.cut_rows.tolist()) for t in (one, other)]
    assert counts[0] == counts[1]


# ---------------------------------------------------------------- tokens and counts


def test_tokens_are_those_of_the_tokenizer(minilm: TextTokenizer) -> None:
    tokenized = tokenize_connections(PAIRS, minilm, 32)
    assert listed(tokenized.texts) == framed(minilm, TEXTS, 32)
    assert len(tokenized) == 4
    assert tokenized.rows.tolist() == PAIRS.text_rows.tolist()
    assert tokenized.lengths.tolist() == [len(ids) for ids in framed(minilm, TEXTS, 10_000)]


def test_real_pairs_come_back_as_their_texts(minilm: TextTokenizer, stsb_sentences: list[str]) -> None:
    """There are more texts than are given to the tokenizer at a time."""
    texts = [f"{text} {i}" for i in range(4) for text in stsb_sentences]
    dataset = Rows(tuple(texts), np.arange(len(texts)).reshape(-1, 2))
    tokenized = tokenize_connections(dataset, minilm, 64)
    whole = minilm.frame(minilm.tokenize(texts), 64)
    assert np.array_equal(tokenized.texts.token_ids, whole.token_ids)
    assert np.array_equal(tokenized.texts.offsets, whole.offsets)
    rows = np.random.default_rng(0).permutation(len(dataset.text_rows))[:50]
    expected = framed(minilm, [texts[2 * i] for i in rows] + [texts[2 * i + 1] for i in rows], 64)
    assert listed(tokenized.pack_rows(rows)) == expected


def test_rows_are_packed_column_after_column(minilm: TextTokenizer) -> None:
    triplets = rows_of((0, 1, 2), (3, 4, 5), (0, 0, 6))
    tokenized = tokenize_connections(triplets, minilm, 16)
    packed = tokenized.pack_rows(np.array([2, 0]))
    expected = [TEXTS[i] for i in (0, 0, 0, 1, 6, 2)]
    assert listed(packed) == framed(minilm, expected, 16)
    assert listed(tokenized.texts.select(np.array([0, 0, 0, 1, 6, 2]))) == listed(packed)
    assert pack(packed, "rows").n_tokens == tokenized.row_lengths[[2, 0]].sum()
    assert packed.token_ids.flags.writeable  # torch warns of arrays that are not
    assert packed.token_ids.dtype == np.int32
    assert packed.offsets.dtype == np.int64


def test_the_length_of_a_row_is_that_of_its_texts_after_the_cut(minilm: TextTokenizer) -> None:
    tokenized = tokenize_connections(PAIRS, minilm, 16)
    lengths = [len(ids) for ids in framed(minilm, TEXTS, 16)]
    assert tokenized.row_lengths.tolist() == [lengths[a] + lengths[b] for a, b in PAIRS.text_rows.tolist()]
    assert tokenized.row_lengths.dtype == np.int64


def test_cut_and_unknown_tokens_are_counted(minilm: TextTokenizer) -> None:
    bodies = minilm.tokenize(TEXTS)
    tokenized = tokenize_connections(PAIRS, minilm, 32)
    assert tokenized.n_cut == 1
    assert tokenized.cut_rows.tolist() == [2]
    assert tokenized.cut_share == 1 / 8
    assert tokenized.n_own_tokens == len(bodies.token_ids)
    assert tokenized.n_unknown == minilm.count_unknown(bodies) == 1


def test_only_texts_of_the_rows_are_counted(minilm: TextTokenizer) -> None:
    tokenized = tokenize_connections(rows_of((0, 1), (1, 0)), minilm, 32)
    assert (tokenized.n_cut, tokenized.n_unknown, tokenized.cut_share) == (0, 0, 0.0)
    assert tokenized.n_own_tokens == len(minilm.tokenize(TEXTS[:2]).token_ids)


def test_each_row_with_a_cut_text_is_found(minilm: TextTokenizer) -> None:
    dataset = rows_of((0, 1), *[(0, 5)] * 7, (5, 5))
    tokenized = tokenize_connections(dataset, minilm, 32)
    assert (tokenized.n_cut, tokenized.cut_rows.tolist()) == (1, [1, 2, 3, 4, 5, 6, 7, 8])


def test_a_text_without_any_token_is_refused(minilm_path: Path, tmp_path: Path) -> None:
    shutil.copytree(minilm_path, tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"post_processor": None}), "utf-8")
    bare = TextTokenizer.from_pretrained(tmp_path / "model")
    assert bare.n_special == 0
    texts = ["a dog", "\u0301", "a cat"]
    assert len(tokenize_connections(rows_of((0, 2), texts=texts), bare, 32)) == 1
    with pytest.raises(InputError, match="has no tokens"):
        tokenize_connections(rows_of((0, 2), (2, 1), texts=texts), bare, 32)


def test_percentiles_are_of_the_texts_before_the_cut(minilm: TextTokenizer) -> None:
    texts = ["a " * i for i in range(1, 101)]
    dataset = Rows(tuple(texts), np.arange(100).reshape(50, 2))
    tokenized = tokenize_connections(dataset, minilm, 10)
    assert tokenized.percentiles() == {50: 52, 90: 92, 99: 101, 100: 102}
    assert tokenized.cut_share == 0.92


def test_no_rows_have_no_tokens(minilm: TextTokenizer) -> None:
    tokenized = tokenize_connections(Rows((), np.zeros((0, 2), np.int64)), minilm, 32)
    assert (len(tokenized), tokenized.n_own_tokens, tokenized.cut_share) == (0, 0, 0.0)
    assert tokenized.percentiles() == {50: 0, 90: 0, 99: 0, 100: 0}
    assert tokenized.row_lengths.tolist() == []


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1), st.integers(3, 12))
def test_any_texts_come_back_as_the_tokenizer_frames_them(
    minilm: TextTokenizer, texts: list[str], max_tokens: int
) -> None:
    dataset = Rows(tuple(texts), np.arange(len(texts))[:, None].repeat(2, axis=1))
    tokenized = tokenize_connections(dataset, minilm, max_tokens)
    packed = tokenized.pack_rows(np.arange(len(texts)))
    assert listed(packed) == framed(minilm, texts, max_tokens) * 2


def test_a_tokenizer_of_another_language_has_other_tokens(
    ko_vocab: Path, minilm: TextTokenizer, tmp_path: Path
) -> None:
    korean = TextTokenizer.from_pretrained(ko_vocab)
    tokenized = tokenize_connections(PAIRS, korean, 32)
    assert listed(tokenized.texts) == framed(korean, TEXTS, 32)
    assert listed(tokenize_connections(PAIRS, minilm, 32).texts) == framed(minilm, TEXTS, 32)


@pytest.mark.parametrize("max_tokens", [0, 2, -5])
def test_a_length_without_room_for_a_text_is_refused(minilm: TextTokenizer, max_tokens: int) -> None:
    with pytest.raises(InputError, match=rf"max_seq_length is '{max_tokens}', expected a whole number of at least 3"):
        tokenize_connections(PAIRS, minilm, max_tokens)


def test_rows_of_one_text_are_their_texts(minilm: TextTokenizer) -> None:
    tokenized = tokenize_connections(rows_of((5,), (0,), (5,), (2,)), minilm, 16)
    assert (len(tokenized), tokenized.n_sequences) == (4, 1)
    assert listed(tokenized.pack_rows(np.array([3, 0, 1]))) == framed(minilm, [TEXTS[i] for i in (2, 5, 0)], 16)
    assert tokenized.row_lengths.tolist() == [len(ids) for ids in framed(minilm, [TEXTS[i] for i in (5, 0, 5, 2)], 16)]
    assert (tokenized.n_cut, tokenized.cut_rows.tolist()) == (1, [0, 2])
    assert tokenized.cut_share == 0.5
    assert tokenized.percentiles()[100] == len(framed(minilm, [TEXTS[5]], 10_000)[0])


def test_the_longest_sequence_is_that_of_a_row(minilm: TextTokenizer) -> None:
    tokenized = tokenize_connections(rows_of((0, 1), (1, 2)), minilm, 8)  # the longest text stands in no row
    assert tokenized.percentiles()[100] == max(len(ids) for ids in framed(minilm, TEXTS[:3], 100))
    assert tokenized.sequence_lengths.tolist() == [
        [len(ids) for ids in framed(minilm, TEXTS[a : a + 2], 100)] for a in (0, 1)
    ]
    assert tokenize_connections(rows_of((0, 1, 2)), minilm, 8).n_sequences == 3


# ---------------------------------------------------------------- two texts joined

LONG = [
    "the cat sleeps in the sun " * 9,
    "a man plays a guitar and " * 8,
    "a dog runs",
    "",
    "the same length of a text " * 9,
]


def joined(tokenizer: TextTokenizer, rows: Rows, max_tokens: int, truncation: Truncation) -> TextTokens:
    """Return all rows as the tokenizer joins their whole texts."""
    first, second = (tokenizer.tokenize([rows.texts[i] for i in column]) for column in rows.text_rows.T.tolist())
    return tokenizer.join(first, second, max_tokens, truncation)


@pytest.mark.parametrize("truncation", ["longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("max_tokens", [5, 16, 17, 32, 33, 90, 500])
def test_joined_rows_are_as_the_tokenizer_joins_the_whole_texts(
    minilm: TextTokenizer, truncation: Truncation, max_tokens: int
) -> None:
    rows = rows_of(*[(a, b) for a in range(5) for b in range(5)], texts=LONG)
    tokenized = tokenize_connections(rows, minilm, max_tokens, truncation)
    order = np.random.default_rng(0).permutation(25)
    packed = tokenized.pack_rows(order)
    expected = joined(minilm, rows, max_tokens, truncation).select(order)
    assert listed(packed) == listed(expected)
    assert packed.token_types is not None and expected.token_types is not None
    assert packed.token_types.tolist() == expected.token_types.tolist()
    assert tokenized.row_lengths[order].tolist() == packed.lengths.tolist()
    assert pack(packed, "rows").n_tokens == tokenized.row_lengths.sum()
    whole = joined(minilm, rows, 10_000, "longest_first").lengths
    assert tokenized.sequence_lengths.tolist() == whole[:, None].tolist()


def test_what_is_counted_of_joined_rows_are_rows(minilm: TextTokenizer) -> None:
    """No single text is too long for 40 tokens, but three of the four rows are."""
    texts = ["word " * 30, "word " * 20, "word " * 5]
    rows = rows_of((0, 2), (0, 1), (1, 1), (1, 0), texts=texts)
    tokenized = tokenize_connections(rows, minilm, 40, "longest_first")
    assert (len(tokenized), tokenized.n_sequences) == (4, 1)
    assert tokenized.sequence_lengths.tolist() == [[38], [53], [43], [53]]
    assert tokenized.row_lengths.tolist() == [38, 40, 40, 40]
    assert tokenized.row_lengths.dtype == np.int64
    assert (tokenized.n_cut, tokenized.cut_rows.tolist()) == (3, [1, 2, 3])
    assert tokenized.cut_share == 0.75
    assert tokenized.percentiles() == {50: 43, 90: 53, 99: 53, 100: 53}
    alone = tokenize_connections(rows, minilm, 40)
    assert (alone.n_cut, alone.n_sequences, alone.percentiles()[100]) == (0, 2, 32)
    assert (tokenized.n_own_tokens, tokenized.n_unknown) == (alone.n_own_tokens, alone.n_unknown) == (55, 0)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=6),
    st.integers(5, 24),
    st.sampled_from(["longest_first", "only_first", "only_second"]),
)
def test_any_pairs_come_back_as_the_tokenizer_joins_them(
    minilm: TextTokenizer, lengths: list[tuple[int, int]], max_tokens: int, truncation: Truncation
) -> None:
    words = ["a man plays the guitar " * 6, "some music is in the street " * 5]
    texts = [" ".join(words[side].split()[:n]) for pair in lengths for side, n in enumerate(pair)]
    rows = Rows(tuple(texts), np.arange(len(texts)).reshape(-1, 2))
    tokenized = tokenize_connections(rows, minilm, max_tokens, truncation)
    packed = tokenized.pack_rows(np.arange(len(rows.text_rows)))
    assert listed(packed) == listed(joined(minilm, rows, max_tokens, truncation))
    assert packed.lengths.tolist() == tokenized.row_lengths.tolist()


def test_no_rows_are_joined_to_nothing(minilm: TextTokenizer) -> None:
    tokenized = tokenize_connections(Rows((), np.zeros((0, 2), np.int64)), minilm, 32, "longest_first")
    assert (len(tokenized), tokenized.n_sequences, tokenized.cut_share) == (0, 1, 0.0)
    assert tokenized.row_lengths.tolist() == []
    assert tokenized.percentiles() == {50: 0, 90: 0, 99: 0, 100: 0}


@pytest.mark.parametrize(("row", "said"), [((0,), "1 text each"), ((0, 1, 2), "3 texts each")])
def test_rows_of_other_than_two_texts_are_not_joined(minilm: TextTokenizer, row: tuple[int, ...], said: str) -> None:
    with pytest.raises(InputError, match=f"the rows have {said}, expected two to be joined"):
        tokenize_connections(rows_of(row), minilm, 32, "longest_first")


def test_a_length_without_room_for_two_texts_is_refused(minilm: TextTokenizer) -> None:
    with pytest.raises(InputError, match="max_seq_length is '4', expected a whole number of at least 5 for two texts"):
        tokenize_connections(PAIRS, minilm, 4, "longest_first")


def test_a_text_that_utf_8_cannot_encode_is_refused(minilm: TextTokenizer) -> None:
    with pytest.raises(InputError, match="surrogate"):
        tokenize_connections(rows_of((0, 1), texts=["a", "b\udc00"]), minilm, 32)
