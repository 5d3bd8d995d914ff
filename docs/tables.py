"""Writes the tables of the documents that list what the code has, between marks, from the code's own tables.

`make docs` runs it. `tests/test_documents.py` fails where a document is not what this would write.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from sbert_ft.config.fields import KEYS
from sbert_ft.config.file_kinds import FILE_KINDS
from sbert_ft.config.objectives import OBJECTIVES, ObjectiveKind
from sbert_ft.data.columns import LABEL_NAMES, PAIR_NAMES, SIDE_NAMES, SINGLE_LABEL_NAMES, SINGLE_NAMES, TRIPLET_NAMES

DOCS: Final = Path(__file__).resolve().parent
_MARK: Final = "<!-- {name}: written by make docs -->\n"
_END: Final = "<!-- end -->\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of Markdown; a bar within a cell is escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line).rstrip() + " |\n" for line in lines)


def keys() -> str:
    """Return the table of a configuration's keys."""
    rows = (
        (
            f"`{key.path}`",
            "required" if key.required else f"`{json.dumps(key.default)}`",
            key.expected(),
            key.meaning,
        )
        for one in KEYS.values()
        for key in (one, *one.members)
    )
    return _table(("key", "default", "allowed values", "meaning"), rows)


def objectives() -> str:
    """Return the table of the objectives."""
    rows = ((f"`{name}`", kind.rows.takes, _loss(kind), _options(kind)) for name, kind in OBJECTIVES.items())
    return _table(("name", "rows", "loss", "options"), rows)


def _loss(kind: ObjectiveKind) -> str:
    """Return what a loss is and its source: the first two paragraphs of its docstring."""
    paragraphs = (inspect.getdoc(kind.make) or "").split("\n\n")
    return " ".join(" ".join(paragraphs[:2]).split())


def _options(kind: ObjectiveKind) -> str:
    """Return an objective's options, each with its default where that is a number."""
    return ", ".join(
        f"`{name}`" if value is None or value is False else f"`{name}` {value:g}"
        for name, value in kind.defaults.items()
    )


def formats() -> str:
    """Return the table of the formats of files with texts."""
    rows = (
        (
            f"`{name}`",
            ", ".join(f"`{suffix}`" for suffix in kind.suffixes),
            kind.holds,
            ", ".join(filter(None, ("encoding" * kind.takes_encoding, "delimiter" * kind.takes_delimiter))),
            "yes" if kind.is_written else "no",
        )
        for name, kind in FILE_KINDS.items()
    )
    return _table(("kind", "suffixes", "what it holds", "options", "written too"), rows)


def usual_names() -> str:
    """Return the table of the columns that are found by their names."""
    rows = (
        ("pairs", ", ".join("/".join(f"`{name}`" for name in names) for names in PAIR_NAMES)),
        ("triplets", ", ".join("/".join(f"`{name}`" for name in names) for names in TRIPLET_NAMES)),
        ("single texts", ", ".join(f"`{name}`" for name in SINGLE_NAMES)),
        ("single texts to encode, if none of these", ", ".join(f"`{name}`" for name in SIDE_NAMES)),
        ("labels", ", ".join(f"`{name}`" for name in LABEL_NAMES)),
        ("labels of single texts, if none of these", ", ".join(f"`{name}`" for name in SINGLE_LABEL_NAMES)),
    )
    return _table(("columns", "names"), rows)


TABLES: Final[tuple[tuple[str, Callable[[], str]], ...]] = (
    ("configuration.md", keys),
    ("training.md", objectives),
    ("data.md", formats),
    ("data.md", usual_names),
)


def with_tables(document: str, text: str) -> str:
    """Return a document's text with its tables as the code has them.

    Raises:
        ValueError: The marks of a table are missing.
    """
    for name, table in ((make.__name__, make()) for file, make in TABLES if file == document):
        begin = _MARK.format(name=name)
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(_END), re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"{document} does not have one table between {begin.strip()!r} and {_END.strip()!r}")
        text = pattern.sub(lambda _found, new=begin + table + _END: new, text)  # type: ignore[misc]
    return text


def main() -> None:
    """Write the tables of all documents."""
    for document in dict.fromkeys(file for file, _make in TABLES):
        path = DOCS / document
        path.write_text(with_tables(document, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
