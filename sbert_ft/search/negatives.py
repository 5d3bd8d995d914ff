"""Hard negatives: for each anchor the texts that are near to it and do not belong to it.

`hard_negatives` works on vectors alone, so it can be called again with those of each epoch. `mine_negatives` encodes
the texts, and keeps apart what is known to match and what is likely to match although nobody said so: the suspects,
which a person should look at. Ranks and margins mean what they mean in sentence-transformers' `mine_hard_negatives`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sbert_ft.arguments import whole_number
from sbert_ft.errors import InputError, quoted
from sbert_ft.model_folder.decision import chosen_threshold
from sbert_ft.models.unit_vectors import Encoding, unit_vectors
from sbert_ft.search.texts import DistinctTexts
from sbert_ft.vectors.joins import Scores
from sbert_ft.vectors.nearest import Rows, Vectors, nearest
from sbert_ft.vectors.products import cosines

if TYPE_CHECKING:
    from sbert_ft.models.sentence_encoder import SentenceEncoder

_BLOCK = 4096  # anchors whose nearest texts are held at once
IsSuspect = Callable[[Rows, Scores], NDArray[np.bool_]]


@dataclass(frozen=True)
class NegativeRules:
    """Which texts are taken as negatives of an anchor.

    Attributes:
        n: How many for each anchor, the nearest first.
        first_rank: How many of the nearest texts to skip; texts that the other rules exclude have no rank.
        last_rank: The rank before which negatives are looked for; None for ``first_rank + 10 * n`` and as many as there
            are known matches.
        margin: A negative's cosine is at least this much below that of the anchor's farthest positive.
        relative_margin: The same as a share of that positive's cosine, 0 to 1.
    """

    n: int = 1
    first_rank: int = 0
    last_rank: int | None = None
    margin: float | None = None
    relative_margin: float | None = None

    def __post_init__(self) -> None:
        """Check the values; an `InputError` for a wrong one."""
        whole_number(self.n, "n", 1)
        whole_number(self.first_rank, "first_rank", 0)
        if self.last_rank is not None:
            whole_number(self.last_rank, "last_rank", self.first_rank + 1)
            if self.last_rank - self.first_rank < self.n:
                raise InputError(
                    f"{self.n} negatives are asked for, but there are {self.last_rank - self.first_rank} ranks from "
                    f"{self.first_rank} to {self.last_rank}",
                    "ask for fewer, or widen the ranks",
                )
        for name, most in (("margin", 2.0), ("relative_margin", 1.0)):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= most:
                raise InputError(f"{name} is {quoted(value)}, expected a number from 0 to {most:g}")


@dataclass(frozen=True)
class Negatives:
    """Pairs of an anchor and a text, in order of anchors, the nearest text first; arrays of shape (B,).

    Attributes:
        anchors: Rows of anchors, and `texts`, rows of texts.
        scores: Their cosines, float32.
        suspects: Pairs that may match: rows of anchors, rows of texts and cosines.
    """

    anchors: Rows
    texts: Rows
    scores: Scores
    suspects: tuple[Rows, Rows, Scores]


def hard_negatives(
    anchors: Vectors,
    texts: Vectors,
    positives: tuple[Rows, Rows],
    rules: NegativeRules,
    excluded: tuple[Rows, Rows] | None = None,
    is_suspect: IsSuspect | None = None,
) -> Negatives:
    """Return the hard negatives of anchors.

    Args:
        anchors: Vectors of length 1, shape (q, d).
        texts: The same of the texts to choose from, shape (n, d).
        positives: Rows of anchors and of their matching texts, shape (P,) each.
        rules: Which texts are taken.
        excluded: Further pairs that are no negatives, as in `positives`; None for no others.
        is_suspect: Returns which of some cosines are too high for a negative, shape (B,); None for none. It gets the
            rows of their anchors and the cosines, shape (B,) each.
    """
    known_anchors, known_texts = (
        positives if excluded is None else map(np.concatenate, zip(positives, excluded, strict=True))
    )
    known = np.unique(known_anchors * len(texts) + known_texts)
    n_known = int(np.bincount(known // len(texts), minlength=1).max()) if len(known) else 0
    last = rules.first_rank + 10 * rules.n + n_known if rules.last_rank is None else rules.last_rank
    farthest = farthest_positives(anchors, texts, positives)
    k = min(len(texts), last + n_known)
    parts: list[tuple[Rows, Rows, Scores]] = []
    suspects: list[tuple[Rows, Rows, Scores]] = []
    for begin in range(0, len(anchors), _BLOCK):
        found = nearest(anchors[begin : begin + _BLOCK], texts, k)
        rows = np.arange(begin, begin + len(found.rows))[:, None]
        usable = ~np.isin(rows * len(texts) + found.rows, known)
        if is_suspect is not None:
            of_scores = np.repeat(rows.ravel(), found.scores.shape[1])
            high = is_suspect(of_scores, found.scores.ravel()).reshape(found.scores.shape)
            at, place = np.nonzero(usable & high)
            suspects.append((at + begin, found.rows[at, place], found.scores[at, place]))
            usable &= ~high
        most = farthest[rows]
        if rules.margin is not None:
            usable &= found.scores + rules.margin <= most
        if rules.relative_margin is not None:
            usable &= found.scores <= most - np.abs(most) * rules.relative_margin
        ranks = np.cumsum(usable, axis=1) - 1
        usable &= (ranks >= rules.first_rank) & (ranks < min(last, rules.first_rank + rules.n))
        at, place = np.nonzero(usable)
        parts.append((at + begin, found.rows[at, place], found.scores[at, place]))
    none = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    chosen = [np.concatenate(part) for part in zip(none, *parts, strict=True)]
    doubted = [np.concatenate(part) for part in zip(none, *suspects, strict=True)]
    return Negatives(chosen[0], chosen[1], chosen[2], (doubted[0], doubted[1], doubted[2]))


def farthest_positives(anchors: Vectors, texts: Vectors, positives: tuple[Rows, Rows]) -> NDArray[np.float64]:
    """Return the lowest cosine of each anchor with a positive, shape (q,); infinite without one.

    Arguments as in `hard_negatives`.
    """
    farthest = np.full(len(anchors), np.inf)
    np.minimum.at(farthest, positives[0], cosines(anchors, texts, *positives))
    return farthest


@dataclass(frozen=True)
class MatchingPairs:
    """Pairs that match, as rows of their distinct texts; texts equal but for case and spacing are one.

    Attributes:
        anchors: The first texts.
        corpus: The texts to choose negatives from: the second texts of all pairs first, then others.
        positives: Rows of anchors and of their positives, shape (P,) each; no pair is there twice.
        excluded: The same of further pairs that are no negatives: matches in the other order, and anchors themselves.
    """

    anchors: DistinctTexts
    corpus: DistinctTexts
    positives: tuple[Rows, Rows]
    excluded: tuple[Rows, Rows]

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, str]], texts: Sequence[str] = ()) -> MatchingPairs:
        """Return some pairs, anchor first, with further texts to choose from.

        Raises:
            InputError: There is no pair.
        """
        anchors = DistinctTexts.of([first for first, _ in pairs], "pairs")
        corpus = DistinctTexts.of([*(second for _, second in pairs), *texts], "texts")
        seconds = corpus.of_row[: len(pairs)]
        # a pair matches in either order: its second text may be an anchor, too
        backwards = anchors.places(corpus.keys)[seconds], corpus.places(anchors.keys)[anchors.of_row]
        themselves = np.arange(len(anchors.texts)), corpus.places(anchors.keys)
        both = [np.concatenate(side) for side in zip(backwards, themselves, strict=True)]
        there = (both[0] >= 0) & (both[1] >= 0)
        positives = np.unique(np.stack([anchors.of_row, seconds]), axis=1)
        return cls(anchors, corpus, (positives[0], positives[1]), (both[0][there], both[1][there]))

    def check_rank(self, first_rank: int) -> None:
        """Check that there is a text of this rank.

        Raises:
            InputError: There are fewer texts.
        """
        if first_rank >= len(self.corpus.texts):
            raise InputError(
                f"negatives are asked for from rank {first_rank} on, but there are only {len(self.corpus.texts)} "
                "different texts to choose from",
                "lower the first rank or give more texts",
            )


@dataclass(frozen=True)
class MinedNegatives:
    """Hard negatives of pairs of texts.

    Attributes:
        triplets: (anchor, positive, negative), in order of the pairs; each positive of an anchor with each negative.
        suspects: (text, text, cosine, probability) of likely matches that nobody named, the likeliest first, each two
            texts once; the probability is None without a calibration.
        n_short: Anchors with fewer negatives than were asked for.
    """

    triplets: list[tuple[str, str, str]]
    suspects: list[tuple[str, str, float, float | None]]
    n_short: int


def mine_negatives(
    model: SentenceEncoder,
    pairs: Sequence[tuple[str, str]],
    texts: Sequence[str] = (),
    rules: NegativeRules | None = None,
    *,
    threshold: float | None = None,
    max_probability: float | None = None,
    encoding: Encoding | None = None,
) -> MinedNegatives:
    """Return hard negatives for pairs that match.

    Negatives are second texts of other pairs, or are among `texts`. Never a negative is: a text known to match the
    anchor, in either order of a pair; the anchor itself; and a suspect. Texts equal but for case and spacing are one.

    Args:
        model: The encoder.
        pairs: Pairs known to match, anchor first.
        texts: Further texts to choose from.
        rules: Which texts are taken; None for the nearest one.
        threshold: The cosine from which on a text is a suspect; None for `max_probability`, or the model's threshold.
        max_probability: The probability of a match above which a text is a suspect; None for 0.5, if the model has a
            calibration and no threshold is given. With a threshold both count.
        encoding: How texts are encoded; None for the defaults.

    Raises:
        InputError: There is no pair, neither a threshold nor a calibration, or an argument is not valid.
    """
    rules, encoding = rules or NegativeRules(), encoding or Encoding()
    calibration = None if model.decision is None else model.decision.calibration
    if max_probability is not None and calibration is None:
        raise InputError(
            "max_probability is given, but the model has no calibration from cosine to probability",
            "store one with fit_threshold, or give a threshold",
        )
    if threshold is None and calibration is not None:
        max_probability = 0.5 if max_probability is None else max_probability
    if threshold is not None or max_probability is None:
        threshold = chosen_threshold(model.decision, threshold)

    def is_suspect(_anchors: Rows, scores: Scores) -> NDArray[np.bool_]:
        high = np.zeros(len(scores), bool) if threshold is None else scores.astype(np.float64) >= threshold
        if calibration is not None and max_probability is not None:
            high |= calibration.probability(scores) > max_probability
        return high

    matching = MatchingPairs.of(list(pairs), texts)
    matching.check_rank(rules.first_rank)
    anchors, corpus = matching.anchors, matching.corpus
    first_prompt, second_prompt = model.prompts_of_pair
    found = hard_negatives(
        unit_vectors(model, anchors.texts, first_prompt, encoding),
        unit_vectors(model, corpus.texts, second_prompt, encoding),
        matching.positives,
        rules,
        matching.excluded,
        is_suspect,
    )
    n_of_anchor = np.bincount(found.anchors, minlength=len(anchors.texts))
    begins = np.append(0, np.cumsum(n_of_anchor)).tolist()
    negatives = found.texts.tolist()
    triplets = [
        (anchors.texts[anchor], corpus.texts[positive], corpus.texts[negative])
        for anchor, positive in np.stack(matching.positives, axis=1).tolist()
        for negative in negatives[begins[anchor] : begins[anchor + 1]]
    ]
    suspects = list(suspected_pairs(anchors, corpus, found.suspects))
    scores = np.array([score for _, _, score in suspects], np.float32)
    likely = [None] * len(suspects) if calibration is None else calibration.probability(scores).tolist()
    return MinedNegatives(
        triplets,
        [(*suspect, probability) for suspect, probability in zip(suspects, likely, strict=True)],
        int((n_of_anchor < rules.n).sum()),
    )


def suspected_pairs(
    anchors: DistinctTexts, corpus: DistinctTexts, found: tuple[Rows, Rows, Scores]
) -> Iterator[tuple[str, str, float]]:
    """Yield texts and cosine of suspected pairs, the nearest first; two texts that suspect each other once."""
    seen = set()
    for place in np.lexsort((found[1], found[0], -found[2])).tolist():
        anchor, text = int(found[0][place]), int(found[1][place])
        key = frozenset((int(anchors.keys[anchor]), int(corpus.keys[text])))
        if key not in seen:
            seen.add(key)
            yield anchors.texts[anchor], corpus.texts[text], float(found[2][place])
