"""Maps keys as they are written, aliases included, to the paths of the known keys.

A run's JSON is nested by sections. The short keys of tutorials (lr, n_epochs) and the arguments of transformers'
trainer are flat. So an alias is accepted at the top level and in its section, and a key of "training" also at the top
level. The result is one flat mapping from path to value. A key that is given twice with different values is a fault.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from sbert_ft.config.faults import Fault, nearest, shown_value
from sbert_ft.config.fields import KEYS, SECTIONS, keys_of
from sbert_ft.errors import quoted

ALIASES: Final[Mapping[str, str]] = {
    "lr": "training.learning_rate",
    "n_epochs": "training.epochs",
    "num_train_epochs": "training.epochs",
    "train_batch_size": "training.batch_size",
    "per_device_train_batch_size": "training.batch_size",
    "total_steps": "training.max_steps",
    "gradient_accumulation_steps": "training.accumulation_steps",
    "lr_scheduler_type": "training.schedule",
    "max_len": "model.max_seq_length",
    "max_length": "model.max_seq_length",
    "classifier_dropout": "model.head_dropout",
    # These paths are not keys: the value determines the key, or the value, that is meant.
    "warmup": "training.warmup",
    "fp16": "training.fp16",
    "bf16": "training.bf16",
}
HALF_PRECISIONS: Final[Mapping[str, str]] = {"fp16": "float16", "bf16": "bfloat16"}
# Names accepted at the top level, with the key that each means.
FLAT: Final[Mapping[str, str]] = {
    **{key.name: key.path for key in KEYS.values() if key.section == "training"},
    "max_seq_length": "model.max_seq_length",
    **ALIASES,
}
# What transformers calls our "constant"; its own "constant" has no warm-up.
CONSTANT_WITH_WARMUP: Final = "constant_with_warmup"
# Keys of other libraries whose values are detected here, with what to do instead.
_FOUND_OUT: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("num_labels", "num_classes", "n_classes", "id2label", "label2id"),
        "classes are found from the labels in data.train; leave it out, or list them in their order as data.classes",
    ),
    "problem_type": "follows from objective, softmax for classes and binary_cross_entropy for a graded score "
    "(multi-label classification is out of scope); leave it out",
}
# Tells an editor where the schema is; ignored.
IGNORED: Final = "$schema"
MOST_UNKNOWN: Final = 20  # shown in a message; a search for the nearest name takes a millisecond


@dataclass(frozen=True)
class Given:
    """A value in the JSON, and its key as it was written, such as `lr`, or `--set lr`."""

    value: object
    written: str


@dataclass
class GivenKeys:
    """The values given so far, by the path of their key ("objective" is one of them), and the faults found."""

    by_path: dict[str, Given] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def place(self, path: str, given: Given) -> None:
        """Add a value under the path of the key that it gives; `place_halves` follows the last one."""
        name = path.partition(".")[2]
        if name in HALF_PRECISIONS:
            if not isinstance(given.value, bool):
                self.faults.append(Fault(given.written, f"expected true or false, found {shown_value(given.value)}"))
            elif self.by_path.setdefault(path, given).value != given.value:
                self.faults.append(Fault(given.written, "is given twice, once true and once false; keep one of them"))
        elif path != ALIASES["warmup"]:
            if name == "schedule" and given.value == CONSTANT_WITH_WARMUP:
                given = Given("constant", given.written)
            self._add(path, given)
        elif isinstance(given.value, int) and not isinstance(given.value, bool):
            self._add("training.warmup_steps", given)
        elif isinstance(given.value, float) and 0 <= given.value < 1:
            # A number of steps overrides the ratio, so one given elsewhere must be reset.
            self._add("training.warmup_ratio", given)
            self._add("training.warmup_steps", Given(None, given.written))
        else:
            expected = "expected a whole number of steps, or a share of them of at least 0 and below 1"
            self.faults.append(Fault(given.written, f"{expected}, found {shown_value(given.value)}"))

    def place_halves(self) -> None:
        """Replace fp16 and bf16 by the precision that they give together: float32 if none of those given is true."""
        paths = {name: f"training.{name}" for name in HALF_PRECISIONS}
        halves = {name: self.by_path.pop(path) for name, path in paths.items() if path in self.by_path}
        chosen = [name for name, given in halves.items() if given.value]
        if len(chosen) > 1:
            self.faults.append(Fault("training.precision", "fp16 and bf16 are both true; keep one of them"))
        elif halves and (chosen or "training.precision" not in self.by_path):
            written = " and ".join(given.written for given in halves.values())
            precision = HALF_PRECISIONS[chosen[0]] if chosen else "float32"
            self._add("training.precision", Given(precision, written))
        for name, given in halves.items():
            half = HALF_PRECISIONS[name]
            if not chosen and self.by_path["training.precision"].value == half:
                self.faults.append(Fault("training.precision", f"is {half}, but {given.written} is false"))

    def _add(self, path: str, given: Given) -> None:
        """Add a value, or a fault if its key has a different value already."""
        before = self.by_path.setdefault(path, given)
        if before is given:
            return
        if before.value != given.value or isinstance(before.value, bool) != isinstance(given.value, bool):
            one, other = (f"{shown_value(item.value)} as {quoted(item.written)}" for item in (before, given))
            self.faults.append(Fault(path, f"is given twice, {one} and {other}; keep one of them"))


def given_in(value: Mapping[str, object]) -> GivenKeys:
    """Return the values in the object of a run's JSON."""
    keys, unknown_keys = GivenKeys(), []
    for section, name, item in _entries(value, keys.faults):
        if (path := path_of(section, name)) is None:
            unknown_keys.append((section, name))
        else:
            keys.place(path, Given(item, joined(section, name)))
    keys.faults += [unknown(section, name) for section, name in unknown_keys[:MOST_UNKNOWN]]
    if (n_more := len(unknown_keys) - MOST_UNKNOWN) > 0:
        keys.faults.append(Fault("", f"and {n_more} more unknown keys"))
    keys.place_halves()
    return keys


