"""A search index: what is found, what is written, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from warm import WarmProcess

from sbert_ft.data.table import open_table
from sbert_ft.data.text_rows import TextRow, TextRows
from sbert_ft.errors import DataError, InputError, OutputError, SbertFtError
from sbert_ft.files.file_lock import locked
from sbert_ft.model_folder.decision import Calibration, Decision, FittedOn
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.search.approximate import FaissLists
from sbert_ft.search.index import SearchIndex
from sbert_ft.search.index_writer import IndexSettings
from sbert_ft.vectors.nearest import nearest, unit_rows

pytest.importorskip("pyarrow", reason="the Parquet extra is not installed")

FAQ = ["How do I reset my password?", "Where is my order?", "Can I pay by card?", "How do I close my account?"]

SMALL = {"usearch": IndexSettings("usearch"), "faiss": IndexSettings("faiss", parameters={"lists": 64, "codes": 16})}


@pytest.fixture(scope="module")
def minilm(minilm_path: Path) -> SiameseBert:
    return SiameseBert.from_pretrained(minilm_path, "cpu", "float32")


@pytest.fixture(scope="module")
def built(minilm: SiameseBert, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index of FAQ; not to be changed."""
    folder = tmp_path_factory.mktemp("built")
    file = folder / "faq.jsonl"
    rows = [{"key": key, "text": text, "lang": "en"} for key, text in zip("abcd", FAQ, strict=True)]
    rows[2]["lang"] = None  # type: ignore[assignment]
    rows[3]["lang"] = "ko"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    SearchIndex.build(minilm, TextRows(open_table(file), "text", "key", ["lang"]), folder / "faq.index")
    return folder / "faq.index"


@pytest.fixture
def path(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "faq.index")


