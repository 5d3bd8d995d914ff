"""`compile()` of every model with an encoder: inference by code compiled for this processor, where that is asked for.

See `compile.py` for what is compiled and what it costs, and docs/compiling.md for what it brings.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol, TypeVar

from sbert_ft._version import __version__
from sbert_ft.encoder.compile import TOLERANCES, largest_difference, load_compiled
from sbert_ft.encoder.compile_cache import private_folder
from sbert_ft.encoder.compile_graph import EncoderToCompile
from sbert_ft.errors import InputError
from sbert_ft.model.connection_bert import ConnectionBert

logger = logging.getLogger(__name__)


class _WithEncoder(Protocol):
    @property
    def bert(self) -> ConnectionBert: ...


_Model = TypeVar("_Model", bound=_WithEncoder)


def compile_encoder(model: _Model, cache_dir: str | Path | None = None) -> _Model:
    """Compile the encoder for inference on this processor, and return the model itself.

    Everything that the model computes without gradients runs faster from then on, with equal results within rounding;
    training, saving and the parameters stay as they are. It takes 15 to 45 seconds the first time, and one or two
    seconds from then on, for the code is kept on disk. The code holds the weights as they are now: when these
    change, the model computes without it, says so once, and wants `compile` called again.

    Takes the place of `torch.nn.Module.compile`, which compiles the forward of training when it is first called.

    Args:
        model: Its encoder is compiled.
        cache_dir: Where compiled code is kept: a folder that nobody else can write to. None for ``~/.cache/sbert_ft``,
            or where the environment variables XDG_CACHE_HOME or SBERT_FT_CACHE say.

    Raises:
        InputError: The model is on no CPU, its precision is float16, its kind of encoder cannot be compiled, or
            `cache_dir` is not the user's own.
        OutputError: `cache_dir` cannot be written to.
        ResourceError: There is no C++ compiler, or it failed.
    """
    bert = model.bert
    kind, precision = bert.plan.config.model_type, str(bert.compute_dtype).removeprefix("torch.")
    remedy = "everything works without compile()"
    if bert.device.type != "cpu":
        raise InputError(f"compile() is for a CPU, and the model is on {bert.device}; {remedy}")
    if bert.compute_dtype not in TOLERANCES:
        raise InputError(f"compile() is for float32 and bfloat16, and the precision is {precision}; {remedy}")
    if not {"rows", "runs"} <= set(bert.probe.layouts) or not hasattr(bert.encoder, "embeddings"):
        raise InputError(f"compile() is for encoders that run packed rows and runs, and {kind} does not; {remedy}")
    source = EncoderToCompile(
        encoder=bert.encoder,
        dtype=bert.compute_dtype,
        takes_token_types=bert.takes_token_types,
        max_tokens=bert.max_tokens,
        pack_options=bert.pack_options,
        version=__version__,
    )
    bert.compiled = None
    compiled = load_compiled(source, private_folder(cache_dir, bert.source.path))
    difference = largest_difference(source, compiled, bert.infer)
    if difference <= TOLERANCES[bert.compute_dtype]:
        bert.compiled = compiled
        logger.info("%s", bert.describe())
    else:
        logger.warning("compiled, %s differs by %.1e from what it computes otherwise: not used", kind, difference)
    return model
