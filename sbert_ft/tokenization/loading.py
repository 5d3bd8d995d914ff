"""Read a folder's tokenizer files into a Rust tokenizer, with the casing that they set.

What `tokenizer_config.json` sets explicitly wins, as in transformers; what no file sets is read from the vocabulary
(see `vocabulary.py`). A tokenizer's class is never run: its name tells how transformers would read the folder, so that
both give the same tokens, and a vocabulary of a class that splits texts in a way of its own is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from sbert_ft.errors import ModelFolderError, quoted, shown
from sbert_ft.files.strict_json import listing, parse_json, read_json, read_json_if_there, read_small
from sbert_ft.tokenization.backend import MAX_VOCAB_BYTES, USE_ITS_OWN, check_content, most_bytes, rust_faults
from sbert_ft.tokenization.classes import (
    USUALLY_WORDPIECE,
    check_class,
    is_japanese,
    of_byte_level_bpe,
    of_sentencepiece,
    piece_rules,
)
from sbert_ft.tokenization.sentencepiece_model import build_from_pieces, find_model_file, read_piece_model
from sbert_ft.tokenization.vocabulary import (
    Casing,
    Form,
    casing_of_vocabulary,
    form_of_vocabulary,
    holds_hangul,
    holds_pieces,
    read_vocab,
)

# BERT's and RoBERTa's tokens by role, used where no file names one or the vocabulary lacks the one that is named
USUAL_TOKENS: Mapping[str, tuple[str, str]] = {
    "unk_token": ("[UNK]", "<unk>"),
    "sep_token": ("[SEP]", "</s>"),
    "pad_token": ("[PAD]", "<pad>"),
    "cls_token": ("[CLS]", "<s>"),
    "mask_token": ("[MASK]", "<mask>"),
}
_MORE_ROLES = ("bos_token", "eos_token")
CASING_FLAGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
_TOKEN_FLAGS = {"lstrip", "normalized", "rstrip", "single_word", "special"}
# for these classes transformers reads casing only from tokenizer.json; for others from tokenizer_config.json
BACKEND_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
# By key of tokenizer_config.json that changes tokens and is not applied: the value that changes nothing, and what to do
_NOT_APPLIED: Mapping[str, tuple[object, str]] = {
    "truncation_side": ("right", "long texts are cut at their end here: set it to 'right'"),
    "split_special_tokens": (False, "a special token in a text is read as one here: set it to false"),
}
# the tokenizer, its casing rule, and notes; see `TokenizerFiles`
_Parts = tuple[Tokenizer, Casing | None, tuple[str, ...]]
_FORMS: Mapping[str, Form] = {"NFC": "NFC", "NFD": "NFD", "NFKD": "NFKD"}


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer as read from a folder.

    Attributes:
        backend: The Rust tokenizer, without truncation and padding.
        vocab: Its tokens with those that files add, asked for once: this takes a third of a second for 250,000.
        files: The files of the vocabulary, and added_tokens.json if that is used.
        casing: The rule for WordPiece over a BERT vocabulary, None for other kinds.
        special_tokens: Token by role, such as ``pad_token``.
        notes: What the user should know, one sentence each.
        token_types: Whether the encoder gets token types, which mark the second text of a pair.
    """

    backend: Tokenizer
    vocab: Mapping[str, int]
    files: tuple[Path, ...]
    casing: Casing | None
    special_tokens: Mapping[str, str]
    notes: tuple[str, ...]
    token_types: bool = True


@dataclass(frozen=True)
class _Folder:
    """What decides how a folder's vocabulary is read; `named` are the tokens that other files name."""

    path: Path
    model_type: str
    settings: Mapping[str, Any]
    class_name: str | None
    special: Mapping[str, str]
    named: frozenset[str]
    n_rows: int | None


