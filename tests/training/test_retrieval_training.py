"""A run that is evaluated by a search: real weights, the best step by nDCG, the report, a resumed run."""

from __future__ import annotations

import csv
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from sbert_ft import ConnectionDataset, SiameseBert, fine_tune
from sbert_ft.config.settings import DataSettings, EvaluationSettings, ModelSettings, RunSettings, TrainingSettings
from sbert_ft.data.retrieval import RetrievalFiles, read_retrieval
from sbert_ft.errors import DataError, InputError, RunFolderError
from sbert_ft.evaluation.retrieval_evaluator import RetrievalEvaluator
from sbert_ft.training.run import FineTuneResult

TOPICS = ("dogs", "music", "rain", "soup", "cars", "books")
QUERIES = [(f"q{i}", f"tell me about {topic}") for i, topic in enumerate(TOPICS)]
CORPUS = [(f"d{i}{n}", f"{n} notes on {topic}") for n in range(4) for i, topic in enumerate(TOPICS)]
# what is asked for is the third note, which no model can guess from the words
RELEVANT = [(f"q{i}", f"d{i}2") for i in range(len(TOPICS))]
TRAIN = [(f"tell me about {topic}", f"2 notes on {topic}", 1) for topic in TOPICS] + [
    (f"tell me about {topic}", f"{n} notes on {topic}", 0) for n in (0, 1, 3) for topic in TOPICS
]


def write(path: Path, *rows: tuple[object, ...]) -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def files_in(folder: Path) -> dict[str, str]:
    return {
        "queries": write(folder / "queries.csv", ("id", "query"), *QUERIES, ("q9", "nothing")),
        "corpus": write(folder / "corpus.csv", ("id", "text"), *CORPUS),
        "relevant": write(folder / "relevant.csv", ("query_id", "corpus_id"), *RELEVANT),
    }


def tuned(
    minilm: Path, folder: Path, files: dict[str, str], on_existing: str = "error", **options: Any
) -> FineTuneResult:
    train = write(folder / "train.csv", ("sentence1", "sentence2", "label"), *TRAIN)
    settings = {"max_steps": 6, "epochs": 2, "batch_size": 8, "eval_steps": 2, "learning_rate": 1e-4} | options
    return fine_tune(
        SiameseBert.from_pretrained(minilm, "cpu", "float32"),
        train,
        settings.pop("dev", None),
        output_dir=folder / "run",
        objective="cosine",
        training=TrainingSettings(**settings, precision="float32"),
        evaluation=EvaluationSettings(bootstrap_samples=20),
        retrieval=files,
        on_existing=on_existing,
    )


