"""Export an encoder, or a stock classifier with its head, to an ONNX file.

The graph is the stock encoder with transformers' own (eager) attention, traced by torch's exporter: the plain operators
are what both engines recognise and fuse, and what other libraries expect. Inputs and outputs have the names that
transformers and optimum give them. Tracing keeps what depends on the example, so the file is run afterwards on texts of
other lengths and compared with torch.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sbert_ft.encoder.attention import random_texts
from sbert_ft.encoder.heads import ClassificationHead
from sbert_ft.encoder.packing import PackedBatch, pack
from sbert_ft.engines.graph_file import FACTS_KEY, GraphFacts
from sbert_ft.engines.session import INPUTS, Session
from sbert_ft.errors import InputError, ResourceError, quoted
from sbert_ft.models.connection_bert import ConnectionBert

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET: Final = 18
# A protobuf file has at most 2 GiB; with more, the weights go to a file beside the graph.
MAX_BYTES_IN_ONE_FILE = 2**31 - 2**24
_SMALL_TENSOR: Final = 1024  # bytes that stay in the graph's own file
_LONGEST_TRIED: Final = 512
# Largest accepted difference from torch on random texts, relative to the largest activation.
_TOLERANCE: Final = 1e-3


class _Traced(nn.Module):
    """What is exported: a copy of the encoder in float32 on the CPU with eager attention, and perhaps a head."""

    def __init__(self, bert: ConnectionBert, head: ClassificationHead | None) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(bert.encoder).cpu().eval()
        self.encoder.set_attn_implementation("eager")
        self.encoder.config.use_cache = False
        self.head = None if head is None else copy.deepcopy(head).cpu().eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        hidden: Tensor = self.encoder(**inputs).last_hidden_state
        return hidden if self.head is None else self.head([hidden[:, 0]])


def takes_token_types(bert: ConnectionBert) -> bool:
    """Return whether the graph has the input ``token_type_ids``; with only one type, its vectors are in the graph."""
    return (getattr(bert.plan.config, "type_vocab_size", None) or 0) >= 2


def write_onnx(bert: ConnectionBert, head: ClassificationHead | None, file: Path) -> None:
    """Write the encoder, with a stock head if one is given, to an ONNX file; it has no facts yet.

    Raises:
        InputError: This kind of encoder cannot be exported.
        ResourceError: The package onnx is not installed.
    """
    onnx = import_onnx()
    names = list(INPUTS if takes_token_types(bert) else INPUTS[:2])
    output = "last_hidden_state" if head is None else "logits"
    longest = min(8, bert.max_tokens)
    lengths = np.array([longest, max(1, longest - 3)])
    texts = random_texts(lengths, int(bert.plan.config.vocab_size), bert.tokenizer.padding_id)
    batch = pack(texts, "padded", device=torch.device("cpu"), **bert.pack_options)
    inputs = tuple(map(torch.from_numpy, graph_inputs(batch)))
    axes = {name: {0: "batch_size", 1: "sequence_length"} for name in (*names, "last_hidden_state")}
    axes["logits"] = {0: "batch_size"}
    try:
        with torch.no_grad(), quiet():
            torch.onnx.export(
                _Traced(bert, head),
                inputs[: len(names)],
                str(file),
                input_names=names,
                output_names=[output],
                dynamic_axes={name: axes[name] for name in (*names, output)},
                opset_version=OPSET,
                dynamo=False,
            )
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
        cause = quoted(" ".join(str(error).split()), limit=200)
        kind = bert.plan.config.model_type
        raise InputError(
            f"an encoder of kind {kind} cannot be exported to ONNX: {cause}", "use engine torch"
        ) from error
    model = onnx.load(str(file))
    if n_weight_bytes(model) > MAX_BYTES_IN_ONE_FILE:  # torch has written a file for each tensor
        for path in file.parent.iterdir():
            if path.is_file():
                path.unlink()
        save_onnx(model, file)


def import_onnx() -> Any:
    """Return the package onnx; a `ResourceError` if it is not installed."""
    try:
        import onnx
    except ImportError as error:
        problem = f"the package onnx cannot be imported ({error}), and an export needs it"
        raise ResourceError(problem, 'pip install "sbert-ft[onnx]"') from error
    return onnx


def n_weight_bytes(model: ModelProto) -> int:
    """Return the bytes of a model's weights."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def save_onnx(model: ModelProto, file: Path) -> None:
    """Write an ONNX model, with its weights in the same file or, if they are too large, in one beside it."""
    import onnx

    options: dict[str, Any] = {}
    if n_weight_bytes(model) > MAX_BYTES_IN_ONE_FILE:
        options = {"save_as_external_data": True, "all_tensors_to_one_file": True, "size_threshold": _SMALL_TENSOR}
        options["location"] = f"{file.name}_data"
    onnx.save_model(model, str(file), **options)


