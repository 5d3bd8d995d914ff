"""Read a classifier's folder: what it says about its classes, and the tensors of its head.

Two kinds of folders have a classifier. In a stock one (BertForSequenceClassification and the like, a CrossEncoder of
sentence-transformers) the head's tensors are stored with the encoder's, and the classes in config.json. Ours is either
a stock one with `sbert_ft.json` beside it, or a sentence encoder with `head.safetensors` and `sbert_ft.json`. A head is
read completely or not at all: a missing tensor is an error and is never filled at random. What only reads settings
does not import torch, since a model that another engine runs needs no more.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from sbert_ft.config.settings import Features, Truncation
from sbert_ft.encoder.classes import ClassifierKind, HeadPooling, fault_of_classes
from sbert_ft.encoder.kinds import KINDS, StockHead
from sbert_ft.errors import InputError, ModelFolderError, listed, quoted, shown
from sbert_ft.files.strict_json import JsonObject, read_json_if_there
from sbert_ft.model_folder.layout import HEAD_FILE, SETFIT_HEAD, ModelFolder, architecture_of_classifier, read_folder
from sbert_ft.model_folder.tensor_names import dims, match_names

if TYPE_CHECKING:
    from sbert_ft.encoder.heads import ClassificationHead
    from sbert_ft.model_folder.weights import WeightFiles

logger = logging.getLogger(__name__)

_MOST_TEMPERATURE = 1e6
_N_NAMED = 5
_UNKNOWN_KIND = (
    "; the folder does not say whether it is for texts or pairs and was loaded as kind='{kind}': pass kind= to "
    "from_pretrained to change this"
)


@dataclass(frozen=True)
class ClassifierSettings:
    """A classifier's settings in sbert_ft.json, as they are described at `ClassifierModel`.

    `classes` are the labels in the order of the logits, with their types; None for one output.
    """

    kind: ClassifierKind
    pooling: HeadPooling
    features: Features = "uv_difference"
    truncation: Truncation = "longest_first"
    classes: tuple[object, ...] | None = None
    temperature: float | None = None
    head_dropout: float | None = None

    @property
    def n_outputs(self) -> int:
        """Number of logits of a row, K."""
        return 1 if self.classes is None else len(self.classes)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as a JSON object."""
        classes = None if self.classes is None else list(self.classes)
        return {name: getattr(self, name) for name in self.__dataclass_fields__} | {"classes": classes}

    @classmethod
    def from_json(cls, content: object, file: Path) -> ClassifierSettings:
        """Return the settings of a JSON value; `file` is named in messages.

        Raises:
            ModelFolderError: A key is missing, unknown or of a wrong type or range.
        """
        json = JsonObject(content, "classifier", file)
        json.refuse_all_but(tuple(cls.__dataclass_fields__))
        classes = json.value("classes")
        if classes is not None and (not isinstance(classes, list) or fault_of_classes(classes) is not None):
            raise json.fault("classes", "a list of at least two different labels, all words or all numbers, or null")
        kind, pooling = json.word("kind", get_args(ClassifierKind)), json.word("pooling", get_args(HeadPooling))
        if kind == "towers" and pooling == "pooler":
            raise json.fault("pooling", "mean, cls or max for the kind towers")
        temperature = json.number_or_none("temperature", 0.0, _MOST_TEMPERATURE)
        if temperature == 0:
            raise json.fault("temperature", "a number above 0, or null")
        return cls(
            kind=kind,  # type: ignore[arg-type]
            pooling=pooling,  # type: ignore[arg-type]
            features=json.word("features", get_args(Features)),  # type: ignore[arg-type]
            truncation=json.word("truncation", get_args(Truncation)),  # type: ignore[arg-type]
            classes=None if classes is None else tuple(classes),
            temperature=temperature,
            head_dropout=json.number_or_none("head_dropout", 0.0, 0.999999),
        )


@dataclass(frozen=True)
class FoundClassifier:
    """A folder's classifier, before any tensor is read.

    `stock` says where a stock folder stores its head; it is None where the head has a file of its own. `hint` is the
    end of a message about wrong rows, where the folder does not say which kind it is for; else empty.
    """

    source: ModelFolder
    settings: ClassifierSettings
    stock: StockHead | None
    hint: str = ""

    def weights(self) -> WeightFiles:
        """Return the files with the head's tensors: one of its own, or those of the encoder; errors as there."""
        from sbert_ft.model_folder.weights import find_tensors, find_weights

        if self.stock is None:
            return find_tensors(self.source.path / HEAD_FILE)
        return find_weights(self.source.encoder_path)


def has_classifier(folder: Path | ModelFolder) -> bool:
    """Return whether a folder has a classifier, ours or a stock one; arguments and errors as in `read_folder`."""
    source = read_folder(folder)
    return "classifier" in source.own or architecture_of_classifier(source.config) is not None


