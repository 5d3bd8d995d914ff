"""Texts to token ids: ids as in transformers, cuts, windows with every token, and texts of every kind."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import string
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import default_vocabulary, make_bert_folder
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, RobertaTokenizer

from sbert_ft import SiameseBert
from sbert_ft.errors import InputError, ModelFolderError
from sbert_ft.tokenization.text_tokens import TextTokens
from sbert_ft.tokenization.tokenizer import TextTokenizer

ODD_TEXTS = [
    "",
    " ",
    "\n\t ",
    "a",
    "Hello World, naïve CAFÉ!",
    "한국어 문장입니다",
    unicodedata.normalize("NFD", "한국어 é"),
    "👩‍👩‍👧‍👦 family 🏳️‍🌈",
    "שלום עולם مرحبا \u202eabc",
    "z̶̧̢̛͔a̷̡̛l̴̢̛g̸o",
    "\ue000\uf8ff private \U0010ffff",
    "\x00\x01null and \x1b[31mcontrol",
    "漢字とかな が",
    "\u200b\u3000\ufeffzero width",
    "supercalifragilisticexpialidocious" * 4,
    "x" * 101,
    "ÀÉ ẞ İ ı ǅ ℝ ﬁ ①",
]
# A special token in a text is taken for one, as in transformers.
SPECIAL_TEXTS = ["[SEP]", "a [SEP] b", "[CLS] [PAD] [MASK] [UNK]", "x[SEP]y", "[sep]", "[ SEP ]"]


def rows_of(tokens: TextTokens) -> list[list[int]]:
    """Return the token ids of each text as a list."""
    return [ids.tolist() for ids in np.split(tokens.token_ids, tokens.offsets[1:-1])] if len(tokens) else []


def ours(tokenizer: TextTokenizer, texts: list[str], max_tokens: int = 512) -> list[list[int]]:
    """Return the token ids of each text with special tokens, cut at `max_tokens`."""
    return rows_of(tokenizer.frame(tokenizer.tokenize(texts), max_tokens))


def theirs(tokenizer: PreTrainedTokenizerBase, texts: list[str], max_tokens: int = 512) -> list[list[int]]:
    """Return the same token ids from transformers."""
    ids: list[list[int]] = tokenizer(texts, truncation=True, max_length=max_tokens)["input_ids"]
    return ids


@pytest.fixture(scope="module")
def minilm(minilm_path: Path) -> TextTokenizer:
    return TextTokenizer.from_pretrained(minilm_path)


@pytest.fixture(scope="module")
def minilm_of_transformers(minilm_path: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(minilm_path)
    return tokenizer


@pytest.fixture(scope="module")
def cased_json(minilm_path: Path) -> dict[str, Any]:
    """Return MiniLM's tokenizer.json as if it were cased."""
    content: dict[str, Any] = json.loads((minilm_path / "tokenizer.json").read_text())
    content["normalizer"] |= {"lowercase": False, "strip_accents": False}
    return content


def make_folder(folder: Path, **files: object) -> Path:
    """Write files into a folder: `vocab__txt` is vocab.txt; a path is copied, anything else is JSON."""
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    for name, content in files.items():
        place = folder / name.replace("__", ".")
        if isinstance(content, Path):
            shutil.copy(content, place)
        else:
            place.write_text(json.dumps(content))
    return folder


# the same ids as transformers


def test_real_sentences_get_the_ids_of_transformers(
    minilm: TextTokenizer, minilm_of_transformers: PreTrainedTokenizerBase, stsb_sentences: list[str]
) -> None:
    assert ours(minilm, stsb_sentences) == theirs(minilm_of_transformers, stsb_sentences)


def test_odd_texts_get_the_ids_of_transformers(
    minilm: TextTokenizer, minilm_of_transformers: PreTrainedTokenizerBase
) -> None:
    texts = ODD_TEXTS + SPECIAL_TEXTS
    assert ours(minilm, texts) == theirs(minilm_of_transformers, texts)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=8))
def test_any_text_gets_the_ids_of_transformers(
    minilm: TextTokenizer, minilm_of_transformers: PreTrainedTokenizerBase, texts: list[str]
) -> None:
    assert ours(minilm, texts) == (theirs(minilm_of_transformers, texts) if texts else [])


