"""The objective of a run: one or more of `config.objectives`, added with weights and checked against the data.

One packed forward gives the vectors of all texts of a batch; an objective turns them and the labels into one number, in
float32. `check_fits` checks before training that the rows are those that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from sbert_ft.config.objectives import OBJECTIVES, ObjectiveKind, ObjectiveSettings, takes_single_texts
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.data.ledger import counted
from sbert_ft.errors import InputError, enumerated, quoted

if TYPE_CHECKING:
    from sbert_ft.config.objectives import LossMethod
    from sbert_ft.training.text_decoder import TextDecoder

_LABEL_WORDS = {"none": "no label", "binary": "a label 0 or 1", "score": "a score", "classes": "a class name"}
NUMBERS_OF_TEXTS = {1: "one text", 2: "two texts", 3: "three texts"}


class Objective:
    """A loss over a batch: the losses of some settings added, each times its weight.

    `n_texts` and `label_kinds` are those of the rows that all of them take. Of several, `coupled` and `distinct_texts`
    (see `ObjectiveKind`) hold if they hold for one. If not coupled, the loss is a mean over rows.
    """

    def __init__(
        self,
        settings: Sequence[ObjectiveSettings],
        head: Callable[[list[Tensor]], Tensor] | None = None,
        class_weights: Tensor | None = None,
        decoder: TextDecoder | None = None,
        fitted: Callable[[Tensor], Tensor] | None = None,
        n_negatives: int = 0,
    ) -> None:
        """Make the losses of one or more settings; that no row fits all of them is an `InputError`.

        Args:
            settings: Checked by `config.loader`.
            head: Of a classifier: makes logits, shape (B, K), of each column's vectors. None for a sentence encoder.
            class_weights: Shape (K,), on the device: factor on the loss of each class's rows if they are balanced.
            decoder: Of an objective that `decodes`; the labels of a batch are then token ids, shape (B, C).
            fitted: Brings a teacher's vectors to the width of the encoder, for mse; None where they have it already.
            n_negatives: Further columns of a batch, of negatives that the run mines.
        """
        kinds = [OBJECTIVES[part.name] for part in settings]
        assert all(kind.of_classifier == (head is not None) for kind in kinds)
        assert len({kind.of_language for kind in kinds}) == 1
        assert all(kind.decodes == (decoder is not None) for kind in kinds)
        self.settings, self.head, self.decoder, self.n_negatives = tuple(settings), head, decoder, n_negatives
        self.n_texts, self.label_kinds = _common_rows(settings)
        self.coupled = any(kind.coupled for kind in kinds)
        self.distinct_texts = any(kind.distinct_texts for kind in kinds)
        self.n_views = kinds[0].n_views
        self._kinds = kinds
        given = {"decoder": decoder, "fitted": fitted or _unchanged, "class_weight": class_weights}
        self._methods = [_method(part, given) for part in settings]

    def losses(
        self,
        embeddings: list[Tensor],
        labels: Tensor | None,
        dtype: torch.dtype | None = None,
        taught: Tensor | None = None,
    ) -> Tensor:
        """Return each objective's loss of a batch, times its weight; their sum is the loss: shape (P,), float32.

        The vectors of each column of texts have the shape (B, d) and any floating type; joined pairs are one column,
        and each view of a text is one. Labels, if any, have the shape (B,) and any type; the vectors of a teacher,
        `taught`, have the shape (B, columns, width). All are on one device. The losses are float32 under autocast,
        too; a decoder computes in `dtype` under autocast, None for float32.

        Raises:
            InputError: The objective does not accept this number of columns, or needs labels or a teacher.
        """
        if len(embeddings) - self.n_negatives not in [n * self.n_views for n in self.n_texts] or (
            labels is None and "none" not in self.label_kinds
        ):
            given = f"{len(embeddings)} columns of texts {'without' if labels is None else 'with'} labels"
            raise InputError(f"objective {_names(self.settings)} was given {given}, but {_takes(self.settings)}")
        if taught is None and learns_from_teacher(self.settings, labels is not None):
            raise InputError(f"objective {_names(self.settings)} was given no vectors of a teacher")
        casts = self.decoder is not None and dtype is not None
        with torch.autocast(embeddings[0].device.type, dtype=dtype, enabled=casts):
            vectors = [column.float() for column in embeddings]
            if self.head is not None:
                vectors = [self.head(vectors)]
            targets = labels if labels is None or self.decoder is not None else labels.float()
            from_teacher = None if taught is None else list(taught.float().unbind(1))
            losses = []
            for part, method in zip(self.settings, self._methods, strict=True):
                learns = learns_from_teacher([part], labels is not None)
                losses.append(part.weight * _at_dimensions(part, method, vectors, from_teacher if learns else targets))
            return torch.stack(losses)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each objective, in the order of `losses`; the second of a name has _2 after it, and so on."""
        names = [part.name for part in self.settings]
        counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
        return tuple(name if n == 1 else f"{name}_{n}" for name, n in zip(names, counts, strict=True))

    def part(self, name: str) -> tuple[float, LossMethod]:
        """Return the weight and the loss of one of the objectives, by its name."""
        settings, method = next(
            found for found in zip(self.settings, self._methods, strict=True) if found[0].name == name
        )
        return settings.weight, method

    def n_terms(self, n_rows: int, labels: Tensor | None) -> Tensor | int:
        """Return how many terms the loss of so many rows with these labels is the mean over, if it is not coupled."""
        return n_rows if self.decoder is None or labels is None else self.decoder.n_predicted(labels)

    def can_learn_from(self, n_rows: int, n_texts: int, labels: NDArray[np.float64] | None) -> bool:
        """Return whether a batch of so many rows can change the weights; if not, its loss is 0 for all vectors.

        A row that is compared with the others of its batch needs another one (or a third text), and one that is ranked
        among them needs another label. `labels` are those of the batch, shape (n_rows,); None for rows without labels.
        """

        def compares(kind: ObjectiveKind) -> bool:
            differ = labels is None or kind.find_fault is None or kind.find_fault(labels) is None
            return differ and (n_rows > 1 or n_texts == 3 or self.n_negatives > 0)

        return any(not kind.coupled or compares(kind) for kind in self._kinds)

    def describe(self) -> str:
        """Return the objective in one line, such as ``cosine + 0.5 * cosent (scale 20)``."""
        return " + ".join(_describe(part) for part in self.settings)


