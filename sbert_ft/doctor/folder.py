"""Check a model folder, and texts under it: each check says what was found and how to fix it.

Loading a model stops at the first error, and some problems (a casing rule that decomposes Hangul, texts that are
truncated) are not errors of the folder at all. `examine` calls the same functions as loading, one by one, and goes on
after an error wherever the next part can still be checked. It reads only the headers of the weights, so a large model
takes no longer than a small one, unless `deep` is set.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from sbert_ft.doctor.checks import Check, Status, attempt, failure, finding, listed
from sbert_ft.doctor.tokens import TextLimits, text_checks, vocabulary_checks
from sbert_ft.encoder.devices import choose_device, describe_device, half_precisions
from sbert_ft.encoder.heads import ClassificationHead, plan_head
from sbert_ft.encoder.spec import EncoderPlan, plan_encoder
from sbert_ft.errors import ModelFolderError, SbertFtError, quoted
from sbert_ft.files.strict_json import read_json
from sbert_ft.model_folder.classifier import FoundClassifier, find_classifier, read_head
from sbert_ft.model_folder.layout import (
    HEAD_FILE,
    ModelFolder,
    architecture_of_classifier,
    find_folder,
    read_folder,
    unused_parts,
)
from sbert_ft.model_folder.metadata import OwnSettings
from sbert_ft.model_folder.tensor_names import NameMatch, check_is_float, check_match, match_names
from sbert_ft.model_folder.weights import WeightFiles, find_weights, read_tensors
from sbert_ft.models.connection_bert import ConnectionBert, check_room, read_tokenizer_of

_SHOWN_CLASSES = 10


_KIND_UNKNOWN = "; the folder does not say whether it takes single texts or pairs (kind joined)"
__all__ = ["Check", "Status", "examine"]
_TOKENIZER_FILES = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"))
_SETTINGS = (
    *("config.json", "tokenizer_config.json", "special_tokens_map.json", "sentence_bert_config.json"),
    *("modules.json", "config_sentence_transformers.json", "sbert_ft.json"),
)
_PAPERS = re.compile(r"readme|licen[cs]e|\.git", re.IGNORECASE)
_ONE_MODEL = "use config.json and weights of the same model"
_OTHER_CONFIG = "copy the config.json that belongs to the weights, or use a model of a supported kind"
_COPY_AGAIN = "copy or download the weights again"


def is_classifier(source: ModelFolder) -> bool:
    """Return whether a folder's settings describe a classifier, ours or a stock one, or it has a head file of ours."""
    is_said = "classifier" in source.own or architecture_of_classifier(source.config) is not None
    return is_said or os.path.lexists(source.path / HEAD_FILE)


def is_sentence_encoder(source: ModelFolder) -> bool:
    """Return whether the folder can encode texts: all folders except those of stock classifiers."""
    return architecture_of_classifier(source.config) is None


def describe_classifier(source: ModelFolder, plan: EncoderPlan) -> Check:
    """Return the check of a folder's classifier: its settings and the size of its head, which is read.

    Args:
        source: The folder.
        plan: Of its encoder.

    Raises:
        SbertFtError: The head is missing, or does not fit the folder's settings.
    """
    found = find_classifier(source)
    settings = found.settings
    head = ClassificationHead(
        plan_head(
            plan.config, settings.kind, settings.pooling, settings.features, settings.head_dropout, source.pooling
        ),
        settings.n_outputs,
        seed=0,
    )
    read_head(found, head)
    n_weights = sum(parameter.numel() for parameter in head.parameters())
    said = [f"kind {settings.kind}", _classes(found), f"{settings.pooling} pooling"]
    said.append(f"head of {n_weights:,} weights in {found.weights.files[0].name}")
    if settings.temperature is not None:
        said.append(f"calibrated with temperature {settings.temperature:.3g}")
    if settings.kind == "joined":
        said.append("both texts of a pair share max_seq_length")
    return finding("classifier", "OK", ", ".join(said) + (_KIND_UNKNOWN if found.hint else ""))


def _classes(found: FoundClassifier) -> str:
    classes = found.settings.classes
    if classes is None:
        return "one output, a score"
    return f"{len(classes)} classes ({listed((quoted(label, limit=40) for label in classes), _SHOWN_CLASSES)})"


