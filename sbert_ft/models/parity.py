"""How far an exported graph's results are from torch's in float32, and how fast it is, on a few texts.

Vectors are compared by their cosine, and those of a model with a decision also by which pairs of texts change sides.
Classifiers are compared by their probabilities and predicted classes. An export is called good only within the bounds
of its precision.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sbert_ft.arguments import instance_argument
from sbert_ft.encoder.batching import PoolingMode, plan_batches, plan_forwards
from sbert_ft.encoder.classes import probabilities
from sbert_ft.encoder.devices import choose_precision, token_budget
from sbert_ft.encoder.heads import ClassificationHead
from sbert_ft.encoder.packing import PackedBatch, pack
from sbert_ft.engines.graph_file import GraphPrecision
from sbert_ft.engines.session import TOKEN_BUDGET, Session
from sbert_ft.errors import InputError
from sbert_ft.model_folder.decision import reaches
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.onnx_graph import graph_inputs
from sbert_ft.models.sample_texts import ENGLISH, KOREAN
from sbert_ft.models.sentence_encoder import SentenceEncoder
from sbert_ft.models.similarity import unit
from sbert_ft.models.text_classifier import TextClassifier
from sbert_ft.models.text_encoder import UNKNOWN_SHARE
from sbert_ft.tokenization.text_tokens import TextTokens

Model = SentenceEncoder | TextClassifier
Rows = Sequence[str] | Sequence[tuple[str, str]]

BUILT_IN: Final = (*ENGLISH, *KOREAN)
_MAX_ROWS: Final = 512
_N_PAIRED: Final = 64  # texts of which all pairs are decided
_ROUNDS: Final = 5
_LEAST_SECONDS: Final = 0.2
# For each precision: the figure, its bound, and whether it has to be at least (or else at most) this.
_BOUNDS_OF_VECTORS: Final[Mapping[GraphPrecision, tuple[tuple[str, float, bool], ...]]] = {
    "float32": (("lowest_cosine", 0.9999, True),),
    "bfloat16": (("mean_cosine", 0.999, True),),
    "int8": (("mean_cosine", 0.99, True),),
}
_OF_CLASSES: Final = (("mean_difference", 0.02, False), ("changed_share", 0.03, False))
_BOUNDS_OF_PROBABILITIES: Final[Mapping[GraphPrecision, tuple[tuple[str, float, bool], ...]]] = {
    "float32": (("largest_difference", 0.001, False),),
    "bfloat16": _OF_CLASSES,
    "int8": _OF_CLASSES,
}


@dataclass(frozen=True)
class Parity:
    """How far a graph's results are from torch's.

    Attributes:
        n_rows: Texts or pairs that were compared.
        figures: The figures by their names, as they are stored in the graph.
        of_classifier: Whether they are about probabilities and not about vectors.
    """

    n_rows: int
    figures: Mapping[str, float]
    of_classifier: bool

    def faults(self, precision: GraphPrecision) -> list[str]:
        """Return the bounds of a precision that the figures do not keep, a clause each."""
        bounds = _BOUNDS_OF_PROBABILITIES if self.of_classifier else _BOUNDS_OF_VECTORS
        return [
            f"{name.replace('_', ' ')} {self.figures[name]:.5f}, expected at {'least' if at_least else 'most'} {bound}"
            for name, bound, at_least in bounds[precision]
            if name in self.figures and not (self.figures[name] >= bound if at_least else self.figures[name] <= bound)
        ]

    def lines(self) -> list[str]:
        """Return the table for the terminal, a figure each line."""
        what = "probabilities" if self.of_classifier else "vectors"
        head = f"compared with torch in float32 on {self.n_rows} {'rows' if self.of_classifier else 'texts'}, {what}:"
        shown = {name: value for name, value in self.figures.items() if name != "changed_share"}
        return [head, *(f"  {name.replace('_', ' '):22}{value:,.6g}" for name, value in shown.items())]


def rows_for(model: Model, given: Rows | None) -> list[str] | list[tuple[str, str]]:
    """Return rows of the model: texts, or pairs for a classifier of pairs, from given rows of either kind.

    Without rows these are the built-in texts that the vocabulary knows. At most 512 are taken, evenly.

    Raises:
        InputError: There are no rows, or the vocabulary knows no built-in text.
    """
    if given is not None and not len(given):
        raise InputError("there are no texts to compare the graph with torch on", "give a file with texts")
    rows: list[str] | list[tuple[str, str]] = list(_known(model, BUILT_IN) if given is None else given)  # type: ignore[assignment]
    if not rows:
        raise InputError("the vocabulary knows none of the built-in texts", "give texts of your own with --texts FILE")
    wants_pairs = isinstance(model, TextClassifier) and model.n_texts == 2
    if wants_pairs and isinstance(rows[0], str):
        texts = [row for row in rows if isinstance(row, str)]
        rows = list(zip(texts, [*texts[1:], texts[0]], strict=True))
    elif not wants_pairs and not isinstance(rows[0], str):
        rows = list(dict.fromkeys(text for pair in rows for text in pair))
    step = -(-len(rows) // _MAX_ROWS)
    return rows[::step]


def _known(model: Model, texts: Sequence[str]) -> list[str]:
    """Return the texts of which the vocabulary knows nearly all tokens."""
    tokenizer, known = model.tokenizer, []
    for text in texts:
        tokens = tokenizer.tokenize([text])
        if len(tokens.token_ids) and tokenizer.count_unknown(tokens) < UNKNOWN_SHARE * len(tokens.token_ids):
            known.append(text)
    return known


def sequences_of(model: Model, rows: Rows) -> TextTokens:
    """Return the rows as the encoder reads them; of towers, all first texts and then all second ones."""
    tokenizer, most = model.tokenizer, model.max_seq_length
    if isinstance(rows[0], str):
        return tokenizer.frame(tokenizer.tokenize(list(rows)), most)  # type: ignore[arg-type]
    first, second = ([pair[side] for pair in rows] for side in (0, 1))
    if isinstance(model, TextClassifier) and model.kind == "joined":
        bodies = tokenizer.tokenize(first), tokenizer.tokenize(second)
        return tokenizer.join(*bodies, most, model.truncation)
    return tokenizer.frame(tokenizer.tokenize(first + second), most)


@dataclass(frozen=True)
class Comparison:
    """A model and the rows on which its graphs are compared with it.

    Attributes:
        model: The model; `bert` is its encoder, whose float32 weights are run.
        head: The head that is a part of the graph, that of a stock classifier; None for a graph of tokens.
        rows: Texts or pairs.
        sequences: The rows as the encoder reads them.
        calibration: The sequences on which int8 is calibrated: the rows, and the built-in ones too if they are few.
    """

    model: Model
    bert: ConnectionBert
    head: ClassificationHead | None
    rows: list[str] | list[tuple[str, str]]
    sequences: TextTokens
    calibration: TextTokens

    @classmethod
    def of(cls, model: Model, head: ClassificationHead | None, given: Rows | None) -> Comparison:
        """Return the comparison on given rows, or on the built-in ones; errors as in `rows_for`."""
        rows = rows_for(model, given)
        few = given is not None and len(rows) < len(BUILT_IN) and bool(_known(model, BUILT_IN))
        added = rows_for(model, None) if few else []
        every = sequences_of(model, [*rows, *added])
        bert = instance_argument(ConnectionBert, model.bert, "model.bert")
        return cls(model, bert, head, rows, sequences_of(model, rows) if few else every, every)

    @property
    def pooling(self) -> PoolingMode:
        """How the model pools tokens."""
        return self.model.token_pooling if isinstance(self.model, TextClassifier) else self.model.pooling

    def batches(self, sequences: TextTokens) -> list[PackedBatch]:
        """Return sequences in padded batches, longest first."""
        bert = self.bert
        parts = map(sequences.select, plan_batches(sequences.lengths, TOKEN_BUDGET, padded=True))
        return [pack(part, "padded", device=bert.device, **bert.pack_options) for part in parts]

    def by_torch(self) -> NDArray[np.float32]:
        """Return the vectors, or the probabilities of a classifier, as torch computes them in float32."""

        def run(batch: PackedBatch) -> Tensor:
            pooled = batch.pool(self.bert(batch), self.pooling)
            return pooled if self.head is None else self.head.logits([pooled])

        return self._results(run)

    def by_graph(self, session: Session) -> NDArray[np.float32]:
        """Return the same as `by_torch`, computed by a graph."""

        def run(batch: PackedBatch) -> Tensor:
            output = torch.from_numpy(session.run(*graph_inputs(batch)))
            return output if self.head is not None else batch.pool(output, self.pooling)

        return self._results(run)

    def _results(self, run: Callable[[PackedBatch], Tensor]) -> NDArray[np.float32]:
        with torch.inference_mode():
            parts = [run(batch) for batch in self.batches(self.sequences)]
            order = np.concatenate(plan_batches(self.sequences.lengths, TOKEN_BUDGET, padded=True))
            values = torch.empty(len(order), parts[0].shape[1])
            values[torch.from_numpy(order)] = torch.cat(parts)
            if isinstance(self.model, SentenceEncoder):
                found: NDArray[np.float32] = (unit(values) if self.model.normalize else values).numpy()
                return found
            if self.head is None:
                values = self.model.logits_of(values.chunk(2 if self.model.kind == "towers" else 1))
        return probabilities(values.numpy())

    def compare(self, expected: NDArray[np.float32], found: NDArray[np.float32]) -> Parity:
        """Return how far `found` is from `expected`, each as `by_torch` returns it."""
        differences = np.abs(found - expected)
        figures = {"largest_difference": float(differences.max())}
        if isinstance(self.model, TextClassifier):
            figures["mean_difference"] = float(differences.mean())
            if expected.shape[1] > 1:
                changed = int((expected.argmax(1) != found.argmax(1)).sum())
                figures |= {"changed_classes": changed, "changed_share": changed / len(expected)}
            return Parity(len(self.rows), figures, of_classifier=True)
        first, second = _unit(expected), _unit(found)
        cosines = (first * second).sum(1)
        figures |= {"lowest_cosine": float(cosines.min()), "mean_cosine": float(cosines.mean())}
        if self.model.decision is not None:
            one, other = np.triu_indices(min(_N_PAIRED, len(first)), 1)
            sides = [
                reaches((part[one] * part[other]).sum(1).astype(np.float32), self.model.decision.threshold)
                for part in (first, second)
            ]
            figures |= {"pairs": len(one), "pairs_changing_sides": int((sides[0] != sides[1]).sum())}
        return Parity(len(self.rows), figures, of_classifier=False)

    def speed(self, session: Session) -> float:
        """Return how many times as fast the graph is as torch in its fastest precision.

        The two run in turns, and the shortest times are compared: what else the machine does only makes them longer.
        """
        bert, lengths = self.bert, self.sequences.lengths
        budget, layouts = token_budget(bert.device), bert.probe.layouts
        before = bert.compute_dtype

        def torch_run() -> None:
            for part in plan_forwards(lengths, budget, "cpu", layouts):
                bert.infer(bert.pack(self.sequences.select(part)))

        def graph_run() -> None:
            for batch in self.batches(self.sequences):
                session.run(*graph_inputs(batch))

        bert.compute_dtype = choose_precision("auto", bert.device)
        try:
            graph_run()
            n_times = max(1, round(_LEAST_SECONDS / max(_seconds(torch_run, 1), 1e-6)))
            rounds = [(_seconds(torch_run, n_times), _seconds(graph_run, n_times)) for _ in range(_ROUNDS)]
        finally:
            bert.compute_dtype = before
        return min(seconds for seconds, _ in rounds) / min(seconds for _, seconds in rounds)


def _seconds(run: Callable[[], None], n_times: int) -> float:
    begin = time.perf_counter()
    for _ in range(n_times):
        run()
    return time.perf_counter() - begin


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    scaled: NDArray[np.float64] = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return scaled
