"""Compile an encoder for this processor with torch's ahead-of-time inductor; the weights are part of the code.

The eager encoder copies a bias into the output of each product before it multiplies, and writes the results of GELU,
residual and layer norm to memory separately. In compiled code, oneDNN multiplies by weights that are stored once in the
layout it needs, and adds the bias and applies GELU while the product is in the cache. In float32 it also replaces MKL.

The cost: 15 to 45 seconds and a C++ compiler the first time (the code is kept on disk, see `compile_cache.py`), and
frozen weights: after a change of a parameter the eager encoder runs again. Nothing is compiled unless requested.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sbert_ft.encoder import compile_graph
from sbert_ft.encoder.attention import ProbeResult, probe, random_texts
from sbert_ft.encoder.compile_cache import Package
from sbert_ft.encoder.compile_graph import SETTINGS, EncoderToCompile
from sbert_ft.encoder.mixed_precision import weights_state
from sbert_ft.encoder.packing import PackedBatch, pack
from sbert_ft.encoder.process_safety import ForkSafeLock
from sbert_ft.errors import ResourceError, quoted

logger = logging.getLogger(__name__)

# Largest accepted difference from the eager encoder, relative to the largest activation. In float32 the
# order of sums differs (1e-6 measured); bfloat16 keeps 8 bits of each number, and a fused operation rounds
# once where the eager one rounds two or three times (0.9 % measured after 6 layers).
TOLERANCES = {torch.float32: 5e-5, torch.bfloat16: 0.05}

# The layout of the weights is optimised for this number of tokens; the code runs any other number too.
_EXAMPLE_TOKENS = 4096
_WHERE_COMPILED_CODE_GOES = "TORCHINDUCTOR_CACHE_DIR"
# That environment variable belongs to the whole process, so only one thread compiles at a time.
_COMPILING = ForkSafeLock()


class CompiledEncoder:
    """The compiled code of one encoder, which runs packed batches with the weights from the time of compilation.

    Attributes:
        seconds: How long compiling took; 0 if the code was on disk.
        is_on: Whether it is still used; False for good after the weights have changed or a forward has failed.
    """

    def __init__(self, source: EncoderToCompile, package: Callable[..., Tensor], seconds: float, state: object) -> None:
        """Combine the code with its encoder, whose `weights_state` was `state` before it was compiled."""
        self._source = source
        self._package: Callable[..., Tensor] | None = package
        self._state = state
        self._turn = ForkSafeLock()
        self.seconds = seconds
        self.is_on = True

    def run(self, batch: PackedBatch, dtype: torch.dtype) -> Tensor | None:
        """Return the activation of every token of a batch, shape (R, C, D); None if the eager encoder has to run it.

        The eager encoder runs padded batches, and every batch after the weights have changed, which is logged once.

        Args:
            batch: In any layout.
            dtype: The type in which inference computes.
        """
        package = self._package
        if package is None or batch.layout == "padded":
            return None
        if dtype != self._source.dtype or weights_state(self._source.encoder) != self._state:
            self._switch_off("the weights, their place or the precision changed")
            return None
        try:
            with torch.inference_mode():
                inputs = self._source.inputs(batch)
                # One forward at a time: a package has one set of buffers, and each forward uses all threads.
                with self._turn:
                    return package(*inputs).view(*batch.token_ids.shape, -1)
        except RuntimeError as error:  # if memory is short, the eager encoder fails too and raises the clearer error
            self._switch_off(f"it failed ({quoted(error, limit=200)[1:-1]})")
            return None

    def _switch_off(self, reason: str) -> None:
        if self.is_on:
            logger.warning("the compiled encoder is no longer used: %s; call compile() again", reason)
        self.is_on, self._package = False, None


def load_compiled(source: EncoderToCompile, folder: Path) -> CompiledEncoder:
    """Return the compiled encoder from `folder`; compile it first if it is not there or is damaged.

    Args:
        source: What is compiled.
        folder: A folder from `private_folder`.

    Raises:
        ResourceError: There is no C++ compiler, or compiling or loading failed; the message says why.
        OutputError: The folder cannot be written to.
    """
    compile_graph.register()
    begin = time.perf_counter()
    state = weights_state(source.encoder)
    package = Package.of(folder, source.facts())
    is_new = not package.is_whole()
    if is_new:
        _check_compiler()
        logger.info("compiling the encoder for this processor, once: about half a minute; kept in %s", folder)
        package.write(partial(_compile, source))
    from torch._inductor import aoti_load_package

    try:
        code = aoti_load_package(str(package.path))
    except (RuntimeError, OSError) as error:
        raise _failure("the compiled encoder could not be loaded", error) from error
    seconds = time.perf_counter() - begin
    logger.info("encoder %s in %.1f s", "compiled" if is_new else "compiled before: code loaded", seconds)
    return CompiledEncoder(source, code, seconds if is_new else 0.0, state)


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
    graph = source.graph()
    n_tokens, n_shapes, n_mask = Dim("n_tokens", min=2), Dim("n_shapes", min=2), Dim("n_mask", min=2)
    dynamic = ({1: n_tokens}, {1: n_tokens}, {1: n_tokens}, {0: n_shapes}, {0: n_mask})
    with _COMPILING, torch.no_grad():
        before = os.environ.get(_WHERE_COMPILED_CODE_GOES)
        os.environ[_WHERE_COMPILED_CODE_GOES] = str(place / "inductor")
        try:
            program = export(graph, source.inputs(batch), dynamic_shapes=dynamic, strict=False)
            aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=dict(SETTINGS)
            )  # torch writes into the dict, so it is a copy
        except Exception as error:  # any part of torch may raise; re-raised as one error that says what failed
            raise _failure("the encoder could not be compiled", error) from error
        finally:
            os.environ.pop(_WHERE_COMPILED_CODE_GOES)
            if before is not None:
                os.environ[_WHERE_COMPILED_CODE_GOES] = before


def _check_compiler() -> None:
    name = os.environ.get("CXX") or "g++"
    if shutil.which(name) is None:
        raise ResourceError(
            f"compile() needs a C++ compiler, and there is no {quoted(name)}",
            "install one (Debian, Ubuntu: apt install g++) or name it in the environment variable CXX; everything "
            "works without compile(), only slower",
        )


def _failure(what: str, error: Exception) -> ResourceError:
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    reason = quoted(f"{type(error).__name__}: {lines[0]}", limit=300)[1:-1]
    return ResourceError(f"{what}: {reason}", "everything works without compile(), only slower")
