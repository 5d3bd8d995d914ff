"""Runs of several processes: the same model as one process makes, whatever happens to one of them.

The processes are real ones, joined by gloo; `warm/ranks.py` starts them as torchrun does.
"""

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COMMON_WORDS, make_bert_folder
from safetensors.torch import load_file
from warm import Ended, WarmProcess

from sbert_ft.config.objectives import OBJECTIVES
from sbert_ft.encoder.ranks import Ranks, shares
from sbert_ft.errors import InputError
from sbert_ft.training.distributed import check_device
from sbert_ft.training.sparse_embedding import EmbeddingRows

# Sums over rows in another order, three steps long; found were 3e-6 and, with a rate of 1e-3, 1e-5.
LOSS_TOLERANCE = 1e-5
WEIGHT_TOLERANCE = 5e-5
HALF_TOLERANCE = 1e-2
# Parameters that change nothing, so that their gradient is rounding alone, which AdamW scales up to whole steps: a bias
# of all keys shifts all scores of a query, and one of all vectors does not change their distances.
ZERO_GRADIENT = ("key.bias",)
OF_DISTANCES = (*ZERO_GRADIENT, "layer.1.output.LayerNorm.bias")
NO_DROPOUT = 1e-9  # an objective that needs dropout gets one that zeroes nothing
STEPS = {"epochs": 2, "max_steps": 3, "batch_size": 7, "learning_rate": 1e-3, "warmup_steps": 0, "logging_steps": 1}
WAITED = 15
"""Seconds of silence after which a process counts as lost in these tests."""


def text(draw: random.Random) -> str:
    words = COMMON_WORDS.split()
    return " ".join(draw.choice(words) for _ in range(draw.randint(1, 18)))


