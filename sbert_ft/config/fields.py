"""Every key of a run's JSON, read from the dataclasses into a table: type, range, default, meaning, check of a value.

The JSON schema and the commented start are made from it too. Values are not converted: "16" is not 16, true is not 1
and 1.0 is not a whole number; but a whole number is accepted as any number.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from sbert_ft.config.faults import nearest, shown_value
from sbert_ft.config.limits import Limits
from sbert_ft.config.objectives import ObjectiveSettings, takers_of
from sbert_ft.config.settings import (
    RETRIEVAL_FILES,
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    Reading,
    RunSettings,
    TrainingSettings,
)
from sbert_ft.errors import enumerated, quoted

Kind = Literal[
    "text",
    "texts",
    "int",
    "ints",
    "number",
    "numbers",
    "truth",
    "interval",
    "ranks",
    "labels",
    "prompts",
    "retrieval",
    "object",
]

# No run has as many pairs, steps or tokens, so a larger whole number is a mistake.
MOST_COUNT: Final = 1_000_000_000

_KINDS: Final[dict[object, Kind]] = {
    str: "text",
    int: "int",
    float: "number",
    bool: "truth",
    tuple[str, ...]: "texts",
    tuple[float, float]: "interval",
    tuple[int, int]: "ranks",
    tuple[int, ...]: "ints",
    tuple[float, ...]: "numbers",
    Mapping[str, float]: "labels",
    frozenset({str, Mapping[str, str]}): "prompts",
    Mapping[str, str]: "retrieval",
}
SECTION_CLASSES: Final[Mapping[str, type]] = {
    "model": ModelSettings,
    "data": DataSettings,
    "objective": ObjectiveSettings,
    "training": TrainingSettings,
    "evaluation": EvaluationSettings,
}
SECTIONS: Final = tuple(SECTION_CLASSES)


@dataclass(frozen=True)
class Key:
    """One key and its allowed values; `section` is empty for the top level, and `meaning` is a sentence or two.

    The kind "ints" is an array of whole numbers, "numbers" one of any, "interval" two numbers, "ranks" two whole ones,
    "labels" an object from label to number, "prompts" a text or one by column, "retrieval" an object with the paths of
    three files, and "object" one of the class `of`, whose own keys are `members`.
    """

    section: str
    name: str
    kind: Kind
    nullable: bool
    required: bool
    default: object
    limits: Limits
    meaning: str
    of: type | None = None

    @cached_property
    def members(self) -> tuple[Key, ...]:
        """The keys of an object's own values; empty for every other kind."""
        return () if self.of is None else tuple(_keys(self.path, self.of))

    @property
    def path(self) -> str:
        """The full name, such as `training.learning_rate`."""
        return f"{self.section}.{self.name}" if self.section else self.name

    def expected(self) -> str:
        """Return the allowed values in words, such as "a number above 0 and at most 1, or null"."""
        words = f"an object with keys of {self.path}, {{...}}" if self.of else _words(self.kind, self.limits)
        return words + (", or null" if self.nullable else "")

    def fault(self, value: object) -> str | None:
        """Return what is wrong with a value, for a message; None if it is allowed."""
        if (value is None and self.nullable) or (self.of is None and _fits(self.kind, self.limits, value)):
            return None
        if self.of is not None and isinstance(value, Mapping):
            return self._fault_of_member(value)
        return f"expected {self.expected()}, found {shown_value(value)}{_remedy(self.kind, value)}"

    def _fault_of_member(self, value: Mapping[object, object]) -> str | None:
        """Return what is wrong with the first wrong value of an object; None if all are allowed."""
        names = [key.name for key in self.members]
        if unknown := [str(name) for name in value if name not in names]:
            return f"{quoted(unknown[0])} is an unknown key; {nearest(unknown[0], names, names)}"
        for key in self.members:
            if key.name not in value and key.required:
                return f"{key.name} is missing; expected {key.expected()}"
            if key.name in value and (fault := key.fault(value[key.name])) is not None:
                return f"{key.name}: {fault}"
        return None

    def to_python(self, value: Any) -> Any:
        """Return an allowed value as the dataclass stores it: floats for numbers, tuples for arrays."""
        if value is None or self.kind in ("text", "int", "truth", "prompts", "retrieval"):
            return value
        if self.of is not None:
            return self.of(**{key.name: key.to_python(value[key.name]) for key in self.members if key.name in value})
        if self.kind in ("ranks", "ints"):
            return tuple(value)
        if self.kind == "number":
            return float(value)
        if self.kind == "labels":
            return {label: float(number) for label, number in value.items()}
        return tuple(value) if self.kind == "texts" else tuple(map(float, value))


def _words(kind: Kind, limits: Limits) -> str:
    """Return in words what the values of this kind within the limits are."""
    if kind == "text":
        return f"one of {', '.join(limits.choices)}" if limits.choices else limits.words or "a text that is not blank"
    if kind == "texts":
        least, most = limits.n_items
        n_items = f"{least:,} {'or' if most == least + 1 else 'to'} {most:,}"
        return f"an array of {n_items} different texts that are not blank"
    if kind in ("ints", "numbers"):
        least, most = limits.n_items
        what = f"{'whole ' if kind == 'ints' else ''}numbers{limits.range_words()}"
        return f"an array of {least:,} to {most:,} {what}"
    if kind in ("int", "number"):
        return f"a {'whole ' if kind == 'int' else ''}number{limits.range_words()}"
    if kind == "truth":
        return "true or false"
    if kind in ("interval", "ranks"):
        return f"an array of two {'whole ' if kind == 'ranks' else ''}numbers, the lower first"
    if kind == "prompts":
        return "a text, or an object from column to text"
    if kind == "retrieval":
        return f"an object with the paths of three files, {enumerated(RETRIEVAL_FILES)}"
    return 'an object from label to number, such as {"entailment": 1, "contradiction": 0}'


