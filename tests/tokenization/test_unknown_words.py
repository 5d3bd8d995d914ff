"""Why words are unknown, and what to do: the advice fits the cause."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import make_bert_folder

from sbert_ft import SiameseBert
from sbert_ft.doctor.folder import examine
from sbert_ft.tokenization.unknown_words import cause_of_unknown

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LOWER = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
HANGUL = ["한", "##국", "사", "##람", "영", "##화"]
JAMO = [unicodedata.normalize("NFD", token) for token in ("한국", "사람", "##영화")]


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


CASES: dict[str, tuple[list[str], list[str], Callable[[str], str], bool, str, str]] = {
    "capitals, lower-case vocabulary": (["CAT DOG"], LOWER, str, True, "case", "set do_lower_case to true"),
    "lower-cased, cased vocabulary": (["CAT"], ["C", "A", "T", "##A", "##T"], str.lower, True, "case", "to false"),
    "syllables taken apart": (["한국 사람"], HANGUL, nfd, True, "jamo", "set strip_accents to false"),
    "a vocabulary of jamo": (["한국 사람"], JAMO, str, True, "jamo", "that takes Hangul apart"),
    "a vocabulary of single jamo": (["한국"], ["ㅎㅏ", "ㄴㄱ", "##ㅜㄱ"], str, True, "jamo", "takes Hangul apart"),
    "pieces of SentencePiece": (
        ["cat dog"],
        ["▁cat", "▁dog", "s"],
        str,
        True,
        "pieces",
        "bring the SentencePiece model",
    ),
    "no pieces that go on": (["cats"], ["cat", "a", "t", "s", "c"], str, True, "pieces", "vocabulary that belongs"),
    "Hangul for an English vocabulary": (["한국 사람 ok"], LOWER, str, True, "script", "with a Korean vocabulary"),
    "Hangul, single jamo in the vocabulary": (["한국"], [*LOWER, "ᄒ", "##ᅡ"], nfd, True, "script", "Korean vocabulary"),
    "Russian": (["кот и собака"], [*LOWER, *HANGUL], str, True, "script", "made for such texts"),
    "Russian for pieces": (["кот"], ["▁cat", "▁dog"], str, False, "script", "made for such texts"),
    "other Hangul": (["뷁 뷁"], [*LOWER, *HANGUL], str, True, "unknown", "made for such texts"),
    "no letters": (["☃ ☃"], [*LOWER, *HANGUL], str, True, "unknown", "made for such texts"),
    "no texts": ([], LOWER, str, True, "unknown", "made for such texts"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_found(case: str) -> None:
    texts, tokens, normalize, is_wordpiece, name, remedy = CASES[case]
    vocab = {token: i for i, token in enumerate([*SPECIAL, *tokens])}
    cause = cause_of_unknown(texts, vocab, normalize, is_wordpiece)
    assert cause.name == name
    assert remedy in cause.remedy
    assert bool(cause.found) == (name != "unknown")


FOLDERS: dict[str, tuple[list[str], dict[str, Any], str, str]] = {
    "case": ([*LOWER, "Ж"], {"do_lower_case": False}, "CAT DOG", "capital letters, the vocabulary has none"),
    "jamo": (HANGUL, {"do_lower_case": False, "strip_accents": True}, "한국 사람", "taken apart into jamo"),
    "script": (LOWER, {}, "한국 사람", "the texts hold Hangul, the vocabulary has none"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_warnings_and_the_doctor_name_the_cause(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokens, settings, text, found = FOLDERS[name]
    folder = make_bert_folder(tmp_path / "model", vocab=[*SPECIAL, *tokens])
    if settings:
        (folder / "tokenizer_config.json").write_text(
            str(settings).replace("'", '"').replace("F", "f").replace("T", "t")
        )
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    model.encode([text])
    (record,) = [record for record in caplog.records if "unknown" in record.message]
    assert record.message.startswith("100.0 % of the texts' tokens are unknown") and found in record.message
    remedy = record.message.rpartition("; ")[2]
    (check,) = [check for check in examine(folder, [text]) if check.name == "unknown words"]
    assert (check.status, found in check.found) == ("FAIL", True)
    assert check.hint.split()[0] == remedy.split()[0]