def many(n: int, seed: int = 0, d: int = 32) -> np.ndarray:
    """Return vectors in clusters, as those of texts are."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(50, d))
    return unit_rows(centers[random.integers(50, size=n)] + 0.6 * random.normal(size=(n, d)))


def of_vectors(vectors: np.ndarray, path: Path, settings: IndexSettings | None = None) -> SearchIndex:
    blocks = ((range(i, min(i + 700, len(vectors))), vectors[i : i + 700]) for i in range(0, len(vectors), 700))
    return SearchIndex.build_from_vectors(blocks, path, ("digest", "model"), settings)


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_hits_have_the_cosine_of_the_model_and_the_columns_of_the_file(minilm: SiameseBert, built: Path) -> None:
    index = SearchIndex.open(built, minilm, verify=True)
    first, second = index.search("I forgot my password", k=2)
    assert (first.id, first.text, dict(first.values)) == ("a", FAQ[0], {"lang": "en"})
    assert first.score == pytest.approx(minilm.score("I forgot my password", FAQ[0]), abs=1e-5)
    assert first.score > second.score
    assert (first.probability, first.match) == (None, None), "the model has no decision"
    of_several = index.search(["card", "parcel"], k=4)
    assert [hits[0].id for hits in of_several] == ["c", "b"] and [len(hits) for hits in of_several] == [4, 4]
    by_vector = index.search(minilm.encode(["card", "parcel"]), 4)
    assert by_vector == of_several


def test_probability_and_match_are_those_of_the_stored_decision(minilm_path: Path, built: Path) -> None:
    model = SiameseBert.from_pretrained(minilm_path, "cpu", "float32")
    fitted = FittedOn("dev.csv", "0" * 64, 10, 5)
    model.decision = Decision(0.5, "f1", fitted, calibration=Calibration("platt", slope=10.0, intercept=-5.0))
    near, far = SearchIndex.open(built, model).search("I forgot my password", k=2)
    assert (near.match, far.match) == (True, False)
    expected = model.decision.calibration.probability(np.array([near.score]))  # type: ignore[union-attr]
    assert near.probability == pytest.approx(float(expected[0]))


def test_prompts_of_queries_and_documents_are_used(tiny_bert_folder: Callable[..., Path], tmp_path: Path) -> None:
    model = SiameseBert.from_pretrained(tiny_bert_folder(tmp_path / "model"), "cpu", "float32")
    model.use_prompts("a man ", "the water ")
    index = SearchIndex.build(model, FAQ, tmp_path / "prompts.index")
    np.testing.assert_allclose(index.vectors, unit_rows(model.encode_document(FAQ)), atol=1e-5)
    np.testing.assert_allclose(index.encode_queries(FAQ), unit_rows(model.encode_query(FAQ)), atol=1e-5)
    assert np.abs(index.vectors - unit_rows(model.encode(FAQ, prompt=""))).max() > 1e-3
    model.use_prompts("a man ", "the dog ")
    with pytest.raises(InputError, match="has the vectors of another model"):
        SearchIndex.open(tmp_path / "prompts.index", model)


def test_values_of_a_column_choose_rows_before_the_ranking(minilm: SiameseBert, built: Path) -> None:
    index = SearchIndex.open(built, minilm)
    assert [hit.id for hit in index.search("password", 4, {"lang": "en"})] == ["a", "b"]
    assert [hit.id for hit in index.search("password", 1, {"lang": ["ko", "fr"]})] == ["d"]
    assert index.search("password", 1, {"lang": "fr"}) == []
    assert index.search(["password", "order"], 2, {"lang": "fr"}) == [[], []]


def test_the_files_are_read_by_numpy_and_pandas(built: Path) -> None:
    import pandas as pd

    table = pd.read_parquet(built / "texts.parquet")
    assert table["text"].tolist() == FAQ and table["id"].tolist() == list("abcd")
    vectors = np.load(built / "vectors.npy")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    assert json.loads((built / "manifest.json").read_text())["count"] == 4


def test_added_rows_are_found_and_the_open_index_stays_the_old_one(minilm: SiameseBert, path: Path) -> None:
    before = SearchIndex.open(path, minilm)
    file = path.parent / "more.csv"
    file.write_text("key,text,lang\ne,I want my money back,en\n")
    after = before.add(TextRows(open_table(file), "text", "key", ["lang"]))
    assert [hit.id for hit in after.search("refund", 1)] == ["e"] and len(after) == 5
    assert [hit.id for hit in before.search(FAQ[1], 1)] == ["b"] and len(before) == 4
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "texts-2.parquet", "vectors-2.npy"]
    assert len(SearchIndex.open(path, verify=True)) == 5
    np.testing.assert_array_equal(after.vectors[:4], before.vectors)


def test_numbers_of_rows_go_on_where_the_index_has_no_ids(minilm: SiameseBert, tmp_path: Path) -> None:
    index = SearchIndex.build(minilm, FAQ[:2], tmp_path / "a.index").add(FAQ[2:])
    assert [index.search(text, 1)[0].id for text in FAQ] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("key,text,lang\na,again,en\n", ("text", "key", ["lang"]), "the id 'a' is there twice"),
        ("key,text,lang\nx,one,en\nx,two,en\n", ("text", "key", ["lang"]), "the id 'x' is there twice"),
        ("key,text,lang\nx,one,en\n", ("text", "key", []), "the index has the other columns 'lang', found none"),
        ("key,text,lang\nx,one,en\n", ("text", None, ["lang"]), "the index has ids; give rows of the same kind"),
        ("key,text,lang\n", ("text", "key", ["lang"]), "holds no row; expected at least one text"),
    ],
)
def test_rows_that_cannot_be_added_leave_the_index_as_it_was(
    minilm: SiameseBert, path: Path, text: str, options: tuple[Any, ...], said: str
) -> None:
    before = content(path)
    (path.parent / "more.csv").write_text(text)
    with pytest.raises(SbertFtError, match=said):
        SearchIndex.open(path, minilm).add(TextRows(open_table(path.parent / "more.csv"), *options))
    assert content(path) == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["faq.index", "more.csv"]


def test_an_index_that_another_process_writes_is_not_added_to(minilm: SiameseBert, path: Path) -> None:
    file = path.parent / "more.csv"
    file.write_text("key,text,lang\ne,text,en\n")
    index = SearchIndex.open(path, minilm)
    with locked(path), pytest.raises(OutputError, match="is in use by process"):
        index.add(TextRows(open_table(file), "text", "key", ["lang"]))


KILLED = """
import os, signal, sys
from sbert_ft.files import atomic
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.search import index_writer
from sbert_ft.search.index import SearchIndex
model, path, nth = sys.argv[1], sys.argv[2], int(sys.argv[3])
def struck(function):
    def counted(*arguments, **options):
        global nth
        nth -= 1
        if nth == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return counted
