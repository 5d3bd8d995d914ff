"""Make the folder of a new vocabulary, or that of a model whose vocabulary has grown.

A new vocabulary lies beside the config.json of a BERT without weights, from which `ConnectionBert.from_config` starts.
In a grown model the tensors with a row for each token get rows for the new pieces: the mean of the rows of the old
pieces that stood in their place, so that training begins near what the model knew. All other weights and the old rows
stay as they are, and so does the vector of a text without new pieces.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tokenizers import pre_tokenizers

from sbert_ft.arguments import path_argument, whole_number
from sbert_ft.errors import InputError, ModelFolderError, OutputError, listed, quoted, shown
from sbert_ft.files.atomic import json_bytes
from sbert_ft.model_folder.layout import ModelFolder, read_folder
from sbert_ft.model_folder.tensor_names import check_match, match_names
from sbert_ft.models.folder_tokenizer import EncoderLimits, read_checked_tokenizer
from sbert_ft.tokenization.loading import normalizer_of
from sbert_ft.tokenization.tokenizer import TextTokenizer
from sbert_ft.tokenization.vocabulary import Casing
from sbert_ft.tokenization.wordpiece import (
    NewPiece,
    bert_tokenizer,
    check_rereadable,
    check_wordpiece,
    choose_pieces,
    train_wordpiece,
)

if TYPE_CHECKING:
    from torch import Tensor

    from sbert_ft.encoder.spec import EncoderPlan
    from sbert_ft.model_folder.weights import WeightFiles

_MAX_TOKENS: Final = 512
_HEAD_WIDTH: Final = 64
_OF_A_TOKENIZER: Final = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
# How the names of the tensors end with which heads predict a token.
_OF_TOKENS: Final = re.compile(
    r"(^|\.)((vocab_projector|generator_lm_head)\.(weight|bias)"
    r"|(cls\.predictions|lm_head)\.(decoder\.(weight|bias)|bias))$"
)
_BUFFER: Final = re.compile(r"(^|\.)embeddings\.(position_ids|token_type_ids)$")
# Files of a folder that are part of the model beside its weights and its tokenizer.
_KEPT: Final = re.compile(r".*\.(json|md|txt)|LICENSE.*|NOTICE.*|head\.safetensors|model_head\.pkl", re.IGNORECASE)
_NOT_KEPT: Final = re.compile(r".*\.index\.json|trainer_state\.json|.*_args\.json")


@dataclass(frozen=True)
class VocabularyExtension:
    """What was added to a model's vocabulary.

    Attributes:
        pieces: The new pieces, best first; the first one has the id `before.vocab_size`.
        before: The tokenizer of the model.
        after: The tokenizer with the new pieces.
        left_out: Files and folders of the model that were not copied, such as exports of the old weights.
    """

    pieces: tuple[NewPiece, ...]
    before: TextTokenizer
    after: TextTokenizer
    left_out: tuple[str, ...]


def train_vocabulary(
    texts: Iterable[str],
    folder: str | Path,
    size: int = 30_000,
    cased: bool = False,
    n_layers: int = 12,
    hidden_size: int = 768,
) -> TextTokenizer:
    """Train a WordPiece vocabulary, write it with the config.json of a BERT, and return its tokenizer.

    Texts are composed (NFC), lower-cased unless `cased`, and keep their accents, so that Hangul stays whole. The same
    texts give the same files. See `train_wordpiece` for which pieces there are.

    Args:
        texts: Texts; read twice.
        folder: A folder that is empty or does not exist, or has a vocabulary from here, which is replaced.
        size: Tokens of the vocabulary, the special ones among them; fewer if the texts do not give as many.
        cased: Whether capital letters are kept.
        n_layers: Layers of the BERT in config.json.
        hidden_size: Its width, a multiple of 64: each attention head has a width of 64.

    Raises:
        InputError: An argument or a text is not valid.
        OutputError: The folder holds something else or cannot be written.
    """
    target = path_argument(folder, "folder")
    n_layers = whole_number(n_layers, "n_layers", 1, 1000)
    if (hidden_size := whole_number(hidden_size, "hidden_size", _HEAD_WIDTH, 2**16)) % _HEAD_WIDTH:
        raise InputError(f"hidden_size is {hidden_size}, expected a multiple of {_HEAD_WIDTH}, the width of a head")
    check_is_free(target, (*_OF_A_TOKENIZER, "config.json"))
    casing = Casing(not cased, False, True, "NFC", "sbert_ft")
    tokens = train_wordpiece(texts, size, normalizer_of(casing), pre_tokenizers.BertPreTokenizer())
    tokenizer = bert_tokenizer(target / "vocab.txt", {token: i for i, token in enumerate(tokens)}, casing)
    from sbert_ft.model_folder.writer import write_folder

    def write(staging: Path) -> None:
        (staging / "config.json").write_bytes(json_bytes(_bert_config(len(tokens), n_layers, hidden_size)))
        tokenizer.save_pretrained(staging, _MAX_TOKENS)

    write_folder(target, write)
    return tokenizer


def extend_vocabulary(
    model_folder: str | Path, texts: Iterable[str], folder: str | Path, n_pieces: int = 2000
) -> VocabularyExtension:
    """Add pieces with which texts have fewer tokens and unknown words to a WordPiece vocabulary, and write the model.

    See `choose_pieces` for which ones. Old pieces keep their ids, and a text without new pieces its vector; train the
    model on (fine-tuning or masked words), since the rows of new pieces are only means.

    Args:
        model_folder: A folder of a BERT or another encoder with WordPiece, of sentence-transformers or of a classifier.
        texts: Texts; read five times.
        folder: A folder that is empty or does not exist.
        n_pieces: How many pieces to add at most.

    Raises:
        ModelFolderError: The model cannot be read, or its tokenizer or one of its tensors cannot be extended.
        InputError: An argument or a text is not valid.
        OutputError: The folder holds something or cannot be written.
    """
    from sbert_ft.encoder.spec import plan_encoder
    from sbert_ft.model_folder.weights import find_weights, read_tensors
    from sbert_ft.model_folder.writer import write_folder, write_weights

    target = path_argument(folder, "folder")
    check_rereadable(texts)
    check_is_free(target, ())
    source = read_folder(model_folder)
    weights = find_weights(source.encoder_path)
    plan = plan_encoder(source.config, source.config_file, len(weights.tensors))
    match = match_names(weights.tensors, plan.shapes, plan.base_prefix)
    check_match(match, source.encoder_path)
    n_rows, n_types = int(plan.config.vocab_size), int(getattr(plan.config, "type_vocab_size", None) or 0)
    before = read_checked_tokenizer(source, EncoderLimits(n_rows, n_types, plan.max_tokens))
    check_wordpiece(before)
    wider = plan_encoder({**source.config, "vocab_size": n_rows + 1}, source.config_file).shapes
    tables = {match.names[name] for name, shape in plan.shapes.items() if wider[name] != shape}
    tables |= _heads_over_tokens(weights, {*match.names.values(), *match.poolers.values()}, plan, source)
    kept, left_out = _other_files(source, weights)

    pieces = choose_pieces(before, texts, n_pieces)
    after = before.with_pieces([piece.token for piece in pieces])
    tensors = read_tensors(weights, {key: key for key in weights.tensors if not _BUFFER.search(key)})
    for key in tables:
        tensors[key] = _with_rows(tensors[key], pieces, before.vocab_size)
    config = {key: value for key, value in source.config.items() if key != "torch_dtype"}
    config |= {"vocab_size": max(n_rows, after.vocab_size), "dtype": "float32"}

    def write(staging: Path) -> None:
        for path in kept:
            copy = staging / path.relative_to(source.path)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
        inner = staging / source.encoder_path.relative_to(source.path)
        inner.mkdir(exist_ok=True)
        write_weights(config, tensors, inner)
        after.save_pretrained(inner, before.model_max_length or plan.max_tokens)

    write_folder(target, write)
    return VocabularyExtension(tuple(pieces), before, after, left_out)


def check_is_free(folder: Path, ours: Collection[str]) -> None:
    """Raise an `OutputError` if a folder holds anything but all the files `ours`, which may be replaced."""
    try:
        there = os.listdir(folder) if os.path.lexists(folder) else []
    except NotADirectoryError:
        raise OutputError(f"{shown(folder)} is a file: expected a folder that is empty or does not exist") from None
    except (OSError, ValueError) as error:  # a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{shown(folder)} cannot be a folder to write to: {reason}") from error
    if there and set(there) != set(ours):
        problem = f"{shown(folder)} holds {listed(sorted(there), 3)}; expected a folder that is empty or does not exist"
        raise OutputError(problem, "give another folder")


def _bert_config(n_tokens: int, n_layers: int, hidden_size: int) -> dict[str, Any]:
    """Return the content of the config.json of a BERT in the proportions of the original."""
    from transformers import BertConfig

    config = BertConfig(
        vocab_size=n_tokens,
        hidden_size=hidden_size,
        num_hidden_layers=n_layers,
        num_attention_heads=hidden_size // _HEAD_WIDTH,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=_MAX_TOKENS,
    )
    return {key: value for key, value in config.to_dict().items() if not key.startswith("_") and value is not None}


def _heads_over_tokens(
    weights: WeightFiles, others: Collection[str], plan: EncoderPlan, source: ModelFolder
) -> set[str]:
    """Return the keys of the heads' tensors that have a row for each token; `others` are those of the encoder.

    Raises:
        ModelFolderError: A tensor has as many rows as the table of words, but is not known to belong to the tokens.
    """
    n_rows, found = int(plan.config.vocab_size), set()
    for key, info in weights.tensors.items():
        if key in others or _BUFFER.search(key) or info.shape[:1] != (n_rows,):
            continue
        if _OF_TOKENS.search(key):
            found.add(key)
        elif n_rows != plan.config.hidden_size:
            problem = f"the tensor {quoted(key)} has {n_rows:,} rows, as many as the table of words; expected only the"
            problem = f"{shown(source.encoder_path)}: {problem} output layer of masked words, which is known by name"
            raise ModelFolderError(problem, "save the encoder without this head")
    return found


def _with_rows(table: Tensor, pieces: Sequence[NewPiece], first: int) -> Tensor:
    """Return a table with rows, from `first` on, that are means of the rows of old pieces; shape (rows, ...)."""
    grown = table.new_zeros(max(len(table), first + len(pieces)), *table.shape[1:])
    grown[: len(table)] = table
    for row, piece in enumerate(pieces, first):
        grown[row] = table[list(piece.made_of)].mean(0)
    return grown


def _other_files(source: ModelFolder, weights: WeightFiles) -> tuple[list[Path], tuple[str, ...]]:
    """Return the files of a model beside weights and tokenizer, and the names of what is not a part of it."""
    folders = (source.path, source.encoder_path, *source.module_paths)
    written = {*weights.files, weights.index, *(source.encoder_path / name for name in _OF_A_TOKENIZER)}
    kept: list[Path] = []
    left_out: list[str] = []
    for folder in dict.fromkeys(folders):
        for path in sorted(folder.iterdir()):
            if path in folders or path in written or path.name.startswith("."):
                continue
            if path.is_file() and _KEPT.fullmatch(path.name) and not _NOT_KEPT.fullmatch(path.name):
                kept.append(path)
            else:
                left_out.append(path.relative_to(source.path).as_posix() + "/" * path.is_dir())
    return kept, tuple(left_out)