KINDS_OF_FOLDER: dict[str, Callable[[Path, dict[str, Any]], dict[str, object]]] = {
    "tokenizer.json": lambda m, _: {"tokenizer__json": m / "tokenizer.json"},
    "vocab.txt": lambda m, _: {"vocab__txt": m / "vocab.txt"},
    "both": lambda m, _: {"vocab__txt": m / "vocab.txt", "tokenizer__json": m / "tokenizer.json"},
    "all": lambda m, _: {
        "vocab__txt": m / "vocab.txt",
        "tokenizer__json": m / "tokenizer.json",
        "tokenizer_config__json": m / "tokenizer_config.json",
        "special_tokens_map__json": m / "special_tokens_map.json",
    },
    "PreTrainedTokenizerFast": lambda m, _: {
        "tokenizer__json": m / "tokenizer.json",
        "tokenizer_config__json": {"tokenizer_class": "PreTrainedTokenizerFast"},
    },
    "PreTrainedTokenizerFast, cased": lambda m, cased: {
        "tokenizer__json": cased,
        "tokenizer_config__json": {"tokenizer_class": "PreTrainedTokenizerFast"},
    },
    "vocab.txt, cased by its settings": lambda m, _: {
        "vocab__txt": m / "vocab.txt",
        "tokenizer_config__json": {"do_lower_case": False},
    },
    "tokenizer.json, cased, and its settings": lambda m, cased: {
        "tokenizer__json": cased,
        "tokenizer_config__json": {"tokenizer_class": "BertTokenizer", "do_lower_case": False},
    },
}


@pytest.mark.parametrize("kind", KINDS_OF_FOLDER)
def test_every_kind_of_folder_gives_the_ids_of_transformers(
    tmp_path: Path, minilm_path: Path, cased_json: dict[str, Any], kind: str
) -> None:
    folder = make_folder(tmp_path / "model", **KINDS_OF_FOLDER[kind](minilm_path, cased_json))
    tokenizer = TextTokenizer.from_pretrained(folder)
    texts = ODD_TEXTS + SPECIAL_TEXTS
    assert ours(tokenizer, texts) == theirs(AutoTokenizer.from_pretrained(folder), texts)
    assert tokenizer.notes == ()


@pytest.mark.parametrize(
    ("settings", "cased", "keys", "counts"),
    [
        (
            {"tokenizer_class": "BertTokenizer", "do_lower_case": False},
            False,
            "do_lower_case, strip_accents",
            "_config",
        ),
        ({"tokenizer_class": "BertTokenizerFast", "do_lower_case": True}, True, "do_lower_case", "_config"),
        ({"do_lower_case": True}, True, "do_lower_case", "_config"),
        ({"tokenizer_class": "DistilBertTokenizer", "do_lower_case": True}, True, "do_lower_case", "_config"),
        ({"tokenizer_class": "ElectraTokenizer", "do_lower_case": False}, False, "do_lower_case", "_config"),
        ({"strip_accents": False}, False, "strip_accents", "_config"),
        ({"tokenize_chinese_chars": False}, False, "tokenize_chinese_chars", "_config"),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": False}, False, "do_lower_case", ""),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True}, True, "do_lower_case", ""),
    ],
    ids=str,
)
def test_conflicting_casing_is_noted_and_settled_as_in_transformers(
    tmp_path: Path,
    minilm_path: Path,
    cased_json: dict[str, Any],
    settings: dict[str, object],
    cased: bool,
    keys: str,
    counts: str,
) -> None:
    written = cased_json if cased else minilm_path / "tokenizer.json"
    folder = make_folder(tmp_path / "model", tokenizer__json=written, tokenizer_config__json=settings)
    tokenizer = TextTokenizer.from_pretrained(folder)
    (note,) = tokenizer.notes
    assert f"disagree on {keys}" in note and note.endswith(f"tokenizer{counts}.json is used")
    assert ours(tokenizer, ODD_TEXTS) == theirs(AutoTokenizer.from_pretrained(folder), ODD_TEXTS)


def test_a_cased_tokenizer_json_without_settings_stays_cased(tmp_path: Path, cased_json: dict[str, Any]) -> None:
    tokenizer = TextTokenizer.from_pretrained(make_folder(tmp_path / "model", tokenizer__json=cased_json))
    assert tokenizer.casing is not None and not tokenizer.casing.do_lower_case
    assert tokenizer.casing.source == "tokenizer.json"


