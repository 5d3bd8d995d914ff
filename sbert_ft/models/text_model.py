"""`TextModel`: what a sentence encoder and a classifier have in common: an encoder, a longest sequence, `compile`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from sbert_ft.arguments import instance_argument, whole_number
from sbert_ft.encoder.compile import TOLERANCES, EncoderToCompile, load_compiled, probe_compiled
from sbert_ft.encoder.compile_cache import private_folder
from sbert_ft.errors import InputError
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.tokenization.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

_Self = TypeVar("_Self", bound="TextModel")


class TextModel(nn.Module):
    """A model on an encoder.

    Attributes:
        bert: Tokenizer and encoder.
    """

    def __init__(self, bert: ConnectionBert, max_seq_length: int | None, *, joins_pairs: bool = False) -> None:
        """Combine the model with its encoder.

        Args:
            bert: Tokenizer and encoder; the length of its folder is the default.
            max_seq_length: Most tokens of a sequence, special ones included, in place of the folder's.
            joins_pairs: Whether a sequence has two texts.

        Raises:
            InputError: A length that the encoder has no positions for.
            ModelFolderError: The tokenizer cannot make pairs, but has to.
        """
        super().__init__()
        self.bert = instance_argument(ConnectionBert, bert, "bert", "ConnectionBert.from_pretrained(folder)")
        self._joins_pairs = joins_pairs
        self._max_seq_length = min(bert.source.max_seq_length or bert.max_tokens, bert.max_tokens)
        if max_seq_length is not None or joins_pairs:
            self.max_seq_length = self._max_seq_length if max_seq_length is None else max_seq_length

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.bert.device

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer, which works in Rust on many texts at a time."""
        return self.bert.tokenizer

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a sequence, special ones included; ``on_truncate`` says what happens to longer ones."""
        return self._max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        least = self.tokenizer.n_pair_special + 2 if self._joins_pairs else self.tokenizer.n_special + 1
        self._max_seq_length = whole_number(value, "max_seq_length", least, self.bert.max_tokens)

    def compile(self: _Self, cache_dir: str | Path | None = None) -> _Self:  # type: ignore[override]
        """Compile the encoder for inference on this processor, and return the same model.

        Afterwards everything that the model computes without gradients runs faster, and the results are equal within
        rounding. Training, saving and the parameters do not change. The first time takes 15 to 45 seconds, later ones
        one or two seconds, because the code is kept on disk. The code contains the current weights: when they change,
        the model runs without the code, logs this once, and `compile` must be called again.

        It replaces `torch.nn.Module.compile`, which compiles the training forward when that is first called.

        Args:
            cache_dir: The folder for compiled code, which nobody else can write to. None for ``~/.cache/sbert_ft``, or
                for the place given by the environment variables XDG_CACHE_HOME or SBERT_FT_CACHE.

        Raises:
            InputError: The model is not on a CPU, its precision is float16, its kind of encoder cannot be compiled, or
                `cache_dir` is not private to the user.
            OutputError: `cache_dir` cannot be written to.
            ResourceError: There is no C++ compiler, or it failed.
        """
        bert = self.bert
        kind, precision = bert.plan.config.model_type, str(bert.compute_dtype).removeprefix("torch.")
        remedy = "everything works without compile()"
        if bert.device.type != "cpu":
            raise InputError(f"compile() is only for a CPU, but the model is on {bert.device}", remedy)
        if bert.compute_dtype not in TOLERANCES:
            raise InputError(f"compile() is only for float32 and bfloat16, but the precision is {precision}", remedy)
        if not {"rows", "runs"} <= set(bert.probe.layouts) or not hasattr(bert.encoder, "embeddings"):
            raise InputError(
                f"compile() is only for encoders that run packed rows and runs, which {kind} does not", remedy
            )
        source = EncoderToCompile(
            bert.encoder, bert.compute_dtype, bert.takes_token_types, bert.max_tokens, bert.pack_options
        )
        bert.compiled = None
        compiled = load_compiled(source, private_folder(cache_dir, bert.source.path))
        refused = probe_compiled(source, compiled, bert.infer).refused
        if refused:
            layout, reason = next(iter(refused.items()))
            logger.warning("the compiled %s encoder is not used: layout %s %s", kind, layout, reason)
        else:
            bert.compiled = compiled
            logger.info("%s", bert.describe())
        return self
