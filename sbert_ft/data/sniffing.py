"""Find the format, encoding, delimiter, quoting and columns of a file of texts from its beginning.

Nothing is guessed: an unknown suffix, two equally likely delimiters or two columns with one name are a `DataError`,
because after a wrong guess, wrong texts would be read without notice. The result is one frozen `TableFormat`, which
is shown to the user in one line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sbert_ft.config.file_kinds import FILE_KINDS, KIND_OF_SUFFIX, Kind
from sbert_ft.data import formats
from sbert_ft.data.text import fault, text_lines, without_line_end
from sbert_ft.errors import DataError, quoted

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
        if FILE_KINDS[self.kind].takes_encoding:
            parts.append(self.encoding)
        if self.columns:
            parts.append("columns " + listed([quoted(name)[1:-1] for name in self.columns]))
        return ", ".join(parts)

    def delimiter_hint(self) -> str:
        """Return what to do where the name of the only column looks like several names, otherwise ""."""
        if not FILE_KINDS[self.kind].takes_delimiter or len(self.columns) != 1:
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


def kind_of(path: Path, kind: str | None, delimiter: str | None) -> Kind:
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
        raise fault(
            path, f"a tsv has tabs between cells, not {quoted(delimiter)}", hint="give --kind csv with --delimiter"
        )
    assert found is not None
    if not FILE_KINDS[found].takes_delimiter:
        raise fault(path, f"a file of kind {found} has no delimiter", hint="leave --delimiter out or give --kind csv")
    return found


def delimiter_of(path: Path, encoding: str, wanted: str | None) -> str:
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


def written_as_csv(path: Path, encoding: str) -> bool:
    """Return whether only a writer of quoted cells can have written this tab file (see `table.find_format`)."""
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
