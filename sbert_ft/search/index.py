"""`SearchIndex`: a folder with the vectors of texts, the texts, and what finds the nearest of them.

    index = SearchIndex.build(model, ["How do I reset my password?", "Where is my order?"], "faq.index")
    hits = SearchIndex.open("faq.index", model).search("password forgotten", k=1)

The vectors are a .npy of rows of length 1, the texts, ids and other columns a Parquet file beside it, row by row the
same; numpy, pandas and DuckDB read both. They are mapped, so opening an index costs nothing and memory is that of the
rows that are looked at. manifest.json names the files. Adding rows writes new files and then the manifest, which is
replaced whole: a crash leaves the old index or the new one. It costs a copy of the old files.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sbert_ft.arguments import path_argument, whole_number
from sbert_ft.data.ledger import counted
from sbert_ft.data.text_rows import TextRow, TextRows
from sbert_ft.errors import DataError, InputError, listed, quoted, shown
from sbert_ft.model_folder.digest import digest_of_files
from sbert_ft.search.approximate import PROPOSED, Approximate, open_approximate
from sbert_ft.search.index_writer import (
    GROUP_ROWS,
    Block,
    IndexSettings,
    OldIndex,
    Source,
    check_pyarrow,
    held,
    write_index,
)
from sbert_ft.search.manifest import Manifest
from sbert_ft.vectors.nearest import Neighbors, RowsOf, Vectors, best_of, nearest, unit_rows

if TYPE_CHECKING:
    import pyarrow
    import pyarrow.parquet

    from sbert_ft.models.inference import OnTruncate
    from sbert_ft.models.sentence_encoder import SentenceEncoder


@dataclass(frozen=True)
class Hit:
    """A row of an index that was found.

    Attributes:
        id: Its id; the number of the row where the index has none.
        text: Its text; None where the index has none.
        score: Its cosine with the query.
        probability: How likely the two belong together; None without a calibration.
        match: Whether the score reaches the model's threshold; None without one.
        values: The values of the other columns.
    """

    id: str | int
    text: str | None
    score: float
    probability: float | None
    match: bool | None
    values: Mapping[str, str | None]


class SearchIndex:
    """The vectors and texts of a folder, to be searched.

    Attributes:
        path: The folder.
        manifest: What it says of itself.
        model: The model that encodes queries and new rows; None for an index that is searched with vectors only.
    """

    def __init__(self, path: Path, manifest: Manifest, model: SentenceEncoder | None = None) -> None:
        """Open the files; use `open`."""
        import pyarrow.parquet

        self.path, self.manifest, self.model = path, manifest, model
        file = path / manifest.files["vectors"].name
        try:
            self.vectors: NDArray[np.floating] = np.load(file, mmap_mode="r")
        except ValueError as error:
            raise DataError(f"{shown(file)} is damaged: {error}", "build the index again") from error
        expected = (manifest.count, manifest.dimension), np.dtype(manifest.vectors)
        if (self.vectors.shape, self.vectors.dtype) != expected:
            found = f"{self.vectors.dtype} of shape {self.vectors.shape}"
            raise DataError(f"{shown(file)} holds {found}, expected {expected[1]} of shape {expected[0]}")
        file = path / manifest.files["texts"].name
        try:
            self._texts = pyarrow.parquet.ParquetFile(file, memory_map=True)
        except pyarrow.ArrowException as error:
            raise DataError(f"{shown(file)} is damaged: {error}", "build the index again") from error
        if self._texts.metadata.num_rows != manifest.count:
            n_rows = self._texts.metadata.num_rows
            raise DataError(f"{shown(file)} has {n_rows:,} rows, but the index has {manifest.count:,} vectors")
        self._approximate: Approximate | None = None
        if manifest.method != "exact":
            file = path / manifest.files["approximate"].name
            self._approximate = open_approximate(manifest.method, file, manifest.parameters)

    def __len__(self) -> int:
        return self.manifest.count

    @classmethod
    def open(cls, path: str | Path, model: SentenceEncoder | None = None, *, verify: bool = False) -> SearchIndex:
        """Return the index in a folder.

        Args:
            path: The folder.
            model: The model whose vectors it has, to search it with texts.
            verify: Compare the digests of the files too, which reads them.

        Raises:
            DataError: The folder is no index, one of another version, or damaged.
            InputError: It has the vectors of another model.
            ResourceError: A package that it needs is not installed.
        """
        folder = path_argument(path, "path")
        check_pyarrow()
        for is_last in (False, True):
            manifest = Manifest.read(folder)
            try:
                index = cls(folder, manifest)
                break
            except FileNotFoundError:  # another process has just replaced it
                if is_last:
                    raise
        if verify:
            for stored in manifest.files.values():
                if digest_of_files([folder / stored.name]) != stored.sha256:
                    raise DataError(f"{shown(folder / stored.name)} has changed since it was written", "build it again")
        if model is not None:
            index.use(model)
        return index

    @classmethod
    def build(
        cls,
        model: SentenceEncoder,
        rows: TextRows | Iterable[str] | Iterable[TextRow],
        path: str | Path,
        settings: IndexSettings | None = None,
        *,
        batch_size: int = 32,
        on_truncate: OnTruncate = "warn",
        on_encoded: Callable[[int], None] | None = None,
    ) -> SearchIndex:
        """Encode texts, write them and their vectors to a folder, and return the index.

        Args:
            model: The encoder; texts get its prompt for documents, if it has one.
            rows: Texts, or rows of a file with ids and other columns.
            path: The folder, new or an index, which is then replaced.
            settings: How it is searched and what it stores; None for the exact method and float32.
            batch_size: As in `SentenceEncoder.encode`, as is `on_truncate`.
            on_encoded: Called with the number of texts that were encoded.

        Raises:
            SbertFtError: There is no text, an id is there twice, a package is missing, or a file cannot be written;
                nothing was written then.
        """
        others = rows.others if isinstance(rows, TextRows) else ()
        has_ids, keyed = _keyed(rows)
        source = Source(model.digest(), str(model.bert.source.path.resolve()), has_ids, True, others)
        blocks = _encoded(model, _new(rows, keyed, has_ids, set()), others, batch_size, on_truncate, on_encoded)
        manifest = write_index(path_argument(path, "path"), source, settings or IndexSettings(), blocks)
        return cls(Path(path), manifest, model)

    @classmethod
    def build_from_vectors(
        cls,
        blocks: Iterable[tuple[Sequence[str | int], NDArray[np.floating]]],
        path: str | Path,
        model: tuple[str, str],
        settings: IndexSettings | None = None,
        texts: Sequence[TextRows] = (),
        *,
        on_written: Callable[[int], None] | None = None,
    ) -> SearchIndex:
        """Write an index of vectors that are there already, such as those of a folder of shards.

        Args:
            blocks: Ids and vectors, shape (rows, d), block by block.
            path: The folder, new or an index, which is then replaced.
            model: The digest of the model that made them (`SentenceEncoder.digest`), and its folder.
            settings: How it is searched and what it stores; None for the exact method and float32.
            texts: The files with the texts of the vectors, in their order and with their ids; none for an index
                without texts.
            on_written: Called with the number of vectors that were written.

        Raises:
            SbertFtError: As `build`; or a vector has NaN, or the texts have other ids.
        """
        others = texts[0].others if texts else ()
        source = Source(model[0], os.path.abspath(model[1]), True, bool(texts), others)
        written = _of_vectors(blocks, texts, on_written)
        manifest = write_index(path_argument(path, "path"), source, settings or IndexSettings(), written)
        return cls(Path(path), manifest)

    def use(self, model: SentenceEncoder) -> None:
        """Encode queries and new rows with a model; an `InputError` if it is not the one that made the index."""
        if model.digest() != self.manifest.model:
            raise InputError(
                f"{shown(self.path)} has the vectors of another model than {shown(model.bert.source.path)}: that of "
                f"{quoted(self.manifest.model_path, limit=400)}, as it was then",
                "give that model, or build the index again with this one",
            )
        self.model = model

    def add(
        self,
        rows: TextRows | Iterable[str] | Iterable[TextRow],
        *,
        batch_size: int = 32,
        on_truncate: OnTruncate = "warn",
        on_encoded: Callable[[int], None] | None = None,
    ) -> SearchIndex:
        """Add rows with new ids, and return the index with them; arguments as in `build`.

        All files are copied, and the new rows appended to the copies; a graph is not built again. Until the end others
        find the old index, which an open `SearchIndex` goes on to use.

        Raises:
            SbertFtError: As `build`; or an id is in the index, the columns are others, or another process writes it.
        """
        model = self._needed_model()
        with held(self.path):
            current = Manifest.read(self.path)
            old = self if current == self.manifest else SearchIndex(self.path, current, model)
            has_ids, keyed = _keyed(rows)
            others = rows.others if isinstance(rows, TextRows) else ()
            if others != current.columns:
                expected = listed(current.columns, 20) or "none"
                raise InputError(f"the index has the other columns {expected}, found {listed(others, 20) or 'none'}")
            if has_ids != current.has_ids:
                expected = "ids" if current.has_ids else "no ids, but numbers of rows"
                raise InputError(f"the index has {expected}", "give rows of the same kind")
            taken = set(old._column("id").to_pylist()) if has_ids else set()
            source = Source(current.model, current.model_path, has_ids, current.has_texts, others)
            settings = IndexSettings(current.method, current.vectors, current.parameters)
            new = _new(rows, keyed, has_ids, taken, current.count)
            blocks = _encoded(model, new, others, batch_size, on_truncate, on_encoded)
            file = current.files.get("approximate")
            place = None if file is None else self.path / file.name
            before = OldIndex(old._blocks(), len(old), place, current.recall_at_10)
            manifest = write_index(self.path, source, settings, blocks, before)
        return SearchIndex(self.path, manifest, model)

    def search(
        self,
        queries: str | Sequence[str] | NDArray[np.floating],
        k: int = 10,
        where: Mapping[str, str | Sequence[str]] | None = None,
        *,
        batch_size: int = 32,
        on_truncate: OnTruncate = "warn",
    ) -> Any:
        """Return the `k` rows nearest to each query, best first: a list of `Hit`, for several queries one list each.

        Args:
            queries: A text, texts, or vectors, shape (m, d).
            k: How many, at most as many as the index has.
            where: Only rows with this value, or one of these values, in each of these columns; then there are fewer
                hits if fewer rows have it. These rows are searched exactly, whatever the method is.
            batch_size: As in `SentenceEncoder.encode`, as is `on_truncate`.

        Raises:
            InputError: A text is empty, a vector has NaN or another width, `k` is above the number of rows, there is
                no such column, or texts are given without a model.
        """
        is_one = isinstance(queries, str)
        vectors = self.encode_queries([queries] if isinstance(queries, str) else queries, batch_size, on_truncate)
        found = self.hits(self.neighbors(vectors, k, where))
        return found[0] if is_one else found

    def encode_queries(
        self, queries: Sequence[str] | NDArray[np.floating], batch_size: int = 32, on_truncate: OnTruncate = "warn"
    ) -> Vectors:
        """Return the vectors of queries, shape (m, d), float32 and of length 1; arguments and errors as in `search`."""
        if not isinstance(queries, np.ndarray) or queries.dtype.kind in "UO":
            texts = list(queries)
            empty = next((i for i, text in enumerate(texts) if text == ""), None)
            if empty is not None:
                raise InputError(f"the query at position {empty} is an empty text", "leave it out")
            vectors: NDArray[np.floating] = self._needed_model().encode_query(
                texts, batch_size=batch_size, on_truncate=on_truncate, show_progress_bar=False
            )
        else:
            vectors = queries
        if vectors.ndim != 2 or vectors.shape[1] != self.manifest.dimension:
            raise InputError(
                f"the queries have the shape {vectors.shape}, expected (queries, {self.manifest.dimension})",
                "use the model that made the index",
            )
        _check_numbers(vectors, "query", 0)
        return unit_rows(vectors)

    def neighbors(self, vectors: Vectors, k: int, where: Mapping[str, str | Sequence[str]] | None = None) -> Neighbors:
        """Return rows and cosines, shape (m, k), of the rows nearest to vectors of length 1, shape (m, d).

        Arguments and errors as in `search`.
        """
        k = self.checked_k(k)
        if where:
            rows = np.flatnonzero(self._has_values(where))
            found = nearest(vectors, RowsOf(self.vectors, rows), k)
            return Neighbors(rows[found.rows], found.scores)
        if self._approximate is None:
            return nearest(vectors, self.vectors, k)
        proposed = self._approximate.propose(vectors, min(len(self), k * PROPOSED[self.manifest.method]))
        found = best_of(vectors, self.vectors, proposed, k)
        short = np.flatnonzero((found.rows < 0).any(axis=1))
        if len(short):  # too few were proposed
            exact = nearest(vectors[short], self.vectors, k)
            found.rows[short], found.scores[short] = exact.rows, exact.scores
        return found

    def checked_k(self, k: int) -> int:
        """Return `k`, a number of hits; an `InputError` if it is below 1 or above the number of rows."""
        k = whole_number(k, "k", 1)
        if k > len(self):
            raise InputError(f"k is {k:,}, but the index has {counted(len(self), 'row')}", "ask for at most as many")
        return k

    def hits(self, found: Neighbors) -> list[list[Hit]]:
        """Return the rows that were found, with their texts and what the model's decision says of their scores."""
        distinct, places = np.unique(found.rows, return_inverse=True)
        columns = self._rows(distinct)
        scores = found.scores.reshape(-1)
        decision = None if self.model is None else self.model.decision
        probabilities = matches = None
        if decision is not None and decision.similarity == "cosine":
            matches = decision.match(scores).tolist()
            if decision.calibration is not None:
                probabilities = decision.calibration.probability(scores).tolist()
        texts, names = columns.get("text"), self.manifest.columns
        every = [
            Hit(
                columns["id"][place],
                None if texts is None else texts[place],
                score,
                None if probabilities is None else probabilities[i],
                None if matches is None else matches[i],
                {name: columns[name][place] for name in names},
            )
            for i, (place, score) in enumerate(zip(places.reshape(-1).tolist(), scores.tolist(), strict=True))
        ]
        k = found.rows.shape[1]
        return [every[begin : begin + k] for begin in range(0, len(every), k)] if k else [[] for _ in found.rows]

    def _needed_model(self) -> SentenceEncoder:
        if self.model is None:
            raise InputError("texts need the model of the index", "open the index with model=, or give vectors")
        return self.model

    def _column(self, name: str) -> pyarrow.ChunkedArray:
        column: pyarrow.ChunkedArray = self._texts.read([name]).column(0)
        return column

    def check_column(self, name: str) -> None:
        """Refuse the name of a column that rows cannot be chosen by: an `InputError`."""
        if name not in self.manifest.columns:
            known = listed(self.manifest.columns, 20) or "none"
            raise InputError(f"{shown(self.path)} has no column {quoted(name)} to choose by; it has: {known}")

    def _has_values(self, where: Mapping[str, str | Sequence[str]]) -> NDArray[np.bool_]:
        """Return whether each row has the values, shape (n,)."""
        import pyarrow
        import pyarrow.compute as pc

        found = np.ones(len(self), bool)
        for name, value in where.items():
            self.check_column(name)
            values = [value] if isinstance(value, str) else list(value)
            found[~pc.is_in(self._column(name), pyarrow.array(values, pyarrow.string())).to_numpy()] = False
        return found

    def _rows(self, rows: NDArray[np.int64]) -> dict[str, list[Any]]:
        """Return the columns of some rows, in rising order; only the groups that have them are read."""
        groups = np.searchsorted(rows, np.arange(0, len(self) + GROUP_ROWS, GROUP_ROWS))
        found: dict[str, list[Any]] = {name: [] for name in self._texts.schema_arrow.names}
        for group, (begin, end) in enumerate(pairwise(groups)):
            if begin < end:
                taken = self._texts.read_row_group(group).take(rows[begin:end] - group * GROUP_ROWS)
                for name, values in taken.to_pydict().items():
                    found[name] += values
        return found

    def _blocks(self) -> Iterator[Block]:
        """Yield all rows."""
        for group in range(self._texts.num_row_groups):
            columns = self._texts.read_row_group(group).to_pydict()
            begin = group * GROUP_ROWS
            yield Block(columns, np.asarray(self.vectors[begin : begin + GROUP_ROWS], np.float32))


