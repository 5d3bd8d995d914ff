"""Two texts joined to one sequence: ids as in transformers, cuts as in the Rust tokenizer, windows with every token."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from sbert_ft.config.settings import Truncation
from sbert_ft.encoder.packing import pack
from sbert_ft.errors import InputError, ModelFolderError
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.tokenization.loading import TokenizerFiles
from sbert_ft.tokenization.text_tokens import Specials, TextTokens, kept_lengths, overlapping_windows
from sbert_ft.tokenization.tokenizer import TextTokenizer

TRUNCATIONS: tuple[Truncation, ...] = ("longest_first", "only_first", "only_second")
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[END]", "a", "b", "c", "d", "e"]
VOCAB = {token: number for number, token in enumerate(TOKENS)}
CLS, SEP, END, A, B = (VOCAB[token] for token in ("[CLS]", "[SEP]", "[END]", "a", "b"))


def listed(tokens: TextTokens) -> list[list[int]]:
    return [part.tolist() for part in np.split(tokens.token_ids, tokens.offsets[1:-1])] if len(tokens) else []


def types_of(tokens: TextTokens) -> list[list[int]]:
    """Return the token types of each text; zeros where there are none."""
    types = np.zeros(len(tokens.token_ids), np.uint8) if tokens.token_types is None else tokens.token_types
    return [part.tolist() for part in np.split(types, tokens.offsets[1:-1])] if len(tokens) else []


def bodies_of(*lengths: int, start: int = 1000) -> TextTokens:
    """Return texts of these lengths whose token ids are all different, rising from `start`."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    return TextTokens(np.arange(start, start + offsets[-1], dtype=np.int32), offsets)


def tokenizer_with(post_processor: Any) -> TextTokenizer:
    """Return a tokenizer of words with this post-processor."""
    backend = Tokenizer(models.WordLevel(VOCAB, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if post_processor is not None:
        backend.post_processor = post_processor
    roles = ("unk", "sep", "pad", "cls", "mask")
    special = {f"{role}_token": f"[{role.upper()}]" for role in roles}
    return TextTokenizer(TokenizerFiles(backend, backend.get_vocab(), (), None, special, ()))


def template(pair: str) -> processors.PostProcessor:
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=pair, special_tokens=[(token, VOCAB[token]) for token in TOKENS[2:5]]
    )


@pytest.fixture(scope="module")
def minilm(minilm_path: Path) -> TextTokenizer:
    return TextTokenizer.from_pretrained(minilm_path)


@pytest.fixture(scope="module")
def minilm_of_transformers(minilm_path: Path) -> Any:
    return AutoTokenizer.from_pretrained(minilm_path)


# what stands around a pair


@pytest.mark.parametrize(
    ("post_processor", "expected"),
    [
        (
            processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS)),
            Specials(((CLS,), (SEP,), (SEP,)), (0, 0, 0, 1, 1)),
        ),
        (
            processors.RobertaProcessing(("[SEP]", SEP), ("[CLS]", CLS)),
            Specials(((CLS,), (SEP, SEP), (SEP,)), (0,) * 6),
        ),
        (
            processors.Sequence(
                [processors.ByteLevel(trim_offsets=False), processors.RobertaProcessing(("[SEP]", SEP), ("[CLS]", CLS))]
            ),
            Specials(((CLS,), (SEP, SEP), (SEP,)), (0,) * 6),
        ),
        (
            template("[CLS]:0 $A:0 [SEP]:0 [SEP]:1 $B:1 [SEP]:1"),
            Specials(((CLS,), (SEP, SEP), (SEP,)), (0, 0, 0, 1, 1, 1)),
        ),
        (
            template("$A:0 [SEP]:0 $B:1 [SEP]:1 [END]:2"),
            Specials(((), (SEP,), (SEP, END)), (0, 0, 1, 1, 2)),
        ),
        (None, Specials(((), (), ()), (0, 1))),
    ],
    ids=["BERT", "RoBERTa", "RoBERTa after bytes", "types within what is between", "XLNet", "nothing"],
)
def test_what_stands_around_a_pair_is_found(post_processor: Any, expected: Specials) -> None:
    tokenizer = tokenizer_with(post_processor)
    assert tokenizer.pair_specials == expected
    texts = [("a b c", "d"), ("", "a a"), ("b", ""), ("a", "a"), ("", "")]
    first, second = (tokenizer.tokenize(side) for side in zip(*texts, strict=True))
    joined = tokenizer.join(first, second, 100)
    encoded = tokenizer.backend.encode_batch(texts)
    assert listed(joined) == [encoding.ids for encoding in encoded]
    assert types_of(joined) == [encoding.type_ids for encoding in encoded]
    assert tokenizer.n_pair_special == len(encoded[-1].ids)


