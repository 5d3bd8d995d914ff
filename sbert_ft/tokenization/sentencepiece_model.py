"""Build the Rust tokenizer of a SentencePiece model file (Kudo & Richardson 2018), with the ids of its kind of encoder.

The file is a message of protocol buffers: pieces with scores, and how text is normalised. Its few fields are read
here: the converters of transformers need the packages sentencepiece and protobuf, in versions that exclude those of
other packages, and would hand an untrusted file to C++. Texts get the ids of SentencePiece itself, except that of two
segmentations of equal score either may be chosen (its sums are of float32); what the Rust library cannot do is refused.
Reading takes a second for 250,000 pieces.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from sbert_ft.errors import ModelFolderError, listed, quoted, shown
from sbert_ft.files.strict_json import read_small
from sbert_ft.tokenization.backend import MAX_VOCAB_LINES, USE_ITS_OWN, most_bytes, rust_faults
from sbert_ft.tokenization.vocabulary import casing_of_vocabulary, holds_hangul

SPACE = "▁"  # stands for a space in pieces
_MODEL_FILE = re.compile(r".+\.(?:model|spiece)")
_NORMAL, _UNKNOWN, _USER_DEFINED, _BYTE = 1, 2, 4, 6
_UNIGRAM, _BPE = 1, 2
_MOST_CHARACTERS = 256  # of a piece; SentencePiece's own bound is 16, and the time for merges grows with the square
# Tokens that texts never get keep their ids under names that no text holds, as in transformers' CamembertTokenizer.
_NOT_USED = "NOTUSED"
# The tokens that fairseq puts before the pieces, and the number of the file's pieces in whose place they are.
_FIRST_TOKENS: Mapping[str, tuple[tuple[str, ...], int]] = {
    "xlm-roberta": (("<s>", "<pad>", "</s>", "<unk>"), 3),
    "camembert": (("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"), 1),
}


@dataclass(frozen=True)
class PieceModel:
    """What a model file says.

    Attributes:
        file: Where it was read.
        pieces: Text, score and kind of each piece, in the order of their ids.
        is_bpe: Whether pieces are merged (Sennrich et al. 2016) or chosen as the likeliest segmentation (Kudo 2018).
        byte_fallback: Whether unknown characters become pieces of a byte.
        normalizer: Name of the normalisation, such as ``nmt_nfkc``.
        charsmap: The normalisation itself, in the form that the Rust library takes too.
        add_prefix: Whether a text begins with a space.
        join_spaces: Whether spaces around a text are dropped, and several between words are one.
    """

    file: Path
    pieces: tuple[tuple[str, float, int], ...]
    is_bpe: bool
    byte_fallback: bool
    normalizer: str
    charsmap: bytes
    add_prefix: bool
    join_spaces: bool

    @cached_property
    def scores(self) -> dict[str, float]:
        """The score of each piece that texts may get."""
        return {text: score for text, score, kind in self.pieces if kind in (_NORMAL, _USER_DEFINED, _BYTE)}


def find_model_file(folder: Path) -> Path | None:
    """Return the SentencePiece model of a folder; None if there is none.

    A `ModelFolderError` if there are several, and none has a usual name.
    """
    found: list[str] = []
    with suppress(OSError):
        found = sorted(filter(_MODEL_FILE.fullmatch, os.listdir(folder)))
    usual = ("spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model")
    name = next((name for name in usual if name in found), found[0] if found else None)
    if len(found) > 1 and name not in usual:
        problem = f"has several SentencePiece models: {listed(found, 5)}"
        raise ModelFolderError(f"{shown(folder)} {problem}", "leave only the one that belongs to these weights")
    return None if name is None else folder / name


def read_piece_model(path: Path, n_rows: int | None = None) -> PieceModel:
    """Return what a model file says; the embedding table has `n_rows`, None where unknown.

    Raises:
        ModelFolderError: It is no SentencePiece model, has far more pieces than rows, or splits in a way that the Rust
            library does not know.
    """
    most = MAX_VOCAB_LINES if n_rows is None else 2 * n_rows + 1024
    data = read_small(path, most_bytes(n_rows), "a SentencePiece model")
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    try:
        for number, value in _fields(data):
            if number == 1:
                piece = {1: b"", 2: bytes(4), 3: _NORMAL, **dict(_fields(value))}
                pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0], piece[3]))
                if len(pieces) > most:
                    raise ModelFolderError(f"{shown(path)} has more than {most:,} pieces", USE_ITS_OWN)
            elif number in (2, 3):
                (trainer if number == 2 else normalizer).update(_fields(value))
        name, charsmap = normalizer.get(1, b"").decode(), bytes(normalizer.get(2, b""))
    except (ValueError, TypeError, AttributeError, struct.error):
        problem = "is not a SentencePiece model, or is incomplete"
        raise ModelFolderError(
            f"{shown(path)} {problem}", "download it again from where the weights come from"
        ) from None
    kinds = [kind for _, _, kind in pieces]
    texts = {text for text, _, _ in pieces}
    limits = (
        (trainer.get(3, _UNIGRAM) in (_UNIGRAM, _BPE), "is of type word or char, expected unigram or bpe"),
        (kinds.count(_UNKNOWN) == 1 and _NORMAL in kinds, "lacks pieces, or the one for unknown characters"),
        (len(texts) == len(pieces), "has a piece twice"),
        (
            max(map(len, texts), default=0) <= _MOST_CHARACTERS,
            f"has a piece of more than {_MOST_CHARACTERS} characters",
        ),
        (all(math.isfinite(score) for _, score, _ in pieces), "has a score that is no number"),
        (not trainer.get(24) and normalizer.get(5, 1), "marks spaces in another way than before a word"),
    )
    for is_met, problem in limits:
        if not is_met:
            raise ModelFolderError(f"{shown(path)}, a SentencePiece model, {problem}: not supported", USE_ITS_OWN)
    is_bpe, byte_fallback = trainer.get(3, _UNIGRAM) == _BPE, bool(trainer.get(35))
    add_prefix, join_spaces = bool(normalizer.get(3, 1)), bool(normalizer.get(4, 1))
    return PieceModel(path, tuple(pieces), is_bpe, byte_fallback, name, charsmap, add_prefix, join_spaces)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a message of protocol buffers: an int, or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError("no such kind of field")
        if at + size > len(data):
            raise ValueError("cut off")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of 7 bits a byte, and where it ends."""
    number = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
    raise ValueError("cut off")


