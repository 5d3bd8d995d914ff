"""Nothing opens a network connection: the commands and the loading of models, in processes that may not connect."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Replaces every door to the network before anything of ours, or of a library, is imported. Attempts are kept as well
# as refused, for a library may try, fail and go on without a word.
PRELUDE = """
import json, socket, sys
attempts = []
def forbid(name):
    def attempt(*arguments, **_):
        attempts.append(f"{name} {[a for a in arguments if not isinstance(a, socket.socket)]}")
        raise OSError(f"{name} is forbidden here")
    return attempt
for name in ("connect", "connect_ex", "sendto", "bind"):
    setattr(socket.socket, name, forbid(f"socket.{name}"))
for name in ("create_connection", "getaddrinfo", "gethostbyname", "gethostbyname_ex", "getnameinfo"):
    setattr(socket, name, forbid(name))
"""
REPORT = """
sys.stdout.flush()
print(json.dumps({"attempts": attempts, "result": result}))
"""


@pytest.fixture(scope="module")
def folder(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("offline") / "model")


def without_network(code: str, *arguments: object, cwd: Path) -> tuple[list[str], object, str]:
    """Return what was attempted, the value of `result` after `code`, and standard error."""
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in offline}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    environment["HF_HOME"] = str(cwd / "no-cache")
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code + REPORT, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    return report["attempts"], report["result"], done.stderr


MAIN = """
from sbert_ft.cli import main
result = main(sys.argv[1:])
"""


def test_the_prelude_sees_attempts(tmp_path: Path) -> None:
    code = """
from urllib.request import urlopen
result = []
for attempt in (lambda: urlopen("http://example.org"), lambda: socket.socket().connect(("192.0.2.1", 80))):
    try:
        attempt()
    except OSError as error:
        result.append("forbidden" in str(error))
"""
    attempts, refused, _ = without_network(code, cwd=tmp_path)
    assert refused == [True, True]
    assert [attempt.split()[0] for attempt in attempts] == ["create_connection", "socket.connect"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode", "MODEL", "texts.txt", "-o", "out.npy"],
        ["score", "MODEL", "pairs.csv", "-o", "out.csv"],
        ["score", "MODEL", "a dog", "a cat"],
    ],
    ids=" ".join,
)
def test_commands_work_without_a_network(folder: Path, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "texts.txt").write_text("a dog\na cat\n")
    (tmp_path / "pairs.csv").write_text("text1,text2\na dog,a cat\n")
    given = [str(folder) if argument == "MODEL" else argument for argument in arguments]
    attempts, code, said = without_network(MAIN, *given, cwd=tmp_path)
    assert (attempts, code) == ([], 0), said
    assert "-o" not in arguments or (tmp_path / arguments[-1]).stat().st_size > 0


def test_doctor_works_without_a_network(folder: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("sbert_ft.commands.doctor") is None:
        pytest.skip("sbert_ft.commands.doctor is not there yet")
    (tmp_path / "texts.txt").write_text("a dog\na cat\n")
    attempts, code, said = without_network(MAIN, "doctor", folder, "--texts", "texts.txt", cwd=tmp_path)
    assert (attempts, code) == ([], 0), said


def test_real_model_is_loaded_and_handed_on_without_a_network(minilm_path: Path, tmp_path: Path) -> None:
    code = """
from sbert_ft import SiameseBert
model = SiameseBert.from_pretrained(sys.argv[1], device="cpu")
model.save_pretrained("saved")
texts = ["A man plays a guitar.", "Someone makes music."]
theirs = model.as_sentence_transformer().encode(texts)
again = SiameseBert.from_pretrained("saved", device="cpu", precision="float32").encode(texts)
result = [list(theirs.shape), float(abs(theirs - again).max())]
"""
    attempts, (shape, difference), _ = without_network(code, minilm_path, cwd=tmp_path)  # type: ignore[misc]
    assert (attempts, shape) == ([], [2, 384])
    assert difference < 5e-6


@pytest.mark.parametrize("name", ["no/such-model", "bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2"])
def test_name_of_the_hub_is_an_error_at_once(tmp_path: Path, name: str) -> None:
    code = """
from sbert_ft import SbertFtError, SiameseBert
try:
    result = SiameseBert.from_pretrained(sys.argv[1])
except SbertFtError as error:
    result = str(error)
"""
    attempts, message, _ = without_network(code, name, cwd=tmp_path)
    assert attempts == []
    assert isinstance(message, str) and name in message and "folder" in message
