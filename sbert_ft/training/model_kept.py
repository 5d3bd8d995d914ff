"""The caller's model as it was, where training it fails or is interrupted.

Training changes weights in place, and a loss that is no number leaves weights that are none. Who calls from Python goes
on with the model that was handed over, so its weights are kept until the run has come to its end: in a temporary file
that has no name, so that memory holds them once and a killed process leaves nothing; in memory where there is no room
for such a file.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

import torch
from torch import Tensor, nn

from sbert_ft.models.classifier import Trainee

# What a run or `fit` sets on a model besides its weights.
_FACTS = ("decision", "score_scale", "temperature", "head", "_classes")


@contextmanager
def put_back_on_failure(model: Trainee, *, weights: bool = True) -> Iterator[None]:
    """Leave the model as it was where the block raises: weights, head, classes, decision, and in eval.

    Args:
        model: The caller's.
        weights: Whether the block may change them, so that they have to be kept.
    """
    encoder, facts = model.bert.encoder, {name: getattr(model, name) for name in _FACTS if hasattr(model, name)}
    modules = [module for module in (encoder, facts.get("head")) if weights and module is not None]
    trained_before = [parameter.requires_grad for parameter in encoder.parameters()]
    with _kept(modules) as file:
        try:
            yield
        except BaseException:
            for name, value in facts.items():
                setattr(model, name, value)
            _put_back(modules, file)
            for parameter, is_trained in zip(encoder.parameters(), trained_before, strict=True):
                parameter.requires_grad_(is_trained)
            model.eval()
            raise


@contextmanager
def _kept(modules: Sequence[nn.Module]) -> Iterator[IO[bytes]]:
    """Return a file with the bytes of all tensors of the modules, one after the other."""
    with ExitStack() as files:
        try:
            file: IO[bytes] = files.enter_context(tempfile.TemporaryFile(prefix="sbert-ft-"))
            _write(modules, file)
        except OSError:  # no folder for temporary files that may be written, or no room in it
            files.close()
            file = files.enter_context(io.BytesIO())
            _write(modules, file)
        yield file


def _write(modules: Sequence[nn.Module], file: IO[bytes]) -> None:
    for tensor in _tensors(modules):
        file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    file.flush()


def _put_back(modules: Sequence[nn.Module], file: IO[bytes]) -> None:
    file.seek(0)
    for tensor in _tensors(modules):
        if tensor.numel():
            data = bytearray(file.read(tensor.numel() * tensor.element_size()))
            with torch.no_grad():
                tensor.copy_(torch.frombuffer(data, dtype=tensor.dtype).reshape(tensor.shape))


def _tensors(modules: Sequence[nn.Module]) -> Iterator[Tensor]:
    for module in modules:
        yield from module.state_dict().values()