def write_rows(path: Path, columns: Sequence[str], n: int, labels: Sequence[object] | None = None) -> str:
    """Write n rows with a text in each column, and a label or a number from 0 to 1 in a column of this name."""
    draw = random.Random(path.name)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        for number in range(n):
            label = round(draw.random(), 3) if labels is None else labels[number % len(labels)]
            rows.writerow([label if column in ("score", "label") else text(draw) for column in columns])
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return files of all kinds of rows, and a small BERT without dropout, by name."""
    place = tmp_path_factory.mktemp("data")
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    bert = make_bert_folder(place / "bert", safetensors=True, config_extra=still)
    documents = place / "documents.txt"
    draw = random.Random(3)
    documents.write_text("".join("".join(f"{text(draw)}\n" for _ in range(3)) + "\n" for _ in range(12)))
    return {
        "bert": str(bert),
        "scores": write_rows(place / "scores.csv", ("a", "b", "score"), 20),
        "more": write_rows(place / "more.csv", ("a", "b", "score"), 60),
        "dev": write_rows(place / "dev.csv", ("a", "b", "score"), 24),
        "yes or no": write_rows(place / "binary.csv", ("a", "b", "label"), 20, (0, 1, 1)),
        "pairs": write_rows(place / "pairs.csv", ("a", "b"), 20),
        "triplets": write_rows(place / "triplets.csv", ("a", "b", "c"), 20),
        "teacher": str(make_bert_folder(place / "teacher", hidden_size=64, seed=5)),
        "texts": write_rows(place / "texts.csv", ("text",), 20),
        "classes": write_rows(place / "classes.csv", ("a", "b", "label"), 21, ("yes", "no", "maybe")),
        "kinds": write_rows(place / "kinds.csv", ("text", "label"), 21, ("yes", "no", "maybe")),
        "documents": str(documents),
    }


# Each case: its data, and what else its configuration has. By the name of the objective, and what is special.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "cosine": ("scores", {"data": {"dev": "dev"}}),
    "cosine, accumulated": ("scores", {"training": {"accumulation_steps": 2, "max_steps": 2}}),
    "cosine, fewer rows than processes": ("scores", {"training": {"batch_size": 2}}),
    "cosine, in parts, frozen": ("scores", {"training": {"micro_batch_size": 2}, "model": {"freeze_layers": 1}}),
    "cosine, checkpointing": ("scores", {"training": {"gradient_checkpointing": True}}),
    "cosine, bfloat16": ("scores", {"training": {"precision": "bfloat16"}}),
    "cosine, moving average": ("scores", {"data": {"dev": "dev"}, "training": {"average": "ema"}}),
    "cosine, best steps": ("scores", {"data": {"dev": "dev"}, "training": {"average": "best_k", "eval_steps": 1}}),
    "cosine, adversarial": ("scores", {"training": {"adversarial_epsilon": 1.0, "batch_size": 2}}),
    "cosent, adversarial": ("scores", {"training": {"adversarial_epsilon": 1.0, "accumulation_steps": 2}}),
    "cosent": ("scores", {"data": {"dev": "dev"}}),
    "angle": ("scores", {}),
    "contrastive": ("yes or no", {}),
    "online_contrastive": ("yes or no", {}),
    "in_batch_negatives": ("pairs", {"objective": {"symmetric": True}}),
    "in_batch_negatives, triplets, cached": ("triplets", {"training": {"micro_batch_size": 1}}),
    "in_batch_negatives, mined": ("pairs", {"negatives": {"ranks": [1, 9]}}),
    "triplet": ("triplets", {}),
    "simcse": ("texts", {"model": {"dropout": NO_DROPOUT}}),
    "tsdae": ("texts", {}),
    "mse": ("texts", {"teacher": "teacher", "objective": {"matryoshka_dims": [32, 8]}}),
    "mse, beside cosine": ("scores", {"teacher": "teacher", "objectives": ["cosine", {"name": "mse", "weight": 0.5}]}),
    "margin_mse": ("triplets", {"teacher": "teacher", "model": {"layers": [1]}}),
    "guided_in_batch_negatives": ("triplets", {"teacher": "teacher", "training": {"micro_batch_size": 1}}),
    "softmax": ("classes", {"model": {"kind": "joined"}, "objective": {"class_weight": "balanced"}}),
    "softmax, towers": ("classes", {"model": {"kind": "towers"}, "data": {"dev": "classes"}}),
    "softmax, single": ("kinds", {"model": {"kind": "single"}}),
    "binary_cross_entropy": ("scores", {"model": {"kind": "joined"}}),
    "mlm": ("documents", {"model": {"kind": "masked_lm", "max_seq_length": 32}, "data": {"dev": "documents"}}),
    "nsp": ("documents", {"model": {"kind": "masked_lm", "max_seq_length": 48}, "objectives": ["mlm", "nsp"]}),
}


def configuration(data: Mapping[str, str], case: str, output_dir: Path) -> dict[str, Any]:
    """Return the JSON of a case of `CASES`."""
    rows, more = CASES[case]
    name = case.partition(",")[0]
    files: dict[str, Any] = {split: data[which] for split, which in more.get("data", {}).items()}
    files |= {"negatives": more["negatives"]} if "negatives" in more else {}
    return {
        "model": {"path": data["bert"], **more.get("model", {})},
        "data": {"train": data[rows], **files, **({"text_columns": ["a", "b", "c"]} if rows == "triplets" else {})},
        "objective": more.get("objectives") or {"name": name, **more.get("objective", {})},
        "training": {**STEPS, "device": "cpu", "precision": "float32", **more.get("training", {})},
        "evaluation": {"bootstrap_samples": 5},
        **({"teacher": {"path": data[more["teacher"]]}} if "teacher" in more else {}),
        "output_dir": str(output_dir),
    }


def printed(path: Path) -> str:
    """Return what a process printed, without what transformers says, which was not told here to be silent."""
    return "".join(line for line in path.read_text().splitlines(True) if not line.startswith("[transformers]"))


class Runs:
    """Starts the processes of runs."""

    def __init__(self, warm: WarmProcess, place: Path) -> None:
        self.warm, self.place, self.n = warm, place, 0

    def go(self, size: int, *jobs: Sequence[object], seconds: int = WAITED, **options: Any) -> tuple[Ended, Path]:
        """Run jobs in `size` processes; return how that ended, and the folder of what each printed."""
        self.n += 1
        said = self.place / f"said-{self.n}"
        ended = self.warm.run(
            "warm.ranks:in_ranks",
            size=size,
            place=str(said),
            jobs=[[str(argument) for argument in job] for job in jobs],
            environment={"SBERT_FT_SILENT_SECONDS": str(seconds)},
            **options,
        )
        assert ended.code == 0, ended.said
        return ended, said

    def train(self, size: int, config: Mapping[str, Any], *options: str, **more: Any) -> tuple[list[int], str]:
        """Run one training; return the exit codes of all processes, and what the first one said on standard error."""
        path = self.place / f"run-{self.n}.json"
        path.write_text(json.dumps(config))
        ended, said = self.go(size, ["train", path, *options], **more)
        for rank in range(1, size):
            assert printed(said / f"{rank}.out") == printed(said / f"{rank}.err") == "", "only the first one speaks"
        return ended.report["codes"], (said / "0.err").read_text()


@pytest.fixture
def runs(warm: WarmProcess, tmp_path: Path) -> Runs:
    return Runs(warm, tmp_path)


def log_of(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights in the last checkpoint of a run, its head's and decoder's too."""
    last = sorted((folder / "checkpoints").iterdir())[-1]
    return {name: tensor for name, tensor in load_file(last).items() if name.startswith("weights/")}


