"""The shape of the package, read from its source: who imports whom, what an import costs, how long a file is."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sbert_ft

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sbert_ft"
HEAVY = ("torch", "transformers", "numpy", "pandas", "sentence_transformers")

# The rooms from the ground up, as in docs/architecture.md. A room imports lower floors and, on its own floor, the
# rooms before it. `commands.*` is one room of many modules.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "arguments", "markdown_text"),
    (
        *("config.limits", "config.settings", "config.faults", "config.keys", "config.json_text", "config.names"),
        *("config.rules", "config.reading", "config.schema", "config.start"),
        *("evaluation.resampling", "evaluation.metrics", "evaluation.class_metrics"),
    ),
    (
        *("model.json_files", "model.json_objects", "model.devices", "model.packing", "model.planning"),
        *("model.dropout", "model.attention"),
        *("model.weight_names", "model.pickled_weights", "model.safetensors_weights", "model.weights", "model.folder"),
        *("model.decision", "model.own_settings"),
        *(
            "model.tokenizer_limits",
            "model.vocabulary",
            "model.rust_calls",
            "model.tokenizer_files",
            "model.special_tokens",
            "model.pair_tokens",
            "model.tokenizer",
        ),
        *("model.staging", "model.folder_writer"),
        *("model.encoders", "model.checked_tokenizer", "model.optimizer_steps", "model.forks"),
        "model.half_copy",
        *("model.compiled_cache", "model.compiled_attention", "model.compiled_graph", "model.compiled"),
    ),
    ("model.connection_bert",),
    (
        "model.compiling",
        *("model.similarity", "model.embed", "model.pair_embed", "model.encode_arguments"),
        *("model.sentence_transformer", "model.siamese", "model.stock_heads", "model.head", "model.classes"),
        *("model.classifier_folder", "model.classifier_writer", "model.encoder_with_head"),
        *("model.classify", "model.classifier"),
    ),
    (
        *("data.text_files", "data.ledger", "data.formats", "data.detection", "data.column_names", "data.tables"),
        *("data.writing", "data.labels", "data.class_labels", "data.label_column", "data.columns"),
        *("data.text_store", "data.repeats"),
        *("data.pair_sources", "data.pair_rows", "data.splitting", "data.batch_order"),
        *("data.token_cache", "data.token_store", "data.connection_dataset"),
    ),
    (
        *("training.durable_files", "training.checkpoints", "training.run_lock", "training.run_folder"),
        *("training.run_log", "training.comparison", "training.objective_table", "training.objectives"),
        *("training.embedding_rows", "training.encoder_setup", "training.gradients", "training.optimizer"),
        "training.plan",
        *("training.progress", "training.pace", "training.interruption", "training.tensorboard"),
        *("training.folder_watch", "training.ended_early", "training.model_kept"),
        *("training.warning_list", "training.loop"),
        *("evaluation.decision", "evaluation.report_content", "evaluation.judge", "evaluation.temperature"),
        "evaluation.class_judge",
        *("evaluation.report_words", "evaluation.chart_frame", "evaluation.charts", "evaluation.score_charts"),
        "evaluation.class_charts",
        *("evaluation.report_facts", "evaluation.report_training", "evaluation.report_decision"),
        "evaluation.report_figures",
        *("evaluation.report_classes", "evaluation.report_worst", "evaluation.class_figures"),
        *("evaluation.report_style", "evaluation.report_markup", "evaluation.report_html"),
        *("evaluation.report_markdown", "evaluation.report"),
        *(
            "training.exam",
            "training.pair_exam",
            "training.class_exam",
            "training.preparation",
            "training.beginning",
            "training.outcome",
            "training.run",
        ),
        *("training.starting_model", "training.fine_tune", "training.bert_classifier"),
    ),
    ("doctor_checks", "doctor_tokens", "doctor_classifier", "doctor", "search"),
    ("commands.*", "cli", "__main__"),
)
RANK = {room: rank for rank, room in enumerate(room for floor in FLOORS for room in floor)}


def modules() -> dict[str, Path]:
    """Return each module's name below sbert_ft (`model.packing`; a package by its folder, the root as ``)."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}
ROOMS = sorted(set(MODULES) - PACKAGES)


def rank_of(module: str) -> int | None:
    """Return where a module stands, a package above its highest room, or None where the table does not have it."""
    if module in PACKAGES:
        inside = [rank for room, rank in RANK.items() if not module or room.startswith(f"{module}.")]
        return max(inside, default=None)
    if module.startswith("commands."):
        return RANK["commands.*"]
    return RANK.get(module)


def absolute(node: ast.ImportFrom, module: str) -> str:
    """Return the full name of what `from ... import` reads from, with leading dots resolved."""
    if node.level == 0:
        return node.module or ""
    parts = ["sbert_ft", *(module.split(".") if module else [])]
    base = parts[: len(parts) - node.level + (module in PACKAGES)]
    return ".".join([*base, *([node.module] if node.module else [])])