def examine(
    folder: str | Path,
    texts: Iterable[str] | None = None,
    max_seq_length: int | None = None,
    *,
    deep: bool = False,
    texts_a_row: Literal[1, 2] = 1,
) -> tuple[Check, ...]:
    """Return the checks of a model folder, and of texts under it, in reading order.

    Args:
        folder: Of any layout that `ConnectionBert.from_pretrained` reads.
        texts: Read once, with the memory of one window; None to check only the folder.
        max_seq_length: Maximum number of tokens in a text, special tokens included; None for the folder's setting.
        deep: Whether to read the tensors too, with their checksums, and to run the model on a few texts; needs the
            memory of the model. Where there is a GPU the model is run there in any case.
        texts_a_row: 2 where `texts` are both sides of each pair in turn: a classifier of kind joined reads the two as
            one sequence.

    Raises:
        SbertFtError: Only what `texts` itself raises while it is read; never because of the folder.
    """
    try:
        path = find_folder(folder)
    except ModelFolderError as error:
        return (failure("folder", error, "give the path of a folder that holds config.json"),)
    source, faults = _read_source(path)
    of_weights: list[Check] = []
    weights = attempt(of_weights, "weights", _COPY_AGAIN, lambda: find_weights(source.encoder_path))
    plan = None if _has(faults, "config") else attempt(faults, "config", _OTHER_CONFIG, lambda: _plan(source, weights))
    files: list[Check] = []
    attempt(files, "files", "make the folder readable", lambda: files.append(_files(source, weights)))
    checks = [*files, *faults]
    if not faults:
        attempt(checks, "unused", "copy the folder's JSON files again", lambda: checks.extend(_unused(source)))
    if plan is not None:
        checks.append(_describe_plan(plan))
    if not _has(faults, "modules") and not _has(faults, "config"):
        if is_sentence_encoder(source):
            checks.append(_describe_modules(source))
        if is_classifier(source) and plan is not None and weights is not None:
            checks.append(_classifier(source, plan))
    if source.own:
        hint = "fit the threshold again with fit_threshold, or copy sbert_ft.json again from the model's source"
        attempt(checks, "decision", hint, lambda: checks.append(_describe_decision(source)))
    checks += of_weights
    if weights is not None:
        checks += _weights(weights, plan, source, deep)
    hint = "copy the tokenizer files that belong to the weights"
    n_rows = int(plan.config.vocab_size) if plan is not None else None
    tokenizer = attempt(checks, "tokenizer", hint, lambda: read_tokenizer_of(source, n_rows))
    if tokenizer is not None:
        if plan is not None:
            attempt(checks, "room", hint, lambda: check_room(tokenizer, source, plan))
        of_vocabulary = attempt(
            checks, "tokenizer", hint, lambda: vocabulary_checks(tokenizer, n_rows, source.encoder_path)
        )
        checks += of_vocabulary or []
    if plan is not None:
        checks.append(_length(source, plan, tokenizer.n_special + 1 if tokenizer else 3, max_seq_length))
        checks += _device(source, deep, broken=any(check.status == "FAIL" for check in checks))
    # With the vocabulary of other weights, the tokens of the texts mean nothing.
    fits = all(check.status != "FAIL" for check in checks if check.name == "vocabulary")
    if tokenizer is not None and texts is not None and fits:
        limits = _limits(source, plan, max_seq_length)
        joins = texts_a_row == 2 and _takes_joined_pairs(source)
        checks += text_checks(tokenizer, texts, replace(limits, joined=joins))
    return tuple(checks)


def _has(checks: Iterable[Check], name: str) -> bool:
    return any(check.name == name for check in checks)


def _read_source(path: Path) -> tuple[ModelFolder, list[Check]]:
    """Return as much of the folder as can be read, and the failures of config.json and of the other JSON files."""
    try:
        return read_folder(path), []
    except (SbertFtError, OSError) as error:
        whole = failure("modules", error, "copy the folder's JSON files again, or use a model without this part")
    old = path / "0_Transformer"
    encoder_path = old if old.is_dir() and not (path / "config.json").exists() else path
    faults: list[Check] = []
    hint = "copy the config.json that belongs to the weights"
    config = attempt(faults, "config", hint, lambda: read_json(encoder_path / "config.json"))
    if faults and not os.path.lexists(encoder_path / "config.json"):
        faults = [Check("config", "FAIL", whole.found, hint)]  # this message lists the files that are there instead
    elif whole.found not in [fault.found for fault in faults]:
        faults.append(whole)
    return ModelFolder(path, encoder_path, config or {}), faults


def _describe_decision(source: ModelFolder) -> Check:
    """Return the check of the threshold and calibration that sbert_ft.json stores."""
    decision = OwnSettings.of(source).decision
    if decision is None:
        return Check("decision", "OK", "sbert_ft.json stores no threshold")
    curve = "no calibration" if decision.calibration is None else f"{decision.calibration.kind} calibration"
    return Check(
        "decision", "OK", f"texts match where their {decision.similarity} is at least {decision.describe()}, {curve}"
    )