def furthest(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], but: Sequence[str] = ()) -> float:
    """Return the largest difference of two sets of weights, without those whose names end like one of `but`."""
    assert one.keys() == other.keys()
    compared = [name for name in one if not name.endswith(tuple(but)) and one[name].numel()]
    assert len(compared) > 10
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in compared)


def assert_near(one: Path, other: Path, but: Sequence[str] = ZERO_GRADIENT) -> None:
    """Compare the logs of two runs, and their weights without those of `but`."""
    assert_near_losses(one, other, LOSS_TOLERANCE)
    assert furthest(weights_of(one), weights_of(other), but) <= WEIGHT_TOLERANCE


def assert_near_losses(one: Path, other: Path, tolerance: float) -> None:
    """Compare the logs of two runs; losses and norms may differ by this share."""
    first, second = log_of(one), log_of(other)
    assert [record["step"] for record in first] == [record["step"] for record in second]
    for before, after in zip(first, second, strict=True):
        assert before["learning_rate"] == after["learning_rate"] and before["epoch"] == after["epoch"]
        assert after["loss"] == pytest.approx(before["loss"], rel=tolerance)
        assert after["grad_norm"] == pytest.approx(before["grad_norm"], rel=tolerance)


def assert_same(one: Path, other: Path) -> None:
    """Compare logs and weights of two runs bit by bit."""
    for kind, keys in (("train", ("step", "loss", "grad_norm")), ("eval", ("step", "metrics"))):
        first, second = ([{key: its[key] for key in keys} for its in log_of(run, kind)] for run in (one, other))
        assert first == second
    assert furthest(weights_of(one), weights_of(other)) == 0.0


# ---------------------------------------------------------------- the same model


def test_each_objective_has_a_case() -> None:
    assert {case.partition(",")[0] for case in CASES} == set(OBJECTIVES)


