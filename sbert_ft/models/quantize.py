"""Quantise an exported graph to int8, by the engines' own tools.

For ONNX Runtime: weights per channel, activations per batch while it runs (`quantize_dynamic`), after the scales of
activations have been moved into the weights (SmoothQuant, Xiao et al. 2023, equation 4): a few channels of BERT's
activations are so large that the others would be rounded to a few levels. On MiniLM this takes the mean cosine to
float32 from .992 to .997. The product after the widest layer of each block loses most; where that is not enough, it
stays in float32 in the first blocks.

For OpenVINO: nncf's static quantisation with the same smoothing, and with the ranges of activations on some texts. (Its
own default for the smoothing gives .989 where this gives .996.)
"""

from __future__ import annotations

import contextlib
import io
import logging
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.encoder.cpu import cpu_flags, n_threads
from sbert_ft.engines.session import import_onnxruntime, import_openvino, without_openvino_telemetry
from sbert_ft.errors import ResourceError
from sbert_ft.models.onnx_graph import import_onnx, n_weight_bytes, quiet, save_onnx

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

Inputs = Mapping[str, NDArray[np.int64]]
# How much of an activation's scale moves into the weights: exponent of its largest value.
SMOOTHING: Final = 0.7
_LEAST_SCALE: Final = 1e-5
_VNNI: Final = ("avx512_vnni", "avx_vnni")
_ARM: Final = ("arm64", "aarch64")


def int8_variant() -> tuple[str, bool, tuple[str, ...]]:
    """Return how int8 is made for ONNX Runtime on this CPU.

    Returns:
        The end of the file's name, as optimum names it; whether weights have 7 bits; and the CPU flags it requires.
        Without VNNI, x86 adds two products of 8 bits in 16, which overflows unless the weights have only 7.
    """
    if platform.machine() in _ARM:
        return "qint8_arm64", False, ()
    if cpu_flags().isdisjoint(_VNNI):
        return "qint8_avx2", True, ()
    return "qint8_avx512_vnni", False, ("|".join(_VNNI),)


class OnnxQuantizer:
    """A float32 ONNX file, smoothed once, from which int8 files with more or fewer float32 products are written."""

    def __init__(self, source: Path, batches: Sequence[Inputs], scratch: Path) -> None:
        """Read and smooth the graph.

        Args:
            source: The ONNX file.
            batches: Inputs by name, on which the scales of activations are measured.
            scratch: A folder for files in between.
        """
        onnx = import_onnx()
        self._model: ModelProto = onnx.load(str(source))
        _smooth(self._model, _largest_activations(self._model, batches, scratch / "observed.onnx"))
        self._smoothed = scratch / "smoothed.onnx"
        # quantize_dynamic asks for its own preparation (which needs sympy) unless this entry says that it was done
        done = self._model.metadata_props.add()
        done.key, done.value = "onnx.quant.pre_process", "onnxruntime.quant"
        save_onnx(self._model, self._smoothed)
        self._model = onnx.load(str(self._smoothed))  # saving may have emptied the weights
        self.sensitive = sensitive_products(self._model)

    def write(self, target: Path, n_float: int, reduce_range: bool) -> None:
        """Write the int8 graph; the first `n_float` of the `sensitive` products, in order, stay in float32."""
        onnx = import_onnx()
        with quiet():
            from onnxruntime.quantization import QuantType, quantize_dynamic

            whole = self._smoothed.with_name("quantized.onnx")
            quantize_dynamic(
                str(self._smoothed),
                str(whole),
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                reduce_range=reduce_range,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=self.sensitive[:n_float],
                use_external_data_format=2 * n_weight_bytes(self._model) > 2**31,
                extra_options={"MatMulConstBOnly": True},
            )
            save_onnx(onnx.load(str(whole)), target)


