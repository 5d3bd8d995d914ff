"""Load a model's folder with other libraries and write what they compute. Runs in the peers' environment.

    .venv-peers/bin/python tests/ecosystem/run_backends.py FOLDER ROWS.json OUTPUTS.npz "LOADER ENGINE [FILE]" ...

That environment (benchmarks/peers.txt) has optimum-onnx, which asks for another transformers than ours does. LOADER is
a key of `LOADERS`, ENGINE is onnx or openvino, FILE the graph's path in the folder if it is not the one that the
library takes by itself. One process runs them all, because its imports take most of the time; an array in the output
has the name of its argument, and is the error's text where there was one. OpenVINO computes in float32, as the vectors
do that it is compared with.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import numpy as np

FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
ENGINE_OPTIONS: dict[str, dict[str, Any]] = {
    "onnx": {"provider": "CPUExecutionProvider"},
    "openvino": {"ov_config": FLOAT32},
}


def sentence_transformer(backend: str, folder: str, file: str, texts: list[str]) -> Any:
    from sentence_transformers import SentenceTransformer

    options = ENGINE_OPTIONS[backend] | ({"file_name": file} if file else {})
    return SentenceTransformer(folder, backend=backend, model_kwargs=options).encode(texts, batch_size=8)


def cross_encoder(backend: str, folder: str, file: str, pairs: list[list[str]]) -> Any:
    from sentence_transformers import CrossEncoder

    options = ENGINE_OPTIONS[backend] | ({"file_name": file} if file else {})
    return CrossEncoder(folder, backend=backend, model_kwargs=options).predict(pairs, apply_softmax=True)


def optimum_vectors(engine: str, folder: str, file: str, texts: list[str]) -> Any:
    import torch

    if engine == "onnx":
        from optimum.onnxruntime import ORTModelForFeatureExtraction as Model
    else:
        from optimum.intel import OVModelForFeatureExtraction as Model
    inputs = tokenized(folder, texts)
    hidden = Model.from_pretrained(folder, **place(engine, file))(**inputs).last_hidden_state
    kept = inputs["attention_mask"][:, :, None]
    return torch.nn.functional.normalize((hidden * kept).sum(1) / kept.sum(1)).numpy()


def optimum_probabilities(engine: str, folder: str, file: str, rows: list[Any]) -> Any:
    import torch

    if engine == "onnx":
        from optimum.onnxruntime import ORTModelForSequenceClassification as Model
    else:
        from optimum.intel import OVModelForSequenceClassification as Model
    logits = Model.from_pretrained(folder, **place(engine, file))(**tokenized(folder, rows)).logits
    return torch.softmax(logits, 1).numpy()


def tokenized(folder: str, rows: list[Any]) -> Any:
    """Return texts, or pairs of texts, as padded tensors."""
    from transformers import AutoTokenizer

    columns = [rows] if isinstance(rows[0], str) else [list(column) for column in zip(*rows, strict=True)]
    return AutoTokenizer.from_pretrained(folder)(*columns, padding=True, truncation=True, return_tensors="pt")


def place(engine: str, file: str) -> dict[str, Any]:
    """Return how optimum is told where the graph is."""
    named = {"file_name": PurePosixPath(file).name} if file else {}
    return {"subfolder": engine, **named, **({} if engine == "onnx" else {"ov_config": FLOAT32})}


LOADERS: dict[str, Callable[[str, str, str, list[Any]], Any]] = {
    "SentenceTransformer": sentence_transformer,
    "CrossEncoder": cross_encoder,
    "ModelForFeatureExtraction": optimum_vectors,
    "ModelForSequenceClassification": optimum_probabilities,
}


def main() -> None:
    folder, rows_file, outputs_file, *runs = sys.argv[1:]
    with open(rows_file, encoding="utf-8") as file:
        rows = json.load(file)
    outputs = {}
    for run in runs:
        loader, engine, *graph = run.split(" ")
        try:
            outputs[run] = LOADERS[loader](engine, folder, "".join(graph), rows)
        except Exception as error:  # the other runs go on, and the test of this one shows it
            outputs[run] = np.array(f"{type(error).__name__}: {error}")
    np.savez(outputs_file, **outputs)


if __name__ == "__main__":
    main()