def build_from_pieces(
    model: PieceModel,
    rules: str,
    roles: Mapping[str, tuple[str, ...]],
    kept: frozenset[str],
    settings: Mapping[str, Any],
    vocab: Mapping[str, int] | None = None,
) -> Tokenizer:
    """Return the Rust tokenizer of a model file.

    Args:
        model: What the file says.
        rules: ``xlm-roberta`` or ``camembert`` for fairseq's ids, ``albert`` for its normalisation, or empty.
        roles: The names that the special token of each role may have; the first one that is there is used.
        kept: Tokens that other files name.
        settings: tokenizer_config.json.
        vocab: The id of each token in vocab.txt; None to take the ids of the model file.

    Raises:
        ModelFolderError: A special token is missing, vocab.txt lacks pieces, or a setting is not supported.
    """
    refused = next((key for key in ("split_by_punct", "sp_model_kwargs") if settings.get(key)), None)
    if refused is not None:
        problem = f"{refused} of tokenizer_config.json is not supported"
        raise ModelFolderError(f"{shown(model.file)}: {problem}", "bring a tokenizer.json")
    first, n_replaced = _FIRST_TOKENS.get(rules, ((), 0)) if vocab is None else ((), 0)
    tokens = [*first, *(text for text, _, _ in model.pieces[n_replaced:])]
    tokens += roles["mask_token"][-1:] if first else ()
    source = f"{shown(model.file)}, a SentencePiece model,"
    if vocab is not None:
        source, tokens = shown(model.file.with_name("vocab.txt")), sorted(vocab, key=vocab.__getitem__)
        _check_vocab(source, model, vocab)
    there = set(tokens)
    used = {role: next((name for name in names if name in there), "") for role, names in roles.items()}
    for role in ("unk_token", "cls_token", "sep_token", "pad_token"):
        if not used[role]:
            remedy = f"name the token in special_tokens_map.json, or {USE_ITS_OWN}"
            raise ModelFolderError(f"{source} has no {quoted(roles[role][0])} ({role})", remedy)
    special = [name for name in dict.fromkeys(used.values()) if name]
    known = {*model.scores, *kept, *special, *first}
    tokens = [token if token in known else token + _NOT_USED for token in tokens]
    with rust_faults(f"{shown(model.file)} is not a SentencePiece model that the tokenizers library can run"):
        backend = Tokenizer(_rust_model(model, tokens, used["unk_token"]))
        backend.normalizer = normalizers.Sequence(_normalizers(model, rules, settings))
    prefix = "always" if model.add_prefix else "never"
    is_split = not any(SPACE in text.lstrip(SPACE) for text in model.scores)  # each word is cached
    backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prefix, is_split)
    spaces = decoders.Metaspace(SPACE, prefix)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), spaces]) if model.byte_fallback else spaces
    cls, sep = used["cls_token"], used["sep_token"]
    pair = f"{cls} $A {sep} {sep} $B {sep}" if sep == "</s>" else f"{cls} $A {sep} $B:1 {sep}:1"
    numbered = [(name, tokens.index(name)) for name in (cls, sep)]
    backend.post_processor = processors.TemplateProcessing(f"{cls} $A {sep}", pair, numbered)
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    own = [text for text, _, kind in model.pieces if kind == _USER_DEFINED and text not in special]
    backend.add_tokens([AddedToken(text, normalized=False) for text in own])
    return backend


