"""Find the columns with the texts and the label of a row: the named ones, or those with usual names.

A guess is made only where there is one candidate, because training on a wrong column would not be noticed. The ledger
notes the chosen columns, or the one that may have been meant where none was chosen.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice, pairwise
from typing import Final

from sbert_ft.arguments import instance_argument
from sbert_ft.config.faults import Fault
from sbert_ft.config.fields import KEYS
from sbert_ft.config.rules import broken_rules_of_reading
from sbert_ft.config.settings import Reading
from sbert_ft.data.formats import N_SHOWN_COLUMNS
from sbert_ft.data.labels import LabelFault, MissingLabel, class_key, number_or_word
from sbert_ft.errors import DataError, InputError, listed, quoted

TRIPLET_NAMES: Final = (
    *(("anchor", "positive", "negative"), ("query", "positive", "negative"), ("question", "positive", "negative")),
    *(("premise", "entailment", "contradiction"), ("anchor", "entailment", "contradiction")),
)
PAIR_NAMES: Final = (
    *(("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("sentence_a", "sentence_b"), ("sent1", "sent2")),
    *(("text1", "text2"), ("text_1", "text_2"), ("text_a", "text_b"), ("text", "text_pair"), ("s1", "s2")),
    *(("premise", "hypothesis"), ("question1", "question2"), ("query", "document"), ("query", "passage")),
    *(("question", "answer"), ("anchor", "positive"), ("a", "b")),
    *(("문장1", "문장2"), ("텍스트1", "텍스트2"), ("질문1", "질문2"), ("질문", "답변"), ("전제", "가설")),
)
SINGLE_NAMES: Final = (
    *("text", "sentence", "document", "review", "content", "comment", "utterance"),
    *("문장", "텍스트", "문서", "리뷰", "내용", "본문", "댓글", "발화"),
)
# Usually one side of a pair whose other side has a rare name; single texts to encode where no name above is found.
SIDE_NAMES: Final = ("query", "question", "passage", "title", "질문", "제목")
USUAL_TEXTS: Final = frozenset(
    (*SINGLE_NAMES, *SIDE_NAMES, *(name for group in (*TRIPLET_NAMES, *PAIR_NAMES) for name in group))
)
LABEL_NAMES: Final = (
    *("score", "label", "gold_label", "similarity_score", "similarity", "labels", "is_duplicate", "connection"),
    *("target", "relatedness_score", "라벨", "레이블", "정답", "점수", "유사도"),
)
# Labels of single texts where no name above is found; beside pairs, such columns are something else.
SINGLE_LABEL_NAMES: Final = (
    *("class", "category", "sentiment", "intent", "emotion", "topic"),
    *("분류", "범주", "카테고리", "감정", "의도", "주제"),
)
# Numbers of rows and the like, which are no labels.
_ID_NAME: Final = re.compile(r"(.*[\W_])?(q?id|idx|index|no|num|number|year|line|row|unnamed.*)\d*|.*번호|순번|연도|")
_MOST_LABELS = 1000  # a whole number above this is no score
# Comparing spellings is slow: more columns than this, or more characters of a name, are not compared.
_MAX_COMPARED = 1000


def folded(name: str) -> str:
    """Return the form in which names are compared with usual ones, without case, and spaces as in "문장 1"."""
    return "".join(unicodedata.normalize("NFC", name).casefold().split())


def _last_part(name: str) -> str:
    """Return the last key of a nested name (the label of "labels.label"), folded."""
    return folded(name).rpartition(".")[2]


def places_of(name: str, names: Sequence[str]) -> list[int]:
    """Return the positions of the columns called exactly `name`, or else of those that differ in Unicode's form."""
    exact = [i for i, found in enumerate(names) if found == name]
    wanted = unicodedata.normalize("NFC", name)
    return exact or [i for i, found in enumerate(names) if unicodedata.normalize("NFC", found) == wanted]


def usual_texts(names: Sequence[str], counts: Collection[int]) -> tuple[tuple[int, ...] | None, list[tuple[str, ...]]]:
    """Return the columns of texts by their usual names, None if that is not clear, and all candidates.

    This is the one rule for every command. The columns of a triplet do not count as a pair too, nor those of a pair as
    single texts.

    Args:
        names: Of all columns, in order.
        counts: How many texts a row may have: one or more of 1, 2 and 3. Where only single texts are wanted, a usual
            name for one side of a pair counts too, if there is no other candidate.
    """
    there = list(map(folded, names))
    if USUAL_TEXTS.isdisjoint(there):
        there = list(map(_last_part, names))
    groups = _whole_groups(there, [group for group in (*TRIPLET_NAMES, *PAIR_NAMES) if len(group) in counts])
    if not groups and 1 in counts:
        pairs = _whole_groups(there, PAIR_NAMES)
        singles = [name for name in there if name in SINGLE_NAMES]
        if not singles and len(counts) == 1:
            singles = [name for name in there if name in SIDE_NAMES]
        groups = pairs or [(name,) for name in singles]
    is_clear = len(groups) == 1 and len(groups[0]) in counts and all(there.count(name) == 1 for name in groups[0])
    return tuple(map(there.index, groups[0])) if is_clear else None, groups


