"""What the documents say of the code is so."""

from __future__ import annotations

import re
import runpy
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sbert_ft.config.fields import KEYS
from sbert_ft.config.file_kinds import FILE_KINDS
from sbert_ft.config.objectives import OBJECTIVES
from sbert_ft.training.run_folder import RUN_FILES, RUN_FOLDERS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]


@pytest.mark.parametrize("name", ["configuration.md", "training.md"])
def test_the_tables_are_those_that_the_code_makes(name: str) -> None:
    """`make docs` writes them."""
    tables = runpy.run_path(str(ROOT / "docs" / "tables.py"))
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert tables["with_tables"](name, text) == text
    table = text.split(": written by make docs -->")[1].split("<!-- end -->")[0]
    listed = re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE)
    keys = [one.path for key in KEYS.values() for one in (key, *key.members)]
    assert listed == (keys if name == "configuration.md" else [*OBJECTIVES])


def test_the_tables_of_data_are_those_that_the_code_makes() -> None:
    tables = runpy.run_path(str(ROOT / "docs" / "tables.py"))
    text = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert tables["with_tables"]("data.md", text) == text
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == [*FILE_KINDS]


def test_the_table_of_a_runs_files_has_each() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").split("## The run's folder")[1].split("## ")[0]
    for name in (*RUN_FILES, *RUN_FOLDERS):
        assert f"`{name}`" in text or f"`{name}/`" in text or name == "tensorboard"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


def test_every_test_that_reliability_names_is_there() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`tests/([\w/]+\.py)::(test_\w+)`", text)
    assert len(named) > 50
    missing = [
        f"{file}::{test}"
        for file, test in named
        if f"def {test}(" not in (ROOT / "tests" / file).read_text(encoding="utf-8")
    ]
    assert not missing


@cache
def bad_inputs(section: str) -> Sequence[Any]:
    """Return the cases of a section of docs/reliability.md; making them takes seconds, so they are made once."""
    pytest.importorskip("pyarrow", reason="pyarrow, with which cases are made, is absent")
    from bad_inputs import folders, tables

    return {"Model folder": folders.CASES, "Data": tables.all_cases()}[section]


@pytest.mark.parametrize("section", ["Model folder", "Data"])
def test_every_case_that_reliability_names_is_there(section: str) -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    cells = [row.rsplit(" | ", 1)[1] for row in text.splitlines() if row.startswith("| ") and " | " in row]
    named = [name for cell in cells for name in re.findall(r"\[((?:[^\[\]]|\[[A-Z]+\])+)\](?!\()", cell)]
    assert len(named) > 30
    names = {case.name for case in bad_inputs(section)}
    missing = [
        name
        for name in named
        if name not in names and not any(case.startswith(name.removesuffix("...").strip()) for case in names)
    ]
    assert not missing


def test_there_are_as_many_bad_inputs_as_are_promised() -> None:
    sections = ("Model folder", "Data")
    names = [(section, case.name) for section in sections for case in bad_inputs(section) if case.is_bad]
    assert len(set(names)) == len(names) >= 200
    assert f"{len(names)} bad inputs" in (ROOT / "README.md").read_text(encoding="utf-8")
