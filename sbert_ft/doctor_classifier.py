"""Does a folder hold a classifier, of what classes, and is its head whole?

Of the encoder headers are enough; a head is small and nothing works without it, so its tensors are read.
"""

from __future__ import annotations

import os

from sbert_ft.doctor_checks import Check, finding, listed
from sbert_ft.errors import quoted
from sbert_ft.model.classifier_folder import FoundClassifier, find_classifier, read_head
from sbert_ft.model.encoders import EncoderPlan
from sbert_ft.model.folder import ModelFolder, architecture_of_classifier
from sbert_ft.model.folder_writer import HEAD_FILE
from sbert_ft.model.head import ClassificationHead, plan_head

_SHOWN_CLASSES = 10


def is_classifier(source: ModelFolder) -> bool:
    """Return whether a folder says that it holds a classifier, ours or a stock one, or has the head of one of ours."""
    is_said = "classifier" in source.own or architecture_of_classifier(source.config) is not None
    return is_said or os.path.lexists(source.path / HEAD_FILE)


def is_sentence_encoder(source: ModelFolder) -> bool:
    """Return whether the encoder gives vectors of texts: all folders do but those of stock classifiers."""
    return architecture_of_classifier(source.config) is None


def describe_classifier(source: ModelFolder, plan: EncoderPlan) -> Check:
    """Return what the folder says of its classifier, whose head has been read.

    Args:
        source: The folder.
        plan: Of its encoder.

    Raises:
        SbertFtError: There is no head, or one that does not fit what the folder says of it.
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
        said.append(f"calibrated by a temperature of {settings.temperature:.3g}")
    if settings.kind == "joined":
        said.append("both texts of a pair share max_seq_length")
    return finding("classifier", "OK", ", ".join(said) + (_KIND_UNKNOWN if found.hint else ""))


_KIND_UNKNOWN = "; the folder does not say whether it takes single texts or pairs (kind joined)"


def _classes(found: FoundClassifier) -> str:
    classes = found.settings.classes
    if classes is None:
        return "one output, a score"
    return f"{len(classes)} classes ({listed((quoted(label, limit=40) for label in classes), _SHOWN_CLASSES)})"
