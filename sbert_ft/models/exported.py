"""Models that ONNX Runtime or OpenVINO runs, from a graph that `sbert-ft export` wrote into the model's folder.

Everything above the encoder is the code that torch's models use too. Nothing here imports torch or transformers, so a
model is loaded in a fraction of a second. Batches are padded, since sorted texts leave hardly any padding and the graph
is then one that every other tool runs (see `benchmarks/LOG.md`). Such a model cannot be trained.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.settings import Features
from sbert_ft.encoder.batching import PoolingMode, plan_batches
from sbert_ft.encoder.classes import FEATURE_WIDTHS, ClassifierKind, HeadPooling, feature_parts
from sbert_ft.encoder.cpu import n_threads
from sbert_ft.engines.choice import EngineChoice, ExportPrecision, choose_engine, choose_graph, output_of_classifier
from sbert_ft.engines.graph_file import Engine, ExportedGraph, GraphOutput, check_weights
from sbert_ft.engines.session import TOKEN_BUDGET, Session, open_session
from sbert_ft.errors import InputError, ModelFolderError, ResourceError, quoted, shown
from sbert_ft.model_folder.classifier import ClassifierSettings, find_classifier
from sbert_ft.model_folder.layout import HEAD_FILE, ModelFolder, read_folder, warn_of_classifier
from sbert_ft.models.arrays import ArrayOperations
from sbert_ft.models.folder_tokenizer import EncoderLimits, read_checked_tokenizer
from sbert_ft.models.inference import EmbedSettings
from sbert_ft.models.sentence_encoder import SentenceEncoder
from sbert_ft.models.text_classifier import TextClassifier
from sbert_ft.models.text_encoder import TextEncoder
from sbert_ft.tokenization.text_tokens import TextTokens
from sbert_ft.tokenization.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)


class ExportedBert(TextEncoder):
    """A tokenizer and an exported graph.

    Attributes:
        tokenizer: The folder's tokenizer.
        source: The folder as it was read.
        graph: The graph's file, and what it says of itself.
    """

    def __init__(self, source: ModelFolder, graph: ExportedGraph) -> None:
        """Open the graph and read the tokenizer.

        Raises:
            ModelFolderError: The graph is damaged or was exported from other weights, or the folder is.
            ResourceError: The engine is not installed, or this CPU lacks instructions that the graph needs.
        """
        self.source, self.graph, facts = source, graph, graph.facts
        with ThreadPoolExecutor(1, "sbert_ft-digest") as thread:  # the digest takes as long as the rest
            checked = thread.submit(check_weights, graph, source.encoder_path)
            self._session: Session = open_session(graph)
            limits = EncoderLimits(facts.vocab_size, facts.type_vocab_size, facts.max_tokens)
            self.tokenizer: TextTokenizer = read_checked_tokenizer(source, limits)
            checked.result()
        logger.info("%s", self.describe())

    @property
    def hidden_size(self) -> int:
        """Width of a token's vector, D; of a graph that gives logits their number, K."""
        return self.graph.facts.n_outputs or self.graph.facts.hidden_size

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text that the encoder has positions for, special ones included."""
        return self.graph.facts.max_tokens

    @property
    def token_budget(self) -> int:
        """Most tokens of a forward that still help speed, padding included."""
        return TOKEN_BUDGET

    @property
    def operations(self) -> ArrayOperations:
        """What is done with the vectors: arrays."""
        return ArrayOperations()

    def describe(self) -> str:
        """Return a line with the kind of encoder, engine, precision, threads and file."""
        kind, facts, path = self.source.config.get("model_type", "bert"), self.graph.facts, self.graph.path
        where = f"cpu ({n_threads()} threads, {facts.engine})"
        return f"{quoted(kind)[1:-1]} on {where}, {facts.precision}, {quoted(f'{path.parent.name}/{path.name}')[1:-1]}"

    def why_not_finite(self) -> str:
        """Return why a result may be NaN or infinite, and what to do."""
        return "its weights are damaged, or the export is; load it with engine 'torch' to see which"

    def vectors(self, sequences: TextTokens, pooling: PoolingMode, budget: int) -> tuple[NDArray[np.float32], int]:
        """Return the vectors of N sequences, shape (N, D), float32, or the logits that the graph gives, shape (N, K).

        When memory runs out, the budget is halved and the rest is planned again.

        Raises:
            ResourceError: A single sequence does not fit into memory.
        """
        lengths = sequences.lengths
        found = np.empty((len(sequences), self.hidden_size), np.float32)
        rest = np.arange(len(sequences))
        while len(rest):
            batches = [rest[part] for part in plan_batches(lengths[rest], budget, padded=True)]
            rest = np.concatenate(batches)
            n_done = 0
            for texts in batches:
                try:
                    found[texts] = self._forward(sequences.select(texts), pooling)
                except MemoryError as error:
                    if len(texts) == 1:
                        raise ResourceError(
                            f"one text of {int(lengths[texts[0]])} tokens does not fit into memory",
                            "lower max_seq_length",
                        ) from error
                    budget = max(1, len(texts) * int(lengths[texts[0]]) // 2)
                    logger.warning("out of memory: continuing with batches of at most %d tokens", budget)
                    break
                n_done += len(texts)
            rest = rest[n_done:]
        return found, budget

    def _forward(self, texts: TextTokens, pooling: PoolingMode) -> NDArray[np.float32]:
        """Return the vectors or logits of one batch."""
        lengths = texts.lengths
        mask = np.arange(int(lengths.max())) < lengths[:, None]
        token_ids, types = np.full(mask.shape, self.tokenizer.padding_id, np.int64), np.zeros(mask.shape, np.int64)
        token_ids[mask] = texts.token_ids
        if texts.token_types is not None:
            types[mask] = texts.token_types
        output = self._session.run(token_ids, mask.astype(np.int64), types)
        return output if self.graph.facts.output == "logits" else pool(output, lengths, texts.skipped, pooling)


def pool(
    hidden: NDArray[np.float32], lengths: NDArray[np.int64], skipped: NDArray[np.int64] | None, mode: PoolingMode
) -> NDArray[np.float32]:
    """Return one vector for each text of a padded batch: shape (N, D); see `PackedBatch.pool`.

    Args:
        hidden: The activation of every token, shape (N, L, D).
        lengths: Tokens of each text, shape (N,).
        skipped: How many first tokens of each text are left out, shape (N,); None for none.
        mode: ``mean``, ``cls`` or ``max``.
    """
    first = np.zeros(len(lengths), np.int64) if skipped is None else skipped
    if mode == "cls":
        first_pooled: NDArray[np.float32] = hidden[np.arange(len(lengths)), np.where(first < lengths, first, 0)]
        return first_pooled
    places = np.arange(hidden.shape[1])
    kept = (places < lengths[:, None]) & (places >= first[:, None])
    if mode == "max":
        largest: NDArray[np.float32] = np.where(kept[:, :, None], hidden, np.float32(-np.inf)).max(1)
        largest[~np.any(kept, 1)] = 0  # a text of which every token is skipped
        return largest
    counts = np.maximum(kept.sum(1), 1).astype(np.float32)
    # as a product of matrices the sum of a text's tokens is one pass over them
    sums: NDArray[np.float32] = np.matmul(kept[:, None, :].astype(np.float32), hidden)[:, 0]
    sums /= counts[:, None]
    return sums


def open_exported(
    source: ModelFolder,
    engine: EngineChoice,
    precision: str,
    device: Any,
    output: GraphOutput,
    *,
    for_few_rows: bool = False,
) -> ExportedBert | None:
    """Return the exported graph of a folder that an engine is to run, opened; None where torch is to run the model.

    With ``auto`` an export that cannot be used, such as one of other weights, is left out with a warning. Other
    arguments and errors as in `choose_engine` and `ExportedBert`.
    """
    graph = choose_engine(source, engine, precision, device, output, for_few_rows=for_few_rows)
    if graph is None:
        return None
    try:
        return ExportedBert(source, graph)
    except (ModelFolderError, ResourceError) as error:
        if engine != "auto":
            raise
        logger.warning("%s; torch is used", error)
        return None


class ExportedEncoder(SentenceEncoder):
    """A sentence encoder that ONNX Runtime or OpenVINO runs on the CPU; its attributes are those of `SentenceEncoder`.

    It gives the vectors, scores and matches that `SiameseBert` does, within the precision of the graph. Vectors of
    tokens, and training, need torch.
    """

    bert: ExportedBert

    def _stated_weights(self) -> str | None:
        """Return the digest of the weights that the graph was exported from."""
        return self.bert.graph.facts.weights

    def __init__(
        self,
        bert: ExportedBert,
        pooling: PoolingMode | None = None,
        max_seq_length: int | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        """Create a sentence encoder; arguments and errors as in `SiameseBert`."""
        self._set_up(bert, max_seq_length, False)
        self._read_settings(pooling, truncate_dim)
        warn_of_classifier(bert.source)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | ModelFolder,
        engine: Engine | Literal["auto"] = "auto",
        precision: ExportPrecision = "auto",
        max_seq_length: int | None = None,
        truncate_dim: int | None = None,
    ) -> ExportedEncoder:
        """Return the model of a folder that has an export; see `SiameseBert.from_pretrained`, which needs none.

        Args:
            folder: A model's folder, with the files of `sbert-ft export` in it; the weights need not be there.
            engine: ``onnxruntime``, ``openvino``, or ``auto`` for the fastest export.
            precision: ``float32``, ``bfloat16``, ``int8``, or ``auto`` for any.
            max_seq_length: Most tokens of a text, special ones included; None for the folder's.
            truncate_dim: As in `SiameseBert.from_pretrained`.

        Raises:
            ModelFolderError: There is no such export, or it does not belong to the folder's weights.
            ResourceError: The engine is not installed, or this CPU lacks instructions that the export needs.
            InputError: An argument is not valid.
        """
        source = read_folder(folder)
        bert = ExportedBert(source, choose_graph(source, engine, precision, "tokens"))
        return cls(bert, None, max_seq_length, truncate_dim)

    @property
    def device(self) -> str:
        """Where it computes: ``cpu``."""
        return "cpu"

    def _device_of(self, device: Any) -> None:
        _check_cpu(device)

    def _compute_on(self, device: Any) -> None:
        _check_cpu(device)

    def _of_tokens(
        self, texts: Iterable[str], settings: EmbedSettings, key: str | None, width: int, unit_length: bool
    ) -> Iterator[Any]:
        raise InputError("an exported model gives vectors of texts, not of tokens", "load it with engine 'torch'")


class ExportedClassifier(TextClassifier):
    """A classifier that ONNX Runtime or OpenVINO runs on the CPU; its attributes are those of `TextClassifier`.

    A stock head is part of the graph. Any other is one matrix, which is multiplied here.
    """

    bert: ExportedBert

    def __init__(self, bert: ExportedBert, settings: ClassifierSettings, max_seq_length: int | None = None) -> None:
        """Create a classifier from its parts, and read its head; errors as in `from_pretrained`."""
        self._set_up(bert, max_seq_length, settings.kind == "joined")
        self.kind: ClassifierKind = settings.kind
        self.pooling: HeadPooling = settings.pooling
        self.features: Features = settings.features
        self.truncation = settings.truncation
        self._classes = settings.classes
        self._hint = ""
        self._head = None if settings.pooling == "pooler" else _read_head(bert, settings)
        self._read_own_settings(settings)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path | ModelFolder,
        engine: Engine | Literal["auto"] = "auto",
        precision: ExportPrecision = "auto",
        max_seq_length: int | None = None,
        *,
        kind: ClassifierKind | None = None,
    ) -> ExportedClassifier:
        """Return the classifier of a folder that has an export.

        Arguments, and errors, as in `ExportedEncoder.from_pretrained`; `kind` as in `ClassifierModel.from_pretrained`.
        """
        source = read_folder(folder)
        graph = choose_graph(source, engine, precision, output_of_classifier(source))
        return cls.of_bert(ExportedBert(source, graph), max_seq_length, kind)

    @classmethod
    def of_bert(cls, bert: ExportedBert, max_seq_length: int | None, kind: ClassifierKind | None) -> ExportedClassifier:
        """Return the classifier of the folder that `bert` was read from; see `from_pretrained`."""
        n_outputs = bert.graph.facts.n_outputs
        found = find_classifier(bert.source, kind, n_outputs=n_outputs)
        if n_outputs not in (None, found.settings.n_outputs):
            raise ModelFolderError(
                f"{shown(bert.graph.path)} gives {n_outputs} logits, but the folder describes "
                f"{found.settings.n_outputs} outputs",
                "export the model again",
            )
        model = cls(bert, found.settings, max_seq_length)
        model._hint = found.hint
        return model

    @property
    def device(self) -> str:
        """Where it computes: ``cpu``."""
        return "cpu"

    @property
    def n_outputs(self) -> int:
        """Number of logits of a row, K; 1 for a graded score."""
        return 1 if self._classes is None else len(self._classes)

    @property
    def token_pooling(self) -> PoolingMode:
        """How a sequence's tokens become the vector that the head reads."""
        return "cls" if self.pooling == "pooler" else self.pooling

    def _check_head(self) -> None:
        """Do nothing: the head is always there."""

    def logits_of(self, columns: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the logits, shape (B, K), of the vectors of B rows; those of a stock head are there already."""
        if self._head is None:
            return columns[0]
        weight, bias = self._head
        vectors = columns[0]
        if len(columns) == 2:
            vectors = np.concatenate(feature_parts(columns[0], columns[1], self.features), axis=-1)
        logits: NDArray[np.float32] = vectors @ weight.T + bias
        return logits


def _check_cpu(device: Any) -> None:
    if device is not None and str(device) != "cpu":
        raise InputError(f"an exported model runs on the CPU, not on {quoted(device)}", "load it with engine 'torch'")


def _read_head(bert: ExportedBert, settings: ClassifierSettings) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the weight, shape (K, width), and the bias, shape (K,), of a head that has a file of its own."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = bert.source.path / HEAD_FILE
    width = bert.hidden_size * (FEATURE_WIDTHS[settings.features] if settings.kind == "towers" else 1)
    expected = {"output.weight": (settings.n_outputs, width), "output.bias": (settings.n_outputs,)}
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFolderError(
            f"{shown(path)} is damaged: {quoted(error, limit=200)[1:-1]}", "copy it again"
        ) from error
    for name, shape in expected.items():
        if name not in tensors or tensors[name].shape != shape:
            found = tensors[name].shape if name in tensors else "no such tensor"
            raise ModelFolderError(f"{shown(path)}: expected {name} of shape {shape}, found {found}")
        if not np.isfinite(tensors[name]).all():
            raise ModelFolderError(f"{shown(path)}: the tensor {name} holds NaN or infinity", "use an earlier copy")
    weight, bias = (tensors[name].astype(np.float32) for name in expected)
    return weight, bias
