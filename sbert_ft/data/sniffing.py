"""Find the format, encoding, delimiter, quoting and columns of a file of texts from its beginning.

Nothing is guessed: an unknown suffix, two equally likely delimiters or two columns with one name are a `DataError`,
because after a wrong guess, wrong texts would be read without notice. The result is one frozen `TableFormat`, which
is shown to the user in one line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from sbert_ft.data import formats
from sbert_ft.data.text import fault, find_encoding, first_bytes, refuse_other_formats, text_lines, without_line_end
from sbert_ft.errors import DataError, quoted

Kind = Literal["lines", "csv", "tsv", "jsonl", "parquet"]
KIND_OF_SUFFIX: Final[dict[str, Kind]] = {
    ".txt": "lines",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
DELIMITER_NAMES: Final = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|"}
_PROOF_CHARS = 1 << 20  # how much of a tab file is searched for proof that its cells are quoted
_SHOWN_COLUMNS = 20


@dataclass(frozen=True)
class TableFormat:
    """The format of a file of texts.

    Attributes:
        kind: The format; "lines" is one text per line.
        encoding: The codec, as given or found ("utf-8", "utf-8-sig", "utf-16").
        delimiter: The character between cells; None for formats without cells.
        quoting: True where cells are quoted as in CSV, False where quotes are ordinary characters, None without cells.
        columns: Names in the order of the file; empty for lines, the first object's keys for JSON lines.
    """

    kind: Kind
    encoding: str
    delimiter: str | None
    quoting: bool | None
    columns: tuple[str, ...]

    def describe(self) -> str:
        """Return one line for the user, such as "csv, comma, quoted, utf-8, columns a, b"."""
        parts: list[str] = [self.kind]
        if self.delimiter is not None:
            parts.append(delimiter_name(self.delimiter))
            parts.append("quoted" if self.quoting else "unquoted")
        if self.kind != "parquet":
            parts.append(self.encoding)
        if self.columns:
            parts.append("columns " + listed([quoted(name)[1:-1] for name in self.columns]))
        return ", ".join(parts)

    def delimiter_hint(self) -> str:
        """Return what to do where the name of the only column looks like several names, otherwise ""."""
        if self.kind not in ("csv", "tsv") or len(self.columns) != 1:
            return ""
        count, found = max((self.columns[0].count(character), character) for character in ",;\t|")
        if not count:
            return ""
        kind = "--kind csv (data.kind) with " if self.kind == "tsv" else ""
        name = delimiter_name(found)
        return f"; cells look separated by {name}: give {kind}--delimiter {name} (data.delimiter)"


def delimiter_name(delimiter: str) -> str:
    """Return the name of a delimiter, such as "comma"; a character without a name in quotes."""
    return next((name for name, character in DELIMITER_NAMES.items() if character == delimiter), quoted(delimiter))


def listed(names: Sequence[str]) -> str:
    """Return the first names, separated by commas, and the number of the others."""
    shown = ", ".join(names[:_SHOWN_COLUMNS])
    return shown if len(names) <= _SHOWN_COLUMNS else f"{shown} and {len(names) - _SHOWN_COLUMNS:,} more"


def find_format(path: Path, encoding: str | None, delimiter: str | None, kind: str | None) -> TableFormat:
    """Return the format of a file, found out from its suffix and its beginning where it is not given.

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
    head = first_bytes(path)
    found_kind = _kind(path, kind, delimiter)
    refuse_other_formats(path, head, found_kind)
    if found_kind == "parquet":
        if encoding is not None:
            raise fault(path, "Parquet knows its own encoding", hint="leave --encoding out")
        with formats.open_parquet(path) as file:
            names = tuple(str(name) for name in file.schema_arrow.names)
        return _checked(path, TableFormat("parquet", "utf-8", None, None, names))
    codec = find_encoding(path, head, encoding)
    if found_kind == "lines":
        next(text_lines(path, codec), None)  # to find a wrong encoding early, where it shows in the first line
        return TableFormat("lines", codec, None, None, ())
    if found_kind == "jsonl":
        first = next(formats.json_records(path, codec), None)
        if first is None:
            raise fault(path, "holds only blank lines; expected one JSON object a line")
        return _checked(path, TableFormat("jsonl", codec, None, None, tuple(first.values)))
    separator = "\t" if found_kind == "tsv" else _delimiter(path, codec, delimiter)
    quoting = found_kind == "csv" or (kind is None and _written_as_csv(path, codec))
    header = next(formats.cell_records(path, codec, separator, quoting), None)
    if header is None:
        raise fault(path, "holds only empty lines; expected a header and rows")
    if re.search("\r(?!\n)", without_line_end(header.raw)):
        raise fault(path, "a lone carriage return in the header: lines must end with \\n or \\r\\n", header.line)
    return _checked(path, TableFormat(found_kind, codec, separator, quoting, tuple(header.cells)))


