"""Raw texts as tokens: blocks, pairs of segments as a slow reference makes them, and tokens beyond the memory limit."""

from __future__ import annotations

import csv
import gc
import itertools
import math
import os
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import make_bert_folder
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from warm import WarmProcess

from sbert_ft.data.corpus import TextCorpus
from sbert_ft.errors import InputError, OutputError
from sbert_ft.models import tokenized_corpus
from sbert_ft.models.tokenized_corpus import TokenizedCorpus, tokenize_corpus
from sbert_ft.tokenization.masking import Masker
from sbert_ft.tokenization.text_tokens import TextTokens
from sbert_ft.tokenization.tokenizer import TextTokenizer

SIGMAS = 5.0
WITHOUT_TOKENS = "\ufffd"  # is removed by BERT's normalizer
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    """Return a tokenizer for which a word of one letter is a token."""
    return TextTokenizer.from_pretrained(make_bert_folder(tmp_path_factory.mktemp("letters") / "model"))


@pytest.fixture(scope="module")
def minilm(minilm_path: Path) -> TextTokenizer:
    return TextTokenizer.from_pretrained(minilm_path)


@pytest.fixture(scope="module")
def sentences(shared_data: Path) -> list[str]:
    with (shared_data / "stsb" / "train.csv").open(encoding="utf-8", newline="") as file:
        return [row[side] for row in csv.DictReader(file) for side in ("sentence1", "sentence2")]


def text_of(n_tokens: int, first: int) -> str:
    """Return a text of so many tokens; those of neighbouring texts differ."""
    return " ".join(LETTERS[(first + i) % 26] for i in range(n_tokens)) if n_tokens else WITHOUT_TOKENS


def corpus_of(documents: list[list[int]]) -> TextCorpus:
    """Return a corpus of documents of texts with these numbers of tokens."""
    texts: list[str] = []
    for document in documents:
        texts += [text_of(n, 7 * len(texts) + i) for i, n in enumerate(document)]
        texts.append("")
    return TextCorpus.from_texts(texts)


def documents_of(texts: list[str], low: int, high: int) -> TextCorpus:
    """Return these texts in documents of `low` to `high` of them, in another order."""
    draw, rest = random.Random(0), texts.copy()
    draw.shuffle(rest)
    found: list[str] = []
    while rest:
        n = draw.randint(low, high)
        found += [*rest[:n], ""]
        rest = rest[n:]
    return TextCorpus.from_texts(found)


def sequences(tokens: TextTokens) -> list[list[int]]:
    return [tokens.token_ids[a:b].tolist() for a, b in itertools.pairwise(tokens.offsets)]


def unmasked(
    corpus: TokenizedCorpus, rows: NDArray[np.int64], seed: int = 0
) -> tuple[TextTokens, NDArray[np.int64] | None]:
    """Return rows as they are drawn, with every token put back."""
    masked = corpus.draw(rows, Masker(corpus.tokenizer), np.random.default_rng(seed))
    masked.tokens.token_ids[masked.places] = masked.labels
    return masked.tokens, masked.second


# ---------------------------------------------------------------- blocks


def blocks_slowly(lengths: list[int], room: int) -> list[tuple[int, int, int]]:
    """Return for each block its text, and where in the text it begins and ends."""
    found = []
    for text, length in enumerate(lengths):
        n_blocks = math.ceil(length / room)
        bounds = [length * i // n_blocks for i in range(n_blocks + 1)] if n_blocks else []
        found += [(text, begin, end) for begin, end in itertools.pairwise(bounds)]
    return found


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(3, 20))
def test_blocks_have_every_token_once_and_never_two_texts(
    letters: TextTokenizer, lengths: list[int], max_tokens: int
) -> None:
    corpus = tokenize_corpus(corpus_of([lengths]), letters, max_tokens)
    texts = sequences(letters.tokenize([text_of(n, i) for i, n in enumerate(lengths)]))
    assert [len(text) for text in texts] == lengths
    expected = [
        [*letters.specials.before, *texts[text][begin:end], *letters.specials.after]
        for text, begin, end in blocks_slowly(lengths, max_tokens - 2)
    ]
    rows = np.arange(len(corpus))
    assert sequences(unmasked(corpus, rows)[0]) == expected
    assert corpus.row_lengths.tolist() == [len(block) for block in expected]
    assert all(len(block) <= max_tokens for block in expected)
    assert corpus.row_lines.tolist() == [text for text, _, _ in blocks_slowly(lengths, max_tokens - 2)]
    by_text = itertools.groupby(zip(corpus.row_lines, corpus.row_lengths, strict=True), key=lambda row: row[0])
    assert all(max(sizes) - min(sizes) <= 1 for sizes in ([int(n) for _, n in rows] for _, rows in by_text))
    assert (corpus.n_own_tokens, corpus.n_cut) == (sum(lengths), sum(n > max_tokens - 2 for n in lengths))
    assert corpus.percentiles()[100] == max(lengths) + 2
    backwards = sequences(unmasked(corpus, rows[::-1])[0])
    assert backwards == expected[::-1]


