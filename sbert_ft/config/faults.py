"""The faults of a configuration, raised in one message: one at a time would cost the user an attempt for each."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from sbert_ft.errors import ConfigError, quoted

_MOST_SHOWN = 50
_DIGITS_SHOWN = 18
_ITEMS_SHOWN = 4


@dataclass(frozen=True)
class Fault:
    """One fault: the key (empty if it is not about a key), and a sentence with what was expected and what was found."""

    path: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.path}: {self.sentence}" if self.path else self.sentence


def refuse(where: str, faults: Sequence[Fault]) -> None:
    """Raise all faults, if any, as one `ConfigError`: after a first line with their number, a line for each."""
    if len(faults) == 1:
        raise ConfigError(f"{where}: {faults[0]}")
    if faults:
        lines = [f"{where}: {len(faults)} faults", *(f"  {fault}" for fault in faults[:_MOST_SHOWN])]
        if len(faults) > _MOST_SHOWN:
            lines.append(f"  and {len(faults) - _MOST_SHOWN} more")
        raise ConfigError("\n".join(lines))


def shown_value(value: object) -> str:
    """Return a value as in JSON, or described in words if that is long."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, int):
        long = abs(value) >= 10**_DIGITS_SHOWN
        return f"a whole number of more than {_DIGITS_SHOWN} digits" if long else str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else "NaN" if math.isnan(value) else "a number beyond all limits"
    if isinstance(value, Mapping):
        if not value:
            return "an empty object, {}"
        if _is_short(value.values()):
            return f"{{{', '.join(f'{shown_value(name)}: {shown_value(item)}' for name, item in value.items())}}}"
        return "an object, {...}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown_value, value))}]" if _is_short(value) else f"an array of {len(value)}, [...]"
    return f"a {quoted(type(value).__name__)[1:-1]} of Python"


def _is_short(values: Collection[object]) -> bool:
    """Return whether an array or object is shown with all that it holds: few values, and none is one itself."""
    return len(values) <= _ITEMS_SHOWN and not any(isinstance(value, Mapping | list | tuple) for value in values)


def nearest(word: str, known: Sequence[str], listed: Sequence[str]) -> str:
    """Return a suggestion for an unknown word: "did you mean 'epochs'?", or all of `listed`."""
    close = get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {quoted(close[0])}?" if close else f"known are {', '.join(listed)}"
