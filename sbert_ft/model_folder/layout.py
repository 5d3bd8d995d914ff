"""Read the JSON files of a model folder: which layouts exist, and what each file says.

Three layouts are read: the bare trio (config.json, weights, vocab.txt), a folder of sentence-transformers up to 5.3
(pooling as booleans, length in sentence_bert_config.json), and one of 5.4 to 6.2 (pooling as a word, length in
tokenizer_config.json). Our own is the second with `sbert_ft.json` beside it. The folder is not trusted: its strings are
looked up in tables, and none becomes an import or a file name outside of it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sbert_ft.arguments import is_unicode, path_argument
from sbert_ft.encoder.batching import PoolingMode
from sbert_ft.errors import ModelFolderError, joined, quoted, shown
from sbert_ft.files.strict_json import listing, read_json, read_json_if_there, read_json_list
from sbert_ft.model_folder.contents import what_it_holds
from sbert_ft.model_folder.not_applied import check_transformer_settings

logger = logging.getLogger(__name__)

Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
SIMILARITIES: tuple[Similarity, ...] = ("cosine", "dot", "euclidean", "manhattan")

# The supported modules, by the names that versions 2 to 6 of sentence-transformers have given to them.
_TRANSFORMERS = ("Transformer", "BERT", "RoBERTa", "DistilBERT", "ALBERT", "XLMRoBERTa", "CamemBERT")
_MODULES: Mapping[str, str] = {
    **{f"sentence_transformers.models.{name}": "Transformer" for name in _TRANSFORMERS},
    "sentence_transformers.models.Transformer.Transformer": "Transformer",
    "sentence_transformers.base.modules.transformer.Transformer": "Transformer",
    "sentence_transformers.models.Pooling": "Pooling",
    "sentence_transformers.models.Pooling.Pooling": "Pooling",
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling": "Pooling",
    "sentence_transformers.models.Normalize": "Normalize",
    "sentence_transformers.models.Normalize.Normalize": "Normalize",
    "sentence_transformers.base.modules.normalize.Normalize": "Normalize",
}
POOLING_FLAGS: Mapping[str, PoolingMode] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}
_CONFIGS_OF_OLD = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# the folder of the encoder in models of sentence-transformers before version 2
_INNER = re.compile("0_")
# tokenizer_config.json writes "no limit" as a number of thirty digits
_NO_LIMIT = 10**6

HEAD_FILE = "head.safetensors"
SETFIT_HEAD = "model_head.pkl"


@dataclass(frozen=True)
class ModelFolder:
    """What the JSON files of a model folder say, checked; no tensor is read.

    Attributes:
        path: The folder.
        encoder_path: The folder of the encoder's own files: `path` itself, or a folder in it.
        config: The content of config.json.
        layout: ``transformers`` (the bare trio) or ``sentence-transformers``.
        pooling: How token vectors become one vector.
        include_prompt: Whether the prompt's tokens are pooled too; if not, neither is what stands before them.
        normalize: Whether vectors are scaled to length 1.
        max_seq_length: Tokens a text may have; None where the folder does not say.
        lower_case_first: The old ``do_lower_case`` of sentence-transformers: lower-case before tokenising.
        similarity: How the model's vectors are compared.
        prompts: Texts to put before an input, by name.
        default_prompt_name: The prompt used where none is named; None for no prompt.
        own: The content of sbert_ft.json; empty where there is none.
        module_paths: The folders of the modules after the encoder.
        truncate_dim: How many first features of a vector are kept; None for all.
        transformer_file: The file with sentence-transformers' settings of the encoder; None where there is none.
    """

    path: Path
    encoder_path: Path
    config: Mapping[str, Any]
    layout: Literal["transformers", "sentence-transformers"] = "transformers"
    pooling: PoolingMode = "mean"
    include_prompt: bool = True
    normalize: bool = False
    max_seq_length: int | None = None
    lower_case_first: bool = False
    similarity: Similarity = "cosine"
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    own: Mapping[str, Any] = field(default_factory=dict)
    module_paths: tuple[Path, ...] = ()
    truncate_dim: int | None = None
    transformer_file: Path | None = None

    @property
    def config_file(self) -> Path:
        """The path of config.json."""
        return self.encoder_path / "config.json"


def find_folder(folder: str | Path) -> Path:
    """Return the folder's path.

    Raises:
        ModelFolderError: It is empty, does not exist or is not a folder; names of the Hugging Face Hub are not looked
            up.
        InputError: It is not a path.
    """
    if isinstance(folder, str) and not folder:
        raise ModelFolderError("'' is not a model folder: expected a path", "for the current folder write '.'")
    path = path_argument(folder, "folder")
    try:
        path = path.expanduser()
        if path.is_dir():
            return path
        found = "a file" if path.exists() else "a dangling link" if path.is_symlink() else "nothing"
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a loop, a NUL, no such user's home
        cause = getattr(error, "strerror", None) or error
        raise ModelFolderError(f"{quoted(folder)} cannot be a model folder: {cause}") from error
    hint = "names of the Hugging Face Hub are not looked up, download the model first" if found == "nothing" else ""
    raise ModelFolderError(
        f"{quoted(folder)} is not a model folder: expected a folder with config.json, found {found}", hint
    )


def read_folder(folder: str | Path | ModelFolder) -> ModelFolder:
    """Return what the folder's JSON files say.

    Args:
        folder: Its path; or what was read of it before, which is returned as it is, so that a load reads it once.

    Raises:
        ModelFolderError: A file is missing or damaged, or sets something that is not supported.
    """
    if isinstance(folder, ModelFolder):
        return folder
    path = find_folder(folder)
    modules = _read_modules(path) or _modules_without_list(path)
    encoder_path = modules.get("Transformer", path)
    config_file = encoder_path / "config.json"
    if not os.path.lexists(config_file):
        raise ModelFolderError(
            f"{shown(encoder_path)} has no config.json: expected config.json, vocab.txt and pytorch_model.bin or "
            f"model.safetensors, found {listing(encoder_path)}",
            _what_it_is(path),
        )
    config = read_json(config_file)
    own = read_json_if_there(path / "sbert_ft.json")
    if not modules:
        return ModelFolder(path, path, config, max_seq_length=_tokenizer_limit(path), own=own)
    old = (encoder_path / name for name in _CONFIGS_OF_OLD)
    file = next((file for file in old if os.path.lexists(file)), encoder_path / _CONFIGS_OF_OLD[0])
    transformer = read_json_if_there(file)
    check_transformer_settings(file, transformer, architecture_of_classifier(config) is not None)
    length = transformer.get("max_seq_length")
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 3):
        raise ModelFolderError(
            f"{shown(file)}: max_seq_length is {quoted(length)}, expected a whole number of 3 or more"
        )
    whole = read_json_if_there(path / "config_sentence_transformers.json")
    prompts, default = _read_prompts(path, whole)
    pooling, include_prompt = _read_pooling(modules["Pooling"]) if "Pooling" in modules else ("mean", True)
    return ModelFolder(
        path=path,
        encoder_path=encoder_path,
        config=config,
        layout="sentence-transformers",
        pooling=pooling,
        include_prompt=include_prompt,
        normalize="Normalize" in modules,
        max_seq_length=length if length is not None else _tokenizer_limit(encoder_path),
        lower_case_first=transformer.get("do_lower_case") is True,
        similarity=_read_similarity(path, whole),
        prompts=prompts,
        default_prompt_name=default,
        truncate_dim=_read_truncate_dim(path, whole),
        own=own,
        module_paths=tuple(place for name, place in modules.items() if name != "Transformer" and place.is_dir()),
        transformer_file=file if os.path.lexists(file) else None,
    )


def architecture_of_classifier(config: Mapping[str, Any]) -> str | None:
    """Return the class named in a config.json if it is a sequence classifier of transformers, else None."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else None
    return first if isinstance(first, str) and first.endswith("ForSequenceClassification") else None