def test_real_texts_come_back_whole_from_their_blocks(minilm: TextTokenizer, sentences: list[str]) -> None:
    texts = [*sentences[:2000], " ".join(sentences[:200])]
    corpus = tokenize_corpus(TextCorpus.from_texts(texts), minilm, 64)
    blocks = sequences(unmasked(corpus, np.arange(len(corpus)))[0])
    joined: dict[int, list[int]] = {}
    for line, block in zip(corpus.row_lines.tolist(), blocks, strict=True):
        assert (block[0], block[-1]) == (*minilm.specials.before, *minilm.specials.after)
        joined.setdefault(line, []).extend(block[1:-1])
    assert list(joined.values()) == sequences(minilm.tokenize(texts))
    assert corpus.n_cut == 1 and 60 < max(map(len, blocks)) <= 64
    assert "1 cut into blocks of up to 64" in corpus.describe_cut()


def test_unknown_tokens_are_counted_with_some_of_their_texts(minilm: TextTokenizer) -> None:
    corpus = tokenize_corpus(TextCorpus.from_texts(["the 🜚 dog 🜛", "", "a cat", "🜚"]), minilm, 16)
    assert (corpus.n_unknown, corpus.unknown_texts) == (3, ("the 🜚 dog 🜛", "🜚"))


def test_texts_without_a_token_have_no_row(letters: TextTokenizer) -> None:
    corpus = tokenize_corpus(corpus_of([[0, 0], [0]]), letters, 8)
    assert (len(corpus), corpus.n_own_tokens, corpus.row_lengths.tolist()) == (0, 0, [])
    assert len(corpus.draw(np.arange(0), Masker(letters), np.random.default_rng(0))) == 0


@pytest.mark.parametrize(("in_pairs", "length", "least"), [(False, 2, 3), (True, 4, 5)])
def test_a_length_without_room_for_tokens_is_refused(
    letters: TextTokenizer, in_pairs: bool, length: int, least: int
) -> None:
    documents = corpus_of([[2, 2], [2, 2]])
    with pytest.raises(InputError, match=f"max_seq_length is '{length}', expected a whole number of at least {least}"):
        tokenize_corpus(documents, letters, length, in_pairs)
    corpus = tokenize_corpus(documents, letters, least, in_pairs)
    assert unmasked(corpus, np.arange(len(corpus)))[0].lengths.max() == least


# ---------------------------------------------------------------- pairs of segments


def groups_slowly(documents: list[list[int]], room: int) -> list[tuple[int, int]]:
    """Return the texts of each group, as its first one and the one after its last."""
    found, text = [], 0
    for lengths in documents:
        last = text + len(lengths)
        n_of = dict(zip(range(text, last), lengths, strict=True))
        while last - text >= 2:
            end, n_tokens = text + 1, n_of[text]
            while end < last and (n_tokens < room or end < text + 2):
                n_tokens += n_of[end]
                end += 1
            end = last if last - end == 1 else end
            found.append((text, end))
            text = end
        text = last
    return found


DOCUMENTS = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=7), min_size=2, max_size=6)


@given(DOCUMENTS, st.integers(5, 24))
def test_groups_are_consecutive_texts_of_a_document_that_fill_the_room(
    letters: TextTokenizer, documents: list[list[int]], max_tokens: int
) -> None:
    expected = groups_slowly(documents, max_tokens - 3)
    if not expected:
        with pytest.raises(InputError, match="two or more documents of several texts"):
            tokenize_corpus(corpus_of(documents), letters, max_tokens, in_pairs=True)
        return
    corpus = tokenize_corpus(corpus_of(documents), letters, max_tokens, in_pairs=True)
    assert list(zip(corpus.begins.tolist(), corpus.ends.tolist(), strict=True)) == expected
    assert corpus.n_left_out == sum(len(document) == 1 for document in documents)
    in_groups = sorted(text for begin, end in expected for text in range(begin, end))
    alone = [i for i, n in enumerate(n for d in documents for n in [len(d)] * len(d)) if n == 1]
    assert sorted([*in_groups, *alone]) == list(range(sum(map(len, documents))))


