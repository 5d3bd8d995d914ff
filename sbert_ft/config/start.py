"""A run's JSON to begin with: every key with what it means, what it may be and its default.

It is generated from the same statements as the check and the schema, so it runs as it is once the paths are filled in.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Final

from sbert_ft.config.keys import KEYS, SECTIONS, Key, section_meaning
from sbert_ft.config.rules import LEFT_OUT

_HEAD: Final = """\
// A run of sbert-ft. Fill in the paths, then: sbert-ft train THIS_FILE
// Lines that begin with // are comments. Every key is here with its default; a key that is left out has the same.
// Relative paths start at the directory in which the command is run.
"""
_WIDTH: Final = 110
# Paths that a user has to put their own in the place of.
_EXAMPLES: Final = {
    "model.path": "bert-base-uncased/",
    "data.train": "train.csv",
    "data.dev": "dev.csv",
    "data.test": "test.csv",
    "objective.name": "cosine",
    "output_dir": "runs/first",
}


def commented_start() -> str:
    """Return the text of a run's JSON with comments."""
    parts = [_section(name) for name in SECTIONS]
    parts.append("\n".join(_lines(KEYS["output_dir"], "  ")))
    return _HEAD + "{\n" + ",\n\n".join(parts) + "\n}\n"


def _section(name: str) -> str:
    keys = [key for key in KEYS.values() if key.section == name]
    body = ",\n".join("\n".join(_lines(key, "    ")) for key in keys)
    more = f" A name alone will do, or an array of several, whose losses are added. {LEFT_OUT}"
    more = more if name == "objective" else ""
    head = "\n".join(_comment(section_meaning(name) + more, "  "))
    return f'{head}\n  "{name}": {{\n{body}\n  }}'


def _lines(key: Key, indent: str) -> Iterator[str]:
    """Yield the comment and the line of a key."""
    said = key.kind == "truth" or (key.kind == "text" and not key.limits.choices and not key.limits.pattern)
    yield from _comment(key.meaning if said else f"{key.meaning} Expected: {key.expected()}.", indent)
    value = json.dumps(_EXAMPLES.get(key.path, key.default))
    yield f'{indent}"{key.name}": {value}'


def _comment(text: str, indent: str) -> list[str]:
    begin = f"{indent}// "
    return textwrap.wrap(
        text, _WIDTH, initial_indent=begin, subsequent_indent=begin, break_long_words=False, break_on_hyphens=False
    )
