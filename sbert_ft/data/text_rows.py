"""Single texts of one file, with their ids and other columns, as a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sbert_ft.data.formats import Missing, Row
from sbert_ft.data.ledger import RowFaults
from sbert_ft.data.table import Table, warn_of_blank
from sbert_ft.data.text import fault, is_blank
from sbert_ft.errors import DataError, quoted


@dataclass(frozen=True)
class TextRow:
    """A text of a file.

    Attributes:
        id: The value of the id column as a text; without one the row's number from 0.
        text: The text, never empty.
        line: Its line or row in the file, for messages.
        values: The values of the other columns that were asked for, as they are in the file.
    """

    id: str | int
    text: str
    line: int
    values: tuple[object, ...] = ()


class TextRows:
    """The texts of a table, which can be read any number of times.

    Attributes:
        table: The file.
        has_ids: Whether a column gives the ids.
        others: The names of the other columns that each row brings.
    """

    def __init__(
        self, table: Table, column: str | None = None, id_column: str | None = None, others: Sequence[str] = ()
    ) -> None:
        """Find the columns.

        Args:
            table: The file.
            column: The column with the texts; None for the only one with a usual name.
            id_column: The column with the ids, texts or whole numbers; None for row numbers from 0.
            others: Further columns to read.

        Raises:
            DataError: A column does not exist, or which one has the texts is not clear.
        """
        self.table, self.has_ids, self.others = table, id_column is not None, tuple(others)
        (text,) = table.text_columns(None if column is None else [column], 1)
        ids = [] if id_column is None else [table.column_index(id_column)]
        self._said_blank = False
        # the text is first, and a column may be asked for twice
        self._columns = (text, *ids, *map(table.column_index, others))

    def __iter__(self) -> Iterator[TextRow]:
        """Yield the rows; `DataError` for a text or id that is missing, empty or of another type, with its line.

        Blank texts give a warning, the first time that all rows are read.
        """
        blank = RowFaults(self.table.unit)
        places = tuple(dict.fromkeys(self._columns))
        place_of = [places.index(column) for column in self._columns]
        for number, row in enumerate(self.table.checked_rows(places, lambda row: self._problem(row, place_of))):
            text, *rest = (row.values[place] for place in place_of)
            key: str | int = str(rest.pop(0)) if self.has_ids else number
            if is_blank(str(text)):
                blank.add("blank", row.line, "")
            values = tuple(None if value is Missing.MISSING else value for value in rest)
            yield TextRow(key, str(text), row.line, values)
        if not self._said_blank:
            warn_of_blank(self.table.path, blank)
            self._said_blank = True

    def repeated(self, row: TextRow) -> DataError:
        """Return the error that this row's id is that of an earlier row."""
        name = quoted(self.table.format.columns[self._columns[1]])
        problem = f"column {name}: the id {quoted(row.id, limit=40)} is there twice"
        return fault(self.table.path, problem, row.line, self.table.unit, "give each row an id of its own")

    def _problem(self, row: Row, place_of: Sequence[int]) -> tuple[str, str] | None:
        text = row.values[place_of[0]]
        unit, columns = self.table.unit, self.table.format.columns
        if not isinstance(text, str) or not text:
            if not columns:
                return "empty text", "write a text there or remove the line"
            return f"column {quoted(columns[self._columns[0]])}: expected a text, found {_found(text)}", (
                f"fill it or remove the {unit}"
            )
        if self.has_ids:
            value = row.values[place_of[1]]
            if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
                name = quoted(columns[self._columns[1]])
                return f"column {name}: expected an id (a text or a whole number), found {_found(value)}", (
                    f"fill it or remove the {unit}"
                )
        return None


def _found(value: object) -> str:
    if value is None or value is Missing.MISSING:
        return "none"
    return "an empty one" if value == "" else f"{type(value).__name__} {quoted(value, limit=40)}"