def read_tokenizer(
    folder: Path, model_type: str, n_rows: int | None = None, config_class: object = None
) -> TokenizerFiles:
    """Return the tokenizer of a model folder.

    Args:
        folder: Has tokenizer.json, vocab.txt or a SentencePiece model, and may have tokenizer_config.json.
        model_type: As in config.json; decides how a vocabulary without tokenizer.json is read.
        n_rows: Rows of the embedding table, None if not known; a far larger vocabulary is refused before it is parsed.
        config_class: The ``tokenizer_class`` of config.json, for where tokenizer_config.json names none.

    Raises:
        ModelFolderError: A file is missing, damaged, lacks a special token, or is of a tokenizer that is not supported.
    """
    file = folder / "tokenizer_config.json"
    settings = read_json_if_there(file)
    for flag in (*CASING_FLAGS, "keep_accents"):
        if not isinstance(settings.get(flag), (bool, type(None))):
            raise ModelFolderError(f"{shown(file)}: {flag} is {quoted(settings[flag])}, expected true, false or null")
    for key, (harmless, remedy) in _NOT_APPLIED.items():
        if settings.get(key) not in (None, harmless):
            raise ModelFolderError(f"{shown(file)}: {key} is {quoted(settings[key])}, which is not applied", remedy)
    class_name = settings.get("tokenizer_class") or config_class or None
    if not isinstance(class_name, (str, type(None))):
        raise ModelFolderError(f"{shown(folder)}: tokenizer_class is {quoted(class_name)}, expected a text")
    special_tokens = _special_tokens(folder, settings)
    added = _read_added(folder, settings, frozenset(special_tokens.values()))
    named = frozenset(token.content for token in (*(token for _, token in added.with_ids), *added.more))
    source = _Folder(folder, model_type, settings, class_name, special_tokens, named, n_rows)
    files, (backend, casing, notes) = _read_backend(source)
    _add_tokens(backend, added)
    vocab = backend.get_vocab()
    _check_ids(files[0], vocab)
    files += (added.file,) if added.with_ids and added.file != file else ()
    # as in transformers, whose version that writes TokenizersBackend passes no token types unless they are named
    names, by_class = settings.get("model_input_names"), settings.get("tokenizer_class") != "TokenizersBackend"
    token_types = "token_type_ids" in names if isinstance(names, list) else by_class
    return TokenizerFiles(backend, vocab, files, casing, special_tokens, notes, token_types)


def _read_backend(source: _Folder) -> tuple[tuple[Path, ...], _Parts]:
    """Return the files that are read, and the tokenizer."""
    folder, name, n_rows = source.path, source.class_name, source.n_rows
    vocab_file, json_file = folder / "vocab.txt", folder / "tokenizer.json"
    if os.path.lexists(json_file):
        data = read_small(json_file, most_bytes(n_rows), "such a JSON file")
        content = parse_json(data, shown(json_file))
        check_content(json_file, content)
        backend, model = _from_content(json_file, data), content.get("model")
        if isinstance(model, dict) and model.get("type") == "WordPiece":
            return (json_file,), _wordpiece_from_json(json_file, backend, content, source.settings)
        is_byte_level = isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel)
        if is_byte_level and of_byte_level_bpe(name, source.model_type):  # as RobertaTokenizer does
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(source.settings.get("add_prefix_space") is True)
        return (json_file,), (_composed_for_hangul(backend, content), None, ())
    if os.path.lexists(vocab_file):
        vocab, notes = read_vocab(vocab_file, n_rows)
        if holds_pieces(vocab) or of_sentencepiece(name):
            model_file = find_model_file(folder)
            if model_file is None:
                expected = "expected tokenizer_*.model (KoBERT's is tokenizer_78b3253a26.model) or spiece.model"
                raise ModelFolderError(
                    f"{shown(vocab_file)} is for the pieces of SentencePiece (▁ before a word), but there is no model "
                    f"file of it: {expected}, found {listing(folder)}",
                    "copy it from where vocab.txt comes from, or bring a tokenizer.json",
                )
            return (vocab_file, model_file), (_from_model_file(source, model_file, vocab), None, notes)
        check_class(name, source.settings, "WordPiece", vocab_file)
        settings, casing = source.settings, casing_of_vocabulary(vocab)
        if is_japanese(name):  # it keeps case and leaves Han characters together
            given = {flag: value for flag, value in settings.items() if value is not None}
            settings = {"do_lower_case": False, "tokenize_chinese_chars": False, **given}
            casing = replace(casing, form="NFC")
        casing = _decide_casing(vocab, settings, casing)
        return (vocab_file,), (build_wordpiece(vocab_file, vocab, casing, source.special), casing, notes)
    files = (folder / "vocab.json", folder / "merges.txt")
    if source.model_type not in USUALLY_WORDPIECE and all(map(Path.is_file, files)):
        check_class(name, source.settings, "byte-level BPE", files[0])
        return files, (_convert(folder, n_rows, source.settings.get("add_prefix_space") is True), None, ())
    if (model_file := find_model_file(folder)) is not None:
        return (model_file,), (_from_model_file(source, model_file), None, ())
    raise ModelFolderError(
        f"{shown(folder)} has no tokenizer: expected vocab.txt or tokenizer.json, found {listing(folder)}",
        "copy the file from where the weights come from (without it every word would be [UNK])",
    )


