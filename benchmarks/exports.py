"""Write a model as engines read it: ours in this environment, the peers' in their own (`make bench-peers`).

    .venv-peers/bin/python benchmarks/exports.py MODEL TARGET --kinds st-onnx st-openvino openvino onnxruntime
    python benchmarks/exports.py MODEL TARGET --kinds sbert_ft-onnxruntime-float32 sbert_ft-onnxruntime-int8

`st-onnx` and `st-openvino` are what sentence-transformers exports for its own backends. `openvino`, `onnxruntime` and
`onnxruntime-int8` are the stock encoder with mean pooling behind it as one graph, for those who call an engine
directly; int8 is `quantize_dynamic` per channel, with nothing else set. `sbert_ft-ENGINE-PRECISION` is a copy of the
model's folder with our export in it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import harness  # noqa: F401 - keeps the libraries from the network

GRAPHS = {"openvino": "model.xml", "onnxruntime": "model.onnx", "onnxruntime-int8": "model_int8.onnx"}
PEERS = ("st-onnx", "st-openvino", *GRAPHS)
OURS = tuple(
    f"sbert_ft-{engine}-{p}" for engine in ("onnxruntime", "openvino") for p in ("float32", "bfloat16", "int8")
)
NAMES = ["input_ids", "attention_mask"]


def main() -> None:
    """Write each kind into a folder of its name under the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=[*PEERS, *OURS], default=PEERS)
    parser.add_argument("--isa", choices=["avx2"], help="export ours for a CPU with no more than these instructions")
    args = parser.parse_args()
    if args.isa:
        hide_instructions()
    for kind in args.kinds:
        place = args.target / kind
        if kind in OURS:
            export_ours(args.model, kind, place)
        elif kind.startswith("st-"):
            export_backend(args.model, kind.removeprefix("st-"), place)
        else:
            place.mkdir(parents=True, exist_ok=True)
            export_graph(args.model, kind, place / GRAPHS[kind])
            shutil.copy(args.model / "tokenizer.json", place / "tokenizer.json")


def hide_instructions() -> None:
    """Keep AVX512 and AMX from our export, which asks Linux for the CPU's instructions and quantises for them."""
    from sbert_ft.encoder import cpu

    flags = {flag for flag in cpu.cpu_flags() if not flag.startswith(("avx512", "amx"))}
    cpu.cpu_flags = lambda: flags


def export_ours(model: Path, kind: str, place: Path) -> None:
    """Write a copy of the model's folder with our export in it."""
    from sbert_ft import SiameseBert

    _, engine, precision = kind.split("-")
    shutil.copytree(model, place)
    SiameseBert.from_pretrained(place, "cpu", "float32").export(engine=engine, precision=precision)


def export_backend(model: Path, backend: str, place: Path) -> None:
    """Write what sentence-transformers' backend loads."""
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(model), backend=backend, model_kwargs={"export": True}).save_pretrained(str(place))


def export_graph(model: Path, engine: str, file: Path) -> None:
    """Write the encoder with mean pooling as one graph with free batch and length."""
    import torch
    from transformers import AutoModel

    # ONNX Runtime is faster with eager attention, OpenVINO joins the operations of the usual one
    attention = {} if engine == "openvino" else {"attn_implementation": "eager"}
    encoder = AutoModel.from_pretrained(str(model), add_pooling_layer=False, **attention).eval()

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
    if engine == "onnxruntime-int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        float32 = file.rename(file.with_name("float32.onnx"))
        quantize_dynamic(float32, file, per_channel=True, weight_type=QuantType.QInt8)
        float32.unlink()


if __name__ == "__main__":
    main()
