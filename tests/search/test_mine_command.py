"""`sbert-ft mine` as a user sees it: files in, files out, what it says, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sbert_ft import SiameseBert, mine_pairs
from sbert_ft.cli import main
from sbert_ft.model_folder.decision import Calibration, Decision, FittedOn

TEXTS = [
    *("A man plays a guitar.", "a man  plays a GUITAR.", "The man is playing the guitar.", "Stock prices fell."),
    *("Share prices went down.", "A dog runs in the park.", '가나다 "so", a comma', "The dog is running outside."),
]  # fmt: skip
PAIRS = [("A man plays a guitar.", "A man is playing a guitar."), ("Stock prices fell.", "Share prices went down."),
         ("A dog runs in the park.", "The dog is running in a park."), ("It rains.", "Rain is falling.")]  # fmt: skip
FLOAT32 = ["--precision", "float32", "--device", "cpu"]


@pytest.fixture(scope="module")
def decided(minilm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a MiniLM with a threshold and a calibration."""
    folder = tmp_path_factory.mktemp("mine") / "model"
    model = SiameseBert.from_pretrained(minilm_path, "cpu", "float32")
    calibration = Calibration("platt", slope=11.67, intercept=-6.71)
    model.decision = Decision(0.6, "f1", FittedOn("dev.csv", "0" * 64, 400, 212), calibration=calibration)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def plain(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_bert_folder(tmp_path_factory.mktemp("plain") / "model"))


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a few inputs, as a user does."""
    monkeypatch.chdir(tmp_path)
    write("tickets.csv", [("key", "text"), *((f"k{i}", text) for i, text in enumerate(TEXTS))])
    write("faq.csv", [("nr", "entry"), ("f1", "Someone plays the guitar."), ("f2", "Dogs run."), ("f3", "Bread.")])
    write("pairs.csv", [("sentence1", "sentence2"), *PAIRS])
    return tmp_path


def write(name: str, rows: list[tuple[str, ...]]) -> None:
    with open(name, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def read(name: str) -> list[dict[str, str]]:
    with open(name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_pairs_are_written_best_first_and_counted(decided: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mine", decided, "tickets.csv", "--id-column", "key", "-o", "out.csv", *FLOAT32]) == 0
    rows = read("out.csv")
    assert list(rows[0]) == ["id_1", "text_1", "id_2", "text_2", "score", "probability", "exact"]
    assert [(row["id_1"], row["id_2"], row["exact"]) for row in rows][:2] == [
        ("k0", "k1", "true"),
        ("k0", "k2", "false"),
    ]
    assert {(row["id_1"], row["id_2"]) for row in rows} == {("k0", "k1"), ("k0", "k2"), ("k3", "k4"), ("k5", "k7")}
    assert (rows[0]["text_2"], rows[0]["score"], rows[0]["probability"]) == (TEXTS[1], "1.0", "1.0")
    wrong = sum(1 - float(row["probability"]) for row in rows)
    said = capsys.readouterr().err
    assert f"4 pairs (1 exact), about {wrong:.0f} wrong -> out.csv" in said
    assert "a pair: a score of at least 0.6000" in said


@pytest.mark.parametrize("suffix", ["tsv", "jsonl", "parquet"])
def test_every_format_holds_the_same(plain: str, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--threshold", "0.1", "--quiet", *FLOAT32]
    assert main(["mine", plain, "tickets.csv", "-o", f"out.{suffix}", *options]) == 0
    found = mine_pairs(SiameseBert.from_pretrained(plain, "cpu", "float32"), TEXTS, threshold=0.1)
    assert capsys.readouterr().err.startswith("warning: the model has no calibration") and len(found) > 5
    if suffix == "parquet":
        rows = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed").read_table("out.parquet")
        rows = rows.to_pylist()
    elif suffix == "jsonl":
        rows = [json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()]
    else:
        names, *cells = (line.split("\t") for line in Path("out.tsv").read_text("utf-8").splitlines())
        rows = [dict(zip(names, row, strict=True)) for row in cells]
    assert [(int(row["id_1"]), int(row["id_2"])) for row in rows] == list(
        zip(found.first.tolist(), found.second.tolist(), strict=True)
    )
    np.testing.assert_allclose([float(row["score"]) for row in rows], found.scores, atol=1e-5)


def test_the_best_are_kept_and_this_is_said(decided: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mine", decided, "tickets.csv", "-o", "out.csv", "--max-pairs", "2", "--quiet", *FLOAT32]) == 0
    assert len(read("out.csv")) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("warning: these are the best 2 of at least 4 pairs")


def test_links_between_two_files(decided: str, capsys: pytest.CaptureFixture[str]) -> None:
    columns = ["--against", "faq.csv", "--against-column", "entry", "--against-id-column", "nr", "--id-column", "key"]
    assert main(["mine", decided, "tickets.csv", *columns, "--threshold", "0.5", "-o", "out.csv", *FLOAT32]) == 0
    rows = read("out.csv")
    assert {(row["id_1"], row["id_2"]) for row in rows} >= {("k0", "f1"), ("k1", "f1"), ("k2", "f1")}
    assert {row["id_2"] for row in rows} <= {"f1", "f2"} and {"true"} <= {row["mutual"] for row in rows}
    n_alone = 8 - len({row["id_1"] for row in rows}), 3 - len({row["id_2"] for row in rows})
    assert f"without a match: {n_alone[0]} of tickets.csv, {n_alone[1]} of faq.csv" in capsys.readouterr().err


def test_groups_are_written_and_counted(decided: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mine", decided, "tickets.csv", "--id-column", "key", "--groups", "-o", "g.csv", *FLOAT32]) == 0
    rows = read("g.csv")
    assert list(rows[0]) == ["group", "id", "text", "score", "exact", "probability"]
    assert [(row["group"], row["id"]) for row in rows] == [
        *(("0", "k0"), ("0", "k1"), ("0", "k2"), ("1", "k3"), ("1", "k4"), ("2", "k5"), ("2", "k7"))
    ]
    right = {row["group"]: float(row["probability"]) for row in rows}
    wrong = sum(1 - value for value in right.values())
    assert f"3 groups, about {wrong:.0f} wrong, 1 text in none -> g.csv" in capsys.readouterr().err


def test_triplets_train_a_model_for_two_steps(decided: str, plain: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--negatives", "2", "--against", "tickets.csv", "--max-probability", "0.6"]
    assert main(["mine", decided, "pairs.csv", "--for-training", *options, "-o", "t.csv", *FLOAT32]) == 0
    rows = read("t.csv")
    assert list(rows[0]) == ["anchor", "positive", "negative"] and len(rows) == 8
    assert {(row["anchor"], row["positive"]) for row in rows} == set(PAIRS)
    suspects = read("suspects.csv")
    found = {frozenset((row["text_1"], row["text_2"])) for row in suspects}
    assert frozenset(("A man plays a guitar.", "The man is playing the guitar.")) in found
    assert frozenset(("A dog runs in the park.", "The dog is running outside.")) in found
    assert all(float(row["probability"]) > 0.6 for row in suspects)
    assert not found & {frozenset((row["anchor"], row["negative"])) for row in rows}
    assert f"8 triplets from 4 pairs, {len(suspects)} suspects in suspects.csv" in capsys.readouterr().err
    for objective in ("triplet", "in_batch_negatives"):
        run = {
            "model": {"path": plain},
            "data": {"train": "t.csv"},
            "objective": objective,
            "training": {"max_steps": 2, "batch_size": 4, "allow_unknown": True},
            "output_dir": f"run_{objective}",
        }
        Path("run.json").write_text(json.dumps(run))
        assert main(["train", "run.json", "--quiet"]) == 0, capsys.readouterr().err
        assert (Path(f"run_{objective}") / "model" / "model.safetensors").exists()


def test_single_texts_get_the_models_own_pairs_as_positives(decided: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mine", decided, "tickets.csv", "--for-training", "-o", "t.csv", "--suspects", "s.csv", *FLOAT32]) == 0
    rows = read("t.csv")
    assert ("Stock prices fell.", "Share prices went down.") in {(row["anchor"], row["positive"]) for row in rows}
    assert "the positives are the model's own matches" in capsys.readouterr().err
    assert Path("s.csv").exists() and not Path("suspects.csv").exists()


def test_only_rows_that_match_by_their_label_are_positives(decided: str) -> None:
    labels = [("1",), ("0",), ("1",), ("1",)]
    write(
        "labelled.csv", [("sentence1", "sentence2", "label"), *((*p, *n) for p, n in zip(PAIRS, labels, strict=True))]
    )
    assert main(["mine", decided, "labelled.csv", "--for-training", "-o", "t.csv", *FLOAT32]) == 0
    assert {row["anchor"] for row in read("t.csv")} == {PAIRS[i][0] for i in (0, 2, 3)}


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["tickets.csv"], "has no stored threshold from which on two texts belong together; give one with --threshold"),
        (["tickets.csv", "--column", "txt", "--threshold", ".5"], "has no column 'txt'"),
        (["empty.csv", "--threshold", ".5"], "'empty.csv': holds no text; give a file with texts"),
        (["twice.csv", "--id-column", "key", "--threshold", ".5"], "line 3: column 'key': the id 'k1' is there twice"),
        (["gap.csv", "--threshold", ".5"], "'gap.csv', line 3: column 'text': expected a text, found an empty one"),
        (["missing.csv", "--threshold", ".5"], "missing.csv"),
        (["tickets.csv", "--threshold", "7"], "expected a cosine, a number from -1 to 1"),
        (["tickets.csv", "--negatives", "2"], "--negatives is for --for-training"),
        (["tickets.csv", "--groups", "--top-k", "3"], "--top-k has no place beside --groups"),
        (["tickets.csv", "--groups", "--for-training"], "not allowed with argument --groups"),
        (["tickets.csv", "--against-column", "x"], "--against-column is for the file of --against"),
        (["pairs.csv", "--for-training", "--max-pairs", "3"], "--max-pairs has no place beside --for-training"),
        (["pairs.csv", "--for-training", "--ranks", "50,10"], "expected two ranks with the lower one first"),
        (
            ["pairs.csv", "--for-training", "--ranks", "9,50", "--threshold", ".5"],
            "from rank 9 on, but there are only 4",
        ),
        (["pairs.csv", "--for-training", "--columns", "a,b", "--threshold", ".5"], "has no column 'a'"),
        (["unlike.csv", "--for-training", "--threshold", ".5"], "'unlike.csv': no pair matches by its label"),
        (
            ["pairs.csv", "--for-training", "--max-probability", ".5", "--threshold", ".5"],
            "the model has no calibration",
        ),
        (["pairs.csv", "--for-training", "--suspects", "out.csv"], "is the file for the suspects"),
        (["pairs.csv", "--for-training", "--suspects", "pairs.csv"], "'pairs.csv': is the file that is read"),
        (["tickets.csv", "--against", "out.csv", "--threshold", ".5"], "'out.csv': is the file that is read"),
    ],
)
def test_a_wrong_input_is_one_sentence_and_nothing_is_written(
    plain: str, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write("empty.csv", [("key", "text")])
    write("twice.csv", [("key", "text"), ("k1", "a dog"), ("k1", "a cat")])
    write("gap.csv", [("key", "text"), ("k1", "a dog"), ("k2", "")])
    write("unlike.csv", [("sentence1", "sentence2", "label"), ("a dog", "a cat", "0"), ("water", "music", "0")])
    Path("out.csv").write_text("old")
    before = sorted(os.listdir())
    assert main(["mine", plain, *options, "-o", "out.csv", "--quiet"]) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("sbert-ft: error: ")]
    assert len(errors) == 1 and said in errors[0] and "Traceback" not in captured.err
    assert sorted(os.listdir()) == before and Path("out.csv").read_text() == "old"


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="the system cannot limit the size of a file")
@pytest.mark.parametrize("options", [["tickets.csv"], ["tickets.csv", "--groups"], ["pairs.csv", "--for-training"]])
def test_a_full_disk_leaves_the_old_result(plain: str, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("out.csv").write_text("old")
    before = sorted(os.listdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        code = main(
            ["mine", plain, *options, "--threshold", "-1" if "pairs.csv" not in options else "1", "-o", "out.csv"]
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, sorted(os.listdir()), Path("out.csv").read_text()) == (2, before, "old")
    assert "out.csv': cannot be written: File too large" in capsys.readouterr().err


def test_a_single_text_gives_an_empty_result(plain: str, capsys: pytest.CaptureFixture[str]) -> None:
    write("one.csv", [("key", "text"), ("k1", "a dog")])
    for options in ([], ["--groups"]):
        assert main(["mine", plain, "one.csv", *options, "--threshold", "0.5", "-o", "out.csv"]) == 0
        assert read("out.csv") == []
    said = capsys.readouterr().err
    assert "0 pairs" in said and "0 groups" in said and "the model has no calibration" in said


def test_an_exported_model_mines_without_torch(exported_path: Path) -> None:
    import subprocess
    import sys

    code = f"""
import sys
from sbert_ft.cli import main
argv = ["mine", {str(exported_path)!r}, "tickets.csv", "--engine", "onnxruntime", "--threshold", "0.5", "--quiet"]
codes = [main([*argv, "-o", "out.csv"]), main([*argv, "--groups", "-o", "groups.csv"])]
print(codes, "torch" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == "[0, 0] False", ended.stderr