def _from_model_file(source: _Folder, file: Path, vocab: Mapping[str, int] | None = None) -> Tokenizer:
    """Return the tokenizer of a SentencePiece model; the ids are those of `vocab`, or follow from the kind of model."""
    if vocab is None or source.class_name not in ("BertTokenizer", "BertTokenizerFast"):
        check_class(source.class_name, source.settings, "SentencePiece", file)
    rules = piece_rules(source.class_name, source.model_type, file.name)
    roles = {role: (token, *USUAL_TOKENS[role]) for role, token in source.special.items()}
    model = read_piece_model(file, source.n_rows)
    return build_from_pieces(model, rules, roles, source.named, source.settings, vocab)


def _composed_for_hangul(backend: Tokenizer, content: Mapping[str, Any]) -> Tokenizer:
    """Return a tokenizer of pieces that reads decomposed Hangul as composed, if its vocabulary holds syllables.

    SentencePiece composes text by itself; the Rust library reads its table by the character, and leaves jamo alone.
    """
    model, normalizer = content.get("model"), backend.normalizer
    vocab = model.get("vocab") if isinstance(model, dict) else None
    tokens = (entry[0] if isinstance(entry, list) and entry else entry for entry in vocab or ())
    steps = set(_kinds_of(_normalizers_in(content.get("normalizer"))))
    has_form = not steps.isdisjoint(("NFC", "NFD", "NFKC", "NFKD"))
    if not has_form and holds_hangul(token for token in tokens if isinstance(token, str)):
        backend.normalizer = normalizers.Sequence([normalizers.NFC(), *([] if normalizer is None else [normalizer])])
    return backend


def _decide_casing(vocab: Mapping[str, int], settings: Mapping[str, Any], otherwise: Casing) -> Casing:
    """Return the rule `otherwise`, with what tokenizer_config.json sets explicitly in its place."""
    given = {flag: settings[flag] for flag in CASING_FLAGS if settings.get(flag) is not None}
    if not given:
        return otherwise
    lower = given.get("do_lower_case", otherwise.do_lower_case)
    # Without a setting, BERT strips accents where it lower-cases; Hangul syllables must not be taken apart by that.
    strips = lower and not holds_hangul(vocab) if "do_lower_case" in given else otherwise.strip_accents
    strip = given.get("strip_accents", strips)
    return Casing(
        lower,
        strip,
        given.get("tokenize_chinese_chars", otherwise.tokenize_chinese_chars),
        "" if strip and otherwise.form == "NFC" else otherwise.form,
        "tokenizer_config.json" if "do_lower_case" in given else otherwise.source,
    )


def normalizer_of(casing: Casing, *, clean_text: bool = True) -> normalizers.Normalizer:
    """Return the Rust normalizer of a casing rule; with `clean_text` it drops control characters, as BERT's does."""
    bert = normalizers.BertNormalizer(
        clean_text=clean_text,
        handle_chinese_chars=casing.tokenize_chinese_chars,
        strip_accents=casing.strip_accents,
        lowercase=casing.do_lower_case,
    )
    return normalizers.Sequence([getattr(normalizers, casing.form)(), bert]) if casing.form else bert


