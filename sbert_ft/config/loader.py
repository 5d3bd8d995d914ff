"""Reads a run's JSON to checked, frozen settings and writes it back, with every fault in one message.

Keys are first mapped to their paths (`config.aliases`) and overrides replace values. Then each value is checked against
its key (`config.fields`) and against the other values (`config.rules`). Settings are made only if nothing is wrong.
Relative paths stay as they are: as for every shell tool, they start at the current directory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Integral, Number, Real
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from sbert_ft.config.aliases import MOST_UNKNOWN, Given, GivenKeys, given_in, joined, path_of, unknown
from sbert_ft.config.faults import Fault, nearest, refuse, shown_value
from sbert_ft.config.fields import KEYS, SECTION_CLASSES, SECTIONS, keys_of
from sbert_ft.config.jsonc import parse_json, read_json_object, refuse_depth
from sbert_ft.config.objectives import ObjectiveSettings
from sbert_ft.config.rules import broken_rules, broken_rules_of_objective, default_objective
from sbert_ft.config.settings import ModelSettings, Reading, RunSettings
from sbert_ft.errors import ConfigError, quoted

MOST_OBJECTIVES: Final = 8
_WHERE_PYTHON = "the settings"
# The sections that are one object of a class.
_PLAIN: Final = {name: of for name, of in SECTION_CLASSES.items() if name != "objective"}


def read_run(
    path: str | Path, overrides: Sequence[str] = (), defaults: Mapping[str, object] = MappingProxyType({})
) -> RunSettings:
    """Return the settings in a run's JSON file.

    Args:
        path: The file, in which whole lines of // are comments.
        overrides: Values that replace those of the file, such as `training.learning_rate=3e-5`: the value is JSON, or
            else a text without quotes. Of the same key the last one is kept.
        defaults: Values by path of keys that are neither in the file nor replaced, where they differ from the usual.

    Raises:
        ConfigError: The file cannot be read, or anything in it is wrong; all faults are in the message.
    """
    return _settings(read_json_object(path), overrides, quoted(path, limit=400), defaults)


def run_from_json(value: Mapping[str, object], where: str, overrides: Sequence[str] = ()) -> RunSettings:
    """Return the settings in the object of a run's JSON, which messages call `where`; the rest as in `read_run`."""
    refuse_depth(value, where)
    return _settings(value, overrides, where)


def run_to_json(settings: RunSettings) -> dict[str, Any]:
    """Return the resolved configuration: every key with its value; reading it gives equal settings."""
    value: Any = _plain(settings)
    value["data"] |= value["data"].pop("reading")
    return {name: value[name] for name in (*SECTIONS, *(key.name for key in keys_of("")))}


def check_settings(settings: RunSettings) -> RunSettings:
    """Return settings made in Python, with numpy's numbers as Python's; checks and errors as in `read_run`."""
    refuse(_WHERE_PYTHON, [*_wrong_parts(settings)])
    return run_from_json(run_to_json(settings), _WHERE_PYTHON)


def _wrong_parts(settings: RunSettings) -> Iterator[Fault]:
    """Yield a fault for each part of a wrong class, such as a dict instead of a section."""
    of_objective = settings.objective if isinstance(settings.objective, tuple) else ()
    parts: list[tuple[str, object, type]] = [(name, getattr(settings, name), of) for name, of in _PLAIN.items()]
    parts.append(("objective", settings.objective, tuple))
    parts.append(("data.reading", getattr(settings.data, "reading", Reading()), Reading))
    parts += [(f"objective.{i}", item, ObjectiveSettings) for i, item in enumerate(of_objective)]
    for path, part, of in parts:
        if not isinstance(part, of):
            yield Fault(path, f"expected {of.__name__}, found {type(part).__name__}")


def _plain(value: object) -> object:
    """Return a value of settings as JSON has it; other values are unchanged, and refused later by their key."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Number) and not isinstance(value, bool):  # numpy's too, which JSON cannot write
        return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value
    return value


def _settings(
    value: Mapping[str, object],
    overrides: Sequence[str],
    where: str,
    defaults: Mapping[str, object] = MappingProxyType({}),
) -> RunSettings:
    given = given_in(value)
    faults = given.faults
    given.by_path = {path: Given(default, path) for path, default in defaults.items()} | given.by_path
    _override(given, overrides)
    objective = _objective_in(given)
    sections = {section: _checked(section, section, given.by_path, faults) for section in (*_PLAIN, "")}
    n_before = len(faults)
    objectives = _objectives(objective, faults)
    by_path = {joined(section, name): value for section, of in sections.items() for name, value in of.items()}
    faults += broken_rules(by_path, objectives if len(faults) == n_before else ())
    refuse(where, faults)
    data = sections["data"]
    data["reading"] = Reading(**{field.name: data.pop(field.name) for field in fields(Reading)})
    parts = {section: of(**sections[section]) for section, of in _PLAIN.items()}
    return RunSettings(**parts, **sections[""], objective=objectives)


def _checked(section: str, at: str, given: Mapping[str, Given], faults: list[Fault]) -> dict[str, Any]:
    """Return a section's values by name, defaults included, and add faults; `given` and messages call it `at`."""
    values: dict[str, Any] = {}
    for key in keys_of(section):
        path = joined(at, key.name)
        if path not in given and key.required:
            faults.append(Fault(path, f"is missing; expected {key.expected()}"))
        elif path not in given:
            values[key.name] = key.default
        elif (fault := key.fault(given[path].value)) is None:
            values[key.name] = key.to_python(given[path].value)
        else:
            written = given[path].written
            shown = (
                path
                if written == path or written.startswith(f"--set {path}")
                else f"{path} (given as {quoted(written)})"
            )
            faults.append(Fault(shown, fault))
    return values


