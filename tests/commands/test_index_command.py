"""`sbert-ft index` and `sbert-ft search` as a user sees them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from warm import WarmProcess

from sbert_ft.commands import index as command
from sbert_ft.commands import search
from sbert_ft.model_folder.decision import Calibration, Decision, FittedOn
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.search.approximate import METHODS
from sbert_ft.search.index_writer import HIT_COLUMNS
from sbert_ft.search.manifest import INDEX_VECTORS

pytest.importorskip("pyarrow", reason="the Parquet extra is not installed")

FAQ = """\
key,question,lang
a,How do I reset my password?,en
b,Where is my order?,en
c,Kann ich mit Karte zahlen?,de
"""
FAST = ("--device", "cpu", "--precision", "float32", "--quiet")


@pytest.fixture(scope="module")
def decided(minilm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the MiniLM with a threshold and a calibration; not to be changed."""
    model = SiameseBert.from_pretrained(minilm_path, "cpu", "float32")
    fitted = FittedOn("dev.csv", "0" * 64, 10, 5)
    model.decision = Decision(0.6, "f1", fitted, calibration=Calibration("platt", slope=10.0, intercept=-6.0))
    folder = tmp_path_factory.mktemp("decided") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def faq(warm: WarmProcess, decided: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index of FAQ; not to be changed."""
    folder = tmp_path_factory.mktemp("faq")
    (folder / "faq.csv").write_text(FAQ)
    path = folder / "faq.index"
    done = warm.command("index", decided, folder / "faq.csv", "--id-column", "key", "--keep", "lang", "-o", path, *FAST)
    assert (done.code, done.err) == (0, "")
    return path


def test_names_are_those_of_the_library() -> None:
    assert command._METHODS == METHODS and command._VECTOR_TYPES == INDEX_VECTORS
    assert all(name in search._EPILOG for name in HIT_COLUMNS)


def test_a_question_prints_its_hits_and_whether_any_matches(warm: WarmProcess, faq: Path) -> None:
    done = warm.command("search", faq, "I forgot my password", "-k", "2", *FAST)
    head, first, second = done.out.splitlines()
    assert (done.code, done.err) == (0, "")
    assert head.split() == ["score", "probability", "match", "id", "text"]
    assert first.split(maxsplit=4)[2:] == ["yes", "a", "How do I reset my password?"]
    assert second.split()[2] == "no"
    done = warm.command("search", faq, "the weather in Oslo", *FAST)
    assert done.out.splitlines()[-1] == "nothing here matches" and len(done.out.splitlines()) == 5
    done = warm.command("search", faq, "password", "--where", "lang=de", *FAST)
    assert [line.split()[3] for line in done.out.splitlines()[1:-1]] == ["c"]
    done = warm.command("search", faq, "password", "--where", "lang=fr", *FAST)
    assert (done.code, done.out) == (0, "no row of the index has these values\n")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_questions_of_a_file_get_ranked_hits(warm: WarmProcess, faq: Path, tmp_path: Path, suffix: str) -> None:
    (tmp_path / "q.csv").write_text("number,question\n7,I forgot my password\n8,Wo ist mein Paket?\n")
    out = tmp_path / f"hits.{suffix}"
    done = warm.command("search", faq, tmp_path / "q.csv", "--id-column", "number", "-k", "2", "-o", out, *FAST[:-1])
    assert done.code == 0 and "2 texts, " in done.err and ", 4 hits, nothing matches 1 of them -> " in done.err
    if suffix == "csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(out.read_text("utf-8").splitlines()))
    elif suffix == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(out).to_pylist()
    assert list(rows[0]) == [*HIT_COLUMNS, "lang"]
    assert [(row["query_id"], str(row["rank"]), str(row["match"]).lower()) for row in rows] == [
        *[("7", "1", "true"), ("7", "2", "false"), ("8", "1", "false"), ("8", "2", "false")]
    ]
    assert (rows[0]["id"], rows[0]["text"], rows[0]["lang"]) == ("a", "How do I reset my password?", "en")
    assert 0 < float(rows[0]["probability"]) < 1


def test_rows_are_added_and_the_moved_model_is_found(warm: WarmProcess, decided: Path, tmp_path: Path) -> None:
    model, path = tmp_path / "model", tmp_path / "a.index"
    model.symlink_to(decided)
    (tmp_path / "a.txt").write_text("a dog\nthe water\n")
    done = warm.command("index", model, tmp_path / "a.txt", "-o", path, "--vectors", "float16", *FAST)
    assert (done.code, done.err) == (0, "")
    done = warm.command("index", model, tmp_path / "a.txt", "-o", path, "--add", *FAST[:-1])
    assert done.code == 0 and ", 4 in the index, exact -> " in done.err
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"model_path": str(tmp_path / "gone")}))
    done = warm.command("search", path, "a puppy", "-k", "1", *FAST)
    assert done.code == 2 and "its model, '" in done.err and "give the model's folder with --model" in done.err
    done = warm.command("search", path, "a puppy", "-k", "2", "--model", decided, *FAST)
    assert done.code == 0 and [line.split()[3] for line in done.out.splitlines()[1:3]] == ["0", "2"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("search", "FAQ", "x", "-k", "9"), "k is 9, but the index has 3 rows; ask for at most as many"),
        (("search", "FAQ", "x", "--where", "year=1"), "has no column 'year' to choose by; it has: 'lang'"),
        (("search", "FAQ", "x", "--where", "lang"), "--where 'lang' is no condition; write it as NAME=VALUE"),
        (("search", "FAQ", ""), "the question is empty; give a text that is not empty"),
        (("search", "FAQ", "empty.csv"), "'empty.csv': is a file; give -o OUT"),
        (("search", "FAQ", "hole.csv", "-o", "out.csv"), "column 'question': expected a text, found an empty one"),
        (("search", "FAQ", "x", "--column", "y"), "--column is for a file of questions, but one was given: 'x'"),
        (("search", "FAQ", "hole.csv", "-o", "out.npy"), "cannot tell what to write from the suffix '.npy'"),
        (("search", "no.index", "x"), "'no.index' is not a search index: expected a folder, found nothing"),
        (("search", "FAQ", "x", "--model", "OTHER"), "has the vectors of another model than"),
        (("index", "MODEL", "empty.csv", "-o", "new.index"), "empty.csv': holds no row; expected at least one text"),
        (("index", "MODEL", "hole.csv", "-o", "new.index"), "expected a text, found an empty one"),
        (("index", "MODEL", "twice.csv", "--id-column", "key", "-o", "new.index"), "the id 'a' is there twice"),
        (("index", "MODEL", "twice.csv", "--set", "lists", "-o", "new.index"), "--set 'lists' is no parameter"),
        (("index", "MODEL", "twice.csv", "--set", "lists=3", "-o", "new.index"), "exact has no parameter 'lists'"),
        (("index", "MODEL", "twice.csv", "--keep", "key", "--add", "-o", "FAQ"), "the index has the other columns"),
        (("index", "MODEL", "twice.csv", "--method", "exact", "--add", "-o", "FAQ"), "--method is that of the index"),
        (("index", "MODEL", "twice.csv", "-o", "twice.csv"), "exists and is not a search index"),
        (("index", "MODEL", "twice.csv", "-o", "no/new.index"), "does not exist; make it first"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    warm: WarmProcess,
    faq: Path,
    decided: Path,
    tmp_path: Path,
    tiny_bert_folder: object,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    files = {"empty.csv": "question\n", "hole.csv": 'question\n"x"\n""\n', "twice.csv": "key,question\na,x\na,y\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    if "OTHER" in arguments:
        tiny_bert_folder(tmp_path / "other")  # type: ignore[operator]
    names = {"FAQ": faq, "MODEL": decided, "OTHER": tmp_path / "other"}
    before = {file.name for file in faq.iterdir()}
    inside = {file.name for file in tmp_path.iterdir()}
    code = "import os, sys; from sbert_ft.cli import main; os.chdir(sys.argv[1]); sys.exit(main(sys.argv[2:]))"
    done = warm.script(code, tmp_path, *[names.get(argument, argument) for argument in arguments], *FAST)
    assert (done.code, done.out) == (2, "")
    assert said in done.err and done.err.count("\n") == 1
    assert ({file.name for file in faq.iterdir()}, {file.name for file in tmp_path.iterdir()}) == (before, inside)
