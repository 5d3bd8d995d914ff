"""Tell by the names of a folder's files what is in it: the weights that are read, or something else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

WeightKind = Literal["safetensors", "bin"]
# The first that is there is read; each may also be shards, with its name and .index.json.
WEIGHT_FILES: Final[tuple[tuple[str, WeightKind], ...]] = (
    ("model.safetensors", "safetensors"),
    ("pytorch_model.bin", "bin"),
)
_CONVERT = "convert it with transformers 4: AutoModel.from_pretrained(folder, from_{}=True).save_pretrained(other)"
_ORIGINAL = "give the folder of the model that it was made from"
_EXPORT = f"an export of sbert-ft runs with --engine onnxruntime or openvino; else {_ORIGINAL}"
# Folders that are not a model to load: by how the name of a file or folder in them begins or ends, what they hold, and
# what to do.
_OTHER_FOLDERS = (
    (r"^adapter_(config\.json|model\.)", "an adapter (PEFT)", "merge it into its base model with merge_and_unload()"),
    (r"^fingerprint\.json$", "a run of sbert-ft", "give its folder 'model', written when the run is finished"),
    (r"^step-\d{8}\.safetensors$", "checkpoints of sbert-ft", "give the folder 'model' of their run"),
    (r"^global_step\d|^zero_to_fp32\.py$", "a checkpoint of DeepSpeed", "run zero_to_fp32.py in it first"),
    (r"\.ckpt$", "a checkpoint of PyTorch Lightning", "save its encoder with save_pretrained where it was trained"),
    (r"^tf_model|\.h5$|\.ckpt\.|^saved_model\.pb$", "weights of TensorFlow", _CONVERT.format("tf")),
    (r"\.msgpack$", "weights of Flax", _CONVERT.format("flax")),
    (r"^onnx$|\.onnx$", "weights of ONNX", _EXPORT),
    (r"^openvino", "weights of OpenVINO", _EXPORT),
    (r"\.gguf$", "weights of GGUF", _ORIGINAL),
    (r"^(optimizer|scheduler)\.pt$", "the state of a training", "give a checkpoint that has model.safetensors too"),
)


def what_it_holds(names: Sequence[str]) -> dict[str, str]:
    """Return what a folder with these files and folders holds in place of weights, each with what to do."""
    if any(name in names for name, _ in WEIGHT_FILES):
        return {}
    return {what: remedy for pattern, what, remedy in _OTHER_FOLDERS if any(re.search(pattern, n) for n in names)}
