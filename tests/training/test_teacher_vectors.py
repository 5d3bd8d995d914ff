"""Learning from another encoder's vectors, first features (matryoshka_dims), and encoders with fewer layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from test_spec import make_encoder_folder, sentences
from torch import Tensor
from transformers import AutoModel

from sbert_ft import (
    ConnectionBert,
    ConnectionDataset,
    EvaluationSettings,
    ObjectiveSettings,
    SiameseBert,
    TrainingSettings,
    fine_tune,
)
from sbert_ft.cli import main
from sbert_ft.config.settings import TeacherSettings
from sbert_ft.encoder.ranks import Ranks
from sbert_ft.errors import InputError, ModelFolderError, RunFolderError
from sbert_ft.training.gradients import BackwardSettings, backward
from sbert_ft.training.objectives import Objective
from sbert_ft.training.teacher_vectors import FittedWidth, VectorTeacher

FEW = EvaluationSettings(bootstrap_samples=5)
QUICK = TrainingSettings(max_steps=3, batch_size=8, learning_rate=1e-3, precision="float32", warmup_steps=0)
TEXTS = [f"{text} {i}" for i, text in enumerate(sentences(36, 3))]
TRIPLETS = list(zip(TEXTS[:12], TEXTS[12:24], TEXTS[24:], strict=True))
SCORED = [(first, second, i / 11) for i, (first, second, _) in enumerate(TRIPLETS)]
# two ways to compute the same in float32
LOSS_TOLERANCE = 1e-6
# relative to the largest gradient of all
PARTS_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("base") / "model", layers=3)


@pytest.fixture(scope="module")
def teachers(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return teachers as wide as the model (32), wider and narrower."""
    place = tmp_path_factory.mktemp("teachers")
    widths = {"same": 32, "wide": 64, "narrow": 16}
    return {name: tiny_bert_folder(place / name, hidden_size=width, seed=7) for name, width in widths.items()}


