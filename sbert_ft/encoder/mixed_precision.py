"""A copy of an encoder's layers in half precision, beside the float32 weights, for inference and for training.

The float32 weights are the ones that are trained and saved. The layers run on a copy of half the size. It is made once,
while autocast casts the weights again in every forward; activations between the layers are in half precision too. The
embeddings are not copied: their table is often half of a model, and sums of gradients over thousands of tokens need
float32. For the same reason the copy on a CPU uses the float32 weights of the layer norms, which the kernel accepts.

In training the copy gets the gradients, which are added to those of the float32 weights after each backward pass. After
each optimizer step the copy is updated (the float32 "master weights" of Micikevicius et al. 2018, section 3.1).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

_EMBEDDINGS = "embeddings"


class CastEmbeddings(nn.Module):
    """The embeddings of an encoder, with the same float32 weights (shared), and their output in another type."""

    def __init__(self, embeddings: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        same: dict[int, Any] = {id(parameter): parameter for parameter in embeddings.parameters()}
        # In a tuple, so that it is not a submodule: an encoder's type is that of its first weight.
        self._embeddings = (copy.deepcopy(embeddings, same),)
        self._dtype = dtype

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """Return the embeddings' output, shape (R, C, D), in the type of the layers."""
        embedded: Tensor = self._embeddings[0](*inputs, **named)
        return embedded.to(self._dtype)

    def train(self, mode: bool = True) -> CastEmbeddings:
        """Switch dropout on or off, as in every module."""
        self._embeddings[0].train(mode)
        return super().train(mode)


class HalfCopy:
    """A copy of an encoder, `module`, with layers in `dtype`, and what keeps it in step with the original."""

    def __init__(self, encoder: PreTrainedModel, dtype: torch.dtype, *, trained: bool = False) -> None:
        """Copy the layers of a float32 encoder; if `trained`, the copy gets gradients where the original does."""
        self.dtype = dtype
        pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        embeddings = getattr(encoder, _EMBEDDINGS, None)
        done: dict[int, Any] = {}
        shared: set[int] = set()
        if isinstance(embeddings, nn.Module):
            done[id(embeddings)] = CastEmbeddings(embeddings, dtype)
            shared = {id(p) for p in embeddings.parameters()}
        if next(encoder.parameters()).device.type == "cpu":
            norms = (module for module in encoder.modules() if isinstance(module, nn.LayerNorm))
            of_norms = {id(parameter): parameter for norm in norms for parameter in norm.parameters()}
            done.update(of_norms)
            shared.update(of_norms)
        for parameter in encoder.parameters():
            if id(parameter) not in shared:
                gets_gradient = trained and parameter.requires_grad
                done[id(parameter)] = nn.Parameter(parameter.detach().to(dtype), requires_grad=gets_gradient)
                pairs.append((parameter, done[id(parameter)]))
        self.module: PreTrainedModel = copy.deepcopy(encoder, done)
        self._trained = [(original, copied) for original, copied in pairs if copied.requires_grad]
        self._kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def refresh(self) -> None:
        """Update the copy from the original's weights."""
        if self._trained:
            originals, copies = zip(*self._trained, strict=True)
            torch._foreach_copy_(copies, originals)  # one kernel launch on a GPU instead of one for each parameter

    @torch.no_grad()
    def lead_gradients_on(self) -> None:
        """Add the copy's gradients to the original's, in float32, and remove them from the copy."""
        for original, copied in self._trained:
            if copied.grad is not None and original.grad is not None:  # from an earlier part of the batch
                original.grad.add_(copied.grad)
                copied.grad = None
        first = [(original, copied.grad) for original, copied in self._trained if copied.grad is not None]
        if not first:
            return
        # these buffers are kept: on a CPU, memory that is freed and allocated again comes page by page, which is slower
        self._kept |= {id(o): torch.empty_like(o) for o, _ in first if id(o) not in self._kept}
        kept = [self._kept[id(original)] for original, _ in first]
        torch._foreach_copy_(kept, [gradient for _, gradient in first])
        for (original, _), gradient in zip(first, kept, strict=True):
            original.grad = gradient
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Remove the copy's gradients, for example after a backward pass that failed."""
        for _, copied in self._trained:
            copied.grad = None


def can_be_trained_in_half(encoder: PreTrainedModel) -> bool:
    """Return whether an encoder can be trained on a `HalfCopy`: whether all its lookup tables are in its embeddings.

    MPNet and DeBERTa look up a bias for each pair of positions in their layers. The sums of so many gradients need
    float32, which autocast uses for them.
    """
    embeddings = getattr(encoder, _EMBEDDINGS, None)
    if not isinstance(embeddings, nn.Module):
        return False
    within = {id(module) for module in embeddings.modules()}
    return not any(isinstance(module, nn.Embedding) and id(module) not in within for module in encoder.modules())


class StepCounter:
    """Counts the steps of all optimizers of the process, from `prepare_process` on."""

    def __init__(self) -> None:
        self.n_steps = 0

    def count(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count a step; torch calls this after each."""
        self.n_steps += 1


# One for the process, like torch's hook; nothing is registered before the first model is built.
STEPS = StepCounter()


def weights_state(module: nn.Module) -> object:
    """Return a value that changes when the module's parameters are written, moved or replaced."""
    versions = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in module.parameters()]
    return (STEPS.n_steps, versions)
