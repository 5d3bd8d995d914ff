"""Dropout whose mask elements are drawn four at a time on a CPU, and are still independent.

On a CPU drawing the mask elements one by one takes a fifth of a training step. Here one 64-bit draw gives four elements
of 16 bits each, which takes a fifth of the time (see `benchmarks/LOG.md`); the rate is rounded to a multiple of 2**-16.
The draws come from numpy's SFC64, which is twice as fast as torch's generator. Torch's generator gives each layer and
step a seed of 62 bits, so its state determines what will be dropped. On other devices torch's own kernel is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LEVELS = 1 << 16
_RATE = "attention_dropout"


def dropout(activation: Tensor, rate: float) -> Tensor:
    """Return `activation` with each element zeroed with probability `rate`, and the others scaled up by 1 / (1 - rate).

    Srivastava et al. 2014, section 10 (inverted dropout: scaled in training, not in inference).
    """
    n_zeroed = round(rate * _LEVELS)
    if activation.device.type != "cpu" or not 0 < n_zeroed < _LEVELS:
        return F.dropout(activation, rate)
    n = activation.numel()
    seed = int(torch.randint(1 << 62, (), dtype=torch.int64))
    draws = np.random.SFC64(seed).random_raw(-(-n // 4))
    kept = torch.from_numpy(draws.view(np.int16))[:n] >= n_zeroed - _LEVELS // 2
    factors = kept.to(activation.dtype).mul_(_LEVELS / (_LEVELS - n_zeroed))
    return activation * factors.view(activation.shape)


class FastDropout(nn.Dropout):
    """`nn.Dropout` that uses the function `dropout` of this module."""

    def forward(self, input: Tensor) -> Tensor:
        """Return `input` with dropout while training, unchanged otherwise."""
        return dropout(input, self.p) if self.training and self.p > 0 else input


def use_fast_dropout(module: nn.Module) -> None:
    """Replace every plain `nn.Dropout` in `module` by a `FastDropout` with the same rate."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, FastDropout(child.p).train(child.training))


def _rate_places(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return where the rates are: each module with the name of the attribute."""
    places: list[tuple[nn.Module, str]] = [(layer, "p") for layer in module.modules() if isinstance(layer, nn.Dropout)]
    # ModernBERT stores the rate of attention weights as a number, not as a layer
    return places + [
        (layer, _RATE) for layer in module.modules() if isinstance(getattr(layer, _RATE, None), (int, float))
    ]


def has_dropout(module: nn.Module) -> bool:
    """Return whether any dropout rate in `module` is above 0."""
    return any(getattr(layer, name) > 0 for layer, name in _rate_places(module))


@contextmanager
def dropout_set_to(module: nn.Module, rate: float | None) -> Iterator[None]:
    """Set every dropout rate in `module` to `rate` within the context, also that of attention weights.

    None changes nothing. Where the config omits a dropout layer (ModernBERT's after attention), none is added.
    """
    places = _rate_places(module)
    before = [getattr(layer, name) for layer, name in places]
    try:
        if rate is not None:
            for layer, name in places:
                setattr(layer, name, rate)
        yield
    finally:
        for (layer, name), its_rate in zip(places, before, strict=True):
            setattr(layer, name, its_rate)
