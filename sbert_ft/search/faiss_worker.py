"""The process in which faiss works, for `approximate.FaissLists`: faiss and torch bring an OpenMP each, and crash.

    python -m sbert_ft.search.faiss_worker build VECTORS.npy INDEX PARAMETERS OLD_INDEX
    python -m sbert_ft.search.faiss_worker search INDEX PARAMETERS

`build` reads the numbers of the vectors to add as int64 from standard input; where OLD_INDEX is not empty, they are
added to that. `search` answers bytes on standard input with bytes on standard output: the numbers of queries, of their
width and of wanted rows as int64, then the queries as float32; the answer has the rows as int64, -1 for none.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import faiss
import numpy as np

_TRAINED_ON = 64  # vectors for each list; more change hardly anything


def build(vectors_file: str, index_file: str, parameters: dict[str, Any], old: str) -> None:
    """Write an index with inverted lists and product quantization, trained on some of the vectors unless it is old."""
    vectors = np.load(vectors_file, mmap_mode="r")
    rows = np.frombuffer(open(0, "rb", closefd=False).read(), np.int64)  # noqa: SIM115
    index = faiss.read_index(old) if old else trained(vectors, parameters)
    for begin in range(0, len(rows), 65_536):
        block = rows[begin : begin + 65_536]
        index.add_with_ids(np.ascontiguousarray(vectors[block], np.float32), block)
    faiss.write_index(index, index_file)


def trained(vectors: Any, parameters: dict[str, Any]) -> Any:
    """Return an index without vectors, trained on some."""
    # np: without polysemous training, which takes six times as long as all the rest and is not used in the search
    index = faiss.index_factory(
        vectors.shape[1], f"IVF{parameters['lists']},PQ{parameters['codes']}np", faiss.METRIC_INNER_PRODUCT
    )
    n_trained = min(len(vectors), max(_TRAINED_ON * parameters["lists"], 256 * _TRAINED_ON))
    rows = np.sort(np.random.default_rng(0).permutation(len(vectors))[:n_trained])
    index.train(np.ascontiguousarray(vectors[rows], np.float32))
    return index


def search(index_file: str, parameters: dict[str, Any]) -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what faiss prints must not stand between the answers
    questions = open(0, "rb", closefd=False)  # noqa: SIM115 (open until this process ends)
    index: Any = faiss.read_index(index_file, faiss.IO_FLAG_MMAP)
    index.nprobe = parameters["probes"]
    while head := questions.read(24):
        n_queries, width, wanted = np.frombuffer(head, np.int64).tolist()
        queries = np.frombuffer(questions.read(4 * n_queries * width), np.float32).reshape(n_queries, width)
        _, rows = index.search(queries, wanted)
        answers.write(rows.astype(np.int64).tobytes())
        answers.flush()


if __name__ == "__main__":
    faiss.omp_set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if sys.argv[1] == "build":
        build(sys.argv[2], sys.argv[3], json.loads(sys.argv[4]), sys.argv[5])
    else:
        search(sys.argv[2], json.loads(sys.argv[3]))
