"""What the documents say of the code is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sbert_ft.training.objective_table import OBJECTIVES
from sbert_ft.training.run_folder import RUN_FILES, RUN_FOLDERS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]


def test_the_table_of_objectives_has_each_with_its_options() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", text.split("## The objectives")[1].split("## ")[0], re.M))
    assert list(rows) == list(OBJECTIVES)
    for name, options in rows.items():
        for option, value in OBJECTIVES[name].defaults.items():
            said = f"`{option}`" if isinstance(value, bool) else f"`{option}` {value:g}"
            assert said in options, (name, option)


def test_the_table_of_a_runs_files_has_each() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").split("## The run's folder")[1].split("## ")[0]
    for name in (*RUN_FILES, *RUN_FOLDERS):
        assert f"`{name}`" in text or f"`{name}/`" in text or name == "tensorboard"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target
