"""How many optimizer steps this process has made: what tells a copy of weights that it may be old.

torch's version counters see a write by an ordinary operation, but not one by a fused optimizer, which is what everybody
trains with. Every optimizer of torch calls a hook after its step, whoever wrote the training loop; counting them costs
nothing.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook


class StepCounter:
    """Counts the steps of all optimizers from `start` on."""

    def __init__(self) -> None:
        self.n_steps = 0
        self._started = False

    def start(self) -> None:
        """Begin to count; once is enough, again changes nothing."""
        if not self._started:
            register_optimizer_step_post_hook(self._count)
            self._started = True

    def _count(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.n_steps += 1


# One for the process, like the hook itself; nothing is registered before the first model is built.
STEPS = StepCounter()


def weights_state(module: nn.Module) -> object:
    """Return what is another value once the module's parameters have been written, moved or replaced."""
    versions = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in module.parameters()]
    return (STEPS.n_steps, versions)
