"""`soup`: one model from the finished runs of one base model, by averaging their weights.

Runs that start from the same weights, with other seeds or settings, often end in one basin of the loss, and the mean of
their weights is then better than each of them, at the cost of one model in use. Greedy (Wortsman et al. 2022, Model
soups, section 2, Recipe 1): the runs are sorted by their metric on dev; each is tried in the mean, and kept where dev
does not get worse. It costs an evaluation on dev for each run, and the memory of three models.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from sbert_ft.arguments import path_argument
from sbert_ft.config.loader import run_from_json
from sbert_ft.config.metrics import METRICS
from sbert_ft.config.settings import RunSettings
from sbert_ft.errors import InputError, RunFolderError, quoted, shown
from sbert_ft.models.classifier import ClassifierModel, TrainableModel
from sbert_ft.models.masked_language_model import MaskedLanguageModel
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.models.vocabulary import check_is_free
from sbert_ft.training.fine_tune import load_run
from sbert_ft.training.interruption import memory_named
from sbert_ft.training.prepare import PreparedRun
from sbert_ft.training.resume import Fingerprint, checked_fingerprint, differences, fingerprint_of
from sbert_ft.training.run_folder import RunFolder, content_of
from sbert_ft.training.trainable_model import trained_module
from sbert_ft.training.weight_average import add_mean

logger = logging.getLogger(__name__)

# What all runs must have in common, by path in their fingerprint: only weights of one start can be averaged, and only
# values on the same dev rows can be compared.
_SAME: Final[Mapping[tuple[str, ...], str]] = {
    ("settings", "model", "kind"): "model.kind",
    ("model", "weights"): "the base model's weights",
    ("model", "tokenizer"): "the tokenizer",
    ("model", "prompts"): "the prompts",
    **{("settings", "model", name): f"model.{name}" for name in ("pooling", "features", "truncation")},
    ("settings", "model", "max_seq_length"): "model.max_seq_length",
    ("data", "dev", "sha256"): "the content of data.dev",
    ("data", "retrieval", "sha256"): "the content of data.retrieval",
}
_N_SHOWN = 16


@dataclass(frozen=True)
class SoupRun:
    """A run that was tried in a soup.

    Attributes:
        folder: The run's folder.
        seed: Its training.seed.
        value: The metric of its own model on dev.
        is_in_soup: Whether its weights are in the mean.
        soup_value: The metric of the soup on dev after it was tried; None where it is not defined.
    """

    folder: Path
    seed: int
    value: float
    is_in_soup: bool
    soup_value: float | None


@dataclass(frozen=True)
class SoupResult:
    """A soup that was written to a folder.

    Attributes:
        folder: The folder of the model.
        metric: What the runs were sorted and judged by.
        runs: In the order in which they were tried, the best single run first.
        splits: The soup's entries of dev, test and a search, as in metrics.json; ``before`` is the base model.
        best_splits: Those of the best single run.
    """

    folder: Path
    metric: str
    runs: tuple[SoupRun, ...]
    splits: Mapping[str, Any] = field(repr=False)
    best_splits: Mapping[str, Any] = field(repr=False)


def soup(
    runs: Sequence[str | os.PathLike[str]],
    output_dir: str | os.PathLike[str],
    *,
    uniform: bool = False,
    device: str | None = None,
) -> SoupResult:
    """Average the models of several finished runs, write the mean as a model, and return how it was made.

    Threshold, calibration and score scale are fitted anew on dev, with the settings of the best single run, whose files
    are read again. Test, if there is one, is evaluated once, for the finished soup.

    Args:
        runs: Folders of at least two runs that started from the same weights, with the same dev rows.
        output_dir: The folder to write the model to; empty or new.
        uniform: Take the mean of all runs, whatever dev says.
        device: Where to evaluate; None for the device of the best single run's settings.

    Raises:
        InputError: The runs do not fit each other; the message names what differs.
        RunFolderError: A folder holds no finished run, or its data or base model are no longer the same.
        DataError, ModelFolderError: A file or a model cannot be read.
        OutputError: The folder holds something, or cannot be written.
        ResourceError: The device is not available, or memory ran out.
    """
    target = path_argument(output_dir, "output_dir")
    if isinstance(runs, str | os.PathLike):
        raise InputError(f"runs is one path, {quoted(runs)}, expected a list of at least two folders")
    folders = [path_argument(run, "a run") for run in runs]
    if len(folders) < 2:
        raise InputError(f"expected at least two runs to average, found {len(folders)}", "name the folders of more")
    for i, folder in enumerate(folders):
        if any(os.path.realpath(folder) == os.path.realpath(other) for other in folders[:i]):
            raise InputError(f"{shown(folder)} is named twice", "name each run once")
    check_is_free(target, ())
    found = [_FinishedRun.read(folder) for folder in folders]
    metric = found[0].metric
    for other in found[1:]:
        _check_fits(found[0], other)
    lower_is_better = METRICS[metric].lower_is_better
    found.sort(key=lambda run: run.value if lower_is_better else -run.value)
    best = found[0]
    settings = best.settings
    if device is not None:
        settings = replace(settings, training=replace(settings.training, device=device))
    with memory_named(settings, "the models were averaged"):
        prepared = load_run(settings)
        _check_unchanged(best, prepared)
        model, evaluator = prepared.model, prepared.evaluator
        before = evaluator.evaluate_baseline(model)
        tried = tuple(_mix(prepared, found, metric, uniform))
        result = evaluator.evaluate_final(model, before)
    for sentence in result.alarms:
        logger.warning("%s", sentence)
    model.save_pretrained(target)
    return SoupResult(target, metric, tried, result.results, best.metrics.get("splits") or {})


def _mix(prepared: PreparedRun, runs: Sequence[_FinishedRun], metric: str, uniform: bool) -> Iterator[SoupRun]:
    """Yield the runs as they are tried, in this order; in the end the model has the weights of the soup."""
    model, module = prepared.model, trained_module(prepared.model)
    mean: Mapping[str, Tensor] = {}
    soup_value, n_taken = None, 0
    for run in runs:
        tensors = run.weights(model)
        if n_taken:
            add_mean(tensors, mean, n_taken)
        module.load_state_dict(tensors)
        scores = prepared.evaluator.evaluate(model, lambda: False)
        value = None if scores is None else scores[metric].value
        is_taken = uniform or not n_taken or METRICS[metric].is_not_worse(value, soup_value)
        if is_taken:
            mean, soup_value, n_taken = tensors, value, n_taken + 1
        shown_value = "not defined" if value is None else f"{value:.4f}"
        logger.info(
            "%s: dev %s %s with it, %s",
            *(shown(run.folder.path), metric, shown_value, "taken" if is_taken else "left out"),
        )
        yield SoupRun(run.folder.path, run.settings.training.seed, run.value, is_taken, soup_value)
    module.load_state_dict(mean)


@dataclass(frozen=True)
class _FinishedRun:
    """A finished run as its folder describes it; `value` is the metric of its model on dev."""

    folder: RunFolder
    settings: RunSettings
    fingerprint: Fingerprint
    metrics: Mapping[str, Any]
    metric: str
    value: float

    @classmethod
    def read(cls, path: Path) -> _FinishedRun:
        """Return the run in a folder; a `RunFolderError` if there is none that is finished and has a dev metric."""
        folder = RunFolder(path)
        if not folder.is_finished:
            raise RunFolderError(
                f"{shown(path)} holds no finished run: expected metrics.json, report.html and model/ in it",
                "name the run's folder (output_dir); an unfinished run ends with sbert-ft train CONFIG --resume",
            )
        metrics = content_of(folder.metrics_file)
        fingerprint = content_of(folder.fingerprint_file)
        if metrics is None or fingerprint is None:
            name = folder.metrics_file if metrics is None else folder.fingerprint_file
            raise RunFolderError(f"{shown(name)} is damaged or missing", "restore it from a copy, or train again")
        fingerprint = dict(checked_fingerprint(fingerprint, folder.fingerprint_file))
        best, average = metrics.get("best"), metrics.get("average")
        best, average = (entry if isinstance(entry, dict) else {} for entry in (best, average))
        metric, value = best.get("metric"), (average if average.get("is_taken") else best).get("value")
        if not isinstance(metric, str) or metric not in METRICS or not isinstance(value, int | float):
            raise RunFolderError(
                f"{shown(path)}: the run has no metric on dev, by which it could be judged",
                "give data.dev or data.dev_share, and train again",
            )
        settings = run_from_json(fingerprint["settings"], shown(folder.fingerprint_file))
        return cls(folder, settings, fingerprint, metrics, metric, float(value))

    def weights(self, like: TrainableModel) -> dict[str, Tensor]:
        """Return the weights of the run's model, on the CPU; errors as in `from_pretrained`.

        `like` is the base model; another classifier is an `InputError`.
        """
        place = self.folder.model_dir
        if isinstance(like, MaskedLanguageModel):
            tuned = MaskedLanguageModel.from_pretrained(place, "cpu", "float32", next_sentence=like.next_sentence)
            return dict(trained_module(tuned).state_dict())
        if isinstance(like, SiameseBert):
            return dict(trained_module(SiameseBert.from_pretrained(place, "cpu", "float32")).state_dict())
        classifier = ClassifierModel.from_pretrained(place, "cpu", "float32")
        if classifier.class_names != like.class_names:
            found = f"{shown(place)} has the classes {quoted(', '.join(classifier.class_names), limit=200)}"
            expected = quoted(", ".join(like.class_names), limit=200)
            raise InputError(f"{found}, expected {expected} in this order", "name runs of the same classes")
        # a run folds the temperature that it fits on dev into the head; the soup gets one of its own
        classifier.calibrate((like.temperature or 1.0) / (classifier.temperature or 1.0))
        return dict(trained_module(classifier).state_dict())


def _check_fits(first: _FinishedRun, other: _FinishedRun) -> None:
    """Check that two runs can be averaged; an `InputError` names what differs."""
    different = []
    for path, name in _SAME.items():
        values = [_at(run.fingerprint, path) for run in (first, other)]
        if values[0] != values[1]:
            was, found = (quoted(value, limit=_N_SHOWN) for value in values)
            different.append(f"{name} ({was} and {found})")
    if first.metric != other.metric:
        different.append(f"the metric ({first.metric} and {other.metric})")
    if not different:
        return
    hint = "name runs of one base model and one dev"
    if first.settings.model.kind not in ("siamese", "masked_lm") and any("weights" in name for name in different):
        hint += "; a new head is drawn from training.seed, so start all runs from a folder that has the head"
    if first.settings.data.dev_share is not None:
        hint += "; data.dev_share splits by training.seed, so give a file as data.dev"
    runs = f"the runs in {shown(first.folder.path)} and {shown(other.folder.path)}"
    raise InputError(f"{runs} cannot be averaged, as these differ: {', '.join(different)}", hint)


def _at(value: Any, path: Sequence[str]) -> object:
    """Return what is at a path in nested objects; None if there is nothing."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _check_unchanged(best: _FinishedRun, prepared: PreparedRun) -> None:
    """Check that the base model and the data of a run are still what it began with."""
    now = {**fingerprint_of(prepared), "settings": best.fingerprint["settings"]}
    changed = [found.sentence for found in differences(best.fingerprint, now) if found.weight == "refuse"]
    if changed:
        raise RunFolderError(
            f"since the run in {shown(best.folder.path)} began, its files have changed: {'; '.join(changed)}",
            "put the files back that it began with",
        )