def _override(given: GivenKeys, overrides: Sequence[str]) -> None:
    later, of_objective, of_objects = GivenKeys(), list[tuple[str, object]](), list[tuple[str, str, object]]()
    for override in overrides:
        written, equals, text = override.partition("=")
        first, dot, rest = written.strip().partition(".")
        section, name = (first, rest) if dot else ("", first)
        if not equals:
            expected = "expected KEY=VALUE, such as training.learning_rate=3e-5"
            given.faults.append(Fault(f"--set {quoted(override)}", expected))
        elif first == "objective":
            of_objective.append((rest, _json_or_text(text)))
        elif (home := joined(section, name).rpartition(".")[0]) in KEYS and KEYS[home].of is not None:
            of_objects.append((home, joined(section, name).removeprefix(f"{home}."), _json_or_text(text)))
        elif (path := path_of(section, name)) is not None:
            one = GivenKeys(faults=later.faults)
            one.place(path, Given(_json_or_text(text), f"--set {joined(section, name)}"))
            later.by_path |= one.by_path  # of the same key the last one is kept
        else:
            given.faults.append(_unknown_override(section, name))
    later.place_halves()
    given.faults += later.faults
    steps = given.by_path.get("training.warmup_steps", Given(None, "")).value
    if "training.warmup_ratio" in later.by_path and "training.warmup_steps" not in later.by_path and steps is not None:
        found = f"has no effect beside training.warmup_steps, {shown_value(steps)}"
        given.faults.append(Fault("training.warmup_ratio", f"{found}; add --set training.warmup_steps=null"))
    given.by_path |= later.by_path
    for home, member, value in of_objects:
        before = given.by_path.get(home, Given(None, "")).value
        if before is None or isinstance(before, Mapping):  # anything else is refused later
            given.by_path[home] = Given({**(before or {}), member: value}, f"--set {home}.{member}")
    for name, value in of_objective:  # last, because the default objective depends on the kind of model
        _override_objective(given, name, value)


def _objective_in(given: GivenKeys) -> object:
    """Return the given objective, or the default one of the given kind of model."""
    kind = given.by_path.get("model.kind", Given(ModelSettings.kind, "")).value
    return given.by_path.get("objective", Given(default_objective(kind), "")).value


def _override_objective(given: GivenKeys, name: str, value: object) -> None:
    """Replace the objective (name ""), an option of it ("scale"), or one of several objectives ("0.scale")."""
    if not name:
        given.by_path["objective"] = Given(value, "--set objective")
        return
    before = _objective_in(given)
    objectives = list(before) if isinstance(before, list | tuple) else [before]
    number, dot, option = name.rpartition(".")
    at = number if dot else "0" if len(objectives) == 1 else ""
    if at not in map(str, range(len(objectives))):
        expected = f"expected the number of one of {len(objectives)}, such as objective.0.scale"
        given.faults.append(Fault(f"--set objective.{quoted(name)[1:-1]}", expected))
        return
    chosen = objectives[int(at)]
    chosen = {"name": chosen} if isinstance(chosen, str) else chosen
    if isinstance(chosen, Mapping):  # anything else is refused later as an objective
        objectives[int(at)] = {**chosen, option: value}
        one = isinstance(before, str | Mapping)
        given.by_path["objective"] = Given(objectives[0] if one else objectives, "objective")


def _json_or_text(text: str) -> object:
    try:
        return parse_json(text, "")
    except ConfigError:
        return text


def _unknown_override(section: str, name: str) -> Fault:
    if not section and name in SECTIONS:
        return Fault(f"--set {name}", f"expected one of its keys, such as {keys_of(name)[0].path}")
    whole, dot, _ = name.partition(".")
    if dot and (path := path_of(section, whole)) is not None:
        return Fault(f"--set {path}", "is set as a whole, as JSON; it has no keys of its own")
    return unknown(section, name)


def _objectives(value: object, faults: list[Fault]) -> tuple[ObjectiveSettings, ...]:
    if not isinstance(value, list | tuple):
        return tuple(_objective("objective", value, faults))
    if not 1 <= len(value) <= MOST_OBJECTIVES:
        expected = f"a name, an object, or an array of 1 to {MOST_OBJECTIVES} of these"
        faults.append(Fault("objective", f"expected {expected}, found {shown_value(value)}"))
        return ()
    return tuple(found for i, item in enumerate(value) for found in _objective(f"objective.{i}", item, faults))


def _objective(path: str, value: object, faults: list[Fault]) -> list[ObjectiveSettings]:
    """Return a list with one objective, empty if it has a fault."""
    if isinstance(value, str):
        if (fault := KEYS["objective.name"].fault(value)) is not None:
            faults.append(Fault(path, fault))
            return []
        return [ObjectiveSettings(value)]
    if not isinstance(value, Mapping):
        faults.append(Fault(path, f'expected a name or an object, {{"name": ...}}, found {shown_value(value)}'))
        return []
    found, names = list[Fault](), [key.name for key in keys_of("objective")]
    given = {f"{path}.{name}": Given(item, f"{path}.{name}") for name, item in value.items()}
    values = _checked("objective", path, given, found)
    unknown_names = [str(name) for name in value if name not in names]
    for name in unknown_names[:MOST_UNKNOWN]:
        found.append(Fault(f"{path}.{quoted(name)[1:-1]}", f"unknown key; {nearest(name, names, names)}"))
    if (n_more := len(unknown_names) - MOST_UNKNOWN) > 0:
        found.append(Fault(path, f"and {n_more} more unknown keys"))
    found += broken_rules_of_objective(path, values)
    faults += found
    return [] if found else [ObjectiveSettings(**values)]
