"""Build the stock encoders of transformers: the supported kinds, their settings and the tensors they need.

Only known keys of a config.json are read, and they are checked before anything is built. The encoder is first built
without memory, so that its shapes can be compared with the header of the weights.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING
from transformers.utils import logging as transformers_logging

from sbert_ft.encoder.dropout import use_fast_dropout
from sbert_ft.encoder.kinds import KINDS
from sbert_ft.errors import InputError, ModelFolderError, quoted, shown

logger = logging.getLogger(__name__)

LAYER: Final = re.compile(r"(?:^|\.)(?:layer|layers|block|blocks)\.(\d+)\.")
"""Finds the number of a layer in a tensor's name."""

# Keys of a BertConfig that change what is computed and that transformers no longer reads.
_FIXED_SETTINGS: Mapping[str, tuple[object, ...]] = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "quantization_config": (),
}
# Largest accepted value by key; the smallest is 1. Token ids and positions are 32-bit numbers.
_COUNTS: Mapping[str, int] = {
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), 2**31 - 1),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "num_hidden_groups", "inner_group_num"), 1000),
    **dict.fromkeys(("hidden_size", "dim", "intermediate_size", "hidden_dim", "embedding_size"), 2**20),
    **dict.fromkeys(("num_attention_heads", "n_heads", "attention_head_size", "type_vocab_size"), 2**20),
    **dict.fromkeys(("local_attention", "global_attn_every_n_layers", "relative_attention_num_buckets"), 2**20),
    "conv_groups": 2**20,
}
_ACTIVATIONS = ("hidden_act", "activation", "hidden_activation", "conv_act")
_PROBABILITIES = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
    *("dropout", "attention_dropout", "embedding_dropout", "mlp_dropout"),
)
_POSITIVE = ("layer_norm_eps", "norm_eps", "initializer_range", "global_rope_theta", "local_rope_theta")


