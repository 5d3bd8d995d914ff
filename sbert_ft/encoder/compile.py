"""An encoder compiled for this processor: torch's ahead-of-time inductor, with the weights packed into the code.

The eager encoder copies a bias into each product's output before it multiplies, and writes GELU, residual and layer
norm through memory once more each. Compiled, oneDNN multiplies by weights that were laid out for it once, adds the bias
and applies GELU while the product is in the cache. In float32 that is oneDNN in place of MKL, too.

The cost: some 15 to 45 seconds and a C++ compiler the first time, kept on disk (`compile_cache.py`), and weights that
are frozen: who changes a parameter has an eager encoder again. Nothing is compiled unless it is asked for.
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
from sbert_ft.encoder.compile_cache import Package
from sbert_ft.encoder.compile_graph import SETTINGS, EncoderToCompile
from sbert_ft.encoder.mixed_precision import weights_state
from sbert_ft.encoder.packing import Layout, PackedBatch
from sbert_ft.encoder.process_safety import ForkSafeLock
from sbert_ft.errors import ResourceError, quoted

logger = logging.getLogger(__name__)

# Largest difference to the eager encoder, relative to the largest activation. In float32 the order of
# sums differs (1e-6 seen); bfloat16 keeps 8 bits of each number, and a fused operation rounds once
# where the eager one rounds two or three times (0.9 % seen after 6 layers).
TOLERANCES = {torch.float32: 5e-5, torch.bfloat16: 0.05}

# The number of tokens that the weights are laid out for; any other number runs as well.
_EXAMPLE_TOKENS = 4096
_WHERE_COMPILED_CODE_GOES = "TORCHINDUCTOR_CACHE_DIR"
# That environment variable is the process's.
_COMPILING = ForkSafeLock()


class CompiledEncoder:
    """Runs the packed batches of one encoder, with the weights that it had when it was compiled.

    Attributes:
        seconds: What compiling took, 0 where the code was on disk.
        is_on: Whether it still runs; False for good once the weights have changed.
    """

    def __init__(self, source: EncoderToCompile, package: Callable[..., Tensor], seconds: float, state: object) -> None:
        """Put code and encoder together.

        Args:
            source: What was compiled.
            package: The code.
            seconds: See the class.
            state: The weights' `weights_state` before they were compiled.
        """
        self._source = source
        self._package: Callable[..., Tensor] | None = package
        self._state = state
        self._turn = ForkSafeLock()
        self.seconds = seconds
        self.is_on = True

    def run(self, batch: PackedBatch, dtype: torch.dtype) -> Tensor | None:
        """Return the activation of every token of a batch, shape (R, C, D), or None where it has to be eager.

        Eager are padded batches, and all once the weights have changed, which is said once.

        Args:
            batch: In any layout.
            dtype: In which inference is to compute.
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
                # One at a time: a package holds one set of buffers, and each forward has all threads.
                with self._turn:
                    return package(*inputs).view(*batch.token_ids.shape, -1)
        except RuntimeError as error:  # the eager encoder fails as well, and says why, where it is memory that lacks
            self._switch_off(f"it failed ({quoted(error, limit=200)[1:-1]})")
            return None

    def _switch_off(self, reason: str) -> None:
        if self.is_on:
            logger.warning("the compiled encoder is not used any more: %s; call compile() again", reason)
        self.is_on, self._package = False, None


def load_compiled(source: EncoderToCompile, folder: Path) -> CompiledEncoder:
    """Return the compiled encoder from `folder`, compiled first where it is not there or damaged.

    Args:
        source: What is compiled.
        folder: A `private_folder`.

    Raises:
        ResourceError: There is no C++ compiler, or compiling or loading failed; the sentence says why.
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


def largest_difference(
    source: EncoderToCompile, compiled: CompiledEncoder, eager: Callable[[PackedBatch], Tensor]
) -> float:
    """Return how far compiled activations are from eager ones, relative to the largest; infinite where they fail.

    Texts of several lengths are run in rows and in runs.
    """
    longest = min(source.max_tokens, 160)
    lengths = np.minimum([longest, 9, 3, 9, longest // 2 + 1], longest)
    worst = 0.0
    layouts: tuple[Layout, ...] = ("rows", "runs")
    for layout in layouts:
        batch = source.example(lengths, layout)
        expected = eager(batch).float()
        found = compiled.run(batch, source.dtype)
        if found is None:
            return float("inf")
        difference = (found.float() - expected).flatten(0, 1)[batch.cells].abs().max()
        relative = float(difference / expected.abs().max().clamp(min=1.0))
        worst = max(worst, relative if relative == relative else float("inf"))
    return worst


def _compile(source: EncoderToCompile, path: Path, place: Path) -> None:
    """Write the package of an encoder; what the compiler writes on the way goes to `place`."""
    from torch._inductor import aoti_compile_and_package
    from torch.export import Dim, export

    length = min(64, source.max_tokens)
    batch = source.example(np.full(_EXAMPLE_TOKENS // length, length), "rows")
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
            )  # it writes into it
        except Exception as error:  # of whichever of torch's layers: nothing goes on, a sentence says what failed
            raise _failure("the encoder could not be compiled", error) from error
        finally:
            os.environ.pop(_WHERE_COMPILED_CODE_GOES)
            if before is not None:
                os.environ[_WHERE_COMPILED_CODE_GOES] = before


def _check_compiler() -> None:
    name = os.environ.get("CXX") or "g++"
    if shutil.which(name) is None:
        raise ResourceError(
            f"compile() needs a C++ compiler, and there is no {quoted(name)}: install one (Debian, Ubuntu: apt install "
            "g++) or name it in the environment variable CXX; everything works without compile(), only slower"
        )


def _failure(what: str, error: Exception) -> ResourceError:
    lines = [line for line in str(error).splitlines() if line.strip()] or [""]
    reason = quoted(f"{type(error).__name__}: {lines[0]}", limit=300)[1:-1]
    return ResourceError(f"{what}: {reason}; everything works without compile(), only slower")