def find_classifier(
    source: ModelFolder, kind: ClassifierKind | None = None, n_outputs: int | None = None
) -> FoundClassifier:
    """Return the classifier of a folder; `kind` says what a row is, None for what the folder says.

    `n_outputs` is the number of logits where it is known; then no weights are looked at, and there need not be any.

    Raises:
        ModelFolderError: There is no classifier, or it is not supported or damaged.
        InputError: The kind is unknown, or the folder's classifier is of another.
    """
    if kind is not None and kind not in get_args(ClassifierKind):
        raise InputError(f"kind is {quoted(kind)}, expected one of {', '.join(get_args(ClassifierKind))}")
    if "classifier" not in source.own:
        if os.path.lexists(source.path / HEAD_FILE):
            raise ModelFolderError(
                f"{shown(source.path)} has a classifier's {HEAD_FILE}, but no sbert_ft.json that describes it",
                "copy the whole folder again",
            )
        return _foreign(source, kind, n_outputs)
    settings = ClassifierSettings.from_json(source.own["classifier"], source.path / "sbert_ft.json")
    if kind not in (None, settings.kind):
        raise InputError(f"{shown(source.path)} has a classifier of the kind {settings.kind}, not {kind}")
    if settings.pooling != "pooler":
        if not os.path.lexists(source.path / HEAD_FILE):
            raise ModelFolderError(
                f"{shown(source.path)} has no {HEAD_FILE}, but its sbert_ft.json says that the classifier's head is in "
                "this file",
                "copy the whole folder again",
            )
        return FoundClassifier(source, settings, None)
    stock = _stock_head(source)
    names, ours = _names_of(source), [str(label) for label in settings.classes or ()]
    _refuse_several_labels(source, settings.n_outputs)
    if names is not None and ours and names != ours:
        raise ModelFolderError(
            f"{shown(source.config_file)}: id2label names the classes {listed(names, _N_NAMED)}, but sbert_ft.json "
            f"names {listed(ours, _N_NAMED)}",
            "copy both files from the same model",
        )
    return FoundClassifier(source, settings, stock)


def read_head(found: FoundClassifier, head: ClassificationHead) -> None:
    """Copy the folder's tensors into a head.

    Raises:
        ModelFolderError: A tensor is missing, has another shape, or is damaged.
    """
    import torch

    from sbert_ft.model_folder.weights import read_tensors

    stock, weights = found.stock, found.weights()
    parameters = {
        name if stock is None else stock_name(stock, name): parameter for name, parameter in head.named_parameters()
    }
    expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    match = match_names(weights.tensors, expected, "" if stock is None else _prefix(found.source))
    where = shown(weights.files[0].parent)
    if match.missing:
        are_missing = "is missing" if len(match.missing) == 1 else "are missing"
        raise _no_head(
            found.source, found.settings.kind, f"of the head's tensors, {listed(match.missing, _N_NAMED)} {are_missing}"
        )
    if match.ambiguous:
        name, first, second = match.ambiguous[0]
        raise ModelFolderError(f"{where}: {quoted(first)} and {quoted(second)} both claim to be the head's {name}")
    if match.wrong_shape:
        name, shape, actual = match.wrong_shape[0]
        raise ModelFolderError(
            f"{where}: the head's {name} is {dims(actual)}, but {dims(shape)} is expected for the {head.n_outputs} "
            "outputs that the folder describes",
            "use the settings and the weights of the same model",
        )
    if stock is None and (others := [*match.unknown, *match.heads]):
        logger.warning(
            "%s has tensors that the head does not need, such as %s; they are not used",
            shown(weights.files[0]),
            listed(others, _N_NAMED),
        )
    tensors = read_tensors(weights, match.names)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def _foreign(source: ModelFolder, kind: ClassifierKind | None, n_outputs: int | None) -> FoundClassifier:
    """Return the classifier of a stock folder, which has no classifier's settings of ours."""
    config, file = source.config, source.config_file
    if os.path.lexists(source.path / SETFIT_HEAD):
        raise _no_head(
            source, kind or "single", f"{SETFIT_HEAD}, the head of SetFit, is a pickle, which is never opened"
        )
    if architecture_of_classifier(config) is None:
        found = config.get("architectures")
        raise _no_head(source, kind or "joined", f"the architectures of its config.json are {quoted(found)}")
    if kind == "towers":
        raise InputError(f"{shown(source.path)} is a stock classifier, whose kind is joined or single, not towers")
    stock = _stock_head(source)
    found_kind: ClassifierKind = kind or ("joined" if _is_cross_encoder(source) else "single")
    output = f"{stock.output}.weight"
    shape = (n_outputs, 0) if n_outputs is not None else _shape_of(source, found_kind, output)
    n_outputs = shape[0] if shape else 0
    names = _names_of(source)
    if names is None:
        names = [f"LABEL_{i}" for i in range(n_outputs)]
    if len(shape) != 2 or n_outputs != len(names) or not names:
        raise ModelFolderError(
            f"{shown(file)}: the head's {output} is {dims(shape)}, but id2label names {len(names)} classes",
            "use the config.json and the weights of the same model",
        )
    _refuse_several_labels(source, len(names))
    if len(names) == 1 and (config.get("problem_type") == "regression" or _activation(source).endswith(".Identity")):
        logger.warning(
            "%s describes one output that is meant to be used as it is; here scores are its sigmoid, in the same order",
            shown(file),
        )
    if source.prompts.get(source.default_prompt_name or ""):
        place = shown(source.path / "config_sentence_transformers.json")
        problem = f"{place} has the default prompt {quoted(source.default_prompt_name)}, which is not put before texts"
        raise ModelFolderError(problem, "set default_prompt_name to null, and put the prompt into the texts yourself")
    if len(names) > 1 and (fault := fault_of_classes(names)) is not None:
        raise ModelFolderError(f"{shown(file)}: id2label: {fault}")
    settings = ClassifierSettings(found_kind, "pooler", classes=tuple(names) if len(names) > 1 else None)
    hint = "" if kind is not None or _is_cross_encoder(source) else _UNKNOWN_KIND.format(kind=found_kind)
    return FoundClassifier(source, settings, stock, hint)