def build_wordpiece(path: Path, vocab: dict[str, int], casing: Casing, special: Mapping[str, str]) -> Tokenizer:
    """Return BERT's tokenizer over a vocabulary read from `path`; `special` has the token of each role.

    A `ModelFolderError` if the vocabulary lacks a special token.
    """
    for role in ("unk_token", "cls_token", "sep_token", "pad_token"):
        if special[role] not in vocab:
            problem = f"lacks the special token {quoted(special[role])} ({role}): expected it in a BERT vocabulary"
            remedy = f"{USE_ITS_OWN}, or name the token in special_tokens_map.json"
            raise ModelFolderError(f"{shown(path)} {problem}", remedy)
    backend = Tokenizer(models.WordPiece(vocab, unk_token=special["unk_token"], max_input_chars_per_word=100))
    backend.normalizer = normalizer_of(casing)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    cls, sep = special["cls_token"], special["sep_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])],
    )
    present = [token for token in dict.fromkeys(special.values()) if token in vocab]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in present])
    return backend


def _wordpiece_from_json(
    path: Path, backend: Tokenizer, content: dict[str, Any], settings: Mapping[str, Any]
) -> _Parts:
    """Return the tokenizer of a WordPiece tokenizer.json, with the casing of tokenizer_config.json where that wins."""
    unknown = content["model"].get("unk_token")
    if unknown not in content["model"].get("vocab", {}):  # the Rust library notices it only at the first unknown word
        raise ModelFolderError(f"{shown(path)} lacks its own token for unknown words, {quoted(unknown)}")
    written = _written_casing(content.get("normalizer"))
    if written is None:
        return backend, None, ()
    vocab = content["model"]["vocab"]
    by_settings = _decide_casing(vocab, settings, written)
    reads_settings = settings.get("tokenizer_class") not in BACKEND_CLASSES
    casing = by_settings if reads_settings else written
    notes: tuple[str, ...] = ()
    differ = [flag for flag in CASING_FLAGS if getattr(by_settings, flag) != getattr(written, flag)]
    if differ:
        used = "tokenizer_config.json" if reads_settings else "tokenizer.json"
        notes = (f"tokenizer_config.json and tokenizer.json disagree on {', '.join(differ)}: {used} is used",)
    if not casing.form and not casing.strip_accents:
        casing = replace(casing, form=form_of_vocabulary(vocab))
    if replace(casing, source=written.source) != written:
        *_, bert = _normalizers_in(content["normalizer"])
        backend.normalizer = normalizer_of(casing, clean_text=bool(bert.get("clean_text", True)))
    return backend, casing, notes


def _written_casing(normalizer: Any) -> Casing | None:
    """Return the rule of a tokenizer.json's normalizer, or None where it is not BERT's."""
    parts = _normalizers_in(normalizer)
    kinds = _kinds_of(parts)
    if kinds[-1:] != ["BertNormalizer"] or len(kinds) > 2 or not all(kind in _FORMS for kind in kinds[:-1]):
        return None
    bert = parts[-1]
    lower = bool(bert.get("lowercase"))
    strip = lower if bert.get("strip_accents") is None else bool(bert["strip_accents"])
    form = _FORMS[kinds[0]] if len(kinds) == 2 else ""
    return Casing(lower, strip, bool(bert.get("handle_chinese_chars")), form, "tokenizer.json")


def _normalizers_in(normalizer: Any) -> list[dict[str, Any]]:
    """Return the normalizers of a sequence, or the single one, or an empty list."""
    inner = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    return [part for part in inner if isinstance(part, dict)] if isinstance(inner, list) else []


