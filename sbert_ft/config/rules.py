"""Rules between values of a configuration, beyond the check of each value by itself.

Rules look only at values that are valid by themselves, defaults included. If a value has a fault, the rules about it
report nothing, so that one mistake is one line.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sbert_ft.config.faults import Fault, shown_value
from sbert_ft.config.fields import KEYS
from sbert_ft.config.file_kinds import FILE_KINDS
from sbert_ft.config.metrics import METRICS, choosing_metrics
from sbert_ft.config.objectives import (
    CLASSIFIER_OBJECTIVES,
    LANGUAGE_OBJECTIVES,
    OBJECTIVES,
    ObjectiveSettings,
    reads_single_texts,
    takers_of,
    takes_classes,
    takes_single_texts,
)
from sbert_ft.errors import enumerated, quoted

CLASSIFIER_KINDS: Final = ("towers", "joined", "single")
LANGUAGE_KIND: Final = "masked_lm"
_LABELLED_KINDS: Final = ("siamese", *CLASSIFIER_KINDS)
# The kinds of model that use an option; for others only its default is allowed.
_OPTION_OF_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "model.features": ("towers",),
    "model.truncation": ("joined",),
    "model.head_dropout": CLASSIFIER_KINDS,
    "data.prompts": ("siamese",),
    "data.retrieval": ("siamese",),
    "data.document_column": (LANGUAGE_KIND,),
    "training.adversarial_epsilon": _LABELLED_KINDS,
    **dict.fromkeys(
        (
            "model.layers",
            *("model.pooling", "data.label_column", "data.label_kind", "data.classes", "data.label_values"),
            *("data.score_range", "data.on_bad_row"),
            *("evaluation.threshold_target", "evaluation.calibration", "evaluation.match_from"),
        ),
        _LABELLED_KINDS,
    ),
}
# Allowed numbers of texts in a row, in words for the message and as numbers.
_N_TEXTS: Final[Mapping[str, tuple[str, tuple[int, ...]]]] = {
    "siamese": ("two or three names", (2, 3)),
    "towers": ("two names", (2,)),
    "joined": ("two names", (2,)),
    "single": ("one name", (1,)),
    LANGUAGE_KIND: ("one to three names", (1, 2, 3)),
}
TAKING_NEGATIVES: Final = "in_batch_negatives"
"""The objective of pairs to which negatives can be added."""
_OF_SCORES: Final = ("data.score_range", "evaluation.match_from")
_NEEDING_DEV: Final = ("eval_steps", "metric", "early_stopping_patience")
# The kind of average that uses an option; for others only its default is allowed.
_OPTION_OF_AVERAGE: Final[Mapping[str, str]] = {"training.ema_decay": "ema", "training.best_k": "best_k"}

LEFT_OUT: Final = (
    "Left out, it is cosine, softmax where model.kind is towers, joined or single, or mlm where it is masked_lm."
)


def default_objective(kind: object) -> str:
    """Return the name of the objective if none is given; a kind of model that there is not counts as siamese."""
    if kind == LANGUAGE_KIND:
        return LANGUAGE_OBJECTIVES[0]
    return CLASSIFIER_OBJECTIVES[0] if kind in CLASSIFIER_KINDS else ObjectiveSettings().name


def broken_rules(values: Mapping[str, Any], objectives: Sequence[ObjectiveSettings]) -> Iterator[Fault]:
    """Yield a fault for each rule that is broken by values (by path) and objectives (none if one has a fault)."""
    yield from _rules_of_paths(values)
    yield from _rules_of_dev(values)
    yield from _rules_of_average(values)
    yield from broken_rules_of_reading(values)
    yield from _rules_of_model(values)
    yield from _rules_of_columns(values, objectives)
    yield from _rules_of_negatives(values, objectives)
    if "model.kind" in values and objectives:
        # If kind and objective contradict each other, it is not clear which of them the other values must fit.
        yield from [*_mismatches(values["model.kind"], objectives)] or [
            *_rules_of_labels(values, objectives),
            *_rules_of_single_texts(values, objectives),
            *_rules_of_teacher(values, objectives),
        ]


def broken_rules_of_objective(path: str, values: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield a fault for each value (by name) of an option that the objective at this path does not have."""
    yield from _rules_of_dimensions(path, values)
    for option in values:
        names = takers_of(option)
        if names and "name" in values and values[option] and values["name"] not in names:
            found = f"{shown_value(values[option])} for {values['name']}"
            yield Fault(f"{path}.{option}", f"is an option of {', '.join(names)}; found {found}; leave it out")


