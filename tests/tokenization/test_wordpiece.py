"""Vocabularies from texts: the same each time, whole Hangul, a stated size; and which pieces a model is given."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from sbert_ft.errors import DataError, InputError, ModelFolderError
from sbert_ft.tokenization.tokenizer import TextTokenizer
from sbert_ft.tokenization.vocabulary import Casing
from sbert_ft.tokenization.wordpiece import (
    SPECIAL_TOKENS,
    TextFigures,
    bert_tokenizer,
    check_wordpiece,
    choose_pieces,
    train_wordpiece,
)

BERT = pre_tokenizers.BertPreTokenizer()
LOWER = normalizers.BertNormalizer(strip_accents=False, lowercase=True)
ROOT = Path(__file__).resolve().parents[2]


def trained(texts: list[str], size: int = 200) -> list[str]:
    return train_wordpiece(texts, size, LOWER, BERT)


def tokenizer_of(pieces: list[str]) -> TextTokenizer:
    vocab = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *pieces])}
    return bert_tokenizer(Path("vocab.txt"), vocab, Casing(True, False, True, "", "vocabulary"))


def tokens(tokenizer: TextTokenizer, text: str) -> list[str]:
    return tokenizer.tokenize(text)


# Words of Korean syllables, most of them equally frequent: many pairs tie.
TIES = """
import hashlib, random
from tokenizers import normalizers, pre_tokenizers
from sbert_ft.tokenization.wordpiece import train_wordpiece
chosen = random.Random(3)
letters = [chr(0xAC00 + 7 * i) for i in range(300)]
texts = [" ".join("".join(chosen.choices(letters, k=4)) for _ in range(5)) for _ in range(400)] * 2
pieces = train_wordpiece(texts, 1500, normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer())
print(len(pieces), hashlib.sha256("\\n".join(pieces).encode()).hexdigest())
"""


def test_the_same_texts_give_the_same_vocabulary_whatever_the_hash_seed_and_the_threads() -> None:
    said = set()
    for threads, seed in (("1", "1"), ("4", "2"), ("3", "3")):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", TIES]
        said.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    (only,) = said
    assert only.startswith("1500 ")


def test_special_tokens_come_first_then_characters_then_pieces() -> None:
    pieces = trained(["low lower lowest", "low lower newest"] * 3)
    assert pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    single, rest = pieces[5:15], pieces[15:]
    assert single == ["e", "l", "n", "o", "r", "s", "t", "w", "##e", "##l"]
    assert {"low", "lower", "lowest", "newest"} <= set(rest)
    assert len(set(pieces)) == len(pieces)


def test_more_than_a_thousand_syllables_are_kept_whole_and_known() -> None:
    syllables = [chr(0xAC00 + 4 * i) for i in range(2_500)]
    texts = ["".join((syllables * 2)[i : i + 5]) for i in range(2_500)]
    pieces = train_wordpiece(texts, 12_000, LOWER, BERT)
    assert set(syllables) <= set(pieces)
    tokenizer = tokenizer_of(pieces[5:])
    assert TextFigures.of(tokenizer, texts).n_unknown == 0
    assert not any("\u1100" <= character <= "\u11ff" for piece in pieces for character in piece)


def test_single_characters_take_at_most_half_and_the_most_frequent_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    letters = [chr(0xAC00 + i) for i in range(200)]
    texts = ["".join(letters[: i + 1]) for i in range(200)] * 2  # the first letter is the most frequent
    with caplog.at_level(logging.INFO, logger="sbert_ft"):
        pieces = trained(texts, 104)
    single = [piece for piece in pieces[5:] if len(piece.removeprefix("##")) == 1]
    assert single == [*letters[:24], *(f"##{letter}" for letter in letters[:24])]
    (message,) = [record for record in caplog.records if "different characters" in record.message]
    assert message.levelno == logging.WARNING
    assert message.message.startswith("176 of 200 different characters are no pieces, 77.")


def test_a_piece_never_joins_what_a_left_out_character_parts() -> None:
    frequent = "abcdefghijklmnopqrstuvwxyz"
    rare = [chr(0xAC00 + i) for i in range(100)]
    texts = [f"x{letter}y" for letter in rare] + [letter * 2 for letter in frequent] * 50
    pieces = trained(texts, 110)
    assert not any("xy" in piece for piece in pieces)
    assert not set(rare) & set(pieces)


def test_rare_characters_are_left_out_only_where_characters_take_a_tenth(caplog: pytest.LogCaptureFixture) -> None:
    texts = ["한국어 문장 abc"] * 5_000 + ["뷁"]
    assert "뷁" in trained(texts, 1_000)
    assert "뷁" not in trained(texts, 100)


def test_punctuation_and_han_characters_have_no_piece_within_words() -> None:
    pieces = trained(["a.b, 漢字 c! 😀😀"] * 3)
    assert {".", ",", "漢", "!", "😀", "##😀"} <= set(pieces)
    assert not {"##.", "##,", "##漢", "##!"} & set(pieces)


def test_fewer_pieces_come_where_the_texts_give_no_more() -> None:
    pieces = trained(["ab ab", "cd"], 500)
    assert pieces == [*SPECIAL_TOKENS, "a", "b", "c", "d", "##a", "##b", "##c", "##d", "ab"]


class ReadAnew:
    """Texts whose file is gone at the second reading."""

    n_readings = 0

    def __iter__(self) -> Iterator[str]:
        self.n_readings += 1
        for i in range(3_000):
            if self.n_readings == 2 and i == 2_000:
                raise DataError("changed while it was read")
            yield f"word {i}"


def test_an_error_of_the_second_reading_keeps_its_type_and_words() -> None:
    with pytest.raises(DataError, match="changed while it was read"):
        train_wordpiece(ReadAnew(), 100, LOWER, BERT)


@pytest.mark.parametrize(
    ("texts", "size", "expected"),
    [
        ("texts.txt", 100, "texts is of type str, expected a list of texts"),
        (iter(["a"]), 100, "texts is of type list_iterator, expected a list"),
        (["a", 3], 100, r"text at position 1 is '3' \(int\), expected a string"),
        (["a", "b\ud800"], 100, "text at position 1 holds the lone surrogate"),
        ([" ", "\t"], 100, "the texts hold no word"),
        ([], 100, "the texts hold no word"),
        (["a"], 63, "size is '63', expected a whole number from 64"),
        (["a"], 100.0, "size is '100.0', expected a whole number"),
        (["a"], True, "size is 'True', expected a whole number"),
    ],
)
def test_what_cannot_be_trained_on_is_one_sentence(texts: object, size: object, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        train_wordpiece(texts, size, LOWER, BERT)  # type: ignore[arg-type]


# ---------------------------------------------------------------- pieces for a model

LETTERS = [*"abcdefgh", *(f"##{letter}" for letter in "abcdefgh")]


def test_pieces_are_chosen_by_the_tokens_they_save() -> None:
    """Counted by hand: "abc" is 3 tokens in 10 places and saves 20, "de" is 2 tokens in 15 and saves 15."""
    texts = ["abc abc"] * 5 + ["de de de"] * 5 + ["fg"] * 2
    first, second = choose_pieces(tokenizer_of(LETTERS), texts, 2)
    assert (first.token, first.n_saved) == ("abc", 20)
    assert (second.token, second.n_saved) == ("de", 15)
    ids = {token: 5 + i for i, token in enumerate(LETTERS)}
    assert first.made_of == (ids["a"], ids["##b"], ids["##c"])
    assert second.made_of == (ids["d"], ids["##e"])


def test_parts_of_longer_pieces_are_not_chosen_though_they_are_merged_first() -> None:
    texts = ["abcdefgh"] * 30 + ["hgfedcba"] * 20
    before = tokenizer_of(LETTERS)
    assert len(next(piece for piece in trained(texts) if piece not in before.get_vocab()).removeprefix("##")) == 2
    found = choose_pieces(before, texts, 2)
    assert [(piece.token, piece.n_saved) for piece in found] == [("abcdefgh", 30 * 7), ("hgfedcba", 20 * 7)]


def test_fewer_pieces_are_chosen_where_no_other_saves_tokens() -> None:
    assert [piece.token for piece in choose_pieces(tokenizer_of(LETTERS), ["abc abc", "de"], 50)] == ["abc"]
    assert choose_pieces(tokenizer_of([*LETTERS, "abc"]), ["abc abc", "de"], 50) == []


def test_unknown_characters_come_first_in_half_of_the_pieces() -> None:
    before = tokenizer_of(LETTERS)
    texts = ["a한 a한 a글 abc abc abc"] * 2
    pieces = choose_pieces(before, texts, 4)
    assert [piece.token for piece in pieces[:2]] == ["##한", "##글"]
    assert [piece.made_of for piece in pieces[:2]] == [(1,), (1,)]
    assert {piece.token for piece in pieces[2:]} == {"abc", "a한"}
    assert {piece.token: piece.made_of for piece in pieces}["a한"] == (before.get_vocab()["a"], 1)
    after = before.with_pieces([piece.token for piece in pieces])
    assert [TextFigures.of(tokenizer, texts).n_unknown for tokenizer in (before, after)] == [6, 0]


def test_no_text_gets_an_unknown_token_that_it_did_not_have() -> None:
    """Without ##c, the new piece ab would leave a rest of abc that cannot be spelled."""
    before = tokenizer_of(["a", "b", "##b", "##bc", "ad", "##d"])
    texts = ["ab ab ab ab"]
    assert tokens(before, "abc") == ["a", "##bc"]
    assert tokens(before.with_pieces(["ab"]), "abc") == ["[UNK]"]
    pieces = [piece.token for piece in choose_pieces(before, texts, 3)]
    assert pieces == ["##c", "ab"]
    assert tokens(before.with_pieces(pieces), "abc") == ["ab", "##c"]
    with pytest.raises(InputError, match=r"lacks 2 single characters such as '##c'.*only 1 pieces.*add 2 or more"):
        choose_pieces(tokenizer_of(["a", "##b", "##bc", "##d", "ade"]), texts, 1)


