"""Rows as tokens: the tokenizer's own ids, counts of truncated texts, and a cache that is used only if complete."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
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
from sbert_ft.errors import InputError, OutputError
from sbert_ft.tokenization.text_tokens import TextTokens
from sbert_ft.tokenization.tokenizer import TextTokenizer
from sbert_ft.training.tokenized_dataset import Joining, TokenizedConnections, tokenize_connections

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
    counts = [(t.n_cut, t.n_own_tokens, t.n_unknown, t.n_cut_rows, t.first_cut_rows) for t in (one, other)]
    assert counts[0] == counts[1]


@pytest.fixture(params=["in memory", "in a file"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "tokens" if request.param == "in a file" else None


# ---------------------------------------------------------------- tokens and counts


def test_tokens_are_those_of_the_tokenizer(minilm: TextTokenizer, folder: Path | None) -> None:
    tokenized = tokenize_connections(PAIRS, minilm, 32, folder)
    assert listed(tokenized.texts) == framed(minilm, TEXTS, 32)
    assert len(tokenized) == 4
    assert tokenized.rows.tolist() == PAIRS.text_rows.tolist()
    assert tokenized.lengths.tolist() == [len(ids) for ids in framed(minilm, TEXTS, 10_000)]


def test_real_pairs_come_back_as_their_texts(minilm: TextTokenizer, stsb_sentences: list[str], tmp_path: Path) -> None:
    """There are more texts than are given to the tokenizer at a time."""
    texts = [f"{text} {i}" for i in range(4) for text in stsb_sentences]
    dataset = Rows(tuple(texts), np.arange(len(texts)).reshape(-1, 2))
    tokenized = tokenize_connections(dataset, minilm, 64, tmp_path)
    whole = minilm.frame(minilm.tokenize(texts), 64)
    assert np.array_equal(tokenized.texts.token_ids, whole.token_ids)
    assert np.array_equal(tokenized.texts.offsets, whole.offsets)
    rows = np.random.default_rng(0).permutation(len(dataset.text_rows))[:50]
    expected = framed(minilm, [texts[2 * i] for i in rows] + [texts[2 * i + 1] for i in rows], 64)
    assert listed(tokenized.pack_rows(rows)) == expected


def test_rows_are_packed_column_after_column(minilm: TextTokenizer, folder: Path | None) -> None:
    triplets = rows_of((0, 1, 2), (3, 4, 5), (0, 0, 6))
    tokenized = tokenize_connections(triplets, minilm, 16, folder)
    packed = tokenized.pack_rows(np.array([2, 0]))
    expected = [TEXTS[i] for i in (0, 0, 0, 1, 6, 2)]
    assert listed(packed) == framed(minilm, expected, 16)
    assert listed(tokenized.texts.select(np.array([0, 0, 0, 1, 6, 2]))) == listed(packed)
    assert pack(packed, "rows").n_tokens == tokenized.row_lengths[[2, 0]].sum()
    assert packed.token_ids.flags.writeable  # torch warns of arrays that are not
    assert packed.token_ids.dtype == np.int32
    assert packed.offsets.dtype == np.int64


def test_the_length_of_a_row_is_that_of_its_texts_after_the_cut(minilm: TextTokenizer, folder: Path | None) -> None:
    tokenized = tokenize_connections(PAIRS, minilm, 16, folder)
    lengths = [len(ids) for ids in framed(minilm, TEXTS, 16)]
    assert tokenized.row_lengths.tolist() == [lengths[a] + lengths[b] for a, b in PAIRS.text_rows.tolist()]
    assert tokenized.row_lengths.dtype == np.int64


def test_cut_and_unknown_tokens_are_counted(minilm: TextTokenizer, folder: Path | None) -> None:
    bodies = minilm.tokenize(TEXTS)
    tokenized = tokenize_connections(PAIRS, minilm, 32, folder)
    assert tokenized.n_cut == 1
    assert (tokenized.n_cut_rows, tokenized.first_cut_rows) == (1, (2,))
    assert tokenized.cut_share == 1 / 8
    assert tokenized.n_own_tokens == len(bodies.token_ids)
    assert tokenized.n_unknown == minilm.count_unknown(bodies) == 1


def test_only_texts_of_the_rows_are_counted(minilm: TextTokenizer) -> None:
    tokenized = tokenize_connections(rows_of((0, 1), (1, 0)), minilm, 32, None)
    assert (tokenized.n_cut, tokenized.n_unknown, tokenized.cut_share) == (0, 0, 0.0)
    assert tokenized.n_own_tokens == len(minilm.tokenize(TEXTS[:2]).token_ids)


def test_the_first_five_rows_with_a_cut_text_are_named(minilm: TextTokenizer) -> None:
    dataset = rows_of((0, 1), *[(0, 5)] * 7, (5, 5))
    tokenized = tokenize_connections(dataset, minilm, 32, None)
    assert (tokenized.n_cut, tokenized.n_cut_rows, tokenized.first_cut_rows) == (1, 8, (1, 2, 3, 4, 5))


def test_a_text_without_any_token_is_refused(minilm_path: Path, tmp_path: Path) -> None:
    shutil.copytree(minilm_path, tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"post_processor": None}), "utf-8")
    bare = TextTokenizer.from_pretrained(tmp_path / "model")
    assert bare.n_special == 0
    texts = ["a dog", "\u0301", "a cat"]
    assert len(tokenize_connections(rows_of((0, 2), texts=texts), bare, 32, None)) == 1
    with pytest.raises(InputError, match="has no tokens"):
        tokenize_connections(rows_of((0, 2), (2, 1), texts=texts), bare, 32, None)


def test_percentiles_are_of_the_texts_before_the_cut(minilm: TextTokenizer) -> None:
    texts = ["a " * i for i in range(1, 101)]
    dataset = Rows(tuple(texts), np.arange(100).reshape(50, 2))
    tokenized = tokenize_connections(dataset, minilm, 10, None)
    assert tokenized.percentiles() == {50: 52, 90: 92, 99: 101, 100: 102}
    assert tokenized.cut_share == 0.92


def test_no_rows_have_no_tokens(minilm: TextTokenizer, folder: Path | None) -> None:
    tokenized = tokenize_connections(Rows((), np.zeros((0, 2), np.int64)), minilm, 32, folder)
    assert (len(tokenized), tokenized.n_own_tokens, tokenized.cut_share) == (0, 0, 0.0)
    assert tokenized.percentiles() == {50: 0, 90: 0, 99: 0, 100: 0}
    assert tokenized.row_lengths.tolist() == []


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1), st.integers(3, 12))
def test_any_texts_come_back_as_the_tokenizer_frames_them(
    minilm: TextTokenizer, texts: list[str], max_tokens: int
) -> None:
    dataset = Rows(tuple(texts), np.arange(len(texts))[:, None].repeat(2, axis=1))
    tokenized = tokenize_connections(dataset, minilm, max_tokens, None)
    packed = tokenized.pack_rows(np.arange(len(texts)))
    assert listed(packed) == framed(minilm, texts, max_tokens) * 2


def test_a_tokenizer_of_another_language_has_other_tokens(
    ko_vocab: Path, minilm: TextTokenizer, tmp_path: Path
) -> None:
    korean = TextTokenizer.from_pretrained(ko_vocab)
    tokenized = tokenize_connections(PAIRS, korean, 32, tmp_path)
    assert listed(tokenized.texts) == framed(korean, TEXTS, 32)
    assert listed(tokenize_connections(PAIRS, minilm, 32, tmp_path).texts) == framed(minilm, TEXTS, 32)
    assert len(list(tmp_path.glob("*.bin"))) == 2


@pytest.mark.parametrize("max_tokens", [0, 2, -5])
def test_a_length_without_room_for_a_text_is_refused(minilm: TextTokenizer, max_tokens: int) -> None:
    with pytest.raises(InputError, match=rf"max_seq_length is '{max_tokens}', expected a whole number of at least 3"):
        tokenize_connections(PAIRS, minilm, max_tokens, None)


def test_rows_of_one_text_are_their_texts(minilm: TextTokenizer, folder: Path | None) -> None:
    tokenized = tokenize_connections(rows_of((5,), (0,), (5,), (2,)), minilm, 16, folder)
    assert (len(tokenized), tokenized.n_sequences) == (4, 1)
    assert listed(tokenized.pack_rows(np.array([3, 0, 1]))) == framed(minilm, [TEXTS[i] for i in (2, 5, 0)], 16)
    assert tokenized.row_lengths.tolist() == [len(ids) for ids in framed(minilm, [TEXTS[i] for i in (5, 0, 5, 2)], 16)]
    assert (tokenized.n_cut, tokenized.n_cut_rows, tokenized.first_cut_rows) == (1, 2, (0, 2))
    assert tokenized.cut_share == 0.5
    assert tokenized.longest == tokenized.percentiles()[100] == len(framed(minilm, [TEXTS[5]], 10_000)[0])


def test_the_longest_sequence_is_that_of_a_row(minilm: TextTokenizer) -> None:
    tokenized = tokenize_connections(rows_of((0, 1), (1, 2)), minilm, 8, None)  # the longest text stands in no row
    assert tokenized.longest == max(len(ids) for ids in framed(minilm, TEXTS[:3], 100))
    assert tokenized.sequence_lengths.tolist() == [
        [len(ids) for ids in framed(minilm, TEXTS[a : a + 2], 100)] for a in (0, 1)
    ]
    assert tokenize_connections(rows_of((0, 1, 2)), minilm, 8, None).n_sequences == 3


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
    minilm: TextTokenizer, folder: Path | None, truncation: Truncation, max_tokens: int
) -> None:
    rows = rows_of(*[(a, b) for a in range(5) for b in range(5)], texts=LONG)
    tokenized = tokenize_connections(rows, minilm, max_tokens, folder, Joining(truncation))
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


def test_what_is_counted_of_joined_rows_are_rows(minilm: TextTokenizer, folder: Path | None) -> None:
    """No single text is too long for 40 tokens, but three of the four rows are."""
    texts = ["word " * 30, "word " * 20, "word " * 5]
    rows = rows_of((0, 2), (0, 1), (1, 1), (1, 0), texts=texts)
    tokenized = tokenize_connections(rows, minilm, 40, folder, Joining())
    assert (len(tokenized), tokenized.n_sequences) == (4, 1)
    assert tokenized.sequence_lengths.tolist() == [[38], [53], [43], [53]]
    assert tokenized.row_lengths.tolist() == [38, 40, 40, 40]
    assert tokenized.row_lengths.dtype == np.int64
    assert (tokenized.n_cut, tokenized.n_cut_rows, tokenized.first_cut_rows) == (3, 3, (1, 2, 3))
    assert tokenized.cut_share == 0.75
    assert tokenized.longest == 53
    assert tokenized.percentiles() == {50: 43, 90: 53, 99: 53, 100: 53}
    alone = tokenize_connections(rows, minilm, 40, folder)
    assert (alone.n_cut, alone.n_sequences, alone.longest) == (0, 2, 32)
    assert (tokenized.n_own_tokens, tokenized.n_unknown) == (alone.n_own_tokens, alone.n_unknown) == (55, 0)


def test_the_cache_does_not_depend_on_joining(minilm: TextTokenizer, tmp_path: Path) -> None:
    tokenize_connections(PAIRS, minilm, 32, tmp_path)
    before = marks(tmp_path)
    again = tokenize_connections(Unread(PAIRS.texts, PAIRS.text_rows), minilm, 32, tmp_path, Joining("only_second"))
    assert marks(tmp_path) == before
    assert listed(again.pack_rows(np.arange(4))) == listed(joined(minilm, PAIRS, 32, "only_second"))


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
    tokenized = tokenize_connections(rows, minilm, max_tokens, None, Joining(truncation))
    packed = tokenized.pack_rows(np.arange(len(rows.text_rows)))
    assert listed(packed) == listed(joined(minilm, rows, max_tokens, truncation))
    assert packed.lengths.tolist() == tokenized.row_lengths.tolist()


def test_no_rows_are_joined_to_nothing(minilm: TextTokenizer, folder: Path | None) -> None:
    tokenized = tokenize_connections(Rows((), np.zeros((0, 2), np.int64)), minilm, 32, folder, Joining())
    assert (len(tokenized), tokenized.n_sequences, tokenized.longest, tokenized.cut_share) == (0, 1, 0, 0.0)
    assert tokenized.row_lengths.tolist() == []
    assert tokenized.percentiles() == {50: 0, 90: 0, 99: 0, 100: 0}


@pytest.mark.parametrize(("row", "said"), [((0,), "1 text each"), ((0, 1, 2), "3 texts each")])
def test_rows_of_other_than_two_texts_are_not_joined(minilm: TextTokenizer, row: tuple[int, ...], said: str) -> None:
    with pytest.raises(InputError, match=f"the rows have {said}, expected two to be joined"):
        tokenize_connections(rows_of(row), minilm, 32, None, Joining())


def test_a_length_without_room_for_two_texts_is_refused(minilm: TextTokenizer) -> None:
    with pytest.raises(InputError, match="max_seq_length is '4', expected a whole number of at least 5 for two texts"):
        tokenize_connections(PAIRS, minilm, 4, None, Joining())


# ---------------------------------------------------------------- the cache


def cache_of(folder: Path) -> tuple[Path, Path]:
    """Return the two files of the only cache in a folder that holds nothing else."""
    numbers, description = sorted(folder.iterdir())
    assert (numbers.suffix, description.suffix) == (".bin", ".json")
    return numbers, description


def marks(folder: Path) -> list[tuple[int, int]]:
    return [(path.stat().st_ino, path.stat().st_mtime_ns) for path in cache_of(folder)]


class Unread(Rows):
    """Rows whose texts must not be read again."""

    def distinct_texts(self, start: int, stop: int) -> list[str]:
        raise AssertionError("the texts are tokenised again")


def test_a_cache_is_found_and_nothing_tokenised_again(minilm: TextTokenizer, minilm_path: Path, tmp_path: Path) -> None:
    first = tokenize_connections(PAIRS, minilm, 32, tmp_path)
    before = marks(tmp_path)
    again = TextTokenizer.from_pretrained(minilm_path)
    second = tokenize_connections(Unread(PAIRS.texts, PAIRS.text_rows), again, 32, tmp_path)
    assert_equal(first, second)
    assert_equal(first, tokenize_connections(PAIRS, minilm, 32, None))
    assert marks(tmp_path) == before


def test_a_cache_is_read_from_a_folder_that_cannot_be_written(minilm: TextTokenizer, tmp_path: Path) -> None:
    first = tokenize_connections(PAIRS, minilm, 32, tmp_path)
    tmp_path.chmod(0o500)
    try:
        assert_equal(first, tokenize_connections(Unread(PAIRS.texts, PAIRS.text_rows), minilm, 32, tmp_path))
    finally:
        tmp_path.chmod(0o700)


def test_other_texts_lengths_and_casing_have_caches_of_their_own(
    tiny_bert_folder: Callable[..., Path], tmp_path: Path
) -> None:
    tokenizer = TextTokenizer.from_pretrained(tiny_bert_folder(tmp_path / "model"))
    caches = tmp_path / "caches"
    for dataset, max_tokens in (
        (PAIRS, 32),
        (PAIRS, 31),
        (rows_of((0, 1)), 32),
        (rows_of((0, 1), texts=["B", "a"]), 32),
    ):
        tokenized = tokenize_connections(dataset, tokenizer, max_tokens, caches)
        assert listed(tokenized.texts) == framed(tokenizer, list(dataset.texts), max_tokens)
    assert len(list(caches.glob("*.bin"))) == len(list(caches.glob("*.json"))) == 4
    assert tokenizer.casing is not None and tokenizer.casing.do_lower_case
    tokenizer.backend.normalizer = None
    tokenized = tokenize_connections(PAIRS, tokenizer, 32, caches)
    assert listed(tokenized.texts) == framed(tokenizer, TEXTS, 32)
    assert len(list(caches.glob("*.bin"))) == 5


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "a bit of a token": lambda numbers, description: flip(numbers, 5),
    "a bit of a count": lambda numbers, description: flip(numbers, -5),
    "cut": lambda numbers, description: os.truncate(numbers, 40),
    "cut to nothing": lambda numbers, description: os.truncate(numbers, 0),
    "longer": lambda numbers, description: numbers.write_bytes(numbers.read_bytes() + b"\0\0\0\0"),
    "gone": lambda numbers, description: numbers.unlink(),
    "a pipe": lambda numbers, description: (numbers.unlink(), os.mkfifo(numbers)),
    "no JSON": lambda numbers, description: description.write_text("{"),
    "a list": lambda numbers, description: description.write_text("[]"),
    "no keys": lambda numbers, description: description.write_text("{}"),
    "words for numbers": lambda numbers, description: description.write_text(
        '{"n_tokens": "7", "key": [], "sha256": 1}'
    ),
    "another digest": lambda numbers, description: description.write_text(
        description.read_text().replace('"sha256": "', '"sha256": "0')
    ),
    "no digest": lambda numbers, description: description.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_made_anew(
    damage: str, minilm: TextTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if damage == "a pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("the system has no pipes with names")
    first = listed(tokenize_connections(PAIRS, minilm, 32, tmp_path).texts)
    whole = [path.read_bytes() for path in cache_of(tmp_path)]
    DAMAGE[damage](*cache_of(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert listed(tokenize_connections(PAIRS, minilm, 32, tmp_path).texts) == first
    assert [path.read_bytes() for path in cache_of(tmp_path)] == whole
    if damage != "no digest":  # which is how a process that was killed leaves it
        assert "is missing or damaged; the texts are tokenised again" in caplog.text


def test_files_of_others_are_left_alone(minilm: TextTokenizer, tmp_path: Path) -> None:
    (tmp_path / "tokens-mine.bin").write_text("mine")
    tokenize_connections(PAIRS, minilm, 32, tmp_path)
    assert (tmp_path / "tokens-mine.bin").read_text() == "mine"


def test_a_text_that_is_refused_leaves_no_cache(minilm: TextTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lone surrogate"):
        tokenize_connections(rows_of((0, 1), texts=["a", "b\udc00"]), minilm, 32, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_a_file_is_named(minilm: TextTokenizer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/tokens-.*the tokens of the texts cannot be written: File exists"):
        tokenize_connections(PAIRS, minilm, 32, tmp_path / "file")


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="the system cannot limit the size of a file")
@pytest.mark.parametrize("room", [0, 100, 2000])
def test_a_full_disk_is_an_error_and_leaves_nothing(minilm: TextTokenizer, tmp_path: Path, room: int) -> None:
    import resource

    texts = [f"text number {i}" for i in range(1000)]
    dataset = rows_of((0, 1), texts=texts)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OutputError) as error:
            tokenize_connections(dataset, minilm, 32, tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"{tmp_path / 'new'}{os.sep}tokens-" in str(error.value)
    assert "cannot be written: File too large; free some space, or name another folder" in str(error.value)
    assert list((tmp_path / "new").iterdir()) == []


CHILD = """
import sys, time
from pathlib import Path
import numpy as np
from sbert_ft.training.tokenized_dataset import tokenize_connections
from sbert_ft.tokenization.tokenizer import TextTokenizer