@dataclass(frozen=True)
class EncoderPlan:
    """The checked settings of an encoder, its stock class, and the shape of each tensor that it needs, by name."""

    config: PreTrainedConfig
    model_class: type[PreTrainedModel]
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def base_prefix(self) -> str:
        """The prefix of the encoder's tensor names in a model with a head, such as ``bert``."""
        return str(self.model_class.base_model_prefix)

    @property
    def first_position(self) -> int:
        """The position of a text's first token."""
        return self.config.pad_token_id + 1 if KINDS[self.config.model_type].counts_from_padding else 0

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text, special ones included."""
        return int(self.config.max_position_embeddings) - self.first_position

    def build(self, state: dict[str, Tensor] | None) -> PreTrainedModel:
        """Return the encoder with all tensors of `state`, None for random ones: float32, on the CPU, not training."""
        options: dict[str, Any] = _without_pooler(self.model_class)
        if state is None:
            model = self.model_class(self.config, **options)
        else:
            missing = set(self.shapes) - set(state)
            assert not missing, f"tensors that would be random: {sorted(missing)[:3]}"
            with quiet_transformers():
                model = self.model_class.from_pretrained(
                    None, config=self.config, state_dict=state, dtype=torch.float32, **options
                )
        encoder: PreTrainedModel = model.float().eval()
        use_fast_dropout(encoder)
        return encoder


def plan_encoder(raw: Mapping[str, Any], source: Path, n_tensors: int | None = None) -> EncoderPlan:
    """Return the plan of the encoder that `raw`, the content of the file `source`, describes; no memory is allocated.

    A config with more layers than the weights have tensors (`n_tensors`), and more than 64, is refused before it is
    built.

    Raises:
        ModelFolderError: A kind, key or value is not supported or not valid.
    """
    config = _checked_config(raw, source)
    if n_tensors is not None and config.num_hidden_layers > max(n_tensors, 64):
        raise ModelFolderError(
            f"{shown(source)}: num_hidden_layers is {config.num_hidden_layers:,}, but the weights hold {n_tensors:,} "
            "tensors",
            "this config.json belongs to other weights",
        )
    model_class: type[PreTrainedModel] = MODEL_MAPPING[type(config)]  # type: ignore[assignment]
    try:
        with torch.device("meta"):
            skeleton = model_class(config, **_without_pooler(model_class))
    except (RuntimeError, ValueError, TypeError, KeyError, OverflowError, AssertionError, ZeroDivisionError) as error:
        raise ModelFolderError(
            f"{shown(source)} describes an encoder that cannot be built: {_one_line(error)}"
        ) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in encoder_tensors(skeleton).items()}
    return EncoderPlan(config, model_class, shapes)


def cut_layers(plan: EncoderPlan, layers: Sequence[int], source: Path) -> tuple[EncoderPlan, dict[str, str]]:
    """Return the plan of an encoder with some of the layers, and the name of each of its tensors in the whole one.

    Raises:
        InputError: A layer is not there, the numbers do not rise, or the layers of this kind of encoder are not alike.
    """
    by_layer: dict[int, dict[str, str]] = {}  # each layer's tensors, by their names without the number
    for name in plan.shapes:
        if (found := LAYER.search(name)) is not None:
            begin, end = found.span(1)
            by_layer.setdefault(int(found[1]), {})[f"{name[:begin]}*{name[end:]}"] = name
    n_layers = int(plan.config.num_hidden_layers)
    kind, numbers = plan.config.model_type, list(layers)
    if len(by_layer) != n_layers or any(its.keys() != by_layer[0].keys() for its in by_layer.values()):
        problem = f"layers are {numbers}, but those of {kind} encoders are not all of the same form"
        raise InputError(f"{shown(source)}: {problem}", "leave layers out")
    whole = all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
    if not numbers or not whole or numbers != sorted({*numbers}) or not 0 <= numbers[0] <= numbers[-1] < n_layers:
        problem = f"layers are {quoted(numbers)}, expected different numbers from 0 to {n_layers - 1} in rising order"
        raise InputError(f"{shown(source)}: {problem}", f"the encoder has {n_layers} layers")
    config = {**plan.config.to_dict(), "num_hidden_layers": len(numbers)}
    config.pop("n_layers", None)
    cut = plan_encoder(config, source)
    renamed = {name: name for name in cut.shapes}
    for new, old in enumerate(numbers):
        renamed |= {name.replace("*", str(new), 1): its for name, its in by_layer[old].items()}
    assert renamed.keys() == cut.shapes.keys()
    return cut, renamed


def encoder_tensors(encoder: PreTrainedModel) -> dict[str, Tensor]:
    """Return an encoder's weights by name, without a prefix."""
    buffers = {name for name, _ in encoder.named_buffers()}
    return {name: tensor for name, tensor in encoder.state_dict().items() if name not in buffers}


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bar and loading report within the context: the tensors are checked already."""
    level, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()


def _without_pooler(model_class: type[PreTrainedModel]) -> dict[str, Any]:
    # The stock pooler reads the first token of a row; here pooling is by text.
    takes = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if takes else {}


def _checked_config(raw: Mapping[str, Any], source: Path) -> PreTrainedConfig:
    kind = raw.get("model_type", "bert")  # configs from 2018 have no model_type
    if not isinstance(kind, str) or kind not in KINDS:
        raise ModelFolderError(
            f"{shown(source)}: model_type is {quoted(kind)}, which is not a supported encoder; "
            f"expected one of {', '.join(KINDS)}"
        )
    for key, accepted in _FIXED_SETTINGS.items():
        value = raw.get(key)
        if value is not None and value not in accepted:
            expected = f"only {accepted[0]!r} is supported" if accepted else "quantized weights are not supported"
            raise ModelFolderError(f"{shown(source)}: {key} is {quoted(value)}; {expected}")
    config_class = CONFIG_MAPPING[kind]
    known = {*config_class().to_dict(), *config_class.attribute_map, *KINDS[kind].unlisted}
    # keys that only control how transformers loads a model say nothing about the model itself
    ignored = {"model_type", "dtype", "torch_dtype", "transformers_version", "architectures", "id2label", "label2id"}
    ignored |= {"output_hidden_states", "output_attentions", "return_dict", "chunk_size_feed_forward", "problem_type"}
    settings = {k: v for k, v in raw.items() if k in known and k not in ignored and not k.startswith("_")}
    for key, value in settings.items():
        if (wanted := _expected(key, value, kind)) is not None:
            raise ModelFolderError(f"{shown(source)}: {key} is {quoted(value)}, expected {wanted}")
    try:
        with quiet_transformers():
            config = config_class(**settings)
    except (StrictDataclassError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise ModelFolderError(f"{shown(source)} is not a valid {kind} configuration: {_one_line(error)}") from error
    _check_together(config, source)
    _warn_of_other_kind(raw, config, source)
    return config


def _expected(key: str, value: object, kind: str) -> str | None:
    """Return what was expected for `key` if `value` is wrong, else None; the config class checks the other types."""
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    type_ = KINDS[kind].unlisted.get(key)
    if key in _COUNTS:
        least, most = int((key, kind) != ("type_vocab_size", "deberta-v2")), _COUNTS[key]
        if not isinstance(number, int) or not least <= number <= most:
            return f"a whole number from {least} to {most:,}"
    elif key in _ACTIVATIONS and not (isinstance(value, str) and value in ACT2FN):
        return "the name of an activation of transformers, such as 'gelu'"
    elif key in _PROBABILITIES and (number is None or not 0 <= number < 1):
        return "a probability from 0 to below 1"
    elif key in _POSITIVE and (number is None or not number > 0):
        return "a number above 0"
    elif type_ is not None and not (number is not None if type_ is float else type(value) is type_):
        return f"a value of type {type_.__name__}"
    return None


def _check_together(config: PreTrainedConfig, source: Path) -> None:
    """Check that the values fit each other; raise a `ModelFolderError` that names the key."""
    padding, n_words = config.pad_token_id, config.vocab_size
    counts_from_padding = KINDS[config.model_type].counts_from_padding
    if config.hidden_size % config.num_attention_heads:
        width, n_heads = config.hidden_size, config.num_attention_heads
        fault = f"hidden_size {width} is not a multiple of num_attention_heads {n_heads}"
    elif padding is not None and not 0 <= padding < n_words:
        fault = f"pad_token_id is {padding}, expected a token id from 0 to below vocab_size {n_words}"
    elif counts_from_padding and (padding is None or config.max_position_embeddings <= padding + 3):
        fault = f"max_position_embeddings leaves no positions for a text after pad_token_id {padding}"
    else:
        return
    raise ModelFolderError(f"{shown(source)}: {fault}")


def _warn_of_other_kind(raw: Mapping[str, Any], config: PreTrainedConfig, source: Path) -> None:
    """Warn if config.json names a class of another kind, whose weights may have the same names and shapes."""
    named = raw.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    if not isinstance(first, str):
        return
    classes = {kind.replace("-", ""): kind for kind in KINDS}  # how the names of transformers' classes begin, lowered
    other = next((kind for name, kind in classes.items() if first.lower().startswith(name)), config.model_type)
    if (KINDS[other].computes_as or other) != (KINDS[config.model_type].computes_as or config.model_type):
        logger.warning(
            "%s: model_type is %s, but architectures names %s, which is of the kind %s; model_type is used",
            shown(source),
            config.model_type,
            quoted(first),
            other,
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
