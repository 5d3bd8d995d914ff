"""The settings of a model that only sbert_ft uses, in `sbert_ft.json`: its decision, score scale and head.

Other libraries do not read the file, and a folder without it is a complete model. Keys that are not read here are kept
as they are, so that saving a model again loses nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sbert_ft.files.strict_json import JsonObject
from sbert_ft.model_folder.decision import Decision
from sbert_ft.model_folder.layout import ModelFolder

# The range of a cosine, for a model that was not trained on graded scores.
COSINE_SCALE = (-1.0, 1.0)
FORMAT = 1
"""The format of the files that are written; older ones are read, newer ones are refused."""
_READ = ("decision", "score_scale", "format", "classifier", "pair_prompts")


@dataclass(frozen=True)
class OwnSettings:
    """The content of sbert_ft.json.

    `score_scale` has the lowest and highest gold score that the model was trained on, `others` the keys that are not
    read here, without the format, which the writer adds. The settings of a classifier are not yet checked.
    `pair_prompts` are the names of the prompts put before the first and the second texts of pairs; None for the default
    prompt before both.
    """

    decision: Decision | None
    score_scale: tuple[float, float]
    others: Mapping[str, Any]
    classifier: Mapping[str, Any] | None = None
    pair_prompts: tuple[str, str] | None = None

    @classmethod
    def of(cls, source: ModelFolder) -> OwnSettings:
        """Return the settings of a folder's file.

        Raises:
            ModelFolderError: The format, decision, scale or classifier in it is not valid.
        """
        file = source.path / "sbert_ft.json"
        json = JsonObject(source.own, "settings", file)
        number = json.content.get("format", FORMAT)
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise json.fault("format", "a whole number of 1 or more")
        if number > FORMAT:  # its keys may mean something else
            raise json.fault("format", f"at most {FORMAT}: a newer version of sbert_ft wrote it", "update sbert_ft")
        sides = json.content.get("pair_prompts")
        named = [name for name in source.prompts if isinstance(sides, list) and name in sides]
        if sides is not None and not (isinstance(sides, list) and len(sides) == len(named) == 2):
            raise json.fault("pair_prompts", "the names of two prompts of config_sentence_transformers.json, or null")
        return cls(
            pair_prompts=None if sides is None else (sides[0], sides[1]),
            decision=None if json.content.get("decision") is None else Decision.from_json(json.value("decision"), file),
            score_scale=json.scale("score_scale") if "score_scale" in json.content else COSINE_SCALE,
            others={key: value for key, value in source.own.items() if key not in _READ},
            classifier=None if json.content.get("classifier") is None else json.inner("classifier").content,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file; a missing decision or classifier is left out."""
        decision = {} if self.decision is None else {"decision": self.decision.to_json()}
        classifier = {} if self.classifier is None else {"classifier": dict(self.classifier)}
        sides = {} if self.pair_prompts is None else {"pair_prompts": list(self.pair_prompts)}
        return {"score_scale": list(self.score_scale), **self.others, **sides, **classifier, **decision}
