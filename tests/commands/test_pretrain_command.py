"""`sbert-ft pretrain` as a user sees it: its plan, its files, what it refuses, and what other commands do with it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import COMMON_WORDS

from sbert_ft.cli import main
from sbert_ft.config.settings import EvaluationSettings, TrainingSettings
from sbert_ft.errors import InputError
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.training.pretrain import pretrain

WORDS = COMMON_WORDS.split()


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def sbert_ft(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Return a function that runs the command line in this process."""

    def run(*arguments: object) -> Said:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return Said(code, said.out, said.err)

    return run


@pytest.fixture(scope="module")
def model(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("pretrain") / "model", max_positions=64)


def lines_of(n_documents: int, seed: int) -> list[str]:
    """Return documents of four texts, each ended by an empty line."""
    generator, lines = random.Random(seed), list[str]()
    for _ in range(n_documents):
        lines += [" ".join(generator.choices(WORDS, k=generator.randint(3, 9))) for _ in range(4)] + [""]
    return lines


def write_run(place: Path, model: Path, **sections: Any) -> Path:
    """Write a run's configuration beside its texts, with a few quick steps."""
    for seed, (name, n) in enumerate({"train": 10, "dev": 5, "test": 5}.items()):
        (place / f"{name}.txt").write_text("\n".join(lines_of(n, seed)), encoding="utf-8")
    content = {
        "model": {"path": str(model), "max_seq_length": 32},
        "data": {name: str(place / f"{name}.txt") for name in ("train", "dev", "test")},
        "training": {"batch_size": 8, "learning_rate": 1e-3, "device": "cpu", "logging_steps": 2, "eval_steps": 2},
        "evaluation": {"bootstrap_samples": 20},
        "output_dir": str(place / "run"),
        **sections,
    }
    path = place / "run.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def config(tmp_path: Path, model: Path) -> Path:
    return write_run(tmp_path, model)


