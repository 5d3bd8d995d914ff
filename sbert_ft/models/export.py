"""`export_model`: from a model's folder to a graph for an engine, compared with torch, in the folder or in a new one.

The files have the names and places where sentence-transformers, optimum and embedding servers look for them, beside the
encoder's config.json. They are made in a temporary folder there and put in place at the end, the graph's own file last,
so that a reader finds the old export, the new one or none.
"""

from __future__ import annotations

import errno
import html
import json
import logging
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args

import torch
from torch import Tensor

from sbert_ft.arguments import path_argument, word_argument
from sbert_ft.encoder.cpu import cpu_flags, kind_of_cpu
from sbert_ft.encoder.heads import ClassificationHead
from sbert_ft.engines.graph_file import (
    FACTS_KEY,
    Engine,
    ExportedGraph,
    GraphFacts,
    GraphPrecision,
    read_graph,
)
from sbert_ft.engines.session import INPUTS, import_onnxruntime, import_openvino, open_session
from sbert_ft.errors import InputError, OutputError, shown
from sbert_ft.files.atomic import make_folder, put_in_place, staged_beside
from sbert_ft.model_folder.classifier import stock_name
from sbert_ft.model_folder.digest import digest_of_weights
from sbert_ft.model_folder.layout import ModelFolder
from sbert_ft.model_folder.tensor_names import match_names
from sbert_ft.model_folder.weights import find_weights, read_tensors
from sbert_ft.model_folder.writer import write_folder
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.onnx_graph import (
    add_facts,
    check_graph,
    graph_inputs,
    import_onnx,
    save_onnx,
    takes_token_types,
    write_onnx,
)
from sbert_ft.models.parity import Comparison, Model, Parity, Rows
from sbert_ft.models.quantize import OnnxQuantizer, import_nncf, int8_variant, quantize_openvino, sensitive_products

logger = logging.getLogger(__name__)

# Below this mean cosine more of the graph stays in float32, up to half of its layers. Without VNNI int8 gains less, so
# less of the gain is given away.
_GOOD_COSINE: Final = 0.998
_GOOD_COSINE_WITHOUT_VNNI: Final = 0.995
_BFLOAT16_FLAGS: Final = "avx512_bf16|amx_bf16"
_GOOD_DIFFERENCE: Final = 0.005  # the same for the mean difference of probabilities


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and how it compares with torch.

    Attributes:
        graph: The graph's file and what it says of itself.
        files: All files that were written for it.
        parity: How far its results are from torch's.
        n_float: For int8 of ONNX Runtime: how many products stay in float32 although they could be int8.
        accepted: The bounds that its results do not keep, which `force` accepted.
    """

    graph: ExportedGraph
    files: tuple[Path, ...]
    parity: Parity
    n_float: int = 0
    accepted: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the report for the terminal."""
        facts, n_bytes = self.graph.facts, sum(path.stat().st_size for path in self.files)
        size = f"{n_bytes / 2**20:,.1f} MiB"
        lines = [f"wrote {shown(self.graph.path)} ({facts.engine}, {facts.precision}, {size})", *self.parity.lines()]
        if self.n_float:
            lines.append(f"  {self.n_float} matrix products were kept in float32 to keep the cosine")
        lines += [f"  accepted by force: {fault}" for fault in self.accepted]
        faster = f"{facts.speed:.2f} times as fast as torch on these texts, on this CPU ({facts.cpu})"
        return [*lines, faster]


def export_model(
    model: Model,
    save: Callable[[Path], None],
    head: ClassificationHead | None,
    output: str | Path | None,
    engine: Engine,
    precision: GraphPrecision,
    texts: Rows | None,
    force: bool,
) -> ExportReport:
    """Export a model for an engine; see `SiameseBert.export`.

    Args:
        model: A model that torch runs.
        save: Saves it to a folder.
        head: The head that becomes a part of the graph, that of a stock classifier; None for a graph of tokens.
        output: A folder to which the model is saved together with the export; None for the model's own folder.
        engine: The engine.
        precision: Of the graph's matrix products.
        texts: Rows to compare and to calibrate on; None for built-in ones.
        force: Write the export even if its results are too far from torch's.
    """
    import_needed(engine, precision)
    target = None if output is None else path_argument(output, "folder")
    job = _Export(Comparison.of(model, head, texts), engine, precision, force)
    source = model.bert.source
    if target is not None:
        reports: list[ExportReport] = []

        def write(staging: Path) -> None:
            save(staging)
            reports.append(job.write(staging, staging))

        write_folder(target, write)
        return _moved(reports[0], target)
    if not _has_weights_of(source, job.comparison.bert, head):
        raise InputError(
            f"the model's weights differ from those in {shown(source.path)}, where its export would be written",
            "give a folder, to which the model is saved together with its export",
        )
    place = source.encoder_path.resolve()
    with _writing(place), staged_beside(place / engine) as staging:
        report = job.write(staging, place)
        names = [path.relative_to(staging).as_posix() for path in report.files]
        put_in_place(staging, place, entrances=names)
    return _moved(report, source.encoder_path)