@pytest.fixture(scope="module")
def finished(minilm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> FineTuneResult:
    folder = tmp_path_factory.mktemp("retrieval")
    dev = write(folder / "dev.csv", ("sentence1", "sentence2", "label"), *TRAIN[:4], *TRAIN[-4:])
    return tuned(minilm_path, folder, files_in(folder), metric="ndcg@10", dev=dev)


def test_the_best_step_is_the_one_with_the_best_ndcg(finished: FineTuneResult) -> None:
    lines = [json.loads(line) for line in (finished.folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    found = {line["step"]: line for line in lines if line["kind"] == "eval"}
    assert list(found) == [2, 4, 6]
    assert all(line["split"] == "dev and retrieval" for line in found.values())
    assert all({"ndcg@10", "mrr@10", "average_precision"} == set(line["metrics"]) for line in found.values())
    values = {step: line["metrics"]["ndcg@10"] for step, line in found.items()}
    best = finished.metrics["best"]
    assert best == {"step": max(values, key=values.__getitem__), "metric": "ndcg@10", "value": max(values.values())}
    entry = finished.metrics["splits"]["retrieval"]
    assert entry["after"]["ndcg@10"]["value"] == pytest.approx(best["value"])
    change = entry["difference"]["ndcg@10"]
    assert change["value"] == pytest.approx(best["value"] - entry["before"]["ndcg@10"]["value"])
    assert change["value"] > 0.1 and change["low"] <= change["value"] <= change["high"]
    assert entry["n"] == 6 and entry["n_without"] == 1 and list(finished.metrics["splits"]) == ["dev", "retrieval"]
    assert finished.metrics["decision"] is not None  # the threshold is that of dev, as always


def test_the_saved_model_has_the_metrics_of_the_run(
    finished: FineTuneResult, capsys: pytest.CaptureFixture[str]
) -> None:
    from sbert_ft.cli import main

    files = [
        part for what in ("queries", "corpus", "relevant") for part in (f"--{what}", f"{finished.folder}/../{what}.csv")
    ]
    options = ("--device", "cpu", "--precision", "float32", "--json", "--quiet", "--samples", "5")
    assert main(["evaluate", str(finished.model_dir), *files, *options]) == 0
    shown = json.loads(capsys.readouterr().out)["metrics"]
    expected = finished.metrics["splits"]["retrieval"]["after"]
    assert {name: score["value"] for name, score in shown.items()} == {
        name: pytest.approx(score["value"]) for name, score in expected.items()
    }


def test_the_report_has_the_search_and_its_worst_queries(finished: FineTuneResult) -> None:
    text = (finished.folder / "report.md").read_text("utf-8")
    assert re.search(r"^\*\*\w.*on retrieval \(6 queries\) the nDCG@10 (rose|went) from", text, re.MULTILINE)
    assert "The best step was also chosen on retrieval" in text and "On dev the difference is" in text
    assert re.search(r"\*\*retrieval: 6 queries of .*queries.csv", text)
    assert re.search(r"^\| nDCG@10 \| 0\.\d{4} \[", text, re.MULTILINE)
    assert "1 query without a relevant text left out" in text
    assert "on the same resampled pairs and queries" in text
    assert "**On dev and retrieval during training**" in text
    page = (finished.folder / "report.html").read_text("utf-8")
    with (finished.folder / "worst_queries.csv").open(encoding="utf-8", newline="") as file:
        worst = list(csv.DictReader(file))
    assert "nDCG@10 on retrieval" in page and 'id="queries"' in page
    assert ("Every query has a relevant text in the first place." in page) == (not worst)
    for row in worst:
        assert int(row["after"]) > 1 and row["right"] in page and row["wrong"] in page
        assert dict(RELEVANT)[row["query_id"]] == row["right_id"] != row["wrong_id"]


def test_a_finished_run_is_not_resumed_with_another_corpus(
    minilm_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sbert_ft")
    files = files_in(tmp_path)
    result = tuned(minilm_path, tmp_path, files, max_steps=1, eval_steps=1)  # without dev, ndcg@10 chooses
    assert result.metrics["best"]["metric"] == "ndcg@10"
    assert "retrieval: 6 queries, 24 texts; left out, as they have no relevant text: 1" in caplog.text
    assert "step 1: retrieval ndcg@10" in caplog.text
    assert not any("was not evaluated" in warning for warning in result.metrics["warnings"])
    moved = {what: str(Path(path).rename(tmp_path / f"moved_{what}.csv")) for what, path in files.items()}
    assert tuned(minilm_path, tmp_path, moved, "resume", max_steps=1, eval_steps=1).was_finished
    write(Path(moved["corpus"]), ("id", "text"), *CORPUS, ("d9", "another"))
    with pytest.raises(RunFolderError, match=r"data\.retrieval\.sha256 was"):
        tuned(minilm_path, tmp_path, moved, "resume", max_steps=1, eval_steps=1)


def test_an_evaluation_stops_after_a_signal(minilm_path: Path, tmp_path: Path) -> None:
    train = ConnectionDataset([*TRAIN])
    settings = RunSettings(ModelSettings("m"), DataSettings("t"), "o")
    data = read_retrieval(RetrievalFiles(**files_in(tmp_path)))
    evaluator = RetrievalEvaluator.of({"train": train}, data, settings)
    model = SiameseBert.from_pretrained(minilm_path, "cpu", "float32")
    asked: list[bool] = []

    def stopped() -> bool:
        asked.append(len(asked) >= 1)  # after the queries, before the corpus
        return asked[-1]

    assert evaluator.metric == "ndcg@10"
    assert evaluator.evaluate(model, stopped) is None and asked == [False, True]
    found = evaluator.evaluate(model, lambda: False)
    assert found is not None and list(found) == ["ndcg@10", "mrr@10"]


def test_what_cannot_be_judged_is_refused_before_training(minilm_path: Path, tmp_path: Path) -> None:
    files = files_in(tmp_path)
    with pytest.raises(InputError, match=r"training\.metric is recall@100, but .* has only 24 texts, so every ranking"):
        tuned(minilm_path, tmp_path, files, metric="recall@100")
    write(Path(files["relevant"]), ("query_id", "corpus_id"), ("q0", "d99"))
    with pytest.raises(DataError, match="the id 'd99' is not in"):
        tuned(minilm_path, tmp_path, files)
    assert not (tmp_path / "run").exists()
