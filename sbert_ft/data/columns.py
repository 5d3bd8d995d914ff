"""Which columns hold the texts of a row and which one its label: as stated, or by names that are customary.

A guess is made only where there is one candidate; a wrong column would be trained on without a word. What was chosen
is said in the ledger, and what was perhaps meant is said where nothing was chosen.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, get_args

from sbert_ft.arguments import instance_argument
from sbert_ft.config.settings import OnBadRow, Reading
from sbert_ft.data.labels import LabelFault, class_name
from sbert_ft.data.sniffing import listed
from sbert_ft.errors import DataError, InputError, quoted

TRIPLET_NAMES: Final = (
    *(("anchor", "positive", "negative"), ("query", "positive", "negative"), ("question", "positive", "negative")),
    *(("premise", "entailment", "contradiction"), ("anchor", "entailment", "contradiction")),
)
PAIR_NAMES: Final = (
    *(("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("sentence_a", "sentence_b"), ("sent1", "sent2")),
    *(("text1", "text2"), ("text_1", "text_2"), ("text_a", "text_b"), ("text", "text_pair"), ("s1", "s2")),
    *(("premise", "hypothesis"), ("question1", "question2"), ("query", "document"), ("query", "passage")),
    *(("question", "answer"), ("anchor", "positive"), ("a", "b")),
)
SINGLE_NAMES: Final = ("text", "sentence", "document", "review", "content", "comment", "utterance")
# As a rule one side of a pair whose other side has a rare name; texts to encode where there is none of the above.
SIDE_NAMES: Final = ("query", "question", "passage", "title")
LABEL_NAMES: Final = (
    *("score", "label", "gold_label", "similarity_score", "similarity", "labels", "is_duplicate", "connection"),
    *("target", "relatedness_score"),
)
# Labels of single texts where there is none of the names above; beside pairs such columns are something else.
SINGLE_LABEL_NAMES: Final = ("class", "category", "sentiment", "intent", "emotion", "topic")
# Comparing spellings takes long: of a table with more columns, or names of more characters, the rest is not looked at.
_MAX_COMPARED = 1000


_WANTED = ("classes", "label_kind")


def folded(names: Iterable[str]) -> list[str]:
    """Return the names without capital letters and white space around them, as they are compared."""
    return [name.casefold().strip() for name in names]


def groups_of_texts(names: Sequence[str], customary: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the groups of customary names, such as those of pairs, that are all among the folded `names`."""
    there = set(names)
    groups = [group for group in customary if there.issuperset(group)]
    return [group for group in groups if not any(set(group) < set(other) for other in groups)]


def single_texts(names: Sequence[str], *, sides_too: bool) -> list[str]:
    """Return which of the folded `names` could be that of a column of single texts.

    Args:
        names: Of all columns.
        sides_too: Whether, where there is none other, one counts that is as a rule a side of a pair.
    """
    found = [name for name in names if name in SINGLE_NAMES]
    return found if found or not sides_too else [name for name in names if name in SIDE_NAMES]


def nearest_name(wanted: str, names: Sequence[str]) -> str | None:
    """Return the one of `names` that is spelled most like the wanted one, None where none is."""
    by_folded = {name.casefold().strip(): name for name in reversed(names[:_MAX_COMPARED])}
    near = difflib.get_close_matches(wanted.casefold().strip()[:_MAX_COMPARED], by_folded, n=1)
    return by_folded[near[0]] if near else None


def names_near(names: Sequence[str], customary: Iterable[str], cutoff: float) -> list[str]:
    """Return those of `names` that are spelled nearly as a customary one.

    Args:
        names: Of columns.
        customary: In small letters.
        cutoff: How alike they must be, 0 to 1.
    """
    known = list(customary)
    few = islice((name for name in names if len(name) <= _MAX_COMPARED), _MAX_COMPARED)
    return [name for name in few if difflib.get_close_matches(name.casefold(), known, n=1, cutoff=cutoff)]


@dataclass(frozen=True)
class PairColumns:
    """Where the texts and labels of a row stand.

    Attributes:
        texts: Positions of the one, two or three columns with texts.
        label: Position of the column with the label; None where there is none.
        notes: What was chosen, a sentence each.
    """

    texts: tuple[int, ...]
    label: int | None
    notes: tuple[str, ...]


