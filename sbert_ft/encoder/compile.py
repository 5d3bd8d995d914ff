"""Compile an encoder for this processor with torch's ahead-of-time inductor; the weights are part of the code.

In compiled code, oneDNN multiplies by weights that are stored once in the layout it needs, and adds the bias and
applies GELU while the product is in the cache; the eager encoder writes each step to memory.

What is compiled is a function of only tensors. The lookup of word embeddings is not part of it, so that their table,
often half of a model, is neither in the package nor in memory twice. The rest computes the same as the inference copy
(`mixed_precision.py`), but its layer norms are in the type of the layers too. Attention is one custom operator of
torch, so that one graph serves every layout and every number of tokens.

The cost: 15 to 45 seconds and a C++ compiler the first time (the code is kept on disk, see `compile_cache.py`), and
frozen weights: after a change of a parameter the eager encoder runs again. Nothing is compiled unless requested.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from sbert_ft._version import __version__
from sbert_ft.encoder.attention import ProbeResult, Runs, additive_mask, packed_attention, probe, random_texts
from sbert_ft.encoder.compile_cache import Package
from sbert_ft.encoder.devices import cpu_flags
from sbert_ft.encoder.mixed_precision import weights_state
from sbert_ft.encoder.packing import PackedBatch, pack
from sbert_ft.encoder.process_safety import ForkSafeLock
from sbert_ft.errors import ResourceError, quoted
from sbert_ft.tokenization.text_tokens import offsets_of

logger = logging.getLogger(__name__)

_ATTENTION_NAME = "sbert_ft_compiled"
_OPERATOR = "sbert_ft::packed_attention"
_ROWS, _RUNS = 0, 1
_INFERENCE = nn.Identity().eval()

# Largest accepted difference from the eager encoder, relative to the largest activation. In float32 the
# order of sums differs (1e-6 measured); bfloat16 keeps 8 bits of each number, and a fused operation rounds
# once where the eager one rounds two or three times (0.9 % measured after 6 layers).
TOLERANCES = {torch.float32: 5e-5, torch.bfloat16: 0.05}

# The layout of the weights is optimised for this number of tokens; the code runs any other number too.
_EXAMPLE_TOKENS = 4096
_WHERE_COMPILED_CODE_GOES = "TORCHINDUCTOR_CACHE_DIR"
# That environment variable belongs to the whole process, so only one thread compiles at a time.
_COMPILING = ForkSafeLock()

_SETTINGS: Mapping[str, object] = {  # of torch's inductor
    "freezing": True,  # weights are constants, stored in the processor's layout at compile time
    "cpp.dynamic_threads": True,  # as many threads as torch has when the code runs
    "compile_threads": 1,  # no pool of processes that keeps running
}
# To be raised whenever the compiled function changes, so that older packages are not used.
_FORMAT = 1
_EMBEDDINGS = "embeddings"


@cache
def _register() -> None:
    """Register the operator with torch, and the attention function that calls it with transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    operator = torch.library.custom_op(_OPERATOR, _attend, mutates_args=(), device_types="cpu")
    operator.register_fake(_shape_of_result)
    AttentionInterface.register(_ATTENTION_NAME, _stock_signature)
    # the layout replaces the mask; transformers would make a mask of ones over all tokens that nothing uses
    AttentionMaskInterface.register(_ATTENTION_NAME, lambda *_, **__: None)


