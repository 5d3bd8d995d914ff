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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from sbert_ft.arguments import whole_number
from sbert_ft.doctor.checks import Check, Status, attempt, failure, names_of, noted
from sbert_ft.doctor.tokens import text_checks, vocabulary_checks
from sbert_ft.encoder.devices import choose_device, describe_device, half_precisions
from sbert_ft.encoder.heads import ClassificationHead, plan_head
from sbert_ft.encoder.spec import EncoderPlan, plan_encoder
from sbert_ft.errors import ModelFolderError, SbertFtError, listed
from sbert_ft.files.strict_json import read_json, read_json_if_there
from sbert_ft.model_folder import layout
from sbert_ft.model_folder.classifier import find_classifier, has_classifier, read_head
from sbert_ft.model_folder.metadata import OwnSettings
from sbert_ft.model_folder.tensor_names import NameMatch, check_is_float, check_match, match_names
from sbert_ft.model_folder.weights import WeightFiles, find_weights, read_tensors
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.folder_tokenizer import check_room, read_tokenizer_of
from sbert_ft.tokenization.classes import USUALLY_WORDPIECE
from sbert_ft.tokenization.tokenizer import TextTokenizer

_ORDER = (
    *("files", "config", "modules", "unused", "classifier", "decision", "weights", "tensors", "names", "values"),
    *("tokenizer", "room", "special tokens", "vocabulary", "casing", "length", "device", "layouts"),
)
_SETTINGS = (
    *("config.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("modules.json", "config_sentence_transformers.json", "sbert_ft.json"),
)
_PAPERS = re.compile(r"readme|licen[cs]e|\.git", re.IGNORECASE)
_COPY_AGAIN = "copy or download the weights again"


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
        path = layout.find_folder(folder)
    except ModelFolderError as error:
        return (failure("folder", error, "give the path of a folder that holds config.json"),)
    checks: list[Check] = []
    source = _read_source(path, checks)
    is_whole = not checks
    weights = attempt(checks, "weights", _COPY_AGAIN, lambda: find_weights(source.encoder_path))
    plan = None
    if not any(check.name == "config" for check in checks):
        hint = "copy the config.json that belongs to the weights, or use a model of a supported kind"
        n_tensors = None if weights is None else len(weights.tensors)
        plan = attempt(checks, "config", hint, lambda: plan_encoder(source.config, source.config_file, n_tensors))
    n_rows = None if plan is None else int(plan.config.vocab_size)
    of_tokenizer = "copy the tokenizer files that belong to the weights"
    tokenizer = attempt(checks, "tokenizer", of_tokenizer, lambda: read_tokenizer_of(source, n_rows))

    def add(name: str, hint: str, found: Iterator[Check]) -> None:
        """Add the checks that are found, and a FAIL for the error that ends them."""
        attempt(checks, name, hint, lambda: checks.extend(found))

    add("files", "make the folder readable", _files(source, weights, tokenizer))
    if plan is not None:
        add("unused", "copy the folder's JSON files again", _settings(source, plan, is_whole))
        if is_whole and weights is not None:
            add("classifier", "copy the whole folder again from the model's source", _classifier(source, plan))
    if source.own:
        hint = "fit the threshold again with fit_threshold, or copy sbert_ft.json again from the model's source"
        add("decision", hint, _decision(source))
    if weights is not None:
        match = match_names(weights.tensors, plan.shapes, plan.base_prefix) if plan is not None else None
        add("tensors", _COPY_AGAIN, _weights(weights, match, source))
        if deep and match is not None and checks[-1].status == "OK":
            add("values", _COPY_AGAIN, _values(weights, match))
    if tokenizer is not None:
        checks += vocabulary_checks(tokenizer, n_rows, source.encoder_path)
        add("tokenizer", of_tokenizer, _class_of_others(tokenizer, source))
    if plan is not None:
        if tokenizer is not None:
            attempt(checks, "room", of_tokenizer, lambda: check_room(tokenizer, source, plan.max_tokens))
        least = tokenizer.n_special + 1 if tokenizer is not None else 3
        hint = f"give a whole number from {least} to {plan.max_tokens}"
        add("length", hint, _length(source, plan.max_tokens, least, max_seq_length))
        is_broken = any(check.status == "FAIL" for check in checks)
        add("layouts", "load the model on another device", _device(source, deep, is_broken))
    checks.sort(key=lambda check: _ORDER.index(check.name))
    # With the vocabulary of other weights, the tokens of the texts mean nothing.
    is_other = any((check.name, check.status) == ("vocabulary", "FAIL") for check in checks)
    if tokenizer is not None and texts is not None and not is_other:
        settings = source.own.get("classifier")
        joined = texts_a_row == 2 and isinstance(settings, dict) and settings.get("kind") == "joined"
        n_positions = None if plan is None else plan.max_tokens
        checks += text_checks(tokenizer, texts, source, n_positions, max_seq_length, joined)
    return tuple(checks)


def _read_source(path: Path, checks: list[Check]) -> layout.ModelFolder:
    """Return as much of the folder as can be read; add the failures of config.json and of the other JSON files."""
    try:
        return layout.read_folder(path)
    except (SbertFtError, OSError) as error:
        fault = failure("modules", error, "copy the folder's JSON files again, or use a model without this part")
    old = path / "0_Transformer"
    place = old if old.is_dir() and not (path / "config.json").exists() else path
    hint = "copy the config.json that belongs to the weights"
    config = attempt(checks, "config", hint, lambda: read_json(place / "config.json"))
    if not os.path.lexists(place / "config.json"):
        checks[:] = [Check("config", "FAIL", fault.found, hint)]  # this message lists the files that are there instead
    elif fault.found not in [check.found for check in checks]:
        checks.append(fault)
    return layout.ModelFolder(path, place, config or {})


def _files(source: layout.ModelFolder, weights: WeightFiles | None, tokenizer: TextTokenizer | None) -> Iterator[Check]:
    folder = source.encoder_path
    there = sorted(os.listdir(folder))
    used = [name for name in _SETTINGS if (folder / name).exists() or (source.path / name).exists()]
    used += [] if source.transformer_file is None else [source.transformer_file.name]
    if weights is not None:
        used += [file.name for file in (*weights.files, weights.index) if file is not None]
    used += [layout.HEAD_FILE] if "classifier" in source.own and layout.HEAD_FILE in there else []
    used += [file.name for file in (() if tokenizer is None else tokenizer.files)]
    used += [path.name for path in source.module_paths if path.parent == folder]
    modules = [name for name in there if (folder / name / "config.json").is_file()]
    ignored = [name for name in there if name not in (*used, *modules) and not _PAPERS.match(name)]
    yield noted("files", f"used: {names_of(used)}" + (f"; ignored: {names_of(ignored)}" if ignored else ""))


def _class_of_others(tokenizer: TextTokenizer, source: layout.ModelFolder) -> Iterator[Check]:
    """Yield a warning where transformers would build another tokenizer, because no file names a class."""
    file, kind = source.encoder_path / "tokenizer_config.json", str(source.config.get("model_type", "bert"))
    is_named = read_json_if_there(file).get("tokenizer_class") or source.config.get("tokenizer_class")
    is_read = tokenizer.casing is not None or tokenizer.files[0].name != "tokenizer.json"
    if is_named or is_read or kind not in USUALLY_WORDPIECE:
        return
    model = type(tokenizer.backend.model).__name__
    said = f"{model}, not BERT's, and no tokenizer_class is named: transformers builds a {kind} tokenizer from "
    said += "tokenizer.json, to which every word is unknown; here it is read as it is"
    hint = 'write "tokenizer_class": "PreTrainedTokenizerFast" into tokenizer_config.json, or save the model once'
    yield Check("tokenizer", "WARN", said, hint)


def _settings(source: layout.ModelFolder, plan: EncoderPlan, is_whole: bool) -> Iterator[Check]:
    """Yield the checks of the encoder's settings, of how texts become vectors, and of what is not used."""
    config = plan.config
    sizes = f"{config.num_hidden_layers} layers, width {config.hidden_size}, {config.num_attention_heads} heads"
    yield noted("config", f"{config.model_type}, {sizes}, {config.vocab_size:,} embedding rows")
    if not is_whole:
        return
    if layout.architecture_of_classifier(source.config) is None:
        is_bare = source.layout == "transformers"
        said = "no modules.json, so the usual settings" if is_bare else "sentence-transformers folder"
        without = "" if source.include_prompt else " without the prompt's tokens"
        said += (
            f": {source.pooling} pooling{without}, vectors {'of length 1' if source.normalize else 'not normalized'}"
        )
        said += f", similarity {source.similarity}"
        if source.prompts:
            said += f", prompts {names_of(source.prompts)} (by default {source.default_prompt_name or 'none'})"
        if isinstance(sides := source.own.get("pair_prompts"), list):
            said += f", before the texts of a pair {names_of(sides)}"
        yield noted("modules", said)
    for note in layout.unused_parts(source):
        yield noted("unused", note, "compare the vectors with those of the program that the folder was made for")


def _classifier(source: layout.ModelFolder, plan: EncoderPlan) -> Iterator[Check]:
    """Yield the check of a classifier; only a warning for a stock folder, whose encoder loads without the head."""
    if not has_classifier(source) and not os.path.lexists(source.path / layout.HEAD_FILE):
        return
    try:
        found = find_classifier(source)
        settings = found.settings
        words = (settings.kind, settings.pooling, settings.features, settings.head_dropout)
        head = ClassificationHead(plan_head(plan.config, *words, source.pooling), settings.n_outputs)
        read_head(found, head)
    except SbertFtError as error:
        if "classifier" in source.own:
            raise
        yield failure("classifier", error, "copy the whole folder again from the model's source", "WARN")
        return
    n_weights = sum(parameter.numel() for parameter in head.parameters())
    classes = settings.classes
    said = "one output, a score" if classes is None else f"{len(classes)} classes ({listed(classes, 10)})"
    said = f"kind {settings.kind}, {said}, {settings.pooling} pooling, "
    said += f"head of {n_weights:,} weights in {found.weights().files[0].name}"
    if settings.temperature is not None:
        said += f", calibrated with temperature {settings.temperature:.3g}"
    if settings.kind == "joined":
        said += ", both texts of a pair share max_seq_length"
    if found.hint:
        said += "; the folder does not say whether it takes single texts or pairs (kind joined)"
    yield noted("classifier", said)


def _decision(source: layout.ModelFolder) -> Iterator[Check]:
    decision = OwnSettings.of(source).decision
    if decision is None:
        yield noted("decision", "sbert_ft.json stores no threshold")
        return
    curve = "no" if decision.calibration is None else decision.calibration.kind
    threshold = f"texts match where their {decision.similarity} is at least {decision.describe()}"
    yield noted("decision", f"{threshold}, {curve} calibration")


def _weights(weights: WeightFiles, match: NameMatch | None, source: layout.ModelFolder) -> Iterator[Check]:
    """Yield the checks of the weights' headers, of the tensors' names, and of the needed tensors' shapes and types."""
    n_bytes = sum(file.stat().st_size for file in weights.files)
    size = f"{n_bytes / 1e6:,.1f} MB" if n_bytes < 1e9 else f"{n_bytes / 1e9:,.1f} GB"
    files = weights.files[0].name if len(weights.files) == 1 else f"{len(weights.files)} shards"
    dtypes = Counter(info.dtype for info in weights.tensors.values())
    kinds = ", ".join(name for name, _ in dtypes.most_common())
    yield noted("weights", f"{files}: {len(weights.tensors):,} tensors, {kinds}, {size}")
    if match is None:
        return
    said = f"prefix {listed(match.prefixes, 3)} removed" if match.prefixes else "no prefix"
    if match.heads:
        place = "left out" if layout.architecture_of_classifier(source.config) is None else "beside the encoder"
        said += f", {len(match.heads)} tensors of heads or pooler {place}"
    if match.unknown:
        said += f", {len(match.unknown)} tensors that the encoder does not use: {listed(match.unknown, 3)}"
    yield noted("names", said, "make sure that weights and config.json belong to one model" if match.unknown else "")
    check_match(match, source.encoder_path)
    for key in (match.names | match.poolers).values():
        check_is_float(weights.tensors[key].dtype, key, weights.files[0])
    yield noted("tensors", f"{len(match.names)} of {len(match.names)} are there and fit config.json")


def _values(weights: WeightFiles, match: NameMatch) -> Iterator[Check]:
    """Yield the check of the tensors' values; reading them raises on a wrong checksum, NaN or infinity."""
    tensors = read_tensors(weights, match.names | match.poolers)
    # Biases may be zero, and so may the token type table of RoBERTa models, which do not use token types.
    matrices = [name for name, tensor in tensors.items() if tensor.dim() > 1 and "token_type" not in name]
    zero = [name for name in matrices if not tensors[name].any()]
    if not zero:
        yield noted("values", f"{len(tensors)} tensors read: whole and finite")
        return
    said = f"{len(zero)} of {len(matrices)} matrices hold nothing but zeros: {listed(zero, 3)}"
    status: Status = "FAIL" if len(zero) == len(matrices) else "WARN"
    hint = "use weights that were trained and saved completely"
    yield Check("values", status, f"{weights.files[0].name}: {said}", hint)


def _length(source: layout.ModelFolder, n_positions: int, least: int, asked: int | None) -> Iterator[Check]:
    """Yield the check that the encoder has positions for texts of the maximum length."""
    said, positions = source.max_seq_length, f"positions for {n_positions} tokens"
    if asked is not None:
        whole_number(asked, "max_seq_length", least, n_positions)
        yield noted("length", f"max_seq_length {asked}, as requested; {positions}")
    elif said is None:
        yield noted("length", f"{positions}; the folder sets no other max_seq_length")
    elif said <= n_positions:
        yield noted("length", f"max_seq_length {said}; {positions}")
    else:
        old = (source.encoder_path / "sentence_bert_config.json").exists()
        place = "max_seq_length in sentence_bert_config.json" if old else "model_max_length in tokenizer_config.json"
        found = f"max_seq_length {said}, but the encoder has {positions}; {n_positions} is used"
        yield noted("length", found, f"set {place} to {n_positions}")


def _device(source: layout.ModelFolder, deep: bool, is_broken: bool) -> Iterator[Check]:
    """Yield the checks of the device, and of the layouts with which the model gives correct results there."""
    device = choose_device()
    types = " and ".join(half_precisions(device)) or "none, so float32"
    yield noted("device", f"{describe_device(device)}, half precision: {types}")
    if is_broken:
        yield noted("layouts", "not tried, because the folder cannot be loaded")
    elif device.type == "cpu" and not deep:
        yield noted("layouts", "checked when the model is loaded; --deep loads it")
    else:
        bert = ConnectionBert.from_pretrained(source, device)
        precision = str(bert.compute_dtype).removeprefix("torch.")
        said = [f"run on {device} in {precision}: {', '.join(bert.probe.layouts)} correct"]
        said += [f"{name} not used ({reason})" for name, reason in bert.probe.refused.items()]
        yield noted("layouts", "; ".join(said))