@given(DOCUMENTS.filter(lambda documents: max(map(len, documents)) > 1), st.integers(5, 24), st.integers(0, 9))
def test_the_second_segment_goes_on_where_the_first_ends_or_is_of_another_document(
    letters: TextTokenizer, documents: list[list[int]], max_tokens: int, seed: int
) -> None:
    corpus = tokenize_corpus(corpus_of(documents), letters, max_tokens, in_pairs=True)
    # so that a token says where it stood
    flat = np.arange(1000, 1000 + corpus.n_own_tokens, dtype=np.int32)
    corpus = TokenizedCorpus(**{**vars(corpus), "token_ids": flat})
    rows = np.tile(np.arange(len(corpus)), 8)
    tokens, second = corpus._pairs(rows, np.random.default_rng(seed))
    assert tokens.token_types is not None
    document_of = np.repeat(np.arange(len(documents)), [sum(lengths) for lengths in documents])
    text_ends = set(corpus.offsets.tolist())
    before, between, after = letters.pair_specials.gaps
    for i, row in enumerate(rows.tolist()):
        ids = tokens.token_ids[tokens.offsets[i] : tokens.offsets[i + 1]]
        types = tokens.token_types[tokens.offsets[i] : tokens.offsets[i + 1]]
        assert len(ids) <= max_tokens
        a, b = ids[types == 0], ids[types == 1]
        assert (a[:1].tolist(), a[-1:].tolist(), b[-1:].tolist()) == (list(before), list(between), list(after))
        first, follows = a[1:-1] - 1000, b[:-1] - 1000
        assert len(first) and len(follows)
        for segment in (first, follows):
            assert (np.diff(segment) == 1).all() and len(set(document_of[segment])) == 1
        assert int(first[-1]) + 1 in text_ends and int(follows[0]) in text_ends
        begin, end = corpus.offsets[corpus.begins[row]], corpus.offsets[corpus.ends[row]]
        assert begin <= first[0] and first[-1] < end
        if second[i] == 0:
            assert follows[0] == first[-1] + 1 and follows[-1] < end
            whole = end - begin <= max_tokens - 3
            assert not whole or (first[0] == begin and follows[-1] == end - 1)
        else:
            assert document_of[follows[0]] != document_of[first[0]]


def test_half_of_the_pairs_follow_and_splits_are_drawn_evenly(letters: TextTokenizer) -> None:
    corpus = tokenize_corpus(corpus_of([[2, 2, 2, 2], [3, 3, 3, 3], [1, 1]]), letters, 32, in_pairs=True)
    n = 4000
    rows = np.zeros(n, np.int64)
    tokens, second = corpus._pairs(rows, np.random.default_rng(0))
    assert abs(int(second.sum()) - n / 2) <= SIGMAS * math.sqrt(n / 4)
    assert tokens.token_types is not None
    firsts = (np.add.reduceat(tokens.token_types == 0, tokens.offsets[:-1]) - 2) // 2
    for n_texts in (1, 2, 3):
        assert abs(int((firsts == n_texts).sum()) - n / 3) <= SIGMAS * math.sqrt(n * 2 / 9)
    _, other = corpus._pairs(rows, np.random.default_rng(1))
    assert 0 < int((second != other).sum()) < n


def test_every_other_document_is_taken_as_often(letters: TextTokenizer) -> None:
    corpus = tokenize_corpus(corpus_of([[4, 4]] * 5), letters, 32, in_pairs=True)
    corpus = TokenizedCorpus(**{**vars(corpus), "token_ids": np.arange(40, dtype=np.int32) + 1000})
    tokens, second = corpus._pairs(np.full(6000, 2), np.random.default_rng(0))
    taken = (tokens.token_ids[tokens.offsets[1:] - 2] - 1000)[second == 1] // 8
    counts = np.bincount(taken, minlength=5)
    assert counts[2] == 0
    n = int(counts.sum())
    assert all(abs(int(count) - n / 4) <= SIGMAS * math.sqrt(n * 3 / 16) for count in counts[[0, 1, 3, 4]])