def test_a_folder_without_a_tokenizer_is_refused_with_what_lies_there(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"no tokenizer: expected vocab\.txt or tokenizer\.json.*config\.json"):
        TextTokenizer.from_pretrained(make_folder(tmp_path / "model"))


@pytest.mark.parametrize(
    "content",
    [{}, {"model": None}, {"model": {"type": "WordPiece"}}, {"model": {"type": "Magic", "vocab": {}}}, {"version": 9}],
    ids=str,
)
def test_a_tokenizer_json_that_is_none_is_refused(tmp_path: Path, content: dict[str, object]) -> None:
    with pytest.raises(ModelFolderError, match=r"tokenizer\.json"):
        TextTokenizer.from_pretrained(make_folder(tmp_path / "model", tokenizer__json=content))


@pytest.mark.parametrize("lost", ["[UNK]", "[PAD]"])
def test_a_tokenizer_json_that_lacks_a_special_token_is_refused(tmp_path: Path, minilm_path: Path, lost: str) -> None:
    content = json.loads((minilm_path / "tokenizer.json").read_text())
    del content["model"]["vocab"][lost]
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != lost]
    with pytest.raises(ModelFolderError, match="tokenizer"):
        TextTokenizer.from_pretrained(make_folder(tmp_path / "model", tokenizer__json=content))


def test_truncation_and_padding_in_a_tokenizer_json_do_not_cut_in_silence(tmp_path: Path, minilm_path: Path) -> None:
    content = json.loads((minilm_path / "tokenizer.json").read_text())
    assert content["truncation"] and content["padding"]
    tokenizer = TextTokenizer.from_pretrained(make_folder(tmp_path / "model", tokenizer__json=content))
    assert tokenizer.tokenize(["word " * 600, "a"]).lengths.tolist() == [600, 1]


# cuts and windows


@pytest.mark.parametrize("max_tokens", [3, 4, 7, 16, 512])
def test_a_cut_is_where_transformers_cuts(
    minilm: TextTokenizer,
    minilm_of_transformers: PreTrainedTokenizerBase,
    stsb_sentences: list[str],
    max_tokens: int,
) -> None:
    texts = [*ODD_TEXTS, *stsb_sentences[:200], " ".join(stsb_sentences[:80])]
    assert ours(minilm, texts, max_tokens) == theirs(minilm_of_transformers, texts, max_tokens)


