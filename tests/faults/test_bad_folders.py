"""Every bad or odd model folder of `bad_inputs/folders.py`, through from_pretrained, the doctor and a command.

All of a case is one fork of the warm process (see `bad_inputs/judging.py`), which notes what it executes, opens and
writes.
What is refused is refused everywhere with the same words; what works computes the numbers of the whole folder, also
after it was saved and loaded again; and the doctor fails what does not load, and nothing else.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_inputs.folder_parts import LAYOUTS
from bad_inputs.folders import CASES, Case
from bad_inputs.judging import (
    Call,
    Judge,
    Outcome,
    assert_harmless,
    assert_refused,
    assert_warned,
    assert_works,
    command,
    loading,
)
from warm import WarmProcess

TEXTS = ["a dog", "The cat is playing the guitar!", "", "한국어 café aaaa"]
PAIRS = [["a dog", "a cat"], ["", "blue"]]
COMMANDS: dict[str, tuple[str, ...]] = {
    "siamese": ("encode", "score", "evaluate", "train"),
    "classifier": ("predict", "evaluate"),
}
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "encode": ("texts.txt", "-o", "vectors.npy"),
    "score": ("pairs.csv", "-o", "scored.csv", "--only-score"),
    "evaluate": ("pairs.csv", "--samples", "5"),
    "predict": ("pairs.csv", "-o", "predicted.csv", "--only-predicted"),
}
IN_DEPTH = (
    "a config.json of 0 bytes",
    "a .bin with 64 bytes flipped",
    "a zip that calls os.system",
    "a git-lfs pointer as vocab.txt",
    "a header of 2**63 bytes",
    "another width",
    "a line more than rows",
    "NaN in a tensor",
    "a pipe in the place of tokenizer.json",
    "names that begin with module.model.bert.",
    "auto_map in config.json",
    "hostile files of a trainer beside good weights",
)
"""These go through every command."""


@dataclass(frozen=True)
class Bench:
    """What cases are judged with.

    Attributes:
        judge: Runs them.
        place: Holds a whole folder of each layout under ``good``, and is where sandboxes are made.
        expected: What the whole folder of a layout computes.
    """

    judge: Judge
    place: Path
    expected: dict[str, Any]


@pytest.fixture(scope="module")
def bench(warm: WarmProcess) -> Iterator[Bench]:
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as name:
        place = Path(name)
        place.chmod(0o755)  # for those who read without privileges
        for layout, make in LAYOUTS.items():
            (place / "good" / layout).mkdir(parents=True)
            make(place / "good" / layout / "model")
        (place / "judge").mkdir()
        yield Bench(Judge(warm, place / "judge"), place, {})


@pytest.fixture
def sandbox(bench: Bench) -> Iterator[Path]:
    """Return a folder of its own, with texts and pairs, in which a run may write."""
    folder = bench.place / "sandbox"
    folder.mkdir()
    (folder / "texts.txt").write_text("a dog\nThe cat\n", "utf-8")
    others = ("a cat", "blue", "one man", "two women", "a horse", "green", "water", "old music", "a guitar", "food")
    for file, labels in (("pairs.csv", ("0", "1")), ("named.csv", ("no", "yes"))):
        rows = "".join(f"a dog,{text},{labels[n % 2]}\n" for n, text in enumerate(others))
        (folder / file).write_text(f"sentence1,sentence2,label\n{rows}", "utf-8")
    yield folder
    shutil.rmtree(folder)


def spoiled(case: Case, bench: Bench, sandbox: Path) -> Path:
    """Return where the case's folder is, made from a whole one."""
    folder = sandbox / "model"
    shutil.copytree(bench.place / "good" / case.layout / "model", folder)
    return case.spoil(folder) or folder


def load(case: Case, folder: Path, sandbox: Path, save: bool) -> Call:
    options = {"device": "cpu", "precision": "float32", **({"kind": "single"} if case.layout == "stock" else {})}
    return loading(
        folder,
        PAIRS if case.layout == "towers" else TEXTS,
        kind=case.kind,
        save=sandbox / "saved" if save else None,
        options={**options, **case.options},
        unprivileged=case.unprivileged,
    )


def command_of(name: str, case: Case, folder: Path, sandbox: Path) -> Call:
    """Return the call of a command; the files that it reads are written to the sandbox."""
    if name == "train":
        content = {"model": {"path": str(folder)}, "data": {"train": "pairs.csv"}, "output_dir": "run"}
        (sandbox / "run.json").write_text(json.dumps({**content, "training": {"device": "cpu"}}), "utf-8")
        return command(["train", "run.json", "--dry-run"])
    arguments = list(ARGUMENTS[name])
    if case.layout == "towers":
        arguments[0] = "named.csv"
    if case.layout == "stock":
        (sandbox / "single.csv").write_text(
            "text,label\nblue,{0}\na dog,{1}\ngreen,{0}\na cat,{1}\n".format(*case.labels), "utf-8"
        )
        arguments = ["single.csv", *arguments[1:], "--model-kind", "single"]
    return command([name, folder, *arguments, "--device", "cpu"])


def assert_expected(case: Case, outcome: Outcome) -> None:
    if case.expected == "refused":
        assert_refused(outcome, *case.words)
    elif case.expected == "warned":
        assert_warned(outcome, *case.words)
    else:
        assert_works(outcome, same=case.same)


