"""Vectors in smaller types: float16, one byte or one bit for each feature, and back to float32.

int8 and binary are sentence-transformers' scalar and binary quantization (`quantize_embeddings`), bit by bit. The
ranges of int8 are fixed before the first vector is stored, so a vector's bytes do not depend on its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sbert_ft.errors import InputError
from sbert_ft.files.strict_json import JsonObject
from sbert_ft.vectors.nearest import Vectors, nearest, unit_rows

VectorType = Literal["float32", "float16", "int8", "binary"]
VECTOR_TYPES: Final[tuple[VectorType, ...]] = get_args(VectorType)
_LARGEST: Final = 1e30  # of a range; beyond it float32 would overflow


@dataclass(frozen=True)
class Quantizer:
    """How vectors of float32 are stored.

    Attributes:
        type: ``float32``, ``float16``, ``int8`` or ``binary``.
        dimension: Features of a vector, d.
        ranges: Of int8: the lowest and the highest value of each feature, both of length d; else empty.
    """

    type: VectorType
    dimension: int
    ranges: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def fitted(cls, vector_type: VectorType, sample: Vectors) -> Quantizer:
        """Return the quantizer whose ranges are those of `sample`, shape (n, d)."""
        ranges = (sample.min(0), sample.max(0)) if vector_type == "int8" else ()
        return cls(vector_type, sample.shape[1], tuple(tuple(map(float, values)) for values in ranges))

    @property
    def width(self) -> int:
        """Stored numbers of a vector: d, of binary d / 8 rounded up."""
        return (self.dimension + 7) // 8 if self.type == "binary" else self.dimension

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored numbers."""
        return np.dtype({"float32": "<f4", "float16": "<f2", "int8": "i1", "binary": "u1"}[self.type])

    def encode(self, vectors: Vectors) -> NDArray[Any]:
        """Return vectors, shape (n, d), as they are stored: shape (n, `width`).

        int8 cuts each feature's range into 256 equal steps; values beyond it take the first or the last. binary has
        one bit for each feature, 1 above zero, the first feature highest (sentence-transformers' ``ubinary``; its
        ``binary`` is 128 less).

        Raises:
            InputError: A value is too large for float16.
        """
        if self.type == "binary":
            return np.packbits(vectors > 0, axis=-1)
        if self.type == "int8":
            low, step = self._steps()
            steps: NDArray[Any] = (np.clip(np.floor((vectors - low) / step), 0, 255) - 128).astype(np.int8)
            return steps
        with np.errstate(over="ignore"):
            stored: NDArray[Any] = vectors.astype(self.dtype)
        if self.type == "float16" and not np.isfinite(stored).all():
            raise InputError("a feature of a vector is above 65,504, the largest float16", "normalize, or use float32")
        return stored

    def decode(self, stored: NDArray[Any]) -> Vectors:
        """Return stored vectors, shape (n, `width`), as float32, shape (n, d).

        A feature of int8 becomes the middle of its step, one of binary -1 or 1.
        """
        if self.type == "binary":
            bits = np.unpackbits(np.ascontiguousarray(stored), axis=-1, count=self.dimension)
            return bits.astype(np.float32) * 2 - 1
        if self.type == "int8":
            low, step = self._steps()
            stored = (stored.astype(np.float32) + np.float32(128.5)) * step + low
        vectors: Vectors = stored.astype(np.float32, copy=False)
        return vectors

    def _steps(self) -> tuple[Vectors, Vectors]:
        low, high = np.asarray(self.ranges, np.float32)
        step = (high - low) / 255
        return low, np.where(step == 0, np.float32(1), step)

    def to_json(self) -> dict[str, Any]:
        """Return the quantizer as a JSON object."""
        return {"type": self.type, "dimension": self.dimension, "ranges": [list(values) for values in self.ranges]}

    @classmethod
    def from_json(cls, json: JsonObject) -> Quantizer:
        """Return the quantizer of a JSON object; a `ModelFolderError` names what is wrong with it."""
        json.refuse_all_but(("type", "dimension", "ranges"))
        vector_type, dimension, ranges = json.word("type", VECTOR_TYPES), json.whole("dimension"), json.value("ranges")
        n_ranges = 2 if vector_type == "int8" else 0
        if not isinstance(ranges, list) or len(ranges) != n_ranges:
            raise json.fault("ranges", f"{n_ranges} lists of numbers")
        both = JsonObject(dict(zip(("low", "high"), ranges, strict=False)), f"{json.path}.ranges", json.file)
        values = tuple(both.numbers(key, -_LARGEST, _LARGEST) for key in both.content)
        if any(len(of_end) != dimension for of_end in values):
            raise json.fault("ranges", f"two lists of {dimension} numbers")
        return cls(vector_type, dimension, values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Recall:
    """How many of the nearest vectors are found among stored ones.

    Attributes:
        recall: Mean share of the `k` nearest ones in float32 that are among the `k` nearest stored ones.
        k: How many are searched.
        n_queries: Vectors that were searched with, in float32.
        n_vectors: Vectors that were searched in, the query left out.
    """

    recall: float
    k: int
    n_queries: int
    n_vectors: int

    @classmethod
    def measured(cls, quantizer: Quantizer, sample: Vectors, k: int = 10, most_queries: int = 1000) -> Recall | None:
        """Return the recall by cosine within `sample`, shape (n, d); its first rows are the queries.

        None where there are not more than `k` other vectors, since all of them would be found.
        """
        if len(sample) < k + 2:
            return None
        queries = unit_rows(sample[:most_queries])
        exact, found = (
            _others(nearest(queries, unit_rows(corpus), k + 1).rows)
            for corpus in (sample, quantizer.decode(quantizer.encode(sample)))
        )
        share = np.mean([len(np.intersect1d(*rows)) / k for rows in zip(exact, found, strict=True)])
        return cls(float(share), k, len(queries), len(sample) - 1)


def _others(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return of each query's k + 1 rows the first k that are not the query itself, whose row is its number."""
    return [row[row != query][: len(row) - 1] for query, row in enumerate(rows)]
