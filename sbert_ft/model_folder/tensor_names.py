"""Match the tensor names of a weights file to the names of the stock encoder.

The same encoder is saved under many names: wrapped (`module.`, `_orig_mod.`), inside a larger model (`bert.`,
`0.auto_model.`), from TensorFlow (`gamma`, `beta`), with heads beside it. Prefixes are stripped one by one until the
rest is an expected name; other names are sorted into heads and unknown ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sbert_ft.errors import ModelFolderError, listed, quoted, shown

_WRAPPERS = ("module.", "model.", "_orig_mod.", "0.auto_model.", "auto_model.", "0.model.")
_MAX_STRIPPED = 8  # wrappers in one name; more could only be meant to cost time
_OLD_ENDINGS = ((".gamma", ".weight"), (".beta", ".bias"))
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
_HEADS = (
    *("cls.", "lm_head.", "classifier.", "pre_classifier.", "predictions.", "qa_outputs.", "pooler."),
    *("generator_predictions.", "generator_lm_head.", "discriminator_predictions."),
    *("vocab_transform.", "vocab_layer_norm.", "vocab_projector."),
    *("head.dense.", "head.norm.", "decoder.weight", "decoder.bias"),
)
_LAYER = re.compile(r"(?:^|\.)(?:encoder|transformer)\.layer\.(\d{1,9})\.")
# Name ending, axis, and the key of config.json that sets that axis; the first match is used.
_CONFIG_KEYS = (
    ("word_embeddings.weight", 0, "vocab_size"),
    ("position_embeddings.weight", 0, "max_position_embeddings"),
    ("token_type_embeddings.weight", 0, "type_vocab_size"),
    (".intermediate.dense.weight", 0, "intermediate_size"),
    (".intermediate.dense.bias", 0, "intermediate_size"),
    (".attention.output.dense.weight", 1, "hidden_size"),
    (".output.dense.weight", 1, "intermediate_size"),
)
_FLOATS = ("float32", "float16", "bfloat16", "float64")
_N_NAMED = 3  # names listed in a message before the count


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's shape and dtype by a file's header; the dtype has torch's name ("float32")."""

    shape: tuple[int, ...]
    dtype: str


def check_is_float(dtype: str, key: str, path: Path) -> None:
    """Raise a `ModelFolderError` for integer or quantized weights."""
    if dtype not in _FLOATS:
        raise ModelFolderError(
            f"{shown(path)}: the tensor {quoted(key)} is {dtype}; expected one of {', '.join(_FLOATS)}. "
            "Quantized weights are not supported",
            "use the original weights",
        )


@dataclass(frozen=True)
class NameMatch:
    """How the tensors of a file fit those that the encoder expects.

    Attributes:
        names: Expected name to the file's key, with equal shapes.
        heads: The file's keys that belong to a head or an unused pooler.
        unknown: The file's keys that match no known name.
        missing: Expected names that the file does not have.
        wrong_shape: Expected name, expected shape, the file's shape.
        prefixes: The prefixes stripped from matched keys, several of one key as one string ("module.bert.").
        ambiguous: Expected name and two of the file's keys that both match it.
    """

    names: dict[str, str]
    heads: tuple[str, ...]
    unknown: tuple[str, ...]
    missing: tuple[str, ...]
    wrong_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    prefixes: tuple[str, ...]
    ambiguous: tuple[tuple[str, str, str], ...]

    @property
    def poolers(self) -> dict[str, str]:
        """The file's keys of the stock pooler, which is kept for saving and for heads, by name without prefix."""
        return {key[key.rindex("pooler.") :]: key for key in self.heads if "pooler." in key}


