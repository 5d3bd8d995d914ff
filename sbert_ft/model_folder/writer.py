"""Write a model folder that other libraries can load.

The names are those that sentence-transformers has read since version 2 and that 6.2, transformers and the embedding
servers still read. What only sbert_ft uses is in `sbert_ft.json`. Files are written beside the target and then moved
there (see `files.atomic`): an incomplete folder, or a mixture of two models, cannot be loaded as a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from sbert_ft._version import library_versions
from sbert_ft.encoder.heads import ClassificationHead
from sbert_ft.encoder.kinds import StockHead
from sbert_ft.encoder.spec import encoder_tensors
from sbert_ft.errors import OutputError, quoted
from sbert_ft.files.atomic import json_bytes, make_folder, put_in_place, staged_beside
from sbert_ft.markdown_text import escaped_markdown
from sbert_ft.model_folder.classifier import ClassifierSettings, stock_name
from sbert_ft.model_folder.decision import Decision
from sbert_ft.model_folder.layout import HEAD_FILE, POOLING_FLAGS, ModelFolder
from sbert_ft.model_folder.metadata import FORMAT, OwnSettings
from sbert_ft.model_folder.tensor_files import write_safetensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sbert_ft.tokenization.tokenizer import TextTokenizer

_OWN = "sbert_ft.json"
_POOLING = "1_Pooling/config.json"
# Files that say how to read a folder, and would be wrong beside the files of another layout.
FILES_OF_A_LAYOUT = (
    *("modules.json", _POOLING, "config_sentence_transformers.json", "sentence_bert_config.json"),
    *("2_Normalize/config.json", _OWN, HEAD_FILE),
)
_N_NAMED = 20
_IDENTITY, _SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"
_PAIRS = '[("A man plays a guitar.", "Someone makes music.")]'
_AS_SENTENCE_ENCODER = """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this-folder")
vectors = model.encode(["A man plays a guitar.", "Someone makes music."])
```
"""
_AS_CROSS_ENCODER = f"""```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("this-folder")
outputs = model.predict({_PAIRS})
```
"""
_AS_PIPELINE = """```python
from transformers import pipeline

classify = pipeline("text-classification", "this-folder")
predicted = classify("A man plays a guitar.")
```
"""


@dataclass(frozen=True)
class EncoderParts:
    """A stock encoder, the tensors of its pooler by name, and what a folder says of it.

    `settings` is what the JSON files will say, except config.json and sbert_ft.json, whose content is `own`.
    """

    encoder: PreTrainedModel
    pooler: Mapping[str, Tensor]
    tokenizer: TextTokenizer
    settings: ModelFolder
    own: OwnSettings

    @property
    def max_tokens(self) -> int:
        """Tokens that a text may have."""
        assert self.settings.max_seq_length is not None
        return self.settings.max_seq_length


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` write all files of a model to a folder beside the target, and move it into place.

    A new folder appears in one step. In an existing one our files are replaced, files of another layout of ours are
    removed, and other files stay; a process that reads it meanwhile finds no model, and never a mixture of two.

    Raises:
        OutputError: The folder cannot be written, or the target is a file.
    """
    try:
        target = target.resolve()  # follows links, so that files are staged beside the real folder
    except (OSError, ValueError, RuntimeError) as error:  # a NUL in the name, a loop of links
        raise OutputError(f"{quoted(target)} cannot be a folder to write the model to: {error}") from error
    try:
        make_folder(target.parent)
        if target.exists() and not target.is_dir():
            raise OutputError(f"{target} is a file: expected a folder, or nothing, to write the model to")
        with staged_beside(target) as staging:
            write(staging)
            put_in_place(staging, target, FILES_OF_A_LAYOUT)
    except OSError as error:
        raise OutputError(f"the model cannot be written to {target}: {error.strerror or error}") from error


def write_sentence_encoder(parts: EncoderParts, folder: Path) -> None:
    """Write all files of a sentence encoder to an empty folder."""
    settings, versions = parts.settings, library_versions()
    write_weights(encoder_config(parts.encoder), {**encoder_tensors(parts.encoder), **parts.pooler}, folder)
    parts.tokenizer.save_pretrained(folder, parts.max_tokens)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * settings.normalize
    files: dict[str, object] = {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (path, name) in enumerate(modules)
        ],
        _POOLING: {
            "word_embedding_dimension": int(parts.encoder.config.hidden_size),
            **{flag: settings.pooling == mode for flag, mode in POOLING_FLAGS.items()},
            "pooling_mode_mean_sqrt_len_tokens": False,
            **({} if settings.include_prompt else {"include_prompt": False}),  # not known to versions before 2.4
        },
        # the tokenizer sets the casing; this key would lower-case before it
        "sentence_bert_config.json": {"max_seq_length": parts.max_tokens, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "__version__": {
                "pytorch": torch.__version__,
                "sentence_transformers": versions["sentence-transformers"],
                "transformers": versions["transformers"],
            },
            "prompts": dict(settings.prompts),
            "default_prompt_name": settings.default_prompt_name,
            "similarity_fn_name": settings.similarity,
            **({} if settings.truncate_dim is None else {"truncate_dim": settings.truncate_dim}),
        },
    }
    if settings.normalize:
        files["2_Normalize/config.json"] = {}  # git and archives do not keep an empty folder
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(json_bytes(content))
    (folder / "README.md").write_text(_card(parts), "utf-8")
    write_own(parts.own, folder)


def write_own(own: OwnSettings, folder: Path) -> None:
    """Write sbert_ft.json."""
    (folder / _OWN).write_bytes(json_bytes({**own.to_json(), "format": FORMAT}))


def encoder_config(encoder: PreTrainedModel) -> dict[str, Any]:
    """Return the content of an encoder's config.json."""
    config = {key: value for key, value in encoder.config.to_dict().items() if not key.startswith("_")}
    return config | {"architectures": [type(encoder).__name__], "dtype": "float32"}


