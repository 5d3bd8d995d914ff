"""Write a model folder that other libraries can load.

The names are those that sentence-transformers has read since version 2 and that 6.2, transformers
and the embedding servers still read; nothing in it names a class of ours. What only sbert_ft uses is
in `sbert_ft.json`. Files are written beside the target and then moved there (see `files.atomic`): an
incomplete folder, or a mixture of two models, cannot be loaded as a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from sbert_ft.encoder.heads import ClassificationHead
from sbert_ft.encoder.kinds import StockHead
from sbert_ft.errors import OutputError, quoted
from sbert_ft.files.atomic import json_bytes, make_folder, put_in_place, staged_beside
from sbert_ft.markdown_text import escaped_markdown
from sbert_ft.model_folder.classifier import ClassifierSettings, stock_name
from sbert_ft.model_folder.decision import Decision
from sbert_ft.model_folder.layout import HEAD_FILE, ModelFolder
from sbert_ft.model_folder.metadata import FORMAT, OwnSettings
from sbert_ft.model_folder.tensor_files import write_safetensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sbert_ft.tokenization.tokenizer import TextTokenizer

_OWN = "sbert_ft.json"
# Files that say how to read a folder, and would be wrong beside the files of another layout.
_OF_A_LAYOUT = (
    "modules.json",
    "1_Pooling/config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "2_Normalize/config.json",
    _OWN,
    HEAD_FILE,
)


_N_NAMED = 20
_IDENTITY, _SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"


@dataclass(frozen=True)
class EncoderParts:
    """An encoder and what a folder says of it.

    Attributes:
        encoder: The stock module.
        pooler: The tensors of its pooler, by name; empty where it has none.
        tokenizer: Its tokenizer.
        settings: What the JSON files will say, except config.json and sbert_ft.json.
        own: The content of sbert_ft.json.
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


def save_siamese(parts: EncoderParts, target: Path) -> None:
    """Write an encoder and its settings as a folder of sentence-transformers.

    Raises:
        OutputError: The folder cannot be written, or the target is a file.
    """
    write_folder(target, lambda folder: write_sentence_encoder(parts, folder))


def write_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Write a model folder by `write` beside the target, and move it into place.

    A new folder appears in one step. In an existing one our files are replaced, files of another layout of ours are
    removed, and other files stay; a process that reads it meanwhile finds no model, and never a mixture of two.

    Args:
        target: The folder.
        write: Writes all files to the folder that it is called with.

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
            put_in_place(staging, target, _OF_A_LAYOUT)
    except (OSError, SafetensorError) as error:  # the second is how safetensors reports a full disk
        cause = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"the model cannot be written to {target}: {cause}") from error


def write_sentence_encoder(parts: EncoderParts, folder: Path) -> None:
    """Write all files of a sentence encoder to an empty folder."""
    settings = parts.settings
    write_weights(encoder_config(parts.encoder), {**encoder_tensors(parts.encoder), **parts.pooler}, folder)
    parts.tokenizer.save_pretrained(folder, parts.max_tokens)
    width = int(parts.encoder.config.hidden_size)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * settings.normalize
    for path, _ in modules[1:]:
        (folder / path).mkdir()
    _write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (path, name) in enumerate(modules)
        ],
    )
    _write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": width,
            "pooling_mode_cls_token": settings.pooling == "cls",
            "pooling_mode_mean_tokens": settings.pooling == "mean",
            "pooling_mode_max_tokens": settings.pooling == "max",
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    )
    if settings.normalize:
        # git and archives do not keep an empty folder
        _write_json(folder / "2_Normalize" / "config.json", {})
    # the tokenizer sets the casing; this key would lower-case before it
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": parts.max_tokens, "do_lower_case": False})
    _write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {
                "pytorch": torch.__version__,
                **{name: version_of(name) for name in ("sentence_transformers", "transformers")},
            },
            "prompts": dict(settings.prompts),
            "default_prompt_name": settings.default_prompt_name,
            "similarity_fn_name": settings.similarity,
        },
    )
    (folder / "README.md").write_text(_model_card(parts), "utf-8")
    write_own(parts.own, folder)


def write_own(own: OwnSettings, folder: Path) -> None:
    """Write sbert_ft.json."""
    _write_json(folder / _OWN, {**own.to_json(), "format": FORMAT})


def encoder_config(encoder: PreTrainedModel) -> dict[str, Any]:
    """Return the content of an encoder's config.json."""
    config = {key: value for key, value in encoder.config.to_dict().items() if not key.startswith("_")}
    return config | {
        "architectures": [type(encoder).__name__],
        "model_type": encoder.config.model_type,
        "dtype": "float32",
    }


def encoder_tensors(encoder: PreTrainedModel) -> dict[str, Tensor]:
    """Return an encoder's weights by name, without a prefix."""
    buffers = {name for name, _ in encoder.named_buffers()}
    return {name: tensor for name, tensor in encoder.state_dict().items() if name not in buffers}


