"""Surroundings, names, settings and arguments that nobody means well with, and what a run writes of strangers' texts.

A command is a fork of the warm process (`warm/`), with its standard streams, environment, limits or folder spoiled
before `main` is called. What depends on how Python itself is started has a process of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_class_report import hostile as hostile_classes
from test_report import Page
from test_report import hostile as hostile_pairs
from warm import WarmProcess

from sbert_ft import (
    BertClassifier,
    ConnectionBert,
    ConnectionDataset,
    EvaluationSettings,
    ObjectiveSettings,
    Reading,
    SbertFtError,
    SiameseBert,
    TrainingSettings,
    fine_tune,
    fit_threshold,
)
from sbert_ft.config.loader import check_settings
from sbert_ft.config.settings import DataSettings, ModelSettings, RunSettings
from sbert_ft.encoder.compile_cache import Package, private_folder
from sbert_ft.errors import InputError
from sbert_ft.report.html_page import html_report
from sbert_ft.report.markdown import literal, markdown_report

if not hasattr(os, "fork") or not sys.platform.startswith("linux"):
    pytest.skip("the processes under test are forks, and their surroundings those of Linux", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
MAX_SECONDS = 120  # for a command; one that hangs fails its test
LEFT_IN_PLACE = {"texts.txt", "pairs.csv", "run.json"}


@dataclass(frozen=True)
class Ended:
    """What a command left: its exit code, what it said, and the folder that it was run in."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def written(self) -> set[str]:
        """Return the files that were not there before, by their names in the folder."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)) for path in files} - LEFT_IN_PLACE


@pytest.fixture(scope="module")
def model_folder(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("hostile") / "model")


@pytest.fixture
def sbert_ft(warm: WarmProcess, model_folder: Path, tmp_path: Path) -> Callable[..., Ended]:
    """Return what runs a command in a folder with texts, pairs and a configuration; MODEL is a small model's folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "texts.txt").write_text("a dog\n가나다\na cat\n", encoding="utf-8")
    rows = "".join(f"a dog {i},a cat {i},{i % 6}\n" for i in range(24))
    (folder / "pairs.csv").write_text("text1,text2,score\n" + rows)
    run = {
        "model": {"path": str(model_folder)},
        "data": {"train": "pairs.csv", "dev": "pairs.csv"},
        "training": {"max_steps": 2, "batch_size": 8, "allow_unknown": True},
        "evaluation": {"bootstrap_samples": 100},
        "output_dir": "out",
    }
    (folder / "run.json").write_text(json.dumps(run))

    def start(*arguments: str, setup: str = "as usual", cwd: Path = folder) -> Ended:
        argv = [model_folder if argument == "MODEL" else argument for argument in arguments]
        ended = warm.command(*argv, setup=setup, cwd=cwd)
        out, err = ended.out, ended.err
        assert "Traceback" not in out + err, out + err
        assert "defect" not in err
        return Ended(ended.code, out, err, cwd)

    return start


COMMANDS: dict[str, tuple[str, ...]] = {
    "encode": ("encode", "MODEL", "texts.txt", "-o", "o.npy"),
    "score": ("score", "MODEL", "pairs.csv", "-o", "o.csv", "--name", "cosine"),
    "score two": ("score", "MODEL", "a dog", "가나다"),
    "index": ("index", "MODEL", "texts.txt", "-o", "o.index"),
    "mine": ("mine", "MODEL", "texts.txt", "--threshold", "0.5", "-o", "o.csv"),
    "evaluate": ("evaluate", "MODEL", "pairs.csv"),
    "doctor": ("doctor", "MODEL", "--texts", "pairs.csv"),
    "train": ("train", "run.json", "--quiet"),
    "dry run": ("train", "run.json", "--dry-run"),
    "config check": ("config", "check", "run.json"),
    "config init": ("config", "init"),
    "config schema": ("config", "schema"),
    "version": ("--version",),
}
TO_FILES = ("encode", "score", "index", "mine")
TO_OUTPUT = tuple(name for name in COMMANDS if name not in (*TO_FILES, "train"))


# standard streams


@pytest.mark.parametrize("name", TO_OUTPUT)
def test_a_full_standard_output_is_said_in_one_line(sbert_ft: Callable[..., Ended], name: str) -> None:
    ended = sbert_ft(*COMMANDS[name], setup="standard output is full")
    assert ended.code == 2
    assert ended.err.endswith("sbert-ft: error: standard output cannot be written: No space left on device\n")