def bodies_of(lengths: list[int]) -> TextTokens:
    """Return texts of these lengths whose token ids are all different."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    return TextTokens(np.arange(1000, 1000 + offsets[-1], dtype=np.int32), offsets)


def test_windows_are_as_in_this_example(minilm: TextTokenizer) -> None:
    cls, sep = minilm.specials.before[0], minilm.specials.after[0]
    windows, counts = minilm.frame_windows(bodies_of([7, 0, 4, 5]), max_tokens=6, overlap=1)
    assert counts.tolist() == [2, 1, 1, 2]
    assert rows_of(windows) == [
        [cls, 1000, 1001, 1002, 1003, sep],
        [cls, 1003, 1004, 1005, 1006, sep],
        [cls, sep],
        [cls, 1007, 1008, 1009, 1010, sep],
        [cls, 1011, 1012, 1013, 1014, sep],
        [cls, 1012, 1013, 1014, 1015, sep],
    ]


@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    max_tokens=st.integers(3, 24),
    overlap=st.integers(0, 8),
)
def test_windows_cover_every_token_and_are_full_and_overlap(
    minilm: TextTokenizer, lengths: list[int], max_tokens: int, overlap: int
) -> None:
    bodies = bodies_of(lengths)
    windows, counts = minilm.frame_windows(bodies, max_tokens, overlap)
    assert counts.min() >= 1 and counts.sum() == len(windows)
    room = max_tokens - 2
    rows = iter(rows_of(windows))
    for body, count in zip(rows_of(bodies), counts.tolist(), strict=True):
        own = [next(rows) for _ in range(count)]
        assert all((row[0], row[-1]) == (minilm.specials.before[0], minilm.specials.after[0]) for row in own)
        parts = [row[1:-1] for row in own]
        if len(body) <= room:
            assert parts == [body]
            continue
        assert all(len(part) == room for part in parts)
        assert sorted({token for part in parts for token in part}) == body
        assert parts[-1][-1] == body[-1]
        shared = [len(set(a) & set(b)) for a, b in itertools.pairwise(parts)]
        at_least = min(overlap, room - 1)
        assert all(n == at_least for n in shared[:-1]) and at_least <= shared[-1] < room


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=8), max_tokens=st.integers(3, 24))
def test_a_frame_is_the_beginning_of_the_text(minilm: TextTokenizer, lengths: list[int], max_tokens: int) -> None:
    bodies = bodies_of(lengths)
    framed = rows_of(minilm.frame(bodies, max_tokens))
    assert [row[1:-1] for row in framed] == [body[: max_tokens - 2] for body in rows_of(bodies)]


def test_unknown_tokens_are_counted(minilm: TextTokenizer) -> None:
    assert minilm.count_unknown(minilm.tokenize(["a man", "뷁 a 뷁", "\U0001f9ff", ""])) == 3
    assert minilm.count_unknown(minilm.tokenize([])) == 0


# texts of every kind


@pytest.mark.parametrize("text", ["a" * 10**6, "word " * 200_000, "가" * 10**6, "漢" * 10**6, "é" * 10**6, " " * 10**6])
def test_a_million_characters_take_seconds(minilm: TextTokenizer, text: str) -> None:
    begin = time.monotonic()
    bodies = minilm.tokenize([text])
    minilm.frame(bodies, 256)
    minilm.frame_windows(bodies, 256, 64)
    # far from the seconds that it takes: only to tell it from minutes
    assert time.monotonic() - begin < 60


def test_no_texts_give_no_tokens(minilm: TextTokenizer) -> None:
    bodies = minilm.tokenize([])
    assert (len(bodies), len(bodies.token_ids)) == (0, 0)
    assert len(minilm.frame(bodies, 8)) == 0


def test_an_empty_text_has_only_special_tokens(minilm: TextTokenizer) -> None:
    assert ours(minilm, [""]) == [[101, 102]]


@pytest.mark.parametrize("surrogate", ["\ud800", "\udfff", "\udc80"])
def test_a_lone_surrogate_is_refused_with_its_place(minilm: TextTokenizer, surrogate: str) -> None:
    with pytest.raises(InputError) as caught:
        minilm.tokenize(["fine", f"ab{surrogate}c"], first_position=100)
    message = str(caught.value)
    assert "position 101" in message and "character 2" in message
    message.encode("utf-8")


@pytest.mark.parametrize("value", [None, float("nan"), 3, b"bytes", ("a", "b"), ["a"]], ids=repr)
def test_what_is_no_text_is_refused_with_its_place(minilm: TextTokenizer, value: object) -> None:
    with pytest.raises(InputError, match=rf"position 2 .*{type(value).__name__}"):
        minilm.tokenize(["a", "b", value])  # type: ignore[list-item]


def test_numpy_strings_are_texts(minilm: TextTokenizer) -> None:
    assert ours(minilm, list(np.array(["a man", "한국"]))) == ours(minilm, ["a man", "한국"])


# saved and loaded again


def write_vocab(folder: Path, tokens: list[str]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8", newline="\n")
    return folder


@pytest.fixture(params=["uncased", "cased Korean", "lower-cased Korean", "accented", "cased English", "duplicates"])
def any_tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> TextTokenizer:
    if request.param == "uncased":
        return TextTokenizer.from_pretrained(request.getfixturevalue("minilm_path"))
    if request.param == "cased Korean":
        return TextTokenizer.from_pretrained(request.getfixturevalue("ko_vocab"))
    letters = [*string.ascii_lowercase, *(f"##{c}" for c in string.ascii_lowercase)]
    more = {
        "lower-cased Korean": ["한", "##국", "##어", "문장"],
        "accented": ["é", "##é", "café", "à", "à\u2028"],
        "cased English": ["Hello", "World", "A"],
        "duplicates": ["hello", "b", "z"],
    }[request.param]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *more, "!", ","]
    return TextTokenizer.from_pretrained(write_vocab(tmp_path / "source", tokens))


def test_saved_and_loaded_again_the_ids_are_the_same_here_and_in_transformers(
    tmp_path: Path, any_tokenizer: TextTokenizer
) -> None:
    target = tmp_path / "saved"
    target.mkdir()
    (target / "config.json").write_text('{"model_type": "bert"}')
    any_tokenizer.save_pretrained(target, 77)
    texts = [*ODD_TEXTS, *SPECIAL_TEXTS, "Café ÉTÉ", unicodedata.normalize("NFD", "Café 한국어 문장")]
    expected = ours(any_tokenizer, texts, 77)

    again = TextTokenizer.from_pretrained(target)
    assert ours(again, texts, 77) == expected
    assert again.casing is not None and any_tokenizer.casing is not None
    assert again.notes == ()
    of_transformers = AutoTokenizer.from_pretrained(target)
    assert of_transformers.model_max_length == 77
    assert theirs(of_transformers, texts, 77) == expected
    assert of_transformers(["a", "a b"], padding=True)["input_ids"][0][-1] == any_tokenizer.padding_id

    settings = json.loads((target / "tokenizer_config.json").read_text())
    for flag in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        assert settings[flag] is getattr(any_tokenizer.casing, flag)


def test_a_saved_vocabulary_alone_still_means_the_same(tmp_path: Path, any_tokenizer: TextTokenizer) -> None:
    target = tmp_path / "saved"
    target.mkdir()
    any_tokenizer.save_pretrained(target, 77)
    if not (target / "vocab.txt").exists():
        assert any_tokenizer.notes, "only duplicates leave a vocabulary with holes"
        return
    (target / "tokenizer.json").unlink()
    texts = ODD_TEXTS + SPECIAL_TEXTS
    assert ours(TextTokenizer.from_pretrained(target), texts) == ours(any_tokenizer, texts)


def test_lower_casing_first_is_kept_on_save(tmp_path: Path, ko_vocab: Path) -> None:
    tokenizer = TextTokenizer.from_pretrained(ko_vocab)
    before = ours(tokenizer, ["Hello ABC 한국어"])
    tokenizer.lower_case_first()
    lowered = ours(tokenizer, ["Hello ABC 한국어"])
    assert lowered != before and lowered == ours(TextTokenizer.from_pretrained(ko_vocab), ["hello abc 한국어"])
    target = tmp_path / "saved"
    target.mkdir()
    tokenizer.save_pretrained(target, 77)
    assert ours(TextTokenizer.from_pretrained(target), ["Hello ABC 한국어"]) == lowered
    assert theirs(AutoTokenizer.from_pretrained(target), ["Hello ABC 한국어"]) == lowered


# byte-level BPE


@pytest.fixture(scope="module")
def bpe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an old RoBERTa tokenizer: only vocab.json and merges.txt."""
    corpus = ["A man is playing a guitar.", "한국어 문장 입니다.", "The quick brown fox jumps over the lazy dog."] * 20
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.train_from_iterator(
        corpus,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    folder = tmp_path_factory.mktemp("bpe") / "model"
    folder.mkdir()
    backend.model.save(str(folder))
    (folder / "config.json").write_text('{"model_type": "roberta"}')
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "merges.txt", "vocab.json"]
    return folder