def _unchanged(vectors: Tensor) -> Tensor:
    """Return the vectors."""
    return vectors


def _at_dimensions(part: ObjectiveSettings, method: LossMethod, vectors: list[Tensor], targets: Any) -> Tensor:
    """Return a loss, or with matryoshka_dims its weighted sum over the first features, as MatryoshkaLoss computes it.

    Kusupati et al. 2022, equation 1; the first features of a vector are scaled to length 1.
    """
    if part.matryoshka_dims is None:
        return method(vectors, targets)
    weights = part.matryoshka_weights or [1.0] * len(part.matryoshka_dims)
    losses = [
        weight * method([normalize(column[:, :size], dim=-1) for column in vectors], targets)
        for size, weight in zip(part.matryoshka_dims, weights, strict=True)
    ]
    return torch.stack(losses).sum()


def learns_from_teacher(settings: Iterable[ObjectiveSettings], has_labels: bool) -> bool:
    """Return whether one of the objectives needs the vectors of a teacher, for rows with or without labels."""
    needs = ("always",) if has_labels else ("always", "unlabelled")
    return any(OBJECTIVES[part.name].teacher in needs for part in settings)


def check_fits(settings: Sequence[ObjectiveSettings], dataset: ConnectionDataset) -> None:
    """Check that the objectives can learn from these rows; an `InputError` says why not, and which would fit.

    Where all labels are equal, texts are only pulled together, or only apart: all end at one point, or anywhere.
    """
    _common_rows(settings)
    for part in settings:
        if (fault := _misfit(part.name, dataset)) is not None:
            of_classifier = OBJECTIVES[part.name].of_classifier
            raise InputError(f"objective {part.name} {fault}; {_advice(dataset, of_classifier)}")
    if not _labels_are_equal([part.name for part in settings], dataset):
        return
    assert dataset.labels is not None
    if dataset.label_kind == "classes":
        name = quoted(dataset.class_names[int(dataset.labels[0])], limit=40)
        raise InputError(
            f"all {len(dataset.labels):,} training rows are of the class {name}, but a classifier needs at least two "
            "classes",
            "add rows of another class, or check which classes data.classes leaves out",
        )
    fits = "in_batch_negatives" in fitting_objectives(dataset)
    raise InputError(
        f"objective {_names(settings)} needs two or more different labels, but there is only {dataset.labels[0]:g} "
        f"({counted(len(dataset.labels), 'row')})",
        "in_batch_negatives is for such rows" if fits else "name another column of labels with data.label_column",
    )


def _labels_are_equal(names: Iterable[str], dataset: ConnectionDataset) -> bool:
    """Return whether no row has another label than the first, and each of these objectives learns from labels."""
    labels = dataset.labels
    if labels is None or len(labels) == 0:
        return False
    if any(OBJECTIVES[name].distinct_texts or OBJECTIVES[name].teacher != "never" for name in names):
        return False
    return not (labels != labels[0]).any()