@pytest.mark.parametrize("name", ["score two", "doctor", "config init"])
def test_a_reader_that_went_away_ends_without_a_word(sbert_ft: Callable[..., Ended], name: str) -> None:
    ended = sbert_ft(*COMMANDS[name], setup="nobody reads standard output")
    assert ended.code == 141 and "error" not in ended.err


@pytest.mark.parametrize(
    "setup",
    ["standard output is closed", "standard error is closed", "standard error is full", "nobody reads standard error"],
)
@pytest.mark.parametrize("name", ["encode", "doctor"])
def test_streams_that_are_gone_change_no_result(sbert_ft: Callable[..., Ended], setup: str, name: str) -> None:
    usual = sbert_ft(*COMMANDS[name])
    vectors = (usual.folder / "o.npy").read_bytes() if name == "encode" else b""
    ended = sbert_ft(*COMMANDS[name], setup=setup)
    assert ended.code == usual.code
    assert ended.out == ("" if setup == "standard output is closed" else usual.out)
    assert name == "doctor" or (ended.folder / "o.npy").read_bytes() == vectors


def test_an_error_never_goes_to_standard_output(sbert_ft: Callable[..., Ended]) -> None:
    ended = sbert_ft("encode", "nowhere", "texts.txt", "-o", "o.npy", setup="standard error is closed")
    assert (ended.code, ended.out, ended.written) == (2, "", set())


def test_a_run_without_any_stream_leaves_whole_files(sbert_ft: Callable[..., Ended]) -> None:
    ended = sbert_ft(*COMMANDS["train"], setup="all streams are closed")
    assert ended.code == 0 and "out/report.html" in ended.written
    assert json.loads((ended.folder / "out" / "metrics.json").read_text())["steps"] == 2
    assert SiameseBert.from_pretrained(ended.folder / "out" / "model", "cpu").encode("a dog").shape == (32,)


@pytest.mark.parametrize("name", ["score two", "evaluate", "dry run", "config check"])
def test_streams_of_ascii_take_texts_of_any_script(sbert_ft: Callable[..., Ended], name: str) -> None:
    (sbert_ft("--version").folder / "pairs.csv").write_text("text1,text2,score\n가,나,1\n다,라,2\n마,바,3\n사,아,4\n")
    ended = sbert_ft(*COMMANDS[name], setup="streams take ASCII")
    assert ended.code == 0 and ended.out.isascii() and ended.err.isascii()


# home, temporary folder, current folder, limits, modes, sockets


@pytest.mark.parametrize("setup", ["there is no home", "there is no temporary folder", "few files may be open"])
@pytest.mark.parametrize("name", ["encode", "score", "index", "mine", "evaluate"])
def test_a_poor_place_is_enough(sbert_ft: Callable[..., Ended], setup: str, name: str) -> None:
    ended = sbert_ft(*COMMANDS[name], setup=setup)
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("name", ["encode", "index", "mine", "train", "doctor", "config check", "config init"])
def test_a_current_folder_that_is_gone_is_a_missing_file(sbert_ft: Callable[..., Ended], name: str) -> None:
    ended = sbert_ft(*COMMANDS[name], setup="the current folder is gone")
    assert ended.code == (0 if name == "config init" else 2)
    assert ended.code == 0 or re.search("(?i)no such file", ended.err)


@pytest.mark.parametrize(
    ("setup", "file", "folder"), [("files are for the owner", 0o600, 0o700), ("files are for all", 0o666, 0o777)]
)
def test_what_is_written_has_the_mode_that_the_user_asks_for(
    sbert_ft: Callable[..., Ended], setup: str, file: int, folder: int
) -> None:
    sbert_ft(*COMMANDS["encode"], setup=setup)
    ended = sbert_ft(*COMMANDS["train"], setup=setup)
    made = [ended.folder / "o.npy", ended.folder / "out", *(ended.folder / "out").rglob("*")]
    assert len(made) > 20
    wrong = {str(path.relative_to(ended.folder)): oct(stat.S_IMODE(path.stat().st_mode)) for path in made}
    wrong = {name: mode for name, mode in wrong.items() if mode not in (oct(file), oct(folder))}
    assert not {name for name in wrong if not name.endswith(".lock")}, wrong


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_asks_for_a_socket(sbert_ft: Callable[..., Ended], name: str) -> None:
    ended = sbert_ft(*COMMANDS[name], setup="sockets are noted")
    assert ended.code in (0, 1)
    assert (ended.folder / "sockets").read_text() == ""


