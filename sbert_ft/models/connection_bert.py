"""`ConnectionBert`: the tokenizer and the encoder of a model folder, run by torch; `TextModel`: models on it.

The encoder is transformers' stock one and always stays in float32: it is the one that is trained and saved. Where the
hardware multiplies bfloat16, inference runs on a copy of the layers in that type (`mixed_precision.py`), which costs
another half of their memory. It is made when first needed, and again when an optimizer has stepped or torch's version
counters have changed; after writing through ``parameter.data``, load the model again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from sbert_ft.arguments import instance_argument
from sbert_ft.encoder import attention, devices
from sbert_ft.encoder.attention import ProbeResult, Runs
from sbert_ft.encoder.batching import Layout, PoolingMode, choose_layout, plan_forwards
from sbert_ft.encoder.compile import TOLERANCES, CompiledEncoder, EncoderToCompile, load_compiled, probe_compiled
from sbert_ft.encoder.compile_cache import private_folder
from sbert_ft.encoder.devices import (
    Precision,
    choose_device,
    choose_precision,
    describe_device,
    is_out_of_memory,
    multiplies_bfloat16,
    to_device,
    token_budget,
)
from sbert_ft.encoder.mixed_precision import HalfCopy, can_be_trained_in_half, weights_state
from sbert_ft.encoder.packing import PackedBatch, pack
from sbert_ft.encoder.process_safety import ForkSafeLock, prepare_process
from sbert_ft.encoder.ranks import Ranks
from sbert_ft.encoder.spec import EncoderPlan, cut_layers, plan_encoder
from sbert_ft.errors import InputError, ModelFolderError, ResourceError, quoted, shown
from sbert_ft.model_folder.layout import ModelFolder, read_folder
from sbert_ft.model_folder.tensor_names import check_match, match_names
from sbert_ft.model_folder.weights import find_weights, read_tensors
from sbert_ft.models.folder_tokenizer import EncoderLimits, read_checked_tokenizer
from sbert_ft.models.tensors import TensorOperations
from sbert_ft.models.text_encoder import SequenceModel, TextEncoder
from sbert_ft.tokenization.text_tokens import TextTokens
from sbert_ft.tokenization.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)
# On the device, kernels round to half precision, so there the probe can only find large errors.
_HALF_TOLERANCE = 0.05
_Model = TypeVar("_Model", bound="TextModel")


class ConnectionBert(TextEncoder, nn.Module):
    """A tokenizer and a stock encoder that runs packed batches, by torch.

    Attributes:
        encoder: The stock module of transformers, float32.
        tokenizer: The folder's tokenizer.
        plan: The encoder's settings and limits.
        source: The folder as it was read: pooling, length, prompts and so on.
        pooler: The tensors of the stock pooler if the folder had one. They are kept for saving and for heads, and
            are not run, since the stock pooler reads a row's first token.
        compute_dtype: The type in which inference computes.
        probe: Which layouts the encoder runs correctly, as found by trying them.
        compiled: The compiled encoder, which runs inference while its `is_on` is True; None before `TextModel.compile`.
        trained_copy: The copy that `forward` runs during training in half precision (see `trained_in`), otherwise None.
        ranks: The processes that share the work of `vectors` (see `shared_by`), usually this one alone.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        tokenizer: TextTokenizer,
        plan: EncoderPlan,
        source: ModelFolder,
        pooler: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Combine the parts on the CPU, and try which layouts the encoder runs; errors as in `from_pretrained`."""
        super().__init__()
        self.pooler = dict(pooler or {})
        self.encoder: PreTrainedModel = encoder
        self.tokenizer = tokenizer
        self.plan = plan
        self.source = source
        self.compute_dtype = torch.float32
        self._half: tuple[object, HalfCopy] | None = None
        self.compiled: CompiledEncoder | None = None
        self.trained_copy: HalfCopy | None = None
        self.ranks = Ranks()
        self._half_lock = ForkSafeLock()
        prepare_process()
        self.probe = self._admit_layouts()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a copy in this or another process, without what belongs to this one."""
        return {**self.__dict__, "_half": None, "compiled": None, "trained_copy": None, "ranks": Ranks()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy in this process, which may be another one."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        prepare_process()

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | ModelFolder,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        layers: Sequence[int] | None = None,
    ) -> ConnectionBert:
        """Return the model of a local folder.

        Args:
            folder: A folder with config.json, the weights (pytorch_model.bin, model.safetensors or shards) and the
                tokenizer's files, or a folder of sentence-transformers.
            device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or None for the first available one of CUDA, MPS and CPU.
            precision: The type in which inference computes: ``float32``, ``bfloat16``, ``float16``, or ``auto`` for
                bfloat16 where the hardware multiplies it and float32 elsewhere. Pooled vectors are always float32.
            layers: The layers to keep, by their numbers from 0 in rising order; None for all. DistilBERT begins with
                every other layer of a BERT (Sanh et al. 2019, section 3).

        Raises:
            ModelFolderError: The folder is incomplete, damaged, hostile or of an unsupported kind. A missing
                tensor is an error; it is never replaced by random numbers.
            InputError: The device or the precision is not a known one, or a layer is not there.
            ResourceError: The device is not available, or there is not enough memory to try the encoder.
        """
        target = choose_device(device)
        dtype = choose_precision(precision, target)
        source = read_folder(folder)
        weights = find_weights(source.encoder_path)
        plan = plan_encoder(source.config, source.config_file, len(weights.tensors))
        match = match_names(weights.tensors, plan.shapes, plan.base_prefix)
        check_match(match, source.encoder_path)
        if unknown := match.unknown:
            message = "%s: tensors that the encoder does not use: %d, such as %s"
            logger.warning(message, shown(source.encoder_path), len(unknown), quoted(unknown[0]))
        tokenizer = read_checked_tokenizer(source, _limits_of(plan))
        names = match.names
        if layers is not None:
            plan, renamed = cut_layers(plan, layers, source.config_file)
            names = {new: names[old] for new, old in renamed.items()}
            kept = {"architectures": source.config.get("architectures")}
            source = replace(source, config={**plan.config.to_dict(), **kept})
        encoder = plan.build(read_tensors(weights, names))
        return cls(encoder, tokenizer, plan, source, read_tensors(weights, match.poolers))._settle(target, dtype)

    @classmethod
    def from_config(
        cls, folder: str | Path, device: str | torch.device | None = None, precision: Precision = "auto", seed: int = 42
    ) -> ConnectionBert:
        """Return a model with **random** weights, for training from scratch.

        Other arguments, and errors, as in `from_pretrained`; weights in the folder are not read.

        Args:
            seed: Seed of the initial weights, whose scale is ``initializer_range`` of config.json.

        Raises:
            ResourceError: The weights would not fit into memory.
        """
        target = choose_device(device)
        dtype = choose_precision(precision, target)
        source = read_folder(folder)
        plan = plan_encoder(source.config, source.config_file)
        n_bytes = 4 * sum(int(np.prod(shape, dtype=float)) for shape in plan.shapes.values())
        if n_bytes > (there := devices.memory_bytes()):
            raise ResourceError(
                f"{shown(source.config_file)} describes {n_bytes / 2**30:,.1f} GiB of weights, but "
                f"this machine has {there / 2**30:,.1f} GiB of memory"
            )
        tokenizer = read_checked_tokenizer(source, _limits_of(plan))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = plan.build(None)
        return cls(encoder, tokenizer, plan, source)._settle(target, dtype)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.encoder.parameters()).device

    @property
    def hidden_size(self) -> int:
        """Width of a token's vector, D."""
        return int(self.plan.config.hidden_size)

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text that the encoder has positions for, special ones included."""
        return self.plan.max_tokens

    def describe(self) -> str:
        """Return a line with the kind of encoder, device, precision and layouts, and whether inference is compiled."""
        precision, layouts = str(self.compute_dtype).removeprefix("torch."), ", ".join(self.probe.layouts)
        layouts += ", compiled" if self.compiled is not None and self.compiled.is_on else ""
        return f"{self.plan.config.model_type} on {describe_device(self.device)}, {precision}, layouts {layouts}"

    def pack(self, texts: TextTokens, layout: Layout | None = None) -> PackedBatch:
        """Return N texts with their special tokens as a batch on the model's device.

        `layout` is one of ``probe.layouts``; None for the one expected to be fastest.

        Raises:
            InputError: The encoder does not run this layout correctly.
            ResourceError: This process cannot use the device.
        """
        device = self.device
        if layout is None:
            heads = int(self.plan.config.num_attention_heads)
            layout = choose_layout(texts.lengths, heads, self.hidden_size, device.type, self.probe.layouts)
        elif layout not in self.probe.layouts:
            raise InputError(f"this encoder does not run layout {layout} correctly: {self.probe.refused.get(layout)}")
        return pack(texts, layout, device=device, **self.pack_options)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Return the activation of every token, shape (R, C, D), with gradients if torch records them.

        It uses the float32 weights, under autocast if that is on; within `trained_in` it may use their copy. The batch
        is on the model's device, as `pack` makes it.
        """
        module = self.encoder if self.trained_copy is None else self.trained_copy.module
        if module.training != self.encoder.training:
            module.train(self.encoder.training)
        return self._run(module, batch)

    @contextmanager
    def trained_in(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Let `forward` run a bfloat16 copy of the layers, which gets the gradients (see `HalfCopy.lead_gradients_on`).

        Nothing changes for float32 or None, for float16 (its gradients need a scaler) and for an encoder that cannot be
        trained in half precision.
        """
        if dtype == torch.bfloat16 and can_be_trained_in_half(self.encoder):
            self._half, self.trained_copy = None, HalfCopy(self.encoder, dtype, trained=True)
        elif dtype == torch.bfloat16:
            logger.info("%s is trained under autocast, not with a bfloat16 copy", self.plan.config.model_type)
        try:
            yield
        finally:
            self.trained_copy = None

    @contextmanager
    def shared_by(self, ranks: Ranks) -> Iterator[None]:
        """Let `vectors` share its work with the other processes of a run, which call it with the same sequences."""
        self.ranks = ranks
        try:
            yield
        finally:
            self.ranks = Ranks()

    def infer(self, batch: PackedBatch) -> Tensor:
        """Return the activation of every token, shape (R, C, D), in `compute_dtype`, without gradients."""
        with torch.inference_mode():
            activations = None if self.compiled is None else self.compiled.run(batch, self.compute_dtype)
            return self._run(self._inference_encoder(), batch) if activations is None else activations

    @property
    def token_budget(self) -> int:
        """Most tokens of a forward that still help speed."""
        return token_budget(self.device)

    @property
    def computes_beside(self) -> bool:
        """Whether texts are tokenised while a forward runs: not on a CPU."""
        return self.device.type != "cpu"

    @property
    def operations(self) -> TensorOperations:
        """What is done with the vectors that `vectors` returns."""
        return TensorOperations(self.device)

    def vectors(self, sequences: TextTokens, pooling: PoolingMode, budget: int) -> tuple[Tensor, int]:
        """Return the vectors of N sequences, shape (N, D), float32, and the most tokens that fitted into memory.

        When memory runs out, the budget is halved and the rest is planned again; computed vectors are kept. Of several
        processes each computes a share of the forwards, which are those of one process on a CPU, and all return all.

        Raises:
            ResourceError: A single sequence does not fit into memory.
        """
        lengths = sequences.lengths
        device, layouts = self.device, self.probe.layouts
        vectors = torch.zeros(len(sequences), self.hidden_size, device=device)
        forwards = self._own_forwards(lengths, budget)
        with torch.inference_mode():
            while forwards:
                rest = np.concatenate(forwards)
                # copied to the device once for all forwards
                places, n_done = to_device(torch.from_numpy(rest), device), 0
                for texts in forwards:
                    try:
                        batch = self.pack(sequences.select(texts))
                        pooled = batch.pool(self.infer(batch), pooling)
                        vectors.index_copy_(0, places[n_done : n_done + len(texts)], pooled)
                    except RuntimeError as error:
                        if not is_out_of_memory(error):
                            raise
                        if len(texts) == 1:
                            raise ResourceError(
                                f"one text of {int(lengths[texts[0]])} tokens does not fit into the memory of {device}",
                                "lower max_seq_length, or choose another device",
                            ) from error
                        break
                    n_done += len(texts)
                rest, forwards = rest[n_done:], []
                # outside of the except block: there the exception would keep the failed forward's tensors in memory
                if len(rest):
                    budget = max(1, int(lengths[texts].sum()) // 2)
                    logger.warning("out of memory on %s: continuing with batches of at most %d tokens", device, budget)
                    if device.type != "cpu":
                        torch.get_device_module(device).empty_cache()
                    forwards = [rest[part] for part in plan_forwards(lengths[rest], budget, device.type, layouts)]
        self.ranks.sum([vectors])  # zero in all processes but the one that has computed it
        return vectors, -self.ranks.most([-budget])[0]

    def _own_forwards(self, lengths: NDArray[np.int64], budget: int) -> list[NDArray[np.int64]]:
        """Return the texts of each forward that this process computes, of N texts with these lengths."""
        if not len(lengths):
            return []
        device, layouts, ranks = self.device.type, self.probe.layouts, self.ranks
        if device != "cpu" and ranks.size > 1:  # a window has few forwards there, and each process is to have one
            budget = min(budget, -(-int(lengths.sum()) // ranks.size))
        planned = plan_forwards(lengths, budget, device, layouts)
        own = ranks.share(np.array([lengths[texts].sum() for texts in planned], np.int64))
        return [planned[number] for number in own.tolist()]

    def why_not_finite(self) -> str:
        """Return why a result may be NaN or infinite, and what to do."""
        if self.compute_dtype == torch.float16:
            return "float16 holds no number beyond 65,504; load the model with precision='float32' or 'bfloat16'"
        if not all(parameter.isfinite().all() for parameter in self.encoder.parameters()):
            return "its weights are NaN or infinite themselves; load other weights"
        return "its weights are damaged, or its training diverged; load other weights"

    @property
    def pack_options(self) -> dict[str, int]:
        """The arguments of `packing.pack` that depend on the model: the padding token and the first position."""
        return {"padding_id": self.tokenizer.padding_id, "first_position": self.plan.first_position}

    def _run(self, encoder: PreTrainedModel, batch: PackedBatch) -> Tensor:
        if batch.device != self.device:
            raise InputError(
                f"the batch is on {batch.device}, but the model is on {self.device}", "pack it with model.pack"
            )
        inputs: dict[str, Any] = {"input_ids": batch.token_ids}
        mask, kind = batch.mask, batch.device.type
        if batch.layout != "padded":
            inputs["position_ids"] = batch.position_ids
        if mask is None:
            inputs["packed_runs"] = Runs(batch.run_shapes, batch.boundaries)
        elif batch.layout == "padded":
            inputs["attention_mask"] = mask.long()  # DeBERTa's convolution subtracts it from 1
        else:
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else encoder.dtype
            inputs["attention_mask"] = attention.additive_mask(mask, dtype)
        if self.takes_token_types:
            inputs["token_type_ids"] = batch.token_types
        return encoder(**inputs).last_hidden_state  # type: ignore[no-any-return]

    @property
    def takes_token_types(self) -> bool:
        """Whether the encoder's forward has an argument for token types."""
        return bool(getattr(self.plan.config, "type_vocab_size", None))

    def _inference_encoder(self) -> PreTrainedModel:
        """Return the float32 encoder, or an up-to-date copy in half precision; in evaluation mode."""
        if self.compute_dtype == torch.float32:
            return self.encoder.eval() if self.encoder.training else self.encoder
        with self._half_lock:
            if self.trained_copy is not None and self.trained_copy.dtype == self.compute_dtype:
                return self.trained_copy.module.eval()  # type: ignore[no-any-return]
            state = weights_state(self.encoder)
            if self._half is None or self._half[0] != state:
                self._half = (state, HalfCopy(self.encoder, self.compute_dtype))
            return self._half[1].module.eval()  # type: ignore[no-any-return]

    def _settle(self, device: torch.device, dtype: torch.dtype) -> ConnectionBert:
        """Move to the device, set the precision, and try once whether the kernels there work; return the model."""
        if self.device != device:
            self.to(device)
        self.compute_dtype = dtype
        if device.type != "cpu":
            refused = dict(self.probe.refused)
            in_half = dtype != torch.float32
            if not in_half and "runs" in self.probe.layouts:
                refused["runs"] = "the GPU's kernel for texts of varying lengths supports only half precision"
            layouts = [layout for layout in self.probe.layouts if layout != "padded" and layout not in refused]
            tolerance = _HALF_TOLERANCE if in_half else attention.PROBE_TOLERANCE
            self.probe = self._try(self.infer, layouts, tolerance, refused)
        logger.info("%s", self.describe())
        return self

    def _try(
        self,
        forward: Callable[[PackedBatch], Tensor],
        layouts: Sequence[Layout],
        tolerance: float,
        refused: Mapping[Layout, str],
    ) -> ProbeResult:
        """Return which of the layouts the encoder runs correctly, beside those that are `refused` already."""
        limits = int(self.plan.config.vocab_size), self.max_tokens
        seen = attention.probe(forward, *limits, self.pack_options, layouts, tolerance, self.device)
        return ProbeResult(seen.layouts, {**refused, **seen.refused})

    def _admit_layouts(self) -> ProbeResult:
        """Return which layouts the encoder runs correctly in float32 on the CPU; log if there is only ``padded``."""
        refused: dict[Layout, str] = {}
        layouts: tuple[Layout, ...] = ("rows", "runs")
        if getattr(self.encoder, "_supports_attention_backend", False):
            self.encoder.set_attn_implementation(attention.ATTENTION_NAME)
        else:
            layouts, refused = ("rows",), {"runs": "the encoder does not accept a custom attention function"}
        try:
            result = self._try(self.forward, layouts, attention.PROBE_TOLERANCE, refused)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            if is_out_of_memory(error):
                problem = f"{shown(self.source.encoder_path)}: there is not enough memory to try the encoder"
                raise ResourceError(problem) from error
            problem = f"{shown(self.source.config_file)} describes an encoder that does not run"
            raise ModelFolderError(f"{problem}: {type(error).__name__}: {quoted(error, limit=200)}") from error
        if result.layouts == ("padded",):
            kind, reason = self.plan.config.model_type, result.refused["rows"]
            logger.warning("%s is run padded, not packed: layout rows was refused: %s", kind, reason)
        return result


def _limits_of(plan: EncoderPlan) -> EncoderLimits:
    n_types = int(getattr(plan.config, "type_vocab_size", None) or 0)
    return EncoderLimits(int(plan.config.vocab_size), n_types, plan.max_tokens)


class TextModel(SequenceModel, nn.Module):
    """A model on an encoder that torch runs; if it `joins_pairs`, a sequence has two texts."""

    bert: ConnectionBert

    def __init__(self, bert: ConnectionBert, max_seq_length: int | None, *, joins_pairs: bool = False) -> None:
        """Combine the model with its encoder; arguments and errors as in `ClassifierModel`."""
        super().__init__()
        instance_argument(ConnectionBert, bert, "bert", "ConnectionBert.from_pretrained(folder)")
        self._set_up(bert, max_seq_length, joins_pairs)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.bert.device

    def to(self: _Model, *args: Any, **kwargs: Any) -> _Model:
        """Move the model as `torch.nn.Module.to` does, try which layouts run on the new device, and return the model.

        Raises:
            InputError: The device is not a known one.
            ResourceError: The device is not available.
        """
        if isinstance(device := kwargs.get("device", args[0] if args else None), str):
            choose_device(device)  # raises an error of ours
        before = self.device
        super().to(*args, **kwargs)
        if self.device != before:
            self.bert._settle(self.device, self.bert.compute_dtype)
        return self

    def compile(self: _Model, cache_dir: str | Path | None = None) -> _Model:  # type: ignore[override]
        """Compile the encoder for inference on this processor, and return the same model.

        Afterwards everything that the model computes without gradients runs faster, and the results are equal within
        rounding. Training, saving and the parameters do not change. The first time takes 15 to 45 seconds, later ones
        one or two seconds, because the code is kept on disk. The code contains the current weights: when they change,
        the model runs without the code, logs this once, and `compile` must be called again. It replaces
        `torch.nn.Module.compile`, which compiles the training forward when that is first called.

        Args:
            cache_dir: The folder for compiled code, which nobody else can write to. None for ``~/.cache/sbert_ft``, or
                for the place given by the environment variables XDG_CACHE_HOME or SBERT_FT_CACHE.

        Raises:
            InputError: The model is not on a CPU that multiplies bfloat16, its precision is float16, its kind of
                encoder cannot be compiled, or `cache_dir` is not private to the user.
            OutputError: `cache_dir` cannot be written to.
            ResourceError: There is no C++ compiler, or it failed.
        """
        bert = self.bert
        kind, precision = bert.plan.config.model_type, str(bert.compute_dtype).removeprefix("torch.")
        packs = {"rows", "runs"} <= set(bert.probe.layouts) and hasattr(bert.encoder, "embeddings")
        if bert.device.type == "cpu" and not multiplies_bfloat16(bert.device):
            raise InputError(
                "compile() is only for CPUs that multiply bfloat16 (AVX512-BF16 or AMX), which this one does not",
                "an export for ONNX Runtime is faster here: sbert-ft export MODEL",
            )
        for admitted, limit in (
            (bert.device.type == "cpu", f"a CPU, but the model is on {bert.device}"),
            (bert.compute_dtype in TOLERANCES, f"float32 and bfloat16, but the precision is {precision}"),
            (packs, f"encoders that run packed rows and runs, which {kind} does not"),
        ):
            if not admitted:
                raise InputError(f"compile() is only for {limit}", "everything works without compile()")
        source = EncoderToCompile(
            bert.encoder, bert.compute_dtype, bert.takes_token_types, bert.max_tokens, bert.pack_options
        )
        bert.compiled = None
        compiled = load_compiled(source, private_folder(cache_dir, bert.source.path))
        if refused := probe_compiled(source, compiled, bert.infer).refused:
            logger.warning("the compiled %s encoder is not used: layout %s %s", kind, *next(iter(refused.items())))
        else:
            bert.compiled = compiled
            logger.info("%s", bert.describe())
        return self