@pytest.mark.parametrize(
    "pair",
    [
        "[CLS] $B [SEP] $A [SEP]",
        "[CLS] $A [SEP] $B:300 [SEP]",
        "[CLS] $A $B",
    ],
)
def test_another_pair_is_refused_when_pairs_are_joined_and_not_before(pair: str) -> None:
    tokenizer = tokenizer_with(template(pair))
    bodies = tokenizer.tokenize(["a b"])
    assert listed(tokenizer.frame(bodies, 8)) == [[CLS, A, B, SEP]]
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json .* around"):
        tokenizer.join(bodies, bodies, 8)


def test_a_model_without_token_types_for_pairs_gets_none() -> None:
    tokenizer = tokenizer_with(processors.RobertaProcessing(("[SEP]", SEP), ("[CLS]", CLS)))
    bodies = tokenizer.tokenize(["a b"])
    assert tokenizer.join(bodies, bodies, 16).token_types is None


@pytest.mark.parametrize(
    ("settings", "types"),
    [
        ({}, [0, 0, 0, 0, 1, 1]),
        ({"tokenizer_class": "BertTokenizer"}, [0, 0, 0, 0, 1, 1]),
        ({"model_input_names": ["input_ids", "token_type_ids"]}, [0, 0, 0, 0, 1, 1]),
        ({"tokenizer_class": "TokenizersBackend"}, [0, 0, 0, 0, 0, 0]),
        ({"model_input_names": ["input_ids", "attention_mask"]}, [0, 0, 0, 0, 0, 0]),
        (
            {"tokenizer_class": "TokenizersBackend", "model_input_names": ["input_ids", "token_type_ids"]},
            [0, 0, 0, 0, 1, 1],
        ),
    ],
    ids=str,
)
def test_a_folder_that_hands_no_token_types_on_gets_none_here(
    tmp_path: Path, minilm_path: Path, settings: dict[str, object], types: list[int]
) -> None:
    shutil.copy(minilm_path / "tokenizer.json", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = TextTokenizer.from_pretrained(tmp_path)
    joined = tokenizer.join(tokenizer.tokenize(["a man"]), tokenizer.tokenize(["music"]), 16)
    assert types_of(joined) == [types]
    expected = AutoTokenizer.from_pretrained(tmp_path)("a man", "music")
    assert expected.get("token_type_ids", [0] * 6) == types


@pytest.mark.parametrize(("n_types", "types"), [(2, [0, 0, 0, 1, 1]), (1, [0] * 5)])
def test_an_encoder_without_token_types_gets_none(
    tmp_path: Path, tiny_bert_folder: Callable[..., Path], n_types: int, types: list[int]
) -> None:
    folder = tiny_bert_folder(tmp_path / "model", config_extra={"type_vocab_size": n_types})
    bert = ConnectionBert.from_pretrained(folder, device="cpu")
    assert bert.tokenizer.pair_specials.types == tuple(types)
    bert.tokenizer.save_pretrained(folder, 32)
    names = AutoTokenizer.from_pretrained(folder).model_input_names
    assert ("token_type_ids" in names) is (n_types == 2)


# the same ids as transformers


@pytest.mark.parametrize("max_tokens", [4, 5, 10, 17, 24, 512])
def test_real_pairs_are_joined_as_transformers_joins_them(
    minilm: TextTokenizer, minilm_of_transformers: Any, stsb_sentences: list[str], max_tokens: int
) -> None:
    first, second = stsb_sentences[:1000:2], stsb_sentences[1:1000:2]
    joined = minilm.join(minilm.tokenize(first), minilm.tokenize(second), max_tokens)
    expected = minilm_of_transformers(first, second, truncation=True, max_length=max_tokens)
    assert listed(joined) == expected["input_ids"]
    assert types_of(joined) == expected["token_type_ids"]


@pytest.mark.parametrize("truncation", ["only_first", "only_second"])
def test_one_side_is_cut_as_transformers_cuts_it(
    minilm: TextTokenizer, minilm_of_transformers: Any, stsb_sentences: list[str], truncation: Truncation
) -> None:
    long = [f"{a} {b}" for a, b in itertools.pairwise(stsb_sentences[:200])]
    short = ["a short text"] * len(long)
    sides = (long, short) if truncation == "only_first" else (short, long)
    joined = minilm.join(minilm.tokenize(sides[0]), minilm.tokenize(sides[1]), 12, truncation)
    expected = minilm_of_transformers(*sides, truncation=truncation, max_length=12)
    assert listed(joined) == expected["input_ids"]
    assert types_of(joined) == expected["token_type_ids"]


def test_a_saved_korean_tokenizer_joins_pairs_alike_in_transformers(ko_vocab: Path, tmp_path: Path) -> None:
    tokenizer = TextTokenizer.from_pretrained(ko_vocab)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    tokenizer.save_pretrained(tmp_path, 64)
    first, second = ["나는 학교에 간다", "정말 재미있는 영화", ""], ["학교가 멀다", "", "보고 싶다 " * 30]
    joined = tokenizer.join(tokenizer.tokenize(first), tokenizer.tokenize(second), 16)
    expected = AutoTokenizer.from_pretrained(tmp_path)(first, second, truncation=True, max_length=16)
    assert listed(joined) == expected["input_ids"]
    assert types_of(joined) == expected["token_type_ids"]


lengths_of_pairs = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=8)