def _unused(source: ModelFolder) -> list[Check]:
    """Return a warning for each part of the folder that is not used here but changes the vectors in other programs."""
    hint = "compare the vectors with those of the program that the folder was made for"
    return [finding("unused", "WARN", note, hint) for note in unused_parts(source)]


def _classifier(source: ModelFolder, plan: EncoderPlan) -> Check:
    """Return the check of the classifier; only a warning for a stock folder, whose encoder loads without the head."""
    try:
        return describe_classifier(source, plan)
    except (SbertFtError, OSError) as error:
        fault = failure("classifier", error, "copy the whole folder again from the model's source")
        return replace(fault, status="FAIL" if "classifier" in source.own else "WARN")


def _takes_joined_pairs(source: ModelFolder) -> bool:
    """Return whether sbert_ft.json describes a classifier that reads a pair as one sequence."""
    own = source.own.get("classifier")
    return isinstance(own, dict) and own.get("kind") == "joined"


def _plan(source: ModelFolder, weights: WeightFiles | None) -> EncoderPlan:
    n_tensors = len(weights.tensors) if weights is not None else None
    return plan_encoder(source.config, source.config_file, n_tensors)


def _files(source: ModelFolder, weights: WeightFiles | None) -> Check:
    """Return the check that lists the files that are used and those that are ignored."""
    folder = source.encoder_path
    there = sorted(os.listdir(folder))
    used = [name for name in _SETTINGS if (folder / name).exists() or (source.path / name).exists()]
    used += [file.name for file in weights.files] if weights else []
    used += [weights.index.name] if weights and weights.index else []
    used += [HEAD_FILE] if "classifier" in source.own and HEAD_FILE in there else []
    used += next((names for names in _TOKENIZER_FILES if all(name in there for name in names)), ())
    modules = [name for name in there if (folder / name / "config.json").is_file()]
    ignored = [name for name in there if name not in (*used, *modules) and not _PAPERS.match(name)]
    said = f"used: {listed(used)}"
    return finding("files", "OK", said + (f"; ignored: {listed(ignored)}" if ignored else ""))


def _describe_plan(plan: EncoderPlan) -> Check:
    config = plan.config
    sizes = f"{config.num_hidden_layers} layers, width {config.hidden_size}, {config.num_attention_heads} heads"
    return finding("config", "OK", f"{config.model_type}, {sizes}, {config.vocab_size:,} embedding rows")


def _describe_modules(source: ModelFolder) -> Check:
    said = [f"{source.pooling} pooling", "vectors of length 1" if source.normalize else "vectors not normalized"]
    said.append(f"similarity {source.similarity}")
    if source.prompts:
        said.append(f"prompts {listed(source.prompts)} (by default {source.default_prompt_name or 'none'})")
    layout = (
        "no modules.json, so the usual settings" if source.layout == "transformers" else "sentence-transformers folder"
    )
    return finding("modules", "OK", f"{layout}: {', '.join(said)}")


def _weights(weights: WeightFiles, plan: EncoderPlan | None, source: ModelFolder, deep: bool) -> list[Check]:
    """Return the checks of the weights' headers, of their match with the config and, if `deep`, of the values."""
    n_bytes = sum(file.stat().st_size for file in weights.files)
    dtypes = Counter(info.dtype for info in weights.tensors.values())
    files = weights.files[0].name if len(weights.files) == 1 else f"{len(weights.files)} shards"
    size = f"{n_bytes / 1e6:,.1f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:,.1f} GB"
    kinds = ", ".join(name for name, _ in dtypes.most_common())
    checks = [finding("weights", "OK", f"{files}: {len(weights.tensors):,} tensors, {kinds}, {size}")]
    if plan is None:
        return checks
    match = match_names(weights.tensors, plan.shapes, plan.base_prefix)
    attempt(checks, "tensors", _ONE_MODEL, lambda: check_match(match, source.encoder_path))
    if not _has(checks, "tensors"):
        hint = "use the original weights; quantized ones are not supported"
        attempt(checks, "tensors", hint, lambda: checks.append(_needed_tensors(weights, match)))
    checks.append(_key_names(match, is_sentence_encoder(source)))
    if deep and all(check.status != "FAIL" for check in checks):
        attempt(checks, "values", _COPY_AGAIN, lambda: checks.append(_values(weights, match)))
    return checks


def _needed_tensors(weights: WeightFiles, match: NameMatch) -> Check:
    """Return the check of the needed tensors' types; their names and shapes have been checked before."""
    for key in _needed(match).values():
        check_is_float(weights.tensors[key].dtype, key, weights.files[0])
    return finding("tensors", "OK", f"{len(match.names)} of {len(match.names)} are there and fit config.json")