def _layout_tensors(batch: PackedBatch, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the layout of a batch (``rows`` or ``runs``, whose cells become one row of R * C tokens) for `_attend`.

    Returns:
        ``plan``, shape (n, 2), int64: the layout's number, then R and C, or (number of texts, tokens of each) of every
        run; and the mask that is added to the scores, shape (R * C * C,). For ``runs`` it is a dummy of shape (2,).
    """
    if batch.layout == "runs":
        return torch.tensor([(_RUNS, 0), *batch.run_shapes]), torch.zeros(2, dtype=dtype)
    assert batch.layout == "rows" and batch.mask is not None
    plan = torch.tensor([(_ROWS, 0), tuple(batch.token_ids.shape)])
    return plan, additive_mask(batch.mask, dtype).flatten()


def _attend(query: Tensor, key: Tensor, value: Tensor, plan: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Return the attention of all tokens of a batch, shape (1, T, H, D / H).

    `query`, `key` and `value` have the shape (1, H, T, D / H); `plan` and `mask` are from `_layout_tensors`.
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
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **stock: Any
) -> tuple[Tensor, None]:
    """Return the operator's attention, with the arguments and results of transformers' attention functions."""
    if stock.get("position_bias") is not None or stock.get("is_causal"):
        raise ValueError("packed attention supports neither position biases nor causal masks")
    scaling = query.shape[-1] ** -0.5 if stock.get("scaling") is None else stock["scaling"]
    operator = torch.ops.sbert_ft.packed_attention
    return operator(query, key, value, stock["packed_plan"], stock["packed_mask"], float(scaling)), None


@dataclass(frozen=True)
class EncoderToCompile:
    """An encoder to compile, and how it is to be run: as in `ConnectionBert`.

    The stock encoder is float32 and on the CPU, and is not changed. Its layers compute in `dtype`: float32 or bfloat16.
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
            "settings": dict(_SETTINGS),
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
        plan, mask = _layout_tensors(batch, self.dtype)
        return words, batch.position_ids.view(1, -1), batch.token_types.view(1, -1), plan, mask


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


def _twin(source: EncoderToCompile) -> PreTrainedModel:
    """Return a copy of the encoder with its float32 embeddings (shared) and layers in `dtype`."""
    encoder = source.encoder
    shared = {id(parameter) for parameter in encoder.get_submodule(_EMBEDDINGS).parameters()}
    parameters: dict[int, Any] = {}
    for parameter in encoder.parameters():
        dtype = torch.float32 if id(parameter) in shared else source.dtype
        parameters[id(parameter)] = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
    twin: PreTrainedModel = copy.deepcopy(encoder, parameters).eval()
    # the table of word embeddings is not in the package: the lookup is done before
    words = encoder.get_input_embeddings()
    assert isinstance(words, nn.Embedding)
    twin.set_input_embeddings(nn.Embedding(1, words.embedding_dim).requires_grad_(False))
    twin.get_submodule(_EMBEDDINGS).register_forward_hook(lambda module, inputs, output: output.to(source.dtype))
    twin.set_attn_implementation(_ATTENTION_NAME)
    return twin


def _digest_of_weights(encoder: PreTrainedModel) -> str:
    """Return the digest of all parameters except the table of word embeddings, which is not compiled."""
    words = encoder.get_input_embeddings().weight
    digest = hashlib.sha256()
    for name, parameter in encoder.named_parameters():
        if parameter is not words:
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}\n".encode())
            digest.update(np.ascontiguousarray(parameter.detach().numpy()).data)
    return digest.hexdigest()


