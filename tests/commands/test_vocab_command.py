"""`sbert-ft vocab` as a user sees it: what is printed, what is written, and one sentence for what is wrong."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import default_vocabulary
from warm import WarmProcess

from sbert_ft.commands import vocab
from sbert_ft.models import vocabulary
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.tokenization.tokenizer import TextTokenizer

REVIEWS = ["정말 재미있는 영화", "a man saw the movie", "재미있는 영화 영화", "the movie was glowing"]
FILES = {"config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}


@pytest.fixture
def folder(tiny_bert_folder: Callable[..., Path], tmp_path: Path) -> Path:
    return tiny_bert_folder(tmp_path / "model", safetensors=True)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Return a file of 400 texts, of which 4 are held out."""
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"{text}\n" for text in REVIEWS * 100), "utf-8")
    return file


def table(out: str) -> dict[str, list[str]]:
    """Return the cells of each line of the table by its head."""
    rows = [re.split(r"  +", line) for line in out.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) > 1}


def test_defaults_are_those_of_the_functions() -> None:
    trained = vocabulary.train_vocabulary.__defaults__
    assert trained == (vocab._SIZE, False, vocab._LAYERS, vocab._HIDDEN_SIZE)
    assert vocabulary.extend_vocabulary.__defaults__ == (vocab._N_ADDED,)


def test_a_vocabulary_is_shown_beside_another_one(warm: WarmProcess, folder: Path, texts: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    small = ["--size", "100", "--layers", "1", "--hidden", "64"]
    done = warm.command("vocab", texts, "-o", start, *small, "--compare", folder, "--quiet")
    assert (done.code, done.err) == (0, "")
    first, *_ = done.out.splitlines()
    n_characters = 100 * sum(map(len, REVIEWS))
    assert first == f"400 texts, {n_characters:,} characters; 4 texts held out"
    cells = table(done.out)
    n_pieces = len((start / "vocab.txt").read_text("utf-8").splitlines())
    assert cells["pieces"] == [str(n_pieces), str(len(default_vocabulary()))]
    assert cells["words with [UNK]"] == ["0.00 %", "0.00 %"]  # held out is "the movie was glowing" alone
    assert cells["tokens a text"] == ["4.00", "12.00"]  # the m-o-v-i-e was g-l-o-w-ing
    assert cells["tokens a word"] == ["1.00", "3.00"]
    assert done.out.splitlines()[-2:] == [
        f"the texts give {n_pieces} pieces, fewer than 100",
        f"wrote '{start}': vocab.txt, tokenizer.json, config.json (BERT, layers 1, width 64)",
    ]
    assert {path.name for path in start.iterdir()} == FILES
    assert ConnectionBert.from_config(start, "cpu", "float32").hidden_size == 64


@pytest.mark.parametrize("other", ["vocab.txt", "tokenizer only"])
def test_a_bare_vocabulary_can_be_compared(
    warm: WarmProcess, folder: Path, texts: Path, tmp_path: Path, other: str
) -> None:
    compared = folder / "vocab.txt"
    if other == "tokenizer only":
        compared = tmp_path / "only"
        compared.mkdir()
        (folder / "vocab.txt").rename(compared / "vocab.txt")
    done = warm.command("vocab", texts, "-o", tmp_path / "start", "--size", "100", "--compare", compared, "--quiet")
    assert (done.code, done.err) == (0, "")
    assert table(done.out)["tokens a text"] == ["4.00", "12.00"]


def test_several_sources_are_one_corpus_and_columns_are_named(warm: WarmProcess, tmp_path: Path) -> None:
    inner = tmp_path / "texts"
    inner.mkdir()
    (inner / "a.txt").write_text("alpha alpha\n\nbeta beta\n", "utf-8")
    (inner / "b.csv").write_text("note,line\nunused,gamma gamma\n", "utf-8")
    (tmp_path / "c.csv").write_text("line;other\ndelta delta;omega omega\n", "utf-8")
    sources = [inner / "b.csv", tmp_path / "c.csv"]
    done = warm.command("vocab", *sources, "-o", tmp_path / "start", "--size", "100", "--column", "line", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("2 texts, 22 characters; 0 texts held out\n")
    pieces = (tmp_path / "start" / "vocab.txt").read_text("utf-8").splitlines()
    assert {"gamma", "delta"} <= set(pieces) and not {"unused", "omega", "alpha"} & set(pieces)
    whole = warm.command("vocab", inner / "a.txt", sources[1], "-o", tmp_path / "more", "--columns", "line", "--quiet")
    assert whole.code == 2 and "'line'" in whole.err


def test_held_out_texts_are_not_trained_on(warm: WarmProcess, tmp_path: Path) -> None:
    lines = ["common words"] * 99 + ["heldout heldout"] + ["common words"] * 99 + ["second second"]
    (tmp_path / "texts.txt").write_text("\n".join(lines), "utf-8")
    for n_held_out, absent, present in (
        (2, {"heldout", "second"}, set()),
        (1, {"heldout"}, {"second"}),
        (0, set(), {"heldout"}),
    ):
        start = tmp_path / f"start-{n_held_out}"
        done = warm.command("vocab", tmp_path / "texts.txt", "-o", start, "--size", "100", "--held-out", n_held_out)
        assert f"; {n_held_out} texts held out" in done.out and ("tokens a word" in done.out) == (n_held_out > 0)
        pieces = set((start / "vocab.txt").read_text("utf-8").splitlines())
        assert not absent & pieces and present <= pieces


def test_emoji_controls_and_odd_characters_are_read(warm: WarmProcess, tmp_path: Path) -> None:
    lines = [
        '{"text": "a NUL \\u0000 here \\ud83d\\ude00 \\ud83d\\ude00"}',
        '{"text": "zalgo a\\u0300\\u0301 \\u2028 end"}',
    ]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines * 3), "utf-8")
    done = warm.command("vocab", tmp_path / "texts.jsonl", "-o", tmp_path / "start", "--size", "100", "--quiet")
    assert (done.code, done.err) == (0, "")
    tokenizer = TextTokenizer.from_pretrained(tmp_path / "start")
    assert tokenizer.tokenize("NUL 😀 zalgo end") == ["nul", "😀", "zalgo", "end"]