def _check_vocab(source: str, model: PieceModel, vocab: Mapping[str, int]) -> None:
    """Refuse a vocab.txt by whose ids pieces cannot be told."""
    lost = [text for text in model.scores if text not in vocab]
    if lost:
        problem = f"lacks {len(lost):,} of the pieces of {model.file.name}, such as {quoted(lost[0])}"
        raise ModelFolderError(f"{source} {problem}", USE_ITS_OWN)
    if list(vocab.values()) != list(range(len(vocab))):
        raise ModelFolderError(f"{source} has a token twice: its pieces cannot be told by their ids", USE_ITS_OWN)


def _rust_model(model: PieceModel, tokens: list[str], unknown: str) -> models.Model:
    """Return the Rust model; tokens that no text gets have score 0, the highest, which leaves that of unknown alone."""
    scores = model.scores
    if not model.is_bpe:
        vocab = [(token, scores.get(token, 0.0)) for token in tokens]
        return models.Unigram(vocab, unk_id=tokens.index(unknown), byte_fallback=model.byte_fallback)
    merges = [
        (score, text[:i], text[i:])
        for text, score in scores.items()
        for i in range(1, len(text))
        if text[:i] in scores and text[i:] in scores
    ]
    pairs = [(left, right) for _, left, right in sorted(merges, key=lambda merge: -merge[0])]
    ids = {token: id_ for id_, token in enumerate(tokens)}
    return models.BPE(ids, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=model.byte_fallback)


def _normalizers(model: PieceModel, rules: str, settings: Mapping[str, Any]) -> list[normalizers.Normalizer]:
    """Return what is done to a text before it is split: what transformers' class does, then what the file says."""
    lower, strip = settings.get("do_lower_case"), settings.get("keep_accents") is False
    steps: list[normalizers.Normalizer] = []
    if rules == "albert":
        steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        casing = casing_of_vocabulary(dict.fromkeys((text.removeprefix(SPACE) for text in model.scores), 0))
        lower = casing.do_lower_case if lower is None else lower
        strip = casing.strip_accents if settings.get("keep_accents") is None else strip
    steps += [normalizers.NFKD(), normalizers.StripAccents()] * strip
    steps += [normalizers.Lowercase()] * bool(lower)
    steps += [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    # The Rust library looks up a character at a time, and would leave Hangul in jamo where SentencePiece composes it.
    steps += [normalizers.NFC()] * ("nfkc" in model.normalizer or holds_hangul(model.scores))
    if model.join_spaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex(r"\A | \z"), "")]
    return steps