# names of files and folders

ODD_NAMES = [
    "a\nb",
    "\x1b[31mred",
    "\u202egpj",
    "-o",
    "sp ace",
    "$(touch x)",
    "q'\"",
    "한국어",
    os.fsdecode(b"\xff\xfe"),
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_a_file_of_any_name_is_read_written_and_shown_in_one_line(sbert_ft: Callable[..., Ended], name: str) -> None:
    folder = sbert_ft("--version").folder
    shutil.copy(folder / "pairs.csv", folder / f"{name}.csv")
    ended = sbert_ft("score", "MODEL", f"./{name}.csv", "-o", f"./{name}.out.csv", "--name", "cosine")
    assert ended.code == 0 and ended.written == {f"{name}.csv", f"{name}.out.csv"}
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", ended.err)
    refused = sbert_ft("score", "MODEL", f"./{name}.tsv", "-o", "o.csv")
    assert (refused.code, refused.err.count("\n")) == (2, 1) and "no such file" in refused.err
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", refused.err)


@pytest.mark.parametrize("name", ["x" * 251, "가" * 80])
def test_a_name_as_long_as_a_file_system_takes_can_be_written(sbert_ft: Callable[..., Ended], name: str) -> None:
    ended = sbert_ft("score", "MODEL", "pairs.csv", "-o", f"{name}.csv", "--name", "cosine")
    assert ended.code == 0 and ended.written == {f"{name}.csv"}


@pytest.mark.parametrize(
    "target",
    ["pairs.csv", "./pairs.csv", "hard.csv", "soft.csv", "fifo.csv", "dangling/o.csv", "loop.csv", "..", "", "o.csv\0"],
)
def test_no_output_takes_the_place_of_what_is_read_or_cannot_be_replaced(
    sbert_ft: Callable[..., Ended], target: str
) -> None:
    folder = sbert_ft("--version").folder
    before = (folder / "pairs.csv").read_bytes()
    os.link(folder / "pairs.csv", folder / "hard.csv")
    (folder / "soft.csv").symlink_to("pairs.csv")
    (folder / "loop.csv").symlink_to("loop.csv")
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "fifo.csv")
    ended = sbert_ft("score", "MODEL", "pairs.csv", "-o", target, "--name", "cosine")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert (folder / "pairs.csv").read_bytes() == before == (folder / "hard.csv").read_bytes()
    assert ended.written == {"hard.csv", "soft.csv"}


# a run's folder


@pytest.mark.parametrize("path", ["~", "~/x"])
@pytest.mark.parametrize("key", ["output_dir", "data.train", "data.dev", "data.test"])
def test_a_home_folder_by_its_sign_is_refused_rather_than_made(
    sbert_ft: Callable[..., Ended], key: str, path: str
) -> None:
    ended = sbert_ft("train", "run.json", "--set", f"{key}={path}")
    assert ended.code == 2 and f"{key}: found '{path}'" in ended.err and "write the whole path" in ended.err
    assert not ended.written


@pytest.mark.parametrize(
    ("path", "options"),
    [
        *((path, ()) for path in (".", "..")),  # to overwrite leaves other files, so there a run may begin
        *(
            (path, options)
            for path in ("pairs.csv", "run.json", "/dev/null", "MODEL", "x" * 300)
            for options in ((), ("--overwrite",))
        ),
    ],
)
def test_no_run_begins_over_what_is_no_run(
    sbert_ft: Callable[..., Ended], model_folder: Path, path: str, options: tuple[str, ...]
) -> None:
    before = {file.name: file.read_bytes() for file in model_folder.iterdir()}
    given = str(model_folder) if path == "MODEL" else path
    ended = sbert_ft("train", "run.json", "--quiet", "--set", f"output_dir={given}", *options)
    assert ended.code == 2 and not ended.written
    assert {file.name: file.read_bytes() for file in model_folder.iterdir()} == before


