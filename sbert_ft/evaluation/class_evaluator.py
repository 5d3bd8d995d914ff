"""Evaluate a classifier on the rows of a data set, and compare it with baselines.

Accuracy means nothing by itself: if nine of ten rows are of one class, predicting it always gives 0.9. So a classifier
is compared with the most frequent class of the training rows, and a classifier of pairs also with a regression on the
cosine of the untrained encoder. Letters: N rows, K classes; a code is the number of a class, from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.settings import EvaluationSettings, RunSettings
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.errors import InputError, quoted
from sbert_ft.evaluation.calibration import class_probabilities, expected_calibration_error, fit_temperature, log_loss
from sbert_ft.evaluation.class_metrics import (
    CLASS_METRIC_NAMES,
    Codes,
    class_differences,
    class_metrics,
    confusion,
    per_class,
)
from sbert_ft.evaluation.evaluator import (
    N_WORST,
    EvaluationResult,
    change_in_words,
    check_n_texts,
    decision_to_store,
    joined,
    joined_unless,
    split_of_worst_rows,
    worse_than_before,
)
from sbert_ft.evaluation.metrics import Metrics, Score
from sbert_ft.evaluation.results import COSINE_BASELINE, MAJORITY_BASELINE, ClassSplit, Mistake, confident_mistakes
from sbert_ft.model_folder.decision import Decision
from sbert_ft.models.classifier import ClassifierModel, TrainableModel
from sbert_ft.models.inference import OnTruncate
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.models.text_classifier import TextClassifier

_SHOWN_CLASSES = 3
_NO_BASELINES: Mapping[str, Codes] = MappingProxyType({})

DEFAULT_METRIC = "macro_f1"
# Training pairs for the regression on the cosine: one feature needs no more.
_N_FOR_COSINE = 4000
_SELF = "the classifier before training"


@dataclass(frozen=True)
class EvaluationRows:
    """The rows of a data set that a classifier is evaluated on.

    Attributes:
        name: dev, test, or another name.
        dataset: Their data set: rows of one or two texts.
        gold: The code of each row's class, shape (N,).
        class_names: The K classes in the order of their codes.
        note: A remark on the rows; None if there is none.
    """

    name: str
    dataset: ConnectionDataset
    gold: Codes
    class_names: tuple[str, ...]
    note: str | None = None

    def __len__(self) -> int:
        return len(self.gold)

    def texts(self) -> Iterator[str | tuple[str, ...]]:
        """Yield each row as classifiers accept it: its text, or its two texts."""
        rows = self.dataset.rows_of_texts()
        return (row[0] for row in rows) if self.dataset.n_texts == 1 else rows

    def metrics(self, logits: NDArray[np.floating]) -> Metrics:
        """Return the metrics of the logits, shape (N, K); all are undefined if a logit is not finite."""
        if not np.isfinite(logits).all():
            return Metrics.undefined(CLASS_METRIC_NAMES, "some logits are NaN or infinite")
        return class_metrics(predicted_codes(logits, self), self.gold, len(self.class_names))


def evaluation_rows(name: str, dataset: ConnectionDataset, class_names: tuple[str, ...]) -> EvaluationRows:
    """Return the rows of a data set for the evaluation of a model with these classes, in the order of their codes.

    Raises:
        InputError: A label is not one of the classes, or there are no labels.
    """
    gold = dataset.class_codes(class_names)
    absent = np.flatnonzero(np.bincount(gold, minlength=len(class_names)) == 0)
    note = f"no row is {_listed([class_names[k] for k in absent])}" if len(absent) else None
    return EvaluationRows(name, dataset, gold, tuple(class_names), note)


def logit_stream(
    model: TextClassifier, rows: EvaluationRows, batch_size: int = 32, on_truncate: OnTruncate = "ignore"
) -> Iterator[NDArray[np.float32]]:
    """Yield the logits of the rows, finite or not, some thousand at a time; see `TextClassifier.logits_stream`.

    Raises:
        InputError: The rows have more or fewer texts than the model needs.
    """
    check_n_texts(rows.dataset, rows.dataset.n_texts, model.n_texts)
    return model.logits_stream(rows.texts(), batch_size, on_truncate=on_truncate, check_finite=False)


def predicted_codes(logits: NDArray[np.floating], rows: EvaluationRows) -> Codes:
    """Return the code of the most probable class of each row, shape (N,), by its logits, (N, K); of ties the first.

    Raises:
        InputError: There is not one logit per row and class, or some are NaN or infinite.
    """
    expected = len(rows), len(rows.class_names)
    if logits.shape != expected:
        raise InputError(f"logits of {rows.name} have the shape {logits.shape}, expected {expected}")
    wrong = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(wrong):
        where = f"{len(wrong):,} of {len(rows):,} rows of {quoted(rows.dataset.source, limit=400)}"
        found = f"the model's logits of {where} are NaN or infinite, first in line {rows.dataset.lines[wrong[0]]}"
        raise InputError(f"{found}: its weights are damaged, or training has diverged", "lower the learning rate")
    codes: Codes = logits.argmax(axis=1).astype(np.int64)
    return codes


def majority_codes(train_codes: Codes, n_classes: int, n: int) -> Codes:
    """Return the most frequent of the K classes of the training rows, shape (M,), `n` times; of ties the first."""
    most_frequent = int(np.bincount(train_codes, minlength=n_classes).argmax())
    return np.full(n, most_frequent, np.int64)


def cosine_baseline(cosines_train: NDArray[np.floating], codes_train: Codes, cosines: NDArray[np.floating]) -> Codes:
    """Return classes predicted only from cosines, both of shape (N,): a multinomial logistic regression.

    It is fitted on cosines and classes of training pairs, shape (M,) each, M at least 1. Its features are the cosine
    and its square, which allows a class between two others. Classes that no training pair has are never predicted.

    Raises:
        InputError: Shapes differ, or a cosine is not finite.
    """
    if cosines_train.ndim != 1 or cosines_train.shape != codes_train.shape or not len(codes_train):
        raise InputError(
            f"there are {cosines_train.size} cosines and {codes_train.size} classes, expected one class per cosine"
        )
    if not (np.isfinite(cosines_train).all() and np.isfinite(cosines).all()):
        raise InputError("a cosine is NaN or infinite: no class can be predicted from it")
    classes = np.unique(codes_train)
    if len(classes) == 1 or not len(cosines):
        return np.full(len(cosines), classes[0], np.int64)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    known, new = (values.astype(np.float64)[:, None] for values in (cosines_train, cosines))
    # A weak penalty, only to keep the coefficients finite if the cosine separates the classes completely.
    regression = LogisticRegression(C=100.0, max_iter=1000)
    steps = make_pipeline(PolynomialFeatures(2, include_bias=False), StandardScaler(), regression)
    codes: Codes = steps.fit(known, codes_train).predict(new).astype(np.int64)
    return codes


def evaluate_classes(
    rows: EvaluationRows,
    before: Codes | None,
    before_is: str | None,
    after_logits: NDArray[np.floating],
    settings: EvaluationSettings,
    baselines: Mapping[str, Codes] = _NO_BASELINES,
) -> dict[str, Any]:
    """Return one split of metrics.json: the results of a classifier, and of the baselines it is compared with.

    Args:
        rows: The rows, from `evaluation_rows`.
        before: Predictions before training or of another predictor, shape (N,); None if there is nothing to compare.
        before_is: What `before` is, such as MAJORITY_BASELINE; None if there is none.
        after_logits: Of the evaluated model, shape (N, K), calibrated if the model is.
        settings: Number of resamples and confidence of the intervals.
        baselines: Further predictions by name, shape (N,) each.

    Raises:
        InputError: Logits are NaN or infinite, or shapes differ.
    """
    names, gold = rows.class_names, rows.gold
    after = predicted_codes(after_logits, rows)
    probabilities = class_probabilities(after_logits)

    def metrics(codes: Codes) -> dict[str, Any]:
        return class_metrics(codes, gold, len(names)).to_json(settings)

    def gain_over(codes: Codes) -> dict[str, Any]:
        return class_differences(codes, after, gold, len(names)).to_json(settings)

    result: dict[str, Any] = {
        "source": rows.dataset.source,
        "sha256": rows.dataset.sha256,
        "n": len(rows),
        "classes": list(names),
        "before_is": None if before is None else before_is,
        "after": metrics(after),
        "baselines": {name: metrics(codes) for name, codes in baselines.items()},
        "baseline_differences": {name: gain_over(codes) for name, codes in baselines.items()},
        "per_class": per_class(after, gold, names, settings),
        "confusion": confusion(after, gold, len(names)).tolist(),
        "log_loss": log_loss(probabilities, gold),
        "calibration_error": expected_calibration_error(probabilities, gold),
    }
    if rows.note is not None:
        result["note"] = rows.note
    if before is not None:
        result["before"] = metrics(before)
        result["difference"] = gain_over(before)
    return result


def class_alarms(results: Mapping[str, Mapping[str, Any]], metric: str) -> list[str]:
    """Return warnings: the classifier is worse than before or a baseline, or never predicts some classes.

    `results` are by name of the split, as `evaluate_classes` returns them; `metric` is what they are compared by.
    """
    found = []
    for name, result in results.items():
        if result["before_is"] != MAJORITY_BASELINE:
            found += worse_than_before(name, result, metric)
        found += _never_predicted(name, result)
        found += _no_better_than_majority(name, result, metric)
        cosine = result["baseline_differences"].get(COSINE_BASELINE, {}).get(metric)
        if cosine is not None and cosine["high"] is not None and cosine["high"] < 0:
            how = f"{metric} differs by {change_in_words(cosine)}"
            found.append(f"the tuned model is worse than {COSINE_BASELINE} on {name}: {how}")
    return found


def _never_predicted(name: str, result: Mapping[str, Any]) -> list[str]:
    """Return a warning about classes that occur but are never predicted; empty if there are none."""
    missed = [entry for entry in result["per_class"] if entry["n"] and not entry["n_predicted"]]
    predicted = [entry["name"] for entry in result["per_class"] if entry["n_predicted"]]
    if not missed:
        return []
    advice = "train longer, change the learning rate, or set class_weight to balanced if some classes are rare"
    if len(predicted) == 1:
        return [f"the tuned model predicts {quoted(predicted[0])} for all {result['n']:,} rows of {name}; {advice}"]
    classes = _listed([entry["name"] for entry in missed])
    rows = f"{sum(entry['n'] for entry in missed):,} of {result['n']:,} rows"
    return [f"the tuned model never predicts {classes} on {name}, {rows}; {advice}"]


def _no_better_than_majority(name: str, result: Mapping[str, Any], metric: str) -> list[str]:
    differences = result["baseline_differences"].get(MAJORITY_BASELINE)
    if result["before_is"] == MAJORITY_BASELINE:
        differences = result["difference"]
    if differences is None:
        return []
    # Matthews' correlation of the majority class is undefined.
    named = metric if differences[metric]["value"] is not None else "accuracy"
    change, low = differences[named]["value"], differences[named]["low"]
    if change is None or (change > 0 and (low is None or low > 0)):
        return []
    how = "is no better than" if change <= 0 else "is not clearly better than"
    by = change_in_words(differences[named])
    return [f"the tuned model {how} {MAJORITY_BASELINE} on {name}: {named} differs by {by}"]


def _listed(names: list[str]) -> str:
    """Return the first names in quotes, and how many more there are."""
    shown = ", ".join(quoted(name) for name in names[:_SHOWN_CLASSES])
    n_more = len(names) - _SHOWN_CLASSES
    return f"{shown} or any of {n_more:,} more" if n_more > 0 else shown


@dataclass(frozen=True)
class BaselineCodes:
    """The predictions for a split that a tuned classifier is compared with.

    Attributes:
        codes: Shape (n,).
        is_: The predictor of `codes`, in words.
        others: Name of another predictor -> its codes, shape (n,).
    """

    codes: Codes
    is_: str
    others: Mapping[str, Codes]


@dataclass(frozen=True)
class ClassEvaluator:
    """Evaluates a classifier of classes on dev and test rows.

    Attributes:
        sets: The rows to evaluate on by name: dev, test.
        train: The training rows, for the baselines.
        metric: The metric that chooses the best step; None without dev rows.
        settings: How the result is evaluated.
        seed: Seed of the choice of training pairs for the regression on the cosine.
        has_own_head: Whether the classifier came with a head for these classes.
    """

    sets: Mapping[str, EvaluationRows]
    train: EvaluationRows
    metric: str | None
    settings: EvaluationSettings
    seed: int
    has_own_head: bool

    @classmethod
    def of(
        cls, splits: Mapping[str, ConnectionDataset], model: ClassifierModel, settings: RunSettings, has_own_head: bool
    ) -> ClassEvaluator:
        """Return the evaluator of a run with these data sets, by name, train among them.

        The model has a head for the classes of the training rows.

        Raises:
            InputError: A row is of a class that no training row has, or the metric is not one for classes.
        """
        rows = {name: evaluation_rows(name, dataset, model.class_names) for name, dataset in splits.items()}
        train = rows.pop("train")
        metric = None
        if "dev" in rows:
            metric = settings.training.metric or DEFAULT_METRIC
            if metric not in CLASS_METRIC_NAMES:
                wanted = ", ".join(CLASS_METRIC_NAMES)
                raise InputError(f"training.metric is {metric}; a classifier needs one of {wanted}")
        return cls(rows, train, metric, settings.evaluation, settings.training.seed, has_own_head)

    def evaluate(self, model: TrainableModel, stopped: Callable[[], bool]) -> Mapping[str, Score] | None:
        """Return the metrics of the classifier on dev, or None once `stopped` returns True."""
        assert isinstance(model, ClassifierModel) and self.metric is not None
        rows = self.sets["dev"]
        logits = joined_unless(logit_stream(model, rows), stopped)
        if logits is None:
            return None
        metrics = rows.metrics(logits)
        return {name: metrics.scores[name] for name in dict.fromkeys((self.metric, "accuracy", "macro_f1"))}

    def evaluate_baseline(self, model: TrainableModel) -> dict[str, BaselineCodes]:
        """Return the predictions to compare with, made before training, by name of the split."""
        assert isinstance(model, ClassifierModel)
        encoder = SiameseBert(model.bert, "mean") if model.n_texts == 2 and self.sets else None
        sample = np.sort(np.random.default_rng(self.seed).permutation(len(self.train))[:_N_FOR_COSINE])
        if encoder is not None:
            known = encoder.score(self.train.dataset.select(sample).pairs(), on_truncate="ignore")
        found = {}
        for name, rows in self.sets.items():
            others = {MAJORITY_BASELINE: majority_codes(self.train.gold, len(rows.class_names), len(rows))}
            if encoder is not None:
                cosines = encoder.score(rows.dataset.pairs(), on_truncate="ignore")
                others[COSINE_BASELINE] = cosine_baseline(known, self.train.gold[sample], cosines)
            if self.has_own_head:
                codes = predicted_codes(joined(logit_stream(model, rows)), rows)
                found[name] = BaselineCodes(codes, _SELF, others)
            else:
                found[name] = BaselineCodes(others.pop(MAJORITY_BASELINE), MAJORITY_BASELINE, others)
        return found

    def doubts(self, model: TrainableModel, before: Any) -> list[str]:
        """Return nothing: classes have no order that a cosine could contradict."""
        return []

    def evaluate_final(self, model: TrainableModel, before: Mapping[str, BaselineCodes]) -> EvaluationResult:
        """Return the results; the temperature is folded into the head, and the decision is stored in the model."""
        assert isinstance(model, ClassifierModel)
        logits = {name: joined(logit_stream(model, rows)) for name, rows in self.sets.items()}
        temperature = calibration = None
        if "dev" in logits and self.settings.calibration != "none":
            temperature = fit_temperature(logits["dev"], self.sets["dev"].gold)
        if temperature is not None:
            dev = self.sets["dev"].dataset
            fitted_on = {"source": dev.source, "sha256": dev.sha256, "n": len(dev)}
            calibration = {"kind": "temperature", "temperature": temperature, "fitted_on": fitted_on}
            model.calibrate(temperature)
            logits = {name: (found / np.float32(temperature)).astype(np.float32) for name, found in logits.items()}
        results, splits = {}, {}
        for name, rows in self.sets.items():
            codes, is_, others = before[name].codes, before[name].is_, before[name].others
            results[name] = evaluate_classes(rows, codes, is_, logits[name], self.settings, others)
            shares = class_probabilities(logits[name]).astype(np.float32)
            splits[name] = ClassSplit(name, rows.dataset.source, rows.class_names, rows.gold, codes, is_, shares)
        found = class_alarms(results, self.metric or DEFAULT_METRIC)
        if not self.sets:
            found.append("the tuned classifier was not evaluated: set data.dev or data.dev_share, and data.test")
        model.decision = self._decision(logits)
        every = {"train": self.train, **self.sets}
        facts = {
            "decision": None if model.decision is None else model.decision.to_json(),
            "calibration": calibration,
            "classes": {name: rows.dataset.class_counts() for name, rows in every.items()},
        }
        mistakes: tuple[Mistake, ...] = ()
        if (shown := split_of_worst_rows(splits)) is not None:
            dataset = self.sets[shown].dataset
            mistakes = confident_mistakes(splits[shown], list(dataset.rows_of_texts()), dataset.lines, N_WORST)
        classes = tuple(splits.values())
        return EvaluationResult(results, facts, found, model.decision, classes=classes, mistakes=mistakes)

    def _decision(self, logits: Mapping[str, NDArray[np.float32]]) -> Decision | None:
        """Return the threshold on the probability of the second of two classes, chosen on dev."""
        if "dev" not in logits or len(self.train.class_names) != 2:
            return None
        rows, scores = self.sets["dev"], class_probabilities(logits["dev"])[:, 1]
        return decision_to_store(scores, rows.gold == 1, rows.dataset, self.settings, of_probabilities=True)
