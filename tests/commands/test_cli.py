"""The command line as a user sees it: its files, messages and exit codes, and that no partial file is left."""

from __future__ import annotations

import csv
import errno
import fcntl
import json
import os
import pty
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from warm import Ended, WarmProcess

from sbert_ft import SiameseBert, cli
from sbert_ft._version import __version__
from sbert_ft.cli import main
from sbert_ft.commands import options, output
from sbert_ft.encoder.devices import PRECISIONS
from sbert_ft.engines.choice import EngineChoice
from sbert_ft.errors import OutputError
from sbert_ft.files import atomic
from sbert_ft.model_folder.decision import Calibration, Decision, FittedOn
from sbert_ft.models.inference import OnTruncate

pa = pytest.importorskip("pyarrow", reason="the Parquet extra is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="the Parquet extra is not installed")

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["A man plays a guitar.", "a dog, running", 'the "red" car', "a dog, running", "NA", "007", "music"]
PAIRS = [(text, TEXTS[(i + 2) % len(TEXTS)]) for i, text in enumerate(TEXTS)]
FLOAT32 = ["--precision", "float32", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(folder, device="cpu", precision="float32")


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a few inputs, as a user does."""
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "texts.txt", TEXTS)
    with open("pairs.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("key", "sentence1", "sentence2"), *((f"k{i}", *pair) for i, pair in enumerate(PAIRS))])
    return tmp_path


def write_lines(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return path


def environment(**changes: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **changes}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "sbert_ft", *map(str, arguments)]


def run(*arguments: object, **changes: str) -> Ended:
    """Run the command in a whole process of its own."""
    done = subprocess.run(
        command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, env=environment(**changes), check=False
    )
    return Ended(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def vectors_of(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    return np.stack(pq.read_table(path)["vector"].to_numpy(zero_copy_only=False))


# ---------------------------------------------------------------- encode


def test_real_model_in_a_process_of_its_own_writes_what_encode_returns(minilm_path: Path, inside: Path) -> None:
    done = run("encode", minilm_path, "texts.txt", "-o", "vectors.npy", *FLOAT32, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    written = np.load("vectors.npy", mmap_mode="r")
    assert (written.shape, written.dtype) == ((len(TEXTS), 384), np.float32)
    expected = SiameseBert.from_pretrained(minilm_path, device="cpu", precision="float32").encode(TEXTS)
    np.testing.assert_allclose(written, expected, atol=5e-6)


def as_text_lines(path: Path) -> list[str]:
    write_lines(path / "in.txt", TEXTS)
    return ["in.txt"]


def as_csv(path: Path) -> list[str]:
    with open(path / "in.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "body", "other"), *((i, text, "x") for i, text in enumerate(TEXTS))])
    return ["in.csv", "--column", "body"]


def as_semicolons_in_cp949(path: Path) -> list[str]:
    rows = ["text;한글", *('"' + text.replace('"', '""') + '";가' for text in TEXTS)]
    (path / "in.csv").write_bytes("".join(f"{row}\r\n" for row in rows).encode("cp949"))
    return ["in.csv", "--encoding", "cp949", "--delimiter", "semicolon"]


def as_tsv(path: Path) -> list[str]:
    write_lines(path / "in.data", ["text\tother", *(f"{text}\tx" for text in TEXTS)])
    return ["in.data", "--format", "tsv"]


def as_jsonl(path: Path) -> list[str]:
    write_lines(path / "in.jsonl", [json.dumps({"n": 1, "text": text}) for text in TEXTS])
    return ["in.jsonl"]


def as_parquet(path: Path) -> list[str]:
    pq.write_table(pa.table({"n": range(len(TEXTS)), "body": TEXTS}), path / "in.parquet")
    return ["in.parquet", "--column", "body"]


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize(
    "build", [as_text_lines, as_csv, as_semicolons_in_cp949, as_tsv, as_jsonl, as_parquet], ids=lambda f: f.__name__
)
def test_every_format_becomes_the_vectors_that_encode_returns(
    folder: Path, model: SiameseBert, inside: Path, build: Callable[[Path], list[str]], suffix: str
) -> None:
    given = build(inside)
    before = names(inside)
    assert main(["encode", str(folder), *given, "-o", f"out{suffix}", *FLOAT32]) == 0
    assert names(inside) == sorted([*before, f"out{suffix}"])
    written = vectors_of(inside / f"out{suffix}")
    assert written.dtype == np.float32
    np.testing.assert_allclose(written, model.encode(TEXTS), atol=1e-6)


def test_parquet_holds_row_numbers_and_vectors_of_fixed_size(folder: Path, inside: Path) -> None:
    assert main(["encode", str(folder), "texts.txt", "-o", "out.parquet"]) == 0
    table = pq.read_table("out.parquet")
    assert table.schema.names == ["id", "vector"]
    assert (table.schema.types[0], table["id"].to_pylist()) == (pa.int64(), list(range(len(TEXTS))))
    assert (table.schema.types[1].list_size, table.schema.types[1].value_type) == (32, pa.float32())


@pytest.mark.parametrize("ids", [["b", "가", "007", "a b", "x", "y", "z"], [5, 3, 2**60, 0, -1, 7, 8]])
def test_ids_come_from_their_column_in_the_order_of_the_texts(folder: Path, inside: Path, ids: list[object]) -> None:
    rows = [json.dumps({"key": key, "text": text}) for key, text in zip(ids, TEXTS, strict=True)]
    write_lines(inside / "in.jsonl", rows)
    assert main(["encode", str(folder), "in.jsonl", "--id-column", "key", "-o", "out.parquet"]) == 0
    assert pq.read_table("out.parquet")["id"].to_pylist() == list(map(str, ids))


def test_ids_stay_with_their_texts_across_windows(folder: Path, model: SiameseBert, inside: Path) -> None:
    texts = [f"dog {i % 97}" for i in range(9000)]
    write_lines(inside / "in.tsv", ["key\ttext", *(f"k{i}\t{text}" for i, text in enumerate(texts))])
    arguments = ["in.tsv", "--id-column", "key", "-o", "out.parquet", *FLOAT32]
    assert main(["encode", str(folder), *arguments]) == 0
    assert pq.read_metadata("out.parquet").num_row_groups == 2
    assert pq.read_table("out.parquet")["id"].to_pylist() == [f"k{i}" for i in range(9000)]
    written = vectors_of(inside / "out.parquet")
    distinct = model.encode(texts[:97])
    np.testing.assert_allclose(written, distinct[np.arange(9000) % 97], atol=5e-6)


def test_options_do_what_the_arguments_of_encode_do(folder: Path, model: SiameseBert, inside: Path) -> None:
    long_text = " ".join(["guitar"] * 30)
    write_lines(inside / "long.txt", [*TEXTS, long_text])
    given = ["--normalize", "--truncate-dim", "8", "--max-seq-length", "16", "--on-truncate", "chunk"]
    arguments = ["long.txt", "-o", "out.npy", *FLOAT32, *given, "--batch-size", "3"]
    assert main(["encode", str(folder), *arguments]) == 0
    short = SiameseBert(model.bert, max_seq_length=16)
    expected = short.encode([*TEXTS, long_text], normalize_embeddings=True, truncate_dim=8, on_truncate="chunk")
    np.testing.assert_allclose(np.load("out.npy"), expected, atol=1e-6)


def test_prompt_is_put_before_each_text(
    tiny_bert_folder: Callable[..., Path], inside: Path, model: SiameseBert, folder: Path
) -> None:
    prompted = tiny_bert_folder(inside / "prompted")
    (prompted / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}])
    )
    settings = {"prompts": {"query": "dog: "}, "default_prompt_name": None}
    (prompted / "config_sentence_transformers.json").write_text(json.dumps(settings))
    arguments = ["texts.txt", "-o", "out.npy", *FLOAT32, "--prompt-name", "query"]
    assert main(["encode", str(prompted), *arguments]) == 0
    np.testing.assert_allclose(np.load("out.npy"), model.encode([f"dog: {text}" for text in TEXTS]), atol=1e-6)


def test_standard_input_is_read_as_lines(warm: WarmProcess, folder: Path, model: SiameseBert, inside: Path) -> None:
    given = "\ufeff" + "".join(f"{text}\r\n" for text in TEXTS).removesuffix("\r\n")
    done = warm.command("encode", folder, "-", "-o", "out.npy", *FLOAT32, stdin=given.encode())
    assert (done.code, done.out) == (0, ""), done.err
    np.testing.assert_allclose(np.load("out.npy"), model.encode(TEXTS), atol=1e-6)
    device, pace = done.err.splitlines()
    assert device.startswith("bert on cpu (")
    assert pace.startswith("7 texts, ") and pace.endswith(" s -> out.npy")
    assert "\r" not in done.err and "\x1b" not in done.err


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_a_header_alone_gives_a_result_without_rows(
    folder: Path, inside: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(inside / "empty.csv", ["id,text"])
    assert main(["encode", str(folder), "empty.csv", "-o", f"out{suffix}"]) == 0
    assert "warning: 'empty.csv' holds no text" in capsys.readouterr().err
    if suffix == ".npy":
        assert np.load("out.npy").shape == (0, 32)
    else:
        assert pq.read_table("out.parquet").num_rows == 0


@pytest.mark.parametrize("n_rows", [0, 1, 3, 12_345])
def test_npy_header_is_patched_in_place(tmp_path: Path, n_rows: int) -> None:
    from sbert_ft.commands.encode import npy_writer

    vectors = np.arange(n_rows * 5, dtype=np.float32).reshape(n_rows, 5)
    with npy_writer(tmp_path / "v.npy", 5) as append:
        for begin in range(0, n_rows, 1000):
            append(vectors[begin : begin + 1000])
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), vectors)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy", mmap_mode="r" if n_rows else None), vectors)


# ---------------------------------------------------------------- score


def test_two_texts_give_their_cosine_with_four_decimals(
    minilm_path: Path, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = "A man plays a guitar.", "Someone makes music."
    assert main(["score", str(minilm_path), *texts, *FLOAT32, "--quiet"]) == 0
    expected = SiameseBert.from_pretrained(minilm_path, device="cpu", precision="float32").score([texts])
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"{expected[0]:.4f}\n", "")


def test_scores_stand_beside_rows_that_are_byte_for_byte_the_same(
    folder: Path, model: SiameseBert, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", str(folder), "pairs.csv", "-o", "out.csv", *FLOAT32]) == 0
    rows, scored = (Path(name).read_bytes().decode().split("\n")[:-1] for name in ("pairs.csv", "out.csv"))
    assert [line.rpartition(",")[0] for line in scored] == rows
    written = [line.rpartition(",")[2] for line in scored]
    assert written[0] == "score"
    np.testing.assert_allclose(np.array(written[1:], np.float32), model.score(PAIRS), atol=1e-6)
    pace = capsys.readouterr().err.splitlines()[-1]
    assert pace.startswith("7 pairs, ") and " pairs a second, " in pace and " on average (" in pace


@pytest.mark.parametrize("target", ["out.tsv", "out.jsonl", "out.parquet"])
def test_scores_can_go_to_another_format_under_another_name(
    folder: Path, model: SiameseBert, inside: Path, target: str
) -> None:
    arguments = ["pairs.csv", "-o", target, "--name", "cosine", "--columns", "sentence2,key", *FLOAT32]
    assert main(["score", str(folder), *arguments]) == 0
    if target.endswith(".tsv"):
        lines = [line.split("\t") for line in Path(target).read_text("utf-8").splitlines()]
        columns = {line[0]: list(line[1:]) for line in zip(*lines, strict=True)}
    elif target.endswith(".jsonl"):
        objects = [json.loads(line) for line in Path(target).read_text("utf-8").splitlines()]
        columns = {name: [row[name] for row in objects] for name in objects[0]}
    else:
        columns = pq.read_table(target).to_pydict()
    assert list(columns) == ["key", "sentence1", "sentence2", "cosine"]
    assert list(zip(columns["sentence1"], columns["sentence2"], strict=True)) == PAIRS
    expected = model.score([(pair[1], f"k{i}") for i, pair in enumerate(PAIRS)])
    np.testing.assert_allclose(np.array(columns["cosine"], np.float32), expected, atol=1e-6)


def test_text_that_names_a_file_is_said_to_be_a_text(
    folder: Path, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", str(folder), "texts.txt", "music"]) == 0
    assert "warning: 'texts.txt' is scored as a text" in capsys.readouterr().err


def test_unknown_words_are_warned_of(folder: Path, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(folder), "한국어 문장", "다른 문장", "--quiet"]) == 0
    assert "warning: 100.0 % of the texts' tokens are unknown" in capsys.readouterr().err


# ---------------------------------------------------------------- score, with a model that has a decision


@pytest.fixture(scope="module")
def deciding(model: SiameseBert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of the same model with a decision by which some of PAIRS match."""
    threshold = float(np.sort(model.score(PAIRS))[3])
    calibration = Calibration("platt", slope=6.0, intercept=-3.0)
    fitted_on = FittedOn("dev.csv", "0" * 64, 40, 20)
    decider = SiameseBert(model.bert)
    decider.decision = Decision(threshold, "f1", fitted_on, calibration=calibration)
    target = tmp_path_factory.mktemp("deciding") / "model"
    decider.save_pretrained(target)
    return target


@pytest.mark.parametrize("target", ["out.csv", "out.tsv", "out.jsonl", "out.parquet"])
def test_a_model_with_a_decision_adds_probability_and_match(
    deciding: Path, inside: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score", str(deciding), "pairs.csv", "-o", target, "--name", "cosine", *FLOAT32]) == 0
    columns = columns_of(inside / target)
    assert list(columns) == ["key", "sentence1", "sentence2", "cosine", "probability", "match"]
    decider = SiameseBert.from_pretrained(deciding, device="cpu", precision="float32")
    for name, expected in (("cosine", decider.score(PAIRS)), ("probability", decider.predict_proba(PAIRS))):
        np.testing.assert_allclose(np.array(columns[name], np.float32), expected, atol=1e-6)
    assert [str(value).lower() for value in columns["match"]] == [str(m).lower() for m in decider.match(PAIRS)]
    if target.endswith(("jsonl", "parquet")):
        assert {type(value) for value in columns["match"]} == {bool}
    said = capsys.readouterr().err
    assert "match: a score of at least 0." in said and "(chosen for f1 on 40 pairs)" in said
    assert said.splitlines()[-1].partition(" -> ")[0].endswith(" 4 match")


def columns_of(path: Path) -> dict[str, list[object]]:
    if path.suffix == ".parquet":
        found: dict[str, list[object]] = pq.read_table(path).to_pydict()
        return found
    lines = path.read_text("utf-8").splitlines()
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in lines]
        return {name: [row[name] for row in rows] for name in rows[0]}
    cells = csv.reader(lines) if path.suffix == ".csv" else (line.split("\t") for line in lines)
    return {column[0]: list(column[1:]) for column in zip(*cells, strict=True)}


def test_only_the_score_can_be_asked_for(folder: Path, deciding: Path, inside: Path) -> None:
    assert main(["score", str(folder), "pairs.csv", "-o", "plain.csv", *FLOAT32]) == 0
    assert main(["score", str(deciding), "pairs.csv", "-o", "out.csv", "--only-score", *FLOAT32]) == 0
    assert list(columns_of(inside / "out.csv")) == ["key", "sentence1", "sentence2", "score"]
    assert (inside / "out.csv").read_bytes() == (inside / "plain.csv").read_bytes()


def test_a_threshold_can_be_given_in_place_of_the_stored_one_or_of_none(
    folder: Path, deciding: Path, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, expected in ((deciding, ["score", "probability", "match"]), (folder, ["score", "match"])):
        assert main(["score", str(given), "pairs.csv", "-o", "out.parquet", "--threshold", "-1", *FLOAT32]) == 0
        columns = columns_of(inside / "out.parquet")
        assert list(columns)[3:] == expected
        assert columns["match"] == [True] * len(PAIRS)
        assert "match: " not in capsys.readouterr().err


def test_two_texts_give_probability_and_match_after_their_cosine(
    deciding: Path, folder: Path, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score = ["a dog", "a dog", *FLOAT32, "--quiet"]
    assert main(["score", str(deciding), *score]) == 0
    assert main(["score", str(deciding), *score, "--only-score"]) == 0
    assert main(["score", str(folder), *score, "--threshold", "0.5"]) == 0
    assert main(["score", str(folder), "a dog", "guitar music", *FLOAT32, "--quiet", "--threshold", "1"]) == 0
    whole, only, given, apart = capsys.readouterr().out.splitlines()
    assert (whole, only, given) == ("1.0000  probability 0.95  match yes", "1.0000", "1.0000  match yes")
    assert apart.endswith("  match no")


def test_columns_of_these_names_are_refused_unless_they_are_left_out(
    deciding: Path, folder: Path, inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(inside / "taken.csv", ["text1,text2,match", "a,b,yes"])
    before = names(inside)
    for given in ([str(deciding)], [str(folder), "--threshold", "0.5"]):
        assert main(["score", *given, "taken.csv", "-o", "out.csv", "--quiet"]) == 2
        said = capsys.readouterr().err
        assert "'taken.csv': a column 'match' is there already; rename it, or leave the new one out" in said
    assert main(["score", str(deciding), "pairs.csv", "-o", "out.csv", "--name", "probability", "--quiet"]) == 2
    assert "a column 'probability' is there already" in capsys.readouterr().err
    assert names(inside) == before
    assert main(["score", str(deciding), "taken.csv", "-o", "out.csv", "--only-score", "--quiet"]) == 0
    assert main(["score", str(folder), "taken.csv", "-o", "out.csv", "--quiet"]) == 0
    write_lines(inside / "empty.csv", ["text1,text2"])
    assert main(["score", str(deciding), "empty.csv", "-o", "out.parquet", "--quiet"]) == 0
    assert pq.read_schema("out.parquet").types[2:] == [pa.float32(), pa.float32(), pa.bool_()]


# ---------------------------------------------------------------- bad uses, before the model is loaded


def prepare_bad_inputs(path: Path) -> None:
    write_lines(path / "gap.txt", ["a", "", "b"])
    (path / "zero.txt").touch()
    (path / "latin.txt").write_bytes(b"plain\nna\xefve\n")
    write_lines(path / "short.csv", ["text,x", "a,1", "b"])
    write_lines(path / "scored.csv", ["sentence1,sentence2,score", "a,b,1"])
    write_lines(path / "ids.csv", ["id,text", "1,a", ",b"])
    write_lines(path / "list.json", ['["a"]'])
    (path / "cut.parquet").write_bytes(b"PAR1 and no more")
    (path / "page.csv").write_text("<!DOCTYPE html><html>")
    (path / "subfolder").mkdir()
    (path / "linked.npy").symlink_to(path / "texts.txt")
    (path / "loop.npy").symlink_to(path / "loop.npy")
    os.mkfifo(path / "fifo.npy")
    (path / "file").touch()


E, S, OUT = "encode", "score", ["-o", "out.npy"]
BAD_BEFORE_MODEL = [
    # the command line itself
    ([], "COMMAND"),
    (["encod"], "'encod'"),
    (["--nonsense"], "COMMAND"),
    ([E, "M", "texts.txt"], "-o/--output"),
    ([E, "M", "texts.txt", *OUT, "--nonsense"], "--nonsense"),
    ([E, "M", "texts.txt", *OUT, "--batch-size", "0"], "--batch-size: expected a whole number of at least 1"),
    ([E, "M", "texts.txt", *OUT, "--batch-size", "1_0"], "found '1_0'"),
    ([E, "M", "texts.txt", *OUT, "--precision", "int4"], "--precision"),
    ([E, "M", "texts.txt", *OUT, "--on-truncate", "cut"], "--on-truncate"),
    ([E, "M", "texts.txt", "more.txt", *OUT], "more.txt"),
    # the target
    ([E, "M", "texts.txt", "-o", "out.bin"], "'out.bin': cannot tell what to write from the suffix '.bin'"),
    ([E, "M", "texts.txt", "-o", "out"], "'out': cannot tell what to write from a name without suffix"),
    ([E, "M", "texts.txt", "-o", "-"], "'-': cannot tell"),
    ([E, "M", "texts.txt", "-o", ""], "'': is a folder"),
    ([S, "M", "pairs.csv", "-o", "subfolder"], "'subfolder': is a folder"),
    ([E, "M", "texts.txt", "-o", "nowhere/out.npy"], "does not exist; make it first"),
    ([E, "M", "texts.txt", "-o", "file/out.npy"], "file"),
    ([E, "M", "texts.txt", "-o", "linked.npy"], "'linked.npy': is the file that is read"),
    ([E, "M", "texts.txt", "-o", "loop.npy"], "'loop.npy': is a link that leads to itself"),
    ([E, "M", "texts.txt", "-o", "fifo.npy"], "'fifo.npy': is a pipe, socket or device"),
    ([E, "M", "texts.txt", "-o", "x" * 253 + ".npy"], "File name too long"),
    ([S, "M", "pairs.csv", "-o", "pairs.csv"], "'pairs.csv': is the file that is read"),
    ([S, "M", "pairs.csv", "-o", "out.npy"], "cannot tell what to write from the suffix '.npy'"),
    ([S, "M", "pairs.csv", "-o", "out\x1b[31m.bin"], r"'out\x1b[31m.bin'"),
    # the input
    ([E, "M", "none.txt", *OUT], "'none.txt': no such file"),
    ([E, "M", "subfolder", *OUT], "'out.npy': one file cannot be written from several inputs or a folder: 'subfolder'"),
    ([E, "M", "fifo.npy", *OUT], "'fifo.npy': is a pipe"),
    ([E, "M", "file", *OUT], "'file'"),
    ([E, "M", "zero.txt", *OUT], "'zero.txt': is empty (0 bytes)"),
    ([E, "M", "page.csv", *OUT], "a web page"),
    ([E, "M", "cut.parquet", *OUT], "'cut.parquet'"),
    ([E, "M", "list.json", *OUT], "'list.json', line 1"),
    ([E, "M", "pairs.csv", *OUT], "--column"),
    ([E, "M", "pairs.csv", *OUT, "--column", "sentence"], "has no column 'sentence'"),
    ([E, "M", "texts.txt", *OUT, "--column", "text"], "there is no column 'text'"),
    ([E, "M", "texts.txt", *OUT, "--encoding", "klingon"], "'klingon'"),
    ([E, "M", "texts.txt", *OUT, "--format", "xml"], "'xml'"),
    ([E, "M", "texts.txt", *OUT, "--delimiter", "ab"], "'ab'"),
    ([E, "M", "ids.csv", *OUT, "--id-column", "id"], "--id-column has no place in a .npy"),
    ([E, "M", "ids.csv", "-o", "out.parquet", "--id-column", "key"], "has no column 'key'"),
    ([E, "M", "-", *OUT, "--column", "text"], "--column is for files"),
    ([E, "M", "-", *OUT, "--format", "csv"], "--kind is for files"),
    ([E, "M", "-", *OUT, "--encoding", "utf-16"], "--encoding 'utf-16' cannot be that of standard input"),
    ([E, "M", "-", *OUT, "--encoding", "hex"], "--encoding 'hex'"),
    # pairs
    ([S, "M", "pairs.csv"], "'pairs.csv': is a file; give -o OUT"),
    ([S, "M", "none.csv"], "'none.csv': no such file of pairs; for the cosine of two texts give both"),
    ([S, "M", "none.csv", "-o", "out.csv"], "'none.csv': no such file"),
    ([S, "M", "a", "b", "c"], "found 3; put each text in quotes"),
    ([S, "M", "a", "b", "-o", "out.csv"], "--output is for one file of pairs"),
    ([S, "M", "a", "b", "--columns", "x,y"], "--columns is for one file of pairs"),
    ([S, "M", "a", ""], "one of the two texts is empty"),
    ([S, "M", "texts.txt", "-o", "out.csv"], "expected two columns of texts"),
    ([S, "M", "pairs.csv", "-o", "out.csv", "--columns", "key"], "'key'"),
    ([S, "M", "pairs.csv", "-o", "out.csv", "--columns", "key,none"], "has no column 'none'"),
    (
        [S, "M", "pairs.csv", "-o", "out.csv", "--name", "key"],
        "a column 'key' is there already; give the new one another",
    ),
    ([S, "M", "pairs.csv", "-o", "out.csv", "--name", ""], "--name is empty"),
    ([S, "M", "scored.csv", "-o", "out.csv"], "--name cosine"),
    ([S, "M", "a", "b", "--threshold", "80"], "expected a cosine, a number from -1 to 1, found '80'"),
    ([S, "M", "a", "b", "--threshold", "nan"], "expected a cosine, a number from -1 to 1, found 'nan'"),
    ([S, "M", "a", "b", "--threshold", "0.5", "--only-score"], "--only-score: not allowed with argument --threshold"),
    (
        [S, "M", "pairs.csv", "-o", "out.csv", "--threshold", "0", "--name", "match"],
        "a column 'match' is there already",
    ),
]


def in_words(value: object) -> str | None:
    return " ".join(value).encode("unicode_escape").decode()[:60] if isinstance(value, list) else None


@pytest.mark.parametrize(("arguments", "message"), BAD_BEFORE_MODEL, ids=in_words)
def test_bad_use_is_refused_in_one_line_before_the_model_is_looked_for(
    inside: Path, arguments: list[str], message: str
) -> None:
    prepare_bad_inputs(inside)
    before = names(inside)
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("sbert-ft: error: ") and done.err.count("\n") == 1, done.err
    assert message in done.err
    assert "\x1b" not in done.err
    assert names(inside) == before


# ---------------------------------------------------------------- bad uses found by the model or in its texts

BAD_WITH_MODEL = [
    ([E, "none", "texts.txt", *OUT], "none"),
    ([E, "no/such-model", "texts.txt", *OUT], "no/such-model"),
    ([E, "file", "texts.txt", *OUT], "file"),
    ([E, "subfolder", "texts.txt", *OUT], "config.json"),
    ([S, "none", "a", "b"], "none"),
    ([S, "none", "pairs.csv", "-o", "out.csv"], "none"),
    ([E, "MODEL", "texts.txt", *OUT, "--device", "tpu"], "'tpu'"),
    ([E, "MODEL", "texts.txt", *OUT, "--max-seq-length", "9999"], "'9999'"),
    ([E, "MODEL", "texts.txt", *OUT, "--truncate-dim", "33"], "'33'"),
    ([E, "MODEL", "texts.txt", *OUT, "--prompt-name", "query"], "'query'"),
    ([E, "MODEL", "texts.txt", *OUT, "--max-seq-length", "4", "--on-truncate", "error"], "max_seq_length"),
    ([E, "MODEL", "gap.txt", *OUT], "'gap.txt', line 2: empty text"),
    ([E, "MODEL", "latin.txt", *OUT, "--batch-size", "1"], "0xef"),
    ([E, "MODEL", "short.csv", *OUT, "--column", "text"], "'short.csv', line 3"),
    ([E, "MODEL", "ids.csv", "-o", "out.parquet", "--id-column", "id"], "'ids.csv', line 3: column 'id'"),
    ([E, "MODEL", "missing.jsonl", *OUT], "'missing.jsonl', line 2"),
    ([S, "MODEL", "tab.csv", "-o", "out.tsv"], "'tab.csv', line 2"),
    ([S, "MODEL", "keys.jsonl", "-o", "out.csv"], "'extra'"),
    ([S, "MODEL", "keys.jsonl", "-o", "out.txt"], "'out.txt': a .txt has no columns"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_WITH_MODEL, ids=in_words)
def test_bad_use_found_later_leaves_nothing_and_keeps_the_old_result(
    folder: Path, inside: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    prepare_bad_inputs(inside)
    write_lines(inside / "missing.jsonl", ['{"text": "a"}', '{"other": "b"}'])
    write_lines(inside / "tab.csv", ["text1,text2", "a\tb,c"])
    write_lines(inside / "keys.jsonl", ['{"text1": "a", "text2": "b"}', '{"text1": "a", "text2": "b", "extra": 1}'])
    for name in ("out.npy", "out.csv", "out.tsv", "out.parquet"):
        (inside / name).write_bytes(b"the old result")
    before = names(inside)
    given = [str(folder) if argument == "MODEL" else argument for argument in arguments]
    assert main([*given, "--quiet"]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("sbert-ft: error: ") and said.err.count("\n") == 1, said.err
    assert message in said.err and ".sbert-ft-" not in said.err
    assert names(inside) == before
    assert {(inside / name).read_bytes() for name in ("out.npy", "out.csv", "out.tsv", "out.parquet")} == {
        b"the old result"
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"a\n\nb\n", "line 2: empty"),
        (b"a\nna\xefve\n", "line 2: is not in utf-8"),
        (b"a\nb\0\n", "line 2: holds a NUL"),
        (b"a\nb\rc\n", "line 2: holds a lone carriage return"),
    ],
)
def test_bad_line_of_standard_input_is_named(
    warm: WarmProcess, folder: Path, inside: Path, given: bytes, message: str
) -> None:
    before = names(inside)
    done = warm.command("encode", folder, "-", "-o", "out.npy", "--quiet", stdin=given)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("sbert-ft: error: standard input, ") and done.err.count("\n") == 1, done.err
    assert message in done.err
    assert names(inside) == before


@contextmanager
def files_limited_to(n_bytes: int) -> Iterator[None]:
    """Let writing fail after so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["out.npy", "out.parquet", "out.csv"])
def test_full_disk_is_an_error_that_names_the_target(
    folder: Path, inside: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(inside / "many.csv", ["text1,text2", *(f"dog {i} walks home,cat {i} too" for i in range(3000))])
    given = ["score", "many.csv"] if name == "out.csv" else ["encode", "many.csv", "--column", "text1"]
    (inside / name).write_bytes(b"the old result")
    before = names(inside)
    with files_limited_to(50_000):
        code = main([given[0], str(folder), *given[1:], "-o", name, "--quiet"])
    said = capsys.readouterr().err
    assert code == 2
    assert said.startswith("sbert-ft: error: ") and f"/{name}': cannot be written" in said, said
    assert names(inside) == before
    assert (inside / name).read_bytes() == b"the old result"


def test_folder_that_cannot_be_written_to_is_found_before_the_model_is_loaded(inside: Path) -> None:
    (inside / "locked").mkdir(mode=0o555)
    if os.access(inside / "locked", os.W_OK):
        pytest.skip("this user, root perhaps, can write to a read-only folder")
    done = run("encode", "no-model", "texts.txt", "-o", "locked/out.npy")
    assert (done.code, names(inside / "locked")) == (2, [])
    assert "out.npy': cannot be written: Permission denied" in done.err


def test_read_only_result_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out.npy").touch(mode=0o444)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root is never refused
    with pytest.raises(OutputError, match="exists and is read-only"):
        output.checked_target(str(tmp_path / "out.npy"), (".npy",), None)


# ---------------------------------------------------------------- complete files or none


def test_result_keeps_the_mode_and_the_link_of_what_it_replaces(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "v.npy").touch(mode=0o640)
    (tmp_path / "link.npy").symlink_to("real/v.npy")
    target = output.checked_target(str(tmp_path / "link.npy"), (".npy",), None)
    with atomic.whole_file(target) as temporary:
        assert temporary.parent == target.parent
        temporary.write_bytes(b"new")
        assert target.read_bytes() == b""
    assert (tmp_path / "link.npy").is_symlink()
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"new", 0o640)
    assert names(tmp_path / "real") == ["v.npy"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_result_that_does_not_reach_the_disk_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    target = tmp_path / "v.npy"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, failing, refuse)
    said = pytest.raises(OutputError, match=r"v\.npy': cannot be written: Input/output error")
    with said, atomic.whole_file(target) as temporary:
        temporary.write_bytes(b"new")
    assert (target.read_bytes(), names(tmp_path)) == (b"old", ["v.npy"])


def test_temporary_file_of_a_killed_process_is_no_obstacle(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic.whole_file(tmp_path / "v.npy") as temporary:
        shutil.copy(temporary, left := temporary.with_name(f"{temporary.name}0"))
        raise KeyError
    with atomic.whole_file(tmp_path / "v.npy") as temporary:
        temporary.write_bytes(b"new")
    assert names(tmp_path) == [left.name, "v.npy"] and left.name.startswith(".sbert-ft-v.npy.")


@pytest.mark.parametrize(
    ("number", "code", "old"),
    [(signal.SIGINT, 130, False), (signal.SIGTERM, 143, True), (signal.SIGHUP, 129, False)],
    ids=["SIGINT", "SIGTERM", "SIGHUP"],
)
def test_signal_in_the_middle_leaves_no_temporary_file_and_no_half_result(
    warm: WarmProcess, folder: Path, inside: Path, number: signal.Signals, code: int, old: bool
) -> None:
    if old:
        (inside / "out.npy").write_bytes(b"the old result")
    before = names(inside)
    pipe = inside.parent / f"{number.name}-pipe"
    os.mkfifo(pipe)
    feeder = threading.Thread(target=feed_without_end, args=(pipe,), daemon=True)
    feeder.start()
    pid = warm.start("warm.calls:command", argv=["encode", str(folder), "-", "-o", "out.npy"], stdin=pipe)
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size > 100_000 for path in inside.glob(".sbert-ft-out.npy.*")):  # at least a window
        assert not warm.has_ended(0.02) and time.monotonic() < deadline
    os.kill(pid, number)
    ended = warm.end(60)
    feeder.join(60)
    assert ended.code == code
    said = ended.err
    assert "Traceback" not in said
    assert said.splitlines()[-1] in ("sbert-ft: interrupted", f"sbert-ft: ended by {number.name}")
    assert names(inside) == before
    assert not old or (inside / "out.npy").read_bytes() == b"the old result"


def test_interrupt_inside_an_exec_ends_with_the_same_code(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(
        "import sys\n"
        "from sbert_ft import cli\n"
        "cli._run = lambda arguments: exec('raise KeyboardInterrupt')\n"
        "sys.exit(cli.main([]))\n"
    )
    command_line = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(command_line, cwd=tmp_path, capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (130, "sbert-ft: interrupted\n")


def feed_without_end(pipe: Path) -> None:
    with suppress(BrokenPipeError), open(pipe, "wb", buffering=0) as file:
        while True:
            file.write(b"a dog walks home\n" * 1000)


# ---------------------------------------------------------------- messages, and where they go


ON_A_TERMINAL = """
import os, sys
os.dup2(os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY), 2)
sys.stderr = open(2, "w", buffering=1, closefd=False)
from sbert_ft.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_bar_is_shown_on_a_terminal_and_taken_away(warm: WarmProcess, folder: Path, inside: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    argv = [os.ttyname(theirs), "encode", str(folder), "texts.txt", "-o", "out.npy"]
    warm.start("warm.calls:script", code=ON_A_TERMINAL, argv=argv, environment={"TERM": "xterm"})
    ended = warm.end(60)
    os.close(theirs)
    said = b""
    try:
        while chunk := os.read(ours, 4096):
            said += chunk
    except OSError:  # on Linux, the other end is closed
        pass
    os.close(ours)
    assert ended.code == 0, said
    assert b"| 7.00/7.00 [" in said or b"0.00/7.00 [" in said, said
    assert b"7 texts, " in said.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [["--quiet", "encode", "MODEL", "texts.txt", "-o", "out.npy"], ["encode", "MODEL", "texts.txt", "-o", "out.npy"]],
)
def test_quiet_counts_before_and_after_the_command(
    folder: Path, inside: Path, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    given = [str(folder) if argument == "MODEL" else argument for argument in arguments]
    assert main(given if "--quiet" in given else [*given, "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


def test_logging_is_as_it_was_after_a_command(folder: Path, inside: Path) -> None:
    import logging

    ours = logging.getLogger("sbert_ft")
    before = list(ours.handlers), ours.level, ours.propagate, signal.getsignal(signal.SIGTERM)
    assert main(["encode", str(folder), "texts.txt", "-o", "out.npy", "--debug"]) == 0
    assert (list(ours.handlers), ours.level, ours.propagate, signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("arguments", [["--debug", "encode"], ["encode", "--debug"]])
def test_debug_shows_where_an_error_comes_from(inside: Path, arguments: list[str]) -> None:
    done = run(*arguments, "M", "none.txt", "-o", "out.npy")
    assert done.code == 2
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].startswith("sbert-ft: error: 'none.txt'")


def test_defect_keeps_its_traceback_and_asks_for_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: list[str]) -> int:
        raise ZeroDivisionError("an unexpected bug")

    monkeypatch.setattr(cli, "_run", fail)
    assert main([]) == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError: an unexpected bug" in said
    assert said.splitlines()[-1] == "sbert-ft: this is a bug in sbert-ft; please report it with the lines above"


def test_what_the_system_refuses_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: list[str]) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "/home/me/model\n")

    monkeypatch.setattr(cli, "_run", fail)
    assert main([]) == 2
    assert capsys.readouterr().err == "sbert-ft: error: '/home/me/model\\n': Permission denied\n"


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["encode", "--help"], ["score", "--help"]])
def test_help_and_version_are_light(arguments: list[str]) -> None:
    code = "import sys; from sbert_ft.cli import main; c = main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.exit(c)", *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0
    assert (f"sbert-ft {__version__}" if arguments == ["--version"] else "usage: sbert-ft") in done.stdout
    assert {"torch", "transformers", "numpy", "pandas", "pyarrow"}.isdisjoint(done.stderr.split())


def test_help_names_the_exit_codes() -> None:
    _, _, codes = run("--help").out.partition("exit codes:\n")
    assert [line.split()[0] for line in codes.splitlines()[:5]] == ["0", "1", "2", "130", "141"]


def test_closed_pipe_is_no_traceback() -> None:
    buffered = environment(PYTHONUNBUFFERED="")  # otherwise the parser itself ignores that its help cannot be printed
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(command("--help"), stdout=writer, stderr=subprocess.PIPE, env=buffered)
    os.close(writer)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 141
    assert b"Traceback" not in said and b"BrokenPipe" not in said


@pytest.mark.parametrize("arguments", [["encode", "--help"], ["score", "MODEL", "a dog", "a cat"]])
def test_closed_pipe_is_no_traceback_of_a_command(warm: WarmProcess, folder: Path, arguments: list[str]) -> None:
    given = [str(folder) if argument == "MODEL" else argument for argument in arguments]
    ended = warm.command(*given, setup="nobody reads standard output")
    assert ended.code == 141
    assert "Traceback" not in ended.err and "BrokenPipe" not in ended.err


def test_hangul_passes_through_an_ascii_locale(folder: Path, inside: Path) -> None:
    ascii_only = {
        "LC_ALL": "C",
        "LANG": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    write_lines(inside / "문장.txt", ["한국어 문장", "a dog"])
    done = run("encode", folder, "문장.txt", "-o", "벡터.npy", **ascii_only)
    assert (done.code, done.out) == (0, ""), done.err
    assert np.load(inside / "벡터.npy").shape == (2, 32)
    done = run("encode", folder, "없음.txt", "-o", "벡터.npy", **ascii_only)
    assert done.code == 2
    assert done.err.startswith("sbert-ft: error: '") and done.err.isascii() and done.err.count("\n") == 1


def test_text_from_an_ascii_command_line_is_read_as_utf_8() -> None:
    from sbert_ft.commands.added_columns import argument_text

    undecoded = "한국어 a".encode().decode("ascii", "surrogateescape")
    assert argument_text(undecoded) == "한국어 a" or sys.getfilesystemencoding() != "utf-8"
    assert argument_text("한국어 a") == "한국어 a"


def test_choices_are_those_of_the_model() -> None:
    assert options.PRECISIONS == PRECISIONS
    assert get_args(EngineChoice) == options.ENGINES
    assert get_args(OnTruncate) == options.ON_TRUNCATE


def test_every_command_has_its_two_functions() -> None:
    import importlib

    for module, summary in cli.COMMANDS.values():
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not there yet")
        found = importlib.import_module(module)
        assert callable(found.add_arguments) and callable(found.run) and summary