def checked_reading(reading: Reading | None) -> Reading:
    """Return what was stated about a file, nothing where it is None; it does not contradict itself.

    Raises:
        InputError: A field has a value that it cannot have; the message names it.
    """
    chosen = Reading() if reading is None else instance_argument(Reading, reading, "reading")
    _check(chosen)
    return chosen


def _check(reading: Reading) -> None:
    if reading.on_bad_row not in get_args(OnBadRow):
        raise InputError(f"on_bad_row is {quoted(reading.on_bad_row)}, expected {' or '.join(get_args(OnBadRow))}")
    for field in ("label_column", "encoding", "delimiter", "kind"):
        if (value := getattr(reading, field)) is not None:
            instance_argument(str, value, field)
    names = reading.text_columns
    if names is not None and not (_is_listed(names, 1, 3) and _all_texts(names) and len(set(names)) == len(names)):
        raise InputError(f"text_columns is {quoted(names)}, expected the names of one, two or three different columns")
    _check_classes(reading)
    low, high = -math.inf, math.inf
    if reading.score_range is not None:
        ends = reading.score_range
        if not _is_listed(ends, 2, 2) or not all(map(_is_number, ends)) or not ends[0] < ends[1]:
            raise InputError(f"score_range is {quoted(ends)}, expected the lowest and the highest score")
        low, high = ends
    if reading.label_values is None:
        return
    if not isinstance(reading.label_values, Mapping):
        found = f"{quoted(reading.label_values)} ({type(reading.label_values).__name__})"
        raise InputError(f"label_values is {found}, expected what each label means, such as {{'entailment': 1}}")
    if not reading.label_values:
        raise InputError("label_values is empty, expected what each label means, such as {'entailment': 1}")
    for label, number in reading.label_values.items():
        if not isinstance(label, str) or not _is_number(number) or not low <= number <= high:
            of_range = "" if reading.score_range is None else f" in score_range {low:g}..{high:g}"
            found = f"{quoted(label)}: {quoted(number)}"
            raise InputError(f"label_values has {found}, expected the label's text and a finite number{of_range}")


def _is_listed(value: object, least: int, most: float = math.inf) -> bool:
    """Return whether a value is a list or tuple of so many items."""
    return isinstance(value, list | tuple) and least <= len(value) <= most