def test_old_pieces_keep_their_ids_and_added_tokens_too() -> None:
    before = tokenizer_of(LETTERS)
    before.backend.add_tokens(["<url>"])
    before.vocab_size += 1
    after = before.with_pieces(["abc", "##gh"])
    old = before.get_vocab()
    assert after.get_vocab() == {**old, "abc": len(old), "##gh": len(old) + 1}
    assert tokens(after, "abcgh <url> [MASK]") == ["abc", "##gh", "<url>", "[MASK]"]
    assert tokens(before, "abc")[0] == "a"  # the old tokenizer is as it was


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(["[UNK]", "a"])}, [], unk_token="[UNK]"))
    tokenizer = tokenizer_of(LETTERS)
    tokenizer.backend = backend
    with pytest.raises(ModelFolderError, match=r"'vocab.txt' is of a tokenizer of the kind BPE, expected WordPiece"):
        check_wordpiece(tokenizer)


def test_figures_count_words_between_white_space() -> None:
    figures = TextFigures.of(tokenizer_of(LETTERS), ["abc x", "a.b  d"])
    assert figures == TextFigures(n_pieces=21, n_texts=2, n_words=4, n_unknown=2, n_tokens=3 + 1 + 3 + 1)
    assert figures.cells() == ("21", "50.00 %", "4.00", "2.00")


def test_korean_reviews_keep_a_vocabulary_of_whole_syllables(shared_data: Path) -> None:
    rows = (shared_data / "nsmc" / "train.txt").read_text("utf-8").split("\n")[1:20_001]
    texts = [row.split("\t")[1] for row in rows]
    pieces = train_wordpiece(texts[:19_000], 8_000, LOWER, BERT)
    tokenizer = tokenizer_of(pieces[5:])
    figures = TextFigures.of(tokenizer, texts[19_000:])
    assert len(pieces) == 8_000
    assert figures.n_unknown < 0.01 * figures.n_words
    assert figures.n_tokens < 0.7 * sum(len(text.replace(" ", "")) for text in texts[19_000:])
    digests = Counter(
        hashlib.sha256("\n".join(p).encode()).hexdigest() for p in (pieces, trained(texts[:19_000], 8_000))
    )
    assert len(digests) == 1
