"""An encoder as it is trained (frozen in part, with another dropout, activations computed twice), and back again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

from sbert_ft.config.settings import ModelSettings, RunSettings
from sbert_ft.errors import InputError
from sbert_ft.model.dropout import dropout_set_to

_LAYER = re.compile(r"(?:^|\.)(?:layer|layers|block|blocks)\.(\d+)\.")
_EMBEDDINGS = re.compile(r"(?:^|\.)\w*embeddings?\w*\.")


@contextmanager
def set_up_for_training(encoder: PreTrainedModel, settings: RunSettings) -> Iterator[None]:
    """Prepare the encoder as the settings say; when the block ends, it is as it was but for its weights.

    Raises:
        InputError: More layers are to be frozen than there are, or the encoder knows no checkpointing.
    """
    frozen = frozen_parameters(encoder, settings.model)
    wanted = settings.training.gradient_checkpointing
    with dropout_set_to(encoder, settings.model.dropout):
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            if wanted:
                _checkpoint_activations(encoder)
            yield
        finally:
            encoder.requires_grad_(True)
            encoder.eval()
            if wanted:
                _newest(encoder, "checkpointing_disable")()


def frozen_parameters(encoder: nn.Module, settings: ModelSettings) -> list[nn.Parameter]:
    """Return the parameters that are not to be trained.

    Raises:
        InputError: More layers are to be frozen than there are, or all there is.
    """
    layers = {int(found[1]) for name, _ in encoder.named_parameters() if (found := _LAYER.search(name))}
    if settings.freeze_layers > len(layers):
        raise InputError(
            f"model.freeze_layers is {settings.freeze_layers}, but the encoder has {len(layers)} layers of its own; "
            f"give a number from 0 to {len(layers)}"
        )
    frozen = []
    for name, parameter in encoder.named_parameters():
        layer = _LAYER.search(name)
        in_embeddings = layer is None and _EMBEDDINGS.search(name) is not None
        if (layer is not None and int(layer[1]) < settings.freeze_layers) or (
            in_embeddings and settings.freeze_embeddings
        ):
            frozen.append(parameter)
    if len(frozen) == len(list(encoder.parameters())):
        raise InputError("model.freeze_layers and model.freeze_embeddings freeze every weight; leave some to train")
    return frozen


def _checkpoint_activations(encoder: PreTrainedModel) -> None:
    try:
        _newest(encoder, "checkpointing_enable")()
    except ValueError as error:
        raise InputError(f"training.gradient_checkpointing: {error}; set it to false") from error


def _newest(encoder: PreTrainedModel, action: str):  # type: ignore[no-untyped-def]
    """Return a method that was renamed on the way through transformers 5."""
    return getattr(encoder, f"activation_{action}", None) or getattr(encoder, f"gradient_{action}")
