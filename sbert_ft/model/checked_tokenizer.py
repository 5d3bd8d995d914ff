"""A folder's tokenizer held against its encoder, so that a vocabulary of other weights is found before it is used."""

from __future__ import annotations

import logging

from sbert_ft.encoder.spec import EncoderPlan
from sbert_ft.errors import ModelFolderError, shown
from sbert_ft.model.tokenizer import TextTokenizer
from sbert_ft.model_folder.layout import ModelFolder, unused_parts

logger = logging.getLogger(__name__)


def read_checked_tokenizer(source: ModelFolder, plan: EncoderPlan) -> TextTokenizer:
    """Return the folder's tokenizer, held against the embedding table.

    Raises:
        ModelFolderError: Missing, damaged, or with more tokens than the table has rows.
    """
    n_rows = int(plan.config.vocab_size)
    tokenizer = TextTokenizer.from_pretrained(source.encoder_path, plan.config.model_type, n_rows)
    if source.lower_case_first:
        tokenizer.lower_case_first()
    if int(getattr(plan.config, "type_vocab_size", 0) or 0) < 2:
        tokenizer.drop_token_types()
    check_room(tokenizer, source, plan)
    n_tokens = tokenizer.vocab_size
    if n_tokens > n_rows:
        names = ("tokenizer.json", "vocab.txt", "vocab.json")
        file = next(file for name in names if (file := source.encoder_path / name).exists())
        raise ModelFolderError(
            f"{shown(file)}: the vocabulary has {n_tokens:,} tokens, but vocab_size in config.json gives the "
            f"embedding table {n_rows:,} rows; take the vocabulary that belongs to these weights"
        )
    if n_tokens == n_rows - 1:
        logger.warning(
            "%s: the vocabulary is one token short of the embedding table (%d of %d); a lost line would shift all "
            "that follow it",
            shown(source.encoder_path),
            n_tokens,
            n_rows,
        )
    for note in unused_parts(source):
        logger.warning("%s", note)
    for note in tokenizer.notes:
        logger.warning("%s: %s", shown(source.encoder_path), note)
    return tokenizer


def check_room(tokenizer: TextTokenizer, source: ModelFolder, plan: EncoderPlan) -> None:
    """Refuse a tokenizer whose special tokens leave no room for a text.

    Raises:
        ModelFolderError: They fill the folder's max_seq_length, or all positions.
    """
    longest = min(source.max_seq_length or plan.max_tokens, plan.max_tokens)
    if tokenizer.n_special >= longest:
        raise ModelFolderError(
            f"{shown(source.encoder_path)}: the tokenizer puts {tokenizer.n_special} special tokens around a text, but "
            f"a text may have {longest} tokens in all; take the tokenizer that belongs to these weights"
        )
