"""One shard, encoded by a loaded model: what every worker calls, in this process, another one or on another machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sbert_ft.bulk.inputs import IdAndText
from sbert_ft.errors import InputError, shown
from sbert_ft.models.inference import EmbedCount
from sbert_ft.models.sentence_encoder import SentenceEncoder
from sbert_ft.vectors.shard_plan import ShardPlan
from sbert_ft.vectors.shards import ShardFacts, shard_writer


def encode_shard(
    model: SentenceEncoder,
    folder: Path,
    plan: ShardPlan,
    shard: int,
    rows: Iterable[IdAndText],
    advance: Callable[[int], None] = lambda n: None,
) -> ShardFacts:
    """Encode the texts of a shard, and return its facts when its file is in place.

    How texts are batched follows from the shard's rows alone, so the same model on the same kind of machine gives the
    same bits, whichever process encodes the shard. Memory is that of a window of texts.

    Args:
        model: As the plan says.
        folder: Of the vectors.
        plan: The folder's.
        shard: Its number, from 0.
        rows: Its ids and texts, in order.
        advance: Called with the number of newly encoded texts.

    Raises:
        InputError: A text cannot be encoded; its number within the shard is named.
        DataError: There are more or fewer texts than planned.
        OutputError: The shard cannot be written.
    """
    count, ids = EmbedCount(), deque[int | str]()

    def texts() -> Iterator[str]:
        for key, text in rows:
            ids.append(key)
            yield text

    with shard_writer(folder, plan, shard) as writer:
        try:
            for vectors in vector_stream(model, plan, texts(), count):
                array = model.bert.operations.to_numpy(vectors)
                writer.append([ids.popleft() for _ in range(len(array))], array)  # type: ignore[arg-type]
                advance(len(array))
        except InputError as error:
            first = plan.rows_of(shard).start
            where = f"shard {shard}, whose texts begin with number {first:,} of the inputs, from 0"
            raise InputError(error.problem, error.hint, where=where) from error
        writer.n_tokens, writer.n_cut = count.n_tokens, count.n_long
    assert writer.facts is not None
    return writer.facts


def check_model(model: SentenceEncoder, plan: ShardPlan) -> None:
    """Refuse a worker's model whose vectors would differ from the plan's: an `InputError`."""
    if (engine := engine_of(model)) != plan.engine:
        problem = f"a worker's model runs by {engine}, the plan's by {plan.engine}: vectors would differ"
        raise InputError(problem, "give precision, engine and devices of one kind")
    if model.digest() != plan.model_sha256:
        problem = f"{shown(model.bert.source.path)}: a worker has another model there than the plan says"
        raise InputError(problem, "copy the same model to each machine")


def engine_of(model: SentenceEncoder) -> str:
    """Return what runs a model, in which precision and on which kind of device: "torch float32 cpu"."""
    graph = getattr(model.bert, "graph", None)
    if graph is not None:
        return f"{graph.facts.engine} {graph.facts.precision} cpu"
    precision, device = str(getattr(model.bert, "compute_dtype", "")), getattr(model, "device", "")
    compiled = " compiled" if getattr(model.bert, "compiled", None) is not None else ""
    return f"torch{compiled} {precision.removeprefix('torch.')} {getattr(device, 'type', device)}"


def vector_stream(
    model: SentenceEncoder, plan: ShardPlan, texts: Iterable[str], count: EmbedCount | None = None
) -> Iterator[object]:
    """Yield the vectors of texts, encoded as the plan says, some thousand at a time."""
    settings = plan.settings
    on_truncate = settings["on_truncate"]
    return model.encode_stream(
        texts,
        prompt=str(settings["prompt"]),
        batch_size=int(settings["batch_size"] or 1),
        normalize_embeddings=bool(settings["normalize"]),
        truncate_dim=plan.quantizer.dimension,
        # said once for all shards, and not for each
        on_truncate="ignore" if on_truncate == "warn" else on_truncate,  # type: ignore[arg-type]
        count=count,
        device="cpu",
    )
