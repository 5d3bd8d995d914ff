"""What benchmarks/README.md shows is what benchmarks/results/ holds, and how it is worked out from there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPTS = ("contenders", "goals", "isa", "models", "plots", "rate", "tables")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The benchmarks' modules, which import each other by their bare names."""
    import importlib

    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {name: importlib.import_module(name) for name in SCRIPTS}
    finally:
        sys.path.remove(str(BENCHMARKS))


def a_result(**contenders: dict[str, Any]) -> dict[str, Any]:
    """Return a result of batch 16 in which ours is 4 (3.5 to 4.5) times as fast as the peer, with 0.7 of its memory."""
    one = {"per_second": 100.0, "least": 90.0, "most": 110.0, "peak_mib": 700, "precision": "bfloat16", "share": 0.5}
    ratio = {"median": 4.0, "least": 3.5, "most": 4.5}
    table = {
        "n_pairs_timed": 400,
        "rate": {"size": 2048, "bfloat16": 800.0},
        "contenders": {"sbert_ft auto": one, "st float32": one | {"per_second": 25.0, "peak_mib": 1000}, **contenders},
        "times_faster": {"sbert_ft auto": {"st float32": ratio}},
        "memory_ratio": {"sbert_ft auto": {"st float32": 0.7}},
    }
    return {"batch_sizes": {"16": table}}


def test_readme_and_plots_hold_what_the_results_say(scripts: dict[str, ModuleType]) -> None:
    tables = scripts["tables"]
    results = tables.read_results(tables.harness.RESULTS)
    wanted = tables.files(results, tables.README.read_text(encoding="utf-8"))
    for path, content in wanted.items():
        assert path.read_text(encoding="utf-8") == content, f"{path.name} is out of date: run benchmarks/tables.py"
    assert set(tables.PLOTS.glob("*.svg")) == {path for path in wanted if path.suffix == ".svg"}


def test_filling_leaves_what_is_written_by_hand_and_is_done_once(scripts: dict[str, ModuleType]) -> None:
    fill = scripts["tables"].filled
    document = "Before.\n<!-- goals -->\nold\n<!-- /goals -->\nAfter \\1."
    filled = fill(document, {"goals": r"new \d"})
    assert filled == "Before.\n<!-- goals -->\nnew \\d\n<!-- /goals -->\nAfter \\1."
    assert fill(filled, {"goals": r"new \d"}) == filled
    with pytest.raises(SystemExit, match="region"):
        fill(document, {"encode-cpu": "x"})


def test_a_goal_is_marked_by_what_was_measured(scripts: dict[str, ModuleType]) -> None:
    goals, results = scripts["goals"], {"train-cpu": a_result()}

    def goal(floor: float, aim: float, kind: str = "times faster") -> Any:
        peer = () if kind == "share of the matrix rate" else ("st float32",)
        return goals.Goal("", "train-cpu", "16", kind, peer, floor, aim)

    def mark(*limits: Any) -> str:
        return goals.reached(goal(*limits), results)[0].mark

    assert [mark(3.0, 4.0), mark(3.0, 4.1), mark(4.1, 5.0)] == ["goal", "floor", "missed"]
    memory = "of the peer's memory"
    assert [mark(0.9, 0.7, memory), mark(0.9, 0.6, memory), mark(0.6, 0.5, memory)] == ["goal", "floor", "missed"]
    assert mark(0.45, 0.65, "share of the matrix rate") == "floor"
    assert goals.reached(goal(3.0, 4.0), {}) == []


def test_the_best_batch_size_of_a_peer_counts(scripts: dict[str, ModuleType]) -> None:
    goals, result = scripts["goals"], a_result()
    table = result["batch_sizes"]["16"]
    table["times_faster"]["sbert_ft auto"] = {
        "st bfloat16 b32": {"median": 2.0, "least": 1.9, "most": 2.1},
        "st bfloat16 b128": {"median": 1.5, "least": 1.4, "most": 1.6},
        "st bfloat16x b32": {"median": 1.0, "least": 1.0, "most": 1.0},
    }
    goal = goals.Goal("", "train-cpu", "16", "times faster", ("st bfloat16",), 1.5, 2.0)
    (found,) = goals.reached(goal, {"train-cpu": result})
    assert (found.value, found.least, found.most, found.mark) == (1.5, 1.4, 1.6, "floor")


def test_the_best_of_a_group_of_ours_counts_and_is_named(scripts: dict[str, ModuleType]) -> None:
    goals, result = scripts["goals"], a_result()
    table = result["batch_sizes"]["16"]
    for name, median, lost in (("onnxruntime", 1.2, 0.0), ("openvino", 1.1, 0.0), ("onnxruntime int8", 3.0, 0.0011)):
        contender = f"sbert_ft {name} b32"
        table["contenders"][contender] = {"spearman_lost": lost}
        table["times_faster"][contender] = {"st float32": {"median": median, "least": 1.0, "most": 4.0}}
    group = ("sbert_ft auto compiled", "sbert_ft onnxruntime", "sbert_ft openvino")

    def reached(kind: str, peer: tuple[str, ...], floor: float, aim: float, ours: tuple[Any, ...]) -> list[Any]:
        goal = goals.Goal("", "train-cpu", "16", kind, peer, floor, aim, ours)
        return [(one.how, one.value, one.mark) for one in goals.reached(goal, {"train-cpu": result})]

    assert reached("times faster", ("st float32",), 1.0, 1.3, (group,)) == [("by onnxruntime", 1.2, "floor")]
    int8 = (("sbert_ft onnxruntime int8",),)
    assert reached("Spearman lost", (), 0.002, 0.0005, int8) == [("by onnxruntime int8", 0.0011, "floor")]
    assert reached("mean cosine", (), 0.99, 0.997, int8) == []


