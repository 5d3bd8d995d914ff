"""What encodes: sbert_ft, sentence-transformers with each of its backends, OpenVINO and ONNX Runtime fed by hand.

A contender's name says the library, how it computes, and its batch size: "st bfloat16 b32". The batch size `best` is
the fastest of a short search, made by the contender itself before it is timed.

| library | how |
| --- | --- |
| sbert_ft | a precision (auto, float32, bfloat16, float16), and `compiled` where `SiameseBert.compile` is called |
| sbert_ft | `onnxruntime` or `openvino`: our export in float32, or in the precision behind the engine's name |
| st | sentence-transformers: a precision, onnx, openvino, or `flash`: bfloat16, flash attention's unpadded inputs |
| openvino | a precision; texts sorted by length, one request at a time for lowest latency |
| onnxruntime | float32 or int8; texts sorted by length |
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import exports
import harness

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

ENGINES = ("onnxruntime", "openvino")
TRIED = (32, 64, 128, 256, 512, 1024)  # batch sizes of the search for the best
SEARCHED = 2048  # texts that it encodes with each
HALF = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}  # OpenVINO's names


@dataclass(frozen=True)
class Encoder:
    """A model that is ready: texts and a batch size to vectors, and what is worth knowing of it."""

    encode: Callable[[list[str], int], Vectors]
    precision: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sts:
    """Pairs with a gold score, and what float32 makes of their texts.

    Attributes:
        pairs: Texts and gold score. B pairs.
        reference: Vectors of float32 by torch, in the order of `texts`. Shape: (2 B, D).
    """

    pairs: list[tuple[str, str, float]]
    reference: Vectors

    def texts(self) -> list[str]:
        """Return the first texts of all pairs, then the second ones."""
        return [pair[side] for side in (0, 1) for pair in self.pairs]

    def quality(self, vectors: Vectors) -> dict[str, float]:
        """Return Spearman's correlation on the pairs, how much less than float32's that is, and cosines to float32.

        Args:
            vectors: Of `texts`. Shape: (2 B, D).
        """
        same = cosines(vectors, self.reference)
        score = self.spearman(vectors)
        return {
            "stsb_test_spearman": score,
            "spearman_lost": self.spearman(self.reference) - score,
            "mean_cosine": float(same.mean()),
            "lowest_cosine": float(same.min()),
        }

    def spearman(self, vectors: Vectors) -> float:
        """Return Spearman's rank correlation of the pairs' cosines with the gold scores."""
        from scipy.stats import spearmanr

        n = len(self.pairs)
        return float(spearmanr(cosines(vectors[:n], vectors[n:]), [gold for _, _, gold in self.pairs]).statistic)


def cosines(ones: Vectors, others: Vectors) -> NDArray[np.float64]:
    """Return the cosine of each row with the other side's. Shape: (N,)."""
    import numpy as np

    ones, others = (np.asarray(vectors, dtype=np.float64) for vectors in (ones, others))
    of_rows: NDArray[np.float64] = (ones * others).sum(1)
    return of_rows / np.linalg.norm(ones, axis=1) / np.linalg.norm(others, axis=1)


def is_of_peers(name: str) -> bool:
    """Return whether a contender lives in the peers' own environment."""
    return runs_engine(name) and not name.startswith("sbert_ft")


def runs_engine(name: str) -> bool:
    """Return whether a contender computes by ONNX Runtime or OpenVINO."""
    return "onnx" in name or "openvino" in name


def export_of(name: str) -> str | None:
    """Return the kind of export that a contender loads, None for those that load the folder itself."""
    library, *how = name.split()[:-1]
    if library == "st":
        return f"st-{how[0]}" if how[0] in ("onnx", "openvino") else None
    if library == "sbert_ft":
        return f"sbert_ft-{how[0]}-{engine_precision(how)}" if how[0] in ENGINES else None
    return f"{library}-int8" if how == ["int8"] else library


def engine_precision(how: Sequence[str]) -> str:
    """Return the precision of an engine of ours: what stands behind its name, float32 where nothing does."""
    return how[1] if len(how) > 1 else "float32"


