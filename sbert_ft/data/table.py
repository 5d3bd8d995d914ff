"""Read a file of texts as a stream of rows, without losing any row silently.

`open_table` reads the beginning of the file to find its `TableFormat`. The `Table` it returns can be read any number of
times, each time from the disk, so memory does not grow with the number of rows. A cell is exactly the text in the
file: NA, null, 007 and 1e5 are ordinary texts. What cannot be read reliably (a short row, an unclosed quote, a wrong
byte) is a `DataError` that names the line, or the first few lines where the next row can still be found. Only empty
lines between records are skipped.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from sbert_ft.config.file_kinds import FILE_KINDS, KIND_OF_SUFFIX, Kind
from sbert_ft.data.columns import did_you_mean, places_of, texts_of_one_name, usual_texts
from sbert_ft.data.file_formats import FORMATS
from sbert_ft.data.formats import DELIMITER_NAMES, N_SHOWN_COLUMNS, Missing, OnBadRecord, Row, TableFile
from sbert_ft.data.ledger import RowFaults, Unit, counted
from sbert_ft.data.text import fault, find_encoding, first_bytes, is_blank, refuse_other_formats
from sbert_ft.errors import DataError, listed, quoted, shown

__all__ = ["Kind", "Row", "Table", "open_table"]

logger = logging.getLogger(__name__)


class Table(TableFile):
    """A file that can be read row by row, any number of times; create it with `open_table`."""

    def __iter__(self) -> Iterator[Row]:
        return self.rows()

    @property
    def unit(self) -> Unit:
        """What a row's `line` counts."""
        return FORMATS[self.format.kind].unit

    def rows(self, columns: Sequence[int] | None = None, on_bad: OnBadRecord | None = None) -> Iterator[Row]:
        """Yield each row with the values of the columns at these positions, or of all; others are not converted.

        For a row that has more or fewer cells than the header, or a line that is not a JSON object, `on_bad` is called
        with the line, what is wrong and what to do, and the row is left out.

        Raises:
            DataError: A row cannot be read, or is such a row and `on_bad` is None.
        """
        return FORMATS[self.format.kind].rows(self, columns, on_bad)

    def column_index(self, name: str) -> int:
        """Return the position of the column called `name`; a `DataError` if there is none."""
        if len(places := places_of(name, self.format.columns)) > 1:
            several = f"{len(places)} columns are called {quoted(name)}"
            raise fault(self.path, several, hint="give each a name of its own")
        if places:
            return places[0]
        if not self.format.columns:
            problem = f"has one text per line, so there is no column {quoted(name)}"
            raise fault(self.path, problem, hint="for a file with cells give --kind")
        question = did_you_mean(name, self.format.columns)
        raise fault(self.path, f"has no column {quoted(name)}; {self._columns_found()}{question}")

    def text_columns(self, names: Sequence[str] | None, n: Literal[1, 2]) -> tuple[int, ...]:
        """Return the positions of the columns with the texts: those named, or the only ones with usual names.

        Raises:
            DataError: A named column does not exist, or none or more than one has a usual name.
        """
        wanted = "one column of texts" if n == 1 else "two columns of texts"
        if not self.format.columns and n == 2:
            problem = f"expected {wanted}, found one text per line"
            raise fault(self.path, problem, hint="give a .csv, .tsv, .jsonl or .parquet")
        if names is not None:
            if len(names) != n or len(set(names)) != n:
                raise fault(self.path, f"expected the names of {wanted}, found {listed(names, N_SHOWN_COLUMNS)}")
            return tuple(map(self.column_index, names))
        if n == 1 and len(self.column_names) == 1 and self.format.delimiter is None:
            return (0,)  # the only key is certainly a name, but the first line of a file of cells could be a text
        found, candidates = usual_texts(self.format.columns, (n,))
        if found is not None:
            return found
        if (of_one_name := texts_of_one_name(self.format.columns)) is not None:
            raise fault(self.path, of_one_name, hint="give each a name of its own")
        several = "which of them is not clear" if candidates else "none with a usual name"
        say_it = "name the column with --column NAME" if n == 1 else "name the two columns with --columns A,B"
        raise fault(self.path, f"expected {wanted}, {several}; {self._columns_found()}", hint=say_it)

    def _columns_found(self) -> str:
        source = FORMATS[self.format.kind].names_columns
        return f"{source} {listed(self.format.columns, N_SHOWN_COLUMNS)}{self.format.delimiter_hint()}"

    def texts(self, columns: Sequence[int], *, may_be_empty: bool = False) -> Iterator[tuple[str, ...]]:
        """Yield each row's texts in the columns at these positions; blank texts give a warning, empty ones an error.

        After a bad row nothing more is yielded, but the rest is read to report the first few bad rows at once.

        Raises:
            DataError: A value is missing, empty or not a text, or there is no row and the file may not be empty.
        """
        blank = RowFaults(self.unit)
        n_rows = 0
        for row in self.checked_rows(columns, lambda row: self._not_a_text(row, columns)):
            n_rows += 1
            texts = tuple(map(str, row.values))
            if any(map(is_blank, texts)):
                blank.add("blank", row.line, "")
            yield texts
        if not n_rows and not may_be_empty:
            raise fault(self.path, "holds no row; expected at least one text")
        warn_of_blank(self.path, blank)

    def checked_rows(
        self, columns: Sequence[int], problem_of: Callable[[Row], tuple[str, str] | None]
    ) -> Iterator[Row]:
        """Yield each row up to the first bad one; then read the rest for more bad rows and raise an error.

        The rows have the values of `columns`. `problem_of` returns what is wrong with a row and what to do, or None.

        Raises:
            DataError: There is a bad row; the message has the first few and the number of all bad rows.
        """
        faults = RowFaults(self.unit)
        bad = partial(faults.add, "bad")
        try:
            for row in self.rows(columns, bad):
                if (found := problem_of(row)) is not None:
                    bad(row.line, *found)
                elif not faults.counts:
                    yield row
        except DataError as error:  # the file cannot be read beyond this point
            if not faults.counts:
                raise
            parts = (f"{error.position}: {error.problem}" if error.position else error.problem, error.hint)
            rest = "; ".join(filter(None, parts))
            raise self._bad_rows(faults, f"; after these, the file cannot be read further: {rest}") from error
        if faults.counts:
            raise self._bad_rows(faults, "")

    def _bad_rows(self, faults: RowFaults, end: str) -> DataError:
        """Return the error about the bad rows; for a single one, in the form of an error about a line."""
        n_bad = faults.counts.total()
        begin = "," if n_bad == 1 else f": {counted(n_bad, 'row')} cannot be used:"
        return DataError(f"{shown(self.path)}{begin} {faults.describe()}{end}")

    def _not_a_text(self, row: Row, columns: Sequence[int]) -> tuple[str, str] | None:
        """Return what is wrong with a row's texts in these columns and what to do; None for a good row."""
        bad = next(((i, v) for i, v in zip(columns, row.values, strict=True) if not isinstance(v, str) or not v), None)
        if bad is None:
            return None
        i, value = bad
        if not self.format.columns:
            return "empty text", "write a text there or remove the line"
        column = f"column {quoted(self.format.columns[i])}"
        remedy = f"fill it or remove the {self.unit}"
        if value == "":
            found = "an empty one"
        elif value is None or value is Missing.MISSING:
            found = "null" if value is None else "no such key"
        else:
            found = f"{type(value).__name__} {quoted(value, limit=40)}"
            remedy = "write texts there (in quotes) or name another column"
        return f"{column}: expected a text, found {found}", remedy

    def count_rows(self) -> int:
        """Return the number of rows without checking them, by one pass over the file or from Parquet's footer."""
        return FORMATS[self.format.kind].count(self)