index = SearchIndex.open(path, SiameseBert.from_pretrained(model, "cpu", "float32"))
for module, name in ((os, "replace"), (os, "fsync"), (os, "unlink"), (os, "rename")):
    setattr(module, name, struck(getattr(module, name)))
index.add(["a text that is new"])
print("added")
"""


def test_a_kill_at_any_step_of_adding_leaves_the_old_index_or_the_new_one(
    warm: WarmProcess, tiny_bert_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """The process is killed before its nth rename, sync or removal, until it comes to its end."""
    folder = tiny_bert_folder(tmp_path / "model")
    model = SiameseBert.from_pretrained(folder, "cpu", "float32")
    SearchIndex.build(model, ["a dog", "water"], tmp_path / "whole.index")
    counts = []
    for nth in range(1, 60):
        path = shutil.copytree(tmp_path / "whole.index", tmp_path / f"{nth}" / "killed.index")
        done = warm.script(KILLED, folder, path, nth)
        index = SearchIndex.open(path, verify=True)
        counts.append(len(index))
        assert len(index.hits(index.neighbors(index.vectors[:], 1))) == counts[-1]
        if nth % 3 == 0:  # what was left does not stand in the way
            again = SearchIndex.open(path, model).add(["one more"])
            assert len(again) == counts[-1] + 1
            names = {"manifest.json", *(file.name for file in again.manifest.files.values())}
            assert {file.name for file in path.iterdir()} == names
            assert [file.name for file in path.parent.iterdir()] == ["killed.index"]
        if done.out == "added\n":
            break
        assert done.code == -9
    assert done.out == "added\n" and counts == sorted(counts) and set(counts) == {2, 3}


FULL = """
import resource, sys
from sbert_ft.errors import OutputError
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.search.index import SearchIndex
model, path, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = SiameseBert.from_pretrained(model, "cpu", "float32")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
try:
    SearchIndex.build(model, ["a dog"] * 200, path)
except OutputError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 150, 20_000])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    warm: WarmProcess, tiny_bert_folder: Callable[..., Path], tmp_path: Path, limit: int
) -> None:
    folder, path = tiny_bert_folder(tmp_path / "model"), tmp_path / "full.index"
    done = warm.script(FULL, folder, path, limit)
    assert (done.code, done.err) == (0, "") and f"'{path}': cannot be written: " in done.out
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_an_index_is_replaced_by_a_new_one_and_other_folders_are_not(minilm: SiameseBert, path: Path) -> None:
    index = SearchIndex.build(minilm, FAQ[:1], path)
    assert (len(SearchIndex.open(path)), index.manifest.version) == (1, 2)
    assert not (path / "vectors.npy").exists()
    other = path.parent / "other"
    other.mkdir()
    (other / "manifest.json").write_text('{"name": "an app"}')
    for place in (other, path.parent / "model.bin"):
        place.exists() or place.write_text("precious")
        with pytest.raises(OutputError, match="exists and is not a search index"):
            SearchIndex.build(minilm, FAQ, place)
    assert (other / "manifest.json").read_text() == '{"name": "an app"}'
    with pytest.raises(OutputError, match=r"the folder '.*no' does not exist; make it first"):
        SearchIndex.build(minilm, FAQ, path.parent / "no" / "faq.index")


