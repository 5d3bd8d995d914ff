"""`sbert-ft encode` to a folder of shards, as a user sees it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pq = pytest.importorskip("pyarrow.parquet", reason="the Parquet extra is not installed")

from sbert_ft import SiameseBert  # noqa: E402 (pyarrow may be absent)
from sbert_ft.cli import main  # noqa: E402
from sbert_ft.commands import encode  # noqa: E402
from sbert_ft.vectors.quantization import VECTOR_TYPES  # noqa: E402
from sbert_ft.vectors.shards import ShardSet  # noqa: E402

TEXTS = ["a man plays the guitar", "a dog runs", "water", "the red car", "two dogs in the park"]
FLOAT32 = ("--precision", "float32", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_bert_folder(tmp_path_factory.mktemp("cli") / "model", safetensors=True))


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Path("in/a.txt").write_text("".join(f"{text}\n" for text in TEXTS[:3]))
    Path("in/b.csv").write_text("text\n" + "".join(f"{text}\n" for text in TEXTS[3:]))


def test_options_are_those_of_the_library() -> None:
    assert encode._VECTOR_TYPES == VECTOR_TYPES


@pytest.mark.parametrize(
    "given",
    [["in", "-o", "v"], ["in/*", "-o", "v"], ["in/a.txt", "in/b.csv", "-o", "v/"]],
    ids=["folder", "pattern", "files"],
)
def test_several_files_become_shards_of_numbered_rows(
    folder: str, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", folder, *given, "--shard-size", "2", *FLOAT32]) == 0
    shards = ShardSet.open("v")
    blocks = list(shards.blocks())
    assert [key for block in blocks for key in block.ids] == [0, 1, 2, 3, 4]
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    np.testing.assert_allclose(np.concatenate([b.stored for b in blocks]), model.encode(TEXTS), atol=5e-6)
    said = capsys.readouterr().err
    assert "5 texts, " in said and " texts a second" in said and ", 3 shards -> v" in said
    assert json.loads(Path("v/manifest.json").read_text())["n_rows"] == 5


def test_one_file_may_become_a_folder_too_and_parts_say_what_is_missing(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["encode", folder, "in/a.txt", "-o", "v/", "--shard-size", "1", *FLOAT32]
    assert main([*given, "--shard", "2/3"]) == 0
    assert "1 shard; the folder is finished when the other parts are there -> v" in capsys.readouterr().err
    assert sorted(os.listdir("v")) == ["plan.json", "vectors-00001-of-00003.parquet"]
    assert main(given) == 2
    assert "holds vectors already" in capsys.readouterr().err
    assert main([*given, "--resume"]) == 0
    assert "2 texts, " in (said := capsys.readouterr().err) and "2 shards, 1 shard there before -> v" in said
    assert main([*given, "--resume", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_the_recall_of_a_smaller_type_is_said_and_stored(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TEXTS[0].split(), *TEXTS[4].split()]
    Path("many.txt").write_text("".join(f"{a} {b}\n" for a in words for b in words))
    assert main(["encode", folder, "many.txt", "-o", "v/", "--vectors", "binary", *FLOAT32]) == 0
    recall = json.loads(Path("v/plan.json").read_text())["recall"]
    said = f"binary: recall@10 {recall['recall']:.4f} against float32, by cosine, 100 queries among 99 vectors"
    assert said in capsys.readouterr().err and 0 < recall["recall"] <= 1
    assert pq.read_table("v/vectors-00000-of-00001.parquet").schema.field("vector").type.list_size == 4


def test_texts_that_are_cut_are_counted_once(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["in", "-o", "v/", "--shard-size", "1", "--max-seq-length", "4", *FLOAT32]
    assert main(["encode", folder, *given]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    n_cut = sum(len(text.split()) > 2 for text in TEXTS)
    assert len(said) == 1 and said[0].startswith(f"warning: {n_cut} of 5 texts are longer than 4 tokens and were cut")
    assert json.loads(Path("v/manifest.json").read_text())["n_cut"] == n_cut


def test_a_text_that_is_refused_is_named_by_its_number(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["in", "-o", "v/", "--shard-size", "2", "--max-seq-length", "6", "--on-truncate", "error", *FLOAT32]
    assert main(["encode", folder, *given]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "shard 0, whose texts begin with number 0 of the inputs, from 0: text at position 0 has 7 tokens" in said
    assert os.listdir("v") == ["plan.json"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["in", "-o", "v.npy"], "'v.npy': one file cannot be written from several inputs or a folder: 'in'"),
        (["in/a.txt", "-", "-o", "v/"], "standard input (-) cannot be read with other inputs"),
        (["-", "-o", "v/"], "standard input cannot be read again"),
        (["in/a.txt", "-o", "v.npy", "--vectors", "int8"], "--vectors is for a folder of shards; end OUT with /"),
        (["in/a.txt", "-o", "v.npy", "--resume"], "--resume is for a folder of shards"),
        (["in/a.txt", "-o", "v.npy", "--shard", "1/2"], "--shard is for a folder of shards"),
        (["in/a.txt", "-o", "v.npy", "--workers", "2"], "--workers is for a folder of shards"),
        (["in/a.txt", "-o", "v/", "--shard", "0/2"], "expected I/N, from 1/N to N/N, found '0/2'"),
        (["in/a.txt", "-o", "v/", "--shard", "3"], "expected I/N"),
        (["in/a.txt", "-o", "v/", "--vectors", "int4"], "--vectors"),
        (["in/a.txt", "-o", "v/", "--workers", "2", "--device", "cuda"], "--workers is for the CPU"),
        (["in/a.txt", "-o", "v/", "--devices", "cpu", "--device", "cpu"], "--device and --devices are both given"),
        (["in/a.txt", "-o", "v/", "--devices", "cpu", "--workers", "2"], "not allowed with"),
        (["none*.csv", "-o", "v/"], "'none*.csv': there is no file of texts"),
        (["none.csv", "-o", "v/"], "'none.csv': no such file"),
        (["in/b.csv", "-o", "v/", "--column", "body"], "has no column 'body'"),
        (["in/b.csv", "-o", "v/", "--id-column", "key"], "has no column 'key'"),
        (["in", "-o", "in"], "holds other files, and no vectors"),
    ],
)
def test_bad_use_is_one_sentence_before_the_model_is_looked_for(
    given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(os.walk("."))
    assert main(["encode", "no-model", *given]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sbert-ft: error: ") and said.count("\n") == 1 and message in said
    assert sorted(os.walk(".")) == before
