"""Raw texts: documents, several files, tables, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from sbert_ft.config.settings import Reading
from sbert_ft.data.corpus import TextCorpus
from sbert_ft.errors import DataError, InputError


def texts_of(corpus: TextCorpus) -> list[tuple[str, int, int]]:
    return [tuple(text) for text in corpus.texts()]


def test_empty_lines_end_documents_and_every_line_is_accounted_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n\n한국어 문장\nc\n\n\nd\n", encoding="utf-8")
    corpus = TextCorpus(tmp_path / "a.txt")
    assert texts_of(corpus) == [("한국어 문장", 3, 0), ("c", 4, 0), ("d", 7, 1)]
    assert (corpus.ledger.n_rows, corpus.ledger.n_kept, corpus.ledger.count("empty")) == (7, 3, 4)
    assert corpus.has_documents


def test_a_folder_is_read_in_the_order_of_names_and_lines_go_on(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("e\nf", encoding="utf-8")
    (tmp_path / "a.txt").write_text("c\nd\n", encoding="utf-8")
    (tmp_path / "notes.md").write_text("no text of the corpus", encoding="utf-8")
    corpus = TextCorpus(tmp_path)
    assert texts_of(corpus) == [("c", 1, 0), ("d", 2, 0), ("e", 3, 1), ("f", 4, 1)]
    assert corpus.sha256 != TextCorpus(tmp_path / "a.txt").sha256


def test_a_txt_with_tabs_is_a_table_if_its_first_line_names_columns(tmp_path: Path) -> None:
    (tmp_path / "table.txt").write_text("id\tdocument\tlabel\n7\tx y\t1\n", encoding="utf-8")
    (tmp_path / "texts.txt").write_text("first\tline\nsecond\n", encoding="utf-8")
    assert texts_of(TextCorpus(tmp_path / "table.txt")) == [("x y", 2, 0)]
    assert texts_of(TextCorpus(tmp_path / "texts.txt")) == [("first\tline", 1, 0), ("second", 2, 0)]


def test_a_column_names_documents(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("doc,text\n1,x\n1,y\n2,\n2,z\n", encoding="utf-8")
    corpus = TextCorpus(tmp_path / "c.csv", document_column="doc")
    assert texts_of(corpus) == [("x", 2, 0), ("y", 3, 0), ("z", 5, 1)]
    rows_alone = TextCorpus(tmp_path / "c.csv")
    assert [text.document for text in rows_alone.texts()] == [0, 1, 2]
    assert not rows_alone.has_documents


def test_the_texts_of_two_columns_are_texts_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t1\nc\td\t2\n", encoding="utf-8")
    assert [text.text for text in TextCorpus(tmp_path / "pairs.tsv").texts()] == ["a", "b", "c", "d"]
    one = TextCorpus(tmp_path / "pairs.tsv", Reading(text_columns=("sentence2",)))
    assert [text.text for text in one.texts()] == ["b", "d"]


def test_texts_in_memory_are_a_corpus_with_an_account() -> None:
    corpus = TextCorpus.from_texts(["a", "b", "", "c"])
    assert texts_of(corpus) == [("a", 0, 0), ("b", 1, 0), ("c", 3, 1)]
    assert (corpus.source, corpus.ledger.n_rows, corpus.ledger.n_kept, len(corpus)) == ("<texts>", 4, 3, 3)
    assert corpus.ledger.format == "texts in memory"
    with pytest.raises(InputError, match="text at position 1 is '3' \\(int\\), expected a string"):
        TextCorpus.from_texts(["a", 3])  # type: ignore[list-item]


def test_both_parts_of_a_split_account_for_every_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"text {i}\n\n" for i in range(200)), encoding="utf-8")
    corpus = TextCorpus(tmp_path / "a.txt")
    for by_document in (False, True):
        train, dev = corpus.split(0.2, 7, by_document)
        assert sorted(texts_of(train) + texts_of(dev)) == sorted(texts_of(corpus))
        assert 20 < len(dev) < 60 and len(train) + len(dev) == 200
        for part in (train, dev):
            assert (part.ledger.n_rows, part.ledger.count("empty")) == (400, 200)
            assert part.ledger.count("left_out") == 200 - len(part)
        (left_out,) = (found for found in dev.ledger.findings if found.kind == "left_out")
        assert left_out.sentence == f"{len(train)} texts in the other part of the split"


def test_a_part_of_a_split_without_a_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n", encoding="utf-8")
    _, dev = TextCorpus(tmp_path / "a.txt").split(0.0001, 1)
    with pytest.raises(DataError, match=r"all 2 texts are in the other part; raise data.dev_share, or name a file for"):
        len(dev)


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("empty.txt", "\n\n", {}, "holds no text"),
        ("a.csv", "x,y\n1,2\n", {}, "expected columns of texts with usual names"),
        ("a.csv", "text,y\n1,2\n", {"document_column": "doc"}, "no column 'doc'"),
        ("a.txt", "one\ntwo\n", {"document_column": "doc"}, "no column 'doc'"),
        ("a.jsonl", '{"text": 3}\n', {}, "expected a text, found int '3'"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    tmp_path: Path, name: str, content: str, options: dict[str, str], expected: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=expected):
        texts_of(TextCorpus(tmp_path / name, **options))


def test_a_folder_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder without files of texts"):
        TextCorpus(tmp_path)