def _has_weights_of(source: ModelFolder, bert: ConnectionBert, head: ClassificationHead | None) -> bool:
    """Return whether a folder holds exactly the weights of an encoder and its stock head; errors as in loading."""
    weights, plan = find_weights(source.encoder_path), bert.plan
    own: dict[str, Tensor] = dict(bert.encoder.state_dict())
    shapes = dict(plan.shapes)
    stock = None if head is None else head.plan.stock
    if head is not None and stock is not None:
        of_head = {stock_name(stock, name): parameter for name, parameter in head.named_parameters()}
        shapes |= {name: tuple(parameter.shape) for name, parameter in of_head.items()}
        own |= of_head
    match = match_names(weights.tensors, shapes, plan.base_prefix)
    if match.missing or match.wrong_shape or match.ambiguous:
        return False
    return all(torch.equal(own[name].cpu(), tensor) for name, tensor in read_tensors(weights, match.names).items())


def import_needed(engine: Engine, precision: GraphPrecision) -> None:
    """Import what an export needs, which is tried before a model is loaded.

    Raises:
        InputError: An unknown engine or precision, or one that the engine does not compute in.
        ResourceError: A package is not installed; the message names the extra.
    """
    word_argument(engine, "engine", get_args(Engine))
    word_argument(precision, "precision", get_args(GraphPrecision))
    if (engine, precision) == ("onnxruntime", "bfloat16"):
        raise InputError("precision bfloat16 is for the engine openvino", "choose float32 or int8 for onnxruntime")
    import_onnx()
    if engine == "onnxruntime":
        import_onnxruntime()
        return
    import_openvino()
    if precision == "int8":
        import_nncf()


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"the export cannot be written to {shown(place)}: {error.strerror or error}") from error


def _moved(report: ExportReport, folder: Path) -> ExportReport:
    """Return the report with the paths of the files where they were put."""
    files = tuple(folder / path.parent.name / path.name for path in report.files)
    return replace(report, files=files, graph=replace(report.graph, path=files[0]))