def opened(name: str, folder: Path, max_seq_length: int) -> Encoder:
    """Return a contender's model.

    Args:
        name: The contender's, batch size included.
        folder: Of the model, or of its export.
        max_seq_length: Tokens of a text at most.

    Raises:
        Skipped: It cannot be had here.
    """
    library, *how = name.split()[:-1]
    if library == "sbert_ft" and how[0] in ENGINES:
        return open_export(folder, how[0], engine_precision(how), max_seq_length)
    if library == "sbert_ft":
        return open_ours(folder, how[0], "compiled" in how, max_seq_length)
    if library == "st":
        return open_sentence_transformer(folder, how[0], max_seq_length)
    feed, precision = (open_openvino if library == "openvino" else open_onnxruntime)(folder, how[0])
    return Encoder(fed_by_hand(folder, feed, max_seq_length), precision)


def open_ours(folder: Path, precision: str, compiled: bool, max_seq_length: int) -> Encoder:
    """Return our model, compiled where that is asked for.

    Raises:
        Skipped: The model cannot be compiled, as on a GPU.
    """
    from torch import nn

    from sbert_ft import SiameseBert
    from sbert_ft.errors import InputError

    model = SiameseBert.from_pretrained(folder, precision=precision, max_seq_length=max_seq_length)
    if compiled:
        if type(model).compile is nn.Module.compile:
            raise harness.Skipped("this version of sbert_ft has no compile() of its own")
        try:
            model.compile()
        except InputError as reason:
            raise harness.Skipped(str(reason)) from reason

    return Encoder(encode_by(model), str(model.bert.compute_dtype).removeprefix("torch."))


def open_export(folder: Path, engine: str, precision: str, max_seq_length: int) -> Encoder:
    """Return our model run by an engine, without torch, as our commands run it."""
    from sbert_ft.models.exported import ExportedEncoder

    model = ExportedEncoder.from_pretrained(folder, engine, precision, max_seq_length)
    return Encoder(encode_by(model), precision)


def encode_by(model: Any) -> Callable[[list[str], int], Vectors]:
    """Return what encodes by a model of ours."""

    def encode(texts: list[str], batch_size: int) -> Vectors:
        vectors: Vectors = model.encode(texts, batch_size=batch_size, show_progress_bar=False, on_truncate="ignore")
        return vectors

    return encode


def open_sentence_transformer(folder: Path, how: str, max_seq_length: int) -> Encoder:
    """Return sentence-transformers' model in a precision, with a backend, or with flash attention."""
    import torch
    from sentence_transformers import SentenceTransformer

    facts: dict[str, Any] = {}
    if how in ("onnx", "openvino"):
        model = SentenceTransformer(str(folder), backend=how, device="cpu")
        precision = "float32" if how == "onnx" else _precision_of(model[0].auto_model.request)
    else:
        options: dict[str, Any] = {"dtype": torch.bfloat16 if how == "flash" else getattr(torch, how)}
        if how == "flash":
            if not torch.cuda.is_available():
                raise harness.Skipped("flash attention needs a GPU")
            options["attn_implementation"] = "flash_attention_2"
        try:
            model = SentenceTransformer(str(folder), model_kwargs=options)
        except (ImportError, OSError, ValueError) as reason:
            raise harness.Skipped(f"sentence-transformers says: {str(reason).splitlines()[0]}") from reason
        if how == "flash":
            model[0].unpad_inputs = True
        precision = str(options["dtype"]).removeprefix("torch.")
    model.max_seq_length = max_seq_length

    def encode(texts: list[str], batch_size: int) -> Vectors:
        vectors: Vectors = model.encode(texts, batch_size=batch_size, show_progress_bar=False)
        return vectors

    return Encoder(encode, precision, facts)


def open_openvino(folder: Path, precision: str) -> tuple[Callable[[Any, Any], Any], str]:
    """Return what runs a batch by OpenVINO, and the precision that it computes in."""
    import openvino

    wanted = next(short for short, long in HALF.items() if long == precision)
    options = {
        "INFERENCE_PRECISION_HINT": wanted,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": harness.n_threads(),
    }
    compiled = openvino.Core().compile_model(folder / exports.GRAPHS["openvino"], "CPU", options)
    request = compiled.create_infer_request()

    def feed(token_ids: Any, mask: Any) -> Any:
        return request.infer([token_ids, mask], share_inputs=True)[0]

    return feed, _precision_of(compiled)