@pytest.fixture(scope="module")
def trained(warm: WarmProcess, data: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Return the folder of all cases' runs, by the number of processes."""
    place = tmp_path_factory.mktemp("cases")
    found = {}
    for size in (1, 2, 3):
        found[size] = place / str(size)
        jobs = []
        for case in CASES:
            path = place / f"{size} {case}.json"
            path.write_text(json.dumps(configuration(data, case, found[size] / case)))
            jobs.append(["train", path])
        ended, said = Runs(warm, place / f"said by {size}").go(size, *jobs)
        assert ended.report["codes"] == [0] * size, (said / "0.err").read_text()[-3000:]
        assert {printed(said / f"{rank}.{end}") for rank in range(1, size) for end in ("out", "err")} <= {""}
    return found


@pytest.mark.parametrize("case", CASES)
def test_losses_and_weights_are_those_of_one_process(trained: dict[int, Path], case: str) -> None:
    before = load_file(
        Path(json.loads((trained[1] / case / "config.json").read_text())["model"]["path"], "model.safetensors")
    )
    after = weights_of(trained[1] / case)
    moved = [
        name for name in before for key in after if key.endswith(name) and not torch.equal(after[key], before[name])
    ]
    assert len(moved) > 10, "the run has trained"
    for size in (2, 3):
        if case.endswith("bfloat16"):  # AdamW's first steps have full length whatever the size of a gradient
            assert_near_losses(trained[1] / case, trained[size] / case, HALF_TOLERANCE)
        else:
            without = OF_DISTANCES if case == "triplet" else ZERO_GRADIENT
            assert_near(trained[1] / case, trained[size] / case, without)
        metrics = [json.loads((trained[n] / case / "metrics.json").read_text()) for n in (1, size)]
        for name in ("steps", "stopped_early", "lengths", "objective"):
            assert metrics[0][name] == metrics[1][name]
        assert f"dealt to {size} processes" in " ".join(metrics[1]["plan"])


@pytest.mark.parametrize("case", ["cosine", "softmax, towers", "mlm"])
def test_an_evaluation_of_the_same_weights_is_the_same_bit_by_bit(trained: dict[int, Path], case: str) -> None:
    """The first evaluation, before training; those after it are of weights that differ by rounding."""
    found = [json.loads((trained[size] / case / "metrics.json").read_text()) for size in (1, 2, 3)]
    before = [metrics["splits"]["dev"]["before"] for metrics in found]
    assert before[0] == before[1] == before[2]
    after = [metrics["splits"]["dev"]["after"] for metrics in found]
    assert all(set(after[0]) == set(other) for other in after)


@pytest.mark.parametrize("case", ["cosine, moving average", "cosine, best steps"])
def test_averaged_weights_are_those_of_one_process(trained: dict[int, Path], case: str) -> None:
    saved = {size: load_file(trained[size] / case / "model" / "model.safetensors") for size in (1, 2, 3)}
    found = {size: json.loads((trained[size] / case / "metrics.json").read_text())["average"] for size in (1, 2, 3)}
    for size in (2, 3):
        assert found[size].keys() == found[1].keys() and found[size]["kind"] == found[1]["kind"]
        if "steps" not in found[1] or found[size]["steps"] == found[1]["steps"]:  # values on dev differ by rounding
            assert furthest(saved[1], saved[size], ZERO_GRADIENT) <= WEIGHT_TOLERANCE
    last = sorted((trained[2] / case / "checkpoints").iterdir())[-1]
    raw = {name.removeprefix("weights/"): its for name, its in load_file(last).items() if name.startswith("weights/")}
    assert furthest(raw, {name: saved[2][name] for name in raw}) > 2 * WEIGHT_TOLERANCE, "it is another model"


def test_rows_are_dealt_by_their_tokens() -> None:
    found = shares(np.array([5, 1, 4, 3]), 2)
    assert [share.tolist() for share in found] == [[0, 1], [2, 3]]  # the example of the docstring
    lengths = np.random.default_rng(0).integers(3, 60, 200)
    for n in (2, 3, 8):
        dealt = shares(lengths, n)
        assert sorted(np.concatenate(dealt).tolist()) == list(range(200))
        totals = [int(lengths[share].sum()) for share in dealt]
        assert max(totals) - min(totals) <= 3
    assert [len(share) for share in shares(np.array([7, 7]), 3)] == [1, 1, 0]


def test_a_gradient_of_the_word_table_has_the_rows_of_all_processes() -> None:
    rows = EmbeddingRows(torch.zeros(9, 2, requires_grad=True))
    rows.prepare(np.array([7, 2, 2], np.int32))
    rows.prepare(np.array([3, 7], np.int32))
    places, values = torch.tensor([[7, 3, 7]]), torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    rows.table.grad = torch.sparse_coo_tensor(places, values, (9, 2), check_invariants=True)
    values = rows.spread_gradient()
    assert values.tolist() == [[0, 0], [3, 4], [6, 8]]  # rows 2, 3 and 7
    values += 1
    rows.hand_over_gradient()
    assert rows.active.tolist() == [2, 7, 3]
    assert rows.weights.grad is not None and rows.weights.grad.tolist() == [[1, 1], [7, 9], [4, 5]]
    rows.clear_gradient()
    rows.prepare(np.array([3], np.int32))
    assert rows.spread_gradient().tolist() == [[0, 0]], "a process that has no row of a batch adds nothing"


SCRIPT = """
import sys
from sbert_ft import BertClassifier, ConnectionBert, SiameseBert, TrainingSettings, fine_tune
from sbert_ft.errors import SbertFtError

folder, pairs, output = sys.argv[1:]
training = TrainingSettings(max_steps=2, batch_size=8, device="cpu")
model = SiameseBert.from_pretrained(folder, "cpu", "float32")
result = fine_tune(model, pairs, output_dir=output, training=training)
assert result.metrics["steps"] == 2 and result.report.exists()
try:
    fine_tune(model, pairs, output_dir=output, training=training)
    raise SystemExit("a finished run was replaced")
except SbertFtError as error:
    assert "holds another run, which is finished" in str(error), error
texts = [f"a dog runs {n}" for n in range(12)]
classifier = BertClassifier(ConnectionBert.from_pretrained(folder, "cpu", "float32"), "single")
classifier.fit(texts, ["yes", "no"] * 6, training=training)
print("done", classifier.predict_proba(texts).tolist(), model.encode("a dog").tolist())
"""


def test_a_script_trains_more_than_once_after_an_error_too(runs: Runs, data: dict[str, str], tmp_path: Path) -> None:
    """All processes have the tuned model, and each goes on as if it were alone."""
    ended, said = runs.go(2, ["-c", SCRIPT, data["bert"], data["scores"], tmp_path / "run"])
    printed_by = [(said / f"{rank}.out").read_text() for rank in range(2)]
    assert ended.report["codes"] == [0, 0], [(said / f"{rank}.err").read_text()[-2000:] for rank in range(2)]
    assert printed_by[0].startswith("done") and printed_by[0] == printed_by[1]


# ---------------------------------------------------------------- stopped and resumed

LONG = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1, "eval_steps": 5, "save_steps": 4}
STEP = {"module": "sbert_ft.training.loop", "name": "backward"}
EVALUATION = {"module": "sbert_ft.evaluation.pair_evaluator", "name": "joined_unless"}
CHECKPOINT = {"module": "sbert_ft.training.loop", "name": "save_progress"}