def path_of(section: str, name: str) -> str | None:
    """Return the path that a key or alias means, as `training.epochs` for "n_epochs"; None for an unknown one."""
    if "." in name or section == "objective":  # a full path at the top level, or an objective's number
        return None
    if (path := joined(section, name)) in KEYS or path == "objective":
        return path
    meant = FLAT.get(name)
    return meant if meant is not None and section in ("", meant.partition(".")[0]) else None


def unknown(section: str, name: str) -> Fault:
    """Return the fault of an unknown key, with the nearest known key or what to do instead."""
    shown = quoted(joined(section, name))[1:-1]
    if "." in name and name in KEYS:
        home, _, bare = name.partition(".")
        return Fault(shown, f"unknown key; write {quoted(bare)} inside of {quoted(home)}")
    if name in _FOUND_OUT:
        return Fault(shown, _FOUND_OUT[name])
    elsewhere = [key.path for key in KEYS.values() if key.name == name and key.section not in (section, "objective")]
    if elsewhere:
        return Fault(shown, f"unknown key; did you mean {quoted(elsewhere[0])}?")
    here = [*([] if section else SECTIONS), *(key.name for key in keys_of(section))]
    flat = [other for other, path in FLAT.items() if section in ("", path.partition(".")[0])]
    return Fault(shown, f"unknown key; {nearest(name, [*here, *flat], here)}")


def joined(section: str, name: str) -> str:
    """Return the path of a key; `section` is empty for the top level."""
    return f"{section}.{name}" if section else name


def _entries(value: Mapping[str, object], faults: list[Fault]) -> Iterator[tuple[str, str, object]]:
    """Yield section (empty at the top level), name and value of each key."""
    for name, item in value.items():
        if name == IGNORED:
            continue
        if name not in SECTIONS or name == "objective":
            yield "", str(name), item
        elif isinstance(item, Mapping):
            yield from ((name, str(inner), value) for inner, value in item.items())
        else:
            faults.append(Fault(name, f"expected an object with keys of {name}, {{...}}, found {shown_value(item)}"))
