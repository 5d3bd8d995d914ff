"""Labels of rows as numbers whose meaning is known: 0 and 1, scores on a scale, classes, or none at all.

What objectives and metrics get is made from them here, so that the scale is applied in one place. A score is mapped
linearly and never clipped; what has no meaning for a question, a class for a threshold, is refused with a remedy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from sbert_ft.data.ledger import Finding, Unit, at_lines, counted, first_lines
from sbert_ft.errors import InputError, quoted

LabelKind = Literal["none", "binary", "score", "classes"]
_N_NAMES = 10  # classes named in a message


@dataclass(frozen=True)
class ScoreScale:
    """The lowest and highest score that could have been given."""

    low: float
    high: float

    def describe(self) -> str:
        """Return the scale as people write it, such as "0..5"."""
        return f"{self.low:g}..{self.high:g}"

    @property
    def is_cosine(self) -> bool:
        """Whether scores are on the scale of a cosine already, -1 to 1."""
        return (self.low, self.high) == (-1.0, 1.0)


COSINE_SCALE: Final = ScoreScale(-1.0, 1.0)
POSITIVE_SCALES: Final = tuple(ScoreScale(0.0, high) for high in (1.0, 5.0, 10.0, 100.0))


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of N rows and what they mean.

    Attributes:
        kind: "none" where pairs are known only to match, or texts have no label; "binary" for 0 and 1; "score" for
            numbers on a scale; "classes" for words, and for all labels where they were read as classes.
        values: Shape (N,), float64: as in the file, and for classes their number; None where there are none.
        scale: Of scores.
        class_names: Of classes, by their number.
    """

    kind: LabelKind
    values: NDArray[np.float64] | None = None
    scale: ScoreScale | None = None
    class_names: tuple[str, ...] = ()

    def select(self, rows: NDArray[np.int64]) -> Labels:
        """Return the labels of these rows; what they mean stays the same."""
        return self if self.values is None else replace(self, values=self.values[rows])

    def targets(self) -> NDArray[np.float32] | None:
        """Return what objectives get, shape (N,): 0 or 1; scores of -1..1 as they are and all others as 0 to 1.

        Raises:
            InputError: The labels are classes.
        """
        if self.values is None:
            return None
        self._refuse_classes()
        if self.scale is None or self.scale.is_cosine:
            return self.values.astype(np.float32)
        return ((self.values - self.scale.low) / (self.scale.high - self.scale.low)).astype(np.float32)

    def matches(self, match_from: float | None) -> NDArray[np.bool_] | None:
        """Return which rows belong together, shape (N,): label 1, or a score of at least `match_from`.

        Args:
            match_from: A score of the file's scale; the middle of it where None. Labels 0 and 1 do not ask for it.

        Raises:
            InputError: The labels are classes, or `match_from` is not on the scale.
        """
        if self.values is None:
            return None
        self._refuse_classes()
        if self.scale is None:
            return np.equal(self.values, 1.0)
        least = (self.scale.low + self.scale.high) / 2 if match_from is None else match_from
        if not self.scale.low <= least <= self.scale.high:
            raise InputError(f"match_from is {quoted(least)}, expected a score on the scale {self.scale.describe()}")
        belongs: NDArray[np.bool_] = self.values >= least
        return belongs

    def describe(self) -> str:
        """Return the kind in a few words, such as "scores 0..5"."""
        if self.scale is not None:
            return f"scores {self.scale.describe()}"
        if self.kind == "classes":
            return f"classes {named(self.class_names)}"
        return "labels 0 and 1" if self.kind == "binary" else "no labels"

    def _refuse_classes(self) -> None:
        if self.kind == "classes":
            words = "classes" if any(name[-1:].isdigit() for name in self.class_names) else "words"
            raise InputError(
                f"the labels are {words} ({named(self.class_names)}), not scores or 0 and 1; say what each means with "
                f"data.label_values or Reading(label_values={{{quoted(self.class_names[0])}: 1, ...}})"
            )


def named(names: Sequence[str]) -> str:
    """Return the names in quotes with commas between them, the last of very many only counted."""
    shown = ", ".join(quoted(name, limit=40) for name in names[:_N_NAMES])
    return shown if len(names) <= _N_NAMES else f"{shown} and {len(names) - _N_NAMES:,} more"


def label_findings(labels: Labels, lines: NDArray[np.int64], unit: Unit) -> list[Finding]:
    """Return what makes labels of little use: there is one row only, or one label, or only one row has a label.

    Args:
        labels: Of N rows.
        lines: Where they stand, shape (N,).
        unit: What `lines` counts.
    """
    n_rows = len(lines)
    if n_rows == 1:
        sentence = "there is only one row, too few to train on or to judge by"
        return [Finding("single_row", 1, False, first_lines(lines), sentence)]
    if labels.values is None:
        return []
    found, where, counts = np.unique(labels.values, return_index=True, return_counts=True)
    if len(found) == 1:
        value = quoted(labels.class_names[int(found[0])]) if labels.class_names else f"{found[0]:g}"
        kind, word = ("constant_score", "score") if labels.kind == "score" else ("one_label", "label")
        sentence = f"all {n_rows:,} rows have the {word} {value}, so that nothing tells them apart"
        return [Finding(kind, n_rows, False, (), sentence)]
    rare = np.sort(lines[where[counts == 1]])
    if labels.kind == "score" or not len(rare):
        return []
    sentence = f"{counted(len(rare), 'label')} with only one row: {at_lines(first_lines(rare), len(rare), unit)}"
    return [Finding("rare_label", len(rare), False, first_lines(rare), sentence)]
