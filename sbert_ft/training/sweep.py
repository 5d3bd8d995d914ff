"""`sweep`: train a grid of settings with several seeds each, judge them on dev alone, and keep the best.

Runs are made one after the other in this process, and a model is freed before the next one is loaded, so the peak of
memory is that of one run, and nothing is imported or compiled twice. Each is a usual run in a folder of its own. What
is known of them is in sweep.json, which is written after each, and a run that was ended is resumed from its checkpoint:
a kill costs what one run did since then. A run that fails is noted with its reason, and the others go on.

Successive halving (Jamieson and Talwalkar 2016; Li et al. 2018, Hyperband, section 2) compares settings before the
end, after a quarter and after half of the steps, and stops the worse half each time. The budget of a rung is a share of
each run's own steps. A run is not shortened: it pauses at an evaluation, and is resumed exactly if its setting stays,
so its learning rate follows the schedule of the whole. With few evaluations a rung is the first one after that share.

The module is long because everything in it changes the one state that sweep.json holds: runs, rungs and looks at test.
What does not is elsewhere: the grid and its checks in `sweep_plan.py`, the table and the page in `report/sweep.py`.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch

from sbert_ft.arguments import path_argument, word_argument
from sbert_ft.config.loader import run_to_json
from sbert_ft.config.metrics import METRICS
from sbert_ft.config.settings import RunSettings
from sbert_ft.data.ledger import counted, file_sha256
from sbert_ft.errors import InputError, OutputError, RunFolderError, RunInterrupted, SbertFtError, TrainingError, shown
from sbert_ft.files.atomic import (
    PREFIX,
    make_folder,
    probe_writing,
    put_in_place,
    remove_leftovers,
    staged_beside,
    write_bytes,
    write_json,
    writing,
)
from sbert_ft.files.file_lock import LOCK_NAME, locked
from sbert_ft.model_folder.writer import FILES_OF_A_LAYOUT
from sbert_ft.report.formatting import duration
from sbert_ft.report.sweep import SweepReport, SweepRow, sweep_csv, sweep_page
from sbert_ft.training.checkpoints import remove_all_but
from sbert_ft.training.fine_tune import load_run, starting_model
from sbert_ft.training.interruption import memory_named
from sbert_ft.training.loop import RunPaused
from sbert_ft.training.prepare import RunOptions
from sbert_ft.training.resume import differences
from sbert_ft.training.run import run_training
from sbert_ft.training.run_folder import RunFolder, content_of
from sbert_ft.training.soup import soup
from sbert_ft.training.sweep_plan import Setting, SweepPlan, plan_sweep

FORMAT: Final = 1
# Earlier than a quarter of the steps the learning rate has hardly risen, and one evaluation says little.
RUNGS: Final = (0.25, 0.5)
_FILE: Final = "sweep.json"

FinalModel = Literal["best", "average", "none"]
FINALS: Final[tuple[FinalModel, ...]] = ("best", "average", "none")

logger = logging.getLogger(__name__)


@dataclass
class RunState:
    """What is known of one run.

    Attributes:
        status: waiting, paused, finished or failed.
        share: Share of its steps that it has made, as last noted; 1 where it is finished.
        value: The metric of its best evaluation on dev so far; None before the first.
        metric: The name of that metric.
        seconds: Time that it took, reading and evaluations included.
        n_rows: Rows that it trains on; 0 before it began.
        sentence: Why it failed; empty otherwise.
    """

    status: Literal["waiting", "paused", "finished", "failed"] = "waiting"
    share: float = 0.0
    value: float | None = None
    metric: str | None = None
    seconds: float = 0.0
    n_rows: int = 0
    sentence: str = ""


@dataclass
class SweepState:
    """What is known of a sweep.

    Attributes:
        runs: By name.
        stopped: Settings that were stopped by halving, with the share of the steps after which they were.
        rungs: Shares at which settings were compared already.
        looks: What each look at the test file found.
    """

    runs: dict[str, RunState] = field(default_factory=dict)
    stopped: dict[str, float] = field(default_factory=dict)
    rungs: list[float] = field(default_factory=list)
    looks: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep.

    Attributes:
        folder: Its folder.
        report: The table of the settings, best first.
        winner: The settings of the best run, with the test file; None where no run is finished.
        model_dir: The folder of the model; None where none was made.
        test: The results of the test file, as in metrics.json; None without it.
        left_out: Names of runs that were not finished for want of time.
    """

    folder: Path
    report: SweepReport
    winner: RunSettings | None = None
    model_dir: Path | None = None
    test: dict[str, Any] | None = field(default=None, repr=False)
    left_out: tuple[str, ...] = ()


