"""Read the tokenizer of a model folder, and check that it fits the encoder; nothing here needs torch."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sbert_ft.errors import ModelFolderError, shown
from sbert_ft.files.strict_json import read_json_if_there
from sbert_ft.model_folder.layout import ModelFolder, unused_parts
from sbert_ft.tokenization.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncoderLimits:
    """What an encoder accepts: rows of its embedding table, kinds of token types, and tokens of the longest text."""

    n_rows: int
    n_types: int
    max_tokens: int


def read_tokenizer_of(source: ModelFolder, n_rows: int | None) -> TextTokenizer:
    """Return the folder's tokenizer; `n_rows` of the embedding table limit its size, None if they are not known."""
    model_type = str(source.config.get("model_type", "bert"))
    config_class = source.config.get("tokenizer_class")
    tokenizer = TextTokenizer.from_pretrained(source.encoder_path, model_type, n_rows, config_class)
    if source.lower_case_first:
        tokenizer.lower_case_first()
    return tokenizer


def read_checked_tokenizer(source: ModelFolder, limits: EncoderLimits) -> TextTokenizer:
    """Return the folder's tokenizer, checked against the embedding table; log what the user should know.

    Raises:
        ModelFolderError: The tokenizer is damaged or not supported, or does not fit the encoder.
    """
    tokenizer = read_tokenizer_of(source, limits.n_rows)
    if limits.n_types < 2:
        tokenizer.drop_token_types()
    limit = read_json_if_there(source.encoder_path / "tokenizer_config.json").get("model_max_length")
    tokenizer.model_max_length = limits.max_tokens
    if isinstance(limit, (int, float)) and 3 <= limit < limits.max_tokens:
        tokenizer.model_max_length = int(limit)
    check_room(tokenizer, source, limits.max_tokens)
    n_tokens, n_rows, folder = tokenizer.vocab_size, limits.n_rows, shown(source.encoder_path)
    if n_tokens > n_rows:
        is_by_added = tokenizer.backend.get_vocab_size(with_added_tokens=False) <= n_rows
        added = " with the tokens that other files add" if is_by_added else ""
        file = shown(tokenizer.files[0])
        raise ModelFolderError(
            f"{file}: the vocabulary{added} has {n_tokens:,} tokens, but vocab_size in config.json gives the embedding "
            f"table {n_rows:,} rows",
            "use the vocabulary that belongs to these weights",
        )
    if n_tokens == n_rows - 1:
        message = "%s: the vocabulary is one token short of the embedding table (%d of %d); %s"
        lost = "if a line was lost, all tokens after it have wrong vectors"
        logger.warning(message, folder, n_tokens, n_rows, lost)
    for note in (*unused_parts(source), *(f"{folder}: {note}" for note in tokenizer.notes)):
        logger.warning("%s", note)
    return tokenizer


def check_room(tokenizer: TextTokenizer, source: ModelFolder, max_tokens: int) -> None:
    """Raise a `ModelFolderError` if special tokens fill the folder's max_seq_length or all positions."""
    longest = min(source.max_seq_length or max_tokens, max_tokens)
    if tokenizer.n_special >= longest:
        raise ModelFolderError(
            f"{shown(source.encoder_path)}: the tokenizer puts {tokenizer.n_special} special tokens around a text, but "
            f"a text may have {longest} tokens in all",
            "use the tokenizer that belongs to these weights",
        )
