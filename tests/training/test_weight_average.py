"""Averaged weights against their formula, computed here from the weights of each step, and runs that save them."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COMMON_WORDS, make_bert_folder
from torch import Tensor, nn

from sbert_ft import BertClassifier, ConnectionBert, ConnectionDataset, SiameseBert, TrainingSettings, fine_tune
from sbert_ft.cli import main
from sbert_ft.config.loader import run_from_json
from sbert_ft.config.settings import EvaluationSettings
from sbert_ft.encoder.ranks import Ranks
from sbert_ft.errors import CheckpointError, ConfigError
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.training.checkpoints import TrainerState, checkpoint_file, final_weights, read_checkpoint
from sbert_ft.training.fine_tune import load_run
from sbert_ft.training.optimizer import Optimizer, set_rate
from sbert_ft.training.plan import plan_run
from sbert_ft.training.pretrain import pretrain
from sbert_ft.training.run import FineTuneResult, _take_weights
from sbert_ft.training.run_folder import RunFolder
from sbert_ft.training.weight_average import add_mean, mean_weights

DECAY = 0.8
QUICK = EvaluationSettings(bootstrap_samples=5)
# A rate that does not depend on how many steps there are, so that shorter runs have the first weights of longer ones.
EVEN: dict[str, Any] = {"schedule": "constant", "warmup_ratio": 0.0, "batch_size": 8, "seed": 3, "device": "cpu"}


def averaged(steps: list[Mapping[str, Tensor]], decay: float = DECAY) -> dict[str, np.ndarray]:
    """Return the moving average of weights before the first step and after each, in float64."""
    first, *rest = steps
    found = {name: tensor.double().numpy().copy() for name, tensor in first.items()}
    for t, weights in enumerate(rest, 1):
        kept = min(decay, (1 + t) / (10 + t))
        for name, average in found.items():
            found[name] = kept * average + (1 - kept) * weights[name].double().numpy()
    return found


def assert_close(found: Mapping[str, Tensor], expected: Mapping[str, np.ndarray], tolerance: float) -> None:
    assert found.keys() == expected.keys() and len(found) > 1
    for name, tensor in found.items():
        np.testing.assert_allclose(tensor.double().numpy(), expected[name], rtol=0, atol=tolerance, err_msg=name)


def scored(n: int, seed: int = 0) -> list[tuple[str, str, float]]:
    """Return pairs whose score is the share of words that they have in common; none has the same text twice.

    Cosines of 1 would differ by rounding alone, and with them ranks.
    """
    draw, words = random.Random(seed), COMMON_WORDS.split()
    rows = []
    for _ in range(n):
        first, n_same = draw.choices(words, k=6), draw.randint(0, 5)
        second = first[:n_same] + draw.choices(words, k=6 - n_same)
        rows.append((" ".join(first), " ".join(second), n_same / 6))
    return rows


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert_folder(tmp_path_factory.mktemp("average") / "bert", safetensors=True)


@pytest.fixture(scope="module")
def train() -> ConnectionDataset:
    return ConnectionDataset.from_pairs(scored(48))


@pytest.fixture(scope="module")
def dev() -> ConnectionDataset:
    return ConnectionDataset.from_pairs(scored(40, seed=1))


# ---------------------------------------------------------------- the moving average


class Words(nn.Module):
    """A word table of which some rows are never read, and a layer on it."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.words = nn.Embedding(30, 4, sparse=sparse)
        self.layer = nn.Linear(4, 2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)


def one_step(module: Words, optimizer: Optimizer, number: int) -> None:
    ids = np.random.default_rng(number).integers(0, 5 + number, 6)
    set_rate(optimizer, 0.01 * (1 + number % 3))
    optimizer.prepare(ids.astype(np.int32))
    module.layer(module.words(torch.from_numpy(ids))).square().sum().backward()
    optimizer.step()
    assert optimizer.average is not None
    optimizer.average.update()
    optimizer.zero_grad()


