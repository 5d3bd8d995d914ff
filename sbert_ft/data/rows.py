"""Read rows of texts and labels into flat arrays, with a ledger that accounts for every row.

There is one pass: every row is checked, its texts become numbers of the distinct texts, its label is kept as a number
or a word. What the labels mean is known only at the end, so rows may still be dropped then. Ten million pairs cost
about 40 bytes each plus their texts.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.settings import Reading
from sbert_ft.data.duplicates import groups_of_texts, overlap_rows, repeat_findings, text_keys
from sbert_ft.data.formats import Missing
from sbert_ft.data.labels import LabelColumn, LabelFault, Labels, SeveralLabels, label_findings
from sbert_ft.data.ledger import Finding, Ledger, RowFaults, RowPlaces, counted
from sbert_ft.data.sources import PairSource, RawRow
from sbert_ft.data.text import is_blank
from sbert_ft.errors import DataError, quoted

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


@dataclass(frozen=True, eq=False)
class PairRows:
    """N rows of k texts with their labels and lines.

    Attributes:
        texts: The distinct texts, in the order of first appearance.
        text_rows: Index of each row's texts among them, shape (N, k), int64.
        text_keys: `duplicates.text_key` of each text, shape (n_distinct,), uint64.
        places: Of the N rows in their source.
        labels: Of the N rows.
    """

    texts: list[str]
    text_rows: NDArray[np.int64]
    text_keys: NDArray[np.uint64]
    places: RowPlaces
    labels: Labels

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """Each row's texts as numbers that are the same for texts equal up to case and spacing, shape (N, k)."""
        return groups_of_texts(self.text_keys, self.text_rows)

    @cached_property
    def sha256(self) -> str:
        """Digest of the rows' texts in order, their labels and the labels' meaning, but not of their lines."""
        labels = self.labels
        scale = None if labels.scale is None else [labels.scale.low, labels.scale.high]
        meaning = [labels.kind, scale, labels.class_names, self.text_rows.shape]
        digest = hashlib.sha256(json.dumps(meaning).encode())
        for start in range(0, len(self.texts), _CHUNK_TEXTS):
            encoded = [text.encode() for text in self.texts[start : start + _CHUNK_TEXTS]]
            digest.update(np.array([len(text) for text in encoded], "<i8").tobytes())
            digest.update(b"".join(encoded))
        digest.update(self.text_rows.astype("<i8").tobytes())
        digest.update(b"" if labels.values is None else labels.values.astype("<f8").tobytes())
        return digest.hexdigest()

    def select(self, rows: NDArray[np.int64]) -> PairRows:
        """Return the rows of these indices, shape (n,), in this order."""
        chosen, text_rows = _first_appearances(self.text_rows[rows])
        texts = [self.texts[i] for i in chosen.tolist()]
        places = RowPlaces(self.places.lines[rows], self.places.unit)
        return PairRows(texts, text_rows, self.text_keys[chosen], places, self.labels.select(rows))

    def findings(self) -> tuple[Finding, ...]:
        """Return what is odd about the rows or their labels; no row is dropped for it."""
        return (*repeat_findings(self.groups, self.labels, self.places), *label_findings(self.labels, self.places))

    def overlaps(self, name: str, other: PairRows) -> tuple[list[Finding], list[str]]:
        """Return the findings and notes about texts that the data set for `name` has too; at most one of each."""
        rows, n_different, n_shared = overlap_rows(self.text_keys, self.text_rows, other.text_keys, other.text_rows)
        of_texts = self.text_rows.shape[1] == 1
        thing = "text" if of_texts else "pair"
        found = []
        if len(rows):
            finding = self.places.finding(f"overlap_{name}", rows, f"having a {thing} that {name} has too")
            ignored = "ignoring case and spacing" if of_texts else "ignoring case, spacing and order"
            more = f" ({counted(n_different, f'different {thing}')}; {ignored})"
            found.append(replace(finding, sentence=finding.sentence + more))
        if not n_shared or (of_texts and found):
            return found, []
        return found, [f"shared with {name}: {counted(n_shared, 'text')} (ignoring case and spacing)"]


def read_rows(source: PairSource, reading: Reading) -> tuple[PairRows, Ledger]:
    """Return the usable rows of a source and the ledger of all its rows; the source is read once.

    Args:
        source: Where the rows come from.
        reading: What labels mean and what to do with a row that cannot be used.

    Raises:
        DataError: No row is usable, or a row is not while `on_bad_row` is "error", or the meaning of the labels cannot
            be found out.
        InputError: A tuple is of another kind than the first one.
    """
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
    rows = PairRows(distinct, text_rows, text_keys(distinct), RowPlaces(lines[kept], source.unit), labels)
    dropped = (_dropped(kind, faults, reading) for kind in _DROPPED if faults.counts[kind])
    sha256 = rows.sha256 if source.sha256 is None else source.sha256
    findings, said = (*dropped, *rows.findings()), (*source.notes, *notes)
    return rows, Ledger(source.name, source.format, sha256, n_rows, len(text_rows), findings, said)


def _is_usable(row: RawRow, source: PairSource, column: LabelColumn | None, faults: RowFaults) -> bool:
    """Return whether a row can be used; its label is then added to `column`, otherwise the row to `faults`.

    Raises:
        DataError: The row has a list of labels.
    """
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
    first = faults.first(_BAD)
    n_bad = sum(faults.counts[kind] for kind in _BAD)
    places = "; ".join(f"{source.unit} {line}: {problem}" for line, problem in first)
    remedy = "fix or remove them, or set data.on_bad_row to 'skip' (Reading(on_bad_row='skip')) to leave them out"
    more = f"; and {n_bad - len(first):,} more" if n_bad > len(first) else ""
    more += "".join(f"; {of_kind}" for of_kind in faults.remedies)
    return DataError(f"{source.where}: {n_bad:,} of {counted(n_rows, 'row')} cannot be used: {places}{more}", remedy)


def _no_row(source: PairSource, n_rows: int, faults: RowFaults, reading: Reading) -> DataError:
    if not n_rows:
        wanted = "text" if len(source.text_names) == 1 else "pair of texts"
        return DataError(f"{source.where}: holds no row; expected at least one {wanted}")
    first = "; ".join(f"{source.unit} {line}: {problem}" for line, problem in faults.first(tuple(_DROPPED)))
    unnamed = f" (labels that data.{_naming(reading)} does not name)"
    others = unnamed if faults.counts["other_label"] == n_rows else ""
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
