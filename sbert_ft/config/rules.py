"""What values must be to each other, beyond what each may be by itself.

Each rule looks at values without a fault of their own, the defaults included; where one of them is at fault, the rules
about it are silent, so that one slip is one line.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sbert_ft.config.faults import Fault, shown_value
from sbert_ft.errors import quoted

# Which objectives an option means something to; given to another it would be ignored without a word.
OPTION_OF_OBJECTIVES: Final[Mapping[str, tuple[str, ...]]] = {
    "scale": ("cosent", "angle", "in_batch_negatives"),
    "margin": ("contrastive", "online_contrastive", "triplet"),
    "symmetric": ("in_batch_negatives",),
}
_NEEDING_DEV: Final = ("eval_steps", "metric", "early_stopping_patience")


def broken_rules(values: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield a fault for each rule that is broken.

    Args:
        values: By path, those without a fault of their own.
    """
    yield from _rules_of_dev(values)
    yield from _rules_of_reading(values)


def broken_rules_of_objective(path: str, values: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield a fault for each option that the objective does not have.

    Args:
        path: Of the objective, as `objective` or `objective.1`.
        values: By name, those without a fault of their own.
    """
    for option, names in OPTION_OF_OBJECTIVES.items():
        if "name" in values and values.get(option) and values["name"] not in names:
            found = f"{shown_value(values[option])} for {values['name']}"
            yield Fault(f"{path}.{option}", f"is an option of {', '.join(names)}; found {found}; leave it out")


def _rules_of_dev(values: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the faults of dev, which is a file or a share of train, and of what is done with it."""
    if "data.dev" not in values or "data.dev_share" not in values:
        return
    dev, share = values["data.dev"], values["data.dev_share"]
    if dev is not None and share is not None:
        found = f"data.dev {quoted(dev)} and data.dev_share {shown_value(share)}"
        yield Fault("data.dev_share", f"expected a file for dev or a share of train, found both, {found}")
    if dev is None and share is None:
        for name in _NEEDING_DEV:
            if (value := values.get(f"training.{name}")) is not None:
                yield Fault(
                    f"training.{name}", f"{shown_value(value)} needs pairs to judge by; give data.dev or data.dev_share"
                )


def _rules_of_reading(values: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield the faults of how a file is read."""
    columns, label = values.get("data.text_columns"), values.get("data.label_column")
    if columns is not None and label in columns:
        yield Fault("data.label_column", f"{quoted(label)} is one of data.text_columns too; name another")
    interval, match_from = values.get("data.score_range"), values.get("evaluation.match_from")
    if interval is not None and match_from is not None and not interval[0] <= match_from <= interval[1]:
        found = f"{shown_value(match_from)} outside of it"
        yield Fault("evaluation.match_from", f"expected a score in data.score_range, {list(interval)}, found {found}")
    kind, delimiter = values.get("data.kind"), values.get("data.delimiter")
    if delimiter is not None and kind in ("jsonl", "parquet"):
        yield Fault("data.delimiter", f"{quoted(delimiter)} is for csv and tsv; data.kind is {kind}")
    encoding = values.get("data.encoding")
    if encoding is not None and kind == "parquet":
        yield Fault("data.encoding", f"{quoted(encoding)} is for files of text; data.kind is parquet")
    if encoding is not None and not _is_codec(encoding):
        yield Fault("data.encoding", f"expected utf-8, cp949 or another that Python knows, found {quoted(encoding)}")


def _is_codec(name: str) -> bool:
    """Return whether Python has a codec of this name."""
    try:
        return bool(codecs.lookup(name))
    except (LookupError, ValueError):
        return False
