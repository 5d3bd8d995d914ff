"""Choose which engine runs a model: an exported graph in its folder, or torch."""

from __future__ import annotations

import logging
import os
import platform
from typing import Any, Literal, get_args

from sbert_ft.arguments import word_argument
from sbert_ft.encoder.cpu import kind_of_cpu, missing_flags
from sbert_ft.engines.graph_file import Engine, ExportedGraph, GraphOutput, GraphPrecision, find_graphs, has_weights
from sbert_ft.errors import InputError, ModelFolderError, joined, shown
from sbert_ft.model_folder.layout import ModelFolder

logger = logging.getLogger(__name__)

EngineChoice = Literal["auto", "torch", "onnxruntime", "openvino"]
ExportPrecision = Literal["auto", "float32", "bfloat16", "int8"]

_FROM_EXACT_ON: tuple[GraphPrecision, ...] = ("float32", "bfloat16", "int8")
_EXPORT = "write one with sbert-ft export, or use engine 'torch'"


def choose_graph(
    source: ModelFolder, engine: Engine | Literal["auto"], precision: str, output: GraphOutput
) -> ExportedGraph:
    """Return the exported graph of a folder that is run where torch is no choice.

    It is one that this CPU runs; among several the one that was measured fastest on this kind of CPU.

    Args:
        source: The model's folder.
        engine: The engine, or ``auto`` for any.
        precision: ``float32``, ``bfloat16``, ``int8``, or ``auto`` for any.
        output: What the graph must give.

    Raises:
        InputError: An unknown engine or precision.
        ModelFolderError: There is no such graph.
    """
    word_argument(engine, "engine", ("auto", *get_args(Engine)))
    word_argument(precision, "precision", get_args(ExportPrecision))
    of_engine = [graph for graph in find_graphs(source.encoder_path) if engine in ("auto", graph.facts.engine)]
    graphs = [graph for graph in of_engine if precision in ("auto", graph.facts.precision)]
    if not graphs:
        wanted = ("" if engine == "auto" else f" for {engine}") + ("" if precision == "auto" else f" in {precision}")
        there = f", only in {joined((graph.facts.precision for graph in of_engine), 3)}" if of_engine else ""
        raise ModelFolderError(f"{shown(source.path)} has no export{wanted}{there}", _EXPORT)
    fitting = [graph for graph in graphs if graph.facts.output == output]
    if not fitting:
        facts = graphs[0].facts
        raise ModelFolderError(
            f"{shown(graphs[0].path)} gives {_OUTPUTS[facts.output]}, but {_OUTPUTS[output]} are needed here",
            "use it as a classifier" if facts.output == "logits" else "export the model again",
        )
    return max(fitting, key=_rank)


def choose_engine(
    source: ModelFolder,
    engine: EngineChoice,
    precision: str,
    device: Any,
    output: GraphOutput,
    *,
    for_few_rows: bool = False,
) -> ExportedGraph | None:
    """Return the exported graph of a folder that is run; None for torch.

    ``auto`` takes the graph that was measured fastest on this kind of CPU, if torch was slower there; for int8, which
    torch does not compute, any, and so without weights in the folder. It takes torch where another device than the CPU
    is asked for or is there.

    Args:
        source: The model's folder.
        engine: An engine, or ``auto``.
        precision: As in `choose_graph`, or one of torch's.
        device: As in `ConnectionBert.from_pretrained`; other engines than torch run on the CPU.
        output: What the graph must give.
        for_few_rows: Whether it is loaded for one row, so that torch's import takes longer than anything else. Then
            ``auto`` also takes a slower graph, the most exact one.

    Raises:
        InputError: An unknown engine, or another engine than torch and another device than the CPU.
        ModelFolderError: There is no such graph for the engine.
    """
    word_argument(engine, "engine", get_args(EngineChoice))
    is_for_cpu = device is None or str(device) == "cpu"
    if engine == "onnxruntime" or engine == "openvino":
        if not is_for_cpu:
            raise InputError(f"engine {engine} runs on the CPU, not on {device}", "leave the device out, or use torch")
        return choose_graph(source, engine, precision, output)
    if engine == "torch" or not is_for_cpu or precision == "float16" or (device is None and _has_other_device()):
        return None
    there = [graph for graph in find_graphs(source.encoder_path) if graph.facts.output == output]
    here = kind_of_cpu()
    usable = [
        graph
        for graph in there
        if precision in ("auto", graph.facts.precision) and not missing_flags(graph.facts.requires)
    ]
    faster = [g for g in usable if precision == "int8" or (g.facts.cpu == here and g.facts.speed > 1)]
    if faster:
        return max(faster, key=_rank)
    if usable and (for_few_rows or not has_weights(source.encoder_path)):
        return min(usable, key=lambda graph: _FROM_EXACT_ON.index(graph.facts.precision))
    if there:
        logger.info("engine torch: no export in the folder was measured faster on this kind of CPU (%s)", here)
    return None


def output_of_classifier(source: ModelFolder) -> GraphOutput:
    """Return what the graph of a classifier's folder gives: logits with a stock head, otherwise tokens."""
    own = source.own.get("classifier")
    return "tokens" if isinstance(own, dict) and own.get("pooling") != "pooler" else "logits"


_OUTPUTS = {"tokens": "vectors of tokens", "logits": "logits"}


def _rank(graph: ExportedGraph) -> tuple[bool, bool, float]:
    """Return what makes a graph better than another one: that this CPU runs it, was measured, and how fast it is."""
    facts = graph.facts
    return not missing_flags(facts.requires), facts.cpu == kind_of_cpu(), facts.speed


def _has_other_device() -> bool:
    """Return whether torch would probably compute on a graphics card here: NVIDIA's, or Apple's."""
    is_apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    return is_apple or (os.path.exists("/dev/nvidiactl") and os.environ.get("CUDA_VISIBLE_DEVICES") != "")
