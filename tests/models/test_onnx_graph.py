"""A graph of every kind of encoder computes what torch computes, on lengths that were not traced."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_spec import make_encoder_folder

from sbert_ft.encoder.attention import random_texts
from sbert_ft.encoder.heads import ClassificationHead
from sbert_ft.encoder.kinds import KINDS
from sbert_ft.encoder.packing import PackedBatch, pack
from sbert_ft.engines.graph_file import ExportedGraph, GraphFacts
from sbert_ft.engines.session import Session, open_session
from sbert_ft.errors import InputError
from sbert_ft.models import onnx_graph as graph_module
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.onnx_graph import add_facts, check_graph, graph_inputs, quiet, takes_token_types, write_onnx

pytest.importorskip("onnx", reason="the extra onnx is not installed")

TOLERANCE = 1e-4
LENGTHS = ([1], [3], [40, 3, 17, 9, 100], [100], [20] * 5)


@pytest.fixture(scope="module")
def bert_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ConnectionBert]:
    """Return a small encoder of a kind; each is made once."""
    made: dict[str, ConnectionBert] = {}

    def make(kind: str) -> ConnectionBert:
        if kind not in made:
            folder = make_encoder_folder(tmp_path_factory.mktemp("kinds") / kind, kind)
            made[kind] = ConnectionBert.from_pretrained(folder, "cpu", "float32")
        return made[kind]

    return make


def facts_of(bert: ConnectionBert, head: ClassificationHead | None, engine: str = "onnxruntime") -> GraphFacts:
    config, n_types = bert.plan.config, getattr(bert.plan.config, "type_vocab_size", None) or 0
    sizes = (config.vocab_size, config.hidden_size, bert.max_tokens, n_types, takes_token_types(bert))
    of_head = ("tokens", None) if head is None else ("logits", head.n_outputs)
    return GraphFacts(engine, "float32", of_head[0], "0" * 64, *sizes, of_head[1], "", 1.0)  # type: ignore[arg-type]


def exported(bert: ConnectionBert, head: ClassificationHead | None, file: Path, engine: str = "onnxruntime") -> Session:
    write_onnx(bert, head, file)
    return open_session(ExportedGraph(file, facts_of(bert, head, engine)))


def batch_of(bert: ConnectionBert, lengths: list[int]) -> PackedBatch:
    texts = random_texts(np.array(lengths), int(bert.plan.config.vocab_size), bert.tokenizer.padding_id)
    return pack(texts, "padded", device=torch.device("cpu"), **bert.pack_options)


def real_tokens(batch: PackedBatch, hidden: torch.Tensor) -> NDArray[np.float32]:
    return torch.cat(batch.token_vectors(hidden)).numpy()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_of_each_kind_computes_what_torch_computes(
    kind: str, engine: str, bert_of: Callable[[str], ConnectionBert], tmp_path: Path
) -> None:
    bert = bert_of(kind)
    session = exported(bert, None, tmp_path / "model.onnx", engine)
    for lengths in LENGTHS:
        batch = batch_of(bert, lengths)
        with torch.inference_mode():
            expected = real_tokens(batch, bert(batch))
        found = real_tokens(batch, torch.from_numpy(session.run(*graph_inputs(batch))))
        assert np.abs(found - expected).max() < TOLERANCE, lengths
    check_graph(bert, None, session)


@pytest.mark.parametrize("kind", [kind for kind, known in KINDS.items() if known.head is not None])
def test_the_graph_of_a_stock_classifier_gives_its_logits(
    kind: str, bert_of: Callable[[str], ConnectionBert], tmp_path: Path
) -> None:
    bert = bert_of(kind)
    model = ClassifierModel(bert, "single", pooling="pooler")
    model.start_head(["a", "b", "c"])
    session = exported(bert, model.head, tmp_path / "model.onnx")
    for lengths in LENGTHS:
        batch = batch_of(bert, lengths)
        assert model.head is not None
        with torch.inference_mode():
            expected = model.head.logits([model(batch)]).numpy()
        found = session.run(*graph_inputs(batch))
        assert found.shape == (len(lengths), 3) and np.abs(found - expected).max() < TOLERANCE, lengths
    check_graph(bert, model.head, session)


def test_inputs_and_outputs_have_the_names_that_others_expect(
    bert_of: Callable[[str], ConnectionBert], tmp_path: Path
) -> None:
    import onnx

    for kind, inputs in (("bert", 3), ("roberta", 2), ("distilbert", 2)):
        write_onnx(bert_of(kind), None, tmp_path / "model.onnx")
        model = onnx.load(str(tmp_path / "model.onnx"))
        onnx.checker.check_model(model)
        names = ["input_ids", "attention_mask", "token_type_ids"][:inputs]
        assert [value.name for value in model.graph.input] == names, kind
        (output,) = model.graph.output
        axes = [dim.dim_param for dim in output.type.tensor_type.shape.dim[:2]]
        assert (output.name, axes) == ("last_hidden_state", ["batch_size", "sequence_length"])


def test_large_weights_go_to_one_file_beside_the_graph(
    bert_of: Callable[[str], ConnectionBert], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bert = bert_of("bert")
    expected = exported(bert, None, tmp_path / "whole.onnx")
    monkeypatch.setattr(graph_module, "MAX_BYTES_IN_ONE_FILE", 10_000)
    place = tmp_path / "large"
    place.mkdir()
    session = exported(bert, None, place / "model.onnx")
    assert sorted(path.name for path in place.iterdir()) == ["model.onnx", "model.onnx_data"]
    assert (place / "model.onnx").stat().st_size < (place / "model.onnx_data").stat().st_size
    inputs = graph_inputs(batch_of(bert, [20, 5]))
    assert np.array_equal(session.run(*inputs), expected.run(*inputs))


def test_appended_facts_are_metadata_for_onnx_too(bert_of: Callable[[str], ConnectionBert], tmp_path: Path) -> None:
    import onnx

    file, bert = tmp_path / "model.onnx", bert_of("bert")
    write_onnx(bert, None, file)
    before = onnx.load(str(file))
    add_facts(file, facts_of(bert, None))
    after = onnx.load(str(file))
    assert after.graph == before.graph and len(after.metadata_props) == len(before.metadata_props) + 1
    assert after.metadata_props[-1].key == "sbert_ft"


def test_an_encoder_that_depends_on_the_traced_example_is_refused(
    bert_of: Callable[[str], ConnectionBert], tmp_path: Path
) -> None:
    bert = bert_of("electra")

    def by_length(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output * float(output.shape[1])  # a number of Python, which the trace keeps

    hook = bert.encoder.embeddings.register_forward_hook(by_length)
    try:
        session = exported(bert, None, tmp_path / "model.onnx")
        with pytest.raises(
            InputError, match=r"kind electra cannot be exported: for .+ the graph differs from torch by"
        ):
            check_graph(bert, None, session)
    finally:
        hook.remove()


def test_an_encoder_that_cannot_be_traced_is_refused(bert_of: Callable[[str], ConnectionBert], tmp_path: Path) -> None:
    bert = bert_of("electra")

    def never(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if torch.jit.is_tracing():
            raise RuntimeError("not while\ntracing")

    hook = bert.encoder.embeddings.register_forward_hook(never)
    try:
        with pytest.raises(InputError, match="kind electra cannot be exported to ONNX: 'not while tracing'; use"):
            write_onnx(bert, None, tmp_path / "model.onnx")
    finally:
        hook.remove()


def test_exporting_leaves_the_model_the_logging_and_the_warnings_as_they_were(
    bert_of: Callable[[str], ConnectionBert], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bert, root = bert_of("bert"), logging.getLogger()
    before = (list(root.handlers), list(root.filters), root.level, list(warnings.filters))
    attention, state = (
        bert.encoder.config._attn_implementation,
        {k: v.clone() for k, v in bert.encoder.state_dict().items()},
    )
    with warnings.catch_warnings(record=True) as seen:
        write_onnx(bert, None, tmp_path / "model.onnx")
    assert (list(root.handlers), list(root.filters), root.level, list(warnings.filters)) == before
    assert bert.encoder.config._attn_implementation == attention
    assert all(torch.equal(tensor, state[name]) for name, tensor in bert.encoder.state_dict().items())
    assert seen == [] and capfd.readouterr() == ("", "")


def test_quiet_drops_what_goes_to_the_root_logger_only() -> None:
    logger, seen = logging.getLogger("sbert_ft.tests"), []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    handler = Handler()
    logging.getLogger().addHandler(handler)
    try:
        with quiet():
            logging.warning("of a library")
            logger.warning("ours")
        logging.warning("after")
    finally:
        logging.getLogger().removeHandler(handler)
    assert seen == ["ours", "after"]
