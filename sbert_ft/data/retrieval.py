"""Queries, a corpus and relevance judgements: three files that say which texts a search should find.

Their columns have the names of BEIR, MTEB, MS MARCO or TREC, or are named. Judgements may also be a file of TREC
(``query 0 document grade``, separated by white space, without a header; .txt, .trec or .qrels). As in trec_eval, a
document without a judgement is not relevant, nor is one with a grade of 0 or less, and a query without a relevant
document is left out (and counted), because no metric is defined for it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.data.columns import folded
from sbert_ft.data.formats import Missing, Row
from sbert_ft.data.ledger import file_sha256
from sbert_ft.data.table import Table, open_table
from sbert_ft.data.text import fault
from sbert_ft.data.text_rows import TextRows
from sbert_ft.errors import DataError, listed, quoted

Open = Callable[[str], Table]

# Names of columns, as `folded` returns them; the first one that a file has is taken.
_QUERY_ID: Final = ("query_id", "query-id", "queryid", "qid")
_CORPUS_ID: Final = (
    *("corpus_id", "corpus-id", "corpusid", "document_id", "doc_id", "docid", "doc-id", "passage_id", "pid"),
)
_ANY_ID: Final = ("id", "_id")
_GRADE: Final = ("score", "relevance", "grade", "rel", "label")
_TREC_SUFFIXES: Final = (".trec", ".qrels", ".qrel")


@dataclass(frozen=True)
class RetrievalFiles:
    """The three files, and their columns where these have no usual names.

    Attributes:
        queries: File of the queries, with an id and a text.
        corpus: File of the texts to search in, likewise.
        relevant: File of the judgements: a query's id, a text's id, and a grade; without grades all are relevant.
        query_columns: Names of the columns with the queries' ids and texts.
        corpus_columns: Likewise of the corpus.
        relevant_columns: Names of the columns with the ids of the query and of the text, and with the grade.
    """

    queries: str
    corpus: str
    relevant: str
    query_columns: Sequence[str] | None = None
    corpus_columns: Sequence[str] | None = None
    relevant_columns: Sequence[str] | None = None


@dataclass(frozen=True)
class RetrievalData:
    """Judged queries and the corpus to search in. Letters: Q queries, N texts of the corpus, R relevant pairs.

    Attributes:
        files: Where they are from.
        sha256: Of the digests of the three files.
        query_ids: Ids of the queries that have a relevant text, shape (Q,).
        query_lines: Their lines in their file.
        queries: Their texts.
        corpus_ids: Shape (N,).
        corpus: Shape (N,).
        of_query: The query of each relevant pair, rising, shape (R,), int64.
        rows: The text of each relevant pair, as its row of the corpus, shape (R,), int64.
        grades: The grade of each relevant pair, above 0, shape (R,), float64.
        n_without: Number of queries without a relevant text, which are left out.
    """

    files: RetrievalFiles
    sha256: str
    query_ids: tuple[str, ...]
    query_lines: tuple[int, ...]
    queries: tuple[str, ...]
    corpus_ids: tuple[str, ...]
    corpus: tuple[str, ...]
    of_query: NDArray[np.int64]
    rows: NDArray[np.int64]
    grades: NDArray[np.float64]
    n_without: int

    @property
    def source(self) -> str:
        """The three files, for people."""
        return f"{self.files.queries}, {self.files.corpus} and {self.files.relevant}"

    def __len__(self) -> int:
        return len(self.queries)


def read_retrieval(files: RetrievalFiles, open_file: Open = open_table) -> RetrievalData:
    """Return what the files hold; `open_file` opens one.

    Raises:
        DataError: A file cannot be read, has no row, has an id twice, or a judgement names an id that is not there, or
            no query has a relevant text.
    """
    query_texts = _texts(files.queries, files.query_columns, _QUERY_ID, "--query-columns ID,TEXT", open_file)
    corpus = _texts(files.corpus, files.corpus_columns, _CORPUS_ID, "--corpus-columns ID,TEXT", open_file)
    grades = _judgements(files, query_texts, corpus, open_file)
    by_query: dict[str, list[tuple[int, float]]] = {}
    row_of = {key: row for row, key in enumerate(corpus)}
    for (query, document), grade in grades.items():
        if grade > 0:
            by_query.setdefault(query, []).append((row_of[document], grade))
    if not by_query:
        raise DataError(
            f"{quoted(files.relevant, limit=400)}: no query has a relevant text: every grade is 0 or less",
            "give judgements with a grade of 1 or more",
        )
    kept = [key for key in query_texts if key in by_query]
    pairs = [(number, row, grade) for number, key in enumerate(kept) for row, grade in sorted(by_query[key])]
    digests = "".join(file_sha256(Path(path)) for path in (files.queries, files.corpus, files.relevant))
    return RetrievalData(
        files,
        hashlib.sha256(digests.encode()).hexdigest(),
        tuple(kept),
        tuple(query_texts[key][0] for key in kept),
        tuple(query_texts[key][1] for key in kept),
        tuple(corpus),
        tuple(text for _, text in corpus.values()),
        np.array([number for number, _, _ in pairs], np.int64),
        np.array([row for _, row, _ in pairs], np.int64),
        np.array([grade for _, _, grade in pairs], np.float64),
        len(query_texts) - len(kept),
    )


def _texts(
    path: str, columns: Sequence[str] | None, names: Sequence[str], option: str, open_file: Open
) -> dict[str, tuple[int, str]]:
    """Return the line and the text of each id, in the order of the file."""
    table = open_file(path)
    text_column: str | None = None
    if columns is None:
        id_column = _usual(table, (*names, *_ANY_ID), "ids", f"name them with {option}")
    else:
        id_column, text_column = columns
    try:
        rows = TextRows(table, text_column, id_column)
    except DataError as error:
        if text_column is not None:
            raise
        raise DataError(error.problem, f"name the columns with {option}", where=error.where) from None
    found: dict[str, tuple[int, str]] = {}
    for row in rows:
        if row.id in found:
            raise rows.repeated(row)
        found[str(row.id)] = row.line, row.text
    if not found:
        raise fault(table.path, "holds no row; expected at least one text with its id")
    return found


def _usual(table: Table, names: Sequence[str], what: str, hint: str) -> str:
    """Return the column of the first of these usual names that the table has."""
    by_name = {folded(column): column for column in reversed(table.format.columns)}
    if (name := next((name for name in names if name in by_name), None)) is not None:
        return by_name[name]
    if not table.format.columns:
        raise fault(table.path, f"has one text per line; expected columns, one of them with {what}")
    usual, there = listed(names, len(names)), listed(table.format.columns, 20)
    raise fault(table.path, f"no column with {what}: expected one called {usual}; the columns are {there}", hint=hint)


def _judgements(
    files: RetrievalFiles,
    queries: Mapping[str, tuple[int, str]],
    corpus: Mapping[str, tuple[int, str]],
    open_file: Open,
) -> dict[tuple[str, str], float]:
    """Return the grade of each judged pair of ids."""
    is_trec = files.relevant.lower().endswith(_TREC_SUFFIXES)
    table = open_table(files.relevant, kind="lines") if is_trec else open_file(files.relevant)
    found: dict[tuple[str, str], float] = {}

    def problem_of(row: Row) -> tuple[str, str] | None:
        values = row.values
        if not table.format.columns:
            fields = str(values[0]).split()
            if len(fields) != 4:
                return "expected a query, 0, a document and a grade (TREC)", "write four words separated by blanks"
            values = (fields[0], fields[2], fields[3])
        query, document = (_id(value) for value in values[:2])
        if query is None or document is None:
            return "expected the ids of a query and of a text", "fill them or remove the row"
        for key, known, where in ((query, queries, files.queries), (document, corpus, files.corpus)):
            if key not in known:
                there = f"the id {quoted(key, limit=40)} is not in {quoted(where, limit=200)}"
                return there, "remove such rows, or give the file that has these ids"
        if (query, document) in found:
            return f"{quoted(query, limit=40)} and {quoted(document, limit=40)} are there twice", "keep one of the rows"
        grade = _grade(values[2]) if len(values) > 2 else 1.0
        if grade is None:
            return f"expected a grade, a number, found {quoted(values[2], limit=40)}", "write 1 for relevant, 0 for not"
        found[query, document] = grade
        return None

    n_rows = sum(1 for _ in table.checked_rows(_relevant_columns(table, files), problem_of))
    if not n_rows:
        raise fault(table.path, "holds no row; expected at least one judgement")
    return found


def _relevant_columns(table: Table, files: RetrievalFiles) -> tuple[int, ...]:
    """Return the positions of the columns with the query's id, the text's id and, where there is one, the grade."""
    if not table.format.columns:
        return (0,)
    if files.relevant_columns is not None:
        return tuple(map(table.column_index, files.relevant_columns))
    hint = "name them with --relevant-columns QUERY,TEXT[,GRADE]"
    ids = [_usual(table, (*_QUERY_ID, "query"), "ids of queries", hint)]
    ids.append(_usual(table, (*_CORPUS_ID, "document", "passage", "corpus"), "ids of texts", hint))
    there = {folded(column): column for column in reversed(table.format.columns)}
    ids += [there[name] for name in _GRADE if name in there][:1]
    return tuple(map(table.column_index, ids))


def _id(value: object) -> str | None:
    is_one = isinstance(value, (str, int)) and not isinstance(value, bool)
    return str(value) if is_one and value != "" and value is not Missing.MISSING else None


def _grade(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        grade = float(value)
    except ValueError:
        return None
    return grade if math.isfinite(grade) else None