class Rows:
    n_distinct, text_rows, sha256 = 20_000, np.arange(20_000).reshape(-1, 2), sys.argv[3]

    def distinct_texts(self, start, stop):
        if start >= 15_000:
            print("more than half-way", flush=True)
            time.sleep(60)
        return [f"text number {i}" for i in range(start, stop)]

tokenize_connections(Rows(), TextTokenizer.from_pretrained(sys.argv[1]), 16, Path(sys.argv[2]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
def test_a_killed_process_leaves_nothing_that_passes_for_a_cache(minilm_path: Path, tmp_path: Path) -> None:
    dataset = Rows(tuple(f"text number {i}" for i in range(20_000)), np.arange(20_000).reshape(-1, 2))
    folder = tmp_path / "tokens"
    command = [sys.executable, "-c", CHILD, str(minilm_path), str(folder), dataset.sha256]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as process:
        assert process.stdout is not None and process.stdout.readline() == "more than half-way\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    (leftover,) = folder.iterdir()
    assert leftover.name.startswith(".sbert-ft-tokens-")
    minilm = TextTokenizer.from_pretrained(minilm_path)
    tokenized = tokenize_connections(dataset, minilm, 16, folder)
    assert listed(tokenized.texts) == framed(minilm, list(dataset.texts), 16)
    assert leftover.name == f".sbert-ft-{cache_of(folder)[0].stem}"  # of the same cache, and gone
