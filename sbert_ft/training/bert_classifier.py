"""`BertClassifier`: a classifier over two towers, a joined pair or one text, with scikit-learn's interface.

Everything except `fit` is inherited from `ClassifierModel`. Fitting is a whole run (loop, checkpoints, report), which
belongs to a layer above the models, so this class is here.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sbert_ft.arguments import instance_argument
from sbert_ft.config.objectives import ObjectiveSettings, takes_classes
from sbert_ft.config.settings import EvaluationSettings, Reading, TrainingSettings
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.data.labels import LabelFault, class_key, class_name, names_of_classes
from sbert_ft.errors import InputError, OutputError, quoted
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.text_classifier import listed_labels
from sbert_ft.training.fine_tune import fine_tune
from sbert_ft.training.trainable_model import put_back_on_failure

logger = logging.getLogger(__name__)


class BertClassifier(ClassifierModel):
    """A classifier that can be fitted; see `ClassifierModel` for its arguments, attributes and predictions.

    model = BertClassifier(ConnectionBert.from_pretrained("bert-base-uncased/"), kind="joined")
    model.fit(pairs, labels, dev_share=0.1)
    model.predict(pairs), model.predict_proba(pairs), model.score(pairs, labels), model.classes_
    """

    def fit(
        self,
        X: Iterable[Any],
        y: Iterable[Any],
        *,
        dev: tuple[Iterable[Any], Iterable[Any]] | None = None,
        dev_share: float | None = None,
        objective: str = "softmax",
        training: TrainingSettings | None = None,
        evaluation: EvaluationSettings | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        show_progress_bar: bool = False,
    ) -> BertClassifier:
        """Train on rows and their labels, starting from the current weights, and return the classifier.

        An existing head is kept, in its own order, if it is for the same classes; otherwise a new head is created. With
        dev rows, the best step is kept, probabilities are calibrated, and for two classes a threshold is stored.

        Args:
            X: Texts (kind single), or pairs of texts: a list, array, Series, or frame of two columns.
            y: One label per row, all of one type: str, int, bool, or float; `classes_` are the distinct labels, sorted.
                With binary_cross_entropy, scores.
            dev: Rows and labels to evaluate on.
            dev_share: Instead of `dev`, the share of the rows to hold out; no text is on both sides.
            objective: softmax, or binary_cross_entropy for one output, a score.
            output_dir: The run's folder, with report and checkpoints; None for a temporary one that is removed.
            training, evaluation, show_progress_bar: As in `fine_tune`.

        Raises:
            InputError: Rows and labels do not fit each other or the classifier.
            DataError: A text is blank, or a label is not valid.
            ConfigError, TrainingError, OutputError, ResourceError, RunInterrupted: As in `fine_tune`. After every error
                the classifier is unchanged.
        """
        if dev is not None and dev_share is not None:
            raise InputError("dev and dev_share are both given", "keep one of them")
        training = TrainingSettings() if training is None else instance_argument(TrainingSettings, training, "training")
        has_classes = takes_classes(objective)
        with put_back_on_failure(self, weights=False):  # restores the head if preparation fails
            labels = listed_labels(y, "y")
            reading, names = Reading(), labels
            if has_classes:
                reading = Reading(label_kind="classes", classes=self._take_classes(classes_of(labels)))
                names = [class_name(label) for label in labels]
            train = self._dataset(X, names, reading)
            dev_data = None
            if dev is not None:
                if not isinstance(dev, (tuple, list)) or len(dev) != 2:
                    raise InputError(f"dev is of type {type(dev).__name__}, expected two: the rows and their labels")
                # of all classes: one that is not in y is reported, not left out
                reading = Reading(label_kind="classes") if has_classes else reading
                dev_data = self._dataset(dev[0], listed_labels(dev[1], "the labels of dev"), reading)
            elif dev_share is not None:
                train, dev_data = train.split(dev_share, training.seed)
            with _run_folder(output_dir) as folder:
                fine_tune(
                    self,
                    train,
                    dev=dev_data,
                    output_dir=folder,
                    objective=ObjectiveSettings(objective, class_weight=self.class_weight if has_classes else None),
                    training=training,
                    evaluation=evaluation,
                    show_progress_bar=show_progress_bar,
                )
        return self

    def _take_classes(self, classes: Sequence[Any]) -> tuple[str, ...]:
        """Return the names of the classes in the order of the head; a head for other classes is dropped.

        The order of a head may differ from the sorted labels: it may come from a configuration or another tool.
        """
        by_key = {class_key(name): label for name, label in zip(names_of_classes(classes), classes, strict=True)}
        keys = tuple(map(class_key, names_of_classes(self._classes or ())))
        if sorted(keys) != sorted(by_key):
            if self.head is not None:
                logger.warning("the classifier's head is for other classes than y has: a new head is created")
            self.head, keys = None, tuple(by_key)
        self._classes = tuple(by_key[key] for key in keys)  # with the type of these labels, 1 for "1"
        return names_of_classes(self._classes)

    def _dataset(self, rows: Iterable[Any], labels: Sequence[Any], reading: Reading) -> ConnectionDataset:
        if getattr(rows, "ndim", 1) == 2:
            rows = _rows_of_table(rows, self.n_texts)
        make = ConnectionDataset.from_texts if self.n_texts == 1 else ConnectionDataset.from_pairs
        return make(rows, reading, labels=labels)


def _run_folder(output_dir: str | os.PathLike[str] | None) -> AbstractContextManager[str | os.PathLike[str]]:
    """Return a context with the run's folder; without `output_dir` a temporary folder, which is removed afterwards."""
    if output_dir is not None:
        return nullcontext(output_dir)
    try:
        return tempfile.TemporaryDirectory(prefix="sbert-ft-", ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(
            f"no temporary folder can be made for the run: {error.strerror or error}",
            "give output_dir, or set TMPDIR to a folder with free space",
        ) from error


def classes_of(labels: Sequence[Any]) -> list[str | int | float | bool]:
    """Return the distinct labels, sorted, as plain Python values.

    Raises:
        InputError: They are not at least two classes, all of one of these types, or one is missing.
    """
    kinds, by_key = {type(label) for label in labels}, dict[str, Any]()
    for position, label in enumerate(labels):
        if label is None or (isinstance(label, float) and math.isnan(label)):
            raise InputError(f"y has no label at position {position} ({label})", "leave the row out, or label it")
        if type(label) not in (str, int, float, bool):
            is_list = isinstance(label, (list, set, tuple))
            several = "; several labels a row (multi-label classification) are not supported" if is_list else ""
            found = f"{quoted(label)} ({type(label).__name__}) at position {position}"
            raise InputError(f"y holds {found}, expected labels that are all str, int, float or bool{several}")
        try:
            by_key.setdefault(class_key(class_name(label)), label)  # of two spellings the first
        except LabelFault as fault:
            raise InputError(f"y at position {position} is {quoted(label, limit=40)}: the label {fault}") from None
    if len(kinds) > 1:
        found = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise InputError(
            f"y holds labels of different types, {found}: 1 and '1' could be one class or two",
            "convert them to one type",
        )
    classes = sorted(by_key.values())
    if len(classes) < 2:
        found = f"only {quoted(classes[0])}" if classes else "nothing"
        raise InputError(f"y holds {found}, expected labels of at least two classes")
    return classes


def _rows_of_table(table: Any, n_texts: int) -> list[Any]:
    """Return the rows of a DataFrame or array with one column per text; missing texts are None."""
    if table.shape[1] != n_texts:
        expected = "one, the text" if n_texts == 1 else "two, the texts of a pair"
        raise InputError(f"X has {table.shape[1]} columns, expected {expected}", "select them, as in frame[[...]]")
    if hasattr(table, "notna"):
        table = table.astype(object).where(table.notna(), None).to_numpy(dtype=object)
    rows: list[list[Any]] = table.tolist()
    return [row[0] if n_texts == 1 else tuple(row) for row in rows]
