"""The part of an encoder that is compiled, as a function of only tensors, and all that the compiled code depends on.

The lookup of word embeddings is not compiled, so that their table, often half of a model, is neither in the package nor
in memory twice. The rest computes the same as the inference copy (`mixed_precision.py`): float32 embeddings, and layers
in one type (including the layer norms, whose weights the inference copy keeps in float32). Attention is one custom
operator of torch, so that one graph serves every layout and every number of tokens.
"""

from __future__ import annotations

import copy
import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from sbert_ft._version import __version__
from sbert_ft.encoder.attention import Runs, additive_mask, packed_attention
from sbert_ft.encoder.packing import PackedBatch
from sbert_ft.tokenization.text_tokens import offsets_of

ATTENTION_NAME = "sbert_ft_compiled"

_ROWS, _RUNS = 0, 1
_OPERATOR = "sbert_ft::packed_attention"
_INFERENCE = nn.Identity().eval()


# Settings of torch's inductor.
SETTINGS: Mapping[str, object] = MappingProxyType(
    {
        "freezing": True,  # weights are constants, stored in the processor's layout at compile time
        "cpp.dynamic_threads": True,  # as many threads as torch has when the code runs
        "compile_threads": 1,  # no pool of processes that keeps running
    }
)
# To be raised whenever the compiled function changes, so that older packages are not used.
_FORMAT = 1
_EMBEDDINGS = "embeddings"


@cache
def register() -> None:
    """Register the operator with torch, and the attention function that calls it with transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    operator = torch.library.custom_op(_OPERATOR, attend, mutates_args=(), device_types="cpu")
    operator.register_fake(_shape_of_result)
    AttentionInterface.register(ATTENTION_NAME, _stock_signature)
    # the layout replaces the mask; transformers would make a mask of ones over all tokens that nothing uses
    AttentionMaskInterface.register(ATTENTION_NAME, _no_mask)


def layout_tensors(batch: PackedBatch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the layout of a batch (``rows`` or ``runs``) as two tensors for `attend`.

    Args:
        batch: The compiled layers see its (R, C) cells as one row of R * C tokens.
        dtype: The type in which the layers compute.

    Returns:
        ``plan``, shape (n, 2), int64: the layout's number, then R and C, or (number of texts, tokens of each) of every
        run; and the mask that is added to the scores, shape (R * C * C,). For ``runs`` it is a dummy of shape (2,).
    """
    if batch.layout == "runs":
        return torch.tensor([(_RUNS, 0), *batch.run_shapes]), torch.zeros(2, dtype=dtype)
    assert batch.layout == "rows" and batch.mask is not None
    plan = torch.tensor([(_ROWS, 0), tuple(batch.token_ids.shape)])
    return plan, additive_mask(batch.mask, dtype).flatten()