def _kinds_of(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the type of each normalizer; empty for one that is no text, which the Rust library lets pass."""
    return [kind if isinstance(kind, str) else "" for kind in (part.get("type") for part in parts)]


def _from_content(path: Path, data: bytes) -> Tokenizer:
    with rust_faults(f"{shown(path)} is not a tokenizer that the tokenizers library can read"):
        backend = Tokenizer.from_str(data.decode("utf-8-sig"))
    processor = backend.post_processor
    undefined = None if processor is None else _undefined_token(json.loads(processor.__getstate__()))
    if undefined is not None:
        problem = f"the template of post_processor puts the token {quoted(undefined)} around texts, but its"
        raise ModelFolderError(f"{shown(path)}: {problem} special_tokens do not define it", "copy the file again")
    if (backend.truncation or {}).get("direction", "right") != "right":
        problem = f"{shown(path)}: direction of truncation is 'Left', which is not applied"
        raise ModelFolderError(problem, "long texts are cut at their end here: set it to 'Right'")
    backend.no_truncation()
    backend.no_padding()
    return backend


def _check_ids(path: Path, vocab: Mapping[str, int]) -> None:
    """Refuse ids too large for an embedding table, and an id of two tokens, one of which saving would lose."""
    if max(vocab.values(), default=0) >= 2**31:
        raise ModelFolderError(f"{shown(path)} has token ids of 2^31 and more, which no embedding table has rows for")
    token_of = {id_: token for token, id_ in vocab.items()}
    if len(token_of) < len(vocab):
        first, id_ = next((token, id_) for token, id_ in vocab.items() if token_of[id_] != token)
        problem = f"gives {quoted(first)} and {quoted(token_of[id_])} the same id {id_}"
        raise ModelFolderError(f"{shown(path)} {problem}", USE_ITS_OWN)


def _undefined_token(processor: Mapping[str, Any]) -> str | None:
    """Return a token that a template uses but does not define, or None; the Rust library would panic on it."""
    parts = list(map(_undefined_token, processor.get("processors", ())))
    forms = [*processor.get("single", ()), *processor.get("pair", ())] if "special_tokens" in processor else []
    used = [piece["SpecialToken"]["id"] for piece in forms if "SpecialToken" in piece]
    parts += [token for token in used if token not in processor["special_tokens"]]
    return next((token for token in parts if token is not None), None)


def _convert(folder: Path, n_rows: int | None, add_prefix_space: bool) -> Tokenizer:
    """Return the byte-level BPE tokenizer (Sennrich et al. 2016; RoBERTa's) of vocab.json and merges.txt."""
    vocab = read_json(folder / "vocab.json", max_bytes=most_bytes(n_rows))
    try:
        lines = read_small(folder / "merges.txt", MAX_VOCAB_BYTES, "merges").decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ModelFolderError(f"{shown(folder / 'merges.txt')} is not UTF-8 (byte {error.start})") from error
    merges = [line.partition(" ")[::2] for line in lines if line and not line.startswith("#version")]
    missing = [token for token in ("<s>", "</s>", "<unk>", "<pad>") if token not in vocab]
    if missing or not all(left and right for left, right in merges):
        problem = f"vocab.json and merges.txt are not a RoBERTa vocabulary (missing: {missing})"
        raise ModelFolderError(f"{shown(folder)}: {problem}")
    with rust_faults(f"{shown(folder)}: vocab.json and merges.txt do not fit each other"):
        backend = Tokenizer(models.BPE(vocab, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.RobertaProcessing(("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]))
    backend.add_special_tokens([t for t in ("<s>", "</s>", "<unk>", "<pad>", "<mask>") if t in vocab])
    return backend


@dataclass(frozen=True)
class _Added:
    """Tokens that `file` adds with their ids, `more` that are listed without, and those that have a role there."""

    file: Path
    with_ids: tuple[tuple[int, AddedToken], ...]
    more: tuple[AddedToken, ...]
    of_roles: tuple[AddedToken, ...]


def _read_added(folder: Path, settings: Mapping[str, Any], special: frozenset[str]) -> _Added:
    """Return the tokens that other files add to the vocabulary, with the flags of transformers.

    These are added_tokens_decoder of tokenizer_config.json, or without it added_tokens.json; then the lists
    additional_special_tokens and extra_special_tokens, of tokenizer_config.json and special_tokens_map.json.
    """
    file, map_file = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
    decoder = settings.get("added_tokens_decoder")
    more = [
        _added_token(source, value, special=True)
        for source, content in ((file, settings), (map_file, read_json_if_there(map_file) if decoder is None else {}))
        for name in ("additional_special_tokens", "extra_special_tokens")
        if isinstance(content.get(name), list)
        for value in content[name]
    ]
    if decoder is None:
        file = folder / "added_tokens.json"
        named = special | {token.content for token in more}
        given = [
            (id_, _added_token(file, name, special=name in named)) for name, id_ in read_json_if_there(file).items()
        ]
    elif isinstance(decoder, dict):
        given = [(int(id_) if id_.isdecimal() else id_, _added_token(file, value)) for id_, value in decoder.items()]
    else:
        raise ModelFolderError(f"{shown(file)}: added_tokens_decoder is {quoted(decoder)}, expected tokens by id")
    for id_, token in given:
        if type(id_) is not int:
            problem = f"gives the added token {quoted(token.content)} the id {quoted(id_)}"
            raise ModelFolderError(f"{shown(file)} {problem}, expected a whole number")
    roles = tuple(
        _added_token(folder / "tokenizer_config.json", settings[name], special=True)
        for name in _MORE_ROLES
        if settings.get(name)
    )
    return _Added(file, tuple(given), tuple(more), roles)


def _add_tokens(backend: Tokenizer, added: _Added) -> None:
    """Add the tokens that other files add to the vocabulary, in the order of transformers."""
    file, given = added.file, added.with_ids
    known = {token.content: repr(token) for token in backend.get_added_tokens_decoder().values()}
    with rust_faults(f"{shown(file)} adds tokens that the tokenizers library does not take"):
        # in one call, since each call builds the search for all of them anew
        by_id = [token for _, token in sorted(given, key=lambda pair: pair[0])]
        backend.add_tokens([token for token in by_id if known.get(token.content) != repr(token)])
        for id_, token in given:
            if (found := backend.token_to_id(token.content)) != id_:
                problem = f"gives the added token {quoted(token.content)} the id {id_}, but after this vocabulary it is"
                raise ModelFolderError(f"{shown(file)} {problem} {found}", USE_ITS_OWN)
        there = {*known, *(token.content for token in by_id)}
        roles = [token for token in added.of_roles if backend.token_to_id(token.content) is not None]
        backend.add_tokens([token for token in (*added.more, *roles) if token.content not in there])


def _added_token(file: Path, value: object, *, special: bool = False) -> AddedToken:
    """Return a token from its text, or from its text and flags."""
    plain = {"content": value, "normalized": not special}
    flags = {"special": special, **(value if isinstance(value, dict) else plain)}
    flags.pop("__type", None)
    content = flags.pop("content", None)
    kinds = {type(flag) for flag in flags.values()}
    if not isinstance(content, str) or not content or kinds != {bool} or not flags.keys() <= _TOKEN_FLAGS:
        expected = f"a text, or a text and some of {', '.join(sorted(_TOKEN_FLAGS))} as true or false"
        raise ModelFolderError(f"{shown(file)} adds the token {quoted(value, limit=100)}, expected {expected}")
    return AddedToken(content, **flags)


def _special_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the token of each role: of tokenizer_config.json, else of special_tokens_map.json, else BERT's."""
    mapped = read_json_if_there(folder / "special_tokens_map.json")
    tokens = {}
    for role, (default, _) in USUAL_TOKENS.items():
        value = settings.get(role) or mapped.get(role) or default
        token = value.get("content", default) if isinstance(value, dict) else value
        if not isinstance(token, str):
            raise ModelFolderError(f"{shown(folder)}: {role} of the tokenizer is {quoted(token)}, expected a text")
        tokens[role] = token
    return tokens
