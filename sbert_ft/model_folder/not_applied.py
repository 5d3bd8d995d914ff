"""Settings of sentence-transformers that change vectors and are not applied here: a folder that has one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sbert_ft.errors import ModelFolderError, listed, quoted, shown

# By key: the value that changes nothing, as no key and null do not, and what to do about another
_SETTINGS: Mapping[str, tuple[object, str]] = {
    "transformer_task": ("feature-extraction", "only the token vectors of a BERT are computed here"),
    "module_output_name": ("token_embeddings", "only token vectors are pooled here"),
    "query_length": (None, "queries and documents have one length here: set max_seq_length"),
    "document_length": (None, "queries and documents have one length here: set max_seq_length"),
    "query_expansion": (None, "queries are not filled up here: it belongs to models of several vectors a text"),
}
# Options for loading, by the names of all versions, and where else each can stand
_OPTIONS: Mapping[str, str] = {
    "tokenizer_args": "tokenizer_config.json",
    "processor_kwargs": "tokenizer_config.json",
    "processing_kwargs": "tokenizer_config.json",
    "model_args": "config.json",
    "model_kwargs": "config.json",
    "config_args": "config.json",
    "config_kwargs": "config.json",
}
# How a model is loaded, which changes no number that the folder defines
_OF_LOADING = {
    *("attn_implementation", "cache_dir", "device_map", "dtype", "local_files_only", "low_cpu_mem_usage", "revision"),
    *("token", "torch_dtype", "trust_remote_code", "use_fast", "use_safetensors"),
}
# Which output of the model is taken
_OF_OUTPUT = ("transformer_task", "module_output_name")
_MODALITY = {"method": "forward", "method_output_name": "last_hidden_state"}


def check_transformer_settings(file: Path, settings: Mapping[str, Any], of_classifier: bool) -> None:
    """Raise a `ModelFolderError` about a key of sentence_bert_config.json that is not applied.

    Of a classifier it is known which output is taken, so that is not looked at.
    """
    for key, (harmless, remedy) in _SETTINGS.items():
        if of_classifier and key in _OF_OUTPUT:
            continue
        if settings.get(key) not in (None, harmless):
            raise ModelFolderError(f"{shown(file)}: {key} is {quoted(settings[key])}, which is not applied", remedy)
    for name, place in _OPTIONS.items():
        options = settings.get(name) or {}
        if not isinstance(options, dict):
            raise ModelFolderError(f"{shown(file)}: {name} is {quoted(options)}, expected options by name")
        given = [key for key, value in options.items() if key not in _OF_LOADING and value not in (None, {})]
        if given:
            problem = f"{name} sets {listed(given, 3)}, which is not applied from this file"
            raise ModelFolderError(f"{shown(file)}: {problem}", f"write it into {place}")
    modalities = settings.get("modality_config") or {}
    text = modalities.get("text", _MODALITY) if isinstance(modalities, dict) else modalities
    if text != _MODALITY and not of_classifier:
        raise ModelFolderError(f"{shown(file)}: modality_config has {quoted(text)} for texts, expected {_MODALITY}")