def _shape_of(source: ModelFolder, kind: ClassifierKind, output: str) -> tuple[int, ...]:
    """Return the shape of the tensor of a stock head called `output`; a `ModelFolderError` if it is missing."""
    from sbert_ft.model_folder.weights import find_weights

    match = match_names(find_weights(source.encoder_path).tensors, {output: (0, 0)}, _prefix(source))
    if match.missing:
        raise _no_head(source, kind, f"the tensor {quoted(output)} is missing")
    return match.wrong_shape[0][2] if match.wrong_shape else (0, 0)


def _refuse_several_labels(source: ModelFolder, n_outputs: int) -> None:
    if source.config.get("problem_type") == "multi_label_classification" and n_outputs > 1:
        raise ModelFolderError(
            f"{shown(source.config_file)}: problem_type is 'multi_label_classification': multi-label classification "
            "is out of scope"
        )


def _stock_head(source: ModelFolder) -> StockHead:
    model_type = source.config.get("model_type", "bert")
    stock = KINDS[model_type].head if isinstance(model_type, str) and model_type in KINDS else None
    if stock is None:
        raise ModelFolderError(
            f"{shown(source.config_file)}: the classifier's head of model_type {quoted(model_type)} "
            f"is not supported; expected one of {', '.join(kind for kind, known in KINDS.items() if known.head)}"
        )
    return stock


def _prefix(source: ModelFolder) -> str:
    """Return the prefix of the encoder's tensor names in a stock classifier's weights, such as ``bert``."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    model_class = MODEL_MAPPING[CONFIG_MAPPING[source.config.get("model_type", "bert")]]
    return str(model_class.base_model_prefix)  # type: ignore[attr-defined]


def _names_of(source: ModelFolder) -> list[str] | None:
    """Return the class names of config.json in the order of their numbers; None where it has none."""
    file = shown(source.config_file)
    names, n_labels = source.config.get("id2label"), source.config.get("num_labels")
    if names is None:
        if n_labels is None:
            return None
        if isinstance(n_labels, bool) or not isinstance(n_labels, int) or not 1 <= n_labels <= 10**6:
            raise ModelFolderError(f"{file}: num_labels is {quoted(n_labels)}, expected a whole number of 1 or more")
        return [f"LABEL_{i}" for i in range(n_labels)]
    if not isinstance(names, dict) or not all(isinstance(name, (str, int)) for name in names.values()):
        raise ModelFolderError(f"{file}: id2label is {quoted(names)}, expected the classes' names by their numbers")
    if set(names) != {str(i) for i in range(len(names))}:
        raise ModelFolderError(
            f"{file}: id2label has the numbers {listed(names, _N_NAMED)}, expected 0 to {len(names) - 1}"
        )
    return [str(names[str(i)]) for i in range(len(names))]


def _is_cross_encoder(source: ModelFolder) -> bool:
    """Return whether a CrossEncoder of sentence-transformers (3 to 6) saved the folder."""
    keys = ("sentence_transformers", "sbert_ce_default_activation_function")
    return any(key in source.config for key in keys) or bool(_cross_encoder_settings(source))


def _cross_encoder_settings(source: ModelFolder) -> dict[str, Any]:
    content = read_json_if_there(source.path / "config_sentence_transformers.json")
    return content if content.get("model_type") == "CrossEncoder" or "activation_fn" in content else {}


def _activation(source: ModelFolder) -> str:
    of_version_4 = source.config.get("sentence_transformers")
    named = of_version_4.get("activation_fn") if isinstance(of_version_4, dict) else None
    old = source.config.get("sbert_ce_default_activation_function")
    return str(named or old or _cross_encoder_settings(source).get("activation_fn") or "")


def stock_name(stock: StockHead, name: str) -> str:
    """Return the name of a head's tensor in a stock file, without the encoder's prefix."""
    layer, _, end = name.rpartition(".")
    return f"{stock.dense if layer == 'dense' else stock.output}.{end}"


def _no_head(source: ModelFolder, kind: ClassifierKind, found: str) -> ModelFolderError:
    return ModelFolderError(
        f"{shown(source.path)} holds no classifier: {found}. A loaded head is never random",
        f"to train a new one, make BertClassifier(ConnectionBert.from_pretrained(folder), {kind!r}) and call fit",
    )