def long_run(data: Mapping[str, str], output_dir: Path, **training: Any) -> dict[str, Any]:
    """Return a run of 32 steps, with dropout, evaluations and checkpoints."""
    found = configuration(data, "cosent", output_dir)
    found["data"]["train"] = data["more"]
    found["model"]["dropout"] = 0.1
    found["training"] = {**LONG, "device": "cpu", "precision": "float32", **training}
    return found


def test_a_run_goes_on_with_any_number_of_processes(runs: Runs, data: dict[str, str], tmp_path: Path) -> None:
    """A signal to the second process ends all after one step with one checkpoint, from which 1, 2 and 3 go on."""
    whole = tmp_path / "whole"
    assert runs.train(2, long_run(data, whole))[0] == [0, 0]
    ended = tmp_path / "ended"
    strike = {"1": {**STEP, "nth": 7, "signals": [signal.SIGTERM]}}
    codes, said = runs.train(2, long_run(data, ended), strikes=strike)
    assert codes == [143, 143]
    assert "the run was ended by SIGTERM after step 7; continue with --resume" in said
    assert sorted(path.name for path in (ended / "checkpoints").iterdir())[-1] == "step-00000007.safetensors"
    for size in (2, 1, 3):
        resumed = shutil.copytree(ended, tmp_path / f"resumed by {size}")
        codes, said = runs.train(size, long_run(data, resumed), "--resume")
        assert codes == [0] * size, said
        assert [record["step"] for record in log_of(resumed)] == list(range(1, 33))
        assert json.loads((resumed / "metrics.json").read_text())["steps"] == 32
        if size == 2:
            assert_same(whole, resumed)
        else:  # other dropout masks
            losses = np.array([[record["loss"] for record in log_of(run)] for run in (whole, resumed)])
            assert (losses[0, :7] == losses[1, :7]).all() and (losses[0, 7:] != losses[1, 7:]).any()
            assert np.abs(losses[0, 7:] - losses[1, 7:]).mean() < 0.5 * losses[0].mean()