def test_overwriting_spares_the_model_and_the_data_that_the_new_run_is_made_from(
    sbert_ft: Callable[..., Ended],
) -> None:
    folder = sbert_ft(*COMMANDS["train"]).folder / "out"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for key, path in (
        ("model.path", "out/model"),
        ("model.path", "out/../out/model/"),
        ("data.train", "out/worst_pairs.csv"),
    ):
        ended = sbert_ft(*COMMANDS["train"], "--overwrite", "--set", f"{key}={path}")
        assert ended.code == 2 and f"{key}, '{path}', is part of the run in 'out'" in ended.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    model = SiameseBert.from_pretrained(folder / "model", "cpu")
    with pytest.raises(SbertFtError, match="is part of the run"):
        fine_tune(model, PAIRS, output_dir=folder, on_existing="overwrite")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_runs_folder_cannot_drive_the_terminal(sbert_ft: Callable[..., Ended]) -> None:
    ended = sbert_ft(*COMMANDS["train"], "--set", "output_dir=o\x1b[31m\n\u202ex")
    assert ended.code == 0
    assert r"model:  o\x1b[31m\n\u202ex/model" in ended.out
    assert not re.search("[\x00-\x09\x0b-\x1f\u202a-\u202e]", ended.out + ended.err)


def test_a_config_of_another_kind_in_the_runs_place_is_refused_however_deep(sbert_ft: Callable[..., Ended]) -> None:
    folder = sbert_ft("--version").folder / "out"
    folder.mkdir()
    (folder / "config.json").write_text("[" * 100_000)
    ended = sbert_ft(*COMMANDS["train"], "--overwrite")
    assert ended.code == 2 and "is not from a run" in ended.err
    assert ended.written == {"out/config.json"}


@pytest.mark.parametrize(
    "text", ["model:\n  path: m\n", "[model]\npath = 'm'\n", "run = {'model': 1}\n", "<html>", "\x80"]
)
def test_a_configuration_in_another_language_is_told_what_is_read(sbert_ft: Callable[..., Ended], text: str) -> None:
    folder = sbert_ft("--version").folder
    (folder / "run.yaml").write_text(text, encoding="latin-1")
    ended = sbert_ft("train", "run.yaml")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert re.search("one JSON object|save it as UTF-8|is broken JSON", ended.err)


# how Python is started


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **path, **environment},
        capture_output=True,
        text=True,
        timeout=MAX_SECONDS,
        check=False,
    )


