"""Set an encoder up for training (freezing, dropout, gradient checkpointing), and restore it afterwards."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sbert_ft.config.settings import ModelSettings, RunSettings
from sbert_ft.encoder.dropout import dropout_set_to
from sbert_ft.encoder.spec import LAYER
from sbert_ft.errors import InputError
from sbert_ft.models.classifier import TrainableModel
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.training.sparse_embedding import word_gradients_by_row

if TYPE_CHECKING:
    from sbert_ft.training.text_decoder import TextDecoder

_EMBEDDINGS = re.compile(r"(?:^|\.)\w*embeddings?\w*\.")
# Attributes that a run or `fit` sets on a model besides its weights.
_FACTS = (
    "decision",
    "score_scale",
    "temperature",
    "head",
    "_classes",
    "prompts",
    "default_prompt_name",
    "pair_prompts",
)


def trained_module(model: TrainableModel) -> nn.Module:
    """Return the module that is trained and saved in checkpoints: the encoder, with the head if there is one."""
    module: nn.Module = model.bert.encoder if isinstance(model, SiameseBert) else model.trained
    return module


@contextmanager
def set_up_for_training(
    encoder: PreTrainedModel, settings: RunSettings, decoder: TextDecoder | None = None, *, by_row: bool = True
) -> Iterator[None]:
    """Prepare the encoder as the settings say; after the block all but its weights is restored, in eval mode.

    The dropout of a decoder is set too. `by_row` says that the gradient of the word table has only the rows of a
    batch's tokens. Errors as in `check_encoder`.
    """
    check_encoder(encoder, settings)
    trained_before = [parameter.requires_grad for parameter in encoder.parameters()]
    is_checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in encoder.modules())
    checkpointing = settings.training.gradient_checkpointing and not is_checkpointing
    networks = nn.ModuleList([encoder] if decoder is None else [encoder, decoder.network])
    with dropout_set_to(networks, settings.model.dropout):
        try:
            for parameter in frozen_parameters(encoder, settings.model):
                parameter.requires_grad_(False)
            if checkpointing:
                _newest(encoder, "checkpointing_enable")({"use_reentrant": False})
                # Remove the hook for reentrant checkpointing (inputs with a gradient), which would stay after training.
                encoder.disable_input_require_grads()
            # the scaler of float16 needs dense gradients
            with word_gradients_by_row(encoder, wanted=by_row and settings.training.precision != "float16"):
                yield
        finally:
            for parameter, is_trained in zip(encoder.parameters(), trained_before, strict=True):
                parameter.requires_grad_(is_trained)
            encoder.eval()
            if checkpointing:
                _newest(encoder, "checkpointing_disable")()


def check_encoder(encoder: PreTrainedModel, settings: RunSettings) -> None:
    """Check that the encoder can be trained with the settings, before anything is computed.

    Raises:
        InputError: As in `frozen_parameters`, or the encoder does not support gradient checkpointing.
    """
    frozen_parameters(encoder, settings.model)
    if settings.training.gradient_checkpointing and not encoder.supports_gradient_checkpointing:
        kind = encoder.config.model_type
        raise InputError(
            f"training.gradient_checkpointing: transformers does not support it for {kind} encoders", "set it to false"
        )


def frozen_parameters(encoder: nn.Module, settings: ModelSettings) -> list[nn.Parameter]:
    """Return the parameters that are not trained: those that the settings freeze, and those already frozen.

    Raises:
        InputError: More layers are to be frozen than there are, or every weight is frozen.
    """
    layers = {int(found[1]) for name, _ in encoder.named_parameters() if (found := LAYER.search(name))}
    if settings.freeze_layers > len(layers):
        raise InputError(
            f"model.freeze_layers is {settings.freeze_layers}, but the encoder has {len(layers)} layers with weights "
            f"of their own",
            f"give a number from 0 to {len(layers)}",
        )
    frozen = []
    for name, parameter in encoder.named_parameters():
        layer = LAYER.search(name)
        in_embeddings = layer is None and _EMBEDDINGS.search(name) is not None
        named = int(layer[1]) < settings.freeze_layers if layer else in_embeddings and settings.freeze_embeddings
        if named or not parameter.requires_grad:
            frozen.append(parameter)
    if len(frozen) == len(list(encoder.parameters())) and settings.kind in ("siamese", "masked_lm"):  # a new head
        raise InputError(
            "every weight is frozen, by model.freeze_layers and model.freeze_embeddings or by requires_grad",
            "leave some to train",
        )
    return frozen


def trained_parameters(
    model: TrainableModel, settings: ModelSettings, module: nn.Module | None = None
) -> dict[str, nn.Parameter]:
    """Return the parameters of `module` that a run trains, by name; errors as in `frozen_parameters`.

    None for the `trained_module` of the model.
    """
    frozen = {id(parameter) for parameter in frozen_parameters(model.bert.encoder, settings)}
    named = (trained_module(model) if module is None else module).named_parameters()
    return {name: parameter for name, parameter in named if parameter.requires_grad and id(parameter) not in frozen}


def _newest(encoder: PreTrainedModel, action: str) -> Callable[..., Any]:
    """Return a method of the encoder that was renamed within transformers 5, under either name."""
    newer, older = f"activation_{action}", f"gradient_{action}"
    method: Callable[..., Any] = getattr(encoder, newer if hasattr(encoder, newer) else older)
    return method


@contextmanager
def put_back_on_failure(model: TrainableModel, *, weights: bool = True) -> Iterator[None]:
    """Restore the model if the block raises: weights, head, classes and decision; it is then in eval mode.

    Without `weights` the block does not change those, and no copy of them is needed.
    """
    encoder, facts = model.bert.encoder, {name: getattr(model, name) for name in _FACTS if hasattr(model, name)}
    modules = [module for module in (encoder, facts.get("head")) if weights and module is not None]
    tensors = [tensor for module in modules for tensor in module.state_dict().values()]  # not copied
    trained_before = [parameter.requires_grad for parameter in encoder.parameters()]
    with _copied(tensors) as file:
        try:
            yield
        except BaseException:
            for name, value in facts.items():
                setattr(model, name, value)
            file.seek(0)
            for tensor in tensors:
                data = bytearray(file.read(tensor.numel() * tensor.element_size()))
                if data:
                    tensor.copy_(torch.frombuffer(data, dtype=tensor.dtype).reshape(tensor.shape))
            for parameter, is_trained in zip(encoder.parameters(), trained_before, strict=True):
                parameter.requires_grad_(is_trained)
            model.eval()
            raise


@contextmanager
def _copied(tensors: Sequence[Tensor]) -> Iterator[IO[bytes]]:
    """Yield a temporary file with the bytes of all tensors, one after another; in memory if there is no space."""
    with ExitStack() as files:
        try:
            file: IO[bytes] = files.enter_context(tempfile.TemporaryFile(prefix="sbert-ft-"))
            _write(tensors, file)
        except OSError:  # no writable folder for temporary files, or not enough space in it
            files.close()
            file = files.enter_context(io.BytesIO())
            _write(tensors, file)
        yield file


def _write(tensors: Sequence[Tensor], file: IO[bytes]) -> None:
    for tensor in tensors:
        file.write(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    file.flush()
