"""`ConnectionDataset`: pairs (or triplets) of texts that belong together, more or less or not at all; or single texts.

The first station of a fine-tuning: a file, a DataFrame or lists become rows that are all checked and accounted for
in a ledger, with labels whose meaning is known. What comes later (tokens, batches, losses, scores) takes it as it is.
"""

from __future__ import annotations

import logging
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
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
from sbert_ft.errors import InputError, OutputError, quoted

if TYPE_CHECKING:
    import pandas

logger = logging.getLogger(__name__)
_CHUNK_ROWS = 4096


class Connection(NamedTuple):
    """One row: one text or two, or an anchor with a positive and a negative; its label, if any; where it stands."""

    texts: tuple[str, ...]
    label: float | None
    line: int


class ConnectionDataset(Dataset[Connection]):
    """Rows of one, two or three texts: with labels (scores, 0 and 1, classes), or pairs known only to match.

    Make one with `from_file`, `from_dataframe`, `from_pairs` or `from_texts`; it never changes. `ledger` is the account
    of every row of the source. N is the number of rows, k that of texts in each.
    """

    def __init__(self, rows: PairRows, ledger: Ledger) -> None:
        self._rows = rows
        self._ledger = ledger

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], reading: Reading | None = None, cache_dir: Path | None = None
    ) -> ConnectionDataset:
        """Return the rows of a CSV, TSV, JSONL or Parquet file.

        Columns are taken by name: as `reading` says, or such as sentence1, sentence2 and score, or document and
        label. Where there is no label, pairs are known only to match.

        Args:
            path: The file.
            reading: What is known about it; what is not is found out and noted in the ledger.
            cache_dir: For the texts' bytes when they are many (see `TextStore`).

        Raises:
            DataError: The file or a row in it cannot be used; the message names the first ones and says what to do.
            InputError: `reading` contradicts itself.
            OutputError: `cache_dir` is no folder.
        """
        chosen = checked_reading(reading)
        if cache_dir is not None and not path_argument(cache_dir, "cache_dir").is_dir():
            raise OutputError(f"{quoted(cache_dir, limit=400)}: is no folder", "make it, or leave cache_dir out")
        return cls._read(file_source(path_argument(path, "path"), chosen), chosen, cache_dir)

    @classmethod
    def from_dataframe(cls, df: pandas.DataFrame, reading: Reading | None = None) -> ConnectionDataset:
        """Return the rows of a DataFrame; columns are taken by name as in `from_file`, lines are positions from 0.

        Raises:
            DataError: Its columns or a row in it cannot be used; None and NaN are no texts and no labels.
            InputError: It is no DataFrame, or `reading` contradicts itself.
        """
        chosen = checked_reading(reading)
        return cls._read(frame_source(df, chosen), chosen, None)

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
            reading: What labels mean; with its label_kind, classes or label_values a third text is a label too.
            labels: One for each row of (text, text).

        Raises:
            InputError: A row is none of these or not as the first one; the message says its position, from 0. Or
                there are not as many labels as rows.
            DataError: A text is blank or a label is none that can be.
        """
        chosen = checked_reading(reading)
        return cls._read(tuple_source(pairs, chosen, labels), chosen, None)

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
            InputError: A row is no text; the message says its position, from 0. Or there are not as many labels.
            DataError: A text is blank or missing, or a label is none that can be.
        """
        chosen = checked_reading(reading)
        return cls._read(text_source(texts, chosen, labels), chosen, None)

    @classmethod
    def _read(cls, source: PairSource, reading: Reading, folder: Path | None) -> ConnectionDataset:
        rows, ledger = read_rows(source, reading, folder)
        _warn_of(ledger.source, ledger.findings)
        return cls(rows, ledger)

    def __len__(self) -> int:
        return len(self._rows.lines)

    def __getitem__(self, index: SupportsIndex) -> Connection:
        place = operator.index(index)
        place += len(self) if place < 0 else 0
        if not 0 <= place < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        texts = tuple(self._rows.text(i) for i in self._rows.text_rows[place].tolist())
        label = None if self.labels is None else float(self.labels[place])
        return Connection(texts, label, int(self._rows.lines[place]))

    def __repr__(self) -> str:
        rows = counted(len(self), row_word(self.n_texts))
        return f"ConnectionDataset({quoted(self.source)}: {rows}, {self._rows.labels.describe()})"

    @property
    def n_texts(self) -> int:
        """Texts a row: 1 or 2, or 3 for anchor, positive and negative."""
        return int(self._rows.text_rows.shape[1])

    @property
    def label_kind(self) -> LabelKind:
        """What labels are: none, binary, score or classes (see `Labels`)."""
        return self._rows.labels.kind

    @property
    def labels(self) -> NDArray[np.float64] | None:
        """The labels as in the file, and for classes their number, shape (N,); None where there are none."""
        return self._rows.labels.values

    @property
    def scale(self) -> ScoreScale | None:
        """The scale of scores; None for other labels."""
        return self._rows.labels.scale

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called, by their number; empty for other labels."""
        return self._rows.labels.class_names

    @property
    def lines(self) -> NDArray[np.int64]:
        """Where each row stands, shape (N,): its line, or row of Parquet, from 1; elsewhere its position from 0."""
        return self._rows.lines

    @property
    def ledger(self) -> Ledger:
        """The account of every row of the source."""
        return self._ledger

    @property
    def source(self) -> str:
        """The file's path as it was given, or "<dataframe>", "<pairs>" or "<texts>"."""
        return self._ledger.source

    @property
    def sha256(self) -> str:
        """Digest of the rows' texts and labels and of what labels mean; equal for equal rows, wherever they stand."""
        return self._rows.sha256

    @property
    def text_rows(self) -> NDArray[np.int64]:
        """Index of each row's texts among the distinct ones, shape (N, k)."""
        return self._rows.text_rows

    @property
    def n_distinct(self) -> int:
        """How many different texts there are."""
        return self._rows.n_distinct

    def distinct_texts(self, start: int, stop: int) -> list[str]:
        """Return the different texts from `start` to before `stop`, in the order in which they first appear."""
        return self._rows.distinct_texts(start, stop)

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Return an iterator over the first two texts of each row, in order.

        Raises:
            InputError: Rows have one text.
        """
        if self.n_texts == 1:
            raise InputError(f"{quoted(self.source, limit=400)}: expected rows of two texts, found one text a row")
        return ((texts[0], texts[1]) for texts in self.rows_of_texts())

    def rows_of_texts(self) -> Iterator[tuple[str, ...]]:
        """Yield the k texts of each row, in order."""
        for start in range(0, len(self), _CHUNK_ROWS):
            chosen = self._rows.text_rows[start : start + _CHUNK_ROWS].tolist()
            yield from (tuple(map(self._rows.text, texts)) for texts in chosen)

    def class_codes(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of each row's class among `classes`, shape (N,).

        Args:
            classes: The names of all classes, in the order of their numbers; numbers in any spelling ("1.0").

        Raises:
            InputError: A row has a class that is none of them, or the labels are scores, or there are none.
        """
        return class_codes(self._rows.labels, classes, self.lines, self._rows.unit, self.source)

    def class_counts(self) -> dict[str, int]:
        """Return how many rows each class has, in the order of the classes.

        Raises:
            InputError: The labels are scores, or there are none.
        """
        return class_counts(self._rows.labels)

    def targets(self) -> NDArray[np.float32] | None:
        """Return what objectives get, shape (N,): 0 or 1, or scores as 0 to 1 (those of -1..1 as they are).

        None where the pairs are known only to match.

        Raises:
            InputError: The labels are classes.
        """
        return self._rows.labels.targets()

    def matches(self, match_from: float | None = None) -> NDArray[np.bool_] | None:
        """Return which pairs belong together, shape (N,): label 1, or a score of at least `match_from`.

        None where the pairs are known only to match.

        Args:
            match_from: A score of the file's scale, its middle where None; labels 0 and 1 do not ask for it.

        Raises:
            InputError: The labels are classes, or `match_from` is not on the scale.
        """
        return self._rows.labels.matches(match_from)

    def select(self, rows: NDArray[np.int64]) -> ConnectionDataset:
        """Return these rows as a data set, whose ledger counts the others as left out.

        Args:
            rows: Different indices, shape (n,), in any order.

        Raises:
            InputError: There is none, or one comes twice or is not a row.
        """
        indices = np.asarray(rows)
        whole = indices.ndim == 1 and np.issubdtype(indices.dtype, np.integer) and len(indices) > 0
        if not whole or len(np.unique(indices)) != len(indices) or indices.min() < 0 or indices.max() >= len(self):
            raise InputError(f"rows must be at least one, different and whole numbers from 0 to {len(self) - 1:,}")
        return self._part(indices.astype(np.int64), "left out: not selected")

    def _part(self, rows: NDArray[np.int64], sentence: str) -> ConnectionDataset:
        part = self._rows.select(rows)
        notes = recounted(self._ledger.notes, self._rows.labels, part.labels)
        return ConnectionDataset(part, replace(self._ledger, notes=notes).of_part(len(rows), part.findings(), sentence))

    def split(self, dev_share: float, seed: int) -> tuple[ConnectionDataset, ConnectionDataset]:
        """Return the rows in two parts, for training and dev, with no text on both sides, case and spacing aside.

        Rows that share texts stay together, so the share is met as nearly as these groups allow; of classes, the
        share of each one. Both parts keep the order of the rows.

        Args:
            dev_share: Of the rows, above 0 and below 1.
            seed: Of the choice; the same seed gives the same parts.

        Raises:
            InputError: `dev_share` is no such share.
            DataError: All rows hang together by the texts they share.
        """
        in_dev = rows_for_dev(self._rows.groups, self._rows.labels, dev_share, seed, self.source)
        train = self._part(np.flatnonzero(~in_dev), f"split off for dev (seed {seed})")
        return train, self._part(np.flatnonzero(in_dev), f"left for training, these being dev (seed {seed})")

    def with_overlaps(self, **others: ConnectionDataset) -> ConnectionDataset:
        """Return the same rows with a ledger that counts those whose texts are a row of the other data sets too.

        Args:
            others: Data sets by what they are for, such as `dev=` and `test=`. Pairs are the same whatever the order
                of their sides, case and spacing; of triplets, anchor and positive are compared; texts with texts.
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
