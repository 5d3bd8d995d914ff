"""An exported graph's file: what it says of itself, and whether it was made from the weights beside it.

Each graph that sbert_ft exports carries its facts as a JSON text: in an ONNX file in its metadata, in OpenVINO's xml in
its runtime information. They are read without loading the graph: of an ONNX file only the outermost fields are read,
and the graph itself, nearly the whole file, is skipped. A graph without facts was made by another tool and is not used,
because nothing says which weights it has and what it expects.
"""

from __future__ import annotations

import html
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, get_args

from sbert_ft.errors import ModelFolderError, shown
from sbert_ft.files.strict_json import JsonObject, damaged, foreign_content, open_file, parse_json
from sbert_ft.model_folder.digest import digest_of_weights, weight_files

logger = logging.getLogger(__name__)

Engine = Literal["onnxruntime", "openvino"]
GraphPrecision = Literal["float32", "int8", "bfloat16"]
GraphOutput = Literal["tokens", "logits"]

FORMAT: Final = 1
FACTS_KEY: Final = "sbert_ft"
# Where other libraries look for graphs, below the folder of the encoder's config.json.
_PLACES: Final[Mapping[Engine, tuple[str, str]]] = {"onnxruntime": ("onnx", ".onnx"), "openvino": ("openvino", ".xml")}
_MAX_FACTS: Final = 2**20
_MAX_FIELDS: Final = 10_000  # a model has about ten outermost fields
_METADATA: Final = 14  # ModelProto.metadata_props in onnx.proto
_MAX_XML: Final = 2**28
_EXPORT_AGAIN: Final = "export the model again"


@dataclass(frozen=True)
class GraphFacts:
    """What an exported graph says of itself.

    Attributes:
        engine: The engine that runs it.
        precision: What its matrix products are computed in; ``bfloat16`` is a float32 graph that is run in bfloat16.
        output: ``tokens`` for the activations of every token, ``logits`` for a stock classifier with its head.
        weights: SHA-256 of the weights it was exported from, as in `digest.digest_of_weights`.
        vocab_size: Token ids are below this.
        hidden_size: Width of a token's vector, D.
        max_tokens: Tokens of the longest text, special ones included.
        type_vocab_size: Number of token types; 0 for none.
        takes_token_types: Whether the graph has the input ``token_type_ids``.
        n_outputs: Number of logits, K; None for tokens.
        cpu: The kind of CPU (`cpu.kind_of_cpu`) on which `speed` was measured.
        speed: How many times as fast as torch in its fastest precision it was there.
        requires: CPU flags without which its results are wrong (`cpu.missing_flags`).
        parity: How far its results are from torch's in float32.
    """

    engine: Engine
    precision: GraphPrecision
    output: GraphOutput
    weights: str
    vocab_size: int
    hidden_size: int
    max_tokens: int
    type_vocab_size: int
    takes_token_types: bool
    n_outputs: int | None
    cpu: str
    speed: float
    requires: tuple[str, ...] = ()
    parity: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the facts as a JSON object."""
        return {"format": FORMAT, **asdict(self), "requires": list(self.requires), "parity": dict(self.parity)}

    @classmethod
    def from_json(cls, content: object, file: Path) -> GraphFacts:
        """Return the facts of a JSON value; `file` is named in messages.

        Raises:
            ModelFolderError: A key is missing, unknown or of a wrong type or range.
        """
        json = JsonObject(content, FACTS_KEY, file)
        if json.value("format") != FORMAT:
            raise json.fault("format", str(FORMAT), "another version of sbert_ft exported it; " + _EXPORT_AGAIN)
        json.refuse_all_but(("format", *cls.__dataclass_fields__))
        output = json.word("output", get_args(GraphOutput))
        n_outputs = None if output == "tokens" and json.value("n_outputs") is None else _count(json, "n_outputs")
        parity = json.inner("parity")
        requires, takes = json.value("requires"), json.value("takes_token_types")
        if not isinstance(requires, list) or not all(isinstance(flag, str) for flag in requires):
            raise json.fault("requires", "a list of CPU flags")
        if not isinstance(takes, bool):
            raise json.fault("takes_token_types", "true or false")
        if not re.fullmatch("[0-9a-f]{64}", json.text("weights")):
            raise json.fault("weights", "a SHA-256 digest of 64 hexadecimal digits")
        return cls(
            engine=json.word("engine", get_args(Engine)),  # type: ignore[arg-type]
            precision=json.word("precision", get_args(GraphPrecision)),  # type: ignore[arg-type]
            output=output,  # type: ignore[arg-type]
            weights=json.text("weights"),
            vocab_size=_count(json, "vocab_size"),
            hidden_size=_count(json, "hidden_size"),
            max_tokens=_count(json, "max_tokens"),
            type_vocab_size=json.whole("type_vocab_size"),
            takes_token_types=takes,
            n_outputs=n_outputs,
            cpu=json.text("cpu"),
            speed=json.number("speed", 0.0, 1e6),
            requires=tuple(requires),
            parity={name: parity.number(name, -1e30, 1e30) for name in parity.content},
        )


@dataclass(frozen=True)
class ExportedGraph:
    """A graph's file (the .onnx or the .xml), and what it says of itself."""

    path: Path
    facts: GraphFacts