def test_a_model_is_extended_and_shown_before_and_after(
    warm: WarmProcess, folder: Path, texts: Path, tmp_path: Path
) -> None:
    (folder / "openvino").mkdir()
    done = warm.command("vocab", "--extend", folder, texts, "-o", tmp_path / "larger", "--add", "40", "--quiet")
    assert (done.code, done.err) == (0, "")
    cells = table(done.out)
    assert cells[""] == ["before", "after"]
    assert cells["tokens a text"] == ["12.00", "4.00"]
    lines = done.out.splitlines()
    assert re.fullmatch(r"added \d+ pieces, fewer than 40: no other saves tokens; first .+", lines[-3])
    assert lines[-2:] == [
        "not copied, made from the old weights or no part of the model: 'openvino/'",
        f"wrote '{tmp_path / 'larger'}'",
    ]
    model = SiameseBert.from_pretrained(tmp_path / "larger", "cpu")
    assert model.tokenizer.tokenize("the movie was glowing") == ["the", "movie", "was", "glowing"]
    assert model.encode("정말 재미있는 영화").shape == (32,)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["texts.txt"], "the following arguments are required: -o/--output"),
        (["-o", "start"], "the following arguments are required: TEXTS"),
        (["nothing.txt", "-o", "start"], "'nothing.txt': no such file; check the path"),
        (["empty.txt", "-o", "start"], "'empty.txt' holds no text; expected at least one"),
        (["zero.txt", "-o", "start"], "'zero.txt': is empty (0 bytes); expected rows of texts"),
        (["signs", "-o", "start"], "'signs': is a folder without files of texts"),
        (["invisible.txt", "-o", "start"], "the texts hold no word; give texts with letters"),
        (["nul.txt", "-o", "start"], "'nul.txt', line 2: holds a NUL character, as binary files do"),
        (["half.jsonl", "-o", "start"], "half.jsonl', line 1: holds half a character (a lone surrogate"),
        (["bytes.txt", "-o", "start"], "bytes.txt', line 1: byte 0xff at offset 2 is not in utf-8"),
        (["texts.txt", "-o", "start", "--columns", "a"], "'texts.txt': has one text per line, so there is no column"),
        (["texts.txt", "-o", "start", "--size", "20"], "size is '20', expected a whole number from 64 to 1048576"),
        (["texts.txt", "-o", "start", "--size", "many"], "expected a whole number of at least 1, found 'many'"),
        (["texts.txt", "-o", "start", "--hidden", "100"], "hidden_size is 100, expected a multiple of 64"),
        (
            ["texts.txt", "-o", "start", "--layers", "2000"],
            "n_layers is '2000', expected a whole number from 1 to 1000",
        ),
        (["texts.txt", "-o", "start", "--add", "3"], "--add is for a model's vocabulary; name the model with --extend"),
        (["texts.txt", "-o", "start", "--encoding", "no"], "--encoding 'no' is not an encoding of text files"),
        (["texts.txt", "-o", "texts.txt"], "texts.txt' is a file: expected a folder that is empty or does not exist"),
        (
            ["texts.txt", "-o", "MODEL"],
            "model' holds 'config.json', 'model.safetensors', 'vocab.txt'; expected a folder",
        ),
        (["texts.txt", "-o", "start", "--compare", "gone"], "'gone' is not a model folder"),
        (["texts.txt", "-o", "start", "--compare", "empty.txt"], "is blank"),
        (["texts.txt", "-o", "start", "--extend", "MODEL", "--size", "99"], "--size is for a new vocabulary; leave it"),
        (["texts.txt", "-o", "start", "--extend", "MODEL", "--cased"], "--cased is for a new vocabulary"),
        (["texts.txt", "-o", "start", "--extend", "gone"], "'gone' is not a model folder"),
        (["empty.txt", "-o", "start", "--extend", "MODEL"], "'empty.txt' holds no text"),
        (["texts.txt", "-o", "MODEL", "--extend", "MODEL"], "expected a folder that is empty or does not exist"),
    ],
)
def test_wrong_options_and_files_are_one_sentence_and_write_nothing(
    warm: WarmProcess, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"texts.txt": b"a text\nmore\n", "empty.txt": b"\n \n", "zero.txt": b"", "nul.txt": b"a\nb\0\n"}
    files |= {
        "invisible.txt": "\ue000 \ue001\n".encode(),
        "half.jsonl": b'{"text": "a \\ud83d"}\n',
        "bytes.txt": b"a \xff",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "signs").mkdir()
    before = sorted(tmp_path.rglob("*"))
    given = [str(folder) if part == "MODEL" else part for part in arguments]
    done = warm.command("vocab", *given, "--quiet")
    assert (done.code, done.out) == (2, "")
    assert said in done.err and done.err.count("\n") == 1, done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_written_to_is_one_sentence(warm: WarmProcess, texts: Path) -> None:
    done = warm.command("vocab", texts, "-o", "/proc/start", "--size", "100", "--quiet")
    assert (done.code, done.out) == (2, "")
    assert "the model cannot be written to /proc/start: " in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize("extends", [False, True])
def test_ctrl_c_while_texts_are_read_writes_nothing(
    warm: WarmProcess, folder: Path, tmp_path: Path, extends: bool
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"{REVIEWS[i % 4]} {i}\n" for i in range(400_000)), "utf-8")
    before = sorted(tmp_path.rglob("*"))
    model = ["--extend", str(folder)] if extends else []
    pid = warm.start("warm.calls:command", argv=["vocab", str(file), "-o", str(tmp_path / "start"), *model])
    deadline = time.monotonic() + 60
    n_open = 0
    while n_open < 2:  # the digest of the file is made, and its texts are read
        assert not warm.has_ended(0.005) and time.monotonic() < deadline
        links = [os.path.join(f"/proc/{pid}/fd", name) for name in os.listdir(f"/proc/{pid}/fd")]
        n_open += any(os.path.islink(link) and os.readlink(link) == str(file) for link in links)
    os.kill(pid, signal.SIGINT)
    ended = warm.end(60)
    assert ended.code == 130
    assert ended.err.splitlines()[-1] == "sbert-ft: interrupted" and "Traceback" not in ended.err
    assert sorted(tmp_path.rglob("*")) == before