def assert_same_numbers(case: Case, outcome: Outcome, bench: Bench) -> None:
    numbers = np.array(json.loads(outcome.stdout))
    assert np.isfinite(numbers).all()
    if case.same:
        np.testing.assert_allclose(numbers, bench.expected[case.layout], rtol=0.0, atol=case.tolerance)


def expected_of(case: Case, bench: Bench, sandbox: Path) -> None:
    """Compute once what the whole folder of the case's layout gives."""
    if case.layout not in bench.expected:
        whole = Case("whole", case.layout, lambda _: None, "works")
        call = load(whole, bench.place / "good" / case.layout / "model", sandbox, save=False)
        (outcome,) = bench.judge.each([call], sandbox)
        assert_works(outcome)
        bench.expected[case.layout] = json.loads(outcome.stdout)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_folder_is_refused_or_works_as_expected(case: Case, bench: Bench, sandbox: Path) -> None:
    expected_of(case, bench, sandbox)
    folder = spoiled(case, bench, sandbox)
    calls = [load(case, folder, sandbox, save=case.expected != "refused")]
    if not case.unprivileged:
        calls.append(command(["doctor", folder, "--deep", "--json"]))
        if not case.is_encoder:
            names = COMMANDS[case.kind]
            calls.append(command_of(names[zlib.crc32(case.name.encode()) % len(names)], case, folder, sandbox))
    try:
        outcome, *others = bench.judge.each(calls, sandbox)
    finally:
        if case.unprivileged:
            (sandbox / "model").chmod(0o755)
    assert_expected(case, outcome)
    if case.expected != "refused":
        assert_same_numbers(case, outcome, bench)
    if not others:
        return
    doctor, *commands = others
    found = assert_doctor_agrees(case, doctor)
    for other in commands:
        assert_expected(case, other)
    if case.expected == "refused" and case.doctor is None:
        missing = [word for word in case.words if word.lower() not in found.lower()]
        assert not missing, f"{missing} not in: {found}"


def assert_doctor_agrees(case: Case, outcome: Outcome) -> str:
    """Compare the doctor's verdict with what loading does, and return what it fails."""
    assert_harmless(outcome)
    failed = [check for check in json.loads(outcome.stdout) if check["status"] == "FAIL"]
    fails = case.expected == "refused" if case.doctor is None else case.doctor == "fails"
    assert bool(failed) == fails == (outcome.code == 1), failed or outcome.stdout
    assert not outcome.changed
    return " ".join(f"{check['found']}; {check['hint']}" for check in failed)


@pytest.mark.parametrize("name", IN_DEPTH)
def test_every_command_says_the_same_of_a_folder(name: str, bench: Bench, sandbox: Path) -> None:
    case = next(case for case in CASES if case.name == name)
    folder = spoiled(case, bench, sandbox)
    calls = [command_of(name, case, folder, sandbox) for name in ("encode", "score", "evaluate", "train")]
    for outcome in bench.judge.each(calls, sandbox):
        assert_expected(case, outcome)


@pytest.mark.parametrize("name", ["predict", "evaluate"])
@pytest.mark.parametrize("case_name", ["a head of 0 bytes", "a stock pooler missing", "a newer format"])
def test_commands_for_classifiers_refuse_a_bad_one(case_name: str, name: str, bench: Bench, sandbox: Path) -> None:
    case = next(case for case in CASES if case.name == case_name)
    assert_refused(*bench.judge.each([command_of(name, case, spoiled(case, bench, sandbox), sandbox)], sandbox))


@pytest.mark.parametrize(
    "name",
    ["names that begin with bert.", "carriage returns", "float64 weights", "shards of .bin", "gamma and beta"],
)
def test_what_is_saved_from_an_odd_folder_gives_sentence_transformers_the_same_vectors(
    name: str, bench: Bench, sandbox: Path, sentence_transformer: Callable[[Path], Any]
) -> None:
    case = next(case for case in CASES if case.name == name)
    (outcome,) = bench.judge.each([load(case, spoiled(case, bench, sandbox), sandbox, save=True)], sandbox)
    assert_expected(case, outcome)
    theirs = sentence_transformer(sandbox / "saved").encode(TEXTS)
    np.testing.assert_allclose(json.loads(outcome.stdout), theirs, rtol=0.0, atol=2e-5)


@pytest.fixture
def sentence_transformer() -> Callable[[Path], Any]:
    from sentence_transformers import SentenceTransformer

    return lambda folder: SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def test_a_name_with_terminal_escapes_stays_visible_in_every_message(bench: Bench, sandbox: Path) -> None:
    names = ("config.json of 0", "a module in /etc", "no [UNK]", "a line more than rows", "a width that is text")
    for name in names:
        case = next(case for case in CASES if name in case.name)
        folder = spoiled(case, bench, sandbox)
        odd = folder.rename(sandbox / "\x1b[2J\x07\n\u202e")
        (outcome,) = bench.judge.each([load(case, odd, sandbox, save=False)], sandbox)
        assert_refused(outcome, *case.words, r"\x1b[2J\x07\n\u202e")
        shutil.rmtree(odd)
