"""The casing that a vocabulary implies, and the ways in which a vocabulary file can be unusual or broken."""

from __future__ import annotations

import csv
import json
import os
import string
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from sbert_ft.errors import ModelFolderError
from sbert_ft.tokenization.loading import read_tokenizer
from sbert_ft.tokenization.tokenizer import TextTokenizer
from sbert_ft.tokenization.vocabulary import casing_of_vocabulary, holds_accents, holds_hangul, read_vocab

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LOWER = list(string.ascii_lowercase)
CONTINUED = [f"##{letter}" for letter in LOWER]
HANGUL = ["한", "국", "##국", "##어", "문장", "나", "##라", "가", "각"]


def indexed(tokens: Sequence[str]) -> dict[str, int]:
    """Return the id of each token: its position."""
    return {token: place for place, token in enumerate(tokens)}


def write_vocab(folder: Path, tokens: Sequence[str], settings: dict[str, object] | None = None) -> Path:
    """Write a vocab.txt, perhaps with a tokenizer_config.json, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8", newline="\n")
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def tokens_of(tokenizer: TextTokenizer, text: str) -> list[str]:
    """Return the tokens of a text as strings."""
    ids = tokenizer.tokenize([text]).token_ids.tolist()
    return [tokenizer.backend.id_to_token(i) for i in ids]


# the casing rule


def test_the_vocabulary_of_minilm_is_uncased_and_strips_accents(minilm_path: Path) -> None:
    vocab, notes = read_vocab(minilm_path / "vocab.txt")
    casing = casing_of_vocabulary(vocab)
    assert (casing.do_lower_case, casing.strip_accents, casing.tokenize_chinese_chars) == (True, True, True)
    assert not casing.form
    assert notes == ()


def test_a_letter_that_lower_casing_leaves_alone_does_not_make_a_vocabulary_cased() -> None:
    assert "ℝ".isupper() and "ℝ".lower() == "ℝ"
    assert casing_of_vocabulary(indexed([*SPECIALS, *LOWER, "ℝ", "##ℝ"])).do_lower_case


def test_the_vocabulary_of_kcbert_is_cased_and_composed(ko_vocab: Path) -> None:
    vocab, notes = read_vocab(ko_vocab / "vocab.txt")
    casing = casing_of_vocabulary(vocab)
    assert (casing.do_lower_case, casing.strip_accents, casing.form) == (False, False, "NFC")
    assert casing.source == "vocabulary"
    assert (len(vocab), notes) == (30_000, ())


def test_a_korean_vocabulary_with_lower_case_latin_is_lower_cased_with_its_hangul_whole(tmp_path: Path) -> None:
    tokens = [*SPECIALS, *LOWER, *CONTINUED, *HANGUL]
    casing = casing_of_vocabulary(indexed(tokens))
    assert (casing.do_lower_case, casing.strip_accents, casing.form) == (True, False, "NFC")
    tokenizer = TextTokenizer.from_pretrained(write_vocab(tmp_path, tokens))
    assert tokens_of(tokenizer, "Ab 한국어") == ["a", "##b", "한", "##국", "##어"]


def test_a_korean_vocabulary_without_latin_is_cased() -> None:
    casing = casing_of_vocabulary(indexed([*SPECIALS, *HANGUL]))
    assert (casing.do_lower_case, casing.strip_accents, casing.form) == (False, False, "NFC")


def test_a_french_lower_case_vocabulary_keeps_its_accents(tmp_path: Path) -> None:
    tokens = [*SPECIALS, *LOWER, *CONTINUED, "é", "##é", "été", "à"]
    casing = casing_of_vocabulary(indexed(tokens))
    assert (casing.do_lower_case, casing.strip_accents, casing.form) == (True, False, "")
    assert tokens_of(TextTokenizer.from_pretrained(write_vocab(tmp_path, tokens)), "ÉTÉ À") == ["été", "à"]


def test_a_japanese_lower_case_vocabulary_keeps_its_voiced_kana() -> None:
    assert holds_accents({"が": 0}) and not holds_accents({"か": 0, "漢": 1, "a": 2})
    assert not casing_of_vocabulary(indexed([*SPECIALS, *LOWER, "が"])).strip_accents


def test_a_cased_english_vocabulary_is_left_as_it_is(tmp_path: Path) -> None:
    tokens = [*SPECIALS, *LOWER, *CONTINUED, "Paris", "paris"]
    casing = casing_of_vocabulary(indexed(tokens))
    assert (casing.do_lower_case, casing.strip_accents, casing.form) == (False, False, "")
    tokenizer = TextTokenizer.from_pretrained(write_vocab(tmp_path, tokens))
    assert tokens_of(tokenizer, "Paris paris") == ["Paris", "paris"]


def test_bracketed_special_tokens_do_not_count_as_upper_case() -> None:
    assert casing_of_vocabulary(indexed([*SPECIALS, "[ABC]", *LOWER])).do_lower_case


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("strip", [True, False])
def test_an_explicit_tokenizer_config_wins_over_the_vocabulary(tmp_path: Path, lower: bool, strip: bool) -> None:
    for name, tokens in {"cased": [*SPECIALS, *LOWER, "A"], "uncased": [*SPECIALS, *LOWER]}.items():
        settings = {"do_lower_case": lower, "strip_accents": strip, "tokenize_chinese_chars": False}
        casing = TextTokenizer.from_pretrained(write_vocab(tmp_path / name, tokens, settings)).casing
        assert casing is not None
        assert (casing.do_lower_case, casing.strip_accents, casing.tokenize_chinese_chars) == (lower, strip, False)
        assert casing.source == "tokenizer_config.json"


def test_a_null_strip_accents_with_lower_casing_leaves_hangul_whole(tmp_path: Path) -> None:
    tokens = [*SPECIALS, *LOWER, *CONTINUED, *HANGUL]
    for strip in ({"strip_accents": None}, {}):
        folder = write_vocab(tmp_path, tokens, {"do_lower_case": True, **strip})
        tokenizer = TextTokenizer.from_pretrained(folder)
        assert tokenizer.casing is not None and tokenizer.casing.do_lower_case
        assert tokens_of(tokenizer, "한국어 ABC") == ["한", "##국", "##어", "a", "##b", "##c"]


def test_lower_casing_without_a_word_on_accents_strips_them_as_bert_does(tmp_path: Path) -> None:
    folder = write_vocab(tmp_path, [*SPECIALS, *LOWER, *CONTINUED], {"do_lower_case": True, "strip_accents": None})
    assert tokens_of(TextTokenizer.from_pretrained(folder), "É") == ["e"]


@pytest.mark.parametrize("value", ["yes", 1, [], {}])
def test_a_casing_flag_that_is_no_flag_is_refused(tmp_path: Path, value: object) -> None:
    folder = write_vocab(tmp_path, [*SPECIALS, *LOWER], {"do_lower_case": value})
    with pytest.raises(ModelFolderError, match=r"tokenizer_config\.json.*do_lower_case"):
        TextTokenizer.from_pretrained(folder)


def test_decomposed_hangul_gives_the_ids_of_composed_hangul(ko_vocab: Path) -> None:
    tokenizer = TextTokenizer.from_pretrained(ko_vocab)
    composed = ["한국어 문장입니다.", "가각갂 뷁", "A 한 B"]
    decomposed = [unicodedata.normalize("NFD", text) for text in composed]
    assert composed != decomposed
    a, b = tokenizer.tokenize(composed), tokenizer.tokenize(decomposed)
    assert a.token_ids.tolist() == b.token_ids.tolist()
    assert a.offsets.tolist() == b.offsets.tolist()
    assert tokenizer.unknown_id not in a.token_ids.tolist()[:3]


def test_the_rule_can_be_said_in_words(ko_vocab: Path) -> None:
    casing = TextTokenizer.from_pretrained(ko_vocab).casing
    assert casing is not None
    assert casing.describe() == "cased, accents kept, composed to NFC (by tokenizer_config.json)"


# files that are odd, and mean the same

ODD_TOKENS = [*SPECIALS, *LOWER, *CONTINUED, "x\u2028y", "\u0085", "\x1c", "한국"]


def as_bytes(tokens: Sequence[str], *, newline: str = "\n", bom: bool = False, tail: str | None = None) -> bytes:
    """Return the bytes of a vocabulary file with these line ends, byte order mark and last characters."""
    end = newline if tail is None else tail
    return (b"\xef\xbb\xbf" if bom else b"") + (newline.join(tokens) + end).encode()


@pytest.mark.parametrize(
    "options",
    [
        {"newline": "\r\n"},
        {"bom": True},
        {"bom": True, "newline": "\r\n"},
        {"tail": ""},
        {"newline": "\r\n", "tail": ""},
        {"tail": "\n\n\n"},
        {"newline": "\r\n", "tail": "\r\n\r\n"},
    ],
    ids=str,
)
def test_line_ends_byte_order_mark_and_blank_tail_change_no_id(tmp_path: Path, options: dict[str, object]) -> None:
    file = tmp_path / "vocab.txt"
    file.write_bytes(as_bytes(ODD_TOKENS, **options))  # type: ignore[arg-type]
    assert read_vocab(file) == (indexed(ODD_TOKENS), ())


def test_a_line_separator_inside_a_token_moves_no_id(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.from_pretrained(write_vocab(tmp_path, ["x\u2028y", "a\u0085", *SPECIALS, *LOWER]))
    assert tokenizer.tokenize(["a"]).token_ids.tolist() == [7]
    assert tokenizer.vocab_size == 7 + len(LOWER)


def test_a_link_to_a_vocabulary_is_read(tmp_path: Path) -> None:
    real = write_vocab(tmp_path / "real", [*SPECIALS, *LOWER])
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "vocab.txt").symlink_to(real / "vocab.txt")
    assert TextTokenizer.from_pretrained(tmp_path / "linked").vocab_size == len(SPECIALS) + len(LOWER)


def test_duplicates_are_noted_and_the_last_counts(tmp_path: Path) -> None:
    tokenizer = TextTokenizer.from_pretrained(write_vocab(tmp_path, [*SPECIALS, "a", "b", "a", "c", "b"]))
    assert tokenizer.tokenize(["a b c"]).token_ids.tolist() == [7, 9, 8]
    (note,) = tokenizer.notes
    assert "duplicate tokens in vocab.txt: 2, such as 'a'" in note


# files that are refused


@pytest.mark.parametrize("token", SPECIALS[:4])
def test_a_missing_special_token_is_named(tmp_path: Path, token: str) -> None:
    folder = write_vocab(tmp_path, [t for t in SPECIALS if t != token] + LOWER)
    with pytest.raises(ModelFolderError) as caught:
        TextTokenizer.from_pretrained(folder)
    assert "vocab.txt" in str(caught.value) and token in str(caught.value)


def test_a_vocabulary_without_a_mask_token_is_enough(tmp_path: Path) -> None:
    assert TextTokenizer.from_pretrained(write_vocab(tmp_path, [*SPECIALS[:4], *LOWER])).padding_id == 0


def test_other_names_of_special_tokens_are_taken_from_the_folder(tmp_path: Path) -> None:
    folder = write_vocab(tmp_path, ["<pad>", "<unk>", "<s>", "</s>", *LOWER])
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": {"content": "</s>"}}
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    tokenizer = TextTokenizer.from_pretrained(folder)
    assert (tokenizer.specials.before, tokenizer.specials.after, tokenizer.padding_id, tokenizer.unknown_id) == (
        (2,),
        (3,),
        0,
        1,
    )


GOOD = as_bytes([*SPECIALS, *LOWER])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b"\n\n\r\n", ["empty"]),
        (b"\xef\xbb\xbf", ["empty"]),
        (GOOD.decode().encode("utf-16"), ["line 1", "UTF-16"]),
        (GOOD.decode().encode("utf-16-be"), ["UTF-16"]),
        (GOOD + b"ok\n\xff\xfe\n", ["line 33", "not UTF-8", "0xff"]),
        (GOOD + "한".encode("cp949") + b"\n", ["line 32", "not UTF-8"]),
        (b"[PAD]\n[UNK]\n\n[CLS]\n[SEP]\n", ["line 3", "blank"]),
        (b"[PAD]\r\n\r\n[UNK]\r\n", ["line 2", "blank"]),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>\n", ["HTML page"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 231508\n", ["git-lfs", "git lfs pull"]),
    ],
    ids=[
        "0 bytes",
        "blank",
        "BOM alone",
        "UTF-16",
        "UTF-16-BE",
        "0xFF",
        "CP949",
        "blank line",
        "CRLF blank",
        "HTML",
        "LFS",
    ],
)
def test_a_file_that_is_no_vocabulary_is_named_with_its_cause(tmp_path: Path, content: bytes, words: list[str]) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(ModelFolderError) as caught:
        TextTokenizer.from_pretrained(tmp_path)
    assert all(word in str(caught.value) for word in ["vocab.txt", *words]), caught.value


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("make", [make_fifo, make_dangling_link, make_loop, Path.mkdir])
@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None], name: str) -> None:
    write_vocab(tmp_path, [*SPECIALS, *LOWER])
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    with pytest.raises(ModelFolderError, match=name.replace(".", r"\.")):
        TextTokenizer.from_pretrained(tmp_path)


def test_a_name_with_a_terminal_escape_is_shown_harmlessly(tmp_path: Path) -> None:
    folder = write_vocab(tmp_path / "\x1b[31mred", [""])
    with pytest.raises(ModelFolderError) as caught:
        TextTokenizer.from_pretrained(folder)
    assert "\x1b" not in str(caught.value)


# real Korean


@pytest.fixture(scope="module")
def korsts(shared_data: Path) -> dict[str, list[str]]:
    """Return the sentences of each part of KorSTS, from both columns."""
    parts = {}
    for part in ("train", "dev", "test"):
        with (shared_data / "korsts" / f"{part}.tsv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        parts[part] = [row[side] for row in rows for side in ("sentence1", "sentence2")]
    return parts


def test_korean_sentences_have_hardly_an_unknown_token_where_transformers_makes_most_unknown(
    tmp_path: Path, ko_vocab: Path, korsts: dict[str, list[str]], tiny_bert_folder: Callable[..., Path]
) -> None:
    tokens = list(read_vocab(ko_vocab / "vocab.txt")[0])
    bare = tiny_bert_folder(tmp_path / "bare", vocab=tokens, hidden_size=8, heads=2, layers=1, intermediate=8)
    assert not (bare / "tokenizer_config.json").exists()
    ours = TextTokenizer.from_pretrained(bare)
    theirs = AutoTokenizer.from_pretrained(bare)
    assert [len(texts) for texts in korsts.values()] == [11_498, 3_000, 2_758]
    for part, texts in korsts.items():
        bodies = ours.tokenize(texts)
        share = ours.count_unknown(bodies) / len(bodies.token_ids)
        ids = [i for text in theirs(texts, add_special_tokens=False)["input_ids"] for i in text]
        share_of_theirs = ids.count(theirs.unk_token_id) / len(ids)
        print(f"{part}: [UNK] {share:.4%} here, {share_of_theirs:.2%} by transformers")
        assert share < 0.005
        assert share_of_theirs > 0.3


def test_hangul_is_seen_only_where_it_is_composed() -> None:
    assert holds_hangul({"##국": 0}) and not holds_hangul({"ᄒ": 0, "ㅎ": 1, "漢": 2})


def test_a_tokenizer_with_ids_beyond_32_bits_is_refused_naming_the_file(tmp_path: Path) -> None:
    vocab = {"[UNK]": 0, "[PAD]": 1, "[CLS]": 2, "[SEP]": 3, "a": 2**31}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "vocab": vocab, "continuing_subword_prefix": "##"}
    content = {"version": "1.0", "model": {**model, "max_input_chars_per_word": 100}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json.*2\^31"):
        read_tokenizer(tmp_path, "bert")


def test_a_casing_flag_that_is_no_flag_is_refused_naming_file_and_key(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n", "utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": "no"}', "utf-8")
    with pytest.raises(ModelFolderError, match=r"tokenizer_config\.json'?: do_lower_case is 'no'"):
        read_tokenizer(tmp_path, "bert")


# sub-characters: Hangul as conjoining jamo

JAMO = [unicodedata.normalize("NFD", word) for word in ("한국", "사람", "영화")]
SINGLE = sorted({letter for word in JAMO for letter in word})
SUBCHARACTERS = [*SPECIALS, *JAMO, *SINGLE, *(f"##{letter}" for letter in SINGLE), "SK", "ㅋㅋ"]


@pytest.mark.parametrize(
    ("tokens", "form"),
    [
        (SUBCHARACTERS, "NFD"),
        (SUBCHARACTERS[:-1], "NFKD"),
        ([token for token in SUBCHARACTERS if token not in JAMO], "NFD"),
        ([*SUBCHARACTERS, "한"], "NFC"),
        ([*SPECIALS, "Café", "ᅡ"], ""),
    ],
)
def test_text_is_decomposed_as_a_vocabulary_of_jamo_is(tokens: Sequence[str], form: str) -> None:
    assert casing_of_vocabulary(indexed(tokens)).form == form


def test_syllables_and_jamo_are_the_same_words_of_a_vocabulary_of_jamo_also_when_saved(tmp_path: Path) -> None:
    folder = write_vocab(tmp_path / "source", SUBCHARACTERS)
    tokenizer = TextTokenizer.from_pretrained(folder)
    assert "decomposed to NFD" in str(tokenizer.casing and tokenizer.casing.describe())
    words = ["한국", "사람", "SK", "ㅋㅋ"]
    typed = [unicodedata.normalize("NFC", token) for token in tokens_of(tokenizer, " ".join(words))]
    assert typed == words
    assert tokens_of(tokenizer, unicodedata.normalize("NFD", "한국 사람")) == JAMO[:2]
    target = tmp_path / "saved"
    target.mkdir()
    tokenizer.save_pretrained(target, 16)
    (target / "config.json").write_text('{"model_type": "bert"}')
    text = "한국 사람 영화 SK 국한"
    ids = tokenizer.backend.encode(text).ids
    assert TextTokenizer.from_pretrained(target).backend.encode(text).ids == ids
    assert AutoTokenizer.from_pretrained(target)(text)["input_ids"] == ids
    content = json.loads((target / "tokenizer.json").read_text("utf-8"))
    content["normalizer"] = content["normalizer"]["normalizers"][1]
    (target / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    assert TextTokenizer.from_pretrained(target).backend.encode(text).ids == ids, "a file that leaves Hangul whole"