def test_files_called_like_modules_are_never_imported(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(model_folder, folder)  # a stranger's folder, in which the command is run
    (folder / "t.txt").write_text("a dog\n")
    names = "random json config numpy torch logging signal csv io re transformers tokenizers tqdm safetensors scipy grp"
    for name in [*names.split(), "modeling_bert", "tokenization_bert"]:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_bert.X", "AutoTokenizer": "tokenization_bert.X"}
    (folder / "config.json").write_text(json.dumps(config))
    script = tmp_path / "sbert-ft"
    script.write_text("import sys\nfrom sbert_ft.cli import main\nsys.exit(main())\n")
    # a library's warning, were it let through, would end the command here
    done = python("-W", "error", str(script), "encode", ".", "t.txt", "-o", "o.npy", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert np.load(folder / "o.npy").shape == (1, 32)
    assert not (tmp_path / "ran").exists()


def test_a_python_without_docstrings_is_said_to_be_too_little(tmp_path: Path) -> None:
    refused = python("-OO", "-m", "sbert_ft", "encode", "m", "t.txt", "-o", "o.npy", cwd=tmp_path)
    assert refused.returncode == 2 and "python -OO" in refused.stderr
    assert python("-OO", "-m", "sbert_ft", "config", "init", cwd=tmp_path).returncode == 0


# what is written of strangers' texts

PAYLOADS = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "\"'><svg/onload=alert(1)>",
    "</style></title></table></main><iframe src=http://example.org>",
    "![i](http://example.org/i.png) [l](javascript:alert(1)) <http://example.org> http://example.org www.example.org",
    "| a | b\n---\n# h `c` $x$ \x1b[31m\u202e\ud800",
]
# A log's and a result's own words, by which their lines are found.
STRUCTURAL = {"kind", "split", "metric", "similarity", "target"}


def poisoned(value: Any, payload: str, key: str = "") -> Any:
    """Return a value in which every text that is no structure has the payload behind it."""
    if isinstance(value, str):
        return value if key in STRUCTURAL else value + payload
    if isinstance(value, dict):
        return {name: poisoned(inner, payload, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(poisoned(inner, payload, key) for inner in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and key != "decision":
        names = [f.name for f in dataclasses.fields(value) if f.name != "name"]
        return dataclasses.replace(value, **{name: poisoned(getattr(value, name), payload, name) for name in names})
    return value


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
@pytest.mark.parametrize("made", [hostile_pairs, hostile_classes], ids=["pairs", "classes"])
def test_no_text_of_a_report_becomes_a_tag_an_attribute_or_an_address(made: Callable[[], Any], payload: str) -> None:
    clean, report = made(), None
    parts = {
        name: poisoned(getattr(clean, name), payload, name)
        for name in ("title", "metrics", "ledgers", "worst", "mistakes")
    }
    report = dataclasses.replace(clean, **parts)
    page, known = Page(html_report(report)), Page(html_report(clean))
    shapes = {(tag, tuple(sorted(attributes))) for tag, attributes in page.tags}
    assert shapes <= {(tag, tuple(sorted(attributes))) for tag, attributes in known.tags} | {("span", ("class",))}
    assert "example.org" not in {name for _, attributes in page.tags for name in attributes}
    addressed = [v for tag, a in page.tags for n, v in a.items() if n in ("href", "src", "action", "content", "style")]
    assert not any("example.org" in (value or "") for value in addressed)
    assert "example.org" not in payload or "example.org" in page.text
    text = markdown_report(report)
    assert text.replace("<br>", "").count("<") == 0
    assert not re.search(r"(?<!\\)://|(?<!\\)\]\(|(?<!\\)\$|\bwww\.", text)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", text)


def test_an_address_in_markdown_is_a_text() -> None:
    assert literal("see http://a.b/c_d, WWW.a.b and $5 or $6") == r"see http\://a.b/c\_d, WWW\.a.b and \$5 or \$6"


def test_names_of_a_strangers_folder_are_texts_in_the_model_card(model_folder: Path, tmp_path: Path) -> None:
    model = SiameseBert.from_pretrained(model_folder, "cpu")
    model.prompts = {payload.replace("\ud800", ""): "a" for payload in PAYLOADS}
    model.save_pretrained(tmp_path / "st")
    classifier = BertClassifier(model.bert, kind="single")
    classifier.start_head([payload.replace("\ud800", "") for payload in PAYLOADS])
    classifier.save_pretrained(tmp_path / "classes")
    for card in (tmp_path / name / "README.md" for name in ("st", "classes")):
        text = card.read_text(encoding="utf-8")
        head, body = text.split("---\n")[1:3]
        assert "example" not in head and "alert" not in head
        prose = re.sub(r"(?s)```.*?```", "", body)
        assert "alert" in prose and "<" not in prose
        assert not re.search(r"(?<!\\)://|(?<!\\)\]\(|(?<!\\)[`$]|\bwww\.|[\x1b\u202e]", prose)


# code that is kept


def kept_code(folder: Path) -> Package:
    """Return a package that was written as compiled code is, and is taken for whole."""
    package = Package.of(folder, {"weights": "a"})
    package.write(lambda path, place: path.write_bytes(b"code") and None)
    assert package.is_whole()
    return package


def test_compiled_code_that_anybody_could_have_put_there_is_not_taken(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "cache", tmp_path / "model")
    package = kept_code(folder)
    digest = package.path.with_suffix(".sha256")
    package.path.write_bytes(b"evil")
    assert not package.is_whole()
    package = kept_code(folder)
    digest.write_text("0" * 64)
    assert not package.is_whole()
    package = kept_code(folder)
    digest.unlink()
    assert not package.is_whole()
    package = kept_code(folder)
    package.path.rename(tmp_path / "elsewhere")
    package.path.symlink_to(tmp_path / "elsewhere")
    assert not package.is_whole(), "a link could be turned elsewhere between the look and the load"
    package.path.unlink()
    package.path.mkdir()
    assert not package.is_whole()


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files to others")
def test_compiled_code_of_another_user_is_not_taken(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "cache", tmp_path / "model")
    package = kept_code(folder)
    os.chown(package.path, 12345, 12345)
    assert not package.is_whole()
    os.chown(folder, 12345, 12345)
    with pytest.raises(InputError, match="others can write to it"):
        private_folder(folder, tmp_path / "model")
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, 12345)
    with pytest.raises(InputError, match="others may put another folder in its place"):
        private_folder(tmp_path / "theirs" / "cache", tmp_path / "model")


@pytest.mark.parametrize(("mode", "is_taken"), [(0o700, True), (0o755, True), (0o777, False), (0o1777, True)])
def test_code_is_not_kept_below_a_folder_in_which_others_rename(tmp_path: Path, mode: int, is_taken: bool) -> None:
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(mode)
    if is_taken:
        assert private_folder(above / "cache", tmp_path / "model").is_dir()
        return
    with pytest.raises(InputError, match="others may put another folder in its place"):
        private_folder(above / "cache", tmp_path / "model")
    assert not (above / "cache").exists(), "something was made in a place that is refused"


# arguments of public functions

ODD_VALUES: list[Any] = [
    *(None, b"x", 0, -1, 1, 2**70, 1.5, float("nan"), float("inf"), True, "", "x", "a\0b", "\ud800"),
    *([], [1], [None], [[]], [("a",)], [("a", "b", "c")], [(1, 2)], {}, {"a": 1}, {"a"}, (), range(3)),
    *(object(), int, Path("x"), np.int64(3), np.float32(0.5), np.str_("word"), torch.tensor(3)),
]
PAIRS = ConnectionDataset.from_pairs([("a dog", "a cat", 1), ("a", "b", 0), ("c", "d", 1), ("e f", "g", 0)])
TWO = [("a dog", "a cat"), ("a", "b")]
VECTORS = np.zeros((2, 32), np.float32)
Call = Callable[[SimpleNamespace, Any], object]


def settings_of(field: str, of: type, section: str) -> Call:
    """Return what checks settings of which one field is odd."""

    def call(_: SimpleNamespace, value: Any) -> object:
        run = RunSettings(ModelSettings("m"), DataSettings("t", dev="d"), "o")
        return check_settings(dataclasses.replace(run, **{section: of(**{field: value})}))

    return call


CALLS: dict[str, Call] = {
    "ConnectionBert.from_pretrained(folder)": lambda at, v: ConnectionBert.from_pretrained(v),
    "SiameseBert.from_pretrained(folder)": lambda at, v: SiameseBert.from_pretrained(v),
    "SiameseBert.from_pretrained(device)": lambda at, v: SiameseBert.from_pretrained(at.folder, v),
    "SiameseBert.from_pretrained(precision)": lambda at, v: SiameseBert.from_pretrained(at.folder, "cpu", v),
    "SiameseBert(bert)": lambda at, v: SiameseBert(v),
    "SiameseBert(pooling)": lambda at, v: SiameseBert(at.model.bert, v),
    "SiameseBert(max_seq_length)": lambda at, v: SiameseBert(at.model.bert, None, v),
    "forward": lambda at, v: at.model(v),
    "encode(inputs)": lambda at, v: at.model.encode(v),
    "encode(prompt_name)": lambda at, v: at.model.encode(["a"], prompt_name=v),
    "encode(prompt)": lambda at, v: at.model.encode(["a"], prompt=v),
    "encode(batch_size)": lambda at, v: at.model.encode(["a"], batch_size=v),
    "encode(truncate_dim)": lambda at, v: at.model.encode(["a"], truncate_dim=v),
    "encode(on_truncate)": lambda at, v: at.model.encode(["a"], on_truncate=v),
    "encode_stream(inputs)": lambda at, v: list(at.model.encode_stream(v)),
    "encode_stream(count)": lambda at, v: list(at.model.encode_stream(["a"], count=v)),
    "similarity(1)": lambda at, v: at.model.similarity(v, VECTORS),
    "similarity(2)": lambda at, v: at.model.similarity(VECTORS, v),
    "similarity_pairwise": lambda at, v: at.model.similarity_pairwise(v, VECTORS),
    "score(pairs)": lambda at, v: at.model.score(v),
    "score(batch_size)": lambda at, v: at.model.score(TWO, v),
    "match(threshold)": lambda at, v: at.model.match(TWO, threshold=v),
    "predict_proba": lambda at, v: at.model.predict_proba(v),
    "save_pretrained": lambda at, v: at.model.save_pretrained(v),
    "compile": lambda at, v: private_folder(v, at.folder),
    "from_file(path)": lambda at, v: ConnectionDataset.from_file(v),
    "from_dataframe": lambda at, v: ConnectionDataset.from_dataframe(v),
    "from_pairs(pairs)": lambda at, v: ConnectionDataset.from_pairs(v),
    "from_pairs(labels)": lambda at, v: ConnectionDataset.from_pairs(TWO, labels=v),
    "from_pairs(reading)": lambda at, v: ConnectionDataset.from_pairs(TWO, v),
    "from_texts(texts)": lambda at, v: ConnectionDataset.from_texts(v),
    "from_texts(labels)": lambda at, v: ConnectionDataset.from_texts(["a", "b"], labels=v),
    "select": lambda at, v: PAIRS.select(v),
    "split(dev_share)": lambda at, v: PAIRS.split(v, 1),
    "split(seed)": lambda at, v: PAIRS.split(0.5, v),
    "with_overlaps": lambda at, v: PAIRS.with_overlaps(dev=v),
    "class_codes": lambda at, v: CLASSES.class_codes(v),
    "BertClassifier(bert)": lambda at, v: BertClassifier(v),
    "BertClassifier(kind)": lambda at, v: BertClassifier(at.model.bert, kind=v),
    "BertClassifier.from_pretrained": lambda at, v: BertClassifier.from_pretrained(v),
    "predict(X)": lambda at, v: at.classifier.predict(v),
    "predict(batch_size)": lambda at, v: at.classifier.predict(["a"], v),
    "classifier.score(X)": lambda at, v: at.classifier.score(v, ["a", "b"]),
    "classifier.score(y)": lambda at, v: at.classifier.score(["a", "b"], v),
    "start_head(classes)": lambda at, v: BertClassifier(at.model.bert, kind="single").start_head(v),
    "start_head(seed)": lambda at, v: BertClassifier(at.model.bert, kind="single").start_head(["a", "b"], v),
    "fit(X)": lambda at, v: at.classifier.fit(v, ["a"]),
    "fit(y)": lambda at, v: at.classifier.fit(["a"], v),
    "fit(dev)": lambda at, v: v is None or at.classifier.fit(["a", "b"], ["a", "b"], dev=v),
    "fit(dev_share)": lambda at, v: v is None or at.classifier.fit(["a", "b"], ["a", "b"], dev_share=v),
    "fit(objective)": lambda at, v: at.classifier.fit(["a", "b"], ["a", "b"], objective=v),
    "fit(training)": lambda at, v: v is None or at.classifier.fit(["a", "b"], ["a", "b"], training=v),
    "fine_tune(model)": lambda at, v: fine_tune(v, PAIRS, output_dir="o"),
    "fine_tune(train)": lambda at, v: fine_tune(at.model, v, output_dir="o"),
    "fine_tune(dev)": lambda at, v: v is None or fine_tune(at.model, PAIRS, v, output_dir="o"),
    "fine_tune(objective)": lambda at, v: v is None or fine_tune(at.model, PAIRS, output_dir="o", objective=v),
    "fine_tune(training)": lambda at, v: v is None or fine_tune(at.model, PAIRS, output_dir="o", training=v),
    "fine_tune(evaluation)": lambda at, v: v is None or fine_tune(at.model, PAIRS, output_dir="o", evaluation=v),
    "fine_tune(on_existing)": lambda at, v: fine_tune(at.model, PAIRS, output_dir="o", on_existing=v),
    "fine_tune(output_dir)": lambda at, v: v in ("x", Path("x")) or fine_tune(at.model, PAIRS, output_dir=v),
    "fit_threshold(model)": lambda at, v: fit_threshold(v, PAIRS),
    "fit_threshold(dev)": lambda at, v: fit_threshold(at.model, v),
    "fit_threshold(target)": lambda at, v: fit_threshold(at.model, PAIRS, v),
    "fit_threshold(calibration)": lambda at, v: fit_threshold(at.model, PAIRS, "f1", v),
}
for section, of in (("training", TrainingSettings), ("evaluation", EvaluationSettings)):
    for field in dataclasses.fields(of):
        CALLS[f"{of.__name__}({field.name})"] = settings_of(field.name, of, section)


def reading_of(field: str) -> Call:
    """Return what reads a file with a statement about it of which one field is odd."""
    return lambda at, value: ConnectionDataset.from_file(at.pairs, Reading(**{field: value}))


for field in dataclasses.fields(Reading):
    CALLS[f"Reading({field.name})"] = reading_of(field.name)
CLASSES = ConnectionDataset.from_texts(["a", "b"], Reading(label_kind="classes"), labels=["x", "y"])


@pytest.fixture(scope="module")
def at(model_folder: Path) -> SimpleNamespace:
    """Return a model and a classifier to call methods of."""
    torch.set_num_threads(1)
    model = SiameseBert.from_pretrained(model_folder, "cpu", "float32")
    classifier = BertClassifier(model.bert, kind="single")
    classifier.start_head(["a", "b"])
    pairs = model_folder.parent / "pairs.csv"
    pairs.write_text("text1,text2,score\na dog,a cat,1\na bird,a horse,2\n")
    return SimpleNamespace(folder=model_folder, model=model, classifier=classifier, pairs=pairs)


@pytest.mark.parametrize("name", CALLS)
def test_an_argument_of_a_wrong_kind_is_refused_by_a_sentence_or_taken_for_what_it_is(
    at: SimpleNamespace, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    n_refused = 0
    for value in ODD_VALUES:
        try:
            CALLS[name](at, value)
        except SbertFtError as error:
            n_refused += 1
            lines = str(error).splitlines()
            assert lines and all(line.isprintable() for line in lines), repr(value)
            assert len(str(error)) < 3000
    assert n_refused > 5
    assert not (tmp_path / "model").exists() and not (tmp_path / "config.json").exists()


def test_what_would_be_taken_for_something_else_is_refused(at: SimpleNamespace) -> None:
    for refused in (
        lambda: list(at.model.encode_stream("a text, not its letters")),
        lambda: at.model.score("ab"),
        lambda: at.model.encode(["a"], prompt=0),
        lambda: SiameseBert(at.model.bert, ""),
        lambda: at.model.save_pretrained(""),
        lambda: SiameseBert.from_pretrained(""),
        lambda: at.model.encode(["a"], truncate_dim=True),
        lambda: at.classifier.score(["a", "b"], "ab"),
        lambda: fine_tune(at.model, PAIRS, output_dir=""),
        lambda: fine_tune(at.model, PAIRS, output_dir="o", training=0),
    ):
        with pytest.raises(SbertFtError):
            refused()


def test_numbers_of_numpy_are_numbers(at: SimpleNamespace, tmp_path: Path) -> None:
    three = np.int64(3)
    expected = at.model.encode(["a dog", "a cat"])
    np.testing.assert_array_equal(at.model.encode(["a dog", "a cat"], batch_size=three), expected)
    assert at.model.encode(["a"], truncate_dim=np.uint8(5)).shape == (1, 5)
    assert SiameseBert(at.model.bert, None, np.int32(7)).max_seq_length == 7
    assert len(PAIRS.split(np.float64(0.5), three)[0]) == len(PAIRS.split(0.5, 3)[0])
    training = TrainingSettings(
        max_steps=np.int64(1), batch_size=np.int32(2), learning_rate=np.float64(1e-5), seed=three
    )
    model = SiameseBert.from_pretrained(at.folder, "cpu", "float32")
    evaluation = EvaluationSettings(bootstrap_samples=np.int64(100))
    cosine = ObjectiveSettings("cosine", weight=np.float32(1))
    made = fine_tune(
        model, PAIRS, output_dir=tmp_path / "o", objective=cosine, training=training, evaluation=evaluation
    )
    saved = json.loads((made.folder / "config.json").read_text())["training"]
    assert (saved["max_steps"], saved["batch_size"], saved["learning_rate"], saved["seed"]) == (1, 2, 1e-5, 3)


def test_no_vectors_compare_with_any(at: SimpleNamespace) -> None:
    assert at.model.similarity([], VECTORS).shape == (0, 2)
    assert at.model.similarity(VECTORS, []).shape == (2, 0)
    assert at.model.similarity([], []).shape == (0, 0)
    assert at.model.similarity_pairwise([], []).shape == (0,)