def _check_numbers(vectors: NDArray[np.floating], name: str, begin: int) -> None:
    wrong = ~np.isfinite(vectors).all(axis=1)
    if wrong.any():
        row = begin + int(wrong.argmax())
        raise InputError(f"the {name} at position {row:,} has NaN or infinity, expected finite numbers")


def _keyed(rows: TextRows | Iterable[str] | Iterable[TextRow]) -> tuple[bool, Iterator[TextRow]]:
    """Return whether rows have ids, and the rows."""
    iterator = iter(rows)
    first: list[Any] = [row for row in (next(iterator, None),) if row is not None]
    has_ids = rows.has_ids if isinstance(rows, TextRows) else any(isinstance(row, TextRow) for row in first)
    every = enumerate(chain(first, iterator))
    return has_ids, (row if isinstance(row, TextRow) else TextRow(i, row, i + 1) for i, row in every)


def _new(
    rows: object, keyed: Iterator[TextRow], has_ids: bool, taken: set[Any], n_before: int = 0
) -> Iterator[TextRow]:
    """Yield the rows with their ids as they are stored; an error for one that is there already."""
    number = n_before - 1
    for number, row in enumerate(keyed, start=n_before):
        if not has_ids:
            yield replace(row, id=number)
            continue
        key = str(row.id)
        if key in taken:
            if isinstance(rows, TextRows):
                raise rows.repeated(row)
            raise InputError(f"the id {quoted(key)} is there twice", "give each row an id of its own")
        taken.add(key)
        yield replace(row, id=key)
    if number < n_before and isinstance(rows, TextRows):
        raise DataError("holds no row; expected at least one text", where=shown(rows.table.path))


