"""What columns of texts and labels are customarily called, in one place for training and for using a model.

A file that a model was trained on must be read the same way by every command; a second list of names would sooner or
later differ. A guess is made only where there is one candidate.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

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