def attend(query: Tensor, key: Tensor, value: Tensor, plan: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Return the attention of all tokens of a batch, shape (1, T, H, D / H).

    Args:
        query: Shape (1, H, T, D / H), as are `key` and `value`.
        key: See `query`.
        value: See `query`.
        plan: See `layout_tensors`.
        mask: See `layout_tensors`.
        scaling: Factor on the scores.
    """
    (layout, _), *shapes = plan.tolist()
    if layout == _RUNS:
        runs = _runs(tuple((n, length) for n, length in shapes))
        return packed_attention(_INFERENCE, query, key, value, None, scaling, packed_runs=runs)[0]
    rows, width = shapes[0]
    # (1, H, R * C, d) -> (R, H, C, d), as views
    query, key, value = (tensor[0].unflatten(1, (rows, width)).transpose(0, 1) for tensor in (query, key, value))
    attended, _ = packed_attention(_INFERENCE, query, key, value, mask.view(rows, 1, width, width), scaling)
    return attended.flatten(0, 1)[None]


@lru_cache(maxsize=4)
def _runs(shapes: tuple[tuple[int, int], ...]) -> Runs:
    """Return the runs of these shapes; cached, since every layer needs the same."""
    lengths = np.repeat([length for _, length in shapes], [n for n, _ in shapes])
    return Runs(shapes, torch.from_numpy(offsets_of(lengths)))


def _shape_of_result(query: Tensor, key: Tensor, value: Tensor, plan: Tensor, mask: Tensor, scaling: float) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], query.shape[3])


def _stock_signature(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    packed_plan: Tensor,
    packed_mask: Tensor,
    **stock: Any,
) -> tuple[Tensor, None]:
    """Return the operator's attention, with the arguments and results of transformers' attention functions."""
    if stock.get("position_bias") is not None or stock.get("is_causal"):
        raise ValueError("packed attention supports neither position biases nor causal masks")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    operator = torch.ops.sbert_ft.packed_attention
    return operator(query, key, value, packed_plan, packed_mask, float(scaling)), None


def _no_mask(*positional: Any, **named: Any) -> None:
    return None


@dataclass(frozen=True)
class EncoderToCompile:
    """An encoder to compile, and how it is to be run.

    Attributes:
        encoder: The stock encoder, float32, on the CPU; it is not changed.
        dtype: The type in which its layers compute: float32 or bfloat16.
        takes_token_types: Whether its forward has an argument for token types.
        max_tokens: Tokens of the longest text that it has positions for.
        pack_options: Other arguments of `pack`: all but the texts, the layout and the device.
    """

    encoder: PreTrainedModel
    dtype: torch.dtype
    takes_token_types: bool
    max_tokens: int
    pack_options: dict[str, int]

    def facts(self) -> dict[str, object]:
        """Return everything that the compiled code depends on."""
        encoder = self.encoder
        return {
            "format": _FORMAT,
            "settings": dict(SETTINGS),
            "kind": type(encoder).__name__,
            "config": {k: v for k, v in encoder.config.to_dict().items() if k != "_name_or_path"},
            "weights": _digest_of_weights(encoder),
            "dtype": str(self.dtype),
            "versions": [torch.__version__, str(torch.version.git_version), transformers.__version__, __version__],
            "processor": _processor(),
        }

    def inputs(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """Return the compiled graph's arguments: word embeddings (1, R * C, E), positions, token types, plan, mask."""
        words = self.encoder.get_input_embeddings()(batch.token_ids.view(1, -1))
        plan, mask = layout_tensors(batch, self.dtype)
        return words, batch.position_ids.view(1, -1), batch.token_types.view(1, -1), plan, mask

    def graph(self) -> nn.Module:
        """Return the encoder as a function of `inputs`; it shares the embeddings' weights."""
        return _Graph(_twin(self), self.takes_token_types).eval()


class _Graph(nn.Module):
    """The encoder after the lookup of word embeddings, as a function of only tensors."""

    def __init__(self, encoder: PreTrainedModel, takes_token_types: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.takes_token_types = takes_token_types

    def forward(
        self, words: Tensor, position_ids: Tensor, token_types: Tensor, packed_plan: Tensor, packed_mask: Tensor
    ) -> Tensor:
        types = {"token_type_ids": token_types} if self.takes_token_types else {}
        layout = {"packed_plan": packed_plan, "packed_mask": packed_mask}
        hidden: Tensor = self.encoder(
            inputs_embeds=words, position_ids=position_ids, **types, **layout
        ).last_hidden_state
        return hidden


class _Cast(nn.Module):
    """A module whose output is converted to another type."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.dtype = dtype

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        output: Tensor = self.module(*inputs, **named)
        return output.to(self.dtype)


def _twin(source: EncoderToCompile) -> PreTrainedModel:
    """Return a copy of the encoder with its float32 embeddings (shared) and layers in `dtype`."""
    encoder = source.encoder
    shared = {id(parameter) for parameter in encoder.get_submodule(_EMBEDDINGS).parameters()}
    parameters: dict[int, Any] = {}
    for parameter in encoder.parameters():
        value = parameter.detach()
        value = value if id(parameter) in shared else value.to(source.dtype)
        parameters[id(parameter)] = nn.Parameter(value, requires_grad=False)
    twin: PreTrainedModel = copy.deepcopy(encoder, parameters).eval()
    # the table of word embeddings is not in the package: the lookup is done before
    width = int(_words(encoder).shape[1])
    twin.set_input_embeddings(nn.Embedding(1, width).requires_grad_(False))
    setattr(twin, _EMBEDDINGS, _Cast(twin.get_submodule(_EMBEDDINGS), source.dtype))
    twin.set_attn_implementation(ATTENTION_NAME)
    return twin


def _words(encoder: PreTrainedModel) -> Tensor:
    """Return the table of word embeddings, shape (vocabulary, E)."""
    table = encoder.get_input_embeddings().weight
    assert isinstance(table, Tensor)
    return table


def _digest_of_weights(encoder: PreTrainedModel) -> str:
    """Return the digest of all parameters except the table of word embeddings, which is not compiled."""
    words = _words(encoder)
    digest = hashlib.sha256()
    for name, parameter in encoder.named_parameters():
        if parameter is not words:
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
            digest.update(np.ascontiguousarray(parameter.detach().numpy()).data)
    return digest.hexdigest()


def _processor() -> list[str]:
    """Return what another processor must have too to run the same code: system and instruction set, as far as known."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else [platform.processor()]
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0] if lines else "")
    limits = [f"{name}={os.environ.get(name, '')}" for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")]
    return [platform.system(), platform.machine(), torch.backends.cpu.get_cpu_capability(), flags, *limits]
