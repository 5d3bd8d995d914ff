"""Queries, a corpus and judgements from files: usual and named columns, BEIR and TREC, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sbert_ft.data.retrieval import RetrievalData, RetrievalFiles, read_retrieval
from sbert_ft.errors import DataError

QUERIES = "id,query\nq1,a dog\nq2,a cat\nq3,music\n"
CORPUS = "id,text\nd1,the dog runs\nd2,a guitar\nd3,the cat eats\nd4,a puppy\n"
RELEVANT = "query_id,corpus_id,score\nq3,d2,1\nq1,d4,1\nq1,d1,2\nq1,d2,0\n"


def written(folder: Path, **texts: str) -> RetrievalFiles:
    """Write queries, corpus and relevant; a name such as `corpus_jsonl` gives a suffix."""
    paths = {}
    for name, text in {"queries_csv": QUERIES, "corpus_csv": CORPUS, "relevant_csv": RELEVANT, **texts}.items():
        what, _, suffix = name.partition("_")
        paths[what] = folder / f"{what}.{suffix}"
        paths[what].write_text(text, encoding="utf-8")
    return RetrievalFiles(**{what: str(path) for what, path in paths.items()})


def check(data: RetrievalData) -> None:
    """Check that the data are those of QUERIES, CORPUS and RELEVANT."""
    assert data.query_ids == ("q1", "q3") and data.queries == ("a dog", "music") and data.n_without == 1
    assert data.corpus_ids == ("d1", "d2", "d3", "d4") and data.corpus[3] == "a puppy"
    assert list(zip(data.of_query.tolist(), data.rows.tolist(), data.grades.tolist(), strict=True)) == [
        *((0, 0, 2.0), (0, 3, 1.0), (1, 1, 1.0)),
    ]


def test_queries_without_a_relevant_text_are_left_out_and_counted(tmp_path: Path) -> None:
    data = read_retrieval(written(tmp_path))
    check(data)
    assert data.query_lines == (2, 4)
    files = written(tmp_path, relevant_csv=RELEVANT.replace("d1,2", "d1,3"))
    assert read_retrieval(files).sha256 != data.sha256


def test_files_of_beir_are_read_as_they_are(tmp_path: Path) -> None:
    def lines(text: str, name: str) -> str:
        rows = [line.split(",") for line in text.splitlines()[1:]]
        return "".join(
            f'{{"_id": "{key}", "title": "", "{name}": "{value}", "metadata": {{}}}}\n' for key, value in rows
        )

    relevant = RELEVANT.replace("_id", "-id").replace(",", "\t")
    check(
        read_retrieval(
            written(
                tmp_path,
                queries_jsonl=lines(QUERIES, "text"),
                corpus_jsonl=lines(CORPUS, "text"),
                relevant_tsv=relevant,
            )
        )
    )


@pytest.mark.parametrize("suffix", ["txt", "qrels", "trec"])
def test_judgements_of_trec_are_read(tmp_path: Path, suffix: str) -> None:
    rows = [line.split(",") for line in RELEVANT.splitlines()[1:]]
    trec = "".join(f"{query} 0\t{document}  {grade}\n" for query, document, grade in rows)
    check(read_retrieval(written(tmp_path, **{f"relevant_{suffix}": trec})))


def test_columns_can_be_named_and_ids_can_be_numbers(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="writing Parquet needs pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"number": [7, 8], "inhalt": ["a dog", "a cat"], "text": ["x", "y"]})
    parquet.write_table(table, tmp_path / "corpus.parquet")
    files = written(tmp_path, queries_tsv="key\tquestion\n1\tpuppy\n", relevant_csv="a,b,how\n1,8,0.5\n")
    named = RetrievalFiles(
        files.queries,
        str(tmp_path / "corpus.parquet"),
        files.relevant,
        *(("key", "question"), ("number", "inhalt"), ("a", "b", "how")),
    )
    data = read_retrieval(named)
    assert (data.query_ids, data.corpus_ids, data.corpus) == (("1",), ("7", "8"), ("a dog", "a cat"))
    assert (data.rows.tolist(), data.grades.tolist()) == ([1], [0.5])


BAD = {
    "an id of queries twice": ({"queries_csv": QUERIES + "q1,x\n"}, "queries.csv', line 5: column 'id': the id 'q1'"),
    "an id of the corpus twice": ({"corpus_csv": CORPUS + "d1,x\n"}, "corpus.csv', line 6: column 'id': the id 'd1'"),
    "an empty corpus": ({"corpus_csv": "id,text\n"}, "corpus.csv': holds no row; expected at least one text"),
    "no queries": ({"queries_csv": "id,query\n"}, "queries.csv': holds no row; expected at least one text"),
    "no judgements": ({"relevant_csv": "query_id,corpus_id\n"}, "holds no row; expected at least one judgement"),
    "an empty query": ({"queries_csv": QUERIES + "q4,\n"}, "queries.csv', line 5: column 'query': expected a text"),
    "an id that is empty": ({"corpus_csv": CORPUS + ",x\n"}, "line 6: column 'id': expected an id"),
    "an unknown query": ({"relevant_csv": RELEVANT + "q9,d1,1\n"}, "line 6: the id 'q9' is not in"),
    "an unknown text": (
        {"relevant_csv": RELEVANT + "q1,d9,1\nq1,d8,1\n"},
        "2 rows cannot be used: line 6: the id 'd9'",
    ),
    "a judgement twice": ({"relevant_csv": RELEVANT + "q1,d1,2\n"}, "line 6: 'q1' and 'd1' are there twice; keep one"),
    "a grade that is a word": ({"relevant_csv": RELEVANT + "q2,d3,yes\n"}, "line 6: expected a grade, a number, found"),
    "a grade that is NaN": ({"relevant_csv": RELEVANT + "q2,d3,nan\n"}, "line 6: expected a grade, a number, found"),
    "an empty id of a query": ({"relevant_csv": RELEVANT + ",d3,1\n"}, "line 6: expected the ids of a query and of"),
    "nothing relevant": ({"relevant_csv": "query_id,corpus_id,score\nq1,d1,0\n"}, "no query has a relevant text"),
    "no column of ids": ({"queries_csv": "query\na dog\n"}, "no column with ids: expected one called 'query_id'"),
    "no column of texts": ({"corpus_csv": "id,x\nd1,a dog\n"}, "name the columns with --corpus-columns ID,TEXT"),
    "one text per line": ({"corpus_txt": "a dog\n"}, "has one text per line; expected columns, one of them with ids"),
    "three words of TREC": ({"relevant_txt": "q1 0 d1 1\nq2 d3 1\n"}, "line 2: expected a query, 0, a document and a"),
    "no column of queries": ({"relevant_csv": "x,corpus_id\nq1,d1\n"}, "no column with ids of queries"),
}


@pytest.mark.parametrize(("texts", "message"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path: Path, texts: dict[str, str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_retrieval(written(tmp_path, **texts))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    files = written(tmp_path)
    with pytest.raises(DataError, match="no such file; check the path"):
        read_retrieval(RetrievalFiles(files.queries, str(tmp_path / "none.csv"), files.relevant))
