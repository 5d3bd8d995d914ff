"""The formats of files with texts: their names, suffixes and options. `data.file_formats` reads and writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Kind = Literal["lines", "csv", "tsv", "jsonl", "parquet"]


@dataclass(frozen=True)
class FileKind:
    """One entry of `FILE_KINDS`.

    Attributes:
        suffixes: Of file names, in lower case.
        has_columns: Whether a row may have several values; a file without columns has one text per line.
        takes_delimiter: Whether the character between cells can be chosen.
        takes_encoding: Whether the codec can be chosen.
    """

    suffixes: tuple[str, ...]
    has_columns: bool = True
    takes_delimiter: bool = False
    takes_encoding: bool = True


FILE_KINDS: Final[Mapping[Kind, FileKind]] = MappingProxyType(
    {
        "lines": FileKind((".txt",), has_columns=False),
        "csv": FileKind((".csv",), takes_delimiter=True),
        "tsv": FileKind((".tsv",), takes_delimiter=True),
        "jsonl": FileKind((".jsonl", ".ndjson", ".json")),
        "parquet": FileKind((".parquet",), takes_encoding=False),
    }
)
KIND_OF_SUFFIX: Final[Mapping[str, Kind]] = MappingProxyType(
    {suffix: name for name, kind in FILE_KINDS.items() for suffix in kind.suffixes}
)
# Of those, which files of pairs and labels can be.
TABLE_KINDS: Final = tuple(name for name, kind in FILE_KINDS.items() if kind.has_columns)
