"""`ConnectionDataset`: rows of one text, two texts (pairs) or three (triplets), with or without labels.

The first step of fine-tuning: a file, a DataFrame or lists become checked rows with labels of known meaning, and a
ledger that accounts for every row. Later steps (tokens, batches, losses, scores) use these rows as they are.
"""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from sbert_ft.arguments import instance_argument, path_argument
from sbert_ft.config.settings import Reading
from sbert_ft.data.columns import checked_reading
from sbert_ft.data.labels import LabelKind, ScoreScale, class_codes, class_counts, recounted
from sbert_ft.data.ledger import Finding, Ledger, counted, row_word
from sbert_ft.data.rows import PairRows, read_rows
from sbert_ft.data.sources import PairSource, file_source, frame_source, text_source, tuple_source
from sbert_ft.data.split import rows_for_dev
from sbert_ft.errors import InputError, quoted

if TYPE_CHECKING:
    import pandas

logger = logging.getLogger(__name__)
_CHUNK_ROWS = 4096


class Connection(NamedTuple):
    """One row: one text, two texts, or anchor, positive and negative; its label, if any; its line (see `lines`)."""

    texts: tuple[str, ...]
    label: float | None
    line: int


class ConnectionDataset(Dataset[Connection]):
    """Rows of one, two or three texts, with labels (scores, 0 and 1, classes) or without.

    Pairs without labels are taken as matches. Create a data set with `from_file`, `from_dataframe`, `from_pairs` or
    `from_texts`; it never changes. `ledger` accounts for every row of the source. N is the number of rows, k the
    number of texts in each.
    """

    def __init__(self, rows: PairRows, ledger: Ledger) -> None:
        self._rows = rows
        self._ledger = ledger

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], reading: Reading | None = None) -> ConnectionDataset:
        """Return the rows of a CSV, TSV, JSONL or Parquet file.

        Columns are found by name: those that `reading` names, or those with usual names, such as sentence1, sentence2
        and score, or document and label. Pairs without a label are taken as matches.

        Args:
            path: The file.
            reading: What is known about the file; the rest is found out and noted in the ledger.

        Raises:
            DataError: The file or a row in it cannot be used; the message names the first bad rows and says what to do.
            InputError: `reading` contradicts itself.
        """
        chosen = checked_reading(reading)
        return cls._read(file_source(path_argument(path, "path"), chosen), chosen)

    @classmethod
    def from_dataframe(cls, df: pandas.DataFrame, reading: Reading | None = None) -> ConnectionDataset:
        """Return the rows of a DataFrame; columns are found by name as in `from_file`, lines are positions from 0.

        Raises:
            DataError: Its columns or a row in it cannot be used; None and NaN count as missing.
            InputError: `df` is not a DataFrame, or `reading` contradicts itself.
        """
        chosen = checked_reading(reading)
        return cls._read(frame_source(df, chosen), chosen)

    @classmethod
    def from_pairs(
        cls,
        pairs: Iterable[Sequence[object]],
        reading: Reading | None = None,
        *,
        labels: Iterable[object] | None = None,
    ) -> ConnectionDataset:
        """Return the rows of an iterable of (text, text), (text, text, number) or (anchor, positive, negative).

        Args:
            pairs: A list, an array, a Series of tuples, a generator.
            reading: What labels mean; where it sets label_kind, classes or label_values, a third text is a label.
            labels: One for each row; the rows then have no labels of their own.

        Raises:
            InputError: A row has none of these forms or differs in form from the first one; the message says its
                position, from 0. Or the numbers of labels and rows differ.
            DataError: A text is blank or a label is invalid.
        """
        chosen = checked_reading(reading)
        return cls._read(tuple_source(pairs, chosen, labels), chosen)

    @classmethod
    def from_texts(
        cls, texts: Iterable[object], reading: Reading | None = None, *, labels: Iterable[object] | None = None
    ) -> ConnectionDataset:
        """Return rows of one text each.

        Args:
            texts: A list, an array, a Series, a generator.
            reading: What labels mean, such as `Reading(label_kind="classes")`.
            labels: One for each text.

        Raises:
            InputError: A row is not a text; the message says its position, from 0. Or the numbers of labels and texts
                differ.
            DataError: A text is blank or missing, or a label is invalid.
        """
        chosen = checked_reading(reading)
        return cls._read(text_source(texts, chosen, labels), chosen)

    @classmethod
    def _read(cls, source: PairSource, reading: Reading) -> ConnectionDataset:
        rows, ledger = read_rows(source, reading)
        _warn_of(ledger.source, ledger.findings)
        return cls(rows, ledger)

    def __len__(self) -> int:
        return len(self._rows.places.lines)

    def __getitem__(self, index: SupportsIndex) -> Connection:
        place = operator.index(index)
        place += len(self) if place < 0 else 0
        if not 0 <= place < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        texts = tuple(self._rows.texts[i] for i in self._rows.text_rows[place].tolist())
        label = None if self.labels is None else float(self.labels[place])
        return Connection(texts, label, int(self._rows.places.lines[place]))

    def __repr__(self) -> str:
        rows = counted(len(self), row_word(self.n_texts))
        return f"ConnectionDataset({quoted(self.source)}: {rows}, {self._rows.labels.describe()})"

    @property
    def n_texts(self) -> int:
        """Number of texts in a row: 1, 2, or 3 for anchor, positive and negative."""
        return int(self._rows.text_rows.shape[1])

    @property
    def label_kind(self) -> LabelKind:
        """Kind of the labels: none, binary, score or classes (see `Labels`)."""
        return self._rows.labels.kind

    @property
    def labels(self) -> NDArray[np.float64] | None:
        """The labels as in the file, or the numbers of the classes, shape (N,); None where rows have no labels."""
        return self._rows.labels.values

    @property
    def scale(self) -> ScoreScale | None:
        """The scale of scores; None for other labels."""
        return self._rows.labels.scale

    @property
    def score_range(self) -> tuple[float, float] | None:
        """The lowest and the highest possible score; None for other labels."""
        return None if self.scale is None else (self.scale.low, self.scale.high)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by number; empty for other labels."""
        return self._rows.labels.class_names

    @property
    def lines(self) -> NDArray[np.int64]:
        """Position of each row in its source, shape (N,): line (Parquet: row) from 1; without a file, index from 0."""
        return self._rows.places.lines

    @property
    def ledger(self) -> Ledger:
        """The account of every row of the source."""
        return self._ledger

    @property
    def source(self) -> str:
        """The file's path as given, or "<dataframe>", "<pairs>" or "<texts>"."""
        return self._ledger.source

    @property
    def sha256(self) -> str:
        """Digest of the rows' texts and labels and the labels' meaning; lines and source do not change it."""
        return self._rows.sha256

    @property
    def text_rows(self) -> NDArray[np.int64]:
        """Index of each row's texts among the distinct texts, shape (N, k)."""
        return self._rows.text_rows

    @property
    def n_distinct(self) -> int:
        """Number of distinct texts."""
        return len(self._rows.texts)

    def distinct_texts(self, start: int, stop: int) -> list[str]:
        """Return the distinct texts from `start` to before `stop`, in the order of first appearance."""
        return self._rows.texts[start:stop]

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Return an iterator over the first two texts of each row, in order.

        Raises:
            InputError: The rows have one text.
        """
        if self.n_texts == 1:
            raise InputError(f"{quoted(self.source, limit=400)}: expected rows of two texts, found one text per row")
        return ((texts[0], texts[1]) for texts in self.rows_of_texts())

    def rows_of_texts(self) -> Iterator[tuple[str, ...]]:
        """Yield the k texts of each row, in order."""
        for start in range(0, len(self), _CHUNK_ROWS):
            chosen = self._rows.text_rows[start : start + _CHUNK_ROWS].tolist()
            yield from (tuple(map(self._rows.texts.__getitem__, texts)) for texts in chosen)

    def class_codes(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of each row's class among `classes`, shape (N,).

        Args:
            classes: The names of all classes, in the order of their numbers; numbers in any spelling ("1.0").

        Raises:
            InputError: A row's class is not among them, the labels are scores, or rows have no labels.
        """
        return class_codes(self._rows.labels, classes, self._rows.places, self.source)

    def class_counts(self) -> dict[str, int]:
        """Return how many rows each class has, in the order of the classes.

        Raises:
            InputError: The labels are scores, or rows have no labels.
        """
        return class_counts(self._rows.labels)

    def targets(self) -> NDArray[np.float32] | None:
        """Return the targets of objectives, shape (N,): 0 or 1, or scores mapped to 0..1 (those of -1..1 unchanged).

        None where rows have no labels.

        Raises:
            InputError: The labels are classes.
        """
        return self._rows.labels.targets()

    def matches(self, match_from: float | None = None) -> NDArray[np.bool_] | None:
        """Return which pairs belong together, shape (N,): label 1, or a score of at least `match_from`.

        None where rows have no labels.

        Args:
            match_from: A score on the file's scale; None for the middle of the scale. Labels 0 and 1 do not use it.

        Raises:
            InputError: The labels are classes, or `match_from` is not on the scale.
        """
        return self._rows.labels.matches(match_from)

    def select(self, rows: NDArray[np.int64]) -> ConnectionDataset:
        """Return these rows as a data set; its ledger counts the others as left out.

        Args:
            rows: Different indices, shape (n,), in any order.

        Raises:
            InputError: `rows` is empty, has an index twice, or one that is not a row.
        """
        indices = np.asarray(rows)
        whole = indices.ndim == 1 and np.issubdtype(indices.dtype, np.integer) and len(indices) > 0
        if not whole or len(np.unique(indices)) != len(indices) or indices.min() < 0 or indices.max() >= len(self):
            raise InputError(f"rows must be one or more different whole numbers from 0 to {len(self) - 1:,}")
        return self._part(indices.astype(np.int64), "left out: not selected")

    def _part(self, rows: NDArray[np.int64], sentence: str) -> ConnectionDataset:
        part = self._rows.select(rows)
        notes = recounted(self._ledger.notes, self._rows.labels, part.labels)
        return ConnectionDataset(part, replace(self._ledger, notes=notes).of_part(len(rows), part.findings(), sentence))

    def split(self, dev_share: float, seed: int) -> tuple[ConnectionDataset, ConnectionDataset]:
        """Return a training part and a dev part that have no text in common, ignoring case and spacing.

        Rows that share texts stay together, so the share is met as closely as these groups allow; for classes, the
        share of each class. Both parts keep the order of the rows.

        Args:
            dev_share: Share of the rows for dev, above 0 and below 1.
            seed: Of the random choice; the same seed gives the same parts.

        Raises:
            InputError: `dev_share` is not above 0 and below 1, or `seed` is not a whole number of at least 0.
            DataError: All rows are connected by shared texts, or there is only one row.
        """
        in_dev = rows_for_dev(self._rows.groups, self._rows.labels, dev_share, seed, self.source)
        train = self._part(np.flatnonzero(~in_dev), f"split off for dev (seed {seed})")
        return train, self._part(np.flatnonzero(in_dev), f"left for training by this dev part (seed {seed})")

    def with_overlaps(self, **others: ConnectionDataset) -> ConnectionDataset:
        """Return the same rows with a ledger that also counts the rows whose texts are a row of another data set.

        Args:
            others: Data sets by their use, such as `dev=` and `test=`. Pairs are compared ignoring the order of their
                sides, case and spacing; triplets by anchor and positive; single texts only with single texts.
        """
        found, notes = list[Finding](), list[str]()
        for name, other in others.items():
            findings, said = self._rows.overlaps(name, instance_argument(ConnectionDataset, other, name)._rows)
            found.extend(findings)
            notes.extend(said)
        _warn_of(self.source, found)
        ledger = replace(self._ledger, findings=(*self._ledger.findings, *found), notes=(*self._ledger.notes, *notes))
        return ConnectionDataset(self._rows, ledger)


def _warn_of(source: str, findings: Sequence[Finding]) -> None:
    if findings:
        logger.warning("%s: %s", quoted(source, limit=400), "; ".join(finding.sentence for finding in findings))
