"""A real training run, stopped at every call by which it changes a file, and gone on with.

First a run is watched to its end: each write, fsync, rename, unlink, mkdir and the like that it makes in its folder is
counted, whoever makes it (`watched_calls`). Then it is begun anew and killed in the place of the 1st, the 2nd, ... nth
of them, and in the middle of each write; each is resumed and has to end as the unbroken run did, bit by bit. The same
calls are then refused: as by a disk that is full from there on, and as by one that fails once. At last come kills at
random moments, several in one run, and models saved over other models.

What is found wrong is a loss, printed and counted; there should be none.
"""

# ruff: noqa: E402 (what is imported lies in folders that are named first)
from __future__ import annotations

import argparse
import errno
import gc
import importlib
import json
import logging
import os
import random
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / place) for place in ("", "tests", "tests/soak", "tests/training", "benchmarks")]
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes under test are forks

import numpy as np
import torch
from conftest import make_bert_folder
from harness import machine
from test_classifier_resume import write_classes
from test_resume import folder_in_memory, log_of, tree, write_scored
from watched_calls import KINDS, Answer, Call, Ended, Fail, Kill, reason_why_not, run_watched

# All that a run imports is imported once, before the forks.
for name in (
    *("sbert_ft.commands.train", "sbert_ft.training.fine_tune", "sbert_ft.training.run"),
    *("scipy.stats", "sentence_transformers.sentence_transformer.losses"),
    *("sklearn.isotonic", "sklearn.linear_model", "sklearn.metrics"),
):
    importlib.import_module(name)

from sbert_ft import BertClassifier, SiameseBert
from sbert_ft.cli import main as command_line
from sbert_ft.errors import CheckpointError, ModelFolderError
from sbert_ft.training.checkpoints import is_checkpoint_name, newest_checkpoint, read_checkpoint
from sbert_ft.training.resume import tensors_sha256

SECONDS = 60  # for a run of one second; one that hangs is a loss
N_RANDOM_KILLS = 100
KILLS_A_RUN = 12  # at most; then it may come to its end
MAKING = ("write", "create", "mkdir", "truncate", "link")
"""Kinds of call that want room."""
OPTIONAL = ("unlink", "rmdir", "chmod", "mkdir")
"""Kinds whose failure need not end a run: what is no longer needed stays, and a folder may be there."""
CLASSES = {"neutral": 0.6, "entailment": 0.3, "contradiction": 0.1}

RUNS: dict[str, dict[str, Any]] = {
    # dropout as a BERT has it; a checkpoint for each reason there is: due, the best so far, the last
    "siamese": {
        "data": {"train": "scored.csv", "dev": "scored-dev.csv"},
        "training": {"epochs": 2, "save_steps": 2, "eval_steps": 3},
    },
    "classifier": {
        "model": {"kind": "joined", "head_dropout": 0.3},
        "data": {"train": "classes.csv", "dev": "classes-dev.csv"},
        "objective": {"name": "softmax"},
        "training": {"epochs": 2, "save_steps": 3, "eval_steps": 2},
    },
    # for its model alone, whose folder has other files
    "towers": {
        "model": {"kind": "towers"},
        "data": {"train": "classes.csv"},
        "objective": {"name": "softmax"},
        "training": {"epochs": 1},
    },
}
SAVES = (("siamese", None), ("siamese", "base"), ("classifier", "siamese"), ("siamese", "towers"))
"""Whose model is saved, and over whose: nothing, or a folder with a person's files in it too."""


@dataclass
class Part:
    """What one part of the sweep has come to.

    Attributes:
        points: Calls that were found and could be stopped at, by kind.
        stopped: Processes that were killed, or whose calls were refused, by kind of call.
        resumes: Runs gone on with.
        outcomes: How each ended.
        losses: What was found wrong; none is what is wanted.
        seconds: It took.
    """

    points: Counter[str] = field(default_factory=Counter)
    stopped: Counter[str] = field(default_factory=Counter)
    resumes: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def describe(self) -> str:
        def said(counts: Counter[str]) -> str:
            return ", ".join(f"{kind} {n}" for kind, n in counts.most_common()) or "none"

        return (
            f"points: {sum(self.points.values())} ({said(self.points)}); stopped: {sum(self.stopped.values())} "
            f"({said(self.stopped)}); resumes: {self.resumes}; {said(self.outcomes)}; losses: {len(self.losses)}; "
            f"{self.seconds:.0f} s"
        )


