"""Nothing opens a network connection: the commands and the loading of models, in processes that may not connect."""

from __future__ import annotations

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


# Runs command lines one after the other, and loads folders by name.
MANY = """
from sbert_ft import SbertFtError, SiameseBert
from sbert_ft.cli import main
result = []
for what, *arguments in json.loads(sys.argv[1]):
    del attempts[:]
    if what == "command":
        outcome = main(arguments)
    else:
        try:
            outcome = str(SiameseBert.from_pretrained(*arguments))
        except SbertFtError as error:
            outcome = str(error)
    result.append([list(attempts), outcome])
del attempts[:]
"""
COMMANDS = (
    ("encode", "MODEL", "texts.txt", "-o", "out.npy"),
    ("encode", "MODEL", "texts.txt", "--vectors", "int8", "-o", "shards/"),
    ("index", "MODEL", "texts.txt", "-o", "texts.index"),
    ("search", "texts.index", "a dog"),
    ("mine", "MODEL", "texts.txt", "--threshold", "0.5", "-o", "mined.csv"),
    ("score", "MODEL", "pairs.csv", "-o", "out.csv"),
    ("score", "MODEL", "a dog", "a cat"),
    ("doctor", "MODEL", "--texts", "texts.txt"),
    ("vocab", "texts.txt", "--size", "100", "--compare", "MODEL", "-o", "start"),
    ("vocab", "texts.txt", "--extend", "MODEL", "-o", "larger"),
    ("export", "MODEL", "--texts", "texts.txt", "--precision", "int8"),
    ("export", "MODEL", "--texts", "texts.txt", "--precision", "int8", "--engine", "openvino"),
)
OF_THE_HUB = ("no/such-model", "bert-base-uncased", "sentence-transformers/all-MiniLM-L6-v2")


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


@pytest.fixture(scope="module")
def many(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[list[str], object]]]:
    """Return a folder in which the commands were run and models were asked for, and what each attempted and gave."""
    place = tmp_path_factory.mktemp("offline")
    (place / "texts.txt").write_text("a dog\na cat\n")
    (place / "pairs.csv").write_text("text1,text2\na dog,a cat\n")
    calls = [["command", *(str(folder) if part == "MODEL" else part for part in command)] for command in COMMANDS]
    calls += [["load", name] for name in OF_THE_HUB]
    _, results, _ = without_network(MANY, json.dumps(calls), cwd=place)
    assert isinstance(results, list)
    return place, results


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[" ".join(command) for command in COMMANDS])
def test_commands_work_without_a_network(many: tuple[Path, list[tuple[list[str], object]]], number: int) -> None:
    place, results = many
    attempts, code = results[number]
    assert (attempts, code) == ([], 0)
    command = COMMANDS[number]
    assert "-o" not in command or (place / command[-1]).stat().st_size > 0


@pytest.mark.parametrize("number", range(len(OF_THE_HUB)), ids=OF_THE_HUB)
def test_name_of_the_hub_is_an_error_at_once(many: tuple[Path, list[tuple[list[str], object]]], number: int) -> None:
    attempts, message = many[1][len(COMMANDS) + number]
    assert attempts == []
    assert isinstance(message, str) and OF_THE_HUB[number] in message and "folder" in message


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
