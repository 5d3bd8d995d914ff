"""Data files as they come: builders of readable tables, and the cases of what is wrong or odd with them.

A case is a table of texts in some format, spoiled in one way, and what is expected of the commands that read it. Those
that stream a file (encode, score, predict) and those that learn or judge from it (train, evaluate) need not agree: a
missing score concerns the second alone. What works must lose nothing, so a case knows the rows that must come out.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import itertools
import json
import lzma
import math
import os
import pickle
import unicodedata
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Kind = Literal["scores", "labels", "texts"]
Content = bytes | Callable[[Path], None]
ABSENT = object()
"""The value of a key that a JSON object does not have."""


@dataclass(frozen=True)
class Rows:
    """What a file holds.

    Attributes:
        kind: Pairs with scores, pairs with labels, or single texts with labels.
        names: Of the columns, the texts' first.
        rows: Values as JSON and Parquet have them; in cells their text.
    """

    kind: Kind
    names: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]

    @property
    def n_texts(self) -> int:
        """Texts a row."""
        return 1 if self.kind == "texts" else 2

    def texts(self) -> list[tuple[str, ...]]:
        """Return the texts of every row."""
        return [tuple(str(value) for value in row[: self.n_texts]) for row in self.rows]

    def with_value(self, value: object, column: int, row: int = 1) -> Rows:
        """Return the rows with another value in one place: of the second row, which is line 3 of a file of cells."""
        changed = (*self.rows[row][:column], value, *self.rows[row][column + 1 :])
        return replace(self, rows=(*self.rows[:row], changed, *self.rows[row + 1 :]))

    def with_text(self, text: object, row: int = 1) -> Rows:
        """Return the rows with another last text in one of them."""
        return self.with_value(text, self.n_texts - 1, row)

    def with_label(self, label: object, row: int = 1) -> Rows:
        """Return the rows with another label in one of them."""
        return self.with_value(label, self.n_texts, row)

    def named(self, *names: str) -> Rows:
        """Return the rows under other names."""
        return replace(self, names=names)


SCORES = Rows(
    "scores",
    ("sentence1", "sentence2", "score"),
    (
        ("a man is playing a guitar", "someone plays the guitar", 0.75),
        ("the dog is running", "a cat is eating", 0.125),
        ("two children at the beach", "children are playing in the water", 0.5),
        ("a woman is dancing", "a girl is dancing in the street", 0.875),
    ),
)
LABELS = Rows(
    "labels",
    ("premise", "hypothesis", "label"),
    (
        ("a man is playing a guitar", "someone makes music", "yes"),
        ("the dog is running", "a cat is eating", "no"),
        ("two children at the beach", "children are playing", "yes"),
        ("a woman is dancing", "nobody is dancing", "no"),
    ),
)
TEXTS = Rows(
    "texts",
    ("document", "label"),
    (
        ("a very good game", "good"),
        ("the food was not good", "bad"),
        ("a great house near the beach", "good"),
        ("old red car", "bad"),
    ),
)
OF_KIND: dict[Kind, Rows] = {"scores": SCORES, "labels": LABELS, "texts": TEXTS}
CELLS, ALL = ("csv", "tsv"), ("csv", "tsv", "jsonl", "parquet")
FEWER: dict[Kind, tuple[str, ...]] = {"scores": ALL, "labels": ("csv",), "texts": ("tsv", "parquet")}
"""Formats where what is read differs little between the kinds of rows."""


@dataclass(frozen=True)
class Expected:
    """What becomes of a file: refused, warned of or read in silence, and what the message says."""

    outcome: Literal["refused", "warned", "works"]
    words: tuple[str, ...] = ()


def refused(*words: str) -> Expected:
    return Expected("refused", words)


def warned(*words: str) -> Expected:
    return Expected("warned", words)


WORKS = Expected("works")


@dataclass(frozen=True)
class Case:
    """A file, how it is read, and what is expected.

    Attributes:
        name: What is wrong or odd with it.
        file: Its name.
        content: Its bytes, or what makes it and all beside it in a folder.
        rows: What it holds where it can be read; of a refused one, which commands take such a file.
        streamed: What encode, score and predict do; None where it says nothing to them.
        learned: What train and evaluate do, likewise.
        trained: What train does where it differs from evaluate.
        doctored: What doctor --texts does; where None, as `streamed` says unless that is a warning.
        options: How it is read: encoding, delimiter, kind, columns, label_column, on_bad_row, score_range.
        n_kept: Rows that are learned from; where None, all.
        everywhere: Whether every command takes it, and not one of them.
    """

    name: str
    file: str
    content: Content
    rows: Rows
    streamed: Expected | None = None
    learned: Expected | None = None
    trained: Expected | None = None
    doctored: Expected | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    n_kept: int | None = None
    everywhere: bool = False

    @property
    def is_bad(self) -> bool:
        """Whether a command has to say something of it."""
        said = (self.streamed, self.learned, self.trained, self.doctored)
        return any(expected is not None and expected.outcome != "works" for expected in said)

    def write(self, folder: Path) -> None:
        """Make the file."""
        if isinstance(self.content, bytes):
            (folder / self.file).write_bytes(self.content)
        else:
            self.content(folder)

    def expected_of(self, command: str) -> Expected | None:
        """Return what this command does with the file; None where the case says nothing to it."""
        if command in ("train", "evaluate"):
            expected = self.trained if command == "train" and self.trained is not None else self.learned
            return None if self.file.endswith(".txt") else expected
        if command == "encode" and self.name == "a folder":  # its files are read, but not into one file
            return refused(self.file, "from several inputs or a folder")
        if command == "index":  # of no text there is none; a folder is one of vectors
            empty = self.streamed is not None and "holds no" in self.streamed.words
            return None if self.name == "a folder" else refused(self.file, "holds no row") if empty else self.streamed
        if command != "doctor":
            return self.streamed
        if self.doctored is not None or self.streamed is None:
            return self.doctored
        return None if self.streamed.outcome == "warned" else self.streamed


# ---------------------------------------------------------------- files of each format


def cell(value: object) -> str:
    """Return a value as a file of cells holds it."""
    return "" if value is None or value is ABSENT else str(value)


def csv_text(rows: Rows, delimiter: str = ",", line_end: str = "\n", header: bool = True) -> str:
    """Return the rows as the standard writer of CSV writes them."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=line_end)
    writer.writerows([rows.names] if header else [])
    writer.writerows([cell(value) for value in row] for row in rows.rows)
    return file.getvalue()