def warn_of_blank(path: Path, blank: RowFaults) -> None:
    """Log how many rows of a file are blank, if any."""
    if n_blank := blank.counts["blank"]:
        logger.warning(
            "%s: %s with a text that is blank, so a model has nothing to read: %s",
            *(shown(path), counted(n_blank, "row"), blank.places("blank")),
        )


def open_table(
    path: str | os.PathLike[str], *, encoding: str | None = None, delimiter: str | None = None, kind: str | None = None
) -> Table:
    """Return the table in a file, whose format is found from its suffix and its beginning where it is not given.

    The cells of a .csv are quoted; its delimiter is the most frequent one of , ; tab | in the header. The cells of a
    .tsv are not quoted, unless a CSV writer must have written it: the header is quoted, or (in the first million
    characters) every quote is where such a writer puts it and some are needed. To decide this yourself, `kind="tsv"`
    reads quotes as characters, `kind="csv"` with `delimiter="tab"` as quotes. A .txt has one text per line, unless
    `kind` or `delimiter` says otherwise.

    Args:
        path: A regular file.
        encoding: The codec; None to use the byte order mark, else UTF-8.
        delimiter: One character, or comma, semicolon, tab or pipe.
        kind: lines, csv, tsv, jsonl or parquet; None to use the suffix.

    Raises:
        DataError: The file does not have the expected format; the message says what was found and what to do.
    """
    path = Path(path)
    head = first_bytes(path)
    chosen = _kind_of(path, kind, delimiter)
    options = FILE_KINDS[chosen]
    refuse_other_formats(path, head, chosen)
    if encoding is not None and not options.takes_encoding:
        raise fault(path, f"{chosen.capitalize()} knows its own encoding", hint="leave --encoding out")
    codec = find_encoding(path, head, encoding) if options.takes_encoding else ""
    found = FORMATS[chosen].find(path, codec, delimiter, kind is not None)
    if options.has_columns and not found.columns:
        raise fault(path, "has no columns; expected at least one of texts")
    return Table(path, found)


def _kind_of(path: Path, kind: str | None, delimiter: str | None) -> Kind:
    """Return the requested format, or the one that the suffix and the delimiter imply."""
    by_suffix = KIND_OF_SUFFIX.get(path.suffix.lower())
    if kind is None and by_suffix is None and delimiter is None:
        suffix, accepted = quoted(path.suffix), ", ".join(KIND_OF_SUFFIX)
        raise fault(path, f"cannot tell the format from the suffix {suffix}; expected {accepted}, or give --kind")
    if kind is not None and kind not in FILE_KINDS:
        raise fault(path, f"--kind {quoted(kind)} is not known; expected {', '.join(FILE_KINDS)}")
    found = next((known for known in FILE_KINDS if known == kind), by_suffix)
    if delimiter is None:
        assert found is not None
        return found
    character = DELIMITER_NAMES.get(delimiter, delimiter)
    if len(character) != 1 or character in '"\r\n\0':
        expected = "one character or comma, semicolon, tab, pipe"
        raise fault(path, f"--delimiter {quoted(delimiter)} cannot separate cells; expected {expected}")
    if kind is None and (found is None or found == "lines"):
        return "tsv" if character == "\t" else "csv"
    if found == "tsv" and character != "\t":
        problem = f"a tsv has tabs between cells, not {quoted(delimiter)}"
        raise fault(path, problem, hint="give --kind csv with --delimiter")
    assert found is not None
    if not FILE_KINDS[found].takes_delimiter:
        raise fault(path, f"a file of kind {found} has no delimiter", hint="leave --delimiter out or give --kind csv")
    return found