def _kind(path: Path, kind: str | None, delimiter: str | None) -> Kind:
    """Return the requested format, or the one that the suffix and the delimiter imply."""
    by_suffix = KIND_OF_SUFFIX.get(path.suffix.lower())
    if kind is None and by_suffix is None and delimiter is None:
        suffix, accepted = quoted(path.suffix), ", ".join(KIND_OF_SUFFIX)
        raise fault(path, f"cannot tell the format from the suffix {suffix}; expected {accepted}, or give --kind")
    if kind is not None and kind not in get_args(Kind):
        raise fault(path, f"--kind {quoted(kind)} is not known; expected {', '.join(get_args(Kind))}")
    found = next((known for known in get_args(Kind) if known == kind), by_suffix)
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
        raise fault(
            path, f"a tsv has tabs between cells, not {quoted(delimiter)}", hint="give --kind csv with --delimiter"
        )
    if found not in ("csv", "tsv"):
        raise fault(path, f"a file of kind {found} has no delimiter", hint="leave --delimiter out or give --kind csv")
    return found


def _delimiter(path: Path, encoding: str, wanted: str | None) -> str:
    """Return the wanted delimiter, or the most frequent one in the first line outside quotes (comma if none)."""
    if wanted is not None:
        return DELIMITER_NAMES.get(wanted, wanted)
    lines = (line for _, line in text_lines(path, encoding) if without_line_end(line))
    outside_quotes = "".join(next(lines, "").split('"')[::2])
    counts = Counter(character for character in outside_quotes if character in ",;\t|").most_common(2)
    if len(counts) == 2 and counts[0][1] == counts[1][1]:
        both = " and ".join(delimiter_name(character) for character, _ in counts)
        raise fault(
            path, f"the first line has as many of {both}", hint="say which one separates cells with --delimiter"
        )
    return counts[0][0] if counts else ","


def _written_as_csv(path: Path, encoding: str) -> bool:
    """Return whether only a writer of quoted cells can have written this tab file (see `find_format`)."""
    lines = text_lines(path, encoding)
    useful, n_chars, n_columns = False, 0, 0
    try:
        for record in formats.quoted_records(path, lines, "\t"):
            raw = without_line_end(record.raw)
            if n_columns == 0 and raw == formats.joined_cells(record.cells, "\t", always=True):
                return True
            n_columns = n_columns or len(record.cells)
            minimal = formats.joined_cells(record.cells, "\t")
            if len(record.cells) != n_columns or raw != minimal:
                return False
            useful = useful or '"' in raw
            n_chars += len(raw)
            if n_chars > _PROOF_CHARS:
                break
    except DataError:  # an open quote, or text after a closed one: these quotes do not quote cells
        return False
    return useful


def _checked(path: Path, found: TableFormat) -> TableFormat:
    """Return the format after checking that it has columns with different names."""
    if not found.columns:
        raise fault(path, "has no columns; expected at least one of texts")
    name, count = Counter(found.columns).most_common(1)[0]
    if count > 1:
        raise fault(path, f"{count} columns are called {quoted(name)}", hint="give each a name of its own")
    return found