@pytest.mark.parametrize(("low", "high", "length"), [(3, 12, 128), (30, 60, 128), (30, 60, 40)])
def test_lengths_do_not_tell_which_segments_follow(
    minilm: TextTokenizer, sentences: list[str], low: int, high: int, length: int
) -> None:
    corpus = tokenize_corpus(documents_of(sentences[:6000], low, high), minilm, length, in_pairs=True)
    rows = np.tile(np.arange(len(corpus)), 6)
    tokens, second = corpus._pairs(rows, np.random.default_rng(0))
    assert tokens.token_types is not None
    lengths = np.add.reduceat(tokens.token_types.astype(np.int64), tokens.offsets[:-1]) - 1
    own, other = lengths[second == 0], lengths[second == 1]
    error = math.sqrt(own.var() / len(own) + other.var() / len(other))
    # a document that is shorter than what it stands for makes those from elsewhere a little shorter
    assert abs(own.mean() - other.mean()) <= 0.08 * own.mean() + SIGMAS * error
    assert tokens.lengths.max() == length


def test_too_few_documents_are_refused_with_what_to_do(letters: TextTokenizer) -> None:
    for documents in ([[5, 5, 5]], [[5], [5], [5]], [[5]]):
        with pytest.raises(InputError, match=r"end each document with an empty line.*data\.document_column"):
            tokenize_corpus(corpus_of(documents), letters, 16, in_pairs=True)
    # a single text may stand for another document
    assert len(tokenize_corpus(corpus_of([[5, 5], [5]]), letters, 16, in_pairs=True)) == 1


def test_texts_without_a_token_within_documents_do_no_harm(letters: TextTokenizer) -> None:
    corpus = tokenize_corpus(corpus_of([[0, 3, 0, 4], [0, 0], [5, 0], [0]]), letters, 9, in_pairs=True)
    for seed in range(50):
        tokens, second = corpus._pairs(np.arange(len(corpus)), np.random.default_rng(seed))
        assert len(tokens) == len(second) == len(corpus) and tokens.lengths.max() <= 9


# ---------------------------------------------------------------- tokens beyond the memory limit


def open_temporary_files() -> list[str]:
    targets = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [where for path in targets if os.path.lexists(path) and "sbert-ft-tokens" in (where := os.readlink(path))]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="open files are listed by Linux's /proc")
def test_many_tokens_go_to_a_temporary_file_and_are_the_same(
    minilm: TextTokenizer, sentences: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = documents_of(sentences, 5, 9)
    in_memory = tokenize_corpus(texts, minilm, 64, in_pairs=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for limit in (0, 400_000):  # the first window of texts still fits the second limit
        monkeypatch.setattr(tokenized_corpus, "_MOST_IN_MEMORY", limit)
        in_file = tokenize_corpus(texts, minilm, 64, in_pairs=True)
        assert isinstance(in_file.token_ids, np.memmap) and not isinstance(in_memory.token_ids, np.memmap)
        assert not in_file.token_ids.flags.writeable
        for name in ("token_ids", "offsets", "documents", "begins", "ends", "row_lines"):
            assert np.array_equal(getattr(in_file, name), getattr(in_memory, name)), name
        assert list(tmp_path.iterdir()) == []  # it has no name
        del in_file
        gc.collect()
        assert not open_temporary_files()


FULL = """
import resource, sys
from pathlib import Path
from sbert_ft.data.corpus import TextCorpus
from sbert_ft.errors import OutputError
from sbert_ft.models import tokenized_corpus
from sbert_ft.tokenization.tokenizer import TextTokenizer
tokenizer = TextTokenizer.from_pretrained(sys.argv[1])
tokenized_corpus._MOST_IN_MEMORY = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
try:
    tokenized_corpus.tokenize_corpus(TextCorpus.from_texts(["a b c d e"] * 20_000), tokenizer, 16)
except OutputError as error:
    sys.exit(f"said: {error}")
"""


@pytest.mark.parametrize("limit", [1000, 399_999])
def test_a_full_disk_is_one_sentence(warm: WarmProcess, letters: TextTokenizer, limit: int) -> None:
    ended = warm.script(FULL, letters.files[0].parent, limit)
    assert ended.code == 1 and "Traceback" not in ended.said, ended.said
    assert "said: the tokens of the texts cannot be written to a temporary file in '" in ended.said
    assert "File too large" in ended.said and "TMPDIR" in ended.said


def test_no_folder_for_temporary_files_is_one_sentence(
    letters: TextTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenized_corpus, "_MOST_IN_MEMORY", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match=r"gone': No such file or directory.*TMPDIR"):
        tokenize_corpus(corpus_of([[3]]), letters, 16)