def texts_of_one_name(names: Sequence[str]) -> str | None:
    """Return that several columns have the same usual name for texts, or None."""
    twice = next((name for name, n in Counter(names).items() if n > 1 and folded(name) in USUAL_TEXTS), None)
    return None if twice is None else f"{names.count(twice)} columns are called {quoted(twice)}"


def _whole_groups(names: Sequence[str], usual: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the groups of usual names of which all are among the folded `names`, without parts of larger ones."""
    groups = [group for group in usual if set(names).issuperset(group)]
    return [group for group in groups if not any(set(group) < set(other) for other in groups)]


def did_you_mean(wanted: str, names: Sequence[str]) -> str:
    """Return a question about the name whose spelling is closest to `wanted`, for the end of a message, or ""."""
    by_folded = {folded(name): name for name in reversed(names[:_MAX_COMPARED])}
    near = difflib.get_close_matches(folded(wanted)[:_MAX_COMPARED], by_folded, n=1)
    return f"; did you mean {quoted(by_folded[near[0]])}?" if near else ""


def _names_near(names: Sequence[str], usual: Iterable[str], cutoff: float) -> list[str]:
    """Return those of `names` whose spelling is similar to a usual name, by at least `cutoff` (0 to 1)."""
    known = list(usual)
    few = islice((name for name in names if len(name) <= _MAX_COMPARED), _MAX_COMPARED)
    return [name for name in few if difflib.get_close_matches(name.casefold(), known, n=1, cutoff=cutoff)]


@dataclass(frozen=True)
class PairColumns:
    """The columns of a table that hold the texts and the label of a row.

    Attributes:
        texts: Positions of the one, two or three columns with texts.
        label: Position of the column with the label; None where there is no label.
        notes: What was chosen, one sentence each.
    """

    texts: tuple[int, ...]
    label: int | None
    notes: tuple[str, ...]


def checked_reading(reading: Reading | None) -> Reading:
    """Return `reading` after checking it as the section of a run's JSON is checked, or an empty one for None.

    An `InputError` names all fields that have invalid values or contradict each other.
    """
    chosen = Reading() if reading is None else instance_argument(Reading, reading, "reading")
    values = {f"data.{field.name}": getattr(chosen, field.name) for field in fields(Reading)}
    faults = [Fault(path, fault) for path, value in values.items() if (fault := KEYS[path].fault(value)) is not None]
    faults = faults or [*broken_rules_of_reading(values), *_same_classes(chosen.classes or ())]
    if faults:
        raise InputError("; ".join(f"{fault.path.removeprefix('data.')}: {fault.sentence}" for fault in faults))
    return chosen


def _same_classes(classes: Sequence[str]) -> Iterator[Fault]:
    """Yield the fault of a class that stands twice, such as in two forms of Unicode."""
    for name, count in Counter(map(class_key, classes)).most_common(1):
        if count > 1:
            yield Fault("data.classes", f"the label {quoted(name)} stands there {count} times; give each class once")


def find_columns(where: str, names: Sequence[str], reading: Reading, *, hint: str = "") -> PairColumns:
    """Return which of the columns `names` hold the texts and the label.

    Messages begin with `where`, such as the file's name in quotes. Where the columns with texts are not clear, `hint`
    ends the list of columns.

    Raises:
        DataError: A named column does not exist, or no candidate or several fit; the message lists the columns, the
            nearest name and the setting to use.
    """
    if reading.text_columns is not None:
        texts = tuple(_position(where, names, name, "text_columns") for name in reading.text_columns)
    else:
        texts = _usual_texts(where, names, hint)
    taken = [quoted(names[i]) for i in texts]
    from_columns = f"{', '.join(taken[:-1])} and {taken[-1]}" if len(taken) > 1 else f"{taken[0]} only"
    chosen = f"texts from {from_columns}"
    guesses = _usual_labels(names, texts, LABEL_NAMES)
    if len(texts) == 1 and not guesses:
        guesses = _usual_labels(names, texts, SINGLE_LABEL_NAMES)
    label = None
    if reading.label_column is not None:
        label = _position(where, names, reading.label_column, "label_column")
        if label in texts:
            problem = f"{quoted(names[label])} is a column of texts and of labels"
            raise DataError(f"{where}: {problem}", "set data.label_column")
    elif len(texts) < 3 and guesses:
        if len(guesses) > 1:
            several = " and ".join(quoted(names[i]) for i in guesses)
            raise DataError(f"{where}: {several} could all be the label", _set("label_column"))
        label = guesses[0]
    if label is not None:
        return PairColumns(texts, label, (f"{chosen}, labels from {quoted(names[label])}",))
    fields = ("label_values", "score_range", "classes", "label_kind")
    wanted = next((field for field in fields if getattr(reading, field) is not None), None)
    if wanted is not None:
        # A run sets label_kind by its objective, so it is not named here: the user may not know it.
        is_kind = wanted in ("classes", "label_kind")
        why = f"{reading.label_kind or wanted} are needed" if is_kind else f"{wanted} is set"
        problem = f"{why}, but no column has a usual label name; {_found(names)}"
        raise DataError(f"{where}: {problem}", _set("label_column"))
    return PairColumns(texts, None, (chosen, _no_label(names, texts, guesses)))


def unread_numbers(names: Sequence[str], columns: PairColumns, rows: Sequence[Sequence[object]]) -> str | None:
    """Return that a column may hold the labels that no column was found for, judged by the first rows, or None."""
    if columns.label is not None or len(columns.texts) == 3:
        return None
    unread = [i for i in range(len(names)) if i not in columns.texts and not _ID_NAME.fullmatch(folded(names[i]))]
    found = [names[i] for i in unread if _may_be_labels([row[i] for row in rows])]
    if not found:
        return None
    shown = listed(found, N_SHOWN_COLUMNS)
    meant = "the texts have no labels" if len(columns.texts) == 1 else "all pairs are taken as matches"
    many = f"columns {shown} hold numbers and are" if len(found) > 1 else f"column {shown} holds numbers and is"
    return f"{many} not read, so {meant}; if these are the labels, {_set('label_column')}"


def _may_be_labels(values: Sequence[object]) -> bool:
    """Return whether values are numbers, and not those of rows (1, 2, 3 and so on, or large ones)."""
    numbers = []
    for value in values:
        try:
            numbers.append(number_or_word(value))
        except MissingLabel:
            continue
        except LabelFault:
            return False
    floats = [number for number in numbers if isinstance(number, float)]
    if not floats or len(floats) < len(numbers):
        return False
    counts_up = len(floats) > 1 and all(after - before == 1 for before, after in pairwise(floats))
    return not counts_up and not (max(floats) > _MOST_LABELS and all(map(float.is_integer, floats)))


def _position(where: str, names: Sequence[str], name: str, setting: str) -> int:
    """Return the position of the only column called `name`."""
    if len(places := places_of(name, names)) > 1:
        raise DataError(f"{where}: {len(places)} columns are called {quoted(name)}", "give each a name of its own")
    if places:
        return places[0]
    remedy = f"fix data.{setting}{did_you_mean(name, names)}"
    raise DataError(f"{where}: has no column {quoted(name)}; {_found(names)}", remedy)


def _usual_labels(names: Sequence[str], texts: Sequence[int], usual: Sequence[str]) -> list[int]:
    """Return the columns with usual names for labels, or else those whose last key has one ("labels.label")."""
    others = [(i, name) for i, name in enumerate(names) if i not in texts]
    found = [i for i, name in others if folded(name) in usual]
    return found or [i for i, name in others if _last_part(name) in usual]


def _usual_texts(where: str, names: Sequence[str], hint: str) -> tuple[int, ...]:
    """Return the only columns with usual names; a triplet's do not count as a pair too, nor a pair's as a text."""
    found, groups = usual_texts(names, (1, 2, 3))
    if found is not None:
        return found
    if (fault := texts_of_one_name(names)) is not None:
        raise DataError(f"{where}: {fault}", "give each a name of its own")
    if groups:
        candidates = " or ".join("/".join(group) for group in groups)
        problem = f"which columns hold the texts is not clear ({candidates})"
    else:
        near = _names_near(names, USUAL_TEXTS, 0.8)
        expected = "expected two columns of texts, such as sentence1 and sentence2, or one, such as text"
        nearest = f" (nearest: {listed(near, N_SHOWN_COLUMNS)})" if near else ""
        problem = f"{expected}; no column has a usual name{nearest}"
    raise DataError(f"{where}: {problem}; {_found(names)}{hint}", _set("text_columns"))


def _no_label(names: Sequence[str], texts: Sequence[int], guesses: Sequence[int]) -> str:
    """Return the note for rows whose label is not read."""
    if len(texts) == 3:
        unread = listed((names[i] for i in guesses), N_SHOWN_COLUMNS)
        hint = f"; {unread} is not read unless data.label_column names it" if unread else ""
        return f"triplets need no label{hint}"
    others = [name for i, name in enumerate(names) if i not in texts]
    near = _names_near(others, LABEL_NAMES, 0.75)
    hint = f"; if {quoted(near[0])} is the label, set data.label_column" if near else ""
    if others and not near:
        hint = f"; not read: {listed(others, N_SHOWN_COLUMNS)}"
    meant = "the texts have no labels" if len(texts) == 1 else "all pairs are taken as matches"
    return f"no column has a usual label name, so {meant}{hint}"


def _found(names: Sequence[str]) -> str:
    return f"the columns are {listed(names, N_SHOWN_COLUMNS)}"


def _set(setting: str) -> str:
    return f"set data.{setting} (Reading({setting}=...))"