def open_onnxruntime(folder: Path, precision: str) -> tuple[Callable[[Any, Any], Any], str]:
    """Return what runs a batch by ONNX Runtime, and the precision that it computes in."""
    import onnxruntime

    kind = {"float32": "onnxruntime", "int8": "onnxruntime-int8"}.get(precision)
    if kind is None:
        raise harness.Skipped("ONNX Runtime is fed in float32 and int8 here")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = harness.n_threads(), 1
    session = onnxruntime.InferenceSession(
        str(folder / exports.GRAPHS[kind]), options, providers=["CPUExecutionProvider"]
    )

    def feed(token_ids: Any, mask: Any) -> Any:
        return session.run(None, dict(zip(exports.NAMES, (token_ids, mask), strict=True)))[0]

    return feed, precision


def fed_by_hand(folder: Path, feed: Callable[[Any, Any], Any], max_seq_length: int) -> Callable[..., Vectors]:
    """Return an encoder that sorts texts by length and hands an engine one padded batch after the other."""
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_seq_length)

    def encode(texts: list[str], batch_size: int) -> Vectors:
        tokens = [one.ids for one in tokenizer.encode_batch_fast(texts)]
        order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
        vectors: Any = None
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            longest = len(tokens[batch[0]])
            token_ids, mask = (np.zeros((len(batch), longest), dtype=np.int64) for _ in range(2))
            for row, i in enumerate(batch):
                token_ids[row, : len(tokens[i])] = tokens[i]
                mask[row, : len(tokens[i])] = 1
            pooled = feed(token_ids, mask)
            if vectors is None:
                vectors = np.empty((len(texts), pooled.shape[1]), dtype=np.float32)
            vectors[batch] = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return vectors  # type: ignore[no-any-return]

    return encode


def contender(
    name: str, folder: Path, strings: list[str], max_seq_length: int, sts: Sts | None = None
) -> harness.Contender:
    """Return what a contender's process measures: `strings` encoded, and its quality.

    Args:
        name: Its name.
        folder: Of the model, or of its export.
        strings: What is timed.
        max_seq_length: Tokens of a text at most.
        sts: On what quality is measured; None where it is not.
    """
    start = time.perf_counter()
    ready = prepared(opened(name, folder, max_seq_length), name.split()[-1], strings, sts)
    ready.facts["seconds_to_start"] = round(time.perf_counter() - start, 1)
    return ready


def prepared(
    encoder: Encoder,
    batch: str,
    strings: list[str],
    sts: Sts | None = None,
    tried: Sequence[int] = TRIED,
) -> harness.Contender:
    """Return what is measured of an encoder that is open; arguments as in `contender`.

    Args:
        encoder: See `opened`.
        batch: Its batch size, such as b32, or best.
        strings: As there.
        sts: As there.
        tried: Batch sizes of the search for the best.
    """
    facts = dict(encoder.facts)
    if batch == "best":
        facts["batch_size"] = best_batch_size(encoder.encode, strings[:SEARCHED], tried)
    batch_size = int(facts.get("batch_size", batch.removeprefix("b")))
    encoder.encode(strings, batch_size)  # the same shapes as later, so nothing is compiled within a round

    def run() -> None:
        assert len(encoder.encode(strings, batch_size)) == len(strings)

    def quality() -> dict[str, float]:
        return {} if sts is None else sts.quality(encoder.encode(sts.texts(), batch_size))

    return harness.Contender(run, quality, encoder.precision, facts)


def best_batch_size(encode: Callable[[list[str], int], Vectors], texts: list[str], tried: Sequence[int] = TRIED) -> int:
    """Return the batch size of those tried that takes the least time, the second time the texts are encoded."""
    seconds = {}
    for batch_size in tried:
        if batch_size > max(len(texts), tried[0]):
            break
        for _ in range(2):
            start = time.perf_counter()
            encode(texts, batch_size)
            harness.wait_for_device()
            seconds[batch_size] = time.perf_counter() - start
    return min(seconds, key=lambda size: seconds[size])


def _precision_of(compiled: Any) -> str:
    """Return the precision that a model compiled by OpenVINO computes in."""
    return HALF.get(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(), "unknown")