@pytest.fixture
def model(folder: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(folder, "cpu", "float32")


def columns_of(vectors: Tensor, n_columns: int) -> list[Tensor]:
    return [column.detach().requires_grad_() for column in vectors.chunk(n_columns)]


def assert_same_loss_and_gradient(own: Tensor, columns: list[Tensor], expected: Tensor, theirs: list[Tensor]) -> None:
    assert own.item() == pytest.approx(expected.item(), rel=LOSS_TOLERANCE, abs=LOSS_TOLERANCE)
    own.backward()
    expected.backward()
    for column, their in zip(columns, theirs, strict=True):
        assert column.grad.abs().max() > 0
        torch.testing.assert_close(column.grad, their.grad, rtol=1e-4, atol=1e-6)


# the losses are those of sentence-transformers


class GivenVectors(SentenceTransformer):
    """A model of sentence-transformers whose vectors are given in place of texts; its tokenizer is a real one."""

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        return dict(features)


@pytest.fixture
def library(folder: Path) -> GivenVectors:
    return GivenVectors(str(folder), device="cpu", local_files_only=True)


def features_of(columns: list[Tensor]) -> list[dict[str, Any]]:
    ids = torch.zeros(len(columns[0]), 1, dtype=torch.int64)
    return [{"sentence_embedding": column, "input_ids": ids, "attention_mask": ids + 1} for column in columns]


@pytest.mark.parametrize("n_texts", [2, 3])
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_guided_in_batch_negatives_is_the_librarys_gistembed_loss(
    folder: Path, model: SiameseBert, teachers: dict[str, Path], n_texts: int, margin: float
) -> None:
    texts = TEXTS[: 12 * n_texts]
    student = SentenceTransformer(str(folder), device="cpu", local_files_only=True).eval()
    guide = SentenceTransformer(str(teachers["wide"]), device="cpu", local_files_only=True).eval()
    of_columns = [texts[12 * i : 12 * (i + 1)] for i in range(n_texts)]
    library = losses.GISTEmbedLoss(student, guide, temperature=0.05, margin=margin)
    expected = library([student.preprocess(column) for column in of_columns], torch.zeros(0))
    teacher = SiameseBert.from_pretrained(teachers["wide"], "cpu", "float32")
    taught = torch.stack([teacher.encode(column, convert_to_tensor=True) for column in of_columns], dim=1)
    columns = [model.encode(column, convert_to_tensor=True) for column in of_columns]
    objective = Objective([ObjectiveSettings("guided_in_batch_negatives", scale=20.0, margin=margin)])
    own = objective.losses(columns, None, taught=taught)
    assert own.item() == pytest.approx(expected.item(), rel=2e-5)  # of two forwards of the encoder
    without = Objective([ObjectiveSettings("in_batch_negatives", scale=20.0)]).losses(columns, None)
    assert abs(own.item() - without.item()) > 1e-3


def test_guided_in_batch_negatives_leaves_out_what_the_teacher_finds_nearer() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    second = torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    objective = Objective([ObjectiveSettings("guided_in_batch_negatives", scale=1.0)])
    near, far = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    # all texts are equal to the teacher, so none is nearer than the match, and only itself is left out
    kept = objective.losses([first, second], None, taught=torch.stack([near, near], dim=1))
    with_all = [np.log(np.exp([0.6, 0.8, 0, 0.96]).sum()) - 0.6, np.log(np.exp([0.6, 0.8, 0, 0.96]).sum()) - 0.6]
    assert kept.item() == pytest.approx(np.mean(with_all), rel=1e-6)
    # the teacher finds the other row's match nearer (1 against 0), and so the two others of cosine 0 are kept
    crossed = objective.losses([first, second], None, taught=torch.stack([far, far.flip(0)], dim=1))
    without = np.log(np.exp([0.6, 0, 0.96]).sum()) - 0.6
    assert crossed.item() == pytest.approx(without, rel=1e-6)


def test_margin_mse_is_the_librarys_with_the_cosine(library: GivenVectors) -> None:
    vectors, guide = torch.randn(18, 8), torch.randn(6, 3, 5)
    own, theirs = columns_of(vectors, 3), columns_of(vectors, 3)
    cosine = torch.nn.functional.cosine_similarity
    margins = cosine(guide[:, 0], guide[:, 1]) - cosine(guide[:, 0], guide[:, 2])
    expected = losses.MarginMSELoss(library, cosine)(features_of(theirs), margins)
    objective = Objective([ObjectiveSettings("margin_mse")])
    assert objective.losses(own, margins).item() == pytest.approx(expected.item(), rel=LOSS_TOLERANCE)
    assert_same_loss_and_gradient(objective.losses(own, None, taught=guide), own, expected, theirs)


def test_mse_is_the_librarys(library: GivenVectors) -> None:
    vectors, targets = torch.randn(12, 8), torch.randn(6, 2, 8)
    own, theirs = columns_of(vectors, 2), columns_of(vectors, 2)
    expected = losses.MSELoss(library)(features_of(theirs), targets)
    objective = Objective([ObjectiveSettings("mse")])
    # whatever the labels of the rows are
    assert_same_loss_and_gradient(objective.losses(own, torch.rand(6), taught=targets), own, expected, theirs)
    with pytest.raises(InputError, match="objective mse was given no vectors of a teacher"):
        objective.losses(own, None)


@pytest.mark.parametrize("name", ["cosent", "in_batch_negatives", "triplet"])
def test_matryoshka_is_the_librarys(library: GivenVectors, name: str) -> None:
    n_texts, labels = {"cosent": (2, torch.rand(6)), "in_batch_negatives": (2, None), "triplet": (3, None)}[name]
    made: dict[str, Callable[[Any], torch.nn.Module]] = {
        "cosent": losses.CoSENTLoss,
        "in_batch_negatives": losses.MultipleNegativesRankingLoss,
        "triplet": losses.TripletLoss,
    }
    vectors = torch.randn(6 * n_texts, 32)
    own, theirs = columns_of(vectors, n_texts), columns_of(vectors, n_texts)
    loss = losses.MatryoshkaLoss(library, made[name](library), [32, 16, 4], [1, 0.5, 2])
    expected = loss(features_of(theirs), torch.zeros(0) if labels is None else labels)
    part = ObjectiveSettings(name, weight=3.0, matryoshka_dims=(32, 16, 4), matryoshka_weights=(1.0, 0.5, 2.0))
    objective = Objective([part])
    assert "features 32, 16, 4" in objective.describe()
    assert_same_loss_and_gradient(objective.losses(own, labels), own, 3 * expected, theirs)


@pytest.mark.parametrize("micro_rows", [1, 3])
@pytest.mark.parametrize("names", [["mse"], ["margin_mse", "mse"], ["guided_in_batch_negatives", "mse"]])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(model: SiameseBert, names: list[str], micro_rows: int) -> None:
    model.eval()
    parts = [ObjectiveSettings(name, weight=0.5 + i, matryoshka_dims=(32, 8)) for i, name in enumerate(names)]
    objective, taught = Objective(parts), torch.randn(7, 3, 32)
    tokens = model.tokenizer.frame(model.tokenizer.tokenize(TEXTS[:21]), model.max_seq_length)
    found = []
    for rows in (7, micro_rows):
        model.zero_grad()
        loss = backward(model, objective, tokens, None, 7, BackwardSettings(rows), taught)
        found.append((loss, torch.cat([p.grad.flatten() for p in model.bert.encoder.parameters()])))
    (whole_loss, whole), (loss, gradient) = found
    assert loss.tolist() == pytest.approx(whole_loss.tolist(), rel=PARTS_TOLERANCE)
    torch.testing.assert_close(gradient, whole, rtol=0, atol=PARTS_TOLERANCE * float(whole.abs().max()))


# widths


def test_a_wider_teachers_vectors_keep_their_cosines_as_well_as_any_projection_does() -> None:
    generator = torch.Generator().manual_seed(3)
    # six directions matter, of which the smaller ones are noise
    vectors = torch.randn(500, 6, generator=generator) @ torch.randn(6, 24, generator=generator)
    vectors += 0.01 * torch.randn(500, 24, generator=generator)
    fitted = FittedWidth(24, 8)
    fitted.fit(vectors)
    assert torch.allclose(fitted.basis.T @ fitted.basis, torch.eye(8), atol=1e-5)
    products = fitted(vectors) @ fitted(vectors).T
    assert torch.allclose(products, vectors @ vectors.T, atol=0.05)
    again = FittedWidth(24, 8)
    again.fit(vectors)
    assert torch.equal(again.basis, fitted.basis)


def test_a_narrower_teachers_vectors_are_filled_up_with_zeros() -> None:
    vectors, fitted = torch.randn(5, 4), FittedWidth(4, 6)
    fitted.fit(vectors)
    assert torch.equal(fitted(vectors), torch.cat([vectors, torch.zeros(5, 2)], dim=1))
    assert fitted.basis is None and not fitted.state_dict()


def test_the_teacher_encodes_each_text_once_with_its_own_prompts(teachers: dict[str, Path], tmp_path: Path) -> None:
    teacher = SiameseBert.from_pretrained(teachers["same"], "cpu", "float32")
    teacher.use_prompts("query ", "passage ")
    teacher.save_pretrained(tmp_path / "prompted")
    train = ConnectionDataset([("a dog", "a cat", "a dog"), ("a cat", "water", "a cat")])
    source = VectorTeacher(str(tmp_path / "prompted"), torch.device("cpu"), "float32", 32)
    assert source.n_vectors(train) == 5  # a dog and a cat as queries; a cat, water and a dog as passages
    found = source.encode(train, Ranks()).of_rows(np.array([1, 0]))
    assert found.shape == (2, 3, 32)
    expected = teacher.encode(["query a cat", "passage water", "passage a cat"], prompt="", convert_to_tensor=True)
    assert torch.allclose(found[0], expected, atol=5e-6)


@pytest.mark.parametrize("teacher", ["same", "wide", "narrow"])
def test_an_encoder_learns_a_teachers_vectors(
    model: SiameseBert, teachers: dict[str, Path], tmp_path: Path, teacher: str
) -> None:
    (tmp_path / "more.txt").write_text("green water\nthe small dog\n" + TEXTS[0] + "\n")
    given = TeacherSettings(str(teachers[teacher]), texts=str(tmp_path / "more.txt"))
    training = TrainingSettings(epochs=12, batch_size=8, learning_rate=3e-3, precision="float32", logging_steps=1)
    result = fine_tune(
        model, SCORED, output_dir=tmp_path / "run", objective="mse", teacher=given, training=training, evaluation=FEW
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = [line["loss"] for line in lines if line["kind"] == "train"]
    assert np.mean(found[-4:]) < 0.8 * np.mean(found[:4])
    assert any(line.startswith("teacher: 26 vectors of ") for line in result.metrics["plan"])  # 24 and 2 more
    stock = SentenceTransformer(str(result.model_dir), device="cpu", local_files_only=True)
    assert np.allclose(stock.encode(TEXTS[:3]), model.encode(TEXTS[:3]), atol=1e-5)
    assert result.report.read_text().count(str(teachers[teacher])) >= 1


def test_gold_scores_and_a_teacher_are_learned_in_one_run(
    model: SiameseBert, teachers: dict[str, Path], tmp_path: Path
) -> None:
    parts = ["cosine", ObjectiveSettings("mse", weight=0.1)]
    options: dict[str, Any] = {"teacher": teachers["wide"], "training": QUICK, "evaluation": FEW}
    result = fine_tune(model, SCORED, SCORED, output_dir=tmp_path / "run", objective=parts, **options)
    assert result.metrics["steps"] == 2 and result.metrics["splits"]["dev"]["after"]["spearman"]["value"] is not None


def test_margins_are_labels_as_they_stand(model: SiameseBert, tmp_path: Path) -> None:
    rows = "".join(f"{a},{b},{c},{i - 4}\n" for i, (a, b, c) in enumerate(TRIPLETS))
    (tmp_path / "train.csv").write_text(f"anchor,positive,negative,margin\n{rows}")
    config = {
        "model": {"path": str(model.bert.source.path)},
        "data": {"train": str(tmp_path / "train.csv"), "dev": str(tmp_path / "train.csv"), "label_column": "margin"},
        "objective": {"name": "margin_mse", "scale": 5},
        "training": {"max_steps": 1, "batch_size": 12, "device": "cpu", "precision": "float32", "logging_steps": 1},
        "evaluation": {"bootstrap_samples": 5},
        "output_dir": str(tmp_path / "run"),
    }
    vectors = [model.encode([row[i] for row in TRIPLETS], normalize_embeddings=True) for i in range(3)]
    found = 5 * (vectors[0] * (vectors[1] - vectors[2])).sum(1) - (np.arange(12) - 4)
    config["model"]["dropout"] = 0.0
    (tmp_path / "run.json").write_text(json.dumps(config))
    assert main(["train", str(tmp_path / "run.json"), "--quiet"]) == 0
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["loss"] == pytest.approx(float(np.square(found).mean()), rel=1e-4)
    dev = json.loads((tmp_path / "run" / "metrics.json").read_text())["splits"]["dev"]
    assert dev["n"] == 24 and "average_precision" in dev["after"]  # the margins are not taken as scores of pairs


# first features


def test_a_model_is_evaluated_and_used_by_its_first_features(model: SiameseBert, tmp_path: Path) -> None:
    part = ObjectiveSettings("cosent", matryoshka_dims=(32, 8))
    result = fine_tune(
        model, SCORED, SCORED[:8], SCORED, output_dir=tmp_path / "run", objective=part, training=QUICK, evaluation=FEW
    )
    assert [*result.metrics["splits"]["test"]["by_width"]] == ["32", "8"]
    whole, short = result.metrics["splits"]["test"]["after"], result.metrics["splits"]["test"]["by_width"]["8"]
    assert result.metrics["splits"]["test"]["by_width"]["32"]["after"]["spearman"] == whole["spearman"]["value"]
    assert "test, by the first features of the vectors" in (tmp_path / "run" / "report.md").read_text()

    cut = SiameseBert.from_pretrained(result.model_dir, "cpu", "float32", truncate_dim=8)
    assert cut.get_embedding_dimension() == 8 and cut.encode(TEXTS).shape == (36, 8)
    assert cut.encode(TEXTS[:2], truncate_dim=32).shape == (2, 32)
    assert model.decision is not None and cut.decision is None and cut.digest() != model.digest()
    scores, gold = cut.score([row[:2] for row in SCORED]), [row[2] for row in SCORED]
    ranks = [np.argsort(np.argsort(values)) for values in (scores, gold)]
    assert np.corrcoef(*ranks)[0, 1] == pytest.approx(short["after"]["spearman"], abs=1e-6)

    cut.save_pretrained(tmp_path / "cut")
    stock = SentenceTransformer(str(tmp_path / "cut"), device="cpu", local_files_only=True)
    assert stock.truncate_dim == 8 and np.allclose(stock.encode(TEXTS[:3]), cut.encode(TEXTS[:3]), atol=1e-5)
    again = SiameseBert.from_pretrained(tmp_path / "cut", "cpu", "float32")
    assert again.truncate_dim == 8 and again.digest() == SiameseBert.from_pretrained(tmp_path / "cut").digest()
    assert np.array_equal(again.encode(TEXTS[:3]), cut.encode(TEXTS[:3]))

    settings = tmp_path / "cut" / "config_sentence_transformers.json"
    settings.write_text(settings.read_text().replace('"truncate_dim": 8', '"truncate_dim": "8"'))
    with pytest.raises(ModelFolderError, match="truncate_dim is '8', expected a whole number of at least 1"):
        SiameseBert.from_pretrained(tmp_path / "cut")


def test_commands_compare_the_first_features(
    folder: Path, model: SiameseBert, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["score", str(folder), "a dog runs", "two dogs", "--device", "cpu", "--precision", "float32", "--quiet"]
    assert main([*given, "--truncate-dim", "8"]) == 0
    first, second = model.encode(["a dog runs", "two dogs"], truncate_dim=8, normalize_embeddings=True)
    assert float(capsys.readouterr().out.split()[0]) == pytest.approx(float(first @ second), abs=1e-4)
    assert main([*given, "--truncate-dim", "33"]) == 2
    assert "truncate_dim is '33', expected a whole number from 1 to 32" in capsys.readouterr().err


# fewer layers


def test_an_encoder_with_fewer_layers_is_a_stock_one(folder: Path, tmp_path: Path) -> None:
    model = SiameseBert(ConnectionBert.from_pretrained(folder, "cpu", "float32", layers=[0, 2]))
    expected = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    del expected.encoder.layer[1]
    features = model.tokenize(TEXTS[:4])
    with torch.no_grad():
        hidden = expected(**features).last_hidden_state
        found = model(features)["token_embeddings"]
    mask = features["attention_mask"].bool()
    torch.testing.assert_close(found[mask], hidden[mask], rtol=0, atol=1e-5)
    assert model.digest() != SiameseBert.from_pretrained(folder).digest()

    model.save_pretrained(tmp_path / "short")
    stock = AutoModel.from_pretrained(tmp_path / "short", local_files_only=True)
    assert stock.config.num_hidden_layers == len(stock.encoder.layer) == 2
    as_library = SentenceTransformer(str(tmp_path / "short"), device="cpu", local_files_only=True)
    assert np.allclose(as_library.encode(TEXTS[:3]), model.encode(TEXTS[:3]), atol=1e-5)


@pytest.mark.parametrize("kind", ["distilbert", "roberta"])
def test_other_kinds_can_lose_layers(kind: str, tmp_path: Path) -> None:
    bert = ConnectionBert.from_pretrained(make_encoder_folder(tmp_path / kind, kind), "cpu", "float32", layers=[1])
    assert bert.plan.config.num_hidden_layers == 1


@pytest.mark.parametrize(
    ("layers", "message"),
    [([0, 3], "expected different numbers from 0 to 2"), ([1, 1], "in rising order"), ([], "in rising order")],
)
def test_layers_that_are_not_there_are_refused(folder: Path, layers: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ConnectionBert.from_pretrained(folder, layers=layers)


# what does not fit


def config_of(folder: Path, place: Path, **more: Any) -> Path:
    (place / "train.csv").write_text("sentence1,sentence2\n" + "".join(f"{a},{b}\n" for a, b, _ in TRIPLETS))
    model = {"path": str(folder), **more.pop("model", {})}
    base = {"model": model, "data": {"train": str(place / "train.csv")}, "output_dir": str(place / "run")}
    training = {"max_steps": 2, "batch_size": 4, "device": "cpu", "precision": "float32"}
    (place / "run.json").write_text(json.dumps({**base, "training": training, **more}))
    return place / "run.json"


def test_what_does_not_fit_is_said_in_one_sentence(
    folder: Path, teachers: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    joined = tmp_path / "joined"
    make_classifier(teachers["same"], joined)
    teacher = {"path": str(teachers["same"])}
    (tmp_path / "more.txt").write_text("more\n")
    guided = "guided_in_batch_negatives"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"objective": "mse"}, "teacher.path: is missing; objective mse learns from the vectors"),
        ({"objective": guided, "teacher": {}}, f"teacher.path: is missing; objective {guided} learns"),
        ({"objective": "mse", "teacher": {"path": str(joined)}}, "holds a classifier, expected a sentence encoder"),
        ({"objective": "in_batch_negatives", "teacher": teacher}, "does not learn from vectors; add mse"),
        (
            {"objective": guided, "teacher": {**teacher, "texts": str(tmp_path / "more.txt")}},
            f"teacher.texts are single texts, but the rows of objective {guided} are not",
        ),
        ({"objective": {"name": "in_batch_negatives", "matryoshka_dims": [33]}}, "has 33, but a vector of the model"),
        ({"model": {"layers": [2, 0]}, "objective": "in_batch_negatives"}, "model.layers: expected different numbers"),
        ({"model": {"layers": [5]}, "objective": "in_batch_negatives"}, "expected different numbers from 0 to 2"),
        ({"model": {"layers": [0], "init": "random"}, "objective": "in_batch_negatives"}, "those of trained weights"),
        ({"objective": "mse", "teacher": {"path": str(tmp_path / "none")}}, "is not a model folder"),
    ]
    for more, message in cases:
        assert main(["train", str(config_of(folder, tmp_path, **more)), "--quiet"]) == 2, message
        said = capsys.readouterr().err
        assert message in said and "Traceback" not in said
        assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="margin_mse takes rows without labels only beside a sentence encoder"):
        fine_tune(
            SiameseBert.from_pretrained(folder, "cpu"), TRIPLETS, output_dir=tmp_path / "run", objective="margin_mse"
        )


def make_classifier(folder: Path, target: Path) -> None:
    from sbert_ft import BertClassifier

    model = BertClassifier(ConnectionBert.from_pretrained(folder, "cpu", "float32"), "joined")
    model.start_head(["no", "yes"])
    model.save_pretrained(target)


def test_a_run_goes_on_only_with_the_same_teacher(folder: Path, teachers: dict[str, Path], tmp_path: Path) -> None:
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    options: dict[str, Any] = {"output_dir": tmp_path / "run", "objective": "mse", "training": QUICK, "evaluation": FEW}
    fine_tune(model, TEXTS, teacher=teachers["same"], **options)
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    with pytest.raises(RunFolderError, match=r"model\.teacher was '\w{12}…', is '"):
        fine_tune(model, TEXTS, teacher=teachers["narrow"], on_existing="resume", **options)
    (tmp_path / "moved").symlink_to(teachers["same"])
    assert fine_tune(model, TEXTS, teacher=tmp_path / "moved", on_existing="resume", **options).was_finished