BPE_TEXTS = [*ODD_TEXTS, " leading", "trailing ", "<s> and </s>", "a <mask> b", "a<mask>b", "two  blanks"]


def test_vocab_json_and_merges_give_the_ids_of_robertas_tokenizer(bpe_folder: Path) -> None:
    tokenizer = TextTokenizer.from_pretrained(bpe_folder, "roberta")
    reference = RobertaTokenizer.from_pretrained(bpe_folder)
    assert ours(tokenizer, BPE_TEXTS) == theirs(reference, BPE_TEXTS)
    assert tokenizer.casing is None
    assert (tokenizer.specials.before, tokenizer.specials.after, tokenizer.padding_id) == ((0,), (2,), 1)


def test_byte_level_bpe_is_saved_so_that_everybody_reads_it(tmp_path: Path, bpe_folder: Path) -> None:
    tokenizer = TextTokenizer.from_pretrained(bpe_folder, "roberta")
    tokenizer.save_pretrained(tmp_path, 50)
    (tmp_path / "config.json").write_text('{"model_type": "roberta"}')
    expected = ours(tokenizer, BPE_TEXTS, 50)
    assert ours(TextTokenizer.from_pretrained(tmp_path, "roberta"), BPE_TEXTS, 50) == expected
    of_transformers = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(of_transformers, BPE_TEXTS, 50) == expected
    assert of_transformers(["a", "a b c d"], padding=True)["input_ids"][0][-1] == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("merges.txt", b"\xff\xfe"),
        ("merges.txt", b"lonely\n"),
        ("merges.txt", b"no such\n"),
        ("vocab.json", b"{}"),
        ("vocab.json", b"[]"),
        ("vocab.json", b'{"<s>": "zero", "<pad>": 1, "</s>": 2, "<unk>": 3}'),
    ],
)
def test_a_broken_byte_level_vocabulary_is_refused(tmp_path: Path, bpe_folder: Path, name: str, content: bytes) -> None:
    folder = tmp_path / "model"
    shutil.copytree(bpe_folder, folder)
    (folder / name).write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"merges\.txt|vocab\.json"):
        TextTokenizer.from_pretrained(folder, "roberta")


