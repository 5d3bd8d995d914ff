"""Fine-tune a local BERT on pairs of texts, embed sentences and score pairs, offline.

    from sbert_ft import SiameseBert, fine_tune
    model = SiameseBert.from_pretrained("bert-base-uncased/")
    result = fine_tune(model, "pairs.csv", dev="dev.csv", output_dir="runs/first")
    vectors = model.encode(["A man plays a guitar.", "Someone makes music."])
    scores = model.score([("A man plays a guitar.", "Someone makes music.")])

Importing the package is fast: the module of a public name, and torch with it, is imported when the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sbert_ft._version import __version__
from sbert_ft.errors import SbertFtError

if TYPE_CHECKING:
    from sbert_ft.bulk.inputs import TextReading
    from sbert_ft.bulk.run import BulkPart, BulkSettings, encode_to_shards
    from sbert_ft.config.objectives import ObjectiveSettings
    from sbert_ft.config.settings import EvaluationSettings, NegativeSettings, Reading, TrainingSettings
    from sbert_ft.data.dataset import ConnectionDataset
    from sbert_ft.evaluation.calibration import fit_threshold
    from sbert_ft.models.connection_bert import ConnectionBert
    from sbert_ft.models.exported import ExportedClassifier, ExportedEncoder
    from sbert_ft.models.masked_language_model import MaskedLanguageModel
    from sbert_ft.models.siamese import SiameseBert
    from sbert_ft.models.vocabulary import extend_vocabulary, train_vocabulary
    from sbert_ft.search.groups import group_texts
    from sbert_ft.search.index import SearchIndex
    from sbert_ft.search.index_writer import IndexSettings
    from sbert_ft.search.mine import mine_pairs
    from sbert_ft.search.negatives import NegativeRules, mine_negatives
    from sbert_ft.training.bert_classifier import BertClassifier
    from sbert_ft.training.fine_tune import fine_tune
    from sbert_ft.training.pretrain import pretrain
    from sbert_ft.training.soup import soup
    from sbert_ft.training.sweep import sweep
    from sbert_ft.vectors.shards import ShardSet

__all__ = [
    "BertClassifier",
    "BulkPart",
    "BulkSettings",
    "ConnectionBert",
    "ConnectionDataset",
    "EvaluationSettings",
    "ExportedClassifier",
    "ExportedEncoder",
    "IndexSettings",
    "MaskedLanguageModel",
    "NegativeRules",
    "NegativeSettings",
    "ObjectiveSettings",
    "Reading",
    "SbertFtError",
    "SearchIndex",
    "ShardSet",
    "SiameseBert",
    "TextReading",
    "TrainingSettings",
    "__version__",
    "encode_to_shards",
    "extend_vocabulary",
    "fine_tune",
    "fit_threshold",
    "group_texts",
    "mine_negatives",
    "mine_pairs",
    "pretrain",
    "soup",
    "sweep",
    "train_vocabulary",
]

# The same names as in the imports for type checkers above; tests/test_architecture.py compares the two lists.
_MODULE_OF_NAME = {
    "BertClassifier": "sbert_ft.training.bert_classifier",
    "BulkPart": "sbert_ft.bulk.run",
    "BulkSettings": "sbert_ft.bulk.run",
    "ConnectionBert": "sbert_ft.models.connection_bert",
    "ConnectionDataset": "sbert_ft.data.dataset",
    "EvaluationSettings": "sbert_ft.config.settings",
    "ExportedClassifier": "sbert_ft.models.exported",
    "ExportedEncoder": "sbert_ft.models.exported",
    "IndexSettings": "sbert_ft.search.index_writer",
    "MaskedLanguageModel": "sbert_ft.models.masked_language_model",
    "NegativeRules": "sbert_ft.search.negatives",
    "NegativeSettings": "sbert_ft.config.settings",
    "ObjectiveSettings": "sbert_ft.config.objectives",
    "Reading": "sbert_ft.config.settings",
    "SearchIndex": "sbert_ft.search.index",
    "ShardSet": "sbert_ft.vectors.shards",
    "SiameseBert": "sbert_ft.models.siamese",
    "TextReading": "sbert_ft.bulk.inputs",
    "TrainingSettings": "sbert_ft.config.settings",
    "encode_to_shards": "sbert_ft.bulk.run",
    "extend_vocabulary": "sbert_ft.models.vocabulary",
    "fine_tune": "sbert_ft.training.fine_tune",
    "fit_threshold": "sbert_ft.evaluation.calibration",
    "group_texts": "sbert_ft.search.groups",
    "mine_negatives": "sbert_ft.search.negatives",
    "mine_pairs": "sbert_ft.search.mine",
    "pretrain": "sbert_ft.training.pretrain",
    "soup": "sbert_ft.training.soup",
    "sweep": "sbert_ft.training.sweep",
    "train_vocabulary": "sbert_ft.models.vocabulary",
}


if not TYPE_CHECKING:  # type checkers read the imports above, and report any other name as an error

    def __getattr__(name: str) -> object:
        """Return the public object called `name`, importing its module on first use."""
        if name not in _MODULE_OF_NAME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(import_module(_MODULE_OF_NAME[name]), name)
        globals()[name] = value  # later uses do not call this function
        return value


def __dir__() -> list[str]:
    """Return every public name, including those not imported yet."""
    return sorted({*globals(), *__all__})