def write_weights(config: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write config.json and, in float32, model.safetensors."""
    (folder / "config.json").write_bytes(json_bytes(config))
    write_tensors(tensors, folder / "model.safetensors")


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file in float32."""
    write_safetensors({name: tensor.float() for name, tensor in tensors.items()}, file, {"format": "pt"})


def save_classifier(parts: EncoderParts, settings: ClassifierSettings, head: ClassificationHead, target: Path) -> None:
    """Write a classifier's folder, in the same way and with the same errors as `write_folder`.

    `parts.own` has the classifier's settings too.
    """

    def write(folder: Path) -> None:
        stock = head.plan.stock
        if stock is None:
            write_sentence_encoder(parts, folder)
            write_tensors(head.state_dict(), folder / HEAD_FILE)
        else:
            write_weights(_stock_config(parts, settings, stock), _stock_tensors(parts, head, stock), folder)
            parts.tokenizer.save_pretrained(folder, parts.max_tokens)
            write_own(parts.own, folder)
        (folder / "README.md").write_text(_card(parts, settings, is_stock=stock is not None), "utf-8")

    write_folder(target, write)


def save_language_model(parts: EncoderParts, architecture: str, heads: Mapping[str, Tensor], target: Path) -> None:
    """Write the folder of an encoder with the heads of pre-training, in the same way as `write_folder`.

    `architecture` is the name of transformers' class, such as BertForMaskedLM, and `heads` has its tensors by their
    names there. The files of sentence-transformers are written too if the model came from a folder that had them.
    """

    def write(folder: Path) -> None:
        if parts.settings.layout == "sentence-transformers":
            write_sentence_encoder(parts, folder)
        else:
            parts.tokenizer.save_pretrained(folder, parts.max_tokens)
            write_own(parts.own, folder)
        prefix = f"{parts.encoder.base_model_prefix}."
        of_encoder = {**encoder_tensors(parts.encoder), **parts.pooler}
        named = {prefix + name: tensor for name, tensor in of_encoder.items()}
        write_weights(encoder_config(parts.encoder) | {"architectures": [architecture]}, {**named, **heads}, folder)
        (folder / "README.md").write_text(_language_model_card(parts), "utf-8")

    write_folder(target, write)


def _language_model_card(parts: EncoderParts) -> str:
    """Return the README.md of a masked language model."""
    config = parts.encoder.config
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
tags:
- fill-mask
- sbert_ft
---

# A masked language model

A {config.model_type} encoder with {config.num_hidden_layers} layers of width {config.hidden_size}, pre-trained on
masked tokens, sequences of up to {parts.max_tokens} tokens. Saved by sbert_ft.

```python
from transformers import pipeline

fill_mask = pipeline("fill-mask", "this-folder")
words = fill_mask("Text with a [MASK] in it.")
```

To fine-tune it on pairs, name this folder as `model.path` of `sbert-ft train`.
"""


def _stock_tensors(parts: EncoderParts, head: ClassificationHead, stock: StockHead) -> dict[str, Tensor]:
    """Return the weights of encoder and head by their names in a stock file."""
    prefix = f"{parts.encoder.base_model_prefix}."
    named = {prefix + name: tensor for name, tensor in encoder_tensors(parts.encoder).items()}
    for name, tensor in head.state_dict().items():
        in_encoder = stock.dense_in_encoder and name.startswith("dense.")
        named[(prefix if in_encoder else "") + stock_name(stock, name)] = tensor
    return named


def _stock_config(parts: EncoderParts, settings: ClassifierSettings, stock: StockHead) -> dict[str, Any]:
    names = ["LABEL_0"] if settings.classes is None else [str(label) for label in settings.classes]
    config = encoder_config(parts.encoder)
    for key in ("num_labels", "problem_type"):
        config.pop(key, None)
    config |= {
        "architectures": [MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[config["model_type"]]],
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }
    only_of_head = next((key for key in stock.dropout_keys if key != "hidden_dropout_prob"), None)
    if only_of_head is not None and settings.head_dropout is not None:
        config[only_of_head] = settings.head_dropout
    if settings.classes is not None:
        # not set for one output: transformers then applies a sigmoid, which "regression" would leave out
        config["problem_type"] = "single_label_classification"
    if settings.kind == "joined":
        activation = _SIGMOID if settings.classes is None else _IDENTITY
        config["sentence_transformers"] = {
            "activation_fn": activation,
            "version": library_versions()["sentence-transformers"],
        }
    return config


def _what_it_does(settings: ClassifierSettings) -> str:
    rows = {
        "towers": "pairs of texts, each text encoded separately",
        "joined": "pairs of texts, joined to one sequence",
        "single": "texts",
    }[settings.kind]
    if settings.classes is None:
        return f"It predicts a graded score for {rows}."
    names = [escaped_markdown(quoted(label)) for label in settings.classes]
    more = f" and {len(names) - _N_NAMED} more" if names[_N_NAMED:] else ""
    return f"It predicts one of {len(names)} classes ({', '.join(names[:_N_NAMED])}{more}) for {rows}."


def _decision_section(decision: Decision | None, *, of_classifier: bool) -> str:
    if decision is None:
        return ""
    if of_classifier:
        return f"\n`model.match(rows)` is true where the probability is at least {decision.describe()}.\n"
    values = ", ".join(f"{name} {value:.3f}" for name, value in decision.reached.items())
    reached = f" On these pairs it reaches {values}." if values else ""
    likely = "" if decision.calibration is None else "likely = model.predict_proba(pairs)  # probabilities\n"
    return f"""
Two texts belong together where their cosine is at least {decision.describe()}.{reached}

```python
pairs = {_PAIRS}
together = model.match(pairs)
{likely}```
"""


def _card(parts: EncoderParts, classifier: ClassifierSettings | None = None, *, is_stock: bool = False) -> str:
    """Return the README.md of a sentence encoder, or of a classifier, whose folder may be a stock one."""
    config, settings = parts.encoder.config, parts.settings
    library = "transformers" if is_stock else "sentence-transformers"
    task = "text-classification" if is_stock else "sentence-similarity"
    tags = ["sbert_ft"] if is_stock else [library, task, "sbert_ft"]
    others = _AS_SENTENCE_ENCODER
    if classifier is None:
        title, model = "A sentence encoder", "SiameseBert"
        names = ", ".join(escaped_markdown(quoted(name)) for name in settings.prompts)
        prompts = f", prompts {names}" if any(settings.prompts.values()) else ""
        said = f"{settings.pooling} pooling, texts of up to {parts.max_tokens} tokens,"
        said += f" compared by {settings.similarity}{prompts}."
        use = f"scores = model.score({_PAIRS})\n"
    else:
        title, model, tags = "A text classifier", "BertClassifier", ["text-classification", *tags]
        said = f"{classifier.pooling} pooling, sequences of up to {parts.max_tokens} tokens."
        said += f" {_what_it_does(classifier)}"
        rows = '["A man plays a guitar."]' if classifier.kind == "single" else _PAIRS
        use = f"rows = {rows}\npredicted = model.predict(rows)\n"
        use += "" if classifier.classes is None else "probabilities = model.predict_proba(rows)\n"
        if is_stock:
            others = _AS_CROSS_ENCODER if classifier.kind == "joined" else _AS_PIPELINE
        else:
            others = f"Other libraries load only the encoder, without the classifier's head:\n\n{others}"
    lines = "".join(f"- {tag}\n" for tag in tags)
    return f"""---
library_name: {library}
pipeline_tag: {task}
tags:
{lines}---

# {title}

A {config.model_type} encoder with {config.num_hidden_layers} layers of width {config.hidden_size}, {said}
Saved by sbert_ft.

```python
from sbert_ft import {model}

model = {model}.from_pretrained("this-folder")
{use}```
{_decision_section(parts.own.decision, of_classifier=classifier is not None)}
{others}"""
