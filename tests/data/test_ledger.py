"""The ledger of rows: its counts add up, it is copied instead of changed, and its text is readable."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from sbert_ft.data.ledger import Finding, Ledger, RowFaults, RowPlaces, counted, file_sha256
from sbert_ft.errors import DataError


def ledger(**fields: object) -> Ledger:
    values: dict[str, object] = {"source": "a.csv", "format": "csv", "sha256": "0", "n_rows": 10, "n_kept": 10}
    return Ledger(**{**values, **fields})  # type: ignore[arg-type]


def test_ledger_that_does_not_add_up_cannot_be_made() -> None:
    with pytest.raises(AssertionError, match="not accounted for"):
        ledger(n_kept=9)
    with pytest.raises(AssertionError, match="not accounted for"):
        ledger(findings=(Finding("empty", 1, True, (2,), "1 row"),))


def test_dropped_finding_takes_its_rows_from_those_kept_and_another_does_not() -> None:
    before = ledger()
    after = before.with_finding("empty", 2, "2 rows", dropped=True, first=[3, 4]).with_finding("cut", 5, "5 rows")
    assert (after.n_rows, after.n_kept) == (10, 8)
    assert [(f.kind, f.count, f.dropped, f.first) for f in after.findings] == [
        ("empty", 2, True, (3, 4)),
        ("cut", 5, False, ()),
    ]
    assert before == ledger()


def test_finding_keeps_the_first_five_lines() -> None:
    finding = ledger().with_finding("cut", 7, "7 rows", first=range(2, 9)).findings[0]
    assert finding.first == (2, 3, 4, 5, 6)


def test_ledger_as_json_has_the_names_of_its_attributes() -> None:
    found = ledger(notes=("a note",)).with_finding("cut", 1, "1 row", first=[9]).to_json()
    assert set(found) == {field.name for field in dataclasses.fields(Ledger)}
    assert json.loads(json.dumps(found)) == {
        "source": "a.csv",
        "format": "csv",
        "sha256": "0",
        "n_rows": 10,
        "n_kept": 10,
        "findings": [{"kind": "cut", "count": 1, "dropped": False, "first": [9], "sentence": "1 row"}],
        "notes": ["a note"],
        "columns": [],
    }


def test_description_has_a_line_for_the_rows_each_finding_and_each_note() -> None:
    whole = ledger(source="a\x1b.csv", n_rows=1234, n_kept=1234, notes=("scores 0..5",))
    assert whole.with_finding("empty", 1, "1 row: line 3", dropped=True).describe() == [
        "a\\x1b.csv: 1,234 rows, 1,233 kept (csv)",
        "1 row: line 3",
        "scores 0..5",
    ]
    assert ledger().describe() == ["a.csv: 10 rows, all kept (csv)"]


def test_part_of_the_rows_counts_the_others_as_left_out_once() -> None:
    whole = ledger().with_finding("empty", 2, "2 rows", dropped=True).with_finding("duplicate", 3, "3 rows")
    odd = Finding("swapped", 1, False, (4,), "1 row")
    half = whole.of_part(4, [odd], "not selected")
    assert [(f.kind, f.count) for f in half.findings] == [("empty", 2), ("left_out", 4), ("swapped", 1)]
    quarter = half.of_part(1, [], "not selected")
    assert [(f.kind, f.count) for f in quarter.findings] == [("empty", 2), ("left_out", 7)]
    assert quarter.count("left_out") == 7
    assert whole.of_part(8, [], "not selected").count("left_out") == 0


def test_faults_keep_counts_and_the_first_rows_of_each_kind() -> None:
    faults = RowFaults("line")
    for line in range(10, 1, -1):
        faults.add("empty" if line % 2 else "bad_label", line, f"problem {line}")
    assert faults.counts == {"empty": 4, "bad_label": 5}
    assert faults.first(["empty"])[0] == (3, "problem 3")
    assert [line for line, _ in faults.first(["empty", "bad_label", "ragged"])] == [2, 3, 4, 5, 6]


def test_counts_and_places_are_said_as_people_say_them() -> None:
    assert (counted(1, "row"), counted(1234, "row"), counted(2, "reply")) == ("1 row", "1,234 rows", "2 replies")
    assert RowPlaces(np.array([9, 1234]), "line").describe(np.array([1])) == "line 1234"
    assert RowPlaces(np.array([3, 7]), "position").describe(np.arange(2)) == "positions 3, 7"
    assert RowPlaces(np.arange(1, 1201), "row").describe(np.arange(1200)) == "rows 1, 2, 3, 4, 5 and 1,195 more"


def test_file_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"ab" * 1_000_000)
    assert file_sha256(path) == hashlib.sha256(b"ab" * 1_000_000).hexdigest()
    with pytest.raises(DataError, match="cannot be read"):
        file_sha256(tmp_path / "b")
