"""Choose by dev between a model that learned gold and silver pairs and one that learned the gold ones alone.

Silver pairs do not always help: a teacher that is hardly better than the encoder teaches it its own mistakes. So both
models are trained, scored on the same pairs, and the better one by dev is kept. The cost is one more evaluation, and a
copy of the weights while it lasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sbert_ft.config.settings import RunSettings
from sbert_ft.data.dataset import ConnectionDataset
from sbert_ft.encoder.ranks import Ranks
from sbert_ft.evaluation.evaluator import Evaluator, joined
from sbert_ft.evaluation.pair_evaluator import evaluate_pairs, evaluation_pairs, score_stream
from sbert_ft.evaluation.results import Json
from sbert_ft.models.siamese import SiameseBert
from sbert_ft.training.trainable_model import trained_module

GOLD: Final = "gold alone"
GOLD_AND_SILVER: Final = "gold and silver"


@dataclass(frozen=True)
class GoldAlone:
    """The model that learned the gold pairs alone.

    Attributes:
        model_dir: Its folder.
        silver: What is known about the silver pairs, for metrics.json.
    """

    model_dir: Path
    silver: Json

    def choose(
        self,
        model: SiameseBert,
        evaluator: Evaluator,
        splits: Mapping[str, ConnectionDataset],
        settings: RunSettings,
        ranks: Ranks,
    ) -> dict[str, Any]:
        """Load the weights of the better model by dev into `model`, and return what metrics.json says of both.

        Args:
            model: The model that learned gold and silver; where the two are equal by dev, gold alone is taken.
            evaluator: Scores dev by the run's metric.
            splits: The data sets by name; those but train are evaluated on.
            settings: Of the run.
            ranks: The processes of the run, all of which call this.

        Raises:
            ModelFolderError: The folder of the other model is gone or damaged.
        """
        module, match_from = trained_module(model), settings.evaluation.match_from
        sets = {name: evaluation_pairs(name, splits[name], match_from) for name in splits if name != "train"}

        def scored() -> tuple[float | None, dict[str, NDArray[np.float32]]]:
            found = evaluator.evaluate(model, lambda: False)
            assert found is not None and evaluator.metric is not None
            return found[evaluator.metric].value, {
                name: joined(score_stream(model, pairs)) for name, pairs in sets.items()
            }

        value, scores = scored()
        own = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        if ranks.is_first:
            gold = SiameseBert.from_pretrained(self.model_dir, "cpu", "float32")
            module.load_state_dict(trained_module(gold).state_dict())
        ranks.broadcast(module.state_dict().values())
        gold_value, gold_scores = scored()
        is_better = value is not None and (gold_value is None or value > gold_value)
        if is_better:
            module.load_state_dict(own)
        return {
            **self.silver,
            "metric": evaluator.metric,
            "dev": {GOLD: gold_value, GOLD_AND_SILVER: value},
            "chosen": GOLD_AND_SILVER if is_better else GOLD,
            "splits": {
                name: evaluate_pairs(pairs, gold_scores[name], scores[name], settings.evaluation)
                for name, pairs in sets.items()
            },
        }