def sweep(
    config: str | os.PathLike[str] | RunSettings,
    over: Mapping[str, Sequence[object]],
    *,
    seeds: int | Sequence[int] = 1,
    output_dir: str | os.PathLike[str] | None = None,
    budget_seconds: float | None = None,
    halving: bool = False,
    final: FinalModel = "best",
    resume: bool = False,
    overrides: Sequence[str] = (),
    show_progress_bar: bool = False,
) -> SweepResult:
    """Train every combination of the values with each seed, and return the table, the best setting and its model.

    Runs are trained without the test file and judged on dev. At the end the model of the best setting is evaluated on
    the test file once.

    Args:
        config: A run's JSON, or settings.
        over: The values to try by key, such as ``{"training.learning_rate": [2e-5, 5e-5]}``; any key of a run's JSON
            that does not change what runs are judged by.
        seeds: How many, from training.seed on, or which.
        output_dir: The sweep's folder; None for the output_dir of `config`.
        budget_seconds: A run is not begun if it would take longer than what is left of this time; None for no limit.
        halving: Stop the worse half of the settings after a quarter and after half of the steps.
        final: The model: that of the ``best`` seed by dev, the ``average`` of the seeds as far as dev gets no worse
            (`soup`), or ``none``, in which case test is not evaluated either.
        resume: Continue the sweep in the folder; failed runs are tried again.
        overrides: Values that replace those of `config` in all runs, such as ``training.epochs=2``.
        show_progress_bar: Whether to show a progress bar of each run on standard error.

    Raises:
        ConfigError: Combinations are refused, all of them before anything runs; or inputs are missing.
        InputError: An argument is not accepted.
        RunFolderError: The folder holds something else or is in use, or its sweep was started differently.
        TrainingError: Every run failed.
        OutputError: Something cannot be written; the sweep can be resumed.
        RunInterrupted: Ctrl-C, SIGTERM or SIGHUP; continue with ``resume=True``.
        DataError: The test file cannot be read; all else is there.
    """
    began = time.perf_counter()
    word_argument(final, "final", FINALS)
    if not isinstance(config, RunSettings):
        path_argument(config, "config")
    if output_dir is not None:
        path_argument(output_dir, "output_dir")
    if not isinstance(over, Mapping):
        problem = f"over is of type {type(over).__name__}, expected values by key"
        raise InputError(problem, "such as {'training.epochs': [1, 2]}")
    if budget_seconds is not None and not budget_seconds > 0:
        raise InputError(f"budget_seconds is {budget_seconds}, expected more than 0", "leave it out for no limit")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("a sweep makes its runs in one process, and torchrun has started several", "start it without")
    plan = plan_sweep(config, over, seeds=seeds, output_dir=output_dir, halving=halving, overrides=overrides)
    _check_folder(plan.folder, resume)
    fingerprint = plan.fingerprint()
    with writing(plan.folder):
        make_folder(plan.folder)
    with locked(plan.folder):
        _check_folder(plan.folder, resume)
        probe_writing(plan.folder)
        remove_leftovers(plan.folder)
        state = _resumed(plan, fingerprint) if resume else SweepState()
        ends = math.inf if budget_seconds is None else began + budget_seconds
        return _Sweep(plan, fingerprint, state, ends, show_progress_bar).run(final)


