"""What tells models apart by the vectors they give: a digest of weights, configuration, tokenizer and pooling."""

from __future__ import annotations

import hashlib
import json

from sbert_ft.engines.graph_file import digest_of_weights
from sbert_ft.files.strict_json import open_file
from sbert_ft.models.sentence_encoder import SentenceEncoder


def model_digest(model: SentenceEncoder) -> str:
    """Return the SHA-256, as hexadecimal digits, of what a model's vectors follow from, but engine and precision.

    It reads the weights of the model's folder once. A stored threshold, prompts and the folder's name are no part.

    Raises:
        ModelFolderError: A file cannot be read.
    """
    source, graph = model.bert.source, getattr(model.bert, "graph", None)
    digest = hashlib.sha256()
    weights = digest_of_weights(source.encoder_path) or (graph.facts.weights if graph is not None else None)
    casing = repr(model.tokenizer.casing)  # which another file than the vocabulary may set
    settings = (source.include_prompt, source.lower_case_first, model.pooling, model.normalize, casing)
    digest.update(json.dumps([weights, dict(source.config), settings], sort_keys=True).encode())
    for path in model.tokenizer.files:
        with open_file(path) as file:
            digest.update(hashlib.sha256(file.read()).digest())
    return digest.hexdigest()


def engine_of(model: SentenceEncoder) -> str:
    """Return what runs a model, in which precision and on which kind of device: "torch float32 cpu"."""
    graph = getattr(model.bert, "graph", None)
    if graph is not None:
        return f"{graph.facts.engine} {graph.facts.precision} cpu"
    precision, device = str(getattr(model.bert, "compute_dtype", "")), getattr(model, "device", "")
    compiled = " compiled" if getattr(model.bert, "compiled", None) is not None else ""
    return f"torch{compiled} {precision.removeprefix('torch.')} {getattr(device, 'type', device)}"
