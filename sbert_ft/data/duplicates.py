"""Find repeated pairs: with the same label, with another one, with their sides swapped, or in another data set.

Two texts count as the same where an uncased model hardly distinguishes them: case, spacing and the two spellings of a
composed character are ignored. Each distinct text is reduced once to a key of 64 bits (among 20 million texts, two
share a key by chance once in 100,000 data sets); everything after that is sorting numbers.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sbert_ft.data.labels import Labels
from sbert_ft.data.ledger import Finding, RowPlaces, row_word


def text_key(text: str) -> int:
    """Return a number of 64 bits that is the same for texts equal up to case, spacing and Unicode composition."""
    plain = " ".join((text if text.isascii() else unicodedata.normalize("NFC", text)).casefold().split())
    return int.from_bytes(hashlib.blake2b(plain.encode(), digest_size=8).digest(), "little")


def text_keys(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Return the key of each text, shape (n_texts,)."""
    return np.fromiter(map(text_key, texts), np.uint64, len(texts))


def groups_of_texts(keys: NDArray[np.uint64], text_rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each row's texts as numbers from 0, shape (N, k); texts with the same key have the same number.

    Args:
        keys: Of the distinct texts, shape (n_distinct,).
        text_rows: Index of each row's texts among them, shape (N, k).
    """
    group_of_text = np.unique(keys, return_inverse=True)[1].astype(np.int64)
    groups: NDArray[np.int64] = group_of_text[text_rows]
    return groups


def repeat_findings(groups: NDArray[np.int64], labels: Labels, places: RowPlaces) -> list[Finding]:
    """Return findings about rows that repeat or contradict an earlier row; none of them is dropped.

    For classes (usually premise and hypothesis) the order of the sides matters, for all other labels it does not.
    `groups` are the rows' texts as numbers, shape (N, k).
    """
    is_pair, in_order = groups.shape[1] == 2, labels.kind == "classes"
    keys = _row_keys(groups, ordered=in_order)
    values = np.zeros(len(keys)) if labels.values is None else labels.values
    duplicates, contradictory = _repeats(keys, values)
    ignored = "ignoring case, spacing and order" if is_pair and not in_order else "ignoring case and spacing"
    thing = row_word(groups.shape[1])
    same_label = "" if labels.kind == "none" else " with the same label"
    found = [
        ("duplicate", duplicates, f"repeating an earlier {thing}{same_label} ({ignored})"),
        ("contradictory", contradictory, f"repeating an earlier {thing} with another label ({ignored})"),
    ]
    if is_pair:
        unordered = _row_keys(groups, ordered=False) if in_order else keys
        swapped = np.flatnonzero(_is_first(_row_keys(groups, ordered=True)) & ~_is_first(unordered))
        found.append(("swapped", swapped, "repeating an earlier pair with its sides swapped"))
        same = np.flatnonzero(groups[:, 0] == groups[:, 1])
        found.append(("identical_sides", same, "having the same text on both sides"))
    elif groups.shape[1] == 3:
        both = np.concatenate([groups[:, [0, 1]], groups[:, [0, 2]]])  # anchors with positives, then with negatives
        positives, negatives = np.split(_row_keys(both, ordered=True), 2)
        against = np.flatnonzero(np.isin(negatives, positives))
        problem = "having a negative that is a positive of the same anchor, here or in another row"
        found.append(("contradictory_negative", against, problem))
    return [places.finding(kind, rows, problem) for kind, rows, problem in found if len(rows)]


def _row_keys(groups: NDArray[np.int64], ordered: bool) -> NDArray[np.int64]:
    """Return a number for each row, shape (N,); rows with the same texts have the same number.

    `groups` are below 2^31. Unless `ordered`, a pair is the same as the pair with its sides swapped.
    """
    if not ordered and groups.shape[1] == 2:
        groups = np.sort(groups, axis=1)
    n_groups = int(groups.max(initial=0)) + 1
    keys = groups[:, 0]
    for column in groups.T[1:]:
        ranks = np.unique(keys, return_inverse=True)[1].astype(np.int64)  # small, so the product cannot overflow
        keys = ranks * n_groups + column
    return keys


def overlap_rows(
    keys: NDArray[np.uint64],
    text_rows: NDArray[np.int64],
    other_keys: NDArray[np.uint64],
    other_rows: NDArray[np.int64],
) -> tuple[NDArray[np.int64], int, int]:
    """Return the rows whose first two texts are also a pair of another data set, in either order.

    Rows of one text are compared only with rows of one text. Keys and rows are as in `groups_of_texts`.

    Returns:
        The rows in order, the number of different pairs (or single texts) among them, and the number of different
        texts that both data sets have.
    """
    shared = np.intersect1d(keys, other_keys)
    one_text = [rows.shape[1] == 1 for rows in (text_rows, other_rows)]
    if not len(shared) or one_text[0] != one_text[1]:
        return np.empty(0, np.int64), 0, len(shared)
    ours, theirs = (_shared_pairs(shared, k, rows) for k, rows in ((keys, text_rows), (other_keys, other_rows)))
    in_both = (ours >= 0) & np.isin(ours, theirs[theirs >= 0])
    return np.flatnonzero(in_both), len(np.unique(ours[in_both])), len(shared)


def _shared_pairs(
    shared: NDArray[np.uint64], keys: NDArray[np.uint64], text_rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return a number of each row's pair, shape (N,), comparable between data sets; -1 where a text is not shared."""
    place = np.minimum(np.searchsorted(shared, keys), len(shared) - 1)
    pairs = np.where(shared[place] == keys, place, -1)[text_rows[:, :2]]
    low, high = pairs.min(axis=1), pairs.max(axis=1)
    numbers: NDArray[np.int64] = np.where(low < 0, -1, low * len(shared) + high)
    return numbers


def _repeats(keys: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows that repeat a key with its value, and the first rows of a key's further values, each in order."""
    order = np.lexsort((values, keys))  # stable: the rows of one key and value stay in order
    key_begins = np.append(True, np.diff(keys[order]) != 0)
    value_begins = key_begins | np.append(True, np.diff(values[order]) != 0)
    firsts = order[value_begins]  # the first row of each key and value
    begins = np.flatnonzero(key_begins[value_begins])
    first_of_key = np.minimum.reduceat(firsts, begins)
    of_key = np.repeat(first_of_key, np.diff(np.append(begins, len(firsts))))
    return np.sort(order[~value_begins]), np.sort(firsts[firsts != of_key])


def _is_first(keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which rows are the first of their key, shape (N,)."""
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first