def _common_rows(settings: Sequence[ObjectiveSettings]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the numbers of texts and the kinds of labels that all objectives take."""
    first, *others = (OBJECTIVES[part.name].rows for part in settings)
    n_texts = tuple(n for n in first.n_texts if all(n in rows.n_texts for rows in others))
    label_kinds = tuple(kind for kind in first.label_kinds if all(kind in rows.label_kinds for rows in others))
    if not n_texts or not label_kinds:
        names = _names(settings)
        raise InputError(f"the objectives {names} cannot be added, since no row fits all of them: {_takes(settings)}")
    return n_texts, label_kinds


def fitting_objectives(dataset: ConnectionDataset, of_classifier: bool = False) -> tuple[str, ...]:
    """Return the names of the objectives of classifiers or of sentence encoders that can learn from these rows."""
    kinds = [
        name
        for name, kind in OBJECTIVES.items()
        if kind.of_classifier == of_classifier
        and not kind.of_language
        and not learns_from_teacher([ObjectiveSettings(name)], dataset.label_kind != "none")
    ]
    return tuple(name for name in kinds if _misfit(name, dataset) is None and not _labels_are_equal([name], dataset))


def _misfit(name: str, dataset: ConnectionDataset) -> str | None:
    """Return why the objective cannot learn from these rows, as the rest of a sentence; or None."""
    kind = OBJECTIVES[name]
    if dataset.n_texts not in kind.rows.n_texts or dataset.label_kind not in kind.rows.label_kinds:
        found = f"{NUMBERS_OF_TEXTS[dataset.n_texts]} and {_LABEL_WORDS[dataset.label_kind]}"
        return f"takes {kind.rows.takes}, but a row of this data has {found}"
    if kind.find_fault is None or dataset.labels is None:
        return None
    return kind.find_fault(dataset.labels)


def _advice(dataset: ConnectionDataset, of_classifier: bool) -> str:
    """Return what to do with data that the chosen objective does not fit."""
    if of_classifier and dataset.label_kind == "none":
        return "name the column of labels with data.label_column"
    if of_classifier and dataset.label_kind in ("binary", "score"):
        return (
            "read every distinct number as a class with data.label_kind classes (Reading(label_kind='classes')), or "
            "use binary_cross_entropy for scores"
        )
    if not of_classifier and dataset.n_texts == 1:
        without = enumerated(name for name in OBJECTIVES if takes_single_texts(name))
        learn = f"learn from the texts alone with {without}" if dataset.label_kind == "none" else ""
        classify = "train a classifier of single texts with model.kind single"
        return ", ".join(filter(None, (learn, classify, "or name two columns with data.text_columns")))
    if not of_classifier and dataset.label_kind == "classes":
        names = ", ".join(quoted(name, limit=20) for name in dataset.class_names[:5])
        return (
            "train a classifier with model.kind joined or towers, or for a sentence encoder say with "
            f"data.label_values which of {names} means 1 and which 0 (the rows with other labels are left out)"
        )
    fitting = fitting_objectives(dataset, of_classifier)
    if not fitting:
        return "no objective fits such rows: name two text columns, or three without labels, with data.text_columns"
    advice = f"objectives that fit this data: {enumerated(fitting)}"
    if dataset.label_kind == "none" and dataset.n_texts == 2:
        advice += " (a column of scores or labels is named with data.label_column)"
    return advice


def _options(settings: ObjectiveSettings) -> dict[str, Any]:
    """Return the options of an objective, with its own default in place of None."""
    defaults = OBJECTIVES[settings.name].defaults
    given = {key: getattr(settings, key) for key in defaults}
    return {key: default if given[key] is None else given[key] for key, default in defaults.items()}


def _method(settings: ObjectiveSettings, given: dict[str, Any]) -> LossMethod:
    """Return the loss of one objective, made with its options and with what its function takes of `given`."""
    options, kind = _options(settings), OBJECTIVES[settings.name]
    options |= {name: given[name] for name in kind.required}
    if settings.class_weight is not None:
        options["class_weight"] = given["class_weight"]
    return kind.make(**options)


def _describe(settings: ObjectiveSettings) -> str:
    options = []
    for name, value in _options(settings).items():
        if value not in (None, False):
            shown = f" {value:g}" if isinstance(value, float | int) else f" {value}"
            options.append(name.replace("_", " ") + ("" if value is True else shown))
    if settings.matryoshka_dims is not None:
        options.append(f"features {', '.join(map(str, settings.matryoshka_dims))}")
    factor = "" if settings.weight == 1 else f"{settings.weight:g} * "
    return f"{factor}{settings.name}{' (' + ', '.join(options) + ')' if options else ''}"


def _names(settings: Iterable[ObjectiveSettings]) -> str:
    return " + ".join(part.name for part in settings)


def _takes(settings: Iterable[ObjectiveSettings]) -> str:
    return ", ".join(f"{part.name} takes {OBJECTIVES[part.name].rows.takes}" for part in settings)
