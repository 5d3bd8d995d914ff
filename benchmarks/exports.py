"""Write a model as the peers' engines read it. Runs in the peers' own environment (`make bench-peers`).

    .venv-peers/bin/python benchmarks/exports.py MODEL TARGET [--kinds st-onnx st-openvino openvino onnxruntime]

`st-onnx` and `st-openvino` are what sentence-transformers exports for its own backends. The other two are the stock
encoder with mean pooling behind it as one graph, for who feeds an engine by hand.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

KINDS = ("st-onnx", "st-openvino", "openvino", "onnxruntime")
GRAPHS = {"openvino": "model.xml", "onnxruntime": "model.onnx"}
NAMES = ["input_ids", "attention_mask"]


def main() -> None:
    """Write each kind into a folder of its name under the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    args = parser.parse_args()
    for kind in args.kinds:
        place = args.target / kind
        if kind.startswith("st-"):
            export_backend(args.model, kind.removeprefix("st-"), place)
        else:
            place.mkdir(parents=True, exist_ok=True)
            export_graph(args.model, kind, place / GRAPHS[kind])
            shutil.copy(args.model / "tokenizer.json", place / "tokenizer.json")


def export_backend(model: Path, backend: str, place: Path) -> None:
    """Write what sentence-transformers' backend loads."""
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(model), backend=backend, model_kwargs={"export": True}).save_pretrained(str(place))


def export_graph(model: Path, engine: str, file: Path) -> None:
    """Write the encoder with mean pooling as one graph with free batch and length."""
    import torch
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(str(model), add_pooling_layer=False).eval()

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            kept = attention_mask[:, :, None].to(hidden.dtype)
            return (hidden * kept).sum(1) / kept.sum(1)

    ids = torch.arange(48).reshape(4, 12) + 1000
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    if engine == "openvino":
        import openvino

        free = [(name, [-1, -1]) for name in NAMES]
        graph = openvino.convert_model(Pooled(), example_input={"input_ids": ids, "attention_mask": mask}, input=free)
        openvino.save_model(graph, str(file), compress_to_fp16=False)
    else:
        axes = {name: {0: "texts", 1: "tokens"} for name in NAMES}
        torch.onnx.export(
            Pooled(), (ids, mask), str(file), input_names=NAMES, output_names=["vectors"], dynamic_axes=axes,
            dynamo=False, opset_version=18,
        )  # fmt: skip


if __name__ == "__main__":
    main()
