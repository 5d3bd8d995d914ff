"""Every bad or odd model folder of `bad_inputs/folders.py`, through from_pretrained, the doctor and a command.

Each run is a fork of the warm process (see `bad_inputs/judging.py`), which notes what it executes, opens and writes.
What is refused is refused everywhere with the same words; what works computes the numbers of the whole folder, also
after it was saved and loaded again; and the doctor fails what does not load, and nothing else.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_inputs.folder_parts import LAYOUTS
from bad_inputs.folders import CASES, Case
from bad_inputs.judging import (
    Judge,
    Outcome,
    assert_harmless,
    assert_refused,
    assert_warned,
    assert_works,
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


def load(case: Case, folder: Path, bench: Bench, sandbox: Path, save: bool) -> Outcome:
    options = {"device": "cpu", "precision": "float32", **({"kind": "single"} if case.layout == "stock" else {})}
    return bench.judge.load(
        folder,
        sandbox,
        PAIRS if case.layout == "towers" else TEXTS,
        kind=case.kind,
        save=sandbox / "saved" if save else None,
        options={**options, **case.options},
        unprivileged=case.unprivileged,
    )


def run_command(name: str, case: Case, folder: Path, bench: Bench, sandbox: Path) -> Outcome:
    if name == "train":
        content = {"model": {"path": str(folder)}, "data": {"train": "pairs.csv"}, "output_dir": "run"}
        (sandbox / "run.json").write_text(json.dumps({**content, "training": {"device": "cpu"}}), "utf-8")
        return bench.judge.run(["train", "run.json", "--dry-run"], sandbox)
    arguments = list(ARGUMENTS[name])
    if case.layout == "towers":
        arguments[0] = "named.csv"
    if case.layout == "stock":
        (sandbox / "single.csv").write_text(
            "text,label\nblue,{0}\na dog,{1}\ngreen,{0}\na cat,{1}\n".format(*case.labels), "utf-8"
        )
        arguments = ["single.csv", *arguments[1:], "--model-kind", "single"]
    return bench.judge.run([name, folder, *arguments, "--device", "cpu"], sandbox)


def assert_expected(case: Case, outcome: Outcome) -> None:
    if case.expected == "refused":
        assert_refused(outcome, *case.words)
    elif case.expected == "warned":
        assert_warned(outcome, *case.words)
    else:
        assert_works(outcome)


def assert_same_numbers(case: Case, outcome: Outcome, bench: Bench) -> None:
    numbers = np.array(json.loads(outcome.stdout))
    assert np.isfinite(numbers).all()
    if case.same:
        np.testing.assert_allclose(numbers, bench.expected[case.layout], rtol=0.0, atol=case.tolerance)


def expected_of(case: Case, bench: Bench, sandbox: Path) -> None:
    """Compute once what the whole folder of the case's layout gives."""
    if case.layout not in bench.expected:
        whole = Case("whole", case.layout, lambda _: None, "works")
        outcome = load(whole, bench.place / "good" / case.layout / "model", bench, sandbox, save=False)
        assert_works(outcome)
        bench.expected[case.layout] = json.loads(outcome.stdout)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_folder_is_refused_or_works_as_expected(case: Case, bench: Bench, sandbox: Path) -> None:
    expected_of(case, bench, sandbox)
    folder = spoiled(case, bench, sandbox)
    try:
        outcome = load(case, folder, bench, sandbox, save=case.expected != "refused")
        assert_expected(case, outcome)
        if case.expected != "refused":
            assert_same_numbers(case, outcome, bench)
        if case.unprivileged:
            return
        found = assert_doctor_agrees(case, folder, bench, sandbox)
        names = COMMANDS[case.kind]
        if not case.is_encoder:
            assert_expected(case, run_command(names[CASES.index(case) % len(names)], case, folder, bench, sandbox))
        if case.expected == "refused" and case.doctor is None:
            missing = [word for word in case.words if word.lower() not in found.lower()]
            assert not missing, f"{missing} not in: {found}"
    finally:
        if case.unprivileged:
            (sandbox / "model").chmod(0o755)


def assert_doctor_agrees(case: Case, folder: Path, bench: Bench, sandbox: Path) -> str:
    """Hold the doctor's verdict against what loading does, and return what it fails."""
    outcome = bench.judge.run(["doctor", folder, "--deep", "--json"], sandbox)
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
    for command in ("encode", "score", "evaluate", "train"):
        assert_expected(case, run_command(command, case, folder, bench, sandbox))


@pytest.mark.parametrize("command", ["predict", "evaluate"])
@pytest.mark.parametrize("name", ["a head of 0 bytes", "a stock pooler missing", "a newer format"])
def test_commands_for_classifiers_refuse_a_bad_one(name: str, command: str, bench: Bench, sandbox: Path) -> None:
    case = next(case for case in CASES if case.name == name)
    assert_refused(run_command(command, case, spoiled(case, bench, sandbox), bench, sandbox))


@pytest.mark.parametrize(
    "name",
    ["names that begin with bert.", "carriage returns", "float64 weights", "shards of .bin", "gamma and beta"],
)
def test_what_is_saved_from_an_odd_folder_gives_sentence_transformers_the_same_vectors(
    name: str, bench: Bench, sandbox: Path, sentence_transformer: Callable[[Path], Any]
) -> None:
    case = next(case for case in CASES if case.name == name)
    outcome = load(case, spoiled(case, bench, sandbox), bench, sandbox, save=True)
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
        outcome = load(case, odd, bench, sandbox, save=False)
        assert_refused(outcome, *case.words, r"\x1b[2J\x07\n\u202e")
        shutil.rmtree(odd)
