"""Which tokenizer classes split texts in a way that is ours to run, and which do not.

A folder names a class in tokenizer_config.json or config.json. None is ever imported. Where there is no tokenizer.json,
the class decides what the vocabulary file means: split in another way, texts get tokens that the weights have not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sbert_ft.errors import ModelFolderError, quoted, shown

Split = Literal["WordPiece", "SentencePiece", "byte-level BPE"]
# By the class's name without "Fast" and "Tokenizer".
CLASSES: Mapping[str, Split] = {
    **dict.fromkeys(("Bert", "BertJapanese", "ConvBert", "DistilBert", "Electra", "LayoutLM", "Lxmert"), "WordPiece"),
    **dict.fromkeys(("MobileBert", "MPNet", "RetriBert", "SqueezeBert"), "WordPiece"),
    **dict.fromkeys(("Albert", "Camembert", "DebertaV2", "KoBert", "KoBERT"), "SentencePiece"),
    **dict.fromkeys(("XLMRoberta", "XLNet"), "SentencePiece"),
    **dict.fromkeys(("Bart", "GPT2", "Longformer", "Roberta"), "byte-level BPE"),
}
# Kinds of encoders whose tokenizer is WordPiece in transformers, where no file says otherwise.
USUALLY_WORDPIECE = ("bert", "distilbert", "electra", "mpnet")
# These name no way of splitting.
_GENERAL = ("PreTrained", "TokenizersBackend", "PythonBackend")
# What else a class needs, for the message.
_NEEDS: Mapping[str, str] = {
    "BertJapanese": "splits Japanese into words or characters with other programs first (word_tokenizer_type {word}, "
    "subword_tokenizer_type {subword})",
    "Bertweet": "normalises tweets and merges by bpe.codes",
    "HanBert": "splits Korean into morphemes with the program Moran first",
    "Phobert": "merges by bpe.codes in texts that a Vietnamese segmenter has split",
}
_JAPANESE = {"word_tokenizer_type": "basic", "subword_tokenizer_type": "wordpiece"}


def _short(name: str | None) -> str:
    return (name or "").removesuffix("Fast").removesuffix("Tokenizer")


def of_sentencepiece(name: str | None) -> bool:
    """Return whether a class reads a SentencePiece model."""
    return CLASSES.get(_short(name)) == "SentencePiece"


def of_byte_level_bpe(name: str | None, model_type: str) -> bool:
    """Return whether transformers builds RoBERTa's tokenizer from its settings, also beside a tokenizer.json."""
    return model_type == "roberta" and (not name or CLASSES.get(_short(name)) == "byte-level BPE")


def is_japanese(name: str | None) -> bool:
    """Return whether it is the class whose defaults are not BERT's."""
    return _short(name) == "BertJapanese"


def piece_rules(name: str | None, model_type: str, file_name: str) -> str:
    """Return whose rules a SentencePiece model is read by: xlm-roberta, camembert, albert, or "" for none of these."""
    own = {"XLMRoberta": "xlm-roberta", "Camembert": "camembert", "Albert": "albert"}
    if CLASSES.get(_short(name)) == "SentencePiece" or model_type in own.values():
        return own.get(_short(name), model_type if model_type in own.values() else "")
    return "xlm-roberta" if file_name == "sentencepiece.bpe.model" else ""


def check_class(name: str | None, settings: Mapping[str, Any], split: Split, file: Path) -> None:
    """Refuse to split texts as `split`, by the vocabulary in `file`, where the named class would do it otherwise.

    Raises:
        ModelFolderError: The class is known to split in another way, or is not known.
    """
    short = _short(name)
    found = {key: str(settings.get(key) or usual) for key, usual in _JAPANESE.items()}
    is_split = False not in (settings.get("do_word_tokenize"), settings.get("do_subword_tokenize"))
    is_basic = found == _JAPANESE and is_split
    if not name or short in _GENERAL or (CLASSES.get(short) == split and (short != "BertJapanese" or is_basic)):
        return
    word, subword = found.values()
    needs = _NEEDS.get(short, f"reads {CLASSES[short]}" if short in CLASSES else "is not known here")
    needs = needs.format(word=quoted(word), subword=quoted(subword))
    problem = f"is not split as {split}: the folder names the tokenizer class {quoted(name)}, which {needs}"
    raise ModelFolderError(f"{shown(file)} {problem}", "bring a tokenizer.json that splits as this class does")