def read_graph(path: Path) -> ExportedGraph:
    """Return what the graph's file says of itself; the graph is not loaded.

    Raises:
        ModelFolderError: The file is missing, damaged, or was not exported by sbert_ft.
    """
    text = _stored_facts(path)
    if text is None:
        with open_file(path) as file:
            foreign = foreign_content(file.read(64))
        cause = foreign if foreign and path.suffix != ".xml" else "was not exported by sbert_ft"
        raise ModelFolderError(f"{shown(path)} {cause}", "export the model with sbert-ft export")
    facts = GraphFacts.from_json(parse_json(text, f"{shown(path)}: {FACTS_KEY}"), path)
    if _PLACES[facts.engine][1] != path.suffix:
        raise ModelFolderError(f"{shown(path)}: {FACTS_KEY}.engine is {facts.engine}, whose files do not end so")
    return ExportedGraph(path, facts)


def find_graphs(folder: Path) -> list[ExportedGraph]:
    """Return the graphs that sbert_ft exported to `folder`, that of the encoder's config.json, in order of their names.

    Graphs of other tools are skipped. So is a damaged one, of which a warning is logged.
    """
    found = []
    for place, suffix in _PLACES.values():
        for path in sorted((folder / place).glob(f"*{suffix}")):
            try:
                if _stored_facts(path) is not None:
                    found.append(read_graph(path))
            except ModelFolderError as error:
                logger.warning("%s; it is not used", error)
    return found


def has_weights(encoder_path: Path) -> bool:
    """Return whether the folder holds weights, which torch needs."""
    return bool(weight_files(encoder_path))


def check_weights(graph: ExportedGraph, folder: Path) -> None:
    """Check that `graph` was exported from the weights in `folder`; without weights there it is served alone.

    Raises:
        ModelFolderError: It was exported from others.
    """
    digest = digest_of_weights(folder)
    if digest is not None and digest != graph.facts.weights:
        name = weight_files(folder)[0].name
        raise ModelFolderError(f"{shown(graph.path)} was exported from other weights than {name}", _EXPORT_AGAIN)


def _count(json: JsonObject, key: str) -> int:
    number = json.whole(key)
    if not 0 < number < 2**31:
        raise json.fault(key, "a whole number above 0")
    return number


def _stored_facts(path: Path) -> bytes | None:
    """Return the JSON text of a graph's facts; None if the file carries none."""
    with open_file(path) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        return _of_xml(path, file, n_bytes) if path.suffix == ".xml" else _of_onnx(path, file, n_bytes)


def _of_onnx(path: Path, file: BinaryIO, n_bytes: int) -> bytes | None:
    """Return the facts in the metadata of an ONNX file, a protobuf message (https://protobuf.dev, Encoding)."""
    if foreign_content(file.read(64)) is not None:
        return None
    file.seek(0)
    facts = None
    for _ in range(_MAX_FIELDS):
        if (place := file.tell()) == n_bytes:
            break
        tag = _varint(file) or 0
        number, wire_type = tag >> 3, tag & 7
        length = {1: 8, 5: 4}.get(wire_type)
        if wire_type == 2:
            length = _varint(file)
        elif wire_type == 0 and _varint(file) is not None:
            length = 0
        if not number or length is None or file.tell() + length > n_bytes:
            if place == 0:
                return None  # it does not begin as ONNX does
            raise damaged(path, n_bytes, f"no whole field of ONNX begins at byte {place}")
        if number == _METADATA and wire_type == 2 and length <= _MAX_FACTS:
            key, value = _entry(file.read(length))
            facts = value if key == FACTS_KEY.encode() else facts
        else:
            file.seek(length, os.SEEK_CUR)
    return facts


def _entry(message: bytes) -> tuple[bytes, bytes]:
    """Return the key (field 1) and the value (field 2) of one entry of metadata; empty where there are none."""
    found, place = {1: b"", 2: b""}, 0
    while place < len(message) and message[place] in (0x0A, 0x12):
        number, length, shift = message[place] >> 3, 0, 0
        with suppress(IndexError):
            while message[place := place + 1] & 0x80:
                length |= (message[place] & 0x7F) << shift
                shift += 7
            length |= message[place] << shift
        found[number] = message[place + 1 : place + 1 + length]
        place += 1 + length
    return found[1], found[2]


def _varint(file: BinaryIO) -> int | None:
    """Return the number at the file's position, of at most 64 bits; None where there is no such number."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None


def _of_xml(path: Path, file: BinaryIO, n_bytes: int) -> bytes | None:
    """Return the facts in the runtime information of OpenVINO's xml, which stands at the end of the file."""
    if n_bytes > _MAX_XML:
        raise ModelFolderError(f"{shown(path)} is larger than the {_MAX_XML} bytes accepted for a graph's xml")
    content = file.read()
    if b"<net " not in content[:512]:
        return None
    if not content.rstrip().endswith(b"</net>"):
        raise damaged(path, n_bytes, "does not end with </net>")
    found = re.findall(rb'<%s value="([^"<>]*)"\s*/>' % FACTS_KEY.encode(), content)
    return html.unescape(found[-1].decode("utf-8", "replace")).encode() if found else None