@pytest.mark.parametrize("settled", [1, 4, 100], ids=["each step", "now and then", "never"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_a_table_by_rows_has_the_average_of_the_whole_table(weight_decay: float, settled: int) -> None:
    settings = TrainingSettings(average="ema", ema_decay=DECAY, weight_decay=weight_decay)
    module = Words(sparse=True)
    optimizer = Optimizer(module, settings)
    assert optimizer.rows is not None and optimizer.average is not None
    twin = Words(sparse=False)  # its table is stepped as a whole, so that its weights are there after each step
    dense = Optimizer(twin, settings)
    history = [{name: tensor.clone() for name, tensor in twin.state_dict().items()}]
    for number in range(12):
        one_step(module, optimizer, number)
        one_step(twin, dense, number)
        history.append({name: tensor.clone() for name, tensor in twin.state_dict().items()})
        if number % settled == settled - 1:
            optimizer.settle()
    assert 10 < len(optimizer.rows.active) < 25
    expected = averaged(history)
    assert_close(optimizer.average.tensors(module), expected, 2e-6)
    optimizer.settle()
    trained = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with optimizer.average.in_place():
        assert_close(module.state_dict(), expected, 2e-6)
        assert not torch.allclose(module.words.weight, trained["words.weight"], atol=1e-3)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in module.state_dict().items()), "bit by bit"


def test_the_average_goes_on_where_rows_are_new() -> None:
    """A run that updated the table as a whole, such as one on a card, goes on by rows, with the same average."""
    settings = TrainingSettings(average="ema", ema_decay=DECAY, weight_decay=0.5)
    twin = Words(sparse=False)
    dense = Optimizer(twin, settings)
    for number in range(5):
        one_step(twin, dense, number)
    assert dense.average is not None
    module = Words(sparse=True)
    module.load_state_dict(twin.state_dict())
    optimizer = Optimizer(module, settings)
    assert optimizer.rows is not None and optimizer.average is not None
    moments = {key: dense.adamw.state[twin.words.weight][key] for key in ("exp_avg", "exp_avg_sq")}
    optimizer.rows.restore(moments)
    optimizer.average.restore(module, dense.average.tensors(twin), dense.average.state())
    assert_close(
        optimizer.average.tensors(module),
        {name: tensor.double().numpy() for name, tensor in dense.average.tensors(twin).items()},
        2e-6,
    )


def test_a_decay_that_leaves_nothing_gives_an_average_that_is_a_number() -> None:
    module = Words(sparse=True)
    optimizer = Optimizer(module, TrainingSettings(average="ema", weight_decay=1.0))
    for number in range(3):
        set_rate(optimizer, 1.0)
        ids = np.array([1, 2])
        optimizer.prepare(ids.astype(np.int32))
        module.words(torch.from_numpy(ids)).square().sum().backward()
        optimizer.step()
        assert optimizer.average is not None and optimizer.average.n_steps == number
        optimizer.average.update()
        optimizer.zero_grad()
    assert all(tensor.isfinite().all() for tensor in optimizer.average.tensors(module).values())


def weights_of(model: SiameseBert) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.bert.encoder.state_dict().items()}


def test_a_run_saves_the_moving_average_of_its_weights(bert: Path, train: ConnectionDataset, tmp_path: Path) -> None:
    """By the formula, from the weights of runs of one step, of two, and so on."""
    n_steps = 4
    settings = TrainingSettings(**EVEN, precision="float32", learning_rate=1e-3, weight_decay=0.1)
    history = [weights_of(SiameseBert.from_pretrained(bert, "cpu", "float32"))]
    for n in range(1, n_steps + 1):
        model, training = SiameseBert.from_pretrained(bert, "cpu"), replace(settings, max_steps=n)
        fine_tune(model, train, output_dir=tmp_path / str(n), training=training, evaluation=QUICK)
        history.append(weights_of(model))
    model = SiameseBert.from_pretrained(bert, "cpu")
    training = replace(settings, max_steps=n_steps, average="ema", ema_decay=DECAY)
    result = fine_tune(model, train, output_dir=tmp_path / "ema", training=training, evaluation=QUICK)
    # the average itself does not change the training
    raw = read_checkpoint(checkpoint_file(RunFolder(result.folder).checkpoints_dir, n_steps)).read_tensors("weights")
    assert all(torch.equal(tensor, history[-1][name]) for name, tensor in raw.items())
    assert_close(weights_of(model), averaged(history), 1e-6)
    saved = weights_of(SiameseBert.from_pretrained(result.model_dir, "cpu", "float32"))
    assert all(torch.equal(tensor, saved[name]) for name, tensor in weights_of(model).items())
    assert max(float((saved[name] - history[-1][name]).abs().max()) for name in saved) > 1e-4
    assert result.metrics["average"] == {"kind": "ema", "decay": DECAY, "step": n_steps, "raw_value": None}


