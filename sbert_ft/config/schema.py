"""The JSON schema of a run and its commented start, generated from the dataclasses.

With the schema, an editor completes keys, shows what they mean and underlines what `config.loader` would refuse, as far
as a schema can express it: it has no rules between keys, and accepts 1.0 as a whole number. Aliases are patterns of
names, so they are accepted but not offered.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from typing import Any, Final

from sbert_ft.config.aliases import ALIASES, CONSTANT_WITH_WARMUP, FLAT, HALF_PRECISIONS, IGNORED
from sbert_ft.config.fields import KEYS, MOST_COUNT, SECTIONS, Key, keys_of, section_meaning
from sbert_ft.config.loader import MOST_OBJECTIVES
from sbert_ft.config.rules import LEFT_OUT
from sbert_ft.config.settings import RETRIEVAL_FILES

JsonSchema = dict[str, Any]

_NOT_BLANK: Final = r"\S"
_VALUES: Final[dict[str, JsonSchema]] = {
    "text": {"type": "string"},
    "int": {"type": "integer", "maximum": MOST_COUNT},
    "number": {"type": "number"},
    "truth": {"type": "boolean"},
    "texts": {"type": "array", "items": {"type": "string", "pattern": _NOT_BLANK}, "uniqueItems": True},
    "ints": {"type": "array", "items": {"type": "integer", "maximum": MOST_COUNT}},
    "numbers": {"type": "array", "items": {"type": "number"}},
    "ranks": {
        **{"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": MOST_COUNT}},
        **{"minItems": 2, "maxItems": 2},
    },
    "object": {"type": "object"},
    "interval": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    "labels": {"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 1},
    "prompts": {
        **{"type": ["string", "object"], "pattern": _NOT_BLANK, "minProperties": 1},
        "additionalProperties": {"type": "string", "pattern": _NOT_BLANK},
    },
    "retrieval": {
        "type": "object",
        "properties": {name: {"type": "string", "pattern": _NOT_BLANK} for name in RETRIEVAL_FILES},
        "required": list(RETRIEVAL_FILES),
        "additionalProperties": False,
    },
}
_HEAD: Final = """\
// A run of sbert-ft. Fill in the paths, then: sbert-ft train THIS_FILE
// Lines that begin with // are comments. Every key is here with its default, which it also has if it is left out.
// Relative paths start at the directory in which the command is run.
"""
_WIDTH: Final = 110
# Example values, which users replace by their own.
_EXAMPLES: Final = {
    "model.path": "bert-base-uncased/",
    "data.train": "train.csv",
    "data.dev": "dev.csv",
    "data.test": "test.csv",
    "objective.name": "cosine",
    "output_dir": "runs/first",
}


def json_schema() -> JsonSchema:
    """Return the schema (draft 2020-12) of a run's JSON object."""
    sections: JsonSchema = {name: _section(name) for name in SECTIONS}
    definition = {"anyOf": [_of_key(KEYS["objective.name"]), sections["objective"]]}
    one = {"$ref": "#/$defs/objective"}
    sections["objective"] = {
        "description": f"{sections['objective']['description']} {LEFT_OUT}",
        "anyOf": [one, {"type": "array", "items": one, "minItems": 1, "maxItems": MOST_OBJECTIVES}],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A run of sbert-ft",
        "type": "object",
        "properties": {IGNORED: {"type": "string"}, **sections, **{key.name: _of_key(key) for key in keys_of("")}},
        "patternProperties": _aliases(FLAT),
        "required": ["model", "data", "output_dir"],
        "additionalProperties": False,
        "$defs": {"objective": definition},
    }


def _section(name: str) -> JsonSchema:
    keys = keys_of(name)
    schema: JsonSchema = {
        "description": section_meaning(name),
        "type": "object",
        "properties": {key.name: _of_key(key) for key in keys},
        "additionalProperties": False,
    }
    if required := [key.name for key in keys if key.required]:
        schema["required"] = required
    if aliases := _aliases(alias for alias, path in ALIASES.items() if path.startswith(f"{name}.")):
        schema["patternProperties"] = aliases
    return schema


def _aliases(names: Iterable[str]) -> JsonSchema:
    """Return a pattern for each name, with the schema of the key that it means."""
    schemas: JsonSchema = {}
    for name in names:
        section, _, key = FLAT[name].partition(".")
        meant: JsonSchema = {"$ref": f"#/properties/{section}/properties/{key}"}
        if name == "warmup":
            share = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
            meant = {"anyOf": [_VALUES["int"] | {"minimum": 0}, share]}
        elif name in HALF_PRECISIONS:
            meant = {"type": "boolean"}
        elif FLAT[name] == "training.schedule":
            meant = {"anyOf": [meant, {"const": CONSTANT_WITH_WARMUP}]}
        schemas[f"^{name}$"] = meant
    return schemas


def _of_key(key: Key) -> JsonSchema:
    """Return the schema of a key's value, with its meaning and default for editors."""
    schema: JsonSchema = {"description": f"{key.meaning} Expected: {key.expected()}."}
    if not key.required:
        schema["default"] = list(key.default) if isinstance(key.default, tuple) else key.default
    bounds = {bound.keyword: end for bound, end in key.limits.bounds()}
    value = dict(_VALUES[key.kind])
    if key.kind in ("ints", "numbers"):
        value["items"] = value["items"] | bounds
    else:
        value |= bounds
    if key.nullable:
        value["type"] = [*([value["type"]] if isinstance(value["type"], str) else value["type"]), "null"]
    if key.limits.choices:
        value["enum"] = [*key.limits.choices, *([None] if key.nullable else [])]
    elif key.kind == "text":
        value["pattern"] = f"^({key.limits.pattern})$" if key.limits.pattern else _NOT_BLANK
    if key.of is not None:
        value |= {"properties": {member.name: _of_key(member) for member in key.members}, "additionalProperties": False}
    if key.kind in ("texts", "ints", "numbers"):
        value["minItems"], value["maxItems"] = key.limits.n_items
    return schema | value


def commented_start() -> str:
    """Return the text of a run's JSON with comments."""
    parts = [_start_section(name) for name in SECTIONS] + [_line(key, "  ") for key in keys_of("")]
    return _HEAD + "{\n" + ",\n\n".join(parts) + "\n}\n"


def _start_section(name: str) -> str:
    body = ",\n".join(_line(key, "    ") for key in keys_of(name))
    more = f" May be only a name, or an array of several, whose losses are added. {LEFT_OUT}"
    head = _comment(section_meaning(name) + (more if name == "objective" else ""), "  ")
    return f'{head}\n  "{name}": {{\n{body}\n  }}'


def _line(key: Key, indent: str) -> str:
    said = key.kind == "truth" or (key.kind == "text" and not key.limits.choices and not key.limits.pattern)
    meaning = key.meaning
    if key.of is not None:
        meaning += " Its keys: " + " ".join(
            f"{member.name} ({member.expected()}): {member.meaning}" for member in key.members
        )
        said = True
    comment = _comment(meaning if said else f"{meaning} Expected: {key.expected()}.", indent)
    return f'{comment}\n{indent}"{key.name}": {json.dumps(_EXAMPLES.get(key.path, key.default))}'


def _comment(text: str, indent: str) -> str:
    begin = f"{indent}// "
    return textwrap.fill(
        text, _WIDTH, initial_indent=begin, subsequent_indent=begin, break_long_words=False, break_on_hyphens=False
    )
