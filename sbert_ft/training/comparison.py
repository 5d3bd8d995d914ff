"""What changed since a run began, in sentences, so that a resumed run is the same run or says why not.

A run's fingerprint is its settings, its data and its model by content, and the versions and the device. Other
settings, data or weights make another run: refused, unless allowed. Other versions or another device go on with a
warning: the result may differ in its last digits. What cannot change the result, or is judged by content instead of by
name, may differ freely.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from sbert_ft.errors import RunFolderError, quoted, shown

Weight = Literal["refuse", "warn", "free"]

FREE_SETTINGS = ("output_dir", "training.logging_steps", "training.save_steps", "training.tensorboard")
"""Settings that may differ, since they do not change what is computed; so may paths of what has a sha256."""
# The same gradient, added up in another order; the device is compared by what it is.
WARNED_SETTINGS = ("training.device", "training.micro_batch_size")
"""Settings that may differ with a warning."""
_ABSENT = "absent"
_SHOWN_DIGITS = 12


@dataclass(frozen=True)
class Fingerprint:
    """What makes a run the run that it is; every part is JSON.

    Attributes:
        settings: The resolved configuration.
        data: For each split its ``source`` (as given), ``sha256`` and ``n`` (rows).
        model: Names of parts of the model the run began with (files, or ``weights``), each with its sha256.
        versions: Of Python and the libraries, as `library_versions` returns.
        device: The device and what it is.
    """

    settings: Mapping[str, Any]
    data: Mapping[str, Mapping[str, Any]]
    model: Mapping[str, str]
    versions: Mapping[str, str]
    device: str

    def to_json(self) -> dict[str, Any]:
        """Return the fingerprint as JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(vars(self)))
        return values

    @classmethod
    def from_json(cls, value: object, source: Path) -> Fingerprint:
        """Return the fingerprint that `to_json` gave; `source` names it in messages.

        Raises:
            RunFolderError: The value is something else.
        """
        names = tuple(cls.__dataclass_fields__)
        if not isinstance(value, dict) or set(value) != set(names):
            raise RunFolderError(
                f"{shown(source)} says nothing of what the run began with; expected {', '.join(names)}"
            )
        for name in names:
            kind = str if name == "device" else dict
            if not isinstance(value[name], kind):
                raise RunFolderError(f"{shown(source)}: expected {name} to be of type {kind.__name__}")
        return cls(**value)


@dataclass(frozen=True)
class Difference:
    """One thing that is not what it was.

    Attributes:
        path: Where: the setting's path, or the section and the name in it.
        sentence: What it was and what it is.
        weight: Whether a run with it is another run (``refuse``), the same up to rounding (``warn``), or the same.
    """

    path: str
    sentence: str
    weight: Weight


def differences(saved: Fingerprint, now: Fingerprint) -> list[Difference]:
    """Return all that differs between two fingerprints, section by section."""
    was, is_ = saved.to_json(), now.to_json()
    free = {*FREE_SETTINGS, *(f"data.{split}" for split in saved.data.keys() & now.data.keys())}
    if saved.model and now.model:
        free.add("model.path")
    found = []
    for section in was:
        before, after = dict(_leaves(was[section], "")), dict(_leaves(is_[section], ""))
        for key in dict.fromkeys([*before, *after]):
            old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
            if key in before and key in after and _same(old, new):
                continue
            path = key if section == "settings" else f"{section}.{key}".rstrip(".")
            sentence = f"{quoted(path).strip(chr(39))} was {_short(old)}, is {_short(new)}"
            found.append(Difference(path, sentence, _weight(section, key, free)))
    return found


def check_unchanged(saved: Fingerprint, now: Fingerprint, *, allow_changes: bool = False) -> list[str]:
    """Return warnings about what differs but may.

    Args:
        saved: What the run began with.
        now: What it is to go on with.
        allow_changes: Whether other settings, data or weights are warnings, too.

    Raises:
        RunFolderError: Settings, data or weights differ; the message names every difference.
    """
    found = differences(saved, now)
    refused = [difference.sentence for difference in found if difference.weight == "refuse"]
    if refused and not allow_changes:
        raise RunFolderError(
            "the run began otherwise: " + "; ".join(refused) + ". Put this back, begin another run in another "
            "output_dir, or go on nevertheless with --allow-changes"
        )
    return [f"since the run began: {difference.sentence}" for difference in found if difference.weight != "free"]


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the sha256 of tensors: their names, dtypes, shapes and bytes, in the order of the names.

    Args:
        tensors: Such as a state dict, on any device.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _leaves(value: object, path: str) -> Iterator[tuple[str, object]]:
    """Yield each value in nested JSON with its path, such as objective.0.name; empty containers are values."""
    items: list[tuple[str, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = [(str(i), item) for i, item in enumerate(value)]
    if not items:
        yield path, value
    for key, item in items:
        yield from _leaves(item, f"{path}.{key}" if path else key)


def _same(old: object, new: object) -> bool:
    return old == new and isinstance(old, bool) == isinstance(new, bool)  # 1 is 1.0, but it is not true


def _weight(section: str, key: str, free: Collection[str]) -> Weight:
    if section in ("versions", "device"):
        return "warn"
    if section == "data":
        return "free" if key.endswith(".source") else "refuse"  # the same rows under another name
    if section == "settings" and key in free:
        return "free"
    return "warn" if section == "settings" and key in WARNED_SETTINGS else "refuse"


def _short(value: object) -> str:
    """Return a value for a message; of a digest its beginning."""
    if value is _ABSENT:
        return _ABSENT
    if isinstance(value, str):
        is_digest = len(value) == 64 and all(c in "0123456789abcdef" for c in value)
        return quoted(f"{value[:_SHOWN_DIGITS]}…" if is_digest else value)
    return quoted(json.dumps(value)).strip("'")