@pytest.fixture(scope="module", params=["mlm", "mlm and nsp"])
def finished(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run."""
    place = tmp_path_factory.mktemp("finished")
    assert main(["pretrain", str(write_run(place, model, objective=request.param.split(" and "))), "--quiet"]) == 0
    return place / "run"


# ---------------------------------------------------------------- the run


def test_a_dry_run_prints_the_plan_and_the_masked_first_batch(sbert_ft: Callable[..., Said], config: Path) -> None:
    said = sbert_ft("pretrain", config, "--dry-run", "--set", "objective.mask_share=0.5")
    assert said.code == 0
    plan, batch = said.out.split("first batch: 8 rows, ")
    assert "40 sequences from 40 texts, objective mlm (mask share 0.5)" in plan
    assert re.search(r"tokens a text: 50 % up to \d+, .*, the longest \d+; none is cut\n", plan)
    rows = re.findall(r"^  line (\d+): '(\[CLS\] .* \[SEP\])'$", batch, re.MULTILINE)
    lines = (config.parent / "train.txt").read_text(encoding="utf-8").split("\n")
    assert len(rows) == 8 and sum(text.count("[MASK]") for _, text in rows) > 8
    for line, text in rows:
        shown, own = text.split()[1:-1], lines[int(line) - 1].split()
        assert len(shown) == len(own) and set(shown) & {"[MASK]", *own}
    assert "train.txt, 40 texts" in said.err and "9 rows without a text left out" in said.err
    assert not (config.parent / "run").exists()


def test_a_dry_run_of_documents_prints_pairs_of_segments(sbert_ft: Callable[..., Said], config: Path) -> None:
    with (config.parent / "train.txt").open("a", encoding="utf-8") as file:
        file.write("\n\nthe man alone\n")
    said = sbert_ft("pretrain", config, "--dry-run", "--set", 'objective=["mlm", "nsp"]')
    assert said.code == 0
    rows = re.search(r"(\d+) sequences from 41 texts in 11 documents, 1 text alone in a document left out, ", said.out)
    assert rows is not None and 10 <= int(rows[1]) <= 20
    assert "pairs of segments of up to 32" in said.out
    assert re.search(r"line \d+: '\[CLS\] [^\[]*(\[MASK\][^\[]*)*\[SEP\] .* \[SEP\]'", said.out)


def test_a_run_writes_its_files_and_none_of_pairs(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"model", "report.html", "report.md", "metrics.json", "metrics.jsonl", "ledger.json"} <= names
    assert not {"worst_pairs.csv", "mistakes.csv"} & names
    report = (finished / "report.md").read_text(encoding="utf-8")
    assert report.startswith("# Pre-training of model\n") and "the loss " in report.split("\n")[2]
    assert "cosine" not in report and "threshold" not in report
    both = "nsp" in json.loads((finished / "metrics.json").read_text())["objective"]
    measures = ["Loss", "Perplexity", "Masked accuracy", *(["Next-sentence accuracy"] if both else [])]
    assert re.findall(r"^\| ([LPMN][\w -]+?) \| [\d.,]+ \[", report, re.MULTILINE) == measures * 2
    log = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    kinds = {line["kind"] for line in log}
    assert kinds == {"train", "eval"}
    for line in log:
        if line["kind"] == "train":
            assert "rows_per_second" in line and line["loss"] > 0
        else:
            assert [*line["metrics"]] == [name.lower().replace(" ", "_").replace("-", "_") for name in measures]


def test_the_numbers_of_a_run_are_shown(sbert_ft: Callable[..., Said], config: Path) -> None:
    said = sbert_ft("pretrain", config)
    assert said.code == 0 and "5 steps in " in said.out
    metrics = json.loads((config.parent / "run/metrics.json").read_text())
    for name in ("dev", "test"):
        value = metrics["splits"][name]["after"]["perplexity"]["value"]
        shown = f"{value:,.1f}" if value >= 100 else f"{value:.4f}"
        assert re.search(rf"^{name} perplexity: .* before, {shown} \(.*\) after, change ", said.out, re.MULTILINE)
        assert f"{name} masked accuracy: " in said.out
    assert re.search(r"step 2: dev loss [\d.]+, perplexity [\d.]+, masked_accuracy [\d.]+, the best so far", said.err)


def test_train_does_the_same_with_the_kind(sbert_ft: Callable[..., Said], config: Path) -> None:
    assert sbert_ft("pretrain", config).code == 0
    own = sbert_ft("train", config, "--set", "model.kind=masked_lm", "--set", f"output_dir={config.parent / 'other'}")
    assert own.code == 0
    files = [config.parent / name / "model/model.safetensors" for name in ("run", "other")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_share_of_the_texts_is_dev(sbert_ft: Callable[..., Said], config: Path) -> None:
    said = sbert_ft("pretrain", config, "--set", "data.dev=null", "--set", "data.dev_share=0.3", "--quiet")
    assert said.code == 0
    ledger = json.loads((config.parent / "run/ledger.json").read_text())
    kept = [ledger[name]["n_kept"] for name in ("train", "dev")]
    assert sum(kept) == 40 and min(kept) > 0
    report = (config.parent / "run/report.md").read_text(encoding="utf-8")
    assert f"{kept[0]} texts in the other part of the split" in report


def test_texts_in_memory_are_trained_on(model: Path, tmp_path: Path) -> None:
    language_model = MaskedLanguageModel.from_pretrained(model, "cpu", "float32", max_seq_length=32)
    settings = TrainingSettings(batch_size=8, device="cpu"), EvaluationSettings(bootstrap_samples=20)
    texts = [line for line in lines_of(10, 0) if line]
    result = pretrain(
        language_model, texts, texts[:8], output_dir=tmp_path / "run", training=settings[0], evaluation=settings[1]
    )
    after = result.metrics["splits"]["dev"]["after"]
    assert result.metrics["steps"] == 5 and after["perplexity"]["value"] == pytest.approx(
        np.exp(after["loss"]["value"])
    )
    assert "&lt;texts&gt;" in result.report.read_text(encoding="utf-8")
    with pytest.raises(InputError, match="model is of type str, expected a MaskedLanguageModel"):
        pretrain("model", texts, output_dir=tmp_path / "other")  # type: ignore[arg-type]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.kind=siamese", "objective=cosine"], "model.kind is siamese, but pretrain is for masked_lm; use"),
        (["model.kind=joined", "objective=softmax"], "model.kind is joined, but pretrain is for masked_lm; use"),
        (["data.train=nowhere.txt"], "'nowhere.txt'"),
        (["data.document_column=title"], "no column 'title'"),
        (["data.dev=null", "data.dev_share=0.0001"], "are in the other part; raise data.dev_share"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    sbert_ft: Callable[..., Said], config: Path, overrides: list[str], expected: str
) -> None:
    said = sbert_ft("pretrain", config, "--quiet", *(part for one in overrides for part in ("--set", one)))
    assert said.code == 2 and said.out == ""
    (line,) = (line for line in said.err.splitlines() if not line.startswith("warning: "))
    assert line.startswith("sbert-ft: error: ") and expected in line
    assert not (config.parent / "run").exists()


# ---------------------------------------------------------------- what other commands do with the model


def test_commands_take_the_folder_as_an_encoder(sbert_ft: Callable[..., Said], finished: Path, tmp_path: Path) -> None:
    model, texts = finished / "model", tmp_path / "texts.txt"
    texts.write_text("a man plays the guitar\na dog runs\n", encoding="utf-8")
    pairs = tmp_path / "pairs.csv"
    rows = [f"{left},{right},{i % 6}" for i, (left, right) in enumerate(zip(WORDS[:30], WORDS[30:60], strict=True))]
    pairs.write_text("\n".join(["sentence1,sentence2,score", *rows]), encoding="utf-8")
    assert sbert_ft("encode", model, texts, "-o", tmp_path / "vectors.npy").code == 0
    assert np.isfinite(np.load(tmp_path / "vectors.npy")).all() and np.load(tmp_path / "vectors.npy").shape == (2, 32)
    assert re.fullmatch(r"-?\d\.\d{4}\n", sbert_ft("score", model, "a man", "a dog").out)
    assert "spearman" in sbert_ft("evaluate", model, pairs).out
    doctor = sbert_ft("doctor", model)
    assert doctor.code == 0 and "0 WARN, 0 FAIL" in doctor.out and "of heads or pooler left out" in doctor.out


def test_a_classifier_is_not_made_of_it_by_chance(sbert_ft: Callable[..., Said], finished: Path) -> None:
    said = sbert_ft("predict", finished / "model", "a man")
    assert said.code == 2 and said.err.count("\n") == 1
    assert "holds no classifier: the architectures of its config.json are '['BertFor" in said.err


def test_fine_tuning_starts_from_it(sbert_ft: Callable[..., Said], finished: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    rows = [f"{left},{right},{i % 6}" for i, (left, right) in enumerate(zip(WORDS[:30], WORDS[30:60], strict=True))]
    pairs.write_text("\n".join(["sentence1,sentence2,score", *rows]), encoding="utf-8")
    content = {
        "model": {"path": str(finished / "model")},
        "data": {"train": str(pairs)},
        "training": {"max_steps": 1, "device": "cpu"},
        "output_dir": str(tmp_path / "tuned"),
    }
    (tmp_path / "tune.json").write_text(json.dumps(content), encoding="utf-8")
    assert sbert_ft("train", tmp_path / "tune.json", "--quiet").code == 0
    assert (tmp_path / "tuned/worst_pairs.csv").exists()