def test_a_tokenizer_that_is_no_wordpiece_can_be_lower_cased_first(bpe_folder: Path) -> None:
    tokenizer = TextTokenizer.from_pretrained(bpe_folder, "roberta")
    tokenizer.backend.normalizer = normalizers.NFC()
    tokenizer.lower_case_first()
    plain = TextTokenizer.from_pretrained(bpe_folder, "roberta")
    assert ours(tokenizer, ["A MAN"]) == ours(plain, ["a man"])


# tokens that other files add to the vocabulary

N_WORDS = len(default_vocabulary())
WORD = {
    "content": "kospi200",
    "lstrip": False,
    "rstrip": False,
    "single_word": False,
    "normalized": True,
    "special": False,
}
ENTITY = {
    "content": "[ENT]",
    "lstrip": True,
    "rstrip": True,
    "single_word": False,
    "normalized": False,
    "special": True,
}
WITH_ADDED = ["the kospi200 is good", "a [ENT] dog KOSPI200s", "xkospi200y", "the  [ENT]  dog", "ktx9"]
BERTS = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}


@pytest.mark.parametrize("tokenizer_json", [False, True])
@pytest.mark.parametrize(
    "files",
    [
        {"added_tokens.json": {"ktx9": N_WORDS + 1, "kospi200": N_WORDS}},
        {"tokenizer_config.json": {**BERTS, "added_tokens_decoder": {str(N_WORDS + 1): ENTITY, str(N_WORDS): WORD}}},
        {"tokenizer_config.json": {**BERTS, "additional_special_tokens": ["[ENT]", "[REF]"]}},
        {"special_tokens_map.json": {"extra_special_tokens": [{k: v for k, v in ENTITY.items() if k != "special"}]}},
        {"special_tokens_map.json": {"additional_special_tokens": ["[ENT]"]}, "added_tokens.json": {"[ENT]": N_WORDS}},
    ],
    ids=["added_tokens.json", "added_tokens_decoder", "additional", "extra", "map and added_tokens.json"],
)
def test_added_tokens_are_honoured_and_kept(files: dict[str, Any], tokenizer_json: bool, tmp_path: Path) -> None:
    folder = make_bert_folder(tmp_path / "model", config_extra={"vocab_size": N_WORDS + 2})
    if tokenizer_json:  # saved before the tokens were added
        TextTokenizer.from_pretrained(folder).save_pretrained(folder, 64)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), "utf-8")
    stock = AutoTokenizer.from_pretrained(folder)
    expected = [stock(text, add_special_tokens=False)["input_ids"] for text in WITH_ADDED]
    assert any(id_ >= N_WORDS for ids in expected for id_ in ids)
    model = SiameseBert.from_pretrained(folder, device="cpu", precision="float32")
    tokens = model.tokenizer.tokenize(WITH_ADDED)
    assert rows_of(tokens) == expected
    vectors = model.encode(WITH_ADDED)
    np.testing.assert_allclose(SentenceTransformer(str(folder), device="cpu").encode(WITH_ADDED), vectors, atol=5e-6)

    model.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert [again(text, add_special_tokens=False)["input_ids"] for text in WITH_ADDED] == expected
    saved = SiameseBert.from_pretrained(tmp_path / "saved", device="cpu", precision="float32")
    np.testing.assert_array_equal(saved.encode(WITH_ADDED), vectors)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("added_tokens.json", {"kospi200": N_WORDS + 1}, f"gives the added token 'kospi200' the id {N_WORDS + 1}"),
        ("added_tokens.json", {"kospi200": "7"}, "the id '7', expected a whole number"),
        ("added_tokens.json", {"kospi200": []}, "the id '[]', expected a whole number"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"": WORD}}, "the id '', expected a whole number"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": WORD}}, "the id 'x', expected a whole number"),
        ("tokenizer_config.json", {"added_tokens_decoder": [WORD]}, "expected tokens by id"),
        ("tokenizer_config.json", {"added_tokens_decoder": {str(N_WORDS): {"content": ""}}}, "adds the token"),
        ("tokenizer_config.json", {"additional_special_tokens": [{"content": "[E]", "lstrip": 1}]}, "as true or false"),
        ("special_tokens_map.json", {"additional_special_tokens": [3]}, "special_tokens_map.json' adds the token '3'"),
    ],
)
def test_added_tokens_that_cannot_be_used_are_named(name: str, content: Any, said: str, tmp_path: Path) -> None:
    folder = make_bert_folder(tmp_path / "model", config_extra={"vocab_size": N_WORDS + 2})
    (folder / name).write_text(json.dumps(content), "utf-8")
    with pytest.raises(ModelFolderError, match=re.escape(said)):
        SiameseBert.from_pretrained(folder)


