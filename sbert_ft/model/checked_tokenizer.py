"""A folder's tokenizer held against its encoder, so that a vocabulary of other weights is found before it is used."""

from __future__ import annotations

import logging

from sbert_ft.errors import ModelFolderError
from sbert_ft.model.encoders import EncoderPlan
from sbert_ft.model.folder import ModelFolder
from sbert_ft.model.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)


def read_checked_tokenizer(source: ModelFolder, plan: EncoderPlan) -> TextTokenizer:
    """Return the folder's tokenizer, held against the embedding table.

    Raises:
        ModelFolderError: Missing, damaged, or with more tokens than the table has rows.
    """
    tokenizer = TextTokenizer.from_pretrained(source.encoder_path, plan.config.model_type)
    if source.lower_case_first:
        tokenizer.lower_case_first()
    if int(getattr(plan.config, "type_vocab_size", 0) or 0) < 2:
        tokenizer.drop_token_types()
    n_tokens, n_rows = tokenizer.vocab_size, int(plan.config.vocab_size)
    if n_tokens > n_rows:
        names = ("tokenizer.json", "vocab.txt", "vocab.json")
        file = next(file for name in names if (file := source.encoder_path / name).exists())
        raise ModelFolderError(
            f"{file}: the vocabulary has {n_tokens:,} tokens, but vocab_size in config.json gives the embedding table "
            f"{n_rows:,} rows; take the vocabulary that belongs to these weights"
        )
    if n_tokens == n_rows - 1:
        logger.warning(
            "%s: the vocabulary is one token short of the embedding table (%d of %d); a lost line would shift all "
            "that follow it",
            source.encoder_path,
            n_tokens,
            n_rows,
        )
    for note in tokenizer.notes:
        logger.warning("%s: %s", source.encoder_path, note)
    return tokenizer
