"""Tokenizer classes that a folder names: run where they are ours to run, refused by name where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from transformers import BertJapaneseTokenizer

from sbert_ft.errors import ModelFolderError
from sbert_ft.tokenization.classes import CLASSES
from sbert_ft.tokenization.tokenizer import TextTokenizer

VOCAB = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "東京",
    "東",
    "##京",
    "が",
    "##が",
    "か",
    "Tokyo",
    "tokyo",
    "!",
    "a",
]


def folder_of(target: Path, settings: dict[str, Any], files: dict[str, str] | None = None) -> Path:
    target.mkdir()
    for name, text in (files or {"vocab.txt": "".join(f"{token}\n" for token in VOCAB)}).items():
        (target / name).write_text(text, "utf-8")
    (target / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return target


WORDPIECE = sorted(name for name, split in CLASSES.items() if split == "WordPiece")


@pytest.mark.parametrize("name", [*WORDPIECE, "PreTrained"])
@pytest.mark.parametrize("suffix", ["Tokenizer", "TokenizerFast"])
def test_classes_of_wordpiece_are_read_as_wordpiece(tmp_path: Path, name: str, suffix: str) -> None:
    tokenizer = TextTokenizer.from_pretrained(folder_of(tmp_path / "m", {"tokenizer_class": name + suffix}))
    assert tokenizer.backend.encode("Tokyo!").tokens == ["[CLS]", "Tokyo", "!", "[SEP]"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tokenizer_class": "MyTokenizer"}, "'MyTokenizer', which is not known here"),
        ({"tokenizer_class": "HanBertTokenizer"}, "'HanBertTokenizer', which splits Korean into morphemes .*Moran"),
        ({"tokenizer_class": "BertweetTokenizer"}, "'BertweetTokenizer', which normalises tweets"),
        ({"tokenizer_class": "PhobertTokenizer"}, "'PhobertTokenizer', which merges by bpe.codes"),
        ({"tokenizer_class": "RobertaTokenizerFast"}, "'RobertaTokenizerFast', which reads byte-level BPE"),
        *(
            ({"tokenizer_class": "BertJapaneseTokenizer", **more}, said)
            for more, said in (
                ({"word_tokenizer_type": "mecab"}, "word_tokenizer_type 'mecab', subword_tokenizer_type 'wordpiece'"),
                ({"word_tokenizer_type": "sudachi"}, "word_tokenizer_type 'sudachi'"),
                ({"word_tokenizer_type": "jumanpp"}, "word_tokenizer_type 'jumanpp'"),
                ({"subword_tokenizer_type": "character"}, "subword_tokenizer_type 'character'"),
                ({"do_word_tokenize": False}, "splits Japanese"),
                ({"do_subword_tokenize": False}, "splits Japanese"),
            )
        ),
    ],
)
def test_another_class_is_never_split_as_wordpiece(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    folder = folder_of(tmp_path / "m", settings)
    with pytest.raises(ModelFolderError, match=rf"vocab\.txt' is not split as WordPiece.*{said}") as caught:
        TextTokenizer.from_pretrained(folder)
    assert caught.value.hint == "bring a tokenizer.json that splits as this class does"
    name = settings.pop("tokenizer_class")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    with pytest.raises(ModelFolderError, match=said):
        TextTokenizer.from_pretrained(folder, config_class=name)


def test_a_class_in_tokenizer_config_wins_over_config_json(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", {"tokenizer_class": "BertTokenizer"})
    assert TextTokenizer.from_pretrained(folder, config_class="BertJapaneseTokenizer").casing is not None


def test_a_tokenizer_json_is_read_whatever_the_class(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", {})
    TextTokenizer.from_pretrained(folder).backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "MyTokenizer"}')
    assert TextTokenizer.from_pretrained(folder).backend.encode("Tokyo").tokens == ["[CLS]", "Tokyo", "[SEP]"]


@pytest.mark.parametrize("class_name", ["MyTokenizer", "PhobertTokenizer", "BertTokenizer"])
def test_vocab_json_and_merges_of_another_class_are_refused(tmp_path: Path, class_name: str) -> None:
    vocab = {token: i for i, token in enumerate(("<s>", "</s>", "<unk>", "<pad>", "a"))}
    files = {"vocab.json": json.dumps(vocab), "merges.txt": "#version: 0.2\n"}
    folder = folder_of(tmp_path / "m", {"tokenizer_class": class_name}, files)
    with pytest.raises(ModelFolderError, match=rf"vocab\.json' is not split as byte-level BPE.*'{class_name}'"):
        TextTokenizer.from_pretrained(folder, "roberta")


TEXTS = ["東京がtokyo!", "Tokyo 東京 か\u3099", "東 京", "aA"]


@pytest.mark.parametrize("more", [{}, {"do_lower_case": True}, {"word_tokenizer_type": "basic"}])
def test_the_japanese_class_without_other_programs_has_the_ids_of_transformers(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    folder = folder_of(tmp_path / "m", {"tokenizer_class": "BertJapaneseTokenizer", **more})
    ours = TextTokenizer.from_pretrained(folder)
    theirs = BertJapaneseTokenizer(str(folder / "vocab.txt"), **more)
    for text in TEXTS:
        assert ours.backend.encode(text).ids == theirs(text)["input_ids"], text
    ours.save_pretrained(tmp_path, 16)
    again = TextTokenizer.from_pretrained(tmp_path)
    assert [again.backend.encode(text).ids for text in TEXTS] == [ours.backend.encode(text).ids for text in TEXTS]


def test_the_document_names_every_class() -> None:
    text = (ROOT / "docs" / "folders.md").read_text("utf-8")
    rows = [row.split(" | ") for row in text.splitlines() if row.startswith("| ")]
    for name, split in CLASSES.items():
        assert any(f"`{name}Tokenizer`" in row[0] and row[-1].startswith(split) for row in rows), name
