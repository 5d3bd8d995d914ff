"""`sbert-ft index` of a folder of vectors that `sbert-ft encode` wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sbert_ft import cli
from sbert_ft.search.index import SearchIndex

TEXTS = ["How do I reset my password?", "Where is my order?", "Delivery takes two days.", "배송은 이틀 걸립니다."]


def sbert_ft(*args: object) -> int:
    return cli.main([*map(str, args), "--quiet"])


@pytest.fixture(scope="module")
def folder(minilm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("shards")
    (place / "corpus").mkdir()
    for name, texts in (("a", TEXTS[:3]), ("b", TEXTS[3:])):
        (place / "corpus" / f"{name}.csv").write_text("text,lang\n" + "".join(f"{t},{name}\n" for t in texts), "utf-8")
    assert sbert_ft("encode", minilm_path, place / "corpus", "-o", f"{place}/vectors/", "--shard-size", 2) == 0
    return place


def test_an_index_of_shards_is_that_of_the_texts(minilm_path: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text("text\n" + "".join(f"{text}\n" for text in TEXTS), "utf-8")
    assert sbert_ft("index", minilm_path, tmp_path / "all.csv", "-o", tmp_path / "a.index") == 0
    texts = ("--texts", folder / "corpus", "--keep", "lang")
    assert sbert_ft("index", minilm_path, folder / "vectors", *texts, "-o", tmp_path / "b.index") == 0
    assert sbert_ft("index", minilm_path, folder / "vectors", "-o", tmp_path / "c.index") == 0
    expected, found, bare = (SearchIndex.open(tmp_path / f"{name}.index") for name in "abc")
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=2e-2)  # bfloat16 in other batches
    assert found.manifest.model == expected.manifest.model
    hits = found.search(np.array(expected.vectors[3:]), 2)[0]
    assert (hits[0].id, hits[0].text, hits[0].values) == ("3", TEXTS[3], {"lang": "b"})
    assert [hit.text for hit in bare.search(np.array(expected.vectors[3:]), 2)[0]] == [None, None]
    assert sbert_ft("search", tmp_path / "b.index", "password forgotten", "-k", 1) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--keep", "lang"), "are of texts, but there are none"),
        (("--add",), "--add takes a file of texts"),
        (("--texts", "{corpus}/b.csv"), "do not have the ids of the vectors, from row 0 on"),
        (("--texts", "{corpus}/none.csv"), "no such file"),
    ],
)
def test_bad_input_is_one_sentence(
    minilm_path: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: tuple[str, ...],
    said: str,
) -> None:
    more = [part.format(corpus=folder / "corpus") for part in change]
    assert sbert_ft("index", minilm_path, folder / "vectors", *more, "-o", tmp_path / "d.index") == 2
    assert said in capsys.readouterr().err and not (tmp_path / "d.index").exists()


def test_vectors_that_a_query_cannot_be_compared_with_are_refused(
    minilm_path: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encode = ("encode", minilm_path, folder / "corpus", "-o")
    assert sbert_ft(*encode, f"{tmp_path}/binary/", "--vectors", "binary") == 0
    assert sbert_ft(*encode, f"{tmp_path}/short/", "--truncate-dim", 64) == 0
    for name, said in (("binary", "whose cosines are not the model's"), ("short", "vectors of 64 features")):
        assert sbert_ft("index", minilm_path, tmp_path / name, "-o", tmp_path / "e.index") == 2
        assert said in capsys.readouterr().err
    assert sbert_ft("index", minilm_path, folder / "corpus", "-o", tmp_path / "e.index") == 2
    assert "is no folder of vectors" in capsys.readouterr().err
