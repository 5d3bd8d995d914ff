"""A model as sentence-transformers' own class, around the very same encoder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import device

from sbert_ft.model_folder.layout import Similarity

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel


def around_encoder(
    encoder: PreTrainedModel, save: Callable[[str], None], target: device, similarity: Similarity
) -> SentenceTransformer:
    """Return a `SentenceTransformer` whose encoder is the given one, so that training one trains the other.

    That class is made from a folder, so one is written to a temporary place; the encoder read from it is then replaced.

    Args:
        encoder: The stock module.
        save: Writes the model's folder to the path that it is given.
        target: Where the encoder's weights are.
        similarity: How vectors are compared.
    """
    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        model = SentenceTransformer(folder, device=str(target), local_files_only=True)
    model[0].model = encoder
    model.similarity_fn_name = similarity
    return model.eval()
