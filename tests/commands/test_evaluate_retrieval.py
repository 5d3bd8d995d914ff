"""`sbert-ft evaluate --queries --corpus --relevant` as a user sees it, with real weights, and without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sbert_ft.cli import main

QUERIES = "id,query\nq1,How do I get my money back?\nq2,Where is my parcel?\nq3,Can I pay by card?\nq4,nothing\n"
CORPUS = (
    "id,text\nd1,Refunds are paid within five days.\nd2,Track your delivery with the number in our mail.\n"
    "d3,We accept all credit cards.\nd4,Our shop opens at nine.\nd5,Jobs at our company\nd6,A dog runs in the park.\n"
    "d7,The weather is fine today.\nd8,She plays the guitar.\nd9,Rain is expected.\nd10,He cooks soup.\nd11,Blue car\n"
)
RELEVANT = "query_id,corpus_id,score\nq1,d1,2\nq2,d2,1\nq3,d3,1\nq3,d1,1\n"
OPTIONS = ("--device", "cpu", "--precision", "float32", "--samples", "50")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    arguments = []
    for name, text in (("queries", QUERIES), ("corpus", CORPUS), ("relevant", RELEVANT)):
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
        arguments += [f"--{name}", str(tmp_path / f"{name}.csv")]
    return arguments


@pytest.fixture(scope="module")
def folder(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("other") / "model")


def evaluate(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command and return its exit code, standard output and standard error."""
    capsys.readouterr()
    code = main(["evaluate", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_model_is_compared_with_another_one(
    capsys: pytest.CaptureFixture[str], minilm_path: Path, folder: Path, files: list[str]
) -> None:
    against = [minilm_path, *files, "--against", folder, *OPTIONS]
    code, out, err = evaluate(capsys, *against, "--json", "--quiet")
    assert (code, err) == (0, "")
    report: dict[str, Any] = json.loads(out)
    assert report["data"]["n"] == 3 and report["data"]["n_texts"] == 11 and report["data"]["n_relevant"] == 4
    assert report["metrics"]["mrr@10"]["value"] == 1.0
    assert report["metrics"]["recall@1"]["value"] == pytest.approx(2.5 / 3)
    assert report["metrics"]["recall@100"]["value"] is None
    for name, change in report["difference"].items():
        values = [report[part][name]["value"] for part in ("metrics", "against_metrics")]
        assert change["value"] is None or change["value"] == pytest.approx(values[0] - values[1])
    assert report["worst_queries"] == []
    code, out, err = evaluate(capsys, *against)
    assert code == 0 and out.startswith(
        "3 queries, searched in 11 texts, with 4 relevant texts in all; 1 query without a relevant text left out\n"
    )
    assert "nDCG@10" in out and "OTHER" in out and "worst queries" not in out


def test_the_worst_queries_are_shown_with_what_was_found_in_place(
    capsys: pytest.CaptureFixture[str], minilm_path: Path, files: list[str]
) -> None:
    relevant = Path(files[-1])
    relevant.write_text("query_id,corpus_id\nq1,d11\nq2,d2\n", encoding="utf-8")
    code, out, _ = evaluate(capsys, minilm_path, *files, *OPTIONS)
    assert code == 0
    lines = out.splitlines()
    at = lines.index("worst queries (1 of 1 in --json)")
    assert lines[at + 1] == "  line 2, 'q1': 'How do I get my money back?'"
    assert lines[at + 2].startswith("    relevant, rank ") and lines[at + 2].endswith(": 'Blue car'")
    assert lines[at + 3].startswith("    not relevant, ") and "Refunds are paid" in lines[at + 3]


def test_prompts_of_queries_and_documents_are_put_before_them(
    capsys: pytest.CaptureFixture[str], minilm_path: Path, tmp_path: Path, files: list[str]
) -> None:
    from sbert_ft import SiameseBert

    model = SiameseBert.from_pretrained(minilm_path, "cpu", "float32")
    model.prompts = {"query": "jobs at our company: ", "document": ""}
    model.save_pretrained(tmp_path / "model")
    _, plain, _ = evaluate(capsys, minilm_path, *files, *OPTIONS, "--json")
    code, prompted, _ = evaluate(capsys, tmp_path / "model", *files, *OPTIONS, "--json")
    assert code == 0
    assert json.loads(prompted)["metrics"]["mrr@10"]["value"] < json.loads(plain)["metrics"]["mrr@10"]["value"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--queries", "q.csv"], "a search needs --corpus and --relevant too; give --queries, --corpus and --relevant"),
        ([], "there is nothing to evaluate on; give DATA, or --queries, --corpus and --relevant"),
        (["data.csv", "--query-columns", "a,b"], "--query-columns is for a search; give --queries"),
        (["FILES", "--label-column", "x"], "--label-column is for rows of DATA, and a search is evaluated; leave it"),
        (["data.csv", "FILES"], "'data.csv' is given beside --queries; evaluate them one by one"),
        (["FILES", "--corpus-columns", "id"], "--corpus-columns is 'id', expected 2 names"),
        (["FILES", "--corpus-columns", "id,body"], "has no column 'body'"),
        (["FILES", "--relevant-columns", "a,b,c,d"], "--relevant-columns is 'a,b,c,d', expected 2 or 3 names"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, files: list[str], options: list[str], message: str
) -> None:
    given = [part for option in options for part in (files if option == "FILES" else [option])]
    code, out, err = evaluate(capsys, tmp_path / "model", *given)
    assert (code, out) == (2, "") and message in err and "Traceback" not in err
    assert err.count("\n") == 1


def test_an_exported_model_is_judged_without_torch(exported_path: Path, files: list[str]) -> None:
    arguments = ["evaluate", str(exported_path), *files, "--samples", "20", "--engine", "onnxruntime"]
    program = (
        "import sys; from sbert_ft.cli import main\n"
        f"assert main({arguments!r}) == 0\n"
        "assert not {'torch', 'transformers', 'scipy', 'sklearn'} & set(sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert "nDCG@10" in told.stdout