def test_a_contender_loads_the_export_of_its_engine_and_precision(scripts: dict[str, ModuleType]) -> None:
    contenders = scripts["contenders"]
    exported = {
        "sbert_ft auto compiled b32": None,
        "sbert_ft onnxruntime b32": "sbert_ft-onnxruntime-float32",
        "sbert_ft openvino int8 b32": "sbert_ft-openvino-int8",
        "st float32 b32": None,
        "st onnx b32": "st-onnx",
        "onnxruntime float32 b8": "onnxruntime",
        "onnxruntime int8 b32": "onnxruntime-int8",
        "openvino bfloat16 b32": "openvino",
    }
    assert {name: contenders.export_of(name) for name in exported} == exported
    of_peers = [name for name in exported if contenders.is_of_peers(name)]
    assert of_peers == [*list(exported)[4:]]


def test_cosines_to_float32_and_spearman_lost_by_hand(scripts: dict[str, ModuleType]) -> None:
    # three pairs with cosines 1, 0.6 and 0 in float32; the other side turns one vector by 90 degrees
    first, second = [[1.0, 0.0]] * 3, [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]
    reference = np.array(first + second, dtype=np.float32)
    sts = scripts["contenders"].Sts([("a", "x", 5.0), ("b", "y", 3.0), ("c", "z", 0.0)], reference)
    turned = reference.copy()
    turned[3] = (0.0, 1.0)  # cosines 0, 0.6, 0: ranks 1.5, 3, 1.5 against 3, 2, 1
    found = sts.quality(turned)
    assert found == pytest.approx(
        {"stsb_test_spearman": 0.0, "spearman_lost": 1.0, "mean_cosine": 5 / 6, "lowest_cosine": 0.0}, abs=1e-6
    )


def test_only_xgetbv_is_replaced_and_not_its_bytes_in_other_instructions(scripts: dict[str, ModuleType]) -> None:
    isa, xgetbv = scripts["isa"], b"\x0f\x01\xd0"
    after_zero, joined = b"\x31\xc9" + xgetbv + b"\xc1\xe8\x13", xgetbv + b"\x89\xc0\x48\xc1\xe2\x20"
    add = b"\x83\xe0" + xgetbv + b"\x41\xf6\x04\x34"  # and eax, 15; add eax, edx
    code, n_replaced = isa.limited(b"\x90" + after_zero + add + joined)
    assert n_replaced == 2
    assert code == (
        b"\x90\x31\xc9" + isa.PUSH_7_POP_RAX + b"\xc1\xe8\x13" + add + isa.MOV_AL_7_NOP + b"\x89\xc0\x48\xc1\xe2\x20"
    )


def test_a_contenders_table_has_ratio_memory_and_share(scripts: dict[str, ModuleType]) -> None:
    lines = scripts["tables"].contender_table(a_result()["batch_sizes"]["16"], "pairs").splitlines()
    assert lines[0] == (
        "| | pairs/s | of the matrix rate | peak memory, MiB | sbert_ft auto is faster by "
        "| sbert_ft auto takes of its memory |"
    ).replace("| |", "|  |", 1)
    assert lines[3] == "| st float32 | 25.0 (90.0-110.0) | 50% (bfloat16) | 1,000 | 4.0 (3.5-4.5) | 0.70 |"


def test_operations_of_two_texts_by_hand(scripts: dict[str, ModuleType]) -> None:
    config = {"hidden_size": 2, "intermediate_size": 3, "num_hidden_layers": 5}
    # a layer has 4 * 2 * 2 + 2 * 2 * 3 = 28 weights, and 4 * L * 2 operations of attention for each of L tokens
    by_hand = 5 * (2 * 28 * (1 + 4) + 4 * 2 * (1 * 1 + 4 * 4))
    assert scripts["models"].forward_operations(np.array([1, 4]), config) == by_hand
    assert scripts["rate"].share(4e9, 2.0, "float32", {"float32": 8.0}) == {"gflop_per_second": 2.0, "share": 0.25}
    assert scripts["rate"].share(4e9, 2.0, "unknown", {"float32": 8.0}) == {"gflop_per_second": 2.0}


def test_a_plot_names_each_contender_and_can_stand_alone(scripts: dict[str, ModuleType]) -> None:
    plots = scripts["plots"]
    bars = plots.bars_of(a_result()["batch_sizes"]["16"])
    assert [bar.name for bar in bars] == ["sbert_ft auto", "st float32"]
    drawn = plots.bar_chart("a", "Title", "pairs/s", bars)
    assert drawn.startswith('<svg xmlns="http://www.w3.org/2000/svg" ')
    assert drawn.count('class="ours"') == 1 and drawn.count('class="theirs"') == 1
    assert "sbert_ft auto 100 (90-110), st float32 25 (90-110)" in drawn


def test_every_result_says_on_what_it_was_measured() -> None:
    for path in sorted((BENCHMARKS / "results").glob("*.json")):
        machine = json.loads(path.read_text(encoding="utf-8"))["machine"]
        assert {"date", "packages", "processor", "threads", "command"} <= set(machine), path.name
        assert "/tmp/" not in machine["command"], path.name