@dataclass(frozen=True)
class Bench:
    """Data and models, and a place for runs on them.

    Attributes:
        place: Holds them all.
        counted: The calls of an undisturbed run, by its name.
    """

    place: Path
    counted: dict[str, list[Call]] = field(default_factory=dict)

    @classmethod
    def at(cls, place: Path) -> Bench:
        make_bert_folder(place / "base", hidden_size=16, intermediate=32, safetensors=True)
        for ending, n, seed in (("", 24, 1), ("-dev", 16, 2)):
            write_scored(place / f"scored{ending}.csv", n, seed)
            write_classes(place / f"classes{ending}.csv", n, seed, CLASSES, 2)
        SiameseBert.from_pretrained(place / "base", "cpu", "float32")  # what is made once is made before forking
        gc.collect()
        gc.freeze()  # a child's collector leaves alone what is here, and so copies none of its pages
        bench = cls(place)
        for name in RUNS:
            ended = bench.train(name, bench.unbroken(name))
            if ended.code != 0:
                raise SystemExit(f"the unbroken run {name} ended with {ended.code}: {ended.said}")
        return bench

    def unbroken(self, name: str) -> Path:
        return self.place / f"unbroken-{name}"

    def train(
        self,
        name: str,
        folder: Path,
        decide: Callable[[Call], Answer] = lambda call: None,
        overwrite: bool = False,
    ) -> Ended:
        """Run `sbert-ft train` in a process of its own; with --resume where the folder holds a run."""
        config = self._config(name, folder)
        mode = ["--overwrite"] if overwrite else ["--resume"] if (folder / "config.json").exists() else []
        return self.watched(lambda: command_line(["train", str(config), *mode]), folder, decide)

    def watched(self, run: Callable[[], int], folder: Path, decide: Callable[[Call], Answer]) -> Ended:
        return run_watched(run, folder, self.place / "said.txt", decide, SECONDS)

    def _config(self, name: str, folder: Path) -> Path:
        said = RUNS[name]
        content = {
            **said,
            "model": {"path": str(self.place / "base"), **said.get("model", {})},
            "data": {key: str(self.place / file) for key, file in said["data"].items()},
            "training": {
                **{"batch_size": 8, "learning_rate": 1e-3, "seed": 7, "device": "cpu", "precision": "float32"},
                **{"logging_steps": 1, **said["training"]},
            },
            "evaluation": {"bootstrap_samples": 10},
            "output_dir": str(folder),
        }
        path = self.place / "config.json"
        path.write_text(json.dumps(content))
        return path


# ---------------------------------------------------------------- what is held against what


def faults_of_checkpoints(folder: Path, calls: Sequence[Call]) -> list[str]:
    """Return what is wrong with a stopped run's checkpoints: one that is not whole, or one that has gone.

    Args:
        folder: The run's.
        calls: Those that came to their end.
    """
    place, found = folder / "checkpoints", []
    for name in sorted(os.listdir(place)) if place.is_dir() else []:
        if is_checkpoint_name(name):
            try:
                read_checkpoint(place / name)
            except CheckpointError as error:
                found.append(str(error))
    written = [Path(call.path) for call in calls if call.kind == "rename"]
    steps = [int(path.stem[5:]) for path in written if path.parts[:-1] == ("checkpoints",) and path.name[:5] == "step-"]
    newest = newest_checkpoint(place)
    if steps and (newest is None or newest.step < max(steps)):
        found.append(f"step {max(steps)} was written, and {newest} is the newest that can be read")
    return found


def differences(folder: Path, unbroken: Path) -> list[str]:
    """Return in what a finished run differs from the unbroken one: names, rights, weights, log, metrics, tables."""
    found, wanted = tree(folder), tree(unbroken)
    faults = [f"{name} is {'left over' if name in found else 'missing'}" for name in found.keys() ^ wanted.keys()]
    for name in sorted(found.keys() & wanted.keys()):
        if (folder / name).stat().st_mode != (unbroken / name).stat().st_mode:
            faults.append(f"{name} has other rights")
        exact = name.startswith("model/") or name.endswith((".csv", "ledger.json"))
        if exact and found[name] != wanted[name]:
            faults.append(f"{name} has other bytes")
        if is_checkpoint_name(Path(name).name) and not same_tensors(folder / name, unbroken / name):
            faults.append(f"{name} has other tensors")  # its state holds the seconds of the run
        if name.endswith(".html") and not (found[name] or b"").rstrip().endswith(b"</html>"):
            faults.append(f"{name} is cut off")
    if (folder / "metrics.jsonl").exists() and log_of(folder) != log_of(unbroken):
        faults.append("metrics.jsonl tells another run")
    if not faults:
        ours, theirs = (json.loads((path / "metrics.json").read_text()) for path in (folder, unbroken))
        names = [name for name in ours.keys() | theirs.keys() if name not in ("seconds", "warnings")]
        faults += [f"metrics.json has another {name}" for name in names if ours.get(name) != theirs.get(name)]
    return faults