def test_a_token_without_a_row_in_the_embedding_table_is_refused(tmp_path: Path) -> None:
    folder = make_bert_folder(tmp_path / "model")
    (folder / "added_tokens.json").write_text(json.dumps({"kospi200": N_WORDS}), "utf-8")
    with pytest.raises(
        ModelFolderError, match=r"the vocabulary with the tokens that other files add has .*embedding table"
    ):
        SiameseBert.from_pretrained(folder)


# the names of transformers


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextTokenizer, PreTrainedTokenizerBase]:
    """Return our tokenizer and transformers' own of one folder of an uncased model."""
    folder = make_bert_folder(tmp_path_factory.mktemp("named") / "model")
    SiameseBert.from_pretrained(folder, device="cpu").save_pretrained(folder.with_name("saved"))
    bert = SiameseBert.from_pretrained(folder.with_name("saved"), device="cpu")
    return bert.tokenizer, AutoTokenizer.from_pretrained(folder.with_name("saved"))


LONG = "the small dog plays the guitar in the park " * 12
CALLS: list[tuple[Any, ...]] = [
    ("문장 the dog",),
    (["a man", "", LONG],),
    ("a man", "the small cat [SEP]"),
    (["a man", LONG], ["the cat", "music " * 70]),
    ([("a man", LONG), ("music", "")],),
]


@pytest.mark.parametrize("padding", [False, True, "longest", "max_length"])
@pytest.mark.parametrize("cut", [{}, {"truncation": True}, {"truncation": True, "max_length": 12}, {"max_length": 9}])
@pytest.mark.parametrize("texts", CALLS, ids=["text", "texts", "pair", "lists of pairs", "tuples"])
def test_call_gives_every_field_of_transformers(
    named: tuple[TextTokenizer, PreTrainedTokenizerBase], texts: tuple[Any, ...], cut: dict[str, Any], padding: Any
) -> None:
    ours, theirs = (dict(tokenizer(*texts, padding=padding, **cut)) for tokenizer in named)
    assert ours == theirs
    assert list(ours) == ["input_ids", "token_type_ids", "attention_mask"]
    if padding and cut.get("truncation") and isinstance(texts[0], list):
        for kind in ("pt", "np"):
            same = dict(named[0](*texts, padding=padding, **cut, return_tensors=kind))
            assert {name: values.tolist() for name, values in same.items()} == ours


@pytest.mark.parametrize(
    "options",
    [
        {"add_special_tokens": False},
        {"return_token_type_ids": False, "return_offsets_mapping": True, "return_special_tokens_mask": True},
        {"max_length": 8, "truncation": "only_second", "padding": "max_length", "padding_side": "left"},
        {"max_length": 7, "truncation": True, "stride": 1, "return_overflowing_tokens": True, "return_length": True},
        {"padding": True, "pad_to_multiple_of": 8},
    ],
    ids=str,
)
def test_options_do_what_they_do_in_transformers(
    named: tuple[TextTokenizer, PreTrainedTokenizerBase], options: dict[str, Any]
) -> None:
    ours, theirs = (dict(tokenizer("a man plays", "the small dog", **options)) for tokenizer in named)
    assert ours == theirs


