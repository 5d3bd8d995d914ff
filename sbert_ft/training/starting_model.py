"""The model that a run begins with: an encoder or a classifier, from a folder's weights or random ones."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from sbert_ft.config.settings import ModelSettings, RunSettings
from sbert_ft.encoder.devices import Precision
from sbert_ft.errors import quoted
from sbert_ft.model_folder.classifier import has_classifier
from sbert_ft.model_folder.layout import read_folder
from sbert_ft.models.classifier import ClassifierModel, Trainee
from sbert_ft.models.connection_bert import ConnectionBert
from sbert_ft.models.siamese import SiameseBert

logger = logging.getLogger(__name__)


def starting_model(settings: RunSettings) -> Trainee:
    """Return the model, on its device; a classifier has a head only where its folder holds one.

    Raises:
        ModelFolderError: The folder is damaged, incomplete or of a kind not supported.
        InputError: The settings do not fit the encoder.
        ResourceError: The device is not there.
    """
    wanted = settings.model
    precision: Precision = "float32" if settings.training.precision == "float32" else "auto"
    device = settings.training.device
    if wanted.kind != "siamese" and wanted.init == "pretrained" and has_classifier(Path(wanted.path)):
        found = ClassifierModel.from_pretrained(
            wanted.path, device, precision, wanted.max_seq_length, kind=_kind_of_others(wanted)
        )
        if _goes_on(found, wanted):
            return found
        logger.warning(
            "%s holds a classifier of another kind (%s): its encoder is taken, and a new head begins",
            quoted(wanted.path, limit=400),
            found.kind,
        )
        return _classifier(found.bert, wanted)
    if wanted.init == "random":
        bert = ConnectionBert.from_config(wanted.path, device, precision, settings.training.seed)
    else:
        bert = ConnectionBert.from_pretrained(wanted.path, device, precision)
    if wanted.kind != "siamese":
        return _classifier(bert, wanted)
    assert wanted.pooling != "pooler", "refused with the settings"
    return SiameseBert(bert, wanted.pooling, wanted.max_seq_length)


def _kind_of_others(wanted: ModelSettings) -> Literal["joined", "single"] | None:
    """Return as what a stock folder of others is read, which does not say it; None for one of ours, which does."""
    if "classifier" in read_folder(wanted.path).own:
        return None
    return wanted.kind if wanted.kind == "joined" or wanted.kind == "single" else None


def _classifier(bert: ConnectionBert, wanted: ModelSettings) -> ClassifierModel:
    assert wanted.kind != "siamese"
    return ClassifierModel(
        bert,
        wanted.kind,
        pooling=wanted.pooling,
        features=wanted.features,
        truncation=wanted.truncation,
        head_dropout=wanted.head_dropout,
        max_seq_length=wanted.max_seq_length,
    )


def _goes_on(found: ClassifierModel, wanted: ModelSettings) -> bool:
    """Return whether a folder's classifier is the one that is wanted, so that training goes on with its head."""
    same_features = wanted.kind != "towers" or found.features == wanted.features
    same_pooling = wanted.pooling in (None, found.pooling)
    same_dropout = wanted.head_dropout in (None, found.head_dropout)
    return found.kind == wanted.kind and same_features and same_pooling and same_dropout