def quantize_openvino(model: Any, batches: Sequence[Inputs], in_float: Sequence[str]) -> Any:
    """Return an OpenVINO model in int8, with the ranges of its activations on the batches.

    Args:
        model: The float32 model, read from the ONNX file.
        batches: Inputs by name.
        in_float: Names of products that stay in float32.

    Raises:
        ResourceError: nncf is not installed.
    """
    import_openvino()
    nncf = import_nncf()
    smoothing = nncf.AdvancedSmoothQuantParameters(matmul=SMOOTHING)
    with quiet(), _without_output():
        return nncf.quantize(
            model,
            nncf.Dataset(list(map(dict, batches))),
            subset_size=len(batches),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=list(in_float)),
            advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smoothing),
        )


def import_nncf() -> Any:
    """Return nncf, which sends no statistics; a `ResourceError` if it is not installed."""
    try:
        with without_openvino_telemetry(), quiet(), _without_output():
            import nncf
    except ImportError as error:
        problem = f"nncf cannot be imported ({error}), and int8 for OpenVINO needs it"
        raise ResourceError(problem, 'pip install "sbert-ft[openvino]"') from error
    return nncf


@contextlib.contextmanager
def _without_output() -> Iterator[None]:
    """Context without nncf's lines and progress bars."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _products(model: ModelProto) -> list[tuple[NodeProto, TensorProto]]:
    """Return the matrix products with a constant right side, shape (K, N), in the graph's order."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = (node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in constants)
    return [(node, constants[node.input[1]]) for node in nodes if len(constants[node.input[1]].dims) == 2]


def sensitive_products(model: ModelProto) -> list[str]:
    """Return the names of the products after the widest layer of each block, the first block first.

    These are the ones that lose most in int8, the first of them above all.
    """
    return [node.name for node, weight in _products(model) if weight.dims[0] > weight.dims[1] and node.name]


def _largest_activations(model: ModelProto, batches: Sequence[Inputs], file: Path) -> dict[str, NDArray[np.float32]]:
    """Return the largest absolute value in each channel of each product's left side, by its name: shape (K,)."""
    from onnx import TensorProto, helper

    names = list(dict.fromkeys(node.input[0] for node, _ in _products(model)))
    observed = type(model)()
    observed.CopyFrom(model)
    for name in names:
        observed.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    save_onnx(observed, file)
    del observed
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = n_threads(), 4
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    largest: dict[str, NDArray[np.float32]] = {}
    for inputs in batches:
        mask = inputs["attention_mask"].astype(bool)
        for name, values in zip(names, session.run(names, dict(inputs)), strict=True):
            of_tokens = values[mask] if values.shape[:2] == mask.shape else values.reshape(-1, values.shape[-1])
            found = np.abs(of_tokens).max(0)
            largest[name] = np.maximum(largest.get(name, found), found)
    return largest


def _smooth(model: ModelProto, largest: Mapping[str, NDArray[np.float32]]) -> None:
    """Divide the left side of each product by a scale for each channel, and multiply the rows of its weights by it.

    Products that read the same activation share the scale. Weights that several nodes use are left as they are.
    """
    from onnx import helper, numpy_helper

    n_uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            n_uses[name] = n_uses.get(name, 0) + 1
    by_input: dict[str, list[tuple[NodeProto, TensorProto]]] = {}
    for node, weight in _products(model):
        by_input.setdefault(node.input[0], []).append((node, weight))
    before: dict[str, list[NodeProto]] = {}
    for name, products in by_input.items():
        if any(n_uses[weight.name] > 1 for _, weight in products):
            continue
        weights = [numpy_helper.to_array(weight) for _, weight in products]
        of_weights = np.max([np.abs(weight).max(1) for weight in weights], axis=0)
        scale = np.maximum(largest[name], _LEAST_SCALE) ** SMOOTHING
        scale = scale / np.maximum(of_weights, _LEAST_SCALE) ** (1 - SMOOTHING)
        scale = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(1 / scale, f"{name}_scale"))
        smooth = helper.make_node("Mul", [name, f"{name}_scale"], [f"{name}_smooth"], name=f"{name}_smooth_mul")
        before.setdefault(products[0][0].output[0], []).append(smooth)
        for (node, weight), values in zip(products, weights, strict=True):
            weight.CopyFrom(numpy_helper.from_array(values * scale[:, None], weight.name))
            node.input[0] = f"{name}_smooth"
    nodes = [each for node in model.graph.node for each in (*before.get(node.output[0], ()), node)]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