def _needed(match: NameMatch) -> dict[str, str]:
    """Return name and key of each tensor that loading reads, including a pooler, which is kept for saving."""
    return match.names | {key: key for key in match.heads if "pooler." in key}


def _key_names(match: NameMatch, heads_unused: bool) -> Check:
    """Return the check of the tensors' names: prefixes that were removed and tensors that are not used."""
    said = [f"prefix {listed(map(quoted, match.prefixes), 3)} removed" if match.prefixes else "no prefix"]
    if match.heads:
        said.append(
            f"{len(match.heads)} tensors of heads or pooler {'left out' if heads_unused else 'beside the encoder'}"
        )
    if not match.unknown:
        return finding("names", "OK", ", ".join(said))
    said.append(f"{len(match.unknown)} tensors that the encoder does not use: {listed(map(quoted, match.unknown), 3)}")
    return finding("names", "WARN", ", ".join(said), "make sure that weights and config.json belong to one model")


def _values(weights: WeightFiles, match: NameMatch) -> Check:
    """Return the check of the tensors' values; reading them raises on a wrong checksum, NaN or infinity."""
    tensors = read_tensors(weights, _needed(match))
    # Biases may be zero, and so may the token type table of RoBERTa models, which do not use token types.
    matrices = [name for name, tensor in tensors.items() if tensor.dim() > 1 and "token_type" not in name]
    zero = [name for name in matrices if not tensors[name].any()]
    if not zero:
        return finding("values", "OK", f"{len(tensors)} tensors read: whole and finite")
    said = f"{len(zero)} of {len(matrices)} matrices hold nothing but zeros: {listed(map(quoted, zero), 3)}"
    status: Status = "FAIL" if len(zero) == len(matrices) else "WARN"
    return finding(
        "values", status, f"{weights.files[0].name}: {said}", "use weights that were trained and saved completely"
    )


def _device(source: ModelFolder, deep: bool, broken: bool) -> list[Check]:
    """Return the checks of the device, and of the layouts with which the model gives correct results there."""
    device = choose_device()
    types = " and ".join(half_precisions(device)) or "none, so float32"
    checks = [finding("device", "OK", f"{describe_device(device)}, half precision: {types}")]
    if broken:
        checks.append(finding("layouts", "OK", "not tried, because the folder cannot be loaded"))
    elif device.type == "cpu" and not deep:
        checks.append(finding("layouts", "OK", "checked when the model is loaded; --deep loads it"))
    else:
        attempt(checks, "layouts", "load the model on another device", lambda: checks.append(_layouts(source, device)))
    return checks


def _layouts(source: ModelFolder, device: torch.device) -> Check:
    bert = ConnectionBert.from_pretrained(source.path, device)
    precision = str(bert.compute_dtype).removeprefix("torch.")
    said = f"run on {device} in {precision}: {', '.join(bert.probe.layouts)} correct"
    refused = [f"{layout} not used ({reason})" for layout, reason in bert.probe.refused.items()]
    return finding("layouts", "OK", "; ".join([said, *refused]))


def _limits(source: ModelFolder, plan: EncoderPlan | None, asked: int | None) -> TextLimits:
    """Return the limits of texts: the requested length, else the folder's, but at most the number of positions."""
    n_positions = plan.max_tokens if plan is not None else None
    lengths = [length for length in (asked or source.max_seq_length, n_positions) if length is not None]
    return TextLimits(min(lengths, default=None), n_positions, source.prompts.get(source.default_prompt_name or "", ""))


def _length(source: ModelFolder, plan: EncoderPlan, least: int, asked: int | None) -> Check:
    """Return the check that the encoder has positions for texts of the maximum length."""
    said, n_positions = source.max_seq_length, plan.max_tokens
    if asked is not None:
        hint = f"give a whole number from {least} to {n_positions}"
        if not least <= asked <= n_positions:
            found = f"max_seq_length {asked} was requested, but the encoder has positions for {n_positions} tokens"
            return finding("length", "FAIL", found, hint)
        return finding("length", "OK", f"max_seq_length {asked}, as requested; positions for {n_positions} tokens")
    if said is None:
        return finding("length", "OK", f"positions for {n_positions} tokens; the folder sets no other max_seq_length")
    if said <= n_positions:
        return finding("length", "OK", f"max_seq_length {said}; positions for {n_positions} tokens")
    old = (source.encoder_path / "sentence_bert_config.json").exists()
    place = "max_seq_length in sentence_bert_config.json" if old else "model_max_length in tokenizer_config.json"
    found = f"max_seq_length {said}, but the encoder has positions for {n_positions} tokens; {n_positions} is used"
    return finding("length", "WARN", found, f"set {place} to {n_positions}")