@dataclass(frozen=True)
class _Export:
    """One export: the model with the rows of its comparison, the engine and the precision."""

    comparison: Comparison
    engine: Engine
    precision: GraphPrecision
    force: bool

    def write(self, staging: Path, weights: Path) -> ExportReport:
        """Write the graph below `staging`, where there may be a model already; its weights are those in `weights`."""
        draft = staging / "draft"
        draft.mkdir()
        place = staging / ("onnx" if self.engine == "onnxruntime" else "openvino")
        make_folder(place)
        plain = draft / "model.onnx"
        write_onnx(self.comparison.bert, self.comparison.head, plain)
        facts = self._facts(weights)
        tried = open_session(ExportedGraph(plain, replace(facts, precision="float32", requires=())))
        check_graph(self.comparison.bert, self.comparison.head, tried)
        del tried
        expected = self.comparison.by_torch()
        make = self._onnx if self.engine == "onnxruntime" else self._openvino
        for n_float, graph in make(plain, place, facts):
            session = open_session(graph)
            parity = self.comparison.compare(expected, self.comparison.by_graph(session))
            if self.precision != "int8" or _is_good(parity, int8_variant()[1]):
                break
            name = "mean_difference" if parity.of_classifier else "mean_cosine"
            figure = f"{name.replace('_', ' ')} {parity.figures[name]:.5f}"
            logger.info("int8 with %d matrix products in float32: %s", n_float, figure)
        faults = parity.faults(self.precision)
        if faults and not self.force:
            raise InputError(
                f"the {self.precision} export is too far from torch: {'; '.join(faults)}; nothing was written",
                "choose another precision, give texts of the kind that the model is for, or force it",
            )
        facts = replace(graph.facts, parity=dict(parity.figures), speed=round(self.comparison.speed(session), 3))
        (add_facts if self.engine == "onnxruntime" else _add_facts_to_xml)(graph.path, facts)
        written = read_graph(graph.path)
        assert written.facts == facts
        shutil.rmtree(draft)
        others = sorted(path for path in place.iterdir() if path != graph.path)
        return ExportReport(written, (graph.path, *others), parity, n_float, tuple(faults))

    def _facts(self, weights: Path) -> GraphFacts:
        """Return the facts that are known before the graph has run."""
        config = self.comparison.bert.plan.config
        head, digest = self.comparison.head, digest_of_weights(weights)
        assert digest is not None  # the model was loaded from them
        return GraphFacts(
            engine=self.engine,
            precision=self.precision,
            output="tokens" if head is None else "logits",
            weights=digest,
            vocab_size=int(config.vocab_size),
            hidden_size=int(config.hidden_size),
            max_tokens=self.comparison.bert.max_tokens,
            type_vocab_size=int(getattr(config, "type_vocab_size", None) or 0),
            takes_token_types=takes_token_types(self.comparison.bert),
            n_outputs=None if head is None else head.n_outputs,
            cpu=kind_of_cpu(),
            speed=1.0,
            requires=self._requires(),
        )

    def _requires(self) -> tuple[str, ...]:
        """Return the CPU flags without which the graph's results are not those that are measured here."""
        if (self.engine, self.precision) == ("onnxruntime", "int8"):
            return int8_variant()[2]
        is_x86 = platform.machine().lower() in ("x86_64", "amd64")
        # elsewhere OpenVINO would compute in float32 without a word
        return (_BFLOAT16_FLAGS,) if self.precision == "bfloat16" and is_x86 and cpu_flags() else ()

    def _inputs(self) -> list[dict[str, Any]]:
        """Return what int8 is calibrated on as a graph's inputs by their names."""
        names = INPUTS if takes_token_types(self.comparison.bert) else INPUTS[:2]
        batches = self.comparison.batches(self.comparison.calibration)
        return [dict(zip(names, graph_inputs(batch), strict=False)) for batch in batches]

    def _onnx(self, plain: Path, place: Path, facts: GraphFacts) -> Iterator[tuple[int, ExportedGraph]]:
        """Yield graphs for ONNX Runtime, each in the place of the one before, with more and more in float32."""
        if self.precision == "float32":
            file = place / "model.onnx"
            save_onnx(import_onnx().load(str(plain)), file)
            yield 0, ExportedGraph(file, facts)
            return
        name, reduce_range, _ = int8_variant()
        file = place / f"model_{name}.onnx"
        quantizer = OnnxQuantizer(plain, self._inputs(), plain.parent)
        for n_float in range(len(quantizer.sensitive) // 2 + 1):
            _empty(place)
            quantizer.write(file, n_float, reduce_range)
            yield n_float, ExportedGraph(file, facts)

    def _openvino(self, plain: Path, place: Path, facts: GraphFacts) -> Iterator[tuple[int, ExportedGraph]]:
        """Yield graphs for OpenVINO, as `_onnx` does; in fewer steps, since each takes long."""
        core = import_openvino().Core()
        if self.precision != "int8":
            file = place / "openvino_model.xml"
            _save_openvino(core.read_model(str(plain)), file)
            yield 0, ExportedGraph(file, facts)
            return
        file = place / "openvino_model_qint8_quantized.xml"
        names = sensitive_products(import_onnx().load(str(plain)))
        for n_float in sorted({0, -(-len(names) // 4), len(names) // 2}):
            model = quantize_openvino(core.read_model(str(plain)), self._inputs(), names[:n_float])
            _empty(place)
            _save_openvino(model, file)
            yield n_float, ExportedGraph(file, facts)


def _save_openvino(model: Any, file: Path) -> None:
    try:
        import_openvino().save_model(model, str(file), compress_to_fp16=False)
    except RuntimeError as error:  # from its stream, without the cause: a full disk above all
        raise OSError(errno.EIO, "OpenVINO could not write its files, is the disk full?") from error


def _empty(place: Path) -> None:
    for path in place.iterdir():
        path.unlink()


def _is_good(parity: Parity, without_vnni: bool) -> bool:
    figures = parity.figures
    if parity.of_classifier:
        return figures["mean_difference"] <= _GOOD_DIFFERENCE
    return figures["mean_cosine"] >= (_GOOD_COSINE_WITHOUT_VNNI if without_vnni else _GOOD_COSINE)


def _add_facts_to_xml(file: Path, facts: GraphFacts) -> None:
    """Add the facts to the model's runtime information at the end of OpenVINO's xml, as its own writer would."""
    head = file.read_text("utf-8").rstrip().removesuffix("</net>").rstrip()
    value = html.escape(json.dumps(facts.to_json()))
    own = f'\t\t<{FACTS_KEY} value="{value}" />\n\t</rt_info>\n</net>\n'
    begin = head.removesuffix("</rt_info>").rstrip() if head.endswith("</rt_info>") else f"{head}\n\t<rt_info>"
    file.write_text(f"{begin}\n{own}", "utf-8")
