"""How many bytes a vector takes in a Parquet shard, by its type, and that it comes back as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sbert_ft.vectors.nearest import unit_rows
from sbert_ft.vectors.quantization import Quantizer, VectorType
from sbert_ft.vectors.shards import vector_writer

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (pip install 'sbert-ft[parquet]')")

N, WIDTH = 4000, 384


@pytest.mark.parametrize(("kind", "most"), [("float32", 4.1), ("float16", 2.1), ("int8", 1.15), ("binary", 0.17)])
def test_a_smaller_type_takes_fewer_bytes_and_comes_back_bit_by_bit(
    tmp_path: Path, kind: VectorType, most: float
) -> None:
    vectors = unit_rows(np.random.default_rng(0).normal(size=(N, WIDTH)))
    quantizer = Quantizer.fitted(kind, vectors)
    path = tmp_path / "vectors.parquet"
    with vector_writer(path, quantizer, has_text_ids=False) as writer:
        writer.append(range(N), vectors)
    stored = pq.read_table(path)["vector"].combine_chunks().flatten().to_numpy().reshape(N, quantizer.width)
    np.testing.assert_array_equal(stored, quantizer.encode(vectors))
    assert path.stat().st_size / (N * WIDTH) < most
