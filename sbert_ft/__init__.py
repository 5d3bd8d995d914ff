"""Fine-tune a local BERT on pairs of texts, embed sentences and score pairs, offline.

    from sbert_ft import SiameseBert, fine_tune
    model = SiameseBert.from_pretrained("bert-base-uncased/")
    result = fine_tune(model, "pairs.csv", dev="dev.csv", output_dir="runs/first")
    vectors = model.encode(["A man plays a guitar.", "Someone makes music."])
    scores = model.score([("A man plays a guitar.", "Someone makes music.")])

The package is light to import: a public name brings its module, and torch with it, when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sbert_ft._version import __version__
from sbert_ft.errors import SbertFtError

if TYPE_CHECKING:
    from sbert_ft.config.settings import EvaluationSettings, ObjectiveSettings, Reading, TrainingSettings
    from sbert_ft.data.dataset import ConnectionDataset
    from sbert_ft.evaluation.calibration import fit_threshold
    from sbert_ft.models.connection_bert import ConnectionBert
    from sbert_ft.models.siamese import SiameseBert
    from sbert_ft.training.bert_classifier import BertClassifier
    from sbert_ft.training.fine_tune import fine_tune


__all__ = [
    "BertClassifier",
    "ConnectionBert",
    "ConnectionDataset",
    "EvaluationSettings",
    "ObjectiveSettings",
    "Reading",
    "SbertFtError",
    "SiameseBert",
    "TrainingSettings",
    "__version__",
    "fine_tune",
    "fit_threshold",
]

# Each name once more among the imports for type checkers above; tests/test_architecture.py holds the two together.
_MODULE_OF_NAME = {
    "BertClassifier": "sbert_ft.training.bert_classifier",
    "ConnectionBert": "sbert_ft.models.connection_bert",
    "ConnectionDataset": "sbert_ft.data.dataset",
    "EvaluationSettings": "sbert_ft.config.settings",
    "ObjectiveSettings": "sbert_ft.config.settings",
    "Reading": "sbert_ft.config.settings",
    "SiameseBert": "sbert_ft.models.siamese",
    "TrainingSettings": "sbert_ft.config.settings",
    "fine_tune": "sbert_ft.training.fine_tune",
    "fit_threshold": "sbert_ft.evaluation.calibration",
}


if not TYPE_CHECKING:  # a type checker knows the names from above, and shall call any other one a mistake

    def __getattr__(name: str) -> object:
        """Return the public object called `name`, importing its module on first use.

        Raises:
            AttributeError: The package has no such name.
        """
        if name not in _MODULE_OF_NAME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(import_module(_MODULE_OF_NAME[name]), name)
        globals()[name] = value  # the next use finds it without coming here
        return value


def __dir__() -> list[str]:
    """Return every public name, the ones not imported yet among them."""
    return sorted({*globals(), *__all__})