def _encoded(
    model: SentenceEncoder,
    rows: Iterator[TextRow],
    others: Sequence[str],
    batch_size: int,
    on_truncate: OnTruncate,
    on_encoded: Callable[[int], None] | None,
) -> Iterator[Block]:
    """Yield the rows with their vectors."""
    waiting: deque[TextRow] = deque()

    def texts() -> Iterator[str]:
        for row in rows:
            waiting.append(row)
            yield row.text

    stream = model.encode_stream(
        texts(),
        prompt_name=model.document_prompt_name,
        batch_size=batch_size,
        normalize_embeddings=True,
        on_truncate=on_truncate,
        device="cpu",
    )
    for vectors in stream:
        block = [waiting.popleft() for _ in range(len(vectors))]
        yield Block(_columns_of(block, others), unit_rows(model.bert.operations.to_numpy(vectors)))
        if on_encoded is not None:
            on_encoded(len(block))


def _of_vectors(
    blocks: Iterable[tuple[Sequence[str | int], NDArray[np.floating]]],
    texts: Sequence[TextRows],
    on_written: Callable[[int], None] | None,
) -> Iterator[Block]:
    """Yield vectors that are there, with the texts of the same ids."""
    rows, taken, n_done = _numbered(texts), set[str](), 0

    def others(n: int) -> DataError:
        files = listed([str(one.table.path) for one in texts], 3)
        problem = f"the texts of {files} do not have the ids of the vectors, from row {n:,} on"
        return DataError(problem, "give the texts that were encoded, in the same order and with the same id column")

    for ids, vectors in blocks:
        keys = list(map(str, ids))
        _check_numbers(vectors, "vector", n_done)
        before = len(taken)
        taken.update(keys)
        if len(taken) != before + len(keys):
            raise DataError("an id of the vectors is there twice", "give each row an id of its own")
        columns: Mapping[str, Sequence[Any]] = {"id": keys}
        if texts:
            found = list(islice(rows, len(keys)))
            if [str(row.id) for row in found] != keys:
                raise others(n_done)
            columns = {**_columns_of(found, texts[0].others), "id": keys}
        n_done += len(keys)
        yield Block(columns, unit_rows(vectors))
        if on_written is not None:
            on_written(len(keys))
    if texts and next(rows, None) is not None:
        raise others(n_done)


def _numbered(texts: Sequence[TextRows]) -> Iterator[TextRow]:
    """Yield the rows of several files; those without ids are numbered over all of them."""
    number = 0
    for rows in texts:
        for row in rows:
            yield row if rows.has_ids else replace(row, id=number)
            number += 1


def _columns_of(rows: Sequence[TextRow], others: Sequence[str]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"id": [row.id for row in rows], "text": [row.text for row in rows]}
    for i, name in enumerate(others):
        columns[name] = [None if row.values[i] is None else _spelled(row.values[i]) for row in rows]
    return columns


def _spelled(value: object) -> str:
    return value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
