"""Account for every row of a file: which were kept, which were left out and why, and what is odd about those kept.

Rows that a reader drops silently are not noticed until someone counts. A `Ledger` adds up: the rows in the file are
the rows kept plus the rows that its findings say were dropped. It is made once while a file is read, never changes (a
copy gets what is added), and is written to the run's folder as JSON.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from sbert_ft.data.text import fault
from sbert_ft.errors import quoted

N_SHOWN: Final = 5  # lines shown of each finding
Unit = Literal["line", "row", "position"]
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Finding:
    """A problem that several rows have in common, such as an empty text.

    Attributes:
        kind: A name for programs, such as "empty" or "duplicate".
        count: Number of rows.
        dropped: Whether these rows were left out; otherwise they are kept.
        first: The lines of the first of them, five at most, as in `Ledger.unit`.
        sentence: What was found, with the count and the first lines, for people.
    """

    kind: str
    count: int
    dropped: bool
    first: tuple[int, ...]
    sentence: str


@dataclass(frozen=True, eq=False)
class RowPlaces:
    """Where N rows stand in their source: `lines`, shape (N,), int64, which count what `unit` says."""

    lines: NDArray[np.int64]
    unit: Unit

    def describe(self, rows: NDArray[np.int64]) -> str:
        """Return the first lines of the rows with these indices, shape (n,), and how many more there are."""
        return _at_lines(self.lines[rows[:N_SHOWN]].tolist(), len(rows), self.unit)

    def finding(self, kind: str, rows: NDArray[np.int64], problem: str, word: str = "row") -> Finding:
        """Return what is odd about the rows with these indices, shape (n,), which are kept."""
        sentence = f"{counted(len(rows), word)} {problem}: {self.describe(rows)}"
        return Finding(kind, len(rows), False, tuple(self.lines[rows[:N_SHOWN]].tolist()), sentence)


@dataclass(frozen=True)
class Ledger:
    """The account of a file's rows.

    Attributes:
        source: The file's path as given, or a name such as "<pairs>" where there is no file.
        format: How the file was read, in one line.
        sha256: Of the file's bytes; of the content where there is no file.
        n_rows: Rows in the file.
        n_kept: Rows in the data set: `n_rows` without those that findings say were dropped.
        findings: What is wrong or odd, with its rows.
        notes: What else was found out or decided, one sentence each.
        columns: Names of the columns with the texts; empty where there are none.
    """

    source: str
    format: str
    sha256: str
    n_rows: int
    n_kept: int
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        n_dropped = sum(finding.count for finding in self.findings if finding.dropped)
        assert self.n_rows == self.n_kept + n_dropped, "a row is not accounted for"

    def with_finding(
        self, kind: str, count: int, sentence: str, *, dropped: bool = False, first: Sequence[int] = ()
    ) -> Ledger:
        """Return the ledger with one more finding; dropped rows are no longer counted as kept."""
        finding = Finding(kind, count, dropped, tuple(map(int, first[:N_SHOWN])), sentence)
        n_kept = self.n_kept - count if dropped else self.n_kept
        return replace(self, n_kept=n_kept, findings=(*self.findings, finding))

    def of_part(self, n_kept: int, findings: Sequence[Finding], sentence: str) -> Ledger:
        """Return the account of a part of the rows kept, with what is odd about them instead of about all rows.

        `sentence` says why the others are left out, for the finding "left_out".
        """
        dropped = [finding for finding in self.findings if finding.dropped and finding.kind != "left_out"]
        n_left_out = self.n_rows - n_kept - sum(finding.count for finding in dropped)
        if n_left_out:
            dropped.append(Finding("left_out", n_left_out, True, (), f"{counted(n_left_out, 'row')} {sentence}"))
        return replace(self, n_kept=n_kept, findings=(*dropped, *findings))

    def count(self, kind: str) -> int:
        """Return how many rows the findings of this kind have in total."""
        return sum(finding.count for finding in self.findings if finding.kind == kind)

    def to_json(self) -> dict[str, object]:
        """Return the ledger as values for JSON; the keys are the attributes' names."""
        return {
            **asdict(self),
            "findings": [asdict(finding) for finding in self.findings],
            "notes": list(self.notes),
            "columns": list(self.columns),
        }

    def describe(self) -> list[str]:
        """Return the account as lines for people: rows and how they were read, then each finding and note."""
        n_dropped = self.n_rows - self.n_kept
        rows = f"{self.n_rows:,} rows, all kept" if not n_dropped else f"{self.n_rows:,} rows, {self.n_kept:,} kept"
        shown = quoted(self.source, limit=400)[1:-1]
        return [f"{shown}: {rows} ({self.format})", *(f.sentence for f in self.findings), *self.notes]


class RowFaults:
    """Bad rows found while a file is read: how many of each kind, and the first ones with their problems.

    Attributes:
        unit: What line numbers count.
        counts: Number of rows by kind.
        remedies: What to do about the rows that are shown, each text once.
    """

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.counts: Counter[str] = Counter()
        self.remedies: dict[str, None] = {}
        self._first: dict[str, list[tuple[int, str]]] = {}

    def add(self, kind: str, line: int, problem: str, remedy: str | None = None) -> None:
        """Count a row of this kind; `problem` says what is wrong with it, `remedy` what to do about such rows."""
        self.counts[kind] += 1
        first = self._first.setdefault(kind, [])
        if len(first) < N_SHOWN:
            first.append((line, problem))
            if remedy is not None:
                self.remedies[remedy] = None

    def describe(self, kinds: Sequence[str] | None = None) -> str:
        """Return "line 3: ...; line 7: ...; and 2 more; ...", of these kinds or of all, with the remedies."""
        chosen = tuple(self.counts) if kinds is None else kinds
        first, n_bad = self.first(chosen), sum(self.counts[kind] for kind in chosen)
        places = [f"{self.unit} {line}: {problem}" for line, problem in first]
        more = [f"and {n_bad - len(first):,} more"] if n_bad > len(first) else []
        return "; ".join([*places, *more, *self.remedies])

    def places(self, kind: str) -> str:
        """Return the first lines of the rows of a kind, and how many more there are."""
        return _at_lines([line for line, _ in self.first((kind,))], self.counts[kind], self.unit)

    def first(self, kinds: Sequence[str]) -> list[tuple[int, str]]:
        """Return line and problem of the first rows of these kinds, in the order of the file."""
        return sorted(place for kind in kinds for place in self._first.get(kind, []))[:N_SHOWN]


def file_sha256(path: Path) -> str:
    """Return the digest of a file's bytes; a `DataError` if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise fault(path, f"cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def counted(n: int, word: str) -> str:
    """Return a count with its noun, such as "1 row" or "1,234 rows"."""
    plural = f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
    return f"{n:,} {word if n == 1 else plural}"


def row_word(n_texts: int) -> str:
    """Return the name of a row of `n_texts` texts: "text", "pair" or "triplet"."""
    return ("text", "pair", "triplet")[n_texts - 1]


def _at_lines(first: Sequence[int], count: int, unit: Unit) -> str:
    """Return "line 3" or "lines 3, 7, 9, 12, 15 and 1,200 more" for `count` rows, of which the first are given."""
    shown = ", ".join(map(str, first))
    more = f" and {count - len(first):,} more" if count > len(first) else ""
    return f"{unit if count == 1 else f'{unit}s'} {shown}{more}"