def warn_of_classifier(source: ModelFolder) -> None:
    """Log a warning for a stock classifier's folder: its encoder was not trained for sentence vectors."""
    architecture = architecture_of_classifier(source.config)
    if architecture is not None:
        logger.warning(
            "%s is a classifier (%s): its token vectors were not trained to be pooled; BertClassifier loads it",
            shown(source.path),
            architecture,
        )


def unused_parts(source: ModelFolder) -> tuple[str, ...]:
    """Return what is not used of a folder but changes its vectors in other libraries, one sentence each.

    Errors as in `read_folder`.
    """
    tokenizer_config = read_json_if_there(source.encoder_path / "tokenizer_config.json")
    notes = [
        f"{shown(source.encoder_path / name)} names code of its own in auto_map; it is never run, transformers' stock "
        "classes are used"
        for name, content in (("config.json", source.config), ("tokenizer_config.json", tokenizer_config))
        if content.get("auto_map") is not None
    ]
    if os.path.lexists(source.path / SETFIT_HEAD):
        notes.append(
            f"{shown(source.path)} is a model of SetFit: its classifier, {SETFIT_HEAD}, is a pickle, which is never "
            "opened; its sentence encoder is used"
        )
    file = source.path / "config_sentence_transformers.json"
    if source.layout == "transformers" and any(_read_prompts(source.path, read_json_if_there(file))[0].values()):
        notes.append(
            f"{shown(file)} has prompts, which are not used in a folder without modules.json; copy that file too, or "
            "pass prompt="
        )
    if source.layout == "sentence-transformers" and not os.path.lexists(source.path / "modules.json"):
        length = "" if source.max_seq_length is None else f", max_seq_length {source.max_seq_length}"
        notes.append(
            f"{shown(source.path)} has no modules.json, but settings of sentence-transformers, which are used: "
            f"{source.pooling} pooling, vectors {'of length 1' if source.normalize else 'not normalized'}{length}"
        )
    here = Path(os.path.abspath(source.path))
    parent = here.parent
    if source.layout == "transformers" and _INNER.match(here.name) and os.path.lexists(parent / "modules.json"):
        notes.append(
            f"{shown(source.path)} is the encoder of a sentence-transformers model, whose pooling, length and prompts "
            f"are not used; give its folder, {shown(parent)}"
        )
    return tuple(notes)