def tsv_text(rows: Rows) -> str:
    """Return the rows with a tab between cells and nothing in quotes."""
    return "".join("\t".join(map(cell, row)) + "\n" for row in (rows.names, *rows.rows))


def json_text(rows: Rows) -> str:
    """Return an object a line."""
    objects = ({n: v for n, v in zip(rows.names, row, strict=True) if v is not ABSENT} for row in rows.rows)
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in objects)


def parquet_bytes(rows: Rows, **types: pa.DataType) -> bytes:
    """Return a Parquet file; a column is of the type that is named, else of that of its values."""
    columns = {
        name: pa.array([None if row[i] is ABSENT else row[i] for row in rows.rows], types.get(name))
        for i, name in enumerate(rows.names)
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def content_of(rows: Rows, suffix: str, encoding: str = "utf-8") -> bytes:
    """Return the rows in the format of a suffix; those of .txt are the first texts alone."""
    if suffix == "parquet":
        return parquet_bytes(rows)
    if suffix == "txt":
        return "".join(f"{row[0]}\n" for row in rows.rows).encode(encoding)
    text = csv_text(rows) if suffix == "csv" else tsv_text(rows) if suffix == "tsv" else json_text(rows)
    return text.encode(encoding)


def in_formats(name: str, rows: Rows, formats: Sequence[str], **more: Any) -> list[Case]:
    """Return the case in each of these formats."""
    return [Case(f"{name}, {suffix}", f"rows.{suffix}", content_of(rows, suffix), rows, **more) for suffix in formats]


def of_text(name: str, suffix: str, text: str | bytes, rows: Rows = SCORES, **more: Any) -> Case:
    """Return the case of a file with this very text."""
    content = text if isinstance(text, bytes) else text.encode()
    return Case(f"{name}, {suffix}", f"rows.{suffix}", content, rows, **more)


def everyone(expected: Expected) -> dict[str, Expected]:
    """Return the same expectation for all commands."""
    return {"streamed": expected, "learned": expected}


# ---------------------------------------------------------------- delimiters, headers, columns


def delimiters_and_headers() -> list[Case]:
    cases = [
        of_text(
            f"cells with a {name} between them, {rows.kind}", "csv", csv_text(rows, delimiter), rows, **everyone(WORKS)
        )
        for rows, *delimiters in (
            (SCORES, ("semicolon", ";"), ("tab", "\t"), ("pipe", "|")),
            (LABELS, ("tab", "\t")),
            (TEXTS, ("semicolon", ";")),
        )
        for name, delimiter in delimiters
    ]
    cases += [
        of_text(
            f"a delimiter that is given and is not there, {rows.kind}",
            "csv",
            csv_text(rows),
            rows,
            options={"delimiter": "semicolon"},
            **everyone(refused("rows.csv", ",".join(rows.names), "name")),
        )
        for rows in (SCORES, TEXTS)
    ]
    cases += [
        of_text("commas in a file named", "tsv", csv_text(SCORES), **everyone(refused("'sentence1,sentence2,score'"))),
        of_text(
            "as many commas as semicolons in the header",
            "csv",
            "sentence1,sentence2;score\na,b;1\n",
            **everyone(refused("as many of comma and semicolon", "delimiter")),
        ),
    ]
    for kind, rows in OF_KIND.items():
        first = str(rows.rows[0][0])
        found = refused(quoted(first), "first line, taken as the header")
        cases += [
            of_text(f"no header over {kind}", "csv", csv_text(rows, header=False), rows, **everyone(found)),
            of_text(
                f"no header over {kind}",
                "tsv",
                tsv_text(rows).split("\n", 1)[1],
                rows,
                everywhere=kind == "labels",
                **everyone(found),
            ),
        ]
        other = rows.named(*("left", "right", "mark")[: rows.n_texts], "mark")
        cases += in_formats(f"columns of other names over {kind}", other, ALL, **everyone(refused("'left'", "mark")))
        options = {"columns": ",".join(other.names[:-1]), "label_column": "mark"}
        named = f"columns that are named, over {kind}"
        cases += in_formats(named, other, FEWER[kind], options=options, **everyone(WORKS))
        wrong = {"columns": "lift" if rows.n_texts == 1 else "left,rigth"}
        meant = (
            refused("no column 'lift'", "'left'?") if rows.n_texts == 1 else refused("no column 'rigth'", "'right'?")
        )
        cases += in_formats(
            f"a column named wrongly, over {kind}", other, ("csv", "parquet"), options=wrong, **everyone(meant)
        )
        twice = rows.named(*(rows.names[0],) * rows.n_texts, rows.names[0])
        same = refused(f"are called '{rows.names[0]}'", "a name of its own")
        cases += in_formats(f"columns of one name over {kind}", twice, CELLS, **everyone(same))
    arrays = [pa.array(["a", "b"])] * 3

    def parquet_twice(folder: Path) -> None:
        pq.write_table(
            pa.Table.from_arrays(arrays, names=["sentence1", "sentence2", "sentence1"]), folder / "rows.parquet"
        )

    cases.append(
        Case("columns of one name, parquet", "rows.parquet", parquet_twice, SCORES, **everyone(refused("2 columns")))
    )

    def wide(folder: Path) -> None:
        names = ",".join(f"c{i}" for i in range(1_000_000))
        (folder / "rows.csv").write_text(f"{names}\n{names}\n")

    def wide_with_texts(folder: Path) -> None:
        names = ",".join(f"c{i}" for i in range(1_000_000))
        rows = "".join(f"{a},{b},{names},{score}\n" for a, b, score in SCORES.rows)
        (folder / "rows.csv").write_text(f"sentence1,sentence2,{names},score\n{rows}")

    found = everyone(refused("rows.csv", "'c0', 'c1'", "and 999,980 more"))
    cases.append(Case("a million columns without texts, csv", "rows.csv", wide, SCORES, **found))
    cases.append(
        Case(
            "a million columns beside the texts, csv",
            "rows.csv",
            wide_with_texts,
            SCORES,
            learned=WORKS,
            doctored=WORKS,
        )
    )
    return cases


def quoted(text: str) -> str:
    return f"'{text}'"


# ---------------------------------------------------------------- encodings


def encodings() -> list[Case]:
    korean = SCORES.with_text("한국어 문장, 그리고 개")
    french = SCORES.with_text("un café déjà vu")
    cases: list[Case] = []
    for suffix in ("csv", "tsv", "jsonl"):
        for name, codec in (("a byte order mark", "utf-8-sig"), ("UTF-16 with its mark", "utf-16")):
            cases += encoded(f"{name}", korean, suffix, codec, None, WORKS)
        for codec in ("cp949",) if suffix == "tsv" else ("cp949", "euc-kr", "johab"):
            found = warned(f"rows.{suffix}", "read as cp949", "--encoding")
            if codec == "johab":
                line = "line" if suffix != "jsonl" else "line 2"
                found = refused("byte 0x", "at offset", "is not in utf-8", line)
            cases += encoded(f"{codec} that is not said", korean, suffix, codec, None, found)
            cases += encoded(f"{codec} that is said", korean, suffix, codec, codec, WORKS)
        cases += encoded(
            "latin-1 that is not said", french, suffix, "latin-1", None, refused("byte 0xe9", "--encoding")
        )
        cases += encoded("latin-1 that is said", french, suffix, "latin-1", "latin-1", WORKS)
        cases += encoded("UTF-16 without its mark", korean, suffix, "utf-16-le", None, refused("NUL", "utf-16-le"))
        cases += encoded("UTF-8 said to be UTF-16", korean, suffix, "utf-8", "utf-16", refused("utf-16", "UTF-8"))
        in_korean = next(line for line in content_of(korean, suffix, "cp949").split(b"\n") if not line.isascii())
        mixed = content_of(korean, suffix) + in_korean + b"\n"
        cases.append(
            of_text("two encodings in a file", suffix, mixed, **everyone(refused("byte 0x", "line", "not in utf-8")))
        )
    many = korean.with_text("또 다른 한국어 문장", 0)
    cases += encoded(
        "UTF-8 said to be latin-1", many, "csv", "utf-8", "latin-1", warned("looks as if it were in UTF-8")
    )
    cases += [
        of_text(
            "an encoding that is none",
            "csv",
            csv_text(SCORES),
            options={"encoding": "utf-9"},
            **everyone(refused("utf-9")),
        ),
        of_text(
            "lines of cp949 with Hanja that is not said",
            "txt",
            "개\n한國語\n".encode("cp949"),
            TEXTS,
            streamed=refused("--encoding cp949"),
        ),
        of_text(
            "lines of cp949 that is said",
            "txt",
            "안녕하세요\n한국어 문장\n".encode("cp949"),
            Rows("texts", ("text",), (("안녕하세요",), ("한국어 문장",))),
            streamed=WORKS,
            options={"encoding": "cp949"},
        ),
    ]
    return cases


def encoded(name: str, rows: Rows, suffix: str, codec: str, said: str | None, expected: Expected) -> list[Case]:
    options = {} if said is None else {"encoding": said}
    case = of_text(name, suffix, content_of(rows, suffix, codec), rows, options=options, **everyone(expected))
    # What a wrong encoding makes of texts is no row to be found again.
    return [replace(case, streamed=None) if expected.outcome == "warned" else case]


# ---------------------------------------------------------------- cells


def quotes() -> list[Case]:
    tricky = SCORES.with_text('she said "hello", twice;\tand left\nthen came back\r\nat once')
    plain = SCORES.with_text('a "quoted" word and 5" of rain')
    head = "sentence1,sentence2,score\na,b,1\n"
    cases = in_formats(
        "quotes, delimiters and line ends in a cell", tricky, ("csv", "jsonl", "parquet"), **everyone(WORKS)
    )
    cases += in_formats("quotes in the middle of a cell", plain, ALL, **everyone(WORKS))
    raw = Rows(
        "scores", SCORES.names, (('"raw quote', "b dog", 1), ("a cat", 'c" dog"', 0), ('"', '""', 1), ("d", "e", 0))
    )
    cases += [
        of_text("raw quotes between tabs", "tsv", tsv_text(raw), raw, everywhere=True, **everyone(WORKS)),
        of_text(
            "lines that end with CRLF",
            "csv",
            csv_text(SCORES, line_end="\r\n"),
            SCORES,
            **everyone(WORKS),
        ),
        of_text("no end of the last line", "csv", csv_text(SCORES).rstrip("\n"), SCORES, **everyone(WORKS)),
        of_text(
            "U+2028 and form feeds in texts",
            "csv",
            *_same(csv_text, SCORES.with_text("one\u2028two\x0cthree")),
            **everyone(WORKS),
        ),
        of_text(
            "a quote that is not closed",
            "csv",
            f'{head}"never closed,b,1\nc,d,0\ne,f,1\n',
            everywhere=True,
            **everyone(refused("rows.csv", "line 3", "quote that opens a cell here is not closed")),
        ),
        of_text(
            "text after a closed quote",
            "csv",
            f'{head}"x"y,b,1\nc,d,0\n',
            **everyone(refused("line 3", "after the quote that closes a cell", "twice")),
        ),
        of_text("lines that end with CR alone", "csv", csv_text(SCORES, line_end="\r"), SCORES, **everyone(WORKS)),
        of_text(
            "CR after the header and LF after rows",
            "csv",
            "sentence1,sentence2,score\ra,b,1\n",
            **everyone(refused("line 1", "carriage return")),
        ),
        of_text(
            "CR between two texts",
            "txt",
            "a dog\na cat\ra man\n",
            TEXTS,
            streamed=refused("line 2", "a lone carriage return"),
        ),
        of_text(
            "short and long rows",
            "csv",
            f"{head}a,b\nc,d,0\ne,f,1,2\n",
            everywhere=True,
            **everyone(refused("line 3: expected 3 cells", "found 2", "line 5", "found 4", "quote a cell")),
        ),
        of_text(
            "many short rows",
            "tsv",
            "premise\thypothesis\tlabel\na\tb\tyes\n" + "c\td\n" * 9,
            LABELS,
            **everyone(refused("9", "line 3", "line 7: expected 3 cells", "and 4 more", "remove tabs and line ends")),
        ),
        of_text(
            "a short row of a text",
            "csv",
            "document,label\na,good\nb\n",
            TEXTS,
            **everyone(refused("line 3", "found 1")),
        ),
        of_text(
            "short rows that are skipped",
            "csv",
            csv_text(SCORES) + "a,b\n" * 2,
            learned=warned("2 rows lost", "lines 6, 7"),
            options={"on_bad_row": "skip"},
            n_kept=4,
        ),
    ]
    return cases


def _same(writer: Callable[[Rows], str], rows: Rows) -> tuple[str, Rows]:
    return writer(rows), rows


def words_that_look_like_values() -> list[Case]:
    cases: list[Case] = []
    values = ("NA", "null", "None", "nan", "007", "1e5", "TRUE", "-inf", "#N/A", "1,000")
    for kind, rows in OF_KIND.items():
        looks = replace(
            rows,
            rows=tuple((*(value,) * rows.n_texts, *rows.rows[i % 4][rows.n_texts :]) for i, value in enumerate(values)),
        )
        if kind != "texts":  # distinct sides, for equal ones are warned of
            looks = replace(looks, rows=tuple((row[0], f"{row[1]} {i}", *row[2:]) for i, row in enumerate(looks.rows)))
        cases += in_formats(f"NA, null and numbers as texts of {kind}", looks, FEWER[kind], **everyone(WORKS))
    formulas = SCORES
    for i, formula in enumerate(("=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3")):
        formulas = formulas.with_text(formula, i)
    cases += in_formats("formulas of a spreadsheet as texts", formulas, ALL, **everyone(WORKS))
    scripts = {
        "emoji joined by ZWJ": "a family 👩‍👩‍👧‍👦 and a flag 🏴‍☠️",
        "Hangul taken apart (NFD)": unicodedata.normalize("NFD", "한국어 문장 하나"),
        "Arabic and Hebrew": "مرحبا שלום dog",
        "zalgo": "a" + "\u0300\u0301\u0302\u0303" * 40 + " dog",
        "private use": "\ue000\uf8ff dog",
        "directions that override": "dog \u202etac\u202c",
    }
    turns = itertools.cycle([(SCORES, ("csv", "jsonl")), (TEXTS, ("tsv", "parquet")), (LABELS, ("csv", "parquet"))])
    for name, text in scripts.items():
        rows, formats = next(turns)
        cases += in_formats(f"{name} in {rows.kind}", rows.with_text(text), formats, **everyone(WORKS))
    cases.append(
        of_text(
            "emoji a line",
            "txt",
            "👩‍👩‍👧‍👦\n한국\nשלום\n",
            Rows("texts", ("text",), (("👩‍👩‍👧‍👦",), ("한국",), ("שלום",))),
            streamed=WORKS,
        )
    )
    return cases


def empty_and_blank() -> list[Case]:
    cases: list[Case] = []
    for kind, rows in OF_KIND.items():
        name = rows.names[rows.n_texts - 1]
        for fmt in ALL:
            place = {"csv": "line 3", "tsv": "line 3", "jsonl": "line 2", "parquet": "row 2"}[fmt]
            empty = refused(f"rows.{fmt}", place, name, "empty")
            cases += in_formats(
                f"an empty text among {kind}",
                rows.with_text(""),
                [fmt],
                streamed=empty,
                learned=empty,
                doctored=WORKS,
            )
            for what, blank in (("blank", "   "), ("ideographic space", "\u3000"), ("zero width", "\u200b\u200b")):
                if (what, fmt) not in (
                    ("blank", "jsonl"),
                    ("ideographic space", "tsv"),
                    ("zero width", "parquet"),
                    ("blank", "csv"),
                    ("zero width", "csv"),
                ):
                    continue
                cases += in_formats(
                    f"a text of nothing but {what} among {kind}",
                    rows.with_text(blank),
                    [fmt],
                    streamed=warned(f"rows.{fmt}", "1 row", "blank", place),
                    learned=refused(f"rows.{fmt}", place, "blank", "on_bad_row"),
                    everywhere=(kind, fmt) == ("texts", "csv"),
                )
        gone = refused(f"{'row' if kind == 'labels' else 'line'} 2", name)
        fmt = "parquet" if kind == "labels" else "jsonl"
        cases += in_formats(
            f"a text that is null among {kind}",
            rows.with_text(None),
            [fmt],
            streamed=gone,
            learned=gone,
            doctored=WORKS,
        )
    cases += in_formats(
        "a key that is not there",
        SCORES.with_text(ABSENT),
        ["jsonl"],
        **everyone(refused("line 2", "sentence2")),
        doctored=WORKS,
    )
    many = SCORES.with_text("", 0).with_text("", 2).with_text("", 3)
    cases += in_formats(
        "several empty texts",
        many,
        ["csv"],
        everywhere=True,
        **everyone(refused("3", "line 2", "line 4", "line 5", "empty")),
        doctored=WORKS,
    )
    cases += in_formats(
        "empty texts that are skipped",
        many,
        ["csv"],
        learned=warned("3 rows dropped", "lines 2, 4, 5"),
        options={"on_bad_row": "skip"},
        n_kept=1,
    )
    cases += [
        of_text(
            "an empty line of text",
            "txt",
            "a dog\n\na cat\n",
            Rows("texts", ("text",), (("a dog",), ("",), ("a cat",))),
            streamed=refused("line 2", "empty text"),
            everywhere=True,
            doctored=WORKS,
        ),
        of_text(
            "a blank line of text",
            "txt",
            "a dog\n\u3000 \na cat\n",
            Rows("texts", ("text",), (("a dog",), ("\u3000 ",), ("a cat",))),
            streamed=warned("line 2", "blank"),
        ),
        of_text(
            "empty lines between records",
            "csv",
            csv_text(SCORES).replace("\n", "\n\n"),
            SCORES,
            **everyone(WORKS),
        ),
        of_text(
            "blank lines between objects",
            "jsonl",
            json_text(LABELS).replace("\n", "\n  \n\n"),
            LABELS,
            **everyone(WORKS),
        ),
    ]
    for fmt in ("csv", "tsv", "jsonl", "txt", "parquet"):
        cases.append(
            of_text(
                "no byte at all",
                fmt,
                b"",
                TEXTS if fmt == "txt" else SCORES,
                everywhere=fmt == "csv",
                **everyone(refused(f"rows.{fmt}", "is empty (0 bytes)")),
            )
        )
    for kind, rows in OF_KIND.items():
        nothing = replace(rows, rows=())
        for fmt in CELLS:
            cases += in_formats(
                f"a header alone over {kind}",
                nothing,
                [fmt],
                streamed=warned(f"rows.{fmt}", "holds no"),
                learned=refused(f"rows.{fmt}", "holds no row"),
            )
        none = parquet_bytes(nothing, **{name: pa.string() for name in rows.names})
        cases.append(
            of_text(
                f"no row of {kind}",
                "parquet",
                none,
                nothing,
                streamed=warned("holds no"),
                learned=refused("holds no row"),
            )
        )
    cases.append(of_text("blank lines alone", "jsonl", "\n \n", **everyone(refused("rows.jsonl", "only blank lines"))))
    return cases


# ---------------------------------------------------------------- scores and labels

NO_SCORES: dict[str, tuple[object, str]] = {
    "a word": ("good", "'good' is not a number"),
    "a decimal comma": ("0,85", "'0,85' is not a number; write it with digits and a point"),
    "a percentage": ("85 %", "'85 %' is not a number"),
    "an underscore": ("1_0", "'1_0' is not a number"),
    "hexadecimal digits": ("0x1", "'0x1' is not a number"),
    "nan": ("nan", "'nan' is not a number"),
    "inf": ("inf", "'inf' is not a number"),
    "a number beyond all": ("1e309", "'1e309' is not a finite number"),
    "digits of another script": ("４", "'４' is not a number"),
    "nothing": ("", "label is empty"),
    "NA": ("NA", "'NA' means that there is no label"),
}


def scores() -> list[Case]:
    cases: list[Case] = []
    for name, (value, words) in NO_SCORES.items():
        for fmt in ("csv", "tsv", "jsonl"):
            line = "line 2" if fmt == "jsonl" else "line 3"
            rows = SCORES.with_label(value)
            cases += in_formats(
                f"{name} as a score",
                rows,
                [fmt],
                streamed=WORKS if (name, fmt) == ("a decimal comma", "csv") else None,
                learned=refused(f"rows.{fmt}", line, words),
                everywhere=fmt == "csv",
            )
    cases += in_formats(
        "a score far below the others",
        SCORES.with_label(-7.5),
        ALL,
        streamed=WORKS,
        learned=refused("-7.5", "none of the known scales", "score_range"),
    )
    for name, value, words in (
        ("null", None, "label is missing"),
        ("true", True, "True is not a number"),
        ("a list", [0.5], "label is of type list"),
        ("an object", {"a": 1}, "label is of type dict"),
    ):
        cases += in_formats(
            f"{name} as a score", SCORES.with_label(value), ["jsonl"], streamed=WORKS, learned=refused("line 2", words)
        )
    cases += in_formats(
        "no key of a score",
        SCORES.with_label(ABSENT),
        ["jsonl"],
        streamed=WORKS,
        learned=refused("line 2", "label is missing"),
    )
    for name, value in (("NaN", math.nan), ("an infinity", math.inf), ("null", None)):
        cases += in_formats(
            f"{name} as a score",
            SCORES.with_label(value),
            ["parquet"],
            streamed=WORKS,
            learned=refused("row 2", "label"),
        )
    words = (
        ("a score that is a truth value", pa.bool_(), (True, False, True, True)),
        ("a score that is bytes", pa.binary(), (b"1", b"0", b"1", b"1")),
    )
    for name, type_, values in words:
        rows = replace(SCORES, rows=tuple((*row[:2], value) for row, value in zip(SCORES.rows, values, strict=True)))
        cases.append(
            of_text(name, "parquet", parquet_bytes(rows, score=type_), rows, learned=refused("row 1", "label"))
        )
    to_five = replace(SCORES, rows=tuple((*row[:2], 5 * float(str(row[2]))) for row in SCORES.rows))
    cases += in_formats("scores from 0 to 5", to_five, ALL, **everyone(WORKS))
    outside = {"score_range": "0,4"}
    cases += in_formats(
        "scores outside the stated scale",
        to_five,
        ["csv"],
        learned=refused("line 5", "'4.375'", "0..4"),
        options=outside,
    )
    constant = replace(SCORES, rows=tuple((*row[:2], 0.5) for row in SCORES.rows))
    no_difference = refused("needs two or more different labels, but there is only")
    cases += in_formats(
        *("one score for all", constant, ["csv", "parquet"]),
        learned=warned("all 4 rows have the score 0.5"),
        trained=no_difference,
    )
    one = replace(SCORES, rows=SCORES.rows[:1])
    cases += in_formats(
        "one row", one, ("csv", "jsonl"), streamed=WORKS, learned=warned("only one row"), trained=no_difference
    )
    skipped = SCORES.with_label("0,85")
    cases += in_formats(
        "a bad score that is skipped",
        skipped,
        ["csv"],
        learned=warned("1 row dropped", "line 3", "'0,85'"),
        options={"on_bad_row": "skip"},
        n_kept=3,
    )
    return cases


def labels() -> list[Case]:
    cases: list[Case] = []
    for rows in (LABELS, TEXTS):
        for name, value, words in (
            ("an empty label", "", "label is empty"),
            ("a label of 300 characters", "x" * 300, "300 characters"),
        ):
            cases += in_formats(
                f"{name} of {rows.kind}", rows.with_label(value), ["csv", "jsonl"], learned=refused("line", words)
            )
        many = replace(rows, rows=tuple((*row[:-1], ["yes", "no"]) for row in rows.rows))
        cases += in_formats(
            f"lists of labels of {rows.kind}", many, ["jsonl"], learned=refused("line 1", "multi-label", "one label")
        )
        one = replace(rows, rows=tuple((*row[:-1], rows.rows[0][-1]) for row in rows.rows))
        cases += in_formats(
            f"one class of {rows.kind}",
            one,
            ["csv"],
            learned=warned("all 4 rows have the label"),
            trained=refused("of the class", "at least two"),
            everywhere=True,
        )
        lone = replace(rows, rows=(*rows.rows, (*(f"{text} again" for text in rows.rows[0][:-1]), rows.rows[0][-1])))
        rare = lone.with_label("no" if rows is LABELS else "bad", 0).with_label("no" if rows is LABELS else "bad", 2)
        cases += in_formats(
            f"a class of one row of {rows.kind}", rare, ["tsv"], learned=warned("1 label with only one row")
        )
    return cases


def repeated() -> list[Case]:
    cases: list[Case] = []
    for rows in OF_KIND.values():
        again = replace(rows, rows=(*rows.rows, rows.rows[0]))
        cases += in_formats(
            f"the same row twice among {rows.kind}",
            again,
            ("csv", "parquet"),
            learned=warned("1 row repeating an earlier"),
        )
        label = 0.25 if rows is SCORES else rows.rows[1][-1]
        other = replace(rows, rows=(*rows.rows, (*rows.rows[0][:-1], label)))
        cases += in_formats(
            f"the same row with another label among {rows.kind}",
            other,
            ["tsv", "jsonl"],
            learned=warned("1 row", "with another label"),
        )
    swapped = replace(SCORES, rows=(*SCORES.rows, (SCORES.rows[0][1], SCORES.rows[0][0], 0.75)))
    cases += in_formats("a pair with its sides swapped", swapped, ["csv"], learned=warned("sides swapped"))
    return cases


# ---------------------------------------------------------------- long texts, characters that drive terminals


def long_texts() -> list[Case]:
    word, sentence = "a" * 1_000_000, "a dog runs in the park " * 45_000
    cut = warned("longer than", "cut")
    cases: list[Case] = []
    for fmt in ALL:
        for name, text, rows in (
            ("a word", word, SCORES),
            ("a sentence", sentence, TEXTS),
            ("a sentence", sentence, LABELS),
        ):
            if rows is LABELS and fmt in ("csv", "jsonl"):
                continue
            # A word of that length is one unknown token; a sentence has a token a word.
            expected = WORKS if text is word else cut
            cases += in_formats(
                f"{name} of a million characters among {rows.kind}",
                rows.with_text(text),
                [fmt],
                streamed=expected,
                learned=WORKS if text is word else None,
                doctored=WORKS,
            )
    cases.append(
        of_text(
            "a line of a million characters",
            "txt",
            f"a dog\n{sentence}\n",
            Rows("texts", ("text",), (("a dog",), (sentence,))),
            streamed=cut,
            doctored=WORKS,
        )
    )
    everything = replace(SCORES, rows=tuple((f"{row[0]} " * 40, f"{row[1]} " * 40, row[2]) for row in SCORES.rows))
    cases += in_formats(
        "every text longer than the model takes",
        everything,
        ["csv"],
        streamed=cut,
        learned=cut,
        trained=WORKS,  # the plan of a dry run counts them, on standard output
        doctored=WORKS,
    )

    def line(folder: Path) -> None:
        (folder / "rows.txt").write_text("a dog\n" + "x" * 100_000_000)

    def record(folder: Path) -> None:
        (folder / "rows.csv").write_text(csv_text(SCORES) + '"' + "x\n" * 50_000_000)

    too_long = refused("line 2", "longer than 67,108,864 characters")
    cases += [
        Case("a line of 100 MB, txt", "rows.txt", line, TEXTS, streamed=too_long),
        Case(
            "a record of 100 MB in quotes, csv",
            "rows.csv",
            record,
            SCORES,
            **everyone(refused("line 6", "is not closed")),
        ),
    ]
    return cases


def characters() -> list[Case]:
    escape = "\x1b[31mred\x1b[0m\x07"
    nul = SCORES.with_text("a dog\0and a cat")
    cases = [
        of_text(f"a NUL in {fmt}", fmt, content_of(nul, fmt), **everyone(refused(f"rows.{fmt}", "line 3", "NUL")))
        for fmt in CELLS
    ]
    cases += in_formats("an escaped NUL", nul, ("jsonl", "parquet"), **everyone(WORKS))
    cases.append(of_text("a NUL among lines", "txt", "a dog\na\0b\n", TEXTS, streamed=refused("line 2", "NUL")))
    cases += [
        of_text(
            "half a character in JSON",
            "jsonl",
            json_text(SCORES) + '{"sentence1": "a \\ud800", "sentence2": "b", "score": 1}\n',
            everywhere=True,
            **everyone(refused("line 5", "half a character")),
        ),
        of_text(
            "half a character in bytes",
            "csv",
            csv_text(SCORES).encode() + b"a \xed\xa0\x80,b,1\n",
            **everyone(refused("line 6", "byte 0xed", "not in utf-8")),
        ),
    ]
    for rows in OF_KIND.values():
        cases += in_formats(
            f"escapes of a terminal as texts of {rows.kind}",
            rows.with_text(f"{escape} dog"),
            FEWER[rows.kind],
            **everyone(WORKS),
        )
    cases += in_formats(
        "escapes of a terminal as a score", SCORES.with_label(escape), ["csv"], learned=refused("line 3", "\\x1b[31m")
    )
    cases += in_formats(
        "escapes of a terminal as a column",
        SCORES.named(escape, "right", "mark"),
        ["csv", "jsonl"],
        **everyone(refused("\\x1b[31m")),
    )
    return cases


# ---------------------------------------------------------------- JSON lines


def json_lines() -> list[Case]:
    good = json_text(SCORES)
    pair = '{"sentence1": "a", "sentence2": "b", "score": '
    bad: dict[str, tuple[str, tuple[str, ...]]] = {
        "a line that is cut": ('{"sentence1": "a", "sente', ("is not JSON",)),
        "a list as a line": ('["a", "b", 1]', ("expected a JSON object", "without a list")),
        "a text as a line": ('"a"', ("expected a JSON object",)),
        "null as a line": ("null", ("expected a JSON object", "null")),
        "two objects on a line": (f"{pair}1}} {pair}1}}", ("is not JSON",)),
        "NaN": (f"{pair}NaN}}", ("NaN is not a JSON number",)),
        "an infinity": (f"{pair}-Infinity}}", ("-Infinity is not a JSON number",)),
        "a number beyond all": (f"{pair}1e309}}", ("'1e309' is too large",)),
        "a number of 5,000 digits": (f"{pair}{'1' * 5000}}}", ("5,000 digits",)),
        "100,000 brackets": (f"{pair}{'[' * 100_000}", ("nested too deeply",)),
        "the same key twice": ('{"sentence1": "a", "sentence1": "b", "score": 1}', ("'sentence1' stands twice",)),
        "a number as a text": ('{"sentence1": "a", "sentence2": 5, "score": 1}', ("sentence2", "int '5'")),
        "a truth value as a text": ('{"sentence1": "a", "sentence2": true, "score": 1}', ("sentence2", "bool 'True'")),
        "a list as a text": ('{"sentence1": "a", "sentence2": ["b"], "score": 1}', ("sentence2", "list")),
        "an object as a text": ('{"sentence1": "a", "sentence2": {"b": 1}, "score": 1}', ("sentence2", "dict")),
        "single quotes": ("{'sentence1': 'a', 'sentence2': 'b', 'score': 1}", ("is not JSON",)),
    }
    cases = [
        of_text(
            name,
            "jsonl",
            f"{good}{line}\n{good}",
            everywhere=name == "a line that is cut",
            **everyone(refused("rows.jsonl", "line 5", *words)),
        )
        for name, (line, words) in bad.items()
    ]
    for rows in (LABELS, TEXTS):
        lines = json_text(rows)
        spoiled = f'{lines}{{"cut\n[]\n{lines}7\n'
        cases.append(
            of_text(
                f"several bad lines among {rows.kind}",
                "jsonl",
                spoiled,
                rows,
                **everyone(refused("3", "line 5", "line 6", "line 11")),
            )
        )
    cases += [
        of_text(
            "an array of objects",
            "json",
            f"[{','.join(good.splitlines())}]",
            SCORES,
            everywhere=True,
            **everyone(WORKS),
        ),
        of_text(
            "an array over lines in an object",
            "json",
            '{"version": 1, "data": [\n' + good.replace("\n", ",\n", 3) + "]}\n",
            SCORES,
            **everyone(WORKS),
        ),
        of_text(
            "an array that is cut",
            "json",
            "[\n" + good.replace("\n", ",\n", 3)[:-9],
            everywhere=True,
            **everyone(refused("line 5", "is not JSON from here on")),
        ),
        of_text(
            "an array with 100,000 brackets",
            "json",
            f"[{pair}{'[' * 100_000}",
            **everyone(refused("is not JSON from here on")),
        ),
        of_text(
            "an object over lines",
            "json",
            json.dumps({"sentence1": "a", "sentence2": "b"}, indent=1),
            **everyone(refused("line 1", "each object on one line")),
        ),
        of_text(
            "no key in the first object", "jsonl", f"{{}}\n{good}", **everyone(refused("rows.jsonl", "no columns"))
        ),
        of_text(
            "keys in another order",
            "jsonl",
            good + '{"score": 0.5, "sentence2": "b cat", "sentence1": "a dog"}\n',
            replace(SCORES, rows=(*SCORES.rows, ("a dog", "b cat", 0.5))),
            **everyone(WORKS),
        ),
        of_text(
            "a cut line that is skipped",
            "jsonl",
            good + '{"cut\n',
            learned=warned("1 row lost: not a JSON object", "line 5"),
            options={"on_bad_row": "skip"},
            n_kept=4,
        ),
        of_text(
            "a label in later objects alone",
            "jsonl",
            '{"sentence1": "a", "sentence2": "b"}\n{"sentence1": "a", "sentence2": "c", "score": 1}\n',
            learned=refused("line 2", "'score' like a label"),
        ),
    ]
    return cases


# ---------------------------------------------------------------- Parquet, and files that are something else


def parquet_files() -> list[Case]:
    whole = parquet_bytes(SCORES)
    texts = [row[:2] for row in SCORES.rows]

    def typed(name: str, type_: pa.DataType, values: Sequence[object], *words: str) -> Case:
        rows = replace(
            SCORES,
            rows=tuple(
                (text[0], value, 0.5 + i / 10) for i, (value, text) in enumerate(zip(values, texts, strict=True))
            ),
        )
        return of_text(
            name,
            "parquet",
            parquet_bytes(rows, sentence2=type_),
            **everyone(refused("rows.parquet", "row 1", "sentence2", *words)),
        )

    wrong = pa.array([b"a", b"\xff", b"b", b"c"], pa.binary())
    not_utf8 = pa.StringArray.from_buffers(4, wrong.buffers()[1], wrong.buffers()[2])

    def bad_text(folder: Path) -> None:
        columns = {"sentence1": [t[0] for t in texts], "sentence2": not_utf8, "score": [0.5, 0.25, 0.75, 0.875]}
        pq.write_table(pa.table(columns), folder / "rows.parquet")

    def damaged(folder: Path) -> None:
        long = {"sentence1": ["x" * 9999] * 3, "sentence2": ["y" * 9999] * 3, "score": [0.5, 0.25, 0.75]}
        pq.write_table(pa.table(long), folder / "rows.parquet", compression="zstd", use_dictionary=False)
        content = bytearray((folder / "rows.parquet").read_bytes())
        content[60:90] = b"\xff" * 30
        (folder / "rows.parquet").write_bytes(content)

    def categories(folder: Path) -> None:
        column = pa.array([row[0] for row in TEXTS.rows]).dictionary_encode()
        pq.write_table(pa.table({"document": column, "label": [row[1] for row in TEXTS.rows]}), folder / "rows.parquet")

    return [
        of_text(
            "a file that is cut",
            "parquet",
            whole[:-20],
            everywhere=True,
            **everyone(refused("rows.parquet", "damaged or truncated")),
        ),
        of_text("a file that is cut at its beginning", "parquet", whole[20:], **everyone(refused("not PAR1"))),
        of_text(
            "a footer of nonsense", "parquet", whole[:-40] + b"\xff" * 32 + whole[-8:], **everyone(refused("damaged"))
        ),
        Case(
            "a page that is damaged, parquet",
            "rows.parquet",
            damaged,
            SCORES,
            everywhere=True,
            **everyone(refused("rows.parquet", "damaged")),
        ),
        Case(
            "texts that are not UTF-8, parquet",
            "rows.parquet",
            bad_text,
            SCORES,
            **everyone(refused("row", "sentence2", "cannot be read")),
        ),
        Case("texts as categories, parquet", "rows.parquet", categories, TEXTS, **everyone(WORKS)),
        typed("numbers as texts", pa.int64(), [1, 2, 3, 4], "int '1'"),
        typed("fractions as texts", pa.float64(), [math.nan, 1.0, 2.0, 3.0], "float"),
        typed("bytes as texts", pa.binary(), [b"a", b"b", b"c", b"d"], "bytes"),
        typed("lists as texts", pa.list_(pa.string()), [["a"], ["b"], ["c"], ["d"]], "list"),
        of_text(
            "nothing but nulls as texts",
            "parquet",
            parquet_bytes(SCORES.named("sentence1", "x", "score"), sentence1=pa.string()),
            options={"columns": "sentence1,y"},
            **everyone(refused("no column 'y'")),
        ),
        of_text(
            "large strings", "parquet", parquet_bytes(SCORES, sentence1=pa.large_string()), SCORES, **everyone(WORKS)
        ),
    ]


def something_else() -> list[Case]:
    def zipped(*names: str) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in names:
                archive.writestr(name, "<x/>")
        return buffer.getvalue()

    array = io.BytesIO()
    np.save(array, np.zeros((2, 2), np.float32))
    real: dict[str, tuple[bytes, tuple[str, ...]]] = {
        "gzip": (gzip.compress(csv_text(SCORES).encode()), ("a gzip archive", "unpack")),
        "bzip2": (bz2.compress(csv_text(SCORES).encode()), ("a bzip2 archive", "unpack")),
        "xz": (lzma.compress(csv_text(SCORES).encode()), ("an xz archive", "unpack")),
        "a workbook of Excel": (
            zipped("[Content_Types].xml", "xl/workbook.xml"),
            ("Excel workbook", "suffix .xlsx"),
        ),
        "an old workbook of Excel": (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512),
            ("an old Excel workbook", "CSV"),
        ),
        "a document of Word": (zipped("[Content_Types].xml", "word/document.xml"), ("a Word document", "text")),
        "a zip archive": (zipped("rows.csv"), ("a zip archive", "unpack")),
        "a web page": (b"\n<!DOCTYPE html>\n<html><body>Not found</body></html>", ("a web page (HTML)", "download")),
        "a PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", ("a PDF document", "extract its text")),
        "a pickle": (pickle.dumps([("a", "b", 1)]), ("a pickle of Python", ".csv")),
        "an array of numpy": (array.getvalue(), ("a numpy array", ".csv")),
        "a Parquet file": (parquet_bytes(SCORES), ("a Parquet file", ".parquet")),
        "a database": (b"SQLite format 3\x00" + bytes(100), ("an SQLite database", "CSV")),
        "a git-lfs pointer": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
            ("a git-lfs pointer", "git lfs pull"),
        ),
        "a tar archive": (b"rows.csv" + bytes(249) + b"ustar  \0" + bytes(247), ("a tar archive", "unpack")),
    }
    cases = [
        of_text(
            f"{name} that is named",
            "csv",
            content,
            everywhere=name == "a workbook of Excel",
            **everyone(refused("rows.csv", "expected csv, found", *words)),
        )
        for name, (content, words) in real.items()
    ]
    for suffix in ("tsv", "jsonl", "txt", "parquet"):
        for name in ("gzip", "a web page", "a pickle"):
            rows = TEXTS if suffix == "txt" else LABELS
            cases.append(
                of_text(
                    f"{name} that is named",
                    suffix,
                    real[name][0],
                    rows,
                    **everyone(refused(f"rows.{suffix}", real[name][1][0])),
                )
            )
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("xl/workbook.xml", "w") as part:
        for _ in range(1100):
            part.write(bytes(1 << 20))
    for name, content, words in (
        ("CSV", csv_text(SCORES).encode(), "not a zip archive"),
        ("a document of Word", real["a document of Word"][0], "damaged, or not an Excel workbook"),
        ("an old workbook of Excel", real["an old workbook of Excel"][0], "an old Excel workbook"),
        ("a bomb of zeros", bomb.getvalue(), "unpacks to 1,153,433,600 bytes"),
    ):
        cases.append(of_text(f"{name} that is named", "xlsx", content, **everyone(refused("rows.xlsx", words))))
    cases += [
        of_text("CSV that is named", "parquet", csv_text(SCORES), **everyone(refused("rows.parquet", "not PAR1"))),
        of_text(
            "CSV that is named", "jsonl", csv_text(SCORES), **everyone(refused("rows.jsonl", "line 1", "is not JSON"))
        ),
        of_text(
            "objects that are named", "csv", json_text(SCORES), **everyone(refused("rows.csv", "JSON lines", ".jsonl"))
        ),
        of_text(
            "random bytes that are named",
            "csv",
            bytes(range(128, 256)) * 4,
            **everyone(refused("rows.csv", "byte 0x80")),
        ),
    ]
    return cases


