"""The floors and goals that this project has set itself, in one place, and what a result says of each.

A contender that exists with several batch sizes is compared by its best: what is to be beaten is what a user could
have had. A figure is "not measured" where its result is not there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final, Literal

Kind = Literal[
    "times faster",
    "share of the matrix rate",
    "of the peer's memory",
    "GiB at most",
    "Spearman lost",
    "mean cosine",
    "recall@10",
]

OWN_FIGURES: Final = {  # of a contender alone, by the name that results have for it
    "share of the matrix rate": "share",
    "Spearman lost": "spearman_lost",
    "mean cosine": "mean_cosine",
    "recall@10": "recall_at_10",
}
FLOAT32, BFLOAT16 = "st float32", "st bfloat16"


@dataclass(frozen=True)
class Goal:
    """One figure to reach.

    Attributes:
        what: In words.
        result: File under results/, without its ending.
        place: Text set of an encoding result, or batch size of a training result.
        kind: What is measured.
        peer: Against whom; several where the best of them counts; none for a share.
        floor: The least that is to be kept; None where only a goal is set.
        goal: What is aimed at.
        ours: Who of ours is measured; of a group, the best counts.
    """

    what: str
    result: str
    place: str
    kind: Kind
    peer: tuple[str, ...]
    floor: float | None
    goal: float
    ours: tuple[str | tuple[str, ...], ...] = ("sbert_ft auto",)


@dataclass(frozen=True)
class Reached:
    """What was measured: the figure, its least and most over the rounds where it has any, and how far that reaches.

    `how` is what the figure adds to the goal's words: compiled, or who is the best of a group; empty for nothing.
    """

    how: str
    value: float
    least: float | None
    most: float | None
    mark: Literal["goal", "floor", "missed"]


_BOTH: Final = ("sbert_ft auto", "sbert_ft auto compiled")
_LIMITED: Final = ("sbert_ft float32", "sbert_ft float32 compiled")


def _encoding(result: str, place: str, words: str, peer: str, floor: float | None, goal: float) -> Goal:
    what = f"encode, {words}, against {_NAMES[peer]}"
    return Goal(what, result, place, "times faster", (peer,), floor, goal, _BOTH)


_NAMES: Final = {
    FLOAT32: "sentence-transformers float32",
    BFLOAT16: "sentence-transformers bfloat16",
    "openvino bfloat16": "OpenVINO bfloat16 fed by hand",
    "st flash": "sentence-transformers with flash attention",
}

_TRAINERS: Final = {
    "trainer float32": "transformers' Trainer float32",
    "trainer bfloat16": "transformers' Trainer bfloat16",
}

_TIME_AND_MEMORY: Final[tuple[tuple[str, Kind, float, float], ...]] = (
    ("", "times faster", 1.0, 2.0),
    ("memory, ", "of the peer's memory", 0.5, 0.25),
)
_USEARCH: Final[tuple[tuple[str, Kind, tuple[str, ...], tuple[float, float]], ...]] = (
    ("", "recall@10", (), (0.97, 0.99)),
    (", queries a second, against our exact search", "times faster", ("sbert_ft exact",), (20.0, 100.0)),
    (", queries a second, against semantic_search", "times faster", ("st semantic_search",), (20.0, 100.0)),
)

CPU: Final = (
    _encoding("encode-cpu", "short", "15 tokens", FLOAT32, 4.0, 6.0),
    _encoding("encode-cpu", "short", "15 tokens", BFLOAT16, 1.5, 2.2),
    _encoding("encode-cpu", "short", "15 tokens", "openvino bfloat16", 1.0, 1.3),
    _encoding("encode-cpu", "mid", "60 tokens", BFLOAT16, 1.2, 1.6),
    _encoding("encode-cpu", "long", "250 tokens", BFLOAT16, 1.2, 1.6),
    *(
        Goal(f"encode, BERT-base, {n} tokens", "encode-cpu", place, "share of the matrix rate", (), 0.45, 0.65, _BOTH)
        for n, place in ((15, "base-short"), (60, "base-mid"))
    ),
    *(
        Goal(f"train, batch {place}, against {_NAMES[peer]}", "train-cpu", place, "times faster", (peer,), floor, goal)
        for place, peer, floor, goal in (
            ("16", FLOAT32, 3.0, 5.0),
            ("16", BFLOAT16, 2.3, 4.0),
            ("64", FLOAT32, 5.5, 9.0),
            ("64", BFLOAT16, 3.5, 6.0),
        )
    ),
    *(
        Goal(f"memory, encode, {words}", "encode-cpu", place, "of the peer's memory", (FLOAT32, BFLOAT16), 0.9, 0.6)
        for place, words in (("short", "15 tokens"), ("long", "250 tokens"))
    ),
    *(
        Goal(f"memory, train, batch {place}", "train-cpu", place, "of the peer's memory", (FLOAT32, BFLOAT16), 0.9, 0.6)
        for place in ("16", "64")
    ),
    *(
        Goal(
            f"pre-train, {n} tokens, against {_TRAINERS[peer]}",
            "pretrain-cpu",
            place,
            "times faster",
            (peer,),
            1.5,
            3.0,
        )
        for n, place in ((15, "short"), (60, "mid"))
        for peer in _TRAINERS
    ),
    *(
        Goal(
            f"memory, pre-train, {n} tokens", "pretrain-cpu", place, "of the peer's memory", tuple(_TRAINERS), 0.7, 0.4
        )
        for n, place in ((15, "short"), (60, "mid"))
    ),
    *(
        Goal(f"{begin}{words}, against {peer}", "search-cpu", place, kind, (f"st {peer}",), floor, goal, (ours,))
        for words, place, peer, ours in (
            ("exact search, 1 million vectors, 1,000 queries", "search", "semantic_search", "sbert_ft exact"),
            ("pairs among 100 thousand vectors", "mine", "paraphrase_mining", "sbert_ft"),
        )
        for begin, kind, floor, goal in _TIME_AND_MEMORY
    ),
    *(
        Goal(f"usearch, 1 million vectors{words}", "search-cpu", "search", kind, peer, *limits, ("sbert_ft usearch",))
        for words, kind, peer, limits in _USEARCH
    ),
    Goal(
        "encode in float32 with AVX2 alone", "encode-cpu-avx2", "short", "times faster", (FLOAT32,), 1.3, 1.6, _LIMITED
    ),
    Goal("train in float32 with AVX2 alone", "train-cpu-avx2", "16", "times faster", (FLOAT32,), 1.5, 2.0, _LIMITED),
)

_OURS_FLOAT32: Final = ("sbert_ft float32", "sbert_ft float32 compiled", "sbert_ft onnxruntime", "sbert_ft openvino")
_OURS_INT8: Final = ("sbert_ft onnxruntime int8", "sbert_ft openvino int8")
_OURS_BFLOAT16: Final = ("sbert_ft auto", "sbert_ft auto compiled", "sbert_ft openvino bfloat16")
_ST_ENGINES: Final = ("st onnx", "st openvino")
_PEERS_FLOAT32: Final = (FLOAT32, *_ST_ENGINES, "onnxruntime float32", "openvino float32")
_PEERS_BFLOAT16: Final = (BFLOAT16, "st openvino", "openvino bfloat16")


def _engine(what: str, place: str, peer: tuple[str, ...], limits: tuple[float, float], ours: tuple[str, ...]) -> Goal:
    return Goal(f"AVX2, {what}", "engines-cpu-avx2", place, "times faster", peer, *limits, (ours,))


ENGINES: Final = (
    _engine(
        "float32, 15 tokens, against ONNX Runtime by hand", "short", ("onnxruntime float32",), (1.0, 1.1), _OURS_FLOAT32
    ),
    _engine(
        "int8, 15 tokens, against ONNX Runtime float32 by hand",
        "short",
        ("onnxruntime float32",),
        (1.25, 1.6),
        _OURS_INT8,
    ),
    *(
        Goal(
            f"AVX2, int8, STS-B test: {words}",
            "engines-cpu-avx2",
            "short",
            kind,
            (),
            floor,
            goal,
            tuple((one,) for one in _OURS_INT8),
        )
        for words, kind, floor, goal in (
            ("Spearman lost", "Spearman lost", 0.002, 0.0005),
            ("mean cosine to float32", "mean cosine", 0.99, 0.997),
        )
    ),
    *(
        _engine(f"{precision}, 15 tokens, against sentence-transformers {words}", "short", peer, limits, ours)
        for words, peer, limits in (
            ("float32", (FLOAT32,), (1.5, 2.2)),
            ("by its best backend in float32", _ST_ENGINES, (1.3, 1.6)),
        )
        for precision, ours in (("float32", _OURS_FLOAT32), ("int8", _OURS_INT8))
    ),
    *(
        _engine(f"{precision}, {n} tokens, against the best {precision} peer", place, peer, (1.0, 1.3), ours)
        for n, place in ((60, "mid"), (250, "long"))
        for precision, peer, ours in (
            ("float32", _PEERS_FLOAT32, _OURS_FLOAT32),
            ("int8", ("onnxruntime int8",), _OURS_INT8),
        )
    ),
    *(
        Goal(f"{words}, against {by}", "engines-cpu", place, "times faster", peer, 1.0, 1.3, (_OURS_BFLOAT16,))
        for words, place, by, peer in (
            ("bfloat16, 15 tokens", "short", "OpenVINO bfloat16 by hand", ("openvino bfloat16",)),
            ("bfloat16, 60 tokens", "mid", "the best bfloat16 peer", _PEERS_BFLOAT16),
            ("bfloat16, 250 tokens", "long", "the best bfloat16 peer", _PEERS_BFLOAT16),
        )
    ),
)

GPU: Final = (
    _encoding("encode-gpu", "short", "15 tokens", BFLOAT16, None, 3.0),
    _encoding("encode-gpu", "short", "15 tokens", "st flash", None, 1.3),
    Goal("encode, BERT-base, 250 tokens", "encode-gpu", "base-long", "share of the matrix rate", (), None, 0.5, _BOTH),
    Goal("train, batch 16, against its bfloat16 trainer", "train-gpu", "16", "times faster", (BFLOAT16,), None, 3.0),
    Goal("train, batch 256, against its bfloat16 trainer", "train-gpu", "256", "times faster", (BFLOAT16,), None, 2.0),
    Goal("train, BERT-base, batch 32, reviews", "classify-nsmc-base-gpu", "", "GiB at most", (), None, 4.0),
)


def is_of(contender: str, name: str) -> bool:
    """Return whether a contender is the one of that name, with whatever batch size."""
    return re.fullmatch(rf"{re.escape(name)}( b\d+| best)?", contender) is not None


def reached(goal: Goal, results: dict[str, dict[str, Any]]) -> list[Reached]:
    """Return what each of ours reached, nothing where it was not measured.

    Args:
        goal: One of the table.
        results: Content of the files under results/, by name.
    """
    content = results.get(goal.result, {})
    table = content.get("sets", content.get("batch_sizes", {})).get(goal.place) if goal.place else content
    if not table:
        return []
    found = []
    for ours in goal.ours:
        group = (ours,) if isinstance(ours, str) else ours
        names = [name for name in table["contenders"] if any(is_of(name, one) for one in group)]
        measured = [(*figure, name) for name in names if (figure := _value(goal, table, name)) is not None]
        if measured:
            best = (min if _less_is_better(goal) else max)(measured, key=lambda figure: figure[0])
            value, least, most, name = best
            how = " ".join(ours.split()[2:]) if isinstance(ours, str) else f"by {_runner(name)}"
            found.append(Reached(how, value, least, most, _mark(goal, value)))
    return found


def _runner(name: str) -> str:
    """Return what runs a contender of ours and how, such as onnxruntime int8 or torch float32."""
    how = re.sub(r"^sbert_ft | (b\d+|best)$", "", name)
    return how if how.startswith(("onnxruntime", "openvino")) else f"torch {how}"


def _less_is_better(goal: Goal) -> bool:
    return goal.kind in ("of the peer's memory", "GiB at most", "Spearman lost")


def _value(goal: Goal, table: dict[str, Any], ours: str) -> tuple[float, float | None, float | None] | None:
    """Return the figure of one of ours, against the best of the peers."""
    if goal.kind == "GiB at most":
        return table["contenders"][ours]["peak_mib"] / 1024, None, None
    if goal.kind in OWN_FIGURES:
        figure = table["contenders"][ours].get(OWN_FIGURES[goal.kind])
        return None if figure is None else (figure, None, None)
    key = "times_faster" if goal.kind == "times faster" else "memory_ratio"
    against = table.get(key, {}).get(ours, {})
    peers = [against[name] for name in against if any(is_of(name, peer) for peer in goal.peer)]
    if not peers:
        return None
    if goal.kind == "of the peer's memory":
        return max(peers), None, None
    closest = min(peers, key=lambda ratio: ratio["median"])
    return closest["median"], closest["least"], closest["most"]


def _mark(goal: Goal, value: float) -> Literal["goal", "floor", "missed"]:
    def passes(limit: float) -> bool:
        return value <= limit if _less_is_better(goal) else value >= limit

    if passes(goal.goal):
        return "goal"
    return "floor" if goal.floor is not None and passes(goal.floor) else "missed"
