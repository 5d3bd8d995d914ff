"""`ConnectionBert`: a model folder to a tokenizer and the one encoder that all towers share.

The encoder is the stock one of transformers, in float32, and stays so: it is what is trained and
saved. Where the hardware multiplies bfloat16, inference runs on a copy of the layers in that type
(`mixed_precision.py`), made when it is first needed and again when the weights have changed (an optimizer
stepped, or torch's version counters tell; who writes through ``parameter.data`` must load the model
again). It costs half of the layers' memory once more; in return nothing is ever saved rounded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sbert_ft._version import __version__
from sbert_ft.encoder import attention, devices
from sbert_ft.encoder.attention import ProbeResult, Runs
from sbert_ft.encoder.batching import choose_layout
from sbert_ft.encoder.compile import TOLERANCES, CompiledEncoder, largest_difference, load_compiled
from sbert_ft.encoder.compile_cache import private_folder
from sbert_ft.encoder.compile_graph import EncoderToCompile
from sbert_ft.encoder.devices import Precision, choose_device, choose_precision, describe_device, is_out_of_memory
from sbert_ft.encoder.mixed_precision import HalfCopy, can_be_trained_in_half, weights_state
from sbert_ft.encoder.packing import Layout, PackedBatch, pack
from sbert_ft.encoder.process_safety import ForkSafeLock, prepare_process, set_state, state_to_copy
from sbert_ft.encoder.spec import EncoderPlan, plan_encoder
from sbert_ft.errors import InputError, ModelFolderError, ResourceError, quoted, shown
from sbert_ft.model_folder.layout import ModelFolder, read_folder, unused_parts
from sbert_ft.model_folder.tensor_names import check_match, match_names
from sbert_ft.model_folder.weights import find_weights, read_tensors
from sbert_ft.tokenization.text_tokens import TextTokens
from sbert_ft.tokenization.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)
# On the device itself, kernels round to half precision, so the probe there only looks for faults.
_HALF_TOLERANCE = 0.05


def read_checked_tokenizer(source: ModelFolder, plan: EncoderPlan) -> TextTokenizer:
    """Return the folder's tokenizer, held against the embedding table.

    Raises:
        ModelFolderError: Missing, damaged, or with more tokens than the table has rows.
    """
    n_rows = int(plan.config.vocab_size)
    tokenizer = TextTokenizer.from_pretrained(source.encoder_path, plan.config.model_type, n_rows)
    if source.lower_case_first:
        tokenizer.lower_case_first()
    if int(getattr(plan.config, "type_vocab_size", 0) or 0) < 2:
        tokenizer.drop_token_types()
    check_room(tokenizer, source, plan)
    n_tokens = tokenizer.vocab_size
    if n_tokens > n_rows:
        names = ("tokenizer.json", "vocab.txt", "vocab.json")
        file = next(file for name in names if (file := source.encoder_path / name).exists())
        raise ModelFolderError(
            f"{shown(file)}: the vocabulary has {n_tokens:,} tokens, but vocab_size in config.json gives the "
            f"embedding table {n_rows:,} rows",
            "take the vocabulary that belongs to these weights",
        )
    if n_tokens == n_rows - 1:
        logger.warning(
            "%s: the vocabulary is one token short of the embedding table (%d of %d); a lost line would shift all "
            "that follow it",
            shown(source.encoder_path),
            n_tokens,
            n_rows,
        )
    for note in unused_parts(source):
        logger.warning("%s", note)
    for note in tokenizer.notes:
        logger.warning("%s: %s", shown(source.encoder_path), note)
    return tokenizer


def check_room(tokenizer: TextTokenizer, source: ModelFolder, plan: EncoderPlan) -> None:
    """Refuse a tokenizer whose special tokens leave no room for a text.

    Raises:
        ModelFolderError: They fill the folder's max_seq_length, or all positions.
    """
    longest = min(source.max_seq_length or plan.max_tokens, plan.max_tokens)
    if tokenizer.n_special >= longest:
        raise ModelFolderError(
            f"{shown(source.encoder_path)}: the tokenizer puts {tokenizer.n_special} special tokens around a text, but "
            f"a text may have {longest} tokens in all",
            "take the tokenizer that belongs to these weights",
        )


class ConnectionBert(nn.Module):
    """A tokenizer and a stock encoder, which runs packed batches.

    Attributes:
        encoder: The stock module of transformers, float32.
        tokenizer: The folder's tokenizer.
        plan: The encoder's settings and limits.
        source: The folder as it was read: pooling, length, prompts and the like.
        pooler: The tensors of the stock pooler, where the folder had one; kept for saving and heads,
            not run, since it reads a row's first token.
        compute_dtype: The type in which inference computes.
        probe: Which layouts the encoder was seen to run rightly.
        compiled: Runs inference while it is on; None until somebody asked for it (see `connection_bert.py`).
        trained_copy: What `forward` runs while it is trained in half precision (see `trained_in`), otherwise None.
    """

    encoder: PreTrainedModel
    __getstate__, __setstate__ = state_to_copy, set_state

    def __init__(
        self,
        encoder: PreTrainedModel,
        tokenizer: TextTokenizer,
        plan: EncoderPlan,
        source: ModelFolder,
        pooler: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Put the parts together on the CPU and find out which layouts they run."""
        super().__init__()
        self.pooler = dict(pooler or {})
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.plan = plan
        self.source = source
        self.compute_dtype = torch.float32
        self._half: tuple[object, HalfCopy] | None = None
        self.compiled: CompiledEncoder | None = None
        self.trained_copy: HalfCopy | None = None
        self._half_lock = ForkSafeLock()
        prepare_process()
        self.probe = self._admit_layouts()

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: str | torch.device | None = None, precision: Precision = "auto"
    ) -> ConnectionBert:
        """Return the model of a local folder.

        Args:
            folder: Holds config.json, the weights (pytorch_model.bin, model.safetensors or shards)
                and the tokenizer's files; also a folder of sentence-transformers.
            device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or None for the first that is there of
                CUDA, MPS and CPU.
            precision: In which inference computes: ``float32``, ``bfloat16``, ``float16``, or
                ``auto`` for bfloat16 where the hardware multiplies it. Results are float32 always.

        Raises:
            ModelFolderError: The folder is incomplete, damaged, hostile or of a kind not supported;
                a missing tensor is an error, never a random one.
            InputError: An argument names nothing known.
            ResourceError: The device is not there.
        """
        target = choose_device(device)
        dtype = choose_precision(precision, target)
        source = read_folder(folder)
        weights = find_weights(source.encoder_path)
        plan = plan_encoder(source.config, source.encoder_path / "config.json", len(weights.tensors))
        match = match_names(weights.tensors, plan.shapes, plan.base_prefix)
        check_match(match, source.encoder_path)
        if unknown := match.unknown:
            said = "%s: tensors that the encoder has no use for: %d, such as %s"
            logger.warning(said, shown(source.encoder_path), len(unknown), quoted(unknown[0]))
        tokenizer = read_checked_tokenizer(source, plan)
        encoder = plan.build(read_tensors(weights, match.names))
        poolers = {key[key.rindex("pooler.") :]: key for key in match.heads if "pooler." in key}
        model = cls(encoder, tokenizer, plan, source, read_tensors(weights, poolers))
        return model._settle(target, dtype)

    @classmethod
    def from_config(
        cls,
        folder: str | Path,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        seed: int = 42,
    ) -> ConnectionBert:
        """Return a model with **random** weights, for training from scratch.

        Args:
            folder: Holds config.json and the tokenizer's files; weights in it are not looked at.
            device: As in `from_pretrained`.
            precision: As in `from_pretrained`.
            seed: Of the initialisation, which the config's ``initializer_range`` scales.

        Raises:
            ModelFolderError: As in `from_pretrained`.
            ResourceError: The weights would not fit into memory.
        """
        target = choose_device(device)
        dtype = choose_precision(precision, target)
        source = read_folder(folder)
        plan = plan_encoder(source.config, source.encoder_path / "config.json")
        n_bytes = 4 * sum(int(np.prod(shape, dtype=float)) for shape in plan.shapes.values())
        if n_bytes > (there := devices.memory_bytes()):
            raise ResourceError(
                f"{shown(source.encoder_path / 'config.json')} describes {n_bytes / 2**30:,.1f} GiB of weights, but "
                f"this machine has {there / 2**30:,.1f} GiB of memory"
            )
        tokenizer = read_checked_tokenizer(source, plan)
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
        """Return device, precision, layouts and whether inference is compiled in one line."""
        precision, layouts = str(self.compute_dtype).removeprefix("torch."), ", ".join(self.probe.layouts)
        layouts += ", compiled" if self.compiled is not None and self.compiled.is_on else ""
        return f"{self.plan.config.model_type} on {describe_device(self.device)}, {precision}, layouts {layouts}"

    def pack(self, texts: TextTokens, layout: Layout | None = None) -> PackedBatch:
        """Return the texts as a batch on the model's device, by default in the layout expected to be fastest.

        Args:
            texts: N texts with their special tokens.
            layout: One of ``probe.layouts``; None to choose by lengths and device.

        Raises:
            InputError: The encoder does not run this layout rightly.
            ResourceError: This process cannot use the device.
        """
        device = self.device
        if layout is None:
            heads = int(self.plan.config.num_attention_heads)
            layout = choose_layout(texts.lengths, heads, self.hidden_size, device.type, self.probe.layouts)
        elif layout not in self.probe.layouts:
            raise InputError(f"layout {layout} is not run rightly by this encoder: {self.probe.refused.get(layout)}")
        return pack(texts, layout, device=device, **self.pack_options)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Return the activation of every token, shape (R, C, D), with gradients as torch is set.

        The float32 weights are used, under autocast where that is on; within `trained_in` their copy.

        Args:
            batch: Of `pack`, on the model's device.
        """
        if self.trained_copy is None:
            return self._run(self.encoder, batch)
        module = self.trained_copy.module
        if module.training != self.encoder.training:
            module.train(self.encoder.training)
        return self._run(module, batch)

    @contextmanager
    def trained_in(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Let `forward` run a copy of the layers in bfloat16, whose gradients `HalfCopy.lead_gradients_on` hands on.

        Nothing changes for float32, float16 (its gradients need a scaler) and where `can_be_trained_in_half` says no.

        Args:
            dtype: In which type the encoder is trained; None for float32.
        """
        if dtype == torch.bfloat16 and can_be_trained_in_half(self.encoder):
            self._half, self.trained_copy = None, HalfCopy(self.encoder, dtype, trained=True)
        elif dtype == torch.bfloat16:
            logger.info("%s is trained under autocast, not on a bfloat16 copy", self.plan.config.model_type)
        try:
            yield
        finally:
            self.trained_copy = None

    def infer(self, batch: PackedBatch) -> Tensor:
        """Return the activation of every token, shape (R, C, D), in `compute_dtype`, without gradients."""
        with torch.inference_mode():
            activations = None if self.compiled is None else self.compiled.run(batch, self.compute_dtype)
            return self._run(self._inference_encoder(), batch) if activations is None else activations

    @property
    def pack_options(self) -> dict[str, int]:
        """What `packing.pack` needs besides texts and layout."""
        return {"padding_id": self.tokenizer.specials.padding_id, "first_position": self.plan.first_position}

    def _run(self, encoder: PreTrainedModel, batch: PackedBatch) -> Tensor:
        if batch.device != self.device:
            raise InputError(f"the batch lies on {batch.device}, the model on {self.device}: pack it with model.pack")
        inputs: dict[str, Any] = {"input_ids": batch.token_ids}
        mask = batch.mask
        if batch.layout == "padded":
            assert mask is not None
            inputs["attention_mask"] = mask.long()  # DeBERTa's convolution subtracts it from 1
        else:
            inputs["position_ids"] = batch.position_ids
            if mask is not None:
                kind = batch.device.type
                dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else encoder.dtype
                inputs["attention_mask"] = attention.additive_mask(mask, dtype)
            else:
                inputs["packed_runs"] = Runs.of(batch)
        if self.takes_token_types:
            inputs["token_type_ids"] = batch.token_types
        return encoder(**inputs).last_hidden_state  # type: ignore[no-any-return]

    @property
    def takes_token_types(self) -> bool:
        """Whether the encoder's forward has an argument for token types."""
        return int(getattr(self.plan.config, "type_vocab_size", 0) or 0) > 0

    def _inference_encoder(self) -> PreTrainedModel:
        """Return the float32 encoder, or its copy in half precision as the weights now are; in evaluation mode."""
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
        """Move to the device, set the precision, and look once whether the kernels there run."""
        self.to(device)
        self.compute_dtype = dtype
        if device.type != "cpu":
            in_half = dtype != torch.float32
            refused: dict[Layout, str] = {}
            if not in_half and "runs" in self.probe.layouts:
                refused["runs"] = "a GPU's kernel for texts of varying lengths takes half precision alone"
            there = attention.probe(
                self.infer,
                *self._probe_limits,
                self.pack_options,
                layouts=[layout for layout in self.probe.layouts if layout != "padded" and layout not in refused],
                tolerance=_HALF_TOLERANCE if in_half else attention.PROBE_TOLERANCE,
                device=device,
            )
            self.probe = ProbeResult(there.layouts, {**self.probe.refused, **refused, **there.refused})
        logger.info("%s", self.describe())
        return self

    @property
    def _probe_limits(self) -> tuple[int, int]:
        return int(self.plan.config.vocab_size), self.max_tokens

    def _admit_layouts(self) -> ProbeResult:
        """Try the packed layouts in float32 on the CPU; what fails is padded, said once.

        Raises:
            ModelFolderError: The encoder does not even run padded.
        """
        refused: dict[Layout, str] = {}
        layouts: tuple[Layout, ...] = ("rows", "runs")
        if getattr(self.encoder, "_supports_attention_backend", False):
            self.encoder.set_attn_implementation(attention.ATTENTION_NAME)
        else:
            layouts, refused = ("rows",), {"runs": "the encoder takes no attention function of ours"}
        try:
            seen = attention.probe(self.forward, *self._probe_limits, self.pack_options, layouts=layouts)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise ResourceError(
                    f"{shown(self.source.encoder_path)}: no memory is left to try the encoder"
                ) from error
            raise ModelFolderError(
                f"{shown(self.source.encoder_path / 'config.json')} describes an encoder that does not run: "
                f"{type(error).__name__}: {quoted(error, limit=200)}"
            ) from error
        result = ProbeResult(seen.layouts, {**refused, **seen.refused})
        if result.layouts == ("padded",):
            kind, reason = self.plan.config.model_type, result.refused["rows"]
            logger.warning("%s is padded, not packed: packed rows %s", kind, reason)
        return result


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