def test_what_cannot_be_built_is_refused(minilm: SiameseBert, tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    bad: list[tuple[Any, Any, str]] = [
        ([], None, "there is no text"),
        ([TextRow("a", "one", 1), TextRow("a", "two", 2)], None, "the id 'a' is there twice"),
        ([None], None, "expected"),
        (FAQ, IndexSettings("hnsw"), "method is 'hnsw', expected one of exact, usearch, faiss"),  # type: ignore[arg-type]
        (FAQ, IndexSettings(vectors="int8"), "vectors is 'int8', expected one of"),  # type: ignore[arg-type]
        (FAQ, IndexSettings(parameters={"probes": 4}), "exact has no parameter 'probes'; its parameters are: none"),
        (FAQ, IndexSettings("usearch", parameters={"connectivity": 0}), "connectivity is 0, expected a whole number"),
        (FAQ, IndexSettings("faiss"), "needs at least 10,000 vectors, found 4; use the method exact"),
    ]
    for rows, settings, said in bad:
        with pytest.raises(SbertFtError, match=said):
            SearchIndex.build(minilm, rows, path, settings)
    file = tmp_path / "in.csv"
    file.write_text("text,score\none,2\n")
    with pytest.raises(InputError, match="a kept column cannot be called 'score'"):
        SearchIndex.build(minilm, TextRows(open_table(file), others=["score"]), path)
    assert [file.name for file in tmp_path.iterdir()] == ["in.csv"]


def test_what_cannot_be_searched_is_refused(minilm: SiameseBert, built: Path) -> None:
    index = SearchIndex.open(built, minilm)
    nan = np.full((2, 384), np.nan)
    bad: list[tuple[tuple[Any, ...], str]] = [
        (("x", 5), "k is 5, but the index has 4 rows; ask for at most as many"),
        (("x", 0), "k is '0', expected a whole number of at least 1"),
        ((["x", ""], 1), "the query at position 1 is an empty text"),
        ((nan, 1), "the query at position 0 has NaN"),
        ((np.zeros((2, 5)), 1), r"the queries have the shape \(2, 5\), expected \(queries, 384\)"),
        (("x", 1, {"year": "2020"}), "has no column 'year' to choose by; it has: 'lang'"),
    ]
    for arguments, said in bad:
        with pytest.raises(InputError, match=said):
            index.search(*arguments)
    with pytest.raises(InputError, match="texts need the model of the index"):
        SearchIndex.open(built).search("x", 1)
    assert index.search([], 1) == []


def changed(path: Path, **values: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | values))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: shutil.rmtree(path), "is not a search index: expected a folder, found nothing"),
        (lambda path: (path / "manifest.json").unlink(), "is not a search index: it has no manifest.json"),
        (lambda path: changed(path, format=2), "index.format is '2', expected 1: another version of sbert_ft wrote it"),
        (lambda path: changed(path, count=5), r"vectors.npy' holds float32 of shape \(4, 384\), expected"),
        (lambda path: changed(path, vectors="float16"), "vectors.npy' holds float32"),
        (lambda path: changed(path, count=-1), "index.count is '-1', expected a whole number"),
        (lambda path: changed(path, more=1), "index has a key 'more'"),
        (lambda path: changed(path, files={"vectors": 1}), "index.files.vectors is '1', expected an object"),
        (lambda path: cut(path / "vectors.npy"), r"vectors.npy': expected 6,272 bytes, found 6,222 bytes"),
        (lambda path: cut(path / "texts.parquet"), "texts.parquet': expected .* bytes, found"),
        (lambda path: (path / "texts.parquet").unlink(), "texts.parquet': expected .* bytes, found no such file"),
        (lambda path: cut(path / "manifest.json"), "manifest.json' is broken JSON"),
    ],
)
def test_an_index_that_is_not_whole_is_refused(path: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(path)
    with pytest.raises(DataError, match=said) as caught:
        SearchIndex.open(path)
    assert "\n" not in str(caught.value)


def test_a_changed_byte_is_found_where_it_is_asked_for(path: Path) -> None:
    data = bytearray((path / "vectors.npy").read_bytes())
    data[-1] ^= 1
    (path / "vectors.npy").write_bytes(data)
    SearchIndex.open(path)
    with pytest.raises(DataError, match=r"vectors\.npy' has changed since it was written"):
        SearchIndex.open(path, verify=True)


def test_vectors_that_are_there_make_an_index_with_or_without_texts(tmp_path: Path) -> None:
    vectors = many(1000)
    index = of_vectors(3.0 * vectors, tmp_path / "a.index")
    found = index.search(vectors[:3], 2)
    assert [hits[0].id for hits in found] == ["0", "1", "2"] and found[0][0].text is None
    (tmp_path / "texts.csv").write_text("key,text\n" + "".join(f"{i},text {i}\n" for i in range(1000)))
    rows = TextRows(open_table(tmp_path / "texts.csv"), "text", "key")
    blocks = [(range(1000), vectors)]
    index = SearchIndex.build_from_vectors(blocks, tmp_path / "b.index", ("digest", "model"), None, [rows])
    assert index.search(vectors[:1], 1)[0][0].text == "text 0"
    half = IndexSettings(vectors="float16")
    index = SearchIndex.build_from_vectors(blocks, tmp_path / "c.index", ("digest", "model"), half)
    assert index.vectors.dtype == np.float16
    assert np.abs(index.neighbors(vectors[:50], 5).scores - nearest(vectors[:50], vectors, 5).scores).max() < 1e-3
    nan = vectors.copy()
    nan[7, 3] = np.nan
    bad: list[tuple[Any, Any, str]] = [
        ([(range(1000), nan)], None, "the vector at position 7 has NaN"),
        ([(range(500), vectors[:500]), (range(500), vectors[500:])], None, "an id of the vectors is there twice"),
        ([(range(1, 1001), vectors)], rows, "do not have the ids of the vectors, from row 0 on"),
        ([(range(500), vectors[:500])], rows, "do not have the ids of the vectors, from row 500 on"),
        ([(range(2000), many(2000))], rows, "do not have the ids of the vectors, from row 0 on"),
        ([], None, "there is no text"),
    ]
    for spoiled, texts, said in bad:
        with pytest.raises(SbertFtError, match=said):
            SearchIndex.build_from_vectors(
                spoiled, tmp_path / "d.index", ("digest", "model"), None, [texts] if texts else []
            )
    assert not (tmp_path / "d.index").exists()


@pytest.mark.parametrize("method", ["usearch", "faiss"])
def test_an_approximate_index_finds_nearly_all_with_exact_scores(tmp_path: Path, method: Any) -> None:
    pytest.importorskip(method, reason=f"the extra {method} is not installed")
    vectors = many(11_000 if method == "faiss" else 3000)
    index = of_vectors(vectors[:-1], tmp_path / "a.index", SMALL[method])
    assert index.manifest.recall_at_10 is not None and index.manifest.recall_at_10 > 0.9
    queries = unit_rows(vectors[:100] + 0.1 * many(100, seed=5))
    exact, found = nearest(queries, vectors[:-1], 10), index.neighbors(queries, 10)
    same = exact.rows == found.rows
    assert same.mean() > 0.9
    np.testing.assert_array_equal(exact.scores[same], found.scores[same])
    whole = index.neighbors(queries[:2], len(index))  # more than are proposed
    np.testing.assert_array_equal(np.sort(whole.rows, axis=1), np.tile(np.arange(len(index)), (2, 1)))
    again = SearchIndex.open(tmp_path / "a.index").neighbors(queries, 10)
    np.testing.assert_array_equal(again.rows, found.rows)
    if isinstance(lists := index._approximate, FaissLists):
        assert (process := lists._process) is not None
        lists.close()
        assert process.returncode == 0


@pytest.mark.parametrize("method", ["usearch", "faiss"])
def test_rows_are_added_to_an_approximate_index(minilm: SiameseBert, tmp_path: Path, method: Any) -> None:
    pytest.importorskip(method, reason=f"the extra {method} is not installed")
    vectors = many(10_500 if method == "faiss" else 500, d=384)
    of_vectors(vectors, tmp_path / "a.index", SMALL[method])
    manifest = json.loads((tmp_path / "a.index" / "manifest.json").read_text())
    (tmp_path / "a.index" / "manifest.json").write_text(json.dumps(manifest | {"model": minilm.digest()}))
    (tmp_path / "texts.csv").write_text(f"key,text\nnew,{FAQ[0]}\n")
    rows = TextRows(open_table(tmp_path / "texts.csv"), "text", "key")
    index = SearchIndex.open(tmp_path / "a.index", minilm).add(rows)
    (hit,) = index.search(FAQ[0], 1)
    assert hit.id == "new" and hit.score == pytest.approx(1.0, abs=1e-5)
    assert index.search(vectors[3:4], 1)[0][0].id == "3"


def test_the_graph_of_one_thread_is_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("usearch", reason="the extra usearch is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    files = [of_vectors(many(600), tmp_path / f"{i}.index", IndexSettings("usearch")).manifest.files for i in (1, 2)]
    assert files[0] == files[1]


@pytest.mark.parametrize("method", ["usearch", "faiss"])
def test_a_damaged_file_of_a_method_is_one_sentence(tmp_path: Path, method: Any) -> None:
    pytest.importorskip(method, reason=f"the extra {method} is not installed")
    of_vectors(many(10_000 if method == "faiss" else 300), tmp_path / "a.index", SMALL[method])
    file = tmp_path / "a.index" / f"approximate.{method}"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(SbertFtError, match=f"{method}.*build the index again") as caught:
        SearchIndex.open(tmp_path / "a.index").neighbors(many(3), 2)
    assert "\n" not in str(caught.value)