def same_tensors(one: Path, other: Path) -> bool:
    """Return whether two checkpoints hold the same tensors, bit by bit."""
    first, second = read_checkpoint(one), read_checkpoint(other)
    return first.groups == second.groups and all(
        tensors_sha256(first.read_tensors(group)) == tensors_sha256(second.read_tensors(group))
        for group in first.groups
    )


def leftovers(folder: Path) -> list[str]:
    """Return what has a temporary name."""
    names = tree(folder) if folder.is_dir() else {}
    return [name for name in names if ".sbert-ft-" in name]


def chosen(calls: Sequence[Call], n: int | None, kinds: Sequence[str] = tuple(KINDS)) -> list[Call]:
    """Return n of the calls, one of each of these kinds at least, spread over the kinds and the run; all for None."""
    if n is None or n >= len(calls):
        return list(calls)
    by_kind = {kind: [call for call in calls if call.kind == kind] for kind in kinds}
    picked = set()
    for of_kind in filter(None, by_kind.values()):
        wanted = max(1, round(n * len(of_kind) / len(calls)))
        picked |= {of_kind[int((i + 0.5) * len(of_kind) / wanted)].number for i in range(wanted)}
    return [call for call in calls if call.number in picked]


# ---------------------------------------------------------------- parts of the sweep


def sweep_kills(bench: Bench, name: str, n: int | None, torn: bool) -> Part:
    """Kill a run in the place of each call, or in the middle of each write, and go on with it to its end."""
    part, folder = Part(), bench.place / "run"
    candidates = [call for call in _counted(bench, name, part) if call.kind == "write" or not torn]
    part.points.update(call.kind for call in candidates)
    for point in chosen(candidates, n):
        shutil.rmtree(folder, ignore_errors=True)
        ended = bench.train(name, folder, _only_at(point, Kill(torn)))
        where = f"{name}, killed {'in' if torn else 'before'} {_shown(ended.calls[-1])}"
        part.stopped[ended.calls[-1].kind] += 1
        _hold(part, where, [] if ended.code == -9 else [f"it ended with {ended.code}: {ended.said[-300:]}"])
        _hold(part, where, faults_of_checkpoints(folder, ended.calls[:-1]))
        _go_on(bench, name, folder, part, where)
    return part


def sweep_faults(bench: Bench, name: str, n: int | None, number: int, kinds: Sequence[str]) -> Part:
    """Refuse each call: as a full disk refuses all that want room from there on, or one call as a disk that fails."""
    part, folder = Part(), bench.place / "run"
    full = number == errno.ENOSPC
    candidates = [call for call in _counted(bench, name, part) if not full or call.kind in MAKING]
    part.points.update(call.kind for call in candidates)
    for point in chosen(candidates, n, kinds):
        shutil.rmtree(folder, ignore_errors=True)

        def decide(call: Call, at: int = point.number) -> Answer:
            refused = call.number >= at and call.kind in MAKING if full else call.number == at
            return Fail(number, torn=full and call.number == at) if refused else None

        ended = bench.train(name, folder, decide)
        met = ended.calls[point.number - 1]
        where = f"{name}, {os.strerror(number)} at {_shown(met)}"
        part.stopped[met.kind] += 1
        if ended.code == 2:
            _hold(part, where, _faults_of_message(ended, number))
            done = [call for call in ended.calls if call.number < point.number]
            _hold(part, where, faults_of_checkpoints(folder, done))
            left = leftovers(folder)
            _hold(part, where, [f"{left} were left"] if left and full else [])
            part.outcomes["refused"] += 1
        elif ended.code == 0 and met.kind in OPTIONAL:
            part.outcomes["went on"] += 1
        else:
            _hold(part, where, [f"it ended with {ended.code}: {ended.said[-600:]}"])
        _go_on(bench, name, folder, part, where)
    return part