def test_cells_of_older_tutorials_run(named: tuple[TextTokenizer, PreTrainedTokenizerBase]) -> None:
    tokenizer, stock = named
    cell = tokenizer.encode_plus(
        "the dog plays",
        add_special_tokens=True,
        max_length=8,
        pad_to_max_length=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    assert cell["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]
    assert cell["input_ids"].tolist() == [stock.encode("the dog plays", padding="max_length", max_length=8)]
    batch = tokenizer.batch_encode_plus(["the dog", "a man plays"], padding=True)
    assert dict(batch) == dict(stock(["the dog", "a man plays"], padding=True))
    tokens = tokenizer.tokenize("the unplayable dogs 문")
    assert tokens == stock.tokenize("the unplayable dogs 문")
    assert tokens[:3] == ["the", "u", "##n"]
    ids = tokenizer.convert_tokens_to_ids(tokens)
    assert ids == stock.convert_tokens_to_ids(tokens) and tokenizer.convert_ids_to_tokens(ids) == tokens
    assert tokenizer.convert_ids_to_tokens(2) == "[CLS]" and tokenizer.convert_tokens_to_ids("[SEP]") == 3
    ids = tokenizer.encode("the dogs", "music")
    assert ids == stock.encode("the dogs", "music")
    assert tokenizer.decode(ids) == "[CLS] the dogs [SEP] music [SEP]"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the dogs music"
    assert tokenizer.batch_decode([ids, ids[:2]], skip_special_tokens=True) == ["the dogs music", "the"]
    names = [f"{role}_token{end}" for role in ("pad", "unk", "cls", "sep", "mask") for end in ("", "_id")]
    for name in (*names, "vocab_size", "all_special_ids", "all_special_tokens", "model_max_length"):
        assert getattr(tokenizer, name) == getattr(stock, name), name
    assert (tokenizer.pad_token_id, tokenizer.mask_token, tokenizer.model_max_length) == (0, "[MASK]", 64)
    assert (len(tokenizer), tokenizer.get_vocab()) == (len(stock), stock.get_vocab())


def test_the_names_of_transformers_leave_the_tokenizer_as_it_is(
    named: tuple[TextTokenizer, PreTrainedTokenizerBase],
) -> None:
    tokenizer, _ = named
    tokenizer([LONG, "a"], padding="max_length", truncation=True, max_length=5)
    assert tokenizer.backend.truncation is None and tokenizer.backend.padding is None
    assert tokenizer.tokenize([LONG]).lengths.tolist() == [108]
    assert tokenizer.as_transformers() is tokenizer.as_transformers()


def test_korean_syllables_stay_whole_under_every_name(ko_vocab: Path) -> None:
    tokenizer, text = TextTokenizer.from_pretrained(ko_vocab), "지금 영화 보러 가자 ㅋㅋ"
    assert tokenizer.encode(text) == ours(tokenizer, [text])[0]
    assert tokenizer.unk_token_id not in tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t: t(None), r"text is 'None' \(NoneType\), expected a text, or a list of at least one text"),
        (lambda t: t([]), r"text is '\[\]' \(list\)"),
        (lambda t: t("a", 3), r"text_pair is '3' \(int\)"),
        (lambda t: t(["a", float("nan")]), r"text at position 1 is 'nan' \(float\), expected a string"),
        (lambda t: t([("a", "b"), ("a", None)]), r"text at position 1 is 'None'"),
        (lambda t: t([("a", "b", "c")]), r"text at position 0 is .* \(tuple\)"),
        (lambda t: t.encode("\ud800"), "lone surrogate"),
        (lambda t: t(["a", "b"], ["c"]), "batch length"),
        (lambda t: t("a", max_len=3), "the tokenizer has no option 'max_len'"),
        (lambda t: t("a", max_length=0), "max_length is '0', expected a whole number of at least 1"),
        (lambda t: t("a b c d", truncation=True, max_length=4, stride=9), "cannot take this: .*stride"),
        (lambda t: t("a", padding="maximum"), "maximum is not a valid PaddingStrategy"),
        (lambda t: t("a", return_tensors="tf"), "tf is not a valid TensorType"),
        (lambda t: t(["a", "a b"], return_tensors="pt"), "Unable to create tensor"),
        (lambda t: t.decode(["a"]), "transformers' tokenizer cannot take this"),
        (lambda t: t.convert_ids_to_tokens("x"), "invalid literal"),
        (lambda t: t.convert_tokens_to_ids([1]), "transformers' tokenizer cannot take this"),
    ],
)
def test_what_the_names_cannot_take_is_an_input_error(
    named: tuple[TextTokenizer, PreTrainedTokenizerBase], call: Callable[[Any], Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        call(named[0])