def tune(
    folder: Path, train: ConnectionDataset, dev: ConnectionDataset | None, place: Path, **training: Any
) -> FineTuneResult:
    given = {**EVEN, "precision": "float32", "learning_rate": 2e-3, "epochs": 2, "eval_steps": 2, **training}
    model = SiameseBert.from_pretrained(folder, "cpu", "float32" if given["precision"] == "float32" else "auto")
    return fine_tune(model, train, dev=dev, output_dir=place, training=TrainingSettings(**given), evaluation=QUICK)


def spearman(folder: Path, weights: Mapping[str, Tensor], dev: ConnectionDataset, place: Path) -> float:
    """Return the metric of a base model with these weights on dev, by a run that does not change them."""
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    model.bert.encoder.load_state_dict(dict(weights))
    still = TrainingSettings(max_steps=1, learning_rate=1e-12, weight_decay=0.0, device="cpu", precision="float32")
    result = fine_tune(model, dev, dev=dev, output_dir=place, training=still, evaluation=QUICK)
    return float(result.metrics["splits"]["dev"]["before"]["spearman"]["value"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_evaluations_are_of_the_averaged_weights(
    bert: Path, train: ConnectionDataset, dev: ConnectionDataset, tmp_path: Path, precision: str
) -> None:
    result = tune(bert, train, dev, tmp_path / "run", average="ema", ema_decay=DECAY, precision=precision)
    metrics, folder = result.metrics, RunFolder(result.folder)
    assert metrics["steps"] == 12
    best, final = metrics["best"], metrics["splits"]["dev"]["after"]["spearman"]["value"]
    # evaluated in the run with a copy in half precision that has the average, and after it anew
    assert final == pytest.approx(best["value"], abs=1e-6)
    log = [json.loads(line) for line in folder.log_file.read_text().splitlines()]
    values = {line["step"]: line["metrics"]["spearman"] for line in log if line["kind"] == "eval"}
    assert values[best["step"]] == best["value"] == max(values.values())
    if precision == "float32":
        checkpoint = read_checkpoint(checkpoint_file(folder.checkpoints_dir, 12))
        raw, average = checkpoint.read_tensors("weights"), final_weights(checkpoint)
        assert spearman(bert, average, dev, tmp_path / "average") == pytest.approx(values[12], abs=1e-6)
        reached = spearman(bert, raw, dev, tmp_path / "raw")
        assert reached == pytest.approx(metrics["average"]["raw_value"], abs=1e-6) and reached != values[12]
    page = (result.folder / "report.html").read_text()
    assert "exponential moving average (ema), decay 0.8" in page and "They are of the averaged weights." in page
    assert f"{metrics['average']['raw_value']:.4f} on dev after the last step, 12" in page


def test_classifiers_and_masked_language_models_are_averaged(bert: Path, tmp_path: Path) -> None:
    texts = [first for first, _, _ in scored(32)]
    training = TrainingSettings(**EVEN, max_steps=3, learning_rate=1e-3, average="ema")
    classifier = BertClassifier(ConnectionBert.from_pretrained(bert, "cpu", "float32"), "single")
    classifier.fit(texts, ["yes", "no"] * 16, training=training, output_dir=tmp_path / "classes")
    checkpoint = read_checkpoint(checkpoint_file(tmp_path / "classes" / "checkpoints", 3))
    head = checkpoint.read_tensors("average").keys() - classifier.bert.encoder.state_dict().keys()
    assert any("head" in name for name in head)
    final = final_weights(checkpoint)
    for name, tensor in classifier.trained.state_dict().items():
        assert torch.equal(tensor, final[name]), name
    language = MaskedLanguageModel.from_pretrained(bert, "cpu", "float32")
    pretrain(language, texts, output_dir=tmp_path / "language", training=training)
    checkpoint = read_checkpoint(checkpoint_file(tmp_path / "language" / "checkpoints", 3))
    final, raw = final_weights(checkpoint), checkpoint.read_tensors("weights")
    for name, tensor in language.trained.state_dict().items():  # a tied weight has the average under both its names
        assert torch.equal(tensor, final[name]), name
    table = next(name for name in raw if name.endswith("word_embeddings.weight"))
    assert not torch.equal(raw[table], final[table])


def test_a_damaged_checkpoint_of_the_last_average_is_an_error(
    bert: Path, train: ConnectionDataset, tmp_path: Path
) -> None:
    """Without dev the model is the last average, which only that checkpoint has."""
    settings = run_from_json(
        {
            "model": {"path": str(bert)},
            "data": {"train": str(write(tmp_path / "train.csv", scored(24)))},
            "training": {"average": "ema", "max_steps": 2, "device": "cpu", "precision": "float32"},
            "output_dir": str(tmp_path / "run"),
        },
        "the test",
    )
    run, folder = load_run(settings), RunFolder(tmp_path / "run")
    folder.checkpoints_dir.mkdir(parents=True)
    checkpoint_file(folder.checkpoints_dir, 2).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="incomplete or damaged"):
        _take_weights(run, TrainerState(step=2), folder, Ranks())


# ---------------------------------------------------------------- the best steps


def test_the_mean_of_weights_is_their_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    models = [{"a": torch.randn(7, generator=generator), "b": torch.randn(2, 3, generator=generator)} for _ in range(4)]
    expected = {name: np.mean([model[name].double().numpy() for model in models], axis=0) for name in ("a", "b")}
    assert_close(mean_weights({name: its.clone() for name, its in model.items()} for model in models), expected, 1e-6)
    tied, other = torch.tensor([4.0, 2.0]), torch.tensor([1.0, 0.0])
    tensors = {"words": tied, "decoder": tied, "n": torch.tensor(3)}
    add_mean(tensors, {"words": other, "decoder": other, "n": torch.tensor(5)}, 2)
    assert tied.tolist() == pytest.approx([2.0, 2 / 3]) and int(tensors["n"]) == 3


def test_a_run_saves_the_mean_of_its_best_steps_if_it_is_not_worse(
    bert: Path, train: ConnectionDataset, dev: ConnectionDataset, tmp_path: Path
) -> None:
    result = tune(bert, train, dev, tmp_path / "run", average="best_k", best_k=2, epochs=3)
    folder, metrics = RunFolder(result.folder), result.metrics
    log = [json.loads(line) for line in folder.log_file.read_text().splitlines()]
    values = {line["step"]: line["metrics"]["spearman"] for line in log if line["kind"] == "eval"}
    best = sorted(values, key=lambda step: (-values[step], step))[:2]
    average = metrics["average"]
    assert average["steps"] == sorted(best) and average["best_value"] == max(values.values())
    assert len(values) == 9
    weights = [read_checkpoint(checkpoint_file(folder.checkpoints_dir, step)).read_tensors("weights") for step in best]
    mean = {name: (weights[0][name].double() + weights[1][name].double()).numpy() / 2 for name in weights[0]}
    reached = spearman(bert, {name: torch.from_numpy(its).float() for name, its in mean.items()}, dev, tmp_path / "m")
    assert reached == pytest.approx(average["value"], abs=1e-6)
    assert average["is_taken"] == (average["value"] >= average["best_value"])
    saved = weights_of(SiameseBert.from_pretrained(result.model_dir, "cpu", "float32"))
    expected = mean if average["is_taken"] else {name: its.double().numpy() for name, its in weights[0].items()}
    assert_close(saved, expected, 1e-6)
    reported = metrics["splits"]["dev"]["after"]["spearman"]["value"]
    assert reported == pytest.approx(max(average["value"], average["best_value"]), abs=1e-6)
    taken = "taken" if average["is_taken"] else "not taken"
    steps = " and ".join(map(str, average["steps"]))
    assert f"mean of steps {steps} (best_k), {taken}" in (result.folder / "report.html").read_text()
    # the checkpoints of the best steps, the last and the one before
    kept = {int(path.stem.removeprefix("step-")) for path in folder.checkpoints_dir.iterdir()}
    assert {*best, 18} <= kept and len(kept) <= 4


@pytest.fixture
def two_steps(bert: Path, tmp_path: Path) -> tuple[Any, RunFolder]:
    """Return a prepared run, and its folder with real checkpoints of two steps."""
    data = {name: str(write(tmp_path / f"{name}.csv", scored(24, seed))) for seed, name in enumerate(("train", "dev"))}
    config = {
        "model": {"path": str(bert)},
        "data": data,
        "training": {**EVEN, "average": "best_k", "max_steps": 2, "eval_steps": 1, "precision": "float32"},
        "evaluation": {"bootstrap_samples": 5},
        "output_dir": str(tmp_path / "run"),
    }
    (tmp_path / "run.json").write_text(json.dumps(config))
    assert main(["train", str(tmp_path / "run.json"), "--quiet"]) == 0
    return load_run(run_from_json(config, "the test")), RunFolder(tmp_path / "run")


def test_a_mean_that_is_worse_is_not_taken(two_steps: tuple[Any, RunFolder]) -> None:
    run, folder = two_steps
    progress = TrainerState(step=2, best_step=1, best_value=1.5, best_steps=[1, 2], best_values=[1.5, 0.1])
    found = _take_weights(run, progress, folder, Ranks())
    assert found is not None and found["steps"] == [1, 2] and found["is_taken"] is False and found["value"] < 1.5
    expected = read_checkpoint(checkpoint_file(folder.checkpoints_dir, 1)).read_tensors("weights")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in run.model.bert.encoder.state_dict().items())
    progress.best_value = -1.5
    found = _take_weights(run, progress, folder, Ranks())
    assert found is not None and found["is_taken"] is True