def places() -> list[Case]:
    def folder(place: Path) -> None:
        (place / "rows.csv").mkdir()

    def dangling(place: Path) -> None:
        (place / "rows.csv").symlink_to("gone.csv")

    def loop(place: Path) -> None:
        (place / "rows.csv").symlink_to("rows.csv")

    def fifo(place: Path) -> None:
        os.mkfifo(place / "rows.csv")

    def link(place: Path) -> None:
        (place / "real.csv").write_text(csv_text(SCORES))
        (place / "rows.csv").symlink_to("real.csv")

    def nothing(place: Path) -> None:
        pass

    cases = [
        Case("a folder", "rows.csv", folder, SCORES, everywhere=True, **everyone(refused("rows.csv", "is a folder"))),
        Case(
            "a link to nothing",
            "rows.csv",
            dangling,
            SCORES,
            **everyone(refused("rows.csv", "gone.csv", "does not exist")),
        ),
        Case("a link to itself", "rows.csv", loop, SCORES, **everyone(refused("rows.csv", "symbolic links"))),
        Case("a pipe", "rows.csv", fifo, SCORES, everywhere=True, **everyone(refused("rows.csv", "is a pipe"))),
        Case("no file", "rows.csv", nothing, SCORES, everywhere=True, **everyone(refused("rows.csv", "no such file"))),
        Case("a link to a file", "rows.csv", link, SCORES, everywhere=True, **everyone(WORKS)),
        Case(
            "an unknown suffix",
            "rows.dat",
            csv_text(SCORES).encode(),
            SCORES,
            **everyone(refused("rows.dat", "suffix '.dat'", "kind")),
        ),
        Case("no suffix", "rows", csv_text(SCORES).encode(), SCORES, **everyone(refused("suffix ''", "kind"))),
        Case(
            "an unknown suffix with its kind said",
            "rows.dat",
            csv_text(SCORES).encode(),
            SCORES,
            learned=WORKS,
            options={"kind": "csv"},
        ),
        Case(
            "a name with a quote, a blank and Hangul",
            "it's 문장.csv",
            csv_text(SCORES).encode(),
            SCORES,
            everywhere=True,
            **everyone(WORKS),
        ),
        Case(
            "a name that drives a terminal",
            "\x1b[31m.csv",
            b"",
            SCORES,
            **everyone(refused("\\x1b[31m.csv", "is empty")),
        ),
    ]
    return cases


def all_cases() -> list[Case]:
    """Return every case, each under a name of its own."""
    sources = (delimiters_and_headers, encodings, quotes, words_that_look_like_values, empty_and_blank, scores, labels)
    more = (repeated, long_texts, characters, json_lines, parquet_files, something_else, places)
    return [case for source in (*sources, *more) for case in source()]