def test_early_stopping_is_that_of_one_process(runs: Runs, data: dict[str, str], tmp_path: Path) -> None:
    stopped = {}
    for size in (1, 3):
        config = long_run(data, tmp_path / str(size), early_stopping_patience=1, learning_rate=0.05, eval_steps=2)
        config["model"]["dropout"] = 0.0
        assert runs.train(size, config)[0] == [0] * size
        metrics = json.loads((tmp_path / str(size) / "metrics.json").read_text())
        stopped[size] = metrics["stopped_early"], metrics["steps"], metrics["best"]["step"]
    assert stopped[1] == stopped[3] and stopped[1][0] is True and stopped[1][1] < 32


def test_memory_that_runs_out_in_one_process_halves_the_rows_of_all(
    runs: Runs, data: dict[str, str], tmp_path: Path
) -> None:
    usual = long_run(data, tmp_path / "usual", max_steps=6)
    usual["model"]["dropout"] = 0.0
    assert runs.train(1, usual)[0] == [0]
    for name, objective in (("coupled", "cosent"), ("uncoupled", "cosine")):
        scarce = {**usual, "output_dir": str(tmp_path / name), "objective": objective}
        strike = {"1": {"module": "sbert_ft.training.gradients", "name": "_embed", "nth": 3, "out_of_memory": True}}
        codes, said = runs.train(2, scarce, strikes=strike)
        assert codes == [0, 0]
        assert said.count("out of memory on a device: going on from step") == 1 and "with forwards of 2 rows" in said
    assert_near(tmp_path / "usual", tmp_path / "coupled")


# ---------------------------------------------------------------- one process is lost, or has an error


@pytest.mark.parametrize("where", ["step", "evaluation", "checkpoint"])
def test_a_killed_process_ends_all_with_one_sentence(
    runs: Runs, data: dict[str, str], tmp_path: Path, where: str
) -> None:
    """In a checkpoint it is the first process, which writes; the second one then says it."""
    killed = 0 if where == "checkpoint" else 1
    place, nth = {"step": (STEP, 6), "evaluation": (EVALUATION, 1), "checkpoint": (CHECKPOINT, 2)}[where]
    ended, said = _lost(runs, data, tmp_path, {**place, "nth": nth, "signals": [signal.SIGKILL]}, killed)
    assert ended.report["codes"][killed] == -signal.SIGKILL and ended.report["codes"][1 - killed] == 2
    assert ended.report["seconds_apart"] < WAITED
    sentence = (said / f"{1 - killed}.err").read_text().splitlines()[-1]
    assert sentence.startswith(f"sbert-ft: error: process {killed} of 2, process ")
    assert "was lost, last heard of in " in sentence and "it has ended without a word" in sentence
    assert sentence.endswith("continue with --resume, or start again if there is no checkpoint")
    _go_on(runs, data, tmp_path)


def test_a_process_that_stands_still_ends_all_with_one_sentence(
    runs: Runs, data: dict[str, str], tmp_path: Path
) -> None:
    ended, said = _lost(runs, data, tmp_path, {**STEP, "nth": 6, "signals": [signal.SIGSTOP]}, 1, seconds=4)
    assert ended.report["codes"] == [2, -signal.SIGKILL]
    assert "process 1 of 2" in (sentence := (said / "0.err").read_text().splitlines()[-1])
    assert "nothing was heard from it for 4 s" in sentence
    assert ended.report["seconds"] < 30
    _go_on(runs, data, tmp_path)


def _lost(
    runs: Runs, data: dict[str, str], tmp_path: Path, strike: Mapping[str, Any], rank: int, **options: Any
) -> tuple[Ended, Path]:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(long_run(data, tmp_path / "run")))
    return runs.go(2, ["train", path], strikes={str(rank): strike}, **options)