def test_a_damaged_checkpoint_is_left_out_of_the_mean(
    two_steps: tuple[Any, RunFolder], caplog: pytest.LogCaptureFixture
) -> None:
    run, folder = two_steps
    expected = read_checkpoint(checkpoint_file(folder.checkpoints_dir, 2)).read_tensors("weights")
    checkpoint_file(folder.checkpoints_dir, 1).write_bytes(b"nothing")
    progress = TrainerState(step=2, best_step=2, best_value=0.5, best_steps=[2, 1], best_values=[0.5, 0.4])
    run.model.bert.encoder.load_state_dict(expected)
    found = _take_weights(run, progress, folder, Ranks())
    assert found is not None and found["steps"] == [] and found["value"] is None
    assert "is left out of their mean" in caplog.text and "fewer than two evaluated steps" in caplog.text
    assert all(torch.equal(tensor, expected[name]) for name, tensor in run.model.bert.encoder.state_dict().items())


def test_of_equal_values_the_earlier_step_is_kept() -> None:
    progress = TrainerState()
    kept = []
    for progress.step, value in enumerate((0.5, 0.7, 0.5, 0.6, 0.7), 1):
        kept.append(progress.keep(value, False, 3))
    assert kept == [True, True, True, True, True] and progress.best_steps == [2, 5, 4]
    progress.step = 6
    assert not progress.keep(0.6, False, 3) and progress.best_values == [0.7, 0.7, 0.6]
    losses = TrainerState()
    for losses.step, value in enumerate((3.0, 1.0, 2.0), 1):
        losses.keep(value, True, 2)
    assert losses.best_steps == [2, 3] and losses.kept_steps == {2, 3}


