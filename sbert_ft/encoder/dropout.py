"""Dropout with independent masks, drawn four at a time.

On a CPU drawing the masks one by one is a fifth of a training step. Here a 64-bit draw holds four masks of 16 bits
each, which takes a fifth of the time (see `benchmarks/LOG.md`); the masks are as independent as before, and the rate is
the nearest multiple of 2**-16. The draws are numpy's SFC64, twice as fast as torch's generator, which gives each layer
and step a seed of 62 bits: its state alone says what will be dropped. Elsewhere torch's own kernel is used: the same
function, drawn from that device's generator.
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
    """Return `activation` with each element zeroed with probability `rate`, the others scaled up in return.

    Srivastava et al. 2014, section 10 (inverted: scaled in training, not in use).

    Args:
        activation: Any shape, floating.
        rate: From 0 to 1.
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
    """`nn.Dropout` by `dropout` above."""

    def forward(self, input: Tensor) -> Tensor:
        """Return `input` with dropout while training, unchanged otherwise."""
        return dropout(input, self.p) if self.training and self.p > 0 else input


def use_fast_dropout(module: nn.Module) -> None:
    """Put `FastDropout` in the place of every plain `nn.Dropout` within `module`; rates stay."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, FastDropout(child.p).train(child.training))


@contextmanager
def dropout_set_to(module: nn.Module, rate: float | None) -> Iterator[None]:
    """Let every dropout layer within `module`, those on attention weights included, have this rate for a while.

    Args:
        module: Any. Where its config left a dropout layer out (ModernBERT's after attention), there stays none.
        rate: From 0 to 1; None to leave each as it is.
    """
    places: list[tuple[nn.Module, str]]
    places = [(layer, "p") for layer in module.modules() if isinstance(layer, nn.Dropout)]
    # ModernBERT keeps the rate of attention weights as a bare number
    places += [(layer, _RATE) for layer in module.modules() if isinstance(getattr(layer, _RATE, None), (int, float))]
    before = [getattr(layer, name) for layer, name in places]
    try:
        if rate is not None:
            for layer, name in places:
                setattr(layer, name, rate)
        yield
    finally:
        for (layer, name), its_rate in zip(places, before, strict=True):
            setattr(layer, name, its_rate)