def _rules_of_dimensions(path: str, values: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the faults of matryoshka_dims, which descend, and of their weights, of which there are as many."""
    dims, weights = values.get("matryoshka_dims"), values.get("matryoshka_weights")
    if dims is not None and list(dims) != sorted({*dims}, reverse=True):
        found = f"found {shown_value(dims)}"
        yield Fault(f"{path}.matryoshka_dims", f"expected different numbers, the largest first, {found}")
    elif weights is not None and "matryoshka_dims" in values and len(weights) != len(dims or ()):
        found = f"{len(weights)} for {len(dims or ())} numbers in matryoshka_dims"
        yield Fault(f"{path}.matryoshka_weights", f"expected a weight for each of matryoshka_dims, found {found}")


def _rules_of_paths(values: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the faults of paths with ~, which would be a folder of that name and not the home folder."""
    paths = {path: values.get(path) for path in ("data.train", "data.dev", "data.test", "output_dir")}
    paths |= {f"data.retrieval.{name}": path for name, path in (values.get("data.retrieval") or {}).items()}
    if (teacher := values.get("teacher")) is not None:
        paths |= {"teacher.path": teacher.path, "teacher.texts": teacher.texts}
    for path, value in paths.items():
        if value is not None and (value == "~" or value.startswith("~/")):
            found = f"found {quoted(value)}, but only a shell reads ~ as the home folder"
            yield Fault(path, f"{found}; write the whole path")


def _rules_of_dev(values: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the faults of dev, which is a file or a share of train, and of values that need it."""
    if "data.dev" not in values or "data.dev_share" not in values:
        return
    dev, share = values["data.dev"], values["data.dev_share"]
    if dev is not None and share is not None:
        found = f"data.dev {quoted(dev)} and data.dev_share {shown_value(share)}"
        yield Fault("data.dev_share", f"expected a file for dev or a share of train, found both, {found}")
    if dev is None and share is None and values.get("data.retrieval") is None:
        rows = "texts" if values.get("model.kind") == LANGUAGE_KIND else "pairs"
        for name in _NEEDING_DEV:
            if (value := values.get(f"training.{name}")) is not None:
                needs = f"{shown_value(value)} needs evaluation {rows}"
                yield Fault(f"training.{name}", f"{needs}; give data.dev or data.dev_share")
        if values.get("training.average") == "best_k":
            needs = f"best_k needs evaluation {rows}, by which the best steps are chosen"
            yield Fault("training.average", f"{needs}; give data.dev or data.dev_share")


def _rules_of_average(values: Mapping[str, Any]) -> Iterator[Fault]:
    if "training.average" not in values:
        return
    average = values["training.average"]
    for path, kind in _OPTION_OF_AVERAGE.items():
        value = values.get(path, KEYS[path].default)
        if value != KEYS[path].default and average != kind:
            found = f"{shown_value(value)} is for training.average {kind}, which is {shown_value(average)}"
            yield Fault(path, f"{found}; leave it out")


def broken_rules_of_reading(values: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield a fault for each rule about how a file is read that is broken."""
    columns, label = values.get("data.text_columns"), values.get("data.label_column")
    if columns is not None and label in columns:
        yield Fault("data.label_column", f"{quoted(label)} is one of data.text_columns too; name another")
    numbers, classes = values.get("data.label_values"), values.get("data.classes")
    if (interval := values.get("data.score_range")) is not None:
        low, high = interval
        match_from, within = values.get("evaluation.match_from"), f"in data.score_range, {list(interval)}, found"
        if match_from is not None and not low <= match_from <= high:
            yield Fault("evaluation.match_from", f"expected a score {within} {shown_value(match_from)} outside of it")
        for label, number in (numbers or {}).items():
            if not low <= number <= high:
                found = f"{quoted(label)}: {shown_value(number)}"
                yield Fault("data.label_values", f"expected numbers {within} {found}")
    if classes is not None and numbers is not None:
        yield Fault("data.classes", "is set beside data.label_values; leave one of them out")
    label_kind = values.get("data.label_kind")
    if classes is not None and label_kind == "scores":
        yield Fault("data.classes", "is set, but data.label_kind is scores; leave one of them out")
    if interval is not None and (label_kind == "classes" or classes is not None):
        yield Fault("data.score_range", "is set, but the labels are read as classes; leave it out")
    kind, delimiter = values.get("data.kind"), values.get("data.delimiter")
    if delimiter is not None and kind is not None and not FILE_KINDS[kind].takes_delimiter:
        takers = enumerated(name for name, its in FILE_KINDS.items() if its.takes_delimiter)
        yield Fault("data.delimiter", f"{quoted(delimiter)} is for {takers}; data.kind is {kind}")
    encoding = values.get("data.encoding")
    if encoding is not None and kind is not None and not FILE_KINDS[kind].takes_encoding:
        yield Fault("data.encoding", f"{quoted(encoding)} is for files of text; data.kind is {kind}")
    if encoding is not None:
        try:
            codecs.lookup(encoding)
        except (LookupError, ValueError):
            found = f"found {quoted(encoding)}"
            yield Fault("data.encoding", f"expected utf-8, cp949 or another that Python knows, {found}")


def _rules_of_model(values: Mapping[str, Any]) -> Iterator[Fault]:
    for name in ("freeze_embeddings", "freeze_layers"):
        if values.get("model.init") == "random" and (value := values.get(f"model.{name}")):
            sentence = f"{shown_value(value)} would keep random weights, because model.init is random; leave it out"
            yield Fault(f"model.{name}", sentence)
    if (layers := values.get("model.layers")) is not None:
        if values.get("model.init") == "random":
            sentence = f"{shown_value(layers)} are those of trained weights, but model.init is random; leave it out"
            yield Fault("model.layers", sentence)
        elif list(layers) != sorted({*layers}):
            yield Fault("model.layers", f"expected different numbers, the lowest first, found {shown_value(layers)}")
    if (kind := values.get("model.kind")) is None:
        return
    if values.get("model.pooling") == "pooler" and kind in ("siamese", "towers"):
        found = f"pooler is for joined and single; model.kind is {kind}"
        yield Fault("model.pooling", f"{found}; expected mean, cls or max, or null")
    for path, kinds in _OPTION_OF_KINDS.items():
        value = values.get(path, KEYS[path].default)
        if value != KEYS[path].default and kind not in kinds:
            found = f"{shown_value(value)} is for {enumerated(kinds)}; model.kind is {kind}"
            yield Fault(path, f"{found}; leave it out")


def _rules_of_columns(values: Mapping[str, Any], objectives: Sequence[ObjectiveSettings]) -> Iterator[Fault]:
    if (kind := values.get("model.kind")) is None or reads_single_texts(objectives):
        return
    columns, (expected, numbers) = values.get("data.text_columns"), _N_TEXTS[kind]
    if columns is not None and len(columns) not in numbers:
        found = f"found {shown_value(columns)}"
        yield Fault("data.text_columns", f"expected {expected}, because model.kind is {kind}; {found}")


def _rules_of_negatives(values: Mapping[str, Any], objectives: Sequence[ObjectiveSettings]) -> Iterator[Fault]:
    """Yield the faults of mined negatives: of their own values, and of those that they have to fit."""
    negatives = values.get("data.negatives")
    if negatives is None:
        return
    (first, last), per_pair, every = negatives.ranks, negatives.per_pair, negatives.every_epochs
    if per_pair > last - first:
        found = f"{per_pair} negatives a pair are asked for, but there are {last - first} ranks from {first} to {last}"
        yield Fault("data.negatives", f"per_pair: {found}; ask for fewer, or widen ranks")
    if every is not None and every >= (epochs := values.get("training.epochs", every + 1)):
        found = f"mining again after {every} has no effect, because training.epochs is {epochs}"
        yield Fault("data.negatives", f"every_epochs: {found}; lower it, or leave it out")
    columns = values.get("data.text_columns")
    if columns is not None and len(columns) == 3:
        found = f"found three, {shown_value(columns)}, and data.negatives finds the third texts itself"
        yield Fault("data.text_columns", f"expected two names, {found}; leave one of both out")
    names = [one.name for one in objectives]
    if names and names != [TAKING_NEGATIVES]:
        found = f"are for objective {TAKING_NEGATIVES} alone; objective is {enumerated(dict.fromkeys(names))}"
        yield Fault("data.negatives", f"mined negatives {found}; leave them out")


def _mismatches(kind: str, objectives: Sequence[ObjectiveSettings]) -> Iterator[Fault]:
    trained, n = _trained_by_kind(kind), len(objectives)
    for i, name in enumerate(one.name for one in objectives):
        trains, wanted, _ = _trained_by_objective(name)
        if trains == trained:
            continue
        _, _, own = _trained_by_objective(default_objective(kind))
        other = f"name {own}" if own else "name another objective"
        sentence = f"{name} trains {trains}, but model.kind is {kind}; {other}, or set model.kind to {wanted}"
        yield Fault(f"objective.{i}" if n > 1 else "objective", sentence)
        return
    single = next((one.name for one in objectives if takes_single_texts(one.name)), None)
    if single is not None and n > 1:
        others = enumerated(dict.fromkeys(one.name for one in objectives))
        yield Fault("objective", f"{single} is used alone, found {n} objectives: {others}; keep one of them")
    if kind in CLASSIFIER_KINDS and n > 1:
        yield Fault("objective", f"a classifier has exactly one objective, found {n}; keep one of them")
    names = [one.name for one in objectives]
    if kind == LANGUAGE_KIND and (names.count("mlm") != 1 or names.count("nsp") > 1):
        yield Fault("objective", f"expected mlm, or mlm and nsp, found {enumerated(names)}")


def _trained_by_kind(kind: str) -> str:
    """Return what a kind of model is, in words."""
    return _trained_by_objective(default_objective(kind))[0]


def _trained_by_objective(name: str) -> tuple[str, str, str]:
    """Return what an objective trains, the kinds of such models, and their objectives if these are few, in words."""
    if name in CLASSIFIER_OBJECTIVES:
        return "a classifier", "towers, joined or single", " or ".join(CLASSIFIER_OBJECTIVES)
    if name in LANGUAGE_OBJECTIVES:
        return "a masked language model", LANGUAGE_KIND, "mlm, or mlm and nsp"
    return "a sentence encoder", "siamese", ""


def _rules_of_single_texts(values: Mapping[str, Any], objectives: Sequence[ObjectiveSettings]) -> Iterator[Fault]:
    name, share = objectives[0].name, values.get("data.dev_share")
    if reads_single_texts(objectives) and share is not None:
        found = f"found {shown_value(share)}, but objective {name} trains on texts without labels"
        yield Fault("data.dev_share", f"{found}, and dev needs labelled pairs; give data.dev, or leave it out")


def _rules_of_teacher(values: Mapping[str, Any], objectives: Sequence[ObjectiveSettings]) -> Iterator[Fault]:
    taught = next((one.name for one in objectives if OBJECTIVES[one.name].teacher == "always"), None)
    teacher, kind = values.get("teacher", ...), values["model.kind"]
    if teacher is not None and teacher is not ... and kind != "siamese":
        yield Fault("teacher", f"is for siamese; model.kind is {kind}; leave it out")
    if taught is not None and (teacher is None or (teacher is not ... and teacher.path is None)):
        yield Fault("teacher.path", f"is missing; objective {taught} learns from the vectors of a sentence encoder")


def _rules_of_labels(values: Mapping[str, Any], objectives: Sequence[ObjectiveSettings]) -> Iterator[Fault]:
    """Yield the faults of values that do not fit the objectives' labels: classes, or scores and 0 or 1."""
    has_classes = takes_classes(objectives[0].name)
    names = ", ".join(dict.fromkeys(one.name for one in objectives))
    of_objective = f"objective is {names}"
    metric = values.get("training.metric")
    if values["model.kind"] == LANGUAGE_KIND:
        metrics = choosing_metrics("tokens")
        if "nsp" not in [one.name for one in objectives]:
            metrics = tuple(name for name in metrics if not name.startswith("next_sentence"))
        if metric is not None and metric not in metrics:
            found = f"found {metric}; {of_objective}"
            yield Fault("training.metric", f"{found}; expected one of {', '.join(metrics)}, or null")
        return
    if metric is not None:
        yield from _rules_of_metric(values, metric, has_classes, of_objective)
    calibration = values.get("evaluation.calibration")
    if calibration in (("isotonic", "platt") if has_classes else ("temperature",)):
        found = f"{calibration} is {'not ' if has_classes else ''}for classes; {of_objective}"
        expected = "auto, temperature or none" if has_classes else "auto, isotonic, platt or none"
        yield Fault("evaluation.calibration", f"{found}; expected {expected}")
    label_kind = values.get("data.label_kind")
    if has_classes and label_kind == "scores":
        yield Fault("data.label_kind", f"found scores, {of_objective}; expected classes, or null")
    if not has_classes and label_kind == "classes":
        yield Fault("data.label_kind", f"found classes, only for softmax; {of_objective}; expected scores, or null")
    if not has_classes and (classes := values.get("data.classes")) is not None:
        yield Fault("data.classes", f"{shown_value(classes)} are for softmax; {of_objective}; leave it out")
    for path in _OF_SCORES:
        if has_classes and (value := values.get(path)) is not None:
            yield Fault(path, f"{shown_value(value)} is for scores; {of_objective}, which has classes; leave it out")


def _rules_of_metric(values: Mapping[str, Any], metric: str, has_classes: bool, of_objective: str) -> Iterator[Fault]:
    """Yield the faults of the metric of a run that has labels: it needs these labels, or judgements, to be there."""
    metrics = choosing_metrics("classes") if has_classes else choosing_metrics("graded", "labels")
    of_relevance, has_retrieval = choosing_metrics("relevance"), values.get("data.retrieval", {}) is not None
    has_dev = any(values.get(path, "") is not None for path in ("data.dev", "data.dev_share"))
    if metric in of_relevance and values["model.kind"] == "siamese":
        if not has_retrieval:
            needs = "needs queries, a corpus and which texts are relevant; give data.retrieval"
            yield Fault("training.metric", f"{metric} {needs}")
    elif metric in metrics and has_retrieval and not has_dev:
        needs = f"needs evaluation pairs; give data.dev or data.dev_share, or one of {', '.join(of_relevance)}"
        yield Fault("training.metric", f"{metric} {needs}")
    elif metric not in metrics:
        others = {"tokens": "of masked tokens", "relevance": "of a search, for kind siamese"}
        what = others.get(METRICS[metric].chooses_by or "", f"{'not ' if has_classes else ''}of classes")
        found = f"{metric} is {what}; {of_objective}"
        yield Fault("training.metric", f"{found}; expected one of {', '.join(metrics)}, or null")
