"""Which pairs come again, with the same label, with another one, with their sides swapped or in another data set.

Two texts are the same here where an uncased model hardly tells them apart: case, spacing and the two spellings of a
composed character do not count. Each distinct text is reduced to a key of 64 bits once (among 20 million texts, two
share one by chance once in 100,000 data sets); everything after that is sorting numbers.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sbert_ft.data.labels import Labels
from sbert_ft.data.ledger import N_SHOWN, Finding, Unit, at_lines, counted, first_lines, row_word


def text_key(text: str) -> int:
    """Return 64 bits that are equal for texts equal up to case, spacing and Unicode composition."""
    plain = " ".join((text if text.isascii() else unicodedata.normalize("NFC", text)).casefold().split())
    return int.from_bytes(hashlib.blake2b(plain.encode(), digest_size=8).digest(), "little")


def text_keys(texts: Iterable[str], n_texts: int) -> NDArray[np.uint64]:
    """Return the key of each text, shape (n_texts,)."""
    return np.fromiter(map(text_key, texts), np.uint64, n_texts)


def groups_of_texts(keys: NDArray[np.uint64], text_rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the texts of rows as numbers that are the same for the same text.

    Args:
        keys: Of the distinct texts, shape (n_distinct,).
        text_rows: Index of each row's texts among them, shape (N, k).

    Returns:
        Shape (N, k), from 0.
    """
    group_of_text = np.unique(keys, return_inverse=True)[1].astype(np.int64)
    groups: NDArray[np.int64] = group_of_text[text_rows]
    return groups


def row_keys(groups: NDArray[np.int64], ordered: bool) -> NDArray[np.int64]:
    """Return a number for each row that is the same for the same texts.

    Args:
        groups: Shape (N, k), numbers of texts from 0, below 2^31.
        ordered: Whether a pair differs from the one with its sides swapped; rows of three texts always do.

    Returns:
        Shape (N,).
    """
    if not ordered and groups.shape[1] == 2:
        groups = np.sort(groups, axis=1)
    n_groups = int(groups.max(initial=0)) + 1
    keys = groups[:, 0]
    for column in groups.T[1:]:
        ranks = np.unique(keys, return_inverse=True)[1].astype(np.int64)  # small, so the product cannot overflow
        keys = ranks * n_groups + column
    return keys


def repeat_findings(groups: NDArray[np.int64], labels: Labels, lines: NDArray[np.int64], unit: Unit) -> list[Finding]:
    """Return which rows say again, or otherwise, what an earlier one says; none of them is dropped.

    For classes (premise and hypothesis, as a rule) the order of the sides matters, for all other labels it does not.

    Args:
        groups: The rows' texts as numbers, shape (N, k).
        labels: Of the N rows.
        lines: Where they stand, shape (N,).
        unit: What `lines` counts.
    """
    is_pair = groups.shape[1] == 2
    keys = row_keys(groups, ordered=labels.kind == "classes")
    values = np.zeros(len(keys)) if labels.values is None else labels.values
    duplicates, contradictory = _repeats(keys, values)
    aside = "case, spacing and order aside" if is_pair and labels.kind != "classes" else "case and spacing aside"
    thing = row_word(groups.shape[1])
    same_label = "" if labels.kind == "none" else " with the same label"
    findings = [
        _finding("duplicate", duplicates, f"repeating an earlier {thing}{same_label} ({aside})", lines, unit),
        _finding(
            "contradictory", contradictory, f"repeating an earlier {thing} with another label ({aside})", lines, unit
        ),
    ]
    if is_pair:
        unordered = keys if labels.kind != "classes" else row_keys(groups, ordered=False)
        swapped = np.flatnonzero(_is_first(row_keys(groups, ordered=True)) & ~_is_first(unordered))
        findings.append(_finding("swapped", swapped, "repeating an earlier pair with its sides swapped", lines, unit))
        same = np.flatnonzero(groups[:, 0] == groups[:, 1])
        findings.append(_finding("identical_sides", same, "having the same text on both sides", lines, unit))
    elif groups.shape[1] == 3:
        positives, negatives = _anchor_keys(groups)
        against = np.flatnonzero(np.isin(negatives, positives))
        problem = "having a negative that is a positive of the same anchor, here or in another row"
        findings.append(_finding("contradictory_negative", against, problem, lines, unit))
    return [finding for finding in findings if finding.count]


def overlap_rows(
    keys: NDArray[np.uint64],
    text_rows: NDArray[np.int64],
    other_keys: NDArray[np.uint64],
    other_rows: NDArray[np.int64],
) -> tuple[NDArray[np.int64], int, int]:
    """Return which rows' first two texts are a pair of another data set too, in whichever order.

    Rows of one text are compared with rows of one text alone.

    Args:
        keys: Of the distinct texts, shape (n_distinct,).
        text_rows: Shape (N, k).
        other_keys: Of the other set's distinct texts.
        other_rows: Shape (M, k').

    Returns:
        The rows in order, the number of different pairs (or single texts) among them, and that of different texts
        shared.
    """
    shared = np.intersect1d(keys, other_keys)
    one_text = [rows.shape[1] == 1 for rows in (text_rows, other_rows)]
    if not len(shared) or one_text[0] != one_text[1]:
        return np.empty(0, np.int64), 0, len(shared)
    ours, theirs = (_shared_pairs(shared, k, rows) for k, rows in ((keys, text_rows), (other_keys, other_rows)))
    in_both = (ours >= 0) & np.isin(ours, theirs[theirs >= 0])
    return np.flatnonzero(in_both), len(np.unique(ours[in_both])), len(shared)


def overlap_finding(
    name: str, rows: NDArray[np.int64], n_pairs: int, lines: NDArray[np.int64], unit: Unit, thing: str = "pair"
) -> Finding:
    """Return the finding "overlap_<name>" of the rows, all `lines` being given, that another data set has too.

    Args:
        name: What the other data set is for.
        rows: Those that it has too, shape (n,).
        n_pairs: Different ones among them.
        lines: Where all rows stand, shape (N,).
        unit: What `lines` counts.
        thing: What a row is: "pair", or "text" for one text a row.
    """
    finding = _finding(f"overlap_{name}", rows, f"having a {thing} that {name} has too", lines, unit)
    aside = "case and spacing aside" if thing == "text" else "case, spacing and order aside"
    sentence = f"{finding.sentence} ({counted(n_pairs, f'different {thing}')}; {aside})"
    return Finding(finding.kind, finding.count, False, finding.first, sentence)


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
    """Return the rows that repeat key and value, and those that give a key a value it had not, each in order."""
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


def _anchor_keys(groups: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each row's (anchor, positive) and (anchor, negative) as numbers of one range, each of shape (N,)."""
    both = row_keys(np.concatenate([groups[:, [0, 1]], groups[:, [0, 2]]]), ordered=True)
    return both[: len(groups)], both[len(groups) :]


def _finding(kind: str, rows: NDArray[np.int64], problem: str, lines: NDArray[np.int64], unit: Unit) -> Finding:
    first = first_lines(lines[rows[:N_SHOWN]])
    sentence = f"{counted(len(rows), 'row')} {problem}: {at_lines(first, len(rows), unit)}"
    return Finding(kind, len(rows), False, first, sentence)