def random_texts(lengths: list[int], seed: int) -> list[str]:
    """Return texts with these numbers of tokens, made of words that are one token each."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(["a", "man", "plays", "the", "guitar"], n)) for n in lengths]


@given(pairs=lengths_of_pairs, max_tokens=st.integers(4, 40), seed=st.integers(0, 99))
def test_longest_first_cuts_where_the_rust_tokenizer_does(
    minilm: TextTokenizer, pairs: list[tuple[int, int]], max_tokens: int, seed: int
) -> None:
    first, second = (random_texts(list(side), seed + n) for n, side in enumerate(zip(*pairs, strict=True)))
    backend = Tokenizer.from_str(minilm.backend.to_str())
    backend.enable_truncation(max_tokens, strategy="longest_first")
    encoded = backend.encode_batch(list(zip(first, second, strict=True)))
    joined = minilm.join(minilm.tokenize(first), minilm.tokenize(second), max_tokens)
    assert listed(joined) == [encoding.ids for encoding in encoded]
    assert types_of(joined) == [encoding.type_ids for encoding in encoded]


@pytest.mark.parametrize("truncation", ["only_first", "only_second"])
@given(pairs=lengths_of_pairs, max_tokens=st.integers(4, 40), seed=st.integers(0, 99))
def test_one_side_is_cut_where_the_rust_tokenizer_cuts_it(
    minilm: TextTokenizer, truncation: Truncation, pairs: list[tuple[int, int]], max_tokens: int, seed: int
) -> None:
    """Checked only where the Rust tokenizer cuts: it refuses a pair if the side to cut is too short."""
    other = int(truncation == "only_first")
    possible = [pair for pair in pairs if pair[other] < max_tokens - 3]
    if not possible:
        return
    first, second = (random_texts(list(side), seed + n) for n, side in enumerate(zip(*possible, strict=True)))
    backend = Tokenizer.from_str(minilm.backend.to_str())
    backend.enable_truncation(max_tokens, strategy=truncation)
    encoded = backend.encode_batch(list(zip(first, second, strict=True)))
    joined = minilm.join(minilm.tokenize(first), minilm.tokenize(second), max_tokens, truncation)
    assert listed(joined) == [encoding.ids for encoding in encoded]


# cuts


@pytest.mark.parametrize(
    ("truncation", "kept"),
    [
        ("longest_first", [(3, 2), (1, 4), (2, 3), (2, 3), (3, 2), (0, 5), (2, 2)]),
        ("only_first", [(3, 2), (0, 5), (1, 4), (0, 5), (0, 5), (0, 5), (2, 2)]),
        ("only_second", [(5, 0), (1, 4), (4, 1), (5, 0), (5, 0), (0, 5), (2, 2)]),
    ],
)
def test_cuts_are_as_in_this_example(truncation: Truncation, kept: list[tuple[int, int]]) -> None:
    first, second = np.array([9, 1, 4, 9, 9, 0, 2]), np.array([2, 9, 4, 9, 8, 9, 2])
    found = kept_lengths(first, second, 5, truncation)
    assert list(zip(*(side.tolist() for side in found), strict=True)) == kept


@pytest.mark.parametrize("truncation", TRUNCATIONS)
@given(pairs=lengths_of_pairs, room=st.integers(0, 40))
def test_a_cut_fills_the_room_and_leaves_what_fits_alone(
    truncation: Truncation, pairs: list[tuple[int, int]], room: int
) -> None:
    first, second = np.array(pairs).T
    kept_first, kept_second = kept_lengths(first, second, room, truncation)
    assert (kept_first + kept_second == np.minimum(first + second, room)).all()
    assert ((kept_first >= 0) & (kept_first <= first)).all()
    assert ((kept_second >= 0) & (kept_second <= second)).all()
    if truncation == "only_first":
        assert ((kept_second == second) | (kept_first == 0)).all()
    if truncation == "only_second":
        assert ((kept_first == first) | (kept_second == 0)).all()


def test_a_joined_pair_is_as_in_this_example(minilm: TextTokenizer) -> None:
    joined = minilm.join(bodies_of(4, 1), bodies_of(3, 2, start=2000), max_tokens=8)
    assert listed(joined) == [
        [101, 1000, 1001, 1002, 102, 2000, 2001, 102],
        [101, 1004, 102, 2003, 2004, 102],
    ]
    assert types_of(joined) == [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1]]
    assert joined.token_types is not None and joined.token_types.dtype == np.uint8
    assert joined.token_ids.dtype == np.int32 and joined.offsets.dtype == np.int64
    batch = pack(joined, "rows")
    assert batch.token_types.flatten()[batch.cells].tolist() == [t for types in types_of(joined) for t in types]


def test_pairs_without_room_for_a_token_are_special_tokens(minilm: TextTokenizer) -> None:
    assert listed(minilm.join(bodies_of(4), bodies_of(3), 3)) == [[101, 102, 102]]
    assert listed(minilm.join(bodies_of(0), bodies_of(0), 30)) == [[101, 102, 102]]


def test_no_pairs_give_no_tokens(minilm: TextTokenizer) -> None:
    none = minilm.tokenize([])
    assert len(minilm.join(none, none, 8)) == 0
    windows, counts = minilm.join_windows(none, none, 8, 1)
    assert (len(windows), len(counts)) == (0, 0)


def test_a_length_without_room_for_a_pair_is_refused(minilm: TextTokenizer) -> None:
    with pytest.raises(InputError, match="max_seq_length is '2', expected a whole number of at least 3 for two texts"):
        minilm.join(bodies_of(4), bodies_of(3), 2)
    with pytest.raises(InputError, match="max_seq_length is '4', expected a whole number of at least 5 for two texts"):
        minilm.join_windows(bodies_of(4), bodies_of(3), 4, 0)


# windows


def test_windows_of_pairs_are_as_in_this_example(minilm: TextTokenizer) -> None:
    """Six of nine tokens are for the texts: the whole short text, and a window of at most three of the long one."""
    first, second = bodies_of(2, 9, 3), bodies_of(7, 5, 3, start=2000)
    windows, counts = minilm.join_windows(first, second, max_tokens=9, overlap=1)
    assert counts.tolist() == [2, 4, 1]
    assert listed(windows) == [
        [101, 1000, 1001, 102, 2000, 2001, 2002, 2003, 102],
        [101, 1000, 1001, 102, 2003, 2004, 2005, 2006, 102],
        [101, 1002, 1003, 1004, 102, 2007, 2008, 2009, 102],
        [101, 1004, 1005, 1006, 102, 2007, 2008, 2009, 102],
        [101, 1006, 1007, 1008, 102, 2007, 2008, 2009, 102],
        [101, 1008, 1009, 1010, 102, 2007, 2008, 2009, 102],
        [101, 1011, 1012, 1013, 102, 2012, 2013, 2014, 102],
    ]
    assert types_of(windows)[0] == [0, 0, 0, 0, 1, 1, 1, 1, 1]


@given(pairs=lengths_of_pairs, max_tokens=st.integers(5, 30), overlap=st.integers(0, 8))
def test_windows_of_pairs_cover_the_longer_text_beside_the_shorter(
    minilm: TextTokenizer, pairs: list[tuple[int, int]], max_tokens: int, overlap: int
) -> None:
    first = bodies_of(*(a for a, _ in pairs))
    second = bodies_of(*(b for _, b in pairs), start=5000)
    windows, counts = minilm.join_windows(first, second, max_tokens, overlap)
    assert counts.dtype == np.int64 and counts.sum() == len(windows)
    assert windows.lengths.max() <= max_tokens
    room = max_tokens - minilm.n_pair_special
    rows = iter(listed(windows))
    for pair, count in zip(zip(listed(first), listed(second), strict=True), counts.tolist(), strict=True):
        own = [next(rows) for _ in range(count)]
        sides = [(row[1 : row.index(102)], row[row.index(102) + 1 : -1]) for row in own]
        if len(pair[0]) + len(pair[1]) <= room:
            assert sides == [pair]
            continue
        short, long = (0, 1) if len(pair[0]) <= len(pair[1]) else (1, 0)
        assert all(side[short] == pair[short][: room // 2] for side in sides)
        assert all(len(side[0]) + len(side[1]) == room for side in sides)
        assert sorted({token for side in sides for token in side[long]}) == pair[long]
        left = room - len(sides[0][short])
        shared = [len(set(a[long]) & set(b[long])) for a, b in itertools.pairwise(sides)]
        at_least = min(overlap, left - 1)
        assert all(n == at_least for n in shared[:-1])
        assert all(at_least <= n < left for n in shared)


def test_windows_may_have_another_room_for_each_text() -> None:
    text, begin, counts = overlapping_windows(np.array([5, 0, 7]), np.array([3, 1, 4]), 2)
    assert counts.tolist() == [3, 1, 3]
    assert text.tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert begin.tolist() == [0, 1, 2, 0, 0, 2, 3]