def _modules_without_list(path: Path) -> dict[str, Path]:
    """Return the modules of a folder of sentence-transformers that has lost its modules.json; empty for a bare trio."""
    inner = [path] if os.path.lexists(path / "config.json") else _models_in(path, _INNER)
    if len(inner) != 1:
        return {}
    modules = {"Transformer": inner[0]}
    if os.path.lexists(path / "1_Pooling" / "config.json"):
        modules["Pooling"] = path / "1_Pooling"
    if (path / "2_Normalize").is_dir():
        modules["Normalize"] = path / "2_Normalize"
    has_settings = len(modules) > 1 or any(os.path.lexists(inner[0] / name) for name in _CONFIGS_OF_OLD)
    return modules if has_settings else {}


def _models_in(path: Path, name: re.Pattern[str]) -> list[Path]:
    """Return the folders in `path` with such a name that have a config.json; none if it cannot be read."""
    with suppress(OSError):
        return sorted(file.parent for file in path.glob("*/config.json") if name.match(file.parent.name))
    return []


def _what_it_is(path: Path) -> str:
    """Return what to do with a folder that has no config.json."""
    names: list[str] = []
    with suppress(OSError):
        names = sorted(os.listdir(path))
    if held := what_it_holds(names):
        return "it holds {}: {}".format(*next(iter(held.items())))
    if found := _models_in(path / "snapshots", re.compile("")):
        return f"it is a model in the cache of the Hugging Face Hub: give {shown(found[-1])}"
    found = _models_in(path, re.compile(""))
    return f"give one of the folders in it that have one: {joined(map(shown, found), 3)}" if found else ""


