"""Changes to valid JSON that leave it JSON, so that what is tried gets past the parser and to our checks."""

from __future__ import annotations

import json
import random

# Values that readers have stumbled over: wrong types, ends of ranges, what only looks right.
VALUES: tuple[object, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 255, 2**31, 2**32, 2**63, 2**64, 10**400, -(10**400)),
    *(0.0, -0.0, 0.5, 1.5, 1e-300, 1e300, -1e15, 1e16),
    *("", " ", "a", "0", "1", "nan", "true", "..", "/", "../x", "a\0b", "\ud800", "\u2028", "가", "\x1b[31m"),
    *("x" * 300, "[UNK]", "[SEP]", "bert", "roberta", "mean", "cosine", "gelu", "int8", "cpu"),
    *([], {}, [[]], [None], [0, 0], ["a", "a"], {"a": 1}, {"": None}, {"content": []}, {"content": 1}, {"type": "x"}),
)
DEEP = 2000
KEYS = ("type", "content", "vocab", "id", "0", "", "__proto__", "\ud800", "add_prefix_space", "pattern", "normalizers")


def mutated_input(data: bytes, rng: random.Random) -> bytes | None:
    """Return an input whose JSON is changed: the whole content, a line of it or the header of safetensors; or None."""
    name, _, content = data.partition(b"\n")
    n_header = int.from_bytes(content[:8], "little")
    if content[8:9] == b"{" and n_header <= len(content) - 8:
        changed = _mutated(content[8 : 8 + n_header], rng)
        parts = None if changed is None else [len(changed).to_bytes(8, "little"), changed, content[8 + n_header :]]
    elif name.endswith(b"jsonl"):
        parts = content.split(b"\n")
        which = rng.randrange(len(parts))
        changed = _mutated(parts[which], rng)
        parts = None if changed is None else [b"\n".join([*parts[:which], changed, *parts[which + 1 :]])]
    else:
        changed = _mutated(content, rng)
        parts = None if changed is None else [changed]
    return None if parts is None else b"".join([name, b"\n", *parts])


def _mutated(content: bytes, rng: random.Random) -> bytes | None:
    try:
        changed = mutated_json(content.decode(), rng)
    except UnicodeDecodeError:
        return None
    return None if changed is None else changed.encode()


def mutated_json(text: str, rng: random.Random) -> str | None:
    """Return a JSON text with one to three changes somewhere in it; None where it is no JSON to begin with."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    holder = [value]
    try:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            _change(holder, rng)
        text = json.dumps(holder[0])
    except RecursionError:  # what is nested to the end of the stack was put into something else
        return None
    if rng.random() < 0.01:
        text = text.replace("null", "[" * DEEP + "]" * DEEP, 1)
    return text


def _change(holder: list[object], rng: random.Random) -> None:
    """Replace, remove, add, copy or swap one value of those in the one that `holder` holds."""
    places = _places(holder)
    container, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.55:
        container[key] = _value(rng, places)  # type: ignore[index]
    elif kind < 0.7 and container is not holder:
        del container[key]  # type: ignore[attr-defined]
    elif isinstance(inner := container[key], dict):  # type: ignore[index]
        name = rng.choice([*KEYS, *inner]) if rng.random() < 0.7 else rng.choice([*KEYS, "".join(map(str, inner))])
        inner[name] = _value(rng, places)
    elif isinstance(inner, list):
        inner.insert(rng.randint(0, len(inner)), _value(rng, places))
    elif isinstance(inner, int | float) and not isinstance(inner, bool) and abs(inner) < 1e300:
        container[key] = rng.choice((inner + 1, inner - 1, -inner, inner * 1000, float(inner), str(inner)))  # type: ignore[index]
    elif isinstance(inner, str) and inner:
        at = rng.randrange(len(inner))
        container[key] = inner[:at] + rng.choice(("", "x", " ", "\0", "é", inner)) + inner[at + 1 :]  # type: ignore[index]


def _value(rng: random.Random, places: list[tuple[object, object]]) -> object:
    """Return a value of the list above, or a copy of one that stands elsewhere in the text."""
    if rng.random() < 0.7:
        return json.loads(json.dumps(rng.choice(VALUES)))
    container, key = rng.choice(places)
    return json.loads(json.dumps(container[key]))  # type: ignore[index]


def _places(holder: list[object]) -> list[tuple[object, object]]:
    """Return where each value stands: its list or object, and its index or key there."""
    found: list[tuple[object, object]] = []
    containers: list[object] = [holder]
    for container in containers:  # which grows meanwhile
        keys = list(container) if isinstance(container, dict) else range(len(container))  # type: ignore[arg-type]
        found += [(container, key) for key in keys]
        containers += [container[key] for key in keys if isinstance(container[key], dict | list)]  # type: ignore[index]
    return found
