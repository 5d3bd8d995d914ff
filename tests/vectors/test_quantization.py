"""Vectors in smaller types, beside sentence-transformers' own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sbert_ft.errors import InputError, ModelFolderError
from sbert_ft.files.strict_json import JsonObject
from sbert_ft.vectors.nearest import unit_rows
from sbert_ft.vectors.quantization import VECTOR_TYPES, Quantizer, Recall


def some_vectors(n: int = 300, dimension: int = 37) -> np.ndarray:
    values = np.random.default_rng(5).normal(size=(n, dimension)).astype(np.float32)
    values[:, 3] = 0.25  # a feature that is always the same has no range
    values[0, :5] = 0
    return values


@pytest.mark.parametrize(("vector_type", "theirs"), [("int8", "int8"), ("binary", "ubinary")])
def test_vectors_have_the_bits_that_sentence_transformers_gives(vector_type: str, theirs: str) -> None:
    from sentence_transformers.util.quantization import quantize_embeddings

    vectors, sample = some_vectors(), some_vectors()[:100]
    ours = Quantizer.fitted(vector_type, sample).encode(vectors)
    expected = quantize_embeddings(vectors, theirs, calibration_embeddings=sample)
    assert ours.dtype == expected.dtype and ours.tobytes() == expected.tobytes()
    if vector_type == "binary":
        signed = quantize_embeddings(vectors, "binary")
        assert np.array_equal(signed, (ours - 128).astype(np.int8))


def test_what_is_stored_is_read_back_within_half_a_step() -> None:
    vectors = some_vectors()
    for vector_type in VECTOR_TYPES:
        quantizer = Quantizer.fitted(vector_type, vectors)
        stored = quantizer.encode(vectors)
        assert stored.shape == (300, quantizer.width) and stored.dtype == quantizer.dtype
        back = quantizer.decode(stored)
        assert back.dtype == np.float32 and back.shape == vectors.shape
        if vector_type == "float32":
            assert np.array_equal(back, vectors)
        elif vector_type == "float16":
            np.testing.assert_allclose(back, vectors, rtol=1e-3, atol=1e-6)
        elif vector_type == "binary":
            assert np.array_equal(back > 0, vectors > 0) and set(np.unique(back)) == {-1.0, 1.0}
        else:
            step = (vectors.max(0) - vectors.min(0)) / 255
            assert (np.abs(back - vectors) <= step * 0.501 + (step == 0)).all()


def test_values_beyond_the_ranges_take_the_first_or_the_last_step() -> None:
    quantizer = Quantizer("int8", 2, ((-1.0, 0.0), (1.0, 1.0)))
    assert quantizer.encode(np.float32([[-9, 9], [9, -9]])).tolist() == [[-128, 127], [127, -128]]


def test_a_value_too_large_for_float16_is_refused() -> None:
    with pytest.raises(InputError, match="above 65,504"):
        Quantizer("float16", 2).encode(np.float32([[1, 70_000]]))


def test_a_quantizer_survives_json() -> None:
    for vector_type in VECTOR_TYPES:
        quantizer = Quantizer.fitted(vector_type, some_vectors())
        read = JsonObject(json.loads(json.dumps(quantizer.to_json())), "vectors", Path("plan.json"))
        assert Quantizer.from_json(read) == quantizer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "int4"}, "vectors.type is 'int4', expected one of float32, float16, int8, binary"),
        ({"ranges": [[0.0]]}, "vectors.ranges"),
        ({"ranges": [[0.0], [1.0]]}, "expected two lists of 2 numbers"),
        ({"ranges": [[0.0, "x"], [1.0, 1.0]]}, "vectors.ranges.low"),
        ({"more": 1}, "has a key 'more'"),
    ],
)
def test_a_wrong_quantizer_is_named(change: dict[str, object], message: str) -> None:
    content = {**Quantizer("int8", 2, ((0.0, 0.0), (1.0, 1.0))).to_json(), **change}
    with pytest.raises(ModelFolderError) as caught:
        Quantizer.from_json(JsonObject(content, "vectors", Path("plan.json")))
    assert message in str(caught.value)


def test_recall_counts_the_neighbours_that_are_kept() -> None:
    sample = unit_rows(some_vectors(60, 8))
    quantizer = Quantizer("binary", 8)
    found = Recall.measured(quantizer, sample, k=3, most_queries=20)
    back = unit_rows(quantizer.decode(quantizer.encode(sample)))
    shares = []
    for query in range(20):
        others = [row for row in range(60) if row != query]
        lists = [sorted(others, key=lambda row: (-float(sample[query] @ s[row]), row))[:3] for s in (sample, back)]
        shares.append(len(set(lists[0]) & set(lists[1])) / 3)
    assert found is not None and (found.n_queries, found.n_vectors) == (20, 59)
    assert found.recall == pytest.approx(np.mean(shares), abs=0.04)  # ties in cosine by rounding
    assert 0 < found.recall < 1
    exact = Recall.measured(Quantizer("float32", 8), sample, k=3)
    assert exact is not None and exact.recall == 1
    assert Recall.measured(quantizer, sample[:4], k=3) is None