def _fits(kind: Kind, limits: Limits, value: Any) -> bool:
    """Return whether a value is of the kind and within the limits."""
    if kind == "text":
        return _is_text(value) and limits.admits_text(value)
    if kind == "truth":
        return isinstance(value, bool)
    if kind == "int":
        is_whole = isinstance(value, int) and _is_number(value)
        return is_whole and limits.admits_number(value) and (limits.at_most is not None or value <= MOST_COUNT)
    if kind == "number":
        return _is_number(value) and limits.admits_number(value)
    if kind == "prompts":
        texts = [*value, *value.values()] if isinstance(value, Mapping) else [value]
        return bool(texts) and all(_is_text(text) and not text.isspace() for text in texts)
    if kind == "retrieval":
        is_whole = isinstance(value, Mapping) and set(value) == set(RETRIEVAL_FILES)
        return is_whole and all(_is_text(path) and not path.isspace() for path in value.values())
    if kind == "labels":
        is_object = isinstance(value, Mapping) and bool(value)
        return is_object and all(map(_is_text, value)) and all(map(_is_number, value.values()))
    if not isinstance(value, list | tuple):
        return False
    if kind in ("interval", "ranks"):
        are_numbers = len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]
        return are_numbers and (kind == "interval" or (all(isinstance(n, int) for n in value) and value[0] >= 0))
    in_range = limits.n_items[0] <= len(value) <= limits.n_items[1]
    if kind in ("ints", "numbers"):
        return in_range and all(_fits("int" if kind == "ints" else "number", limits, item) for item in value)
    return in_range and all(_is_text(text) and not text.isspace() for text in value) and len({*value}) == len(value)


def _is_text(value: object) -> bool:
    """Return whether a value is a text that is not empty and can be written: no NUL, no lone surrogate."""
    return isinstance(value, str) and re.search("[\0\ud800-\udfff]", value) is None and bool(value)


def _is_number(value: object) -> bool:
    """Return whether a value is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # a whole number beyond 1e308
        return False


def _remedy(kind: Kind, value: object) -> str:
    """Return how to correct a value of the wrong kind if the mistake is a usual one, else ""."""
    if kind in ("int", "number", "truth") and isinstance(value, str):
        wanted = r"true|false" if kind == "truth" else r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?"
        return " (a text: write it without quotes)" if re.fullmatch(wanted, value) else " (a text)"
    if kind == "int" and isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f" (write {int(value)})"
    if kind == "int" and isinstance(value, int) and not isinstance(value, bool) and value > MOST_COUNT:
        return " (more than any run has)"
    if kind == "text" and isinstance(value, int | float) and not isinstance(value, bool):
        return " (a number: write it in quotes)"
    return ""


def _meanings(of: type) -> dict[str, str]:
    """Return the docstring text of each attribute of a class; empty if docstrings are stripped (-OO)."""
    _, _, attributes = (of.__doc__ or "").partition("Attributes:")
    found = re.findall(r"^ {8}(\w+): (.*(?:\n {9,}.*)*)", attributes, re.MULTILINE)
    return {name: " ".join(text.split()).replace("None", "null") for name, text in found}


def section_meaning(section: str) -> str:
    """Return a section's description; empty if docstrings are stripped (-OO)."""
    classes = (SECTION_CLASSES[section], *((Reading,) if section == "data" else ()))
    return " ".join((of.__doc__ or "").partition("\n")[0] for of in classes).strip().replace("None", "null")


def _keys(section: str, of: Any) -> Iterator[Key]:
    """Yield the keys of a section, one for each field of its class; the fields of `Reading` are in "data" itself."""
    meanings, hints = _meanings(of), get_type_hints(of)
    for field in fields(of):
        if field.name == "reading":
            yield from _keys(section, Reading)
        if field.name in (*SECTIONS, "reading"):
            continue
        meaning, hint = meanings.get(field.name, ""), hints[field.name]
        limits = field.metadata.get("limits", Limits())
        if section == "objective" and meaning and (takers := takers_of(field.name)):
            meaning = f"{enumerated(takers)}: {meaning}"
        of_class = next((one for one in (*get_args(hint), hint) if is_dataclass(one)), None)
        members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        some = frozenset(member for member in members if member is not type(None))
        bare: object = next(iter(some)) if len(some) == 1 else some
        if get_origin(bare) is Literal:
            limits, bare = Limits(choices=get_args(bare)), str
        # An objective's object must have a name; the default of the dataclass is for runs without an objective.
        required = field.default is MISSING or (section, field.name) == ("objective", "name")
        default = None if required else field.default
        kind: Kind = "object" if isinstance(of_class, type) else _KINDS[bare]
        of_object = of_class if isinstance(of_class, type) else None
        yield Key(section, field.name, kind, type(None) in members, required, default, limits, meaning, of_object)


KEYS: Final[Mapping[str, Key]] = types.MappingProxyType(
    {key.path: key for name, of in (*SECTION_CLASSES.items(), ("", RunSettings)) for key in _keys(name, of)}
)


def keys_of(section: str) -> list[Key]:
    """Return the keys of a section, in their order; those at the top level for ""."""
    return [key for key in KEYS.values() if key.section == section]