def imports(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Yield line and name below sbert_ft of each of our modules that `tree` imports, wherever the import stands.

    `from sbert_ft.model import packing` is an import of `model.packing`, `import_module("sbert_ft.cli")` of `cli`, and
    `from sbert_ft import SiameseBert` of the module behind that name.
    """
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = absolute(node, module)
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                behind = sbert_ft._MODULE_OF_NAME.get(alias.name, source) if source == "sbert_ft" else source
                names.append(inner if inner.removeprefix("sbert_ft.") in MODULES else behind)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
            names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        for name in names:
            if name == "sbert_ft" or name.startswith("sbert_ft."):
                yield node.lineno, name.removeprefix("sbert_ft").removeprefix(".")


def imported_by(module: str) -> list[tuple[int, str]]:
    """Return line and name of each of our modules that a module's source imports."""
    return list(imports(ast.parse(MODULES[module].read_text(encoding="utf-8")), module))


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a new interpreter at the root of the project and return what it said."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)


@pytest.mark.parametrize("module", ROOMS)
def test_every_module_has_a_place_in_the_table(module: str) -> None:
    assert rank_of(module) is not None, (
        f"sbert_ft.{module} stands on no floor: add it to the table in docs/architecture.md "
        "and to FLOORS in tests/test_architecture.py."
    )


@pytest.mark.parametrize("module", ROOMS)
def test_imports_go_down_only(module: str) -> None:
    rank = rank_of(module)
    if rank is None:
        pytest.skip("no floor yet, see test_every_module_has_a_place_in_the_table")
    faults = []
    for line, target in imported_by(module):
        target_rank = rank_of(target)
        if not target or (target_rank is None and target in MODULES):
            continue  # the root itself, for its version; or one that the test above reports
        siblings = module.startswith("commands.") and target.startswith("commands.")
        if target_rank is None or (target_rank >= rank and not siblings):
            faults.append(f"line {line}: sbert_ft.{target} is not below sbert_ft.{module}")
    assert not faults, f"{MODULES[module].relative_to(ROOT)}: " + "; ".join(faults)


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_packages_import_nothing_but_errors_until_a_name_is_used(package: str) -> None:
    """A package is imported before each of its rooms, so what it imports at once every room of it imports too."""
    tree = ast.parse(MODULES[package].read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {name for node in at_once for _, name in imports(node, package)} <= {"errors"}
    rank = rank_of(package)
    for line, target in imported_by(package):
        target_rank = rank_of(target)
        assert rank is not None and target_rank is not None and target_rank <= rank, f"line {line}: sbert_ft.{target}"


def test_no_imports_in_a_circle() -> None:
    graph = {room: {target for _, target in imported_by(room) if target not in PACKAGES} for room in ROOMS}
    TopologicalSorter(graph).prepare()  # raises CycleError and names the circle


def test_the_reader_of_imports_sees_every_kind() -> None:
    source = """
from __future__ import annotations
import torch, sbert_ft.config
from sbert_ft import SiameseBert, __version__, errors
from ..errors import DataError
if TYPE_CHECKING:
    from sbert_ft.cli import main
def later():
    from . import somewhere
    importlib.import_module("sbert_ft.doctor.folder")
"""
    found = [name for _, name in imports(ast.parse(source), "model.packing")]
    assert sorted(found) == ["", "cli", "config", "doctor", "errors", "errors", "model", "model.siamese"]


def test_every_folder_is_a_package() -> None:
    folders = {path.parent for path in MODULES.values()}
    assert [f"{folder.relative_to(ROOT)}/" for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_opens_with_a_docstring(module: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8")))


@pytest.mark.parametrize("module", [m for m in sorted(MODULES) if m.split(".")[0] not in {"cli", "commands"}])
def test_only_the_command_line_prints(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [call.lineno for call in calls if ast.unparse(call.func) == "print"] == []


def test_the_package_is_light_to_import() -> None:
    code = f"import sys, sbert_ft; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = python("-c", code)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_encoding_brings_no_library_that_it_does_not_need(
    tmp_path: Path, tiny_bert_folder: Callable[..., Path]
) -> None:
    """Scipy is not among them: transformers imports it for losses of its own."""
    unneeded = ("sentence_transformers", "sklearn", "pandas", "pyarrow", "matplotlib", "datasets", "tensorboard")
    code = f"""
import sys
from sbert_ft import SiameseBert
SiameseBert.from_pretrained({str(tiny_bert_folder(tmp_path / "model"))!r}).encode(["a man"])
print("transformers" in sys.modules, [name for name in {unneeded!r} if name in sys.modules])
"""
    result = python("-c", code)
    assert (result.returncode, result.stdout.strip()) == (0, "True []"), result.stderr


def test_importing_the_package_changes_nothing_around_it() -> None:
    code = """
import json, logging, os, warnings
def around():
    loggers = [logging.root, *map(logging.getLogger, ("sbert_ft", "transformers", "torch"))]
    return [dict(os.environ), list(map(str, warnings.filters)), [(str(log.handlers), log.level) for log in loggers]]
before = around()
import sbert_ft
print(json.dumps([before, around()]))
"""
    result = python("-c", code)
    assert result.returncode == 0, result.stderr
    before, after = json.loads(result.stdout)
    assert after == before


def test_help_of_the_command_line_is_light() -> None:
    result = python("-X", "importtime", "-m", "sbert_ft", "--help")
    timed = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in timed}
    assert result.returncode == 0, result.stderr[-2000:]
    assert "usage" in result.stdout.lower()
    assert "sbert_ft.cli" in imported
    assert imported.isdisjoint(HEAVY)


def test_public_names_are_listed_where_people_and_type_checkers_look() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    for_checkers = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert for_checkers == sbert_ft._MODULE_OF_NAME
    assert set(sbert_ft.__all__) == {*for_checkers, "SbertFtError", "__version__"}
    assert set(sbert_ft.__all__) <= set(dir(sbert_ft))


@pytest.mark.parametrize("name", sbert_ft.__all__)
def test_public_names_can_be_had(name: str) -> None:
    assert getattr(sbert_ft, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'SiameseBart'"):
        _ = sbert_ft.SiameseBart
