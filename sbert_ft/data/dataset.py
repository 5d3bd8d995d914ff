"""`ConnectionDataset`: rows of one text, two texts (pairs) or three (triplets), with or without labels.

The first step of fine-tuning: a file, a DataFrame or lists become checked rows with labels of known meaning, and a
ledger that accounts for every row. Later steps (tokens, batches, losses, scores) use these rows as they are.

There is one pass: every row is checked, its texts become numbers of the distinct texts, its label is kept as a number
or a word. What the labels mean is known only at the end, so rows may still be dropped then. Ten million pairs cost
about 40 bytes each plus their texts.

The module is one class and what makes it from rows: all its methods work on the same arrays. Reading (`table.py`),
columns, labels and the ledger are modules of their own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import operator
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain, islice
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from sbert_ft.arguments import instance_argument, path_argument
from sbert_ft.config.settings import Reading
from sbert_ft.data.columns import checked_reading
from sbert_ft.data.corpus import TextCorpus
from sbert_ft.data.duplicates import groups_of_texts, overlap_rows, repeat_findings, text_keys
from sbert_ft.data.formats import Missing
from sbert_ft.data.labels import LabelColumn, LabelFault, LabelKind, Labels, ScoreScale, SeveralLabels
from sbert_ft.data.ledger import Finding, Ledger, RowFaults, RowPlaces, counted, row_word
from sbert_ft.data.sources import PairSource, RawRow, file_source, frame_source, text_source, tuple_source
from sbert_ft.data.split import rows_for_dev
from sbert_ft.data.text import is_blank
from sbert_ft.errors import DataError, InputError, quoted

if TYPE_CHECKING:
    import pandas

logger = logging.getLogger(__name__)
_CHUNK_ROWS = 4096
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_CHUNK_TEXTS = 1 << 16
_DROPPED: Final = {  # kinds of dropped rows and their descriptions in messages
    "ragged": "lost: more or fewer cells than the header",
    "not_json": "lost: not a JSON object",
    "empty": "dropped: a text is missing or blank",
    "not_text": "dropped: a value is not a text",
    "bad_label": "dropped: no usable label",
    "other_label": "left out: a label that data.{0} does not name",  # label_values or classes
}
_BAD: Final = ("ragged", "not_json", "empty", "not_text", "bad_label")


class Connection(NamedTuple):
    """One row: one text, two texts, or anchor, positive and negative; its label, if any; its line (see `lines`)."""

    texts: tuple[str, ...]
    label: float | None
    line: int


@dataclass(frozen=True, eq=False, init=False)
class ConnectionDataset(Dataset[Connection]):
    """Rows of one, two or three texts, with labels (scores, 0 and 1, classes) or without.

    Pairs without labels are taken as matches. ``ConnectionDataset(data)`` is the same as `from_file`, `from_dataframe`,
    `from_pairs` or `from_texts`, by what the data are; a data set never changes. N is the number of rows, k the number
    of texts in each.

    Attributes:
        ledger: The account of every row of the source.
        text_rows: Index of each row's texts among the distinct texts, shape (N, k), int64.
    """

    ledger: Ledger
    text_rows: NDArray[np.int64]
    _texts: list[str]  # the distinct ones, in the order of first appearance
    _keys: NDArray[np.uint64]  # `text_key` of each of these
    _groups: NDArray[np.int64]  # the rows' texts as numbers that are equal for texts equal up to case and spacing
    _labels: Labels
    _places: RowPlaces

    def __init__(self, data: Any, reading: Reading | None = None, *, labels: Iterable[object] | None = None) -> None:
        """Read a file, a DataFrame, or rows of texts.

        Args:
            data: The path of a file, a DataFrame, or an iterable of texts, pairs or triplets.
            reading: As in `from_file`.
            labels: One for each row, for rows that have none of their own: not for a file or a DataFrame.

        Raises:
            DataError, InputError: As in `from_file`, `from_dataframe`, `from_pairs` and `from_texts`.
        """
        make: Any = ConnectionDataset.from_pairs
        if isinstance(data, (str, os.PathLike)):
            make = ConnectionDataset.from_file
        elif hasattr(data, "iloc") and getattr(data, "ndim", 0) == 2:
            make = ConnectionDataset.from_dataframe
        elif (
            isinstance(data, Iterable)
            and not isinstance(data, (bytes, Mapping, Set))
            and getattr(data, "shape", None) != ()
        ):
            rows = iter(data)
            first = list(islice(rows, 1))
            data = data if rows is not data else chain(first, rows)  # a generator is read once
            is_text = first and (first[0] is None or isinstance(first[0], (str, float)))
            make = ConnectionDataset.from_texts if is_text else make
        if labels is not None and make in (ConnectionDataset.from_file, ConnectionDataset.from_dataframe):
            raise InputError("labels are given beside a file or a DataFrame", "name the column in reading.label_column")
        made = make(data, reading) if labels is None else make(data, reading, labels=labels)
        self.__dict__.update(made.__dict__)

    @staticmethod
    def _of(
        ledger: Ledger,
        text_rows: NDArray[np.int64],
        texts: list[str],
        keys: NDArray[np.uint64],
        groups: NDArray[np.int64],
        labels: Labels,
        places: RowPlaces,
    ) -> ConnectionDataset:
        """Return the data set of these attributes."""
        made = object.__new__(ConnectionDataset)
        values = (ledger, text_rows, texts, keys, groups, labels, places)
        made.__dict__.update(zip((field.name for field in fields(ConnectionDataset)), values, strict=True))
        return made

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], reading: Reading | None = None) -> ConnectionDataset:
        """Return the rows of a CSV, TSV, JSON, JSONL, Parquet or .xlsx file.

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
        return _read_rows(file_source(path_argument(path, "path"), chosen), chosen)

    @classmethod
    def from_dataframe(cls, df: pandas.DataFrame, reading: Reading | None = None) -> ConnectionDataset:
        """Return the rows of a DataFrame; columns are found by name as in `from_file`, lines are positions from 0.

        Raises:
            DataError: Its columns or a row in it cannot be used; None and NaN count as missing.
            InputError: `df` is not a DataFrame, or `reading` contradicts itself.
        """
        chosen = checked_reading(reading)
        return _read_rows(frame_source(df, chosen), chosen)

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
        return _read_rows(tuple_source(pairs, chosen, labels), chosen)

    @classmethod
    def from_texts(
        cls, texts: Iterable[object], reading: Reading | None = None, *, labels: Iterable[object] | None = None
    ) -> ConnectionDataset:
        """Return rows of one text each, from a list, an array, a Series or a generator.

        Arguments and errors as in `from_pairs`, with one label for each text. A row that is not a text is an
        `InputError`, one whose text is missing a `DataError`.
        """
        chosen = checked_reading(reading)
        return _read_rows(text_source(texts, chosen, labels), chosen)

    @classmethod
    def from_corpus(cls, corpus: TextCorpus) -> ConnectionDataset:
        """Return the different texts of a corpus, as rows of one text; repeated ones are left out and counted.

        Raises:
            DataError: As in `TextCorpus.texts`.
        """
        lines, texts = array("q"), list[str]()
        for text in corpus.texts():
            lines.append(text.line)
            texts.append(text.text)
        return _different_texts(texts, RowPlaces(np.array(lines, np.int64), corpus.unit), corpus.ledger)

    def as_single_texts(self) -> ConnectionDataset:
        """Return the different texts of all rows, as rows of one text without labels; repeated ones are counted."""
        k, ledger = self.n_texts, self.ledger
        texts = [text for row in self.rows_of_texts() for text in row]
        dropped = tuple(replace(found, count=k * found.count) for found in ledger.findings if found.dropped)
        note = "labels are not read" if k == 1 else f"each of a row's {k} texts is a row, without labels"
        notes = (*ledger.notes[:1], note) if k > 1 or self.labels is not None else ledger.notes
        ledger = replace(ledger, n_rows=k * ledger.n_rows, n_kept=len(texts), findings=dropped, notes=notes)
        return _different_texts(texts, RowPlaces(self.lines.repeat(k), self._places.unit), ledger)

    def with_texts(self, more: ConnectionDataset) -> ConnectionDataset:
        """Return the different texts of both data sets, which have rows of one text; they are numbered from 0."""
        texts = [text for dataset in (self, more) for (text,) in dataset.rows_of_texts()]
        both = self.ledger, more.ledger
        found = tuple(finding for ledger in both for finding in ledger.findings)
        note = f"with {counted(len(more), 'text')} of {quoted(more.source, limit=400)}"
        n_rows, n_kept = (sum(getattr(ledger, name) for ledger in both) for name in ("n_rows", "n_kept"))
        ledger = replace(self.ledger, n_rows=n_rows, n_kept=n_kept, findings=found, notes=(*self.ledger.notes, note))
        return _different_texts(texts, RowPlaces(np.arange(len(texts)), "position"), ledger, len(found))

    def __len__(self) -> int:
        return len(self.text_rows)

    def __getitem__(self, index: SupportsIndex) -> Connection:
        place = operator.index(index)
        place += len(self) if place < 0 else 0
        if not 0 <= place < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        texts = tuple(self._texts[i] for i in self.text_rows[place].tolist())
        label = None if self.labels is None else float(self.labels[place])
        return Connection(texts, label, int(self._places.lines[place]))

    def __repr__(self) -> str:
        rows = counted(len(self), row_word(self.n_texts))
        return f"ConnectionDataset({quoted(self.source)}: {rows}, {self._labels.describe()})"

    @property
    def n_texts(self) -> int:
        """Number of texts in a row: 1, 2, or 3 for anchor, positive and negative."""
        return int(self.text_rows.shape[1])

    @property
    def label_kind(self) -> LabelKind:
        """Kind of the labels: none, binary, score or classes (see `Labels`)."""
        return self._labels.kind

    @property
    def labels(self) -> NDArray[np.float64] | None:
        """The labels as in the file, or the numbers of the classes, shape (N,); None where rows have no labels."""
        return self._labels.values

    @property
    def scale(self) -> ScoreScale | None:
        """The scale of scores; None for other labels."""
        return self._labels.scale

    @property
    def score_range(self) -> tuple[float, float] | None:
        """The lowest and the highest possible score; None for other labels."""
        return None if self.scale is None else (self.scale.low, self.scale.high)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by number; empty for other labels."""
        return self._labels.class_names

    @property
    def lines(self) -> NDArray[np.int64]:
        """Position of each row in its source, shape (N,): line (Parquet: row) from 1; without a file, index from 0."""
        return self._places.lines

    @property
    def source(self) -> str:
        """The file's path as given, or "<dataframe>", "<pairs>" or "<texts>"."""
        return self.ledger.source

    @cached_property
    def sha256(self) -> str:
        """Digest of the rows' texts and labels and the labels' meaning; lines and source do not change it."""
        return _content_sha256(self._texts, self.text_rows, self._labels)

    @property
    def n_distinct(self) -> int:
        """Number of distinct texts."""
        return len(self._texts)

    @property
    def text_keys(self) -> NDArray[np.uint64]:
        """Key of each distinct text, shape (n_distinct,), as `data.duplicates.text_key` makes it."""
        return self._keys

    def distinct_texts(self, start: int, stop: int) -> list[str]:
        """Return the distinct texts from `start` to before `stop`, in the order of first appearance."""
        return self._texts[start:stop]

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
            chosen = self.text_rows[start : start + _CHUNK_ROWS].tolist()
            yield from (tuple(map(self._texts.__getitem__, texts)) for texts in chosen)

    def class_codes(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of each row's class among `classes`, shape (N,).

        Args:
            classes: The names of all classes, in the order of their numbers.

        Raises:
            InputError: A row's class is not among them, the labels are scores, or rows have no labels.
        """
        return self._labels.class_codes(classes, self._places, self.source)

    def class_counts(self) -> dict[str, int]:
        """Return how many rows each class has, in the order of the classes.

        Raises:
            InputError: The labels are scores, or rows have no labels.
        """
        return self._labels.class_counts()

    def targets(self) -> NDArray[np.float32] | None:
        """Return the targets of objectives, shape (N,): 0 or 1, or scores mapped to 0..1 (those of -1..1 unchanged).

        None where rows have no labels.

        Raises:
            InputError: The labels are classes.
        """
        return self._labels.targets()

    def matches(self, match_from: float | None = None) -> NDArray[np.bool_] | None:
        """Return which pairs belong together, shape (N,): label 1, or a score of at least `match_from`.

        None where rows have no labels.

        Args:
            match_from: A score on the file's scale; None for the middle of the scale. Labels 0 and 1 do not use it.

        Raises:
            InputError: The labels are classes, or `match_from` is not on the scale.
        """
        if match_from is not None and (isinstance(match_from, bool) or not isinstance(match_from, Real)):
            raise InputError(f"match_from is of type {type(match_from).__name__}, expected a number")
        return self._labels.matches(match_from)

    def select(self, rows: NDArray[np.int64]) -> ConnectionDataset:
        """Return these rows as a data set; its ledger counts the others as left out.

        Args:
            rows: Different indices, shape (n,), in any order.

        Raises:
            InputError: `rows` is empty, has an index twice, or one that is not a row.
        """
        try:
            indices = np.asarray(rows)
        except ValueError:  # lists of different lengths
            indices = np.zeros((0, 0), np.int64)
        whole = indices.ndim == 1 and np.issubdtype(indices.dtype, np.integer) and len(indices) > 0
        if not whole or len(np.unique(indices)) != len(indices) or indices.min() < 0 or indices.max() >= len(self):
            raise InputError(f"rows must be one or more different whole numbers from 0 to {len(self) - 1:,}")
        return self._part(indices.astype(np.int64), "left out: not selected")

    def _part(self, rows: NDArray[np.int64], sentence: str) -> ConnectionDataset:
        chosen, text_rows = _first_appearances(self.text_rows[rows])
        texts, keys = [self._texts[i] for i in chosen.tolist()], self._keys[chosen]
        groups, labels = groups_of_texts(keys, text_rows), self._labels.select(rows)
        places = RowPlaces(self.lines[rows], self._places.unit)
        ledger = replace(self.ledger, notes=self._labels.recounted(self.ledger.notes, labels))
        ledger = ledger.of_part(len(rows), _findings(groups, labels, places), sentence)
        return ConnectionDataset._of(ledger, text_rows, texts, keys, groups, labels, places)

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
        in_dev = rows_for_dev(self._groups, self._labels, dev_share, seed, self.source)
        train = self._part(np.flatnonzero(~in_dev), f"split off for dev (seed {seed})")
        return train, self._part(np.flatnonzero(in_dev), f"left for training by this dev part (seed {seed})")

    def with_rows_of(self, other: ConnectionDataset, what: str) -> ConnectionDataset:
        """Return these rows and then those of another data set, whose labels are of the same kind and scale.

        Both have as many texts in a row. The ledger stays that of these rows, with the others counted as `what`; their
        `lines` are those in their own source.

        Raises:
            InputError: The labels are of different kinds or on different scales.
        """
        if (self.label_kind, self.scale, self.class_names) != (other.label_kind, other.scale, other.class_names):
            raise InputError(
                f"{quoted(other.source, limit=400)} has {other._labels.describe()}, but "
                f"{quoted(self.source, limit=400)} has {self._labels.describe()}",
                "give both the same labels",
            )
        number_of = {text: i for i, text in enumerate(self._texts)}
        theirs = np.array([number_of.setdefault(text, len(number_of)) for text in other._texts], np.int64)
        text_rows = np.concatenate([self.text_rows, theirs[other.text_rows]])
        texts = list(number_of)
        keys = np.concatenate([self._keys, text_keys(texts[len(self._texts) :])])
        values = [labels for labels in (self.labels, other.labels) if labels is not None]
        labels = replace(self._labels, values=np.concatenate(values)) if values else self._labels
        n_more, source = len(other), quoted(other.source, limit=400)
        finding = Finding("added", n_more, False, (), f"{counted(n_more, what)} of {source} added")
        ledger = replace(
            self.ledger,
            n_rows=self.ledger.n_rows + n_more,
            n_kept=len(text_rows),
            findings=(*self.ledger.findings, finding),
        )
        places = RowPlaces(np.concatenate([self.lines, other.lines]), self._places.unit)
        return ConnectionDataset._of(ledger, text_rows, texts, keys, groups_of_texts(keys, text_rows), labels, places)

    def with_overlaps(self, **others: ConnectionDataset) -> ConnectionDataset:
        """Return the same rows with a ledger that also counts the rows whose texts are a row of another data set.

        Args:
            others: Data sets by their use, such as `dev=` and `test=`. Pairs are compared ignoring the order of their
                sides, case and spacing; triplets by anchor and positive; single texts only with single texts.
        """
        found, notes = list[Finding](), list[str]()
        of_texts = self.n_texts == 1
        thing = "text" if of_texts else "pair"
        ignored = "ignoring case and spacing" if of_texts else "ignoring case, spacing and order"
        for name, other in others.items():
            other = instance_argument(ConnectionDataset, other, name)
            rows, n_different, n_shared = overlap_rows(self._keys, self.text_rows, other._keys, other.text_rows)
            if len(rows):
                finding = self._places.finding(f"overlap_{name}", rows, f"having a {thing} that {name} has too")
                more = f" ({counted(n_different, f'different {thing}')}; {ignored})"
                found.append(replace(finding, sentence=finding.sentence + more))
            if n_shared and not (of_texts and len(rows)):
                notes.append(f"shared with {name}: {counted(n_shared, 'text')} (ignoring case and spacing)")
        _warn_of(self.source, found)
        ledger = replace(self.ledger, findings=(*self.ledger.findings, *found), notes=(*self.ledger.notes, *notes))
        parts = (self.text_rows, self._texts, self._keys, self._groups, self._labels, self._places)
        return ConnectionDataset._of(ledger, *parts)


def _warn_of(source: str, findings: Sequence[Finding]) -> None:
    if findings:
        logger.warning("%s: %s", quoted(source, limit=400), "; ".join(finding.sentence for finding in findings))


def _read_rows(source: PairSource, reading: Reading) -> ConnectionDataset:
    """Return the usable rows of a source, which is read once; its findings are logged as a warning."""
    faults = RowFaults(source.unit)
    name, n_texts = source.label_name, len(source.text_names)
    column = None if name is None else LabelColumn(source.where, name, reading, n_texts)
    number_of: dict[str, int] = {}  # in the order of first appearance
    texts, taken = array("q"), array("q")
    for row in source.rows(faults):
        if _is_usable(row, source, column, faults):
            taken.append(row.line)
            texts.extend([number_of.setdefault(str(text), len(number_of)) for text in row.texts])
    lines = np.array(taken, np.int64)
    text_rows = np.array(texts, np.int64).reshape(len(lines), n_texts)
    n_rows = len(lines) + faults.counts.total()
    kept = np.ones(len(lines), bool) if column is None else ~column.bad_rows(lines, faults)
    if reading.on_bad_row == "error" and any(faults.counts[kind] for kind in _BAD):
        raise _cannot_be_used(source, n_rows, faults)
    if not kept.any():
        raise _no_row(source, n_rows, faults, reading)
    labels, notes = (Labels("none"), list[str]()) if column is None else column.labels(kept)
    distinct = list(number_of)
    if not kept.all():
        chosen, text_rows = _first_appearances(text_rows[kept])
        distinct = [distinct[i] for i in chosen.tolist()]
    keys, places = text_keys(distinct), RowPlaces(lines[kept], source.unit)
    groups = groups_of_texts(keys, text_rows)
    dropped = (_dropped(kind, faults, reading) for kind in _DROPPED if faults.counts[kind])
    unread = () if source.unread is None else (Finding("unread_numbers", len(text_rows), False, (), source.unread),)
    findings, said = (*dropped, *unread, *_findings(groups, labels, places)), (*source.notes, *notes)
    sha256 = source.sha256 or _content_sha256(distinct, text_rows, labels)
    _warn_of(source.name, findings)
    ledger = Ledger(source.name, source.format, sha256, n_rows, len(text_rows), findings, said, source.columns)
    return ConnectionDataset._of(ledger, text_rows, distinct, keys, groups, labels, places)


def _different_texts(texts: list[str], places: RowPlaces, ledger: Ledger, n_said: int = 0) -> ConnectionDataset:
    """Return rows of one text without labels, without those that repeat an earlier one, which the ledger then counts.

    `ledger` is that of all the texts, and `places` says where they are. The first `n_said` of its findings have been
    logged.
    """
    keys = text_keys(texts)
    kept = np.sort(np.unique(keys, return_index=True)[1])
    if n_repeated := len(texts) - len(kept):
        again = np.setdiff1d(np.arange(len(texts)), kept)
        problem = "repeating an earlier one (ignoring case and spacing) left out"
        found = places.finding("duplicate", again, problem, "text")
        ledger = ledger.with_finding(found.kind, n_repeated, found.sentence, dropped=True, first=found.first)
    _warn_of(ledger.source, ledger.findings[n_said:])
    rows = np.arange(len(kept))[:, None]
    chosen = [texts[i] for i in kept.tolist()]
    own = RowPlaces(places.lines[kept], places.unit)
    return ConnectionDataset._of(ledger, rows, chosen, keys[kept], rows, Labels("none"), own)


def _findings(groups: NDArray[np.int64], labels: Labels, places: RowPlaces) -> tuple[Finding, ...]:
    """Return what is odd about the rows or their labels; no row is dropped for it."""
    return (*repeat_findings(groups, labels, places), *labels.findings(places))


def _content_sha256(texts: Sequence[str], text_rows: NDArray[np.int64], labels: Labels) -> str:
    scale = None if labels.scale is None else [labels.scale.low, labels.scale.high]
    meaning = [labels.kind, scale, labels.class_names, text_rows.shape]
    digest = hashlib.sha256(json.dumps(meaning).encode())
    for start in range(0, len(texts), _CHUNK_TEXTS):
        encoded = [text.encode() for text in texts[start : start + _CHUNK_TEXTS]]
        digest.update(np.array([len(text) for text in encoded], "<i8").tobytes())
        digest.update(b"".join(encoded))
    digest.update(text_rows.astype("<i8").tobytes())
    digest.update(b"" if labels.values is None else labels.values.astype("<f8").tobytes())
    return digest.hexdigest()


def _is_usable(row: RawRow, source: PairSource, column: LabelColumn | None, faults: RowFaults) -> bool:
    """Return whether a row can be used; its label is then added to `column`, otherwise the row to `faults`."""
    for name, text in zip(source.text_names, row.texts, strict=True):
        if isinstance(text, str):
            if is_blank(text):
                faults.add("empty", row.line, f"the {name} is {'blank' if text else 'empty'}")
                return False
            if not text.isascii() and (half := _HALF_CHARACTER.search(text)) is not None:
                problem = f"holds half a character ({quoted(half[0])}), which UTF-8 cannot encode"
                faults.add("not_text", row.line, f"the {name} {problem}")
                return False
        elif text is None or text is Missing.MISSING:
            faults.add("empty", row.line, f"the {name} is missing")
            return False
        else:
            faults.add("not_text", row.line, f"the {name} is {type(text).__name__} {quoted(text, limit=40)}")
            return False
    if column is None:
        return True
    try:
        if column.add(row.label):
            return True
    except SeveralLabels as problem:
        what = f"{source.where}: {source.unit} {row.line}: label {problem}"
        raise DataError(what, "give each row one label, or train one run per class, with labels 0 and 1") from None
    except LabelFault as problem:
        faults.add("bad_label", row.line, f"label {problem}")
        return False
    faults.add("other_label", row.line, quoted(row.label, limit=40))
    return False


def _first_appearances(text_rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the different texts of rows in the order of first appearance, and the rows as indices into them."""
    texts, first, places = np.unique(text_rows.ravel(), return_index=True, return_inverse=True)
    order = np.argsort(first)
    new_index = np.empty(len(order), np.int64)
    new_index[order] = np.arange(len(order))
    renumbered: NDArray[np.int64] = new_index[places].reshape(text_rows.shape)
    return texts[order], renumbered


def _cannot_be_used(source: PairSource, n_rows: int, faults: RowFaults) -> DataError:
    n_bad = sum(faults.counts[kind] for kind in _BAD)
    problem = f"{n_bad:,} of {counted(n_rows, 'row')} cannot be used: {faults.describe(_BAD)}"
    remedy = "fix or remove them, or set data.on_bad_row to 'skip' (Reading(on_bad_row='skip')) to leave them out"
    return DataError(f"{source.where}: {problem}", remedy)


def _no_row(source: PairSource, n_rows: int, faults: RowFaults, reading: Reading) -> DataError:
    if not n_rows:
        wanted = "text" if len(source.text_names) == 1 else "pair of texts"
        return DataError(f"{source.where}: holds no row; expected at least one {wanted}")
    first = "; ".join(f"{source.unit} {line}: {problem}" for line, problem in faults.first(tuple(_DROPPED)))
    only_others = faults.counts["other_label"] == n_rows
    others = f" (labels that data.{_naming(reading)} does not name)" if only_others else ""
    return DataError(f"{source.where}: none of {counted(n_rows, 'row')} can be used{others}: {first}")


def _naming(reading: Reading) -> str:
    """Return the name of the setting that lists the labels of the rows to keep."""
    return "label_values" if reading.classes is None else "classes"


def _dropped(kind: str, faults: RowFaults, reading: Reading) -> Finding:
    first, count = faults.first((kind,)), faults.counts[kind]
    problem = f": {first[0][1]}" if kind in ("bad_label", "other_label", "not_text") else ""
    why = _DROPPED[kind].format(_naming(reading))
    sentence = f"{counted(count, 'row')} {why} ({faults.places(kind)}{problem})"
    return Finding(kind, count, True, tuple(line for line, _ in first), sentence)
