"""Hard negatives that a run mines for its pairs, with the model as it is before the first epoch and later ones.

The distinct texts are encoded as in use (no dropout, no gradient), and each anchor gets candidates from the ranks that
the settings name. A pair's negatives are further columns of its row, (anchor, positive, negative, negative), not
further rows: anchor and positive are encoded once for all of them, a batch still has `batch_size` pairs, and an epoch
still is one pass over the pairs, with the same steps as without negatives.

The batches of an epoch follow from the pairs alone. Of its candidates each row then takes the nearest ones that fit its
batch, whose anchors all take them as negatives: none is there twice, or known or likely to match one of these anchors.

The cost of mining is an encoding of all texts and their products; that of a step grows with the texts of a row.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sbert_ft.config.settings import NegativeSettings
from sbert_ft.data.formats import NewColumn
from sbert_ft.data.ledger import counted
from sbert_ft.data.new_table import write_rows
from sbert_ft.encoder.ranks import Ranks
from sbert_ft.errors import InputError, quoted
from sbert_ft.evaluation.calibration import fit_calibration
from sbert_ft.evaluation.evaluator import joined_unless
from sbert_ft.evaluation.pair_evaluator import evaluation_pairs, score_stream
from sbert_ft.files.atomic import whole_file
from sbert_ft.model_folder.decision import Calibration
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.models.unit_vectors import Encoding, unit_vectors
from sbert_ft.report.formatting import UNWRITABLE, escape_of, shortened
from sbert_ft.search.negatives import (
    IsSuspect,
    MatchingPairs,
    NegativeRules,
    farthest_positives,
    hard_negatives,
    suspected_pairs,
)
from sbert_ft.training.prepare import PreparedRun
from sbert_ft.training.tokenized_dataset import TokenizedConnections
from sbert_ft.vectors.joins import Scores
from sbert_ft.vectors.nearest import Rows, Vectors

logger = logging.getLogger(__name__)

NEGATIVES: Final = "negatives"
"""The name of their lines in the log, and of their tensors in a checkpoint."""
CLOSEST: Final = 0.95
"""Without a calibration: the share of its positive's cosine above which a text is no negative of an anchor."""
_SPARE = 8  # further candidates of an anchor, for batches that some of the first ones do not fit
_N_EXAMPLES = 5
_EXAMPLE_CHARACTERS = 300
Rule = Literal["dev", "stored", "margin"]


class _Stopped(Exception):
    """The run is to end, so mining does."""