def sweep_overwriting(bench: Bench, name: str, n: int | None, kinds: Sequence[str]) -> Part:
    """Kill a run while it takes the place of a finished one: that stays whole, or there is no run until it is begun."""
    part, folder = Part(), bench.place / "run"

    def begin() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(bench.unbroken(name), folder)
        (folder / "model" / "thesis.txt").write_text("a person's")

    begin()
    calls = bench.train(name, folder, overwrite=True).calls
    begun = next(call.number for call in calls if (call.kind, call.path) == ("rename", "config.json"))
    part.points.update(call.kind for call in calls[:begun])
    for point in chosen(calls[:begun], n, kinds):
        begin()
        ended = bench.train(name, folder, _only_at(point, Kill()), overwrite=True)
        where = f"{name} overwritten, killed before {_shown(ended.calls[-1])}"
        part.stopped[ended.calls[-1].kind] += 1
        if (folder / "config.json").exists():
            (folder / "model" / "thesis.txt").rename(bench.place / "thesis.txt")
            part.outcomes["old"] += 1
            _go_on(bench, name, folder, part, where)
            (bench.place / "thesis.txt").rename(folder / "model" / "thesis.txt")
        else:
            part.outcomes["none"] += 1
        again = bench.train(name, folder, overwrite=True)
        _hold(part, where, [] if again.code == 0 else [f"overwriting again ended with {again.said[-300:]}"])
        if not (folder / "model" / "thesis.txt").exists():
            _hold(part, where, ["a person's file is lost"])
            continue
        (folder / "model" / "thesis.txt").unlink()
        _hold(part, where, differences(folder, bench.unbroken(name)))
    return part