# ---------------------------------------------------------------- settings


def write(path: Path, rows: list[tuple[str, str, float]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("sentence1", "sentence2", "score"), *rows])
    return path


@pytest.mark.parametrize(
    ("training", "data", "sentence"),
    [
        ({"ema_decay": 0.9}, {}, "training.ema_decay: 0.9 is for training.average ema, which is null; leave it out"),
        (
            {"average": "ema", "best_k": 5},
            {"dev": "dev.csv"},
            "training.best_k: 5 is for training.average best_k, which is 'ema'; leave it out",
        ),
        ({"average": "best_k"}, {}, "best_k needs evaluation pairs, by which the best steps are chosen; give data.dev"),
        (
            {"average": "best_k", "best_k": 1},
            {"dev": "dev.csv"},
            "training.best_k: expected a whole number of at least",
        ),
        ({"average": "ema", "ema_decay": 1}, {}, "training.ema_decay: expected a number above 0 and below 1, found 1"),
        ({"average": "swa"}, {}, "training.average: expected one of ema, best_k, or null, found 'swa'"),
    ],
)
def test_options_that_do_not_fit_are_refused(training: dict[str, Any], data: dict[str, str], sentence: str) -> None:
    config = {"model": {"path": "m"}, "data": {"train": "t.csv", **data}, "training": training, "output_dir": "o"}
    with pytest.raises(ConfigError) as error:
        run_from_json(config, "the test")
    assert sentence in str(error.value) and "faults" not in str(error.value)


