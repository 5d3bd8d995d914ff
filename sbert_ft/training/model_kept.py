"""The caller's model as it was, where training it fails or is interrupted.

Training changes weights in place, and a loss that is no number leaves weights that are none. Who calls from Python goes
on with the model that was handed over, so its state is kept beside it until the run has come to its end: one copy of
the weights, in the memory of the machine and not of its GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sbert_ft.training.encoder_setup import Trainee

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
    kept = [{key: tensor.to("cpu", copy=True) for key, tensor in module.state_dict().items()} for module in modules]
    trained_before = [parameter.requires_grad for parameter in encoder.parameters()]
    try:
        yield
    except BaseException:
        for name, value in facts.items():
            setattr(model, name, value)
        for module, tensors in zip(modules, kept, strict=True):
            module.load_state_dict(tensors)
        for parameter, is_trained in zip(encoder.parameters(), trained_before, strict=True):
            parameter.requires_grad_(is_trained)
        model.eval()
        raise