def _check_folder(folder: Path, resume: bool) -> None:
    """Check that the folder holds a sweep to resume, or nothing."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    names = [name for name in names if name != LOCK_NAME and not name.startswith(PREFIX)]
    if os.path.lexists(folder) and not folder.is_dir():
        raise RunFolderError(f"{shown(folder)} is a file; expected a folder, or nothing, for the sweep")
    if resume and _FILE not in names:
        raise RunFolderError(f"{shown(folder)} holds no sweep to resume: expected {_FILE} in it")
    if not resume and _FILE in names:
        raise RunFolderError(f"{shown(folder)} holds a sweep", "continue it with --resume, or give another folder")
    if not resume and names:
        raise RunFolderError(f"{shown(folder)} is not empty", "give another folder with -o, or another output_dir")


def _resumed(plan: SweepPlan, fingerprint: Mapping[str, Any]) -> SweepState:
    """Return the state of the sweep in the folder, after checking that it is this one.

    Raises:
        RunFolderError: Its file is damaged, or it was started differently; every difference is named.
    """
    path = plan.folder / _FILE
    content = content_of(path) or {}
    try:
        if content["format"] != FORMAT:
            raise RunFolderError(f"{shown(path)} has the format {content['format']!r}, expected {FORMAT}")
        saved, state = content["plan"], content["state"]
        found = differences(saved, fingerprint)
        runs = {name: _run_state(run) for name, run in state["runs"].items()}
        loaded = SweepState(runs, dict(state["stopped"]), list(state["rungs"]), list(state["looks"]))
    except (KeyError, TypeError, AttributeError):
        raise RunFolderError(
            f"{shown(path)} is damaged, expected plan and state of a sweep",
            "restore it from a copy, or start again in another folder",
        ) from None
    if refused := [difference.sentence for difference in found if difference.weight == "refuse"]:
        raise RunFolderError(
            f"the sweep in {shown(plan.folder)} was started differently: {'; '.join(refused)}",
            "undo this, or start another sweep in another folder",
        )
    for difference in found:
        if difference.weight == "warn":
            logger.warning("since the sweep began: %s", difference.sentence)
    for run in loaded.runs.values():
        if run.status == "failed":
            run.status, run.share, run.sentence = "waiting", 0.0, ""  # tried again: the reason may be gone
    return loaded


def _run_state(content: Mapping[str, Any]) -> RunState:
    """Return the state of a run from its JSON; a `TypeError` if something is of another type."""
    state = RunState(**content)
    numbers = (state.share, state.seconds, state.n_rows, state.value or 0)
    words = (state.status, state.sentence, state.metric or "")
    if not all(isinstance(n, int | float) for n in numbers) or not all(isinstance(word, str) for word in words):
        raise TypeError
    return state


class _Sweep:
    """A sweep that is being made: its plan and state, and when its time is over."""

    def __init__(
        self, plan: SweepPlan, fingerprint: Mapping[str, Any], state: SweepState, ends: float, progress_bar: bool
    ) -> None:
        self.plan, self.fingerprint, self.state = plan, fingerprint, state
        self.ends, self.progress_bar = ends, progress_bar
        self.left_out: list[str] = []
        for setting, i in plan.places():
            state.runs.setdefault(plan.run_name(setting, i), RunState())

    def run(self, final: FinalModel) -> SweepResult:
        """Make the runs that are left, and what follows from them."""
        self._write()
        n_runs = len(self.state.runs)
        logger.info("%s, %s each", counted(len(self.plan.settings), "setting"), counted(len(self.plan.seeds), "run"))
        if not self.plan.halving or self._rungs_passed():
            for setting, i in self._alive():
                self._train_to(setting, i, 1.0)
        failed = [run.sentence for run in self.state.runs.values() if run.status == "failed"]
        if len(failed) == n_runs:
            raise TrainingError(f"every run of the sweep failed; the first: {failed[0]}", "fix this, then --resume")
        ranked = self._ranked()
        winner = ranked[0] if ranked and self._values(ranked[0]) else None
        if winner is None:
            report = self._report(ranked, None, ())
            self._write_table(report)
            return SweepResult(self.plan.folder, report, left_out=tuple(self.left_out))
        return self._finish(winner, ranked, final)

    # ------------------------------------------------------------ runs

    def _alive(self) -> list[tuple[Setting, int]]:
        return [(setting, i) for setting, i in self.plan.places() if setting.name not in self.state.stopped]

    def _state_of(self, setting: Setting, i: int) -> RunState:
        return self.state.runs[self.plan.run_name(setting, i)]

    def _rungs_passed(self) -> bool:
        """Bring all settings to each rung and stop the worse half there; False if there was no time for it."""
        for rung in RUNGS:
            if rung in self.state.rungs:
                continue
            for setting, i in self._alive():
                self._train_to(setting, i, rung)
            if self.left_out:
                return False
            alive = list(dict.fromkeys(setting.name for setting, _ in self._alive()))
            of_name = {setting.name: setting for setting in self.plan.settings}
            reached = min(self._state_of(setting, i).share for setting, i in self._alive())
            means = self._means([of_name[name] for name in alive], "paused", "finished")
            worth = {
                name: -math.inf if self._has_failed(of_name[name]) else means.get(name, -math.inf) for name in alive
            }
            least = sorted(worth.values(), reverse=True)[math.ceil(len(alive) / 2) - 1]
            for name in alive:
                if worth[name] < least:  # so a tie is not broken by the order of the grid
                    self._stop(of_name[name], rung)
            # where evaluations are few, this comparison is that of later rungs too
            self.state.rungs += [each for each in RUNGS if each not in self.state.rungs and each <= max(rung, reached)]
            self._write()
        return True

    def _stop(self, setting: Setting, rung: float) -> None:
        self.state.stopped[setting.name] = rung
        logger.info("stopped: %s", setting.label)
        for run in setting.runs:
            checkpoints = RunFolder(Path(run.output_dir)).checkpoints_dir
            if checkpoints.is_dir():
                remove_all_but(checkpoints, ())

    def _train_to(self, setting: Setting, i: int, share: float) -> None:
        """Train a run to its end, or to its first evaluation after a share of its steps, if there is time."""
        name, state = self.plan.run_name(setting, i), self._state_of(setting, i)
        if state.status in ("finished", "failed") or state.share >= share:
            return
        needed = self._seconds_needed(setting, i, share)
        if needed is not None and time.perf_counter() + needed > self.ends:
            self.left_out.append(name)
            logger.info("left out: %s, which would take about %s", name, duration(needed))
            return
        settings, seed = setting.runs[i], self.plan.seeds[i]
        number = [*self.state.runs].index(name) + 1
        left = self._seconds_left()
        said = "" if left is None else f"; all that is left takes about {duration(left)}"
        logger.info("run %d of %d: %s, seed %d%s", number, len(self.state.runs), setting.label, seed, said)
        began, before = time.perf_counter(), state.seconds
        try:
            self._train(settings, state, share)
        except (RunInterrupted, OutputError):  # a full disk is no fault of these settings
            raise
        except SbertFtError as error:
            state.status, state.sentence = "failed", str(error)
            logger.warning("%s failed: %s", name, error)
        finally:
            state.seconds = max(state.seconds, before + time.perf_counter() - began)
            self._free()
            self._write()

    def _train(self, settings: RunSettings, state: RunState, share: float) -> None:
        folder = RunFolder(Path(settings.output_dir))
        options = RunOptions(
            "resume" if folder.config_file.is_file() else "new",
            progress_bar=self.progress_bar,
            pause_share=share if share < 1 else None,
        )
        try:
            metrics = run_training(load_run(settings), options).metrics
        except RunPaused as paused:
            logger.info("%s", paused)
            state.status, state.share = "paused", paused.step / paused.n_steps
            state.metric, state.value = paused.metric, paused.value
        else:
            if (best := metrics["best"]) is None:
                raise TrainingError("dev never had the metric that the run is judged by")
            average = metrics.get("average") or {}
            value = (average if average.get("is_taken") else best)["value"]  # of the model that the run ends with
            state.status, state.share, state.metric, state.value = "finished", 1.0, best["metric"], value
            state.seconds = max(state.seconds, metrics["seconds"])  # what was made before a kill is not lost
            if folder.checkpoints_dir.is_dir():
                remove_all_but(folder.checkpoints_dir, ())  # the model is in its folder
        started_with = content_of(folder.fingerprint_file) or {}
        state.n_rows, state.sentence = started_with["data"]["train"]["n"], ""
        if state.metric != self._metric:
            raise TrainingError(
                f"the run is judged by {state.metric}, the others by {self._metric}, so they cannot be compared",
                "set training.metric",
            )

    @staticmethod
    def _free() -> None:
        """Give back the memory of the last run, whose model is no longer referred to."""
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _write(self) -> None:
        state = {**asdict(self.state)}
        write_json(self.plan.folder / _FILE, {"format": FORMAT, "plan": dict(self.fingerprint), "state": state})

    # ------------------------------------------------------------ time

    def _seconds_needed(self, setting: Setting, i: int, share: float) -> float | None:
        """Return how long a run would take to a share of its steps, by the rate measured so far; None before any."""

        def measured(of: Sequence[Setting]) -> list[tuple[Setting, RunState]]:
            found = [(each, self._state_of(each, n)) for each, n in self.plan.places() if each in of]
            return [(each, run) for each, run in found if run.n_rows and run.share and run.status != "failed"]

        known = measured([setting]) or measured(self.plan.settings)
        if not known:
            return None
        rows = sum(run.share * _n_passed(each, run.n_rows) for each, run in known)
        to_do = (share - self._state_of(setting, i).share) * _n_passed(setting, known[0][1].n_rows)
        return max(0.0, to_do) * sum(run.seconds for _, run in known) / rows

    def _seconds_left(self) -> float | None:
        """Return how long all runs that are not stopped would take to their ends; None before any is measured."""
        needed = [self._seconds_needed(setting, i, 1.0) for setting, i in self._alive()]
        found = [seconds for seconds in needed if seconds is not None]
        return sum(found) if found else None

    # ------------------------------------------------------------ comparison

    @property
    def _metric(self) -> str | None:
        return next((run.metric for run in self.state.runs.values() if run.metric is not None), None)

    @property
    def _sign(self) -> int:
        """1 where a higher metric is better, else -1."""
        return -1 if self._metric is not None and METRICS[self._metric].lower_is_better else 1

    def _runs(self, setting: Setting) -> dict[int, RunState]:
        return {seed: self._state_of(setting, i) for i, seed in enumerate(self.plan.seeds)}

    def _values(self, setting: Setting, *statuses: str) -> dict[int, float]:
        """Return the value on dev by seed, of the runs of these statuses; none given: of finished ones."""
        wanted = statuses or ("finished",)
        runs = self._runs(setting).items()
        return {seed: run.value for seed, run in runs if run.status in wanted and run.value is not None}

    def _has_failed(self, setting: Setting) -> bool:
        return any(run.status == "failed" for run in self._runs(setting).values())

    def _means(self, settings: Sequence[Setting], *statuses: str) -> dict[str, float]:
        """Return the mean on dev of settings that have a value, by name, times `_sign`: the highest is the best.

        It is taken over the seeds that all of them have, but for failed ones: one seed may be better for all settings.
        """
        values = {setting.name: self._values(setting, *statuses) for setting in settings}
        compared = [set(values[s.name]) for s in settings if values[s.name] and not self._has_failed(s)]
        shared = set.intersection(*compared) if compared else set()
        return {
            name: self._sign * statistics.fmean(own[seed] for seed in (shared & own.keys() or own))
            for name, own in values.items()
            if own
        }

    def _ranked(self) -> list[Setting]:
        """Return the settings, best first; those with a failed run come after finished ones, and the rest after them.

        The rest was stopped, later ones first, or has no finished run yet.
        """
        finished = [setting for setting in self.plan.settings if self._values(setting)]
        others = [setting for setting in self.plan.settings if setting not in finished]
        means = self._means(finished) | self._means(others, "paused")

        def key(setting: Setting) -> tuple[bool, bool, float, float]:
            rung = self.state.stopped.get(setting.name, math.inf)
            is_finished = setting in finished
            return (
                not is_finished,
                self._has_failed(setting),
                0 if is_finished else -rung,
                -means.get(setting.name, -math.inf),
            )

        return sorted(self.plan.settings, key=key)

    def _row(self, setting: Setting) -> SweepRow:
        runs = [self._state_of(setting, i) for i in range(len(self.plan.seeds))]
        is_done = all(run.status == "finished" for run in runs)
        state = "stopped" if setting.name in self.state.stopped else "finished" if is_done else "unfinished"
        return SweepRow(
            name=setting.name,
            values=setting.values,
            dev=self._values(setting) or self._values(setting, "paused"),
            n_seeds=len(runs),
            seconds=sum(run.seconds for run in runs),
            share=max(run.share for run in runs),
            state="failed" if self._has_failed(setting) else state,
            sentence=next((run.sentence for run in runs if run.sentence), ""),
        )

    def _report(self, ranked: Sequence[Setting], winner: Setting | None, test: Sequence[str]) -> SweepReport:
        notes = []
        if winner is not None:
            notes += self._doubts(winner, ranked)
        if self.left_out:
            n_left = counted(len(self.left_out), "run")
            notes.append(f"{n_left} not made for want of time; --resume makes them")
        title = f"Sweep in {self.plan.folder.resolve().name or self.plan.folder}"
        name = None if winner is None else winner.name
        return SweepReport(title, self._metric, [self._row(each) for each in ranked], name, notes, test)

    def _doubts(self, winner: Setting, ranked: Sequence[Setting]) -> list[str]:
        """Return what makes the winner less than certain."""
        own, notes = self._values(winner), list[str]()
        if winner.whole.data.dev_share is not None and len(self.plan.seeds) > 1:
            notes.append(
                "data.dev_share splits by the seed, so each seed has another dev, and the range is wider for it"
            )
        if len(own) == 1:
            notes.append("the best setting has one seed: how much of a difference is chance is not known")
        worst = min(self._sign * value for value in own.values())
        others = [setting for setting in ranked if setting is not winner and not self._has_failed(setting)]
        close = [
            setting.label
            for setting in others
            if any(self._sign * value >= worst for value in self._values(setting).values())
        ]
        if close:
            reach = "reaches" if len(close) == 1 else "reach"
            notes.append(
                f"{counted(len(close), 'setting')} {reach} into the range of the best one's seeds, so the order among "
                f"them may be chance: {'; '.join(close)}"
            )
        return notes

    # ------------------------------------------------------------ end

    def _finish(self, winner: Setting, ranked: list[Setting], final: FinalModel) -> SweepResult:
        """Write the table, the configuration and the model of the winner, then evaluate it on test."""
        folder, values = self.plan.folder, self._values(winner)
        seed = max(values, key=lambda each: self._sign * values[each])
        best = replace(
            winner.whole,
            training=replace(winner.whole.training, seed=seed),
            output_dir=str(folder / "again"),
        )
        write_json(folder / "best.json", run_to_json(best))
        report = self._report(ranked, winner, ())
        self._write_table(report)
        result = SweepResult(folder, report, best, left_out=tuple(self.left_out))
        if final == "none":
            return result
        model_dir = folder / "model"
        runs = {self.plan.seeds[i]: Path(run.output_dir) for i, run in enumerate(winner.runs)}
        if final == "average" and len(values) > 1:
            place = folder / f"{PREFIX}soup"  # removed as a leftover if this ends midway
            soup([runs[each] for each in values], place)
            _copy_model(place, model_dir)
            shutil.rmtree(place)
        else:
            _copy_model(RunFolder(runs[seed]).model_dir, model_dir)
        result = replace(result, model_dir=model_dir)
        if self.plan.test is None:
            return result
        made_of = {"setting": winner.name, "seed": seed, "final": final}
        test, said = self._look_at_test(best, model_dir, made_of)
        report = self._report(ranked, winner, said)
        self._write_table(report)
        return replace(result, report=report, test=test)

    def _write_table(self, report: SweepReport) -> None:
        write_bytes(self.plan.folder / "sweep.csv", sweep_csv(report).encode())
        write_bytes(self.plan.folder / "sweep.html", sweep_page(report).encode())

    def _look_at_test(
        self, settings: RunSettings, model_dir: Path, made_of: dict[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Return the results of the model on test, and sentences that say how often test was looked at.

        The same model is not evaluated again. A look is noted before it is made.
        """
        assert settings.data.test is not None
        made_of = {**made_of, "sha256": file_sha256(Path(settings.data.test))}
        looks = self.state.looks
        before = [look for look in looks if look["of"] != made_of]
        found = next((look for look in looks if look["of"] == made_of and look["result"] is not None), None)
        if found is None:
            found = {"of": made_of, "result": None}
            with memory_named(settings, "the model was evaluated on test"):
                run = load_run(settings)
                looks[:] = [*before, found]
                self._write()
                base = run.evaluator.evaluate_baseline(run.model)
                own = replace(settings.model, path=str(model_dir), init="pretrained", layers=None)
                tuned = starting_model(replace(settings, model=own))
                final = run.evaluator.evaluate_final(tuned, base)
            for sentence in final.alarms:
                logger.warning("%s", sentence)
            found["result"] = final.results["test"]
            self._write()
        n = len(before)
        seen = f"was looked at before, {counted(n, 'time')}, so this figure is no longer independent of the choice"
        fresh = "was not looked at before: no run has read it, and nothing was chosen by it"
        result: dict[str, Any] = found["result"]
        return result, [f"test, {settings.data.test}, {seen if n else fresh}"]


def _n_passed(setting: Setting, n_rows: int) -> float:
    """Return how many rows a whole run of a setting reads, epoch after epoch."""
    training = setting.whole.training
    of_steps = math.inf if training.max_steps is None else training.max_steps
    return min(training.epochs * n_rows, of_steps * training.batch_size * training.accumulation_steps)


def _copy_model(source: Path, target: Path) -> None:
    """Copy a model's folder to `target`, whole or not at all."""
    with writing(target), staged_beside(target) as staging:
        for path in sorted(source.rglob("*")):
            place = staging / path.relative_to(source)
            if path.is_dir():
                place.mkdir()
            else:
                place.write_bytes(path.read_bytes())
        put_in_place(staging, target, FILES_OF_A_LAYOUT)  # the model before may have had others
