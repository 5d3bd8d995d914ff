"""Write a classifier's folder: a stock one where the head is the stock head, else an encoder's with the head beside it.

A stock folder is what transformers itself would write: `BertForSequenceClassification` and its like, with prefixed
names, classes in config.json, and the key by which sentence-transformers' CrossEncoder knows what to do with logits.
The others are folders of a sentence encoder, which everybody opens; the head stands in a file of its own, which we
alone read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from sbert_ft.encoder.heads import ClassificationHead, StockHead
from sbert_ft.errors import quoted
from sbert_ft.markdown_text import escaped_markdown
from sbert_ft.model.classifier_folder import ClassifierSettings, stock_name
from sbert_ft.model.decision import Decision
from sbert_ft.model.folder_writer import (
    HEAD_FILE,
    EncoderParts,
    SiameseSettings,
    encoder_config,
    encoder_tensors,
    version_of,
    write_folder,
    write_own,
    write_sentence_encoder,
    write_tensors,
    write_weights,
)

_N_NAMED = 20
_IDENTITY, _SIGMOID = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Sigmoid"


def save_classifier(
    parts: EncoderParts,
    encoder: SiameseSettings,
    settings: ClassifierSettings,
    head: ClassificationHead,
    target: Path,
) -> None:
    """Write a classifier's folder; it is staged and moved as a sentence encoder's is.

    Args:
        parts: The encoder and its tokenizer.
        encoder: What a sentence encoder's folder says; its `own` holds the classifier's settings too.
        settings: The classifier's.
        head: Its head.
        target: The folder.

    Raises:
        OutputError: The folder cannot be written, or its place is taken by a file.
    """

    def write(folder: Path) -> None:
        stock = head.plan.stock
        if stock is None:
            write_sentence_encoder(parts, encoder, folder)
            write_tensors(head.state_dict(), folder / HEAD_FILE)
        else:
            tensors = {**_with_prefix(encoder_tensors(parts.encoder), stock), **_stock_tensors(head, stock)}
            write_weights(_stock_config(parts, settings, stock), tensors, folder)
            parts.tokenizer.save_pretrained(folder, encoder.max_seq_length)
            write_own(encoder.own, folder)
        card = _model_card(parts, encoder, settings, is_stock=stock is not None)
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
        # none for one output: transformers then takes a sigmoid, and "regression" would leave it out
        config["problem_type"] = "single_label_classification"
    if settings.kind == "joined":
        activation = _SIGMOID if settings.classes is None else _IDENTITY
        config["sentence_transformers"] = {"activation_fn": activation, "version": version_of("sentence_transformers")}
    return config


def _what_it_does(settings: ClassifierSettings) -> str:
    rows = {
        "towers": "pairs of texts, each encoded alone",
        "joined": "pairs of texts, joined to one sequence",
        "single": "texts",
    }[settings.kind]
    if settings.classes is None:
        return f"It gives {rows} a graded score."
    names = [escaped_markdown(quoted(label)) for label in settings.classes]
    more = f" and {len(names) - _N_NAMED} more" if names[_N_NAMED:] else ""
    return f"It gives {rows} one of {len(names)} classes: {', '.join(names[:_N_NAMED])}{more}."


def _decision_section(decision: Decision | None) -> str:
    if decision is None:
        return ""
    return f"\n`model.match(rows)` says yes from the probability {decision.describe()} on.\n"


def _model_card(parts: EncoderParts, encoder: SiameseSettings, settings: ClassifierSettings, *, is_stock: bool) -> str:
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
{settings.pooling} pooling, sequences of up to {encoder.max_seq_length} tokens. {_what_it_does(settings)}
Saved by sbert_ft.

```python
from sbert_ft import BertClassifier

model = BertClassifier.from_pretrained("this-folder")
rows = [{row}]
predicted = model.predict(rows)
{likely}```
{_decision_section(encoder.own.decision)}
{_for_others(settings, is_stock)}"""


def _for_others(settings: ClassifierSettings, is_stock: bool) -> str:
    if not is_stock:
        return """Other libraries open the encoder alone, without the classifier's head:

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