def _read_modules(path: Path) -> dict[str, Path]:
    """Return the folder of each module in modules.json; empty without that file."""
    file = path / "modules.json"
    if not os.path.lexists(file):
        return {}
    modules: dict[str, Path] = {}
    for entry in read_json_list(file):
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("type", "path")):
            raise ModelFolderError(
                f"{shown(file)}: every entry needs a type and a path as texts, found {quoted(entry)}"
            )
        name = _MODULES.get(entry["type"])
        if name is None:
            raise ModelFolderError(
                f"{shown(file)} names the module {quoted(entry['type'])}, which is not supported (only Transformer, "
                "Pooling and Normalize of sentence-transformers are); without it the vectors would be different"
            )
        if name in modules:
            raise ModelFolderError(f"{shown(file)} has two modules {name}: expected one")
        place = Path(entry["path"])
        if place.is_absolute() or ".." in place.parts or not {"\\", "\0"}.isdisjoint(entry["path"]):
            raise ModelFolderError(f"{shown(file)}: the path {quoted(entry['path'])} leaves the folder")
        modules[name] = path / place
    order = [name for name in ("Transformer", "Pooling", "Normalize") if name in modules]
    if list(modules) != order or order[:1] != ["Transformer"]:
        raise ModelFolderError(
            f"{shown(file)}: expected Transformer, Pooling and perhaps Normalize, found {', '.join(modules) or 'none'}"
        )
    return modules


def _read_pooling(place: Path) -> tuple[PoolingMode, bool]:
    """Return the pooling, and whether it includes the prompt's tokens."""
    file = place / "config.json"
    settings = read_json(file)
    include_prompt = settings.get("include_prompt", True)
    if not isinstance(include_prompt, bool):
        raise ModelFolderError(f"{shown(file)}: include_prompt is {quoted(include_prompt)}, expected true or false")
    flags = {name: value for name, value in settings.items() if name.startswith("pooling_mode_")}
    if wrong := next((name for name, value in flags.items() if not isinstance(value, bool)), None):
        raise ModelFolderError(f"{shown(file)}: {wrong} is {quoted(flags[wrong])}, expected true or false")
    requested: list[object] = [name for name, value in flags.items() if value]
    if "pooling_mode" in settings:
        word = settings["pooling_mode"]
        requested = word if isinstance(word, list) else [word]
    if not requested:
        return "mean", include_prompt
    modes = {POOLING_FLAGS.get(str(name), str(name)) for name in requested}
    mode = next((m for m in POOLING_FLAGS.values() if {m} == modes), None)
    if mode is None:
        raise ModelFolderError(
            f"{shown(file)} sets the pooling {', '.join(map(quoted, requested))}, expected one of mean, cls and max"
        )
    return mode, include_prompt


def _read_prompts(path: Path, settings: Mapping[str, Any]) -> tuple[dict[str, str], str | None]:
    file = shown(path / "config_sentence_transformers.json")
    prompts = settings.get("prompts") or {}
    default = settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise ModelFolderError(f"{file}: prompts are {quoted(prompts)}, expected texts by name")
    for name, prompt in prompts.items():
        if not is_unicode(name) or not is_unicode(prompt):
            raise ModelFolderError(f"{file}: the prompt {quoted(name)} has a lone surrogate, which UTF-8 cannot encode")
    if default is not None and not (isinstance(default, str) and default in prompts):
        raise ModelFolderError(
            f"{file}: default_prompt_name {quoted(default)} is not one of the prompts "
            f"{', '.join(map(quoted, prompts)) or '(there are none)'}"
        )
    return prompts, default


def _read_similarity(path: Path, settings: Mapping[str, Any]) -> Similarity:
    name = settings.get("similarity_fn_name") or "cosine"
    if name not in SIMILARITIES:
        file = shown(path / "config_sentence_transformers.json")
        expected = f"one of {', '.join(SIMILARITIES)}"
        raise ModelFolderError(f"{file}: similarity_fn_name is {quoted(name)}, expected {expected}")
    return name


def _read_truncate_dim(path: Path, settings: Mapping[str, Any]) -> int | None:
    number = settings.get("truncate_dim")
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
        file = shown(path / "config_sentence_transformers.json")
        raise ModelFolderError(f"{file}: truncate_dim is {quoted(number)}, expected a whole number of at least 1")
    return number


def _tokenizer_limit(path: Path) -> int | None:
    file = path / "tokenizer_config.json"
    limit = read_json_if_there(file).get("model_max_length")
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or limit < 3:
        raise ModelFolderError(f"{shown(file)}: model_max_length is {quoted(limit)}, expected a number of 3 or more")
    return int(limit) if limit < _NO_LIMIT else None
