"""`sbert-ft sweep` as a user sees it: its options, what they mean, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sbert_ft.cli import main
from sbert_ft.commands import sweep as command
from sbert_ft.errors import ConfigError, InputError
from sbert_ft.training import sweep as library


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("2e-5,5e-5", ["2e-5", "5e-5"]),
        ("cosine", ["cosine"]),
        ('{"name":"cosent","scale":20}, cosine', ['{"name":"cosent","scale":20}', "cosine"]),
        ('["cosine","cosent"],[ {"name":"cosent","weight":0.5} , "cosine" ]', ['["cosine","cosent"]', 2]),
        ('"query, it says: ","a \\" b, c"', ['"query, it says: "', '"a \\" b, c"']),
        ("a,,b", ["a", "", "b"]),
    ],
)
def test_commas_separate_values_outside_of_brackets_braces_and_quotes(text: str, parts: list[Any]) -> None:
    found = command.split_values(text)
    assert len(found) == len(parts)
    assert all(one == other for one, other in zip(found, parts, strict=True) if other != 2)


def test_values_are_json_or_texts() -> None:
    found = command.values_to_try(["training.max_steps=null,10", 'objective={"name":"cosent","scale":20},cosine'])
    assert found == {"training.max_steps": [None, 10], "objective": [{"name": "cosent", "scale": 20}, "cosine"]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["training.epochs"], "expected KEY=A,B"),
        (["=1,2"], "expected KEY=A,B"),
        (["training.epochs=1,,2"], "has an empty value"),
        (["training.epochs="], "has an empty value"),
        (["training.epochs=1", "training.epochs=2"], "is given twice"),
    ],
)
def test_values_that_cannot_be_read_are_refused(options: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        command.values_to_try(options)


@pytest.mark.parametrize(("text", "seconds"), [("2h", 7200), ("30m", 1800), ("90s", 90), ("1h30m", 5400)])
def test_a_budget_is_a_time(text: str, seconds: float) -> None:
    assert command.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "0s", "-1h", "1.5h", "30m1h", "2 h"])
def test_another_budget_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected a time such as 2h"):
        command.seconds_of(text)


def test_seeds_are_a_number_or_a_list() -> None:
    assert (command.seeds_of("3"), command.seeds_of("1, 2,7")) == (3, [1, 2, 7])
    for text in ("", "a", "1,", "1.5", "-1"):
        with pytest.raises(InputError, match="expected their number, or seeds"):
            command.seeds_of(text)


def test_the_command_offers_what_the_library_does() -> None:
    assert command.FINALS == library.FINALS


def test_bad_options_end_with_2_and_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.json"
    config.write_text('{"model": {"path": "m"}, "data": {"train": "t.csv", "dev": "d.csv"}, "output_dir": "o"}')
    for options in (["--seeds", "x"], ["--budget", "soon"], ["--over", "training.epochs=0"], ["--resume"]):
        assert main(["sweep", str(config), *options, "-o", str(tmp_path / "out")]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith("sbert-ft: error: ") and "Traceback" not in said.err
        assert not (tmp_path / "out").exists()