def _all_texts(values: Sequence[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def _check_classes(reading: Reading) -> None:
    """Refuse what contradicts itself in what was stated about classes."""
    kind, classes = reading.label_kind, reading.classes
    if kind not in (None, "scores", "classes"):
        raise InputError(f"label_kind is {quoted(kind)}, expected scores or classes")
    if classes is not None:
        if not _is_listed(classes, 2) or not _all_texts(classes):
            raise InputError(f"classes is {quoted(classes)}, expected the labels of two or more classes, as texts")
        try:
            names = Counter(map(class_name, classes))
        except LabelFault as problem:
            raise InputError(f"classes has a label that {problem}", "give each class a text") from None
        name, count = names.most_common(1)[0]
        if count > 1:
            raise InputError(f"classes has the label {quoted(name)} {count} times", "give each class once")
        if kind == "scores":
            raise InputError("classes is set, but label_kind is scores", "leave one of them out")
        if reading.label_values is not None:
            raise InputError("classes and label_values are both set", "leave one of them out")
    if reading.score_range is not None and (kind == "classes" or classes is not None):
        raise InputError("score_range is set, but the labels are read as classes", "leave it out")


def find_columns(where: str, names: Sequence[str], reading: Reading, *, hint: str = "") -> PairColumns:
    """Return the columns with texts and labels among those of a file.

    Args:
        where: What messages begin with, such as the file's name in quotes.
        names: All columns, in order.
        reading: May name them.
        hint: Said after the columns that there are, where none of them is of a customary name.

    Raises:
        DataError: A named column is not there, or no or more than one guess fits; the message says which columns
            there are, the nearest and what to set.
    """
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{where}: several columns are called {quoted(twice)}", "give each a name of its own")
    if reading.text_columns is not None:
        texts = tuple(_position(where, names, name, "text_columns") for name in reading.text_columns)
    else:
        texts = _customary_texts(where, names, hint)
    taken = [quoted(names[i]) for i in texts]
    from_columns = f"{', '.join(taken[:-1])} and {taken[-1]}" if len(taken) > 1 else f"{taken[0]} alone"
    chosen = f"texts from {from_columns}"
    if reading.label_column is not None:
        label = _position(where, names, reading.label_column, "label_column")
        if label in texts:
            raise DataError(
                f"{where}: {quoted(names[label])} is a column of texts and of labels", "set data.label_column"
            )
        return PairColumns(texts, label, (f"{chosen}, labels from {quoted(names[label])}",))
    guesses = _customary_labels(names, texts, LABEL_NAMES)
    if len(texts) == 1 and not guesses:
        guesses = _customary_labels(names, texts, SINGLE_LABEL_NAMES)
    if len(texts) < 3 and len(guesses) == 1:
        return PairColumns(texts, guesses[0], (f"{chosen}, labels from {quoted(names[guesses[0]])}",))
    if len(texts) < 3 and guesses:
        several = " and ".join(quoted(names[i]) for i in guesses)
        raise DataError(f"{where}: {several} could all be the label; {_set('label_column')}")
    fields = ("label_values", "score_range", "classes", "label_kind")
    wanted = next((field for field in fields if getattr(reading, field) is not None), None)
    if wanted is not None:
        # A run sets label_kind by its objective, so it is not named: the user has perhaps never seen it.
        why = f"{reading.label_kind or wanted} are wanted" if wanted in _WANTED else f"{wanted} is set"
        problem = f"{why}, but no column is called like a label; {_found(names)}"
        raise DataError(f"{where}: {problem}; {_set('label_column')}")
    return PairColumns(texts, None, (chosen, _no_label(names, texts, guesses)))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _position(where: str, names: Sequence[str], name: str, setting: str) -> int:
    """Return where the column called exactly `name` stands."""
    if name in names:
        return names.index(name)
    near = nearest_name(name, names)
    hint = "" if near is None else f"; did you mean {quoted(near)}?"
    raise DataError(f"{where}: has no column {quoted(name)}; {_found(names)}", f"mend data.{setting}{hint}")


def _customary_labels(names: Sequence[str], texts: Sequence[int], customary: Sequence[str]) -> list[int]:
    return [i for i, name in enumerate(names) if name.casefold().strip() in customary and i not in texts]


def _customary_texts(where: str, names: Sequence[str], hint: str) -> tuple[int, ...]:
    """Return the only columns of customary names; a triplet's are not taken for a pair too, nor a pair's for a text."""
    there = folded(names)
    groups = groups_of_texts(there, (*TRIPLET_NAMES, *PAIR_NAMES))
    if len(groups) == 1 and all(there.count(name) == 1 for name in groups[0]):
        return tuple(map(there.index, groups[0]))
    singles = [(name,) for name in single_texts(there, sides_too=False)] if not groups else []
    if len(singles) == 1:
        return (there.index(singles[0][0]),)
    if groups or singles:
        candidates = " or ".join("/".join(group) for group in groups or singles)
        problem = f"which columns hold the texts is not clear ({candidates})"
    else:
        known = {*SINGLE_NAMES, *(name for group in (*TRIPLET_NAMES, *PAIR_NAMES) for name in group)}
        near = list(map(quoted, names_near(names, known, 0.8)))
        expected = "expected two columns of texts, such as sentence1 and sentence2, or one, such as text"
        problem = f"{expected}; none are of a customary name"
        problem += f" (nearest: {listed(near)})" if near else ""
    raise DataError(f"{where}: {problem}; {_found(names)}{hint}; {_set('text_columns')}")


def _no_label(names: Sequence[str], texts: Sequence[int], guesses: Sequence[int]) -> str:
    """Return what is to be said where no label is read."""
    if len(texts) == 3:
        unread = [quoted(names[i]) for i in guesses]
        hint = f"; {listed(unread)} is not read unless data.label_column names it" if unread else ""
        return f"triplets need no label{hint}"
    others = [name for i, name in enumerate(names) if i not in texts]
    near = names_near(others, LABEL_NAMES, 0.75)
    hint = f"; if {quoted(near[0])} is the label, set data.label_column" if near else ""
    if others and not near:
        hint = f"; not read: {listed(list(map(quoted, others)))}"
    meant = "the texts have none" if len(texts) == 1 else "the pairs are taken as known only to match"
    return f"no column is called like a label, so {meant}{hint}"


def _found(names: Sequence[str]) -> str:
    return f"the columns are {listed(list(map(quoted, names)))}"


def _set(setting: str) -> str:
    return f"set data.{setting} (Reading({setting}=...))"