def _processor() -> list[str]:
    """Return what another processor must have too to run the same code."""
    limits = [f"{name}={os.environ.get(name, '')}" for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")]
    instructions = sorted(cpu_flags()) or [platform.processor()]
    return [platform.system(), platform.machine(), torch.backends.cpu.get_cpu_capability(), *instructions, *limits]


@dataclass(eq=False)
class CompiledEncoder:
    """The compiled code of one encoder, which runs packed batches with the weights from the time of compilation.

    Attributes:
        source: The encoder.
        package: The code; None for good after the weights have changed or a forward has failed.
        state: The encoder's `weights_state` before it was compiled.
        seconds: How long compiling took; 0 if the code was on disk.
    """

    source: EncoderToCompile
    package: Callable[..., Tensor] | None
    state: object
    seconds: float
    _turn: ForkSafeLock = field(default_factory=ForkSafeLock)

    @property
    def is_on(self) -> bool:
        """Whether it is still used."""
        return self.package is not None

    def run(self, batch: PackedBatch, dtype: torch.dtype) -> Tensor | None:
        """Return the activation of every token of a batch, shape (R, C, D); None if the eager encoder has to run it.

        The eager encoder runs padded batches, and every batch after the weights or `dtype`, in which inference
        computes, have changed, which is logged once.
        """
        if (package := self.package) is None or batch.layout == "padded":
            return None
        if dtype != self.source.dtype or weights_state(self.source.encoder) != self.state:
            self._switch_off("the weights, their place or the precision changed")
            return None
        try:
            with torch.inference_mode():
                inputs = self.source.inputs(batch)
                # One forward at a time: a package has one set of buffers, and each forward uses all threads.
                with self._turn:
                    return package(*inputs).view(*batch.token_ids.shape, -1)
        except RuntimeError as error:  # if memory is short, the eager encoder fails too and raises the clearer error
            self._switch_off(f"it failed ({quoted(error, limit=200)[1:-1]})")
            return None

    def _switch_off(self, reason: str) -> None:
        if self.is_on:
            logger.warning("the compiled encoder is no longer used: %s; call compile() again", reason)
        self.package = None


def load_compiled(source: EncoderToCompile, folder: Path) -> CompiledEncoder:
    """Return the compiled encoder from a `private_folder`; compile it first if it is not there or is damaged.

    Raises:
        ResourceError: There is no C++ compiler, or compiling or loading failed; the message says why.
        OutputError: The folder cannot be written to.
    """
    _register()
    begin = time.perf_counter()
    state = weights_state(source.encoder)
    package = Package.of(folder, source.facts())
    is_new = not package.is_whole()
    if is_new:
        compiler = os.environ.get("CXX") or "g++"
        if shutil.which(compiler) is None:
            raise ResourceError(
                f"compile() needs a C++ compiler, and there is no {quoted(compiler)}",
                "install one (Debian, Ubuntu: apt install g++) or name it in the environment variable CXX; everything "
                "works without compile(), only slower",
            )
        logger.info("compiling the encoder for this processor, once: about half a minute; kept in %s", folder)
        package.write(partial(_compile, source))
    from torch._inductor import aoti_load_package

    try:
        code = aoti_load_package(str(package.path))
    except (RuntimeError, OSError) as error:
        raise _failure("the compiled encoder could not be loaded", error) from error
    seconds = time.perf_counter() - begin
    logger.info("encoder %s in %.1f s", "compiled" if is_new else "compiled before: code loaded", seconds)
    return CompiledEncoder(source, code, state, seconds if is_new else 0.0)


def probe_compiled(
    source: EncoderToCompile, compiled: CompiledEncoder, eager: Callable[[PackedBatch], Tensor]
) -> ProbeResult:
    """Return the layouts in which the compiled encoder gives the same activations as the padded eager one."""

    def forward(batch: PackedBatch) -> Tensor:
        if batch.layout == "padded":
            return eager(batch)
        found = compiled.run(batch, source.dtype)
        if found is None:
            raise RuntimeError("the compiled encoder failed")
        return found

    n_words, tolerance = source.encoder.config.vocab_size, TOLERANCES[source.dtype]
    return probe(forward, n_words, source.max_tokens, source.pack_options, tolerance=tolerance)


def _compile(source: EncoderToCompile, path: Path, place: Path) -> None:
    """Write the package of an encoder to `path`, and the compiler's temporary files to `place`."""
    from torch._inductor import aoti_compile_and_package
    from torch.export import Dim, export

    length = min(64, source.max_tokens)
    texts = random_texts(
        np.full(_EXAMPLE_TOKENS // length, length), source.encoder.config.vocab_size, source.pack_options["padding_id"]
    )
    batch = pack(texts, "rows", device=None, **source.pack_options)
    graph = _Graph(_twin(source), source.takes_token_types).eval()
    n_tokens, n_shapes, n_mask = Dim("n_tokens", min=2), Dim("n_shapes", min=2), Dim("n_mask", min=2)
    dynamic = ({1: n_tokens}, {1: n_tokens}, {1: n_tokens}, {0: n_shapes}, {0: n_mask})
    with _COMPILING, torch.no_grad():
        before = os.environ.get(_WHERE_COMPILED_CODE_GOES)
        os.environ[_WHERE_COMPILED_CODE_GOES] = str(place / "inductor")
        try:
            program = export(graph, source.inputs(batch), dynamic_shapes=dynamic, strict=False)
            settings = dict(_SETTINGS)  # a copy, because torch writes into it
            aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)
        except Exception as error:  # any part of torch may raise; re-raised as one error that says what failed
            raise _failure("the encoder could not be compiled", error) from error
        finally:
            os.environ.pop(_WHERE_COMPILED_CODE_GOES)
            if before is not None:
                os.environ[_WHERE_COMPILED_CODE_GOES] = before


def _failure(what: str, error: Exception) -> ResourceError:
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    reason = quoted(f"{type(error).__name__}: {lines[0]}", limit=300)[1:-1]
    return ResourceError(f"{what}: {reason}", "everything works without compile(), only slower")