def match_names(
    found: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]], base_prefix: str
) -> NameMatch:
    """Return which of the file's keys holds each expected tensor, and what does not fit.

    Example: with `expected = {"pooler.dense.bias": (4,)}` and `base_prefix = "bert"`, the encoder's name inside larger
    models, the key "module.bert.pooler.dense.bias" is matched, and `prefixes` is ("module.bert.",).
    """
    wrappers = (*_WRAPPERS, base_prefix + ".") if base_prefix else _WRAPPERS
    keys: dict[str, str] = {}
    prefixes: dict[str, None] = {}
    heads, unknown, ambiguous = [], [], []
    for key in found:
        prefix, name = _split_prefix(key, wrappers, expected)
        if name in keys:
            ambiguous.append((name, keys[name], key))
        elif name in expected:
            keys[name] = key
            if prefix:
                prefixes[prefix] = None
        elif name.startswith(_HEADS):
            heads.append(key)
        elif name not in _BUFFERS:
            unknown.append(key)
    there = {name: (shape, found[keys[name]].shape) for name, shape in expected.items() if name in keys}
    return NameMatch(
        names={name: keys[name] for name, (shape, actual) in there.items() if shape == actual},
        heads=tuple(heads),
        unknown=tuple(unknown),
        missing=tuple(name for name in expected if name not in keys),
        wrong_shape=tuple((name, shape, actual) for name, (shape, actual) in there.items() if shape != actual),
        prefixes=tuple(prefixes),
        ambiguous=tuple(ambiguous),
    )


def check_match(match: NameMatch, folder: Path) -> None:
    """Refuse weights that do not fill the encoder exactly, with all faults in one message.

    Other unknown tensors are accepted; the caller reports them.

    Raises:
        ModelFolderError: Tensors are missing, have another shape or are there twice, or there are more layers.
    """
    faults = [
        f"{quoted(first)} and {quoted(second)} both claim to be {quoted(name)}"
        for name, first, second in match.ambiguous[:_N_NAMED]
    ]
    expected = [*match.names, *match.missing, *(name for name, _, _ in match.wrong_shape)]
    if match.missing:
        held = f" (the weights hold {listed(match.unknown, _N_NAMED)} instead)" if match.unknown else ""
        faults.append(
            f"{len(match.missing)} of {len(expected)} tensors are missing, {listed(match.missing, _N_NAMED)}{held}"
        )
    faults += [_shape_fault(*wrong) for wrong in match.wrong_shape[:_N_NAMED]]
    if len(match.wrong_shape) > _N_NAMED:
        faults.append(f"{len(match.wrong_shape)} tensors in all have another shape")
    n_layers = 1 + max(map(_layer, expected), default=-1)
    if extra := [name for name in match.unknown if _layer(name) >= n_layers]:
        faults.append(f"the weights hold layers beyond the {n_layers} of num_hidden_layers, {listed(extra, _N_NAMED)}")
    if faults:
        raise ModelFolderError(
            f"The weights in {shown(folder)} do not fit its config.json: {'; '.join(faults)}",
            "use the config.json and the weights of the same model",
        )


def _split_prefix(key: str, wrappers: tuple[str, ...], expected: Mapping[str, object]) -> tuple[str, str]:
    """Return the wrappers at the start of `key` and the name after them, with an old ending replaced by the new one.

    Stripping stops at an expected name, so that one which begins like a wrapper stays whole.
    """
    start = 0
    for _ in range(_MAX_STRIPPED + 1):
        name = key[start:]
        if name in expected:
            return key[:start], name
        for old, new in _OLD_ENDINGS:
            if name.endswith(old) and (renamed := name.removesuffix(old) + new) in expected:
                return key[:start], renamed
        wrapper = next((wrapper for wrapper in wrappers if name.startswith(wrapper)), None)
        if wrapper is None:
            break
        start += len(wrapper)
    return key[:start], key[start:]


def _shape_fault(name: str, expected: tuple[int, ...], actual: tuple[int, ...]) -> str:
    """Return the message for one tensor of another shape, with the config key where it is known."""
    fault = f"{quoted(name)} is {dims(actual)} in the weights, {dims(expected)} by config.json"
    if len(expected) != len(actual) or not name.startswith(("embeddings.", "encoder.", "pooler.")):
        return fault
    axes = [axis for axis in range(len(expected)) if expected[axis] != actual[axis]]
    keys = [
        next((key for ending, of, key in _CONFIG_KEYS if of == axis and name.endswith(ending)), "hidden_size")
        for axis in axes
    ]
    return f"{fault} (key {', '.join(dict.fromkeys(keys))})"


def dims(shape: tuple[int, ...]) -> str:
    """Return a shape as "30522 x 384"."""
    return " x ".join(map(str, shape)) or "a scalar"


def _layer(name: str) -> int:
    """Return the number of the encoder layer that `name` belongs to, -1 if there is none."""
    layer = _LAYER.search(name)
    return int(layer[1]) if layer else -1
