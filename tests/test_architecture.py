"""The shape of the package, read from its source: who imports whom, and what an import costs."""

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

# The packages in the order of docs/architecture.md: each imports those before it, never one beside or after it.
ORDER: tuple[tuple[str, ...], ...] = (
    ("errors", "_version"),
    ("arguments", "markdown_text"),
    ("files",),
    ("config",),
    ("data", "tokenization", "vectors"),
    ("encoder",),
    ("model_folder",),
    ("engines",),
    ("models",),
    ("evaluation", "doctor", "bulk", "search"),
    ("report",),
    ("training",),
    ("commands",),
    ("cli", "__main__", ""),
)
RANK = {package: rank for rank, packages in enumerate(ORDER) for package in packages}


def modules() -> dict[str, Path]:
    """Return each module's name below sbert_ft (`model.packing`; a package by its folder, the root as ``)."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


def package_of(module: str) -> str:
    """Return the package or module directly below sbert_ft that a module is in."""
    return module.partition(".")[0]


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


def test_every_package_has_a_place_in_the_order() -> None:
    assert {package_of(module) for module in MODULES} == set(RANK)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_one_way(module: str) -> None:
    own = package_of(module)
    faults = [
        f"line {line}: sbert_ft.{target}"
        for line, target in imported_by(module)
        if package_of(target) != own and RANK[package_of(target)] >= RANK[own] and own not in ("cli", "__main__", "")
    ]
    assert not faults, f"{MODULES[module].relative_to(ROOT)} imports what is not before {own}: " + "; ".join(faults)


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_packages_import_nothing_heavy_until_a_name_is_used(package: str) -> None:
    """A package is imported before each of its modules, so what it imports at once every module of it imports too."""
    tree = ast.parse(MODULES[package].read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {name for node in at_once for _, name in imports(node, package)} <= {"errors", "_version"}


def test_no_imports_in_a_circle() -> None:
    modules = sorted(set(MODULES) - PACKAGES)
    graph = {module: {target for _, target in imported_by(module) if target not in PACKAGES} for module in modules}
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
    found = [name for _, name in imports(ast.parse(source), "encoder.packing")]
    assert sorted(found) == ["", "cli", "config", "doctor.folder", "encoder", "errors", "errors", "models.siamese"]


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
