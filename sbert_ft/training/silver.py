"""The silver pairs of a run: found by its encoder, labelled by its teacher, and kept in its folder for people to see.

They are made once, from models and files whose digests are written beside them. A resumed run reads them back, so it
makes the same steps, and refuses them where something that they were made from has changed. Only one model is in
memory at a time: the encoder for the nearest texts, then the teacher for the labels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.settings import EvaluationSettings, Reading, RunSettings, TeacherSettings
from sbert_ft.data.corpus import TextCorpus
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.data.formats import NewColumn
from sbert_ft.data.ledger import counted
from sbert_ft.data.new_table import write_rows
from sbert_ft.encoder.devices import Precision
from sbert_ft.errors import InputError, RunFolderError, quoted, shown
from sbert_ft.evaluation.pair_evaluator import evaluation_pairs
from sbert_ft.files.atomic import whole_file, write_json, writing
from sbert_ft.model_folder.classifier import find_classifier
from sbert_ft.model_folder.digest import digest_of_files, weight_files
from sbert_ft.model_folder.layout import HEAD_FILE, read_folder
from sbert_ft.models.classifier import ClassifierModel
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.models.unit_vectors import Encoding, unit_vectors
from sbert_ft.search.silver import N_BINS, candidate_pairs, matched_to, share_of_bins
from sbert_ft.search.texts import DistinctTexts, prompt_of_single_set
from sbert_ft.training.prepare import RunData
from sbert_ft.training.run_folder import RunFolder, content_of

logger = logging.getLogger(__name__)

SILVER_FILE: Final = "silver.csv"
_MADE_FROM_FILE: Final = "silver.json"
_COLUMNS: Final = (
    *(NewColumn("sentence1", "text"), NewColumn("sentence2", "text")),
    *(NewColumn("score"), NewColumn("found_by", "text")),
)
_LABEL_FROM = 0.5  # the teacher's probability from which on a silver label is 1, where gold labels are 0 and 1


@dataclass(frozen=True)
class SilverSource:
    """What silver pairs are made from.

    Attributes:
        data: The gold pairs, and those of dev and test, which silver pairs must not contain.
        settings: Of the run; it has a teacher.
        encoder_dir: Folder of the sentence encoder that finds the nearest texts.
        teacher_dir: Folder of the joined classifier.
    """

    data: RunData
    settings: RunSettings
    encoder_dir: Path
    teacher_dir: Path

    @property
    def teacher(self) -> TeacherSettings:
        """The settings of the teacher."""
        assert self.settings.teacher is not None
        return self.settings.teacher

    @property
    def precision(self) -> Precision:
        """In which both models compute."""
        return "float32" if self.settings.training.precision == "float32" else "auto"

    def to_json(self) -> dict[str, Any]:
        """Return what the pairs depend on, by key: settings, and digests of files and weights."""
        teacher, texts = asdict(self.teacher), self.teacher.texts
        found: dict[str, Any] = {f"teacher.{name}": teacher[name] for name in ("pairs_per_text", "sampling")}
        found["training.seed"] = self.settings.training.seed
        found |= {f"data.{name}": dataset.sha256 for name, dataset in self.data.splits().items()}
        found["teacher.texts"] = None if texts is None else TextCorpus(texts).sha256
        return found | {"encoder": _digest(self.encoder_dir), "teacher": _digest(self.teacher_dir)}


@dataclass(frozen=True)
class Silver:
    """The silver pairs as a data set, and what metrics.json says of them."""

    pairs: ConnectionDataset
    facts: dict[str, Any]

    @property
    def described(self) -> str:
        """The number of pairs, with how they were found."""
        return f"{counted(len(self.pairs), 'silver pair')}, {self.facts['n_nearest']:,} of them of nearest texts"


def silver_of_run(folder: RunFolder, source: SilverSource, *, allow_changes: bool = False) -> Silver:
    """Return the silver pairs of the run in `folder`, which are made and written if they are not there yet.

    With `allow_changes` those that were made from something else are replaced.

    Raises:
        RunFolderError: They were made from something else, or silver.csv was changed.
        DataError: The file of further texts cannot be read.
        ModelFolderError: A model's folder is damaged.
        InputError: There is no pair to label.
        OutputError: They cannot be written.
    """
    table, described = folder.path / SILVER_FILE, folder.path / _MADE_FROM_FILE
    now = source.to_json()
    content = content_of(described) if described.exists() and table.exists() else None
    if content is not None and _is_same(content, now, described, allow_changes):
        pairs = _read(table, source)
        if pairs.sha256 != content.get("sha256"):
            raise RunFolderError(
                f"{shown(table)} was changed since the run wrote it",
                f"restore it, or remove it and {described.name} to have the pairs made again",
            )
        return Silver(pairs, content["facts"])
    with writing(described):
        described.unlink(missing_ok=True)
    rows, facts = _labelled_pairs(source)
    folder.check_is_there()
    with whole_file(table) as temporary:
        write_rows(temporary, "csv", _COLUMNS, rows)
    pairs = _read(table, source)  # as a resumed run will have them
    write_json(described, {"made_from": now, "sha256": pairs.sha256, "facts": facts})
    return Silver(pairs, facts)


def check_teacher(path: Path) -> None:
    """Check that a folder holds a classifier that can label pairs; no weights are read.

    Raises:
        ModelFolderError: As in `find_classifier`.
        InputError: It is of another kind than joined, or has more than two classes.
    """
    settings = find_classifier(read_folder(path), _kind_of(path)).settings
    if settings.kind != "joined":
        raise InputError(
            f"teacher.path, {shown(path)}, holds a classifier of kind {settings.kind}, expected one of kind joined",
            "train one (model.kind joined), or leave teacher.path out to have it trained in the run",
        )
    if settings.n_outputs > 2:
        raise InputError(
            f"teacher.path, {shown(path)}, holds a classifier of {settings.n_outputs} classes, expected one with a "
            "score or two classes, of which the second is that of a match",
            "train one with objective binary_cross_entropy",
        )


def _kind_of(path: Path) -> Any:
    """Return the kind to load a folder as: what ours says (None), and joined for a stock one, which says nothing."""
    return None if "classifier" in read_folder(path).own else "joined"


def _is_same(content: dict[str, Any], now: dict[str, Any], path: Path, allow_changes: bool) -> bool:
    """Return whether pairs were made from the same; if not, refuse them, or with `allow_changes` log a warning."""
    before = content.get("made_from")
    if not isinstance(before, dict) or "facts" not in content:
        return False
    changed = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    if not changed:
        return True
    sentence = f"the silver pairs of {shown(path.parent)} were made with another {', '.join(map(quoted, changed))}"
    if not allow_changes:
        raise RunFolderError(
            sentence, "undo this, start again with --overwrite, or have them made again with --allow-changes"
        )
    logger.warning("%s: they are made again", sentence)
    return False


def _read(table: Path, source: SilverSource) -> ConnectionDataset:
    reading = Reading(
        text_columns=("sentence1", "sentence2"), label_column="score", score_range=source.data.train.score_range
    )
    return ConnectionDataset.from_file(table, reading)


def _labelled_pairs(source: SilverSource) -> tuple[list[tuple[str, str, float, str]], dict[str, Any]]:
    """Return a row for each silver pair, and what is known about them."""
    data, settings, wanted = source.data, source.settings, source.teacher
    distinct = DistinctTexts.of(_texts(source))
    known = [distinct.places(of.text_keys)[of.text_rows[:, :2]] for of in data.splits().values()]
    pairs = np.concatenate(known)
    encoder = SiameseBert.from_pretrained(source.encoder_dir, source.settings.training.device, source.precision)
    vectors = unit_vectors(encoder, distinct.texts, prompt_of_single_set(encoder), Encoding(on_truncate="ignore"))
    del encoder
    seed = settings.training.seed
    found = candidate_pairs(vectors, pairs[(pairs >= 0).all(axis=1)], wanted.pairs_per_text, wanted.sampling, seed)
    del vectors
    logger.info("silver: %s of %s to label", *(counted(len(found), "pair"), counted(len(distinct.texts), "text")))
    if not len(found):
        raise InputError(
            f"teacher: all pairs of the {counted(len(distinct.texts), 'text')} have gold labels, so there is none to "
            "label",
            "give further texts with teacher.texts, or leave teacher out",
        )
    sides = [(distinct.texts[a], distinct.texts[b]) for a, b in zip(found.first, found.second, strict=True)]
    scores, of_dev = _scores_of_teacher(source, sides)
    targets = data.train.targets()
    assert targets is not None
    of_cosine = data.train.scale is not None and data.train.scale.is_cosine
    gold = (targets.astype(np.float64) + 1) / 2 if of_cosine else targets.astype(np.float64)
    is_kept = np.ones(len(sides), bool)
    if wanted.sampling == "matched":
        is_kept = matched_to(gold, scores, N_BINS if data.train.scale is not None else 2, seed)
    if not is_kept.any():
        raise InputError(
            f"teacher: none of {counted(len(sides), 'labelled pair')} has a score such as gold pairs have, so sampling "
            "matched keeps none",
            "set teacher.sampling to nearest or random, or use a teacher whose scores are on the scale of gold",
        )
    low, high = data.train.score_range or (0.0, 1.0)
    labels = low + (high - low) * scores if data.train.scale is not None else (scores >= _LABEL_FROM).astype(float)
    kept = np.flatnonzero(is_kept).tolist()
    ways = ("nearest", "random")
    rows = [(*sides[i], float(labels[i]), ways[0 if found.is_near[i] else 1]) for i in kept]
    facts = {
        "path": str(source.teacher_dir),
        "teacher": of_dev,
        "n_texts": len(distinct.texts),
        "n_labelled": len(sides),
        "n_silver": len(rows),
        "n_nearest": int(found.is_near[is_kept].sum()),
        "shares": {"gold": share_of_bins(gold).tolist(), "silver": share_of_bins(scores[is_kept]).tolist()},
    }
    return rows, facts


def _texts(source: SilverSource) -> list[str]:
    """Return the training texts and the further ones, without those that only dev or test has.

    A text that a CSV file cannot hold (NUL) is left out too.
    """
    data, texts = source.data, source.teacher.texts
    more = ConnectionDataset.from_corpus(TextCorpus(texts)) if texts is not None else None
    own = data.train.distinct_texts(0, data.train.n_distinct)
    if more is not None:
        others = [dataset.text_keys for name, dataset in data.splits().items() if name != "train"]
        held_out = np.setdiff1d(np.concatenate([np.empty(0, np.uint64), *others]), data.train.text_keys)
        is_usable = ~np.isin(more.text_keys, held_out)
        own += [text for text, usable in zip(more.distinct_texts(0, more.n_distinct), is_usable, strict=True) if usable]
        if n_left_out := int((~is_usable).sum()):
            logger.info("silver: %s of dev or test left out", counted(n_left_out, "text"))
    return [text for text in own if "\0" not in text]


def _scores_of_teacher(
    source: SilverSource, sides: Sequence[tuple[str, str]]
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Return the teacher's score of each pair, 0 to 1, shape (B,), and its metrics on dev and test."""
    path = source.teacher_dir
    teacher = ClassifierModel.from_pretrained(
        path, source.settings.training.device, source.precision, kind=_kind_of(path)
    )
    settings: EvaluationSettings = source.settings.evaluation
    found = {}
    for name, dataset in source.data.splits().items():
        if name != "train":
            pairs = evaluation_pairs(name, dataset, settings.match_from)
            scores = teacher.connection_scores(pairs.texts(), on_truncate="ignore")
            found[name] = pairs.metrics(scores).to_json(settings)
    return teacher.connection_scores(sides, on_truncate="ignore"), found


def _digest(path: Path) -> str:
    """Return the digest of a model's weights, its head included."""
    source = read_folder(path)
    head = source.path / HEAD_FILE
    return digest_of_files([*weight_files(source.encoder_path), *([head] if head.exists() else [])])