def kill_at_random(bench: Bench, names: Sequence[str], n_kills: int, seed: int) -> Part:
    """Kill runs at random moments, several times each, until they have come to their end."""
    part, generator = Part(), random.Random(seed)
    n_calls = {name: len(_counted(bench, name, part)) for name in names}
    n_runs = 0
    while sum(part.stopped.values()) < n_kills:
        name = names[n_runs % len(names)]
        n_runs += 1
        folder, n_here = bench.place / "run", 0
        shutil.rmtree(folder, ignore_errors=True)
        finished = False
        while not finished and n_here < KILLS_A_RUN and sum(part.stopped.values()) < n_kills:
            # between two calls there is reading, computing or waiting, which a wait after the first comes upon
            kill = Kill(after_seconds=generator.uniform(0, 0.05))
            at = Call(generator.randint(1, n_calls[name] // 3), "", "")
            resumed = (folder / "config.json").exists()
            ended = bench.train(name, folder, _only_at(at, kill))
            finished = ended.code == 0
            part.resumes += resumed
            where = f"{name}, random kill {sum(part.stopped.values()) + 1}"
            if ended.code == -9:
                n_here += 1
                part.stopped["kill"] += 1
            elif not finished:
                _hold(part, where, [f"it ended with {ended.code}: {ended.said[-300:]}"])
            _hold(part, where, faults_of_checkpoints(folder, ended.calls[:-1]))
        part.outcomes["runs"] += 1
        _go_on(bench, name, folder, part, f"{name}, run {n_runs} of random kills")
    return part


def sweep_saves(bench: Bench, saves: Sequence[tuple[str, str | None]], n: int | None) -> Part:
    """Stop `save_pretrained` at each call: the folder is the old model, the new one, or refused; never a mixture."""
    part, known = Part(), {}
    for saved, over in saves:
        place = bench.place / "saves"
        target = place / "model"
        old_folder = None if over is None else _model_of(bench, over)
        new_folder = _model_of(bench, saved)
        kind = BertClassifier if saved == "classifier" else SiameseBert
        model = kind.from_pretrained(new_folder, "cpu", "float32")

        def prepare(place: Path = place, target: Path = target, old: Path | None = old_folder) -> dict[str, bytes]:
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            foreign = {"../beside.txt": b"a person's"}
            if old is not None:
                shutil.copytree(old, target)
                foreign |= {"thesis.txt": b"a person's", "1_Pooling/notes.txt": b"mine", "chapters/one.txt": b"once"}
            for name, content in foreign.items():
                (target.parent / "model" / name).resolve().parent.mkdir(exist_ok=True)
                (target.parent / "model" / name).resolve().write_bytes(content)
            return foreign

        def save(target: Path = target, model: Any = model) -> int:
            model.save_pretrained(target)
            return 0

        foreign = prepare()
        old = None if old_folder is None else _said_by(target, known)
        counted = bench.watched(save, place, lambda call: None)
        new = _said_by(target, known)
        names_after = set(tree(place))
        if counted.code != 0:
            raise SystemExit(f"saving {saved} over {over} ended with {counted.code}: {counted.said}")
        part.points.update(call.kind for call in counted.calls)
        for point in chosen(counted.calls, n):
            for answer in _answers(point):
                prepare()
                ended = bench.watched(save, place, _only_at(point, answer))
                what = {Kill(): "killed before", Kill(torn=True): "killed in"}.get(answer, "an error at")
                where = f"{saved} saved over {over}, {what} {_shown(ended.calls[point.number - 1])}"
                part.stopped[point.kind] += 1
                found = _said_by(target, known) if target.exists() else None
                refused = found is not None and all(value is None for value in found.values())
                if isinstance(answer, Kill):
                    if not (refused or found in (old, new)):
                        _hold(part, where, ["the folder is a mixture of two models"])
                else:
                    failed = ended.code == 99 and "OutputError" in ended.said
                    if found != (old if failed else new):
                        _hold(part, where, ["the folder is not what it was"])
                    if not failed and ended.code != 0:
                        _hold(part, where, [f"it ended with {ended.code}: {ended.said[-600:]}"])
                outcome = "refused" if refused else "old" if found == old else "new"
                part.outcomes[outcome] += 1
                lost = [name for name, text in foreign.items() if (target / name).resolve().read_bytes() != text]
                _hold(part, where, [f"{lost} of a person changed"] if lost else [])
                again = bench.watched(save, place, lambda call: None)
                _hold(part, where, [] if again.code == 0 else [f"saving again ended with {again.said[-300:]}"])
                left = set(tree(place)) ^ names_after
                _hold(part, where, [f"after saving again {sorted(left)} differ"] if left else [])
                _hold(part, where, [] if _said_by(target, known) == new else ["saving again gives another model"])
    return part


def _only_at(point: Call, answer: Answer) -> Callable[[Call], Answer]:
    return lambda call: answer if call.number == point.number else None


def _answers(point: Call) -> Iterator[Answer]:
    yield Kill()
    if point.kind == "write":
        yield Kill(torn=True)
    yield Fail(errno.EIO)


def _model_of(bench: Bench, name: str) -> Path:
    return bench.place / "base" if name == "base" else bench.unbroken(name) / "model"


def _said_by(folder: Path, known: dict[frozenset[tuple[str, bytes | None]], dict[str, Any]]) -> dict[str, Any]:
    """Return what a folder's model says of some texts by each class that reads it; None where it is refused.

    Args:
        folder: The model's.
        known: What folders with the same files have said, to which this one is added.
    """
    files = frozenset(tree(folder).items())
    if files not in known:
        known[files] = _asked(folder)
    return known[files]


def _asked(folder: Path) -> dict[str, Any]:
    pairs = [("a man plays guitar", "the dog"), ("red house", "two women walking")]
    said: dict[str, Any] = {}
    try:
        model = SiameseBert.from_pretrained(folder, "cpu", "float32")
        settings = (model.pooling, model.normalize, model.max_seq_length, model.score_scale, model.decision)
        vectors = np.asarray(model.encode([text for pair in pairs for text in pair]))
        said["siamese"] = (settings, vectors.tobytes())
    except ModelFolderError:
        said["siamese"] = None
    try:
        classifier = BertClassifier.from_pretrained(folder, device="cpu", precision="float32")
        said["classifier"] = (classifier.kind, classifier.predict_proba(pairs).tobytes())
    except Exception as error:  # of a sentence encoder, there is none
        said["classifier"] = None if isinstance(error, ModelFolderError) else type(error).__name__
    return said


def _counted(bench: Bench, name: str, part: Part) -> list[Call]:
    """Return the calls of an undisturbed run, which is made once, held against the unbroken one, and remembered."""
    if name not in bench.counted:
        folder = bench.place / "run"
        shutil.rmtree(folder, ignore_errors=True)
        ended = bench.train(name, folder)
        _hold(part, f"{name}, run undisturbed", differences(folder, bench.unbroken(name)))
        bench.counted[name] = ended.calls
    return bench.counted[name]


def _go_on(bench: Bench, name: str, folder: Path, part: Part, where: str) -> None:
    """Go on with a run, or begin where nothing was begun, and hold its end against the unbroken one's."""
    part.resumes += (folder / "config.json").exists()
    ended = bench.train(name, folder)
    if ended.code != 0:
        _hold(part, where, [f"going on ended with {ended.code}: {ended.said[-600:]}"])
    else:
        _hold(part, where, differences(folder, bench.unbroken(name)))


def _faults_of_message(ended: Ended, number: int) -> list[str]:
    errors = [line for line in ended.said.splitlines() if line.startswith("sbert-ft: error:")]
    if "Traceback" in ended.said or len(errors) != 1 or os.strerror(number).lower() not in errors[0].lower():
        return [f"no clear sentence: {ended.said[-600:]}"]
    return []


def _shown(call: Call) -> str:
    return f"call {call.number} ({call.kind} {re.sub(r'[0-9a-f]{16}', '*', call.path)})"


def _hold(part: Part, where: str, faults: Sequence[str]) -> None:
    for fault in faults:
        part.losses.append(f"{where}: {fault}")
        print(f"LOSS {where}: {fault}", flush=True)


# ---------------------------------------------------------------- all of it


def sweep(bench: Bench, short: bool, seed: int, only: str | None) -> dict[str, Part]:
    """Run all parts, or those whose name has `only` in it, and return what they have come to by name."""

    def few(n: int) -> int | None:
        return n if short else None

    planned: dict[str, Callable[[], Part]] = {}
    # of the kinds that a disk refuses, the short form takes one half from each run
    for name, n, kinds in (("siamese", 8, KINDS[::2]), ("classifier", 1, KINDS[1::2])):
        planned |= {
            f"{name}: killed": lambda name=name, n=n: sweep_kills(bench, name, few(n), torn=False),
            f"{name}: killed in a write": lambda name=name: sweep_kills(bench, name, few(2), torn=True),
            f"{name}: disk full": lambda name=name, kinds=kinds: sweep_faults(bench, name, few(2), errno.ENOSPC, kinds),
            f"{name}: disk fails once": lambda name=name, kinds=kinds: sweep_faults(
                bench, name, few(2), errno.EIO, kinds
            ),
        }
    n_random = 6 if short else N_RANDOM_KILLS
    planned["overwriting a run"] = lambda: sweep_overwriting(bench, "siamese", few(2), KINDS[::2])
    planned["random kills"] = lambda: kill_at_random(bench, ("siamese", "classifier"), n_random, seed)
    planned["saving a model"] = lambda: sweep_saves(bench, SAVES[1::2] if short else SAVES, few(2))
    parts = {}
    for name, run in planned.items():
        if only is None or only in name:
            started = time.monotonic()
            parts[name] = run()
            parts[name].seconds = round(time.monotonic() - started, 1)
            print(f"{name}: {parts[name].describe()}", flush=True)
    return parts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="some points of each kind instead of all")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    parser.add_argument("--only", help="parts with this in their name")
    parser.add_argument("--output", type=Path, help="a JSON file for the counts")
    options = parser.parse_args()
    if reason := reason_why_not():
        raise SystemExit(reason)
    torch.set_num_threads(1)
    logging.getLogger("sbert_ft").setLevel(logging.ERROR)
    with folder_in_memory() as place:
        parts = sweep(Bench.at(place), options.short, options.seed, options.only)
    total = Part()
    for name, part in parts.items():
        if name.endswith(": killed") or name in (
            "overwriting a run",
            "saving a model",
        ):  # others stop at the same calls
            total.points.update(part.points)
        total.stopped.update(part.stopped)
        total.outcomes.update(part.outcomes)
        total.resumes += part.resumes
        total.losses += part.losses
        total.seconds = round(total.seconds + part.seconds, 1)
    print(f"in all: {total.describe()}")
    if options.output:
        content = {"machine": machine(), "parts": {name: vars(part) for name, part in parts.items()}}
        content["total"] = vars(total)
        options.output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return 1 if total.losses else 0


if __name__ == "__main__":
    sys.exit(main())