@dataclass(frozen=True)
class Candidates:
    """What was mined, and is saved with each checkpoint; anchors and texts are rows of `MatchingPairs`.

    Attributes:
        texts: Candidates of each anchor, the nearest first; shape (A, C), int32, -1 for none.
        scores: Their cosines; shape (A, C), float32.
        suspects: Rows of anchors and of texts that are near and likely to match; shape (2, S), int32.
        suspect_scores: Their cosines; shape (S,), float32.
    """

    texts: NDArray[np.int32]
    scores: NDArray[np.float32]
    suspects: NDArray[np.int32]
    suspect_scores: NDArray[np.float32]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return them for a checkpoint, by name."""
        return {name: torch.from_numpy(values) for name, values in vars(self).items()}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> Candidates:
        """Return those that a checkpoint holds."""
        return cls(**{name: tensors[name].numpy() for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Mined:
    """The candidates of an epoch, and by which rule likely matches were left out.

    Attributes:
        candidates: The candidates.
        rule: A calibration fitted on dev, the one that is stored with the model, or a margin to the positive.
        calibration: From cosine to probability; None for the margin.
        seconds: How long it took.
    """

    candidates: Candidates
    rule: Rule
    calibration: Calibration | None
    seconds: float


@dataclass(frozen=True)
class ChosenNegatives:
    """The negatives of an epoch's rows; shape (N, per_pair) each.

    Attributes:
        texts: Rows of the corpus, int64.
        places: Which of its anchor's candidates each is, from 0; -1 for a text drawn in place of a missing candidate.
    """

    texts: Rows
    places: Rows


class NegativeMiner:
    """Mines negatives for the pairs of a run, and chooses those of each epoch.

    Attributes:
        settings: What is mined.
        pairs: The run's pairs by their distinct texts.
    """

    def __init__(self, run: PreparedRun, settings: NegativeSettings) -> None:
        """Find the distinct texts of the pairs.

        Raises:
            InputError: There are too few texts to choose from.
        """
        self.settings, self._run = settings, run
        self.pairs = MatchingPairs.of(list(run.connections.train.pairs()))
        self.pairs.check_rank(settings.ranks[0])
        anchors, corpus = self.pairs.anchors, self.pairs.corpus
        # numbers that are the same for a text as anchor and as a text to choose
        numbers = np.unique(np.concatenate([anchors.keys, corpus.keys]), return_inverse=True)[1]
        self._of_anchor, self._of_text = np.split(numbers, [len(anchors.texts)])
        self._warned = False

    def is_due(self, epoch: int) -> bool:
        """Return whether negatives are mined before this epoch, from 0."""
        every = self.settings.every_epochs
        return epoch == 0 if every is None else epoch % every == 0

    @property
    def n_bytes(self) -> int:
        """Memory of the vectors of all texts while negatives are mined."""
        width = self._run.model.bert.hidden_size
        return 4 * width * (len(self.pairs.anchors.texts) + len(self.pairs.corpus.texts))

    def describe(self) -> str:
        """Return in words what is mined."""
        wanted, (first, last) = self.settings, self.settings.ranks
        every = wanted.every_epochs
        again = "" if every is None else f" and every {counted(every, 'epoch') if every > 1 else 'epoch'} after it"
        negatives = counted(wanted.per_pair, "negative")
        return (
            f"{negatives} a pair from ranks {first} to {last} of {counted(len(self.pairs.corpus.texts), 'text')}, "
            f"mined before the first epoch{again}; vectors take {self.n_bytes / 2**20:,.0f} MiB meanwhile"
        )

    def check_batches(self, batches: Sequence[Rows]) -> None:
        """Check that there are enough texts for the negatives of each of an epoch's batches.

        Raises:
            InputError: There are fewer.
        """
        most, n_texts = max(map(len, batches), default=0), len(self.pairs.corpus.texts)
        needed = most * (1 + self.settings.per_pair)
        if needed > n_texts:
            raise InputError(
                f"data.negatives: a batch of {counted(most, 'pair')} needs {needed:,} different second texts with "
                f"{self.settings.per_pair} negatives a pair, but there are {n_texts:,}, and no batch may hold a text "
                "twice",
                "lower training.batch_size or data.negatives.per_pair",
            )

    def mine(self, is_start: bool, ranks: Ranks, stopped: Callable[[], bool]) -> Mined | None:
        """Return the candidates by the model as it is, or None once `stopped` returns True.

        Of several processes all call it: each encodes a share, the first one compares, and all get the same.

        Args:
            is_start: Whether the model has its first weights, for which its stored calibration was fitted.
            ranks: The processes of the run.
            stopped: Called now and then.
        """
        model, began = self._run.model, time.perf_counter()
        assert isinstance(model, SiameseBert)

        def on_encoded(_n: int) -> None:
            if stopped():
                raise _Stopped

        encoding = Encoding(on_truncate="ignore", on_encoded=on_encoded)
        first, second = model.prompts_of_pair
        try:
            anchors = unit_vectors(model, self.pairs.anchors.texts, first, encoding)
            texts = unit_vectors(model, self.pairs.corpus.texts, second, encoding)
            rule, calibration = self._rule(model, is_start, stopped)
        except _Stopped:
            return None
        candidates = ranks.told(lambda: self._candidates(anchors, texts, calibration))
        return Mined(candidates, rule, calibration, time.perf_counter() - began)

    def _rule(self, model: SiameseBert, is_start: bool, stopped: Callable[[], bool]) -> tuple[Rule, Calibration | None]:
        """Return how likely matches are told: by dev pairs and this model, by the stored calibration, or by neither."""
        dev, evaluation = self._run.connections.dev, self._run.settings.evaluation
        if dev is not None and (dev.labels is not None or dev.n_texts == 3):
            pairs = evaluation_pairs("dev", dev, evaluation.match_from)
            scores = joined_unless(score_stream(model, pairs), stopped)
            if scores is None:
                raise _Stopped
            kind = "auto" if evaluation.calibration == "none" else evaluation.calibration
            if np.isfinite(scores).all() and np.ptp(scores) > 0 and 0 < pairs.matches.sum() < len(pairs.matches):
                calibration = fit_calibration(scores.astype(np.float64), pairs.matches, kind)
                if calibration is not None and np.ptp(calibration.probability(np.array([-1.0, 1.0]))) > 0:
                    return "dev", calibration
            cause = f"none can be fitted on the pairs of {quoted(dev.source, limit=400)}"
        elif model.decision is not None and model.decision.calibration is not None:
            if is_start:
                return "stored", model.decision.calibration
            cause = "the model's own is that of its weights before training, and no dev has labels to fit another on"
        else:
            cause = "the model has none, and no dev has labels to fit one on"
        if not self._warned:
            logger.warning(
                "data.negatives.max_probability needs a calibration: %s; so a text is left out as a likely match if "
                "its cosine is above %g %% of that of the anchor's positive (of several the farthest)",
                *(cause, 100 * CLOSEST),
            )
        self._warned = True
        return "margin", None

    def _candidates(self, anchors: Vectors, texts: Vectors, calibration: Calibration | None) -> Candidates:
        first, last = self.settings.ranks
        n = min(last - first, self.settings.per_pair + _SPARE)
        if calibration is None:
            is_suspect = _near_positive(farthest_positives(anchors, texts, self.pairs.positives))
        else:
            is_suspect = _probable(calibration, self.settings.max_probability)
        rules = NegativeRules(n, first, last)
        found = hard_negatives(anchors, texts, self.pairs.positives, rules, self.pairs.excluded, is_suspect)
        begins = np.searchsorted(found.anchors, np.arange(len(anchors)))
        places = np.arange(len(found.anchors)) - begins[found.anchors]
        chosen, scores = np.full((len(anchors), n), -1, np.int32), np.zeros((len(anchors), n), np.float32)
        chosen[found.anchors, places], scores[found.anchors, places] = found.texts, found.scores
        of_anchors, of_texts, cosines = found.suspects
        return Candidates(chosen, scores, np.stack([of_anchors, of_texts]).astype(np.int32), cosines)

    def choose(self, candidates: Candidates, batches: Sequence[Rows], epoch: int) -> ChosenNegatives:
        """Return the negatives of an epoch's rows: for each the nearest candidates that fit its batch.

        One that fits is no text of the batch, and neither known nor likely to match an anchor of the batch. Where no
        text does, one that is likely to match another row's anchor fits too; where still none does, one that is known
        to match it. Where a row has no candidate left, a text is drawn.

        Args:
            candidates: Those of all anchors.
            batches: Rows of each batch, which are all rows of the run.
            epoch: From 0; with the run's seed it decides what is drawn.

        Raises:
            InputError: No text is left for a row.
        """
        random = np.random.default_rng([self._run.settings.training.seed, epoch, 1])
        corpus, k = self.pairs.corpus, self.settings.per_pair
        of_row, of_text = self.pairs.anchors.of_row, self._of_text.tolist()
        positives = self._of_text[corpus.of_row].tolist()
        chosen, places = np.full((len(of_row), k), -1, np.int64), np.full((len(of_row), k), -1, np.int64)
        known = self._by_anchor(self.pairs.positives, self.pairs.excluded)
        likely = self._by_anchor(candidates.suspects)
        for batch in batches:
            rows, anchors = batch.tolist(), of_row[batch].tolist()
            present = {*self._of_anchor[anchors].tolist(), *(positives[row] for row in rows)}
            of_all_known = set(chain.from_iterable(map(known, anchors)))
            of_all = of_all_known.union(chain.from_iterable(map(likely, anchors)))
            for row, anchor in zip(rows, anchors, strict=True):
                own, own_likely = candidates.texts[anchor].tolist(), set(likely(anchor))
                levels = (of_all, of_all_known | own_likely, own_likely.union(known(anchor)))
                for number in range(k):
                    for unfit in levels:
                        found = _first_fitting(own, of_text, present, unfit)
                        if found is None:
                            begin = int(random.integers(len(of_text)))
                            drawn = chain(range(begin, len(of_text)), range(begin))
                            found = _first_fitting(drawn, of_text, present, unfit)
                            found = None if found is None else (-1, found[1])
                        if found is not None:
                            break
                    else:
                        anchor_text = quoted(self.pairs.anchors.texts[anchor], limit=40)
                        raise InputError(
                            f"data.negatives: a batch of {counted(len(rows), 'pair')} has no text left that is not "
                            f"known or likely to match {anchor_text}",
                            "lower training.batch_size or data.negatives.per_pair, or raise max_probability",
                        )
                    places[row, number], chosen[row, number] = found
                    present.add(of_text[found[1]])
        return ChosenNegatives(chosen, places)

    def _by_anchor(self, *pairs: Sequence[NDArray[np.integer]] | NDArray[np.integer]) -> Callable[[int], list[int]]:
        """Return a function from an anchor to the numbers of its texts in pairs of rows of anchors and of texts."""
        anchors, texts = (np.concatenate([side[i] for side in pairs]) for i in (0, 1))
        order = np.argsort(anchors, kind="stable")
        begins = np.searchsorted(anchors[order], np.arange(len(self._of_anchor) + 1)).tolist()
        numbers = self._of_text[texts[order]].tolist()
        return lambda anchor: numbers[begins[anchor] : begins[anchor + 1]]

    def with_negatives(self, tokens: TokenizedConnections, chosen: ChosenNegatives) -> TokenizedConnections:
        """Return rows with their negatives as further columns: shape (N, 2 + per_pair)."""
        text_rows, second = self._run.connections.train.text_rows, tokens.rows[:, 1]
        with_prompt = int(second[0] - text_rows[0, 1])  # texts are numbered anew for each prompt
        negatives = text_rows[self.pairs.corpus.rows[chosen.texts], 1] + with_prompt
        return replace(tokens, rows=np.concatenate([tokens.rows, negatives], axis=1))

    def write(self, folder: Path, epoch: int, mined: Mined, chosen: ChosenNegatives) -> dict[str, Any]:
        """Write the negatives and the likely matches of an epoch, from 0, for a person, and return a line for the log.

        negatives-1.csv has for each negative of the first epoch its line, anchor, positive, cosine with the anchor,
        probability and rank, which are empty for a text that was drawn; suspects-1.csv the texts left out.
        """
        anchors, corpus, train = self.pairs.anchors, self.pairs.corpus, self._run.connections.train
        candidates, probability = mined.candidates, _probabilities(mined.calibration)
        of_row = anchors.of_row
        scores = candidates.scores[of_row[:, None], np.maximum(chosen.places, 0)]
        is_mined = chosen.places >= 0
        likely = probability(scores)
        ranks = chosen.places + self.settings.ranks[0]

        def rows() -> Any:
            for row, (texts, line) in enumerate(zip(train.pairs(), train.lines.tolist(), strict=True)):
                for i, text in enumerate(chosen.texts[row].tolist()):
                    values = (float(scores[row, i]), likely[row][i], int(ranks[row, i]))
                    yield (
                        line,
                        *map(_writable, (*texts, corpus.texts[text])),
                        *(values if is_mined[row, i] else [""] * 3),
                    )

        names = [NewColumn("line"), *(NewColumn(name, "text") for name in ("anchor", "positive", "negative"))]
        names += [NewColumn(name) for name in ("cosine", "probability", "rank")]
        with whole_file(folder / f"negatives-{epoch + 1}.csv") as temporary:
            write_rows(temporary, "csv", names, rows())
        of_anchors, of_texts = candidates.suspects.astype(np.int64)
        suspects = list(suspected_pairs(anchors, corpus, (of_anchors, of_texts, candidates.suspect_scores)))
        doubts = probability(np.array([[score for _, _, score in suspects]], np.float32))[0]
        names = [
            NewColumn("text_1", "text"),
            NewColumn("text_2", "text"),
            NewColumn("cosine"),
            NewColumn("probability"),
        ]
        with whole_file(folder / f"suspects-{epoch + 1}.csv") as temporary:
            write_rows(
                temporary,
                "csv",
                names,
                (
                    (_writable(a), _writable(b), score, doubt)
                    for (a, b, score), doubt in zip(suspects, doubts, strict=True)
                ),
            )
        nearest = np.argsort(np.where(is_mined, -scores, np.inf), axis=None, kind="stable")[:_N_EXAMPLES]
        examples = []
        for row, i in zip(*(places.tolist() for places in np.unravel_index(nearest, scores.shape)), strict=True):
            if is_mined[row, i]:
                texts = (*train[row].texts, corpus.texts[int(chosen.texts[row, i])])
                cut = [shortened(text, _EXAMPLE_CHARACTERS) for text in texts]
                examples.append([int(train.lines[row]), *cut, float(scores[row, i]), likely[row][i] or None])
        return {
            "n": int(is_mined.size),
            "n_drawn": int((~is_mined).sum()),
            "n_suspects": len(suspects),
            "mean_cosine": float(scores[is_mined].mean(dtype=np.float64)) if is_mined.any() else None,
            "rule": mined.rule,
            "examples": examples,
        }


def describe_mined(record: Mapping[str, Any], seconds: float) -> str:
    """Return in words what `NegativeMiner.write` returned for the log, and how long the mining took."""
    mean = "" if record["mean_cosine"] is None else f", mean cosine {record['mean_cosine']:.4f}"
    return (
        f"{counted(record['n'], 'negative')} mined in {seconds:.1f} s{mean}; "
        f"{counted(record['n_suspects'], 'pair')} left out as likely matches, {record['n_drawn']:,} drawn where there "
        "were too few"
    )


def _first_fitting(texts: Any, of_text: Sequence[int], present: set[int], unfit: set[int]) -> tuple[int, int] | None:
    """Return place and row of the first of some rows of the corpus that is in neither set; -1 is no row."""
    for place, text in enumerate(texts):
        if text >= 0 and of_text[text] not in present and of_text[text] not in unfit:
            return place, text
    return None


def _probable(calibration: Calibration, most: float) -> IsSuspect:
    return lambda _anchors, scores: calibration.probability(scores) > most


def _near_positive(farthest: NDArray[np.float64]) -> IsSuspect:
    """Return which cosines are too near to those of the positives.

    As TopK-PercPos of NV-Retriever (Moreira et al. 2024, section 4), for positives of any sign.
    """
    most = farthest - np.abs(farthest) * (1 - CLOSEST)

    def is_suspect(anchors: Rows, scores: Scores) -> NDArray[np.bool_]:
        high: NDArray[np.bool_] = scores > most[anchors]
        return high

    return is_suspect


def _probabilities(calibration: Calibration | None) -> Callable[[Scores], list[list[float | str]]]:
    """Return a function from cosines, shape (N, k), to their probabilities as values of a table; "" for unknown."""

    def of(scores: Scores) -> list[list[float | str]]:
        if calibration is None:
            return [[""] * scores.shape[1]] * len(scores)
        return [calibration.probability(of_row).tolist() for of_row in scores]

    return of


def _writable(text: str) -> str:
    """Return a text as a file of cells can hold it: NUL is escaped."""
    return UNWRITABLE.sub(lambda found: escape_of(found[0]), text)
