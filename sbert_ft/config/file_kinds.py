"""The formats of files with texts: their names, suffixes and options. `data.file_formats` reads and writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Kind = Literal["lines", "csv", "tsv", "jsonl", "json", "parquet", "xlsx"]


@dataclass(frozen=True)
class FileKind:
    """One entry of `FILE_KINDS`.

    Attributes:
        holds: What a file is, for the documents.
        suffixes: Of file names, in lower case.
        has_columns: Whether a row may have several values; a file without columns has one text per line.
        takes_delimiter: Whether the character between cells can be chosen.
        takes_encoding: Whether the codec can be chosen.
        is_written: Whether commands write it too.
    """

    holds: str
    suffixes: tuple[str, ...]
    has_columns: bool = True
    takes_delimiter: bool = False
    takes_encoding: bool = True
    is_written: bool = True


FILE_KINDS: Final[Mapping[Kind, FileKind]] = MappingProxyType(
    {
        "lines": FileKind("one text a line", (".txt",), has_columns=False),
        "csv": FileKind("a header and rows, cells quoted where needed", (".csv",), takes_delimiter=True),
        "tsv": FileKind("a header and rows with tabs, quotes are characters", (".tsv",), takes_delimiter=True),
        "jsonl": FileKind("one JSON object a line", (".jsonl", ".ndjson", ".json")),
        "json": FileKind("an array of JSON objects, or an object with one under `data`; found by its content", ()),
        "parquet": FileKind("columns with types", (".parquet",), takes_encoding=False),
        "xlsx": FileKind(
            "the first sheet of an Excel workbook (needs openpyxl)", (".xlsx",), takes_encoding=False, is_written=False
        ),
    }
)
KIND_OF_SUFFIX: Final[Mapping[str, Kind]] = MappingProxyType(
    {suffix: name for name, kind in FILE_KINDS.items() for suffix in kind.suffixes}
)
WRITTEN_SUFFIXES: Final = tuple(suffix for suffix, name in KIND_OF_SUFFIX.items() if FILE_KINDS[name].is_written)
# Of those, which files of pairs and labels can be.
TABLE_KINDS: Final = tuple(name for name, kind in FILE_KINDS.items() if kind.has_columns)