def write_weights(config: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write config.json and, in float32, model.safetensors."""
    _write_json(folder / "config.json", config)
    write_tensors(tensors, folder / "model.safetensors")


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file in float32."""
    write_safetensors({name: tensor.float() for name, tensor in tensors.items()}, file, {"format": "pt"})


def _write_json(path: Path, content: object) -> None:
    path.write_bytes(json_bytes(content))


def version_of(name: str) -> str:
    """Return the version of an installed package, or "unknown"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _decision_section(decision: Decision | None) -> str:
    if decision is None:
        return ""
    values = ", ".join(f"{name} {value:.3f}" for name, value in decision.reached.items())
    reached = f" On these pairs it reaches {values}." if values else ""
    likely = "" if decision.calibration is None else "likely = model.predict_proba(pairs)  # probabilities\n"
    return f"""
Two texts belong together where their cosine is at least {decision.describe()}.{reached}

```python
pairs = [("A man plays a guitar.", "Someone makes music.")]
together = model.match(pairs)
{likely}```
"""


def _model_card(parts: EncoderParts) -> str:
    encoder, settings = parts.encoder, parts.settings
    names = ", ".join(escaped_markdown(quoted(name)) for name in settings.prompts)
    prompts = f", prompts {names}" if any(settings.prompts.values()) else ""
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- sentence-similarity
- sbert_ft
---

# A sentence encoder

A {encoder.config.model_type} encoder with {encoder.config.num_hidden_layers} layers of width
{encoder.config.hidden_size}, {settings.pooling} pooling, texts of up to {parts.max_tokens} tokens,
compared by {settings.similarity}{prompts}. Saved by sbert_ft.

```python
from sbert_ft import SiameseBert

model = SiameseBert.from_pretrained("this-folder")
scores = model.score([("A man plays a guitar.", "Someone makes music.")])
```
{_decision_section(parts.own.decision)}
```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this-folder")
vectors = model.encode(["A man plays a guitar.", "Someone makes music."])
```
"""


def save_classifier(parts: EncoderParts, settings: ClassifierSettings, head: ClassificationHead, target: Path) -> None:
    """Write a classifier's folder, in the same way as `write_folder`.

    Args:
        parts: The encoder; `parts.own` has the classifier's settings too.
        settings: The classifier's settings.
        head: The classifier's head.
        target: The folder.

    Raises:
        OutputError: The folder cannot be written, or the target is a file.
    """

    def write(folder: Path) -> None:
        stock = head.plan.stock
        if stock is None:
            write_sentence_encoder(parts, folder)
            write_tensors(head.state_dict(), folder / HEAD_FILE)
        else:
            tensors = {**_with_prefix(encoder_tensors(parts.encoder), stock), **_stock_tensors(head, stock)}
            write_weights(_stock_config(parts, settings, stock), tensors, folder)
            parts.tokenizer.save_pretrained(folder, parts.max_tokens)
            write_own(parts.own, folder)
        card = _classifier_card(parts, settings, is_stock=stock is not None)
        (folder / "README.md").write_text(card, "utf-8")

    write_folder(target, write)


def _with_prefix(tensors: dict[str, Tensor], stock: StockHead) -> dict[str, Tensor]:
    return {f"{stock.prefix}.{name}": tensor for name, tensor in tensors.items()}


def _stock_tensors(head: ClassificationHead, stock: StockHead) -> dict[str, Tensor]:
    """Return the head's tensors by their names in a stock file."""
    named = {}
    for name, tensor in head.state_dict().items():
        prefix = f"{stock.prefix}." if stock.dense_in_encoder and name.startswith("dense.") else ""
        named[prefix + stock_name(stock, name)] = tensor
    return named


def _stock_config(parts: EncoderParts, settings: ClassifierSettings, stock: StockHead) -> dict[str, Any]:
    names = ["LABEL_0"] if settings.classes is None else [str(label) for label in settings.classes]
    config = encoder_config(parts.encoder)
    for key in ("num_labels", "problem_type"):
        config.pop(key, None)
    config |= {
        "architectures": [stock.architecture],
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }
    if stock.saved_dropout is not None and settings.head_dropout is not None:
        config[stock.saved_dropout] = settings.head_dropout
    if settings.classes is not None:
        # not set for one output: transformers then applies a sigmoid, which "regression" would leave out
        config["problem_type"] = "single_label_classification"
    if settings.kind == "joined":
        activation = _SIGMOID if settings.classes is None else _IDENTITY
        config["sentence_transformers"] = {"activation_fn": activation, "version": version_of("sentence_transformers")}
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


def _classifier_decision_section(decision: Decision | None) -> str:
    if decision is None:
        return ""
    return f"\n`model.match(rows)` is true where the probability is at least {decision.describe()}.\n"


def _classifier_card(parts: EncoderParts, settings: ClassifierSettings, *, is_stock: bool) -> str:
    config = parts.encoder.config
    row = (
        '"A man plays a guitar."' if settings.kind == "single" else '("A man plays a guitar.", "Someone makes music.")'
    )
    likely = "" if settings.classes is None else "probabilities = model.predict_proba(rows)\n"
    library = "transformers" if is_stock else "sentence-transformers"
    task = "text-classification" if is_stock else "sentence-similarity"
    tags = "- sbert_ft\n" if is_stock else "- sentence-transformers\n- sentence-similarity\n- sbert_ft\n"
    return f"""---
library_name: {library}
pipeline_tag: {task}
tags:
- text-classification
{tags}---

# A text classifier

A {config.model_type} encoder with {config.num_hidden_layers} layers of width {config.hidden_size},
{settings.pooling} pooling, sequences of up to {parts.max_tokens} tokens. {_what_it_does(settings)}
Saved by sbert_ft.

```python
from sbert_ft import BertClassifier

model = BertClassifier.from_pretrained("this-folder")
rows = [{row}]
predicted = model.predict(rows)
{likely}```
{_classifier_decision_section(parts.own.decision)}
{_for_others(settings, is_stock)}"""


def _for_others(settings: ClassifierSettings, is_stock: bool) -> str:
    if not is_stock:
        return """Other libraries load only the encoder, without the classifier's head:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this-folder")
vectors = model.encode(["A man plays a guitar.", "Someone makes music."])
```
"""
    if settings.kind == "joined":
        return """```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("this-folder")
outputs = model.predict([("A man plays a guitar.", "Someone makes music.")])
```
"""
    return """```python
from transformers import pipeline

classify = pipeline("text-classification", "this-folder")
predicted = classify("A man plays a guitar.")
```
"""