def _go_on(runs: Runs, data: dict[str, str], tmp_path: Path) -> None:
    """Resume the run, and compare it with one that was never stopped."""
    codes, said = runs.train(2, long_run(data, tmp_path / "run"), "--resume")
    assert codes == [0, 0], said
    assert runs.train(2, long_run(data, tmp_path / "whole"))[0] == [0, 0]
    assert_same(tmp_path / "whole", tmp_path / "run")


def test_an_error_is_said_once_and_ends_all_with_the_code_of_one_process(
    runs: Runs, data: dict[str, str], tmp_path: Path
) -> None:
    run = long_run(data, tmp_path / "run")
    nowhere = {**run["data"], "train": str(tmp_path / "nowhere.csv")}
    for expected, change in (
        ("nowhere.csv': no such file", {"data": nowhere}),
        ("training.batch_size", {"training": {**run["training"], "batch_size": 0}}),
        ("objective triplet takes three texts", {"objective": "triplet"}),
    ):
        codes, said = runs.train(2, {**run, **change})
        assert codes == [2, 2]
        assert said.count("sbert-ft: error: ") == 1 and "Traceback" not in said, said
        assert expected in said.splitlines()[-1], said
        assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    codes, said = runs.train(2, run)
    assert codes == [2, 2] and said.count("\n") == 1 and "is not empty ('notes.txt')" in said


def test_an_error_of_another_process_is_said_by_the_first(runs: Runs, data: dict[str, str], tmp_path: Path) -> None:
    """The second process reads another file of the same name, or none, as on a machine that was not set up."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    shutil.copy(data["more"], here / "train.csv")
    config = long_run(data, tmp_path / "run")
    config["data"]["train"] = "train.csv"
    for expected in ("process 1 of 2: 'train.csv': no such file", "does not start with what process 0 has: data.train"):
        codes, said = runs.train(2, config, folders=[str(here), str(there)])
        assert codes == [2, 2]
        (error,) = [line for line in said.splitlines() if "error: " in line]
        assert error.startswith("sbert-ft: error: process 1 of 2: ") and expected in error, said
        assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())
        shutil.copy(data["dev"], there / "train.csv")


def test_processes_whose_weights_differ_are_noticed(runs: Runs, data: dict[str, str], tmp_path: Path) -> None:
    """One of them goes on with the learning rate of the step before."""
    config = long_run(data, tmp_path / "run", eval_steps=None)
    strike = {"1": {"module": "sbert_ft.training.loop", "name": "set_rate", "nth": 4, "skipped": True}}
    codes, said = runs.train(2, config, strikes=strike)
    assert codes == [2, 2] and said.count("error: ") == 1
    assert "process 1 of 2: " not in said and "the processes no longer have the same weights after step 4" in said


def test_each_process_needs_a_card_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    check_device(Ranks(1, 2, 2), torch.device("cpu"))
    check_device(Ranks(), torch.device("cuda", 1))
    for ranks, device, expected in (
        (Ranks(1, 2, 2), torch.device("mps"), "several processes train on CUDA cards or on CPUs, not on mps"),
        (Ranks(0, 99, 99), torch.device("cuda", 0), "99 processes were started on a machine with "),
        (
            Ranks(0, 2, 0),
            torch.device("cuda", 1),
            "process 0 trains on cuda:1, but the card of process 0 of a machine is",
        ),
    ):
        with pytest.raises(InputError, match=expected):
            check_device(ranks, device)


def test_what_torchrun_did_not_set_is_said(warm: WarmProcess, data: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(long_run(data, tmp_path / "run")))
    for environment, expected in (
        ({"WORLD_SIZE": "2"}, "the environment variable RANK is not set"),
        ({"WORLD_SIZE": "two"}, "the environment variable WORLD_SIZE is 'two', expected a number"),
        ({"WORLD_SIZE": "2", "RANK": "2", "MASTER_PORT": "1"}, "RANK is 2, but WORLD_SIZE is 2"),
    ):
        ended = warm.command("train", path, environment=environment)
        assert ended.code == 2 and expected in ended.err and ended.err.count("\n") == 1, ended.err