def test_the_plan_says_what_averaging_needs(bert: Path, tmp_path: Path) -> None:
    files = {name: str(write(tmp_path / f"{name}.csv", scored(24))) for name in ("train", "dev")}
    lines, fixed = {}, {}
    for average in (None, "ema", "best_k"):
        config = {
            "model": {"path": str(bert)},
            "data": files,
            "training": {"average": average, "device": "cpu"},
            "output_dir": str(tmp_path / "run"),
        }
        run = load_run(run_from_json(config, "the test"))
        plan = plan_run(run)
        lines[average] = [line for line in plan.describe() if line.startswith("weights: ")]
        fixed[average] = plan.fixed_bytes
    n_weights = sum(parameter.numel() for parameter in run.model.parameters())
    assert fixed["ema"] - fixed[None] == 4 * n_weights and fixed["best_k"] == fixed[None]
    assert lines[None] == [] and lines["ema"] == ["weights: evaluated and saved is their moving average, decay 0.99"]
    assert "the mean of the 3 best evaluated steps" in lines["best_k"][0] and "of disk" in lines["best_k"][0]


@pytest.mark.parametrize(("before", "after"), [(None, "ema"), ("ema", "best_k")])
def test_a_run_goes_on_with_another_average_if_it_is_allowed(
    bert: Path, tmp_path: Path, before: str | None, after: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: str(write(tmp_path / f"{name}.csv", scored(24))) for name in ("train", "dev")}
    config = {
        "model": {"path": str(bert)},
        "data": files,
        "training": {**EVEN, "precision": "float32", "epochs": 2, "eval_steps": 1, "average": before},
        "evaluation": {"bootstrap_samples": 5},
        "output_dir": str(tmp_path / "run"),
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(config))
    assert main(["train", str(path), "--quiet"]) == 0
    for name in ("metrics.json", "report.html"):  # as after a kill before the end
        (tmp_path / "run" / name).unlink()
    (checkpoint_file(tmp_path / "run" / "checkpoints", 6)).unlink()
    arguments = ["train", str(path), "--quiet", "--resume", "--set", f"training.average={json.dumps(after)}"]
    capsys.readouterr()
    assert main(arguments) == 2
    assert "training.average was" in capsys.readouterr().err
    assert main([*arguments, "--allow-changes"]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["steps"] == 6 and (metrics["average"] or {}).get("kind") == after
    reported = metrics["splits"]["dev"]["after"]["spearman"]["value"]
    reached = metrics["average"]["value"] if (metrics["average"] or {}).get("is_taken") else metrics["best"]["value"]
    assert reported == pytest.approx(reached, abs=1e-6), "the model is the one that was evaluated"