def add_facts(file: Path, facts: GraphFacts) -> None:
    """Append the facts to an ONNX file's metadata; protobuf reads appended fields as a part of the message."""
    pair = (FACTS_KEY.encode(), json.dumps(facts.to_json()).encode())
    entry = b"".join(tag + _varint(len(text)) + text for tag, text in zip((b"\x0a", b"\x12"), pair, strict=True))
    with file.open("ab") as opened:
        opened.write(b"\x72" + _varint(len(entry)) + entry)  # field 14, metadata_props


def _varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def graph_inputs(batch: PackedBatch) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return token ids, mask and token types of a padded batch as a graph takes them: shape (N, L), int64, each."""
    assert batch.layout == "padded" and batch.mask is not None
    return batch.token_ids.cpu().numpy(), batch.mask.long().cpu().numpy(), batch.token_types.cpu().numpy()


def check_graph(bert: ConnectionBert, head: ClassificationHead | None, session: Session) -> None:
    """Compare a graph with torch on random texts of one token, of mixed lengths, and of the greatest length.

    Raises:
        InputError: It differs by more than rounding: the encoder cannot be exported.
        MemoryError: As in `Session.run`.
    """
    longest = min(bert.max_tokens, _LONGEST_TRIED)
    least = bert.tokenizer.n_special + 1
    of_mixed = [min(longest, n) for n in (max(least, 24), least + 6, least, least + 1)]
    for lengths in ([1], of_mixed, [longest]):
        texts = random_texts(np.array(lengths), int(bert.plan.config.vocab_size), bert.tokenizer.padding_id)
        batch = pack(texts, "padded", device=bert.device, **bert.pack_options)
        with torch.inference_mode():
            hidden = bert(batch)
            expected = hidden if head is None else head.logits([batch.pool(hidden, "cls")])
        expected = expected.float().cpu()
        found = torch.from_numpy(session.run(*graph_inputs(batch)))
        if head is None:
            expected, found = (torch.cat(batch.token_vectors(tokens.to(bert.device))) for tokens in (expected, found))
        difference = float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))
        if not difference <= _TOLERANCE:
            kind, shape = bert.plan.config.model_type, f"{len(lengths)} texts of up to {max(lengths)} tokens"
            problem = f"an encoder of kind {kind} cannot be exported: for {shape} the graph differs from torch by"
            raise InputError(f"{problem} {difference:.1g} of the largest activation", "use engine torch")


@contextmanager
def quiet() -> Iterator[None]:
    """Context without the warnings of the libraries that export and quantise, some of which go to the root logger."""
    root, silence = logging.getLogger(), _NoRecord()
    nothing = logging.NullHandler()
    root.addFilter(silence)
    root.addHandler(nothing)  # without a handler logging.warning would add one that stays
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(nothing)
        root.removeFilter(silence)


class _NoRecord(logging.Filter):
    """Drops every record that is logged to the root logger itself; those of other loggers do not pass it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False."""
        return False
