"""The grid of a sweep: all its runs as checked settings, before anything is read or written.

A setting is one combination of the values to try, and has one run for each seed. Runs have no test file: what chooses
among them must not see it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sbert_ft._version import library_versions
from sbert_ft.arguments import whole_number
from sbert_ft.config.aliases import path_of
from sbert_ft.config.faults import Fault, refuse, shown_value
from sbert_ft.config.jsonc import read_json_object
from sbert_ft.config.loader import run_from_json, run_to_json
from sbert_ft.config.settings import RETRIEVAL_FILES, RunSettings
from sbert_ft.data.ledger import file_sha256
from sbert_ft.errors import ConfigError, InputError, quoted
from sbert_ft.evaluation.retrieval_evaluator import RETRIEVAL

_MOST_SETTINGS: Final = 1000
_MOST_SEEDS: Final = 100
_LARGEST_SEED: Final = 2**32 - 1
_LONGEST_NAME: Final = 100
# What a run is trained on may be tried out; all else of the data, and the evaluation, would change what runs are
# compared by.
_OF_DATA: Final = ("data.train", "data.prompts", "data.negatives")
_NOT_TRIED: Final = ("training.metric", "output_dir")


@dataclass(frozen=True)
class Setting:
    """One combination of values.

    Attributes:
        name: Name of its folder, such as 01_learning_rate=2e-05_objective=cosent.
        values: Its values by key, as texts.
        whole: Its settings with the test file, as the configuration has them.
        runs: The settings of its runs, in the order of the seeds, without a test file.
    """

    name: str
    values: Mapping[str, str]
    whole: RunSettings
    runs: tuple[RunSettings, ...]

    @property
    def label(self) -> str:
        """The values in words."""
        return ", ".join(f"{name}={value}" for name, value in self.values.items()) or "as configured"


@dataclass(frozen=True)
class SweepPlan:
    """All runs of a sweep.

    Attributes:
        folder: Where everything is written.
        over: The values to try, by key as it was given.
        seeds: The seeds of each setting.
        halving: Whether the worse settings are stopped on the way.
        settings: The combinations, at least one.
    """

    folder: Path
    over: Mapping[str, tuple[object, ...]]
    seeds: tuple[int, ...]
    halving: bool
    settings: tuple[Setting, ...]

    @property
    def test(self) -> str | None:
        """The test file, which no run has."""
        return self.settings[0].whole.data.test

    def places(self) -> Iterator[tuple[Setting, int]]:
        """Yield each run as its setting and the position of its seed: all settings with the first seed come first."""
        for i in range(len(self.seeds)):
            for setting in self.settings:
                yield setting, i

    def run_name(self, setting: Setting, i: int) -> str:
        """Return the folder of a run below that of all runs."""
        return f"{setting.name}/seed-{self.seeds[i]}"

    def fingerprint(self) -> dict[str, Any]:
        """Return what a resumed sweep is compared with, as `training.resume.differences` reads it.

        Raises:
            ConfigError: Inputs are not there; all of them are named. The test file is not opened.
            DataError: One cannot be read.
        """
        first = self.settings[0].whole
        missing, digests = list[Fault](), {"data": dict[str, Any](), "model": dict[str, Any]()}
        for setting in self.settings:
            for key, path in setting.whole.inputs.items():
                section, _, name = key.partition(".")
                name = name if first.inputs.get(key) == path else f"{name} {path}"
                if not os.path.exists(path):
                    fault = Fault(
                        key, f"there is no {quoted(path, limit=400)} here, in {quoted(os.getcwd(), limit=400)}"
                    )
                    missing += [] if fault in missing else [fault]
                elif key != "data.test" and not missing:
                    of_section = digests["model"].setdefault(section, {}) if section == "teacher" else digests[section]
                    if name not in of_section:
                        of_section[name] = _sha256(Path(path))
        refuse("the sweep", missing)
        settings = run_to_json(first)
        del settings["data"]["test"]
        files = [f"{RETRIEVAL}.{name}" for name in RETRIEVAL_FILES if f"{RETRIEVAL}.{name}" in digests["data"]]
        digests["data"] |= {RETRIEVAL: {name: digests["data"].pop(name) for name in files}} if files else {}
        grid = {"over": {key: list(values) for key, values in self.over.items()}, "seeds": list(self.seeds)}
        return {
            "settings": settings | grid | {"halving": self.halving},
            **digests,
            "versions": library_versions(),
            "device": "",
        }


def plan_sweep(
    config: str | os.PathLike[str] | RunSettings,
    over: Mapping[str, Sequence[object]],
    *,
    seeds: int | Sequence[int] = 1,
    output_dir: str | os.PathLike[str] | None = None,
    halving: bool = False,
    overrides: Sequence[str] = (),
) -> SweepPlan:
    """Return the grid of a sweep; the arguments are those of `sweep`.

    Raises:
        ConfigError: The configuration cannot be read, or a combination is refused; all faults are in the message.
        InputError: A value or a seed is not of the kind that can be tried.
    """
    where = "the settings" if isinstance(config, RunSettings) else quoted(os.fspath(config), limit=400)
    value = run_to_json(config) if isinstance(config, RunSettings) else read_json_object(os.fspath(config))
    if output_dir is not None:
        overrides = [*overrides, f"output_dir={json.dumps(os.fspath(output_dir))}"]
    tried = _checked_values(over)
    names = _short_names(tuple(tried))
    wholes = list[tuple[tuple[object, ...], RunSettings]]()
    refused: dict[str, list[str]] = {}
    combinations = list(itertools.product(*tried.values()))
    for values in combinations:
        pairs = [f"{key}={json.dumps(item)}" for key, item in zip(tried, values, strict=True)]
        try:
            settings = run_from_json(value, where, [*overrides, *pairs])
            wholes.append((values, settings))
            faults = [str(fault) for fault in _faults_of(settings)]
        except ConfigError as error:
            first, *lines = str(error).splitlines()
            faults = [line.strip() for line in lines] or [first.removeprefix(f"{where}: ")]
        for sentence in faults:
            refused.setdefault(sentence, []).append(" ".join(pairs))
    faults_of_all = [
        Fault("", sentence if len(of) == len(combinations) else f"{sentence} (with {of[0]})")
        for sentence, of in refused.items()
    ]
    if not faults_of_all and halving:
        faults_of_all = _faults_of_halving([settings for _, settings in wholes])
    refuse(where, faults_of_all)
    numbers = _seeds(seeds, wholes[0][1].training.seed)
    folder = Path(wholes[0][1].output_dir)
    settings_of_grid = []
    for i, (values, settings) in enumerate(wholes, 1):
        shown_values = {names[key]: _text(item) for key, item in zip(tried, values, strict=True)}
        name = "_".join([f"{i:0{len(str(len(wholes)))}d}", *(f"{key}={text}" for key, text in shown_values.items())])
        name = re.sub(r"-{2,}", "-", re.sub(r"[^\w.=+-]", "-", name, flags=re.ASCII))[:_LONGEST_NAME].rstrip("-.")
        runs = tuple(
            replace(
                settings,
                training=replace(settings.training, seed=seed),
                data=replace(settings.data, test=None),
                output_dir=str(folder / "runs" / name / f"seed-{seed}"),
            )
            for seed in numbers
        )
        settings_of_grid.append(Setting(name, shown_values, settings, runs))
    return SweepPlan(folder, tried, numbers, halving, tuple(settings_of_grid))


def _checked_values(over: Mapping[str, Sequence[object]]) -> dict[str, tuple[object, ...]]:
    """Return the values to try by key, after checks that need no configuration; all faults are in one message."""
    faults, seen, tried = list[Fault](), dict[str, str](), dict[str, tuple[object, ...]]()
    n_settings = 1
    for key, values in over.items():
        at = f"--over {quoted(key)[1:-1]}"
        section, dot, name = key.partition(".")
        path = path_of(section if dot else "", name if dot else section) or key
        if path in seen:
            faults.append(Fault(at, f"is given twice (as {quoted(seen[path])} too); give all values at once"))
        seen[path] = key
        is_data = path.startswith(("data.", "evaluation.")) and not path.startswith(_OF_DATA)
        if path == "training.seed":
            faults.append(Fault(at, "seeds are no setting to choose by dev; give them with --seeds"))
        elif is_data or path in _NOT_TRIED:
            faults.append(
                Fault(at, "decides how or where runs are judged, so runs that differ in it cannot be compared")
            )
        if isinstance(values, str | bytes) or not isinstance(values, Sequence) or not len(values):
            faults.append(Fault(at, f"expected one or more values, found {shown_value(values)}"))
            continue
        n_settings *= len(values)
        try:
            written = [json.dumps(value, allow_nan=False, sort_keys=True) for value in values]
        except (TypeError, ValueError):
            faults.append(Fault(at, "expected values that JSON has"))
            continue
        for text in sorted({text for text in written if written.count(text) > 1}):
            faults.append(Fault(at, f"has the value {quoted(text)[1:-1]} twice"))
        tried[key] = tuple(values)
    if n_settings > _MOST_SETTINGS:
        faults.append(Fault("", f"expected at most {_MOST_SETTINGS:,} combinations, found {n_settings:,}"))
    refuse("the sweep", faults)
    return tried


def _faults_of(settings: RunSettings) -> Iterator[Fault]:
    """Yield why a run cannot be judged."""
    data = settings.data
    if data.dev is None and data.dev_share is None and data.retrieval is None:
        yield Fault("data.dev", "is missing; a sweep chooses by dev: give it, data.dev_share or data.retrieval")


def _faults_of_halving(settings: Sequence[RunSettings]) -> list[Fault]:
    faults = []
    if len(settings) < 2:
        faults.append(Fault("", "--halving compares settings, and there is one; give more with --over"))
    if all(each.training.eval_steps is None and each.training.epochs == 1 for each in settings):
        found = "is not set and there is one epoch, so no run is evaluated before its end, and --halving has nothing"
        faults.append(Fault("training.eval_steps", f"{found} to compare; set it, or more training.epochs"))
    return faults


def _seeds(seeds: int | Sequence[int], first: int) -> tuple[int, ...]:
    """Return the seeds: so many from `first` on, or those that are listed."""
    if isinstance(seeds, str) or not isinstance(seeds, Sequence):
        n = whole_number(seeds, "seeds", 1, _MOST_SEEDS)
        seeds = range(first, first + n)
    found = tuple(whole_number(seed, "a seed", 0, _LARGEST_SEED) for seed in seeds)
    if not found or len(set(found)) < len(found) or len(found) > _MOST_SEEDS:
        problem = f"seeds are {quoted(list(found))}, expected 1 to {_MOST_SEEDS} different ones"
        raise InputError(problem, "give their number, or a list of different seeds")
    return found


def _short_names(keys: tuple[str, ...]) -> dict[str, str]:
    """Return the last part of each key, or all of it where two have the same."""
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)}


def _text(value: object) -> str:
    """Return a value as a person would write it: a text without quotes, an objective by its name and options."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return " ".join(item if key == "name" else f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return " + ".join(map(_text, value))
    return json.dumps(value)


def _sha256(path: Path) -> dict[str, str]:
    """Return the digest of a file, or of all files in a folder with their names."""
    if not path.is_dir():
        return {"sha256": file_sha256(path)}
    digest = hashlib.sha256()
    for file in sorted(inner for inner in path.rglob("*") if inner.is_file()):
        digest.update(json.dumps([file.relative_to(path).as_posix(), file_sha256(file)]).encode())
    return {"sha256": digest.hexdigest()}
